"""ploop's descriptor and data file: written, read back, grown, and refused when they are broken."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cowshed.contract.callbacks import SILENT
from cowshed.errors import ImageRejected
from cowshed.model.disk import DiskFormat
from cowshed.tools import filesystem, ploop, transfer
from cowshed.tools import format as formats
from cowshed.tools.ploop import Delta, Descriptor, Kind, PloopError
from cowshed.tools.ploop.descriptor import BACKUP, NONE, TOP, geometry
from cowshed.tools.transfer.layers import RawLayer
from cowshed.tools.transfer.ploop_layer import PloopLayer
from cowshed.tools.transfer.pump import pump
from cowshed.units import GiB, MiB, TiB

SIZE = 64 * MiB
OTHER = "{8e0a1cc6-3fdb-4024-8037-1a0663ebba42}"


def described(size: int = SIZE) -> bytes:
    return ploop.render(Descriptor(size, (Delta(TOP, Kind.EXPANDED, "root.hds"),)))


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "root.hds", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


# --- the descriptor ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [512, MiB, 8 * MiB + 512, 40 * GiB, 16 * TiB, 512 * 1000003])
def test_a_descriptor_is_read_as_it_was_written(size: int) -> None:
    for kind in Kind:
        for preallocated in (True, False):
            wanted = Descriptor(size, (Delta(TOP, kind, "root.hds"),), preallocated=preallocated)
            assert ploop.parse(ploop.render(wanted)) == wanted
    cylinders, heads, track = geometry(size // 512)
    assert cylinders * heads * track == size // 512
    assert heads <= 16
    assert track <= 63


def test_a_chain_of_deltas_is_understood_and_not_opened() -> None:
    chain = (Delta(OTHER, Kind.EXPANDED, "root.hds"), Delta(TOP, Kind.EXPANDED, "root.hds.{1}", OTHER))
    found = ploop.parse(ploop.render(Descriptor(SIZE, chain)))
    assert found.deltas == chain
    with pytest.raises(PloopError, match="merge them first"):
        _ = found.present


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<Parallels_disk_image", "<Parallels", "not XML"),
        (">131072</Disk_size>", ">131073</Disk_size>", "geometry"),
        (">131072</Disk_size>", ">-1</Disk_size>", "not a number"),
        (">131072</Disk_size>", ">99999999999999999999</Disk_size>", "not a number"),
        (">131072</Disk_size>", "></Disk_size>", "not a number"),
        ("<End>131072</End>", "<End>131071</End>", "whole disk"),
        ("<Start>0</Start>", "<Start>1</Start>", "not a number from 0 to 0"),
        ("<Blocksize>2048</Blocksize>", "<Blocksize>0</Blocksize>", "cluster size"),
        ("<Blocksize>2048</Blocksize>", "<Blocksize>9999999</Blocksize>", "not a number"),
        ("<Blocksize>2048</Blocksize>", "", "0 elements <Blocksize>"),
        ("<File>root.hds</File>", "<File>/etc/shadow</File>", "not inside"),
        ("<File>root.hds</File>", "<File>../root.hds</File>", "not inside"),
        ("<File>root.hds</File>", "<File>..</File>", "not inside"),
        ("<File>root.hds</File>", "<File></File>", "not inside"),
        ("<Type>Compressed</Type>", "<Type>Zipped</Type>", "type"),
        (f"<TopGUID>{TOP}", f"<TopGUID>{OTHER}", "none of its images"),
        (f"<TopGUID>{TOP}", "<TopGUID>5fbaabe3", "not a GUID"),
        (f"<ParentGUID>{NONE}", f"<ParentGUID>{OTHER}", "leads nowhere"),
        (f"<ParentGUID>{NONE}", f"<ParentGUID>{TOP}", "leads nowhere"),
        (f"      <GUID>{TOP}</GUID>\n      <P", f"      <GUID>{OTHER}</GUID>\n      <P", "is no snapshot"),
        ("<Snapshots>", "<Snapshots><TopGUID>x</TopGUID>", "2 elements"),
    ],
)
def test_what_is_wrong_with_a_descriptor_is_said(old: str, new: str, reason: str) -> None:
    text = described().decode()
    assert old in text
    with pytest.raises(PloopError, match=reason):
        ploop.parse(text.replace(old, new, 1).encode())


def test_the_backup_guid_is_no_present_state() -> None:
    with pytest.raises(PloopError, match="reserved"):
        ploop.parse(described().replace(TOP.encode(), BACKUP.encode()))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not xml",
        b"<a/>",
        b'<!DOCTYPE a [<!ENTITY x "' + b"y" * 100 + b'">]><Parallels_disk_image>&x;</Parallels_disk_image>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><Parallels_disk_image/>',
        b"<a>" * 1000,
        b"<Parallels_disk_image>" + b"<b/>" * 30000 + b"</Parallels_disk_image>",
        b"<Parallels_disk_image>" + b" " * (2 << 20) + b"</Parallels_disk_image>",
    ],
    ids=["empty", "text", "other", "entity", "external", "deep", "many", "large"],
)
def test_hostile_descriptors_are_refused(text: bytes) -> None:
    with pytest.raises(PloopError):
        ploop.parse(text)


def test_entities_are_refused_before_they_are_expanded() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        b'<!ENTITY %c "&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;">' % (c, *[c - 1] * 8) for c in range(ord("b"), ord("m"))
    )
    with pytest.raises(PloopError, match="document type"):
        ploop.parse(bomb + b"]><Parallels_disk_image>&l;</Parallels_disk_image>")


# --- the data file ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [512, MiB, SIZE + 512, 300 * GiB, 4 * TiB])
def test_a_blank_file_is_read_as_it_was_written(fd: int, size: int) -> None:
    header = ploop.create_blank(fd, size)
    assert ploop.read_header(fd) == header
    assert header.version == (2 if size > 2 * TiB else 1)
    assert not any(ploop.check(fd))
    assert PloopLayer(fd).next_data(0) >= size


def test_content_goes_in_and_comes_out(fd: int, tmp_path: Path) -> None:
    raw, content = tmp_path / "raw", os.urandom(3 * MiB)
    raw.write_bytes(content[: 2 * MiB] + bytes(8 * MiB) + content[2 * MiB :] + bytes(512))
    size = raw.stat().st_size
    with raw.open("rb") as file, closing(ploop.Mapped(fd, size)) as sink:
        pump(RawLayer(file.fileno()), sink, progress=SILENT)
        sink.finish()
    assert os.fstat(fd).st_size == 4 * MiB  # the table and three clusters
    assert read(fd) == raw.read_bytes()
    layer = PloopLayer(fd)
    assert [layer.next_data(at) for at in (0, 2 * MiB, 10 * MiB + 5)] == [0, 10 * MiB, 10 * MiB + 5]
    assert layer.next_data(11 * MiB) >= size


def read(fd: int) -> bytes:
    layer = PloopLayer(fd)
    buffer = bytearray(layer.size)
    layer.fill(memoryview(buffer), 0)
    return bytes(buffer)


def filled(fd: int, size: int, clusters: dict[int, int]) -> bytes:
    """An image with clusters full of one byte, put in in this order; its content."""
    ploop.create_blank(fd, size)
    header = ploop.read_header(fd)
    content, end = bytearray(size), os.fstat(fd).st_size
    for number, byte in clusters.items():
        data = bytes([byte]) * MiB
        os.pwrite(fd, data, end)
        os.pwrite(fd, struct.pack("<I", end // header.unit), 64 + 4 * number)
        content[number * MiB : (number + 1) * MiB] = data
        end += MiB
    return bytes(content)


def test_growing_inside_the_room_of_the_table(fd: int) -> None:
    content = filled(fd, 8 * MiB, {5: 1, 0: 2})
    ploop.grow(fd, 20 * MiB)
    assert read(fd) == content + bytes(12 * MiB)
    assert ploop.read_header(fd).data_offset == MiB


def test_growing_moves_what_is_in_the_tables_way(fd: int) -> None:
    content = filled(fd, 8 * MiB, {5: 1, 0: 2, 7: 3})
    ploop.grow(fd, 600 * GiB)
    assert ploop.read_header(fd).data_offset == 3 * MiB
    layer = PloopLayer(fd)
    assert layer.size == 600 * GiB
    buffer = bytearray(16 * MiB)
    layer.fill(memoryview(buffer), 0)
    assert bytes(buffer) == content + bytes(8 * MiB)
    assert layer.next_data(8 * MiB) >= layer.size


def test_growing_that_stops_anywhere_leaves_the_old_disk_or_the_new(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write but the last finished one is undone, as after a crash: nothing of the disk changes."""
    steps, real = 0, filesystem.write_all

    class Stop(Exception):
        pass

    def limited(limit: int) -> Callable[..., None]:
        left = [limit]

        def write(*args: object) -> None:
            if not left[0]:
                raise Stop
            left[0] -= 1
            real(*args)  # type: ignore[arg-type]

        return write

    while True:
        os.ftruncate(fd, 0)
        content = filled(fd, 8 * MiB, {5: 1, 0: 2, 7: 3})
        monkeypatch.setattr(filesystem, "write_all", limited(steps))
        try:
            ploop.grow(fd, 600 * GiB)
        except Stop:
            monkeypatch.setattr(filesystem, "write_all", real)
            assert read(fd) == content
            ploop.grow(fd, 600 * GiB)
            ended = False
        else:
            ended = True
        monkeypatch.setattr(filesystem, "write_all", real)
        buffer = bytearray(8 * MiB)
        PloopLayer(fd).fill(memoryview(buffer), 0)
        assert bytes(buffer) == content
        if ended:
            break
        steps += 1
    assert steps >= 6


