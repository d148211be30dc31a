"""What the figures plot, read back from them, and the files that `draw` leaves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CONF
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from records import write_run

from heterolora.harness.records.load import load
from heterolora.harness.records.read import Run
from heterolora.harness.reporting.arms import Arm, arms
from heterolora.harness.reporting.figures.curves import GRAY, PROXY_COLORS, panels, proxy_colors
from heterolora.harness.reporting.figures.draw import (
    draw,
    frequency_map,
    paper_frequency,
    proxy_matrix,
    role_bars,
    score_trajectories,
    seed_matrix,
    validation_curves,
)
from heterolora.harness.reporting.figures.style import ROLE_COLORS, WIDTH, slug
from heterolora.harness.reporting.frame import frame
from heterolora.harness.reporting.layout import frequencies
from heterolora.harness.reporting.sites.agreement import by_proxy
from heterolora.sites import ROLES

SPACE = "search_space=lora_shortcuts"
LAYERS, COLUMNS = 3, ["q", "v", "res1", "res2", "in", "cut"]
SITES = [
    f"layers.{layer}.{role}"
    for layer in range(LAYERS)
    for role in COLUMNS
    if (layer, role) != (0, "cut")
]
SHORTCUTS = [site for site in SITES if site[-1] not in "qv"]
SEARCHES = 4
WEIGHTS = ("current", "probe")
PAPER = frequencies(CONF / "experiment")
FIGURE4 = {
    (8, "combined"): PAPER[0].roles,
    (32, "combined"): PAPER[1].roles,
    (8, "separated"): PAPER[2].roles,
    (32, "separated"): PAPER[3].roles,
}
"""By the rank of a site that is on and the pool."""


def searched(
    output: Path, seed: int, *overrides: str, sites: Sequence[str] = SITES, searches: int = SEARCHES
) -> list[frozenset[str]]:
    """A run with random scores whose upper third is on; returns what is on at each search."""
    rng = np.random.default_rng(seed)
    scores = [
        dict(zip(sites, rng.uniform(1, 9, len(sites)).tolist(), strict=True))
        for _ in range(searches)
    ]
    on = [sorted(row, key=row.__getitem__)[-len(sites) // 3 :] for row in scores]
    accuracies = rng.uniform(0.5, 0.9, 3).tolist()
    write_run(output, f"seed={seed}", *overrides, accuracies=accuracies, scores=scores, enabled=on)
    return [frozenset(sites) for sites in on]


def runs_in(output: Path) -> pd.DataFrame:
    found, problems = load(output)
    assert problems == []
    return frame(found)


def only(output: Path) -> Arm:
    (arm,) = arms(runs_in(output))
    return arm


def only_run(output: Path) -> Run:
    (run,) = runs_in(output)["run"]
    return run


def expected_percent(runs: Sequence[Sequence[frozenset[str]]]) -> NDArray[np.float64]:
    """(layers, roles), counted site by site; NaN for layer 0's cut."""
    values = np.full((LAYERS, len(COLUMNS)), np.nan)
    for site in SITES:
        _, layer, role = site.split(".")
        shares = [sum(site in on for on in searches) / len(searches) for searches in runs]
        values[int(layer), COLUMNS.index(role)] = 100 * sum(shares) / len(shares)
    return values


def image(figure: Figure) -> NDArray[np.float64]:
    (drawn,) = figure.axes[0].get_images()
    return np.ma.filled(np.ma.asarray(drawn.get_array()), np.nan)


def tick_labels(figure: Figure) -> tuple[list[str], list[str]]:
    axes = figure.axes[0]
    return [t.get_text() for t in axes.get_xticklabels()], [
        t.get_text() for t in axes.get_yticklabels()
    ]


