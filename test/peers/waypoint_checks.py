#!/usr/bin/env python3
"""Health checks and DNS of weft-waypoint beside a real Envoy (ENVOY): the same clusters in both, each with hosts and name servers of its own
that tell what they were asked; events of checks line by line. ONLY=regex: some parts."""
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream, server_tls  # noqa: E402
from waypoint_kit import (  # noqa: E402
    H2_UP, SLOW, T, WORK, Ca, Proxy, Tap, address, ask, bootstrap, chain, cluster, free_ports, hcm, lines_of, listener, to, upstream_tls, wait_for)

tap = Tap()
KINDS = ("weft", "envoy")
*ports_, DEAD = free_ports(3)
PORT = dict(zip(KINDS, ports_))
CARES = T + ".extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
UP, CONF, PARTS, P = {k: {} for k in KINDS}, {k: [] for k in KINDS}, [], {}


def part(fn):
    PARTS.append(fn)
    return fn


def ups(name, **how):
    """A host of that name for each program"""
    for k in KINDS:
        UP[k][name] = Upstream(name, **how)


def add(make):
    """A cluster for each program: make(its hosts, its kind)"""
    for k in KINDS:
        CONF[k].append(make(UP[k], k))


def stat(k, name, item):
    return P[k].stats("^cluster[.]%s[.]%s$" % (name, item)).get("cluster.%s.%s" % (name, item), 0)


def both(fn):
    return {k: fn(k) for k in KINDS}


def until(fn, seconds=15):
    """Whether fn(kind) comes true in both"""
    return wait_for(lambda: all(fn(k) for k in KINDS), seconds)


def well(name, n):
    return until(lambda k: stat(k, name, "membership_healthy") == n)


# ---- when checks are made: by how many of them while another cluster is checked so often
FAST = {"timeout": "1s", "interval": "0.1s", "no_traffic_interval": "0.1s", "unhealthy_threshold": 2, "healthy_threshold": 2,
        "unhealthy_interval": "0.1s", "http_health_check": {"path": "/health"}}
RATES = {  # name: (what it is, fewest and most checks while "plain" has 30)
    "plain": ({}, 30, 99),
    "jitter": ({"interval_jitter": "3s", "no_traffic_interval": "0.1s"}, 1, 9),
    "jitter_pct": ({"interval_jitter_percent": 3000}, 1, 9),
    "quiet": ({"no_traffic_interval": "60s"}, 1, 1),
    "quiet_well": ({"no_traffic_interval": "60s", "no_traffic_healthy_interval": "0.1s"}, 15, 99),
    "anew": ({"reuse_connection": False}, 15, 99),
}
for n_, (more_, _, _) in RATES.items():
    ups(n_)
    add(lambda u, k, n=n_, more=more_: cluster(n, u[n].port, health_checks=[{**FAST, **more}]))


@part
def intervals():
    until(lambda k: len(UP[k]["plain"].seen) >= 30, 30)
    got = {n: both(lambda k, n=n: len(UP[k][n].seen)) for n in RATES}
    for n, (_, lo, hi) in RATES.items():
        tap.ok(all(lo <= got[n][k] for k in KINDS) and (hi == 99 or all(got[n][k] <= hi for k in KINDS)),
               "%s: %d to %d checks while another has 30, in both" % (n, lo, hi), got[n])
    tap.same(both(lambda k: UP[k]["plain"].conns), {k: 1 for k in KINDS}, "they share one connection")
    tap.ok(all(UP[k]["anew"].conns >= got["anew"][k] for k in KINDS), "... or have one each", both(lambda k: UP[k]["anew"].conns), got["anew"])


# ---- edges
EDGES = {"edge": {}, "edge_down": {"unhealthy_edge_interval": "60s"}, "edge_up": {"healthy_edge_interval": "60s"}}
for n_, more_ in EDGES.items():
    ups(n_)
    add(lambda u, k, n=n_, more=more_: cluster(n, u[n].port, health_checks=[{**FAST, "healthy_threshold": 3, **more}]))


