#!/usr/bin/python3
"""Options of the HTTP connection manager and of its codecs: the same bootstrap through weft-waypoint and a real Envoy. Each probe talks to
one of them and says what it saw; both must have seen the same, and what is expected of the option. ENVOY: its binary. ONLY=REGEX: some."""
import base64
import hashlib
import hmac
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import H2Client  # noqa: E402
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    BIN, Proxy, Reply, SLOW, T, Tap, ask, bootstrap, chain, cluster, dial, free_ports, hcm, json_log, lines_of, listener, say, to, wait_for, WORK)

X = T + ".extensions."
F = X + "filters.http."
CASE = X + "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
DEAD = free_ports(1)[0]
PROBES, EFFECTS = [], []


def probe(*args, **how):
    """A function of a pair, and of args; want: what both must have seen; weft: what weft must have seen, as Envoy does otherwise"""
    def add(fn):
        PROBES.append((fn.__name__.replace("_", " ") + "".join(" %s" % (a,) for a in args), fn, args, how))
        return fn
    return add


def many(v, at=0, like=(), **how):
    """For each of v. What is seen must depend on the at-th argument, but for those that are like the first"""
    def add(fn):
        args = [a if isinstance(a, tuple) else (a,) for a in v]
        for a in args:
            probe(*a, **how)(fn)
        EFFECTS.append((fn, args, at, like))
        return fn
    return add


class Raw:
    """An HTTP/1 server that keeps heads as they came and answers by path from ANSWERS"""
    ANSWERS = {
        "plain": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "odd": b"HTTP/1.1 200 Fine By Me\r\nX-ODD: 1\r\nx-Odd: 2\r\nContent-Length: 2\r\nDate: Sat\r\nSERVER: me\r\n\r\nok",
        "low": b"HTTP/1.1 299 Quite\r\nx-low: 1\r\nconTENT-length: 2\r\n\r\nok",
        "chunks": b"HTTP/1.1 200 Chunks\r\nTransfer-Encoding: chunked\r\nX-One: 1\r\n\r\n2\r\nok\r\n0\r\nX-TRAIL: 1\r\n\r\n",
        "none": b"HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n",
        "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "advert": b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2,h2c\r\nContent-Length: 2\r\n\r\nok",
        "proxied": b"HTTP/1.1 200 OK\r\nProxy-Status: origin; error=http_request_denied\r\ncontent-length: 2\r\n\r\nok",
    }

    def __init__(self):
        self.heads, self.sock = {}, socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(64)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            c, _ = self.sock.accept()
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        buf = b""
        while True:
            while b"\r\n\r\n" not in buf:
                got = c.recv(65536)
                if not got:
                    return c.close()
                buf += got
            head, buf = buf.split(b"\r\n\r\n", 1)
            key = re.search(rb"(?i)\r\nx-key: (\S+)", head)
            self.heads[key.group(1).decode() if key else None] = head.decode("latin-1")
            if re.search(rb"(?i)\r\ntransfer-encoding: chunked", head):
                while b"0\r\n" not in buf or not buf.endswith(b"\r\n\r\n"):
                    buf += c.recv(65536)
                self.heads[(key.group(1).decode(), "rest")] = buf.decode("latin-1")
                buf = b""
            c.sendall(self.ANSWERS.get(head.split(b" ")[1].decode().strip("/").split("/")[-1], self.ANSWERS["plain"]))


def settings(**h1):
    return {"http_protocol_options": h1}


def formatter(**options):
    return {"header_key_format": {"stateful_formatter": {"name": "preserve_case", "typed_config": {"@type": CASE, **options}}}}


def up_h1(**h1):
    return {"explicit_http_config": {"http_protocol_options": h1}}


def status_of(**options):
    return {"proxy_status_config": options}


