"""``make bench`` (ARGS="--quick" for fewer rounds, ARGS="--only WORD" for some lines, ``--update`` to keep those)."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import command, inputs, kept, lvm, periodic, rbd, report, storage
from bench.measure import Result

Job = Callable[[Path, int], Result]

# name, the measurement, rounds, rounds with --quick
JOBS: list[tuple[str, Any, int, int]] = [
    ("overlay", storage.overlay, 60, 20),
    ("reflink-xfs", storage.reflink("xfs"), 40, 10),
    ("reflink-btrfs", storage.reflink("btrfs"), 40, 10),
    ("any-size-qcow2", storage.any_size("qcow2", "xfs"), 40, 10),
    ("any-size-raw", storage.any_size("raw", "xfs"), 40, 10),
    ("any-size-ploop", storage.any_size("ploop", "xfs"), 40, 10),
    ("copy", storage.sparse_copy, 3, 1),
    ("cold-qcow2", storage.cold("cold image to a raw base, qcow2 not compressed", storage.dense_qcow2, 0.40), 3, 1),
    ("cold-compressed", storage.cold("the same, compressed qcow2 (zlib)", storage.system_qcow2, 0.45), 3, 1),
    ("cold-raw", storage.cold("the same, raw sparse image", inputs.sparse, 0.55), 2, 1),
    ("cold-kept", storage.cold("cold image kept as qcow2", storage.dense_qcow2, 1.2, keep=True), 3, 1),
    ("herd-threads", storage.herd("threads"), 2, 1),
    ("herd-processes", storage.herd("processes"), 2, 1),
    ("many", storage.many, 3, 1),
    ("extract-raw", storage.extract("raw", 0.8), 3, 1),
    ("extract-qcow2", storage.extract("qcow2", 0.8), 3, 1),
    ("extract-compressed", storage.extract("qcow2", 0.15, compress=True), 2, 1),
    ("lvm-thin", lvm.clone, 20, 6),
    *rbd.JOBS,
    ("import", command.start("import cowshed", sys.executable, "-c", "import cowshed"), 20, 8),
    ("version", command.start("cowshed --version", command.COWSHED, "--version"), 20, 8),
    ("run", command.run, 6, 3),
    ("ls", command.listing, 20, 8),
    ("periodic", periodic.periodic, 15, 5),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", default=[], help="lines whose name has this word; nothing is kept")
    parser.add_argument("--update", action="store_true", help="with --only: renew those lines of what was kept")
    parser.add_argument("--place", type=Path, default=Path("build/bench"), help="folder for images (about 12 GiB)")
    parser.add_argument(
        "--write", type=Path, default=Path("docs"), help="folder for bench.json, bench.md and bench.svg"
    )
    options = parser.parse_args()
    place = options.place.absolute()
    place.mkdir(parents=True, exist_ok=True)
    measured: dict[str, kept.Measured] = {}
    for name, job, rounds, quick in JOBS:
        if options.only and not any(word in name for word in options.only):
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        measured[name] = _measured(name, job, place, quick if options.quick else rounds)
        print(report.line(measured[name].result), file=sys.stderr, flush=True)
    print(report.table([one.result for one in measured.values()]))
    if options.only and not options.update:
        return 0
    if options.only:
        measured = kept.read(options.write / "bench.json") | measured
    measured = {name: measured[name] for name, *_ in JOBS if name in measured}  # in their order
    kept.write(options.write / "bench.json", measured)
    (options.write / "bench.md").write_text(report.page(list(measured.values())))
    (options.write / "bench.svg").write_text(report.chart([one.result for one in measured.values()]))
    return 0


def _measured(name: str, job: Job, place: Path, rounds: int) -> kept.Measured:
    before = os.getloadavg()[0]
    try:
        result = job(place, rounds)
    except Exception:  # noqa: BLE001 - one line that fails does not spoil the others
        traceback.print_exc()
        result = Result(name, "", 0.0, missing="failed; see the output of the run")
    return kept.Measured(result, time.strftime("%Y-%m-%d"), report.machine(), (before, os.getloadavg()[0]))


if __name__ == "__main__":
    sys.exit(main())
