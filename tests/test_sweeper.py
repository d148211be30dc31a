"""The sweeper: grids become one plan, and what is missing of it is launched once."""

import functools
import json
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine
from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from heterolora.errors import ClusterError, ConfigError, RecordError
from heterolora.harness.cli.run.compose import composing
from heterolora.harness.cli.run.grids import combinations as grid_combinations
from heterolora.harness.cli.sweeps import slurm, workers
from heterolora.harness.cli.sweeps.jobs import config_of
from heterolora.harness.cli.sweeps.sweep import Sweep
from heterolora.harness.records import schema
from heterolora.harness.records.schema import OutcomeRow, Plan, PlannedRun
from heterolora.harness.records.sweep import SweepRecord

GRIDS = [
    {"strategy": "homogeneous", "seed": "0,13"},
    {"strategy": "static,dynamic", "proxy": "snip,gradnorm", "seed": "0,13"},
]


@functools.cache
def hydra() -> tuple[ConfigLoader, DictConfig]:
    """Hydra's loader, and what it composes, its own node included."""
    with composing():
        return GlobalHydra.instance().config_loader(), compose("config", return_hydra_config=True)


def combinations(arguments: list[str], **sweeper: Any) -> list[str]:
    """What a sweep of that configuration and command line runs."""
    loader, config = hydra()
    cfg = OmegaConf.merge(config.hydra.sweeper, sweeper)
    assert isinstance(cfg, DictConfig)
    return [" ".join(combination) for combination in grid_combinations(loader, cfg, arguments)]


def newest_plan(output: Path) -> Plan:
    return SweepRecord(max(output.rglob(schema.PLAN)).parent).read_plan()


def test_params_are_swept_as_by_hydra() -> None:
    arguments = ["task=mrpc,rte", "strategy.enable_rate=choice(0.25,0.5)", "name=x"]
    params = {"seed": "range(2)", "strategy": "static"}
    assert combinations(arguments, params=params) == [
        f"seed={seed} strategy=static task={task} strategy.enable_rate={rate} name=x"
        for seed in (0, 1)
        for task in ("mrpc", "rte")
        for rate in ("0.25", "0.5")
    ]


def test_without_anything_to_sweep_there_is_one_run() -> None:
    assert combinations([]) == [""]
    assert combinations(["seed=3"]) == ["seed=3"]


def test_grids_follow_each_other() -> None:
    assert combinations([], grids=GRIDS) == [
        *(f"strategy=homogeneous seed={seed}" for seed in (0, 13)),
        *(
            f"strategy={strategy} proxy={proxy} seed={seed}"
            for strategy in ("static", "dynamic")
            for proxy in ("snip", "gradnorm")
            for seed in (0, 13)
        ),
    ]


def test_an_override_replaces_a_parameter_in_each_grid_and_is_added_to_the_others() -> None:
    assert combinations(["seed=7", "proxy=constant", "task=rte"], grids=GRIDS) == [
        "strategy=homogeneous seed=7 proxy=constant task=rte",
        "strategy=static proxy=constant seed=7 task=rte",
        "strategy=dynamic proxy=constant seed=7 task=rte",
    ]


def test_params_belong_to_every_grid_that_has_none_of_its_own() -> None:
    grids = [{"strategy": "static"}, {"strategy": "dynamic", "seed": 5, "proxy.weights": None}]
    assert combinations([], params={"seed": "0,1"}, grids=grids) == [
        "seed=0 strategy=static",
        "seed=1 strategy=static",
        "seed=5 strategy=dynamic proxy.weights=null",
    ]


@pytest.mark.parametrize(
    ("arguments", "sweeper", "override", "remedy"),
    [
        ([], {"grids": {"seed": 0}}, "hydra.sweeper.grids={'seed': 0}", "list of mappings"),
        ([], {"grids": ["seed=0"]}, "hydra.sweeper.grids=['seed=0']", "list of mappings"),
        (["optimizer.eps=interval(0,1)"], {}, "optimizer.eps=interval(0,1)", "optimizer.eps=1,2,3"),
        (["task=[rte,mrpc]"], {}, "task=[rte,mrpc]", "-m task=rte,mrpc"),
        ([], {"grids": [{"task": "[rte,mrpc]"}]}, "task=[rte,mrpc]", "-m task=rte,mrpc"),
    ],
)
def test_what_cannot_be_swept_is_one_line(arguments, sweeper, override, remedy) -> None:
    with pytest.raises(ConfigError) as raised:
        combinations(arguments, **sweeper)
    (line,) = raised.value.problems
    assert line.startswith(f"{override}: ")
    assert remedy in line


