#!/usr/bin/python3
"""Options of TLS contexts, secrets by files and the options of the xDS client: the same bootstrap through weft-waypoint and a real Envoy, asked by
OpenSSL and Python. ENVOY: its binary."""
import atexit
import base64
import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream, server_tls  # noqa: E402
from waypoint_kit import (  # noqa: E402
    Ca, Proxy, Tap, ask, bootstrap, chain, cluster, dial, free_ports, hcm, listener, openssl, pem, say, to, upstream_tls, wait_for, SLOW, T, WORK)

TLS = T + ".extensions.transport_sockets.tls.v3."
tap = Tap()
ca, sub, rogue = Ca("ca"), Ca("sub"), Ca("rogue")


def path(name):
    return os.path.join(WORK, name)


def made(name, text, mode="w"):
    with open(path(name), mode) as f:
        f.write(text)
    return path(name)


def slurp(name):
    with open(name, encoding="ascii") as f:
        return f.read()


def issue(name, sans, by=ca, key="ec", days=None, extra="", usage="digitalSignature"):
    """Like Ca.issue, with other keys, dates, extensions"""
    by.serial += 1
    pair = path(name + ".pem"), path(name + ".key")
    new = ["-newkey", "rsa:2048"] if key == "rsa" else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    ext = made(name + ".ext", "subjectAltName=%s\nkeyUsage=critical,%s\nextendedKeyUsage=serverAuth,clientAuth\n%s\n" % (sans, usage, extra))
    openssl("req", *new, "-nodes", "-keyout", pair[1], "-out", path("csr"), "-subj", "/CN=" + name)
    if days is None:
        openssl("x509", "-req", "-in", path("csr"), "-CA", by.cert, "-CAkey", by.key, "-set_serial", str(by.serial), "-days", "2", "-out", pair[0],
                "-extfile", ext)
    else:  # a certificate of the past
        base = path("past")
        os.makedirs(base, exist_ok=True)
        made("past/index", "")
        made("past/conf", "[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nnew_certs_dir=%s\ndefault_md=sha256\npolicy=p\nrand_serial=yes\n"
             "[p]\ncommonName=supplied\n" % (base, base))
        openssl("ca", "-batch", "-config", base + "/conf", "-cert", by.cert, "-keyfile", by.key, "-in", path("csr"), "-out", pair[0], "-notext",
                "-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-extfile", ext)
    os.chmod(pair[1], 0o644)
    return pair


def ocsp(name, cert):
    """A response of the CA for a certificate, in a file"""
    serial = openssl("x509", "-noout", "-serial", "-in", cert).decode().strip().split("=")[1]
    index = made(name + ".index", "V\t%s\t\t%s\tunknown\t/CN=x\n" % ("491231235959Z", serial))
    openssl("ocsp", "-issuer", ca.cert, "-cert", cert, "-reqout", path(name + ".req"))
    openssl("ocsp", "-index", index, "-rsigner", ca.cert, "-rkey", ca.key, "-CA", ca.cert, "-reqin", path(name + ".req"), "-respout",
            path(name), "-ndays", "1")
    return path(name)


