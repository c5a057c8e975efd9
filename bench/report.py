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
    return "\n".join(_rows(results, [""] * len(results)))


def _rows(results: list[Result], more: list[str]) -> list[str]:
    """The lines of the table; ``more`` follows the notes of each."""
    rows = ["| work | against | ours | peer | ratio | at most | CPU ratio | |", "|---|---|---|---|---|---|---|---|"]
    for one, words in zip(results, more, strict=True):
        if one.missing:
            rows.append(f"| {one.work} | {one.against} | | | | {one.target:.2f} | | {one.missing} |")
            continue
        mark = "**" if one.ratio > one.target else ""
        cpu = f"{one.cpu_ratio:.2f}" if one.cpu_ratio else ""
        rows.append(
            f"| {one.work} | {one.against} | {_time(one.ours)} | {_time(one.peer)} | {mark}{one.ratio:.3f}{mark} "
            f"| {one.target:.2f} | {cpu} | {'; '.join(filter(None, [*one.notes, words]))} |"
        )
    return rows


def page(measured: list[Measured]) -> str:
    days = sorted({one.day for one in measured})
    more = [", ".join(filter(None, [one.day if one.day != days[-1] else "", _load(one)])) for one in measured]
    rows = "\n".join(_rows([one.result for one in measured], more))
    return f"""# How fast

Made by `make bench` on {days[-1]}{", some lines earlier" if days[1:] else ""}: {"; ".join(sorted({one.machine for one in measured}))}.
Ours and the peer's run in turn, in one run; times are medians, a ratio is ours divided by the peer's, and a ratio above its target is
printed **bold**. "Durable" and "synced" mean that data and name are on disk before the clock stops, on both sides. Guests are translated (TCG).

A line with a load was measured while others used the machine, so many processes at a time as it says. Then the times say nothing of a
machine that is free; the ratio still says how two compare that had the same share of it, but work on several cores looks no better than
work on one.

![ratios](bench.svg)

{rows}
"""


def _load(one: Measured) -> str:
    """Only where others took part: what is measured has two or three threads of its own."""
    highest = max(one.load or (0.0,))
    return f"load {highest:.0f}" if highest > 2 * (os.cpu_count() or 1) else ""


def machine() -> str:
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    """What it was measured on, for :class:`bench.kept.Measured`."""
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
