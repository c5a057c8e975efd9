#!/bin/bash
# Inside the guest, as root: volume groups for the tests, then the command; with --user as an ordinary user who may do
# through sudo what cowshed's table of privileges says, and nothing else.
#
#   tests/lvm/prepare.sh [--user] COMMAND...
#
# cow-shed has a thin pool, and a volume of somebody else whose name looks like ours; tiny is nearly full from the start, and its pool says so at once.
set -euo pipefail
read -r big small <<<"$GUEST_DISKS"
user=
if [ "$1" = --user ]; then user=keeper; shift; fi

quietly() { "$@" >/dev/null 2>/tmp/prepare.log || { cat /tmp/prepare.log; exit 1; }; }
quietly vgcreate -s 1M cow-shed "$big"
quietly lvcreate -y -L 1200M -T cow-shed/pool
quietly lvcreate -y -L 4M -n 00000000-0000-4000-8000-00000000f0e1_disk cow-shed
printf "not cowshed's" >/dev/cow-shed/00000000-0000-4000-8000-00000000f0e1_disk
quietly vgcreate -s 1M tiny "$small"
quietly lvcreate -y -L 40M -T tiny/pool --errorwhenfull y

[ -n "$user" ] || exec "$@"

useradd --create-home "$user"
.venv/bin/python -m cowshed.tools.privilege "$user" cow-shed tiny >/etc/sudoers.d/cowshed
chmod 440 /etc/sudoers.d/cowshed
quietly visudo -c
export HOME=/home/$user USER=$user LOGNAME=$user  # what is named for a user is not looked for under the caller's name
# The way to the interpreter and to the project is open to everybody (in the guest's own layer of the file system).
for place in "$(readlink -f .venv/bin/python)" "$PWD"; do
    while place=$(dirname "$place"); [ "$place" != / ]; do chmod a+x "$place"; done
done
exec setpriv --reuid "$user" --regid "$user" --init-groups "$@"
