"""Bytes from a web server that may lie or fail: redirects, retries, resuming, bounds.

Every answer is held against what the server said before: a length it announced, the validator of
the bytes we have, the range we asked for. What does not fit is an error or a new start, never a
file of mixed content.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from cowshed import log
from cowshed.config import ImagesSection
from cowshed.contract.callbacks import Progress
from cowshed.errors import FetchFailed, ImageRejected, InvalidRequest
from cowshed.images.addresses import Policy
from cowshed.images.attempts import Attempts, Transient, retry_after
from cowshed.images.partial import Validator
from cowshed.units import format_size

if TYPE_CHECKING:
    import httpcore

_log = log.logger(__name__)

SCHEMES: Final = ("http", "https")
_REDIRECTS: Final = 5
_REDIRECT_CODES: Final = (301, 302, 303, 307, 308)
_TRY_AGAIN: Final = (408, 425, 429, 500, 502, 503, 504)
_SAFE: Final = "/%:@!$&'()*+,;=~-._"  # characters of a path that stay (RFC 3986)
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NO_RANGE: Final = re.compile(r"bytes \*/(\d+)")

Begin = Callable[[int, Validator], None]


class _Changed(Exception):
    """The bytes at the URL are not those we have a part of."""


@dataclass(slots=True)
class _Answer:
    """An answer with a usable body that begins at byte ``start`` of the file."""

    start: int
    validator: Validator
    length: int | None
    response: httpcore.Response


class HttpSource:
    """One URL. ``url`` is safe to show: without a password, and without the words of a query."""

    def __init__(self, text: str, section: ImagesSection) -> None:
        """:raises InvalidRequest: it is not a URL that can be fetched"""
        self._target = _parse(text)
        self._section = section
        self.url = shown(text)
        self.key = text

    def chunks(self, have: int, validator: Validator, begin: Begin, progress: Progress) -> Iterator[bytes]:
        """The bytes of the file, in order and complete, or an error.

        :param have: how many bytes there are already, of the file that ``validator`` describes
        :param begin: called before the bytes from position p on come: once, and again when it starts anew
        :raises FetchFailed: :raises ImageRejected: it is too large
        """
        position, begun = have, False
        attempts = Attempts(self._section.retries, self.url, self._failed, progress)
        while True:
            try:
                with ExitStack() as stack:
                    answer = self._ask(position, validator, stack)
                    if not begun or answer.start != position or not position:
                        position, validator, begun = answer.start, answer.validator, True
                        begin(position, validator)
                        progress.phase("download", validator.size)
                        progress.update(position)
                    for data in self._body(answer):
                        position += len(data)
                        self._check_size(position)
                        yield data
                    self._check_end(answer, position)
                return
            except _Changed:
                _log.info("%s has changed; starting anew", self.url)
                attempts.again(Transient("the file changes while it is downloaded"))
                position, validator, begun = 0, Validator(), False
            except Transient as error:
                if position and not validator.condition:
                    position, begun = 0, False  # nothing proves that a continuation would be of the same file
                attempts.again(error)

    # --- one answer ---------------------------------------------------------------------------

    def _ask(self, position: int, validator: Validator, stack: ExitStack) -> _Answer:
        """Follow redirects up to an answer with a body."""
        policy = Policy(private=self._section.private_addresses)
        url = self._target
        for _ in range(_REDIRECTS + 1):
            hop = stack.enter_context(ExitStack())
            response = self._get(url, _headers(url, position, validator), policy, hop)
            if response.status not in _REDIRECT_CODES:
                return self._judge(response, position, validator)
            location = _header(response, "location")
            hop.close()
            url = self._redirected(url, location)
        raise self._failed(f"it redirects more than {_REDIRECTS} times")

    def _get(
        self, url: SplitResult, headers: list[tuple[str, str]], policy: Policy, stack: ExitStack
    ) -> httpcore.Response:
        from cowshed.images import transport

        try:
            return stack.enter_context(
                transport.get(
                    url,
                    _wire(url),
                    headers,
                    policy=policy,
                    connect_timeout=self._section.connect_timeout,
                    read_timeout=self._section.read_timeout,
                )
            )
        except transport.Refused as error:
            raise self._failed(str(error)) from error
        except transport.Unresolvable as error:
            raise self._failed(str(error), hint="check the spelling, and this host's name servers") from error
        except transport.ERRORS as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        """A failed request, for good or for another attempt."""
        cause: BaseException | None = error
        while cause:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return self._failed(f"its certificate is not valid: {cause.verify_message}")
            if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
                return self._failed("the server does not speak TLS on this port", hint="is it http:// that you want?")
            if isinstance(cause, ConnectionRefusedError):
                return self._failed(
                    f"nothing answers on {self._target.hostname}", hint="check the address and port, and the network"
                )
            cause = cause.__cause__ or cause.__context__
        kind = type(error).__name__
        if "Timeout" in kind:
            seconds = self._section.connect_timeout if kind == "ConnectTimeout" else self._section.read_timeout
            return Transient(
                f"the server is silent: {error}" if "bytes" in str(error) else f"no answer within {seconds:g} s"
            )
        return Transient(f"the connection broke: {str(error) or kind}")

    def _redirected(self, url: SplitResult, location: str) -> SplitResult:
        if not location:
            raise self._failed("it redirects nowhere")
        target = urljoin(url._replace(fragment="").geturl(), location)
        scheme = target.partition(":")[0].lower()
        if scheme not in SCHEMES:
            raise self._failed(f"a redirect to {shown(target)[:200]} is refused")
        if url.scheme == "https" and scheme == "http":
            raise self._failed(f"a redirect from https to {shown(target)[:200]} is refused")
        found = _parse(target)
        if _origin(found) == _origin(url) and url.username and not found.username:
            found = found._replace(netloc=url.netloc)  # the same server; nobody else gets the password
        return found

    def _judge(self, response: httpcore.Response, position: int, validator: Validator) -> _Answer:
        status = response.status
        if status == 200:
            self._check_encoding(response)
            length = self._length(response)
            return _Answer(0, _validator(response, length), length, response)
        if status == 206 and position:
            return self._judge_range(response, position, validator)
        if status == 416 and position:
            if (match := _NO_RANGE.fullmatch(_header(response, "content-range"))) and int(match[1]) == position:
                return _Answer(position, validator, 0, response)  # we had it all
            raise _Changed
        if status in _TRY_AGAIN:
            raise Transient(f"the server answers {_status(response)}", retry_after(_header(response, "retry-after")))
        hint = {401: "it wants a user and password", 403: "it wants a user and password"}.get(status)
        raise self._failed(f"the server answers {_status(response)}", hint=hint)

    def _judge_range(self, response: httpcore.Response, position: int, validator: Validator) -> _Answer:
        self._check_encoding(response)
        match = _RANGE.fullmatch(_header(response, "content-range"))
        if not match or int(match[1]) != position or int(match[2]) < position:
            raise _Changed
        total = int(match[3]) if match[3] != "*" else None
        now = _validator(response, total)
        if total is not None and validator.size not in (None, total):
            raise _Changed
        # An ETag that we have asked by is repeated, a date need not be (RFC 9110, 15.3.7).
        if now.etag != validator.etag and (now.etag or validator.etag == validator.condition):
            raise _Changed
        if now.modified and now.modified != validator.modified:
            raise _Changed
        length = int(match[2]) - position + 1
        announced = self._length(response)
        if announced not in (None, length):
            raise self._failed("the server's range and length contradict each other")
        return _Answer(position, validator, length, response)

    def _check_encoding(self, response: httpcore.Response) -> None:
        """We asked for the bytes as they are. (Some servers call a .gz file an encoding of another file.)"""
        encoding = _header(response, "content-encoding").lower()
        if encoding in ("", "identity") or (encoding in ("gzip", "x-gzip") and self._target.path.endswith(".gz")):
            return
        raise self._failed(f"the server encodes the file as {encoding} although it was asked not to")

    def _length(self, response: httpcore.Response) -> int | None:
        text = _header(response, "content-length")
        if not text:
            return None
        if not text.isdecimal():
            raise self._failed(f"the server announces {text!r} bytes")
        self._check_size(int(text))
        return int(text)

    def _check_size(self, size: int) -> None:
        if size > self._section.max_unpacked:
            raise ImageRejected(
                image=self.url,
                reason=f"it is larger than {format_size(self._section.max_unpacked)}",
                hint="see [images] max_unpacked in the configuration",
            )

    # --- the body -----------------------------------------------------------------------------

    def _body(self, answer: _Answer) -> Iterator[bytes]:
        from cowshed.images import transport

        if answer.length == 0 and answer.start:
            return
        stream: Any = answer.response.iter_stream()
        first = answer.start == 0 and "text/html" in _header(answer.response, "content-type").lower()
        while True:
            try:
                data = next(stream, None)
            except transport.ERRORS as error:
                raise self._translated(error) from error
            if data is None:
                return
            if first and data.lstrip().startswith(b"<"):
                raise self._failed("the server sends a web page, not an image", hint="open it in a browser to see why")
            first = False
            yield data

    def _check_end(self, answer: _Answer, position: int) -> None:
        """Did all come that was announced, and no more?"""
        if answer.validator.size is not None and position < answer.validator.size:
            raise Transient(f"the server sent {position} of {answer.validator.size} bytes")
        stream = answer.response.extensions["network_stream"].get_extra_info("stream")
        if stream is None or answer.length is None or not answer.length:
            return
        if stream.body_received > answer.length or stream.more_waits():
            raise self._failed(f"the server sends more than the {answer.length} bytes it announced")

    def _failed(self, reason: str, *, hint: str | None = None) -> FetchFailed:
        return FetchFailed(url=self.url, reason=reason, hint=hint)


# --- words on the wire ------------------------------------------------------------------------


def _parse(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        port = url.port
        (url.hostname or "").encode("idna")  # a label that is empty or too long
    except ValueError as error:
        raise InvalidRequest(reason=f"{shown(text)} is not a URL: {error}") from error
    if url.scheme not in SCHEMES or not url.hostname or port == 0:
        raise InvalidRequest(reason=f"{shown(text)} is not a URL that can be fetched", hint="http and https are known")
    return url


def shown(text: str) -> str:
    """A URL for people and records: no user, no password, no query (signed URLs carry secrets there)."""
    try:
        url = urlsplit(text)
    except ValueError:
        return re.sub(r"//[^/]*@", "//", text.partition("?")[0])
    netloc = url.netloc.rpartition("@")[2]
    return url._replace(netloc=netloc, query="..." if url.query else "", fragment="").geturl()


def _wire(url: SplitResult) -> str:
    assert url.hostname
    host = f"[{url.hostname}]" if ":" in url.hostname else quote(url.hostname.encode("idna").decode(), safe="")
    port = f":{url.port}" if url.port else ""
    query = f"?{quote(url.query, safe=_SAFE + '?')}" if url.query else ""
    return f"{url.scheme}://{host}{port}{quote(url.path, safe=_SAFE) or '/'}{query}"


def _origin(url: SplitResult) -> tuple[str, str | None, int]:
    return url.scheme, url.hostname, url.port or (443 if url.scheme == "https" else 80)


def _headers(url: SplitResult, position: int, validator: Validator) -> list[tuple[str, str]]:
    from cowshed import __version__
    from cowshed.images import transport

    host = _wire(url).partition("://")[2].partition("/")[0]
    headers = [("Host", host), ("User-Agent", f"cowshed/{__version__}"), ("Accept", "*/*")]
    headers += [("Accept-Encoding", "identity"), ("Connection", "close")]
    if url.username:
        headers.append(("Authorization", transport.basic(unquote(url.username), unquote(url.password or ""))))
    if position and validator.condition:
        headers += [("Range", f"bytes={position}-"), ("If-Range", validator.condition)]
    return headers


def _header(response: httpcore.Response, name: str) -> str:
    found = [value for key, value in response.headers if key.lower() == name.encode()]
    return found[-1].decode("latin-1").strip() if found else ""


def _validator(response: httpcore.Response, size: int | None) -> Validator:
    return Validator(_header(response, "etag"), _header(response, "last-modified"), size)


def _status(response: httpcore.Response) -> str:
    phrase = response.extensions.get("reason_phrase", b"").decode("latin-1")
    return f"{response.status} {''.join(c for c in phrase if c.isprintable())[:80]}".strip()