@pytest.mark.parametrize("seeds", [(0,), (0, 13, 42)])
def test_a_frequency_map_is_the_mean_over_seeds(seeds: Sequence[int], tmp_path: Path) -> None:
    on = [searched(tmp_path, seed, SPACE) for seed in seeds]
    figure = frequency_map(only(tmp_path).searched, "some")
    np.testing.assert_allclose(image(figure), expected_percent(on))
    assert np.isnan(image(figure)[0, COLUMNS.index("cut")])  # hatched: no such site
    assert figure.axes[0].patch.get_hatch()
    assert tick_labels(figure) == (COLUMNS, ["0", "1", "2"])
    assert figure.axes[0].get_images()[0].get_clim() == (0, 100)
    assert figure.get_figwidth() == WIDTH


def bars(figure: Figure) -> list[BarContainer]:
    return [bars for bars in figure.axes[0].containers if isinstance(bars, BarContainer)]


def test_bars_are_means_over_layers_with_the_spread_over_seeds(tmp_path: Path) -> None:
    on = [searched(tmp_path, seed, SPACE) for seed in (0, 13, 42)]
    paper = FIGURE4[(8, "combined")]
    ours, theirs = bars(role_bars(only(tmp_path).searched, "some", paper, "#123456"))
    by_seed = np.array([np.nanmean(expected_percent([of_seed]), axis=0) for of_seed in on])
    np.testing.assert_allclose([bar.get_height() for bar in ours], by_seed.mean(axis=0))
    assert [bar.get_height() for bar in theirs] == [paper[role] for role in COLUMNS]
    assert ours.errorbar is not None
    segments = ours.errorbar.lines[2][0].get_segments()
    lengths = [float(np.ptp(segment[:, 1])) for segment in segments]
    np.testing.assert_allclose(lengths, 2 * by_seed.std(axis=0, ddof=1))
    assert theirs.errorbar is None
    assert {to_hex(bar.get_facecolor()) for bar in ours} == {"#123456"}


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    searched(tmp_path, 0, SPACE)
    (ours,) = bars(role_bars(only(tmp_path).searched, "some", None, "#123456"))
    assert ours.errorbar is None


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["rank_budget=r2"], (8, "combined")),
        (["rank_budget=r8"], (32, "combined")),
        (["rank_budget=r2", "search_space.pool=separated"], (8, "separated")),
        (["rank_budget=l2_s11"], None),
        (["proxy=snip"], None),
        (["strategy=static"], None),
        (["search_space.projections=[q,v,o]"], None),
        (["task=starter_paraphrase"], None),
    ],
)
def test_the_paper_stands_beside_its_own_settings(
    overrides: Sequence[str], key: str | None, tiny: Sequence[str], tmp_path: Path
) -> None:
    searched(tmp_path, 0, *tiny, "task=mrpc", SPACE, *overrides, searches=1)
    expected = None if key is None else FIGURE4[key]
    assert paper_frequency(only(tmp_path), PAPER) == expected


def curves(output: Path) -> Figure:
    return validation_curves(arms(runs_in(output)), "some", PROXY_COLORS)


def drawn(axes: Axes) -> dict[str, Line2D]:
    """The lines of a panel by their labels."""
    return {str(line.get_label()): line for line in axes.lines if line.get_linestyle() != "None"}


def test_a_reference_is_the_mean_amid_its_range(tmp_path: Path) -> None:
    accuracies = {0: [0.5, 0.6, 0.9], 13: [0.7, 0.6, 0.6], 42: [0.6, 0.9, 0.6]}
    for seed, values in accuracies.items():
        write_run(tmp_path, f"seed={seed}", "strategy=homogeneous", accuracies=values)
    (axes,) = curves(tmp_path).axes
    (line,) = drawn(axes).values()
    (band,) = axes.collections
    assert list(line.get_xdata()) == [1, 2, 3]
    np.testing.assert_allclose(line.get_ydata(), [60, 70, 70])
    assert line.get_label() == "homogeneous"
    assert line.get_color() == GRAY
    assert isinstance(band, PolyCollection)
    corners = {tuple(corner) for corner in np.round(band.get_paths()[0].vertices, 6).tolist()}
    assert corners == {(1, 50), (2, 60), (3, 60), (1, 70), (2, 90), (3, 90)}


