#!/usr/bin/env bash
# Golden files: a folder here with an executable `cmd` is an area. For each NAME.in, what `cmd NAME.in` prints must be
# NAME.out. MESH_BIN is the folder of the programs. UPDATE=1 writes the .out files and shows what changed.
set -u
cd "$(dirname "$0")/../.." || exit 1
N=0
for cmd in test/golden/*/cmd; do
	dir=${cmd%/cmd}
	for in in "$dir"/*.in; do
		[ -e "$in" ] || continue
		out=${in%.in}.out
		N=$((N + 1))
		got=$("$cmd" "$in" 2>&1; echo "exit $?")
		if [ -n "${UPDATE:-}" ]; then
			[ -e "$out" ] || : >"$out"
			diff -u "$out" <(printf '%s\n' "$got")
			printf '%s\n' "$got" >"$out"
		fi
		if diff=$(diff -u "$out" <(printf '%s\n' "$got") 2>&1); then echo "ok $N - ${in#test/golden/}"; else
			echo "not ok $N - ${in#test/golden/}"
			printf '%s\n' "$diff" | sed 's/^/# /'
		fi
	done
done
echo "1..$N"
[ $N -gt 0 ]
