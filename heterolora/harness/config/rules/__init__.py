"""Rules across sections of the configuration, checked before any weights are loaded."""

from collections.abc import Sequence

from heterolora.harness.config.validation import Rule


def light() -> Sequence[Rule]:
    """Return the rules that need neither torch nor Transformers, which take seconds to import."""
    from heterolora.harness.config.rules import data, engine, needs

    return (*data.RULES, *engine.RULES, needs.choices_fit)


def every() -> Sequence[Rule]:
    """Return all rules, some of which consult the model or the device."""
    from heterolora.harness.config.rules import data, engine, model, storage

    return (*data.RULES, *engine.RULES, *model.RULES, *storage.RULES)
