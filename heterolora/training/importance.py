"""What each site is worth after training."""

from collections.abc import Callable
from typing import Any

from heterolora.adapters import Inventory


def leave_one_out(
    inventory: Inventory, evaluate: Callable[[], dict[str, float]], metric: str
) -> list[dict[str, Any]]:
    """Switch each site that is on off by itself, evaluate, and switch it on again.

    A site's importance is what its absence costs:

        loss_difference = loss(without it) - loss(with all)
        metric_difference = metric(with all) - metric(without it)

    Returns:
        `site` and both differences, in the order of the sites; weights are never changed.
    """
    enabled = inventory.enabled
    whole = evaluate()
    rows = []
    for site in (site for site in inventory.sites if site in enabled):
        inventory.enable_only(enabled - {site})
        measured = evaluate()
        rows.append(
            {
                "site": str(site),
                "loss_difference": measured["loss"] - whole["loss"],
                "metric_difference": whole[metric] - measured[metric],
            }
        )
    inventory.enable_only(enabled)
    return rows
