#!/usr/bin/env bash
# A waypoint is chosen as the next hop; one that is not there fails closed, with its reason.
. test/lib/shop.sh
shop_up
mesh_config svc-shop-web.yaml <<-EOF
	apiVersion: v1
	kind: Service
	metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: wp}}
	spec:
	  clusterIP: "$VIP"
	  clusterIPs: ["$VIP"]
	  selector: {app: web}
	  ports: [{name: tcp, port: 80, targetPort: 9000, protocol: TCP}]
EOF
cannot() { ! can "$@"; }
mesh_wait 10 "the waypoint" cannot client "$VIP:80" "${MESH_POD_IP[web]}:9000"
ok $? "a service with a waypoint that does not exist is refused, not bypassed"
mesh_wait 5 "the line" grep -q 'reason="no_waypoint"' "$MESH_W/log/accessA.log"
ok $? "... with its reason"
can client "${MESH_POD_IP[web]}:9000"
ok $? "the pod by its own address is not behind it"
mesh_pod B shop/wp wp 30
mesh_config svc-shop-wp.yaml <<-EOF
	apiVersion: v1
	kind: Service
	metadata: {name: wp, namespace: shop}
	spec:
	  clusterIP: "10.96.0.30"
	  clusterIPs: ["10.96.0.30"]
	  selector: {app: wp}
	  ports: [{name: hbone, port: 15008, targetPort: 15008, protocol: TCP}]
EOF
mesh_spawn tcpdump nA "$MESH_W/log/tcpdump.log" tcpdump -l -n -i wire "tcp port 15008 and host ${MESH_POD_IP[wp]}"
mesh_wait 5 tcpdump grep -q 'listening on' "$MESH_W/log/tcpdump.log"
mesh_wait 10 "a try at the waypoint" bash -c "nsenter --net=/run/netns/${MESH_PREFIX}client $FLOOD client --to $VIP:80 --conns 1 --modes plain --timeout 3 >/dev/null; grep -q '${MESH_POD_IP[wp]}.15008' $MESH_W/log/tcpdump.log"
ok $? "with the waypoint's service there, HBONE goes to it"
cannot client "$VIP:80" "${MESH_POD_IP[web]}:9000"
ok $? "... and while it cannot serve, the connection fails closed"
tap_done
