"""What a task is: everything that depends on what the model is to learn."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from heterolora.losses import Batch
from heterolora.seeding import torch_generator
from heterolora.settings import Settings
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.metrics import METRICS

Columns = Mapping[str, Sequence[Any]]
"""The rows of a dataset by column."""


@dataclass(frozen=True)
class Examples:
    """The rows of one split that a task has checked.

    Attributes:
        columns: those that the task reads, in its order, of n values each.
    """

    columns: Mapping[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The values of each example, in the order of the columns."""
        return zip(*self.columns.values(), strict=True)

    def limited(self, count: int) -> "Examples":
        """A random part of `count` rows in their order, the same in every run; all if fewer.

        A smaller part is within a larger one.
        """
        order = torch.randperm(len(self), generator=torch_generator(0, "limit")).tolist()
        return self._at(sorted(order[:count]))

    def parted(self, count: int) -> tuple["Examples", "Examples"]:
        """All but a random part of `count` rows, and that part; the same ones in every run."""
        order = torch.randperm(len(self), generator=torch_generator(0, "held out")).tolist()
        return self._at(sorted(order[count:])), self._at(sorted(order[:count]))

    def fingerprint(self) -> str:
        """Sixteen hex digits of the content, to tell whether a dataset has changed."""
        digest = hashlib.sha256()
        for row in self.rows():
            digest.update(repr(row).encode())
        return digest.hexdigest()[:16]

    def _at(self, indices: Sequence[int]) -> "Examples":
        return Examples({name: [rows[i] for i in indices] for name, rows in self.columns.items()})


class Metric(ABC):
    """The loss and metrics of a split, from its batches one after another."""

    @abstractmethod
    def update(self, output: Any, batch: Batch) -> None:
        """Take in the model's output for a batch."""

    @abstractmethod
    def absorb(self, other: Self) -> None:
        """Take in what another one was given, as if its batches came next."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The mean loss (`loss`), then the task's metrics, over all that was taken in."""


@dataclass(frozen=True, kw_only=True)
class Task(Settings, ABC):
    """What a model is to learn: its class, its inputs, its loss and its metrics.

    Attributes:
        metrics: the names of its metrics; the first chooses the best epoch.
    """

    metrics: tuple[str, ...]

    @property
    @abstractmethod
    def model_class(self) -> Any:
        """The class of transformers that loads a model with a head for it."""

    @property
    def model_options(self) -> Mapping[str, Any]:
        """What `model_class.from_pretrained` is given for the head."""
        return {}

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of a dataset that it reads."""

    @property
    def has_labels(self) -> bool:
        """Whether its examples have what the loss needs."""
        return True

    @property
    def needs_decoder(self) -> bool:
        """Whether its model must read from left to right."""
        return False

    @property
    def packs(self) -> bool:
        """Whether several of its training examples share a row."""
        return False

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of a dataset that are texts, whatever they look like in a CSV file."""
        return ()

    @property
    def is_settled(self) -> bool:
        """Whether it needs nothing of the training data to be complete; see `settled`."""
        return True

    def settled(self, columns: Columns, where: str) -> dict[str, Any]:
        """The settings that the training data decides, where they were not given.

        Raises:
            DataError: if it cannot.
        """
        return {}

    def problems(self) -> Iterable[str]:
        """What is wrong with its settings taken together: `key=value: rule; remedy`."""
        return ()

    @abstractmethod
    def check(self, columns: Columns, where: str) -> Examples:
        """Check every row of a split.

        Args:
            columns: of the split, at least those that it reads.
            where: what to call the split in an error.

        Raises:
            DataError: naming the first row that breaks a rule, and the rule.
        """

    @abstractmethod
    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize a split, truncated to what the task and the model's `positions` allow."""

    def encode_evaluation(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize a split that is evaluated; as one that is trained on unless a task differs."""
        return self.encode(examples, tokenizer, positions, device)

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor | int]:
        """The sum of the losses of a batch, and how many were summed."""

    def count(self, batch: Batch) -> Tensor | int:
        """How many losses `loss` sums for a batch."""
        return len(batch["labels"])

    @abstractmethod
    def metric(self) -> Metric:
        """A new one, to be given the batches of a split."""

    def unit(self, name: str) -> str:
        """The unit in which a metric is shown: `%` is a hundred times its value."""
        return METRICS[name.removeprefix("report_")].unit

    def higher_is_better(self, name: str) -> bool:
        """The direction of a metric, or of one with a prefix, such as `report_accuracy`."""
        return METRICS[name.removeprefix("report_")].higher_is_better