@part
def edges():
    for n in EDGES:
        well(n, 1)
        both(lambda k, n=n: ask(PORT[k], "/%s/" % n))  # there is traffic
        both(lambda k, n=n: setattr(UP[k][n], "sick", "/health"))
    tap.ok(all(well(n, 0) for n in EDGES), "a bad answer is enough")
    for n in EDGES:
        both(lambda k, n=n: setattr(UP[k][n], "sick", None))
    tap.ok(well("edge", 1) and well("edge_down", 1), "three good ones make a host well")
    tap.same(both(lambda k: stat(k, "edge_up", "membership_healthy")), {k: 0 for k in KINDS}, "healthy_edge_interval: the second one is still to come")
    for n in ("edge", "edge_down"):
        both(lambda k, n=n: UP[k][n].die())
    tap.ok(well("edge", 0), "two that fail make it sick")
    tap.same(both(lambda k: (stat(k, "edge_down", "membership_healthy"), stat(k, "edge_down", "health_check.network_failure"))),
             {k: (1, 1) for k in KINDS}, "unhealthy_edge_interval: the second one is still to come")


# ---- what is asked
ca = Ca("ca")
cert, key = ca.issue("server", "DNS:good.test")
TRUST = {"sni": "good.test", "common_tls_context": {"validation_context": {"trusted_ca": {"filename": ca.cert}}}}


class TlsHost:
    """Answers every request with 200 and knows the protocols that were agreed upon"""

    def __init__(self, alpn):
        self.ctx, self.alpn = server_tls(cert, key, alpn), []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            c, _ = self.sock.accept()
            threading.Thread(target=self.one, args=(c,), daemon=True).start()

    def one(self, c):
        try:
            with self.ctx.wrap_socket(c, server_side=True) as s:
                self.alpn.append(s.selected_alpn_protocol())
                while s.recv(65536):
                    s.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (OSError, ssl.SSLError):
            pass


class RawHost:
    """Answers what comes, once it ends as asked, by "fine"; keeps it"""

    def __init__(self, end):
        self.end, self.got = end, []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            c, peer = self.sock.accept()
            threading.Thread(target=self.one, args=(c, peer[1]), daemon=True).start()

    def one(self, c, port):
        data = b""
        try:
            while not data.endswith(self.end):
                more = c.recv(4096)
                if not more:
                    break
                data += more
            self.got.append(data.replace(b" %d " % port, b" FROM ").replace(b" %d\r" % self.port, b" TO\r"))
            c.sendall(b"fine")
            c.recv(1)
        except OSError:
            pass
        c.close()


TLS = {k: {"alpn": TlsHost(("hc", "http/1.1")), "default": TlsHost(("hc", "http/1.1")), "matched": TlsHost(("http/1.1",))} for k in KINDS}
RAW = {k: {n: RawHost(b"ping") for n in ("v1", "v2", "bare", "binary")} for k in KINDS}
for n_, more_ in (("alpn", {"tls_options": {"alpn_protocols": ["hc"]}}), ("default", {})):
    add(lambda u, k, n=n_, more=more_: cluster(n, TLS[k][n].port, health_checks=[{**FAST, **more}], transport_socket=upstream_tls(**TRUST)))
