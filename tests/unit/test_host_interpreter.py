"""How a Python gets to see the distribution's modules, said by real virtual environments and then done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cowshed.host import interpreter

SOURCE = Path(interpreter.__file__).parents[2]


def remedy_in(python: Path) -> str:
    code = "from cowshed.host import interpreter; print(interpreter.remedy('python3-libvirt', build='build it'))"
    done = subprocess.run(
        [python, "-c", code], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.base_prefix != "/usr", reason="needs the distribution's Python")
def test_what_is_said_to_an_environment_of_its_own_mends_it(tmp_path: Path) -> None:
    place = tmp_path / "own"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", place], check=True, timeout=30)
    kept = place / "lib" / "kept"
    kept.touch()

    install, _, command = remedy_in(place / "bin/python").partition("; ")
    assert install == "sudo apt install python3-libvirt"
    assert command.split()[-1] == str(place)
    subprocess.run(command.split(), check=True, timeout=30)
    assert kept.exists()
    assert remedy_in(place / "bin/python") == install, "now the package is all that is missing"


def test_the_distribution_s_own_python_needs_the_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert interpreter.remedy("python3-rbd python3-rados") == "sudo apt install python3-rbd python3-rados"


def test_another_python_cannot_load_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/opt/python3.13")
    assert interpreter.remedy("python3-libvirt", build="pip install libvirt-python") == "pip install libvirt-python"
    assert interpreter.remedy("python3-rados").endswith("the Python they are for: /usr/bin/python3")
