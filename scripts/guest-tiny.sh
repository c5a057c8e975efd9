#!/bin/bash
# Builds the tiny guest from Debian packages: a Linux kernel, busybox, and a disk that boots them on BIOS and on UEFI.
#
#   scripts/guest-tiny.sh [--kernel cloud|generic] [OUTDIR]         (default: cloud, build/guest)
#
# OUTDIR then holds
#   vmlinuz, initramfs     for a direct kernel boot: up in 2 s without hardware acceleration
#   initramfs-agent        the same with qemu-guest-agent and an SSH server in it
#   tiny.raw, tiny.qcow2   a disk of 64 MiB: boot partition (FAT), data partition (ext4: boot counter, agent, SSH server)
#
# On UEFI the disk boots through systemd-boot, which nobody has signed. Beside it, in EFI/debian, lie Debian's signed shim
# and GRUB: moved to EFI/BOOT they boot the same kernel, which Debian has signed, with secure boot (in 512 MiB).
#
# Debian's cloud kernel starts two seconds faster but has no driver for SATA and LSI SCSI disks; the generic one has.
# No root needed. An up-to-date OUTDIR is left as it is. What the guest does is told in guest-tiny/init and guest-tiny/boot.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C.UTF-8 SOURCE_DATE_EPOCH=1700000000

kernel=cloud
if [ "${1:-}" = --kernel ]; then kernel=$2; shift 2; fi
case $kernel in
    cloud) meta=linux-image-cloud-amd64 ;;
    generic) meta=linux-image-amd64 ;;
    *) echo "guest-tiny.sh: no kernel '$kernel' (there are: cloud generic)" >&2; exit 2 ;;
esac
out=${1:-build/guest}
mkdir -p "$out"
out=$(realpath "$out")

# One builder at a time (parallel tests ask for the guest at once); the others find it done.
exec 9>"$out/lock"
flock 9
key="$kernel $(cat "$0" scripts/guest-tiny/* | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$out/built" 2>/dev/null)" = "$key" ]; then exit 0; fi

for tool in apt-get cpio depmod dpkg-deb mcopy mkfs.ext4 mkfs.fat qemu-img sfdisk syslinux zstd; do
    command -v $tool >/dev/null || { echo "guest-tiny.sh: no $tool here; see: scripts/packages.sh guest" >&2; exit 1; }
done
echo "guest-tiny.sh: building the tiny guest ($kernel kernel) in $out"

work=$out/work
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT

# ---- packages: downloaded and unpacked here, never installed ---------------------------------------------------------

# A package index of our own: works for every user, on machines whose index is missing or old, and changes nothing there.
index=$out/apt
mkdir -p "$index/lists/partial" "$index/archives/partial"
: >"$index/status"
apt=(-qq -o Dir::State::Lists="$index/lists" -o Dir::Cache="$index" -o Dir::State::status="$index/status"
     -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o APT::Architecture=amd64 -o APT::Architectures=amd64)

fetch() { (cd "$index/archives" && apt-get "${apt[@]}" download "$@" 2>&1 | { grep -v '^Get:' || true; } >&2); }

unpack() {  # NAME... : unpack downloaded packages into $work/root
    local name file
    for name in "$@"; do
        for file in "$index/archives/${name}"_*.deb; do dpkg-deb -x "$file" "$work/root"; done
    done
}

