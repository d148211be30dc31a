"""Causal language modelling: every token from those before it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from heterolora.losses import Batch, next_token
from heterolora.settings import setting
from heterolora.tasks.base import Columns, Examples, Metric, Task
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.tokens import check_columns, check_texts, tokenize


@dataclass(frozen=True, kw_only=True)
class CausalLM(Task):
    """The next token, at each position of a text."""

    metrics: tuple[Literal["perplexity"], ...] = setting(
        ("perplexity",), help="the first one selects the best epoch"
    )
    text: str = setting(help="the column of the texts", example="text")
    max_length: int = setting(help="maximum number of tokens per example", gt=1, example=128)

    @property
    def model_class(self) -> Any:
        """Any decoder with its language-modelling head."""
        return AutoModelForCausalLM

    @property
    def columns(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def problems(self) -> Iterable[str]:
        """There is a metric."""
        if not self.metrics:
            yield "metrics=[]: must name one; set task.metrics=[perplexity]"

    def check(self, columns: Columns, where: str) -> Examples:
        """Every text is a string."""
        check_columns(columns, {self.text: "task.text"}, where)
        check_texts(columns, self.text, where)
        return Examples({self.text: list(columns[self.text])})

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize texts; their labels are their tokens, which the loss shifts by one."""
        texts = examples.columns[self.text]
        encoded = tokenize([texts], tokenizer, min(self.max_length, positions), device)
        return encoded.with_labels(encoded.features["input_ids"], padding=-100)

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the next token, summed over all tokens that are not padding."""
        return next_token(output, batch)

    def count(self, batch: Batch) -> Tensor:
        """The tokens that have a loss."""
        return (batch["labels"][:, 1:] != -100).sum()

    def metric(self) -> Metric:
        """The perplexity of all tokens together."""
        return Perplexity(self)


@dataclass
class Perplexity(Metric):
    """`exp(the mean loss of a token)`."""

    task: CausalLM
    total: float = 0.0
    count: int = 0

    def update(self, output: Any, batch: Batch) -> None:
        """Add the batch's losses."""
        total, count = self.task.loss(output, batch)
        self.total += total.item()
        self.count += int(count)

    def absorb(self, other: Self) -> None:
        """Add its losses."""
        self.total += other.total
        self.count += other.count

    def compute(self) -> dict[str, float]:
        """The mean loss of a token, and its exponential; infinite where that overflows."""
        mean = self.total / self.count
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return {"loss": mean, **dict.fromkeys(self.task.metrics, perplexity)}
