#!/usr/bin/env python3
"""Options of clusters through weft-waypoint and a real Envoy (ENVOY): each has the same clusters and servers of its own; what clients, servers
and statistics tell is wanted to be the same in both, and to be what the option promises. ONLY=regex: some parts."""
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
from h2_kit import H2Client  # noqa: E402
from upstream_kit import H1, H2, Upstream, server_tls  # noqa: E402
from waypoint_kit import (  # noqa: E402
    HTTP_OPTIONS, SLOW, T, WORK, Ca, Proxy, Tap, address, ask, bootstrap, chain, dial, free_ports, hcm, lines_of, listener, to, upstream_tls,
    wait_for)

tap = Tap()
KINDS = ("weft", "envoy")
ca = Ca("options")
CERT = ca.issue("a.test", "DNS:a.test")
PARTS = []


def part(want):
    """A generator: it makes its clusters, yields, and when the proxies run yields what it saw"""
    def add(fn):
        PARTS.append((fn.__name__.replace("_", " "), fn, want))
        return fn
    return add


class Either(Upstream):
    """HTTP/1 or HTTP/2 by what comes first; kinds tells"""
    kinds = ()

    def serve(self, c):
        try:
            if not self.kinds:
                self.kinds = []
            first = c.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL)
            self.kinds.append("h2" if first == b"PRI" else "h1")
            (H2 if first == b"PRI" else H1)(self, c).run()
        except (OSError, ValueError, EOFError):
            pass
        finally:
            c.close()


class Echo(Upstream):
    def serve(self, c):
        with c:
            while True:
                got = c.recv(4096)
                if not got:
                    return
                c.sendall(got)


class Hole:
    """A port whose SYNs get no answer: nobody accepts, and the queue is full"""

    def __init__(self, host="127.0.0.1"):
        self.sock = socket.socket(socket.AF_INET)
        self.sock.bind((host, 0))
        self.sock.listen(0)
        self.port = self.sock.getsockname()[1]
        self.fill = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex((host, self.port))
            self.fill.append(s)


class World:
    """One proxy with its servers"""

    def __init__(self, kind):
        self.kind, self.names, self.clusters, self.routes, self.streams = kind, {}, [], [], {}
        self.log = os.path.join(WORK, kind + ".ejections")
        self.ups = []

    def up(self, name, cls=Upstream, **more):
        u = cls(name, **more)
        self.names["%s:%d" % ("[::1]" if ":" in more.get("host", "") else more.get("host", "127.0.0.1"), u.port)] = name
        self.ups.append(u)
        return u

    def add(self, name, *hosts, policy=None, groups=None, http=None, route=None, **more):
        c = {"name": name, "connect_timeout": "2s", **more}
        if hosts or groups:
            c["load_assignment"] = {"cluster_name": name, "endpoints": groups or [{"lb_endpoints": [host(h) for h in hosts]}]}
            if policy:
                c["load_assignment"]["policy"] = policy
        if http:
            c["typed_extension_protocol_options"] = {HTTP_OPTIONS: {"@type": T + ".extensions.upstreams.http.v3.HttpProtocolOptions", **http}}
        self.clusters.append(c)
        self.routes.append(to(name, "/%s/" % name, timeout="20s", **(route or {})))

    def tcp(self, name):
        """A listener of streams to a cluster; its port once the proxy runs"""
        self.streams[name] = 0
        return lambda: self.streams[name]

    def start(self):
        ports = free_ports(1 + len(self.streams))  # late: what connects meanwhile takes ports as well
        self.port, self.streams = ports[0], dict(zip(self.streams, ports[1:]))
        tcp = [listener(n, p, {"filters": [{"name": "tcp", "typed_config": {
            "@type": T + ".extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": n}}]})
            for n, p in self.streams.items()]
        self.p = Proxy(bootstrap([listener("l", self.port, chain(hcm(self.routes)))] + tcp,
                                 self.clusters, cluster_manager={"outlier_detection": {"event_log_path": self.log},
                                                                 "upstream_bind_config": {
                                                                     "source_address": source("127.0.0.66"), "extra_source_addresses": [
                                                                         {"address": source("::1")}]}}), self.kind)

    def get(self, name, **more):
        return ask(self.port, "/%s/" % name, **more)

    def code(self, name, n=1, **more):
        got = [self.get(name, **more).status for _ in range(n)]
        return got[0] if n == 1 else got

    def who(self, name, n, **more):
        """Who answers n requests; what is not 200 by its status"""
        s, got = dial(self.port), collections.Counter()
        for _ in range(n):
            r = self.get(name, sock=s, **more)
            got[r.get("x-from") if r.status == 200 else r.status] += 1
        s.close()
        return got

    def stat(self, cluster, item):
        return self.p.stats("^cluster[.]%s[.]%s$" % (cluster, item)).get("cluster.%s.%s" % (cluster, item), 0)

    def stats(self, cluster, *items):
        return {i: self.stat(cluster, i) for i in items}

    def till(self, cluster, item, n, seconds=10):
        """The number when it is what it shall become, or after a while"""
        wait_for(lambda: self.stat(cluster, item) == n, seconds, .03)
        return self.stat(cluster, item)

    def together(self, n, fn):
        out = [None] * n

        def one(i):
            out[i] = fn(i)
        ts = [threading.Thread(target=one, args=(i,)) for i in range(n)]
        for t in ts:
            t.start()
        for t in ts:
            t.join()
        return out


