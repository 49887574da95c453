#!/usr/bin/env python3
"""Load balancing of weft-waypoint beside a real Envoy (ENVOY): the same clusters in both, the same requests to both; a key must reach the same
host in both, shares must be alike, and statistics the same. ONLY=regex: some parts."""
import collections
import json
import os
import re
import select
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    SLOW, T, WORK, Proxy, Tap, address, ask, bootstrap, chain, dial, free_ports, hcm, listener, to, wait_for)

tap = Tap()
KINDS = ("weft", "envoy")
PORT = dict(zip(KINDS, free_ports(2)))
LB = T + ".extensions.load_balancing_policies."
B = [Upstream("b%d" % i) for i in range(7)]
CLUSTERS, ROUTES, PARTS = [], [], []
BY_USER = {"hash_policy": [{"header": {"header_name": "x-user"}}]}


def part(fn):
    PARTS.append(fn)
    return fn


def host(up, name=None, **more):
    e = {"address": address(up.port)}
    if name:
        e["hostname"] = name
    return {"endpoint": e, **more}


def at(zone, *hosts, **more):
    return {"locality": {"zone": zone}, "lb_endpoints": list(hosts), **more}


def add(name, *groups, route=None, **more):
    """A cluster of groups of hosts (or of upstreams alone) and its route /NAME/"""
    if groups and isinstance(groups[0], Upstream):
        groups = [{"lb_endpoints": [host(b) for b in groups]}]
    c = {"name": name, "connect_timeout": "2s", **more}
    if groups:
        c["load_assignment"] = {"cluster_name": name, "endpoints": list(groups)}
    CLUSTERS.append(c)
    ROUTES.append(to(name, "/%s/" % name, timeout="60s", **(route or {})))


def typed(kind, message, **conf):
    return {"load_balancing_policy": {"policies": [{"typed_extension_config": {
        "name": kind, "typed_config": {"@type": LB + "%s.v3.%s" % (kind, message), **conf}}}]}}


class Eds:
    """Endpoints in a file that both programs watch"""

    def __init__(self, name, *groups, route=None, **more):
        self.name, self.path, self.n = name, os.path.join(WORK, name + ".eds.json"), 0
        self.put(*groups)
        add(name, route=route, type="EDS", eds_cluster_config={"eds_config": {"path_config_source": {"path": self.path}}}, **more)

    def put(self, *groups):
        self.n += 1
        res = {"@type": T + ".config.endpoint.v3.ClusterLoadAssignment", "cluster_name": self.name, "endpoints": list(groups)}
        with open(self.path + ".new", "w", encoding="utf-8") as f:
            json.dump({"version_info": str(self.n), "resources": [res]}, f)
        os.rename(self.path + ".new", self.path)


def both(fn, *args):
    """{kind: fn(proxy, ...)}, one after the other"""
    return {k: fn(P[k], *args) for k in KINDS}


def stat(p, name, item):
    return p.stats("^cluster[.]%s[.]%s$" % (name, item)).get("cluster.%s.%s" % (name, item), 0)


def spread(p, name, n, headers=()):
    """Who answers n requests on one connection; what is not 200 by its status"""
    s, got = dial(PORT[p.kind]), collections.Counter()
    for i in range(n):
        r = ask(0, "/%s/" % name, sock=s, headers=headers(i) if callable(headers) else headers)
        got[r.get("x-from") if r.status == 200 else r.status] += 1
        if not r.whole:
            s.close()
            s = dial(PORT[p.kind])
    s.close()
    return got


def owners(p, name, n=120):
    """Whose is each of n keys"""
    s = dial(PORT[p.kind])
    got = [ask(0, "/%s/" % name, sock=s, headers=[("x-user", "user-%d" % i)]).get("x-from") for i in range(n)]
    s.close()
    return got


def share(got, name):
    return got[name] / max(1, sum(got.values()))


def alike(got, want, by, text):
    """Of both programs: each host's share is the one wanted, and each has what the other has"""
    return tap.ok(all(set(got[k]) <= set(want) and all(abs(share(got[k], h) - w) <= by for h, w in want.items()) for k in KINDS), text,
                  got, want)


