"""The W&B workspace: built without W&B, and what it shows is what runs log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from heterolora.errors import TrackingError

pytest.importorskip("wandb_workspaces", reason="needs the optional extra: pip install .[dashboard]")

from heterolora.harness.loggers import wandb_workspace

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_it_shows_accuracy_allocations_and_cost_by_arm() -> None:
    spec = wandb_workspace.workspace("team", "heterolora", "accuracy")._spec
    text = json.dumps(spec, default=str)
    files = [ROOT / "heterolora/harness/loggers" / name for name in ("base.py", "wandb.py")]
    logger = "".join(file.read_text() for file in files)
    for key in ("train/loss", "search/heatmap", "search/seconds", "search/tied"):
        assert key in text
        assert f'"{key}"' in logger
    assert "validation/accuracy" in text
    for number in ("best.accuracy", "seconds.searching", "peak_memory_bytes"):
        assert f"summary_metrics.{number}" in text
    run_set = spec["spec"]["section"]["runSets"][0]
    assert [key["name"] for key in run_set["grouping"]] == ["group", "jobType"]
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel for section in sections for panel in section["panels"]]
    assert len(panels) == 13
    by_arm = [panel for panel in panels if panel["viewType"] != "Media Browser"]
    assert {panel["config"]["groupBy"] for panel in by_arm} == {"jobType"}


def test_another_metric_can_be_shown() -> None:
    text = json.dumps(wandb_workspace.workspace("team", "p", "matthews")._spec, default=str)
    assert "validation/matthews" in text
    assert "accuracy" not in text.replace("Accuracy by arm", "")


@pytest.mark.usefixtures("no_key")
def test_without_a_key_it_cannot_be_saved() -> None:
    with pytest.raises(TrackingError, match=r"team/heterolora: .*no API key.*wandb login"):
        wandb_workspace.save("team", "heterolora", "accuracy")


@pytest.mark.usefixtures("no_key")
def test_the_script_says_so_in_one_line() -> None:
    command = [sys.executable, "scripts/dashboard.py", "--entity", "team", "--project", "p"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "wandb login" in line
    assert done.stdout == ""
