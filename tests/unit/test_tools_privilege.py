"""What may be root: the table lets our own commands through, and nothing that is not about our volumes."""

from __future__ import annotations

import re
import shlex

import pytest

from cowshed.errors import InternalError
from cowshed.tools import privilege

OURS = "5d6a1c2e-7b3f-4e8a-9c0d-1e2f3a4b5c6d_disk"  # the same in every worker: it is in the names of tests
NODE = f"/dev/mapper/cow--shed-{OURS.replace('-', '--')}"
RULES = privilege.sudoers("keeper", ["cow-shed", "v.g"])


def granted(line: str) -> bool:
    """Would sudo run it? It joins the words with blanks and matches the whole, as a POSIX extended expression."""
    tool, *words = shlex.split(line)
    rules = re.findall(r"^keeper ALL=\(root\) NOPASSWD: (/usr/s?bin/(\w+)) \^(.*)\$$", RULES, re.MULTILINE)
    return any(re.fullmatch(pattern, " ".join(words)) for _, name, pattern in rules if name == tool)


ALLOWED = [
    "vgs --reportformat json --units b --nosuffix -o vg_name,vg_free cow-shed",
    "lvs -a --reportformat json --units b --nosuffix -o lv_name v.g",
    "lvcreate -y -Wy -Zy -n cowshed-new-0a --addtag cowshed --addtag cowshed.disk=disk -L 4096b cow-shed",
    f"lvcreate -y -kn -n {OURS} --addtag cowshed -s cow-shed/cowshed-base-ab12",
    f"lvremove -y -f -S tags=cowshed cow-shed/{OURS}",
    f"lvrename -y cow-shed cowshed-new-0a {OURS}",
    f"chown -- keeper {NODE}",
    f"chown -- keeper /dev/mapper/{OURS}-dmcrypt",
    f"cryptsetup open --type luks2 --key-file - {NODE} {OURS}-dmcrypt",
]
REFUSED = [
    "lvs",
    f"lvremove -y -f cow-shed/{OURS}",  # without asking for our tag
    f"lvremove -y -f -S tags=cowshed other/{OURS}",
    f"lvremove -y -f -S tags=cowshed vxg/{OURS}",  # the dot of a group's name is a dot
    "lvremove -y -f -S tags=cowshed cow-shed/pool",
    "lvremove -y -f -S tags=cowshed cow-shed",
    f"lvremove -y -f -S tags=cowshed cow-shed/{OURS} cow-shed/pool",
    f"lvrename -y cow-shed pool {OURS}",
    f"lvcreate -y -kn -n {OURS} --addtag cowshed -s cow-shed/secrets",
    f"lvcreate -y -Wy -Zy -n {OURS} --addtag other -L 4096b cow-shed",
    f"lvcreate -y -Wy -Zy -n {OURS} --config x=y -L 4096b cow-shed",
    "lvchange -y -an -K cow-shed/pool",
    f"chown -- root {NODE}",
    "chown -- keeper /dev/mapper/cow--shed-pool",
    "chown -- keeper /dev/sda",
    f"chown -- keeper {NODE}/../../sda",
    f"chown -- keeper {NODE} /etc/shadow",
    f"chown -R -- keeper {NODE}",
    f"cryptsetup open --type luks2 --key-file /etc/shadow {NODE} {OURS}-dmcrypt",
    f"cryptsetup open --type luks2 --key-file - /dev/sda {OURS}-dmcrypt",
    "cryptsetup close luks-home",
    "sh -c true",
]


@pytest.mark.parametrize("line", ALLOWED)
def test_what_the_rules_grant(line: str) -> None:
    assert granted(line)


@pytest.mark.parametrize("line", REFUSED)
def test_what_the_rules_do_not_grant(line: str) -> None:
    assert not granted(line)


@pytest.mark.parametrize(
    "line", [line for line in REFUSED if "other/" not in line and "vxg" not in line and "root" not in line]
)
def test_a_command_outside_the_table_does_not_run_for_root_either(line: str) -> None:
    with pytest.raises(InternalError, match="privilege table"):
        privilege.run(shlex.split(line))


def test_a_group_with_a_strange_name_gets_no_rules() -> None:
    with pytest.raises(InternalError):
        privilege.sudoers("keeper", ["vg ALL"])
