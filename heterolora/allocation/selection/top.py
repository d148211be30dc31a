"""The paper's selection (section 2.2): a site is on, with all its ranks, or off."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heterolora.allocation.selection.base import Candidates, Claim, Selection
from heterolora.sites import Site


@dataclass(frozen=True)
class Top(Selection):
    """Sites are switched on in descending order of score, each with all its ranks.

    With a floor of f, the sites that are not chosen have f ranks.
    """

    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Claim all of a site's ranks above the floor at once, in the order of the scores."""
        for site in sites:
            ranks = candidates.capacities[site] - self.floor
            if ranks:
                yield Claim((-candidates.scores[site],), site, ranks)
