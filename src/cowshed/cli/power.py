"""cowshed start, stop, restart, pause, suspend, resume"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, Verb, instances_argument, verb
from cowshed.cli.instances import describe, state_in_words
from cowshed.errors import InvalidRequest

if TYPE_CHECKING:
    from cowshed.manager.host import Host
    from cowshed.manager.records import Record

COLUMNS: output.Columns = {"name": lambda row: row["name"], "state": state_in_words}
_ENDED: output.Columns = {**COLUMNS, "ended": lambda row: row["ended"]}


def _each(
    session: Session,
    instances: tuple[str, ...],
    act: Callable[[Host, str], Record],
    shown: Callable[[Record], dict[str, Any]] = describe,
    columns: output.Columns = COLUMNS,
) -> None:
    """Act on every one; the first error is raised after all have been tried."""
    done = []
    with session.working() as host, output.collecting() as attempt:
        for ref in dict.fromkeys(instances):
            with attempt():
                done.append(shown(act(host, ref)))
        if done:
            session.emit("instances", done, columns)


@click.command(cls=Verb)
@instances_argument()
@verb
def start(session: Session, instances: tuple[str, ...]) -> None:
    """Start INSTANCES; suspended ones go on where they were."""
    _each(session, instances, lambda host, ref: host.instances.start(ref))


@click.command(cls=Verb)
@instances_argument()
@click.option("--timeout", metavar="TIME", help="How long the guest may take when asked; default: as configured.")
@click.option("--force", is_flag=True, help="Do not ask the guest.")
@verb
def stop(session: Session, instances: tuple[str, ...], timeout: str | None, force: bool) -> None:
    """Ask INSTANCES to shut down; end them hard after a time.

    ENDED says how each went off: it has shut down, or was cut off.
    """
    given = _seconds(timeout)
    _check_asked("--force", force, given)

    def act(host: Host, ref: str) -> Record:
        seconds = host.config.power.shutdown_timeout if given is None else given
        return host.instances.stop(ref, timeout=seconds, force=force)

    _each(session, instances, act, lambda record: {**describe(record), "ended": record.ended}, _ENDED)


def _seconds(timeout: str | None) -> float | None:
    """None: it was not given. :raises InvalidRequest: it is no time; before any instance is touched"""
    from cowshed.units import parse_duration

    return None if timeout is None else parse_duration(timeout)


def _check_asked(option: str, at_once: bool, timeout: float | None) -> None:
    """:raises InvalidRequest: a time for a guest that is not asked"""
    if at_once and timeout is not None:
        raise InvalidRequest(
            reason=f"{option} does not ask the guest, so that --timeout limits nothing", hint="leave one of them out"
        )


@click.command(cls=Verb)
@instances_argument()
@click.option("--timeout", metavar="TIME", help="How long the guest may take when asked; default: as configured.")
@click.option("--hard", is_flag=True, help="Like pressing the reset button.")
@verb
def restart(session: Session, instances: tuple[str, ...], timeout: str | None, hard: bool) -> None:
    """Ask INSTANCES to shut down, then start them again; reset them after a time."""
    given = _seconds(timeout)
    _check_asked("--hard", hard, given)
    _each(session, instances, lambda host, ref: host.instances.restart(ref, timeout=given, hard=hard))


def _simple(name: str, text: str) -> Any:
    @click.command(name=name, help=text, cls=Verb)
    @instances_argument()
    @verb
    def command(session: Session, instances: tuple[str, ...]) -> None:
        _each(session, instances, lambda host, ref: getattr(host.instances, name)(ref))

    return command


pause = _simple("pause", "Stop the processors of INSTANCES, keep their memory.")
suspend = _simple("suspend", "Save the memory of INSTANCES to disk and stop them.")
resume = _simple("resume", "Let paused or suspended INSTANCES go on.")
