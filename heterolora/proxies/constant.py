"""CONSTANT: random allocation, the control (paper, Appendix C.1)."""

from typing import Literal

from heterolora.proxies.base import Proxy, Subject
from heterolora.sites import Site


class Constant(Proxy):
    """`S(M) = 1` at every site, so that ties, broken at random, decide everything."""

    name: Literal["constant"] = "constant"

    @property
    def needs_labels(self) -> bool:
        """It reads nothing."""
        return False

    def scores(self, subject: Subject) -> dict[Site, float]:
        """One, everywhere."""
        return dict.fromkeys(subject.inventory.sites, 1.0)
