"""Layers of a volume that nobody has open: pulled into the top, committed down, stood elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cowshed.errors import Busy
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools import qemu_layers, qemu_source
from cowshed.units import MiB
from cowshed.volumes import chain
from tests import volume_servers as servers


def call(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A raw base and two overlays, each with a text of its own at its own MiB."""
    base = servers.raw_file(tmp_path / "base", "in base", 4 * MiB)
    middle, top = tmp_path / "middle", tmp_path / "top"
    call("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", middle)
    call("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", top)
    for number, path in ((1, middle), (2, top)):
        call("qemu-io", "-f", "qcow2", "-c", f"write -P {number} {number}M 64k", path)
    return base, middle, top


def content(path: Path, format: DiskFormat) -> bytes:
    copy = servers.raw_file(path.with_suffix(".copy"), size=4 * MiB)
    target = DiskSource(DiskType.FILE, DiskFormat.RAW, copy)
    qemu_source.copy(chain.source(path, format), target)
    return copy.read_bytes()


def names(path: Path) -> list[str]:
    return [layer.name for layer, _ in chain.layers_of(path, DiskFormat.QCOW2)]


def test_pulling_takes_everything_along(layers: tuple[Path, Path, Path]) -> None:
    base, _, top = layers
    before = content(top, DiskFormat.QCOW2)
    qemu_layers.rebase(top, (base, DiskFormat.RAW))
    assert names(top) == ["top", "base"]
    assert content(top, DiskFormat.QCOW2) == before
    qemu_layers.rebase(top, None)
    assert names(top) == ["top"]
    assert content(top, DiskFormat.QCOW2) == before


def test_committing_writes_it_down_and_the_top_stands_on_the_rest(layers: tuple[Path, Path, Path]) -> None:
    base, middle, top = layers
    before = content(top, DiskFormat.QCOW2)
    qemu_layers.commit(middle, base)
    qemu_layers.rebase(top, (base, DiskFormat.RAW), content=False)
    assert names(top) == ["top", "base"]
    assert content(top, DiskFormat.QCOW2) == before
    qemu_layers.commit(top, base)
    assert content(base, DiskFormat.RAW) == before


def test_what_is_in_use_is_left_alone(layers: tuple[Path, Path, Path]) -> None:
    base, _, top = layers
    with servers.nbd(top, format="qcow2"), pytest.raises(Busy):
        qemu_layers.rebase(top, (base, DiskFormat.RAW))
    assert names(top) == ["top", "middle", "base"]