# ---- consistent hashing: the same key, the same host
five = [host(b) for b in B[:5]]
heavy = [host(b, load_balancing_weight=w) for b, w in zip(B, (1, 7, 2, 3, 1))]
named = [host(b, name="host-%s" % n) for b, n in zip(B, "zyxwv")]
keyed = [host(b, metadata={"filter_metadata": {"envoy.lb": {"hash_key": "key-%d" % (9 - i)}}}) for i, b in enumerate(B[:5])]
weighed = [at("a", *five[:2], load_balancing_weight=1), at("b", *five[2:4], load_balancing_weight=5), at("c", five[4], load_balancing_weight=2)]
OLD_RING, OLD_MAGLEV = {"lb_policy": "RING_HASH"}, {"lb_policy": "MAGLEV"}
NAMES = {"consistent_hashing_lb_config": {"use_hostname_for_hashing": True}}
HASHED = {
    "ring": (five, OLD_RING),
    "ring_murmur": (five, {**OLD_RING, "ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2"}}),
    "ring_most": (five, {**OLD_RING, "ring_hash_lb_config": {"minimum_ring_size": 16, "maximum_ring_size": 16}}),
    "ring_least": (five, {**OLD_RING, "ring_hash_lb_config": {"minimum_ring_size": 5003}}),
    "ring_heavy": (heavy, {**OLD_RING, "ring_hash_lb_config": {"minimum_ring_size": 300, "maximum_ring_size": 310}}),
    "ring_named": (named, {**OLD_RING, "type": "STRICT_DNS", "common_lb_config": NAMES}),
    "ring_keyed": (keyed, OLD_RING),
    "ring_zones": (weighed, {**OLD_RING, "common_lb_config": {"locality_weighted_lb_config": {}}}),
    "ring_typed": (five, typed("ring_hash", "RingHash", hash_function="MURMUR_HASH_2", minimum_ring_size=77, maximum_ring_size=100)),
    "ring_typed_named": (named, typed("ring_hash", "RingHash", **NAMES)),
    "ring_typed_own": (named, typed("ring_hash", "RingHash", hash_function="XX_HASH", use_hostname_for_hashing=True)),
    "maglev": (five, OLD_MAGLEV),
    "maglev_small": (five, {**OLD_MAGLEV, "maglev_lb_config": {"table_size": 211}}),
    "maglev_heavy": (heavy, OLD_MAGLEV),
    "maglev_named": (named, {**OLD_MAGLEV, "type": "STRICT_DNS", "common_lb_config": NAMES}),
    "maglev_keyed": (keyed, OLD_MAGLEV),
    "maglev_zones": (weighed, {**OLD_MAGLEV, "common_lb_config": {"locality_weighted_lb_config": {}}}),
    "maglev_typed": (named, typed("maglev", "Maglev", table_size=65537, **NAMES)),
}
for n_, (hosts_, more_) in HASHED.items():
    add(n_, *(hosts_ if "locality" in hosts_[0] else [{"lb_endpoints": hosts_}]), route=BY_USER, **more_)
DIFFERS = {"ring_murmur": "ring", "ring_most": "ring", "ring_least": "ring", "ring_heavy": "ring", "ring_named": "ring", "ring_keyed": "ring",
           "ring_zones": "ring", "ring_typed": "ring_murmur", "maglev_small": "maglev", "maglev_heavy": "maglev", "maglev_named": "maglev",
           "maglev_keyed": "maglev", "maglev_zones": "maglev"}
SAME = {"ring_typed_named": "ring_named", "ring_typed_own": "ring_named", "maglev_typed": "maglev_named"}


@part
def hashes():
    seen = {}
    for n in HASHED:
        got = both(owners, n)
        seen[n] = got["weft"]
        lb = "ring_hash_lb" if n.startswith("ring") else "maglev_lb"
        st = both(lambda p: {k.split(lb + ".")[1]: v for k, v in p.stats("^cluster[.]%s[.]%s[.]" % (n, lb)).items() if v})
        diff = [(i, a, b) for i, (a, b) in enumerate(zip(got["weft"], got["envoy"])) if a != b]
        tap.ok(not diff and None not in got["weft"] and len(set(got["weft"])) == 5, "%s: every key has the host that it has in Envoy" % n,
               len(diff), diff[:5])
        tap.ok(st["weft"] == st["envoy"] and len(st["weft"]) >= 2, "... by a table of the same size", st)
    for n, other in DIFFERS.items():
        tap.ok(seen[n] != seen[other], "%s is not %s" % (n, other))
    for n, other in SAME.items():
        tap.ok(seen[n] == seen[other], "%s is %s" % (n, other))


