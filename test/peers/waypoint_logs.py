#!/usr/bin/python3
"""Access logs: each command operator's value, the verdict on each, every filter, formats, the listener's log and virtual clusters: the same
bootstrap through weft-waypoint and a real Envoy. ENVOY: its binary."""
import json
import os
import re
import socket
import ssl
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import H2Client  # noqa: E402
from upstream_kit import Upstream, server_tls  # noqa: E402
from waypoint_kit import (  # noqa: E402
    BIN, H2_UP, T, WORK, Ca, Proxy, Tap, ask, bootstrap, chain, cluster, dial, free_ports, hcm, json_log, lines_of, listener, pem, say, to,
    upstream_tls, wait_for)

TLS = ["%s_TLS_VERSION", "%s_PEER_SUBJECT", "%s_PEER_ISSUER", "%s_PEER_URI_SAN", "%s_PEER_DNS_SAN", "%s_PEER_IP_SAN",
       "%s_PEER_CERT", "%s_PEER_CERT_V_START", "%s_PEER_CERT_V_END", "%s_LOCAL_URI_SAN", "%s_LOCAL_DNS_SAN", "%s_LOCAL_IP_SAN"]
DOWN_TLS = ["LOCAL_SUBJECT", "LOCAL_EMAIL_SAN", "LOCAL_OTHERNAME_SAN", "PEER_SERIAL", "PEER_FINGERPRINT_1", "PEER_FINGERPRINT_256",
            "PEER_CHAIN_FINGERPRINTS_1", "PEER_CHAIN_FINGERPRINTS_256", "PEER_CHAIN_SERIALS", "PEER_EMAIL_SAN", "PEER_OTHERNAME_SAN"]
HEADS = ["%s_HEADER_BYTES_%s" % (w, d) for w in ("DOWNSTREAM", "UPSTREAM", "DOWNSTREAM_DECOMPRESSED", "UPSTREAM_DECOMPRESSED")
         for d in ("SENT", "RECEIVED")]
HEADS = [re.sub(r"^(\w+STREAM)_DECOMPRESSED_HEADER", r"\1_DECOMPRESSED_HEADER", h) for h in HEADS]
WIRE = ["%s_WIRE_BYTES_%s" % (w, d) for w in ("DOWNSTREAM", "UPSTREAM") for d in ("SENT", "RECEIVED")]
# the same in both
SAME = [t % w for w in ("DOWNSTREAM", "UPSTREAM") for t in TLS] + ["DOWNSTREAM_" + t for t in DOWN_TLS] + [
    "TLS_JA3_FINGERPRINT", "TLS_JA4_FINGERPRINT", "PROTOCOL", "UPSTREAM_PROTOCOL", "RESPONSE_CODE", "RESPONSE_CODE_DETAILS",
    "RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)", "RESPONSE_FLAGS", "RESPONSE_FLAGS_LONG", "BYTES_RECEIVED", "BYTES_SENT",
    "REQUEST_HEADERS_BYTES", "RESPONSE_TRAILERS_BYTES", "UPSTREAM_REQUEST_ATTEMPT_COUNT", "UPSTREAM_CLUSTER", "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_HOST", "UPSTREAM_HOST_NAME", "UPSTREAM_HOST_NAME_WITHOUT_PORT", "UPSTREAM_REMOTE_ADDRESS", "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_TRANSPORT_FAILURE_REASON", "REQUESTED_SERVER_NAME", "ROUTE_NAME",
    "VIRTUAL_CLUSTER_NAME", "FILTER_CHAIN_NAME", "ACCESS_LOG_TYPE", "LOCAL_REPLY_BODY", "CONNECTION_TERMINATION_DETAILS", "HOSTNAME",
    "CUSTOM_FLAGS", "GRPC_STATUS", "GRPC_STATUS_NUMBER", "TRACE_ID", "PATH", "PATH(NQ:PATH)", "QUERY_PARAM(a):2", "REQ(:METHOD)",
    "REQ(X-NONE?:PATH):3", "RESP(content-type)", "TRAILER(x-none)", "STREAM_INFO_REQ(x-case)", "ENVIRONMENT(WEFT_LOG_TEST)",
    "ENVIRONMENT(WEFT_NOT_SET)", "FILTER_STATE(nobody)", "FILTER_STATE(nobody:PLAIN):5", "FILTER_STATE(nobody:FIELD:x)",
    "UPSTREAM_FILTER_STATE(nobody:TYPED)", "CLUSTER_METADATA(m:k)", "UPSTREAM_METADATA(m:k)", "METADATA(CLUSTER:m:k)",
    "METADATA(UPSTREAM_HOST:m:o:in)", "METADATA(ROUTE:m:k)", "METADATA(VIRTUAL_HOST:m)", "METADATA(LISTENER:m:k)", "METADATA(DYNAMIC:m:k)",
    "DYNAMIC_METADATA(m:k)", "ROUNDTRIP_DURATION", "BYTES_RETRANSMITTED", "PACKETS_RETRANSMITTED"] + HEADS
