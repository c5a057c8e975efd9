"""What a backend says of itself is true: each trait is tried."""

from __future__ import annotations

from cowshed.contract.storage import BaseKeeping, Clonable, Cloning, DirectUpload, Importing, Snapshotting
from cowshed.errors import NameTaken, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.testing.conformance.expect import refuses
from cowshed.testing.conformance.storage.suite import DATA, SIZE, StorageSuite, data
from cowshed.units import MiB

_LITTLE = DATA // 2  # a clone or snapshot that takes less than this of the data has not copied it


class TraitPromises(StorageSuite):
    def test_capacity_adds_up(self) -> None:
        capacity = self.backend.capacity()
        assert 0 <= capacity.free <= capacity.total
        assert 0 <= capacity.used <= capacity.total

    def test_the_source_names_its_format(self) -> None:
        disk = self.disk()
        disk.create(0, self.base())
        source = disk.source()
        assert source.format == disk.format == self.backend.traits.disk_format
        assert source.path if source.type in (DiskType.FILE, DiskType.BLOCK) else source.protocol
        assert (source.type == DiskType.BLOCK) == self.backend.traits.block
        parent: DiskSource | None = source.backing
        if source.type == DiskType.FILE and disk.info().backing_path:
            assert parent is not None, "a parent without a format would be probed"
            assert parent.format == disk.info().backing_format

    def test_its_roles_are_those_it_announces(self) -> None:
        traits, disk = self.backend.traits, self.disk()
        assert traits.name
        assert isinstance(disk, Snapshotting) == traits.snapshots
        assert isinstance(disk, Importing) == traits.importing
        assert isinstance(self.backend, BaseKeeping) == traits.keeps_bases
        assert isinstance(self.backend, Cloning) == isinstance(disk, Clonable) == traits.clones_images
        assert isinstance(disk, DirectUpload) or not traits.direct_upload
        assert traits.snapshots or not traits.instant_snapshot

    def test_a_base_has_the_format_it_wants(self) -> None:
        assert self.base().format == self.backend.traits.base_format

    def test_an_instant_clone_copies_nothing(self) -> None:
        base = self.base()
        self.disk().create(0, base)  # whatever is made once for all
        before = self.used()
        self.disk().create(0, base)
        assert (self.used() - before < _LITTLE) == self.backend.traits.instant_clone

    def test_an_instant_snapshot_copies_nothing(self) -> None:
        disk = self.disk()
        if not isinstance(disk, Snapshotting):
            return
        disk.create(SIZE)
        self.write(disk, 0, data(MiB))
        self.write(disk, 3 * MiB, data(MiB))
        before = self.used()
        disk.take("one")
        assert (self.used() - before < _LITTLE) == self.backend.traits.instant_snapshot

    def test_an_encrypted_disk_is_what_it_says(self) -> None:
        disk = self.disk()
        if not self.backend.traits.encrypts:
            with refuses(UnsupportedOperation):
                disk.create(0, self.base(), encrypt=True)
            self.nothing_of(disk)
            return
        disk.create(SIZE + MiB, self.base(), encrypt=True)
        assert disk.info().encryption is not None
        assert disk.info().virtual_size == SIZE + MiB
        target = self.target()
        disk.extract(target, DiskFormat.RAW, plaintext=True)
        content = self.read(target, DiskFormat.RAW)  # behind the base there may be noise
        assert (content[:SIZE], len(content)) == (self.expected(), SIZE + MiB)
        disk.extract(target, DiskFormat.QCOW2)
        assert data(4096) not in target.read_bytes(), "what was in the disk can be read in the file"
        target.unlink()
        disk.delete()
        self.nothing_of(disk)

    def test_a_disk_that_is_preallocated_has_its_space(self) -> None:
        backend = self.preallocating()
        assert (backend is not None) == self.backend.traits.preallocates, "preallocating() gives such a backend"
        if backend is None:
            return
        before = self.used()
        backend.disk(self.disk().instance, "disk").create(4 * SIZE)
        assert self.used() - before >= 4 * SIZE

    def test_a_file_is_taken_over(self) -> None:
        disk = self.disk()
        if not isinstance(disk, Importing):
            return
        path = self.place / "ready"
        path.write_bytes(self.expected())
        disk.import_file(path)
        assert not path.exists()
        assert self.content(disk) == self.expected()
        path.write_bytes(bytes(MiB))
        with refuses(NameTaken):
            disk.import_file(path)
        assert path.exists()
        assert self.content(disk) == self.expected()
