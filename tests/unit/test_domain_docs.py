"""The page of the room names every property the room reads, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROPERTY = re.compile(r"\b(?:hw|os|img)_[a-z0-9_]+\b")


def test_every_property_is_documented() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src/cowshed/domain").glob("*.py"))
    read = set(re.findall(r"\"((?:hw|os|img)_[a-z0-9_]+)\"", sources))
    read |= {f"hw_cpu_{kind}{name}" for kind in ("", "max_") for name in ("sockets", "cores", "threads")}
    told = set(PROPERTY.findall((ROOT / "docs/rooms/domain.md").read_text()))
    assert read - told - {"hw_hide_hypervisor_id"} == set()  # the flavor's way to say img_hide_hypervisor_id
    assert told - read - {"hw_video", "hw_rng"} == set()
