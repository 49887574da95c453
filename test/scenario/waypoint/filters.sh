#!/usr/bin/env bash
# limit: 240
# HTTP filters in weft-waypoint and in Envoy: one bootstrap, the same requests, the same answers and the same counters.
. test/lib/differ.sh
differ_up
T=type.googleapis.com/envoy.extensions.filters.http
head -c 60000 /dev/zero | tr '\0' x >"$MESH_W/big"
head -c 90 /dev/zero | tr '\0' a >"$MESH_W/small"
printf '\0\0\0\0\2ab\0\0\0\0\0' >"$MESH_W/req"
printf '\0\0\0\0\2ab\1\0\0\0\0\0\0\0\0\1x' >"$MESH_W/frames"
differ_nginx <<'EOF'
	server {
		listen 127.0.0.1:@UP@;
		location / { add_header x-old 1; add_header x-drop-a 1; add_header x-drop-b 2;
			return 200 "$request_method $request_uri cl=$http_content_length te=$http_transfer_encoding a=$http_x_a b=$http_x_b order=$http_x_order over=$http_x_over\n"; }
		location = /slow { alias @WORK@/big; etag off; }
		location = /slow/trailer { alias @WORK@/big; add_trailer x-t 1; etag off; }
		location /cors { add_header access-control-allow-origin upstream; return 200 "$request_method\n"; }
		location /svc.Name { default_type application/grpc; add_header grpc-status $arg_s; return 200 "12345"; }
		location = /a.svc/M { default_type application/grpc; add_trailer grpc-status $arg_s; alias @WORK@/frames; etag off; error_page 405 =200 $uri; }
		location /hc { return 203 "up"; }
	}
EOF
DIFFER_SKIP="$DIFFER_SKIP|last-modified"

# ---- header_mutation and cors
cat >"$MESH_W/f" <<EOF
- name: cors
  typed_config: {"@type": $T.cors.v3.Cors}
