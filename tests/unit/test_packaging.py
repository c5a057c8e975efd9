"""The distribution is what the project file says."""

from __future__ import annotations

import ast
import re
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


def test_what_is_public_is_seen_before_it_is_used():
    done = subprocess.run(
        [sys.executable, "-c", "import cowshed; print(*dir(cowshed))"], capture_output=True, text=True, check=True
    )
    assert set(cowshed.__all__) <= set(done.stdout.split())


def test_command_is_installed():
    (command,) = metadata.entry_points(group="console_scripts", name="cowshed")
    assert command.value == "cowshed.cli:main"


def test_types_are_shipped():
    assert Path(cowshed.__file__).with_name("py.typed").exists()


def test_package_data_is_what_there_is_beside_the_code():
    """A pattern that names nothing hides that a file has gone; a file that no pattern names is not shipped."""
    source = ROOT / "src"
    named = {
        path
        for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in [*source.glob(f"{package}/{pattern}")] or [f"{package}/{pattern}"]
    }
    there = {path for path in source.glob("cowshed/**/*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert named == there


def test_import_loads_neither_libvirt_nor_rooms():
    heavy = ("libvirt", "cowshed", "rich", "click", "httpx", "sqlite3")
    code = f"import sys, cowshed; print(*[name for name in sys.modules if name.split('.')[0] in {heavy}])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert seen.stdout.split() == ["cowshed"]


def test_every_library_the_code_imports_is_declared():
    """What happens to be on the developer's machine (Debian's own Python packages) hides a missing one."""
    declared = {
        re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-").replace(".", "-")
        for group in (PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values())
        for requirement in group
    }
    known = metadata.packages_distributions()
    bindings = {"libvirt", "libvirt_qemu", "libvirtmod", "libvirtmod_qemu", "rados", "rbd"}  # the distribution's
    missing = {}
    for path in (ROOT / "src" / "cowshed").rglob("*.py"):
        for name in _imported(path) - sys.stdlib_module_names - bindings - {"cowshed"}:
            owners = {owner.lower().replace("_", "-").replace(".", "-") for owner in known.get(name, [name])}
            if not owners & declared:
                missing.setdefault(name, path.name)
    assert not missing


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


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
