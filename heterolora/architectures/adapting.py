"""Adapters on a model that was loaded by whoever asks for them; and saved, and put on another."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from heterolora.adapters import Adapters, Space
from heterolora.adapters.files import read_adapters, write_adapters
from heterolora.adapters.space import Renormalize
from heterolora.architectures.family import family_of, head_of
from heterolora.architectures.wiring import wire
from heterolora.errors import ModelError, one_line
from heterolora.files import writing

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
    """Put low-rank adapters on a model, in place, and freeze the rest of it but for its head.

    All ranks are on; B is zero, so that the adapters change no output yet. With
    `renormalize="always"` and cross-layer shortcuts on a post-norm model the repeated norm
    does (paper, Appendix D).

    Args:
        model: of the families BERT, RoBERTa, OPT, Llama, Mistral, Qwen 2, Qwen 3 or Gemma, with or
            without a task head.
        lora: the rank of the adapters at each role: `q`, `k`, `v`, `o`, `up`, `down`, `gate`.
        shortcuts: the rank of the adapters at each shortcut role: `res1`, `res2`, `in`, `cut`.
        seed: of the initial weights, of proxies that draw weights, and of tie-breaking.
        head: the parameters to train beside the adapters; if None, those of the task head, but
            for that of a language model, which is pretrained.
        lora_alpha: the numerator of the scaling at LoRA sites.
        shortcut_alpha: the numerator of the scaling at shortcut sites.
        scaling: `alpha_over_rank` (LoRA and the paper), `alpha_over_budget_rank`, or `rslora`
            (alpha over the root of the rank).
        budget_ranks: by role, the rank by which `alpha_over_budget_rank` divides; `lora` and
            `shortcuts` where there is none.
        renormalize: `always` (the paper) or `enabled`, for post-norm models with shortcuts.

    Raises:
        ModelError: if the model has adapters already, or cannot have these.
        ValueError: for a scaling that does not exist.
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

    The frozen model is not written.

    Raises:
        RecordError: if there is no room for it.
    """
    file = Path(folder) / FILE
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_adapters(file, adapters)


def load(model: PreTrainedModel, path: str | Path) -> Adapters:
    """Put saved adapters on a model, in place, with their ranks and weights.

    Args:
        model: the pretrained model that they were saved of, loaded anew.
        path: a folder that `save` wrote, or a file such as a run's
            `checkpoint/best.safetensors`.

    Raises:
        ModelError: if there is no such file, or it does not fit the model.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        space, state, header = read_adapters(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{file}: cannot be read ({one_line(error)}); give a folder that heterolora.save wrote"
        ) from error
    if header["model_type"] != model.config.model_type:
        raise ModelError(
            f"{file}: holds adapters of a {header['model_type']} model, and this is a "
            f"{model.config.model_type} model; give the model that they were saved of"
        )
    parameters = dict(model.named_parameters())
    heads = [name.removeprefix("head.") for name in state["tensors"] if name.startswith("head.")]
    if missing := [name for name in heads if name not in parameters]:
        raise ModelError(
            f"{file}: holds a head ({', '.join(missing)}) that this model lacks; load it with the "
            "class of the model that was saved"
        )
    head = [parameters[name] for name in heads]
    adapters = wire(model, family_of(model), space, head, int(header.get("seed", 0)))
    try:
        adapters.load_state_dict(state)
    except ValueError as error:
        raise ModelError(f"{file}: does not fit the model ({one_line(error)})") from error
    return adapters
