"""The floors of the package, and its sizes, read from the source itself."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = [
    "errors",
    "lazy",
    "launched",
    "interrupts",
    "streams",
    "sites",
    "state",
    "settings",
    "seeding",
    "losses",
    "files",
    "dropout",
    "unpadding",
]
"""Floor 0, where a module may import those before it."""

LIBRARY = {
    **dict.fromkeys(GROUND, 0),
    **dict.fromkeys(["adapters", "allocation", "drawing"], 1),
    **dict.fromkeys(["architectures", "proxies", "tasks"], 2),
    **dict.fromkeys(["strategies", "methods"], 3),
    **dict.fromkeys(["training", "integrations"], 4),
}
HARNESS = {
    **dict.fromkeys(["locations", "network"], 5),
    "config": 6,
    **dict.fromkeys(["data", "records"], 7),
    "loggers": 8,
    **dict.fromkeys(["build", "preparing"], 9),
    "material": 10,
    **dict.fromkeys(["run", "reporting"], 11),
    "distributed": 12,
    "cli": 13,
    "__main__": 14,
}
FLOORS = {**LIBRARY, **HARNESS}

FILES = {str(path.relative_to(ROOT)): path for path in (ROOT / "heterolora").rglob("*.py")}
LINES, FUNCTION_LINES = 400, 60


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """The full name of everything that a file imports, wherever in the file it does."""
    package = list(path.relative_to(root).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def room(name: str) -> str | None:
    """`allocation` for `heterolora.allocation.select`; None outside the package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "heterolora" and len(parts) > 1 else None


def forbidden(importer: str, imported: str) -> bool:
    """Whether room `importer` may not import from room `imported`."""
    if importer == imported:
        return False
    if FLOORS[importer] == FLOORS[imported] == 0:
        return GROUND.index(importer) < GROUND.index(imported)
    return FLOORS[imported] >= FLOORS[importer]


def test_every_file_has_a_floor() -> None:
    assert len(FILES) > 30
    rooms = {Path(file).with_suffix("").parts[1] for file in FILES}
    assert rooms - FLOORS.keys() == {"__init__"}
    assert max(LIBRARY.values()) < min(HARNESS.values())
    public = {room(name) for name in imports(FILES["heterolora/__init__.py"])}
    assert public - {None} <= LIBRARY.keys()


@pytest.mark.parametrize("file", sorted(set(FILES) - {"heterolora/__init__.py"}))
def test_a_file_imports_from_lower_floors_or_its_own_room(file: str) -> None:
    importer = Path(file).with_suffix("").parts[1]
    imported = {name: room(name) for name in imports(FILES[file])}
    wrong = {name for name, other in imported.items() if other and forbidden(importer, other)}
    assert not wrong


def test_the_law_itself(tmp_path: Path) -> None:
    """That the checks above would see a wrong import, in any of the forms it can take."""
    assert forbidden("proxies", "architectures")
    assert forbidden("training", "data")
    assert forbidden("sites", "settings")
    assert forbidden("allocation", "adapters")
    assert forbidden("tasks", "config")
    assert not forbidden("config", "errors")
    assert not forbidden("seeding", "streams")
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
    assert all(file.startswith(("train.py", "heterolora/cli/")) for file in importers("hydra"))


@pytest.mark.parametrize(
    "package", ["wandb", "wandb_workspaces", "mlflow", "torch.utils.tensorboard"]
)
def test_what_is_logged_to_is_in_loggers_only(package: str) -> None:
    found = importers(package)
    assert found
    assert all(file.startswith("heterolora/loggers/") for file in found)


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
        if Path(file).with_suffix("").parts[1] in LIBRARY:
            found = {name.split(".")[0] for name in imports(path)}
            assert found <= allowed | {n for n, home in late.items() if file.startswith(home)}, file


def test_allocation_is_pure() -> None:
    allowed = sys.stdlib_module_names | {"heterolora"}
    files = [file for file in FILES if file.startswith("heterolora/allocation/")]
    assert len(files) > 2
    for file in files:
        assert {name.split(".")[0] for name in imports(FILES[file])} <= allowed


@pytest.mark.parametrize("module", ["config", "allocation"])
def test_what_needs_no_torch_does_not_load_it(module: str) -> None:
    code = f"import sys, heterolora.{module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("file", sorted(FILES))
def test_files_and_functions_are_short(file: str) -> None:
    text = FILES[file].read_text()
    assert len(text.splitlines()) <= LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, functions) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name


def test_the_door_is_small() -> None:
    assert len((ROOT / "train.py").read_text().splitlines()) < 40


def test_a_wheel_has_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {file.parent.relative_to(ROOT) for file in (ROOT / "heterolora").rglob("*.py")}
    packages = [".".join(folder.parts) for folder in sorted(found)]
    assert project["tool"]["setuptools"]["packages"] == [*packages, "heterolora.conf"]


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, heterolora.cli.run; print({'torch', 'transformers', 'wandb'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"
