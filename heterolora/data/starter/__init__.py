"""The embedded default: a small pretrained post-norm OPT and a synthetic paraphrase task."""

from pathlib import Path

from heterolora.data.starter.corpus import pretraining_documents
from heterolora.data.starter.grammar import Meaning, paraphrase_pairs, vocabulary

MODEL_DIR: Path = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR", "Meaning", "paraphrase_pairs", "pretraining_documents", "vocabulary"]
