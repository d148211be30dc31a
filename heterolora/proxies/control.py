"""Controls: scores that depend on where a site is, and not on model or data."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.errors import Problem
from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.base import Proxy
from heterolora.seeding import python_generator
from heterolora.settings import Situation
from heterolora.sites import Site

if TYPE_CHECKING:
    from heterolora.adapters import Ranked

LESS_THAN_ANY_PLACE = 2.0**-20
"""The scale of the random number that orders sites of equal place, the same at every search."""


@dataclass(frozen=True)
class Control(Proxy):
    """A proxy that only knows the place of a site: `S(M) = place + 2^-20 u`.

    u is a number in [0, 1) that is fixed for each site and seed, so that sites of equal place are
    in random order, but in the same order at every search of a run.
    """

    @property
    def needs_labels(self) -> bool:
        """False: the proxy reads no data."""
        return False

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield a problem if all sites have the same place: such a choice would be random."""
        sites = situation.unit_costs
        if situation.strategy is not None and len({self.place(site) for site in sites}) == 1:
            last = max(site.layer for site in sites)
            roles = ", ".join(dict.fromkeys(site.role for site in sites))
            yield Problem(
                "proxy",
                self.name,
                f"gives all sites the same score (layers 0 to {last}, roles {roles})",
                "change its settings, or choose `proxy=constant` for a random allocation",
            )

    @abstractmethod
    def place(self, site: Site) -> float:
        """Return the score of a site, but for the order of ties: a whole number, 0 or more."""

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch] = (),
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Return the place of every site, plus a small number that is drawn once."""
        seed = adapters.seed
        return {
            site: self.place(site) + LESS_THAN_ANY_PLACE * drawn(seed, self.name, site)
            for site in adapters
        }


def drawn(seed: int, proxy: str, site: Site) -> float:
    """Return a number uniform on [0, 1), the same at every search of a run."""
    generator: random.Random = python_generator(seed, proxy, site)
    return generator.random()
