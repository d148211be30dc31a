"""The run page: what it holds is what the records say, and a real browser shows it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import CONF, ROOT
from records import write_run

from heterolora.harness.cli.commands.report import main
from heterolora.harness.records.load import load
from heterolora.harness.reporting.arms import arms
from heterolora.harness.reporting.frame import frame
from heterolora.harness.reporting.layout import read
from heterolora.harness.reporting.report import Report, section
from heterolora.harness.reporting.tables import page
from heterolora.harness.reporting.tables.build import report

LAYERS, ROLES = 3, ("q", "v", "res1", "res2", "in", "cut")
SITES = [
    f"layers.{layer}.{role}"
    for layer in range(LAYERS)
    for role in ROLES
    if (layer, role) != (0, "cut")
]
SEARCHES = 4
ERROR = "it broke at <b>step 3</b> </script> & 'then'"
ACCURACIES = {0: [0.61, 0.72, 0.834], 13: [0.51, 0.82, 0.756]}


class Sweep(NamedTuple):
    """Records, and their page."""

    output: Path
    runs: pd.DataFrame
    report: Report
    file: Path


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two seeds each of an arm without searches, of one by a proxy and of one by chance."""
    output = tmp_path_factory.mktemp("sweep")
    own = ("name=table4", "search_space=lora_shortcuts", "rank_budget=r2")
    for seed, accuracies in ACCURACIES.items():
        rng = np.random.default_rng(seed)
        plain = ("strategy=homogeneous", f"seed={seed}")
        write_run(output, *own, *plain, accuracies=[value + 0.1 for value in accuracies])
        for proxy in ("gradnorm", "constant"):
            scores = [
                dict.fromkeys(SITES, 1.0)
                if proxy == "constant"
                else dict(zip(SITES, rng.lognormal(0, 4, len(SITES)).tolist(), strict=True))
                for _ in range(SEARCHES)
            ]
            on = [rng.choice(SITES, 4, replace=False).tolist() for _ in scores]
            named = (f"proxy={proxy}", "strategy=dynamic", f"seed={seed}")
            write_run(output, *own, *named, accuracies=accuracies, scores=scores, enabled=on)
    failed = ("strategy=dynamic", "seed=42")
    write_run(output, *own, *failed, accuracies=[0.5], status="failed", error=ERROR)
    runs = frame(load(output)[0])
    made = report(read(CONF / "experiment" / "table4.yaml"), runs)
    return Sweep(output, runs, made, page.write(made, runs, output / "figures"))


def searches(sweep: Sweep, proxy: str, seed: int) -> list[dict[str, Any]]:
    """The lines of a run's `allocations.jsonl`."""
    (folder,) = sweep.output.glob(f"table4/*/dynamic-{proxy}-*-s{seed}")
    return [json.loads(line) for line in (folder / "allocations.jsonl").read_text().splitlines()]


class Parsed(HTMLParser):
    """The tables, the texts by element, and the attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.texts.setdefault(tag, []).append("")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += text
            if self._open[-1] in ("th", "td"):
                self.tables[-1][-1][-1] += text

    @property
    def data(self) -> dict[str, Any]:
        """The block that the page's script reads."""
        return dict(json.loads(self.texts["script"][0]))


def table(part: pd.DataFrame) -> list[list[str]]:
    return [list(part.columns), *part.to_numpy().tolist()]


def test_its_tables_are_the_reports(sweep: Sweep) -> None:
    parsed = Parsed(sweep.file.read_text())
    *found, grid = parsed.tables
    assert found == [table(part.frame) for part in sweep.report.sections]
    assert grid == []
    best = np.array([max(values) for values in ACCURACIES.values()]) * 100
    assert f"{best.mean():.1f} ± {best.std(ddof=1):.1f} (2)" in [
        cell for row in found[0] for cell in row
    ]
    assert [text for text in parsed.texts["li"] if ERROR in text]


