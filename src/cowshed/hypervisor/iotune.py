"""Disk limits of a guest, changed and read while it runs."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from cowshed.model.disk import IoTune

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_LIVE: Final = 1  # VIR_DOMAIN_AFFECT_LIVE
_CONFIG: Final = 2  # VIR_DOMAIN_AFFECT_CONFIG
_GROUP: Final = "group_name"
_OWN_GROUP: Final = ("/", "drive-")  # each disk is in a group of its own, called by its path or its drive


def limit(guest: Guest, device: str, tune: IoTune | None) -> None:
    """``device`` (``vda``) has these limits from now on, and no others; None: none at all.

    :raises InvalidRequest: QEMU does not take them :raises InstanceNotFound:
    """

    parameters = _parameters(tune)
    guest.call(f"limit the disk {device} of", lambda domain: _change(domain, device, parameters))


def _change(domain: Any, device: str, parameters: dict[str, Any]) -> None:
    """Defined and live take a call each; a guest that does not take them keeps its definition."""
    if not domain.isActive():
        domain.setBlockIoTune(device, parameters, _CONFIG)
        return
    if not domain.isPersistent():
        domain.setBlockIoTune(device, parameters, _LIVE)
        return
    before = {name: item for name, item in domain.blockIoTune(device, _CONFIG).items() if item is not None}
    domain.setBlockIoTune(device, parameters, _CONFIG)
    try:
        domain.setBlockIoTune(device, parameters, _LIVE)
    except BaseException:
        domain.setBlockIoTune(device, before, _CONFIG)
        raise


def limits(guest: Guest, device: str) -> IoTune | None:
    """What QEMU says that holds now (the definition, while the guest is off); None: nothing is limited."""
    found: dict[str, Any] = guest.call(
        f"tell the limits of {device} of", lambda domain: domain.blockIoTune(device, 0), repeat=True
    )
    chosen = {field.name: found[field.name] for field in fields(IoTune) if found.get(field.name)}
    if chosen.get(_GROUP, "").startswith(_OWN_GROUP):
        del chosen[_GROUP]
    lengths = [name for name in chosen if name.endswith("_max_length")]
    for name in lengths:  # QEMU says 1 second also where there is no burst
        if name.removesuffix("_length") not in chosen:
            del chosen[name]
    if set(chosen) <= {_GROUP}:
        return None
    return IoTune(**chosen)


def _parameters(tune: IoTune | None) -> dict[str, Any]:
    """All of them: what is not named, libvirt would keep. 0 is none."""
    values = {field.name: getattr(tune, field.name, None) for field in fields(IoTune)}
    group = values.pop(_GROUP)
    numbers: dict[str, Any] = {name: item or 0 for name, item in values.items()}
    return numbers | ({_GROUP: group} if group else {})
