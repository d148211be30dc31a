"""Validation of what Hydra composes: everything under conf/, and every mistake at once."""

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import CONF, composed, edited, problems
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from heterolora.allocation import enabled_rank
from heterolora.errors import ConfigError
from heterolora.harness.config import prepare

FAMILY = {
    "auto": "bert",
    "opt_350m": "opt-post-norm",
    "opt_125m": "opt-pre-norm",
    "minilm": "bert",
    "roberta_base": "roberta",
    "deberta_v3_base": "deberta",
    "modernbert_base": "modernbert",
    "gemma_3_1b": "gemma3",
    "llama_3_2_1b": "llama",
    "opt_1_3b": "opt-pre-norm",
    "opt_6_7b": "opt-pre-norm",
    "qwen3_0_6b": "qwen3",
    "qwen3_8b": "qwen3",
}
"""For each model of the hub under conf/model, the tiny checkpoint that stands in for it."""

patiently = settings(deadline=None)
HOUSE = ["device=cpu", "tracking=local", "task=rte", "model=opt_350m"]


def options() -> Iterator[tuple[str, str]]:
    """Every option of every config group, as Hydra names them."""
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        for file in sorted(group.rglob("*.yaml")):
            if not {"base", "variant"} & set(file.relative_to(group).parts):
                yield group.name, str(file.relative_to(group).with_suffix(""))


@pytest.fixture(scope="module")
def house(checkpoints: dict[str, Path]) -> DictConfig:
    """A valid composed configuration."""
    return composed(*HOUSE, f"model.path={checkpoints['opt-post-norm']}")


APART = ("ax", "starter_planted", "adamw_8bit")
"""Options that a test below has."""


def of_group(group: str) -> list[str]:
    """The overrides that choose each option of a group."""
    needs = {"waterfill": " proxy=gradsvd", "spaced": " proxy.every=2"}  # or they are refused
    return [
        f"{group}={option}{needs.get(option, '')}"
        for name, option in options()
        if name == group and option not in APART
    ]


def side_by_side(*columns: list[str]) -> Iterator[list[str]]:
    """Commands, each with the next override of every column that still has one."""
    for row in itertools.zip_longest(*columns, fillvalue=""):
        yield " ".join(row).split()


def searches() -> list[str]:
    """Each proxy; then each strategy, with another search space and selection."""
    spaces, selections = of_group("search_space"), of_group("selection")
    others = side_by_side(of_group("strategy"), spaces, selections)
    return of_group("proxy") + [" ".join(row) for row in others]


WIDE = list(
    side_by_side(
        of_group("task"),
        searches(),
        of_group("rank_budget"),
        *map(of_group, ("recipe", "optimizer", "scheduler", "tracking")),
    )
)
"""Options that are validated side by side, of the model that is wide enough for every budget."""
NARROW = list(side_by_side(of_group("model"), of_group("method")))
"""Beside another method than this project's, no strategy, proxy or selection is used."""


def chosen(row: list[str]) -> set[tuple[str, str]]:
    """Groups and their options."""
    return {(group, option) for group, _, option in (one.partition("=") for one in row)}


def test_every_option_is_in_a_row() -> None:
    """Those of `experiment` are in test_experiments.py."""
    seen = set().union(*map(chosen, [*WIDE, *NARROW]))
    missing = set(options()) - seen
    assert {option for group, option in missing if group != "experiment"} == {*APART}


@pytest.mark.parametrize("row", WIDE, ids=lambda row: row[0])
def test_options_compose_and_validate(row: list[str], wide: Path) -> None:
    config = prepare(composed(*row, "device=cpu", f"model.path={wide}"))
    for group, option in chosen(row) & {*options()}:
        if group in ("task", "strategy"):
            assert getattr(config, group).name == option


@pytest.mark.parametrize("row", NARROW, ids=lambda row: row[0])
def test_models_and_methods_compose_and_validate(
    row: list[str], checkpoints: dict[str, Path]
) -> None:
    model = dict(chosen(row))["model"]
    path = [f"model.path={checkpoints[FAMILY[model]]}"] if model in FAMILY else []
    cfg = composed(*row, *HOUSE[:2], *path)
    prepare(cfg)
    cfg.method = {"name": "heterolora", "kind": "heterolora"}
    assert prepare(cfg).proxy is not None


