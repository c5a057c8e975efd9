"""What other hosts may ask of this one, over a channel: the calls of a move, and no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.errors import CowshedError, InternalError, InvalidRequest, NameTaken
from cowshed.manager import names
from cowshed.manager.records import Record, decode
from cowshed.migration import shape
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, InstanceState

if TYPE_CHECKING:
    from cowshed.manager.host import Host
    from cowshed.migration.transport import Channel

_log = log.logger(__name__)

SILENCE: Final = 24 * 3600.0  # seconds: a live migration may take hours, in which nothing is asked

Call = Callable[["Host", "Channel", Mapping[str, Any]], dict[str, Any]]


def serve(host: Host, channel: Channel) -> None:
    """Answer until the other side hangs up."""
    while True:
        try:
            message = channel.hear()
        except EOFError:
            return
        try:
            answer = _answered(host, channel, message)
        except CowshedError as error:
            _log.info("%s: %s", message.get("call"), error)
            channel.fail(error)
        else:
            channel.say(answer)


def _answered(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    call = CALLS.get(str(message.get("call")))
    if call is None:
        raise InvalidRequest(
            reason=f"there is no call {message.get('call')!r}", hint="use the same cowshed on both hosts"
        )
    try:
        return call(host, channel, message)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CowshedError):
            raise
        raise InternalError(reason=f"{message.get('call')}: {error!r}") from error


def _told(host: Host, message: Mapping[str, Any]) -> Record:
    """The record of the instance, as it would be here."""
    text = str(message["record"])
    found = shape.one("the record of the other host", text, partial(decode, state=InstanceState.RUNNING))
    host.driver.rooms.directory(found.uuid)  # a UUID, and nothing else
    names.check(found.name)
    created = float(message.get("created", 0))
    return dataclasses.replace(found, uri=host.driver.rooms.uri, boot_log=0, created=created)


def _check_free(host: Host, name: str) -> None:
    """:raises NameTaken: :raises InvalidRequest:"""
    try:
        host.instances.check_free(name)
    except NameTaken as error:
        raise _taken(name) from error


def _taken(name: str) -> NameTaken:
    """Said on the other host, where the instance of that name is the one to be moved: nobody shall remove that."""
    return NameTaken(
        kind="instance", name=name, hint="another one on the destination has its name; cowshed ls there shows it"
    )


def _meet(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    return host.driver.met(str(message["probe"]))


def _receive(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    instance = Instance(str(message["uuid"]), names.check(str(message["name"])), Flavor())
    _check_free(host, instance.name)
    host.driver.receive(instance, message, channel)
    return {"done": True}


def _finish(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    """Its name may have been taken while its disks came; from now on nobody takes it, until it is recorded."""
    record, power_on = _told(host, message), bool(message["power_on"])
    _check_free(host, record.name)
    with host.instances.locked(record.name):
        if host.instances.records.exists(record.name):
            raise _taken(record.name)
        image = host.driver.remembered_image(record.instance)
        host.driver.finish_migration(
            None, None, record.instance, str(message["info"]), record.vifs, image, True, power_on=power_on
        )
        _add(host, record if power_on else dataclasses.replace(record, state=InstanceState.STOPPED))
    return {"done": True}


def _has(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    return {"has": _is_known(host, str(message["uuid"]))}


def _discard(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    """Of a move that failed. What has a record here is an instance of this host, and stays; one that only has its name is another."""
    record = _told(host, message)
    if _is_known(host, record.uuid):
        raise NameTaken(kind="instance", name=record.name)
    host.driver.destroy(None, record.instance, record.vifs, destroy_disks=False)
    host.driver.discard_received(record.instance)
    return {"done": True}


def _check(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    record = _told(host, message)
    _check_free(host, record.name)
    source = dict(message["source"])
    return {"data": host.driver.check_can_live_migrate_destination(None, record.instance, source, {}, None)}


def _check_cleanup(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    host.driver.check_can_live_migrate_destination_cleanup(None, message["data"])
    return {"done": True}


def _prepare(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    record = _told(host, message)
    volumes = _volumes(message["data"].get("volumes", []), message["passwords"])
    data = host.driver.pre_live_migration(None, record.instance, volumes, record.vifs, None, message["data"])
    return {"data": data}


def _volumes(lines: list[Mapping[str, Any]], passwords: Mapping[str, str]) -> dict[str, Any] | None:
    """What a control plane would say of the volumes, with their passwords; None: nothing, where none has any."""
    from cowshed.driver.steps.passwords import added

    if not passwords:
        return None
    mapping = [
        {"connection_info": added(one["connection_info"], passwords.get(one["id"])), "mount_device": one["target"]}
        for one in lines
    ]
    return {"block_device_mapping": mapping}


def _rollback(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    record = _told(host, message)
    host.driver.rollback_live_migration_at_destination(None, record.instance, record.vifs, None)
    return {"done": True}


def _arrived(host: Host, channel: Channel, message: Mapping[str, Any]) -> dict[str, Any]:
    record = _told(host, message)
    _add(host, record)
    host.driver.post_live_migration_at_destination(None, record.instance, record.vifs)
    return {"done": True}


def _add(host: Host, record: Record) -> None:
    """Known already is success."""
    records = host.instances.records
    if not _is_known(host, record.uuid):
        records.update(records.add(record), "arrived")


def _is_known(host: Host, uuid: str) -> bool:
    return any(one.uuid == uuid for one in host.instances.records.all())


CALLS: Final[dict[str, Call]] = {
    "meet": _meet,
    "receive": _receive,
    "finish": _finish,
    "has": _has,
    "discard": _discard,
    "check": _check,
    "check_cleanup": _check_cleanup,
    "prepare": _prepare,
    "rollback": _rollback,
    "arrived": _arrived,
}