# sub is signed by ca: chains of two
openssl("req", "-new", "-key", sub.key, "-out", path("sub.csr"), "-subj", "/CN=sub")
made("sub.ext", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n")
openssl("x509", "-req", "-in", path("sub.csr"), "-CA", ca.cert, "-CAkey", ca.key, "-set_serial", "77", "-days", "2", "-out", sub.cert, "-extfile",
        path("sub.ext"))
EC, RSA = issue("ec", "DNS:a.example"), issue("rsa", "DNS:r.example", key="rsa")
NEXT = issue("next", "DNS:a.example")
B = issue("b", "DNS:b.example")
PAST = issue("past-cert", "DNS:past.example", days=-1)
NOSIGN = issue("nosign", "DNS:inner.example", key="rsa", usage="keyEncipherment")
GOOD, OTHER = issue("good", "URI:spiffe://td/good,DNS:good.example"), issue("other", "URI:spiffe://td/other,DNS:other.example")
STRANGER = issue("stranger", "URI:spiffe://td/good", by=rogue)
DEEP = issue("deep", "URI:spiffe://td/deep", by=sub)
made("deep.pem", slurp(DEEP[0]) + slurp(sub.cert))
CLIENTS = {"none": None, "good": GOOD, "other": OTHER, "stranger": STRANGER, "deep": DEEP, "past": PAST}
CRL = ca.crl(OTHER[0])
FRESH = ocsp("fresh.ocsp", EC[0])
with open(FRESH, "rb") as f:  # neither proxy looks at the signature
    LATE = made("late.ocsp", re.sub(rb"(\xa0\x11\x18\x0f)\d{14}Z", rb"\g<1>20200101000000Z", f.read(), count=1), "wb")
openssl("pkcs12", "-export", "-in", EC[0], "-inkey", EC[1], "-passout", "pass:sesame", "-out", path("ec.p12"), "-keypbe", "AES-256-CBC", "-certpbe",
        "AES-256-CBC")
KEYS = [made("ticket%d" % i, os.urandom(80), "wb") for i in range(3)]


def der(cert):
    return openssl("x509", "-in", cert, "-outform", "DER")


def spki(cert):
    public = openssl("x509", "-in", cert, "-noout", "-pubkey")
    return base64.b64encode(hashlib.sha256(openssl("pkey", "-pubin", "-outform", "DER", stdin=public)).digest()).decode()


# ---- listeners: name → DownstreamTlsContext
def server(*certs, params=None, alpn=None, **more):
    common = {"tls_certificates": [c if isinstance(c, dict) else pem(*c) for c in certs or [EC]]}
    if params:
        common["tls_params"] = params
    common.update(more.pop("common", {}))
    return {"common_tls_context": common, **more}


def keys(*which):
    return {"session_ticket_keys": {"keys": [{"filename": KEYS[i]} for i in which]}}


def staple(file, policy):
    c = dict(pem(*EC))
    if file:
        c["ocsp_staple"] = {"filename": file}
    return server(c, ocsp_staple_policy=policy + "_STAPLING" if policy != "MUST" else "MUST_STAPLE")


def mutual(**validation):
    return server(require_client_certificate=True, common={"validation_context": validation})


def sds(name, **more):
    return {"name": name, "sds_config": {"path_config_source": {"path": path(name + ".sds.json"), **more}}}


TWO = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]
ROOT = {"trusted_ca": {"filename": ca.cert}}
SAN = [{"san_type": "URI", "matcher": {"exact": "spiffe://td/good"}}]
LISTENERS = {
    "plain": server(), "both": server(EC, RSA),
    "keys0": server(**keys(0)), "keys10": server(**keys(1, 0)), "keys1": server(**keys(1)),
    "keys-sds": server(session_ticket_keys_sds_secret_config=sds("tickets")),
    "timeout": server(session_timeout="2s"), "timeout0": server(session_timeout="0s"),
    "lenient-none": staple(None, "LENIENT"), "lenient-fresh": staple(FRESH, "LENIENT"), "lenient-late": staple(LATE, "LENIENT"),
    "strict-none": staple(None, "STRICT"), "strict-fresh": staple(FRESH, "STRICT"), "strict-late": staple(LATE, "STRICT"),
    "must-fresh": staple(FRESH, "MUST"), "must-late": staple(LATE, "MUST"),
    "scan-off": server(EC, RSA), "scan-on": server(EC, RSA, full_scan_certs_on_sni_mismatch=True),
    "ours": server(params={"cipher_suites": TWO}), "theirs": server(params={"cipher_suites": TWO}, prefer_client_ciphers=True),
    "ciphers": server(params={"cipher_suites": ["ECDHE-ECDSA-AES256-GCM-SHA384"]}),
    "curves": server(params={"ecdh_curves": ["P-384"]}), "fips": server(params={"compliance_policies": ["FIPS_202205"]}),
    "pkcs12": server({"pkcs12": {"filename": path("ec.p12")}, "password": {"inline_string": "sesame"}}),
    "sni": server(require_sni=True),
    "m-root": mutual(**ROOT), "m-hash": mutual(verify_certificate_hash=[hashlib.sha256(der(GOOD[0])).hexdigest()]),
    "m-spki": mutual(verify_certificate_spki=[spki(GOOD[0])]), "m-past": mutual(**ROOT, allow_expired_certificate=True),
    "m-names": mutual(**ROOT, match_subject_alt_names=[{"suffix": "good.example"}]),
    "m-typed": mutual(**ROOT, match_typed_subject_alt_names=SAN),
    "m-lenient": mutual(**ROOT, trust_chain_verification="ACCEPT_UNTRUSTED"),
    "m-crl": mutual(**ROOT, crl={"filename": CRL}), "m-leaf": mutual(**ROOT, crl={"filename": CRL}, only_verify_leaf_cert_crl=True),
    "m-depth0": mutual(**ROOT, max_verify_depth=0), "m-depth1": mutual(**ROOT, max_verify_depth=1), "m-depth2": mutual(**ROOT, max_verify_depth=2),
    "m-sigs": {**mutual(**ROOT), "common_tls_context": {**mutual(**ROOT)["common_tls_context"], "tls_params": {
        "signature_algorithms": ["rsa_pss_rsae_sha256", "ecdsa_secp256r1_sha256"]}}},
    "m-combined": server(require_client_certificate=True, common={"combined_validation_context": {
        "default_validation_context": {"match_typed_subject_alt_names": SAN}, "validation_context_sds_secret_config": sds("roots")}}),
    "files": server(common={"tls_certificates": [], "tls_certificate_sds_secret_configs": [sds("files")]}),
    "parent": server(common={"tls_certificates": [], "tls_certificate_sds_secret_configs": [sds("parent")]}),
    "fixed": server({**pem(path("k8s/fixed/tls.crt"), path("k8s/fixed/tls.key")), "watched_directory": {"path": path("k8s/fixed")}}),
    "m-files": server(require_client_certificate=True, common={"validation_context_sds_secret_config": sds("moving-roots")}),
}
WEFT_ONLY = {"sni"}  # Envoy takes it and does nothing


