"""The trained weights of a finished run, which most commands start from."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heterolora.adapters import Adapters, Space
from heterolora.adapters.files import read_adapters
from heterolora.architectures import Loaded
from heterolora.errors import ConfigError, RecordError, one_line
from heterolora.harness.config import Config, checkpoints, validate
from heterolora.harness.config.rules.device import device_exists
from heterolora.harness.config.schema import Device
from heterolora.harness.data import sources
from heterolora.harness.records import schema
from heterolora.harness.records.read import Run, read
from heterolora.harness.runs.build import build_adapters
from heterolora.tasks import Encoded
from heterolora.training.precision import resolve_device


@dataclass(frozen=True)
class TrainedRun:
    """A finished run that has weights.

    Attributes:
        run: the record of the run.
        config: the configuration, with the model where it is now.
        which: which weights, `best` or `last`.
    """

    run: Run
    config: Config
    which: str

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.run.directory

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return weights_of(self.directory, self.which)

    def on_device(self, name: str | None) -> "TrainedRun":
        """Return the same run on another device.

        Args:
            name: of the device; None for that of the run, or `auto` where that does not exist.

        Raises:
            ConfigError: if this machine does not have the device.
        """
        here = not list(device_exists(Device(self.config.device)))
        name = name or (self.config.device if here else "auto")
        config = validate({**self.config.resolved(), "device": name}, (device_exists,))
        device = str(resolve_device(name))
        return replace(self, config=config.model_copy(update={"device": device}))

    def load(self) -> Loaded:
        """Load the pretrained model with a head for the run's task.

        Raises:
            ModelError: if it is not available.
        """
        config = self.config
        return checkpoints.load(config.model, config.task.build(), config.seed, config.device)

    def adapters(self, loaded: Loaded) -> Adapters:
        """Add to the model what the run has trained, by whichever method, in place.

        Args:
            loaded: the result of `load`; it is moved to the configuration's device.

        Raises:
            RecordError: if the weights cannot be read or do not fit the model.
            UserError: if the method of the run, or the data that it reads, is not available.
        """
        split = TrainingSplit(lambda: _training_split(self.config, loaded), self._rows())
        adapters = build_adapters(self.config, loaded, split)
        _, state, _ = read_weights(self.weights)
        try:
            adapters.load_state_dict(state)
        except ValueError as error:
            raise RecordError(
                f"{self.weights}: does not fit {self.config.model.where} with method="
                f"{self.config.method.name} ({one_line(error)[:200]}); give the model that the run "
                "was trained on"
            ) from error
        return adapters

    def _rows(self) -> int | None:
        """Return how many examples the run was trained on; None if the record does not say."""
        train = (self.run.provenance.data or {}).get("train")
        return train["rows"] if train else None


@dataclass(frozen=True)
class TrainingSplit:
    """The training split as methods see it; it is read only if a method needs the examples.

    Attributes:
        read: reads the split.
        rows: how many examples it has; None if that is not known without reading it.
    """

    read: Callable[[], Encoded]
    rows: int | None

    @cached_property
    def _examples(self) -> Encoded:
        return self.read()

    def batches(self, size: int) -> int:
        """Return how many batches of `size` there are."""
        return self._examples.batches(size) if self.rows is None else -(-self.rows // size)

    def in_order(self, size: int, count: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield the first `count` examples, or all, in batches of `size`."""
        return self._examples.in_order(size, count)


def read_weights(weights: Path) -> tuple[Space, dict[str, Any], Mapping[str, str]]:
    """Return the content of a file of weights, as `read_adapters` does.

    Raises:
        RecordError: if it cannot be read.
    """
    try:
        return read_adapters(weights)
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{weights}: cannot be read ({one_line(error)}); restore it, or choose the other "
            "weights with --weights"
        ) from error


def _training_split(config: Config, loaded: Loaded) -> Encoded:
    examples = sources.load(config.task, config.task.train_split)
    if config.training.limit_examples is not None:
        examples = examples.limited(config.training.limit_examples)
    device = torch.device(config.device)
    return config.task.build().encode(examples, loaded.tokenizer, loaded.positions, device)


def weights_of(directory: Path, which: str) -> Path:
    """Return the file of the best or the last weights of a run."""
    return directory / schema.CHECKPOINT / f"{which}.safetensors"


def open_run(args: argparse.Namespace) -> TrainedRun:
    """Open the run of a command line that has the arguments of `add_arguments`.

    Raises:
        RecordError: if it is not finished, has no weights, or is from an incompatible version.
    """
    run, weights = read(args.run), weights_of(args.run, args.weights)
    if not weights.is_file():
        raise RecordError(
            f"{args.run}: is {run.result.status} and has no {weights.name}; give a finished run "
            "with its weights"
        )
    if not run.finished:
        raise RecordError(
            f"{args.run}: is {run.result.status}, not finished; run its command again first"
        )
    # A run of several processes is opened in one as well.
    try:
        config = validate({**run.config, "engine": "local"}, ())
    except ConfigError as error:
        raise RecordError(
            f"{args.run / schema.CONFIG}: is damaged or from another version "
            f"({error.problems[0]}); restore it, or use the version that wrote it"
        ) from error
    if args.model is not None:
        moved = config.model.model_copy(update={"path": args.model, "revision": None})
        config = config.model_copy(update={"model": moved})
    return TrainedRun(run, config, args.weights)
