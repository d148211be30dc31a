"""Loading a checkpoint as a library does, and what of its weights is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ENCODERS, MODELS, ROOT
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from heterolora import architectures
from heterolora.architectures import Family, Parts, family_of, load_pretrained, register
from heterolora.errors import ModelError

Weights = dict[str, Tensor]
DECODERS = [name for name in MODELS if name not in ENCODERS]


@dataclass(frozen=True)
class Headed:
    """What a task says of the model that it needs."""

    model_class: Any
    model_options: dict[str, Any] = field(default_factory=dict)


CLASSIFICATION = Headed(AutoModelForSequenceClassification, {"num_labels": 2})
CAUSAL_LM = Headed(AutoModelForCausalLM)
BARE = Headed(AutoModel)


def changed(
    source: Path, target: Path, change: Callable[[Weights], Weights], **config: Any
) -> Path:
    """A copy of a checkpoint with other weights, and some settings of `config.json` changed."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    weights = change(load_file(source / "model.safetensors"))
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    settings = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings | config))
    return target


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: w for name, w in weights.items() if part not in name}


def with_one(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: {n: change(w) if part in n else w for n, w in weights.items()}


def refusal(folder: Path, task: Headed = CLASSIFICATION) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(ModelError) as refused:
        load_pretrained(folder, task, where="model.path=here")
    message = str(refused.value)
    assert message.startswith("model.path=here: ")
    assert "\n" not in message
    return message


KINDS = {"classification": CLASSIFICATION, "causal_lm": CAUSAL_LM, "bare": BARE}
EACH = ("opt-pre-norm", "bert", "llama")
"""Of an embedding that is the head's as well, one of an encoder, and one with a head of its own."""


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(
            *(family, kind),
            marks=[] if kind == "classification" or family in EACH else pytest.mark.exhaustive,
        )
        for family in MODELS
        for kind in KINDS
        if not (family in ("deberta", "modernbert") and kind == "causal_lm")  # of neither any
    ],
)
def test_a_checkpoint_without_its_embeddings_is_refused(family, kind, checkpoints, tmp_path):
    task = KINDS[kind]
    folder = changed(checkpoints[family], tmp_path, without("embed"))
    message = refusal(folder, task)
    assert "lacks" in message
    assert "embed" in message
    if family == "opt-pre-norm" and task is CLASSIFICATION:
        assert "lacks 2 weights of the model (first: model.decoder.embed_positions.wei" in message


@pytest.mark.parametrize("part", ["layers.1.fc1.bias", "project_in", "layers.2.final_layer_norm.w"])
def test_any_weight_outside_the_head_that_is_missing_is_named(part, checkpoints, tmp_path) -> None:
    folder = changed(checkpoints["opt-post-norm"], tmp_path, without(part))
    assert f"lacks 1 weights of the model (first: model.decoder.{part}" in refusal(folder)


@pytest.mark.parametrize("task", [CLASSIFICATION, BARE])
@pytest.mark.parametrize("family", ["bert", "opt-pre-norm", "llama"])
@pytest.mark.parametrize("headed", [False, True])
def test_weights_of_more_layers_than_the_model_has_are_refused(
    family, task, headed, checkpoints, tmp_path
) -> None:
    """With and without the prefix that a checkpoint with a head has."""
    source = checkpoints[family]
    if headed:
        whole = load_pretrained(source, CLASSIFICATION)
        whole.model.save_pretrained(source := tmp_path / "headed")
        whole.tokenizer.save_pretrained(source)
    folder = changed(source, tmp_path / "changed", dict, num_hidden_layers=2)
    message = refusal(folder, task)
    assert "weights of layers beyond the 2 of the model" in message
    assert ".2." in message.split("first: ")[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["word_embeddings", "layer.1.output.dense.weight"])
def test_weights_that_are_not_finite_are_refused(part, value, checkpoints, tmp_path) -> None:
    def spoil(weight: Tensor) -> Tensor:
        weight[0, 0] = value
        return weight

    folder = changed(checkpoints["bert"], tmp_path, with_one(part, spoil))
    message = refusal(folder)
    assert "holds NaN or infinity in 1 weights" in message
    assert part in message


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_integer_weights_are_refused(dtype, pickled, checkpoints, tmp_path) -> None:
    part = "layer.0.attention.self.query.weight"
    folder = changed(checkpoints["bert"], tmp_path, with_one(part, lambda w: (100 * w).to(dtype)))
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert f"holds 1 weights as integers (first: encoder.{part})" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_and_integer_buffers_load(dtype, checkpoints, tmp_path) -> None:
    def convert(weights: Weights) -> Weights:
        positions = torch.arange(40)[None]
        floats = {name: weight.to(dtype) for name, weight in weights.items()}
        return {**floats, "embeddings.position_ids": positions}

    loaded = load_pretrained(changed(checkpoints["bert"], tmp_path, convert), CLASSIFICATION)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_a_pooler_that_a_checkpoint_lacks_is_part_of_the_head(checkpoints, tmp_path) -> None:
    folder = changed(checkpoints["bert"], tmp_path, without("pooler"))
    heads = [
        load_pretrained(source, task).head
        for source in (checkpoints["bert"], folder)
        for task in (CLASSIFICATION, BARE)
    ]
    classifier, pooler = 16 * 2 + 2, 16 * 16 + 16
    sizes = [sum(parameter.numel() for parameter in head) for head in heads]
    assert sizes == [classifier, 0, classifier + pooler, pooler]