def xff(**options):
    return {"original_ip_detection_extensions": [{"name": "xff", "typed_config": {"@type": X + "http.original_ip_detection.xff.v3.XffConfig", **options}}],
            "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}}


def cidr(text):
    a, n = text.split("/")
    return {"address_prefix": a, "prefix_len": int(n)}


def uuid(**options):
    return {"request_id_extension": {"typed_config": {"@type": X + "request_id.uuid.v3.UuidRequestIdConfig", **options}}}


def early(*mutations):
    return {"early_header_mutation_extensions": [{"name": "e%d" % i, "typed_config": {
        "@type": X + "http.early_header_mutation.header_mutation.v3.HeaderMutation", "mutations": m}} for i, m in enumerate(mutations)]}


def put(key, value, how="OVERWRITE_IF_EXISTS_OR_ADD"):
    return {"append": {"header": {"key": key, "value": value}, "append_action": how}}


H2 = {"codec_type": "HTTP2"}
LISTENERS = {  # options of the connection manager, each a listener
    "main": {},
    "relative": settings(allow_absolute_url=False),
    "lengths": settings(allow_chunked_length=True),
    "old": settings(accept_http_10=True, default_host_for_http_10="old.example"),
    "lenient": {"stream_error_on_invalid_http_message": True},
    "lenient1": settings(override_stream_error_on_invalid_http_message=True),
    "strict1": {"stream_error_on_invalid_http_message": True, **settings(override_stream_error_on_invalid_http_message=False)},
    "dot": {"strip_trailing_host_dot": True},
    "dotport": {"strip_trailing_host_dot": True, "strip_any_host_port": True},
    "mapped": {"use_remote_address": True, "represent_ipv4_remote_address_as_ipv4_mapped_ipv6": True},
    "unmapped": {"use_remote_address": True},
    "unixin": {"use_remote_address": True, "internal_address_config": {"unix_sockets": True}},
    "unixout": {"use_remote_address": True, "internal_address_config": {"unix_sockets": False}},
    "trusted": xff(xff_trusted_cidrs={"cidrs": [cidr("127.0.0.0/8"), cidr("192.0.2.0/24")]}, skip_xff_append=True),
    "untrusted": xff(xff_trusted_cidrs={"cidrs": [cidr("192.0.2.0/24")]}, skip_xff_append=True),
    "hops": xff(xff_num_trusted_hops=1),
    "packed": {"use_remote_address": True, "preserve_external_request_id": True, **uuid(pack_trace_reason=True)},
    "unpacked": {"use_remote_address": True, "preserve_external_request_id": True, **uuid(pack_trace_reason=False)},
    "aged": {"common_http_protocol_options": {"max_connection_duration": "0.3s"}, "drain_timeout": "0.2s"},
    "agedsafe": {"common_http_protocol_options": {"max_connection_duration": "0.3s"}, "drain_timeout": "0.2s",
                 "http1_safe_max_connection_duration": True},
    "agedlong": {"common_http_protocol_options": {"max_connection_duration": "0.3s"}, "drain_timeout": "60s"},
    "flush": {"stream_flush_timeout": "0.3s", **H2},
    "flushlong": {"stream_flush_timeout": "60s", "stream_idle_timeout": "0.3s", **H2},
    "logold": {"flush_access_log_on_new_request": True, "access_log_flush_interval": "0.2s"},
    "lognew": {"access_log_options": {"flush_access_log_on_new_request": True, "access_log_flush_interval": "0.2s"}},
    "logend": {},
    "tunnel": {"upgrade_configs": [{"upgrade_type": "websocket"}], "access_log_options": {"flush_log_on_tunnel_successfully_established": True}},
    "tables": {**H2, "http2_protocol_options": {"hpack_table_size": 1024, "initial_stream_window_size": 70000, "initial_connection_window_size": 100000,
                                               "max_concurrent_streams": 7, "allow_metadata": False}},
    "defaults": H2,
    "nopack": {**H2, "http2_protocol_options": {"hpack_table_size": 0}},
    "calm": {**H2},
    "frames": {**H2, "http2_protocol_options": {"max_outbound_frames": 20}},
    "control": {**H2, "http2_protocol_options": {"max_outbound_control_frames": 10}},
    "alive": {**H2, "http2_protocol_options": {"connection_keepalive": {"interval": "0.2s", "timeout": "0.2s"}}},
    "bad2": {**H2},
    "bad2lenient": {**H2, "stream_error_on_invalid_http_message": True},
    "bad2old": {**H2, "http2_protocol_options": {"stream_error_on_invalid_http_messaging": True}},
    "bad2new": {**H2, "http2_protocol_options": {"override_stream_error_on_invalid_http_message": True}},
    "bad2strict": {**H2, "stream_error_on_invalid_http_message": True,
                   "http2_protocol_options": {"override_stream_error_on_invalid_http_message": False}},
    "keep": settings(**formatter(), enable_trailers=True),
    "keepproper": settings(**formatter(formatter_type_on_envoy_headers="PROPER_CASE")),
    "proper": settings(header_key_format={"proper_case_words": {}}),
    "unheard": {"upgrade_configs": [{"upgrade_type": "websocket"}],
                **settings(ignore_http_11_upgrade=[{"prefix": "TLS/"}, {"exact": "foo"}])},
    "heard": {"upgrade_configs": [{"upgrade_type": "websocket"}]},
    "early": {"use_remote_address": True, "xff_num_trusted_hops": 1, **early(
        [put("x-forwarded-for", "10.9.8.7"), put("x-made", "%REQ(x-old)%"), {"remove": "x-old"}],
        [put("x-made", "twice", "APPEND_IF_EXISTS_OR_ADD"), {"remove_on_match": {"key_matcher": {"prefix": "x-drop-"}}}])},
    "status": status_of(),
    "statusbare": status_of(remove_details=True, literal_proxy_name="edge"),
    "statusflags": status_of(remove_response_flags=True, use_node_id=True),
    "statuscode": status_of(set_recommended_response_code=True, remove_connection_termination_details=True),
    "optional": {},
    "traced": {"tracing": {}},
}
EXTRA = {"optional": [{"name": "nobody", "is_optional": True, "typed_config": {"@type": T + ".config.core.v3.Locality", "zone": "no filter"}}]}
LOG = {"case": "%REQ(x-key)%", "type": "%ACCESS_LOG_TYPE%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
       "remote": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "trace": "%TRACE_ID%"}


def b64(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


SECRET = b"0123456789abcdef0123456789abcdef"


def token(claims):
    h = b64(b'{"alg":"HS256"}') + "." + b64(json.dumps({"iss": "me", **claims}).encode())
    return h + "." + b64(hmac.new(SECRET, h.encode(), hashlib.sha256).digest())


VALUES = {"null": {"null_match": {}}, "exact": {"double_match": {"exact": 1.5}}, "range": {"double_match": {"range": {"start": 1, "end": 2}}},
          "true": {"bool_match": True}, "false": {"bool_match": False}, "present": {"present_match": True},
          "either": {"or_match": {"value_matchers": [{"string_match": {"exact": "a"}}, {"double_match": {"exact": 2}}, {"null_match": {}}]}}}


def matchers():
    """jwt_authn writes the claims to metadata; RBAC lets in by one matcher a path"""
    keys = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": b64(SECRET)}]})
    jwt = {"name": "jwt", "typed_config": {"@type": F + "jwt_authn.v3.JwtAuthentication", "providers": {
        "p": {"issuer": "me", "local_jwks": {"inline_string": keys}, "payload_in_metadata": "claims"}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]}}
    rules = {}
    for name, v in VALUES.items():
        for invert in (False, True):
            path = "/%s/%s" % (name, "not" if invert else "is")
            rules[path] = {"permissions": [{"and_rules": {"rules": [
                {"url_path": {"path": {"exact": path}}},
                {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "claims"}, {"key": "c"}], "value": v, "invert": invert}}]}}],
                "principals": [{"any": True}]}
    return [jwt, {"name": "rbac", "typed_config": {"@type": F + "rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": rules}}}]


