"""Write a run's predictions: a table of every example, and a benchmark's submission file.

python scripts/predict.py outputs/main/mrpc/RUN --split test
python scripts/predict.py outputs/main/mrpc/RUN --data pairs.parquet
python scripts/predict.py outputs/main/mnli/RUN --task ax --split test

The table is a parquet file with the columns index, logits, prediction, and label if the examples
have labels. For test splits of GLUE and SuperGLUE it also writes the submission file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from omegaconf import OmegaConf

from heterolora.errors import ConfigError, DataError, RecordError
from heterolora.files import write_atomically, writing
from heterolora.harness.cli.commands.arguments import Parser, add_arguments, add_device
from heterolora.harness.cli.run.compose import composing, options
from heterolora.harness.cli.run.quiet import quiet_transformers
from heterolora.harness.config import TaskConfig, plugins, suggestion
from heterolora.harness.data.submissions import submission
from heterolora.harness.data.tables import read_files
from heterolora.harness.records import schema
from heterolora.settings import torch
from heterolora.tasks.predicting import Predicting
from heterolora.training.precision import autocast_for, reproducible

if TYPE_CHECKING:
    import pyarrow as pa

    from heterolora.harness.cli.commands.trained_run import TrainedRun
    from heterolora.tasks.base import Columns


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    add_arguments(parser)
    parser.add_argument("--split", help="split of the task (default: the run's validation split)")
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        help="a file with the task's columns to predict (parquet, CSV, TSV or JSON lines), or the\n"
        "folder where the task's splits are now",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="another task that the run's model can predict, such as ax"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help=f"folder to write to (default: RUN/{schema.PREDICTIONS})",
    )
    add_device(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Predict, write the table and the submission file, and print where they are."""
    args = parse_args(arguments)
    from heterolora.harness.cli.commands.trained_run import open_run

    quiet_transformers()
    trained = open_run(args).on_device(args.device)
    section = trained.config.task
    if args.task is not None:
        section = other_task(args.task, section)
    task, data = task_of(section), read(section, args.data, args.split)
    if task.hides_labels(data.columns):
        task = task.without_labels()
    predictions = predict(trained, task, data)
    folder = args.out or trained.directory / schema.PREDICTIONS
    file = folder / f"{section.name}-{data.split}.parquet"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_table(file, predictions.table)
        lines = [f"{file}: {predictions.table.num_rows} predictions"]
        wanted = submission(section, data.split)
        if wanted is not None:
            rows = wanted.lines(data.columns, predictions.table["prediction"].to_pylist())
            write_atomically(folder / wanted.file, "".join(f"{row}\n" for row in rows))
            lines.append(f"{folder / wanted.file}: for the benchmark")
    if predictions.metrics:
        lines.append(", ".join(f"{name} {v:.4f}" for name, v in predictions.metrics.items()))
    print("\n".join(lines))


@dataclass(frozen=True)
class Data:
    """Examples to predict.

    Attributes:
        where: how errors name them.
        split: the name of the split.
        columns: all columns.
    """

    where: str
    split: str
    columns: Columns


@dataclass(frozen=True)
class Predictions:
    """The predictions of a split.

    Attributes:
        table: a row for each example.
        metrics: each metric, by its name; empty if the examples have no labels.
    """

    table: pa.Table
    metrics: Mapping[str, float]


def read(task: TaskConfig, data: Path | None, split: str | None) -> Data:
    """Read examples from files, from a folder where splits are, or from the task's own source.

    Raises:
        DataError: if it cannot be read.
    """
    from heterolora.harness.data import sources

    if data is not None and not data.is_dir():
        columns = read_files([data], f"--data {data}", task.build().texts)
        return Data(str(data), split or data.stem, columns)
    if data is not None:
        task = task.model_copy(update={"path": str(data)})
    split = split or task.validation_split
    if split is None:
        raise DataError(f"--split: task {task.name} has no validation split; name another split")
    where, columns = sources.read(task, split)
    return Data(where, split, columns)


def task_of(section: TaskConfig) -> Predicting:
    """Return the task of a configuration.

    Raises:
        RecordError: if its model has no answers to predict.
    """
    task = section.build()
    if not isinstance(task, Predicting):
        raise RecordError(
            f"task.kind={section.kind}: has no predictions that can be written to a file; give a "
            "run of another kind of task"
        )
    return task


def other_task(name: str, trained: TaskConfig) -> TaskConfig:
    """Return the configuration of a task, with the `max_length` of the run's task.

    Args:
        name: of the task.
        trained: the task of the run.

    Raises:
        ConfigError: if there is no such task.
        RecordError: if its labels are not those of the run's task.
    """
    known = options("task")
    if name not in known:
        raise ConfigError([f"--task {name}: there is no such task; {suggestion(name, known)}"])
    with composing():
        raw: Any = OmegaConf.to_container(compose("config", [f"task={name}"]).task, resolve=True)
    kind = plugins.find("task", raw.get("kind", plugins.GROUPS["task"].default))
    assert kind is not None  # it is a task of this project
    section = kind(**raw | {"max_length": trained.model_dump()["max_length"]})
    assert isinstance(section, TaskConfig)
    theirs, ours = section.build(), trained.build()
    if type(theirs) is not type(ours) or theirs.model_options != ours.model_options:
        raise RecordError(
            f"--task {name}: its kind or its labels differ from those of {trained.name}, on which "
            f"the model was trained; give a run of {name}, or of a task with the same labels"
        )
    return section


def predict(trained: TrainedRun, task: Predicting, data: Data) -> Predictions:
    """Predict every example."""
    import pyarrow as pa

    from heterolora.training.evaluation import outputs

    config = trained.config
    examples = task.check(data.columns, data.where)
    device = torch.device(config.device)
    scores: list[list[float]] = []
    metric = task.metric() if task.has_labels else None
    with reproducible(config.training.tf32, device):
        loaded = trained.load()
        adapters = trained.adapters(loaded)
        split = task.encode(examples, loaded.tokenizer, loaded.positions, device)
        autocast = autocast_for(config.precision, device)
        size = config.evaluation.batch_size
        for output, batch in outputs(adapters.model, split, size, autocast):
            scores += task.scores(output, batch)
            if metric is not None:
                metric.update(output, batch)
    columns = {
        "index": range(len(examples)),
        "logits": scores,
        "prediction": task.chosen(scores, examples),
    }
    if task.label is not None:
        columns["label"] = examples.columns[task.label]
    return Predictions(pa.table(columns), metric.compute() if metric else {})


def write_table(file: Path, table: pa.Table) -> None:
    """Write a parquet file, atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    write_atomically(file, sink.getvalue().to_pybytes())