def secret(name, **what):
    """A file for a path_config_source, put there by a move"""
    made("new", json.dumps({"version_info": str(time.time()), "resources": [{"@type": TLS + "Secret", "name": name, **what}]}))
    os.rename(path("new"), path(name + ".sds.json"))


def mounted(name, pair, n, root=None):
    """As Kubernetes mounts a secret: files are links through ..data, and that is replaced"""
    base = path("k8s/" + name)
    os.makedirs("%s/..%d" % (base, n))
    for f, text in (("tls.crt", slurp(pair[0])), ("tls.key", slurp(pair[1])), ("ca.crt", slurp(root or ca.cert))):
        made("k8s/%s/..%d/%s" % (name, n, f), text)
        if not os.path.islink(base + "/" + f):
            os.symlink("..data/" + f, base + "/" + f)
    os.symlink("..%d" % n, base + "/..tmp")
    os.rename(base + "/..tmp", base + "/..data")
    return base


def secrets():
    secret("tickets", session_ticket_keys={"keys": [{"inline_bytes": base64.b64encode(open(KEYS[0], "rb").read()).decode()}]})
    secret("roots", validation_context=ROOT)
    for name in ("files", "parent", "fixed", "roots-k8s"):
        mounted(name, EC, 1)
    base = path("k8s/files")
    secret("files", tls_certificate={**pem(base + "/tls.crt", base + "/tls.key"), "watched_directory": {"path": base}})
    base = path("k8s/parent")
    secret("parent", tls_certificate=pem(base + "/tls.crt", base + "/tls.key"))
    base = path("k8s/roots-k8s")
    secret("moving-roots", validation_context={"trusted_ca": {"filename": base + "/ca.crt"}, "watched_directory": {"path": base}})


