"""Token labels: what a language model has to predict at each position of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from heterolora.errors import DataError, Problem, printable
from heterolora.losses import LABELS, Batch, token_cross_entropy
from heterolora.settings import Situation, setting, torch
from heterolora.tasks.base import Columns, Examples, Metric, Task
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.tokens import check_columns, check_texts, tokenize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

NONE = -100
"""The label of a token at which nothing has to be predicted."""


@dataclass(frozen=True, kw_only=True)
class TokenLabels(Task):
    """Predict a token of the vocabulary for each token of a text, with the model's own head."""

    metrics: tuple[Literal["accuracy"], ...] = setting(
        ("accuracy",), help="metrics to report; the first selects the best epoch"
    )
    text: str = setting(help="the column of the texts", example="text")
    label: str = setting(
        help="the column of the labels: one token id per token of the text, or -100",
        example="label",
    )
    max_length: int = setting(help="maximum number of tokens per example", gt=1, example=128)

    @property
    def model_class(self) -> Any:
        """Any decoder with its language modeling head."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of the texts, then that of the labels."""
        return (self.text, self.label)

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check that there is a metric."""
        yield from super().problems(situation)
        if not self.metrics:
            yield Problem("metrics", self.metrics, "must name one", "set `metrics=[accuracy]`")

    def check(self, columns: Columns, where: str) -> Examples:
        """Check that every text is a string and every label a whole number."""
        check_columns(columns, {self.text: "task.text", self.label: "task.label"}, where)
        check_texts(columns, self.text, where)
        for row, labels in enumerate(columns[self.label]):
            if not isinstance(labels, Sequence) or not all(type(one) is int for one in labels):
                raise DataError(
                    f"{where}: row {row} of column '{self.label}' must be a list of whole numbers, "
                    f"not {printable(repr(labels))}; repair or drop that row"
                )
        return Examples(
            {
                self.text: list(columns[self.text]),
                self.label: [tuple(labels) for labels in columns[self.label]],
            }
        )

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize texts; labels are truncated together with their text.

        Raises:
            DataError: if a text has more tokens than labels, or a label is not a token ID.
        """
        texts, labels = examples.columns.values()
        encoded = tokenize([texts], tokenizer, min(self.max_length, positions), device)
        fitted = []
        for row, (ids, said) in enumerate(zip(encoded.features["input_ids"], labels, strict=True)):
            if len(said) < len(ids) or max(said) >= len(tokenizer):
                raise DataError(
                    f"task.label={self.label}: row {row} has {len(said)} labels up to "
                    f"{max(said)}, but its text has {len(ids)} tokens and the vocabulary "
                    f"{len(tokenizer)}; label the texts with the tokens of model.name"
                )
            fitted.append(torch.tensor(said[: len(ids)]))
        return encoded.with_labels(fitted, padding=NONE)

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the labels, summed over all tokens that have one."""
        return token_cross_entropy(output, batch)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of tokens that have a label."""
        return (batch[LABELS] != NONE).sum()

    def metric(self) -> Metric:
        """Return a metric over all labels together."""
        return Agreement(self)


@dataclass
class Agreement(Metric):
    """The share of labels that are the model's likeliest token."""

    task: TokenLabels
    total: float = 0.0
    right: int = 0
    count: int = 0

    def update(self, output: Any, batch: Batch) -> None:
        """Add the batch's losses, and count its right predictions."""
        total, count = self.task.loss(output, batch)
        self.total += total.item()
        self.count += int(count)
        self.right += int((output.logits.argmax(-1) == batch[LABELS]).sum())

    def absorb(self, other: Self) -> None:
        """Add the other's losses and counts."""
        self.total += other.total
        self.count += other.count
        self.right += other.right

    def compute(self) -> dict[str, float]:
        """Return the mean loss per label, and the share of right predictions."""
        return {
            "loss": self.total / self.count,
            **dict.fromkeys(self.task.metrics, self.right / self.count),
        }