def test_an_image_of_version_1_ends_at_2_tib(fd: int) -> None:
    ploop.create_blank(fd, GiB)
    with pytest.raises(PloopError, match="2 TiB"):
        ploop.grow(fd, 3 * TiB)
    assert ploop.read_header(fd).size == GiB


def test_every_cluster_gets_a_place(fd: int) -> None:
    content = filled(fd, 8 * MiB, {5: 1, 0: 2})
    assert ploop.map_rest(fd) == 9 * MiB
    assert all(ploop.check(fd))
    assert read(fd) == content


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [
        (0, b"x", "no ploop header"),
        (16, b"\x03", "version"),
        (28, b"\0\0\0\0", "cluster size"),
        (28, b"\xff\xff\xff\xff", "cluster size"),
        (32, b"\xff\xff\xff\xff", "too large"),
        (32, b"\x01\0\0\0", "does not fit"),
        (36, b"\xff\xff\xff\xff", "does not fit"),
        (44, b"\x01\0\0\0", "in-use"),
        (64, b"\x01\0\0\0", "inside the table"),
        (64, b"\x01\x08\0\0", "not aligned"),
        (64, b"\0\x80\0\0", "cut short"),
        (68, struct.pack("<I", 2048), "share a cluster"),
    ],
)
def test_broken_data_files_are_refused(fd: int, offset: int, data: bytes, reason: str) -> None:
    filled(fd, 8 * MiB, {5: 1, 0: 2})
    if offset == 68:
        os.pwrite(fd, struct.pack("<I", 2048), 64)
    os.pwrite(fd, data, offset)
    with pytest.raises(PloopError, match=reason):
        ploop.check(fd)


