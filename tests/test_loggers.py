"""What a run shows on the screen, and what W&B gets."""

import dataclasses
import io
import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CommandLine, tiny_config
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from heterolora.drawing.grid import Grid, on_frequency
from heterolora.drawing.heatmap import heatmap
from heterolora.harness.loggers.base import Loggers, RunInfo
from heterolora.harness.loggers.console import ConsoleLogger, headline, print_summary
from heterolora.harness.loggers.progress import Display, Screen
from heterolora.harness.loggers.wandb_report import log_report
from heterolora.harness.records.record import read_rows
from heterolora.harness.records.schema import RunRecord, SearchRow
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.outcome import run_info

EPOCH = {
    "step": 459,
    "epoch": 1,
    "train_loss": 0.61,
    "validation_loss": 0.52,
    "accuracy": 0.8125,
    "f1": 0.875,
}
RUN: dict[str, Any] = {
    "status": "finished",
    "seed": 0,
    "identity": "01234567",
    "steps": 918,
    "primary_metric": "accuracy",
    "best": EPOCH,
    "last": {**EPOCH, "epoch": 2, "accuracy": 0.75},
    "parameters": {
        "budget": 196608,
        "enabled": 196600,
        "sites": 48,
        "sites_enabled": 12,
        "head": 7,
    },
    "seconds": {"training": 12.34, "searching": 5.0, "evaluating": 1.0},
    "peak_memory_bytes": 3 * 2**20,
}
SEARCH: dict[str, Any] = {
    "step": 92,
    "epoch": 1,
    "proxy": {"name": "snip"},
    "scores": {},
    "ranks": {},
    "parameters": 0,
    "tied": 0,
    "degenerate": False,
    "seconds": 0.1,
}


@pytest.fixture(scope="module")
def info(checkpoints: dict[str, Path], pairs: Path) -> RunInfo:
    tiny = checkpoints["opt-post-norm"], pairs, Path("somewhere")
    config = experiment.prepare(tiny_config(*tiny, "task=mrpc"))
    return run_info(config, Path("/somewhere/" + "long/" * 30))


def test_on_frequency_by_hand() -> None:
    ranks = [
        {"layers.0.q": 8, "layers.0.v": 0, "layers.11.v": 0},
        {"layers.0.q": 8, "layers.0.v": 4, "layers.11.v": 0},
    ]
    shares = on_frequency(ranks)
    assert shares == {"layers.0.q": 1.0, "layers.0.v": 0.5, "layers.11.v": 0.0}
    grid = Grid.of(shares)
    assert (grid.layers, grid.roles) == ((0, 11), ("q", "v"))
    assert np.array_equal(grid.values, [[1.0, 0.5], [np.nan, 0.0]], equal_nan=True)
    assert grid.role_means() == {"q": 1.0, "v": 0.25}


def test_roles_stand_in_one_order_everywhere() -> None:
    sites = ["layers.0.cut", "layers.0.res1", "layers.0.v", "layers.1.in", "layers.1.up"]
    sites += ["layers.1.gate", "layers.1.o", "layers.1.res2", "layers.1.q", "layers.1.down"]
    shares = on_frequency([dict.fromkeys([*sites, "layers.1.k"], 2)])
    assert list(Grid.of(shares).roles) == [
        *"qkvo",
        "gate",
        "up",
        "down",
        "res1",
        "res2",
        "in",
        "cut",
    ]
    scores = {site: float(index) for index, site in enumerate(sites)}
    ranks = dict.fromkeys(sites, 0)
    backwards = dict(reversed(scores.items()))
    assert np.array_equal(heatmap(scores, ranks), heatmap(backwards, ranks))


