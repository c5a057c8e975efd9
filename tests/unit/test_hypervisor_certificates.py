"""Where libvirt's QEMU has its certificates for migration."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.hypervisor import certificates
from cowshed.hypervisor.certificates import OF_SOURCE, OF_TARGET


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('migrate_tls_x509_cert_dir = "/one"\ndefault_tls_x509_cert_dir = "/two"\n', "/one"),
        ('  default_tls_x509_cert_dir="/two" # ours\n', "/two"),
        ('#migrate_tls_x509_cert_dir = "/one"\n', "/etc/pki/qemu"),
    ],
)
def test_as_qemu_conf_says(tmp_path: Path, said: str, expected: str) -> None:
    conf = tmp_path / "qemu.conf"
    conf.write_text(said)
    assert certificates.directory("", conf) == Path(expected)
    assert certificates.directory("/mine", conf) == Path("/mine")


def test_without_qemu_conf_the_usual_place(tmp_path: Path) -> None:
    assert certificates.directory("", tmp_path / "absent") == Path("/etc/pki/qemu")


def test_what_may_not_be_read_is_not_judged(tmp_path: Path) -> None:
    assert certificates.directory("", tmp_path) is None  # a directory in place of the file
    assert certificates.missing(None, OF_TARGET) == []


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca-cert.pem").touch()
    assert certificates.missing(tmp_path, OF_SOURCE) == []
    assert certificates.missing(tmp_path, OF_TARGET) == [tmp_path / "server-cert.pem", tmp_path / "server-key.pem"]
