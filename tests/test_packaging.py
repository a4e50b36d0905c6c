"""The wheel: builds, holds every package and weight, and its four commands run from another folder."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("autosing-process", "autosing-construct-dataset", "autosing-train", "autosing-sing")


def packages_on_disk() -> set[str]:
    tops = ("autosing", "processing", "tasks")
    return {".".join(p.parent.relative_to(ROOT).parts) for top in tops for p in (ROOT / top).rglob("__init__.py")}


def test_every_package_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert listed == packages_on_disk()


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(chosen):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | ({"OMP_WAIT_POLICY": chosen} if chosen else {})
    code = "import sys, autosing, os; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == (chosen or "PASSIVE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_wheel_holds_the_shipped_weights(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = [p.relative_to(ROOT).as_posix() for p in (ROOT / "autosing" / "weights").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert shipped and not set(shipped) - set(names)
    assert not [n for n in names if n.startswith(("tests/", "demo/", "benchmarks/"))]
    sizes = {n: zipfile.ZipFile(wheel).getinfo(n).file_size for n in names if n.startswith("autosing/weights/")}
    parallel = sum(size for n, size in sizes.items() if n.startswith("autosing/weights/sm2a_parallel/"))
    assert parallel < 15e6 and sum(sizes.values()) - parallel < 40e6


def test_commands_run_from_another_folder(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    # The dependencies are those of the running environment; the package itself comes from the wheel alone.
    site = subprocess.run([sys.executable, "-c", "import numpy; print(numpy.__path__[0])"], capture_output=True, text=True).stdout
    target = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    (target / "dependencies.pth").write_text(str(Path(site.strip()).parent) + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    where = subprocess.run([python, "-c", "import autosing; print(autosing.__file__)"], capture_output=True, text=True, cwd=tmp_path)
    assert str(target) in where.stdout
    for name in COMMANDS:
        done = subprocess.run([tmp_path / "env" / "bin" / name, "--help"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and name in done.stdout + done.stderr, (name, done.stderr[-1000:])
