"""The contract of every family on models with any head and with none."""

import copy
import functools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from conftest import ENCODERS, LORA_ONLY, MODELS, WIRINGS, WITH_SHORTCUTS
from support import covering, load, randomize, space, switch_on
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from heterolora import architectures
from heterolora.adapters import Adapters
from heterolora.architectures import family_of, head_of, layers_of
from heterolora.errors import ModelError
from heterolora.sites import SHORTCUT_ROLES

DECODERS = [name for name in MODELS if name not in ENCODERS]
POST_NORM = ("opt-post-norm", "bert", "roberta")
CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "question": AutoModelForQuestionAnswering,
    "choice": AutoModelForMultipleChoice,
    "causal": AutoModelForCausalLM,
    "bare": AutoModel,
}
HEADS = {
    **{("classification", family): MODELS[family] for family in MODELS},
    **{("bare", family): MODELS[family] for family in MODELS},
    **{("causal", family): MODELS[family] for family in DECODERS},
    **{("question", family): MODELS[family] for family in ("bert", "roberta", "llama", "deberta")},
    **{("tokens", family): MODELS[family] for family in ("bert", "roberta", "llama", "gemma2")},
    **{("choice", family): MODELS[family] for family in ("bert", "roberta")},
}

every_head = pytest.mark.parametrize(("head", "family"), HEADS, ids="-".join)
each_wiring = pytest.mark.parametrize("family", WIRINGS)


def with_and_without_shortcuts(heads: Iterable[tuple[str, str]]) -> list[Any]:
    """Each head and family with LoRA alone or with shortcuts too, in turn; else `exhaustive`."""
    cases = []
    for index, (head, family) in enumerate(heads):
        ways = [False] if family in LORA_ONLY else [False, True]
        for stacked in ways:
            marks = () if stacked == ways[index % len(ways)] else pytest.mark.exhaustive
            name = f"{head}-{family}-{'shortcuts' if stacked else 'lora'}"
            cases.append(pytest.param(head, family, stacked, marks=marks, id=name))
    return cases


@functools.cache
def config_of(family: str) -> PretrainedConfig:
    return MODELS[family]().config


def built(head: str, family: str) -> PreTrainedModel:
    """A model as a user has it: of random weights, in evaluation mode."""
    config = copy.deepcopy(config_of(family))
    torch.manual_seed(0)
    model = CLASSES[head].from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)  # norms and biases with a say
    return model.eval()


def wired(model: PreTrainedModel, stacked: bool) -> Adapters:
    """Adapters on q and v, with a stack on the shortcuts too."""
    roles = dict.fromkeys(SHORTCUT_ROLES, 2) if stacked else {}
    searched = space(shortcuts=roles, renormalize="enabled")
    return architectures.wire(model, family_of(model), searched, head_of(model), seed=0)


def neutral(adapters: Adapters, family: str) -> None:
    """Only sites that are zero at first: on a post-norm block a cross-layer shortcut repeats LN."""
    off = ("in", "cut") if family in POST_NORM else ()
    switch_on(adapters, [site for site in adapters.sites if site.role not in off])


def batch(head: str = "bare") -> dict[str, Tensor]:
    """Two rows, the second padded; two choices of each for a multiple choice."""
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1]])
    rows = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    return {k: v[None] for k, v in rows.items()} if head == "choice" else rows


def output(model: PreTrainedModel, head: str) -> Tensor:
    found = model(**batch(head))
    names = {"bare": "last_hidden_state", "question": "start_logits"}
    tensor: Tensor = found[names.get(head, "logits")]
    return tensor


@pytest.mark.parametrize(("head", "family", "stacked"), with_and_without_shortcuts(HEADS))
def test_zero_adapters_change_no_bit_and_off_equals_absent(head, family, stacked) -> None:
    model = built(head, family)
    base = output(copy.deepcopy(model), head)
    adapters = wired(model, stacked)
    assert len(adapters.sites) == (17 if stacked else 6)
    neutral(adapters, family)
    assert torch.equal(output(model, head), base)
    randomize(adapters)
    switch_on(adapters, adapters.sites)
    assert not torch.allclose(output(model, head), base)
    adapters.apply({})
    assert torch.equal(output(model, head), base)


TRAINED = {
    "classification": ("score.", "classifier.", "pooler.", "head."),
    "tokens": ("score.", "classifier."),
    "question": ("qa_outputs.",),
    "choice": ("classifier.",),
}


@every_head
def test_layers_are_found_and_the_head_is_outside_the_base_but_no_language_models(
    head, family
) -> None:
    model = built(head, family)
    assert len(layers_of(model, family_of(model))) == 3
    expected = [n for n, _ in model.named_parameters() if n.startswith(TRAINED.get(head, ("?",)))]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(parameter)] for parameter in head_of(model)] == expected
    assert bool(expected) is (head in TRAINED)


def test_a_part_of_a_model_is_refused_in_one_line() -> None:
    part = built("bare", "opt-post-norm").decoder
    with pytest.raises(ModelError, match="OPTDecoder: has no decoder") as refused:
        layers_of(part, family_of(part))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("family", "head", "asked_before"),
    covering(WITH_SHORTCUTS, ["classification", "bare"], [False, True], times=2),
)
def test_hidden_states_and_attentions_are_those_of_the_plain_model(
    family, head, asked_before
) -> None:
    """Before and after a model has installed its own hooks, which it does when first asked."""
    model = built(head, family)
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    plain = copy.deepcopy(model)(**batch(), **asked)
    assert (len(plain.hidden_states), len(plain.attentions)) == (4, 3)
    if asked_before:
        model(**batch(), **asked)
    adapters = wired(model, stacked=True)
    neutral(adapters, family)
    for found in (model(**batch(), **asked), copy.deepcopy(model)(**batch(), **asked)):
        for key in ("hidden_states", "attentions"):
            assert len(found[key]) == len(plain[key])
            assert all(torch.equal(*pair) for pair in zip(found[key], plain[key], strict=True))
    assert model(**batch()).hidden_states is None


@each_wiring
def test_hidden_states_are_recorded_once_under_checkpointing(family) -> None:
    model = built("classification", family)
    wired(model, stacked=True)
    model.train().enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = model(**batch(), output_hidden_states=True)
    found.logits.sum().backward()
    assert len(found.hidden_states) == 4


@pytest.mark.parametrize(
    ("head", "family", "stacked"),
    with_and_without_shortcuts(
        (head, family) for head in ("classification", "causal") for family in DECODERS
    ),
)
def test_a_wired_decoder_keeps_no_cache_unless_asked(head, family, stacked) -> None:
    model = built(head, family)
    assert model(**batch()).past_key_values is not None
    wired(model, stacked)
    for training in (True, False):
        assert model.train(training)(**batch()).past_key_values is None
    asked = model(**batch(), use_cache=True).past_key_values
    assert asked.get_seq_length() == 6


@pytest.mark.parametrize("family", ["opt-post-norm", "llama"])
def test_generation_still_keeps_one(family, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("causal", family)
    wired(model, stacked=True)
    lengths: list[int] = []
    first = layers_of(model, family_of(model))[0]
    first.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    model.generate(**{k: v[:1, :3] for k, v in batch().items()}, max_new_tokens=3, eos_token_id=31)
    assert lengths[:1] == [3]
    assert set(lengths[1:]) == {1}


def test_a_loaded_checkpoint_and_a_users_model_have_the_same_head(checkpoints) -> None:
    for family in MODELS:
        loaded = load(checkpoints[family])
        assert [id(p) for p in loaded.head] == [id(p) for p in head_of(loaded.model)]
