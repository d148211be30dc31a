"""Tasks of language models: blocks, strided perplexity, answers alone, and packed rows."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    ENCODERS,
    LLAMAS,
    MODELS,
    WITH_SHORTCUTS,
    WORDS,
    composed,
    edited,
    problems,
    tiny_tokenizer,
    write_parquet,
)
from hypothesis import given
from hypothesis import strategies as st
from support import configured, one_problem, randomize, space, switch_on
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from heterolora import architectures
from heterolora.architectures import family_of, head_of
from heterolora.errors import DataError, ModelError
from heterolora.harness.config import plugins
from heterolora.harness.config.rules import data
from heterolora.harness.data import sources
from heterolora.losses import inputs
from heterolora.proxies.passes import mask_of
from heterolora.settings import Situation
from heterolora.tasks import CausalLM, Encoded, Examples, Instruction, TextStream
from heterolora.tasks.encoded import LABELS
from heterolora.tasks.packing import together
from heterolora.training.evaluation import evaluate

CPU = torch.device("cpu")
DECODERS = [name for name in MODELS if name not in ENCODERS]
WIRED = [(name, False) for name in DECODERS if name not in LLAMAS]
WIRED += [(name, True) for name in DECODERS if name in WITH_SHORTCUTS]
WIRED += [pytest.param(name, False, marks=pytest.mark.exhaustive) for name in LLAMAS]
"""Families, with shortcuts too where they have them; what has Llama's wiring, only with them."""
TEXTS = ["", " ".join(WORDS), "the cat sees", "", "no dog hears a big red bird " * 3, "two old"]


def language_model(family: str, **changes: Any) -> PreTrainedModel:
    """Of random weights large enough that every token counts."""
    torch.manual_seed(0)
    config = MODELS[family]().config
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    return model.eval()


def stream(**changes: Any) -> TextStream:
    return TextStream(**{"text": "text", "max_length": 12, **changes})


def evaluated(task: TextStream, positions: int = 40) -> Encoded:
    return task.encode_evaluation(Examples({"text": TEXTS}), tiny_tokenizer(), positions, CPU)


def log_likelihood(model: PreTrainedModel, tokens: list[int]) -> float:
    """Of the last token, given those before it, by the definition of softmax."""
    with torch.no_grad():
        scores = model(torch.tensor([tokens])).logits[0, -2].double().tolist()
    return scores[tokens[-1]] - math.log(sum(map(math.exp, scores)))


