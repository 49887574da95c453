#!/usr/bin/env bash
# Bootstraps that weft-waypoint is asked about: for each test/golden/waypoint/NAME.yaml what --mode validate says must be
# NAME.out. MESH_BIN is the folder of the programs. UPDATE=1 writes the .out files and shows what changed.
set -u
cd "$(dirname "$0")/waypoint" || exit 1
BIN=${MESH_BIN:-../../../build/release}/weft-waypoint
N=0
for in in *.yaml; do
	out=${in%.yaml}.out
	N=$((N + 1))
	got=$("$BIN" --mode validate -c "$in" 2>&1; echo "exit $?")
	if [ -n "${UPDATE:-}" ]; then
		[ -e "$out" ] || : >"$out"
		diff -u "$out" <(printf '%s\n' "$got")
		printf '%s\n' "$got" >"$out"
	fi
	if diff=$(diff -u "$out" <(printf '%s\n' "$got") 2>&1); then echo "ok $N - waypoint/$in"; else
		echo "not ok $N - waypoint/$in"
		printf '%s\n' "$diff" | sed 's/^/# /'
	fi
done
echo "1..$N"
[ $N -gt 0 ]
