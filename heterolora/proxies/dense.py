"""The gradient with respect to the whole matrix that an adapter adds to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.losses import Autocast, Batch, Loss
from heterolora.proxies.base import SampleProxy
from heterolora.proxies.passes import evaluation_mode, overrides
from heterolora.settings import torch
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from heterolora.adapters import Ranked


@dataclass(frozen=True)
class DenseProxy(SampleProxy):
    """A proxy computed from `s dL/dW` of every site, W being the matrix that `s B A` is added to.

    s is the adapter's scaling, so that this is the gradient of the loss with respect to B A. It is
    computed as the gradient with respect to B of an adapter whose A is the identity, and so exists
    on a shortcut as well, which has no weight of its own. Adapters take part with their current
    weights. Scoring takes memory for two matrices at each site, d_in x d_in and d_out x d_in.
    """

    def dense_gradients(
        self, adapters: Ranked[Any], batches: Iterable[Batch], loss: Loss, autocast: Autocast
    ) -> dict[Site, Tensor]:
        """Return `s dL/dW` (d_out, d_in) for every site."""
        theta, leaves = {}, []
        for site, adapter in adapters.items():
            a, b = adapter.matrices
            whole = (b @ a).requires_grad_()
            leaves.append(whole)
            theta[site] = (torch.eye(a.shape[1], dtype=a.dtype, device=a.device), whole)
        tensors = overrides(adapters, theta)
        with evaluation_mode(adapters.model), torch.enable_grad():
            gradients = self.loss_gradients(adapters, leaves, tensors, batches, loss, autocast)
        return dict(zip(theta, gradients, strict=True))
