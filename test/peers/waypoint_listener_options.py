#!/usr/bin/python3
"""Options of listeners, listener filters and network filters: the same configuration through weft-waypoint and a real Envoy (ENVOY). What a
socket was told is read from the kernel; what a client meets, by connecting."""
import ctypes
import json
import os
import re
import signal
import socket
import ssl
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import H2Client  # noqa: E402
from waypoint_kit import (  # noqa: E402
    Ca, Proxy, Tap, ask, bootstrap, chain, cluster, dial, free_ports, hcm, json_log, lines_of, listener, pem, say, wait_for, T, WORK)

tap = Tap()
ca = Ca("ca")
A = ca.issue("a", "URI:spiffe://td/ns/a/sa/a")
LF = T + ".extensions.filters.listener."
NET = T + ".extensions.filters.network."
PIDFD_OPEN, PIDFD_GETFD = 434, 438
TCP_FASTOPEN, MPTCP, IP_FREEBIND, IP_TRANSPARENT = 23, 262, 15, 19
libc = ctypes.CDLL(None, use_errno=True)
HELLO = chain(hcm([say("/", 200, "x")]))


def lf(name, kind, **more):
    disabled = more.pop("filter_disabled", None)
    f = {"name": name, "typed_config": {"@type": LF + kind, **more}}
    if disabled:
        f["filter_disabled"] = disabled
    return f


def pp(**more):
    return lf("pp", "proxy_protocol.v3.ProxyProtocol", **more)


def tcp(stat_prefix, **more):
    return {"name": "tcp", "typed_config": {"@type": NET + "tcp_proxy.v3.TcpProxy", "stat_prefix": stat_prefix, **more}}


def where(port, host="127.0.0.1"):
    return {"socket_address": {"address": host, "port_value": port}}


def answer(port, first=b"", **how):
    """What an HTTP request gets, behind these bytes"""
    try:
        s = dial(port, **how)
        if first:
            s.sendall(first)
        r = ask(0, sock=s)
        s.close()
        return "%d %s" % (r.status, r.body.decode("latin-1")) if r.status else "closed"
    except OSError:
        return "closed"


# ---- sockets as the kernel has them
def listening(p, port):
    """The listening sockets of a process at a port, as sockets of ours"""
    inodes = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(path, encoding="utf-8") as f:
            for line in f.readlines()[1:]:
                w = line.split()
                if w[3] == "0A" and int(w[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(w[9])
    pidfd, out = libc.syscall(PIDFD_OPEN, p.p.pid, 0), []
    for n in os.listdir("/proc/%d/fd" % p.p.pid):
        try:
            link = os.readlink("/proc/%d/fd/%s" % (p.p.pid, n))
        except OSError:
            continue
        if link[8:-1] in inodes:
            fd = libc.syscall(PIDFD_GETFD, pidfd, int(n), 0)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            out.append(socket.socket(fileno=fd))
            inodes.discard(link[8:-1])
    os.close(pidfd)
    return out


ASKED = {"freebind": (socket.SOL_IP, IP_FREEBIND), "transparent": (socket.SOL_IP, IP_TRANSPARENT),
         "fastopen": (socket.IPPROTO_TCP, TCP_FASTOPEN), "reuseport": (socket.SOL_SOCKET, socket.SO_REUSEPORT),
         "protocol": (socket.SOL_SOCKET, 38), "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
         "idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), "interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
         "probes": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT), "mark": (socket.SOL_SOCKET, 36)}


def told(p, port):
    socks = listening(p, port)
    out = {k: sorted({s.getsockopt(*at) for s in socks}) for k, at in ASKED.items()}
    out["sockets"] = len(socks)
    for s in socks:
        s.close()
    return out


def mptcp_is_there():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP).close()
        return True
    except OSError:
        return False


def options(kind):
    names = ("plain", "freebind", "transparent", "fastopen", "alone", "mptcp", "v1", "v1on", "both", "extra", "own")
    P = dict(zip(names, free_ports(len(names))))
    mine = lambda name, **more: listener(name, P[name], HELLO, **more)
    keep = [{"level": 1, "name": 9, "int_value": 1}, {"level": 6, "name": 4, "int_value": 77}, {"level": 6, "name": 5, "buf_value": "BwAAAA=="}]
    ls = [mine("plain"), mine("freebind", freebind=True), mine("transparent", transparent=True),
          mine("fastopen", tcp_fast_open_queue_length=7), mine("alone", enable_reuse_port=False),
          mine("v1", deprecated_v1={"bind_to_port": False}), mine("v1on", deprecated_v1={"bind_to_port": True}),
          mine("both", socket_options=keep, additional_addresses=[
              {"address": where(P["extra"])}, {"address": where(P["own"]), "socket_options": {"socket_options": [keep[0], {**keep[1], "int_value": 55}]}}])]
    ls[1]["address"] = where(P["freebind"], "192.0.2.77")
    if mptcp_is_there():
        ls.append(mine("mptcp", enable_mptcp=True))
    p = Proxy(bootstrap(ls, []), kind, name="options-" + kind, concurrency=2)
    out = {n: told(p, P[n]) for n in names}
    for n in names:
        out[n]["answer"] = answer(P[n]) if n != "freebind" else ""
    p.stop()
    return out


