"""Configuration: TOML files, drop-ins and environment become one typed, frozen value.

Order, later wins: the defaults of ``sections.py``, ``config.toml``, ``conf.d/*.toml`` in name order, then
environment variables ``COWSHED_<SECTION>_<KEY>``. A key nobody knows is an error that names the
nearest known one.
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
    "load",
    "sections",
]
