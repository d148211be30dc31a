"""The base class of language modeling tasks, which predict every token from those before it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from heterolora.errors import Problem
from heterolora.losses import Batch, next_token
from heterolora.settings import Situation, setting
from heterolora.tasks.base import Metric, Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NextToken(Task):
    """`-log p(token_{t+1} | tokens up to t)`, at every position whose next token has a label.

    The head is the checkpoint's own and is not trained.
    """

    metrics: tuple[Literal["perplexity"], ...] = setting(
        ("perplexity",), help="metrics to report; the first selects the best epoch"
    )
    max_length: int = setting(help="maximum number of tokens per example", gt=1, example=128)

    @property
    def model_class(self) -> Any:
        """Any decoder with its language modeling head."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @property
    def needs_decoder(self) -> bool:
        """True: a bidirectional model would already see the token that it has to predict."""
        return True

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check that there is a metric."""
        yield from super().problems(situation)
        if not self.metrics:
            yield Problem("metrics", self.metrics, "must name one", "set `metrics=[perplexity]`")

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the next token, summed over all tokens that have a label."""
        return next_token(output, batch)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of tokens that have a loss."""
        return (batch["labels"][:, 1:] != -100).sum()

    def metric(self) -> Metric:
        """Return the perplexity over all tokens together."""
        return Perplexity(self)


@dataclass
class Perplexity(Metric):
    """`exp(mean loss per token)`."""

    task: NextToken
    total: float = 0.0
    count: int = 0

    def update(self, output: Any, batch: Batch) -> None:
        """Add the batch's losses."""
        total, count = self.task.loss(output, batch)
        self.total += total.item()
        self.count += int(count)

    def absorb(self, other: Self) -> None:
        """Add the other's losses."""
        self.total += other.total
        self.count += other.count

    def compute(self) -> dict[str, float]:
        """Return the mean loss per token and its exponential, which is infinite if it overflows."""
        mean = self.total / self.count
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return {"loss": mean, **dict.fromkeys(self.task.metrics, perplexity)}
