"""DEPTH: the last layers first, a control."""

from dataclasses import dataclass

from heterolora.proxies.control import Control
from heterolora.sites import Site


@dataclass(frozen=True)
class Depth(Control):
    """Control, last layers first: `S(M) = l`, the layer of the site, counted from 0.

    It reads neither model nor data: what a proxy finds beyond it is not that later layers matter.
    """

    def place(self, site: Site) -> float:
        """The layer."""
        return float(site.layer)
