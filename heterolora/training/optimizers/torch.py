"""Any other optimizer of torch, or of a package whose optimizers are constructed alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from heterolora.errors import TrainingError, one_line, printable, shown
from heterolora.settings import class_at, setting, torch
from heterolora.training.optimizers.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class Torch(Optimizer):
    """Any `torch.optim.Optimizer`, by its class name.

    Ranks that are off stay bit for bit unchanged if the optimizer skips parameters without
    gradients, as all optimizers of torch do.
    """

    options: dict[str, Any] = setting(
        help="the optimizer's class as _target_, and its arguments except lr",
        example="{_target_: torch.optim.SGD, momentum: 0.9}",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        target = self.options.get("_target_")
        found = class_at(target)
        if found is None or not issubclass(found, torch.optim.Optimizer):
            raise ValueError(
                f"options._target_={printable(shown(target))}: must be an optimizer that is "
                "installed; for example torch.optim.SGD"
            )
        for name, value in self.options.items():
            if isinstance(value, int) and abs(value) >= 2**31:  # which fails at the first step
                raise ValueError(
                    f"options.{name}={value}: must be less than 2147483648 in size; for example 0"
                )

    def over(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer over these parameters.

        Raises:
            TrainingError: if the optimizer rejects its arguments.
        """
        arguments = dict(self.options)
        kind: Any = class_at(arguments.pop("_target_"))
        try:
            made: torch.optim.Optimizer = kind(parameters, lr=self.learning_rate, **arguments)
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"optimizer.options: {kind.__name__} rejects them ({one_line(error)[:200]}); give "
                f"the arguments that {kind.__name__} accepts"
            ) from error
        return made
