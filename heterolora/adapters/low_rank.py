"""The low-rank map that every adapter computes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def kaiming_uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a matrix as LoRA draws A: Kaiming-uniform with a = sqrt 5, on the CPU, in float32.

    U(-b, b) with b = sqrt(6 / ((1 + a^2) fan_in)) = 1 / sqrt(fan_in); fan_in is `shape[1]`.
    """
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


class LowRank(nn.Module):
    """`x -> g (alpha / r) B A x`, zero at initialisation because B is.

    A (r, in_features) is Kaiming-uniform, B (out_features, r) zero, as in LoRA
    (https://arxiv.org/abs/2106.09685, section 4.1). The gate g is a tensor of the module, 1 (on)
    or 0 (off), so that a new allocation changes neither a shape nor a code path.
    """

    gate: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.rank = rank
        self.scaling = alpha / rank
        self.A = nn.Parameter(kaiming_uniform((rank, in_features), generator).to(device))
        self.B = nn.Parameter(torch.zeros(out_features, rank, device=device))
        self.register_buffer("gate", torch.ones((), device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in_features) to (..., out_features)."""
        return self.gate * self.scaling * F.linear(F.linear(x, self.A), self.B)

    @property
    def unit_cost(self) -> int:
        """What one rank costs: in_features + out_features parameters."""
        return self.A.shape[1] + self.B.shape[0]

    @property
    def cost(self) -> int:
        """The number of adapter parameters, r (in_features + out_features)."""
        return self.rank * self.unit_cost

    def extra_repr(self) -> str:
        """The shape, for `print(model)`."""
        d_out, d_in = self.B.shape[0], self.A.shape[1]
        return f"in={d_in}, out={d_out}, rank={self.rank}, scaling={self.scaling:g}"
