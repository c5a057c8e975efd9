"""What may be shared with a guest, and under which name. Nothing on the host is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cowshed.errors import Conflict, InvalidRequest, NameTaken, NotFound, PermissionDenied, UnsupportedOperation
from cowshed.model.share import Share, ShareProtocol

TAG: Final = 36  # bytes that a virtiofs device has for its tag
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EXPORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):/[^\s,\\]*")
# virtiofsd reads its options as words between commas, and a backslash as the beginning of an escape.
_UNSPEAKABLE: Final = re.compile(r"[,\\\x00-\x1f\x7f]")


def check(shares: Sequence[Share], *, private: Path) -> None:
    """Can an instance have these together?

    :param private: cowshed's own directory, whose content is nobody's share
    :raises InvalidRequest: :raises NotFound: :raises PermissionDenied: :raises Conflict: :raises UnsupportedOperation:
    :raises NameTaken: two have the same tag, or the same directory
    """
    for share in shares:
        _check_words(share)
        if share.protocol == ShareProtocol.LOCAL:
            check_directory(share, private=private)
        elif share.protocol == ShareProtocol.NFS:
            _check_export(share)
        else:
            raise UnsupportedOperation(
                subject="this host",
                operation=f"share {share.source}",
                reason="file systems of Ceph are not mounted here",
                hint="mount it on this host, and share the directory",
            )
    _check_double(shares)


def _check_words(share: Share) -> None:
    if not _ID.fullmatch(share.id):
        raise InvalidRequest(reason=f"{share.id!r} cannot name a share", hint="use letters, digits, - and _")
    size = len(share.tag.encode(errors="surrogateescape"))
    if not 1 <= size <= TAG:
        reason = f"the tag {share.tag!r} has {size} bytes, and there is room for {TAG}" if size else "the tag is empty"
        raise InvalidRequest(reason=reason, hint="choose a short word: DIRECTORY:TAG")
    if not share.tag.isprintable() or any(letter.isspace() for letter in share.tag):
        raise InvalidRequest(
            reason=f"the tag {share.tag!r} has spaces or characters that cannot be printed",
            hint="choose a short word: DIRECTORY:TAG",
        )


def check_directory(share: Share, *, private: Path) -> None:
    """Is there a directory that we may read?"""
    path = Path(share.source)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidRequest(reason=f"{share.source} is not an absolute path", hint="a share begins with /")
    if _UNSPEAKABLE.search(share.source):
        raise InvalidRequest(
            reason=f"{share.source!r} cannot be shared: virtiofsd reads commas, backslashes and control characters in "
            "the name of a directory as something else",
            hint="rename it, or bind it to another place (mount --bind)",
        )
    try:
        if not path.is_dir():
            path.stat()
            raise InvalidRequest(reason=f"{path} is not a directory", hint="share the directory that it is in")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(kind="directory", name=path) from None
    except PermissionError:
        raise PermissionDenied(action="enter", path=path) from None
    if not os.access(path, os.R_OK | os.X_OK):
        raise PermissionDenied(action="read", path=path, hint="the guest sees what you may see")
    if path.resolve().is_relative_to(private.resolve()):
        raise Conflict(reason=f"{path} belongs to cowshed itself", hint=f"share a directory outside {private}")


def _check_export(share: Share) -> None:
    if not _EXPORT.fullmatch(share.source) or ".." in share.source.split("/"):
        raise InvalidRequest(
            reason=f"{share.source!r} is not an NFS export", hint="for example nfs.example.org:/export"
        )


def _check_double(shares: Sequence[Share]) -> None:
    for what, values in (("tag", [one.tag for one in shares]), ("share", [one.id for one in shares])):
        if double := sorted({one for one in values if values.count(one) > 1}):
            raise NameTaken(kind=what, name=double[0], hint="each share of an instance has a tag of its own")
