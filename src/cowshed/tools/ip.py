"""ip(8): tap devices come and go."""

from __future__ import annotations

from cowshed.tools import privilege


def add_tap(name: str, *, alias: str) -> None:
    """A tap device that stays, is up, and says whose it is.

    :raises PermissionDenied: :raises ToolFailed: there is a device of this name
    """
    privilege.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"])
    try:
        privilege.run(["ip", "link", "set", "dev", name, "up", "alias", alias])
    except BaseException:
        delete(name)
        raise


def delete(name: str) -> None:
    """:raises PermissionDenied: :raises ToolFailed:"""
    privilege.run(["ip", "link", "delete", "dev", name])