def test_its_allocations_are_the_records(sweep: Sweep) -> None:
    data = Parsed(sweep.file.read_text()).data
    assert [arm["label"] for arm in data["arms"]] == ["dynamic constant", "dynamic gradnorm"]
    for arm in data["arms"]:
        assert [run["seed"] for run in arm["runs"]] == [0, 13]
        for run in arm["runs"]:
            space = data["spaces"][run["space"]]
            places = [
                (space["layers"][row], space["roles"][column]) for row, column in space["sites"]
            ]
            sites = [f"layers.{layer}.{role}" for layer, role in places]
            assert sites == SITES
            rows = searches(sweep, arm["label"].split()[1], run["seed"])
            assert run["count"] == len(run["searches"]) == len(rows) == SEARCHES
            for number, (shown, row) in enumerate(zip(run["searches"], rows, strict=True), start=1):
                assert shown["number"] == number
                same = ("step", "epoch", "parameters", "tied", "degenerate")
                assert [shown[key] for key in same] == [row[key] for key in same]
                assert shown["ranks"] == [row["ranks"][site] for site in sites]
                scores = [row["scores"][site] for site in sites]
                assert shown["scores"] == pytest.approx(scores, rel=5e-3)
            on = [100 * np.mean([row["ranks"][site] > 0 for row in rows]) for site in sites]
            assert run["on"] == on


def test_its_curves_say_the_mean_and_range_of_each_epoch(sweep: Sweep) -> None:
    titles = [text.splitlines() for text in Parsed(sweep.file.read_text()).texts["title"][1:]]
    said = {title[0]: title[1:] for title in titles}
    assert said.keys() == {f"{name} (n = 2)" for name in ("homogeneous", "constant", "gradnorm")}
    expected = ["56.0 (51.0 to 61.0)", "77.0 (72.0 to 82.0)", "79.5 (75.6 to 83.4)"]
    assert said["gradnorm (n = 2)"] == [
        f"epoch {epoch}: {text}" for epoch, text in enumerate(expected, start=1)
    ]
    assert said["homogeneous (n = 2)"][0] == "epoch 1: 66.0 (61.0 to 71.0)"


def test_it_needs_nothing_but_itself(sweep: Sweep) -> None:
    parsed = Parsed(sweep.file.read_text())
    links = {value for _, name, value in parsed.attributes if name in ("href", "src", "xlink:href")}
    assert links
    assert all(link and link.startswith("#") for link in links)
    assert {tag for tag, *_ in parsed.attributes} & {"link", "img", "iframe", "object"} == set()
    assert "url(" not in parsed.texts["style"][0]
    ids = {value for _, name, value in parsed.attributes if name == "id"}
    assert {f"#{name}" for name in ids if name} >= links


def test_what_users_write_is_text(sweep: Sweep) -> None:
    evil = "</script><b onclick='x'>&amp;"
    made = Report(evil, evil, [section(evil, evil, [{evil: evil}])], [evil], pd.DataFrame())
    found = [replace(arm, label=evil) for arm in arms(sweep.runs)]
    parsed = Parsed(page.page(made, found))
    assert "b" not in parsed.texts
    assert len(parsed.texts["script"]) == 2
    assert parsed.tables[0] == [[evil], [evil]]
    assert parsed.texts["h1"] == [evil]
    assert {arm["label"] for arm in parsed.data["arms"]} == {evil}


def test_without_searches_there_is_nothing_to_play(tmp_path: Path) -> None:
    write_run(tmp_path, "strategy=homogeneous", accuracies=[0.5])
    runs = frame(load(tmp_path)[0])
    made = Report("some", "", [], [], pd.DataFrame())
    parsed = Parsed(page.write(made, runs, tmp_path / "new" / "folder").read_text())
    assert {"select", "input"} & {tag for tag, *_ in parsed.attributes} == set()
    assert parsed.data["arms"] == []
    assert "script" not in Parsed(page.page(made)).texts