@pytest.mark.parametrize("family", DECODERS)
def test_a_language_models_head_is_trained_only_where_it_was_drawn(
    family, checkpoints, tmp_path
) -> None:
    """The fixtures have no head: it is tied to the embeddings, or the checkpoint lacks it."""
    loaded = load_pretrained(checkpoints[family], CAUSAL_LM)
    lm_head = loaded.model.get_output_embeddings()
    tied = lm_head.weight is loaded.model.get_input_embeddings().weight
    assert tied is family.startswith(("opt", "gemma"))
    assert [id(p) for p in loaded.head] == ([] if tied else [id(p) for p in lm_head.parameters()])
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    assert load_pretrained(tmp_path, CAUSAL_LM).head == ()


def test_the_seed_draws_the_head_and_nothing_else(checkpoints) -> None:
    first, again, other = (
        load_pretrained(checkpoints["bert"], CLASSIFICATION, seed=seed) for seed in (0, 0, 13)
    )
    for loaded, same in ((again, True), (other, False)):
        for (name, a), b in zip(
            first.model.named_parameters(), loaded.model.parameters(), strict=True
        ):
            assert torch.equal(a, b) is (same or name != "classifier.weight"), name


def test_what_is_not_of_a_family_is_refused_in_one_line(tmp_path) -> None:
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=8, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    message = refusal(tmp_path, CAUSAL_LM)
    assert "'gpt2' model" in message
    for known in ("bert", "opt", "llama"):
        assert known in message
    with pytest.raises(ModelError, match="GPT2LMHeadModel: is a 'gpt2' model"):
        family_of(model)
    with pytest.raises(ModelError, match="Linear: is a 'None' model"):
        family_of(torch.nn.Linear(1, 1))


def test_a_source_that_is_not_there_is_one_line(tmp_path) -> None:
    with pytest.raises(ModelError) as refused:
        load_pretrained(tmp_path / "nothing", CLASSIFICATION)
    assert str(refused.value).startswith(f"{tmp_path / 'nothing'}: cannot be loaded")
    assert "\n" not in str(refused.value)


def test_a_user_can_register_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    from heterolora.architectures import family as module

    known = dict(architectures.FAMILIES)
    monkeypatch.setattr(module, "_registered", dict(known))
    opt = known["opt"]
    assert issubclass(opt.parts, Parts)
    mine = Family("mine", "layers", opt.projections, opt.parts, opt.post_norm, opt.positions)
    register(mine)
    assert architectures.FAMILIES["mine"] is mine
    assert set(architectures.FAMILIES) == {*known, "mine"}


@pytest.mark.slow
def test_every_file_of_families_registers_one() -> None:
    """So that a new family is a file, and its name stands in no list."""
    folder = ROOT / "heterolora" / "architectures" / "families"
    files = [file.stem for file in folder.glob("[a-z]*.py")]
    code = (
        "import importlib, os\n"
        "from heterolora.architectures import family\n"
        f"for name in {files}:\n"
        "    child = os.fork()  # each has imported nothing but what it imports itself\n"
        "    if child == 0:\n"
        "        importlib.import_module(f'heterolora.architectures.families.{name}')\n"
        "        os._exit(0 if family._registered else 1)\n"
        "    assert os.waitpid(child, 0)[1] == 0, name\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert len(architectures.FAMILIES) >= 8


@pytest.mark.slow
def test_the_room_is_a_library() -> None:
    """It needs nothing of the harness, and loads no model's code before a model is asked for."""
    code = (
        "import sys, heterolora.architectures as room\n"
        "print(len(room.FAMILIES))\n"
        "print(*(name for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    count, names = done.stdout.splitlines()
    assert int(count) == len(architectures.FAMILIES)
    loaded = set(names.split())
    harness = ("config", "data", "network", "records", "cli", "loggers", "run")
    assert not loaded & {f"heterolora.{room}" for room in harness}
    assert not loaded & {"hydra", "omegaconf", "pydantic", "datasets", "pandas", "wandb"}
    models = {name for name in loaded if name.startswith("transformers.models.")}
    assert {name for name in models if ".modeling_" in name} <= {
        "transformers.models.auto.modeling_auto"
    }
