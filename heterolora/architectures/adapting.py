"""Put adapters on a model that the caller has loaded; save them, load them, or merge them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heterolora.adapters import Adapters, Space
from heterolora.adapters.files import read_adapters, write_enabled
from heterolora.adapters.space import Renormalize
from heterolora.architectures.family import Family, family_of, head_of, projection_name
from heterolora.architectures.wiring import wire
from heterolora.errors import ModelError, one_line
from heterolora.files import writing
from heterolora.sites import Site

FILE = "adapters.safetensors"


def adapt(
    model: PreTrainedModel,
    lora: Mapping[str, int] | None = None,
    shortcuts: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    head: Iterable[nn.Parameter] | None = None,
    lora_alpha: float = 16,
    shortcut_alpha: float = 4,
    scaling: str = "alpha_over_budget_rank",
    budget_ranks: Mapping[str, int] | None = None,
    renormalize: Renormalize = "always",
) -> Adapters:
    """Put low-rank adapters on a model, in place, and freeze the rest of it except its head.

    All ranks are on, and B is zero, so that the adapters do not change the outputs yet. With
    `renormalize="always"` and cross-layer shortcuts on a post-norm model, the repeated norm does
    (paper, Appendix D).

    Args:
        model: a model of a family in `FAMILIES` (BERT, RoBERTa, DeBERTa, ModernBERT, OPT, Llama,
            Mistral, Qwen 2 and 3, Gemma 1 to 3, Phi, Phi-3), with or without a task head.
        lora: the rank of the adapters for each role: `q`, `k`, `v`, `o`, `up`, `down`, `gate`.
        shortcuts: the rank of the adapters for each shortcut role: `res1`, `res2`, `in`, `cut`.
        seed: the seed of the initial weights, of proxies that draw weights, and of tie-breaking.
        head: the parameters to train besides the adapters; if None, those of the task head, except
            that of a language model, which is pretrained.
        lora_alpha: the numerator of the scaling at LoRA sites.
        shortcut_alpha: the numerator of the scaling at shortcut sites.
        scaling: `alpha_over_rank` (LoRA and the paper), `alpha_over_budget_rank`, or `rslora`
            (alpha over the square root of the rank).
        budget_ranks: the rank by which `alpha_over_budget_rank` divides, for each role; roles that
            are not listed use their rank in `lora` or `shortcuts`.
        renormalize: `always` (the paper) or `enabled`, for post-norm models with shortcuts.

    Raises:
        ModelError: if the model already has adapters, or cannot have these.
        ValueError: if the scaling does not exist.
    """
    space = Space(
        lora=dict(lora or {}),
        shortcuts=dict(shortcuts or {}),
        lora_alpha=lora_alpha,
        shortcut_alpha=shortcut_alpha,
        scaling=scaling,
        budget_ranks=dict(budget_ranks or {}),
        renormalize=renormalize,
    )
    family = family_of(model)
    return wire(model, family, space, head_of(model) if head is None else head, seed)


def save(adapters: Adapters, folder: str | Path) -> None:
    """Write ranks and weights of adapters and head to `folder/adapters.safetensors`.

    Neither the frozen model nor ranks that are off are written. The file explains itself: for each
    site it has A (rank, in_features) and B (out_features, rank), and its header has the factor of
    `B A` for each site, as JSON, under `scaling`.

    Raises:
        RecordError: if it cannot be written, for example because the disk is full.
    """
    file = Path(folder) / FILE
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_enabled(file, adapters)


def load(model: PreTrainedModel, path: str | Path) -> Adapters:
    """Put saved adapters on a model, in place, with their ranks and weights.

    Ranks that are off and not in the file start as new ones do, with B zero.

    Args:
        model: the pretrained model that they were trained on, freshly loaded.
        path: a folder that `save` wrote, or a file such as a run's
            `checkpoint/best.safetensors`.

    Raises:
        ModelError: if there is no such file, or it does not fit the model.
    """
    saved = read_saved(model, path)
    adapters = wire(model, family_of(model), saved.space, saved.head.values(), saved.seed)
    try:
        adapters.load_state_dict({**saved.state, "tensors": _completed(saved, adapters)})
    except ValueError as error:
        raise ModelError(f"{saved.file}: does not fit the model ({one_line(error)})") from error
    return adapters


def merge(model: PreTrainedModel, path: str | Path) -> None:
    """Add saved adapters to the weights of a model, in place: `W = W0 + scaling B A`.

    The head is copied as well. The model remains an ordinary transformers model, so that
    `model.save_pretrained` writes an ordinary checkpoint; its gradients are left as they are.

    Args:
        model: the pretrained model that they were trained on, freshly loaded.
        path: a folder or a file, as for `load`.

    Raises:
        ModelError: if there is no such file, it does not fit the model, the model's weights are
            quantized, or the adapters include what no weight of the model can hold: shortcuts.
    """
    if getattr(model, "is_quantized", False):
        raise ModelError(
            "the model's weights are quantized, so merging would round the adapters away; merge "
            "into an unquantized model (model.quantization=null)"
        )
    saved, family = read_saved(model, path), family_of(model)
    check_without_shortcuts(saved.space, saved.ranks, model, family, "a merged model")
    rows = family.rows(model.config)
    with torch.no_grad():
        for site, rank in saved.ranks.items():
            if rank:
                whole = model.get_submodule(projection_name(model, family, site)).weight
                weight = whole[slice(*rows.get(site.role, (None,)))]
                a, b = (saved.state["tensors"][f"{site}.{matrix}"] for matrix in "AB")
                added = saved.space.scaling_of(site)(rank) * (b[:, :rank] @ a[:rank])
                weight += added.to(weight)
        for name, parameter in saved.head.items():
            parameter.copy_(saved.state["tensors"][f"head.{name}"])


def _completed(saved: "Saved", adapters: Adapters) -> dict[str, Tensor]:
    """Return a file's tensors, filling in sites and ranks that it lacks from the adapters."""
    whole = dict(saved.state["tensors"])
    for site, rank in saved.ranks.items():
        for name, own, ranks in (
            (f"{site}.A", adapters[site].A, slice(rank)),
            (f"{site}.B", adapters[site].B, (slice(None), slice(rank))),
        ):
            theirs = whole.get(name)
            if rank == 0 and theirs is None:
                whole[name] = own.detach().clone()
            elif theirs is not None and theirs.shape == own[ranks].shape:
                whole[name] = own.detach().clone()
                whole[name][ranks] = theirs
    return whole


