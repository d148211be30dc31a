"""Packing: several short examples in one row, each processed as if it were alone.

A packed row (length,) has `input_ids`, `position_ids` that restart at 0 with each of its examples,
and `labels`. It has no `attention_mask`: the restart of the positions tells the model where an
example ends (`heterolora.architectures.packed_rows`).
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heterolora.losses import LABELS
from heterolora.settings import setting, torch
from heterolora.tasks.base import Examples
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.next_token import NextToken

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

NOWHERE = -1
"""The position ID of padding tokens, each of which is then an example of its own."""


@dataclass(frozen=True, kw_only=True)
class Packable(NextToken):
    """A language modeling task whose examples can share rows.

    Only training data is packed. A row then counts as an example: in `training.batch_size`, in the
    steps per epoch, in a proxy's sample. The loss of a step is the mean over all tokens of its rows
    that have a loss, in whatever example, so packing changes which examples a step contains, but
    not what any of them contributes.
    """

    packing: bool = setting(
        False, help="pack short training examples into rows of max_length tokens"
    )

    @abstractmethod
    def encode_alone(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize a split, with each example in a row of its own."""

    @property
    def packs(self) -> bool:
        """Whether packing is enabled."""
        return self.packing

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize training data, packed if packing is enabled."""
        encoded = self.encode_alone(examples, tokenizer, positions, device)
        return packed(encoded, min(self.max_length, positions)) if self.packing else encoded

    def encode_evaluation(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize evaluation data, never packed, so that metrics are comparable."""
        return self.encode_alone(examples, tokenizer, positions, device)


def packed(encoded: Encoded, length: int) -> Encoded:
    """Pack the examples of a language model into rows of at most `length` tokens.

    The first token of an example gets no label: the token before it in the row belongs to another
    example, and it has no loss where the example is alone either.

    Args:
        encoded: examples with `input_ids` and `labels`, (length,) each.
        length: the maximum length of a row; no example is longer.
    """
    ids, labels = encoded.features["input_ids"], encoded.features[LABELS]
    rows = together([len(row) for row in ids], length)
    features = {
        "input_ids": [torch.cat([ids[i] for i in row]) for row in rows],
        "position_ids": [torch.cat([torch.arange(len(ids[i])) for i in row]) for row in rows],
        LABELS: [torch.cat([_without_first(labels[i]) for i in row]) for row in rows],
    }
    padding = {
        "input_ids": encoded.padding["input_ids"],
        "position_ids": NOWHERE,
        LABELS: encoded.padding[LABELS],
    }
    return replace(encoded, features=features, padding=padding)


def together(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Assign examples to rows: each goes to the fullest row that has room for it (best fit).

    Rows are in the order of their first examples, and the examples of a row in theirs, so that the
    first rows hold the first examples.

    Args:
        lengths: the lengths of the examples, in order.
        room: the length of a row.
    """
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # room left and index of each row that is not full
    for example, length in enumerate(lengths):
        at = bisect_left(left, (length, 0))
        if at == len(left):
            free, row = room, len(rows)
            rows.append([])
        else:
            free, row = left.pop(at)
        rows[row].append(example)
        if free > length:
            insort(left, (free - length, row))
    return rows


def _without_first(labels: Tensor) -> Tensor:
    return torch.cat([labels.new_full((1,), -100), labels[1:]])
