#!/usr/bin/python3
"""x-forwarded-client-cert in all its modes, over real mTLS, and what access logs tell of a connection's certificates and of headers' sizes:
the same bootstrap through weft-waypoint and a real Envoy. ENVOY: its binary."""
import json
import os
import ssl
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    Ca, Proxy, Tap, ask, bootstrap, chain, cluster, free_ports, hcm, json_log, lines_of, listener, pem, to, WORK)

MODES = ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"]
DETAILS = {"all": {"subject": True, "cert": True, "chain": True, "dns": True, "uri": True}, "some": {"subject": True, "uri": True}, "none": {}}
BEFORE = [None, "By=spiffe://x/y;Hash=00;Subject=\"CN=before\";URI=spiffe://a/b", "a,b", ""]
OPERATORS = ["DOWNSTREAM_PEER_SUBJECT", "DOWNSTREAM_PEER_ISSUER", "DOWNSTREAM_PEER_SERIAL", "DOWNSTREAM_PEER_FINGERPRINT_256",
             "DOWNSTREAM_PEER_URI_SAN", "DOWNSTREAM_PEER_DNS_SAN", "DOWNSTREAM_LOCAL_URI_SAN",
             "DOWNSTREAM_LOCAL_DNS_SAN", "DOWNSTREAM_LOCAL_SUBJECT", "DOWNSTREAM_TLS_VERSION", "DOWNSTREAM_PEER_CERT_V_START",
             "DOWNSTREAM_PEER_CERT_V_END", "REQUEST_HEADERS_BYTES"]
tap = Tap()
up = Upstream("up")
ca = Ca("ca")
SERVER = ca.issue("server", "DNS:a.example,URI:spiffe://mesh/server")
CLIENTS = {"none": None, "uri": ca.issue("client", "URI:spiffe://mesh/ns/a/sa/b"),
           "names": ca.issue("odd name", "DNS:one.example,DNS:two.example,URI:spiffe://mesh/x,URI:https://y/z")}
with open(CLIENTS["names"][0], "a", encoding="ascii") as more, open(ca.cert, encoding="ascii") as root:
    more.write(root.read())  # its client sends two
PLACES = [(m, d) for m in MODES for d in DETAILS]


def context(cert):
    c = ssl.create_default_context(cafile=ca.cert)
    c.check_hostname = False
    if cert:
        c.load_cert_chain(*cert)
    return c


class Side:
    def __init__(self, kind):
        self.kind, self.ports = kind, dict(zip(PLACES, free_ports(len(PLACES))))
        self.plain = dict(zip(MODES, free_ports(len(MODES))))
        self.log = os.path.join(WORK, kind + ".xfcc")
        log = {"access_log": json_log(self.log, case="%REQ(x-case)%", **{o: "%" + o + "%" for o in OPERATORS})}
        tls = {"common_tls_context": {"tls_certificates": [pem(*SERVER)], "validation_context": {"trusted_ca": {"filename": ca.cert}}}}
        h = lambda m, d: hcm([to("up", "/")], forward_client_cert_details=m, set_current_client_cert_details=DETAILS[d], **log)  # noqa: E731
        self.proxy = Proxy(bootstrap(
            [listener("%s-%s" % (m, d), p, chain(h(m, d), tls)) for (m, d), p in self.ports.items()] +
            [listener("plain-" + m, p, chain(h(m, "all"))) for m, p in self.plain.items()], [cluster("up", up.port)]), kind)

    def seen(self, port, client, before, case):
        headers = [("x-case", case)] + ([("x-forwarded-client-cert", before)] if before is not None else [])
        r = ask(port, headers=headers, **({"tls": context(CLIENTS[client]), "sni": "a.example"} if client else {}))
        try:
            return r.status, [v for k, v in json.loads(r.body)["headers"] if k == "x-forwarded-client-cert"]
        except (ValueError, KeyError):
            return r.status, r.body


def main():
    sides, got = [Side("envoy"), Side("weft")], []
    for s in sides:
        answers = {}
        for (m, d), port in s.ports.items():
            for c in CLIENTS:
                for i, b in enumerate(BEFORE):
                    name = "%s, %s, client %s, before %d" % (m, d, c, i)
                    answers[name] = s.seen(port, c, b, name)
        for m, port in s.plain.items():
            for i, b in enumerate(BEFORE):
                name = "%s, plain, before %d" % (m, i)
                answers[name] = s.seen(port, None, b, name)
        got.append(answers)
        tap.ok(s.proxy.stop() == 0, s.kind + " ends when told")
    for name, want in got[0].items():
        tap.same(got[1][name], want, name)
    tap.ok(any("URI=spiffe://mesh/ns/a/sa/b" in str(v) for v in got[1].values()), "an identity is forwarded at all")
    logs = [{d["case"]: d for d in map(json.loads, lines_of(s.log))} for s in sides]
    for o in OPERATORS:
        differ = [(k, d.get(o), logs[1].get(k, {}).get(o)) for k, d in logs[0].items() if d.get(o) != logs[1].get(k, {}).get(o)]
        tap.ok(not differ and logs[0], "%" + o + "%: as Envoy", *differ[:2])
    return tap.done()


sys.exit(1 if main() else 0)
