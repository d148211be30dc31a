"""The low-rank map that every adapter computes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterolora.adapters.gradient_tap import Matrices, passing
from heterolora.adapters.scaling import Scaling


def kaiming_uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a matrix as LoRA draws A: Kaiming-uniform with a = sqrt 5, on the CPU, in float32.

    U(-b, b) with b = sqrt(6 / ((1 + a^2) fan_in)) = 1 / sqrt(fan_in); fan_in is `shape[1]`.
    """
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


class LowRank(nn.Module):
    """`x -> scaling B diag(mask) A x`, zero at initialization because B is.

    A (capacity, in_features) is Kaiming-uniform and B (out_features, capacity) is zero, as in LoRA
    (https://arxiv.org/abs/2106.09685, section 4.1). `mask` (capacity,) is 1 for the rows of A that
    are on, which are the first `rank`, and 0 for the rest; `scaling` is a scalar that depends on
    the rank. Both are tensors of the module, so that a new allocation changes neither a shape nor
    a code path, and a compiler has nothing to recompile. In eager mode, ranks that are off are not
    computed.

    Attributes:
        sums: the tensors to which `added` adds the gradients that A and B would have if every rank
            were on; usually None, and then they are not computed.
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
        """Create an adapter with all of its `capacity` ranks on.

        Args:
            in_features: the width of the input.
            out_features: the width of the output.
            capacity: the largest number of ranks that can be on.
            scaling: the factor as a function of the rank.
            generator: the random generator for the initial A.
            device: the device of all tensors.
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
        """Map `x` (..., in_features) to (..., out_features), both in the dtype of `x`.

        In a model of lower precision, A and B stay in float32, and the map is computed in float32.
        """
        if x.dtype == self.A.dtype or torch.is_autocast_enabled(x.device.type):
            return self._map(x)
        return self._map(x.to(self.A.dtype)).to(x.dtype)

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """Return `y + scaling B diag(mask) A x`, fused into one product where possible.

        Args:
            y: (..., out_features); its values are returned unchanged if the adapter is off.
            x: (..., in_features), with as many rows as `y`.
        """
        # `passing` comes last, which keeps the order in which the gradients of x are summed, and
        # with it their bits.
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
        """The largest number of ranks that can be on: the rows of A."""
        return self.A.shape[0]

    @property
    def rank(self) -> int:
        """The number of ranks that are on; 0 means off."""
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
        """`rank` if code may branch on it, None if only the mask tensor may decide.

        It is None under a compiler, which would recompile for each rank, and where a caller such as
        `torch.func.functional_call` has replaced the module's own mask with another.
        """
        if torch.compiler.is_compiling() or self.mask is not self._ranked:
            return None
        return self._rank

    def where_on(self, on: Tensor, off: Tensor) -> Tensor:
        """Return `on` if any rank is on, which the mask says without a branch, and `off` if not."""
        return torch.where(self.mask.any(), on, off)

    @property
    def unit_cost(self) -> int:
        """The number of parameters in one rank: in_features + out_features."""
        return self.A.shape[1] + self.B.shape[0]

    @property
    def module(self) -> nn.Module:
        """The module that holds A and B: the adapter itself."""
        return self

    @property
    def matrices(self) -> Matrices:
        """Copies of A and B, with the weights of ranks that are off."""
        return self.A.detach().clone(), self.B.detach().clone()

    @property
    def delta(self) -> Tensor:
        """`scaling B A` with all ranks on."""
        a, b = self.matrices
        return self.scaling_rule(self.capacity) * (b @ a)

    def substitutes(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return A, B, a mask with every rank on, and the scaling, in the dtype of `a`.

        A and B may have more ranks than the capacity; the scaling is still that of the capacity.
        """
        mask = torch.ones(a.shape[0], dtype=a.dtype, device=a.device)
        scaling = torch.tensor(self.scaling_rule(self.capacity), dtype=a.dtype, device=a.device)
        return {"A": a, "B": b, "mask": mask, "scaling": scaling}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "LowRank":
        # `to` and similar methods replace the mask with another tensor of the same values.
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
        """Describe the shape and the rank, for `print(model)`."""
        d_out, d_in = self.B.shape[0], self.A.shape[1]
        return f"in={d_in}, out={d_out}, rank={self.rank} of {self.capacity}"
