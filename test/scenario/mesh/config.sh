#!/usr/bin/env bash
# Bad configuration while traffic flows: one clear message, the last good configuration stays.
. test/lib/shop.sh
shop_up
web=${MESH_POD_IP[web]}
mesh_config p.yaml <<-EOF
	apiVersion: security.istio.io/v1
	kind: AuthorizationPolicy
	metadata: {name: p, namespace: shop}
	spec:
	  selector: {matchLabels: {app: web}}
	  action: DENY
	  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/guest]}}]}]
EOF
mesh_wait 10 DENY bash -c "! nsenter --net=/run/netns/${MESH_PREFIX}guest $FLOOD client --to $web:9000 --conns 1 --modes plain --timeout 5"
ok $? "a good DENY works"
printf 'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  action: [half' >"$MESH_W/config/p.yaml"
mesh_wait 10 "the message" grep -q 'p.yaml:' "$MESH_W/log/agentB.log"
ok $? "the same file half-written: $(grep -m1 -o 'p.yaml:.*' "$MESH_W/log/agentB.log")"
! can guest "$web:9000"
ok $? "... its last good content still denies"
can client "$web:9000"
ok $? "... and traffic goes on"
like "$(mesh_ctl B status)" 'p\.yaml' "weftctl status shows it"
mv "$MESH_W/config" "$MESH_W/config.gone"
mesh_wait 15 "the message" grep -qE "config.*(gone|vanished|no longer|No such)" "$MESH_W/log/agentB.log"
ok $? "the folder vanishes: $(grep -E 'gone|vanished|no longer|No such' "$MESH_W/log/agentB.log" | tail -n 1)"
can client "$web:9000" && ! can guest "$web:9000"
ok $? "... everything stays as it was"
mv "$MESH_W/config.gone" "$MESH_W/config"
rm -f "$MESH_W/config/p.yaml"
mesh_wait 15 "guest" can guest "$web:9000"
ok $? "the folder is back, the policy file is gone: guest is allowed"
mesh_ctl A pod remove shop/guest
mesh_wait 10 "guest to be out" bash -c "! $MESH_BIN/weftctl --run-dir $MESH_W/A pod list | grep -q guest"
ok $? "weftctl pod remove takes a pod out"
can guest "$web:9000"
ok $? "... it reaches web in plaintext now"
mesh_ctl A pod add shop/guest --netns "/run/netns/${MESH_PREFIX}guest" --sa guest --label app=guest
mesh_wait 10 "guest to be in" bash -c "$MESH_BIN/weftctl --run-dir $MESH_W/A pod list | grep -q guest"
ok $? "weftctl pod add enrols it"
mesh_wait 10 "mTLS" bash -c "nsenter --net=/run/netns/${MESH_PREFIX}guest $FLOOD client --to $web:9000 --conns 1 --modes plain --timeout 5 && grep -q 'sa/guest.*inbound' $MESH_W/log/accessB.log"
ok $? "... and it speaks mTLS with its own identity"
tap_done
