"""One process to a run directory, and a lock that outlives nobody."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, CommandLine

from heterolora.errors import RecordError
from heterolora.harness.records import lock
from heterolora.harness.records.lock import lock_file, locked

HOLD = """
import sys, time
from pathlib import Path
from heterolora.harness.records.lock import locked
with locked(Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""
RACE = """
import os, sys, time
from pathlib import Path
from heterolora.errors import RecordError
from heterolora.harness.records.lock import locked
directory, inside = Path(sys.argv[1]), Path(sys.argv[1]) / "inside"
for _ in range(200):
    try:
        with locked(directory):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another is in here
            inside.unlink()
    except RecordError:
        pass
"""


def python(code: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def holder(directory: Path) -> subprocess.Popen[str]:
    """A process that has the lock."""
    process = python(HOLD, directory)
    assert process.stdout is not None
    assert process.stdout.readline() == "has it\n"
    return process


def test_the_second_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        who = rf"process {process.pid} on {socket.gethostname()} is already working"
        with pytest.raises(RecordError, match=who), locked(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()
    assert lock_file(tmp_path).exists()


def test_a_lock_ends_with_its_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = holder(tmp_path)
    process.kill()
    process.communicate()
    with locked(tmp_path):
        assert json.loads(lock_file(tmp_path).read_text())["pid"] == os.getpid()
    (said,) = caplog.messages
    assert f"process {process.pid} on {socket.gethostname()} has ended" in said
    assert not lock_file(tmp_path).exists()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"pid": 1, "host": "another-node"}'])
def test_a_file_that_nobody_holds_is_taken_over(content: bytes, tmp_path: Path) -> None:
    """Such as after a crash of the machine, or when the job goes on at another node."""
    lock_file(tmp_path).write_bytes(content)
    with locked(tmp_path):
        pass


def test_looking_who_has_it_takes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    assert lock.holder(tmp_path) == ""
    process = holder(tmp_path)
    who = f"process {process.pid} on {socket.gethostname()}"
    try:
        assert lock.holder(tmp_path) == lock.holder(tmp_path) == who
    finally:
        process.kill()
        process.communicate()
    left = lock_file(tmp_path).read_bytes()
    assert lock.holder(tmp_path) == ""
    assert lock_file(tmp_path).read_bytes() == left
    lock_file(tmp_path).write_bytes(b"")
    assert lock.holder(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_it_is_given_back_after_an_error_and_never_shared(tmp_path: Path) -> None:
    def twice() -> None:
        with locked(tmp_path), locked(tmp_path):
            pass

    with pytest.raises(RecordError, match=f"process {os.getpid()}"):
        twice()
    with locked(tmp_path):
        pass


def test_of_many_that_race_for_it_one_has_it(tmp_path: Path) -> None:
    lock_file(tmp_path).write_text('{"pid": 1, "host": "dead"}')
    processes = [python(RACE, tmp_path) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0] * 3


def test_a_place_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="output=DIR"), locked(tmp_path / "file" / "run"):
        pass


def test_the_command_is_refused(command_line: CommandLine, tiny: list[str], tmp_path: Path) -> None:
    few = [*tiny, "training.epochs=1", "strategy=homogeneous"]
    assert command_line(*few).code == 0
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    before = (directory / "run.json").read_bytes()
    with locked(directory):
        done = command_line(*few, "rerun=true")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"process {os.getpid()} on" in line
    assert (directory / "run.json").read_bytes() == before