def summary(info: RunInfo, layers: int) -> str:
    console = Console(file=io.StringIO(), width=80)
    ranks = {f"layers.{layer}.{role}": 8 for layer in range(layers) for role in "qv"}
    row = SearchRow.model_validate({**SEARCH, "scores": dict.fromkeys(ranks, 1.0), "ranks": ranks})
    print_summary(console, info, RunRecord.model_validate(RUN), [row] * 3)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_tells_what_was_asked_and_what_came_out(info: RunInfo) -> None:
    lines = summary(info, layers=3).splitlines()
    said = {line.split("  ")[0]: line for line in lines if line}
    assert "mrpc" in said["task"]
    assert f"model {info.model}, seed 0" in said["task"]
    assert "dynamic, proxy gradnorm, 3 searches, 12 of 48 sites on" in said["allocation"]
    assert "196,600 adapter parameters on, budget 196,608; head 7" in said["parameters"]
    assert "accuracy 0.8125, f1 0.8750 (epoch 1" in said["best epoch"]
    assert "accuracy 0.7500, f1 0.8750 (epoch 2" in said["last epoch"]
    assert "training 12.3, searching 5.0" in said["seconds"]
    assert "3 MiB" in said["seconds"]
    assert said["record"].endswith("long/" * 29 + "long")  # in one piece, to be copied
    table = summary(info, layers=3).splitlines()[-5:]
    assert [line.split() for line in table] == [
        ["layer", "q", "v"],
        *([str(layer), "100", "100"] for layer in range(3)),
        ["mean", "100", "100"],
    ]


def test_the_summary_is_legible_for_24_layers(info: RunInfo) -> None:
    assert "…" not in summary(info, layers=24)


def test_an_epoch_is_one_line_and_a_tie_is_told_once(info: RunInfo) -> None:
    console = Console(file=io.StringIO(), width=80)
    logger = ConsoleLogger(Screen(Display(console)), info, steps_per_epoch=459)
    logger.log_search(SEARCH)
    logger.log_step({"step": 10, "epoch": 1, "loss": 0.7})
    for _ in range(2):
        logger.log_search({**SEARCH, "tied": 5})
    logger.log_epoch({**EPOCH, "epoch": 1})
    logger.close(RUN)
    assert isinstance(console.file, io.StringIO)
    tie, epoch = console.file.getvalue().splitlines()
    assert "warning: step 92: 5 sites tie" in tie
    assert "accuracy 0.8125" in epoch


@pytest.mark.parametrize(("pool", "said"), [("combined", ""), ("separated", " within a pool")])
def test_a_degenerate_search_says_among_whom(pool: str, said: str, info: RunInfo) -> None:
    console = Console(file=io.StringIO(), width=80)
    logger = ConsoleLogger(Screen(Display(console)), dataclasses.replace(info, pool=pool), 9)
    logger.log_search({**SEARCH, "degenerate": True, "tied": 2})
    logger.close(RUN)
    assert isinstance(console.file, io.StringIO)
    assert f"all scores of snip are equal{said}, so" in console.file.getvalue()


def test_a_heatmap_shows_scores_and_ranks() -> None:
    scores = {f"layers.{layer}.{role}": float(layer) for layer in range(3) for role in "qv"}
    off = dict.fromkeys(scores, 0)
    image = heatmap(scores, off)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 4
    assert not np.array_equal(image, heatmap(scores, {**off, "layers.1.q": 8}))
    assert not np.array_equal(image, heatmap({**scores, "layers.1.q": 9.0}, off))
    deeper = {f"layers.{layer}.q": 0.0 for layer in range(24)}
    assert heatmap(deeper, dict.fromkeys(deeper, 2)).shape[0] > image.shape[0]


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A home without a W&B key; should an upload be tried all the same, it finds no one."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    yield
    wandb.teardown()


