#!/usr/bin/env python3
"""Clusters of weft-waypoint, each option seen by what real requests meet. ONLY=regex: some parts."""
import collections
import json
import os
import re
import socket
import struct
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import PROXY_V2, Upstream, server_tls
from waypoint_kit import (H2_UP, SLOW, T, WORK, Ca, Proxy, Tap, address, ask, bootstrap, chain, cluster, dial, free_ports,
                          hcm, listener, pem, to, upstream_tls, wait_for)

tap = Tap()
MAIN, FOUR, DEAD = free_ports(3)
B = [Upstream("b%d" % i) for i in range(6)]
H2 = [Upstream("h%d" % i, h2_only=True) for i in range(2)]
CLUSTERS, ROUTES = [], []
PARTS = []


def part(fn):
    PARTS.append(fn)
    return fn


def add(c, *ports, route=None, **more):
    """A cluster of that name and its route /NAME"""
    if not isinstance(c, dict):
        c = cluster(c, *ports, **more)
    CLUSTERS.append(c)
    ROUTES.append(to(c["name"], "/%s/" % c["name"], **(route or {})))
    return c


def host(port, at="127.0.0.1", **more):
    return {"endpoint": {"address": address(port, at)}, **more}


def load(name, *localities, **more):
    return {"cluster_name": name, "endpoints": list(localities), **more}


def spread(name, n, headers=(), port=None):
    """Who answers n requests on one connection; what is not 200 by its status"""
    s, got = dial(port or MAIN), collections.Counter()
    for i in range(n):
        r = ask(0, "/%s/" % name, sock=s, headers=headers(i) if callable(headers) else headers)
        got[r.get("x-from") if r.status == 200 else r.status] += 1
        if not r.whole:
            s.close()
            s = dial(port or MAIN)
    s.close()
    return got


def near(got, want, by=0.35):
    n = sum(got.values())
    w = sum(want.values())
    return set(got) <= set(want) and all(abs(got[k] - n * v / w) <= by * n * v / w + 3 for k, v in want.items())


class Eds:
    """Endpoints in a file, replaced by rename as file sources want it"""

    def __init__(self, name, **more):
        self.name, self.path, self.n = name, os.path.join(WORK, name + ".eds.json"), 0
        self.cluster = {"name": name, "type": "EDS", "connect_timeout": "2s",
                        "eds_cluster_config": {"eds_config": {"path_config_source": {"path": self.path}}}, **more}

    def put(self, *localities, text=None, **more):
        self.n += 1
        res = {"@type": T + ".config.endpoint.v3.ClusterLoadAssignment", **load(self.name, *localities, **more)}
        with open(self.path + ".new", "w", encoding="utf-8") as f:
            f.write(text or json.dumps({"version_info": str(self.n), "resources": [res]}))
        os.rename(self.path + ".new", self.path)


def lb(*hosts):
    return {"lb_endpoints": list(hosts)}


class Stats(dict):
    """What was counted; the rest is 0"""

    def __missing__(self, key):
        return 0


def stats_of(proxy, name):
    return Stats({k[len("cluster.%s." % name):]: v for k, v in proxy.stats("^cluster.%s[.]" % name).items() if v})


def together(n, fn):
    """fn(i) in n threads; what they return"""
    out = [None] * n

    def one(i):
        out[i] = fn(i)
    ts = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    return out


