"""Phi-1, Phi-1.5 and Phi-2: attention and FFN side by side, after one norm.

`h_{i+1} = h_i + Attn(LN h_i) + FFN(LN h_i)`: there is no stream between the two, and so no place
for the shortcuts of Appendix D.
"""

from heterolora.architectures.family import Family, register

register(
    Family(
        model_type="phi",
        layers="layers",
        projections={
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.dense",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
        },
        parts=None,
        no_shortcuts="attention and FFN run in parallel after one norm",
        post_norm=lambda config: False,
        positions=lambda config: config.max_position_embeddings,
    )
)
