"""How alike runs are."""

import itertools
from collections.abc import Sequence

from heterolora.reporting.load import Run


def jaccard_between(runs: Sequence[Run]) -> dict[tuple[int, int], float]:
    """For each pair of seeds, sites on in both / on in either, after the last search."""
    on = {
        run.seed: {site for site, rank in run.searches[-1]["ranks"].items() if rank}
        for run in runs
        if run.searches
    }
    return {
        (a, b): len(on[a] & on[b]) / len(on[a] | on[b])
        for a, b in itertools.combinations(sorted(on), 2)
    }
