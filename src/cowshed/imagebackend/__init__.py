"""The classic image API: ``Backend`` and ``Image`` as OpenStack's libvirt driver has them.

For people and programs that know that API. It is a thin face over the same disks, cache and domain
XML as everything else in cowshed, so what the classic one does unsafely is done safely here: a
disk or base that exists is complete, formats are recorded and never probed, making an object
touches nothing, and every image is inspected before it becomes a base.
"""

from cowshed.imagebackend.backend import Backend, UnknownImageType
from cowshed.imagebackend.config import DiskConfig, FilesystemConfig
from cowshed.imagebackend.flat import Flat, Raw
from cowshed.imagebackend.image import Image
from cowshed.imagebackend.lvm import Lvm
from cowshed.imagebackend.models import LocalBlockImage, LocalFileImage, LocalImage, RBDImage
from cowshed.imagebackend.ploop import Ploop
from cowshed.imagebackend.qcow2 import Qcow2
from cowshed.imagebackend.rbd import Rbd
from cowshed.imagebackend.rbd_driver import RADOSClient, RBDDriver, RBDVolumeProxy
from cowshed.imagebackend.settings import configure

__all__ = [
    "Backend",
    "DiskConfig",
    "FilesystemConfig",
    "Flat",
    "Image",
    "LocalBlockImage",
    "LocalFileImage",
    "LocalImage",
    "Lvm",
    "Ploop",
    "Qcow2",
    "RADOSClient",
    "RBDDriver",
    "RBDImage",
    "RBDVolumeProxy",
    "Raw",
    "Rbd",
    "UnknownImageType",
    "configure",
]
