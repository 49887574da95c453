#!/usr/bin/python3
"""Full load while everything changes: listeners (path file), routes (path file and ADS), clusters and endpoints (ADS, endpoints by path
too), certificates (path file) every 100 ms, and a control plane that is killed now and then. No request may fail, memory may not grow
after the first part, open files come back. SOAK=SECONDS, 60."""
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import H2Client  # noqa: E402
from waypoint_kit import (  # noqa: E402
    BIN, Ca, Proxy, Tap, address, ask, cluster, free_ports, hcm, chain, listener, pem, SLOW, to, wait_for, WORK, T, H2_UP)

SOAK = int(os.environ.get("SOAK") or 60)
GROWTH_KB = 3000  # what RSS may rise by after the first third of a short run, or the first minute of a long one
IN_FLIGHT = 66  # requests at once, by all clients
tap = Tap()
NGINX1, NGINX2, PLAIN, TLS, STEADY = free_ports(5)
ADS = {"ads": {}, "resource_api_version": "V3"}
SOCK = os.path.join(WORK, "xds.sock")


def path_source(name):
    return {"path_config_source": {"path": os.path.join(WORK, name)}, "resource_api_version": "V3"}


def put(name, resources):
    """A file of a path config source, put in place at once"""
    with open(os.path.join(WORK, "new." + name), "w", encoding="utf-8") as f:
        json.dump({"version_info": str(time.monotonic_ns()), "resources": resources}, f)
    os.rename(os.path.join(WORK, "new." + name), os.path.join(WORK, name))


def typed(kind, resource):
    return {"@type": T + kind, **resource}


def nginx():
    conf = os.path.join(WORK, "nginx.conf")
    temp = "".join("%s_temp_path %s/t-%s;" % (x, WORK, x) for x in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    servers = "".join("server { listen 127.0.0.1:%d; location / { return 200 '%d\\n'; } }\n" % (p, p) for p in (NGINX1, NGINX2))
    with open(conf, "w", encoding="utf-8") as f:
        f.write("daemon off; worker_processes 1; pid %s/nginx.pid; error_log %s/nginx.err; events {worker_connections 2000;}\n"
                "http { access_log off; keepalive_requests 100000000; keepalive_timeout 1h; %s %s }\n" % (WORK, WORK, temp, servers))
    p = subprocess.Popen(["nginx", "-e", WORK + "/nginx.err", "-c", conf], stdin=subprocess.DEVNULL)

    def up():
        try:
            return ask(NGINX1).status == 200
        except OSError:
            return False
    if not wait_for(up, 10):
        raise SystemExit("Bail out! no nginx")
    return p


class Ads:
    """Our xDS server; what it serves is changed, and it is killed and begun again"""

    def __init__(self):
        self.resources, self.p = [], None

    def state(self):
        with open(os.path.join(WORK, "state.json"), "w", encoding="utf-8") as f:
            json.dump({"resources": self.resources}, f)

    def start(self):
        self.state()
        self.p = subprocess.Popen([os.path.join(BIN, "test/lib/ads_serve"), SOCK, os.path.join(WORK, "state.json")], stdin=subprocess.PIPE,
                                  stdout=subprocess.DEVNULL, stderr=open(os.path.join(WORK, "ads.log"), "a", encoding="utf-8"))  # noqa: SIM115
        wait_for(lambda: os.path.exists(SOCK), 5)

    def tell(self):
        self.state()
        self.p.stdin.write(("load %s/state.json\n" % WORK).encode())
        self.p.stdin.flush()

    def kill(self):
        self.p.kill()
        self.p.wait()
        if os.path.exists(SOCK):
            os.unlink(SOCK)


def listeners(n):
    out = []
    for name, port, tls, rds in (("plain", PLAIN, None, {"route_config_name": "bypath", "config_source": path_source("rds.json")}),
                                 ("tls", TLS, True, {"route_config_name": "byads", "config_source": ADS}),
                                 ("steady", STEADY, None, {"route_config_name": "byads", "config_source": ADS})):
        h = hcm([], stat_prefix=name if name == "steady" else "%s%d" % (name, n % 2), rds=rds)
        del h["typed_config"]["route_config"]
        if tls:
            tls = {"common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificate_sds_secret_configs": [
                {"name": "server", "sds_config": path_source("sds.json")}]}}
        out.append(typed(".config.listener.v3.Listener", listener(name, port, chain(h, tls))))
    return out


def routes(name, n):
    return typed(".config.route.v3.RouteConfiguration", {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        to("a" if n % 2 else "b", "/", route_={"response_headers_to_add": [{"header": {"key": "x-n", "value": str(n)}}]})]}]})


