"""Static HeteroLoRA (paper, section 2.2)."""

from dataclasses import dataclass

from heterolora.settings import setting
from heterolora.strategies.base import Strategy


@dataclass(frozen=True)
class Static(Strategy):
    """Search once, before the first step."""

    enable_rate: float = setting(
        0.25, help="maximum rank of a site is the budget's rank / enable_rate", gt=0, le=1
    )

    def search_steps(self, epoch: int, steps_per_epoch: int, total: int | None = None) -> range:
        """Return step 0 in epoch 0, and no steps in later epochs."""
        return range(1) if epoch == 0 else range(0)
