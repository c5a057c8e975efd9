#!/usr/bin/python3
"""A real Glance with its Keystone on loopback ports, for tests and for trying things out.

    scripts/glance-server.py start DIR [--with PID] [--ceph-conf FILE --ceph-user NAME --ceph-pool POOL]
    scripts/glance-server.py stop DIR
    scripts/glance-server.py install           make the environment of the servers, start nothing

``start`` returns when both answer, prints DIR/server.json and leaves two processes behind that ``stop`` ends by
their pids, or that end with the process PID. Both keep SQLite databases and logs in DIR. Images may be kept in the stores ``files`` (the default),
``more`` (a second directory) and, with a Ceph cluster, ``ceph``. Locations are shown.

DIR/clouds.yaml has the users ``admin``, ``cowshed`` (an ordinary member), ``service`` (of the same project, with the
role that services have) and ``stranger`` (of another project).

The environment (build/glance-server/venv) and the empty databases (build/glance-server/template) are made once, and
again when requirements.txt or this file changes. The interpreter is the system's, so that its Ceph bindings are seen.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = HERE / "glance-server"
BUILD = HERE.parent / "build" / "glance-server"
VENV = BUILD / "venv"
TEMPLATE = BUILD / "template"
PYTHON = "/usr/bin/python3"
BINDINGS = ("rados", "rbd")
PLACE = "{place}"  # stands for the directory in the template's files
WAIT = 90.0  # seconds for a server to answer
USERS = {  # user: (project, roles)
    "cowshed": ("cowshed", ("member",)),
    "service": ("cowshed", ("member", "service")),
    "stranger": ("elsewhere", ("member",)),
}

KEYSTONE = """\
[DEFAULT]
log_file = {place}/keystone.log
[database]
connection = sqlite:///{place}/keystone.db?timeout=60
sqlite_synchronous = false
[token]
provider = fernet
expiration = 3600
[fernet_tokens]
key_repository = {place}/fernet
[credential]
key_repository = {place}/credential
[cache]
enabled = true
backend = dogpile.cache.memory
[identity]
password_hash_rounds = 4
"""

GLANCE = """\
[DEFAULT]
log_file = {place}/glance.log
enabled_backends = {backends}
show_multiple_locations = true
show_image_direct_url = true
enabled_import_methods = [glance-direct,web-download,copy-image]
worker_self_reference_url = http://127.0.0.1:{port}
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {place}/images
[more]
filesystem_store_datadir = {place}/more
[os_glance_staging_store]
filesystem_store_datadir = {place}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {place}/tasks
[database]
connection = sqlite:///{place}/glance.db?timeout=60
sqlite_synchronous = false
[image_format]
disk_formats = ami,ari,aki,vhd,vhdx,vmdk,raw,qcow2,vdi,iso,ploop
[oslo_concurrency]
lock_path = {place}/locks
[oslo_policy]
policy_file = {place}/policy.yaml
[oslo_reports]
log_dir = {place}
[paste_deploy]
flavor = keystone
config_file = {venv}/etc/glance/glance-api-paste.ini
[keystone_authtoken]
auth_url = {keystone}
www_authenticate_uri = {keystone}
auth_type = password
username = admin
password = {password}
project_name = admin
user_domain_id = default
project_domain_id = default
"""

CEPH = """\
[ceph]
rbd_store_ceph_conf = {conf}
rbd_store_user = {user}
rbd_store_pool = {pool}
rbd_thin_provisioning = true
"""

POLICY = '"copy_image": "role:admin or project_id:%(owner)s"\n'

CLOUD = """\
  {name}:
    auth:
      auth_url: {keystone}
      username: {name}
      password: {password}
      project_name: {project}
      user_domain_id: default
      project_domain_id: default
    region_name: here
    identity_api_version: 3