EOF
cat >>"$MESH_W/f" <<EOF
- name: hm
  typed_config:
    "@type": $T.header_mutation.v3.HeaderMutation
    mutations:
      request_mutations:
      - append: {header: {key: x-a, value: "%REQ(:path)%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
      - remove: x-gone
      - append: {header: {key: x-b, value: "%REQ(x-gone)%|"}, append_action: ADD_IF_ABSENT}
      - remove_on_match: {key_matcher: {prefix: x-rm-}}
      - append: {header: {key: x-order, value: chain}}
      query_parameter_mutations:
      - append: {record: {key: q, value: "v+%REQ(x-b)%"}}
      - append: {record: {key: z, value: "one"}, action: OVERWRITE_IF_EXISTS}
      - remove: gone
      response_mutations:
      - remove: x-old
      - remove_on_match: {key_matcher: {prefix: x-drop}}
      - append: {header: {key: x-new, value: "%RESPONSE_CODE%"}}
      - append: {header: {key: x-none, value: "%REQ(nothing)%"}}
      - append: {header: {key: x-empty, value: ""}, keep_empty_value: true}
EOF
cat >>"$MESH_W/f" <<EOF
- name: wins
  typed_config: {"@type": $T.header_mutation.v3.HeaderMutation, most_specific_header_mutations_wins: true}
EOF
cat >"$MESH_W/v" <<EOF
- name: all
  domains: ['*']
  typed_per_filter_config:
    hm: {"@type": $T.header_mutation.v3.HeaderMutationPerRoute, mutations: {request_mutations: [{append: {header: {key: x-order, value: vhost}}}], response_mutations: [{append: {header: {key: x-w, value: vhost}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}
    wins: {"@type": $T.header_mutation.v3.HeaderMutationPerRoute, mutations: {response_mutations: [{append: {header: {key: x-s, value: vhost}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}
    cors: {"@type": $T.cors.v3.CorsPolicy, expose_headers: "x-vh", max_age: "77", allow_origin_string_match: [{exact: "http://vh"}], allow_private_network_access: true}
  routes:
  - match: {prefix: /r}
    route: {cluster: up}
    typed_per_filter_config:
      hm: {"@type": $T.header_mutation.v3.HeaderMutationPerRoute, mutations: {request_mutations: [{append: {header: {key: x-order, value: route}}}], response_mutations: [{append: {header: {key: x-w, value: route}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}
      wins: {"@type": $T.header_mutation.v3.HeaderMutationPerRoute, mutations: {response_mutations: [{append: {header: {key: x-s, value: route}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}
  - match: {prefix: /cors/full}
    route: {cluster: up}
    typed_per_filter_config:
      cors: {"@type": $T.cors.v3.CorsPolicy, allow_origin_string_match: [{suffix: .a}, {safe_regex: {regex: "http://r[0-9]"}}], allow_methods: "GET,PUT", allow_headers: "x-h", expose_headers: "x-e", max_age: "10", allow_credentials: true}
  - match: {prefix: /cors/part}
    route: {cluster: up}
    typed_per_filter_config:
      cors: {"@type": $T.cors.v3.CorsPolicy, allow_methods: "GET"}
  - match: {prefix: /cors/nofwd}
    route: {cluster: up}
    typed_per_filter_config:
      cors: {"@type": $T.cors.v3.CorsPolicy, allow_origin_string_match: [{exact: "http://x.a"}], forward_not_matching_preflights: false}
  - match: {prefix: /cors/shadow}
    route: {cluster: up}
    typed_per_filter_config:
      cors: {"@type": $T.cors.v3.CorsPolicy, allow_origin_string_match: [{prefix: "http"}], filter_enabled: {default_value: {numerator: 0}}, shadow_enabled: {default_value: {numerator: 100}}}
  - match: {prefix: /cors/off}
    route: {cluster: up}
    typed_per_filter_config:
      cors: {"@type": $T.cors.v3.CorsPolicy, allow_origin_string_match: [{prefix: "http"}], filter_enabled: {default_value: {numerator: 0}}}
  - match: {prefix: /cors/any}
    route: {cluster: up}
    typed_per_filter_config:
      cors: {"@type": $T.cors.v3.CorsPolicy, allow_origin_string_match: [{exact: "*"}]}
  - match: {prefix: /cors/direct}
    direct_response: {status: 200}
    typed_per_filter_config:
      cors: {"@type": $T.cors.v3.CorsPolicy, allow_origin_string_match: [{exact: "*"}]}
  - match: {prefix: /}
    route: {cluster: up}
EOF
differ_config "$MESH_W/c" "$MESH_W/f" "$MESH_W/v"
differ_start "$MESH_W/c"
differ "header_mutation" @/x
differ "... query parameters" "@/x?z=0&gone=1&a=1&gone=2&y&&b=%7Ec&a=0&z=4"
differ "... their escapes" "@/x?%7a=0&=3&Q=1"
differ "... of headers that are there" -H 'x-gone: 1' -H 'x-b: there' -H 'x-rm-1: a' @/y
differ "... levels of routes" "@/r?x=1"
like "$HEAD" 'x-s: route' "... the most specific wins where it is told to"
like "$HEAD" 'x-w: vhost' "... and the least specific where not"
DIFFER_SKIP="$DIFFER_SKIP|x-new" # to Envoy a preflight's answer is no local reply: it has no code yet
preflight=(-X OPTIONS -H access-control-request-method:GET -H access-control-request-private-network:true)
for u in full part nofwd shadow off any direct vh; do
	for o in http://x.a http://r1 http://r11 http://vh; do
		differ "cors $u, $o" -H "origin: $o" "@/cors/$u"
		differ "cors $u, $o, preflight" -H "origin: $o" "${preflight[@]}" "@/cors/$u"
	done
	differ "cors $u, OPTIONS" -H "origin: http://x.a" -X OPTIONS "@/cors/$u"
	differ "cors $u, no origin" "${preflight[@]}" "@/cors/$u"
done
differ_stat "cors counters" '^http\.in\.cors'
is "$(stat_of weft http.in.cors.origin_valid)" "$(stat_of envoy http.in.cors.origin_valid)" "cors: origins"
differ_stop

# ---- fault and local_ratelimit
cat >"$MESH_W/f" <<EOF
- name: fault
  typed_config:
    "@type": $T.fault.v3.HTTPFault
    delay: {header_delay: {}, percentage: {numerator: 100}}
    abort: {header_abort: {}, percentage: {numerator: 100}}
    response_rate_limit: {header_limit: {}, percentage: {numerator: 100}}
    headers: [{name: x-go, present_match: true}]
- name: rl
  typed_config:
    "@type": $T.local_ratelimit.v3.LocalRateLimit
    stat_prefix: chain
    token_bucket: {max_tokens: 1000000, tokens_per_fill: 1000, fill_interval: 1s}
    filter_enabled: {default_value: {numerator: 100}}
- name: rl2
  typed_config: {"@type": $T.local_ratelimit.v3.LocalRateLimit, stat_prefix: two, filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}}
EOF
ON='filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}'
cat >"$MESH_W/v" <<EOF
- name: all
  domains: ['*']
  rate_limits: [{actions: [{generic_key: {descriptor_value: vh}}]}]
  routes:
  - match: {prefix: /abort}
    route: {cluster: up}
    typed_per_filter_config:
      fault: {"@type": $T.fault.v3.HTTPFault, abort: {http_status: 418, percentage: {numerator: 100}}, upstream_cluster: up, delay: {fixed_delay: 0.05s, percentage: {numerator: 1000000, denominator: MILLION}}, filter_metadata: {a: 1}}
  - match: {prefix: /grpc}
    route: {cluster: up}
    typed_per_filter_config:
      fault: {"@type": $T.fault.v3.HTTPFault, abort: {grpc_status: 7, percentage: {numerator: 100}}}
  - match: {prefix: /other}
    route: {cluster: up}
    typed_per_filter_config:
      fault: {"@type": $T.fault.v3.HTTPFault, abort: {http_status: 503, percentage: {numerator: 100}}, upstream_cluster: down}
  - match: {prefix: /node}
    route: {cluster: up}
    typed_per_filter_config:
      fault: {"@type": $T.fault.v3.HTTPFault, abort: {http_status: 503, percentage: {numerator: 100}}, downstream_nodes: [n1, n2]}
  - match: {prefix: /max}
    route: {cluster: up}
    typed_per_filter_config:
      fault: {"@type": $T.fault.v3.HTTPFault, abort: {http_status: 503, percentage: {numerator: 100}}, max_active_faults: 0}
  - match: {prefix: /never}
    route: {cluster: up}
    typed_per_filter_config:
      fault: {"@type": $T.fault.v3.HTTPFault, abort: {http_status: 503}}
  - match: {prefix: /none}
    route: {cluster: up}
    typed_per_filter_config:
      rl: {"@type": $T.local_ratelimit.v3.LocalRateLimit, stat_prefix: none, $ON, token_bucket: {max_tokens: 3, fill_interval: 1000s}, enable_x_ratelimit_headers: DRAFT_VERSION_03, response_headers_to_add: [{header: {key: x-limited, value: "%RESPONSE_CODE% %REQ(:path)%"}}]}
  - match: {prefix: /soft}
    route: {cluster: up}
    typed_per_filter_config:
      rl: {"@type": $T.local_ratelimit.v3.LocalRateLimit, stat_prefix: soft, filter_enabled: {default_value: {numerator: 100}}, token_bucket: {max_tokens: 1, fill_interval: 1000s}, request_headers_to_add_when_not_enforced: [{header: {key: x-over, value: "yes"}}]}
  - match: {prefix: /off}
    route: {cluster: up}
    typed_per_filter_config:
      rl: {"@type": $T.local_ratelimit.v3.LocalRateLimit, stat_prefix: offf, token_bucket: {max_tokens: 1, fill_interval: 1000s}}
  - match: {prefix: /grpc}
    route: {cluster: up}
    typed_per_filter_config:
      rl: {"@type": $T.local_ratelimit.v3.LocalRateLimit, stat_prefix: grpc, $ON, token_bucket: {max_tokens: 1, fill_interval: 1000s}, rate_limited_as_resource_exhausted: true, status: {code: 503}}
  - match: {prefix: /conn}
    route: {cluster: up}
    typed_per_filter_config:
      rl: {"@type": $T.local_ratelimit.v3.LocalRateLimit, stat_prefix: conn, $ON, token_bucket: {max_tokens: 2, fill_interval: 1000s}, local_rate_limit_per_downstream_connection: true, enable_x_ratelimit_headers: DRAFT_VERSION_03}
  - match: {prefix: /desc}
    route:
      cluster: up
      rate_limits:
      - actions: [{request_headers: {header_name: x-user, descriptor_key: user}}, {query_parameters: {query_parameter_name: q, descriptor_key: qq, skip_if_absent: true}}]
      - actions: [{remote_address: {}}, {generic_key: {descriptor_value: g}}, {destination_cluster: {}}, {source_cluster: {}}]
        stage: 1
      - actions: [{masked_remote_address: {v4_prefix_mask_len: 8}}]
      - actions: [{header_value_match: {descriptor_value: hv, headers: [{name: x-hv, present_match: true}]}}, {query_parameter_value_match: {descriptor_value: qv, expect_match: false, query_parameters: [{name: nope, present_match: true}]}}]
      - actions: [{metadata: {descriptor_key: meta, metadata_key: {key: ns, path: [{key: a}, {key: b}]}, source: ROUTE_ENTRY}}, {generic_key: {descriptor_value: "%REQ(x-hv)%"}}]
        hits_addend: {number: 2}
    metadata: {filter_metadata: {ns: {a: {b: deep}}}}
    typed_per_filter_config:
      rl:
        "@type": $T.local_ratelimit.v3.LocalRateLimit
        stat_prefix: desc
        filter_enabled: {default_value: {numerator: 100}}
        filter_enforced: {default_value: {numerator: 100}}
        token_bucket: {max_tokens: 1000, fill_interval: 1000s}
        enable_x_ratelimit_headers: DRAFT_VERSION_03
        descriptors:
        - {entries: [{key: user, value: joe}], token_bucket: {max_tokens: 2, tokens_per_fill: 1, fill_interval: 1000s}}
        - {entries: [{key: user, value: joe}, {key: qq, value: "a b"}], token_bucket: {max_tokens: 1, fill_interval: 1000s}}
        - {entries: [{key: masked_remote_address, value: 127.0.0.0/8}], token_bucket: {max_tokens: 12, tokens_per_fill: 100, fill_interval: 1000s}}
        - {entries: [{key: header_match, value: hv}, {key: query_match, value: qv}], token_bucket: {max_tokens: 2, fill_interval: 1000s}}
        - {entries: [{key: meta, value: deep}, {key: generic_key, value: "%REQ(x-hv)%"}], token_bucket: {max_tokens: 7, tokens_per_fill: 90, fill_interval: 1000s}}
        - {entries: [{key: meta, value: deep}, {key: generic_key, value: "hvv"}], token_bucket: {max_tokens: 8, tokens_per_fill: 90, fill_interval: 1000s}}
        - {entries: [{key: generic_key, value: vh}], token_bucket: {max_tokens: 5, fill_interval: 1000s}}
  - match: {prefix: /stage}
    route:
      cluster: up
      rate_limits:
      - actions: [{remote_address: {}}, {generic_key: {descriptor_value: g}}, {destination_cluster: {}}, {source_cluster: {}}]
        stage: 1
    typed_per_filter_config:
      rl:
        "@type": $T.local_ratelimit.v3.LocalRateLimit
        stat_prefix: stage
        filter_enabled: {default_value: {numerator: 100}}
        filter_enforced: {default_value: {numerator: 100}}
        stage: 1
        token_bucket: {max_tokens: 1000, fill_interval: 1000s}
        enable_x_ratelimit_headers: DRAFT_VERSION_03
        descriptors: [{entries: [{key: remote_address, value: 127.0.0.1}, {key: generic_key, value: g}, {key: destination_cluster, value: up}, {key: source_cluster, value: differ}], token_bucket: {max_tokens: 2, fill_interval: 1000s}}]
  - match: {prefix: /vh}
    route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: r}}]}]}
    typed_per_filter_config:
      rl:
        "@type": $T.local_ratelimit.v3.LocalRateLimit
        stat_prefix: vh
        filter_enabled: {default_value: {numerator: 100}}
        filter_enforced: {default_value: {numerator: 100}}
        token_bucket: {max_tokens: 1000, fill_interval: 1000s}
        enable_x_ratelimit_headers: DRAFT_VERSION_03
        always_consume_default_token_bucket: false
        vh_rate_limits: INCLUDE
        descriptors: [{entries: [{key: generic_key, value: vh}], token_bucket: {max_tokens: 5, fill_interval: 1000s}}, {entries: [{key: generic_key, value: r}], token_bucket: {max_tokens: 6, fill_interval: 1000s}}]
  - match: {prefix: /own}
    route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: r}}]}]}
    typed_per_filter_config:
      rl:
        "@type": $T.local_ratelimit.v3.LocalRateLimit
        stat_prefix: own
        filter_enabled: {default_value: {numerator: 100}}
        filter_enforced: {default_value: {numerator: 100}}
        token_bucket: {max_tokens: 1000, fill_interval: 1000s}
        enable_x_ratelimit_headers: DRAFT_VERSION_03
        rate_limits: [{actions: [{generic_key: {descriptor_value: mine}}]}]
        descriptors: [{entries: [{key: generic_key, value: mine}], token_bucket: {max_tokens: 3, fill_interval: 1000s}}, {entries: [{key: generic_key, value: r}], token_bucket: {max_tokens: 6, fill_interval: 1000s}}]
  - match: {prefix: /}
    route: {cluster: up}
EOF
differ_config "$MESH_W/c" "$MESH_W/f" "$MESH_W/v"
differ_start "$MESH_W/c"
differ "fault: not asked for" @/x
differ "fault: abort by header" -H 'x-go: 1' -H 'x-envoy-fault-abort-request: 503' @/x
differ "fault: a status that is none" -H 'x-go: 1' -H 'x-envoy-fault-abort-request: 199' @/x
differ "fault: 0 % by header" -H 'x-go: 1' -H 'x-envoy-fault-abort-request: 503' -H 'x-envoy-fault-abort-request-percentage: 0' @/x
differ "fault: gRPC status by header" -H 'x-go: 1' -H 'x-envoy-fault-abort-grpc-request: 9' -H 'content-type: application/grpc' @/x
differ "fault: delay by header" -H 'x-go: 1' -H 'x-envoy-fault-delay-request: 100' @/x
differ "fault: delay and abort of a route" -H 'x-envoy-downstream-service-cluster: cl1' @/abort
differ "fault: gRPC status" -H 'content-type: application/grpc' @/grpc/fault
differ "fault: gRPC status, not for gRPC" @/grpc/fault
differ "fault: another cluster" @/other
differ "fault: another node" @/node
differ "fault: the node" -H 'x-envoy-downstream-service-node: n2' @/node
differ "fault: max_active_faults" @/max
differ "fault: no percentage" @/never
differ "fault: slow" -H 'x-go: 1' -H 'x-envoy-fault-throughput-response: 200' @/slow
t0=$(date +%s%N)
ask weft -H 'x-go: 1' -H 'x-envoy-fault-throughput-response: 100' @/slow
ms=$((($(date +%s%N) - t0) / 1000000))
[ "$ms" -ge 450 ]
ok $? "fault: 60 kB at 100 KiB a second take $ms ms"
ask envoy -H 'x-go: 1' -H 'x-envoy-fault-throughput-response: 100' @/slow
differ "fault: slow, then trailers" -H 'x-go: 1' -H 'x-envoy-fault-throughput-response: 400' @/slow/trailer
differ_stat "fault counters" '^http\.in\.fault'
is "$(stat_of weft http.in.fault.active_faults)" 0 "fault: none is active"
for i in 1 2 3 4; do differ "local_ratelimit: request $i of 3" @/none; done
for i in 1 2; do differ "local_ratelimit: not enforced $i" @/soft; done
for i in 1 2; do differ "local_ratelimit: not enabled $i" @/off; done
for i in 1 2; do differ "local_ratelimit: gRPC $i" -H 'content-type: application/grpc' @/grpc; done
differ "local_ratelimit: a status of its own" @/grpc
for i in 1 2; do
	differ "local_ratelimit: of a connection $i" @/conn -: -o "$MESH_W/rest" @/conn -: -o "$MESH_W/rest" @/conn
done
for i in 1 2 3; do differ "descriptors: address $i" @/desc; done
for i in 1 2 3; do differ "descriptors: header $i" -H 'x-user: joe' @/desc; done
for i in 1 2; do differ "descriptors: header and query $i" -H 'x-user: joe' '@/desc?q=a%20b'; done
for i in 1 2 3; do differ "descriptors: value matches, metadata $i" -H 'x-hv: hvv' @/desc; done
for i in 1 2 3; do differ "descriptors: stage, clusters $i" @/stage; done
for i in 1 2; do differ "descriptors: virtual host $i" @/vh; done
for i in 1 2 3 4; do differ "descriptors: of the filter $i" @/own; done
differ_stat "local_ratelimit counters" http_local_rate_limit
differ_stop

# ---- health_check, buffer, grpc_stats
cat >"$MESH_W/f" <<EOF
- name: hc
  typed_config: {"@type": $T.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /health}}]}
- name: hcc
  typed_config: {"@type": $T.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /hcluster}}], cluster_min_healthy_percentages: {up: {value: 50}}}
