"""The command line: `python train.py proxy=gradnorm strategy=dynamic`, or a sweep with `-m`."""

import sys

import hydra
from omegaconf import DictConfig

from heterolora import command


@hydra.main(
    version_base=command.HYDRA_VERSION,
    config_path=str(command.CONF),
    config_name="config",
)
def main(cfg: DictConfig) -> float:
    """One run; Hydra calls it for each job of a sweep, and sweepers read what it returns."""
    return command.main(cfg)


if __name__ == "__main__":
    sys.exit(command.door(main))