"""


# --- made once ---------------------------------------------------------------------------------------------------------


def install() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        requirements = (PARTS / "requirements.txt").read_bytes()
        _once(VENV, hashlib.sha256(requirements).hexdigest(), _make_venv)
        _link_bindings()
        everything = requirements + Path(__file__).read_bytes() + (PARTS / "serve.py").read_bytes()
        _once(TEMPLATE, hashlib.sha256(everything).hexdigest(), _make_template)


def _once(place: Path, key: str, make) -> None:
    stamp = place / "made-from"
    if stamp.exists() and stamp.read_text() == key:
        return
    shutil.rmtree(place, ignore_errors=True)
    make()
    stamp.write_text(key)


def _make_venv() -> None:
    print("glance-server: installing Glance and Keystone (a minute, once)", file=sys.stderr)
    _run(PYTHON, "-m", "venv", str(VENV))
    _run(str(VENV / "bin/pip"), "-q", "--disable-pip-version-check", "install", "-r", str(PARTS / "requirements.txt"))


def _link_bindings() -> None:
    """They may have been installed since."""
    packages = next((VENV / "lib").glob("python3*/site-packages"))
    for name in BINDINGS:
        for found in Path("/usr/lib/python3/dist-packages").glob(f"{name}*.so"):
            if not (packages / found.name).exists():
                (packages / found.name).symlink_to(found)


def _make_template() -> None:
    """Databases with their tables, keys, the first users; addresses are put in at each start."""
    print("glance-server: making the empty databases (half a minute, once)", file=sys.stderr)
    TEMPLATE.mkdir(parents=True)
    password = secrets.token_hex(16)
    (TEMPLATE / "password").write_text(password)
    (TEMPLATE / "password").chmod(0o600)
    for folder in ("fernet", "credential"):
        (TEMPLATE / folder).mkdir(mode=0o700)
    keystone_port, glance_port = _free_ports(2)
    _configure(TEMPLATE, keystone_port, glance_port, password, None)
    environment = {**os.environ, "OS_KEYSTONE_CONFIG_DIR": str(TEMPLATE), "OS_BOOTSTRAP_PASSWORD": password}
    manage = [str(VENV / "bin/keystone-manage"), "--config-file", str(TEMPLATE / "keystone.conf")]
    migrate = subprocess.Popen(
        [VENV / "bin/glance-manage", "--config-file", TEMPLATE / "glance-api.conf", "db_sync"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _run(*manage, "db_sync")
    me = [f"--keystone-user={os.geteuid()}", f"--keystone-group={os.getegid()}"]
    _run(*manage, "fernet_setup", *me)
    _run(*manage, "credential_setup", *me)
    url = f"http://127.0.0.1:{keystone_port}/v3"
    urls = [f"--bootstrap-{kind}-url={url}" for kind in ("public", "internal", "admin")]
    _run(*manage, "bootstrap", "--bootstrap-region-id=here", *urls, environment=environment)
    _, words = migrate.communicate(timeout=300)
    if migrate.returncode:
        raise SystemExit(f"glance-manage db_sync failed:\n{words.decode()}")
    server = _serve(TEMPLATE, "keystone", keystone_port)
    try:
        _wait(f"{url}/", server, TEMPLATE / "keystone.log")
        _populate(url, password, glance_port)
    finally:
        _end(server.pid)
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
    return _opener.open(request, timeout=60)


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


# --- started and stopped -----------------------------------------------------------------------------------------------


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
    keystone_port, glance_port = _free_ports(2)
    _move_catalogue(place, keystone_port, glance_port)
    _configure(place, keystone_port, glance_port, password, ceph)
    servers = [_serve(place, "keystone", keystone_port, owner), _serve(place, "glance", glance_port, owner)]
    try:
        _wait(f"http://127.0.0.1:{keystone_port}/v3/", servers[0], place / "keystone.log")
        _wait(f"http://127.0.0.1:{glance_port}/", servers[1], place / "glance.log")
    except BaseException:
        for server in servers:
            _end(server.pid)
        raise
    facts = {
        "auth_url": f"http://127.0.0.1:{keystone_port}/v3",
        "url": f"http://127.0.0.1:{glance_port}",
        "pids": [server.pid for server in servers],
        "clouds": str(place / "clouds.yaml"),
        "stores": _backends(ceph).split(","),
    }
    (place / "server.json").write_text(json.dumps(facts, indent=1))
    print(json.dumps(facts, indent=1))


def stop(place: Path) -> None:
    record = place / "server.json"
    if not record.exists():
        return
    for pid in json.loads(record.read_text())["pids"]:
        _end(pid, "serve.py")
    record.unlink()


def _backends(ceph: dict[str, str] | None) -> str:
    return "files:file,more:file" + (",ceph:rbd" if ceph else "")


def _configure(place: Path, keystone_port: int, glance_port: int, password: str, ceph: dict[str, str] | None) -> None:
    for folder in ("images", "more", "staging", "tasks", "locks"):
        (place / folder).mkdir(exist_ok=True)
    keystone = f"http://127.0.0.1:{keystone_port}/v3"
    (place / "keystone.conf").write_text(KEYSTONE.format(place=place))
    glance = GLANCE.format(
        place=place, port=glance_port, keystone=keystone, password=password, venv=VENV, backends=_backends(ceph)
    )
    clouds = "clouds:\n" + "".join(
        CLOUD.format(name=name, project=project, password=password, keystone=keystone)
        for name, (project, _) in {"admin": ("admin", ()), **USERS}.items()
    )
    for name, text in {
        "glance-api.conf": glance + (CEPH.format(**ceph) if ceph else ""),
        "policy.yaml": POLICY,
        "clouds.yaml": clouds,
    }.items():
        (place / name).touch(mode=0o600)
        (place / name).write_text(text)


def _move_catalogue(place: Path, keystone_port: int, glance_port: int) -> None:
    old = (TEMPLATE / "ports").read_text().split()
    with contextlib.closing(sqlite3.connect(place / "keystone.db")) as database, database:
        for before, now in zip(old, (keystone_port, glance_port), strict=True):
            database.execute(
                "UPDATE endpoint SET url = replace(url, ?, ?)", (f"127.0.0.1:{before}", f"127.0.0.1:{now}")
            )


def _serve(place: Path, name: str, port: int, owner: int = 0) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "OS_KEYSTONE_CONFIG_DIR": str(place),
        "OS_KEYSTONE_CONFIG_FILES": "keystone.conf",
        "OS_GLANCE_CONFIG_DIR": str(place),
        "PYTHONWARNINGS": "ignore",
    }
    with (place / f"{name}.out").open("ab") as words:
        return subprocess.Popen(
            [VENV / "bin/python", PARTS / "serve.py", f"{name}.wsgi.api", str(port), str(owner)],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            _opener.open(url, timeout=max(1.0, end - time.monotonic())).close()
            return
        except urllib.error.HTTPError as error:
            if error.code in (300, 401):
                return
            break
        except OSError:
            time.sleep(0.05)
    words = "".join(path.read_text()[-3000:] for path in (log, log.with_suffix(".out")) if path.exists())
    raise SystemExit(f"glance-server: {url} does not answer\n{words}")


def _end(pid: int, expected: str = "") -> None:
    """End our own process; a number that somebody else has by now is left alone."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if expected and expected.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        os.kill(pid, signal.SIGTERM)
        for _ in range(200):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"glance-server: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def _arguments() -> Iterator[argparse.Namespace]:
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
    yield arguments


def main() -> None:
    os.umask(0o077)
    with _arguments() as arguments:
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