# a number, a time, an address or an id: there in both, or in neither
THERE = WIRE + ["DURATION", "REQUEST_DURATION", "REQUEST_TX_DURATION", "RESPONSE_DURATION", "RESPONSE_TX_DURATION", "RESPONSE_HEADERS_BYTES",
                "DOWNSTREAM_HANDSHAKE_DURATION", "UPSTREAM_CONNECTION_POOL_READY_DURATION", "COMMON_DURATION(DS_RX_BEG:US_TX_END:us)",
                "COMMON_DURATION(DS_TX_END:DS_RX_BEG:us)", "COMMON_DURATION(DS_RX_BEG:US_CX_BEG:us)",
                "COMMON_DURATION(US_CX_BEG:US_CX_END:us)", "COMMON_DURATION(US_CX_END:US_HS_END:us)", "COMMON_DURATION(DS_RX_BEG:DS_TX_END)",
                "CONNECTION_ID", "UPSTREAM_CONNECTION_ID", "UPSTREAM_LOCAL_ADDRESS", "UPSTREAM_LOCAL_PORT", "DOWNSTREAM_REMOTE_ADDRESS",
                "DOWNSTREAM_REMOTE_PORT", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", "DOWNSTREAM_DIRECT_REMOTE_PORT", "DOWNSTREAM_LOCAL_ADDRESS",
                "DOWNSTREAM_LOCAL_PORT", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS", "DOWNSTREAM_DIRECT_LOCAL_PORT", "DOWNSTREAM_TLS_SESSION_ID",
                "UPSTREAM_TLS_SESSION_ID", "DOWNSTREAM_TLS_CIPHER", "UPSTREAM_TLS_CIPHER", "UNIQUE_ID", "STREAM_ID", "START_TIME", "EMIT_TIME", "START_TIME_LOCAL(%Y-%m-%d %H)",
                "EMIT_TIME_LOCAL", "EMIT_TIME_LOCAL(%Y-%m-%d %z)"]
