#!/usr/bin/python3
"""Listeners: which chain takes a connection and what the listener's access log says of those that none served, beside a real Envoy (ENVOY);
secrets and listeners from files that are wrong, told with their place; limits of connections and buffers; replacement under load."""
import json
import os
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    Ca, Proxy, Tap, ask, bootstrap, chain, cluster, dial, free_ports, hcm, json_log, lines_of, listener, pem, say, to, wait_for, T, WORK)

tap = Tap()
ca, rogue = Ca("ca"), Ca("rogue")
A, B = ca.issue("a", "DNS:a.example"), ca.issue("b", "DNS:b.example")
GOOD, OTHER = ca.issue("good", "URI:spiffe://td/ns/a/sa/good"), ca.issue("other", "URI:spiffe://td/ns/b/sa/other")
STRANGER = rogue.issue("stranger", "URI:spiffe://td/ns/a/sa/good")
LF = T + ".extensions.filters.listener."
NET = T + ".extensions.filters.network."
INSPECT = [{"name": n, "typed_config": {"@type": LF + t}} for n, t in (
    ("tls", "tls_inspector.v3.TlsInspector"), ("http", "http_inspector.v3.HttpInspector"))]
PP = [{"name": "pp", "typed_config": {"@type": LF + "proxy_protocol.v3.ProxyProtocol"}}]
LOG = dict(fail="%DOWNSTREAM_TRANSPORT_FAILURE_REASON%", term="%CONNECTION_TERMINATION_DETAILS%", flags="%RESPONSE_FLAGS%",
           chain="%FILTER_CHAIN_NAME%", sni="%REQUESTED_SERVER_NAME%", details="%RESPONSE_CODE_DETAILS%", code="%RESPONSE_CODE%",
           rx="%BYTES_RECEIVED%", tx="%BYTES_SENT%", local="%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
           remote="%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", type="%ACCESS_LOG_TYPE%")


def context(cert=None, alpn=None):
    c = ssl.create_default_context()
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    if cert:
        c.load_cert_chain(*cert)
    if alpn:
        c.set_alpn_protocols(alpn)
    return c


def answer(port, **how):
    try:
        r = ask(port, **how)
        return "%d %s" % (r.status, r.body.decode("latin-1")) if r.status else "closed"
    except OSError:
        return "closed"


