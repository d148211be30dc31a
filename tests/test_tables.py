"""Tables from records: what is shown, what is said of it, and in which formats."""

import copy
import io
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from records import PROVENANCE, write_run

from heterolora.errors import RecordError
from heterolora.reporting import published
from heterolora.reporting.cells import Cell, cells_of
from heterolora.reporting.layouts import LAYOUTS
from heterolora.reporting.load import Run, load
from heterolora.reporting.published import MODEL, SEEDS, Number
from heterolora.reporting.render import FORMATS
from heterolora.reporting.report import Report
from heterolora.reporting.statistics import spread
from heterolora.reporting.studies import rank_correlation
from heterolora.reporting.tables import NAMES, report, runs_for
from heterolora.reporting.tuning import chosen

EMBEDDED = ROOT / "heterolora" / "data" / "starter" / "model"
SCORES = {"layers.0.q": 1.0, "layers.0.v": 2.0, "layers.1.q": 3.0, "layers.1.v": 4.0}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; the others are this one with other settings and results."""
    output = tmp_path_factory.mktemp("template")
    write_run(output, f"model.path={EMBEDDED}", f"model.name={MODEL}", accuracies=[0.8, 0.7])
    return load(output)[0]


def variant(
    run: Run, settings: Mapping[str, Any], best: float, provenance: Any = PROVENANCE, **result: Any
) -> Run:
    """`run` with other settings, and a best epoch of `best` percent."""
    config = copy.deepcopy(run.config)
    for key, value in settings.items():
        *sections, leaf = key.split(".")
        node = config
        for name in sections:
            node[name] = node.get(name) or {}
            node = node[name]
        node[leaf] = list(value) if isinstance(value, tuple) else value
    rows = {
        "best": run.result["best"] | {"accuracy": best / 100},
        "last": run.result["last"] | {"accuracy": best / 100 - 0.01},
    }
    made = replace(run, config=config, result=run.result | rows | result)
    vars(made).update(provenance=provenance, searches=[])
    return made


def published_runs(template: Run, name: str) -> Iterator[Run]:
    """A run for every number that the authors logged of a table."""
    for arm in LAYOUTS[name]().arms:
        if arm.published is None:
            continue
        table, row = arm.published
        for task, number in published.TABLES[table].numbers[row].items():
            for seed, value in zip(SEEDS, number.logged, strict=False):
                if value is not None:
                    settings = {**arm.settings, "task.name": task, "seed": seed, "name": table}
                    yield variant(template, settings, value)


def arm_runs(template: Run, name: str, label: str, values: Mapping[int, float]) -> list[Run]:
    """Runs of one arm on MRPC: the best epoch by seed."""
    settings = {**LAYOUTS[name]().arm(label).settings, "task.name": "mrpc"}
    return [variant(template, settings | {"seed": seed}, best) for seed, best in values.items()]


def grid(made: Report) -> pd.DataFrame:
    return made.sections[0].frame.set_index("")


def section(made: Report, title: str) -> pd.DataFrame:
    return next(part.frame for part in made.sections if part.title == title)


def note(made: Report, start: str) -> str:
    return next(text for text in made.notes if text.startswith(start))


# ---- the paper's own numbers


def numbers() -> dict[tuple[str, str, str], Number]:
    """Every cell with a printed number and all the logs behind it."""
    return {
        (table, row, task): number
        for table, entry in published.TABLES.items()
        for row, tasks in entry.numbers.items()
        for task, number in tasks.items()
        if number.printed is not None and number.logged and None not in number.logged
    }


def differing(prepare: Any) -> set[tuple[str, str, str]]:
    """The cells whose logs, each seed first given to `prepare`, do not give what is printed."""
    found = set()
    for key, number in numbers().items():
        logs = spread([prepare(value) for value in number.logged])
        assert logs is not None
        same_std = number.printed_std is None or f"{logs.std:.1f}" == f"{number.printed_std:.1f}"
        if f"{logs.mean:.1f}" != f"{number.printed:.1f}" or not same_std:
            found.add(key)
    return found


def to_one_decimal(value: float) -> float:
    return float(Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_UP))


def test_the_papers_statistic_gives_most_of_its_cells() -> None:
    """19 cells have both numbers: 14 are equal; 17 if each seed is first rounded to a decimal."""
    assert len(numbers()) == 19
    rounding = {
        ("table4", "r2/dynamic", "mrpc"),
        ("table4", "r8/dynamic", "mrpc"),
        ("table5", "q_k_v_o", "mrpc"),
    }
    other = {("table4", "r2/homogeneous", "sst2"), ("table4", "r2/dynamic", "rte")}
    assert differing(lambda value: value) == rounding | other
    assert differing(to_one_decimal) == other


def test_table_4_is_made_again_from_the_logged_numbers(template: Run) -> None:
    shown = grid(report("4", list(published_runs(template, "4"))))
    unequal = differing(lambda value: value)
    names = {"homogeneous": "homogeneous", "dynamic": "dynamic GRAD-NORM"}
    equal = 0
    for row, tasks in published.TABLES["table4"].numbers.items():
        budget, strategy = row.split("/")
        position = shown.index.get_loc(f"{budget} {names[strategy]}")
        for task, number in tasks.items():
            printed = f"{number.printed:.1f} ± {number.printed_std:.1f}"
            assert shown.iloc[position + 1][task] == printed
            known = sum(value is not None for value in number.logged)
            same = shown.iloc[position][task] == f"{printed} ({known})"
            assert same == (known == 3 and ("table4", row, task) not in unequal)
            equal += same
    assert equal == 7
    assert shown.loc["r8 homogeneous", "sst2"] == "93.9 ± 0.3 (2)"
    assert set(shown.loc["r2 dynamic random"]) == {"missing"}


@pytest.mark.parametrize("name", ["2", "5", "6"])
def test_each_logged_number_finds_its_row(template: Run, name: str) -> None:
    """Not twice, and no run is a stranger to the table."""
    runs = list(published_runs(template, name))
    made = report(name, runs)
    for _, row in made.numbers.dropna(subset="logged_mean").iterrows():
        assert (row["best_mean"], row["n"]) == pytest.approx((row["logged_mean"], row["logged_n"]))
    assert not any("belong to no row" in text for text in made.notes)


def test_another_model_has_no_published_numbers_beside_it(template: Run) -> None:
    runs = [variant(run, {"model.name": "my/model"}, 80.0) for run in published_runs(template, "4")]
    made = report("4", runs)
    assert "  the paper" not in grid(made).index
    assert made.numbers["printed_mean"].isna().all()
    assert note(made, "the paper's numbers are of facebook/opt-350m").endswith("my/model")


def test_another_learning_rate_than_the_papers_is_said(template: Run) -> None:
    runs = list(published_runs(template, "4"))
    runs[0].config["optimizer"]["learning_rate"] = 0.5
    assert "0.5" in note(report("4", runs), "mrpc: learning rate")


# ---- what stands in a table


def test_comparisons_are_paired_with_baseline_and_random(template: Run) -> None:
    base = arm_runs(template, "4", "r2 homogeneous", {0: 80.0, 13: 80.0, 42: 80.0})
    searched = arm_runs(template, "4", "r2 dynamic GRAD-NORM", {0: 81.0, 13: 82.0, 42: 83.0})
    control = arm_runs(template, "4", "r2 dynamic random", {0: 81.0, 13: 82.0})
    made = report("4", [*base, *searched, *control])
    frame = section(made, "Comparisons, seed by seed").set_index(["row", "against"])
    against = frame.loc[("r2 dynamic GRAD-NORM", "baseline")]
    assert list(against[["n", "difference", "p", "Holm p"]]) == ["3", "+2.00", "0.25", "0.75"]
    assert against["95 % interval"] == "-0.48 to +4.48"
    assert against["seeds needed"].endswith("for 0.6")
    assert frame.loc[("r2 dynamic GRAD-NORM", "random"), "95 % interval"] == "no spread"
    row = made.numbers.query("row == 'r2 dynamic GRAD-NORM'").iloc[0]
    assert row["baseline_row"] == "r2 homogeneous"
    assert (row["random_n"], row["random_difference"]) == (2, 0.0)
    assert note(made, "n = 3") == "n = 3 cannot give p < 0.25, whatever the runs show"


def test_one_seed_says_nothing(template: Run) -> None:
    base = arm_runs(template, "4", "r2 homogeneous", {0: 80.0})
    made = report("4", base + arm_runs(template, "4", "r2 dynamic GRAD-NORM", {0: 81.0}))
    row = section(made, "Comparisons, seed by seed").iloc[0]
    assert list(row[["difference", "95 % interval", "p", "seeds needed"]]) == [
        "+1.00",
        "one seed",
        "-",
        "-",
    ]
    assert note(made, "n = 1: one seed says nothing")
    assert grid(made).loc["r2 homogeneous", "mrpc"] == "80.0 (1)"


def test_missing_cells_and_seeds_are_named(template: Run) -> None:
    runs = arm_runs(template, "4", "r2 homogeneous", {0: 80.0, 42: 81.0})
    runs += arm_runs(template, "4", "r2 dynamic GRAD-NORM", {13: 81.0})
    made = report("4", runs)
    assert grid(made).loc["r8 homogeneous", "mrpc"] == "missing"
    assert note(made, "seed 13 missing") == "seed 13 missing: mrpc (r2 homogeneous)"
    assert "r8 dynamic random" in note(made, "no finished run")
    assert note(made, "no seed in common with its baseline").endswith("(r2 dynamic GRAD-NORM)")
    assert note(made, "no run at all of rte, sst2")
    assert "make table4 runs what is missing" in made.notes


def test_failed_and_unfinished_runs_are_listed_and_not_counted(template: Run) -> None:
    good, failed, running = arm_runs(template, "4", "r2 homogeneous", {0: 80.0, 13: 9.0, 42: 9.0})
    failed = replace(failed, result=failed.result | {"status": "failed", "error": "no memory"})
    running = replace(running, result={"schema_version": 1, "status": "running"})
    made = report("4", [good, failed, running])
    assert grid(made).loc["r2 homogeneous", "mrpc"] == "80.0 (1)"
    assert note(made, "not counted, failed").endswith("no memory")
    assert note(made, "not counted, running").endswith("its process goes on, or was killed")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer.learning_rate": 0.5}, "mixed optimizer.learning_rate: 0.0002 (seed 0, 13)"),
        ({"precision": "bf16"}, "mixed precision: fp32 (seed 0, 13); bf16 (seed 42)"),
        ({"device": "cuda"}, "mixed device: cpu (seed 0, 13); cuda (seed 42)"),
        ({"training.epochs": 9}, "mixed training.epochs: 2 (seed 0, 13); 9 (seed 42)"),
        ({"seed": 13}, "seed 13 has 2 runs, whose mean is counted once"),
    ],
)
def test_mixed_settings_in_a_cell_are_flagged(
    template: Run, change: Mapping[str, Any], said: str
) -> None:
    runs = arm_runs(template, "4", "r2 homogeneous", {0: 80.0, 13: 81.0, 42: 82.0})
    for run in runs:
        run.config["optimizer"]["learning_rate"] = 2e-4
    runs[2] = variant(runs[2], change, 82.0)
    made = report("4", runs)
    assert grid(made).loc["r2 homogeneous", "mrpc"].endswith("!")
    assert said in note(made, "! r2 homogeneous, mrpc")
    assert said in made.numbers.query("row == 'r2 homogeneous'")["flags"].iloc[0]


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("code", "commit", "f" * 40, f"mixed code commit: {'0' * 12} (seed 0); {'f' * 12}"),
        ("code", "dirty", True, "mixed uncommitted changes: no (seed 0); yes (seed 13)"),
        ("packages", "torch", "3.0", "mixed torch: 2.13.0 (seed 0); 3.0 (seed 13)"),
        ("packages", "transformers", "6", "mixed transformers: unknown (seed 0); 6 (seed 13)"),
        ("hardware", "device_name", "H100", "mixed device name: x86_64 (seed 0); H100 (seed 13)"),
    ],
)
def test_mixed_origins_in_a_cell_are_flagged(
    template: Run, part: str, key: str, value: Any, said: str
) -> None:
    runs = arm_runs(template, "4", "r2 homogeneous", {0: 80.0, 13: 81.0})
    changed = PROVENANCE | {part: PROVENANCE[part] | {key: value}}
    made = report("4", [runs[0], variant(runs[1], {}, 81.0, changed)])
    assert said in note(made, "! r2 homogeneous, mrpc: mixed")
    dirty = [text for text in made.notes if "a working tree with uncommitted" in text]
    assert bool(dirty) == (key == "dirty")


def test_a_run_that_went_on_with_other_code_is_flagged(template: Run) -> None:
    runs = arm_runs(template, "4", "r2 homogeneous", {0: 80.0, 13: 81.0})
    other = {"commit": "f" * 40, "dirty": False}
    resumed = {**PROVENANCE, "resumed": [{"step": 3, "code": other}]}
    made = report("4", [runs[0], variant(runs[1], {}, 81.0, resumed)])
    said = f"mixed code commit: {'0' * 12} (seed 0); {'0' * 12} then {'f' * 12} (seed 13)"
    assert said in note(made, "! r2 homogeneous, mrpc: mixed")


def test_rows_that_differ_in_more_than_their_arm_are_named(template: Run) -> None:
    base = arm_runs(template, "4", "r2 homogeneous", {0: 80.0})
    searched = arm_runs(template, "4", "r2 dynamic GRAD-NORM", {0: 81.0})
    searched[0].config["optimizer"]["learning_rate"] = 0.5
    assert "rows differ in optimizer.learning_rate" in " ".join(report("4", base + searched).notes)


def test_degenerate_searches_are_counted(template: Run) -> None:
    ranks = dict.fromkeys(SCORES, 8)
    row = {"step": 0, "degenerate": True, "tied": 4, "scores": SCORES, "ranks": ranks}
    decisive = row | {"degenerate": False, "tied": 0}
    tied = decisive | {"tied": 2}
    printed = arm_runs(template, "2", "SNIP, as printed, dynamic", {0: 80.0})
    vars(printed[0])["searches"] = [row] * 25
    probed = arm_runs(template, "2", "SNIP, dynamic", {0: 80.0})
    vars(probed[0])["searches"] = [decisive, tied]
    control = arm_runs(template, "2", "CONSTANT (random), dynamic", {0: 80.0})
    vars(control[0])["searches"] = [row] * 25
    made = report("2", [*printed, *probed, *control])
    assert note(made, "degenerate searches").endswith(": SNIP, as printed, dynamic 25 of 25")
    cost = section(made, "Cost and searches").set_index("row")
    assert list(cost.loc["SNIP, dynamic", ["degenerate", "tied"]]) == ["0 of 2", "1 of 2"]
    assert cost.loc["SNIP, as printed, dynamic", "degenerate"] == "25 of 25"


def test_table_2_has_proxies_down_and_strategies_across(template: Run) -> None:
    shown = grid(report("2", list(published_runs(template, "2"))))
    assert list(shown.columns) == ["homogeneous", "static", "dynamic"]
    assert shown.loc["GRAD-NORM", "dynamic"] == "84.1 (1)"
    assert "SNIP, as printed" in shown.index
    some = [run for run in published_runs(template, "2") if run.setting("proxy.name") != "snip"]
    some = [run for run in some if run.setting("proxy.weights") != "current"]
    assert "SNIP, as printed" not in grid(report("2", some)).index


def test_cost_is_the_median_over_runs(template: Run) -> None:
    seconds = [(90.0, 50.0, 10.0), (100.0, 20.0, 20.0), (80.0, 10.0, 20.0)]
    names = ("training", "searching", "evaluating")
    runs = [
        variant(run, {}, 80.0, seconds=dict(zip(names, row, strict=True)))
        for run, row in zip(
            arm_runs(template, "4", "r2 dynamic random", dict.fromkeys(SEEDS, 80.0)),
            seconds,
            strict=True,
        )
    ]
    row = report("4", runs).numbers.query("row == 'r2 dynamic random'").iloc[0]
    assert (row["seconds_training"], row["seconds_searching"]) == (90.0, 20.0)
    assert row["overhead_percent"] == pytest.approx(100 * 20 / 120)


def test_table_9_borrows_its_baseline_and_control_from_table_4(template: Run) -> None:
    own = arm_runs(template, "9", "combined, 5", dict.fromkeys(SEEDS, 84.0))
    own = [variant(run, {"name": "table9"}, 84.0) for run in own]
    others = [
        variant(run, {"name": "table4"}, 83.0)
        for label in ("r2 homogeneous", "r2 dynamic random")
        for run in arm_runs(template, "4", label, dict.fromkeys(SEEDS, 83.0))
    ]
    for run in others:
        run.config["strategy"]["searches_per_epoch"] = 5
    made = report("9", runs_for("9", own + others))
    roles = section(made, "Comparisons, seed by seed").query("row == 'combined, 5'")["against"]
    assert list(roles) == ["baseline", "random"]
    assert grid(made).loc["combined", "5"] == "84.0 ± 0.0 (3)"


def test_only_runs_of_the_experiment_are_taken_where_there_are_any(template: Run) -> None:
    runs = arm_runs(template, "2", "SNIP, static", {0: 80.0, 13: 81.0, 42: 82.0})
    mine = [variant(runs[0], {"name": "table2/as_printed"}, 80.0)]
    other = [variant(runs[1], {"name": "table23"}, 80.0), runs[2]]
    assert runs_for("2", mine + other) == mine
    assert runs_for("2", other) == other


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_report_says_what_to_run(template: Run, name: str) -> None:
    stranger = variant(template, {"strategy.name": "other"}, 80.0)
    with pytest.raises(RecordError, match=r"no run here .*; make \w+ makes"):
        report(name, [stranger])


# ---- the open questions


def halves(template: Run, scores: Mapping[tuple[float, int], tuple[float, float]]) -> list[Run]:
    """Runs of the homogeneous arm: by rate and seed, the selection and the report half."""
    settings = {**LAYOUTS["learning_rate"]().arm("homogeneous").settings}
    runs = []
    for (rate, seed), (selecting, reporting) in scores.items():
        where = settings | {"optimizer.learning_rate": rate, "seed": seed}
        run = variant(template, where, selecting)
        rows = {
            key: run.result[key] | {"report_accuracy": reporting / 100} for key in ("best", "last")
        }
        runs.append(replace(run, result=run.result | rows))
    return runs


def test_a_learning_rate_is_chosen_by_one_half_and_reported_by_the_other(template: Run) -> None:
    scores = {(1e-4, 0): (80.0, 99.0), (1e-4, 13): (82.0, 99.0), (2e-4, 0): (84.0, 70.0)}
    made = report("learning_rate", halves(template, scores | {(2e-4, 13): (79.0, 72.0)}))
    row = made.numbers.query("row == 'homogeneous'").iloc[0]
    assert (row["best_mean"], row["n"]) == (71.0, 2)
    tried = section(made, "Values tried").set_index("optimizer.learning_rate")
    assert tried.loc["0.0002", ""] == "chosen"
    assert tried.loc["0.0001", "selection half"] == "81.0 ± 1.4"
    uneven = report("learning_rate", halves(template, scores))
    assert "not tried with the same seeds" in " ".join(uneven.notes)


PERCENT = st.floats(0, 100)


@given(
    st.lists(PERCENT, min_size=3, max_size=3),
    st.lists(PERCENT, min_size=3, max_size=3),
    st.lists(PERCENT, min_size=3, max_size=3),
)
def test_the_choice_never_reads_the_report_half(
    template: Run, selecting: list[float], one: list[float], two: list[float]
) -> None:
    keys = [(rate, 0) for rate in (1e-4, 2e-4, 3e-4)]
    choices = []
    for reporting in (one, two):
        pairs = list(zip(selecting, reporting, strict=True))
        (cell, *_) = cells_of(
            LAYOUTS["learning_rate"](), halves(template, dict(zip(keys, pairs, strict=True)))
        )
        choices.append(chosen(cell, "optimizer.learning_rate"))
    assert choices[0] == choices[1] == keys[selecting.index(max(selecting))][0]


def test_importance_is_a_rank_correlation_by_proxy(template: Run) -> None:
    def measured(seed: int, costs: Sequence[float]) -> Run:
        rows = [
            {
                "site": site,
                "loss_difference": cost,
                "metric_difference": 0.0,
                "scores": {"gradnorm": score, "snip": 0.0},
            }
            for (site, score), cost in zip(SCORES.items(), costs, strict=True)
        ]
        run = variant(template, {"name": "importance", "seed": seed}, 80.0)
        vars(run)["importance"] = rows
        return run

    runs = [measured(0, [0.1, 0.2, 0.3, 0.4]), measured(13, [0.4, 0.3, 0.2, 0.1])]
    runs.append(measured(42, [0.1, 0.3, 0.2, 0.4]))
    assert rank_correlation(runs[2], "gradnorm") == pytest.approx(1 - 6 * 2 / (4 * 15))
    made = report("importance", runs)
    row = made.sections[0].frame.set_index("proxy").loc["gradnorm"]
    assert list(row[["n", "Spearman", "lowest", "highest"]]) == ["3", "+0.27", "-1.00", "+1.00"]
    assert made.sections[0].frame.set_index("proxy").loc["snip", "Spearman"] == "-"
    assert "snip" in note(made, "snip, dynamic gradnorm, starter_paraphrase, seed 0, 13, 42")


def test_stability_is_the_overlap_of_the_last_searches(template: Run) -> None:
    on = {0: ["layers.0.q", "layers.0.v"], 13: ["layers.0.q", "layers.0.v"], 42: ["layers.0.q"]}
    runs = arm_runs(template, "stability", "GRAD-NORM, dynamic", {0: 80.0, 13: 83.0, 42: 81.0})
    for run in runs:
        ranks = {site: 8 * (site in on[run.seed]) for site in SCORES}
        search = {"step": 0, "degenerate": False, "tied": 0, "scores": SCORES, "ranks": ranks}
        vars(run)["searches"] = [search | {"ranks": dict.fromkeys(SCORES, 8)}, search]
    row = section(report("stability", runs), "Stability over seeds").iloc[0]
    assert list(row[["n", "Jaccard", "lowest", "highest", "range"]]) == [
        "3",
        "0.67",
        "0.50",
        "1.00",
        "3.0",
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_arms_of_a_table_exclude_each_other(template: Run, name: str) -> None:
    table = LAYOUTS[name]()
    for arm in table.arms:
        run = variant(template, arm.settings, 80.0)
        assert [other.label for other in table.arms if other.holds(run)] == [arm.label]
        assert arm.baseline is None or table.arm(arm.baseline).settings != arm.settings
        if arm.published is not None:
            assert arm.published[1] in published.TABLES[arm.published[0]].numbers
    every = [variant(template, arm.settings, 80.0) for arm in table.arms]
    cells: list[Cell] = cells_of(table, every)
    assert [len(cell.runs) for cell in cells] == [1] * len(table.arms)


# ---- formats


@pytest.fixture(scope="module")
def table4(template: Run) -> Report:
    runs = list(published_runs(template, "4"))
    runs[0].result["status"] = "failed"
    runs[0].result["error"] = "50 % of <b>it_broke</b> & $x^2$ {was} lost | ~ \\n"
    return report("4", runs)


def test_csv_reads_back(table4: Report) -> None:
    frame = pd.read_csv(io.StringIO(FORMATS["csv"](table4)))
    assert len(frame) == 18
    row = frame.query("row == 'r2 dynamic GRAD-NORM' and task == 'rte'").iloc[0]
    assert row["best_mean"] == pytest.approx((74.46 + 70.86 + 73.02) / 3)
    assert (row["n"], row["printed_mean"], row["printed_std"]) == (3, 72.9, 1.8)
    assert row["baseline_difference"] == pytest.approx(row["best_mean"] - (75.9 + 72.3 + 71.94) / 3)


def test_html_is_well_formed(table4: Report) -> None:
    page = ElementTree.fromstring(FORMATS["html"](table4).split("\n", 1)[1])
    tables = page.findall(".//table")
    assert len(tables) == len(table4.sections)
    shown = ["".join(cell.itertext()) for cell in tables[0].iter("td")]
    assert shown == [str(value).strip() for value in table4.sections[0].frame.to_numpy().ravel()]


def test_latex_is_balanced(table4: Report) -> None:
    text = FORMATS["latex"](table4)
    opened = re.findall(r"\\begin\{(\w+\*?)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+\*?)\}", text))
    assert opened.count("tabular") == len(table4.sections)
    plain = re.sub(r"\\[{}$%&_#]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == sum(len(part.frame) + 1 for part in table4.sections)


def test_markdown_has_every_cell(table4: Report) -> None:
    text = FORMATS["markdown"](table4)
    frame = table4.sections[0].frame
    lines = [line for line in text.split("### ")[1].splitlines() if line.startswith("|")]
    body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert body == [[str(cell).strip() for cell in row] for row in frame.to_numpy()]


def test_the_terminal_has_100_columns_and_no_nan(table4: Report) -> None:
    text = FORMATS["terminal"](table4)
    assert max(map(len, text.splitlines())) <= 100
    assert "nan" not in text.lower().replace("finance", "")
    assert "None" not in text
    assert "it_broke" in text
    first = text.index("r2 homogeneous")
    assert first < text.index("Comparisons") < text.index("Cost") < text.index("Notes")


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"4"}))
def test_every_table_has_every_format(template: Run, name: str) -> None:
    table = LAYOUTS[name]()
    every = [
        variant(template, {**arm.settings, "seed": seed, "task.name": task}, 80 + seed / 10)
        for arm in table.arms
        for seed in SEEDS
        for task in ("mrpc", "rte")
    ]
    for run in every:
        for key in ("best", "last"):
            run.result[key]["report_accuracy"] = run.result[key]["accuracy"]
    made = report(name, every)
    for write in FORMATS.values():
        assert "nan" not in write(made)
    assert max(map(len, FORMATS["terminal"](made).splitlines())) <= 100
    shown = made.numbers["best_mean"]
    assert not any(math.isnan(mean) for mean in shown)


# ---- the command line


def command(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "scripts" / "report.py", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_reports_without_torch(tmp_path: Path) -> None:
    for strategy, accuracy in (("homogeneous", 0.8), ("dynamic", 0.81)):
        shared = ("name=table2", f"strategy={strategy}", "seed=13")
        write_run(tmp_path, *shared, accuracies=[accuracy, 0.7])
    file = tmp_path / "table.csv"
    where = ("--where", "strategy.name=dynamic", "--where", "training.epochs=2")
    done = command(tmp_path, "--table", "2", "--format", "csv", "--output", file, *where)
    assert done.returncode == 0, done.stderr
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "wandb", "matplotlib", "datasets"}
    frame = pd.read_csv(file).dropna(subset="best_mean")
    assert list(zip(frame["row"], frame["column"], frame["best_mean"], strict=True)) == [
        ("GRAD-NORM", "dynamic", 81.0)
    ]


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, "--table", "4")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert lines == [
        "error: no run here is of Table 4: homogeneous and dynamic; make table4 makes its runs"
    ]
