#!/usr/bin/env bash
# L4 benchmark: direct, weft and an Envoy HBONE pair in one run, on the same two nodes. Prints the table; JSON in BENCH_OUT.
#   BENCH_REPS=5 BENCH_SECS=3 BENCH_CASES=bulk_down,bulk_up,http_1,http_64,cps_32
cd "$(dirname "$0")/../.." || exit 1
if [ "$(id -u)" != 0 ]; then exec sudo -E "$0" "$@"; fi
# shellcheck source=test/lib/shop.sh
. test/lib/shop.sh
. test/lib/envoy.sh
mesh_need wrk nginx iperf3 openssl python3
mesh_up
envoy_need
mesh_namespace shop
mesh_namespace legacy none
mesh_pod A shop/cm cm 10
mesh_pod A legacy/cd cd 11
mesh_pod B shop/sm sm 20
mesh_pod B legacy/sd sd 21
for p in cm cd sm sd nA nB; do
	mesh_in $p sysctl -qw net.ipv4.ip_local_port_range='10000 65000' net.ipv4.tcp_congestion_control=reno net.ipv4.tcp_max_tw_buckets=4000
done
mkdir -p "$MESH_W/web"
head -c 100 /dev/zero | tr '\0' x >"$MESH_W/web/small"
chmod -R a+rX "$MESH_W/web"
for p in sm sd; do
	cat >"$MESH_W/nginx-$p.conf" <<-EOF
		daemon off; worker_processes 1; pid $MESH_W/nginx-$p.pid; error_log $MESH_W/log/nginx-$p.log; worker_rlimit_nofile 65536;
		events { worker_connections 16384; }
		http { access_log off; keepalive_requests 100000000; client_body_temp_path $MESH_W/t1; proxy_temp_path $MESH_W/t2;
		  fastcgi_temp_path $MESH_W/t3; uwsgi_temp_path $MESH_W/t4; scgi_temp_path $MESH_W/t5;
		  server { listen 8080 backlog=4096; root $MESH_W/web; open_file_cache max=10; } }
	EOF
	mesh_spawn "nginx-$p" $p "$MESH_W/log/nginx-$p.log" nginx -c "$MESH_W/nginx-$p.conf" -e "$MESH_W/log/nginx-$p.log"
	mesh_spawn "iperf-$p" $p "$MESH_W/log/iperf-$p.log" iperf3 -s -p 5201
	mesh_spawn "flood-$p" $p "$MESH_W/log/flood-$p.log" "$FLOOD" server --listen 0.0.0.0:9000
done
mesh_start
envoy_cert spiffe://cluster.local/ns/bench/sa/node "$MESH_W/cert"
id='"exact":"spiffe://cluster.local/ns/bench/sa/node"'
envoy_config "$(envoy_hbone_server "$MESH_W/cert" "$id" 10.90.0.2)" "$(envoy_local_cluster)" >"$MESH_W/envoyB.json"
ls=
for port in 8080 5201 9000; do
	ls="$ls${ls:+,}$(envoy_hbone_client 10.91.1.1 $port "${MESH_POD_IP[sd]}:$port" peer)"
done
envoy_config "$ls" "$(envoy_hbone_cluster peer 10.90.0.2 "$MESH_W/cert" "$id")" >"$MESH_W/envoyA.json"
envoy_run envoyB nB "$MESH_W/envoyB.json"
envoy_run envoyA nA "$MESH_W/envoyA.json"
export BENCH_PREFIX=$MESH_PREFIX BENCH_FLOOD=$FLOOD
export BENCH_PATHS="direct=cd:${MESH_POD_IP[sd]}: weft=cm:${MESH_POD_IP[sm]}:${MESH_PID[proxyA]},${MESH_PID[proxyB]} envoy=cd:10.91.1.1:${MESH_PID[envoyA]},${MESH_PID[envoyB]}"
python3 test/bench/measure.py
