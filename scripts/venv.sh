#!/bin/bash
# Makes the virtual environment .venv with cowshed installed from this tree (edits take effect at once).
#
#   scripts/venv.sh [EXTRA]...          for example: scripts/venv.sh dev glance
#
# Runs again only when pyproject.toml changed or an extra is asked for that is not there yet.
#   PYTHON   the interpreter to use (default /usr/bin/python3: the libvirt binding of the distribution belongs to it)
#   VENV     where to make it (default .venv in this tree)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-/usr/bin/python3}
venv=${VENV:-.venv}
stamp=$venv/cowshed-installed

# Two callers at once (two terminals, parallel make) take turns.
mkdir -p build
exec 9>build/venv.lock
flock 9

have=()
project=$(sha256sum pyproject.toml "$0" | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ]; then
    read -r stamped rest <"$stamp"
    read -ra have <<<"$rest"
else
    stamped=none
fi

mapfile -t extras < <(printf '%s\n' "${have[@]}" "$@" | sed '/^$/d' | sort -u)
[ "$stamped ${have[*]}" != "$project ${extras[*]}" ] || exit 0

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "venv.sh: $python is not there or older than Python 3.11" >&2
    exit 1
fi
if [ ! -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    # The system's packages stay visible: the libvirt binding must match the host's libvirt.
    "$python" -m venv --system-site-packages "$venv"
fi

list=$(IFS=,; echo "${extras[*]}")
echo "venv.sh: installing cowshed${list:+[$list]} into $venv"
rm -f "$stamp"
# editable_mode=compat: a plain path file; the default import hook would cost 20 ms at every start.
"$venv/bin/pip" --quiet --disable-pip-version-check install --config-settings editable_mode=compat \
    --editable ".${list:+[$list]}"
echo "$project ${extras[*]}" >"$stamp"
