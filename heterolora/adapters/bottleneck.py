"""Bottleneck adapters (https://arxiv.org/abs/1902.00751)."""

import torch
from torch import Tensor, nn

from heterolora.adapters.low_rank import kaiming_uniform


class Bottleneck(nn.Module):
    """`y + W2 relu(W1 y + b1) + b2` of a linear layer's output y; W2, b1 and b2 start at zero."""

    def __init__(self, base: nn.Linear, width: int, generator: torch.Generator) -> None:
        super().__init__()
        d, like = base.out_features, base.weight
        self.base = base
        self.down = nn.Linear(d, width, device=like.device)
        self.up = nn.Linear(width, d, device=like.device)
        with torch.no_grad():
            self.down.weight.copy_(kaiming_uniform((width, d), generator))
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in_features) to (..., out_features)."""
        y: Tensor = self.base(x)
        added: Tensor = self.up(torch.relu(self.down(y)))
        return y + added
