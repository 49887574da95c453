#!/usr/bin/python3
"""Routes, retries, RBAC and rate limits field by field: the same bootstrap through weft-waypoint and a real Envoy, the same requests to both;
answers, what servers behind see, logs and statistics must be the same. ENVOY: its binary. ONLY=REGEX: some cases."""
import base64
import hashlib
import hmac
import json
import os
import re
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import H2Client  # noqa: E402
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    H2_UP, Ca, Proxy, T, Tap, address, ask, bootstrap, chain, cluster, free_ports, hcm, json_log, lines_of, listener, pem, say, to, wait_for,
    WORK)

F = T + ".extensions.filters.http."
NET = T + ".extensions.filters.network."
NAMES = ["main", "meta", "tls", "levels", "table", "grpc", "quiet-grpc", "rbac", "limits", "always", "hosts", "cors",
         "net-now", "net-late", "net-first", "net-tree", "own", "flush"]
CASES = []
SECRET = b"0123456789abcdef0123456789abcdef"
SOON = {"retry_back_off": {"base_interval": "0.005s"}}
INTERNAL = {"internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}}


def b64(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


def token(**claims):
    h = b64(b'{"alg":"HS256"}') + "." + b64(json.dumps({"iss": "me", **claims}).encode())
    return "Bearer " + h + "." + b64(hmac.new(SECRET, h.encode(), hashlib.sha256).digest())


def case(name, port="main", **how):
    CASES.append((name, port, how))


def retry(on, n=1, **more):
    return {"retry_on": on, "num_retries": n, **SOON, **more}


def header(name, **kind):
    return {"name": name, **kind}


def add(name, value):
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def matches():
    """A route for each deprecated kind of HeaderMatcher, and its opposite"""
    kinds = {"exact": {"exact_match": "a"}, "prefix": {"prefix_match": "a"}, "suffix": {"suffix_match": "z"}, "contains": {"contains_match": "mid"},
             "regex": {"safe_regex_match": {"regex": "[0-9]+"}}}
    out = []
    for k, v in kinds.items():
        out += [to("h1", match={"prefix": "/m/" + k, "headers": [header("x-h", **v)]}, prefix_rewrite="/yes"),
                to("h1", match={"prefix": "/n/" + k, "headers": [header("x-h", invert_match=True, **v)]}, prefix_rewrite="/inverted")]
    return out


def weights(**more):
    return {"match": {"prefix": more.pop("prefix")}, "route": {"weighted_clusters": {"clusters": [
        {"name": n, "weight": w} for n, w in more.pop("of")], **more.pop("weighted", {})}, **more}}


def routes():
    return matches() + [
        {"match": {"prefix": "/nowhere"}, "non_forwarding_action": {}},
        weights(prefix="/total", of=[("one", 0), ("two", 100)], weighted={"total_weight": 100}),
        weights(prefix="/hashed", of=[("one", 37), ("two", 63)], weighted={"use_hash_policy": True},
                hash_policy=[{"header": {"header_name": "x-hash"}}]),
        weights(prefix="/removing", of=[("one", 1)], weighted={"clusters": [
            {"name": "one", "weight": 1, "response_headers_to_remove": ["x-drop"]}]}),
        to("grpc", "/grpc/max", timeout="10s", max_grpc_timeout="0.3s"),
        to("grpc", "/grpc/offset", timeout="10s", max_grpc_timeout="5s", grpc_timeout_offset="0.3s"),
        to("grpc", "/grpc/header-max", timeout="10s", max_stream_duration={"grpc_timeout_header_max": "0.3s"}),
        to("grpc", "/grpc/header-offset", timeout="10s", max_stream_duration={"grpc_timeout_header_max": "5s", "grpc_timeout_header_offset": "0.3s"}),
        to("one", "/made", hash_policy=[{"cookie": {"name": "c", "ttl": "60s", "path": "/p", "attributes": [
            {"name": "SameSite", "value": "Strict"}, {"name": "Secure"}]}}]),
        to("ring", "/cookie", hash_policy=[{"cookie": {"name": "c", "ttl": "60s", "path": "/p", "attributes": [
            {"name": "SameSite", "value": "Strict"}, {"name": "Secure"}]}}]),
        to("ring", "/source", hash_policy=[{"connection_properties": {"source_ip": True}}]),
        to("h1", "/hedge/on", timeout="5s", hedge_policy={"hedge_on_per_try_timeout": True},
           retry_policy=retry("5xx", 2, per_try_timeout="0.2s")),
        to("h1", "/hedge/off", timeout="5s", retry_policy=retry("5xx", 2, per_try_timeout="0.2s")),
        to("h1", "/hedge/one", timeout="1.2s", hedge_policy={"hedge_on_per_try_timeout": True, "initial_requests": 3},
           retry_policy=retry("5xx", 1, per_try_timeout="0.2s")),
        to("h1", "/hedge/none", timeout="1.2s", hedge_policy={"hedge_on_per_try_timeout": True}, retry_policy={"per_try_timeout": "0.2s"}),
        to("h1", "/body/route", retry_policy=retry("5xx"), route_={"request_body_buffer_limit": 1000}),
        to("h1", "/body/old", retry_policy=retry("5xx"), route_={"per_request_buffer_limit_bytes": 1000}),
        to("h1", "/body/both", retry_policy=retry("5xx"), route_={"request_body_buffer_limit": 3000, "per_request_buffer_limit_bytes": 1000}),
        to("h1", "/body/large", retry_policy=retry("5xx"), route_={"request_body_buffer_limit": 4 << 20}),
        to("h1", "/body/host", retry_policy=retry("5xx")),
        to("h1", "/counted/slow", timeout="0.3s", route_={"stat_prefix": "slow"}),
        to("h1", "/counted", retry_policy=retry("5xx"), route_={"stat_prefix": "counted"}),
        to("h1", "/codes", retry_policy=retry("retriable-status-codes", 1, retriable_status_codes=[418])),
        to("h1", "/wants", retry_policy=retry("5xx", 1, retriable_request_headers=[header("x-again", string_match={"exact": "yes"})])),
        to("h1", "/tryidle", timeout="3s", retry_policy=retry("5xx", 1, per_try_idle_timeout="0.2s")),
        to("h1", "/auto", auto_host_rewrite=True),
        to("named", "/auto-named", auto_host_rewrite=True),
        to("h1", match={"path_match_policy": {"name": "t", "typed_config": {
            "@type": T + ".extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "path_template": "/tpl/{a}/{b=**}"}}},
           path_rewrite_policy={"name": "r", "typed_config": {
               "@type": T + ".extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig", "path_template_rewrite": "/to/{b}/{a}"}}),
        to("h1", "/optional", route_={"typed_per_filter_config": {"nobody": {
            "@type": T + ".config.route.v3.FilterConfig", "is_optional": True, "config": {"@type": F + "csrf.v3.CsrfPolicy", "filter_enabled": {
                "default_value": {"numerator": 100}}}}}}),
        to("h1", "/"),
    ]


def jwt():
    keys = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": b64(SECRET)}]})
    return {"name": "jwt", "typed_config": {"@type": F + "jwt_authn.v3.JwtAuthentication", "providers": {"p": {
        "issuer": "me", "local_jwks": {"inline_string": keys}, "payload_in_metadata": "claims", "clear_route_cache": True}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "p"}, {"allow_missing": {}}]}}}]}}


