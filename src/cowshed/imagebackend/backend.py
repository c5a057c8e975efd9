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
from cowshed.imagebackend.lvm import Lvm
from cowshed.imagebackend.ploop import Ploop
from cowshed.imagebackend.qcow2 import Qcow2
from cowshed.imagebackend.rbd import Rbd
from cowshed.imagebackend.settings import Settings, current
from cowshed.tools import ploop


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
        self.BACKEND: dict[str, type[Flat | Qcow2 | Ploop | Lvm | Rbd]] = {
            "raw": Flat,
            "flat": Flat,
            "qcow2": Qcow2,
            "ploop": Ploop,
            "lvm": Lvm,
            "rbd": Rbd,
            "default": Qcow2 if use_cow else Flat,
        }

    def backend(self, image_type: str | None = None) -> type[Flat | Qcow2 | Ploop | Lvm | Rbd]:
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
        """The disk that libvirt calls ``path``; without ``image_type``, the path or the manifest beside it says what it is."""
        kind = self.backend(image_type or _type_of(path))
        return kind(instance=instance, path=path, settings=self._settings)

    image = by_name

    def snapshot(self, instance: Any, disk_path: str | None = None, image_type: str | None = None) -> Image:
        """:meth:`by_libvirt_path` by its old name; the oldest form has the path as first argument."""
        if disk_path is None or (isinstance(instance, str) and "/" in instance):
            return self.by_libvirt_path(None, instance, disk_path or image_type)
        return self.by_libvirt_path(instance, disk_path, image_type)


def _type_of(path: str) -> str | None:
    """By the place; what lies there is not looked at."""
    if path.startswith("rbd:"):
        return "rbd"
    if path.startswith("/dev/"):
        return "lvm"
    place = Path(path)
    if entry := manifest.find(place.parent, place.name) if place.parent.is_dir() else None:
        return entry.backend
    return "ploop" if (place / ploop.FILE).is_file() else None
