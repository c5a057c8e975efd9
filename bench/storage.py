"""Disks, the cache and extraction against qemu-img, cp and a download with a hash."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import statistics
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench import inputs
from bench.measure import Result, alternate, sh, sync_file, written
from cowshed import config
from cowshed.disks import open_backends
from cowshed.images.cache import Cache
from cowshed.images.directory import DirectoryService
from cowshed.images.pull import pull
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType
from cowshed.model.image import Image
from cowshed.tools import checksum, transfer

MiB = 1 << 20
GiB = 1 << 30
SECTION = config.DisksSection()


# --- new disks from a base ------------------------------------------------------------------------


def overlay(place: Path, rounds: int) -> Result:
    result = Result("qcow2 disk from a cached base, durable", "qemu-img create -b", 0.15)
    base = inputs.dense(place)
    backend = open_backends(place / "instances", SECTION)["qcow2"]
    ids = [str(uuid.uuid4()) for _ in range(rounds + 1)]
    backend.disk(ids.pop(), "disk").create(10 * GiB, Base(base, DiskFormat.RAW, GiB))
    peers = place / "peer"
    peers.mkdir(exist_ok=True)
    bytes_written = 0

    def ours(number: int) -> None:
        nonlocal bytes_written
        before = written()
        backend.disk(ids[number], "disk").create(10 * GiB, Base(base, DiskFormat.RAW, GiB))
        bytes_written += written() - before

    def peer(number: int) -> None:
        target = peers / f"{number}.qcow2"
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", target, "10G")

    alternate(result, ours, peer, rounds)
    result.notes.append(f"p50 {1000 * statistics.median(result.ours):.2f} ms, target 2 ms")
    result.notes.append(f"{bytes_written // rounds // 1024} KiB written a disk, target 256; no process started")
    shutil.rmtree(place / "instances")
    shutil.rmtree(peers)
    return result


def many(place: Path, rounds: int) -> Result:
    result = Result("200 qcow2 disks by 8 threads", "200 disks one after the other", 0.7)
    base = Base(inputs.dense(place), DiskFormat.RAW, GiB)
    backend = open_backends(place / "instances", SECTION)["qcow2"]

    def one(_: int) -> None:
        backend.disk(str(uuid.uuid4()), "disk").create(10 * GiB, base)

    def ours(_: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(200)))

    def peer(_: int) -> None:
        for number in range(200):
            one(number)

    alternate(result, ours, peer, rounds)
    shutil.rmtree(place / "instances")
    return result


@contextmanager
def loop(kind: str, place: Path, size: int = 3 * GiB) -> Iterator[Path]:
    """A file system of ``kind`` in a file, mounted (needs root)."""
    image, mount = place / f"{kind}.fs", place / f"{kind}.mnt"
    with image.open("wb") as file:
        file.truncate(size)
    sh(f"mkfs.{kind}", "-q", image)
    mount.mkdir(exist_ok=True)
    sh("mount", "-o", "loop", image, mount)
    try:
        yield mount
    finally:
        sh("umount", mount)
        image.unlink()


def reflink(kind: str) -> Callable[[Path, int], Result]:
    def run(place: Path, rounds: int) -> Result:
        result = Result(f"raw disk on {kind} from a cached base, durable", "cp --reflink=always, synced", 0.7)
        if os.geteuid():
            result.missing = "mounting a file system needs root"
            return result
        with loop(kind, place) as mount:
            base = mount / "base"
            sh("cp", "--sparse=always", inputs.dense(place), base)
            sh("sync", "-f", mount)
            backend = open_backends(mount / "instances", SECTION)["raw"]
            ids = [str(uuid.uuid4()) for _ in range(rounds)]

            flushes = {"ours": 0, "peer": 0}

            def ours(number: int) -> None:
                before = _flushes(mount)
                backend.disk(ids[number], "disk").create(10 * GiB, Base(base, DiskFormat.RAW, GiB))
                flushes["ours"] += _flushes(mount) - before

            def peer(number: int) -> None:
                before = _flushes(mount)
                target = str(mount / f"peer{number}")
                sh("cp", "--reflink=always", base, target)
                os.truncate(target, 10 * GiB)
                sync_file(target)
                flushes["peer"] += _flushes(mount) - before

            alternate(result, ours, peer, rounds)
        result.notes.append(f"p50 {1000 * statistics.median(result.ours):.2f} ms, target 3 ms")
        result.notes.append(
            f"{flushes['ours'] / rounds:.0f} flushes of the device for disk, record and a folder of their own, "
            f"the peer {flushes['peer'] / rounds:.0f} for a file in an old folder"
        )
        return result

    return run


def _flushes(mount: Path) -> int:
    """How often the device of this file system was told to empty its cache: what a sync costs on a real disk."""
    device = os.stat(mount).st_dev
    for line in open("/proc/self/mountinfo"):  # noqa: SIM115 - closed by its end
        words = line.split()
        if words[4] == str(mount):
            device = os.stat(words[words.index("-") + 2]).st_rdev  # Btrfs gives files a device of their own
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(path.read_text().split()[15])


def any_size(name: str, kind: str) -> Callable[[Path, int], Result]:
    """A disk from a base of 40 GiB against one from a base of 1 GiB: where clones are instant it is the same work."""

    def run(place: Path, rounds: int) -> Result:
        result = Result(f"{name} disk on {kind} from a cached base of 40 GiB", "the same from one of 1 GiB", 1.3)
        if os.geteuid():
            result.missing = "mounting a file system needs root"
            return result
        with loop(kind, place) as mount:
            sizes = {"large": 40 * GiB, "small": GiB}
            for base, size in sizes.items():
                sh("cp", "--sparse=always", inputs.dense(place), mount / base)
                os.truncate(mount / base, size)
            sh("sync", "-f", mount)
            backend = open_backends(mount / "instances", SECTION)[name]

            def make(base: str) -> None:
                backend.disk(str(uuid.uuid4()), "disk").create(0, Base(mount / base, DiskFormat.RAW, sizes[base]))

            alternate(result, lambda _: make("large"), lambda _: make("small"), rounds)
        return result

    return run


def sparse_copy(place: Path, rounds: int) -> Result:
    result = Result("raw disk on ext4 from a cached base, durable", "cp --sparse=always, synced", 0.8)
    base = inputs.dense(place)
    inputs.warm(base)
    backend = open_backends(place / "instances", SECTION)["raw"]
    ids = [str(uuid.uuid4()) for _ in range(rounds)]

    def ours(number: int) -> None:
        backend.disk(ids[number], "disk").create(0, Base(base, DiskFormat.RAW, GiB))
        data = os.stat(place / "instances" / ids[number] / "disk").st_blocks * 512
        result.notes[:] = [f"{data // MiB} MiB of data extents; the base holds {base.stat().st_blocks * 512 // MiB}"]

    def peer(number: int) -> None:
        target = str(place / "peer.raw")
        sh("cp", "--sparse=always", base, target)
        sync_file(target)

    alternate(result, ours, peer, rounds)
    shutil.rmtree(place / "instances")
    (place / "peer.raw").unlink()
    return result


# --- bases from images ----------------------------------------------------------------------------


def stored(place: Path, path: Path) -> tuple[DirectoryService, Image]:
    """``path`` in an image store, where it came with a SHA-512 digest; the store's own is the cheapest of this CPU."""
    service = DirectoryService(place / "store", config.ImagesSection())
    name = path.name.replace(".", "-")
    for image in service.list(name=name):
        if image.os_hash_algo == checksum.quicker("sha512"):
            return service, image
        service.delete(image.id)  # of an older version
    digest = hashlib.file_digest(path.open("rb"), "sha512").hexdigest()
    return service, pull(service, str(path), name=name, digest=f"sha512:{digest}")


