"""Causal language modeling: predict every token of a text from those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.settings import setting, torch
from heterolora.tasks.base import Columns, Examples
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.packing import Packable
from heterolora.tasks.tokens import check_columns, check_texts, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class CausalLM(Packable):
    """Predict the next token at each position of a text."""

    text: str = setting(help="the column of the texts", example="text")

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of the texts."""
        return (self.text,)

    def check(self, columns: Columns, where: str) -> Examples:
        """Check that every text is a string."""
        check_columns(columns, {self.text: "task.text"}, where)
        check_texts(columns, self.text, where)
        return Examples({self.text: list(columns[self.text])})

    def encode_alone(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize texts; the labels are the tokens themselves, which the loss shifts by one."""
        texts = examples.columns[self.text]
        encoded = tokenize([texts], tokenizer, min(self.max_length, positions), device)
        return encoded.with_labels(encoded.features["input_ids"], padding=-100)
