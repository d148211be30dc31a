"""Ranks in proportion to scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heterolora.allocation.selection.base import Candidates, Claim, Selection
from heterolora.sites import Site


@dataclass(frozen=True)
class Proportional(Selection):
    """Each site gets a rank in proportion to its score, between the floor and its capacity.

    Ranks are given out one at a time, always where the quotient `score / (k - 1/2)` is highest,
    with k the rank that the site would come to, until the parameters are nearest to the budget:
    Sainte-Lague's method, by which seats follow votes
    (https://en.wikipedia.org/wiki/Sainte-Lagu%C3%AB_method). Where quotients are equal, lower
    ranks come first, and sites of the same rank in random order.
    """

    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Every rank above the floor, at its quotient."""
        for site in sites:
            for rank in range(self.floor + 1, candidates.capacities[site] + 1):
                yield Claim((-candidates.scores[site] / (rank - 0.5), rank), site, 1)
