"""Pulling over TLS: certificates are checked against the system's authorities, and nothing leads out of TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from cowshed.config import ImagesSection
from cowshed.errors import FetchFailed
from cowshed.images.directory import DirectoryService
from cowshed.images.pull import pull
from tests.images_server import cut, file, redirect, serving

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates"),
]

DATA = b"\x42" * 5_000_000


def certificate(place: Path, *, days: int = 2) -> ssl.SSLContext:
    """A server's context with a certificate of its own for the address 127.0.0.1."""
    key, request, cert = place / "key.pem", place / "request.pem", place / "cert.pem"
    ask = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=test"]
    openssl(*ask, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", request)
    sign = ["x509", "-req", "-in", request, "-signkey", key, "-copy_extensions", "copy", "-out", cert]
    openssl(*sign, "-days", str(days))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def service(tmp_path: Path) -> DirectoryService:
    return DirectoryService(tmp_path / "images", ImagesSection(retries=1, read_timeout=5))


def trust(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(place / "cert.pem"))


def test_a_trusted_server(service: DirectoryService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = certificate(tmp_path)
    trust(monkeypatch, tmp_path)
    with serving(cut(DATA, 1_000_000), file(DATA), tls=context) as server:
        image = pull(service, server.url + "/a.raw")
    assert service.local_path(image).read_bytes() == DATA
    assert server.requests[1].start > 0


def test_an_unknown_authority(service: DirectoryService, tmp_path: Path) -> None:
    with serving(file(DATA), tls=certificate(tmp_path)) as server:
        with pytest.raises(FetchFailed, match="certificate is not valid: self-signed"):
            pull(service, server.url + "/a.raw")
        assert server.requests == []


def test_another_name(service: DirectoryService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = certificate(tmp_path)
    trust(monkeypatch, tmp_path)
    with serving(file(DATA), host="127.0.0.2", tls=context) as server:
        with pytest.raises(FetchFailed, match="certificate is not valid: IP address mismatch"):
            pull(service, server.url + "/a.raw")
        assert server.requests == []


def test_an_expired_certificate(service: DirectoryService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = certificate(tmp_path, days=-1)
    trust(monkeypatch, tmp_path)
    with serving(file(DATA), tls=context) as server, pytest.raises(FetchFailed, match="certificate has expired"):
        pull(service, server.url + "/a.raw")


def test_a_redirect_out_of_tls(service: DirectoryService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = certificate(tmp_path)
    trust(monkeypatch, tmp_path)
    with serving(file(DATA)) as plain, serving(redirect(plain.url + "/a.raw"), tls=context) as server:
        with pytest.raises(FetchFailed, match="a redirect from https to http://"):
            pull(service, server.url + "/a.raw")
        assert plain.requests == []


def test_a_server_without_tls(service: DirectoryService) -> None:
    with serving(file(DATA)) as server, pytest.raises(FetchFailed, match="does not speak TLS"):
        pull(service, server.url.replace("http:", "https:") + "/a.raw")
