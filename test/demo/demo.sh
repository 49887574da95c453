#!/usr/bin/env bash
# The demo: two nodes with real applications, captured, encrypted, decided by policy; each step prints its command and
# what came of it. KEEP=1 leaves everything standing. Ends with failure when a step did not show what it should.
set -u
cd "$(dirname "$0")/../.." || exit 1
if [ "$(id -u)" != 0 ]; then exec sudo -E "$0" "$@"; fi
MESH_BIN=${MESH_BIN:-$PWD/build/release}
MESH_PREFIX=weft-demo-
# shellcheck source=test/lib/mesh.sh
. test/lib/mesh.sh
mesh_need nginx redis-server redis-cli iperf3 curl tcpdump python3
BAD=0 STEP=0 T0=$(date +%s%N) TS=$T0
VIP_WEB=10.96.0.10 VIP_REDIS=10.96.0.11 VIP_IPERF=10.96.0.12 VIP_FLOOD=10.96.0.13
MARK=weft-demo-marker-$RANDOM$RANDOM

if [ -t 1 ]; then B=$'\e[1m' G=$'\e[32m' R=$'\e[31m' D=$'\e[2m' N=$'\e[0m'; else B='' G='' R='' D='' N=''; fi
step() {
	STEP=$((STEP + 1))
	TS=$(date +%s%N)
	printf '\n%s%d. %s%s\n' "$B" "$STEP" "$1" "$N"
}
done_step() { printf '%s   (%d ms)%s\n' "$D" $((($(date +%s%N) - TS) / 1000000)) "$N"; }
show() { sed 's/^/     /'; }
run() { # NS COMMAND...: prints the command and its output
	local n=$1
	shift
	printf '   %s%s $%s %s\n' "$D" "$n" "$N" "$*"
	OUT=$(mesh_in "$n" "$@" 2>&1)
	RC=$?
	printf '%s\n' "$OUT" | head -n "${LINES_MAX:-12}" | show
}
ctl() { # NODE ARGS...
	local n=$1
	shift
	printf '   %snode %s $%s weftctl %s\n' "$D" "$n" "$N" "$*"
	OUT=$(mesh_ctl "$n" "$@" 2>&1)
	RC=$?
	printf '%s\n' "$OUT" | head -n "${LINES_MAX:-40}" | show
}
expect() { # EXIT-CODE TEXT
	if [ "$1" = 0 ]; then printf '   %sok%s   %s\n' "$G" "$N" "$2"; else
		printf '   %sFAIL%s %s\n' "$R" "$N" "$2"
		BAD=$((BAD + 1))
	fi
}
says() { printf '%s' "$OUT" | grep -qE -- "$1"; }

applications() {
	mkdir -p "$MESH_W/web"
	printf 'hello from web\n' >"$MESH_W/web/index.html"
	chmod -R a+rX "$MESH_W/web"
	cat >"$MESH_W/nginx.conf" <<-EOF
		daemon off; worker_processes 1; pid $MESH_W/nginx.pid; error_log $MESH_W/log/nginx.log;
		events { worker_connections 1024; }
		http {
		  access_log off; client_body_temp_path $MESH_W/t1; proxy_temp_path $MESH_W/t2; fastcgi_temp_path $MESH_W/t3;
		  uwsgi_temp_path $MESH_W/t4; scgi_temp_path $MESH_W/t5;
		  server { listen 8080; listen [::]:8080; root $MESH_W/web;
		    location = /whoami { default_type text/plain; return 200 "you are \$remote_addr\n"; } }
		}
	EOF
	mesh_spawn nginx web "$MESH_W/log/nginx.log" nginx -c "$MESH_W/nginx.conf" -e "$MESH_W/log/nginx.log"
	mesh_spawn redis redis "$MESH_W/log/redis.log" redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save '' --dir "$MESH_W"
	mesh_spawn iperf iperf "$MESH_W/log/iperf.log" iperf3 -s -p 5201
	mesh_spawn flood flood "$MESH_W/log/flood-server.log" "$MESH_BIN/test/lib/flood" server --listen "${MESH_POD_IP[flood]}:9000"
	local p
	for p in web:8080 redis:6379 iperf:5201 flood:9000; do
		mesh_wait 10 "$p" mesh_in "${p%:*}" bash -c ": </dev/tcp/${MESH_POD_IP[${p%:*}]}/${p#*:}" || mesh_die "application $p did not start"
	done
}

step "Two nodes, seven pods; the applications know nothing of weft"
mesh_up
mesh_namespace shop
mesh_namespace legacy none
mesh_pod A shop/client client 10
mesh_pod A shop/guest guest 11
mesh_pod A legacy/old old 12
mesh_pod B shop/web web 20
mesh_pod B shop/redis redis 21
mesh_pod B shop/iperf iperf 22
mesh_pod B shop/flood flood 23
mesh_service shop/web $VIP_WEB 80 8080 web
mesh_service shop/redis $VIP_REDIS 6379 6379 redis
mesh_service shop/iperf $VIP_IPERF 5201 5201 iperf
mesh_service shop/flood $VIP_FLOOD 9000 9000 flood
applications
printf '   node A: client guest old(not enrolled)    node B: web(nginx) redis iperf flood\n'
done_step

