"""SENSITIVITY: AdaLoRA's importance, from the training steps (https://arxiv.org/abs/2303.10512)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.base import LossProxy, Weights
from heterolora.proxies.running import Running, own, parsed, plain
from heterolora.settings import setting
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from heterolora.adapters import Adapters, LowRank, Ranked
    from heterolora.adapters.passing import Matrices


@dataclass(frozen=True)
class Sensitivity(LossProxy):
    """AdaLoRA's importance: `S(M) = sum over theta in A, B of Ibar U`, smoothed over steps.

    With `I_t = |theta dL_t/dtheta|` of the mean loss of step t, and both averages 0 before the
    first step (AdaLoRA, section 3.2):

        Ibar_t = beta1 Ibar_{t-1} + (1 - beta1) I_t
        U_t    = beta2 U_{t-1} + (1 - beta2) |I_t - Ibar_t|

    AdaLoRA scores each triplet of its decomposition; here the score of a site is the sum over all
    entries of its A and B. Every `observe_every`-th step is observed, with gradients as if all
    ranks of the site were on (see `Running`), and the averages continue through all searches. A
    site that was never on has B = 0 and scores 0 from the steps, so that this proxy works best with
    a strategy that starts with all sites on (`warmup`, `pruning`); under `dynamic` the first choice
    tends to stay.

    Before the first step there is nothing to smooth, and the sample is scored by SNIP,
    `sum |theta dL/dtheta|`, with B drawn as `weights` says.
    """

    weights: Weights = setting(
        "probe",
        help="for a sample: draw B like A while all are zero (probe), or use its values (current)",
    )
    beta1: float = setting(
        0.85, help="decay of the running average of |theta gradient|", ge=0, lt=1
    )
    beta2: float = setting(0.85, help="decay of the running average of its fluctuation", ge=0, lt=1)
    observe_every: int = setting(1, help="observe every n-th training step", gt=0)

    @property
    def observes(self) -> bool:
        """Always true."""
        return True

    @property
    def observed(self) -> int:
        """How many training steps have been observed since the start."""
        return self._smoothed.observed

    def observe(self, adapters: Adapters) -> AbstractContextManager[object]:
        """Return a context that updates the averages at every `observe_every`-th step."""
        return self._smoothed.step(adapters, self.observe_every)

    def weights_scored(self, adapters: Ranked[Any]) -> Weights:
        """Return `current` once steps were observed; before that, decide as for the sample.

        Each step is scored with the weights that it was computed at.
        """
        return "current" if self.observed else super().weights_scored(adapters)

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return `sum |theta gradient|`; also used on Ibar and U, which are never negative."""
        return (theta * gradient).abs().sum()

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Return the sum of Ibar U at every site; before the first step, SNIP of the sample."""
        if not self.observed:
            return super().scores(adapters, batches, loss, autocast)
        return self.saliencies(*self._smoothed.averages(adapters))

    def state_dict(self) -> dict[str, Any]:
        """Return both averages; empty before the first step."""
        return self._smoothed.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._smoothed.load_state_dict(state)

    @cached_property
    def _smoothed(self) -> Smoothed:
        """The averages. Not a field: they are no setting, and equal proxies do not share them."""
        return Smoothed(beta1=self.beta1, beta2=self.beta2)


@dataclass
class Smoothed(Running):
    """Ibar and U for A and B of every site, over the training steps that were observed.

    `sums` holds only the gradients of the current step.

    Attributes:
        beta1: the decay of Ibar.
        beta2: the decay of U.
        importance: Ibar, by site.
        fluctuation: U, by site.
    """

    beta1: float = 0.85
    beta2: float = 0.85
    importance: dict[Site, Matrices] = field(default_factory=dict)
    fluctuation: dict[Site, Matrices] = field(default_factory=dict)

    @contextmanager
    def step(self, adapters: Ranked[LowRank], every: int) -> Iterator[None]:
        """Wrap the passes of a training step, before the weights change."""
        with super().step(adapters, every):
            yield
        for site, gradients in self.sums.items():  # of this step; none if it was not observed
            adapter = adapters[site]
            self.importance[site] = own(self.importance, site, adapter)
            self.fluctuation[site] = own(self.fluctuation, site, adapter)
            weights = (adapter.A.detach(), adapter.B.detach())
            of_matrices = zip(
                *(weights, gradients, self.importance[site], self.fluctuation[site]), strict=True
            )
            for theta, gradient, importance, fluctuation in of_matrices:
                now = (theta * gradient).abs_()
                importance.lerp_(now, 1 - self.beta1)
                fluctuation.lerp_((now - importance).abs_(), 1 - self.beta2)
        self.sums = {}

    def averages(
        self, adapters: Ranked[LowRank]
    ) -> tuple[dict[Site, Matrices], dict[Site, Matrices]]:
        """Return Ibar and U of every site."""
        importance = {site: own(self.importance, site, one) for site, one in adapters.items()}
        fluctuation = {site: own(self.fluctuation, site, one) for site, one in adapters.items()}
        return importance, fluctuation

    def state_dict(self) -> dict[str, Any]:
        """Return the state; empty if no step was made. The tensors are not copies."""
        averages = {"importance": self.importance, "fluctuation": self.fluctuation}
        state = super().state_dict()
        return state and state | {name: plain(kept) for name, kept in averages.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        super().load_state_dict(state)
        self.importance = parsed(state.get("importance", {}))
        self.fluctuation = parsed(state.get("fluctuation", {}))
