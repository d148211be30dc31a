"""An experiment whose records are kept: tuned on seeds of its own, run where it is missing."""

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
from records import write_run

from heterolora.errors import RecordError
from heterolora.harness.cli.commands import study
from heterolora.harness.records.read import read_archive
from heterolora.harness.reporting.layout import read

NAME = "study_why"
TABLE = read(study.EXPERIMENTS / f"{NAME}.yaml")
RATES = "optimizer.learning_rate:'1e-4,1e-2'"
GRIDS = (
    f"hydra.sweeper.grids=[{{strategy:homogeneous,{RATES}}},"
    f"{{strategy:static,proxy:gradnorm,{RATES}}}]"
)


composed_arms = functools.cache(study.arms)


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing the arms takes most of the time; who asks for the same again gets the same."""
    monkeypatch.setattr(study, "arms", lambda key, common: composed_arms(key, tuple(common)))


@pytest.fixture
def overrides(tiny: list[str]) -> list[str]:
    """Two arms at two rates, of a second each."""
    return [*(one for one in tiny if not one.startswith("output=")), "training.epochs=1", GRIDS]


def test_each_arm_has_an_identity_at_each_value(overrides: list[str]) -> None:
    found = study.arms("optimizer.learning_rate", [f"+experiment={NAME}", *overrides])
    assert [dict(arm) for arm in found] == [
        {"strategy": "homogeneous"},
        {"strategy": "static", "proxy": "gradnorm"},
    ]
    assert [list(values) for values in found.values()] == [["0.0001", "0.01"]] * 2
    assert len({one for values in found.values() for one in values.values()}) == 4


def test_tuning_runs_that_are_missing_are_named(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        RecordError, match=r"strategy=homogeneous at .*=0\.0001 has 0 of 2 tuning runs"
    ):
        list(study.best_arms(TABLE, tmp_path, [f"+experiment={NAME}", *overrides]))


def test_of_a_run_that_experiments_share_the_finished_one_counts_once(tmp_path: Path) -> None:
    common = [f"+experiment={NAME}", f"hydra.sweeper.grids=[{{strategy:homogeneous,{RATES}}}]"]
    (identities,) = study.arms("optimizer.learning_rate", common).values()
    first = TABLE.tuning_seeds[0]
    for rate, accuracy in {"0.0001": 0.6, "0.01": 0.7}.items():
        arm = ["strategy=homogeneous", f"optimizer.learning_rate={rate}"]
        made: dict[str, Any] = {"accuracies": [accuracy], "identity": identities[rate]}
        for seed in TABLE.tuning_seeds:
            write_run(tmp_path, *arm, f"name={NAME}", f"seed={seed}", **made)
        write_run(tmp_path, *arm, "name=another", f"seed={first}", **made)
        write_run(tmp_path, *arm, "name=without_memory", f"seed={first}", **made, status="failed")
    (best,) = study.best_arms(TABLE, tmp_path, common)
    assert best == {"strategy": "homogeneous", "optimizer.learning_rate": "0.01"}


def test_of_an_interrupted_sweep_what_has_finished_is_kept(tmp_path: Path) -> None:
    common = (f"name={NAME}", "strategy=homogeneous", "tracking=local")
    write_run(tmp_path / "outputs", *common, "seed=1", status="interrupted", accuracies=[0.5])
    study.keep(tmp_path / "outputs", tmp_path / "kept", NAME)
    assert not (tmp_path / "kept").exists()
    write_run(tmp_path / "outputs", *common, "seed=2", accuracies=[0.5])
    study.keep(tmp_path / "outputs", tmp_path / "kept", NAME)
    (file,) = (tmp_path / "kept").iterdir()
    assert [run.seed for run in read_archive(file)] == [2]


@pytest.mark.slow
def test_what_is_kept_is_not_run_again(
    overrides: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two arms x two rates x two tuning seeds, then two arms x five seeds at the best rate."""
    archives = tmp_path / "kept"
    places = ["--output", str(tmp_path / "outputs"), "--archives", str(archives)]
    assert study.main([NAME, *places, *overrides]) == 0
    (file,) = archives.iterdir()
    assert file.name == f"{NAME}-rte.jsonl.gz"
    runs = read_archive(file)
    assert len(runs) == 2 * 2 * 2 + 2 * 5
    assert sorted({run.seed for run in runs}) == sorted({*TABLE.tuning_seeds, *TABLE.seeds})
    for strategy in ("homogeneous", "static"):
        arm = [run for run in runs if run.setting("strategy.name") == strategy]
        rates = {run.setting("optimizer.learning_rate") for run in arm if run.seed in TABLE.seeds}
        assert len(rates) == 1
        means = {
            rate: sum(
                run.result.best.metrics["accuracy"]
                for run in arm
                if run.result.best
                and run.seed in TABLE.tuning_seeds
                and run.setting("optimizer.learning_rate") == rate
            )
            for rate in (1e-4, 1e-2)
        }
        assert means[rates.pop()] == max(means.values())
    said = capfd.readouterr().out
    assert "Why concentrating costs" in said
    shutil.rmtree(tmp_path / "outputs")
    content = file.read_bytes()
    assert study.main([NAME, *places, *overrides]) == 0
    said = capfd.readouterr().out
    assert "18 of 18 runs restored" in said
    assert "0 finished, 8 skipped, 0 failed" in said
    assert "0 finished, 10 skipped, 0 failed" in said
    assert file.read_bytes() == content
