# shellcheck shell=bash disable=SC2034
# Two nodes in network namespaces, joined by a wire, with pods on a bridge each; weft's programs on top. Sourced by
# scenarios and by the demo. Everything lives under one work folder and one name prefix, and is gone after mesh_down.
#
#   node A 10.90.0.1/fd90::1 ==wire== node B 10.90.0.2/fd90::2     pods: 10.91.<node>.N, fd91:<node>::N
#
# MESH_BIN: folder of the programs. MESH_PREFIX: names, default wt<pid>-. MESH_WORKERS: threads a proxy.
set -u
MESH_BIN=${MESH_BIN:-build/release}
MESH_PREFIX=${MESH_PREFIX:-wt$$-}
MESH_USER=${MESH_USER:-nobody}
MESH_WORKERS=${MESH_WORKERS:-2}
declare -A MESH_POD_IP MESH_POD_IP6 MESH_PID MESH_NODE_NUM=([A]=1 [B]=2 [C]=2)
MESH_PIDS=()
MESH_PROXY_ARGS=() # more options for weft-proxy
# programs that are built with a sanitizer
[ -n "${MESH_SAN:-}" ] || MESH_SAN=$(grep -o -m 1 'fsanitize=[a-z]*' "$MESH_BIN/flags.stamp" 2>/dev/null)
export MESH_SAN
[ -z "$MESH_SAN" ] || MESH_PROXY_ARGS=(--no-seccomp) # sanitizers make calls that the filter refuses
MESH_NS=()
MESH_W=

mesh_log() { printf '# %s\n' "$*"; }
mesh_die() {
	printf 'Bail out! %s\n' "$*"
	exit 1
}

mesh_need() { # programs that must be there: a missing one is a failure, not a skip
	local p
	for p in "$@"; do
		command -v "$p" >/dev/null 2>&1 || mesh_die "missing program: $p (make deps installs it)"
	done
}

mesh_ns() { # NAME [SYSCTL...]: a namespace with loopback up
	ip netns add "$MESH_PREFIX$1" || mesh_die "cannot make a network namespace"
	MESH_NS+=("$MESH_PREFIX$1")
	ip -n "$MESH_PREFIX$1" link set lo up
}

mesh_in() { # NS COMMAND...: runs in the namespace, this mount namespace kept
	local n=$1
	shift
	nsenter --net="/run/netns/$MESH_PREFIX$n" -- "$@"
}

mesh_spawn() { # TAG NS LOG COMMAND...: in the background; pid in MESH_PID[TAG]
	local tag=$1 n=$2 log=$3
	shift 3
	nsenter --net="/run/netns/$MESH_PREFIX$n" -- "$@" >>"$log" 2>&1 </dev/null &
	MESH_PID[$tag]=$!
	MESH_PIDS+=("$!")
}

mesh_up() { # makes the two nodes; mesh_down is called at exit, whatever happens
	[ "$(id -u)" = 0 ] || mesh_die "needs root"
	mesh_need ip nsenter curl
	MESH_W=$(mktemp -d "${TMPDIR:-/tmp}/weft-mesh.XXXXXX")
	chmod 755 "$MESH_W"
	mkdir -p "$MESH_W"/{config,state,bpf,log,A,B}
	trap mesh_down EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	mount -t bpf bpf "$MESH_W/bpf" || mesh_die "cannot mount a bpffs"
	local x p q
	for x in A B; do
		mesh_ns "n$x"
		mesh_in "n$x" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
		ip -n "${MESH_PREFIX}n$x" link add br0 type bridge
		ip -n "${MESH_PREFIX}n$x" addr add "10.91.${MESH_NODE_NUM[$x]}.1/24" dev br0
		ip -n "${MESH_PREFIX}n$x" addr add "fd91:${MESH_NODE_NUM[$x]}::1/64" dev br0 nodad
		ip -n "${MESH_PREFIX}n$x" link set br0 up
	done
	ip -n "${MESH_PREFIX}nA" link add wire type veth peer name wire netns "${MESH_PREFIX}nB"
	for x in A B; do
		p=${MESH_NODE_NUM[$x]} q=$((3 - p))
		ip -n "${MESH_PREFIX}n$x" addr add "10.90.0.$p/30" dev wire
		ip -n "${MESH_PREFIX}n$x" addr add "fd90::$p/64" dev wire nodad
		ip -n "${MESH_PREFIX}n$x" link set wire up
		ip -n "${MESH_PREFIX}n$x" route add "10.91.$q.0/24" via "10.90.0.$q"
		ip -n "${MESH_PREFIX}n$x" route add "fd91:$q::/64" via "fd90::$q"
	done
}