def eds(name, n):
    ports = [[NGINX1], [NGINX2], [NGINX1, NGINX2]][n % 3]
    return typed(".config.endpoint.v3.ClusterLoadAssignment", {"cluster_name": name, "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": address(p)}, "load_balancing_weight": n % 7 + 1} for p in ports]}]})


def clusters(n):
    """a has its endpoints by ADS, b by a file; a third comes and goes"""
    out = []
    for name, source in (("a", ADS), ("b", path_source("eds.json"))):
        c = cluster(name, type="EDS", connect_timeout="%ds" % (2 + n % 2), eds_cluster_config={"eds_config": source},
                    circuit_breakers={"thresholds": [{"max_connections": 10000, "max_pending_requests": 100000, "max_requests": 100000}]})
        del c["load_assignment"]
        out.append(typed(".config.cluster.v3.Cluster", c))
    if n % 2:
        out.append(typed(".config.cluster.v3.Cluster", cluster("c", NGINX1)))
    return out


def ads_state(n):
    return clusters(n // 4) + [eds("a", n), routes("byads", n)]


class Changer(threading.Thread):
    def __init__(self, ads, certs):
        super().__init__(daemon=True)
        self.ads, self.certs, self.stop, self.n, self.kills, self.error = ads, certs, False, 0, 0, None

    def run(self):
        try:
            while not self.stop:
                self.n += 1
                self.change(self.n)
                time.sleep(0.1)
        except Exception as e:  # noqa: BLE001
            self.error = repr(e)

    def change(self, n):
        if n % 10 == 0:
            put("lds.json", listeners(n // 10))
        put("rds.json", [routes("bypath", n)])
        put("eds.json", [eds("b", n)])
        cert, key = self.certs[n % len(self.certs)]
        put("sds.json", [typed(".extensions.transport_sockets.tls.v3.Secret", {"name": "server", "tls_certificate": pem(cert, key)})])
        self.ads.resources = ads_state(n)
        if n % 70 == 35:
            self.ads.kill()
            self.kills += 1
        elif n % 70 == 45:
            self.ads.start()
        elif not 35 < n % 70 < 45:
            self.ads.tell()


class Careful(threading.Thread):
    """A client over HTTP/2 that minds GOAWAY, on the listener that is replaced: every request must be answered"""

    def __init__(self, port, tls):
        super().__init__(daemon=True)
        self.port, self.tls, self.stop, self.good, self.bad, self.conns = port, tls, False, 0, [], 0

    def run(self):
        c = None
        while not self.stop:
            try:
                if not c or c.goaway is not None or c.closed:
                    if c:
                        c.close()
                    c = H2Client(self.port, tls=self.tls, sni="a.example" if self.tls else None)
                    self.conns += 1
                a = c.ask("/")
                if a.status == 200 and a.whole:
                    self.good += 1
                elif a.reset == 7 or (c.goaway is not None and not a.status):
                    c.closed = True  # never processed, and said so
                else:
                    self.bad.append((a.status, a.whole, a.reset, c.goaway, c.closed))
                    c.closed = True
            except OSError as e:
                self.bad.append(repr(e))
                c = None
            if len(self.bad) > 20:
                return


def tools(seconds):
    return {"wrk": ["wrk", "-t1", "-c16", "-d%ds" % seconds, "http://127.0.0.1:%d/" % PLAIN],
            "wrk tls": ["wrk", "-t1", "-c8", "-d%ds" % seconds, "https://127.0.0.1:%d/" % TLS],
            "h2load": ["h2load", "-c4", "-m10", "-D%d" % seconds, "--warm-up-time=0", "http://127.0.0.1:%d/" % STEADY]}


def pooled(proxy):
    return sum(proxy.stats("^cluster.[abc].upstream_cx_active$").values())


def failures(name, out):
    """(requests, what went wrong) by the tool's own words"""
    if name == "h2load":
        m = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", out)
        if not m:
            return 0, "no summary"
        bad = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
        wrong = sum(map(int, m.groups()[3:])) + sum(map(int, bad.groups()[1:]))
        return int(m.group(3)), "%d failed" % wrong if wrong else ""
    m = re.search(r"(\d+) requests in", out)
    wrong = " ".join(re.findall(r"Socket errors:.*|Non-2xx.*", out))
    return int(m.group(1)) if m else 0, wrong


def main():
    web = nginx()
    ca = Ca("ca")
    certs = [ca.issue("server%d" % i, "DNS:a.example,IP:127.0.0.1") for i in range(4)]
    ads = Ads()
    ads.resources = ads_state(0)
    put("rds.json", [routes("bypath", 0)])
    put("eds.json", [eds("b", 0)])
    put("sds.json", [typed(".extensions.transport_sockets.tls.v3.Secret", {"name": "server", "tls_certificate": pem(*certs[0])})])
    put("lds.json", listeners(0))
    ads.start()
    xds = cluster("xds", http=H2_UP)
    xds["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": SOCK}}}}]}]
    config = {"dynamic_resources": {"lds_config": path_source("lds.json"), "cds_config": ADS, "ads_config": {
        "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
        "static_resources": {"clusters": [xds]}}
    proxy = Proxy(config, args=["--drain-time-s", "3", "--drain-strategy", "immediate"])
    tap.ok(wait_for(lambda: ask(PLAIN).status == 200 and ask(STEADY).status == 200, 5), "listeners, routes, clusters by files and ADS")
    ctx = ssl.create_default_context(cafile=ca.cert)
    ctx.set_alpn_protocols(["h2"])
    quiet = proxy.fds()
    changer = Changer(ads, certs)
    careful = [Careful(PLAIN, None), Careful(TLS, ctx)]
    running = {k: subprocess.Popen(v, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for k, v in tools(SOAK).items()}
    for t in [changer, *careful]:
        t.start()
    rss, began = [], time.monotonic()
    serials = set()
    while time.monotonic() - began < SOAK:
        time.sleep(0.5)
        if proxy.p.poll() is not None:
            break
        rss.append((time.monotonic() - began, proxy.rss(), proxy.fds()))
        if len(rss) % 8 == 0:
            try:
                serials.add(ssl.get_server_certificate(("127.0.0.1", TLS)))
            except OSError as e:
                tap.ok(False, "a handshake amid the rotation", e)
    outs = {k: p.communicate(timeout=60)[0].decode("utf-8", "replace") for k, p in running.items()}
    for t in [*careful, changer]:
        t.stop = True
    for t in [*careful, changer]:
        t.join(20)
    alive = proxy.p.poll() is None
    tap.ok(alive, "weft-waypoint lives", proxy.log()[-3000:])
    if not alive:
        return finish(proxy, ads, web)
    for name, out in outs.items():
        n, wrong = failures(name, out)
        tap.ok(n > 10 * SOAK / SLOW and not wrong, "%s: %d requests, not one failed" % (name, n), wrong, out[-1500:])
    for c, name in zip(careful, ("plain", "TLS")):
        tap.ok(c.good > SOAK / SLOW and not c.bad, "HTTP/2 over %s on a listener that is replaced: %d requests, %d connections, none failed"
               % (name, c.good, c.conns), c.bad[:10])
    tap.ok(changer.error is None and changer.n > SOAK, "%d changes of everything, the control plane was killed %d times" % (changer.n, changer.kills),
           changer.error)
    tap.ok(len(serials) > 1, "%d certificates were seen" % len(serials))
    first = min(60, SOAK / 3)
    early, early_fds = (max(r[i] for r in rss if r[0] <= first) for i in (1, 2))
    late, late_fds = (max(r[i] for r in rss if r[0] > first) for i in (1, 2))
    tap.ok(late - early < GROWTH_KB * SLOW * SLOW, "RSS: %d kB in the first %d s, %d kB after; at most %d more are let pass"
           % (early, first, late, GROWTH_KB), rss[::10])
    # pools keep what the load opened, in either cluster; what clusters that were replaced had is gone
    tap.ok(late_fds <= early_fds + IN_FLIGHT and wait_for(lambda: proxy.fds() <= quiet + pooled(proxy) + 20, 15)
           and pooled(proxy) <= 2 * IN_FLIGHT + 20, "open files: %d idle, %d at most in the first part, %d after, %d at last with %d in pools"
           % (quiet, early_fds, late_fds, proxy.fds(), pooled(proxy)), [(int(r[0]), r[2]) for r in rss[::10]])
    stats = proxy.stats()
    replaced = stats.get("listener_manager.listener_modified", 0)
    tap.ok(replaced > SOAK / SLOW, "listeners were replaced %d times" % replaced, {k: v for k, v in stats.items() if k.startswith("listener_man")})
    if changer.kills and changer.n % 70 >= 35:
        ads.kill()
        ads.start()
    ads.resources = clusters(1) + [eds("a", 1), routes("byads", 999999)]
    ads.tell()
    tap.ok(wait_for(lambda: ask(STEADY).get("x-n") == "999999", 30), "what the control plane says at last holds", ask(STEADY).headers)
    return finish(proxy, ads, web)


def finish(proxy, ads, web):
    tap.same(proxy.stop(), 0, "weft-waypoint ends well")
    if ads.p.poll() is None:
        ads.kill()
    web.terminate()
    web.wait()
    return tap.done()


sys.exit(1 if main() else 0)
