"""Low-rank maps on the shortcuts of a Transformer (paper, section 2.1 and Appendix D).

On a residual connection, the adapter is added to the identity. A cross-layer shortcut is the
adapter alone; the classes below differ in how it joins the stream that it leads to. Streams are
(batch, length, d), and norms keep that shape.
"""

from collections.abc import Callable

from torch import Tensor, nn

from heterolora.adapters.low_rank import LowRank

Norm = Callable[[Tensor], Tensor]


class Residual(nn.Module):
    """`s_res(h) = h + scaling B diag(mask) A h`."""

    def __init__(self, adapter: LowRank) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, h: Tensor) -> Tensor:
        """Return s_res(h)."""
        if self.adapter.known_rank == 0:
            # A view costs nothing, and keeps this use of h at its place in the sum of h's
            # gradients: floats added in a different order give different bits.
            return self.adapter.added(h.view_as(h), h)
        return self.adapter.added(h, h)


class Absent(nn.Module):
    """No cross-layer shortcut: the stream is left unchanged."""

    def forward(self, x: Tensor, h: Tensor | None, norm: Norm | None = None) -> Tensor:
        """Return `x`."""
        return x


class Shortcut(nn.Module):
    """A cross-layer shortcut `s(h) = scaling B diag(mask) A h`, placed where it ends."""

    def __init__(self, adapter: LowRank) -> None:
        super().__init__()
        self.adapter = adapter


class Added(Shortcut):
    """`x + s(h)`, for a stream that is never normalized."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Add s(h) to the stream `x`."""
        return self.adapter.added(x, h)


class Renormalized(Shortcut):
    """`LN[x + s(h)]`, whether or not s is on (Appendix D)."""

    def forward(self, x: Tensor, h: Tensor, norm: Norm) -> Tensor:
        """Add s(h) to the stream `x`, and normalize."""
        return norm(self.adapter.added(x, h))


class RenormalizedWhereOn(Shortcut):
    """`LN[x + s(h)]` if s is on, `x` if it is off."""

    def forward(self, x: Tensor, h: Tensor, norm: Norm) -> Tensor:
        """Add s(h) to the stream `x`, and normalize if any rank is on.

        Under a compiler both outcomes are computed, so that an allocation changes no code path.
        """
        match self.adapter.known_rank:
            case None:
                return self.adapter.where_on(norm(self.adapter.added(x, h)), x)
            case 0:
                return self.adapter.added(x, h)  # which is x
            case _:
                return norm(self.adapter.added(x, h))
