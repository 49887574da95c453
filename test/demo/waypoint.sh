#!/usr/bin/env bash
# The demo's second part: weft-waypoint alone, in a network namespace of its own. A canary by weight, a retry that hides a
# failing backend, JWT with claims as headers, a denied path and why, an update under load, a bad file, metrics and access log.
set -u
cd "$(dirname "$0")/../.." || exit 1
if [ "$(id -u)" != 0 ]; then exec sudo -E "$0" "$@"; fi
BIN=${MESH_BIN:-$PWD/build/release}
NS=weft-demo-way
W=$(mktemp -d /tmp/weft-demo-way.XXXXXX)
PIDS=() BAD=0 STEP=0
if [ -t 1 ]; then B=$'\e[1m' G=$'\e[32m' R=$'\e[31m' N=$'\e[0m'; else B='' G='' R='' N=''; fi
cleanup() {
	local p
	for p in "${PIDS[@]}"; do kill "$p" 2>/dev/null; done
	for p in "${PIDS[@]}"; do wait "$p" 2>/dev/null; done
	ip netns del $NS 2>/dev/null
	rm -rf "$W"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
for t in nginx curl python3 openssl wrk ip; do
	command -v $t >/dev/null || { echo "demo: $t is missing" >&2; exit 1; }
done
step() { STEP=$((STEP + 1)); printf '\n%s%d. %s%s\n' "$B" "$STEP" "$1" "$N"; }
expect() {
	if [ "$1" = 0 ]; then printf '   %sok%s   %s\n' "$G" "$N" "$2"; else
		printf '   %sFAIL%s %s\n' "$R" "$N" "$2"
		BAD=$((BAD + 1))
	fi
}
in_ns() { nsenter --net=/run/netns/$NS "$@"; }
get() { in_ns curl -s --max-time 5 "$@"; }
show() { sed 's/^/     /'; }
until_ok() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
}

step "Two versions of a shop and a backend that fails two times of three"
ip netns add $NS && ip -n $NS link set lo up || exit 1
cat >"$W/nginx.conf" <<EOF
daemon off; worker_processes 1; pid $W/nginx.pid; error_log $W/nginx.err;
events { worker_connections 512; }
http { access_log off; client_body_temp_path $W/t1; proxy_temp_path $W/t2; fastcgi_temp_path $W/t3; uwsgi_temp_path $W/t4; scgi_temp_path $W/t5;
  default_type text/plain;
  server { listen 127.0.0.1:8001; location / { return 200 "shop v1 for \$http_x_user\n"; } }
  server { listen 127.0.0.1:8002; location / { return 200 "shop v2 for \$http_x_user\n"; } } }
EOF
nsenter --net=/run/netns/$NS nginx -c "$W/nginx.conf" -e "$W/nginx.err" &
PIDS+=($!)
cat >"$W/flaky.py" <<'EOF'
import http.server
n = [0]
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        n[0] += 1
        ok = n[0] % 3 == 0
        body = b'third time lucky\n' if ok else b'broken\n'
        self.send_response(200 if ok else 503)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8003), H).serve_forever()
EOF
nsenter --net=/run/netns/$NS python3 "$W/flaky.py" &
PIDS+=($!)
openssl genrsa -out "$W/jwt.key" 2048 2>/dev/null
jwt() { # CLAIMS: a token signed by that key
	local b64='openssl base64 -A' h p
	h=$(printf '{"alg":"RS256","typ":"JWT","kid":"demo"}' | $b64 | tr '+/' '-_' | tr -d =)
	p=$(printf '%s' "$1" | $b64 | tr '+/' '-_' | tr -d =)
	printf '%s.%s.%s' "$h" "$p" "$(printf '%s.%s' "$h" "$p" | openssl dgst -sha256 -sign "$W/jwt.key" | $b64 | tr '+/' '-_' | tr -d =)"
}
MODULUS=$(openssl rsa -in "$W/jwt.key" -noout -modulus 2>/dev/null | cut -d= -f2 | python3 -c 'import sys,base64; print(base64.urlsafe_b64encode(bytes.fromhex(sys.stdin.read().strip())).decode().rstrip("="))')
T=type.googleapis.com/envoy.extensions
cat >"$W/rds.yaml" <<EOF
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: shop
  virtual_hosts:
  - name: shop
    domains: ["*"]
    routes:
    - match: { prefix: /flaky }
      route: { cluster: flaky, retry_policy: { retry_on: "5xx", num_retries: 3 } }
    - match: { prefix: / }
      route: { weighted_clusters: { clusters: [ { name: v1, weight: 80 }, { name: v2, weight: 20 } ] } }
