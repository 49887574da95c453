#!/usr/bin/env bash
# SIGTERM: listeners stay open in the agent, live connections finish, the rest is cut after the drain time.
. test/lib/shop.sh
MESH_PROXY_ARGS=(--drain-ms 4000)
shop_up
web=${MESH_POD_IP[web]}
mesh_in client bash -c "exec 3<>/dev/tcp/$web/9000; timeout 30 cat <&3 >/dev/null; echo \$?" >"$MESH_W/live" 2>&1 &
live=$!
mesh_wait 5 "a live connection" bash -c "nsenter --net=/run/netns/${MESH_PREFIX}web ss -Htn state established '( sport = :9000 )' | grep -q ."
pid=${MESH_PID[proxyA]}
kill -TERM "$pid"
mesh_wait 5 "not ready" bash -c "! nsenter --net=/run/netns/${MESH_PREFIX}nA curl -s -f -o /dev/null --max-time 1 http://127.0.0.1:15021/healthz/ready"
ok $? "readiness fails at once"
kill -0 "$live" 2>/dev/null
ok $? "the live connection goes on while the proxy drains"
mesh_wait 10 "its end" bash -c "! kill -0 $pid 2>/dev/null"
ok $? "the proxy ends after its drain time"
wait "$live"
like "$(cat "$MESH_W/live")" '^(0|1)$' "... and what still lived was cut"
mesh_wait 5 "the line" grep -q 'reason="drain"' "$MESH_W/log/accessA.log"
ok $? "... with reason drain"
mesh_in client "$FLOOD" client --to "$web:9000" --conns 20 --par 20 --modes plain --max 100 --timeout 30 >"$MESH_W/wait" &
w=$!
sleep 0.5
mesh_proxy A
wait $w
ok $? "20 connects made while no proxy ran waited in the backlog and are whole: $(cat "$MESH_W/wait")"
tap_done
