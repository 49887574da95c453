# shellcheck shell=bash disable=SC2034
# weft-waypoint and Envoy side by side: one bootstrap, two ports, the same requests, and what is told to the client compared.
#
#   differ_up                  work folder, free ports; everything is gone at exit
#   differ_nginx <<'EOF'       an upstream: server{} blocks on stdin, @UP@ is its port
#   differ_start FILE          both proxies; in FILE @PORT@ is the port to listen on, @ADMIN@ the admin's socket, @UP@ as above,
#                              @PORT2@ a second port
#   differ TEXT [CURL-ARG...]  asks both; status, headers and body must be equal. "@" in an argument is http://127.0.0.1:PORT, "@2" the second
#   differ_stat TEXT REGEX     counters and gauges whose names match are equal
#   ask weft|envoy ARG...      one answer into CODE, HEAD (sorted, lower case), BODY
#   stat_of weft|envoy NAME       one number
#   differ_config FILE         the wrapping of both: listeners and routes of a usual shape around http_filters and routes
#
# Header fields that may differ: DIFFER_SKIP, a regex.
. test/lib/mesh.sh
. test/lib/envoy.sh
DIFFER_SKIP=${DIFFER_SKIP:-'date|x-envoy-upstream-service-time|x-request-id'}
declare -A DIFFER_PORT DIFFER_PORT2
DIFFER_UP=
DIFFER_WEFT_ARGS=() # more options for weft-waypoint

