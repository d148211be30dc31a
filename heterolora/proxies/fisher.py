"""FISHER: empirical Fisher information (https://arxiv.org/abs/1801.05787)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.losses import Autocast, Batch, Loss
from heterolora.proxies.base import Examples, SaliencyProxy
from heterolora.proxies.passes import (
    AB,
    first,
    leaves_of,
    overrides,
    paired,
    summed_gradients,
    wide_zeros,
)
from heterolora.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from heterolora.adapters import Ranked


@dataclass(frozen=True)
class Fisher(SaliencyProxy):
    """Fisher: `S(M) = sum over examples n, and over theta in A, B, of (dL_n/dtheta)^2`.

    L_n is the loss of one example; for a language model, the sum over its tokens. Summed over the
    examples, this is the trace of the empirical Fisher information of A and B (Theis et al. 2018,
    https://arxiv.org/abs/1801.05787). GRAD-NORM squares the sum of the gradients, in which those of
    different examples cancel; here each is squared by itself. So every example needs a pass of its
    own, and the sample is smaller.
    """

    num_batches: int = setting(8, help="number of batches in the sample", gt=0)

    def sample(self, examples: Examples) -> Iterable[Batch]:
        """Return the first `num_batches * batch_size` examples, one by one, so without padding."""
        return examples.in_order(1, self.examples)

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return the sum of what `gradients` returned, which are squares already."""
        return gradient.sum()

    def gradients(
        self,
        adapters: Ranked[Any],
        theta: AB,
        batches: Iterable[Batch],
        loss: Loss,
        autocast: Autocast,
    ) -> AB:
        """Return the squared gradients of the examples, summed over the examples."""
        leaves, tensors = leaves_of(theta), overrides(adapters, theta)
        squares = wide_zeros(leaves)
        for example in first(batches, self.examples, 1):
            found = summed_gradients(adapters, leaves, tensors, [example], 1, loss, autocast)
            for total, gradient in zip(squares, found, strict=True):
                total.addcmul_(gradient, gradient)
        return paired(theta, squares)