def download(service: DirectoryService, image: Image, target: Path) -> None:
    """What a compute service does: 1 MiB pieces through the digest of the record to a file, synced."""
    hasher = hashlib.new(image.os_hash_algo)
    with service.open(image) as source, target.open("wb") as file:
        while data := source.read(MiB):
            hasher.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    assert hasher.hexdigest() == image.os_hash_value


def cold(
    work: str, make: Callable[[Path], Path], target: float, *, keep: bool = False
) -> Callable[[Path, int], Result]:
    def run(place: Path, rounds: int) -> Result:
        against = "download with hash" + ("" if keep else ", then qemu-img convert -t none")
        result = Result(work, against, target)
        path = make(place)
        service, image = stored(place, path)
        local = service.local_path(image)
        assert local is not None
        inputs.warm(local)
        kept = image.disk_format if keep else DiskFormat.RAW

        def ours(number: int) -> None:
            root = place / f"cache{number}"
            before = written()
            Cache(root, config.CacheSection()).get(image, service, format=kept)
            result.notes[:] = [f"{(written() - before) // MiB} MiB written"]
            shutil.rmtree(root)

        def peer(_: int) -> None:
            part, base = place / "peer.part", place / "peer.base"
            download(service, image, part)
            if not keep:
                sh("qemu-img", "convert", "-t", "none", "-f", image.disk_format, "-O", "raw", part, base)
                base.unlink()
            part.unlink()

        return alternate(result, ours, peer, rounds)

    return run