def test_an_optimizer_that_may_not_be_installed() -> None:
    cfg = composed(*HOUSE[:2], "optimizer=adamw_8bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        (line,) = problems(cfg)
        assert "bitsandbytes" in line
        assert "install" in line
    else:
        prepare(cfg)


def test_a_task_to_be_answered_by_a_run_of_another() -> None:
    lines = problems(composed(*HOUSE[:2], "task=ax"))
    assert [line.split(":")[0] for line in lines] == ["task.label=null", "proxy=gradnorm"]


def test_the_planted_task_is_about_the_embedded_model() -> None:
    assert prepare(composed(*HOUSE[:2], "task=starter_planted")).task.name == "starter_planted"


def test_what_the_paper_has_in_every_run(house: DictConfig) -> None:
    """Table 7; the epochs, batch size and learning rate of each task are in test_recipes.py."""
    config = prepare(house)
    assert config.optimizer.weight_decay == 0.01
    assert config.search_space.lora_alpha == 16


MISTAKES = [
    ("strategy.enable_rate=0.3", "strategy.enable_rate=0.3: ", "2 / 0.3", "enable_rate=0.25"),
    ("strategy.enable_rate=0", "strategy.enable_rate=0: ", "greater than 0", "=0.25"),
    ("strategy.enable_rate=1.5", "strategy.enable_rate=1.5: ", "equal to 1", "=0.25"),
    ("strategy.enable_rate=.nan", "strategy.enable_rate=nan: ", "finite", "=0.25"),
    ("search_space.projections=[q,gate]", "search_space.projections=[q,gate]: ", "up, down"),
    ("search_space.projections=[q,q]", "search_space.projections=[q,q]: ", "once", "=[q,v]"),
    ("search_space.projections=[]", "search_space.projections=[]: ", "must not be empty", "=[q,v]"),
    ("search_space.shortcuts=[in,q]", "search_space.shortcuts.1=q: ", "'cut'", "res1,res2"),
    ("search_space.shortcuts=[in,in]", "search_space.shortcuts=[in,in]: ", "once"),
    ("search_space.shortcut_alpha=0", "search_space.shortcut_alpha=0: ", "greater than 0", "=4"),
    ("search_space.pool=both", "search_space.pool=both: ", "separated", "=combined"),
    ("search_space.renormalize=never", "search_space.renormalize=never: ", "enabled", "=always"),
    ("rank_budget.lora_rank=0", "rank_budget.lora_rank=0: ", "greater than 0", "q, v", "_rank=2"),
    ("rank_budget.lora_rank=-1", "rank_budget.lora_rank=-1: ", "equal to 0", "lora_rank=2"),
    ("rank_budget.shortcut_rank=a", "rank_budget.shortcut_rank=a: ", "integer", "shortcut_rank=2"),
    ("search_space.lora_alpha=0", "search_space.lora_alpha=0: ", "greater than 0", "=16"),
    ("task.sentences=[label]", "task.sentences=[label]: ", "must differ", "=[...]"),
    (
        "task.path=/nowhere",
        "task.path=/nowhere: ",
        "no such file or folder",
        "give one of .parquet",
    ),
    ("model.path=/nowhere", "model.path=/nowhere: ", "no such directory", "give one with"),
    ("training.batch_size=0", "training.batch_size=0: ", "greater than 0", "batch_size=8"),
    ("training.epochs=0", "training.epochs=0: ", "greater than 0", "epochs=20"),
    ("training.epochs=true", "training.epochs=true: ", "integer", "epochs=20"),
    ("training.epochs=1.5", "training.epochs=1.5: ", "integer", "epochs=20"),
    ("seed=-1", "seed=-1: ", "equal to 0", "seed=0"),
    ("rank_budget.lora_rank=1.0", "rank_budget.lora_rank=1.0: ", "integer", "lora_rank=2"),
    ("rank_budget.lora_rank=2.5", "rank_budget.lora_rank=2.5: ", "integer", "lora_rank=2"),
    ("optimizer.learning_rate=.inf", "optimizer.learning_rate=inf: ", "finite", "=0.0002"),
    ("precision=fp16", "precision=fp16: ", "bf16", "precision=auto"),
    ("device=tpu", "device=tpu: ", "cuda", "device=auto"),
    ("proxy.name=nope", "proxy.name=nope: ", "no such proxy", "with proxy=..."),
    ("proxy.source=batches", "proxy.source=batches: ", "'running'", "proxy.source=probe"),
    ("proxy.observe_every=0", "proxy.observe_every=0: ", "greater than 0", "observe_every=16"),
    ("nope=1", "nope: ", "unknown key", "choose one of"),
    ("sede=1", "sede: ", "unknown key", "did you mean seed?"),
    ("training.epoch=3", "training.epoch: ", "unknown key", "did you mean epochs?"),
    ("proxy.nope=3", "proxy.nope: ", "unknown key", "num_batches"),
]


@pytest.mark.parametrize(
    ("changes", "start", "said"),
    [
        (["strategy=homogeneous", "rank_budget.lora_rank=0.5"], "rank_budget.lora_rank=0.5", "r2"),
        (["strategy=pruning", "rank_budget.lora_rank=1"], "rank_budget.lora_rank=1: ", "1.5 x 1"),
        (["strategy=warmup", "rank_budget=r1_2"], "rank_budget.lora_rank=0.5: ", "1 x 0.5 = 0.5"),
        (["strategy=pruning", "strategy.until=0.1"], "strategy.until=0.1: ", "warmup=0.1"),
        (["selection=waterfill"], "selection=waterfill: ", "proxy=gradsvd"),
        (["proxy=sensitivity", "strategy=static"], "proxy=sensitivity: ", "strategy=dynamic"),
    ],
)
def test_mistakes_between_groups(
    changes: list[str], start: str, said: str, house: DictConfig
) -> None:
    path = f"model.path={house.model.path}"
    (line,) = problems(composed(*HOUSE, path, "search_space=lora", *changes))
    assert line.startswith(start)
    assert said in line


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_each_mistake_is_one_line_with_key_value_and_remedy(
    mistake: tuple[str, ...], house: DictConfig
) -> None:
    change, start, *said = mistake
    (line,) = problems(edited(house, change))
    assert line.startswith(start)
    assert all(words in line for words in said), line
    assert "\n" not in line


def test_each_kind_of_site_needs_a_rank_and_a_whole_one(house: DictConfig) -> None:
    only = edited(house, "search_space.projections=[]", "search_space.shortcuts=[in]")
    assert prepare(edited(only, "rank_budget.lora_rank=0")).search_space.roles() == {
        "lora": (),
        "shortcut": ("in",),
    }
    (line,) = problems(edited(only, "rank_budget.shortcut_rank=0"))
    assert line.startswith("rank_budget.shortcut_rank=0: ")
    (line,) = problems(edited(only, "strategy.enable_rate=0.4", "rank_budget.shortcut_rank=5"))
    assert "5 / 0.4" in line


def test_a_model_that_cannot_have_shortcuts(house: DictConfig, tmp_path: Path) -> None:
    source = Path(house.model.path)
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = (source / "config.json").read_text().replace('"layerdrop": 0.0', '"layerdrop": 0.1')
    (tmp_path / "config.json").write_text(settings)
    dropped = edited(house, f"model.path={tmp_path}")
    prepare(dropped)
    (line,) = problems(edited(dropped, "search_space.shortcuts=[in]"))
    assert line.startswith("search_space.shortcuts: ")
    assert "layerdrop=0.1" in line
    assert "search_space.shortcuts=[]" in line


def test_all_mistakes_come_at_once(house: DictConfig) -> None:
    wrong = ["seed=-1", "precision=fp16", "device=tpu", "task.path=/nowhere", "proxy.nope=3"]
    wrong += ["search_space.projections=[q,gate]", "training.batch_size=0", "training.epochs=0"]
    wrong += ["rank_budget.lora_rank=2.5", "nope=1"]
    with pytest.raises(ConfigError) as raised:
        prepare(edited(house, *wrong))
    found = raised.value.problems
    assert str(raised.value).splitlines() == list(found)
    assert len(found) == len(wrong)
    for start in (mistake[1] for mistake in MISTAKES if mistake[0] in wrong):
        assert sum(line.startswith(start) for line in found) == 1, start


def test_a_task_without_labels(house: DictConfig) -> None:
    by_loss = problems(edited(house, "task.label=null"))
    assert [line.split(":")[0] for line in by_loss] == ["task.label=null", "proxy=gradnorm"]
    assert "proxy=constant" in by_loss[1]
    constant = composed(*HOUSE, f"model.path={house.model.path}", "proxy=constant")
    (line,) = problems(edited(constant, "task.label=null"))
    assert line.startswith("task.label=null: ")


def test_a_family_that_cannot_be_wired(house: DictConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (line,) = problems(edited(house, f"model.path={tmp_path}"))
    assert line.startswith(f"model.path={tmp_path}: ")
    assert "gpt2" in line
    assert "choose one of the families bert, deberta-v2, gemma, gemma2, " in line


def test_a_device_that_the_machine_lacks(house: DictConfig) -> None:
    if torch.cuda.device_count() > 9:
        pytest.skip("this machine has a tenth GPU")
    (line,) = problems(edited(house, "device=cuda:9"))
    assert line.startswith("device=cuda:9: ")
    assert "device=auto" in line


def test_a_missing_device_is_told_with_the_other_mistakes(house: DictConfig) -> None:
    if torch.cuda.device_count() > 9:
        pytest.skip("this machine has a tenth GPU")
    assert len(problems(edited(house, "device=cuda:9", "training.epochs=0"))) == 2


@pytest.mark.parametrize(
    "changes",
    [
        ["task.num_labels=3", "task.metrics=[f1]"],
        ["task.num_labels=1", "task.metrics=[accuracy]"],
        ["task.num_labels=1", "task.metrics=[matthews]"],
    ],
)
def test_a_metric_that_the_task_cannot_have(changes: list[str], house: DictConfig) -> None:
    (line,) = problems(edited(house, *changes))
    assert "task.metrics" in line


def test_a_task_name_cannot_leave_the_output(house: DictConfig) -> None:
    (line,) = problems(edited(house, "task.name=../../x"))
    assert line.startswith("task.name=../../x: ")


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "a/..", "/x", "a//x", ".x"])
def test_a_name_cannot_leave_the_output(name: str, house: DictConfig) -> None:
    (line,) = problems(edited(house, f"name={name}"))
    assert line.startswith(f"name={name}: ")


