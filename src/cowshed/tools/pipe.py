"""A program that is talked to over its standard input and output, such as ssh with a command behind it."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from cowshed.errors import CowshedError, ToolFailed
from cowshed.tools.run import end, environment, require

_LAST: Final = 20.0  # seconds a program may take to end once nobody talks to it any more
_WORDS: Final = 4096
# What ssh needs of ours to find the user's keys.
_KEPT: Final = ("SSH_AUTH_SOCK", "USER", "LOGNAME")


@contextmanager
def talking(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Descriptors to read from and write to ``command``. It ends with the block.

    :raises ToolMissing: :raises ToolFailed: it failed, and so did the block
    """
    arguments = [require(command[0]), *command[1:]]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(kept),
        start_new_session=True,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    words = bytearray()
    listener = threading.Thread(target=_listen, args=(process.stderr.fileno(), words), daemon=True)
    listener.start()
    try:
        yield process.stdout.fileno(), process.stdin.fileno()
    except BaseException as error:
        with suppress(OSError):
            process.stdin.close()
        end(process)
        listener.join(1)
        # When the pipe broke, what the program said last is why. DeadlineExceeded is an OSError, too, and says it itself.
        if isinstance(error, OSError | EOFError) and not isinstance(error, CowshedError):
            said = bytes(words).decode(errors="replace").strip() or "it ended"
            raise ToolFailed(command=shlex.join(arguments), status=process.returncode, output=said) from error
        raise
    finally:
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_LAST)
        except subprocess.TimeoutExpired:
            end(process)
        listener.join(1)
        process.stdout.close()
        process.stderr.close()


def _listen(fd: int, words: bytearray) -> None:
    with suppress(OSError, ValueError):
        while chunk := os.read(fd, 65536):
            words += chunk
            del words[:-_WORDS]
