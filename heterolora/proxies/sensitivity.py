"""SENSITIVITY: AdaLoRA's importance, from the training steps (https://arxiv.org/abs/2303.10512)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heterolora.proxies.base import LossProxy, Weights
from heterolora.proxies.running import Running, own, parsed, plain
from heterolora.settings import setting
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from heterolora.adapters import LowRank, Ranked
    from heterolora.adapters.gradient_tap import Matrices


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

    def observer(self) -> Smoothed:
        """Return what updates the averages at every `observe_every`-th step."""
        return Smoothed(self.saliencies, self.observe_every, beta1=self.beta1, beta2=self.beta2)

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return `sum |theta gradient|`; also used on Ibar and U, which are never negative."""
        return (theta * gradient).abs().sum()


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
    def observe(self, adapters: Ranked[LowRank]) -> Iterator[None]:
        """Wrap the passes of a training step, before the weights change."""
        with super().observe(adapters):
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

    def scores(self, adapters: Ranked[LowRank]) -> dict[Site, float]:
        """Return the sum of Ibar U at every site; the averages continue."""
        return self.saliencies(*self.averages(adapters))

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
