"""Sweeps on a real SLURM, brought up on this machine: what is lost there is taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, CommandLine, sentence_pairs, write_parquet
from safetensors.torch import load_file

from heterolora.harness.cli.sweeps.slurm import tasks_of
from heterolora.harness.records.record import read_rows, read_run

SCRIPT = ROOT / "tests" / "slurm.sh"
WHY = (
    "a cluster needs Linux"
    if sys.platform != "linux"
    else "starting slurmd needs root"
    if os.geteuid()
    else "SLURM is neither installed nor can apt-get install it"
    if not (shutil.which("slurmctld") or shutil.which("apt-get"))
    else ""
)
pytestmark = [
    pytest.mark.skipif(bool(WHY), reason=WHY),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.slow,
]

Submit = Callable[..., subprocess.Popen[str]]
EPOCHS = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands reach a cluster of this one machine."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "SLURM_TEST_DIR": str(folder), "SLURM_TEST_CPUS": "4"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if subprocess.run(["bash", str(SCRIPT), "install"], env=environment, check=False).returncode:
        pytest.skip("SLURM could not be installed by apt-get")
    try:
        subprocess.run(["bash", str(SCRIPT), "start"], env=environment, check=True)
        paths = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/sbin"
        yield environment | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": paths}
    finally:
        subprocess.run(["bash", str(SCRIPT), "stop"], env=environment, check=False)


@pytest.fixture(scope="module")
def long(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of a quarter minute, searching and saving all the time."""
    columns = {"train": sentence_pairs(600, seed=1), "validation": sentence_pairs(40, seed=2)}
    return [
        f"model.path={checkpoints['opt-post-norm']}",
        "task=rte",
        f"task.path={write_parquet(tmp_path_factory.mktemp('data'), **columns)}",
        "tracking=local",
        "device=cpu",
        f"training.epochs={EPOCHS}",
        "precision=fp32",
        "training.batch_size=8",
        "proxy.num_batches=2",
        "checkpoint.every_minutes=0.02",
    ]


