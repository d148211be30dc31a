"""The base class of tasks: everything that depends on what the model is trained to do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from heterolora.errors import Problem
from heterolora.losses import Batch
from heterolora.seeding import torch_generator
from heterolora.settings import Settings, Situation, torch
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.metrics import METRICS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Columns = Mapping[str, Sequence[Any]]
"""The rows of a dataset, by column."""


@dataclass(frozen=True)
class Examples:
    """The rows of one split, checked by a task.

    Attributes:
        columns: the columns that the task reads, in its order, with n values each.
    """

    columns: Mapping[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Iterate over the values of each example, in the order of the columns."""
        return zip(*self.columns.values(), strict=True)

    def limited(self, count: int) -> Examples:
        """Return a random subset of `count` rows in their order, the same in every run.

        A smaller subset is contained in a larger one. If there are fewer rows, all are returned.
        """
        order = torch.randperm(len(self), generator=torch_generator(0, "limit")).tolist()
        return self._at(sorted(order[:count]))

    def parted(self, count: int) -> tuple[Examples, Examples]:
        """Split off a random subset of `count` rows, the same in every run.

        Returns:
            The remaining rows, and the subset.
        """
        order = torch.randperm(len(self), generator=torch_generator(0, "held out")).tolist()
        return self._at(sorted(order[count:])), self._at(sorted(order[:count]))

    def fingerprint(self) -> str:
        """Return sixteen hex digits of the content, to tell whether a dataset has changed."""
        digest = hashlib.sha256()
        for row in self.rows():
            digest.update(repr(row).encode())
        return digest.hexdigest()[:16]

    def _at(self, indices: Sequence[int]) -> Examples:
        return Examples({name: [rows[i] for i in indices] for name, rows in self.columns.items()})


class Metric(ABC):
    """The loss and metrics of a split, accumulated batch by batch."""

    @abstractmethod
    def update(self, output: Any, batch: Batch) -> None:
        """Add the model's output for a batch."""

    @abstractmethod
    def absorb(self, other: Self) -> None:
        """Add what another metric has accumulated, as if its batches came next."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the mean loss (`loss`), then the task's metrics, over all that was added."""


@dataclass(frozen=True, kw_only=True)
class Task(Settings, ABC):
    """What a model is trained to do: its class, its inputs, its loss and its metrics.

    Attributes:
        metrics: the names of the metrics; the first chooses the best epoch.
    """

    metrics: tuple[str, ...]

    @property
    @abstractmethod
    def model_class(self) -> Any:
        """The class of Transformers that loads a model with a head for this task."""

    @property
    def model_options(self) -> Mapping[str, Any]:
        """Keyword arguments of `model_class.from_pretrained` that configure the head."""
        return {}

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of a dataset that the task reads."""

    @property
    def has_labels(self) -> bool:
        """Whether the examples have the labels that the loss needs."""
        return True

    @property
    def needs_decoder(self) -> bool:
        """Whether the model must read from left to right."""
        return False

    @property
    def packs(self) -> bool:
        """Whether several training examples share a row."""
        return False

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of a dataset that are texts, whatever they look like in a CSV file."""
        return ()

    @property
    def is_settled(self) -> bool:
        """Whether the task is complete without looking at the training data; see `settled`."""
        return True

    def settled(self, columns: Columns, where: str) -> dict[str, Any]:
        """Return the settings that the training data determines, where they were not given.

        Raises:
            DataError: if the data does not determine them.
        """
        return {}

    @property
    def compares_inputs(self) -> bool:
        """Whether the loss of an example compares the outputs of several inputs."""
        return False

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield why the settings do not fit together, or the model or the engine not the task."""
        family = situation.family
        if self.needs_decoder and family is not None and not family.decoder:
            yield Problem(
                "model",
                situation.model,
                f"is a {family.model_type} model, which reads in both directions and so sees the "
                f"tokens that `task={self.name}` asks it to predict",
                "choose a decoder, such as `model=opt_125m`",
            )
        if self.packs and situation.engine == "sharded":
            rule = "`engine=sharded` does not support packing"
            yield Problem("packing", True, rule, "set `packing=false`, or `engine=distributed`")

    @abstractmethod
    def check(self, columns: Columns, where: str) -> Examples:
        """Check every row of a split.

        Args:
            columns: the columns of the split, at least those that the task reads.
            where: what to call the split in an error.

        Raises:
            DataError: names the first row that breaks a rule, and the rule.
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
        """Tokenize a split for evaluation; the same as for training unless a task overrides it."""
        return self.encode(examples, tokenizer, positions, device)

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor | int]:
        """Return the sum of the losses of a batch, and how many were summed."""

    def count(self, batch: Batch) -> Tensor | int:
        """Return how many losses `loss` sums for a batch."""
        return len(batch["labels"])

    @abstractmethod
    def metric(self) -> Metric:
        """Return a new metric, to be updated with the batches of a split."""

    def unit(self, name: str) -> str:
        """Return the unit in which a metric is shown: `%` is a hundred times its value."""
        return METRICS[name.removeprefix("report_")].unit

    def higher_is_better(self, name: str) -> bool:
        """Whether a higher value is better; a prefix, as in `report_accuracy`, is ignored."""
        return METRICS[name.removeprefix("report_")].higher_is_better