class Pair:
    def __init__(self, kind, ups):
        self.kind, self.ups = kind, ups
        names = list(LISTENERS) + ["matchers"]
        self.ports = dict(zip(names, free_ports(len(names))))
        self.unix = {n: os.path.join(WORK, "%s-%s.sock" % (kind, n)) for n in ("unixin", "unixout")}
        self.logs = {n: os.path.join(WORK, "%s-%s.access" % (kind, n)) for n in names}
        self.heads, self.proxy = ups["raw"].heads, None
        self.proxy = Proxy(bootstrap([self.listener(n) for n in names], self.clusters(), node={
            "id": "the-node", "cluster": "the-cluster", "locality": {"region": "r", "zone": "z", "sub_zone": "s"}}), kind,
            args=("--file-flush-interval-msec", "100") if kind == "envoy" else (), env={**os.environ, "WEFT_HCM_TEXT": "from the environment"})

    def listener(self, name):
        options = dict(LISTENERS.get(name, {}))
        options.setdefault("stat_prefix", name)
        filters = EXTRA.get(name, []) + (matchers() if name == "matchers" else [])
        out = listener(name, self.ports[name], chain(hcm(self.routes(), filters, access_log=json_log(self.logs[name], **LOG), **options)))
        if name in self.unix:
            out["address"] = {"pipe": {"path": self.unix[name]}}
        if name in ("mapped", "unmapped"):
            out["address"]["socket_address"]["address"] = "0.0.0.0"
        if name in ("calm", "frames", "control"):
            out["socket_options"] = [{"level": 1, "name": 7, "int_value": 8192, "state": "STATE_PREBIND"}]
        return out

    def routes(self):
        raw = base64.b64encode(b"raw value").decode()
        return [to("dead", "/dead"), to("raw", "/raw/"), to("rawkeep", "/rawkeep/"), to("rawproper", "/rawproper/"), to("rawreason", "/rawreason/"),
                to("rawupper", "/rawupper/"), to("rawignore", "/rawignore/"),
                to("none", "/none"), to("zero", "/zero"), to("up", "/slow", timeout="0.2s"),
                to("up", "/again", retry_policy={"retry_on": "5xx", "num_retries": 1, "retry_back_off": {"base_interval": "0.005s"}}),
                to("up", "/ws", upgrade_configs=[{"upgrade_type": "websocket"}]),
                say("/direct", 200, "said"),
                {"match": {"prefix": "/env"}, "direct_response": {"status": 200, "body": {"environment_variable": "WEFT_HCM_TEXT"}}},
                to("up", "/rawvalue", route_={"request_headers_to_add": [{"header": {"key": "x-raw", "raw_value": raw}}]}),
                to("up", "/up"), {"match": {"path": "/"}, "route": {"cluster": "up"}}]

    def clusters(self):
        raw = self.ups["raw"].port
        return [cluster("up", self.ups["up"].port), cluster("dead", DEAD), cluster("raw", raw, http=up_h1(enable_trailers=True)),
                cluster("rawkeep", raw, http=up_h1(**formatter(), enable_trailers=True)),
                cluster("rawproper", raw, http=up_h1(header_key_format={"proper_case_words": {}})),
                cluster("rawreason", raw, http=up_h1(**formatter(forward_reason_phrase=True))),
                cluster("rawignore", raw, http=up_h1(ignore_http_11_upgrade=[{"prefix": "h2"}])),
                cluster("rawupper", raw, http=up_h1(**formatter(formatter_type_on_envoy_headers="PROPER_CASE"))),
                {"name": "none", "connect_timeout": "1s", "load_assignment": {"cluster_name": "none"}},
                cluster("zero", self.ups["up"].port, circuit_breakers={"thresholds": [{"max_requests": 0, "max_pending_requests": 0}]})]

    def ask(self, where, path="/up", **how):
        return ask(self.ports[where], path, timeout=5, **how)

    def key(self, text):
        return "%s-%s" % (self.kind, text)

    def log(self, where, n, key=None):
        """The first n lines of a listener's log, of requests with a key"""
        def some():
            v = [json.loads(x) for x in lines_of(self.logs[where])] if os.path.exists(self.logs[where]) else []
            v = [d for d in v if key is None or d["case"] == key]
            return v if len(v) >= n else None
        return wait_for(some, 10) or []


