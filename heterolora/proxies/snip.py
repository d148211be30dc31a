"""SNIP (paper, Appendix C.2; https://arxiv.org/abs/1810.02340)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.proxies.base import DataProxy, Weights
from heterolora.settings import setting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Snip(DataProxy):
    """SNIP: `S(M) = sum over theta in A, B of |theta dL/dtheta|`.

    The gradient with respect to a mask c on theta, at c = 1, is theta dL/dtheta; its absolute value
    is the sensitivity.
    """

    weights: Weights = setting(
        "probe",
        help="draw B like A while all are zero (probe), or use its values (current, the paper)",
    )

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return `sum |theta gradient|`."""
        return (theta * gradient).abs().sum()
