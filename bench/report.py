"""The table and the chart."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from html import escape

from bench.kept import Measured
from bench.measure import Result


def _time(values: list[float]) -> str:
    seconds = statistics.median(values)
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def line(result: Result) -> str:
    if result.missing:
        return f"  {result.work}: {result.missing}"
    return f"  {result.work}: {result.ratio:.3f} (target {result.target:.2f}); {'; '.join(result.notes)}"


def table(results: list[Result]) -> str:
    rows = ["| work | against | ours | peer | ratio | at most | CPU ratio | |", "|---|---|---|---|---|---|---|---|"]
    for one in results:
        if one.missing:
            rows.append(f"| {one.work} | {one.against} | | | | {one.target:.2f} | | {one.missing} |")
            continue
        mark = "**" if one.ratio > one.target else ""
        cpu = f"{one.cpu_ratio:.2f}" if one.cpu_ratio else ""
        rows.append(
            f"| {one.work} | {one.against} | {_time(one.ours)} | {_time(one.peer)} | {mark}{one.ratio:.3f}{mark} "
            f"| {one.target:.2f} | {cpu} | {'; '.join(one.notes)} |"
        )
    return "\n".join(rows)


def page(measured: list[Measured]) -> str:
    return f"""# How fast

Made by `make bench`, {_when(measured)}. Ours and the peer's run in turn, in one run; times are
medians, a ratio is ours divided by the peer's, and a ratio above its target is printed **bold**. "Durable" and "synced" mean that data and
name are on disk before the clock stops, on both sides. Guests are translated (TCG). {_load(measured)}

![ratios](bench.svg)

{table([one.result for one in measured])}
"""


def _when(measured: list[Measured]) -> str:
    days, machines = sorted({one.day for one in measured}), {one.machine: None for one in measured}
    return f"{' to '.join(dict.fromkeys((days[0], days[-1])))}: {'; '.join(machines)}"


def _load(measured: list[Measured]) -> str:
    """Times of a machine that others use too say little; how two of them compare says more."""
    loads = sorted(load for one in measured for load in one.load)
    cores = os.cpu_count() or 1
    words = f"The load was {' to '.join(dict.fromkeys((f'{loads[0]:.0f}', f'{loads[-1]:.0f}')))} on {cores} cores"
    if statistics.median(loads) <= 2 * cores:
        return words + "."
    return words + ", so others used the machine at the same time: look at the ratios rather than the times."


def machine() -> str:
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return f"{os.cpu_count()} cores, Linux {platform.release()}, QEMU {qemu}, Python {platform.python_version()}"


def chart(results: list[Result]) -> str:
    """One bar a line: the ratio as a share of the peer's time, the target as a mark."""
    shown = [one for one in results if not one.missing]
    height, width, left, scale = 26, 900, 360, 240
    rows = []
    for number, one in enumerate(shown):
        y = 30 + number * height
        length = min(one.ratio, 2.0) * scale
        color = "#2e7d32" if one.ratio <= one.target else "#c62828"
        mark = left + min(one.target, 2.0) * scale
        rows.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(one.work)}</text>'
            f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="14" fill="{color}"/>'
            f'<line x1="{mark:.1f}" y1="{y}" x2="{mark:.1f}" y2="{y + 18}" stroke="#555" stroke-width="2"/>'
            f'<text x="{left + max(length, mark - left) + 8:.1f}" y="{y + 13}">{one.ratio:.3f}</text>'
        )
    total = 40 + len(shown) * height
    peer = left + scale
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{total}" fill="#fff"/>'
        f'<line x1="{peer}" y1="20" x2="{peer}" y2="{total - 5}" stroke="#bbb" stroke-dasharray="4"/>'
        f'<text x="{peer}" y="15" text-anchor="middle" fill="#555">the peer = 1</text>' + "".join(rows) + "</svg>\n"
    )