step "weft-agent and weft-proxy on each node"
mesh_start
ctl A status
expect $RC "both programs of node A answer"
done_step

step "Requests by service address, from pods that were running already"
run client curl -s --max-time 10 http://$VIP_WEB/
says 'hello from web'
expect $? "curl reaches nginx on the other node"
run client curl -s --max-time 10 http://$VIP_WEB/whoami
says "you are ${MESH_POD_IP[client]}"
expect $? "nginx sees the client's own address"
run client redis-cli -h $VIP_REDIS set greeting hello
run client redis-cli -h $VIP_REDIS get greeting
says hello
expect $? "redis-cli reaches redis"
LINES_MAX=4 run client iperf3 -c $VIP_IPERF -n 64M -f m -i 0
says 'bits/sec'
expect $? "iperf3 moves 64 MB"
done_step

step "What is on the wire between the nodes"
mesh_spawn tcpdump nA "$MESH_W/log/tcpdump.log" tcpdump --immediate-mode -Z root -i wire -U -s 0 -w "$MESH_W/wire.pcap" tcp
mesh_wait 5 tcpdump grep -q 'listening on' "$MESH_W/log/tcpdump.log"
run client curl -s --max-time 10 -H "X-Marker: $MARK" http://$VIP_WEB/
run old curl -s --max-time 10 -H "X-Marker: plain-$MARK" "http://${MESH_POD_IP[web]}:8080/"
sleep 0.3
mesh_stop tcpdump TERM
python3 test/demo/pcap.py "$MESH_W/wire.pcap" "$MARK" "${MESH_POD_IP[client]}" "${MESH_POD_IP[old]}" >"$MESH_W/pcap.out"
OUT=$(cat "$MESH_W/pcap.out")
printf '%s\n' "$OUT" | show
says 'client: .* other ports: 0 packets; TLS records: [1-9].*; marker found: no'
expect $? "the enrolled client: only TLS to 15008, the marker is not to be found"
says 'old: .*marker found: yes'
expect $? "the same search finds the marker of the client that is not enrolled"
done_step

step "Identities at both ends, from the access logs"
for x in A B; do
	printf '   %snode %s, weft-proxy%s\n' "$D" "$x" "$N"
	grep -F "${MESH_POD_IP[client]}" "$MESH_W/log/access$x.log" | tail -n 1 | show
done
OUT=$(cat "$MESH_W/log/accessA.log" "$MESH_W/log/accessB.log")
says 'direction="?inbound.*|inbound' && says 'spiffe://cluster.local/ns/shop/sa/client' && says 'spiffe://cluster.local/ns/shop/sa/web'
expect $? "both identities are in the logs"
done_step

step "A DENY policy: guest may not reach web"
mesh_config deny.yaml <<-EOF
	apiVersion: security.istio.io/v1
	kind: AuthorizationPolicy
	metadata: {name: no-guests, namespace: shop}
	spec:
	  selector: {matchLabels: {app: web}}
	  action: DENY
	  rules:
	  - from:
	    - source: {principals: [cluster.local/ns/shop/sa/guest]}
EOF
show <"$MESH_W/config/deny.yaml"
mesh_wait 10 "the policy" bash -c "! nsenter --net=/run/netns/${MESH_PREFIX}guest curl -s --max-time 5 http://$VIP_WEB/"
run guest curl -sS --max-time 5 http://$VIP_WEB/
[ $RC != 0 ]
expect $? "guest is refused (curl: exit $RC)"
run client curl -s --max-time 10 http://$VIP_WEB/
says 'hello from web'
expect $? "client is still served"
ctl B explain shop/guest shop/web:80
says 'no-guests' && says 'deny.yaml:'
expect $? "explain names the policy, its file and line"
done_step

step "STRICT: a client without identity is refused"
run old curl -s --max-time 5 "http://${MESH_POD_IP[web]}:8080/"
says 'hello from web'
expect $? "PERMISSIVE (default): plaintext is taken"
mesh_config strict.yaml <<-EOF
	apiVersion: security.istio.io/v1
	kind: PeerAuthentication
	metadata: {name: default, namespace: shop}
	spec: {mtls: {mode: STRICT}}
EOF
mesh_wait 10 STRICT bash -c "! nsenter --net=/run/netns/${MESH_PREFIX}old curl -s --max-time 5 http://${MESH_POD_IP[web]}:8080/"
run old curl -sS --max-time 5 "http://${MESH_POD_IP[web]}:8080/"
[ $RC != 0 ]
expect $? "STRICT: refused (curl: exit $RC)"
run client curl -s --max-time 10 http://$VIP_WEB/
says 'hello from web'
expect $? "the enrolled client is served"
done_step

