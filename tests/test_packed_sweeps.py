"""Sweeps of packed runs: the records of runs alone, whatever becomes of some of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from children import content
from conftest import ROOT, CommandLine, run_command, tiny_run
from safetensors.torch import load_file
from test_loggers import items, kept_in, no_key  # noqa: F401

from heterolora.harness.records.record import read_rows, read_run
from heterolora.losses import Batch
from heterolora.training.engines.packed import PackedEngine
from heterolora.training.trainer import Trainer

PACKED = "hydra/launcher=packed"
Run = dict[str, Any]


@pytest.fixture(scope="module")
def sweep(checkpoints: dict[str, Path], pairs: Path) -> list[str]:
    """Overrides of a sweep over a model without dropout; `at` says where to."""
    tiny = tiny_run(checkpoints["llama"], pairs, Path("nowhere"))
    own = ("output=", "training.epochs=", "training.batch_size=")
    kept = [o for o in tiny if not o.startswith(own)]
    return [*kept, "training.epochs=1", "training.log_every=3"]


def at(output: Path) -> str:
    return f"output={output}"


def grids(*rows: str) -> str:
    """One after another, with batches of 8 where they do not say otherwise."""
    size = "training.batch_size"
    sized = [row if size in row else f"{row[:-1]},{size}:8}}" for row in rows]
    return f"hydra.sweeper.grids=[{','.join(sized)}]"


def runs(output: Path) -> dict[str, Run]:
    """All that a repetition gives again of every record, by its place below the output."""
    found = {}
    for file in sorted(output.rglob("config.yaml")):
        if ".sweeps" in file.parts:
            continue
        directory = file.parent
        searches = read_rows(directory / "allocations.jsonl")
        for row in searches:
            assert row.pop("seconds") > 0
        run = read_run(directory)
        assert run is not None
        seconds = run.pop("seconds")
        assert seconds["training"] > 0 or run["status"] == "failed"
        del run["peak_memory_bytes"]
        found[str(directory.relative_to(output))] = {
            "run": run,
            "searches": searches,
            "metrics": read_rows(directory / "metrics.jsonl"),
            "files": {str(path.relative_to(directory)) for path in directory.rglob("*")}
            - {"code.diff"},  # which depends on whoever edits the source at the moment
            "weights": sorted(directory.glob("checkpoint/*.safetensors")),
        }
    return found


def assert_close(ours: object, theirs: object, path: str = "") -> None:
    """Equal, but for the rounding of numbers with a fraction."""
    if isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7), path
    elif isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert ours.keys() == theirs.keys(), path
        for key, value in theirs.items():
            assert_close(ours[key], value, f"{path}/{key}")
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs), path
        for index, value in enumerate(theirs):
            assert_close(ours[index], value, f"{path}/{index}")
    elif isinstance(theirs, Path):
        assert isinstance(ours, Path)
        assert ours.name == theirs.name
        torch.testing.assert_close(load_file(ours), load_file(theirs), rtol=1e-4, atol=1e-5)
    else:
        assert ours == theirs, path


def to_the_bit(found: dict[str, Run]) -> dict[str, Run]:
    return {
        name: {**run, "weights": {file.name: content(file) for file in run["weights"]}}
        for name, run in found.items()
    }


def outcomes(done: Any) -> str:
    """The line that counts them."""
    last: str = done.out.splitlines()[-1]
    return last


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs each step of a pack was of."""
    sizes: list[int] = []
    step = PackedEngine.step

    def noted(self: PackedEngine, batches: Any) -> Any:
        sizes.append(len(batches))
        return step(self, batches)

    monkeypatch.setattr(PackedEngine, "step", noted)
    return sizes


GOOD = grids("{strategy:'homogeneous,dynamic',seed:0}")
MIXED = grids(
    "{strategy:homogeneous,seed:1,optimizer.learning_rate:1e30}",  # diverges before its fourth step
    "{strategy:'homogeneous,dynamic',seed:0}",
    "{strategy:static,seed:1,strategy.enable_rate:0.3}",  # is refused before its first
    "{seed:2,optimizer.learning_rate:0.003,rank_budget:r8,proxy:snip,strategy:static}",
    "{seed:0,strategy:static,training.batch_size:10}",
)