@pytest.mark.parametrize("minutes", ["0", "-1", "true", "no"])
def test_checkpoints_have_a_positive_interval(minutes: str, house: DictConfig) -> None:
    (line,) = problems(edited(house, f"checkpoint.every_minutes={minutes}"))
    assert line.startswith("checkpoint.every_minutes=")


@pytest.mark.parametrize("key", ["strategy.enable_rate", "optimizer.learning_rate"])
def test_true_is_not_a_number(key: str, house: DictConfig) -> None:
    (line,) = problems(edited(house, f"{key}=true"))
    assert line.startswith(f"{key}=true: ")


@patiently
@given(rank=st.integers(1, 64), share=st.integers(1, 64))
def test_enabled_rank_of_a_share(rank: int, share: int) -> None:
    assert enabled_rank(rank, 1 / share) == rank * share


@patiently
@given(rank=st.integers(1, 64), rate=st.floats(0.01, 1))
def test_enabled_rank_is_the_whole_quotient_or_nothing(rank: int, rate: float) -> None:
    found = enabled_rank(rank, rate)
    whole = abs(rank / rate - round(rank / rate)) <= 1e-6 * max(rank / rate, round(rank / rate))
    assert found == (round(rank / rate) if whole else None)


def test_enabled_rank_by_hand() -> None:
    assert [enabled_rank(r, e) for r, e in ((2, 0.25), (8, 0.25), (8, 1), (3, 0.75))] == [
        8,
        32,
        8,
        4,
    ]
    assert [enabled_rank(r, e) for r, e in ((2, 0.3), (1, 0.75), (8, 0.33))] == [None, None, None]
    assert enabled_rank(2, 0.3333333) == 6


def test_enabled_rank_takes_a_rounded_third_at_every_budget() -> None:
    assert enabled_rank(8, 0.3333333) == 24
