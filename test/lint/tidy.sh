#!/usr/bin/env bash
# clang-tidy over all C files: test/lint/tidy.sh BUILD-FOLDER (for the generated headers). Takes minutes.
set -u
cd "$(dirname "$0")/../.." || exit 1
O=$1
checks='-*,bugprone-*,clang-analyzer-*,cert-err34-c,readability-function-size'
checks+=',-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier,-bugprone-assignment-in-if-condition'
checks+=',-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling'
read -ra flags <<<"$(pkg-config --cflags libevent openssl libnghttp2 libprotobuf-c yaml-0.1 jansson libbpf)"
git ls-files 'agent/*.c' 'proxy/*.c' 'xds/*.c' |
	xargs -P "$(nproc)" -n 4 clang-tidy-16 --quiet --warnings-as-errors='*' --checks="$checks" \
		--config='{CheckOptions: [{key: readability-function-size.LineThreshold, value: 100}]}' \
		-- -std=gnu17 -D_GNU_SOURCE -I. -I"$O/gen" -I"$O" "${flags[@]}" 2>/dev/null