# ---- bounded loads: where a host is full, the next one is the same in both
def crowd(n):
    return {"bound_" + n: {**OLD_RING, "common_lb_config": {"consistent_hashing_lb_config": {"hash_balance_factor": 125}}},
            "bound2_" + n: typed("ring_hash", "RingHash", consistent_hashing_lb_config={"hash_balance_factor": 300}),
            "bound3_" + n: typed("ring_hash", "RingHash", hash_balance_factor=200),
            "bound4_" + n: {**OLD_MAGLEV, "common_lb_config": {"consistent_hashing_lb_config": {"hash_balance_factor": 150}}},
            "unbound_" + n: OLD_RING}


for n_, more_ in crowd("c").items():
    add(n_, {"lb_endpoints": five}, route=BY_USER, **more_)


@part
def bounded_loads():
    def hold(p, name, n):
        """Hosts of n requests of one key that are open at once, in order"""
        key, open_ = "%s-%s-%d" % (p.kind, name, time.monotonic_ns()), []
        for i in range(n):
            s = dial(PORT[p.kind])
            open_.append(s)
            s.sendall(("GET /%s/ HTTP/1.1\r\nhost: x\r\nx-user: alice\r\nx-key: %s\r\nx-do: delay=%d\r\n\r\n"
                       % (name, key, 6000 * SLOW)).encode())
            wait_for(lambda: sum(len(b.find(key)) for b in B) > i, 10)
        got = {b.name: len(b.find(key)) for b in B if b.find(key)}
        [s.close() for s in open_]
        wait_for(lambda: stat(p, name, "upstream_rq_active") == 0, 10)
        return got
    most = {"bound_c": 4, "bound2_c": 9, "bound3_c": 6, "bound4_c": 5, "unbound_c": 12}
    for name in crowd("c"):
        got = both(hold, name, 12)
        tap.ok(got["weft"] == got["envoy"] and sum(got["weft"].values()) == 12 and max(got["weft"].values()) <= most[name]
               and (len(got["weft"]) > 1) == (name != "unbound_c"), "%s: twelve requests of one key, spread as in Envoy" % name, got)


# ---- least request
slow = Upstream("slow")
slow.habit = "delay=30000"
fast = [Upstream("f%d" % i) for i in range(3)]


