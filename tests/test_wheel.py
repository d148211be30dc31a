"""The wheel, installed away from the source: the console command from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Without the source on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of an environment with the wheel, and with the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # of its own: setuptools keeps there what it built last
    for name in ("conf", "heterolora"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source]
    done = call(*build, cwd=folder)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    done = call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder that is named here is searched, but what is editable in it is not.
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    done = call(
        *pip, "--python", environment / "bin" / "python", "install", "--no-deps", wheel, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return environment / "bin"


def test_it_has_every_file_that_is_no_code(binaries: Path) -> None:
    (wheel,) = binaries.parents[1].glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {f"heterolora/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    files |= {
        str(file.relative_to(ROOT))
        for file in (ROOT / "heterolora").rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert {name for name in names if not name.endswith(".py")} == files


def test_the_command_runs_in_an_empty_folder(binaries: Path, tmp_path: Path) -> None:
    short = ["training.max_steps=20", "tracking=local", "device=cpu"]
    done = call(binaries / "heterolora", "proxy=gradnorm", "strategy=dynamic", *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = tmp_path.rglob("run.json")
    assert run.relative_to(tmp_path).parts[:3] == ("outputs", "main", "starter_paraphrase")
    sweep = ["-m", "seed=0", "proxy=gradnorm,gradnrom", "hydra/launcher=joblib"]
    done = call(binaries / "heterolora", *sweep, *short, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: proxy=gradnrom: there is no such proxy; did you mean gradnorm?\n"
    sweep[2] = "strategy=dynamic,homogeneous"
    done = call(binaries / "heterolora", *sweep, *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 runs: 1 finished, 1 skipped, 0 failed"


def test_the_other_commands_are_there(binaries: Path, tmp_path: Path) -> None:
    done = call(binaries / "heterolora-prefetch", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "next: heterolora offline=true"
    done = call(binaries / "heterolora-report", "--table", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: outputs: there is no such folder")