def claim(value, **more):
    return {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "claims"}, {"key": "role"}],
            "value": {"string_match": {"exact": value}}, **more}


def of_claims():
    return [to("h1", match={"prefix": "/", "dynamic_metadata": [claim("boss")]}, prefix_rewrite="/boss"),
            to("h1", match={"prefix": "/not", "dynamic_metadata": [claim("guest", invert=True)]}, prefix_rewrite="/no-guest"),
            to("h1", "/")]


def of_tls():
    out = []
    for p in (True, False):
        for v in (True, False):
            out.append(say("/both", 200, "presented %s validated %s" % (p, v)))
            out[-1]["match"]["tls_context"] = {"presented": p, "validated": v}
    for v in (True, False):
        out.append(say("/", 200, "validated %s" % v))
        out[-1]["match"]["tls_context"] = {"validated": v}
    return out


def rbac_filter(name="rbac", **conf):
    return {"name": name, "typed_config": {"@type": F + "rbac.v3.RBAC", **conf}}


def act(name, action):
    return {"action": {"name": "a", "typed_config": {"@type": T + ".config.rbac.v3.Action", "name": name, "action": action}}}


def seen_header(name, value):
    return {"single_predicate": {"input": {"name": "i", "typed_config": {"@type": T + ".type.matcher.v3.HttpRequestHeaderMatchInput",
                                                                         "header_name": name}}, "value_match": {"exact": value}}}


def either(*p):
    return {"or_matcher": {"predicate": list(p)}}


def tree(*pairs, other):
    return {"matcher_list": {"matchers": [{"predicate": p, "on_match": a} for p, a in pairs]}, "on_no_match": other}


def from_route(value):
    return {"sourced_metadata": {"metadata_source": "ROUTE", "metadata_matcher": {
        "filter": "own", "path": [{"key": "level"}], "value": {"string_match": {"exact": value}}}}}


