"""The base class of selections, and what they choose from."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean
from typing import Any, Literal, NamedTuple

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import nearest_prefix
from heterolora.errors import STAY_FINITE, AllocationError, Problem
from heterolora.settings import Settings, Situation, settable, setting
from heterolora.sites import Site


@dataclass(frozen=True)
class Candidates:
    """The sites that compete for a budget.

    Attributes:
        scores: the score of each site; higher scores are switched on first.
        unit_costs: the number of parameters in one rank at each site.
        capacities: the largest number of ranks that can be on at each site.
        gains: what the first, second, ... rank of each site adds, in non-increasing order; None if
            only whole sites were scored.
    """

    scores: Mapping[Site, float]
    unit_costs: Mapping[Site, int]
    capacities: Mapping[Site, int]
    gains: Mapping[Site, Sequence[float]] | None = None

    def __post_init__(self) -> None:
        """Reject scores and gains that cannot be used.

        Raises:
            AllocationError: if a score or a gain is not finite.
            ValueError: if a rank of a site has a larger gain than the rank before.
        """
        _check_finite("scores", self.scores)
        if self.gains is not None:
            _check_finite("gains", {site: sum(gains) for site, gains in self.gains.items()})
            for site, gains in self.gains.items():
                if any(after > before for before, after in pairwise(gains)):
                    raise ValueError(
                        f"{site}: the gain of a rank must not exceed that of the rank before"
                    )

    @property
    def degenerate(self) -> bool:
        """Whether there is more than one site and all have the same score."""
        return len(self.scores) > 1 and len(set(self.scores.values())) == 1

    def shuffled(self, rng: random.Random) -> list[Site]:
        """Return the sites in a uniformly random order, which a stable sort keeps among equals.

        There is one draw whatever the scores, so that the position of the random stream depends
        only on the number of searches.
        """
        sites = sorted(self.scores, key=lambda site: (site.layer, site.role))
        rng.shuffle(sites)
        return sites

    def among(self, sites: Collection[Site]) -> "Candidates":
        """Return the candidates restricted to `sites`."""
        chosen = [site for site in self.scores if site in sites]
        return Candidates(
            scores={site: self.scores[site] for site in chosen},
            unit_costs={site: self.unit_costs[site] for site in chosen},
            capacities={site: self.capacities[site] for site in chosen},
            gains=None if self.gains is None else {site: self.gains[site] for site in chosen},
        )

    def relative_to_role(self) -> "Candidates":
        """Return candidates with scores and gains over the mean absolute score of their role."""
        sizes: dict[str, list[float]] = {}
        for site, score in self.scores.items():
            sizes.setdefault(site.role, []).append(abs(score))
        unit = {role: mean(found) or 1.0 for role, found in sizes.items()}
        gains = self.gains
        return replace(
            self,
            scores={site: score / unit[site.role] for site, score in self.scores.items()},
            gains=gains and {s: [gain / unit[s.role] for gain in gains[s]] for s in gains},
        )

    def parameters(self, ranks: Mapping[Site, int]) -> int:
        """Return the number of adapter parameters that these ranks have."""
        return sum(rank * self.unit_costs[site] for site, rank in ranks.items())


class Claim(NamedTuple):
    """A site's request for ranks beyond the floor.

    Attributes:
        place: the position in the order of claims; lower ones are granted first.
        site: the site that makes the claim.
        ranks: the number of further ranks.
    """

    place: tuple[float, ...]
    site: Site
    ranks: int


@dataclass(frozen=True)
class Selection(Settings, ABC):
    """A rule by which the rank of every site follows from the scores and a budget.

    Every site gets the floor's ranks. Beyond that, sites make claims, which are granted in order
    until the parameters come nearest to the budget; equal claims are in random order.
    """

    floor: int = setting(0, help="minimum rank of every site", ge=0)
    normalize: Literal["none", "role"] = setting(
        "none", help="scores as they are (none, the paper), or divided by their role's mean (role)"
    )

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield a problem if a site's floor is above the budget's rank."""
        for site, rank in situation.budget_ranks.items():
            if self.floor > rank:
                rule = (
                    f"must be at most `{site.kind}_rank={rank}`, the budget's rank at '{site.role}'"
                )
                yield Problem("floor", self.floor, f"{rule} sites", "for example `floor=1`")
                return

    def to_dict(self) -> dict[str, Any]:
        """Return the name, and the settings that differ from their defaults."""
        defaults = {one.name: one.default for one in settable(type(self))}
        whole = super().to_dict()
        return {k: v for k, v in whole.items() if k not in defaults or v != defaults[k]}

    @abstractmethod
    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Return what the sites claim beyond the floor, in any order.

        Args:
            candidates: the sites and their scores.
            sites: the same sites, in the order in which equal claims are granted.
        """

    def select(self, candidates: Candidates, budget: int, rng: random.Random) -> Allocation:
        """Choose ranks whose parameters come nearest to `budget`.

        Of two sites with the same role, unit cost and capacity, the one with the higher score never
        gets fewer ranks.

        Args:
            candidates: the sites and their scores.
            budget: the budget in adapter parameters.
            rng: the random generator that breaks ties; each call draws from it once.

        Raises:
            AllocationError: if a site cannot hold the floor, the floors cost more than the budget,
                or switching nothing on comes nearest to the budget.
        """
        if self.normalize == "role":
            candidates = candidates.relative_to_role()
        ranks = dict.fromkeys(candidates.scores, self.floor)
        rest = budget - candidates.parameters(ranks)
        least = min(candidates.capacities[site] for site in candidates.scores)
        if self.floor > least or rest < 0:
            raise AllocationError(
                f"floor={self.floor}: costs {budget - rest} parameters of a budget of {budget}, "
                f"and the smallest site can have rank {least}; lower the floor"
            )
        claims = sorted(
            self.claims(candidates, candidates.shuffled(rng)), key=lambda claim: claim.place
        )
        costs = [claim.ranks * candidates.unit_costs[claim.site] for claim in claims]
        count = nearest_prefix(costs, rest)
        if count == 0 and self.floor == 0:
            raise AllocationError(
                f"a budget of {budget} parameters is too small for any site (the first costs "
                f"{costs[0]}); raise the budget, lower the ranks that a site can have (by a higher "
                "enable_rate), or add sites"
            )
        for claim in claims[:count]:
            ranks[claim.site] += claim.ranks
        return Allocation(
            ranks=ranks,
            parameters=candidates.parameters(ranks),
            degenerate=candidates.degenerate,
            tied=_tied([claim.place for claim in claims], count),
        )


def _tied(places: Sequence[tuple[float, ...]], count: int) -> int:
    """Count the claims equal to the last one granted, if the first one not granted equals it."""
    if count == 0 or count == len(places) or places[count] != places[count - 1]:
        return 0
    return places.count(places[count])


def _check_finite(what: str, values: Mapping[Site, float]) -> None:
    broken = {str(site): value for site, value in values.items() if not math.isfinite(value)}
    if broken:
        first, value = next(iter(broken.items()))
        raise AllocationError(
            f"{what} of {len(broken)} sites are not finite (first: {first} = {value}); "
            f"{STAY_FINITE}"
        )
