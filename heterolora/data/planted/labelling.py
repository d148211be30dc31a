"""What the teacher says to texts."""

from collections.abc import Iterator, Sequence

import torch

from heterolora.architectures import Loaded
from heterolora.data.planted.teacher import teacher
from heterolora.tasks.base import Columns
from heterolora.tasks.token_labels import NONE, TokenLabels
from heterolora.tasks.tokens import tokenize

TASK = TokenLabels(text="text", label="label", max_length=128)
LEAD = 0.2
"""By how many logits the likeliest token must lead, or nothing is asked: no rounding turns it."""
BATCH = 250


def answers(texts: Sequence[str], planting: int) -> Columns:
    """Texts, and for each of their tokens the one that the teacher would say next.

    Args:
        texts: any.
        planting: a seed.
    """
    return {TASK.text: list(texts), TASK.label: [*_labels(texts, teacher(planting, TASK))]}


@torch.inference_mode()
def _labels(texts: Sequence[str], loaded: Loaded) -> Iterator[list[int]]:
    limit = min(TASK.max_length, loaded.positions)
    encoded = tokenize([texts], loaded.tokenizer, limit, torch.device("cpu"))
    for batch in encoded.in_order(BATCH):
        best, said = loaded.model(**batch).logits.topk(2)
        labels = said[..., 0].where(best[..., 0] - best[..., 1] >= LEAD, NONE)
        for row, tokens in zip(labels, batch["attention_mask"].sum(-1), strict=True):
            yield row[:tokens].tolist()
