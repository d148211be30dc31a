"""The base class of proxies, and what all proxies that read gradients share.

A proxy never touches the model's own tensors; see `passes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from heterolora.errors import Problem
from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies import needs
from heterolora.proxies.passes import (
    AB,
    evaluation_mode,
    first,
    leaves_of,
    overrides,
    paired,
    summed_gradients,
)
from heterolora.proxies.running import Observer, Running
from heterolora.seeding import torch_generator
from heterolora.settings import Settings, Situation, setting, torch
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from heterolora.adapters import Ranked

Weights = Literal["current", "probe"]


class Examples(Protocol):
    """A dataset that can be read in order."""

    def in_order(self, size: int, count: int | None = None) -> Iterator[Batch]:
        """Yield the first `count` examples, `size` at a time; all of them if `count` is None."""


@dataclass(frozen=True)
class Proxy(Settings, ABC):
    """A zero-cost proxy: scores every site with all sites on and dropout off, and leaves no trace.

    Attributes:
        has_gains: whether the proxy gives a gain for each rank of a site.
    """

    has_gains: ClassVar[bool] = False

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield a problem if labels, or training steps to observe, are needed and missing."""
        if self.needs_labels:
            yield from needs.labels(self.name, situation)
        if self.observes:
            yield from needs.training_steps(*self.observing(), situation)

    @property
    def needs_labels(self) -> bool:
        """Whether the scores depend on the examples' labels."""
        return True

    def sample(self, examples: Examples) -> Iterable[Batch]:
        """Return the batches to score on, from a training split."""
        return ()

    def weights_scored(self, adapters: Ranked[Any]) -> Weights:
        """Return which B the next scores use: the current values, or those of the probe."""
        return "current"

    @property
    def observes(self) -> bool:
        """Whether training steps are to be observed."""
        return self.observer() is not None

    def observer(self) -> Observer | None:
        """Return what observes the training steps of one run; None if the sample is all it takes.

        As long as no step has been observed, the sample is scored by `scores`.
        """
        return None

    def observing(self) -> tuple[str, str, str]:
        """Return the setting by which training steps are observed, its value, and the remedy."""
        return "proxy", self.name, "choose another, such as `proxy=snip`"

    @abstractmethod
    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Score every site; the higher the score, the sooner the site is switched on.

        Args:
            adapters: the adapters of the wired model.
            batches: batches of the training split; no more are read than the proxy's sample has.
            loss: maps the model's output and a batch to the sum of the losses and their count.
            autocast: makes the context that sets the precision of the forward pass.

        Raises:
            UserError: if the model or the device does not support it.
        """


@dataclass(frozen=True)
class SaliencyProxy(Proxy):
    """A proxy computed at every site from A, B and the gradients of a scalar with respect to them.

    With `weights="current"` it scores the adapters as they are (the paper). Scores made of
    theta x grad are then 0 everywhere before training, because B is 0. With `weights="probe"`, B is
    drawn like A instead, from a fixed random stream of the adapters' seed; once any B has been
    trained, the adapters are scored as they are.
    """

    weights: Weights = setting(
        "current",
        help="use the values of B (current), or draw B like A while all B are zero (probe)",
    )
    num_batches: int = setting(32, help="number of batches in the sample", gt=0)
    batch_size: int = setting(8, help="examples per batch of the sample", gt=0)

    @abstractmethod
    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return the score of one matrix, from its values and its gradient, which has its shape."""

    @abstractmethod
    def gradients(
        self,
        adapters: Ranked[Any],
        theta: AB,
        batches: Iterable[Batch],
        loss: Loss,
        autocast: Autocast,
    ) -> AB:
        """Return the gradients of the scalar with respect to the matrices of `theta`."""

    @property
    def examples(self) -> int:
        """The number of examples in the sample, which are the first of the split."""
        return self.num_batches * self.batch_size

    def weights_scored(self, adapters: Ranked[Any]) -> Weights:
        """Return `probe` if `weights` is that and every B is zero, and `current` otherwise."""
        untrained = not any(bool(adapter.matrices[1].any()) for adapter in adapters.values())
        return "probe" if self.weights == "probe" and untrained else "current"

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Return the sum of the saliencies of A and B at every site."""
        return self.saliencies(*self.measured(adapters, batches, loss, autocast))

    def measured(
        self, adapters: Ranked[Any], batches: Iterable[Batch], loss: Loss, autocast: Autocast
    ) -> tuple[AB, AB]:
        """Return the A and B that are scored, and the gradients with respect to them."""
        theta = self._theta(adapters)
        with evaluation_mode(adapters.model), torch.enable_grad():
            return theta, self.gradients(adapters, theta, batches, loss, autocast)

    def saliencies(self, theta: AB, gradient: AB) -> dict[Site, float]:
        """Return the sum of the saliencies of A and B at every site."""
        with torch.no_grad():
            scores = [
                self.saliency(theta[site][0], gradient[site][0])
                + self.saliency(theta[site][1], gradient[site][1])
                for site in theta
            ]
            sums = torch.stack([score.to(scores[0].device) for score in scores])
        return dict(zip(theta, sums.tolist(), strict=True))

    def _theta(self, adapters: Ranked[Any]) -> AB:
        """Return the A and B at which to score, detached from the model."""
        from heterolora.adapters.low_rank import kaiming_uniform

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
    """A proxy that scores the first `num_batches * batch_size` examples of the training split.

    If it reads a gradient, that is the gradient of the scalar `sum_batches mean_batch loss` over
    the batches in dataset order: of every example's loss over `batch_size`, so that it does not
    depend on the micro-batches in which it is accumulated.
    """

    num_batches: int = setting(32, help="number of batches in the sample", gt=0)
    batch_size: int = setting(8, help="examples per batch of the sample", gt=0)
    micro_batch_size: int = setting(
        32, help="examples per forward pass; does not affect the scores", gt=0
    )

    @property
    def examples(self) -> int:
        """The number of examples in the sample, which are the first of the split."""
        return self.num_batches * self.batch_size

    def sample(self, examples: Examples) -> Iterable[Batch]:
        """Return the first `num_batches * batch_size` examples."""
        return examples.in_order(self.micro_batch_size, self.examples)

    def micro_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the examples of the sample in micro-batches, however they were batched."""
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
        """Return the gradients of the summed mean losses with respect to `leaves`.

        See `summed_gradients`.
        """
        sampled = self.micro_batches(batches)
        return summed_gradients(adapters, leaves, tensors, sampled, self.batch_size, loss, autocast)


