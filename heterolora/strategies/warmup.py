"""Static allocation after a warm-up."""

import math
from dataclasses import dataclass

from heterolora.settings import setting
from heterolora.strategies.base import Strategy


@dataclass(frozen=True)
class Warmup(Strategy):
    """Train all sites at the budget's rank for a fraction of the steps, then search once.

    At the search B is no longer zero, so that the proxy scores adapters that have begun to learn.
    Sites that stay on keep what they have learned; the ranks that they gain start from zero, as in
    LoRA. The search comes before step ceil(warmup x all steps).
    """

    enable_rate: float = setting(
        0.25, help="maximum rank of a site is the budget's rank / enable_rate", gt=0, le=1
    )
    warmup: float = setting(0.1, help="fraction of all steps before the search", gt=0, lt=1)

    @property
    def start(self) -> float:
        """1: every site has the budget's rank."""
        return 1.0

    def search_steps(self, epoch: int, steps_per_epoch: int, total: int | None = None) -> range:
        """Return step ceil(warmup x all steps), in the epoch that contains it."""
        steps = total or steps_per_epoch
        at, step = divmod(min(math.ceil(self.warmup * steps), steps - 1), steps_per_epoch)
        return range(step, step + 1) if at == epoch else range(0)
