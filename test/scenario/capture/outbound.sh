#!/usr/bin/env bash
# Outbound: what the proxy is told and what the app sees, for every odd way to connect.
. test/lib/capture.sh
cap_up
cap_mesh_pod a 2
cap_pod plain 3
cap_app a '[::]:8080'
cap_app out '0.0.0.0:8080'
A=10.92.0.2 A6=fd92::2 X=198.51.100.7 X6=2001:db8::7

saw() { # WANTED TEXT: OUT is the dial's line
	is "$OUT" "$1" "$2"
}
dial a $X:80
saw "peer=$X:80 self=$A:* said=out $X:80 127.0.0.1:*" "IPv4: destination to the proxy, true addresses to the app"
dial a "[$X6]:80"
saw "peer=[$X6]:80 self=[$A6]:* said=out [$X6]:80 127.0.0.1:*" "IPv6"
dial a -6 $X:80
saw "peer=mapped:$X:80 self=mapped:$A:* said=out $X:80 127.0.0.1:*" "v4-mapped stays v4-mapped to the app, is IPv4 to the proxy"
dial a -o "[$X6]:80"
saw "peer=[$X6]:80 self=[$A6]:* said=out [$X6]:80 [::1]:*" "IPV6_V6ONLY"
dial a -d eth0 $X:80
saw "peer=$X:80 self=$A:* said=out $X:80 $A:*" "SO_BINDTODEVICE, IPv4"
dial a -d eth0 "[$X6]:80"
saw "peer=[$X6]:80 self=[$A6]:* said=out [$X6]:80 [$A6]:*" "SO_BINDTODEVICE, IPv6"
dial a -d eth0 -6 $X:80
saw "peer=mapped:$X:80 self=mapped:$A:* said=out $X:80 $A:*" "SO_BINDTODEVICE, v4-mapped"
dial a -b $A $X:80
saw "peer=$X:80 self=$A:* said=out $X:80 $A:*" "bound to the pod's address"
dial a -b $A6 "[$X6]:80"
saw "peer=[$X6]:80 self=[$A6]:* said=out [$X6]:80 [$A6]:*" "bound to the pod's IPv6 address"
dial a -b $A:7777 $X:80
like "$OUT" "self=$A:\* said=out $X:80 $A:" "bound to an address and port"
dial a -f $X:80
saw "peer=$X:80 self=$A:* said=out $X:80 127.0.0.1:*" "TCP Fast Open"
cap_pod fast 4
mesh_in fast sysctl -qw net.ipv4.tcp_fastopen=0x607 # both sides, every listener, no cookie: the child is made by the SYN
cap_serve fast
cap_enrol fast
cap_app fast 0.0.0.0:8080
dial fast -f $X:80
saw "peer=$X:80 self=10.92.0.4:* said=out $X:80 127.0.0.1:*" "TCP Fast Open with data in the SYN"
dial fast -f 10.92.0.4:8080
saw "peer=10.92.0.4:8080 self=10.92.0.4:* said=app 10.92.0.4:8080 10.92.0.4:*" "TCP Fast Open to the own pod address"
is "$(tcp_stat fast TCPFastOpenPassive)" 2 "both were accepted that way"
dial a -m 0x539 $X:80
saw "peer=$X:80 self=$A:* said=out $X:80 127.0.0.1:*" "an app that sets the proxy's mark is captured all the same"
if mesh_in a cat /proc/sys/net/mptcp/enabled >/dev/null 2>&1; then
	dial a -t $X:80
	like "$OUT" "said=out $X:80 127.0.0.1:" "MPTCP: the proxy gets the destination"
else
	skip "MPTCP: the proxy gets the destination" "the kernel has no MPTCP"
fi

dial a -u $X:80 198.51.100.9:81
saw "peer=198.51.100.9:81 self=$A:* said=out 198.51.100.9:81 127.0.0.1:*" "AF_UNSPEC, then another destination"
dial a -u $X:80 127.0.0.1:8080
saw "peer=127.0.0.1:8080 self=127.0.0.1:* said=app mapped:127.0.0.1:8080 mapped:127.0.0.1:*" "AF_UNSPEC, then loopback: nothing stale shows"
dial a -u 127.0.0.1:8080 $X:80
saw "peer=$X:80 self=$A:* said=out $X:80 127.0.0.1:*" "loopback, AF_UNSPEC, then captured"
dial a -6 -u $X:80 "[$X6]:80"
saw "peer=[$X6]:80 self=[$A6]:* said=out [$X6]:80 127.0.0.1:*" "v4-mapped, AF_UNSPEC, then IPv6 on one socket"

dial a 127.0.0.1:8080
saw "peer=127.0.0.1:8080 self=127.0.0.1:* said=app mapped:127.0.0.1:8080 mapped:127.0.0.1:*" "loopback is not captured"
dial a 127.9.9.9:8080
like "$OUT" 'said=app mapped:127.9.9.9:8080' "nor is another loopback address"
dial a '[::1]:8080'
like "$OUT" 'said=app \[::1\]:8080' "nor ::1"
dial a 0.0.0.0:8080
like "$OUT" 'said=app ' "0.0.0.0 is this host"
dial a '[::]:8080'
like "$OUT" 'said=app ' ":: is this host"
dial a $A:8080
saw "peer=$A:8080 self=$A:* said=app mapped:$A:8080 mapped:$A:*" "an app to its own pod address"
dial a "[$A6]:8080"
saw "peer=[$A6]:8080 self=[$A6]:* said=app [$A6]:8080 [$A6]:*" "an app to its own pod IPv6 address"
dial a -6 $A:8080
like "$OUT" "self=mapped:$A:\* said=app mapped:$A:8080" "an app to its own pod address, v4-mapped"
dial a -d eth0 $A:8080
like "$OUT" "said=app mapped:$A:8080" "an app to its own pod address, bound to a device"
dial a 127.0.0.1:15001
like "$OUT" 'said=out unknown' "dialling the proxy's port gives the proxy no destination"
dial a $A:15001
like "$OUT" 'said=out unknown' "nor does the pod's own address with that port"
dial a $A:9
is "$OUT" 'error connect: ECONNREFUSED' "an own port where nobody listens is refused by the kernel"

dial plain 10.92.0.1:8080
saw "peer=10.92.0.1:8080 self=10.92.0.3:* said=app 10.92.0.1:8080 10.92.0.3:*" "a namespace that is not enrolled is left alone"
dial out 10.92.0.1:8080
like "$OUT" 'said=app 10.92.0.1:8080' "so is the outside"
like "$(counter captured)" '^2[0-9]$' "captures are counted"
is "$(counter orphans)" 2 "connections without a destination are counted"
is "$(counter tuple_lost)$(counter selfc_lost)$(counter denied_storage)$(counter load_missing)" 0000 "nothing was lost"

ip -n "${MESH_PREFIX}a" -6 addr flush dev eth0 scope global
"$CTL" pod "$PIN" "$CG" Kubernetes//Pod/t/a "/run/netns/${MESH_PREFIX}a" $A >/dev/null
dial a "[$X6]:80"
is "$OUT" 'error connect: EPERM' "a pod without an IPv6 address cannot leave by IPv6"
is "$(counter denied_family)" 1 "which is counted"
dial a $X:80
like "$OUT" "said=out $X:80" "IPv4 goes on"
cap_done
