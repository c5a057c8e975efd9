"""The system's libvirt in namespaces of its own, for tests that need root, bridges and taps: nothing of the host is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Processes are apart as well: none outlives the test, however it ends, and the QEMUs that libvirt asks what they can
# do are reaped at once (it waits until each is gone, which takes a slow init of a container 15 s and more).
_APART = ["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "--propagation", "private"]

# $1: a directory for everything the daemon keeps, $2: the rest of the work.
_NAMESPACE = r"""
set -e
place=$1
mkdir -p "$place"/{run,lib,cache,conf/qemu}
# No /dev/kvm, which may be one that runs no guests. Something else in its place would not do: what libvirt knows of QEMU
# is out of date for it then, and it starts and asks QEMU anew at each look.
mkdir "$place/dev"
mount -t tmpfs -o mode=755 tmpfs "$place/dev"
mkdir "$place"/dev/{net,pts,shm}
for node in null zero full random urandom tty net/tun; do
    [ -e /dev/$node ] || continue
    touch "$place/dev/$node"
    mount --bind /dev/$node "$place/dev/$node"
done
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$place/dev/pts"
ln -s pts/ptmx "$place/dev/ptmx"
ln -s /proc/self/fd "$place/dev/fd"
ln -s fd/0 "$place/dev/stdin"
mount --rbind "$place/dev" /dev
mount --bind "$place/run" /run
mkdir -p /run/lock  # for consoles
mkdir -p /var/lib/libvirt /var/cache/libvirt
mount --bind "$place/lib" /var/lib/libvirt
mount --bind "$place/cache" /var/cache/libvirt
mount --bind "$place/conf" /etc/libvirt
# The daemon wants the user of Debian's libvirt-daemon-system, whatever qemu.conf says: where there is none, one of our own.
for list in passwd group; do
    ! getent $list libvirt-qemu >/dev/null || continue
    cp /etc/$list "$place/$list"
    mount --bind "$place/$list" /etc/$list
done
getent passwd libvirt-qemu >/dev/null || echo libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin >>/etc/passwd
getent group libvirt-qemu >/dev/null || echo libvirt-qemu:x:64055: >>/etc/group
mount -t sysfs sysfs /sys  # which network namespace it shows is decided when it is mounted
ip link set lo up
cat >"$place/conf/libvirtd.conf" <<X
listen_tls = 0
auth_unix_rw = "none"
X
cat >"$place/conf/qemu.conf" <<X
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
X
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


@contextmanager
def folder() -> Iterator[Path]:
    """Where everything of one lab is kept; not below pytest's directory, where another user's QEMU could not enter."""
    place = Path(tempfile.mkdtemp(prefix="cowshed-net-", dir="/tmp"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


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
            *_APART,
            "bash",
            "-c",
            f'{_NAMESPACE}\npython="{sys.executable}" image="{image}"\n{script}',
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
