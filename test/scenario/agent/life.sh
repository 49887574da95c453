#!/usr/bin/env bash
# The agent's life on one node: pods in and out, what it says of them, restarts, the way out.
. test/lib/mesh.sh
FLOOD=$MESH_BIN/test/lib/flood
CTL=$MESH_BIN/weftctl
mesh_up
mesh_namespace shop
mesh_pod A shop/client client 10
mesh_pod A shop/web web 20
mesh_ns bare # a namespace that nothing enrols
can() { mesh_in client "$FLOOD" client --to "${MESH_POD_IP[web]}:9000" --conns 1 --modes plain --timeout 10 >/dev/null; }
field() { # JSON-PATH: of the agent's status, by python's json
	mesh_ctl A status -o json | python3 -c "import json,sys; s=json.load(sys.stdin); print($1)"
}
rule() { ip netns exec "$MESH_PREFIX$1" ip "$2" rule list | grep -c '^32764:.*0x111/0xfff lookup 100'; }
links() { find "$MESH_W/bpf/A" -type f 2>/dev/null | wc -l; }
logged() { grep -c -- "$1" "$MESH_W/log/agentA.log"; }

is "$("$MESH_BIN/weft-agent" | head -c 11)" "weft-agent:" "no arguments: help"
is "$("$CTL" | head -c 8)" "weftctl:" "... of weftctl too"
"$MESH_BIN/weft-agent" --config "$MESH_W/config" 2>"$MESH_W/err"
is "$? $(cat "$MESH_W/err")" "2 weft-agent: --node is needed" "a missing option is named"
"$MESH_BIN/weft-agent" --config "$MESH_W/nowhere" --node a --run-dir "$MESH_W/x" --state-dir "$MESH_W/y" --pin-dir "$MESH_W/bpf/x" \
	--proxy-user "$MESH_USER" --instance "${MESH_PREFIX}A" 2>"$MESH_W/err"
is "$?" 1 "a folder that is not there ends the start: $(tail -n 1 "$MESH_W/err" | cut -d' ' -f2-)"
mkdir -m 0777 "$MESH_W/open"
"$MESH_BIN/weft-agent" --config "$MESH_W/config" --node a --run-dir "$MESH_W/x" --state-dir "$MESH_W/open" --pin-dir "$MESH_W/bpf/x" \
	--proxy-user "$MESH_USER" --instance "${MESH_PREFIX}A" 2>"$MESH_W/err"
like "$? $(tail -n 1 "$MESH_W/err")" '^1 .*only uid 0 may write' "a state folder that others may write is refused"
mesh_ctl A status 2>"$MESH_W/err"
is "$?" 1 "status without an agent: $(cat "$MESH_W/err")"
"$MESH_BIN/weft-agent" --check --config "$MESH_W/config" >"$MESH_W/out"
ok $? "--check: kernel and folder are good"
like "$(tail -n 1 "$MESH_W/out")" '3 objects, 0 errors' "... and it says what it saw"

mesh_agent A
mesh_wait 15 agent mesh_agent_ready A || mesh_fail_logs agent
is "$(field "sorted((p['name'], p['state']) for p in s['pods'])")" "[('client', 'captured'), ('web', 'captured')]" "both pods are captured"
for f in -4 -6; do is "$(rule client $f)" 1 "rule for spoofed replies, IPv${f#-}"; done
is "$(ip netns exec "${MESH_PREFIX}client" ip route list table 100 | tr -s ' ')" "local default dev lo proto static scope host " "... and its route"
is "$(mesh_in client sysctl -n net.ipv4.tcp_fwmark_accept net.ipv4.fwmark_reflect net.ipv6.fwmark_reflect | tr '\n' ' ')" "1 1 1 " "... and sysctls"
is "$(mesh_in client ss -Hltn | awk '{print $4}' | grep -cE ':(15001|15006|15008)$')" 6 "six listeners in the pod"
is "$(stat -c '%a %U' "$MESH_W/A/broker.sock" "$MESH_W/A/xds.sock" "$MESH_W/A/admin.sock" "$MESH_W/state/ca.pem" | tr '\n' ' ')" \
	"600 $MESH_USER 600 $MESH_USER 600 root 600 root " "sockets and CA key belong to who may use them"
