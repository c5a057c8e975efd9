"""Commands as another user than root, who finds this project also where it lies in a directory of root's alone."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# In a mount namespace of its own. $1: this project, $2: the directory above it that others cannot enter, or "";
# then the command. What else is in that directory is not seen.
_OPEN = """
tree=$1 closed=$2
shift 2
if [ -n "$closed" ]; then
    cd "$tree"
    mount -t tmpfs -o mode=755 tmpfs "$closed"
    mkdir -p "$tree"
    mount --no-canonicalize --bind . "$tree"
fi
cd /
exec "$@"
"""


def beside_the_project(*command: str) -> list[str]:
    """The command that starts ``command`` as root where every user may read the project (if its own mode lets him)."""
    closed = next((str(path) for path in reversed(ROOT.parents) if not path.stat().st_mode & 0o001), "")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _OPEN, "sh", str(ROOT), closed, *command]


def as_nobody(*command: str) -> list[str]:
    """The command that starts ``command`` as the user nobody."""
    return beside_the_project("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *command)
