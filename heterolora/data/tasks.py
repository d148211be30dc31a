"""What a task asks for: its examples and its loss."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from heterolora.config import TaskConfig

Loss = Callable[[Tensor, Tensor], Tensor]
"""`(logits (n, labels), labels (n,)) -> the sum of the n examples' losses`, a scalar."""


@dataclass(frozen=True)
class Examples:
    """One split, checked: every text is a string, every label one of the task's.

    Attributes:
        sentences: one list of n texts for each of the task's one or two sentence columns.
        labels: n class indices, or numbers for a regression.
    """

    sentences: tuple[list[str], ...]
    labels: list[int] | list[float]

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Sixteen hex digits of the content, to tell whether a dataset has changed."""
        digest = hashlib.sha256()
        for row in zip(*self.sentences, self.labels, strict=True):
            digest.update(repr(row).encode())
        return digest.hexdigest()[:16]


def summed_loss(task: TaskConfig) -> Loss:
    """Cross-entropy for a classification, squared error for a regression, summed over examples."""
    if task.is_regression:
        return _squared_error
    return _cross_entropy


def _full(logits: Tensor) -> Tensor:
    """Half precisions as float32; float64, in which SYNFLOW runs, as it is."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(_full(logits), labels, reduction="sum")


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(_full(logits).squeeze(-1), labels, reduction="sum")


def label_tensor(task: TaskConfig, labels: Sequence[int] | Sequence[float]) -> Tensor:
    """Labels as the loss wants them: int64 classes, or float32 targets."""
    return torch.tensor(labels, dtype=torch.float32 if task.is_regression else torch.int64)