# ---- filter_chain_match, the same connections to both
MATCHES = [
    {"server_names": ["a.example"]}, {"server_names": ["*.a.example"]}, {"server_names": ["*.example"]},
    {"server_names": ["a.example"], "application_protocols": ["http/1.1"]},
    {"server_names": ["*.example"], "source_prefix_ranges": [{"address_prefix": "127.0.0.2", "prefix_len": 32}]},
    {"transport_protocol": "raw_buffer"},
    {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1"]},
    {"transport_protocol": "raw_buffer", "source_prefix_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 28}]},
    {"transport_protocol": "raw_buffer", "source_prefix_ranges": [{"address_prefix": "127.0.0.4", "prefix_len": 32}],
     "source_type": "SAME_IP_OR_LOOPBACK"},
    {"transport_protocol": "raw_buffer", "direct_source_prefix_ranges": [{"address_prefix": "127.0.0.6", "prefix_len": 32}]},
    {"prefix_ranges": [{"address_prefix": "127.0.1.0", "prefix_len": 24}]},
    {"prefix_ranges": [{"address_prefix": "127.0.1.7", "prefix_len": 32}], "transport_protocol": "tls"},
    {"prefix_ranges": [{"address_prefix": "127.0.2.0", "prefix_len": 24}], "server_names": ["a.example"]},
    {"transport_protocol": "tls", "application_protocols": ["h2"]},
]


def match_config(port):
    tls = {"common_tls_context": {"tls_certificates": [pem(*A)], "alpn_protocols": ["http/1.1"]}}
    chains = [chain(hcm([say("/", 200, "c%d" % i)], stat_prefix="c%d" % i), None if m.get("transport_protocol") == "raw_buffer" else tls,
                    filter_chain_match=m, name="c%d" % i) for i, m in enumerate(MATCHES)]
    ln = listener("l", port, *chains, listener_filters=INSPECT, default_filter_chain=chain(hcm([say("/", 200, "default")]), tls, name="d"))
    ln["address"]["socket_address"]["address"] = "0.0.0.0"
    return bootstrap([ln], [])


def matches(kind):
    port = free_ports(1)[0]
    p = Proxy(match_config(port), kind)
    out = {}
    for host in ("127.0.0.1", "127.0.1.5", "127.0.1.7", "127.0.2.9"):
        for source in (None, "127.0.0.2", "127.0.0.4", "127.0.0.6", "127.0.0.99"):
            for sni in (None, "", "a.example", "x.a.example", "b.example", "else"):
                for alpn in (None, ["http/1.1"], ["h2"]):
                    if sni is None and alpn:
                        continue
                    if source and (alpn or host != "127.0.0.1"):
                        continue
                    key = (host, source, sni, str(alpn))
                    try:
                        s = dial(port, host, tls=context(alpn=alpn) if sni is not None else None, sni=sni or None,
                                 source=(source, 0) if source else None)
                        r = ask(0, sock=s)
                        out[key] = "%d %s" % (r.status, r.body.decode())
                        s.close()
                    except OSError:
                        out[key] = "closed"
    p.stop()
    return out


def chain_matches():
    ours = matches("weft")
    tap.ok(len(set(ours.values())) >= 8, "%d connections go to %d chains" % (len(ours), len(set(ours.values()))), ours)
    real = matches("envoy")
    tap.ok(ours == real, "... the same as in Envoy", {k: (v, real[k]) for k, v in ours.items() if v != real[k]})


# ---- connections that no chain served, in the listener's access log
def refused(kind):
    P, log = free_ports(4), os.path.join(WORK, kind + ".refused")
    mtls = {"require_client_certificate": True, "common_tls_context": {"tls_certificates": [pem(*A)], "validation_context": {
        "trusted_ca": {"filename": ca.cert}, "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://td/ns/a/"}}]}}}
    plain = {"common_tls_context": {"tls_certificates": [pem(*A)]}}
    more = {"access_log": json_log(log, **LOG)}
    hello = hcm([say("/", 200, "x")])
    p = Proxy(bootstrap([
        listener("mtls", P[0], chain(hello, mtls, name="c1"), **more),
        listener("slow", P[1], chain(hello, plain, name="c2", transport_socket_connect_timeout="0.3s"), **more),
        listener("none", P[2], chain(hello, plain, filter_chain_match={"server_names": ["a.example"]}), listener_filters=INSPECT, **more),
        listener("pp", P[3], chain(hello), listener_filters=PP, listener_filters_timeout="0.3s", **more)], []), kind,
        args=["--file-flush-interval-msec", "30"] if kind == "envoy" else [])
    out, seen = {}, 0

    def counters():
        sums = {}
        for k, v in p.stats("listener.127.*(fail_verify|connection_error|no_filter_chain|_timeout)").items():
            k = k.split(".", 5)[-1]
            sums[k] = sums.get(k, 0) + v
        return sums

    def cut(port, text, wait):
        s = dial(port)
        if text:
            s.sendall(text)
        try:
            if wait:
                s.recv(10)
        except OSError:
            pass
        s.close()

    for name, do in (
            ("no certificate", lambda: answer(P[0], tls=context(), sni="a.example")),
            ("another CA's", lambda: answer(P[0], tls=context(STRANGER), sni="a.example")),
            ("another SAN", lambda: answer(P[0], tls=context(OTHER), sni="a.example")),
            ("plaintext to TLS", lambda: answer(P[0])),
            ("gone in the handshake", lambda: cut(P[1], b"\x16\x03\x01", False)),
            ("gone at once", lambda: cut(P[1], b"", False)),
            ("handshake timeout", lambda: cut(P[1], b"", True)),
            ("no chain", lambda: answer(P[2], tls=context(), sni="b.example")),
            ("no PROXY header in time", lambda: cut(P[3], b"", True)),
            ("no PROXY header", lambda: cut(P[3], b"GET / HTTP/1.1\r\n\r\n", True))):
        before = counters()
        do()
        wait_for(lambda: os.path.exists(log) and len(lines_of(log)) > seen, 3)
        new = [json.loads(x) if isinstance(x, str) else x for x in lines_of(log)[seen:]]
        seen += len(new)
        after = counters()
        for line in new:
            line["fail"] = bool(line["fail"]) and line["fail"].startswith("TLS_error:|") and line["fail"].endswith(":TLS_error_end")
            line["term"] = (line["term"] or "").replace(" ", "_")
        out[name] = (new, {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)})
    p.stop()
    return out


