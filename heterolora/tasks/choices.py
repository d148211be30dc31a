"""A tokenized split whose examples are queries with choices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heterolora.tasks.encoded import Encoded


@dataclass(frozen=True)
class Choices(Encoded):
    """Examples of several texts each.

    Tokens of an example are (choices, length), and whatever measures its choices is (choices,).
    Batches are padded to the longest text and to the most choices: (n, choices, length).
    """

    def _lengths(self, indices: Sequence[int]) -> list[int]:
        rows = self.features["input_ids"]
        return [rows[i].shape[1] for i in indices]

    def _join(self, name: str, rows: list[Tensor], length: int) -> Tensor:
        most = max(len(row) for row in rows)
        sizes = (len(rows), most, *([length] if rows[0].dim() > 1 else []))
        # As wide as models read tokens, which are kept in fewer bytes.
        wide = rows[0].dtype if rows[0].is_floating_point() else torch.int64
        joined = torch.full(sizes, self.padding[name], dtype=wide)
        for one, row in zip(joined, rows, strict=True):
            one[tuple(slice(size) for size in row.shape)] = row
        return joined
