# The tasks of this project. `make help` lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
bin := .venv/bin

# Tests in order of cost; two at a time, guests of one file one after the other.
TESTS ?= tests/unit tests/golden tests/conformance tests/host tests/vm
JOBS ?= 2
ARGS ?=

.PHONY: help demo test test-debian test-lvm bench lint docs venv packages guests guest-generic guest-debian clean glance

help:  ## this list
	@awk -F '## ' '/^[a-z-]+:.*## / {split($$1, name, ":"); printf "  make %-14s %s\n", name[1], $$2}' $(MAKEFILE_LIST)

demo:  ## install what is missing, build a small image, run it, show its console, remove it (BACKEND=rbd|raw|qcow2|ploop)
	@scripts/make-demo.sh

test: packages venv guests glance  ## install what the tests need and run them (TESTS=..., ARGS=..., JOBS=2)
	@scripts/reap.py $(bin)/python -m pytest -n $(JOBS) --dist loadgroup $(wildcard $(TESTS)) $(ARGS)

test-debian: packages venv guest-debian  ## boot a small real Debian with cloud-init (minutes)
	@$(bin)/python -m pytest tests/debian $(ARGS)

test-lvm: packages venv guests  ## LVM on a real device-mapper, in a user-mode Linux: as root and as an ordinary user
	@scripts/packages.sh lvm
	@scripts/test-lvm.sh $(ARGS)

lint: venv  ## static checks: ruff, mypy, import directions, generated pages
	@scripts/lint.sh

docs: venv  ## write the generated pages anew
	@$(bin)/python docs/generate.py

bench: venv guests  ## measure cowshed and its peers side by side on this machine
	@scripts/packages.sh run ceph lvm bench
	@$(bin)/python -m bench $(ARGS)

packages:  ## install the system packages that running and testing need (only what is missing)
	@scripts/packages.sh run guest test ceph

venv:  ## make .venv with everything for development (only when something changed)
	@scripts/venv.sh dev

guests:  ## build the tiny guest (only when its script changed)
	@scripts/packages.sh guest
	@scripts/guest-tiny.sh build/guest

guest-generic:  ## the same with the kernel that knows SATA and USB disks, which a few tests make themselves otherwise
	@scripts/packages.sh guest
	@scripts/guest-tiny.sh --kernel generic build/guest-generic

glance:  ## make the environment of the tests' image server (only when its requirements changed)
	@scripts/glance-server.py install

guest-debian:  ## build a small real Debian guest with cloud-init
	@scripts/packages.sh guest debian
	@scripts/guest-debian.sh build/guest-debian

clean:  ## remove what was built
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
