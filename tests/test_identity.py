"""The identity of a run: what shapes its numbers, its model and data by what they are."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import ROOT, CommandLine, composed, edited, sentence_pairs, write_parquet
from huggingface_hub import constants
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from support import task

from heterolora.errors import DataError
from heterolora.harness import network
from heterolora.harness.config import Config, identity, prepare, rules, validate
from heterolora.harness.config.embedded import STARTER, TASKS
from heterolora.harness.config.fingerprints import split_fingerprint
from heterolora.harness.config.identity import shaping_settings
from heterolora.harness.data import sources
from heterolora.harness.records.load import load
from heterolora.harness.reporting.arms import arms
from heterolora.harness.reporting.frame import frame, mixed

HOUSE = ["device=cpu", "tracking=local", "task=rte", "model=opt_350m"]


@pytest.fixture(scope="module")
def house(checkpoints: dict[str, Path], pairs: Path) -> DictConfig:
    """A valid composed configuration, its model and data in folders."""
    return composed(*HOUSE, f"model.path={checkpoints['opt-post-norm']}", f"task.path={pairs}")


@pytest.fixture(scope="module")
def homogeneous(house: DictConfig) -> dict[str, Config]:
    path = f"model.path={house.model.path}"
    data = f"task.path={house.task.path}"
    cfg = composed(*HOUSE, path, data, "strategy=homogeneous")
    constant = cfg.copy()
    constant.proxy = {"name": "constant", "redraw": True}
    return {"gradnorm": prepare(cfg), "constant": prepare(constant)}


def test_homogeneous_has_no_proxy(homogeneous: dict[str, Config]) -> None:
    assert [config.proxy for config in homogeneous.values()] == [None, None]
    assert identity(homogeneous["gradnorm"]) == identity(homogeneous["constant"])


def again(config: Config) -> Config:
    """Through the text of `config.yaml` and back."""
    raw = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(config.resolved())))
    assert raw == config.resolved()
    assert isinstance(raw, dict)
    return validate({str(key): value for key, value in raw.items()}, rules.every())


def test_a_resolved_configuration_validates_again(house: DictConfig) -> None:
    config = prepare(edited(house, "optimizer.eps=1e-08"))
    assert again(config).resolved() == config.resolved()
    assert identity(again(config)) == identity(config)


def test_a_resolved_configuration_without_proxy_validates_again(
    homogeneous: dict[str, Config],
) -> None:
    assert identity(again(homogeneous["gradnorm"])) == identity(homogeneous["gradnorm"])


IGNORED = [
    "seed=7",
    "runs_per_job=2",
    "name=a/b",
    "device=auto",
    "engine=distributed",
    "output=o",
    "rerun=true",
    "offline=true",
    "training.log_every=3",
    "training.compile=true",
    "checkpoint.every_minutes=1",
    "evaluation.batch_size=7",
    "proxy.micro_batch_size=31",
    "model.name=x",
    "model.path={same_model}",
    "task.path={same_pairs}",
    "task.source=x",
    "task.subset=mrpc",
]
SHAPING = [
    "precision=bf16",
    "model.path={bert}",
    "task.name=x",
    "task.path={pairs}",
    "task.train_split=other",
    "task.validation_split=other",
    "task.sentences=[sentence2,sentence1]",
    "task.label=x",
    "task.num_labels=3",
    "task.metrics=[accuracy,matthews]",
    "task.max_length=64",
    "evaluation.split=halves",
    "evaluation.test=other",
    "search_space.projections=[q,k]",
    "search_space.lora_alpha=8",
    "search_space.shortcuts=[in]",
    "search_space.shortcut_alpha=8",
    "search_space.scaling=rslora",
    "search_space.pool=separated",
    "search_space.renormalize=enabled",
    "search_space.exclude=[layers.1.q]",
    "proxy.weights=probe",
    "proxy.num_batches=31",
    "proxy.batch_size=7",
    "proxy.source=running",
    "proxy.observe_every=3",
    "strategy.enable_rate=0.5",
    "selection.floor=1",
    "selection.normalize=role",
    "strategy.searches_per_epoch=4",
    "rank_budget.lora_rank=4",
    "rank_budget.shortcut_rank=4",
    "optimizer.learning_rate=0.001",
    "optimizer.weight_decay=0",
    "optimizer.betas=[0.9,0.99]",
    "optimizer.eps=1.0e-6",
    "training.epochs=7",
    "training.batch_size=7",
    "training.limit_examples=20",
    "training.micro_batch_size=2",
    "training.max_steps=3",
    "training.patience=1",
    "training.max_grad_norm=1.0",
    "training.gradient_checkpointing=true",
    "scheduler.name=cosine",
    "scheduler.warmup=0.1",
    "training.group_by_length=true",
    "training.tf32=true",
    "model.attn_implementation=eager",
]
"""For each key of a run but those of `tracking`, a value other than that of `house`."""


@pytest.fixture(scope="module")
def places(
    house: DictConfig, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Other folders: of the same content as those of `house`, and of another."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copytree(house.model.path, folder / "model")
    shutil.copytree(house.task.path, folder / "pairs")
    other = {name: sentence_pairs(40, seed) for seed, name in enumerate(("train", "validation"))}
    return {
        "same_model": folder / "model",
        "same_pairs": folder / "pairs",
        "bert": checkpoints["bert"],
        "pairs": write_parquet(folder / "others", **other),
    }


@pytest.mark.parametrize("change", SHAPING)
def test_the_identity_depends_on(
    change: str, house: DictConfig, places: dict[str, Path], tmp_path: Path
) -> None:
    if "=other" in change:  # a split of the same folder, with other rows
        shutil.copytree(house.task.path, tmp_path, dirs_exist_ok=True)
        write_parquet(tmp_path, other=sentence_pairs(20, seed=9))
        house = edited(house, f"task.path={tmp_path}")
    changed = prepare(edited(house, change.format(**places)))
    assert identity(changed) != identity(prepare(house))


def test_the_identity_depends_on_proxy_and_strategy(house: DictConfig) -> None:
    there = [*HOUSE, f"model.path={house.model.path}", f"task.path={house.task.path}"]
    made = [
        house,
        composed(*there, "proxy=snip", "proxy.weights=current"),
        composed(*there, "strategy=static"),
    ]
    made.append(edited(house, "selection.name=proportional"))
    assert len({identity(prepare(cfg)) for cfg in made}) == len(made)


def test_the_identity_ignores_where_and_how_often(
    house: DictConfig, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "stay_offline", lambda: None)  # the tests after this one are not
    elsewhere = ["tracking.wandb.project=p", "tracking.wandb.tags=[a]"]
    ignored = [change.format(**places) for change in IGNORED]
    changed = prepare(edited(house, *ignored, *elsewhere, "precision=fp32"))
    config = prepare(edited(house, "precision=fp32"))
    assert identity(changed) == identity(config)
    assert changed.resolved() != config.resolved()


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        inner = isinstance(value, dict)
        yield from leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]


def test_every_key_is_in_a_list_above(house: DictConfig) -> None:
    """So that a new key is thought about: does it shape a run's numbers?"""
    keys = set(leaves(prepare(house).resolved()))
    names = {"proxy.name", "selection.name", "strategy.name", "optimizer.name", "task.kind"}
    names |= {"method.name", "method.kind"}  # of another method in test_methods.py
    names |= {"optimizer.kind"}  # of another optimizer in test_optimizers.py
    names |= {"task.held_out"}  # of a task without a validation split in test_language_runs.py
    # A folder has neither; without one, what they name is found by the hub.
    names |= {"model.revision", "task.revision"}
    names |= {"model.dtype", "model.quantization"}  # in test_storage.py
    names |= {"task.planting"}  # of the planted task in test_planted.py
    listed = {change.partition("=")[0] for change in [*IGNORED, *SHAPING]}
    assert {key for key in keys if not key.startswith("tracking.")} == listed | names