def rbac():
    """Rules of their own names; a shadow by matchers; metadata of the route and of the request"""
    return [jwt(),
            rbac_filter("meta", rules_stat_prefix="route_meta.", rules={"action": "DENY", "policies": {
                "closed": {"permissions": [from_route("closed")], "principals": [{"any": True}]},
                "half": {"permissions": [{"url_path": {"path": {"prefix": "/half"}}}], "principals": [from_route("half")]}}}),
            rbac_filter("claims", rules_stat_prefix="claims", rules={"action": "DENY", "policies": {
                "guests": {"permissions": [{"url_path": {"path": {"prefix": "/claims"}}}], "principals": [
                    {"sourced_metadata": {"metadata_source": "DYNAMIC", "metadata_matcher": claim("guest")}}]}}}),
            rbac_filter("shadow", shadow_rules_stat_prefix="sh_", shadow_matcher=tree(
                (either(seen_header("x-a", "1"), seen_header("x-b", "1")), act("either", "DENY")), other=act("rest", "ALLOW"))),
            rbac_filter("tree", matcher=tree(
                (either(seen_header("x-c", "1"), seen_header("x-d", "1")), act("either", "DENY")), other=act("rest", "ALLOW")))]


def of_rbac():
    def level(v):
        return {"metadata": {"filter_metadata": {"own": {"level": v}}}}
    return [to("h1", "/closed", route_=level("closed")), to("h1", "/half", route_=level("half")), to("h1", "/open", route_=level("open")),
            to("h1", "/")]


def bucket(n):
    return {"max_tokens": n, "tokens_per_fill": n, "fill_interval": "3600s"}


def limit(**conf):
    on = {"default_value": {"numerator": 100}}
    return {"name": "limit", "typed_config": {"@type": F + "local_ratelimit.v3.LocalRateLimit", "stat_prefix": "l", "filter_enabled": on,
                                              "filter_enforced": on, "token_bucket": bucket(1000), **conf}}


def entry(key, value):
    return {"entries": [{"key": key, "value": value}], "token_bucket": bucket(1)}


def generic(value):
    return {"actions": [{"generic_key": {"descriptor_value": value}}]}


def of_limits():
    own = {"@type": F + "local_ratelimit.v3.LocalRateLimit", "stat_prefix": "r", "filter_enabled": {"default_value": {"numerator": 100}},
           "filter_enforced": {"default_value": {"numerator": 100}}, "token_bucket": bucket(1000)}
    out = []
    for kind in ("OVERRIDE", "INCLUDE", "IGNORE"):
        for with_own in (True, False):
            name = "%s-%d" % (kind.lower(), with_own)
            out.append(to("h1", "/" + name, route_={"typed_per_filter_config": {"limit": {
                **own, "vh_rate_limits": kind, "descriptors": [entry("generic_key", "route-" + name), entry("generic_key", "host")]}}},
                **({"rate_limits": [generic("route-" + name)]} if with_own else {})))
    out.append(to("h1", "/masked", rate_limits=[{"actions": [{"masked_remote_address": {"v4_prefix_mask_len": 24, "v6_prefix_mask_len": 32}}]}]))
    return out + [to("h1", "/")]


def net_rbac(stat, **conf):
    return {"name": "rbac", "typed_config": {"@type": NET + "rbac.v3.RBAC", "stat_prefix": stat + ".", **conf}}


def rules(action, port):
    return {"action": action, "policies": {"p": {"permissions": [{"destination_port": port}], "principals": [{"any": True}]}}}


def by_port(port, then, other):
    return {"matcher_tree": {"input": {"name": "i", "typed_config": {
        "@type": T + ".extensions.matching.common_inputs.network.v3.DestinationPortInput"}},
        "exact_match_map": {"map": {str(port): then}}}, "on_no_match": other}