def test_a_file_that_is_cut_short_is_refused(fd: int) -> None:
    filled(fd, 8 * MiB, {5: 1, 0: 2})
    for end in (2 * MiB, 70, 40, 0):
        os.ftruncate(fd, end)
        with pytest.raises(PloopError):
            ploop.check(fd)


# --- as an image ------------------------------------------------------------------------------


def test_an_image_in_the_format_is_inspected_and_becomes_a_raw_base(fd: int, tmp_path: Path) -> None:
    content = filled(fd, 8 * MiB, {5: 1, 0: 2})
    found = formats.inspect(fd, image="it", declared=DiskFormat.PLOOP, allowed=(DiskFormat.PLOOP,))
    assert found == formats.Inspection(DiskFormat.PLOOP, 8 * MiB, 2 * MiB)
    base = os.open(tmp_path / "base", os.O_RDWR | os.O_CREAT)
    transfer.fetch(fd, transfer.into_file(base, tmp_path), found)
    os.close(base)
    assert (tmp_path / "base").read_bytes() == content


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [(44, struct.pack("<I", 0x746F6E59), "not closed"), (64, b"\0\x80\0\0", "cut short"), (36, b"\xff" * 4, "fit")],
)
def test_images_that_are_broken_are_refused(fd: int, offset: int, data: bytes, reason: str) -> None:
    filled(fd, 8 * MiB, {5: 1, 0: 2})
    os.pwrite(fd, data, offset)
    with pytest.raises(ImageRejected, match=reason):
        formats.inspect(fd, image="it", declared=DiskFormat.PLOOP, allowed=(DiskFormat.PLOOP,))


def test_images_in_the_format_are_refused_where_they_are_not_expected(fd: int) -> None:
    filled(fd, 8 * MiB, {})
    for declared in (None, DiskFormat.RAW, DiskFormat.PLOOP):
        with pytest.raises(ImageRejected):
            formats.inspect(fd, image="it", declared=declared)