def test_a_searched_arm_is_the_mean_with_a_range_at_each_epoch(tmp_path: Path) -> None:
    for seed, values in {0: [0.5, 0.8], 13: [0.7, 0.6]}.items():
        write_run(tmp_path, f"seed={seed}", accuracies=values)
        write_run(tmp_path, f"seed={seed}", "proxy=snip", accuracies=[0.1, 0.1])
    figure = curves(tmp_path)
    (axes,) = figure.axes
    line = drawn(axes)["gradnorm"]
    np.testing.assert_allclose(line.get_ydata(), [60, 70])
    ranges = [bars for bars in axes.collections if isinstance(bars, LineCollection)]
    segments = np.array(ranges[0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], [[50, 70], [60, 80]])
    # Side by side, but nearer to their own epoch than to any other.
    others = drawn(axes)["snip"].get_xdata()
    np.testing.assert_allclose(segments[:, 0, 0], line.get_xdata())
    assert list(np.round(line.get_xdata())) == list(np.round(others)) == [1, 2]
    assert (np.abs(np.subtract(line.get_xdata(), others)) > 0.01).all()
    assert "mean over 2 seeds" in figure.get_suptitle()


def test_a_panel_is_a_strategy_and_a_color_a_proxy(tmp_path: Path) -> None:
    write_run(tmp_path, "strategy=homogeneous", accuracies=[0.5] * 2)
    for strategy in ("static", "dynamic"):
        for proxy in ("gradnorm", "snip", "synflow"):
            override = (f"strategy={strategy}", f"proxy={proxy}")
            write_run(tmp_path, *override, accuracies=[0.5] * 2)
        as_printed = (f"strategy={strategy}", "proxy=snip", "proxy.weights=current")
        write_run(tmp_path, *as_printed, accuracies=[0.5] * 2)
    figure = curves(tmp_path)
    dynamic, static = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["dynamic", "static"]
    for axes in figure.axes:
        lines = drawn(axes)
        assert {label: line.get_color() for label, line in lines.items()} == {
            "homogeneous": GRAY,
            "gradnorm": PROXY_COLORS["gradnorm"],
            "snip, current weights": PROXY_COLORS["snip"],
            "snip, probe weights": PROXY_COLORS["snip"],
            "synflow": PROXY_COLORS["synflow"],
        }
        looks = [lines[f"snip, {weights} weights"].get_linestyle() for weights in WEIGHTS]
        assert looks == ["-", "--"]
    assert static.get_ylim() == dynamic.get_ylim()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*drawn(dynamic)]


def test_what_is_not_the_proxys_makes_panels_that_share_their_reference(tmp_path: Path) -> None:
    for rate in ("1e-3", "2e-3"):
        own = f"optimizer.learning_rate={rate}"
        write_run(tmp_path, "strategy=homogeneous", own, accuracies=[float(rate) * 100])
        for enabled in (0.25, 0.5):
            write_run(tmp_path, own, f"strategy.enable_rate={enabled}", accuracies=[0.5])
    figure = curves(tmp_path)
    shown = {axes.get_title("left").replace("\n", " "): drawn(axes) for axes in figure.axes}
    assert shown.keys() == {
        f"dynamic, {on}% on, lr {rate}" for on in (25, 50) for rate in ("0.001", "0.002")
    }
    for title, lines in shown.items():
        assert lines.keys() == {"homogeneous", "gradnorm"}
        percent = 10 if title.endswith("0.001") else 20
        np.testing.assert_allclose(lines["homogeneous"].get_ydata(), [percent])
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_a_reference_that_agrees_with_no_panel_is_in_all(tmp_path: Path) -> None:
    write_run(tmp_path, "strategy=homogeneous", "rank_budget=r8", accuracies=[0.5])
    write_run(tmp_path, "strategy=homogeneous", "rank_budget=r2", accuracies=[0.5])
    for strategy in ("static", "dynamic"):
        write_run(tmp_path, f"strategy={strategy}", "rank_budget=r2", accuracies=[0.5])
    for axes in curves(tmp_path).axes:
        lines = drawn(axes)
        assert lines.keys() == {"homogeneous", "homogeneous, r8", "gradnorm"}
        assert lines["homogeneous"].get_linestyle() != lines["homogeneous, r8"].get_linestyle()