def test_the_identity_depends_on_every_file_that_is_read(house: DictConfig, tmp_path: Path) -> None:
    shutil.copytree(house.model.path, tmp_path / "model")
    shutil.copytree(house.task.path, tmp_path / "data")
    here = edited(house, f"model.path={tmp_path / 'model'}", f"task.path={tmp_path / 'data'}")
    seen = {identity(prepare(here))}
    assert seen == {identity(prepare(house))}
    (tmp_path / "model" / "README.md").write_text("read by nobody")
    write_parquet(tmp_path / "data", test=sentence_pairs(9, seed=1))
    assert {identity(prepare(here))} == seen
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    seen.add(identity(prepare(here)))
    tokenizer = tmp_path / "model" / "tokenizer.json"
    changed = json.loads(tokenizer.read_text())
    changed["model"]["vocab"]["more"] = 31
    tokenizer.write_text(json.dumps(changed))
    seen.add(identity(prepare(here)))
    write_parquet(tmp_path / "data", validation=sentence_pairs(40, seed=3))
    seen.add(identity(prepare(here)))
    write_parquet(tmp_path / "data", train=sentence_pairs(60, seed=3))
    seen.add(identity(prepare(here)))
    assert len(seen) == 5


def test_a_file_is_read_once(house: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = prepare(house)
    first = identity(config)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("a file was read again"))
    assert identity(config) == first