def sockets():
    ours = options("weft")
    plain = ours["plain"]
    for name, what, want in (("freebind", "freebind", [1]), ("transparent", "transparent", [1]), ("fastopen", "fastopen", [7]),
                             ("both", "keepalive", [1]), ("both", "idle", [77]), ("both", "interval", [7]),
                             ("extra", "keepalive", [1]), ("extra", "idle", [77]), ("own", "idle", [55])):
        tap.ok(ours[name][what] == want and plain[what] != want, "%s: the socket is told %s" % (name, what), ours[name], plain)
    tap.same((plain["sockets"], ours["alone"]["sockets"], plain["reuseport"], ours["alone"]["reuseport"]), (2, 1, [1], [0]),
             "enable_reuse_port off: one socket for all workers")
    tap.same((ours["alone"]["answer"], ours["extra"]["answer"]), ("200 x", "200 x"), "... and it serves; so does an additional address")
    tap.same((ours["v1"]["sockets"], ours["v1on"]["answer"]), (0, "200 x"), "deprecated_v1.bind_to_port off: nothing is bound")
    if mptcp_is_there():
        tap.same((ours["mptcp"]["protocol"], ours["mptcp"]["answer"]), ([MPTCP], "200 x"), "enable_mptcp: a socket of that protocol")
    else:
        tap.skip("enable_mptcp: a socket of that protocol", "the kernel has none")
    real = options("envoy")
    for name, v in ours.items():
        tap.same(v, real[name], "%s: as Envoy's sockets" % name)


def admin_socket(p):
    with open("/proc/net/unix", encoding="utf-8") as f:
        inodes = {w[6] for w in (line.split() for line in f) if w[-1] == p.admin_path and w[5] == "01" and w[3] == "00010000"}
    pidfd = libc.syscall(PIDFD_OPEN, p.p.pid, 0)
    for n in os.listdir("/proc/%d/fd" % p.p.pid):
        try:
            if os.readlink("/proc/%d/fd/%s" % (p.p.pid, n))[8:-1] in inodes:
                fd = libc.syscall(PIDFD_GETFD, pidfd, int(n), 0)
                os.close(pidfd)
                return socket.socket(fileno=fd)
        except OSError:
            pass
    return None


# ---- the rest of the bootstrap
def names():
    """A server of names: whatever is asked is 127.0.0.1"""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    asked = []

    def run():
        while True:
            q, who = s.recvfrom(4096)
            end = q.index(b"\0", 12) + 5
            kind = q[end - 4:end - 2]
            asked.append(q[12:end - 5])
            a = b"\xc0\x0c" + kind + b"\0\1" + b"\0\0\0\x3c" + b"\0\4" + socket.inet_aton("127.0.0.1") if kind == b"\0\1" else b""
            s.sendto(q[:2] + b"\x81\x80\0\1" + (b"\0\1" if a else b"\0\0") + b"\0\0\0\0" + q[12:end] + a, who)
    threading.Thread(target=run, daemon=True).start()
    return s.getsockname()[1], asked


