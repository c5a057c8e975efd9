"""Disks in Ceph against librbd, nbdcopy, qemu-img and rbd, on a cluster of this machine (one OSD on a file)."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench import inputs
from bench.measure import Result, alternate, cpu, sh, written
from bench.storage import dense_qcow2, stored, system_qcow2
from cowshed.config import RbdSection
from cowshed.contract.callbacks import SILENT
from cowshed.contract.storage import BaseContent, FillBase, OpenSink
from cowshed.disks.rbd import RbdBackend
from cowshed.images import fetch
from cowshed.model.disk import Base, DiskFormat
from cowshed.model.image import Location
from cowshed.tools.rbd import Pool
from cowshed.tools.transfer.sinks import used

MiB = 1 << 20
GiB = 1 << 30
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "ceph-node.sh"


@cache
def conf() -> Path:
    """Of the cluster, which ends with this process."""
    place = Path(tempfile.mkdtemp(prefix="cowshed-ceph-", dir="/tmp"))
    subprocess.run([SCRIPT, "start", place, "--with", str(os.getpid())], check=True)

    def end() -> None:
        subprocess.run([SCRIPT, "stop", place], check=False)
        shutil.rmtree(place, ignore_errors=True)

    atexit.register(end)
    return place / "ceph.conf"


def backend(place: Path) -> RbdBackend:
    """In a new pool."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    sh("ceph", "-c", conf(), "osd", "pool", "create", name, 16)
    sh("rbd", "-c", conf(), "pool", "init", name)
    instances = place / "rbd-instances"
    shutil.rmtree(instances, ignore_errors=True)
    return RbdBackend(instances, RbdSection(pool=name, ceph_conf=str(conf())))


def filler(path: Path, size: int) -> FillBase:
    """A base of ``size`` bytes with the content of the raw file."""

    def fill(open_sink: OpenSink) -> BaseContent:
        sink = open_sink(size, path.stat().st_blocks * 512)
        try:
            with path.open("rb") as file:
                position = 0
                while data := file.read(2 * MiB):
                    if any(True for _ in used(memoryview(data), 65536)):
                        sink.write(position, memoryview(data))
                    position += len(data)
        finally:
            sink.close()
        return BaseContent(size, sink.digest())

    return fill


def new() -> str:
    return str(uuid.uuid4())


# --- a disk from a base ---------------------------------------------------------------------------------


def clone(size: int) -> Callable[[Path, int], Result]:
    def run(place: Path, rounds: int) -> Result:
        words = "librbd clone" + (", resize" if size else "") + " on an open connection"
        result = Result(f"RBD disk from a kept base{', grown' if size else ''}", words, 1.2)
        ceph = backend(place)
        base = ceph.add_base("small", "image", filler(inputs.small(place), GiB))
        _, rbd = bindings()
        with ceph.pool.ioctx() as ioctx:
            parent = base.location.rpartition("@")[0].rpartition("/")[2]

            def ours(_: int) -> None:
                ceph.disk(new(), "disk").create(size, base)

            def peer(number: int) -> None:
                rbd.RBD().clone(ioctx, parent, "base", ioctx, f"peer{number}")
                if size:
                    with rbd.Image(ioctx, f"peer{number}") as image:
                        image.resize(size)

            ours(0)
            alternate(result, ours, peer, rounds)
        result.notes.append(f"p50 {1000 * statistics.median(result.ours):.0f} ms")
        sent = sent_by(lambda: ours(0))
        share = sent["writes"] / (sent["writes"] + sent["questions"])
        result.notes.append(
            f"{sent['writes']:.0f} writes (about {share * sent['bytes'] / 1024:.0f} KiB, target 16) and {sent['questions']:.0f} "
            f"questions a disk; {sent['bytes'] / 1024:.1f} KiB to the OSD in all, with protocol and keep-alives; one connection"
        )
        return result

    return run


