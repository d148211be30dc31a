"""What the package includes: a model, and tasks of its own."""

from collections.abc import Mapping
from pathlib import Path

STARTER = "heterolora/opt-starter"
"""The `model.name` of the embedded model."""

MODELS: Mapping[str, Path] = {STARTER: Path(__file__).parents[1] / "data" / "starter" / "model"}
"""The folder of each embedded model, by `model.name`."""

PARAPHRASE = "heterolora/starter-paraphrase"
"""The `task.source` of the task whose examples come with the package."""

PLANTED = "heterolora/starter-planted"
"""The `task.source` of the task whose right sites are known, given `task.planting`."""

TASKS: Mapping[str, tuple[str, ...]] = {
    PARAPHRASE: ("heterolora.data.starter",),
    PLANTED: ("heterolora.data.starter", "heterolora.data.planted"),
}
"""The packages that generate each embedded task, by `task.source`."""
