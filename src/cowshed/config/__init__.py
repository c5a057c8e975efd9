"""Configuration: TOML files, drop-ins and environment become one typed, frozen value.

Order, later wins: the defaults of ``sections.py``, ``config.toml``, ``conf.d/*.toml`` in name order, then
environment variables ``COWSHED_<SECTION>_<KEY>``. A key nobody knows is an error that names the
nearest known one; a variable that only looks like one of ours is told of (``doubtful``).
"""

from __future__ import annotations

from cowshed.config.files import BACKEND_KEYS, check_backend, default_files, load
from cowshed.config.sections import (
    CacheSection,
    Config,
    ConsoleSection,
    DisksSection,
    GlanceSection,
    GuestSection,
    HostSection,
    ImagesSection,
    InstancesSection,
    LvmSection,
    MigrationSection,
    NetworkSection,
    PowerSection,
    RbdSection,
    VolumesSection,
    sections,
)
from cowshed.config.variables import doubtful

__all__ = [
    "BACKEND_KEYS",
    "CacheSection",
    "Config",
    "ConsoleSection",
    "DisksSection",
    "GlanceSection",
    "GuestSection",
    "HostSection",
    "ImagesSection",
    "InstancesSection",
    "LvmSection",
    "MigrationSection",
    "NetworkSection",
    "PowerSection",
    "RbdSection",
    "VolumesSection",
    "check_backend",
    "default_files",
    "doubtful",
    "load",
    "sections",
]