@pytest.mark.slow
def test_records_are_those_of_runs_one_after_another(
    command_line: CommandLine, sweep: list[str], tmp_path: Path, packs: list[int]
) -> None:
    """Those that finish, and those that fail, each alone."""
    alone = command_line("-m", *sweep, MIXED, at(tmp_path / "alone"), "runs_per_job=6")
    assert packs == []
    done = command_line("-m", *sweep, MIXED, at(tmp_path / "packed"), PACKED)
    for one in (alone, done):
        assert one.code == 2, one.err
        assert "Traceback" not in one.err
        assert outcomes(one) == "6 runs: 4 finished, 0 skipped, 2 failed"
        summary = one.out.splitlines()[-9:-3]
        assert sum(line.startswith("failed ") for line in summary) == 2
        assert any("strategy.enable_rate=0.3" in line for line in summary)
    # That of another batch size follows, by itself.
    assert packs == [4] * 3 + [3] * 5
    ours, theirs = runs(tmp_path / "packed"), runs(tmp_path / "alone")
    assert len(theirs) == 5
    failed = [run["run"] for run in ours.values() if run["run"]["status"] == "failed"]
    (error,) = (run["error"] for run in failed)
    assert "the training loss is nan at step" in error
    assert failed[0]["best"] is None
    assert_close(ours, theirs)
    assert not list(tmp_path.rglob(".lock"))
    again = command_line("-m", *sweep, GOOD, at(tmp_path / "packed"), PACKED)
    assert (again.code, outcomes(again)) == (0, "2 runs: 0 finished, 2 skipped, 0 failed")
    assert len(packs) == 8
    assert_close(runs(tmp_path / "packed"), ours)


FIVE = grids("{strategy:'homogeneous,dynamic',seed:'0,1'}", "{strategy:static,seed:0}")


@pytest.fixture(scope="module")
def five(sweep: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A sweep of five runs, packed, without anything in its way."""
    output = tmp_path_factory.mktemp("five")
    done = run_command("-m", *sweep, FIVE, at(output), PACKED)
    assert done.code == 0, done.err
    return runs(output)


@pytest.mark.slow
def test_a_step_that_fails_fails_the_runs_of_its_pack_and_not_the_sweep(
    command_line: CommandLine, sweep: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that runs out of memory: the other batch size has its turn all the same."""
    step, left = PackedEngine.step, iter(range(3))

    def fails(self: PackedEngine, batches: Any) -> Any:
        if len(batches) == 3 and next(left, None) is None:
            raise RuntimeError("no memory left")
        return step(self, batches)

    monkeypatch.setattr(PackedEngine, "step", fails)
    arguments = [
        *sweep,
        "strategy=homogeneous",
        grids("{seed:'0,1,2'}", "{seed:'0,1',training.batch_size:10}"),
        PACKED,
    ]
    done = command_line("-m", *arguments, at(tmp_path / "out"))
    assert done.code == 1
    assert outcomes(done) == "5 runs: 2 finished, 0 skipped, 3 failed"
    failed = [run["run"] for run in runs(tmp_path / "out").values()]
    failed = [run for run in failed if run["status"] == "failed"]
    assert [(run["error"], run["steps"]) for run in failed] == [("no memory left", 3)] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ("hydra.launcher.max_packed=1", set()),
        # Of five at four at a time, three and then two: no pass is left to one alone.
        ("hydra.launcher.max_packed=4", {2, 3}),
        # Two jobs of two runs, and then one of one.
        ("hydra.sweeper.max_batch_size=2 runs_per_job=2", {4}),
        pytest.param("hydra.launcher.max_packed=2", {2}, marks=pytest.mark.exhaustive),
    ],
)
def test_with_fewer_at_a_time_the_numbers_are_the_same(
    options: str,
    sizes: set[int],
    command_line: CommandLine,
    sweep: list[str],
    five: dict[str, Run],
    tmp_path: Path,
    packs: list[int],
) -> None:
    done = command_line("-m", *sweep, FIVE, at(tmp_path), PACKED, *options.split())
    assert done.code == 0, done.err
    assert set(packs) == sizes
    assert_close(runs(tmp_path), five)


@pytest.mark.slow
def test_steps_that_a_proxy_observes_are_those_of_a_run_alone(
    command_line: CommandLine, sweep: list[str], tmp_path: Path, packs: list[int]
) -> None:
    observed = grids(
        *(
            f"{{seed:'0,1',strategy:dynamic,{proxy},proxy.observe_every:2}}"
            for proxy in ("proxy.source:running", "proxy:sensitivity")
        ),
        "{seed:'0,1',strategy:homogeneous}",
    )
    alone = command_line("-m", *sweep, observed, at(tmp_path / "alone"))
    assert alone.code == 0, alone.err
    done = command_line("-m", *sweep, observed, at(tmp_path / "packed"), PACKED)
    assert done.code == 0, done.err
    assert len(runs(tmp_path / "packed")) == 6
    assert packs == [2] * 8
    assert_close(runs(tmp_path / "packed"), runs(tmp_path / "alone"))


