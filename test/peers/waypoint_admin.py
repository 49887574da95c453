"""Admin, seal, end and validation of weft-waypoint; admin's answers are compared with a real Envoy's. TAP on stdout."""
import glob, http.client, json, os, pwd, re, signal, socket, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BIN = os.environ.get("MESH_BIN", "build/release")
ENVOY = os.environ["ENVOY"]
W = tempfile.mkdtemp(prefix="weft-admin-")
os.chmod(W, 0o755)
N, FAILED, RUNNING = 0, 0, []
TYPE = "type.googleapis.com/envoy."


def ok(good, text, why=""):
    global N, FAILED
    N += 1
    FAILED += not good
    print(f"{'ok' if good else 'not ok'} {N} - {text}" + ("" if good or why == "" else f"\n# {why}"), flush=True)


def skip(text, why):
    global N
    N += 1
    print(f"ok {N} - {text} # SKIP {why}", flush=True)


class Back(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    arrived = threading.Event()
    go_on = threading.Event()

    def do_GET(self):
        if self.path == "/slow":
            Back.arrived.set()
            Back.go_on.wait(20)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *a):
        pass


back = ThreadingHTTPServer(("127.0.0.1", 0), Back)
threading.Thread(target=back.serve_forever, daemon=True).start()


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("admin", timeout=5)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(self.path)


def ask(where, target, method="GET", headers=None):
    c = Unix(where) if isinstance(where, str) else http.client.HTTPConnection(*where, timeout=5)
    c.request(method, target, headers=headers or {})
    r = c.getresponse()
    body = r.read().decode()
    c.close()
    return r.status, body


def wait(fn, s=10):
    end = time.monotonic() + s
    while time.monotonic() < end:
        try:
            if fn():
                return True
        except OSError:
            pass
        time.sleep(0.02)
    return False


def hcm(routes):
    return {"name": "hcm", "typed_config": {
        "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "in", **routes,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": TYPE + "extensions.filters.http.router.v3.Router"}}]}}


def listener(name, routes, tls=None):
    chain = {"filters": [hcm(routes)]}
    if tls:
        chain["transport_socket"] = {"name": "tls", "typed_config": tls}
    return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}, "filter_chains": [chain]}