mesh_config() { # FILE: YAML on stdin, put in place at once
	cat >"$MESH_W/config/.$1.new" && mv "$MESH_W/config/.$1.new" "$MESH_W/config/$1"
}

mesh_namespace() { # NAME [none]
	mesh_config "ns-$1.yaml" <<-EOF
		apiVersion: v1
		kind: Namespace
		metadata:
		  name: $1
		  labels: {weft.io/mesh: ${2:-enabled}}
	EOF
}

mesh_pod() { # NODE NS/NAME SA N [LABEL: VALUE...]: namespace, addresses .N, and its Pod object. Node C: on B's wire, but nobody's of ours
	local node=$1 bridge=${1/C/B} ns=${2%/*} name=${2#*/} sa=$3 n=$4 num=${MESH_NODE_NUM[$1]} l
	shift 4
	mesh_ns "$name"
	mesh_in "$name" sysctl -qw net.ipv6.conf.default.accept_dad=0
	ip -n "${MESH_PREFIX}n$bridge" link add "v$name" type veth peer name eth0 netns "$MESH_PREFIX$name"
	ip -n "${MESH_PREFIX}n$bridge" link set "v$name" master br0 up
	ip -n "$MESH_PREFIX$name" addr add "10.91.$num.$n/24" dev eth0
	ip -n "$MESH_PREFIX$name" addr add "fd91:$num::$n/64" dev eth0 nodad
	ip -n "$MESH_PREFIX$name" link set eth0 up
	ip -n "$MESH_PREFIX$name" route add default via "10.91.$num.1"
	ip -n "$MESH_PREFIX$name" route add default via "fd91:$num::1"
	MESH_POD_IP[$name]=10.91.$num.$n
	MESH_POD_IP6[$name]=fd91:$num::$n
	{
		cat <<-EOF
			apiVersion: v1
			kind: Pod
			metadata:
			  name: $name
			  namespace: $ns
			  annotations: {weft.io/netns: /run/netns/$MESH_PREFIX$name}
			  labels:
			    app: $name
		EOF
		for l in "$@"; do printf '    %s\n' "$l"; done
		cat <<-EOF
			spec: {nodeName: node-${node,,}, serviceAccountName: $sa}
			status:
			  phase: Running
			  podIPs: [{ip: 10.91.$num.$n}, {ip: "fd91:$num::$n"}]
			  conditions: [{type: Ready, status: "True"}]
		EOF
	} | mesh_config "pod-$ns-$name.yaml"
}

