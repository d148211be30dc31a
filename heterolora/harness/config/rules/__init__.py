"""Rules across sections of the configuration, checked before any weights are loaded.

A rule receives sections according to the types of its parameters, and yields a line for each
problem: `key=value: rule; remedy`.
"""

from collections.abc import Sequence

from heterolora.harness.config.validation import Rule


def light() -> Sequence[Rule]:
    """Return the rules that need neither torch nor Transformers, which take seconds to import."""
    from heterolora.harness.config.rules import budget, data, engine
    from heterolora.harness.config.rules import compatibility as choices

    return (*data.RULES, *budget.RULES, *engine.RULES, choices.choices_fit)


def every() -> Sequence[Rule]:
    """Return all rules, some of which consult the model or the device."""
    from heterolora.harness.config.rules import budget, data, device, engine, model

    return (*data.RULES, *budget.RULES, *engine.RULES, *device.RULES, *model.RULES)
