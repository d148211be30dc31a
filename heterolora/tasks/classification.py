"""Classification and regression of texts or pairs of texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Self

from heterolora.errors import DataError, Problem, printable
from heterolora.losses import LABELS, Batch, cross_entropy, squared_error
from heterolora.settings import Situation, setting, torch
from heterolora.tasks.base import Columns, Examples, Metric
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.metrics import compute_metric
from heterolora.tasks.predicting import Predicting, highest
from heterolora.tasks.tokens import check_columns, check_texts, tokenize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MetricName = Literal[
    "accuracy",
    "balanced_accuracy",
    "f1",
    "macro_f1",
    "weighted_f1",
    "precision",
    "recall",
    "matthews",
    "pearson",
    "spearman",
    "exact_match",
]


@dataclass(frozen=True, kw_only=True)
class Classification(Predicting):
    """Classify one text or a pair of texts; regression with `num_labels=1`."""

    metrics: tuple[MetricName, ...] = setting(
        help="metrics to report; the first selects the best epoch", example="[accuracy]"
    )
    sentences: tuple[str, ...] = setting(
        help="the column of the text, or the two columns of a pair", example="[sentence]"
    )
    num_labels: int = setting(
        help="number of classes, or 1 for regression", gt=0, le=65536, example=2
    )

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers on a scale (one output, squared error)."""
        return self.num_labels == 1

    @property
    def model_class(self) -> Any:
        """Any model with a head on the whole sequence."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    @property
    def model_options(self) -> Mapping[str, Any]:
        """The size of the head."""
        return {"num_labels": self.num_labels}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the sentences, then that of the label."""
        return (*self.sentences, *([self.label] if self.label is not None else []))

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of the sentences."""
        return self.sentences

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check that columns differ, metrics fit the labels, and there are labels to train on."""
        yield from super().problems(situation)
        if self.label is None:
            remedy = (
                "name their column with `label=COLUMN`, or predict them with a run of another task "
                "(scripts/predict.py RUN_DIR --task)"
            )
            yield Problem("label", None, "fine-tuning needs labels", remedy)
        if not 1 <= len(self.sentences) <= 2:
            remedy = "for example `sentences=[sentence]`"
            yield Problem("sentences", self.sentences, "must name one column or two", remedy)
        if not self.metrics:
            remedy = "for example `metrics=[accuracy]`"
            yield Problem("metrics", self.metrics, "must name at least one", remedy)
        columns = [*self.sentences, self.label]
        if len(set(columns)) != len(columns):
            remedy = "name each sentence's own with `sentences=[...]`, the label's with `label=...`"
            rule = f"the columns {columns} must differ"
            yield Problem("sentences", self.sentences, rule, remedy)
        fitting = self.fitting()
        for name in self.metrics:
            if name not in fitting:
                rule = f"{name} does not fit a task with num_labels={self.num_labels}"
                yield Problem("metrics", self.metrics, rule, f"choose from {', '.join(fitting)}")

    def fitting(self) -> list[str]:
        """Return the metrics that fit the labels."""
        if self.is_regression:
            return ["pearson", "spearman"]
        binary = ["f1", "precision", "recall"] if self.num_labels == 2 else []
        return ["accuracy", "balanced_accuracy", "matthews", "macro_f1", "weighted_f1", *binary]

    def check(self, columns: Columns, where: str) -> Examples:
        """Check that every text is a string and every label one of the task's."""
        keys = dict.fromkeys(self.sentences, "task.sentences")
        check_columns(columns, {**keys, **self._label_key()}, where)
        for column in self.sentences:
            check_texts(columns, column, where)
        texts = {column: list(columns[column]) for column in self.sentences}
        return Examples(texts | self.checked_labels(columns, where))

    def checked_labels(self, columns: Columns, where: str) -> dict[str, list[Any]]:
        """Return the column of labels, each one of the task's; empty if there is no such column.

        Raises:
            DataError: names the first row with any other label.
        """
        if self.label is None:
            return {}
        for row, label in enumerate(columns[self.label]):
            if not self._is_label(label):
                raise DataError(
                    f"{where}: row {row} has label {printable(repr(label))}, but the task takes "
                    f"{self._labels_wanted()}; repair the row, or set task.num_labels"
                )
        number = float if self.is_regression else int
        return {self.label: [number(label) for label in columns[self.label]]}

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize sentences or pairs, truncated to `max_length` and to `positions`."""
        texts = [examples.columns[column] for column in self.sentences]
        return self.labeled(
            tokenize(texts, tokenizer, min(self.max_length, positions), device), examples
        )

    def labeled(self, encoded: Encoded, examples: Examples) -> Encoded:
        """Add the labels to tokenized examples, if there are any."""
        if self.label is None:
            return encoded
        dtype = torch.float32 if self.is_regression else torch.int64
        return encoded.with_labels(torch.tensor(examples.columns[self.label], dtype=dtype).unbind())

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, int]:
        """Return the cross-entropy for classes, or the squared error for numbers."""
        return (squared_error if self.is_regression else cross_entropy)(output, batch)

    def metric(self) -> Metric:
        """Return a metric over all predictions together."""
        return Predictions(self)

    def scores(self, output: Any, batch: Batch) -> list[list[float]]:
        """Return the logit of each class, or the predicted number."""
        scores: list[list[float]] = output.logits.float().cpu().tolist()
        return scores

    def chosen(self, scores: Sequence[Sequence[float]], examples: Examples) -> list[Any]:
        """Return the class with the highest logit, or the predicted number."""
        return [row[0] if self.is_regression else highest(row) for row in scores]

    def _label_key(self) -> dict[str, str]:
        """The column of labels, if there is one, with the setting that names it."""
        return {} if self.label is None else {self.label: "task.label"}

    def _is_label(self, label: Any) -> bool:
        if isinstance(label, bool) or not isinstance(label, int | float):
            return False
        if self.is_regression:
            return math.isfinite(label)
        return isinstance(label, int) and 0 <= label < self.num_labels

    def _labels_wanted(self) -> str:
        if self.is_regression:
            return "finite numbers"
        return f"whole numbers 0 to {self.num_labels - 1}"


@dataclass
class Predictions(Metric):
    """Collects logits and labels, because correlations and F1 are not means over batches."""

    task: Classification
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def update(self, output: Any, batch: Batch) -> None:
        """Collect the batch's logits and labels, on the CPU."""
        self.logits.append(output.logits.float().cpu())
        self.labels.append(batch[LABELS].cpu())

    def absorb(self, other: Self) -> None:
        """Append the other's logits and labels."""
        self.logits += other.logits
        self.labels += other.labels

    def compute(self) -> dict[str, float]:
        """Return the mean loss and the metrics over all predictions."""
        logits, labels = torch.cat(self.logits), torch.cat(self.labels)
        total, count = self.task.loss(SimpleNamespace(logits=logits), {LABELS: labels})
        predicted = logits.squeeze(-1) if self.task.is_regression else logits.argmax(-1)
        numbers: Sequence[float] = predicted.double().tolist()
        return {
            "loss": total.item() / count,
            **{name: self.measure(name, labels.tolist(), numbers) for name in self.task.metrics},
        }

    def measure(self, name: str, labels: Sequence[float], predicted: Sequence[float]) -> float:
        """Compute one metric over all predictions."""
        return compute_metric(name, labels, predicted)
