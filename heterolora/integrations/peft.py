"""Export adapters of mixed rank to PEFT, and import them from it.

PEFT scales an adapter by its own alpha / r, so an adapter with its own rank needs its own alpha:
`rank_pattern` without `alpha_pattern` loads, but computes something else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from heterolora.adapters import Adapters
from heterolora.architectures import (
    adapt,
    check_whole,
    check_without_shortcuts,
    family_of,
    layers_of,
    projection_name,
)
from heterolora.errors import ModelError, one_line
from heterolora.files import write_atomically, writing
from heterolora.sites import Site

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""The prefix of the names of PEFT's weights; the rest is the name in the model."""

TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
}
"""PEFT's name for a task, by the suffix of the name of the model's class."""


FROM_ZERO = (True, False, "gaussian")
"""Values of PEFT's `init_lora_weights` that leave the frozen weights as they were pretrained."""

EXTRAS = (
    *("use_dora", "lora_bias", "use_qalora", "layer_replication", "target_parameters"),
    *("alora_invocation_tokens", "trainable_token_indices", "ensure_weight_tying"),
)
"""Settings of `LoraConfig` that make an adapter more than `scaling B A x` at linear layers."""

OURS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora")
"""Settings of `LoraConfig` that determine where ranks are and how they are scaled."""


@dataclass(frozen=True)
class Factors:
    """The adapter of one linear layer, which adds `scaling B A x`.

    Attributes:
        A: the first matrix, (r, d_in).
        B: the second matrix, (d_out, r).
        scaling: the scaling factor.
    """

    A: Tensor
    B: Tensor
    scaling: float


def to_peft(
    adapters: Adapters,
    folder: str | Path,
    card: str | None = None,
    revision: str | None = None,
) -> None:
    """Write an adapter that `peft.PeftModel.from_pretrained` loads, with the same logits.

    It contains the sites that are on, each with its rank and its alpha under the exact name of its
    layer, and the head under `modules_to_save`.

    Args:
        adapters: the adapters of the model.
        folder: the folder to write to; files with the same names are replaced.
        card: the content of its `README.md`; none is written if None.
        revision: the pretrained model's revision on the Hub, to be named in PEFT's configuration.

    Raises:
        ModelError: if PEFT has no place for what is on (shortcuts, or parts of a layer), nothing
            is on, or a parameter of the head is tied to another or shares its module with one that
            is frozen.
        RecordError: if it cannot be written, for example because the disk is full.
    """
    model, family = adapters.model, family_of(adapters.model)
    check_without_shortcuts(adapters.space, adapters.ranks, model, family, "PEFT")
    check_whole(model.config, family, [s.role for s, r in adapters.ranks.items() if r])
    factors = {}
    for site, rank in adapters.ranks.items():
        if rank:
            a, b = adapters[site].matrices
            scaling = adapters.space.scaling_of(site)(rank)
            factors[projection_name(model, family, site)] = Factors(a[:rank], b[:, :rank], scaling)
    modules = head_modules(model, adapters.head)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    once = {name for name, _ in model.named_parameters()}
    tied = {id(model.get_parameter(name)) for name in set(names) - once}
    if shared := [name for name, one in adapters.head.items() if id(one) in tied]:
        raise ModelError(
            f"{shared[0]}: is trained and tied to another weight, and PEFT would untie them; use "
            "heterolora.save"
        )
    write(folder, model, factors, adapters.head, modules, card, revision)


def write(
    folder: str | Path,
    model: PreTrainedModel,
    factors: Mapping[str, Factors],
    head: Mapping[str, Tensor],
    modules_to_save: Iterable[str],
    card: str | None = None,
    revision: str | None = None,
) -> None:
    """Write an adapter in PEFT's format.

    Args:
        folder: the folder to write to.
        model: the model, with or without the adapters.
        factors: the adapter of each linear layer, by the layer's name in the model without them.
        head: the parameters that were trained as a whole, by name.
        modules_to_save: the names of the modules that these parameters make up.
        card: the content of its `README.md`; none is written if None.
        revision: the revision of the pretrained model.

    Raises:
        ModelError: if there are no factors.
        RecordError: if it cannot be written, for example because the disk is full.
    """
    if not factors:
        raise ModelError("no site is on, so there is nothing to export; apply an allocation first")
    ranks = {name: len(one.A) for name, one in factors.items()}
    scalings = {name: one.scaling for name, one in factors.items()}
    config = lora_config(model, ranks, scalings, modules_to_save)
    config.base_model_name_or_path, config.revision = model.name_or_path, revision
    config.inference_mode = True
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in head.items()}
    for name, one in factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = one.A
        tensors[f"{PREFIX}{name}.lora_B.weight"] = one.B
    content = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / WEIGHTS, save(content, {"format": "pt"}))
        if card is not None:
            write_atomically(folder / "README.md", card)
        config.save_pretrained(str(folder))


