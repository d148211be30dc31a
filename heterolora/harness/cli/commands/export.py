"""Write the trained weights of a run for PEFT, for Transformers, or for heterolora.load.

python scripts/export.py outputs/main/mrpc/RUN --to peft OUT
python scripts/export.py outputs/main/mrpc/RUN --to merged OUT --weights last

Then load it, without this project (peft) or without PEFT as well (merged):
  PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(BASE), OUT)
  AutoModelForSequenceClassification.from_pretrained(OUT)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from heterolora.errors import RecordError, one_line
from heterolora.files import writing
from heterolora.harness.cli.commands.arguments import Parser, add_arguments
from heterolora.harness.cli.run.quiet import quiet_transformers

if TYPE_CHECKING:
    from heterolora.architectures import Loaded
    from heterolora.harness.cli.commands.trained_run import TrainedRun

PEFT = """\
from peft import PeftModel
from transformers import {kind}

model = {kind}.from_pretrained("{base}"{options})
model = PeftModel.from_pretrained(model, "{out}")"""
MERGED = """\
from transformers import {kind}

model = {kind}.from_pretrained("{out}")"""
HETEROLORA = """\
import heterolora
from transformers import {kind}

model = {kind}.from_pretrained("{base}"{options})
heterolora.load(model, "{out}")"""


def peft(loaded: Loaded, weights: Path, out: Path) -> None:
    """Write an adapter of PEFT."""
    from heterolora import architectures
    from heterolora.integrations.peft import to_peft

    to_peft(architectures.load(loaded.model, weights), out)


def merged(loaded: Loaded, weights: Path, out: Path) -> None:
    """Write an ordinary checkpoint, with the adapters added to its weights."""
    from heterolora import architectures

    architectures.merge(loaded.model, weights)
    loaded.model.save_pretrained(out)


def heterolora(loaded: Loaded, weights: Path, out: Path) -> None:
    """Write what `heterolora.load` reads: all adapters, shortcuts too."""
    from heterolora import architectures

    architectures.save(architectures.load(loaded.model, weights), out)


TARGETS: Mapping[str, tuple[Callable[[Loaded, Path, Path], None], str, str]] = {
    "peft": (peft, PEFT, "peft"),
    "merged": (merged, MERGED, "transformers"),
    "heterolora": (heterolora, HETEROLORA, "heterolora"),
}
"""For each format: what writes it, the code that loads it, and the library for that."""

TASKS = {
    **dict.fromkeys(
        ("classification", "text_classification", "prompted", "grouped"), "text-classification"
    ),
    "multiple_choice": "multiple-choice",
    **dict.fromkeys(("causal_lm", "text_stream", "instruction", "token_labels"), "text-generation"),
}
"""The hub's names for kinds of tasks."""

FILES = ("adapter_*", "adapters.safetensors", "model*.safetensors*", "config.json")
"""Files that one format writes and another would read as its own."""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    add_arguments(parser)
    parser.add_argument("out", type=Path, help="folder to write to; files in it are replaced")
    parser.add_argument(
        "--to", choices=TARGETS, default="peft", help="format to write (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Write the weights, and print where they are and how to load them."""
    args = parse_args(arguments)
    from heterolora.harness.cli.commands.trained_run import open_run

    quiet_transformers()
    trained = open_run(args)
    config, task = trained.config, trained.config.task.build()
    if not config.method.build().allocates:
        raise RecordError(
            f"{args.run}: is a run of method={config.method.name}; only runs of "
            "method=heterolora can be exported"
        )
    loaded = trained.load()
    write, code, library = TARGETS[args.to]
    options = dict(task.model_options)
    if config.model.revision is not None:
        options["revision"] = config.model.revision
    usage = code.format(
        kind=(type(loaded.model) if library == "transformers" else task.model_class).__name__,
        base=config.model.path or config.model.name,
        out=args.out,
        options="".join(f", {key}={value!r}" for key, value in options.items()),
    )
    card = card_of(trained, usage, library)
    with writing(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        # In a folder beside it, so that a failure leaves the folder as it was.
        with TemporaryDirectory(dir=args.out.parent, prefix=f".{args.out.name}.") as partial:
            write_files(loaded, write, trained.weights, Path(partial), card)
            replace_files(Path(partial), args.out)
    print(f"{args.out}: the {args.weights} weights of {args.run}; load them with\n\n{usage}")


def write_files(
    loaded: Loaded,
    write: Callable[[Loaded, Path, Path], None],
    weights: Path,
    folder: Path,
    card: str,
) -> None:
    """Write all files of an export.

    Raises:
        RecordError: if the disk is full.
    """
    try:
        write(loaded, weights, folder)
    except SafetensorError as error:
        raise RecordError(
            f"{folder}: cannot be written ({one_line(error)}); free some space"
        ) from error
    loaded.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card)


def replace_files(source: Path, folder: Path) -> None:
    """Move the files of a folder to another, after removing an earlier export from that."""
    folder.mkdir(exist_ok=True)
    for stale in (file for pattern in FILES for file in folder.glob(pattern)):
        stale.unlink()
    for file in source.iterdir():
        file.replace(folder / file.name)


def count_parameters(weights: Path) -> tuple[int, int, int]:
    """Return how many sites a file of weights has on, how many in all, and the parameters on."""
    from heterolora.harness.cli.commands.trained_run import read_weights

    _, state, _ = read_weights(weights)
    ranks, tensors = state["ranks"], state["tensors"]
    count = sum(
        rank * (tensors[f"{site}.A"].shape[1] + tensors[f"{site}.B"].shape[0])
        for site, rank in ranks.items()
    )
    return sum(rank > 0 for rank in ranks.values()), len(ranks), count


def card_of(trained: TrainedRun, usage: str, library: str) -> str:
    """Return the model card, with numbers from the record."""
    from heterolora.integrations.card import model_card

    run, config, which = trained.run, trained.config, trained.which
    row, counts = getattr(run.result, which), run.result.parameters
    assert row is not None
    assert counts is not None
    on, sites, parameters = count_parameters(trained.weights)
    proxy = f", proxy {config.proxy.name}" if config.proxy else ""
    facts = {
        "allocation": f"{config.strategy.name}{proxy}",
        "sites with an adapter": f"{on} of {sites}",
        "adapter parameters": f"{parameters:,} (budget {counts.budget:,})",
        "head parameters": f"{counts.head:,}",
        "epoch": f"{row.epoch} of {config.training.epochs} ({which})",
        "validation loss": f"{row.validation_loss:.4f}",
        **{name: f"{value:.4f}" for name, value in row.metrics.items()},
        "learning rate, batch size, seed": f"{config.optimizer.learning_rate:g}, "
        f"{config.training.batch_size}, {config.seed}",
        "configuration": f"{run.result.identity}",
    }
    dataset = "/".join(filter(None, (config.task.source, config.task.subset)))
    return model_card(
        base_model=config.model.path or config.model.name,
        dataset=config.task.path or dataset,
        metrics=row.metrics,
        facts=facts,
        usage=usage,
        library=library,
        task=TASKS.get(config.task.kind, config.task.kind),
    )
