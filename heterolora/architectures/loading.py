"""Load checkpoints, and reject those that lack what the model computes with."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from heterolora.architectures.family import Family, family_named, head_of
from heterolora.architectures.storage import Storage
from heterolora.architectures.weights import check_weights, drawn, weight_files
from heterolora.errors import ModelError, one_line
from heterolora.seeding import Stream


class Headed(Protocol):
    """What a task says about the model that it needs."""

    @property
    def model_class(self) -> Any:
        """The transformers class that loads it, such as `AutoModelForCausalLM`."""

    @property
    def model_options(self) -> Mapping[str, Any]:
        """The arguments for its `from_pretrained`, such as `num_labels`."""


@dataclass(frozen=True)
class Loaded:
    """A pretrained model with a task head, ready to be wired.

    Attributes:
        model: the model, in evaluation mode, and on the CPU unless it is quantized; its head is
            float32.
        tokenizer: the tokenizer, which has a padding token.
        family: where the model keeps its parts.
        head: the parameters of the task head, and any others that the checkpoint may lack and does.
            It is empty for a language model whose checkpoint has its head.
        positions: how many tokens the model can read.
        revision: the commit on the Hub, or a digest of the weights in a local directory.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    head: tuple[nn.Parameter, ...]
    positions: int
    revision: str | None


def load_pretrained(
    source: str | Path,
    task: Headed,
    revision: str | None = None,
    seed: int = 0,
    where: str | None = None,
    storage: Storage | None = None,
) -> Loaded:
    """Load a checkpoint with a head for `task`; a missing head is drawn from the seed's stream.

    Weights are read from safetensors, or with torch's unpickler restricted to plain tensors; code
    that comes with a checkpoint is never run.

    Args:
        source: a directory in Hugging Face format, or a name on the Hub.
        task: determines which transformers class loads the model, and with which options.
        revision: the revision on the Hub; the newest if None.
        seed: the seed of the head, if the checkpoint has none.
        where: what to call the checkpoint in an error; `source` if None.
        storage: how the frozen weights are kept in memory; all in float32 if None.

    Raises:
        ModelError: if it cannot be reached or read, cannot be wired, lacks a weight of the model
            outside the head or has one that is not finite, or cannot be stored as requested.
    """
    where, storage = where or str(source), storage or Storage()
    # Otherwise a thread asks the Hub to convert a checkpoint without safetensors.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        family = family_named(config.model_type, where)
        kept = storage.options(_outside(config, family, task) if storage.quantization else ())
        with Stream(seed, "head"):
            model, report = task.model_class.from_pretrained(
                source,
                revision=revision,
                weights_only=True,
                output_loading_info=True,
                **kept,
                **task.model_options,
            )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever transformers raises for a broken file
        raise _refusal(error, task, where) from error
    folder = folder_of(source, revision)
    check_weights(model, family, report, weight_files(folder) if folder else (), where)
    _pad(model, tokenizer, where)
    fresh = {id(parameter) for parameter in (*head_of(model), *drawn(model, report))}
    head = tuple(parameter for parameter in model.parameters() if id(parameter) in fresh)
    _in_float32(head)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        family=family,
        head=head,
        positions=family.positions(model.config),
        revision=_revision(source, folder),
    )


def _in_float32(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.data = parameter.data.float()


def _refusal(error: Exception, task: Headed, where: str) -> ModelError:
    """Return the error for a checkpoint that transformers cannot load."""
    reason = f"{where}: cannot be loaded ({one_line(error)[:200]}); "
    if isinstance(error, ImportError):
        return ModelError(f"{reason}install the package that is missing")
    options = ", ".join(f"{name}={value}" for name, value in task.model_options.items())
    return ModelError(
        f"{reason}it must hold config.json, a tokenizer, and weights (safetensors, or a plain "
        "state dict) without a head" + (f" or with one for {options}" if options else "")
    )


def _outside(config: PretrainedConfig, family: Family, task: Headed) -> list[str]:
    """Return the modules of a task's model that are or may be a head: all but the layers' own."""
    with torch.device("meta"):
        model = task.model_class.from_config(config)
    base = model.base_model
    whole = {name for name, module in model.named_children() if module is not base}
    return sorted(whole | set(family.optional))


def folder_of(source: str | Path, revision: str | None) -> Path | None:
    """Return a checkpoint's directory: its own, or the one in the cache, named by the Hub's commit.

    None for a checkpoint on the Hub that has not been downloaded.
    """
    if Path(source).is_dir():
        return Path(source)
    file = try_to_load_from_cache(str(source), "config.json", revision=revision)
    return Path(file).parent if isinstance(file, str) else None


def _revision(source: str | Path, folder: Path | None) -> str | None:
    if folder is None:
        return None
    return _digest(folder) if Path(source).is_dir() else folder.name


def _digest(directory: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of a directory's weights."""
    digest = hashlib.sha256()
    for file in sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")]):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Give tokenizer and model the same padding token."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _padding(tokenizer, where)
    model.config.pad_token_id = tokenizer.pad_token_id


def _padding(tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """Return a special token that texts do not end with.

    Heads read the last token that is not padding.
    """
    last = tokenizer("text")["input_ids"][-1:]
    for token in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token):
        if token is not None and [tokenizer.convert_tokens_to_ids(token)] != last:
            return str(token)
    raise ModelError(
        f"{where}: the tokenizer has no padding token; set pad_token in its tokenizer_config.json"
    )
