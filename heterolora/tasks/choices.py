"""A tokenized split whose examples are queries with choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.settings import torch
from heterolora.tasks.encoded import Encoded

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Choices(Encoded):
    """A tokenized split in which each example consists of several texts, one per choice.

    The tokens of an example have shape (choices, length), and per-choice values have shape
    (choices,). Batches are padded to the longest text and to the most choices: (n, choices,
    length).
    """

    def _lengths(self, indices: Sequence[int]) -> list[int]:
        rows = self.features["input_ids"]
        return [rows[i].shape[1] for i in indices]

    def _join(self, name: str, rows: list[Tensor], length: int) -> Tensor:
        most = max(len(row) for row in rows)
        sizes = (len(rows), most, *([length] if rows[0].dim() > 1 else []))
        # int64, as models expect; integers are stored in a smaller type.
        wide = rows[0].dtype if rows[0].is_floating_point() else torch.int64
        joined = torch.full(sizes, self.padding[name], dtype=wide)
        for one, row in zip(joined, rows, strict=True):
            one[tuple(slice(size) for size in row.shape)] = row
        return joined
