# shellcheck shell=bash disable=SC2034
# Capture alone: pods on one wire, the BPF programs, and a stand-in for the proxy that says what it was given. No weft program runs.
#   out: 10.92.0.1, fd92::1 (outside, never enrolled)     pods: 10.92.0.N, fd92::N
# shellcheck source=test/lib/mesh.sh
. test/lib/mesh.sh
CTL=$MESH_BIN/test/lib/capture_ctl DIAL=$MESH_BIN/test/lib/capture_dial
CG=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
declare -A CAP_COOKIE CAP_IP CAP_IP6
CAP_GROUPS=()

cap_up() {
	[ "$(id -u)" = 0 ] || mesh_die "needs root"
	mesh_need ip nsenter "$CTL" "$DIAL"
	[ -n "$CG" ] || mesh_die "no cgroup2 file system is mounted"
	MESH_W=$(mktemp -d "${TMPDIR:-/tmp}/weft-cap.XXXXXX")
	mkdir -p "$MESH_W"/{bpf,log}
	trap cap_down EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	mount -t bpf bpf "$MESH_W/bpf" || mesh_die "cannot mount a bpffs"
	PIN=$MESH_W/bpf/A
	mesh_ns out
	mesh_in out sysctl -qw net.ipv6.conf.default.accept_dad=0
	ip -n "${MESH_PREFIX}out" link add br0 type bridge
	ip -n "${MESH_PREFIX}out" addr add 10.92.0.1/24 dev br0
	ip -n "${MESH_PREFIX}out" addr add fd92::1/64 dev br0 nodad
	ip -n "${MESH_PREFIX}out" link set br0 up
	OUT=$("$CTL" load "$PIN" "$CG") || mesh_die "$OUT"
}

cap_down() {
	local rc=$? g
	[ -d "$PIN" ] && "$CTL" unload "$PIN" >/dev/null 2>&1
	for g in "${CAP_GROUPS[@]}"; do rmdir "$g" 2>/dev/null; done
	(exit "$rc")
	mesh_down
}

cap_pod() { # NAME N: a namespace on the wire, not enrolled
	mesh_ns "$1"
	mesh_in "$1" sysctl -qw net.ipv6.conf.default.accept_dad=0
	ip -n "${MESH_PREFIX}out" link add "v$1" type veth peer name eth0 netns "$MESH_PREFIX$1"
	ip -n "${MESH_PREFIX}out" link set "v$1" master br0 up
	ip -n "$MESH_PREFIX$1" addr add "10.92.0.$2/24" dev eth0
	ip -n "$MESH_PREFIX$1" addr add "fd92::$2/64" dev eth0 nodad
	ip -n "$MESH_PREFIX$1" link set eth0 up
	ip -n "$MESH_PREFIX$1" route add default via 10.92.0.1
	ip -n "$MESH_PREFIX$1" route add default via fd92::1
	CAP_IP[$1]=10.92.0.$2 CAP_IP6[$1]=fd92::$2
}

cap_serve() { # NAME [accept|hold[:BACKLOG]]: the proxy's listeners
	"$CTL" serve "$PIN" "$CG" "/run/netns/$MESH_PREFIX$1" "${2:-accept}" "${CAP_IP[$1]}" "${CAP_IP6[$1]}" \
		>"$MESH_W/log/serve-$1" 2>&1 </dev/null &
	MESH_PID[serve-$1]=$!
	MESH_PIDS+=("$!")
	mesh_wait 5 "listeners of $1" grep -q ready "$MESH_W/log/serve-$1" || mesh_die "$(cat "$MESH_W/log/serve-$1")"
}

cap_enrol() { # NAME: as pod uid Kubernetes//Pod/t/NAME
	OUT=$("$CTL" pod "$PIN" "$CG" "Kubernetes//Pod/t/$1" "/run/netns/$MESH_PREFIX$1" "${CAP_IP[$1]}" "${CAP_IP6[$1]}") || mesh_die "$OUT"
	CAP_COOKIE[$1]=${OUT#pod }
}

cap_mesh_pod() { # NAME N: with listeners, enrolled
	cap_pod "$1" "$2"
	cap_serve "$1"
	cap_enrol "$1"
}

cap_app() { # NAME AT [BACKLOG] [OPTION]: an app that listens
	local n=$1 at=$2
	: >"$MESH_W/log/app-$n-$at"
	mesh_spawn "app-$n-$at" "$n" "$MESH_W/log/app-$n-$at" "$DIAL" ${4:+"$4"} app "$at" "${3:-1024}"
	mesh_wait 5 "app $n $at" grep -q ready "$MESH_W/log/app-$n-$at" || mesh_die "$(cat "$MESH_W/log/app-$n-$at")"
}

dial() { # NAME ARGS... TO: what the app saw, in OUT; its own port as "*"
	local n=$1
	shift
	OUT=$(mesh_in "$n" "$DIAL" "${@:1:$#-1}" dial "${!#}" 2>&1)
	RC=$?
	OUT=$(sed -E "s/(self=[^ ]*:)[0-9]+ /\\1* /; s/(said=[^ ]+ [^ ]+ .*:)[0-9]+\$/\\1*/" <<<"$OUT")
}

storm() { # NAME ARGS... -- TO [EXPECT]
	local n=$1 args=()
	shift
	while [ "$1" != -- ]; do args+=("$1") && shift; done
	shift
	OUT=$(mesh_in "$n" "$DIAL" "${args[@]}" storm "$@" 2>&1 </dev/null)
	RC=$?
}

value() { # NAME: of the last storm
	sed -n "s/.*\\b$1=\\([0-9]*\\).*/\\1/p" <<<"$OUT" | head -n 1
}

counter() { # NAME
	"$CTL" counters "$PIN" "$CG" | sed -n "s/^$1=//p"
}

tcp_stat() { # NS NAME: a counter of TcpExt
	# shellcheck disable=SC2016
	mesh_in "$1" awk -v want="$2" '/^TcpExt:/ && n++ { for (i = 1; i <= NF; i++) if (h[i] == want) print $i } { split($0, h, " ") }' \
		/proc/net/netstat
}

cap_empty() {
	[ "$("$CTL" counters "$PIN" "$CG" | grep -cE '^(tuples|selfc_entries|tuples_walked|selfc_walked)=0$')" = 4 ]
}

cap_done() { # every test ends with empty maps
	mesh_wait 15 "empty maps" cap_empty
	ok $? "no tuple and no self flow is left in the maps"
	cap_empty || "$CTL" counters "$PIN" "$CG" | sed 's/^/# /'
	tap_done
}
