"""The connecting contract: the host side of a volume. Volumes come with later connectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from cowshed.model.disk import DiskSource


class Connector(ABC):
    """Makes volumes of one ``driver_volume_type`` usable on this host."""

    @abstractmethod
    def connect(self, connection_info: Mapping[str, Any]) -> DiskSource:
        """Make the host side; repeating is success."""

    @abstractmethod
    def disconnect(self, connection_info: Mapping[str, Any]) -> None:
        """Remove the host side; already gone is success."""
