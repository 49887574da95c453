#!/usr/bin/env bash
# limit: 180
# Every golden HTTP/1 case goes raw to a real Envoy, responses from an upstream of it; its verdicts must be those of test/golden/h1/envoy-verdicts.txt,
# by which the unit test h1_golden asserts that weft is never laxer. UPDATE=1 writes the file anew.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need python3 curl
envoy_need
W=$(mktemp -d "${TMPDIR:-/tmp}/weft-h1.XXXXXX")
PID= UP=
trap '[ -z "$PID$UP" ] || { kill $PID $UP; wait $PID $UP; } 2>/dev/null; rm -rf "$W"' EXIT
python3 test/peers/h1_verdicts.py upstream test/golden/h1 "$W/up" >"$W/up.log" 2>&1 </dev/null &
UP=$!
mesh_wait 10 "the upstream" test -s "$W/up" || mesh_die "no upstream: $(cat "$W/up.log")"
known=test/golden/h1/envoy-verdicts.txt
hcm=envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
cat >"$W/envoy.json" <<EOF
{"admin":{"address":{"socket_address":{"address":"127.0.0.1","port_value":0}}},
 "static_resources":{"listeners":[{"name":"h1","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},
  "filter_chains":[{"filters":[{"name":"hcm","typed_config":{"@type":"type.googleapis.com/$hcm","stat_prefix":"h1","codec_type":"HTTP1","delayed_close_timeout":"0s",
   "local_reply_config":{"body_format":{"text_format_source":{"inline_string":"%RESPONSE_CODE_DETAILS%"}}},
   "upgrade_configs":[{"upgrade_type":"websocket"},{"upgrade_type":"CONNECT"}],
   "http_filters":[
    {"name":"buffer","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer","max_request_bytes":1048576}},
    {"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
   "route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[
    {"match":{"connect_matcher":{}},"direct_response":{"status":200}},
    {"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"ok"}}}]}]}}}]}]},
  {"name":"proxy","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},
  "filter_chains":[{"filters":[{"name":"hcm","typed_config":{"@type":"type.googleapis.com/$hcm","stat_prefix":"proxy","codec_type":"HTTP1",
   "local_reply_config":{"body_format":{"text_format_source":{"inline_string":"%RESPONSE_CODE_DETAILS%"}}},
   "http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
   "route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"up"}}]}]}}}]}]}],
  "clusters":[{"name":"up","connect_timeout":"5s","load_assignment":{"cluster_name":"up","endpoints":[{"lb_endpoints":[
   {"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":$(cat "$W/up")}}}}]}]}}]}}
EOF
"$ENVOY" -c "$W/envoy.json" -l error --disable-hot-restart --base-id "$RANDOM" --concurrency 1 --admin-address-path "$W/admin" \
	>"$W/envoy.log" 2>&1 </dev/null &
PID=$!
ready() { [ -s "$W/admin" ] && curl -s -f --max-time 1 "http://$(cat "$W/admin")/ready" >/dev/null; }
mesh_wait 20 "Envoy" ready || { sed 's/^/# /' "$W/envoy.log"; mesh_die "Envoy does not come up"; }
read -r port proxy < <(curl -s --max-time 5 "http://$(cat "$W/admin")/listeners?format=json" | python3 -c \
	'import json,sys
of = {l["name"]: l["local_address"]["socket_address"]["port_value"] for l in json.load(sys.stdin)["listener_statuses"]}
print(of["h1"], of["proxy"])')
python3 test/peers/h1_verdicts.py ask test/golden/h1 "$ENVOY_VERSION" "$port" "$proxy" >"$W/verdicts"
[ -z "${UPDATE:-}" ] || cp "$W/verdicts" "$known"
echo 1..2
if diff -u "$known" "$W/verdicts" >"$W/diff"; then echo "ok 1 - Envoy $ENVOY_VERSION says what the file says"; else
	sed 's/^/# /' "$W/diff"
	echo "not ok 1 - Envoy $ENVOY_VERSION says what the file says"
fi
n=$(wc -l <"$W/verdicts")
if [ "$n" -gt 200 ] && kill -0 "$PID"; then echo "ok 2 - $((n - 1)) cases, and Envoy lives"; else echo "not ok 2 - $n lines"; fi
