"""What proxies need of a situation, each as the problem where it is missing."""

from __future__ import annotations

from collections.abc import Iterator

from heterolora.errors import Problem
from heterolora.settings import Situation, torch


def labels(proxy: str, situation: Situation) -> Iterator[Problem]:
    """Yield the problem of a proxy that scores by the loss, if the data has no labels."""
    task = situation.task
    if task is not None and not task.has_labels:
        rule = (
            f"scores by the loss, which needs labels, but the data of `task={task.name}` has none"
        )
        remedy = "choose `proxy=eva` or `proxy=constant`, or name the column with `label=COLUMN`"
        yield Problem("proxy", proxy, rule, remedy)


def whole_weights(proxy: str, situation: Situation) -> Iterator[Problem]:
    """Yield the problems of a proxy that computes with the frozen weights themselves."""
    another = "choose another, such as `proxy=gradnorm`"
    if (stored := situation.quantization) is not None:
        rule = (
            f"computes with the model's weights, but `quantization={stored}` stores them as codes"
        )
        yield Problem("proxy", proxy, rule, f"{another}, or set `quantization=null`")
    if situation.engine == "sharded":
        rule = "reads whole weights, but with `engine=sharded` each process has only a part"
        yield Problem("proxy", proxy, rule, f"{another}, or set `engine=distributed`")


def training_steps(
    setting: str, value: str, remedy: str, situation: Situation
) -> Iterator[Problem]:
    """Yield the problems of a proxy that scores by training steps, which it observes.

    Args:
        setting: the setting by which the proxy observes; `proxy` if it always does.
        value: the value of the setting.
        remedy: what to choose instead.
        situation: where the proxy is used.
    """
    engine, strategy = situation.engine, situation.strategy
    if strategy is None:
        yield Problem(
            setting,
            value,
            "scores training steps, but there are none here: scores are taken before training",
            remedy,
        )
        return
    if situation.compile:
        rule = "cannot observe the steps of `compile=true`"
        yield Problem(setting, value, rule, f"{remedy}, or set `compile=false`")
    if engine != "local":
        rule = f"would see only one process's share of each step with `engine={engine}`"
        yield Problem(setting, value, rule, f"{remedy}, or set `engine=local`")
    if strategy.only_before_training:
        rule = f"`strategy={strategy.name}` searches only before training"
        yield Problem(setting, value, rule, f"{remedy}, or set `strategy=dynamic`")


def float64(proxy: str, device: torch.device | None) -> Iterator[Problem]:
    """Yield the problem of a proxy that computes in float64, if the device cannot.

    Args:
        proxy: the name of the proxy.
        device: the device; None if it is not known.
    """
    if device is not None and not has_float64(device):
        rule = f"computes in float64, which `device={device}` does not support"
        yield Problem("proxy", proxy, rule, "use `device=cpu` or another proxy")


def has_float64(device: torch.device) -> bool:
    """Whether a device can compute in float64; Apple's, for example, cannot."""
    if device.type in ("cpu", "cuda"):  # not tried, as that would initialize CUDA
        return True
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True
