"""The paper's figures and some more, from the records of runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from heterolora.reporting.agreement import by_proxy
from heterolora.reporting.arms import CONTROL, Arm, arms
from heterolora.reporting.figures.curves import score_trajectories, validation_curves
from heterolora.reporting.figures.frequency import frequency_map, paper_frequency, role_bars
from heterolora.reporting.figures.matrices import proxy_matrix, seed_matrix
from heterolora.reporting.figures.style import STYLE, save, slug
from heterolora.reporting.layout import Frequency

Named = Iterator[tuple[str, Figure]]
"""Figures, each with what its file is to be called."""


def draw(runs: pd.DataFrame, folder: Path, paper: Sequence[Frequency] = ()) -> list[Path]:
    """Draw everything that the finished runs allow, as PNG and SVG.

    Args:
        runs: the frame of runs.
        folder: where the files go.
        paper: its frequencies by role, drawn beside those of the same settings.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        return [
            path
            for name, figure in _figures(arms(runs), paper)
            for path in save(figure, folder / slug(name))
        ]


def _figures(found: Sequence[Arm], paper: Sequence[Frequency]) -> Named:
    subjects: dict[str, list[Arm]] = {}
    for arm in found:
        subject = f"{arm.setting('task.name')}, {arm.setting('model.name')}"
        subjects.setdefault(subject, []).append(arm)
    for subject, of_subject in subjects.items():
        yield f"validation {subject}", validation_curves(of_subject, subject)
    for shared, group in by_proxy(found).items():
        yield f"agreement of proxies {shared}", proxy_matrix(group, shared)
    for arm in found:
        if arm.searched:
            yield from _of_arm(arm, paper)


def _of_arm(arm: Arm, paper: Sequence[Frequency]) -> Named:
    name, runs = arm.label, arm.searched
    control = arm.setting("proxy.name") == CONTROL
    for run in runs:
        of_run = f"{name}, seed {run.seed}"
        yield f"frequency {of_run}", frequency_map([run], of_run)
        decided = not all(search.degenerate for search in run.searches)
        if len(run.searches) > 1 and decided and not control:
            yield f"scores {of_run}", score_trajectories(run, of_run)
    yield f"roles {name}", role_bars(runs, name, paper_frequency(arm, paper))
    if len(runs) > 1:
        yield f"frequency {name}", frequency_map(runs, f"{name}, mean of {len(runs)} seeds")
        yield f"agreement of seeds {name}", seed_matrix(arm, name)
