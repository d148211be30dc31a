"""DEPTH: the last layers first, a control."""

from dataclasses import dataclass

from heterolora.proxies.control import Control
from heterolora.sites import Site


@dataclass(frozen=True)
class Depth(Control):
    """Control, last layers first: `S(M) = l`, the layer of the site, counted from 0.

    It reads neither model nor data: a proxy that does better has found more than that later layers
    matter.
    """

    def place(self, site: Site) -> float:
        """Return the layer."""
        return float(site.layer)
