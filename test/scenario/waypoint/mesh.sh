#!/usr/bin/env bash
# Pods behind a waypoint: client → waypoint → server over HBONE both ways, routed and authorized by what the folder says.
. test/lib/mesh.sh
mesh_need python3 tcpdump
WEB=10.96.0.10 OTHER=10.96.0.11
mesh_up
mesh_config ns-shop.yaml <<-EOF
	apiVersion: v1
	kind: Namespace
	metadata: {name: shop, labels: {weft.io/mesh: enabled}}
EOF
mesh_pod A shop/client client 10
mesh_pod A shop/guest guest 11
mesh_pod B shop/web web 20
mesh_pod B shop/web2 web2 21
# the waypoint: a namespace of its own on B, no Pod of ours, known by its Gateway
mesh_pod C shop/wp wp 30
rm "$MESH_W/config/pod-shop-wp.yaml"
for p in web web2; do
	mesh_spawn "http-$p" "$p" "$MESH_W/log/http-$p.log" python3 test/lib/http_echo.py 8080 "$p"
	mesh_wait 5 "server $p" bash -c "grep -q listening $MESH_W/log/http-$p.log"
done
service() { # NAME VIP APP LABELS
	mesh_config "svc-$1.yaml" <<-EOF
		apiVersion: v1
		kind: Service
		metadata: {name: $1, namespace: shop, labels: {$4}}
		spec:
		  clusterIP: "$2"
		  selector: {app: $3}
		  ports: [{name: http, port: 80, targetPort: 8080}]
	EOF
}
service web $WEB web "istio.io/use-waypoint: wp"
service web2 $OTHER web2 ""
mesh_config gateway.yaml <<-EOF
	apiVersion: gateway.networking.k8s.io/v1
	kind: Gateway
	metadata: {name: wp, namespace: shop}
	spec:
	  gatewayClassName: weft-waypoint
	  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
	  addresses: [{value: ${MESH_POD_IP[wp]}}]
EOF
cat >"$MESH_W/waypoint.yaml" <<-EOF
	node: {id: "waypoint~${MESH_POD_IP[wp]}~wp.shop~shop.svc.cluster.local", cluster: wp}
	dynamic_resources:
	  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: agent}}]}
	  lds_config: {ads: {}, resource_api_version: V3}
	  cds_config: {ads: {}, resource_api_version: V3}
	static_resources:
	  clusters:
	  - name: agent
	    type: STATIC
	    typed_extension_protocol_options:
	      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
	        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
	        explicit_http_config: {http2_protocol_options: {}}
	    load_assignment:
	      cluster_name: agent
	      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "$MESH_W/A/waypoint.sock"}}}}]}]
EOF
mesh_start
mesh_spawn waypoint wp "$MESH_W/log/waypoint.log" "$MESH_BIN/weft-waypoint" -c "$MESH_W/waypoint.yaml" --concurrency 2 \
	--admin-socket "$MESH_W/wp-admin.sock" --log-level "${MESH_LOG:-info}"
wp() { curl -s --max-time 3 --unix-socket "$MESH_W/wp-admin.sock" "http://waypoint$1"; }
get() { # FROM URL [curl options]: body and status
	local from=$1 url=$2
	shift 2
	mesh_in "$from" curl -s --max-time 5 -w ' %{http_code}' "$@" "$url" || printf ' curl %d' $?
}
is_now() { # SECONDS WANT FROM URL...: until it is
	local end=$((SECONDS + $1)) want=$2
	shift 2
	# shellcheck disable=SC2053 # a pattern
	until GOT=$(get "$@") && [[ $GOT == $want ]]; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}
mesh_wait 15 "the waypoint" grep -q 'listener added name="main_internal"' "$MESH_W/log/waypoint.log"
ok $? "the waypoint has its listeners from the agent"
mesh_spawn dumpA nA "$MESH_W/log/dumpA.log" tcpdump -U --immediate-mode -n -i wire -w "$MESH_W/wireA.pcap" tcp
mesh_spawn dumpB nB "$MESH_W/log/dumpB.log" tcpdump -U --immediate-mode -n -i vweb -w "$MESH_W/webB.pcap" tcp
mesh_wait 5 tcpdump grep -q 'listening on' "$MESH_W/log/dumpB.log"
is_now 10 'web / from* 200' client "http://$WEB/"
ok $? "client → waypoint → server"
like "$GOT" "from ${MESH_POD_IP[wp]}" "... and the server sees the waypoint's address"
mesh_stop dumpA
mesh_stop dumpB
is "$(tcpdump -n -r "$MESH_W/wireA.pcap" 'tcp and not port 15008' 2>/dev/null | wc -l)" 0 "on the wire there is HBONE only"
is "$(tcpdump -n -r "$MESH_W/webB.pcap" 'tcp and not port 15008' 2>/dev/null | wc -l)" 0 "... also between waypoint and server"
[ "$(tcpdump -n -r "$MESH_W/webB.pcap" "tcp port 15008 and host ${MESH_POD_IP[wp]}" 2>/dev/null | wc -l)" -gt 5 ]
ok $? "... which comes from the waypoint"

