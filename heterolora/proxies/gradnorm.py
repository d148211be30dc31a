"""GRAD-NORM (paper, Appendix C.4; https://arxiv.org/abs/2101.08134)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from heterolora.proxies.base import DataProxy


@dataclass(frozen=True)
class GradNorm(DataProxy):
    """GRAD-NORM: `S(M) = ||dL/dA||_2 + ||dL/dB||_2`, L2 norms over all entries of a matrix."""

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return `||gradient||_2`."""
        norm: Tensor = torch.linalg.vector_norm(gradient)
        return norm
