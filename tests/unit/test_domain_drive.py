"""How a disk is driven: flavor, image and configuration; what cannot be together is refused."""

from __future__ import annotations

import pytest

from cowshed.config import DisksSection
from cowshed.domain import drive
from cowshed.domain.drive import DriveOptions
from cowshed.domain.properties import Properties
from cowshed.errors import InvalidRequest
from cowshed.model.disk import Bus, CacheMode


def options(
    image: dict[str, str] | None = None,
    flavor: dict[str, str] | None = None,
    names: tuple[str, ...] = ("disk.swap", "swap"),
    **section: str,
) -> DriveOptions:
    return drive.options(Properties(image or {}, flavor or {}), DisksSection(**section), names)  # type: ignore[arg-type]


def test_what_is_configured_holds_where_nobody_says_more() -> None:
    assert options() == DriveOptions(discard="unmap")
    assert options(cache="none", io="native", discard="ignore", detect_zeroes="on") == DriveOptions(
        CacheMode.NONE, "native", "ignore", "on"
    )


def test_the_flavor_goes_before_the_image_and_one_disk_before_all() -> None:
    image = {"hw_disk_cache": "none", "hw_disk_cache@swap": "unsafe", "hw_disk_discard": "ignore"}
    assert options(image).cache == CacheMode.UNSAFE
    assert options(image, names=("disk", "root")).cache == CacheMode.NONE
    assert options(image, {"hw:disk_cache": "writeback"}, names=("disk", "root")).cache == CacheMode.WRITEBACK
    assert options(image, {"hw:disk_cache@swap": "directsync"}).cache == CacheMode.DIRECTSYNC
    assert options(image).discard == "ignore"


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ({"hw_disk_cache": "fast"}, "hw_disk_cache: 'fast' is not known"),
        ({"hw_disk_io": "aio"}, "hw_disk_io: 'aio' is not known"),
        ({"hw_disk_io": "native"}, "past the page cache"),
        ({"hw_disk_io@swap": "native", "hw_disk_cache": "writeback"}, "past the page cache"),
        ({"hw_disk_detect_zeroes": "unmap", "hw_disk_discard": "ignore"}, "discard is ignore"),
        ({"hw_disk_discard@swap": "yes"}, "hw_disk_discard@swap: 'yes' is not known"),
    ],
)
def test_what_cannot_be_is_refused(image: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        options(image)


def test_what_can_be_together() -> None:
    assert options({"hw_disk_io": "native", "hw_disk_cache": "directsync"}).io == "native"
    assert options({"hw_disk_io": "io_uring"}).io == "io_uring"
    assert options({"hw_disk_detect_zeroes": "unmap"}).detect_zeroes == "unmap"


def test_what_is_only_configured_gives_way() -> None:
    assert options({"hw_disk_discard": "ignore"}, detect_zeroes="unmap").detect_zeroes == "on"


def test_threads() -> None:
    section = DisksSection(iothreads=2)
    virtio, sata = [Bus.VIRTIO, Bus.SATA], [Bus.SATA]
    assert drive.threads(Properties(), DisksSection(), virtio) == 0
    assert drive.threads(Properties(), section, virtio) == 2
    assert drive.threads(Properties(), section, sata) == 0
    assert drive.threads(Properties({"hw_disk_iothreads": "0"}), section, virtio) == 0
    assert drive.threads(Properties({"hw_disk_iothreads": "3"}), section, [Bus.SCSI]) == 3
    drive.check_threads(Properties({"hw_disk_iothreads": "1"}), virtio)
    with pytest.raises(InvalidRequest, match="only disks on virtio and scsi"):
        drive.check_threads(Properties({"hw_disk_iothreads": "1"}), sata)
    with pytest.raises(InvalidRequest, match="is not between 0 and 64"):
        drive.threads(Properties({"hw_disk_iothreads": "65"}), section, virtio)
