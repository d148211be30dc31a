"""GRAD-NORM by the 1-norm, the decrease of the loss under sign descent."""

from dataclasses import dataclass

from torch import Tensor

from heterolora.proxies.base import DataProxy


@dataclass(frozen=True)
class GradNormL1(DataProxy):
    """GRAD-NORM in L1: `S(M) = ||dL/dA||_1 + ||dL/dB||_1`, over all entries of a matrix.

    A small step of sign descent, `d theta = -eta sign(dL/d theta)`, lowers the loss by eta times
    that (signSGD, https://arxiv.org/abs/1802.04434), as a step of gradient descent lowers it by
    eta times the square of GRAD-NORM's 2-norm. Adam, whose steps have nearly one size at every
    entry, is closer to the former.
    """

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """`sum |gradient|`."""
        return gradient.abs().sum()
