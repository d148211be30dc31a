"""The rules of what a task asks of the model, the proxy and the method, beside `model_rules`."""

from collections.abc import Iterable

from heterolora.config import checkpoints
from heterolora.config.schema import (
    ModelConfig,
    ProxyConfig,
    StrategyConfig,
    TaskConfig,
)
from heterolora.config.validation import Rule
from heterolora.errors import ModelError


def labels_for_proxy(
    task: TaskConfig, proxy: ProxyConfig | None, strategy: StrategyConfig
) -> Iterable[str]:
    """A proxy that scores by the loss needs labels."""
    if task.build().has_labels or proxy is None or not strategy.build().searches:
        return
    if proxy.build().needs_labels:
        yield (
            f"proxy={proxy.name}: scores by the loss and needs labels, which task {task.name} has "
            "none of; choose proxy=eva or proxy=constant, or name the column with task.label=COLUMN"
        )


def decoder_for_task(task: TaskConfig, model: ModelConfig) -> Iterable[str]:
    """The next token is predicted by a model that has not read it."""
    if not task.build().needs_decoder:
        return
    try:
        family = checkpoints.family(model)
    except ModelError:
        return  # said by model_is_usable
    if not family.decoder:
        yield (
            f"{model.where}: is a {family.model_type} model, which reads in both directions and so "
            f"sees the tokens that task {task.name} has it predict; choose a decoder, such as "
            "model=opt_125m"
        )


RULES: tuple[Rule, ...] = (labels_for_proxy, decoder_for_task)
