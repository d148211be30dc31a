"""Numbers by site, laid out by layer and role."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heterolora.sites import ROLES, Site


@dataclass(frozen=True, eq=False)
class Grid:
    """A number for each site.

    Attributes:
        layers: the layers, ascending.
        roles: the roles, in the order of `ROLES`.
        values: (layers, roles); NaN if there is no such site, like layer 0's `cut`.
    """

    layers: tuple[int, ...]
    roles: tuple[str, ...]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, by_site: Mapping[str, float]) -> "Grid":
        """Make a grid from numbers by site, named as in `allocations.jsonl`."""
        sites = {Site.parse(name): value for name, value in by_site.items()}
        layers = sorted({site.layer for site in sites})
        roles = sorted({site.role for site in sites}, key=ROLES.index)
        values = np.full((len(layers), len(roles)), np.nan)
        for site, value in sites.items():
            values[layers.index(site.layer), roles.index(site.role)] = value
        return cls(tuple(layers), tuple(roles), values)

    def role_means(self) -> dict[str, float]:
        """Return for each role the mean over the layers that have it."""
        return dict(zip(self.roles, np.nanmean(self.values, axis=0).tolist(), strict=True))


def on_frequency(ranks: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Return for each site the share of the searches that switched it on.

    Args:
        ranks: the rank of every site, for each search; there must be at least one search.
    """
    return {site: sum(row[site] > 0 for row in ranks) / len(ranks) for site in ranks[0]}
