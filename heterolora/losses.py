"""Batches, and losses, which return the sum over a batch and the count.

A loss returns sum and count separately, so that the mean over any set of batches is exact
however the examples are split into batches: `mean = (sum of sums) / (sum of counts)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from heterolora.settings import F, torch

if TYPE_CHECKING:
    from torch import Tensor

Batch = Mapping[str, "Tensor"]
"""The model's inputs, each (n, ...), such as `input_ids` and `attention_mask`, and `labels`."""

LABELS, GROUPS, CHOICES, CREDITS = "labels", "groups", "choices", "credits"
"""Entries of a batch that only losses and metrics read, never the model.

Groups (n,) are numbers that the examples of one group have in common. Choices (n, choices) are 1
where there is a choice; inputs are then (n, choices, length), labels are 1 where a choice is
right, and credits are what each choice is worth.
"""

Loss = Callable[[Any, Batch], "tuple[Tensor, Tensor | int]"]
"""`(the model's output, batch) -> (the sum of the losses, how many were summed)`."""

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context in which the model's forward pass runs, which sets its precision."""


def inputs(batch: Batch) -> dict[str, Tensor]:
    """Return what the model is called with: all of a batch but what measures the model's output.

    Choices become rows of their own. A missing choice becomes a row with one token of padding,
    since attention over no tokens is undefined.
    """
    measures = (LABELS, GROUPS, CHOICES, CREDITS)
    given = {name: tensor for name, tensor in batch.items() if name not in measures}
    if CHOICES in batch:
        given = {name: tensor.flatten(0, 1) for name, tensor in given.items()}
        given["attention_mask"] = given["attention_mask"].clone()
        given["attention_mask"][:, 0] = 1
    return given


def summed(loss: Loss, output: Any, batch: Batch) -> tuple[Tensor, Tensor | int]:
    """Return the sum and the count that `loss` computes for a batch.

    Raises:
        TypeError: if it does not return a pair, but for example only a mean loss.
    """
    found = loss(output, batch)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            f"the loss returned a {type(found).__name__}; it must return a pair: the sum of the "
            "losses of the batch, and how many were summed"
        )
    return found


def cross_entropy(output: Any, batch: Batch) -> tuple[Tensor, int]:
    """Return `sum_i -log softmax(logits_i)[label_i]` over n examples.

    Logits are (n, classes), labels (n,).
    """
    labels = batch["labels"]
    return F.cross_entropy(_full(output.logits), labels, reduction="sum"), len(labels)


def squared_error(output: Any, batch: Batch) -> tuple[Tensor, int]:
    """Return `sum_i (logit_i - label_i)^2` over n examples; logits are (n, 1), labels (n,)."""
    logits, labels = _full(output.logits).squeeze(-1), batch["labels"]
    return F.mse_loss(logits, labels.to(logits), reduction="sum"), len(labels)


def choice_scores(output: Any, batch: Batch) -> Tensor:
    """Return the score of each choice (n, choices), -inf where there is none.

    Logits are (n * choices, 1).
    """
    there = batch[CHOICES].bool()
    return _full(output.logits).view(there.shape).masked_fill(~there, -torch.inf)


def choice_cross_entropy(output: Any, batch: Batch) -> tuple[Tensor, int]:
    """Return `sum_i -log sum_{c right} softmax(s_i)_c` over n queries.

    s_i are the scores of the choices of query i.
    """
    scores = choice_scores(output, batch)
    right = scores.masked_fill(batch[LABELS] != 1, -torch.inf)
    return (scores.logsumexp(-1) - right.logsumexp(-1)).sum(), len(scores)


def next_token(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return `sum_t -log p(token_{t+1} | tokens up to t)` over all tokens whose label is not -100.

    Logits are (n, length, vocabulary), labels (n, length) and not shifted. The count stays on the
    device.
    """
    logits, labels = _full(output.logits)[:, :-1], batch["labels"][:, 1:]
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total, (labels != -100).sum()


def token_cross_entropy(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return `sum_t -log p(label_t)` over all tokens whose label is not -100.

    Each label is predicted by the output of its own token. Logits are (n, length, classes), labels
    (n, length). The count stays on the device.
    """
    labels = batch["labels"].flatten()
    total = F.cross_entropy(_full(output.logits).flatten(0, 1), labels, reduction="sum")
    return total, (labels != -100).sum()


def binary_cross_entropy(output: Any, batch: Batch) -> tuple[Tensor, int]:
    """Return the sum over n examples and k labels, each present or not; all tensors are (n, k)."""
    logits, labels = _full(output.logits), batch["labels"]
    total = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
    return total, labels.numel()


def usual_loss(model: Any) -> Loss:
    """Return the loss that transformers trains a model with, from its class and configuration."""
    kind, config = type(model).__name__, model.config
    if kind.endswith(("ForTokenClassification", "ForMaskedLM")):
        return token_cross_entropy
    if kind.endswith("ForSequenceClassification"):
        if config.problem_type == "multi_label_classification":
            return binary_cross_entropy
        if config.num_labels == 1:
            return squared_error
    return default_loss


def default_loss(output: Any, batch: Batch) -> tuple[Tensor, Tensor | int]:
    """Compute the usual loss of a Hugging Face head, chosen by the labels.

    Integers (n,) are classes, floats (n,) the targets of a regression, floats (n, k) labels that
    are present or not, and integers (n, length) the tokens of a language model.

    Raises:
        ValueError: if the output has no logits or the batch no labels.
    """
    if "labels" not in batch or not hasattr(output, "logits"):
        raise ValueError(
            "there is no default loss for a model without logits or batches without labels; give "
            "a function of (output, batch) that returns the sum of the losses and their count"
        )
    labels = batch["labels"]
    if labels.is_floating_point() and labels.dim() > 1:
        return binary_cross_entropy(output, batch)
    if labels.is_floating_point():
        return squared_error(output, batch)
    return cross_entropy(output, batch) if labels.dim() == 1 else next_token(output, batch)


def _full(logits: Tensor) -> Tensor:
    """Convert half precision to float32; leave float64, in which SYNFLOW runs, as it is."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