# docs/waypoint-differences.md: OpenSSL keeps no chain in a session that is resumed; weft tells the name and the handshake's time where Envoy
# does not; compressors of heads choose freely; which frame is in which read
RESUMED = {"DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1", "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", "DOWNSTREAM_PEER_CHAIN_SERIALS"}
MORE = {"DOWNSTREAM_HANDSHAKE_DURATION", "REQUESTED_SERVER_NAME"}
# what neither takes, what must be given, and forms of arguments
VERDICTS = ["FOO", "UPSTREAM_PEER_SERIAL", "UPSTREAM_LOCAL_SUBJECT", "UPSTREAM_LOCAL_EMAIL_SAN", "DOWNSTREAM_PEER_CHAIN_CERT", "SPAN_ID",
            "VIRTUAL_HOST_NAME", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT(a)", "REQ", "REQ()", "RESP", "TRAILER", "STREAM_INFO_REQ",
            "QUERY_PARAM", "ENVIRONMENT", "DYNAMIC_METADATA", "DYNAMIC_METADATA(a):2", "CLUSTER_METADATA", "CLUSTER_METADATA(a:b):2",
            "UPSTREAM_METADATA", "UPSTREAM_METADATA(a)", "METADATA", "METADATA(FOO:a)", "METADATA(DYNAMIC)", "METADATA(ROUTE:a:b):3", "FILTER_STATE",
            "FILTER_STATE()", "FILTER_STATE(a:FIELD)", "FILTER_STATE(a:XX)", "FILTER_STATE(a:PLAIN:b)", "UPSTREAM_FILTER_STATE",
            "UPSTREAM_HOST:3", "UPSTREAM_HOST(x)", "UPSTREAM_CLUSTER()", "START_TIME(%Y):3", "EMIT_TIME():2", "GRPC_STATUS(FOO)",
            "GRPC_STATUS(NUMBER):3", "GRPC_STATUS_NUMBER():3", "RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES):3", "QUERY_PARAM(a):3",
            "PATH(NQ:PATH):3", "PATH(XX)", "UNIQUE_ID(a)", "TRACE_ID:2", "COMMON_DURATION", "COMMON_DURATION(DS_RX_BEG:DS_RX_END:us):4",
            "UPSTREAM_PEER_CERT_V_END(%Y)", "UPSTREAM_PEER_CERT_V_END(%Y):2", "HOSTNAME()", "HOSTNAME:4", "RESP(a?b?c)", "REQ(a:b)",
            "REQ(a?b):3", "ENVIRONMENT(HOME):3", "TLS_JA3_FINGERPRINT:3", "DOWNSTREAM_TLS_SESSION_ID():3", "REQ_WITHOUT_QUERY(x)",
            "PROTOCOL:0", "START_TIME(%Y):0", "REQ(a):0", "REQ(a%b)", "COMMON_DURATION(DS_RX_BEG:DS_RX_END)", "COMMON_DURATION(DS_RX_BEG)",
            "XFCC_VALUE", "XFCC_VALUE(by)", "XFCC_VALUE(SUBJECT)", "XFCC_VALUE(san)"]
tap = Tap()
os.environ["WEFT_LOG_TEST"] = "from the environment"
up1, up2 = Upstream("h1"), Upstream("h2", h2_only=True)
ca = Ca("ca")
SERVER = ca.issue("server", "DNS:a.example,URI:spiffe://mesh/server,email:s@x.example,IP:127.0.0.1,"
                  "otherName:1.3.6.1.4.1.311.20.2.3;UTF8:upn@x")
KINDS = "otherName:1.2.3.4;UTF8:one,otherName:1.2.3.5;IA5STRING:two,otherName:1.2.3.6;INTEGER:77,otherName:1.2.3.7;BOOL:TRUE," \
        "otherName:1.2.3.8;OID:1.2.840,otherName:1.2.3.9;NULL"
CLIENTS = {"none": None, "plain": ca.issue("plain", "URI:spiffe://mesh/ns/a/sa/b"),
           "names": ca.issue("odd", "URI:spiffe://mesh/c,DNS:c.example,email:c@x.example,email:d@x.example,IP:10.0.0.1,IP:fd00::1," + KINDS)}
with open(CLIENTS["names"][0], "a", encoding="ascii") as more, open(ca.cert, encoding="ascii") as root:
    more.write(root.read())  # its client sends two
up3 = Upstream("tls", tls=server_tls(*SERVER, ca=ca.cert))
META = {"filter_metadata": {"m": {"k": "v", "o": {"in": [1, "two", True]}}}}
VCS = [{"name": "posts", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}, {"name": "x-none", "present_match": False,
                                                                                           "invert_match": False}]},
       {"name": "h2", "headers": [{"name": ":path", "string_match": {"prefix": "/h2"}}]}]
INSPECT = [{"name": "t", "typed_config": {"@type": T + ".extensions.filters.listener.tls_inspector.v3.TlsInspector",
                                          "enable_ja3_fingerprinting": True, "enable_ja4_fingerprinting": True}}]


NOBODY = free_ports(1)[0]


def context(cert, *alpn, most=None):
    c = ssl.create_default_context(cafile=ca.cert)
    c.check_hostname = False
    if cert:
        c.load_cert_chain(*cert)
    if alpn:
        c.set_alpn_protocols(list(alpn))
    if most:
        c.maximum_version = most
    return c


def own_tls(**more):
    return {"common_tls_context": {"tls_certificates": [pem(*SERVER)], "validation_context": {"trusted_ca": {"filename": ca.cert}}}, **more}


def no_tickets():
    return own_tls(disable_stateless_session_resumption=True)


