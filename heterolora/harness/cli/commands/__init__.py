"""The commands besides `run`: modules of this package, whose `main` gets the arguments."""

COMMANDS = {
    "report": "print tables and draw figures of finished runs",
    "predict": "write a run's predictions for a split or a file",
    "export": "write a run's weights for PEFT or Transformers",
    "evaluate": "evaluate a language model on MMLU and other benchmarks",
    "suggest": "say where a model's LoRA parameters should go",
    "prefetch": "download models and datasets that runs need",
    "study": "complete an experiment whose records are kept",
    "archive": "keep finished runs in one file, or restore them",
}
"""What each command does, by its name."""
