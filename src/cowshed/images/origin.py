"""Of which stored bytes a base was made: noted when it is made, compared whenever it is used."""

from __future__ import annotations

from cowshed.model.image import Image
from cowshed.tools import checksum


def source_digest(image: Image, digest: str) -> str:
    """What a base notes: ``<algorithm>:<hex>`` over the stored bytes of ``image``."""
    return f"{image.os_hash_algo or 'sha256'}:{digest}"


def check(what: str, image: Image, noted: str) -> None:
    """A base that is there already keeps the promise of the digest too.

    :param what: the base, for the error
    :param noted: its :func:`source_digest`; in another algorithm or missing, nothing can be said
    :raises DigestMismatch: it was made from other bytes than the image's record names now
    """
    algorithm, _, actual = noted.partition(":")
    if image.os_hash_value and algorithm == (image.os_hash_algo or "sha256"):
        checksum.check(f"{what} of image {image.name or image.id}", algorithm, image.os_hash_value, actual)
