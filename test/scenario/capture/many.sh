#!/usr/bin/env bash
# One pod, default sysctls, one destination: 60,000 connections that the client closes first, 40,000 held at a time.
. test/lib/capture.sh
CLOSES=${CAP_CLOSES:-60000} HOLD=${CAP_HOLD:-40000} CLIENTS=4 # a process may have fewer fds than are held
cap_up
cap_mesh_pod a 2
storm a -n "$CLOSES" -w 64 -- 198.51.100.7:80 "out 198.51.100.7:80 "
is "$(value good)" "$CLOSES" "$CLOSES client-first closes: none failed, all destinations right ($(value ms) ms)"
mkfifo "$MESH_W/hold"
exec 9<>"$MESH_W/hold"
for ((i = 0; i < CLIENTS; i++)); do
	nsenter --net="/run/netns/${MESH_PREFIX}a" -- "$DIAL" -h -r -n $((HOLD / CLIENTS)) -w 64 storm 198.51.100.8:81 "out 198.51.100.8:81 " <"$MESH_W/hold" 9>&- >"$MESH_W/log/hold$i" 2>&1 &
	MESH_PID[hold$i]=$!
	MESH_PIDS+=("$!")
done
all_held() { [ "$(cat "$MESH_W"/log/hold* | grep -c begun)" = "$CLIENTS" ]; }
mesh_wait 60 "$HOLD connections" all_held
is "$(sed -n 's/.*good=\([0-9]*\).*/\1/p' "$MESH_W"/log/hold* | awk '{n += $1} END {print n}')" "$HOLD" "$HOLD held at a time, all destinations right"
grep -h begun "$MESH_W"/log/hold* | sed "s/^/# /"
is "$(counter tuples_walked)" 0 "held connections take no map entry"
dial a 198.51.100.7:80
like "$OUT" "said=out 198.51.100.7:80" "one more is served"
for ((i = 0; i < CLIENTS; i++)); do printf x >&9; done
bad=0
for ((i = 0; i < CLIENTS; i++)); do wait "${MESH_PID[hold$i]}" || bad=1; done
ok $bad "all are released"
is "$(counter tuple_lost)$(counter denied_full)$(counter orphans)" 000 "nothing lost, nobody denied"
cap_done
