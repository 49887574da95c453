#!/usr/bin/env bash
# ALLOW and DENY, STRICT and PERMISSIVE, on real connections; a live connection is cut when the policy turns against it.
. test/lib/shop.sh
live_client='' live_old=''
shop_up
web=${MESH_POD_IP[web]}
policy() { # NAME ACTION SELECTOR-APP RULES
	mesh_config "$1.yaml" <<-EOF
		apiVersion: security.istio.io/v1
		kind: AuthorizationPolicy
		metadata: {name: $1, namespace: shop}
		spec:
		  selector: {matchLabels: {app: $3}}
		  action: $2
		  rules: [$4]
	EOF
}
cannot() { ! can "$@"; }
turns() { # TEXT can|cannot FROM TO
	local text=$1
	shift
	mesh_wait 10 "$text" "$@"
	ok $? "$text"
}
can client "$web:9000"
ok $? "without policy all is allowed"
policy p1 DENY web '{from: [{source: {principals: [cluster.local/ns/shop/sa/guest]}}]}'
turns "DENY by principal: guest is refused" cannot guest "$web:9000"
can client "$web:9000"
ok $? "... client is not"
policy p1 DENY web '{to: [{operation: {ports: ["9001"]}}]}'
turns "DENY by port: 9001 is refused" cannot client "$web:9001"
can client "$web:9000"
ok $? "... 9000 is not"
policy p1 ALLOW web '{from: [{source: {namespaces: [shop], notPrincipals: ["*/sa/guest"]}}]}'
turns "ALLOW by namespace without guest: guest is refused" cannot guest "$web:9000"
turns "... client is allowed" can client "$web:9000"
cannot old "$web:9000"
ok $? "... a client without identity is not"
policy p1 ALLOW web '{from: [{source: {ipBlocks: ["10.91.1.10/32"]}}], to: [{operation: {ports: ["9000"]}}]}'
turns "ALLOW by address and port: client on 9001 is refused" cannot client "$web:9001"
turns "... on 9000 allowed: the server side sees the client's own address" can client "$web:9000"
cannot guest "$web:9000"
ok $? "... guest is not"
rm -f "$MESH_W/config/p1.yaml"
turns "policy removed: guest is allowed" can guest "$web:9000"
mtls STRICT
turns "STRICT: plaintext is refused" cannot old "$web:9000"
can client "$web:9000"
ok $? "... mTLS is not"
mtls PERMISSIVE
turns "PERMISSIVE again" can old "$web:9000"

# live connections: a talk that lasts, cut within seconds of the policy
for who in client old; do
	mesh_in "$who" bash -c "exec 3<>/dev/tcp/$web/9000; timeout 20 cat <&3 >/dev/null; echo cut" >"$MESH_W/live-$who" 2>&1 &
	eval "live_$who=\$!"
done
mesh_wait 5 "two live connections" bash -c "[ \$(nsenter --net=/run/netns/${MESH_PREFIX}web ss -Htn state established '( sport = :9000 )' | wc -l) -ge 2 ]"
ok $? "two connections are up"
t0=$SECONDS
policy p2 DENY web '{from: [{source: {namespaces: [shop]}}]}'
wait "$live_client"
[ $((SECONDS - t0)) -lt 12 ]
ok $? "a live mTLS connection is cut by a new DENY"
kill -0 "$live_old" 2>/dev/null
ok $? "... the one that the policy does not match lives on"
mtls STRICT
t0=$SECONDS
wait "$live_old"
[ $((SECONDS - t0)) -lt 12 ]
ok $? "a live plaintext connection is cut by STRICT"
mesh_wait 5 "the line" grep -q 'reason="policy_changed"' "$MESH_W/log/accessB.log"
ok $? "the access log says policy_changed"
mesh_wait 5 "the line" grep -q 'reason="policy_strict"' "$MESH_W/log/accessB.log"
ok $? "... and policy_strict for the refused ones"
like "$(mesh_ctl B explain shop/client shop/web:80)" 'p2.*p2.yaml:[0-9]+|p2.yaml:[0-9]+' "explain names policy, file and line"
tap_done
