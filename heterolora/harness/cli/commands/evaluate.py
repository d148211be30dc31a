"""Evaluate a run's language model on a benchmark of lm-evaluation-harness, such as MMLU.

python scripts/evaluate.py outputs/main/alpaca/RUN --task mmlu
python scripts/evaluate.py outputs/main/alpaca/RUN --task hellaswag,arc_easy --limit 200

It needs pip install 'heterolora[lm-eval]', and accepts every task of that package. MMLU is 5-shot,
and the answer is the letter with the highest likelihood; the table has every subject, and the mean
over all questions. Data comes from the hub or its cache.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from heterolora.errors import ConfigError, DataError, RecordError, one_line
from heterolora.files import write_atomically, writing
from heterolora.harness.cli.commands.arguments import Parser, add_arguments, add_device
from heterolora.harness.cli.run.quiet import quiet_transformers
from heterolora.harness.config.validation import suggestion
from heterolora.harness.records import schema
from heterolora.settings import torch
from heterolora.training.precision import autocast_for, reproducible

if TYPE_CHECKING:
    from heterolora.harness.cli.commands.trained_run import TrainedRun

SHOTS = {"mmlu": 5}
"""Few-shot examples of published results, for benchmarks where the harness has no default."""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--task", required=True, help="one or more tasks of lm-evaluation-harness: a,b"
    )
    parser.add_argument(
        "--shots",
        type=int,
        help="few-shot examples per question (default: 5 for mmlu, else the task's own)",
    )
    parser.add_argument(
        "--limit", type=int, help="use only this many questions per task or subject"
    )
    parser.add_argument(
        "--include", type=Path, metavar="DIR", help="a folder with your own task files"
    )
    parser.add_argument("--batch-size", type=int, help="default: the run's evaluation.batch_size")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help=f"file for all numbers (default: RUN/{schema.EVALUATIONS}/TASK-WEIGHTS.json)",
    )
    add_device(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Evaluate, write the numbers, and print their table."""
    args = parse_args(arguments)
    from heterolora.harness.cli.commands.trained_run import open_run  # late, for it imports torch

    trained = open_run(args)
    if not trained.config.task.build().needs_decoder:
        raise RecordError(
            f"{args.run}: is a run of task={trained.config.task.name}, which is not a language "
            "model; give a run of a language model, such as one of task=alpaca"
        )
    harness = import_harness()
    tasks = harness.TaskManager(include_path=args.include and str(args.include))
    names = check_names(args.task.split(","), tasks.all_tasks)
    results = evaluate(trained.on_device(args.device), harness, tasks, names, args)
    keys = ("results", "groups", "n-shot", "versions")
    numbers = {key: results[key] for key in keys if key in results}
    numbers |= {"n-samples": results["n-samples"], "harness": harness.version}
    file = args.out or (
        trained.directory / schema.EVALUATIONS / f"{'+'.join(names)}-{trained.which}.json"
    )
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(numbers, indent=2, default=str) + "\n")
    for column in ("results", "groups"):
        if column in results:
            print(harness.make_table(results, column))
    print(f"{file}: the {trained.which} weights of {trained.directory}")


def import_harness() -> SimpleNamespace:
    """Import lm-evaluation-harness; return the parts of it that are used.

    Raises:
        ConfigError: if it is not installed.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it sets up logging of its own
    quiet_transformers()
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import make_table
    except ImportError as error:
        raise ConfigError(
            [
                f"--task: lm-evaluation-harness is not installed ({one_line(error)}); pip install "
                "'heterolora[lm-eval]'"
            ]
        ) from error
    return SimpleNamespace(
        TaskManager=TaskManager,
        HFLM=HFLM,
        evaluate=lm_eval.simple_evaluate,
        make_table=make_table,
        version=lm_eval.__version__,
    )


def check_names(names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Return the names of tasks, after a check that the harness has each of them.

    Raises:
        ConfigError: with every name that it does not have.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        near = {name: suggestion(name, known) for name in unknown}
        raise ConfigError(
            [
                f"--task={name}: the harness has no such task; "
                + (hint if hint.startswith("did") else "list them with lm-eval ls tasks")
                for name, hint in near.items()
            ]
        )
    return names


def evaluate(
    trained: TrainedRun,
    harness: SimpleNamespace,
    tasks: Any,
    names: Sequence[str],
    args: argparse.Namespace,
) -> Mapping[str, Any]:
    """Evaluate a model on tasks; return the results as the harness gives them.

    Raises:
        DataError: if it cannot run a task, for example without its data.
    """
    from heterolora.training.memory import memory_advice

    config, device = trained.config, torch.device(trained.config.device)
    shots = {name: SHOTS.get(name) if args.shots is None else args.shots for name in names}
    with reproducible(config.training.tf32, device), memory_advice(device):
        loaded = trained.load()
        model = harness.HFLM(
            pretrained=trained.adapters(loaded).model.eval(),
            tokenizer=loaded.tokenizer,
            backend="causal",
            batch_size=args.batch_size or config.evaluation.batch_size,
        )
        results: dict[str, Any] = {}
        for count in dict.fromkeys(shots.values()):
            same = [name for name in names if shots[name] == count]
            try:
                with autocast_for(config.precision, device)():
                    part = harness.evaluate(
                        model=model,
                        tasks=same,
                        num_fewshot=count,
                        limit=args.limit,
                        task_manager=tasks,
                        log_samples=False,
                    )
            except (OSError, ValueError, KeyError) as error:
                raise DataError(
                    f"--task={','.join(same)}: the harness cannot run it "
                    f"({one_line(error)[:200]}); if its data is missing, run this once on a "
                    "machine with internet access and point HF_HOME at its cache"
                ) from error
            for key, value in part.items():
                joined = {**results.get(key, {}), **value} if isinstance(value, dict) else value
                results[key] = joined
    return results
