"""Dynamic HeteroLoRA (paper, section 2.2 and Appendix B.3)."""

from typing import Literal

from pydantic import Field

from heterolora.config import PositiveInt
from heterolora.strategies.base import Strategy


class Dynamic(Strategy):
    """Search again and again: every ceil(steps per epoch / k) steps of each epoch, from step 0.

    With k = `searches_per_epoch` = 5 and MRPC's 459 steps: before steps 0, 92, 184, 276, 368.
    """

    name: Literal["dynamic"] = "dynamic"
    searches_per_epoch: PositiveInt = Field(examples=[5])

    def search_steps(self, epoch: int, steps_per_epoch: int) -> range:
        """0, i, 2 i, ... below `steps_per_epoch`, with i = ceil(steps_per_epoch / k)."""
        interval = -(-steps_per_epoch // self.searches_per_epoch)
        return range(0, steps_per_epoch, interval)
