"""From texts to padded batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from heterolora.config import TaskConfig
from heterolora.data.tasks import Examples, label_tensor
from heterolora.seeding import torch_generator

Batch = dict[str, Tensor]
"""`labels` (n,), and the model's inputs, each (n, length): `input_ids`, `attention_mask`, ..."""


@dataclass(frozen=True)
class Encoded:
    """A tokenized split.

    Attributes:
        features: for each model input (`input_ids`, `attention_mask`, ...), n rows of tokens.
        padding: what each input is padded with, on the right.
        labels: (n,).
        device: where batches go.
        truncated: how many examples were cut because the model has no more positions.
    """

    features: dict[str, list[Tensor]]
    padding: dict[str, int]
    labels: Tensor
    device: torch.device
    truncated: int

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> int:
        """How many batches of `size` all examples make; the last may be smaller."""
        return -(-len(self) // size)

    def longest(self, count: int) -> int:
        """The length in tokens of the longest of the first `count` examples."""
        return max(len(row) for row in self.features["input_ids"][:count])

    def batch(self, indices: Sequence[int]) -> Batch:
        """The examples `indices`, padded to the longest of them."""
        batch = {
            name: pad_sequence([rows[i] for i in indices], True, self.padding[name])
            for name, rows in self.features.items()
        }
        batch["labels"] = self.labels[list(indices)]
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def in_order(self, size: int, count: int | None = None) -> Iterator[Batch]:
        """The first `count` examples (all by default) in dataset order, `size` at a time."""
        return self._cut(range(len(self))[:count], size)

    def shuffled(self, size: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Every example once, in the order that `seed` gives `epoch`, `size` at a time.

        The first `skip` batches are left out.
        """
        order = torch.randperm(len(self), generator=torch_generator(seed, "order", epoch))
        return self._cut(order.tolist()[skip * size :], size)

    def halves(self) -> tuple["Encoded", "Encoded"]:
        """Two disjoint random halves of the examples, the same ones in every run."""
        order = torch.randperm(len(self), generator=torch_generator(0, "halves")).tolist()
        middle = (len(order) + 1) // 2
        return self._subset(sorted(order[:middle])), self._subset(sorted(order[middle:]))

    def _subset(self, indices: Sequence[int]) -> "Encoded":
        features = {name: [rows[i] for i in indices] for name, rows in self.features.items()}
        return replace(self, features=features, labels=self.labels[list(indices)])

    def _cut(self, indices: Sequence[int], size: int) -> Iterator[Batch]:
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])


def encode(
    task: TaskConfig,
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    positions: int,
    device: torch.device,
) -> Encoded:
    """Tokenize a split, truncated to `task.max_length` tokens and to the model's `positions`."""
    limit = min(task.max_length, positions)
    encoded = tokenizer(*examples.sentences, truncation=True, max_length=limit)
    truncated = 0
    if positions < task.max_length:
        wanted = tokenizer(*examples.sentences, truncation=True, max_length=task.max_length)
        truncated = sum(len(ids) > positions for ids in wanted["input_ids"])
    assert tokenizer.pad_token_id is not None
    padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    return Encoded(
        features={name: [torch.tensor(row) for row in rows] for name, rows in encoded.items()},
        padding={name: padding.get(name, 0) for name in encoded},
        labels=label_tensor(task, examples.labels),
        device=device,
        truncated=truncated,
    )