def lr(**conf):
    return {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": conf}


def lrt(**conf):
    return typed("least_request", "LeastRequest", **conf)


BIAS4 = {"active_request_bias": {"default_value": 4.0, "runtime_key": "none"}}
LEAST = {  # name: (what it is, hosts that answer at once, of 60 requests the busy one gets so many)
    "choices2": (lr(choice_count=2), 1, 6, 26), "choices2t": (lrt(selection_method="N_CHOICES"), 1, 6, 26),
    "choices9": (lr(choice_count=9), 1, 0, 3), "choices9t": (lrt(choice_count=9), 1, 0, 3),
    "scan": (lrt(selection_method="FULL_SCAN"), 3, 0, 2), "no_scan": (lrt(), 3, 1, 12),
    "bias0": (lr(active_request_bias={"default_value": 0.0, "runtime_key": "none"}), 0, 26, 46), "bias1": (lr(), 0, 6, 20),
    "bias4": (lr(**BIAS4), 0, 1, 7), "bias4t": (lrt(**BIAS4), 0, 1, 7)}
add("scan_old", slow, *fast, **lrt(enable_full_scan=True))
for n_, (more_, k_, _, _) in LEAST.items():
    if k_:
        add(n_, slow, *fast[:k_], **more_)
    else:  # by weight
        add(n_, {"lb_endpoints": [host(slow, load_balancing_weight=3), host(fast[0], load_balancing_weight=2)]}, **more_)


@part
def least_requests():
    def load(p, name):
        """How many of 60 requests went to the host that does not answer"""
        open_ = []
        for _ in range(60):
            s = dial(PORT[p.kind])
            s.sendall(b"GET /%s/ HTTP/1.1\r\nhost: x\r\n\r\n" % name.encode())
            if select.select([s], [], [], 0.04 * SLOW)[0]:
                s.close()
            else:
                open_.append(s)
        late = select.select(open_, [], [], 0)[0] if open_ else []
        [s.close() for s in open_]
        return len(open_) - len(late)
    for n, (_, _, lo, hi) in LEAST.items():
        got = both(load, n)
        tap.ok(all(lo <= got[k] <= hi for k in KINDS), "%s: of 60 the busy host gets %d to %d in both" % (n, lo, hi), got)
    got = load(P["weft"], "scan_old")  # Envoy 1.36 takes this deprecated field and does nothing
    tap.ok(got <= 2, "enable_full_scan is FULL_SCAN", got)


# ---- zones
US = [at("a", host(B[0]), host(B[1])), at("b", host(B[2])), at("d", host(B[3]))]
THEM = [at("a", host(B[0])), at("b", host(B[1]), host(B[2])), at("d", host(B[3]))]
HEAVY = [at("a", host(B[0], load_balancing_weight=3)), *THEM[1:]]
ILL = [at("a", host(B[0])), at("b", *[host(b, health_status="UNHEALTHY") for b in B[1:4]])]
EVEN = {"b0": .25, "b1": .25, "b2": .25, "b3": .25}
HALF = {"b0": .5, "b1": .25, "b2": .25}


def zoned(**conf):
    return {"common_lb_config": {"zone_aware_lb_config": {"min_cluster_size": 1, **conf}}}


def zonet(policy="round_robin", message="RoundRobin", **conf):
    return typed(policy, message, locality_lb_config={"zone_aware_lb_config": {"min_cluster_size": 1, **conf}})


ZONES = {  # name: (hosts, what it is, shares, what is counted of 400)
    "zone": (THEM, zoned(), HALF, {}),
    "zone_small": (THEM, zoned(min_cluster_size=5), EVEN, {"lb_zone_routing_sampled": 0}),
    "zone_off": (THEM, zoned(routing_enabled={"value": 0}), EVEN, {"lb_zone_routing_sampled": 0}),
    "zone_half": (THEM, zoned(routing_enabled={"value": 50}), {"b0": .375, "b1": .25, "b2": .25, "b3": .125}, {}),
    "zone_off_t": (THEM, zonet(routing_enabled={"value": 0}), EVEN, {"lb_zone_routing_sampled": 0}),
    "zone_least": (THEM, zonet("least_request", "LeastRequest"), HALF, {}),
    "zone_random": (THEM, zonet("random", "Random"), HALF, {}),
    "zone_num": (HEAVY, zonet(locality_basis="HEALTHY_HOSTS_NUM"), HALF, {}),
    "zone_weight": (HEAVY, zonet(locality_basis="HEALTHY_HOSTS_WEIGHT"), {"b0": 1}, {"lb_zone_routing_all_directly": 400}),
    "zone_forced": (THEM, zonet(force_locality_direct_routing=True), {"b0": 1}, {"lb_zone_routing_all_directly": 400}),
    "zone_local": (THEM, zonet(force_local_zone={"min_size": 1}), {"b0": 1}, {"lb_zone_routing_all_directly": 400}),
    "zone_local2": (THEM, zonet(force_local_zone={"min_size": 2}), HALF, {"lb_zone_routing_all_directly": 0}),
    "panic": (ILL, zoned(), EVEN, {"lb_healthy_panic": 400}),
    "panic_fails": (ILL, zoned(fail_traffic_on_panic=True), {503: 1}, {"lb_healthy_panic": 400, "upstream_cx_none_healthy": 400}),
    "panic_fails_t": (ILL, zonet(fail_traffic_on_panic=True), {503: 1}, {"lb_healthy_panic": 400}),
}
add("self", *US)
for n_, (hosts_, more_, _, _) in ZONES.items():
    add(n_, *hosts_, **more_)


@part
def zones():
    for n, (_, _, want, counted) in ZONES.items():
        got = both(spread, n, 400)
        alike(got, want, .11, "%s: %s in both" % (n, " ".join("%s %g" % kv for kv in want.items())))
        st = {k: {c: stat(P[k], n, c) for c in counted} for k in KINDS}
        if counted:
            tap.ok(st["weft"] == st["envoy"] == counted, "... %s" % " ".join("%s %d" % kv for kv in counted.items()), st)


# ---- hosts that come
CHECK = {"timeout": "20s", "interval": "0.2s", "no_traffic_interval": "0.2s", "unhealthy_threshold": 1, "healthy_threshold": 1,
         "http_health_check": {"path": "/health"}}
mute = [Upstream("mute%d" % i) for i in range(4)]
for u_ in mute:
    u_.habit = "how=hang"
first = {"lb_endpoints": [host(b) for b in B[:2]]}
counts_new = Eds("counts_new", first, health_checks=[CHECK])
ignores_new = Eds("ignores_new", first, health_checks=[CHECK], common_lb_config={"ignore_new_hosts_until_first_hc": True})
closes = Eds("closes", first, common_lb_config={"close_connections_on_host_set_change": True})
keeps = Eds("keeps", first)


def member(n, name, item="membership_total"):
    """Whether both count so many"""
    return wait_for(lambda: all(stat(P[k], name, item) == n for k in KINDS), 15)


@part
def new_hosts():
    ask_ = lambda p, n: spread(p, n, 60, [("x-do", "status=200")])
    for e in (counts_new, ignores_new):
        tap.ok(member(2, e.name, "membership_healthy"), "%s: two hosts are well" % e.name)
        e.put(first, {"lb_endpoints": [host(u) for u in mute]})
        tap.ok(member(6, e.name), "... four come that do not answer their check")
        got, st = both(ask_, e.name), {k: [stat(P[k], e.name, i) for i in ("membership_excluded", "membership_healthy")] for k in KINDS}
        if e is ignores_new:
            alike(got, {"b0": .5, "b1": .5}, .05, "... and are ignored until they do: no panic")
            tap.same(st, {k: [4, 2] for k in KINDS}, "... excluded")
        else:
            alike(got, {u.name: 1 / 6 for u in B[:2] + mute}, .05, "... and count as sick: panic, all are asked")
            tap.same(st, {k: [0, 2] for k in KINDS}, "... not excluded")


@part
def host_set_changes():
    open_ = lambda e: {k: stat(P[k], e.name, "upstream_cx_active") for k in KINDS}
    for e in (keeps, closes):
        both(spread, e.name, 8)
        tap.same(open_(e), {k: 2 for k in KINDS}, "%s: a connection each" % e.name)
        e.put({"lb_endpoints": [host(b) for b in B[:3]]})
        member(3, e.name)
        if e is closes:
            tap.ok(wait_for(lambda: not any(open_(e).values()), 10), "... all closed as a host comes", open_(e))
        else:
            tap.same(open_(e), {k: 2 for k in KINDS}, "... open when a host comes")
        alike(both(spread, e.name, 30), {b.name: 1 / 3 for b in B[:3]}, .04, "... and all three serve")


# ---- slow start, last: by then the first hosts are past their window
WINDOW = 20
SLOWLY = {  # name: (what it is, share of the new host of the first seconds)
    "ramp": ({"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "%ds" % WINDOW}}}, (.05, .16)),
    "ramp_half": ({"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "%ds" % WINDOW, "min_weight_percent": {"value": 50}}}},
                  (.27, .40)),
    "ramp_fast": (lr(slow_start_config={"slow_start_window": "%ds" % WINDOW, "aggression": {"default_value": 8.0, "runtime_key": "none"}}),
                  (.27, .56)),
    "ramp_half_t": (lrt(slow_start_config={"slow_start_window": "%ds" % WINDOW, "min_weight_percent": {"value": 50}}), (.2, .47)),
    "ramp_fast_t": (typed("round_robin", "RoundRobin", slow_start_config={
        "slow_start_window": "%ds" % WINDOW, "aggression": {"default_value": 8.0, "runtime_key": "none"}}), (.27, .56)),
}
ramps = {n_: Eds(n_, {"lb_endpoints": [host(B[0])]}, **more_) for n_, (more_, _) in SLOWLY.items()}


@part
def slow_start():
    time.sleep(max(0, born + WINDOW + 1 - time.monotonic()))
    t = time.monotonic()
    for e in ramps.values():
        e.put({"lb_endpoints": [host(b) for b in B[:2]]})
    for n in ramps:
        member(2, n)
    for n, (_, (lo, hi)) in SLOWLY.items():
        got = both(spread, n, 100)
        took = time.monotonic() - t
        if took > WINDOW * .15:
            tap.skip("%s: the new host's share" % n, "the hosts are %.1f s old" % took)
        else:
            tap.ok(all(lo <= share(got[k], "b1") <= hi for k in KINDS), "%s: the new host gets %g to %g in both" % (n, lo, hi), got, took)
    time.sleep(max(0, t + WINDOW + 1 - time.monotonic()))
    for n in ramps:
        alike(both(spread, n, 100), {"b0": .5, "b1": .5}, .17, "%s: ... and half after the window" % n)


P, born = {}, 0


def main():
    global born
    only = re.compile(os.environ.get("ONLY", ""))
    for k in KINDS:
        P[k] = Proxy(bootstrap([listener("l", PORT[k], chain(hcm(ROUTES)))], CLUSTERS, node={"id": "n", "cluster": "c", "locality": {"zone": "a"}},
                               cluster_manager={"local_cluster_name": "self"}), k)
    born = time.monotonic()
    for fn in PARTS:
        if only.search(fn.__name__):
            print("# %s" % fn.__name__, flush=True)
            try:
                fn()
            except Exception:  # pylint: disable=broad-except
                tap.ok(False, "%s ends" % fn.__name__, traceback.format_exc(), P["weft"].log()[-1500:])
    return 1 if tap.done() else 0


if __name__ == "__main__":
    sys.exit(main())
