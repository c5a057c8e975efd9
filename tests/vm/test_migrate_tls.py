"""Guests go through TLS: memory and disks, with certificates that the test makes."""

from __future__ import annotations

import datetime as dt
import ipaddress
import select
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cowshed.config import GuestSection
from cowshed.disks import manifest
from cowshed.errors import HostUnsuitable, UnsupportedOperation
from cowshed.model.disk import DiskFormat
from cowshed.units import MiB
from tests import packets
from tests.vm.doors import inside
from tests.vm.sides import (
    TICKER,
    Side,
    at_source,
    booted,
    checks,
    go,
    goes_on,
    nothing_at,
    one_guest,
    pair,
    prepared,
    side,
)
from tests.vm.two_hosts import Host

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("moves"), pytest.mark.timeout(300)]

_RCVBUFFORCE = 33  # of socket(7); Python has no name for it
MARK = b"a line that goes over the cable"
# Much of it, so that each way it would go it cannot be missed: split by the edge of a packet, say.
WRITER = TICKER + f"yes '{MARK.decode()}' | dd of=/data/marks bs=64k count=16 iflag=fullblock 2>/dev/null; sync\n"


class Authority:
    """Makes certificates, each for one host, as server and client."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed("authority", self._key.public_key(), authority=True)

    def _signed(
        self, name: str, key: ec.EllipticCurvePublicKey, *, authority: bool = False, address: str = ""
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        usage = dict.fromkeys(
            ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        made = made.add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                key_encipherment=not authority,
                key_cert_sign=authority,
                crl_sign=authority,
                **usage,
            ),
            critical=True,
        )
        if not authority:
            purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
            made = made.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def equip(self, host: Host) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        place = pki(host)
        (place / "ca-cert.pem").write_bytes(self.certificate)
        for kind in ("server", "client"):
            (place / f"{kind}-cert.pem").write_bytes(self._signed(host.name, key.public_key(), address=host.address))
            (place / f"{kind}-key.pem").write_bytes(private)


def pki(host: Host) -> Path:
    return host.place / "pki"


@contextmanager
def overheard(host: Host) -> Iterator[set[int]]:
    """The TCP ports to which the mark goes in plain text over the cable."""
    ports: set[int] = set()
    wire, over = inside(host, lambda: packets.packet_socket("port1")), threading.Event()

    wire.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 * MiB)  # or what comes too fast for us is not heard

    def listen() -> None:
        while not over.is_set():
            if select.select([wire], [], [], 0.1)[0] and MARK in (frame := wire.recv(1 << 17)):
                header = 14 + (frame[14] & 15) * 4  # of Ethernet, and of IPv4
                ports.add(int.from_bytes(frame[header + 2 : header + 4], "big"))

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield ports
    finally:
        over.set()
        thread.join()
        wire.close()


@pytest.fixture
def authority(hosts: tuple[Host, Host]) -> Iterator[Authority]:
    made = Authority()
    for host in hosts:
        made.equip(host)
    yield made
    for host in hosts:
        for path in pki(host).iterdir():
            path.unlink()


@pytest.fixture(scope="module")
def sides(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        made = pair(stack, hosts, guest_dir, "tls", ("images",), tls=True)
        for one in made:
            certificates = {"certificates": str(pki(one.host))}
            one.reconfigure(migration=replace(one.config.migration, **certificates))
        yield made


def test_memory_and_disks_are_sent_in_cipher(
    sides: tuple[Side, Side], hosts: tuple[Host, Host], guest_dir: Path, authority: Authority
) -> None:
    source, target = sides
    instance = booted(source, source.image(), user_data=WRITER, backend="qcow2")
    plain = side(hosts[1], guest_dir, "tls")
    try:
        # What is missing is said before anything begins: at the destination, and here.
        for where, name, word in (
            (hosts[1], "server-key.pem", "the destination"),
            (hosts[0], "ca-cert.pem", "this host"),
        ):
            shutil.move(pki(where) / name, pki(where) / "away")
            with pytest.raises(HostUnsuitable, match=f"{word} has no certificates.*{name}"):
                checks(source, target, instance)
            shutil.move(pki(where) / "away", pki(where) / name)

        # Another authority's: libvirt finds out, and the guest stays.
        Authority().equip(hosts[1])
        calls = go(source, target, instance, prepared(source, target, instance))
        assert calls.made == ["error"] and "certificate" in calls.data["error"]
        at_source(source, target, instance)
        authority.equip(hosts[1])

        with overheard(hosts[0]) as ports:
            calls = go(source, target, instance, prepared(source, target, instance))
        assert calls.made == ["post"], calls.data.get("error")
        print(f"tls: {calls.data['statistics']}")
        assert one_guest(instance, source, target) == [target] and ports == set()
        goes_on(target, instance)
        nothing_at(source, instance)

        # The other way without: memory and disk are seen, so that the ear is proven.
        with overheard(hosts[0]) as ports:
            calls = go(plain, source, instance, prepared(plain, source, instance))
        assert calls.made == ["post"], calls.data.get("error")
        assert len(ports) == 2, ports
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


def test_an_encrypted_disk_goes_under_tls_only(
    sides: tuple[Side, Side], hosts: tuple[Host, Host], guest_dir: Path, authority: Authority
) -> None:
    """Without a config drive: that would be encrypted, too, and nobody can make it again at the destination."""
    source, target = sides
    here = side(hosts[0], guest_dir, "tls", more={"guest": GuestSection(config_drive=False, cpu_mode="qemu64")})
    instance = here.spawn(here.image(), backend="raw", encrypt=True)
    here.wait(instance, "cowshed-guest: up")
    try:
        with pytest.raises(UnsupportedOperation, match="plain text"):
            checks(here, target, instance)
        before = key_of(source, instance.uuid)
        calls = go(source, target, instance, prepared(source, target, instance))
        assert calls.made == ["post"], calls.data.get("error")
        assert one_guest(instance, source, target) == [target]
        nothing_at(source, instance)
        assert key_of(target, instance.uuid) != before  # the key never leaves its host
        sent = target.directory(instance) / "disk"
        assert sent.read_bytes()[:4] == b"LUKS"
        target.driver.power_off(instance)
        clear = hosts[1].place / "clear"
        target.driver.export_disk(instance, clear, format=DiskFormat.RAW, plaintext=True)
        assert b"cowshed-data" in clear.read_bytes() and b"cowshed-data" not in sent.read_bytes()
        clear.unlink()
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


def key_of(side: Side, uuid: str) -> str:
    entry = manifest.find(side.state / "instances" / uuid, "disk")
    assert entry is not None and entry.encryption is not None
    return entry.encryption.key_id
