"""Finding and making a driver by its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cowshed.errors import ConfigError

if TYPE_CHECKING:
    from cowshed.contract.compute import ComputeDriver

DEFAULT = "cowshed.driver.LibvirtDriver"
GROUP = "cowshed.drivers"


def load_compute_driver(virtapi: Any = None, compute_driver: str | None = None) -> ComputeDriver:
    """Make the driver called ``compute_driver``.

    :param compute_driver: a dotted class, or the name of an entry point of the group
        ``cowshed.drivers``; None: LibvirtDriver
    :raises ConfigError: it cannot be found or imported, or is not a ComputeDriver
    """
    from cowshed.contract.compute import ComputeDriver

    name = compute_driver or DEFAULT
    kind = _find(name)
    if not (isinstance(kind, type) and issubclass(kind, ComputeDriver)):
        raise ConfigError(source=name, reason="it is not a ComputeDriver", hint=f"the usual one is {DEFAULT}")
    return kind(virtapi)


def entry_points(*, group: str) -> Iterable[Any]:
    """importlib.metadata's, which takes 20 ms to import and is asked for once in a life."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def _find(name: str) -> Any:
    """The entry point or dotted name. :raises ConfigError:"""
    try:
        for entry in entry_points(group=GROUP):
            if entry.name == name:
                return entry.load()
        module, _, attribute = name.rpartition(".")
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            source=name, reason=f"the driver cannot be imported: {error}", hint=f"the usual one is {DEFAULT}"
        ) from error


def driver_dict_from_config(named_driver_config: Sequence[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """``["name=dotted.Class", ...]`` to {name: Class(*args, **kwargs)}.

    :raises ConfigError: an entry has no ``=``, or its class cannot be imported
    """
    found = {}
    for item in named_driver_config:
        name, _, path = item.partition("=")
        found[name] = _find(path)(*args, **kwargs)
    return found


def is_xenapi() -> bool:
    """Is the configured driver XenAPI's? Never."""
    return False
