#!/usr/bin/python3
"""A gateway that the agent feeds, by real traffic: run by test/scenario/waypoint/gateway.sh in node B's namespace."""
import os
import ssl
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from gateway_kit import HERE, ctl, drop, obj, parent, prefix, put, reason, reasons, route, rule, service, soon, start, status, to  # noqa: E402
from h2_kit import ask2  # noqa: E402
from upstream_kit import Upstream, server_tls  # noqa: E402
from waypoint_kit import Ca, SLOW, Tap, WORK, ask, curl, dial, free_ports, wait_for  # noqa: E402

tap = Tap()
CA, OTHER_CA = Ca("site"), Ca("other")
ALL = {"namespaces": {"from": "All"}}


def text(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def secret(name, ca, host):
    cert, key = ca.issue(name, "DNS:" + host)
    return obj("Secret", "infra", name, None, api="v1") | {"type": "kubernetes.io/tls", "stringData": {
        "tls.crt": text(cert), "tls.key": text(key)}}


def http(path="/", host="m.test", port=80, **more):
    return ask(port, path, host=host, **more)


def by(path="/", host="m.test", port=80, **more):
    """Who answered, or the status where nobody did"""
    try:
        r = http(path, host, port, **more)
    except OSError as e:
        return type(e).__name__
    return r.get("x-from") or r.status


def routed(name, host, rules, probe, want="a", **more):
    """Puts an HTTPRoute for a host of its own, and waits until the probe's answer shows it"""
    put("r-" + name, route("HTTPRoute", "infra", name, rules, [host], **more))
    good, got = soon(lambda: by(probe, host), want)
    tap.ok(good, "HTTPRoute %s: it is in force" % name, "got %r" % (got,))


def modifier(kind, **what):
    name = kind[0].lower() + kind[1:]
    return {"type": kind, name: what}


def set_headers(kind="RequestHeaderModifier", **what):
    return modifier(kind, **{k: [{"name": n, "value": v} for n, v in pairs.items()] if k != "remove" else pairs
                             for k, pairs in what.items()})


# ---- listeners

def gateway(extra=()):
    tls = {"mode": "Terminate"}
    put("gateway", secret("cert-a", CA, "a.test"), secret("cert-w", CA, "*.w.test"), obj("Gateway", "infra", "edge", {
        "gatewayClassName": "weft-gateway", "addresses": [{"value": HERE}, {"value": "127.0.0.1"}],
        "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": ALL},
            {"name": "own", "port": 80, "protocol": "HTTP", "hostname": "own.test", "allowedRoutes": ALL},
            {"name": "grpc", "port": 8090, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}, {"name": "alt", "port": 8080, "protocol": "HTTP", "allowedRoutes": ALL},
            {"name": "a", "port": 443, "protocol": "HTTPS", "hostname": "a.test", "tls": {**tls, "certificateRefs": [{"name": "cert-a"}]}},
            {"name": "w", "port": 443, "protocol": "HTTPS", "hostname": "*.w.test",
             "tls": {**tls, "certificateRefs": [{"name": "cert-w"}]}, "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}]}},
            {"name": "none", "port": 443, "protocol": "HTTPS", "hostname": "none.test",
             "tls": {**tls, "certificateRefs": [{"name": "missing"}]}},
            {"name": "pass", "port": 8443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
            {"name": "end", "port": 8444, "protocol": "TLS", "hostname": "a.test", "tls": {**tls, "certificateRefs": [{"name": "cert-a"}]}},
            {"name": "redis", "port": 6379, "protocol": "TCP"}, *extra]}))


def client_tls(alpn=None):
    ctx = ssl.create_default_context(cafile=CA.cert)
    if alpn:
        ctx.set_alpn_protocols(alpn)
    return ctx


def listeners():
    put("r-tls", route("HTTPRoute", "infra", "tls-a", [rule("a")], parents=[parent(sectionName="a")]),
        route("HTTPRoute", "infra", "tls-w", [rule("b")], ["x.w.test"], parents=[parent(sectionName="w")]))
    ctx = client_tls()

    def over(sni, host):
        return by("/", host, 443, tls=ctx, sni=sni)
    tap.ok(*told(lambda: over("a.test", "a.test"), "a", "HTTPS: a certificate and routes by server name"))
    tap.ok(*told(lambda: over("x.w.test", "x.w.test"), "b", "HTTPS: a wildcard listener"))
    tap.same(over("y.w.test", "y.w.test"), 404, "... whose route takes only its own hostname")
    tap.same(over("a.test", "x.w.test"), 404, "a request for another listener's hostname is not answered by its routes")
    tap.ok(str(over("none.test", "none.test")).endswith("Error"), "a listener without a certificate is not open")
    tap.ok(str(over("zzz.test", "zzz.test")).endswith("Error"), "a server name of no listener is refused")
    tap.same(ask2(443, tls=client_tls(["h2"]), sni="a.test", host="a.test").get("x-from"), "a", "HTTP/2 by ALPN")
    ls = {x["name"]: x for x in status("Gateway", "infra", "edge")["listeners"]}
    tap.same(reason(ls["none"]["conditions"], "ResolvedRefs"), "InvalidCertificateRef", "status gateways: a missing certificate")
    tap.same(reason(ls["a"]["conditions"], "Programmed"), "", "... a good listener is programmed")
    tap.same((ls["a"]["attachedRoutes"], ls["w"]["attachedRoutes"]), (1, 1), "... and how many routes it has")


def told(what, want, text_):
    good, got = soon(what, want)
    return good, text_, "got %r" % (got,)


# ---- matches

def matches():
    exact = {"path": {"type": "Exact", "value": "/p/x"}}
    routed("match", "m.test", [
        rule("a", match=prefix("/")), rule("b", match=prefix("/p/")), rule("c", match=exact),
        rule("c", match={"path": {"type": "RegularExpression", "value": "/v[0-9]+/.*"}}),
        rule("b", match=prefix("/h", headers=[{"name": "X-One", "value": "1"}])),
        rule("c", match=prefix("/h", headers=[{"name": "x-one", "value": "1"}, {"name": "x-two", "type": "RegularExpression",
                                                                               "value": "[a-c]+"}])),
        rule("b", match=prefix("/q", queryParams=[{"name": "k", "value": "v w"}])),
        rule("c", match=prefix("/q", queryParams=[{"name": "k", "type": "RegularExpression", "value": "[0-9]+"}])),
        rule("b", match=prefix("/m", method="POST")),
        rule("c", match=prefix("/m", headers=[{"name": "x-one", "value": "1"}])),
        rule("b", match=[prefix("/one"), prefix("/two", method="GET")])], "/")
    for path, more, want in [
            ("/p/x", {}, "c"), ("/p/xy", {}, "b"), ("/p", {}, "b"), ("/pp", {}, "a"), ("/p/x/", {}, "b"), ("/v12/z", {}, "c"),
            ("/v/z", {}, "a"), ("/h", {}, "a"), ("/h/1", {"headers": [("x-one", "1")]}, "b"),
            ("/h", {"headers": [("x-one", "1"), ("x-two", "abc")]}, "c"), ("/h", {"headers": [("x-one", "1"), ("x-two", "abd")]}, "b"),
            ("/q?k=v%20w", {}, "a"), ("/q?z=1&k=42", {}, "c"), ("/q?k=4x", {}, "a"), ("/m", {"method": "POST"}, "b"),
            ("/m", {"method": "POST", "headers": [("x-one", "1")]}, "b"), ("/m", {"headers": [("x-one", "1")]}, "c"),
            ("/one/x", {"method": "PUT"}, "b"), ("/two", {}, "b"), ("/two", {"method": "PUT"}, "a")]:
        tap.same(by(path, **more), want, "match: %s %s" % (path, more or ""))
    put("r-first", route("HTTPRoute", "infra", "z-old", [rule("a", match=prefix("/same"))], ["o.test"],
                         creationTimestamp="2024-01-01T00:00:00Z"),
        route("HTTPRoute", "infra", "a-new", [rule("b", match=prefix("/same"))], ["o.test"], creationTimestamp="2024-01-02T00:00:00Z"),
        route("HTTPRoute", "infra", "wide", [rule("c", match=prefix("/same/more")), rule("c", match=prefix("/only"))], ["*.test"],
              parents=[parent(sectionName="http")]),
        route("HTTPRoute", "infra", "name-b", [rule("b")], ["n.test"]), route("HTTPRoute", "infra", "name-a", [rule("a")], ["n.test"]))
    tap.ok(*told(lambda: by("/same", "o.test"), "a", "of two alike the older route"))
    tap.ok(*told(lambda: by("/", "n.test"), "a", "... then the one that comes first by name"))
    tap.same(by("/same/more", "o.test"), "a", "a route with the hostname itself comes before one with a wildcard, whatever the path")
    tap.same(by("/only", "o.test"), "c", "... which gets what the other does not take")
    tap.same(by("/only", "q.test"), "c", "... and every other host below it")
    tap.same((by("/only", "own.test"), by("/only", "test")), (404, 404), "... but not one that another listener has, nor the domain itself")
    put("r-norules", route("HTTPRoute", "infra", "norules", None, ["norules.test"]))
    tap.ok(*told(lambda: by("/x", "norules.test"), 500, "an HTTPRoute without rules takes everything, and leads nowhere"))


# ---- filters

def filters():
    rw = {"type": "URLRewrite"}
    routed("filter", "f.test", [
        rule("a", filters=[set_headers(set={"x-set": "100%", "x-empty": ""}, add={"x-add": "%PATH%"}, remove=["x-gone"]),
                           set_headers("ResponseHeaderModifier", set={"x-from": "new %"}, add={"x-more": "1"}, remove=["content-type"])],
             match=prefix("/mod")),
        rule("a", match=prefix("/host"), filters=[{**rw, "urlRewrite": {"hostname": "other.test"}}]),
        rule("a", match=prefix("/full"), filters=[{**rw, "urlRewrite": {"path": {"type": "ReplaceFullPath",
                                                                              "replaceFullPath": "/in\\1"}}}]),
        rule("a", match=prefix("/pre"), filters=[{**rw, "urlRewrite": {"path": {"type": "ReplacePrefixMatch",
                                                                             "replacePrefixMatch": "/new/"}}}]),
        rule("a", match=prefix("/cut"), filters=[{**rw, "urlRewrite": {"path": {"type": "ReplacePrefixMatch",
                                                                             "replacePrefixMatch": "/"}}}]),
        rule("a", match=prefix("/mirror"), filters=[{"type": "RequestMirror", "requestMirror": {"backendRef": to("b")}},
                                                    {"type": "RequestMirror", "requestMirror": {"backendRef": to("c"), "percent": 0}}]),
        rule("a", match=prefix("/half"), filters=[{"type": "RequestMirror", "requestMirror": {
            "backendRef": to("c"), "fraction": {"numerator": 1, "denominator": 2}}}]),
        rule("a", match=prefix("/cors"), filters=[{"type": "CORS", "cors": {
            "allowOrigins": ["https://*.ok.test", "https://one.test:8443", "http*://*.two.test"], "allowMethods": ["GET", "PUT"], "allowHeaders": ["x-a"],
            "exposeHeaders": ["x-b"], "maxAge": 60, "allowCredentials": True}}]),
        rule(to("a", filters=[set_headers(set={"x-backend": "a"})]),
             to("b", filters=[set_headers(set={"x-backend": "b"}), set_headers("ResponseHeaderModifier", add={"x-did": "b"})]),
             match=prefix("/split")),
        rule(to("a", weight=0), to("b", weight=1), match=prefix("/zero")), rule("a")], "/")
    r = http("/mod", "f.test", headers=[("x-gone", "1"), ("x-set", "old"), ("x-add", "0")])
    got = [r.seen("x-set"), r.seen("x-empty"), [v for k, v in r.json()["headers"] if k == "x-add"], r.seen("x-gone")]
    tap.same([got[0], got[1], got[3]], ["100%", "", None], "RequestHeaderModifier: set, with a percent sign, empty; remove")
    tap.ok(got[2] in (["0", "%PATH%"], ["0,%PATH%"]), "... add, and nothing in a value means anything", got[2])
    tap.same([r.all("x-from"), r.get("x-more"), r.get("content-type")], [["new %"], "1", None], "ResponseHeaderModifier")
    tap.same(http("/host", "f.test").seen("host"), "other.test", "URLRewrite: hostname")
    for path, want in [("/full/x?q=1", "/in\\1?q=1"), ("/pre/x", "/new/x"), ("/pre", "/new"), ("/pre/", "/new/"), ("/cut/x", "/x"),
                       ("/cut", "/"), ("/cut?a=b", "/?a=b")]:
        tap.same(http(path, "f.test").json().get("path"), want, "URLRewrite: %s" % path)
    http("/mirror", "f.test", headers=[("x-key", "m1")])
    tap.ok(wait_for(lambda: UP["b"].find("m1"), 5), "RequestMirror")
    tap.same((len(UP["a"].find("m1")), len(UP["c"].find("m1"))), (1, 0), "... once; 0 percent mirrors nothing")
    for i in range(60):
        http("/half", "f.test", headers=[("x-key", "m2")])
    wait_for(lambda: len(UP["c"].find("m2")) > 10, 5)
    tap.ok(10 <= len(UP["c"].find("m2")) <= 50, "... a fraction of 1/2: %d of 60" % len(UP["c"].find("m2")))
    cors()
    seen = {}
    for i in range(40):
        r = http("/split", "f.test")
        seen.setdefault(r.get("x-from"), set()).add((r.seen("x-backend"), r.get("x-did")))
    tap.same(seen, {"a": {("a", None)}, "b": {("b", "b")}}, "filters of backends, and an even split")
    tap.same({by("/zero", "f.test") for i in range(10)}, {"b"}, "a weight of 0 gets nothing")


def cors():
    ask_for = [("origin", "https://x.ok.test"), ("access-control-request-method", "PUT")]
    r = http("/cors", "f.test", method="OPTIONS", headers=ask_for)
    tap.same([r.status, r.get("access-control-allow-origin"), r.get("access-control-allow-methods"), r.get("access-control-max-age"),
              r.get("access-control-allow-credentials"), r.get("access-control-allow-headers")],
             [200, "https://x.ok.test", "GET,PUT", "60", "true", "x-a"], "CORS: a preflight is answered")
    tap.same(http("/cors", "f.test", headers=[("origin", "https://one.test:8443")]).get("access-control-expose-headers"), "x-b",
             "... a request gets its headers")
    tap.same(http("/cors", "f.test", headers=[("origin", "https://a.two.test")]).get("access-control-allow-origin"), "https://a.two.test",
             "... two wildcards in an origin")
    tap.same(http("/cors", "f.test", headers=[("origin", "https://bad.test")]).get("access-control-allow-origin"), None,
             "... another origin does not")


def redirects():
    def away(**what):
        return [{"type": "RequestRedirect", "requestRedirect": what}]
    full, pre = {"type": "ReplaceFullPath", "replaceFullPath": "/in"}, {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n"}
    routed("away", "r.test", [
        rule(match=prefix("/https"), filters=away(scheme="https", statusCode=301)), rule(match=prefix("/host"), filters=away(hostname="h.test")),
        rule(match=prefix("/port"), filters=away(port=8081, statusCode=307)), rule(match=prefix("/full"), filters=away(path=full, statusCode=308)),
        rule(match=prefix("/pre"), filters=away(path=pre, statusCode=303)), rule("a")], "/", parents=[parent()])
    for port, host, path, code, want in [
            (80, "r.test", "/https/a?b=c", 301, "https://r.test/https/a?b=c"), (80, "r.test", "/host", 302, "http://h.test/host"),
            (80, "r.test", "/port", 307, "http://r.test:8081/port"), (80, "r.test", "/full/x?a=b", 308, "http://r.test/in?a=b"),
            (80, "r.test", "/pre/x", 303, "http://r.test/n/x"), (80, "r.test", "/pre", 303, "http://r.test/n"),
            (8080, "r.test:8080", "/host", 302, "http://h.test:8080/host"), (8080, "r.test:8080", "/full", 308, "http://r.test:8080/in"),
            (8080, "r.test:8080", "/https", 301, "https://r.test:443/https")]:
        r = http(path, host, port)
        tap.same((r.status, r.get("location")), (code, want), "RequestRedirect: %s at port %d" % (path, port))


def timing():
    routed("time", "t.test", [
        rule("a", match=prefix("/all"), timeouts={"request": "300ms"}),
        rule("a", match=prefix("/one"), timeouts={"request": "5s", "backendRequest": "200ms"}),
        rule("a", match=prefix("/none"), timeouts={"request": "0s"}),
        rule("a", match=prefix("/retry"), retry={"codes": [503], "attempts": 2, "backoff": "10ms"}), rule("a")], "/")
    tap.same(http("/all", "t.test", do="delay=1500").status, 504, "timeouts.request")
    tap.same(http("/one", "t.test", do="delay=1500").status, 504, "timeouts.backendRequest")
    tap.same(http("/none", "t.test", do="delay=400").status, 200, "... of 0s there is none")
    tap.same(http("/retry", "t.test", do="status=503;fail=2:r1").status, 200, "retry: codes and attempts")
    tap.same(http("/retry", "t.test", do="status=503;fail=3:r2").status, 503, "... no more than that")
    tap.same(http("/retry", "t.test", do="status=500;fail=1:r3").status, 500, "... and no other code")
    tap.same(http("/retry", "t.test", do="how=reset;fail=2:r4").status, 200, "... a reset")


# ---- backends

def backends():
    routed("back", "b.test", [
        rule("nobody", match=prefix("/gone")), rule("a", "nobody", match=prefix("/half")), rule("empty", match=prefix("/empty")),
        rule({**to("web", 80), "namespace": "shop"}, match=prefix("/mesh")), rule("a")], "/")
    tap.same(by("/gone", "b.test"), 500, "a backend that is not there: 500")
    got = [by("/half", "b.test") for _ in range(40)]
    tap.ok(set(got) == {"a", 500} and 5 < got.count(500) < 35, "... or its share of requests, %d of 40" % got.count(500), got)
    tap.same(by("/empty", "b.test"), 503, "a Service without endpoints: 503")
    tap.same(reasons("HTTPRoute", "infra", "back"), ("", "BackendNotFound"), "status routes: an unknown backend")
    tap.same(by("/mesh", "b.test"), 500, "a backend of another namespace without a ReferenceGrant: 500")
    put("r-cross", route("HTTPRoute", "infra", "cross", [rule({**to("web"), "namespace": "shop"})], ["x.test"]))
    tap.ok(*told(lambda: reasons("HTTPRoute", "infra", "cross"), ("", "RefNotPermitted"), "status routes: ... RefNotPermitted"))
    put("grant", obj("ReferenceGrant", "shop", "in", {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute",
                                                               "namespace": "infra"}], "to": [{"group": "", "kind": "Service"}]}))
    good, got = soon(lambda: http("/hello", "x.test").body[:11], b"web /hello ")
    tap.ok(good, "... with one it is reached, a pod of the mesh by HBONE from the gateway", got)
    tap.same(reasons("HTTPRoute", "infra", "cross"), ("", ""), "... and the status says so")
    drop("r-cross")
    drop("grant")


