"""What `tracking` chooses: each read back by its own library, alone and together, after kills."""

import dataclasses
import functools
import importlib.util
import io
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import children
import pandas as pd
import pytest
import torch
from children import Command
from conftest import CONF, ROOT, CommandLine, composed, edited, problems
from mlflow import MlflowClient
from omegaconf import OmegaConf
from records import write_run
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from heterolora import run as experiment
from heterolora.cli import report
from heterolora.config import plugins
from heterolora.loggers import mlflow, wandb_report
from heterolora.loggers.base import Tolerant
from heterolora.loggers.wandb import Wandb
from heterolora.records.read import read
from heterolora.records.record import read_rows, read_run
from heterolora.training.trainer import Trainer

NAMES = ("csv", "mlflow", "tensorboard")
ALL = f"tracking=[{','.join(NAMES)}]"
SEARCH = ("parameters", "degenerate", "tied", "seconds")
Points = dict[str, list[tuple[int, float]]]
"""Of each name, the step and the value of every point."""


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(mlflow.URI, raising=False)
        with children.server():
            yield


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


def in_tensorboard(directory: Path) -> Points:
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def stored(directory: Path) -> tuple[MlflowClient, Any]:
    """A client of the local store, and the run that the record names."""
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


def test_several_at_once(command_line: CommandLine, tiny: list[str], tmp_path: Path) -> None:
    done = command_line(*tiny, ALL, "training.log_every=3", "tracking.mlflow.project=p")
    assert (done.code, done.err) == (0, "")
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    assert_whole(directory)
    config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    assert config["tracking"] == {"csv": {}, "mlflow": {"project": "p"}, "tensorboard": {}}
    result = json.loads((directory / "run.json").read_text())

    events = EventAccumulator(str(directory / "tensorboard"), {"images": 0}).Reload()
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


def text(events: EventAccumulator, tag: str) -> str:
    (event,) = events.Tensors(tag)
    (value,) = event.tensor_proto.string_val
    return str(value.decode().removeprefix("```\n").removesuffix("\n```"))


