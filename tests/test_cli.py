"""The command line as a person meets it: what it prints, and how it says no."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT, CommandLine, sentence_pairs, write_parquet
from hub import COMMIT, serving
from safetensors.torch import load_file

from heterolora.cli import sweep as sweep_room
from heterolora.errors import TrainingError
from heterolora.records.record import read_rows, read_run
from heterolora.strategies.dynamic import Dynamic
from heterolora.training.trainer import Trainer


def run_directories(tiny: list[str]) -> list[Path]:
    """Every run directory below the output folder of `tiny`."""
    output = next(o.removeprefix("output=") for o in tiny if o.startswith("output="))
    return sorted(file.parent for file in Path(output).rglob("config.yaml"))


def refused(command_line: CommandLine, tiny: list[str], *overrides: str) -> list[str]:
    """The error lines of a command that must fail and leave nothing."""
    done = command_line(*tiny, *overrides)
    assert done.code == 2
    assert done.out == ""
    assert run_directories(tiny) == []
    lines = done.err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return lines


def test_the_main_job(command_line: CommandLine, tiny: list[str]) -> None:
    done = command_line(*tiny, "proxy=gradnorm", "strategy=dynamic")
    assert done.code == 0, done.err
    assert done.err == ""
    (directory,) = run_directories(tiny)
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


def test_a_second_time_says_that_it_is_finished(command_line, tiny) -> None:
    first = command_line(*tiny)
    second = command_line(*tiny)
    assert second.code == 0
    assert "already finished; use rerun=true to run it again" in second.out
    assert "epoch  1/2" not in second.out
    assert first.out.splitlines()[-3:] == second.out.splitlines()[-3:]


def test_degenerate_searches_warn_once(command_line, tiny) -> None:
    done = command_line(*tiny, "proxy=snip", "proxy.weights=current")
    assert done.out.count("all scores of snip are equal, so the allocation is random") == 1
    (directory,) = run_directories(tiny)
    assert read_rows(directory / "allocations.jsonl")[0]["degenerate"] is True


def test_the_random_control_is_not_warned_of(command_line, tiny) -> None:
    few = [setting for setting in tiny if not setting.startswith("proxy.")]
    done = command_line(*few, "proxy=constant")
    assert done.code == 0, done.err
    assert "warning: " not in done.out


def test_a_multirun_makes_one_record_for_each_seed(command_line, tiny) -> None:
    done = command_line("-m", *tiny, "seed=0,13,42", "training.epochs=1")
    assert done.code == 0, done.err
    names = [directory.name for directory in run_directories(tiny)]
    assert [name.rpartition("-")[2] for name in names] == ["s0", "s13", "s42"]
    assert len({name.rpartition("-")[0] for name in names}) == 1


def test_a_sweep_does_what_is_missing_and_says_what_became_of_each(command_line, tiny) -> None:
    """A failed run does not stop the others; finished ones are not run again."""
    command_line(*tiny, "seed=13")
    sweep = ["-m", *tiny, "seed=0,13", "optimizer.learning_rate=1e-3,1e30"]
    done = command_line(*sweep)
    assert done.code == 2
    *_, first, second, third, fourth, report, remark, total = done.out.splitlines()
    assert report.startswith("report the finished runs with: python scripts/report.py ")
    assert remark == "run the same command again to run what is missing"
    assert re.match(r"finished  run 1  .*-s0  accuracy 0\.\d{4} in \d+ s$", first)
    assert re.match(r"failed .*seed=0 .*learning_rate=1e\+?30 .*the training loss is nan", second)
    assert third.startswith("skipped")
    assert fourth.startswith("failed")
    assert total == "4 runs: 1 finished, 1 skipped, 2 failed"
    again = command_line("-m", *tiny, "seed=13,0,42", "optimizer.learning_rate=1e-3")
    assert again.code == 0
    assert again.out.splitlines()[-1] == "3 runs: 1 finished, 2 skipped, 0 failed"
    alone = command_line(*tiny, "seed=42", "optimizer.learning_rate=1e-3")
    assert "already finished" in alone.out


def test_a_job_that_queues_again_does_not_run_its_reruns_again(tmp_path) -> None:
    """It goes on with what it had begun; what it had not begun, it runs anew."""
    record = tmp_path / "run" / "run.json"
    record.parent.mkdir()
    record.write_text("{}")
    os.utime(record, (1, 1))
    sweep = tmp_path / "sweep"
    assert not sweep_room.begun(sweep, 0, str(record.parent))
    assert not sweep_room.begun(sweep, 0, str(record.parent))  # killed before its record was new
    record.write_text("{}")
    os.utime(record)
    assert sweep_room.begun(sweep, 0, str(record.parent))
    assert not sweep_room.begun(sweep, 1, str(record.parent))


def test_a_bug_in_one_run_of_a_sweep_does_not_stop_it(command_line, tiny, monkeypatch) -> None:
    """An error that is not the user's leaves its traceback, and the sweep exits with 1."""
    whole = Dynamic.search_steps

    def breaks(self: Dynamic, epoch: int, steps: int, total: int | None = None) -> range:
        if self.searches_per_epoch == 3:
            raise RuntimeError("it broke")
        return whole(self, epoch, steps, total)

    monkeypatch.setattr(Dynamic, "search_steps", breaks)
    done = command_line("-m", *tiny, "strategy.searches_per_epoch=3,1", "training.epochs=1")
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
    whole = Trainer.training_step

    def breaks(self: Trainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.seed == 0 and self.progress.step == 3:
            os.kill(os.getpid(), signal.SIGUSR2)
            raise problem
        return whole(self, batch)

    monkeypatch.setattr(Trainer, "training_step", breaks)
    sweep = ["-m", *tiny, "seed=0,13", "runs_per_job=2", "training.epochs=1"]
    assert command_line(*sweep).code == 75
    assert requeues == [signal.SIGUSR2]
    (directory,) = run_directories(tiny)
    run = read_run(directory)
    assert run is not None
    assert (run["seed"], run["status"]) == (0, "interrupted")
    monkeypatch.setattr(Trainer, "training_step", whole)
    again = command_line(*sweep)
    assert again.code == 0, again.err
    assert again.out.splitlines()[-1] == "2 runs: 2 finished, 0 skipped, 0 failed"


def test_runs_of_one_process_equal_runs_alone(command_line, tiny, tmp_path) -> None:
    command_line("-m", *tiny, "seed=0,13", "proxy=gradnorm,snip")
    together = {directory.name: directory for directory in run_directories(tiny)}
    assert len(together) == 4
    elsewhere = [o for o in tiny if not o.startswith("output=")] + [f"output={tmp_path / 'alone'}"]
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


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("proxy=gradnrom", "proxy=gradnrom: there is no such proxy; did you mean gradnorm?"),
        ("task=xyz", "task=xyz: there is no such task; choose one of alpaca, ax,"),
        ("selection=null", "selection=null: there is no such selection; choose one of"),
        (
            "proxy=snip,gradnorm",
            "proxy=snip,gradnorm: has several values; to run each of them, add -m",
        ),
        ("proxxy=snip", "proxxy: unknown key; did you mean proxy?"),
        ("trainin.epochs=3", "trainin.epochs: unknown key; did you mean training.epochs?"),
        ("training.epoch=3", "training.epoch: unknown key; did you mean training.epochs?"),
        ("+training.epoch=3", "training.epoch: unknown key; did you mean epochs?"),
        ("training.epochs=0", "training.epochs=0: must be greater than 0"),
        ("training.batch_size=0", "training.batch_size=0: must be greater than 0"),
        ("strategy.enable_rate=1.5", "strategy.enable_rate=1.5: must be less than or equal to 1"),
        ("strategy.enable_rate=0", "strategy.enable_rate=0: must be greater than 0"),
        ("strategy.enable_rate=0.3", "rank_budget.lora_rank / strategy.enable_rate must be whole"),
        ("model.path=no/where", "model.path=no/where: there is no such directory"),
        ("task.path=no/where", "task.path=no/where: there is no such file or folder"),
        ("search_space.projections=[q,gate]", "opt models have no projection 'gate'"),
        ("training.epochs=", "training.epochs="),
    ],
)
def test_a_wrong_override_is_one_line(command_line, tiny, override, said) -> None:
    (line,) = refused(command_line, tiny, override)
    assert said in line


