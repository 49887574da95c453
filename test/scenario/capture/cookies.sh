#!/usr/bin/env bash
# SYN cookies: the accepting side keeps nothing between SYN and ACK, so our notes must still be there at the ACK.
. test/lib/capture.sh
N=${CAP_COOKIES:-6000}
cap_up
cap_pod a 2
A=10.92.0.2 A6=fd92::2
came_back() { tcp_stat a SyncookiesRecv; } # cookies that were answered, in the pod
go() { # COUNT WINDOW FROM TO EXPECT TEXT
	storm "$3" -n "$1" -w "$2" -- "$4" "$5 $4 "
	is "$(value good)" "$1" "tcp_syncookies=$mode: $6"
}

mode=2 # always
mesh_in a sysctl -qw net.ipv4.tcp_syncookies=2
cap_serve a
cap_enrol a
cap_app a "$A:8080"
cap_app a "[$A6]:8080"
before=$(came_back)
go "$N" 256 a 198.51.100.7:80 out "outbound, every destination right"
go "$N" 256 a '[2001:db8::7]:80' out "outbound, IPv6"
go "$N" 256 a $A:8080 app "the pod to itself: none reset, none to the proxy"
go "$N" 256 a "[$A6]:8080" app "the pod to itself, IPv6"
go "$N" 256 out $A:8081 plain "inbound, plaintext listener"
go "$N" 256 out "[$A6]:15008" hbone "inbound, HBONE listener"
is "$(($(came_back) - before))" $((6 * N)) "every one of these was accepted by cookie"
mesh_wait 10 "empty maps" cap_empty
ok $? "tcp_syncookies=2: empty maps"
mesh_stop serve-a
mesh_stop "app-a-$A:8080"

# 1: only when the queue of a listener is full. SYNs whose answers are lost fill short queues of all three listeners.
mode=1
mesh_in a sysctl -qw net.ipv4.tcp_syncookies=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
ip -n "${MESH_PREFIX}a" neigh add 10.92.0.66 lladdr 02:00:00:00:00:66 dev eth0 nud permanent
ip -n "${MESH_PREFIX}a" route add 203.0.113.0/24 via 10.92.0.66
ip -n "${MESH_PREFIX}out" addr add 203.0.113.9/32 dev br0
cap_serve a accept:8
cap_app a "$A:8080" 8
fill() { # FROM ARGS... TO: 24 half-open connects, until the end of the test
	local n=$1
	shift
	mesh_spawn fill "$n" "$MESH_W/log/fill" "$DIAL" -n 24 -w 24 "${@:1:$#-1}" -p storm "${!#}"
}
queued() { [ "$(mesh_in a ss -Htn state syn-recv | wc -l)" -ge "$1" ]; }
fill a -x -b 203.0.113.8 -d eth0 198.51.100.7:80
fill a -x -b 203.0.113.8 $A:8080
fill out -b 203.0.113.9 $A:8081
mesh_wait 5 "full queues" queued 27
mesh_log "$(mesh_in a ss -Htn state syn-recv | awk '{print $3}' | sort | uniq -c | tr -s ' \n' ' ')"
ok $? "three full queues"
for to in "a 198.51.100.7:80 out" "a $A:8080 app" "out $A:8081 plain"; do
	read -r from at said <<<"$to"
	before=$(came_back)
	go $((N / 4)) 4 "$from" "$at" "$said" "$said, while the queue is full"
	ok "$([ $(($(came_back) - before)) -gt 0 ]; echo $?)" "tcp_syncookies=1: $said: cookies were used: $(($(came_back) - before))"
done
is "$(counter tuple_lost)$(counter selfc_lost)" 00 "nothing was lost"
for pid in "${MESH_PIDS[@]}"; do kill "$pid" 2>/dev/null; done
cap_done
