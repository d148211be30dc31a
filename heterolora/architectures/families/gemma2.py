"""Gemma 2 and Gemma 3: Llama's layout with another norm after the attention and the FFN.

These outer norms apply to what the parts add and not to the stream, so the blocks are pre-norm.
Of Gemma 3, only the text model is supported, whose `model_type` is `gemma3_text`.
"""

from typing import Any

from torch import Tensor

from heterolora.architectures.families import llama
from heterolora.architectures.family import Family, Parts, register


class Gemma2Parts(Parts):
    """The parts of a Gemma 2 layer; attention and FFN each end with a root-mean-square norm."""

    def attention(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return Attn(x), normalized."""
        y: Tensor = self.layer.post_attention_layernorm(self.layer.self_attn(x, *args, **kwargs)[0])
        return y

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return FFN(x), normalized."""
        y: Tensor = self.layer.post_feedforward_layernorm(self.layer.mlp(x))
        return y

    def norm1(self, x: Tensor) -> Tensor:
        """Return LN1(x), a root-mean-square norm."""
        y: Tensor = self.layer.input_layernorm(x)
        return y

    def norm2(self, x: Tensor) -> Tensor:
        """Return LN2(x), a root-mean-square norm."""
        y: Tensor = self.layer.pre_feedforward_layernorm(x)
        return y


for _model_type in ("gemma2", "gemma3_text"):
    register(
        Family(
            model_type=_model_type,
            layers="layers",
            projections=llama.PROJECTIONS,
            parts=Gemma2Parts,
            post_norm=lambda config: False,
            positions=lambda config: config.max_position_embeddings,
        )
    )
