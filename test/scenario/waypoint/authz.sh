#!/usr/bin/env bash
# RBAC, tokens and an authorization service (HTTP, and gRPC by grpc-go) through a real weft-waypoint, and the same requests through a
# real Envoy: status, body, challenge, what the server behind sees, and what the access log says must be the same.
# limit: 420
set -u
cd "$(dirname "$0")/../../.." || exit 1
. test/lib/mesh.sh
. test/lib/envoy.sh
. test/lib/go.sh
mesh_need python3 openssl curl
envoy_need
export ENVOY
AUTHZ_GO=
GO_WORK=$(mktemp -d)
trap 'chmod -R u+w "$GO_WORK"; rm -rf "$GO_WORK"' EXIT
if go_need; then
	export HOME=${HOME:-$GO_WORK}
	if (cd test/peers/authz_go && GOFLAGS=-mod=readonly timeout --foreground 240 go build -o "$GO_WORK/authz_go" .) >"$GO_WORK/log" 2>&1; then
		AUTHZ_GO=$GO_WORK/authz_go
	else
		GO_WHY="the service does not build: $(tail -1 "$GO_WORK/log")"
	fi
fi
export AUTHZ_GO GO_WHY
/usr/bin/python3 - <<'PY'
import base64, hashlib, hmac, http.server, json, os, subprocess, sys, threading, time
sys.path.insert(0, "test/lib")
from upstream_kit import Upstream
from waypoint_kit import *

tap = Tap()
F = T + ".extensions.filters.http."