mesh_config route.yaml <<-EOF
	apiVersion: gateway.networking.k8s.io/v1
	kind: HTTPRoute
	metadata: {name: web, namespace: shop}
	spec:
	  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
	  rules:
	  - matches: [{headers: [{name: x-user, value: tester}]}]
	    backendRefs: [{name: web2, port: 80}]
	  - matches: [{path: {value: /split}}]
	    backendRefs: [{name: web, port: 80, weight: 80}, {name: web2, port: 80, weight: 20}]
	  - matches: [{path: {value: /old}}]
	    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]
	  - matches: [{path: {value: /}}]
	    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-way, value: "yes"}]}}]
	    backendRefs: [{name: web, port: 80}]
EOF
is_now 10 'web2 *200' client "http://$WEB/" -H 'x-user: tester'
ok $? "HTTPRoute: a header leads to another service"
like "$(get client "http://$WEB/")" '^web / .*x-way=yes.* 200$' "... others stay, with a header set"
like "$(get client "http://$WEB/old/a" -o /dev/null -w '%{http_code} %{redirect_url}')" '301 http://[0-9.]*/new/a' "... a redirect of the prefix"
N=0
for _ in $(seq 100); do [[ $(get client "http://$WEB/split") == web2* ]] && N=$((N + 1)); done
[ "$N" -ge 5 ] && [ "$N" -le 40 ]
ok $? "... weights 80 and 20: $N of 100 went to the second"

mesh_config policy.yaml <<-EOF
	apiVersion: security.istio.io/v1
	kind: AuthorizationPolicy
	metadata: {name: admin, namespace: shop}
	spec:
	  targetRefs: [{kind: Service, name: web}]
	  action: DENY
	  rules:
	  - from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/client]}}]
	    to: [{operation: {paths: ["/admin*"]}}]
EOF
is_now 10 '*403' guest "http://$WEB/admin"
ok $? "AuthorizationPolicy: a path is denied to one identity with 403"
like "$(get client "http://$WEB/admin")" '^web .* 200$' "... and allowed to the other"
like "$(get guest "http://$WEB/other")" '^web .* 200$' "... and another path to both"
is_now 10 '*curl*' guest "http://${MESH_POD_IP[web]}:8080/admin"
ok $? "requireWaypoint: the pod itself takes only the waypoint"
like "$(get client "http://${MESH_POD_IP[web2]}:8080/")" '^web2 .* 200$' "... a pod without policy takes everybody"
OUT=$(mesh_ctl B explain shop/guest "$WEB:80" --path /admin/x 2>&1)
like "$OUT" 'waypoint +Gateway shop/wp .*' "weftctl explain goes through the waypoint"
like "$OUT" 'denied by ns\[shop\]-policy\[admin\]-rule\[0\]' "... names the policy that denies"
like "$(mesh_ctl B explain shop/client "$WEB:80" --path / --header 'x-user: tester' 2>&1)" 'route +shop/web.0' "... and the rule of the route"
like "$(mesh_ctl B status gateways)" 'shop/wp +weft-waypoint .*True' "weftctl status gateways"
like "$(mesh_ctl B status routes)" 'HTTPRoute +shop/web +Service shop/web:80 +True +True' "weftctl status routes"

# the waypoint is told of another account while the pod's own node is not: what answers is not whom it expects
kill -STOP "${MESH_PID[agentB]}"
sed -i 's/serviceAccountName: web2/serviceAccountName: other/' "$MESH_W/config/pod-shop-web2.yaml"
is_now 10 '*503' client "http://$WEB/" -H 'x-user: tester'
ok $? "another identity at the destination is refused"
kill -CONT "${MESH_PID[agentB]}"
is_now 10 'web2 *200' client "http://$WEB/" -H 'x-user: tester'
ok $? "... until it is the one that is expected"
tap_done