def test_all_problems_come_at_once(command_line, tiny) -> None:
    wrong = [
        "proxy=gradnrom",
        "training.epoch=3",
        "+seeed=1",
        "training.batch_size=0",
        "search_space.projections=[q,gate]",
        "strategy.enable_rate=0.3",
        "task.path=no/where",
    ]
    lines = refused(command_line, [o for o in tiny if not o.startswith("proxy.")], *wrong)
    for override in wrong:
        key = override.lstrip("+").partition("=")[0]
        assert sum(line.startswith(f"error: {key}") for line in lines) == 1, key


LOADED = """
import sys
from heterolora.cli.run import main
code = main()
print(sorted({"torch", "transformers", "datasets", "wandb"} & sys.modules.keys()))
sys.exit(code)
"""


def without_torch(*arguments: str) -> list[str]:
    """The error lines of a command that must fail in an interpreter of its own, and fast."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "[]"
    return done.stderr.splitlines()


def test_a_misspelt_override_needs_no_torch() -> None:
    """Nor does what else is wrong, where values alone tell."""
    wrong = ["proxy=gradnrom", "task.max_lenght=3", "optimizer.learning_rte=1", "+seeed=1"]
    wrong += ["training.batch_size=0", "strategy.enable_rate=0.3", "device=tpu", "~selection"]
    right = ["strategy=static", "task=rte", "rank_budget.shortcut_rank=4", "output=here"]
    lines = without_torch(*wrong, *right)
    assert len(lines) == len(wrong)
    for override in wrong:
        key = override.lstrip("+~").partition("=")[0]
        assert sum(line.startswith(f"error: {key}") for line in lines) == 1, key


def test_a_misspelt_value_of_a_sweep_needs_no_torch(tmp_path) -> None:
    """Not even where runs before it in the sweep are sound."""
    (line,) = without_torch("-m", "proxy=snip,gradnrom", f"output={tmp_path}")
    assert line == "error: proxy=gradnrom: there is no such proxy; did you mean gradnorm?"


GOOD = sentence_pairs(8, seed=5)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"sentence1": GOOD["sentence1"]}, "column 'sentence2' is not in"),
        (
            {**GOOD, "label": [0, 1, 2, 0, 0, 0, 0, 0]},
            "row 2 has label 2, but the task takes whole numbers 0 to 1",
        ),
        ({**GOOD, "label": [0, 1, -1, 0, 0, 0, 0, 0]}, "row 2 has label -1"),
        ({"sentence1": [], "sentence2": [], "label": []}, "has no rows"),
        ({**GOOD, "sentence2": [None, *GOOD["sentence2"][1:]]}, "row 0 of column 'sentence2'"),
        ({**GOOD, "sentence1": list(range(8))}, "must be a string, not 0"),
    ],
)
def test_broken_data_is_one_line(command_line, tiny, tmp_path, broken, said) -> None:
    directory = write_parquet(tmp_path / "data", train=GOOD, validation=broken)
    done = command_line(*tiny, f"task.path={directory}")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert said in line
    run = read_run(*run_directories(tiny))
    assert run is not None
    assert run["status"] == "failed"
    assert f"error: {run['error']}" == line


def test_an_output_that_cannot_be_written_is_one_line(command_line, tiny, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    (line,) = refused(command_line, tiny, f"output={tmp_path / 'file' / 'outputs'}")
    assert "cannot be written" in line
    assert "output=DIR" in line


def test_long_sequences_are_cut_with_one_warning(command_line, tiny, tmp_path, caplog) -> None:
    long, longer = ({**GOOD, "sentence1": ["cat " * length] * 8} for length in (100, 101))
    directory = write_parquet(tmp_path / "data", train=long, validation=longer)
    done = command_line(*tiny, f"task.path={directory}", "strategy=static")
    assert done.code == 0
    assert [message for message in caplog.messages if "truncated" in message] == [
        "all 16 examples are longer than 40 tokens and were truncated; the model has no more "
        "positions"
    ]


def test_a_nan_loss_is_one_line_and_a_failed_record(command_line, tiny) -> None:
    done = command_line(*tiny, "optimizer.learning_rate=1e30")
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


def test_ctrl_c_leaves_an_interrupted_record(tiny) -> None:
    process = start(*tiny, "training.epochs=100000", "strategy.searches_per_epoch=4")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        rows = [r for d in run_directories(tiny) for r in read_rows(d / "metrics.jsonl")]
        if len(rows) > 3:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (directory,) = run_directories(tiny)
    run = read_run(directory)
    assert run is not None
    *_, line = err.splitlines()
    assert line.startswith(f"interrupted by Ctrl-C at step {run['steps']} of 800000 (epoch ")
    states = directory / "checkpoint" / "resume"
    again = "run the same command again to resume"
    assert line.endswith(f" of 100000); its state is saved in {states}; {again}")
    assert any(states.glob(f"step-*{run['steps']}"))
    assert run["status"] == "interrupted"
    assert run["steps"] >= 8


def test_a_hub_that_cannot_be_reached_is_one_line(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    process = start(*[o for o in tiny if not o.startswith("model.path")], "model=opt_350m")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert [one.partition(" ")[0] for one in out.splitlines()] == ["starting:"]
    (line,) = err.splitlines()
    assert "model.name=facebook/opt-350m" in line
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