SHUT = []


def shut():
    """A port that is ours and refuses"""
    SHUT.append(socket.socket())
    SHUT[-1].bind(("127.0.0.1", 0))
    return SHUT[-1].getsockname()[1]


def source(ip):
    return {"address": ip, "port_value": 0}


def host(h, **more):
    """Of an upstream, a (port, address) or an endpoint that is one already"""
    if isinstance(h, dict):
        return h
    a = address(h.port, getattr(h, "host", "127.0.0.1")) if hasattr(h, "port") else address(*h)
    return {"endpoint": {"address": a}, **more}


def several(first, *others, **more):
    """A host of several addresses: (port, address) each"""
    return {"endpoint": {"address": address(*first), "additional_addresses": [{"address": address(*o)} for o in others]}, **more}


class Eds:
    """Endpoints in a file"""

    def __init__(self, w, name, groups, policy=None, **more):
        self.name, self.path, self.n = name, os.path.join(WORK, "%s-%s.eds.json" % (w.kind, name)), 0
        self.put(groups, policy)
        w.add(name, type="EDS", eds_cluster_config={"eds_config": {"path_config_source": {"path": self.path}}}, **more)

    def put(self, groups, policy=None):
        self.n += 1
        res = {"@type": T + ".config.endpoint.v3.ClusterLoadAssignment", "cluster_name": self.name, "endpoints": groups}
        if policy:
            res["policy"] = policy
        with open(self.path + ".new", "w", encoding="utf-8") as f:
            json.dump({"version_info": str(self.n), "resources": [res]}, f)
        os.rename(self.path + ".new", self.path)


# ---- names and protocols

@part({"stats": 2, "own name": 0, "answer": 200})
def alt_stat_name(w):
    w.add("alt", w.up("alt"), alt_stat_name="other.name")
    yield
    w.get("alt")
    yield {"answer": w.code("alt"), "stats": w.p.stats("^cluster.other.name.upstream_rq_total$").get("cluster.other.name.upstream_rq_total"),
           "own name": len(w.p.stats("^cluster.alt[.]"))}


@part({"protocol_selection": (["h1", "h2"], 1, 1), "use_downstream_protocol_config": (["h1", "h2"], 1, 1)})
def as_the_client_speaks(w):
    ups = {"protocol_selection": w.up("selected", Either), "use_downstream_protocol_config": w.up("typed", Either)}
    w.add("selected", ups["protocol_selection"], protocol_selection="USE_DOWNSTREAM_PROTOCOL", http2_protocol_options={})
    w.add("typed", ups["use_downstream_protocol_config"], http={"use_downstream_protocol_config": {
        "http_protocol_options": {}, "http2_protocol_options": {}}})
    yield
    out = {}
    for option, up in ups.items():
        w.get(up.name)
        h2 = H2Client(w.port)
        h2.ask("/%s/" % up.name)
        h2.s.close()
        out[option] = (up.kinds, w.stat(up.name, "upstream_cx_http1_total"), w.stat(up.name, "upstream_cx_http2_total"))
    yield out


