"""What `tracking` chooses: each read back by its own library, alone and together, after kills."""

import functools
import importlib.util
import io
import itertools
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import children
import pandas as pd
import pytest
import torch
from children import Command
from conftest import (
    CONF,
    ROOT,
    CommandLine,
    Finished,
    composed,
    edited,
    problems,
    run_config,
    stopped_at,
    tiny_config,
)
from omegaconf import DictConfig, OmegaConf
from records import write_run
from rich.console import Console

from heterolora.harness.cli.commands import report
from heterolora.harness.config import plugins
from heterolora.harness.loggers import mlflow, wandb_report
from heterolora.harness.loggers.base import Tolerant
from heterolora.harness.loggers.wandb import Wandb
from heterolora.harness.records.read import read
from heterolora.harness.records.record import read_rows, read_run
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.outcome import run_info
from heterolora.losses import Batch
from heterolora.training.engines import LocalEngine

NAMES = ("csv", "mlflow", "tensorboard")
SEARCH = ("parameters", "degenerate", "tied", "seconds")
Points = dict[str, list[tuple[int, float]]]
"""Of each name, the step and the value of every point."""


@pytest.fixture(autouse=True, scope="module")
def _no_store() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(mlflow.URI, raising=False)
        yield


@pytest.fixture(scope="module")
def cfg(checkpoints: dict[str, Path], pairs: Path) -> DictConfig:
    """Two epochs of 8 steps, searches before every second."""
    return tiny_config(
        checkpoints["opt-post-norm"], pairs, Path("somewhere"), "training.log_every=3"
    )


def tracked_by(cfg: DictConfig, output: Path, *names: str) -> DictConfig:
    """The same configuration with other trackers, as `tracking=[...]` chooses them."""
    changed = edited(cfg, f"output={output}")
    changed.tracking = composed(f"tracking=[{','.join(names)}]").tracking
    return changed