SKIP = re.compile(r"^(date|x-request-id|x-envoy-upstream-service-time|x-key|server|x-do):", re.I)


def lines(text):
    """A head as it stands, but for what differs from run to run"""
    first, *rest = text.split("\r\n")
    return [first] + sorted(x for x in rest if x and not SKIP.match(x))


def exchange(port, *sent, count=1, seconds=5):
    """What comes back on one connection for raw bytes: heads with bodies, until so many were answered or it ended"""
    s = dial(port, timeout=seconds)
    out, buf = [], b""
    try:
        for piece in sent:
            s.sendall(piece)
        while len(out) < count:
            r = Reply(s, buf=buf)
            if not r.status:
                break
            out.append((r.status, r.get("connection"), r.whole))
            buf = r.buf
        s.settimeout(1 * SLOW)
        try:
            rest = buf + s.recv(4096)
            end = "more" if rest else "closed"
        except TimeoutError:
            end = "open"
        except ConnectionError:
            end = "closed"
    except ConnectionError:
        end = "closed"
    finally:
        s.close()
    return out, end


def raw_head(port, data):
    """The head of the one answer, byte for byte"""
    with dial(port, timeout=5) as s:
        s.sendall(data)
        buf = b""
        while b"\r\n\r\n" not in buf:
            got = s.recv(65536)
            if not got:
                break
            buf += got
    return buf.split(b"\r\n\r\n")[0].decode("latin-1")


# ---- HTTP/1

GOOD = b"GET /direct HTTP/1.1\r\nhost: test\r\n\r\n"


@many([("main", "test"), ("relative", "test")])
def absolute_url(p, where, _):
    r = p.ask(where, raw=b"GET http://inside.example/up/x?q HTTP/1.1\r\nhost: outside\r\n\r\n")
    return r.status, r.json().get("path"), r.seen("host")


@many(["main", "lengths"])
def chunks_beside_a_length(p, where):
    key = p.key("len-" + where)
    r = p.ask(where, raw=b"POST /raw/plain HTTP/1.1\r\nhost: a\r\nx-key: %s\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
              % key.encode())
    return r.status, [x for x in lines(p.heads.get(key, "")) if re.match("(?i)content-length|transfer", x)], p.heads.get((key, "rest"))


@many(["main", "old"])
def http_1_0_without_host(p, where):
    r = p.ask(where, raw=b"GET /up HTTP/1.0\r\n\r\n")
    return r.status, r.seen("host")


BROKEN = {"no host": b"GET /direct HTTP/1.1\r\n\r\n", "two hosts": b"GET /direct HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
          "escape": b"GET /direct HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n", "header": b"GET /direct HTTP/1.1\r\nhost: a\r\nnocolon\r\n\r\n",
          "version": b"GET /direct HTTP/9.1\r\nhost: a\r\n\r\n"}


@many([(w, b) for w in ("main", "lenient", "lenient1", "strict1") for b in BROKEN], like=["strict1"])
def broken_then_good(p, where, what):
    return exchange(p.ports[where], BROKEN[what] + GOOD, count=2)


@many([(w, h) for w in ("main", "dot", "dotport") for h in ("test.", "test", "test.:8080", "test:8080", ".", "a..", "[::1]")])
def host_dot(p, where, host):
    r = p.ask(where, host=host)
    return r.status, r.seen("host")