EOF
cat >"$W/waypoint.yaml" <<EOF
node: { id: demo, cluster: demo }
admin: { address: { pipe: { path: $W/admin.sock } } }
static_resources:
  listeners:
  - name: edge
    address: { socket_address: { address: 127.0.0.1, port_value: 8080 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": $T.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          access_log:
          - name: file
            typed_config: { "@type": $T.access_loggers.file.v3.FileAccessLog, path: $W/access.log, log_format: { text_format_source: { inline_string: "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %RESPONSE_CODE% flags=%RESPONSE_FLAGS% why=%RESPONSE_CODE_DETAILS% tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT% to=%UPSTREAM_CLUSTER% ms=%DURATION%\n" } } }
          rds: { route_config_name: shop, config_source: { path_config_source: { path: $W/rds.yaml } } }
          http_filters:
          - name: jwt
            typed_config:
              "@type": $T.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                demo:
                  issuer: demo
                  local_jwks: { inline_string: '{"keys":[{"kty":"RSA","kid":"demo","alg":"RS256","n":"$MODULUS","e":"AQAB"}]}' }
                  claim_to_headers: [ { header_name: x-user, claim_name: sub } ]
              rules:
              - match: { prefix: /account }
                requires: { provider_name: demo }
              - match: { prefix: / }
                requires: { requires_any: { requirements: [ { provider_name: demo }, { allow_missing: {} } ] } }
          - name: rbac
            typed_config:
              "@type": $T.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  no-admin-from-outside:
                    permissions: [ { url_path: { path: { prefix: /admin } } } ]
                    principals: [ { any: true } ]
          - name: router
            typed_config: { "@type": $T.filters.http.router.v3.Router }
  clusters:
  - { name: v1, type: STATIC, load_assignment: { cluster_name: v1, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 8001 } } } } ] } ] } }
  - { name: v2, type: STATIC, load_assignment: { cluster_name: v2, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 8002 } } } } ] } ] } }
  - { name: flaky, type: STATIC, load_assignment: { cluster_name: flaky, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 8003 } } } } ] } ] } }
EOF
"$BIN/weft-waypoint" --mode validate -c "$W/waypoint.yaml" 2>&1 | show
nsenter --net=/run/netns/$NS "$BIN/weft-waypoint" -c "$W/waypoint.yaml" -l warn 2>"$W/waypoint.log" &
PIDS+=($!)
until_ok 10 get -f --unix-socket "$W/admin.sock" http://x/ready || { show <"$W/waypoint.log"; exit 1; }
expect $? "weft-waypoint is ready, its routes from a watched file"

step "Canary by weight: 200 requests, 80 to 20"
for _ in $(seq 200); do printf 'url = "http://127.0.0.1:8080/"\n'; done >"$W/urls"
in_ns curl -s --max-time 20 -K "$W/urls" | cut -d' ' -f2 | sort | uniq -c | show
V2=$(in_ns curl -s --max-time 20 -K "$W/urls" | grep -c v2)
[ "$V2" -gt 10 ] && [ "$V2" -lt 90 ]
expect $? "v2 got its share ($V2 of 200)"

