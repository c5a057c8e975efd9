"""What domains may use on this host: libvirt's answer, remembered in a file so that it is asked once."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from cowshed import log
from cowshed.errors import CowshedError, HypervisorError, InvalidRequest, UnsupportedOperation
from cowshed.hypervisor import firmware
from cowshed.model.host import Firmware, HostCapabilities, VirtType
from cowshed.tools import filesystem, run

if TYPE_CHECKING:
    from cowshed.hypervisor.hypervisor import Hypervisor

_log = log.logger(__name__)

VERSION: Final = 2  # of the file
MACHINE: Final = "q35"
_DAEMONS: Final = ("libvirtd", "virtqemud")
_SWTPM: Final = ("swtpm", "swtpm_setup")
# A domain with nothing but what is in question: does this libvirt know passt?
_PASST: Final = """<domain type='qemu'><name>passt</name><memory>65536</memory><os><type>hvm</type></os><devices>
<emulator>{emulator}</emulator><interface type='user'><backend type='passt'/></interface></devices></domain>"""


def get(hypervisor: Hypervisor, *, cache: Path, virt_type: VirtType, note: str, emulator: str) -> HostCapabilities:
    """The remembered answer if nothing it depends on has changed, else a new one."""
    key = _key(hypervisor.uri, virt_type, emulator)
    found = _load(cache, key)
    if found is None:
        found = ask(hypervisor, virt_type=virt_type, emulator=emulator)
        _store(cache, key, found)
    return dataclasses.replace(found, note=note)


def ask(hypervisor: Hypervisor, *, virt_type: VirtType, emulator: str) -> HostCapabilities:
    """libvirt's present answer; seconds where it has to ask QEMU first.

    :raises ToolMissing: there is no QEMU
    :raises UnsupportedOperation: ``virt_type`` does not work here
    """
    arch = os.uname().machine
    xml = _domain_capabilities(hypervisor, emulator, arch, virt_type)
    domain = ET.fromstring(xml)  # noqa: S314 - libvirt's own words
    path = domain.findtext("path") or emulator
    told = hypervisor.call("describe the host", lambda c: str(c.getCapabilities()), repeat=True)
    host = ET.fromstring(told)  # noqa: S314
    return HostCapabilities(
        arch=arch,
        virt_type=virt_type,
        emulator=Path(path),
        libvirt=hypervisor.libvirt_version(),
        qemu=hypervisor.version(),
        machines=_machines(host, arch, path),
        firmwares=firmware.find(arch),
        cpu_modes=_cpu_modes(domain),
        disk_buses=_values(domain, "devices/disk", "bus"),
        graphics=_values(domain, "devices/graphics", "type"),
        video_models=_values(domain, "devices/video", "modelType"),
        rng_models=_values(domain, "devices/rng", "model"),
        tpm_versions=_tpm_versions(domain),
        passt=_knows_passt(hypervisor, path),
        session=hypervisor.session,
        max_vcpus=_max_vcpus(domain),
    )


def qemu_user(hypervisor: Hypervisor) -> tuple[int, int] | None:
    """From the base label of libvirt's DAC security driver, such as ``+64055:+109``; a session daemon has none."""
    told = hypervisor.call("describe the host", lambda c: str(c.getCapabilities()), repeat=True)
    for model in ET.fromstring(told).findall("host/secmodel"):  # noqa: S314 - libvirt's own words
        if model.findtext("model") == "dac":
            label = model.findtext("baselabel[@type='qemu']") or model.findtext("baselabel") or ""
            if found := re.fullmatch(r"\+?(\d+):\+?(\d+)", label.strip()):
                return int(found[1]), int(found[2])
    return None


def host_uuid(hypervisor: Hypervisor) -> str:
    """What libvirt tells this host from others by; a daemon that finds none makes one up, and keeps it while it runs."""
    told = hypervisor.call("describe the host", lambda c: str(c.getCapabilities()), repeat=True)
    return ET.fromstring(told).findtext("host/uuid") or ""  # noqa: S314 - libvirt's own words


def host_cpu(hypervisor: Hypervisor) -> dict[str, Any]:
    """The processor of this host in the words of ``cpu_info``: arch, model, vendor, topology, features."""
    told = hypervisor.call("describe the host", lambda c: str(c.getCapabilities()), repeat=True)
    cpu = ET.fromstring(told).find("host/cpu")  # noqa: S314 - libvirt's own words
    if cpu is None:
        return {}
    topology = cpu.find("topology")
    return {
        "arch": cpu.findtext("arch"),
        "model": cpu.findtext("model"),
        "vendor": cpu.findtext("vendor"),
        "topology": {name: int(topology.get(name, "0")) for name in ("sockets", "cores", "threads")}
        if topology is not None
        else {},
        "features": sorted({str(one.get("name")) for one in cpu.findall("feature")}),
    }