# ---- clusters: name → UpstreamTlsContext
def client(sni="inner.example", params=None, **more):
    v = more.pop("validation", ROOT)
    return dict(sni=sni, common_tls_context={"validation_context": v, **({"tls_params": params} if params else {})}, **more)


INNER = issue("inner", "DNS:inner.example")
snis = []
up, up_rsa = Upstream("up", tls=server_tls(*INNER)), Upstream("rsa", tls=server_tls(*NOSIGN))
up.tls.sni_callback = lambda s, name, c: snis.append(name)
old = server_tls(*INNER)
old.maximum_version = ssl.TLSVersion.TLSv1_2
up_old = Upstream("old", tls=old)
class Asker:
    """An upstream that wants another handshake before it answers: openssl s_server, told by its standard input"""

    def __init__(self):
        self.port = free_ports(1)[0]
        self.p = subprocess.Popen(["openssl", "s_server", "-accept", str(self.port), "-cert", INNER[0], "-key", INNER[1], "-tls1_2"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        atexit.register(self.p.kill)
        self.text = b""
        threading.Thread(target=self.read, daemon=True).start()
        wait_for(lambda: b"ACCEPT" in self.text)

    def read(self):
        while True:
            got = os.read(self.p.stdout.fileno(), 4096)
            if not got:
                return
            self.text += got

    def say(self, line):
        self.p.stdin.write(line)
        self.p.stdin.flush()

    def serve(self, port, where):
        """The status of one request, between which and the answer is another handshake"""
        self.text, got = b"", []
        t = threading.Thread(target=lambda: got.append(ask(port, where).status), daemon=True)
        t.start()
        wait_for(lambda: b"\r\n\r\n" in self.text)
        self.say(b"r\n")
        wait_for(lambda: got or b"Read BLOCK" in self.text or b"ERROR" in self.text, 2)
        if not got:
            self.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        t.join(20 * SLOW)
        return got and got[0]


V13 = {"tls_maximum_protocol_version": "TLSv1_3"}
asker, asker_off = Asker(), Asker()
CLUSTERS = {
    "again-on": (asker, client(allow_renegotiation=True)), "again-off": (asker_off, client()),
    "keys-0": (up_old, client(max_session_keys=0)), "keys-1": (up_old, client(max_session_keys=1)), "keys-dflt": (up_old, client()),
    "usage-off": (up_rsa, client(enforce_rsa_key_usage=False)), "usage-on": (up_rsa, client(enforce_rsa_key_usage=True)),
    "usage-dflt": (up_rsa, client()), "usage-13-off": (up_rsa, client(params=V13, enforce_rsa_key_usage=False)),
    "usage-13-on": (up_rsa, client(params=V13, enforce_rsa_key_usage=True)),
    "sni": (up, client()), "host-sni": (up, client(auto_host_sni=True)), "no-sni": (up, client(sni="")),
    "san-right": (up, client(auto_sni_san_validation=True)), "san-wrong": (up, client(sni="else.example", auto_sni_san_validation=True)),
    "san-none": (up, client(sni="else.example")),
    "curve": (up, client(params={"ecdh_curves": ["P-384"], **V13})), "cipher": (up_old, client(params={"cipher_suites": [TWO[1]]})),
}
ONE_EACH = {"explicit_http_config": {"http_protocol_options": {}}, "common_http_protocol_options": {"max_requests_per_connection": 1}}


def cluster_of(name):
    u, tls = CLUSTERS[name]
    c = cluster(name, u.port, transport_socket=upstream_tls(**tls), http=ONE_EACH)
    c["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"] = "host.example"
    return c


class Side:
    def __init__(self, kind, name=None, only=None, **more):
        self.kind = kind
        names = only or list(LISTENERS)
        self.port = dict(zip(names + ["up"], free_ports(len(names) + 1)))
        ls = [listener(n, self.port[n], chain(hcm([say("/", 200, n)], stat_prefix=n), LISTENERS[n])) for n in names]
        if not only:
            ls.append(listener("up", self.port["up"], chain(hcm([to(n, "/" + n) for n in CLUSTERS], stat_prefix="up"))))
        self.proxy = Proxy(bootstrap(ls, [] if only else [cluster_of(n) for n in CLUSTERS], **more), kind, name)


def shake(port, *args, sni="a.example"):
    """What openssl s_client makes of it"""
    try:
        p = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % port, "-CAfile", ca.cert,
                            *(["-servername", sni] if sni else ["-noservername"]), *args], input=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=10 * SLOW, check=False)
    except subprocess.TimeoutExpired:
        return {"ok": "time"}
    t = p.stdout.decode("utf-8", "replace")
    find = lambda r: (re.search(r, t) or [None, None])[1]  # noqa: E731
    cipher = find(r"Cipher is (\S+)")
    return {"ok": p.returncode == 0 and cipher != "(NONE)", "cipher": cipher, "cn": find(r"subject=CN = (\S+)"),
            "curve": find(r"Server Temp Key: (?:ECDH, )?([^,\n]+)"), "reused": t.startswith("Reused") or "\nReused, " in t,
            "ocsp": find(r"OCSP Response Status: (\S+)") or find(r"OCSP response: (.*)"), "hint": find(r"lifetime hint: (\d+)"),
            "version": find(r"Protocol  : (\S+)") or find(r"New, (\S+), Cipher")}


