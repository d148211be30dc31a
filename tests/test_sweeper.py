"""The sweeper: grids become one plan, and what is missing of it is launched once."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine
from hydra import compose
from hydra.core.global_hydra import GlobalHydra

from heterolora.cli import slurm
from heterolora.cli.compose import composing
from heterolora.cli.sweeper import swept
from heterolora.errors import ConfigError

GRIDS = [
    {"strategy": "homogeneous", "seed": "0,13"},
    {"strategy": "static,dynamic", "proxy": "snip,gradnorm", "seed": "0,13"},
]


def combinations(arguments: list[str], **sweeper: Any) -> list[str]:
    """What a sweep of that configuration and command line runs."""
    with composing():
        cfg = compose("config", return_hydra_config=True).hydra.sweeper
        cfg.merge_with(sweeper)
        return [" ".join(c) for c in swept(GlobalHydra.instance().config_loader(), cfg, arguments)]


def plan(output: Path) -> dict[str, Any]:
    """The newest."""
    made: dict[str, Any] = json.loads(max(output.rglob(slurm.PLAN)).read_text())
    return made


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
    ("arguments", "sweeper", "said"),
    [
        ([], {"grids": {"seed": 0}}, "hydra.sweeper.grids={'seed': 0}: must be a list of mappings"),
        ([], {"grids": ["seed=0"]}, "hydra.sweeper.grids=['seed=0']: must be a list of mappings"),
        (
            ["optimizer.eps=interval(0,1)"],
            {},
            "optimizer.eps=interval(0,1): is an infinite sweep",
        ),
        (
            ["task=[rte,mrpc]"],
            {},
            "task=[rte,mrpc]: task takes only one choice; to run each of them",
        ),
        (
            [],
            {"grids": [{"task": "[rte,mrpc]"}]},
            "task=[rte,mrpc]: task takes only one choice; to run each",
        ),
    ],
)
def test_what_cannot_be_swept_is_one_line(arguments, sweeper, said) -> None:
    with pytest.raises(ConfigError) as raised:
        combinations(arguments, **sweeper)
    (line,) = raised.value.problems
    assert line.startswith(said)


def test_one_plan_has_every_run_once(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    """A homogeneous run has no proxy: two of the first grid are one. The last grid is no news."""
    grids = "[{strategy:homogeneous,proxy:'snip,gradnorm'},{strategy:'static,dynamic'},{seed:0}]"
    sweep = [*tiny, "training.epochs=1", f"hydra.sweeper.grids={grids}"]
    done = command_line("-m", *sweep, "seed=0", "runs_per_job=2")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "3 runs: 3 finished, 0 skipped, 0 failed"
    made = plan(tmp_path)
    assert [run["config"]["strategy"]["name"] for run in made["runs"]] == [
        "homogeneous",
        "static",
        "dynamic",
    ]
    assert made["jobs"] == [[0, 1], [2]]
    again = command_line("-m", *sweep, "seed=0,13", "strategy=dynamic")
    assert again.code == 0, again.err
    assert again.out.splitlines()[-1].endswith("3 finished, 1 skipped, 0 failed")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_jobs_in_batches_are_all_of_the_jobs(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, size: int
) -> None:
    batches = f"hydra.sweeper.max_batch_size={size}"
    done = command_line("-m", *tiny, "training.epochs=1", "seed=0,1,2", batches)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "3 runs: 3 finished, 0 skipped, 0 failed"
    assert plan(tmp_path)["batch"] == min(size, 3)


def test_a_batch_size_of_nothing_is_one_line(command_line: CommandLine, tiny: list[str]) -> None:
    done = command_line("-m", *tiny, "seed=0,1", "hydra.sweeper.max_batch_size=0")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: hydra.sweeper.max_batch_size=0: must be a whole number")


def test_each_task_of_each_array_is_known_by_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two arrays of one sweep have tasks of the same index, and other runs."""
    sweep = tmp_path / "sweeps" / "one"
    runs = [{"directory": f"run{index}"} for index in range(6)]
    jobs = [[0], [1, 2], [3], [4], [5]]
    for task in ("9", "9_0", "9_1", "10", "10_0", "10_1", "11"):
        (sweep / ".submitit" / task).mkdir(parents=True)
    (sweep / slurm.PLAN).write_text(json.dumps({"runs": runs, "jobs": jobs, "batch": 2}))
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


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hydra/launcher=slurm", "hydra/launcher=slurm: only works for sweeps; add -m"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib: only works for sweeps; add -m"),
        ("task=[mrpc,rte]", "task=[mrpc,rte]: task takes only one choice; to run each of them"),
        ("task.subset=foo", "task.subset=foo: has no effect when task.path is set"),
        ("task.source=foo", "task.source=foo: has no effect when task.path is set"),
        (
            "+proxy@importance.a=[snip]",
            "+proxy@importance.a=[snip]: proxy@importance.a takes only one",
        ),
    ],
)
def test_what_is_no_single_run_is_one_line(command_line, tiny, override, said) -> None:
    """Hydra would run it here and say nothing, or take the last of the list."""
    done = command_line(*[o for o in tiny if o != "task=rte"], override)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {said}")


def test_a_wrong_value_of_a_sweep_is_one_line(command_line, tiny) -> None:
    done = command_line("-m", *tiny, "strategy=static,dynamc")
    assert done.code == 2
    assert done.err == "error: strategy=dynamc: there is no such strategy; did you mean dynamic?\n"
