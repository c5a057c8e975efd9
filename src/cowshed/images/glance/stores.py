"""Where Glance keeps bytes: its stores, the locations of an image, and copies between stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cowshed import clock, log
from cowshed.contract.callbacks import Progress
from cowshed.errors import InvalidRequest
from cowshed.images.glance.client import Client
from cowshed.model.image import Image, Location

_log = log.logger(__name__)

Patch = Callable[[str, Sequence[Mapping[str, Any]]], Mapping[str, Any]]


def locations(record: Mapping[str, Any]) -> Sequence[Location]:
    """Those in the record, and its direct URL."""
    found: dict[str, Location] = {}
    for entry in record.get("locations") or ():
        if isinstance(entry, dict) and isinstance(entry.get("url"), str):
            metadata = entry.get("metadata") or {}
            found[entry["url"]] = Location(entry["url"], {str(key): str(value) for key, value in metadata.items()})
    direct = record.get("direct_url")
    if isinstance(direct, str):
        found.setdefault(direct, Location(direct))
    return tuple(found.values())


def add_location(
    client: Client, image_id: str, location: Location, patch: Patch, progress: Progress
) -> Mapping[str, Any]:
    """The new call of Glance 2025.1 where we may use it, else the change of the record that was before it.

    The new call finishes later, the old one at once.
    """
    action = f"register the location of image {image_id}"
    response = client.call(
        "POST",
        f"/images/{image_id}/locations",
        action=action,
        subject=f"image {image_id}",
        accept=(403, 404, 405, 501),
        again=(409,),
        json={"url": location.url, "validation_data": {}},
    )
    if response.status_code >= 400 and response.status_code != 409:
        # The new call is for services (403) and may not be there; 404 may also be about the image: this one says so.
        response.close()
        patch(
            image_id,
            [
                {
                    "op": "add",
                    "path": "/locations/-",
                    "value": {"url": location.url, "metadata": dict(location.metadata)},
                }
            ],
        )
    watch = _Watch(client, image_id, progress)
    return _until(client, image_id, action, lambda record: _registered(client, record, action, watch), progress)


def _registered(client: Client, record: Mapping[str, Any], action: str, watch: _Watch) -> bool:
    status = record.get("status")
    if status == "active":
        return True
    if status in ("killed", "deleted", "pending_delete"):
        raise client.failed(action, f"the image is {status} afterwards")
    if status == "queued" and watch.failed():  # the service did it on its own, and took it back
        raise client.failed(action, watch.reason() or "it does not say why; its log does")
    return False


def known(client: Client) -> Mapping[str, Any]:
    action = "list its stores"
    response = client.call("GET", "/info/stores", action=action, subject="its stores", accept=(404,))
    if response.status_code == 404:
        return {}
    entries = client.json(response, action).get("stores")
    return {str(entry["id"]): entry for entry in entries or () if isinstance(entry, dict) and "id" in entry}


def copy(client: Client, image: Image, store: str, progress: Progress) -> Mapping[str, Any]:
    """Ask for a copy and wait for it. Somebody else's copy of the same image is waited for as well."""
    name = image.name or image.id
    action = f"copy image {name} to store {store}"
    record = _record(client, image.id, action)
    if store in _listed(record, "stores"):
        return record
    if store not in known(client):
        raise InvalidRequest(
            reason=f"the image service has no store {store!r}", hint=f"known: {', '.join(known(client)) or 'none'}"
        )
    body = {"method": {"name": "copy-image"}, "stores": [store], "all_stores_must_succeed": True}
    response = client.call(
        "POST", f"/images/{image.id}/import", action=action, subject=f"image {name}", accept=(400, 409), json=body
    )
    if response.status_code >= 400:
        record = _record(client, image.id, action)
        if store not in (*_listed(record, "stores"), *_listed(record, "os_glance_importing_to_stores")):
            client.judge(response, action=action, subject=f"image {name}", repeatable=False)
    progress.phase("copy", image.size or None)
    watch = _Watch(client, image.id, progress)
    return _until(client, image.id, action, lambda record: _copied(client, record, store, action, watch), progress)


def _copied(client: Client, record: Mapping[str, Any], store: str, action: str, watch: _Watch) -> bool:
    if store in _listed(record, "stores"):
        return True
    if store in _listed(record, "os_glance_failed_import"):
        raise client.failed(action, watch.reason() or "it does not say why; its log does")
    if store not in _listed(record, "os_glance_importing_to_stores") and watch.over():
        raise client.failed(action, watch.reason() or "the copy ended without a result")
    watch.look()
    return False


class _Watch:
    """What Glance says of its own task: how far it is, and why it failed."""

    def __init__(self, client: Client, image_id: str, progress: Progress) -> None:
        self._client = client
        self._path = f"/images/{image_id}/tasks"
        self._progress = progress
        self._told = 0

    def _last(self) -> Mapping[str, Any]:
        action = "tell about its tasks"
        response = self._client.call("GET", self._path, action=action, subject="tasks", accept=(403, 404))
        if response.status_code >= 400:  # older than 2022, or not ours to see
            return {}
        tasks = [task for task in self._client.json(response, action).get("tasks") or () if isinstance(task, dict)]
        return max(tasks, key=lambda task: str(task.get("created_at", "")), default={})

    def over(self) -> bool:
        return self._last().get("status") in ("success", "failure", None)

    def failed(self) -> bool:
        return self._last().get("status") == "failure"

    def reason(self) -> str:
        return " ".join(str(self._last().get("message") or "").split())[:300]

    def look(self) -> None:
        """``Copied 12 MiB`` is all it ever says."""
        words = str(self._last().get("message") or "").split()
        if len(words) >= 3 and words[0] == "Copied" and words[1].isdecimal():
            done = int(words[1]) << 20
            self._progress.update(max(0, done - self._told))
            self._told = max(done, self._told)


def _until(
    client: Client, image_id: str, action: str, done: Callable[[Mapping[str, Any]], bool], progress: Progress
) -> Mapping[str, Any]:
    """Ask for the record until ``done`` says yes."""
    deadline = clock.Deadline(client.section.task_timeout, f"what the image service was asked ({action})")
    pause = min(0.05, client.section.poll_interval)
    while not done(record := _record(client, image_id, action)):
        progress.check()
        deadline.check()
        clock.current().sleep(min(pause, deadline.remaining() or pause))
        pause = min(2 * pause, client.section.poll_interval)
    return record


def _record(client: Client, image_id: str, action: str) -> Mapping[str, Any]:
    return client.json(client.call("GET", f"/images/{image_id}", action=action, subject=f"image {image_id}"), action)


def _listed(record: Mapping[str, Any], key: str) -> list[str]:
    """Lists of stores are one text with commas."""
    return [word.strip() for word in str(record.get(key) or "").split(",") if word.strip()]