def each(sides, what, fn, see=None):
    """The same question to both; the answers must be one, and as `see` says"""
    envoy, weft = [fn(s) for s in sides]
    tap.same(weft, envoy, what + ": as Envoy")
    if see:
        tap.ok(see(weft), what + ": has the effect", weft)
    return weft


# ---- parts
def resumes(a, b, version, sess):
    """Whether a ticket of one is taken by the other"""
    if os.path.exists(sess):
        os.unlink(sess)
    if version == "-tls1_3":  # tickets come after the handshake, with what is answered
        c = ssl.create_default_context(cafile=ca.cert)
        first = dial(a, tls=c, sni="a.example")
        ask(0, sock=first)
        second = dial_again(c, b, first.session)
        return second
    shake(a, version, "-sess_out", sess)
    return shake(b, version, "-sess_in", sess)["reused"]


def dial_again(c, port, session):
    import socket
    s = c.wrap_socket(socket.create_connection(("127.0.0.1", port), 10 * SLOW), server_hostname="a.example", session=session)
    reused = s.session_reused
    s.close()
    return reused


def tickets(sides, twin):
    sess = path("session")
    for v in ("-tls1_2", "-tls1_3"):
        for a, b, want in (("keys0", "keys0", True), ("keys0", "keys10", True), ("keys0", "keys1", False), ("keys10", "keys0", False),
                           ("keys10", "keys1", True), ("keys0", "keys-sds", True), ("keys-sds", "keys0", True)):
            each(sides, "session_ticket_keys %s: a ticket of %s at %s" % (v, a, b),
                 lambda s: resumes(s.port[a], s.port[b], v, sess), lambda got: got == want)  # noqa: B023
        weft = sides[1]
        tap.ok(resumes(weft.port["keys0"], twin.port["keys0"], v, sess), "%s: a ticket of one process is taken by another with the keys" % v)
        tap.ok(not resumes(weft.port["plain"], twin.port["plain"], v, sess), "%s: ... and without keys it is not" % v)
    secret("tickets", session_ticket_keys={"keys": [{"filename": KEYS[2]}, {"filename": KEYS[0]}]})
    for s in sides:
        tap.ok(wait_for(lambda: not resumes(s.port["keys-sds"], s.port["keys0"], "-tls1_2", sess)), s.kind + ": new keys by SDS seal tickets")  # noqa: B023
        tap.ok(resumes(s.port["keys0"], s.port["keys-sds"], "-tls1_2", sess), s.kind + ": ... and the old one still opens them")


