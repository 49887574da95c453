"""Scenarios of weft-waypoint in Python: proxies started with a bootstrap, raw clients, certificates, points in TAP."""
import atexit
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

T = "type.googleapis.com/envoy"
HCM = T + ".extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {"name": "router", "typed_config": {"@type": T + ".extensions.filters.http.router.v3.Router"}}
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
BIN = os.environ.get("MESH_BIN", "build/release")


def sanitized():
    """Whether the programs are built with a sanitizer"""
    try:
        with open(os.path.join(BIN, "flags.stamp"), encoding="utf-8") as f:
            return "-fsanitize" in f.read()
    except OSError:
        return False


SAN = sanitized()
SLOW = 3 if SAN else 1
SAN_KB = 260_000 if SAN else 0  # memory that a sanitizer keeps from use for a while
REPORT = re.compile(r"(?:ERROR|WARNING): \w+Sanitizer|runtime error:")
WORK = tempfile.mkdtemp(prefix="weft-way.")
os.chmod(WORK, 0o755)


class Tap:
    def __init__(self):
        self.n = self.failed = 0

    def ok(self, good, text, *notes):
        self.n += 1
        if not good:
            self.failed += 1
            for n in notes:
                print("# " + str(n)[:2000].replace("\n", "\n# "))
        print("%sok %d - %s" % ("" if good else "not ", self.n, text), flush=True)
        return good

    def same(self, got, want, text):
        return self.ok(got == want, text, "got  %r" % (got,), "want %r" % (want,))

    def skip(self, text, why):
        self.n += 1
        print("ok %d - %s # SKIP %s" % (self.n, text, why), flush=True)

    def done(self):
        for p in Proxy.all:
            p.stop()
            for why in p.trouble:
                self.ok(False, "%s ends well" % p.name, why, p.log()[-3000:])
        print("1..%d" % self.n, flush=True)
        return self.failed


GIVEN = set()


def free_ports(n):
    """Below those that the kernel gives to clients: no connection takes one before it is listened at, or dialled from; and none twice"""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        low = int(f.read().split()[0])
    socks, tried = [], random.sample(range(10000, low), min(low - 10000, 50 * n)) if low > 12000 else [0] * n
    for port in tried:
        if port in GIVEN:
            continue
        s = socket.socket()
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            s.close()
            continue
        socks.append(s)
        if len(socks) == n:
            break
    out = [s.getsockname()[1] for s in socks]
    GIVEN.update(out)
    for s in socks:
        s.close()
    return out


def wait_for(what, seconds=10.0, step=0.02):
    end = time.monotonic() + seconds * SLOW
    while True:
        got = what()
        if got or time.monotonic() > end:
            return got
        time.sleep(step)


class Proxy:
    """A weft-waypoint or an Envoy on a bootstrap (a dict); admin on a unix socket."""
    all = []

    def __init__(self, config, kind="weft", name=None, args=(), prefix=(), wait=True, env=None, concurrency=1):
        self.kind, self.name = kind, name or kind
        self.trouble = []
        self.admin_path = os.path.join(WORK, self.name + ".admin")
        self.config_path = os.path.join(WORK, self.name + ".json")
        self.log_path = os.path.join(WORK, self.name + ".log")
        config = dict(config)
        config["admin"] = {**config.get("admin", {}), "address": {"pipe": {"path": self.admin_path}}}
        config.setdefault("node", {"id": "n", "cluster": "c"})
        with open(self.config_path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        if kind == "weft":
            cmd = [os.path.join(BIN, "weft-waypoint"), "-c", self.config_path, "--concurrency", str(concurrency)]
        else:
            cmd = [os.environ["ENVOY"], "-c", self.config_path, "--concurrency", str(concurrency), "--disable-hot-restart",
                   "--base-id", str(os.getpid()), "-l", "warn"]
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.p = subprocess.Popen(list(prefix) + cmd + list(args), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        atexit.register(self.stop)
        if kind == "weft":
            Proxy.all.append(self)
        if wait and not wait_for(self.ready, 30):
            raise SystemExit("Bail out! %s is not ready: %s" % (self.name, self.log()[-2000:]))

    def ready(self):
        if self.p.poll() is not None:
            raise SystemExit("Bail out! %s ended: %s" % (self.name, self.log()[-2000:]))
        try:
            return self.admin("/ready")[0] == 200
        except (OSError, ValueError):
            return False

    def admin(self, path, method="GET"):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(self.admin_path)
            s.sendall(("%s %s HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n" % (method, path)).encode())
            r = Reply(s, method)
            return r.status, r.body.decode("utf-8", "replace")

    def stats(self, regex=""):
        text = self.admin("/stats?filter=" + regex)[1]
        return {k: int(v) for k, v in re.findall(r"^(\S+): (\d+)$", text, re.M)}

    def stat(self, name):
        return self.stats("^" + name.replace("|", ".") + "$").get(name)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def rss(self):
        with open("/proc/%d/status" % self.p.pid, encoding="utf-8") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.p.pid))

    def stop(self):
        """Its exit status, by SIGTERM if it runs; Tap.done tells of one killed here, and of sanitizers' reports"""
        if self.p.poll() is None:
            self.p.terminate()
            try:
                self.p.wait(20 * SLOW)
            except subprocess.TimeoutExpired:
                self.trouble.append("killed: SIGTERM did not end it")
                self.p.kill()
                self.p.wait()
        if self.kind == "weft" and not self.trouble and REPORT.search(self.log()):
            self.trouble.append("a sanitizer's report")
        return self.p.returncode


