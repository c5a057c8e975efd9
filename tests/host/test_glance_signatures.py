"""Signed images in Glance: only the right bytes under a trusted certificate are read to their end."""

from __future__ import annotations

import base64
import datetime as dt
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa

from cowshed.config import GlanceSection
from cowshed.errors import ConfigError, ImageRejected
from cowshed.images.glance import GlanceService
from cowshed.images.glance.signature import Verifier
from cowshed.model.image import Image
from tests.glance_server import Glance

DATA = bytes(512) + os.urandom(100_000)
NAME = "8f1a3a1e-0000-4000-8000-000000000001"


def certificate(path: Path, key: Any, *, days: int = 10) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "images")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=20))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def pss(key: Any, data: bytes, length: int = padding.PSS.MAX_LENGTH) -> bytes:
    method = hashes.SHA256()
    signed: bytes = key.sign(data, padding.PSS(padding.MGF1(method), length), method)
    return signed


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any, bytes], bytes]]] = {
    "RSA-PSS": (lambda: rsa.generate_private_key(65537, 2048), pss),
    "ECC_SECP384R1": (
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda key, data: key.sign(data, ec.ECDSA(hashes.SHA256())),
    ),
    "DSA": (lambda: dsa.generate_private_key(2048), lambda key, data: key.sign(data, hashes.SHA256())),
}


def signed(kind: str, signature: bytes, **changes: str) -> dict[str, str]:
    return {
        "img_signature": base64.b64encode(signature).decode(),
        "img_signature_hash_method": "SHA-256",
        "img_signature_key_type": kind,
        "img_signature_certificate_uuid": NAME,
    } | changes


@pytest.fixture
def trusting(glance: Glance, tmp_path: Path) -> Iterator[GlanceService]:
    found = GlanceService(glance.section(signatures="required", certificates=str(tmp_path)))
    yield found
    found.close()


@pytest.fixture
def image(service: GlanceService) -> Iterator[Image]:
    found = service.upload(Image(id="", name=f"signed-{os.urandom(4).hex()}"), io.BytesIO(DATA))
    yield found
    service.delete(found.id)


