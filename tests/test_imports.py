"""The floors of the package, and its sizes, read from the source itself."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from test_plugins import package

from heterolora.harness.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
GROUND = ["errors", "sites", "settings", "seeding", "losses", "files"]
"""Floor 0, where a module may import those before it."""

LIBRARY = {
    **dict.fromkeys(GROUND, 0),
    **dict.fromkeys(["adapters", "allocation", "drawing", "kernels"], 1),
    **dict.fromkeys(["architectures", "proxies", "tasks"], 2),
    **dict.fromkeys(["strategies", "methods"], 3),
    **dict.fromkeys(["training", "integrations"], 4),
}
HARNESS = {
    **dict.fromkeys(["harness.paths", "harness.network"], 5),
    "harness.config": 6,
    **dict.fromkeys(["harness.data", "harness.records"], 7),
    "harness.loggers": 8,
    **dict.fromkeys(["harness.runs", "harness.reporting"], 9),
    "harness.cli.run": 10,
    **dict.fromkeys(["harness.cli.sweeps", "harness.cli.commands"], 11),
    "harness.cli": 12,
    "__main__": 13,
}
FLOORS = {**LIBRARY, **HARNESS}

FILES = {str(path.relative_to(ROOT)): path for path in (ROOT / "heterolora").rglob("*.py")}
LINES, FUNCTION_LINES = 400, 60


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax of a file, which several tests read."""
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path, root: Path = ROOT) -> tuple[str, ...]:
    """The full name of everything that a file imports, wherever in the file it does."""
    return tuple(_imports(path, root))


def _imports(path: Path, root: Path) -> Iterator[str]:
    package = list(path.relative_to(root).with_suffix("").parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def room(name: str) -> str | None:
    """`allocation` for `heterolora.allocation.select`; None outside the package."""
    package, *parts = name.split(".")
    if package != "heterolora" or not parts:
        return None
    if (nested := ".".join(parts[:3])) in HARNESS:
        return nested
    return ".".join(parts[:2]) if parts[0] == "harness" else parts[0]


def home(file: str) -> str | None:
    """The room that a file is in."""
    return room(".".join(Path(file).with_suffix("").parts))


def forbidden(importer: str, imported: str) -> bool:
    """Whether room `importer` may not import from room `imported`."""
    if importer == imported:
        return False
    if FLOORS[importer] == FLOORS[imported] == 0:
        return GROUND.index(importer) < GROUND.index(imported)
    return FLOORS[imported] >= FLOORS[importer]


def test_every_file_has_a_floor() -> None:
    assert len(FILES) > 30
    assert {home(file) for file in FILES} - FLOORS.keys() == {"__init__", "harness.__init__"}
    assert max(LIBRARY.values()) < min(HARNESS.values())
    public = {room(name) for name in imports(FILES["heterolora/__init__.py"])}
    assert public - {None} <= LIBRARY.keys()


@pytest.mark.parametrize("file", sorted(file for file in FILES if home(file) in FLOORS))
def test_a_file_imports_from_lower_floors_or_its_own_room(file: str) -> None:
    importer = home(file)
    assert importer is not None
    imported = {name: room(name) for name in imports(FILES[file])}
    wrong = {name for name, other in imported.items() if other and forbidden(importer, other)}
    assert not wrong


def test_the_law_itself(tmp_path: Path) -> None:
    """That the checks above would see a wrong import, in any of the forms it can take."""
    assert forbidden("proxies", "architectures")
    assert forbidden("training", "harness.data")
    assert forbidden("sites", "settings")
    assert forbidden("allocation", "adapters")
    assert forbidden("tasks", "harness.config")
    assert not forbidden("harness.config", "errors")
    assert not forbidden("seeding", "sites")
    assert not forbidden("training", "tasks")
    file = tmp_path / "heterolora" / "data" / "some.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import torch\nfrom . import tasks\nfrom ..training import loop\n"
        "def late():\n    from heterolora import proxies\n    import heterolora.strategies.base\n"
    )
    assert {room(name) for name in imports(file, tmp_path)} == {
        None,
        "data",
        "training",
        "proxies",
        "strategies",
    }


def importers(package: str) -> set[str]:
    """The files of the repository that import `package`, but for tests and scripts."""
    files = {**FILES, "train.py": ROOT / "train.py"}
    return {
        file
        for file, path in files.items()
        if any(f"{name}.".startswith(f"{package}.") for name in imports(path))
    }


def test_hydra_is_at_the_door_only() -> None:
    assert all(
        file.startswith(("train.py", "heterolora/harness/cli/")) for file in importers("hydra")
    )


@pytest.mark.parametrize(
    "package", ["wandb", "wandb_workspaces", "mlflow", "torch.utils.tensorboard"]
)
def test_what_is_logged_to_is_in_loggers_only(package: str) -> None:
    found = importers(package)
    assert found
    assert all(file.startswith("heterolora/harness/loggers/") for file in found)


def test_the_library_imports_torch_and_transformers_alone_when_it_is_imported() -> None:
    """And what these bring along; only files that nobody needs to import ask for more."""
    allowed = sys.stdlib_module_names | {"heterolora", "torch", "transformers"}
    allowed |= {"numpy", "safetensors", "huggingface_hub"}
    late = {
        "scipy": "heterolora/tasks/metrics.py",
        "sklearn": "heterolora/tasks/metrics.py",
        "peft": ("heterolora/integrations/", "heterolora/methods/"),
        "matplotlib": ("heterolora/drawing/", "heterolora/integrations/suggest.py"),
    }
    for file, path in FILES.items():
        if home(file) in LIBRARY:
            found = {name.split(".")[0] for name in imports(path)}
            assert found <= allowed | {n for n, home in late.items() if file.startswith(home)}, file


