#!/usr/bin/python3
"""Options of the xDS client: one ADS server in Python, and files that move as Kubernetes moves them, for weft-waypoint and a real Envoy.
ENVOY: its binary."""
import json
import os
import socket
import struct
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from waypoint_kit import (Proxy, Tap, address, ask, bootstrap, chain, cluster, free_ports, hcm, listener, wait_for,  # noqa: E402
                          SLOW, T, WORK)

CDS = T + ".config.cluster.v3.Cluster"
tap = Tap()


# ---- as much of protobuf as is needed
def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data):
    """{number: last value} of a message with strings, messages and varints"""
    out, i = {}, 0

    def number():
        nonlocal i
        n = shift = 0
        while True:
            b = data[i]
            i += 1
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                return n
    while i < len(data):
        key = number()
        if key & 7 == 2:
            n = number()
            out[key >> 3] = data[i:i + n]
            i += n
        else:
            out[key >> 3] = number()
    return out


def response(version, size=0):
    """CDS with one cluster, whose name for statistics makes it long"""
    resource = field(1, CDS) + field(2, field(1, "by-ads") + field(28, "v" + version + "x" * size))
    return field(1, version) + field(2, resource) + field(4, CDS) + field(5, "n" + version)


class Ads:
    """Streams of state of the world; what is answered says `script`: called with each stream's number, gives a list of messages"""

    def __init__(self, script):
        self.script, self.requests, self.streams = script, [], 0
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(8)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                c = self.sock.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        h = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        h.initiate_connection()
        bufs = {}
        try:
            c.sendall(h.data_to_send())
            while True:
                data = c.recv(65536)
                if not data:
                    return
                for e in h.receive_data(data):
                    if isinstance(e, h2.events.RequestReceived):
                        bufs[e.stream_id] = b""
                        h.send_headers(e.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    elif isinstance(e, h2.events.DataReceived):
                        h.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
                        bufs[e.stream_id] += e.data
                        bufs[e.stream_id] = self.take(h, e.stream_id, bufs[e.stream_id])
                c.sendall(h.data_to_send())
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            c.close()

    def take(self, h, sid, buf):
        while len(buf) >= 5 and len(buf) >= 5 + struct.unpack(">I", buf[1:5])[0]:
            n = struct.unpack(">I", buf[1:5])[0]
            m, buf = fields(buf[5:5 + n]), buf[5 + n:]
            first = 5 not in m  # no nonce
            self.requests.append({"t": time.monotonic(), "node": 2 in m, "nonce": m.get(5, b"").decode(), "nack": 6 in m})
            if not first or m.get(4, b"").decode() != CDS:
                continue
            self.streams += 1
            for answer in self.script(self.streams):
                h.send_data(sid, b"\0" + struct.pack(">I", len(answer)) + answer)
        return buf


class Side:
    def __init__(self, kind, name, script, api=None, grpc=None):
        self.kind, self.ads = kind, Ads(script)
        servers = cluster("ads", self.ads.port, http={"explicit_http_config": {"http2_protocol_options": {}}})
        self.proxy = Proxy(bootstrap([], [servers], dynamic_resources={
            "ads_config": {"api_type": "GRPC", "transport_api_version": "V3", **(api or {}),
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "ads", **(grpc or {})}}]},
            "cds_config": {"ads": {}, "resource_api_version": "V3"}}), kind, name + "-" + kind, wait=False)

    def acks(self, within=None):
        r = self.ads.requests
        return len([q for q in r if q["nonce"] and not q["nack"] and (within is None or q["t"] < r[0]["t"] + within)])

    def success(self):
        return self.proxy.stat("cluster_manager.cds.update_success") or 0

    def up(self):
        return wait_for(self.proxy.ready, 30)


def both(name, fn, *args, **more):
    """fn for both kinds; [of Envoy, of weft]"""
    got = []
    for kind in ("envoy", "weft"):
        s = Side(kind, name, *args, **more)
        try:
            got.append(fn(s))
        finally:
            tap.same(s.proxy.stop(), 0, "%s, %s: ends when told" % (name, kind))
    return got


def node():
    script = lambda stream: [response(str(v)) for v in range(1, 5)]  # noqa: E731
    for first, want in ((True, [True, False, False, False, False]), (False, [True] * 5)):
        got = both("node-%s" % first, lambda s: wait_for(lambda: s.acks() >= 4) and [q["node"] for q in s.ads.requests], script,
                   api={"set_node_on_first_message_only": first})
        tap.same(got, [want, want], "set_node_on_first_message_only %s: the node is in these requests" % first)


