"""The TPM: swtpm's, with its state kept by libvirt.

libvirt keeps the state by the UUID of the domain: /var/lib/libvirt/swtpm in system mode,
$XDG_CONFIG_HOME/libvirt/qemu/swtpm in session mode. It stays while the domain is defined anew, and goes when it is undefined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties
from cowshed.errors import HostUnsuitable
from cowshed.model.host import HostCapabilities

NEWEST: Final = "2.0"
MODELS: Final = {"1.2": ("tpm-tis",), "2.0": ("tpm-crb", "tpm-tis")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm(Element):
    """``<tpm>``: a trusted platform module, emulated by swtpm."""

    TAG: ClassVar[str] = "tpm"

    model: str | None = value("@model")
    backend: str | None = value("backend/@type")
    version: str | None = value("backend/@version")


def tpms(properties: Properties, host: HostCapabilities) -> tuple[Tpm, ...]:
    """None, unless a version or a model is asked for; a model alone is one of version 2.0.

    :raises InvalidRequest: a version or model that does not exist, or not together
    :raises HostUnsuitable: there is no swtpm here
    """
    asked = properties.text("hw_tpm_model")
    version = properties.word("hw_tpm_version", NEWEST if asked else "", tuple(MODELS))
    if not version:
        return ()
    models = MODELS[version]
    model = properties.word("hw_tpm_model", models[0], models)
    if version not in host.tpm_versions:
        has = f"its swtpm makes {', '.join(host.tpm_versions)}" if host.tpm_versions else "swtpm is not installed"
        raise HostUnsuitable(
            reason=f"a TPM {version} is not to be had here: {has}", hint="install it (Debian: swtpm, swtpm-tools)"
        )
    return (Tpm(model=model, backend="emulator", version=version),)