differ_port() { # a free port of loopback
	python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

differ_spawn() { # TAG COMMAND...
	local tag=$1
	shift
	"$@" >>"$MESH_W/log/$tag.log" 2>&1 </dev/null &
	MESH_PID[$tag]=$!
	MESH_PIDS+=("$!")
}

differ_up() {
	mesh_need curl python3 nginx
	MESH_W=$(mktemp -d "${TMPDIR:-/tmp}/weft-differ.XXXXXX")
	chmod 755 "$MESH_W"
	mkdir -p "$MESH_W/log"
	trap mesh_down EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	envoy_need
	DIFFER_UP=$(differ_port)
}

differ_nginx() { # server blocks on stdin; @UP@ and @WORK@ are replaced
	mkdir -p "$MESH_W/nginx"
	{
		printf 'daemon off; worker_processes 1; pid %s/nginx/pid; error_log %s/log/nginx-error.log;\n' "$MESH_W" "$MESH_W"
		[ "$(id -u)" != 0 ] || printf 'user nobody nogroup;\n'
		printf 'events {worker_connections 1024;}\nhttp { access_log off; keepalive_requests 100000;\n'
		for x in client_body proxy fastcgi uwsgi scgi; do printf '%s_temp_path %s/nginx/%s;\n' $x "$MESH_W" $x; done
		sed "s|@UP@|$DIFFER_UP|g; s|@WORK@|$MESH_W|g"
		printf '}\n'
	} >"$MESH_W/nginx.conf"
	differ_spawn nginx nginx -e "$MESH_W/log/nginx-error.log" -c "$MESH_W/nginx.conf"
	mesh_wait 10 nginx curl -s -o /dev/null --max-time 1 "http://127.0.0.1:$DIFFER_UP/" || mesh_fail_logs nginx
}

differ_ready() { # weft|envoy
	[ "$(curl -s --max-time 1 --unix-socket "$MESH_W/$1.admin" http://admin/ready)" = LIVE ]
}

differ_start() { # FILE
	local p
	for p in weft envoy; do
		DIFFER_PORT[$p]=$(differ_port)
		DIFFER_PORT2[$p]=$(differ_port)
		sed "s|@PORT@|${DIFFER_PORT[$p]}|g; s|@PORT2@|${DIFFER_PORT2[$p]}|g; s|@UP@|$DIFFER_UP|g; s|@ADMIN@|$MESH_W/$p.admin|g; s|@WORK@|$MESH_W|g" \
			"$1" >"$MESH_W/$p.yaml"
	done
	differ_spawn weft "$MESH_BIN/weft-waypoint" -c "$MESH_W/weft.yaml" --concurrency 1 --service-cluster differ --service-node differ \
		"${DIFFER_WEFT_ARGS[@]}" ${MESH_SAN:+--no-seccomp}
	differ_spawn envoy "$ENVOY" -c "$MESH_W/envoy.yaml" --concurrency 1 -l "${DIFFER_LEVEL:-warn}" --disable-hot-restart --base-id "$RANDOM" \
		--service-cluster differ --service-node differ
	for p in weft envoy; do mesh_wait 20 "$p" differ_ready "$p" || mesh_fail_logs "$p"; done
}

differ_stop() { # ends both, for another configuration
	local p
	for p in weft envoy; do mesh_stop "$p"; done
	rm -f "$MESH_W"/{weft,envoy}.admin
}

ask() { # weft|envoy CURL-ARG...: CODE, HEAD, BODY
	local p=$1 a args=()
	shift
	for a in "$@"; do
		a=${a/#@2/http://127.0.0.1:${DIFFER_PORT2[$p]}}
		args+=("${a/#@\//http://127.0.0.1:${DIFFER_PORT[$p]}/}")
	done
	curl -s --max-time "${DIFFER_MAX:-10}" -D "$MESH_W/$p.head" -o "$MESH_W/$p.body" "${args[@]}"
	DIFFER_RC=$?
	CODE=$(awk '/^HTTP\// {c = $2} END {print c}' "$MESH_W/$p.head")
	# of the last answer; names as lower case, sorted; the proxy's own port is no difference
	HEAD=$(awk '/^HTTP\// {h = ""; next} {sub(/\r$/, ""); if ($0 != "") {i = index($0, ":"); h = h tolower(substr($0, 1, i)) substr($0, i + 1) "\n"}} END {printf "%s", h}' \
		"$MESH_W/$p.head" | grep -vE "^($DIFFER_SKIP):" | sed "s/:${DIFFER_PORT[$p]}/:PORT/g; s/:${DIFFER_PORT2[$p]}/:PORT2/g" | sort)
	BODY=$(sed "s/:${DIFFER_PORT[$p]}/:PORT/g; s/:${DIFFER_PORT2[$p]}/:PORT2/g" "$MESH_W/$p.body" 2>/dev/null | tr -d '\0')
	rm -f "$MESH_W/$p.body"
}

differ() { # TEXT CURL-ARG...
	local text=$1 weft
	shift
	ask envoy "$@"
	ENVOY_SAID="curl $DIFFER_RC status $CODE"$'\n'"$HEAD"$'\n\n'"$BODY"
	ask weft "$@"
	weft="curl $DIFFER_RC status $CODE"$'\n'"$HEAD"$'\n\n'"$BODY"
	[ "$weft" = "$ENVOY_SAID" ]
	ok $? "$text: $CODE as Envoy"
	[ "$weft" = "$ENVOY_SAID" ] || diff <(printf '%s\n' "$ENVOY_SAID") <(printf '%s\n' "$weft") | sed 's/^</# envoy: /; s/^>/# weft:  /; t; s/^/# /'
}

stats() { # weft|envoy REGEX: counters and gauges
	curl -s -G --max-time 5 --unix-socket "$MESH_W/$1.admin" --data-urlencode "filter=$2" http://admin/stats | grep -vE ': (P[0-9]|No recorded)' | sort
}

stat_of() { # weft|envoy NAME
	stats "$1" "^${2//./\\.}\$" | sed 's/^.*: //'
}

differ_stat() { # TEXT REGEX
	local w e
	w=$(stats weft "$2")
	e=$(stats envoy "$2")
	[ "$w" = "$e" ] && [ -n "$w" ]
	ok $? "$1: $(printf '%s\n' "$w" | grep -c .) numbers as Envoy's"
	[ "$w" = "$e" ] || diff <(printf '%s\n' "$e") <(printf '%s\n' "$w") | sed 's/^</# envoy: /; s/^>/# weft:  /; t; s/^/# /'
}

differ_config() { # FILE HTTP-FILTERS-FILE VHOST-FILE: YAML lists, indented by nothing; upstream cluster "up"
	{
		cat <<-'EOF'
			admin: {address: {pipe: {path: "@ADMIN@"}}}
			static_resources:
			  clusters:
			  - name: up
			    type: STATIC
			    connect_timeout: 2s
			    load_assignment:
			      cluster_name: up
			      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @UP@}}}}]}]
			  listeners:
			  - name: l
			    address: {socket_address: {address: 127.0.0.1, port_value: @PORT@}}
			    filter_chains:
			    - filters:
			      - name: hcm
			        typed_config:
			          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
			          stat_prefix: in
			          http_filters:
		EOF
		sed 's/^/          /' "$2"
		cat <<-'EOF'
			          - name: router
			            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
			          route_config:
			            name: r
			            virtual_hosts:
		EOF
		sed 's/^/            /' "$3"
	} >"$1"
}
