"""The record of a run on disk, what the screen shows of it, and what W&B gets."""

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
import wandb
from conftest import CommandLine, composed
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from wandb.proto import wandb_internal_pb2

from heterolora import experiment
from heterolora.config import Config
from heterolora.errors import RecordError
from heterolora.tracking.console import ConsoleSink, print_summary
from heterolora.tracking.files import write_atomically
from heterolora.tracking.grid import Grid, on_frequency
from heterolora.tracking.heatmap import heatmap
from heterolora.tracking.record import (
    Record,
    check_writable,
    read_rows,
    read_run,
    run_directory,
)
from heterolora.tracking.wandb_report import log_report

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


@pytest.fixture
def config(tiny: list[str]) -> Config:
    return experiment.prepare(composed(*tiny, "task=mrpc"))


def text_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_directory_is_named_by_what_is_run(config: Config, tiny: list[str]) -> None:
    root = Path(config.output)
    name = f"dynamic-gradnorm-{config.identity()}-s0"
    assert run_directory(config) == root / "main" / "mrpc" / name
    changed = composed(*tiny, "strategy=homogeneous", "seed=13", "name=a/b")
    other = experiment.prepare(changed)
    expected = root / "a" / "b" / "rte" / f"homogeneous-{other.identity()}-s13"
    assert run_directory(other) == expected


def test_a_record_is_there_from_the_start_and_grows_line_by_line(
    config: Config, tmp_path: Path
) -> None:
    directory = tmp_path / "deep" / "run"
    record = Record(directory, config, {"code": None})
    assert OmegaConf.load(directory / "config.yaml") == config.resolved()
    assert json.loads((directory / "provenance.json").read_text()) == {"code": None}
    assert read_run(directory) == {"schema_version": 1, "status": "running"}
    record.step({"step": 1, "loss": 0.5})
    record.epoch({"step": 1, "accuracy": 1.0})
    record.search({"step": 0, "ranks": {"layers.0.q": 8}})
    # Read before the record is closed: a killed run keeps its lines.
    assert text_of(directory / "metrics.jsonl") == [
        {"event": "step", "step": 1, "loss": 0.5},
        {"event": "epoch", "step": 1, "accuracy": 1.0},
    ]
    assert read_rows(directory / "allocations.jsonl") == [{"step": 0, "ranks": {"layers.0.q": 8}}]
    record.close({"status": "finished", "error": None})
    assert read_run(directory) == {"schema_version": 1, "status": "finished", "error": None}
    assert {path.name for path in directory.iterdir()} - {"code.diff"} == {
        *("config.yaml", "provenance.json", "run.json", "metrics.jsonl", "allocations.jsonl")
    }


def test_opening_a_record_clears_what_an_unfinished_run_left(
    config: Config, tmp_path: Path
) -> None:
    first = Record(tmp_path, config, {})
    first.step({"step": 1})
    first.search({"step": 0})
    first.close({"status": "failed"})
    second = Record(tmp_path, config, {})
    assert read_run(tmp_path) == {"schema_version": 1, "status": "running"}
    assert text_of(tmp_path / "metrics.jsonl") == text_of(tmp_path / "allocations.jsonl") == []
    second.close({"status": "finished"})


