"""Rules across sections of the configuration about what each engine can train."""

from collections.abc import Iterable

from heterolora.harness.config.schema import (
    Device,
    Engine,
    MethodConfig,
    ModelConfig,
    ProxyConfig,
    StrategyConfig,
    TaskConfig,
    TrainingConfig,
)
from heterolora.harness.config.validation import Rule
from heterolora.training.precision import resolve_device


def engine_on_device(engine: Engine, device: Device) -> Iterable[str]:
    """Processes communicate on CPUs and on CUDA, and each has its own GPU."""
    if engine == "local":
        return
    if ":" in device:
        yield f"device={device}: engine={engine} needs one GPU per process; set device=cuda"
    elif resolve_device(device).type not in ("cpu", "cuda"):
        yield f"engine={engine}: runs only on CPUs and CUDA GPUs; set device=cpu, or engine=local"


def engine_of_observers(engine: Engine, proxy: ProxyConfig | None) -> Iterable[str]:
    """An observer of training steps would see only one process's share of each."""
    if engine != "local" and proxy and (found := proxy.observing("proxy")):
        setting, remedy = found
        yield (
            f"{setting}: would see only one process's share of each step with engine={engine}; "
            f"{remedy}, or set engine=local"
        )


def sharded_method(engine: Engine, method: MethodConfig) -> Iterable[str]:
    """Trained parameters have to be separate from sharded ones."""
    if engine == "sharded" and method.kind != "heterolora":
        yield (
            f"engine=sharded: method={method.name} trains inside the layers that this engine "
            "splits; set engine=distributed, or method=heterolora"
        )


def sharded_weights(
    engine: Engine,
    strategy: StrategyConfig,
    proxy: ProxyConfig | None,
    importance: dict[str, ProxyConfig],
) -> Iterable[str]:
    """A proxy cannot read weights of which each process has only a part."""
    if engine != "sharded":
        return
    asked = {f"importance.{name}.name": other for name, other in importance.items()}
    if proxy is not None and strategy.build().searches:
        asked["proxy"] = proxy
    for key, one in asked.items():
        if one.build().reads_weights:
            yield (
                f"{key}={one.name}: reads whole weights, but with engine=sharded each process has "
                "only a part; choose another, such as gradnorm, or set engine=distributed"
            )


def sharded_is_eager(engine: Engine, training: TrainingConfig) -> Iterable[str]:
    """Layers are gathered outside of what is compiled."""
    if engine == "sharded" and training.compile:
        yield (
            "training.compile=true: engine=sharded does not support torch.compile; set "
            "training.compile=false, or engine=distributed"
        )


def sharded_is_not_quantized(engine: Engine, model: ModelConfig) -> Iterable[str]:
    """The codes of bitsandbytes belong to one device, together with the state that decodes them."""
    if engine == "sharded" and model.quantization is not None:
        yield (
            f"model.quantization={model.quantization}: engine=sharded does not support quantized "
            "weights; set model.quantization=null, or engine=distributed"
        )


def sharded_rows(engine: Engine, task: TaskConfig) -> Iterable[str]:
    """Whether a model keeps packed examples apart is checked by calling its embeddings alone."""
    if engine == "sharded" and task.build().packs:
        yield (
            "task.packing=true: engine=sharded does not support packing; set task.packing=false, "
            "or engine=distributed"
        )


RULES: tuple[Rule, ...] = (
    engine_on_device,
    engine_of_observers,
    sharded_method,
    sharded_weights,
    sharded_is_eager,
    sharded_is_not_quantized,
    sharded_rows,
)
