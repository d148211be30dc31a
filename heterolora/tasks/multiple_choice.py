"""Multiple choice: the head scores each choice, and the highest score is the query's answer."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from heterolora.errors import DataError, Problem, printable
from heterolora.losses import CHOICES, CREDITS, LABELS, Batch, choice_cross_entropy, choice_scores
from heterolora.settings import Situation, setting, torch
from heterolora.tasks.base import Columns, Examples, Metric
from heterolora.tasks.choices import Choices
from heterolora.tasks.predicting import Predicting, highest
from heterolora.tasks.prompted import fields_of, filled, template_problems
from heterolora.tasks.tokens import check_columns, check_texts, tokenize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

CHOICE = "choice"
"""The name of the choice in templates."""


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Predicting):
    """Choose the right one among a query's choices, by a softmax over them.

    `choices` names either one column per choice, and the label is the index of the right one; or
    one column of lists of texts, and the label is the list of those that are right.
    """

    metrics: tuple[Literal["accuracy", "exact_match", "token_f1"], ...] = setting(
        help="metrics to report; the first selects the best epoch", example="[accuracy]"
    )
    sentences: tuple[str, ...] = setting(
        help="one or two templates, in which {column} stands for a column's text and {choice} "
        "for the choice",
        example="['{premise}', '{choice}']",
    )
    choices: tuple[str, ...] = setting(
        help="the columns of the choices, or one column with lists of choices",
        example="[choice1,choice2]",
    )
    placeholder: str | None = setting(
        None, help="text that the choice replaces; null: none", example="@placeholder"
    )

    @property
    def of_texts(self) -> bool:
        """Whether choices come as a list of texts, and so do the right answers."""
        return len(self.choices) == 1

    @property
    def compares_inputs(self) -> bool:
        """True: the scores of a query's choices, each with its own input."""
        return True

    @property
    def model_class(self) -> Any:
        """Any model with a head on the whole sequence."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    @property
    def model_options(self) -> Mapping[str, Any]:
        """The size of the head: a single score."""
        return {"num_labels": 1}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the templates and the choices, and that of the label."""
        label = [self.label] if self.label is not None else []
        return tuple(dict.fromkeys([*self._fields(), *self.choices, *label]))

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check that there are labels, templates contain the choice, and metrics fit the labels."""
        yield from super().problems(situation)
        if self.label is None:
            remedy = "name their column with `label=COLUMN`"
            yield Problem("label", None, "fine-tuning needs labels", remedy)
        if not 1 <= len(self.sentences) <= 2:
            remedy = "for example `sentences=['{premise}','{choice}']`"
            yield Problem("sentences", self.sentences, "must be one template or two", remedy)
        for template in self.sentences:
            yield from template_problems("sentences", template, self.label)
        if self.placeholder is None and CHOICE not in fields_of(self.sentences):
            remedy = "write {choice} in one, or set `placeholder=TEXT`"
            yield Problem("sentences", self.sentences, "no template contains the choice", remedy)
        if not self.choices:
            remedy = "for example `choices=[choice1,choice2]`"
            yield Problem("choices", self.choices, "must name their columns", remedy)
        fitting = ["exact_match", "token_f1"] if self.of_texts else ["accuracy"]
        if not self.metrics or not set(self.metrics) <= set(fitting):
            rule = f"must be of {', '.join(fitting)}"
            yield Problem("metrics", self.metrics, rule, "name at least one")

    def check(self, columns: Columns, where: str) -> Examples:
        """Check that every text and choice is a string, and that every label names a choice."""
        keys = dict.fromkeys(self._fields(), "task.sentences")
        keys |= dict.fromkeys(self.choices, "task.choices")
        check_columns(columns, keys | ({self.label: "task.label"} if self.label else {}), where)
        for name in self._fields() if self.of_texts else [*self._fields(), *self.choices]:
            check_texts(columns, name, where)
        choices = self._choices(columns, where)
        made = {name: list(columns[name]) for name in self._fields()} | {CHOICES: choices}
        if self.label is None:
            return Examples(made)
        labels = self._lists(self.label, columns, where) if self.of_texts else columns[self.label]
        for row, (label, there) in enumerate(zip(labels, choices, strict=True)):
            if not any(self._right(label, there)):
                raise DataError(
                    f"{where}: row {row} has {self.label} {printable(repr(label))}, which is not "
                    f"one of its {len(there)} choices; repair or drop that row"
                )
        return Examples(made | {self.label: list(labels)})

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Choices:
        """Tokenize the texts of each query once for each of its choices."""
        features: dict[str, list[Tensor]] = {}
        padding: dict[str, int] = {CHOICES: 0, LABELS: 0, CREDITS: 0}
        limit, truncated = min(self.max_length, positions), 0
        pad = torch.nn.utils.rnn.pad_sequence
        for row in range(len(examples)):
            one = tokenize(self._made(examples, row), tokenizer, limit, device)
            padding |= one.padding
            truncated += bool(one.truncated)
            made = {
                name: pad(list(rows), True, one.padding[name]).to(torch.int32)
                for name, rows in one.features.items()
            }
            for name, tensor in {**made, **self._measures(examples, row)}.items():
                features.setdefault(name, []).append(tensor)
        return Choices(features, padding, device, truncated, limit)

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, int]:
        """Return the cross-entropy over each query's choices; right ones count as their sum."""
        return choice_cross_entropy(output, batch)

    def metric(self) -> Metric:
        """Return a metric over the choices with the highest scores."""
        return Chosen(self)

    def scores(self, output: Any, batch: Batch) -> list[list[float]]:
        """Return the score of each choice."""
        rows = zip(choice_scores(output, batch).cpu(), batch[CHOICES].cpu(), strict=True)
        return [row[there.bool()].tolist() for row, there in rows]

    def chosen(self, scores: Sequence[Sequence[float]], examples: Examples) -> list[Any]:
        """Return the choice with the highest score: its index, or its text if choices are lists."""
        numbers = [highest(row) for row in scores]
        if not self.of_texts:
            return numbers
        rows = zip(examples.columns[CHOICES], numbers, strict=True)
        return [choices[number] for choices, number in rows]

    def _fields(self) -> list[str]:
        return [name for name in fields_of(self.sentences) if name != CHOICE]

    def _choices(self, columns: Columns, where: str) -> list[Any]:
        """Return the choices of each query."""
        if self.of_texts:
            return self._lists(self.choices[0], columns, where)
        return [*zip(*(columns[name] for name in self.choices), strict=True)]

    @staticmethod
    def _lists(name: str, columns: Columns, where: str) -> list[Any]:
        """Return a column of lists of texts, none of them empty.

        Raises:
            DataError: names the first row with anything else.
        """
        for row, texts in enumerate(columns[name]):
            whole = isinstance(texts, list | tuple) and all(isinstance(x, str) for x in texts)
            if not whole or not texts:
                raise DataError(
                    f"{where}: row {row} of column '{name}' must be a list of strings, not "
                    f"{printable(repr(texts))}; repair or drop that row"
                )
        return [tuple(texts) for texts in columns[name]]

    def _made(self, examples: Examples, row: int) -> list[list[str]]:
        """Return for each template its text with each choice of a query."""
        choices = examples.columns[CHOICES][row]
        texts = {CHOICE: choices}
        for name in self._fields():
            text = examples.columns[name][row]
            texts[name] = [
                text if self.placeholder is None else text.replace(self.placeholder, choice)
                for choice in choices
            ]
        return [filled(template, texts) for template in self.sentences]

    def _measures(self, examples: Examples, row: int) -> dict[str, Tensor]:
        """Return which choices exist, which are right, and how much credit each gets."""
        choices = examples.columns[CHOICES][row]
        made = {CHOICES: torch.ones(len(choices), dtype=torch.int32)}
        if self.label is None:
            return made
        label = examples.columns[self.label][row]
        made[LABELS] = torch.tensor(self._right(label, choices), dtype=torch.int32)
        if self.of_texts:
            worth = [max(token_f1(choice, answer) for answer in label) for choice in choices]
            made[CREDITS] = torch.tensor(worth)
        return made

    def _right(self, label: Any, choices: Sequence[str]) -> list[bool]:
        """Return for each choice whether it is right according to the label."""
        if self.of_texts:
            answers = {normalized(answer) for answer in label}
            return [normalized(choice) in answers for choice in choices]
        number = None if isinstance(label, bool) else label
        return [number == index for index in range(len(choices))]


