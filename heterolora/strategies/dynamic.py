"""Dynamic HeteroLoRA (paper, section 2.2 and Appendix B.3)."""

from dataclasses import dataclass

from heterolora.settings import setting
from heterolora.strategies.base import Strategy


@dataclass(frozen=True)
class Dynamic(Strategy):
    """Search repeatedly: every ceil(steps per epoch / k) steps of each epoch, from step 0.

    With k = `searches_per_epoch` = 5 and MRPC's 459 steps: before steps 0, 92, 184, 276, 368.
    If the steps do not divide evenly, an epoch may hold fewer than k searches.
    """

    enable_rate: float = setting(
        0.25, help="maximum rank of a site is the budget's rank / enable_rate", gt=0, le=1
    )
    searches_per_epoch: int = setting(5, help="searches per epoch, evenly spaced", gt=0)

    def search_steps(self, epoch: int, steps_per_epoch: int, total: int | None = None) -> range:
        """Return 0, i, 2 i, ... below `steps_per_epoch`, with i = ceil(steps_per_epoch / k)."""
        interval = -(-steps_per_epoch // self.searches_per_epoch)
        return range(0, steps_per_epoch, interval)

    def periodic(self, steps_per_epoch: int) -> int:
        """Return the number of searches that fit into an epoch."""
        return len(self.search_steps(0, steps_per_epoch))

    def shortfall(self, steps_per_epoch: int) -> str | None:
        """Return one line if an epoch holds fewer searches than asked for, None otherwise."""
        steps = self.search_steps(0, steps_per_epoch)
        if len(steps) == self.searches_per_epoch:
            return None
        return (
            f"strategy.searches_per_epoch={self.searches_per_epoch}: an epoch of {steps_per_epoch} "
            f"steps fits only {len(steps)} evenly spaced searches"
        )
