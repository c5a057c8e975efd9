"""Requests to Glance: who asks (openstacksdk), whom (several endpoints), again (bounded), and what an answer means."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cowshed import log
from cowshed.config import GlanceSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import (
    ConfigError,
    Conflict,
    CowshedError,
    ImageNotFound,
    ImageRejected,
    ImageServiceFailed,
    InvalidRequest,
    PermissionDenied,
    ToolMissing,
)
from cowshed.images.attempts import Attempts, Transient, retry_after

_log = log.logger(__name__)

_SECTION: Final = "[glance]"
_OVERLOADED: Final = (429, 503)  # nothing was done
_BROKEN: Final = (408, 425, 500, 502, 504)  # something may have been done
_ELSEWHERE: Final = (502, 503, 504)
_LONGEST_WORDS: Final = 300


class Client:
    """One Glance. Any number of threads may use it."""

    def __init__(self, section: GlanceSection) -> None:
        self.section = section
        self._lock = threading.RLock()
        self._turn = 0

    # --- who and whom -------------------------------------------------------------------------

    @cached_property
    def _connection(self) -> Any:
        """:raises ConfigError: :raises ToolMissing: openstacksdk is not installed"""
        with self._lock:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the library warns of its own configuration
                    import openstack
            except ImportError as error:
                raise ToolMissing(tool="openstacksdk", hint="pip install 'cowshed[glance]'") from error
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    # Without it, requests to Keystone wait for an answer without end.
                    return openstack.connect(
                        **self._credentials(), api_timeout=self.section.read_timeout, app_name="cowshed"
                    )
            except (openstack.exceptions.ConfigException, ValueError, TypeError) as error:
                raise ConfigError(source=_SECTION, reason=str(error)) from error
            except Exception as error:
                from keystoneauth1.exceptions import ClientException

                if isinstance(error, ClientException):  # an option that is missing, for one
                    raise ConfigError(source=_SECTION, reason=str(error)) from error
                raise

    def _credentials(self) -> dict[str, Any]:
        section = self.section
        places = {"region_name": section.region or None, "image_interface": section.interface}
        given = {key: value for key, value in places.items() if value}
        if section.ca_file:
            given["cacert"] = section.ca_file
        if section.cloud:
            return {"cloud": section.cloud, **given}
        if not section.auth_url:
            return given
        named = {
            "auth_url": section.auth_url,
            "username": section.username,
            "project_name": section.project,
            "user_domain_name": section.user_domain,
            "project_domain_name": section.project_domain,
            "password": _password(section.password_file),
        }
        return {"load_yaml_config": False, "load_envvars": False, "auth": named, **given}

    @cached_property
    def endpoints(self) -> Sequence[str]:
        """Addresses up to and with ``/v2``."""
        if self.section.endpoints:
            return tuple(_versioned(url) for url in self.section.endpoints)
        with self._lock, self.explained("find the address of"):
            found = self._connection.session.get_endpoint(
                service_type="image",
                interface=self._connection.config.get_interface("image"),
                region_name=self._connection.config.get_region_name("image"),
            )
        if not found:
            raise ConfigError(source=_SECTION, reason="the catalogue of this cloud has no image service")
        return (_versioned(found),)

    @property
    def url(self) -> str:
        """The endpoint that is asked at the moment; for people."""
        if "endpoints" in self.__dict__:
            return self.endpoints[self._turn % len(self.endpoints)]
        return self.section.cloud or self.section.auth_url or "(OS_* variables)"

    def avoid(self, endpoint: str) -> None:
        """Ask another server from now on, unless somebody has turned already."""
        with self._lock:
            if self.url == endpoint:
                self._turn += 1

    # --- ask ----------------------------------------------------------------------------------

    def attempts(self, action: str, progress: Progress = SILENT) -> Attempts:
        with self.explained(action):
            places = len(self._found(action, progress))
        return Attempts(
            self.section.retries,
            f"glance: {action}",
            lambda reason: self.failed(action, reason),
            progress,
            places=places,
        )

    def _found(self, action: str, progress: Progress) -> Sequence[str]:
        """The endpoints; Keystone, too, may be away for a moment."""
        attempts = Attempts(self.section.retries, "keystone", lambda reason: self.failed(action, reason), progress)
        while True:
            try:
                return self.endpoints
            except Transient as error:
                attempts.again(error)

    def call(
        self,
        method: str,
        path: str,
        *,
        action: str,
        subject: str,
        progress: Progress = SILENT,
        accept: Sequence[int] = (),
        again: Sequence[int] = (),
        **arguments: Any,
    ) -> Any:
        """One request with all its attempts; an answer that is not a success is an error.

        :param action: completes "the image service could not ..."
        :param subject: the image, for messages
        :param accept: other statuses that are answers
        :param again: statuses that are answers from the second attempt on: the first may have done it, and only its
            answer was lost
        :param arguments: of ``requests``
        :raises ImageNotFound: :raises PermissionDenied: :raises Conflict: :raises InvalidRequest:
        :raises ImageServiceFailed: it is down, or says nothing that makes sense
        """
        attempts = self.attempts(action, progress)
        while True:
            try:
                response = self.once(method, path, action=action, **arguments)
                if response.status_code in accept:
                    return response
                self.judge(response, action=action, subject=subject, repeatable=method in ("GET", "DELETE"))
                return response
            except Transient as error:
                attempts.again(error)
                accept = (*accept, *again)

    def once(self, method: str, path: str, *, action: str, **arguments: Any) -> Any:
        """One request, whatever its answer is. :raises Transient: there was none"""
        endpoint = self.endpoints[self._turn % len(self.endpoints)]
        settings: dict[str, Any] = {
            "authenticated": True,
            "raise_exc": False,
            "redirect": False,  # the token is for this server and no other
            "connect_retries": 0,
            "status_code_retries": 0,
            "timeout": (self.section.connect_timeout, self.section.read_timeout),
            **arguments,
        }
        try:
            with self.explained(action):
                response = self._connection.session.request(endpoint + path, method, **settings)
        except Transient:
            self.avoid(endpoint)
            raise
        if response.status_code in _ELSEWHERE:
            self.avoid(endpoint)
        return response

    def renew_token(self) -> None:
        """The next request asks Keystone for a new one."""
        self._connection.session.invalidate()

    def token_lasts(self, seconds: float) -> bool:
        access = self._connection.session.auth.get_access(self._connection.session)
        return not access.will_expire_soon(stale_duration=seconds)

    @contextmanager
    def explained(self, action: str) -> Iterator[None]:
        """Errors of the libraries below as ours. Loaded only when there is one."""
        try:
            yield
        except (CowshedError, Transient):
            raise
        except Exception as error:
            from keystoneauth1 import exceptions as keystone

            if not isinstance(error, keystone.ClientException):
                raise
            if isinstance(error, keystone.ConnectFailure | keystone.ConnectTimeout | keystone.UnknownConnectionError):
                raise Transient(_words_of(error)) from error
            if isinstance(error, keystone.Unauthorized):
                raise PermissionDenied(
                    action=action,
                    path="the image service",
                    hint=f"Keystone refuses the user and password of {_SECTION}",
                ) from error
            if isinstance(error, keystone.HttpError) and error.http_status in (*_OVERLOADED, *_BROKEN):
                raise Transient(f"Keystone answers {error.http_status}") from error
            raise self.failed(action, _words_of(error)) from error

    # --- understand ---------------------------------------------------------------------------

    def judge(self, response: Any, *, action: str, subject: str, repeatable: bool) -> None:
        """:raises Transient: worth another attempt :raises CowshedError: what the answer means, unless it is a success"""
        status: int = response.status_code
        if 200 <= status < 300:
            return
        words = detail(response)
        response.close()
        if status in _OVERLOADED or (repeatable and status in _BROKEN):
            raise Transient(_answers(status, words), retry_after(response.headers.get("Retry-After", "")))
        raise self._meaning(status, words, action, subject)

    def _meaning(self, status: int, words: str, action: str, subject: str) -> CowshedError:
        said = _answers(status, words)
        if status in (401, 403):
            return PermissionDenied(action=action, path=subject, hint=said)
        if status in (404, 410):
            return ImageNotFound(name=subject.removeprefix("image "), hint=said if status == 410 else None)
        if status == 409:
            return Conflict(reason=f"the image service could not {action}: {words or said}")
        if status == 415:
            return ImageRejected(image=subject.removeprefix("image "), reason=words or said)
        if status == 400:
            return InvalidRequest(reason=f"the image service could not {action}: {words or said}")
        return self.failed(action, said)

    def failed(self, action: str, reason: str) -> ImageServiceFailed:
        return ImageServiceFailed(url=self.url, action=action, reason=reason)

    def json(self, response: Any, action: str) -> Mapping[str, Any]:
        """:raises ImageServiceFailed: it is none"""
        try:
            body = response.json()
        except ValueError as error:
            raise self.failed(action, "its answer is not JSON") from error
        if not isinstance(body, dict):
            raise self.failed(action, "its answer is not a JSON object")
        return body

    def close(self) -> None:
        if "_connection" in self.__dict__:
            self._connection.close()
            del self.__dict__["_connection"]


def detail(response: Any) -> str:
    """What an error answer says, as one short line of text."""
    import re

    try:
        text = (
            response.raw.read(64 << 10, decode_content=True).decode(errors="replace")
            if _unread(response)
            else response.text
        )
    except Exception:  # noqa: BLE001 - the status is what counts
        return ""
    if "<" in text:
        text = re.sub(r"<(head|title|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text[:_LONGEST_WORDS]


def _unread(response: Any) -> bool:
    return getattr(response, "_content", None) is False and response.raw is not None


def _answers(status: int, words: str) -> str:
    return f"it answers {status} {words}".strip()


def _words_of(error: BaseException) -> str:
    """The innermost reason: libraries wrap "connection refused" four times."""
    cause, reason = error.__cause__ or error.__context__, error
    while cause:
        if isinstance(cause, OSError) and str(cause):  # others are the libraries' own detours
            reason = cause
        cause = cause.__cause__ or cause.__context__
    if isinstance(reason, ConnectionRefusedError):
        return "nothing answers there (connection refused)"
    text = " ".join(str(reason).split())
    return text[:_LONGEST_WORDS] or type(error).__name__


def _versioned(url: str) -> str:
    url = url.rstrip("/")
    return url if url.endswith("/v2") else f"{url}/v2"


def _password(path: str) -> str:
    """:raises ConfigError:"""
    import os

    if not path:
        if "OS_PASSWORD" not in os.environ:
            raise ConfigError(
                source=_SECTION, reason="there is no password", hint="give a password_file or OS_PASSWORD"
            )
        return os.environ["OS_PASSWORD"]
    try:
        word = Path(path).read_text().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(source=_SECTION, reason=f"password_file: {error}") from error
    if not word:
        raise ConfigError(source=_SECTION, reason=f"password_file: there is no password in {path}")
    return word
