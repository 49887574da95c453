#!/usr/bin/env bash
# The test runner itself: what must count as failed does. Fake tests, each with the last line it must lead to.
set -u
W=$(mktemp -d)
trap 'rm -rf "$W"' EXIT
N=0
fake() { # NAME LAST-LINE EXIT: the fake's script on stdin
	local out rc
	cat >"$W/$1.sh"
	out=$(T='' SAN='' TAIL=0 test/run.sh "$W/logs" "golden:$W/$1.sh" 2>&1)
	rc=$?
	N=$((N + 1))
	if [ "${out##*$'\n'}" = "$2" ] && [ $rc = "$3" ]; then echo "ok $N - $1"; else
		echo "not ok $N - $1"
		printf '%s\n' "$out" "exit status $rc" | sed 's/^/# /'
	fi
}
fake passes '2 passed, 0 failed, 0 skipped' 0 <<<'echo 1..2; echo ok 1; echo ok 2 - b'
fake plan-last '1 passed, 0 failed, 0 skipped' 0 <<<'echo ok 1; echo 1..1'
fake fails '1 passed, 1 failed, 0 skipped' 1 <<<'echo 1..2; echo ok 1; echo not ok 2 - b'
fake fails-with-exit '0 passed, 1 failed, 0 skipped' 1 <<<'echo 1..1; echo not ok 1; exit 1'
fake skips '1 passed, 0 failed, 1 skipped' 0 <<<'echo 1..2; echo ok 1; echo "ok 2 # SKIP no such kernel"'
fake skips-as-cmocka '1 passed, 0 failed, 1 skipped' 0 <<<'echo 1..2; echo ok 1; echo "not ok 2 # SKIP x"'
fake skips-all '0 passed, 0 failed, 1 skipped' 1 <<<'echo "1..0 # SKIP no such kernel"'
fake no-plan '1 passed, 1 failed, 0 skipped' 1 <<<'echo ok 1'
fake short-of-plan '1 passed, 1 failed, 0 skipped' 1 <<<'echo 1..2; echo ok 1'
fake silent '0 passed, 1 failed, 0 skipped' 1 <<<'true'
fake crashes '1 passed, 1 failed, 0 skipped' 1 <<<'echo 1..1; echo ok 1; kill -SEGV $$'
fake bails '1 passed, 1 failed, 0 skipped' 1 <<<'echo ok 1; echo "Bail out! no ip"; exit 1'
fake exit-status '1 passed, 1 failed, 0 skipped' 1 <<<'echo 1..1; echo ok 1; exit 3'
fake sanitizer '1 passed, 1 failed, 0 skipped' 1 <<<'echo 1..1; echo ok 1; echo "x.c:1: runtime error: overflow"'
fake report-file '1 passed, 1 failed, 0 skipped' 1 <<<'echo 1..1; echo ok 1; f=${ASAN_OPTIONS#log_path=}; : >${f%%:*}.1'
fake too-slow '1 passed, 1 failed, 0 skipped' 1 <<<'# limit: 1
echo 1..1; echo ok 1; sleep 60'
out=$(T=nothing-matches test/run.sh "$W/logs" "golden:$W/passes.sh")
rc=$?
N=$((N + 1))
[ "${out##*$'\n'}" = '0 passed, 0 failed, 0 skipped' ] && [ $rc = 1 ] || printf 'not '
echo "ok $N - nothing run is a failure"
echo "1..$N"