class Noting(Launcher):
    """Makes no run, but notes each as finished; keeps which jobs it was given together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[list[int]] = []

    def setup(self, **_: Any) -> None:
        """Nothing is needed."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        jobs = [int(overrides[0].removeprefix("+job=")) for overrides in job_overrides]
        assert jobs[0] == initial_job_idx
        self.batches.append(jobs)
        record = SweepRecord(self.folder)
        plan = record.read_plan()
        for index in (run for job in jobs for run in plan.jobs[job]):
            directory = plan.runs[index].directory
            assert directory is not None
            outcome = OutcomeRow(status="finished", what=directory, said="noted")
            record.write_outcome(index, outcome)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]


def noted(folder: Path, overrides: list[str], *swept: str, size: int | None = None) -> Noting:
    """A sweep that is planned and launched, but whose runs are not made."""
    launcher = Noting(folder)
    with composing():
        common = [*overrides, f"hydra.sweep.dir={folder}"]
        config = compose("config", common, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        Sweep(config, loader, launcher, size).run([*overrides, *swept])
    return launcher


def test_one_plan_has_every_run_once(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A homogeneous run has no proxy: two of the first grid are one. The last grid is no news."""
    grids = "[{strategy:homogeneous,proxy:'snip,gradnorm'},{strategy:'static,dynamic'},{seed:0}]"
    once = [*tiny, "training.epochs=1"]
    few = ["seed=0", "runs_per_job=2", "hydra.sweeper.max_batch_size=1"]
    done = command_line("-m", *once, f"hydra.sweeper.grids={grids}", *few)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "3 runs: 3 finished, 0 skipped, 0 failed"
    plan = newest_plan(tmp_path)
    assert [run.config["strategy"]["name"] for run in plan.runs] == [
        "homogeneous",
        "static",
        "dynamic",
    ]
    assert plan.jobs == [[0, 1], [2]]
    assert plan.batch == 1
    # With another proxy there is one more dynamic run, and the homogeneous one is none.
    capfd.readouterr()
    again = noted(tmp_path / "again", once, "strategy=homogeneous,dynamic", "proxy=snip,gradnorm")
    assert again.batches == [[0]]
    assert "3 runs: 1 finished, 2 skipped, 0 failed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("size", "batches"), [(1, [[0], [1], [2]]), (2, [[0, 1], [2]]), (5, [[0, 1, 2]])]
)
def test_jobs_in_batches_are_all_of_the_jobs(
    tiny: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], size: int, batches: object
) -> None:
    launcher = noted(tmp_path / "sweep", tiny, "seed=0,1,2", size=size)
    assert launcher.batches == batches
    assert "3 runs: 3 finished, 0 skipped, 0 failed" in capfd.readouterr().out
    assert newest_plan(tmp_path).batch == min(size, 3)


def test_a_batch_size_of_nothing_is_one_line(command_line: CommandLine, tiny: list[str]) -> None:
    done = command_line("-m", *tiny, "seed=0,1", "hydra.sweeper.max_batch_size=0")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: hydra.sweeper.max_batch_size=0:")
    assert "hydra.sweeper.max_batch_size=1000" in line


def test_each_task_of_each_array_is_known_by_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two arrays of one sweep have tasks of the same index, and other runs."""
    sweep = tmp_path / "sweeps" / "one"
    runs = [PlannedRun(overrides="", config={}, directory=f"run{i}") for i in range(6)]
    jobs = [[0], [1, 2], [3], [4], [5]]
    for task in ("9", "9_0", "9_1", "10", "10_0", "10_1", "11"):
        (sweep / ".submitit" / task).mkdir(parents=True)
    SweepRecord(sweep).write_plan(Plan(runs=runs, jobs=jobs, batch=2))
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nprintf '9_1\\n10_0\\n11_N/A\\n12_0\\n'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert slurm.submitted(tmp_path / "sweeps") == {
        "run1": "9_1",
        "run2": "9_1",
        "run3": "10_0",
        "run5": "11",
    }


def test_waiting_ends_with_the_last_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again after a failure, sleeps between two answers, and not after the last one."""
    (tmp_path / ".submitit" / "9_0").mkdir(parents=True)
    answers: list[Any] = [{"9_0", "8"}, ClusterError("squeue failed"), {"8"}]
    slept: list[float] = []

    def live_tasks() -> set[str]:
        answer = answers.pop(0)
        if isinstance(answer, ClusterError):
            raise answer
        return set(answer)

    monkeypatch.setattr(slurm, "live_tasks", live_tasks)
    monkeypatch.setattr(slurm.time, "sleep", slept.append)
    slurm.wait_for(tmp_path, seconds=3)
    assert (answers, slept) == ([], [3, 3])


OLD_PLAN = (
    '{"runs": [{"overrides": "seed=0", "config": {"rerun": false, "seed": 0}, '
    '"directory": "outputs/main/rte/a-s0"}], "jobs": [[0]], "batch": 1}'
)
"""As it was written before runs had labels."""
PLAN = OLD_PLAN.replace(
    'a-s0"}', 'a-s0", "label": "run 1 of 1", "differs": "", "of": "a later version"}'
)


@pytest.mark.parametrize("content", [OLD_PLAN, PLAN], ids=["earlier", "later"])
def test_a_sweep_of_another_version_goes_on(tmp_path: Path, content: str) -> None:
    """What is known of its plan is read, and written again as it was."""
    (tmp_path / schema.PLAN).write_text(content)
    record = SweepRecord(tmp_path)
    plan = record.read_plan()
    assert config_of(record, 0, plan.runs[0]) == {"rerun": False, "seed": 0}
    record.write_plan(plan)
    written = json.loads((tmp_path / schema.PLAN).read_text())
    assert {"label": "", "differs": "", **json.loads(content)["runs"][0]} == written["runs"][0]


def test_a_damaged_record_of_a_sweep_is_one_line(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path)
    with pytest.raises(RecordError, match=r"plan\.json: cannot be read"):
        record.read_plan()
    (tmp_path / schema.PLAN).write_text(PLAN.replace("[[0]]", '"all"'))
    with pytest.raises(RecordError, match=r"plan\.json: is damaged \(jobs: "):
        record.read_plan()
    record.write_outcome(0, OutcomeRow(status="failed", what="seed=0", said="why", exit_code=2))
    file = tmp_path / schema.OUTCOMES / "0.json"
    row = {"status": "failed", "what": "seed=0", "said": "why", "exit_code": 2}
    assert json.loads(file.read_text()) == row
    file.write_text(json.dumps({**row, "status": "unheard of"}))
    with pytest.raises(RecordError, match=r"0\.json: is damaged \(status: "):
        record.outcomes()


def test_the_private_api_of_joblib_is_that_of_the_version_it_was_checked_with() -> None:
    """`joblib.externals.loky.backend.resource_tracker.ensure_running`, in sweeps/workers.py.

    With another version, look whether it still unblocks signals when it starts a process, and run
    the slow tests of test_progress.py that interrupt a sweep in two processes.
    """
    assert metadata.version("joblib").startswith("1.6.")
    assert callable(workers.loky_tracker.ensure_running)


def test_hydras_own_launcher_of_this_name_is_not_used() -> None:
    """Its package may be installed; it would kill the workers at a signal."""
    with composing():
        config = compose("config", ["hydra/launcher=joblib"], return_hydra_config=True)
    launcher = {"_target_": "hydra_plugins.heterolora.JoblibLauncher", "n_jobs": -1}
    assert config.hydra.launcher == launcher


@pytest.mark.parametrize(
    "wrong",
    [
        {"hydra/launcher=slurm": "add -m"},
        {"hydra/launcher=joblib": "add -m"},
        {
            "task=[mrpc,rte]": "-m task=mrpc,rte",
            "+proxy@importance.a=[snip]": "proxy@importance.a=snip",
        },
        {"task.subset=foo": "task.path"},
        {"task.source=foo": "task.path"},
    ],
    ids=["slurm", "joblib", "lists", "subset", "source"],
)
def test_what_is_no_single_run_is_one_line(command_line, pairs, tmp_path, wrong) -> None:
    """Hydra would run it here and say nothing, or take the last of the list."""
    done = command_line(f"task.path={pairs}", f"output={tmp_path / 'outputs'}", *wrong)
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == len(wrong), lines
    for override, remedy in wrong.items():
        (line,) = (line for line in lines if line.startswith(f"error: {override}:"))
        assert remedy in line
    assert not (tmp_path / "outputs").exists()


def test_a_wrong_value_of_a_sweep_is_one_line(command_line, tmp_path) -> None:
    done = command_line("-m", f"output={tmp_path / 'outputs'}", "strategy=static,dynamc")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: strategy=dynamc: ")
    assert "did you mean dynamic?" in line