def connection_logs():
    ours = refused("weft")
    for name in ("no certificate", "another CA's", "another SAN", "plaintext to TLS"):
        lines, counted = ours[name]
        tap.ok(len(lines) == 1 and lines[0]["fail"] and lines[0]["chain"] == "c1" and sum(counted.values()) == 1,
               "%s: one line with the reason, counted once" % name, ours[name])
    tap.ok(ours["no chain"][0][0]["flags"] == "NR" and ours["no chain"][0][0]["sni"] == "b.example", "no chain: NR, with its SNI", ours["no chain"])
    real = refused("envoy")
    for name, was in ours.items():
        tap.same(was, real[name], "%s: line and counters as in Envoy" % name)


# ---- secrets and listeners in files
def put(name, v):
    path = os.path.join(WORK, name)
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(v if isinstance(v, str) else json.dumps(v, indent=1))
    os.rename(path + ".new", path)
    return path


def secret(cert, key):
    return {"version_info": str(time.monotonic()), "resources": [{"@type": T + ".extensions.transport_sockets.tls.v3.Secret", "name": "srv",
                                                                  "tls_certificate": {"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}}]}


def served(port):
    pem_ = ssl.DER_cert_to_PEM_cert(dial(port, tls=context(), sni="x").getpeercert(True))
    return [n for n, c in (("a", A), ("b", B)) if pem_.strip() in open(c[0], encoding="utf-8").read()]


def bad_files():
    P = free_ports(2)
    source = lambda path: {"path_config_source": {"path": path}, "resource_api_version": "V3"}
    sds = {"common_tls_context": {"tls_certificate_sds_secret_configs": [
        {"name": "srv", "sds_config": source(put("sds.yaml", secret(*A)))}]}}
    ln = lambda text: dict(listener("dyn", P[1], chain(hcm([say("/", 200, text)]))), **{"@type": T + ".config.listener.v3.Listener"})
    lds = put("lds.yaml", {"resources": [ln("one")]})
    config = bootstrap([listener("tls", P[0], chain(hcm([say("/", 200, "x")]), sds))], [])
    config["dynamic_resources"] = {"lds_config": source(lds)}
    p = Proxy(config)
    tap.ok(wait_for(lambda: answer(P[1]) == "200 one"), "a listener from a file serves")
    tap.same(served(P[0]), ["a"], "a certificate from a file is served")
    put("sds.yaml", secret(A[0], B[1]))
    tap.ok(wait_for(lambda: "does not fit the certificate" in p.log()), "a key of another certificate is refused", p.log()[-600:])
    tap.ok("sds.yaml:" in p.log().split("does not fit")[0].split("\n")[-1], "... with file, line and column", p.log()[-600:])
    tap.same(served(P[0]), ["a"], "... and the good one is served on")
    put("sds.yaml", secret(*B))
    tap.ok(wait_for(lambda: served(P[0]) == ["b"]), "a good one takes its place")
    bad = ln("two")
    bad["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"] = ""
    bad["per_connection_buffer_limit_bytess"] = 1
    put("lds.yaml", {"resources": [bad]})
    tap.ok(wait_for(lambda: 'did you mean "per_connection_buffer_limit_bytes"' in p.log()), "an unknown field is told", p.log()[-600:])
    del bad["per_connection_buffer_limit_bytess"]
    text = json.dumps({"resources": [bad]}, indent=1)
    line = 1 + text[:text.index('"stat_prefix": ""')].count("\n")
    put("lds.yaml", text)
    tap.ok(wait_for(lambda: "lds.yaml:%d:" % line in p.log()), "a wrong value is told with its line", p.log()[-600:])
    tap.same(answer(P[1]), "200 one", "... and what served goes on")
    put("lds.yaml", {"resources": [ln("three")]})
    tap.ok(wait_for(lambda: answer(P[1]) == "200 three"), "a good file is taken")
    tap.same(p.stop(), 0, "it ends well")


# ---- limits
def limits():
    up = Upstream("up")
    P = free_ports(4)
    limit = {"name": "c", "typed_config": {"@type": NET + "connection_limit.v3.ConnectionLimit", "stat_prefix": "c", "max_connections": 2}}
    limited = chain(hcm([say("/", 200, "x")]))
    limited["filters"].insert(0, limit)
    config = bootstrap([
        listener("global", P[0], chain(hcm([say("/", 200, "x")]))),
        listener("free", P[1], chain(hcm([say("/", 200, "free")])), ignore_global_conn_limit=True),
        listener("limited", P[2], limited, ignore_global_conn_limit=True),
        listener("small", P[3], chain(hcm([to("up", "/")])), per_connection_buffer_limit_bytes=4096, ignore_global_conn_limit=True)],
        [cluster("up", up.port)])
    config["layered_runtime"] = {"layers": [{"name": "s", "static_layer": {"overload.global_downstream_max_connections": 3}}]}
    p = Proxy(config)
    for port, n, name in ((P[0], 3, "overload.global_downstream_max_connections"), (P[2], 2, "connection_limit")):
        held = [dial(port) for _ in range(n)]
        good = [ask(0, sock=s).status for s in held]
        tap.same(good, [200] * n, "%s: as many as it says are served" % name)
        tap.same(answer(port), "closed", "... one more is not")
        if port == P[0]:
            tap.same(answer(P[1]), "200 free", "... but on a listener that is let off")
        held.pop().close()
        tap.ok(wait_for(lambda: answer(port).startswith("200")), "... and again when one ended")
        for s in held:
            s.close()
    stats = p.stats("global_cx_overflow|limited_connections")
    tap.ok(sum(v for v in stats.values()) >= 2, "... both are counted", stats)
    body = os.urandom(3 << 20).hex().encode()
    r = ask(P[3], "/", "POST", body=body)
    tap.ok(r.status == 200 and r.json()["length"] == len(body), "per_connection_buffer_limit_bytes: a large body goes up through a small buffer", r.body[-300:])
    r = ask(P[3], "/", do="body=6000000")
    tap.same((r.status, len(r.body)), (200, 6000000), "... and down")
    p.stop()


# ---- replacement under load: no connection is lost
def replaced():
    port = free_ports(1)[0]
    ln = lambda n: dict(listener("l", port, chain(hcm([say("/", 200, "v%d" % n)]))), **{"@type": T + ".config.listener.v3.Listener"})
    lds = put("load.yaml", {"resources": [ln(0)]})
    config = bootstrap([], [])
    config["dynamic_resources"] = {"lds_config": {"path_config_source": {"path": lds}, "resource_api_version": "V3"}}
    p = Proxy(config)
    wait_for(lambda: answer(port) == "200 v0")
    stop, bad, seen, counts = threading.Event(), [], set(), [0]

    def client(keep):
        s = None
        while not stop.is_set():
            try:
                s = s or dial(port)
                r = ask(0, sock=s)
                seen.add(r.body)
                counts[0] += 1
                if r.status != 200:
                    bad.append(r.status)
                if not keep or r.get("connection") == "close":
                    s.close()
                    s = None
            except OSError as e:
                bad.append(repr(e))
                s = None

    threads = [threading.Thread(target=client, args=(i % 2 == 0,)) for i in range(6)]
    for t in threads:
        t.start()
    for n in range(1, 31):
        put("load.yaml", {"resources": [ln(n)]})
        wait_for(lambda: (b"v%d" % n) in seen, 5)
    stop.set()
    for t in threads:
        t.join()
    tap.ok(not bad, "30 replacements under %d requests: none failed, none was refused" % counts[0], bad[:5])
    tap.ok(len(seen) == 31, "... each configuration served", len(seen))
    tap.ok(p.stat("listener_manager.listener_modified") == 30, "... and is counted", p.stats("listener_manager"))
    tap.same(p.stop(), 0, "it ends well")


def main():
    for part in (chain_matches, connection_logs, bad_files, limits, replaced):
        try:
            part()
        except Exception as e:  # noqa: BLE001
            import traceback
            tap.ok(False, "%s runs to its end" % part.__name__, traceback.format_exc(), e)
    return tap.done()


sys.exit(1 if main() else 0)
