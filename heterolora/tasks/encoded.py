"""A tokenized split, and its batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from heterolora.seeding import torch_generator

LABELS = "labels"


@dataclass(frozen=True)
class Encoded:
    """A tokenized split.

    Attributes:
        features: for each model input (`input_ids`, `attention_mask`, ...) and for `labels`, a
            tensor for each of n examples: tokens (length,), or a label ().
        padding: what tokens are padded with, on the right.
        device: where batches go.
        truncated: how many examples are longer than `limit`.
        limit: the most tokens that an example was allowed to keep.
    """

    features: Mapping[str, Sequence[Tensor]]
    padding: Mapping[str, int]
    device: torch.device
    truncated: int = 0
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.features["input_ids"])

    @property
    def labels(self) -> Tensor:
        """Those of all examples, where each has one, (n,)."""
        return torch.stack(list(self.features[LABELS]))

    def batches(self, size: int) -> int:
        """How many batches of `size` all examples make; the last may be smaller."""
        return -(-len(self) // size)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The examples `indices`, padded to the longest of them."""
        batch = {
            name: self._join(name, [rows[i] for i in indices])
            for name, rows in self.features.items()
        }
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def in_order(self, size: int, count: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The first `count` examples (all by default) in dataset order, `size` at a time."""
        return self._cut(range(len(self))[:count], size)

    def shuffled(
        self, size: int, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """Every example once, in the order that `seed` gives `epoch`, `size` at a time.

        The first `skip` batches are left out.
        """
        order = torch.randperm(len(self), generator=torch_generator(seed, "order", epoch))
        return self._cut(order.tolist()[skip * size :], size)

    def halves(self) -> tuple["Encoded", "Encoded"]:
        """Two disjoint random halves of the examples, the same ones in every run."""
        order = torch.randperm(len(self), generator=torch_generator(0, "halves")).tolist()
        middle = (len(order) + 1) // 2
        return self.subset(sorted(order[:middle])), self.subset(sorted(order[middle:]))

    def subset(self, indices: Sequence[int]) -> "Encoded":
        """Some of the examples."""
        features = {name: [rows[i] for i in indices] for name, rows in self.features.items()}
        return replace(self, features=features)

    def with_labels(self, labels: Sequence[Tensor], padding: int = -100) -> "Encoded":
        """The same examples with their labels; `padding` is for labels of tokens."""
        return replace(
            self,
            features={**self.features, LABELS: labels},
            padding={**self.padding, LABELS: padding},
        )

    def _join(self, name: str, rows: list[Tensor]) -> Tensor:
        if rows[0].dim() == 0:
            return torch.stack(rows)
        return pad_sequence(rows, batch_first=True, padding_value=self.padding[name])

    def _cut(self, indices: Sequence[int], size: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])