@many([(w, k) for w in ("raw", "rawkeep", "rawproper", "rawreason", "rawupper") for k in ("main", "keep", "keepproper", "proper")], like=["rawkeep", "rawreason", "rawupper"])
@many([("raw", w) for w in ("main", "keep", "keepproper", "proper")], at=1, like=["proper"])
def case_of_requests(p, up, where):
    key = p.key("%s-%s" % (up, where))
    data = "GET /%s/plain HTTP/1.1\r\nHOST: a\r\nX-KEY: %s\r\nX-One: 1\r\nx-one: 2\r\nUser-AGENT: me\r\nx-lower: 1\r\nConnection: keep-alive\r\n\r\n" % (up, key)
    raw_head(p.ports[where], data.encode())
    return lines(p.heads.get(key, ""))[1:]


@many([(u, w, a) for u in ("raw", "rawkeep", "rawproper", "rawreason", "rawupper") for w in ("main", "keep", "proper") for a in Raw.ANSWERS], like=["rawproper"])
@many([("rawignore", "main", a) for a in ("plain", "advert")])
@many([("raw", w, "plain") for w in ("main", "proper")], at=1)
def case_of_answers(p, up, where, what):
    return lines(raw_head(p.ports[where], b"GET /%s/%s HTTP/1.1\r\nHost: a\r\n\r\n" % (up.encode(), what.encode())))


@many(["main", "keep", "proper", "keepproper"], like=["keep", "keepproper"])
def case_of_own_answers(p, where):
    return lines(raw_head(p.ports[where], b"GET /direct HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n"))


@many(["main", "keep", "keepproper"])
def case_of_a_chunked_request(p, where):
    key = p.key("chunked-" + where)
    raw_head(p.ports[where], b"POST /raw/plain HTTP/1.1\r\nHost: a\r\nX-Key: %s\r\nTransfer-ENCODING: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Trail: 1\r\n\r\n" % key.encode())
    return lines(p.heads.get(key, "")), p.heads.get((key, "rest"))


@many([(w, u) for w in ("heard", "unheard") for u in ("TLS/1.2", "foo", "FOO", "foo, TLS/1.3", "h2c", "websocket", "foo, websocket", "bar")])
def upgrade(p, where, what):
    key = p.key("up-%s-%s" % (where, what.replace(" ", "")))
    head = raw_head(p.ports[where], ("GET /raw/plain HTTP/1.1\r\nHost: a\r\nX-Key: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n" % (key, what)).encode())
    seen = [x for x in lines(p.heads.get(key, "")) if re.match("(?i)(upgrade|connection):", x)]
    return head.split("\r\n")[0], seen


# ---- who the client is

def own_address():
    for line in subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=False).stdout.splitlines():
        a = re.search(r"inet ([0-9.]+)/", line)
        if a and not a.group(1).startswith("127."):
            return a.group(1)
    return None


OWN = own_address()


@many(["mapped", "unmapped"])
def an_ipv4_client(p, where):
    if not OWN:
        return "no address but loopback"
    with dial(p.ports[where], host=OWN, timeout=5) as s:
        r = ask(0, "/up", sock=s)
    return r.status, r.seen("x-forwarded-for"), r.seen("x-envoy-external-address"), r.seen("x-envoy-internal")


@many(["unixin", "unixout"])
def a_client_on_a_unix_socket(p, where):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(p.unix[where])
        s.sendall(b"GET /up HTTP/1.1\r\nhost: test\r\nx-envoy-retry-on: 5xx\r\n\r\n")
        r = Reply(s)
    return r.status, r.seen("x-envoy-internal"), r.seen("x-forwarded-for"), r.seen("x-envoy-retry-on")


@many([(w, x) for w in ("trusted", "untrusted", "hops") for x in (
    None, "1.2.3.4", "1.2.3.4, 192.0.2.7", "192.0.2.1,192.0.2.2", "10.0.0.1", "10.0.0.1,192.0.2.9", "junk", "1.2.3.4,junk", "5.6.7.8, 1.2.3.4,127.0.0.9", "")])
def trusted_cidrs(p, where, value):
    key = p.key("xff-%s" % value).replace(" ", "")
    r = p.ask(where, headers=[("x-key", key)] + ([("x-forwarded-for", value)] if value is not None else []))
    return r.status, [r.seen(h) for h in ("x-forwarded-for", "x-envoy-internal", "x-envoy-external-address")], [d["remote"] for d in p.log(where, 1, key)]


IDS = ["f4dca0a9-12c7-4307-8002-969403baf480", "f4dca0a9-12c7-a307-8002-969403baf480", "f4dca0a9-12c7-b307-8002-969403baf480",
       "f4dca0a9-12c7-9307-8002-969403baf480", "short", ""]


@many([(w, i) for w in ("packed", "unpacked") for i in IDS])
def request_id_from_outside(p, where, value):
    got = p.ask(where, headers=[("x-request-id", value)]).seen("x-request-id")
    return got if got == value else re.sub("[0-9a-f]", "h", got[:14]) + got[14]


