"""What a proxy sees, and what all that read gradients share.

A proxy never touches the model's own tensors. It evaluates the model as a function of parameters
that it passes in (`torch.func.functional_call`), so that weights, gates, gradients and random
generators are as before by construction; only the training flags are set and put back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from heterolora.adapters import Inventory
from heterolora.adapters.low_rank import kaiming_uniform
from heterolora.config import PositiveInt, ProxyConfig
from heterolora.data.batching import Batch, Encoded
from heterolora.data.tasks import Loss
from heterolora.seeding import torch_generator
from heterolora.sites import Site

AB = dict[Site, tuple[Tensor, Tensor]]
"""For each site its A (r, d_in) and its B (d_out, r), or the gradients by them."""


@dataclass(frozen=True)
class Subject:
    """What is scored: a wired model, training examples and a loss.

    Attributes:
        inventory: the model and its sites.
        examples: the training split, whose first examples are the sample.
        loss: the sum of the losses of a batch.
        seed: the run's seed, for the stream of the probe.
        autocast: the precision in which the model runs.
    """

    inventory: Inventory
    examples: Encoded
    loss: Loss
    seed: int
    autocast: Callable[[], AbstractContextManager[object]]

    def logits(self, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """The model's logits with `tensors` in place of its own of these names."""
        output = functional_call(self.inventory.model, dict(tensors), kwargs=dict(inputs))
        logits: Tensor = output.logits
        return logits

    def names(self) -> dict[Site, tuple[str, str, str]]:
        """The full names of A, B and gate of each site in the model."""
        of = {id(module): name for name, module in self.inventory.model.named_modules()}
        prefixes = {site: of[id(adapter)] for site, adapter in self.inventory.adapters.items()}
        return {site: (f"{p}.A", f"{p}.B", f"{p}.gate") for site, p in prefixes.items()}


class Proxy(ProxyConfig, ABC):
    """A zero-cost proxy: `{Site: score}`, all sites on, dropout off, leaving no trace."""

    @abstractmethod
    def scores(self, subject: Subject) -> dict[Site, float]:
        """Score every site of `subject`; the higher, the sooner it is switched on."""


class SaliencyProxy(Proxy):
    """A proxy computed at every site from A, B and the gradients of a scalar by them.

    Attributes:
        weights: `current` scores the adapters as they stand (the paper). `probe` scores them with
            B drawn like A from a fixed stream, because B = 0 makes theta x grad vanish.
    """

    weights: Literal["current", "probe"] = Field(examples=["probe"])

    @abstractmethod
    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The score of one matrix, from its values and its gradient, both of the same shape."""

    @abstractmethod
    def gradients(self, subject: Subject, theta: AB) -> AB:
        """The gradients by `theta`, leaf tensors that require them."""

    def scores(self, subject: Subject) -> dict[Site, float]:
        """The sum of the saliencies of A and B, at every site."""
        theta = self._theta(subject)
        with evaluation_mode(subject.inventory.model), torch.enable_grad():
            gradient = self.gradients(subject, theta)
        with torch.no_grad():
            sums = torch.stack(
                [
                    self.saliency(theta[site][0], gradient[site][0])
                    + self.saliency(theta[site][1], gradient[site][1])
                    for site in theta
                ]
            )
        return dict(zip(theta, sums.tolist(), strict=True))

    def _theta(self, subject: Subject) -> AB:
        """A and B at which to score, detached from the model."""
        theta: AB = {}
        for site, adapter in subject.inventory.adapters.items():
            a, b = adapter.A.detach().clone(), adapter.B.detach().clone()
            if self.weights == "probe":
                generator = torch_generator(subject.seed, "probe", site)
                shape = (b.shape[0], b.shape[1])
                b.copy_(kaiming_uniform(shape, generator))
            theta[site] = (a, b)
        return theta


class DataProxy(SaliencyProxy):
    """A saliency under the training loss, on the first examples of the training split.

    The scalar is `sum_batches mean_batch loss` over `num_batches` batches of `batch_size`, in
    dataset order; that is every example's loss over `batch_size`, so that its gradient does not
    depend on the micro-batches in which it is summed.
    """

    num_batches: PositiveInt = Field(examples=[32])
    batch_size: PositiveInt = Field(examples=[8])
    micro_batch_size: PositiveInt = Field(examples=[32])

    def gradients(self, subject: Subject, theta: AB) -> AB:
        """The gradient of the summed mean losses by A and B of every site."""
        leaves = [matrix.requires_grad_() for pair in theta.values() for matrix in pair]
        totals = [torch.zeros_like(leaf) for leaf in leaves]
        tensors = overrides(subject, theta)
        for batch in self._sample(subject):
            labels = batch.pop("labels")
            with subject.autocast():
                logits = subject.logits(tensors, batch)
            loss = subject.loss(logits, labels) / self.batch_size
            for total, part in zip(totals, torch.autograd.grad(loss, leaves), strict=True):
                total += part
        pairs = zip(totals[::2], totals[1::2], strict=True)
        return dict(zip(theta, pairs, strict=True))

    def _sample(self, subject: Subject) -> Iterator[Batch]:
        count = self.num_batches * self.batch_size
        return subject.examples.in_order(self.micro_batch_size, count)


def overrides(subject: Subject, theta: AB) -> dict[str, Tensor]:
    """By name in the model: the matrices of `theta`, and every gate open."""
    tensors: dict[str, Tensor] = {}
    for site, (a_name, b_name, gate_name) in subject.names().items():
        a, b = theta[site]
        tensors |= {a_name: a, b_name: b, gate_name: torch.ones((), dtype=a.dtype, device=a.device)}
    return tensors


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every module is in training mode or not, as it was."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
