"""The record of a run on disk: what is written when, and that nothing finished is erased."""

import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CommandLine, Finished, edited, run_config, stopped_at, tiny_config
from omegaconf import DictConfig, OmegaConf
from records import write_run

from heterolora.errors import ModelError, RecordError
from heterolora.files import write_atomically
from heterolora.harness.config import Config, identity
from heterolora.harness.config import checkpoints as located
from heterolora.harness.records.record import (
    Record,
    check_writable,
    finished,
    read_rows,
    read_run,
    run_directory,
)
from heterolora.harness.records.schema import RunRecord
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.outcome import directory_of

Paid = tuple[DictConfig, Path]
STEP = {"step": 1, "epoch": 1, "loss": 0.5}
EPOCH = {
    "step": 1,
    "epoch": 1,
    "train_loss": 0.5,
    "validation_loss": 0.75,
    "accuracy": 1.0,
}
SEARCH: dict[str, Any] = {
    "step": 0,
    "epoch": 1,
    "proxy": {"name": "snip"},
    "scores": {"layers.0.q": 1.5},
    "ranks": {"layers.0.q": 8},
    "parameters": 512,
    "tied": 0,
    "degenerate": False,
    "seconds": 0.5,
}
CONFIG = {"name": "main", "seed": 0, "task": {"name": "mrpc", "metrics": ["accuracy"]}}


@pytest.fixture(scope="module")
def config(checkpoints: dict[str, Path], pairs: Path) -> Config:
    return experiment.prepare(of_tiny(checkpoints, pairs, Path("somewhere"), "task=mrpc"))


def of_tiny(checkpoints: dict[str, Path], pairs: Path, output: Path, *overrides: str) -> DictConfig:
    return tiny_config(checkpoints["opt-post-norm"], pairs, output, *overrides)


def opened(directory: Path, provenance: Mapping[str, Any] = {}, resume: bool = False) -> Record:
    return Record.open(directory, CONFIG, provenance, resume)


def text_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def origin(directory: Path) -> Any:
    return json.loads((directory / "provenance.json").read_text())


def test_the_directory_is_named_by_what_is_run(
    config: Config, checkpoints: dict[str, Path], pairs: Path
) -> None:
    root = Path(config.output)
    name = f"dynamic-gradnorm-{identity(config)}-s0"
    assert directory_of(config, identity(config)) == root / "main" / "mrpc" / name
    changed = ("strategy=homogeneous", "seed=13", "name=a/b")
    other = experiment.prepare(of_tiny(checkpoints, pairs, root, *changed))
    expected = root / "a" / "b" / "rte" / f"homogeneous-{identity(other)}-s13"
    assert directory_of(other, identity(other)) == expected
    assert run_directory("o", "n/m", "t", "static", "snip", "0123", 5) == Path(
        "o/n/m/t/static-snip-0123-s5"
    )


def test_a_record_is_there_from_the_start_and_grows_line_by_line(
    config: Config, tmp_path: Path
) -> None:
    directory = tmp_path / "deep" / "run"
    record = Record.open(directory, config.resolved(), {"code": None})
    assert OmegaConf.load(directory / "config.yaml") == config.resolved()
    assert origin(directory) == {"code": None}
    assert read_run(directory) == {"schema_version": 1, "status": "running"}
    record.add_provenance(model={"revision": "abc"})
    assert origin(directory) == {"code": None, "model": {"revision": "abc"}}
    record.log_step(STEP)
    record.log_epoch(EPOCH)
    record.log_search(SEARCH)
    # Read before the record is closed: a killed run keeps its lines.
    assert text_of(directory / "metrics.jsonl") == [
        {"event": "step", **STEP},
        {"event": "epoch", **EPOCH},
    ]
    assert read_rows(directory / "allocations.jsonl") == [SEARCH]
    record.close({"status": "failed", "error": None})
    assert read_run(directory) == {"schema_version": 1, "status": "failed", "error": None}
    assert {path.name for path in directory.iterdir()} - {"code.diff"} == {
        *("config.yaml", "provenance.json", "run.json", "metrics.jsonl", "allocations.jsonl")
    }


