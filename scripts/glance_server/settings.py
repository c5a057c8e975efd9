"""Who may use the servers, and their configuration files."""

from __future__ import annotations

from pathlib import Path

from glance_server.places import VENV

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
[fernet_receipts]
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


def configure(place: Path, keystone_port: int, glance_port: int, password: str, ceph: dict[str, str] | None) -> None:
    for folder in ("images", "more", "staging", "tasks", "locks"):
        (place / folder).mkdir(exist_ok=True)
    keystone = f"http://127.0.0.1:{keystone_port}/v3"
    (place / "keystone.conf").write_text(KEYSTONE.format(place=place))
    glance = GLANCE.format(
        place=place, port=glance_port, keystone=keystone, password=password, venv=VENV, backends=backends(ceph)
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


def backends(ceph: dict[str, str] | None) -> str:
    return "files:file,more:file" + (",ceph:rbd" if ceph else "")
