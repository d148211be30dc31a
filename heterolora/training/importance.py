"""How much each site contributes after training."""

from collections.abc import Callable
from typing import Any

from heterolora.adapters import Adapters


def leave_one_out(
    adapters: Adapters,
    evaluate: Callable[[], dict[str, float]],
    metric: str,
    higher_is_better: bool = True,
) -> list[dict[str, Any]]:
    """Switch off each site that is on, one at a time, evaluate, and switch it on again.

    A site's importance is what its absence costs:

        loss_difference = loss(without it) - loss(with all)
        metric_difference = metric(with all) - metric(without it)

    the latter with the opposite sign for a metric of which less is better.

    Returns:
        Rows of `site` and both differences, in the order of the sites. Ranks are restored even
        after an error, and weights are never changed.
    """
    ranks = adapters.ranks
    sign = 1 if higher_is_better else -1
    whole = evaluate()
    rows = []
    try:
        for site in (site for site, rank in ranks.items() if rank):
            adapters.apply({**ranks, site: 0})
            measured = evaluate()
            rows.append(
                {
                    "site": str(site),
                    "loss_difference": measured["loss"] - whole["loss"],
                    "metric_difference": sign * (whole[metric] - measured[metric]),
                }
            )
    finally:
        adapters.apply(ranks)
    return rows
