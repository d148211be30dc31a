"""The version of the source, what it has beyond its commit, and copies of it."""

import json
import subprocess
from pathlib import Path

import pytest

from heterolora.harness.records import code_version


def git(tree: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(
        ["git", "-C", str(tree), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed tree with the parts of the source, in place of this one."""
    tree = tmp_path / "tree"
    for part in ("conf", "heterolora"):
        (tree / part).mkdir(parents=True)
        (tree / part / "one.py").write_text("one = 1\n")
    (tree / "train.py").write_text("print(1)\n")
    (tree / "README").write_text("read\n")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "one")
    monkeypatch.setattr(code_version, "ROOT", tree)
    return tree


def test_a_clean_tree_is_its_commit(tree: Path) -> None:
    """Whatever lies beside the source, such as one's own data."""
    (tree / "reviews.csv").write_text("text,label\n")
    assert code_version.version() == {"commit": git(tree, "rev-parse", "HEAD"), "dirty": False}
    assert code_version.diff() == ""


def test_the_diff_makes_the_tree_of_the_commit(tree: Path, tmp_path: Path) -> None:
    """New files too: a new proxy is one."""
    (tree / "heterolora" / "one.py").write_text("one = 2\n")
    (tree / "heterolora" / "new.py").write_text("new = 1\n")
    (tree / "notes.txt").write_text("not a part of the source\n")
    (tree / "README").write_text("nor is this, though git knows it\n")
    assert code_version.version()["dirty"] is True
    (tmp_path / "code.diff").write_text(code_version.diff())
    git(tmp_path, "clone", "-q", str(tree), "clone")
    git(tmp_path / "clone", "apply", str(tmp_path / "code.diff"))
    for name in ("one.py", "new.py"):
        file = Path("heterolora") / name
        assert (tmp_path / "clone" / file).read_text() == (tree / file).read_text()
    assert not (tmp_path / "clone" / "notes.txt").exists()
    assert (tmp_path / "clone" / "README").read_text() == "read\n"


def test_a_copy_knows_where_it_comes_from(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "heterolora" / "one.py").write_text("one = 2\n")
    version, diff = code_version.version(), code_version.diff()
    copy = code_version.keep(tmp_path / "copies")
    assert code_version.keep(tmp_path / "copies") == copy
    (tree / "heterolora" / "one.py").write_text("one = 3\n")
    assert code_version.keep(tmp_path / "copies") != copy
    assert (copy / "heterolora" / "one.py").read_text() == "one = 2\n"
    assert not code_version.is_copy()
    monkeypatch.setattr(code_version, "ROOT", copy)
    assert code_version.is_copy()
    assert (code_version.version(), code_version.diff()) == (version, diff)
    assert json.loads((copy / code_version.VERSION).read_text())["commit"] == version["commit"]


def test_the_same_content_of_another_commit_is_another_copy(tree: Path, tmp_path: Path) -> None:
    (tree / "heterolora" / "one.py").write_text("one = 2\n")
    before = code_version.keep(tmp_path / "copies")
    git(tree, "commit", "-qam", "two")
    assert code_version.keep(tmp_path / "copies") != before


def test_outside_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_version, "ROOT", tmp_path)
    assert code_version.version() == {"commit": None, "dirty": None}
    assert code_version.diff() == ""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package beside others in an environment, which lies in a repository of something else."""
    place = tmp_path / "project" / ".venv" / "site-packages"
    for part in ("heterolora/conf", "conf", "other"):
        (place / part).mkdir(parents=True)
        (place / part / "one.yaml").write_text("one: 1\n")
    (place.parents[1] / ".gitignore").write_text(".venv\n")
    (place.parents[1] / "work.py").write_text("")
    git(place.parents[1], "init", "-q")
    git(place.parents[1], "add", "-A")
    git(place.parents[1], "commit", "-qm", "not ours")
    (place.parents[1] / "work.py").write_text("changed = 1")
    monkeypatch.setattr(code_version, "ROOT", place)
    return place


def test_an_installed_package_has_no_commit(installed: Path) -> None:
    assert code_version.version() == {"commit": None, "dirty": None}
    assert code_version.diff() == ""


def test_a_copy_of_an_installed_package_is_the_package_alone(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = code_version.keep(tmp_path / "copies")
    files = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    assert files == {"heterolora/conf/one.yaml", code_version.VERSION}
    monkeypatch.setattr(code_version, "ROOT", copy)
    assert code_version.is_copy()
    assert code_version.version() == {"commit": None, "dirty": None}


def test_without_git_nothing_is_known(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_version.version() == {"commit": None, "dirty": None}
    assert code_version.diff() == ""