def test_searches_are_left_out_where_there_would_be_too_many(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Parsed(sweep.file.read_text()).data
    monkeypatch.setattr(page, "LIMIT", len(json.dumps(full, separators=(",", ":"))) - 1)
    text = page.page(sweep.report, arms(sweep.runs))
    assert "one in 2 of each run's searches, and the last" in text
    assert "one in 2" not in sweep.file.read_text()
    for arm, whole in zip(Parsed(text).data["arms"], full["arms"], strict=True):
        for run, of_all in zip(arm["runs"], whole["runs"], strict=True):
            assert [search["number"] for search in run["searches"]] == [1, 3, 4]
            assert run["searches"] == [of_all["searches"][index] for index in (0, 2, 3)]
            assert (run["on"], run["count"]) == (of_all["on"], SEARCHES)


def test_a_hundred_and_fifty_runs_stay_small(sweep: Sweep) -> None:
    arm = next(arm for arm in arms(sweep.runs) if "gradnorm" in arm.label)
    run = arm.runs[0]
    rng = np.random.default_rng(0)
    sites = [f"layers.{layer}.{role}" for layer in range(24) for role in ROLES]
    ranks = dict(zip(sites, rng.choice([0, 8], len(sites)).tolist(), strict=True))
    scores = dict(zip(sites, rng.lognormal(0, 4, len(sites)).tolist(), strict=True))
    search = run.searches[0].model_copy(update={"scores": scores, "ranks": ranks})
    many = [replace(run, config={**run.config, "seed": seed}) for seed in range(150)]
    for one in many:
        vars(one).update(searches=[search] * 25, epochs=run.epochs)
    text = page.page(sweep.report, [replace(arm, frame=pd.DataFrame({"run": many}))])
    assert len(text) < 5_000_000
    (shown,) = Parsed(text).data["arms"]
    assert [one["seed"] for one in shown["runs"]] == list(range(150))
    assert {one["searches"][-1]["number"] for one in shown["runs"]} == {25}


def test_the_command_tells_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "strategy=homogeneous", "name=table2", accuracies=[0.5])
    folder = tmp_path / "figures"
    main([str(tmp_path), "--table", "2", "--figures", str(folder)])
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == str(folder / "index.html")
    assert "<h1>Table 2: proxies</h1>" in (folder / "index.html").read_text()


# ---- in a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALLED = next(filter(None, map(shutil.which, BROWSERS)), None)
WHY = (
    ""
    if INSTALLED
    else "installing chromium needs Linux and root"
    if sys.platform != "linux" or os.geteuid()
    else "chromium is neither installed nor can apt-get install it"
    if not shutil.which("apt-get")
    else ""
)


def in_a_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that opens the page."""
    return pytest.mark.slow(pytest.mark.skipif(bool(WHY), reason=WHY)(test))


CONTRAST = (ROOT / "tests" / "contrast.js").read_text()


class Opened(NamedTuple):
    """A tab that shows the page.

    Attributes:
        tab: Playwright's page.
        problems: errors and warnings of its console, and uncaught exceptions.
        requests: the addresses of all that it asked for.
    """

    tab: Any
    problems: list[str]
    requests: list[str]


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; installed if it is missing."""
    from playwright.sync_api import sync_playwright

    if not INSTALLED:
        subprocess.run(["bash", str(ROOT / "tests" / "apt.sh"), "chromium"], check=True)
    with sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, BROWSERS)))
        # Chromium's sandbox refuses root.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, sweep: Sweep) -> Iterator[Open]:
    contexts = []

    def open_page(scheme: str = "light") -> Opened:
        context = browser.new_context(color_scheme=scheme)
        contexts.append(context)
        shown = Opened(context.new_page(), [], [])
        shown.tab.on("console", lambda message: shown.problems.append(message.text))
        shown.tab.on("pageerror", lambda error: shown.problems.append(str(error)))
        shown.tab.on("request", lambda request: shown.requests.append(request.url))
        shown.tab.goto(sweep.file.as_uri())
        return shown

    yield open_page
    for context in contexts:
        context.close()


