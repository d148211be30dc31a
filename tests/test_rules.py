"""What sections must have in common: data, ranks, budget and memory, before weights are loaded."""

import typing
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import CommandLine, case_name, composed, edited, problems
from omegaconf import DictConfig
from transformers import AutoConfig

from heterolora.harness.config import (
    ModelConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    prepare,
)
from heterolora.harness.config.checkpoints import sites
from heterolora.harness.config.rules import budget, data, device, engine, every, light
from heterolora.harness.config.rules import model as model_rules
from heterolora.harness.config.validation import bound
from heterolora.sites import LORA_ROLES
from heterolora.training.memory import total_memory

EMBEDDED = ["device=cpu", "tracking=local"]
FILES = [budget, data, device, engine, model_rules]


@pytest.fixture(scope="module")
def embedded() -> DictConfig:
    """The embedded model and task."""
    return composed(*EMBEDDED)


@pytest.fixture(scope="module")
def folders(checkpoints: dict[str, Path], pairs: Path) -> DictConfig:
    """Model and data in folders."""
    path = f"model.path={checkpoints['opt-post-norm']}"
    return composed(*EMBEDDED, "task=rte", "model=opt_350m", path, f"task.path={pairs}")


def test_a_rule_asks_for_sections_by_their_types() -> None:
    def some(budget_by_any_name: RankBudgetConfig, s: SearchSpaceConfig) -> list[str]:
        return []

    assert bound(some) == {"budget_by_any_name": "rank_budget", "s": "search_space"}
    for rule in (*light(), *every()):
        assert bound(rule).keys() == typing.get_type_hints(rule).keys() - {"return"}


@pytest.mark.parametrize("file", FILES)
def test_every_rule_is_asked(file: ModuleType) -> None:
    written = {
        name
        for name, member in vars(file).items()
        if callable(member) and getattr(member, "__module__", None) == file.__name__
    }
    asked = {rule.__name__ for rule in file.RULES}
    assert {rule.__name__ for rule in file.RULES} <= {
        rule.__name__ for rule in (*light(), *every())
    }
    assert {name for name in written - asked if not name.startswith("_")} == set()


SPLITS = [
    ("task.train_split=trian", "task.train_split=trian: ", "set task.train_split=train"),
    ("task.validation_split=test", "task.validation_split=test: ", "_split=validation"),
    (
        "task.validation_split=train",
        "task.validation_split=train: must differ from task.train_split",
        "=",
    ),
    (
        "task.subset=foo",
        "task.subset=foo: has no effect with the embedded task",
        "task.subset=null",
    ),
    ("task.revision=abc", "task.revision=abc: has no effect with", "task.revision=null"),
    ("model.revision=abc", "model.revision=abc: has no effect with", "model.revision=null"),
]


@pytest.mark.parametrize("mistake", SPLITS, ids=[case_name(mistake[0]) for mistake in SPLITS])
def test_what_the_embedded_task_and_model_do_not_have(
    mistake: tuple[str, ...], embedded: DictConfig
) -> None:
    change, start, remedy = mistake
    (line,) = problems(edited(embedded, change))
    assert line.startswith(start)
    assert remedy in line


@pytest.mark.parametrize("change", ["task.revision=abc", "model.revision=abc"])
def test_a_folder_has_no_revisions(change: str, folders: DictConfig) -> None:
    (line,) = problems(edited(folders, change))
    assert line.startswith(f"{change}: has no effect with {change.partition('.')[0]}.path=")


def test_two_splits_are_two(folders: DictConfig) -> None:
    (line,) = problems(edited(folders, "task.train_split=validation"))
    assert line.startswith("task.validation_split=validation: must differ from task.train_split")


RANKS = [
    (["rank_budget.lora_rank=17"], "rank_budget.lora_rank=17: must be at most 16"),
    (["rank_budget.lora_rank=1000000"], "rank_budget.lora_rank=1000000: must be at most 16"),
    (
        ["rank_budget.shortcut_rank=17", "search_space.shortcuts=[in]"],
        "rank_budget.shortcut_rank=17: must be at most 16, the width of the model at 'in' sites",
    ),
    (
        ["selection.name=proportional", "selection.floor=3"],
        "selection.floor=3: must be at most rank_budget.lora_rank=2, the budget's rank at 'q'",
    ),
    (["strategy.enable_rate=0.01"], "strategy.enable_rate=0.01: a site that is on would cost 6400"),
]


