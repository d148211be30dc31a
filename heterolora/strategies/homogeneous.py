"""The baseline: plain LoRA."""

from dataclasses import dataclass
from typing import ClassVar

from heterolora.settings import setting
from heterolora.strategies.base import Strategy


@dataclass(frozen=True)
class Homogeneous(Strategy):
    """Never search: all sites on, at the budget's rank."""

    searches: ClassVar[bool] = False
    enable_rate: float = setting(1, help="all sites are on", ge=1, le=1)

    def search_steps(self, epoch: int, steps_per_epoch: int, total: int | None = None) -> range:
        """Return no steps."""
        return range(0)