def rest(kind):
    P, (dns, asked) = free_ports(3), names()
    by_name = cluster("named", 0, type="STRICT_DNS", dns_lookup_family="V4_ONLY")
    by_name["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = where(ECHO, "some.where.test")
    cares = {"name": "cares", "typed_config": {"@type": T + ".extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                                               "resolvers": [where(dns)], "dns_resolver_options": {"no_default_search_domain": True}}}
    regex = say("/", 200, "r")
    regex["match"] = {"safe_regex": {"regex": "/a+"}}
    ls = [listener("tcp", P[0], {"filters": [tcp("t", cluster="named")]}), listener("a", P[1], chain(hcm([regex]))),
          listener("only", P[2], HELLO, drain_type="MODIFY_ONLY")]
    p = Proxy(bootstrap(ls, [by_name], typed_dns_resolver_config=cares, admin={"socket_options": [{"level": 1, "name": 16, "int_value": 1}]},
                        default_regex_engine={"name": "re2", "typed_config": {"@type": T + ".extensions.regex_engines.v3.GoogleRE2"}}),
              kind, name="rest-" + kind)
    out = {"echo": echoes(P[0]), "asked": b"some" in b"".join(asked), "regex": [ask(P[1], "/aaa").status, ask(P[1], "/b").status]}
    s = admin_socket(p)
    out["admin"] = s.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) if s else None
    s.close()
    p.admin("/healthcheck/fail", "POST")
    out["fail"] = [ask(x, "/a").get("connection") for x in P[1:]]
    p.admin("/healthcheck/ok", "POST")
    out["ok"] = [ask(x, "/a").get("connection") for x in P[1:]]
    p.stop()
    return out


def of_bootstrap():
    ours = rest("weft")
    tap.same((ours["echo"], ours["asked"]), (True, True), "typed_dns_resolver_config: for clusters that have none of their own")
    tap.same((ours["regex"], ours["admin"]), ([200, 404], 1), "default_regex_engine re2; socket_options of the admin")
    tap.same((ours["fail"], ours["ok"]), (["close", None], [None, None]), "drain_type MODIFY_ONLY: a failed health check does not end connections")
    real = rest("envoy")
    for name, v in ours.items():
        tap.same(v, real[name], "bootstrap, %s: as in Envoy" % name)


# ---- statistics
def told_of(kind, **conf):
    port = free_ports(1)[0]
    p = Proxy(bootstrap([listener("a", port, HELLO, stat_prefix="a")], [cluster("c", ECHO), cluster("d", ECHO)], stats_config=conf), kind,
              name="stats-" + kind)
    for _ in range(3):
        s = dial(port)
        ask(0, sock=s)
        s.close()
    wait_for(lambda: not p.stats("listener.a.downstream_cx_active").get("listener.a.downstream_cx_active"), 5)

    def lines():
        return [x for x in p.admin("/stats/prometheus")[1].splitlines() if '_downstream_cx_length_ms_bucket' in x and 'listener_address="a"' in x]
    wait_for(lines, 15 if "stats_matcher" not in conf else 0)
    text = p.admin("/stats/prometheus")[1].splitlines()
    out = {"names": sorted({k.split(".")[0] for k in p.stats()} - {"workers", "main_thread", "control_plane", "envoy", "tcmalloc", "runtime", "filesystem", "dns", "vhost", "overload",
                                                                   "thread_local_cluster_manager", "http1", "http2", "tls_inspector"}),
           "c": "cluster.c.upstream_cx_total" in p.stats(), "d": "cluster.d.upstream_cx_total" in p.stats(),
           "le": re.findall(r'le="([^"]+)"', "".join(lines())),
           "tags": sorted(set(re.findall(r'(env|some_where)="([^"]*)"', "".join(x for x in text if "_downstream_cx_total{" in x))))}
    p.stop()
    return out


def statistics():
    both = {"plain": {}, "none": {"stats_matcher": {"reject_all": True}},
            "without": {"stats_matcher": {"exclusion_list": {"patterns": [{"prefix": "cluster.c."}, {"safe_regex": {"regex": "listener.*"}}]}}},
            "only": {"stats_matcher": {"inclusion_list": {"patterns": [{"contains": ".d."}, {"prefix": "server."}]}}},
            "buckets": {"histogram_bucket_settings": [{"match": {"prefix": "listener.a"}, "buckets": [7, 0.25, 1000000]}]},
            "tags": {"use_all_default_tags": True, "stats_tags": [{"tag_name": "env", "fixed_value": "test"}, {"tag_name": "some.where", "fixed_value": "a\"b"}]}}
    ours = {k: told_of("weft", **v) for k, v in both.items()}
    tap.same((ours["plain"]["c"], ours["without"]["c"], ours["without"]["d"], "listener" in ours["without"]["names"]), (True, False, True, False),
             "stats_matcher exclusion_list: they are not told")
    tap.same((ours["only"]["names"], ours["only"]["c"], ours["only"]["d"], ours["none"]["names"]), (["cluster", "server"], False, True, []),
             "... inclusion_list: only they; reject_all: none")
    tap.same((ours["buckets"]["le"], len(ours["plain"]["le"])), (["0.25", "7", "1000000", "+Inf"], 20), "histogram_bucket_settings: buckets of that name")
    tap.same(ours["tags"]["tags"][:1], [("env", "test")], "stats_tags: a fixed value on every metric")
    for k, v in both.items():
        tap.same(ours[k], told_of("envoy", **v), "stats_config, %s: as in Envoy" % k)


# ---- what is accepted in one event
def stopped(pid):
    """All its threads stand still"""
    states = []
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, task), encoding="utf-8") as f:
            states.append(f.read().rsplit(")", 1)[1].split()[0])
    return set(states) == {"T"}


def accepts(kind):
    P = free_ports(2)
    ls = [listener("few", P[0], HELLO, max_connections_to_accept_per_socket_event=3, stat_prefix="few"),
          listener("many", P[1], HELLO, stat_prefix="many")]
    p = Proxy(bootstrap(ls, []), kind, name="accepts-" + kind)
    os.kill(p.p.pid, signal.SIGSTOP)
    wait_for(lambda: stopped(p.p.pid))
    held = [dial(port) for port in P for _ in range(10)]
    os.kill(p.p.pid, signal.SIGCONT)
    wait_for(lambda: sum(p.stat("listener.%s.downstream_cx_total" % n) or 0 for n in ("few", "many")) == 20)
    out = {}
    for name in ("few", "many"):
        def buckets():
            text = p.admin("/stats/prometheus")[1]
            return {m[0]: int(m[1]) for m in re.findall(
                r'connections_accepted_per_socket_event_bucket\{envoy_listener_address="%s",le="([^"]+)"\} (\d+)' % name, text)}
        wait_for(lambda: buckets().get("+Inf"), 15)
        b = buckets()
        out[name] = (b.get("+Inf", 0), b.get("+Inf", 0) - b.get("5", 0))  # events; of them, with more than five
    for s in held:
        s.close()
    p.stop()
    return out