def test_many_references_alone_can_be_told_apart(tmp_path: Path) -> None:
    for rate in (1, 2, 3, 4, 5):
        override = f"optimizer.learning_rate={rate}e-3"
        write_run(tmp_path, "strategy=homogeneous", override, accuracies=[rate / 10, 0.5])
    (panel,) = panels(arms(runs_in(tmp_path)), PROXY_COLORS)
    assert len({(*curve.dashes, curve.width) for curve in panel.curves}) == 5
    (axes,) = curves(tmp_path).axes
    assert [line.is_dashed() for line in drawn(axes).values()] == [False, True, True, True, False]


def test_proxies_have_colors_of_their_own() -> None:
    known = proxy_colors(["snip", None, "gradnorm"])
    assert known == PROXY_COLORS
    assert len(set(known.values())) == len(known)
    assert GRAY not in known.values()
    # Those of the paper; all others share what is left of the palette.
    assert known.keys() == {"constant", "gradnorm", "snip", "synflow"}
    theirs = proxy_colors(["zen", "snip", "fisher"])
    assert theirs == proxy_colors(["fisher", "zen"])
    assert len(set(theirs.values())) == len(theirs) == len(known) + 2


def test_trajectories_are_each_sites_scores_and_a_roles_median(tmp_path: Path) -> None:
    searched(tmp_path, 0, SPACE)
    run = only_run(tmp_path)
    figure = score_trajectories(run, "some")
    lines = figure.axes[0].lines
    named = {str(line.get_label()): line for line in lines if line.get_label() in COLUMNS}
    assert len(lines) == len(SITES) + len(COLUMNS)
    scores = [search.scores for search in run.searches]
    for role, line in named.items():
        sites = [site for site in SITES if site.endswith(f".{role}")]
        expected = [np.median([row[site] for site in sites]) for row in scores]
        np.testing.assert_allclose(line.get_ydata(), expected)
        assert line.get_color() == ROLE_COLORS[role]
        assert list(line.get_xdata()) == [0, 75, 150, 225]
    assert figure.axes[0].get_yscale() == "log"


def test_scores_that_vanish_are_on_a_linear_scale(tmp_path: Path) -> None:
    rows: list[Mapping[str, float]] = [{"layers.0.q": 0.0, "layers.0.v": 1.0}] * 2
    write_run(tmp_path, accuracies=[0.5], scores=rows, enabled=[["layers.0.v"]] * 2)
    run = only_run(tmp_path)
    assert score_trajectories(run, "some").axes[0].get_yscale() == "linear"


def test_the_seed_matrix_is_the_overlap_of_what_is_on(tmp_path: Path) -> None:
    last = [searched(tmp_path, seed, SPACE)[-1] for seed in (0, 13, 42)]
    figure = seed_matrix(only(tmp_path), "some")
    overlap = [[len(a & b) / len(a | b) for b in last] for a in last]
    np.testing.assert_allclose(image(figure), overlap)
    assert tick_labels(figure)[0] == ["seed 0", "seed 13", "seed 42"]
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == [f"{value:.2f}" for row in overlap for value in row]


def test_the_proxy_matrix_has_no_number_for_scores_that_rank_nothing(tmp_path: Path) -> None:
    up = dict(zip("abc", (1.0, 2.0, 3.0), strict=True))
    down, flat = dict(zip("abc", (3.0, 2.0, 1.0), strict=True)), dict.fromkeys("abc", 0.0)
    for seed in (0, 13):
        for proxy, scores in (("gradnorm", up), ("snip", down), ("synflow", flat)):
            named = [
                {f"layers.0.{'qvo'['abc'.index(key)]}": value for key, value in scores.items()}
            ]
            write_run(
                *(tmp_path, f"seed={seed}", f"proxy={proxy}"),
                accuracies=[0.5],
                scores=named,
                enabled=[["layers.0.q"]],
            )
    (group,) = by_proxy(arms(runs_in(tmp_path))).values()
    figure = proxy_matrix(group, "some")
    nan = np.nan
    np.testing.assert_allclose(image(figure), [[1, -1, nan], [-1, 1, nan], [nan, nan, 1]])
    assert tick_labels(figure)[0] == ["gradnorm", "snip", "synflow"]
    assert "mean over 2 seeds" in figure.axes[1].get_ylabel()


