"""Thin LVM disks against a bare ``lvcreate -s``, on the real device-mapper of the guest that tests/lvm use.

The measurement runs in the guest (``python -m bench.lvm`` there) and comes back as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path

from bench.measure import Result, alternate, sh

GiB = 1 << 30
GROUP, POOL = "cow-shed", "pool"
FLOOR = 1.3
ROOT = Path(__file__).resolve().parent.parent


def clone(place: Path, rounds: int) -> Result:
    """What :func:`measure` says in a guest of its own."""
    command = [
        *("scripts/run-in-guest.py", "--disks", "4G,128M", "--", "tests/lvm/prepare.sh"),
        *(".venv/bin/python", "-m", "bench.lvm", str(rounds)),
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=900)
    return Result(**json.loads(done.stdout.strip().splitlines()[-1]))


def measure(rounds: int) -> Result:
    from cowshed.config import LvmSection
    from cowshed.contract.storage import BaseContent, OpenSink
    from cowshed.disks.lvm import ThinLvmBackend
    from cowshed.model.disk import Base
    from cowshed.tools import lvm

    backend = ThinLvmBackend(
        Path(tempfile.mkdtemp()) / "instances", LvmSection(volume_group=GROUP, thin_pool=POOL, clear="none")
    )

    def base(size: int) -> Base:
        def fill(open_sink: OpenSink) -> BaseContent:
            sink = open_sink(size, 0)
            for start in range(0, 64 << 20, 2 << 20):  # spread over the whole image
                sink.write(start * (size // (64 << 20)), memoryview(b"x" * (2 << 20)))
            sink.close()
            return BaseContent(size, "", "")

        return backend.add_base(f"bench-{size}", "bench", fill)

    small, large = base(GiB), base(40 * GiB)
    result = Result("thin LVM disk from a kept base", "lvcreate -s (bare)", FLOOR)

    def ours(_: int) -> None:
        backend.disk(str(uuid.uuid4()), "disk").create(0, large)

    def bare(number: int) -> None:
        sh("lvcreate", "-y", "-kn", "-s", "-n", f"bare-{number}", large.location)

    ours(0)
    alternate(result, ours, bare, rounds)
    sizes = Result("", "", FLOOR)

    def of_small(_: int) -> None:
        backend.disk(str(uuid.uuid4()), "disk").create(0, small)

    alternate(sizes, ours, of_small, rounds)
    result.notes.append(f"p50 {1000 * statistics.median(result.ours):.0f} ms under user-mode Linux")
    result.notes.append(f"40 GiB base against 1 GiB base: {sizes.ratio:.2f}, target {FLOOR}")
    result.notes.append(f"{len(lvm.volumes(GROUP))} volumes in the group at the end")
    return result


if __name__ == "__main__":
    print(json.dumps(asdict(measure(int(sys.argv[1])))))