step "A retry hides the failing backend"
printf '   past weft-waypoint:  ' && for _ in 1 2 3 4 5 6; do in_ns curl -s -o /dev/null -w '%{http_code} ' http://127.0.0.1:8003/; done && echo
OUT=$(for _ in 1 2 3 4 5 6; do get -o /dev/null -w '%{http_code} ' http://127.0.0.1:8080/flaky; done)
printf '   through it:          %s\n' "$OUT"
[ "$OUT" = "200 200 200 200 200 200 " ]
expect $? "the client saw none of it"
get --unix-socket "$W/admin.sock" 'http://x/stats?filter=flaky.upstream_rq_retry(_success)?$' | show

step "JWT: who you are becomes a header"
printf '   without a token: %s\n' "$(get -w ' (%{http_code})' http://127.0.0.1:8080/account)"
TOKEN=$(jwt '{"iss":"demo","sub":"ada","exp":4102444800}')
OUT=$(get -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/account)
printf '   with one:        %s\n' "$OUT"
printf '%s' "$OUT" | grep -q 'for ada'
expect $? "the backend got x-user: ada"
OUT=$(get -H "Authorization: Bearer ${TOKEN%?????}AAAAA" -w ' %{http_code}' http://127.0.0.1:8080/account)
printf '   a forged one:    %s\n' "$OUT"
printf '%s' "$OUT" | grep -q 401
expect $? "refused"

step "A denied path, and why"
OUT=$(get -w ' (%{http_code})' http://127.0.0.1:8080/admin/keys)
printf '   %s\n' "$OUT"
until_ok 3 grep -q 'rbac_access_denied' "$W/access.log"
grep 'rbac_access_denied' "$W/access.log" | tail -1 | show
grep -q 'rbac_access_denied_matched_policy\[no-admin-from-outside\]' "$W/access.log"
expect $? "the access log names the policy"

step "The canary takes over under load: not one failed request"
nsenter --net=/run/netns/$NS wrk -t1 -c16 -d3 http://127.0.0.1:8080/ >"$W/wrk.out" 2>&1 &
WRK=$!
for w in "60 40" "30 70" "1 99" "0 100"; do
	sleep 0.5
	read -r a b <<<"$w"
	sed "s/{ name: v1, weight: [0-9]* }, { name: v2, weight: [0-9]* }/{ name: v1, weight: $a }, { name: v2, weight: $b }/" "$W/rds.yaml" >"$W/rds.new" && mv "$W/rds.new" "$W/rds.yaml"
done
wait $WRK
grep -E 'requests in|Non-2xx|Socket errors' "$W/wrk.out" | show
! grep -qE 'Non-2xx|Socket errors' "$W/wrk.out"
expect $? "$(awk '/requests in/{print $1}' "$W/wrk.out") requests, none failed"
[ "$(get http://127.0.0.1:8080/ | cut -d' ' -f2)" = v2 ]
expect $? "everything goes to v2 now"

step "A bad file loses nothing"
sed 's/num_retries: 3/num_retires: 3/' "$W/rds.yaml" >"$W/rds.new" && mv "$W/rds.new" "$W/rds.yaml"
until_ok 5 grep -q num_retires "$W/waypoint.log"
grep -m1 num_retires "$W/waypoint.log" | cut -c1-300 | show
[ "$(get -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/flaky)" = 200 ]
expect $? "the last good routes go on"

step "Metrics and access log"
get --unix-socket "$W/admin.sock" 'http://x/stats/prometheus' | grep -E '^envoy_(http_downstream_rq_total|cluster_upstream_rq_total|http_rbac_denied|http_jwt_authn)' | head -8 | show
tail -4 "$W/access.log" | show
[ "$(wc -l <"$W/access.log")" -gt 200 ]
expect $? "$(wc -l <"$W/access.log") lines"

printf '\n%s%d steps, %d failed%s\n' "$B" "$STEP" "$BAD" "$N"
[ $BAD = 0 ]