def documented(
    model: PreTrainedModel, ids: Tensor, length: int, stride: int
) -> tuple[float, float]:
    """Transformers' recipe: as printed, and with as many tokens as its losses are means of.

    As printed, it takes one loss less from each window, for the label that the model's shift
    loses; but where a window begins with context, none is lost.
    """
    printed, exact = [0.0, 0], [0.0, 0]
    before = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        window = ids[None, begin:end]
        target = window.clone()
        target[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = model(window, labels=target).loss.item()
        for sums, count in (
            (printed, int((target != -100).sum()) - 1),
            (exact, int((target[:, 1:] != -100).sum())),
        ):
            sums[0] += loss * count
            sums[1] += count
        before = end
        if end == len(ids):
            break
    return [math.exp(total / count) for total, count in (printed, exact)]


@pytest.mark.parametrize(("length", "stride"), [(12, 6), (12, 12), (10, 3), (40, None), (12, 1)])
def test_strided_perplexity_is_the_documented_one_and_that_by_hand(length, stride) -> None:
    model = language_model("llama")
    task = stream(max_length=length, stride=stride)
    windows = evaluated(task)
    ids = torch.tensor(tiny_tokenizer()("\n\n".join(TEXTS))["input_ids"])
    assert len(ids) > 40
    apart = stride or length // 2
    by_hand, scored = 0.0, []
    for begin in range(0, len(ids), apart):
        for place in range(begin + 1, min(begin + length, len(ids))):
            if place not in scored:  # with as much context as any window before it gives
                scored.append(place)
                by_hand -= log_likelihood(model, ids[begin : place + 1].tolist())
    for size in (1, 4):
        found = evaluate(model, task, windows, size)
        assert found["loss"] == pytest.approx(by_hand / len(scored), abs=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(by_hand / len(scored)), rel=1e-5)
    printed, exact = documented(model, ids, length, apart)
    assert found["perplexity"] == pytest.approx(exact, rel=1e-5)
    if apart == length:  # no overlap, and every count of the recipe is right as printed
        assert found["perplexity"] == pytest.approx(printed, rel=1e-5)
        assert len(scored) == len(ids) - len(windows)
    else:
        assert sorted(scored) == list(range(1, len(ids)))


def test_a_stream_is_cut_into_blocks() -> None:
    ids = tiny_tokenizer()("\n\n".join(TEXTS))["input_ids"]
    for changes, length in (({"block_length": 7}, 7), ({}, 12), ({"block_length": 90}, 20)):
        task = stream(**changes)
        blocks = task.encode(Examples({"text": TEXTS}), tiny_tokenizer(), 20, CPU)
        rows = [row.tolist() for row in blocks.features["input_ids"]]
        assert rows == [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
        (batch,) = blocks.in_order(len(rows))
        assert torch.equal(batch[LABELS], batch["input_ids"])
        assert int(task.count(batch)) == len(rows) * (length - 1)
    with pytest.raises(DataError, match=r"^task.block_length=40: must be at most 5, the number of"):
        stream(max_length=40).encode(
            Examples({"text": ["the cat", "two"]}), tiny_tokenizer(), 40, CPU
        )
    with pytest.raises(DataError, match=r"^task.stride=12: must be at most 10, the positions of"):
        evaluated(stream(stride=12), positions=10)
    line = one_problem(stream(stride=13))
    assert line.startswith("stride=13: must be at most max_length=12")


ALPACA = {
    "instruction": ["sees the cat", "likes", "the big old dog hears " * 4],
    "input": ["two birds", "", "no"],
    "output": ["a bird", "not the dog", "the cat"],
}


def instruction(**changes: Any) -> Instruction:
    """The templates' words are the tokenizer's."""
    settings: dict[str, Any] = {
        "instruction": "instruction",
        "input": "input",
        "output": "output",
        "prompt": "the {instruction} red",
        "prompt_with_input": "a {instruction} big {input} red",
        "max_length": 12,
    }
    return Instruction(**(settings | changes))


def test_the_answer_alone_is_learned_and_the_end_of_it() -> None:
    task, tokenizer = instruction(), tiny_tokenizer()
    examples = task.check(ALPACA, "here")
    encoded = task.encode(examples, tokenizer, 40, CPU)
    assert (encoded.dropped, encoded.truncated) == (1, 0)  # the third prompt is too long
    said = [tokenizer.decode(row) for row in encoded.features["input_ids"]]
    assert said == [
        "<s> a sees the cat big two <unk> red a bird </s>",
        "<s> the likes red not the dog </s>",
    ]
    model = language_model("llama")
    (batch,) = encoded.in_order(2)
    total, count = task.loss(model(**inputs(batch)), batch)
    expected = []
    for prompt, answer in (
        ("a sees the cat big two birds red", "a bird </s>"),
        ("the likes red", "not the dog </s>"),
    ):
        ids = [0, *(tokenizer.convert_tokens_to_ids(w) for w in prompt.split())]
        for word in answer.split():
            ids.append(tokenizer.convert_tokens_to_ids(word))
            expected.append(-log_likelihood(model, ids))
    assert int(count) == int(task.count(batch)) == len(expected) == 7
    assert total.item() == pytest.approx(sum(expected), rel=1e-5)
    cut = instruction(max_length=10).encode(examples, tokenizer, 40, CPU)
    assert (cut.dropped, cut.truncated) == (1, 1)
    assert cut.features[LABELS][0].tolist() == [-100] * 9 + [5]  # "a" alone is left of the answer
    with pytest.raises(DataError, match=r"^task.max_length=3: leaves no room for any answer"):
        instruction(max_length=3).encode(examples, tokenizer, 40, CPU)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"prompt": "no place"},
            "prompt='no place': must contain exactly the placeholders {instruction}; write",
        ),
        (
            {"prompt": "{instruction} {other}"},
            "must contain exactly the placeholders {instruction}; write a",
        ),
        ({"prompt": "{instruction} {"}, "must contain exactly the placeholders {instruction}"),
        ({"prompt_with_input": "{input}"}, "the placeholders {instruction} and {input}; write"),
        ({"prompt_with_input": None}, "prompt_with_input=null: input=input needs a template"),
        ({"output": "input"}, "must differ"),
    ],
)
def test_settings_of_an_instruction_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    line = one_problem(instruction(**changes))
    assert said in line
    assert "\n" not in line
    assert list(instruction().problems(Situation())) == []
    assert list(instruction(input=None, prompt_with_input=None).problems(Situation())) == []


