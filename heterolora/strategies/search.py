"""A search: score all sites, select, apply."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from heterolora.allocation import Candidates, Pool, Selection, Top, select_pools
from heterolora.losses import Autocast, Loss, default_loss
from heterolora.proxies import Proxy
from heterolora.proxies.base import Examples
from heterolora.proxies.running import Observer
from heterolora.proxies.spectral import candidates
from heterolora.seeding import python_generator
from heterolora.settings import Stateful, stateful

if TYPE_CHECKING:
    from heterolora.adapters import Ranked

logger = logging.getLogger(__name__)

NEAR = 0.05
"""The share of the budget by which an allocation may miss it without a warning."""


@dataclass
class Search:
    """A callable that reallocates ranks: it scores the sites, selects, and switches.

    Its state is that of the tie-breaking random stream, the observer (or proxy) and the selection.

    Attributes:
        adapters: the adapters to score and switch.
        proxy: the proxy that scores the sites.
        examples: the training split, from which the proxy takes its sample.
        pools: which sites compete for which budget.
        selection: how ranks follow from scores; the paper's by default.
        loss: maps the model's output and a batch to the sum of the losses and their count.
        autocast: makes the context that sets the precision of the forward pass.
        rng: the random generator that breaks ties, on a stream of the adapters' seed.
        observer: observes the training steps, for a proxy that scores these; else None.
    """

    adapters: Ranked[Any]
    proxy: Proxy
    examples: Examples
    pools: Sequence[Pool]
    selection: Selection = field(default_factory=Top)
    loss: Loss = default_loss
    autocast: Autocast = nullcontext
    rng: random.Random = field(init=False)
    observer: Observer | None = field(init=False)
    _warned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.rng = python_generator(self.adapters.seed, "selection")
        self.observer = self.proxy.observer()

    def __call__(self, share: float = 1.0) -> dict[str, Any]:
        """Score, select and switch, and return what there is to record, as plain values.

        Args:
            share: how much may be spent in each pool, as a multiple of its budget.

        Raises:
            UserError: if sites cannot be scored, or the scores allow no allocation.
        """
        adapters = self.adapters
        observed = 0 if self.observer is None else self.observer.observed
        # Observed steps were made at the weights as they stood, never at those of a probe.
        weights = "current" if observed else self.proxy.weights_scored(adapters)
        scored = self._scored()
        pools = [replace(pool, budget=round(share * pool.budget)) for pool in self.pools]
        allocation = select_pools(self.selection, scored, pools, self.rng)
        adapters.apply(allocation)
        self._warn_of_a_miss(allocation.parameters, sum(pool.budget for pool in pools))
        return {
            "proxy": self.proxy.to_dict(),
            "selection": self.selection.to_dict(),
            "weights": weights,
            "observed": observed,
            "scores": {str(site): score for site, score in scored.scores.items()},
            "ranks": {str(site): rank for site, rank in adapters.ranks.items()},
            "parameters": allocation.parameters,
            "tied": allocation.tied,
            "degenerate": allocation.degenerate,
        }

    def _scored(self) -> Candidates:
        """Score by the training steps, if any were observed, else by the sample."""
        adapters = self.adapters
        if self.observer is not None and self.observer.observed:
            scores = self.observer.scores(adapters)
            return Candidates(scores, adapters.unit_costs, adapters.capacities)
        sample = self.proxy.sample(self.examples)
        return candidates(self.proxy, adapters, sample, self.loss, self.autocast)

    def _warn_of_a_miss(self, parameters: int, budget: int) -> None:
        """Warn, once, if the allocation is not near the budget."""
        if self._warned or abs(parameters - budget) <= NEAR * budget:
            return
        self._warned = True
        logger.warning(
            "%d parameters are on, but the budget is %d (%+.0f %%): no choice of sites is nearer",
            parameters,
            budget,
            100 * (parameters / budget - 1),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the random stream, and the states that are not empty."""
        version, words, spare = self.rng.getstate()
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        kept = {name: state for name, state in states.items() if state}
        return {"rng": [version, list(words), spare], **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        version, words, spare = state["rng"]
        self.rng.setstate((version, tuple(words), spare))
        for name, part in self._stateful().items():
            part.load_state_dict(state.get(name, {}))

    def _stateful(self) -> dict[str, Stateful]:
        """Return which of observer, or proxy, and selection have state."""
        scorer = self.proxy if self.observer is None else self.observer
        return stateful({"proxy": scorer, "selection": self.selection})
