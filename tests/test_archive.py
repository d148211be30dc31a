"""An archive says what the run directories say, and keeps their runs from being run again."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CONF, ROOT, CommandLine
from records import write_run

from heterolora.errors import RecordError
from heterolora.harness.cli.commands import archive as command
from heterolora.harness.records import archive
from heterolora.harness.records.archive import restore, write_archive
from heterolora.harness.records.load import load
from heterolora.harness.records.read import read, read_archive
from heterolora.harness.reporting.arms import arms
from heterolora.harness.reporting.frame import frame, runs_of
from heterolora.harness.reporting.layout import read as read_table
from heterolora.harness.reporting.report import Report
from heterolora.harness.reporting.tables.build import report
from heterolora.harness.reporting.tables.render import FORMATS

SITES = [f"layers.{layer}.{role}" for layer in range(3) for role in "qv"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of three arms of Table 2."""
    folder = tmp_path_factory.mktemp("archive") / "outputs"
    for seed in (0, 13):
        common = [f"seed={seed}", "name=table2", "tracking=local", "task=starter_paraphrase"]
        write_run(folder, *common, "strategy=homogeneous", accuracies=[0.7, 0.8 + seed / 1000])
        for strategy, searches in (("static", 1), ("dynamic", 3)):
            scores = [
                {site: (place * 7 + search + seed) % 5 / 3 for place, site in enumerate(SITES)}
                for search in range(searches)
            ]
            on = [sorted(one, key=one.__getitem__)[-2:] for one in scores]
            settings = ["proxy=gradnorm", f"strategy={strategy}"]
            accuracies = [0.6, 0.7 + seed / 500]
            write_run(folder, *common, *settings, accuracies=accuracies, scores=scores, enabled=on)
    return folder


def made(folder: Path) -> Report:
    """The report of Table 2 from whatever is in a folder."""
    runs, problems = load(folder)
    table = read_table(CONF / "experiment" / "table2.yaml")
    return report(table, runs_of(table, frame(runs)), problems)