def _domain_capabilities(hypervisor: Hypervisor, emulator: str, arch: str, virt_type: VirtType) -> str:
    try:
        return hypervisor.call(
            f"say what {virt_type} guests may use",
            lambda c: str(c.getDomainCapabilities(emulator or None, arch, MACHINE, virt_type.value, 0)),
            repeat=True,
        )
    except InvalidRequest as error:
        if "not supported" not in str(error):
            raise
        operation = f"run {virt_type} guests"
        raise UnsupportedOperation(subject="this host", operation=operation, reason=str(error)) from error


def _machines(host: ET.Element, arch: str, emulator: str) -> dict[str, str]:
    """Short names to what they stand for; names that stand for themselves are there as well."""
    found: dict[str, str] = {}
    for node in host.findall(f"guest/arch[@name='{arch}']"):
        if node.findtext("emulator") not in (None, emulator):
            continue
        for machine in node.iter("machine"):
            name = machine.text or ""
            found.setdefault(name, machine.get("canonical") or name)
    return found


def _values(domain: ET.Element, device: str, enum: str) -> tuple[str, ...]:
    return tuple(value.text or "" for value in domain.findall(f"{device}/enum[@name='{enum}']/value"))


def _tpm_versions(domain: ET.Element) -> tuple[str, ...]:
    """Of the emulated ones; libvirt names versions since 8.10 only, and swtpm makes both."""
    if any(run.find(name) is None for name in _SWTPM):
        return ()
    if "emulator" not in _values(domain, "devices/tpm", "backendModel"):
        return ()
    return _values(domain, "devices/tpm", "backendVersion") or ("1.2", "2.0")


def _cpu_modes(domain: ET.Element) -> tuple[str, ...]:
    return tuple(mode.get("name") or "" for mode in domain.findall("cpu/mode[@supported='yes']"))


def _max_vcpus(domain: ET.Element) -> int:
    vcpu = domain.find("vcpu")
    return 0 if vcpu is None else int(vcpu.get("max") or 0)


def _knows_passt(hypervisor: Hypervisor, emulator: str) -> bool:
    """Is passt installed, and does libvirt take it? (libvirt can be built without it.)"""
    if run.find("passt") is None:
        return False
    xml = _PASST.format(emulator=emulator)
    try:
        hypervisor.call("read a domain with passt", lambda c: c.domainXMLToNative("qemu-argv", xml, 0), repeat=True)
    except HypervisorError as error:
        return not ("passt" in error.reason or "attribute 'type'" in error.reason)
    except CowshedError as error:
        _log.debug("whether libvirt knows passt stays unknown: %s", error)
        return False
    return True


# --- remembering ------------------------------------------------------------------------------


def _key(uri: str, virt_type: VirtType, emulator: str) -> dict[str, Any]:
    """All that the answer depends on, found without asking libvirt."""
    arch = os.uname().machine
    found = [run.find(name) for name in (*_DAEMONS, *_SWTPM, "passt")]
    programs = [emulator or run.find(f"qemu-system-{arch}"), *found]
    folders = [str(folder) for folder in firmware.directories()]
    return {
        "version": VERSION,
        "uri": uri,
        "virt_type": virt_type.value,
        "emulator": emulator,
        "files": {path: _stamp(path) for path in [*programs, *folders] if path},
    }


def _stamp(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size if os.path.isfile(path) else 0]


def _load(cache: Path, key: dict[str, Any]) -> HostCapabilities | None:
    try:
        record = json.loads(cache.read_text())
        if record["key"] != key:
            return None
        return _decode(record["capabilities"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not isinstance(error, FileNotFoundError):
            _log.debug("%s cannot be used: %s", cache, error)
        return None


def _decode(values: dict[str, Any]) -> HostCapabilities:
    convert: dict[str, Callable[[Any], Any]] = {
        "virt_type": VirtType,
        "emulator": Path,
        "libvirt": tuple,
        "qemu": tuple,
        "firmwares": lambda found: tuple(
            Firmware(Path(f["loader"]), Path(f["nvram_template"]), f["secure_boot"], f["enrolled"]) for f in found
        ),
    }
    return HostCapabilities(**{name: convert.get(name, _plain)(value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _store(cache: Path, key: dict[str, Any], found: HostCapabilities) -> None:
    """That it cannot be kept is no reason to fail."""
    record = json.dumps({"key": key, "capabilities": dataclasses.asdict(found)}, default=str)
    try:
        filesystem.make_directory(cache.parent)
        filesystem.write_atomically(cache, record.encode(), sync_parent=False)
    except CowshedError as error:
        _log.warning("what libvirt can do is not remembered in %s: %s", cache, error)
