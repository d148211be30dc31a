"""CONSTANT: random allocation, the control (paper, Appendix C.1)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.base import Proxy
from heterolora.proxies.control import drawn
from heterolora.settings import setting
from heterolora.sites import Site

if TYPE_CHECKING:
    from heterolora.adapters import Ranked


@dataclass(frozen=True)
class Constant(Proxy):
    """Random allocation: `S(M) = 1` at every site, so ties, broken at random, decide everything.

    Under a strategy that searches repeatedly, every search makes a new choice, and a comparison
    with it mixes the effect of what is chosen with that of how often the choice changes. With
    `redraw=False` the scores are random numbers instead, fixed for each site and seed, so that the
    sites are drawn once and stay.
    """

    redraw: bool = setting(True, help="draw new sites at each search, instead of once")

    @property
    def needs_labels(self) -> bool:
        """False: the proxy reads no data."""
        return False

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch] = (),
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Return 1 for every site, or with `redraw=False` a random number for each."""
        if self.redraw:
            return dict.fromkeys(adapters.sites, 1.0)
        return {site: drawn(adapters.seed, "constant", site) for site in adapters.sites}
