#!/usr/bin/env bash
# Runs tests that print TAP, one after the other: test/run.sh LOG-FOLDER KIND:PATH...
#   unit:PROGRAM   replay:PROGRAM (a fuzzer's corpus)   golden:SCRIPT   scenario:SCRIPT (as root)
# Closes with one line "N passed, N failed, N skipped" of test points; fails when one failed, or when none ran.
# A program that crashes, is too slow, prints no plan or not all of it, or leaves a sanitizer's report counts as failed.
# T=REGEX runs only what matches. MESH_BIN: folder of the programs. A script may say "# limit: SECONDS".
set -u
cd "$(dirname "$0")/.." || exit 1
[ $# -ge 1 ] || exit 2
mkdir -p "$1"
LOGS=$(cd "$1" && pwd)
shift
rm -f "$LOGS"/*.log "$LOGS"/san.*
chmod 1777 "$LOGS" # programs that have changed their user leave sanitizer reports here
export CMOCKA_MESSAGE_OUTPUT=TAP
export MESH_BIN=${MESH_BIN:-$PWD/build/release} MESH_SAN=${SAN:-}
PASSED=0 FAILED=0 SKIPPED=0 BAD=() SKIPS=()
SUDO=()
[ "$(id -u)" = 0 ] || SUDO=(sudo -n -E)

# The points of a log: "passed failed skipped plan", then a line each for what failed ("F text") or was skipped ("S text").
tap_count() {
	awk '
		/^1\.\.[0-9]+/ { plan = substr($1, 4) + 0; have_plan = 1
			if (plan == 0 && match($0, /# *SKIP/)) { s++; out = out "\nS whole test: " substr($0, RSTART + RLENGTH + 1) } }
		/^# SKIP/ { why = substr($0, 8) }
		/^Bail out!/ { f++; bail = 1; out = out "\nF " $0 }
		/^(not )?ok [0-9]/ {
			n++; text = $0; sub(/^(not )?ok [0-9]+ *(- )?/, "", text)
			if (match(text, /# *SKIP/)) {
				name = substr(text, 1, RSTART - 1); rest = substr(text, RSTART + RLENGTH + 1)
				s++; out = out "\nS " name rest (why != "" ? ": " why : ""); why = ""
			} else if ($1 == "ok") p++
			else { f++; out = out "\nF " text }
		}
		END {
			if (!have_plan && !bail) { f++; out = out "\nF no plan: the test ended before it was done" }
			else if (have_plan && plan != n && !bail) { f++; out = out "\nF " n + 0 " points of " plan " planned" }
			printf "%d %d %d%s\n", p, f, s, out
		}' "$1"
}

one() { # KIND PATH
	local kind=$1 path=$2 name log limit rc t0 counts p f s run=() args=() text san
	name=$path
	[[ $path == */test/unit/* ]] && name=${path#*/test/unit/}
	[[ $path =~ [-/](tsan|release)/test/unit/ ]] && name=$name@${BASH_REMATCH[1]}
	[[ $path == */test/fuzz/* ]] && name=${path#*/test/fuzz/}
	name=$kind/${name#test/"$kind"/}
	[[ -z ${T:-} || $name =~ $T ]] || return 0
	log=$LOGS/$(printf '%s' "$name" | tr '/ ' '__').log
	case $kind in
	unit | replay) limit=120 ;;
	golden) limit=60 ;;
	*) limit=300 ;;
	esac
	if [[ $path == *.sh ]]; then
		text=$(sed -n 's/^# limit: \([0-9]*\)$/\1/p' "$path" 2>/dev/null)
		limit=${text:-$limit}
		run=(bash)
	fi
	[ "$kind" = scenario ] && run=("${SUDO[@]}" bash)
	[ "$kind" = replay ] && args=("test/fuzz/corpus/$(basename "$path" _replay)")
	[ -n "${SAN:-}" ] && limit=$((limit * 2))
	printf '  TEST  %s ' "$name"
	t0=$(date +%s%N)
	# timeout leads a process group of its own and signals all of it
	san=log_path=$LOGS/san.${log##*/}
	ASAN_OPTIONS=$san:detect_stack_use_after_return=1 TSAN_OPTIONS=$san UBSAN_OPTIONS=$san:print_stacktrace=1:halt_on_error=1 \
		LSAN_OPTIONS=report_objects=1 timeout -k 15 "$limit" "${run[@]}" "$path" "${args[@]}" >"$log" 2>&1 </dev/null
	rc=$?
	counts=$(tap_count "$log")
	read -r p f s <<<"${counts%%$'\n'*}"
	while read -r t text; do
		[ "$t" = F ] && BAD+=("$name: $text")
		[ "$t" = S ] && SKIPS+=("$name: $text")
	done < <(printf '%s\n' "$counts" | tail -n +2)
	if [ $rc = 124 ] || [ $rc = 137 ]; then
		f=$((f + 1)) BAD+=("$name: not done in $limit s")
	elif [ $rc != 0 ] && [ "$f" = 0 ]; then
		f=1 BAD+=("$name: exit status $rc")
	fi
	if compgen -G "$LOGS/san.${log##*/}*" >/dev/null || grep -qE 'runtime error:|(ERROR|WARNING): [A-Z][a-z]*Sanitizer' "$log"; then
		f=$((f + 1)) BAD+=("$name: sanitizer report, see $log and $LOGS/san.*")
	fi
	PASSED=$((PASSED + p)) FAILED=$((FAILED + f)) SKIPPED=$((SKIPPED + s))
	printf '%s%d passed%s%s, %d ms\n' "$([ "$f" = 0 ] || echo 'FAIL ')" "$p" "$([ "$f" = 0 ] || echo ", $f failed")" \
		"$([ "$s" = 0 ] || echo ", $s skipped")" $((($(date +%s%N) - t0) / 1000000))
	if [ "$f" != 0 ]; then
		grep -vE '^ok ' "$log" | tail -n "${TAIL:-15}" | sed 's/^/        | /'
	fi
}

for item in "$@"; do
	if [ "${item%%:*}" = scenario ] && [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
		[[ -z ${T:-} || $item =~ $T ]] || continue
		FAILED=$((FAILED + 1)) BAD+=("${item#*:}: needs root, or sudo without a password")
		continue
	fi
	one "${item%%:*}" "${item#*:}"
done

[ ${#SKIPS[@]} = 0 ] || printf '\nskipped:\n' && printf '  %s\n' "${SKIPS[@]}" | sed '/^  $/d'
[ ${#BAD[@]} = 0 ] || printf '\nfailed:\n' && printf '  %s\n' "${BAD[@]}" | sed '/^  $/d'
[ "$FAILED" = 0 ] || printf 'logs: %s\n' "$LOGS"
[ $((PASSED + FAILED)) -gt 0 ] || printf 'nothing was run\n'
printf '%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
[ "$FAILED" = 0 ] && [ "$PASSED" -gt 0 ]
