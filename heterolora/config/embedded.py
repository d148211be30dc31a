"""What the package carries itself: a model, and tasks of its own."""

from collections.abc import Mapping
from pathlib import Path

STARTER = "heterolora/opt-starter"
"""The `model.name` of the model."""

MODELS: Mapping[str, Path] = {STARTER: Path(__file__).parents[1] / "data" / "starter" / "model"}
"""For each `model.name`, its folder."""

PARAPHRASE = "heterolora/starter-paraphrase"
"""The `task.source` of the task whose examples come with the package."""

PLANTED = "heterolora/starter-planted"
"""The `task.source` of the task whose right sites are known, by `task.planting`."""

TASKS: Mapping[str, tuple[str, ...]] = {
    PARAPHRASE: ("heterolora.data.starter",),
    PLANTED: ("heterolora.data.starter", "heterolora.data.planted"),
}
"""For each `task.source`, the packages that generate it."""
