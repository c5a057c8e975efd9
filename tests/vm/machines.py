"""A driver with state of its own, and tiny guests through it: what the tests of the driver share."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cowshed.config import Config, GuestSection, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import PortForward, Vif
from cowshed.units import MiB

MAC = "52:54:00:00:00:07"

# Of a kernel that is booted directly, as on the tiny guest's own disk (scripts/guest-tiny.sh says why).
KERNEL_OPTIONS = "console=ttyS0 quiet no_timer_check noreplace-smp cryptomgr.notests init_on_alloc=0"


OPEN: list[Machines] = []  # those of ``machines``, at this moment


class Machines:
    """``spawn`` makes instances; all are destroyed when the block ends, those of a test with the test."""

    def __init__(self, uri: str, guest_dir: Path, state: Path, **sections: Any) -> None:
        host = HostSection(uri=uri, state=str(state), virt_type="qemu")
        self.guest_dir = guest_dir
        self.state = state
        self.config = Config(host=host, **{"guest": GuestSection(config_drive=False), **sections})
        self.driver = LibvirtDriver(config=self.config)
        self.driver.init_host("here")
        self._made: list[Instance] = []

    def reopened(self, **sections: Any) -> LibvirtDriver:
        """Another driver on the same state, as after a restart with another configuration."""
        return LibvirtDriver(config=replace(self.config, **sections))

    def image(self, file: str = "tiny.qcow2", **options: Any) -> Image:
        return self.driver.pull_image(str(self.guest_dir / file), name=f"image-{uuid.uuid4()}", **options)

    def instance(self, image: Image, *, flavor: Flavor | None = None, **fields: Any) -> Instance:
        identity = str(uuid.uuid4())
        made = Instance(
            uuid=identity,
            name=fields.pop("name", f"driver-{identity[:8]}"),
            flavor=flavor or Flavor(vcpus=1, memory=160 * MiB),
            image_ref=image.id,
            host="here",
            **fields,
        )
        self._made.append(made)
        return made

    def start(self, instance: Instance, image: Image, *, vifs: list[Vif] | None = None, disks: Any = None) -> Instance:
        self.driver.spawn(None, instance, image, [], None, network_info=vifs or [], block_device_info=disks)
        return instance

    def spawn(self, image: Image, *, vifs: list[Vif] | None = None, disks: Any = None, **fields: Any) -> Instance:
        return self.start(self.instance(image, **fields), image, vifs=vifs, disks=disks)

    def log(self, instance: Instance) -> str:
        path = self.driver.console_log_path(instance)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, instance: Instance, pattern: str, timeout: float = 120) -> str:
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.log(instance))) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.log(instance)[-3000:]}"
            time.sleep(0.1)
        return found.group()

    def wait_for_agent(self, instance: Instance, timeout: float = 120) -> None:
        """The guest says that it has started one a moment before that answers."""
        deadline = time.monotonic() + timeout
        while not self.driver.agent_answers(instance):
            assert time.monotonic() < deadline, f"no agent answers:\n{self.log(instance)[-3000:]}"
            time.sleep(0.1)

    def state_of(self, instance: Instance) -> PowerState:
        return self.driver.get_info(instance).state

    def assert_nothing_left(self, instance: Instance) -> None:
        assert not self.driver.instance_exists(instance)
        assert not list((self.state / "instances").glob(f"{instance.uuid}*"))
        assert not self.driver.instance_on_disk(instance)

    def made(self) -> int:
        """How many instances."""
        return len(self._made)

    def end(self, kept: int = 0) -> None:
        """Destroy all but the first ``kept``."""
        while self.made() > kept:
            instance = self._made[-1]
            self.driver.destroy(None, instance, [])
            assert not self.driver.instance_exists(instance)
            self._made.pop()

    def close(self) -> None:
        self.end()
        assert not list((self.state / "instances").glob("*"))
        self.driver.cleanup_host("here")


@contextmanager
def machines(uri: str, guest_dir: Path, state: Path | None = None, **sections: Any) -> Iterator[Machines]:
    """Not below pytest's own directory, where a QEMU of another user could not enter."""
    place = state or Path(tempfile.mkdtemp(prefix="cowshed-driver-", dir="/tmp"))
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    made = Machines(uri, guest_dir, place, **sections)
    OPEN.append(made)
    try:
        yield made
    finally:
        OPEN.remove(made)
        try:
            made.close()
        finally:
            if state is None:
                shutil.rmtree(place, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forwarded(host_port: int, guest_port: int = 80) -> list[Vif]:
    return [Vif("user", MAC, forwards=(PortForward(host_port, guest_port),))]