def lora_config(
    model: PreTrainedModel,
    ranks: Mapping[str, int],
    scalings: Mapping[str, float],
    modules_to_save: Iterable[str] = (),
    **options: Any,
) -> "LoraConfig":
    """Return PEFT's configuration for adapters of mixed ranks.

    Args:
        model: the model, whose class determines the task type.
        ranks: the rank of each linear layer that has an adapter, by its name.
        scalings: the scaling factor of each of these layers.
        modules_to_save: the modules that are trained as a whole.
        options: further options of `LoraConfig`, such as `lora_dropout`.

    Raises:
        ModelError: if PEFT is not installed.
        ValueError: if an option is one that the ranks determine.
    """
    if wrong := sorted(options.keys() & set(OURS)):
        raise ValueError(f"{', '.join(wrong)}: follows from the allocation; leave it out")
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ModelError("PEFT is not installed; pip install 'heterolora[peft]'") from error
    alphas = {name: _short(scalings[name] * rank) for name, rank in ranks.items()}
    largest = max(ranks, key=lambda name: ranks[name])
    tasks = (task for end, task in TASK_TYPES.items() if type(model).__name__.endswith(end))
    return LoraConfig(
        r=ranks[largest],
        lora_alpha=alphas[largest],
        target_modules=list(ranks),
        rank_pattern=dict(ranks),
        alpha_pattern=alphas,
        modules_to_save=list(modules_to_save) or None,
        **{"task_type": next(tasks, None), **options},
    )


def head_modules(model: nn.Module, head: Iterable[str]) -> list[str]:
    """Return the largest modules that have no parameters other than those of the head.

    Raises:
        ModelError: if a parameter of the head is in no such module.
    """
    wanted = set(head)
    found: list[str] = []
    for name, module in model.named_modules():
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if name and own and own <= wanted and not f"{name}.".startswith(tuple(found)):
            found.append(f"{name}.")
    if left := [name for name in wanted if not name.startswith(tuple(found))]:
        raise ModelError(
            f"{min(left)}: is trained, but is only a part of its module, which PEFT saves whole or "
            "not at all; use heterolora.save"
        )
    return [name.removesuffix(".") for name in found]


def from_peft(model: PreTrainedModel, folder: str | Path, seed: int = 0) -> Adapters:
    """Put a LoRA adapter that PEFT saved on a model, in place, with its ranks, factors and head.

    Sites that the saved adapter lacks are off. The capacity of a role's sites is the role's largest
    rank.

    Args:
        model: the pretrained model that it was trained on, freshly loaded and without PEFT.
        folder: a folder with `adapter_config.json` and `adapter_model.safetensors`.
        seed: the seed of the weights at sites that the saved adapter lacks.

    Raises:
        ModelError: if it cannot be read, is not plain LoRA, or does not fit the model.
    """
    config, tensors = _read(Path(folder))
    at = places(model)
    pairs: dict[Site, tuple[Tensor, Tensor]] = {}
    head: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        layer, _, matrix = name.rpartition(".lora_")
        if matrix == "A.weight" and layer in at:
            pairs[at[layer]] = (tensor, tensors[f"{PREFIX}{layer}.lora_B.weight"])
        elif name in parameters:
            head[name] = tensor
        elif matrix != "B.weight" or layer not in at:
            raise ModelError(f"{folder}: has {key}, which the model lacks")
    capacities: dict[str, int] = {}
    for site, (a, _) in pairs.items():
        capacities[site.role] = max(len(a), capacities.get(site.role, 0))
    adapters = adapt(
        model,
        capacities,
        seed=seed,
        head=[parameters[name] for name in head],
        lora_alpha=config.lora_alpha,
        budget_ranks=dict.fromkeys(capacities, config.r),
    )
    adapters.apply({site: len(a) for site, (a, _) in pairs.items()})
    names = {site: name for name, site in at.items()}
    with torch.no_grad():
        for site, (a, b) in pairs.items():
            # Sites share one factor here, so whatever theirs differs by goes into B.
            factor = _scaling(config, names[site]) / (config.lora_alpha / config.r)
            adapters[site].A[: len(a)] = a
            adapters[site].B[:, : len(a)] = factor * b
        for name, tensor in head.items():
            parameters[name].copy_(tensor)
    return adapters


def _read(folder: Path) -> tuple["LoraConfig", dict[str, Tensor]]:
    try:
        from peft import PeftConfig

        tensors = load_file(folder / WEIGHTS)  # local files only, not the Hub
        config = PeftConfig.from_pretrained(str(folder))
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: cannot be read ({one_line(error)[:200]}); give a folder with "
            f"adapter_config.json and {WEIGHTS}, and install PEFT"
        ) from error
    if said := unsupported(config):
        raise ModelError(f"{folder}: is not a plain LoRA adapter ({said}); only those can be read")
    return config, tensors


def unsupported(config: Any) -> str | None:
    """Return which settings of a PEFT configuration go beyond plain LoRA; None if none do."""
    if str(getattr(config, "peft_type", "")).rpartition(".")[2] != "LORA":
        return str(config.peft_type)
    said = [name for name in EXTRAS if getattr(config, name, None)]
    if config.bias != "none":
        said.append(f"bias={config.bias}")
    if config.init_lora_weights not in FROM_ZERO:
        said.append(f"init_lora_weights={config.init_lora_weights}")
    return ", ".join(said) or None


def places(model: PreTrainedModel) -> dict[str, Site]:
    """Return the site of each whole linear layer that can have an adapter, by the layer's name."""
    family = family_of(model)
    sites = (
        Site(layer, role)
        for layer in range(len(layers_of(model, family)))
        for role in family.projections
        if role not in family.rows(model.config)
    )
    return {projection_name(model, family, site): site for site in sites}


def _scaling(config: Any, name: str) -> float:
    """Return the scaling factor that PEFT uses at a layer."""
    from peft.utils.other import get_pattern_key

    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
    return float(alpha / (rank**0.5 if config.use_rslora else rank))


def _short(value: float) -> float:
    """Return the value as an integer if it is whole."""
    return int(value) if float(value).is_integer() else value
