"""Files and programs in the guest through its agent: bounded pieces, a deadline for each, nothing trusted."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from cowshed.clock import Deadline, current
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import CowshedError, DataCorrupt, DeadlineExceeded, HypervisorError, InvalidRequest, NotFound
from cowshed.hypervisor.agent import Agent
from cowshed.units import format_size

PIECE: Final = 48 << 10  # bytes a message: 64 KiB as base64; an agent under TCG needs 30 s for one of 1 MiB
OUTPUT: Final = 16 << 20  # the agent keeps at most this much of a program's output (QEMU's GUEST_EXEC_MAX_OUTPUT)
TRANSFER: Final = 30  # seconds for one piece
# Bytes for a program, as its words and its input. A message that no socket takes at once (208 KiB) is not answered: libvirt 9.0.
GIVEN: Final = 128 << 10
_LOOK: Final = 0.1  # seconds between looks at a program: the agent has no event for its end


@dataclass(frozen=True, slots=True)
class Executed:
    """``status`` is the exit status, or the negative number of the signal that ended it."""

    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool


def write(agent: Agent, path: str, source: BinaryIO, *, limit: int | None = None, progress: Progress = SILENT) -> int:
    """The file ``path`` of the guest has the content of ``source``; returns its bytes.

    :param limit: bytes; a source may have no end
    :raises InvalidRequest: there are more; so many are in the guest then
    :raises UnsupportedOperation: there is no agent
    :raises HypervisorError: the guest refuses (no such folder, no space)
    """
    done = 0
    with _opened(agent, path, "w") as handle:
        while data := source.read(PIECE):
            if limit is not None and done + len(data) > limit:
                raise InvalidRequest(
                    reason=f"what shall become {path} is larger than {format_size(limit)}",
                    hint=f"its first {format_size(done)} are in the guest; attach a volume for what is so large",
                )
            done += _write_all(agent, path, handle, data)
            progress.update(len(data))
            progress.check()
        agent.command("guest-file-flush", {"handle": handle}, timeout=TRANSFER)
    return done


def _write_all(agent: Agent, path: str, handle: int, data: bytes) -> int:
    rest = memoryview(data)
    while rest:
        request = {"handle": handle, "buf-b64": base64.b64encode(rest).decode()}
        count = _number(agent.command("guest-file-write", request, timeout=TRANSFER), "count", path)
        if not 0 < count <= len(rest):
            raise DataCorrupt(path=path, reason=f"the agent says it wrote {count} of {len(rest)} bytes")
        rest = rest[count:]
    return len(data)


def read(agent: Agent, path: str, target: BinaryIO, *, limit: int, progress: Progress = SILENT) -> int:
    """Write the guest's file ``path`` to ``target``; returns its bytes.

    :param limit: bytes; a guest could send without end
    :raises NotFound: the guest has no such file
    :raises DataCorrupt: it is larger than ``limit``
    """
    done = 0
    with _opened(agent, path, "r") as handle:
        while True:
            answer = agent.command("guest-file-read", {"handle": handle, "count": PIECE}, timeout=TRANSFER)
            data = _bytes(answer, "buf-b64", path)
            done += len(data)
            if done > limit:
                raise DataCorrupt(path=path, reason=f"it is larger than {limit} bytes")
            target.write(data)
            last = bool(answer.get("eof") or not data)
            if done == len(data):  # the first piece
                progress.phase("copy", done if last else _size(agent, handle, done))
            progress.update(len(data))
            if last:
                return done
            progress.check()


def _size(agent: Agent, handle: int, place: int) -> int | None:
    """What the guest says of an open file, of which ``place`` bytes are read; for people, since a guest may say anything."""
    try:
        answer = agent.command("guest-file-seek", {"handle": handle, "offset": 0, "whence": "end"})
    except HypervisorError:
        return None  # of what is no file on a disk nobody knows the end
    agent.command("guest-file-seek", {"handle": handle, "offset": place, "whence": "set"})
    position = answer.get("position") if isinstance(answer, dict) else None
    return position if isinstance(position, int) and position >= place else None


@contextmanager
def _opened(agent: Agent, path: str, mode: str) -> Iterator[int]:
    try:
        handle = agent.command("guest-file-open", {"path": path, "mode": mode})
    except HypervisorError as error:
        if mode == "r" and "No such file" in error.reason:
            raise NotFound(kind="file in the guest", name=path) from error
        raise _of_directory(path, error) from error
    if not isinstance(handle, int):
        raise DataCorrupt(path=path, reason=f"the agent's handle is {handle!r}")
    try:
        yield handle
    except BaseException as error:
        with suppress(CowshedError):
            agent.command("guest-file-close", {"handle": handle})
        if isinstance(error, HypervisorError):  # Linux opens a directory, and does not read it
            raise _of_directory(path, error) from error
        raise
    agent.command("guest-file-close", {"handle": handle}, timeout=TRANSFER)


def _of_directory(path: str, error: HypervisorError) -> CowshedError:
    if "Is a directory" not in error.reason:
        return error
    return InvalidRequest(
        reason=f"{path} in the guest is a directory", hint="one file is copied: pack it there with tar"
    )


def execute(agent: Agent, command: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Executed:
    """Run a program in the guest to its end.

    :raises DeadlineExceeded: it still runs (and goes on: the agent cannot end it)
    :raises InvalidRequest: its words and ``input`` are more than GIVEN bytes
    """
    if len(input) + sum(len(os.fsencode(word)) for word in command) > GIVEN:
        raise InvalidRequest(
            reason=f"{command[0]} in the guest can be given {format_size(GIVEN)} of words and input at most",
            hint="copy the input into the guest before (cowshed cp), and let the program read it there",
        )
    arguments = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
    if input:
        arguments["input-data"] = base64.b64encode(input).decode()
    pid = _number(agent.command("guest-exec", arguments), "pid", command[0])
    deadline = Deadline(timeout, f"the end of {command[0]} in the guest")
    while True:
        answer = agent.command("guest-exec-status", {"pid": pid})
        if not isinstance(answer, dict):
            raise DataCorrupt(path=command[0], reason=f"the agent says of it {answer!r}")
        if answer.get("exited"):
            return _executed(answer, command[0])
        if deadline.passed:
            raise DeadlineExceeded(what=deadline.what, seconds=timeout, hint="it goes on running in the guest")
        current().sleep(_LOOK)


def _executed(answer: dict[str, object], what: str) -> Executed:
    status = -_number(answer, "signal", what) if "signal" in answer else _number(answer, "exitcode", what)
    return Executed(
        status=status,
        stdout=_bytes(answer, "out-data", what),
        stderr=_bytes(answer, "err-data", what),
        truncated=bool(answer.get("out-truncated") or answer.get("err-truncated")),
    )


def _number(answer: object, key: str, what: str) -> int:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, int):
        raise DataCorrupt(path=what, reason=f"the agent's answer has no {key}")
    return value


def _bytes(answer: object, key: str, what: str) -> bytes:
    text = answer.get(key, "") if isinstance(answer, dict) else None
    try:
        return base64.b64decode(str(text), validate=True) if text is not None else b""
    except binascii.Error as error:
        raise DataCorrupt(path=what, reason=f"the agent's answer is not base64: {error}") from error
