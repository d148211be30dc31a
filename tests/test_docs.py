"""What the documentation shows: its Python is executed, its commands are composed."""

import functools
import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONF, ROOT
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import heterolora
from heterolora.harness.cli.commands import COMMANDS, evaluate, export, report, suggest
from heterolora.harness.cli.commands.prefetch import runs_of
from heterolora.harness.cli.run.compose import composing
from heterolora.harness.cli.run.grids import combinations, compose_runs
from heterolora.harness.cli.run.overrides import check_overrides

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Those that begin with ``` and the language."""
    pieces = re.split(r"^```", page.read_text(), flags=re.MULTILINE)
    inside = [piece.partition("\n") for piece in pieces[1::2]]
    return [content for first, _, content in inside if first == language]


def commands() -> list[str]:
    """Every line of a block without a language, but for what stands behind a `#`."""
    lines = [line for page in PAGES for block in blocks(page, "") for line in block.splitlines()]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in joined if line.strip()]


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        str(folder), num_train_epochs=1, report_to=[], use_cpu=True, disable_tqdm=True
    )


@pytest.mark.parametrize("page", ["README.md", "docs/peft.md"])
def test_python_of_who_has_a_peft_script_or_a_trainer(
    page: str, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(checkpoints["opt-pre-norm"])

    ids = torch.randint(4, 20, (24, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": int(row[0] > row[1])} for row in ids]
    loader = torch.utils.data.DataLoader(rows, batch_size=8)  # type: ignore[arg-type]
    given: dict[str, Any] = {
        **{"heterolora": heterolora, "hl": heterolora, "torch": torch},
        **{"get_peft_model": get_peft_model, "LoraConfig": LoraConfig, "Trainer": Trainer},
        **{"loader": loader, "batches": list(loader), "rows": rows, "args": arguments(tmp_path)},
    }
    ran = blocks(ROOT / page, "python")
    assert len(ran) == 2
    seen: dict[str, Any] = {}
    for block in ran:
        names = {**given, "model": fresh(), "another_model": fresh(), "base_model": fresh()}
        exec(block, names)  # of this repository
        seen |= names
    assert isinstance(seen["model"], PeftModel)
    seen["trainer"].train()
    assert seen["allocation"].searches


TRAIN = sorted({c for c in commands() if c.startswith("python train.py")})
PLACEHOLDERS = re.compile(r"[A-Z]{3,}|\.\.\.|\$S")


def overrides(command: str) -> list[str]:
    """What a command of the documentation gives; what stands for something of one's own is not."""
    given = [part for part in shlex.split(command)[2:] if part not in ("-m", "--help")]
    return [part for part in given if not PLACEHOLDERS.search(part)]


def covering(runs: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Runs of a sweep that together have every override, but for seeds: any run takes any."""
    missing = {one for run in runs for one in run if not one.startswith("seed=")}
    chosen: list[Sequence[str]] = []
    while missing or not chosen:
        chosen.append(max(runs, key=lambda run: len(missing.intersection(run))))
        missing -= set(chosen[-1])
    return chosen


def test_runs_that_cover_a_sweep() -> None:
    product = list(itertools.product(["a=1", "a=2", "a=3"], ["b=1", "b=2"], ["seed=0", "seed=1"]))
    assert covering(product) == [
        ("a=1", "b=1", "seed=0"),
        ("a=2", "b=2", "seed=0"),
        ("a=3", "b=1", "seed=0"),
    ]
    assert covering(product[:1]) == covering([("seed=0",), *product[:1]]) == product[:1]
    assert covering([("seed=0",), ("seed=1",)]) == [("seed=0",)]


@pytest.mark.parametrize(
    "command",
    [
        # its grids are many runs, which test_experiments.py has
        pytest.param(command, marks=[pytest.mark.slow] if "+experiment" in command else [])
        for command in TRAIN
    ],
)
def test_a_command_that_trains_can_be_composed(command: str) -> None:
    GlobalHydra.instance().clear()
    with composing():
        if " -m " not in command:
            check_overrides(overrides(command))
            assert compose("config", overrides(command)).seed == 0
            return
        loader = GlobalHydra.instance().config_loader()
        whole = loader.load_configuration("config", overrides(command), RunMode.MULTIRUN)
        runs = combinations(loader, whole.hydra.sweeper, whole.hydra.overrides.task)
        assert len(runs) > 1
        some = covering(runs)
        assert len(list(compose_runs(loader, whole, some))) == len(some)


@pytest.mark.exhaustive
@pytest.mark.parametrize("command", [command for command in TRAIN if " -m " in command])
def test_every_run_of_a_sweep_can_be_composed(command: str) -> None:
    GlobalHydra.instance().clear()
    is_sweep, runs = runs_of(overrides(command))
    assert is_sweep
    assert len(runs) > 1


def test_make_has_its_targets() -> None:
    experiments = {file.stem for file in (CONF / "experiment").glob("*.yaml")}
    targets = {*experiments, *re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)}
    shown = {command.split()[1] for command in commands() if command.startswith("make ")}
    assert len(shown) > 3
    assert shown <= targets | {"<name>"}


def test_scripts_and_their_options_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose parsers say no are told apart by a SystemExit."""
    monkeypatch.setattr(report, "read", functools.cache(report.read))  # every experiment, each time
    parsers = {
        "evaluate": evaluate.parse_args,
        "export": export.parse_args,
        "report": report.parse_args,
        "suggest": suggest.parse_args,
    }
    seen = set()
    for command in commands():
        if not command.startswith("python ") or "train.py" in command:
            continue
        words = shlex.split(command)
        if words[1] == "-m":
            assert words[2] in ("heterolora", "venv"), command
            name = words[3]
            assert name in COMMANDS, command
        else:
            assert (ROOT / words[1]).is_file(), command
            name = Path(words[1]).stem
        if name in parsers:
            seen.add(name)
            parsers[name](words[4:] if words[1] == "-m" else words[2:])
    assert seen == {*parsers}
