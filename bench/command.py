"""The command against virsh and a bare Python."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Result, alternate, sh

COWSHED = str(Path(sys.executable).with_name("cowshed"))


@contextmanager
def private() -> Iterator[dict[str, str]]:
    """An environment of its own: state, libvirt session and all."""
    with tempfile.TemporaryDirectory(prefix="cowshed-bench-") as folder:
        home = Path(folder)
        (home / "run").mkdir(mode=0o700)
        env = {
            **os.environ,
            "HOME": folder,
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_DATA_HOME": str(home / "data"),
            "COWSHED_HOST_STATE": str(home / "state"),
        }
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: modules are compiled once, not at every start
        yield env


def _peak(*command: str) -> int:
    """Largest memory of a command, bytes."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    return usage.ru_maxrss * 1024


def start(name: str, *words: str) -> object:
    def run(place: Path, rounds: int) -> Result:
        result = Result(f"{name}", "a bare Python", 0.0)
        alternate(result, lambda _: sh(*words), lambda _: sh(sys.executable, "-c", "pass"), rounds)
        more = statistics.median(result.ours) - statistics.median(result.peer)
        memory = _peak(*words) - _peak(sys.executable, "-c", "pass")
        result.notes.append(f"{1000 * more:.0f} ms more (target 100), {memory / 2**20:.0f} MiB more (target 25)")
        result.target = (statistics.median(result.peer) + 0.1) / statistics.median(result.peer)
        return result

    return run


def _virsh_uri(env: dict[str, str]) -> str:
    code = (
        "from cowshed.driver.rooms import Rooms; from cowshed.hypervisor import session; r = Rooms(); "
        "r.hypervisor.open(); print(session.prepare(r.uri))"
    )
    return sh(sys.executable, "-c", code, env=env).decode().strip()


def run(place: Path, rounds: int) -> Result:
    result = Result("cowshed run of a cached image until RUNNING", "virsh create of the same domain", 1.5)
    image = Path("build/guest/tiny.qcow2").absolute()
    with private() as env:
        sh(COWSHED, "image", "pull", image, "--name", "tiny", env=env)
        sh(COWSHED, "run", "tiny", "--name", "warm", "--memory", "256M", env=env)
        uri = _virsh_uri(env)
        xml = place / "peer.xml"
        text = sh("virsh", "-c", uri, "dumpxml", "--inactive", "warm", env=env).decode()
        sh(COWSHED, "rm", "warm", "--yes", env=env)
        sh(COWSHED, "run", "tiny", "--name", "disks", "--memory", "256M", env=env)
        sh(COWSHED, "stop", "disks", "--force", env=env)
        text = sh("virsh", "-c", uri, "dumpxml", "--inactive", "disks", env=env).decode()
        identity = text.partition("<uuid>")[2].partition("</uuid>")[0]
        xml.write_text(text.replace(f"<uuid>{identity}</uuid>", "").replace("<name>disks</name>", "<name>peer</name>"))

        def ours(number: int) -> None:
            sh(COWSHED, "run", "tiny", "--name", f"n{number}", "--memory", "256M", env=env)

        def peer(_: int) -> None:
            sh("virsh", "-c", uri, "create", xml, env=env)

        for number in range(rounds):
            alternate(result, lambda _, number=number: ours(number), peer, 1)
            sh(COWSHED, "rm", f"n{number}", "--yes", env=env)
            sh("virsh", "-c", uri, "destroy", "peer", env=env)
        sh(COWSHED, "rm", "disks", "--yes", env=env)
        end_session(env)
    return result


FILL = """
import uuid
from cowshed.driver.rooms import Rooms
from cowshed.manager.records import Record, Records
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, InstanceState
rooms = Rooms()
records = Records(rooms.state / "cowshed.db")
for number in range(100):
    identity = str(uuid.uuid4())
    xml = f'''<domain type="qemu"><name>m{number}</name><uuid>{identity}</uuid><memory>65536</memory>
        <os><type machine="q35">hvm</type></os></domain>'''
    rooms.hypervisor.define(xml)
    records.add(Record(Instance(identity, f"m{number}", Flavor()), (), InstanceState.RUNNING, image_name="tiny"))
"""


def listing(place: Path, rounds: int) -> Result:
    result = Result("cowshed ls with 100 instances", "virsh list --all and a bare Python", 1.5)
    with private() as env:
        uri = _virsh_uri(env)
        sh(sys.executable, "-c", FILL, env=env)
        assert len(sh(COWSHED, "ls", env=env).splitlines()) == 101

        def peer(_: int) -> None:
            sh("virsh", "-c", uri, "list", "--all", env=env)
            sh(sys.executable, "-c", "pass")

        alternate(result, lambda _: sh(COWSHED, "ls", env=env), peer, rounds)
        for number in range(100):
            sh("virsh", "-c", uri, "undefine", f"m{number}", env=env)
        end_session(env)
    return result


def end_session(env: dict[str, str]) -> None:
    """End the session daemon of the private environment."""
    run_folder = Path(env["XDG_RUNTIME_DIR"])
    for file in run_folder.rglob("*.pid"):
        text = file.read_text().strip()
        if text.isdigit() and "libvirtd" in file.name:
            os.kill(int(text), 15)
            for _ in range(100):
                if not Path(f"/proc/{text}").exists():
                    break
                time.sleep(0.05)
