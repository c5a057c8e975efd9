#!/bin/bash
# All static checks, each with its time; goes on after a finding, so that one run shows them all.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=()

check() {  # NAME COMMAND...
    local name=$1 began=$EPOCHREALTIME output
    shift
    if output=$("$@" 2>&1); then
        printf '%-14s ok      %5.1f s\n' "$name" "$(awk "BEGIN {print $EPOCHREALTIME - $began}")"
    else
        printf '%-14s FAILED\n%s\n' "$name" "$output"
        failed+=("$name")
    fi
}

check ruff $bin/ruff check --quiet
check format $bin/ruff format --check --quiet --diff
check examples $bin/python docs/pages.py build/examples
check mypy $bin/mypy src/cowshed build/examples
check imports $bin/lint-imports
check shell bash -c 'for script in scripts/*.sh scripts/guest-tiny/* scripts/run-in-guest/* tests/lvm/*.sh .ci/run; do bash -n "$script" || exit; done'
check pages $bin/python docs/generate.py --check

[ ${#failed[@]} -eq 0 ] || { echo "lint: ${failed[*]}"; exit 1; }
