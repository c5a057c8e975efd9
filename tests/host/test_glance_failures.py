"""Glance that is away, refuses, lies, breaks off: a clear error or the right bytes, and nothing left behind."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed import clock
from cowshed.config import GlanceSection
from cowshed.errors import (
    ConfigError,
    Conflict,
    CowshedError,
    DataCorrupt,
    DeadlineExceeded,
    DigestMismatch,
    FetchFailed,
    ImageNotFound,
    ImageRejected,
    ImageServiceFailed,
    InvalidRequest,
    NameTaken,
    PermissionDenied,
)
from cowshed.images.glance import GlanceService
from cowshed.model.image import Image
from cowshed.testing.clock import FakeClock
from cowshed.units import MiB
from tests.glance_proxy import Fault, Proxy, proxy
from tests.glance_server import Glance

DATA = bytes(512) + os.urandom(3 * MiB)


@pytest.fixture
def between(glance: Glance) -> Iterator[Proxy]:
    with proxy(glance.url) as found:
        yield found


@pytest.fixture
def broken(glance: Glance, between: Proxy) -> Iterator[GlanceService]:
    """The service through the proxy."""
    found = GlanceService(glance.section(endpoints=(between.url,)))
    yield found
    found.close()


@pytest.fixture
def image(service: GlanceService) -> Iterator[Image]:
    found = service.upload(Image(id="", name=f"image-{os.urandom(4).hex()}"), io.BytesIO(DATA))
    yield found
    try:
        service.delete(found.id)
    except ImageNotFound:
        pass


@pytest.fixture
def no_waiting() -> Iterator[FakeClock]:
    with clock.using(FakeClock()) as fake:
        yield fake


def read(service: GlanceService, image: Image, offset: int = 0) -> bytes:
    with service.open(image, offset=offset) as stream:
        return stream.read()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidRequest),
        (401, PermissionDenied),
        (403, PermissionDenied),
        (404, ImageNotFound),
        (409, Conflict),
        (410, ImageNotFound),
        (413, ImageServiceFailed),
        (418, ImageServiceFailed),
        (302, ImageServiceFailed),
        (429, ImageServiceFailed),
        (500, ImageServiceFailed),
        (503, ImageServiceFailed),
    ],
)
def test_every_status_is_an_error_of_its_kind(
    broken: GlanceService, between: Proxy, image: Image, no_waiting: FakeClock, status: int, error: type[CowshedError]
) -> None:
    headers = {"Location": "http://127.0.0.1:1/elsewhere"} if status == 302 else {}
    words = b"<html><title>x</title><body>because of <b>reasons</b></body></html>"
    between.faults.append(Fault("/v2/images/", times=99, status=status, headers=headers, body=words))
    for call in (lambda: broken.show(image.id), lambda: broken.open(image)):
        with pytest.raises(error) as caught:
            call()
        if error is not ImageNotFound:
            assert "because of reasons" in f"{caught.value} {caught.value.hint}"


def test_a_busy_server_is_asked_again_when_it_says(
    broken: GlanceService, between: Proxy, image: Image, no_waiting: FakeClock
) -> None:
    between.faults.append(Fault("/v2/images/", status=429, headers={"Retry-After": "17"}))
    assert broken.show(image.id) == image
    assert sum(no_waiting.slept) == pytest.approx(17, abs=1)


def test_nobody_waits_as_long_as_a_server_likes(
    glance: Glance, between: Proxy, image: Image, no_waiting: FakeClock
) -> None:
    service = GlanceService(glance.section(endpoints=(between.url,), retries=9))
    between.faults.append(Fault("/v2/images/", times=99, status=503, headers={"Retry-After": "86400"}))
    with pytest.raises(ImageServiceFailed, match="503"):
        service.show(image.id)
    assert sum(no_waiting.slept) <= 180
    service.close()


def test_the_first_cause_is_kept_and_the_last_is_named(
    broken: GlanceService, between: Proxy, image: Image, no_waiting: FakeClock
) -> None:
    between.faults += [Fault("/v2/images/", status=503, body=b"first"), Fault("/v2/images/", status=504, body=b"last")]
    with pytest.raises(ImageServiceFailed) as caught:
        broken.show(image.id)
    assert re.search(r"504 last \(2 attempts\); at first: .*503 first", str(caught.value))


def test_an_answer_that_is_no_image_record_is_an_error(broken: GlanceService, between: Proxy, image: Image) -> None:
    for body in (b"no json", b"[]", b'{"id": 5, "status": "active"}', b'{"id": "x", "status": "dancing"}'):
        between.faults.append(Fault("/v2/images/", status=200, body=body))
        with pytest.raises(ImageServiceFailed):
            broken.show(image.id)


# --- nobody there -----------------------------------------------------------------------------


def test_a_dead_server_is_named_with_the_reason(glance: Glance) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    service = GlanceService(glance.section(endpoints=(url,)))
    with pytest.raises(ImageServiceFailed, match=r"connection refused.*2 attempts") as caught:
        service.list()
    assert url in str(caught.value)
    service.close()


def test_a_dead_keystone_is_an_error_of_the_service(glance: Glance) -> None:
    section = replace(glance.section(), auth_url=f"http://127.0.0.1:{free_port()}/v3")
    service = GlanceService(section)
    with pytest.raises(ImageServiceFailed, match="connection refused"):
        service.list()
    service.close()


def test_a_silent_server_is_given_up(glance: Glance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        service = GlanceService(glance.section(endpoints=(url,), read_timeout=0.5, retries=0))
        with pytest.raises(ImageServiceFailed, match="time"):
            service.list()
        service.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("by", ["keys", "clouds.yaml"])
def test_a_silent_keystone_is_given_up(
    glance: Glance, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v3"
        section = replace(glance.section(read_timeout=0.3), auth_url=url)
        if by == "clouds.yaml":
            clouds = tmp_path / "clouds.yaml"
            clouds.write_text(re.sub(r"auth_url: .*", f"auth_url: {url}", (glance.place / "clouds.yaml").read_text()))
            monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
            section = GlanceSection(cloud="cowshed", read_timeout=0.3, retries=1)
        with pytest.raises(ImageServiceFailed, match="timed out") as caught:
            GlanceService(section).list()
    assert caught.value.fields["action"] == "list images"


def test_another_endpoint_takes_over(glance: Glance, image: Image, no_waiting: FakeClock) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    service = GlanceService(glance.section(endpoints=(dead, glance.url), retries=0))
    assert service.show(image.id) == image
    assert read(service, image) == DATA
    assert no_waiting.slept == []
    service.close()


def test_another_endpoint_goes_on_in_the_middle_of_a_download(
    glance: Glance, between: Proxy, image: Image, no_waiting: FakeClock
) -> None:
    with proxy(glance.url) as second:
        service = GlanceService(glance.section(endpoints=(between.url, second.url), retries=0))
        between.faults += [Fault("/file", cut=MiB + 5), Fault("", times=99, refuse=True)]
        assert read(service, image) == DATA
        assert second.ranges() == [f"bytes={MiB + 5}-"]
        service.close()


# --- who we are -------------------------------------------------------------------------------


def test_a_wrong_password_is_said_at_once(glance: Glance, tmp_path: Path, no_waiting: FakeClock) -> None:
    (tmp_path / "password").write_text("wrong\n")
    service = GlanceService(replace(glance.section(), password_file=str(tmp_path / "password")))
    with pytest.raises(PermissionDenied) as caught:
        service.list()
    assert "password" in str(caught.value.hint)
    assert str(caught.value) == "no permission to find the address of the image service"
    assert no_waiting.slept == []
    service.close()


@pytest.mark.parametrize(
    "section",
    [
        GlanceSection(auth_url="http://127.0.0.1:1/v3", password_file="/nowhere"),
        GlanceSection(auth_url="http://127.0.0.1:1/v3", username="x"),
        GlanceSection(cloud="no-such-cloud"),
        GlanceSection(),
    ],
)
def test_a_configuration_without_a_user_is_said(section: GlanceSection, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError):
        GlanceService(replace(section, retries=0)).list()


def test_clouds_yaml_and_variables_name_the_user(
    glance: Glance, image: Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(glance.place / "clouds.yaml"))
    service = GlanceService(GlanceSection(cloud="cowshed"))
    assert service.show(image.id) == image
    service.close()
    monkeypatch.setenv("OS_CLOUD", "stranger")
    stranger = GlanceService(GlanceSection())
    with pytest.raises(ImageNotFound):
        stranger.show(image.id)
    stranger.close()
    monkeypatch.delenv("OS_CLOUD")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "none.yaml"))
    section = glance.section()
    for name, value in {
        "OS_AUTH_URL": section.auth_url,
        "OS_USERNAME": section.username,
        "OS_PASSWORD": Path(section.password_file).read_text().strip(),
        "OS_PROJECT_NAME": section.project,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
    }.items():
        monkeypatch.setenv(name, value)
    service = GlanceService(GlanceSection())
    assert service.show(image.id) == image
    service.close()


def revoke(service: GlanceService) -> None:
    """The token the service uses becomes one that Keystone has issued and taken back, and Glance has never seen."""
    session = service.client._connection.session
    good = session.auth.get_access(session)
    session.auth.invalidate()
    bad = session.auth.get_access(session)
    assert bad.auth_token != good.auth_token
    token = {"X-Subject-Token": bad.auth_token, "X-Auth-Token": good.auth_token}
    answer = session.delete(f"{service.client.section.auth_url}/auth/tokens", headers=token, authenticated=False)
    assert answer.status_code == 204


def test_a_token_that_ends_in_the_middle_of_a_download_is_renewed(
    broken: GlanceService, between: Proxy, image: Image
) -> None:
    broken.list()
    between.faults.append(Fault("/file", cut=MiB, then=lambda: revoke(broken)))
    assert read(broken, image) == DATA
    assert between.ranges() == [f"bytes={MiB}-"] * 2  # with the old token, with the new one


def test_a_token_that_ends_before_an_upload_is_renewed(broken: GlanceService) -> None:
    image = broken.create(Image(id="", name="late"))
    revoke(broken)
    stored = broken.upload(image, io.BytesIO(DATA))
    assert read(broken, stored) == DATA
    broken.delete(stored.id)


def test_an_upload_that_is_refused_for_its_token_is_sent_again(
    broken: GlanceService, between: Proxy, service: GlanceService
) -> None:
    between.faults.append(Fault("/file", "PUT", status=401))
    stored = broken.upload(Image(id="", name="unauthorised"), io.BytesIO(DATA))
    assert read(service, stored) == DATA
    service.delete(stored.id)


def test_neither_password_nor_token_is_logged(glance: Glance, image: Image, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = GlanceService(glance.section())
    service.show(image.id)
    session = service.client._connection.session
    secrets = [Path(glance.section().password_file).read_text().strip(), session.get_token()]
    words = "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    assert "/v2/images" in words
    for secret in secrets:
        assert secret not in words
    service.close()


# --- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, MiB, len(DATA) - 1])
def test_a_body_that_is_cut_goes_on_where_it_stopped(
    broken: GlanceService, between: Proxy, image: Image, at: int
) -> None:
    between.faults.append(Fault("/file", cut=at))
    assert read(broken, image) == DATA
    assert between.ranges() == ([f"bytes={at}-"] if at else [])


def test_a_body_that_is_cut_every_time_ends_with_an_error(
    broken: GlanceService, between: Proxy, image: Image, tmp_path: Path, no_waiting: FakeClock
) -> None:
    between.faults.append(Fault("/file", times=99, cut=1000))
    with pytest.raises(ImageServiceFailed, match="2 attempts"):
        broken.download(image, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_all_again_is_read_up_to_where_it_was(
    broken: GlanceService, between: Proxy, image: Image
) -> None:
    between.faults += [Fault("/file", cut=MiB + 1), Fault("/file", strip="range")]
    assert read(broken, image) == DATA
    assert read(broken, image, 5) == DATA[5:]


@pytest.mark.parametrize("text", ["bytes 0-9/10", "bytes 5-99/123456789", "nonsense", "bytes 7-8/9"])
def test_another_range_than_asked_is_refused(broken: GlanceService, between: Proxy, image: Image, text: str) -> None:
    between.faults.append(Fault("/file", headers={"Content-Range": text}))
    with pytest.raises(FetchFailed):
        read(broken, image, 5)


def test_a_body_that_is_longer_than_the_record_says_is_refused(
    broken: GlanceService, between: Proxy, image: Image
) -> None:
    between.faults.append(Fault("/file", extra=b"more"))
    with pytest.raises(FetchFailed):
        read(broken, image)


def test_a_body_that_comes_encoded_is_refused(broken: GlanceService, between: Proxy, image: Image) -> None:
    between.faults.append(Fault("/file", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(FetchFailed, match="gzip"):
        read(broken, image)


def test_other_bytes_of_the_same_length_are_found(glance: Glance, service: GlanceService, tmp_path: Path) -> None:
    """On the real server: the file in its store changes."""
    image = service.upload(Image(id="", name="changed"), io.BytesIO(DATA))
    stored = glance.place / "images" / image.id
    stored.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(DigestMismatch):
        service.download(image, tmp_path / "target")
    with pytest.raises(DigestMismatch):
        service.verify(image)
    assert list(tmp_path.iterdir()) == []
    service.delete(image.id)


def test_bytes_that_are_gone_from_the_store_are_an_error(
    glance: Glance, service: GlanceService, tmp_path: Path
) -> None:
    image = service.upload(Image(id="", name="lost"), io.BytesIO(DATA))
    (glance.place / "images" / image.id).unlink()
    with pytest.raises(CowshedError):
        service.download(image, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
    service.delete(image.id)


def test_an_image_deleted_during_a_download_is_not_found(
    broken: GlanceService, between: Proxy, service: GlanceService, image: Image, tmp_path: Path
) -> None:
    between.faults += [Fault("/file", cut=MiB), Fault("/file", then=lambda: service.delete(image.id))]
    with pytest.raises(ImageNotFound):
        broken.download(image, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_a_record_without_bytes_cannot_be_read(service: GlanceService) -> None:
    image = service.create(Image(id="", name="empty"))
    with pytest.raises(CowshedError, match=r"no bytes|queued|does not exist"):
        read(service, image)
    service.delete(image.id)


# --- uploads ----------------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """A source that can be read once."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return self._data.read(size)


