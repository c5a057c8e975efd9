"""Machine: the handle of one instance in the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from cowshed import clock
from cowshed.clock import Deadline
from cowshed.errors import InstanceNotFound, InternalError, InvalidRequest, InvalidState
from cowshed.manager.records import Record
from cowshed.manager.states import check_kept
from cowshed.model.console import SpiceConsole, VncConsole
from cowshed.model.instance import InstanceState
from cowshed.model.vif import LOCAL, PortForward, Protocol, Vif, VifType

if TYPE_CHECKING:
    from cowshed.hypervisor.agent_files import Executed
    from cowshed.manager.host import Host
    from cowshed.manager.volumes import Seen
    from cowshed.model.disk import LocalDisk
    from cowshed.model.share import Share

_PAUSE = 0.2  # seconds between looks where no event tells
_SLIRP = ("10.0.2.", "fec0:")  # the user network's own addresses; the host does not reach them
_INSIDE = ("ssh", "address", "agent")  # what is waited for in the guest
_OVER = (
    InstanceState.STOPPED,
    InstanceState.CRASHED,
    InstanceState.SUSPENDED,
    InstanceState.ERROR,
    InstanceState.SOFT_DELETED,
)


def check_condition(condition: str) -> None:
    """:raises InvalidRequest: :meth:`Machine.wait` does not know it"""
    kind, _, text = condition.partition(":")
    if condition not in (*_INSIDE, *InstanceState) and not (kind == "log" and text):
        raise InvalidRequest(
            reason=f"cannot wait for {condition!r}",
            hint=f"{', '.join(_INSIDE)}, log:TEXT, or {', '.join(InstanceState)}",
        )


def ssh_forward(vifs: Sequence[Vif]) -> PortForward | None:
    """The one that leads to the guest's ssh server."""
    forwards = (forward for vif in vifs for forward in vif.forwards)
    return next((one for one in forwards if one.guest_port == 22 and one.protocol == Protocol.TCP), None)


def may_reach_ssh(vifs: Sequence[Vif]) -> bool:
    """False: nothing leads from the host to the ssh server behind these interfaces, and nothing ever will."""
    return ssh_forward(vifs) is not None or any(vif.type not in LOCAL for vif in vifs)


def may_have_address(vifs: Sequence[Vif]) -> bool:
    """False: none of these interfaces leads anywhere, so that the guest has no address and gets none."""
    return any(vif.type != VifType.NONE for vif in vifs)