class Reply:
    """One HTTP/1 response read from a socket: status, headers (list, lower case), body, trailers, whole"""

    def __init__(self, s, method="GET", buf=b""):
        self.s, self.buf = s, buf
        self.status, self.headers, self.body, self.trailers, self.whole = 0, [], b"", [], False
        self.informational = []
        try:
            while True:
                self.head()
                if self.status >= 200 or self.status == 101:
                    break
                self.informational.append(self.status)
            self.read_body(method)
            self.whole = True
        except (EOFError, OSError, ValueError, IndexError) as e:
            self.error = e

    def more(self):
        got = self.s.recv(262144)
        if not got:
            raise EOFError
        self.buf += got

    def line(self):
        while b"\r\n" not in self.buf:
            self.more()
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line.decode("latin-1")

    def fields(self):
        out = []
        while True:
            line = self.line()
            if not line:
                return out
            k, _, v = line.partition(":")
            out.append((k.lower(), v.strip()))

    def head(self):
        self.version, status = self.line().split(" ")[:2]
        self.status, self.headers = int(status), self.fields()

    def take(self, n):
        while len(self.buf) < n:
            self.more()
        got, self.buf = self.buf[:n], self.buf[n:]
        return got

    def read_body(self, method):
        if method == "HEAD" or self.status in (101, 204, 304) or (method == "CONNECT" and self.status == 200):
            return
        if "chunked" in (self.get("transfer-encoding") or ""):
            while True:
                n = int(self.line().split(";")[0], 16)
                if not n:
                    self.trailers = self.fields()
                    return
                self.body += self.take(n)
                self.line()
        elif self.get("content-length") is not None:
            n = int(self.get("content-length"))
            parts, have = [self.buf], len(self.buf)
            while have < n:
                got = self.s.recv(262144)
                if not got:
                    self.body = b"".join(parts)
                    raise EOFError
                parts.append(got)
                have += len(got)
            whole = b"".join(parts)
            self.body, self.buf = whole[:n], whole[n:]
        else:
            while True:
                got = self.s.recv(262144)
                if not got:
                    break
                self.buf += got
            self.body, self.buf = self.buf, b""

    def get(self, name):
        return next((v for k, v in self.headers if k == name), None)

    def all(self, name):
        return [v for k, v in self.headers if k == name]

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return {"headers": []}

    def seen(self, name):
        """Value of a header as the echoing upstream received it"""
        return next((v for k, v in self.json()["headers"] if k == name), None)


def dial(port, host="127.0.0.1", timeout=10, tls=None, sni=None, source=None):
    s = socket.create_connection((host, port), timeout * SLOW, source)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(s, server_hostname=sni) if tls else s


def ask(port, path="/", method="GET", headers=(), body=None, host="test", do=None, sock=None, chunked=False, raw=None, **dialing):
    """One request over HTTP/1.1, on a connection of its own unless one is given"""
    s = sock or dial(port, **dialing)
    try:
        if raw is None:
            h = [("host", host)] if host is not None else []
            h += list(headers)
            if do:
                h.append(("x-do", do))
            if chunked:
                h.append(("transfer-encoding", "chunked"))
            elif body is not None:
                h.append(("content-length", str(len(body))))
            raw = ("%s %s HTTP/1.1\r\n" % (method, path) + "".join("%s: %s\r\n" % kv for kv in h) + "\r\n").encode("latin-1")
            if body is not None:
                raw += b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 5000]), body[i:i + 5000]) for i in range(0, len(body), 5000)) \
                    + b"0\r\n\r\n" if chunked else body
        try:
            s.sendall(raw)
        except OSError:
            pass
        return Reply(s, method)
    finally:
        if not sock:
            s.close()


def curl(*args, timeout=10):
    """(exit status, output)"""
    p = subprocess.run(["curl", "-sS", "--max-time", str(timeout * SLOW), "--noproxy", "*", *args], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, check=False)
    return p.returncode, p.stdout.decode("utf-8", "replace")