def names(service: GlanceService) -> set[str]:
    return {str(one.get("name")) for one in service._pages({})}


@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_file_is_uploaded_whole(service: GlanceService, tmp_path: Path, buffering: int) -> None:
    """The inspection before it moves the file's position."""
    (tmp_path / "image").write_bytes(DATA)
    with (tmp_path / "image").open("rb", buffering) as source:
        stored = service.upload(Image(id="", name=f"whole{buffering}"), source)  # type: ignore[arg-type]
    assert read(service, stored) == DATA
    service.delete(stored.id)


@pytest.mark.parametrize("source", [io.BytesIO, Pipe])
def test_a_stream_is_uploaded(service: GlanceService, source: Any) -> None:
    stored = service.upload(Image(id="", name=f"stream-{source.__name__}"), source(DATA))
    assert stored.size == stored.virtual_size == len(DATA)
    assert read(service, stored) == DATA
    service.delete(stored.id)


@pytest.mark.parametrize("fault", [Fault("/file", "PUT", refuse=True), Fault("/file", "PUT", lose=True),
                                   Fault("/file", "PUT", status=503)])  # fmt: skip
def test_a_broken_upload_is_repeated(broken: GlanceService, between: Proxy, fault: Fault) -> None:
    between.faults.append(replace(fault))
    stored = broken.upload(Image(id="", name="repeated"), io.BytesIO(DATA))
    assert read(broken, stored) == DATA
    broken.delete(stored.id)


