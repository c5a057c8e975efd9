"""Our element in a domain's ``<metadata>``: facts that must live and move with the guest."""

from __future__ import annotations

from typing import Any, Final

from cowshed.domain.namespace import INSTANCE
from cowshed.hypervisor.binding import libvirt
from cowshed.hypervisor.errors import Number

_ELEMENT: Final = 2  # VIR_DOMAIN_METADATA_ELEMENT
_LIVE: Final = 1
_CONFIG: Final = 2


def read(domain: Any) -> str | None:
    try:
        return str(domain.metadata(_ELEMENT, INSTANCE, 0))
    except libvirt().libvirtError as error:
        if error.get_error_code() == Number.NO_DOMAIN_METADATA:
            return None
        raise


def write(domain: Any, element: str | None) -> None:
    flags = (_CONFIG if domain.isPersistent() else 0) | (_LIVE if domain.isActive() else 0)
    try:
        domain.setMetadata(_ELEMENT, element, "cowshed", INSTANCE, flags)
    except libvirt().libvirtError as error:
        if element is None and error.get_error_code() == Number.NO_DOMAIN_METADATA:
            return
        raise