class Machine:
    """One instance of a host. As a context manager, an ephemeral one is removed at the end."""

    def __init__(self, host: Host, record: Record, *, ephemeral: bool = False) -> None:
        self._host = host
        self._instances = host.instances
        self.record = record
        self.ephemeral = ephemeral

    def __repr__(self) -> str:
        return f"<Machine {self.name} {self.record.state}>"

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def uuid(self) -> str:
        return self.record.uuid

    @property
    def state(self) -> InstanceState:
        """What it is now."""
        self.record = self._instances.find(self.uuid)
        return self.record.state

    @property
    def forwards(self) -> tuple[PortForward, ...]:
        return tuple(forward for vif in self.record.vifs for forward in vif.forwards)

    # --- power --------------------------------------------------------------------------------

    def start(self) -> None:
        self.record = self._instances.start(self.uuid)

    def stop(self, *, timeout: float | None = None, force: bool = False) -> None:
        """:param timeout: seconds the guest gets; None: as configured"""
        seconds = self._host.config.power.shutdown_timeout if timeout is None else timeout
        self.record = self._instances.stop(self.uuid, timeout=seconds, force=force)

    def restart(self, *, timeout: float | None = None, hard: bool = False) -> None:
        """:param timeout: seconds the guest gets to shut down; None: as configured"""
        self.record = self._instances.restart(self.uuid, timeout=timeout, hard=hard)

    def pause(self) -> None:
        self.record = self._instances.pause(self.uuid)

    def suspend(self) -> None:
        self.record = self._instances.suspend(self.uuid)

    def resume(self) -> None:
        self.record = self._instances.resume(self.uuid)

    def remove(self, *, soft: bool = False) -> None:
        """:param soft: it is powered off and kept, and :meth:`restore` brings it back"""
        if soft:
            self.record = self._host.deleted.soft_delete(self.uuid)
        else:
            self._instances.remove(self.uuid)

    def restore(self) -> None:
        """Bring it back after a soft deletion, as it was: on, or off."""
        self.record = self._host.deleted.restore(self.uuid)

    # --- volumes ------------------------------------------------------------------------------

    def volumes(self) -> list[Seen]:
        return [seen for _, seen in self._host.volumes.list(self.uuid)]

    def attach_volume(self, spec: str, **options: Any) -> Seen:
        """See :meth:`cowshed.manager.volumes.Volumes.attach`."""
        return self._host.volumes.attach(self.uuid, spec, **options)

    def detach_volume(self, volume: str, *, timeout: float | None = None) -> None:
        """:param volume: its id or its device name"""
        self._host.volumes.detach(self.uuid, volume, timeout=timeout)

    def extend_volume(self, volume: str, size: str | int) -> Seen:
        return self._host.volumes.extend(self.uuid, volume, size)

    # --- shares -------------------------------------------------------------------------------

    def shares(self) -> list[Share]:
        return [share for _, share in self._host.shares.list(self.uuid)]

    def attach_share(self, spec: str) -> Share:
        """See :meth:`cowshed.manager.shares.Shares.attach`."""
        return self._host.shares.attach(self.uuid, spec)

    def detach_share(self, share: str, *, timeout: float | None = None) -> None:
        """:param share: its tag or its directory"""
        self._host.shares.detach(self.uuid, share, timeout=timeout)

    # --- disks (``host.disks`` has more) ------------------------------------------------------

    def disks(self) -> list[LocalDisk]:
        return [disk for _, disk in self._host.disks.list(self.uuid)]

    def resize_disk(self, size: str | int, disk: str = "") -> None:
        """:param disk: its name, or ``root``, ``swap``, ...; empty: the root disk"""
        self._host.disks.resize(self.uuid, size, disk)

    def snapshot(self, name: str, disk: str = "") -> None:
        """Of all its disks together, or of one, while it is stopped."""
        self._host.disks.take_snapshot(self.uuid, name, disk)

    def roll_back(self, name: str, disk: str = "") -> None:
        self._host.disks.roll_back(self.uuid, name, disk)

    # --- wait ---------------------------------------------------------------------------------

    def wait(self, condition: str = "running", *, timeout: float | None = 300.0) -> str:
        """Until ``condition`` holds: a state, ``log:TEXT``, ``ssh``, ``address`` or ``agent`` (the guest agent answers).

        :return: what was found
        :raises DeadlineExceeded: :raises InvalidState: it can no longer happen
        :raises UnsupportedOperation: there is no channel for the agent that is waited for
        """
        check_condition(condition)
        kind, _, text = condition.partition(":")
        if kind == "log" and text:
            for _ in self.follow(until=text, timeout=timeout):
                pass
            return text
        if condition in list(InstanceState):
            return self._until(lambda: self.state if self.state == condition else "", condition, timeout)
        if condition == "address":
            self._check_network()
            return self._until(lambda: " ".join(self.addresses()), condition, timeout)
        if condition == "ssh":
            self._check_way()
            return self._until(self._ssh_banner, condition, timeout)
        if condition == "agent":
            return self._until(self._agent_answer, condition, timeout)
        raise InternalError(reason=f"condition {condition!r} was checked and is not known")

    def _until(self, look: Callable[[], str], condition: str, timeout: float | None) -> str:
        deadline = Deadline(timeout, f"{self.name}: {condition}")
        while not (found := look()):
            if condition in _INSIDE and self.state in _OVER:
                check_kept(self.record, f"waited for ({condition})")
                raise InvalidState(name=self.name, state=self.record.state, action=f"waited for ({condition})")
            deadline.check()
            clock.current().sleep(_PAUSE)
        return str(found)

    def _agent_answer(self) -> str:
        try:
            return "agent" if self._host.driver.agent_answers(self.record.instance) else ""
        except InvalidState:  # it may be paused, and go on
            return ""

    def _ssh_banner(self) -> str:
        import socket

        try:
            with socket.create_connection(self.ssh_endpoint(), timeout=2) as connection:
                connection.settimeout(2)
                greeting = connection.recv(255).partition(b"\n")[0]  # RFC 4253, 4.2: a line of 255 bytes at most
                return "".join(filter(str.isprintable, greeting.decode(errors="replace")))
        except (OSError, InvalidState):
            return ""

    # --- inside, through the agent --------------------------------------------------------------

    def set_password(self, password: str) -> None:
        """Of the administrator. :raises InvalidState: :raises UnsupportedOperation: no agent"""
        check_kept(self.record, "given a password")
        self._host.driver.set_admin_password(self.record.instance, password)

    def write_file(self, path: str, source: BinaryIO) -> int:
        """The guest's file ``path`` has the content of ``source``; returns its bytes."""
        check_kept(self.record, "given a file")
        return self._host.driver.write_file(self.record.instance, path, source)

    def read_file(self, path: str, target: Path | BinaryIO) -> int:
        """Copy the guest's file ``path`` to ``target``; a file appears whole or not at all. Returns its bytes."""
        check_kept(self.record, "asked for a file")
        if not isinstance(target, Path):
            return self._host.driver.read_file(self.record.instance, path, target)
        from cowshed.tools import filesystem

        with filesystem.publish(target, mode=0o644, replace=True) as new, open(new.fd, "wb", closefd=False) as file:
            return self._host.driver.read_file(self.record.instance, path, file)

    def execute(self, command: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Executed:
        """Run a program in the guest to its end. :raises DeadlineExceeded: it still runs, and goes on"""
        check_kept(self.record, "made to run a program")
        return self._host.driver.execute(self.record.instance, command, input=input, timeout=timeout)

    # --- reach --------------------------------------------------------------------------------

    def log(self, size: int | None = None) -> bytes:
        """The last ``size`` bytes (default: as configured) of the serial console."""
        from cowshed.console import log

        path = self._host.driver.console_log_path(self.record.instance)
        return log.tail(path, self._host.config.console.log_size if size is None else size)

    def follow(self, *, until: str | None = None, timeout: float | None = None) -> Iterator[bytes]:
        """The serial console from its beginning on; with ``until`` from the last boot on, until it appears there."""
        start = self._instances.records.find(self.uuid).boot_log if until else 0
        return self._host.driver.follow_console(self.record.instance, until=until, timeout=timeout, start=start)

    def console(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        """Join a terminal to the serial console; ^] leaves it."""
        check_kept(self.record, "joined")
        self._host.driver.attach_console(self.record.instance, stdin, stdout)

    def vnc(self) -> VncConsole:
        check_kept(self.record, "looked at")
        return self._host.driver.get_vnc_console(None, self.record.instance)

    def spice(self) -> SpiceConsole:
        check_kept(self.record, "looked at")
        return self._host.driver.get_spice_console(None, self.record.instance)

    def addresses(self) -> list[str]:
        """What the guest agent says; empty when it does not answer."""
        return self._host.driver.guest_addresses(self.record.instance)

    def ssh_endpoint(self) -> tuple[str, int]:
        """(host, port) where its ssh server is reached. :raises InvalidState: no way is known"""
        check_kept(self.record, "reached by ssh")
        self._check_way()
        if forward := ssh_forward(self.record.vifs):
            return forward.host_address, forward.host_port
        for address in self.addresses():
            if not address.startswith(_SLIRP):
                return address, 22
        raise InvalidState(
            name=self.name,
            state="without a known address",
            action="reached by ssh",
            hint="its guest agent names the address: is qemu-guest-agent installed there, and has the guest booted?",
        )

    def ssh_command(self, *command: str, user: str = "", identity: str = "") -> list[str]:
        """The words of an ssh call. Its host key is remembered with the instance, and goes with it.

        :param identity: path of a private key
        """
        address, port = self.ssh_endpoint()
        known = self._host.driver.console_log_path(self.record.instance).with_name("known_hosts")
        options = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={known}"]
        who = [*(["-l", user] if user else []), *(["-i", identity] if identity else [])]
        return ["ssh", "-p", str(port), *options, *who, "--", address, *command]

    def _check_way(self) -> None:
        """:raises InvalidState: nothing leads from the host to its ssh server, and nothing ever will"""
        if not may_reach_ssh(self.record.vifs):
            raise InvalidState(
                name=self.name,
                state="on no network that the host reaches",
                action="reached by ssh",
                hint="run it with -p 2222:22, or on a libvirt network or a bridge",
            )

    def _check_network(self) -> None:
        """:raises InvalidState: it has no network to have an address on"""
        if not may_have_address(self.record.vifs):
            raise InvalidState(
                name=self.name,
                state="on no network",
                action="waited for (address)",
                hint=f"cowshed nic attach {self.name} --network user connects it",
            )

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ephemeral:
            with suppress(InstanceNotFound):  # removed in the block
                self.remove()
