"""What libraries print: their errors alone, beside the warnings of this project."""

import logging
import sys
import warnings
from typing import TextIO


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a live progress bar replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


def quiet_libraries() -> None:
    """Print warnings of this project in a line each, and of libraries only errors."""
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[StderrHandler()])
    quiet_transformers()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Only in-place changes of a layer's output would be lost, and no family makes any.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")


def quiet_transformers() -> None:
    """Have Transformers print errors only, and no progress bars."""
    import transformers  # late, for it imports torch, which takes seconds: --help does without

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