step "kill -9 of node B's proxy under load, then of node A's"
mesh_spawn tcpdump2 nA "$MESH_W/log/tcpdump2.log" tcpdump --immediate-mode -Z root -i wire -U -s 96 -w "$MESH_W/kill.pcap" \
	"tcp and src host ${MESH_POD_IP[client]}"
mesh_wait 5 tcpdump grep -q 'listening on' "$MESH_W/log/tcpdump2.log"
mesh_in client "$MESH_BIN/test/lib/flood" client --to $VIP_FLOOD:9000 --expect "${MESH_POD_IP[flood]}:9000" --src "${MESH_POD_IP[client]}" \
	--conns 12000 --par 32 --max 20000 --modes plain,half --timeout 60 >"$MESH_W/flood.out" &
FLOOD=$!
for x in B A; do
	sleep 0.7
	printf '   kill -9 weft-proxy of node %s (pid %s); a new one is started\n' "$x" "${MESH_PID[proxy$x]}"
	mesh_stop "proxy$x" KILL
	mesh_proxy "$x"
	mesh_wait 15 "proxy $x" mesh_ready "$x"
done
wait "$FLOOD"
mesh_stop tcpdump2 TERM
OUT=$(cat "$MESH_W/flood.out")
printf '%s\n' "$OUT" | show
made=$(json made <"$MESH_W/flood.out") good=$(json ok <"$MESH_W/flood.out") refused=$(json refused <"$MESH_W/flood.out")
wrong=$(($(json corrupt <"$MESH_W/flood.out") + $(json wrong_dst <"$MESH_W/flood.out") + $(json wrong_src <"$MESH_W/flood.out")))
printf '   %s connections: %s whole, %s died with their proxy, %s refused, %s corrupt\n' "$made" "$good" $((made - good)) "$refused" "$wrong"
[ "$refused" = 0 ] && [ "$wrong" = 0 ] && [ "$good" -gt 0 ]
expect $? "no new connection was refused, none corrupt"
seen=$(tcpdump -nr "$MESH_W/kill.pcap" dst port 15008 2>/dev/null | wc -l)
plain=$(tcpdump -nr "$MESH_W/kill.pcap" not dst port 15008 2>/dev/null | wc -l)
[ "$plain" = 0 ] && [ "$seen" -gt 0 ]
expect $? "packets of the client on the wire in that time: $seen to port 15008, $plain elsewhere"
done_step

step "A bad file among the good ones"
mesh_config bad.yaml <<-EOF
	apiVersion: security.istio.io/v1
	kind: AuthorizationPolicy
	metadata: {name: typo, namespace: shop}
	spec:
	  action: DENNY
	  rules:
	  - to:
	    - operation: {ports: ["70000"]}
EOF
mesh_wait 10 "the message" grep -q 'bad.yaml' "$MESH_W/log/agentA.log"
printf '   %sweft-agent of node A says%s\n' "$D" "$N"
grep 'bad.yaml' "$MESH_W/log/agentA.log" | tail -n 3 | show
printf '   weftctl validate bad.yaml\n'
OUT=$(mesh_ctl A validate "$MESH_W/config/bad.yaml" 2>&1)
RC=$?
printf '%s\n' "$OUT" | show
[ $RC != 0 ] && says 'bad.yaml:5:'
expect $? "the message has file, line, field, rule and value"
run client curl -s --max-time 10 http://$VIP_WEB/
says 'hello from web'
expect $? "traffic goes on"
run guest curl -sS --max-time 5 http://$VIP_WEB/
[ $RC != 0 ]
expect $? "and the good policies still hold"
rm -f "$MESH_W/config/bad.yaml"
done_step

printf '\n%d steps in %d.%01d s, %d failed\n' "$STEP" $((($(date +%s%N) - T0) / 1000000000)) $((($(date +%s%N) - T0) / 100000000 % 10)) "$BAD"
if [ "${KEEP:-0}" = 1 ]; then
	trap - EXIT INT TERM
	{
		echo '#!/usr/bin/env bash'
		echo "cd '$PWD' && . test/lib/mesh.sh"
		declare -p MESH_W MESH_PREFIX MESH_BIN MESH_PIDS MESH_NS
		echo 'mesh_down; echo "the demo is gone"'
	} >"$MESH_W/down.sh"
	cat <<-EOF

		Left standing (KEEP=1). To play with it, as root:
		  nsenter --net=/run/netns/${MESH_PREFIX}client curl http://$VIP_WEB/     # pods: client guest old web redis iperf flood
		  $MESH_BIN/weftctl --run-dir $MESH_W/B status                            # node A: $MESH_W/A
		  $MESH_BIN/weftctl --run-dir $MESH_W/A explain shop/guest shop/web:80
		  ls $MESH_W/config                                                       # edit, add, remove YAML here: it is watched
		  tail -f $MESH_W/log/accessB.log
		To end it: bash $MESH_W/down.sh
	EOF
	disown -a
fi
[ "$BAD" = 0 ]
