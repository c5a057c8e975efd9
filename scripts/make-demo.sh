#!/bin/bash
# What `make demo` runs: from a bare Debian machine to a running virtual machine, with the commands of the README.
#
#   BACKEND=raw|qcow2|ploop|rbd   the kind of disk (default: what cowshed prefers). For rbd a Ceph cluster of its own is
#                                 started for the demo, and ended with it, unless COWSHED_RBD_POOL names a pool
#   COWSHED_HOST_STATE=DIR        where its image and its machine lie (default: where all of cowshed's do, /var/lib/cowshed
#                                 for root, whatever XDG_* says); QEMU must be able to enter it
#   KEEP=1                        leave the machine (and the cluster) running
set -euo pipefail
cd "$(dirname "$0")/.."

bold= dim= plain=
[ ! -t 1 ] || { bold=$'\033[1m' dim=$'\033[2m' plain=$'\033[0m'; }
say() { printf '\n%s\n' "$bold$*$plain"; }
show() { local words; printf -v words ' %q' "$@"; printf '%s\n' "$dim\$$words$plain"; "$@"; }  # as one would type it

case ${BACKEND:-} in
    ''|raw|qcow2|ploop|rbd) ;;
    *) echo "make-demo.sh: BACKEND is raw, qcow2, ploop or rbd, not $BACKEND" >&2; exit 2 ;;
esac
cluster=
name=
cleanup() {
    [ "${KEEP:-}" != 1 ] || return 0
    [ -z "$name" ] || cowshed rm "$name" --yes >/dev/null 2>&1 || true
    [ -z "$cluster" ] || { scripts/ceph-node.sh stop "$cluster" >/dev/null 2>&1; rm -rf "$cluster"; }
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say "1. What the host needs"
groups=(run guest)
[ "${BACKEND:-}" != rbd ] || groups+=(ceph)
scripts/packages.sh "${groups[@]}"
scripts/venv.sh
export PATH=$PWD/.venv/bin:$PATH

say "2. A small bootable image, built from Debian packages"
scripts/guest-tiny.sh build/guest
ls -sh build/guest/tiny.qcow2

if [ "${BACKEND:-}" = rbd ] && [ -z "${COWSHED_RBD_POOL:-}" ]; then
    say "   A Ceph cluster on this machine, with a pool for disks"
    cluster=$(mktemp -d /tmp/cowshed-demo-XXXXXX)
    with=(--with $$)
    [ "${KEEP:-}" != 1 ] || with=()
    show scripts/ceph-node.sh start "$cluster" "${with[@]}"
    show ceph -c "$cluster/ceph.conf" osd pool create demo 8
    show rbd -c "$cluster/ceph.conf" pool init demo
    export COWSHED_RBD_POOL=demo COWSHED_RBD_CEPH_CONF=$cluster/ceph.conf
    export COWSHED_RBD_KEYRING=$cluster/client.admin.keyring
    show env | grep ^COWSHED_RBD
fi

say "3. A virtual machine on it"
chosen=demo
! cowshed show $chosen >/dev/null 2>&1 || chosen=demo-$$
name=$chosen

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
show cowshed disk ls "$name"
[ -z "$cluster" ] || show rbd -c "$cluster/ceph.conf" ls --long demo
if [ "${KEEP:-}" = 1 ]; then
    echo "It keeps running: cowshed console $name, cowshed rm $name --yes"
    if [ -n "$cluster" ]; then
        echo "So does its cluster. In another shell: export COWSHED_RBD_POOL=demo COWSHED_RBD_CEPH_CONF=$cluster/ceph.conf" \
            "COWSHED_RBD_KEYRING=$cluster/client.admin.keyring"
        echo "At the end: scripts/ceph-node.sh stop $cluster"
    fi
else
    show cowshed rm "$name" --yes
    name=
fi
