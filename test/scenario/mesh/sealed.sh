#!/usr/bin/env bash
# A running weft-proxy has no privilege: user, capabilities, seccomp; its sockets and keys are closed to others.
. test/lib/shop.sh
mesh_need promtool python3
MESH_ACCESS=json
shop_up
pid=${MESH_PID[proxyA]}
status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status" | tr -s '\t ' ' '; }
uid=$(id -u "$MESH_USER")
is "$(status Uid)" "$uid $uid $uid $uid" "runs as $MESH_USER"
for c in CapInh CapPrm CapEff CapBnd CapAmb; do is "$(status $c)" 0000000000000000 "$c is empty"; done
is "$(status NoNewPrivs)" 1 "no_new_privs"
if [ -n "${MESH_SAN:-}" ]; then
	skip "seccomp filter" "a sanitizer needs calls that the filter refuses"
else
	is "$(status Seccomp)" 2 "seccomp filter"
fi
for t in "/proc/$pid/task/"*; do
	is "$(sed -n 's/^CapEff:[[:space:]]*//p' "$t/status")" 0000000000000000 "thread ${t##*/} has no capability either"
done
is "$(stat -c %a:%u "$MESH_W/A/broker.sock")" "600:$uid" "broker.sock is the proxy's alone"
is "$(stat -c %a:%u "$MESH_W/A/xds.sock")" "600:$uid" "xds.sock too"
is "$(stat -c %a:%u "$MESH_W/A/admin.sock")" "600:0" "admin.sock is root's alone"
open=$(find "$MESH_W/state" -type f -perm /077 -print0 | xargs -0 -r grep -l 'PRIVATE KEY')
is "$open" "" "no private key in the state folder that others may read"
like "$(cat "$MESH_W/log/"*.log)" 'captured' "the logs are there"
grep -rl 'PRIVATE KEY' "$MESH_W/log" >/dev/null
is $? 1 "... without a key in them"
for what in dump certs status; do
	out=$(curl -s --max-time 5 --unix-socket "$MESH_W/A/admin.sock" "http://agent/$what")
	case $out in *"PRIVATE KEY"*) false ;; ?*) true ;; *) false ;; esac
	ok $? "/$what answers, without a key"
done
mesh_in nA curl -s --max-time 5 http://127.0.0.1:15020/metrics >"$MESH_W/metrics"
like "$(cat "$MESH_W/metrics")" '^istio_build' "metrics answer"
promtool check metrics <"$MESH_W/metrics" | sed 's/^/# /'
is "${PIPESTATUS[0]}" 0 "promtool takes them"
can client "${MESH_POD_IP[web]}:9000"
ok $? "and traffic goes through"
mesh_wait 5 "the line" grep -q '"direction":"inbound"' "$MESH_W/log/accessB.log"
python3 - "$MESH_W/log/accessB.log" <<-'EOF'
	import json, sys
	lines = [json.loads(line) for line in open(sys.argv[1])]
	assert any(d["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client" and d["reason"] == "ok" for d in lines), lines
EOF
ok $? "the access log in JSON: every line parses, the client's identity and the reason are there"
tap_done