def openssl(*args, stdin=None):
    p = subprocess.run(["openssl", *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if p.returncode:
        raise SystemExit("Bail out! openssl %s: %s" % (args[0], p.stderr.decode()))
    return p.stdout


class Ca:
    def __init__(self, name):
        self.name, self.serial = name, 1
        self.key, self.cert = self.path("ca.key"), self.path("ca.pem")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self.key, "-out",
                self.cert, "-subj", "/CN=%s" % name, "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def path(self, tail):
        return os.path.join(WORK, "%s-%s" % (self.name, tail))

    def issue(self, name, sans):
        """(certificate, key): sans as OpenSSL has them, "DNS:a,URI:b"; the subject is CN=name"""
        self.serial += 1
        key, csr, cert, ext = (self.path(name + e) for e in (".key", ".csr", ".pem", ".ext"))
        with open(ext, "w", encoding="utf-8") as f:
            f.write("subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n" % sans)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", csr, "-subj",
                "/CN=" + name)
        openssl("x509", "-req", "-in", csr, "-CA", self.cert, "-CAkey", self.key, "-set_serial", str(self.serial), "-days", "2", "-out",
                cert, "-extfile", ext)
        os.chmod(key, 0o644)
        return cert, key

    def crl(self, *revoked):
        """A revocation list that names these certificates"""
        base = self.path("crl")
        shutil.rmtree(base, ignore_errors=True)
        os.makedirs(base)
        with open(base + "/index", "w", encoding="utf-8"):
            pass
        with open(base + "/conf", "w", encoding="utf-8") as f:
            f.write("[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\ndefault_md=sha256\ndefault_crl_days=2\n" % base)
        for c in revoked:
            openssl("ca", "-config", base + "/conf", "-revoke", c, "-cert", self.cert, "-keyfile", self.key)
        openssl("ca", "-config", base + "/conf", "-gencrl", "-out", base + ".pem", "-cert", self.cert, "-keyfile", self.key)
        return base + ".pem"


# ---- configuration

def address(port, host="127.0.0.1"):
    return {"socket_address": {"address": host, "port_value": port}}


def cluster(name, *ports, **more):
    c = {"name": name, "connect_timeout": "2s",
         "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(p)}} for p in ports]}]}}
    http = more.pop("http", None)
    if http:
        c["typed_extension_protocol_options"] = {HTTP_OPTIONS: {"@type": T + ".extensions.upstreams.http.v3.HttpProtocolOptions", **http}}
    c.update(more)
    return c


H2_UP = {"explicit_http_config": {"http2_protocol_options": {"allow_connect": True}}}


def hcm(routes, filters=(), domains=("*",), vhosts=None, route_config=None, **more):
    rc = {"name": "r", "virtual_hosts": vhosts or [{"name": "all", "domains": list(domains), "routes": routes}]}
    rc.update(route_config or {})
    return {"name": "hcm", "typed_config": {"@type": HCM, "stat_prefix": more.pop("stat_prefix", "in"), "route_config": rc,
                                            "http_filters": list(filters) + [ROUTER], **more}}


def chain(network_filter, tls=None, **more):
    c = {"filters": [network_filter], **more}
    if tls:
        c["transport_socket"] = {"name": "tls", "typed_config": {
            "@type": T + ".extensions.transport_sockets.tls.v3.DownstreamTlsContext", **tls}}
    return c


def upstream_tls(**tls):
    return {"name": "tls", "typed_config": {"@type": T + ".extensions.transport_sockets.tls.v3.UpstreamTlsContext", **tls}}


def listener(name, port, *chains, **more):
    return {"name": name, "address": address(port), "filter_chains": list(chains), **more}


def pem(cert, key):
    return {"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}


def to(name, prefix="/", **more):
    """A route to a cluster; what is not of the action goes by route_={}"""
    outer = more.pop("route_", {})
    match = more.pop("match", {"prefix": prefix})
    return {"match": match, "route": {"cluster": name, **more}, **outer}


def say(prefix, status, text=None, **more):
    r = {"match": {"prefix": prefix}, "direct_response": {"status": status}, **more}
    if text is not None:
        r["direct_response"]["body"] = {"inline_string": text}
    return r


def bootstrap(listeners, clusters, **more):
    return {"static_resources": {"listeners": listeners, "clusters": clusters}, **more}


def json_log(file_path, **fields):
    return [{"name": "log", "typed_config": {"@type": T + ".extensions.access_loggers.file.v3.FileAccessLog", "path": file_path,
                                             "log_format": {"json_format": fields}}}]


def file_log(file_path, line):
    return [{"name": "log", "typed_config": {"@type": T + ".extensions.access_loggers.file.v3.FileAccessLog", "path": file_path,
                                             "log_format": {"text_format_source": {"inline_string": line}}}}]


def lines_of(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()
    except OSError:
        return []


def digest(data):
    return hashlib.sha256(data).hexdigest()


def end(number, _frame):
    """Told to end, perhaps twice: what was started and written here goes, too"""
    for n in (signal.SIGINT, signal.SIGTERM):
        signal.signal(n, signal.SIG_IGN)
    raise SystemExit(128 + number)


for _n in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_n, end)


@atexit.register
def clean():
    """Last at exit: proxies that still run are registered later, and so end before"""
    if not os.environ.get("KEEP"):
        shutil.rmtree(WORK, ignore_errors=True)
