"""Language modeling of a whole split as one text, as for WikiText."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.errors import DataError, Problem
from heterolora.settings import Situation, setting, torch
from heterolora.tasks.base import Columns, Examples
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.next_token import NextToken
from heterolora.tasks.tokens import check_columns, check_texts, labeled

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class TextStream(NextToken):
    """Predict the next token of one long text, the rows of a split joined by empty lines.

    Training uses consecutive blocks of `block_length` tokens; the remainder at the end is shorter
    than a block and is dropped. Evaluation measures strided perplexity, the exponential of the mean
    loss per token (https://huggingface.co/docs/transformers/perplexity): windows of `max_length`
    tokens begin `stride` tokens apart, and each scores only the tokens that no earlier window
    contained; the others serve as context.
    """

    text: str = setting(help="the column of the texts", example="text")
    max_length: int = setting(
        help="maximum number of tokens in an evaluation window", gt=1, example=512
    )
    block_length: int | None = setting(
        None, help="tokens in a training example; null: max_length", gt=1, example=512
    )
    stride: int | None = setting(
        None, help="tokens from one window to the next; null: half a window", gt=0, example=256
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of the texts."""
        return (self.text,)

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check as for any language modeling, and that every token is in some window."""
        yield from super().problems(situation)
        if self.stride is not None and self.stride > self.max_length:
            rule = (
                f"must be at most `max_length={self.max_length}`, or tokens between two windows "
                "are not scored"
            )
            yield Problem("stride", self.stride, rule, "lower it, or raise max_length")

    def check(self, columns: Columns, where: str) -> Examples:
        """Check that every text is a string, and that not all of them are empty."""
        check_columns(columns, {self.text: "task.text"}, where)
        check_texts(columns, self.text, where)
        if not any(columns[self.text]):
            raise DataError(
                f"{where}: has no text in column '{self.text}'; give a split that has some"
            )
        return Examples({self.text: list(columns[self.text])})

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Cut the stream into blocks, in which every token but the first is predicted.

        Raises:
            DataError: if the stream is shorter than a block.
        """
        stream = self._stream(examples, tokenizer)
        length = min(self.block_length or self.max_length, positions)
        if len(stream) < length:
            raise DataError(
                f"task.block_length={length}: must be at most {len(stream)}, the number of tokens "
                "to train on; lower it, or give more text"
            )
        whole = len(stream) // length
        blocks = list(stream[: whole * length].view(whole, length))
        return labeled(blocks, blocks, tokenizer, length, device)

    def encode_evaluation(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Cut the stream into windows, in which only new tokens have a label.

        Raises:
            DataError: if there is no token to score, or the stride exceeds the model's positions.
        """
        stream = self._stream(examples, tokenizer)
        length = min(self.max_length, positions)
        stride = max(1, length // 2) if self.stride is None else self.stride
        if stride > length:
            raise DataError(
                f"task.stride={stride}: must be at most {length}, the positions of the model; "
                f"for example task.stride={length // 2}"
            )
        if len(stream) < 2:
            raise DataError(
                f"task.text={self.text}: has {len(stream)} tokens to evaluate, and the first is "
                "never scored; give more text"
            )
        windows, labels = [], []
        for begin, known, end in spans(len(stream), length, stride):
            windows.append(stream[begin:end])
            labels.append(torch.cat([stream.new_full((known - begin,), -100), stream[known:end]]))
        return labeled(windows, labels, tokenizer, length, device)

    def _stream(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """Return the tokens of all rows, (tokens,)."""
        text = "\n\n".join(examples.columns[self.text])
        return torch.tensor(tokenizer(text, truncation=False)["input_ids"])


def spans(tokens: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield for each window where it begins, where its new tokens begin, and where it ends.

    Args:
        tokens: the number of tokens in the stream.
        length: the length of a window.
        stride: the distance from one window to the next, at most `length`.
    """
    known = 0
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        yield begin, known, end
        known = end
        if end == tokens:
            return
