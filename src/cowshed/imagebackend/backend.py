"""Backend: which class of image, by name or by what libvirt says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cowshed import config as configuration
from cowshed.disks import manifest
from cowshed.errors import InvalidRequest
from cowshed.imagebackend.flat import Flat
from cowshed.imagebackend.image import Image
from cowshed.imagebackend.qcow2 import Qcow2
from cowshed.imagebackend.settings import Settings, current


class UnknownImageType(InvalidRequest, RuntimeError):
    """The classic API raises RuntimeError here."""

    code = "unknown-image-type"


class Backend:
    """The factory.

    :param use_cow: what ``default`` means: Qcow2, or else Flat
    :param config: None: the one given to ``configure``, else the host's
    """

    def __init__(self, use_cow: bool, *, config: configuration.Config | None = None) -> None:
        self._settings = Settings(config) if config else current()
        self.BACKEND: dict[str, type[Flat | Qcow2]] = {
            "raw": Flat,
            "flat": Flat,
            "qcow2": Qcow2,
            "default": Qcow2 if use_cow else Flat,
        }

    def backend(self, image_type: str | None = None) -> type[Flat | Qcow2]:
        """The class of ``image_type``; without one, what is configured, else ``default``.

        :raises UnknownImageType: (a RuntimeError)
        """
        name = image_type or self._configured()
        if name not in self.BACKEND:
            raise UnknownImageType(reason=f"image type {name!r} is unknown", hint=f"known: {', '.join(self.BACKEND)}")
        return self.BACKEND[name]

    def _configured(self) -> str:
        config = self._settings.config
        usual = configuration.DisksSection().backend
        chosen = config.disks.backend != usual or "disks.backend" in config.sources
        return config.disks.backend if chosen else "default"

    def by_name(
        self,
        instance: Any,
        name: str,
        image_type: str | None = None,
        disk_info_mapping: Mapping[str, Any] | None = None,
    ) -> Image:
        """The disk ``name`` of ``instance``."""
        kind = self.backend(image_type)
        return kind(instance=instance, disk_name=name, disk_info_mapping=disk_info_mapping, settings=self._settings)

    def by_libvirt_path(self, instance: Any, path: str, image_type: str | None = None) -> Image:
        """The disk that libvirt calls ``path``; without ``image_type`` the manifest beside it says what it is."""
        place = Path(path)
        entry = manifest.find(place.parent, place.name) if place.parent.is_dir() else None
        kind = self.backend(image_type or (entry.backend if entry else None))
        return kind(instance=instance, path=path, settings=self._settings)

    image = by_name

    def snapshot(self, instance: Any, disk_path: str | None = None, image_type: str | None = None) -> Image:
        """:meth:`by_libvirt_path` by its old name; the oldest form has the path as first argument."""
        if disk_path is None or (isinstance(instance, str) and "/" in instance):
            return self.by_libvirt_path(None, instance, disk_path or image_type)
        return self.by_libvirt_path(instance, disk_path, image_type)
