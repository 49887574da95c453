#!/usr/bin/python3
"""Options of ext_authz and jwt_authn that authz.sh does not reach: the same bootstrap through weft-waypoint and a real Envoy, the same requests
to both; answers, what servers behind see, what the authorization service is told, metadata in access logs and counters must be the same.
ENVOY: its binary; AUTHZ_GO: test/peers/authz_go, built. ONLY=REGEX: some cases."""
import atexit
import base64
import hashlib
import hmac
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    H2_UP, SAN, SLOW, WORK, Ca, Proxy, T, Tap, ask, bootstrap, chain, cluster, free_ports, hcm, json_log, lines_of, listener, pem, to, wait_for)

F = T + ".extensions.filters.http."
PER = F + "ext_authz.v3.ExtAuthzPerRoute"
SECRET = b"0123456789abcdef0123456789abcdef"
NOW = int(time.time())
NS = "envoy.filters.http."
CASES = []


def b64(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


def token(secret=SECRET, pad="", **claims):
    c = {"iss": "me", "sub": "alice", "aud": "svc", "exp": NOW + 3600, "scope": "read write", **claims}
    h = b64(b'{"alg":"HS256"}') + "." + b64((json.dumps({k: v for k, v in c.items() if v is not None}) + pad).encode())
    return h + "." + b64(hmac.new(secret, h.encode(), hashlib.sha256).digest())


def bearer(t):
    return [("authorization", "Bearer " + t)]


KEYS = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": b64(SECRET)}]})


# ---- services
class Service(http.server.BaseHTTPRequestHandler):
    """Keys at /keys..., which fail the first N times below /fail-N/; below /check a verdict that x-authz asks for"""
    protocol_version = "HTTP/1.1"
    count, told, lock = {}, {}, threading.Lock()

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with Service.lock:
            n = Service.count[self.path] = Service.count.get(self.path, 0) + 1
        if self.path.startswith("/keys"):
            m = re.search(r"fail-(\d+)", self.path)
            return self.say(503 if m and n <= int(m.group(1)) else 200, KEYS.encode())
        case = self.headers.get("x-case", "")
        Service.told.setdefault(case, []).append((self.command, self.path, sorted(
            (k.lower(), v) for k, v in self.headers.items() if k.lower() not in ("x-case", "x-envoy-expected-rq-timeout-ms", "host")),
            body.decode("latin-1")))
        want = self.headers.get("x-authz", "200")
        if want.startswith("again"):  # fails the first time
            want = "503" if len(Service.told[case]) < 2 else "200"
        return self.say(int(want), b"because", [
            ("x-up-a", "u"), ("x-app", "second"), ("x-no-a", "n"), ("x-yes-a", "y"), ("x-meta-a", "m"), ("x-other", "o"), ("location", "/login"),
            ("set-cookie", "a=b"), ("set-cookie", "c=d"), ("x-envoy-auth-headers-to-remove", "x-gone")])

    do_POST = do_PUT = do_OPTIONS = do_GET

    def say(self, status, body, head=()):
        try:
            self.send_response(status)
            for k, v in head:
                self.send_header(k, v)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *a):
        pass


class Go:
    """The gRPC service: what it was told, by case"""

    def __init__(self):
        self.told, self.port = {}, 0
        if os.environ.get("AUTHZ_GO"):
            self.p = subprocess.Popen([os.environ["AUTHZ_GO"]], stdout=subprocess.PIPE, text=True)
            atexit.register(self.p.kill)
            self.port = int(self.p.stdout.readline())
            threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.p.stdout:
            m = json.loads(line)
            h = m["attributes"]["request"]["http"]
            raw = {x["key"]: base64.b64decode(x["rawValue"]).decode("latin-1") for x in h.get("headerMap", {}).get("headers", ())}
            case = (h.get("headers") or raw).get("x-case")
            self.told.setdefault(case, []).append(self.clean(m))

    @staticmethod
    def clean(m):
        """Without what differs from request to request"""
        a = m["attributes"]
        h = a["request"]["http"]
        for k in ("x-request-id", "x-case", ":authority"):
            h.get("headers", {}).pop(k, None)
        if "headerMap" in h:
            h["headerMap"] = sorted((x["key"], x["rawValue"]) for x in h["headerMap"]["headers"]
                                    if x["key"] not in ("x-request-id", "x-case", ":authority"))
        for k in ("id", "host"):
            h.pop(k, None)
        a["request"].pop("time", None)
        for k in ("source", "destination"):
            a[k]["address"]["socketAddress"].pop("portValue", None)
        return m


