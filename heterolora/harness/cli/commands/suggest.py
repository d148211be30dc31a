"""Suggest where the LoRA parameters of a model should go, from a file of examples.

heterolora suggest facebook/opt-350m reviews.csv --text review --label stars
heterolora suggest path/to/llama notes.jsonl --budget-rank 4 --output config

With --label, or a column named label, the model gets a classification head (or a regression head,
if labels are fractions); without, it is a language model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heterolora.errors import ConfigError, DataError, one_line
from heterolora.files import FORMATS, writing
from heterolora.harness.cli.commands.arguments import Parser
from heterolora.harness.cli.run.quiet import quiet_transformers
from heterolora.harness.data.tables import read_files
from heterolora.settings import torch
from heterolora.tasks import CausalLM, Classification, Task


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    parser.add_argument("model", help="a folder in Hugging Face format, or a name on the hub")
    parser.add_argument("data", type=Path, help=f"a file of examples: {', '.join(FORMATS)}")
    parser.add_argument(
        "--text",
        nargs="+",
        metavar="COLUMN",
        help="the text column, or two for pairs (default: every column of strings)",
    )
    parser.add_argument(
        "--label", metavar="COLUMN", help="the label column (default: label, if there is one)"
    )
    parser.add_argument(
        "--max-length", type=int, default=128, help="maximum tokens per example (default: 128)"
    )
    parser.add_argument("--target", nargs="+", default=["q", "v"], help="modules (default: q v)")
    parser.add_argument(
        "--budget-rank",
        type=int,
        default=8,
        help="budget: as many parameters as plain LoRA with this rank (default: 8)",
    )
    parser.add_argument(
        "--enable-rate",
        type=float,
        default=0.25,
        help="the maximum rank is budget rank / enable rate (default: 0.25)",
    )
    parser.add_argument(
        "--proxy",
        default="gradnorm",
        help="gradnorm (default), gradnorm_l1, snip, synflow, fisher, gora, gradsvd, eva, or a\n"
        "control: constant, depth, spaced, role",
    )
    parser.add_argument(
        "--selection", default="top", help="top (default), proportional or waterfill"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write adapter_config.json here")
    parser.add_argument(
        "--plot", type=png, metavar="FILE.png", help="plot scores and ranks to this file"
    )
    return parser.parse_args(arguments)


def png(name: str) -> Path:
    """Return the path of an image, as an argument type."""
    if not name.endswith(".png"):
        raise argparse.ArgumentTypeError(f"{name}: must end with .png")
    return Path(name)


def main(arguments: Sequence[str]) -> None:
    """Print the allocation, and the configuration for PEFT."""
    args = parse_args(arguments)
    from heterolora.architectures import load_pretrained
    from heterolora.integrations.suggest import suggest

    quiet_transformers()
    try:
        columns, task = read(args.data, args.text, args.label, args.max_length)
    except ValueError as error:
        raise ConfigError([f"--{one_line(error).replace('_', '-')}"]) from error
    loaded = load_pretrained(args.model, task, seed=args.seed)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    loaded.model.to(device)
    examples = task.check(columns, str(args.data))
    train = task.encode(examples, loaded.tokenizer, loaded.positions, device)
    try:
        suggestion = suggest(
            loaded.model,
            train.in_order(8, 256),
            task.loss,
            args.proxy,
            args.budget_rank,
            args.selection,
            args.target,
            enable_rate=args.enable_rate,
            seed=args.seed,
        )
    except ValueError as error:
        raise ConfigError([one_line(error)]) from error
    print(suggestion)
    if args.plot is not None:
        with writing(args.plot):
            suggestion.plot(args.plot)
    config = suggestion.to_peft()
    if args.output is None:
        print(f"\nLoraConfig(\n    r={config.r},\n    lora_alpha={config.lora_alpha},")
        for name in ("rank_pattern", "alpha_pattern"):
            print(f"    {name}={getattr(config, name)},")
        print(f"    target_modules={sorted(config.target_modules)},")
        print(f"    task_type={str(config.task_type)!r},\n)")
        return
    with writing(args.output):
        args.output.mkdir(parents=True, exist_ok=True)
        config.base_model_name_or_path = args.model
        config.save_pretrained(str(args.output))
    print(f'\n{args.output}: load it with peft.LoraConfig.from_pretrained("{args.output}")')


def read(
    file: Path, text: Sequence[str] | None, label: str | None, max_length: int
) -> tuple[dict[str, list[Any]], Task]:
    """Return the columns of a file, with labels as numbers, and the task that they define.

    Raises:
        DataError: if it cannot be read, or a column is missing.
    """
    import pandas as pd

    frame = pd.DataFrame(read_files([file], str(file), text or ()))
    label = label or ("label" if "label" in frame else None)
    if frame.empty:
        raise DataError(f"{file}: has no rows; give a file with examples")
    strings = [
        name for name in frame if name != label and pd.api.types.is_string_dtype(frame[name])
    ]
    texts = list(text or strings)
    if missing := [name for name in [*texts, label] if name is not None and name not in frame]:
        raise DataError(
            f"{file}: has no column {', '.join(missing)}; choose from {', '.join(map(str, frame))}"
        )
    if not 1 <= len(texts) <= 2:
        raise DataError(
            f"{file}: has {len(texts)} text columns ({', '.join(texts)}); choose one, or two for "
            "pairs, with --text"
        )
    columns = {name: frame[name].tolist() for name in texts}
    if label is None:
        if len(texts) == 2:
            raise DataError(
                f"{file}: a language model reads only one column; choose it with --text"
            )
        return columns, CausalLM(text=texts[0], max_length=max_length)
    values = frame[label]
    if (unknown := values.isna() | (values == "")).any():
        row = int(unknown.to_numpy().argmax())
        raise DataError(f"{file}: row {row} has no {label}; repair or drop that row")
    if values.nunique() < 2:
        raise DataError(f"{file}: column {label} has only one value; give examples of all classes")
    settings: dict[str, Any] = {
        "sentences": tuple(texts),
        "label": label,
        "max_length": max_length,
    }
    if pd.api.types.is_float_dtype(values) and not (values == values.round()).all():
        columns[label] = values.tolist()
        return columns, Classification(**settings, num_labels=1, metrics=("pearson",))
    classes, names = pd.factorize(values, sort=True)
    columns[label] = classes.tolist()
    return columns, Classification(**settings, num_labels=len(names), metrics=("accuracy",))
