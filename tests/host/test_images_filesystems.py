"""Pulling onto real file systems: shared blocks, real qcow2 files, and no space left."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cowshed.config import ImagesSection
from cowshed.errors import FetchFailed, NoSpace
from cowshed.images.directory import DirectoryService
from cowshed.images.pull import pull
from cowshed.model.disk import DiskFormat
from cowshed.tools import sparse
from tests.conftest import LoopFs
from tests.images_server import cut, file, redirect, serving

pytestmark = pytest.mark.host

MIB = 1 << 20
NOISE = random.Random(5).randbytes(8 * MIB)


def used(place: Path) -> int:
    os.sync()
    facts = os.statvfs(place)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_local_file_costs_no_space_where_blocks_are_shared(loopfs: LoopFs, kind: str) -> None:
    place = loopfs(kind, size="400M")
    source = place / "a.raw"
    source.write_bytes(NOISE * 8)
    before = used(place)
    service = DirectoryService(place / "images")
    image = pull(service, str(source))
    assert used(place) - before < 4 * MIB
    assert service.local_path(image).read_bytes() == NOISE * 8
    service.verify(image)
    with source.open("r+b") as later:  # the store keeps its own view of shared blocks
        later.write(b"!")
    service.verify(image)


def test_real_qcow2_files(tmp_path: Path) -> None:
    service = DirectoryService(tmp_path / "images")
    raw, plain, packed = tmp_path / "a.raw", tmp_path / "plain.qcow2", tmp_path / "packed.qcow2"
    raw.write_bytes(NOISE + bytes(8 * MIB))
    for target, options in ((plain, []), (packed, ["-c"])):
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, target], check=True)
        image = pull(service, str(target))
        assert (image.disk_format, image.virtual_size) == (DiskFormat.QCOW2, 16 * MIB)
        assert service.local_path(image).read_bytes() == target.read_bytes()


def test_no_space_for_a_local_file_is_seen_before_the_copy(loopfs: LoopFs, tmp_path: Path) -> None:
    place = loopfs("ext4", size="16M")
    source = tmp_path / "a.raw"
    source.write_bytes(NOISE * 4)
    before = used(place)
    started = time.monotonic()
    with pytest.raises(NoSpace) as caught:
        pull(DirectoryService(place / "images"), str(source))
    assert (caught.value.needed, time.monotonic() - started < 2) == (32 * MIB, True)
    assert used(place) - before < 64 << 10


def test_no_space_in_the_middle_leaves_nothing(loopfs: LoopFs, tmp_path: Path) -> None:
    place = loopfs("ext4", size="16M")
    service = DirectoryService(place / "images")
    packed = gzip.compress(NOISE[: 7 * MIB].hex().encode(), 1)  # about 8 MiB that unpack to 14
    source = tmp_path / "a.raw.gz"
    source.write_bytes(packed + packed)
    with serving(file(packed)) as server:
        for attempt in (str(source), server.url + "/a.raw.gz"):
            with pytest.raises(NoSpace):
                pull(service, attempt)
            assert {path.name for path in service.root.rglob("*") if path.is_file()} == {".lock"}
    # Without a length nobody can know before; the partial file must go too.
    head = b'HTTP/1.0 200 OK\r\nETag: "one"\r\n\r\n'
    with serving(lambda request, connection: connection.send(head + NOISE * 4)) as server, pytest.raises(NoSpace):
        pull(service, server.url + "/a.raw")
    assert {path.name for path in service.root.rglob("*") if path.is_file()} == {".lock"}


def test_kill_in_the_middle_of_a_download_and_go_on(tmp_path: Path) -> None:
    """A killed process leaves a partial file; the next pull needs only the rest."""
    service = DirectoryService(tmp_path / "images", ImagesSection(read_timeout=20))
    data = NOISE * 4

    def stalls(request: object, connection: object) -> None:
        connection.head(Content_Length=len(data), ETag='"one"')  # type: ignore[attr-defined]
        connection.send(data[: 24 * MIB])  # type: ignore[attr-defined]
        time.sleep(3)

    with serving(stalls, file(data)) as server:
        url = server.url + "/a.raw"
        code = f"import sys; from pathlib import Path; from cowshed.images.directory import DirectoryService as D; from cowshed.images.pull import pull; pull(D(Path({str(service.root)!r})), {url!r})"
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)  # type: ignore[attr-defined]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = (
                [path.stat().st_size for path in service.partials.glob("*.data")] if service.partials.exists() else []
            )
            if found and found[0] >= 16 * MIB:
                break
            time.sleep(0.02)
        child.kill()
        child.wait()
        assert service.list() == []
        image = pull(service, url)
    assert server.requests[1].start >= 16 * MIB
    assert service.local_path(image).read_bytes() == data
    assert not list(service.root.glob(".new-*"))


def test_a_redirect_from_the_internet_to_the_loopback_is_refused(tmp_path: Path) -> None:
    """With a real public address: in a network namespace of its own it belongs to the loopback device."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace")
    script = tmp_path / "inner.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})\n"
        "from pathlib import Path\n"
        "from cowshed.errors import FetchFailed\n"
        "from cowshed.images.directory import DirectoryService\n"
        "from cowshed.images.pull import pull\n"
        "from tests.images_server import file, redirect, serving\n"
        f"service = DirectoryService(Path({str(tmp_path / 'images')!r}))\n"
        "with serving(file(b'x' * 4096)) as inner, serving(redirect(inner.url), file(b'y' * 4096), host='8.8.8.8') as public:\n"
        "    try:\n"
        "        pull(service, public.url + '/a.raw')\n"
        "    except FetchFailed as error:\n"
        "        print(error)\n"
        "    assert inner.requests == [], inner.requests\n"
        "    print(pull(service, public.url + '/a.raw').size)\n"
    )
    command = f"ip link set lo up && ip addr add 8.8.8.8/32 dev lo && exec {sys.executable} {script}"  # type: ignore[attr-defined]
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "a redirect to the loopback address 127.0.0.1 is refused" in first
    assert second == "4096"


def test_resuming_keeps_holes_and_blocks(loopfs: LoopFs) -> None:
    service = DirectoryService(loopfs("ext4", size="64M") / "images", ImagesSection(retries=0))
    data = NOISE + bytes(16 * MIB) + NOISE
    with serving(cut(data, 9 * MIB + 123), redirect("/b.raw"), file(data)) as server:
        with pytest.raises(FetchFailed):
            pull(service, server.url + "/a.raw")
        image = pull(service, server.url + "/a.raw")
    assert server.requests[2].start == 9 * MIB + 123
    path = service.local_path(image)
    assert path.read_bytes() == data
    assert sparse.allocated(path) < 17 * MIB
