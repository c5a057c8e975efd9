#!/usr/bin/python3
"""A real Glance with its Keystone on loopback ports, for tests and for trying things out.

    scripts/glance-server.py start DIR [--with PID] [--ceph-conf FILE --ceph-user NAME --ceph-pool POOL]
    scripts/glance-server.py stop DIR
    scripts/glance-server.py install           make the environment of the servers, start nothing

``start`` returns when both answer, prints DIR/server.json and leaves two processes behind that ``stop`` ends by
their pids, or that end with the process PID. Both keep SQLite databases and logs in DIR. Images may be kept in the
stores ``files`` (the default), ``more`` (a second directory) and, with a Ceph cluster, ``ceph``. Locations are shown.

DIR/clouds.yaml has the users ``admin``, ``cowshed`` (an ordinary member), ``service`` (of the same project, with the
role that services have) and ``stranger`` (of another project).

The environment (build/glance-server/venv) and the empty databases (build/glance-server/template) are made once, and
again when one of the files of glance_server/ changes. The interpreter is the system's, so that its Ceph bindings are seen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

from glance_server.places import TEMPLATE
from glance_server.processes import end, free_ports, serve, wait
from glance_server.settings import backends, configure
from glance_server.template import install


def start(place: Path, ceph: dict[str, str] | None, owner: int) -> None:
    install()
    place.mkdir(parents=True, exist_ok=True)
    if (place / "server.json").exists():
        raise SystemExit(f"glance-server: {place} has a server already; stop that first")
    password = (TEMPLATE / "password").read_text()
    for name in ("keystone.db", "glance.db"):
        shutil.copy(TEMPLATE / name, place / name)
    for name in ("fernet", "credential"):
        shutil.copytree(TEMPLATE / name, place / name, dirs_exist_ok=True)
    keystone_port, glance_port = free_ports(2)
    _move_catalogue(place, keystone_port, glance_port)
    configure(place, keystone_port, glance_port, password, ceph)
    servers = [serve(place, "keystone", keystone_port, owner), serve(place, "glance", glance_port, owner)]
    try:
        wait(f"http://127.0.0.1:{keystone_port}/v3/", servers[0], place / "keystone.log")
        wait(f"http://127.0.0.1:{glance_port}/", servers[1], place / "glance.log")
    except BaseException:
        for server in servers:
            end(server.pid)
        raise
    facts = {
        "auth_url": f"http://127.0.0.1:{keystone_port}/v3",
        "url": f"http://127.0.0.1:{glance_port}",
        "pids": [server.pid for server in servers],
        "clouds": str(place / "clouds.yaml"),
        "stores": backends(ceph).split(","),
    }
    (place / "server.json").write_text(json.dumps(facts, indent=1))
    print(json.dumps(facts, indent=1))


def _move_catalogue(place: Path, keystone_port: int, glance_port: int) -> None:
    old = (TEMPLATE / "ports").read_text().split()
    with contextlib.closing(sqlite3.connect(place / "keystone.db")) as database, database:
        for before, now in zip(old, (keystone_port, glance_port), strict=True):
            database.execute(
                "UPDATE endpoint SET url = replace(url, ?, ?)", (f"127.0.0.1:{before}", f"127.0.0.1:{now}")
            )


def stop(place: Path) -> None:
    record = place / "server.json"
    if not record.exists():
        return
    for pid in json.loads(record.read_text())["pids"]:
        end(pid, "serve.py")
    record.unlink()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop", "install"])
    parser.add_argument("place", type=Path, nargs="?", metavar="DIR")
    parser.add_argument("--with", type=int, default=0, metavar="PID", dest="owner")
    parser.add_argument("--ceph-conf", type=Path)
    parser.add_argument("--ceph-user", default="admin")
    parser.add_argument("--ceph-pool", default="images")
    arguments = parser.parse_args()
    if arguments.action != "install" and arguments.place is None:
        parser.error("a directory is needed")
    return arguments


def main() -> None:
    os.umask(0o077)
    arguments = _arguments()
    if arguments.action == "install":
        install()
    elif arguments.action == "stop":
        stop(arguments.place.resolve())
    else:
        ceph = None
        if arguments.ceph_conf:
            ceph = {
                "conf": str(arguments.ceph_conf.resolve()),
                "user": arguments.ceph_user,
                "pool": arguments.ceph_pool,
            }
        start(arguments.place.resolve(), ceph, arguments.owner)


main()
