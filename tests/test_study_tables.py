"""What a preregistered study asks of its tables: rates chosen on seeds apart, gains, their cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from records import STUDY_ARMS, STUDY_ROWS, variant, write_run
from scipy import stats

from heterolora.harness.records.load import load
from heterolora.harness.records.read import Run, read
from heterolora.harness.reporting.comparisons import compare
from heterolora.harness.reporting.entries import entries_of
from heterolora.harness.reporting.frame import frame
from heterolora.harness.reporting.layout import Table
from heterolora.harness.reporting.report import Report
from heterolora.harness.reporting.tables import build

KEY = "optimizer.learning_rate"
CONTENT: dict[str, Any] = {
    "title": "A study",
    "caption": "Of allocation.",
    "tuned": KEY,
    "tuning_seeds": [100, 101],
    "where": {"evaluation.split": "halves"},
    "rows": STUDY_ROWS,
}
STUDY = Table.model_validate({**CONTENT, "name": "study"})


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each row; the others are these with other settings and results."""
    output = tmp_path_factory.mktemp("rows")
    return {
        row: read(
            write_run(output, *overrides, "evaluation.split=halves", "name=study", **epoch(50, 50))
        )
        for row, overrides in STUDY_ARMS.items()
    }


def epoch(selecting: float, reporting: float) -> dict[str, Any]:
    """A result: percent on the half that selects, and on the half that is reported."""
    row = {"step": 100, "epoch": 1, "train_loss": 1.0, "validation_loss": 1.1, "f1": 0.5}
    row |= {"accuracy": selecting / 100, "report_accuracy": reporting / 100, "report_f1": 0.5}
    return {"accuracies": [selecting / 100], "best": row, "last": row}


def ran(
    run: Run,
    rate: float,
    seed: int,
    halves: tuple[float, float],
    settings: Mapping[str, Any] | None = None,
    **result: Any,
) -> Run:
    """`run` at another rate and seed, with other results."""
    own = {KEY: rate, **(settings or {})}
    rows = {key: row for key, row in epoch(*halves).items() if key != "accuracies"}
    known = {"identity": f"{run.result.identity} {own}", "seed": seed}
    return variant(run, {**own, "seed": seed}, **known, **rows, **result)


def made(runs: Sequence[Run], table: Table = STUDY) -> Report:
    return build.report(table, frame(runs))


def test_runs_that_tune_take_no_part_in_what_is_looked_for(tmp_path: Path) -> None:
    """An allocation that is replaced at each search, in a tuning run alone."""
    scores = [{f"layers.{i}.q": float((i + turn) % 4) for i in range(4)} for turn in range(3)]
    on = [[max(one, key=one.__getitem__)] for one in scores]
    dynamic = ("strategy=dynamic", "evaluation.split=halves", "name=study")
    churning = {"scores": scores, "enabled": on, **epoch(70, 70)}
    table = Table.model_validate(
        {**CONTENT, "name": "study", "rows": {"dynamic": {"where": {"strategy.name": "dynamic"}}}}
    )
    write_run(tmp_path, *dynamic, "seed=100", **churning)
    write_run(tmp_path, *dynamic, "seed=0", **epoch(70, 70))
    assert not any("replaces" in note for note in made(load(tmp_path)[0], table).notes)
    write_run(tmp_path, *dynamic, "seed=1", **churning)
    assert any("replaces" in note for note in made(load(tmp_path)[0], table).notes)


def section(report: Report, title: str) -> Any:
    return next(part.frame for part in report.sections if part.title.startswith(title))