def normalized(answer: str) -> str:
    """Lowercase, and remove punctuation, articles and repeated whitespace, as SQuAD does."""
    plain = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def token_f1(answer: str, truth: str) -> float:
    """Return the F1 over the words of two normalized answers, counting repeated words."""
    said, right = normalized(answer).split(), normalized(truth).split()
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else 0.0


@dataclass
class Chosen(Metric):
    """Accumulates the credit of the choices with the highest scores."""

    task: MultipleChoice
    total: float = 0.0
    queries: int = 0
    right: int = 0
    worth: float = 0.0

    def update(self, output: Any, batch: Batch) -> None:
        """Add the batch's losses, right answers and token F1."""
        total, count = self.task.loss(output, batch)
        self.total += total.item()
        self.queries += count
        best = choice_scores(output, batch).argmax(-1, keepdim=True)
        self.right += int(batch[LABELS].gather(1, best).sum())
        if CREDITS in batch:
            self.worth += float(batch[CREDITS].gather(1, best).sum())

    def absorb(self, other: Self) -> None:
        """Add the other's losses and counts."""
        self.total += other.total
        self.queries += other.queries
        self.right += other.right
        self.worth += other.worth

    def compute(self) -> dict[str, float]:
        """Return the mean loss per query, and the mean of each metric over queries."""
        share = self.right / self.queries
        means = {"accuracy": share, "exact_match": share, "token_f1": self.worth / self.queries}
        return {
            "loss": self.total / self.queries,
            **{name: means[name] for name in self.task.metrics},
        }
