#!/bin/bash
# A whole Ceph cluster on this machine for tests, demos and measurements: one monitor, one manager, one OSD on a file.
#
#   scripts/ceph-node.sh start DIR [--with PID] [--size BYTES] [--ipv6]
#   scripts/ceph-node.sh stop DIR
#   scripts/ceph-node.sh status DIR
#
# Everything lies in DIR (ceph.conf, the keyring of client.admin, data, logs); the daemons listen on free ports of the
# loopback device, so that several clusters may run at once. Needs neither root nor systemd; up in about ten seconds.
# A command finds it with  ceph -c DIR/ceph.conf status
#
#   --with PID    end the cluster by itself when the process PID has ended (however it ended)
#   --size BYTES  of the OSD (a sparse file; default 40G)
#   --ipv6        listen on ::1 instead of 127.0.0.1
#
# Never for data that anybody needs: there is one copy, and writes are not synced to survive a crash of the machine.
set -euo pipefail

usage() { sed -n '2,17s/^# \{0,1\}//p' "$0"; }
fail() { echo "ceph-node.sh: $*" >&2; exit 1; }

command=${1:-}
case $command in
    start|stop|status) ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
dir=$(realpath -m "$2")
shift 2
with=
size=40G
host=127.0.0.1
while [ $# -gt 0 ]; do
    case $1 in
        --with) with=$2; shift 2 ;;
        --size) size=$2; shift 2 ;;
        --ipv6) host='[::1]'; shift ;;
        *) fail "unknown option $1" ;;
    esac
done
export CEPH_CONF=$dir/ceph.conf
unset CEPH_ARGS
daemons=(osd.0 mgr.x mon.a)  # in the order of ending

