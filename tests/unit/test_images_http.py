"""Pulling from web servers that lie or fail: the right error each time, and nothing left behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cowshed import clock
from cowshed.config import ImagesSection
from cowshed.contract.callbacks import NoProgress
from cowshed.errors import (
    CowshedError,
    DigestMismatch,
    FetchFailed,
    ImageRejected,
    Interrupted,
    InvalidRequest,
    NameTaken,
    NoSpace,
)
from cowshed.images import addresses, transport
from cowshed.images.directory import DirectoryService
from cowshed.images.pull import pull
from cowshed.model.disk import DiskFormat
from tests.images_server import (
    Connection,
    Handler,
    Request,
    cut,
    endless,
    file,
    raw_answer,
    redirect,
    says,
    serving,
    silent,
    trickle,
)

# A raw image without a signature: four MiB of noise with a hole in it.
DATA = random.Random(7).randbytes(1 << 20) + bytes(2 << 20) + random.Random(8).randbytes(1 << 20)
SHA256 = "sha256:" + hashlib.sha256(DATA).hexdigest()


class QuickClock(clock.Clock):
    """Waiting between attempts takes no time; it is written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(autouse=True)
def quick() -> Iterator[QuickClock]:
    with clock.using(QuickClock()) as quick:
        assert isinstance(quick, QuickClock)
        yield quick


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def store(tmp_path: Path, **options: object) -> DirectoryService:
    return DirectoryService(tmp_path / "images", ImagesSection(read_timeout=0.4, connect_timeout=2.0, **options))  # type: ignore[arg-type]


def left_behind(service: DirectoryService) -> list[str]:
    """All files of the store but its lock."""
    return sorted(
        str(path.relative_to(service.root))
        for path in service.root.rglob("*")
        if path.is_file() and path.name != ".lock"
    )


def bytes_of(service: DirectoryService, name: str) -> bytes:
    return service.local_path(service.show(name)).read_bytes()


# --- honest servers ---------------------------------------------------------------------------