def tcp(*filters):
    return {"filters": list(filters) + [{"name": "tcp", "typed_config": {"@type": NET + "tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "tcp"}}]}


def endpoint(port, **more):
    return {"endpoint": {"address": address(port)}, **more}


def with_router(h, **options):
    h["typed_config"]["http_filters"][-1] = {"name": "router", "typed_config": {"@type": F + "router.v3.Router", **options}}
    return h


def server_context(pki):
    cert, key = pki.issue("server", "DNS:test")
    return {"common_tls_context": {"tls_certificates": [pem(cert, key)], "validation_context": {
        "trusted_ca": {"filename": pki.cert}, "trust_chain_verification": "ACCEPT_UNTRUSTED"}}}


class Pair:
    def __init__(self, kind, ups, pki):
        self.kind, self.ports = kind, dict(zip(NAMES, free_ports(len(NAMES))))
        self.log = os.path.join(WORK, kind + ".access")
        log = {"access_log": json_log(self.log, case="%REQ(x-case)%", code="%RESPONSE_CODE%", flags="%RESPONSE_FLAGS%",
                                      details="%RESPONSE_CODE_DETAILS%", attempts="%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                                      shadow="%DYNAMIC_METADATA(envoy.filters.http.rbac:sh_shadow_engine_result)%",
                                      shadow_id="%DYNAMIC_METADATA(envoy.filters.http.rbac:sh_shadow_effective_policy_id)%")}
        p = self.ports
        rc = {"response_headers_to_remove": ["x-table"]}
        hosts = [{"name": n, "domains": [n + ".example"], "response_headers_to_remove": ["x-host"], "include_request_attempt_count": True,
                  "include_attempt_count_in_response": True, "include_is_timeout_retry_header": True,
                  "routes": [to("h1", "/", timeout="3s", retry_policy=retry("5xx", 1, per_try_timeout="0.3s"),
                                route_={"request_headers_to_add": [add("x-host-was", n)], "response_headers_to_remove": ["x-route"]})]}
                 for n in ("a", "b")]
        main = hcm([], vhosts=[
            {"name": "limits", "domains": ["limits"], "per_request_buffer_limit_bytes": 1000, "hedge_policy": {"hedge_on_per_try_timeout": True},
             "routes": routes()},
            {"name": "newer", "domains": ["newer"], "request_body_buffer_limit": 2000, "per_request_buffer_limit_bytes": 1000, "routes": routes()},
            {"name": "all", "domains": ["*"], "routes": routes()}], **log, **INTERNAL)
        listeners = [
            listener("main", p["main"], chain(main)),
            listener("meta", p["meta"], chain(hcm(of_claims(), [jwt()], **log))),
            listener("tls", p["tls"], chain(hcm(of_tls(), **log), tls=server_context(pki))),
            listener("levels", p["levels"], chain(hcm([], vhosts=hosts, route_config=rc, **log))),
            listener("table", p["table"], chain(hcm([to("h1", "/to"), {"match": {"prefix": "/"}, "direct_response": {
                "status": 200, "body": {"inline_string": "x" * 5000}}}], route_config={
                    "max_direct_response_body_size_bytes": 8192, "ignore_path_parameters_in_path_matching": True,
                    "internal_only_headers": ["x-secret"]}, **log, **INTERNAL))),
            listener("grpc", p["grpc"], chain(hcm([to("grpc", "/")], **log))),
            listener("quiet-grpc", p["quiet-grpc"], chain(with_router(hcm([to("grpc-quiet", "/")], **log),
                                                                      suppress_grpc_request_failure_code_stats=True))),
            listener("rbac", p["rbac"], chain(hcm(of_rbac(), rbac(), stat_prefix="rbac", **log))),
            listener("limits", p["limits"], chain(hcm([], [limit(descriptors=[
                entry("generic_key", "host"), entry("masked_remote_address", "192.0.2.0/24"), entry("masked_remote_address", "2001:db8::/32")])],
                vhosts=[{"name": "h", "domains": ["*"], "rate_limits": [generic("host")], "routes": of_limits()}], **log))),
            listener("always", p["always"], chain(hcm([to("h1", "/")], [limit(
                token_bucket=bucket(2), always_consume_default_token_bucket=False, rate_limits=[
                    {"actions": [{"request_headers": {"header_name": "x-who", "descriptor_key": "who"}}]}],
                descriptors=[{"entries": [{"key": "who", "value": "me"}], "token_bucket": bucket(3)}])], **log))),
            listener("hosts", p["hosts"], chain(hcm([to("omit", "/", retry_policy=retry("5xx", 3, host_selection_retry_max_attempts=20, retry_host_predicate=[{
                "name": "p", "typed_config": {"@type": T + ".extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig", "metadata_match": {
                    "filter_metadata": {"envoy.lb": {"zone": "sick"}}}}}]))], **log))),
            listener("cors", p["cors"], chain(hcm([], [{"name": "cors", "typed_config": {"@type": F + "cors.v3.Cors"}}], vhosts=[
                {"name": "h", "domains": ["*"], "routes": [to("h1", "/" + n, route_={"typed_per_filter_config": {"cors": {
                    "@type": F + "cors.v3.CorsPolicy", "allow_origin_string_match": [{"exact": "http://o"}], "allow_methods": "GET",
                    "allow_private_network_access": n == "private"}}}) for n in ("private", "public")]}], **log))),
            listener("flush", p["flush"], chain(hcm([
                to("h1", "/soon", flush_timeout="0.3s", idle_timeout="60s"), to("h1", "/idle", idle_timeout="0.3s"),
                to("h1", "/late", flush_timeout="60s", idle_timeout="0.3s"), to("h1", "/")], codec_type="HTTP2", **log))),
            listener("net-now", p["net-now"], tcp(net_rbac("now", rules=rules("DENY", p["net-now"]), enforcement_type="ONE_TIME_ON_FIRST_BYTE"))),
            listener("net-late", p["net-late"], tcp(net_rbac("late", rules=rules("DENY", p["net-late"]), delay_deny="0.6s"))),
            listener("net-first", p["net-first"], tcp(net_rbac("first", shadow_rules_stat_prefix="sh", shadow_matcher=by_port(
                p["net-first"], act("here", "DENY"), act("else", "ALLOW")), rules=rules("ALLOW", p["net-first"])))),
            listener("net-tree", p["net-tree"], tcp(net_rbac("tree", matcher=by_port(1, act("here", "ALLOW"), act("else", "DENY")),
                                                             shadow_matcher=by_port(1, act("here", "DENY"), act("else", "ALLOW")))))]
        many = {"circuit_breakers": {"thresholds": [{"max_retries": 100}]}}
        sick = {"metadata": {"filter_metadata": {"envoy.lb": {"zone": "sick"}}}}
        eps = {"cluster_name": "omit", "endpoints": [{"lb_endpoints": [endpoint(ups["bad"].port, **sick), endpoint(ups["good"].port)]}]}
        four = {"cluster_name": "ring", "endpoints": [{"lb_endpoints": [endpoint(u.port) for u in ups["four"]]}]}
        named = {"cluster_name": "named", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(ups["h1"].port), "hostname": "own.name"}}]}]}
        clusters = [cluster("h1", ups["h1"].port, **many), cluster("tcp", ups["h1"].port), cluster("one", ups["one"].port, lb_policy="RING_HASH"), cluster("two", ups["two"].port),
                    cluster("grpc", ups["h2"].port, http=H2_UP), cluster("grpc-quiet", ups["h2"].port, http=H2_UP),
                    {"name": "omit", "connect_timeout": "2s", "load_assignment": eps, **many},
                    {"name": "ring", "connect_timeout": "2s", "load_assignment": four, "lb_policy": "RING_HASH"},
                    {"name": "named", "connect_timeout": "2s", "load_assignment": named}]
        if kind == "weft":  # newer than this Envoy
            listeners.append(listener("own", p["own"], chain(hcm([], vhosts=[
                {"name": n, "domains": [n + ".example"], "routes": [say("/", 200, n)]} for n in "ab"], route_config={"vhost_header": "x-vhost"}))))
        self.proxy = Proxy(bootstrap(listeners, clusters), kind)