def test_halves_have_columns_of_their_own(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    done = command_line(*tiny, "tracking=csv", "evaluation.split=halves", "strategy=static")
    assert (done.code, done.out.count("warning: metrics.csv")) == (0, 0)
    (file,) = (tmp_path / "outputs").rglob("metrics.csv")
    epochs = pd.read_csv(file).query("event == 'epoch'")
    assert epochs[["report_loss", "report_accuracy"]].notna().all(axis=None)


@pytest.fixture
def settings(checkpoints: dict[str, Path], pairs: Path) -> list[str]:
    """Two epochs of 8 steps, searches before every second."""
    return [
        *(f"model.path={checkpoints['opt-post-norm']}", "task=rte", f"task.path={pairs}"),
        *("device=cpu", "training.log_every=3", "training.epochs=2", "training.batch_size=8"),
        "proxy.num_batches=2",
    ]


FATES = {
    "killed in a step": (functools.partial(children.in_step, 15), -signal.SIGKILL),
    "killed in a search": (functools.partial(children.in_search, 8), -signal.SIGKILL),
    "stopped": (functools.partial(children.in_step, 15, signal.SIGTERM), 143),
}
"""What happens after the state of step 8 was saved, and the exit code."""


@pytest.mark.slow
@pytest.mark.parametrize("fate", FATES)
def test_a_resumed_run_has_every_point_once(fate: str, settings: list[str], tmp_path: Path) -> None:
    command = Command(composed(*settings, ALL), tmp_path / "outputs")
    happens, code = FATES[fate]
    assert command.run(fate=happens) == code
    assert "INFO" not in command.log.read_text()  # of MLflow, which makes its tables
    directory = command.directory
    _, before = stored(directory)
    assert before.info.status == ("KILLED" if fate == "stopped" else "RUNNING")
    assert max(step for step, _ in in_csv(directory)["train/loss"]) > 8
    assert command.run() == 0, command.log.read_text()
    assert "resumed at step" in command.log.read_text()
    assert "INFO" not in command.log.read_text()
    assert_whole(directory, seconds=False)
    client, run = stored(directory)
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    assert len(client.search_runs([run.info.experiment_id])) == 1
    told = text_of_last(EventAccumulator(str(directory / "tensorboard")).Reload())
    assert told["status"] == "finished"


def text_of_last(events: EventAccumulator) -> Any:
    *_, event = events.Tensors("summary/text_summary")
    (value,) = event.tensor_proto.string_val
    return json.loads(value.decode().strip("`\n"))


def test_what_is_chosen_when_a_run_is_resumed_has_all_of_it(
    settings: list[str], tmp_path: Path
) -> None:
    local = Command(composed(*settings, "tracking=local"), tmp_path / "outputs")
    assert local.run(fate=functools.partial(children.in_step, 15)) == -signal.SIGKILL
    assert not (local.directory / "metrics.csv").exists()
    followed = Command(composed(*settings, ALL), tmp_path / "outputs")
    assert followed.run() == 0, followed.log.read_text()
    assert "resumed at step 8" in followed.log.read_text()
    assert_whole(followed.directory)


def test_a_run_from_before_several_could_be_chosen_goes_on(
    settings: list[str], tmp_path: Path
) -> None:
    command = Command(composed(*settings, "tracking=csv"), tmp_path / "outputs")
    assert command.run(fate=functools.partial(children.in_step, 15)) == -signal.SIGKILL
    file = command.directory / "config.yaml"
    config = OmegaConf.load(file)
    before = {"name": "wandb", "project": "p", "entity": None, "group": None, "tags": ["a"]}
    config.tracking = before
    OmegaConf.save(config, file)
    assert command.run() == 0, command.log.read_text()
    assert "resumed at step 8" in command.log.read_text()
    assert_same(in_csv(command.directory), recorded(command.directory))
    del before["name"]
    assert read(command.directory).tracking == {"wandb": before}


def test_a_run_that_starts_over_leaves_nothing_of_the_one_before(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    short = [*tiny, "training.epochs=1", "strategy=static"]
    assert command_line(*short, ALL).code == 0
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    (directory / "wandb-id").write_text("0123abcd")
    _, before = stored(directory)
    assert command_line(*short, ALL, "rerun=true").code == 0
    assert_whole(directory)
    _, after = stored(directory)
    assert before.info.run_id != after.info.run_id
    assert command_line(*short, "tracking=local", "rerun=true").code == 0
    left = {path.name for path in directory.iterdir()}
    assert not left & {"metrics.csv", "tensorboard", "mlflow-id", "wandb-id"}


def test_a_store_that_breaks_is_told_once_and_left_alone(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables are gone in the middle of the run."""
    descend = Trainer.training_step

    def destructive(self: Trainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.progress.step == 5:
            with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as database:
                database.execute("ALTER TABLE metrics RENAME TO elsewhere")
        return descend(self, batch)

    monkeypatch.setattr(Trainer, "training_step", destructive)
    done = command_line(*tiny, ALL, "training.log_every=3")
    assert done.code == 0, done.err
    assert done.out.count("warning: ") == 1
    assert "warning: MLflow failed and is switched off for the rest of the run" in done.out
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    assert_same(in_csv(directory), recorded(directory))
    assert_same(in_tensorboard(directory), recorded(directory))


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
    uri: str,
    command_line: CommandLine,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "broken.db").write_text("no database, whatever it is called")
    monkeypatch.setenv(mlflow.URI, uri.format(broken=tmp_path / "broken.db"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = command_line(*tiny, "tracking=mlflow")
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
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if given is not None:
        monkeypatch.setenv(mlflow.URI, given)
    config = experiment.prepare(composed(*tiny))
    info = experiment.run_info(config, Path("somewhere"))
    info = dataclasses.replace(info, config={**info.config, "offline": offline})
    expected = Path(config.output).absolute() / "mlflow.db"
    assert mlflow._local(info) == (expected if local else None)


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_package_that_is_missing_is_told_before_anything_is_loaded(
    name: str, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    without = lambda module, *rest: None if module == name else find(module, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    (line,) = problems(composed(*tiny, f"tracking=[csv,{name}]"))
    assert line == (
        f"tracking={name}: needs the package {name}; pip install 'heterolora[{name}]', or choose "
        "tracking=local"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tracking=tensorbord"], "tracking=tensorbord: there is no such tracking; did you mean"),
        (["tracking=[csv,nope]"], "tracking=nope: there is no such tracking; choose one of csv,"),
        (
            ["tracking=null"],
            "tracking=null: there is no such tracking; choose one of csv, figures,",
        ),
        (["tracking.project=x"], "tracking.project: unknown key; did you mean tracking.wandb.proj"),
        (
            ["tracking=mlflow", "tracking.mlflow.projct=x"],
            "tracking.mlflow.projct: unknown key; did you mean tracking.mlflow.project?",
        ),
        (["tracking=csv", "tracking.wandb.project=x"], "tracking.wandb.project: unknown key; "),
        (
            ["+tracking.project=x"],
            "tracking.project: unknown key; did you mean tracking.mlflow.project or tracking.wandb",
        ),
        (["+tracking.dashboard={}"], "tracking.dashboard: unknown key; did you mean tensorboard?"),
        (["+tracking.csv=3"], "tracking.csv=3: must be a mapping of settings; choose it with"),
        (["tracking=wandb", "tracking.wandb.project=''"], "tracking.wandb.project='': must not be"),
        (["tracking=wandb", "tracking.wandb.tags=3"], "tracking.wandb.tags=3: must be a list"),
        (
            ["tracking=mlflow", "tracking.mlflow.project=x", "training.epochs=0"],
            "training.epochs=0: must be greater than 0",
        ),
    ],
)
def test_each_mistake_is_one_line(
    overrides: list[str], said: str, command_line: CommandLine, tiny: list[str]
) -> None:
    done = command_line(*[one for one in tiny if one != "tracking=local"], *overrides)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {said}")


def test_none_is_local(tiny: list[str]) -> None:
    for override in ("tracking=local", "tracking=[]", "tracking=[local]"):
        assert experiment.prepare(composed(*tiny, override)).tracking == {}


def test_a_sweep_takes_lists_as_well(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    short = [*tiny, "training.epochs=1", "strategy=homogeneous", "seed=0,1"]
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
        "import sys; from heterolora.config import plugins\n"
        "[section().build() for section in plugins.trackers().values()]\n"
        f"print({libraries} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


OLD: Mapping[str, Any] = {"name": "wandb", "project": "old", "entity": "team", "group": None}


@pytest.mark.parametrize(
    ("tracking", "project", "entity"),
    [
        ({**OLD, "tags": []}, "old", "team"),
        ({**OLD, "name": "local", "project": "heterolora"}, "heterolora", None),
        ({"wandb": {"project": "new", "entity": "team", "group": None, "tags": []}}, "new", "team"),
        ({}, Wandb().project, None),
    ],
)
def test_a_report_goes_where_its_runs_went(
    tracking: dict[str, Any],
    project: str,
    entity: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = write_run(tmp_path, "name=table2", "strategy=dynamic", accuracies=[0.5])
    config = edited(OmegaConf.load(directory / "config.yaml"))
    config.tracking = tracking
    OmegaConf.save(config, directory / "config.yaml")
    logged: list[Any] = []
    monkeypatch.setattr(wandb_report, "log_report", lambda *given: logged.append(given))
    report.main([str(tmp_path), "--wandb"])
    ((*_, there, _),) = logged
    assert (there["project"], there["entity"], there["group"]) == (project, entity, None)
