"""OPT, in both norm orders (OPT-350M is the post-norm one)."""

from heterolora.architectures.family import Family

FAMILY = Family(
    model_type="opt",
    layers="model.decoder.layers",
    projections={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
    },
    head="score",
    positions=lambda config: config.max_position_embeddings,
)
