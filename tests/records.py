"""Records as a run leaves them, with numbers that a test chooses."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from conftest import CONF, composed
from omegaconf import OmegaConf

from heterolora.harness.config import Config, identity
from heterolora.harness.records import code_version
from heterolora.harness.records.read import Run
from heterolora.harness.records.record import Record
from heterolora.harness.records.schema import Provenance, RunRecord
from heterolora.harness.records.yaml_values import plain_values
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.outcome import directory_of

SEARCHING = ("search_space", "proxy", "selection", "strategy", "rank_budget")
"""Groups whose files are the whole section, where they have no defaults and no package."""

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


def _own_file(override: str) -> dict[str, Any] | None:
    """The section that an override such as `proxy=snip` chooses; None if it takes composing."""
    group, _, option = override.partition("=")
    if group not in SEARCHING:
        return None
    text = (CONF / group / f"{option}.yaml").read_text()
    return None if "defaults:" in text or "@package" in text else {group: plain_values(text)}


@functools.cache
def _chosen(choices: tuple[str, ...]) -> dict[str, Any]:
    """The configuration with these files of groups, before its interpolations are resolved."""
    sections = [_own_file(choice) for choice in choices]
    rest = [choice for choice, own in zip(choices, sections, strict=True) if own is None]
    values = OmegaConf.to_container(composed(*rest))
    assert isinstance(values, dict)
    for section in filter(None, sections):
        values |= section
    return values


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def configuration(*overrides: str) -> Config:
    """As from the command line, but ten times as fast as composing it."""
    choices = tuple(
        one for one in overrides if "." not in (key := one.split("=")[0]) and (CONF / key).is_dir()
    )
    values = copy.deepcopy(_chosen(choices))
    changes = OmegaConf.from_dotlist([one for one in overrides if one not in choices])
    _merge(values, OmegaConf.to_container(changes))
    return experiment.prepare(OmegaConf.create(values))


_diff = functools.cache(code_version.diff)


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
    own = (f"output={output}", f"training.epochs={len(accuracies)}")
    config = configuration(*overrides, *own)
    directory = directory_of(config, identity(config))
    with mock.patch.object(code_version, "diff", _diff):  # the checkout does not change meanwhile
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


def variant(
    run: Run,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any] = PROVENANCE,
    **result: Any,
) -> Run:
    """A run as `run`, but with other settings, by dotted key, and another result; not on disk."""
    config = copy.deepcopy(run.config)
    for key, value in settings.items():
        *sections, leaf = key.split(".")
        node = config
        for name in sections:
            node[name] = node.get(name) or {}
            node = node[name]
        node[leaf] = list(value) if isinstance(value, tuple) else value
    made = replace(
        run,
        config=config,
        result=RunRecord.model_validate(run.result.row() | result),
        provenance=Provenance.model_validate(provenance),
    )
    vars(made).update(searches=[])
    return made
