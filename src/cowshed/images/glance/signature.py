"""Signatures of images, as Glance's clients make them (img_signature and its kin).

Base64 of a signature over the stored bytes, by the key of a certificate that is named by an id. The certificates we
trust lie in a directory under those ids. https://docs.openstack.org/glance/latest/user/signature.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed import clock
from cowshed.config import GlanceSection
from cowshed.errors import ConfigError, ImageRejected
from cowshed.images.intake import Digest
from cowshed.model.image import Image

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PROPERTIES: Final = (
    "img_signature",
    "img_signature_hash_method",
    "img_signature_key_type",
    "img_signature_certificate_uuid",
)
_HASHES: Final = {"SHA-224": "sha224", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Verifier:
    """Fed with the stored bytes in order; :meth:`finish` tells whether the right key signed them."""

    def __init__(self, image: Image, section: GlanceSection) -> None:
        """:raises ImageRejected: there is no usable signature, or nobody trusted made it"""
        self._image = image.name or image.id
        values = [image.properties.get(name, "") for name in PROPERTIES]
        if not all(values):
            missing = ", ".join(name for name, value in zip(PROPERTIES, values, strict=True) if not value)
            raise self._refused(f"it has no signature (no {missing})")
        signature, method, self._kind, certificate = values
        if method not in _HASHES:
            raise self._refused(f"its signature is over a digest of type {method!r}")
        try:
            self._signature = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._refused(f"its signature is not base64: {error}") from error
        self._key = self._trusted(certificate, section).public_key()
        self._digest = Digest(_HASHES[method])

    def _refused(self, reason: str) -> ImageRejected:
        return ImageRejected(image=self._image, reason=reason)

    def _trusted(self, name: str, section: GlanceSection) -> Certificate:
        from cryptography import x509

        if not section.certificates:
            raise ConfigError(source="[glance]", reason="signatures are to be checked, but no certificates are named")
        path = Path(section.certificates) / f"{name}.pem"
        if not _ID.fullmatch(name) or not path.is_file():
            raise self._refused(f"its signature is of certificate {name!r}, which is not trusted")
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(source=path, reason=f"it is not a certificate: {error}") from error
        if (
            not found.not_valid_before_utc.timestamp()
            <= clock.current().time()
            <= found.not_valid_after_utc.timestamp()
        ):
            raise self._refused(f"the certificate {name} of its signature is not valid now")
        return found

    def update(self, data: bytes) -> None:
        self._digest.update(data)

    def finish(self) -> None:
        """:raises ImageRejected: the bytes are not those that were signed"""
        from cryptography.exceptions import InvalidSignature

        algorithm = self._digest.algorithm
        digest = bytes.fromhex(self._digest.result())
        try:
            self._verify(digest, algorithm)
        except InvalidSignature as error:
            raise self._refused("its signature is not valid") from error

    def _verify(self, digest: bytes, algorithm: str) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa, utils

        method: Any = getattr(hashes, algorithm.upper())()
        hashed = utils.Prehashed(method)
        if self._kind == "RSA-PSS" and isinstance(self._key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(method), padding.PSS.AUTO)
            self._key.verify(self._signature, digest, pss, hashed)
        elif self._kind == "DSA" and isinstance(self._key, dsa.DSAPublicKey):
            self._key.verify(self._signature, digest, hashed)
        elif self._kind.startswith("ECC_") and isinstance(self._key, ec.EllipticCurvePublicKey):
            self._key.verify(self._signature, digest, ec.ECDSA(hashed))
        else:
            raise self._refused(f"its signature is of type {self._kind!r}, its certificate's key of another")

    def close(self) -> None:
        self._digest.close()


def verifier(image: Image, section: GlanceSection) -> Verifier | None:
    """What the configuration asks for. :raises ImageRejected: a signature is required"""
    carries = any(name in image.properties for name in PROPERTIES)
    if section.signatures == "off" or (section.signatures == "present" and not carries):
        return None
    return Verifier(image, section)


assert set(_HASHES.values()) <= hashlib.algorithms_guaranteed
