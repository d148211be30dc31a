"""Every file that a command reads, damaged in every way: the good result, or one line and 2.

The cases are generated from the files that a run, a model, an archive, an export and data consist
of. A seed draws those of the default suite, and each file with each damage and each command is
`slow`; all products of them are `exhaustive`.
"""

import functools
import io
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from conftest import Finished, composed, sentence_pairs, write_parquet
from damages import DAMAGES, Damage, copied, wrong_types, wrote
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers import AutoModelForSequenceClassification

import heterolora
from heterolora.harness.cli import train as command
from heterolora.harness.cli.commands import archive, export, predict, report, suggest
from heterolora.harness.loggers.progress import Display, Screen
from heterolora.harness.records.record import read_run
from heterolora.harness.runs import execute as experiment
from heterolora.training.trainer import Trainer

SEED = 16
SHORT = ["training.epochs=2", "training.max_steps=10", "strategy=static"]


@dataclass(frozen=True)
class Scene:
    """Files, and the commands that read them.

    Attributes:
        whole: a folder with the files; copied before one of them is damaged.
        commands: by name, each given the copy.
        more: further damages, by the name of the file.
    """

    whole: Path
    commands: Mapping[str, Callable[[Path], Any]]
    more: Mapping[str, Mapping[str, Damage]] = field(default_factory=dict)

    def cases(self, everything: bool = False) -> Iterator[tuple[str, str, Damage, str]]:
        """A file, a damage by its name, and a command.

        Every file with every damage and with every command, each pair once: the commands take
        turns. Of the further damages a fourth, of which each key of a file and each value has some.
        """
        files = sorted(path for path in self.whole.rglob("*") if path.is_file())
        for at, file in enumerate(files):
            name = str(file.relative_to(self.whole))
            more = list(self.more.get(name, {}).items())
            if not everything:
                more = [one for number, one in enumerate(more) if number % 4 == number // 8 % 4]
            for turn, (damage, harm) in enumerate([*DAMAGES.items(), *more], start=at):
                for number, one in enumerate(self.commands):
                    if everything or turn % len(self.commands) == number:
                        yield name, damage, harm, one


def train(cfg: DictConfig, **changes: str) -> None:
    """`python train.py ...`, but for its composing."""
    changed = OmegaConf.merge(cfg, OmegaConf.from_dotlist([f"{k}={v}" for k, v in changes.items()]))
    assert isinstance(changed, DictConfig)
    command.single(changed)


@pytest.fixture(scope="module")
def cfg(checkpoints: dict[str, Path], pairs: Path) -> DictConfig:
    model = f"model.path={checkpoints['opt-post-norm']}"
    some = ["tracking=local", "device=cpu", "training.batch_size=8", "proxy.num_batches=2"]
    return composed(model, "task=rte", f"task.path={pairs}", *some, *SHORT)


def made(cfg: DictConfig, output: Path) -> Path:
    """A run; returns its directory."""
    changed = OmegaConf.merge(cfg, {"output": str(output)})
    assert isinstance(changed, DictConfig)
    return experiment.run(changed, Screen(Display(Console(file=io.StringIO())))).directory


@pytest.fixture(scope="module")
def outputs(cfg: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    made(cfg, folder)
    return folder


def only(folder: Path) -> Path:
    """The one run below a folder, whatever is left of it."""
    (checkpoint,) = folder.rglob("checkpoint")
    return checkpoint.parent


def finished(cfg: DictConfig, outputs: Path, _: pytest.MonkeyPatch) -> Scene:
    """A finished run: run again, reported, archived, asked, exported."""
    return Scene(
        outputs,
        {
            "train": lambda there: train(cfg, output=str(there)),
            "report": lambda there: report.main([str(there)]),
            "archive": lambda there: archive.main([str(there), str(there.parent / "a.jsonl.gz")]),
            "predict": lambda there: predict.main([str(only(there)), "--out", f"{there}.p"]),
            "export": lambda there: export.main(
                [str(only(there)), f"{there}.e", "--to", "heterolora"]
            ),
        },
    )


def interrupted(cfg: DictConfig, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A run that has two checkpoints to go on from."""
    record = Trainer.record

    def struck(self: Trainer, loss: Any) -> None:
        if self.progress.step == 7:
            raise KeyboardInterrupt
        record(self, loss)

    folder = outputs.parent / "interrupted"
    if not folder.exists():
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "record", struck)
            every = OmegaConf.merge(cfg, {"checkpoint": {"every_minutes": 1e-9}})
            assert isinstance(every, DictConfig)
            with pytest.raises(KeyboardInterrupt):
                made(every, folder)
    return Scene(folder, {"train": lambda there: train(cfg, output=str(there))})


def model(cfg: DictConfig, outputs: Path, _: pytest.MonkeyPatch) -> Scene:
    """A folder in Hugging Face format."""
    whole = Path(cfg.model.path)
    more = {
        name: {said: wrote(content) for said, content in wrong_types(whole / name)}
        for name in ("config.json", "tokenizer_config.json", "tokenizer.json")
    }
    for said in FOUND_BY_COMPUTING:
        for damages in more.values():
            damages.pop(said, None)

    def trained(there: Path) -> None:
        shutil.rmtree(f"{there}.o", ignore_errors=True)
        train(cfg, output=f"{there}.o", **{"model.path": str(there)})

    return Scene(whole, {"train": trained}, more)


FOUND_BY_COMPUTING = (
    *("dropout=5", "dropout=-1", "num_attention_heads=-1", "post_processor.pair=[]"),
    "post_processor.special_tokens={}",
)
"""What neither transformers nor tokenizers refuses when it reads it."""


def kept(cfg: DictConfig, outputs: Path, _: pytest.MonkeyPatch) -> Scene:
    """An archive of runs: put back, reported, added to."""
    folder = outputs.parent / "kept"
    if not folder.exists():
        folder.mkdir()
        archive.main([str(outputs), str(folder / "runs.jsonl.gz")])
    more = {said: wrote(content) for said, content in wrong_types(folder / "runs.jsonl.gz")}
    return Scene(
        folder,
        {
            "put back": lambda there: archive.main([str(there / "runs.jsonl.gz"), f"{there}.back"]),
            "report": lambda there: report.main([str(there)]),
            "add": lambda there: archive.main([str(outputs), str(there / "runs.jsonl.gz")]),
        },
        {"runs.jsonl.gz": more},
    )


def exported(cfg: DictConfig, outputs: Path, _: pytest.MonkeyPatch) -> Scene:
    """What `heterolora.load` reads."""
    folder = outputs.parent / "exported"
    if not folder.exists():
        export.main([str(only(outputs)), str(folder), "--to", "heterolora"])

    def load(there: Path) -> None:
        base = AutoModelForSequenceClassification.from_pretrained(cfg.model.path)
        heterolora.load(base, there)

    return Scene(folder, {"load": load})


def own(cfg: DictConfig, outputs: Path, _: pytest.MonkeyPatch) -> Scene:
    """Examples of one's own in every format."""
    folder = outputs.parent / "own"
    if not folder.exists():
        folder.mkdir()
        rows = pd.DataFrame(sentence_pairs(60, 1))
        rows.to_csv(folder / "rows.csv", index=False)
        rows.to_csv(folder / "rows.tsv", index=False, sep="\t")
        rows.to_json(folder / "rows.jsonl", orient="records", lines=True)
        rows.to_parquet(folder / "rows.parquet")
        datasets.Dataset.from_pandas(rows).save_to_disk(folder / "saved")
    texts = composed(
        *(f"model.path={cfg.model.path}", "task=text_classification", "task.text=sentence1"),
        *("tracking=local", "device=cpu", "training.batch_size=8", "proxy.num_batches=2", *SHORT),
    )

    def trained(there: Path) -> None:
        shutil.rmtree(f"{there}.o", ignore_errors=True)
        changed = [path for path in same(folder, there) if path.parent == there]
        where = changed[0] if changed else there / "saved"
        train(texts, output=f"{there}.o", **{"task.path": str(where)})

    def suggested(there: Path) -> None:
        for file in same(folder, there):
            if file.parent == there:
                suggest.main([str(cfg.model.path), str(file), "--label", "label"])

    return Scene(folder, {"train": trained, "suggest": suggested})


def same(whole: Path, there: Path) -> list[Path]:
    """The files of a copy that are not as they were."""
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    return [
        there / file
        for file in files
        if not (there / file).is_file()
        or (there / file).read_bytes() != (whole / file).read_bytes()
    ]


SCENES = (finished, interrupted, model, kept, exported, own)


@pytest.fixture
def outcome(capfd: pytest.CaptureFixture[str]) -> Callable[[Callable[[], Any]], Finished]:
    """What a command leaves on the screen."""

    def call(act: Callable[[], Any]) -> Finished:
        capfd.readouterr()
        try:
            code = command.report_errors(act)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capfd.readouterr()
        return Finished(code, out, err)

    return call


def check(done: Finished) -> None:
    """The good result, or one line of error, after one for each record that is left out."""
    lines = [line for line in done.err.splitlines() if not line.startswith("left out: ")]
    assert (done.code, len(lines)) in ((0, 0), (2, 1)), done
    for line in lines:
        assert line.startswith("error: ")
        assert len(line) < 900
    assert "Traceback" not in done.out


def tried(
    scene: Scene,
    case: tuple[str, str, Damage, str],
    tmp_path: Path,
    outcome: Callable[[Callable[[], Any]], Finished],
) -> Finished:
    name, said, harm, one = case
    # A path of its own: what is read of a model is kept by where it lies.
    there = copied(scene.whole, tmp_path / f"case{len(list(tmp_path.iterdir()))}")
    harm(there / name)
    try:
        done = outcome(functools.partial(scene.commands[one], there))
        check(done)
    except BaseException as error:
        error.add_note(f"{name} {said}: {one}")
        raise
    return done


@pytest.fixture(params=SCENES, ids=lambda kind: kind.__name__)
def scene(
    request: pytest.FixtureRequest,
    cfg: DictConfig,
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    """Each in turn."""
    made: Scene = request.param(cfg, outputs, monkeypatch)
    return made


Outcome = Callable[[Callable[[], Any]], Finished]


def test_a_damaged_file(scene: Scene, tmp_path: Path, outcome: Outcome) -> None:
    for case in random.Random(SEED).sample(list(scene.cases()), 3):
        tried(scene, case, tmp_path, outcome)


@pytest.mark.parametrize(
    "everything",
    [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.exhaustive)],
)
def test_every_damage_of_every_file(
    everything: bool,
    scene: Scene,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    outcome: Outcome,
) -> None:
    codes = [tried(scene, case, tmp_path, outcome).code for case in scene.cases(everything)]
    with capfd.disabled():
        good = codes.count(0)
        sys.stderr.write(
            f"\n{request.node.callspec.id}: {good} results, {len(codes) - good} lines\n"
        )


def test_a_damaged_configuration_is_written_anew_when_its_run_resumes(
    cfg: DictConfig,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = interrupted(cfg, outputs, monkeypatch)
    there = copied(scene.whole, tmp_path / "there")
    file = only(there) / "config.yaml"
    whole = file.read_text()
    file.write_text(whole[:200])
    scene.commands["train"](there)
    assert OmegaConf.load(file).seed == OmegaConf.create(whole).seed
    assert f"{file}: is damaged" in caplog.text
    run = read_run(file.parent)
    assert run is not None
    assert run["status"] == "finished"


def test_a_tokenizer_of_another_model(
    cfg: DictConfig, outputs: Path, tmp_path: Path, outcome: Any
) -> None:
    there = copied(Path(cfg.model.path), tmp_path / "model")
    text = (there / "tokenizer.json").read_text()
    (there / "tokenizer.json").write_text(text.replace('"old": 15', '"old": 3999'))
    assert text != (there / "tokenizer.json").read_text()
    changes = {"model.path": str(there), "output": str(tmp_path / "outputs")}
    done = outcome(functools.partial(train, cfg, **changes))
    check(done)
    assert "its tokenizer gives token 3999, but the model has embeddings for only 32" in done.err


def test_one_row_makes_no_two_halves(
    cfg: DictConfig, tmp_path: Path, outcome: Callable[[Callable[[], Any]], Finished]
) -> None:
    data = write_parquet(
        tmp_path / "data", train=sentence_pairs(20, 1), validation=sentence_pairs(1, 2)
    )
    changes = {"task.path": str(data), "output": str(tmp_path / "outputs")}
    done = outcome(functools.partial(train, cfg, **changes, **{"evaluation.split": "halves"}))
    check(done)
    assert (
        "evaluation.split=halves: 1 validation example cannot be split into two halves; "
        in done.err
    )


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 0), ("num_attention_heads", 0)])
def test_numbers_of_which_no_model_can_be_made(
    key: str, value: int, cfg: DictConfig, tmp_path: Path, outcome: Any
) -> None:
    there = copied(Path(cfg.model.path), tmp_path / "model")
    damages = dict(wrong_types(there / "config.json"))
    file = there / "config.json"
    file.write_bytes(
        damages[f"{key}=5"].replace(f'"{key}": 5'.encode(), f'"{key}": {value}'.encode())
    )
    changes = {"model.path": str(there), "output": str(tmp_path / "outputs")}
    done = outcome(functools.partial(train, cfg, **changes))
    check(done)
    assert done.code == 2
    assert "config.json" in done.err
    assert not (tmp_path / "outputs").exists()
