"""Select the ranks of all sites of a model, in one call."""

from collections.abc import Mapping
from typing import Protocol

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.selection import Candidates, Selection, Top
from heterolora.seeding import python_generator
from heterolora.sites import Site


class Sized(Protocol):
    """An object that knows the sizes of its sites, such as `heterolora.Adapters`."""

    seed: int

    @property
    def unit_costs(self) -> Mapping[Site, int]:
        """The number of parameters in one rank at each site."""

    @property
    def capacities(self) -> Mapping[Site, int]:
        """The largest number of ranks that can be on at each site."""


def select(
    scores: Mapping[Site, float],
    adapters: Sized,
    budget: int,
    selection: Selection | None = None,
) -> Allocation:
    """Choose ranks by score, such that their parameters come nearest to `budget`.

    Ties are broken at random, from the seed of the adapters: the same call gives the same ranks.

    Args:
        scores: the score of each site, from a proxy or your own; the higher, the sooner it is
            switched on.
        adapters: the adapters whose sites are scored.
        budget: the budget in adapter parameters; `adapters.count` is the number that are on now.
        selection: how ranks follow from scores, such as `selection.Proportional(floor=...)`;
            `selection.Top()` if None.

    Raises:
        AllocationError: if a score is not finite, or the budget allows no allocation.
        ValueError: if scores and adapters do not have the same sites.
    """
    unit_costs, capacities = adapters.unit_costs, adapters.capacities
    if scores.keys() != unit_costs.keys():
        differ = sorted(map(str, scores.keys() ^ unit_costs.keys()))
        raise ValueError(f"scores and adapters have different sites: {', '.join(differ)}")
    rng = python_generator(adapters.seed, "selection")
    return (selection or Top()).select(Candidates(scores, unit_costs, capacities), budget, rng)
