"""One word, as people write it, into a share: ``DIRECTORY[:TAG][:ro]`` or ``nfs://SERVER/EXPORT[:TAG][:ro]``."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

from cowshed.errors import InvalidRequest
from cowshed.model.share import Share, ShareProtocol

NFS: Final = "nfs://"
_MODES: Final = {"ro": True, "rw": False}


def parse(text: str) -> Share:
    """A directory may be relative to the current one; its tag is its name where none is given.

    :raises InvalidRequest: it is no such word
    """
    words = text.removeprefix(NFS).split(":")
    read_only = _MODES[words.pop()] if len(words) > 1 and words[-1] in _MODES else False
    tag = words.pop() if len(words) > 1 else ""
    place = ":".join(words)
    if not place:
        raise InvalidRequest(reason=f"{text!r} names no directory", hint="for example --share /srv/data:data:ro")
    return nfs(place, tag, read_only) if text.startswith(NFS) else local(place, tag, read_only)


def local(place: str, tag: str = "", read_only: bool = False) -> Share:
    """What it is known by follows from where it is, links on the way resolved."""
    path = os.path.realpath(os.path.abspath(os.path.expanduser(place)))
    return Share(_identity(ShareProtocol.LOCAL, path), _tag(tag, path), path, read_only=read_only)


def nfs(place: str, tag: str = "", read_only: bool = False) -> Share:
    server, slash, export = place.partition("/")
    if not server or not slash:
        raise InvalidRequest(reason=f"{NFS}{place} names no export", hint=f"for example {NFS}server/export")
    source = f"{server}:/{export}"
    return Share(_identity(ShareProtocol.NFS, source), _tag(tag, export), source, ShareProtocol.NFS, read_only)


def _identity(protocol: ShareProtocol, source: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{protocol}:{source}"))


def _tag(tag: str, place: str) -> str:
    if found := tag or Path(place).name:
        return found
    raise InvalidRequest(reason=f"{place or '/'} has no name that could be its tag", hint="give one: DIRECTORY:TAG")