def grid(tab: Any) -> dict[str, tuple[int, float]]:
    """The rank and score of each site, as the grid shows them."""
    rows = tab.eval_on_selector_all(
        "#grid tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )
    assert rows[0] == ["layer", *ROLES]
    found = {}
    for layer, *cells in rows[1:]:
        for role, cell in zip(ROLES, cells, strict=True):
            if cell != "-":
                rank, score = cell.split()
                found[f"layers.{layer}.{role}"] = (int(rank.replace("off", "r0")[1:]), float(score))
    return found


def expected(row: Mapping[str, Any]) -> dict[str, tuple[int, Any]]:
    return {
        site: (rank, pytest.approx(row["scores"][site], rel=6e-3))
        for site, rank in row["ranks"].items()
    }


@in_a_browser
def test_the_slider_goes_through_the_searches(opened: Open, sweep: Sweep) -> None:
    tab = opened().tab
    for proxy, seed in (("gradnorm", 13), ("constant", 0), ("gradnorm", 0)):
        tab.select_option("#run", label=f"dynamic {proxy}, seed {seed}")
        rows = searches(sweep, proxy, seed)
        assert grid(tab) == expected(rows[0])
        tab.focus("#search")
        for number, row in enumerate(rows[1:], start=2):
            tab.keyboard.press("ArrowRight")
            assert grid(tab) == expected(row)
            place = (
                f"Search {number} of {SEARCHES}, after step {row['step']} (epoch {row['epoch']})"
            )
            said = tab.inner_text("#said")
            assert said.startswith(f"{place}; 4 of 17 sites on, 2,048 parameters")
            assert ("chosen at random" in said) == (proxy == "constant")
            assert tab.get_attribute("#search", "aria-valuetext") == place
    assert len({str(sorted(row["ranks"].items())) for row in rows}) == SEARCHES


@in_a_browser
def test_it_plays_to_the_last_search(opened: Open, sweep: Sweep) -> None:
    tab = opened().tab
    tab.select_option("#run", label="dynamic gradnorm, seed 0")
    tab.focus("#play")
    tab.keyboard.press("Enter")
    assert tab.inner_text("#play") == "Pause"
    tab.get_by_role("button", name="Play", exact=True).wait_for()
    assert grid(tab) == expected(searches(sweep, "gradnorm", 0)[-1])


@in_a_browser
def test_it_shows_the_records_and_asks_for_nothing(opened: Open, sweep: Sweep) -> None:
    shown = opened()
    tab = shown.tab
    rows = tab.eval_on_selector_all(
        "#tables tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert rows == [row for part in sweep.report.sections for row in table(part.frame)]
    figure = tab.locator(".arms section").filter(has_text="dynamic gradnorm").locator("figure")
    assert figure.locator("figcaption").all_inner_texts() == [
        "mean of 2 seeds",
        "seed 0",
        "seed 13",
    ]
    percent = dict(
        text.rsplit(": ", 1) for text in figure.nth(2).locator("rect title").all_text_contents()
    )
    on = pd.DataFrame([row["ranks"] for row in searches(sweep, "gradnorm", 13)]).gt(0).mean() * 100
    assert percent == {
        "layer {1}, {2}".format(*site.split(".")): f"{on[site]:g} %" for site in SITES
    }
    tab.click(".legend button >> text=gradnorm")
    dim = "curves => curves.map(curve => Number(getComputedStyle(curve).opacity) < 1)"
    labels = tab.eval_on_selector_all(".curve", "curves => curves.map(one => one.dataset.label)")
    assert dict(zip(labels, tab.eval_on_selector_all(".curve", dim), strict=True)) == {
        "homogeneous": True,
        "constant": True,
        "gradnorm": False,
    }
    assert shown.problems == []
    assert shown.requests == [sweep.file.as_uri()]


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(scheme: str, opened: Open) -> None:
    tab = opened(scheme).tab
    tab.select_option("#run", label="dynamic gradnorm, seed 0")
    body = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = np.mean([int(part) for part in body.strip("rgb()").split(",")])
    assert (shade < 64) if scheme == "dark" else (shade > 192)
    texts = tab.evaluate(CONTRAST)
    assert {"p", "td", "th", "li", "button", "span", "text"} <= {one["element"] for one in texts}
    assert [text for text in texts if text["ratio"] < 4.5] == []


@in_a_browser
def test_the_contrast_is_that_of_wcag(browser: Any) -> None:
    tab = browser.new_page()
    paragraphs = [
        "<p style='color:#777;background:#fff'>gray</p>",
        "<p style='color:#000;background:#fff'>black</p>",
        "<p style='color:#fff;background:rgb(255 255 255 / .5)'>half</p>",
    ]
    tab.set_content(f"<body style='background:#000'>{''.join(paragraphs)}</body>")
    ratios = [round(text["ratio"], 2) for text in tab.evaluate(CONTRAST)]
    assert ratios == [4.48, 21.0, 3.98]
    tab.close()
