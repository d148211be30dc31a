"""Collect the gradients that an adapter would have in training, without adding its output."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Matrices = tuple[Tensor, Tensor]
"""A (r, d_in) and B (d_out, r), or the gradients with respect to them."""


def passing(y: Tensor, x: Tensor, weights: Matrices, scaling: float, sums: Matrices) -> Tensor:
    """Return `y`, and in the backward pass add to `sums` the gradients of `y + scaling B A x`.

    With g the gradient with respect to y, and one token per row of x and g, these are
    `scaling (g B)^T x` for A and `scaling g^T (x A^T)` for B. Neither the value of y nor any other
    gradient changes.

    Args:
        y: (..., d_out). A gradient flows to it even if it does not require one.
        x: (..., d_in), with as many rows as `y`.
        weights: A and B.
        scaling: the scaling factor of the adapter.
        sums: the sums of the gradients for A and B, changed in place.
    """
    leaf = torch.empty(0, requires_grad=True)
    function: Any = _Passing  # mypy considers `apply` untyped
    passed: Tensor = function.apply(y, x.detach(), weights, scaling, sums, leaf)
    return passed


class _Passing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        weights: Matrices,
        scaling: float,
        sums: Matrices,
        leaf: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weights, ctx.scaling, ctx.sums = weights, scaling, sums
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (a, b), (sum_a, sum_b) = ctx.saved_tensors, ctx.weights, ctx.sums
        rows, gradients = (tensor.flatten(0, -2).to(a.dtype) for tensor in (x, g))
        sum_a.addmm_((gradients @ b).T, rows, alpha=ctx.scaling)
        sum_b.addmm_(gradients.T, rows @ a.T, alpha=ctx.scaling)
        return g, None, None, None, None, None
