"""The gradient by the whole matrix to which an adapter adds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heterolora.adapters import Ranked
from heterolora.losses import Autocast, Batch, Loss
from heterolora.proxies.base import (
    Examples,
    Proxy,
    evaluation_mode,
    first,
    overrides,
    summed_gradients,
)
from heterolora.settings import setting
from heterolora.sites import Site


@dataclass(frozen=True)
class DenseProxy(Proxy):
    """A proxy computed from `s dL/dW` of every site, W being what `s B A` is added to.

    s is the adapter's scaling: the loss is as sensitive to B A. It is the gradient by B of an
    adapter whose A is the identity, so that it exists on a shortcut as well, which has no weight of
    its own. The loss is that of `DataProxy`; adapters count as they stand. For the time of the
    scores it takes two matrices d_in x d_in and d_out x d_in for each site.
    """

    num_batches: int = setting(32, help="batches in the sample", gt=0)
    batch_size: int = setting(8, help="examples in a batch of the sample", gt=0)
    micro_batch_size: int = setting(
        32, help="examples per forward pass; does not change the scores", gt=0
    )

    def sample(self, examples: Examples) -> Iterable[Batch]:
        """The first `num_batches * batch_size` examples."""
        return examples.in_order(self.micro_batch_size, self.num_batches * self.batch_size)

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
        count = self.num_batches * self.batch_size
        with evaluation_mode(adapters.model), torch.enable_grad():
            gradients = summed_gradients(
                adapters,
                leaves,
                overrides(adapters, theta),
                first(batches, count, self.micro_batch_size),
                self.batch_size,
                loss,
                autocast,
            )
        return dict(zip(theta, gradients, strict=True))
