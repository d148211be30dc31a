"""Models to train, and examples to train them on."""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models
from torch import Tensor, nn

import heterolora as hl
from benchmarks.setup import PADDED, Setup
from heterolora.architectures.family import family_of, head_of, layers_of
from heterolora.files import split_files
from heterolora.tasks.encoded import Encoded

TINY = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def minilm_shape(tiny: bool) -> Any:
    """MiniLM's configuration, or a tiny one of its kind."""
    full = {
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    }
    return transformers.BertConfig(**(TINY | {"intermediate_size": 64} if tiny else full))


def opt_350m_shape(tiny: bool) -> Any:
    """OPT-350M's configuration, or a tiny one of its kind."""
    full = {
        "vocab_size": 50272,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "ffn_dim": 4096,
        "word_embed_proj_dim": 512,
        "max_position_embeddings": 2048,
    }
    small = TINY | {"ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 512}
    return transformers.OPTConfig(
        do_layer_norm_before=False,
        dropout=0.1,
        attention_dropout=0.0,
        **(small if tiny else full),
    )


def without_dropout(config: Any) -> Any:
    """The same configuration with every dropout at 0."""
    changed = copy.deepcopy(config)
    for key, value in config.to_dict().items():
        if key.endswith(("dropout", "dropout_prob", "pdrop")) and isinstance(value, float):
            setattr(changed, key, 0.0)
    return changed


def random_model(config: Any, device: torch.device) -> Any:
    """A classifier of that configuration with random weights."""
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(config).float().to(device)


@dataclass(frozen=True)
class Subject:
    """A model to train and what to train it on.

    Attributes:
        title: what to call it.
        model: without adapters; competitors train copies.
        tokenizer: pads.
        split: the examples.
    """

    title: str
    model: Any
    tokenizer: Any
    split: Encoded

    @property
    def linear_parameters(self) -> int:
        """The weights of the linear maps in the layers, all of them frozen."""
        layers = layers_of(self.model, family_of(self.model))
        return sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear))

    @property
    def flops_per_example(self) -> float:
        """Of the frozen weights, for the outputs and for the gradients by the inputs.

        `4 x weights x tokens`, real tokens only.
        """
        return 4 * self.linear_parameters * tokens_of(self.split) / len(self.split)

    def first(self, examples: int) -> "Subject":
        """With fewer examples."""
        return replace(self, split=self.split.subset(range(examples)))

    def copy(self) -> Any:
        """Another model with the same frozen weights in the same memory, and its own head."""
        heads = {id(parameter) for parameter in head_of(self.model)}
        shared = {id(p): p for p in self.model.parameters() if id(p) not in heads}
        return copy.deepcopy(self.model, shared)


def main_subject(setup: Setup, examples: int, dropout: bool = True) -> Subject:
    """MiniLM's shape, or the checkpoint that was asked for."""

    def change(config: Any) -> Any:
        return config if dropout else without_dropout(config)

    if setup.model is None:
        return random_subject(
            "MiniLM's shape", change(minilm_shape(setup.size.tiny)), setup, examples
        )
    config = change(transformers.AutoConfig.from_pretrained(setup.model, num_labels=2))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        setup.model, config=config, dtype=torch.float32
    ).to(setup.device)
    if setup.data is None:
        split = random_split(config, examples, setup.device)
        return Subject(setup.model.name, model, padding_tokenizer(config), split)
    tokenizer = transformers.AutoTokenizer.from_pretrained(setup.model)
    split = mrpc_split(setup.data, tokenizer, family_of(model).positions(config), setup.device)
    return Subject(f"{setup.model.name}, MRPC", model, tokenizer, split.subset(range(examples)))


def large_subject(setup: Setup, examples: int) -> Subject:
    """OPT-350M's shape with random weights."""
    return random_subject("OPT-350M's shape", opt_350m_shape(setup.size.tiny), setup, examples)


def random_subject(title: str, config: Any, setup: Setup, examples: int) -> Subject:
    """A shape with random weights and random tokens."""
    split = random_split(config, examples, setup.device)
    return Subject(title, random_model(config, setup.device), padding_tokenizer(config), split)


# Data


def mrpc_lengths(count: int) -> list[int]:
    """Lengths like MRPC's in tokens: 53 on average, with a deviation of 15, from 18 to 103."""
    draw = random.Random(0)
    return [min(max(round(draw.gauss(53, 15)), 18), 103) for _ in range(count)]


def random_split(
    config: Any, count: int, device: torch.device, lengths: Sequence[int] | None = None
) -> Encoded:
    """Examples of random tokens with random labels."""
    generator = torch.Generator().manual_seed(0)
    lengths = lengths or mrpc_lengths(count)
    ids = [torch.randint(5, config.vocab_size, (n,), generator=generator) for n in lengths]
    labels = torch.randint(2, (count,), generator=generator)
    features = {
        "input_ids": ids,
        "attention_mask": [torch.ones_like(row) for row in ids],
        "labels": labels.unbind(),
    }
    return Encoded(features, {"input_ids": config.pad_token_id, "attention_mask": 0}, device)


def mrpc_split(data: Path, tokenizer: Any, positions: int, device: torch.device) -> Encoded:
    """MRPC's training split."""
    from pyarrow import parquet

    task = hl.tasks.Classification(
        sentences=("sentence1", "sentence2"),
        label="label",
        num_labels=2,
        metrics=("accuracy",),
        max_length=PADDED,
    )
    tables = [
        parquet.read_table(file, columns=list(task.columns)) for file in split_files(data, "train")
    ]
    columns: dict[str, list[Any]] = {name: [] for name in task.columns}
    for table in tables:
        for name, rows in columns.items():
            rows += table.column(name).to_pylist()
    return task.encode(task.check(columns, "train"), tokenizer, positions, device)


def padding_tokenizer(config: Any) -> Any:
    """A tokenizer that knows how to pad, and no word."""
    pad = config.pad_token_id
    words = models.WordLevel({"<pad>": pad, "<unk>": pad + 1}, unk_token="<unk>")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", unk_token="<unk>"
    )


def padded(split: Encoded, length: int) -> Encoded:
    """Every example padded to the same length."""

    def fill(name: str, rows: Sequence[Tensor]) -> Sequence[Tensor]:
        if name not in split.padding or rows[0].dim() == 0:
            return rows
        value = split.padding[name]
        return [nn.functional.pad(row, (0, length - len(row)), value=value) for row in rows]

    return replace(split, features={name: fill(name, r) for name, r in split.features.items()})


def tokens_of(split: Encoded) -> int:
    """The real tokens of a split."""
    return sum(int(mask.sum()) for mask in split.features["attention_mask"])
