"""Records as a run leaves them, with numbers that a test chooses."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conftest import composed, edited

from heterolora import run as experiment
from heterolora.config import identity
from heterolora.records.record import Record

VALUE = re.compile(r"(seed|name|\w+\.[\w.]+)=")
"""An override that changes a value, and chooses no file of a group."""

PROVENANCE: dict[str, Any] = {
    "code": {"commit": "0" * 40, "dirty": False},
    "packages": {"torch": "2.13.0"},
    "hardware": {"device": "cpu", "device_name": "x86_64"},
}

_STATIC = {"strategy.name": "static"}
STUDY_ROWS: Mapping[str, Any] = {
    "plain": {"where": {"strategy.name": "homogeneous"}},
    "random": {"where": {**_STATIC, "proxy.name": "constant"}, "baseline": "plain"},
    "searched": {
        "where": {**_STATIC, "proxy.name": "gradnorm"},
        "baseline": "plain",
        "controls": {"random": "random"},
    },
}
"""The rows of a small study, as in a table's YAML."""
STUDY_ARMS = {
    "plain": ["strategy=homogeneous"],
    "random": ["strategy=static", "proxy=constant"],
    "searched": ["strategy=static", "proxy=gradnorm"],
}
"""The overrides of the runs in each of these rows."""


def write_run(
    output: Path,
    *overrides: str,
    accuracies: Sequence[float],
    scores: Sequence[Mapping[str, float]] = (),
    enabled: Sequence[Sequence[str]] = (),
    status: str = "finished",
    importance: Sequence[Mapping[str, Any]] = (),
    provenance: Mapping[str, Any] = PROVENANCE,
    **result: Any,
) -> Path:
    """A run of the embedded task; returns its directory.

    Args:
        output: the folder of all runs.
        overrides: of the command line, such as `seed=13` and `strategy=static`.
        accuracies: validation accuracy after each epoch of 100 steps, as a share.
        scores: of each site, for each search; the searches are spread over the steps.
        enabled: the sites that each search switched on, at rank 8.
        status: as in `run.json`.
        importance: the rows of `importance.jsonl`.
        provenance: the content of `provenance.json`.
        result: what differs from the defaults in `run.json`.
    """
    values = [one for one in overrides if VALUE.match(one)]
    composed_once = composed(*(one for one in overrides if one not in values))
    values += [f"output={output}", f"training.epochs={len(accuracies)}"]
    config = experiment.prepare(edited(composed_once, *values))
    directory = experiment.directory_of(config)
    record = Record.open(directory, config.resolved(), provenance)
    rows = [
        {
            "step": 100 * epoch,
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "validation_loss": 1.1 / epoch,
            "accuracy": accuracy,
            "f1": accuracy,
        }
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    for row in rows:
        for step in range(row["step"] - 90, row["step"] + 1, 10):
            record.log_step({"step": step, "epoch": row["epoch"], "loss": 1 / row["epoch"]})
        record.log_epoch(row)
    for index, (by_site, on) in enumerate(zip(scores, enabled, strict=True)):
        record.log_search(
            {
                "step": 100 * len(rows) * index // len(scores),
                "epoch": len(rows) * index // len(scores) + 1,
                "proxy": config.proxy.model_dump() if config.proxy else None,
                "scores": dict(by_site),
                "ranks": {site: 8 if site in on else 0 for site in by_site},
                "parameters": 512 * len(on),
                "tied": 0,
                "degenerate": len(set(by_site.values())) == 1,
                "seconds": 0.5,
            }
        )
    if importance:
        record.log_importance(importance)
    (directory / "checkpoint").mkdir(exist_ok=True)
    for name in ("best", "last"):
        (directory / "checkpoint" / f"{name}.safetensors").write_bytes(b"weights")
    finished = {
        "best": max(rows, key=lambda row: row["accuracy"]),
        "last": rows[-1],
        "steps": rows[-1]["step"],
    }
    record.close(
        {
            "status": status,
            "error": None if status == "finished" else "it broke",
            "seed": config.seed,
            "identity": identity(config),
            "primary_metric": "accuracy",
            **finished,
            "parameters": {
                "budget": 6144,
                "enabled": 6144,
                "sites": 16,
                "sites_enabled": 4,
                "head": 128,
            },
            "seconds": {
                "training": 50.0,
                "searching": 0.5 * len(scores),
                "evaluating": 4.0,
            },
            "peak_memory_bytes": 700 * 2**20,
            **result,
        }
    )
    return directory
