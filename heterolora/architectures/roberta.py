"""RoBERTa: BERT's layers under another name, its positions counted from the padding index on."""

from heterolora.architectures import bert
from heterolora.architectures.family import Family

FAMILY = Family(
    model_type="roberta",
    layers="roberta.encoder.layer",
    projections=bert.PROJECTIONS,
    parts=bert.BertParts,
    post_norm=bert.FAMILY.post_norm,
    head="classifier",
    positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
)