- name: hcn
  typed_config: {"@type": $T.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /hcnone}}], cluster_min_healthy_percentages: {none: {value: 50}}}
- name: hce
  typed_config: {"@type": $T.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /hcempty}}], cluster_min_healthy_percentages: {empty: {value: 50}}}
- name: hcp
  typed_config: {"@type": $T.health_check.v3.HealthCheck, pass_through_mode: true, cache_time: 60s, headers: [{name: ":path", string_match: {exact: /hc}}]}
- name: buffer
  typed_config: {"@type": $T.buffer.v3.Buffer, max_request_bytes: 100}
- name: gs
  typed_config: {"@type": $T.grpc_stats.v3.FilterConfig, stats_for_all_methods: true, enable_upstream_stats: true, replace_dots_in_grpc_service_name: true}
EOF
cat >"$MESH_W/v" <<EOF
- name: all
  domains: ['*']
  routes:
  - match: {prefix: /big}
    route: {cluster: up}
    typed_per_filter_config:
      buffer: {"@type": $T.buffer.v3.BufferPerRoute, buffer: {max_request_bytes: 100000}}
  - match: {prefix: /nobuf}
    route: {cluster: up}
    typed_per_filter_config:
      buffer: {"@type": $T.buffer.v3.BufferPerRoute, disabled: true}
  - match: {prefix: /}
    route: {cluster: up}
