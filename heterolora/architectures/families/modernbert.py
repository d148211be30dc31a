"""ModernBERT: pre-norm layers, with one projection for q, k and v and one for gate and up."""

from collections.abc import Mapping

from transformers import PretrainedConfig

from heterolora.architectures.family import Family, register


def _rows(config: PretrainedConfig) -> Mapping[str, tuple[int, int]]:
    """Return what `Family.rows` asks for. The part that is activated is the gate, as in Llama."""
    d, width = config.hidden_size, config.intermediate_size
    return {
        "q": (0, d),
        "k": (d, 2 * d),
        "v": (2 * d, 3 * d),
        "gate": (0, width),
        "up": (width, 2 * width),
    }


register(
    Family(
        model_type="modernbert",
        layers="layers",
        projections={
            "q": "attn.Wqkv",
            "k": "attn.Wqkv",
            "v": "attn.Wqkv",
            "o": "attn.Wo",
            "gate": "mlp.Wi",
            "up": "mlp.Wi",
            "down": "mlp.Wo",
        },
        parts=None,
        no_shortcuts="the model asks each of its layers which tokens it attends to",
        post_norm=lambda config: False,
        positions=lambda config: config.max_position_embeddings,
        rows=_rows,
    )
)
