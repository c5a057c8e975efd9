"""What cp and its neighbours refuse before the guest is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.cli.guest import _target
from cowshed.errors import InvalidRequest, NotFound


def test_a_copy_needs_the_directory_that_it_goes_to(tmp_path: Path) -> None:
    """What was missing was a file whose name nobody had given, with .part at its end."""
    with pytest.raises(NotFound, match=f"^directory {tmp_path}/none does not exist$"):
        _target("/etc/hostname", f"{tmp_path}/none/name")
    assert _target("/etc/hostname", str(tmp_path)) == tmp_path / "hostname"
    assert _target("/etc/hostname", f"{tmp_path}/name") == tmp_path / "name"
    (tmp_path / "link").symlink_to("none/name")
    with pytest.raises(NotFound, match="none does not exist"):
        _target("/etc/hostname", f"{tmp_path}/link")
    with pytest.raises(InvalidRequest, match="is a device, no file"):
        _target("/etc/hostname", "/dev/null")
