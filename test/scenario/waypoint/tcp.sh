#!/usr/bin/env bash
# tcp_proxy of a real weft-waypoint: real redis and iperf3 behind it, ends in every order, timeouts, weights, limits, tunnels,
# and what the access log says of each.
# limit: 180
set -u
cd "$(dirname "$0")/../../.." || exit 1
for tool in redis-server redis-cli iperf3 python3; do
	command -v $tool >/dev/null || { printf 'not ok 1 - %s is there\n1..1\n' "$tool"; exit 1; }
done
exec python3 - <<'EOF'
import atexit, collections, json, os, random, signal, socket, struct, subprocess, sys, threading, time
sys.path.insert(0, "test/lib")
from waypoint_kit import *

tap = Tap()
TCP = T + ".extensions.filters.network.tcp_proxy.v3.TcpProxy"
NAMES = ("echo", "redis", "iperf", "idle", "weighted", "limited", "slowdown", "rated", "unlimited", "unrated", "retry", "none", "nowhere", "full", "aged", "told",
         "tun1", "tun2", "post", "proxy1", "proxy2")
PORT = dict(zip(NAMES, free_ports(len(NAMES))))
BACK, BACK2, REDIS, IPERF, DEAD, EDGE = free_ports(6)
LOG = os.path.join(WORK, "tcp.log")
FIELDS = dict(l="%FILTER_CHAIN_NAME%", t="%ACCESS_LOG_TYPE%", f="%RESPONSE_FLAGS%", rx="%BYTES_RECEIVED%", tx="%BYTES_SENT%",
              up="%UPSTREAM_HOST%", c="%UPSTREAM_CLUSTER%", n="%UPSTREAM_REQUEST_ATTEMPT_COUNT%", why="%UPSTREAM_TRANSPORT_FAILURE_REASON%",
              peer="%DOWNSTREAM_REMOTE_ADDRESS%", end="%CONNECTION_TERMINATION_DETAILS%", p="%UPSTREAM_PROTOCOL%")


# ---- what stands behind: answers each byte with itself, and does as it is told by the first ones
count = collections.Counter()


def serve(port):
    srv = socket.socket()
    srv.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    srv.bind(("127.0.0.1", port))
    srv.listen(512)

    def one(c):
        try:
            while True:
                d = c.recv(1 << 16)
                if not d:
                    c.sendall(b"<end>")
                    break
                if d == b"RST!":
                    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                if d == b"FIN!":
                    c.sendall(b"bye")
                    c.shutdown(socket.SHUT_WR)
                    count["after"] += len(c.recv(100))
                    break
                if d == b"WAIT":
                    time.sleep(1)
                    continue
                c.sendall(d)
        except OSError as e:
            count[type(e).__name__] += 1
        finally:
            c.close()

    def run():
        while True:
            c, _ = srv.accept()
            count[port] += 1
            c.sendall(b"hello\n")
            threading.Thread(target=one, args=(c,), daemon=True).start()
    threading.Thread(target=run, daemon=True).start()


serve(BACK)
serve(BACK2)
redis = subprocess.Popen(["redis-server", "--port", str(REDIS), "--save", "", "--dir", WORK], stdout=subprocess.DEVNULL)
iperf = subprocess.Popen(["iperf3", "-s", "-p", str(IPERF)], stdout=subprocess.DEVNULL)


@atexit.register
def stop_backends():
    for p in (redis, iperf):
        p.terminate()
        p.wait()


def proxied(name, filters=(), **tcp):
    if "weighted_clusters" not in tcp:
        tcp.setdefault("cluster", "back")
    tcp.setdefault("access_log", json_log(LOG, **FIELDS))
    last = {"name": "tcp", "typed_config": {"@type": TCP, "stat_prefix": name, **tcp}}
    return listener(name, PORT[name], {"filters": list(filters) + [last], "name": name})