def timeouts(sides):
    sess = path("session")
    hint = lambda n: each(sides, "session_timeout: lifetime of %s" % n, lambda s: shake(s.port[n], "-tls1_2")["hint"])  # noqa: E731
    tap.ok(hint("timeout") == "2" and hint("plain") == "7200" and hint("timeout0") == "7200", "session_timeout: 2 s, the default and 0")

    def late(s):
        shake(s.port["timeout"], "-tls1_2", "-sess_out", sess)
        soon = shake(s.port["timeout"], "-tls1_2", "-sess_in", sess)["reused"]
        time.sleep(4)
        return soon, shake(s.port["timeout"], "-tls1_2", "-sess_in", sess)["reused"]
    each(sides, "session_timeout: a session that is over", late, lambda got: not got[1])


def staples(sides):
    want = {"lenient-none": (True, False), "lenient-fresh": (True, True), "lenient-late": (True, False), "strict-none": (True, False),
            "strict-fresh": (True, True), "strict-late": (False, False), "must-fresh": (True, True), "must-late": (False, False)}
    for n, (ok, stapled) in want.items():
        for v in ("-tls1_2", "-tls1_3"):
            keep = lambda r: (r["ok"], (r["ocsp"] or "").startswith("successful"))  # noqa: E731
            each(sides, "ocsp_staple_policy %s %s" % (n, v), lambda s: keep(shake(s.port[n], "-status", v)), lambda r: r == (ok, stapled))  # noqa: B023
        each(sides, "ocsp_staple_policy %s: who does not ask" % n, lambda s: shake(s.port[n])["ok"], lambda r: r)  # noqa: B023
    names = ("requests", "responses", "omitted", "failed")
    for n in want:
        each(sides, "ssl.ocsp_staple_* of %s" % n,
             lambda s: {k: v for k, v in named(s, n, "ssl.ocsp_staple").items() if v and k.split("_")[-1] in names}, lambda r: r)  # noqa: B023


def named(s, n, what):
    head = "listener.127.0.0.1_%d." % s.port[n]
    return {k[len(head):]: v for k, v in s.proxy.stats("^" + re.escape(head + what)).items()}


def parameters(sides):
    rsa = ("-sigalgs", "RSA-PSS+SHA256:RSA+SHA256")
    cn = lambda n, *a, **k: each(sides, "%s %s %s" % (n, " ".join(a), k), lambda s: shake(s.port[n], *a, **k)["cn"])  # noqa: E731
    tap.same([cn("both", sni="r.example"), cn("both"), cn("both", *rsa, sni=None)], ["rsa", "ec", "rsa"], "certificates by SNI and by signature")
    each(sides, "full_scan_certs_on_sni_mismatch off", lambda s: shake(s.port["scan-off"], *rsa, sni="z.example")["ok"], lambda r: not r)
    each(sides, "full_scan_certs_on_sni_mismatch on", lambda s: shake(s.port["scan-on"], *rsa, sni="z.example")["cn"], lambda r: r == "rsa")
    turned = ("-tls1_2", "-cipher", TWO[1] + ":" + TWO[0])
    each(sides, "prefer_client_ciphers off", lambda s: shake(s.port["ours"], *turned)["cipher"], lambda r: r == TWO[0])
    each(sides, "prefer_client_ciphers on", lambda s: shake(s.port["theirs"], *turned)["cipher"], lambda r: r == TWO[1])
    each(sides, "cipher_suites: the one there is", lambda s: shake(s.port["ciphers"], "-tls1_2")["cipher"], lambda r: r == TWO[1])
    each(sides, "cipher_suites: none in common", lambda s: shake(s.port["ciphers"], "-tls1_2", "-cipher", TWO[0])["ok"], lambda r: not r)
    for v in ("-tls1_2", "-tls1_3"):
        each(sides, "ecdh_curves " + v, lambda s: shake(s.port["curves"], v)["curve"], lambda r: r and "384" in r)  # noqa: B023
        each(sides, "ecdh_curves %s: none in common" % v, lambda s: shake(s.port["curves"], v, "-groups", "X25519")["ok"], lambda r: not r)  # noqa: B023
        each(sides, "FIPS_202205 %s: no X25519" % v, lambda s: shake(s.port["fips"], v, "-groups", "X25519")["ok"], lambda r: not r)  # noqa: B023
        each(sides, "FIPS_202205 %s: P-256" % v, lambda s: shake(s.port["fips"], v)["curve"], lambda r: r and "256" in r)  # noqa: B023
    each(sides, "FIPS_202205: no ChaCha20", lambda s: shake(s.port["fips"], "-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305")["ok"], lambda r: not r)
    each(sides, "pkcs12", lambda s: shake(s.port["pkcs12"])["cn"], lambda r: r == "ec")
    weft = sides[1]
    got = [shake(weft.port["sni"], sni=n)["ok"] for n in ("a.example", "z.example", None)]
    tap.same(got, [True, False, False], "require_sni: only a name that the certificate has")
    tap.ok(all(shake(sides[0].port["sni"], sni=n)["ok"] for n in ("a.example", "z.example", None)), "... which Envoy does not do")


