"""A login node fetches, a compute node without a network runs: the real command lines."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import support
import torch
from conftest import ROOT, sentence_pairs, write_parquet
from hub import COMMIT, serving
from huggingface_hub import constants, is_offline_mode
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file

from heterolora.errors import ModelError
from heterolora.harness import network
from heterolora.harness.cli.commands import prefetch as prefetch_module
from heterolora.harness.cli.run.errors import report_errors
from heterolora.harness.config import ModelConfig
from heterolora.harness.config import checkpoints as loading
from heterolora.harness.config.rules.model import model_is_usable

TASKS = ("mrpc", "rte")


@pytest.fixture(scope="module")
def root(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub serves: OPT-350M without safetensors, as the real one, and GLUE in parts."""
    root = tmp_path_factory.mktemp("hub")
    model = shutil.copytree(checkpoints["opt-post-norm"], root / "facebook" / "opt-350m")
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    (model / "flax_model.msgpack").write_text("for others")
    glue = root / "datasets" / "nyu-mll" / "glue"
    splits = {"train": sentence_pairs(8, seed=5), "validation": sentence_pairs(8, seed=6)}
    configs = []
    for task in TASKS:
        write_parquet(glue / task, **splits)
        files = [{"split": split, "path": f"{task}/{split}.parquet"} for split in splits]
        configs.append({"config_name": task, "data_files": files})
    (glue / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return root


def finished(
    script: str, *arguments: str, endpoint: str, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """An interpreter of its own, all of whose requests go to `endpoint`, as hub and as proxy."""
    proxies = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], endpoint)
    everywhere = {"HF_ENDPOINT": endpoint, "WANDB_BASE_URL": endpoint, **proxies}
    unset = {"HF_HUB_OFFLINE", "WANDB_MODE", "NO_PROXY", "no_proxy"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    own = {"OMP_NUM_THREADS": "1", "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        cwd=ROOT,
        env=inherited | own | everywhere | environment,
    )


@pytest.fixture
def sweep(tiny: list[str]) -> list[str]:
    """The tiny run, its model and task from the hub, and W&B as for anyone."""
    local = ("model.path=", "task=", "task.path=", "tracking=")
    kept = [o for o in tiny if not o.startswith(local)]
    return [*kept, "model=opt_350m", "training.epochs=1", "strategy=static"]


@pytest.mark.slow
def test_what_was_fetched_runs_without_a_network(root: Path, sweep, tmp_path) -> None:
    seen: list[str] = []
    home = tmp_path / "cache"
    tasks = f"task={','.join(TASKS)}"
    with serving(root, seen) as endpoint:
        done = finished(
            "scripts/prefetch.py", *sweep, tasks, "seed=0,13", endpoint=endpoint, home=home
        )
        assert done.returncode == 0, done.stderr
        model, *data, following = done.stdout.splitlines()
        assert model.startswith(f"model facebook/opt-350m: revision {COMMIT}, in {home}")
        assert [line.split(",")[0] for line in data] == [
            f"task {t}: revision {COMMIT}" for t in TASKS
        ]
        folders = [Path(line.partition(", in ")[2]) for line in (model, *data)]
        assert all(any(folder.iterdir()) for folder in folders)
        assert following.startswith(f"next: HF_HOME={home} python train.py -m ")
        assert following.endswith(f" {tasks} seed=0,13 offline=true")
        assert any("pytorch_model.bin" in request for request in seen)
        assert not any("flax" in request for request in seen)
        seen.clear()
        # One task more than was fetched; a key, so that W&B could go online.
        more = [*sweep, f"{tasks},qnli", "offline=true"]
        done = finished(
            "train.py", "-m", *more, endpoint=endpoint, home=home, WANDB_API_KEY="a" * 40
        )
        assert done.returncode == 2, done.stderr
        assert seen == []
        # Where there is a network, these runs are the same: the commits are.
        online = finished("train.py", "-m", *sweep, tasks, endpoint=endpoint, home=home)
        assert online.stdout.splitlines()[-1] == "2 runs: 0 finished, 2 skipped, 0 failed"
    assert all("but the budget is" in line for line in done.stderr.splitlines())
    assert done.stdout.count("W&B: saved offline; upload with: wandb sync ") == 2
    *_, first, second, third, _, _, total = done.stdout.splitlines()
    assert [line.split()[0] for line in (first, second)] == ["finished", "finished"]
    assert "task.source=nyu-mll/glue/qnli" in third
    assert "python scripts/prefetch.py" in third
    assert total == "3 runs: 2 finished, 0 skipped, 1 failed"


@pytest.mark.slow
def test_without_prefetching_it_is_one_line(root: Path, sweep, tmp_path) -> None:
    seen: list[str] = []
    with serving(root, seen) as endpoint:
        arguments = [*sweep, "task=rte", "offline=true"]
        done = finished("train.py", *arguments, endpoint=endpoint, home=tmp_path / "empty")
    assert done.returncode == 2
    assert seen == []
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["starting:"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: model.name=facebook/opt-350m: ")
    assert "python scripts/prefetch.py" in line


@pytest.fixture
def prefetch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python scripts/prefetch.py ...` in this process; returns its exit code."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["prefetch.py", *arguments])
        try:
            return report_errors(lambda: prefetch_module.main(arguments))
        finally:
            GlobalHydra.instance().clear()

    return call


@pytest.mark.slow
def test_the_sweep_of_an_experiment_is_prefetched(prefetch, checkpoints, pairs, capsys) -> None:
    """Its runs are of one model on three tasks, here from disk; a GPU is not needed for it."""
    local = [f"model.path={checkpoints['opt-post-norm']}", f"task.path={pairs}", "device=cuda"]
    once = [*local, "seed=0"]
    assert prefetch("-m", "+experiment=table4", *once, "offline=true") == 0
    *lines, following = capsys.readouterr().out.splitlines()
    assert lines == [
        f"model {checkpoints['opt-post-norm']}: local, nothing to fetch",
        *(f"task {task}: local, nothing to fetch" for task in ("mrpc", "rte", "sst2")),
    ]
    assert following.endswith(" ".join(["train.py -m +experiment=table4", *once, "offline=true"]))
    assert following.count("offline=") == 1


def test_the_embedded_model_and_task_need_nothing(prefetch, capsys) -> None:
    assert prefetch() == 0
    model, task, following = capsys.readouterr().out.splitlines()
    assert model == "model heterolora/opt-starter: local, nothing to fetch"
    assert task == "task starter_paraphrase: local, nothing to fetch"
    assert following.endswith("python train.py offline=true")


@pytest.mark.parametrize(
    ("override", "problems", "remedy"),
    [
        ("task=xyz", ["task=xyz"], "choose one of"),
        ("training.epochs=0,-1", ["training.epochs=0", "training.epochs=-1"], "greater than 0"),
        ("modl=x", ["modl"], "did you mean model?"),
    ],
)
def test_what_cannot_be_prefetched_is_said(prefetch, capsys, override, problems, remedy) -> None:
    """Once, however many runs of the sweep have the problem."""
    assert prefetch(override, "seed=0,13") == 2
    out, err = capsys.readouterr()
    assert out == ""
    for line, problem in zip(err.splitlines(), problems, strict=True):
        assert line.startswith(f"error: {problem}: ")
        assert remedy in line


def test_a_cache_without_the_weights_is_told_from_a_broken_model(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--some--part"
    snapshot, refs = cached / "snapshots" / COMMIT, cached / "refs"
    snapshot.mkdir(parents=True)
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    shutil.copy(checkpoints["bert"] / "config.json", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = ModelConfig(name="some/part", path=None, revision=None)
    assert list(model_is_usable(model)) == []
    with pytest.raises(ModelError, match=r"^model.name=some/part: .*python scripts/prefetch.py"):
        loading.load(model, support.task().build(), seed=0)


def test_offline_reaches_libraries_that_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what a process started from here would read."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        network.stay_offline()
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert is_offline_mode()