mesh_service() { # NS/NAME VIP PORT TARGETPORT APP
	mesh_config "svc-${1%/*}-${1#*/}.yaml" <<-EOF
		apiVersion: v1
		kind: Service
		metadata: {name: ${1#*/}, namespace: ${1%/*}}
		spec:
		  clusterIP: "$2"
		  clusterIPs: ["$2"]
		  selector: {app: $5}
		  ports: [{name: tcp, port: $3, targetPort: $4, protocol: TCP}]
	EOF
}

mesh_wait() { # SECONDS WHAT COMMAND...: until the command succeeds
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$end" ]; then
			mesh_log "waited in vain for $what"
			return 1
		fi
		sleep 0.05
	done
}

mesh_agent() { # NODE
	mesh_spawn "agent$1" "n$1" "$MESH_W/log/agent$1.log" "$MESH_BIN/weft-agent" --config "$MESH_W/config" --node "node-${1,,}" \
		--run-dir "$MESH_W/$1" --state-dir "$MESH_W/state" --pin-dir "$MESH_W/bpf/$1" --proxy-user "$MESH_USER" \
		--instance "$MESH_PREFIX$1" --log-level "${MESH_LOG:-info}"
}

mesh_proxy() { # NODE [TAG]
	mesh_spawn "${2:-proxy$1}" "n$1" "$MESH_W/log/${2:-proxy$1}.log" "$MESH_BIN/weft-proxy" --run-dir "$MESH_W/$1" --user "$MESH_USER" \
		--workers "$MESH_WORKERS" --access-log "$MESH_W/log/access$1.log" --access-log-format "${MESH_ACCESS:-text}" \
		--log-level "${MESH_LOG:-info}" "${MESH_PROXY_ARGS[@]}"
}

mesh_ready() { # NODE: the proxy says ready
	[ "$(mesh_in "n$1" curl -s -o /dev/null -w '%{http_code}' --max-time 2 http://127.0.0.1:15021/healthz/ready)" = 200 ]
}

mesh_agent_ready() { # NODE
	curl -s -f -o /dev/null --max-time 2 --unix-socket "$MESH_W/$1/admin.sock" http://agent/healthz
}

mesh_start() { # agents and proxies of both nodes, until ready
	local x
	for x in A B; do mesh_agent "$x"; done
	for x in A B; do mesh_wait 15 "agent $x" mesh_agent_ready "$x" || mesh_fail_logs "agent $x"; done
	for x in A B; do mesh_proxy "$x"; done
	for x in A B; do mesh_wait 20 "proxy $x" mesh_ready "$x" || mesh_fail_logs "proxy $x"; done
}

mesh_fail_logs() {
	tail -n 15 "$MESH_W"/log/*.log | sed 's/^/# /'
	mesh_die "$1 did not become ready"
}

mesh_ctl() { # NODE ARGS...
	local n=$1
	shift
	"$MESH_BIN/weftctl" --run-dir "$MESH_W/$n" "$@"
}

mesh_stop() { # TAG [SIGNAL]: ends a program and waits for it
	local pid=${MESH_PID[$1]:-}
	[ -n "$pid" ] || return 0
	kill "-${2:-TERM}" "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	MESH_PID[$1]=
}

mesh_down() {
	local rc=$? pid n x said
	trap '' INT TERM
	for pid in "${MESH_PIDS[@]}"; do kill "$pid" 2>/dev/null; done
	for ((n = 0; n < ${MESH_SAN:+290} + 10; n++)); do # a search for leaks takes its time
		x=0
		for pid in "${MESH_PIDS[@]}"; do kill -0 "$pid" 2>/dev/null && x=1; done
		[ "$x" = 0 ] && break
		sleep 0.1
	done
	for pid in "${MESH_PIDS[@]}"; do kill -KILL "$pid" 2>/dev/null; done
	wait 2>/dev/null
	said=
	[ -z "${MESH_SAN:-}" ] || said=$(grep -E -A 20 'runtime error:|(ERROR|WARNING): [A-Z][a-z]*Sanitizer' "$MESH_W"/log/* 2>/dev/null)
	if [ -n "$said" ]; then
		rc=1
		printf '%s\n' "$said" | head -n 80 | sed 's/^/# /'
	fi
	if [ "$rc" != 0 ] && [ -n "${MESH_KEEP_LOGS:-}" ]; then
		mkdir -p "$MESH_KEEP_LOGS" && cp -r "$MESH_W/log" "$MESH_KEEP_LOGS/" 2>/dev/null
	fi
	for x in A B; do
		[ -x "$MESH_BIN/weft-agent" ] && [ -d "$MESH_W/bpf/$x" ] &&
			"$MESH_BIN/weft-agent" --unload --pin-dir "$MESH_W/bpf/$x" >/dev/null 2>&1
	done
	for n in "${MESH_NS[@]}"; do ip netns del "$n" 2>/dev/null; done
	mountpoint -q "$MESH_W/bpf" && umount "$MESH_W/bpf"
	local cg
	cg=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
	if [ -n "$cg" ]; then
		for x in A B; do
			find "$cg/weft/$MESH_PREFIX$x" -depth -type d -exec rmdir {} + 2>/dev/null
		done
		rmdir "$cg/weft" 2>/dev/null
	fi
	[ -n "$MESH_W" ] && rm -rf "$MESH_W"
	[ -z "$said" ] || exit 1 # in a trap only this makes the script fail
	return "$rc"
}

# ---- TAP
TAP_N=0
TAP_BAD=0
ok() { # CONDITION-EXIT-CODE TEXT
	TAP_N=$((TAP_N + 1))
	if [ "$1" = 0 ]; then
		printf 'ok %d - %s\n' "$TAP_N" "$2"
	else
		TAP_BAD=$((TAP_BAD + 1))
		printf 'not ok %d - %s\n' "$TAP_N" "$2"
	fi
}
is() { # GOT WANTED TEXT
	if [ "$1" = "$2" ]; then ok 0 "$3"; else
		ok 1 "$3"
		printf '#   got:    %s\n#   wanted: %s\n' "$1" "$2"
	fi
}
like() { # GOT REGEX TEXT
	if printf '%s' "$1" | grep -qE -- "$2"; then ok 0 "$3"; else
		ok 1 "$3"
		printf '#   wanted: /%s/ in %d lines that end with:\n' "$2" "$(printf '%s\n' "$1" | wc -l)"
		printf '%s\n' "$1" | tail -n 5 | cut -c1-600 | sed 's/^/#     /'
	fi
}
skip() { # TEXT REASON
	TAP_N=$((TAP_N + 1))
	printf 'ok %d - %s # SKIP %s\n' "$TAP_N" "$1" "$2"
}
tap_done() {
	printf '1..%d\n' "$TAP_N"
	[ "$TAP_BAD" = 0 ]
	exit
}
json() { # KEY: a number or string of one flat JSON line on stdin
	sed -n 's/.*"'"$1"'":\("\([^"]*\)"\|\([^,}]*\)\).*/\2\3/p'
}
