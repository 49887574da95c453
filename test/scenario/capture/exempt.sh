#!/usr/bin/env bash
# Whose connects are not captured: a cgroup's, never a mark's.
. test/lib/capture.sh
cap_up
cap_mesh_pod a 2
cap_app out 0.0.0.0:8080
G=$CG/${MESH_PREFIX}px
CAP_GROUPS+=("$G/child" "$G")
mkdir "$G" "$G/child"

in_group() { # GROUP ARGS...
	local g=$1
	shift
	(echo "$BASHPID" >"$g/cgroup.procs" && dial "$@" && printf '%s\n' "$OUT")
}
like "$(in_group "$G" a 10.92.0.1:8080)" 'said=out 10.92.0.1:8080' "an unknown cgroup is captured"
OUT=$("$CTL" exempt "$PIN" "$CG" "$G" on)
ok $? "a cgroup can be made exempt"
like "$(in_group "$G" a 10.92.0.1:8080)" '^peer=10.92.0.1:8080 self=10.92.0.2:. said=app 10.92.0.1:8080 10.92.0.2' "it goes out as it is"
like "$(in_group "$G/child" a 10.92.0.1:8080)" 'said=out' "a child of it is captured"
dial a 10.92.0.1:8080
like "$OUT" 'said=out' "everybody else too"
dial a -m 0x539 10.92.0.1:8080
like "$OUT" 'said=out' "the proxy's mark exempts nobody"
is "$(counter exempt)" 1 "exempt connects are counted"
"$CTL" exempt "$PIN" "$CG" "$G" off >/dev/null
like "$(in_group "$G" a 10.92.0.1:8080)" 'said=out' "taken back: captured again"
OUT=$("$CTL" exempt "$PIN" "$CG" "$CG" on)
like "$OUT" 'the root cgroup .* cannot be exempt' "the root cgroup is refused"
cap_done