@pytest.mark.parametrize(("changes", "start"), RANKS, ids=[case_name(start) for _, start in RANKS])
def test_a_rank_or_a_budget_that_the_model_cannot_have(
    changes: list[str], start: str, folders: DictConfig
) -> None:
    assert prepare(edited(folders, "rank_budget.lora_rank=16", "strategy.enable_rate=1"))
    (line,) = problems(edited(folders, *changes))
    assert line.startswith(start)
    assert "for example" in line


def test_a_budget_is_that_of_its_pool(folders: DictConfig) -> None:
    """One site of each kind: together they pay for one of rank 16, each kind by itself not."""
    two = ["search_space.projections=[q]", "search_space.shortcuts=[in]"]
    rates = ["strategy.enable_rate=0.25", "rank_budget.lora_rank=1", "rank_budget.shortcut_rank=4"]
    assert prepare(edited(folders, *two, *rates))
    # Three layers, rank 1 of 32 parameters: 96 in the pool, a site that is on has 6 x 32 = 192.
    steep = [*two, "rank_budget.lora_rank=1", "strategy.enable_rate=0.16666666"]
    assert prepare(edited(folders, *steep, "rank_budget.shortcut_rank=1"))
    (line, _) = problems(
        edited(folders, *steep, "rank_budget.shortcut_rank=1", "search_space.pool=separated")
    )
    assert "cost 192 parameters, so a budget of 96 is too small for any site" in line


def test_a_strategy_that_searches_nothing_needs_no_budget_for_one_site(pairs: Path) -> None:
    path = ["task=rte", f"task.path={pairs}"]
    assert prepare(composed(*EMBEDDED, *path, "strategy=homogeneous")).selection is None


def test_adapters_that_the_memory_cannot_hold(
    folders: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Six sites of rank 8, each 8 x 32 parameters, each of them 16 bytes.
    needed = 6 * 8 * 32 * 16
    monkeypatch.setattr(model_rules, "total_memory", lambda _: needed)
    assert prepare(folders)
    monkeypatch.setattr(model_rules, "total_memory", lambda _: needed - 1)
    (line,) = problems(folders)
    assert line.startswith("rank_budget.lora_rank=2: the adapters and their training take")
    assert "lower it" in line


def test_this_machine_has_memory() -> None:
    assert total_memory(torch.device("cpu")) > 2**28


@pytest.mark.parametrize("change", ["rank_budget.lora_rank=1000000", "strategy.enable_rate=0.01"])
def test_it_is_told_before_weights_load_and_leaves_no_folder(
    change: str, command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line(*EMBEDDED, change, f"output={tmp_path / 'outputs'}")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {change}: ")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", ["opt-post-norm", "opt-pre-norm", "bert", "roberta", "llama"])
def test_shapes_are_known_without_weights(
    name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """The rest is as wide as it is deep; grouped-query heads and the FFN are not."""
    AutoConfig.from_pretrained(checkpoints[name]).save_pretrained(tmp_path)
    roles = [role for role in LORA_ROLES if role != "gate" or name == "llama"]
    space = SearchSpaceConfig(
        projections=tuple(roles),
        shortcuts=("in", "cut"),
        lora_alpha=16,
        shortcut_alpha=4,
        scaling="alpha_over_rank",
        pool="combined",
        renormalize="always",
    )
    found = sites(ModelConfig(name="x", path=str(tmp_path), revision=None), space)
    shapes = {str(site): (shape.inputs, shape.outputs) for site, shape in found.items()}
    assert shapes["layers.2.q"] == shapes["layers.1.cut"] == shapes["layers.0.in"] == (16, 16)
    assert shapes["layers.0.v"] == ((16, 8) if name == "llama" else (16, 16))
    assert shapes["layers.0.up"] == shapes["layers.0.down"][::-1] == (16, 32)
    assert "layers.0.cut" not in shapes
    assert len(shapes) == 3 * len(roles) + 5
