"""The libvirt binding, loaded when it is first needed; it must match the host's libvirt library."""

from __future__ import annotations

import importlib
from typing import Any

from cowshed.errors import HypervisorUnavailable

_modules: dict[str, Any] = {}


def libvirt() -> Any:
    """The module ``libvirt``, silent on standard error.

    :raises HypervisorUnavailable: the binding is not installed
    """
    return _modules.get("libvirt") or _load("libvirt")


def libvirt_qemu() -> Any:
    """The module ``libvirt_qemu``: what only QEMU guests have."""
    return _modules.get("libvirt_qemu") or _load("libvirt_qemu")


def _load(name: str) -> Any:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise HypervisorUnavailable(
            uri="this host",
            reason=f"Python has no usable libvirt binding ({error})",
            hint="install python3-libvirt; cowshed doctor says how this Python gets to see it, and what else is missing",
        ) from error
    if name == "libvirt":
        module.registerErrorHandler(_silent, None)  # otherwise libvirt prints each error, also those we handle
    _modules[name] = module
    return module


def _silent(context: object, error: object) -> None:
    pass