def endpoints(name, port):
    return {"cluster_name": name, "endpoints": [{"locality": {"zone": "z1"}, "lb_endpoints": [{"endpoint": {
        "hostname": "h.example", "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]}


def bootstrap(admin):
    table = lambda name, cluster: {"name": name, "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]}
    for kind, name, res in (("config.route.v3.RouteConfiguration", "rds", table("dyn", "ed")),
                            ("config.endpoint.v3.ClusterLoadAssignment", "eds", endpoints("edsvc", back.server_port))):
        with open(f"{W}/x/{name}.yaml", "w") as f:
            json.dump({"version_info": "7", "resources": [{"@type": TYPE + kind, **res}]}, f)
    cert = {"certificate_chain": {"filename": W + "/c.pem"}, "private_key": {"filename": W + "/k.pem"}}
    path = lambda name: {"path_config_source": {"path": f"{W}/x/{name}.yaml"}}
    return {
        "node": {"id": "n1", "cluster": "c1", "locality": {"zone": "z1"}}, "admin": admin,
        "static_resources": {
            "secrets": [{"name": "srv", "tls_certificate": {**cert, "password": {"inline_string": "hush-hush"}}}],
            "listeners": [
                listener("l1", {"route_config": table("r1", "up")}, {
                    "@type": TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": {
                        "tls_certificates": [{"certificate_chain": {"filename": W + "/c.pem"}, "private_key": {"inline_string": KEY}}],
                        "validation_context": {"trusted_ca": {"filename": W + "/c.pem"}}}}),
                listener("l2", {"rds": {"route_config_name": "dyn", "config_source": path("rds")}}),
                listener("l3", {"route_config": table("r3", "up")})],
            "clusters": [
                {"name": "up", "type": "STATIC", "connect_timeout": "1s", "outlier_detection": {"consecutive_5xx": 5},
                 "load_assignment": endpoints("up", back.server_port)},
                {"name": "ed", "type": "EDS", "eds_cluster_config": {"service_name": "edsvc", "eds_config": path("eds")}}]}}


def start(name, argv, config):
    with open(f"{W}/{name}.yaml", "w") as f:
        json.dump(config, f)
    p = subprocess.Popen(argv + ["-c", f"{W}/{name}.yaml"], stdout=open(f"{W}/{name}.log", "w"), stderr=subprocess.STDOUT)
    RUNNING.append(p)
    return p


def shape(v, at, out):
    if isinstance(v, dict):
        out.setdefault(at, set()).add("object")
        for k, x in v.items():
            shape(x, at + "/" + k, out)
    elif isinstance(v, list):
        out.setdefault(at, set()).add("list")
        for x in v:
            shape(x, at + "[" + (x.get("@type", "").split(".")[-1] if isinstance(x, dict) else "") + "]", out)
    else:
        out.setdefault(at, set()).add("number" if isinstance(v, (int, float)) and not isinstance(v, bool) else type(v).__name__)
    return out


def compare(ours, real):
    for target in ("/config_dump?include_eds", "/clusters?format=json", "/listeners?format=json", "/certs", "/server_info", "/memory",
                   "/init_dump", "/config_dump?resource=dynamic_route_configs", "/config_dump?resource=static_clusters&mask=cluster.name"):
        a, b = (shape(json.loads(ask(s, target)[1]), "", {}) for s in (ours, real))
        # Envoy does not know when a static secret came
        more = [k for k in a if not a[k] <= b.get(k, set()) and not k.endswith("static_secrets[]/last_updated")]
        ok(not more, f"{target}: keys and types are Envoy's", more)
    for how in ("cumulative", "disjoint", "detailed", "summary"):
        target = "/stats?histogram_buckets=%s&filter=cluster.up.upstream_cx_length_ms" % how
        word = lambda s: [re.sub("[0-9.e+]+", "N", x) for x in re.split("[:, ]+", re.sub("nan|No recorded values", "N", ask(s, target)[1].split("\n")[0]))]
        ok(word(ours)[:2] == word(real)[:2], f"{target}: as Envoy prints it", (word(ours), word(real)))
        target = "/stats?format=json&histogram_buckets=%s&type=Histograms" % how
        a, b = (shape(json.loads(ask(s, target)[1]), "", {}) for s in (ours, real))
        null = lambda m: {k for k in m if not k.endswith(("interval", "cumulative"))}
        ok(null(a) <= null(b), f"{target}: keys and types are Envoy's", null(a) ^ null(b))
    lines = lambda s: {"::".join(x.split("::")[:1] + x.split("::")[2:-1]) for x in ask(s, "/clusters")[1].split("\n") if ":127." in x}
    ok(lines(ours) <= lines(real) and lines(ours), "/clusters as text: lines of hosts are Envoy's", lines(ours) ^ lines(real))
    for method, target in (("GET", "/ready"), ("GET", "/logging"), ("POST", "/logging"), ("POST", "/logging?zz=debug"), ("POST", "/logging?level=zz"),
                           ("GET", "/healthcheck/fail"), ("POST", "/healthcheck/fail"), ("GET", "/ready"), ("POST", "/healthcheck/ok"),
                           ("GET", "/ready"), ("GET", "/reset_counters"), ("POST", "/reset_counters"), ("POST", "/reopen_logs"), ("GET", "/help"),
                           ("GET", "/nothing"), ("GET", "/config_dump?resource=zz"), ("GET", "/config_dump?name_regex=%5B"), ("GET", "/stats?format=zz"),
                           ("GET", "/stats?type=zz"), ("GET", "/stats?filter=%5B"), ("GET", "/stats?histogram_buckets=zz"), ("GET", "/stats?hidden=zz"), ("GET", "/stats?hidden=only"),
                           ("GET", "/stats?zz=1&filter=server.live"), ("GET", "/clusters?format=zz"), ("GET", "/listeners?format=zz"), ("POST", "/logging?paths=main"),
                           ("POST", "/logging?paths=zz:info"), ("POST", "/logging?level=info&main=info"), ("GET", "/stats?type=TextReadouts"),
                           ("GET", "/config_dump?mask=zz"), ("GET", "/config_dump?resource=static_clusters&name_regex=zz"), ("GET", "/init_dump?mask=zz"), ("GET", "/stats?usedonly"),
                           ("GET", "/stats?format=json"), ("POST", "/drain_listeners?skip_exit"), ("GET", "/drain_listeners"), ("GET", "/quitquitquit")):
        a, b = ask(ours, target, method), ask(real, target, method)
        same = a[0] == b[0] and (a[0] == 200 or "usage: /logging" in a[1] and a[1].split("\n")[0] == b[1].split("\n")[0] or target.startswith(("/stats", "/nothing", "/config_dump?")) or a[1].strip() == b[1].strip())
        ok(same, f"{method} {target}: {b[0]}", (a[0], a[1][:200], b[0], b[1][:200]))
    names = lambda s: {x.split(":")[0] for x in ask(s, "/stats?filter=^(server|listener_manager|cluster_manager)")[1].split("\n") if x}
    ok(names(ours) and names(ours) <= names(real), "server.*, listener_manager.*, cluster_manager.*: names are Envoy's", names(ours) - names(real))


def admin_alone(sock):
    text = ask(sock, "/config_dump?include_eds")[1]
    ok("hush-hush" not in text and "PRIVATE KEY" not in text and "[redacted]" in text, "/config_dump shows no secret")
    r = subprocess.run(["promtool", "check", "metrics"], input=ask(sock, "/stats/prometheus")[1], text=True, capture_output=True)
    ok(r.returncode in (0, 3), "promtool reads /stats/prometheus", r.stderr[-300:])  # 3: it would have named them otherwise
    ok(os.stat(sock).st_mode & 0o777 == 0o600, "the socket is its owner's alone")


def port_of(sock, name):
    for one in json.loads(ask(sock, "/listeners?format=json")[1])["listener_statuses"]:
        if one["name"] == name:
            return one["local_address"]["socket_address"]["port_value"]


def tcp_admin():
    admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
    run = lambda cfg, *more: subprocess.run([BIN + "/weft-waypoint", "--config-yaml", json.dumps(cfg), *more], text=True, capture_output=True, timeout=10)
    r = run({"admin": admin})
    ok(r.returncode == 1 and "--admin-token-file" in r.stderr, "TCP admin without a token is refused", r.stderr)
    with open(W + "/token", "w") as f:
        f.write("0123456789abcdef0123\n")
    os.chmod(W + "/token", 0o644)
    r = run({"admin": admin}, "--admin-token-file", W + "/token")
    ok(r.returncode == 1 and "0600" in r.stderr, "a token that others may read is refused", r.stderr)
    os.chmod(W + "/token", 0o600)
    r = run({"admin": {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 0}}}}, "--admin-token-file", W + "/token")
    ok(r.returncode == 1 and "loopback" in r.stderr, "an address that is not loopback is refused", r.stderr)
    p = start("tcp", [BIN + "/weft-waypoint", "--admin-token-file", W + "/token", "--admin-address-path", W + "/address"], {"admin": admin})
    ok(wait(lambda: os.path.exists(W + "/address") and ":" in open(W + "/address").read()), "--admin-address-path is written")
    host, port = open(W + "/address").read().split(":")
    at = (host, int(port))
    codes = [ask(at, "/ready", headers=h)[0] for h in ({}, {"Authorization": "Bearer 0123"}, {"Authorization": "Basic 0123456789abcdef0123"})]
    ok(codes == [401] * 3, "401 without the token", codes)
    ok(ask(at, "/stats", headers={"Authorization": "Bearer 0123456789abcdef0123"})[0] == 200, "200 with it")
    p.send_signal(signal.SIGINT)
    ok(p.wait(10) == 0, "SIGINT ends it")


def sealed_and_end(sock, p):
    status = dict(line.split(":", 1) for line in open(f"/proc/{p.pid}/status"))
    if os.geteuid():
        skip("seal", "not root")
    else:
        ok(status["Uid"].split()[1] == str(pwd.getpwnam("nobody").pw_uid), "--user: another user")
        ok(int(status["CapPrm"], 16) == int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, "no capability", status["CapPrm"])
    ok(status["NoNewPrivs"].strip() == "1", "no_new_privs")
    ok(status["Seccomp"].strip() == "2" or bool(os.environ.get("MESH_SAN")), "seccomp")
    at = ("127.0.0.1", port_of(sock, "l3"))
    ok(ask(at, "/")[0] == 200, "traffic goes through")
    got = []
    t = threading.Thread(target=lambda: got.append(ask(at, "/slow")))
    t.start()
    Back.arrived.wait(10)
    p.send_signal(signal.SIGTERM)
    ok(wait(lambda: ask(sock, "/ready")[1] == "DRAINING\n"), "SIGTERM: it drains")
    ok(p.poll() is None, "... as long as a request is open")
    Back.go_on.set()
    t.join()
    ok(got and got[0][0] == 200, "... which gets its answer", got)
    ok(p.wait(10) == 0 and not os.path.exists(sock) or os.geteuid() == 0, "... and then it ends")


def validation():
    for f in sorted(glob.glob("test/golden/waypoint/ok_*.yaml")):
        r = [subprocess.run([b, "--mode", "validate", "-c", f], capture_output=True, timeout=20).returncode
             for b in (BIN + "/weft-waypoint", ENVOY)]
        ok(not any(r), f"{os.path.basename(f)}: OK, as Envoy says", r)
    r = subprocess.run([BIN + "/weftctl", "validate", "-o", "json", "test/golden/waypoint/cluster_lb.yaml"], capture_output=True, text=True)
    e = json.loads(r.stdout)["errors"][0]
    ok(r.returncode == 1 and e["line"] == 24 and e["field"] == "static_resources.clusters[0].lb_policy", "weftctl validate -o json of a bootstrap", r.stdout)


try:
    os.mkdir(W + "/x")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", W + "/k.pem", "-out",
                    W + "/c.pem", "-days", "300", "-subj", "/CN=a.example", "-addext", "subjectAltName=DNS:a.example,URI:spiffe://td/ns/a/sa/b,IP:10.0.0.1"],
                   check=True, capture_output=True)
    KEY = open(W + "/k.pem").read()
    sock = W + "/weft.sock"
    user = [] if os.geteuid() else ["--user", "nobody"]
    weft = start("weft", [BIN + "/weft-waypoint", "--concurrency", "1"] + user, bootstrap({"address": {"pipe": {"path": sock}}}))
    ok(wait(lambda: ask(sock, "/ready")[0] == 200), "it is ready", open(W + "/weft.log").read()[-500:])
    real = W + "/envoy.sock"
    envoy = start("envoy", [ENVOY, "--disable-hot-restart", "--concurrency", "1", "-l", "error"], bootstrap({"address": {"pipe": {"path": real}}}))
    ok(wait(lambda: ask(real, "/ready")[0] == 200, 20), "Envoy is ready", open(W + "/envoy.log").read()[-500:])
    compare(sock, real)
    admin_alone(sock)
    tcp_admin()
    sealed_and_end(sock, weft)
    validation()
finally:
    for p in RUNNING:
        if p.poll() is None:
            p.kill()
            p.wait()
    subprocess.run(["rm", "-rf", W])
print(f"1..{N}")
sys.exit(FAILED > 0)
