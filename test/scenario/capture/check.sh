#!/usr/bin/env bash
# The check at start: every feature is tried with the real objects, and nothing of the trial is left.
. test/lib/capture.sh
cap_up
"$CTL" unload "$PIN" >/dev/null
before=$(ls "$CG")
OUT=$("$CTL" check "$CG" "$MESH_W/bpf/A" 2>&1)
ok $? "everything weft needs is here"
printf '%s\n' "$OUT" | sed 's/^/# /'
for f in kernel BTF cgroup2 bpffs programs cgroup/connect4 cgroup/connect6 cgroup/getsockopt sockops sk_lookup SOCKHASH \
	"netns cookie" "outbound capture" "inbound steering" getpeername getsockname IP_TRANSPARENT; do
	like "$(grep -P "^$f\t" <<<"$OUT")" "^$f.found" "$f"
done
is "$(ls "$CG")" "$before" "no cgroup is left"
is "$(awk '{print $1}' <<<"$OUT" | sort | uniq -d | grep -v -E '^(cgroup|netns|outbound|inbound|other)')" "" "one line a feature"
OUT=$("$CTL" check "$MESH_W" "$MESH_W" 2>&1)
like "$OUT" 'cgroup2.fatal.*is not in a cgroup2 file system' "a folder that is no cgroup2 is named"
like "$OUT" 'bpffs.fatal.*is not a bpffs' "a folder that is no bpffs is named"
OUT=$("$CTL" load "$MESH_W/not-bpf/x" "$CG")
like "$OUT" 'must be on a bpffs' "the loader says so too"
OUT=$("$CTL" load "$PIN" "$MESH_W")
like "$OUT" 'must be in a cgroup2 file system' "and refuses a wrong cgroup"
tap_done
