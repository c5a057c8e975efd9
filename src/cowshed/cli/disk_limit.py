"""cowshed disk limit"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cowshed.cli.context import Session, Verb, disk_names, instance_argument, verb
from cowshed.errors import InvalidRequest
from cowshed.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from cowshed.model.disk import IoTune

_KINDS = ("total", "read", "write")
_UNITS = {"bytes": "SIZE", "iops": "NUMBER"}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each limit of libvirt's, in the order --help shows them."""
    for unit, metavar in reversed(_UNITS.items()):
        for kind in reversed(_KINDS):
            what = {"total": "reading and writing", "read": "reading", "write": "writing"}[kind]
            base = f"--{kind}-{unit}"
            burst = f"Bursts of {what}; needs {base}."
            length = "How long a burst may last, in seconds."
            for word, says in ((f"{base}-max-length", length), (f"{base}-max", burst), (base, f"A second, {what}.")):
                function = click.option(word, metavar="S" if "length" in word else metavar, help=says)(function)
    return function


@click.command(cls=Verb)
@instance_argument()
@click.argument("disk", required=False, default="", shell_complete=disk_names)
@_options
@click.option("--io-size", metavar="SIZE", help="A request larger than this counts as several; needs a limit of iops.")
@click.option("--group", metavar="NAME", help="Disks of one group share one limit.")
@click.option("--clear", is_flag=True, help="Forget all limits it has; others may be given with it.")
@verb
def limit(session: Session, instance: str, disk: str, clear: bool, **options: str | None) -> None:
    """Limit the I/O of a disk of INSTANCE, at once and for good.

    0 takes a limit away. Without options the limits are shown.
    """
    host = session.host
    changes = _changes(options)
    if changes or clear:
        host.instances.limit_disk(instance, disk, changes, clear=clear)
    found = host.disks.show(instance, disk)
    shown: Any = describe(found.limits)
    if session.format == "table":
        shown = in_words(shown) or "none"
    name = host.instances.records.find(instance).name
    session.emit("disk", {"instance": name, "disk": found.name, "limits": shown})


def _changes(options: dict[str, str | None]) -> dict[str, int | str]:
    """libvirt's names to numbers. :raises InvalidRequest: one is none"""
    changes: dict[str, int | str] = {}
    for option, text in options.items():
        if text is None:
            continue
        if option == "group":
            changes["group_name"] = text
        elif option == "io_size":
            changes["size_iops_sec"] = parse_size(text)
        else:
            kind, unit, *rest = option.split("_")
            name = "_".join([kind, unit, "sec", *rest])
            changes[name] = parse_size(text) if unit == "bytes" and "length" not in rest else _number(option, text)
    return changes


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidRequest(reason=f"--{option.replace('_', '-')}: {text!r} is not a whole number") from None


def describe(tune: IoTune | None) -> dict[str, int | str]:
    """What programs see of limits: libvirt's names, and only what is limited."""
    from cowshed.domain.qos import values_of

    return values_of(tune)


def in_words(limits: dict[str, int | str]) -> dict[str, str]:
    from cowshed.domain import qos

    return qos.in_words(limits)
