#!/usr/bin/env bash
# What an app without privileges might try against its capture: other ways to connect, sockets with a past, the proxy's place.
. test/lib/capture.sh
EVADE=$MESH_BIN/test/lib/capture_evade
mesh_need "$EVADE"
cap_up
cap_mesh_pod a 2
cap_pod late 3
cap_app out '0.0.0.0:8080'
cap_app a '[::]:8080'
A=10.92.0.2 X=198.51.100.7
try() { # NAME ARGS...
	local n=$1
	shift
	OUT=$(mesh_in "$n" "$EVADE" "$@" 2>&1 </dev/null)
}

# other ways to connect
try a uring $X:80
if [ "$OUT" = "error io_uring: ENOSYS" ] || [ "$OUT" = "error io_uring: EPERM" ]; then
	skip "io_uring's connect" "the kernel has no io_uring, or it is off"
else
	like "$OUT" "^said=out $X:80 127.0.0.1:" "io_uring's connect"
	try a uring-async $X:80
	like "$OUT" "^said=out $X:80 127.0.0.1:" "io_uring's connect in a thread of the kernel"
fi
like "$(counter captured)" '^[1-9]' "captures are counted"

# sockets with another past
mkfifo "$MESH_W/go"
mesh_in late "$EVADE" early 10.92.0.1:8080 <"$MESH_W/go" >"$MESH_W/log/early" 2>&1 &
early=$!
exec {go}>"$MESH_W/go"
mesh_wait 5 "a socket" grep -q made "$MESH_W/log/early"
ok $? "a socket is made before its namespace is enrolled"
cap_serve late
cap_enrol late
echo >&"$go"
wait "$early"
exec {go}>&-
like "$(tail -n 1 "$MESH_W/log/early")" '^said=out 10.92.0.1:8080 127.0.0.1:' "... and captured when it connects"
try out elsewhere "/run/netns/${MESH_PREFIX}a" $X:80
like "$OUT" "^said=out $X:80 127.0.0.1:" "a pod's socket in a process of another namespace is captured"
try a elsewhere "/run/netns/${MESH_PREFIX}out" 10.92.0.1:8080
like "$OUT" "^said=app 10.92.0.1:8080 10.92.0.1:" "a socket of another namespace is that namespace's, with its address, not the pod's"

# the proxy's place
for how in listen listen-reuseaddr; do # SO_REUSEPORT: broker_test, with the agent's own listeners
	for at in 127.64.1.1:15001 0.0.0.0:15001 '[::1]:15001' $A:15001 $A:15006 $A:15008 127.0.0.1:15008; do
		try a $how "$at"
		is "$OUT" "error bind: EADDRINUSE" "$how at $at"
	done
done
mesh_stop serve-a KILL
mesh_spawn thief a "$MESH_W/log/thief" "$DIAL" app '0.0.0.0:15008'
mesh_wait 5 thief grep -q ready "$MESH_W/log/thief"
dial out $A:15008
is "$OUT" "error connect: ECONNREFUSED" "no proxy, an app on its port: what arrives is refused, not the app's"
cap_done
