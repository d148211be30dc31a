"""GRAD-NORM with the 1-norm, the decrease of the loss under sign descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.proxies.base import DataProxy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GradNormL1(DataProxy):
    """GRAD-NORM in L1: `S(M) = ||dL/dA||_1 + ||dL/dB||_1`, over all entries of a matrix.

    A small step of sign descent, `d theta = -eta sign(dL/d theta)`, lowers the loss by eta times
    this score (signSGD, https://arxiv.org/abs/1802.04434), while a step of gradient descent lowers
    it by eta times the square of GRAD-NORM's 2-norm. Adam, whose steps are of nearly equal size at
    every entry, is closer to sign descent.
    """

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return `sum |gradient|`."""
        return gradient.abs().sum()
