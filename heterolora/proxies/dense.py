"""The gradient by the whole matrix to which an adapter adds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heterolora.adapters import Ranked
from heterolora.losses import Autocast, Batch, Loss
from heterolora.proxies.base import SampleProxy
from heterolora.proxies.passes import evaluation_mode, overrides
from heterolora.sites import Site


@dataclass(frozen=True)
class DenseProxy(SampleProxy):
    """A proxy computed from `s dL/dW` of every site, W being what `s B A` is added to.

    s is the adapter's scaling: the loss is as sensitive to B A. It is the gradient by B of an
    adapter whose A is the identity, so that it exists on a shortcut as well, which has no weight of
    its own. Adapters count as they stand. For the time of the scores it takes two matrices
    d_in x d_in and d_out x d_in for each site.
    """

    def dense_gradients(
        self, adapters: Ranked[Any], batches: Iterable[Batch], loss: Loss, autocast: Autocast
    ) -> dict[Site, Tensor]:
        """`s dL/dW` (d_out, d_in) of every site."""
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
