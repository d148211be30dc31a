"""Passes through a model that leave it as it is.

The model is evaluated as a function of parameters that are passed in
(`torch.func.functional_call`), so that weights, masks, gradients and random generators are
unchanged by construction; only the training flags are set and restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from heterolora.losses import Autocast, Batch, Loss, inputs, summed
from heterolora.settings import torch
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import Tensor, nn

    from heterolora.adapters import Ranked
    from heterolora.adapters.gradient_tap import Matrices

AB = dict[Site, "Matrices"]
"""For each site, its A (r, d_in) and B (d_out, r), or the gradients with respect to them."""


def summed_gradients(
    adapters: Ranked[Any],
    leaves: Sequence[Tensor],
    tensors: Mapping[str, Tensor],
    batches: Iterable[Batch],
    batch_size: int,
    loss: Loss,
    autocast: Autocast,
) -> list[Tensor]:
    """Return the gradients of the summed losses over `batch_size` with respect to `leaves`.

    Args:
        adapters: the adapters of the wired model.
        leaves: the tensors to differentiate with respect to, which require gradients.
        tensors: replacements for tensors of the model, by name, computed from the leaves.
        batches: the batches, which are read to their end.
        batch_size: the number of examples in each of the mean losses that are to be summed.
        loss: maps the model's output and a batch to the sum of the losses and their count.
        autocast: makes the context that sets the precision of the forward pass.
    """
    from heterolora.kernels.unpadding import without_padding

    totals = wide_zeros(leaves)
    for batch in batches:
        here = {name: moved(value, leaves[0].device) for name, value in batch.items()}
        with autocast(), without_padding():
            output = torch.func.functional_call(adapters.model, dict(tensors), kwargs=inputs(here))
        total_loss, _ = summed(loss, output, here)
        parts = torch.autograd.grad(total_loss / batch_size, leaves)
        for total, part in zip(totals, parts, strict=True):
            total += part
    return totals


def wide_zeros(like: Sequence[Tensor]) -> list[Tensor]:
    """Return zeros of these shapes to accumulate in, in float32 at least."""
    wide = [torch.promote_types(tensor.dtype, torch.float32) for tensor in like]
    return [torch.zeros_like(x, dtype=t) for x, t in zip(like, wide, strict=True)]


def leaves_of(theta: AB) -> list[Tensor]:
    """Return A and B of every site, in turn, as leaves that require gradients."""
    return [matrix.requires_grad_() for pair in theta.values() for matrix in pair]


def paired(sites: Iterable[Site], matrices: Sequence[Tensor]) -> AB:
    """Group by site the matrices of a list in the order of `leaves_of`."""
    return dict(zip(sites, zip(matrices[::2], matrices[1::2], strict=True), strict=True))


def first(batches: Iterable[Batch], count: int, size: int) -> Iterator[Batch]:
    """Yield the first `count` examples of `batches`, at most `size` at a time."""
    left = count
    for batch in batches:
        there = len(next(iter(batch.values())))
        rows = min(there, left)
        if rows == there <= size:
            yield batch  # uncut: not every entry need have one row per example
        else:
            for start in range(0, rows, size):
                end = min(start + size, rows)
                yield {name: tensor[start:end] for name, tensor in batch.items()}
        left -= rows
        if left == 0:
            return


def mask_of(batch: Batch) -> Tensor:
    """Return which tokens are not padding, (n, length)."""
    mask, ids = batch.get("attention_mask"), batch["input_ids"]
    if mask is None and "position_ids" in batch:  # packed rows; padding is at position -1
        return (batch["position_ids"] >= 0).to(ids.dtype)
    return torch.ones_like(ids) if mask is None else mask


def moved(value: Any, device: torch.device) -> Any:
    """Return a tensor on `device`; anything else, such as a length, unchanged."""
    return value.to(device) if isinstance(value, torch.Tensor) else value


def overrides(adapters: Ranked[Any], theta: AB) -> dict[str, Tensor]:
    """Return the matrices of `theta` by their names in the model, with every rank on."""
    of = {id(module): name for name, module in adapters.model.named_modules()}
    return {
        f"{of[id(adapter.module)]}.{name}": tensor
        for site, adapter in adapters.items()
        for name, tensor in adapter.substitutes(*theta[site]).items()
    }


def as_they_stand(adapters: Ranked[Any]) -> dict[str, Tensor]:
    """Return the current A and B of every site by their names in the model, with every rank on."""
    return overrides(adapters, {site: adapter.matrices for site, adapter in adapters.items()})


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off within the context, and restore every module's training flag after it."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