def cases_of_matches():
    for k, values in {"exact": "a b ab", "prefix": "abc bca A", "suffix": "xyz zyx", "contains": "amidst dim", "regex": "12 1a"}.items():
        for v in values.split() + [None, ""]:
            for m in "mn":
                case("%s %s %r" % (m, k, v), path="/%s/%s" % (m, k), headers=[("x-h", v)] if v is not None else [])
    for p in ("/nowhere", "/optional", "/tpl/x/y/z", "/tpl/x", "/auto", "/auto-named"):
        case("route " + p, path=p, headers=[("x-h", "v")])
    for i in range(12):
        case("weights by hash %d" % i, path="/hashed", headers=[("x-hash", "v%d" % i)])
    for i in range(4):
        case("weights of a total %d" % i, path="/total")
        case("cookie of a client %d" % i, path="/cookie", headers=[("cookie", "c=%d" % i)])
    case("cookie is made", path="/made")
    case("cookie is there", path="/made", headers=[("cookie", "c=1")])
    case("by address", path="/source")
    case("weights take a header away", path="/removing", do="header=x-drop:1;header=x-stay:1")
    for role in ("boss", "guest"):
        for p in ("/x", "/not"):
            case("claims of %s %s" % (role, p), port="meta", path=p, headers=[("authorization", token(role=role))])
    case("claims, none", port="meta", path="/not")
    case("headers go on every level", port="levels", host="a.example",
         do="header=x-table:1;header=x-host:1;header=x-route:1;header=x-stay:1")
    case("a retry of a failure tells", port="levels", host="a.example", do="status=503;fail=1:@key")
    case("a retry of a timeout tells", port="levels", host="a.example", do="delay=900;fail=1:@key")
    case("a client that says it", port="levels", host="a.example", headers=[("x-envoy-is-timeout-retry", "own")])
    for p in ("/", "/to/x", "/to;a=b"):
        case("table " + p, port="table", path=p, headers=[("x-secret", "1")])
    case("table, internal", port="table", path="/to", headers=[("x-secret", "1"), ("x-forwarded-for", "10.0.0.1")])


