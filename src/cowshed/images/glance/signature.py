"""Signatures of images, as Glance's clients make them (img_signature and its kin).

Base64 of a signature over the stored bytes, by the key of a certificate that is named by an id. The certificates we
trust lie in a directory under those ids. https://docs.openstack.org/glance/latest/user/signature.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
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
_KINDS: Final = ("RSA-PSS", "DSA", "ECC_")  # the last with the name of a curve
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Verifier:
    """Fed with the stored bytes in order; :meth:`finish` tells whether the right key signed them."""

    def __init__(self, image: Image, section: GlanceSection) -> None:
        """:raises ImageRejected: there is no usable signature, or nobody trusted made it"""
        self._image = image.name or image.id
        missing = [name for name in PROPERTIES if not image.properties.get(name)]
        if len(missing) == len(PROPERTIES):
            raise self._refused(
                "it has no signature", hint=f"[glance] signatures = {section.signatures} asks for one: have it signed"
            )
        if missing:
            raise self._refused(f"its signature is incomplete: there is no {', no '.join(missing)}")
        signature, method, self._kind, self._name = (image.properties[name] for name in PROPERTIES)
        if method not in _HASHES:
            raise self._unknown("over a digest of type", method, _HASHES)
        if self._family not in _KINDS:
            raise self._unknown("of type", self._kind, (*_KINDS[:-1], f"{_KINDS[-1]}..."))
        try:
            self._signature = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._refused(f"its img_signature is not base64: {error}") from error
        self._key = self._key_of(self._trusted(section))
        self._digest = Digest(_HASHES[method])

    @property
    def _family(self) -> str:
        return "ECC_" if self._kind.startswith("ECC_") else self._kind

    def _refused(self, reason: str, *, hint: str | None = None) -> ImageRejected:
        return ImageRejected(image=self._image, reason=reason, hint=hint)

    def _unknown(self, what: str, found: str, known: Iterable[str]) -> ImageRejected:
        return self._refused(f"its signature is {what} {found!r}; those that are checked are {', '.join(known)}")

    def _trusted(self, section: GlanceSection) -> Certificate:
        from cryptography import x509

        if not section.certificates:
            raise ConfigError(
                source="[glance]",
                reason="signatures are to be checked, but no certificates are named",
                hint="[glance] certificates is the directory of those that are trusted",
            )
        name, folder = self._name, Path(section.certificates)
        if not _ID.fullmatch(name):
            raise self._refused(f"it is signed under certificate {name!r}, which cannot be the name of one")
        path = folder / f"{name}.pem"
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except FileNotFoundError:
            raise self._refused(
                f"it is signed under certificate {name}, which is not among the trusted ones",
                hint=f"if you trust it, put it into {folder} as {name}.pem",
            ) from None
        except OSError as error:
            raise ConfigError(source=path, reason=f"it cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(source=path, reason=f"it is not a certificate in PEM: {error}") from error
        first, last = found.not_valid_before_utc, found.not_valid_after_utc
        if not first.timestamp() <= clock.current().time() <= last.timestamp():
            raise self._refused(
                f"it is signed under certificate {name}, which is not valid now, but from {first:%Y-%m-%d} to {last:%Y-%m-%d}",
                hint="see that the host's clock is right; else it must be signed anew, under a renewed certificate",
            )
        return found

    def _key_of(self, certificate: Certificate) -> Any:
        """Of the kind that the signature is said to be of."""
        from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

        key = certificate.public_key()
        kinds = (rsa.RSAPublicKey, dsa.DSAPublicKey, ec.EllipticCurvePublicKey)
        if not isinstance(key, kinds[_KINDS.index(self._family)]):
            raise self._refused(
                f"its signature is of type {self._kind}, and the key of certificate {self._name} is not"
            )
        return key

    def update(self, data: bytes) -> None:
        self._digest.update(data)

    def finish(self) -> None:
        """:raises ImageRejected: the bytes are not those that were signed"""
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

        algorithm = self._digest.algorithm
        digest = bytes.fromhex(self._digest.result())
        try:
            self._verify(digest, algorithm)
        except InvalidSignature as error:
            raise self._refused(
                f"its signature is not valid: the key of certificate {self._name} did not sign these bytes",
                hint="it was changed after it was signed, or signed with another key: ask who signed it",
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self._refused(f"its signature cannot be checked with certificate {self._name}: {error}") from error

    def _verify(self, digest: bytes, algorithm: str) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

        method: Any = getattr(hashes, algorithm.upper())()
        hashed = utils.Prehashed(method)
        if isinstance(self._key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(method), padding.PSS.AUTO)
            self._key.verify(self._signature, digest, pss, hashed)
        elif isinstance(self._key, ec.EllipticCurvePublicKey):
            self._key.verify(self._signature, digest, ec.ECDSA(hashed))
        else:
            self._key.verify(self._signature, digest, hashed)

    def close(self) -> None:
        self._digest.close()


def verifier(image: Image, section: GlanceSection) -> Verifier | None:
    """What the configuration asks for. :raises ImageRejected: a signature is required"""
    carries = any(name in image.properties for name in PROPERTIES)
    if section.signatures == "off" or (section.signatures == "present" and not carries):
        return None
    return Verifier(image, section)


assert set(_HASHES.values()) <= hashlib.algorithms_guaranteed
