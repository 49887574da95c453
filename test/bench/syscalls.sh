#!/usr/bin/env bash
# Counts weft-proxy's system calls a request (100-byte answers over 1 and 64 connections), a MiB (bulk) and a new
# connection, with strace -c.
# The rates under strace mean nothing; the counts do.
cd "$(dirname "$0")/../.." || exit 1
if [ "$(id -u)" != 0 ]; then exec sudo -E "$0" "$@"; fi
# shellcheck source=test/lib/shop.sh
. test/lib/shop.sh
mesh_need wrk nginx iperf3 strace python3
mesh_up
mesh_namespace shop
mesh_pod A shop/cm cm 10
mesh_pod B shop/sm sm 20
mkdir -p "$MESH_W/web"
head -c 100 /dev/zero | tr '\0' x >"$MESH_W/web/small"
chmod -R a+rX "$MESH_W/web"
cat >"$MESH_W/nginx.conf" <<-EOF
	daemon off; worker_processes 1; pid $MESH_W/nginx.pid; error_log $MESH_W/log/nginx.log;
	events { worker_connections 4096; }
	http { access_log off; keepalive_requests 100000000; client_body_temp_path $MESH_W/t1; proxy_temp_path $MESH_W/t2;
	  fastcgi_temp_path $MESH_W/t3; uwsgi_temp_path $MESH_W/t4; scgi_temp_path $MESH_W/t5;
	  server { listen 8080; root $MESH_W/web; open_file_cache max=10; } }
EOF
mesh_spawn nginx sm "$MESH_W/log/nginx.log" nginx -c "$MESH_W/nginx.conf" -e "$MESH_W/log/nginx.log"
mesh_spawn iperf sm "$MESH_W/log/iperf.log" iperf3 -s -p 5201
mesh_spawn flood sm "$MESH_W/log/flood.log" "$FLOOD" server --listen 0.0.0.0:9000
mesh_start
ip=${MESH_POD_IP[sm]}

count() { # TITLE UNIT COMMAND...: the command prints the number of units last
	local title=$1 unit=$2 x n
	shift 2
	local tr=()
	for x in A B; do
		strace -f -c -o "$MESH_W/strace-$x" -p "${MESH_PID[proxy$x]}" 2>"$MESH_W/strace-$x.err" &
		tr+=($!)
		mesh_wait 5 strace grep -q attached "$MESH_W/strace-$x.err"
	done
	n=$("$@" | tail -n 1)
	kill -INT "${tr[@]}"
	wait "${tr[@]}" 2>/dev/null
	for x in A B; do
		printf '%-26s %-18s ' "$title" "$([ $x = A ] && echo "client's proxy" || echo "server's proxy")"
		awk -v n="$n" '$4 ~ /^[0-9]+$/ && $NF != "total" && $4 / n >= 0.01 {a[$NF] = $4 / n; s += $4 / n}
			END {printf "%6.2f a %s:", s, "'"$unit"'"; for (k in a) printf " %s %.2f", k, a[k]; print ""}' "$MESH_W/strace-$x"
	done
}
web() { mesh_in cm wrk -t1 "-c$1" -d4s "http://$ip:8080/small" | sed -n 's/^ *\([0-9]*\) requests in.*/\1/p'; }
bulk() { mesh_in cm iperf3 -c "$ip" -p 5201 -n 512M -J "$@" | python3 -c 'import json,sys; print(json.load(sys.stdin)["end"]["sum_received"]["bytes"] >> 20)'; }
conns() {
	mesh_in cm "$FLOOD" client --to "$ip:9000" --expect - --conns 4000 --par 32 --modes plain --max 1 |
		python3 -c 'import json,sys; print(json.load(sys.stdin)["ok"])'
}
web 1 >/dev/null
count "HTTP, 1 connection" request web 1
count "HTTP, 64 connections" request web 64
count "bulk, client to server" MiB bulk
count "bulk, server to client" MiB bulk -R
count "new connections, 32" connection conns