@pytest.mark.parametrize("most", ["0", "many"])
def test_packs_of_nothing_are_one_line(
    command_line: CommandLine, sweep: list[str], tmp_path: Path, most: str
) -> None:
    arguments = [*sweep, "seed=0,1", at(tmp_path / "out"), PACKED]
    done = command_line("-m", *arguments, f"hydra.launcher.max_packed={most}")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: hydra.launcher.max_packed=")
    assert "must be a whole number greater than 0" in line
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_single_run_is_not_packed(command_line: CommandLine, sweep: list[str]) -> None:
    done = command_line(*sweep, PACKED)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: hydra/launcher=packed: only works for sweeps; add -m")


@pytest.fixture
def foreground() -> Iterator[None]:
    """Ctrl-C as it is where the tests do not run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


Strike = Callable[[int, int], None]


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch, foreground: None) -> Strike:
    """Send a signal to this process in the `count`th step of a pack from now on."""
    step = PackedEngine.step

    def arrange(count: int, number: int) -> None:
        left = iter(range(count - 1, -1, -1))

        def struck(self: PackedEngine, batches: Any) -> Any:
            losses = step(self, batches)
            if next(left, None) == 0:
                os.kill(os.getpid(), number)
            return losses

        monkeypatch.setattr(PackedEngine, "step", struck)

    return arrange


def interrupted(output: Path, count: int) -> list[int]:
    """The steps at which so many runs were stopped, in order; each has let go of its record."""
    found = runs(output)
    assert len(found) == count
    assert not list(output.rglob(".lock"))
    assert {run["run"]["status"] for run in found.values()} == {"interrupted"}
    assert all(any("step-" in file for file in run["files"]) for run in found.values())
    return sorted(run["run"]["steps"] for run in found.values())


def resumed(output: Path) -> set[int]:
    """The steps at which runs were taken up again."""
    files = [file for file in output.rglob("provenance.json") if ".sweeps" not in file.parts]
    rows = [json.loads(file.read_text()).get("resumed", []) for file in files]
    return {row["step"] for one in rows for row in one}


def test_a_signal_stops_all_and_the_same_command_ends_as_if_there_had_been_none(
    command_line: CommandLine,
    sweep: list[str],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    strike: Strike,
) -> None:
    """To the bit, with dropout and searches; stopped by SIGTERM, and then by Ctrl-C."""
    dropping = f"model.path={checkpoints['opt-post-norm']}"
    arguments = [*sweep, dropping, "training.batch_size=8", "strategy=homogeneous,dynamic", PACKED]
    whole = command_line("-m", *arguments, at(tmp_path / "whole"))
    assert whole.code == 0, whole.err
    stops = [0]
    for number, code, count in ((signal.SIGTERM, 143, 3), (signal.SIGINT, 130, 2)):
        strike(count, number)
        stopped = command_line("-m", *arguments, at(tmp_path / "parts"))
        assert stopped.code == code, stopped.err
        steps = interrupted(tmp_path / "parts", 2)
        assert len(set(steps)) == 1  # or the runs would not meet again in a step
        assert steps[0] - stops[-1] in (count, count + 1)
        stops.append(steps[0])
    done = command_line("-m", *arguments, at(tmp_path / "parts"))
    assert done.code == 0, done.err
    assert resumed(tmp_path / "parts") == set(stops[1:])
    ours, theirs = (to_the_bit(runs(tmp_path / name)) for name in ("parts", "whole"))
    assert ours == theirs


@pytest.mark.slow
def test_what_a_pack_saved_can_be_taken_up_alone_and_the_other_way_round(
    command_line: CommandLine,
    sweep: list[str],
    five: dict[str, Run],
    tmp_path: Path,
    strike: Strike,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strike(4, signal.SIGTERM)
    output = at(tmp_path / "parts")
    assert command_line("-m", *sweep, FIVE, output, PACKED).code == 143
    interrupted(tmp_path / "parts", 5)
    done = command_line("-m", *sweep, FIVE, output)
    assert done.code == 0, done.err
    assert len(resumed(tmp_path / "parts")) == 1
    assert_close(runs(tmp_path / "parts"), five)
    record = Trainer.record

    def struck(self: Trainer, loss: torch.Tensor) -> None:
        if self.progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, loss)

    other = at(tmp_path / "others")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "record", struck)
        assert command_line("-m", *sweep, FIVE, other).code == 143
    interrupted(tmp_path / "others", 1)
    done = command_line("-m", *sweep, FIVE, other, PACKED)
    assert done.code == 0, done.err
    assert resumed(tmp_path / "others") == {5}
    assert_close(runs(tmp_path / "others"), five)


@pytest.mark.slow
def test_after_a_signal_no_other_pack_begins(sweep: list[str], tmp_path: Path) -> None:
    """Five packs, for batches are of five sizes, dealt to two processes."""
    sizes = "training.batch_size=4,5,6,7,8"
    many = [sizes, "training.epochs=2000", "hydra.launcher.n_jobs=2", "seed=0"]
    arguments = [*sweep, *many, at(tmp_path / "runs"), PACKED]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *arguments]
    with subprocess.Popen(command, process_group=0, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 400
        while len(list(tmp_path.rglob("metrics.jsonl"))) < 2 and time.monotonic() < until:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    interrupted(tmp_path / "runs", 2)


@pytest.mark.slow
def test_runs_that_have_not_begun_or_have_ended_are_not_touched_by_a_signal(
    command_line: CommandLine,
    sweep: list[str],
    five: dict[str, Run],
    tmp_path: Path,
    strike: Strike,
) -> None:
    strike(11, signal.SIGTERM)  # in the second pair of five
    arguments = [*sweep, FIVE, at(tmp_path / "parts"), PACKED, "hydra.launcher.max_packed=2"]
    assert command_line("-m", *arguments).code == 143
    states = [run["run"]["status"] for run in runs(tmp_path / "parts").values()]
    assert sorted(states) == ["finished", "finished", "interrupted", "interrupted"]
    assert not list((tmp_path / "parts").rglob(".lock"))
    done = command_line("-m", *arguments)
    assert outcomes(done) == "5 runs: 3 finished, 2 skipped, 0 failed"
    assert_close(runs(tmp_path / "parts"), five)


@pytest.mark.slow
def test_a_signal_that_comes_while_runs_are_loaded_stops_them_too(
    command_line: CommandLine,
    sweep: list[str],
    five: dict[str, Run],
    tmp_path: Path,
    foreground: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches, left = Trainer.batches, iter([1, 0])

    def struck(self: Trainer) -> Iterator[Batch]:
        if next(left, None) == 0:  # the second one is loaded, and the third one is not
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "batches", struck)
        assert command_line("-m", *sweep, FIVE, at(tmp_path / "parts"), PACKED).code == 143
    assert len(set(interrupted(tmp_path / "parts", len(runs(tmp_path / "parts"))))) == 1
    done = command_line("-m", *sweep, FIVE, at(tmp_path / "parts"), PACKED)
    assert done.code == 0, done.err
    assert_close(runs(tmp_path / "parts"), five)


@pytest.mark.slow
@pytest.mark.usefixtures("no_key")
def test_wandb_has_a_run_for_each_record(
    command_line: CommandLine, sweep: list[str], tmp_path: Path
) -> None:
    arguments = [*sweep, "seed=0,1", "strategy=homogeneous,dynamic", "tracking=wandb"]
    arguments.append("training.batch_size=8")
    done = command_line("-m", *arguments, at(tmp_path / "out"), PACKED)
    assert done.code == 0, done.err
    found = runs(tmp_path / "out")
    assert len(found) == 4
    identifiers = set()
    for name, record in found.items():
        directory = tmp_path / "out" / name
        (folder,) = (directory / "wandb").glob("offline-run-*")
        assert done.out.count(f"wandb sync {folder}") == 1
        kept = kept_in(folder)
        (run,) = (row.run for row in kept if row.HasField("run"))
        assert run.display_name == directory.name
        assert run.run_id == (directory / "wandb-id").read_text()
        identifiers.add(run.run_id)
        history = [items(row.history.item) for row in kept if row.HasField("history")]
        for event, ours, theirs in (
            ("step", "loss", "train/loss"),
            ("epoch", "accuracy", "validation/accuracy"),
            ("epoch", "validation_loss", "validation/loss"),
        ):
            expected = [(r["step"], r[ours]) for r in record["metrics"] if r["event"] == event]
            assert expected
            assert [(r["step"], r[theirs]) for r in history if theirs in r] == expected
        tables = [row for row in history if "search/parameters" in row]
        assert [row["step"] for row in tables] == [row["step"] for row in record["searches"]]
        assert [row.exit.exit_code for row in kept if row.HasField("exit")] == [0]
    assert len(identifiers) == 4
