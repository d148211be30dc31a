"""Trainings of every kind give the numbers that are kept in tests/goldens."""

import copy
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT, composed
from rich.console import Console

from heterolora.harness.loggers.progress import Display, Screen
from heterolora.harness.runs import execute as experiment


def _script() -> ModuleType:
    """`scripts/compare_losses.py`, which makes the models and knows the cases."""
    file = ROOT / "scripts" / "compare_losses.py"
    spec = importlib.util.spec_from_file_location("compare_losses", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_losses"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


script = _script()
NAMES = [case.name for case in script.CASES]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and datasets of the cases."""
    return script.build(tmp_path_factory.mktemp("inputs"))


FOLDER, EXACT = script.goldens()
"""Goldens, and whether this machine must give their bits, or only nearly their numbers."""


@pytest.mark.parametrize("case", script.CASES, ids=NAMES)
def test_a_training_gives_its_golden(case, inputs, tmp_path) -> None:
    cfg = composed(*script.overrides(case, inputs, tmp_path))
    experiment.run(cfg, Screen(Display(Console(quiet=True))))
    now = script.numbers(tmp_path)
    tolerance = None if EXACT else case.tolerance
    assert script.first_difference(script.read_golden(FOLDER, case.name), now, tolerance) is None


def test_every_golden_has_its_case() -> None:
    for machine in script.GOLDENS.glob("*/machine.json"):
        kept = {file.stem for file in machine.parent.glob("*.json")} - {"machine"}
        assert kept == set(NAMES)
        assert len(NAMES) == len(kept)


@pytest.fixture
def golden() -> dict[str, list[dict[str, object]]]:
    return script.read_golden(FOLDER, "dynamic-gradnorm-opt-post-norm")


@pytest.fixture
def now(golden) -> dict[str, list[dict[str, object]]]:
    """A run that gave its golden."""
    found = copy.deepcopy(golden)
    assert script.first_difference(golden, found) is None
    return found


def test_a_loss_that_changes_in_the_last_digit_is_noticed(golden, now) -> None:
    row = now["metrics.jsonl"][6]
    before = row["loss"]
    row["loss"] = math.nextafter(before, math.inf)
    found = script.first_difference(golden, now)
    assert found == script.Difference("metrics.jsonl", 7, "loss", before, row["loss"])
    assert str(before) in str(found)
    assert str(row["loss"]) in str(found)
    assert script.first_difference(golden, now, tolerance=1e-3) is None
    row["loss"] = before * 1.01
    assert script.first_difference(golden, now, tolerance=1e-3) is not None


@pytest.mark.parametrize("tolerance", [None, 1e-3])
def test_a_changed_rank_is_noticed(golden, now, tolerance) -> None:
    row = now["allocations.jsonl"][3]
    site = next(site for site, rank in row["ranks"].items() if rank == 0)
    row["ranks"][site] = 8
    found = script.first_difference(golden, now, tolerance=tolerance)
    assert found == script.Difference("allocations.jsonl", row["step"], f"ranks.{site}", 0, 8)


@pytest.mark.parametrize("tolerance", [None, 1e-3])
@pytest.mark.parametrize("file", ["metrics.jsonl", "allocations.jsonl"])
@pytest.mark.parametrize("index", [0, 3, -1])
def test_a_missing_row_is_noticed(golden, now, file, index, tolerance) -> None:
    del now[file][index]
    found = script.first_difference(golden, now, tolerance=tolerance)
    assert found is not None
    assert found.file == file


def test_a_missing_file_a_row_too_many_and_a_site_too_many_are_noticed(golden, now) -> None:
    now["metrics.jsonl"].append(now["metrics.jsonl"][-1])
    assert script.first_difference(golden, now).key == "rows"
    now["metrics.jsonl"].pop()
    now["allocations.jsonl"][0]["scores"]["layers.9.q"] = 0.0
    assert script.first_difference(golden, now).key == "scores.layers.9.q"
    del now["allocations.jsonl"]
    assert script.first_difference(golden, now).now == script.ABSENT


def test_other_weights_are_noticed_on_the_same_machine(golden, now) -> None:
    now["checkpoint/last.safetensors"][0]["sha256"] = "0" * 64
    assert script.first_difference(golden, now).file == "checkpoint/last.safetensors"
    assert script.first_difference(golden, now, tolerance=1e-3) is None


def test_what_a_record_has_since_is_not_looked_at(golden, now) -> None:
    now["new.jsonl"] = [{"step": 0}]
    for rows in list(now.values()):
        for row in rows:
            row["since"] = 1.5
    assert script.first_difference(golden, now) is None