like "$(grep 'Max core file size' "/proc/${MESH_PID[agentA]}/limits" | tr -s ' ')" ' size 0 0 ' "no core dump of a process with keys"
mesh_proxy A
mesh_wait 15 proxy mesh_ready A || mesh_fail_logs proxy
mesh_spawn flood web "$MESH_W/log/flood" "$FLOOD" server --listen 0.0.0.0:9000
mesh_wait 5 flood grep -q listening "$MESH_W/log/flood"
can
ok $? "the mesh carries"
like "$(cat "/proc/${MESH_PID[proxyA]}/cgroup")" "0::/weft/${MESH_PREFIX}A/proxy-${MESH_PID[proxyA]}" "the proxy is in a cgroup of its own"
"$MESH_BIN/weft-agent" --config "$MESH_W/config" --node node-a --run-dir "$MESH_W/A" --state-dir "$MESH_W/state" --pin-dir "$MESH_W/bpf/A" \
	--proxy-user "$MESH_USER" 2>"$MESH_W/err"
like "$? $(tail -n 1 "$MESH_W/err")" '^1 .*another agent runs with this --run-dir' "a second agent in the same place is refused"
can
ok $? "... and has broken nothing"

# a pod whose namespace comes late, by file
mesh_config pod-shop-late.yaml <<-EOF
	apiVersion: v1
	kind: Pod
	metadata: {name: late, namespace: shop, annotations: {weft.io/netns: /run/netns/${MESH_PREFIX}late}}
	spec: {nodeName: node-a, serviceAccountName: default}
	status: {phase: Running, podIPs: [{ip: 10.91.1.30}]}
EOF
mesh_wait 10 "the message" grep -q 'pod not captured pod=shop/late' "$MESH_W/log/agentA.log"
ok $? "a namespace that is not there: $(grep -m1 -o 'pod not captured.*' "$MESH_W/log/agentA.log")"
mesh_ns late
mesh_wait 10 "the next message" grep -q 'shop/late.*does not own' "$MESH_W/log/agentA.log"
ok $? "... then it is, without the address: $(grep -o 'pod-shop-late.yaml:1: .*' "$MESH_W/log/agentA.log" | tail -n 1)"
is "$(rule late -4)" 0 "... nothing of it is left in the namespace"
ip -n "${MESH_PREFIX}nA" link add vlate type veth peer name eth0 netns "${MESH_PREFIX}late"
ip -n "${MESH_PREFIX}late" addr add 10.91.1.30/24 dev eth0
ip -n "${MESH_PREFIX}late" link set eth0 up
mesh_wait 10 late bash -c "$CTL --run-dir $MESH_W/A pod list | grep -q 'shop/late *captured'"
ok $? "... then with it: captured"
is "$(logged 'pod not captured pod=shop/late')" 2 "... one line a reason"
ip netns del "${MESH_PREFIX}late"
mesh_wait 10 "its end" bash -c "$CTL --run-dir $MESH_W/A pod list | grep -q 'shop/late *failed'"
ok $? "the namespace is deleted: the pod is let go"
rm -f "$MESH_W/config/pod-shop-late.yaml"
mesh_wait 10 "its file's end" bash -c "! $CTL --run-dir $MESH_W/A pod list | grep -q late"
ok $? "... and forgotten with its file"

