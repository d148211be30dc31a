"""Runs of language models through the command line: searched, stopped, resumed, exported."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Command
from conftest import (
    composed,
    edited,
    run_config,
    stopped_at,
    tiny_tokenizer,
    write_parquet,
)
from omegaconf import DictConfig
from peft import PeftModel
from test_language import ALPACA, TEXTS, documented, language_model
from transformers import AutoModelForCausalLM

from heterolora.harness.cli.commands import export
from heterolora.harness.config import identity, prepare

EVALUATED = ["two cats hears the bird", "", "a red dog sees two big birds", "the old cat"] * 3
PROMPTS = [
    "task.prompt='the {instruction} red'",
    "task.prompt_with_input='a {instruction} big {input} red'",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama with its own head, lines of an encyclopedia, and instructions."""
    folder = tmp_path_factory.mktemp("language")
    language_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    train: dict[str, list[object]] = {"text": [*TEXTS] * 8}
    write_parquet(folder / "wiki", train=train, validation={"text": [*EVALUATED]})
    rows: dict[str, list[object]] = {name: [*column[:2]] * 20 for name, column in ALPACA.items()}
    rows["input"] = [str(row % 7) if row % 3 else "" for row in range(40)]
    write_parquet(folder / "alpaca", train=rows)
    return {name: folder / name for name in ("model", "wiki", "alpaca")}


def of(places: dict[str, Path], options: Sequence[str], data: str, output: Path) -> DictConfig:
    """A run on the tiny Llama; a dynamic search by gradients, unless `options` choose another."""
    return edited(
        composed(*options, "tracking=local", "device=cpu"),
        *(f"task.path={places[data]}", f"model.path={places['model']}", f"output={output}"),
        *("training.batch_size=4", "training.epochs=2", "proxy.num_batches=2"),
        *("optimizer.learning_rate=0.02", "task.max_length=24"),
        "search_space.projections=[q,k,v,o,gate,up,down]",
    )


@pytest.fixture
def wiki(places: dict[str, Path], tmp_path: Path) -> DictConfig:
    """A dynamic search on the lines."""
    return edited(of(places, ["task=wikitext2"], "wiki", tmp_path / "outputs"), "task.stride=6")


@pytest.fixture
def alpaca(places: dict[str, Path], tmp_path: Path) -> DictConfig:
    """The same on the instructions."""
    made = of(places, ["task=alpaca"], "alpaca", tmp_path / "outputs")
    return edited(made, *PROMPTS, "task.held_out=12")


def result(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "run.json").read_text())
    return found


def test_what_is_exported_has_the_perplexity_of_the_run_by_the_documented_recipe(
    wiki: DictConfig, places: dict[str, Path], tmp_path: Path
) -> None:
    run = run_config(wiki).record
    found = result(run)
    assert (found["primary_metric"], found["higher_is_better"]) == ("perplexity", False)
    assert found["parameters"]["head"] == 0
    assert 0 < found["parameters"]["sites_enabled"] < found["parameters"]["sites"] == 21
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    reached = [row["perplexity"] for row in rows if "perplexity" in row]
    assert found["best"]["perplexity"] == min(reached) < max(reached)
    assert len((run / "allocations.jsonl").read_text().splitlines()) == found["steps"] == 8
    ids = torch.tensor(tiny_tokenizer()("\n\n".join(EVALUATED))["input_ids"])
    base = AutoModelForCausalLM.from_pretrained(places["model"])
    _, before = documented(base.eval(), ids, 24, 6)
    assert before > found["best"]["perplexity"]
    for to in ("merged", "peft"):
        export.main([str(run), str(tmp_path / to), "--to", to])
    models = {
        "merged": AutoModelForCausalLM.from_pretrained(tmp_path / "merged"),
        "peft": PeftModel.from_pretrained(base, tmp_path / "peft"),
    }
    for model in models.values():
        _, perplexity = documented(model.eval(), ids, 24, 6)
        assert perplexity == pytest.approx(found["best"]["perplexity"], rel=1e-5)
    assert "type: text-generation" in (tmp_path / "peft" / "README.md").read_text()


PARTS = ["training.micro_batch_size=3"]
PACKED = [*PARTS, "task.packing=true", "task.max_length=30"]


@pytest.mark.parametrize(
    ("task", "more"), [("wiki", PARTS), pytest.param("alpaca", PACKED, marks=pytest.mark.slow)]
)
def test_a_run_that_was_stopped_ends_to_the_bit_as_one_that_was_not(
    task: str, more: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    asked = edited(request.getfixturevalue(task), *more)
    before = result(run_config(asked).record)
    again = edited(asked, f"output={tmp_path / 'again'}", "checkpoint.every_minutes=1e-9")
    half = before["steps"] // 2
    with stopped_at(half):
        assert run_config(again).code == 130
    resumed = run_config(again)
    assert resumed.code == 0
    assert f"resumed at step {half}" in resumed.out
    outcomes = [Command(asked, tmp_path / name).outcome() for name in ("outputs", "again")]
    assert outcomes[0] == outcomes[1]


def test_steps_in_parts_and_recomputed_have_the_same_losses(
    places: dict[str, Path], tmp_path: Path
) -> None:
    """Their means are over tokens, of which each part has another number."""
    options = ["task=alpaca", "strategy=static"]
    cfg = edited(of(places, options, "alpaca", tmp_path), *PROMPTS, "task.held_out=12")
    found = []
    for more in ([], ["training.micro_batch_size=3", "training.gradient_checkpointing=true"]):
        found.append(result(run_config(edited(cfg, *more)).record))
    first, second = (run["last"] for run in found)
    assert first != second
    for name in ("train_loss", "validation_loss", "perplexity"):
        assert first[name] == pytest.approx(second[name], rel=1e-5)


def test_packing_and_what_is_held_out_make_another_run(alpaca: DictConfig) -> None:
    changes = ([], ["task.packing=true"], ["task.held_out=13"])
    assert len({identity(prepare(edited(alpaca, *change))) for change in changes}) == 3
