"""The command line as a person meets it: what it prints, and how it says no."""

import functools
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import (
    ROOT,
    CommandLine,
    Finished,
    case_name,
    composed,
    edited,
    run_command,
    sentence_pairs,
    tiny_run,
    write_parquet,
)
from hub import COMMIT, serving
from huggingface_hub import constants
from safetensors.torch import load_file

from heterolora.errors import TrainingError
from heterolora.harness.cli import commands
from heterolora.harness.cli import main as doors
from heterolora.harness.cli import train as command
from heterolora.harness.cli.commands import COMMANDS
from heterolora.harness.records.record import read_rows, read_run
from heterolora.harness.records.schema import OutcomeRow
from heterolora.harness.records.sweep import SweepRecord
from heterolora.losses import Batch
from heterolora.strategies.dynamic import Dynamic
from heterolora.training.engines import LocalEngine

SHORT = ["strategy=homogeneous", "training.epochs=1"]
"""For runs of which only matters that there are several: without a search, and of eight steps."""


def run_directories(overrides: list[str]) -> list[Path]:
    """Every run directory below the output folder of these overrides."""
    output = next(o.removeprefix("output=") for o in overrides if o.startswith("output="))
    return sorted(file.parent for file in Path(output).rglob("config.yaml"))


def refused(command_line: CommandLine, output: Path, *overrides: str) -> list[str]:
    """The error lines of a command that must fail and leave nothing."""
    done = command_line(f"output={output}", *overrides)
    assert done.code == 2
    assert done.out == ""
    assert not output.exists()
    lines = done.err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return lines


class Ran(NamedTuple):
    """A command and what it left on the screen."""

    overrides: list[str]
    done: Finished