# ---- a DNS server
class Dns:
    """Answers A questions over UDP and TCP; names: name → addresses, None: SERVFAIL"""

    def __init__(self):
        self.names, self.asked, self.tcp = {}, collections.Counter(), 0
        self.u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while True:
            self.u.bind(("127.0.0.1", 0))
            self.port = self.u.getsockname()[1]
            self.t = socket.socket()
            try:
                self.t.bind(("127.0.0.1", self.port))
                break
            except OSError:
                self.u.close()
                self.u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.t.listen(16)
        threading.Thread(target=self.udp, daemon=True).start()
        threading.Thread(target=self.stream, daemon=True).start()

    def answer(self, q):
        labels, at = [], 12
        while q[at]:
            labels.append(q[at + 1:at + 1 + q[at]].decode())
            at += 1 + q[at]
        name, end = ".".join(labels), at + 5
        kind = struct.unpack(">H", q[at + 1:at + 3])[0]
        self.asked[name] += 1
        ips = self.names.get(name, [])
        code = 2 if ips is None else 0
        rr = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(i) for i in ips or [] if kind == 1)
        return q[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(rr) // 16, 0, 0) + q[12:end] + rr

    def udp(self):
        while True:
            q, peer = self.u.recvfrom(4096)
            self.u.sendto(self.answer(q), peer)

    def stream(self):
        while True:
            c, _ = self.t.accept()
            threading.Thread(target=self.one, args=(c,), daemon=True).start()

    def one(self, c):
        with c:
            while True:
                n = c.recv(2, socket.MSG_WAITALL)
                if len(n) < 2:
                    return
                a = self.answer(c.recv(int.from_bytes(n, "big"), socket.MSG_WAITALL))
                self.tcp += 1
                c.sendall(struct.pack(">H", len(a)) + a)


dns = Dns()
RESOLVER = {"typed_dns_resolver_config": {"name": "cares", "typed_config": {
    "@type": T + ".extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    "resolvers": [address(dns.port)], "query_timeout_seconds": 1, "query_tries": 1}}}
TCP_RESOLVER = json.loads(json.dumps(RESOLVER))
TCP_RESOLVER["typed_dns_resolver_config"]["typed_config"]["dns_resolver_options"] = {"use_tcp_for_dns_lookups": True}
TWIN = [Upstream("twin1", host="127.0.0.31")]
TWIN.append(Upstream("twin2", host="127.0.0.32", port=TWIN[0].port))
dns.names = {"strict.test": ["127.0.0.31", "127.0.0.32"], "logical.test": ["127.0.0.31"], "tcp.test": ["127.0.0.31"]}


def named(name, kind, dns_name, resolver):
    return add(name, type=kind, dns_lookup_family="V4_ONLY", dns_refresh_rate="0.2s", dns_failure_refresh_rate={"base_interval": "0.2s"},
               load_assignment=load(name, lb(host(TWIN[0].port, dns_name))), **resolver)


named("strict", "STRICT_DNS", "strict.test", RESOLVER)
named("logical", "LOGICAL_DNS", "logical.test", RESOLVER)
named("tcpdns", "STRICT_DNS", "tcp.test", TCP_RESOLVER)
add({"name": "original", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s",
     "original_dst_lb_config": {"use_http_header": True}})
add({"name": "named", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s", "original_dst_lb_config": {
    "use_http_header": True, "http_header_name": "x-to", "upstream_port_override": B[3].port}})


@part
def discovery(p):
    tap.ok(near(spread("strict", 60), {"twin1": 1, "twin2": 1}), "strict DNS: every address is a host")
    tap.same(spread("logical", 10), {"twin1": 10}, "logical DNS: one host")
    tap.ok(spread("tcpdns", 4) == {"twin1": 4} and dns.tcp > 0, "lookups over TCP", dns.tcp)
    dns.names["strict.test"] = ["127.0.0.32"]
    tap.ok(wait_for(lambda: p.stat("cluster.strict.membership_total") == 1, 5), "an address that leaves the answer leaves the cluster")
    tap.same(spread("strict", 10), {"twin2": 10}, "... and gets nothing")
    dns.names["strict.test"] = None
    n = dns.asked["strict.test"]
    wait_for(lambda: dns.asked["strict.test"] > n + 2, 5)
    tap.ok(spread("strict", 10) == {"twin2": 10} and p.stat("cluster.strict.update_failure") > 0, "a lookup that fails changes nothing, and is counted")
    dns.names["strict.test"] = ["127.0.0.31"]
    tap.ok(wait_for(lambda: spread("strict", 1) == {"twin1": 1}, 5), "and the next good answer counts")
    before = p.stat("cluster.logical.upstream_cx_destroy")
    dns.names["logical.test"] = ["127.0.0.32"]
    tap.ok(wait_for(lambda: "twin2" in sum(together(4, lambda i: spread("logical", 2)), collections.Counter()), 5),
           "logical DNS: new connections go to the new address")
    tap.same(p.stat("cluster.logical.upstream_cx_destroy"), before, "... and those that are open stay")


@part
def original_dst(p):
    dest = lambda i: [("x-envoy-original-dst-host", "127.0.0.1:%d" % B[i % 2].port)]
    tap.same(spread("original", 20, dest), {"b0": 10, "b1": 10}, "the original destination by header")
    tap.same(spread("named", 4, [("x-to", "127.0.0.1:1")]), {"b3": 4}, "... by a header of another name, and to a port of the configuration's")
    tap.same(spread("original", 3, [("x-envoy-original-dst-host", "nonsense")]), {503: 3}, "what is no address is no host")
    tap.ok(p.stat("cluster.original.original_dst_host_invalid") >= 3, "... and counted")


# ---- policies
add("rr", load_assignment=load("rr", lb(*[host(B[i].port, load_balancing_weight=i + 1) for i in range(3)])))
add("random", B[0].port, B[1].port, B[2].port, lb_policy="RANDOM")
slowly = Upstream("slowly")
slowly.habit = "delay=150"
add("least", slowly.port, B[0].port, lb_policy="LEAST_REQUEST")
add("locality", common_lb_config={"locality_weighted_lb_config": {}}, load_assignment=load(
    "locality", {"locality": {"zone": "a"}, "load_balancing_weight": 3, **lb(host(B[0].port))},
    {"locality": {"zone": "b"}, "load_balancing_weight": 1, **lb(host(B[1].port), host(B[2].port))}))
ZONES = [{"locality": {"zone": z}, **lb(host(B[i].port))} for i, z in enumerate("ab")]
add("self", load_assignment=load("self", *ZONES))
add("zoned", common_lb_config={"zone_aware_lb_config": {"min_cluster_size": 1}}, load_assignment=load("zoned", *ZONES))
ring, maglev = (Eds(n, lb_policy=p) for n, p in (("ring", "RING_HASH"), ("maglev", "MAGLEV")))
for e in (ring, maglev):
    e.put(lb(*[host(b.port) for b in B[:5]]))
    add(e.cluster, route={"hash_policy": [{"header": {"header_name": "x-user"}}]})
add("dropped", load_assignment=load("dropped", lb(host(B[0].port)), policy={
    "drop_overloads": [{"category": "all", "drop_percentage": {"numerator": 50, "denominator": "HUNDRED"}}]}))


@part
def policies(p):
    tap.ok(near(spread("rr", 300), {"b0": 1, "b1": 2, "b2": 3}, 0.05), "round robin: weights 1, 2, 3")
    got = spread("random", 600)
    tap.ok(near(got, {"b0": 1, "b1": 1, "b2": 1}), "random", got)
    got = sum(together(12, lambda i: spread("least", 20)), collections.Counter())
    tap.ok(got["b0"] > 2 * got["slowly"] > 0, "least request: who is slow gets little", got)
    got = spread("locality", 400)
    tap.ok(near(got, {"b0": 6, "b1": 1, "b2": 1}), "localities by weight", got)
    tap.same(spread("zoned", 50), {"b0": 50}, "zone-aware: as many hosts as we are, all in the own zone")
    tap.ok(p.stat("cluster.zoned.lb_zone_routing_all_directly") >= 50, "... and counted", p.stats("zoned.lb_zone"))
    got = spread("dropped", 200)
    tap.ok(60 <= got[503] <= 140 and p.stat("cluster.dropped.upstream_rq_drop_overload") == got[503], "drop_overloads: half of them", got)


@part
def hashes(p):
    for e in (ring, maglev):
        def owners():
            s = dial(MAIN)
            got = [ask(0, "/%s/" % e.name, sock=s, headers=[("x-user", "u%d" % i)]).get("x-from") for i in range(200)]
            s.close()
            return got
        first = owners()
        tap.ok(owners() == first and set(first) == {"b%d" % i for i in range(5)}, "%s: a user keeps the host, every host has users" % e.name,
               collections.Counter(first))
        e.put(lb(*[host(b.port) for b in B[:4]]))
        wait_for(lambda: p.stat("cluster.%s.membership_total" % e.name) == 4, 5)
        now = owners()
        moved = sum(a != b for a, b in zip(first, now) if a != "b4")
        # a ring of fewer hosts has more points of each, as in Envoy
        tap.ok("b4" not in now and moved <= 45, "%s: a host leaves, most users of the others stay" % e.name, moved)


# ---- endpoints from a file
weights, bad, ramp = Eds("weights"), Eds("bad"), Eds("ramp", round_robin_lb_config={"slow_start_config": {"slow_start_window": "4s"}})
weights.put(lb(host(B[0].port), host(B[1].port)))
bad.put(lb(host(B[0].port)))
ramp.put(lb(host(B[0].port)))
for e in (weights, bad, ramp):
    add(e.cluster)


@part
def endpoints(p):
    stop, failed, done = [], [], [0]

    def client(i):
        s = dial(MAIN)
        while not stop:
            r = ask(0, "/weights/", sock=s)
            done[0] += 1
            if r.status != 200:
                failed.append(r.status)
                break
            time.sleep(0.002)
        s.close()
    ts = [threading.Thread(target=client, args=(i,)) for i in range(4)]
    [t.start() for t in ts]
    time.sleep(0.3)
    for i in range(1, 7):
        ok = p.stat("cluster.weights.update_success")
        weights.put(lb(host(B[0].port, load_balancing_weight=10 * i), host(B[1].port, load_balancing_weight=10)))
        wait_for(lambda: p.stat("cluster.weights.update_success") > ok, 5)
        time.sleep(0.2)
    time.sleep(1)
    got = spread("weights", 140)
    stop.append(1)
    [t.join() for t in ts]
    st = stats_of(p, "weights")
    tap.ok(not failed and done[0] > 200, "weights change under load: no request fails", failed, done)
    tap.ok(near(got, {"b0": 6, "b1": 1}, 0.2), "... the last ones hold", got)
    tap.ok(st["upstream_cx_destroy"] == 0 and st["membership_change"] == 1 and st["upstream_cx_total"] <= 10,
           "... and no connection is closed for it", st)
    bad.put(text='{"resources":[{"@type":"%s.config.endpoint.v3.ClusterLoadAssignment","cluster_name":"bad","endpoints":[{"lb_endpoints":'
                 '[{"endpoint":{"address":{"socket_address":{"address":"not-an-ip","port_value":1}}}}]}]}]}' % T)
    tap.ok(wait_for(lambda: "not-an-ip" in p.log(), 5), "endpoints that are wrong are refused by name", p.log()[-500:])
    tap.same(spread("bad", 4), {"b0": 4}, "... and the last good ones serve")
    spread("ramp", 4)
    t = time.monotonic()
    ramp.put(lb(host(B[0].port), host(B[1].port)))
    wait_for(lambda: p.stat("cluster.ramp.membership_total") == 2, 5, 0.005)
    got = spread("ramp", 60)
    took = time.monotonic() - t
    if took < 1.5:
        tap.ok(0 < got["b1"] < 22, "slow start: the new host gets little", got, took)
    else:
        tap.skip("slow start: the new host gets little", "60 requests took %.1f s" % took)
    time.sleep(max(0, 4.2 - (time.monotonic() - t)))
    got = spread("ramp", 60)
    tap.ok(near(got, {"b0": 1, "b1": 1}), "... and its share after the window", got)


# ---- health
CHECK = {"timeout": "0.5s", "interval": "0.1s", "no_traffic_interval": "0.1s", "unhealthy_threshold": 2, "healthy_threshold": 2,
         "unhealthy_interval": "0.1s"}
away = {n: Upstream(n) for n in ("hc_http", "hc_tcp")}
away["hc_grpc"] = Upstream("hc_grpc", h2_only=True)
stays = {n: Upstream(n + "2", h2_only=n == "hc_grpc") for n in away}
away["hc_grpc"].grpc = stays["hc_grpc"].grpc = 1
KIND = {"hc_http": {"http_health_check": {"path": "/health", "expected_statuses": [{"start": 200, "end": 201}]}},
        "hc_tcp": {"tcp_health_check": {"send": {"text": b"GET /x HTTP/1.1\r\ncontent-length: 0\r\n\r\n".hex()}, "receive": [
            {"text": b"HTTP/1.1 200".hex()}]}},
        "hc_grpc": {"grpc_health_check": {"service_name": "s", "authority": "a"}}}
for n in away:
    add(n, away[n].port, stays[n].port, http=H2_UP if n == "hc_grpc" else None, health_checks=[{**CHECK, **KIND[n]}])
PRIO = [Upstream("p%d" % i) for i in range(3)]
for n, more in (("prio", {}), ("panic", {"common_lb_config": {"healthy_panic_threshold": {"value": 60}}}),
                ("calm", {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}})):
    two = [{"priority": 0, **lb(host(PRIO[0].port), host(PRIO[1].port))}]
    add(n, health_checks=[{**CHECK, "http_health_check": {"path": "/health"}}],
        load_assignment=load(n, *(two + [{"priority": 1, **lb(host(PRIO[2].port))}] if n == "prio" else two)), **more)


@part
def health(p):
    for n in away:
        up = lambda: p.stat("cluster.%s.membership_healthy" % n)
        tap.ok(wait_for(lambda: up() == 2, 5), "%s: both hosts are well" % n, up())
        tap.same(len(spread(n, 10)), 2, "... and serve")
        port = away[n].port
        if n == "hc_grpc":
            away[n].grpc = 2
        else:
            away[n].die()
        tap.ok(wait_for(lambda: up() == 1, 10), "%s: one goes away" % n)
        tap.same(spread(n, 20), {n + "2": 20}, "... and gets nothing")
        if n == "hc_grpc":
            away[n].grpc = 1
        else:
            away[n] = Upstream(n, port=port)
        tap.ok(wait_for(lambda: up() == 2, 10), "%s: it comes back" % n)
        tap.same(len(spread(n, 10)), 2, "... and serves again")
        st = stats_of(p, n)
        tap.ok(st["health_check.success"] > 4 and st["health_check.failure"] > 0 and st["health_check.healthy"] == 2, "... and is counted", st)


@part
def priorities(p):
    well = lambda n, k: wait_for(lambda: p.stat("cluster.%s.membership_healthy" % n) == k, 10)
    well("prio", 3)
    tap.same(set(spread("prio", 20)), {"p0", "p1"}, "the first priority serves")
    PRIO[0].sick = "/health"
    well("prio", 2)
    got = spread("prio", 300)
    tap.ok(near(got, {"p1": 7, "p2": 3}), "half of it sick: 0.5 * 1.4 stays, the rest overflows", got)
    well("panic", 1), well("calm", 1)
    got = spread("panic", 40)
    tap.ok(set(got) == {"p0", "p1"} and p.stat("cluster.panic.lb_healthy_panic") > 0, "half below the panic threshold of 60: all serve", got)
    tap.same(spread("calm", 20), {"p1": 20}, "a threshold of 0: no panic")
    PRIO[1].sick = "/health"
    well("prio", 1)
    tap.same(spread("prio", 20), {"p2": 20}, "all of it sick: the next priority has all")
    well("calm", 0)
    tap.same(spread("calm", 5), {503: 5}, "... and without panic nobody answers")
    PRIO[0].sick = PRIO[1].sick = None
    well("prio", 3)
    tap.same(set(spread("prio", 20)), {"p0", "p1"}, "all well again: the first serves")


# ---- outlier detection
sick = Upstream("sick")
NONE = {"enforcing_consecutive_5xx": 0, "enforcing_success_rate": 0, "enforcing_consecutive_gateway_failure": 0, "enforcing_failure_percentage": 0,
        "enforcing_consecutive_local_origin_failure": 0, "enforcing_local_origin_success_rate": 0, "enforcing_failure_percentage_local_origin": 0}
BASE = {**NONE, "interval": "0.3s", "base_ejection_time": "1s", "max_ejection_time": "1s", "max_ejection_percent": 100}
RATE = {"success_rate_minimum_hosts": 3, "success_rate_request_volume": 5, "success_rate_stdev_factor": 1000}
PCT = {"failure_percentage_minimum_hosts": 3, "failure_percentage_request_volume": 5, "failure_percentage_threshold": 60}
LOCAL = {"split_external_local_origin_errors": True}
OUT = {  # name: (what it needs, the failing host is dead and not sick)
    "consecutive_5xx": ({"enforcing_consecutive_5xx": 100, "consecutive_5xx": 3}, False),
    "consecutive_gateway_failure": ({"enforcing_consecutive_gateway_failure": 100, "consecutive_gateway_failure": 3}, False),
    "consecutive_local_origin_failure": ({**LOCAL, "enforcing_consecutive_local_origin_failure": 100, "consecutive_local_origin_failure": 3}, True),
    "success_rate": ({**RATE, "enforcing_success_rate": 100}, False),
    "local_origin_success_rate": ({**LOCAL, **RATE, "enforcing_local_origin_success_rate": 100, "consecutive_local_origin_failure": 1000}, True),
    "failure_percentage": ({**PCT, "enforcing_failure_percentage": 100}, False),
    "local_origin_failure_percentage": ({**LOCAL, **PCT, "enforcing_failure_percentage_local_origin": 100,
                                         "consecutive_local_origin_failure": 1000}, True),
}
for n, (conf, dead) in OUT.items():
    add(n, DEAD if dead else sick.port, B[0].port, B[1].port, B[2].port, outlier_detection={**BASE, **conf}, common_lb_config={"update_merge_window": "0s"})
add("shy", sick.port, DEAD, B[0].port, B[1].port, outlier_detection={**BASE, "max_ejection_percent": 25, "enforcing_consecutive_5xx": 100,
                                                                    "consecutive_5xx": 2, "base_ejection_time": "30s", "max_ejection_time": "30s"})
add("mere", sick.port, B[0].port, outlier_detection={**BASE, "consecutive_5xx": 2, "interval": "10s"})


@part
def outliers(p):
    sick.sick = "/"

    def eject(n):
        st = lambda k: stats_of(p, n)["outlier_detection." + k]
        end = time.monotonic() + 8 * SLOW
        while not st("ejections_enforced_" + n) and time.monotonic() < end:
            spread(n, 40)
        return st("ejections_enforced_" + n), st("ejections_detected_" + n), st("ejections_enforced_total")
    for n, got in zip(OUT, together(len(OUT), lambda i: eject(list(OUT)[i]))):
        tap.ok(got[0] >= 1 and got[1] >= got[0] and got[2] == got[0], "%s: ejected, and counted as that alone" % n, got)
    n = "consecutive_5xx"
    back = lambda: stats_of(p, n)["outlier_detection.ejections_active"] == 0
    tap.ok(wait_for(back, 8), "after its time an ejected host is back")
    while stats_of(p, n)["outlier_detection.ejections_active"] == 0:
        spread(n, 12)
    tap.ok(503 not in spread(n, 12), "and goes again when it fails again; while it is away nothing fails")
    sick.sick_status = "500"
    time.sleep(1.6)
    before = stats_of(p, "consecutive_gateway_failure")["outlier_detection.ejections_detected_consecutive_gateway_failure"]
    got = spread("consecutive_gateway_failure", 40)
    tap.ok(got[500] > 5 and stats_of(p, "consecutive_gateway_failure")[
        "outlier_detection.ejections_detected_consecutive_gateway_failure"] == before, "500 is no gateway failure", got)
    sick.sick_status = "503"
    got = spread("shy", 60)
    st = stats_of(p, "shy")
    tap.ok(st["outlier_detection.ejections_active"] == 1 and st["outlier_detection.ejections_overflow"] >= 1,
           "max_ejection_percent: one of four, not two", got, st)
    spread("mere", 20)
    st = stats_of(p, "mere")
    tap.ok(st["outlier_detection.ejections_detected_consecutive_5xx"] >= 1 and st["outlier_detection.ejections_active"] == 0,
           "enforced by 0: seen, not ejected")
    sick.sick = None


# ---- circuit breakers
def breaker(**more):
    return {"circuit_breakers": {"thresholds": [{"track_remaining": True, **more}]}}


add("narrow", H2[0].port, http=H2_UP, **breaker(max_requests=2))
add("retries", sick.port, route={"retry_policy": {"retry_on": "5xx", "num_retries": 1, "retry_back_off": {"base_interval": "0.3s", "max_interval": "0.3s"}}},
    **breaker(retry_budget={"budget_percent": {"value": 1}, "min_retry_concurrency": 1}))
add("queue", B[4].port, **breaker(max_connections=1, max_pending_requests=2, max_requests=10))
add("each", B[4].port, B[5].port, circuit_breakers={"per_host_thresholds": [{"max_connections": 1}]})


@part
def breakers(p):
    gauge = lambda n, k: stats_of(p, n)["circuit_breakers.default." + k]
    ask(MAIN, "/narrow/")
    tap.ok(gauge("narrow", "remaining_rq") == 2 and gauge("narrow", "rq_open") == 0, "remaining_rq at rest", stats_of(p, "narrow"))
    seen = []

    def one(i):
        if i == 9:
            time.sleep(0.4)
            seen.append((gauge("narrow", "remaining_rq"), gauge("narrow", "rq_open")))
            return ask(MAIN, "/narrow/").status
        return ask(MAIN, "/narrow/", do="delay=1000").status if i < 2 else 0
    got = together(10, one)
    tap.same((got[0], got[1], got[9], seen), (200, 200, 503, [(0, 1)]), "max_requests of an HTTP/2 cluster, and its gauges while it is full")
    tap.ok(wait_for(lambda: gauge("narrow", "remaining_rq") == 2 and gauge("narrow", "rq_open") == 0, 3), "... and after")
    sick.sick = "/retries"
    together(8, lambda i: ask(MAIN, "/retries/").status)
    st = stats_of(p, "retries")
    tap.ok(st["upstream_rq_retry"] >= 1 and st["upstream_rq_retry_overflow"] >= 4 and st["upstream_rq_retry"] + st["upstream_rq_retry_overflow"] == 8,
           "a retry budget of one at a time: the others are not retried", st)
    sick.sick = None
    got = collections.Counter(together(8, lambda i: ask(MAIN, "/queue/", do="delay=300").status))
    st = stats_of(p, "queue")
    tap.ok(got == {200: 3, 503: 5} and st["upstream_rq_pending_overflow"] == 5 and st["upstream_cx_total"] == 1, "one connection, two that wait", got, st)
    tap.ok(gauge("queue", "remaining_cx") == 0 and gauge("queue", "remaining_pending") == 2, "their gauges", st)
    got = collections.Counter(together(6, lambda i: ask(MAIN, "/each/", do="delay=300").status))
    tap.ok(max(len([1 for x in b.peers]) for b in (B[4], B[5])) > 0 and got[200] >= 2 and stats_of(p, "each")["upstream_cx_total"] <= 2,
           "per_host_thresholds: one connection a host", got, stats_of(p, "each"))


# ---- connections
add("few", B[4].port, max_requests_per_connection=3)
OPT = {"common_http_protocol_options": {}, "explicit_http_config": {"http_protocol_options": {}}}
add("aged", B[4].port, http={**OPT, "common_http_protocol_options": {"max_connection_duration": "0.3s"}})
add("idle", B[4].port, http={**OPT, "common_http_protocol_options": {"idle_timeout": "0.3s"}})
add("streams", H2[1].port, http={"explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 2}}})
add("ahead", B[5].port, preconnect_policy={"per_upstream_preconnect_ratio": 3})
keeper = Upstream("keeper")
add("keep", keeper.port, upstream_connection_options={"tcp_keepalive": {"keepalive_time": 7, "keepalive_interval": 3, "keepalive_probes": 2}})
bound = Upstream("bound")
add("bound", bound.port, upstream_bind_config={"source_address": {"address": "127.0.0.77", "port_value": 0}})
v2 = Upstream("v2")
v2.proxy = True
add("v2", v2.port, transport_socket={"name": "pp", "typed_config": {
    "@type": T + ".extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport", "config": {"version": "V2", "added_tlvs": [
        {"type": 0xF0, "value": "d2VmdA=="}]}, "transport_socket": {"name": "raw", "typed_config": {
            "@type": T + ".extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}})


@part
def connections(p):
    spread("few", 9)
    st = stats_of(p, "few")
    tap.ok(st["upstream_cx_total"] == 3 and st["upstream_cx_max_requests"] == 3, "max_requests_per_connection", st)
    spread("aged", 2)
    time.sleep(0.6)
    tap.ok(spread("aged", 2) == {"b4": 2} and stats_of(p, "aged")["upstream_cx_max_duration_reached"] == 1
           and stats_of(p, "aged")["upstream_cx_total"] == 2, "max_connection_duration", stats_of(p, "aged"))
    spread("idle", 2)
    tap.ok(wait_for(lambda: stats_of(p, "idle")["upstream_cx_idle_timeout"] == 1 and stats_of(p, "idle")["upstream_cx_active"] == 0, 5), "idle_timeout")
    got = together(6, lambda i: ask(MAIN, "/streams/", do="delay=500").status)
    tap.ok(got == [200] * 6 and stats_of(p, "streams")["upstream_cx_total"] == 3, "six requests, two streams a connection", got, stats_of(p, "streams"))
    ask(MAIN, "/ahead/", do="delay=200")
    tap.ok(wait_for(lambda: stats_of(p, "ahead")["upstream_cx_total"] == 3, 3), "preconnect: three connections for one request", stats_of(p, "ahead"))
    spread("keep", 1)
    with open("/proc/net/tcp", encoding="utf-8") as f:
        mine = [x.split() for x in f if ":%04X" % keeper.port == x.split()[2][8:] and x.split()[3] == "01"]
    tap.ok(len(mine) == 1 and mine[0][5].startswith("02:") and int(mine[0][5][3:], 16) <= 700, "tcp_keepalive: the kernel's timer runs", mine)
    tap.ok(spread("bound", 2) == {"bound": 2} and {x[0] for x in bound.peers} == {"127.0.0.77"}, "upstream_bind_config", bound.peers)
    s = dial(MAIN)
    me = s.getsockname()
    r = ask(0, "/v2/", sock=s)
    s.close()
    head = v2.seen[0][1]
    want = PROXY_V2 + b"\x21\x11" + struct.pack(">H", 12 + 3 + 4) + socket.inet_aton("127.0.0.1") * 2 + struct.pack(">HH", me[1], MAIN) + b"\xf0\0\4weft"
    tap.ok(r.status == 200 and head == want, "PROXY protocol v2 with a TLV", repr(head), repr(want))


# ---- TLS
ca, other_ca = Ca("up"), Ca("other")
cert, key = ca.issue("server", "DNS:good.test,DNS:auto.test")
mine = ca.issue("client", "URI:spiffe://weft/client")
names = []


def tls_server(name, asks):
    ctx = server_tls(cert, key, ("http/1.1",), ca.cert if asks else None)
    ctx.sni_callback = lambda s, n, c: names.append(n)
    return Upstream(name, tls=ctx)


mtls, onlytls = tls_server("mtls", True), tls_server("onlytls", False)


def secured(name, up, san="good.test", trust=None, give=None, sni="good.test", more=None, **cl):
    check = {"trusted_ca": {"filename": trust or ca.cert}}
    if san:
        check["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": san}}]
    common = {"validation_context": check}
    if give:
        common["tls_certificates"] = [pem(*give)]
    add(name, up.port, transport_socket=upstream_tls(common_tls_context=common, **({"sni": sni} if sni else {}), **(more or {})), **cl)


secured("mtls", mtls, give=mine)
secured("nocert", mtls)
secured("wrongsan", onlytls, san="bad.test")
secured("wrongca", onlytls, trust=other_ca.cert)
secured("auto", onlytls, san=None, sni=None, http={"upstream_http_protocol_options": {"auto_sni": True, "auto_san_validation": True},
                                                   "explicit_http_config": {"http_protocol_options": {}}})
secured("resumed", onlytls, max_requests_per_connection=1)
secured("full", onlytls, max_requests_per_connection=1, more={"max_session_keys": 0})


@part
def tls(p):
    tap.same(spread("mtls", 3), {"mtls": 3}, "mTLS")
    tap.same((mtls.hands[:1], names[:1]), ([("client", False)], ["good.test"]), "... with our certificate and SNI")
    tap.same(spread("nocert", 2), {503: 2}, "without a certificate the server refuses")
    tap.same(spread("wrongsan", 2), {503: 2}, "a certificate of another name")
    tap.ok(stats_of(p, "wrongsan")["ssl.fail_verify_san"] >= 2, "... is counted", stats_of(p, "wrongsan"))
    tap.same(spread("wrongca", 2), {503: 2}, "a certificate of another authority")
    tap.ok(stats_of(p, "wrongca")["ssl.fail_verify_error"] >= 2, "... is counted")
    r = ask(MAIN, "/auto/", host="auto.test")
    tap.ok(r.status == 200 and names[-1] == "auto.test", "auto_sni and auto_san_validation", r.status, names[-1])
    tap.same(ask(MAIN, "/auto/", host="else.test").status, 503, "... of a name that the certificate has not")
    n = len(onlytls.hands)
    spread("resumed", 6)
    st = stats_of(p, "resumed")
    tap.ok(st["ssl.session_reused"] >= 3 and sum(x[1] for x in onlytls.hands[n:]) >= 3, "sessions are resumed", st, onlytls.hands[n:])
    spread("full", 4)
    tap.same(stats_of(p, "full")["ssl.session_reused"], 0, "... and not where max_session_keys is 0")


# ---- the rest of the options
HTTP_CHECK = [{**CHECK, "http_health_check": {"path": "/health"}}]
odd = [Upstream("odd%d" % i) for i in range(3)]
odd[0].sick = "/never"
add("cuts", odd[0].port, odd[1].port, health_checks=HTTP_CHECK, close_connections_on_host_health_failure=True)
add("unchecked", load_assignment=load("unchecked", lb(host(odd[1].port), {"endpoint": {
    "address": address(odd[0].port), "health_check_config": {"disable_active_health_check": True}}})), health_checks=HTTP_CHECK)
add("elsewhere", load_assignment=load("elsewhere", lb(host(odd[1].port), {"endpoint": {
    "address": address(odd[2].port), "health_check_config": {"port_value": odd[0].port}}})), health_checks=HTTP_CHECK)
LONG = {**BASE, "enforcing_consecutive_5xx": 100, "consecutive_5xx": 3, "base_ejection_time": "60s", "max_ejection_time": "60s"}
for n, on in (("pardoned", True), ("banned", False)):
    add(n, sick.port, odd[1].port, health_checks=HTTP_CHECK, common_lb_config={"update_merge_window": "0s"},
        outlier_detection={**LONG, "successful_active_health_check_uneject_host": on})
add("full_scan", odd[0].port, odd[1].port, odd[2].port, load_balancing_policy={"policies": [{"typed_extension_config": {
    "name": "lr", "typed_config": {"@type": T + ".extensions.load_balancing_policies.least_request.v3.LeastRequest", "enable_full_scan": True}}}]})
add("olddns", type="STRICT_DNS", dns_lookup_family="V4_ONLY", dns_resolution_config={"resolvers": [address(dns.port)]},
    load_assignment=load("olddns", lb(host(TWIN[0].port, "tcp.test"))))
add("like_down", odd[1].port, protocol_selection="USE_DOWNSTREAM_PROTOCOL")
add("heads", odd[1].port, http={**OPT, "common_http_protocol_options": {"max_response_headers_kb": 8}})
add("option", odd[2].port, upstream_bind_config={"source_address": {"address": "127.0.0.1", "port_value": 0}, "socket_options": [
    {"level": socket.SOL_SOCKET, "name": socket.SO_KEEPALIVE, "buf_value": "AQAAAA==", "state": "STATE_PREBIND"}]})
three = [Upstream("three%d" % i) for i in range(3)]
three[0].sick = "/health"
add("heavy", health_checks=HTTP_CHECK, load_assignment=load(
    "heavy", lb(host(three[0].port, load_balancing_weight=9), host(three[1].port)), {"priority": 1, **lb(host(three[2].port))},
    policy={"weighted_priority_health": True}))
for n, how in (("forced", {"force_locality_direct_routing": True}), ("forced2", {"force_local_zone": {"min_size": 1}})):
    add(n, load_assignment=load(n, {"locality": {"zone": "a"}, **lb(host(B[0].port))}, {"locality": {"zone": "b"}, **lb(host(B[1].port), host(B[2].port))}),
        load_balancing_policy={"policies": [{"typed_extension_config": {"name": "rr", "typed_config": {
            "@type": T + ".extensions.load_balancing_policies.round_robin.v3.RoundRobin",
            "locality_lb_config": {"zone_aware_lb_config": {"min_cluster_size": 1, **how}}}}}]})
both = Upstream("both", tls=server_tls(cert, key))
AUTO = {"auto_config": {"http2_protocol_options": {}}}
secured("auto2", both, http=AUTO)
secured("auto1", onlytls, http=AUTO)
secured("sni_of", onlytls, sni=None, san=None, http={**OPT, "common_http_protocol_options": {},
                                                    "upstream_http_protocol_options": {"auto_sni": True, "override_auto_sni_header": "x-sni"}})


@part
def odds(p):
    healthy = lambda n, k: wait_for(lambda: p.stat("cluster.%s.membership_healthy" % n) == k, 10)
    for n in ("cuts", "unchecked", "elsewhere"):
        healthy(n, 2)
    spread("cuts", 4)
    n = stats_of(p, "cuts")["upstream_cx_active"]
    odd[0].sick = "/health"
    tap.ok(healthy("cuts", 1) and wait_for(lambda: stats_of(p, "cuts")["upstream_cx_active"] == n - 1, 3),
           "close_connections_on_host_health_failure", n, stats_of(p, "cuts"))
    tap.same(stats_of(p, "unchecked")["membership_healthy"], 2, "disable_active_health_check: well without a check")
    tap.ok(healthy("elsewhere", 1) and spread("elsewhere", 4) == {"odd1": 4}, "a health check on another port decides")
    odd[0].sick = None
    sick.sick = "/pardoned"
    healthy("pardoned", 2), healthy("banned", 2)
    spread("pardoned", 12)
    tap.ok(wait_for(lambda: stats_of(p, "pardoned")["outlier_detection.ejections_enforced_total"] >= 1
                    and stats_of(p, "pardoned")["outlier_detection.ejections_active"] == 0, 5),
           "a good health check ends an ejection", stats_of(p, "pardoned"))
    sick.sick = "/banned"
    spread("banned", 12)
    time.sleep(0.5)
    tap.same(stats_of(p, "banned")["outlier_detection.ejections_active"], 1, "... and not where successful_active_health_check_uneject_host is off")
    sick.sick = None
    got = together(3, lambda i: (time.sleep(i * 0.1), ask(MAIN, "/full_scan/", do="delay=900").get("x-from"))[1])
    tap.same(set(got), {"odd0", "odd1", "odd2"}, "enable_full_scan: always the least busy of all")
    healthy("heavy", 2)
    got = spread("heavy", 200)
    tap.ok(near(got, {"three1": 14, "three2": 86}), "weighted_priority_health: a tenth of the weight is well, 14 of 100 stay", got)
    for n in ("forced", "forced2"):
        tap.same(spread(n, 20), {"b0": 20}, "%s: the own zone whatever the shares" % n)
    tap.same(spread("olddns", 2), {"twin1": 2}, "dns_resolution_config")
    tap.ok(spread("like_down", 2) == {"odd1": 2} and stats_of(p, "like_down")["upstream_cx_http1_total"] == 1, "protocol_selection")
    big = [ask(MAIN, "/heads/", do="header=x-big:" + "h" * k).status for k in (4000, 9000)]
    tap.ok(big[0] == 200 and big[1] in (502, 503), "max_response_headers_kb", big)
    spread("option", 1)
    with open("/proc/net/tcp", encoding="utf-8") as f:
        mine = [x.split()[5] for x in f if ":%04X" % odd[2].port == x.split()[2][8:] and x.split()[3] == "01"]
    tap.ok(any(x.startswith("02:") for x in mine), "a socket option as bytes", mine)
    tap.ok(spread("auto2", 2) == {"both": 2} and stats_of(p, "auto2")["upstream_cx_http2_total"] == 1, "auto_config: HTTP/2 by ALPN")
    tap.ok(spread("auto1", 2) == {"onlytls": 2} and stats_of(p, "auto1")["upstream_cx_http1_total"] == 1, "... and HTTP/1")
    tap.ok(spread("sni_of", 1, [("x-sni", "auto.test")]) == {"onlytls": 1} and names[-1] == "auto.test", "override_auto_sni_header", names[-1])


# ---- many workers
crowd = Upstream("crowd")
many_ok, many_bad = Upstream("many_ok"), Upstream("many_bad")
many_away = Upstream("many_away")
WIDE = [cluster("crowd", crowd.port, **breaker(max_connections=3, max_pending_requests=1000, max_requests=1000)),
        cluster("crowd2", H2[0].port, http=H2_UP, **breaker(max_requests=5)),
        cluster("manyout", many_bad.port, many_ok.port, outlier_detection={**BASE, "enforcing_consecutive_5xx": 100, "consecutive_5xx": 10,
                                                                         "base_ejection_time": "60s", "max_ejection_time": "60s"}),
        cluster("manyhc", many_away.port, many_ok.port, health_checks=[{**CHECK, "http_health_check": {"path": "/health"}}])]


def four():
    p = Proxy(bootstrap([listener("four", FOUR, chain(hcm([to(c["name"], "/%s/" % c["name"]) for c in WIDE])))], WIDE), name="four",
              args=("--concurrency", "4"))
    get = lambda n, count, **kw: [ask(FOUR, "/%s/" % n, **kw).status for _ in range(count)]
    got = sum(together(32, lambda i: get("crowd", 4, do="delay=20")), [])
    st = stats_of(p, "crowd")
    tap.ok(got == [200] * 128 and len(crowd.peers) == st["upstream_cx_total"], "4 workers share max_connections: all are answered",
           collections.Counter(got), st)
    tap.ok(st["upstream_cx_active"] <= 3 + 4 and st["upstream_cx_overflow"] > 0, "... with no more connections than that and one a worker", st)
    got = collections.Counter(sum(together(24, lambda i: get("crowd2", 3, do="delay=100")), []))
    st = stats_of(p, "crowd2")
    tap.ok(set(got) == {200, 503} and got[503] == st["upstream_rq_pending_overflow"] and st["circuit_breakers.default.remaining_rq"] == 5,
           "4 workers share max_requests, and what is open is counted down again", got, st)
    many_bad.sick = "/"
    got = collections.Counter(sum(together(16, lambda i: get("manyout", 10)), []))
    st = stats_of(p, "manyout")
    tap.ok(10 <= got[503] <= 60 and st["outlier_detection.ejections_enforced_total"] == 1 and st["outlier_detection.ejections_active"] == 1,
           "4 workers count one run of failures; one ejection", got, st)
    tap.same(set(sum(together(8, lambda i: get("manyout", 4)), [])), {200}, "... which every worker knows")
    wait_for(lambda: p.stat("cluster.manyhc.membership_healthy") == 2, 5)
    many_away.die()
    tap.ok(wait_for(lambda: p.stat("cluster.manyhc.membership_healthy") == 1, 10), "a health check sees a host go")
    tap.same(set(sum(together(8, lambda i: get("manyhc", 6)), [])), {200}, "... and no worker uses it")
    for n in ("upstream_rq_active", "upstream_rq_pending_active"):
        tap.same({k: v for k, v in p.stats(n + "$").items() if v}, {}, "%s is 0 again" % n)
    tap.same(p.stop(), 0, "4 workers end well")


def main():
    p = Proxy(bootstrap([listener("main", MAIN, chain(hcm(ROUTES)))], CLUSTERS, cluster_manager={"local_cluster_name": "self"},
                        node={"id": "n", "cluster": "c", "locality": {"zone": "a"}}))
    only = os.environ.get("ONLY")
    for fn in PARTS + [four]:
        if only and not re.search(only, fn.__name__):
            continue
        t = time.monotonic()
        try:
            fn(*([p] if fn is not four else []))
        except Exception as e:  # noqa: BLE001
            tap.ok(False, "%s runs to its end" % fn.__name__, traceback.format_exc(), e)
        print("# %s: %.1f s" % (fn.__name__, time.monotonic() - t), flush=True)
        if p.p.poll() is not None:
            tap.ok(False, "weft-waypoint lives after " + fn.__name__, p.log()[-3000:])
            return tap.done()
    tap.same(p.stop(), 0, "weft-waypoint ends well")
    return tap.done()


sys.exit(1 if main() else 0)
