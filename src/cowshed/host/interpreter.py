"""Python modules that come with the distribution: how the Python that runs us gets to see them.

The bindings of libvirt and Ceph belong to the host's libraries and to the distribution's own Python. A virtual
environment of that Python sees them only when it was told so; another Python cannot load them at all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = Path("/usr")


def remedy(packages: str, *, build: str = "") -> str:
    """What to do so that this Python sees the modules of ``packages``.

    :param packages: of the distribution, with spaces between
    :param build: what a Python of another origin can do instead; empty: nothing, it has to be the distribution's
    """
    install = f"sudo apt install {packages}"
    python = DISTRIBUTION / "bin/python3"
    if Path(sys.base_prefix) != DISTRIBUTION:
        return build or f"{install}, and use cowshed with the Python they are for: {python}"
    if sees_distribution():
        return install
    # For an environment that is there already this changes the one line that says so; what is installed in it stays.
    return f"{install}; {python} -m venv --system-site-packages --without-pip {sys.prefix}"


def sees_distribution() -> bool:
    """Are the distribution's packages on this Python's path?"""
    if sys.prefix == sys.base_prefix:
        return True
    packages = DISTRIBUTION / "lib"
    return any(Path(place).is_relative_to(packages) and place.endswith("-packages") for place in sys.path)
