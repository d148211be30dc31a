"""Classification of a user's own texts, with words, whole numbers or booleans as labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heterolora.errors import DataError, Problem, printable
from heterolora.settings import Situation, setting
from heterolora.tasks.base import Columns, Examples
from heterolora.tasks.classification import Classification
from heterolora.tasks.predicting import highest
from heterolora.tasks.tokens import check_columns


@dataclass(frozen=True, kw_only=True)
class TextClassification(Classification):
    """Classify texts or pairs of texts of your own, with the classes in the training data."""

    text: str = setting(help="the column of the texts", example="text")
    text_pair: str | None = setting(
        None, help="the column of the second text, for pairs of texts", example="text_pair"
    )
    labels: tuple[str, ...] | None = setting(
        None,
        help="the classes, in the order of the outputs; null: those in the training data",
        example="[bad,good]",
    )
    sentences: tuple[str, ...] = field(init=False, default=())
    num_labels: int = field(init=False, default=2)

    def __post_init__(self) -> None:
        texts = (self.text,) if self.text_pair is None else (self.text, self.text_pair)
        object.__setattr__(self, "sentences", texts)
        if self.labels is not None:
            object.__setattr__(self, "num_labels", len(self.labels))
        super().__post_init__()

    @property
    def model_options(self) -> Mapping[str, Any]:
        """The size of the head, and the names of its outputs."""
        names = dict(enumerate(self.labels or ()))
        ids = {name: index for index, name in names.items()}
        return {"num_labels": self.num_labels, "id2label": names, "label2id": ids}

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check as for any classification, and that each class is named once."""
        yield from super().problems(situation)
        if self.labels is not None and len({*self.labels}) < max(2, len(self.labels)):
            remedy = "omit it to use the classes in the training data"
            rule = "must name two classes or more, each once"
            yield Problem("labels", self.labels, rule, remedy)

    @property
    def is_settled(self) -> bool:
        """Whether the classes are known."""
        return self.labels is not None or self.label is None

    def settled(self, columns: Columns, where: str) -> dict[str, Any]:
        """Return `labels`: the classes in a split, sorted; numbers in numeric order.

        Raises:
            DataError: if a label cannot be a class, or there are fewer than two classes.
        """
        assert self.label is not None
        check_columns(columns, {self.label: "task.label"}, where)
        found = {_spelled(label, row, where) for row, label in enumerate(columns[self.label])}
        if len(found) < 2:
            raise DataError(
                f"{where}: column '{self.label}' has only one class ({', '.join(found)}); give "
                "examples of two classes or more"
            )
        return {"labels": tuple(sorted(found, key=_place))}

    def checked_labels(self, columns: Columns, where: str) -> dict[str, list[Any]]:
        """Return the class index of each label."""
        if self.label is None:
            return {}
        assert self.labels is not None  # settled with the configuration
        number = {name: index for index, name in enumerate(self.labels)}
        found = []
        for row, label in enumerate(columns[self.label]):
            name = _spelled(label, row, where)
            if name not in number:
                raise DataError(
                    f"{where}: row {row} has label {printable(repr(name))}, but the task has the "
                    f"labels {', '.join(self.labels)}; repair the row, or name all with "
                    "task.labels=[...]"
                )
            found.append(number[name])
        return {self.label: found}

    def chosen(self, scores: Sequence[Sequence[float]], examples: Examples) -> list[Any]:
        """Return the name of the class with the highest logit."""
        assert self.labels is not None
        return [self.labels[highest(row)] for row in scores]


def _spelled(label: Any, row: int, where: str) -> str:
    """Return a label as a word: 3.0 and 3 are `3`, true is `true`.

    Raises:
        DataError: for a number that is not whole, and for any other value.
    """
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    if isinstance(label, int):
        return str(label)
    if isinstance(label, str) and label:
        return label
    raise DataError(
        f"{where}: row {row} has label {printable(repr(label))}, which cannot be a class; repair "
        "the row, or, for regression, set task.kind=classification task.num_labels=1"
    )


def _place(name: str) -> tuple[bool, float, str]:
    """Return a sort key: numbers in numeric order, then words in alphabetical order."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name
