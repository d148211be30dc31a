"""Proxies that give the gain of each rank of a site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from heterolora.allocation import Candidates
from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.base import Proxy
from heterolora.sites import Site

if TYPE_CHECKING:
    from heterolora.adapters import Ranked

Gains = Mapping[Site, list[float]]
"""For each site, the gains of its first, second, ... rank, in non-increasing order."""


@dataclass(frozen=True)
class Spectral(Proxy):
    """A proxy with a gain for each rank of a site; its score sums those that the site can hold."""

    has_gains: ClassVar[bool] = True

    @abstractmethod
    def gains(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> Gains:
        """Return the gain of every rank of every site, in non-increasing order.

        The arguments are those of `scores`.

        Raises:
            UserError: if the model or the device does not support it.
        """

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Return the sum of the gains up to each site's capacity."""
        return totals(self.gains(adapters, batches, loss, autocast), adapters.capacities)


def candidates(
    proxy: Proxy,
    adapters: Ranked[Any],
    batches: Iterable[Batch],
    loss: Loss = default_loss,
    autocast: Autocast = nullcontext,
) -> Candidates:
    """Score the sites with `proxy`, and include the gains of their ranks if it has them.

    Raises:
        UserError: if `scores` raises it, or a score is not finite.
    """
    gains = None
    if isinstance(proxy, Spectral):
        gains = proxy.gains(adapters, batches, loss, autocast)
        scores = totals(gains, adapters.capacities)
    else:
        scores = proxy.scores(adapters, batches, loss, autocast)
    return Candidates(scores, adapters.unit_costs, adapters.capacities, gains)


def totals(gains: Gains, capacities: Mapping[Site, int]) -> dict[Site, float]:
    """Return the sum of the gains of all ranks that each site can hold."""
    return {site: sum(values[: capacities[site]]) for site, values in gains.items()}
