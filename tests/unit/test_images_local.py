"""Pulling from files of this host: regular files only, holes stay holes, what changes is refused."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import random
import socket
import struct
from pathlib import Path

import pytest
import zstandard

from cowshed.config import ImagesSection
from cowshed.contract.callbacks import NoProgress
from cowshed.errors import (
    ConfigError,
    DigestMismatch,
    ImageRejected,
    Interrupted,
    InvalidRequest,
    NameTaken,
    NotFound,
    PermissionDenied,
)
from cowshed.images.directory import DirectoryService
from cowshed.images.pull import pull
from cowshed.model.disk import DiskFormat
from cowshed.tools import checksum

NOISE = random.Random(3).randbytes(200_000)
DATA = NOISE + bytes(3_000_000) + NOISE


@pytest.fixture
def service(tmp_path: Path) -> DirectoryService:
    return DirectoryService(tmp_path / "images", ImagesSection())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "small.raw"
    path.write_bytes(DATA)
    return path


def empty(service: DirectoryService) -> bool:
    return not service.root.exists() or os.listdir(service.root) == [".lock"]


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_path_or_file_url(service: DirectoryService, raw: Path, form: str) -> None:
    digest = hashlib.sha512(DATA).hexdigest()
    image = pull(service, form.format(raw), digest=f"sha512:{digest}", properties={"os": "x"}, min_disk=9)
    assert (image.name, image.disk_format, image.size, image.min_disk) == ("small", DiskFormat.RAW, len(DATA), 9)
    assert (image.source, image.properties["os"]) == (str(raw), "x")
    assert service.local_path(image).read_bytes() == DATA
    service.verify(image)


@pytest.mark.parametrize("cheapest", ["sha256", "sha512"])
@pytest.mark.parametrize("holes", [0, 4 << 20])
def test_the_digest_that_later_reads_check_is_the_cheapest_of_this_cpu(
    service: DirectoryService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheapest: str, holes: int
) -> None:
    data = DATA + bytes(holes) + DATA
    path = tmp_path / "holes.raw"
    with path.open("wb") as file:
        file.write(DATA)
        file.seek(holes, os.SEEK_CUR)
        file.write(DATA)
    monkeypatch.setattr(checksum, "_work", lambda algorithm: algorithm != cheapest)
    given = f"sha512:{hashlib.sha512(data).hexdigest()}"
    image = pull(service, str(path), digest=given)
    assert (image.os_hash_algo, image.os_hash_value) == (cheapest, hashlib.new(cheapest, data).hexdigest())
    assert image.properties == ({} if cheapest == "sha512" else {"source_digest": given})
    service.verify(image)
    with pytest.raises(DigestMismatch):
        pull(service, str(path), name="other", digest=f"sha512:{'0' * 128}")


def test_a_link_of_the_users_own_is_followed(service: DirectoryService, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "link.raw").symlink_to(raw)
    assert pull(service, str(tmp_path / "link.raw")).name == "link"


def test_holes_stay_holes_and_zeros_become_holes(service: DirectoryService, tmp_path: Path) -> None:
    path = tmp_path / "sparse.raw"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(9 << 20)
        file.write(NOISE)
        file.write(bytes(4 << 20))  # zeros that occupy space
    image = pull(service, str(path))
    stored = service.local_path(image)
    assert stored.stat().st_size == 64 << 20
    assert stored.stat().st_blocks * 512 <= 512 << 10
    assert image.os_hash_value == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stored.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("gz", gzip.compress), ("xz", lzma.compress), ("zst", zstandard.compress)],
    ids=["gz", "xz", "zst"],
)
def test_a_wrapped_file_is_unpacked_and_its_zeros_are_holes(
    service: DirectoryService, tmp_path: Path, ending: str, pack: object
) -> None:
    packed: bytes = pack(DATA)  # type: ignore[operator]
    path = tmp_path / f"a.img.{ending}"
    path.write_bytes(packed)
    digest = "sha256:" + hashlib.sha256(packed).hexdigest()
    image = pull(service, str(path), digest=digest)
    assert (image.name, image.properties["source_digest"]) == ("a", digest)
    assert image.os_hash_value == hashlib.sha256(DATA).hexdigest()
    assert service.local_path(image).read_bytes() == DATA
    assert service.local_path(image).stat().st_blocks * 512 < 1 << 20


def test_a_ramdisk_is_not_unpacked(service: DirectoryService, tmp_path: Path) -> None:
    path = tmp_path / "initrd.gz"
    path.write_bytes(gzip.compress(b"x"))
    image = pull(service, str(path), format=DiskFormat.ARI)
    assert service.local_path(image).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "socket", "missing", "below a file", "loop"])
def test_only_regular_files(service: DirectoryService, raw: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    expected: type[Exception] = ImageRejected
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path = Path("/dev/null")
        elif kind == "socket":
            listener.bind(str(path))
        elif kind == "loop":
            path.symlink_to(path)
            expected = Exception
        elif kind == "below a file":
            path, expected = raw / "x", NotFound
        else:
            expected = NotFound
        with pytest.raises(expected) as caught:
            pull(service, str(path), name="a")
    assert not isinstance(caught.value, OSError)
    assert empty(service)


def test_no_permission_names_the_file(service: DirectoryService, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(PermissionDenied, match=r"no permission to read .*small\.raw"):
            pull(service, str(raw))


@pytest.mark.parametrize(
    "source", ["", "ftp://h/x", "ssh://h/x", "file://host/x", "file:x://y", "a\0b", "json://{}", "http://[::1"]
)
def test_other_sources_are_refused(service: DirectoryService, source: str) -> None:
    with pytest.raises(InvalidRequest):
        pull(service, source, name="a")
    with pytest.raises(InvalidRequest):
        pull(service, source)
    assert empty(service)


def test_the_home_of_a_user_that_is_not_there_is_a_file_that_is_not_there(service: DirectoryService) -> None:
    with pytest.raises(NotFound, match=r"file ~no-such-user/a\.raw does not exist"):
        pull(service, "~no-such-user/a.raw")


def test_no_image_has_a_name_that_is_another_ones_id(service: DirectoryService, raw: Path, tmp_path: Path) -> None:
    image = pull(service, str(raw), name="a")
    with pytest.raises(InvalidRequest, match="looks like a UUID"):
        pull(service, str(raw), name=image.id)
    same = tmp_path / f"{image.id}.raw"
    same.write_bytes(raw.read_bytes())
    assert pull(service, str(same)).name == f"image-{image.id}"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"BZh91AY&SY", "bzip2 file"),
        (b"7z\xbc\xaf\x27\x1c", "7z archive"),
        (b"PK\x03\x04", "zip archive"),
        (b"\x04\x22\x4d\x18", "lz4 file"),
    ],
)
def test_an_archive_is_no_disk(service: DirectoryService, tmp_path: Path, head: bytes, name: str) -> None:
    """It would be kept as a raw disk that boots nothing."""
    source = tmp_path / "disk.img"
    source.write_bytes(head.ljust(4096, b"\1"))
    with pytest.raises(ImageRejected, match=name):
        pull(service, str(source))
    assert empty(service)


@pytest.mark.parametrize("digest", ["md5:" + "0" * 32, "sha256:abc", "x", "sha256:" + "g" * 64])
def test_a_digest_is_checked_before_anything_is_read(service: DirectoryService, raw: Path, digest: str) -> None:
    with pytest.raises(InvalidRequest, match="not a digest"):
        pull(service, str(raw), digest=digest)


def test_a_wrong_digest_names_both(service: DirectoryService, raw: Path) -> None:
    with pytest.raises(DigestMismatch, match=f"expected {'0' * 64}, got {hashlib.sha256(DATA).hexdigest()}"):
        pull(service, str(raw), digest="sha256:" + "0" * 64)
    assert empty(service)


def test_the_format_is_detected_or_declared(service: DirectoryService, tmp_path: Path, raw: Path) -> None:
    iso = tmp_path / "a.iso"
    iso.write_bytes(bytes(32769) + b"CD001" + bytes(40_000))
    assert pull(service, str(iso)).disk_format == DiskFormat.ISO
    assert pull(service, str(iso), name="b", format=DiskFormat.ISO).disk_format == DiskFormat.ISO
    for path, declared in (
        (iso, DiskFormat.RAW),
        (iso, DiskFormat.QCOW2),
        (raw, DiskFormat.QCOW2),
        (raw, DiskFormat.ISO),
    ):
        with pytest.raises(ImageRejected, match="declared"):
            pull(service, str(path), name="c", format=declared)
    assert len(service.list()) == 2


def qcow2_header(*, backing: bytes = b"") -> bytes:
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 104 if backing else 0, len(backing), 16, 1 << 20, 0, 1, 65536, 131072, 1, 0, 0
    )
    return header.ljust(104, b"\0") + backing


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("declared", [None, DiskFormat.QCOW2, DiskFormat.RAW])
def test_a_hostile_image_is_refused_wrapped_or_not(
    service: DirectoryService, tmp_path: Path, wrapped: bool, declared: DiskFormat | None
) -> None:
    path = tmp_path / "evil.qcow2"
    data = qcow2_header(backing=b"/etc/passwd").ljust(300_000, b"\0")
    path.write_bytes(gzip.compress(data) if wrapped else data)
    with pytest.raises(ImageRejected):
        pull(service, str(path), format=declared)
    assert empty(service)


@pytest.mark.parametrize("how", ["grows", "shrinks", "is written"])
def test_a_file_that_changes_while_it_is_read_is_refused(service: DirectoryService, raw: Path, how: str) -> None:
    class Meddle(NoProgress):
        done = False

        def check(self) -> None:
            if self.done:
                return
            self.done = True
            if how == "grows":
                with raw.open("ab") as file:
                    file.write(b"more")
            elif how == "shrinks":
                os.truncate(raw, 1000)
            else:
                with raw.open("r+b") as file:
                    file.write(b"!")

    with pytest.raises(ImageRejected, match="changed while it was read"):
        pull(service, str(raw), progress=Meddle())
    assert empty(service)


def test_an_interruption_leaves_nothing(service: DirectoryService, raw: Path) -> None:
    class Stop(NoProgress):
        def check(self) -> None:
            raise Interrupted(what="pulling")

    with pytest.raises(Interrupted):
        pull(service, str(raw), progress=Stop())
    assert empty(service)


def test_progress_adds_up(service: DirectoryService, raw: Path, tmp_path: Path) -> None:
    class Watch(NoProgress):
        def __init__(self) -> None:
            self.phases: list[tuple[str, int | None]] = []
            self.done = 0

        def phase(self, name: str, total: int | None = None) -> None:
            self.phases.append((name, total))

        def update(self, done: int) -> None:
            self.done += done

    watch = Watch()
    os.truncate(raw, 8_000_000)
    pull(service, str(raw), progress=watch)
    assert (watch.phases[0], watch.done) == (("copy", 8_000_000), 8_000_000)


def test_a_taken_name_comes_before_the_bytes(service: DirectoryService, raw: Path) -> None:
    pull(service, str(raw))
    os.truncate(raw, 0)  # reading it would be another error
    with pytest.raises(NameTaken):
        pull(service, str(raw))


def test_limits_of_the_configuration(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(ImageRejected, match="more than the 1 MiB allowed"):
        pull(DirectoryService(tmp_path / "a", ImagesSection(max_virtual_size=1 << 20)), str(raw))
    with pytest.raises(ConfigError, match="formats"):
        pull(DirectoryService(tmp_path / "b", ImagesSection(formats=("raw", "floppy"))), str(raw))
    with pytest.raises(InvalidRequest):
        pull(DirectoryService(tmp_path / "c"), str(raw), min_disk=-1)
