"""Rules about what a task requires of the model, the proxy and the method; see `model_rules`."""

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
            f"proxy={proxy.name}: scores by the loss, which needs labels, but the data of task "
            f"{task.name} has no labels; choose proxy=eva or proxy=constant, or name the column "
            "with task.label=COLUMN"
        )


def decoder_for_task(task: TaskConfig, model: ModelConfig) -> Iterable[str]:
    """The next token is predicted by a model that has not seen it."""
    if not task.build().needs_decoder:
        return
    try:
        family = checkpoints.family(model)
    except ModelError:
        return  # reported by model_is_usable
    if not family.decoder:
        yield (
            f"{model.where}: is a {family.model_type} model, which reads in both directions and "
            f"so sees the tokens that task {task.name} asks it to predict; choose a decoder, such "
            "as model=opt_125m"
        )


def synflow_of_choices(
    task: TaskConfig,
    strategy: StrategyConfig,
    proxy: ProxyConfig | None,
    importance: dict[str, ProxyConfig],
) -> Iterable[str]:
    """SynFlow's input is the same for all choices, so a softmax over them has no gradient."""
    if task.kind != "multiple_choice":
        return
    asked = {f"importance.{name}": other for name, other in importance.items()}
    if proxy is not None and strategy.build().searches:
        asked["proxy"] = proxy
    for key, one in asked.items():
        if one.name == "synflow" and getattr(one, "objective", None) == "loss":
            yield (
                f"{key}.objective=loss: has no gradient in task.kind={task.kind}, where SynFlow "
                f"gives all choices the same score; set {key}.objective=output"
            )


RULES: tuple[Rule, ...] = (labels_for_proxy, synflow_of_choices, decoder_for_task)
