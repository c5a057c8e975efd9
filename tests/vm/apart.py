"""A libvirt of the system kind in namespaces of its own: what the lab and the two hosts share. Needs root."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Processes are apart as well: none outlives the test, however it ends, and the QEMUs that libvirt asks what they can
# do are reaped at once (it waits until each is gone, which takes a slow init of a container 15 s and more).
UNSHARE = ["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "--propagation", "private"]

# For bash, inside: $1 is a directory for everything the daemon keeps; it is configured afterwards, and not started.
NAMESPACE = r"""
set -e
place=$1
mkdir -p "$place"/{run,lib,cache,log,conf/qemu}
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
mkdir -p /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind "$place/lib" /var/lib/libvirt
mount --bind "$place/cache" /var/cache/libvirt
mount --bind "$place/log" /var/log/libvirt
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
"""


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """Where everything is kept; not below pytest's directory, where another user's QEMU could not enter."""
    place = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