def test_the_rate_is_chosen_on_seeds_of_which_nothing_is_reported(of: dict[str, Run]) -> None:
    """By hand: 2e-4 is best on the tuning seeds (82 against 81), on every other 1e-3 is."""
    runs = []
    for seed, (low, high) in {100: (84.0, 79.0), 101: (80.0, 83.0)}.items():
        runs.append(ran(of["plain"], 2e-4, seed, (low, 10.0)))
        runs.append(ran(of["plain"], 1e-3, seed, (high, 99.0)))
    for seed, value in {0: 70.0, 1: 72.0}.items():
        runs.append(ran(of["plain"], 2e-4, seed, (60.0, value)))
        runs.append(ran(of["plain"], 1e-3, seed, (95.0, 95.0)))
    report = made(runs)
    row = report.numbers.query("row == 'plain'").iloc[0]
    assert (row["best_mean"], row["n"], row["seeds"]) == (71.0, 2, "0 1")
    assert row["missing_seeds"] == ""
    tried = section(report, "Values tried").set_index(KEY)
    assert list(tried["n"]) == ["2", "2"]
    assert list(tried[""]) == ["chosen", ""]
    assert list(tried["selection half"]) == ["82.0 ± 2.8", "81.0 ± 2.8"]


# ---- gains

FIXED = Table.model_validate({**CONTENT, "tuned": None, "tuning_seeds": [], "name": "study"})
SEEDS = range(6)
VALUES: Mapping[str, Sequence[float]] = {
    "plain": [80.0, 81.0, 79.0, 80.5, 80.2, 79.9],
    "random": [80.1, 80.7, 79.5, 80.1, 80.9, 79.2],
    "searched": [80.4, 81.1, 79.3, 80.6, 80.1, 80.3],
}


def study(of: Mapping[str, Run], *tasks: str) -> list[Run]:
    """All rows of FIXED on each task; the second is ten points lower."""
    return [
        ran(
            of[row],
            2e-4,
            seed,
            (50.0, value - 10 * place),
            {"task.name": task},
            seconds={
                "training": 10.0 + seed,
                "searching": 2.0 * (row == "searched"),
                "evaluating": 100.0,
            },
        )
        for place, task in enumerate(tasks)
        for row, values in VALUES.items()
        for seed, value in zip(SEEDS, values, strict=True)
    ]


def test_each_row_meets_all_of_its_baselines_on_each_task(of: dict[str, Run]) -> None:
    """Holm's correction is over all comparisons of the table: the family is named."""
    report = made(study(of, "mrpc", "rte"), FIXED)
    shown = section(report, "Comparisons")
    assert [tuple(row) for row in shown[["row", "task", "against"]].to_numpy()] == [
        (row, task, against)
        for task in ("mrpc", "rte")
        for row, against in (
            ("random", "baseline"),
            ("searched", "baseline"),
            ("searched", "random"),
        )
    ]
    numbers = report.numbers.query("row == 'searched' and task == 'rte'").iloc[0]
    gaps = [a - b for a, b in zip(VALUES["searched"], VALUES["random"], strict=True)]
    assert numbers["random_difference"] == pytest.approx(sum(gaps) / 6)
    low, high = stats.t.interval(0.95, 5, sum(gaps) / 6, stats.sem(gaps))
    assert (numbers["random_low"], numbers["random_high"]) == pytest.approx((low, high))
    p = report.numbers[["baseline_p", "random_p"]].stack().dropna()
    holm = report.numbers[["baseline_p_holm", "random_p_holm"]].stack().dropna()
    assert len(p) == 6
    assert holm.min() == pytest.approx(min(1, 6 * p.min()))
    explanation = next(s.explanation for s in report.sections if s.title.startswith("Comparisons"))
    assert "corrected for the 6 comparisons that have one" in explanation


def test_only_the_comparisons_of_the_family_are_corrected(of: dict[str, Run]) -> None:
    family = Table.model_validate(
        {**CONTENT, "tuned": None, "tuning_seeds": [], "name": "study", "family": ["searched"]}
    )
    report = made(study(of, "mrpc", "rte"), family)
    searched = report.numbers.query("row == 'searched'")
    p = searched[["baseline_p", "random_p"]].stack()
    holm = searched[["baseline_p_holm", "random_p_holm"]].stack()
    assert len(p) == len(holm) == 4
    assert holm.min() == pytest.approx(min(1, 4 * p.min()))
    random = section(report, "Comparisons").query("row == 'random'")
    assert [*random["Holm p"]] == ["-", "-"]
    assert "-" not in [*random["p"]]


