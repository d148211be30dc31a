"""Any checkpoint, without a YAML of its own."""

from pathlib import Path

import pytest
from conftest import CommandLine, composed, problems

from heterolora.harness.cli.train import expand_home
from heterolora.harness.config import prepare
from heterolora.harness.records.load import load


def test_a_directory_is_called_by_its_own_name(wide: Path) -> None:
    config = prepare(composed("model=auto", f"model.path={wide}/", "device=cpu"))
    assert config.model.name == wide.name


def test_home_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    arguments = ["model.path=~/m", "+task.path=~/a=b", "seed=0", "~proxy", "output=x~/y", "-m"]
    assert list(map(expand_home, arguments)) == [
        "model.path=/home/ada/m",
        "+task.path=/home/ada/a=b",
        *arguments[2:],
    ]


def test_a_checkpoint_must_be_named() -> None:
    (line,) = problems(composed("model=auto", "device=cpu"))
    assert line.startswith("model.name=null: must be")


def test_a_run_of_any_checkpoint(
    command_line: CommandLine, wide: Path, pairs: Path, tmp_path: Path
) -> None:
    given = ("model=auto", f"model.path={wide}", "task=rte", f"task.path={pairs}")
    short = ("training.epochs=1", "device=cpu", "tracking=local", f"output={tmp_path}")
    done = command_line(*given, *short)
    assert done.code == 0, done.err
    ((run,), _) = load(tmp_path)
    assert run.setting("model.name") == wide.name
