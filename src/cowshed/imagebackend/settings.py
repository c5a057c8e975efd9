"""Where the classic API keeps things; the classic one reads a global configuration, so does this."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import config as configuration
from cowshed.contract.storage import Backend
from cowshed.disks import open_backends
from cowshed.disks.file import FileBackend
from cowshed.images.cache import Cache

if TYPE_CHECKING:
    from cowshed.contract.imaging import ImageService
    from cowshed.driver.rooms import Rooms


class Settings:
    """The slice of a host's configuration that images need."""

    def __init__(self, config: configuration.Config) -> None:
        self.config = config
        self.instances = config.state / "instances"
        self.cache_directory = config.state / "cache"

    @cached_property
    def cache(self) -> Cache:
        return Cache(self.cache_directory, self.config.cache)

    @cached_property
    def _rooms(self) -> Rooms:
        from cowshed.driver.rooms import Rooms

        return Rooms(self.config)

    @property
    def images(self) -> ImageService:
        """Where the host's images are kept."""
        return self._rooms.images

    @cached_property
    def places(self) -> dict[str, Backend]:
        """Every backend that is configured."""
        return open_backends(
            self.instances, self.config.disks, lvm=self.config.lvm, rbd=self.config.rbd, keys=self._rooms.keys
        )

    @cached_property
    def backends(self) -> dict[str, FileBackend]:
        """Those whose disks are files of an instance's directory."""
        return {name: backend for name, backend in self.places.items() if isinstance(backend, FileBackend)}

    @property
    def locks(self) -> Path:
        """Next to the data, so that hosts that share the directory share the locks."""
        return self.instances / "locks"


_settings: Settings | None = None


def configure(config: configuration.Config | None = None) -> Settings:
    """Use ``config`` (None: the host's files and environment) for objects made from now on."""
    global _settings
    _settings = Settings(config or configuration.load())
    return _settings


def current() -> Settings:
    return _settings or configure()
