"""What is seen of a run or a sweep while it is under way, and when a signal ends it."""

import functools
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, CommandLine, composed, edited
from rich.console import Console

from heterolora.harness.cli.commands import report
from heterolora.harness.cli.run.single import first_line
from heterolora.harness.cli.sweeps.summary import show_plan
from heterolora.harness.cli.sweeps.sweep import differing
from heterolora.harness.loggers import console as console_room
from heterolora.harness.loggers.console import ConsoleLogger, stopped_at
from heterolora.harness.loggers.progress import Display, Pace, Screen, duration
from heterolora.harness.records.record import read_rows, read_run
from heterolora.harness.records.schema import OutcomeRow, PlannedRun
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.material import Material
from heterolora.harness.runs.outcome import run_info
from heterolora.harness.runs.signals import signals


def test_what_is_left_is_each_activity_at_its_own_pace() -> None:
    now = [0.0]
    totals = {"training": 40, "searching": 4, "evaluating": 2}
    pace = Pace(totals, {"training": 10, "searching": 1}, lambda: now[0])
    assert pace.left is None
    pace.begin("searching")
    now[0] += 5
    pace.begin("training")
    assert pace.left is None
    now[0] += 20
    pace.reach(20)  # 2 s a step
    assert pace.left == 20 * 2 + 2 * 5  # no evaluation has been made yet
    pace.begin("evaluating")
    now[0] += 7
    pace.begin("training")
    assert pace.left == 20 * 2 + 2 * 5 + 7
    now[0] += 4  # of the step that is being made
    pace.reach(21)
    assert pace.left == pytest.approx(19 * 24 / 11 + 2 * 5 + 7)


