"""`python -m heterolora COMMAND ...`: the commands of this package in one place."""

import importlib
import sys

COMMANDS = {
    "run": ("heterolora.cli.door", "main", "train, as `heterolora` or train.py does"),
    "report": ("heterolora.cli.report", "run", "tables and figures of finished runs"),
    "export": ("heterolora.cli.export", "run", "a run's weights for PEFT or Transformers"),
    "predict": ("heterolora.cli.predict", "run", "what a run's model says of a split or a file"),
    "evaluate": ("heterolora.cli.evaluate", "run", "a run's language model on MMLU and its like"),
    "suggest": ("heterolora.cli.suggest", "run", "where a model's LoRA parameters should go"),
    "archive": ("heterolora.cli.archive", "run", "keep finished runs in a small file, or put back"),
    "study": ("heterolora.cli.study", "run", "what is missing of an experiment that is kept"),
    "prefetch": ("heterolora.cli.prefetch", "run", "download what runs need"),
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
    return int(getattr(importlib.import_module(module), function)() or 0)


if __name__ == "__main__":
    sys.exit(main())