class Side:
    def __init__(self, kind):
        self.kind = kind
        self.port = dict(zip(("plain", "tls", "stateful"), free_ports(3)))
        self.log, self.conns = (os.path.join(WORK, kind + e) for e in (".access", ".conns"))
        log = {"access_log": json_log(self.log, case="%REQ(x-case)%", **{o: "%" + o + "%" for o in SAME + THERE})}
        conns = {"access_log": json_log(self.conns, **{o: "%" + o + "%" for o in (
            "PROTOCOL", "BYTES_RECEIVED", "BYTES_SENT", "RESPONSE_CODE", "ACCESS_LOG_TYPE", "DOWNSTREAM_PEER_SUBJECT", "REQUESTED_SERVER_NAME",
            "DOWNSTREAM_WIRE_BYTES_RECEIVED", "DOWNSTREAM_WIRE_BYTES_SENT", "UPSTREAM_CLUSTER", "ROUTE_NAME", "RESPONSE_FLAGS")})}
        vh = [{"name": "all", "domains": ["*"], "metadata": META, "virtual_clusters": VCS, "routes": [
            say("/say", 418, "a teapot", name="teapot", metadata=META), to("none", "/down"), to("h2", "/h2"), to("tls", "/tls"),
            to("h1", route_={"name": "first", "metadata": META})]}]
        h = hcm(None, vhosts=vh, **log)
        # the time of the upstream has as many digits as it takes
        h["typed_config"]["http_filters"] = [{"name": "r", "typed_config": {
            "@type": T + ".extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}}]
        listeners = [listener("plain", self.port["plain"], chain(h), metadata=META, **conns),
                     listener("tls", self.port["tls"], chain(h, own_tls(), name="with tls"), listener_filters=INSPECT, **conns),
                     listener("stateful", self.port["stateful"], chain(h, no_tickets()))]
        clusters = [cluster("h1", up1.port, metadata=META), cluster("h2", up2.port, http=H2_UP), cluster("none", NOBODY),
                    cluster("tls", up3.port, transport_socket=upstream_tls(**own_tls(), sni="a.example"))]
        clusters[0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0].update(metadata=META)
        self.proxy = Proxy(bootstrap(listeners, clusters), kind)

    def values(self):
        for p in ("/", "/a?a=12345&b", "/h2", "/tls", "/say", "/down"):
            ask(self.port["plain"], p, headers=[("x-case", "plain " + p)])
            ask(self.port["plain"], p, headers=[("x-case", "plain post " + p)], method="POST", body=b"12345")
        for c, cert in CLIENTS.items():
            for p in ("/", "/tls", "/h2"):
                ask(self.port["tls"], p, headers=[("x-case", "tls %s %s" % (c, p))], tls=context(cert), sni="a.example")
        old = context(CLIENTS["plain"], most=ssl.TLSVersion.TLSv1_2)
        ask(self.port["tls"], headers=[("x-case", "tls 1.2")], tls=old, sni="a.example")
        ask(self.port["tls"], headers=[("x-case", "alpn h1")], tls=context(None, "http/1.1"), sni="b.example")
        ask(self.port["tls"], headers=[("x-case", "alpn odd")], tls=context(None, "\x01a\x02", "http/1.1"))
        for name, port in (("plain", "plain"), ("h2 over tls", "tls")):
            c = H2Client(self.port[port], **({"tls": context(None, "h2"), "sni": "a.example"} if port == "tls" else {}))
            for i, p in enumerate(("/", "/h2", "/h2", "/tls")):
                c.ask(p, headers=[("x-case", "h2 %s %d" % (name, i))])
            c.ask("/h2", method="POST", body=b"abc", headers=[("x-case", "h2 post " + name)])
            c.close()

    def resumed(self):
        """Whether sessions were resumed, each of them logged"""
        out = []
        for name, port, most in (("tickets", "tls", ssl.TLSVersion.TLSv1_2), ("ids", "stateful", ssl.TLSVersion.TLSv1_2),
                                 ("1.3", "tls", ssl.TLSVersion.TLSv1_3)):
            c, session = context(CLIENTS["plain"], most=most), None
            for i in range(2):
                s = c.wrap_socket(socket.create_connection(("127.0.0.1", self.port[port]), 30), server_hostname="a.example", session=session)
                ask(0, sock=s, headers=[("x-case", "resumed %s %d" % (name, i))])
                session = s.session
                out.append((name, i, s.session_reused))
                s.close()
        return out

    def lines(self):
        return {d.get("case"): d for d in map(json.loads, lines_of(self.log))}


def verdicts(ops):
    """Which of these operators each program takes"""
    port, out = free_ports(1)[0], []
    for kind in ("envoy", "weft"):
        took = {}
        for o in ops:
            path = os.path.join(WORK, "verdict.json")
            log = json_log("/dev/null", v="%" + o + "%")
            with open(path, "w", encoding="utf-8") as f:
                json.dump(bootstrap([listener("l", port, chain(hcm([to("c")], access_log=log)))], [cluster("c", port)]), f)
            program = [os.environ["ENVOY"]] if kind == "envoy" else [os.path.join(BIN, "weft-waypoint")]
            took[o] = subprocess.run(program + ["--mode", "validate", "-c", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                     check=False).returncode == 0
        out.append(took)
    return out


def alike(op, case, line, envoy, weft):
    if op in MORE and envoy is None or op in RESUMED and case.startswith("resumed") and case.endswith("1"):
        return True
    if op in HEADS and "DECOMPRESSED" not in op and "HTTP/2" == line["PROTOCOL" if op.startswith("DOWN") else "UPSTREAM_PROTOCOL"]:
        return abs(envoy - weft) < 24 and bool(envoy) == bool(weft)
    return (envoy is None) == (weft is None) if op in THERE else envoy == weft


def compare_values():
    sides, resumed = [Side("envoy"), Side("weft")], []
    for s in sides:
        s.values()
        resumed.append(s.resumed())
    stats = [{k: v for k, v in s.proxy.stats(r"vhost\.all\.vcluster").items() if not k.endswith("upstream_rq_time")} for s in sides]
    for s in sides:
        tap.ok(s.proxy.stop() == 0, s.kind + " ends when told")
    envoy, weft = (s.lines() for s in sides)
    tap.same(sorted(map(str, weft)), sorted(map(str, envoy)), "every request is logged")
    for o in SAME + THERE:
        differ = [(k, d[o], weft[k][o]) for k, d in envoy.items() if k in weft and not alike(o, k, d, d[o], weft[k][o])]
        tap.ok(not differ and envoy, "%" + o + "%: as Envoy", *differ[:4])
    for o in WIRE:
        differ = [(k, d[o], weft[k][o]) for k, d in envoy.items() if k in weft and abs(d[o] - weft[k][o]) > 40]
        tap.ok(not differ, "%" + o + "%: nearly as Envoy", *differ[:3])
    tap.ok(resumed[1] == resumed[0] and any(r for _, i, r in resumed[1] if i), "sessions are resumed", *resumed)
    tap.ok(all(re.fullmatch(r"\d{4}-\d\d-\d\d [+-]\d{4}", d["EMIT_TIME_LOCAL(%Y-%m-%d %z)"]) for d in weft.values()), "a local time")
    ids = [[d["UPSTREAM_TLS_SESSION_ID"] for d in x.values() if d["UPSTREAM_TLS_SESSION_ID"]] for x in (envoy, weft)]
    tap.ok(ids[1] and all(re.fullmatch("[0-9a-f]{64}", i) for i in ids[0] + ids[1]), "ids of upstream sessions", ids)
    tap.ok(stats[1] == stats[0] and any(stats[1].values()), "numbers of virtual clusters", *stats)
    connections(sides)


def connections(sides):
    """The listener's log, of connections that carried HTTP"""
    rows = []
    for s in sides:
        got = [json.loads(x) for x in lines_of(s.conns)]
        for d in got:
            if d["PROTOCOL"] != "HTTP/1.1" or d["DOWNSTREAM_PEER_SUBJECT"]:
                d.update({k: bool(d[k]) for k in ("BYTES_RECEIVED", "BYTES_SENT")})
        rows.append(sorted(json.dumps(d, sort_keys=True) for d in got))
    tap.ok(rows[0] == rows[1] and rows[0], "the listener's log tells the same of %d connections" % len(rows[0]),
           [x for x in rows[0] if x not in rows[1]][:3], [x for x in rows[1] if x not in rows[0]][:3])


def compare_verdicts():
    ops = SAME + THERE + VERDICTS
    envoy, weft = verdicts(ops)
    for o in ops:
        tap.ok(envoy[o] == weft[o], "%%%s%%: %s by both" % (o, "taken" if envoy[o] else "refused"), "envoy %s weft %s" % (envoy[o], weft[o]))

FILTERS = {  # name: (filter, response header or request headers that make it differ)
    "status ge": {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "k"}}}},
    "status eq": {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": 200, "runtime_key": "k"}}}},
    "status le": {"status_code_filter": {"comparison": {"op": "LE", "value": {"default_value": 404, "runtime_key": "k"}}}},
    "duration ge": {"duration_filter": {"comparison": {"op": "GE", "value": {"default_value": 250, "runtime_key": "k"}}}},
    "duration le": {"duration_filter": {"comparison": {"op": "LE", "value": {"default_value": 249, "runtime_key": "k"}}}},
    "not health": {"not_health_check_filter": {}},
    "runtime all": {"runtime_filter": {"runtime_key": "none", "percent_sampled": {"numerator": 100}}},
    "runtime no": {"runtime_filter": {"runtime_key": "none", "percent_sampled": {"numerator": 0}}},
    "runtime half": {"runtime_filter": {"runtime_key": "none", "percent_sampled": {"numerator": 50}}},
    "runtime some": {"runtime_filter": {"runtime_key": "none", "percent_sampled": {"numerator": 2500, "denominator": "TEN_THOUSAND"}}},
    "runtime alone": {"runtime_filter": {"runtime_key": "none", "use_independent_randomness": True,
                                         "percent_sampled": {"numerator": 1000000, "denominator": "MILLION"}}},
    "and": {"and_filter": {"filters": [{"header_filter": {"header": {"name": "x-a", "present_match": True}}},
                                       {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 400,
                                                                                                   "runtime_key": "k"}}}}]}},
    "or": {"or_filter": {"filters": [{"header_filter": {"header": {"name": "x-a", "present_match": True}}},
                                     {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 400,
                                                                                                 "runtime_key": "k"}}}}]}},
    "header": {"header_filter": {"header": {"name": "x-a", "string_match": {"exact": "1"}}}},
    "header not": {"header_filter": {"header": {"name": "x-a", "string_match": {"exact": "1"}, "invert_match": True}}},
    "flag any": {"response_flag_filter": {}},
    "flag UF": {"response_flag_filter": {"flags": ["UF", "NR"]}},
    "flag UT": {"response_flag_filter": {"flags": ["UT"]}},
    "grpc": {"grpc_status_filter": {"statuses": ["NOT_FOUND", "UNAVAILABLE"]}},
    "grpc not": {"grpc_status_filter": {"statuses": ["NOT_FOUND", "UNAVAILABLE"], "exclude": True}},
    "meta": {"metadata_filter": {"matcher": {"filter": "envoy.filters.http.rbac", "path": [{"key": "shadow_engine_result"}],
                                              "value": {"string_match": {"exact": "allowed"}}}}},
    "meta unknown": {"metadata_filter": {"matcher": {"filter": "m", "path": [{"key": "a"}], "value": {"string_match": {"exact": "1"}}}}},
    "meta known": {"metadata_filter": {"matcher": {"filter": "m", "path": [{"key": "a"}], "value": {"string_match": {"exact": "1"}}},
                                       "match_if_key_not_found": False}},
    "type end": {"log_type_filter": {"types": ["DownstreamEnd"]}},
    "type start": {"log_type_filter": {"types": ["DownstreamStart"]}},
    "type not end": {"log_type_filter": {"types": ["DownstreamEnd"], "exclude": True}},
}
NEVER = ("runtime no", "flag UT", "meta known")  # let no line through here
FORMATS = {
    "typed_json_format": {"typed_json_format": {"n": "%RESPONSE_CODE%", "s": "%RESPONSE_CODE% x", "no": "%REQ(x-no)%",
                                                "in": {"b": "%PROTOCOL%", "a": ["%BYTES_SENT%", "lit", 1, True]}}},
    "text_format": {"log_format": {"text_format": "text %RESPONSE_CODE% %REQ(x-no)%\n"}},
    "text omit": {"log_format": {"text_format_source": {"inline_string": "a%REQ(x-no)%b %RESPONSE_CODE%\n"}, "omit_empty_values": True}},
    "json omit": {"log_format": {"json_format": {"a": "%REQ(x-no)%", "b": "%RESPONSE_CODE%", "c": "x%REQ(x-no)%"}, "omit_empty_values": True}},
    "json sorted": {"log_format": {"json_format": {"z": "%RESPONSE_CODE%", "a": "1", "m": {"y": "2", "b": "3"}},
                                   "json_format_options": {"sort_properties": True}}},
    "format": {"format": "plain %RESPONSE_CODE% %PROTOCOL%\n"},
    "json_format": {"json_format": {"code": "%RESPONSE_CODE%"}},
    "none": {},
}