# pods by command
ip -n "${MESH_PREFIX}nA" link add vbare type veth peer name eth0 netns "${MESH_PREFIX}bare"
ip -n "${MESH_PREFIX}bare" addr add 10.91.1.40/24 dev eth0
ip -n "${MESH_PREFIX}bare" link set eth0 up
is "$(mesh_ctl A pod add shop/bare --netns "/run/netns/${MESH_PREFIX}bare" --sa bare --label app=bare)" "pod-shop-bare.yaml written: captured" "pod add"
is "$(field "[p['addresses'] for p in s['pods'] if p['name'] == 'bare']")" "[['10.91.1.40']]" "... with the namespace's addresses"
mesh_ctl A validate "$MESH_W/config" >"$MESH_W/out"
ok $? "... and its file is good: $(tail -n 1 "$MESH_W/out")"
for bad in "shop/../x /run/netns/x" "shop/x relative" "shop/x /dev/null" "shop/x /run/netns/nowhere"; do
	OUT=$(mesh_ctl A pod add "${bad% *}" --netns "${bad#* }" 2>&1)
	is "$?" 1 "refused: $OUT"
done
OUT=$(mesh_ctl A pod add shop/client --netns /run/netns/x --label nothing 2>&1)
is "$?" 2 "refused: $OUT"
more() { printf -- '---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: more, namespace: shop}\n' >>"$MESH_W/config/$1"; }
more pod-shop-x-y.yaml
like "$(mesh_ctl A pod add shop-x/y --netns "/run/netns/${MESH_PREFIX}bare" 2>&1)" \
	'pod-shop-x-y.yaml holds shop/more, line 2: add the pod by hand' "a file of others is not overwritten"
rm "$MESH_W/config/pod-shop-x-y.yaml"
cp "$MESH_W/config/pod-shop-bare.yaml" "$MESH_W/bare.yaml"
more pod-shop-bare.yaml
like "$(mesh_ctl A pod remove shop/bare 2>&1)" 'pod-shop-bare.yaml holds shop/more too' "... nor removed with others in it"
cp "$MESH_W/bare.yaml" "$MESH_W/config/pod-shop-bare.yaml"
is "$(mesh_ctl A pod remove shop/bare)" "pod-shop-bare.yaml removed: not enrolled" "pod remove"
is "$(rule bare -4) $(mesh_in bare ss -Hltn | wc -l)" "0 0" "... nothing is left in its namespace"
OUT=$(mesh_ctl A pod remove shop/bare 2>&1)
is "$?" 1 "... twice: $OUT"

# a pod's object loses its address by mistake
cp "$MESH_W/config/pod-shop-web.yaml" "$MESH_W/web.yaml"
mesh_config pod-shop-web.yaml <<-EOF
	apiVersion: v1
	kind: Pod
	metadata: {name: web, namespace: shop, annotations: {weft.io/netns: /run/netns/${MESH_PREFIX}web}}
	spec: {nodeName: node-a, serviceAccountName: web}
	status: {phase: Running}
EOF
mesh_wait 10 "the message" grep -q 'required to enrol a pod, but missing' "$MESH_W/log/agentA.log"
ok $? "a pod without an address: $(grep -m1 -o 'pod-shop-web.*missing' "$MESH_W/log/agentA.log")"
mesh_ctl A pod remove shop/none >/dev/null 2>&1 # the agent has read and done all by its answer
is "$(logged 'pod released uid=shop_web') $("$CTL" --run-dir "$MESH_W/A" pod list | grep -c 'shop/web *captured')" "0 1" "... is not let out of the mesh"
cp "$MESH_W/web.yaml" "$MESH_W/config/pod-shop-web.yaml"
mesh_wait 10 "the mesh" can
ok $? "... and works again when it is mended"

# bad input
mesh_config bad.yaml <<-EOF
	apiVersion: v1
	kind: Service
	metadata: {name: web, namespace: shop}
	spec: {ports: [{port: 70000}]}
