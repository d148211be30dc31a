"""LoRA on a linear layer."""

from torch import Tensor, nn

from heterolora.adapters.low_rank import LowRank


class LoRALinear(nn.Module):
    """`y = W0 x + b + scaling B diag(mask) A x`: a linear layer beside its low-rank adapter.

    The base layer keeps its parameters and is called as it is, so that a zero adapter gives its
    outputs exactly.
    """

    def __init__(self, base: nn.Linear, adapter: LowRank) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in_features) to (..., out_features)."""
        return self.adapter.added(self.base(x), x)
