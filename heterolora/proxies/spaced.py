"""SPACED: every k-th layer, a control."""

from dataclasses import dataclass

from heterolora.proxies.control import Control
from heterolora.settings import setting
from heterolora.sites import Site


@dataclass(frozen=True)
class Spaced(Control):
    """`S(M) = 1` in the layers k-1, 2k-1, ..., counted from 0, and 0 in the others.

    It reads neither model nor data: sites spread evenly over the depth, k = `every` apart.
    """

    every: int = setting(4, help="k: every k-th layer's sites are switched on first", ge=2)

    def place(self, site: Site) -> float:
        """1 in every k-th layer."""
        return float(site.layer % self.every == self.every - 1)
