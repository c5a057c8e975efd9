"""What is done inside a fake guest, where there is neither an agent nor a machine."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from cowshed.errors import NotFound, UnsupportedOperation
from cowshed.hypervisor.agent_files import Executed
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.testing.driver.table import Table


class FakeInside(Table):
    def quiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        self._running(instance, "quiesced").frozen = True

    def unquiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        self._running(instance, "unquiesced").frozen = False

    def set_admin_password(self, instance: Instance, new_pass: str) -> None:
        self._running(instance, "given a password").password = new_pass

    def inject_file(self, instance: Instance, b64_path: str, b64_contents: str) -> None:
        guest = self._running(instance, "given a file")
        guest.files[base64.b64decode(b64_path).decode()] = base64.b64decode(b64_contents)

    def write_file(self, instance: Instance, path: str, source: BinaryIO) -> int:
        content = self._running(instance, "given a file").files[path] = source.read()
        return len(content)

    def read_file(self, instance: Instance, path: str, target: BinaryIO) -> int:
        files = self._running(instance, "asked for a file").files
        if path not in files:
            raise NotFound(kind="file in the guest", name=path)
        return target.write(files[path])

    def execute(
        self, instance: Instance, command: Sequence[str], *, input: bytes = b"", timeout: float = 60.0
    ) -> Executed:
        """``echo`` and ``cat`` do what they are known for; nothing else is faked.

        :raises UnsupportedOperation:
        """
        self._running(instance, "asked to run a program")
        outputs = {"echo": " ".join(command[1:]).encode() + b"\n", "cat": input}
        if not command or command[0] not in outputs:
            raise UnsupportedOperation(subject="a fake guest", operation=f"run {command}", reason="it is no machine")
        return Executed(status=0, stdout=outputs[command[0]], stderr=b"", truncated=False)

    def agent_answers(self, instance: Instance) -> bool:
        self._running(instance, "asked for its agent")
        return True

    def change_instance_metadata(self, context: Any, instance: Instance, diff: Mapping[str, Sequence[str]]) -> None:
        guest = self._find(instance)
        for key, (sign, *value) in diff.items():
            if sign == "-":
                guest.metadata.pop(key, None)
            else:
                guest.metadata[key] = value[0]
