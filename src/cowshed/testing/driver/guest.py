"""A guest that is an entry of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cowshed.model.disk import IoTune
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.share import Share
from cowshed.model.vif import Vif


@dataclass
class FakeGuest:
    """What the driver knows of one instance; a test may look at it and change it.

    ``root``: the name in ``volumes`` of the one it boots from; "": it has a root disk of its own.
    ``saved``: suspended to disk. ``deaf``: does not react to the power button. ``files``, ``password`` and
    ``metadata`` are what calls have put into the guest; ``boots`` counts its starts.
    """

    instance: Instance
    image: Image
    state: PowerState = PowerState.SHUTDOWN
    vifs: list[Vif] = field(default_factory=list)
    down: set[str] = field(default_factory=set)
    volumes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    root: str = ""
    sizes: dict[str, int] = field(default_factory=dict)  # of volumes that were extended, in bytes
    snapshots: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # of volumes, by their ids
    shares: list[Share] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)  # ids of the shares that it was started with, or was given since
    limits: dict[str, IoTune | None] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    password: str = ""
    addresses: list[str] = field(default_factory=list)
    saved: bool = False
    frozen: bool = False
    bootable: bool = True
    soft_deleted: bool = False
    deaf: bool = False
    rescued_with: Image | None = None
    boots: int = 0
    dumps: int = 0

    @property
    def uuid(self) -> str:
        return self.instance.uuid

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def running(self) -> bool:
        return self.state == PowerState.RUNNING
