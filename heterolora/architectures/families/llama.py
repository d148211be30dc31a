"""The pre-norm layout of Llama, which Mistral, Qwen 2, Qwen 3 and Gemma share.

Their attention differs (grouped-query heads, sliding windows, norms of queries and keys), but
inside modules with the same names.
"""

from typing import Any

from torch import Tensor

from heterolora.architectures.family import Family, Parts, register

PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


class LlamaParts(Parts):
    """The parts of a Llama layer, which has no dropout outside its attention."""

    def attention(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return Attn(x)."""
        y: Tensor = self.layer.self_attn(x, *args, **kwargs)[0]
        return y

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return FFN(x)."""
        y: Tensor = self.layer.mlp(x)
        return y

    def norm1(self, x: Tensor) -> Tensor:
        """Return LN1(x), a root-mean-square norm."""
        y: Tensor = self.layer.input_layernorm(x)
        return y

    def norm2(self, x: Tensor) -> Tensor:
        """Return LN2(x), a root-mean-square norm."""
        y: Tensor = self.layer.post_attention_layernorm(x)
        return y


for _model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma"):
    register(
        Family(
            model_type=_model_type,
            layers="layers",
            projections=PROJECTIONS,
            parts=LlamaParts,
            post_norm=lambda config: False,
            positions=lambda config: config.max_position_embeddings,
        )
    )