@pytest.fixture(scope="module")
def everywhere(cfg: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that all of them follow, which tests read."""
    output = tmp_path_factory.mktemp("everywhere") / "outputs"
    return run_config(edited(tracked_by(cfg, output, *NAMES), "tracking.mlflow.project=p"))


@pytest.fixture
def everywhere_anew(everywhere: Finished, cfg: DictConfig, tmp_path: Path) -> DictConfig:
    """The configuration of a copy of that run, to be changed."""
    output = tmp_path / "outputs"
    shutil.copytree(everywhere.record.parents[2], output)
    return edited(tracked_by(cfg, output, *NAMES), "tracking.mlflow.project=p")


@pytest.fixture
def store(everywhere: Finished, tmp_path: Path) -> Path:
    """An output folder with MLflow's tables, which it takes a second to make."""
    output = tmp_path / "outputs"
    output.mkdir()
    shutil.copy(everywhere.record.parents[2] / "mlflow.db", output)
    return output


def recorded(directory: Path) -> Points:
    """What the record has of all that dashboards show."""
    points: Points = {}
    for row in read_rows(directory / "metrics.jsonl"):
        if row["event"] == "step":
            named = {"train/loss": row["loss"]}
        else:
            apart = ("event", "step", "epoch", "train_loss")
            named = {
                f"validation/{key.removeprefix('validation_')}": value
                for key, value in row.items()
                if key not in apart
            }
        for name, value in named.items():
            points.setdefault(name, []).append((row["step"], value))
    for row in read_rows(directory / "allocations.jsonl"):
        for key in SEARCH:
            points.setdefault(f"search/{key}", []).append((row["step"], float(row[key])))
    return points


def events_of(directory: Path, **sizes: int) -> Any:
    """What TensorBoard reads; it and MLflow are imported by the tests that use them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory / "tensorboard"), sizes or None).Reload()


def in_tensorboard(directory: Path) -> Points:
    events = events_of(directory)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def stored(directory: Path) -> tuple[Any, Any]:
    """A client of the local store, and the run that the record names."""
    from mlflow import MlflowClient

    (database,) = directory.parents[2].glob("mlflow.db")
    client = MlflowClient(f"sqlite:///{database}")
    return client, client.get_run((directory / "mlflow-id").read_text())


def in_mlflow(directory: Path) -> Points:
    client, run = stored(directory)
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return {
        key: sorted((metric.step, metric.value) for metric in history)
        for key, history in histories.items()
        if "/" in key
    }


def in_csv(directory: Path) -> Points:
    table = pd.read_csv(directory / "metrics.csv")
    names = {"train/loss": "loss", "validation/loss": "validation_loss"}
    names |= {f"search/{key}": key for key in SEARCH}
    names |= {f"validation/{key}": key for key in table if key in ("accuracy", "f1")}
    points: Points = {}
    for name, column in names.items():
        rows = table[table[column].notna()]
        points[name] = [*zip(rows["step"], rows[column].astype(float), strict=True)]
    return points


def assert_same(found: Points, expected: Points, seconds: bool = True) -> None:
    """Every point once; a resumed run makes a search again, which takes another time."""
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        if seconds or name != "search/seconds":
            values = [value for _, value in points]
            assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6), name


def assert_whole(directory: Path, seconds: bool = True) -> None:
    """All of the record is in each tracker, once."""
    expected = recorded(directory)
    assert len(expected) == 7
    for found in (in_csv, in_tensorboard):
        assert_same(found(directory), expected)
    assert_same(in_mlflow(directory), expected, seconds)


def test_several_at_once(everywhere: Finished) -> None:
    assert (everywhere.code, everywhere.err) == (0, "")
    directory = everywhere.record
    assert_whole(directory)
    config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    assert config["tracking"] == {"csv": {}, "mlflow": {"project": "p"}, "tensorboard": {}}
    result = json.loads((directory / "run.json").read_text())

    events = events_of(directory, images=0)
    searches = read_rows(directory / "allocations.jsonl")
    images = events.Images("search/heatmap")
    assert [image.step for image in images] == [search["step"] for search in searches]
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)
    assert "enable_rate" in text(events, "config/text_summary")
    told = json.loads(text(events, "summary/text_summary"))
    assert (told["status"], told["best"]) == ("finished", result["best"])

    client, run = stored(directory)
    assert (run.info.status, run.info.run_name) == ("FINISHED", directory.name)
    assert client.get_experiment(run.info.experiment_id).name == "p/main"
    assert run.data.params["strategy.enable_rate"] == str(config["strategy"]["enable_rate"])
    assert run.data.params["tracking.mlflow.project"] == "p"
    assert run.data.metrics["best.accuracy"] == result["best"]["accuracy"]
    assert run.data.metrics["seconds.training"] == result["seconds"]["training"]
    assert run.data.tags["arm"] == directory.name.removesuffix("-s0")

    table = pd.read_csv(directory / "metrics.csv")
    assert list(table.columns[:5]) == ["event", "step", "epoch", "loss", "train_loss"]
    assert table["event"].value_counts().to_dict() == {"search": 8, "step": 7, "epoch": 2}


def text(events: Any, tag: str) -> str:
    (event,) = events.Tensors(tag)
    (value,) = event.tensor_proto.string_val
    return str(value.decode().removeprefix("```\n").removesuffix("\n```"))


def test_halves_have_columns_of_their_own(train: CommandLine) -> None:
    done = train("tracking=csv", "evaluation.split=halves", "strategy=static")
    assert done.out.count("warning: metrics.csv") == 0
    epochs = pd.read_csv(done.record / "metrics.csv").query("event == 'epoch'")
    assert epochs[["report_loss", "report_accuracy"]].notna().all(axis=None)


FATES = {
    "killed in a step": (functools.partial(children.in_step, 15), -signal.SIGKILL),
    "killed in a search": (functools.partial(children.in_search, 8), -signal.SIGKILL),
    "stopped": (functools.partial(children.in_step, 15, signal.SIGTERM), 143),
}
"""What happens after the state of step 8 was saved, and the exit code."""


@pytest.mark.slow
@pytest.mark.parametrize("fate", FATES)
def test_a_resumed_run_has_every_point_once(fate: str, cfg: DictConfig, store: Path) -> None:
    followed = tracked_by(cfg, store, *NAMES)
    happens, code = FATES[fate]
    command = Command(followed, store)
    with children.server():
        assert command.run(fate=happens) == code
    assert "INFO" not in command.log.read_text()  # of MLflow, which makes its tables
    directory = command.directory
    _, before = stored(directory)
    assert before.info.status == ("KILLED" if fate == "stopped" else "RUNNING")
    assert max(step for step, _ in in_csv(directory)["train/loss"]) > 8
    done = run_config(followed)
    assert done.record == directory
    assert "resumed at step" in done.out
    assert "INFO" not in done.err
    assert_whole(directory, seconds=False)
    client, run = stored(directory)
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    assert len(client.search_runs([run.info.experiment_id])) == 1
    told = text_of_last(events_of(directory))
    assert told["status"] == "finished"


def text_of_last(events: Any) -> Any:
    *_, event = events.Tensors("summary/text_summary")
    (value,) = event.tensor_proto.string_val
    return json.loads(value.decode().strip("`\n"))


def test_what_is_chosen_when_a_run_is_resumed_has_all_of_it(cfg: DictConfig, store: Path) -> None:
    with stopped_at(14):
        assert run_config(tracked_by(cfg, store, "local")).code == 130
    assert not [*store.rglob("metrics.csv")]
    done = run_config(tracked_by(cfg, store, *NAMES))
    assert "resumed at step 8" in done.out
    assert_whole(done.record)


def test_a_run_from_before_several_could_be_chosen_goes_on(cfg: DictConfig, tmp_path: Path) -> None:
    followed = tracked_by(cfg, tmp_path, "csv")
    with stopped_at(14):
        assert run_config(followed).code == 130
    (file,) = tmp_path.rglob("config.yaml")
    config = OmegaConf.load(file)
    before = {"name": "wandb", "project": "p", "entity": None, "group": None, "tags": ["a"]}
    config.tracking = before
    OmegaConf.save(config, file)
    done = run_config(followed)
    assert "resumed at step 8" in done.out
    assert_same(in_csv(done.record), recorded(done.record))
    del before["name"]
    assert read(done.record).tracking == {"wandb": before}


def test_a_run_that_starts_over_leaves_nothing_of_the_one_before(
    everywhere_anew: DictConfig, tmp_path: Path
) -> None:
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    (directory / "wandb-id").write_text("0123abcd")
    _, before = stored(directory)
    assert run_config(edited(everywhere_anew, "rerun=true")).record == directory
    assert_whole(directory)
    _, after = stored(directory)
    assert before.info.run_id != after.info.run_id
    local = tracked_by(everywhere_anew, tmp_path / "outputs", "local")
    assert run_config(edited(local, "rerun=true")).record == directory
    left = {path.name for path in directory.iterdir()}
    assert not left & {"metrics.csv", "tensorboard", "mlflow-id", "wandb-id"}


def test_a_store_that_breaks_is_told_once_and_left_alone(
    cfg: DictConfig, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables are gone in the middle of the run."""
    make, steps = LocalEngine.step, itertools.count()

    def destructive(self: LocalEngine, batch: Batch) -> torch.Tensor:
        if next(steps) == 5:
            with sqlite3.connect(store / "mlflow.db") as database:
                database.execute("ALTER TABLE metrics RENAME TO elsewhere")
        return make(self, batch)

    monkeypatch.setattr(LocalEngine, "step", destructive)
    done = run_config(tracked_by(cfg, store, *NAMES))
    assert done.out.count("warning: ") == 1
    assert "warning: MLflow failed and is switched off for the rest of the run" in done.out
    assert_same(in_csv(done.record), recorded(done.record))
    assert_same(in_tensorboard(done.record), recorded(done.record))


def test_a_logger_that_fails_is_not_asked_again() -> None:
    asked: list[str] = []

    class Failing:
        def __getattr__(self, event: str) -> Any:
            asked.append(event)
            raise RuntimeError("a\nreason")

    abandoned: list[bool] = []
    tracker = SimpleNamespace(title="T", abandon=lambda: abandoned.append(True))
    console = Console(file=io.StringIO(), width=200)
    logger = Tolerant(tracker, Failing(), console)
    for event in ("log_step", "log_epoch", "log_search", "close"):
        getattr(logger, event)({})
    assert (asked, abandoned) == (["log_step"], [True])
    assert console.file.getvalue().startswith("warning: T failed and is switched off for the rest")
    assert "(a reason)" in console.file.getvalue()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///{broken}", "nope://x"])
def test_a_store_that_cannot_be_opened_is_one_line(
    uri: str, cfg: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.db").write_text("no database, whatever it is called")
    monkeypatch.setenv(mlflow.URI, uri.format(broken=tmp_path / "broken.db"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = run_config(tracked_by(cfg, tmp_path / "outputs", "mlflow"))
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: tracking=mlflow: ")
    assert line.endswith("check MLFLOW_TRACKING_URI, or choose tracking=local")
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    run = read_run(directory)
    assert run is not None
    assert run["status"] == "failed"


@pytest.mark.parametrize(
    ("given", "offline", "local"),
    [
        (None, False, True),
        ("http://server", False, False),
        ("http://server", True, True),
        ("sqlite:////data/mlflow.db", True, False),
    ],
)
def test_where_mlflow_keeps_its_runs(
    given: str | None,
    offline: bool,
    local: bool,
    cfg: DictConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if given is not None:
        monkeypatch.setenv(mlflow.URI, given)
    config = experiment.prepare(edited(cfg, f"offline={str(offline).lower()}"))
    info = run_info(config, Path("somewhere"))
    expected = Path(config.output).absolute() / "mlflow.db"
    assert mlflow.local_store(info) == (expected if local else None)


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_package_that_is_missing_is_told_before_anything_is_loaded(
    name: str, cfg: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    without = lambda module, *rest: None if module == name else find(module, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    (line,) = problems(tracked_by(cfg, Path("somewhere"), *NAMES))
    assert line.startswith(f"tracking={name}: needs the package {name}")
    assert f"pip install 'heterolora[{name}]'" in line
    assert line.endswith("tracking=local")


@pytest.mark.parametrize(
    ("overrides", "key", "remedy"),
    [
        (["tracking=tensorbord"], "tracking=tensorbord", "did you mean tensorboard?"),
        (["tracking=[csv,nope]"], "tracking=nope", "choose one of csv, figures,"),
        (["tracking=null"], "tracking=null", "choose one of csv, figures,"),
        (["tracking.project=x"], "tracking.project", "did you mean tracking.wandb.project?"),
        (
            ["tracking=mlflow", "tracking.mlflow.projct=x"],
            *("tracking.mlflow.projct", "did you mean tracking.mlflow.project?"),
        ),
        (
            ["tracking=csv", "tracking.wandb.project=x"],
            *("tracking.wandb.project", "choose one of tracking, tracking.csv"),
        ),
    ],
)
def test_a_choice_that_cannot_be_composed_is_one_line(
    overrides: list[str], key: str, remedy: str, command_line: CommandLine
) -> None:
    done = command_line(*overrides)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {key}: ")
    assert remedy in line


@pytest.mark.parametrize(
    ("names", "change", "key", "remedy"),
    [
        (
            *((), "tracking.project=x", "tracking.project"),
            "did you mean tracking.mlflow.project or tracking.wandb.project?",
        ),
        ((), "tracking.dashboard={}", "tracking.dashboard", "did you mean tensorboard?"),
        ((), "tracking.csv=3", "tracking.csv=3", "choose it with"),
        (
            *(["wandb"], "tracking.wandb.project=''", "tracking.wandb.project=''"),
            "for example tracking.wandb.project=heterolora",
        ),
        (
            *(["wandb"], "tracking.wandb.tags=3", "tracking.wandb.tags=3"),
            "must be a list",
        ),
        (["mlflow"], "training.epochs=0", "training.epochs=0", "must be greater than 0"),
    ],
)
def test_a_setting_that_is_wrong_is_one_line(
    names: list[str], change: str, key: str, remedy: str, cfg: DictConfig
) -> None:
    done = run_config(edited(tracked_by(cfg, Path("nowhere"), *names), change))
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {key}: ")
    assert remedy in line


def test_none_is_local() -> None:
    for override in ("tracking=local", "tracking=[]", "tracking=[local]"):
        assert experiment.prepare(composed("device=cpu", override)).tracking == {}, override


def test_a_sweep_takes_lists_as_well(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    short = [*tiny, "training.max_steps=2", "strategy=homogeneous", "seed=0,1"]
    done = command_line("-m", *short, "tracking=[csv,tensorboard]")
    assert done.code == 0, done.err
    assert len([*(tmp_path / "outputs").rglob("metrics.csv")]) == 2
    assert len([*(tmp_path / "outputs").rglob("tensorboard")]) == 2


def test_every_yaml_is_a_tracker() -> None:
    found = plugins.trackers()
    files = {file.stem for file in (CONF / "tracking").glob("*.yaml")}
    assert {*found, "local"} == files
    for name, section in found.items():
        given = OmegaConf.to_container(OmegaConf.load(CONF / "tracking" / f"{name}.yaml"))
        assert given == {name: section().model_dump(mode="json")}


def test_a_library_is_imported_when_a_run_is_opened() -> None:
    libraries = {"wandb", "mlflow", "tensorboard", "matplotlib", "torch"}
    code = (
        "import sys; from heterolora.harness.config import plugins\n"
        "[section().build() for section in plugins.trackers().values()]\n"
        f"print({libraries} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


OLD: Mapping[str, Any] = {"name": "wandb", "project": "old", "entity": "team", "group": None}
WENT: Sequence[tuple[Mapping[str, Any], str, str | None]] = [
    ({**OLD, "tags": []}, "old", "team"),
    ({**OLD, "name": "local", "project": "heterolora"}, "heterolora", None),
    ({"wandb": {"project": "new", "entity": "team", "group": None, "tags": []}}, "new", "team"),
    ({}, Wandb().project, None),
]
"""What a run's configuration says of trackers, and the project and the entity of its report."""


def test_a_report_goes_where_its_runs_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_run(tmp_path, "name=table2", "strategy=dynamic", accuracies=[0.5])
    config = edited(OmegaConf.load(directory / "config.yaml"))
    logged: list[Any] = []
    monkeypatch.setattr(wandb_report, "log_report", lambda *given: logged.append(given))
    for tracking, project, entity in WENT:
        config.tracking = tracking
        OmegaConf.save(config, directory / "config.yaml")
        report.main([str(tmp_path), "--wandb"])
        *_, there, _ = logged.pop()
        assert (there["project"], there["entity"], there["group"]) == (project, entity, None)
