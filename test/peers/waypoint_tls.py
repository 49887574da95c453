#!/usr/bin/python3
"""TLS, filter chains and the roles of a listener: certificates by SNI, client certificates with SAN matchers, XFCC and a revocation list,
session tickets, ALPN, upstream TLS; chains by port, SNI, ALPN, source, transport; PROXY protocol in; original_dst behind REDIRECT rules."""
import os
import shutil
import socket
import ssl
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from h2_kit import ask2  # noqa: E402
from upstream_kit import Upstream, server_tls  # noqa: E402
from waypoint_kit import (  # noqa: E402
    Ca, Proxy, Tap, address, ask, bootstrap, chain, cluster, curl, dial, free_ports, hcm, listener, openssl, pem, say, to, upstream_tls,
    wait_for, T)

tap = Tap()
ca, rogue = Ca("ca"), Ca("rogue")
A, B, WILD = ca.issue("a", "DNS:a.example"), ca.issue("b", "DNS:b.example"), ca.issue("wild", "DNS:*.wild.example")
GOOD = ca.issue("good", "URI:spiffe://td/ns/a/sa/good,DNS:good.client")
OTHER = ca.issue("other", "URI:spiffe://td/ns/b/sa/other")
GONE = ca.issue("gone", "URI:spiffe://td/ns/a/sa/gone")
STRANGER = rogue.issue("stranger", "URI:spiffe://td/ns/a/sa/good")
CRL = ca.crl(GONE[0])
SERVER = ca.issue("server", "DNS:inner.example,URI:spiffe://td/ns/x/sa/up")
up, up_tls = Upstream("up"), Upstream("tls", tls=server_tls(*SERVER))
up_mtls = Upstream("mtls", tls=server_tls(*SERVER, ca=ca.cert))
names = ["sni", "mtls", "match", "pp", "redir", "virtual", "fallback"]
P = dict(zip(names, free_ports(len(names))))
FILTERS = T + ".extensions.filters.listener."
INSPECT = [{"name": "tls_inspector", "typed_config": {"@type": FILTERS + "tls_inspector.v3.TlsInspector"}},
           {"name": "http_inspector", "typed_config": {"@type": FILTERS + "http_inspector.v3.HttpInspector"}}]


def context(cert=None, alpn=None, version=None):
    c = ssl.create_default_context(cafile=ca.cert)
    c.check_hostname = False
    if cert:
        c.load_cert_chain(*cert)
    if alpn:
        c.set_alpn_protocols(alpn)
    if version:
        c.maximum_version = version
    return c


def words(text, **more):
    return hcm([say("/", 200, text)], stat_prefix=text, **more)