def test_allocation_is_pure() -> None:
    allowed = sys.stdlib_module_names | {"heterolora"}
    files = [file for file in FILES if file.startswith("heterolora/allocation/")]
    assert len(files) > 2
    for file in files:
        assert {name.split(".")[0] for name in imports(FILES[file])} <= allowed


@pytest.mark.parametrize("file", sorted(FILES))
def test_files_and_functions_are_short(file: str) -> None:
    text = FILES[file].read_text()
    assert len(text.splitlines()) <= LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(FILES[file])):
        if isinstance(node, functions) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name


def test_the_door_is_small() -> None:
    assert len((ROOT / "train.py").read_text().splitlines()) < 40


def test_a_wheel_has_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {file.parent.relative_to(ROOT) for file in (ROOT / "heterolora").rglob("*.py")}
    packages = [".".join(folder.parts) for folder in sorted(found)]
    assert project["tool"]["setuptools"]["packages"] == [*packages, "heterolora.conf"]


HEAVY = {
    *("torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "huggingface_hub"),
    *("numpy", "scipy", "sklearn", "pandas", "pyarrow", "statsmodels", "matplotlib", "lm_eval"),
    *("wandb", "wandb_workspaces", "mlflow", "tensorboard", "httpx", "httpx2", "requests"),
    *("joblib", "submitit", "hydra", "pydantic"),
}
"""Packages that take their time to import; the first ones seconds."""

CHILD = """
import contextlib, io, json, runpy, sys, traceback

def run(command):
    what, *sys.argv[1:] = command
    sys.argv[0] = what
    if what == "-c":
        exec(command[1], {})
    elif what.endswith(".py"):
        runpy.run_path(what, run_name="__main__")
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)

for command in json.loads(sys.argv[1]):
    code = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            run(command)
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            code = traceback.format_exc()
    print(json.dumps([code, out.getvalue(), sorted({name.split(".")[0] for name in sys.modules})]))
"""
"""Runs some command lines, and prints of each its exit code, what it said, and what is imported."""


def imported(
    *commands: Sequence[str], path: Path | None = None
) -> list[tuple[int | str, str, set[str]]]:
    """What `CHILD` prints of command lines that are run one after another in a process.

    Args:
        commands: each a file, a module or `-c`, and its arguments.
        path: a folder from which to import as well.
    """
    folders = [str(folder) for folder in (ROOT, path) if folder is not None]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(commands)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, said, HEAVY & {*names}) for code, said, names in lines]


CONFIGURED = {"hydra", "pydantic"}
"""What checking or describing a configuration takes."""


@pytest.mark.parametrize(
    ("command", "code", "says", "imports"),
    [
        ("train.py --help", 0, "optimizer.learning_rate", CONFIGURED),
        ("train.py --cfg job", 0, "learning_rate:", {"hydra"}),
        ("train.py optimizer.lr=1", 2, "error: optimizer.lr: unknown key", CONFIGURED),
        (
            "train.py optimizer.learning_rate=-1",
            2,
            "error: optimizer.learning_rate=-1: must be greater than 0",
            CONFIGURED,
        ),
        ("scripts/report.py --help", 0, "--figures", CONFIGURED),
    ],
)
def test_what_a_command_imports(command: str, code: int, says: str, imports: set[str]) -> None:
    """Help and mistakes are told in a second or two; with torch they would take many."""
    ((left_with, said, found),) = imported(command.split())
    assert (left_with, found) == (code, imports), said
    assert says in said


def test_what_the_help_of_each_command_imports() -> None:
    """One after another in one process: what one of them imports, those after it have as well."""
    commands = ["report", *(name for name in COMMANDS if name != "report"), "run", ""]
    lines = [["heterolora", *name.split(), "--help"] for name in commands]
    for name, (code, said, found) in zip(commands, imported(*lines), strict=True):
        assert code == 0, (name, said)
        assert "usage: " in said or "python train.py KEY=VALUE" in said, name
        assert found <= CONFIGURED, name


def test_the_help_shows_the_plugin_of_another_package_without_torch(tmp_path: Path) -> None:
    line = ["train.py", "proxy=mine", "optimizer=sgd", "task=copa", "--help"]
    folder = package(tmp_path, "mine = my_scores.mine:Mine")
    ((code, said, found),) = imported(line, path=folder)
    assert (code, found) == (0, CONFIGURED), said
    assert "proxy=mine" in said
    assert re.search(r"^ +proxy\.power +0\.5 +The exponent", said, re.MULTILINE)


EVERY_PLUGIN = """
from heterolora.harness.config import plugins
found = [plugins.find(g, n) for g in plugins.GROUPS if g != "tracking" for n in plugins.choices(g)]
print(len([*found, *plugins.trackers()]))
"""


def test_no_plugin_needs_torch_to_be_described() -> None:
    lines = [("-c", "import heterolora, heterolora.allocation"), ("-c", EVERY_PLUGIN)]
    (code, said, found), described = imported(*lines)
    assert (code, found) == (0, set()), said
    code, said, found = described
    assert (code, found) == (0, CONFIGURED - {"hydra"}), said
    assert int(said) > 40
