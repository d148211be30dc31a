"""A search: score all sites, select, apply."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heterolora.allocation import Pool, select_pools
from heterolora.proxies import Proxy, Subject


@dataclass(frozen=True)
class Search:
    """Call it to reallocate.

    Attributes:
        proxy: scores the sites.
        subject: what is scored, and switched.
        pools: which sites compete for which budget.
        rng: the run's selection stream, which breaks ties.
    """

    proxy: Proxy
    subject: Subject
    pools: Sequence[Pool]
    rng: random.Random

    def __call__(self) -> dict[str, Any]:
        """Score, select and switch; returns what there is to record, as plain values.

        Raises:
            AllocationError: if no allocation can be made of the scores.
        """
        inventory = self.subject.inventory
        scores = self.proxy.scores(self.subject)
        allocation = select_pools(scores, inventory.costs(), self.pools, self.rng)
        inventory.enable_only(allocation.enabled)
        return {
            "proxy": self.proxy.model_dump(mode="json"),
            "scores": {str(site): score for site, score in scores.items()},
            "ranks": {
                str(site): adapter.rank if site in allocation.enabled else 0
                for site, adapter in inventory.adapters.items()
            },
            "parameters": allocation.parameters,
            "tied": allocation.tied,
            "degenerate": allocation.degenerate,
        }
