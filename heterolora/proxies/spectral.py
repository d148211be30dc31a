"""Proxies that tell what each rank of a site would gain."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from heterolora.adapters import Ranked
from heterolora.allocation import Candidates
from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.base import Proxy
from heterolora.sites import Site

Gains = Mapping[Site, list[float]]
"""For each site what its first, its second, ... rank gains, never rising."""


@dataclass(frozen=True)
class Spectral(Proxy):
    """A proxy with a gain for each rank of a site; the score is the sum of those it can hold."""

    @abstractmethod
    def gains(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> Gains:
        """The gain of every rank of every site, never rising; the arguments are those of `scores`.

        Raises:
            UserError: if the model or the device does not allow it.
        """

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """The sum of the gains up to a site's capacity."""
        return totals(self.gains(adapters, batches, loss, autocast), adapters.capacities)


def candidates(
    proxy: Proxy,
    adapters: Ranked[Any],
    batches: Iterable[Batch],
    loss: Loss = default_loss,
    autocast: Autocast = nullcontext,
) -> Candidates:
    """The sites as `proxy` scores them, with the gains of their ranks where it tells them.

    Raises:
        UserError: as `scores` does, and if a score is not finite.
    """
    gains = None
    if isinstance(proxy, Spectral):
        gains = proxy.gains(adapters, batches, loss, autocast)
        scores = totals(gains, adapters.capacities)
    else:
        scores = proxy.scores(adapters, batches, loss, autocast)
    return Candidates(scores, adapters.unit_costs, adapters.capacities, gains)


def totals(gains: Gains, capacities: Mapping[Site, int]) -> dict[Site, float]:
    """The sum of the gains of all ranks that a site can hold."""
    return {site: sum(values[: capacities[site]]) for site, values in gains.items()}
