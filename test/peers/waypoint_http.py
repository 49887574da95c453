#!/usr/bin/python3
"""weft-waypoint as an HTTP proxy between real clients and servers: every version on either side, bodies, upgrades, limits, time,
retries, balancing, health. Everything is asserted at both ends."""
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import H2Client, ask2  # noqa: E402
from upstream_kit import Upstream, pattern  # noqa: E402
from waypoint_kit import (  # noqa: E402
    H2_UP, Proxy, Tap, address, ask, bootstrap, chain, cluster, curl, dial, digest, file_log, free_ports, hcm, json_log, lines_of, listener,
    Reply, SAN_KB, say, SLOW, to, wait_for, WORK, T)

tap = Tap()
BACKOFF = {"base_interval": "0.002s"}


def nginx(port):
    root = os.path.join(WORK, "www")
    os.makedirs(root, exist_ok=True)
    os.chmod(root, 0o755)
    with open(root + "/big", "wb") as f:
        f.write(pattern(5_000_000))
    with open(root + "/small", "w", encoding="utf-8") as f:
        f.write("small\n")
    conf = os.path.join(WORK, "nginx.conf")
    temp = "".join("%s_temp_path %s/t-%s;" % (x, WORK, x) for x in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(conf, "w", encoding="utf-8") as f:
        f.write("daemon off; worker_processes 1; pid %s/nginx.pid; error_log %s/nginx.err;%s events {worker_connections 512;}\n"
                "http { access_log off; %s server { listen 127.0.0.1:%d; root %s; } }\n"
                % (WORK, WORK, " user root;" if os.getuid() == 0 else "", temp, port, root))
    p = subprocess.Popen(["nginx", "-e", WORK + "/nginx.err", "-c", conf], stdin=subprocess.DEVNULL)
    if not wait_for(lambda: try_ask(port), 10):
        raise SystemExit("Bail out! no nginx")
    return p


def try_ask(port):
    try:
        return ask(port, "/small").status == 200
    except OSError:
        return False


up, up2, other, third = Upstream("up"), Upstream("up2", h2_only=True), Upstream("other"), Upstream("third")
names = ["main", "h2c", "tight", "log", "big"]
P = dict(zip(names, free_ports(len(names))))
NGINX, DEAD = free_ports(2)
LOG, JSON_LOG = os.path.join(WORK, "text.log"), os.path.join(WORK, "json.log")


def retry(on, **more):
    return {"retry_policy": {"retry_on": on, "num_retries": 2, "retry_back_off": BACKOFF, **more}}


def config():
    routes = [
        {"match": {"connect_matcher": {}}, "route": {"cluster": "h1", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}},
        to("nginx", "/nginx/", prefix_rewrite="/"),
        to("h2", "/h2"), to("auto", "/auto"),
        to("ws2", "/ws2", upgrade_configs=[{"upgrade_type": "websocket"}]),
        to("h1", "/ws", upgrade_configs=[{"upgrade_type": "websocket"}], timeout="0s"),
        to("h1", "/slow", timeout="0.3s"),
        to("h1", "/try", timeout="5s", **retry("5xx", per_try_timeout="0.2s")),
        to("h1", "/r5xx", **retry("5xx")), to("h1", "/rgw", **retry("gateway-error")), to("h1", "/rreset", **retry("reset")),
        to("mixdead", "/rcf", **retry("connect-failure", retry_host_predicate=[{"name": "p", "typed_config": {
            "@type": T + ".extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}], host_selection_retry_max_attempts=5)),
        to("h1", "/r4xx", **retry("retriable-4xx")), to("h1", "/rcode", **retry("retriable-status-codes", retriable_status_codes=[418])),
        to("h1", "/rhdr", **retry("retriable-headers", retriable_headers=[{"name": "x-again"}])),
        to("h2", "/rrefused", **retry("refused-stream")), to("h2", "/rgrpc", **retry("unavailable,internal,cancelled,deadline-exceeded,"
                                                                                  "resource-exhausted")),
        to("h1", "/rratelimited", **retry("envoy-ratelimited")), to("h1", "/rbefore", **retry("reset-before-request")),
        to("h1", "/mirror", request_mirror_policies=[{"cluster": "other"}]),
        to("h1", "/internal", internal_redirect_policy={"max_internal_redirects": 1}),
        {"match": {"prefix": "/redir"}, "redirect": {"https_redirect": True, "port_redirect": 8443, "prefix_rewrite": "/there"}},
        say("/said", 418, "tea"),
        to("h1", "/pre/fix", prefix_rewrite="/other"),
        to("h1", match={"safe_regex": {"regex": "/rx/.*"}}, regex_rewrite={"pattern": {"regex": "^/rx/(\\d+)/(.*)$"}, "substitution": "/\\2-\\1"}),
        to("h1", match={"path_match_policy": {"name": "t", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "path_template": "/tpl/{a}/{b}"}}},
           path_rewrite_policy={"name": "t", "typed_config": {
               "@type": "type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
               "path_template_rewrite": "/{b}/{a}"}}),
        to("h1", "/vhost", host_rewrite_literal="inner.example"),
        {"match": {"prefix": "/weighted"}, "route": {"weighted_clusters": {"clusters": [{"name": "h1", "weight": 80}, {"name": "other", "weight": 20}]}}},
        to("ring", "/ring", hash_policy=[{"cookie": {"name": "sticky", "ttl": "60s", "path": "/"}}]),
        to("ring", "/hring", hash_policy=[{"header": {"header_name": "x-user"}}]),
        to("busy", "/busy"), to("outlier", "/outlier"), to("hc", "/hc"), to("hctcp", "/hctcp"), to("panic", "/panic"), to("prio", "/prio"),
        to("dns", "/dns"), to("proxied", "/proxied"), to("dead", "/dead"),
        to("h1", "/hdr", route_={"request_headers_to_add": [{"header": {"key": "x-peer", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}],
                                 "response_headers_to_remove": ["x-from"]}),
        to("h1", "/"),
    ]
    upgrades = {"upgrade_configs": [{"upgrade_type": "CONNECT"}], "http2_protocol_options": {"allow_connect": True}}
    tight = {"max_request_headers_kb": 2, "request_timeout": "0.5s", "request_headers_timeout": "0.4s", "stream_idle_timeout": "0.6s",
             "common_http_protocol_options": {"idle_timeout": "0.5s", "max_headers_count": 20, "max_requests_per_connection": 3}}
    fields = {"code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%", "path": "%REQ(:PATH)%",
              "up": "%UPSTREAM_CLUSTER%", "rx": "%BYTES_RECEIVED%", "tx": "%BYTES_SENT%", "ms": "%DURATION%", "proto": "%PROTOCOL%"}
    line = '[%START_TIME%] "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST%\n'
    listeners = [
        listener("main", P["main"], chain(hcm(routes, stat_prefix="main", access_log=json_log(JSON_LOG, **fields), **upgrades,
                                              internal_address_config={"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
                                              http_protocol_options={"enable_trailers": True}))),
        listener("h2c", P["h2c"], chain(hcm(routes, stat_prefix="h2c", codec_type="HTTP2", **upgrades))),
        listener("tight", P["tight"], chain(hcm([to("h1", "/")], stat_prefix="tight", **tight))),
        listener("log", P["log"], chain(hcm([to("h1", "/")], stat_prefix="log", access_log=file_log(LOG, line), normalize_path=True,
                                            merge_slashes=True, path_with_escaped_slashes_action="REJECT_REQUEST"))),
        listener("big", P["big"], chain(hcm([to("nginx", "/"), ], stat_prefix="big")), per_connection_buffer_limit_bytes=65536),
    ]
    trail = {"explicit_http_config": {"http_protocol_options": {"enable_trailers": True}}}
    check = {"timeout": "0.3s", "interval": "0.1s", "no_traffic_interval": "0.1s", "unhealthy_threshold": 2, "healthy_threshold": 1,
             "unhealthy_interval": "0.1s", "initial_jitter": "0.001s"}
    prio = cluster("prio", health_checks=[{**check, "http_health_check": {"path": "/health"}}])
    prio["load_assignment"]["endpoints"] = [
        {"priority": 0, "lb_endpoints": [{"endpoint": {"address": address(sick.port)}}]},
        {"priority": 1, "lb_endpoints": [{"endpoint": {"address": address(third.port)}}]}]
    dns = cluster("dns", type="STRICT_DNS", dns_lookup_family="V4_ONLY")
    dns["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": address(up.port, "localhost")}}]}]
    clusters = [
        cluster("h1", up.port, http=trail), cluster("h2", up2.port, http=H2_UP), cluster("ws2", up2.port, http=H2_UP), cluster("other", other.port),
        cluster("auto", up2.port, http={"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}),
        cluster("nginx", NGINX, per_connection_buffer_limit_bytes=65536), cluster("dead", DEAD), cluster("mixdead", DEAD, up.port),
        cluster("ring", up.port, other.port, third.port, lb_policy="RING_HASH"),
        cluster("busy", up.port, circuit_breakers={"thresholds": [{"max_connections": 1, "max_pending_requests": 1, "max_requests": 2,
                                                                   "track_remaining": True}]}),
        cluster("outlier", bad.port, other.port, outlier_detection={"consecutive_5xx": 3, "base_ejection_time": "30s",
                                                                    "max_ejection_percent": 50, "interval": "0.2s"}),
        cluster("hc", sick.port, third.port, health_checks=[{**check, "http_health_check": {"path": "/health"}}]),
        cluster("hctcp", DEAD, third.port, health_checks=[{**check, "tcp_health_check": {}}]),
        cluster("panic", sick.port, health_checks=[{**check, "http_health_check": {"path": "/health"}}]),
        cluster("proxied", behind.port, transport_socket={"name": "pp", "typed_config": {
            "@type": T + ".extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            "config": {"version": "V1"}, "transport_socket": {"name": "raw", "typed_config": {
                "@type": T + ".extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}}),
        prio, dns]
    return bootstrap(listeners, clusters)


sick, bad, behind = Upstream("sick"), Upstream("bad"), Upstream("behind")
sick.sick, bad.sick, behind.proxy = "/health", "/", True


def versions():
    data = pattern(100_000)
    for client, ask_it in (("h1", ask), ("h2", ask2)):
        for server, path in (("h1", "/x"), ("h2", "/h2")):
            r = ask_it(P["main"], path, method="POST", body=data)
            j = r.json()
            tap.ok(r.status == 200 and j.get("sum") == digest(data) and j.get("method") == "POST", "%s to %s: a body arrives whole" % (client, server),
                   r.status, j)
            r = ask_it(P["main"], path, do="body=300000")
            tap.ok(r.status == 200 and r.body == pattern(300000), "%s to %s: ... and an answer's" % (client, server), r.status, len(r.body))
            r = ask_it(P["main"], path, do="trailers;body=1000")
            tap.ok(dict(r.trailers).get("x-length") == "1000" and r.body == pattern(1000), "%s to %s: trailers" % (client, server), r.trailers)
            for s in (204, 304):
                r = ask_it(P["main"], path, do="status=%d" % s)
                tap.ok(r.status == s and not r.body and r.whole, "%s to %s: %d has no body" % (client, server, s), r.status, r.body)
            r = ask_it(P["main"], path, method="HEAD", do="body=77")
            tap.ok(r.status == 200 and not r.body and r.whole and (server == "h2" or r.get("content-length") == "77"),
                   "%s to %s: HEAD" % (client, server), r.headers, r.body)
    r = ask(P["main"], "/x", method="POST", body=data, chunked=True)
    tap.ok(r.json().get("sum") == digest(data), "a chunked upload arrives whole")
    r = ask2(P["main"], "/x", method="POST", body=b"12", trailers=[("x-t", "1")])
    tap.ok(["x-t", "1"] in r.json().get("trailers", []), "trailers of a request go from h2 to h1", r.json())
    r = ask2(P["h2c"], "/h2", method="POST", body=b"12", trailers=[("x-t", "1")])
    tap.ok(["x-t", "1"] in r.json().get("trailers", []), "... and from h2c by prior knowledge to h2", r.json())
    before = up2.conns
    tap.ok(ask2(P["main"], "/auto").seen(":authority") == "test" and up2.conns > before, "a cluster that speaks as its client does: h2")
    rc, out = curl("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code} %{size_download}",
                   "http://127.0.0.1:%d/nginx/big" % P["h2c"])
    tap.same((rc, out), (0, "2 200 5000000"), "curl, h2c by prior knowledge, nginx behind")


def bodies():
    data = os.urandom(8_000_000)
    path = os.path.join(WORK, "up.bin")
    with open(path, "wb") as f:
        f.write(data)
    for v in ("--http1.1", "--http2-prior-knowledge"):
        rc, out = curl(v, "-T", path, "http://127.0.0.1:%d/x" % P["main"], timeout=20)
        tap.ok(rc == 0 and digest(data) in out, "curl %s sends 8 MB, every byte arrives" % v, rc, out[:300])
        rc, out = curl(v, "-o", path + ".down", "-w", "%{http_code}", "http://127.0.0.1:%d/nginx/big" % P["main"], timeout=20)
        with open(path + ".down", "rb") as f:
            tap.ok((rc, out) == (0, "200") and digest(f.read()) == digest(pattern(5_000_000)), "... and gets 5 MB from nginx", rc, out)
    s = dial(P["main"])
    s.sendall(b"POST /x HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    first = s.recv(1000)
    s.sendall(b"12345")
    r = Reply(s)
    s.close()
    tap.ok(first == b"HTTP/1.1 100 Continue\r\n\r\n" and r.status == 200 and r.json()["length"] == 5, "100-continue", first, r.status)
    s = dial(P["main"])
    s.sendall(b"".join(b"GET /p%d HTTP/1.1\r\nhost: test\r\nx-do: delay=%d\r\n\r\n" % (i, 30 * (i % 3)) for i in range(10)))
    got, buf = [], b""
    for _ in range(10):
        r = Reply(s, buf=buf)
        buf = r.buf
        got.append(r.json().get("path"))
    s.close()
    tap.same(got, ["/p%d" % i for i in range(10)], "ten pipelined requests are answered in order")
    s = dial(P["main"])
    s.sendall(b"POST /early HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\nx-do: how=early;status=413;text=no\r\n\r\n" + b"x" * 1000)
    r = Reply(s)
    s.close()
    tap.ok(r.status == 413 and r.body == b"no", "an early answer comes before the body is sent", r.status)
    r = ask2(P["main"], "/h2", method="POST", body=b"q" * 200_000, do="how=early;status=413;text=no")
    tap.ok(r.status == 413 and r.body == b"no", "... over h2 too", r.status, r.reset)


def pressure(proxy):
    """A reader that does not read: what waits is bounded"""
    def reader(n):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        s.settimeout(20)
        s.connect(("127.0.0.1", P["big"]))
        s.sendall(b"GET /big HTTP/1.1\r\nhost: test\r\n\r\n")
        return s
    rss = proxy.rss()
    held = [reader(i) for i in range(40)]
    time.sleep(0.7)
    grown = proxy.rss() - rss
    tap.ok(grown < 16_000 + SAN_KB, "40 clients that do not read 5 MB each: %d kB more memory, not 200,000" % grown)
    bodies_read = [Reply(s) for s in held[:5]]
    for s in held:
        s.close()
    tap.ok(all(digest(r.body) == digest(pattern(5_000_000)) for r in bodies_read), "... and what they read at last is whole")
    rss = proxy.rss()
    c = H2Client(P["h2c"], hold=True)
    sids = [c.send("/nginx/big") for _ in range(20)]
    c.until(lambda: sum(len(c.answers[s].body) for s in sids) >= 65535)
    time.sleep(0.5)
    grown = proxy.rss() - rss
    c.close()
    tap.ok(grown < 16_000 + SAN_KB, "20 streams whose windows stay shut: %d kB more, not 100,000" % grown)


def upgrades():
    s = dial(P["main"])
    s.sendall(b"GET /ws HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
    r = Reply(s)
    s.sendall(pattern(50_000))
    got = b""
    while len(got) < 50_000:
        more = s.recv(65536)
        if not more:
            break
        got += more
    s.close()
    tap.ok(r.status == 101 and got == pattern(50_000), "WebSocket h1 to h1: bytes go round", r.status, len(got))
    for path, server in (("/ws", "h1"), ("/ws2", "h2")):
        c = H2Client(P["main"])
        sid = c.send(path, method="CONNECT", pseudo=[(":protocol", "websocket")], end=False)
        c.until(lambda: c.answers[sid].status)
        c.data(sid, pattern(30_000), False)
        c.until(lambda: len(c.answers[sid].body) >= 30_000)
        a = c.answers[sid]
        c.close()
        tap.ok(a.status == 200 and a.body == pattern(30_000), "extended CONNECT over h2 to %s: bytes go round" % server, a.status, len(a.body))
    s = dial(P["main"])
    s.sendall(b"GET /ws2 HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
    r = Reply(s)
    s.sendall(b"hello h2")
    got = s.recv(100) if r.status == 101 else b""
    s.close()
    tap.ok(r.status == 101 and got == b"hello h2", "WebSocket h1 to extended CONNECT", r.status, got)
    for v in (1, 2):
        if v == 1:
            s = dial(P["main"])
            s.sendall(b"CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n\r\n")
            r = Reply(s, "CONNECT")
            s.sendall(b"GET /in-tunnel HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
            inner = Reply(s)
            s.close()
            status = r.status
        else:
            c = H2Client(P["main"])
            sid = c.send(method="CONNECT", host="test:80", end=False)
            c.until(lambda: c.answers[sid].status)
            status = c.answers[sid].status
            c.data(sid, b"GET /in-tunnel HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", False)
            c.until(lambda: b"/in-tunnel" in c.answers[sid].body)
            body = c.answers[sid].body
            c.close()
        tap.ok(status == 200 and b"/in-tunnel" in (inner.body if v == 1 else body), "CONNECT over h%d to a TCP upstream" % v, status)


def times():
    r = ask(P["main"], "/slow", do="delay=900")
    tap.ok(r.status == 504 and r.body == b"upstream request timeout", "route timeout: 504", r.status, r.body)
    r = ask(P["main"], "/slow", do="delay=900")
    tap.same(r.status, 504, "... on a pooled connection too")
    r = ask2(P["main"], "/slow", do="delay=900")
    tap.same(r.status, 504, "... over h2")
    r = ask(P["main"], "/try", do="delay=600;fail=1:try", headers=[("x-key", "try")])
    tap.ok(r.status == 200 and len(up.find("try")) == 2, "per-try timeout: the second try answers", r.status)
    r = ask(P["tight"], "/x", method="POST", headers=[("content-length", "5")])
    tap.same(r.status, 408, "request_timeout: 408")
    s = dial(P["tight"])
    s.sendall(b"GET / HTTP/1.1\r\nhost: te")
    r = Reply(s)
    s.close()
    tap.same(r.status, 408, "request_headers_timeout: 408")
    s = dial(P["tight"])
    began = time.monotonic()
    try:
        s.settimeout(5)
        ended = s.recv(10) == b""
    except OSError:
        ended = False
    s.close()
    took = time.monotonic() - began
    tap.ok(ended and 0.3 < took < 2 * SLOW, "idle_timeout: an idle connection is closed after %.2f s" % took)
    r = ask(P["tight"], "/x", do="gap=1500;body=1000")
    tap.ok(r.status == 200 and not r.whole, "stream_idle_timeout cuts a stream that stands still", r.status, r.whole)
    s = dial(P["tight"])
    got = []
    for _ in range(3):
        r = ask(0, "/x", sock=s)
        got.append((r.status, r.get("connection")))
    s.close()
    tap.same(got, [(200, None), (200, None), (200, "close")], "max_requests_per_connection: the last says close")
    tap.same(ask(P["tight"], "/x", headers=[("x-big", "b" * 4000)]).status, 431, "max_request_headers_kb: 431")
    tap.same(ask(P["tight"], "/x", headers=[("x-%d" % i, "b") for i in range(30)]).status, 431, "max_headers_count: 431")


def retries():
    for path, do, twice in (("/r5xx", "status=503", True), ("/r5xx", "how=reset", True), ("/rgw", "status=502", True), ("/rgw", "status=500", False),
                            ("/rreset", "how=close", True), ("/rreset", "status=503", False), ("/r4xx", "status=409", True), ("/r4xx", "status=404", False),
                            ("/rcode", "status=418", True), ("/rcode", "status=419", False), ("/rhdr", "header=x-again:1", True),
                            ("/rratelimited", "status=503;header=x-envoy-ratelimited:1", True), ("/rratelimited", "status=503", False)):
        key = "r%d" % tap.n
        r = ask(P["main"], path, do=do + ";fail=1:" + key, headers=[("x-key", key)])
        n = len(up.find(key))
        tap.ok(n == (2 if twice else 1) and (not twice or r.status == 200), "%s, %s: %s" % (path, do, "again" if twice else "not again"), r.status, n)
    for do, twice in (("how=refused", True), ("how=reset", False)):
        key = "rr%d" % tap.n
        r = ask(P["main"], "/rrefused", do=do + ";fail=1:" + key, headers=[("x-key", key)])
        tap.ok(len(up2.find(key)) == (2 if twice else 1), "refused-stream, %s: %s" % (do, "again" if twice else "not again"), r.status)
    for code, name in ((14, "unavailable"), (13, "internal"), (1, "cancelled"), (4, "deadline-exceeded"), (8, "resource-exhausted")):
        key = "g%d" % code
        r = ask(P["main"], "/rgrpc", do="body=0;grpc=%d;fail=1:%s" % (code, key), headers=[("x-key", key), ("content-type", "application/grpc")])
        tap.ok(len(up2.find(key)) == 2 and r.get("grpc-status") is None, "gRPC %s: again" % name, r.headers)
    statuses = [ask(P["main"], "/rcf").status for _ in range(10)]
    tap.same(statuses, [200] * 10, "connect-failure with previous_hosts: a dead host is never seen")
    r = ask(P["main"], "/r5xx", method="POST", body=pattern(50_000), do="status=503;fail=2:body", headers=[("x-key", "body")])
    tap.ok(r.status == 200 and r.json().get("sum") == digest(pattern(50_000)) and len(up.find("body")) == 3, "a body goes again with each try", r.status)
    asks = [("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "3")]
    r = ask(P["main"], "/x", headers=asks + [("x-key", "byh"), ("x-forwarded-for", "10.0.0.1")], do="status=503;fail=3:byh")
    tap.ok(r.status == 200 and len(up.find("byh")) == 4, "retries that an internal client asks for", r.status)
    r = ask(P["main"], "/x", headers=asks + [("x-key", "ext"), ("x-forwarded-for", "8.8.8.8")], do="status=503;fail=3:ext")
    tap.ok(r.status == 503 and len(up.find("ext")) == 1, "... an external one may not", r.status)


def routing():
    r = ask(P["main"], "/mirror", method="POST", body=b"mirror me", headers=[("x-key", "m")])
    tap.ok(r.status == 200 and r.get("x-from") == "up" and wait_for(lambda: other.find("m"), 2), "a mirror gets a copy", r.status)
    tap.ok(r.status == 200 and any(k == "host" and v == "test-shadow" for s in other.find("m") for k, v in s[2]), "... for a host named -shadow", other.find("m"))
    r = ask(P["main"], "/internal", do="status=302;header=location:http://test/there?q;fail=1:int")
    tap.ok(r.status == 200 and r.json().get("path") == "/there?q", "an internal redirect is followed here", r.status, r.body)
    r = ask(P["main"], "/redir/a?b=c")
    tap.same((r.status, r.get("location")), (301, "https://test:8443/there/a?b=c"), "a redirect")
    r = ask(P["main"], "/said")
    tap.same((r.status, r.body), (418, b"tea"), "a direct response")
    for path, want in (("/pre/fix/x?y", "/other/x?y"), ("/rx/12/ab?c", "/ab-12?c"), ("/tpl/one/two?q", "/two/one?q")):
        tap.same(ask(P["main"], path).json().get("path"), want, "%s is rewritten" % path)
    tap.same(ask(P["main"], "/vhost").seen("host"), "inner.example", "the host is rewritten")
    r = ask(P["main"], "/hdr")
    tap.ok(r.seen("x-peer") == "127.0.0.1" and r.get("x-from") is None, "headers are added and removed", r.body)
    s = dial(P["main"])
    by = [ask(0, "/weighted", sock=s).get("x-from") for _ in range(400)]
    s.close()
    tap.ok(280 <= by.count("up") <= 360, "weights 80 and 20: %d and %d of 400" % (by.count("up"), by.count("other")))
    r = ask(P["main"], "/ring")
    cookie = (r.get("set-cookie") or "").split(";")[0]
    first = r.get("x-from")
    tap.ok(cookie.startswith("sticky="), "a hash policy sets its cookie", r.headers)
    stuck = [ask(P["main"], "/ring", headers=[("cookie", cookie)]) for _ in range(20)]
    tap.ok(all(x.get("x-from") == first and not x.get("set-cookie") for x in stuck), "... and sticks to the host", [x.get("x-from") for x in stuck])
    users = {u: {ask(P["main"], "/hring", headers=[("x-user", u)]).get("x-from") for _ in range(5)} for u in map(str, range(12))}
    tap.ok(all(len(v) == 1 for v in users.values()) and len({h for v in users.values() for h in v}) > 1, "a ring by header: one host a user, many hosts")
    for path, want in (("/a/../b", "/b"), ("//a//b", "/a/b"), ("/a/./b", "/a/b")):
        tap.same(ask(P["log"], path).json().get("path"), want, "%s is normalised" % path)
    tap.same(ask(P["log"], "/a%2fb").status, 400, "an escaped slash is refused")
    tap.same(ask(P["main"], "/dns/x").status, 200, "strict DNS: localhost")
    r = ask(P["main"], "/proxied")
    tap.ok(r.status == 200 and any(s[0] == "proxy" and s[1].startswith("PROXY TCP4 127.0.0.1 127.0.0.1 ") for s in behind.seen),
           "PROXY protocol goes out with the client's address", behind.seen[:2])


def health(proxy):
    tap.ok(wait_for(lambda: proxy.stat("cluster.hc.membership_healthy") == 1, 5), "an HTTP health check finds the sick host")
    by = {ask(P["main"], "/hc").get("x-from") for _ in range(10)}
    tap.same(by, {"third"}, "... which gets nothing")
    tap.ok(wait_for(lambda: proxy.stat("cluster.hctcp.membership_healthy") == 1, 5), "a TCP health check finds the dead host")
    tap.same({ask(P["main"], "/hctcp").status for _ in range(10)}, {200}, "... which gets nothing")
    tap.same({ask(P["main"], "/prio").get("x-from") for _ in range(10)}, {"third"}, "a sick priority gives all to the next")
    r = ask(P["main"], "/panic")
    tap.ok(r.get("x-from") == "sick" and (proxy.stat("cluster.panic.lb_healthy_panic") or 0) >= 1, "all sick: panic, and the host serves", r.status)
    sick.sick = None
    tap.ok(wait_for(lambda: ask(P["main"], "/prio").get("x-from") == "sick", 5), "a host that is well again is used again")
    sick.sick = "/health"
    codes = [ask(P["main"], "/outlier").status for _ in range(30)]
    # the main thread decides: a few more requests may go before the worker knows
    tap.ok(3 <= codes.count(503) <= 9 and 503 not in codes[-8:] and (proxy.stat("cluster.outlier.outlier_detection.ejections_active") or 0) == 1,
           "three errors in a row eject a host: %d of 30 failed" % codes.count(503), codes)


def breakers(proxy):
    results = []

    def one():
        results.append(ask(P["main"], "/busy", do="delay=400"))
    threads = [threading.Thread(target=one) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    codes = [r.status for r in results]
    over = [r for r in results if r.status == 503]
    tap.ok(codes.count(200) == 2 and len(over) == 6 and all(r.get("x-envoy-overloaded") == "true" for r in over),
           "circuit breakers let two in and refuse six", codes)
    tap.ok((proxy.stat("cluster.busy.upstream_rq_pending_overflow") or 0) == 6, "... and count it", proxy.stats("cluster.busy.*overflow"))
    tap.same(ask(P["main"], "/dead").status, 503, "nobody listens: 503")


def logs(proxy):
    ask(P["log"], "/logged?x", method="POST", body=b"12345", do="body=7")
    line = re.compile(r'^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "POST /logged\?x HTTP/1.1" 200 - 5 7 127.0.0.1:%d$' % up.port)
    tap.ok(wait_for(lambda: any(line.match(x) for x in lines_of(LOG)), 12), "a line of the text log", lines_of(LOG)[-3:])

    def flagged():
        out = set()
        for x in lines_of(JSON_LOG):
            d = json.loads(x)
            out.add((d["code"], d["flags"]))
        return out
    want = {(200, "-"), (504, "UT"), (503, "UO"), (503, "UF")}
    tap.ok(wait_for(lambda: want <= flagged(), 12), "JSON lines with flags", want - flagged())


def load():
    for tool in (["h2load", "-n", "20000", "-c", "8", "-m", "20", "http://127.0.0.1:%d/nginx/small" % P["h2c"]],
                 ["h2load", "--h1", "-n", "10000", "-c", "8", "http://127.0.0.1:%d/nginx/small" % P["main"]]):
        p = subprocess.run(tool, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=120)
        out = p.stdout.decode()
        m = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
        tap.ok(m and m.groups() == (tool[tool.index("-n") + 1], "0", "0", "0"), " ".join(tool[:2]) + ": every answer 200", out[-800:])


def main():
    web = nginx(NGINX)
    proxy = Proxy(config())
    only = os.environ.get("ONLY")
    try:
        for part in (versions, bodies, pressure, upgrades, times, retries, routing, health, breakers, logs, load):
            if only and not re.search(only, part.__name__):
                continue
            try:
                part(*([proxy] if part.__code__.co_argcount else []))
            except Exception as e:  # noqa: BLE001
                import traceback
                tap.ok(False, "%s runs to its end" % part.__name__, traceback.format_exc(), e)
            if proxy.p.poll() is not None:
                tap.ok(False, "weft-waypoint lives after " + part.__name__, proxy.log()[-3000:])
                return tap.done()
        tap.same(proxy.stop(), 0, "weft-waypoint ends well")
    finally:
        web.terminate()
        web.wait()
    return tap.done()


sys.exit(1 if main() else 0)