@pytest.mark.slow
def test_everything_is_drawn_as_png_and_svg_and_always_the_same(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 13):
        searched(runs, seed, SPACE)
    searched(runs, 0, SPACE, "proxy=snip")
    write_run(runs, "strategy=homogeneous", SPACE, accuracies=[0.5] * 3)
    write_run(runs, "seed=99", SPACE, accuracies=[0.5] * 3, status="failed")
    paths = draw(runs_in(runs), tmp_path / "figures")
    names = sorted(path.stem for path in paths if path.suffix == ".png")
    assert names == [
        "agreement-of-proxies-dynamic",
        "agreement-of-seeds-dynamic-gradnorm",
        "frequency-dynamic-gradnorm",
        "frequency-dynamic-gradnorm-seed-0",
        "frequency-dynamic-gradnorm-seed-13",
        "frequency-dynamic-snip-seed-0",
        "roles-dynamic-gradnorm",
        "roles-dynamic-snip",
        "scores-dynamic-gradnorm-seed-0",
        "scores-dynamic-gradnorm-seed-13",
        "scores-dynamic-snip-seed-0",
        "validation-starter_paraphrase-heterolora-opt-starter",
    ]
    assert sorted(path.stem for path in paths if path.suffix == ".svg") == names
    assert {path.parent for path in paths} == {tmp_path / "figures"}
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.width == round(300 * WIDTH)
                assert len(picture.convert("RGB").getcolors(2**20) or []) > 10
    again = draw(runs_in(runs), tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_without_searches_only_curves_are_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, "strategy=homogeneous", accuracies=[0.5])
    paths = draw(runs_in(tmp_path), tmp_path / "figures")
    assert {path.stem.split("-")[0] for path in paths} == {"validation"}
    assert draw(frame([]), tmp_path / "none") == []


def test_a_search_space_of_shortcuts_only(tmp_path: Path) -> None:
    searched(tmp_path, 0, "search_space=shortcuts", sites=SHORTCUTS)
    figure = frequency_map(only(tmp_path).searched, "some")
    assert tick_labels(figure)[0] == ["res1", "res2", "in", "cut"]
    assert len(draw(runs_in(tmp_path), tmp_path / "figures")) == 8


@pytest.mark.parametrize("redraw", [True, False])
def test_the_control_has_no_trajectories(redraw: bool, tmp_path: Path) -> None:
    rows = [{site: 1.0 if redraw else rank for rank, site in enumerate(SITES)}] * 2
    write_run(
        *(tmp_path, "proxy=constant", f"proxy.redraw={redraw}", SPACE),
        accuracies=[0.5],
        scores=rows,
        enabled=[SITES[:3]] * 2,
    )
    stems = {path.stem.split("-")[0] for path in draw(runs_in(tmp_path), tmp_path / "figures")}
    assert stems == {"validation", "frequency", "roles"}


def test_every_role_has_a_color_of_its_own() -> None:
    assert ROLE_COLORS.keys() == set(ROLES)
    assert len(set(ROLE_COLORS.values())) == len(ROLES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dynamic gradnorm, 5/epoch", "dynamic-gradnorm-5-epoch"),
        ("../x, lr 0.001, path C:\\a", "x-lr-0.001-path-c-a"),
        ("q+v, 25 % on", "q+v-25-on"),
    ],
)
def test_file_names_are_safe(name: str, expected: str) -> None:
    assert slug(name) == expected
