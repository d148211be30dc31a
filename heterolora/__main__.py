"""`python -m heterolora COMMAND ...`: the commands of this package in one place."""

import importlib
import sys

COMMANDS = {
    "run": ("main", "main", "train, as `heterolora` or train.py does"),
    "report": (
        "commands.report",
        "run",
        "print tables and draw figures of finished runs",
    ),
    "export": (
        "commands.export",
        "run",
        "write a run's weights for PEFT or Transformers",
    ),
    "predict": (
        "commands.predict",
        "run",
        "write a run's predictions for a split or a file",
    ),
    "evaluate": (
        "commands.evaluate",
        "run",
        "evaluate a language model on MMLU and others",
    ),
    "suggest": (
        "commands.suggest",
        "run",
        "say where a model's LoRA parameters should go",
    ),
    "archive": (
        "commands.archive",
        "run",
        "keep finished runs in one file, or restore them",
    ),
    "study": (
        "commands.study",
        "run",
        "complete an experiment whose records are kept",
    ),
    "prefetch": (
        "commands.prefetch",
        "run",
        "download models and datasets that runs need",
    ),
}


def main() -> int:
    """Do what the arguments say; returns the exit code."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print("usage: python -m heterolora COMMAND ...\n")
        for name, (_, _, what) in COMMANDS.items():
            print(f"  {name:<10}{what}")
        return 0
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: {command}: there is no such command; choose one of {known}", file=sys.stderr)
        return 2
    module, function, _ = COMMANDS[command]
    sys.argv = [f"python -m heterolora {command}", *arguments]
    return int(
        getattr(importlib.import_module(f"heterolora.harness.cli.{module}"), function)() or 0
    )


if __name__ == "__main__":
    sys.exit(main())