def conditions():
    wrong = [("nogateway", {"parents": [parent("nobody")]}, "NoMatchingParent"),
             ("nosection", {"parents": [parent(sectionName="zzz")]}, "NoMatchingParent"),
             ("noport", {"parents": [parent(port=1)]}, "NoMatchingParent"),
             ("badhost", {"parents": [parent(sectionName="a")], "hostnames": ["b.test"]}, "NoMatchingListenerHostname"),
             ("badregex", {"rules": [rule("a", match={"path": {"type": "RegularExpression", "value": "/a("}})]}, "UnsupportedValue"),
             ("badkind", {"parents": [parent(sectionName="redis")]}, "NotAllowedByListeners")]
    put("r-wrong", *[route("HTTPRoute", "infra", n, **{"rules": [rule("a")], **more}) for n, more, _ in wrong],
        route("HTTPRoute", "shop", "othernamespace", [rule("a")], parents=[parent(sectionName="a")]),
        route("GRPCRoute", "infra", "nogrpc", [rule("a")], parents=[parent(sectionName="w")], hostnames=["g.w.test"]),
        route("HTTPRoute", "infra", "h-first", [rule("a")], ["both.example"], parents=[parent(sectionName="http")]),
        route("GRPCRoute", "infra", "g-second", [rule("a")], ["both.example", "*.both.example"], parents=[parent(sectionName="http")]))
    for name, _, want in wrong:
        tap.ok(*told(lambda n=name: (reasons("HTTPRoute", "infra", n) or [None])[0], want, "status routes: %s: %s" % (name, want)))
    tap.same(reasons("HTTPRoute", "shop", "othernamespace")[0], "NotAllowedByListeners", "... a namespace that the listener does not take")
    tap.same(reasons("GRPCRoute", "infra", "nogrpc")[0], "NotAllowedByListeners", "... a kind that it does not")
    got = (reasons("HTTPRoute", "infra", "h-first")[0], reasons("GRPCRoute", "infra", "g-second")[0])
    tap.ok(got[0] and not got[1], "... an HTTPRoute and a GRPCRoute for one hostname: the first by name is taken, here the GRPCRoute", got)
    drop("r-wrong")
    gateway([{"name": "clash", "port": 6379, "protocol": "HTTP"}, {"name": "clash2", "port": 8443, "protocol": "HTTPS", "hostname": "p.test",
                                                                   "tls": {"certificateRefs": [{"name": "cert-a"}]},
                                                                   "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}, {"kind": "TCPRoute"}]}}])

    def clash():
        ls = {x["name"]: x for x in status("Gateway", "infra", "edge")["listeners"]}
        return [next(iter([c["reason"] for c in ls[n]["conditions"] if c["type"] == "Conflicted" and c["status"] == "True"]), None)
                for n in ("clash", "clash2")] if "clash2" in ls else None
    tap.ok(*told(clash, ["ProtocolConflict", None], "status gateways: another protocol on a port is a conflict; HTTPS beside TLS is none"))
    ls = {x["name"]: x for x in status("Gateway", "infra", "edge")["listeners"]}
    tap.same([reason(ls["clash2"]["conditions"], "ResolvedRefs"), [k["kind"] for k in ls["clash2"]["supportedKinds"]]],
             ["InvalidRouteKinds", ["HTTPRoute"]], "... a kind of route that a protocol cannot have")
    gateway()


# ---- the other kinds

def grpc():
    if os.environ["GO_WHY"]:
        return tap.skip("GRPCRoute: grpc-go's client", os.environ["GO_WHY"])
    port = free_ports(1)[0]
    tools = os.environ["GRPC"]
    server = subprocess.Popen([tools + "/server", "--port=%d" % port], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        put("r-grpc", *service("infra", "rpc", {80: ("grpc", port)}), route("GRPCRoute", "infra", "rpc", [
            rule("rpc", match=[{"method": {"service": "grpc.testing.TestService", "method": "EmptyCall"}},
                               {"method": {"method": "Full.*|UnaryCall", "service": "x|grpc[.]testing[.]TestService",
                                           "type": "RegularExpression"}}])], parents=[parent(sectionName="grpc")]))

        def case(name):
            return subprocess.run([tools + "/client", "--server_host=127.0.0.1", "--server_port=8090", "--test_case=" + name],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60 * SLOW,
                                  check=False).returncode == 0
        good, _ = soon(lambda: case("empty_unary"), True)
        tap.ok(good, "GRPCRoute: grpc-go's client, by service and method")
        tap.ok(case("large_unary"), "... by regular expressions")
        tap.ok(case("ping_pong"), "... a stream both ways")
        tap.ok(case("unimplemented_method") and not case("client_streaming"), "... what no rule takes is Unimplemented")
    finally:
        server.terminate()
        server.wait()
    return None


def streams():
    p = free_ports(1)[0]
    server = subprocess.Popen(["redis-server", "--port", str(p), "--bind", HERE, "--save", "", "--protected-mode", "no", "--dir", WORK],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tls_up = Upstream("passed", tls=server_tls(*CA.issue("pass", "DNS:p.test"), alpn=("http/1.1",)), host=HERE)
    try:
        put("r-stream", *service("infra", "redis", {6379: ("tcp", p)}), *service("infra", "sec", {443: ("tls", tls_up.port)}),
            route("TCPRoute", "infra", "redis", [rule(to("redis", 6379))], parents=[parent(sectionName="redis")]),
            route("TCPRoute", "infra", "redis-too", [rule(to("a"))], parents=[parent(sectionName="redis")]),
            route("TCPRoute", "infra", "end", [rule(to("a"))], parents=[parent(sectionName="end")]),
            route("TLSRoute", "infra", "pass", [rule(to("sec", 443))], ["p.test", "*.q.test"], parents=[parent(sectionName="pass")]))

        def redis():
            try:
                s = dial(6379)
                s.sendall(b"PING\r\n")
                return s.recv(100)
            except OSError:
                return b""
        tap.ok(*told(redis, b"+PONG\r\n", "TCPRoute: redis"))

        tap.same(reasons("TCPRoute", "infra", "redis-too"), ("NotAllowedByListeners", ""), "... a second one for the listener is not taken")

        def passed(sni, port=8443, check=True):
            ctx = client_tls()
            ctx.check_hostname = check
            return by("/", sni, port, tls=ctx, sni=sni)
        tap.ok(*told(lambda: passed("p.test"), "passed", "TLSRoute: passed through to the server with the certificate, by server name"))
        tap.same(passed("x.q.test", check=False), "passed", "... a wildcard")
        tap.ok(str(passed("other.test")).endswith("Error"), "... another server name is refused")
        tap.ok(*told(lambda: passed("a.test", 8444), "a", "TLS ended at the gateway, a TCPRoute behind it"))
    finally:
        server.terminate()
        server.wait()


def backend_tls():
    up = Upstream("secure", tls=server_tls(*CA.issue("back", "DNS:back.test,URI:spiffe://x/y")), host=HERE)
    routed("btls", "s.test", [rule("sec-up", match=prefix("/s")), rule("a")], "/")

    def with_policy(name, hostname="back.test", ca=CA, **more):
        put("btls", *service("infra", "sec-up", {80: ("http", up.port)}),
            obj("ConfigMap", "infra", "ca", None, api="v1") | {"data": {"ca.crt": text(ca.cert)}},
            obj("BackendTLSPolicy", "infra", "p", {"targetRefs": [{"group": "", "kind": "Service", "name": "sec-up"}], "validation": {
                "hostname": hostname, **({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}]} if name else
                                         {"wellKnownCACertificates": "System"}), **more}}))
    with_policy("ca")
    tap.ok(*told(lambda: by("/s", "s.test"), "secure", "BackendTLSPolicy: TLS to the backend"))
    tap.ok(*told(lambda: reasons("BackendTLSPolicy", "infra", "p"), ("", ""), "status policies: accepted, its Gateway is told"))
    tap.ok("Gateway infra/" in ctl("status", "policies"), "... in the table too", ctl("status", "policies"))
    with_policy("ca", ca=OTHER_CA)
    tap.ok(*told(lambda: by("/s", "s.test"), 503, "... another CA: 503"))
    with_policy("ca", hostname="wrong.test")
    tap.ok(*told(lambda: "certificate" in http("/s", "s.test").body.decode().lower() or by("/s", "s.test"), lambda v: v in (True, 503),
                 "... another name: 503"))
    with_policy("ca", hostname="wrong.test", subjectAltNames=[{"type": "URI", "uri": "spiffe://x/y"}])
    tap.ok(*told(lambda: by("/s", "s.test"), "secure", "... subjectAltNames are what is compared"))
    with_policy(None)
    tap.ok(*told(lambda: by("/s", "s.test"), 503, "... the system's CAs do not know it"))
    tap.ok("cluster refused" not in EDGE[0].log(), "... and can be asked for")
    with_policy("ca")
    tap.ok(*told(lambda: by("/s", "s.test"), "secure", "... the CA again"))
    with_policy("nothing")
    tap.ok(*told(lambda: by("/s", "s.test"), 503, "... a CA that is not there: nothing is sent"))
    tap.ok(*told(lambda: reasons("BackendTLSPolicy", "infra", "p"), ("NoValidCACertificate", "InvalidCACertificateRef"), "... and the status says so"))


def explained():
    out = ctl("explain", HERE, HERE + ":80", "--path", "/p/x", "--header", "host: m.test")
    tap.ok("infra/match.2" in out and "outbound|80||c.infra" in out, "weftctl explain through the gateway: route and cluster", out)
    out = ctl("explain", HERE, HERE + ":80", "--path", "/", "--header", "host: nobody.example")
    tap.ok("404" in out, "... a request that no route takes", out)


EDGE = []
UP = {n: Upstream(n, host=HERE) for n in "abc"}


def main():
    for n, u in UP.items():
        put("svc-" + n, *service("infra", n, {80: ("http", u.port)}))
    put("svc-rest", *service("infra", "empty", {80: ("http", 1)}, addresses=()), obj("Service", "shop", "web", {
        "clusterIP": "10.96.0.10", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}, api="v1"))
    gateway()
    put("r-any", route("HTTPRoute", "infra", "any", [rule("a")], ["any.test"]))
    edge = start(args=("--low-ports",))
    EDGE.append(edge)
    try:
        tap.ok(*told(lambda: by("/", "any.test"), "a", "the gateway has its listeners and a route from the agent"))
        for part in [listeners, matches, filters, redirects, timing, backends, conditions, grpc, streams, backend_tls, explained]:
            if len(sys.argv) < 2 or part.__name__ in sys.argv[1:]:
                part()
    finally:
        tap.same(edge.stop(), 0, "it ends well")
        if tap.failed:
            print("# " + edge.log()[-3000:].replace("\n", "\n# "))
    return tap.done()


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
