#!/usr/bin/env bash
# Writes docs/reasons.md from proxy/core/reasons.def; with --check it only compares.
set -eu
cd "$(dirname "$0")/.."
page() {
	cat <<-'EOT'
		# Why a connection ended

		Generated from `proxy/core/reasons.def` by `docs/gen-reasons.sh`; do not edit.

		Every connection ends with one of these reasons. The code is in the access log (`reason=`) and in
		`weftctl explain`; the flag is the `response_flags` label of the `istio_tcp_*` metrics. Codes are stable:
		new ones may come, none changes its meaning.

		| code | response_flags | meaning |
		|---|---|---|
	EOT
	sed -n 's/^REASON([A-Z0-9_]*, *"\([^"]*\)", *"\([^"]*\)", *"\(.*\)") *$/| `\1` | `\2` | \3 |/p' proxy/core/reasons.def
}
# a line that the pattern above does not take would be lost without a word
[ "$(page | grep -c '^| `')" = "$(grep -c '^REASON(' proxy/core/reasons.def)" ] || {
	echo "docs/gen-reasons.sh: a line of reasons.def is not understood" >&2
	exit 1
}
if [ "${1:-}" = --check ]; then
	page | diff -u docs/reasons.md - || {
		echo "docs/reasons.md is out of date: run docs/gen-reasons.sh" >&2
		exit 1
	}
else
	page >docs/reasons.md
fi
