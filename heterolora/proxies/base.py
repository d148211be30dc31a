"""What a proxy is, and what all that read gradients share.

A proxy never touches the model's own tensors: see `passes`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from heterolora.adapters import Adapters, Ranked
from heterolora.adapters.low_rank import kaiming_uniform
from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.passes import (
    AB,
    evaluation_mode,
    first,
    leaves_of,
    overrides,
    paired,
    summed_gradients,
)
from heterolora.proxies.running import Running
from heterolora.seeding import torch_generator
from heterolora.settings import Settings, setting
from heterolora.sites import Site

Weights = Literal["current", "probe"]


class Examples(Protocol):
    """A dataset that can be read in order."""

    def in_order(self, size: int, count: int | None = None) -> Iterator[Batch]:
        """The first `count` examples, `size` at a time."""


@dataclass(frozen=True)
class Proxy(Settings, ABC):
    """A zero-cost proxy: a score for each site, all sites on, dropout off, leaving no trace.

    One that has state, from what it observes, has `state_dict` and `load_state_dict` as well.
    """

    @property
    def needs_labels(self) -> bool:
        """Whether the scores depend on the examples' labels."""
        return True

    def sample(self, examples: Examples) -> Iterable[Batch]:
        """The batches to score on, of a training split."""
        return ()

    def weights_scored(self, adapters: Ranked[Any]) -> Weights:
        """Which B the next scores are of: those that stand, or the probe's."""
        return "current"

    @property
    def reads_weights(self) -> bool:
        """Whether frozen weights are read, other than by a pass through the model as it is."""
        return False

    @property
    def observes(self) -> bool:
        """Whether training steps are to be observed."""
        return False

    @property
    def observed(self) -> int:
        """Of how many training steps the next scores are; 0 if they are of the sample."""
        return 0

    def observe(self, adapters: Adapters) -> AbstractContextManager[object]:
        """Entered around the forward and backward pass of a training step, if it `observes`.

        It must not change a number of the training. Gradients stand when it is left.
        """
        return nullcontext()

    @abstractmethod
    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Score every site; the higher, the sooner it is switched on.

        Args:
            adapters: of the wired model.
            batches: of the training split; no more are read than the proxy's sample has.
            loss: from the model's output and a batch to the sum of the losses and their count.
            autocast: the precision in which the model runs.

        Raises:
            UserError: if the model or the device does not allow it.
        """


@dataclass(frozen=True)
class SaliencyProxy(Proxy):
    """A proxy computed at every site from A, B and the gradients of a scalar by them.

    With `weights="current"` it scores the adapters as they stand (the paper). Where theta x grad
    is what counts, that is 0 everywhere before training, because B is 0. With `weights="probe"`
    B is then drawn like A, from a fixed stream of the adapters' seed; once any B has been trained,
    the adapters are scored as they stand.
    """

    weights: Weights = setting(
        "current",
        help="use the values of B (current), or draw B like A while all B are zero (probe)",
    )
    num_batches: int = setting(32, help="number of batches in the sample", gt=0)
    batch_size: int = setting(8, help="examples per batch of the sample", gt=0)

    @abstractmethod
    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The score of one matrix, from its values and its gradient, both of the same shape."""

    @abstractmethod
    def gradients(
        self,
        adapters: Ranked[Any],
        theta: AB,
        batches: Iterable[Batch],
        loss: Loss,
        autocast: Autocast,
    ) -> AB:
        """The gradients by `theta`, leaf tensors that require them."""

    @property
    def examples(self) -> int:
        """How many examples the sample has, those at the front."""
        return self.num_batches * self.batch_size

    def weights_scored(self, adapters: Ranked[Any]) -> Weights:
        """`probe` if that is set and every B is zero."""
        untrained = not any(bool(adapter.matrices[1].any()) for adapter in adapters.values())
        return "probe" if self.weights == "probe" and untrained else "current"

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """The sum of the saliencies of A and B, at every site."""
        return self.saliencies(*self.measured(adapters, batches, loss, autocast))

    def measured(
        self, adapters: Ranked[Any], batches: Iterable[Batch], loss: Loss, autocast: Autocast
    ) -> tuple[AB, AB]:
        """The A and B that are scored, and the gradients by them."""
        theta = self._theta(adapters)
        with evaluation_mode(adapters.model), torch.enable_grad():
            return theta, self.gradients(adapters, theta, batches, loss, autocast)

    def saliencies(self, theta: AB, gradient: AB) -> dict[Site, float]:
        """The sum over A and B, at every site."""
        with torch.no_grad():
            scores = [
                self.saliency(theta[site][0], gradient[site][0])
                + self.saliency(theta[site][1], gradient[site][1])
                for site in theta
            ]
            sums = torch.stack([score.to(scores[0].device) for score in scores])
        return dict(zip(theta, sums.tolist(), strict=True))

    def _theta(self, adapters: Ranked[Any]) -> AB:
        """A and B at which to score, detached from the model."""
        probe = self.weights_scored(adapters) == "probe"
        theta: AB = {}
        for site, adapter in adapters.items():
            a, b = adapter.matrices
            if probe:
                generator = torch_generator(adapters.seed, "probe", site)
                b.copy_(kaiming_uniform((b.shape[0], b.shape[1]), generator))
            theta[site] = (a, b)
        return theta


