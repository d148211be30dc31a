"""A selection over the sites of a model, in one call."""

from collections.abc import Mapping
from typing import Protocol

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.selection import Candidates, Selection, Top
from heterolora.sites import Site
from heterolora.streams import python_generator


class Sized(Protocol):
    """What knows the sizes of its sites, such as `heterolora.Adapters`."""

    seed: int

    @property
    def unit_costs(self) -> Mapping[Site, int]:
        """The parameters of one rank at each site."""

    @property
    def capacities(self) -> Mapping[Site, int]:
        """The most ranks that can be on at each site."""


def select(
    scores: Mapping[Site, float],
    adapters: Sized,
    budget: int,
    selection: Selection | None = None,
) -> Allocation:
    """Ranks whose parameters come nearest to `budget`, by the scores.

    Ties are broken at random, by the seed of the adapters: the same call gives the same ranks.

    Args:
        scores: of each site, from a proxy or your own; the higher, the sooner it is switched on.
        adapters: whose sites they are.
        budget: adapter parameters; `adapters.count` has those that are on now.
        selection: how ranks follow from scores: `selection.Top()` where there is none, or
            `selection.Proportional(floor=...)`.

    Raises:
        AllocationError: if a score is not finite, or the budget allows no allocation.
        ValueError: if scores and adapters are not of the same sites.
    """
    unit_costs, capacities = adapters.unit_costs, adapters.capacities
    if scores.keys() != unit_costs.keys():
        differ = sorted(map(str, scores.keys() ^ unit_costs.keys()))
        raise ValueError(f"scores and adapters have different sites: {', '.join(differ)}")
    rng = python_generator(adapters.seed, "selection")
    return (selection or Top()).select(Candidates(scores, unit_costs, capacities), budget, rng)
