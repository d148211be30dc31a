"""Write the trained weights of a run for PEFT, for Transformers, or for heterolora.load.

python scripts/export.py outputs/main/mrpc/RUN --to peft OUT
python scripts/export.py outputs/main/mrpc/RUN --to merged OUT --weights last

Then, in a script without this project (peft) or without PEFT (merged):
  PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(BASE), OUT)
  AutoModelForSequenceClassification.from_pretrained(OUT)
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import transformers

from heterolora import architectures
from heterolora.architectures import Loaded
from heterolora.cli.arguments import Parser
from heterolora.cli.run import report_errors
from heterolora.config import Config, checkpoints, validate
from heterolora.errors import RecordError
from heterolora.files import write_atomically, writing
from heterolora.integrations.card import model_card
from heterolora.integrations.peft import to_peft
from heterolora.records import schema
from heterolora.records.read import Run, read

PEFT = """\
from peft import PeftModel
from transformers import {kind}

model = {kind}.from_pretrained("{base}"{options})
model = PeftModel.from_pretrained(model, "{out}")"""
MERGED = """\
from transformers import {kind}

model = {kind}.from_pretrained("{out}")"""
OWN = """\
import heterolora
from transformers import {kind}

model = {kind}.from_pretrained("{base}"{options})
heterolora.load(model, "{out}")"""


def peft(loaded: Loaded, weights: Path, out: Path, card: str) -> None:
    """An adapter of PEFT."""
    to_peft(architectures.load(loaded.model, weights), out, card)


def merged(loaded: Loaded, weights: Path, out: Path, card: str) -> None:
    """An ordinary checkpoint, the adapters added to its weights."""
    architectures.merge(loaded.model, weights)
    with writing(out):
        loaded.model.save_pretrained(out)
        write_atomically(out / "README.md", card)


def own(loaded: Loaded, weights: Path, out: Path, card: str) -> None:
    """What `heterolora.load` reads: everything, shortcuts too."""
    architectures.save(architectures.load(loaded.model, weights), out)
    with writing(out):
        write_atomically(out / "README.md", card)


TARGETS: Mapping[str, tuple[Callable[[Loaded, Path, Path, str], None], str, str]] = {
    "peft": (peft, PEFT, "peft"),
    "merged": (merged, MERGED, "transformers"),
    "heterolora": (own, OWN, "heterolora"),
}
"""How each is written, the code that loads it, and the library for that."""


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = Parser(
        description=summary, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the directory of a finished run")
    parser.add_argument("out", type=Path, help="folder to write; files in it are replaced")
    parser.add_argument(
        "--to", choices=TARGETS, default="peft", help="for whom (default: %(default)s)"
    )
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        default="best",
        help="of the best epoch or the last (default: %(default)s)",
    )
    parser.add_argument(
        "--model", metavar="DIR", help="the pretrained model, if it has moved since the run"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Write what is asked, and print where it is and how it is loaded."""
    asked = parsed(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run = read(asked.run)
    weights = asked.run / schema.CHECKPOINT / f"{asked.weights}.safetensors"
    if not run.finished or not weights.is_file():
        raise RecordError(
            f"{asked.run}: is {run.result.status} and has no {weights.name}; export a finished run"
            if not weights.is_file()
            else f"{asked.run}: is {run.result.status}, not finished; run its command again first"
        )
    config = validate(run.config, ())
    if not config.method.build().allocates:
        raise RecordError(
            f"{asked.run}: is of method={config.method.name}; only runs of method=heterolora can "
            "be exported"
        )
    if asked.model is not None:
        moved = config.model.model_copy(update={"path": asked.model, "revision": None})
        config = config.model_copy(update={"model": moved})
    loaded = checkpoints.load(config.model, config.task.build(), config.seed)
    write, code, library = TARGETS[asked.to]
    usage = code.format(
        kind=type(loaded.model).__name__
        if library == "transformers"
        else config.task.build().model_class.__name__,
        base=config.model.path or config.model.name,
        out=asked.out,
        options="".join(f", {k}={v!r}" for k, v in config.task.build().model_options.items()),
    )
    write(loaded, weights, asked.out, card_of(run, config, asked.weights, usage, library))
    with writing(asked.out):
        loaded.tokenizer.save_pretrained(asked.out)
    print(f"{asked.out}: the {asked.weights} weights of {asked.run}; load them with\n\n{usage}")


def card_of(run: Run, config: Config, which: str, usage: str, library: str) -> str:
    """The model card, from the numbers of the record."""
    row, counts = getattr(run.result, which), run.result.parameters
    assert row is not None
    assert counts is not None
    proxy = f", proxy {config.proxy.name}" if config.proxy else ""
    facts = {
        "allocation": f"{config.strategy.name}{proxy}",
        "sites with an adapter": f"{counts.sites_enabled} of {counts.sites} when training ended",
        "adapter parameters": f"{counts.enabled:,} (budget {counts.budget:,})",
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
    )


def run() -> None:
    """Entry point of the script and of `heterolora-export`."""
    sys.exit(report_errors(lambda: main(sys.argv[1:])))
