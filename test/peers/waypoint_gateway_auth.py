#!/usr/bin/python3
"""Tokens, policies and authorizers that the agent translates, by real traffic: run by test/scenario/waypoint/gateway_auth.sh in node B's
namespace. First at a gateway of the edge, then at a waypoint between pods."""
import base64
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from gateway_kit import HERE, MESH, drop, obj, policy, put, reasons, route, rule, service, soon, start, target_ref, to  # noqa: E402
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import SLOW, Tap, WORK, ask, openssl  # noqa: E402

tap = Tap()
UP, AUTH = Upstream("a", host=HERE), Upstream("authorizer", host=HERE)
SECURITY = "security.istio.io/v1"


def told(what, want, text):
    good, got = soon(what, want)
    return good, text, "got %r" % (got,)


def fetch(path="/", host="m.test", **more):
    return ask(80, path, host=host, **more)


def code(path="/", **more):
    try:
        return fetch(path, **more).status
    except OSError as e:
        return type(e).__name__


# ---- tokens

def b64(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


def key(name):
    path = os.path.join(WORK, name + ".pem")
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path)
    return path


def jwks(path):
    n = int(openssl("rsa", "-in", path, "-noout", "-modulus").decode().split("=")[1], 16)
    return json.dumps({"keys": [{"kty": "RSA", "kid": "k", "alg": "RS256", "n": b64(n.to_bytes(256, "big")), "e": "AQAB"}]})


def token(path, **claims):
    c = {"iss": "https://issuer.test", "sub": "alice", "aud": "me", "exp": int(time.time()) + 600, "groups": ["dev", "ops"],
         "deep": {"er": "down"}, **claims}
    data = b64(json.dumps({"alg": "RS256", "kid": "k"}).encode()) + "." + b64(json.dumps(c).encode())
    return [("authorization", "Bearer " + data + "." + b64(openssl("dgst", "-sha256", "-sign", path, stdin=data.encode())))]


