"""Transformer blocks with shortcuts, and the stack that runs them (paper, Appendix D).

h_i is the stream that enters block i, a_i the stream between its attention and its FFN; all are
(batch, length, d). In the code, `h` is h_i and `below` is a_{i-1}.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import OutputRecorder, recursively_install_hooks

from heterolora.adapters import LowRank
from heterolora.adapters.shortcut import (
    Absent,
    Added,
    Renormalized,
    RenormalizedWhereOn,
    Residual,
    Shortcut,
)
from heterolora.architectures.family import Parts

Joins = Mapping[str, type[Shortcut]]
"""How a cross-layer shortcut joins the stream, for each value of `renormalize`."""


class Block(GradientCheckpointingLayer):  # type: ignore[misc]
    """A layer whose residual connections and cross-layer shortcuts may have adapters.

    Args:
        parts: the layer's own parts.
        adapters: the adapters by shortcut role. Without one, a residual connection is the identity,
            and a cross-layer shortcut is absent.
        renormalize: when to normalize again after a cross-layer shortcut.
    """

    joins: ClassVar[Joins]

    def __init__(self, parts: Parts, adapters: Mapping[str, LowRank], renormalize: str) -> None:
        super().__init__()
        join = self.joins[renormalize]
        self.parts = parts
        self.s_res1 = Residual(adapters["res1"]) if "res1" in adapters else nn.Identity()
        self.s_res2 = Residual(adapters["res2"]) if "res2" in adapters else nn.Identity()
        self.join_in = join(adapters["in"]) if "in" in adapters else Absent()
        self.join_cut = join(adapters["cut"]) if "cut" in adapters else Absent()


class PostNormBlock(Block):
    """A block that normalizes the stream.

    `a_i = LN1[ LN1(s_res1(h_i) + Attn(h_i)) + s_cut(a_{i-1}) ]`
    `h_{i+1} = LN2[ LN2(s_res2(a_i) + FFN(a_i)) + s_in(h_i) ]`

    If a cross-layer shortcut is absent, so is its outer norm.
    """

    joins: ClassVar[Joins] = {"always": Renormalized, "enabled": RenormalizedWhereOn}

    def forward(
        self, h: Tensor, below: Tensor | None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Map h_i and a_{i-1} to h_{i+1} and a_i; the other arguments go to the attention."""
        ln1, attn = self.parts.norm1, self.parts.attention
        ln2, ffn = self.parts.norm2, self.parts.feed_forward
        a = self.join_cut(ln1(self.s_res1(h) + attn(h, *args, **kwargs)), below, ln1)
        h = self.join_in(ln2(self.s_res2(a) + ffn(a)), h, ln2)
        return h, a


class PreNormBlock(Block):
    """A block that normalizes what its parts read, and never the stream.

    `a_i = s_res1(h_i) + Attn(LN1 h_i) + s_cut(a_{i-1})`
    `h_{i+1} = s_res2(a_i) + FFN(LN2 a_i) + s_in(h_i)`
    """

    joins: ClassVar[Joins] = {"always": Added, "enabled": Added}

    def forward(
        self, h: Tensor, below: Tensor | None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Map h_i and a_{i-1} to h_{i+1} and a_i; the other arguments go to the attention."""
        ln1, attn = self.parts.norm1, self.parts.attention
        ln2, ffn = self.parts.norm2, self.parts.feed_forward
        a = self.join_cut(self.s_res1(h) + attn(ln1(h), *args, **kwargs), below)
        h = self.join_in(self.s_res2(a) + ffn(ln2(a)), h)
        return h, a


class Stack(nn.Module):
    """All blocks of a model, as its only layer.

    A model's own loop passes only h_i from layer to layer; here a_i is passed along with it.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        # A model records the outputs of layers of its own class, which are not called here.
        recursively_install_hooks(self, "", [("hidden_states", OutputRecorder(Block))])

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map h_0 to the h after the last block; the other arguments go to every attention."""
        a = None
        for block in self.blocks:
            h, a = block(h, a, *args, **kwargs)
        return h
