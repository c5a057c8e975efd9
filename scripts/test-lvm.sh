#!/bin/bash
# tests/lvm in two guests at once: as root, and as an ordinary user with the rules for sudo. Further words go to pytest.
#
# A guest has one CPU and a set of disks for itself, and starting a process in it is dear (0.2 s of CPU for an LVM
# command). So root tries thick volumes and the faults, the user thin volumes, part of what encrypted disks promise, and
# a guest that boots; with FULL=1 each tries everything.
set -uo pipefail
cd "$(dirname "$0")/.."
logs=build/test-lvm
limit=${LVM_TIMEOUT:-2400}
mkdir -p "$logs"

guest() {  # NAME CPU PREPARE-OPTIONS -- PYTEST-WORDS
    local name=$1 cpu=$2
    shift 2
    scripts/run-in-guest.py --cpu "$cpu" --timeout "$limit" --memory 2048 --disks 4G,128M -- \
        tests/lvm/prepare.sh "$@" >"$logs/$name.log" 2>&1
}
tests=(.venv/bin/python -m pytest -p no:cacheprovider tests/lvm --durations=5 "$@")

if [ -n "${FULL:-}" ]; then
    as_root=() as_user=()
else
    as_root=(-k "not ((test_volumes or test_lvm_cold) and thin) and not test_encrypted_volumes and not test_lvm_guest")
    encrypted="test_encrypted_volumes and (snapshots or extract or growing or lost_key or storage)"
    as_user=(-k "((test_volumes or test_lvm_cold) and thin) or ($encrypted) or test_lvm_guest or ordinary_user or not_ours")
fi

guest user 0 --user "${tests[@]}" "${as_user[@]}" &
user=$!
guest root 1 "${tests[@]}" "${as_root[@]}"
root_code=$?
wait $user
user_code=$?

for name in root user; do
    code=${name}_code lines=12
    [ "${!code}" -eq 0 ] || lines=180
    printf '\n==> as %s\n' $name
    tr -d '\r' <"$logs/$name.log" | tail -n $lines
done
passed=$(cat "$logs"/{root,user}.log | tr -d '\r' | grep -aoE '^=+ .*[0-9]+ passed' | grep -oE '[0-9]+ passed' | awk '{sum += $1} END {print sum + 0}')
printf '\n==> lvm: %s passed; status as root %s, as a user %s\n' "$passed" $root_code $user_code
[ $root_code -eq 0 ] && [ $user_code -eq 0 ]
