"""OPT, in both norm orders (OPT-350M is the post-norm one)."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import create_causal_mask

from heterolora.architectures.family import Family, Parts, register


class OptParts(Parts):
    """The parts of an OPT layer, whose dropout is a function and not a module."""

    def attention(
        self, x: Tensor, *args: Any, use_cache: bool | None = None, **kwargs: Any
    ) -> Tensor:
        """Return Attn(x). A layer of OPT does not pass `use_cache` to its attention."""
        x, _ = self.layer.self_attn(x, *args, **kwargs)
        return F.dropout(x, self.layer.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return FFN(x)."""
        x = self.layer.fc2(self.layer.activation_fn(self.layer.fc1(x)))
        return F.dropout(x, self.layer.dropout, self.training)

    def norm1(self, x: Tensor) -> Tensor:
        """Return LN1(x)."""
        y: Tensor = self.layer.self_attn_layer_norm(x)
        return y

    def norm2(self, x: Tensor) -> Tensor:
        """Return LN2(x)."""
        y: Tensor = self.layer.final_layer_norm(x)
        return y


def separate(model: nn.Module) -> None:
    """Give OPT the mask for packed rows; its own mask does not look at their positions."""
    # OPT's code is only imported if there is such a model.
    from transformers.models.opt.modeling_opt import OPTDecoder

    for module in model.modules():
        if isinstance(module, OPTDecoder):
            module.register_forward_pre_hook(_masked, with_kwargs=True)


def _masked(
    decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    given = ("attention_mask", "past_key_values")
    positions = kwargs.get("position_ids")
    if positions is None or any(kwargs.get(name) is not None for name in given):
        return None
    mask = create_causal_mask(
        config=decoder.config,
        inputs_embeds=decoder.embed_tokens.weight.new_empty(*positions.shape, 0),
        attention_mask=None,
        past_key_values=None,
        position_ids=positions,
    )
    return args, {**kwargs, "attention_mask": mask}


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
        separate=separate,
    )
)
