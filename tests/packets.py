"""Ethernet frames made and read by hand, and devices of a network namespace to send and receive them on."""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import select
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TAP_NO_PI = 0x0002 | 0x1000
BROADCAST = "ff:ff:ff:ff:ff:ff"
_libc = ctypes.CDLL(None, use_errno=True)


# --- frames -----------------------------------------------------------------------------------------


def mac(text: str) -> bytes:
    return bytes(int(octet, 16) for octet in text.split(":"))


def ether(source: str, target: str, kind: int, payload: bytes, *, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    return mac(target) + mac(source) + tag + struct.pack("!H", kind) + payload.ljust(46, b"\0")


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: str, target: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    """IPv4 or IPv6, by the addresses. ``fragment``: offset in units of 8 bytes."""
    one, two = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if one.version == 6:
        if fragment:
            payload = struct.pack("!BBHI", protocol, 0, fragment << 3, 7) + payload
            protocol = 44
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + one.packed + two.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0) + one.packed + two.packed
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + payload


def udp(source: int, target: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(data), 0) + data


def tcp(source: int, target: int, data: bytes, *, flags: int = 0x10) -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, 1, 1, 5 << 4, flags, 1000, 0, 0) + data


def icmp(kind: int, data: bytes, code: int = 0) -> bytes:
    return struct.pack("!BBHHH", kind, code, 0, 7, 1) + data


def arp(source: str, address: str, asked: str, *, sender: str = "") -> bytes:
    """Who has ``asked``? ``sender``: the MAC address that the question itself names."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac(sender or source) + ipaddress.ip_address(address).packed
    return ether(source, BROADCAST, 0x0806, head + bytes(6) + ipaddress.ip_address(asked).packed)


def neighbour(kind: int, target: str) -> bytes:
    """ICMPv6 135 solicitation, 136 advertisement of ``target``."""
    return struct.pack("!BBHI", kind, 0, 0, 0) + ipaddress.ip_address(target).packed


# --- devices ----------------------------------------------------------------------------------------


def sh(command: str) -> None:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@contextmanager
def namespace() -> Iterator[None]:
    """This thread, and the processes it starts, in a network namespace of their own."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        yield
    finally:
        if _libc.setns(here, _NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(here)


class Port:
    """One end: frames that are sent appear as if the machine behind the device had sent them."""

    def __init__(self, fd: int, *, header: int = 0) -> None:
        self.fd = fd
        self._header = header  # bytes of virtio's before each frame

    def send(self, frame: bytes) -> None:
        os.write(self.fd, bytes(self._header) + frame)

    def receive(self, until: bytes, timeout: float = 20) -> list[bytes]:
        """Everything up to the first frame that has ``until`` in it."""
        found: list[bytes] = []
        deadline = time.monotonic() + timeout
        while not (found and until in found[-1]):
            assert select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0], f"no {until!r} in {found}"
            found.append(os.read(self.fd, 70000)[self._header :])
        return found

    def close(self) -> None:
        os.close(self.fd)


def tap(name: str) -> Port:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_NO_PI))
    return Port(fd)


def packet_socket(name: str) -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    found.bind((name, 0))
    return found


@contextmanager
def sysfs() -> Iterator[Path]:
    """/sys/class/net as this thread's namespace has it."""
    with tempfile.TemporaryDirectory() as folder:
        sh(f"mount -t sysfs sysfs {folder}")
        try:
            yield Path(folder, "class/net")
        finally:
            sh(f"umount {folder}")


def macvtap(name: str) -> Port:
    """The character device of a macvtap device of this namespace."""
    with sysfs() as devices:
        (place,) = (devices / name / "macvtap").iterdir()
        major, minor = (place / "dev").read_text().strip().split(":")
    with tempfile.TemporaryDirectory() as folder:
        node = Path(folder, "node")
        os.mknod(node, 0o600 | 0o020000, os.makedev(int(major), int(minor)))
        fd = os.open(node, os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"", _TAP_NO_PI))
    return Port(fd)
