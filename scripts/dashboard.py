"""Save a W&B workspace that shows accuracy by arm, allocation heatmaps and cost.

    python scripts/dashboard.py --entity TEAM --project heterolora

needs a W&B key (`wandb login`) and the optional extra (pip install -e '.[dashboard]').
"""

import argparse
import importlib
import sys

from heterolora.errors import TrackingError, UserError


def main() -> int:
    """Save it and say where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--entity", required=True, help="the user or team that owns the project")
    parser.add_argument("--project", default="heterolora", help="as in tracking.wandb.project")
    parser.add_argument("--metric", default="accuracy", help="the validation metric of its tasks")
    arguments = parser.parse_args()
    try:
        print(_save(**vars(arguments)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _save(**arguments: str) -> str:
    try:
        dashboard = importlib.import_module("heterolora.harness.loggers.wandb_workspace")
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"{error.name} is not installed; get it with pip install -e '.[dashboard]'"
        ) from error
    return str(dashboard.save(**arguments))


if __name__ == "__main__":
    sys.exit(main())
