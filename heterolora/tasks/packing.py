"""Several short examples in one row, each as if it were alone.

A packed row (length,) has `input_ids`, `position_ids` that begin at 0 with each of its examples,
and `labels`. It has no `attention_mask`: that positions begin anew is what tells a model where an
example ends (`heterolora.architectures.packed_rows`).
"""

from abc import abstractmethod
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from heterolora.losses import LABELS
from heterolora.settings import setting
from heterolora.tasks.base import Examples
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.next_token import NextToken

NOWHERE = -1
"""The position of padding, each of which is then an example of its own."""


@dataclass(frozen=True, kw_only=True)
class Packable(NextToken):
    """A language model's task whose examples can share rows.

    Only what is trained on is packed. A row is then what counts as an example: in
    `training.batch_size`, in the steps of an epoch, in a proxy's sample. The loss of a step is the
    mean over all tokens of its rows that have a loss, wherever they lie, so that packing changes
    which examples a step has, and not what any of them contributes.
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
        """Tokenize a split, each example in a row of its own."""

    @property
    def packs(self) -> bool:
        """Where that is asked for."""
        return self.packing

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize what is trained on, packed where that is asked for."""
        encoded = self.encode_alone(examples, tokenizer, positions, device)
        return packed(encoded, min(self.max_length, positions)) if self.packing else encoded

    def encode_evaluation(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize what is evaluated, never packed, so that its numbers can be compared."""
        return self.encode_alone(examples, tokenizer, positions, device)


def packed(encoded: Encoded, length: int) -> Encoded:
    """The examples of a language model in rows of at most `length` tokens.

    The first token of an example is what the one before it in the row would predict; it has no
    label, as it has no loss where the example is alone.

    Args:
        encoded: with `input_ids` and `labels` (length,) of each example.
        length: of a row; no example is longer.
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
    """Which examples share a row: each goes to the fullest row that can take it (best fit).

    Rows are in the order of their first examples, and examples in theirs, so that the first rows
    are of the first examples.

    Args:
        lengths: of the examples, in order.
        room: of a row.
    """
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # of each row that is not full its room and its number
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