EOF
differ_config "$MESH_W/c" "$MESH_W/f" "$MESH_W/v"
differ_start "$MESH_W/c"
for u in buf big nobuf; do
	differ "buffer: $u, small" --data-binary "@$MESH_W/small" "@/$u"
	differ "buffer: $u, small and chunked" -H 'transfer-encoding: chunked' --data-binary "@$MESH_W/small" "@/$u"
	differ "buffer: $u, large" --data-binary "@$MESH_W/big" "@/$u"
	differ "buffer: $u, large and chunked" -H 'transfer-encoding: chunked' -H "expect;" --data-binary "@$MESH_W/big" "@/$u"
done
for u in health hcluster hcnone hcempty hc hc; do
	differ "health_check: $u" "@/$u"
	differ "health_check: $u with a body" -d abc "@/$u"
done
grpc=(-H content-type:application/grpc -H te:trailers --data-binary "@$MESH_W/req")
differ "grpc_stats: status in the head" "${grpc[@]}" "@/svc.Name/Call?s=0"
differ "grpc_stats: ... a failure" "${grpc[@]}" "@/svc.Name/Call?s=5"
differ "grpc_stats: status in trailers" "${grpc[@]}" "@/a.svc/M?s=0"
differ "grpc_stats: ... a failure" "${grpc[@]}" "@/a.svc/M?s=16"
differ "grpc_stats: not a method" "${grpc[@]}" "@/only?s=16"
differ "grpc_stats: not gRPC" --data-binary "@$MESH_W/req" "@/a.svc/M?s=16"
differ_stat "grpc_stats counters" '\.grpc\.'
is "$(stat_of weft cluster.up.grpc.a_svc.M.response_message_count)" 6 "grpc_stats: messages"
for p in weft envoy; do curl -s -X POST -o /dev/null --unix-socket "$MESH_W/$p.admin" http://admin/healthcheck/fail; done
differ "health_check: told to fail" @/health
is "$CODE" 503 "... with 503"
differ "health_check: passed through, told to fail" @/hc
differ "health_check: other answers say so" @/x
like "$HEAD" x-envoy-immediate-health-check-fail "... with a header"
for p in weft envoy; do curl -s -X POST -o /dev/null --unix-socket "$MESH_W/$p.admin" http://admin/healthcheck/ok; done
differ "health_check: told to be well again" @/health
differ_stat "health_check counters" '^http\.in\.health_check'
tap_done
