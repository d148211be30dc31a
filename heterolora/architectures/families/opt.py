"""OPT, in both norm orders (OPT-350M is the post-norm one)."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from heterolora.architectures.family import Family, Parts, register


class OptParts(Parts):
    """A layer of OPT. Its dropout is a function and not a module."""

    def attention(
        self, x: Tensor, *args: Any, use_cache: bool | None = None, **kwargs: Any
    ) -> Tensor:
        """Attn(x). A layer of OPT keeps `use_cache` from its attention."""
        x, _ = self.layer.self_attn(x, *args, **kwargs)
        return F.dropout(x, self.layer.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        """FFN(x)."""
        x = self.layer.fc2(self.layer.activation_fn(self.layer.fc1(x)))
        return F.dropout(x, self.layer.dropout, self.training)

    def norm1(self, x: Tensor) -> Tensor:
        """LN1(x)."""
        y: Tensor = self.layer.self_attn_layer_norm(x)
        return y

    def norm2(self, x: Tensor) -> Tensor:
        """LN2(x)."""
        y: Tensor = self.layer.final_layer_norm(x)
        return y


register(
    Family(
        model_type="opt",
        layers="decoder.layers",
        projections={
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.out_proj",
            "up": "fc1",
            "down": "fc2",
        },
        parts=OptParts,
        post_norm=lambda config: not config.do_layer_norm_before,
        positions=lambda config: config.max_position_embeddings,
    )
)
