#!/usr/bin/python3
"""Options of routes, retries and filters that waypoint_differ.py does not reach: the same bootstrap through weft-waypoint and a real Envoy,
the same requests to both; answers and what servers behind see must be the same. ENVOY: its binary. ONLY=REGEX: some cases."""
import base64
import hashlib
import hmac
import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import H2Client  # noqa: E402
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    H2_UP, Proxy, T, Tap, address, ask, bootstrap, chain, cluster, free_ports, hcm, json_log, lines_of, listener, say, to, wait_for, WORK)

F = T + ".extensions.filters.http."
SOON = {"retry_back_off": {"base_interval": "0.005s"}}
PRED = T + ".extensions.internal_redirect."
NAMES = ["main", "port", "params", "quiet", "strict", "expected", "specific"]
CASES = []


def b64(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


SECRET = b"0123456789abcdef0123456789abcdef"
# objects of one member: the order in which Envoy writes more is that of a hash with a random seed
CLAIMS = {"iss": "me", "list": ["a", "b"], "object": {"y": ["\u00e9"]}, "other": {"x": 1}, "empty": [], "none": None, "string": "str", "float": 1.5, "minus": -3,
          "bool": True, "big": 12345678901234567, "mixed": [1, 2.5, True, None, "z/\"q"]}


def token():
    h = b64(b'{"alg":"HS256"}') + "." + b64(json.dumps(CLAIMS, ensure_ascii=False).encode())
    return h + "." + b64(hmac.new(SECRET, h.encode(), hashlib.sha256).digest())


def case(name, port="main", **how):
    CASES.append((name, port, how))


def redirect(*predicates):
    return {"max_internal_redirects": 3, "redirect_response_codes": [302], "allow_cross_scheme_redirect": True,
            "predicates": [{"name": "p", "typed_config": p} for p in predicates]}


def retry(on, n=1, **more):
    return {"retry_on": on, "num_retries": n, **SOON, **more}


def routes():
    out = [to("h2", "/grpc/" + on, retry_policy=retry(on, 2)) for on in ("cancelled", "deadline-exceeded", "internal", "resource-exhausted",
                                                                       "unavailable")]
    hashes = {"header": [{"header": {"header_name": "x-hash"}}], "rewrite": [{"header": {"header_name": "x-hash", "regex_rewrite": {
        "pattern": {"regex": "^a(.*)$"}, "substitution": "\\1"}}}], "query": [{"query_parameter": {"name": "h"}}],
        "both": [{"header": {"header_name": "x-hash"}}, {"query_parameter": {"name": "h"}}],
        "terminal": [{"header": {"header_name": "x-hash"}, "terminal": True}, {"query_parameter": {"name": "h"}}],
        "cookie": [{"cookie": {"name": "c"}}], "address": [{"connection_properties": {"source_ip": True}}]}
    for kind in ("ring", "maglev"):
        out += [to(kind, "/%s/%s" % (kind, k), hash_policy=v) for k, v in hashes.items()]
    return out + [
        to("h1", "/limited", retry_policy={"retry_on": "envoy-ratelimited,retriable-status-codes", "retriable_status_codes": [429], "num_retries": 1,
                                           "rate_limited_retry_back_off": {"reset_headers": [
                                               {"name": "retry-after", "format": "SECONDS"}, {"name": "x-reset", "format": "UNIX_TIMESTAMP"}],
                                               "max_interval": "2s"}}),
        to("h1", "/envoylimited", retry_policy=retry("envoy-ratelimited")),
        to("prio", "/prio", retry_policy=retry("5xx", 2, retry_priority={"name": "p", "typed_config": {
            "@type": T + ".extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", "update_frequency": 1}})),
        to("two", "/hosts", retry_policy=retry("5xx", 1, host_selection_retry_max_attempts=10, retry_host_predicate=[{
            "name": "p", "typed_config": {"@type": T + ".extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}])),
        to("canary", "/canary", retry_policy=retry("5xx", 3, host_selection_retry_max_attempts=20, retry_host_predicate=[{
            "name": "p", "typed_config": {"@type": T + ".extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate"}}])),
        to("h1", "/tryidle", timeout="3s", retry_policy=retry("5xx", 1, per_try_idle_timeout="0.2s")),
        to("h1", "/retriable", retry_policy=retry("5xx", 1, retriable_request_headers=[
            {"name": "x-again", "string_match": {"exact": "yes"}}])),
        to("h1", match={"prefix": "/frac0", "runtime_fraction": {"default_value": {"numerator": 0}}}, route_={"name": "never"}),
        to("h1", match={"prefix": "/frac100", "runtime_fraction": {"default_value": {"numerator": 1000000, "denominator": "MILLION"}}},
           prefix_rewrite="/always"),
        to("high", "/high", priority="HIGH"), to("high", "/low"),
        to("h1", match={"prefix": "/cookie", "headers": [{"name": "cookie", "string_match": {"safe_regex": {"regex": "(^|.*; )a=1(;.*|$)"}}}]},
           prefix_rewrite="/with"),
        to("h1", match={"prefix": "/list", "headers": [{"name": "x-l", "string_match": {"contains": "b"}}]}, prefix_rewrite="/contains"),
        to("h1", match={"prefix": "/list", "headers": [{"name": "x-l", "string_match": {"suffix": "z"}}]}, prefix_rewrite="/suffix"),
        to("h1", match={"prefix": "/param", "query_parameters": [{"name": "a", "string_match": {"safe_regex": {"regex": "[0-9]+"}}},
                                                                {"name": "b", "present_match": True}]}, prefix_rewrite="/both"),
        to("h1", match={"prefix": "/tls", "tls_context": {"presented": False}}, prefix_rewrite="/plain"),
        to("h1", "/ir/once", internal_redirect_policy=redirect({"@type": PRED + "previous_routes.v3.PreviousRoutesConfig"})),
        to("h1", "/ir/allow", internal_redirect_policy=redirect({
            "@type": PRED + "allow_listed_routes.v3.AllowListedRoutesConfig", "allowed_route_names": ["allowed"]})),
        to("h1", "/ir/safe", internal_redirect_policy=redirect({"@type": PRED + "safe_cross_scheme.v3.SafeCrossSchemeConfig"})),
        to("h1", "/ir/copy", internal_redirect_policy={"max_internal_redirects": 1, "redirect_response_codes": [302],
                                                      "response_headers_to_copy": ["x-copy"]}),
        to("h1", "/allowed", route_={"name": "allowed"}), to("h1", "/other", route_={"name": "other"}),
        to("h1", "/mirror", request_mirror_policies=[{"cluster": "shadow", "runtime_fraction": {"default_value": {"numerator": 100}}}]),
        to("h1", "/idle", timeout="0s", idle_timeout="0.2s"),
        to("h1", "/offset", max_stream_duration={"grpc_timeout_header_max": "5s", "grpc_timeout_header_offset": "0.2s"}),
        to("h1", "/jwt"), to("h1", "/ws", upgrade_configs=[{"upgrade_type": "websocket"}]),
        to("h1", "/"),
    ]


def jwt():
    keys = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": b64(SECRET)}]})
    names = list(CLAIMS)[1:] + ["other.x", "object.y"]
    return {"name": "jwt", "typed_config": {"@type": F + "jwt_authn.v3.JwtAuthentication", "providers": {"p": {
        "issuer": "me", "local_jwks": {"inline_string": keys},
        "claim_to_headers": [{"header_name": "x-claim-" + n, "claim_name": n} for n in names]}},
        "rules": [{"match": {"prefix": "/jwt"}, "requires": {"provider_name": "p"}}]}}


def fault():
    return {"name": "fault", "typed_config": {"@type": F + "fault.v3.HTTPFault", "headers": [{"name": "x-fault", "present_match": True}],
                                              "delay": {"fixed_delay": "0.05s", "percentage": {"numerator": 100}}}}


def with_router(h, **options):
    h["typed_config"]["http_filters"][-1] = {"name": "router", "typed_config": {"@type": F + "router.v3.Router", **options}}
    return h


def endpoint(port, **more):
    return {"endpoint": {"address": address(port)}, **more}


def assigned(name, *localities, **more):
    return {"name": name, "connect_timeout": "2s", "load_assignment": {"cluster_name": name, "endpoints": list(localities)}, **more}


class Pair:
    def __init__(self, kind, ups):
        self.kind, self.ports = kind, dict(zip(NAMES, free_ports(len(NAMES))))
        self.log = os.path.join(WORK, kind + ".access")
        log = {"access_log": json_log(self.log, case="%REQ(x-case)%", code="%RESPONSE_CODE%", flags="%RESPONSE_FLAGS%",
                                      details="%RESPONSE_CODE_DETAILS%", attempts="%UPSTREAM_REQUEST_ATTEMPT_COUNT%")}
        add = {"header": {"key": "x-level", "value": "%s"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        levels = [json.loads(json.dumps(add).replace("%s", n)) for n in ("route", "host", "table")]
        simple = [to("h1", "/dead", route_={}), to("h1", "/")]
        listeners = [
            listener("main", self.ports["main"], chain(hcm(routes(), [fault(), jwt()], **log, internal_address_config={
                "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}))),
            listener("port", self.ports["port"], chain(hcm([], vhosts=[
                {"name": "a", "domains": ["a.example"], "routes": [say("/", 200, "a")]}, {"name": "all", "domains": ["*"], "routes": [say("/", 200, "all")]}],
                route_config={"ignore_port_in_host_matching": True}))),
            listener("params", self.ports["params"], chain(hcm([
                say("/x", 200, "path", match={"path": "/pp"}), say("/pre", 200, "prefix"), say("/", 200, "rest")],
                route_config={"ignore_path_parameters_in_path_matching": True}))),
            listener("quiet", self.ports["quiet"], chain(with_router(hcm([to("h1", "/")]), suppress_envoy_headers=True))),
            listener("strict", self.ports["strict"], chain(with_router(hcm([to("h1", "/")], internal_address_config={
                "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}), strict_check_headers=[
                    "x-envoy-upstream-rq-timeout-ms", "x-envoy-max-retries", "x-envoy-retry-on", "x-envoy-retry-grpc-on"]))),
            listener("expected", self.ports["expected"], chain(with_router(hcm([to("h1", "/")]), respect_expected_rq_timeout=True))),
            listener("specific", self.ports["specific"], chain(hcm([], vhosts=[{
                "name": "v", "domains": ["*"], "request_headers_to_add": [levels[1]], "response_headers_to_add": [levels[1]],
                "routes": [to("h1", "/", route_={"request_headers_to_add": [levels[0]], "response_headers_to_add": [levels[0]]})]}],
                route_config={"request_headers_to_add": [levels[2]], "response_headers_to_add": [levels[2]],
                              "most_specific_header_mutations_wins": True})))]
        many = {"circuit_breakers": {"thresholds": [{"max_retries": 100}]}}
        four = [{"lb_endpoints": [endpoint(u.port) for u in ups["four"]]}]
        meta = {"metadata": {"filter_metadata": {"envoy.lb": {"canary": True}}}}
        clusters = [
            cluster("h1", ups["h1"].port, **many), cluster("h2", ups["h2"].port, http=H2_UP, **many), cluster("shadow", ups["shadow-" + kind].port),
            assigned("ring", *four, lb_policy="RING_HASH"), assigned("maglev", *four, lb_policy="MAGLEV"),
            assigned("prio", {"priority": 0, "lb_endpoints": [endpoint(ups["bad"].port)]},
                     {"priority": 1, "lb_endpoints": [endpoint(ups["good"].port)]}, **many),
            assigned("two", {"lb_endpoints": [endpoint(ups["bad"].port), endpoint(ups["good"].port)]}, **many),
            assigned("canary", {"lb_endpoints": [endpoint(ups["bad"].port, **meta), endpoint(ups["good"].port)]}, **many),
            cluster("high", ups["h1"].port, circuit_breakers={"thresholds": [{"priority": "HIGH", "max_requests": 0, "max_pending_requests": 0}]})]
        self.proxy = Proxy(bootstrap(listeners, clusters), kind)


def cases():
    numbers = {"cancelled": 1, "deadline-exceeded": 4, "internal": 13, "resource-exhausted": 8, "unavailable": 14}
    for on, n in numbers.items():
        for got in (n, 5):
            case("retry %s grpc %d" % (on, got), path="/grpc/" + on, headers=[("content-type", "application/grpc")],
                 do="body=0;grpc=%d;fail=1:@key" % got)
    case("limited, seconds", path="/limited", do="status=429;header=retry-after:1;fail=1:@key")
    case("limited, too long", path="/limited", do="status=429;header=retry-after:9;fail=1:@key")
    case("limited, unread", path="/limited", do="status=429;header=retry-after:soon;fail=1:@key")
    case("limited by envoy", path="/envoylimited", do="status=429;header=x-envoy-ratelimited:true;fail=1:@key")
    case("limited by others", path="/envoylimited", do="status=429;fail=1:@key")
    case("previous priorities", path="/prio")
    for i in range(4):
        case("previous hosts %d" % i, path="/hosts")
        case("no canary again %d" % i, path="/canary")
    case("per try idle before head", path="/tryidle", do="delay=900")
    case("per try idle then good", path="/tryidle", do="delay=900;fail=1:@key")
    for v in ("yes", "no", None):
        case("retriable request header %s" % v, path="/retriable", headers=[("x-again", v)] if v else [], do="status=503;fail=1:@key")
    for p in ("/frac0", "/frac100", "/high", "/low", "/tls"):
        case("path " + p, path=p)
    for v in ("a=1", "b=2; a=1", "a=1; b=2", "a=12", "b=a=1", ""):
        case("cookie %s" % v, path="/cookie", headers=[("cookie", v)])
    for v in ("abc", "xyz", "Z", ""):
        case("list %s" % v, path="/list", headers=[("x-l", v)])
    for q in ("a=1&b", "a=x&b=1", "b=1&a=22", "a=1", "a=1&a=x&b"):
        case("parameters " + q, path="/param?" + q)
    for kind in ("once", "allow", "safe"):
        for where in ("http://test/allowed", "http://test/other", "https://test/allowed", "http://test/ir/" + kind):
            case("redirect %s to %s" % (kind, where), path="/ir/" + kind, do="status=302;header=location:%s;fail=1:@key" % where)
    case("redirect copies", path="/ir/copy", do="status=302;header=location:/allowed;header=x-copy:1;fail=1:@key")
    case("mirror", path="/mirror/x", method="POST", body=b"shadowed", headers=[("x-key", "@key")])
    for kind in ("ring", "maglev"):
        for i in range(6):
            h, q = [("x-hash", "a%d" % i)], "?h=%d" % (i * 7)
            for k in ("header", "rewrite", "query", "both", "terminal", "cookie"):
                case("%s by %s %d" % (kind, k, i), path="/%s/%s%s" % (kind, k, q), headers=h + [("cookie", "c=v%d" % i)])
        case(kind + " by address", path="/%s/address" % kind)
        case(kind + " terminal absent", path="/%s/terminal?h=1" % kind)
    for h in ("a.example", "a.example:1", "A.EXAMPLE:80", "b.example:80"):
        case("port ignored " + h, port="port", host=h)
    for p in ("/pp", "/pp;a=1", "/pp;a=1?q", "/pre;x/y", "/pp/;", "/;"):
        case("parameters ignored " + p, port="params", path=p)
    for port in ("quiet", "strict", "expected"):
        case("router " + port, port=port)
        case("router %s, timeout" % port, port=port, headers=[("x-envoy-expected-rq-timeout-ms", "200")], do="delay=700")
        case("router %s, bad timeout" % port, port=port, headers=[("x-forwarded-for", "10.0.0.1"), ("x-envoy-upstream-rq-timeout-ms", "x")])
        case("router %s, bad retries" % port, port=port, headers=[("x-forwarded-for", "10.0.0.1"), ("x-envoy-max-retries", "-1")])
        case("router %s, bad retry on" % port, port=port, headers=[("x-forwarded-for", "10.0.0.1"), ("x-envoy-retry-on", "5xx,zz")])
        case("router %s, bad grpc" % port, port=port, headers=[("x-forwarded-for", "10.0.0.1"), ("x-envoy-retry-grpc-on", "zz")])
    case("levels", port="specific")
    case("claims", path="/jwt", headers=[("authorization", "Bearer " + token())])
    case("flags in order", path="/idle", headers=[("x-fault", "1")], do="delay=900")
    case("grpc timeout offset", path="/offset", headers=[("grpc-timeout", "500m"), ("content-type", "application/grpc")], do="delay=2000")
    for v2 in (False, True):
        case("trailers of grpc %d" % v2, v2=v2, path="/grpc/internal", headers=[("content-type", "application/grpc")], do="body=10;grpc=7")


SKIPPED = {"date", "x-envoy-upstream-service-time", "x-request-id", "x-case", "x-do", "x-key", "content-length"}
KNOWN = [(r"^(previous hosts|no canary)", r"^log attempts:", "the first try goes to either host"),
         (r"^redirect once to http://test/ir/once", r".", "previous_routes: the route itself counts as one that was taken")]


def known(name, note):
    return any(re.search(c, name) and re.search(n, note) for c, n, _ in KNOWN)


def fields(headers):
    """A retry says what is left of its time: to the second"""
    return sorted((k, str(round(int(v) / 1000)) if k == "x-envoy-expected-rq-timeout-ms" and int(v) > 1000 else v)
                  for k, v in headers if k.lower() not in SKIPPED)


def run(pair, i, port, how):
    how = dict(how)
    key, v2 = "%s-%d" % (pair.kind, i), how.pop("v2", False)
    how["do"] = (how.get("do") or "").replace("@key", key) or None
    how["headers"] = [(k, v.replace("@key", key)) for k, v in how.get("headers", ())] + [("x-case", "c%d" % i)]
    if v2:
        c = H2Client(pair.ports[port])
        c.s.settimeout(5)
        r = c.ask(**how)
        c.close()
    else:
        r = ask(pair.ports[port], timeout=5, **how)
    try:
        body = json.loads(r.body)
        body["headers"] = fields([tuple(h) for h in body["headers"]])
    except (ValueError, KeyError, TypeError):
        body = r.body.decode("latin-1")
    return {"status": r.status, "whole": r.whole, "headers": fields(r.headers), "trailers": sorted(r.trailers), "body": body}


def main():
    tap = Tap()
    ups = {"h1": Upstream("up"), "h2": Upstream("up2", h2_only=True), "bad": Upstream("bad"), "good": Upstream("good"),
           "four": [Upstream("four%d" % i) for i in range(4)], "shadow-envoy": Upstream("s"), "shadow-weft": Upstream("s")}
    ups["bad"].habit = "status=503"
    pairs = [Pair("envoy", ups), Pair("weft", ups)]
    cases()
    only = os.environ.get("ONLY")
    picked = [(i, *c) for i, c in enumerate(CASES) if not only or re.search(only, c[0])]
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(8) as ex:
        jobs = {(p.kind, i): ex.submit(run, p, i, port, how) for i, _, port, how in picked for p in pairs}
    got = {}
    for k, j in jobs.items():
        try:
            got[k] = j.result()
        except Exception as e:  # noqa: BLE001
            got[k] = {"exception": repr(e)}
    shadows = [wait_for(lambda u=ups["shadow-" + p.kind]: [(s[0], s[1], fields([h for h in s[2] if h[0] != "x-forwarded-for"])) for s in u.seen
                                                           if len(s) == 3]) for p in pairs]
    logs = {}
    for p in pairs:
        tap.ok(p.proxy.stop() == 0, p.kind + " ends when told")
        logs[p.kind] = {d["case"]: d for d in map(json.loads, lines_of(p.log))}
    for i, name, _, _ in picked:
        e, w = got["envoy", i], got["weft", i]
        el, wl = (logs[k].get("c%d" % i, {}) for k in ("envoy", "weft"))
        notes = ["%s: envoy %r weft %r" % (k, e.get(k), w.get(k)) for k in sorted(set(e) | set(w)) if e.get(k) != w.get(k)]
        notes += ["log %s: envoy %r weft %r" % (k, el.get(k), wl.get(k)) for k in sorted(set(el) | set(wl)) if el.get(k) != wl.get(k)]
        left = [n for n in notes if not known(name, n)]
        tap.ok(not left, name + ": as Envoy" + (", but for what is known" if notes and not left else ""), *left)
    if not only or re.search(only, "mirror"):
        tap.same(shadows[1], shadows[0], "a mirrored request looks as Envoy's")
    return tap.done()


sys.exit(1 if main() else 0)
