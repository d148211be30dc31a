"""The baseline: LoRA as it is."""

from typing import ClassVar, Literal

from pydantic import Field

from heterolora.strategies.base import Strategy


class Homogeneous(Strategy):
    """Never search: all sites on, at the budget's rank."""

    searches: ClassVar[bool] = False
    name: Literal["homogeneous"] = "homogeneous"
    enable_rate: float = Field(ge=1, le=1, examples=[1])

    def search_steps(self, epoch: int, steps_per_epoch: int) -> range:
        """None."""
        return range(0)
