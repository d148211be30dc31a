"""What the documentation shows: its Python is executed, its commands are composed."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONF, ROOT
from hydra.core.global_hydra import GlobalHydra
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import heterolora
from heterolora.__main__ import COMMANDS
from heterolora.cli import evaluate, export, report, suggest
from heterolora.cli.prefetch import runs_of

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


@pytest.mark.parametrize(
    "command",
    [
        # the runs of experiments are many
        pytest.param(command, marks=[pytest.mark.slow] if "+experiment" in command else [])
        for command in TRAIN
    ],
)
def test_a_command_that_trains_can_be_composed(command: str) -> None:
    overrides = [part for part in shlex.split(command)[2:] if part not in ("-m", "--help")]
    overrides = [part for part in overrides if not PLACEHOLDERS.search(part)]
    GlobalHydra.instance().clear()
    _, runs = runs_of(overrides)
    assert runs


def test_make_has_its_targets() -> None:
    experiments = {file.stem for file in (CONF / "experiment").glob("*.yaml")}
    targets = {*experiments, *re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)}
    shown = {command.split()[1] for command in commands() if command.startswith("make ")}
    assert len(shown) > 3
    assert shown <= targets | {"<name>"}


def test_scripts_and_their_options_are_there() -> None:
    """Those whose parsers say no are told apart by a SystemExit."""
    parsers = {
        "evaluate": evaluate.parsed,
        "export": export.parsed,
        "report": report.parsed,
        "suggest": suggest.parsed,
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