@pytest.fixture
def submit(cluster: dict[str, str]) -> Iterator[Submit]:
    """`python train.py -m hydra/launcher=slurm ...`, in an interpreter of its own."""
    started = []

    def call(*overrides: str, tree: Path = ROOT) -> subprocess.Popen[str]:
        launcher = ["gpus_per_node=null", "cpus_per_task=1", "mem_gb=1"]
        process = subprocess.Popen(
            [
                *(sys.executable, str(tree / "train.py"), "-m", "hydra/launcher=slurm"),
                *(f"hydra.launcher.{setting}" for setting in launcher),
                "precision=fp32",
                *overrides,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=cluster,
            cwd=Path.home(),
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()
    subprocess.run(["scancel", "--me"], env=cluster, check=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """The exit code, the lines of the summary, and stderr."""
    out, err = process.communicate(timeout=400)
    return process.returncode, out.splitlines(), err


Numbers = tuple[bytes, list[dict[str, object]], dict[str, bytes]]


def record(output: Path) -> Numbers:
    """All that a run's numbers are, of the one run in `output`."""
    (directory,) = (file.parent for file in output.glob("main/*/*/config.yaml"))
    rows = read_rows(directory / "allocations.jsonl")
    weights = load_file(directory / "checkpoint" / "last.safetensors")
    return (
        (directory / "metrics.jsonl").read_bytes(),
        [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
    )


class Uninterrupted(NamedTuple):
    """What a run leaves that nothing happens to, and its seconds of training."""

    record: Numbers
    seconds: float


@pytest.fixture(scope="module")
def uninterrupted(long: list[str], tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """What the long run leaves when nothing happens to it, on this machine without SLURM."""
    output = tmp_path_factory.mktemp("local")
    command = [sys.executable, str(ROOT / "train.py"), *long, f"output={output}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    (file,) = output.rglob("run.json")
    return Uninterrupted(record(output), json.loads(file.read_text())["seconds"]["training"])


def steps(output: Path) -> int:
    """How far the run in `output` is."""
    return sum(len(read_rows(file)) for file in output.rglob("metrics.jsonl"))


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def logs(output: Path) -> str:
    return "".join(file.read_text() for file in output.rglob("*_log.out"))


def test_a_sweep_equals_the_local_one_failures_and_all(
    submit: Submit, tiny: list[str], command_line: CommandLine, tmp_path: Path
) -> None:
    """Three runs to a job, one job to an array; a run that fails costs the others nothing."""
    sweep = [
        *tiny,
        "seed=0,13,42",
        "optimizer.learning_rate=1e-3,1e30",
        "checkpoint.every_minutes=9",
    ]
    batches = "hydra.sweeper.max_batch_size=1"
    code, out, err = ended(submit(*sweep, "runs_per_job=3", batches))
    assert code == 2, err
    assert out[-1] == "6 runs: 3 finished, 0 skipped, 3 failed"
    told = [line for line in out if line.startswith(("finished", "failed"))]
    assert [line.split()[0] for line in told] == ["finished", "failed"] * 3
    assert all("the training loss is nan" in line for line in told[1::2])
    (sweep_folder,) = (tmp_path / "outputs" / ".sweeps").glob("2*")
    assert len(tasks_of(sweep_folder)) == 2
    on_slurm = {file.parent: file.read_bytes() for file in tmp_path.rglob("metrics.jsonl")}
    assert len(on_slurm) == 6
    again = command_line("-m", *sweep, "rerun=true")
    assert again.code == 2
    assert on_slurm == {file.parent: file.read_bytes() for file in tmp_path.rglob("metrics.jsonl")}


def test_a_run_of_two_tasks_is_requeued_and_ends_as_in_one(
    submit: Submit,
    cluster: dict[str, str],
    uninterrupted: Uninterrupted,
    long: list[str],
    tmp_path: Path,
) -> None:
    """Each task is a process of the run; a signal ahead of the time limit reaches both."""
    output = tmp_path / "outputs"
    tasks = ["hydra.launcher.tasks_per_node=2", "engine=distributed"]
    process = submit(*long, f"output={output}", *tasks)
    wait_until(lambda: steps(output) > 100)
    (job,) = {task.partition("_")[0] for task in tasks_of(next(output.glob(".sweeps/2*")))}
    command = ["scancel", "--signal=USR2", job]
    subprocess.run(command, env=cluster, check=True)
    code, out, err = ended(process)
    assert code == 0, err + logs(output)
    assert out[-1] == "1 run: 1 finished, 0 skipped, 0 failed"
    (file,) = output.rglob("provenance.json")
    assert json.loads(file.read_text())["resumed"]
    (rows, searches, weights), (others, theirs, its) = record(output), uninterrupted.record
    assert len(rows.splitlines()) == len(others.splitlines())
    assert len(searches) == len(theirs)
    assert weights.keys() == its.keys()


def test_jobs_run_the_source_that_was_there_when_they_were_submitted(
    submit: Submit, tiny: list[str], tmp_path: Path
) -> None:
    """The tree breaks while the job waits."""
    tree = tmp_path / "tree"
    for part in ("conf", "heterolora"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tree)
    late = "+hydra.launcher.additional_parameters.begin=now+20"
    process = submit(*tiny, "training.epochs=1", late, tree=tree)
    outputs = tmp_path / "outputs"
    wait_until(lambda: list(outputs.glob(".sweeps/2*/.submitit/[0-9]*")))
    shutil.rmtree(tree)
    code, out, err = ended(process)
    assert code == 0, err
    assert out[-1] == "1 run: 1 finished, 0 skipped, 0 failed"
    (copy,) = (outputs / ".sweeps" / "source").iterdir()
    file = Path("heterolora") / "harness" / "cli" / "sweeps" / "jobs.py"
    assert (copy / file).read_bytes() == (ROOT / file).read_bytes()
    (origin,) = outputs.rglob("provenance.json")
    assert json.loads(origin.read_text())["code"] == {"commit": None, "dirty": None}


def test_out_of_time_a_run_queues_again_and_goes_on(
    submit: Submit, long: list[str], uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    """Of more epochs than the uninterrupted one, so that it cannot end in time on any machine."""
    epochs = EPOCHS + int(EPOCHS * 35 / uninterrupted.seconds)
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=25"]
    code, out, err = ended(
        submit(*long, *limits, f"training.epochs={epochs}", f"output={tmp_path}")
    )
    assert code == 0, err
    assert out[-1] == "1 run: 1 finished, 0 skipped, 0 failed"
    assert "timed-out" in logs(tmp_path)
    assert "resumed at step" in logs(tmp_path)
    metrics, searches, _ = record(tmp_path)
    first_metrics, first_searches, _ = uninterrupted.record
    assert metrics.startswith(first_metrics)
    assert searches[: len(first_searches)] == first_searches
    assert len(searches) * EPOCHS == len(first_searches) * epochs


def test_preempted_and_killed_runs_end_as_if_nothing_had_been(
    submit: Submit,
    long: list[str],
    uninterrupted: Uninterrupted,
    cluster: dict[str, str],
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    """Two sweeps at once, each of one run, and each meets another fate."""
    places = {fate: tmp_path / fate for fate in ("preempted", "killed")}
    hour = "hydra.launcher.timeout_min=60"
    running = {fate: submit(*long, hour, f"output={output}") for fate, output in places.items()}
    wait_until(lambda: steps(places["killed"]) > 20)
    again = command_line("-m", *long, f"output={places['killed']}")
    assert again.code == 0
    assert again.out.splitlines()[-1] == "1 run: 0 finished, 0 skipped, 0 failed, 1 running"
    (lock,) = places["killed"].rglob(".lock")
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: steps(places["preempted"]) > 20)
    urgent = ["sbatch", "--partition=high", "--exclusive", "--wrap=sleep 3", "--output=/dev/null"]
    subprocess.run(urgent, env=cluster, check=True, capture_output=True)
    code, out, err = ended(running["killed"])
    assert code == 1, err
    assert "its job ended without a result" in out[-3]
    code, out, err = ended(running["preempted"])
    assert code == 0, err
    assert "preempted" in logs(places["preempted"])
    assert "resumed at step" in logs(places["preempted"])
    assert record(places["preempted"]) == uninterrupted.record
    code, out, err = ended(submit(*long, hour, f"output={places['killed']}"))
    assert code == 0, err
    assert out[-1] == "1 run: 1 finished, 0 skipped, 0 failed"
    assert "resumed at step" in logs(places["killed"])
    assert record(places["killed"]) == uninterrupted.record
    (run,) = (read_run(file.parent) for file in places["killed"].rglob("run.json"))
    assert run is not None
    assert run["status"] == "finished"


def test_what_each_node_would_settle_for_itself_is_refused(submit: Submit, tiny: list[str]) -> None:
    code, _, err = ended(submit(*tiny, "precision=auto"))
    assert code == 2
    assert err.startswith("error: precision=auto: would be decided by each node")
    several = [*tiny, "engine=distributed", "runs_per_job=2"]
    assert "train only one run per job; set runs_per_job=1" in ended(submit(*several))[2]
