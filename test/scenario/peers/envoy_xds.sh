#!/usr/bin/env bash
# limit: 240
# Envoy as client of our xDS server: ADS and a stream a type, state of the world and delta. Traffic runs through what it was
# told: changed endpoints, a cluster replaced under load, a refused listener, a restarted server.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need curl python3
MESH_W=$(mktemp -d)
trap mesh_down EXIT
mkdir -p "$MESH_W/log"
SERVE=$MESH_BIN/test/lib/ads_serve
envoy_need

cat >"$MESH_W/backend.py" <<-'EOT'
	import http.server, socketserver, sys, threading
	class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
	    daemon_threads = True
	    request_queue_size = 128
	def serve(text):
	    class H(http.server.BaseHTTPRequestHandler):
	        protocol_version = "HTTP/1.1"
	        def log_message(self, *a): pass
	        def do_GET(self):
	            self.send_response(200); self.send_header("content-length", str(len(text))); self.end_headers(); self.wfile.write(text)
	    s = Server(("127.0.0.1", 0), H)
	    threading.Thread(target=s.serve_forever, daemon=True).start()
	    return s.server_address[1]
	print(serve(b"one"), serve(b"two"), flush=True)
	sys.stdin.read()
EOT
mkfifo "$MESH_W/backend.in"
python3 "$MESH_W/backend.py" <"$MESH_W/backend.in" >"$MESH_W/backend.ports" 2>"$MESH_W/log/backend.log" &
MESH_PIDS+=($!)
exec 8>"$MESH_W/backend.in"
mesh_wait 10 "backends" test -s "$MESH_W/backend.ports" || mesh_die "no backends"
read -r ONE TWO <"$MESH_W/backend.ports"

