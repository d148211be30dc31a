"""What a selection decides, and what all of them share."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from heterolora.allocation.allocation import Allocation
from heterolora.errors import AllocationError
from heterolora.settings import Settings
from heterolora.sites import Site


@dataclass(frozen=True)
class Candidates:
    """The sites that compete for a budget.

    Attributes:
        scores: of each site; the higher, the sooner it is switched on.
        unit_costs: the parameters of one rank at each site.
        capacities: the most ranks that can be on at each site.
    """

    scores: Mapping[Site, float]
    unit_costs: Mapping[Site, int]
    capacities: Mapping[Site, int]

    def __post_init__(self) -> None:
        """Refuse scores that say nothing.

        Raises:
            AllocationError: if a score is not finite.
        """
        broken = {str(site): s for site, s in self.scores.items() if not math.isfinite(s)}
        if broken:
            first, score = next(iter(broken.items()))
            raise AllocationError(
                f"scores of {len(broken)} sites are not finite (first: {first} = {score}); "
                "lower optimizer.learning_rate or set precision=fp32"
            )

    @property
    def degenerate(self) -> bool:
        """Whether there is more than one site, all of equal score."""
        return len(self.scores) > 1 and len(set(self.scores.values())) == 1

    def shuffled(self, rng: random.Random) -> list[Site]:
        """The sites in a uniformly random order, for sorts that keep it among equals.

        One draw is made whatever the scores, so that the stream's position depends on the number
        of searches alone.
        """
        sites = sorted(self.scores, key=lambda site: (site.layer, site.role))
        rng.shuffle(sites)
        return sites

    def among(self, sites: Collection[Site]) -> "Candidates":
        """Those of `sites` alone."""
        chosen = [site for site in self.scores if site in sites]
        return Candidates(
            scores={site: self.scores[site] for site in chosen},
            unit_costs={site: self.unit_costs[site] for site in chosen},
            capacities={site: self.capacities[site] for site in chosen},
        )

    def parameters(self, ranks: Mapping[Site, int]) -> int:
        """The adapter parameters of these ranks."""
        return sum(rank * self.unit_costs[site] for site, rank in ranks.items())


@dataclass(frozen=True)
class Selection(Settings, ABC):
    """How the rank of every site follows from the scores and a budget."""

    @abstractmethod
    def select(self, candidates: Candidates, budget: int, rng: random.Random) -> Allocation:
        """Choose ranks whose parameters come nearest to `budget`.

        A site never gets fewer ranks than one of lower score, equal unit cost and equal capacity.

        Args:
            candidates: the sites.
            budget: adapter parameters.
            rng: breaks ties; one draw for each call.

        Raises:
            AllocationError: if the budget allows no allocation at all.
        """
