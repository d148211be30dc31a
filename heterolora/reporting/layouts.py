"""The tables of the paper, and of its open questions, row by row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from heterolora.reporting.entries import Entry, Table

Settings = Mapping[str, Any]

LORA: Settings = {"search_space.projections": ("q", "v"), "search_space.shortcuts": ()}
SHORTCUTS: Settings = {
    "search_space.projections": ("q", "v"),
    "search_space.shortcuts": ("res1", "res2", "in", "cut"),
}
HOMOGENEOUS: Settings = {"strategy.name": "homogeneous"}
QUARTER: Settings = {"strategy.enable_rate": 0.25}
GRADNORM: Settings = {"proxy.name": "gradnorm"}
RANDOM: Settings = {"proxy.name": "constant"}
STATIC: Settings = {"strategy.name": "static"}
DYNAMIC: Settings = {"strategy.name": "dynamic"}

PROXIES: Mapping[str, Settings] = {
    "CONSTANT (random)": RANDOM,
    "SNIP": {"proxy.name": "snip", "proxy.weights": "probe"},
    "SYNFLOW": {"proxy.name": "synflow", "proxy.weights": "probe"},
    "GRAD-NORM": GRADNORM,
}
AS_PRINTED: Mapping[str, Settings] = {
    "SNIP, as printed": {"proxy.name": "snip", "proxy.weights": "current"},
    "SYNFLOW, as printed": {"proxy.name": "synflow", "proxy.weights": "current"},
}


def budget(lora: int, shortcut: int | None = None) -> Settings:
    """The ranks of a budget; that of shortcuts where there are any."""
    ranks = {"rank_budget.lora_rank": lora}
    return ranks if shortcut is None else ranks | {"rank_budget.shortcut_rank": shortcut}


def proxies_by_strategy(
    proxies: Mapping[str, Settings], common: Settings, published: bool, optional: bool
) -> Iterator[Entry]:
    """A row for each proxy, with the columns static and dynamic.

    Args:
        proxies: each row's settings.
        common: the settings of all.
        published: whether the paper's Table 2 has them.
        optional: as in `Entry`.
    """
    for row, proxy in proxies.items():
        for strategy in (STATIC, DYNAMIC):
            column = strategy["strategy.name"]
            yield Entry(
                row,
                {**common, **QUARTER, **proxy, **strategy},
                column,
                baseline="all sites on, homogeneous",
                published=("table2", f"{proxy['proxy.name']}/{column}") if published else None,
                optional=optional,
            )


def _table2() -> Table:
    common = {**LORA, **budget(2)}
    baseline = Entry(
        "all sites on",
        {**common, **HOMOGENEOUS},
        "homogeneous",
        published=("table2", "baseline"),
    )
    return Table(
        name="table2",
        title="Table 2: proxies",
        caption="LoRA on q and v at the budget of rank 2. Homogeneous: all sites on at rank 2, no "
        "search. Static: one search before training, a quarter of the sites on at rank 8. "
        "Dynamic: a search at step 0 and again throughout training.",
        arms=(
            baseline,
            *proxies_by_strategy(PROXIES, common, published=True, optional=False),
            *proxies_by_strategy(AS_PRINTED, common, published=True, optional=True),
        ),
        tasks=("mrpc",),
    )


def _table3() -> Table:
    arms = []
    for name, alone, ranks in (
        ("2.3M", 24, {"rs_eq_rl": (8, 8), "rs_gt_rl": (2, 11)}),
        ("9.4M", 96, {"rs_eq_rl": (32, 32), "rs_gt_rl": (2, 47)}),
    ):
        only = f"{name}: LoRA only, r {alone}"
        settings = {**LORA, **HOMOGENEOUS, **budget(alone)}
        arms.append(Entry(only, settings, published=("table3", f"{name}/l_only")))
        for key, (lora, shortcut) in ranks.items():
            settings = {**SHORTCUTS, **HOMOGENEOUS, **budget(lora, shortcut)}
            row = f"{name}: LoRA {lora}, shortcuts {shortcut}"
            arms.append(Entry(row, settings, baseline=only, published=("table3", f"{name}/{key}")))
    return Table(
        name="table3",
        title="Table 3: LoRA alone, and with shortcuts",
        caption="All sites on, no search. Rows of one budget (parameters in OPT-350M) differ in "
        "whether and at which rank there are adapters on shortcuts beside LoRA on q and v.",
        arms=tuple(arms),
        tasks=("mrpc", "rte", "sst2"),
    )


def _table4() -> Table:
    arms = []
    for name, rank in (("r2", 2), ("r8", 8)):
        common = {**SHORTCUTS, **budget(rank, rank), "search_space.pool": "combined"}
        searched = {**common, **DYNAMIC, **QUARTER}
        base = f"{name} homogeneous"
        arms += [
            Entry(base, {**common, **HOMOGENEOUS}, published=("table4", f"{name}/homogeneous")),
            Entry(
                f"{name} dynamic GRAD-NORM",
                {**searched, **GRADNORM},
                baseline=base,
                published=("table4", f"{name}/dynamic"),
            ),
            Entry(f"{name} dynamic random", {**searched, **RANDOM}, baseline=base),
        ]
    return Table(
        name="table4",
        title="Table 4: homogeneous and dynamic",
        caption="LoRA on q and v, and shortcuts, at the budgets of rank 2 and 8. Homogeneous (S&L "
        "in the paper): all sites on at that rank. Dynamic (DH&S&L): a quarter of the sites on at "
        "four times the rank, searched for again throughout training. Random: the control, which "
        "the paper does not have.",
        arms=tuple(arms),
        tasks=("mrpc", "rte", "sst2"),
    )


def _projections(
    name: str, title: str, ranks: Mapping[Sequence[str], int], baseline: str | None
) -> Table:
    """Which projections have LoRA; a row for each choice, at its rank."""
    arms = []
    for roles, rank in ranks.items():
        row = f"{', '.join(roles)} at r {rank}"
        settings = {
            "search_space.projections": tuple(roles),
            "search_space.shortcuts": (),
            **HOMOGENEOUS,
            **budget(rank),
        }
        key = (name, "_".join(roles))
        arms.append(
            Entry(row, settings, baseline=baseline if row != baseline else None, published=key)
        )
    return Table(
        name=name,
        title=title,
        caption="LoRA alone, all sites on, no search.",
        arms=tuple(arms),
        tasks=("mrpc",),
    )


def _table9() -> Table:
    common = {**SHORTCUTS, **budget(2, 2)}
    base = Entry(
        "all sites on",
        {**common, **HOMOGENEOUS, "search_space.pool": "combined"},
        "homogeneous",
        published=("table4", "r2/homogeneous"),
        optional=True,
    )
    arms = [base]
    for pool in ("combined", "separated"):
        for proxy, row in ((GRADNORM, pool), (RANDOM, f"{pool}, random")):
            for searches in (10, 5, 2, 1):
                settings = {
                    **common,
                    **DYNAMIC,
                    **QUARTER,
                    **proxy,
                    "search_space.pool": pool,
                    "strategy.searches_per_epoch": searches,
                }
                known = ("table9", f"{pool}/{searches}") if proxy is GRADNORM else None
                arms.append(Entry(row, settings, str(searches), base.label, known, proxy is RANDOM))
    return Table(
        name="table9",
        title="Table 9: searches per epoch",
        caption="Dynamic GRAD-NORM over LoRA on q and v and shortcuts, a quarter of the sites on "
        "at the budget of rank 2; columns: searches per epoch. Combined: one ranking of all "
        "sites; separated: LoRA and shortcuts each have their own budget. The homogeneous "
        "baseline and random allocation are those of Table 4 where this experiment has none.",
        arms=tuple(arms),
        tasks=("mrpc", "rte"),
        borrows=("table4",),
    )


def _frequency() -> Table:
    base = Entry("all sites on", HOMOGENEOUS, "homogeneous", optional=True)
    arms = [base]
    for proxy, name in ((GRADNORM, "GRAD-NORM"), (RANDOM, "random")):
        for rate in (0.125, 0.25, 0.5):
            for searches in (1, 2, 5, 10, 20):
                settings = {
                    **DYNAMIC,
                    **proxy,
                    "strategy.enable_rate": rate,
                    "strategy.searches_per_epoch": searches,
                }
                row = f"{name}, {rate:g} on"
                arms.append(Entry(row, settings, str(searches), base.label, optional=True))
    return Table(
        name="frequency",
        title="Search frequency and enable rate",
        caption="Dynamic; rows: the share of the sites that is on, at one budget; columns: "
        "searches per epoch.",
        arms=tuple(arms),
    )


def _learning_rate() -> Table:
    halves = {"evaluation.split": "halves"}
    base = Entry("homogeneous", {**halves, **HOMOGENEOUS})
    searched = {**halves, **DYNAMIC, **QUARTER}
    return Table(
        name="learning_rate",
        title="Each arm at its own learning rate",
        caption="The rate with the best mean over seeds on the selection half of the validation "
        "split; the numbers are those of the report half, which chose nothing.",
        arms=(
            base,
            Entry("dynamic GRAD-NORM", {**searched, **GRADNORM}, baseline=base.label),
            Entry("dynamic random", {**searched, **RANDOM}, baseline=base.label, optional=True),
        ),
        tuned="optimizer.learning_rate",
    )


def _stability() -> Table:
    base = Entry("all sites on", HOMOGENEOUS, "homogeneous", optional=True)
    return Table(
        name="stability",
        title="Stability over seeds",
        caption="How alike the runs of one row are that differ in the seed alone.",
        arms=(
            base,
            *proxies_by_strategy(PROXIES, {}, published=False, optional=True),
            *proxies_by_strategy(AS_PRINTED, {}, published=False, optional=True),
        ),
    )


def _table5() -> Table:
    ranks: dict[Sequence[str], int] = dict.fromkeys((("q",), ("k",), ("v",), ("o",)), 8)
    ranks |= {("q", "k"): 4, ("q", "v"): 4, ("q", "k", "v", "o"): 2}
    return _projections("table5", "Table 5: projections of attention", ranks, "q, v at r 4")


def _table6() -> Table:
    ranks: dict[Sequence[str], int] = {("up",): 8, ("down",): 8, ("up", "down"): 4}
    ranks |= {("q", "v", "up", "down"): 2}
    return _projections("table6", "Table 6: projections of the feed-forward layers", ranks, None)


LAYOUTS: Mapping[str, Callable[[], Table]] = {
    "2": _table2,
    "3": _table3,
    "4": _table4,
    "5": _table5,
    "6": _table6,
    "9": _table9,
    "frequency": _frequency,
    "learning_rate": _learning_rate,
    "stability": _stability,
}
"""By the name that the command line gives them."""
