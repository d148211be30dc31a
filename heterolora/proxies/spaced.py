"""SPACED: every k-th layer, a control."""

from dataclasses import dataclass

from heterolora.proxies.control import Control
from heterolora.settings import setting
from heterolora.sites import Site


@dataclass(frozen=True)
class Spaced(Control):
    """Control, every k-th layer first: `S(M) = 1` in layers k-1, 2k-1, ..., 0 in the others.

    It reads neither model nor data: sites are spread evenly over the depth, k = `every` apart.
    """

    every: int = setting(4, help="k: switch on the sites of every k-th layer first", ge=2)

    def place(self, site: Site) -> float:
        """Return 1 in every k-th layer, and 0 in the others."""
        return float(site.layer % self.every == self.every - 1)
