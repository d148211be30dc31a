"""How often each site is on: by layer and role, and by role beside the paper's (Figures 4 to 7)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from heterolora.reporting.arms import Arm
from heterolora.reporting.figures.style import COLOURS, legend_below, panel
from heterolora.reporting.load import Run
from heterolora.reporting.published import FIGURE4
from heterolora.tracking.grid import Grid, on_frequency
from heterolora.tracking.heatmap import draw_grid


def frequency_map(runs: Sequence[Run], title: str) -> Figure:
    """The percentage of the searches that switched each site on, averaged over the runs.

    Args:
        runs: of one arm; each has searched.
        title: above the picture.
    """
    shares = [on_frequency(run.searches) for run in runs]
    grid = Grid.of({site: 100 * float(np.mean([s[site] for s in shares])) for site in shares[0]})
    figure, axes = panel(title, 1 + 0.115 * max(len(grid.layers), 8))
    image = draw_grid(axes, grid, cmap="viridis", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="on (% of searches)", pad=0.02)
    return figure


def role_bars(runs: Sequence[Run], title: str, paper: Mapping[str, float] | None) -> Figure:
    """The same by role: the mean over layers, then over seeds, with its standard deviation.

    Args:
        runs: of one arm; each has searched.
        title: above the picture.
        paper: its percentage for each role, drawn beside.
    """
    seeds = [Grid.of(on_frequency(run.searches)).role_means() for run in runs]
    roles = list(seeds[0])
    values = 100 * np.array([[means[role] for role in roles] for means in seeds])
    spread = values.std(axis=0, ddof=1) if len(runs) > 1 else None
    width = 0.8 if paper is None else 0.4
    places = np.arange(len(roles))
    figure, axes = panel(title, 2.0)
    ours = f"here, mean ± std of {len(runs)} seeds" if len(runs) > 1 else "here, one seed"
    axes.bar(
        places if paper is None else places - width / 2,
        values.mean(axis=0),
        width,
        yerr=spread,
        color=COLOURS[0],
        label=ours,
        error_kw={"elinewidth": 0.8, "capsize": 2},
    )
    if paper is not None:
        theirs = [paper[role] for role in roles]
        axes.bar(places + width / 2, theirs, width, color=COLOURS[1], label="paper (OPT-350M)")
    axes.set_xticks(places, roles)
    axes.set(xlabel="role", ylabel="on (% of searches)", ylim=(0, 100))
    legend_below(figure, axes, columns=2)
    return figure


def paper_frequency(arm: Arm) -> Mapping[str, float] | None:
    """The paper's frequencies by role where the arm's search is one that its Figure 4 shows."""
    lora_rank, shortcut_rank = arm.settings["rank_budget"]
    space = arm.setting("search_space")
    same = (
        arm.setting("task.name") == "mrpc"
        and arm.setting("strategy.name") == "dynamic"
        and arm.setting("proxy.name") == "gradnorm"
        and lora_rank == shortcut_rank
        and {*space["projections"], *space["shortcuts"]} == FIGURE4[(8, "combined")].keys()
    )
    rank = round(lora_rank / arm.setting("strategy.enable_rate"))
    return FIGURE4.get((rank, space["pool"])) if same else None
