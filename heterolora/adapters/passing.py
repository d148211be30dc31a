"""The gradients of an adapter whose output is left out, from what passes by it in training."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Matrices = tuple[Tensor, Tensor]
"""A (r, d_in) and B (d_out, r), or the gradients by them."""


def passing(y: Tensor, x: Tensor, weights: Matrices, scaling: float, sums: Matrices) -> Tensor:
    """`y`, whose gradient adds to `sums` what `y + scaling B A x` would give A and B.

    With g the gradient by y, and each row of x and g a token, that is `scaling (g B)^T x` for A
    and `scaling g^T (x A^T)` for B. Neither the value of y nor any other gradient changes.

    Args:
        y: (..., d_out). A gradient flows to it even if it needs none.
        x: (..., d_in), of as many rows.
        weights: A and B.
        scaling: of the adapter.
        sums: of gradients; changed in place.
    """
    leaf = torch.empty(0, requires_grad=True)
    function: Any = _Passing  # mypy finds `apply` without types
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
