#!/bin/bash
# Installs the Debian packages cowshed needs, by group. This file is the one list of them.
#
#   scripts/packages.sh [run|guest|test|ceph|lvm|bench|debian|all]...     (default: run)
#   scripts/packages.sh --list GROUP...                    print the names, install nothing
#
# Only what is missing is installed, and only then is the package index refreshed. Needs root or sudo for that;
# an ordinary user on a machine that has everything needs neither.
set -euo pipefail

# What cowshed itself runs on: libvirt's daemon without the system service (a user's own daemon is started by
# libvirt at the first connection), QEMU, firmware, and the tools of the disk layer.
run=(
    libvirt-daemon              # libvirtd, virtlogd
    libvirt-daemon-driver-qemu
    libvirt-clients             # virsh, which the doctor's remedies and the benchmarks call
    python3-libvirt
    qemu-system-x86
    qemu-system-common          # virtiofsd
    qemu-utils                  # qemu-img, qemu-nbd, qemu-io
    ovmf seabios                # UEFI and BIOS firmware
    python3 python3-venv
    e2fsprogs dosfstools xfsprogs
    iproute2                    # taps on bridges
    util-linux
    openssh-client
    passt
    nftables                    # security groups
)

# What building the tiny guest of the demo and the tests needs; its own contents are unpacked, never installed.
guest=(
    make
    cpio kmod zstd
    dosfstools e2fsprogs fdisk mtools
    syslinux syslinux-common
    qemu-utils
)

# What the tests need in addition.
test=(
    libxml2-utils               # xmllint
    btrfs-progs ntfs-3g         # file systems that images and disks are made with
    qemu-block-extra            # rbd, iscsi and curl for qemu-img
    dnsmasq-base iptables       # networks of the system's libvirt
    ploop                       # a second reader and writer of ploop disks; works on files without its kernel module
    cryptsetup-bin              # a second reader of our LUKS heads
    swtpm swtpm-tools           # TPM devices
    groff-base                  # reads our manual pages
    genisoimage                 # isoinfo: a second reader of our config drives
    tgt                         # tgtd: iSCSI volumes
    openvswitch-switch          # a switch in user space
    uidmap                      # newuidmap: virtiofsd as an ordinary user
    openssl                     # certificates of servers
)

# What disks in Ceph need: the client of whoever uses a cluster, and the daemons for a cluster on this machine
# (scripts/ceph-node.sh).
ceph=(
    ceph-common                 # ceph, rbd
    python3-rados python3-rbd
    qemu-block-extra
    ceph-mon ceph-mgr ceph-osd
)

# What disks in volume groups need, and a kernel of its own to test them under (scripts/run-in-guest.py).
lvm=(
    lvm2 thin-provisioning-tools
    cryptsetup-bin              # dm-crypt
    sudo                        # for whoever is not root
    user-mode-linux kmod
    e2fsprogs iproute2
    nfs-kernel-server nfs-common  # shares from a file server; that kernel has both sides
)

# What the benchmarks need in addition.
bench=(
    btrfs-progs xfsprogs        # file systems that share blocks
    libnbd-bin                  # nbdcopy
)

# What building a small real Debian guest needs.
debian=(
    mmdebstrap
    uidmap                      # user namespaces for mmdebstrap without root
    syslinux syslinux-common mtools dosfstools
    e2fsprogs fdisk
    qemu-utils
)

groups=(run guest test ceph lvm bench debian)

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; }

list=no
wanted=()
for arg in "$@"; do
    case $arg in
        -h|--help) usage; exit 0 ;;
        --list) list=yes ;;
        all) wanted+=("${groups[@]}") ;;
        run|guest|test|ceph|lvm|bench|debian) wanted+=("$arg") ;;
        *) echo "packages.sh: unknown group '$arg' (there are: ${groups[*]} all)" >&2; exit 2 ;;
    esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=(run)

names=()
for group in "${wanted[@]}"; do
    declare -n members=$group
    names+=("${members[@]}")
done
mapfile -t names < <(printf '%s\n' "${names[@]}" | sort -u)

if [ $list = yes ]; then
    printf '%s\n' "${names[@]}"
    exit 0
fi

if ! command -v dpkg-query >/dev/null; then
    echo "packages.sh: this is not a Debian machine; install the equivalents of:" >&2
    printf '  %s\n' "${names[@]}" >&2
    exit 1
fi

look() {  # what of the names is missing
    local name
    missing=()
    for name in "${names[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing+=("$name")
    done
}
look
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo)
else
    {
        echo "packages.sh: missing packages, and neither root nor sudo to install them. Please run as root:"
        echo
        echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    } >&2
    exit 1
fi

# Two callers at once (two terminals, parallel make) take turns; so do others who install (a machine that has just started).
exec 9<"$0"
flock 9
look
[ ${#missing[@]} -gt 0 ] || exit 0
echo "packages.sh: installing ${missing[*]}"
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600)
"${as_root[@]}" "${apt[@]}" update 9<&-
"${as_root[@]}" "${apt[@]}" install --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null 9<&-  # services that it starts keep no lock
