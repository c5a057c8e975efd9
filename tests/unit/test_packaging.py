"""The distribution is what the project file says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import cowshed

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_is_the_package_s():
    assert metadata.version("cowshed") == cowshed.__version__


def test_command_is_installed():
    (command,) = metadata.entry_points(group="console_scripts", name="cowshed")
    assert command.value == "cowshed.cli:main"


def test_types_are_shipped():
    assert Path(cowshed.__file__).with_name("py.typed").exists()


def test_import_loads_neither_libvirt_nor_rooms():
    heavy = ("libvirt", "cowshed", "rich", "click", "httpx", "sqlite3")
    code = f"import sys, cowshed; print(*[name for name in sys.modules if name.split('.')[0] in {heavy}])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert seen.stdout.split() == ["cowshed"]


def test_every_module_is_on_a_floor():
    """The layers of the import contract name every top-level module (import-linter says the same, later)."""
    (floors,) = (c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "floors")
    named = {name.strip(" ()") for layer in floors["layers"] for part in layer.split("|") for name in part.split(":")}
    package = ROOT / "src" / "cowshed"
    there = {path.stem for path in package.iterdir() if path.name[0] not in "_." and path.suffix in ("", ".py")}
    assert there <= named


def test_package_lists_are_readable():
    done = subprocess.run(
        ["bash", "scripts/packages.sh", "--list", "all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    names = done.stdout.split()
    assert "libvirt-clients" in names
    assert len(names) == len(set(names))


def test_unknown_package_group_is_refused():
    done = subprocess.run(
        ["bash", "scripts/packages.sh", "everything"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "there are: run guest test" in done.stderr


def test_scripts_are_valid_shell():
    scripts = [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]
    assert scripts
    for script in scripts:
        subprocess.run([shutil.which("bash") or "bash", "-n", str(script)], check=True, timeout=30)