rm -f "$index"/archives/*.deb
apt-get "${apt[@]}" update || echo "guest-tiny.sh: not every package source answered; trying with those that did" >&2
image=$(apt-cache "${apt[@]}" depends --no-recommends $meta | awk '/Depends: linux-image/ {print $2; exit}')
[ -n "$image" ] || { echo "guest-tiny.sh: the package sources of this machine have no $meta" >&2; exit 1; }
# The closure of what the agent and the SSH server link to, and nothing but libraries of it.
mapfile -t libraries < <(apt-get "${apt[@]}" -s --no-install-recommends install qemu-guest-agent dropbear-bin |
                         awk '/^Inst (lib|zlib)/ && !/perl/ {print $2}')
packages=(busybox-static systemd-boot-efi shim-signed grub-efi-amd64-signed qemu-guest-agent dropbear-bin "${libraries[@]}")
fetch "$image" "${packages[@]}"
mkdir -p "$work/root"
unpack "$image" "${packages[@]}"
root=$work/root

# ---- initramfs -------------------------------------------------------------------------------------------------------

release=$(ls "$root/lib/modules")
modules=(
    virtio_pci virtio_blk virtio_net virtio_scsi virtio_console virtio_balloon virtio_rng virtio_mem virtio-rng
    sd_mod sr_mod ata_piix ahci nvme sym53c8xx mptspi mptsas usb-storage uas xhci-pci ehci-pci uhci-hcd
    e1000 e1000e 8139cp
    ext4 vfat isofs nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 crc32c_generic crc32c-intel
    button evdev qemu_fw_cfg i6300esb virtiofs 9p 9pnet_virtio
)
tree=$work/tree
mkdir -p "$tree"/{bin,etc/acpi/PWRF,lib/cowshed,proc,sys,dev,run,tmp,mnt,data,root,var,srv}
cp "$root/bin/busybox" "$tree/bin/busybox"
"$tree/bin/busybox" --list | while read -r applet; do [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"; done
ln -s bin "$tree/sbin"
install -m 755 scripts/guest-tiny/init "$tree/init"
install -m 755 scripts/guest-tiny/{boot,dhcp,down,extra,facts,power,watch} "$tree/lib/cowshed/"
install -m 755 scripts/guest-tiny/chpasswd "$tree/bin/chpasswd"
install -m 644 scripts/guest-tiny/{passwd,group,profile,inittab} "$tree/etc/"
ln -s /lib/cowshed/power "$tree/etc/acpi/PWRF/00000080"
ln -s /run "$tree/var/run"
printf '#!/bin/sh\nexec poweroff\n' >"$tree/lib/cowshed/shutdown"      # what the agent calls
chmod 755 "$tree/lib/cowshed/shutdown"
ln -s ../lib/cowshed/shutdown "$tree/bin/shutdown"

mkdir -p "$tree/lib/modules/$release"
cp "$root/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$tree/lib/modules/$release/"
# kmod resolves what each module needs, within the unpacked package.
depmod -b "$root" "$release"
for module in "${modules[@]}"; do
    modprobe -d "$root" -S "$release" --show-depends "$module" 2>/dev/null || true
done | sed -n 's/^insmod \(.*\.ko[.a-z]*\).*/\1/p' | sort -u | while read -r file; do
    install -D -m 644 "$file" "$tree/lib/modules/$release/$(realpath --relative-to="$root/lib/modules/$release" "$file")"
done
depmod -b "$tree" "$release"
rm -f "$tree/lib/modules/$release"/modules.*.bin "$tree/lib/modules/$release"/modules.{order,symbols,devname}

# qemu-guest-agent and the SSH server with the libraries they load, for any C library of the machine we build on.
extra=$work/extra
mkdir -p "$extra"/{bin,lib}
cp "$root/usr/sbin/qemu-ga" "$root/usr/sbin/dropbear" "$root/usr/bin/dropbearkey" "$extra/bin/"
libdirs=$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu
for program in "$extra"/bin/*; do
    "$root/lib64/ld-linux-x86-64.so.2" --library-path "$libdirs" --list "$program"
done | sed -n 's/.* => \(.*\) (0x.*/\1/p' | sort -u | while read -r library; do cp -L "$library" "$extra/lib/"; done
cp -L "$root/lib64/ld-linux-x86-64.so.2" "$extra/lib/"
cp -L "$root"/lib/x86_64-linux-gnu/libnss_files.so.2 "$extra/lib/" 2>/dev/null || true

archive() {  # TREE FILE
    find "$1" -exec touch -h -d @$SOURCE_DATE_EPOCH {} +
    (cd "$1" && find . | sort | cpio --quiet --reproducible -R 0:0 -o -H newc | zstd -q -19 -f -o "$2")
}