EOF
mesh_wait 10 "the message" grep -q 'bad.yaml:4:.*70000' "$MESH_W/log/agentA.log"
ok $? "a bad file: $(grep -m1 -o 'bad.yaml:4.*' "$MESH_W/log/agentA.log")"
like "$(mesh_ctl A status)" 'bad.yaml:4:.*70000' "... status shows it"
is "$(field "s['config']['bad_files']")" 1 "... and counts it"
kill -HUP "${MESH_PID[agentA]}"
mesh_wait 5 SIGHUP grep -q SIGHUP "$MESH_W/log/agentA.log"
is "$(logged 'bad.yaml:4:')" 1 "SIGHUP reads again, the same message is not said twice"
OUT=$("$CTL" validate "$MESH_W/config/bad.yaml")
is "$?" 1 "validate: $(head -n 1 <<<"$OUT" | sed 's|.*/||')"
rm "$MESH_W/config/bad.yaml"
mesh_wait 10 "its end" bash -c "! $CTL --run-dir $MESH_W/A status | grep -q bad.yaml"
ok $? "... gone with the file"

# restarts
before=$(mesh_in client ss -Hltne | grep -o 'ino:[0-9]*' | sort | tr '\n' ' ')
mesh_stop agentA TERM
is "$(ls "$MESH_W/A")" "$(printf 'agent.lock\nproxy')" "SIGTERM: its sockets are removed"
can
ok $? "... what is captured stays captured, and is carried"
mesh_agent A
mesh_wait 15 agent mesh_agent_ready A
mesh_wait 10 "pods" bash -c "[ \$($CTL --run-dir $MESH_W/A pod list | grep -c captured) = 2 ]"
is "$(mesh_in client ss -Hltne | grep -o 'ino:[0-9]*' | sort | tr '\n' ' ')" "$before" "the next agent has the same listeners"
mesh_stop agentA KILL
mesh_stop proxyA KILL
mesh_in client "$FLOOD" client --to "${MESH_POD_IP[web]}:9000" --conns 1 --modes plain --timeout 2 >/dev/null
is "$?" 1 "agent and proxy killed: nothing passes, captured is captured"
rm "$MESH_W/config/pod-shop-client.yaml"
printf 'half: [' >"$MESH_W/config/half.yaml"
mesh_agent A
mesh_wait 15 agent mesh_agent_ready A
mesh_wait 5 "web" bash -c "$CTL --run-dir $MESH_W/A pod list | grep -q 'shop/web *captured'"
is "$(find "$MESH_W/bpf/A" -name 'pod-*client' | wc -l)" 1 "a pod gone while away, in a folder that cannot be read whole, stays captured"
rm "$MESH_W/config/half.yaml"
mesh_wait 10 "release" bash -c "! find $MESH_W/bpf/A -name 'pod-*client' | grep -q ."
ok $? "... and is released once all of it is read: $(grep -o 'pod released.*earlier.*' "$MESH_W/log/agentA.log")"

# the way out
OUT=$(mesh_ctl A unenroll --all </dev/null 2>&1)
is "$?" 1 "unenroll asks: $OUT"
is "$(mesh_ctl A unenroll --all --yes)" "1 pods released; the agent ends" "unenroll --all --yes"
mesh_wait 5 "the agent's end" bash -c "! kill -0 ${MESH_PID[agentA]} 2>/dev/null"
is "$(links)" 0 "... no pin is left"
is "$(rule web -4) $(mesh_in web ss -Hltn | grep -c ':150')" "0 0" "... no rule, no listener"
can
ok $? "... plain traffic passes"
mesh_agent A
mesh_wait 15 agent mesh_agent_ready A
mesh_stop agentA KILL
is "$("$CTL" --run-dir "$MESH_W/A" --pin-dir "$MESH_W/bpf/A" unenroll --all --yes)" "$MESH_W/bpf/A: no agent runs; nothing is captured any more" \
	"unenroll without an agent"
is "$(links)" 0 "... no pin is left"
can
ok $? "... plain traffic passes"
tap_done
