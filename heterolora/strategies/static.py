"""Static HeteroLoRA (paper, section 2.2)."""

from typing import Literal

from heterolora.strategies.base import Strategy


class Static(Strategy):
    """Search once, before the first step."""

    name: Literal["static"] = "static"

    def search_steps(self, epoch: int, steps_per_epoch: int) -> range:
        """Step 0 of epoch 0."""
        return range(1) if epoch == 0 else range(0)