def connects(name, http):
    route = {"match": {"connect_matcher": {}},
             "route": {"cluster": "back", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}
    more = {"http2_protocol_options": {"allow_connect": True}} if http == "HTTP2" else {}
    return listener(name, PORT[name], chain(hcm([route], codec_type=http, upgrade_configs=[{"upgrade_type": "CONNECT"}], **more)))


limit = {"name": "cl", "typed_config": {"@type": T + ".extensions.filters.network.connection_limit.v3.ConnectionLimit",
                                        "stat_prefix": "cl", "max_connections": 2}}
delayed = {"name": "cl", "typed_config": {**limit["typed_config"], "stat_prefix": "cld", "max_connections": 1, "delay": "0.4s"}}
rate = {"name": "rl", "typed_config": {"@type": T + ".extensions.filters.network.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "rl",
                                       "token_bucket": {"max_tokens": 3, "tokens_per_fill": 1, "fill_interval": "60s"}}}
off = {"runtime_enabled": {"default_value": False, "runtime_key": "no.such"}}
unlimit = {"name": "cl", "typed_config": {**limit["typed_config"], "stat_prefix": "clo", "max_connections": 1, **off}}
unrate = {"name": "rl", "typed_config": {**rate["typed_config"], "stat_prefix": "rlo", **off}}
config = bootstrap([
    proxied("echo"), proxied("redis", cluster="redis"), proxied("iperf", cluster="iperf"), proxied("idle", idle_timeout="0.5s"),
    proxied("weighted", weighted_clusters={"clusters": [{"name": "back", "weight": 3}, {"name": "back2", "weight": 1}]}),
    proxied("limited", [limit]), proxied("slowdown", [delayed]), proxied("rated", [rate]),
    proxied("unlimited", [unlimit]), proxied("unrated", [unrate]),
    proxied("retry", cluster="mixed", max_connect_attempts=3), proxied("none", cluster="empty"), proxied("nowhere", cluster="missing"),
    proxied("full", cluster="full"), proxied("aged", max_downstream_connection_duration="0.5s"),
    proxied("told", access_log_options={"flush_access_log_on_connected": True, "access_log_flush_interval": "0.3s"}),
    proxied("tun1", cluster="proxy1", tunneling_config={"hostname": "%FILTER_CHAIN_NAME%.example:80"}),
    proxied("tun2", cluster="proxy2", tunneling_config={"hostname": "web.example:80", "headers_to_add": [
        {"header": {"key": "x-from", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}]}),
    proxied("post", cluster="edge", max_connect_attempts=2,
            tunneling_config={"hostname": "web.example", "use_post": True, "post_path": "/tunnel"}),
    connects("proxy1", "HTTP1"), connects("proxy2", "HTTP2"),
], [cluster("back", BACK), cluster("back2", BACK2), cluster("redis", REDIS), cluster("iperf", IPERF), cluster("mixed", DEAD, BACK),
    cluster("empty"), cluster("full", BACK, circuit_breakers={"thresholds": [{"max_connections": 1}]}),
    cluster("proxy1", PORT["proxy1"]), cluster("proxy2", PORT["proxy2"], http=H2_UP), cluster("edge", EDGE)])
weft = Proxy(config)


def records(name, want=1, kind="TcpConnectionEnd"):
    def look():
        v = [json.loads(x) for x in lines_of(LOG)]
        v = [x for x in v if x["l"] == name and x["t"] == kind]
        return v if len(v) >= want else None
    return wait_for(look, 5) or []


def forget_log():
    open(LOG, "w").close()


def rest(s):
    out = b""
    try:
        while True:
            d = s.recv(1 << 16)
            if not d:
                return out, "end"
            out += d
    except OSError as e:
        return out, type(e).__name__


def cx(name, greeting=True):
    s = dial(PORT[name])
    if greeting:
        got = b""
        while len(got) < 6:
            d = s.recv(6 - len(got))
            if not d:
                break
            got += d
        assert got == b"hello\n", got
    return s


def end_of(name):
    v = records(name)
    forget_log()
    return v[-1] if v else {}


# ---- ends in every order
s = cx("echo")
s.sendall(b"hi")
s.shutdown(socket.SHUT_WR)
tap.same(rest(s), (b"hi<end>", "end"), "the client ends first and still hears the answer")
me = s.getsockname()
s.close()
r = end_of("echo")
tap.same((r.get("f"), r.get("rx"), r.get("tx"), r.get("up"), r.get("c"), r.get("n"), r.get("peer")),
         ("-", 2, 13, "127.0.0.1:%d" % BACK, "back", 1, "%s:%d" % me), "its log line")
s = cx("echo")
s.sendall(b"FIN!")
got = rest(s)
s.sendall(b"more")
s.close()
tap.same(got, (b"bye", "end"), "the server ends first")
tap.ok(wait_for(lambda: count["after"] == 4), "and hears what the client says after that", dict(count))
end_of("echo")
s = cx("echo")
s.sendall(b"RST!")
tap.same(rest(s)[1], "ConnectionResetError", "a reset of the server reaches the client")
s.close()
tap.same(end_of("echo").get("f"), "UC", "the log says so")
n = count["ConnectionResetError"]
s = cx("echo")
s.sendall(b"x")
s.recv(1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()
tap.ok(wait_for(lambda: count["ConnectionResetError"] == n + 1), "a reset of the client reaches the server", dict(count))
tap.same(end_of("echo").get("f"), "DC", "the log says so")

# ---- real programs
cli = ["redis-cli", "-p", str(PORT["redis"])]
wait_for(lambda: subprocess.run(["redis-cli", "-p", str(REDIS), "ping"], capture_output=True).stdout.strip() == b"PONG")
feed = "".join("SET k%d %s\n" % (i, "v" * (1 + i % 300)) for i in range(3000)) + "DBSIZE\nGET k298\n"
out = subprocess.run(cli, input=feed.encode(), capture_output=True, timeout=60 * SLOW).stdout.split()
tap.same((out.count(b"OK"), out[-2:]), (3000, [b"3000", b"v" * 299]), "redis: 3,000 commands on a connection")
for args, text in (((), "to the server"), (("-R",), "to the client")):
    out = subprocess.run(["iperf3", "-c", "127.0.0.1", "-p", str(PORT["iperf"]), "-n", "200M", "-P", "2", "-J", *args], capture_output=True,
                         timeout=120 * SLOW).stdout
    d = json.loads(out)
    tap.ok("error" not in d and d["end"]["sum_received"]["bytes"] >= 50 << 20, "iperf3: 200 MB %s" % text, out[:500])
v = records("iperf", 6)
# its server stops listening when the client says it has sent all, whatever is on the way still
tap.ok(sum(x["rx"] for x in v) > 50 << 20 and sum(x["tx"] for x in v) > 50 << 20, "and the log counts them", v)

# ---- many, of every size, some read slowly
forget_log()
bad = []


def one(seed):
    rnd = random.Random(seed)
    data = rnd.randbytes(rnd.choice((0, 1, 100, 16384, 70000, 1 << 20, 4 << 20)))
    slow = rnd.random() < .3
    s = cx("echo")

    def send():
        at = 0
        while at < len(data):
            at += s.send(data[at:at + rnd.randint(1, 200000)])
        s.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send)
    t.start()
    got = b""
    while True:
        if slow and rnd.random() < .2:
            time.sleep(.01)
        d = s.recv(rnd.randint(1, 300000))
        if not d:
            break
        got += d
    t.join()
    s.close()
    if got != data + b"<end>":
        bad.append((seed, len(data), len(got)))


for lot in range(5):
    ts = [threading.Thread(target=one, args=(lot * 100 + i,)) for i in range(24)]
    [t.start() for t in ts]
    [t.join() for t in ts]
tap.same(bad, [], "120 connections of 0 to 4 MB, 24 at a time: every byte")
tap.same(len(records("echo", 120)), 120, "120 log lines")
tap.ok(all(x["f"] == "-" and x["tx"] == x["rx"] + 11 for x in records("echo", 120)), "with their bytes")
s = cx("echo")
s.setblocking(False)
sent, chunk, still = 0, b"z" * 65536, 0
while still < 20 and sent < 256 << 20:
    try:
        sent += s.send(chunk)
        still = 0
    except BlockingIOError:
        still += 1
        time.sleep(.02)
tap.ok(still == 20 and weft.rss() < 100 << 10, "a client that does not read is not read from", sent, weft.rss())
s.close()
forget_log()

# ---- time
t = time.monotonic()
s = cx("idle")
for _ in range(4):
    time.sleep(.3)
    s.sendall(b"a")
    s.recv(1)
tap.ok(time.monotonic() - t > 1, "a connection that says something lives beyond its idle timeout")
t = time.monotonic()
end = rest(s)
tap.ok(end[1] == "end" and .4 < time.monotonic() - t < 2 * SLOW, "idle_timeout", end, time.monotonic() - t)
tap.same(weft.stat("tcp.idle.idle_timeout"), 1, "counted")
s = cx("aged")
t = time.monotonic()
end = rest(s)
tap.ok(.3 < time.monotonic() - t < 2 * SLOW, "max_downstream_connection_duration", end)
tap.same((end_of("aged").get("f"), weft.stat("tcp.aged.max_downstream_connection_duration")), ("DT", 1), "told and counted")

# ---- which host
before = dict(count)
for _ in range(400):
    cx("weighted").close()
a, b = count[BACK] - before[BACK], count[BACK2] - before.get(BACK2, 0)
tap.ok(a + b == 400 and 60 <= b <= 145, "weights 3 and 1 of 400 connections", a, b)
ok = 0
for _ in range(20):
    s = cx("retry")
    s.close()
    ok += 1
v = records("retry", 20)
tap.ok(len(v) == 20 and {2} <= {x["n"] for x in v} <= {1, 2} and all(x["f"] in ("-", "DC") for x in v), "a host that refuses: the other one is tried", v)
for name, flag in (("none", "UH"), ("nowhere", "NC")):
    s = cx(name, False)
    tap.same(rest(s)[0], b"", "%s: closed" % name)
    s.close()
    tap.same(end_of(name).get("f"), flag, "flag %s" % flag)
tap.same(weft.stat("tcp.nowhere.downstream_cx_no_route"), 1, "downstream_cx_no_route")
one_open = cx("full")
s = cx("full", False)
tap.same(rest(s)[0], b"", "circuit breaker: the second connection is closed")
s.close()
tap.same(end_of("full").get("f"), "UO", "flag UO")
tap.same(weft.stat("cluster.full.upstream_cx_overflow"), 1, "upstream_cx_overflow")
one_open.close()

# ---- filters in front
first, second = cx("limited"), cx("limited")
s = cx("limited", False)
tap.same(rest(s)[0], b"", "connection_limit: the third is closed")
first.close()
tap.ok(wait_for(lambda: weft.stat("connection_limit.cl.active_connections") == 1), "a place is free again")
s = cx("limited")
s.sendall(b"ok")
tap.same(s.recv(2), b"ok", "and is taken")
tap.same(weft.stat("connection_limit.cl.limited_connections"), 1, "limited_connections")
s.close(), second.close()
first = cx("slowdown")
t = time.monotonic()
s = cx("slowdown", False)
rest(s)
tap.ok(.3 < time.monotonic() - t < 3 * SLOW, "refused after the delay")
first.close()
for _ in range(3):
    cx("rated").close()
records("rated", 3)
forget_log()
s = cx("rated", False)
tap.same(rest(s)[0], b"", "local_ratelimit: the fourth is closed")
tap.same((end_of("rated").get("f"), weft.stat("local_rate_limit.rl.rate_limited")), ("URX", 1), "told and counted")

several = [cx("unlimited") for _ in range(3)] + [cx("unrated") for _ in range(5)]
tap.same(len([x.close() for x in several]), 8, "runtime_enabled off: neither limits")
records("unlimited", 3), records("unrated", 5)
forget_log()

# ---- logs
s = cx("told")
tap.same(len(records("told", 1, "TcpUpstreamConnected")), 1, "a line when connected")
tap.ok(len(records("told", 2, "TcpPeriodic")) >= 2, "and every 0.3 s")
s.close()
end_of("told")
os.rename(LOG, LOG + ".1")
cx("echo").close()
wait_for(lambda: lines_of(LOG + ".1"))
tap.ok(lines_of(LOG + ".1") and not os.path.exists(LOG), "a log that was moved away is written on")
weft.p.send_signal(signal.SIGUSR1)
wait_for(lambda: os.path.exists(LOG))
cx("echo").close()
tap.same(len(records("echo")), 1, "SIGUSR1 opens it again")
forget_log()

# ---- tunnels
for name, proto in (("tun1", "HTTP/1.1"), ("tun2", "HTTP/2")):
    s = cx(name)
    data = os.urandom(3 << 20)
    t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
    t.start()
    got = rest(s)
    t.join()
    s.close()
    tap.ok(got == (data + b"<end>", "end"), "CONNECT over %s: 3 MB both ways and its ends" % proto, len(got[0]), got[1])
    r = end_of(name)
    tap.same((r.get("f"), r.get("rx"), r.get("tx"), r.get("p")), ("-", len(data), len(data) + 11, proto), "its log line")

edge = socket.socket()
edge.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
edge.bind(("127.0.0.1", EDGE))
edge.listen(8)
heads = []


def edges():
    for answer in (b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"):
        c, _ = edge.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += c.recv(4096)
        heads.append(head.split(b"\r\n\r\n")[0].decode().lower().split("\r\n"))
        c.sendall(answer)
        time.sleep(.1)


threading.Thread(target=edges, daemon=True).start()
s = cx("post", False)
s.shutdown(socket.SHUT_WR)
tap.same(rest(s), (b"hello", "end"), "POST: a refused attempt is followed by one that is taken")
s.close()
tap.ok(len(heads) == 2 and heads[0][0] == "post /tunnel http/1.1" and "host: web.example" in heads[0], "as it was asked for", heads)
tap.same(end_of("post").get("n"), 2, "two attempts in the log")

time.sleep(.2)
tap.ok(wait_for(lambda: weft.stat("cluster.back.upstream_cx_active") == 0), "no connection is left", weft.stats("upstream_cx_active"))
tap.same(weft.stop(), 0, "it ends in order")
sys.exit(1 if tap.done() else 0)
EOF
