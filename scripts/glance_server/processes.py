"""Commands that end, and servers that stay."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from glance_server.places import PARTS, VENV

WAIT = 90.0  # seconds for a server to answer

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"glance-server: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def serve(place: Path, name: str, port: int, owner: int = 0) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "OS_KEYSTONE_CONFIG_DIR": str(place),
        "OS_KEYSTONE_CONFIG_FILES": "keystone.conf",
        "OS_GLANCE_CONFIG_DIR": str(place),
        "PYTHONWARNINGS": "ignore",
    }
    with (place / f"{name}.out").open("ab") as words:
        return subprocess.Popen(
            [VENV / "bin/python", "-P", PARTS / "serve.py", f"{name}.wsgi.api", str(port), str(owner)],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )


def wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            opener.open(url, timeout=max(1.0, end - time.monotonic())).close()
            return
        except urllib.error.HTTPError as error:
            if error.code in (300, 401):
                return
            break
        except OSError:
            time.sleep(0.05)
    words = "".join(path.read_text()[-3000:] for path in (log, log.with_suffix(".out")) if path.exists())
    raise SystemExit(f"glance-server: {url} does not answer\n{words}")


def end(pid: int, expected: str = "") -> None:
    """End our own process; a number that somebody else has by now is left alone."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if expected and expected.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        os.kill(pid, signal.SIGTERM)
        for _ in range(200):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