@dataclass(frozen=True)
class SampleProxy(Proxy):
    """A proxy of the first examples of the training split, `num_batches * batch_size` of them.

    Where it reads a gradient, that is of the scalar `sum_batches mean_batch loss` over the batches
    in dataset order: of every example's loss over `batch_size`, so that it does not depend on the
    batches in which it is summed.
    """

    num_batches: int = setting(32, help="number of batches in the sample", gt=0)
    batch_size: int = setting(8, help="examples per batch of the sample", gt=0)
    micro_batch_size: int = setting(
        32, help="examples per forward pass; does not affect the scores", gt=0
    )

    @property
    def examples(self) -> int:
        """How many examples the sample has, those at the front."""
        return self.num_batches * self.batch_size

    def sample(self, examples: Examples) -> Iterable[Batch]:
        """The first `num_batches * batch_size` examples."""
        return examples.in_order(self.micro_batch_size, self.examples)

    def micro_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The examples of the sample, however they come, as they are passed through the model."""
        return first(batches, self.examples, self.micro_batch_size)

    def loss_gradients(
        self,
        adapters: Ranked[Any],
        leaves: Sequence[Tensor],
        tensors: Mapping[str, Tensor],
        batches: Iterable[Batch],
        loss: Loss,
        autocast: Autocast,
    ) -> list[Tensor]:
        """The gradient of the summed mean losses by each of `leaves`; see `summed_gradients`."""
        sampled = self.micro_batches(batches)
        return summed_gradients(adapters, leaves, tensors, sampled, self.batch_size, loss, autocast)


@dataclass(frozen=True)
class LossProxy(SampleProxy, SaliencyProxy):
    """A saliency under the training loss of the sample."""

    def gradients(
        self,
        adapters: Ranked[Any],
        theta: AB,
        batches: Iterable[Batch],
        loss: Loss,
        autocast: Autocast,
    ) -> AB:
        """The gradient of the summed mean losses by A and B of every site."""
        leaves, tensors = leaves_of(theta), overrides(adapters, theta)
        return paired(
            theta, self.loss_gradients(adapters, leaves, tensors, batches, loss, autocast)
        )


@dataclass(frozen=True)
class DataProxy(LossProxy):
    """A saliency under the training loss, of a sample or of the training itself.

    With `source="running"` the gradients are those of the training steps since the last scores,
    of every `observe_every`-th (see `Running`), and scored with the weights that stand. As long as
    no step was observed, the sample is scored all the same.
    """

    source: Literal["probe", "running"] = setting(
        "probe",
        help="score a sample (probe, the paper), or the training batches since the last search "
        "(running)",
    )
    observe_every: int = setting(
        16, help="with source=running, observe every n-th training step", gt=0
    )

    @property
    def observes(self) -> bool:
        """With `source="running"`."""
        return self.source == "running"

    @property
    def observed(self) -> int:
        """Of how many training steps the next scores are."""
        return self._running.observed

    def observe(self, adapters: Adapters) -> AbstractContextManager[object]:
        """Sum the gradients of every `observe_every`-th step."""
        if not self.observes:
            return nullcontext()
        return self._running.step(adapters, self.observe_every)

    def weights_scored(self, adapters: Ranked[Any]) -> Weights:
        """As of the sample; of training steps, those that stand."""
        return "current" if self.observed else super().weights_scored(adapters)

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """The sum of the saliencies of A and B, at every site; what was observed is then spent."""
        if not self.observed:
            return super().scores(adapters, batches, loss, autocast)
        return self.saliencies(self._theta(adapters), self._running.take(adapters))

    def state_dict(self) -> dict[str, Any]:
        """What was observed; empty if nothing was."""
        return self._running.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._running.load_state_dict(state)

    @cached_property
    def _running(self) -> Running:
        """Not a field: it is no setting, and two equal proxies have one each."""
        return Running()


def scores_of(
    proxies: Mapping[str, Proxy],
    adapters: Ranked[Any],
    examples: Examples,
    loss: Loss = default_loss,
    autocast: Autocast = nullcontext,
) -> dict[str, dict[Site, float]]:
    """What each proxy says of every site, by its name in `proxies`.

    Gradients of the same weights on the same sample are computed once, for all that read them.

    Raises:
        UserError: if the model or the device does not allow it.
    """
    passes: dict[tuple[object, ...], tuple[AB, AB]] = {}
    scores = {}
    for name, proxy in proxies.items():
        if not _shares(proxy) or proxy.observed:
            scores[name] = proxy.scores(adapters, proxy.sample(examples), loss, autocast)
            continue
        assert isinstance(proxy, DataProxy)
        sample = (proxy.num_batches, proxy.batch_size, proxy.micro_batch_size)
        key = (proxy.weights_scored(adapters), *sample)
        if key not in passes:
            passes[key] = proxy.measured(adapters, proxy.sample(examples), loss, autocast)
        scores[name] = proxy.saliencies(*passes[key])
    return scores


def _shares(proxy: Proxy) -> bool:
    """Whether a proxy differs from others of its kind in nothing but its saliency."""
    parts = (
        *("scores", "measured", "saliencies", "sample", "weights_scored", "_theta"),
        *("gradients", "loss_gradients", "micro_batches"),
    )
    kind = type(proxy)
    return issubclass(kind, DataProxy) and all(
        getattr(kind, part) is getattr(DataProxy, part) for part in parts
    )
