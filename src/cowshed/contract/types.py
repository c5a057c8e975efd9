"""Shapes that many calls of the contract share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cowshed.model.vif import Vif
from cowshed.model.volume import BlockDeviceInfo

NetworkInfo: TypeAlias = Sequence[Vif] | None
BlockDevices: TypeAlias = BlockDeviceInfo | Mapping[str, Any] | None
