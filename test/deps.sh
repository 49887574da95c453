#!/usr/bin/env bash
# Installs the packages of debian-packages.txt that are missing: test/deps.sh KIND... (build test lint bench).
# As root, or through sudo by itself. Quiet and quick when there is nothing to do.
set -eu
list=$(dirname "$0")/debian-packages.txt
# one at a time: make may ask for two lists at once, and apt has one lock
if command -v flock >/dev/null; then
	exec 9<"$list"
	flock 9
fi
missing=()
for kind in "$@"; do
	while read -r k p; do
		[ "$k" = "$kind" ] || continue
		if command -v dpkg-query >/dev/null; then
			dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
		fi
	done <"$list"
done
if ! command -v dpkg-query >/dev/null; then
	echo "deps: this is no Debian; what is needed is listed in $list" >&2
	exit 0
fi
[ ${#missing[@]} -gt 0 ] || exit 0
run=()
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "deps: missing packages, and neither root nor sudo: ${missing[*]}" >&2
		exit 1
	}
	run=(sudo)
fi
echo "  DEPS  ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# services of the packages (nginx, redis, prometheus) are not started: policy-rc.d says so while they are installed
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | "${run[@]}" tee $policy >/dev/null
	"${run[@]}" chmod 755 $policy
	trap '"${run[@]}" rm -f $policy' EXIT
fi
opts=(-qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120)
"${run[@]}" apt-get -qq update 9<&-
"${run[@]}" apt-get "${opts[@]}" install "${missing[@]}" >/dev/null 9<&-
