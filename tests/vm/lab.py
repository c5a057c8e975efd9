"""The system's libvirt in namespaces of its own, for tests that need root, bridges and taps: nothing of the host is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.vm import apart

# The daemon, and the rest of the work after it.
_DAEMON = r"""
libvirtd -f "$place/conf/libvirtd.conf" >"$place/libvirtd.log" 2>&1 &
daemon=$!
trap 'virsh -q -c qemu:///system net-destroy lab >/dev/null 2>&1 || true; kill $daemon; wait $daemon' EXIT
for _ in $(seq 100); do virsh -q -c qemu:///system uri >/dev/null 2>&1 && break; sleep 0.2; done
cat >"$place/lab.xml" <<X
<network><name>lab</name><bridge name='cowlab0'/>
<ip address='192.168.199.1' netmask='255.255.255.0'><dhcp><range start='192.168.199.10' end='192.168.199.20'/></dhcp></ip>
</network>
X
virsh -q -c qemu:///system net-define "$place/lab.xml" >/dev/null
"""


def folder() -> AbstractContextManager[Path]:
    """Where everything of one lab is kept."""
    return apart.folder("cowshed-net-")


def work(place: Path, script: str, *, timeout: float, image: Path, tools: tuple[str, ...] = ()) -> str:
    """Run ``script`` (bash, which sees $place, $python and $image) beside the daemon; returns what it printed.

    It has the network ``lab`` (idle), no bridge, and everything it leaves behind is gone with it.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: a network namespace with a libvirt daemon of its own")
    for tool in ("libvirtd", "dnsmasq", "ip", "virsh", "unshare", *tools):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: see scripts/packages.sh test")
    environment = {
        **os.environ,
        "COWSHED_CONFIG": os.devnull,
        "COWSHED_HOST_STATE": str(place / "state"),
        "COWSHED_HOST_VIRT_TYPE": "qemu",
    }
    done = subprocess.run(
        [
            *apart.UNSHARE,
            "bash",
            "-c",
            f'{apart.NAMESPACE}{_DAEMON}\npython="{sys.executable}" image="{image}"\n{script}',
            "net",
            str(place),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{(place / 'libvirtd.log').read_text()[-2000:]}"
    return done.stdout
