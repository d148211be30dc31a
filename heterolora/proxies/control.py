"""Controls: scores that say where a site is, and nothing of model or data."""

import random
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from heterolora.adapters import Ranked
from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.base import Proxy
from heterolora.sites import Site
from heterolora.streams import python_generator

LESS_THAN_ANY_PLACE = 2.0**-20
"""Between two sites of one place, whose order is drawn once and stays, search after search."""


@dataclass(frozen=True)
class Control(Proxy):
    """A proxy that knows the place of a site alone: `S(M) = place + 2^-20 u`.

    u is a number on [0, 1) that is fixed for each site and seed, so that sites of one place are in
    a random order, but in the same at every search of a run.
    """

    @property
    def needs_labels(self) -> bool:
        """It reads nothing."""
        return False

    @abstractmethod
    def place(self, site: Site) -> float:
        """The score of a site, but for its order among equals; 0 or more, a whole number."""

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch] = (),
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """The place of every site, and a little that is drawn once."""
        seed = adapters.seed
        return {
            site: self.place(site) + LESS_THAN_ANY_PLACE * drawn(seed, self.name, site)
            for site in adapters
        }


def drawn(seed: int, proxy: str, site: Site) -> float:
    """Uniform on [0, 1), the same at every search of a run."""
    generator: random.Random = python_generator(seed, proxy, site)
    return generator.random()
