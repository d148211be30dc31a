"""Rules across sections of the configuration, checked before any weights are loaded."""

from collections.abc import Sequence

from heterolora.harness.config.validation import Rule


def light() -> Sequence[Rule]:
    """Return the rules that need neither torch nor Transformers, which take seconds to import."""
    from heterolora.harness.config.rules import data, engine, needs

    return (*data.RULES, *needs.RULES, *engine.RULES)


def heavy() -> Sequence[Rule]:
    """Return the rules that consult the model or the device, by torch and Transformers."""
    from heterolora.harness.config.rules import model, storage

    return (*model.RULES, *storage.RULES)