def test_opening_a_record_clears_what_an_unfinished_run_left(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.log_step(STEP)
    first.log_search(SEARCH)
    first.close({"status": "failed"})
    second = opened(tmp_path)
    assert read_run(tmp_path) == {"schema_version": 1, "status": "running"}
    assert text_of(tmp_path / "metrics.jsonl") == text_of(tmp_path / "allocations.jsonl") == []
    second.close({"status": "interrupted"})


def left_at(directory: Path) -> dict[str, int]:
    """What a checkpoint has of a record that went on for another line of each kind."""
    record = opened(directory, {"code": {"commit": "a", "dirty": False}, "python": "3.11"})
    record.add_provenance(model={"revision": "1"})
    record.log_step(STEP)
    record.log_search(SEARCH)
    state = record.state_dict()
    record.log_epoch(EPOCH)
    record.log_search({**SEARCH, "step": 5})
    record.close({"status": "interrupted"})
    return state


def test_a_record_that_resumes_goes_on_where_its_state_was(tmp_path: Path) -> None:
    state = left_at(tmp_path)
    assert state == {
        name: len((json.dumps(row) + "\n").encode())
        for name, row in (
            ("metrics.jsonl", {"event": "step", **STEP}),
            ("allocations.jsonl", SEARCH),
        )
    }
    config = (tmp_path / "config.yaml").read_bytes()
    now = {"code": {"commit": "b", "dirty": False}, "python": "3.11"}
    record = Record.open(tmp_path, {**CONFIG, "seed": 1}, now, resume=True)
    assert read_run(tmp_path) == {"schema_version": 1, "status": "running"}
    assert len(text_of(tmp_path / "metrics.jsonl")) == 2  # until it is known where it goes on
    record.add_provenance(model={"revision": "1"})
    record.load_state_dict(state)
    record.log_resumption(4)
    record.log_step({**STEP, "step": 2})
    assert [row["step"] for row in text_of(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [row["step"] for row in text_of(tmp_path / "allocations.jsonl")] == [0]
    assert (tmp_path / "config.yaml").read_bytes() == config
    assert origin(tmp_path) == {
        "code": {"commit": "a", "dirty": False},
        "python": "3.11",
        "model": {"revision": "1"},
        "resumed": [{"step": 4, "code": {"commit": "b", "dirty": False}}],
    }


def test_a_state_whose_lines_are_gone_changes_nothing(tmp_path: Path) -> None:
    state = left_at(tmp_path)
    os.truncate(tmp_path / "allocations.jsonl", 10)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    record = opened(tmp_path, resume=True)
    with pytest.raises(ValueError, match="lacks lines"):
        record.load_state_dict(state)
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("content", ["", "[]", '{"resumed": 1}', None])
def test_a_lost_provenance_begins_anew(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left_at(tmp_path)
    file = tmp_path / "provenance.json"
    file.unlink() if content is None else file.write_text(content)
    record = opened(tmp_path, {"python": "3.12"}, resume=True)
    record.log_resumption(4)
    assert origin(tmp_path) == {"python": "3.12", "resumed": [{"step": 4, "code": None}]}
    assert len(caplog.messages) == (content is not None)


def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path) -> None:
    record = opened(tmp_path)
    for loss in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number"):
            record.log_step({**STEP, "loss": loss})
    with pytest.raises(ValueError, match="finite number"):
        record.log_epoch({**EPOCH, "accuracy": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        record.log_search({**SEARCH, "proxy": {"name": "snip", "floor": float("nan")}})
    assert text_of(tmp_path / "metrics.jsonl") == text_of(tmp_path / "allocations.jsonl") == []
    record.close({"status": "failed"})


def test_what_readers_would_not_find_or_know_is_refused(tmp_path: Path) -> None:
    record = opened(tmp_path)
    for wrong in ({"step": 1, "epoch": 1}, {**STEP, "lost": 1.0}, {**STEP, "step": "1"}):
        with pytest.raises(ValueError, match="StepRow"):
            record.log_step(wrong)
    with pytest.raises(ValueError, match="same sites"):
        record.log_search({**SEARCH, "ranks": {"layers.0.k": 8}})
    with pytest.raises(ValueError, match="a finished run must have seed"):
        record.close({"status": "finished"})
    assert text_of(tmp_path / "metrics.jsonl") == text_of(tmp_path / "allocations.jsonl") == []
    assert read_run(tmp_path) == {"schema_version": 1, "status": "running"}


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_atomically(file, "old")
    inode = file.stat().st_ino
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new \ud800")
    assert file.read_text() == "old"
    write_atomically(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_ino != inode  # another file took its place
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json"] == ["run.json"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for opening in (opened, check_writable):
        with pytest.raises(RecordError, match=r"^.*cannot be written .*output=DIR$"):
            opening(tmp_path / "file" / "below")


def test_what_is_finished(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert finished(tmp_path / "nowhere") is None
    assert finished(tmp_path / "file") is None
    assert finished(tmp_path) is None
    done = finished(write_run(tmp_path, accuracies=[0.5, 0.75]))
    assert isinstance(done, RunRecord)
    assert done.best is not None
    assert done.best.metrics["accuracy"] == 0.75
    for status in ("running", "failed", "interrupted"):
        assert finished(write_run(tmp_path, accuracies=[0.5], status=status)) is None


def erased(directory: Path, done: Finished, before: Mapping[Path, bytes]) -> str:
    """The one line of a command that was refused; nothing of the record has changed."""
    assert done.code == 2
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before
    (line,) = done.err.splitlines()
    assert "rerun=true" in line
    return line


@pytest.fixture
def paid(finished_run: Path, checkpoints: dict[str, Path], pairs: Path, tmp_path: Path) -> Paid:
    """A run that is finished: its configuration and its directory."""
    output = shutil.copytree(finished_run.parents[2], tmp_path / "outputs")
    cfg = of_tiny(checkpoints, pairs, output, "optimizer.learning_rate=0.02")
    return cfg, output / finished_run.relative_to(finished_run.parents[2])


def test_a_finished_run_with_a_damaged_result_is_refused_and_not_erased(paid: Paid) -> None:
    cfg, directory = paid
    whole = (directory / "run.json").read_bytes()
    for content in (b"", b"{", b'{"status": "fini', b"{}", b"[]", b"null", b"\xff\xfe\x00", None):
        file = directory / "run.json"
        file.unlink() if content is None else file.write_bytes(content)
        before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        assert "run.json" in erased(directory, run_config(cfg), before), content
    (directory / "run.json").write_bytes(whole)
    assert "already finished; use rerun=true" in run_config(cfg).out
    (directory / "run.json").write_bytes(b"")
    assert run_config(edited(cfg, "rerun=true")).code == 0
    assert finished(directory) is not None


def test_a_finished_run_that_lacks_a_file_is_not_called_finished(paid: Paid) -> None:
    cfg, directory = paid
    for name in (
        *("config.yaml", "provenance.json", "metrics.jsonl", "allocations.jsonl"),
        *("checkpoint/best.safetensors", "checkpoint/last.safetensors"),
    ):
        whole = (directory / name).read_bytes()
        (directory / name).unlink()
        before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        assert f"finished but lacks {name}" in erased(directory, run_config(cfg), before)
        (directory / name).write_bytes(whole)


def test_all_that_is_missing_is_named(tmp_path: Path) -> None:
    directory = write_run(tmp_path, accuracies=[0.5])
    shutil.rmtree(directory / "checkpoint")
    (directory / "config.yaml").unlink()
    names = "config.yaml, checkpoint/best.safetensors and checkpoint/last.safetensors"
    with pytest.raises(RecordError, match=names):
        finished(directory)


def test_a_run_of_another_schema_is_not_erased(tmp_path: Path) -> None:
    directory = write_run(tmp_path, accuracies=[0.5])
    (directory / "run.json").write_text('{"schema_version": 2, "status": "finished"}')
    with pytest.raises(RecordError, match=r"schema_version=2.*rerun=true"):
        finished(directory)


def failed(output: Path) -> dict[str, Any]:
    """What a run that failed before its first step left."""
    (directory,) = (output / "outputs" / "main" / "rte").iterdir()
    assert {path.name for path in directory.iterdir()} >= {"config.yaml", "provenance.json"}
    assert text_of(directory / "metrics.jsonl") == []
    run = read_run(directory)
    assert run is not None
    assert run["status"] == "failed"
    return run


def test_a_model_that_does_not_load_leaves_a_record(
    train: CommandLine, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    model = shutil.copytree(checkpoints["opt-post-norm"], tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"no weights")
    done = train(f"model.path={model}")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"error: {failed(tmp_path)['error']}" == line


def test_a_model_that_does_not_fit_the_device_leaves_a_record(
    train: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ...")

    monkeypatch.setattr("transformers.PreTrainedModel.to", move)
    done = train()
    assert done.code == 2
    run = failed(tmp_path)
    assert "Tried to allocate 2.00 GiB; lower evaluation.batch_size or proxy" in run["error"]
    assert f"error: {run['error']}" in done.err


def test_a_failure_while_loading_keeps_what_there_is_to_resume_from(
    train: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the second epoch, then without its model, then with it."""
    (whole,) = train("strategy=static", f"output={tmp_path / 'whole'}").record.glob("metrics.jsonl")
    with stopped_at(15):
        assert train("strategy=static").code == 130

    def load(*_: object) -> None:
        raise ModelError("no model today")

    with monkeypatch.context() as patch:
        patch.setattr(located, "load", load)
        assert train("strategy=static").code == 2
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    run = read_run(directory)
    assert run is not None
    assert (run["status"], run["error"]) == ("failed", "no model today")
    done = train("strategy=static")
    assert done.record == directory
    assert "resumed at step 8 (epoch 2)" in done.out
    assert (directory / "metrics.jsonl").read_text() == whole.read_text()


def test_provenance_has_versions_and_no_environment(
    train: CommandLine,
    tmp_path: Path,
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-mine")
    directory = train("strategy=static", "training.epochs=1").record
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert [path for path in files if b"a-secret-of-mine" in path.read_bytes()] == []
    found = origin(directory)
    assert set(found) == {"code", "python", "packages", "hardware", "model", "data"}
    assert set(found["code"]) == {"commit", "dirty"}
    assert found["packages"]["wandb"] == version("wandb")
    assert found["data"]["train"]["rows"] == 60
    assert found["data"]["validation"]["rows"] == 40
    assert found["model"]["path"] == str(checkpoints["opt-post-norm"])
    assert len(found["model"]["revision"]) == 16