def test_times_are_read_as_on_a_clock() -> None:
    said = [duration(seconds) for seconds in (None, -1, 0.4, 59.6, 754, 11045)]
    assert said == ["-:--", "0:00", "0:00", "1:00", "12:34", "3:04:05"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_is_being_done_with_the_times_labeled(tiny) -> None:
    console = Console(file=Terminal(), force_terminal=True, width=100, _environ={"TERM": "xterm"})
    display = Display(console)
    info = run_info(experiment.prepare(composed(*tiny)), Path("somewhere"))
    with display.sweep(4, lambda: 1):
        screen = Screen(display, "run 2 of 4")
        screen.doing("reading data and model")
        seen = [drawn(display)]
        logger = ConsoleLogger(screen, info, steps_per_epoch=8, searches=5)
        logger.begin("searching", 3, 5)
        seen.append(drawn(display))
        logger.begin("training", 1, 2)
        logger.log_step({"step": 4, "epoch": 1, "loss": 0.5})
        seen.append(drawn(display))
        logger.begin("evaluating", 1, 2)
        seen.append(drawn(display))
        logger.close({})
        seen.append(drawn(display))
    sweep = r"sweep of 4 runs .* 1/4 runs +elapsed 0:00 +left -:--\n"
    assert re.search(f"{sweep}.*run 2 of 4: reading data and model .* elapsed 0:00 *\n", seen[0])
    assert re.search("run 2 of 4: searching 3 of 5 .* 0/16 steps +elapsed 0:00 +left -:--", seen[1])
    assert re.search("epoch 1 of 2, loss 0.500 .* 4/16 steps +elapsed 0:00 +left 0:00", seen[2])
    assert re.search("run 2 of 4: evaluating epoch 1 of 2 .* 4/16 steps", seen[3])
    assert "run 2 of 4" not in seen[4]


def drawn(display: Display) -> str:
    """The rows as they stand."""
    page = Console(file=io.StringIO(), width=100)
    assert display._progress is not None
    page.print(*display._progress.get_renderables())
    assert isinstance(page.file, io.StringIO)
    return page.file.getvalue()


@pytest.mark.parametrize(("quiet", "lines"), [(60, 0), (0, 3)])
def test_a_log_file_gets_a_line_when_nothing_was_said_for_long(
    tiny, monkeypatch, quiet, lines
) -> None:
    monkeypatch.setattr(console_room, "QUIET", quiet)
    console = Console(file=io.StringIO())
    info = run_info(experiment.prepare(composed(*tiny)), Path("somewhere"))
    screen = Screen(Display(console), "run 2 of 4")
    logger = ConsoleLogger(screen, info, steps_per_epoch=8)
    for step in (1, 2, 3):
        time.sleep(0.01)
        logger.log_step({"step": step, "epoch": 1, "loss": 0.5})
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue().splitlines()
    assert len(said) == lines
    line = r"run 2 of 4: epoch  1/2  step +\d/16  train loss 0.5000  elapsed 0:00  left 0:00"
    assert all(re.fullmatch(line, one) for one in said)


def test_what_begins_is_told_in_order_and_counted(tiny, monkeypatch) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(ConsoleLogger, "begin", lambda self, *what: told.append(what))
    experiment.run(
        composed(*tiny, "strategy.searches_per_epoch=2"), Screen(Display(Console(quiet=True)))
    )
    assert told == [
        *(("searching", 1, 4), ("training", 1, 2), ("searching", 2, 4), ("training", 1, 2)),
        *(("evaluating", 1, 2), ("training", 1, 2)),
        *(("searching", 3, 4), ("training", 2, 2), ("searching", 4, 4), ("training", 2, 2)),
        *(("evaluating", 2, 2), ("training", 2, 2)),
    ]


def test_the_overrides_that_not_all_runs_have_tell_them_apart() -> None:
    runs = [["task=rte", "seed=0", "name=x"], ["seed=1", "task=rte", "name=x"], ["task=rte"]]
    assert differing(runs) == ["seed=0 name=x", "seed=1 name=x", ""]
    assert differing(runs[:2]) == ["seed=0", "seed=1"]
    assert differing(runs[:1]) == [""]


def test_a_sweep_says_its_plan_and_how_to_report_it(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, capfd
) -> None:
    few = [*tiny, "training.epochs=1", "strategy=static", "proxy.num_batches=1"]
    command_line(*few, "proxy=gradnorm", "seed=13")
    done = command_line("-m", *few, "seed=0,13", "proxy=gradnorm,snip")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    planning, first, *lines = done.out.splitlines()
    assert planning == f"planning 4 runs; records will be in {tmp_path / 'outputs'}"
    model = tiny[0].removeprefix("model.path=")
    assert first == (
        f"sweep of 4 runs: 1 already finished, 3 to run; model {model}, task rte, device cpu, "
        f"precision auto; records in {tmp_path / 'outputs'}"
    )
    assert lines[:4] == [
        "  run 1  seed=0 proxy=gradnorm",
        "  run 2  seed=0 proxy=snip",
        "  run 3  seed=13 proxy=gradnorm  already finished",
        "  run 4  seed=13 proxy=snip",
    ]
    ends = [line for line in lines if " runs done, " in line]
    assert [re.sub(r"\d+:\d\d", "T", line.partition("(")[2]) for line in ends] == [
        f"{count} of 4 runs done, elapsed T, left T)" for count in (2, 3, 4)
    ]
    assert [line[: line.index(":")] for line in ends] == [
        f"run {number} of 4 finished" for number in (1, 2, 4)
    ]
    (command,) = (
        shlex.split(line.partition("with: ")[2]) for line in lines if line.startswith("report ")
    )
    assert command[:2] == ["python", "scripts/report.py"]
    report.main(command[2:])
    shown = capfd.readouterr().out
    assert "gradnorm" in shown
    assert "snip" in shown


def test_a_plan_says_what_is_known_of_each_run(tmp_path: Path) -> None:
    states = tmp_path / "two" / "checkpoint" / "resume" / "step-00000004"
    states.mkdir(parents=True)
    config = {
        "model": {"name": "hub/one", "path": None},
        "task": {"name": "rte"},
        **{"device": "auto", "precision": "bf16", "rerun": False, "output": "outputs"},
    }
    runs = [
        PlannedRun(
            overrides="",
            config=own,
            directory=directory and str(tmp_path / directory),
            differs=differs,
        )
        for differs, directory, own in (
            ("seed=0", "one", config),
            ("seed=13 x=1", "two", {**config, "model": {"name": "hub/two", "path": "/a/b"}}),
            ("seed=42", "two", {**config, "rerun": True}),
            ("seed=7", None, config),
        )
    ]
    known = {0: OutcomeRow(status="queued", what="", said="")}
    console = Console(file=io.StringIO(), width=40)
    show_plan(console, runs, known, "outputs")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "sweep of 4 runs: 0 already finished, 1 running or queued elsewhere, 3 to run; "
        "model hub/one and /a/b, task rte, device auto, precision bf16; records in outputs",
        "  run 1  seed=0       queued",
        "  run 2  seed=13 x=1  interrupted, will resume",
        "  run 3  seed=42",
        "  run 4  seed=7",
    ]


