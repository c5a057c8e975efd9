"""Where the classic API keeps things; the classic one reads a global configuration, so does this."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from cowshed import config as configuration
from cowshed.disks import open_backends
from cowshed.disks.file import FileBackend
from cowshed.images.cache import Cache


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
    def backends(self) -> dict[str, FileBackend]:
        from cowshed.driver.rooms import Rooms

        found = open_backends(
            self.instances, self.config.disks, lvm=self.config.lvm, rbd=self.config.rbd, keys=Rooms(self.config).keys
        )
        return {name: backend for name, backend in found.items() if isinstance(backend, FileBackend)}

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
