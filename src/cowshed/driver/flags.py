"""Flags: what else this driver can do on this host, in the words of the newest Nova."""

from __future__ import annotations

from typing import Final

from cowshed.driver.rooms import Rooms
from cowshed.model.disk import DiskFormat

_ALWAYS: Final = (
    "supports_device_tagging",
    "supports_tagged_attach_interface",
    "supports_tagged_attach_volume",
    "supports_multiattach",
    "supports_bfv_rescue",
)


class Flags:
    rooms: Rooms

    def more_flags(self) -> dict[str, bool]:
        """Beside those that follow from the contract; what is left out is not supported.

        Guests are not pinned to processors.
        """
        from cowshed.tools import virtiofsd

        allowed, host = set(self.rooms.config.images.formats), self.rooms.capabilities
        encrypts = any(backend.traits.encrypts for backend in self.rooms.backends.values())
        return {
            **dict.fromkeys(_ALWAYS, True),
            **{f"supports_image_type_{kind}": kind.value in allowed for kind in DiskFormat},
            "supports_virtio_fs": virtiofsd.find() is not None and not (host.session and virtiofsd.unable()),
            "supports_vtpm": bool(host.tpm_versions),
            "supports_secure_boot": any(firmware.enrolled for firmware in host.firmwares),
            "supports_ephemeral_encryption": encrypts,
            "supports_ephemeral_encryption_luks": encrypts,
        }
