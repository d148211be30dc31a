"""Rules across sections about what tasks, proxies and strategies require of each other."""

from collections.abc import Iterable

from heterolora.harness.config.schema import (
    ModelConfig,
    ProxyConfig,
    SearchSpaceConfig,
    SelectionConfig,
    StrategyConfig,
    TaskConfig,
    TrainingConfig,
)
from heterolora.harness.config.validation import Rule
from heterolora.proxies.spectral import Spectral


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


def proxy_for_search(strategy: StrategyConfig, proxy: ProxyConfig | None) -> Iterable[str]:
    """A strategy that searches needs a proxy."""
    if strategy.build().searches and proxy is None:
        yield f"proxy=null: strategy={strategy.name} needs one; choose it with proxy=gradnorm"


def gains_for_selection(
    strategy: StrategyConfig, proxy: ProxyConfig | None, selection: SelectionConfig | None
) -> Iterable[str]:
    """A selection by gains needs a proxy that provides the gain of each rank."""
    if not strategy.build().searches or proxy is None or selection is None:
        return
    if selection.build().needs_gains and not isinstance(proxy.build(), Spectral):
        yield (
            f"selection={selection.name}: needs the gain of each rank, but proxy={proxy.name} "
            "scores whole sites; choose proxy=gradsvd or proxy=eva, or selection=proportional"
        )


def observed_is_eager(training: TrainingConfig, proxy: ProxyConfig | None) -> Iterable[str]:
    """An observer of training steps cannot see into a compiled model."""
    if training.compile and proxy and (found := proxy.observing("proxy")):
        setting, remedy = found
        yield (
            f"{setting}: cannot observe the steps of training.compile=true; {remedy}, or set "
            "training.compile=false"
        )


def observed_is_searched(
    strategy: StrategyConfig, proxy: ProxyConfig | None, importance: dict[str, ProxyConfig]
) -> Iterable[str]:
    """Scores from training steps need a search after the first, which no step precedes."""
    chosen = strategy.build()
    found = proxy.observing("proxy") if proxy else None
    if (
        found
        and chosen.searches
        and not any(step for epoch in range(2) for step in chosen.search_steps(epoch, 1000, 2000))
    ):
        setting, remedy = found
        yield (
            f"{setting}: strategy={strategy.name} searches only before training; {remedy}, or set "
            "strategy=dynamic"
        )
    for name, other in importance.items():
        if found := other.observing(f"importance.{name}"):
            setting, remedy = found
            yield f"{setting}: scores are taken before training; {remedy}"


def weights_for_gora(
    space: SearchSpaceConfig,
    strategy: StrategyConfig,
    proxy: ProxyConfig | None,
    importance: dict[str, ProxyConfig],
) -> Iterable[str]:
    """GoRA scores weights, and a shortcut has none."""
    if not space.shortcuts:
        return
    asked = {f"importance.{name}.name": other for name, other in importance.items()}
    if proxy is not None and strategy.build().searches:
        asked["proxy"] = proxy
    for key, one in asked.items():
        if one.name == "gora":
            yield (
                f"{key}=gora: GoRA needs the weight that a site adapts, and shortcuts have none; "
                "set search_space=lora"
            )


def weights_are_numbers(
    model: ModelConfig,
    strategy: StrategyConfig,
    proxy: ProxyConfig | None,
    importance: dict[str, ProxyConfig],
) -> Iterable[str]:
    """Some proxies compute with weights, but quantized weights are codes."""
    if model.quantization is None:
        return
    asked = {f"importance.{name}.name": other for name, other in importance.items()}
    if proxy is not None and strategy.build().searches:
        asked["proxy"] = proxy
    for key, one in asked.items():
        if one.build().reads_weights:
            yield (
                f"{key}={one.name}: computes with the model's weights, but "
                f"model.quantization={model.quantization} stores them as codes; choose another, "
                "such as gradnorm, or set model.quantization=null"
            )


RULES: tuple[Rule, ...] = (
    observed_is_eager,
    observed_is_searched,
    weights_for_gora,
    labels_for_proxy,
    synflow_of_choices,
    proxy_for_search,
    gains_for_selection,
    weights_are_numbers,
)