ups("matched")
add(lambda u, k: cluster("matched", transport_socket_matches=[
    {"name": "checks", "match": {"of": "checks"}, "transport_socket": upstream_tls(**TRUST)},
    {"name": "all", "match": {}, "transport_socket": {"name": "raw", "typed_config": {
        "@type": T + ".extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}],
    health_checks=[{**FAST, "transport_socket_match_criteria": {"of": "checks"}}], load_assignment={"cluster_name": "matched", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": address(u["matched"].port), "health_check_config": {"port_value": TLS[k]["matched"].port}}}]}]}))
ups("h2", h2_only=True)
ups("named")
ups("other")
for u_ in UP.values():
    u_["named"].habit = "header=x-envoy-upstream-healthchecked-cluster:web-7"
    u_["other"].habit = "header=x-envoy-upstream-healthchecked-cluster:mail"


def http_check(**more):
    return {**FAST, "http_health_check": {"path": "/health", **more}}


add(lambda u, k: cluster("h2", u["h2"].port, http=H2_UP, health_checks=[http_check(codec_client_type="HTTP2")]))
add(lambda u, k: cluster("h2_not", u["h2"].port, http=H2_UP, health_checks=[http_check(codec_client_type="HTTP1")]))
for n_ in ("named", "other"):
    add(lambda u, k, n=n_: cluster(n, u[n].port, health_checks=[http_check(service_name_matcher={"prefix": "web"})]))


def tcp_check(**more):
    return {**{a: b for a, b in FAST.items() if a != "http_health_check"}, "reuse_connection": False,
            "tcp_health_check": {"send": {"text": b"ping".hex()}, "receive": [{"text": b"fine".hex()}], **more}}


add(lambda u, k: cluster("v1", RAW[k]["v1"].port, health_checks=[tcp_check(proxy_protocol_config={"version": "V1"})]))
add(lambda u, k: cluster("v2", RAW[k]["v2"].port, health_checks=[tcp_check(proxy_protocol_config={"version": "V2"})]))
add(lambda u, k: cluster("bare", RAW[k]["bare"].port, health_checks=[tcp_check()]))
add(lambda u, k: cluster("binary", RAW[k]["binary"].port, health_checks=[tcp_check(receive=[{"binary": "Zmlu"}, {"binary": "ZQ=="}])]))
add(lambda u, k: cluster("binary_no", RAW[k]["binary"].port, health_checks=[tcp_check(receive=[{"binary": "ZmluYQ=="}])]))


@part
def questions():
    tap.ok(well("alpn", 1) and well("default", 1), "hosts behind TLS are well")
    got = both(lambda k: (set(TLS[k]["alpn"].alpn), set(TLS[k]["default"].alpn)))
    tap.ok(all(a == {"hc"} and b in ({"http/1.1"}, {None}) for a, b in got.values()), "tls_options: their own protocol is offered", got)
    tap.ok(well("matched", 1) and all(TLS[k]["matched"].alpn for k in KINDS), "transport_socket_match_criteria: checks go over TLS")
    tap.same(both(lambda k: ask(PORT[k], "/matched/").get("x-from")), {k: "matched" for k in KINDS}, "... and requests do not")
    tap.ok(well("h2", 1) and well("h2_not", 0), "codec_client_type: a host that speaks HTTP/2 alone")
    tap.ok(until(lambda k: stat(k, "h2_not", "health_check.failure") > 1), "... fails with HTTP/1", both(lambda k: P[k].stats("^cluster.h2_not.health")))
    tap.ok(well("named", 1) and until(lambda k: stat(k, "other", "health_check.failure") > 1) and well("other", 0),
           "service_name_matcher: the service that was meant, and another one")
    tap.ok(until(lambda k: stat(k, "named", "health_check.verify_cluster") > 0), "... counted")
    tap.ok(all(well(n, 1) for n in ("v1", "v2", "bare")), "TCP checks with PROXY protocol and without")
    want = {"v1": b"PROXY TCP4 127.0.0.1 127.0.0.1 FROM TO\r\nping", "v2": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0ping", "bare": b"ping"}
    for n, data in want.items():
        tap.same(both(lambda k, n=n: set(RAW[k][n].got)), {k: {data} for k in KINDS}, "... %s: the bytes" % n)
    tap.ok(well("binary", 1) and until(lambda k: stat(k, "binary_no", "health_check.failure") > 0) and well("binary_no", 0),
           "binary payloads: what comes and what does not")


# ---- events
def sink(path):
    return {"name": "file", "typed_config": {"@type": T + ".extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
                                             "event_log_path": path}}


def log_of(k, name):
    return os.path.join(WORK, "%s.%s.events" % (k, name))


ups("told"), ups("retried"), ups("told_all")
LOUD = {"always_log_health_check_failures": True}
add(lambda u, k: cluster("told", health_checks=[{**FAST, "event_log_path": log_of(k, "old"), "event_logger": [sink(log_of(k, "told"))]}],
                         load_assignment={"cluster_name": "told", "endpoints": [{"locality": {"region": "r", "zone": "z"}, "lb_endpoints": [{
                             "endpoint": {"address": address(u["told"].port)}, "metadata": {"filter_metadata": {
                                 "a.b": {"s": "x", "n": 3, "l": [1, None, True, {"d": 1.5}]}}}}]}]}))
add(lambda u, k: cluster("retried", u["retried"].port, health_checks=[{
    **http_check(retriable_statuses=[{"start": 503, "end": 504}]), **LOUD, "unhealthy_threshold": 3, "event_logger": [sink(log_of(k, "retried"))]}]))
add(lambda u, k: cluster("told_all", u["told_all"].port, health_checks=[{
    **FAST, **LOUD, "always_log_health_check_success": True, "event_logger": [sink(log_of(k, "told_all"))]}]))
add(lambda u, k: cluster("told_tcp", DEAD, health_checks=[{**tcp_check(), "event_logger": [sink(log_of(k, "told_tcp"))]}]))
add(lambda u, k: cluster("told_grpc", DEAD, http=H2_UP, health_checks=[{
    **{a: b for a, b in FAST.items() if a != "http_health_check"}, "grpc_health_check": {}, "event_logger": [sink(log_of(k, "told_grpc"))]}]))


def events(k, name):
    """Lines as they are but for times, ports and the order of a map; runs of equal ones as one"""
    out = []
    for line in lines_of(log_of(k, name)):
        e = json.loads(line)
        line = re.sub(r'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"', '"timestamp":"T"', line)
        line = re.sub(r'"port_value":\d+', '"port_value":1', line)
        if "metadata" in e:
            i, meta = line.index('"metadata":') + 11, e["metadata"]
            _, end = json.JSONDecoder().raw_decode(line[i:])
            line = line[:i] + json.dumps(meta, sort_keys=True) + line[i + end:]
        if not out or out[-1] != line:
            out.append(line)
    return out


def kinds_of(lines):
    """What each of the lines tells"""
    known = ("eject_unhealthy_event", "add_healthy_event", "health_check_failure_event", "degraded_healthy_host", "no_longer_degraded_host",
             "successful_health_check_event")
    return [(n, json.dumps(e[n])) for e in map(json.loads, lines) for n in known if n in e]


@part
def event_logs():
    def step(what, n):
        both(what)
        return until(lambda k: len(lines_of(log_of(k, "told"))) >= n)
    tap.ok(step(lambda k: None, 1), "a host that is well at first is told")
    steps = [(lambda k: setattr(UP[k]["told"], "sick", "/health"), "one that answers badly"),
             (lambda k: setattr(UP[k]["told"], "sick", None), "... is well again"),
             (lambda k: setattr(UP[k]["told"], "habit", "header=x-envoy-degraded:1"), "... is degraded"),
             (lambda k: setattr(UP[k]["told"], "habit", None), "... is so no longer"),
             (lambda k: setattr(UP[k]["told"], "habit", "how=hang"), "... does not answer")]
    for i, (fn, text) in enumerate(steps):
        tap.ok(step(fn, i + 2), "a line for a host that %s" % text.replace("... ", ""), both(lambda k: events(k, "told")))
    got = both(lambda k: events(k, "told"))
    tap.same(got["weft"], got["envoy"], "the lines are Envoy's")
    tap.ok(len(got["weft"]) == 6, "... six of them", got["weft"])
    tap.ok(until(lambda k: events(k, "old") == got[k]), "event_log_path has the same", both(lambda k: events(k, "old")))
    until(lambda k: any("successful" in x for x in lines_of(log_of(k, "told_all"))))
    both(lambda k: UP[k]["told_all"].die())
    until(lambda k: any("eject" in x for x in lines_of(log_of(k, "told_all"))))
    until(lambda k: "failure_event" in lines_of(log_of(k, "told_all"))[-1])
    got = both(lambda k: events(k, "told_all"))
    tap.ok(got["weft"] == got["envoy"] and len(got["weft"]) == 5, "always_log_health_check_success and _failures: every check is told", got)
    until(lambda k: len(lines_of(log_of(k, "retried"))) >= 1)
    both(lambda k: setattr(UP[k]["retried"], "sick", "/health"))
    until(lambda k: any("eject" in x for x in lines_of(log_of(k, "retried"))))
    fails = both(lambda k: [n for n, _ in kinds_of(lines_of(log_of(k, "retried")))][1:5])
    tap.same(fails, {k: ["health_check_failure_event"] * 2 + ["eject_unhealthy_event", "health_check_failure_event"] for k in KINDS},
             "retriable_statuses: two of them do not make it sick, the third does")
    for n in ("told_tcp", "told_grpc"):
        until(lambda k, n=n: lines_of(log_of(k, n)))
        got = both(lambda k, n=n: events(k, n)[0])
        tap.same(got["weft"], got["envoy"], "%s: its first check" % n)
    for k in KINDS:
        os.rename(log_of(k, "told_all"), log_of(k, "told_all") + ".old")
        P[k].admin("/reopen_logs", "POST")
    tap.ok(until(lambda k: len(lines_of(log_of(k, "told_all"))) > 0), "/reopen_logs: a file that was moved away is made anew")


# ---- DNS
class NameServer:
    """Answers A questions for names under test by 127.0.0.1, others by NXDOMAIN; knows what was asked"""

    def __init__(self, host="127.0.0.1", port=0):
        self.asked, self.ttl = [], 60  # (name, payload of its OPT record)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, port))
        self.at = self.sock.getsockname()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            q, peer = self.sock.recvfrom(4096)
            labels, at = [], 12
            while q[at]:
                labels.append(q[at + 1:at + 1 + q[at]].decode())
                at += 1 + q[at]
            at += 1
            kind, = struct.unpack(">H", q[at:at + 2])
            opt = struct.unpack(">H", q[at + 7:at + 9])[0] if q[11] else 0
            name = ".".join(labels)
            self.asked.append((name, opt))
            good = labels[-1] == "test"
            rr = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", self.ttl, 4) + socket.inet_aton("127.0.0.1") if good and kind == 1 else b""
            self.sock.sendto(q[:2] + struct.pack(">HHHHH", 0x8180 | (0 if good else 3), 1, 1 if rr else 0, 0, 0) + q[12:at + 4] + rr, peer)

    def times(self, name):
        return sum(n == name for n, _ in self.asked)


def cares(*servers, **conf):
    return {"typed_dns_resolver_config": {"name": "cares", "typed_config": {
        "@type": CARES, "resolvers": [address(s.at[1], s.at[0]) for s in servers], **conf}}}


def by_name(name, port, what=None, **more):
    return {"name": name, "type": "STRICT_DNS", "connect_timeout": "2s", "dns_lookup_family": "V4_ONLY", "dns_refresh_rate": "0.1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port, what or name + ".test")}}]}]},
            **more}


def system_server():
    """A name server where resolv.conf can name it: port 53 of some address of the loopback net"""
    for i in range(50):
        try:
            return NameServer("127.%d.%d.53" % (70 + i, os.getpid() % 250 + 1), 53)
        except OSError:
            continue
    raise SystemExit("Bail out! no port 53 is free on the loopback net")


ALONE = sys.argv[1:] == ["alone"]
NS = {k: [NameServer(), NameServer()] for k in KINDS} if not ALONE else {}
SYSTEM = {k: system_server() for k in KINDS} if not ALONE else {}
ups("web")
NAMES = {  # name: what the cluster has besides
    "ref": lambda a, b: cares(a),
    "ttl": lambda a, b: {**cares(a), "respect_dns_ttl": True},
    "late": lambda a, b: {**cares(a), "dns_jitter": "4s"},
    "old": lambda a, b: {"dns_resolvers": [address(a.at[1], a.at[0])]},
    "older": lambda a, b: {"dns_resolution_config": {"resolvers": [address(a.at[1], a.at[0])]}},
    "edns": lambda a, b: cares(a, edns0_max_payload_size=1400),
    "turns": lambda a, b: cares(a, b, rotate_nameservers=True),
    "first": lambda a, b: cares(a, b),
    "system": lambda a, b: cares(a, use_resolvers_as_fallback=True),
    "aged": lambda a, b: cares(a, max_udp_channel_duration="0.5s"),
}
for n_, more_ in NAMES.items() if not ALONE else ():
    add(lambda u, k, n=n_, more=more_: by_name(n, u["web"].port, **more(*NS[k])))
for n_, more_ in (("found", {}), ("bare_name", {"dns_resolver_options": {"no_default_search_domain": True}})) if not ALONE else ():
    add(lambda u, k, n=n_, more=more_: by_name(n, u["web"].port, n, **cares(NS[k][0], **more)))
    add(lambda u, k, n=n_, more=more_: by_name(n + "2", u["web"].port, n + "2", dns_resolution_config={
        "resolvers": [address(NS[k][0].at[1])], **more}))


@part
def dns():
    tap.ok(until(lambda k: NS[k][0].times("ref.test") >= 25, 40), "a name is asked for again and again")
    times = {n: both(lambda k, n=n: NS[k][0].times(n + ".test")) for n in NAMES}
    tap.same(times["ttl"], {k: 1 for k in KINDS}, "respect_dns_ttl: once in its time to live")
    tap.ok(all(1 <= x <= 9 for x in times["late"].values()), "dns_jitter: seldom", times["late"])
    for n in ("old", "older", "edns", "aged"):
        tap.ok(all(x >= 10 for x in times[n].values()) and well(n, 1), "%s: as often" % n, times[n])
    sizes = both(lambda k: {o for n, o in NS[k][0].asked if n == "edns.test"})
    tap.same(sizes, {k: {1400} for k in KINDS}, "edns0_max_payload_size")
    second = {n: both(lambda k, n=n: NS[k][1].times(n + ".test")) for n in ("turns", "first")}
    tap.ok(all(second["turns"][k] >= 3 and times["turns"][k] >= 3 for k in KINDS), "rotate_nameservers: both are asked", times["turns"], second["turns"])
    tap.ok(all(second["first"][k] == 0 and times["first"][k] >= 10 for k in KINDS), "... and the first alone without it", times["first"], second["first"])
    asked = both(lambda k: {n for n, _ in NS[k][0].asked if n.startswith(("found", "bare_name"))})
    tap.same(asked, {k: {"found.corp.test", "found2.corp.test", "bare_name", "bare_name2"} for k in KINDS},
             "a name without dots: in the search domain, and as it is with no_default_search_domain")
    tap.ok(well("found", 1) and well("found2", 1) and well("bare_name", 0) and well("bare_name2", 0), "... and so found or not")
    tap.ok(until(lambda k: SYSTEM[k].times("system.test") >= 5), "use_resolvers_as_fallback: the system's are asked where there are any")
    tap.same(times["system"], {k: 0 for k in KINDS}, "... and not the others")


@part
def dns_alone():
    """In a network of its own, where loopback is the only interface at first and resolv.conf is empty"""
    r = subprocess.run(["unshare", "-n", "-m", sys.executable, os.path.abspath(__file__), "alone"], stdout=subprocess.PIPE, check=False,
                       timeout=120 * SLOW)
    got = json.loads(r.stdout.splitlines()[-1]) if r.returncode == 0 and r.stdout else {}
    for key, want, text in (("before", [1, 0], "filter_unroutable_families: no address where there is no interface for it"),
                            ("after", [1, 1], "... and there is one as soon as there is one")):
        tap.same({k: got.get(k, {}).get(key) for k in KINDS}, {k: want for k in KINDS}, text)
    tap.same(got.get("renewed"), [1, 0], "reinit_channel_on_timeout (Envoy 1.36 has it not): resolv.conf is read again after a query without an answer")
    # Envoy 1.36 asks nobody here: its c-ares names more than one server of its own
    tap.ok(got.get("weft", {}).get("fallback"), "use_resolvers_as_fallback: they are asked where the system has none", got)


def renewed(resolv):
    """How many hosts are found once resolv.conf, that named a server without an answer, names another: with the option and without"""
    mute = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mute.bind(("127.0.0.54", 53))
    NameServer("127.0.0.55", 53)

    def use(at):
        with open(resolv, "w", encoding="utf-8") as f:  # in place: it is mounted
            f.write("nameserver %s\n" % at)
    use("127.0.0.54")
    short = {"query_timeout_seconds": 1, "query_tries": 1}
    p = Proxy(bootstrap([], [by_name("renewed", 9, **cares(reinit_channel_on_timeout=True, **short)), by_name("kept", 9, **cares(**short))]),
              name="renewing")
    count = lambda n, item: p.stats("^cluster[.]%s[.]%s$" % (n, item)).get("cluster.%s.%s" % (n, item), 0)
    wait_for(lambda: all(count(n, "update_failure") >= 1 for n in ("renewed", "kept")), 15)
    use("127.0.0.55")
    failed = count("kept", "update_failure")
    wait_for(lambda: count("renewed", "membership_total") == 1 and count("kept", "update_failure") > failed + 1, 20)
    out = [count(n, "membership_total") for n in ("renewed", "kept")]
    p.stop()
    return out


def alone():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    empty = os.path.join(WORK, "resolv.conf")
    with open(empty, "w", encoding="utf-8"):
        pass
    subprocess.run(["mount", "--bind", empty, "/etc/resolv.conf"], check=True)
    out, servers = {}, {}
    for k in KINDS:
        s = servers[k] = NameServer()
        P[k] = Proxy(bootstrap([], [by_name("any", 9, **cares(s)), by_name("routable", 9, **cares(s, filter_unroutable_families=True)),
                                    by_name("fallback", 9, **cares(s, use_resolvers_as_fallback=True))]), k)
    now = lambda k: [stat(k, n, "membership_total") for n in ("any", "routable")]
    until(lambda k: servers[k].times("routable.test") >= 3 and servers[k].times("any.test") >= 3)
    out = {k: {"before": now(k)} for k in KINDS}
    for cmd in ("link add w0 type veth peer name w1", "addr add 192.0.2.1/24 dev w0", "link set w0 up"):
        subprocess.run(["ip"] + cmd.split(), check=True)
    until(lambda k: now(k) == [1, 1])
    for k in KINDS:
        out[k].update(after=now(k), fallback=servers[k].times("fallback.test") > 0)
        P[k].stop()
    out["renewed"] = renewed(empty)
    print(json.dumps(out))
    return 0


def routes():
    names = [n for n in list(RATES) + list(EDGES) + ["matched"]]
    return [to(n, "/%s/" % n) for n in names]


def main():
    only = re.compile(os.environ.get("ONLY", ""))
    for k in KINDS:
        conf = os.path.join(WORK, k + ".resolv.conf")
        with open(conf, "w", encoding="utf-8") as f:
            f.write("nameserver %s\nsearch corp.test\n" % SYSTEM[k].at[0])
        P[k] = Proxy(bootstrap([listener("l", PORT[k], chain(hcm(routes())))], CONF[k]), k,
                     prefix=["unshare", "-m", "sh", "-c", "mount --bind %s /etc/resolv.conf && exec \"$@\"" % conf, "sh"],
                     args=["--file-flush-interval-msec", "50"] if k == "envoy" else [])
    for fn in PARTS:
        if only.search(fn.__name__):
            print("# %s" % fn.__name__, flush=True)
            try:
                fn()
            except Exception:  # pylint: disable=broad-except
                tap.ok(False, "%s ends" % fn.__name__, traceback.format_exc(), P["weft"].log()[-1500:])
    return 1 if tap.done() else 0


if __name__ == "__main__":
    sys.exit(alone() if ALONE else main())
