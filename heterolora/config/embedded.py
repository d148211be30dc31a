"""What the package carries itself: a model, and a task of its own."""

from collections.abc import Mapping
from pathlib import Path

MODELS: Mapping[str, Path] = {
    "heterolora/opt-starter": Path(__file__).parents[1] / "data" / "starter" / "model"
}
"""For each `model.name`, its folder."""

TASKS: Mapping[str, str] = {"heterolora/starter-paraphrase": "heterolora.data.starter"}
"""For each `task.source`, the package that generates it."""