def cases_of_retries():
    grpc = [("content-type", "application/grpc")]
    for kind in ("max", "offset", "header-max", "header-offset"):
        for t in ("600m", "100S", None):
            slow = "delay=1500" if (t == "600m" or kind.endswith("max") and t) else "delay=10"
            case("grpc %s %s" % (kind, t), path="/grpc/" + kind, headers=grpc + ([("grpc-timeout", t)] if t else []), do=slow)
        case("grpc %s fast enough" % kind, path="/grpc/" + kind, headers=grpc + [("grpc-timeout", "600m")], do="delay=5")
    case("hedge: the first answers", path="/hedge/on", do="delay=320;fail=9:@key")
    case("hedge: the second answers", path="/hedge/on", do="delay=2500;fail=1:@key")
    case("hedge: the first is bad", path="/hedge/on", do="delay=350;status=503;fail=1:@key")
    case("hedge: all are bad", path="/hedge/on", do="delay=350;status=503")
    case("hedge: the first is cut", path="/hedge/on", do="delay=350;how=hang;fail=1:@key")
    case("hedge: nobody answers", path="/hedge/one", do="delay=3000")
    case("hedge: no retries", path="/hedge/none", do="delay=500")
    case("hedge: not wanted", path="/hedge/off", do="delay=320;fail=2:@key")
    case("hedge: with a body", path="/hedge/on", method="POST", body=b"b" * 5000, do="delay=2500;fail=1:@key")
    case("hedge: a client outside says so", path="/hedge/off", headers=[("x-envoy-hedge-on-per-try-timeout", "true")], do="delay=320;fail=2:@key")
    for v in ("true", "false", "x"):
        for p in ("on", "off"):
            case("hedge: a client inside says %s %s" % (v, p), path="/hedge/" + p,
                 headers=[("x-forwarded-for", "10.0.0.1"), ("x-envoy-hedge-on-per-try-timeout", v)], do="delay=320;fail=2:@key")
    case("hedge: of the host", host="limits", path="/hedge/off", do="delay=2500;fail=1:@key")
    for host in ("limits", "newer", "test"):
        for kind in ("route", "old", "both", "large", "host"):
            for n in (900, 1500, 2500, 500000):
                case("body %s %s %d" % (host, kind, n), host=host, path="/body/" + kind, method="POST", body=b"x" * n, do="status=503;fail=1:@key")
    case("body beyond a mebibyte", path="/body/large", method="POST", body=b"x" * (2 << 20), do="status=503;fail=1:@key")
    for s in ("", "status=503;fail=1:@key", "status=503", "status=404"):
        case("counted " + s, path="/counted", do=s)
    case("counted timeout", path="/counted/slow", do="delay=1500")
    for s in ("418", "503"):
        case("status %s is tried again" % s, path="/codes", do="status=%s;fail=1:@key" % s)
    for v in ("yes", "no"):
        case("a request wants %s" % v, path="/wants", headers=[("x-again", v)], do="status=503;fail=1:@key")
    case("idle within a try", path="/tryidle", do="delay=900;fail=1:@key")
    for i in range(4):
        case("no sick host again %d" % i, port="hosts")
    for port in ("grpc", "quiet-grpc"):
        for n in ("0", "2", "5", "13"):
            case("%s answers %s" % (port, n), port=port, path="/s/m", headers=grpc, do="grpc=%s;body=0" % n)


def cases_of_filters():
    for p in ("/closed", "/half", "/open", "/x"):
        case("rbac " + p, port="rbac", path=p)
    for role in ("guest", "boss"):
        case("rbac claims " + role, port="rbac", path="/claims", headers=[("authorization", token(role=role))])
    for h in "abcd":
        case("rbac tree x-" + h, port="rbac", path="/t", headers=[("x-" + h, "1")])
    case("preflight private", port="cors", path="/private", method="OPTIONS", headers=[
        ("origin", "http://o"), ("access-control-request-method", "GET"), ("access-control-request-private-network", "true")])
    case("preflight public", port="cors", path="/public", method="OPTIONS", headers=[
        ("origin", "http://o"), ("access-control-request-method", "GET"), ("access-control-request-private-network", "true")])


def cases_in_turn():
    """Those that use up tokens: one after the other"""
    out = []
    for kind in ("override", "include", "ignore"):
        for own in "10":
            out += [("limits", dict(path="/%s-%s" % (kind, own)))] * 3
    for who in ("192.0.2.1", "192.0.2.77", "192.0.3.1", "2001:db8:1::1", "2001:db8:2::2", "2001:db9::1"):
        out += [("limits", dict(path="/masked", headers=[("x-forwarded-for", who)]))] * 2
    out += [("always", dict(headers=[("x-who", "me")]))] * 4 + [("always", dict(headers=[("x-who", "other")]))] * 3
    return out


