"""The XML namespaces in a domain: ours, and QEMU's for arguments that libvirt passes on."""

from __future__ import annotations

from typing import Final

INSTANCE: Final = "https://cowshed.dev/xmlns/instance/1"
QEMU: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
PREFIXES: Final = {"cowshed": INSTANCE, "qemu": QEMU}