def file_log(path, **more):
    return {"typed_config": {"@type": T + ".extensions.access_loggers.file.v3.FileAccessLog", "path": path, **more}}


def shadow():
    """Writes metadata: whether x-set is 1"""
    return {"name": "rbac", "typed_config": {"@type": T + ".extensions.filters.http.rbac.v3.RBAC", "shadow_rules": {"policies": {"p": {
        "permissions": [{"any": True}], "principals": [{"header": {"name": "x-set", "string_match": {"exact": "1"}}}]}}}}}


class FilterSide:
    def __init__(self, kind):
        self.kind, self.dir = kind, os.path.join(WORK, kind + ".filters")
        os.mkdir(self.dir)
        self.port = free_ports(1)[0]
        self.paths = {n: os.path.join(self.dir, n.replace(" ", "-")) for n in list(FILTERS) + list(FORMATS)}
        logs = [{"filter": f, **file_log(self.paths[n], log_format={"text_format_source": {"inline_string": "%REQ(x-case)% %ACCESS_LOG_TYPE%\n"}})}
                for n, f in FILTERS.items()]
        logs += [{"filter": {"header_filter": {"header": {"name": "x-format", "present_match": True}}}, **file_log(self.paths[n], **f)}
                 for n, f in FORMATS.items()]
        health = {"name": "hc", "typed_config": {"@type": T + ".extensions.filters.http.health_check.v3.HealthCheck", "pass_through_mode": False,
                                                 "headers": [{"name": ":path", "string_match": {"exact": "/health"}}]}}
        h = hcm([say("/418", 418, "tea"), to("none", "/down"), to("h1")], [health, shadow()], access_log=logs, preserve_external_request_id=True,
                access_log_options={"flush_access_log_on_new_request": True}, local_reply_config={"mappers": [
                    {"filter": {"header_filter": {"header": {"name": "x-body", "string_match": {"exact": "html"}}}},
                     "body_format_override": {"text_format_source": {"inline_string": "<b>%RESPONSE_CODE%</b>"}, "content_type": "text/html"}},
                    {"filter": {"header_filter": {"header": {"name": "x-body", "present_match": True}}},
                     "body_format_override": {"json_format": {"code": "%RESPONSE_CODE%"}}}]})
        self.proxy = Proxy(bootstrap([listener("l", self.port, chain(h))], [cluster("h1", up1.port), cluster("none", NOBODY)]), kind,
                           kind + "-filters")

    def run(self):
        out = []
        for name, path, headers, do in (
                ("plain", "/", [], None), ("a", "/", [("x-a", "1")], None), ("b", "/", [("x-a", "2")], None), ("tea", "/418", [], None),
                ("tea a", "/418", [("x-a", "1")], None), ("down", "/down", [], None), ("health", "/health", [], None),
                ("late", "/", [], "delay=400"), ("meta 1", "/", [("x-set", "1")], None), ("meta 2", "/", [("x-set", "2")], None),
                ("grpc", "/", [("content-type", "application/grpc")], None), ("500", "/", [], "status=500"),
                ("grpc none", "/down", [("content-type", "application/grpc")], None)):
            ask(self.port, path, headers=[("x-case", name)] + headers, do=do)
        for i in range(40):
            ask(self.port, "/418", headers=[("x-case", "id %d" % i), ("x-request-id", "%08x-0000-4000-8000-000000000000" % (i * 104729 * 65537 % 2**32))])
        for kind in ("html", "json"):
            r = ask(self.port, "/down", headers=[("x-case", "body"), ("x-body", kind)])
            out.append((r.get("content-type"), r.body))
        ask(self.port, "/418", headers=[("x-case", "format"), ("x-format", "1"), ("host", "h")], host=None)
        return out

    def lines(self, name):
        return [re.sub(r"\[\d{4}-[^]]*\] | \d+ \d+ \d+ |\"[0-9a-f-]{36}\"", " ", x) for x in lines_of(self.paths[name])]


