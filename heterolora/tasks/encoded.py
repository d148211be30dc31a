"""A tokenized split and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heterolora.losses import GROUPS, LABELS
from heterolora.seeding import torch_generator
from heterolora.settings import F, torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """A tokenized split.

    Attributes:
        features: for each model input (`input_ids`, `attention_mask`, ...) and for `labels`, a
            tensor for each of the n examples: tokens (length,), or a label ().
        padding: the value with which each feature is padded, on the right.
        device: where batches are placed.
        truncated: how many examples were longer than `limit`.
        dropped: how many examples were left out because `limit` leaves nothing of them to learn.
        limit: the maximum number of tokens per example.
        multiple: the length of a shuffled batch is padded to a multiple of this, up to `limit`.
        window: over how many shuffled batches to group examples of similar length; None for a
            purely random order.
    """

    features: Mapping[str, Sequence[Tensor]]
    padding: Mapping[str, int]
    device: torch.device
    truncated: int = 0
    dropped: int = 0
    limit: int | None = None
    multiple: int = 1
    window: int | None = None

    def __len__(self) -> int:
        return len(self.features["input_ids"])

    @property
    def labels(self) -> Tensor:
        """The labels of all examples, (n,), where each example has one."""
        return torch.stack(list(self.features[LABELS]))

    def batches(self, size: int) -> int:
        """Return the number of batches of `size`; the last may be smaller."""
        return -(-len(self) // size)

    def batch(self, indices: Sequence[int], multiple: int = 1) -> dict[str, Tensor]:
        """Return the examples at `indices`, padded to the longest of them.

        Args:
            indices: the indices of the examples.
            multiple: pad further, to a multiple of this or to `limit`, whichever is less.
        """
        longest = max(self._lengths(indices))
        length = -(-longest // multiple) * multiple
        if self.limit is not None:
            length = max(longest, min(length, self.limit))
        return {
            name: self._there(self._join(name, [rows[i] for i in indices], length))
            for name, rows in self.features.items()
        }

    def in_order(self, size: int, count: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Iterate over the first `count` examples (None: all) in dataset order, in batches."""
        return self._cut(range(len(self))[:count], size)

    def shuffled(
        self, size: int, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """Iterate over every example once, in random order, `size` at a time.

        The order is determined by `seed` and `epoch`. The first `skip` batches are left out.
        """
        generator = torch_generator(seed, "order", epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        if self.window is not None:
            order = self._grouped(order, size, self.window, generator)
        return self._cut(order[skip * size :], size, self.multiple)

    def halves(self) -> tuple[Encoded, Encoded]:
        """Split the examples into two disjoint random halves, the same in every run.

        If examples belong to groups, the groups are split, and no group is divided.
        """
        together: dict[int, list[int]] = {}
        for index in range(len(self)):
            group = int(self.features[GROUPS][index]) if GROUPS in self.features else index
            together.setdefault(group, []).append(index)
        groups = list(together.values())
        order = torch.randperm(len(groups), generator=torch_generator(0, "halves")).tolist()
        middle = (len(order) + 1) // 2
        first, second = (
            sorted(index for group in half for index in groups[group])
            for half in (order[:middle], order[middle:])
        )
        return self.subset(first), self.subset(second)

    def subset(self, indices: Sequence[int]) -> Encoded:
        """Return the examples at `indices`."""
        features = {name: [rows[i] for i in indices] for name, rows in self.features.items()}
        return replace(self, features=features)

    def with_labels(self, labels: Sequence[Tensor], padding: int = -100) -> Encoded:
        """Return the same examples with labels; `padding` applies to labels of tokens."""
        return self.with_feature(LABELS, labels, padding)

    def with_feature(self, name: str, values: Sequence[Tensor], padding: int = 0) -> Encoded:
        """Return the same examples with one more feature; `padding` applies to token features."""
        return replace(
            self,
            features={**self.features, name: values},
            padding={**self.padding, name: padding},
        )

    def _lengths(self, indices: Sequence[int]) -> list[int]:
        rows = self.features["input_ids"]
        return [len(rows[i]) for i in indices]

    def _grouped(
        self, order: Sequence[int], size: int, window: int, generator: torch.Generator
    ) -> list[int]:
        """Reorder `order` so that batches contain examples of similar length, to reduce padding.

        The examples of `window` batches are sorted by length and cut into batches, which are then
        put in random order. A last batch that is smaller stays the last.
        """
        grouped: list[int] = []
        for start in range(0, len(order), window * size):
            here = order[start : start + window * size]
            lengths = dict(zip(here, self._lengths(here), strict=True))
            rest = here[len(here) // size * size :]
            whole = sorted(here[: len(here) - len(rest)], key=lengths.__getitem__)
            for batch in torch.randperm(len(whole) // size, generator=generator).tolist():
                grouped += whole[batch * size : (batch + 1) * size]
            grouped += rest
        return grouped

    def _join(self, name: str, rows: list[Tensor], length: int) -> Tensor:
        if rows[0].dim() == 0:
            return torch.stack(rows)
        padding = self.padding[name]
        joined = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
        return F.pad(joined, (0, length - joined.shape[1]), value=padding)

    def _there(self, tensor: Tensor) -> Tensor:
        """Move the tensor to the device; copies to a GPU are asynchronous."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _cut(
        self, indices: Sequence[int], size: int, multiple: int = 1
    ) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size], multiple)
