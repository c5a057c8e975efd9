"""Shares of a host's instances, as the library and the command show them; one change of an instance at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cowshed.errors import Conflict, NotFound
from cowshed.manager import listing
from cowshed.manager.records import Record
from cowshed.model.share import Share

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.manager.instances import Instances


def parse(words: Sequence[str]) -> list[Share]:
    """Each is ``DIRECTORY[:TAG][:ro]`` or ``nfs://SERVER/EXPORT[:TAG][:ro]``. :raises InvalidRequest:"""
    from cowshed.shares import spec

    return [spec.parse(word) for word in words]


class Shares:
    """Attach, detach and list. ``ref`` is an instance: name, UUID, or the beginning of one.

    ``share`` is its tag, its directory, or its id.
    """

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances

    def list(self, ref: str = "") -> list[tuple[Record, Share]]:
        """Of one instance, or of all: then one whose shares cannot be told is logged and left out."""
        return listing.of_each(
            self._instances.records, ref, "shares", lambda record: self._driver.shares(record.instance)
        )

    def attach(self, ref: str, spec: str) -> Share:
        """Give an instance a directory; one that runs sees it at once, where it was started with a share.

        :param spec: see :func:`parse`
        :raises NotFound: :raises NameTaken: :raises InvalidRequest: :raises UnsupportedOperation:
        """
        (share,) = parse([spec])
        with self._instances.holding(ref, "given a share") as record:
            self._driver.attach_share(record.instance, share)
            self._note(record, "share attached", f"{share.source} as {share.tag}")
            return next(one for one in self._driver.shares(record.instance) if one.id == share.id)

    def detach(self, ref: str, share: str, *, timeout: float | None = None) -> Share:
        """Take it from the instance, running or not.

        :param timeout: seconds a running guest has to let go of it; None: as configured
        :raises DeadlineExceeded: the guest does not let go; it stays :raises NotFound:
        """
        with self._instances.holding(ref, "deprived of a share") as record:
            found = self._find(record, share)
            self._driver.detach_share(record.instance, found.id, timeout=timeout)
            self._note(record, "share detached", f"{found.source}, which was {found.tag}")
        return found

    def _find(self, record: Record, ref: str) -> Share:
        shares = self._driver.shares(record.instance)
        found = [one for one in shares if one.tag == ref]
        found = found or [one for one in shares if ref in (one.id, one.source) or ref.rstrip("/") == one.source]
        if not found:
            known = ", ".join(f"{one.tag} ({one.source})" for one in shares) or "it has none"
            raise NotFound(kind="share", name=f"{ref} of {record.name}", hint=known)
        if len(found) > 1:
            raise Conflict(reason=f"several shares are meant by {ref}: {', '.join(one.tag for one in found)}")
        return found[0]

    def _note(self, record: Record, event: str, detail: str) -> None:
        self._instances.records.update(record, event, detail)
