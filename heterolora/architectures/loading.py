"""Checkpoints: found, checked against the configuration, and loaded."""

import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import is_offline_mode, try_to_load_from_cache
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from heterolora.architectures import bert, llama, opt, roberta
from heterolora.architectures.family import Family
from heterolora.architectures.wiring import check_shortcuts
from heterolora.config import ModelConfig, SearchSpaceConfig, TaskConfig
from heterolora.data.starter import MODEL_DIR
from heterolora.errors import ModelError, one_line
from heterolora.network import PREFETCH
from heterolora.seeding import global_stream

EMBEDDED = {"heterolora/opt-starter": MODEL_DIR}
"""Models that the package carries itself."""

FAMILIES = {
    family.model_type: family
    for family in (opt.FAMILY, bert.FAMILY, roberta.FAMILY, *llama.FAMILIES)
}
"""The families that can be wired: a new one is a file beside this one, and its name here."""


@dataclass(frozen=True)
class Loaded:
    """A pretrained model with a task head, ready to be wired.

    Attributes:
        model: in evaluation mode, float32, on the CPU.
        tokenizer: has a padding token.
        family: where the model keeps its parts.
        head: the parameters of the task head: those of the family's head module, and any that the
            checkpoint did not hold.
        positions: how many tokens the model can read.
        revision: the hub's commit, or a digest of the weights of a local directory.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    head: tuple[nn.Parameter, ...]
    positions: int
    revision: str | None


def model_is_usable(model: ModelConfig) -> Iterable[str]:
    """A rule for `validate`: the checkpoint is there, and of a family that can be wired."""
    try:
        _family(model)
    except ModelError as error:
        yield str(error)


def projections_exist(model: ModelConfig, search_space: SearchSpaceConfig) -> Iterable[str]:
    """A rule for `validate`: the model's family has every projection of the search space."""
    try:
        family = _family(model)
    except ModelError:
        return  # said by model_is_usable
    for role in search_space.projections:
        if role not in family.projections:
            yield (
                f"search_space.projections={list(search_space.projections)}: {family.model_type} "
                f"models have no projection '{role}'; choose from {', '.join(family.projections)}"
            )


def shortcuts_fit(model: ModelConfig, search_space: SearchSpaceConfig) -> Iterable[str]:
    """A rule for `validate`: a model that is to have shortcuts can have them."""
    if not search_space.shortcuts:
        return
    try:
        _family(model)
    except ModelError:
        return  # said by model_is_usable
    try:
        check_shortcuts(_config_of(model))
    except ModelError as error:
        yield str(error)


def load(model: ModelConfig, task: TaskConfig, seed: int) -> Loaded:
    """Load a checkpoint with a head for `task`, its head drawn from the seed's stream.

    Weights are read from safetensors, or with torch's unpickler for plain tensors alone; code
    that comes with a checkpoint is never run.

    Raises:
        ModelError: if it cannot be reached or read, or is of another shape than it should be.
    """
    family = _family(model)
    source, where = _source(model), _where(model)
    # Else a thread asks the hub to convert a checkpoint without safetensors.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        with global_stream(seed, "head"):
            module, report = AutoModelForSequenceClassification.from_pretrained(
                source,
                revision=model.revision,
                num_labels=task.num_labels,
                dtype=torch.float32,
                weights_only=True,
                output_loading_info=True,
            )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=model.revision)
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        remedy = (
            "it must hold config.json, a tokenizer, and weights (safetensors, or a plain state "
            f"dict) with a head of {task.num_labels} labels or none"
        )
        if isinstance(source, str) and isinstance(error, OSError) and is_offline_mode():
            remedy = PREFETCH
        raise ModelError(
            f"{where}: cannot be loaded ({one_line(error)[:200]}); {remedy}"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _padding(tokenizer, where)
    module.config.pad_token_id = tokenizer.pad_token_id
    return Loaded(
        model=module,
        tokenizer=tokenizer,
        family=family,
        head=_head(module, family, report, where),
        positions=family.positions(module.config),
        revision=_digest(source) if isinstance(source, Path) else _commit(model),
    )


def fetch(model: ModelConfig, task: TaskConfig) -> Path | None:
    """Have all that `load` reads in the cache, by loading it.

    Returns:
        The folder in the cache, named by the hub's commit; None of a model that is local.

    Raises:
        ModelError: as `load` does.
    """
    if isinstance(_source(model), Path):
        return None
    load(model, task, seed=0)
    return _snapshot(model)


def _commit(model: ModelConfig) -> str | None:
    """The hub's, of a model that was just loaded."""
    snapshot = _snapshot(model)
    return None if snapshot is None else snapshot.name


def _snapshot(model: ModelConfig) -> Path | None:
    """The folder in the cache of a model of the hub that was just loaded, named by the commit."""
    file = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    return Path(file).parent if isinstance(file, str) else None


def _digest(directory: Path) -> str:
    """Sixteen hex digits of the SHA-256 of a directory's weights."""
    digest = hashlib.sha256()
    for file in sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")]):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _head(
    module: PreTrainedModel, family: Family, report: dict[str, Any], where: str
) -> tuple[nn.Parameter, ...]:
    missing = set(report["missing_keys"])
    lost = sorted(name for name in missing if name.startswith(f"{family.layers}."))
    if lost:
        raise ModelError(
            f"{where}: the checkpoint lacks {len(lost)} weights of its layers (first: {lost[0]}); "
            "give a complete pretrained checkpoint"
        )
    named = set(dict(module.get_submodule(family.head).named_parameters(prefix=family.head)))
    return tuple(p for name, p in module.named_parameters() if name in missing | named)


def _padding(tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """A special token that texts do not end with: heads read the last one that is not padding."""
    last = tokenizer("text")["input_ids"][-1:]
    for token in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token):
        if token is not None and [tokenizer.convert_tokens_to_ids(token)] != last:
            return str(token)
    raise ModelError(
        f"{where}: the tokenizer has no special token to pad with; set pad_token in its "
        "tokenizer_config.json"
    )


def _config_of(model: ModelConfig) -> PretrainedConfig:
    return _config(str(_source(model)), model.revision, _where(model))


def _family(model: ModelConfig) -> Family:
    config = _config_of(model)
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"{_where(model)}: is a '{config.model_type}' model, which cannot be wired; choose one "
            f"of the families {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]


@functools.cache
def _config(source: str, revision: str | None, where: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        if where.startswith("model.path"):
            raise ModelError(
                f"{where}: is not a model in Hugging Face format ({one_line(error)[:160]}); give a "
                "directory with config.json, model.safetensors and a tokenizer"
            ) from error
        raise ModelError(
            f"{where}: is neither cached nor can the hub be reached ({one_line(error)[:160]}); "
            f"give a local directory with model.path=DIR, {PREFETCH}, or use the embedded "
            "model=opt_starter"
        ) from error


def _source(model: ModelConfig) -> str | Path:
    if model.path is None:
        return EMBEDDED.get(model.name, model.name)
    if not Path(model.path).is_dir():
        raise ModelError(
            f"model.path={model.path}: there is no such directory; give one with config.json, "
            "model.safetensors and a tokenizer"
        )
    return Path(model.path)


def _where(model: ModelConfig) -> str:
    return f"model.name={model.name}" if model.path is None else f"model.path={model.path}"
