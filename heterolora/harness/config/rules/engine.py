"""Rules about what each engine can train."""

from collections.abc import Iterable

from heterolora.harness.config.schema import (
    Device,
    Engine,
    ModelConfig,
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


RULES: tuple[Rule, ...] = (
    engine_on_device,
    sharded_is_eager,
    sharded_is_not_quantized,
)
