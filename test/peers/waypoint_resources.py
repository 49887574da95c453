#!/usr/bin/python3
"""Resources that come by ADS or from watched files: clusters that routes name, deprecated fields, and files that are validated. The same server and
files for weft-waypoint and a real Envoy. ENVOY: its binary."""
import json
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from waypoint_kit import (  # noqa: E402
    BIN, HTTP_OPTIONS, Proxy, T, Tap, ask, chain, cluster, free_ports, hcm, listener, say, to, wait_for, WORK)

ADS = {"ads": {}, "resource_api_version": "V3"}
KINDS = ("envoy", "weft")
tap = Tap()


def typed(name, m):
    return {"@type": T + name, **m}


class Server:
    """Our ADS server for one proxy; what that refuses"""

    def __init__(self, kind):
        self.path, self.sock = os.path.join(WORK, kind + ".state"), os.path.join(WORK, kind + ".sock")
        self.nacks = []
        self.p = subprocess.Popen([os.path.join(BIN, "test/lib/ads_serve"), self.sock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_for(lambda: os.path.exists(self.sock), 10)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.p.stdout:
            words = line.decode().rstrip("\n").split(" ", 3)
            if words[0] == "nack":
                self.nacks.append(words[1:])

    def add(self, *resources):
        with open(self.path, "w", encoding="utf-8") as f:
            json.dump({"resources": list(resources)}, f)
        self.nacks.clear()
        self.p.stdin.write(("add %s\n" % self.path).encode())
        self.p.stdin.flush()

    def told(self, text):
        return wait_for(lambda: any(text in n[-1] for n in self.nacks), 10)

    def end(self):
        self.p.stdin.close()
        self.p.wait(10)


def boot(kind, server):
    ads = cluster("ads", 1)
    ads["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": server.sock}}}}]}]
    ads["typed_extension_protocol_options"] = {HTTP_OPTIONS: {"@type": T + ".extensions.upstreams.http.v3.HttpProtocolOptions",
                                                              "explicit_http_config": {"http2_protocol_options": {}}}}
    return {"node": {"id": kind, "cluster": "c"}, "static_resources": {"clusters": [ads]},
            "dynamic_resources": {"cds_config": ADS, "lds_config": ADS, "ads_config": {
                "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]}}}


def lds(name, port, routes, **rc):
    return typed(".config.listener.v3.Listener", listener(name, port, chain(hcm(routes, stat_prefix=name, route_config=rc))))


def served(port, path="/"):
    try:
        return ask(port, path=path, timeout=2).status
    except OSError:
        return None


INLINE = (
    ("known", [to("there", "/c"), say("/", 200)], {}, None), ("unknown", [to("nowhere", "/c"), say("/", 200)], {}, "nowhere"),
    ("shadow", [to("there", "/c", request_mirror_policies=[{"cluster": "nobody"}])], {}, "nobody"),
    ("weighted", [{"match": {"prefix": "/c"}, "route": {"weighted_clusters": {"clusters": [
        {"name": "there", "weight": 1}, {"name": "there2", "weight": 1}]}}}, say("/", 200)], {}, "there2"),
    ("unchecked", [to("nowhere", "/c"), say("/", 200)], {"validate_clusters": False}, None))


def by_ads(kind):
    server = Server(kind)
    server.add(typed(".config.cluster.v3.Cluster", cluster("there", 1)))
    proxy = Proxy(boot(kind, server), kind)
    for (name, routes, rc, bad), port in zip(INLINE, free_ports(len(INLINE))):
        server.add(lds(name, port, routes, **rc))
        if bad:
            tap.ok(server.told(bad), "%s: %s refuses a listener whose route names no cluster" % (kind, name), server.nacks)
            tap.same(served(port), None, "%s: %s is not opened" % (kind, name))
        else:
            tap.ok(wait_for(lambda p=port: served(p) == 200, 10), "%s: %s is taken" % (kind, name), server.nacks, proxy.log()[-2000:])
            tap.same(served(port, "/c"), 503, "%s: %s routes" % (kind, name))
        if name == "weighted" and kind == "weft":
            tap.ok(server.told('there is no cluster "there2"; did you mean "there"?'), "the name that was meant is told", server.nacks)
    tables(kind, server, proxy, free_ports(1)[0])
    server.end()


def tables(kind, server, proxy, port):
    """RDS: clusters are looked for only where validate_clusters says so; deprecated fields are told, once a version"""
    h = hcm([], rds={"route_config_name": "table", "config_source": ADS})
    del h["typed_config"]["route_config"]

    def table(*routes, **more):
        return typed(".config.route.v3.RouteConfiguration", {"name": "table", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": list(routes)}],
                                                             **more})
    old = {"match": {"prefix": "/old", "headers": [{"name": "x", "exact_match": "y"}]}, "direct_response": {"status": 204}}
    line = "virtual_hosts[0].routes[1].match.headers[0].exact_match"
    server.add(typed(".config.listener.v3.Listener", listener("rds", port, chain(h))), table(to("nowhere", "/c"), old, say("/", 200)))
    tap.ok(wait_for(lambda: served(port) == 200, 10), "%s: a table by RDS may name clusters to come" % kind)
    if kind == "weft":
        tap.ok(wait_for(lambda: line in proxy.log(), 5) and "string_match.exact" in proxy.log(),
               "a deprecated field by ADS is told with its successor", proxy.log())
    server.add(table(to("nowhere", "/c"), old, say("/", 201), validate_clusters=True))
    tap.ok(server.told("nowhere"), "%s: not so with validate_clusters" % kind, server.nacks)
    tap.same(served(port), 200, "%s: and what was there stays" % kind)
    server.add(table(to("there", "/c"), old, say("/", 202), validate_clusters=True))
    tap.ok(wait_for(lambda: served(port) == 202, 10), "%s: a known cluster passes" % kind, server.nacks)
    server.add(typed(".config.cluster.v3.Cluster", cluster("other", 1)))
    tap.ok(wait_for(lambda: proxy.stat("cluster_manager.active_clusters") == 3, 10), "%s: another cluster comes" % kind)
    if kind == "weft":
        tap.same(proxy.log().count(line), 3, "it is told once for each version of the table that came")


CHECKED = {
    "good": ({"resources": [typed(".config.cluster.v3.Cluster", cluster("a", 80)), typed(".config.route.v3.RouteConfiguration", {
        "name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [to("a")]}]})]}, 0, []),
    "bad value": ({"version_info": "1", "resources": [typed(".config.cluster.v3.Cluster", cluster("a", 80, lb_policy="NO"))]}, 1,
                  ["resources[0].lb_policy: must be one of"]),
    "field not known": ({"resources": [typed(".config.route.v3.RouteConfiguration", {"name": "r", "virtual_host": []})]}, 1,
                        ["resources[0].virtual_host: unknown field; did you mean \"virtual_hosts\"?"]),
    "builders look too": ({"resources": [typed(".config.route.v3.RouteConfiguration", {"name": "r", "virtual_hosts": [
        {"name": "v", "domains": ["*", "*"], "routes": [say("/", 200)]}]})]}, 1, ["resources[0].virtual_hosts[0].domains[1]"]),
    "listener": ({"resources": [typed(".config.listener.v3.Listener", listener("l", 1, chain(hcm([say("/", 200), say("/", 200)]))))]}, 0,
                 ["warning: ", "is never reached"]),
    "endpoints": ({"resources": [typed(".config.endpoint.v3.ClusterLoadAssignment", {"cluster_name": "a", "endpoints": [{"priority": 200}]})]}, 1,
                  ["resources[0].endpoints[0].priority"]),
    "no resource": ({"resources": [typed(".config.core.v3.Address", {"pipe": {"path": "/x"}})]}, 1, ["Address is not supported"]),
    "wrapped": ({"resources": [{"@type": T + ".service.discovery.v3.Resource", "name": "a", "version": "1", "resource": typed(
        ".config.cluster.v3.Cluster", cluster("a", 80))}]}, 0, []),
    "bad and wrapped": ({"resources": [{"@type": T + ".service.discovery.v3.Resource", "name": "a", "resource": typed(
        ".config.cluster.v3.Cluster", cluster("a", 80, lb_policy="NO"))}]}, 1, ["resources[0].resource.lb_policy: must be one of"]),
    "one resource": (typed(".config.cluster.v3.Cluster", cluster("a", 80, lb_policy="NO")), 1, ["lb_policy: must be one of"]),
    "deprecated": ({"resources": [typed(".config.route.v3.RouteConfiguration", {"name": "r", "virtual_hosts": [
        {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/", "headers": [{"name": "x", "exact_match": "y"}]},
                                                    "direct_response": {"status": 200}}]}]})]}, 0, ["warning: ", "is deprecated; use string_match.exact"]),
}


def by_validation():
    for name, (what, rc, texts) in CHECKED.items():
        path = os.path.join(WORK, "checked.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(what, f, indent=1)
        for program in (["weft-waypoint", "--mode", "validate", "-c"], ["weftctl", "validate"]):
            p = subprocess.run([os.path.join(BIN, program[0]), *program[1:], path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60)
            out = p.stdout.decode()
            tap.ok(p.returncode == rc and all(t in out for t in texts) and (rc == 0 or "checked.json:" in out),
                   "%s, by %s" % (name, program[0]), p.returncode, out)


def by_pipe():
    """A bootstrap that can be read once: <(…)"""
    text = json.dumps({"static_resources": {"clusters": [cluster("a", 80)]}})
    p = subprocess.run([os.path.join(BIN, "weft-waypoint"), "--mode", "validate", "-c", "/dev/stdin"], input=text.encode(), check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    tap.ok(p.returncode == 0 and b"configuration '/dev/stdin' OK" in p.stdout, "a bootstrap by a pipe is validated", p.stdout)


def by_files(kind):
    """A file whose resources are wrapped"""
    path = os.path.join(WORK, kind + "-cds.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(CHECKED["wrapped"][0], f)
    proxy = Proxy({"dynamic_resources": {"cds_config": {"path_config_source": {"path": path}, "resource_api_version": "V3"}}}, kind, kind + "-files")
    tap.ok(wait_for(lambda: "a::observability_name" in proxy.admin("/clusters")[1], 10), "%s: a wrapped resource of a file is taken" % kind,
           proxy.log()[-1500:])
    tap.same(proxy.stop(), 0, "%s of files ends when told" % kind)


def main():
    by_validation()
    by_pipe()
    for kind in KINDS:
        by_files(kind)
    for kind in KINDS:
        by_ads(kind)
    return tap.done()


sys.exit(1 if main() else 0)
