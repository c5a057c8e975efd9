"""What happens inside the guest, through its agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.instance import Instance


class Guest:
    """What happens inside the guest, through its agent."""

    @unfulfilled
    def set_admin_password(self, instance: Instance, new_pass: str) -> None:
        """Set the administrator's password through the guest agent.

        Whose: the image's property ``os_admin_user``, else ``Administrator`` on Windows, else ``root``.

        :raises UnsupportedOperation: the image has no agent (``hw_qemu_guest_agent``), or the agent cannot
        :raises InvalidState: it is not running
        """
        refuse(self, "set_admin_password")

    @unfulfilled
    def inject_file(self, instance: Instance, b64_path: str, b64_contents: str) -> None:
        """Write a file into a running guest through its agent.

        :param b64_path: the absolute path in the guest, base64
        :param b64_contents: the content, base64; a file that exists is replaced
        :raises InvalidState: it is not running :raises UnsupportedOperation: it has no agent
        """
        refuse(self, "inject_file")

    @unfulfilled
    def change_instance_metadata(self, context: Any, instance: Instance, diff: Mapping[str, Sequence[str]]) -> None:
        """Publish changed metadata to the guest.

        :param diff: key to ``["+", value]`` (set) or ``["-"]`` (removed)
        """
        refuse(self, "change_instance_metadata")
