"""GRAD-NORM (paper, Appendix C.4; https://arxiv.org/abs/2101.08134)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.proxies.base import DataProxy
from heterolora.settings import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GradNorm(DataProxy):
    """GRAD-NORM: `S(M) = ||dL/dA||_2 + ||dL/dB||_2`, L2 norms over all entries of a matrix."""

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return `||gradient||_2`."""
        norm: Tensor = torch.linalg.vector_norm(gradient)
        return norm