def dense_qcow2(place: Path) -> Path:
    return inputs.qcow2(inputs.dense(place))


def system_qcow2(place: Path) -> Path:
    return inputs.qcow2(inputs.system(place), compressed=True)


def _process(root: Path, place: Path, image: Image, barrier: object) -> None:
    service = DirectoryService(place / "store", config.ImagesSection())
    barrier.wait()  # type: ignore[attr-defined]
    Cache(root, config.CacheSection()).get(image, service)


def herd(kind: str) -> Callable[[Path, int], Result]:
    def run(place: Path, rounds: int) -> Result:
        result = Result(f"32 {kind} want one uncached image", "one caller", 1.5)
        service, image = stored(place, inputs.qcow2(inputs.dense(place)))

        def one(number: int) -> None:
            root = place / f"one{number}"
            Cache(root, config.CacheSection()).get(image, service)
            shutil.rmtree(root)

        def ours(number: int) -> None:
            root = place / f"herd{number}"
            _threads(root, service, image) if kind == "threads" else _processes(root, place, image)
            assert len(list(root.glob("*.json"))) == 1
            shutil.rmtree(root)

        return alternate(result, ours, one, rounds)

    return run


def _threads(root: Path, service: DirectoryService, image: Image) -> None:
    cache = Cache(root, config.CacheSection())
    threads = [threading.Thread(target=cache.get, args=(image, service)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _processes(root: Path, place: Path, image: Image) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(32)
    workers = [context.Process(target=_process, args=(root, place, image, barrier)) for _ in range(32)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


# --- extraction -----------------------------------------------------------------------------------


def extract(format: str, target: float, *, compress: bool = False) -> Callable[[Path, int], Result]:
    def run(place: Path, rounds: int) -> Result:
        words = ["-c"] if compress else []
        name = f"{'compressed ' if compress else ''}{format}"
        peer_words = "-c" if compress else "-t none"
        result = Result(f"extract a disk to {name}", f"qemu-img convert {peer_words}", target)
        base = inputs.system(place) if compress else inputs.dense(place)
        disk = place / "guest.qcow2"
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk)
        sh("qemu-io", "-f", "qcow2", "-c", "write -P 7 100M 64M", disk)
        inputs.warm(base)
        source = DiskSource(
            DiskType.FILE, DiskFormat.QCOW2, disk, backing=DiskSource(DiskType.FILE, DiskFormat.RAW, base)
        )

        def ours(_: int) -> None:
            out = place / "ours.out"
            transfer.export(source, out, DiskFormat(format), compress=compress)
            result.notes[:] = [f"{out.stat().st_blocks * 512 // MiB} MiB"]
            out.unlink()

        def peer(_: int) -> None:
            out = place / "peer.out"
            sh("qemu-img", "convert", "-t", "none", *words, "-f", "qcow2", "-O", format, disk, out)
            out.unlink()

        alternate(result, ours, peer, rounds)
        disk.unlink()
        return result

    return run