# Is the process of this pid file one of ours still? A pid alone may be somebody else's by now.
alive() {
    local pid
    pid=$(cat "$dir/$1.pid" 2>/dev/null) || return 1
    [ -n "$pid" ] && { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "$dir/ceph.conf"
}

stop() {
    local name tries
    for name in "${daemons[@]}"; do
        alive "$name" || continue
        # Nothing here is worth an orderly end, which takes the OSD and the manager several seconds.
        kill -KILL "$(cat "$dir/$name.pid")" 2>/dev/null || true
        for tries in $(seq 100); do alive "$name" || break; sleep 0.05; done
        rm -f "$dir/$name.pid"
    done
}

# Ports below the range the kernel hands out, so that no connection takes one between looking and listening.
free_port() {
    python3 - "$host" <<'PYTHON'
import random, socket, sys
host = sys.argv[1].strip("[]")
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for first in random.sample(range(20000, 30000, 2), 200):
    held = [socket.socket(family) for _ in range(2)]
    try:
        for offset, listener in enumerate(held):
            listener.bind((host, first + offset))
    except OSError:
        continue
    finally:
        for listener in held:
            listener.close()
    print(first)
    break
PYTHON
}

write_conf() {
    local port=$1 bind=
    if [ "$host" = '[::1]' ]; then
        bind=$'ms bind ipv4 = false\nms bind ipv6 = true'
    fi
    cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = [v2:$host:$port,v1:$host:$((port + 1))]
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $dir/\$name.keyring
run dir = $dir
admin socket = $dir/\$name.\$pid.asok
pid file = $dir/\$type.\$id.pid
log file = $dir/\$type.\$id.log
crash dir = $dir/crash
public addr = ${host//[\[\]]/}
$bind
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon warn on pool no redundancy = false
mon mgr beacon grace = 3600
mon allow pool size one = true
mon allow pool delete = true
mon max pg per osd = 2000
auth allow insecure global id reclaim = false
rbd default features = 61

[client]
# Programs that use the cluster write no logs and no sockets into its directory.
log file =
admin socket =
pid file =

[mon]
keyring = $dir/mon.keyring
mon data = $dir/mon
mon data avail warn = 1
mon data avail crit = 1
mon osd min down reporters = 1
# There is nobody to agree with: a new pool or snapshot need not wait for others to come together.
paxos propose interval = 0.05
paxos min wait = 0.01

[mgr]
mgr data = $dir/mgr
mgr initial modules =

[osd]
osd data = $dir/osd
osd objectstore = bluestore
bluestore block size = $(numfmt --from=iec "$size")
bluestore block wal create = false
bluestore block db create = false
bluestore fsck on mkfs = false
bluestore fsck on mount = false
bluestore cache autotune = false
bluestore cache size = 268435456
osd max object name len = 256
osd max object namespace len = 64
osd client watch timeout = 10
osd class load list = *
osd class default list = *
debug bluestore = 0
debug bluefs = 0
debug rocksdb = 0
CONF
}

authtool() { CEPH_CONF=/dev/null ceph-authtool "$@" >/dev/null; }

make_keys() {
    authtool --create-keyring "$dir/mon.keyring" --gen-key -n mon. --cap mon 'allow *'
    authtool --create-keyring "$dir/client.admin.keyring" --gen-key -n client.admin \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    authtool --create-keyring "$dir/mgr.x.keyring" --gen-key -n mgr.x \
        --cap mon 'allow profile mgr' --cap osd 'allow *'
    authtool --create-keyring "$dir/osd.0.keyring" --gen-key -n osd.0 \
        --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
    cp "$dir/mon.keyring" "$dir/all.keyring"
    local name
    for name in client.admin mgr.x osd.0; do
        authtool "$dir/all.keyring" --import-keyring "$dir/$name.keyring"
    done
}

start() {
    local tool
    for tool in ceph-mon ceph-mgr ceph-osd ceph monmaptool; do
        command -v $tool >/dev/null || fail "no $tool here: scripts/packages.sh ceph"
    done
    if alive mon.a; then return 0; fi
    stop
    rm -rf "$dir"/{mon,mgr,osd,crash} "$dir"/*.{keyring,asok,pid,log} "$dir/ceph.conf" "$dir/monmap"
    mkdir -p "$dir"/{mon,mgr,osd,crash}
    chmod 700 "$dir"
    local port fsid
    port=$(free_port)
    write_conf "$port"
    make_keys
    fsid=$(sed -n 's/^fsid = //p' "$dir/ceph.conf")
    monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:$host:$port,v1:$host:$((port + 1))]" \
        "$dir/monmap" >/dev/null
    ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/all.keyring" -c "$dir/ceph.conf" 2>"$dir/mon.mkfs.log" ||
        fail "the monitor cannot be made: $(tail -n 3 "$dir/mon.mkfs.log")"
    rm "$dir/all.keyring"
    ceph-mon -i a -c "$dir/ceph.conf" >/dev/null 2>&1
    ceph-mgr -i x -c "$dir/ceph.conf" 2>/dev/null &
    local osd_uuid
    osd_uuid=$(cat /proc/sys/kernel/random/uuid)
    ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid" --no-mon-config -c "$dir/ceph.conf" >/dev/null 2>"$dir/osd.mkfs.log" ||
        fail "the OSD cannot be made: $(tail -n 3 "$dir/osd.mkfs.log")"
    ceph --connect-timeout 30 -c "$dir/ceph.conf" osd new "$osd_uuid" 0 >/dev/null 2>&1 ||
        fail "the monitor does not answer: $(tail -n 3 "$dir/mon.a.log")"
    ceph-osd -i 0 -c "$dir/ceph.conf" >/dev/null 2>&1
    wait
    ready
    if [ -n "$with" ]; then
        setsid bash -c 'while kill -0 "$1" 2>/dev/null; do sleep 2; done; exec "$2" stop "$3"' \
            watch "$with" "$(realpath "$0")" "$dir" >/dev/null 2>&1 </dev/null &
    fi
}

# Up, in, and the manager answers (it is the one that starts flattening in the background).
ready() {
    local tries
    for tries in $(seq 120); do
        if ceph --connect-timeout 10 -c "$dir/ceph.conf" osd stat 2>/dev/null | grep -q ' 1 up.* 1 in' &&
            timeout 10 ceph --connect-timeout 10 -c "$dir/ceph.conf" rbd task list >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.3
    done
    fail "the cluster does not come up: $(tail -n 3 "$dir"/*.log)"
}

status() {
    local name result=0
    for name in mon.a mgr.x osd.0; do
        if alive "$name"; then echo "$name up ($(cat "$dir/$name.pid"))"; else echo "$name down"; result=3; fi
    done
    return $result
}

$command