def enters(s, n, who):
    c = ssl.create_default_context(cafile=ca.cert)
    c.check_hostname = False
    if CLIENTS[who]:
        c.load_cert_chain(*CLIENTS[who])
    try:
        return ask(s.port[n], tls=c, sni="a.example").status == 200
    except OSError:
        return False


def clients(sides):
    want = {"m-root": {"good", "other", "deep"}, "m-hash": {"good"}, "m-spki": {"good"}, "m-past": {"good", "other", "deep", "past"},
            "m-names": {"good"}, "m-typed": {"good"}, "m-crl": {"good"}, "m-leaf": None, "m-depth0": {"good", "other"},
            "m-depth1": {"good", "other"}, "m-depth2": {"good", "other", "deep"}, "m-sigs": {"good", "other", "deep"}, "m-combined": {"good"}, "m-files": {"good", "other", "deep"},
            "m-lenient": None}
    for n, in_ in want.items():
        each(sides, "clients of %s" % n, lambda s: {w for w in CLIENTS if enters(s, n, w)}, lambda r: in_ is None or r == in_)  # noqa: B023


def upstreams(sides):
    go = lambda s, n: ask(s.port["up"], "/" + n).status  # noqa: E731
    for n, want in (("usage-off", 200), ("usage-on", 503), ("usage-dflt", 200), ("usage-13-off", 503), ("usage-13-on", 503), ("san-right", 200), ("san-wrong", 503), ("san-none", 200), ("curve", 200), ("cipher", 200)):
        each(sides, "upstream " + n, lambda s: go(s, n), lambda r: r == want)  # noqa: B023

    each(sides, "allow_renegotiation", lambda s: asker.serve(s.port["up"], "/again-on"), lambda r: r == 200)
    each(sides, "allow_renegotiation off", lambda s: asker_off.serve(s.port["up"], "/again-off"), lambda r: r == 503)

    def resumed(s, n):
        del up_old.hands[:]
        for _ in range(3):
            go(s, n)
            wait_for(lambda: True, 0.1)
        return [h[1] for h in up_old.hands]
    for n, want in (("keys-0", [False] * 3), ("keys-1", [False, True, True]), ("keys-dflt", [False, True, True])):
        each(sides, "max_session_keys " + n, lambda s: resumed(s, n), lambda r: r == want)  # noqa: B023

    def sni(s, n):
        del snis[:]
        go(s, n)
        return list(snis)
    for n, want in (("sni", ["inner.example"]), ("host-sni", ["host.example"]), ("no-sni", [None])):
        each(sides, "SNI of " + n, lambda s: sni(s, n), lambda r: r == want)  # noqa: B023


