"""`--help` names every key, with the value that it has and what it may be."""

import re

import pytest
from conftest import CommandLine, composed
from omegaconf import OmegaConf

from heterolora.harness.cli.commands import COMMANDS
from heterolora.harness.cli.run.compose import options
from heterolora.harness.cli.run.help import allowed
from heterolora.harness.cli.run.overrides import option_parser
from heterolora.harness.config import Config, plugins
from heterolora.harness.records.read import flat


@pytest.fixture(scope="module")
def shown() -> str:
    import io

    from rich.console import Console

    from heterolora.harness.cli.run.help import show

    console = Console(file=io.StringIO(), width=200)
    show(["optimizer.learning_rate=3e-4", "proxy=snip", "tracking=[local,csv]"], console, COMMANDS)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_every_key_is_there_with_its_value(shown: str) -> None:
    cfg = composed("proxy=snip", "tracking=[local,csv]")
    values = flat(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    fixed = {f"{group}.{tag}" for group in plugins.GROUPS for tag in ("name", "kind")}
    for key in values:
        if key not in {*fixed, "importance", "table"} and not key.startswith("tracking."):
            assert re.search(rf"^ +{re.escape(key)} +\S", shown, re.MULTILINE), key
    assert re.search(r"optimizer\.learning_rate +0\.0003 +\S.*\[number > 0\]", shown)
    assert re.search(r"proxy\.weights +probe +\S.*\[current \| probe\]", shown)


def test_a_key_that_is_only_in_the_class_is_shown_as_it_is_given(shown: str) -> None:
    assert re.search(r"^ +\+task\.held_out +null +\S", shown, re.MULTILINE)
    assert composed("+task.held_out=0.1").task.held_out == 0.1


@pytest.mark.parametrize("method", options("method"))
def test_the_settings_of_a_method_are_in_its_yaml(method: str) -> None:
    values = composed(f"method={method}").method
    section = plugins.find("method", values.kind)
    assert section is not None
    assert section.model_json_schema()["properties"].keys() <= values.keys()


def test_every_group_is_there_with_its_options(shown: str) -> None:
    for group in ("model", "task", "proxy", "strategy", "rank_budget", "hydra/launcher"):
        for option in options(group):
            assert option in shown, option
    assert "proxy=snip" in shown


def test_every_other_command_is_there(shown: str) -> None:
    for name, what in COMMANDS.items():
        assert re.search(rf"^ +heterolora {name} \.\.\. +{re.escape(what)}", shown, re.MULTILINE)


def test_every_option_is_one_of_hydra(command_line: CommandLine) -> None:
    """Hydra reads the same command line after it has been checked here."""
    done = command_line("--hydra-help")
    assert done.code == 0
    options = [name for one in option_parser()._actions for name in one.option_strings]
    assert len(options) > 10
    for name in options:
        assert re.search(rf"(^|[\s,]){name}[\s,:]", done.out, re.MULTILINE), name


def test_every_key_of_the_schema_is_described() -> None:
    """What a reader would otherwise have to look up in the code."""
    known = Config.model_json_schema()
    sections = [*known["$defs"].values(), known]
    silent = {
        f"{section['title']}.{name}"
        for section in sections
        for name, field in section["properties"].items()
        if "description" not in field and "$ref" not in field and "anyOf" not in field
    }
    assert silent <= {"Config.importance", "Config.tracking", "Config.table"}


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "whole number > 0"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number >= 0, < 1"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or null"),
        ({"type": "array", "items": {"enum": ["q", "v"]}}, "list of q | v"),
        ({"type": "boolean"}, "true | false"),
    ],
)
def test_what_is_allowed_is_said_in_words(described: dict[str, object], words: str) -> None:
    assert allowed(described, {}) == words


def test_a_number_of_examples_is_no_text() -> None:
    known = Config.model_json_schema()["$defs"]["TaskConfig"]["properties"]
    assert allowed(known["held_out"], {}) == "number > 0 or null"


def test_the_command_line_helps(command_line: CommandLine) -> None:
    done = command_line("proxy=fisher", "--help")
    assert done.code == 0
    assert "proxy=fisher" in done.out
    wrong = command_line("proxy=fischer", "--help")
    assert wrong.code == 2
    assert wrong.err.startswith("error: proxy=fischer: there is no such proxy")