SKIPPED = {"date", "x-envoy-upstream-service-time", "x-request-id", "x-case", "x-do", "x-key", "content-length"}
KNOWN = [(r"^no sick host", r"^log attempts:", "the first try goes to either host")]


def known(name, note):
    return any(re.search(c, name) and re.search(n, note) for c, n, _ in KNOWN)


def value(k, v):
    """A retry says what is left of its time: to the second; a made cookie holds a hash of addresses"""
    if k == "x-envoy-expected-rq-timeout-ms" and int(v) > 1000:
        return str(round(int(v) / 1000))
    return re.sub(r'^c="?[^;"]*"?', "c=", v) if k == "set-cookie" else v


def fields(headers):
    return sorted((k, value(k, v)) for k, v in headers if k.lower() not in SKIPPED)


def run(pair, i, port, how):
    how = dict(how)
    key = "%s-%d" % (pair.kind, i)
    how["do"] = (how.get("do") or "").replace("@key", key) or None
    how["headers"] = list(how.get("headers", ())) + [("x-case", "c%d" % i)]
    r = ask(pair.ports[port], timeout=10, **how)
    try:
        body = json.loads(r.body)
        body["headers"] = fields([tuple(h) for h in body["headers"]])
    except (ValueError, KeyError, TypeError):
        body = r.body.decode("latin-1")
    return {"status": r.status, "whole": r.whole, "headers": fields(r.headers), "trailers": sorted(r.trailers), "body": body}


def compare(tap, pairs, only):
    picked = [(i, *c) for i, c in enumerate(CASES) if not only or re.search(only, c[0])]
    got = {}
    with ThreadPoolExecutor(8) as ex:
        jobs = {(p.kind, i): ex.submit(run, p, i, port, how) for i, _, port, how in picked for p in pairs}
    for k, j in jobs.items():
        try:
            got[k] = j.result()
        except Exception as e:  # noqa: BLE001
            got[k] = {"exception": repr(e)}

    def logs(p):
        d = {d["case"]: d for d in map(json.loads, lines_of(p.log))}
        return d if len(d) >= len(picked) else None
    logged = {p.kind: wait_for(lambda p=p: logs(p), 10) or {} for p in pairs}
    tap.ok(all(logged.values()), "each of %d requests is logged by both" % len(picked), {k: len(v) for k, v in logged.items()})
    for i, name, _, _ in picked:
        e, w = got["envoy", i], got["weft", i]
        el, wl = (logged[k].get("c%d" % i, {}) for k in ("envoy", "weft"))
        notes = ["%s: envoy %r weft %r" % (k, e.get(k), w.get(k)) for k in sorted(set(e) | set(w)) if e.get(k) != w.get(k)]
        notes += ["log %s: envoy %r weft %r" % (k, el.get(k), wl.get(k)) for k in sorted(set(el) | set(wl)) if el.get(k) != wl.get(k)]
        left = [n for n in notes if not known(name, n)]
        tap.ok(not left and "exception" not in e, name + ": as Envoy" + (", but for what is known" if notes and not left else ""), *left)


def newer(tap, pair):
    """Fields that this Envoy does not know yet"""
    for h, want in (("a.example", (200, b"a")), ("b.example", (200, b"b")), ("B.EXAMPLE", (200, b"b")), ("c.example", (404, b"")), (None, (404, b""))):
        r = ask(pair.ports["own"], host="a.example", headers=[("x-vhost", h)] if h else [])
        tap.same((r.status, r.body), want, "vhost_header %s finds the virtual host" % h)


def turns(tap, pairs):
    for i, (port, how) in enumerate(cases_in_turn()):
        e, w = (ask(p.ports[port], **how).status for p in pairs)
        tap.same(w, e, "tokens %d: %s %s %s" % (i, port, how.get("path", "/"), dict(how.get("headers", [])) or ""))


def tls_cases(tap, pairs, pki, stranger):
    good, bad = pki.issue("client", "DNS:c"), stranger.issue("client", "DNS:c")
    for what, cert in (("none", None), ("good", good), ("of a stranger", bad)):
        for path in ("/", "/both"):
            got = []
            for p in pairs:
                ctx = ssl.create_default_context(cafile=pki.cert)
                ctx.check_hostname = False
                if cert:
                    ctx.load_cert_chain(*cert)
                r = ask(p.ports["tls"], path=path, tls=ctx, sni="test")
                got.append((r.status, r.body))
            tap.same(got[1], got[0], "client certificate %s, %s: %s" % (what, path, got[0][1].decode()))


