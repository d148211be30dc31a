"""The low-rank map that every adapter computes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterolora.adapters.passing import Matrices, passing
from heterolora.adapters.scaling import Scaling


def kaiming_uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a matrix as LoRA draws A: Kaiming-uniform with a = sqrt 5, on the CPU, in float32.

    U(-b, b) with b = sqrt(6 / ((1 + a^2) fan_in)) = 1 / sqrt(fan_in); fan_in is `shape[1]`.
    """
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


class LowRank(nn.Module):
    """`x -> scaling B diag(mask) A x`, zero at initialization because B is.

    A (capacity, in_features) is Kaiming-uniform, B (out_features, capacity) zero, as in LoRA
    (https://arxiv.org/abs/2106.09685, section 4.1). `mask` (capacity,) is 1 for the first `rank`
    rows of A, those that are on, and 0 for the rest; `scaling` is a scalar that follows the rank.
    Both are tensors of the module, so that a new allocation changes neither a shape nor a code
    path that a compiler has to see again. In eager mode rows that are off are not computed.

    Attributes:
        sums: where `added` leaves the gradients by A and B that every rank would have if it were
            on; None, as a rule, for nowhere.
    """

    mask: Tensor
    scaling: Tensor
    sums: Matrices | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        capacity: int,
        scaling: Scaling,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        """Switch all of `capacity` ranks on.

        Args:
            in_features: the width of the input.
            out_features: the width of the output.
            capacity: the most ranks that can be on.
            scaling: the factor for a number of ranks.
            generator: of the initial A.
            device: of all tensors.
        """
        super().__init__()
        self.scaling_rule = scaling
        self.A = nn.Parameter(kaiming_uniform((capacity, in_features), generator).to(device))
        self.B = nn.Parameter(torch.zeros(out_features, capacity, device=device))
        self.register_buffer("mask", torch.ones(capacity, device=device))
        self.register_buffer("scaling", torch.tensor(scaling(capacity), device=device))
        self._rank, self._ranked = capacity, self.mask
        self._factor = scaling(capacity)
        self.sums = None

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in_features) to (..., out_features), both in the precision of `x`.

        A and B stay in float32 in a model of lower precision, and compute in it.
        """
        if x.dtype == self.A.dtype or torch.is_autocast_enabled(x.device.type):
            return self._map(x)
        return self._map(x.to(self.A.dtype)).to(x.dtype)

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """`y + scaling B diag(mask) A x`, in one product where that is possible.

        Args:
            y: (..., out_features); its values are given back where the adapter is off.
            x: (..., in_features), of as many rows.
        """
        # Passing comes last: the gradients of x are added up in the same order, and have its bits.
        if self.sums is None or self.known_rank is None:
            return self._added(y, x)
        weights = (self.A.detach(), self.B.detach())
        scaling = self.scaling_rule(self.capacity)
        return passing(self._added(y, x), x, weights, scaling, self.sums)

    def _added(self, y: Tensor, x: Tensor) -> Tensor:
        rank = self.known_rank
        if rank == 0:
            return y
        plain = x.dtype == y.dtype == self.A.dtype and x.dim() > 1
        if rank is None or not plain or torch.is_autocast_enabled(x.device.type):
            total: Tensor = y + self(x)
            return total
        z = F.linear(x, self.A[:rank]).flatten(0, -2)
        product: Tensor = torch.addmm(y.flatten(0, -2), z, self.B[:, :rank].T, alpha=self._factor)
        return product.view(y.shape)

    def _map(self, x: Tensor) -> Tensor:
        rank = self.known_rank
        if rank is None:
            z = F.linear(x, self.A)
            return self.scaling * F.linear(z * self.mask.to(z.dtype), self.B)
        if rank == self.capacity:
            return self.scaling * F.linear(F.linear(x, self.A), self.B)
        return self.scaling * F.linear(F.linear(x, self.A[:rank]), self.B[:, :rank])

    @property
    def capacity(self) -> int:
        """The most ranks that can be on: the rows of A."""
        return self.A.shape[0]

    @property
    def rank(self) -> int:
        """How many ranks are on; 0 is off."""
        return self._rank

    @rank.setter
    def rank(self, rank: int) -> None:
        if not 0 <= rank <= self.capacity:
            raise ValueError(f"rank={rank}: must be from 0 to the capacity, {self.capacity}")
        self.mask.copy_(torch.arange(self.capacity, device=self.mask.device) < rank)
        if rank:
            self._factor = self.scaling_rule(rank)
            self.scaling.fill_(self._factor)
        self._rank = rank

    @property
    def known_rank(self) -> int | None:
        """`rank`, where code may branch on it; None where only the mask tensor may decide.

        That is under a compiler, which would compile again for each rank, and where a caller such
        as `torch.func.functional_call` has put another mask in place of the module's own.
        """
        if torch.compiler.is_compiling() or self.mask is not self._ranked:
            return None
        return self._rank

    def on(self, x: Tensor) -> Tensor:
        """Whether any rank is on, for all rows of `x` alike: a scalar of the mask."""
        return self.mask.any()

    @property
    def unit_cost(self) -> int:
        """What one rank costs: in_features + out_features parameters."""
        return self.A.shape[1] + self.B.shape[0]

    @property
    def module(self) -> nn.Module:
        """The adapter itself."""
        return self

    @property
    def matrices(self) -> Matrices:
        """Copies of A and B; what is off keeps its weights."""
        return self.A.detach().clone(), self.B.detach().clone()

    @property
    def delta(self) -> Tensor:
        """`scaling B A` with all ranks on."""
        a, b = self.matrices
        return self.scaling_rule(self.capacity) * (b @ a)

    def substitutes(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """A, B, a mask with every rank on, and its scaling, in the precision of `a`.

        They may have more ranks than the capacity, whose scaling they have all the same.
        """
        mask = torch.ones(a.shape[0], dtype=a.dtype, device=a.device)
        scaling = torch.tensor(self.scaling_rule(self.capacity), dtype=a.dtype, device=a.device)
        return {"A": a, "B": b, "mask": mask, "scaling": scaling}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "LowRank":
        # `to` and its like put another tensor in place of the mask, of the same values.
        own = self.mask is self._ranked
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if own:
            self._ranked = self.mask
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        rank = int(self.mask.sum())
        if not bool(self.mask[:rank].all()):
            *_, errors = args
            errors.append(f"{prefix}mask: must be ones followed by zeros")
        self._rank, self._ranked = rank, self.mask
        self._factor = float(self.scaling)

    def extra_repr(self) -> str:
        """The shape, for `print(model)`."""
        d_out, d_in = self.B.shape[0], self.A.shape[1]
        return f"in={d_in}, out={d_out}, rank={self.rank} of {self.capacity}"
