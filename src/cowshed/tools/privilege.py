"""The place of root: which host tools may run as root, with which words, and how they get it.

Who is root runs a tool directly. Anybody else runs it through ``sudo -n``, and needs the rules that
:func:`sudoers` writes: one for each row of ``TABLE``. The words of a row are a regular expression,
anchored on both sides, over the volume groups and the names of volumes that are ours, so that the
rules give no other volume, no other node and no other option away. A call that no row allows is a
bug, found before anything runs, for root too: what the tests do as root an ordinary user can do.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cowshed.errors import InternalError, PermissionDenied, ToolFailed
from cowshed.tools.run import OUTPUT, Result, require
from cowshed.tools.run import run as run_tool

_HEX = "[0-9a-fA-F]"
_NAME = "[A-Za-z0-9+_.-]+"
_ANY_GROUP = "[A-Za-z0-9+_.][A-Za-z0-9+_.-]*"
_OURS = "cowshed"  # how names and tags that we choose begin


def _ours(hyphen: str) -> str:
    """``<uuid>_<disk>`` or ``cowshed-<anything>``."""
    uuid = hyphen.join(f"{_HEX}{{{digits}}}" for digits in (8, 4, 4, 4, 12))
    return f"({uuid}_|{_OURS}{hyphen}){_NAME}"


_PLACES: Final = {
    "volume": _ours("-"),
    "mapping": f"{_ours('-')}-dmcrypt",
    "node": f"/dev/mapper/{{dm_group}}-{_ours('--')}",  # device-mapper writes the hyphens of both names twice
    "pool": _NAME,
    "bytes": "[1-9][0-9]*b",
    "number": "[1-9][0-9]*",
    "tag": f"{_OURS}[A-Za-z0-9+_.=-]*",
    "fields": "[a-z_,]+",
    "word": "[a-z0-9-]+",
    "tap": "[A-Za-z0-9_.-]{1,15}",
    "directory": "/.*",
    "mountpoint": "/.*/shares/[A-Za-z0-9_-]+",
    "options": "[a-z0-9=,]+",
    "export": "[^ ]+:/[^ ]*",
}


@dataclass(frozen=True, slots=True)
class Row:
    """``words`` may follow ``tool``: a regular expression with the places above in braces."""

    tool: str
    words: str
    why: str


_REPORT = "--reportformat json --units b --nosuffix -o {fields}"
_NEW = "-n {volume}( --addtag {tag})*"

TABLE: Final = (
    Row("vgs", f"{_REPORT} {{group}}", "how much room there is"),
    Row("lvs", f"-a {_REPORT} {{group}}", "which volumes there are"),
    Row("lvcreate", f"-y -Wy -Zy {_NEW} -L {{bytes}} {{group}}", "a thick volume"),
    Row("lvcreate", f"-y -kn {_NEW} -V {{bytes}} --thinpool {{pool}} {{group}}", "a thin volume"),
    Row("lvcreate", f"-y -k[ny] {_NEW} -s {{group}}/{{volume}}", "a thin snapshot: an instant clone"),
    Row("lvcreate", f"-y {_NEW} -s -L {{bytes}} {{group}}/{{volume}}", "a classic copy-on-write snapshot"),
    Row("lvcreate", f"-y --type snapshot {_NEW} -V {{bytes}} -L {{bytes}} {{group}}", "a classic sparse volume"),
    Row("lvconvert", "-y --merge {group}/{volume}", "a volume goes back to its snapshot"),
    Row("lvconvert", "-y --splitsnapshot {group}/{volume}", "a snapshot's store can be cleared"),
    Row("lvextend", "-y -L {bytes} {group}/{volume}", "a volume grows"),
    Row("lvreduce", "-y -f -L {bytes} {group}/{volume}", "a volume goes back to a smaller size"),
    Row("lvrename", "-y {group} {volume} {volume}", "a finished volume gets its name, a deleted one loses it"),
    Row("lvchange", "-y -a[yn] -K {group}/{volume}", "a volume's node comes and goes"),
    Row("lvchange", "-y -p r {group}/{volume}", "a base is not written to"),
    Row("lvchange", "-y( --(addtag|deltag) {tag})+ {group}/{volume}", "what a volume is"),
    Row("lvremove", "-y -f -S tags={tag} {group}/{volume}", "a volume goes, and only one with our tag"),
    Row("chown", "-- {user} {node}", "the node of our volume belongs to who runs the guest"),
    Row("chown", "-- {user} /dev/mapper/{mapping}", "the same for an encrypted one"),
    Row(
        "cryptsetup",
        "luksFormat -q --type luks2 --cipher {word} --key-size {number} --hash {word} --pbkdf {word}"
        " --pbkdf-force-iterations {number} --offset {number} --key-file - {node}",
        "a LUKS2 header",
    ),
    Row("cryptsetup", "open --type luks2 --key-file - {node} {mapping}", "a LUKS2 volume in clear"),
    Row(
        "cryptsetup",
        "open --type plain --cipher {word} --key-size {number} --hash {word} --key-file - {node} {mapping}",
        "a plain dm-crypt volume in clear",
    ),
    Row("cryptsetup", "resize --key-file - {mapping}", "an open one grows"),
    Row("cryptsetup", "close {mapping}", "it is closed"),
)

# Not among the rules of ``sudoers``: who may write packet filters may write any. Networks are root's.
NETWORK: Final = (
    Row("ip", "tuntap add dev {tap} mode tap", "a tap device of a guest"),
    Row("ip", "link set dev {tap} up alias cowshed {word}", "it is up, and says whose it is"),
    Row("ip", "link delete dev {tap}", "it goes"),
    Row("nft", "-j -f -", "packet filters of guests' devices"),
)

# Nor these: who may mount anything anywhere is root.
MOUNTS: Final = (
    Row("mount", "--bind -- {directory} {mountpoint}", "a directory that is shared with a guest"),
    Row("mount", "-o {options} -- {mountpoint}", "it is only read"),
    Row("mount", "-t nfs -o {options} -- {export} {mountpoint}", "an export that is shared with a guest"),
    Row("umount", "-- {mountpoint}", "it goes"),
)


def run(
    words: Sequence[str],
    *,
    timeout: float = 120.0,
    input: bytes | None = None,
    check: bool = True,
    keep: int = OUTPUT,
) -> Result:
    """Run a tool of the table as root.

    :param input: for its standard input; the one way a key may go
    :param keep: bytes kept of what it prints
    :raises PermissionDenied: we are not root, and sudo has no such rule for us
    :raises ToolFailed: :raises ToolMissing: :raises DeadlineExceeded: as ``tools.run.run``
    """
    if not _allowed(words):
        raise InternalError(reason=f"no row of the privilege table allows {shlex.join(words)}")
    if os.geteuid() == 0:
        return run_tool(words, timeout=timeout, input=input, check=check, whole=True, keep=keep)
    through_sudo = ["sudo", "-n", "--", require(words[0]), *words[1:]]
    result = run_tool(through_sudo, timeout=timeout, input=input, check=False, whole=True, keep=keep)
    if result.status == 0:
        return result
    said = result.stderr.decode(errors="replace")
    if said.startswith("sudo: "):
        raise PermissionDenied(
            action="run",
            path=shlex.join(words),
            hint=f"sudo said {said.removeprefix('sudo: ').strip()!r}; docs/privilege.md shows the rules that are needed",
        )
    if check:
        raise ToolFailed(command=shlex.join(words), status=result.status, output=" | ".join(said.splitlines()[-3:]))
    return result


def permitted(words: Sequence[str]) -> bool:
    """Could we run this as root now, without a password? Nothing is run.

    :raises ToolMissing: the tool, or sudo, is not installed
    """
    if not _allowed(words):
        raise InternalError(reason=f"no row of the privilege table allows {shlex.join(words)}")
    if os.geteuid() == 0:
        return True
    asked = ["sudo", "-n", "-l", "--", require(words[0]), *words[1:]]
    return run_tool(asked, timeout=30, check=False).status == 0


def _allowed(words: Sequence[str]) -> bool:
    line = " ".join(words[1:])
    return any(
        re.fullmatch(_pattern(row.words, _ANY_GROUP, _ANY_GROUP, "[A-Za-z0-9_.-]+"), line)
        for row in (*TABLE, *NETWORK, *MOUNTS)
        if row.tool == words[0]
    )


def _pattern(words: str, group: str, dm_group: str, user: str) -> str:
    """``words`` with every place filled in."""
    places = {**_PLACES, "group": group, "user": user}
    pattern = re.sub(r"\{(\w+)\}", lambda place: places.get(place[1], place[0]), words)
    return pattern.replace("{dm_group}", dm_group)


def sudoers(user: str, groups: Sequence[str]) -> str:
    """A file for /etc/sudoers.d that lets ``user`` do what the table names in these volume groups.

    Needs sudo 1.9.10 or later, which knows regular expressions.
    """
    group = _alternatives(groups)
    dm_group = _alternatives([name.replace("-", "--") for name in groups])
    lines = [
        f"# What {user} may do as root in {', '.join(groups)}: cowshed's volumes, and nothing else.",
        *(
            f"{user} ALL=(root) NOPASSWD: {_path(row.tool)} ^{_pattern(row.words, group, dm_group, user)}$"
            for row in TABLE
        ),
    ]
    return "\n".join(lines) + "\n"


def _alternatives(names: Sequence[str]) -> str:
    """The names as a part of a regular expression that both sudo and Python understand."""
    for name in names:
        if not re.fullmatch(_ANY_GROUP, name):
            raise InternalError(reason=f"{name!r} is not the name of a volume group")
    words = [re.sub(r"([.+])", r"[\1]", name) for name in names]
    return words[0] if len(words) == 1 else f"({'|'.join(words)})"


def _path(tool: str) -> str:
    """Where Debian has it."""
    return f"/usr/bin/{tool}" if tool == "chown" else f"/usr/sbin/{tool}"


if __name__ == "__main__":  # python -m cowshed.tools.privilege USER GROUP...
    sys.stdout.write(sudoers(sys.argv[1], sys.argv[2:]))
