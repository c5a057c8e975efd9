#!/bin/bash
# What `make demo` runs: from a bare Debian machine to a running virtual machine, with the commands of the README.
#
#   BACKEND=raw|qcow2   the kind of disk (default: what cowshed prefers)
#   KEEP=1              leave the machine running
set -euo pipefail
cd "$(dirname "$0")/.."

bold= dim= plain=
[ ! -t 1 ] || { bold=$'\033[1m' dim=$'\033[2m' plain=$'\033[0m'; }
say() { printf '\n%s\n' "$bold$*$plain"; }
show() { printf '%s\n' "$dim\$ $*$plain"; "$@"; }

say "1. What the host needs"
scripts/packages.sh run guest
scripts/venv.sh
export PATH=$PWD/.venv/bin:$PATH

say "2. A small bootable image, built from Debian packages"
scripts/guest-tiny.sh build/guest
ls -sh build/guest/tiny.qcow2

say "3. A virtual machine on it"
name=demo
! cowshed show $name >/dev/null 2>&1 || name=demo-$$
cleanup() { [ "${KEEP:-}" = 1 ] || cowshed rm "$name" --yes >/dev/null 2>&1 || true; }
trap cleanup EXIT
trap 'exit 130' INT TERM

if cowshed image show tiny >/dev/null 2>&1; then
    echo "(the image tiny is in the store already: cowshed image rm tiny --yes would remove it)"
else
    show cowshed image pull build/guest/tiny.qcow2 --name tiny
fi
show cowshed run tiny --name "$name" --memory 256M ${BACKEND:+--backend "$BACKEND"}

say "4. Its serial console, until it says it is up"
show cowshed log "$name" -f --until "cowshed-guest: up" --timeout 120

say "5. And gone again"
show cowshed ls
if [ "${KEEP:-}" = 1 ]; then
    echo "It keeps running: cowshed console $name, cowshed rm $name --yes"
else
    show cowshed rm "$name" --yes
    trap - EXIT
fi