# ---- keys and tokens
def b64(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


def key_file(name, *args):
    path = os.path.join(WORK, name + ".pem")
    openssl("genpkey", *args, "-out", path)
    return path


RSA = key_file("rsa", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
RSA2 = key_file("rsa2", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
EC = {n: key_file(n, "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:" + n) for n in ("P-256", "P-384", "P-521")}
ED = key_file("ed", "-algorithm", "ED25519")
SECRET = b"0123456789abcdef0123456789abcdef"


def der_of(path):
    return openssl("pkey", "-in", path, "-pubout", "-outform", "DER")


def rsa_jwk(path, **more):
    n = int(openssl("rsa", "-in", path, "-noout", "-modulus").decode().split("=")[1], 16)
    return {"kty": "RSA", "n": b64(n.to_bytes((n.bit_length() + 7) // 8, "big")), "e": "AQAB", **more}


def ec_jwk(crv, **more):
    size = {"P-256": 32, "P-384": 48, "P-521": 66}[crv]
    point = der_of(EC[crv])[-2 * size:]
    return {"kty": "EC", "crv": crv, "x": b64(point[:size]), "y": b64(point[size:]), **more}


JWKS = {"keys": [rsa_jwk(RSA, kid="rsa"), ec_jwk("P-256", kid="e256"), ec_jwk("P-384", kid="e384"), ec_jwk("P-521", kid="e521"),
                 {"kty": "OKP", "crv": "Ed25519", "x": b64(der_of(ED)[-32:]), "kid": "ed"},
                 {"kty": "oct", "k": b64(SECRET), "kid": "hs", "alg": "HS256"}, {"kty": "oct", "k": b64(SECRET), "kid": "hs512", "alg": "HS512"}]}


def raw_ecdsa(der, size):
    i = 2 + (der[1] & 0x7f if der[1] & 0x80 else 0)
    out = b""
    for _ in range(2):
        n = der[i + 1]
        out += der[i + 2:i + 2 + n].lstrip(b"\0").rjust(size, b"\0")
        i += 2 + n
    return out


def sign(alg, data, key):
    bits = alg[2:]
    path = os.path.join(WORK, "data")
    with open(path, "wb") as f:
        f.write(data)
    if alg.startswith("HS"):
        return hmac.new(SECRET, data, "sha" + bits).digest()
    if alg == "EdDSA":
        return openssl("pkeyutl", "-sign", "-inkey", key or ED, "-rawin", "-in", path)
    if alg.startswith("ES"):
        crv = {"256": "P-256", "384": "P-384", "512": "P-521"}[bits]
        return raw_ecdsa(openssl("dgst", "-sha" + bits, "-sign", key or EC[crv], path), {"256": 32, "384": 48, "512": 66}[bits])
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"] if alg[0] == "P" else []
    return openssl("dgst", "-sha" + bits, *pss, "-sign", key or RSA, path)


KIDS = {"ES256": "e256", "ES384": "e384", "ES512": "e521", "EdDSA": "ed", "HS256": "hs", "HS512": "hs512"}
NOW = int(time.time())


def token(alg="RS256", kid=None, key=None, head=None, **claims):
    c = {"iss": "good", "sub": "alice", "aud": "svc", "exp": NOW + 3600, "n": 7, "f": 1.5, "yes": True, "scope": "read write",
         "deep": {"er": "down"}, "list": ["a", "b"]}
    c.update(claims)
    c = {k: v for k, v in c.items() if v is not None}
    h = {"alg": alg, "kid": kid or KIDS.get(alg, "rsa")} if head is None else head
    data = (b64(json.dumps(h).encode()) + "." + b64(json.dumps(c).encode())).encode()
    return data.decode() + "." + b64(sign(alg, data, key))


# ---- what stands around
class Asked(http.server.BaseHTTPRequestHandler):
    """Keys at /jwks and /slow-jwks; below /check a verdict that x-authz asks for."""
    protocol_version = "HTTP/1.1"
    count = {}

    def do_POST(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        Asked.count[path] = Asked.count.get(path, 0) + 1
        n = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(n)
        if path == "/jwks":
            return self.say(200, json.dumps(JWKS).encode())
        if path == "/bad-jwks":
            return self.say(200, b"{}")
        if path == "/no-jwks":
            return self.say(404, b"")
        want = self.headers.get("x-authz", "")
        head = [("x-up", "up"), ("x-append", "more"), ("x-client", "c"), ("x-secret", "s"), ("x-meta", "m"),
                ("x-envoy-auth-headers-to-remove", "x-gone, x-gone2"),
                ("x-told", json.dumps(sorted(k.lower() for k in self.headers.keys() if k.lower() not in (
                    "user-agent", "accept", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms")))),
                ("x-told-path", self.path), ("x-told-body", "%d:%s" % (n, body[:20].decode("latin-1"))),
                ("x-told-partial", self.headers.get("x-envoy-auth-partial-body", "-"))]
        if want == "slow":
            time.sleep(1)
        self.say({"ok": 200, "slow": 200, "broken": 500, "redirect": 302, "denied": 403, "teapot": 418}.get(want, 401), b"because " + want.encode(),
                 head + ([("location", "http://login.example/")] if want == "redirect" else []))

    do_PUT = do_DELETE = do_GET

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


asked = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Asked)
threading.Thread(target=asked.serve_forever, daemon=True).start()
ASKED = asked.server_address[1]
up = Upstream("up")
go_lines = []
GO = 0
if os.environ["AUTHZ_GO"]:
    go = subprocess.Popen([os.environ["AUTHZ_GO"]], stdout=subprocess.PIPE, text=True)
    import atexit
    atexit.register(go.kill)
    GO = int(go.stdout.readline())

    def read():
        for line in go.stdout:
            go_lines.append(json.loads(line))
    threading.Thread(target=read, daemon=True).start()
DEAD = free_ports(1)[0]


# ---- configuration
def f(name, kind, **conf):
    return {"name": name, "typed_config": {"@type": F + kind, **conf}}


def per(**confs):
    return {"typed_per_filter_config": confs}


def rbac(**conf):
    return {"@type": F + "rbac.v3.RBAC", **conf}


ANY = {"any": True}
HDR = lambda n, v: {"header": {"name": n, "string_match": {"exact": v}}}  # noqa: E731
RULES = {"action": "DENY", "policies": {
    "no admin": {"permissions": [{"url_path": {"path": {"prefix": "/rbac/admin"}}}], "principals": [{"not_id": HDR("x-role", "boss")}]},
    "a-method": {"permissions": [{"and_rules": {"rules": [HDR(":method", "DELETE"), {"destination_port_range": {"start": 1, "end": 65536}}]}}],
                 "principals": [{"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}]},
    "z-far": {"permissions": [{"or_rules": {"rules": [{"url_path": {"path": {"safe_regex": {"regex": "/rbac/[0-9]+"}}}}, HDR("x-deny", "1")]}}],
              "principals": [{"or_ids": {"ids": [{"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}, ANY]}}]}}}
SHADOW = {"policies": {"only-get": {"permissions": [HDR(":method", "GET")], "principals": [ANY]}}}


def act(name, action):
    return {"action": {"name": "a", "typed_config": {"@type": T + ".config.rbac.v3.Action", "name": name, "action": action}}}


def hinput(name):
    return {"name": "i", "typed_config": {"@type": T + ".type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}}


TREE = {"matcher_list": {"matchers": [
    {"predicate": {"and_matcher": {"predicate": [
        {"single_predicate": {"input": hinput("x-a"), "value_match": {"exact": "1"}}},
        {"not_matcher": {"single_predicate": {"input": hinput("x-b"), "value_match": {"prefix": "b"}}}}]}}, "on_match": act("first", "ALLOW")},
    {"predicate": {"single_predicate": {"input": hinput("x-c"), "value_match": {"safe_regex": {"google_re2": {}, "regex": "c+"}}}},
     "on_match": {"matcher": {"matcher_tree": {"input": hinput(":method"), "exact_match_map": {"map": {"GET": act("c-get", "ALLOW")}}}}}},
    {"predicate": {"single_predicate": {"input": hinput("x-c"), "value_match": {"contains": "d"}}}, "on_match": act("d", "DENY")}]},
    "on_no_match": {"matcher": {"matcher_tree": {"input": hinput(":path"), "prefix_match_map": {"map": {
        "/": act("root", "DENY"), "/rbac-tree/open": act("open", "ALLOW"), "/rbac-tree/open/not": act("closed", "DENY")}}}}}}

REMOTE = lambda path, **m: {"remote_jwks": {"http_uri": {"uri": "http://keys.example" + path, "cluster": "asked", "timeout": "2s"}, **m}}  # noqa: E731
LOCAL = {"local_jwks": {"inline_string": json.dumps(JWKS)}}
PROVIDERS = {
    "good": {"issuer": "good", "audiences": ["svc", "https://two/"], **REMOTE("/jwks", async_fetch={}), "forward_payload_header": "x-payload",
             "payload_in_metadata": "pay", "header_in_metadata": "hdr", "failed_status_in_metadata": "failed",
             "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"}, {"header_name": "x-n", "claim_name": "n"},
                                  {"header_name": "x-f", "claim_name": "f"}, {"header_name": "x-yes", "claim_name": "yes"},
                                  {"header_name": "x-deep", "claim_name": "deep.er"}]},
    "any": {**LOCAL, "forward": True, "from_headers": [{"name": "x-token", "value_prefix": "T "}], "from_params": ["tok"], "from_cookies": ["ck"],
            "forward_payload_header": "x-payload", "pad_forward_payload_header": True},
    "third": {"issuer": "third", **LOCAL, "clock_skew_seconds": 1, "jwt_cache_config": {"jwt_cache_size": 10}, "failed_status_in_metadata": "failed"},
    "lost": {"issuer": "good", **REMOTE("/no-jwks")},
    "garbled": {"issuer": "good", **REMOTE("/bad-jwks")},
    "noservice": {"issuer": "good", "remote_jwks": {"http_uri": {"uri": "http://x/", "cluster": "dead", "timeout": "1s"}}},
    "strict": {"issuer": "good", **LOCAL, "require_expiration": True, "subjects": {"prefix": "al"}},
    "short": {"issuer": "good", **LOCAL, "max_lifetime": "100s"},
}
NAMES = ["good", "any", "third", "lost", "garbled", "noservice", "strict", "short"]
NAMED = {n: {"provider_name": n} for n in NAMES}
NAMED.update({
    "two": {"requires_any": {"requirements": [NAMED["good"], NAMED["third"]]}},
    "both": {"requires_all": {"requirements": [NAMED["third"], NAMED["any"]]}},
    "missing": {"requires_any": {"requirements": [NAMED["good"], {"allow_missing": {}}]}},
    "failed": {"requires_any": {"requirements": [NAMED["good"], {"allow_missing_or_failed": {}}]}},
    "auds": {"provider_and_audiences": {"provider_name": "third", "audiences": ["http://special/"]}},
})
JWT = f("jwt", "jwt_authn.v3.JwtAuthentication", providers=PROVIDERS, requirement_map=NAMED, bypass_cors_preflight=True, rules=[
    {"match": {"path": "/jwt/rule/open"}},
    {"match": {"prefix": "/jwt/rule/method", "headers": [{"name": ":method", "string_match": {"exact": "PUT"}}]}, "requires": NAMED["third"]},
    {"match": {"safe_regex": {"regex": "/jwt/rule/[0-9]+"}}, "requirement_name": "third"},
    {"match": {"prefix": "/jwt/rule"}, "requires": NAMED["good"]}])


def http_authz(**m):
    return {"server_uri": {"uri": "http://authz.example", "cluster": "asked", "timeout": "0.4s"}, "path_prefix": "/check",
            "authorization_request": {"headers_to_add": [{"key": "x-added", "value": "yes"}]},
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"exact": "x-up"}, {"prefix": "x-told"}]},
                "allowed_upstream_headers_to_append": {"patterns": [{"exact": "x-append"}]},
                "allowed_client_headers": {"patterns": [{"exact": "x-client"}, {"prefix": "x-told-b"}]},
                "allowed_client_headers_on_success": {"patterns": [{"exact": "X-Client"}]},
                "dynamic_metadata_from_headers": {"patterns": [{"exact": "x-meta"}]}}, **m}


AUTHZ = "ext_authz.v3.ExtAuthz"
H = f("authz-http", AUTHZ, http_service=http_authz(), allowed_headers={"patterns": [{"exact": "x-authz"}, {"prefix": "x-see"}]},
      disallowed_headers={"patterns": [{"exact": "x-see-not"}]}, with_request_body={"max_request_bytes": 10, "allow_partial_message": True})
H_OPEN = f("authz-open", AUTHZ, http_service=http_authz(), allowed_headers={"patterns": [{"exact": "x-authz"}]}, failure_mode_allow=True,
           failure_mode_allow_header_add=True)
H_ALL = f("authz-all", AUTHZ, http_service={"server_uri": http_authz()["server_uri"]}, status_on_error={"code": "ServiceUnavailable"},
          allowed_headers={"patterns": [{"exact": "x-authz"}]})
H_LIMIT = f("authz-limit", AUTHZ, http_service=http_authz(), allowed_headers={"patterns": [{"exact": "x-authz"}]},
            with_request_body={"max_request_bytes": 10})
H_OFF = f("authz-off", AUTHZ, http_service=http_authz(), deny_at_disable={"default_value": True, "runtime_key": "k"},
          filter_enabled={"default_value": {"numerator": 0}, "runtime_key": "k2"})
G = f("authz-grpc", AUTHZ, grpc_service={"envoy_grpc": {"cluster_name": "go"}, "timeout": "0.5s",
                                         "initial_metadata": [{"key": "x-init", "value": "i"}]},
      transport_api_version="V3", with_request_body={"max_request_bytes": 100}, metadata_context_namespaces=["envoy.filters.http.jwt_authn"])
G_DEAD = f("authz-dead", AUTHZ, grpc_service={"envoy_grpc": {"cluster_name": "dead2"}, "timeout": "0.5s"}, transport_api_version="V3")
CHAINS = {
    "rbac": [f("rbac", "rbac.v3.RBAC", rules=RULES, shadow_rules=SHADOW, shadow_rules_stat_prefix="sh_", rules_stat_prefix="en",
               track_per_rule_stats=True)],
    "tree": [f("rbac", "rbac.v3.RBAC", matcher=TREE)],
    "jwt": [JWT],
    "http": [H], "open": [H_OPEN], "all": [H_ALL], "limit": [H_LIMIT], "off": [H_OFF],
    "grpc": [G], "dead": [G_DEAD],
}
ROUTES = {
    "rbac": [to("up", "/rbac/free", route_=per(rbac={"@type": F + "rbac.v3.RBACPerRoute"})),
             to("up", "/rbac/own", route_=per(rbac={"@type": F + "rbac.v3.RBACPerRoute", "rbac": {"rules": {
                 "policies": {"own": {"permissions": [ANY], "principals": [HDR("x-own", "1")]}}}}})), to("up")],
    "jwt": [to("up", "/jwt/off", route_=per(jwt={"@type": F + "jwt_authn.v3.PerRouteConfig", "disabled": True})),
            to("up", "/jwt/wrong", route_=per(jwt={"@type": F + "jwt_authn.v3.PerRouteConfig", "requirement_name": "nobody"}))]
           + [to("up", "/jwt/" + n, route_=per(jwt={"@type": F + "jwt_authn.v3.PerRouteConfig", "requirement_name": n})) for n in NAMED] + [to("up")],
    "http": [to("up", "/x/off", route_=per(**{"authz-http": {"@type": F + "ext_authz.v3.ExtAuthzPerRoute", "disabled": True}})),
             to("up", "/x/nobody", route_=per(**{"authz-http": {"@type": F + "ext_authz.v3.ExtAuthzPerRoute", "check_settings": {
                 "disable_request_body_buffering": True}}})), to("up")],
    "grpc": [to("up", "/x/ctx", route_=per(**{"authz-grpc": {"@type": F + "ext_authz.v3.ExtAuthzPerRoute", "check_settings": {
        "context_extensions": {"k": "v"}}}})), to("up")],
}
META = "%%DYNAMIC_METADATA(%s)%%"
LOG = {"case": "%REQ(x-case)%", "details": "%RESPONSE_CODE_DETAILS%", "flags": "%RESPONSE_FLAGS%",
       "shadow": META % "envoy.filters.http.rbac:sh_shadow_engine_result", "shadow_id": META % "envoy.filters.http.rbac:sh_shadow_effective_policy_id",
       "sub": META % "envoy.filters.http.jwt_authn:pay:sub", "alg": META % "envoy.filters.http.jwt_authn:hdr:alg",
       "failed": META % "envoy.filters.http.jwt_authn:failed", "who": META % "envoy.filters.http.ext_authz:who",
       "meta": META % "envoy.filters.http.ext_authz:x-meta"}


class Side:
    def __init__(self, kind):
        self.kind = kind
        self.ports = dict(zip(CHAINS, free_ports(len(CHAINS))))
        self.net = dict(zip(("n-deny", "n-allow", "n-late"), free_ports(3)))
        self.log = os.path.join(WORK, kind + ".access")
        listeners = [listener(n, p, chain(hcm(ROUTES.get(n, [to("up")]), CHAINS[n], stat_prefix=n, access_log=json_log(self.log, **LOG))))
                     for n, p in self.ports.items()]
        for n, p in self.net.items():
            listeners.append(listener(n, p, {"filters": [
                {"name": "rbac", "typed_config": {"@type": T + ".extensions.filters.network.rbac.v3.RBAC", "stat_prefix": n + ".",
                                                   **({"delay_deny": "0.3s"} if n == "n-late" else {}), "rules": {
                    "action": "ALLOW" if n == "n-allow" else "DENY",
                    "policies": {"loop": {"permissions": [{"destination_port": p}],
                                          "principals": [{"direct_remote_ip": {"address_prefix": "127.0.0.1", "prefix_len": 32}}]}}}}},
                {"name": "tcp", "typed_config": {"@type": T + ".extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": n,
                                                 "cluster": "up"}}]}))
        clusters = [cluster("up", up.port), cluster("asked", ASKED), cluster("dead", DEAD), cluster("dead2", DEAD, http=H2_UP),
                    cluster("go", GO or DEAD, http=H2_UP)]
        self.proxy = Proxy(bootstrap(listeners, clusters), kind, args=["--no-seccomp"] if kind == "weft" and SAN else [])


sides = [Side("weft"), Side("envoy")]
weft, envoy = sides
cases = []
SKIP = ("date", "server", "x-envoy-upstream-service-time", "connection", "content-length", "content-type")


def one(side, name, port, **how):
    headers = list(how.pop("headers", [])) + [("x-case", name)]
    r = ask(side.ports[port], headers=headers, **how)
    out = {"status": r.status, "headers": sorted((k, v) for k, v in r.headers if k not in SKIP)}
    j = r.json() if r.get("x-from") else None
    if j:
        out["seen"] = sorted((k, v) for k, v in j["headers"] if k.startswith("x-") and k not in (
            "x-request-id", "x-envoy-expected-rq-timeout-ms", "x-forwarded-proto", "x-envoy-attempt-count") or k in ("authorization", "cookie"))
        out["path"], out["length"] = j["path"], j["length"]
    else:
        out["body"] = r.body.decode("latin-1")
    return out


def case(name, port, want=None, **how):
    cases.append((name, port, want, how))


def bearer(t):
    return [("authorization", "Bearer " + t)]


# RBAC
case("allowed", "rbac", 200, path="/rbac/x")
case("denied by path", "rbac", 403, path="/rbac/admin?x")
case("let by a header", "rbac", 200, path="/rbac/admin", headers=[("x-role", "boss")])
case("first by name", "rbac", 403, path="/rbac/admin", method="DELETE")
case("regex", "rbac", 403, path="/rbac/77")
case("regex is whole", "rbac", 200, path="/rbac/77a")
case("header value", "rbac", 403, path="/rbac/x", headers=[("x-deny", "1")])
case("shadow only", "rbac", 200, path="/rbac/x", method="POST", body=b"x")
case("switched off by route", "rbac", 200, path="/rbac/free/77", headers=[("x-deny", "1")])
case("own rules no", "rbac", 403, path="/rbac/own")
case("own rules yes", "rbac", 200, path="/rbac/own", headers=[("x-own", "1")])
case("grpc request", "rbac", 200, path="/rbac/admin", method="POST", headers=[("content-type", "application/grpc")], body=b"x")
for i, (path, heads, m) in enumerate([
        ("/rbac-tree/x", [], "GET"), ("/rbac-tree/open/a", [], "GET"), ("/rbac-tree/open/not", [], "GET"),
        ("/rbac-tree/x", [("x-a", "1")], "GET"), ("/rbac-tree/x", [("x-a", "1"), ("x-b", "bb")], "GET"),
        ("/rbac-tree/x", [("x-c", "cc")], "GET"), ("/rbac-tree/x", [("x-c", "cc")], "POST"), ("/rbac-tree/open", [("x-c", "d")], "GET")]):
    case("tree %d" % i, "tree", path=path, headers=heads, method=m)

# tokens
GOOD = token()
case("no token", "jwt", 401, path="/jwt/good/a?b=c")
case("good", "jwt", 200, path="/jwt/good", headers=bearer(GOOD) + [("x-sub", "forged"), ("x-payload", "forged")])
case("by parameter", "jwt", 200, path="/jwt/good?a=1&access_token=%s&b=2" % GOOD)
case("two audiences", "jwt", 200, path="/jwt/good", headers=bearer(token(aud=["x", "http://two"])))
case("wrong audience", "jwt", 403, path="/jwt/good", headers=bearer(token(aud="other")))
case("no audience", "jwt", 403, path="/jwt/good", headers=bearer(token(aud=None)))
case("expired", "jwt", 401, path="/jwt/good", headers=bearer(token(exp=NOW - 100)))
case("expired within skew", "jwt", 200, path="/jwt/good", headers=bearer(token(exp=NOW - 30)))
case("not yet", "jwt", 401, path="/jwt/good", headers=bearer(token(nbf=NOW + 100)))
case("wrong issuer", "jwt", 401, path="/jwt/good", headers=bearer(token(iss="evil")))
case("no issuer", "jwt", 401, path="/jwt/good", headers=bearer(token(iss=None)))
case("other key", "jwt", 401, path="/jwt/good", headers=bearer(token(key=RSA2)))
case("unknown kid", "jwt", 401, path="/jwt/good", headers=bearer(token(kid="nobody")))
case("cut signature", "jwt", 401, path="/jwt/good", headers=bearer(GOOD[:-8]))
case("two parts", "jwt", 401, path="/jwt/good", headers=bearer("a.b"))
case("garbage", "jwt", 401, path="/jwt/good", headers=bearer("a.b.c"))
case("no bearer", "jwt", 401, path="/jwt/good", headers=[("authorization", "Basic abc")])
case("bad json", "jwt", 401, path="/jwt/good", headers=bearer(b64(b"{") + ".e30.e30"))
case("header is a list", "jwt", 401, path="/jwt/good", headers=bearer(b64(b"[]") + ".e30.e30"))
case("alg none", "jwt", 401, path="/jwt/good", headers=bearer(b64(b'{"alg":"none"}') + "." + GOOD.split(".")[1] + "."))
case("no alg", "jwt", 401, path="/jwt/good", headers=bearer(b64(b'{"typ":"JWT"}') + "." + GOOD.split(".")[1] + ".e30"))
case("alg is a number", "jwt", 401, path="/jwt/good", headers=bearer(b64(b'{"alg":1}') + "." + GOOD.split(".")[1] + ".e30"))
case("kid is a number", "jwt", 401, path="/jwt/good", headers=bearer(b64(b'{"alg":"RS256","kid":1}') + "." + GOOD.split(".")[1] + ".e30"))
case("rsa key as secret", "jwt", 401, path="/jwt/good", headers=bearer(token("HS256", kid="rsa")))
case("bad payload", "jwt", 401, path="/jwt/good", headers=bearer(GOOD.split(".")[0] + ".!!!." + GOOD.split(".")[2]))
for k, v in (("iss", 1), ("sub", 1), ("iat", "x"), ("nbf", "x"), ("exp", "x"), ("exp", -1), ("nbf", -1), ("iat", -1), ("jti", 1), ("aud", 1), ("aud", [1])):
    case("claim %s is %r" % (k, v), "jwt", 401, path="/jwt/good", headers=bearer(token(**{k: v})))
for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS512"):
    case("alg " + alg, "jwt", 200, path="/jwt/good", headers=bearer(token(alg)))
for alg in ("RS256", "ES256", "EdDSA", "HS256", "PS256"):
    t = token(alg)
    h, p, s = t.split(".")
    case("forged " + alg, "jwt", 401, path="/jwt/good", headers=bearer(h + "." + b64(base64.urlsafe_b64decode(p + "==").replace(b"alice", b"admin")) + "." + s))
case("header with prefix", "jwt", 200, path="/jwt/any", headers=[("x-token", "T " + token(iss="whoever"))])
case("by cookie", "jwt", 200, path="/jwt/any", headers=[("cookie", "a=b; ck=" + token(iss="whoever"))])
case("by named parameter", "jwt", 200, path="/jwt/any?tok=" + token(iss="whoever"))
case("two tokens, one bad", "jwt", 401, path="/jwt/any?tok=" + token(), headers=[("x-token", "T " + token(key=RSA2))])
case("skew of one second", "jwt", 401, path="/jwt/third", headers=bearer(token(iss="third", exp=NOW - 30)))
case("any, second", "jwt", 200, path="/jwt/two", headers=bearer(token(iss="third")))
case("any, none", "jwt", 401, path="/jwt/two", headers=bearer(token(iss="evil")))
case("any, missing", "jwt", 401, path="/jwt/two")
case("all", "jwt", 200, path="/jwt/both", headers=bearer(token(iss="third")) + [("x-token", "T " + token())])
case("all, one missing", "jwt", 401, path="/jwt/both", headers=bearer(token(iss="third")))
case("missing allowed", "jwt", 200, path="/jwt/missing")
case("missing allowed, bad token", "jwt", 401, path="/jwt/missing", headers=bearer(token(key=RSA2)))
case("missing allowed, good token", "jwt", 200, path="/jwt/missing", headers=bearer(GOOD))
case("failed allowed", "jwt", 200, path="/jwt/failed", headers=bearer(token(key=RSA2)))
case("audiences of the rule", "jwt", 200, path="/jwt/auds", headers=bearer(token(iss="third", aud="special")))
case("audiences of the rule, no", "jwt", 403, path="/jwt/auds", headers=bearer(token(iss="third", aud="svc")))
case("keys not there", "jwt", 401, path="/jwt/lost", headers=bearer(GOOD))
case("keys garbled", "jwt", 401, path="/jwt/garbled", headers=bearer(GOOD))
case("no server for keys", "jwt", 401, path="/jwt/noservice", headers=bearer(GOOD))
case("subject ok", "jwt", 200, path="/jwt/strict", headers=bearer(GOOD))
case("subject wrong", "jwt", 401, path="/jwt/strict", headers=bearer(token(sub="bob")))
case("no expiry", "jwt", 401, path="/jwt/strict", headers=bearer(token(exp=None)))
case("lives too long", "jwt", 401, path="/jwt/short", headers=bearer(GOOD))
case("lives short", "jwt", 200, path="/jwt/short", headers=bearer(token(exp=NOW + 50)))
case("off", "jwt", 200, path="/jwt/off")
case("no such requirement", "jwt", 403, path="/jwt/wrong")
case("rule without requirement", "jwt", 200, path="/jwt/rule/open")
case("rule by method", "jwt", 200, path="/jwt/rule/method", method="PUT", headers=bearer(token(iss="third")))
case("rule by regex", "jwt", 401, path="/jwt/rule/12", headers=bearer(GOOD))
case("rule by prefix", "jwt", 200, path="/jwt/rule/x", headers=bearer(GOOD))
case("no rule", "jwt", 200, path="/else")
case("preflight", "jwt", 200, path="/jwt/good", method="OPTIONS", headers=[("origin", "http://a"), ("access-control-request-method", "GET")])
case("cached once", "jwt", 200, path="/jwt/third", headers=bearer(token(iss="third")))

# HTTP service
for v in ("ok", "denied", "teapot", "redirect", "broken", "slow", "none"):
    for port in ("http", "open", "all"):
        case("%s %s" % (port, v), port, path="/x?y=1", headers=[("x-authz", v), ("x-gone", "g"), ("x-append", "first"), ("x-see", "s"),
                                                               ("x-see-not", "n"), ("x-hidden", "h"), ("authorization", "a")])
case("http partial body", "http", 200, path="/x", method="POST", body=b"0123456789abcdef", headers=[("x-authz", "ok")])
case("http short body", "http", 200, path="/x", method="POST", body=b"01234", headers=[("x-authz", "ok")])
case("http chunked body", "http", 200, path="/x", method="POST", body=b"01234", chunked=True, headers=[("x-authz", "ok")])
case("http empty body", "http", 200, path="/x", method="POST", body=b"", headers=[("x-authz", "ok")])
case("body too large", "limit", 413, path="/x", method="POST", body=b"0123456789abcdef", headers=[("x-authz", "ok")])
case("body within", "limit", 200, path="/x", method="POST", body=b"0123456789", headers=[("x-authz", "ok")])
case("http off", "http", 200, path="/x/off", headers=[("x-authz", "denied")])
case("http without body", "http", 200, path="/x/nobody", method="POST", body=b"0123456789", headers=[("x-authz", "ok")])
case("denied at disable", "off", 403, path="/x")
if GO:
    for v in ("ok", "change", "denied", "bare", "broken", "slow", "none"):
        case("grpc " + v, "grpc", path="/x?a=0&gone=1&b=2", headers=[
            ("x-authz", v), ("x-gone", "g"), ("x-append", "a"), ("x-there", "t"), ("x-exists", "e"), ("x-set", "s"), ("x-default", "c"),
            ("x-old-set", "o")], do=";".join("header=x-up%d:u" % i for i in range(1, 7)))
    case("grpc body", "grpc", 200, path="/x/ctx", method="POST", body=b"hello", headers=[("x-authz", "ok"), ("x-multi", "1"), ("x-multi", "2")])
case("grpc service away", "dead", 403, path="/x")

if os.environ.get("ONLY"):
    cases = [c for c in cases if re.search(os.environ["ONLY"], c[1] + " " + c[0])]
results = {}
for side in sides:
    ask(side.ports["jwt"], "/jwt/good", headers=bearer(GOOD))  # the keys are there from now on
    time.sleep(0.2)
    for n, p, w, how in cases:
        results[side.kind, n] = one(side, n, p, **how)


def log_of(side):
    want = {c[0] for c in cases}
    wait_for(lambda: {json.loads(x)["case"] for x in lines_of(side.log)} >= want, 5)
    return {e["case"]: {k: v for k, v in e.items() if k != "case" and v is not None} for e in map(json.loads, lines_of(side.log))}


logs = {s.kind: log_of(s) for s in sides}
for n, p, w, how in cases:
    a, b = results["weft", n], results["envoy", n]
    la, lb = logs["weft"].get(n), logs["envoy"].get(n)
    good = a == b and la == lb and (w is None or a["status"] == w)
    tap.ok(good, "%s: %s" % (p, n), "weft  %s" % a, "envoy %s" % b, "weft  log %s" % la, "envoy log %s" % lb)

# connections
for n, good in (("n-deny", False), ("n-allow", True), ("n-late", False)):
    got, took = [], []
    for side in sides:
        begin = time.monotonic()
        got.append(ask(side.net[n], "/").status)
        took.append(time.monotonic() - begin)
    tap.same(got, [200 if good else 0] * 2, "connection: " + n)
    tap.ok(n != "n-late" or min(took) >= 0.29, "connection: %s is closed when it should be" % n, took)

# counters
NUMBERS = r"^(http\.[^.]*\.(rbac|ext_authz|jwt_authn)\.|n-|cluster\.up\.ext_authz)"
sa, sb = ({k: v for k, v in s.proxy.stats(NUMBERS).items() if v} for s in sides)
for k in sorted(set(sa) | set(sb)):
    if not k.endswith((".timeout", "jwks_fetch_failed", "jwks_fetch_success", "jwt_cache_miss", "jwt_cache_hit")):
        tap.same(sa.get(k), sb.get(k), "counter " + k)
# Envoy counts a hit also where the token is then refused
tap.ok(sa.get("http.jwt.jwt_authn.jwt_cache_hit", 0) >= 3, "good tokens are kept", sa)
tap.ok(Asked.count.get("/jwks", 0) <= 4, "keys are fetched once a side", Asked.count)

# what the service was told by each
if GO and not os.environ.get("ONLY"):
    def told(m):
        a = m["attributes"]
        h = a["request"]["http"]
        for k in ("x-request-id", "x-case", ":authority"):
            h["headers"].pop(k, None)
        for k in ("id", "host"):
            h.pop(k, None)
        a["request"].pop("time", None)
        for k in ("source", "destination"):
            a[k]["address"]["socketAddress"].pop("portValue", None)
        return m
    half = len(go_lines) // 2
    one_, two_ = [told(m) for m in go_lines[:half]], [told(m) for m in go_lines[half:]]
    for x, y in zip(one_, two_):
        tap.same(x, y, "the service is told the same: " + x["attributes"]["request"]["http"]["headers"].get("x-authz", "-"))
elif not GO:
    tap.skip("gRPC service", os.environ["GO_WHY"])
tap.ok(weft.proxy.stop() == 0, "weft ends in order", weft.proxy.log()[-1000:])
envoy.proxy.stop()
sys.exit(tap.done() > 0)
PY