def test_a_family_of_unknown_rows_is_refused() -> None:
    with pytest.raises(ValidationError, match="family: there is no 'fastest'"):
        Table.model_validate({**CONTENT, "name": "study", "family": ["fastest"]})


def test_more_seeds_than_the_tables_own_are_not_missing_elsewhere(of: dict[str, Run]) -> None:
    """As where a row is borrowed from a table of more seeds."""
    table = Table.model_validate({**CONTENT, "name": "study", "seeds": [0, 1, 2]})
    runs = [
        ran(of[row], 2e-4, seed, (50.0, 80.0))
        for row, seeds in {"plain": range(6), "random": range(3), "searched": range(2)}.items()
        for seed in [100, 101, *seeds]
    ]
    missing = made(runs, table).numbers.set_index("row")["missing_seeds"]
    assert dict(missing) == {"plain": "", "random": "", "searched": "2"}


@pytest.mark.parametrize(
    ("second", "names"),
    [("rte", ["mrpc", "rte"]), ("mrpc", ["mrpc, large", "mrpc, small"])],
)
def test_the_model_is_named_where_a_task_has_several(
    second: str, names: list[str], of: dict[str, Run]
) -> None:
    runs = [
        ran(of[row], rate, 0, (50.0, 80.0), {"model.name": model, "task.name": task})
        for rate, model, task in ((1e-4, "some/large", "mrpc"), (2e-4, "some/small", second))
        for row in ("plain", "random")
    ]
    assert [*section(made(runs, FIXED), "Comparisons")["task"]] == names


def test_a_gain_has_its_cost_beside_it_and_what_is_ruled_out(of: dict[str, Run]) -> None:
    report = made(study(of, "mrpc"), FIXED)
    shown = section(report, "Gains").set_index(["row", "against"])
    gaps = [a - b for a, b in zip(VALUES["searched"], VALUES["plain"], strict=True)]
    bound = stats.t.interval(0.95, 5, sum(gaps) / 6, stats.sem(gaps))[1]
    row = shown.loc[("searched", "baseline")]
    assert list(row) == ["+0.20", f"above {bound:.2f}", "14.5", "12.5"]
    numbers = report.numbers.query("row == 'searched'").iloc[0]
    assert numbers["baseline_gain_ruled_out"] == pytest.approx(bound)
    assert (numbers["baseline_seconds_own"], numbers["random_seconds_other"]) == (14.5, 12.5)


@pytest.mark.parametrize(
    ("upwards", "words", "gain"), [(True, "any gain", "-1.00"), (False, "above 1.50", "+1.00")]
)
def test_where_less_is_better_a_gain_goes_down(
    of: dict[str, Run], upwards: bool, words: str, gain: str
) -> None:
    """Differences of -1.2, -0.8, -1.2, -0.8: an interval from -1.37 to -0.63."""
    runs = []
    for seed, gap in enumerate((1.2, 0.8, 1.2, 0.8)):
        shared = {"higher_is_better": upwards}
        runs.append(ran(of["plain"], 2e-4, seed, (50.0, 80.0), **shared))
        runs.append(ran(of["random"], 2e-4, seed, (50.0, 80.0 - gap), **shared))
    report = made(runs, FIXED)
    row = section(report, "Gains").iloc[0]
    bound = 1 + stats.t.ppf(0.975, 3) * stats.sem([1.2, 0.8, 1.2, 0.8])
    assert row["gain"] == gain
    assert row["ruled out"] == (words if upwards else f"above {bound:.2f}")


def test_one_seed_rules_nothing_out(of: dict[str, Run]) -> None:
    runs = [ran(of[row], 2e-4, 0, (50.0, 80.0)) for row in ("plain", "random")]
    report = made(runs, FIXED)
    assert section(report, "Gains")["ruled out"].tolist() == ["-"]
    entries = entries_of(FIXED, frame(runs))
    assert [one.ruled_out for one in compare(entries)] == [None]
