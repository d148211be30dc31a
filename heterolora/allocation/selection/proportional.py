"""Ranks in proportion to the scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heterolora.allocation.selection.base import Candidates, Claim, Selection
from heterolora.sites import Site


@dataclass(frozen=True)
class Proportional(Selection):
    """Each site gets a rank in proportion to its score, between the floor and its capacity.

    Ranks are given out one at a time, always to the site with the highest quotient
    `score / (k - 1/2)`, where k is the rank that the site would reach, until the parameters are
    nearest to the budget. This is Sainte-Lague's method, which allots seats in proportion to votes
    (https://en.wikipedia.org/wiki/Sainte-Lagu%C3%AB_method). If quotients are equal, lower ranks
    come first, and sites at the same rank are in random order.
    """

    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Claim every rank above the floor, in the order of the quotients."""
        for site in sites:
            for rank in range(self.floor + 1, candidates.capacities[site] + 1):
                yield Claim((-candidates.scores[site] / (rank - 0.5), rank), site, 1)
