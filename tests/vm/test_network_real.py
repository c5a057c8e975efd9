"""A libvirt network and a bridge, for real: the system's daemon in a network namespace, nothing of the host touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
mount --rbind "$place/dev" /dev
mount --bind "$place/run" /run
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

# The network is idle: running an instance on it starts it.
_WORK = r"""
cowshed() { "$python" -m cowshed.cli --connect qemu:///system "$@"; }
ip link add cowbr0 type bridge
ip link set cowbr0 up
! cowshed run "$image" --name lost --network labs 2>"$place/missing" || exit 3
! cowshed run "$image" --name lost --network bridge:cowbr1 2>"$place/no-bridge" || exit 3
virsh -q -c qemu:///system net-list --all >"$place/before"
cowshed run "$image" --name one --memory 160M --network lab --network bridge:cowbr0 \
    --wait 'log: 192.168.199.' --timeout 150s
virsh -q -c qemu:///system net-list --all >"$place/after"
ip -o link show master cowlab0 >"$place/ports"
ip -o link show master cowbr0 >"$place/bridge-ports"
cowshed rm --yes one
ip -o link show master cowlab0 >"$place/left"
ip -o link show master cowbr0 >>"$place/left"
cowshed ls -o json >"$place/instances"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cowshed-net-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_guest_on_a_network_and_on_a_bridge(place: Path, guest_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a network namespace with a libvirt daemon of its own")
    for tool in ("libvirtd", "dnsmasq", "ip", "virsh", "unshare"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: see scripts/packages.sh test")
    script = f'{_NAMESPACE}\npython="{sys.executable}" image="{guest_dir}/tiny.qcow2"\n{_WORK}'
    environment = {
        **os.environ,
        "COWSHED_CONFIG": os.devnull,
        "COWSHED_HOST_STATE": str(place / "state"),
        "COWSHED_HOST_VIRT_TYPE": "qemu",
    }
    done = subprocess.run(
        [*_APART, "bash", "-c", script, "net", str(place)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=220,
        env=environment,
        check=False,
    )
    said = f"{done.stdout}\n{done.stderr}\n{(place / 'libvirtd.log').read_text()[-2000:]}"
    assert done.returncode == 0, said
    assert "network labs does not exist" in (place / "missing").read_text()
    assert "lab" in (place / "missing").read_text().replace("labs", "")  # the hint names what there is
    assert "bridge cowbr1 does not exist" in (place / "no-bridge").read_text()
    assert "cowbr0" in (place / "no-bridge").read_text()  # the hint
    assert "inactive" in (place / "before").read_text()
    assert " active" in (place / "after").read_text()
    for ports in ("ports", "bridge-ports"):
        assert "vnet" in (place / ports).read_text(), "the guest's tap device is a port of the bridge"
    assert not (place / "left").read_text(), "no tap device is left"
    assert '"instances": []' in (place / "instances").read_text()
