"""Passes through a model that leave it as it is.

It is evaluated as a function of parameters that are passed in (`torch.func.functional_call`), so
that weights, masks, gradients and random generators are as before by construction; only the
training flags are set and put back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from heterolora.adapters import Ranked
from heterolora.adapters.passing import Matrices
from heterolora.losses import Autocast, Batch, Loss, inputs, summed
from heterolora.sites import Site
from heterolora.unpadding import without_padding

AB = dict[Site, Matrices]
"""For each site its A (r, d_in) and its B (d_out, r), or the gradients by them."""


def summed_gradients(
    adapters: Ranked[Any],
    leaves: Sequence[Tensor],
    tensors: Mapping[str, Tensor],
    batches: Iterable[Batch],
    batch_size: int,
    loss: Loss,
    autocast: Autocast,
) -> list[Tensor]:
    """The gradient by each of `leaves` of the losses of all examples, over `batch_size`.

    Args:
        adapters: of the wired model.
        leaves: require gradients.
        tensors: what stands in for tensors of the model, by name; made of the leaves.
        batches: are read to their end.
        batch_size: of the mean losses whose sum is meant.
        loss: from the model's output and a batch to the sum of the losses and their count.
        autocast: the precision in which the model runs.
    """
    totals = wide_zeros(leaves)
    for batch in batches:
        here = {name: moved(value, leaves[0].device) for name, value in batch.items()}
        with autocast(), without_padding():
            output = functional_call(adapters.model, dict(tensors), kwargs=inputs(here))
        total_loss, _ = summed(loss, output, here)
        parts = torch.autograd.grad(total_loss / batch_size, leaves)
        for total, part in zip(totals, parts, strict=True):
            total += part
    return totals


def wide_zeros(like: Sequence[Tensor]) -> list[Tensor]:
    """Zeros of these shapes to add up in: in float32 at least."""
    wide = [torch.promote_types(tensor.dtype, torch.float32) for tensor in like]
    return [torch.zeros_like(x, dtype=t) for x, t in zip(like, wide, strict=True)]


def leaves_of(theta: AB) -> list[Tensor]:
    """A and B of every site, one after the other, as leaves that require gradients."""
    return [matrix.requires_grad_() for pair in theta.values() for matrix in pair]


def paired(sites: Iterable[Site], matrices: Sequence[Tensor]) -> AB:
    """By site, what is in the order of `leaves_of`."""
    return dict(zip(sites, zip(matrices[::2], matrices[1::2], strict=True), strict=True))


def first(batches: Iterable[Batch], count: int, size: int) -> Iterator[Batch]:
    """The first `count` examples of `batches`, at most `size` at a time."""
    left = count
    for batch in batches:
        there = len(next(iter(batch.values())))
        rows = min(there, left)
        if rows == there <= size:
            yield batch  # which may have more in it than a row for each example
        else:
            for start in range(0, rows, size):
                end = min(start + size, rows)
                yield {name: tensor[start:end] for name, tensor in batch.items()}
        left -= rows
        if left == 0:
            return


def mask_of(batch: Batch) -> Tensor:
    """Which tokens are not padding, (n, length)."""
    mask, ids = batch.get("attention_mask"), batch["input_ids"]
    if mask is None and "position_ids" in batch:  # of packed rows, whose padding is nowhere
        return (batch["position_ids"] >= 0).to(ids.dtype)
    return torch.ones_like(ids) if mask is None else mask


def moved(value: Any, device: torch.device) -> Any:
    """A tensor on the device; anything else, such as a length, as it is."""
    return value.to(device) if isinstance(value, Tensor) else value


def overrides(adapters: Ranked[Any], theta: AB) -> dict[str, Tensor]:
    """By name in the model: the matrices of `theta`, every rank on."""
    of = {id(module): name for name, module in adapters.model.named_modules()}
    return {
        f"{of[id(adapter.module)]}.{name}": tensor
        for site, adapter in adapters.items()
        for name, tensor in adapter.substitutes(*theta[site]).items()
    }


def as_they_stand(adapters: Ranked[Any]) -> dict[str, Tensor]:
    """By name in the model: A and B of every site as they are, every rank on."""
    return overrides(adapters, {site: adapter.matrices for site, adapter in adapters.items()})


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every module is in training mode or not, as it was."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
