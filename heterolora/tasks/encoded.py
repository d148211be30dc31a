"""A tokenized split, and its batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from heterolora.losses import GROUPS, LABELS
from heterolora.seeding import torch_generator


@dataclass(frozen=True)
class Encoded:
    """A tokenized split.

    Attributes:
        features: for each model input (`input_ids`, `attention_mask`, ...) and for `labels`, a
            tensor for each of n examples: tokens (length,), or a label ().
        padding: what tokens are padded with, on the right.
        device: where batches go.
        truncated: how many examples are longer than `limit`.
        dropped: how many were left out, since `limit` left nothing of them to learn.
        limit: the most tokens that an example was allowed to keep.
        multiple: of what the length of a shuffled batch is, but for `limit`.
        window: how many shuffled batches share examples of like length; None for pure chance.
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
        """Those of all examples, where each has one, (n,)."""
        return torch.stack(list(self.features[LABELS]))

    def batches(self, size: int) -> int:
        """How many batches of `size` all examples make; the last may be smaller."""
        return -(-len(self) // size)

    def batch(self, indices: Sequence[int], multiple: int = 1) -> dict[str, Tensor]:
        """The examples `indices`, padded to the longest of them.

        Args:
            indices: of the examples.
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
        """The first `count` examples (all by default) in dataset order, `size` at a time."""
        return self._cut(range(len(self))[:count], size)

    def shuffled(
        self, size: int, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """Every example once, in the order that `seed` gives `epoch`, `size` at a time.

        The first `skip` batches are left out.
        """
        generator = torch_generator(seed, "order", epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        if self.window is not None:
            order = self._grouped(order, size, self.window, generator)
        return self._cut(order[skip * size :], size, self.multiple)

    def halves(self) -> tuple["Encoded", "Encoded"]:
        """Two disjoint random halves of the examples, the same ones in every run.

        Where examples have groups, these are halved, and none of them is divided.
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

    def subset(self, indices: Sequence[int]) -> "Encoded":
        """Some of the examples."""
        features = {name: [rows[i] for i in indices] for name, rows in self.features.items()}
        return replace(self, features=features)

    def with_labels(self, labels: Sequence[Tensor], padding: int = -100) -> "Encoded":
        """The same examples with their labels; `padding` is for labels of tokens."""
        return self.with_feature(LABELS, labels, padding)

    def with_feature(self, name: str, values: Sequence[Tensor], padding: int = 0) -> "Encoded":
        """The same examples with one more tensor each; `padding` is for those of tokens."""
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
        """`order` with examples of like length in the same batches, to pad less.

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
        joined = pad_sequence(rows, batch_first=True, padding_value=padding)
        return F.pad(joined, (0, length - joined.shape[1]), value=padding)

    def _there(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; a GPU copies it while the CPU goes on."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _cut(
        self, indices: Sequence[int], size: int, multiple: int = 1
    ) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size], multiple)