@pytest.mark.parametrize("given", ["", "some input"])
def test_the_prompt_of_alpaca_is_the_published_one(given: str) -> None:
    """That of train.py of github.com/tatsu-lab/stanford_alpaca, put together by hand."""
    cfg = composed("task=alpaca", "tracking=local").task
    settings = {name: cfg[name] for name in ("prompt", "prompt_with_input", "max_length")}
    made = instruction(**settings)
    paired = ", paired with an input that provides further context" if given else ""
    parts = [
        f"Below is an instruction that describes a task{paired}. "
        "Write a response that appropriately completes the request.",
        "### Instruction:\nDo it.",
        *([f"### Input:\n{given}"] if given else []),
        "### Response:",
    ]
    examples = Examples({"instruction": ["Do it."], "input": [given], "output": ["Done."]})
    assert made.prompts(examples) == ["\n\n".join(parts)]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_every_example_has_a_place_in_one_row(lengths: list[int]) -> None:
    rows = together(lengths, 12)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert all(row == sorted(row) for row in rows)
    filled = [sum(lengths[example] for example in row) for row in rows]
    assert max(filled) <= 12
    # No two rows would fit in one: the later was begun since the earlier had no room.
    assert all(a + b > 12 for i, a in enumerate(filled) for b in filled[:i])


def short_texts() -> Examples:
    texts = [" ".join(WORDS[at : at + 1 + at % 6]) for at in range(9)]
    return Examples({"text": texts})


def alone(model: PreTrainedModel, task: CausalLM, rows: Encoded) -> tuple[Tensor, int]:
    """The loss of every example in a pass of its own, summed."""
    losses = [task.loss(model(**inputs(batch)), batch) for batch in rows.in_order(1)]
    return torch.stack([total for total, _ in losses]).sum(), sum(int(n) for _, n in losses)


@pytest.mark.parametrize(("family", "stacked"), WIRED)
def test_packed_examples_have_the_losses_and_gradients_of_those_alone(family, stacked) -> None:
    changes = {"sliding_window": 4} if family == "mistral" else {}
    model = language_model(family, **changes)
    roles = {"shortcuts": {"res1": 2, "cut": 2}, "renormalize": "enabled"} if stacked else {}
    adapters = architectures.wire(model, family_of(model), space(**roles), head_of(model), seed=0)
    assert adapters.head_count == 0
    randomize(adapters)
    switch_on(adapters, adapters.sites)
    model.eval()
    task = CausalLM(text="text", max_length=14, packing=True)
    rows = task.encode(short_texts(), tiny_tokenizer(), 40, CPU)
    single = task.encode_evaluation(short_texts(), tiny_tokenizer(), 40, CPU)
    architectures.separate(model, family_of(model))
    (batch,) = rows.in_order(len(rows))
    assert len(rows) < len(single)
    assert "attention_mask" not in batch
    assert mask_of(batch).sum() == sum(len(row) for row in single.features["input_ids"])
    total, count = task.loss(model(**inputs(batch)), batch)
    expected, tokens = alone(model, task, single)
    assert int(count) == int(task.count(batch)) == tokens
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = list(adapters.named_tensors().values())
    for found, wanted in zip(
        torch.autograd.grad(total, trained), torch.autograd.grad(expected, trained), strict=True
    ):
        assert torch.allclose(found, wanted, atol=1e-3 * wanted.abs().max().item())
    # Each example by itself, not only in the sum.
    with torch.no_grad():
        found = F.log_softmax(model(**inputs(batch)).logits, -1)
        for row, (ids, places) in enumerate(
            zip(batch["input_ids"], batch["position_ids"].tolist(), strict=True)
        ):
            starts = [at for at, place in enumerate(places) if place == 0]
            for start, end in zip(starts, [*starts[1:], sum(p >= 0 for p in places)], strict=True):
                single_logits = model(ids[None, start:end]).logits[0]
                assert torch.allclose(
                    found[row, start:end], F.log_softmax(single_logits, -1), atol=1e-4
                )


