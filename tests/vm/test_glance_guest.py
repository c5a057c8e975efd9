"""Guests from images in Glance, and from images that were made of guests."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import ImagesSection, RbdSection
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from tests.ceph_node import Ceph
from tests.glance_proxy import Proxy, proxy
from tests.glance_server import POOL, Glance
from tests.vm.machines import Machines, machines

pytestmark = pytest.mark.timeout(500)

_OURS = re.compile(r"image-.{36}|golden-.*|live-.*")  # other tests use the same server


@contextmanager
def house(uri: str, guest_dir: Path, glance: Glance, **sections: Any) -> Iterator[tuple[Machines, Proxy]]:
    user, store = ("service", "ceph") if "rbd" in sections else ("cowshed", "")
    with proxy(glance.url) as between:
        section = glance.section(user, endpoints=(between.url,), store=store, read_timeout=60.0)
        with machines(uri, guest_dir, images=ImagesSection(service="glance"), glance=section, **sections) as made:
            before = {image.id for image in made.driver.images.list()}
            try:
                yield made, between
            finally:
                made.close()
                made._made.clear()
                for image in reversed(made.driver.images.list()):
                    if image.id not in before and _OURS.fullmatch(image.name):
                        made.driver.images.delete(image.id)


def downloads(between: Proxy) -> int:
    """Requests for bytes of images; a qcow2 image needs some for its tables before the one for all of it."""
    return between.asked("GET", "/file")


def test_a_guest_boots_from_glance_and_from_the_image_made_of_it(
    libvirt_uri: str, guest_dir: Path, glance: Glance
) -> None:
    with house(libvirt_uri, guest_dir, glance) as (made, between):
        image = made.image("tiny.qcow2")
        first = made.spawn(image)
        made.wait(first, r"cowshed-guest: boot 1\b")
        made.wait(first, r"cowshed-guest: up")
        made.driver.power_off(first, timeout=60)
        first_boot = downloads(between)
        assert first_boot
        golden = made.driver.create_image(first, f"golden-{uuid.uuid4().hex[:8]}")
        assert (golden.disk_format, golden.virtual_size) == (DiskFormat.QCOW2, image.virtual_size)
        second = made.spawn(golden)
        made.wait(second, r"cowshed-guest: boot 2\b")
        second_boot = downloads(between)
        assert second_boot > first_boot
        made.spawn(image)
        assert downloads(between) == second_boot  # its base is there


def test_a_guest_in_ceph_boots_from_a_clone_and_so_does_its_image(
    libvirt_uri: str, guest_dir: Path, glance_ceph: Glance, ceph: Ceph, rbd_pool: str
) -> None:
    rbd = RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring))
    with house(libvirt_uri, guest_dir, glance_ceph, rbd=rbd) as (made, between):
        image = made.image("tiny.raw")
        first = made.spawn(image, backend="rbd")
        made.wait(first, r"cowshed-guest: boot 1\b")
        made.wait(first, r"cowshed-guest: up")
        record = made.driver.images.reserve(Image(id="", name=f"live-{uuid.uuid4().hex[:8]}"))
        told: list[str] = []
        made.driver.snapshot(None, first, record.id, lambda **words: told.append(words["task_state"]))
        assert told == ["image_pending_upload", "image_uploading"]
        second = made.spawn(made.driver.images.show(record.id), backend="rbd")
        made.wait(second, r"cowshed-guest: boot \d")
        parent = ceph.rbd("info", "--format", "json", f"{rbd_pool}/{second.uuid}_disk")["parent"]
        assert (parent["pool"], parent["image"]) == (POOL, record.id)
        assert downloads(between) == 0
        assert not list(made.driver.cache.bases())
        made.driver.destroy(None, first, [])
        made.wait(second, r"cowshed-guest: up")
