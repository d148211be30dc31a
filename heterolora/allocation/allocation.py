"""The result of a search: an allocation."""

from collections.abc import Mapping
from dataclasses import dataclass

from heterolora.sites import Site


@dataclass(frozen=True)
class Allocation:
    """The rank of every site, and how clearly the scores decided it.

    Attributes:
        ranks: the rank of each site; 0 means off.
        parameters: the number of adapter parameters that are on.
        degenerate: whether all scores that compete for a budget were equal, so that the choice
            among them is entirely random.
        tied: the number of sites whose claims equal the claim at the cut, if the random tie-break
            granted some of them and not others; 0 if the cut is clear.
    """

    ranks: Mapping[Site, int]
    parameters: int
    degenerate: bool = False
    tied: int = 0

    @property
    def enabled(self) -> frozenset[Site]:
        """The sites that have any rank on."""
        return frozenset(site for site, rank in self.ranks.items() if rank)