def test_numbers_that_json_does_not_have_are_refused(config: Config, tmp_path: Path) -> None:
    record = Record(tmp_path, config, {})
    with pytest.raises(ValueError, match="JSON"):
        record.step({"loss": float("nan")})
    assert text_of(tmp_path / "metrics.jsonl") == []
    record.close({"status": "failed"})


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_atomically(file, "old")
    inode = file.stat().st_ino
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new \ud800")
    assert file.read_text() == "old"
    write_atomically(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_ino != inode  # another file took its place
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json"] == ["run.json"]


def test_a_place_that_cannot_be_written(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for opening in (
        lambda below: Record(below, config, {}),
        check_writable,
    ):
        with pytest.raises(RecordError, match=r"^.*cannot be written .*output=DIR$"):
            opening(tmp_path / "file" / "below")


def test_no_run_where_none_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert read_run(tmp_path / "nowhere") is None
    assert read_run(tmp_path / "file") is None
    assert read_run(tmp_path) is None
    assert read_rows(tmp_path / "nowhere.jsonl") == []
    for corrupt in ("", "{", '{"status": "fini'):
        (tmp_path / "run.json").write_text(corrupt)
        assert read_run(tmp_path) is None


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"null"])
def test_no_run_where_run_json_is_no_run(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    assert read_run(tmp_path) is None


def test_on_frequency_by_hand() -> None:
    ranks = [
        {"layers.0.q": 8, "layers.0.v": 0, "layers.11.v": 0},
        {"layers.0.q": 8, "layers.0.v": 4, "layers.11.v": 0},
    ]
    shares = on_frequency([{"ranks": row} for row in ranks])
    assert shares == {"layers.0.q": 1.0, "layers.0.v": 0.5, "layers.11.v": 0.0}
    grid = Grid.of(shares)
    assert (grid.layers, grid.roles) == ((0, 11), ("q", "v"))
    assert np.array_equal(grid.values, [[1.0, 0.5], [np.nan, 0.0]], equal_nan=True)
    assert grid.role_means() == {"q": 1.0, "v": 0.25}


def test_roles_stand_in_one_order_everywhere() -> None:
    sites = ["layers.0.cut", "layers.0.res1", "layers.0.v", "layers.1.in", "layers.1.up"]
    sites += ["layers.1.gate", "layers.1.o", "layers.1.res2", "layers.1.q", "layers.1.down"]
    shares = on_frequency([{"ranks": dict.fromkeys([*sites, "layers.1.k"], 2)}])
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


def summary(config: Config, layers: int) -> str:
    console = Console(file=io.StringIO(), width=80)
    row = {f"layers.{layer}.{role}": 8 for layer in range(layers) for role in "qv"}
    print_summary(console, config, RUN, [{"ranks": row}] * 3, Path("/somewhere/" + "long/" * 30))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_tells_what_was_asked_and_what_came_out(config: Config) -> None:
    lines = summary(config, layers=3).splitlines()
    said = {line.split("  ")[0]: line for line in lines if line}
    assert "mrpc" in said["task"]
    assert config.model.path is not None
    assert config.model.path in said["task"]
    assert "dynamic by gradnorm, 3 searches, 12 of 48" in said["allocation"]
    assert "196,600" in said["parameters"]
    assert "budget of 196,608; 7 in the head" in said["parameters"]
    assert "accuracy 0.8125, f1 0.8750 (epoch 1" in said["best epoch"]
    assert "accuracy 0.7500, f1 0.8750 (epoch 2" in said["last epoch"]
    assert "training 12.3, searching 5.0" in said["seconds"]
    assert "3 MiB" in said["seconds"]
    assert said["record"].endswith("long/" * 29 + "long")  # in one piece, to be copied
    table = summary(config, layers=3).splitlines()[-5:]
    assert [line.split() for line in table] == [
        ["layer", "q", "v"],
        *([str(layer), "100", "100"] for layer in range(3)),
        ["mean", "100", "100"],
    ]


def test_the_summary_is_legible_for_24_layers(config: Config) -> None:
    assert "…" not in summary(config, layers=24)


def test_an_epoch_is_one_line_and_a_tie_is_told_once(config: Config) -> None:
    console = Console(file=io.StringIO(), width=80)
    sink = ConsoleSink(console, config, steps_per_epoch=459)
    search = {"step": 92, "proxy": {"name": "snip"}, "degenerate": False, "tied": 0}
    sink.search(search)
    sink.step({"step": 10, "epoch": 1, "loss": 0.7})
    for _ in range(2):
        sink.search({**search, "tied": 5})
    sink.epoch({**EPOCH, "epoch": 1})
    sink.close(RUN)
    assert isinstance(console.file, io.StringIO)
    tie, epoch = console.file.getvalue().splitlines()
    assert "warning: step 92: 5 sites tie" in tie
    assert "accuracy 0.8125" in epoch


@pytest.mark.parametrize(("pool", "said"), [("combined", ""), ("separated", " within a pool")])
def test_a_degenerate_search_says_among_whom(pool: str, said: str, config: Config) -> None:
    console = Console(file=io.StringIO(), width=80)
    space = config.search_space.model_copy(update={"pool": pool})
    sink = ConsoleSink(console, config.model_copy(update={"search_space": space}), 9)
    sink.search({"step": 0, "proxy": {"name": "snip"}, "degenerate": True, "tied": 2})
    sink.close(RUN)
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
    command_line: CommandLine,
    tiny: list[str],
    tmp_path: Path,
    no_key: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-mine")
    done = command_line(*tiny, "tracking=wandb", "tracking.project=p", "tracking.tags=[a]")
    assert done.code == 0, done.err
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
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


def test_provenance_has_versions_and_no_environment(
    command_line: CommandLine, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-mine")
    assert command_line(*tiny, "strategy=static", "training.epochs=1").code == 0
    (directory,) = (tmp_path / "outputs" / "main" / "rte").iterdir()
    assert_nowhere("a-secret-of-mine", tmp_path)
    origin = json.loads((directory / "provenance.json").read_text())
    assert set(origin) == {"code", "python", "packages", "hardware", "model", "data"}
    assert set(origin["code"]) == {"commit", "dirty"}
    assert origin["packages"]["wandb"] == wandb.__version__
    assert origin["data"]["train"]["rows"] == 60
    assert origin["data"]["validation"]["rows"] == 40
    assert f"model.path={origin['model']['path']}" in tiny
    assert len(origin["model"]["revision"]) == 16