def closes(port, first):
    """Seconds until it is closed; an answer"""
    import socket
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        began = time.monotonic()
        if first:
            s.sendall(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        got = b""
        try:
            while True:
                more = s.recv(65536)
                if not more:
                    break
                got += more
        except OSError:
            pass
        return time.monotonic() - began, got[:12]


def held(pair, path):
    """An answer that the client gives no window for: how it ends"""
    c = H2Client(pair.ports["flush"], window=1000, hold=True)
    c.s.settimeout(0.2)
    sid, a = c.send(path, do="body=50000"), None
    end = time.monotonic() + 2
    while time.monotonic() < end and c.answers[sid].reset is None and not c.closed:
        try:
            c.step()
        except TimeoutError:
            pass
    a = c.answers[sid]
    c.close()
    return a.status, a.reset, len(a.body)


def flush_cases(tap, pairs):
    for path in ("/soon", "/idle", "/late", "/"):
        e, w = (held(p, path) for p in pairs)
        tap.same(w, e, "an answer that is not taken: %s" % path)
        if path in ("/soon", "/late"):
            tap.same(w[1] is not None, path == "/soon", "flush_timeout of %s" % path)


def net_cases(tap, pairs):
    for port in ("net-now", "net-late", "net-first", "net-tree"):
        (et, e), (wt, w) = (closes(p.ports[port], True) for p in pairs)
        tap.same(w, e, "%s: what the client gets" % port)
        if port == "net-late":
            tap.ok(et >= 0.55 and wt >= 0.55, "delay_deny holds a denial back", et, wt)


def stats_cases(tap, pairs, only):
    codes = r"upstream_rq_(completed|[1-5]xx|[0-9]{3})$"  # no "+", which is a space in a query
    names = [r"^vhost\.", r"^cluster\.grpc\." + codes, r"^cluster\.grpc-quiet\." + codes, r"^cluster\.h1\." + codes,
             r"^cluster\.h1\.upstream_rq_(total|timeout|retry)", r"rbac\.(rbac\.|sh|route|claims|allowed|denied)",
             r"^(now|late|first|tree)\.rbac\.", r"^cluster\.h1\.(retry_or_shadow_abandoned|upstream_rq_per_try_timeout)$"]
    for n in names:
        def both(n=n):
            v = [{k: x for k, x in p.proxy.stats(n).items() if x} for p in pairs]
            return v if v[0] == v[1] else None
        v = wait_for(both, 3) or [{k: x for k, x in p.proxy.stats(n).items() if x} for p in pairs]
        tap.ok(v[0] == v[1] and (v[0] or only), "statistics %s: as Envoy's" % n, *["%s: envoy %r weft %r" % (k, v[0].get(k), v[1].get(k))
                                                                        for k in sorted(set(v[0]) | set(v[1])) if v[0].get(k) != v[1].get(k)])


def refusals(tap):
    """What Envoy refuses when it starts is refused here"""
    import subprocess
    table = hcm([say("/", 200, "x" * 5000)], route_config={"max_direct_response_body_size_bytes": 4999})
    weights_bad = hcm([weights(prefix="/", of=[("c", 0)])])
    for name, h in (("a body beyond max_direct_response_body_size_bytes", table), ("weights of nothing", weights_bad)):
        path = os.path.join(WORK, "bad.json")
        port, = free_ports(1)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(bootstrap([listener("l", port, chain(h))], [cluster("c", 1)]), f)
        rc = [subprocess.run(c + ["-c", path, "--mode", "validate"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).returncode
              for c in ([os.environ["ENVOY"]], [os.path.join(os.environ.get("MESH_BIN", "build/release"), "weft-waypoint")])]
        tap.ok(all(rc), "both refuse " + name, rc)


def main():
    tap = Tap()
    ups = {"h1": Upstream("up"), "h2": Upstream("up2", h2_only=True), "bad": Upstream("bad"), "good": Upstream("good"),
           "one": Upstream("one"), "two": Upstream("two"), "four": [Upstream("four%d" % i) for i in range(4)]}
    ups["bad"].habit = "status=503"
    pki, stranger = Ca("ca"), Ca("stranger")
    pairs = [Pair("envoy", ups, pki), Pair("weft", ups, pki)]
    cases_of_matches()
    cases_of_retries()
    cases_of_filters()
    only = os.environ.get("ONLY")
    compare(tap, pairs, only)
    if not only:
        turns(tap, pairs)
        tls_cases(tap, pairs, pki, stranger)
        flush_cases(tap, pairs)
        net_cases(tap, pairs)
        newer(tap, pairs[1])
        refusals(tap)
    stats_cases(tap, pairs, only)
    for p in pairs:
        tap.ok(p.proxy.stop() == 0, p.kind + " ends when told")
    return tap.done()


sys.exit(1 if main() else 0)