# ---- configuration
def f(name, kind, **conf):
    return {"name": name, "typed_config": {"@type": F + kind, **conf}}


def names(*v, **by):
    return {"patterns": [{"exact": x} for x in v] + [{k: x} for k, x in by.items()]}


def grpc(**more):
    return f("az", "ext_authz.v3.ExtAuthz", transport_api_version="V3", grpc_service={
        "envoy_grpc": {"cluster_name": "go"}, "timeout": "%ds" % (5 * SLOW)}, **more)


def by_http(service=None, **more):
    return f("az", "ext_authz.v3.ExtAuthz", http_service={
        "server_uri": {"uri": "http://authz.example", "cluster": "service", "timeout": "%ds" % (5 * SLOW)}, **(service or {})}, **more)


def settings(**m):
    return {"typed_per_filter_config": {"az": {"@type": PER, "check_settings": m}}}


def jwt(**more):
    """For metadata in front of ext_authz, and by itself"""
    return f("jwt", "jwt_authn.v3.JwtAuthentication", **more)


LOCAL = {"issuer": "me", "local_jwks": {"inline_string": KEYS}}
LENIENT = jwt(providers={"p": {**LOCAL, "payload_in_metadata": "pay"}}, rules=[
    {"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]}}}])
LISTS = {
    "path_prefix": "/check",
    "authorization_request": {"allowed_headers": names("x-authz", "x-case", prefix="x-open"),
                              "headers_to_add": [{"key": "x-added", "value": "a"}, {"key": "x-open-b", "value": "set"}]},
    "authorization_response": {
        "allowed_upstream_headers": names(prefix="x-up"), "allowed_upstream_headers_to_append": names("x-app"),
        "allowed_client_headers": names("set-cookie", prefix="x-no"), "allowed_client_headers_on_success": names("set-cookie", suffix="-a"),
        "dynamic_metadata_from_headers": names(prefix="x-meta")}}
RULES = [{}, {"allow_all_routing": True}, {"allow_envoy": True}, {"disallow_system": True}, {"disallow_all": True}, {"disallow_is_error": True},
         {"disallow_all": True, "allow_expression": {"regex": "x-a|host|:.*|x-envoy-b"}}, {"disallow_system": True, "allow_expression": {"regex": ".*"}},
         {"disallow_expression": {"regex": "x-[a-z]+"}, "allow_expression": {"regex": "x-.*"}, "allow_all_routing": True}]
GRPC_CHAINS = {
    "plain": grpc(), "dirty": grpc(), "raw": grpc(encode_raw_headers=True, disallowed_headers=names("x-secret")),
    "lists": grpc(allowed_headers=names("x-authz", "x-case", prefix="x-open"), disallowed_headers=names("x-open-not")),
    "meta": grpc(metadata_context_namespaces=[NS + "jwt_authn", "none"], route_metadata_context_namespaces=["route.ns", "none"]),
    "valid": grpc(validate_mutations=True), "ingest": grpc(enable_dynamic_metadata_ingestion=False),
    "cut": grpc(max_denied_response_body_bytes=4), "free": grpc(charge_cluster_response_stats=False), "clear": grpc(clear_route_cache=True),
    "bytes": grpc(with_request_body={"max_request_bytes": 8, "allow_partial_message": True, "pack_as_bytes": True}),
    "text": grpc(with_request_body={"max_request_bytes": 8, "allow_partial_message": True}),
    "bymeta": grpc(filter_enabled_metadata={"filter": NS + "jwt_authn", "path": [{"key": "pay"}, {"key": "sub"}],
                                            "value": {"string_match": {"prefix": "al"}}}),
    **{"rules%d" % i: grpc(decoder_header_mutation_rules=r) for i, r in enumerate(RULES)},
    "tls": grpc(include_peer_certificate=True, include_tls_session=True), "tls0": grpc(),
}
HTTP_CHAINS = {"http": by_http(LISTS), "bare": by_http(allowed_headers=names("x-authz", "x-case"))}
TLS = ("tls", "tls0")
NAMED = {"provider_name": "p"}


def provider(requires=None, more=None, **conf):
    return jwt(providers={"p": {**LOCAL, **conf}, "q": {"issuer": "you", "local_jwks": {"inline_string": KEYS}}},
               rules=[{"match": {"prefix": "/"}, "requires": requires or NAMED}], **(more or {}))


def any_of(kind):
    return {"requires_any": {"requirements": [NAMED, {"provider_name": "q"}, {kind: {}}]}}


def remote(path, **more):
    return {"issuer": "me", "remote_jwks": {"http_uri": {"uri": "https://keys.example" + path, "cluster": "service", "timeout": "5s"}, **more}}


JWT_CHAINS = {
    "auds": provider(audiences=["https://svc/", "two"]), "rule": provider({"provider_and_audiences": {"provider_name": "p", "audiences": ["special"]}}),
    "from": provider(from_headers=[{"name": "X-Token", "value_prefix": "T "}, {"name": "x-bare"}], from_params=["tok"], from_cookies=["ck"]),
    "keep": provider(from_headers=[{"name": "x-bare"}], from_params=["tok"], from_cookies=["ck"], forward=True),
    "pay": provider(payload_in_metadata="pay", header_in_metadata="hdr", failed_status_in_metadata="failed"),
    "norm": provider(payload_in_metadata="pay", normalize_payload_in_metadata={"space_delimited_claims": ["scope", "sub", "none"]}),
    "soft": provider(any_of("allow_missing_or_failed"), failed_status_in_metadata="failed", payload_in_metadata="pay"),
    "missing": provider(any_of("allow_missing"), failed_status_in_metadata="failed"),
    "skew": provider(clock_skew_seconds=120), "pad": provider(forward_payload_header="x-p", pad_forward_payload_header=True),
    "nopad": provider(forward_payload_header="x-p"), "subj": provider(subjects={"suffix": "ce"}), "exp": provider(require_expiration=True),
    "life": provider(max_lifetime="100s"), "strip": provider(more={"strip_failure_response": True}),
    "cors": provider(more={"bypass_cors_preflight": True}), "nocors": provider(),
    "route": provider(claim_to_headers=[{"header_name": "x-new", "claim_name": "sub"}], clear_route_cache=True),
    "noroute": provider(claim_to_headers=[{"header_name": "x-new", "claim_name": "sub"}]),
    "cache": provider(jwt_cache_config={"jwt_cache_size": 10, "jwt_max_token_size": 250}),
}


def remote_chains(kind):
    """Each side fetches for itself: paths by side"""
    rule = [{"match": {"prefix": "/"}, "requires": NAMED}]
    return {
        "old": jwt(providers={"p": remote("/keys/old/" + kind, cache_duration="0.3s")}, rules=rule),
        "lasting": jwt(providers={"p": remote("/keys/lasting/" + kind)}, rules=rule),
        "async": jwt(providers={"p": remote("/keys/async/" + kind, cache_duration="1s", async_fetch={"fast_listener": True})}, rules=rule),
        "failed": jwt(providers={"p": remote("/keys/fail-2/" + kind, async_fetch={"failed_refetch_duration": "0.3s"})}, rules=rule),
        "retried": jwt(providers={"p": remote("/keys/fail-1/again/" + kind, retry_policy={
            "num_retries": 2, "retry_back_off": {"base_interval": "0.01s"}})}, rules=rule)}


REMOTE = ("old", "lasting", "async", "failed", "retried")
ALL = [*GRPC_CHAINS, *HTTP_CHAINS, *JWT_CHAINS, *REMOTE]
META = "%%DYNAMIC_METADATA(%s)%%"
LOG = {"case": "%REQ(x-case)%", "details": "%RESPONSE_CODE_DETAILS%", "flags": "%RESPONSE_FLAGS%", "route": "%ROUTE_NAME%",
       "jwt": META % (NS + "jwt_authn"), "who": META % (NS + "ext_authz:who"), "x-meta-a": META % (NS + "ext_authz:x-meta-a")}
ROUTES = [to("up", match={"prefix": "/", "headers": [{"name": "x-new", "present_match": True}]}, route_={"name": "new"}),
          to("up", "/set", route_={"name": "set", **settings(context_extensions={"a": "b", "c": "d"}, disable_request_body_buffering=True)}),
          to("up", "/whole", route_={"name": "whole", **settings(with_request_body={"max_request_bytes": 1000})}),
          to("up", "/off", route_={"name": "off", "typed_per_filter_config": {"az": {"@type": PER, "disabled": True}}}),
          to("up", "/", route_={"name": "old", "metadata": {"filter_metadata": {"route.ns": {"r": "1"}, "other": {"o": "2"}}}})]


class Side:
    def __init__(self, kind, up, service, go, ca):
        self.kind, self.ports, self.log = kind, dict(zip(ALL, free_ports(len(ALL)))), os.path.join(WORK, kind + ".access")
        chains = {**{k: [LENIENT, v] for k, v in GRPC_CHAINS.items()}, **{k: [v] for k, v in {**HTTP_CHAINS, **JWT_CHAINS}.items()},
                  **{k: [v] for k, v in remote_chains(kind).items()}}
        server = {"common_tls_context": {"tls_certificates": [pem(*ca.issue(kind, "DNS:way.example,URI:spiffe://td/way"))], "validation_context": {
            "trusted_ca": {"filename": ca.cert}}}, "require_client_certificate": True}
        routes = {n: json.loads(json.dumps(ROUTES).replace('"up"', '"up-%s"' % n)) for n in ("free", "dirty")}
        routes.update({n: routes["dirty"] for n in REMOTE})  # as often as it takes
        listeners = [listener(n, p, chain(hcm(routes.get(n, ROUTES), chains[n], stat_prefix=n, access_log=json_log(self.log, **LOG)),
                                          tls=server if n in TLS else None)) for n, p in self.ports.items()]
        clusters = [cluster("up", up.port), cluster("up-free", up.port), cluster("up-dirty", up.port), cluster("service", service), cluster("go", go or service, http=H2_UP)]
        self.proxy = Proxy(bootstrap(listeners, clusters), kind, args=["--no-seccomp"] if kind == "weft" and SAN else [])


# ---- cases
def case(name, port, want=None, **how):
    CASES.append((name, port, want, how))


def say(**answer):
    return [("x-authz", json.dumps(answer))]


def ok(**m):
    return say(status={}, okResponse=m)


def header(k, v, **more):
    return {"header": {"key": k, "value": v}, **more}


DENY = say(status={"code": 7}, deniedResponse={"status": {"code": "PaymentRequired"}, "body": "pay first", "headers": [
    header("x-why", "money"), header("set-cookie", "a=b"), header("set-cookie", "c=d")]})


def grpc_cases():
    for p in GRPC_CHAINS:
        case("let through", p, 200, headers=ok() + bearer(token()) + [("x-open", "1"), ("x-secret", "s"), ("x-open-not", "n"), ("x-open", "2")])
        case("denied", p, 402 if p not in ("bymeta",) else None, headers=DENY + bearer(token()))
    case("not for these", "bymeta", 200, headers=DENY + bearer(token(sub="bob")))
    case("nor for those without", "bymeta", 200, headers=DENY)
    for p in ("bytes", "text"):
        for body in (b"", b"1234", b"12345678", b"1234567890", b"\xff\xfe\0", "\u00e9".encode()):
            for path in ("/", "/set", "/whole", "/off"):
                case("body %r to %s" % (body, path), p, 200, path=path, method="POST", body=body, headers=ok())
        case("chunked body", p, 200, method="POST", body=b"1234567890", chunked=True, headers=ok())
    case("metadata of nobody", "meta", 200, headers=ok())
    case("extensions", "plain", 200, path="/set", headers=ok())
    for p in ("clear", "plain"):
        case("a header of another route", p, 200, headers=ok(headers=[header("x-new", "1")]))
        case("nothing changes", p, 200, headers=ok())
        case("a header goes", p, 200, headers=[("x-new", "1")] + ok(headersToRemove=["x-new"]))
        case("only the answer changes", p, 200, headers=ok(responseHeadersToAdd=[header("x-r", "1")]))
    for i in range(len(RULES)):
        for k, v in (("x-a", "1"), ("x-a-b", "1"), ("x-envoy-b", "1"), ("host", "other"), (":authority", "other"), (":path", "/other"), (":scheme", "https"),
                     (":method", "PUT")):
            case("rules for " + k, "rules%d" % i, headers=[("x-a", "0")] + ok(headers=[header(k, v)]))
            case("rules for %s to append" % k, "rules%d" % i, headers=[("x-a", "0")] + ok(headers=[header(k, v, append=True)]))
        for k in ("x-a", "x-a-b", "x-envoy-b", "host", ":path"):
            case("rules for %s to remove" % k, "rules%d" % i, headers=[("x-a", "0"), ("x-a-b", "0"), ("x-envoy-b", "0")] + ok(headersToRemove=[k]))
    for p in ("ingest", "plain"):
        case("metadata of the service", p, 200, headers=say(okResponse={}, dynamicMetadata={"who": "me"}))
        case("metadata of a refusal", p, 403, headers=say(status={"code": 7}, dynamicMetadata={"who": "me"}))
    for p in ("valid", "dirty"):
        for what, bad in (("name", header("x bad", "1")), ("value", header("x-bad", "a\nb")), ("empty name", header("", "a")), ("tab", header("x-t", "a\tb"))):
            case("bad %s to the server" % what, p, headers=ok(headers=[bad, header("x-good", "1")]))
            case("bad %s to the client" % what, p, headers=ok(responseHeadersToAdd=[bad, header("x-good", "1")]))
            case("bad %s of a refusal" % what, p, headers=say(status={"code": 7}, deniedResponse={"headers": [bad, header("x-good", "1")]}))
        case("bad name to remove", p, headers=ok(headersToRemove=["x bad", "x-good"]) + [("x-good", "1")])
        for k, v in (("b c", "1"), ("b", "1 2"), ("b", "1/2"), ("b", "a,b:c"), ("b", "%20"), ("b", "1+2"), ("b.", "1"), ("b-", "1"), ("b_", "1"), ("b~", "1"), ("b", "~"), ("b", ""), ("b", "(1)!*'"), ("b", "x=y&z")):
            case("parameter %s=%s" % (k, v), p, path="/?a=1", headers=ok(queryParametersToSet=[{"key": k, "value": v}]))
    for p in ("cut", "plain"):
        for n in (0, 3, 4, 5, 100):
            case("refusal of %d bytes" % n, p, 403, headers=say(status={"code": 7}, deniedResponse={"body": "x" * n}))


def http_cases():
    for status in (200, 201, 302, 401, 403, 418, 500, 503):
        for p in HTTP_CHAINS:
            case("status %d" % status, p, path="/a?b=c", headers=[
                ("x-authz", str(status)), ("x-open-a", "1"), ("x-open-b", "client"), ("x-secret", "s"), ("x-app", "first"), ("x-gone", "g"),
                ("x-up-a", "forged"), ("authorization", "Basic Zm9v"), ("cookie", "k=v")], method="PUT" if status == 201 else "GET", body=b"abc")


def jwt_cases():
    for aud in ("svc", "http://svc", "https://svc/", "two", "three", "special", ["x", "two"], ["special"], [], None):
        for p in ("auds", "rule"):
            case("audience %s" % aud, p, headers=bearer(token(aud=aud)))
    for p in ("from", "keep"):
        case("bare", p, 200, headers=[("x-bare", token())])
        case("parameter", p, 200, path="/?a=1&tok=%s&b=2" % token())
        case("parameter first", p, 200, path="/?tok=%s&b=2" % token())
        case("parameter alone", p, 200, path="/x?tok=" + token())
        case("cookie", p, 200, headers=[("cookie", "a=1; ck=%s; b=2" % token())])
        case("cookie in quotes", p, headers=[("cookie", 'ck="%s"' % token())])
        case("usual place", p, 401, headers=bearer(token()))
        case("two places", p, 200, path="/?tok=" + token(), headers=[("x-bare", token(sub="bob"))])
        case("two places, one bad", p, 401, path="/?tok=" + token(), headers=[("x-bare", token(b"other"))])
    for v in ("T %s", "T  %s", "T%s", "t %s", "U %s", "%s", "xT %s", "T %s,", 'T "%s"', "T %s U"):
        case("prefix in %s" % v, "from", headers=[("x-token", v % token())])
    bad = {"good": token(), "forged": token(b"other"), "expired": token(exp=NOW - 900), "another": token(iss="you"), "unknown": token(iss="x"),
           "subject": token(sub="bob"), "three words": token(scope="a  b c "), "list": token(scope=["a b", "c"]), "garbage": "a.b.c"}
    for p in ("pay", "norm", "soft", "missing", "subj", "strip"):
        for k, t in bad.items():
            case(k, p, headers=bearer(t))
        case("none", p)
    for p in ("skew", "exp", "life", "auds"):
        for d in (-300, -90, -30, 30, 90, 200, None):
            case("ends in %s" % d, p, headers=bearer(token(exp=None if d is None else NOW + d)))
        case("begins in 30", p, headers=bearer(token(nbf=NOW + 30)))
        case("began", p, headers=bearer(token(nbf=NOW - 30, exp=NOW + 50)))
        case("of long ago", p, headers=bearer(token(iat=NOW - 3600, exp=NOW + 50)))
    for p in ("pad", "nopad"):
        for n in range(3):
            case("payload and %d" % n, p, 200, headers=bearer(token(pad=" " * n)))
    for p in ("cors", "nocors"):
        for h in ([("origin", "http://a"), ("access-control-request-method", "GET")], [("origin", "http://a")], [("access-control-request-method", "GET")], []):
            case("preflight %d" % len(h), p, method="OPTIONS", headers=h)
        case("not a preflight", p, 401, headers=[("origin", "http://a"), ("access-control-request-method", "GET")])
    for p in ("route", "noroute"):
        case("route by a claim", p, 200, headers=bearer(token()))
        case("no claim", p, 200, headers=bearer(token(sub=None)))
    for i in range(3):
        case("kept %d" % i, "cache", 200, headers=bearer(token(aud=None, scope=None)))
        case("too large %d" % i, "cache", 200, headers=bearer(token(scope="x" * 200)))


SKIPPED = {"date", "server", "x-envoy-upstream-service-time", "x-request-id", "x-case", "x-authz", "x-envoy-expected-rq-timeout-ms", "host"}
KNOWN = [  # deliberate: docs/filters.md
    (r"^rules[1-8]: rules for (host|:\w+) to append", r"^(headers|body)", "what a request has once is replaced; Envoy makes a list of it"),
    (r"^text: body .*\\x00", r"^told", "a text has no NUL: an exclamation mark stands for it"),
    (r": bad empty name", r".", "a header without a name goes nowhere"),
    (r"^dirty: bad (name|value)", r".", "a header that none may be is left out; Envoy writes it, or answers 503"),
    (r"^dirty: parameter b( c=1|=1 2)$", r".", "a space is escaped; Envoy's request line breaks"),
    (r"^from: prefix in T %s U", r"^(headers|body|log)", "white space in a signature: refused with another text")]


def fields(headers):
    return sorted((k, v) for k, v in headers if k.lower() not in SKIPPED)


def run(side, i, port, how, tls):
    how = dict(how)
    how["headers"] = list(how.get("headers", ())) + [("x-case", "%.1s-%d" % (side.kind, i))]
    if port in TLS:
        how.update(tls=tls, sni="way.example")
    r = ask(side.ports[port], timeout=10, **how)
    try:
        body = json.loads(r.body)
        body["headers"] = fields([tuple(h) for h in body["headers"]])
    except (ValueError, KeyError, TypeError):
        body = r.body.decode("latin-1")
    return {"status": r.status, "whole": r.whole, "headers": fields(r.headers), "body": body}


def keys_of_servers(tap, sides, tls):
    """How often each side fetched: at once, after cache_duration, by itself, after a failure"""
    def ask_all(port):
        return [run(s, 0, port, {"headers": bearer(token())}, tls)["status"] for s in sides]

    def fetched(path):
        return [Service.count.get("/keys/%s/%s" % (path, s.kind), 0) for s in sides]
    tap.same(ask_all("lasting") * 2, [200] * 4, "keys of a server")
    ask_all("lasting")
    tap.same(fetched("lasting"), [1, 1], "keys of a server: fetched once")
    tap.same(ask_all("old"), [200, 200], "cache_duration: fetched")
    before = fetched("old")
    time.sleep(0.4)
    tap.same([before, ask_all("old"), fetched("old")], [[1, 1], [200, 200], [2, 2]], "cache_duration: fetched again when old")
    tap.same(ask_all("async"), [200, 200], "async_fetch")
    tap.ok(wait_for(lambda: min(fetched("async")) >= 3, 15), "async_fetch: comes again before it is old", fetched("async"))
    tap.same(ask_all("retried"), [200, 200], "retry_policy: the second try has them")
    tap.same(fetched("fail-1/again"), [2, 2], "retry_policy: two tries")
    first = ask_all("failed")
    tap.ok(wait_for(lambda: min(fetched("fail-2")) >= 3, 15), "failed_refetch_duration: tried again", fetched("fail-2"), first)
    tap.ok(wait_for(lambda: ask_all("failed") == [200, 200], 15), "failed_refetch_duration: then good", first)


def counters(tap, sides):
    want = r"^(http\.[^.]*\.(ext_authz|jwt_authn)\.|cluster\.up(-free)?\.(ext_authz\.|upstream_rq_[1-5xc]))"
    a, b = ({k: v for k, v in s.proxy.stats(want).items() if v} for s in sides)
    for k in sorted(set(a) | set(b)):
        if not any(x in k for x in ("jwks_fetch", "jwt_cache_hit", "jwt_cache_miss")) and k.split(".")[1] not in REMOTE:
            tap.same(b.get(k), a.get(k), "counter " + k)
    tap.same([s.proxy.stats(r"^http\.cache\.jwt_authn\.jwt_cache_").get("http.cache.jwt_authn.jwt_cache_hit") for s in sides], [2, 2],
             "jwt_max_token_size: larger ones are not kept")


def main():
    tap = Tap()
    up, go, ca = Upstream("up"), Go(), Ca("root")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sides = [Side(k, up, server.server_address[1], go.port, ca) for k in ("envoy", "weft")]
    import ssl
    tls = ssl.create_default_context(cafile=ca.cert)
    tls.load_cert_chain(*ca.issue("client", "URI:spiffe://td/client,DNS:client.example"))
    if go.port:
        grpc_cases()
    else:
        tap.skip("gRPC service", os.environ.get("GO_WHY") or "AUTHZ_GO is not set")
    http_cases()
    jwt_cases()
    only = os.environ.get("ONLY")
    picked = [(i, *c) for i, c in enumerate(CASES) if not only or re.search(only, c[1] + ": " + c[0])]
    got = {(s.kind, i): run(s, i, port, how, tls) for s in sides for i, _, port, _, how in picked}
    if not only:
        keys_of_servers(tap, sides, tls)
        counters(tap, sides)
    for s in sides:
        tap.ok(s.proxy.stop() == 0, s.kind + " ends when told", s.proxy.log()[-1500:])
    logs = {d.pop("case"): d for s in sides for d in map(json.loads, lines_of(s.log))}
    missing = ["%.1s-%d" % (s.kind, c[0]) for s in sides for c in picked if "%.1s-%d" % (s.kind, c[0]) not in logs]
    tap.ok(not missing, "each of %d requests is logged by both" % len(picked), missing)
    for i, name, port, want, _ in picked:
        e, w = got["envoy", i], got["weft", i]
        for s, d in (("envoy", e), ("weft", w)):
            d["log"] = {k: v for k, v in logs.get("%.1s-%d" % (s, i), {}).items() if v is not None}
            d["told"] = go.told.get("%.1s-%d" % (s, i), Service.told.get("%.1s-%d" % (s, i)))
        notes = ["%s: envoy %r\n   weft %r" % (k, e[k], w[k]) for k in e if e[k] != w[k]]
        left = [n for n in notes if not any(re.search(c, port + ": " + name) and re.search(t, n) for c, t, _ in KNOWN)]
        if want and e["status"] != want:
            left.append("status: envoy %d, wanted %d" % (e["status"], want))
        tap.ok(not left, "%s: %s: as Envoy%s" % (port, name, ", but for what is known" if notes and not left else ""), *left)
    return tap.done()


sys.exit(1 if main() else 0)
