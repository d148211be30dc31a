"""DeBERTa-v2 and DeBERTa-v3: BERT's layers, with attention to relative positions.

If the queries and keys of positions share weights with those of tokens, as in DeBERTa-v3, an
adapter on these weights maps both.
"""

from heterolora.architectures.family import Family, register

register(
    Family(
        model_type="deberta-v2",
        layers="encoder.layer",
        projections={
            "q": "attention.self.query_proj",
            "k": "attention.self.key_proj",
            "v": "attention.self.value_proj",
            "o": "attention.output.dense",
            "up": "intermediate.dense",
            "down": "output.dense",
        },
        parts=None,
        no_shortcuts="the encoder collects the streams of its layers itself",
        post_norm=lambda config: True,
        positions=lambda config: config.max_position_embeddings,
        beside_tokens=True,
        decoder=False,
    )
)
