"""From what Hydra composed to a typed configuration."""

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heterolora import network
from heterolora.config.schema import Config
from heterolora.config.validation import validate
from heterolora.errors import ConfigError, one_line


def prepare(cfg: DictConfig) -> Config:
    """Validate a composed configuration and settle what depends on the machine.

    Raises:
        ConfigError: with every problem.
    """
    # Rules ask the model and the machine; who reads records does without torch.
    from heterolora.config.rules import RULES
    from heterolora.training.precision import resolve_device, resolve_precision

    try:
        raw = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([one_line(error)]) from error
    assert isinstance(raw, dict)
    if raw.get("offline") is True:
        network.stay_offline()  # before a rule asks for a model
    config = validate({str(key): value for key, value in raw.items()}, RULES)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    return config.model_copy(update={"device": str(device), "precision": precision})