def test_a_report_of_the_archive_is_that_of_the_directories(outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "table2.jsonl.gz"
    command.main([str(outputs), str(file)])
    assert len(gzip.decompress(file.read_bytes()).splitlines()) == 6
    before, now = made(outputs), made(file.parent)
    *notes, blind = now.notes
    assert notes == before.notes
    assert blind.startswith("1 arm that search repeatedly: the records have no losses of single")
    for style, form in FORMATS.items():
        assert form(replace(now, notes=notes)) == form(before), style


def test_labels_do_not_depend_on_what_runs_have_in_common(outputs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(outputs, tmp_path / "outputs")
    more = ["name=table2", "strategy=static", "strategy.enable_rate=0.5", "training.batch_size=4"]
    write_run(folder, *more, "search_space.scaling=rslora", "seed=0", accuracies=[0.5])
    write_archive(tmp_path / "kept" / "a.jsonl.gz", load(folder)[0])
    kept = [arm.label for arm in arms(frame(load(tmp_path / "kept")[0]))]
    assert kept == [arm.label for arm in arms(frame(load(folder)[0]))]


def test_what_comes_back_is_what_was_kept(outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl.gz"
    write_archive(file, load(outputs)[0])
    back = tmp_path / "back"
    command.main([str(file), str(back)])
    for before in sorted(outputs.rglob("run.json")):
        now = back / before.parent.relative_to(outputs)
        one, other = read(before.parent), read(now)
        assert one.result == other.result
        assert one.epochs == other.epochs
        assert one.searches == other.searches
        assert one.provenance == other.provenance
        assert other.steps == []
        without = {"output", "tracking"}
        assert {k: v for k, v in one.config.items() if k not in without} == {
            k: v for k, v in other.config.items() if k not in without
        }
    assert not any(restore(run, back) for run in read_archive(file))


def test_runs_are_added_once_in_an_order_of_their_own(outputs: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.jsonl.gz", tmp_path / "parts.jsonl.gz"
    runs = load(outputs)[0]
    assert write_archive(whole, runs) == 6
    assert write_archive(parts, runs[4:]) == 2
    assert write_archive(parts, runs[:5]) == 4
    assert write_archive(parts, runs) == 0
    assert parts.read_bytes() == whole.read_bytes()


def test_a_run_that_is_in_two_places_counts_once(outputs: Path, tmp_path: Path) -> None:
    both = shutil.copytree(outputs, tmp_path / "both")
    runs = load(outputs)[0]
    write_archive(both / "first.jsonl.gz", runs[:4])
    write_archive(both / "second.jsonl.gz", runs)
    assert len(load(both)[0]) == 6
    shutil.rmtree(both / "table2")
    assert len(load(both)[0]) == 6


def test_nothing_of_the_machine_is_kept(outputs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(outputs, tmp_path / "secret-folder")
    for file in folder.rglob("config.yaml"):
        file.write_text(file.read_text().replace("path: null", "path: /home/somebody/data"))
    for file in folder.rglob("provenance.json"):
        origin = json.loads(file.read_text())
        model = {"path": "/home/somebody/model", "fingerprint": "f"}
        origin |= {"model": model, "resumed": [{"step": 3, "code": None, "model": model}]}
        file.write_text(json.dumps(origin))
    kept = tmp_path / "kept.jsonl.gz"
    write_archive(kept, load(folder)[0])
    content = gzip.decompress(kept.read_bytes()).decode()
    assert "table2" in content
    assert "somebody" not in content
    assert str(tmp_path) not in content
    assert read_archive(kept)[0].provenance.row()["model"] == {"path": None, "fingerprint": "f"}


def test_a_restored_run_is_not_run_again(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    """Nor where model and data lie elsewhere: a run is what its settings and contents are."""
    given = dict(override.split("=", 1) for override in tiny)
    short = [*tiny, "training.epochs=1", "training.limit_examples=16", "strategy=static"]
    assert command_line(*short).code == 0
    outputs, file = Path(given["output"]), tmp_path / "kept.jsonl.gz"
    write_archive(file, load(outputs)[0])
    model = shutil.copytree(given["model.path"], tmp_path / "elsewhere")
    data = shutil.copytree(given["task.path"], tmp_path / "moved")
    command.main([str(file), str(tmp_path / "other")])
    places = [f"model.path={model}", f"task.path={data}", f"output={tmp_path / 'other'}"]
    done = command_line(*short, *places)
    assert done.code == 0
    assert "already finished" in done.out
    again = command_line(*short, *places, "rerun=true")
    assert again.code == 0
    assert not list((tmp_path / "other").rglob("restored"))
    assert list((tmp_path / "other").rglob("best.safetensors"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no run"),
        (b"plain", "is damaged"),
        (gzip.compress(b""), "has no run"),
        (gzip.compress(b"[]\n"), "line 1 is damaged"),
        (gzip.compress(b'{"config":{}}\n'), "line 1 is damaged"),
    ],
)
def test_a_damaged_archive_is_refused_in_one_line(
    content: bytes, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "kept.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(RecordError, match=said) as raised:
        read_archive(file)
    assert "\n" not in str(raised.value)


def test_a_line_of_another_schema_is_refused(outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl.gz"
    write_archive(file, load(outputs)[0])
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content.replace(b'"schema_version":1', b'"schema_version":9')))
    with pytest.raises(RecordError, match="schema_version=9, but this version reads 1"):
        read_archive(file)


def test_an_archive_of_an_older_version_is_left_out_with_a_remedy(tmp_path: Path) -> None:
    """Its runs must not vanish from a report in silence."""
    file = tmp_path / "kept.jsonl"
    file.write_text('{"archive":1,"common":{}}\n')
    (tmp_path / "rows.jsonl").write_text('{"text": "not an archive"}\n')
    runs, (problem,) = load(tmp_path)
    assert runs == []
    assert problem.startswith(f"left out: {file}: is an archive of an older version; put its runs")


def test_a_cut_archive_leaves_out_nothing_in_silence(outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl.gz"
    write_archive(file, load(outputs)[0])
    file.write_bytes(file.read_bytes()[:-40])
    runs, problems = load(tmp_path)
    assert runs == []
    assert len(problems) == 1
    assert problems[0].startswith(f"left out: {file}: ")


def test_an_archive_too_large_for_a_repository_is_refused(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST", 500)
    with pytest.raises(RecordError, match=r"above the limit of 500 per file"):
        write_archive(tmp_path / "kept.jsonl.gz", load(outputs)[0])
    assert not list(tmp_path.iterdir())


def test_what_is_neither_is_said(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"one must be an archive, which ends in \.jsonl\.gz"):
        command.main([str(outputs), str(tmp_path)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="has no finished run"):
        command.main([str(tmp_path / "empty"), str(tmp_path / "x.jsonl.gz")])
    assert (ROOT / "scripts" / "archive.py").is_file()
