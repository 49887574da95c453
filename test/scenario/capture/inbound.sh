#!/usr/bin/env bash
# Inbound: which of the proxy's listeners gets what arrives, what is refused, and what stays inside the pod.
. test/lib/capture.sh
cap_up
cap_mesh_pod a 2
cap_mesh_pod b 3
cap_app a '[::]:8080'
A=10.92.0.2 A6=fd92::2

dial out $A:8080
is "$OUT" "peer=$A:8080 self=10.92.0.1:* said=plain $A:8080 10.92.0.1:*" "a port of the app: the plaintext listener, with the true addresses"
dial out "[$A6]:8080"
is "$OUT" "peer=[$A6]:8080 self=[fd92::1]:* said=plain [$A6]:8080 [fd92::1]:*" "the same over IPv6"
dial out $A:9
like "$OUT" "said=plain $A:9 " "a port where nobody listens: the proxy decides"
dial out $A:15008
like "$OUT" "said=hbone $A:15008 " "15008: the HBONE listener"
dial out "[$A6]:15008"
like "$OUT" "said=hbone \[$A6\]:15008 " "15008 over IPv6"
for p in 15001 15006; do
	dial out $A:$p
	is "$OUT" "error connect: ECONNREFUSED" "$p from outside is refused"
	dial out "[$A6]:$p"
	is "$OUT" "error connect: ECONNREFUSED" "$p from outside is refused, IPv6"
done
is "$(counter inbound_closed)" 4 "and counted"
dial b $A:8080
is "$OUT" "peer=$A:8080 self=10.92.0.3:* said=out $A:8080 127.0.0.1:*" "another enrolled pod: its own proxy comes first"

# the proxy's own connection to the app, with a client's address as its source
CAP_GROUPS+=("$CG/${MESH_PREFIX}px")
mkdir "$CG/${MESH_PREFIX}px"
"$CTL" exempt "$PIN" "$CG" "$CG/${MESH_PREFIX}px" on >/dev/null
as_proxy() { (echo "$BASHPID" >"$CG/${MESH_PREFIX}px/cgroup.procs" && dial "$@" && printf '%s\n' "$OUT"); }
is "$(as_proxy a $A:8080)" "peer=$A:8080 self=$A:* said=app mapped:$A:8080 mapped:$A:*" "the proxy to the app"
is "$(as_proxy a -x -m 0x111 -b 203.0.113.5 $A:8080)" "peer=$A:8080 self=203.0.113.5:* said=app mapped:$A:8080 mapped:203.0.113.5:*" \
	"the proxy to the app with the client's address"
is "$(as_proxy a -x -m 0x111 -b 2001:db8::5 "[$A6]:8080")" "peer=[$A6]:8080 self=[2001:db8::5]:* said=app [$A6]:8080 [2001:db8::5]:*" \
	"the same over IPv6"
is "$(as_proxy a 10.92.0.1:9)" "error connect: ECONNREFUSED" "the proxy's connects go out as they are"

# fail closed
ip -n "${MESH_PREFIX}a" addr add 10.92.0.77/24 dev eth0
mesh_in out ping -qc1 -W2 10.92.0.77 >/dev/null 2>&1
dial out 10.92.0.77:8080
is "$OUT" "error connect: ECONNREFUSED" "an address in the namespace that is not the pod's is refused"
mesh_stop serve-a KILL
for p in 8080 15008; do
	dial out $A:$p
	is "$OUT" "error connect: ECONNREFUSED" "no listener: port $p is refused, not given to the app"
	dial out "[$A6]:$p"
	is "$OUT" "error connect: ECONNREFUSED" "no listener: port $p is refused, IPv6"
done
dial a 198.51.100.7:80
is "$OUT" "error connect: ECONNREFUSED" "no listener: the app's connects fail, none goes out"
dial a $A:8080
like "$OUT" 'said=app' "inside the pod nothing changes"
is "$(counter inbound_lost)" 5 "refused for want of a listener: counted"
cap_serve a
dial out $A:8080
like "$OUT" 'said=plain' "a new listener takes over"
cap_done