def config():
    tls = {"common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [pem(*A), pem(*B), pem(*WILD)]}}
    mtls = {"require_client_certificate": True, "common_tls_context": {
        "tls_certificates": [pem(*A)], "validation_context": {
            "trusted_ca": {"filename": ca.cert}, "crl": {"filename": CRL},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://td/ns/a/"}}]}}}
    details = {"uri": True, "subject": True, "dns": True}
    routes = [to("tls", "/tls"), to("mtls", "/mtls"), to("badsan", "/badsan"), to("up", "/")]
    plain = {"common_tls_context": {"tls_certificates": [pem(*A)]}}
    sources = {"source_prefix_ranges": [{"address_prefix": "127.0.0.2", "prefix_len": 32}]}
    up_ca = {"trusted_ca": {"filename": ca.cert}}
    uri = [{"san_type": "URI", "matcher": {"exact": "spiffe://td/ns/x/sa/up"}}]
    wrong = [{"san_type": "URI", "matcher": {"exact": "spiffe://td/ns/x/sa/else"}}]
    clusters = [
        cluster("up", up.port),
        cluster("tls", up_tls.port, transport_socket=upstream_tls(sni="inner.example", common_tls_context={
            "validation_context": {**up_ca, "match_typed_subject_alt_names": uri}})),
        cluster("badsan", up_tls.port, transport_socket=upstream_tls(sni="inner.example", common_tls_context={
            "validation_context": {**up_ca, "match_typed_subject_alt_names": wrong}})),
        cluster("mtls", up_mtls.port, transport_socket=upstream_tls(sni="inner.example", common_tls_context={
            "tls_certificates": [pem(*GOOD)], "validation_context": up_ca})),
        {"name": "orig", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s"}]
    listeners = [
        listener("sni", P["sni"], chain(hcm(routes, stat_prefix="sni"), tls)),
        listener("mtls", P["mtls"], chain(hcm(routes, stat_prefix="mtls", forward_client_cert_details="SANITIZE_SET",
                                              set_current_client_cert_details=details), mtls)),
        listener("match", P["match"],
                 chain(words("a"), plain, filter_chain_match={"server_names": ["a.example"]}),
                 chain(words("wild"), plain, filter_chain_match={"server_names": ["*.example"]}),
                 chain(words("h2"), {"common_tls_context": {**plain["common_tls_context"], "alpn_protocols": ["h2"]}},
                       filter_chain_match={"server_names": ["a.example"], "application_protocols": ["h2"]}),
                 chain(words("source"), filter_chain_match={"transport_protocol": "raw_buffer", **sources}),
                 chain(words("raw"), filter_chain_match={"transport_protocol": "raw_buffer"}),
                 listener_filters=INSPECT, default_filter_chain=chain(words("default"), plain)),
        listener("pp", P["pp"], chain(hcm([to("up", "/")], stat_prefix="pp", use_remote_address=True)), listener_filters=[
            {"name": "pp", "typed_config": {"@type": FILTERS + "proxy_protocol.v3.ProxyProtocol"}}])]
    return bootstrap(listeners, clusters)


def names_served(port, sni):
    out = openssl("s_client", "-connect", "127.0.0.1:%d" % port, "-servername", sni, "-CAfile", ca.cert, stdin=b"")
    text = openssl("x509", "-noout", "-ext", "subjectAltName", stdin=out).decode()
    return text.split("\n")[1].strip()


def certificates():
    for sni, want in (("a.example", "DNS:a.example"), ("b.example", "DNS:b.example"), ("x.wild.example", "DNS:*.wild.example"),
                      ("none.example", "DNS:a.example")):
        tap.same(names_served(P["sni"], sni), want, "SNI %s gets %s" % (sni, want))
    r = ask2(P["sni"], tls=context(alpn=["h2", "http/1.1"]), sni="a.example")
    tap.ok(r.status == 200 and r.seen("x-forwarded-proto") == "https", "ALPN h2", r.status, r.body)
    r = ask(P["sni"], tls=context(alpn=["http/1.1"]), sni="a.example")
    tap.ok(r.status == 200 and r.version == "HTTP/1.1", "ALPN http/1.1")
    rc, out = curl("--cacert", ca.cert, "--resolve", "b.example:%d:127.0.0.1" % P["sni"], "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
                   "https://b.example:%d/" % P["sni"])
    tap.same((rc, out), (0, "2 200"), "curl verifies b.example and speaks h2")
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLS 1.2"), (None, "TLS 1.3")):
        c = context(version=version)
        first = dial(P["sni"], tls=c, sni="a.example")
        ask(0, sock=first)
        second = c.wrap_socket(socket.create_connection(("127.0.0.1", P["sni"])), server_hostname="a.example", session=first.session)
        ok = ask(0, sock=second).status == 200
        tap.ok(ok and second.session_reused, "%s: a ticket resumes the session" % name)
        first.close()
        second.close()
    for path in ("/tls", "/mtls"):
        r = ask(P["sni"], path, tls=context(alpn=["http/1.1"]), sni="a.example")
        tap.ok(r.status == 200 and r.get("x-from") == path[1:], "upstream %s" % path[1:], r.status, r.body)
    r = ask(P["sni"], "/badsan", tls=context(alpn=["http/1.1"]), sni="a.example")
    tap.ok(r.status == 503 and b"TLS" in r.body, "an upstream with another name is refused", r.status, r.body)


def enters(cert):
    try:
        r = ask(P["mtls"], tls=context(cert), sni="a.example")
        return r.status == 200 and r
    except OSError:
        return False


def clients(proxy):
    r = enters(GOOD)
    xfcc = r.seen("x-forwarded-client-cert") if r else ""
    tap.ok(r and "Hash=" in xfcc and 'Subject="CN=good"' in xfcc and "URI=spiffe://td/ns/a/sa/good" in xfcc and "DNS=good.client" in xfcc,
           "a client that matches comes in, and is named upstream", xfcc)
    r = ask(P["mtls"], tls=context(GOOD), sni="a.example", headers=[("x-forwarded-client-cert", "Hash=forged")])
    tap.ok("forged" not in (r.seen("x-forwarded-client-cert") or "forged"), "a forged XFCC is not forwarded", r.body)
    tap.ok(not enters(OTHER), "another SAN is refused")
    tap.ok(not enters(GONE), "a revoked certificate is refused")
    tap.ok(not enters(STRANGER), "another CA's is refused")
    tap.ok(not enters(None), "no certificate is refused")
    stats = {k: v for k, v in proxy.stats().items() if "ssl.fail_verify" in k and k.startswith("listener")}
    tap.ok(sum(stats.values()) >= 4, "... and counted", stats)


def chains():
    for sni, alpn, want in (("a.example", None, b"a"), ("a.example", ["h2"], b"h2"), ("x.example", None, b"wild"), ("y.x.example", None, b"wild"),
                            ("other", None, b"default")):
        c = context(alpn=alpn)
        r = ask2(P["match"], tls=c, sni=sni) if alpn else ask(P["match"], tls=c, sni=sni)
        tap.same((r.status, r.body), (200, want), "filter_chain_match: SNI %s, ALPN %s: %s" % (sni, alpn, want.decode()))
    tap.same(ask(P["match"]).body, b"raw", "plaintext on the same port")
    tap.same(ask(P["match"], source=("127.0.0.2", 0)).body, b"source", "a source that has its own chain")
    tap.same(ask2(P["match"]).body, b"raw", "h2 by prior knowledge on it")


def proxy_protocol():
    for head, want in ((b"PROXY TCP4 9.8.7.6 5.4.3.2 1111 2222\r\n", "9.8.7.6"),
                       (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x09\x08\x07\x06\x05\x04\x03\x02\0\x01\0\x02", "9.8.7.6")):
        s = dial(P["pp"])
        s.sendall(head)
        r = ask(0, sock=s)
        s.close()
        tap.ok(r.status == 200 and r.seen("x-forwarded-for") == want, "PROXY protocol v%d in" % (1 if head[0] == 80 else 2), r.body)
    s = dial(P["pp"])
    s.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
    try:
        tap.same(s.recv(100), b"", "without it the connection is closed")
    except ConnectionError:
        tap.ok(True, "without it the connection is closed")
    s.close()


SIDECAR = r"""
import sys, json, time
sys.path.insert(0, sys.argv[1])
from waypoint_kit import *
from upstream_kit import Upstream
v, f = 15001, 9092
apps = [Upstream("app1", port=9091), Upstream("app2", port=9092, host="0.0.0.0")]
orig = {"name": "orig", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s"}
od = [{"name": "od", "typed_config": {"@type": T + ".extensions.filters.listener.original_dst.v3.OriginalDst"}}]
virtual = listener("virtual", v, chain(hcm([to("orig", "/")], stat_prefix="pass")), use_original_dst=True, listener_filters=od)
virtual["address"]["socket_address"]["address"] = "0.0.0.0"
named = listener("named", 9091, chain(hcm([say("/", 200, "named")], stat_prefix="named")), bind_to_port=False)
named["address"]["socket_address"]["address"] = "10.99.0.1"
p = Proxy(bootstrap([virtual, named], [orig]), args=["--user", "daemon"] if sys.argv[2] == "user" else [])
out = {}

r = ask(9091, raw=b"GET / HTTP/1.1\r\nhost: t\r\n\r\n", sock=dial(9091, "10.99.0.1"))
out["named"] = [r.status, r.body.decode()]
r = ask(9092, raw=b"GET /through HTTP/1.1\r\nhost: t\r\n\r\n", sock=dial(9092, "10.99.0.1"))
out["through"] = [r.status, r.get("x-from")]
out["end"] = p.stop()
print("RESULT " + json.dumps(out))
"""


def sidecar():
    """REDIRECT rules send what goes to 10.99.0.1 into one listener; bind_to_port false and ORIGINAL_DST take it from there"""
    import json
    if os.getuid() != 0 or not shutil.which("iptables"):
        tap.skip("original_dst behind REDIRECT rules", "needs root and iptables")
        return
    ns = "wtls%d" % os.getpid()
    subprocess.run(["ip", "netns", "add", ns], check=True)
    try:
        for c in ("ip link set lo up", "ip addr add 10.99.0.1/32 dev lo",
                  "iptables -t nat -A OUTPUT -p tcp -d 10.99.0.1 -m owner ! --uid-owner daemon -j REDIRECT --to-ports 15001"):
            subprocess.run(["ip", "netns", "exec", ns, *c.split()], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lib = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib")
        p = subprocess.run(["ip", "netns", "exec", ns, sys.executable, "-c", SIDECAR, lib, "user"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=60, check=False, stdin=subprocess.DEVNULL)
        text = p.stdout.decode("utf-8", "replace")
        line = [x for x in text.splitlines() if x.startswith("RESULT ")]
        got = json.loads(line[0][7:]) if line else {}
        tap.ok(got.get("named") == [200, "named"], "use_original_dst: a listener that is not bound takes its address's connections", text[-1500:])
        tap.ok(got.get("through") == [200, "app2"], "... and an ORIGINAL_DST cluster goes where they wanted to", text[-1500:])
    except subprocess.CalledProcessError as e:
        tap.skip("original_dst behind REDIRECT rules", "no NAT rules here: %s" % e)
    finally:
        subprocess.run(["ip", "netns", "del", ns], check=False)


def main():
    proxy = Proxy(config())
    for part in (certificates, lambda: clients(proxy), chains, proxy_protocol, sidecar):
        try:
            part()
        except Exception as e:  # noqa: BLE001
            import traceback
            tap.ok(False, "%s runs to its end" % getattr(part, "__name__", "part"), traceback.format_exc(), e)
    tap.same(proxy.stop(), 0, "weft-waypoint ends well")
    return tap.done()


sys.exit(1 if main() else 0)
