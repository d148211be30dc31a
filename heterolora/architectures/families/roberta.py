"""RoBERTa: BERT's layers under another name, with positions counted from the padding index."""

from heterolora.architectures.families import bert
from heterolora.architectures.family import Family, register

register(
    Family(
        model_type="roberta",
        layers="encoder.layer",
        projections=bert.PROJECTIONS,
        parts=bert.BertParts,
        post_norm=lambda config: True,
        positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
        optional=("pooler",),
        decoder=False,
    )
)
