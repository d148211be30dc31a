"""Any method that PEFT has a configuration for (https://huggingface.co/docs/peft)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.errors import ModelError, Problem, one_line, printable, shown
from heterolora.methods.base import Given, Method
from heterolora.seeding import Stream
from heterolora.settings import Situation, class_at, setting

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """A PEFT method on the linear layers of the search space, about as large as the budget."""

    config: dict[str, Any] = setting(
        help="a PEFT configuration: its class as _target_, and its settings",
        example="{_target_: peft.LoraConfig, use_dora: true}",
    )
    size: str | None = setting(
        None,
        help="the setting that is chosen to come nearest to the budget, such as r; null: "
        "the size is fixed",
        example="r",
    )

    @property
    def targets_layers(self) -> bool:
        """Whether the configuration takes target modules and does not name any itself."""
        fields = configuration(self.config).__dataclass_fields__
        return "target_modules" in fields and "target_modules" not in self.config

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any baseline, and of projections that are no whole layers."""
        yield from super().problems(situation)
        if situation.family is None:
            return  # nor may PEFT be imported yet, which imports torch
        try:
            if self.targets_layers:
                yield from self.whole_layers(situation)
        except ModelError:
            return  # raised again when the method is applied

    def apply(self, given: Given) -> Adapters:
        """Let PEFT prepare the model.

        Raises:
            ModelError: if there is no such configuration, or the model does not support it.
        """
        from heterolora.adapters.full_parameters import Trained

        settings = dict(self.config)
        if self.targets_layers:
            settings["target_modules"] = given.targets
        if self.size is not None:
            settings[self.size] = nearest(given, settings, self.size)
        given.prepare()
        with Stream(given.seed, "initialisation", device=given.model.device):
            model = made(given.model, settings)
        own = trainable(model)
        # Some configurations train a copy of the head.
        copies = [own.pop(name) for name in list(own) if ".modules_to_save." in name]
        return Trained(model, own, copies or given.loaded.head, given.seed)


def trainable(model: Any) -> dict[str, Any]:
    """Return the parameters of a model that PEFT trains, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def nearest(given: Given, settings: Mapping[str, Any], size: str) -> int:
    """Return the value of the setting `size`, at least 1, that comes nearest to the budget.

    The parameter count must grow linearly with `size`.
    """
    from heterolora.architectures.shell import shell

    # Counting does not need the initial weights, some of which are costly to compute.
    bare = {"init_lora_weights": False} if "init_lora_weights" in settings else {}
    counts: list[int] = []
    for value in (1, 2):
        with Stream(0, "count", device=given.model.device):
            model = made(shell(given.model), {**settings, **bare, size: value})
        counts.append(sum(parameter.numel() for parameter in trainable(model).values()))
    one, two = counts
    return max(1, 1 + round((given.budget - one) / (two - one)))


def configuration(settings: Mapping[str, Any]) -> Any:
    """Return the PEFT configuration class named under `_target_`.

    Raises:
        ModelError: if there is no such configuration, or PEFT is not installed.
    """
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise ModelError(
            "method: PEFT is not installed; pip install 'heterolora[peft]', or choose "
            "method=heterolora"
        ) from error
    target = settings.get("_target_")
    kind = class_at(target) if str(target).startswith("peft.") else None
    if kind is None or not issubclass(kind, PeftConfig):
        raise ModelError(
            f"method.config._target_={printable(shown(target))}: must be a configuration of PEFT; "
            "for example peft.LoraConfig"
        )
    return kind


def made(model: Any, settings: Mapping[str, Any]) -> Any:
    """Return the PEFT model made from `model`, in place.

    Args:
        model: a model without adapters.
        settings: the settings of a configuration, with its class under `_target_`.

    Raises:
        ModelError: if there is no such configuration, or PEFT rejects it.
    """
    kind = configuration(settings)
    from peft import get_peft_model

    options = {key: value for key, value in settings.items() if key != "_target_"}
    try:
        return get_peft_model(model, kind(**options))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"method.config: PEFT rejects it ({one_line(error)[:200]}); give the settings that "
            f"{kind.__name__} accepts"
        ) from error
