"""Pruning from above the budget down to it."""

import math
from dataclasses import dataclass

from heterolora.settings import setting
from heterolora.strategies.base import Strategy


@dataclass(frozen=True)
class Pruning(Strategy):
    """Start with more ranks than the budget, and prune them on AdaLoRA's cubic schedule.

    Of T steps in all, the first t_i = ceil(warmup T) train every site at `initial` times the
    budget's rank, and the last T - t_f, with t_f = floor(until T), train what is left. A search at
    step t may spend (https://arxiv.org/abs/2303.10512, section 3.3)

        b(t) = b (1 + (initial - 1) (1 - (t - t_i) / (t_f - t_i))^3)

    parameters, where b is the budget. There are `pruning_searches` of them, evenly spaced from t_i
    to t_f. A run has as many parameters as the budget at its end, and more before.
    """

    enable_rate: float = setting(
        0.25, help="maximum rank of a site is the budget's rank / enable_rate", gt=0, le=1
    )
    initial: float = setting(
        1.5, help="initial rank of every site, as a multiple of the budget's rank", gt=1
    )
    warmup: float = setting(0.1, help="fraction of all steps before the first search", gt=0, lt=1)
    until: float = setting(0.5, help="fraction of all steps before the last search", gt=0, lt=1)
    pruning_searches: int = setting(10, help="number of searches, first and last included", gt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until <= self.warmup:
            raise ValueError(f"until={self.until!r}: must be greater than warmup={self.warmup!r}")

    @property
    def start(self) -> float:
        """`initial`."""
        return self.initial

    def search_steps(self, epoch: int, steps_per_epoch: int, total: int | None = None) -> list[int]:
        """Return those of the steps evenly spaced from t_i to t_f that are in this epoch."""
        steps, first = total or steps_per_epoch, epoch * steps_per_epoch
        begin = min(math.ceil(self.warmup * steps), steps - 1)
        end = max(begin, math.floor(self.until * steps))
        parts = max(1, min(self.pruning_searches - 1, end - begin))  # at most one per step
        spaced = {begin + round(part * (end - begin) / parts) for part in range(parts + 1)}
        return sorted(step - first for step in spaced if 0 <= step - first < steps_per_epoch)

    def share(self, done: float) -> float:
        """Return b(t) / b."""
        part = (done - self.warmup) / (self.until - self.warmup)
        return 1 + (self.initial - 1) * (1 - min(max(part, 0.0), 1.0)) ** 3
