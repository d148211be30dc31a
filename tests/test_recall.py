"""Recall of planted sites, and where sites stand by role and depth."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import yaml
from records import PROVENANCE, write_run

from heterolora.errors import RecordError
from heterolora.harness.paths import CONF
from heterolora.harness.records.load import load
from heterolora.harness.reporting.figures.draw import draw
from heterolora.harness.reporting.frame import finished, frame
from heterolora.harness.reporting.layout import read
from heterolora.harness.reporting.sites.frame import sites
from heterolora.harness.reporting.sites.recall import recall
from heterolora.harness.reporting.sites.standing import mean_standings, places, standings
from heterolora.harness.reporting.tables.build import report

SITES = [f"layers.{layer}.{role}" for layer in range(3) for role in "qv"]
PLANTED = CONF / "experiment" / "planted.yaml"
TABLE = read(PLANTED)


def by_hand(values: Mapping[str, float], right: set[str]) -> float:
    """The mean over all orders of the sites, of which a stable sort takes the first."""
    found = []
    for order in itertools.permutations(values):
        chosen = sorted(order, key=lambda site: -values[site])[: len(right)]
        found.append(len(right & set(chosen)) / len(right))
    return sum(found) / len(found)


@pytest.mark.parametrize(
    "numbers", [(6, 5, 4, 3, 2, 1), (1, 1, 1, 1, 1, 1), (2, 2, 2, 1, 1, 1), (3, 1, 2, 2, 2, 0)]
)
def test_recall_takes_ties_as_chance_would(numbers: tuple[int, ...]) -> None:
    values = dict(zip(SITES, map(float, numbers), strict=True))
    for right in itertools.combinations(SITES, 2):
        assert recall(pd.Series(values), right) == pytest.approx(by_hand(values, set(right)))


def test_a_right_site_that_a_run_lacks_is_not_found() -> None:
    right = ["layers.0.v", "layers.1.v"]
    assert recall(pd.Series({"layers.0.q": 1.0, "layers.0.v": 2.0}), right) == 0.5
    assert recall(pd.Series({"layers.0.q": 1.0}), right) == 0.0


def rows(scores: Mapping[str, float], costs: Mapping[str, float]) -> list[dict[str, object]]:
    return [
        {
            "site": site,
            "loss_difference": costs[site],
            "metric_difference": 0.0,
            "scores": {"constant": 1.0, "snip": scores[site]},
        }
        for site in SITES
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plantings: SNIP finds one of two sites, then both; the search none, then one."""
    output = tmp_path_factory.mktemp("outputs")
    for planting, right in ((0, ["layers.0.q", "layers.2.v"]), (1, SITES[:2])):
        scores = dict(zip(SITES, (6.0, 5.0, 4.0, 3.0, 2.0, 1.0), strict=True))
        costs = {site: float(site in right) for site in SITES}
        origin = {**PROVENANCE, "data": {"planted": right}}
        task = ("task=starter_planted", f"task.planting={planting}", "name=planted", "device=cpu")
        write_run(
            output,
            *task,
            "strategy=homogeneous",
            accuracies=[0.5],
            importance=rows(scores, costs),
            provenance=origin,
        )
        on = [SITES[2], SITES[3]] if planting == 0 else [SITES[1], SITES[3]]
        write_run(
            output,
            *task,
            "strategy=static",
            accuracies=[0.5],
            scores=[scores],
            enabled=[on],
            provenance=origin,
        )
    return output


def test_the_table_has_every_rule(runs: Path) -> None:
    records, problems = load(runs)
    assert not problems
    made = report(TABLE, frame(records))
    found = made.sections[0].frame.set_index("rule")
    shown = {rule: list(row) for rule, row in found.drop(columns="task").iterrows()}
    chance = "0.33 (2 of 6)"
    assert shown == {
        "importance, after training": ["2", "1.00", "1.00", "1.00", chance],
        "snip, before training": ["2", "0.75", "0.50", "1.00", chance],
        "constant, before training": ["2", "0.33", "0.33", "0.33", chance],
        "static gradnorm": ["2", "0.25", "0.00", "0.50", chance],
    }


def test_without_a_planted_task_there_is_no_recall(tmp_path: Path) -> None:
    write_run(tmp_path, "strategy=homogeneous", "device=cpu", accuracies=[0.5])
    records, _ = load(tmp_path)
    with pytest.raises(RecordError, match="no run here is of a planted task; run make planted"):
        report(TABLE, frame(records))