def bindings() -> tuple[Any, Any]:
    import rados
    import rbd

    return rados, rbd


def sent_by(work: Callable[[], object], times: int = 10) -> dict[str, float]:
    """What the OSD received for each of ``times`` calls: ``bytes``, protocol and all; ``writes``; ``questions``."""
    import json

    def counted() -> dict[str, float]:
        facts = json.loads(sh("ceph", "-c", conf(), "tell", "osd.0", "perf", "dump"))
        workers = [value for name, value in facts.items() if name.startswith("AsyncMessenger::Worker")]
        osd = facts["osd"]
        return {
            "bytes": sum(worker["msgr_recv_bytes"] for worker in workers),
            "writes": osd["op_w"] + osd["op_rw"],
            "questions": osd["op_r"],
        }

    before = counted()
    for _ in range(times):
        work()
    after = counted()
    return {name: (after[name] - before[name]) / times for name in after}


def large(place: Path, rounds: int) -> Result:
    result = Result("RBD disk from a base of 40 GiB", "the same from one of 1 GiB", 1.3)
    ceph = backend(place)
    bases = [ceph.add_base(f"{size}", "image", filler(inputs.small(place), size * GiB)) for size in (40, 1)]

    def make(base: Base) -> Callable[[int], None]:
        return lambda _: ceph.disk(new(), "disk").create(0, base)

    return alternate(result, make(bases[0]), make(bases[1]), rounds)


# --- the first import -------------------------------------------------------------------------------------


def first(work: str, make: Callable[[Path], Path], *, algorithm: str = "") -> Callable[[Path, int], Result]:
    """Ours checks a digest on the way; the peers do not.

    :param algorithm: of the only digest that is known; default: the one that the store has chosen
    """

    def run(place: Path, rounds: int) -> Result:
        result = Result(
            f"first import of {work} into a pool", "the faster of nbdcopy and qemu-img convert -m16 -W", 1.2
        )
        path = make(place)
        service, image = stored(place, path)
        inputs.warm(path)
        local = service.local_path(image)
        assert local is not None
        if algorithm:
            digest = hashlib.file_digest(local.open("rb"), algorithm).hexdigest()
            image = replace(image, os_hash_algo=algorithm, os_hash_value=digest)
        inputs.warm(local)
        ceph = backend(place)
        scratch = place / "rbd-scratch"
        scratch.mkdir(exist_ok=True)

        def fill(open_sink: OpenSink) -> BaseContent:
            found, copied = fetch.fill(image, service, open_sink, scratch, keep_format=False, progress=SILENT)
            return BaseContent(found.virtual_size, copied.digest)

        local_bytes = 0

        def ours(number: int) -> None:
            nonlocal local_bytes
            before = written()
            ceph.add_base(f"ours{number}", "image", fill)
            local_bytes += written() - before

        def nbdcopy(number: int) -> None:
            target = f"{ceph.pool.name}/nbdcopy{number}"
            sh("rbd", "-c", conf(), "create", target, "--size", f"{image.virtual_size}B")
            words = ["[", "qemu-nbd", "-r", "-f", "qcow2", local, "]", "[", "qemu-nbd", "-f", "raw", url(target), "]"]
            sh("nbdcopy", "--flush", "--", *words)

        def convert(number: int) -> None:
            target = url(f"{ceph.pool.name}/qemu-img{number}")
            sh("qemu-img", "convert", "-m", "16", "-W", "-f", "qcow2", "-O", "raw", local, target)

        calls = {"ours": ours, "nbdcopy": nbdcopy, "qemu-img": convert}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        work_of = dict.fromkeys(calls, 0.0)
        for number in range(rounds):
            for name, call in calls.items():
                used, began = cpu(), time.perf_counter()
                call(number)
                seconds[name].append(time.perf_counter() - began)
                work_of[name] += cpu() - used
            remove_all(ceph.pool)
        result.ours, result.cpu_ours = seconds.pop("ours"), work_of["ours"]
        faster = min(seconds, key=lambda name: statistics.median(seconds[name]))
        result.peer, result.cpu_peer = seconds[faster], work_of[faster]
        result.notes.append(f"{local_bytes // rounds // 1024} KiB written to the local disk")
        result.notes.append(f"{image.os_hash_algo.upper().replace('SHA', 'SHA-')} checked")
        result.notes.append(", ".join(f"{tool} {statistics.median(times):.2f} s" for tool, times in seconds.items()))
        return result

    return run


