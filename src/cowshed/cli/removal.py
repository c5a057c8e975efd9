"""cowshed rm, restore, reclaim"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, Verb, deleted_names, destructive, every_name, verb
from cowshed.cli.instances import describe
from cowshed.cli.power import COLUMNS
from cowshed.errors import InvalidRequest

if TYPE_CHECKING:
    from cowshed.manager.host import Host
    from cowshed.manager.records import Record

_REMOVED: output.Columns = {"removed": lambda row: row["name"]}


@click.command(cls=Verb)
@click.argument("instances", nargs=-1, required=True, shell_complete=every_name)
@click.option("--soft", is_flag=True, help="Power off and keep: cowshed restore brings them back.")
@verb
@destructive
def rm(session: Session, instances: tuple[str, ...], soft: bool) -> None:
    """Remove INSTANCES: they are stopped, and their disks are deleted.

    With --soft nothing is deleted yet, and nobody is asked. The guest is asked to shut down and ended hard after a time, as cowshed stop
    does. The instance keeps its disks, addresses and name, which no other instance may take; it stands in cowshed ls --deleted and not in
    cowshed ls, and no verb changes it but restore and rm. It is removed for good by cowshed rm without --soft, or by the
    first cowshed run or cowshed reclaim after [instances] reclaim_interval; 0, the default: only by hand.
    """
    records = [session.host.instances.records.find(ref) for ref in dict.fromkeys(instances)]
    if soft:
        return _soft(session, records)
    session.confirm(
        f"Remove {', '.join(record.name for record in records)} and all {'its' if len(records) == 1 else 'their'} disks?"
    )
    gone = []
    with session.working() as host, output.collecting() as attempt:
        for record in records:
            with attempt():
                host.instances.remove(record.uuid)
                gone.append({"name": record.name, "uuid": record.uuid})
        if gone:
            session.emit("removed", gone, _REMOVED)


def _soft(session: Session, records: list[Record]) -> None:
    kept = []
    with session.working() as host, output.collecting() as attempt:
        for record in records:
            with attempt():
                kept.append(told(host, host.deleted.soft_delete(record.uuid)))
        if kept:
            session.emit("instances", kept, DELETED)


def told(host: Host, record: Record) -> dict[str, Any]:
    """What programs see of a softly deleted instance."""
    return {**describe(record), "reclaim_at": host.deleted.reclaim_time(record)}


DELETED: output.Columns = {
    "name": lambda row: row["name"],
    "image": lambda row: row["image"] or f"volume:{(row['root_volume'] or '')[:8]}",
    "deleted": lambda row: output.moment(row["deleted_at"]),
    "reclaimed": lambda row: output.moment(row["reclaim_at"]) if row["reclaim_at"] else "by hand",
}


@click.command(cls=Verb)
@click.argument("instances", nargs=-1, required=True, shell_complete=deleted_names)
@verb
def restore(session: Session, instances: tuple[str, ...]) -> None:
    """Bring softly deleted INSTANCES back. Those that were on are started."""
    done = []
    with session.working() as host, output.collecting() as attempt:
        for ref in dict.fromkeys(instances):
            with attempt():
                done.append(describe(host.deleted.restore(ref)))
        if done:
            session.emit("instances", done, COLUMNS)


@click.command(cls=Verb)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@verb
@destructive
def reclaim(session: Session, dry_run: bool) -> None:
    """Remove for good what was softly deleted longer ago than [instances] reclaim_interval.

    cowshed run does it too. Where nothing is run for days, a timer may call cowshed reclaim --yes.
    """
    host = session.host
    if not host.config.instances.reclaim_interval:
        raise InvalidRequest(
            reason="[instances] reclaim_interval is 0: softly deleted instances are removed by hand only",
            hint="set it, or remove them: cowshed rm NAME",
        )
    due = host.deleted.due()
    gone = [{"name": record.name, "uuid": record.uuid} for record in due]
    if due and not dry_run:
        session.confirm(f"Remove {', '.join(record.name for record in due)} and all their disks?")
        gone = []
        with session.working(), output.collecting() as attempt:
            for record in due:
                with attempt():
                    if host.deleted.reclaim(record.uuid):
                        gone.append({"name": record.name, "uuid": record.uuid})
            session.emit("removed", gone, _REMOVED)
        return
    session.emit("removed", gone, _REMOVED)