@pytest.mark.parametrize(
    ("step", "saved", "said"),
    [
        (0, None, "before the first step; run the same command again to start it"),
        (0, 4, "while loading; its state of step 4 is still in D; run the same command"),
        (7, None, "at step 7 of 9 (epoch 1 of 1); no state was saved yet; run the same command"),
        (7, 7, "at step 7 of 9 (epoch 1 of 1); its state is saved in D; run the same command"),
        (7, 4, "at step 7 of 9 (epoch 1 of 1); the last saved state, of step 4, is in D; run"),
    ],
)
def test_where_it_was_interrupted(step: int, saved: int | None, said: str) -> None:
    assert "; ".join(stopped_at(step, 9, "epoch 1 of 1", saved, Path("D"))).startswith(said)


def test_what_a_library_makes_of_a_signal_is_still_the_signal(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, monkeypatch
) -> None:
    def turned(*_: object) -> Material:
        monkeypatch.setattr(signals, "received", [signal.SIGINT])
        raise RuntimeError("failed to import something because of the following error:")

    monkeypatch.setattr(Material, "read", turned)
    done = command_line(*tiny)
    again = "run the same command again to start it"
    assert done.err == f"interrupted by Ctrl-C before the first step; {again}\n"
    assert done.code == 130
    (file,) = tmp_path.rglob("run.json")
    run = read_run(file.parent)
    assert run is not None
    assert run["status"] == "interrupted"


def start(*arguments: str) -> subprocess.Popen[str]:
    """`python train.py ...` in a group of its own, in the foreground as to SIGINT."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        process_group=0,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def interrupted(
    after: float, number: int, *arguments: str, group: bool = True
) -> tuple[int, str, list[str]]:
    """Exit code, output and error lines of a command that gets a signal.

    It comes so many seconds after the command began to listen: what it is sent while the
    interpreter itself starts, on a busy machine, is not the command's to handle.
    """
    process = start(*arguments)
    until = time.monotonic() + 120
    while not listens(process.pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(after)
    (os.killpg if group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if not line.startswith("WARNING: ")]
    return process.returncode, out, lines


def listens(process: int) -> bool:
    """Whether a process handles SIGTERM, which Python by itself does not; Linux tells."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        time.sleep(0.3)
        return True
    (caught,) = re.findall(r"SigCgt:\s*([0-9a-f]+)", status.read_text())
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_the_first_line_of_a_run_says_what_needs_no_torch() -> None:
    """It is printed while torch is imported; what only torch can tell is said as it was given."""
    cfg = composed("task=rte", "output=here")
    said = first_line(cfg)
    assert said.startswith(f"starting: model {cfg.model.path or cfg.model.name}, task rte, ")
    assert "device auto, precision auto" in said
    assert said.endswith(str(Path("here", "main", "rte")))
    assert first_line(edited(cfg, "output=${nothing}")) == "starting"


def test_ctrl_c_at_once_is_one_line(tiny) -> None:
    code, _, lines = interrupted(0, signal.SIGINT, *tiny)
    assert code == 130
    assert lines == ["interrupted by Ctrl-C before training began: nothing was written"]