def test_the_embedded_model_and_task_are_told_by_their_files() -> None:
    config = prepare(composed("device=cpu", "tracking=local"))
    assert identity(config) == identity(again(config))
    bigger = prepare(edited(composed("device=cpu", "tracking=local"), "rank_budget.lora_rank=8"))
    assert identity(config) != identity(bigger)


def test_the_identity_of_earlier_runs_stays() -> None:
    """From before `proxy.source`, and from before every selection had a floor."""
    assert identity(prepare(composed("device=cpu", "tracking=local"))) == "c2434134"
    proportional = composed("device=cpu", "tracking=local", "selection=proportional")
    assert identity(prepare(proportional)) == "f69b1f87"
    assert identity(prepare(edited(proportional, "selection.floor=1"))) == "0856efc9"


EMBEDDED = {"starter_paraphrase": "21523836fe6807fa", "starter_planted": "c475888c1690d2b5"}
"""The digests by which all records know the examples of the embedded tasks."""


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_digests_of_the_embedded_examples_stay(name: str) -> None:
    """Another one would orphan every record of an embedded task, those of the study first."""
    found = split_fingerprint(prepare(composed("device=cpu", f"task={name}")).task, "train")
    assert found.split("/")[0] == EMBEDDED[name]


def test_the_runs_of_the_study_keep_their_identity() -> None:
    runs, unreadable = load(ROOT / "docs" / "study")
    assert unreadable == []
    found = {
        run.result.identity: identity(validate({**run.config, "device": "cpu"}, ()))
        for run in {run.result.identity: run for run in runs}.values()
        if run.config["model"]["name"] == STARTER and run.config["task"]["source"] in TASKS
    }
    assert len(found) > 50
    assert [*found] == [*found.values()]


def test_a_setting_that_was_added_later_is_told_by_its_value_alone(house: DictConfig) -> None:
    old = prepare(house).resolved()
    shaped = shaping_settings(old)
    for key in ("source", "observe_every"):
        assert key not in shaped["proxy"]
        del old["proxy"][key]
    assert shaping_settings(old) == shaped
    running = prepare(edited(house, "proxy.source=running")).resolved()
    assert shaping_settings(running)["proxy"] == {**shaped["proxy"], "source": "running"}
    measured = composed(*HOUSE, "+proxy@importance.snip=snip", f"model.path={house.model.path}")
    measured = edited(measured, f"task.path={house.task.path}", "importance.snip.observe_every=2")
    snip = shaping_settings(prepare(measured).resolved())["importance"]["snip"]
    assert snip["observe_every"] == 2
    assert "source" not in snip


def test_a_finished_run_is_found_again_by_what_its_model_and_data_are(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    """Whatever they are called, and however much of them goes through the model at once."""
    given = dict(override.split("=", 1) for override in tiny)
    model = shutil.copytree(given["model.path"], tmp_path / "model")
    data = shutil.copytree(given["task.path"], tmp_path / "data")
    short = [*tiny, "training.max_steps=1", "strategy=static", f"model.path={model}"]
    assert command_line(*short, f"task.path={data}").code == 0
    moved = shutil.move(data, tmp_path / "moved")
    again = [*short, f"task.path={moved}", "proxy.micro_batch_size=1", "evaluation.batch_size=3"]
    assert "already finished" in command_line(*again).out
    write_parquet(Path(moved), validation=sentence_pairs(40, seed=8))
    done = command_line(*again)
    assert done.code == 0
    assert "already finished" not in done.out


def test_runs_of_another_model_at_the_same_path_are_told_apart_in_reports(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    given = dict(override.split("=", 1) for override in tiny)
    model = shutil.copytree(given["model.path"], tmp_path / "model")
    short = [*tiny, "training.max_steps=1", "strategy=homogeneous", f"model.path={model}"]
    assert command_line(*short, "seed=0").code == 0
    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, model / "model.safetensors")
    assert command_line(*short, "seed=13").code == 0
    runs, problems = load(Path(given["output"]))
    assert problems == []
    assert "model" in mixed(frame(runs))
    assert len(arms(frame(runs))) == 2


@pytest.mark.parametrize("read", [split_fingerprint, sources.load])
def test_a_dataset_that_cannot_be_reached_is_one_line(
    read: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here as with HF_HUB_OFFLINE=1 and an empty HF_HOME, which are read at import."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    rte = task(source="nobody/rte", subset="rte")
    with pytest.raises(DataError) as raised:
        read(rte, "train")
    line = str(raised.value)
    assert line.startswith("task.source=nobody/rte/rte: ")
    assert "task.path=PATH" in line
    assert "\n" not in line
