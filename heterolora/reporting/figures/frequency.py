"""How often each site is on: by layer and role, and by role beside the paper's (Figures 4 to 7)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from heterolora.loggers.grid import Grid, on_frequency
from heterolora.loggers.heatmap import draw_grid
from heterolora.records.read import Run
from heterolora.reporting.arms import Arm
from heterolora.reporting.figures.style import COLOURS, legend_below, panel
from heterolora.reporting.frame import matching
from heterolora.reporting.layout import Frequency


def frequency_map(runs: Sequence[Run], title: str) -> Figure:
    """The percentage of the searches that switched each site on, averaged over the runs.

    Args:
        runs: of one arm; each has searched.
        title: above the picture.
    """
    grid = Grid.of((100 * pd.DataFrame(map(_frequency, runs)).mean()).to_dict())
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
    means = pd.DataFrame([Grid.of(_frequency(run)).role_means() for run in runs])
    roles, values = list(means.columns), 100 * means.to_numpy()
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


def _frequency(run: Run) -> dict[str, float]:
    return on_frequency([search.ranks for search in run.searches])


def paper_frequency(arm: Arm, paper: Sequence[Frequency]) -> Mapping[str, float] | None:
    """The paper's frequencies by role where the arm's search is one that its Figure 4 shows."""
    same = [known.roles for known in paper if matching(arm.frame, known.where).all()]
    return same[0] if same else None