def accepted_per_event():
    ours = accepts("weft")
    tap.ok(ours["few"][0] >= 4 and ours["few"][1] == 0, "max_connections_to_accept_per_socket_event 3: ten come in four events", ours)
    tap.ok(ours["many"][1] >= 1, "... without it in one", ours)
    real = accepts("envoy")
    tap.same((ours["few"][1], ours["many"][1] > 0), (real["few"][1], real["many"][1] > 0), "... as in Envoy")


# ---- listener filters
def v2(cmd=1):
    body = socket.inet_aton("9.8.7.6") + socket.inet_aton("5.4.3.2") + (1111).to_bytes(2, "big") + (2222).to_bytes(2, "big")
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | cmd, 0x11]) + len(body).to_bytes(2, "big") + body


V1 = b"PROXY TCP4 9.8.7.6 5.4.3.2 1111 2222\r\n"


def at(port):
    return {"destination_port_range": {"start": port, "end": port + 1}}


def predicates(kind):
    P = free_ports(4)
    p1, p2, p3 = (at(x) for x in P[:3])
    out = {}
    for name, m in (("port", p1), ("any", {"any_match": True}), ("not", {"not_match": p1}), ("or", {"or_match": {"rules": [p1, p2]}}),
                    ("and", {"and_match": {"rules": [{"any_match": True}, {"not_match": p2}]}}),
                    ("and of one port and another", {"and_match": {"rules": [p1, p2]}}),
                    ("deep", {"or_match": {"rules": [{"and_match": {"rules": [p3, {"not_match": p1}]}}, {"not_match": {"or_match": {
                        "rules": [p2, p3, {"not_match": {"any_match": True}}]}}}]}})):
        ln = listener("l", P[0], HELLO, listener_filters=[pp(filter_disabled=m)], listener_filters_timeout="10s",
                      additional_addresses=[{"address": where(x)} for x in P[1:3]])
        p = Proxy(bootstrap([ln], []), kind, name="pred-" + kind)
        out[name] = [(answer(x), answer(x, V1)) for x in P[:3]]
        p.stop()
    return out


def filter_disabled():
    ours = predicates("weft")
    off, on = ("200 x", "400 "), ("closed", "200 x")
    for name, want in (("port", [off, on, on]), ("any", [off] * 3), ("not", [on, off, off]), ("or", [off, off, on]),
                       ("and", [off, on, off]), ("and of one port and another", [on] * 3), ("deep", [off, on, off])):
        tap.ok([(a, b if b[0] == "2" else b[:4]) for a, b in ours[name]] == want, "filter_disabled, %s: the filter is off where it says" % name, ours[name], want)
    real = predicates("envoy")
    for name, v in ours.items():
        tap.same(v, real[name], "filter_disabled, %s: as in Envoy" % name)


