"""Disks of a running guest: what its QEMU must be told."""

from __future__ import annotations

from cowshed.hypervisor.guest import Guest

_BYTES = 1  # VIR_DOMAIN_BLOCK_RESIZE_BYTES


def resize(guest: Guest, target: str, size: int) -> None:
    """The guest sees ``size`` bytes on ``target`` (``vda``) from now on; a file that QEMU can grow is grown.

    :raises HypervisorError: QEMU cannot, and the guest sees what it saw
    """
    guest.call(f"resize {target} of", lambda domain: domain.blockResize(target, size, _BYTES))
