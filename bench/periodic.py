"""The periodic work of a host with many instances, against one bare question to libvirt.

Run as a program it measures in the environment it is given and prints the times.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import uuid
from pathlib import Path

from bench.command import end_session, private
from bench.measure import Result, sh
from cowshed.driver import LibvirtDriver
from cowshed.hypervisor.recent import GOOD_FOR
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.units import GiB, MiB

INSTANCES = 200
DISKS = {"disk": GiB, "disk.swap": 64 * MiB}


def fill(driver: LibvirtDriver, number: int) -> list[Instance]:
    """So many defined instances with two disks and one interface each. None is started; of the disks one set is made."""
    made = [Instance(str(uuid.uuid4()), f"m{one}", Flavor(memory=64 * MiB), host="here") for one in range(number)]
    first = made[0].uuid
    for name, size in DISKS.items():
        driver.rooms.backend("qcow2").disk(first, name).create(size)
    source = driver.rooms.directory(first).path
    for instance in made:
        place = driver.rooms.directory(instance.uuid).path
        if place != source:
            shutil.copytree(source, place)
            manifest = place / "manifest.json"
            manifest.write_text(manifest.read_text().replace(first, instance.uuid))
        driver.rooms.hypervisor.define(_xml(instance, place))
    return made


def _xml(instance: Instance, place: Path) -> str:
    disks = "".join(
        f'<disk type="file"><driver name="qemu" type="qcow2"/><source file="{place}/{name}"/>'
        f'<target dev="vd{letter}" bus="virtio"/></disk>'
        for letter, name in zip("ab", DISKS, strict=True)
    )
    return (
        f'<domain type="qemu"><name>{instance.name}</name><uuid>{instance.uuid}</uuid><memory>65536</memory>'
        f'<os><type machine="q35">hvm</type></os><devices>{disks}<interface type="user"/></devices></domain>'
    )


def empty(driver: LibvirtDriver, instances: list[Instance]) -> None:
    for instance in instances:
        driver.destroy(None, instance, [])


def work(driver: LibvirtDriver, instances: list[Instance]) -> None:
    """What a compute service asks its driver from time to time."""
    (node,) = driver.get_available_nodes()
    driver.get_available_resource(node)
    driver.get_all_bw_counters(instances)
    driver.get_per_instance_usage()
    driver.usage()
    driver.get_num_instances()
    for instance in instances:
        driver.get_info(instance)


def measure(driver: LibvirtDriver, instances: list[Instance], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of our work and of one bare ``domainListGetStats``, in turn."""
    hypervisor = driver.rooms.hypervisor
    domains = hypervisor.call("list", lambda connection: connection.listAllDomains(0), repeat=True)
    ours, bare = [], []
    for _ in range(rounds):
        time.sleep(GOOD_FOR)
        began = time.perf_counter()
        work(driver, instances)
        between = time.perf_counter()
        hypervisor.call("ask", lambda connection: connection.domainListGetStats(domains, 0, 0), repeat=True)
        ours.append(between - began)
        bare.append(time.perf_counter() - between)
    return ours, bare


def periodic(place: Path, rounds: int) -> Result:
    result = Result(f"periodic work with {INSTANCES} instances", "one bare domainListGetStats", 2.0)
    with private() as env:
        result.ours, result.peer = json.loads(sh(sys.executable, "-m", "bench.periodic", rounds, env=env))
        end_session(env)
    return result


def main() -> None:
    driver = LibvirtDriver()
    driver.init_host("here")
    instances = fill(driver, INSTANCES)
    work(driver, instances)
    print(json.dumps(measure(driver, instances, int(sys.argv[1]))))
    empty(driver, instances)
    driver.cleanup_host("here")


if __name__ == "__main__":
    main()