def test_the_frame_of_sites_has_searches_and_what_was_measured_beside_them(runs: Path) -> None:
    """A measured score must not be taken for a search, nor one run's for another's."""
    records = load(runs)[0]
    measured = next(run for run in records if run.importance)
    searched = next(run for run in records if run.searches)
    found = sites([measured, searched])
    assert list(found.columns) == ["run", "search", "site", "score", "rank"]
    assert dict(found.groupby(["run", "search"], sort=False).size()) == {
        **{(0, rule): len(SITES) for rule in ("importance", "constant", "snip")},
        (1, 0): len(SITES),
    }
    ranks = found[found["run"] == 1].set_index("site")["rank"]
    assert dict(ranks) == searched.searches[0].ranks
    assert list(found["rank"].isna()) == list(found["run"] == 0)


def test_sites_stand_between_0_and_1(runs: Path) -> None:
    first, *_ = (run for run in load(runs)[0] if run.importance)
    found = standings([first]).droplevel("run")
    assert list(found.loc[SITES, "snip"]) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert list(found["constant"]) == [0.5] * 6
    # Two sites that cost 1 share the ranks 5 and 6 of 6, the others 1 to 4.
    assert sorted(found["importance"]) == pytest.approx([0.3] * 4 + [0.9] * 2)


def test_the_importance_report_shows_roles_and_depth(runs: Path) -> None:
    records, _ = load(runs)
    made = report(read(CONF / "experiment" / "importance.yaml"), frame(records))
    (place,) = (part for part in made.sections if part.title.startswith("Where sites rank"))
    assert place.title == "Where sites rank: starter_planted, heterolora/opt-starter"
    found = place.frame.set_index("sites")
    assert list(found.columns) == ["importance", "constant", "snip"]
    assert list(found.index) == ["q", "v", "early", "middle", "late"]
    assert list(found["snip"]) == ["0.60", "0.40", "0.90", "0.50", "0.10"]
    assert set(found["constant"]) == {"0.50"}


def test_what_training_without_a_site_costs(runs: Path, tmp_path: Path) -> None:
    """Over seeds that both have; the run without two sites says nothing of either."""
    shutil.copytree(runs, tmp_path / "runs")
    common = ("task=starter_planted", "task.planting=0", "name=planted", "device=cpu")
    costs = {site: float(5 - place) for place, site in enumerate(SITES)}
    for seed, best in ((7, 0.9), (8, 0.8)):
        arms = {(): best, (SITES[0], SITES[1]): 0.1}
        arms |= {(site,): best - (cost + seed - 7.5) / 100 for site, cost in costs.items()}
        for left_out, accuracy in arms.items():
            exclude = f"search_space.exclude=[{','.join(left_out)}]"
            own = (*common, "strategy=homogeneous", f"seed={seed}", exclude)
            write_run(tmp_path / "runs", *own, accuracies=[accuracy])
    alone = (*common, "strategy=homogeneous", "seed=9", f"search_space.exclude=[{SITES[0]}]")
    write_run(tmp_path / "runs", *alone, accuracies=[0.0])
    records, _ = load(tmp_path / "runs")
    ((place, measured, found),) = places(finished(frame(records)))
    assert place == "starter_planted, heterolora/opt-starter"
    assert len(measured) == 2
    assert found == pytest.approx(costs)
    made = report(read(CONF / "experiment" / "importance.yaml"), frame(records))
    stands, foretold = made.sections[1:]
    assert list(stands.frame.columns)[:3] == ["sites", "importance", "trained without"]
    assert foretold.frame.set_index("rule").loc["snip", "Spearman"] == "+1.00"
    assert "costs +0.0 to +5.0 points (6 sites" in foretold.explanation


def test_the_maps_have_a_panel_for_importance_and_each_proxy(runs: Path, tmp_path: Path) -> None:
    records, _ = load(runs)
    measured = frame([run for run in records if run.importance])
    files = draw(measured, tmp_path)
    assert {file.suffix for file in files if file.name.startswith("importance")} == {".png", ".svg"}
    means = mean_standings([run for run in records if run.importance])
    assert list(means.columns) == ["importance", "constant", "snip"]


def test_the_experiment_asks_every_proxy() -> None:
    """One that is added is to be asked here too; what needs training steps is asked by a search."""
    first, *others = yaml.safe_load(PLANTED.read_text())["hydra"]["sweeper"]["grids"]
    asked = {value for key, value in first.items() if key.startswith("+proxy@importance.")}
    searching = ",".join(grid["proxy"] for grid in others).split(",")
    assert asked == {file.stem for file in (CONF / "proxy").glob("*.yaml")} - {"sensitivity"}
    assert "sensitivity" in searching