source_of() { # MODE: of endpoints and routes
	case $1 in
	ads-*) echo '{"ads":{},"resource_api_version":"V3"}' ;;
	*) echo "{\"resource_api_version\":\"V3\",\"api_config_source\":$(api_of "$1")}" ;;
	esac
}
api_of() { # MODE
	local t=GRPC
	case $1 in *delta) t=DELTA_GRPC ;; esac
	echo "{\"api_type\":\"$t\",\"transport_api_version\":\"V3\",\"grpc_services\":[{\"envoy_grpc\":{\"cluster_name\":\"xds\"}}]}"
}
T=type.googleapis.com/envoy
cluster() { # NAME PORT: the cluster and its endpoints
	cat <<-EOT
		{"@type":"$T.config.cluster.v3.Cluster","name":"$1","type":"EDS","connect_timeout":"5s","eds_cluster_config":{"eds_config":$CS}},
		{"@type":"$T.config.endpoint.v3.ClusterLoadAssignment","cluster_name":"$1","endpoints":[{"lb_endpoints":[
		 {"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":$2}}}}]}]},
	EOT
}
listener() { # NAME STAT-PREFIX
	cat <<-EOT
		{"@type":"$T.config.listener.v3.Listener","name":"$1","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},
		 "filter_chains":[{"filters":[{"name":"hcm","typed_config":{
		  "@type":"$T.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"$2",
		  "rds":{"route_config_name":"r","config_source":$CS},
		  "http_filters":[{"name":"router","typed_config":{"@type":"$T.extensions.filters.http.router.v3.Router"}}]}}]}]},
	EOT
}
route() { # CLUSTER
	cat <<-EOT
		{"@type":"$T.config.route.v3.RouteConfiguration","name":"r","virtual_hosts":[{"name":"all","domains":["*"],
		 "routes":[{"match":{"prefix":"/"},"route":{"cluster":"$1"}}]}]}
	EOT
}
state() { # RESOURCES
	printf '{"resources":[%s]}' "$*" >"$MESH_W/state.json"
}
tell() { # RESOURCES: from now on these
	state "$@"
	printf 'load %s\n' "$MESH_W/state.json" >&7
}
serve() { # MODE RESOURCES: a server with an input of its own, and this at first
	state "${@:2}"
	rm -f "$MESH_W/xds.sock" "$MESH_W/serve.in"
	mkfifo "$MESH_W/serve.in"
	"$SERVE" "$MESH_W/xds.sock" "$MESH_W/state.json" <"$MESH_W/serve.in" >>"$MESH_W/log/serve-$1.log" 2>&1 &
	SERVE_PID=$!
	MESH_PIDS+=("$SERVE_PID")
	exec 7>"$MESH_W/serve.in"
	mesh_wait 10 "the server" test -S "$MESH_W/xds.sock" || mesh_die "no server"
}
stop() { # PID
	kill "$1" && wait "$1" 2>/dev/null
}
admin() { curl -s -f --max-time 5 "http://$(cat "$MESH_W/admin")/$1"; }
port_of_listener() {
	admin 'listeners?format=json' | python3 -c 'import json,sys; v=[s["local_address"]["socket_address"]["port_value"] for s in json.load(sys.stdin).get("listener_statuses",[]) if s["name"]=="front"]; print(v[0]) if v else sys.exit(1)'
}
answers() { # TEXT: of the listener
	[ "$(curl -s --max-time 5 "http://127.0.0.1:$PORT/")" = "$1" ]
}
stat_is() { # NAME AT-LEAST
	[ "$(admin "stats?filter=^$1\$" | sed 's/.*: //')" -ge "$2" ] 2>/dev/null
}
load_while() { # counts what is not 200 until FILE is there
	local n=0 bad=0
	until [ -e "$MESH_W/enough" ]; do
		[ "$(curl -s -o "$MESH_W/body" -w '%{http_code}' --max-time 5 "http://127.0.0.1:$PORT/")" = 200 ] || bad=$((bad + 1))
		n=$((n + 1))
	done
	echo "$n $bad" >"$MESH_W/counted"
}

mode() { # MODE
	CS=$(source_of "$1")
	local m=$1 dynamic
	case $m in
	ads-*) dynamic="\"ads_config\":$(api_of "$m"),\"cds_config\":$CS,\"lds_config\":$CS" ;;
	*) dynamic="\"cds_config\":$CS,\"lds_config\":$CS" ;;
	esac
	cat >"$MESH_W/envoy.json" <<-EOT
		{"node":{"id":"envoy-$m","cluster":"test"},"admin":{"address":{"socket_address":{"address":"127.0.0.1","port_value":0}}},
		 "dynamic_resources":{$dynamic},
		 "static_resources":{"clusters":[{"name":"xds","type":"STATIC","connect_timeout":"5s",
		  "typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
		   "@type":"$T.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{}}}},
		  "load_assignment":{"cluster_name":"xds","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"pipe":{"path":"$MESH_W/xds.sock"}}}}]}]}}]}}
	EOT
	serve "$m" "$(cluster a "$ONE")" "$(listener front front)" "$(route a)"
	rm -f "$MESH_W/admin"
	"$ENVOY" -c "$MESH_W/envoy.json" -l warn --disable-hot-restart --base-id "$RANDOM" --concurrency 1 \
		--admin-address-path "$MESH_W/admin" >"$MESH_W/log/envoy-$m.log" 2>&1 &
	local envoy=$!
	MESH_PIDS+=("$envoy")
	mesh_wait 20 "the admin port" test -s "$MESH_W/admin" || mesh_die "Envoy does not start: $(tail -1 "$MESH_W/log/envoy-$m.log")"
	mesh_wait 20 "the listener" port_of_listener
	ok $? "$m: Envoy has a listener of ours"
	PORT=$(port_of_listener)
	mesh_wait 20 "an answer" answers one
	ok $? "$m: ... and routes by it to a cluster of ours"
	like "$(admin 'stats?filter=control_plane')" 'identifier: "weft"' "$m: it knows the control plane"

	tell "$(cluster a "$TWO")" "$(listener front front)" "$(route a)"
	mesh_wait 20 "the change" answers two
	ok $? "$m: a changed endpoint"

	rm -f "$MESH_W/enough"
	load_while &
	local load=$!
	tell "$(cluster b "$ONE")" "$(listener front front)" "$(route b)"
	mesh_wait 20 "the change" answers one
	ok $? "$m: another cluster in its place"
	mesh_wait 20 "the removal" stat_is cluster_manager.cluster_removed 1
	ok $? "$m: ... and the old one goes"
	: >"$MESH_W/enough"
	wait "$load"
	like "$(cat "$MESH_W/counted")" '^[1-9][0-9]* 0$' "$m: ... without one failed request"

	tell "$(cluster b "$ONE")" "$(listener front front)" "$(listener bad "")" "$(cluster c "$TWO")" "$(route b)"
	mesh_wait 20 "the NACK" grep -q "^nack envoy-$m listener .*[Ss]tat_\?[Pp]refix" "$MESH_W/log/serve-$m.log"
	ok $? "$m: Envoy refuses a bad listener and says why"
	mesh_wait 20 "the cluster" stat_is cluster_manager.cluster_added 4
	ok $? "$m: ... and takes the good cluster beside it"
	answers one
	ok $? "$m: ... and serves on"

	stop "$SERVE_PID"
	exec 7>&-
	answers one
	ok $? "$m: without a server it goes on"
	serve "$m" "$(cluster b "$TWO")" "$(listener front front)" "$(route b)"
	mesh_wait 30 "the change" answers two
	ok $? "$m: another server, and what changed"
	is "$(port_of_listener)" "$PORT" "$m: ... and the listener is the same"
	stop "$envoy"
	stop "$SERVE_PID"
	exec 7>&-
}

for m in ${MODES:-ads-sotw ads-delta sotw delta}; do mode "$m"; done
exec 8>&-
tap_done
