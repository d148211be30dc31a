"""GRAD-SVD: how much of a site's gradient a low-rank update can capture."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies.dense import DenseProxy
from heterolora.proxies.spectral import Gains, Spectral
from heterolora.settings import torch

if TYPE_CHECKING:
    from heterolora.adapters import Ranked


@dataclass(frozen=True)
class GradSvd(Spectral, DenseProxy):
    """Gradient SVD: gains `g_k = sigma_k(s dL/dW)^2`, the squared singular values.

    Of all updates `dW = -eta P` with P of rank r, the best for a small eta has `P = sum_{k<=r}
    sigma_k u_k v_k^T` (Eckart-Young), and lowers the loss by `eta sum_{k<=r} sigma_k^2`. So rank k
    gains sigma_k^2, and `S(M)` is the sum over the ranks that the site can hold. The stable rank
    `||G||_F^2 / sigma_1^2` says how soon the gains fall off. LoRA-GA initializes its adapters with
    these singular vectors: https://arxiv.org/abs/2407.05000.
    """

    def gains(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> Gains:
        """Return the squared singular values of every site, largest first."""
        gradients = self.dense_gradients(adapters, batches, loss, autocast)
        return {
            site: torch.linalg.svdvals(gradient).square().tolist()
            for site, gradient in gradients.items()
        }
