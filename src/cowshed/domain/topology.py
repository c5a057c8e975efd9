"""The processor: which model, and how its virtual CPUs are arranged."""

from __future__ import annotations

from cowshed.config import GuestSection
from cowshed.domain.cpu import Cpu
from cowshed.domain.properties import Properties
from cowshed.errors import HostUnsuitable, InvalidRequest, UnsupportedOperation
from cowshed.model.host import HostCapabilities, VirtType

_MODES = ("host-model", "host-passthrough", "maximum")


def cpu(properties: Properties, vcpus: int, *, guest: GuestSection, host: HostCapabilities, windows: bool) -> Cpu:
    """Under KVM the host's own processor, under TCG all that QEMU can translate, unless configured.

    :raises HostUnsuitable: more CPUs than a guest may have here
    :raises InvalidRequest: the arrangement does not make ``vcpus``
    :raises UnsupportedOperation: the configured mode does not exist here
    """
    if vcpus < 1:
        raise InvalidRequest(reason=f"an instance needs at least one CPU, not {vcpus}")
    if host.max_vcpus and vcpus > host.max_vcpus:
        raise HostUnsuitable(reason=f"{vcpus} CPUs are more than the {host.max_vcpus} a guest may have here")
    sockets, cores, threads = arrange(properties, vcpus, windows=windows)
    mode = guest.cpu_mode or ("host-model" if host.virt_type == VirtType.KVM else "maximum")
    if mode not in _MODES:  # the name of a model, such as Skylake-Server
        return Cpu(
            mode="custom", match="exact", model=mode, fallback="forbid", sockets=sockets, cores=cores, threads=threads
        )
    if host.cpu_modes and mode not in host.cpu_modes:
        raise UnsupportedOperation(
            subject="this host",
            operation=f"give guests the CPU mode {mode}",
            reason=f"it has {', '.join(host.cpu_modes)}",
            hint="change cpu_mode in the [guest] section of the configuration",
        )
    passthrough = mode in ("host-passthrough", "maximum")
    return Cpu(mode=mode, check="none" if passthrough else "partial", sockets=sockets, cores=cores, threads=threads)


def arrange(properties: Properties, vcpus: int, *, windows: bool) -> tuple[int, int, int]:
    """Sockets, cores per socket, threads per core. What is not asked for is worked out.

    Nothing asked: one socket each, as Nova does; Windows gets cores, since its desktop editions
    use two sockets at most.

    :raises InvalidRequest: they do not make ``vcpus``
    """
    asked = {name: properties.number(f"hw_cpu_{name}", least=1) for name in ("sockets", "cores", "threads")}
    most = {name: properties.number(f"hw_cpu_max_{name}", least=1) for name in asked}
    threads = asked["threads"] or 1
    cores = asked["cores"] or _rest(vcpus, (asked["sockets"] or (1 if windows else 0)) * threads)
    sockets = asked["sockets"] or _rest(vcpus, cores * threads)
    if limit := most["sockets"]:
        sockets = asked["sockets"] or _largest(vcpus // (threads * (asked["cores"] or 1)), min(limit, sockets))
        cores = asked["cores"] or _rest(vcpus, sockets * threads)
    found = {"sockets": sockets, "cores": cores, "threads": threads}
    if sockets * cores * threads != vcpus:
        raise InvalidRequest(reason=f"{sockets} sockets of {cores} cores of {threads} threads do not make {vcpus} CPUs")
    for name, limit in most.items():
        if limit and found[name] > limit:
            raise InvalidRequest(reason=f"{vcpus} CPUs need {found[name]} {name}; hw_cpu_max_{name} allows {limit}")
    return sockets, cores, threads


def _rest(vcpus: int, divisor: int) -> int:
    """What is left for one kind of the arrangement: at least 1."""
    return max(1, vcpus // divisor) if divisor else 1


def _largest(number: int, limit: int) -> int:
    """The largest divisor of ``number`` that is at most ``limit``."""
    return next(
        divisor for divisor in range(max(1, min(number, limit)), 0, -1) if number % divisor == 0 or divisor == 1
    )
