"""Recipes: which epochs, batch size, learning rate and length a model takes for a task."""

import itertools
import shutil
from pathlib import Path

import pytest
from conftest import CONF, composed
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from heterolora.errors import ConfigError
from heterolora.harness.config import prepare

Recipe = tuple[int, int, float, int]

DEFAULTS: dict[str, Recipe] = {
    "auto": (5, 16, 5e-4, 128),
    "deberta_v3_base": (7, 32, 5e-4, 256),
    "gemma_3_1b": (3, 4, 2e-4, 512),
    "llama_3_2_1b": (3, 32, 3e-4, 512),
    "minilm": (5, 16, 1e-3, 128),
    "modernbert_base": (10, 16, 5e-4, 512),
    "opt_1_3b": (3, 16, 2e-4, 512),
    "opt_125m": (10, 8, 4e-4, 512),
    "opt_350m": (20, 8, 2e-4, 512),
    "opt_6_7b": (3, 16, 2e-4, 512),
    "opt_starter": (5, 16, 1e-3, 128),
    "qwen3_0_6b": (3, 16, 1e-4, 512),
    "qwen3_8b": (3, 16, 3e-4, 512),
    "roberta_base": (10, 16, 5e-4, 512),
}
EXCEPTIONS: dict[tuple[str, str], Recipe] = {
    ("opt_350m", "mnli"): (10, 8, 1e-4, 512),
    ("opt_350m", "qqp"): (10, 8, 2e-4, 512),
    ("opt_350m", "rte"): (20, 8, 3e-4, 512),
    ("opt_350m", "sst2"): (10, 8, 1e-4, 512),
}
TASKS = sorted(file.stem for file in (CONF / "task").glob("*.yaml"))


def recipe(cfg: DictConfig) -> Recipe:
    training = cfg.training
    return training.epochs, training.batch_size, cfg.optimizer.learning_rate, cfg.task.max_length


MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


FACTORS = [*EXCEPTIONS, *((MODELS[at % len(MODELS)], task) for at, task in enumerate(TASKS))]
"""Every model and every task, and each pair with a recipe of its own."""


@pytest.mark.parametrize(
    ("model", "task"),
    [
        pair if pair in FACTORS else pytest.param(*pair, marks=pytest.mark.exhaustive)
        for pair in itertools.product(MODELS, TASKS)
    ],
)
def test_a_model_has_its_recipe_for_a_task(model: str, task: str) -> None:
    found = recipe(composed(f"task={task}", f"model={model}"))  # in the order of a user
    assert found == EXCEPTIONS.get((model, task), DEFAULTS[model])


def test_recipes_of_pairs_are_told_by_their_files() -> None:
    """So that another pair has that of its model; mrpc's is the same as its model's."""
    files = {file.stem for file in (CONF / "recipe").glob("*.yaml")}
    assert files == {"opt_350m_mrpc", *("_".join(pair) for pair in EXCEPTIONS)}


def test_a_label_changes_no_number() -> None:
    table = ["+experiment=table4", "task=rte"]
    named, renamed = composed(*table), composed(*table, "name=rerun")
    assert recipe(named) == recipe(renamed) == (20, 8, 2e-4, 512)
    assert recipe(composed("model=opt_350m", "task=rte", "name=table4"))[2] == 3e-4


def test_every_recipe_and_variant_is_of_a_model_and_a_task() -> None:
    pairs = {f"{model}_{task}" for model in DEFAULTS for task in TASKS}
    assert {file.stem for file in (CONF / "recipe").glob("*.yaml")} <= pairs
    for file in (CONF / "recipe" / "variant").glob("*.yaml"):
        assert file.stem.partition("_")[2] in pairs


def test_what_is_given_wins_over_a_recipe() -> None:
    given = ["optimizer.learning_rate=0.5", "training.epochs=3", "task.max_length=64"]
    assert recipe(composed("model=opt_350m", "task=rte", *given)) == (3, 8, 0.5, 64)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("learning_rate", "learning_rat", "optimizer.learning_rat: unknown key; did you mean"),
        ("epochs", "epoch", "training.epoch: unknown key; did you mean epochs?"),
        ("training", "trainin", "trainin: unknown key; did you mean training?"),
    ],
)
def test_a_misspelt_key_of_a_recipe_is_an_error(
    right: str, wrong: str, said: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    recipe = tmp_path / "conf" / "recipe" / "opt_350m_rte.yaml"
    recipe.write_text(recipe.read_text().replace(f"{right}:", f"{wrong}:"))
    path = f"model.path={checkpoints['opt-post-norm']}"
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        cfg = compose("config", ["model=opt_350m", "task=rte", "device=cpu", path])
    with pytest.raises(ConfigError) as raised:
        prepare(cfg)
    (line,) = raised.value.problems
    assert line.startswith(said)