@pytest.fixture(scope="module")
def main_job(
    checkpoints: dict[str, Path], pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    """A finished run of the main job, which tests read and do not change."""
    output = tmp_path_factory.mktemp("main") / "outputs"
    overrides = tiny_run(checkpoints["opt-post-norm"], pairs, output)
    overrides += ["proxy=gradnorm", "strategy=dynamic"]
    return Ran(overrides, run_command(*overrides))


def test_the_main_job(main_job: Ran) -> None:
    done = main_job.done
    assert done.code == 0, done.err
    assert done.err == ""
    (directory,) = run_directories(main_job.overrides)
    assert re.fullmatch(r"dynamic-gradnorm-[0-9a-f]{8}-s0", directory.name)
    assert directory.parent.parts[-2:] == ("main", "rte")
    run = read_run(directory)
    assert run is not None
    for shown in (
        "epoch  2/2",
        f"accuracy {run['best']['accuracy']:.4f} (epoch {run['best']['epoch']}",
        f"accuracy {run['last']['accuracy']:.4f} (epoch 2",
        "256 adapter parameters on, budget 384; head 16",
        "dynamic, proxy gradnorm, 8 searches, 1 of 6 sites on",
        "training",
        "searching",
        "evaluating",
        str(directory),
    ):
        assert shown in done.out
    on = [row["ranks"]["layers.2.v"] > 0 for row in read_rows(directory / "allocations.jsonl")]
    *_, last_layer, _ = done.out.splitlines()
    assert last_layer.split()[::2] == ["2", f"{100 * sum(on) / len(on):.0f}"]


def test_a_second_time_says_that_it_is_finished(command_line, main_job: Ran) -> None:
    second = command_line(*main_job.overrides)
    assert second.code == 0
    assert "already finished; use rerun=true to run it again" in second.out
    assert "epoch  1/2" not in second.out
    assert main_job.done.out.splitlines()[-3:] == second.out.splitlines()[-3:]


@pytest.mark.parametrize(
    ("program", "arguments", "command", "rest"),
    [
        ("heterolora", ["report", "here"], "report", ["here"]),
        ("heterolora-report", ["here"], "report", ["here"]),
        ("scripts/report.py", ["run"], "report", ["run"]),
        ("somewhere/heterolora/__main__.py", ["study", "x", "seed=1"], "study", ["x", "seed=1"]),
        ("heterolora", ["run", "-m", "seed=1"], "run", ["-m", "seed=1"]),
        ("heterolora", ["seed=1"], "run", ["seed=1"]),
        ("train.py", [], "run", []),
        ("heterolora", ["--help"], "run", ["--help"]),
    ],
)
def test_every_way_to_a_command(
    program: str,
    arguments: list[str],
    command: str,
    rest: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The console commands, the scripts and `python -m heterolora` are doors to the same."""
    called: list[tuple[str, list[str]]] = []

    def note(name: str = "run") -> int:
        called.append((name, sys.argv[1:]))
        return 3

    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.setattr(doors, "call", note)
    monkeypatch.setattr(doors, "run", note)
    assert doors.main() == 3
    assert called == [(command, rest)]


def test_every_command_has_a_module() -> None:
    for name in COMMANDS:
        assert callable(importlib.import_module(f"{commands.__name__}.{name}").main)


def test_degenerate_searches_warn_once(command_line, tiny) -> None:
    done = command_line(*tiny, "proxy=snip", "proxy.weights=current", "training.epochs=1")
    assert done.out.count("all scores of snip are equal, so the allocation is random") == 1
    (directory,) = run_directories(tiny)
    searches = read_rows(directory / "allocations.jsonl")
    assert len(searches) > 1
    assert searches[0]["degenerate"] is True


def test_the_random_control_is_not_warned_of(command_line, tiny) -> None:
    few = [setting for setting in tiny if not setting.startswith("proxy.")]
    done = command_line(*few, "proxy=constant", "training.epochs=1")
    assert done.code == 0, done.err
    assert "warning: " not in done.out


def test_a_sweep_does_what_is_missing_and_says_what_became_of_each(command_line, tiny) -> None:
    """A failed run does not stop the others; finished ones are not run again."""
    few = [*tiny, *SHORT]
    command_line(*few, "seed=13")
    done = command_line("-m", *few, "seed=0,13", "optimizer.learning_rate=1e-3,1e30")
    assert done.code == 2
    *_, first, second, third, fourth, report, remark, total = done.out.splitlines()
    assert report.startswith("report the finished runs with: python scripts/report.py ")
    assert remark == "run the same command again to run what is missing"
    assert re.match(r"finished  run 1  .*-s0  accuracy 0\.\d{4} in \d+ s$", first)
    assert re.match(r"failed .*seed=0 .*learning_rate=1e\+?30 .*the training loss is nan", second)
    assert third.startswith("skipped")
    assert fourth.startswith("failed")
    assert total == "4 runs: 1 finished, 1 skipped, 2 failed"
    again = command_line("-m", *few, "seed=0,42", "optimizer.learning_rate=1e-3")
    assert again.code == 0
    assert again.out.splitlines()[-1] == "2 runs: 1 finished, 1 skipped, 0 failed"
    alone = command_line(*few, "seed=42", "optimizer.learning_rate=1e-3")
    assert "already finished" in alone.out
    # One record for each seed, in folders that are named alike.
    runs = {directory.name: read_run(directory) for directory in run_directories(tiny)}
    names = sorted(name for name, run in runs.items() if run and run["status"] == "finished")
    assert [name.rpartition("-")[2] for name in names] == ["s0", "s13", "s42"]
    assert len({name.rpartition("-")[0] for name in names}) == 1


def test_a_job_that_queues_again_does_not_run_its_reruns_again(tmp_path) -> None:
    """It goes on with what it had begun; what it had not begun, it runs anew."""
    record = tmp_path / "run" / "run.json"
    record.parent.mkdir()
    record.write_text("{}")
    os.utime(record, (1, 1))
    sweep = SweepRecord(tmp_path / "sweep")
    assert not sweep.had_begun(0, str(record.parent))
    assert not sweep.had_begun(0, str(record.parent))  # killed before its record was new
    record.write_text("{}")
    os.utime(record)
    assert sweep.had_begun(0, str(record.parent))
    assert not sweep.had_begun(1, str(record.parent))


def test_how_a_run_ended_is_kept_but_a_failure_is_not(tmp_path) -> None:
    """A job that is queued again skips what it had finished, which stays finished."""
    record = SweepRecord(tmp_path)
    outcomes = [
        OutcomeRow(status="failed", what="", said=""),
        OutcomeRow(status="finished", what="", said=""),
        OutcomeRow(status="skipped", what="", said=""),
    ]
    for outcome in outcomes:
        record.write_outcome(0, outcome)
    assert record.outcomes() == {0: outcomes[1]}


def test_a_bug_in_one_run_of_a_sweep_does_not_stop_it(command_line, tiny, monkeypatch) -> None:
    """An error that is not the user's leaves its traceback, and the sweep exits with 1."""
    whole = Dynamic.search_steps

    def breaks(self: Dynamic, epoch: int, steps: int, total: int | None = None) -> range:
        if self.searches_per_epoch == 3:
            raise RuntimeError("it broke")
        return whole(self, epoch, steps, total)

    monkeypatch.setattr(Dynamic, "search_steps", breaks)
    each = "strategy.searches_per_epoch=3,1"
    done = command_line("-m", *tiny, "proxy.num_batches=1", each, "training.epochs=1")
    assert done.code == 1
    assert "Traceback" in done.err
    *_, failed, finished, _, _, total = done.out.splitlines()
    assert failed.startswith("failed")
    assert failed.endswith("RuntimeError: it broke")
    assert finished.startswith("finished")
    assert total == "2 runs: 1 finished, 0 skipped, 1 failed"


@pytest.fixture
def requeues() -> Iterator[list[int]]:
    """A handler like submitit's: it has the job queued again, and ends the process."""
    came: list[int] = []

    def handler(number: int, frame: object) -> None:
        came.append(number)
        sys.exit(75)

    before = signal.signal(signal.SIGUSR2, handler)
    yield came
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("problem", [TrainingError("the loss is nan"), RuntimeError("it broke")])
def test_a_signal_in_a_step_that_fails_stops_the_job(
    command_line, tiny, monkeypatch, requeues, problem
) -> None:
    """The next run does not start; when the job is back, it takes the first up again."""
    descend, steps = LocalEngine.step, 0

    def breaks(self: LocalEngine, batch: Batch) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 4:
            os.kill(os.getpid(), signal.SIGUSR2)
            raise problem
        return descend(self, batch)

    monkeypatch.setattr(LocalEngine, "step", breaks)
    sweep = ["-m", *tiny, *SHORT, "seed=0,13", "runs_per_job=2"]
    assert command_line(*sweep).code == 75
    assert steps == 4
    assert requeues == [signal.SIGUSR2]
    (directory,) = run_directories(tiny)
    run = read_run(directory)
    assert run is not None
    assert (run["seed"], run["status"]) == (0, "interrupted")
    again = command_line(*sweep)
    assert again.code == 0, again.err
    assert again.out.splitlines()[-1] == "2 runs: 2 finished, 0 skipped, 0 failed"


def test_runs_of_one_process_equal_runs_alone(command_line, tiny, tmp_path) -> None:
    few = [*tiny, "training.epochs=1", "strategy.searches_per_epoch=2"]
    grids = "[{seed:0,proxy:gradnorm},{seed:13,proxy:snip}]"
    command_line("-m", *few, f"hydra.sweeper.grids={grids}")
    together = {directory.name: directory for directory in run_directories(tiny)}
    assert len(together) == 2
    elsewhere = [o for o in few if not o.startswith("output=")] + [f"output={tmp_path / 'alone'}"]
    command_line(*elsewhere, "seed=13", "proxy=snip")
    (alone,) = run_directories(elsewhere)
    metrics, weights = (
        [read(folder / file) for folder in (alone, together[alone.name])]
        for read, file in (
            (Path.read_bytes, "metrics.jsonl"),
            (load_file, "checkpoint/last.safetensors"),
        )
    )
    assert metrics[0] == metrics[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


WRONG = {
    "of every kind": {
        "proxy=gradnrom": "did you mean gradnorm?",
        "selection=null": "choose one of",
        "proxxy=snip": "did you mean proxy?",
        "trainin.epochs=3": "did you mean training.epochs?",
        "training.epoch=3": "did you mean training.epochs?",
        "+seeed=1": "did you mean seed?",
        "training.batch_size=0": "greater than 0",
        "search_space.projections=[q,gate]": "opt",
        "strategy.enable_rate=0.3": "rank_budget.lora_rank",
        "task.path=no/where": "no such file or folder",
    },
    "values": {
        "+training.epoch=3": "did you mean epochs?",
        "training.epochs=0": "greater than 0",
        "training.batch_size=0": "greater than 0",
        "strategy.enable_rate=1.5": "less than or equal to 1",
        "model.path=no/where": "no such directory",
    },
    "values that go with others": {
        "strategy.enable_rate=0.3": "rank_budget.lora_rank",
        "task.path=no/where": "no such file or folder",
        "search_space.projections=[q,gate]": "opt",
    },
    # By themselves, because others hide them or are hidden by them.
    "an option": {"task=xyz": "alpaca, ax,"},
    "several values": {"proxy=snip,gradnorm": "add -m"},
    "a value": {"strategy.enable_rate=0": "greater than 0"},
    "no value": {"training.epochs=": ""},
}
"""Commands with wrong overrides, and a part of what must be said of each, such as the remedy."""


@pytest.mark.parametrize("wrong", WRONG.values(), ids=map(case_name, WRONG))
def test_each_wrong_override_is_one_line(command_line, tmp_path, wrong) -> None:
    """All of them at once, whether Hydra finds them, the sections, the model or the data."""
    lines = refused(command_line, tmp_path / "outputs", *wrong)
    assert len(lines) == len(wrong), lines
    for override, said in wrong.items():
        (line,) = (line for line in lines if key_of(line) == key_of(f"error: {override}"))
        assert said in line


def key_of(line: str) -> str:
    """The key that an error line begins with."""
    found = re.match(r"error: [+~]?([\w.]+)", line)
    assert found, line
    return found[1]


TWICE = """
import sys
from hydra.core.global_hydra import GlobalHydra
from heterolora.harness.cli.train import main
program, *arguments = sys.argv
codes, then = [], arguments.index("then")
for command in (arguments[:then], arguments[then + 1 :]):
    sys.argv = [program, *command]
    codes.append(main())
    GlobalHydra.instance().clear()
print(codes, sorted({"torch", "transformers", "datasets", "wandb"} & sys.modules.keys()))
"""


def test_what_is_misspelt_needs_no_torch(tmp_path) -> None:
    """Nor does what else is wrong, where values alone tell; in an interpreter of its own, fast."""
    wrong = ["proxy=gradnrom", "task.max_lenght=3", "+seeed=1", "training.batch_size=0"]
    wrong += ["strategy.enable_rate=0.3", "device=tpu", "~selection"]
    right = ["strategy=static", "rank_budget.shortcut_rank=4", "output=here"]
    # A misspelt value of a sweep comes after sound ones.
    sweep = ["-m", "proxy=snip,gradnrom", f"output={tmp_path}"]
    process = [sys.executable, "-c", TWICE, *wrong, *right, "then", *sweep]
    done = subprocess.run(process, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[2, 2] []"
    *lines, last = done.stderr.splitlines()
    assert len(lines) == len(wrong)
    for override in wrong:
        key = override.lstrip("+~").partition("=")[0]
        assert sum(line.startswith(f"error: {key}") for line in lines) == 1, key
    assert last.startswith("error: proxy=gradnrom:")
    assert "did you mean gradnorm?" in last


GOOD = sentence_pairs(8, seed=5)


@pytest.fixture
def single(tiny: list[str], capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """`python train.py ...` with `tiny` and values of keys, all of it but Hydra's composing."""
    groups = ["task=rte", "tracking=local", "strategy=static"]
    cfg = edited(composed(*groups), *(one for one in tiny if one not in groups))

    def call(*changes: str) -> Finished:
        capfd.readouterr()
        code = command.report_errors(lambda: command.single(edited(cfg, *changes)))
        out, err = capfd.readouterr()
        return Finished(code, out, err)

    return call


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"sentence1": GOOD["sentence1"]}, "column 'sentence2'"),
        ({**GOOD, "label": [0, 1, 2, 0, 0, 0, 0, 0]}, "row 2 has label 2"),
        ({**GOOD, "label": [0, 1, -1, 0, 0, 0, 0, 0]}, "row 2 has label -1"),
        ({"sentence1": [], "sentence2": [], "label": []}, "has no rows"),
        ({**GOOD, "sentence2": [None, *GOOD["sentence2"][1:]]}, "row 0 of column 'sentence2'"),
        ({**GOOD, "sentence1": list(range(8))}, "must be a string, not 0"),
    ],
)
def test_broken_data_is_one_line(single, tiny, tmp_path, broken, said) -> None:
    directory = write_parquet(tmp_path / "data", train=GOOD, validation=broken)
    done = single(f"task.path={directory}")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert said in line
    run = read_run(*run_directories(tiny))
    assert run is not None
    assert run["status"] == "failed"
    assert f"error: {run['error']}" == line


def test_an_output_that_cannot_be_written_is_one_line(command_line, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    (line,) = refused(command_line, tmp_path / "file" / "outputs")
    assert line.startswith(f"error: output={tmp_path / 'file'}")
    assert "output=DIR" in line


def test_long_sequences_are_cut_with_one_warning(single, tmp_path, caplog) -> None:
    long, longer = ({**GOOD, "sentence1": ["cat " * length] * 8} for length in (100, 101))
    directory = write_parquet(tmp_path / "data", train=long, validation=longer)
    done = single(f"task.path={directory}")
    assert done.code == 0
    (said,) = (message for message in caplog.messages if "truncated" in message)
    assert said.startswith("all 16 examples are longer than 40 tokens")


def test_a_nan_loss_is_one_line_and_a_failed_record(single, tiny) -> None:
    done = single("optimizer.learning_rate=1e30")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert re.match(r"error: the training loss is nan at step \d+ \(epoch 1\)", line)
    (directory,) = run_directories(tiny)
    run = read_run(directory)
    assert run is not None
    assert run["status"] == "failed"


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The real thing: an interpreter of its own, away from any network but what is given it.

    And in the foreground, where SIGINT is not ignored, even if the tests are not.
    """
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        cwd=ROOT,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_two_processes_share_a_sweep(tiny, command_line) -> None:
    """In an interpreter each, with a failed run among them, and the numbers of one process."""
    sweep = ["-m", *tiny, "seed=0,13", "optimizer.learning_rate=1e-3,1e30", "training.epochs=1"]
    process = start(*sweep, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 2, err
    assert out.splitlines()[-1] == "4 runs: 2 finished, 0 skipped, 2 failed"
    assert [line.split()[0] for line in out.splitlines()[-7:-3]] == ["finished", "failed"] * 2
    together = {d.name: (d / "metrics.jsonl").read_bytes() for d in run_directories(tiny)}
    command_line(*sweep, "rerun=true")
    assert together == {d.name: (d / "metrics.jsonl").read_bytes() for d in run_directories(tiny)}


@pytest.fixture
def foreground() -> Iterator[None]:
    """SIGINT is not ignored, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_an_interrupted_record(command_line, tiny, monkeypatch, foreground) -> None:
    """In this process; in others, at any moment: test_a_signal_at_any_moment_is_one_line."""
    descend, steps = LocalEngine.step, 0

    def step(self: LocalEngine, batch: Batch) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return descend(self, batch)

    monkeypatch.setattr(LocalEngine, "step", step)
    done = command_line(*tiny, "training.epochs=100000", "strategy.searches_per_epoch=4")
    assert done.code == 130
    (directory,) = run_directories(tiny)
    run = read_run(directory)
    assert run is not None
    (line,) = done.err.splitlines()
    assert line.startswith("interrupted by Ctrl-C at step 9 of 800000 (epoch 2 of 100000)")
    states = directory / "checkpoint" / "resume"
    assert f"its state is saved in {states}; " in line
    assert line.endswith("run the same command again to resume")
    assert any(states.glob("step-*9"))
    assert run["status"] == "interrupted"
    assert run["steps"] == 9


def test_a_hub_that_cannot_be_reached_is_one_line(command_line, tiny, tmp_path, monkeypatch):
    """As with HF_HUB_OFFLINE=1 and HF_HOME=tmp_path, which are read when the library is imported.

    In a process of its own: test_a_dataset_that_cannot_be_reached_is_one_line.
    """
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = command_line(*[o for o in tiny if not o.startswith("model.path")], "model=opt_350m")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: model.name=facebook/opt-350m:")
    for remedy in ("model.path=DIR", "HF_HOME", "model=opt_starter"):
        assert remedy in line


@pytest.mark.slow
def test_model_and_task_come_from_a_hub(tiny, checkpoints, tmp_path) -> None:
    root, glue = tmp_path / "hub", tmp_path / "hub" / "datasets" / "nyu-mll" / "glue"
    shutil.copytree(checkpoints["opt-post-norm"], root / "facebook" / "opt-350m")
    write_parquet(glue / "rte", train=GOOD, validation=sentence_pairs(8, seed=6))
    splits = [{"split": name, "path": f"rte/{name}.parquet"} for name in ("train", "validation")]
    card = {"configs": [{"config_name": "rte", "data_files": splits}]}
    (glue / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    elsewhere = [o for o in tiny if not o.startswith(("model.path", "task.path"))]
    with serving(root) as endpoint:
        process = start(
            *elsewhere,
            "model=opt_350m",
            "training.epochs=1",
            HF_ENDPOINT=endpoint,
            HF_HUB_OFFLINE="0",
            HF_HOME=str(tmp_path / "cache"),
            NO_PROXY="127.0.0.1",
        )
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    (directory,) = run_directories(tiny)
    origin = json.loads((directory / "provenance.json").read_text())
    assert origin["model"]["revision"] == COMMIT
    assert origin["data"]["train"]["rows"] == len(GOOD["label"])
    # Once fetched, it runs without the hub, as on a compute node without internet.
    process = start(
        *elsewhere,
        "model=opt_350m",
        "training.epochs=1",
        "rerun=true",
        HF_HOME=str(tmp_path / "cache"),
    )
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err


@pytest.mark.slow
def test_a_dataset_that_cannot_be_reached_is_one_line(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    process = start(*[o for o in tiny if not o.startswith("task.path")])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert [one.partition(" ")[0] for one in out.splitlines()] == ["starting:"]
    (line,) = err.splitlines()
    assert "task.source=nyu-mll/glue/rte" in line
    assert "task.path=PATH" in line