MOMENTS = (0, 0.4, 1, 1.5, 2, 3, 4, 5, 6, 8)
"""In seconds: while Hydra and torch are imported, the model is loaded, and training begins."""
exhaustive = pytest.mark.exhaustive


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moments"),
    [
        pytest.param(signal.SIGINT, MOMENTS[::2], id="SIGINT"),
        pytest.param(signal.SIGTERM, MOMENTS[1::2], id="SIGTERM"),
        pytest.param(signal.SIGINT, MOMENTS[1::2], id="SIGINT-others", marks=exhaustive),
        pytest.param(signal.SIGTERM, MOMENTS[::2], id="SIGTERM-others", marks=exhaustive),
    ],
)
def test_a_signal_at_any_moment_is_one_line(
    tiny, tmp_path: Path, number: int, moments: tuple[float, ...]
) -> None:
    by = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    long = [*tiny, "training.epochs=100000", "strategy.searches_per_epoch=4"]
    for after in moments:
        code, _, lines = interrupted(after, number, *long, f"output={tmp_path / str(after)}")
        assert code == 128 + number, after
        assert [line.partition(by)[0] for line in lines] == ["interrupted by "], (after, lines)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_step_leaves_an_interrupted_record(tiny, tmp_path: Path, number: int) -> None:
    """While steps and searches are made; the line and the record say how many there were."""
    by = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    process = start(*tiny, "training.epochs=100000", "strategy.searches_per_epoch=4")
    wait_for_records(tmp_path, 1)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert out.startswith("starting: ")
    (file,) = tmp_path.rglob("run.json")
    run = read_run(file.parent)
    assert run is not None
    assert run["status"] == "interrupted"
    assert run["steps"] >= 8
    assert any((file.parent / "checkpoint" / "resume").glob(f"step-*{run['steps']}"))
    (line,) = (line for line in err.splitlines() if not line.startswith("WARNING: "))
    assert line.startswith(f"interrupted by {by} at step {run['steps']} of 800000 (epoch ")
    assert line.endswith("run the same command again to resume")


def wait_for_records(output: Path, count: int) -> None:
    """Until so many runs below `output` have made an epoch of eight steps."""
    until = time.monotonic() + 120
    while sum(len(read_rows(file)) > 1 for file in output.rglob("metrics.jsonl")) < count:
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "group", "early"),
    [
        pytest.param("joblib", True, (1, 10), id="joblib-all"),
        pytest.param("packed", False, (5,), id="packed-first"),
        pytest.param("joblib", False, (1, 5, 10), id="joblib-first", marks=exhaustive),
        pytest.param("packed", True, (1, 5, 10), id="packed-all", marks=exhaustive),
    ],
)
def test_a_signal_to_processes_that_share_a_sweep_is_one_line(
    tiny, tmp_path: Path, launcher: str, group: bool, early: tuple[int, ...]
) -> None:
    """Their runs are saved, whether it reaches all of them or the first alone."""
    sweep = ["-m", *tiny, "seed=0,1,2,3", "training.epochs=3000", f"hydra/launcher={launcher}"]
    sweep += ["hydra.launcher.n_jobs=2", "strategy=homogeneous"]
    for after in early:  # before the workers are there, and while they start
        place = f"output={tmp_path / 'early'}"  # these records must not end the wait below
        code, _, lines = interrupted(after, signal.SIGINT, *sweep, place, group=group)
        assert code == 130, after
        assert len(lines) == 1, after
    outputs = tmp_path / "outputs"
    process = start(*sweep, f"output={outputs}")
    wait_for_records(outputs, 2)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143
    (line,) = err.splitlines()
    assert "Traceback" not in out
    assert line.startswith("interrupted by SIGTERM with 0 of 4 runs finished, run ")
    assert line.endswith("checkpoint/resume in its record; run the same command again to resume")
    saved = {
        int(step)
        for step in re.findall(r"run \d at step (\d+) of 24000 \(epoch \d+ of 3000\)", line)
    }
    assert saved == {
        read["steps"]
        for file in outputs.rglob("run.json")
        if (read := read_run(file.parent)) is not None
    }
