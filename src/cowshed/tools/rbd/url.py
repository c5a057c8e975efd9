"""Names of images: ``pool[/namespace]/image``, and the URLs by which image services name snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from cowshed.errors import InvalidRequest

SCHEME = "rbd://"


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image in a cluster. ``str()`` is what ``rbd`` and QEMU call it."""

    pool: str
    image: str
    namespace: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.pool, self.namespace, self.image) if part)

    @classmethod
    def parse(cls, text: str) -> ImageSpec:
        """:raises InvalidRequest: it is not ``pool/image`` or ``pool/namespace/image``"""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise InvalidRequest(reason=f"{text!r} is not the name of an RBD image", hint="pool[/namespace]/image")
        return cls(parts[0], parts[-1], parts[1] if len(parts) == 3 else "")


@dataclass(frozen=True, slots=True)
class Url:
    """A snapshot of an image in a known cluster, as image services write it."""

    fsid: str
    spec: ImageSpec
    snapshot: str

    def __str__(self) -> str:
        parts = (self.fsid, self.spec.pool, self.spec.namespace, self.spec.image, self.snapshot)
        return SCHEME + "/".join(quote(part, safe="") for part in parts if part)


def parse_url(url: str) -> Url:
    """``rbd://fsid/pool[/namespace]/image/snapshot``, percent-encoded.

    :raises InvalidRequest: it is something else
    """
    if not url.startswith(SCHEME):
        raise InvalidRequest(reason=f"{url!r} is not in a Ceph cluster: it does not begin with {SCHEME}")
    parts = [unquote(part) for part in url[len(SCHEME) :].split("/")]
    if len(parts) not in (4, 5):
        raise InvalidRequest(reason=f"{url!r} does not name a cluster, a pool, an image and a snapshot")
    if not all(part.strip() for part in parts):
        raise InvalidRequest(reason=f"{url!r} has an empty part")
    fsid, pool, *namespace, image, snapshot = parts
    return Url(fsid, ImageSpec(pool, image, namespace[0] if namespace else ""), snapshot)