@many(["main", "early"])
def early_mutation(p, where):
    key = p.key("early-" + where)
    r = p.ask(where, headers=[("x-key", key), ("x-old", "kept"), ("x-drop-a", "1"), ("x-drop-b", "2")])
    seen = sorted(kv for kv in map(tuple, r.json()["headers"]) if kv[0] in ("x-old", "x-made", "x-drop-a", "x-forwarded-for", "x-envoy-external-address"))
    return [s if s[0] != "x-forwarded-for" else (s[0], s[1].split(",")[0]) for s in seen], [d["remote"] for d in p.log(where, 1, key)]


@many(["main", "traced"], at=0)
def tracing(p, where):
    """The trace id that came is in the log; the request goes on as it came"""
    key = p.key("trace-" + where)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    r = p.ask(where, headers=[("x-key", key), ("traceparent", parent)])
    return r.seen("traceparent") == parent, [d["trace"] for d in p.log(where, 1, key)]


# ---- Proxy-Status

@many([(w, c) for w in ("main", "status", "statusbare", "statusflags", "statuscode") for c in (
    "/direct", "/up", "/lost", "/dead", "/none", "/zero", "/slow", "/again", "/raw/proxied", "bad", "reset")])
def proxy_status(p, where, what):
    do = {"/slow": "delay=900", "/again": "status=503", "reset": "how=close"}.get(what)
    key = p.key("%s%s" % (where, what))
    if what == "bad":
        r = p.ask(where, raw=b"GET /direct HTTP/1.1\r\nhost a\r\n\r\n")
        return r.status, r.get("proxy-status")
    r = p.ask(where, path=what if what[0] == "/" else "/up", method="POST", body=b"1", do=do, headers=[("x-key", key)])
    return r.status, r.get("proxy-status"), [d["code"] for d in p.log(where, 1, key)]


# ---- values of configuration

@probe(want=(200, "from the environment"))
def environment_variable(p):
    r = p.ask("main", "/env")
    return r.status, r.body.decode()


@probe(want=(False, True))
def watched_directory(p):
    """Envoy reads such a body again; weft says that it would not"""
    body = {"filename": "/dev/null", "watched_directory": {"path": "/dev"}}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": body}}
    ok, text = validated("weft", bootstrap([listener("l", 0, chain(hcm([route])))], []))
    return ok, "watched_directory: is not supported here" in text


@probe(weft=(200, "raw value"), why="Envoy passes over it")
def raw_value(p):
    r = p.ask("main", "/rawvalue")
    return r.status, r.seen("x-raw")


@probe(want=200)
def optional_filter_that_is_none(p):
    return p.ask("optional").status


def validated(kind, config):
    path = os.path.join(WORK, "validate-%s-%d.json" % (kind, threading.get_ident()))
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f)
    cmd = [os.environ["ENVOY"] if kind == "envoy" else os.path.join(BIN, "weft-waypoint"), "--mode", "validate", "-c", path]
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    return r.returncode == 0, r.stdout + r.stderr


@many([(o,) for o in (True, False)])
def is_optional(p, value):
    f = {**EXTRA["optional"][0], "is_optional": value}
    return validated(p.kind, bootstrap([listener("l", 0, chain(hcm([say("/", 200)], [f])))], []))[0]


@many([(c, v) for c in VALUES for v in (None, 1.5, 2, True, False, "a", "zz", "-")])
def metadata_value(p, name, value):
    auth = [("authorization", "Bearer " + token({} if value == "-" else {"c": value}))]
    return [p.ask("matchers", "/%s/%s" % (name, how), headers=auth).status for how in ("is", "not")]


# ---- time

@many(["aged", "agedsafe"])
def old_connection_of_http_1(p, where):
    """After its time: the next answer says so (safe), or nothing more is read"""
    with dial(p.ports[where], timeout=5) as s:
        first = ask(0, "/direct", sock=s)
        time.sleep(1.2)
        try:
            second = ask(0, "/direct", sock=s)
        except OSError:
            return first.get("connection"), "closed"
        return first.get("connection"), second.status and (second.status, second.get("connection")) or "closed"