archive "$tree" "$work/initramfs"
cp -a "$tree" "$work/tree-agent"
cp -a "$extra" "$work/tree-agent/extra"
archive "$work/tree-agent" "$work/initramfs-agent"
cp "$root/boot/vmlinuz-$release" "$work/vmlinuz"

# ---- disk ------------------------------------------------------------------------------------------------------------

disk=$work/tiny.raw
boot_start=2048 boot_sectors=$((24 * 2048))
data_start=$((boot_start + boot_sectors))
truncate -s 64M "$disk"
sfdisk -q "$disk" <<TABLE
label: dos
label-id: 0xc0355ed0
start=$boot_start, size=$boot_sectors, type=ef, bootable
start=$data_start, type=83
TABLE
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" conv=notrunc bs=440 count=1 status=none

# The kernel's tests of its ciphers, the cleaning of memory and the change of each lock to one for a single CPU are a fifth
# of a boot without hardware acceleration. Its look whether the timer works panics where QEMU had to wait for a CPU.
options="console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=10 cowshed.data
         no_timer_check noreplace-smp cryptomgr.notests init_on_alloc=0"
options=$(echo $options)
cat >"$work/syslinux.cfg" <<CONFIG
serial 0 115200
prompt 0
default tiny
label tiny
  kernel /vmlinuz
  initrd /initramfs
  append $options
CONFIG
printf 'default tiny.conf\ntimeout 0\n' >"$work/loader.conf"
printf 'title tiny\nlinux /vmlinuz\ninitrd /initramfs\noptions %s\n' "$options" >"$work/tiny.conf"
cat >"$work/grub.cfg" <<CONFIG
search --no-floppy --label COWBOOT --set=root
linux /vmlinuz $options
initrd /initramfs
boot
CONFIG

fat=$work/fat
truncate -s $((boot_sectors * 512)) "$fat"
# The number of hidden sectors (-h) is where the partition starts: syslinux's boot sector needs it.
mkfs.fat -F 16 -n COWBOOT -i c0355ed1 -h $boot_start --invariant "$fat" >/dev/null
export MTOOLS_SKIP_CHECK=1
mmd -i "$fat" ::/EFI ::/EFI/BOOT ::/EFI/debian ::/loader ::/loader/entries
mcopy -i "$fat" "$work/vmlinuz" "$work/initramfs" "$work/syslinux.cfg" ::/
mcopy -i "$fat" "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$fat" "$root/usr/lib/shim/shimx64.efi.signed" ::/EFI/debian/shimx64.efi
mcopy -i "$fat" "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::/EFI/debian/grubx64.efi
mcopy -i "$fat" "$work/grub.cfg" ::/EFI/debian/
mcopy -i "$fat" "$work/loader.conf" ::/loader/
mcopy -i "$fat" "$work/tiny.conf" ::/loader/entries/
syslinux --install "$fat"
dd if="$fat" of="$disk" bs=1M seek=$((boot_start / 2048)) conv=notrunc,sparse status=none

mkdir -p "$work/data"
cp -a "$extra" "$work/data/extra"
echo 0 >"$work/data/boots"
find "$work/data" -exec touch -h -d @$SOURCE_DATE_EPOCH {} +
truncate -s $((64 * 1024 * 1024 - data_start * 512)) "$work/ext4"
mkfs.ext4 -q -L cowshed-data -U c0355ed0-0000-4000-8000-000000000001 -E hash_seed=c0355ed0-0000-4000-8000-000000000002,root_owner=0:0 \
    -O ^metadata_csum_seed -d "$work/data" "$work/ext4"
dd if="$work/ext4" of="$disk" bs=1M seek=$((data_start / 2048)) conv=notrunc,sparse status=none

qemu-img convert -q -f raw -O qcow2 -c "$disk" "$work/tiny.qcow2"

# ---- publish ---------------------------------------------------------------------------------------------------------

rm -f "$out/built"
mv "$work"/{vmlinuz,initramfs,initramfs-agent,tiny.raw,tiny.qcow2} "$out/"
rm -rf "$index"
echo "$key" >"$out/built"
(cd "$out" && ls -lh vmlinuz initramfs* tiny.* | awk '{printf "  %-16s %s\n", $NF, $5}')
