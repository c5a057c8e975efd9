"""Guest: what happens inside, through the agent."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from cowshed import log
from cowshed.contract.guest import Guest as GuestContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import locate
from cowshed.errors import CowshedError, InvalidRequest, InvalidState, UnsupportedOperation
from cowshed.model.instance import Instance, PowerState
from cowshed.units import GiB, format_size

if TYPE_CHECKING:
    from cowshed.hypervisor.agent import Agent
    from cowshed.hypervisor.agent_files import Executed

_log = log.logger(__name__)

METADATA_FILE = "/run/cowshed/metadata.json"  # in the guest
LARGEST_FILE = 64 * GiB  # into a guest or out of it


class Guest(GuestContract):
    rooms: Rooms

    def set_admin_password(self, instance: Instance, new_pass: str) -> None:
        properties = locate.remembered_image(self.rooms, instance).properties
        usual = "Administrator" if properties.get("os_type", instance.os_type) == "windows" else "root"
        self._agent(instance).set_password(properties.get("os_admin_user") or usual, new_pass)

    def inject_file(self, instance: Instance, b64_path: str, b64_contents: str) -> None:
        path, content = _decoded("path", b64_path), _decoded("contents", b64_contents)
        try:
            self.write_file(instance, path.decode(), io.BytesIO(content))
        except UnicodeDecodeError as error:
            raise InvalidRequest(reason=f"the path {path!r} is not UTF-8") from error

    def change_instance_metadata(self, context: Any, instance: Instance, diff: Mapping[str, Sequence[str]]) -> None:
        """Into the domain's metadata, and for a running guest with an agent into ``/run/cowshed/metadata.json``."""
        from cowshed.domain import metadata
        from cowshed.domain.domain import Domain

        with log.about(instance.name):
            guest = self.rooms.hypervisor.guest(instance.uuid)
            found = Domain.parse(guest.xml()).metadata
            if found is None:
                raise UnsupportedOperation(
                    subject=instance.name, operation="change its metadata", reason="cowshed did not make its domain"
                )
            element, changed = metadata.changed(found, diff)
            guest.set_metadata(element.to_unqualified_xml())
            if guest.state() != PowerState.RUNNING:
                return
            try:
                self.write_file(instance, METADATA_FILE, io.BytesIO(json.dumps(changed, sort_keys=True).encode()))
            except CowshedError as error:
                _log.info("the guest was not told of its new metadata: %s", error)

    # --- beside the contract ------------------------------------------------------------------

    def write_file(self, instance: Instance, path: str, source: BinaryIO) -> int:
        """The guest's file ``path`` (absolute) has the content of ``source``; its folder is made. Returns its bytes.

        :raises InvalidRequest: more than 64 GiB; before anything is written where ``source`` can tell
        :raises InvalidState: it is not running :raises UnsupportedOperation: it has no agent
        """
        from cowshed.hypervisor import agent_files

        if not path.startswith(("/", "C:", "c:")) or path.endswith("/") or "\0" in path:
            raise InvalidRequest(reason=f"{path!r} is not the absolute path of a file in the guest")
        size = _left(source)
        if (size or 0) > LARGEST_FILE:
            raise InvalidRequest(
                reason=f"{format_size(size or 0)} are more than the {format_size(LARGEST_FILE)} that are copied at most",
                hint="attach it as a volume",
            )
        agent = self._agent(instance)
        if folder := path.rpartition("/")[0]:
            _make_folder(agent, folder)
        self.rooms.progress.phase("copy", size)
        return agent_files.write(agent, path, source, limit=LARGEST_FILE, progress=self.rooms.progress)

    def read_file(self, instance: Instance, path: str, target: BinaryIO) -> int:
        """Write the guest's file ``path`` to ``target``; returns its bytes.

        :raises NotFound: the guest has no such file; else as :meth:`write_file`
        """
        from cowshed.hypervisor import agent_files

        agent, progress = self._agent(instance), self.rooms.progress
        return agent_files.read(agent, path, target, limit=LARGEST_FILE, progress=progress)

    def execute(
        self, instance: Instance, command: Sequence[str], *, input: bytes = b"", timeout: float = 60.0
    ) -> Executed:
        """Run a program in the guest to its end.

        :param timeout: seconds
        :raises DeadlineExceeded: it still runs, and goes on; else as :meth:`write_file`
        :raises InvalidRequest: ``command`` and ``input`` are more than 128 KiB
        """
        from cowshed.hypervisor import agent_files

        if not command:
            raise InvalidRequest(reason="no command was given")
        return agent_files.execute(self._agent(instance), command, input=input, timeout=timeout)

    def agent_answers(self, instance: Instance) -> bool:
        """Does the guest agent answer, at this moment?

        :raises InvalidState: it does not run :raises UnsupportedOperation: it never can, without its channel
        """
        return self._agent(instance).ping()

    def guest_addresses(self, instance: Instance) -> list[str]:
        """IP addresses the guest agent names, loopback and link-local ones left out; empty without an agent."""
        try:
            found = self.rooms.hypervisor.guest(instance.uuid).agent.addresses()
        except CowshedError as error:
            _log.debug("no addresses of %s: %s", instance.name, error)
            return []
        words = [str(address).partition("/")[0] for card in found for address in card.addresses]
        return [word for word in words if not word.startswith(("127.", "::1", "fe80", "169.254."))]

    def _agent(self, instance: Instance) -> Agent:
        """:raises InvalidState: :raises UnsupportedOperation: it was made without a channel for the agent"""
        from cowshed.domain.channel import AGENT
        from cowshed.domain.domain import Domain

        guest = self.rooms.hypervisor.guest(instance.uuid)
        if (state := guest.state()) != PowerState.RUNNING:
            raise InvalidState(name=instance.name, state=state.word, action="reached through its agent")
        if all(channel.name != AGENT for channel in Domain.parse(guest.xml()).channels):
            raise UnsupportedOperation(
                subject=instance.name,
                operation="be reached through the guest agent",
                reason="it was started without the agent's channel",
                hint="set hw_qemu_guest_agent=yes on the image, or [guest] agent, and restart it",
            )
        return guest.agent


def _decoded(what: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(reason=f"the {what} is not base64: {error}") from error


def _left(source: BinaryIO) -> int | None:
    """How many bytes it has to give; None: it cannot tell (a pipe, a device)."""
    if not source.seekable():
        return None
    place = source.tell()
    end = source.seek(0, io.SEEK_END)
    source.seek(place)
    return max(0, end - place) or None


def _make_folder(agent: Agent, folder: str) -> None:
    """An agent that may not run programs writes into folders that are there."""
    from cowshed.hypervisor import agent_files

    try:
        agent_files.execute(agent, ["mkdir", "-p", folder], timeout=10)
    except CowshedError as error:
        _log.debug("could not make %s in the guest: %s", folder, error)
