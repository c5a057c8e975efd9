"""Shutting this host down, or restarting it: only where the operator has said that it is allowed, and how."""

from __future__ import annotations

from cowshed.config import HostSection
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.tools.run import run


def act(section: HostSection, action: str) -> str:
    """Do ``startup``, ``shutdown`` or ``reboot``; a sentence that says what was done.

    :raises UnsupportedOperation: not allowed, or no command is configured for it
    :raises ToolFailed: the command failed
    """
    commands = {
        "startup": section.startup_command,
        "shutdown": section.shutdown_command,
        "reboot": section.reboot_command,
    }
    if action not in commands:
        raise InvalidRequest(reason=f"a host cannot be told to {action!r}", hint=f"known: {', '.join(commands)}")
    if not section.power_actions:
        raise _cannot(action, "power actions are not allowed", "set [host] power_actions")
    command = commands[action]
    if not command:
        raise _cannot(action, "a host that is down runs no driver", f"set [host] {action}_command")
    run(command, timeout=60)
    return f"{action} was asked for with: {' '.join(command)}"


def _cannot(action: str, reason: str, hint: str) -> UnsupportedOperation:
    return UnsupportedOperation(subject="this host", operation=action, reason=reason, hint=hint)