def compare_filters():
    sides = [FilterSide("envoy"), FilterSide("weft")]
    bodies = [s.run() for s in sides]
    for s in sides:
        tap.ok(s.proxy.stop() == 0, s.kind + " of filters ends when told")
    tap.same(bodies[1], bodies[0], "content_type of a local reply's format")
    for n in FILTERS:
        envoy, weft = (sorted(x for x in s.lines(n) if "id " in x or "half" not in n and "some" not in n) for s in sides)
        tap.ok(weft == envoy and bool(envoy) == (n not in NEVER), "filter %s: as Envoy (%d lines)" % (n, len(envoy)), weft, envoy)
    for n in FORMATS:
        envoy, weft = (sides[i].lines(n) for i in (0, 1))
        tap.ok(envoy == weft and envoy, "format %s: as Envoy" % n, envoy, weft)


XFCC = ["By=a;Hash=b;URI=c,By=d", 'Subject="CN=a,O=\\"x;y\\"";URI=u', " by = a b ;hash", 'By=a;Hash="b', 'By=a,Hash="b,DNS=c', 'By="a\\\\";DNS=c\\',
        "=;,;", "By"]


def compare_bytes():
    """Values that a peer chooses: x-forwarded-client-cert, bytes that are not UTF-8, names in a ClientHello"""
    ops = ["XFCC_VALUE(%s)" % k for k in ("By", "hash", "URI", "dns", "subject")] + ["REQ(x-case)", "REQ(x-case):3", "REQUESTED_SERVER_NAME"]
    out = []
    for kind in ("envoy", "weft"):
        port = free_ports(1)[0]
        log, text = (os.path.join(WORK, kind + e) for e in (".bytes", ".lines"))
        h = hcm([say("/", 200, "x")], forward_client_cert_details="ALWAYS_FORWARD_ONLY", access_log=[
            *json_log(log, **{o: "%" + o + "%" for o in ops}),
            {"name": "t", **file_log(text, log_format={"text_format_source": {"inline_string": "%REQUESTED_SERVER_NAME%\n"}})}])
        p = Proxy(bootstrap([listener("l", port, chain(h, own_tls()), listener_filters=INSPECT)], []), kind, kind + "-bytes")
        for x in XFCC:
            ask(port, headers=[("x-case", "xfcc"), ("x-forwarded-client-cert", x)], tls=context(None))
        for x in ("c\xff\"d", "\xc3\xa4\xe2\x82", "\xc3\xa4\"", "\xed\xa0\x80", "\xf0\x9f\x98\x80"):
            ask(port, headers=[("x-case", x)], tls=context(None))
        for name in ("a.example", "a_b.c-d", "A*b", "a b:1", "a\nB", "a\x7f/%"):
            subprocess.run(["openssl", "s_client", "-quiet", "-connect", "127.0.0.1:%d" % port, "-servername", name], stdout=subprocess.DEVNULL,
                           input=b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", stderr=subprocess.DEVNULL, timeout=30, check=False)
        tap.ok(p.stop() == 0, kind + " with odd values ends when told")
        with open(log, encoding="utf-8", errors="surrogateescape") as f:
            out.append(([json.loads(x) for x in f.read().splitlines()], lines_of(text)))
    for (e, w), x in zip(zip(out[0][0], out[1][0]), XFCC + ["bytes"] * 5 + ["names"] * 6):
        tap.same(w, e, "%s: as Envoy" % x)
    tap.ok(len(out[0][0]) == len(out[1][0]) == len(XFCC) + 11, "every odd request is logged")
    tap.ok(len(out[1][1]) == len(XFCC) + 11 and out[1][1] == out[0][1], "a name is no line of its own", *out)


def main():
    compare_bytes()
    compare_values()
    compare_filters()
    compare_verdicts()
    return tap.done()


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
