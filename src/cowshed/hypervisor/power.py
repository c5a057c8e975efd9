"""Power states, and bulk answers about many guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cowshed.hypervisor.binding import libvirt
from cowshed.hypervisor.errors import Number
from cowshed.model.instance import InstanceInfo, PowerState

# virDomainState -> the contract's codes. 2 is "blocked on I/O", 4 "being shut down".
STATES: Final = {
    0: PowerState.NOSTATE,
    1: PowerState.RUNNING,
    2: PowerState.RUNNING,
    3: PowerState.PAUSED,
    4: PowerState.SHUTDOWN,
    5: PowerState.SHUTDOWN,
    6: PowerState.CRASHED,
    7: PowerState.SUSPENDED,
}
ID: Final = "domain.id"  # a key of ours among the statistics: libvirt's number of a running domain, else -1
_ENDING: Final = 4  # VIR_DOMAIN_SHUTDOWN
_STATE_ONLY: Final = 1  # VIR_DOMAIN_STATS_STATE: needs no word with QEMU
_MANAGED_SAVE: Final = 1 << 8  # VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE
_NO_WAIT: Final = 1 << 29  # VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT: leave out what a busy guest would delay


def state(number: int) -> PowerState:
    return STATES.get(number, PowerState.NOSTATE)


def settled(number: int) -> PowerState:
    """The contract calls VIR_DOMAIN_SHUTDOWN off; for whoever waits it is not, until QEMU has ended."""
    return PowerState.RUNNING if number == _ENDING else state(number)


def states(connection: Any) -> dict[str, PowerState]:
    answers = connection.getAllDomainStats(_STATE_ONLY, 0)
    return {domain.UUIDString(): state(answer.get("state.state", 0)) for domain, answer in answers}


def with_saved_memory(connection: Any) -> set[str]:
    return {domain.UUIDString() for domain in connection.listAllDomains(_MANAGED_SAVE)}


def stats(connection: Any, uuids: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    if uuids is None:
        answers = connection.getAllDomainStats(0, _NO_WAIT)
    elif domains := [domain for uuid in uuids if (domain := _lookup(connection, uuid))]:
        answers = connection.domainListGetStats(domains, 0, _NO_WAIT)
    else:
        answers = []
    return {domain.UUIDString(): {**answer, ID: domain.ID()} for domain, answer in answers}


def info(stats: Mapping[str, Any]) -> InstanceInfo:
    """What virDomainGetInfo says, from bulk statistics."""
    return InstanceInfo(
        state=state(stats.get("state.state", 0)),
        internal_id=None if stats[ID] < 0 else stats[ID],
        max_mem_kb=stats.get("balloon.maximum", 0),
        mem_kb=stats.get("balloon.current", 0),
        num_cpu=stats.get("vcpu.current", 0),
        cpu_time_ns=stats.get("cpu.time", 0),
    )


def _lookup(connection: Any, uuid: str) -> Any:
    try:
        return connection.lookupByUUIDString(uuid)
    except libvirt().libvirtError as error:
        if error.get_error_code() == Number.NO_DOMAIN:
            return None
        raise
