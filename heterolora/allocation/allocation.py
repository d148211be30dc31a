"""What a search decides."""

from collections.abc import Mapping
from dataclasses import dataclass

from heterolora.sites import Site


@dataclass(frozen=True)
class Allocation:
    """The rank of every site, and how clearly the scores decided that.

    Attributes:
        ranks: of each site; 0 is off.
        parameters: the adapter parameters that are on.
        degenerate: all scores that compete for a budget were equal, so that the choice among them
            is random throughout.
        tied: sites on either side of the cut whose claims equal the claim at the cut, of which
            some are granted and some not by the random tie-break; 0 where the cut is clear.
    """

    ranks: Mapping[Site, int]
    parameters: int
    degenerate: bool = False
    tied: int = 0

    @property
    def enabled(self) -> frozenset[Site]:
        """The sites where any rank is on."""
        return frozenset(site for site, rank in self.ranks.items() if rank)