def hello(size):
    """A ClientHello of about that size"""
    c = ssl.create_default_context()
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    c.set_alpn_protocols(["http/1.1"] + ["p%03d" % i + "x" * 90 for i in range(size // 96)])
    return c


def filters(kind):
    names = ("pp", "ppopt", "nov1", "nov2", "nov1opt", "nov2opt", "wait", "cut", "small", "large", "sp")
    P, SPORT = dict(zip(names, free_ports(len(names)))), free_ports(4)
    tls = {"common_tls_context": {"tls_certificates": [pem(*A)]}}
    ok = chain(hcm([say("/", 200, "x")], use_remote_address=False))
    mine = lambda name, *f, **more: listener(name, P[name], more.pop("chain", ok), listener_filters=list(f), stat_prefix=name, **more)
    inspect = lambda n=None: lf("tls", "tls_inspector.v3.TlsInspector", **({"max_client_hello_size": n} if n and kind == "weft" else {}))
    sp = [chain(hcm([say("/", 200, "s%d" % i)], stat_prefix="s%d" % i), filter_chain_match={"source_ports": v}) for i, v in enumerate(
        (SPORT[:1], SPORT[1:3]))] + [chain(hcm([say("/", 200, "rest")], stat_prefix="rest"))]
    ls = [mine("pp", pp()), mine("ppopt", pp(allow_requests_without_proxy_protocol=True)),
          mine("nov1", pp(disallowed_versions=["V1"])), mine("nov2", pp(disallowed_versions=["V2"])),
          mine("nov1opt", pp(disallowed_versions=["V1"], allow_requests_without_proxy_protocol=True)),
          mine("nov2opt", pp(disallowed_versions=["V2"], allow_requests_without_proxy_protocol=True)),
          mine("wait", lf("h", "http_inspector.v3.HttpInspector"), listener_filters_timeout="0.3s", continue_on_listener_filters_timeout=True),
          mine("cut", lf("h", "http_inspector.v3.HttpInspector"), listener_filters_timeout="0.3s"),
          mine("small", inspect(1024), chain=chain(hcm([say("/", 200, "x")]), tls)),
          mine("large", inspect(), chain=chain(hcm([say("/", 200, "x")]), tls)),
          listener("sp", P["sp"], *sp)]
    p = Proxy(bootstrap(ls, []), kind, name="filters-" + kind)
    out = {}
    for name in names[:6]:
        out[name] = [answer(P[name]), answer(P[name], V1), answer(P[name], v2()), answer(P[name], v2(0))]
    for name in ("wait", "cut"):
        s = dial(P[name])
        wait_for(lambda: p.stat("listener.%s.downstream_pre_cx_timeout" % name))
        try:
            out[name] = ask(0, sock=s).status
        except OSError:
            out[name] = 0
    for name in ("small", "large"):
        out[name] = [answer(P[name], tls=hello(n), sni="a") for n in (0, 3000, 9000)]
    out["counted"] = p.stat("tls_inspector.client_hello_too_large")
    out["sp"] = [answer(P["sp"], source=("127.0.0.1", n)) for n in SPORT]
    p.stop()
    return out


def listener_filters():
    ours = filters("weft")
    served = {"pp": "0111", "ppopt": "1111", "nov1": "0011", "nov2": "0100", "nov1opt": "1011", "nov2opt": "1100"}
    for name, want in served.items():
        got = "".join("1" if x == "200 x" else "0" for x in ours[name])
        tap.same(got, want, "%s: without a header, version 1, version 2, version 2 LOCAL" % name)
    tap.same((ours["wait"], ours["cut"]), (200, 0), "continue_on_listener_filters_timeout: who said nothing in time is served; else cut")
    tap.same((ours["small"], ours["large"]), (["200 x", "closed", "closed"], ["200 x"] * 3), "max_client_hello_size: a larger one is refused")
    tap.same(ours["sp"], ["200 s0", "200 s1", "200 s1", "200 rest"], "source_ports: the client's port chooses the chain")
    real = filters("envoy")
    for name, v in ours.items():
        if name not in ("small", "counted"):  # this Envoy has no such limit yet
            tap.same(v, real[name], "%s: as in Envoy" % name)


# ---- network filters
def echo():
    srv = socket.create_server(("127.0.0.1", 0), backlog=128)

    def one(c):
        try:
            while True:
                b = c.recv(65536)
                if not b:
                    break
                c.sendall(b)
        except OSError:
            pass
        c.close()

    def run():
        while True:
            c, _ = srv.accept()
            threading.Thread(target=one, args=(c,), daemon=True).start()
    threading.Thread(target=run, daemon=True).start()
    return srv.getsockname()[1]


ECHO = echo()


def echoes(port):
    try:
        s = dial(port, timeout=5)
        s.sendall(b"hi")
        got = s.recv(10)
        s.close()
        return got == b"hi"
    except OSError:
        return False


def net(kind):
    names = ("share1", "share2", "other", "single1", "single2", "off", "offcl", "now", "later", "aged", "jitter", "log", "logs", "quiet", "idle")
    P = dict(zip(names, free_ports(len(names))))
    dead, log = free_ports(1)[0], os.path.join(WORK, kind + ".tcp")
    rate = lambda name, **more: {"name": "rl", "typed_config": {
        "@type": NET + "local_ratelimit.v3.LocalRateLimit", "stat_prefix": name,
        "token_bucket": {"max_tokens": 3, "tokens_per_fill": 1, "fill_interval": "600s"}, **more}}
    never = {"runtime_enabled": {"default_value": False, "runtime_key": "x"}}
    limit = {"name": "cl", "typed_config": {"@type": NET + "connection_limit.v3.ConnectionLimit", "stat_prefix": "cl", "max_connections": 1, **never}}

    def mine(name, *before, **more):
        more.setdefault("cluster", "echo")
        more["access_log"] = json_log(log, l=name, ms="%DURATION%", t="%ACCESS_LOG_TYPE%", why="%CONNECTION_TERMINATION_DETAILS%", f="%RESPONSE_FLAGS%")
        return listener(name, P[name], {"filters": list(before) + [tcp(name, **more)]})

    dead3 = dict(cluster="dead", max_connect_attempts=3)
    ls = [mine("share1", rate("s1", share_key="k")), mine("share2", rate("s2", share_key="k")), mine("other", rate("s3", share_key="o")),
          mine("single1", rate("s4")), mine("single2", rate("s5")), mine("off", rate("s6", **never)), mine("offcl", limit),
          mine("now", **dead3), mine("later", backoff_options={"base_interval": "300s", "max_interval": "600s"}, **dead3),
          mine("aged", max_downstream_connection_duration="1s"),
          mine("jitter", max_downstream_connection_duration="1s", max_downstream_connection_duration_jitter_percentage={"value": 100}),
          mine("log", access_log_flush_interval="0.2s"), mine("logs", access_log_options={"access_log_flush_interval": "0.2s"}), mine("quiet"), mine("idle", idle_timeout="0.3s")]
    p = Proxy(bootstrap(ls, [cluster("echo", ECHO), cluster("dead", dead)]), kind, name="net-" + kind,
              args=["--file-flush-interval-msec", "30"] if kind == "envoy" else [])
    records = lambda name: [x for x in map(json.loads, lines_of(log)) if x["l"] == name]
    out = {}
    for name in ("share1", "share2", "other", "single1", "single2", "off"):
        out[name] = sum(echoes(P[name]) for _ in range(4))
    out["limited"] = {k: v for k, v in p.stats("local_rate_limit").items()}
    held = [dial(P["offcl"]) for _ in range(3)]
    for s in held:
        s.sendall(b"a")
    out["offcl"] = [s.recv(1) for s in held]
    # attempts
    s = dial(P["now"])
    out["now"] = s.recv(1)
    wait_for(lambda: records("now"))
    out["now flags"] = records("now")[0]["f"]
    out["now fails"] = p.stat("cluster.dead.upstream_cx_connect_fail")
    s = dial(P["later"])
    wait_for(lambda: p.stat("cluster.dead.upstream_cx_connect_fail") == 4)
    s.settimeout(0.5)
    try:
        out["later"] = s.recv(1)
    except TimeoutError:
        out["later"] = "waits"
    out["later fails"] = p.stat("cluster.dead.upstream_cx_connect_fail") - out["now fails"]
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    s = dial(P["idle"])
    s.recv(1)
    wait_for(lambda: records("idle"))
    out["idle"] = [(x["why"], x["f"]) for x in records("idle")]
    # ages
    many = [(name, dial(P[name])) for name in ("aged", "jitter") for _ in range(24)]
    for _, s in many:
        s.sendall(b"a")
        s.recv(1)
    for _, s in many:
        try:
            s.recv(1)
        except OSError:
            pass
    for name in ("aged", "jitter"):
        wait_for(lambda: len(records(name)) == 24)
        ms = [int(x["ms"]) for x in records(name)]
        out[name] = (min(ms) >= 900, {(x["why"], x["f"]) for x in records(name)})
        out[name + " ms"] = ms
    # logs while it goes on
    three = {name: dial(P[name]) for name in ("log", "logs", "quiet")}
    for s in three.values():
        s.sendall(b"a")
        s.recv(1)
    for name in ("log", "logs"):
        wait_for(lambda: len(records(name)) >= 3)
        out[name] = {x["t"] for x in records(name)}
    out["quiet"] = len(records("quiet"))
    for s in three.values():
        s.close()
    for name in three:
        wait_for(lambda: any(x["t"] == "TcpConnectionEnd" for x in records(name)))
        out[name + " end"] = sum(x["t"] == "TcpConnectionEnd" for x in records(name))
    for s in held:
        s.close()
    p.stop()
    return out


def network_filters():
    ours = net("weft")
    tap.same([ours[x] for x in ("share1", "share2", "other")], [3, 0, 3], "share_key: listeners of one key have one bucket")
    tap.same([ours[x] for x in ("single1", "single2", "off")], [3, 3, 4], "... without it each its own; runtime_enabled off: none is limited")
    tap.same(ours["offcl"], [b"a"] * 3, "connection_limit, runtime_enabled off: none is limited")
    tap.same((ours["now"], ours["now fails"], ours["later"], ours["later fails"]), (b"", 3, "waits", 1),
             "backoff_options: the next attempt waits, without it three are made at once")
    spread = {n: max(ours[n + " ms"]) - min(ours[n + " ms"]) for n in ("aged", "jitter")}
    tap.ok(ours["aged"][0] and ours["jitter"][0] and spread["jitter"] > 200 and max(ours["jitter ms"]) > 1200,
           "max_downstream_connection_duration_jitter_percentage: ends are spread", spread, ours)
    tap.same((ours["log"], ours["logs"], ours["quiet"]), ({"TcpPeriodic"}, {"TcpPeriodic"}, 0),
             "access_log_flush_interval, in both places: lines while it goes on")
    real = net("envoy")
    for name, v in ours.items():
        if not name.endswith(" ms"):
            tap.same(v, real[name], "%s: as in Envoy" % name)


# ---- overload
MON = T + ".extensions.resource_monitors."
ACT = "envoy.overload_actions."


def short(name, value):
    """The resource has this pressure from now on: a file moved into its place, as Envoy watches for"""
    path = os.path.join(WORK, name)
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(str(value))
    os.rename(path + ".new", path)
    return path


def trigger(name, what, at):
    t = {"scaled": {"scaling_threshold": at[0], "saturation_threshold": at[1]}} if isinstance(at, tuple) else {"threshold": {"value": at}}
    return {"name": ACT + name, "triggers": [{"name": what, **t}]}


def overloaded(kind):
    P, log = free_ports(3), os.path.join(WORK, kind + ".over")
    names = ("requests", "keepalive", "accept", "reject")
    files = {n: short(kind + n, 0.0) for n in names}
    manager = {"refresh_interval": "0.1s", "resource_monitors": [
        {"name": n, "typed_config": {"@type": MON + "injected_resource.v3.InjectedResourceConfig", "filename": files[n]}} for n in names] + [
        {"name": "heap", "typed_config": {"@type": MON + "fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": 1000}}],
        "actions": [trigger("stop_accepting_requests", "requests", 0.9), trigger("disable_http_keepalive", "keepalive", 0.9),
                    trigger("stop_accepting_connections", "accept", 0.9), trigger("reject_incoming_connections", "reject", (0.5, 0.8)),
                    trigger("shrink_heap", "heap", 0.9)]}
    more = {"access_log": json_log(log, details="%RESPONSE_CODE_DETAILS%", flags="%RESPONSE_FLAGS%", code="%RESPONSE_CODE%")}
    ls = [listener("a", P[0], chain(hcm([say("/", 200, "x")], append_local_overload=True, stat_prefix="a", **more)), stat_prefix="a"),
          listener("b", P[1], chain(hcm([say("/", 200, "x")], stat_prefix="b")), stat_prefix="b"),
          listener("free", P[2], chain(hcm([say("/", 200, "x")], stat_prefix="free")), bypass_overload_manager=True, ignore_global_conn_limit=True)]
    p = Proxy(bootstrap(ls, [], overload_manager=manager), kind, name="over-" + kind)
    state = lambda name: (p.stat("overload.%s.active" % (ACT + name)), p.stat("overload.%s.scale_percent" % (ACT + name)))

    def on(what, action, value, want):
        short(kind + what, value)
        return bool(wait_for(lambda: state(action) == want, 20)) or state(action)

    def seen(port):
        r = ask(port)
        return r.status, r.body, r.get("x-envoy-local-overloaded"), r.get("connection"), r.get("content-type")
    out = {"before": [seen(x) for x in P[:3]]}
    out["requests on"] = on("requests", "stop_accepting_requests", 0.95, (1, 100))
    out["requests"] = [seen(x) for x in P[:3]]
    s = dial(P[0])
    out["twice on one connection"] = [ask(0, sock=s).status for _ in range(2)]
    s.close()
    out["requests off"] = on("requests", "stop_accepting_requests", 0.5, (0, 0))
    out["requests again"] = seen(P[0])
    out["keepalive on"] = on("keepalive", "disable_http_keepalive", 0.9, (1, 100))
    out["keepalive"] = seen(P[0])
    out["keepalive off"] = on("keepalive", "disable_http_keepalive", 0, (0, 0))
    out["keepalive again"] = seen(P[0])
    out["accept on"] = on("accept", "stop_accepting_connections", 1, (1, 100))
    waits = dial(P[1], timeout=0.5)
    waits.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    try:
        out["accept"] = waits.recv(10)
    except TimeoutError:
        out["accept"] = "waits"
    out["accept free"] = answer(P[2])
    out["accept off"] = on("accept", "stop_accepting_connections", 0.89, (0, 0))
    waits.settimeout(20)
    out["accept again"] = waits.recv(12)
    waits.close()
    out["half reject"] = on("reject", "reject_incoming_connections", 0.65, (0, 50))
    got = [answer(P[1]) for _ in range(60)]
    out["some"] = 5 < got.count("closed") < 55 and got.count("closed") + got.count("200 x") == 60
    out["reject on"] = on("reject", "reject_incoming_connections", 0.8, (1, 100))
    out["reject"] = [answer(x) for x in P[:3]]
    out["reject counted"] = p.stat("listener.a.downstream_cx_overload_reject")
    out["reject off"] = on("reject", "reject_incoming_connections", 0.1, (0, 0))
    out["counters"] = {k: v for k, v in p.stats("http.(a|b|free).*overload").items() if v}
    out["shrink"] = wait_for(lambda: p.stat("overload.%sshrink_heap.shrink_count" % ACT), 20) or 0
    out["shrink"] = out["shrink"] > 0
    out["names"] = sorted(k for k in p.stats("^overload") if not re.search("refresh_interval_delay|shed_load|reset_high_memory", k))
    wait_for(lambda: len(lines_of(log)) >= 4)
    out["log"] = sorted({(x["details"], x["flags"], x["code"]) for x in map(json.loads, lines_of(log))}, key=str)
    p.stop()
    return out


def connections(kind):
    """The admin's are not asked meanwhile: Envoy counts them too"""
    P, name = free_ports(2), "envoy.resource_monitors.global_downstream_max_connections"
    manager = {"resource_monitors": [{"name": name, "typed_config": {
        "@type": MON + "downstream_connections.v3.DownstreamConnectionsConfig", "max_active_downstream_connections": 3}}]}
    p = Proxy(bootstrap([listener("a", P[0], HELLO, stat_prefix="a"), listener("free", P[1], HELLO, ignore_global_conn_limit=True)], [],
                        overload_manager=manager), kind, name="most-" + kind)
    hold = [dial(P[0]) for _ in range(3)]
    out = {"three": [ask(0, sock=s).status for s in hold], "fourth": [answer(P[0]), answer(P[0]), answer(P[1])]}
    hold.pop().close()
    out["after"] = bool(wait_for(lambda: answer(P[0]) == "200 x"))
    for s in hold:
        s.close()
    wait_for(lambda: p.stat("listener.a.downstream_global_cx_overflow"))
    out["global"] = p.stat("listener.a.downstream_global_cx_overflow") >= 2
    out["failed"] = p.stat("overload.%s.failed_updates" % name) >= 2
    p.stop()
    return out


def overload():
    ours = connections("weft")
    tap.same(ours, {"three": [200] * 3, "fourth": ["closed", "closed", "200 x"], "after": True, "global": True, "failed": True},
             "global_downstream_max_connections: no more than that, counted")
    tap.same(ours, connections("envoy"), "... as in Envoy")
    ours = overloaded("weft")
    tap.ok(all(v is True for k, v in ours.items() if k.endswith(" on") or k.endswith(" off") or k == "half reject"),
           "actions begin and end as their resource says, in the statistics", ours)
    tap.same([x[0] for x in ours["requests"]], [503, 503, 200], "stop_accepting_requests: 503, not on a listener that bypasses it")
    tap.same([x[2] for x in ours["requests"]], ["true", None, None], "... with append_local_overload x-envoy-local-overloaded tells it")
    tap.same((ours["requests again"][0], ours["keepalive"][0], ours["keepalive"][3], ours["keepalive again"][3]), (200, 200, "close", None),
             "disable_http_keepalive: answers end their connection")
    tap.same((ours["accept"], ours["accept free"], ours["accept again"]), ("waits", "200 x", b"HTTP/1.1 200"),
             "stop_accepting_connections: they wait until it is over; not on a listener that bypasses it")
    tap.ok(ours["some"], "reject_incoming_connections, scaled: some are refused")
    tap.same((ours["reject"], ours["reject counted"]), (["closed", "closed", "200 x"], 1), "... saturated: all; not on a listener that bypasses it")
    tap.ok(ours["shrink"], "fixed_heap: shrink_heap is done")
    real = overloaded("envoy")
    for name, v in ours.items():
        tap.same(v, real[name], "overload, %s: as in Envoy" % name)


# ---- HBONE
def streams(max_streams):
    P = free_ports(1)
    tls = {"require_client_certificate": True, "common_tls_context": {"alpn_protocols": ["h2"], "tls_certificates": [pem(*A)], "validation_context": {
        "trusted_ca": {"filename": ca.cert}}}}
    hbone = {"name": "hbone", "typed_config": {"@type": "type.googleapis.com/weft.waypoint.Hbone", "listener": "in", **max_streams}}
    inner = listener("in", 0, {"filters": [tcp("in", cluster="echo")]}, bind_to_port=False)
    p = Proxy(bootstrap([listener("outer", P[0], chain(hbone, tls)), inner], [cluster("echo", ECHO)]), name="hbone")
    c = ssl.create_default_context(cafile=ca.cert)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_NONE
    c.load_cert_chain(*A)
    c.set_alpn_protocols(["h2"])
    h = H2Client(P[0], tls=c, sni="a")
    first = h.send(method="CONNECT", host="10.0.0.1:80", end=False)
    h.until(lambda: h.answers[first].status, 20)
    most = h.h.remote_settings.max_concurrent_streams
    h.s.close()
    p.stop()
    return most, h.answers[first].status


def hbone():
    tap.same(streams({"max_streams": 2}), (2, 200), "weft.waypoint.Hbone max_streams: the client is told so many")
    tap.same(streams({}), (100, 200), "... 100 by default")


def main():
    only = sys.argv[1:]
    for part in (sockets, accepted_per_event, filter_disabled, listener_filters, network_filters, overload, of_bootstrap, statistics, hbone):
        if only and part.__name__ not in only:
            continue
        try:
            part()
        except Exception as e:  # noqa: BLE001
            import traceback
            tap.ok(False, "%s runs to its end" % part.__name__, traceback.format_exc(), e)
    return tap.done()


sys.exit(1 if main() else 0)