def test_a_file_is_stored_with_its_digest_and_holes(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(file(DATA)) as server:
        image = pull(service, server.url + "/pub/debian%20small.raw", digest=SHA256)
    assert (image.name, image.size, image.disk_format) == ("debian-small", len(DATA), DiskFormat.RAW)
    assert f"{image.os_hash_algo}:{image.os_hash_value}" == SHA256
    assert bytes_of(service, "debian-small") == DATA
    assert os.stat(service.local_path(image)).st_blocks * 512 <= 2 << 20
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert left_behind(service) == [f"{image.id}/data", f"{image.id}/image.json"]


def test_a_server_without_lengths_or_validators_will_do(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(raw_answer(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)) as server:
        pull(service, server.url + "/a.raw")
    assert bytes_of(service, "a") == DATA


def test_a_wrapped_file_is_unpacked_and_both_digests_are_recorded(tmp_path: Path) -> None:
    service = store(tmp_path)
    packed = gzip.compress(DATA)
    digest = hashlib.sha512(packed).hexdigest()
    with serving(file(packed)) as server:
        image = pull(service, server.url + "/a.raw.gz", digest=f"sha512:{digest}")
    assert bytes_of(service, "a") == DATA
    assert f"{image.os_hash_algo}:{image.os_hash_value}" == SHA256
    assert image.properties["source_digest"] == f"sha512:{digest}"
    assert left_behind(service) == [f"{image.id}/data", f"{image.id}/image.json"]


def test_redirects_are_followed(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(redirect("/other", "301 Moved"), redirect("elsewhere.raw", "307 Temporary"), file(DATA)) as server:
        pull(service, server.url + "/sub/a.raw")
    assert [request.path for request in server.requests] == ["/sub/a.raw", "/other", "/elsewhere.raw"]
    assert bytes_of(service, "a") == DATA


# --- servers that break and recover -----------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, len(DATA) // 2, len(DATA) - 1])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_broken_body_is_resumed_where_it_broke(tmp_path: Path, at: int, reset: bool) -> None:
    service = store(tmp_path)
    with serving(cut(DATA, at, reset=reset), file(DATA)) as server:
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert bytes_of(service, "a") == DATA
    assert len(server.requests) == 2
    if at > 1 and not reset:
        assert server.requests[1].headers["range"] == f"bytes={at}-"
        assert server.requests[1].headers["if-range"] == '"one"'


def test_it_starts_anew_when_ranges_are_ignored(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(cut(DATA, 1 << 20), file(DATA, ranges=False)) as server:
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert bytes_of(service, "a") == DATA


def test_it_starts_anew_when_the_file_changed(tmp_path: Path) -> None:
    service = store(tmp_path)
    changed = DATA[::-1]
    with serving(cut(DATA, 3 << 20), file(changed, etag='"two"')) as server:
        pull(service, server.url + "/a.raw")
    assert bytes_of(service, "a") == changed


def test_a_continuation_of_another_file_is_not_believed(tmp_path: Path) -> None:
    """The server ignores If-Range and continues with other bytes under another ETag."""
    service = store(tmp_path)
    changed = DATA[::-1]

    def careless(request: Request, connection: Connection) -> None:
        start = request.start
        assert start
        last = len(changed) - 1
        connection.head(
            "206 Partial Content",
            Content_Range=f"bytes {start}-{last}/{len(changed)}",
            ETag='"two"',
            Content_Length=len(changed) - start,
        )
        connection.send(changed[start:])

    with serving(cut(DATA, 1 << 20), careless, file(changed, etag='"two"')) as server:
        pull(service, server.url + "/a.raw")
    assert bytes_of(service, "a") == changed
    assert "range" not in server.requests[2].headers


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", "bytes 7-/x", "", "bytes 1048577-4194303/4194304"])
def test_a_range_that_was_not_asked_for_is_not_used(tmp_path: Path, content_range: str) -> None:
    service = store(tmp_path)

    def wrong(request: Request, connection: Connection) -> None:
        connection.head("206 Partial Content", Content_Range=content_range, ETag='"one"', Content_Length=10)
        connection.send(b"0123456789")

    with serving(cut(DATA, 1 << 20), wrong, file(DATA)) as server:
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert bytes_of(service, "a") == DATA


def test_a_continuation_that_does_not_say_of_which_file_it_is_not_believed(tmp_path: Path) -> None:
    """The server, or another one behind the same name, knows neither If-Range nor ETags."""
    service = store(tmp_path)
    changed = DATA[::-1]

    def continues(request: Request, connection: Connection) -> None:
        if not request.start:
            connection.head(Content_Length=len(changed))
            connection.send(changed)
            return
        connection.head(
            "206 Partial Content",
            Content_Range=f"bytes {request.start}-{len(changed) - 1}/{len(changed)}",
            Content_Length=len(changed) - request.start,
        )
        connection.send(changed[request.start :])

    with serving(cut(DATA, 1 << 20), continues) as server:
        pull(service, server.url + "/a.raw")
    assert bytes_of(service, "a") == changed


def test_what_proves_a_continuation_is_of_the_answer_that_had_the_bytes(tmp_path: Path) -> None:
    """The first one broke before any came, and the next one is of a newer file."""
    service = store(tmp_path)
    with serving(cut(DATA, 0), cut(DATA, 1 << 20, etag='"two"'), file(DATA, etag='"two"')) as server:
        pull(service, server.url + "/a.raw")
        assert server.requests[-1].headers["if-range"] == '"two"' and server.requests[-1].start == (1 << 20)
    assert bytes_of(service, "a") == DATA


def test_without_a_validator_nothing_is_pieced_together(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(cut(DATA, 1 << 20, etag=None), file(DATA)) as server:
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert "range" not in server.requests[1].headers


def test_a_weak_etag_is_no_proof(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(cut(DATA, 1 << 20, etag='W/"one"'), file(DATA)) as server:
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert "range" not in server.requests[1].headers


@pytest.mark.parametrize("status", ["429 Too Many", "500 Oops", "502 Bad", "503 Busy", "504 Late"])
def test_what_may_pass_is_tried_again(tmp_path: Path, status: str) -> None:
    service = store(tmp_path)
    with serving(says(status), file(DATA)) as server:
        pull(service, server.url + "/a.raw")
    assert bytes_of(service, "a") == DATA


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7.1),
        ("150", 150, 150.1),
        ("-5", 0.3, 1),
        ("soon", 0.3, 1),
        ("in 90 s", 80, 90.1),
    ],
    ids=["seconds", "long", "negative", "nonsense", "date"],
)
def test_retry_after_is_honoured_within_reason(
    tmp_path: Path, quick: QuickClock, value: str, least: float, most: float
) -> None:
    if value == "in 90 s":
        value = formatdate(time.time() + 90)
    with serving(says("503 Busy", Retry_After=value), file(DATA)) as server:
        pull(store(tmp_path), server.url + "/a.raw")
    assert least <= sum(quick.slept) <= most


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("999999999999", "11574 d 1 h"),
        ("181", "3 min 1 s"),
        ("in a day", "1 d"),
        ("100", "1 min 40 s"),
    ],
    ids=["absurd", "a little too long", "date", "again and again"],
)
def test_a_server_that_asks_for_too_much_patience_is_an_error(
    tmp_path: Path, quick: QuickClock, value: str, words: str
) -> None:
    if value == "in a day":  # from now, and not from when the tests were collected
        value = formatdate(time.time() + 86400 + 60)
    with serving(says("503 Busy", Retry_After=value)) as server, pytest.raises(FetchFailed) as caught:
        pull(store(tmp_path), server.url + "/a.raw")
    assert f"503 Busy; the server asks to wait {words}" in str(caught.value)
    assert "3 min" in str(caught.value)
    assert caught.value.hint == "try again later"
    assert sum(quick.slept) == (100 if value == "100" else 0)


def test_a_wait_that_the_server_asks_for_is_told(tmp_path: Path) -> None:
    told: list[str] = []

    class Listening(NoProgress):
        def note(self, text: str) -> None:
            told.append(text)

    with serving(says("503 Busy", Retry_After=30), says("503 Busy", Retry_After=1), file(DATA)) as server:
        pull(store(tmp_path), server.url + "/a.raw?key=secret", progress=Listening())
        assert told == [f"{server.url}/a.raw?...: the server answers 503 Busy; the server asks to wait 30 s"]


# --- servers that do not recover --------------------------------------------------------------

FAILURES: dict[str, tuple[Handler, type[CowshedError], str, int]] = {
    "not found": (says("404 Not Found"), FetchFailed, "404 Not Found", 1),
    "gone": (says("410 Gone"), FetchFailed, "410", 1),
    "forbidden": (says("403 Forbidden"), FetchFailed, "403", 1),
    "no content": (says("204 No Content"), FetchFailed, "204", 1),
    "error for ever": (says("500 Oops"), FetchFailed, "500 Oops", 3),
    "short body without resume": (cut(DATA, 99, etag=None), FetchFailed, "received 99 bytes", 3),
    "cut chunked body": (
        raw_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        FetchFailed,
        "connection broke",
        3,
    ),
    "longer than announced": (
        raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + DATA[:3000]),
        FetchFailed,
        "more than the 1000 bytes",
        1,
    ),
    "negative length": (raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), FetchFailed, "3 attempts", 3),
    "two lengths": (
        raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
        FetchFailed,
        "3 attempts",
        3,
    ),
    "absurd length": (
        raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nx"),
        ImageRejected,
        "larger",
        1,
    ),
    "endless": (endless(b"x" * 65536), ImageRejected, "larger than 16 MiB", 1),
    "encoded": (says("200 OK", gzip.compress(b"x"), Content_Encoding="gzip"), FetchFailed, "encodes", 1),
    "not HTTP": (raw_answer(b"SSH-2.0-OpenSSH_9.2\r\n"), FetchFailed, "3 attempts", 3),
    "nothing": (raw_answer(b""), FetchFailed, "3 attempts", 3),
    "web page": (says("200 OK", b"<!doctype html>", Content_Type="text/html; charset=x"), FetchFailed, "web page", 1),
    "empty": (says("200 OK"), ImageRejected, "empty", 1),
    "redirect to a file": (redirect("file:///etc/passwd"), FetchFailed, "redirect to file:///etc/passwd", 1),
    "redirect to ftp": (redirect("ftp://example.org/a"), FetchFailed, "refused", 1),
    "redirect nowhere": (says("302 Found"), FetchFailed, "redirects nowhere", 1),
    "redirect in a circle": (redirect("/again"), FetchFailed, "more than 5 times", 6),
    "redirect to the metadata service": (redirect("http://169.254.169.254/latest"), FetchFailed, "link-local", 1),
    "the same in other digits": (redirect("http://2852039166/latest"), FetchFailed, "link-local", 1),
    "and as IPv6": (redirect("http://[::ffff:a9fe:a9fe]/latest"), FetchFailed, "link-local", 1),
    "redirect to everywhere": (redirect("http://0.0.0.0/"), FetchFailed, "no address of a server", 1),
    "silent": (silent(1), FetchFailed, "no answer within 0.4 s", 3),
    "silent in the body": (lambda r, c: (cut(DATA, 9, etag=None)(r, c), time.sleep(1))[0], FetchFailed, "0.4 s", 3),  # type: ignore[func-returns-value]
    "header in drops": (trickle(b"HTTP/1.1 200 OK\r\nX: ", 0.1), FetchFailed, "silent", 3),
    "body in drops": (trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", 0.1), FetchFailed, "silent", 3),
    "another format": (file(b"KDMV" + DATA), ImageRejected, "VMDK", 1),
    "a bomb": (says("200 OK", gzip.compress(bytes(17 << 20))), ImageRejected, "unpacks to more than 16 MiB", 1),
    "packed and cut": (says("200 OK", gzip.compress(DATA)[:-9]), ImageRejected, "cut off", 1),
    "packed and more": (says("200 OK", gzip.compress(DATA) + b"more"), ImageRejected, "something else follows", 1),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_failure_has_its_error_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    handler, kind, words, requests = FAILURES[case]
    service = store(tmp_path, retries=2, max_unpacked=16 << 20)
    with serving(handler) as server, pytest.raises(kind, match=words) as caught:
        pull(service, server.url + "/a.raw")
    assert type(caught.value) is kind
    assert len(server.requests) == requests
    assert left_behind(service) == []
    assert service.list() == []


def test_the_bytes_of_a_wrong_digest_are_gone(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(file(DATA)) as server, pytest.raises(DigestMismatch, match="sha256"):
        pull(service, server.url + "/a.raw", digest="sha256:" + "0" * 64)
    assert left_behind(service) == []


def test_an_unreachable_server_is_not_waited_for(tmp_path: Path, quick: QuickClock) -> None:
    service = store(tmp_path)
    with serving(file(DATA)) as server:
        url = server.url
    with pytest.raises(FetchFailed, match=r"nothing answers on 127\.0\.0\.1"):
        pull(service, url + "/a.raw")
    assert quick.slept == []
    assert left_behind(service) == []


def test_an_unknown_host_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"no-such-host\.invalid"):
        pull(store(tmp_path), "http://no-such-host.invalid/a.raw")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a.raw",
        "http:///a.raw",
        "http://h:99999/a.raw",
        "http://h:0/a",
        "https://[::1/a",
        "data://x",
        "http://a..b/a.raw",
        f"http://{'a' * 64}.org/a.raw",
    ],
)
def test_other_urls_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidRequest):
        pull(store(tmp_path), url, name="a")