@part({"both": ("200", 0, 1), "one": ("200", 1, 0)})
def auto_config(w):
    tls = {"both": server_tls(*CERT), "one": server_tls(*CERT, alpn=("http/1.1",))}
    for n, ctx in tls.items():
        w.add("auto_" + n, w.up("auto_" + n, tls=ctx), transport_socket=upstream_tls(sni="a.test", common_tls_context={}),
              http={"auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}}})
    yield
    yield {n: (str(w.code("auto_" + n)), w.stat("auto_" + n, "upstream_cx_http1_total"), w.stat("auto_" + n, "upstream_cx_http2_total"))
           for n in tls}


@part({"auto_sni": (200, "b.test"), "override_auto_sni_header": (200, "c.test"), "no such header": (200, "b.test"), "old field": (200, "b.test"),
       "auto_san_validation": (200, "a.test"), "another name": 503, "fail_verify_san": 1})
def names_of_servers(w):
    told = []
    ctx = server_tls(*CERT, alpn=())
    ctx.sni_callback = lambda s, name, c: told.append(name)
    up = w.up("named", tls=ctx)
    trust = {"validation_context": {"trusted_ca": {"filename": ca.cert}}}
    one = {"explicit_http_config": {"http_protocol_options": {}}}
    w.add("auto_sni", up, transport_socket=upstream_tls(common_tls_context={}), http={**one, "upstream_http_protocol_options": {"auto_sni": True}})
    w.add("sni_header", up, transport_socket=upstream_tls(common_tls_context={}, max_session_keys=0), http={**one, "upstream_http_protocol_options": {
        "auto_sni": True, "override_auto_sni_header": "x-sni"}})
    w.add("sni_old", up, transport_socket=upstream_tls(common_tls_context={}), upstream_http_protocol_options={"auto_sni": True})
    w.add("auto_san", up, transport_socket=upstream_tls(common_tls_context=trust), http={**one, "upstream_http_protocol_options": {
        "auto_sni": True, "auto_san_validation": True}})
    yield

    def asked(name, **more):
        told.clear()
        return w.code(name, **more), told[-1] if told else None
    out = {"auto_sni": asked("auto_sni", host="b.test:80"), "override_auto_sni_header": asked("sni_header", headers=[("x-sni", "c.test")]),
           "no such header": asked("sni_header", host="b.test"), "old field": asked("sni_old", host="b.test"),
           "auto_san_validation": asked("auto_san", host="a.test"), "another name": w.code("auto_san", host="b.test")}
    out["fail_verify_san"] = w.stat("auto_san", "ssl[.]fail_verify_san") or w.p.stat("cluster.auto_san.ssl.fail_verify_san")
    yield out


@part({"url": "http://test/whole/x", "plain": "/part/x"})
def send_fully_qualified_url(w):
    up = w.up("whole")
    w.add("whole", up, http={"explicit_http_config": {"http_protocol_options": {"send_fully_qualified_url": True}}})
    w.add("part", up, http={"explicit_http_config": {"http_protocol_options": {"send_fully_qualified_url": False}}})
    yield
    ask(w.port, "/whole/x")
    ask(w.port, "/part/x")
    yield {"url": up.seen[0][1], "plain": up.seen[1][1]}


@part({"small": 200, "10 KiB of 8": 502, "10 KiB of 60": 200})
def max_response_headers_kb(w):
    up = w.up("heads")
    w.add("heads8", up, http={"common_http_protocol_options": {"max_response_headers_kb": 8},
                              "explicit_http_config": {"http_protocol_options": {}}})
    w.add("heads60", up)
    yield
    yield {"small": w.code("heads8", do="header=x-big:" + "h" * 4000), "10 KiB of 8": w.code("heads8", do="header=x-big:" + "h" * 10000),
           "10 KiB of 60": w.code("heads60", do="header=x-big:" + "h" * 10000)}


# ---- connections

@part({"connections": 2, "shared": 1})
def connection_pool_per_downstream_connection(w):
    up, one = w.up("mine"), w.up("ours")
    w.add("mine", up, connection_pool_per_downstream_connection=True)
    w.add("ours", one)
    yield
    a, b = dial(w.port), dial(w.port)
    for s in (a, b, a, b):
        w.get("mine", sock=s)
        w.get("ours", sock=s)
    yield {"connections": up.conns, "shared": one.conns}


@part({"answers": [200, 503], "overflow": 1, "left": 1})
def max_connection_pools(w):
    few = {"circuit_breakers": {"thresholds": [{"max_connection_pools": 1, "track_remaining": True}]}}
    w.add("pools", w.up("p0"), w.up("p1"), **few)
    yield
    got = sorted(w.together(2, lambda i: w.code("pools", do="delay=700")))
    yield {"answers": got, "overflow": w.stat("pools", "upstream_cx_pool_overflow"),
           "left": w.stat("pools", "circuit_breakers.default.remaining_cx_pools") + w.stat("pools", "circuit_breakers.default.cx_pool_open")}


@part({"of all clusters": "127.0.0.66", "own": "127.0.0.67", "IPv6": "::1", "extra_source_addresses": "127.0.0.68"})
def upstream_bind_config(w):
    up, six = w.up("bound"), w.up("bound6", host="::1")
    w.add("bound", up)
    w.add("own", up, upstream_bind_config={"source_address": source("127.0.0.67")})
    w.add("six", (six.port, "::1"))
    w.add("extra", up, upstream_bind_config={"source_address": source("::1"), "extra_source_addresses": [{"address": source("127.0.0.68")}]})
    yield
    out = {}
    for text, name, u in (("of all clusters", "bound", up), ("own", "own", up), ("IPv6", "six", six),
                          ("extra_source_addresses", "extra", up)):
        out[text] = w.code(name) == 200 and u.peers[-1][0]
    yield out


@part({"without": (503, 1), "with": (503, 0)})
def freebind(w):
    """An address that is not ours: without it bind fails, with it nobody answers to the address"""
    hole = Hole()
    for name, free in (("tied", False), ("free", True)):
        w.add(name, hole, upstream_bind_config={"source_address": source("203.0.113.9"), "freebind": free})
        w.clusters[-1]["connect_timeout"] = "0.4s"
    yield
    yield {text: (w.code(name), w.stat(name, "bind_errors"))
           for text, name in (("without", "tied"), ("with", "free"))}


@part({"none": False, "int_value": True, "buf_value": True})
def socket_options(w):
    """SO_KEEPALIVE as a number and as bytes: the kernel shows the timer"""
    ups = {n: w.up("so_" + n) for n in ("none", "int_value", "buf_value")}
    value = {"int_value": 1, "buf_value": "AQAAAA=="}
    for n, u in ups.items():
        more = {} if n == "none" else {"upstream_bind_config": {"source_address": source("127.0.0.1"), "socket_options": [
            {"description": "d", "level": 1, "name": 9, n: value[n], "state": "STATE_PREBIND"}]}}
        w.add("so_" + n, u, **more)
    yield
    out = {}
    for n, u in ups.items():
        w.code("so_" + n)
        with open("/proc/net/tcp", encoding="utf-8") as f:
            timers = [x.split()[5][:2] for x in f if x.split()[2].endswith(":%04X" % u.port) and x.split()[3] == "01"]
        out[n] = "02" in timers
    yield out


# ---- hosts of several addresses

@part({"refused, then good": (200, "v6"), "silent, then good": (200, "v6"), "first": (200, "v4"), "V6 first": (200, "v6"),
       "two of V4": (200, "second"), "nobody": 503, "failed": (0, 1)})
def happy_eyeballs(w):
    four, six, second = w.up("v4"), w.up("v6", host="::1"), w.up("second")
    hole, dead = Hole(), (shut(), shut())
    v6, v4 = (six.port, "::1"), (four.port,)
    w.add("eye_refused", several((dead[0],), v6))
    w.add("eye_silent", several((hole.port,), v6))
    w.add("eye_first", several(v4, v6))
    w.add("eye_six", several(v4, v6), upstream_connection_options={"happy_eyeballs_config": {"first_address_family_version": "V6"}})
    # with a count of two the second IPv4 address comes before the IPv6 one
    w.add("eye_count", several((dead[0],), v6, (second.port,)), upstream_connection_options={"happy_eyeballs_config": {
        "first_address_family_count": 2}})
    w.add("eye_dead", several((dead[0],), (dead[1],)))
    yield
    out = {}
    for text, name in (("refused, then good", "refused"), ("silent, then good", "silent"), ("first", "first"), ("V6 first", "six"),
                       ("two of V4", "count")):
        r = w.get("eye_" + name)
        out[text] = (r.status, r.get("x-from"))
    out["nobody"] = w.code("eye_dead")
    out["failed"] = tuple(w.stat(n, "upstream_cx_connect_fail") for n in ("eye_refused", "eye_dead"))
    yield out


class Dns:
    """A name server: every name has an IPv4 and an IPv6 address of loopback"""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            q, peer = self.sock.recvfrom(4096)
            end = q.index(b"\0", 12) + 5
            kind = int.from_bytes(q[end - 4:end - 2], "big")
            ip = {1: socket.inet_aton("127.0.0.1"), 28: socket.inet_pton(socket.AF_INET6, "::1")}.get(kind)
            rr = b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(ip)) + ip if ip else b""
            self.sock.sendto(q[:2] + struct.pack(">HHHHH", 0x8180, 1, bool(rr), 0, 0) + q[12:end] + rr, peer)


def only_six(w, name, **more):
    """A server whose port refuses over IPv4"""
    while True:
        port = shut()
        try:
            return w.up(name, host="::1", port=port, **more)
        except OSError:
            continue


@part({"logical": (200, "both6"), "TLS": (200, "tls6"), "members": 1, "TCP": b"hello"})
def names_of_both_families(w):
    """LOGICAL_DNS: one host with every address of its name; TLS and TCP over the address that connects"""
    up, tls = only_six(w, "both6"), only_six(w, "tls6", tls=server_tls(*CERT))
    resolver = {"typed_dns_resolver_config": {"name": "cares", "typed_config": {
        "@type": T + ".extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig", "resolvers": [address(Dns().port)]}}}
    w.add("both6", type="LOGICAL_DNS", dns_lookup_family="ALL", groups=[{"lb_endpoints": [host((up.port, "both.test"))]}], **resolver)
    w.add("tls6", several((tls.port,), (tls.port, "::1")), transport_socket=upstream_tls(sni="a.test", common_tls_context={}))
    echo = only_six(w, "echo6", cls=Echo)
    w.add("echo6", several((echo.port,), (echo.port, "::1")))
    port = w.tcp("echo6")
    yield
    out = {}
    for text, n in (("logical", "both6"), ("TLS", "tls6")):
        r = w.get(n)
        out[text] = (r.status, r.get("x-from"))
    out["members"] = w.stat("both6", "membership_total")
    s = dial(port())
    s.sendall(b"hello")
    out["TCP"] = s.recv(5, socket.MSG_WAITALL)
    s.close()
    yield out


# ---- membership

@part({"asked": {"od": 3}, "members": 1, "after": 0})
def cleanup_interval(w):
    up = w.up("od")
    w.add("od", type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", original_dst_lb_config={"use_http_header": True}, cleanup_interval="0.3s",
          http={"common_http_protocol_options": {"idle_timeout": "0.2s"}, "explicit_http_config": {"http_protocol_options": {}}})
    yield
    out = {"asked": dict(w.who("od", 3, headers=[("x-envoy-original-dst-host", "127.0.0.1:%d" % up.port)]))}
    out["members"] = w.stat("od", "membership_total")
    out["after"] = w.till("od", "membership_total", 0)
    yield out


CHECK = {"timeout": "1s", "interval": "0.1s", "no_traffic_interval": "0.1s", "unhealthy_interval": "0.1s", "unhealthy_threshold": 2,
         "healthy_threshold": 1, "http_health_check": {"path": "/health"}}


@part({"kept": {"members": 2, "sick": 1}, "ignored": {"members": 1, "sick": 1}})
def ignore_health_on_host_removal(w):
    eds, ups = {}, {}
    for n in ("kept", "ignored"):
        ups[n] = [w.up("%s%d" % (n, i)) for i in range(2)]
        eds[n] = Eds(w, n, [{"lb_endpoints": [host(u) for u in ups[n]]}], health_checks=[CHECK], ignore_health_on_host_removal=n == "ignored",
                     common_lb_config={"update_merge_window": "0s"})
    yield
    out = {}
    for n, e in eds.items():
        w.till(n, "membership_healthy", 2)
        done = w.stat(n, "update_success")
        e.put([{"lb_endpoints": [host(ups[n][0])]}])
        wait_for(lambda: w.stat(n, "update_success") > done, 10)
        out[n] = {"members": w.stat(n, "membership_total")}
        ups[n][1].sick = "/health"
        out[n]["sick"] = w.till(n, "membership_total", 1)
    yield out


@part({"before": 2, "after": 0, "stale": 1, "received": 1, "answer": 503})
def endpoint_stale_after(w):
    u = [w.up("stale%d" % i) for i in range(2)]
    groups = [{"lb_endpoints": [host(x) for x in u]}]
    e = Eds(w, "stale", groups)
    yield
    e.put(groups, {"endpoint_stale_after": "2s"})
    wait_for(lambda: w.stat("stale", "assignment_timeout_received"), 10)
    out = {"before": w.stat("stale", "membership_total"), "after": w.till("stale", "membership_total", 0)}
    out.update({"stale": w.stat("stale", "assignment_stale"), "received": w.stat("stale", "assignment_timeout_received"),
                "answer": w.code("stale")})
    yield out


@part({"HEALTHY": (1, 0), "UNKNOWN": (1, 0), "DEGRADED": (0, 1), "UNHEALTHY": (0, 0), "DRAINING": (0, 0), "TIMEOUT": (0, 0),
       "who": ["status_DEGRADED", "status_HEALTHY", "status_UNKNOWN"]})
def health_status(w):
    all_ = ["HEALTHY", "UNKNOWN", "DEGRADED", "UNHEALTHY", "DRAINING", "TIMEOUT"]
    ups = [w.up("status_" + s) for s in all_]
    w.add("status", groups=[{"lb_endpoints": [host(u, health_status=s) for u, s in zip(ups, all_)]}])
    for u, s in zip(ups, all_):
        w.add("is_" + s, groups=[{"lb_endpoints": [host(u, health_status=s)]}])
    yield
    yield {**{s: (w.stat("is_" + s, "membership_healthy"), w.stat("is_" + s, "membership_degraded")) for s in all_},
           "who": sorted(w.who("status", 40))}


def near(got, want, by=.2):
    n = max(1, sum(got.values()))
    return all(abs(got[k] / n - v) <= by for k, v in want.items())


@part({"140": True, "100": True, "300": True})
def overprovisioning_factor(w):
    """Half of the first priority is unwell"""
    a, b, c = w.up("op_a"), w.up("op_b"), w.up("op_c")
    for f in (140, 100, 300):
        w.add("over%d" % f, policy={"overprovisioning_factor": f}, groups=[
            {"priority": 0, "lb_endpoints": [host(a), host(b, health_status="UNHEALTHY")]}, {"priority": 1, "lb_endpoints": [host(c)]}])
    yield
    yield {str(f): near(w.who("over%d" % f, 120), {"op_a": s, "op_c": 1 - s}) for f, s in ((140, .7), (100, .5), (300, 1))}


@part({"by hosts": True, "by weight": True})
def weighted_priority_health(w):
    """One of two hosts is well, with a tenth of the weight"""
    a, b, c = w.up("wp_a"), w.up("wp_b"), w.up("wp_c")
    for n in (False, True):
        w.add("weigh%d" % n, policy={"weighted_priority_health": n}, groups=[
            {"priority": 0, "lb_endpoints": [host(a, load_balancing_weight=1), host(b, load_balancing_weight=9, health_status="UNHEALTHY")]},
            {"priority": 1, "lb_endpoints": [host(c)]}])
    yield
    yield {"by hosts": near(w.who("weigh0", 120), {"wp_a": .7, "wp_c": .3}), "by weight": near(w.who("weigh1", 120), {"wp_a": .14, "wp_c": .86})}


@part({"checked": 0, "unchecked": 1, "answer": 200})
def disable_active_health_check(w):
    up = w.up("unwell")
    up.sick = "/health"
    w.add("checked", up, health_checks=[CHECK])
    w.add("unchecked", {"endpoint": {"address": address(up.port), "health_check_config": {"disable_active_health_check": True}}},
          health_checks=[CHECK])
    yield
    yield {"checked": w.till("checked", "membership_healthy", 0), "unchecked": w.stat("unchecked", "membership_healthy"),
           "answer": w.code("unchecked")}


@part({"answer": 503, "warming": True})
def wait_for_warm_on_init(w):
    """Its name is never resolved, and nothing waits for it"""
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    w.add("cold", type="STRICT_DNS", wait_for_warm_on_init=False, dns_lookup_family="V4_ONLY", typed_dns_resolver_config={
        "name": "cares", "typed_config": {"@type": T + ".extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                                          "resolvers": [address(silent.getsockname()[1])], "query_timeout_seconds": 60, "query_tries": 1}},
          groups=[{"lb_endpoints": [host((80, "cold.test"))]}])
    yield
    yield {"answer": w.code("cold"), "warming": w.stat("cold", "membership_total") == 0}


@part({"tcp": "closed", "tcp without": "open", "request": 200, "request without": 200, "idle": 0, "idle without": 0})
def close_connections_on_host_health_failure(w):
    """What becomes of a stream, a request and an idle connection when their host fails its check"""
    up = {n: w.up(n) for n in ("closing", "staying", "httpclosing", "httpstaying")}
    for n, u in up.items():
        w.add(n, u, health_checks=[CHECK], close_connections_on_host_health_failure="closing" in n,
              common_lb_config={"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"})
    ports = [w.tcp(n) for n in ("closing", "staying")]
    yield
    for n in up:
        w.till(n, "membership_healthy", 1)
    streams = [dial(p()) for p in ports]
    asked = [ask(0, "/x", sock=s).status for s in streams]
    out, slow = {}, {}

    def ask_slowly(n):
        slow[n] = w.code(n, do="delay=1500")
    ts = [threading.Thread(target=ask_slowly, args=(n,)) for n in ("httpclosing", "httpstaying")]
    for n in ("httpclosing", "httpstaying"):
        wait_for(lambda: w.code(n) == 200, 5)
    for t in ts:
        t.start()
    for n in ("httpclosing", "httpstaying"):
        wait_for(lambda: w.stat(n, "upstream_rq_active") >= 1, 5)
    for u in up.values():
        u.sick = "/health"
    for n in up:
        w.till(n, "membership_healthy", 0)
    for text, s, status, wait in zip(("tcp", "tcp without"), streams, asked, (10 * SLOW, 1)):
        s.settimeout(wait)
        try:
            out[text] = "closed" if s.recv(1) == b"" and status == 200 else "data"
        except ConnectionError:
            out[text] = "closed"
        except OSError:
            out[text] = "open"
        s.close()
    for t in ts:
        t.join()
    out["request"], out["request without"] = slow["httpclosing"], slow["httpstaying"]
    hc = lambda n: w.till(n, "upstream_cx_active", 0)
    out["idle"], out["idle without"] = hc("httpclosing"), hc("httpstaying")
    yield out


# ---- outlier detection, by the log of ejections

NONE = {"enforcing_consecutive_5xx": 0, "enforcing_success_rate": 0, "enforcing_consecutive_gateway_failure": 0, "enforcing_failure_percentage": 0,
        "enforcing_consecutive_local_origin_failure": 0, "enforcing_local_origin_success_rate": 0, "enforcing_failure_percentage_local_origin": 0}
BASE = {**NONE, "interval": "1s", "base_ejection_time": "300s", "max_ejection_time": "300s", "max_ejection_percent": 100, "consecutive_5xx": 1000,
        "consecutive_gateway_failure": 1000, "consecutive_local_origin_failure": 1000, "success_rate_minimum_hosts": 100,
        "failure_percentage_minimum_hosts": 100}
RATE = {"success_rate_minimum_hosts": 4, "success_rate_request_volume": 5, "success_rate_stdev_factor": 1500}
PCT = {"failure_percentage_minimum_hosts": 4, "failure_percentage_request_volume": 5, "failure_percentage_threshold": 60}
LOCAL = {"split_external_local_origin_errors": True}
OUT = {  # name: (settings, the failing host is dead and not sick, what is logged of it)
    "o_5xx": ({"enforcing_consecutive_5xx": 100, "consecutive_5xx": 3}, False, "CONSECUTIVE_5XX"),
    "o_seen": ({"consecutive_5xx": 3}, False, "CONSECUTIVE_5XX"),
    "o_gateway": ({"enforcing_consecutive_gateway_failure": 100, "consecutive_gateway_failure": 3}, False, "CONSECUTIVE_GATEWAY_FAILURE"),
    "o_local": ({**LOCAL, "enforcing_consecutive_local_origin_failure": 100, "consecutive_local_origin_failure": 3}, True,
                "CONSECUTIVE_LOCAL_ORIGIN_FAILURE"),
    "o_rate": ({**RATE, "enforcing_success_rate": 100}, False, "SUCCESS_RATE"),
    "o_lrate": ({**LOCAL, **RATE, "enforcing_local_origin_success_rate": 100}, True, "SUCCESS_RATE_LOCAL_ORIGIN"),
    "o_pct": ({**PCT, "enforcing_failure_percentage": 100}, False, "FAILURE_PERCENTAGE"),
    "o_lpct": ({**LOCAL, **PCT, "enforcing_failure_percentage_local_origin": 100}, True, "FAILURE_PERCENTAGE_LOCAL_ORIGIN"),
}
NOTHING = {  # too few hosts or requests, too small a deviation: never
    "o_hosts": {**RATE, "success_rate_minimum_hosts": 5, "enforcing_success_rate": 100},
    "o_volume": {**RATE, "success_rate_request_volume": 100000, "enforcing_success_rate": 100},
    "o_stdev": {**RATE, "success_rate_stdev_factor": 9000, "enforcing_success_rate": 100},
    "o_phosts": {**PCT, "failure_percentage_minimum_hosts": 5, "enforcing_failure_percentage": 100},
    "o_pvolume": {**PCT, "failure_percentage_request_volume": 100000, "enforcing_failure_percentage": 100},
    "o_always": {"enforcing_consecutive_5xx": 100, "consecutive_5xx": 3, "max_ejection_percent": 10},
}
HOW = {"EJECT": {"CONSECUTIVE": {"eject_consecutive_event": {}}, "FAILURE": {"eject_failure_percentage_event": {"host_success_rate": 0}},
                 "SUCCESS": {"eject_success_rate_event": {"host_success_rate": 0, "cluster_average_success_rate": 75,
                                                          "cluster_success_rate_ejection_threshold": 10}}}}


def ejection(kind, enforced):
    return {"type": kind, "upstream_url": "bad", "action": "EJECT", "num_ejections": int(enforced), "enforced": enforced,
            **HOW["EJECT"][kind.split("_")[0]]}


WANT = {**{n: ejection(k, n != "o_seen") for n, (_, _, k) in OUT.items()}, **{n: None for n in NOTHING}, "o_one": ejection("CONSECUTIVE_5XX", True),
        "stats": {n: 1 for n in OUT}, "overflow": True, "back": 0, "not with jitter": 1}


@part(WANT)
def outlier_detection(w):
    dead = shut()
    sick = w.up("bad")
    sick.sick = "/"
    good = [w.up("good%d" % i) for i in range(3)]
    w.names["127.0.0.1:%d" % dead] = "bad"
    for n, (conf, is_dead, _) in OUT.items():
        w.add(n, (dead,) if is_dead else sick, *good, outlier_detection={**BASE, **conf})
    for n, conf in NOTHING.items():
        w.add(n, sick, *good, outlier_detection={**BASE, **conf})
    soon = {**NOTHING["o_always"], "max_ejection_percent": 100, "base_ejection_time": "0.2s", "max_ejection_time": "0.2s"}
    w.add("o_back", sick, *good, outlier_detection={**BASE, **soon})
    w.add("o_jitter", sick, *good, outlier_detection={**BASE, **soon, "max_ejection_time_jitter": "360000s"})
    w.add("o_one", sick, *good, outlier_detection={**BASE, **NOTHING["o_always"], "always_eject_one_host": True})
    yield
    detected = {n: "outlier_detection.ejections_detected_" + x for n, x in zip(OUT, (
        "consecutive_5xx", "consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure", "success_rate",
        "local_origin_success_rate", "failure_percentage", "local_origin_failure_percentage"))}

    def load(n):
        end = time.monotonic() + 12 * SLOW
        while not (n in detected and w.stat(n, detected[n])) and time.monotonic() < end:
            w.who(n, 48)
            if n in NOTHING and time.monotonic() > end - 9 * SLOW:
                return
    w.together(len(OUT), lambda i: load(list(OUT)[i]))
    w.together(len(NOTHING), lambda i: load(list(NOTHING)[i]))
    for n in ("o_one", "o_jitter", "o_back"):
        w.who(n, 12)
    wait_for(lambda: w.stat("o_one", "outlier_detection.ejections_active"), 5)
    out = {"stats": {n: min(1, w.stat(n, d)) for n, d in detected.items()},
           "overflow": w.stat("o_always", "outlier_detection.ejections_overflow") > 0}
    out["back"] = w.till("o_back", "outlier_detection.ejections_active", 0)
    out["not with jitter"] = w.stat("o_jitter", "outlier_detection.ejections_active")
    w.p.stop()  # Envoy writes its log when it has enough of it, or ends
    events = [json.loads(x) for x in lines_of(w.log)]
    for n in list(OUT) + list(NOTHING) + ["o_one"]:
        mine = [e for e in events if e["cluster_name"] == n]
        out[n] = mine[0] if mine else None
        if mine:
            whole = set(out[n]) >= {"timestamp", "cluster_name"} and re.fullmatch(r"[-0-9]{10}T[0-9:]{8}([.][0-9]{3})?Z", out[n]["timestamp"])
            out[n] = {k: v for k, v in out[n].items() if whole and k not in ("timestamp", "cluster_name")}
            out[n]["upstream_url"] = w.names.get(out[n].get("upstream_url"))
    yield out


def main():
    worlds = {k: World(k) for k in KINDS}
    only = re.compile(os.environ.get("ONLY", ""))
    runs = []
    for text, fn, want in PARTS:
        if only.search(text):
            gens = {k: fn(w) for k, w in worlds.items()}
            for g in gens.values():
                next(g)
            runs.append((text, gens, want))
    for w in worlds.values():
        w.start()
    for text, gens, want in runs:
        if not only.search(text):
            continue
        got = {}

        def one(k, g):
            try:
                got[k] = next(g)
            except Exception:  # pylint: disable=broad-except
                got[k] = traceback.format_exc()
        began = time.monotonic()
        ts = [threading.Thread(target=one, args=kg) for kg in gens.items()]
        for t in ts:
            t.start()
        for t in ts:
            t.join()
        print("# %s: %.1f s" % (text, time.monotonic() - began), flush=True)
        for k in KINDS:
            if isinstance(got[k], dict) and set(got[k]) == set(want):
                for item, v in want.items():
                    tap.same(got[k][item], v, "%s: %s: %s" % (text, item, k))
            else:
                tap.ok(False, "%s: %s" % (text, k), got[k])
    return 1 if tap.done() else 0


if __name__ == "__main__":
    sys.exit(main())