def counters(sides):
    def seen(s):
        before = named(s, "m-root", "ssl.")
        own = ("-cert", GOOD[0], "-key", GOOD[1])
        shake(s.port["m-root"], *own, "-ciphersuites", "TLS_AES_128_GCM_SHA256")
        shake(s.port["m-root"], *own, "-tls1_2", "-cipher", TWO[0], "-groups", "P-256")
        wait_for(lambda: named(s, "m-root", "ssl.handshake")["ssl.handshake"] == before["ssl.handshake"] + 2)
        after = named(s, "m-root", "ssl.")
        return {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0) and re.match(r"ssl\.(curves|sigalgs|ciphers|versions)", k)}
    each(sides, "ssl.curves, sigalgs, ciphers, versions of a listener", seen,
         lambda r: r.get("ssl.curves.X25519") == 1 and r.get("ssl.curves.P-256") == 1 and r.get("ssl.sigalgs.ecdsa_secp256r1_sha256") == 2)
    each(sides, "... and of a cluster", lambda s: {k: v for k, v in s.proxy.stats("^cluster.curve.ssl.(curves|sigalgs|ciphers|versions)").items()},
         lambda r: r.get("cluster.curve.ssl.curves.P-384") == 1)


def moves(sides):
    """Kubernetes writes a secret anew: new handshakes show it, connections go on"""
    held = [(s, n, dial(s.port[n], tls=ssl.create_default_context(cafile=ca.cert), sni="a.example")) for s in sides for n in ("files", "parent", "fixed")]
    for n in ("files", "parent", "fixed"):
        each(sides, n + " before", lambda s: shake(s.port[n])["cn"], lambda r: r == "ec")  # noqa: B023
        mounted(n, NEXT, 2)
    for s in sides:
        for n in ("files", "parent"):
            tap.ok(wait_for(lambda: shake(s.port[n])["cn"] == "next", 15, 0.2), "%s: %s is read again when ..data moves" % (s.kind, n))  # noqa: B023
    each(sides, "watched_directory of a certificate that is no secret does nothing", lambda s: shake(s.port["fixed"])["cn"], lambda r: r == "ec")
    for s, n, c in held:
        tap.ok(ask(0, sock=c).status == 200, "%s: a connection of %s goes on" % (s.kind, n))
        c.close()
    mounted("files", (NEXT[0], B[1]), 3)  # they do not fit
    for s in sides:
        tap.ok(wait_for(lambda: (s.proxy.stats("sds.files.key_rotation_failed") or {}).get("sds.files.key_rotation_failed"), 15, 0.2),  # noqa: B023
               s.kind + ": files that do not fit are counted", s.proxy.stats("sds.files"))
        tap.same(shake(s.port["files"])["cn"], "next", s.kind + ": ... and what there was goes on")
    mounted("files", B, 4)
    for s in sides:
        tap.ok(wait_for(lambda: shake(s.port["files"], sni="b.example")["cn"] == "b", 15, 0.2), s.kind + ": good ones after them are taken")  # noqa: B023
    mounted("roots-k8s", EC, 2, root=rogue.cert)
    for s in sides:
        tap.ok(wait_for(lambda: enters(s, "m-files", "stranger") and not enters(s, "m-files", "good"), 15, 0.2),  # noqa: B023
               s.kind + ": roots of a watched_directory are read again")


def main():
    secrets()
    sides = [Side("envoy"), Side("weft")]
    twin = Side("weft", "twin", only=["keys0", "plain"])
    only = os.environ.get("ONLY")
    for part in (lambda s: tickets(s, twin), timeouts, staples, parameters, clients, upstreams, counters, moves):
        if only and not re.search(only, getattr(part, "__name__", "tickets")):
            continue
        try:
            part(sides)
        except Exception as e:  # noqa: BLE001
            import traceback
            tap.ok(False, "%s runs to its end" % getattr(part, "__name__", "part"), traceback.format_exc(), e)
    for s in sides + [twin]:
        tap.same(s.proxy.stop(), 0, s.proxy.name + " ends when told")
    return tap.done()


sys.exit(1 if main() else 0)
