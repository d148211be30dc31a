"""Runs of language models through the command line: searched, stopped, resumed, exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Command
from conftest import CommandLine, composed, tiny_tokenizer, write_parquet
from peft import PeftModel
from test_export import finished
from test_language import ALPACA, TEXTS, documented, language_model
from transformers import AutoModelForCausalLM

from heterolora.cli import export
from heterolora.config import identity, prepare
from heterolora.training.trainer import Trainer

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


def overrides(places: dict[str, Path], task: str, data: str, output: Path) -> list[str]:
    return [
        *(f"task={task}", f"task.path={places[data]}", f"model.path={places['model']}"),
        *(f"output={output}", "tracking=local", "device=cpu", "training.batch_size=4"),
        *("training.epochs=2", "proxy.num_batches=2", "optimizer.learning_rate=0.02"),
        *("task.max_length=24", "search_space.projections=[q,k,v,o,gate,up,down]"),
    ]


@pytest.fixture
def wiki(places: dict[str, Path], tmp_path: Path) -> list[str]:
    """A dynamic search by gradients on the lines."""
    return [*overrides(places, "wikitext2", "wiki", tmp_path / "outputs"), "task.stride=6"]


@pytest.fixture
def alpaca(places: dict[str, Path], tmp_path: Path) -> list[str]:
    """The same on the instructions."""
    made = overrides(places, "alpaca", "alpaca", tmp_path / "outputs")
    return [*made, *PROMPTS, "task.held_out=12"]


def result(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "run.json").read_text())
    return found


def test_what_is_exported_has_the_perplexity_of_the_run_by_the_documented_recipe(
    command_line: CommandLine, wiki: list[str], places: dict[str, Path], tmp_path: Path
) -> None:
    run = finished(command_line, *wiki)
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
    task: str,
    more: list[str],
    request: pytest.FixtureRequest,
    command_line: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [*request.getfixturevalue(task), *more]
    assert command_line(*asked).code == 0
    whole = Command(composed(), tmp_path / "outputs")
    before = result(whole.directory)
    descend, made = Trainer.training_step, []

    def stopped(self: Trainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        made.append(len(batch["input_ids"]))
        if len(made) == before["steps"] // 2 + 1:
            raise KeyboardInterrupt
        return descend(self, batch)

    again = [*asked, f"output={tmp_path / 'again'}", "checkpoint.every_minutes=1e-9"]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", stopped)
        assert command_line(*again).code == 130
    resumed = command_line(*again)
    assert resumed.code == 0
    assert f"resumed at step {before['steps'] // 2}" in resumed.out
    assert Command(composed(), tmp_path / "again").outcome() == whole.outcome()


def test_steps_in_parts_and_recomputed_have_the_same_losses(
    command_line: CommandLine, alpaca: list[str]
) -> None:
    """Their means are over tokens, of which each part has another number."""
    found = []
    for more in ([], ["training.micro_batch_size=3", "training.gradient_checkpointing=true"]):
        found.append(result(finished(command_line, *alpaca, "strategy=static", *more)))
    first, second = (run["last"] for run in found)
    assert first != second
    for name in ("train_loss", "validation_loss", "perplexity"):
        assert first[name] == pytest.approx(second[name], rel=1e-5)


def test_packing_and_what_is_held_out_make_another_run(alpaca: list[str]) -> None:
    def of(*more: str) -> str:
        return identity(prepare(composed(*alpaca, *more)))

    assert len({of(), of("task.packing=true"), of("task.held_out=13")}) == 3