@dataclass(frozen=True)
class Saved:
    """The content of an adapter file, for a given model.

    Attributes:
        file: the path of the file.
        space: the search space that the adapters were made from.
        ranks: the rank of each site.
        head: the model's parameters for which the file has trained values, by name.
        seed: the seed of the adapters.
        state: the state for `Adapters.load_state_dict`.
    """

    file: Path
    space: Space
    ranks: Mapping[Site, int]
    head: Mapping[str, nn.Parameter]
    seed: int
    state: Mapping[str, Any]


def read_saved(model: PreTrainedModel, path: str | Path) -> Saved:
    """Read a file that `save` wrote.

    Raises:
        ModelError: if there is no such file, or it is not for this kind of model.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        space, state, header = read_adapters(file)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file}: cannot be read ({one_line(error)}); give a folder that heterolora.save wrote"
        ) from error
    if header["model_type"] != model.config.model_type:
        raise ModelError(
            f"{file}: holds adapters of a '{header['model_type']}' model, but this is a "
            f"'{model.config.model_type}' model; give the model that they were trained on"
        )
    parameters = dict(model.named_parameters())
    heads = [name.removeprefix("head.") for name in state["tensors"] if name.startswith("head.")]
    if missing := [name for name in heads if name not in parameters]:
        raise ModelError(
            f"{file}: has a head ({', '.join(missing)}) that this model lacks; load it into a "
            "model of the class that was saved"
        )
    head = {name: parameters[name] for name in heads}
    ranks = {Site.parse(name): rank for name, rank in state["ranks"].items()}
    return Saved(file, space, ranks, head, int(header.get("seed", 0)), state)


def check_without_shortcuts(
    space: Space, ranks: Mapping[Site, int], model: PreTrainedModel, family: Family, target: str
) -> None:
    """Reject a model that computes anything other than its linear layers with LoRA on them.

    Args:
        space: the search space that its adapters are made from.
        ranks: the rank of each site.
        model: the model, with or without the adapters.
        family: the model's family.
        target: what cannot hold shortcuts, as the error names it.

    Raises:
        ModelError: if a shortcut is on, or its second norm applies whether it is on or not.
    """
    on = [site for site, rank in ranks.items() if rank and site.kind == "shortcut"]
    repeats = space.renormalize == "always" and {"in", "cut"} & space.shortcuts.keys()
    if on:
        what = f"{len(on)} shortcuts are on (first: {on[0]})"
    elif repeats and family.post_norm(model.config):
        what = "its layers normalize twice (renormalize=always)"
    else:
        return
    raise ModelError(f"{what}: {target} cannot store that; use heterolora.save (--to heterolora)")
