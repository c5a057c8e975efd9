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
        """Set the administrator's password."""
        refuse(self, "set_admin_password")

    @unfulfilled
    def inject_file(self, instance: Instance, b64_path: str, b64_contents: str) -> None:
        """Write a file into the guest; both are base64."""
        refuse(self, "inject_file")

    @unfulfilled
    def change_instance_metadata(self, context: Any, instance: Instance, diff: Mapping[str, Sequence[str]]) -> None:
        """Publish changed metadata; ``diff`` maps a key to ["+", value] or ["-"]."""
        refuse(self, "change_instance_metadata")