def test_a_broken_upload_of_a_stream_ends_with_an_error_and_no_record(broken: GlanceService, between: Proxy) -> None:
    between.faults.append(Fault("/file", "PUT", lose=True))
    with pytest.raises(ImageServiceFailed, match="cannot be read again"):
        broken.upload(Image(id="", name="once"), Pipe(DATA))  # type: ignore[arg-type]
    assert "once" not in names(broken)


def test_an_upload_that_fails_for_good_leaves_no_record(
    broken: GlanceService, between: Proxy, no_waiting: FakeClock
) -> None:
    between.faults.append(Fault("/file", "PUT", times=99, status=413, body=b"quota"))
    with pytest.raises(ImageServiceFailed, match="quota"):
        broken.upload(Image(id="", name="too-much"), io.BytesIO(DATA))
    assert "too-much" not in names(broken)


def test_a_service_that_stores_other_bytes_is_found_out(broken: GlanceService, between: Proxy) -> None:
    between.faults.append(Fault("/v2/images/", alter=lambda record: record.update(os_hash_value="0" * 128)))
    with pytest.raises(DigestMismatch):
        broken.upload(Image(id="", name="other"), io.BytesIO(DATA))
    between.faults.append(Fault("/v2/images/", alter=lambda record: record.update(size=5)))
    with pytest.raises(DataCorrupt):
        broken.upload(Image(id="", name="other"), io.BytesIO(DATA))
    assert "other" not in names(broken)


