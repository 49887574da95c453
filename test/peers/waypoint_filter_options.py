#!/usr/bin/python3
"""Options of fault, grpc_stats, header_mutation and local_ratelimit that filters.sh does not reach: the same bootstrap through weft-waypoint and
a real Envoy. ENVOY: its binary."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import ask2  # noqa: E402
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import H2_UP, SAN, Proxy, T, Tap, ask, bootstrap, chain, cluster, free_ports, hcm, listener, to, wait_for  # noqa: E402

F = T + ".extensions.filters.http."
ALL = {"percentage": {"numerator": 100}}
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


def f(name, kind, **conf):
    return {"name": name, "typed_config": {"@type": F + kind, **conf}}


def fault(**conf):
    return f("fault", "fault.v3.HTTPFault", **conf)


def stats(**conf):
    return f("gs", "grpc_stats.v3.FilterConfig", **conf)


def put(k, v, action="APPEND_IF_EXISTS_OR_ADD"):
    return {"append": {"header": {"key": k, "value": v}, "append_action": action}}


def limit(**conf):
    on = {"default_value": {"numerator": 100}}
    return f("rl", "local_ratelimit.v3.LocalRateLimit", stat_prefix="rl", filter_enabled=on, filter_enforced=on, token_bucket={
        "max_tokens": 1000, "fill_interval": "1000s"}, enable_x_ratelimit_headers="DRAFT_VERSION_03", **conf)


def entry(n, *entries):
    return {"entries": [{"key": k, **({"value": v} if v else {})} for k, v in entries], "token_bucket": {"max_tokens": n, "fill_interval": "1000s"}}


def by(header, key):
    return {"request_headers": {"header_name": header, "descriptor_key": key}}


DESCRIPTORS = [entry(1, ("u", "")), entry(3, ("u", "joe")), entry(2, ("u", ""), ("p", "x"))]
LIMITS = [{"actions": [by("x-user", "u")]}, {"actions": [by("x-user", "u"), by("x-place", "p")]}]
FILTERS = {
    "fixed": fault(response_rate_limit={"fixed_limit": {"limit_kbps": 64}, **ALL}),
    "header": fault(response_rate_limit={"header_limit": {}, **ALL}, delay={"header_delay": {}, **ALL}),
    "named": fault(abort={"http_status": 503, **ALL}),
    "unnamed": fault(abort={"http_status": 503, **ALL}, disable_downstream_cluster_stats=True),
    "listed": stats(individual_method_stats_allowlist={"services": [{"name": "a.S", "method_names": ["One", "Two"]}]}, enable_upstream_stats=True),
    "every": stats(stats_for_all_methods=True, replace_dots_in_grpc_service_name=True),
    "trailers": f("hm", "header_mutation.v3.HeaderMutation", mutations={
        "request_trailers_mutations": [{"remove": "x-gone"}, put("x-new", "n"), put("x-kept", "over", "OVERWRITE_IF_EXISTS"),
                                       put("x-absent", "a", "ADD_IF_ABSENT"), {"remove_on_match": {"key_matcher": {"prefix": "x-match"}}}],
        "response_trailers_mutations": [{"remove": "x-length"}, put("x-trailer", "more"), put("x-made", "%REQ(x-in)%")]}),
    "any": limit(max_dynamic_descriptors=2, descriptors=DESCRIPTORS),
    "dozens": limit(descriptors=DESCRIPTORS),
}


class Side:
    def __init__(self, kind, h1, h2):
        self.kind, self.ports = kind, dict(zip(FILTERS, free_ports(len(FILTERS))))
        two = ("listed", "every", "trailers")
        listeners = [listener(n, p, chain(hcm([to(n, "/", rate_limits=LIMITS)], [FILTERS[n]], stat_prefix=n))) for n, p in self.ports.items()]
        clusters = [cluster(n, h2.port, http=H2_UP) if n in two else cluster(n, h1.port) for n in FILTERS]
        self.proxy = Proxy(bootstrap(listeners, clusters), kind, args=["--no-seccomp"] if kind == "weft" and SAN else [])


def faults(tap, sides):
    for s in sides:
        me = [("x-envoy-downstream-service-cluster", "me")]
        for port, headers, least, most in (
                ("fixed", me, 0.5, 30), ("header", me, 0, 30), ("header", me + [("x-envoy-fault-throughput-response", "64")], 0.5, 30),
                ("header", me + [("x-envoy-fault-throughput-response", "x")], 0, 30), ("header", me + [("x-envoy-fault-delay-request", "300")], 0.29, 30),
                ("header", me + [("x-envoy-fault-delay-request", "300"), ("x-envoy-fault-delay-request-percentage", "0")], 0, 30),
                ("header", me + [("x-envoy-fault-throughput-response", "64"), ("x-envoy-fault-throughput-response-percentage", "0")], 0, 30)):
            begin = time.monotonic()
            r = ask(s.ports[port], headers=headers, do="body=50000", timeout=30)
            took = time.monotonic() - begin
            tap.ok(r.status == 200 and len(r.body) == 50000 and least <= took < most, "%s: %s %s is slow enough" % (s.kind, port, headers[1:]), r.status, took)
        for port in ("named", "unnamed"):
            tap.same(ask(s.ports[port], headers=me).status, 503, "%s: %s aborts" % (s.kind, port))


def calls(tap, sides):
    msg = b"\0\0\0\0\2ab"
    for s in sides:
        for port in ("listed", "every"):
            for path, n, code in (("/a.S/One", 1, 0), ("/a.S/One", 3, 5), ("/a.S/Two", 2, 0), ("/a.S/Three", 1, 0), ("/b.S/One", 1, 13), ("/bad", 1, 0), ("/a/b/c", 1, 0), ("/a.S/One?q=/x", 1, 0), ("//x", 1, 0), ("/x/", 1, 0)):
                ask2(s.ports[port], path, method="POST", headers=GRPC, body=msg * n, do="body=0;grpc=%d" % code)
            ask2(s.ports[port], "/a.S/One", method="POST", headers=[("content-type", "text/plain")], body=msg)
    a, b = ({k: v for k, v in s.proxy.stats(r"^cluster\.(listed|every)\.grpc").items() if v} for s in sides)
    tap.same(b, a, "grpc_stats: counters")
    tap.ok(any(".a.S.Two." in k for k in a) and not any(".Three." in k and k.startswith("cluster.listed") for k in a),
           "grpc_stats: individual_method_stats_allowlist: those that are named by themselves", a)


    def names():
        texts = [s.proxy.admin("/stats?filter=upstream_rq_time&usedonly")[1] for s in sides]
        return [sorted(x.split(":")[0] for x in text.splitlines() if ".grpc." in x) for text in texts]
    wait_for(lambda: all(names()), 20)  # histograms are told after an interval
    got = names()
    tap.same(got[1], got[0], "grpc_stats: enable_upstream_stats: histograms")
    tap.ok(got[0] and not any("every" in n for n in got[0]), "grpc_stats: of that filter alone", got)


def trailers(tap, sides):
    got = []
    for s in sides:
        r = ask2(s.ports["trailers"], "/", method="POST", headers=[("x-in", "told"), ("te", "trailers")], body=b"abc", do="trailers", trailers=[
            ("x-gone", "1"), ("x-kept", "1"), ("x-match-a", "1"), ("x-other", "1")])
        got.append((r.status, sorted(map(tuple, r.trailers)), sorted(map(tuple, json.loads(r.body)["trailers"]))))
    tap.same(got[1], got[0], "header_mutation: trailers both ways")
    tap.ok(("x-new", "n") in got[0][2] and ("x-made", "told") in got[0][1], "header_mutation: they are changed", got[0])


def limits(tap, sides):
    """Users in turn; a user and a place have their own"""
    for port in ("any", "dozens"):
        for i, (user, place) in enumerate([("ann", ""), ("bob", ""), ("ann", ""), ("joe", ""), ("joe", ""), ("joe", ""), ("joe", ""), ("cat", ""), ("cat", ""),
                                           ("ann", ""), ("dan", "x"), ("dan", "x"), ("eve", "y"), ("", "")]):
            h = [("x-user", user)] * bool(user) + [("x-place", place)] * bool(place)
            rs = [ask(s.ports[port], headers=h) for s in sides]
            got = [(r.status, [(k, v) for k, v in r.headers if k.startswith("x-ratelimit") and k != "x-ratelimit-reset"]) for r in rs]
            tap.same(got[1], got[0], "local_ratelimit: %s: %d, %s at %s" % (port, i, user or "nobody", place or "none"))


def main():
    tap = Tap()
    h1, h2 = Upstream("up"), Upstream("up2", h2_only=True)
    sides = [Side(k, h1, h2) for k in ("envoy", "weft")]
    for part in (faults, calls, trailers, limits):
        part(tap, sides)
    a, b = ({k: v for k, v in s.proxy.stats(r"(\.fault\.|http_local_rate_limit)").items() if v} for s in sides)
    tap.same(b, a, "counters of faults and limits")
    tap.ok("http.named.fault.me.aborts_injected" in b and "http.unnamed.fault.me.aborts_injected" not in b, "disable_downstream_cluster_stats", b)
    for s in sides:
        tap.ok(s.proxy.stop() == 0, s.kind + " ends when told", s.proxy.log()[-1500:])
    return tap.done()


sys.exit(1 if main() else 0)