@dataclass(frozen=True)
class LossProxy(SampleProxy, SaliencyProxy):
    """A saliency computed from the training loss on the sample."""

    def gradients(
        self,
        adapters: Ranked[Any],
        theta: AB,
        batches: Iterable[Batch],
        loss: Loss,
        autocast: Autocast,
    ) -> AB:
        """Return the gradients of the summed mean losses with respect to A and B of every site."""
        leaves, tensors = leaves_of(theta), overrides(adapters, theta)
        return paired(
            theta, self.loss_gradients(adapters, leaves, tensors, batches, loss, autocast)
        )


@dataclass(frozen=True)
class DataProxy(LossProxy):
    """A saliency computed from the training loss, on a sample or on the training steps themselves.

    With `source="running"`, the gradients are those of the training steps since the last scores, of
    every `observe_every`-th step (see `Running`), and are scored with the current weights. As long
    as a run has observed no step, the sample is scored instead.
    """

    source: Literal["probe", "running"] = setting(
        "probe",
        help="score a sample (probe, the paper), or the training batches since the last search "
        "(running)",
    )
    observe_every: int = setting(
        16, help="with source=running, observe every n-th training step", gt=0
    )

    def observer(self) -> Running | None:
        """Return what sums the gradients of every `observe_every`-th step."""
        return Running(self.saliencies, self.observe_every) if self.source == "running" else None

    def observing(self) -> tuple[str, str, str]:
        """Return the setting `source`, its value, and the value with which no step is observed."""
        return "source", self.source, "set `source=probe`"


def scores_of(
    proxies: Mapping[str, Proxy],
    adapters: Ranked[Any],
    examples: Examples,
    loss: Loss = default_loss,
    autocast: Autocast = nullcontext,
) -> dict[str, dict[Site, float]]:
    """Return the scores of each proxy for every site, by its name in `proxies`.

    Gradients of the same weights on the same sample are computed once, for all proxies that read
    them.

    Raises:
        UserError: if the model or the device does not support a proxy.
    """
    passes: dict[tuple[object, ...], tuple[AB, AB]] = {}
    scores = {}
    for name, proxy in proxies.items():
        if not _shares(proxy):
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
    """Return whether a proxy differs from others of its kind in nothing but its saliency."""
    parts = (
        *("scores", "measured", "saliencies", "sample", "weights_scored", "_theta"),
        *("gradients", "loss_gradients", "micro_batches"),
    )
    kind = type(proxy)
    return issubclass(kind, DataProxy) and all(
        getattr(kind, part) is getattr(DataProxy, part) for part in parts
    )