def keys_served(path):
    """The port of a server of the keys"""
    class Keys(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            data = jwks(path).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass
    s = http.server.ThreadingHTTPServer((HERE, 0), Keys)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s.server_port


def tokens():
    good, forged = key("good"), key("forged")
    put("keys", *service("infra", "keys", {80: ("http", keys_served(forged))}))
    put("jwt", obj("RequestAuthentication", "infra", "jwt", {"targetRefs": [target_ref("Gateway/edge")], "jwtRules": [
        {"issuer": "https://issuer.test", "audiences": ["me"], "jwks": jwks(good), "forwardOriginalToken": True,
         "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}], "outputPayloadToHeader": "x-payload"},
        {"issuer": "https://second.test", "jwksUri": "http://keys.infra.svc.cluster.local/jwks", "fromParams": ["t"]}]}, api=SECURITY))
    tap.ok(*told(lambda: code(headers=token(forged)), 401, "RequestAuthentication: a forged token is refused"))
    r = fetch(headers=token(good))
    tap.same((r.status, r.seen("x-sub"), bool(r.seen("x-payload")), bool(r.seen("authorization"))), (200, "alice", True, True),
             "... a good one goes on, its claims in headers")
    tap.same(code(), 200, "... as does a request without one")
    tap.same((code(headers=token(good, exp=1)), code(headers=token(good, aud="you")), code(headers=token(good, iss="other"))),
             (401, 403, 401), "... past its time, for others, of another issuer: refused")
    second = token(forged, iss="https://second.test")[0][1].split()[1]
    tap.ok(*told(lambda: code("/?t=" + second), 200, "... keys of a Service, a token in a parameter"))
    tap.same(code("/?t=" + token(good, iss="https://second.test")[0][1].split()[1]), 401, "... signed by another it is refused")
    put("jwt-allow", policy("infra", "need", "Gateway/edge", rules=[
        {"from": [{"source": {"requestPrincipals": ["https://issuer.test/alice"]}}], "to": [{"operation": {"paths": ["/who"]}}]},
        {"to": [{"operation": {"paths": ["/claim"]}}], "when": [{"key": "request.auth.claims[groups]", "values": ["ops"]}]},
        {"to": [{"operation": {"paths": ["/deep"]}}], "when": [{"key": "request.auth.claims[deep][er]", "values": ["down"]}]},
        {"to": [{"operation": {"paths": ["/any"]}}], "from": [{"source": {"requestPrincipals": ["*"]}}]},
        {"to": [{"operation": {"paths": ["/open*"]}}]}]))
    tap.ok(*told(lambda: code("/zzz"), 403, "AuthorizationPolicy ALLOW: what no rule allows is denied"))
    for path, claims, want in [("/who", {}, 200), ("/who", {"sub": "bob"}, 403), ("/claim", {}, 200), ("/claim", {"groups": ["dev"]}, 403),
                               ("/claim", {"groups": "ops"}, 200), ("/deep", {}, 200), ("/deep", {"deep": {"er": "up"}}, 403),
                               ("/any", {"sub": "bob"}, 200), ("/openly", {}, 200)]:
        tap.same(code(path, headers=token(good, **claims)), want, "... %s with %s" % (path, claims or "the token as it is"))
    tap.same((code("/any"), code("/open")), (403, 200), "... and without a token")
    drop("jwt-allow")
    drop("jwt")
    tap.ok(*told(lambda: code(headers=token(forged)), 200, "... once the objects are gone nothing is looked at"))


# ---- actions

def actions():
    put("deny", policy("infra", "deny", "Gateway/edge", "DENY", [
        {"to": [{"operation": {"paths": ["/admin*"], "methods": ["GET"]}}], "when": [{"key": "request.headers[x-team]", "notValues": ["ops"]}]},
        {"to": [{"operation": {"hosts": ["bad.test"]}}]}, {"from": [{"source": {"ipBlocks": ["127.0.0.9/32"]}}]},
        {"to": [{"operation": {"paths": ["/files/{*}/private"]}}]}]),
        policy("infra", "watch", "Gateway/edge", "AUDIT", [{"to": [{"operation": {"paths": ["/audit"]}}]}]),
        policy("infra", "tried", "Gateway/edge", "DENY", [{"to": [{"operation": {"paths": ["/tried"]}}]}],
               meta={"annotations": {"istio.io/dry-run": "true"}}))
    tap.ok(*told(lambda: code("/admin/x"), 403, "DENY: a path and a method"))
    tap.same((code("/admin", headers=[("x-team", "ops")]), code("/admin", method="POST"), code("/other")), (200, 200, 200),
             "... not with the header, nor another method, nor elsewhere")
    tap.same((code("/files/1/private"), code("/files/1/2/private")), (403, 200), "... a path with a variable")
    tap.same((code("/", host="bad.test"), code("/", source=("127.0.0.9", 0))), (403, 403), "... a host; an address")
    tap.same((code("/audit"), code("/tried")), (200, 200), "AUDIT and a dry run decide nothing")
    got = EDGE[0].stats("rbac")
    tap.ok(any("dry_run_.shadow_denied" in k and v == 1 for k, v in got.items()), "... the dry run is counted", got)
    drop("deny")
    tap.ok(*told(lambda: code("/admin"), 200, "... gone with its object"))


def custom():
    common = {"service": "authz.infra.svc.cluster.local", "timeout": "1s"}
    providers = [{"name": "http", "envoyExtAuthzHttp": {**common, "port": 80, "pathPrefix": "/check", "includeRequestHeadersInCheck": ["x-do"],
                                                        "headersToUpstreamOnAllow": ["x-from"], "headersToDownstreamOnDeny": ["x-why"]}},
                 {"name": "open", "envoyExtAuthzHttp": {**common, "port": 80, "failOpen": True, "includeRequestHeadersInCheck": ["x-do"]}},
                 {"name": "status", "envoyExtAuthzHttp": {**common, "port": 80, "statusOnError": "503", "includeRequestHeadersInCheck": ["x-do"]}},
                 {"name": "grpc", "envoyExtAuthzGrpc": {**common, "service": "authz-go.infra.svc.cluster.local", "port": 81}}]
    authz_go = None
    port = 1
    if not os.environ["GO_WHY"]:
        authz_go = subprocess.Popen([os.environ["GRPC"] + "/authz_go"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.DEVNULL)
        port = int(authz_go.stdout.readline())
    put("mesh-config", obj("MeshConfig", None, "mesh", {"extensionProviders": providers}, api="weft.io/v1alpha1"),
        *service("infra", "authz", {80: ("http", AUTH.port)}), *service("infra", "authz-go", {81: ("grpc", port)}, addresses=("127.0.0.1",)))
    put("custom", *[policy("infra", "c-" + p, "Gateway/edge", "CUSTOM", [{"to": [{"operation": {"paths": ["/%s*" % p]}}]}],
                           provider={"name": p}) for p in ("http", "open", "status", "grpc")])
    try:
        tap.ok(*told(lambda: fetch("/http/0").seen("x-from"), "authorizer", "CUSTOM: the authorizer allows; its header goes to the backend"))
        tap.same(code("/http/1", do="status=403;header=x-why:because"), 403, "... it denies")
        r = fetch("/http/1", do="status=401;header=x-why:because;header=x-other:no")
        tap.same((r.status, r.get("x-why"), r.get("x-other")), (401, "because", None), "... with its status and the headers that are named")
        tap.ok(any(s[1] == "/check/http/1" for s in AUTH.seen), "... it was asked for the path", AUTH.seen)
        n = len(AUTH.seen)
        tap.same((code("/else", do="status=204"), len(AUTH.seen)), (204, n), "... and not for what the policy is not for")
        tap.same(code("/http/3", do="how=close"), 403, "... a failing one: denied")
        tap.same(code("/status/3", do="how=close"), 503, "... with the status of statusOnError")
        tap.same(code("/open/3", do="how=close;fail=1:open"), 200, "... or allowed with failOpen")
        if authz_go:
            for says, want in [("ok", 200), ("denied", 402), ("bare", 403), ("broken", 403), ("slow", 403)]:
                tap.same(code("/grpc", headers=[("x-authz", says)]), want, "... by gRPC: %s" % says)
        else:
            tap.skip("... by gRPC", os.environ["GO_WHY"])
        put("custom", policy("infra", "c-nobody", "Gateway/edge", "CUSTOM", [{"to": [{"operation": {"paths": ["/nobody"]}}]}],
                             provider={"name": "nobody"}))
        tap.ok(*told(lambda: code("/nobody"), 403, "... without a provider of that name it is denied"))
    finally:
        drop("custom")
        drop("mesh-config")
        if authz_go:
            authz_go.terminate()
            authz_go.wait()


# ---- between pods

def inside(pod, *args):
    p = subprocess.run(["nsenter", "--net=/run/netns/%s%s" % (os.environ["MESH_PREFIX"], pod), "--", "curl", "-s", "--max-time",
                        str(5 * SLOW), "-w", " %{http_code}", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL, check=False)
    return p.stdout.decode("utf-8", "replace")


def waypoint():
    vip = "http://10.96.0.10"
    put("waypoint", obj("Gateway", "shop", "wp", {"gatewayClassName": "weft-waypoint", "addresses": [{"value": os.environ["WP_IP"]}],
                                                  "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
                        annotations={"ambient.istio.io/xfcc-include-client-identity": "true"}),
        obj("Service", "shop", "web", {"clusterIP": "10.96.0.10", "selector": {"app": "web"}, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080}]}, api="v1", labels={"istio.io/use-waypoint": "wp"}))
    wp = start("wp", "shop", os.environ["WP_IP"], prefix=["nsenter", "--net=/run/netns/%swp" % os.environ["MESH_PREFIX"], "--"])
    try:
        def sees(pod, *args):
            got = inside(pod, vip + "/", *args).split(" ")
            cert = next((w for w in got if w.startswith("x-forwarded-client-cert=")), got[-1])
            return re.sub("Hash=[0-9a-f]{64}", "Hash=...", cert)
        who = "x-forwarded-client-cert=By=spiffe://cluster.local/ns/shop/sa/wp;Hash=...;URI=spiffe://cluster.local/ns/shop/sa/"
        tap.ok(*told(lambda: sees("client"), who + "client", "waypoint: XFCC has the identity of the client's certificate"))
        tap.same(sees("guest"), who + "guest", "... of each")
        tap.same(sees("guest", "-H", "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/client"), who + "guest",
                 "... whatever the client says itself")
        tap.ok(inside("guest", "http://%s:8080/" % os.environ["WEB_IP"]).endswith(" 200"), "without a policy the pod itself is reached")
        svc = {"group": "", "kind": "Service", "name": "web"}
        put("wp-route", *[route("HTTPRoute", "shop", n, [rule(to("web"), filters=[{"type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{"name": "x-route", "value": n}]}}])], parents=[{**svc, **more}])
            for n, more in (("named", {"sectionName": "http"}), ("a-other", {"sectionName": "nothing"}), ("b-other", {"sectionName": "http", "port": 81}))])
        tap.ok(*told(lambda: "x-route=named" in inside("client", vip + "/"), True, "a route of a Service's port by name"))
        tap.same([reasons("HTTPRoute", "shop", n) for n in ("named", "a-other", "b-other")],
                 [("", ""), ("NoMatchingParent", ""), ("NoMatchingParent", "")], "... a name that no port has")
        put("wp-policy", policy("shop", "only", "Service/web", rules=[
            {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/client"]}}]},
            {"from": [{"source": {"serviceAccounts": ["guest"]}}], "to": [{"operation": {"paths": ["/guests"]}}]}]))
        tap.ok(*told(lambda: inside("guest", vip + "/")[-4:], " 403", "AuthorizationPolicy for a Service: by identity"))
        tap.same((inside("client", vip + "/")[-4:], inside("guest", vip + "/guests")[-4:]), (" 200", " 200"), "... another goes on; one path does")
        tap.ok(*told(lambda: inside("client", "http://%s:8080/" % os.environ["WEB_IP"]), lambda v: not v.endswith(" 200"),
                     "requireWaypoint: the pod itself takes only its waypoint now"))
        put("wp-mode", obj("MeshConfig", None, "mesh", {"requireWaypoint": "never"}, api="weft.io/v1alpha1"))
        tap.ok(*told(lambda: inside("client", "http://%s:8080/" % os.environ["WEB_IP"])[-4:], " 200", "... never: it takes everybody"))
        drop("wp-policy")
        put("wp-mode", obj("MeshConfig", None, "mesh", {"requireWaypoint": "always"}, api="weft.io/v1alpha1"))
        tap.ok(*told(lambda: inside("client", "http://%s:8080/" % os.environ["WEB_IP"]), lambda v: not v.endswith(" 200"),
                     "... always: without a policy too"))
        tap.ok(*told(lambda: inside("client", vip + "/")[-4:], " 200", "... and through the waypoint it is reached"))
        good = key("wp-good")
        put("wp-jwt", obj("RequestAuthentication", "shop", "jwt", {"targetRefs": [target_ref("Service/web")], "jwtRules": [
            {"issuer": "https://issuer.test", "jwks": jwks(good)}]}, api=SECURITY),
            policy("shop", "claims", "Service/web", rules=[{"when": [{"key": "request.auth.claims[groups]", "values": ["ops"]}]}]))
        bearer = lambda **c: ["-H", "authorization: " + token(good, **c)[0][1]]  # noqa: E731
        tap.ok(*told(lambda: inside("client", vip + "/")[-4:], " 403", "RequestAuthentication for a Service: no token, denied by the policy"))
        tap.same((inside("client", vip + "/", *bearer())[-4:], inside("client", vip + "/", *bearer(groups=["dev"]))[-4:],
                  inside("client", vip + "/", "-H", "authorization: Bearer x.y.z")[-4:]), (" 200", " 403", " 401"),
                 "... one with the claim goes on, one without does not, and what is none is refused")
    finally:
        tap.same(wp.stop(), 0, "the waypoint ends well")
        if tap.failed:
            print("# " + wp.log()[-3000:].replace("\n", "\n# "))


EDGE = []


def main():
    put("svc-a", *service("infra", "a", {80: ("http", UP.port)}))
    put("gateway", obj("Gateway", "infra", "edge", {"gatewayClassName": "weft-gateway", "addresses": [{"value": "127.0.0.1"}], "listeners": [
        {"name": "http", "port": 80, "protocol": "HTTP"}]}), route("HTTPRoute", "infra", "any", [rule("a")]))
    EDGE.append(start(args=("--low-ports",)))
    try:
        tap.ok(*told(code, 200, "the gateway has a listener and a route from the agent"))
        for part in [tokens, actions, custom, waypoint]:
            if len(sys.argv) < 2 or part.__name__ in sys.argv[1:]:
                part()
    finally:
        tap.same(EDGE[0].stop(), 0, "it ends well")
        if tap.failed:
            print("# " + EDGE[0].log()[-3000:].replace("\n", "\n# "))
            with open(os.path.join(MESH, "log", "agentB.log"), encoding="utf-8") as f:
                print("# " + f.read()[-3000:].replace("\n", "\n# "))
    return tap.done()


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
