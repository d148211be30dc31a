"""Tokenization of texts, and the checks that every task makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from heterolora.errors import DataError, printable
from heterolora.losses import LABELS
from heterolora.settings import torch
from heterolora.tasks.base import Columns
from heterolora.tasks.encoded import Encoded

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def check_columns(columns: Columns, keys: Mapping[str, str], where: str) -> None:
    """Check that columns exist and are not empty.

    Args:
        columns: the columns of the split.
        keys: for each column, the setting that names it.
        where: what to call the split in an error.

    Raises:
        DataError: if a column is missing, or there are no rows.
    """
    for column, key in keys.items():
        if column not in columns:
            raise DataError(
                f"{key}: column '{column}' is not in {where}, which has {', '.join(columns)}; "
                f"name the right one with {key}=..."
            )
    if any(len(columns[column]) == 0 for column in keys):
        raise DataError(f"{where}: has no rows; give a split with examples")


def check_texts(columns: Columns, column: str, where: str) -> None:
    """Check that every value of a column is a string.

    Raises:
        DataError: names the first row with anything else.
    """
    for row, text in enumerate(columns[column]):
        if not isinstance(text, str):
            raise DataError(
                f"{where}: row {row} of column '{column}' must be a string, not "
                f"{printable(repr(text))}; "
                "repair or drop that row"
            )


def tokenize(
    texts: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    device: torch.device,
) -> Encoded:
    """Tokenize texts, or pairs of texts, truncated to `limit` tokens; without labels.

    Args:
        texts: one list of n texts, or two for pairs.
        tokenizer: a tokenizer with a padding token.
        limit: the maximum number of tokens per example.
        device: where batches are placed.
    """
    encoded = tokenizer(*map(list, texts), truncation=True, max_length=limit)
    full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) >= limit]
    truncated = 0
    if full:  # only these may have been truncated
        whole = tokenizer(*([column[row] for row in full] for column in texts), truncation=False)
        truncated = sum(len(ids) > limit for ids in whole["input_ids"])
    assert tokenizer.pad_token_id is not None
    padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    return Encoded(
        features={name: [torch.tensor(row) for row in rows] for name, rows in encoded.items()},
        padding={name: padding.get(name, 0) for name in encoded},
        device=device,
        truncated=truncated,
        limit=limit,
    )


def labeled(
    rows: Sequence[Tensor],
    labels: Sequence[Tensor],
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    device: torch.device,
) -> Encoded:
    """Combine rows of tokens with a label for each token.

    Args:
        rows: the token IDs of n examples, (length,) each.
        labels: the labels, in the same shapes; -100 where a token has none.
        tokenizer: a tokenizer with a padding token.
        limit: the maximum number of tokens per example.
        device: where batches are placed.
    """
    assert tokenizer.pad_token_id is not None
    ones = torch.ones(limit, dtype=torch.int64)
    return Encoded(
        features={
            "input_ids": rows,
            "attention_mask": [ones[: len(row)] for row in rows],
            LABELS: labels,
        },
        padding={"input_ids": tokenizer.pad_token_id, "attention_mask": 0, LABELS: -100},
        device=device,
        limit=limit,
    )