class Frames:
    """HTTP/2 by frames: what a peer sends is kept as (type, flags, stream, payload)"""

    def __init__(self, port, settings=b"", rcvbuf=0):
        self.s = socket.socket()
        if rcvbuf:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.s.settimeout(10 * SLOW)
        self.s.connect(("127.0.0.1", port))
        self.buf, self.got, self.closed = b"", [], False
        self.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(4, 0, 0, settings))

    @staticmethod
    def frame(kind, flags, stream, payload=b""):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def write(self, data):
        try:
            self.s.sendall(data)
            return True
        except OSError:
            return False

    def step(self):
        try:
            data = self.s.recv(65536)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
        self.buf += data
        while len(self.buf) >= 9 and len(self.buf) >= 9 + int.from_bytes(self.buf[:3], "big"):
            n = int.from_bytes(self.buf[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", self.buf[3:9])
            self.got.append((kind, flags, stream & 0x7fffffff, self.buf[9:9 + n]))
            self.buf = self.buf[9 + n:]
            if kind == 4 and not flags & 1:
                self.write(self.frame(4, 1, 0))

    def until(self, what, seconds=5.0):
        end = time.monotonic() + seconds * SLOW
        self.s.settimeout(0.1)
        while not what() and not self.closed and time.monotonic() < end:
            self.step()
        return what()

    def of(self, kind):
        return [f for f in self.got if f[0] == kind]

    def close(self):
        self.s.close()


HEAD = b"\x82\x86\x84\x41\x04test"  # GET http / test


def request(sid, path=b"/direct", block=b"\x82\x86\x41\x04test", end=True):
    block = block + b"\x04" + bytes([len(path)]) + path
    return Frames.frame(1, 4 | end, sid, block)


@many(["aged", "agedlong"])
def old_connection_of_http_2(p, where):
    """GOAWAY as a notice, and after drain_timeout the last word and the end"""
    c = Frames(p.ports[where])
    c.write(request(1))
    c.until(lambda: c.of(7), 10)
    notice = [struct.unpack(">II", f[3][:8]) for f in c.of(7)]
    last = c.until(lambda: c.closed or len(c.of(7)) > 1, 2)
    ids = [struct.unpack(">II", f[3][:8]) for f in c.of(7)]
    c.close()
    return notice[:1], bool(last), ids[1:]


@many(["flush", "flushlong"])
def a_client_that_takes_nothing(p, where):
    key = p.key(where)
    c = H2Client(p.ports[where], window=1000, hold=True)
    c.s.settimeout(1)
    sid = c.send("/up", do="body=50000", headers=[("x-key", key)])
    end = time.monotonic() + 2.5 * SLOW
    while time.monotonic() < end and c.answers[sid].reset is None and not c.closed:
        try:
            c.step()
        except TimeoutError:
            pass
    a = c.answers[sid]
    c.close()
    return a.status, a.reset, len(a.body)


@many(["logend", "logold", "lognew"])
def log_lines_of_a_request(p, where):
    key = p.key(where)
    p.ask(where, do="delay=700", headers=[("x-key", key)])
    wait_for(lambda: [d for d in p.log(where, 1, key) if d["type"] == "DownstreamEnd"], 10)
    types = [d["type"] for d in p.log(where, 1, key)]
    return [t for i, t in enumerate(types) if i == 0 or types[i - 1] != t], types.count("DownstreamPeriodic") > 1


@many(["tunnel", "heard"])
def log_lines_of_a_tunnel(p, where):
    key = p.key("ws-" + where)
    with dial(p.ports[where], timeout=5) as s:
        s.sendall(("GET /ws HTTP/1.1\r\nhost: a\r\nx-key: %s\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" % key).encode())
        r = Reply(s)
        s.sendall(b"x")
        s.recv(1)
        open_ = [d["type"] for d in p.log(where, 1, key)] if where == "tunnel" else []
    wait_for(lambda: [d for d in p.log(where, 1, key) if d["type"] == "DownstreamEnd"], 10)
    return r.status, open_, [d["type"] for d in p.log(where, 1, key)]


# ---- HTTP/2

@many(["defaults", "tables", "nopack"])
def settings_and_window(p, where):
    c = Frames(p.ports[where])
    c.write(request(1))
    c.until(lambda: c.of(1))
    first = c.of(4)[0][3]
    found = dict(struct.unpack(">HI", first[i:i + 6]) for i in range(0, len(first), 6))
    grown = [struct.unpack(">I", f[3])[0] for f in c.of(8) if f[2] == 0]
    c.close()
    return {1: 4096, **{k: found[k] for k in (1, 3, 4) if k in found}}, grown


@many(["calm", "frames"])
def frames_that_nobody_reads(p, where):
    """A client that asks for much and reads nothing"""
    c = Frames(p.ports[where], struct.pack(">HI", 4, 0x7fffffff), rcvbuf=4096)
    c.until(lambda: c.of(4))
    c.write(Frames.frame(8, 0, 0, struct.pack(">I", 0x7fff0000)))
    for i in range(60):
        if not c.write(Frames.frame(1, 5, 2 * i + 1, b"\x82\x86\x41\x04test\x04\x03/up" + b"\x00\x04x-do\x0abody=30000")):
            break
    cut = bool(wait_for(lambda: p.proxy.stat("http.%s.downstream_cx_active" % where) == 0, 4))
    c.close()
    return cut


@many(["calm", "control"])
def pings_that_nobody_reads(p, where):
    c = Frames(p.ports[where], rcvbuf=4096)
    c.until(lambda: c.of(4))
    c.write(Frames.frame(6, 0, 0, b"12345678") * 200)
    cut = bool(wait_for(lambda: p.proxy.stat("http.%s.downstream_cx_active" % where) == 0, 4))
    c.close()
    return cut


@many([("defaults", False), ("alive", False), ("alive", True)])
def keepalive(p, where, answers):
    c = Frames(p.ports[where])
    c.write(request(1))
    seen, end = 0, time.monotonic() + 1.5 * SLOW
    while time.monotonic() < end and not c.closed:
        c.until(lambda: len(c.of(6)) > seen, 0.2)
        for f in c.of(6)[seen:]:
            seen += 1
            if answers and not f[1] & 1:
                c.write(Frames.frame(6, 1, 0, f[3]))
    out = c.closed, seen > 1 if answers else min(seen, 1)
    c.close()
    return out


BAD2 = {"upper": b"\x82\x86\x41\x04test\x04\x07/direct\x00\x01X\x011", "newline": b"\x82\x86\x41\x04test\x04\x07/direct\x00\x01x\x03a\nb",
        "connection": b"\x82\x86\x41\x04test\x04\x07/direct\x00\x0aconnection\x05close", "no path": b"\x82\x86\x41\x04test",
        "twice": b"\x82\x82\x86\x41\x04test\x04\x07/direct", "unknown pseudo": b"\x82\x86\x41\x04test\x04\x07/direct\x00\x02:x\x011"}


@many([(w, b) for w in ("bad2", "bad2lenient", "bad2old", "bad2new", "bad2strict") for b in BAD2], like=["bad2strict"])
def bad_message(p, where, what):
    """Whether the connection lives on after one"""
    c = Frames(p.ports[where])
    c.write(Frames.frame(1, 5, 1, BAD2[what]))
    c.write(request(3))
    c.until(lambda: c.closed or [f for f in c.got if f[0] in (0, 1) and f[2] == 3])
    good = bool([f for f in c.of(1) if f[2] == 3])
    reset = [struct.unpack(">I", f[3])[0] for f in c.of(3) if f[2] == 1]
    c.close()
    return {"second answered": good, "reset": reset}


@probe(want=[True, False])
def metadata_frames(p):
    """METADATA is not taken by weft, and said so; Envoy takes it"""
    out = []
    for on in (False, True):
        out.append(validated("weft", bootstrap([listener("l", 0, chain(hcm([say("/", 200)], http2_protocol_options={"allow_metadata": on})))], [])))
    return [o[0] for o in out] if "allow_metadata: true is not supported" in out[1][1] else out


KNOWN = [
    ("two hosts$", "a request with two is refused"),
    ("^upgrade (heard|unheard|unheard foo,) websocket", "the value of Connection goes on in lower case"),
    ("^tracing traced", "Envoy names a trace only where it makes spans"),
    ("^an ipv4 client mapped", "Envoy does not map, though it says so"),
]


def known(name):
    return next((why for rx, why in KNOWN if re.search(rx, name)), None)


def run(fn, pair, args):
    try:
        return fn(pair, *args)
    except Exception as e:  # noqa: BLE001
        return "exception %r" % e


def effects(tap, seen):
    """Every value of an option changes something that weft's clients or servers see"""
    for fn, args, at, like in EFFECTS:
        base = args[0][at]
        for v in dict.fromkeys(a[at] for a in args[1:] if a[at] != base):
            pairs = [(seen.get((fn, a)), seen.get((fn, (*a[:at], base, *a[at + 1:])))) for a in args if a[at] == v]
            differs = any(x != y for x, y in pairs if x is not None and y is not None)
            if any(x is not None and y is not None for x, y in pairs):
                tap.same(differs, v not in like, "%s: %s is %s %s" % (fn.__name__.replace("_", " "), v, "like" if v in like else "not like", base))


def main():
    tap = Tap()
    ups = {"up": Upstream("up"), "raw": Raw()}
    pairs = [Pair("envoy", ups), Pair("weft", ups)]
    only = os.environ.get("ONLY")
    picked = [x for x in PROBES if not only or re.search(only, x[0])]
    seen = {}
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(12) as ex:
        jobs = [[ex.submit(run, fn, p, args) for p in pairs] for _, fn, args, _ in picked]
    for (name, fn, args, how), (e, w) in zip(picked, jobs):
        e, w = e.result(), w.result()
        seen[fn, args] = w
        if os.environ.get("SHOW"):
            print("# %s\n#   envoy %r\n#   weft  %r" % (name, e, w))
        why = how.get("why") or known(name)
        if why:
            tap.ok(e != w and not str(w).startswith("exception"), "%s: not as Envoy: %s" % (name, why), e, w)
        else:
            tap.ok(e == w and not str(w).startswith("exception"), name + ": as Envoy", "envoy %r" % (e,), "weft  %r" % (w,))
        if "want" in how or "weft" in how:
            tap.same(w, how.get("want", how.get("weft")), name + ": as expected")
    effects(tap, seen)
    for p in pairs:
        lives = p.proxy.p.poll() is None
        tap.ok(p.proxy.stop() == 0 and lives, p.kind + " lives, and ends when told")
    return tap.done()


sys.exit(1 if main() else 0)