def test_a_private_address_needs_permission(tmp_path: Path) -> None:
    with serving(file(DATA)) as server:
        with pytest.raises(FetchFailed, match="private_addresses"):
            pull(store(tmp_path, private_addresses=False), server.url + "/a.raw")
        assert server.requests == []


def test_a_public_server_cannot_send_us_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = addresses.rank
    monkeypatch.setattr(addresses, "rank", lambda text: addresses.Rank.PUBLIC if text == "127.0.0.1" else real(text))
    with serving(file(DATA), host="127.0.0.2") as inner, serving(redirect(inner.url + "/x")) as public:
        with pytest.raises(FetchFailed, match="redirect to the loopback address"):
            pull(store(tmp_path), public.url + "/a.raw")
        assert inner.requests == []


def test_a_name_that_is_taken_costs_no_request(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(file(DATA)) as server:
        pull(service, server.url + "/a.raw")
        with pytest.raises(NameTaken):
            pull(service, server.url + "/b.raw", name="a")
    assert len(server.requests) == 1


def test_too_little_space_is_seen_before_the_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cowshed.tools import filesystem

    monkeypatch.setattr(filesystem, "free_space", lambda path: 1000)
    service = store(tmp_path)
    with serving(file(DATA)) as server, pytest.raises(NoSpace) as caught:
        pull(service, server.url + "/a.raw")
    assert caught.value.needed == len(DATA)
    assert left_behind(service) == []


# --- passwords --------------------------------------------------------------------------------


def test_a_password_goes_to_its_own_server_only(tmp_path: Path) -> None:
    service = store(tmp_path)
    with serving(file(DATA), host="127.0.0.2") as other, serving(redirect("/in"), redirect(other.url + "/a")) as server:
        pull(service, server.url.replace("//", "//joe:s%40cret@") + "/a.raw?token=s3cret")
    assert [request.headers.get("authorization") for request in server.requests] == ["Basic am9lOnNAY3JldA=="] * 2
    assert "authorization" not in other.requests[0].headers
    image = service.show("a")
    assert "cret" not in (service.root / image.id / "image.json").read_text()
    assert image.source == server.url + "/a.raw?..."


def test_an_error_does_not_show_the_password(tmp_path: Path) -> None:
    with serving(says("404 Not Found")) as server, pytest.raises(FetchFailed) as caught:
        pull(store(tmp_path), server.url.replace("//", "//joe:secret@") + "/a.raw?token=s3cret")
    assert "secret" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = store(tmp_path)
    with serving(file(DATA)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        pull(service, "http://images.example.org/a.raw")
        assert proxy.requests[0].path == "http://images.example.org/a.raw"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        pull(service, proxy.url + "/b.raw")
        assert proxy.requests[1].path == "/b.raw"


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://127.0.0.1:1", "nothing answers at the proxy 127.0.0.1:1 "),
        ("http://[::1]:1", "nothing answers at the proxy ::1:1 "),
        ("no-such-proxy.invalid:3128", "the proxy no-such-proxy.invalid has no address"),
        ("http://me:secret@127.0.0.1:99999", "has a wrong port"),
        ("http://", "has no host name"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_not_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(FetchFailed) as caught:
        pull(store(tmp_path), "http://images.example.org/a.raw")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_ipv6_address_needs_no_brackets_to_go_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "::1")
    assert transport._proxy(urlsplit("http://[::1]:8080/a")) is None
    assert transport._proxy(urlsplit("http://[::2]:8080/a")) is not None


# --- a later pull goes on ---------------------------------------------------------------------


def broken_pull(service: DirectoryService, url: str) -> CowshedError:
    with pytest.raises(FetchFailed) as caught:
        pull(service, url)
    return caught.value


def test_a_later_pull_goes_on_where_the_first_one_ended(tmp_path: Path) -> None:
    service = store(tmp_path, retries=0)
    with serving(cut(DATA, 3 << 20), file(DATA)) as server:
        error = broken_pull(service, server.url + "/a.raw")
        assert error.hint is not None
        assert "kept" in error.hint
        assert service.list() == []
        image = pull(service, server.url + "/a.raw", digest=SHA256)
    assert server.requests[1].headers["range"] == f"bytes={3 << 20}-"
    assert bytes_of(service, "a") == DATA
    assert left_behind(service) == [f"{image.id}/data", f"{image.id}/image.json"]


def test_also_inside_a_wrapper(tmp_path: Path) -> None:
    packed = gzip.compress(DATA)
    service = store(tmp_path, retries=0)
    with serving(cut(packed, 1 << 20), file(packed)) as server:
        broken_pull(service, server.url + "/a.raw.gz")
        pull(service, server.url + "/a.raw.gz")
    assert server.requests[1].headers["range"] == f"bytes={1 << 20}-"
    assert bytes_of(service, "a") == DATA


def test_a_changed_file_starts_anew_later_too(tmp_path: Path) -> None:
    service = store(tmp_path, retries=0)
    with serving(cut(DATA, 3 << 20), file(DATA[::-1], etag='"two"')) as server:
        broken_pull(service, server.url + "/a.raw")
        pull(service, server.url + "/a.raw")
    assert bytes_of(service, "a") == DATA[::-1]


def test_a_resumed_download_with_the_wrong_digest_is_fetched_anew(tmp_path: Path) -> None:
    """The server keeps its ETag although the file changed; only the digest can tell."""
    service = store(tmp_path, retries=0)
    with serving(cut(DATA[::-1], 3 << 20), file(DATA)) as server:
        broken_pull(service, server.url + "/a.raw")
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert [("range" in request.headers) for request in server.requests] == [False, True, False]
    assert bytes_of(service, "a") == DATA


def test_after_a_crash_of_the_host_only_synced_bytes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cowshed.images import partial

    service = store(tmp_path, retries=0)
    with serving(cut(DATA, 3 << 20), file(DATA)) as server:
        broken_pull(service, server.url + "/a.raw")
        (data,) = service.partials.glob("*.data")
        with data.open("ab") as tail:
            tail.write(bytes(4096))  # a longer file than was synced
        monkeypatch.setattr(partial, "_boot", lambda: "another boot")
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert server.requests[1].headers["range"] == f"bytes={3 << 20}-"


def test_a_complete_partial_file_needs_no_body(tmp_path: Path) -> None:
    """Killed between the last byte and publishing: the server says that there is no more."""
    service = store(tmp_path, retries=0)
    with serving(cut(DATA, len(DATA) - 1), says("416 Range", Content_Range=f"bytes */{len(DATA)}")) as server:
        broken_pull(service, server.url + "/a.raw")
        (data,) = service.partials.glob("*.data")
        with data.open("ab") as tail:
            tail.write(DATA[-1:])
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert bytes_of(service, "a") == DATA


@pytest.mark.parametrize("by", [Interrupted(what="x"), KeyboardInterrupt()], ids=["progress", "signal"])
def test_an_interruption_keeps_what_came(tmp_path: Path, by: BaseException) -> None:
    class Stop:
        count = 0

        def phase(self, name: str, total: int | None = None) -> None: ...
        def update(self, done: int) -> None: ...

        def check(self) -> None:
            self.count += 1
            if self.count > 20:
                raise by

    service = store(tmp_path)
    with serving(file(DATA)) as server:
        with pytest.raises(Interrupted, match="downloading") as caught:
            pull(service, server.url + "/a.raw", progress=Stop())
        assert caught.value.hint is not None
        assert service.list() == []
        pull(service, server.url + "/a.raw", digest=SHA256)
    assert server.requests[1].start > 0


def test_two_pulls_of_one_url_do_not_disturb_each_other(tmp_path: Path) -> None:
    import threading

    service = store(tmp_path)
    gate = threading.Event()

    def slow(request: Request, connection: Connection) -> None:
        connection.head(Content_Length=len(DATA), ETag='"one"')
        connection.send(DATA[:100])
        gate.wait(5)
        connection.send(DATA[100:])

    with serving(slow, file(DATA)) as server:
        first = threading.Thread(target=pull, args=(service, server.url + "/a.raw"), kwargs={"name": "first"})
        first.start()
        while not server.requests:
            time.sleep(0.01)
        pull(service, server.url + "/a.raw", name="second")
        gate.set()
        first.join(20)
    assert bytes_of(service, "first") == bytes_of(service, "second") == DATA
    assert list(service.partials.glob("*.data")) == []


def test_old_partial_files_are_removed(tmp_path: Path) -> None:
    service = store(tmp_path, retries=0)
    with serving(cut(DATA, 3 << 20)) as server:
        broken_pull(service, server.url + "/a.raw")
    assert service.clean() == 0
    for path in service.partials.iterdir():
        os.utime(path, (1, 1))
    assert service.clean() == 1
    service.clean()
    assert left_behind(service) == []
