"""Pull, list, show, remove, verify and cache with Glance as the configured image service."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import Config, GlanceSection, HostSection, ImagesSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import examine
from cowshed.errors import ImageRejected, NameTaken, UnsupportedOperation
from cowshed.images.directory import DirectoryService
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, Location
from cowshed.units import MiB
from tests.glance_proxy import Proxy, proxy
from tests.glance_server import Glance
from tests.images_server import cut, file, serving

CONTENT = bytes(4096) + os.urandom(MiB) + bytes(20 * MiB) + os.urandom(MiB)


@pytest.fixture
def between(glance: Glance) -> Iterator[Proxy]:
    with proxy(glance.url) as found:
        yield found


@pytest.fixture
def driver(glance: Glance, between: Proxy, tmp_path: Path, name: str) -> Iterator[LibvirtDriver]:
    config = Config(
        host=HostSection(state=str(tmp_path / "state")),
        images=ImagesSection(service="glance"),
        glance=glance.section(endpoints=(between.url,)),
    )
    found = LibvirtDriver(config=config)
    yield found
    for image in found.images.list(name=name):
        found.images.delete(image.id)
    found.rooms.close()


@pytest.fixture
def name() -> str:
    return f"tested-{os.urandom(4).hex()}"


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    (tmp_path / "raw").write_bytes(CONTENT)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", tmp_path / "image.qcow2"]
    subprocess.run(command, check=True, timeout=60)
    return tmp_path / "image.qcow2"


def left(driver: LibvirtDriver) -> list[str]:
    """What a pull has left in its folder on this host, except the broken downloads that are kept on purpose."""
    folder = driver.rooms.state / "images"
    return [path.name for path in folder.iterdir() if path.name not in (".lock", ".partial")] if folder.exists() else []


def test_a_file_is_pulled_into_glance(driver: LibvirtDriver, qcow2: Path, name: str) -> None:
    image = driver.pull_image(str(qcow2), name=name, properties={"hw_disk_bus": "scsi"}, min_disk=30 * MiB)
    assert driver.images.show(name) == image
    assert (image.disk_format, image.virtual_size, image.size) == (DiskFormat.QCOW2, len(CONTENT), qcow2.stat().st_size)
    assert (image.min_disk, dict(image.properties)) == (30 * MiB, {"hw_disk_bus": "scsi"})
    assert image.source.endswith("image.qcow2")
    driver.images.verify(image)
    assert left(driver) == []


def test_a_broken_download_is_resumed_into_glance(driver: LibvirtDriver, name: str) -> None:
    packed = gzip.compress(CONTENT, 1)
    with serving(cut(packed, MiB), file(packed)) as server:
        image = driver.pull_image(f"{server.url}/image.raw.gz", name=name)
        assert server.requests[1].start == MiB
    with driver.images.open(image) as stream:
        assert stream.read() == CONTENT
    assert left(driver) == []


def test_what_is_refused_never_reaches_glance(
    driver: LibvirtDriver, qcow2: Path, between: Proxy, tmp_path: Path, name: str
) -> None:
    hostile = tmp_path / "hostile.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", hostile]
    subprocess.run(command, check=True, timeout=60)
    with pytest.raises(ImageRejected):
        driver.pull_image(str(hostile), name=name)
    assert between.asked("POST", "/images") == 0
    assert left(driver) == []


def test_an_image_from_when_the_store_was_here_is_in_nobodys_way(driver: LibvirtDriver, qcow2: Path, name: str) -> None:
    here = DirectoryService(driver.rooms.state / "images", ImagesSection())
    with qcow2.open("rb") as source:
        kept = here.upload(Image("", name, disk_format=DiskFormat.QCOW2), source)
    assert driver.pull_image(str(qcow2), name=name).id != kept.id
    assert here.show(kept.id).name == name


def test_a_taken_name_is_said_before_anything_is_read(driver: LibvirtDriver, qcow2: Path, name: str) -> None:
    driver.pull_image(str(qcow2), name=name)
    with serving(file(CONTENT)) as server:
        with pytest.raises(NameTaken):
            driver.pull_image(f"{server.url}/x", name=name)
        assert server.requests == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_base_is_fetched_once(driver: LibvirtDriver, qcow2: Path, between: Proxy, name: str, keep: bool) -> None:
    image = driver.pull_image(str(qcow2), name=name)
    wanted = DiskFormat.QCOW2 if keep else DiskFormat.RAW
    base = driver.cache.get(image, driver.images, format=wanted)
    assert base.path.read_bytes() == (qcow2.read_bytes() if keep else CONTENT)
    downloads = between.asked("GET", "/file")
    assert driver.cache.get(image, driver.images, format=wanted) == base
    assert between.asked("GET", "/file") == downloads >= 1


def test_the_directory_keeps_its_bytes_itself(tmp_path: Path) -> None:
    service = DirectoryService(tmp_path)
    with pytest.raises(UnsupportedOperation):
        service.add_location("x", Location("rbd://a/b/c/d"))
    with pytest.raises(UnsupportedOperation):
        service.copy_to_store(Image(id="x"), "more")


def cowshed(glance: Glance, state: Path, *words: object) -> subprocess.CompletedProcess[str]:
    section = glance.section()
    settings = {
        "HOST_STATE": state,
        "IMAGES_SERVICE": "glance",
        **{f"GLANCE_{key}".upper(): getattr(section, key) for key in ("auth_url", "username", "project")},
        "GLANCE_PASSWORD_FILE": section.password_file,
        "GLANCE_RETRIES": 0,
    }
    environment = {**os.environ, **{f"COWSHED_{key}": str(value) for key, value in settings.items()}}
    command = [sys.executable, "-m", "cowshed.cli", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_the_command_works_on_glance(glance: Glance, qcow2: Path, tmp_path: Path, name: str) -> None:
    pulled = cowshed(glance, tmp_path, "image", "pull", qcow2, "--name", name)
    assert pulled.returncode == 0, pulled.stderr
    listed = cowshed(glance, tmp_path, "image", "ls", "--output", "json")
    assert name in [one["name"] for one in json.loads(listed.stdout)["images"]], listed.stdout
    shown = cowshed(glance, tmp_path, "image", "show", name)
    assert "qcow2" in shown.stdout and "sha512" in shown.stdout
    again = cowshed(glance, tmp_path, "image", "pull", qcow2, "--name", name)
    assert again.returncode == 4 and "exists already" in again.stderr
    assert cowshed(glance, tmp_path, "image", "rm", "--yes", name).returncode == 0
    gone = cowshed(glance, tmp_path, "image", "show", name)
    assert gone.returncode == 3 and "Traceback" not in gone.stderr


def test_a_glance_that_is_away_is_one_sentence(glance: Glance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWSHED_GLANCE_ENDPOINTS", "http://127.0.0.1:9")
    done = cowshed(glance, tmp_path, "image", "ls")
    assert done.returncode == 8
    assert "image service at http://127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


def test_the_doctor_asks_the_image_service(glance: Glance, tmp_path: Path) -> None:
    def asked(section: GlanceSection) -> list[tuple[str, str]]:
        config = Config(
            host=HostSection(state=str(tmp_path / "state")), images=ImagesSection(service="glance"), glance=section
        )
        found = examine._image_service(Rooms(config))
        return [(one.level, one.sentence) for one in found]

    assert asked(glance.section()) == [("ok", f"Glance answers at {glance.url}/v2")]
    (tmp_path / "password").write_text("wrong\n")
    ((level, sentence),) = asked(replace(glance.section(), password_file=str(tmp_path / "password")))
    assert (level, sentence) == ("error", "no permission to find the address of the image service")
    ((level, sentence),) = asked(GlanceSection(cloud="no-such-cloud"))
    assert level == "error"
    assert "no-such-cloud" in sentence
    assert examine._image_service(Rooms(Config(host=HostSection(state=str(tmp_path / "state"))))) == []
