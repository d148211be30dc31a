"""BERT and models distilled from it, such as MiniLM."""

from typing import Any

from torch import Tensor

from heterolora.architectures.family import Family, Parts, register

PROJECTIONS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}


class BertParts(Parts):
    """The parts of a BERT layer, whose output modules hold a projection, a dropout and a norm."""

    def attention(
        self, x: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return Attn(x). The arguments after the mask are for decoders with cross-attention."""
        x, _ = self.layer.attention.self(x, attention_mask=attention_mask, **kwargs)
        return _projected(self.layer.attention.output, x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return FFN(x)."""
        return _projected(self.layer.output, self.layer.intermediate(x))

    def norm1(self, x: Tensor) -> Tensor:
        """Return LN1(x)."""
        y: Tensor = self.layer.attention.output.LayerNorm(x)
        return y

    def norm2(self, x: Tensor) -> Tensor:
        """Return LN2(x)."""
        y: Tensor = self.layer.output.LayerNorm(x)
        return y


def _projected(output: Any, x: Tensor) -> Tensor:
    """Return what an output module computes before it adds the residual and normalizes."""
    y: Tensor = output.dropout(output.dense(x))
    return y


register(
    Family(
        model_type="bert",
        layers="encoder.layer",
        projections=PROJECTIONS,
        parts=BertParts,
        post_norm=lambda config: True,
        positions=lambda config: config.max_position_embeddings,
        optional=("pooler",),
        decoder=False,
    )
)
