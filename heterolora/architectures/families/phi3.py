"""Phi-3: Llama's layout, with dropout after attention and FFN.

One linear layer computes queries, keys and values, and another gate and up.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from heterolora.architectures.families import llama
from heterolora.architectures.family import Family, register


class Phi3Parts(llama.LlamaParts):
    """The parts of a Phi-3 layer."""

    def attention(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return Attn(x)."""
        y: Tensor = self.layer.resid_attn_dropout(super().attention(x, *args, **kwargs))
        return y

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return FFN(x)."""
        y: Tensor = self.layer.resid_mlp_dropout(super().feed_forward(x))
        return y


def _rows(config: PretrainedConfig) -> Mapping[str, tuple[int, int]]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return {
        "q": (0, queries),
        "k": (queries, queries + keys),
        "v": (queries + keys, queries + 2 * keys),
        "gate": (0, config.intermediate_size),
        "up": (config.intermediate_size, 2 * config.intermediate_size),
    }


register(
    Family(
        model_type="phi3",
        layers="layers",
        projections={
            "q": "self_attn.qkv_proj",
            "k": "self_attn.qkv_proj",
            "v": "self_attn.qkv_proj",
            "o": "self_attn.o_proj",
            "gate": "mlp.gate_up_proj",
            "up": "mlp.gate_up_proj",
            "down": "mlp.down_proj",
        },
        parts=Phi3Parts,
        post_norm=lambda config: False,
        positions=lambda config: config.max_position_embeddings,
        rows=_rows,
    )
)
