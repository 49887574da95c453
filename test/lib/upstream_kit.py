"""An upstream that does as a request says: HTTP/1 and, by prior knowledge, HTTP/2. Runs in threads of the test.

What to do stands in the request's header x-do, as words "name=value" with ";" between them:
  status=N header=NAME:VALUE (many) body=BYTES text=TEXT chunked trailers delay=MS (before the head) gap=MS (amid the body)
  how=reset|close|partial|garbage|early|hang  fail=N:KEY (only the first N requests of KEY do so; then 200)
Without it the answer is JSON: what was received."""
import hashlib
import json
import socket
import ssl
import struct
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n"
PATTERN = bytes(range(256)) * 256


def pattern(n):
    return (PATTERN * (n // len(PATTERN) + 1))[:n]


def program(text):
    d = {"header": []}
    for word in filter(None, (w.strip() for w in (text or "").split(";"))):
        k, _, v = word.partition("=")
        if k == "header":
            d["header"].append(tuple(v.split(":", 1)))
        else:
            d[k] = v
    return d


class Upstream:
    def __init__(self, name, tls=None, h2_only=False, port=0, host="127.0.0.1"):
        self.name, self.tls, self.h2 = name, tls, h2_only
        self.counts, self.lock = {}, threading.Lock()
        self.seen, self.conns, self.proxy = [], 0, False
        self.sick, self.sick_status = None, "503"  # paths that begin so are answered so
        self.habit = None  # what is done where a request does not say
        self.grpc = None  # status of grpc.health.v1
        self.open = set()
        self.peers, self.hands = [], []  # who came; of TLS: (subject of the peer, session reused)
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, port))
        self.sock.listen(512)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def die(self):
        """Nobody is there any more, on open connections neither"""
        self.close()
        with self.lock:
            for c in self.open:
                try:
                    c.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def accept(self):
        while True:
            try:
                c, peer = self.sock.accept()
            except OSError:
                return
            self.conns += 1
            self.peers.append(peer)
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw = c
        with self.lock:
            self.open.add(raw)
        try:
            if self.proxy:
                first = b""
                while not first.endswith(b"\r\n") or PROXY_V2.startswith(first):
                    first += c.recv(1)
                    if first == PROXY_V2:
                        first += c.recv(4, socket.MSG_WAITALL)
                        first += c.recv(int.from_bytes(first[14:16], "big"), socket.MSG_WAITALL)
                        break
                self.seen.append(("proxy", first if first.startswith(PROXY_V2) else first.decode("latin-1").strip()))
            if self.tls:
                c = self.tls.wrap_socket(c, server_side=True)
                self.hands.append((dict(x[0] for x in (c.getpeercert() or {}).get("subject", ())).get("commonName"), c.session_reused))
            if self.h2 or (self.tls and c.selected_alpn_protocol() == "h2"):
                H2(self, c).run()
            else:
                H1(self, c).run()
        except (OSError, ValueError, EOFError):
            pass
        finally:
            with self.lock:
                self.open.discard(raw)
            for s in (c, raw):
                try:
                    s.close()
                except OSError:
                    pass

    def due(self, d):
        """Whether this request's trouble is due, by fail=N:KEY."""
        if "fail" not in d:
            return True
        n, key = d["fail"].split(":")
        with self.lock:
            self.counts[key] = self.counts.get(key, 0) + 1
            return self.counts[key] <= int(n)

    def note(self, method, path, headers):
        with self.lock:
            self.seen.append((method, path, headers))

    def find(self, key):
        """Requests whose x-key is KEY."""
        with self.lock:
            return [s for s in self.seen if len(s) == 3 and ("x-key", key) in s[2]]


def answer(up, method, path, headers, body, trailers, d):
    """(status, headers, body, trailers) of a program that answers"""
    if up.sick and path.startswith(up.sick):
        d = {**d, "status": up.sick_status}
    if up.grpc is not None and path == "/grpc.health.v1.Health/Check":
        return 200, [("content-type", "application/grpc")], b"\0\0\0\0\2\x08" + bytes([up.grpc]), [("grpc-status", "0")]
    out = list(d["header"]) + [("x-from", up.name)]
    if "body" in d:
        data = pattern(int(d["body"]))
        out.append(("content-type", "application/octet-stream"))
    elif "text" in d:
        data = d["text"].encode()
    elif d.get("status", "200") in ("204", "304"):
        data = b""
    else:
        data = json.dumps({"by": up.name, "method": method, "path": path, "headers": headers, "length": len(body),
                           "sum": hashlib.sha256(body).hexdigest(), "trailers": trailers}).encode()
        out.append(("content-type", "application/json"))
    t = [("x-trailer", "end"), ("x-length", str(len(data)))] if "trailers" in d else []
    return int(d.get("status", 200)), out, data, t