def read(service: GlanceService, image: Image) -> bytes:
    with service.open(image) as stream:
        return stream.read()


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_signature_of_each_kind(trusting: GlanceService, image: Image, tmp_path: Path, kind: str) -> None:
    make, sign = KINDS[kind]
    key = make()
    certificate(tmp_path / f"{NAME}.pem", key)
    good = trusting.update(image.id, {"properties": signed(kind, sign(key, DATA))})
    assert read(trusting, good) == DATA
    trusting.download(good, tmp_path / "target")
    bad = trusting.update(image.id, {"properties": signed(kind, sign(key, DATA[:-1]))})
    with pytest.raises(ImageRejected, match="not valid"):
        read(trusting, bad)
    with pytest.raises(ImageRejected):
        trusting.download(bad, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_last_bytes_of_a_bad_image_are_never_given_out(
    trusting: GlanceService, image: Image, tmp_path: Path
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    certificate(tmp_path / f"{NAME}.pem", key)
    bad = trusting.update(image.id, {"properties": signed("RSA-PSS", pss(key, b"other"))})
    got = b""
    with trusting.open(bad) as stream, pytest.raises(ImageRejected):
        while len(got) < len(DATA):  # without ever reading the end of the stream
            got += stream.read(len(DATA) - len(got))
    assert len(got) < len(DATA)


def test_who_is_not_trusted_signs_nothing(trusting: GlanceService, image: Image, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    certificate(tmp_path / f"{NAME}.pem", rsa.generate_private_key(65537, 2048))
    (tmp_path / "inside.pem").write_bytes((tmp_path / f"{NAME}.pem").read_bytes())
    good = pss(key, DATA)
    for properties in (
        signed("RSA-PSS", good),  # of another key than that certificate's
        signed("RSA-PSS", good, img_signature_certificate_uuid="unknown"),
        signed("RSA-PSS", good, img_signature_certificate_uuid=f"../{tmp_path.name}/inside"),
        signed("DSA", good),
        signed("RSA-PSS", good, img_signature_hash_method="MD5"),
        signed("RSA-PSS", good, img_signature="not base64!"),
        {"img_signature": "AAAA"},
        {},
    ):
        changed = trusting.update(image.id, {"properties": properties})
        with pytest.raises(ImageRejected):
            read(trusting, changed)


def test_an_old_certificate_is_none(trusting: GlanceService, image: Image, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    certificate(tmp_path / f"{NAME}.pem", key, days=-1)
    old = trusting.update(image.id, {"properties": signed("RSA-PSS", pss(key, DATA))})
    with pytest.raises(ImageRejected, match="not valid now"):
        read(trusting, old)


RSA, EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("properties", "reason", "hint"),
    [
        ({}, "it has no signature", "[glance] signatures = required"),
        (
            {"img_signature": "AAAA", "img_signature_key_type": "DSA"},
            "its signature is incomplete: there is no img_signature_hash_method, no img_signature_certificate_uuid",
            "",
        ),
        (
            signed("RSA-PSS", b"x", img_signature_hash_method="MD5"),
            "its signature is over a digest of type 'MD5'; those that are checked are SHA-224, SHA-256, SHA-384, SHA-512",
            "",
        ),
        (signed("RSA-PSS", b"x", img_signature="no!"), "its img_signature is not base64: ", ""),
        (
            signed("PGP", b"x"),
            "its signature is of type 'PGP'; those that are checked are RSA-PSS, DSA, ECC_...",
            "",
        ),
        (
            signed("RSA-PSS", b"x", img_signature_certificate_uuid="of-ec"),
            "its signature is of type RSA-PSS, and the key of certificate of-ec is not",
            "",
        ),
        (
            signed("RSA-PSS", b"x", img_signature_certificate_uuid="unknown"),
            "it is signed under certificate unknown, which is not among the trusted ones",
            "if you trust it, put it into {folder} as unknown.pem",
        ),
        (
            signed("RSA-PSS", b"x", img_signature_certificate_uuid="../x"),
            "it is signed under certificate '../x', which cannot be the name of one",
            "",
        ),
        (
            signed("RSA-PSS", b"x", img_signature_certificate_uuid="old"),
            "it is signed under certificate old, which is not valid now, but from {first} to {last}",
            "a renewed certificate",
        ),
    ],
)
def test_what_is_wrong_with_a_signature_is_said_before_anything_is_read(
    tmp_path: Path, properties: dict[str, str], reason: str, hint: str
) -> None:
    certificate(tmp_path / f"{NAME}.pem", RSA)
    certificate(tmp_path / "of-ec.pem", EC)
    certificate(tmp_path / "old.pem", RSA, days=-1)
    today = dt.datetime.now(dt.UTC).date()
    first, last = (today - dt.timedelta(days=days) for days in (20, 1))
    with pytest.raises(ImageRejected) as caught:
        Verifier(Image("id", "web", properties=properties), section(tmp_path))
    assert f"image web is refused: {reason.format(first=first, last=last)}" in str(caught.value)
    assert hint.format(folder=tmp_path) in (caught.value.hint or "")


def test_bytes_that_others_signed_are_named_so(tmp_path: Path) -> None:
    certificate(tmp_path / f"{NAME}.pem", RSA)
    certificate(tmp_path / "small.pem", rsa.generate_private_key(65537, 1024))
    for name, method in ((NAME, "SHA-256"), ("small", "SHA-512")):
        changes = {"img_signature_certificate_uuid": name, "img_signature_hash_method": method}
        verifier = Verifier(
            Image("id", "web", properties=signed("RSA-PSS", pss(RSA, DATA), **changes)), section(tmp_path)
        )
        verifier.update(DATA[1:])
        with pytest.raises(
            ImageRejected, match=f"signature is not valid: the key of certificate {name} did not sign"
        ) as caught:
            verifier.finish()
        assert "ask who signed it" in str(caught.value.hint)
        verifier.close()


@pytest.mark.parametrize("content", [b"no certificate", None])
def test_a_certificate_that_cannot_be_read_is_for_who_keeps_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / f"{NAME}.pem"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        Verifier(Image("id", "web", properties=signed("RSA-PSS", b"x")), section(tmp_path))
    with pytest.raises(ConfigError) as caught:
        Verifier(Image("id", "web", properties=signed("RSA-PSS", b"x")), GlanceSection(signatures="required"))
    assert "[glance] certificates" in str(caught.value.hint)


def section(certificates: Path) -> GlanceSection:
    return GlanceSection(signatures="required", certificates=str(certificates))


def test_how_much_is_asked_for_is_configured(glance: Glance, image: Image, tmp_path: Path) -> None:
    unsigned, bad = image, None
    for policy, refused in (("off", False), ("present", True)):
        service = GlanceService(glance.section(signatures=policy, certificates=str(tmp_path)))
        bad = service.update(image.id, {"properties": {"img_signature": "AAAA"}})
        assert read(service, unsigned) == DATA
        if refused:
            with pytest.raises(ImageRejected):
                read(service, bad)
        else:
            assert read(service, bad) == DATA
        service.close()
    nobody = GlanceService(glance.section(signatures="required"))
    with pytest.raises(ConfigError, match="certificates"):
        read(nobody, nobody.update(image.id, {"properties": signed("RSA-PSS", b"x")}))
    nobody.close()