def test_a_file_that_changes_during_its_upload_is_not_stored(service: GlanceService, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(DATA)

    class Shrinking(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            os.truncate(path, MiB)
            return super().read(size)

    with Shrinking(path) as source, pytest.raises(CowshedError):
        service.upload(Image(id="", name="shrinking"), source)  # type: ignore[arg-type]
    assert "shrinking" not in names(service)


def test_an_active_image_is_not_overwritten(service: GlanceService, image: Image) -> None:
    with pytest.raises(NameTaken):
        service.upload(Image(id=image.id, name="other"), io.BytesIO(bytes(MiB)))
    assert read(service, image) == DATA


@pytest.mark.parametrize("fault", [Fault("/v2/images", "POST", lose=True), Fault("/v2/images", "POST", refuse=True)])
def test_a_lost_answer_makes_no_second_record(broken: GlanceService, between: Proxy, fault: Fault) -> None:
    between.faults.append(replace(fault))
    made = broken.create(Image(id="", name="one"))
    assert [one["id"] for one in broken._pages({"name": "one"})] == [made.id]
    broken.delete(made.id)


def test_a_lost_answer_to_a_delete_is_success(broken: GlanceService, between: Proxy, image: Image) -> None:
    between.faults.append(Fault("/v2/images/", "DELETE", lose=True))
    broken.delete(image.id)
    with pytest.raises(ImageNotFound):
        broken.show(image.id)


def test_bytes_glance_refuses_are_refused(broken: GlanceService, between: Proxy) -> None:
    between.faults.append(Fault("/file", "PUT", status=415, body=b"not that format"))
    with pytest.raises(ImageRejected, match="not that format"):
        broken.upload(Image(id="", name="refused"), io.BytesIO(DATA))
    assert "refused" not in names(broken)


# --- whose images -----------------------------------------------------------------------------


@pytest.fixture
def stranger(glance: Glance) -> Iterator[GlanceService]:
    found = GlanceService(glance.section("stranger"))
    yield found
    found.close()


@pytest.fixture
def admin(glance: Glance) -> Iterator[GlanceService]:
    found = GlanceService(glance.section("admin"))
    yield found
    found.close()


def patch(service: GlanceService, image: Image, key: str, value: object) -> None:
    service._patch(image.id, [{"op": "replace", "path": f"/{key}", "value": value}])


def test_another_projects_image_does_not_exist(service: GlanceService, stranger: GlanceService, image: Image) -> None:
    for call in (stranger.show, stranger.delete, lambda ref: stranger.update(ref, {"name": "mine"})):
        with pytest.raises(ImageNotFound):
            call(image.id)
    with pytest.raises(ImageNotFound):
        stranger.show(image.name)
    with pytest.raises(ImageNotFound):
        stranger.open(image)


def test_a_member_sees_a_shared_image_and_cannot_change_it(
    service: GlanceService, stranger: GlanceService, image: Image
) -> None:
    session = stranger.client
    stranger.list()
    project = session._connection.session.get_project_id()
    patch(service, image, "visibility", "shared")
    service.client.call(
        "POST", f"/images/{image.id}/members", action="share", subject=image.name, json={"member": project}
    )
    assert stranger.show(image.id).id == image.id  # by id although it is not accepted yet
    assert read(stranger, image) == DATA
    for call in (stranger.delete, lambda ref: stranger.update(ref, {"name": "mine"})):
        with pytest.raises(PermissionDenied):
            call(image.id)


def test_a_protected_image_is_not_deleted(service: GlanceService, image: Image) -> None:
    patch(service, image, "protected", True)
    with pytest.raises(PermissionDenied, match="delete"):
        service.delete(image.id)
    patch(service, image, "protected", False)


def test_a_deactivated_image_is_not_read(service: GlanceService, admin: GlanceService, image: Image) -> None:
    admin.client.call("POST", f"/images/{image.id}/actions/deactivate", action="deactivate", subject=image.name)
    assert service.show(image.id).status == "deactivated"
    with pytest.raises(PermissionDenied):
        service.open(image)


# --- stores -----------------------------------------------------------------------------------


def test_a_copy_in_another_store_is_another_location(service: GlanceService, image: Image) -> None:
    assert set(service.stores()) == {"files", "more"}
    assert len(service.locations(image)) == 1
    service.copy_to_store(image, "more")
    places = service.locations(image)
    assert [place.metadata["store"] for place in places] == ["files", "more"]
    assert service.copy_to_store(image, "more").id == image.id  # again: it is there


def test_an_unknown_store_is_refused(service: GlanceService, image: Image) -> None:
    with pytest.raises(InvalidRequest) as caught:
        service.copy_to_store(image, "nowhere")
    assert "files, more" in str(caught.value.hint)


def test_a_copy_that_fails_says_why(broken: GlanceService, between: Proxy, image: Image) -> None:
    def fail(record: dict[str, object]) -> None:
        record["stores"] = "files"
        record["os_glance_failed_import"] = "more"

    between.faults += [Fault(f"/images/{image.id}", times=2), Fault(f"/images/{image.id}", times=99, alter=fail)]
    between.faults.insert(0, Fault("/tasks", times=99))
    with pytest.raises(ImageServiceFailed, match="copy"):
        broken.copy_to_store(image, "more")


def test_a_copy_that_never_ends_has_a_deadline(glance: Glance, between: Proxy, image: Image) -> None:
    def wait(record: dict[str, object]) -> None:
        record["stores"] = "files"
        record["os_glance_importing_to_stores"] = "more"

    service = GlanceService(glance.section(endpoints=(between.url,), task_timeout=0.6))
    between.faults += [Fault("/tasks", times=99), Fault(f"/images/{image.id}", times=999, alter=wait)]
    with pytest.raises(DeadlineExceeded, match="copy"):
        service.copy_to_store(image, "more")
    service.close()
