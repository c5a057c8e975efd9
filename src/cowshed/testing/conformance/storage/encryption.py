"""What every backend that encrypts promises (contract/storage.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from cowshed.contract.storage import Disk, Snapshotting
from cowshed.errors import CowshedError, DiskTooSmall, Interrupted, InvalidRequest, NameTaken, NotFound
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, Encryption
from cowshed.testing.conformance.expect import refuses
from cowshed.testing.conformance.storage.suite import SIZE, StorageSuite
from cowshed.testing.keys import MemoryKeys
from cowshed.units import MiB

MARK = b"nobody but the guest may read this line. "


class EncryptionPromises(StorageSuite):
    """Set, beside what StorageSuite wants:

    * ``keys``: the source of the backend's keys, which holds none;
    * ``blank_is_zero``: what was never written reads as zeros, not as noise.

    Override :meth:`write` and :meth:`stored` for disks that are neither files nor devices of this host.
    """

    keys: MemoryKeys
    blank_is_zero = True

    # --- what a suite for a special place may replace -------------------------------------------

    def write(self, disk: Disk, offset: int, content: bytes) -> None:
        from cowshed.tools import luks
        from cowshed.tools.run import run

        if disk.source().encryption is None:
            return super().write(disk, offset, content)
        disk.activate()
        chain = luks.Chain(disk.source(), self.keys.get)
        payload = self.target()
        payload.write_bytes(content)
        try:
            with luks.handed(chain.keys) as (secret, fds):
                words = ["-c", f"write -s {payload} {offset} {len(content)}", *secret, "--image-opts", chain.options]
                run(["qemu-io", *words], timeout=60, pass_fds=fds)
        finally:
            payload.unlink()
            disk.deactivate()

    def stored(self, disk: Disk) -> bytes:
        """Every byte the storage holds for ``disk``, as somebody who steals it would see them."""
        path = disk.source().path
        assert path is not None
        return path.read_bytes()

    # --- a disk is encrypted --------------------------------------------------------------------

    def test_it_announces_that_it_encrypts(self) -> None:
        assert self.backend.traits.encrypts

    def test_a_plain_disk_has_no_key(self) -> None:
        disk = self.disk()
        disk.create(MiB)
        assert disk.info().encryption is None
        assert disk.source().encryption is None
        assert self.keys.held == {}

    def test_an_encrypted_disk_has_the_content_of_its_base(self) -> None:
        disk = self._encrypted(0)
        assert disk.info().virtual_size == SIZE
        assert self.plain(disk) == self.expected()

    def test_what_is_behind_the_base_belongs_to_the_guest(self) -> None:
        disk = self._encrypted(SIZE + 3 * MiB)
        assert disk.info().virtual_size == SIZE + 3 * MiB
        self._same(self.plain(disk), self.expected(), 3 * MiB)

    def test_a_blank_encrypted_disk_has_its_size(self) -> None:
        disk = self.disk()
        disk.create(4 * MiB, encrypt=True)
        assert disk.info().virtual_size == 4 * MiB
        self._same(self.plain(disk), b"", 4 * MiB)

    def test_how_it_is_encrypted_is_written_down(self) -> None:
        disk = self._encrypted(0)
        encryption = self._encryption(self.backend.disk(disk.instance, disk.name))
        assert encryption.parameters
        assert list(self.keys.held) == [encryption.key_id]
        if seen := disk.source().encryption:  # where QEMU decrypts
            assert seen == encryption

    def test_every_disk_has_a_key_of_its_own(self) -> None:
        first, second = self._encrypted(0), self._encrypted(0)
        assert self._encryption(first).key_id != self._encryption(second).key_id
        assert len(set(self.keys.held.values())) == 2

    def test_what_is_written_is_not_to_be_found_on_storage(self) -> None:
        disk = self._encrypted(SIZE + MiB)
        self.write(disk, SIZE, _marked(64 * 1024))
        self.write(disk, 4096, _marked(4096))
        assert self.plain(disk)[SIZE : SIZE + len(MARK)] == MARK
        assert MARK not in self.stored(disk)

    def test_its_key_is_not_to_be_found_on_storage(self) -> None:
        disk = self._encrypted(0)
        stored = self.stored(disk)
        assert all(key not in stored for key in self.keys.held.values())

    # --- a disk is refused ----------------------------------------------------------------------

    def test_what_is_refused_leaves_no_key(self) -> None:
        disk = self.disk()
        with refuses(DiskTooSmall):
            disk.create(SIZE - MiB, self.base(), encrypt=True)
        with refuses(InvalidRequest):
            disk.create(0, encrypt=True)
        self.nothing_of(disk)
        assert self.keys.held == {}

    def test_an_interrupted_create_leaves_no_key(self) -> None:
        disk = self.disk()
        try:
            disk.create(0, self.base(), encrypt=True, progress=_Stopped())
        except Interrupted:
            self.nothing_of(disk)
            assert self.keys.held == {}
            disk.create(0, self.base(), encrypt=True)
        assert self.plain(disk) == self.expected()
        assert len(self.keys.held) == 1

    def test_a_taken_name_keeps_its_key_and_content(self) -> None:
        disk = self._encrypted(0)
        before = dict(self.keys.held)
        with refuses(NameTaken):
            disk.create(16 * MiB, encrypt=True)
        assert self.keys.held == before
        assert self.plain(disk) == self.expected()

    def test_one_of_many_makes_an_encrypted_disk_and_one_key_is_left(self) -> None:
        disk, base = self.disk(), self.base()
        errors: list[BaseException] = []
        barrier = threading.Barrier(3)

        def make() -> None:
            barrier.wait()
            try:
                self.backend.disk(disk.instance, disk.name).create(0, base, encrypt=True)
            except BaseException as error:  # noqa: BLE001 - looked at below
                errors.append(error)

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [type(error) for error in errors] == [NameTaken] * 2
        assert list(self.keys.held) == [self._encryption(disk).key_id]
        assert self.plain(disk) == self.expected()

    # --- a disk grows and goes ------------------------------------------------------------------

    def test_growing_an_encrypted_disk_keeps_its_content(self) -> None:
        disk = self._encrypted(0)
        self.write(disk, SIZE - 4096, _marked(4096))
        content = self.plain(disk)
        disk.resize(SIZE + 5 * MiB)
        assert disk.info().virtual_size == SIZE + 5 * MiB
        self._same(self.plain(disk), content, 5 * MiB)
        self.write(disk, SIZE + 4 * MiB, _marked(4096))
        assert MARK not in self.stored(disk)

    def test_the_key_goes_with_the_disk(self) -> None:
        first, second = self._encrypted(0), self._encrypted(0)
        first.delete()
        first.delete()
        assert list(self.keys.held) == [self._encryption(second).key_id]
        assert self.plain(second) == self.expected()
        self.nothing_of(first)

    def test_a_deleted_disk_can_be_made_anew_with_another_key(self) -> None:
        disk = self._encrypted(0)
        before = self._encryption(disk).key_id
        disk.delete()
        disk.create(0, self.base(), encrypt=True)
        assert self._encryption(disk).key_id != before
        assert self.plain(disk) == self.expected()

    def test_a_lost_key_is_named_and_the_disk_can_still_be_deleted(self) -> None:
        disk = self._encrypted(0)
        self.keys.held.clear()
        target = self.target()
        calls: list[Callable[[], object]] = [
            disk.activate,
            lambda: disk.extract(target, DiskFormat.RAW, plaintext=True),
        ]
        for call in calls:
            with refuses(NotFound) as caught:
                call()
            assert "key" in str(caught.error)
        assert not target.exists()
        disk.delete()
        self.nothing_of(disk)

    def test_snapshots_of_an_encrypted_disk_are_encrypted_too(self) -> None:
        disk = self._encrypted(SIZE)
        if not isinstance(disk, Snapshotting):
            return
        self.write(disk, MiB, _marked(64 * 1024))
        then = self.plain(disk)
        disk.take("before")
        self.write(disk, MiB, bytes(range(256)) * 256)
        now = self.plain(disk)
        assert now != then
        disk.take("after")
        disk.roll_back("before")
        assert self.plain(disk) == then
        disk.roll_back("after")
        assert self.plain(disk) == now
        assert MARK not in self.stored(disk)
        disk.remove("before")
        disk.remove("after")
        assert list(disk.snapshots()) == []
        assert self.plain(disk) == now

    # --- a disk is taken out --------------------------------------------------------------------

    def test_an_extract_is_encrypted_unless_asked_otherwise(self) -> None:
        disk = self._encrypted(SIZE)
        self.write(disk, MiB, _marked(64 * 1024))
        content = self.plain(disk)
        for kind in (DiskFormat.RAW, DiskFormat.QCOW2):
            target = self.target()
            disk.extract(target, kind)
            data = target.read_bytes()
            assert MARK not in data, f"{kind}: the plaintext left the host"
            assert self._unsealed(target, kind, self._encryption(disk)) == content

    def test_an_extract_in_plaintext_has_the_content_in_every_format(self) -> None:
        disk = self._encrypted(SIZE)
        expected = self.expected()
        for kind, compress in ((DiskFormat.RAW, False), (DiskFormat.QCOW2, False), (DiskFormat.QCOW2, True)):
            target = self.target()
            disk.extract(target, kind, compress=compress, plaintext=True)
            assert self.read(target, kind) == expected

    def test_ciphertext_is_not_compressed(self) -> None:
        disk, target = self._encrypted(0), self.target()
        for kind in (DiskFormat.QCOW2, DiskFormat.RAW):
            with refuses(InvalidRequest):
                disk.extract(target, kind, compress=True)
        assert not target.exists()

    def test_an_encrypted_extract_to_nowhere_leaves_nothing(self) -> None:
        disk = self._encrypted(0)
        for plaintext in (False, True):
            with refuses(CowshedError, OSError):
                disk.extract(self.place / "missing" / "target", DiskFormat.RAW, plaintext=plaintext)
        assert not (self.place / "missing").exists()

    # --- tools ----------------------------------------------------------------------------------

    def plain(self, disk: Disk) -> bytes:
        """All bytes of an encrypted disk, as its guest reads them."""
        target = self.target()
        disk.extract(target, DiskFormat.RAW, plaintext=True)
        return self.read(target, DiskFormat.RAW)

    def _encrypted(self, size: int) -> Disk:
        disk = self.disk()
        disk.create(size, self.base(), encrypt=True)
        return disk

    def _encryption(self, disk: Disk) -> Encryption:
        encryption = disk.info().encryption
        assert encryption is not None
        return encryption

    def _same(self, found: bytes, expected: bytes, blank: int) -> None:
        """``expected``, and then ``blank`` bytes that were never written."""
        assert found[: len(expected)] == expected
        assert len(found) == len(expected) + blank
        if self.blank_is_zero:
            assert found[len(expected) :] == bytes(blank)

    def _unsealed(self, path: Path, format: DiskFormat, encryption: Encryption) -> bytes:
        """The plaintext of an extracted file, read by QEMU with the disk's key."""
        from cowshed.tools import luks
        from cowshed.tools.run import run

        source = DiskSource(DiskType.FILE, format, path, encryption=encryption)
        target = self.target()
        chain = luks.Chain(source, self.keys.get)
        with luks.handed(chain.keys) as (secret, fds):
            words = ["convert", *secret, "--image-opts", "-O", "raw", chain.options, str(target)]
            run(["qemu-img", *words], timeout=60, pass_fds=fds)
        return self.read(target, DiskFormat.RAW)


class _Stopped:
    """A user who has said stop already."""

    def phase(self, name: str, total: int | None = None) -> None:
        raise Interrupted(what=name)

    def update(self, done: int) -> None:
        raise Interrupted(what="working")

    def check(self) -> None:
        raise Interrupted(what="working")

    def note(self, text: str) -> None:
        raise Interrupted(what="working")


def _marked(size: int) -> bytes:
    return (MARK * (size // len(MARK) + 1))[:size]