def rate():
    script = lambda stream: [response(str(v)) for v in range(1, 13)]  # noqa: E731

    def see(s):
        done = wait_for(lambda: s.acks() == 12, 30)
        limited = s.proxy.stat("control_plane.rate_limit_enforced") or 0
        return bool(done), s.acks(1.5), s.ads.requests[-1]["t"] - s.ads.requests[0]["t"], limited
    slow = both("rate-slow", see, script, api={"rate_limit_settings": {"max_tokens": 3, "fill_rate": 2}})
    free = both("rate-free", see, script)
    burst = both("rate-burst", see, script, api={"rate_limit_settings": {"max_tokens": 100, "fill_rate": 2}})
    for i, kind in enumerate(("Envoy", "weft")):
        done, early, took, limited = slow[i]
        # the first request and two acks at once, then two a second
        tap.ok(done and 2 <= early <= 6 and took > 3.5 and limited, "%s: max_tokens 3 and fill_rate 2 hold twelve acks back" % kind, slow[i])
        tap.ok(free[i][0] and not free[i][3], "%s: without a limit nothing waits" % kind, free[i])
        tap.ok(burst[i][0] and not burst[i][3], "%s: max_tokens 100 let all go at once" % kind, burst[i])


def size():
    script = lambda stream: [response("1", size=5000)]  # noqa: E731
    again = lambda stream: [response("1", size=5000 if stream == 1 else 10)]  # noqa: E731
    got = both("size-large", lambda s: wait_for(lambda: s.acks() >= 1) and s.success(), script, grpc={"max_receive_message_length": 100000})
    tap.same(got, [1, 1], "max_receive_message_length above the message: taken")

    def refused(s):
        came = wait_for(lambda: s.acks() >= 1, 30)
        return bool(came), s.ads.streams, s.success()
    got = both("size-small", refused, again, grpc={"max_receive_message_length": 2000})
    tap.same(got, [(True, 2, 1)] * 2, "max_receive_message_length below it: the stream ends, and a shorter one is taken from the next")


def first_fetch():
    """Routes that never come: initial_fetch_timeout says how long the listener waits for them; 0 s: for ever"""
    for kind in ("envoy", "weft"):
        for wait in ("1s", "0s"):
            ads, port = Ads(lambda stream: []), free_ports(1)[0]
            h = hcm([])
            del h["typed_config"]["route_config"]
            h["typed_config"]["rds"] = {"route_config_name": "never", "config_source": {
                "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": wait}}
            p = Proxy(bootstrap([listener("l", port, chain(h))], [cluster("ads", ads.port, http={"explicit_http_config": {
                "http2_protocol_options": {}}})], dynamic_resources={"ads_config": {
                    "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]}}),
                kind, "first-%s-%s" % (wait, kind), wait=False)
            asked = wait_for(lambda: ads.requests, 30)  # noqa: B023
            if wait == "1s":
                tap.ok(asked and wait_for(p.ready, 30) and wait_for(lambda: ask(port, timeout=5).status == 404, 10),  # noqa: B023
                       "%s: initial_fetch_timeout 1s: the listener goes on without its routes" % kind)
            else:
                tap.ok(asked and not wait_for(p.ready, 3 * SLOW), "%s: initial_fetch_timeout 0s: it waits for them" % kind)
            tap.same(p.stop(), 0, "%s: ends when told" % kind)


def mounted(base, n, name):
    """cds.json is a link through ..data, which is replaced"""
    os.makedirs("%s/..%d" % (base, n))
    with open("%s/..%d/cds.json" % (base, n), "w", encoding="ascii") as f:
        json.dump({"version_info": str(n), "resources": [{"@type": CDS, "name": name, "connect_timeout": "1s", "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(9)}}]}]}}]}, f)
    if not os.path.islink(base + "/cds.json"):
        os.symlink("..data/cds.json", base + "/cds.json")
    os.symlink("..%d" % n, base + "/..tmp")
    os.rename(base + "/..tmp", base + "/..data")


def paths():
    """The file's own folder stays as it is: only the watched one sees the move"""
    for watched in (True, False):
        for kind in ("envoy", "weft"):
            base = os.path.join(WORK, "paths-%s-%s" % (watched, kind))
            mounted(base, 1, "one")
            os.makedirs(base + "/elsewhere")
            os.symlink("../cds.json", base + "/elsewhere/cds.json")
            source = {"path": base + "/elsewhere/cds.json"}
            if watched:
                source["watched_directory"] = {"path": base}
            p = Proxy(bootstrap([], [], dynamic_resources={"cds_config": {"path_config_source": source, "resource_api_version": "V3"}}), kind,
                      os.path.basename(base))
            has = lambda name: ("\n" + p.admin("/clusters")[1]).count("\n%s::" % name) > 0  # noqa: E731,B023
            tap.ok(wait_for(lambda: has("one")), "%s: a CDS file behind links" % kind)  # noqa: B023
            mounted(base, 2, "two")
            if watched:
                tap.ok(wait_for(lambda: has("two") and not has("one")), "%s: watched_directory: ..data moved, the file is read again" % kind)  # noqa: B023
            else:
                time.sleep(SLOW)
                tap.ok(not has("two"), "%s: without it nothing is seen" % kind)
            tap.same(p.stop(), 0, "%s: ends when told" % kind)


def main():
    for part in (node, rate, size, first_fetch, paths):
        try:
            part()
        except Exception as e:  # noqa: BLE001
            import traceback
            tap.ok(False, "%s runs to its end" % part.__name__, traceback.format_exc(), e)
    return tap.done()


sys.exit(1 if main() else 0)
