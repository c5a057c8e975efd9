#!/bin/bash
# Builds a small real Debian 12 guest: cloud-init, qemu-guest-agent, an SSH server, netplan. About 90 s on two cores.
#
#   scripts/guest-debian.sh [OUTDIR]                (default: build/guest-debian)
#
# OUTDIR/debian.qcow2 is then a disk of 2 GiB (virtual; 200 MB compressed) that starts on BIOS and on UEFI and takes its
# host name, user, keys and network from a NoCloud seed or a config drive. Its root partition is the last one and grows
# with the disk. No root needed where user namespaces work. An up-to-date OUTDIR is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C.UTF-8

out=${1:-build/guest-debian}
mkdir -p "$out"
out=$(realpath "$out")
exec 9>"$out/lock"
flock 9
key=$(sha256sum <"$0" | cut -d' ' -f1)
if [ "$(cat "$out/built" 2>/dev/null)" = "$key" ]; then exit 0; fi

for tool in mmdebstrap mcopy mkfs.ext4 mkfs.fat qemu-img sfdisk syslinux; do
    command -v $tool >/dev/null ||
        { echo "guest-debian.sh: no $tool here; see: scripts/packages.sh guest debian" >&2; exit 1; }
done
echo "guest-debian.sh: building a Debian guest in $out"

# What must be root (file owners in the image) is root in a user namespace when the caller is not.
if [ "$(id -u)" -eq 0 ]; then
    mode=root
    as_root() { "$@"; }
else
    unshare --user true 2>/dev/null ||
        { echo "guest-debian.sh: this host gives users no namespaces of their own; run it as root" >&2; exit 1; }
    mode=unshare
    as_root() { mmdebstrap --unshare-helper "$@"; }
fi

work=$(mktemp -d "$out/work.XXXXXX")
chmod 755 "$work"
trap '[ ! -d "$work/tree" ] || as_root rm -rf "$work/tree/root"; rm -rf "$work"' EXIT

# ---- the system ------------------------------------------------------------------------------------------------------

packages=(
    linux-image-cloud-amd64 initramfs-tools zstd systemd-boot-efi
    systemd-sysv libpam-systemd udev dbus kmod login sudo
    e2fsprogs fdisk cloud-guest-utils               # growpart and resize2fs: the root partition grows with the disk
    iproute2 iputils-ping netbase netplan.io systemd-resolved ca-certificates curl
    cloud-init qemu-guest-agent openssh-server
    less nano procps
)
customize() { printf -- '--customize-hook=%s\n' "$1"; }
hooks=(
    # netplan only writes files for networkd; without this nothing ever reads them.
    "$(customize 'chroot "$1" systemctl enable systemd-networkd')"
    "$(customize 'chroot "$1" systemctl mask systemd-networkd-wait-online')"
    "$(customize 'printf "LABEL=debian-root / ext4 errors=remount-ro 0 1\n" >"$1/etc/fstab"')"
    "$(customize 'echo LANG=C.UTF-8 >"$1/etc/default/locale"')"
    # No locales here to generate; one host key is enough, and its picture need not fill the console.
    "$(customize 'printf "%s\n" "datasource_list: [NoCloud, ConfigDrive, None]" "locale: C.UTF-8" \
        "ssh_genkeytypes: [ed25519]" "no_ssh_fingerprints: true" >"$1/etc/cloud/cloud.cfg.d/90_cowshed.cfg"')"
    "$(customize 'echo debian >"$1/etc/hostname"')"
    "$(customize ': >"$1/etc/machine-id"')"
    "$(customize 'rm -f "$1"/etc/ssh/ssh_host_*')"
    "$(customize 'mkdir -p "$1/boot-files"; cp -L "$1"/boot/vmlinuz-* "$1/boot-files/vmlinuz"')"
    "$(customize 'cp -L "$1"/boot/initrd.img-* "$1/boot-files/initrd"')"
    "$(customize 'cp -L "$1/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$1/boot-files/"')"
)
mmdebstrap --quiet --mode=$mode --variant=apt --components=main \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "${hooks[@]}" bookworm "$work/root.tar"

# ---- the disk: a boot partition (FAT: kernel, both boot loaders) and the root partition --------------------------------

boot_start=2048 boot_sectors=$((96 * 2048))
root_start=$((boot_start + boot_sectors))
size=$((2 * 1024 * 1024 * 1024))
truncate -s $size "$work/disk"
sfdisk -q "$work/disk" <<TABLE
label: dos
start=$boot_start, size=$boot_sectors, type=ef, bootable
start=$root_start, type=83
TABLE
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$work/disk" conv=notrunc bs=440 count=1 status=none

tar -x -f "$work/root.tar" -C "$work" --strip-components=2 ./boot-files/vmlinuz ./boot-files/initrd \
    ./boot-files/systemd-bootx64.efi
options="root=LABEL=debian-root ro console=tty0 console=ttyS0,115200 net.ifnames=0 quiet"
printf 'default debian\nprompt 0\nlabel debian\n  kernel /vmlinuz\n  initrd /initrd\n  append %s\n' "$options" \
    >"$work/syslinux.cfg"
printf 'default debian.conf\ntimeout 0\n' >"$work/loader.conf"
printf 'title debian\nlinux /vmlinuz\ninitrd /initrd\noptions %s\n' "$options" >"$work/debian.conf"

truncate -s $((boot_sectors * 512)) "$work/fat"
mkfs.fat -F 32 -n BOOT -h $boot_start "$work/fat" >/dev/null
export MTOOLS_SKIP_CHECK=1
mmd -i "$work/fat" ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
mcopy -i "$work/fat" "$work/vmlinuz" "$work/initrd" "$work/syslinux.cfg" ::/
mcopy -i "$work/fat" "$work/systemd-bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$work/fat" "$work/loader.conf" ::/loader/
mcopy -i "$work/fat" "$work/debian.conf" ::/loader/entries/
syslinux --install "$work/fat"
dd if="$work/fat" of="$work/disk" bs=1M seek=$((boot_start / 2048)) conv=notrunc,sparse status=none

mkdir -m 777 "$work/tree"
truncate -s $((size - root_start * 512)) "$work/ext4"
chmod 666 "$work/ext4"
# Device nodes cannot be made in a user namespace, and are not needed: the kernel mounts devtmpfs.
as_root sh -c '
    set -e
    mkdir "$1/tree/root"
    tar -x -p --numeric-owner --exclude="./dev/*" --exclude=./boot-files -f "$1/root.tar" -C "$1/tree/root"
    mkfs.ext4 -q -F -L debian-root -d "$1/tree/root" "$1/ext4"
    rm -rf "$1/tree/root"' sh "$work"
dd if="$work/ext4" of="$work/disk" bs=1M seek=$((root_start / 2048)) conv=notrunc,sparse status=none

qemu-img convert -q -f raw -O qcow2 -c -m 4 -W "$work/disk" "$work/debian.qcow2"
rm -f "$out/built"
mv "$work/debian.qcow2" "$out/"
echo "$key" >"$out/built"
(cd "$out" && ls -lh debian.qcow2 | awk '{printf "  %-16s %s\n", $NF, $5}')
