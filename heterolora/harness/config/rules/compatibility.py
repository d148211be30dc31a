"""What each choice needs of all others, as its class says, in the keys of the configuration."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from heterolora.errors import Problem, shown
from heterolora.harness.config.schema import (
    ModelConfig,
    PluginConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    TrainingConfig,
)
from heterolora.harness.config.validation import Sections
from heterolora.settings import Situation

WORDS = {
    **{name: f"model.{name}" for name in ModelConfig.model_fields},
    **{name: f"search_space.{name}" for name in SearchSpaceConfig.model_fields},
    **{name: f"rank_budget.{name}" for name in RankBudgetConfig.model_fields},
    **{name: f"training.{name}" for name in TrainingConfig.model_fields},
    **{"label": "task.label", "normalize": "selection.normalize"},
    "enable_rate": "strategy.enable_rate",
}
"""The keys of arguments that are not a choice's own settings; of any others, their names."""

WHOLE = {"shortcuts=[]": "search_space=lora"}
"""Choices of the configuration that stand for a setting with a value."""


def choices_fit(sections: Sections) -> Iterable[str]:
    """Every choice has what it needs, as far as plain values show."""
    return problems(sections, situation_of(sections))


def situation_of(sections: Mapping[str, Any]) -> Situation:
    """Return what plain values say of a run; sections that are not valid say nothing."""
    groups = ("task", "method", "strategy", "proxy", "selection")
    facts: dict[str, Any] = {
        group: section.build() for group in groups if (section := sections.get(group)) is not None
    }
    if model := sections.get("model"):
        facts |= {"model": model.path or model.name}
        facts |= {"dtype": model.dtype, "quantization": model.quantization}
    if space := sections.get("search_space"):
        facts |= {name: getattr(space, name) for name in ("projections", "shortcuts", "exclude")}
    if training := sections.get("training"):
        facts["compile"] = training.compile
    return Situation(engine=sections.get("engine", "local"), **facts)


def problems(sections: Mapping[str, Any], situation: Situation) -> Iterator[str]:
    """Yield a line for each problem that a choice has with the situation."""
    chosen = list(_chosen(sections, situation))
    titles = {one.title: one.section.name for one, _ in chosen if hasattr(one.section, "name")}
    for one, here in chosen:
        for problem in one.section.build().problems(here):
            yield one.line(problem, sections, titles)


@dataclass(frozen=True)
class Choice:
    """A choice of the configuration.

    Attributes:
        group: what is chosen, such as `proxy`.
        key: the key of its section: that of the group, or one chosen by the user.
        section: the section.
    """

    group: str
    key: str
    section: PluginConfig

    @property
    def title(self) -> tuple[str, str]:
        """The choice as the library names it."""
        return self.group, self.section.build().name

    def line(
        self, problem: Problem, sections: Mapping[str, Any], titles: Mapping[tuple[str, str], str]
    ) -> str:
        """Return the line of a problem that this choice has.

        Args:
            problem: the problem, in the words of the library.
            sections: the sections of the configuration.
            titles: the names of choices in the configuration, by those in the library.
        """

        def write(name: str, value: str) -> str:
            if (whole := WHOLE.get(f"{name}={value}")) is not None:
                return whole
            return f"{self._key(name) or name}={titles.get((name, value), value)}"

        if problem.setting == "model":
            return problem.line(sections["model"].where, write)
        start = write(problem.setting, shown(problem.value))
        if problem.setting == self.group != self.key:
            start = f"{self.key}.name={problem.value}"
        return problem.line(start, write)

    def _key(self, name: str) -> str | None:
        """Return the key of an argument; None if it has none of its own."""
        if name in type(self.section).model_fields:
            return f"{self.key}.{name}"
        if name == self.group != self.key:
            return f"+{self.group}@{self.key}"
        return WORDS.get(name)


def _chosen(
    sections: Mapping[str, Any], situation: Situation
) -> Iterator[tuple[Choice, Situation]]:
    """Yield every choice that is used, and the situation it is used in."""
    searching = situation.strategy is not None and situation.strategy.searches
    unused = () if searching else ("proxy", "selection")
    for group in ("method", "task", "strategy", "proxy", "selection", "optimizer"):
        if group not in unused and sections.get(group) is not None:
            yield Choice(group, group, sections[group]), situation
    before = replace(situation, strategy=None, proxy=None, selection=None)
    for name, section in sections.get("importance", {}).items():
        yield Choice("proxy", f"importance.{name}", section), before
    for section in sections.get("tracking", {}).values():
        yield Choice("tracking", "tracking", section), situation