def url(image: str) -> str:
    return f"rbd:{image}:conf={conf()}"


def remove_all(pool: Pool) -> None:
    for image in pool.images():
        pool.remove(image)


# --- out of the pool, and inside it -------------------------------------------------------------------------


def upload(place: Path, rounds: int) -> Result:
    result = Result("a disk becomes an image inside the cluster", "rbd copy through the client", 0.2)
    ceph, service = backend(place), backend(place).pool
    service.create("image", MiB)
    service.take("image", "snap")
    near = [Location(f"rbd://{service.cluster.fsid}/{service.name}/image/snap")]
    disk = ceph.disk(new(), "disk")
    disk.create(0, ceph.add_base("dense", "image", filler(inputs.dense(place), GiB)))
    disk.flatten()

    def ours(number: int) -> None:
        disk.upload(f"ours{number}", near=near)

    def peer(number: int) -> None:
        sh("rbd", "-c", conf(), "cp", disk.location(), f"{service.name}/peer{number}")

    for number in range(rounds):
        alternate(result, lambda _, number=number: ours(number), lambda _: None, 1)
        while service.parent(f"ours{number}"):  # the peer shall not wait for the flattening in the background
            time.sleep(0.2)
        began = time.perf_counter()
        peer(number)
        result.peer[-1] = time.perf_counter() - began
    result.notes.append("no data through this host; the cluster's manager parts the two afterwards")
    return result


def extract(format: str, target: float, *, compress: bool = False) -> Callable[[Path, int], Result]:
    def run(place: Path, rounds: int) -> Result:
        words = ["-c"] if compress else ["-t", "none"]
        name = f"{'compressed ' if compress else ''}{format}"
        result = Result(f"extract an RBD disk to {name}", f"qemu-img convert -m16 -W {' '.join(words)}", target)
        ceph = backend(place)
        content = inputs.system(place) if compress else inputs.dense(place)
        disk = ceph.disk(new(), "disk")
        disk.create(0, ceph.add_base("content", "image", filler(content, content.stat().st_size)))

        def ours(_: int) -> None:
            out = place / "ours.out"
            disk.extract(out, DiskFormat(format), compress=compress)
            result.notes[:] = [f"{out.stat().st_blocks * 512 // MiB} MiB"]
            out.unlink()

        def peer(_: int) -> None:
            out = place / "peer.out"
            more = ["-m", "16", "-W", *words, "-f", "raw", "-O", format]
            sh("qemu-img", "convert", *more, url(disk.location()), out)
            out.unlink()

        return alternate(result, ours, peer, rounds)

    return run


JOBS: list[tuple[str, Any, int, int]] = [
    ("rbd-clone", clone(0), 40, 15),
    ("rbd-clone-grown", clone(10 * GiB), 40, 15),
    ("rbd-large", large, 30, 10),
    ("rbd-import", first("a qcow2 image", dense_qcow2), 7, 1),
    ("rbd-import-sha512", first("the same, of which only a SHA-512 is known,", dense_qcow2, algorithm="sha512"), 5, 1),
    ("rbd-import-compressed", first("a compressed qcow2 image", system_qcow2), 5, 1),
    ("rbd-upload", upload, 3, 2),
    ("rbd-extract-raw", extract("raw", 1.0), 3, 1),
    ("rbd-extract-compressed", extract("qcow2", 1.0, compress=True), 2, 1),
]