def records(file: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: LevelDB's log format after 7 bytes of header."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if left < 7 or kind == 0:  # the padding at the end of a block
            position += left
            continue
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def kept_in(folder: Path) -> list[Any]:
    """The records of an offline run; W&B's own process may write the last ones a little later."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        kept = list(records(next(folder.glob("*.wandb"))))
        if any(record.HasField("exit") for record in kept):
            return kept
        time.sleep(0.1)
    raise AssertionError("the run has no end")


def items(rows: Any) -> dict[str, Any]:
    return {row.key or "/".join(row.nested_key): json.loads(row.value_json) for row in rows}


def test_wandb_offline(
    train: CommandLine,
    tmp_path: Path,
    no_key: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-mine")
    done = train("tracking=wandb", "tracking.wandb.project=p", "tracking.wandb.tags=[a]")
    directory = done.record
    (folder,) = (directory / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder}" in done.out
    (file,) = folder.glob("*.wandb")
    kept = list(records(file))
    (run,) = (record.run for record in kept if record.HasField("run"))
    assert (run.run_id, run.display_name) == ((directory / "wandb-id").read_text(), directory.name)
    assert (run.project, run.run_group) == ("p", "main/rte")
    assert re.fullmatch("dynamic-gradnorm-[0-9a-f]{8}", run.job_type)
    assert set(run.tags) == {"main", "rte", "dynamic", "gradnorm", "seed-0", "a"}
    config = items(run.config.update)
    del config["_wandb"]
    assert config == OmegaConf.load(directory / "config.yaml")

    history = [items(record.history.item) for record in kept if record.HasField("history")]
    lines = read_rows(directory / "metrics.jsonl")
    for event, ours, theirs in (
        ("step", "loss", "train/loss"),
        ("epoch", "accuracy", "validation/accuracy"),
        ("epoch", "validation_loss", "validation/loss"),
    ):
        kept_here = [(row["step"], row[ours]) for row in lines if row["event"] == event]
        assert [(row["step"], row[theirs]) for row in history if theirs in row] == kept_here
    searches = read_rows(directory / "allocations.jsonl")
    tables = [row["search/allocation/path"] for row in history if "search/parameters" in row]
    assert len(tables) == len(searches) == 8
    for table, search in zip(tables, searches, strict=True):
        rows = json.loads((folder / "files" / table).read_text())["data"]
        found = {f"layers.{layer}.{role}": (score, rank) for layer, role, score, rank in rows}
        assert found == {
            site: (score, search["ranks"][site]) for site, score in search["scores"].items()
        }
    assert all(
        (folder / "files" / row["search/heatmap/path"]).is_file()
        for row in history
        if "search/heatmap/path" in row
    )

    summaries = [items(record.summary.update) for record in kept if record.HasField("summary")]
    ended = next(row for row in summaries if "status" in row)
    assert ended["best"] == json.loads((directory / "run.json").read_text())["best"]
    assert [record.exit.exit_code for record in kept if record.HasField("exit")] == [0]
    assert_nowhere("a-secret-of-mine", tmp_path)


def test_a_report_offline(tmp_path: Path, no_key: None) -> None:
    picture = tmp_path / "frequency.png"
    Image.new("RGB", (4, 4)).save(picture)
    rows = [{"row": "r2 homogeneous", "mean": 83.7}, {"row": "r2 dynamic", "mean": None}]
    console = Console(file=io.StringIO(), width=1000)
    tracking = {"project": "p", "entity": None, "group": None}
    figures = [picture, tmp_path / "frequency.svg"]
    log_report("Table 4", {"Cells, all": rows}, figures, tmp_path, tracking, console)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder}" in console.file.getvalue()
    kept = kept_in(folder)
    (run,) = (record.run for record in kept if record.HasField("run"))
    assert (run.display_name, run.project, run.job_type) == ("Table 4", "p", "report")
    history = [items(record.history.item) for record in kept if record.HasField("history")]
    logged = {key: value for row in history for key, value in row.items()}
    table = json.loads((folder / "files" / logged["tables/Cells-all/path"]).read_text())
    assert table["columns"] == ["row", "mean"]
    assert table["data"] == [["r2 homogeneous", 83.7], ["r2 dynamic", None]]
    assert (folder / "files" / logged["figures/frequency/path"]).is_file()


def assert_nowhere(secret: str, directory: Path) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_a_headline_is_the_best_epoch_and_all_of_the_time() -> None:
    assert headline(RunRecord.model_validate(RUN)) == "accuracy 0.8125 in 18 s"


class Follower:
    """A logger that notes what it is told, and fails at the end."""

    def __init__(self, name: str, heard: list[tuple[str, str]]) -> None:
        self.name, self.heard = name, heard

    def __getattr__(self, event: str) -> Any:
        return lambda row: self.heard.append((self.name, event))

    def close(self, run: Any) -> None:
        self.heard.append((self.name, "close"))
        raise RuntimeError(self.name)


def test_many_loggers_are_one_and_each_is_closed_whatever_the_others_do() -> None:
    heard: list[tuple[str, str]] = []
    both = Loggers([Follower("first", heard)])
    both.add(Follower("second", heard))
    both.log_step({})
    both.log_epoch({})
    both.log_search({})
    with pytest.raises(RuntimeError):
        both.close(RUN)
    events = ["log_step", "log_epoch", "log_search", "close"]
    assert heard == [(name, event) for event in events for name in ("first", "second")]
