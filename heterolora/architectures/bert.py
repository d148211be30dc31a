"""BERT, and what was distilled from it, such as MiniLM."""

from heterolora.architectures.family import Family

PROJECTIONS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}

FAMILY = Family(
    model_type="bert",
    layers="bert.encoder.layer",
    projections=PROJECTIONS,
    head="classifier",
    positions=lambda config: config.max_position_embeddings,
)
