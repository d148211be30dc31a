"""What breaks around a run: disks, checkpoints, data, memory, W&B. Nothing finished is lost."""

import functools
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import children
import pytest
import torch
import wandb
from children import Command
from conftest import CommandLine, composed, sentence_pairs, write_parquet

from heterolora.harness.records.record import read_rows, read_run
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.engines import LocalEngine
from heterolora.training.trainer import Trainer

EVERY_STEP = "checkpoint.every_minutes=1e-9"


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with children.server():
        yield


@pytest.fixture(scope="module")
def reference(checkpoints, pairs, tmp_path_factory) -> Command:
    """Two epochs of 8 steps, searches before every second."""
    cfg = composed(
        *(f"model.path={checkpoints['opt-post-norm']}", "task=rte", f"task.path={pairs}"),
        *("tracking=local", "device=cpu", "training.log_every=3", "training.epochs=2"),
        *("training.batch_size=8", "proxy.num_batches=2"),
    )
    command = Command(cfg, tmp_path_factory.mktemp("reference") / "outputs")
    assert command.run() == 0, command.log.read_text()
    command.reference = command.outcome()
    return command


@pytest.fixture
def command(reference: Command, tmp_path: Path) -> Command:
    return reference.at(tmp_path / "outputs")


@pytest.fixture(scope="module")
def stopped(reference: Command, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Killed in its 13th step, with the states of the two steps before. Copy it."""
    command = reference.at(tmp_path_factory.mktemp("stopped") / "outputs")
    fate = functools.partial(children.in_step, 13)
    assert command.run(EVERY_STEP, fate=fate) == -signal.SIGKILL
    assert states(command) == ["step-00000011", "step-00000012"]
    return command


@pytest.fixture
def killed(stopped: Command, tmp_path: Path) -> Command:
    """A run that was killed in its 13th step, and has everything still to come."""
    return stopped.copied(tmp_path / "outputs")


def one_error(command: Command) -> str:
    (line,) = (line for line in command.log.read_text().splitlines() if "error" in line.lower())
    return line


def states(command: Command) -> list[str]:
    return sorted(path.name for path in command.directory.glob("checkpoint/resume/*"))


def test_a_disk_that_fills_up_while_saving(command: Command) -> None:
    """RLIMIT_FSIZE: files beyond that size cannot be written, smaller ones can."""
    fate = functools.partial(children.limit_files_in_step, 12, 12000)
    assert command.run(fate=fate) == 2
    assert re.search(
        r"error: .*step-00000016: cannot be written .*resumes from", one_error(command)
    )
    run = read_run(command.directory)
    assert run is not None
    assert run["status"] == "failed"
    assert "File too large" in run["error"]
    assert states(command) == ["step-00000008"]
    assert command.run() == 0
    assert "resumed at step 8 (epoch 2)" in command.log.read_text()
    assert command.outcome() == command.reference


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("step", "minutes"),
    [(1, "checkpoint.every_minutes=10"), (9, EVERY_STEP), (15, "checkpoint.every_minutes=10")],
)
def test_a_disk_that_is_full(step: int, minutes: str, reference: Command, small_disk: Path) -> None:
    """Whatever is written next fails: a log line, a checkpoint, the weights."""
    command = reference.at(small_disk / "outputs")
    ballast = small_disk / "ballast"
    fate = functools.partial(children.fill_disk_in_step, step, ballast)
    assert command.run(minutes, fate=fate) == 2
    assert "No space left on device" in one_error(command)
    if step > 8:
        assert "step-00000008" in states(command)
    full = command.run()
    assert full == 2  # and says so, instead of starting over
    assert "No space left on device" in one_error(command)
    ballast.unlink()
    assert command.run() == 0, command.log.read_text()
    assert command.outcome() == command.reference


def test_no_file_handles_left(command: Command) -> None:
    """RLIMIT_NOFILE: what is open can be written, nothing else can be opened."""
    assert command.run(fate=functools.partial(children.limit_handles_in_step, 12)) == 2
    line = one_error(command)
    assert "Too many open files" in line
    assert "ulimit -n" in line
    assert states(command) == ["step-00000008"]
    assert command.run() == 0, command.log.read_text()
    assert "resumed at step 8 (epoch 2)" in command.log.read_text()
    assert command.outcome() == command.reference


def test_a_disk_that_has_turned_read_only(stopped: Command, small_disk: Path) -> None:
    """The run goes on from its last checkpoint when it can be written again."""
    command = stopped.copied(small_disk / "outputs")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert command.run() == 2
    assert re.search(r"Read-only file system.*; ", one_error(command))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert command.run() == 0, command.log.read_text()
    assert "resumed at step 12 (epoch 2)" in command.log.read_text()
    assert command.outcome() == command.reference


def test_a_cpu_without_memory_left(command: Command) -> None:
    """RLIMIT_AS: torch's own allocator refuses."""
    fate = functools.partial(children.exhaust_memory_in_step, 12)
    assert command.run(fate=fate) == 2, command.log.read_text()
    line = one_error(command)
    assert re.search(r"error: device=cpu: DefaultCPUAllocator: .*memory", line)
    assert "; lower evaluation.batch_size" in line
    assert states(command) == ["step-00000008"]
    assert command.run() == 0, command.log.read_text()
    assert command.outcome() == command.reference


def older_and_newer(command: Command) -> tuple[Path, Path]:
    """The folders of its two states."""
    older, newer = (command.directory / "checkpoint" / "resume" / name for name in states(command))
    return older, newer


def truncate(folder: Path) -> None:
    os.truncate(folder / "state.safetensors", 1000)


def flip(folder: Path) -> None:
    file = folder / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def empty(folder: Path) -> None:
    (folder / "state.json").write_text("")


def lose(folder: Path) -> None:
    (folder / "checksums.json").unlink()


def shorten_lines(folder: Path) -> None:
    os.truncate(folder.parents[2] / "metrics.jsonl", 100)


@pytest.mark.parametrize("damage", [truncate, flip, empty, lose])
def test_every_damage_to_a_checkpoint_is_noticed(
    damage: Callable[[Path], None], killed: Command, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = older_and_newer(killed)
    damage(newer)
    manager = CheckpointManager(newer.parent)
    manager.facts = json.loads((older / "state.json").read_text())["facts"]
    with caplog.at_level(logging.WARNING):
        assert manager.load() == 11
    assert f"{newer}: this checkpoint is damaged" in caplog.text
    assert states(killed) == [older.name]


@pytest.mark.parametrize(
    "damage",
    [flip, *(pytest.param(d, marks=pytest.mark.exhaustive) for d in (truncate, empty, lose))],
)
def test_a_damaged_checkpoint_is_passed_over(
    damage: Callable[[Path], None], killed: Command
) -> None:
    _, newer = older_and_newer(killed)
    damage(newer)
    assert killed.run() == 0
    said = killed.log.read_text()
    assert f"{newer}: this checkpoint is damaged" in said
    assert "resumed at step 11 " in said
    assert killed.outcome() == killed.reference


def test_with_none_left_nothing_is_erased_unless_asked(stopped: Command, tmp_path: Path) -> None:
    """Whatever the damage: to a state, or to the lines that all states count on."""
    for damage in (shorten_lines, truncate):
        command = stopped.copied(tmp_path / damage.__name__ / "outputs")
        for folder in older_and_newer(command):
            damage(folder)
        before = {file: file.read_bytes() for file in command.directory.rglob("*.safetensors")}
        assert len(before) == 4  # of two states, and the best and the last weights
        for _ in range(2):
            assert command.run() == 2, damage
            said = command.log.read_text()
            assert said.count("is damaged") == 2, said
            assert "all 2 checkpoints are damaged" in said
            assert {file: file.read_bytes() for file in before} == before, damage
    assert command.run("rerun=true") == 0
    assert command.outcome() == command.reference


def rewrite(folder: Path, **facts: Any) -> None:
    """As another version of the code, or another run, would have written it."""
    state = json.loads((folder / "state.json").read_text())
    state["facts"] |= {name.replace("_", " "): value for name, value in facts.items()}
    content = json.dumps(state).encode()
    (folder / "state.json").write_bytes(content)
    digests = json.loads((folder / "checksums.json").read_text())
    digests["state.json"] = hashlib.sha256(content).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(digests))


@pytest.mark.parametrize(
    "facts",
    [{"checkpoint_schema": 0}, {"configuration": "00000000"}, {"seed": 5}, {"device": "cuda"}],
)
def test_a_checkpoint_of_another_kind_is_refused(facts: dict[str, Any], killed: Command) -> None:
    older, newer = older_and_newer(killed)
    rewrite(newer, **facts)
    ((name, value),) = facts.items()
    assert killed.run() == 2
    line = one_error(killed)
    assert f"its checkpoint has {name.replace('_', ' ')} {value} but this run has" in line
    assert "rerun=true" in line
    assert states(killed) == [older.name, newer.name]
    if name == "seed":  # which is refused as the others are
        assert killed.run("rerun=true") == 0
        assert killed.outcome() == killed.reference


def test_other_data_is_another_run(killed: Command, pairs: Path, tmp_path: Path) -> None:
    """What was interrupted stays as it is, and goes on when its data is back."""
    first = killed.directory
    kept = {file: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    copy = shutil.copytree(pairs, tmp_path / "data")
    rows = sentence_pairs(60, seed=1)
    rows["sentence1"][59] = "the cat"
    write_parquet(copy, train=rows)
    assert killed.run(f"task.path={copy}") == 0
    assert "resumed" not in killed.log.read_text()
    assert {file: file.read_bytes() for file in first.rglob("*") if file.is_file()} == kept
    shutil.copy(pairs / "train.parquet", copy)
    assert killed.run(f"task.path={copy}") == 0
    assert "resumed at step 12 " in killed.log.read_text()


def test_other_code_goes_on_with_a_warning(killed: Command) -> None:
    file = killed.directory / "provenance.json"
    origin = json.loads(file.read_text())
    file.write_text(json.dumps(origin | {"code": {"commit": "0" * 40, "dirty": False}}))
    assert killed.run() == 0
    assert "code changed since the run began" in killed.log.read_text()
    (entry,) = json.loads(file.read_text())["resumed"]
    assert entry["code"] == origin["code"]


def run_of(output: Path) -> tuple[Path, dict[str, Any]]:
    (directory,) = (output / "outputs" / "main" / "rte").iterdir()
    run = read_run(directory)
    assert run is not None
    return directory, run


def test_a_device_without_memory_left(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def descend(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )

    monkeypatch.setattr(LocalEngine, "step", descend)
    done = command_line(*tiny)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "CUDA out of memory. Tried to allocate 2.00 GiB; lower evaluation.batch_size or" in line
    assert "training.batch_size" in line
    assert "precision=bf16" in line
    _, run = run_of(tmp_path)
    assert run["status"] == "failed"
    assert f"error: {run['error']}" == line


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_without_memory_left(command_line: CommandLine, tiny: list[str]) -> None:
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        done = command_line(*tiny, "device=cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "training.batch_size" in line


@pytest.fixture
def a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A key for a server that nobody has ever reached."""
    key = "5ec7e7" * 7
    for name, value in {
        "WANDB_API_KEY": key,
        "HF_TOKEN": f"hf_{key}",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_INIT_TIMEOUT": "5",
        "WANDB_SILENT": "true",
        "HOME": str(tmp_path / "home"),
        "WANDB_CONFIG_DIR": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()
    yield key
    wandb.teardown()


def assert_whole(directory: Path, run: dict[str, Any], reference: Command) -> None:
    assert run["status"] == "finished"
    assert len(read_rows(directory / "allocations.jsonl")) == 8
    assert (directory / "metrics.jsonl").read_text() == reference.reference["metrics"]


@pytest.mark.slow
def test_wandb_that_cannot_be_reached(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, a_key: str, reference: Command
) -> None:
    done = command_line(*tiny, "tracking=wandb", "training.log_every=3")
    assert done.code == 0, done.err
    assert done.out.count("warning: W&B") == 1
    assert "W&B cannot be reached, so this run is logged offline" in done.out
    directory, run = run_of(tmp_path)
    assert_whole(directory, run, reference)
    assert f"wandb sync {directory}" in done.out
    for file in (path for path in directory.rglob("*") if path.is_file()):
        assert a_key.encode() not in file.read_bytes(), file


def test_wandb_that_dies(
    command_line: CommandLine,
    tiny: list[str],
    tmp_path: Path,
    a_key: str,
    reference: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL to its service process in the middle of the run."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    record = Trainer.record

    def murderous(self: Trainer, loss: torch.Tensor) -> None:
        if self.progress.step == 5:
            find = ["pgrep", "-P", str(os.getpid()), "wandb-core"]
            (service,) = subprocess.check_output(find, text=True).split()
            os.kill(int(service), signal.SIGKILL)
        record(self, loss)

    monkeypatch.setattr(Trainer, "record", murderous)
    done = command_line(*tiny, "tracking=wandb", "training.log_every=3")
    assert done.code == 0, done.err
    assert done.out.count("warning: W&B failed and is switched off") == 1
    assert_whole(*run_of(tmp_path), reference)
