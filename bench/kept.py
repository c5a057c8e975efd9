"""What was measured, kept beside the page, so that a run of some lines renews those and leaves the others."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.measure import Result


@dataclass(frozen=True, slots=True)
class Measured:
    """A line with its ``day`` (YYYY-MM-DD), the ``machine`` in words and its load (processes) before and after, if known."""

    result: Result
    day: str
    machine: str
    load: tuple[float, float] | None


def read(path: Path) -> dict[str, Measured]:
    """By the name of the job; empty when nothing was ever kept."""
    if not path.exists():
        return {}
    return {
        name: Measured(
            Result(**entry["result"]), entry["day"], entry["machine"], entry["load"] and tuple(entry["load"])
        )
        for name, entry in json.loads(path.read_text()).items()
    }


def write(path: Path, measured: dict[str, Measured]) -> None:
    """A line each; seconds to the microsecond."""
    lines = [f" {json.dumps(name)}: {json.dumps(_rounded(asdict(one)))}" for name, one in measured.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value
