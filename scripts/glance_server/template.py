"""What is made once: the environment of the servers, and databases with their tables, keys and first users."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from glance_server.places import BUILD, PARTS, PYTHON, TEMPLATE, VENV
from glance_server.processes import end, free_ports, opener, run, serve, wait
from glance_server.settings import USERS, configure

BINDINGS = ("rados", "rbd")


def install() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        requirements = (PARTS / "requirements.txt").read_bytes()
        _once(VENV, hashlib.sha256(requirements).hexdigest(), _make_venv)
        _link_bindings()
        everything = b"".join(path.read_bytes() for path in sorted(PARTS.glob("*.*")) if path.is_file())
        _once(TEMPLATE, hashlib.sha256(everything).hexdigest(), _make_template)


def _once(place: Path, key: str, make: Callable[[], None]) -> None:
    stamp = place / "made-from"
    if stamp.exists() and stamp.read_text() == key:
        return
    shutil.rmtree(place, ignore_errors=True)
    make()
    stamp.write_text(key)


def _link_bindings() -> None:
    """They may have been installed since."""
    packages = next((VENV / "lib").glob("python3*/site-packages"))
    for name in BINDINGS:
        for found in Path("/usr/lib/python3/dist-packages").glob(f"{name}*.so"):
            if not (packages / found.name).exists():
                (packages / found.name).symlink_to(found)


def _make_venv() -> None:
    print("glance-server: installing Glance and Keystone (a minute, once)", file=sys.stderr)
    run(PYTHON, "-m", "venv", str(VENV))
    run(str(VENV / "bin/pip"), "-q", "--disable-pip-version-check", "install", "-r", str(PARTS / "requirements.txt"))


def _make_template() -> None:
    """Addresses are put in at each start."""
    print("glance-server: making the empty databases (half a minute, once)", file=sys.stderr)
    TEMPLATE.mkdir(parents=True)
    password = secrets.token_hex(16)
    (TEMPLATE / "password").write_text(password)
    (TEMPLATE / "password").chmod(0o600)
    for folder in ("fernet", "credential"):
        (TEMPLATE / folder).mkdir(mode=0o700)
    keystone_port, glance_port = free_ports(2)
    configure(TEMPLATE, keystone_port, glance_port, password, None)
    environment = {**os.environ, "OS_KEYSTONE_CONFIG_DIR": str(TEMPLATE), "OS_BOOTSTRAP_PASSWORD": password}
    manage = [str(VENV / "bin/keystone-manage"), "--config-file", str(TEMPLATE / "keystone.conf")]
    migrate = subprocess.Popen(
        [VENV / "bin/glance-manage", "--config-file", TEMPLATE / "glance-api.conf", "db_sync"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    run(*manage, "db_sync")
    me = [f"--keystone-user={os.geteuid()}", f"--keystone-group={os.getegid()}"]
    run(*manage, "fernet_setup", *me)
    run(*manage, "credential_setup", *me)
    url = f"http://127.0.0.1:{keystone_port}/v3"
    urls = [f"--bootstrap-{kind}-url={url}" for kind in ("public", "internal", "admin")]
    run(*manage, "bootstrap", "--bootstrap-region-id=here", *urls, environment=environment)
    _, words = migrate.communicate(timeout=300)
    if migrate.returncode:
        raise SystemExit(f"glance-manage db_sync failed:\n{words.decode()}")
    server = serve(TEMPLATE, "keystone", keystone_port)
    try:
        wait(f"{url}/", server, TEMPLATE / "keystone.log")
        _populate(url, password, glance_port)
    finally:
        end(server.pid)
    for name in ("keystone.db", "glance.db"):
        with contextlib.closing(sqlite3.connect(TEMPLATE / name)) as database:
            database.execute("PRAGMA journal_mode = WAL")  # readers and the one writer do not stop each other
    (TEMPLATE / "ports").write_text(f"{keystone_port} {glance_port}")


def _populate(url: str, password: str, glance_port: int) -> None:
    """The catalogue's entry of Glance, two projects, two users."""
    auth = {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": "admin", "domain": {"id": "default"}, "password": password}},
        },
        "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
    }
    answer = _call("POST", f"{url}/auth/tokens", {"auth": auth})
    token = answer.headers["X-Subject-Token"]

    def make(kind: str, **fields: object) -> str:
        body = _call("POST", f"{url}/{kind}s", {kind: fields}, token)
        return json.load(body)[kind]["id"]

    service = make("service", type="image", name="glance")
    address = f"http://127.0.0.1:{glance_port}"
    for interface in ("public", "internal", "admin"):
        make("endpoint", service_id=service, interface=interface, url=address, region_id="here")
    roles = {role["name"]: role["id"] for role in json.load(_call("GET", f"{url}/roles", None, token))["roles"]}
    projects: dict[str, str] = {}
    for name, (project, granted) in USERS.items():
        if project not in projects:
            projects[project] = make("project", name=project, domain_id="default")
        user = make("user", name=name, domain_id="default", password=password)
        for role in granted:
            _call("PUT", f"{url}/projects/{projects[project]}/users/{user}/roles/{roles[role]}", None, token)


def _call(method: str, url: str, body: object, token: str = ""):
    headers = {"Content-Type": "application/json", **({"X-Auth-Token": token} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    return opener.open(request, timeout=60)
