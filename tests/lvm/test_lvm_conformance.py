"""The disk contract on thick and thin volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.contract.storage import Backend
from cowshed.testing.conformance import BackendConformance
from cowshed.testing.conformance.storage import promises
from tests.lvm.conftest import make_backend


class Volumes(BackendConformance):
    def __init__(self, root: Path, *, thin: bool) -> None:
        self.place = root / "place"
        self.place.mkdir()
        self.volumes = make_backend(root, thin=thin)
        self.backend: Backend = self.volumes

    def used(self) -> int:
        self.volumes.clearing.run(timeout=60)  # what others have deleted is still there until then
        return super().used()

    def preallocating(self) -> Backend | None:
        return None if self.backend.traits.keeps_bases else self.backend


@pytest.mark.parametrize("promise", promises())
@pytest.mark.parametrize("kind", ["thick", "thin"])
def test_volumes(kind: str, promise: str, tmp_path: Path) -> None:
    getattr(Volumes(tmp_path, thin=kind == "thin"), promise)()