class H1:
    def __init__(self, up, c):
        self.up, self.c, self.buf = up, c, b""

    def more(self):
        got = self.c.recv(65536)
        if not got:
            raise EOFError
        self.buf += got

    def line(self):
        while b"\r\n" not in self.buf:
            self.more()
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line.decode("latin-1")

    def take(self, n):
        while len(self.buf) < n:
            self.more()
        got, self.buf = self.buf[:n], self.buf[n:]
        return got

    def fields(self):
        out = []
        while True:
            line = self.line()
            if not line:
                return out
            k, _, v = line.partition(":")
            out.append((k.lower(), v.strip()))

    def body(self, h):
        if "chunked" in h.get("transfer-encoding", ""):
            out = b""
            while True:
                n = int(self.line().split(";")[0], 16)
                if not n:
                    return out, self.fields()
                out += self.take(n)
                self.line()
        return self.take(int(h.get("content-length", 0))), []

    def run(self):
        while True:
            first = self.line()
            method, path, _ = first.split(" ", 2)
            fields = self.fields()
            h = dict(fields)
            d = program(h.get("x-do") or self.up.habit)
            self.up.note(method, path, fields)
            due = self.up.due(d)
            if not due:
                d = {"header": []}
            if method == "CONNECT":
                self.c.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                return self.echo()
            if "upgrade" in h and d.get("how") != "noupgrade":
                self.c.sendall(("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: %s\r\n\r\n"
                                % h["upgrade"]).encode())
                return self.echo()
            if "100-continue" in h.get("expect", "") and "how" not in d:
                self.c.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            how = d.get("how")
            if how == "early":
                self.reply(method, path, fields, b"", [], d)
                time.sleep(0.5)
                return None
            if how == "hang":
                time.sleep(30)
            body, trailers = self.body(h)
            if how == "reset":
                self.c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return None
            if how == "close":
                return None
            if how == "garbage":
                return self.c.sendall(b"this is not HTTP\r\n\r\n")
            if "delay" in d:
                time.sleep(int(d["delay"]) / 1000)
            self.reply(method, path, fields, body, trailers, d)
            if how == "partial" or h.get("connection") == "close" or ("connection", "close") in d["header"]:
                return None

    def echo(self):
        if self.buf:
            self.c.sendall(self.buf)
        while True:
            got = self.c.recv(65536)
            if not got:
                return
            self.c.sendall(got)

    def reply(self, method, path, fields, body, trailers, d):
        status, out, data, t = answer(self.up, method, path, fields, body, trailers, d)
        chunked = "chunked" in d or t
        if status not in (204, 304):
            out.append(("transfer-encoding", "chunked") if chunked else ("content-length", str(len(data))))
        head = "HTTP/1.1 %d Said\r\n" % status + "".join("%s: %s\r\n" % kv for kv in out) + "\r\n"
        self.c.sendall(head.encode())
        if method == "HEAD" or status in (204, 304):
            return
        half = len(data) // 2
        for i, part in enumerate((data[:half], data[half:])):
            if i and d.get("how") == "partial":
                return
            if i and "gap" in d:
                time.sleep(int(d["gap"]) / 1000)
            if chunked and part:
                self.c.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            else:
                self.c.sendall(part)
        if chunked:
            self.c.sendall(("0\r\n" + "".join("%s: %s\r\n" % kv for kv in t) + "\r\n").encode())


