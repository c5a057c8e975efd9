"""cowshed ls, show, wait"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import disk_limit, output
from cowshed.cli.context import Session, Verb, every_name, instance_argument, verb
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.manager.host import Host
    from cowshed.manager.records import Record


def describe(record: Record) -> dict[str, Any]:
    """What programs see of an instance; sizes in bytes, times in seconds since the epoch."""
    instance = record.instance
    return {
        "name": record.name,
        "uuid": record.uuid,
        "state": str(record.state),
        "rescued": record.rescued,
        "resized": record.resized,
        "moved_to": record.moved_to or None,
        "image": record.image_name or instance.image_ref,
        "root_volume": instance.system_metadata.get("root_volume") or None,
        "cpus": instance.flavor.vcpus,
        "memory": instance.flavor.memory,
        "ports": [
            f"{f.host_address}:{f.host_port}->{f.guest_port}/{f.protocol}" for vif in record.vifs for f in vif.forwards
        ],
        "networks": [f"{vif.type}:{vif.source}" if vif.source else str(vif.type) for vif in record.vifs],
        "created": record.created,
        "deleted_at": record.deleted or None,
        "error": record.error,
    }


def state_in_words(row: output.Row) -> str:
    """Its state, and what it is kept for: an end that somebody has to say."""
    words = [word for word in ("rescued", "resized") if row[word]]
    words += [f"moved to {row['moved_to']}"] if row["moved_to"] else []
    return f"{row['state']} ({', '.join(words)})" if words else str(row["state"])


def _size(key: str) -> Any:
    from cowshed.units import format_size

    return lambda row: format_size(row[key])


COLUMNS: output.Columns = {
    "name": lambda row: row["name"],
    "state": state_in_words,
    "image": lambda row: row["image"] or f"volume:{(row['root_volume'] or '')[:8]}",
    "cpus": lambda row: row["cpus"],
    "memory": _size("memory"),
    "ports": lambda row: ", ".join(row["ports"]),
    "age": lambda row: output.age(row["created"]),
}


@click.command(cls=Verb)
@click.option("--deleted", is_flag=True, help="Those that were softly deleted, and when they will be removed for good.")
@verb
def ls(session: Session, deleted: bool) -> None:
    """List instances; softly deleted ones only with --deleted."""
    if deleted:
        from cowshed.cli import removal

        host = session.host
        return session.emit("instances", [removal.told(host, one) for one in host.deleted.list()], removal.DELETED)
    session.emit("instances", [describe(record) for record in session.host.instances.all()], COLUMNS)


@click.command(cls=Verb)
@click.argument("instance", shell_complete=every_name)
@verb
def show(session: Session, instance: str) -> None:
    """Show one instance."""
    host = session.host
    record = host.instances.find(instance)
    item = describe(record)
    item["disks"] = _disks(host, record)
    item["volumes"] = _volumes(host, record)
    item["macs"] = [vif.address for vif in record.vifs]
    item["hostname"] = record.instance.hostname
    item["properties"] = dict(record.properties)
    if record.state == "running":
        item["addresses"] = host.driver.guest_addresses(record.instance)
        item["virt_type"] = str(host.driver.rooms.capabilities.virt_type)
        item["note"] = host.driver.rooms.capabilities.note
    if record.deleted:
        item["reclaim_at"] = host.deleted.reclaim_time(record)
    if session.format == "table":
        item = _for_people(item)
    session.emit("instance", item)


def _disks(host: Host, record: Record) -> list[dict[str, Any]]:
    """What is known of the instance is shown also where its disks cannot be told."""
    try:
        found = host.disks.list(record.uuid)
    except CowshedError as error:
        output.note(f"cowshed: its disks are not known: {output.printable(str(error))}")
        return []
    return [
        {
            "name": disk.name,
            "backend": disk.backend,
            "format": str(disk.format),
            "size": disk.virtual_size,
            "allocated": disk.allocated,
            "path": disk.location,
            "base": disk.base or None,
            "encryption": disk.encryption or None,
            "limits": disk_limit.describe(disk.limits),
        }
        for _, disk in found
    ]


def _volumes(host: Host, record: Record) -> list[dict[str, Any]]:
    from cowshed.cli.volumes import describe

    try:
        return [describe(one, record.name) for _, one in host.volumes.list(record.uuid)]
    except CowshedError as error:
        output.note(f"cowshed: its volumes are not known: {output.printable(str(error))}")
        return []


def _for_people(item: dict[str, Any]) -> dict[str, Any]:
    from cowshed.units import format_size

    changed = dict(item)
    changed["memory"] = format_size(item["memory"])
    changed["state"] = state_in_words(item)
    changed |= {"rescued": None, "resized": None, "moved_to": None} | _ways_out(item)
    for key in ("created", "deleted_at", "reclaim_at"):
        changed[key] = output.moment(item[key]) if item.get(key) else None
    changed["disks"] = [_in_words(disk) for disk in item["disks"]]
    changed["volumes"] = [
        f"{one['device']}: {one['source']} ({one['id']}{', root' if one['root'] else ''})" for one in item["volumes"]
    ]
    return {key: value for key, value in changed.items() if value not in ("", [], {}, None)}


def _ways_out(item: dict[str, Any]) -> dict[str, str]:
    """How what it is kept for ends."""
    name = item["name"]
    if item["moved_to"]:
        return {"moved_to": f"cowshed resize {name} --confirm leaves it there, --revert starts it here again"}
    if item["resized"]:
        return {"resized": f"cowshed resize {name} --confirm keeps it so, --revert takes it back"}
    return {"rescued": f"cowshed unrescue {name} boots its own disks again"} if item["rescued"] else {}


def _in_words(disk: dict[str, Any]) -> str:
    from cowshed.units import format_size

    words = [disk["backend"], format_size(disk["size"]), f"{format_size(disk['allocated'])} on disk"]
    words += ["encrypted"] if disk["encryption"] else []
    words += [f"{name} {item}" for name, item in disk_limit.in_words(disk["limits"]).items()]
    return f"{disk['name']}: {', '.join(words)}"


@click.command(cls=Verb)
@instance_argument()
@click.option(
    "--for", "condition", default="running", show_default=True, help="A state, log:TEXT, ssh, address or agent."
)
@click.option("--timeout", metavar="TIME", default="5m", show_default=True, help="How long to wait.")
@verb
def wait(session: Session, instance: str, condition: str, timeout: str) -> None:
    """Wait until INSTANCE is in a state, reachable, or has logged a text."""
    from cowshed.units import parse_duration

    with session.working() as host:
        machine = host.machine(instance)
        found = machine.wait(condition, timeout=parse_duration(timeout))
    session.emit("wait", {"name": machine.name, "condition": condition, "found": found})