def test_a_model_whose_packed_examples_see_each_other_is_refused() -> None:
    """As OPT's do unless its family makes the mask: transformers does not."""
    model = language_model("opt-pre-norm")
    with pytest.raises(ModelError, match=r"^task.packing=true: OPTForCausalLM lets examples"):
        architectures.separate(model, family_of(language_model("llama")))
    architectures.separate(model, family_of(model))
    assert not model.training


def test_an_encoder_predicts_no_next_token(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    rows: dict[str, list[object]] = {"text": [*TEXTS]}
    write_parquet(tmp_path, train=rows, validation={"text": ["two old dogs", "a cat"]})
    cfg = composed("task=wikitext2", "tracking=local", "device=cpu")
    for family in ("bert", "roberta"):
        changes = [f"task.path={tmp_path}", "task.subset=null"]
        (line,) = problems(edited(cfg, *changes, f"model.path={checkpoints[family]}"))
        assert line.startswith(f"model.path={checkpoints[family]}: is a {family} model")
        assert "model=opt_125m" in line


def test_what_is_held_out_is_not_trained_on_and_the_same_for_all(tmp_path: Path) -> None:
    rows: dict[str, list[object]] = {name: [*column] * 4 for name, column in ALPACA.items()}
    rows["output"] = [f"answer {row}" for row in range(12)]
    write_parquet(tmp_path, train=rows)
    cfg = composed("task=alpaca", f"task.path={tmp_path}", "task.held_out=5", "tracking=local")
    section = {key: tuple(v) if key == "metrics" else v for key, v in cfg.task.items()}
    kind = plugins.find("task", "instruction")
    assert kind is not None
    task: Any = kind(**section)
    splits = sources.load_splits(task)
    held, kept = (set(splits[name].columns["output"]) for name in ("validation", "train"))
    assert (len(held), len(kept), held & kept) == (5, 7, set())
    again = sources.load_splits(task)
    assert again == splits
    smaller = sources.load_splits(kind(**section | {"held_out": 2}))
    assert set(smaller["validation"].columns["output"]) < held
    with pytest.raises(DataError, match=r"^task.held_out=12: must be less than 12, the number of"):
        sources.load_splits(kind(**section | {"held_out": 12}))
    (line,) = data.something_is_evaluated(kind(**section | {"held_out": None}))
    assert line.startswith("task.validation_split=null: leaves nothing to evaluate")
    (line,) = data.something_is_evaluated(kind(**section | {"validation_split": "validation"}))
    assert line.startswith("task.held_out=5: has no effect with task.validation_split=validation")


@pytest.mark.parametrize("name", ["gradnorm", "snip", "gora", "gradsvd", "eva"])
def test_a_proxy_that_sees_all_examples_scores_the_same_of_packed_ones(name: str) -> None:
    model = language_model("opt-pre-norm")
    adapters = architectures.wire(model, family_of(model), space(), head_of(model), seed=0)
    randomize(adapters)
    architectures.separate(model, family_of(model))
    task = CausalLM(text="text", max_length=14, packing=True)
    rows = task.encode(short_texts(), tiny_tokenizer(), 40, CPU)
    single = task.encode_evaluation(short_texts(), tiny_tokenizer(), 40, CPU)
    proxy = configured(name)
    assert len(rows) < len(single) <= 12 == proxy.num_batches * proxy.batch_size
    scores = proxy.scores(adapters, proxy.sample(rows), task.loss)
    expected = proxy.scores(adapters, proxy.sample(single), task.loss)
    assert scores == {site: pytest.approx(score, rel=1e-3) for site, score in expected.items()}
    assert min(expected.values()) > 0