class H2:
    """Every stream answers in a thread of its own; what is sent waits for windows."""

    def __init__(self, up, c):
        self.up, self.c = up, c
        self.h = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8",
                                                                     validate_inbound_headers=False))
        self.lock = threading.Condition()
        self.streams, self.dead = {}, False

    def flush(self):
        data = self.h.data_to_send()
        if data:
            self.c.sendall(data)

    def run(self):
        with self.lock:
            self.h.initiate_connection()
            self.h.update_settings({h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
            self.flush()
        try:
            while True:
                data = self.c.recv(65536)
                if not data:
                    return
                with self.lock:
                    for e in self.h.receive_data(data):
                        self.event(e)
                    self.flush()
                    self.lock.notify_all()
        except h2.exceptions.ProtocolError:
            with self.lock:
                self.flush()
        finally:
            with self.lock:
                self.dead = True
                self.lock.notify_all()

    def event(self, e):
        if isinstance(e, h2.events.RequestReceived):
            s = self.streams[e.stream_id] = {"head": e.headers, "body": bytearray(), "trailers": [], "gone": False}
            d = program(dict(e.headers).get("x-do"))
            method = dict(e.headers).get(":method")
            if method == "CONNECT":
                s["tunnel"] = True
                self.h.send_headers(e.stream_id, [(":status", "200")])
            elif d.get("how") == "early":
                threading.Thread(target=self.work, args=(e.stream_id, s), daemon=True).start()
                s["early"] = True
        elif isinstance(e, h2.events.DataReceived):
            s = self.streams[e.stream_id]
            self.h.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            if s.get("tunnel"):
                self.h.send_data(e.stream_id, e.data)
            else:
                s["body"] += e.data
        elif isinstance(e, h2.events.TrailersReceived):
            self.streams[e.stream_id]["trailers"] = e.headers
        elif isinstance(e, h2.events.StreamEnded):
            s = self.streams[e.stream_id]
            if s.get("tunnel"):
                self.h.end_stream(e.stream_id)
            elif not s.get("early"):
                threading.Thread(target=self.work, args=(e.stream_id, s), daemon=True).start()
        elif isinstance(e, h2.events.StreamReset):
            if e.stream_id in self.streams:
                self.streams[e.stream_id]["gone"] = True

    def work(self, sid, s):
        try:
            self.reply(sid, s)
        except (OSError, h2.exceptions.ProtocolError, KeyError):
            pass

    def reply(self, sid, s):
        head = dict(s["head"])
        d = program(head.get("x-do") or self.up.habit)
        method, path = head.get(":method"), head.get(":path")
        fields = [(":authority", head.get(":authority"))] + [kv for kv in s["head"] if kv[0][0] != ":"]
        self.up.note(method, path, fields)
        if not self.up.due(d):
            d = {"header": []}
        how = d.get("how")
        if how == "hang":
            time.sleep(30)
        if "delay" in d:
            time.sleep(int(d["delay"]) / 1000)
        if how in ("close", "garbage"):
            return self.c.shutdown(socket.SHUT_RDWR)
        if how in ("reset", "refused"):
            with self.lock:
                self.h.reset_stream(sid, 7 if how == "refused" else int(d.get("code", 2)))
                return self.flush()
        status, out, data, t = answer(self.up, method, path, fields, bytes(s["body"]), s["trailers"], d)
        out = [(":status", str(status))] + out
        if method == "HEAD" or status in (204, 304):
            data, t = b"", []
        elif "chunked" not in d and not t:
            out.append(("content-length", str(len(data))))
        if d.get("grpc"):
            out.append(("grpc-status", d["grpc"]))
        with self.lock:
            self.h.send_headers(sid, out, end_stream=not data and not t)
            self.flush()
        half = len(data) // 2
        for i, part in enumerate((data[:half], data[half:])):
            if i and how == "partial":
                with self.lock:
                    self.h.reset_stream(sid, 2)
                    return self.flush()
            if i and "gap" in d:
                time.sleep(int(d["gap"]) / 1000)
            self.send(sid, s, part, i == 1 and not t)
        if t:
            with self.lock:
                self.h.send_headers(sid, t, end_stream=True)
                self.flush()
        return None

    def send(self, sid, s, data, end):
        while data:
            with self.lock:
                while not self.dead and not s["gone"] and self.h.local_flow_control_window(sid) <= 0:
                    self.lock.wait(30)
                if self.dead or s["gone"]:
                    raise OSError
                n = min(self.h.local_flow_control_window(sid), self.h.max_outbound_frame_size, len(data))
                self.h.send_data(sid, data[:n], end_stream=end and n == len(data))
                data = data[n:]
                self.flush()


def server_tls(cert, key, alpn=("h2", "http/1.1"), ca=None):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(cert, key)
    if alpn:
        ctx.set_alpn_protocols(list(alpn))
    if ca:
        ctx.load_verify_locations(ca)
        ctx.verify_mode = ssl.CERT_REQUIRED
    return ctx
