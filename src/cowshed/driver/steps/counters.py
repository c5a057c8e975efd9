"""libvirt's bulk statistics (``virsh domstats``) in the contract's shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from cowshed import clock

Stats = Mapping[str, Any]

_STATES = {1: "running", 2: "running", 3: "paused", 4: "shutdown", 5: "shutdown", 6: "crashed", 7: "suspended"}


def _group(stats: Stats, kind: str) -> list[dict[str, Any]]:
    """``{"block.0.name": "vda", ...}`` to one dict an index."""
    found: list[dict[str, Any]] = [{} for _ in range(stats.get(f"{kind}.count", 0) or stats.get(f"{kind}.maximum", 0))]
    for key, value in stats.items():
        head, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if head == kind and number.isdigit() and int(number) < len(found):
            found[int(number)][name] = value
    return found


def holds(stats: Stats) -> bool:
    """Has the guest its memory and processors here? One that is paused has them, too."""
    return bool(stats.get("domain.id", -1) >= 0)


def disks(stats: Stats) -> list[dict[str, Any]]:
    return _group(stats, "block")


def interfaces(stats: Stats) -> list[dict[str, Any]]:
    return _group(stats, "net")


def cpus(stats: Stats) -> list[dict[str, Any]]:
    return [cpu for cpu in _group({"vcpu.count": stats.get("vcpu.maximum", 0), **stats}, "vcpu") if "time" in cpu]


def summed(stats: Stats) -> dict[str, int]:
    """Over all devices, in bytes; ``cpu_time`` in ns."""
    drives, cards = disks(stats), interfaces(stats)
    return {
        "cpu_time": stats.get("cpu.time", 0),
        "memory": stats.get("balloon.rss", stats.get("balloon.current", 0)) * 1024,
        "disk_read": sum(drive.get("rd.bytes", 0) for drive in drives),
        "disk_written": sum(drive.get("wr.bytes", 0) for drive in drives),
        "received": sum(card.get("rx.bytes", 0) for card in cards),
        "sent": sum(card.get("tx.bytes", 0) for card in cards),
    }


def flat(stats: Stats) -> dict[str, Any]:
    """``cpu0_time`` (ns), ``memory`` (KiB), ``vda_read`` (bytes), ``vnet0_rx``, ...

    What is not counted is not there: of a user network, and of a guest whose QEMU is busy.
    """
    found: dict[str, Any] = {f"cpu{number}_time": cpu["time"] for number, cpu in enumerate(cpus(stats))}
    for disk in disks(stats):
        if "rd.reqs" not in disk:
            continue
        name = disk.get("name")
        for ours, theirs in (
            ("read_req", "rd.reqs"),
            ("read", "rd.bytes"),
            ("write_req", "wr.reqs"),
            ("write", "wr.bytes"),
        ):
            found[f"{name}_{ours}"] = disk.get(theirs, 0)
        found[f"{name}_errors"] = max(0, disk.get("errors", 0))
    for card in interfaces(stats):
        if not (name := card.get("name")):
            continue
        for way in ("rx", "tx"):
            found[f"{name}_{way}"] = card.get(f"{way}.bytes", 0)
            for ours, theirs in (("packets", "pkts"), ("errors", "errs"), ("drop", "drop")):
                found[f"{name}_{way}_{ours}"] = card.get(f"{way}.{theirs}", 0)
    found["memory"] = stats.get("balloon.maximum", 0)
    prefix = "balloon."
    found.update(
        {f"memory-{key.removeprefix(prefix)}": value for key, value in stats.items() if key.startswith(prefix)}
    )
    return found


def structured(
    stats: Stats, *, launched_at: float | None, config_drive: bool, addresses: Sequence[str | None]
) -> dict[str, Any]:
    """The newer shape: times in ns, memory in MiB, ``uptime`` in seconds since ``launched_at``.

    :param addresses: of the interfaces, in their order
    """
    cards, drives, processors = interfaces(stats), disks(stats), cpus(stats)
    return {
        "state": _STATES.get(stats.get("state.state", 0), "pending"),
        "driver": "libvirt",
        "hypervisor": "qemu",
        "hypervisor_os": "linux",
        "uptime": int(clock.current().time() - launched_at) if launched_at else None,
        "config_drive": config_drive,
        "num_cpus": len(processors),
        "num_nics": len(cards),
        "num_disks": len(drives),
        "memory_details": {
            "maximum": stats.get("balloon.maximum", 0) // 1024,
            "used": stats.get("balloon.current", 0) // 1024,
        },
        "cpu_details": [{"id": number, "time": cpu["time"]} for number, cpu in enumerate(processors)],
        "nic_details": [_nic(card, address) for card, address in zip_longest(cards, addresses[: len(cards)])],
        "disk_details": [_disk(drive) for drive in drives],
    }


def _nic(card: Mapping[str, Any], address: str | None) -> dict[str, Any]:
    names = {"octets": "bytes", "errors": "errs", "drop": "drop", "packets": "pkts"}
    found: dict[str, Any] = {"name": card.get("name"), "mac_address": address}
    for way in ("rx", "tx"):
        found.update({f"{way}_{ours}": card.get(f"{way}.{theirs}", 0) for ours, theirs in names.items()})
    return found


def _disk(drive: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": drive.get("name"),
        "read_bytes": drive.get("rd.bytes", 0),
        "read_requests": drive.get("rd.reqs", 0),
        "write_bytes": drive.get("wr.bytes", 0),
        "write_requests": drive.get("wr.reqs", 0),
        "errors_count": max(0, drive.get("errors", 0)),
    }
