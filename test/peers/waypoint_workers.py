#!/usr/bin/python3
"""What workers share, under four of them: token buckets, circuit breakers, outlier counters, keys fetched for tokens, authorizers. Sums are
exact; connections are spread over the workers by the kernel."""
import base64
import hashlib
import hmac
import http.server
import json
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import (  # noqa: E402
    Proxy, T, Tap, ask, bootstrap, chain, cluster, dial, free_ports, hcm, listener, say, to, wait_for)

F = T + ".extensions.filters.http."
CLIENTS, EACH = 24, 20
tap = Tap()


def b64(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


def token(key, kid):
    h = b64(json.dumps({"alg": "HS256", "kid": kid}).encode()) + "." + b64(json.dumps({"iss": "me", "sub": kid}).encode())
    return h + "." + b64(hmac.new(key, h.encode(), hashlib.sha256).digest())


KEYS = {"old": b"0" * 32, "new": b"1" * 32}


class Service(http.server.BaseHTTPRequestHandler):
    """Keys at /keys; elsewhere an authorizer that refuses what has "no" in its path"""
    protocol_version = "HTTP/1.1"
    kid, fetched = "old", 0

    def log_message(self, *args):
        pass

    def do_GET(self):
        body, status = b"", 403 if "no" in self.path else 200
        if self.path == "/keys":
            Service.fetched += 1
            body = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "kid": Service.kid, "k": b64(KEYS[Service.kid])}]}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def rate_limit(name, tokens, **more):
    all_of = {"default_value": {"numerator": 100}}
    return {"name": "rl", "typed_config": {"@type": F + "local_ratelimit.v3.LocalRateLimit", "stat_prefix": name, "token_bucket": {
        "max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "3600s"}, "filter_enabled": all_of, "filter_enforced": all_of, **more}}


def each(port, n=EACH, clients=CLIENTS, path="/", headers=()):
    """Statuses of n requests by each client on a connection of its own, all at once"""
    start = threading.Barrier(clients)

    def one(i):
        with dial(port) as s:
            start.wait(20)
            return [ask(port, path(i, k) if callable(path) else path, sock=s, headers=headers).status for k in range(n)]
    with ThreadPoolExecutor(clients) as ex:
        return list(ex.map(one, range(clients)))


def total(answers):
    return Counter(s for a in answers for s in a)


def main():
    srv = Server(("127.0.0.1", 0), Service)
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    up, good, bad = Upstream("up"), Upstream("good"), Upstream("bad")
    good.habit, bad.habit = "status=200", "status=500"
    names = ["rl", "rlconn", "jwt", "authz", "breaker", "outlier", "fault"]
    port = dict(zip(names, free_ports(len(names))))
    uri = {"uri": "http://service/keys", "cluster": "service", "timeout": "5s"}
    jwt = {"name": "jwt", "typed_config": {"@type": F + "jwt_authn.v3.JwtAuthentication", "providers": {"p": {
        "issuer": "me", "remote_jwks": {"http_uri": uri, "cache_duration": "1s"}}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]}}
    authz = {"name": "az", "typed_config": {"@type": F + "ext_authz.v3.ExtAuthz", "http_service": {
        "server_uri": {"uri": "http://service", "cluster": "service", "timeout": "10s"}}}}
    fault = {"name": "fault", "typed_config": {"@type": F + "fault.v3.HTTPFault", "delay": {
        "fixed_delay": "0.3s", "percentage": {"numerator": 100}}, "max_active_faults": 7}}
    listeners = [
        listener("rl", port["rl"], chain(hcm([say("/", 200)], [rate_limit("rl", 50)], stat_prefix="rl"))),
        listener("rlconn", port["rlconn"], chain(hcm([say("/", 200)], [rate_limit(
            "rlconn", 3, local_rate_limit_per_downstream_connection=True)], stat_prefix="rlconn"))),
        listener("jwt", port["jwt"], chain(hcm([say("/", 200)], [jwt], stat_prefix="jwt"))),
        listener("authz", port["authz"], chain(hcm([say("/", 200)], [authz], stat_prefix="authz"))),
        listener("breaker", port["breaker"], chain(hcm([to("breaker")], stat_prefix="breaker"))),
        listener("outlier", port["outlier"], chain(hcm([to("outlier")], stat_prefix="outlier"))),
        listener("fault", port["fault"], chain(hcm([say("/", 200)], [fault], stat_prefix="fault")))]
    clusters = [cluster("service", srv.server_address[1]),
                cluster("breaker", up.port, circuit_breakers={"thresholds": [{"max_requests": 5, "track_remaining": True}]}),
                cluster("outlier", good.port, bad.port, outlier_detection={
                    "consecutive_5xx": 5, "interval": "600s", "base_ejection_time": "600s", "max_ejection_percent": 100})]
    p = Proxy(bootstrap(listeners, clusters), args=("--concurrency", "4"))
    asked = CLIENTS * EACH

    got, st = total(each(port["rl"])), p.stats("^rl.")
    tap.same(got, Counter({429: asked - 50, 200: 50}), "a token bucket gives as many tokens as it has, whichever worker asks")
    tap.same([st.get("rl.http_local_rate_limit." + k) for k in ("enabled", "enforced", "ok", "rate_limited")],
             [asked, asked - 50, 50, asked - 50], "and its counters say so")
    tap.same([total([a]) for a in each(port["rlconn"])], [Counter({429: EACH - 3, 200: 3})] * CLIENTS, "one of each connection: to each its own")

    got = total(each(port["authz"], path=lambda i, k: "/no" if k % 4 == 0 else "/yes"))
    st = p.stats("authz")
    tap.same(got, Counter({200: asked * 3 // 4, 403: asked // 4}), "an authorizer is asked for each request, and heard")
    tap.same([sum(v for k, v in st.items() if k.endswith("ext_authz." + n)) for n in ("ok", "denied", "error")],
             [asked * 3 // 4, asked // 4, 0], "its counters add up")

    old, new = ([("authorization", "Bearer " + token(KEYS[k], k))] for k in ("old", "new"))
    tap.same(total(each(port["jwt"], headers=old)), Counter({200: asked}), "tokens are good for all workers at once while keys are fetched")
    tap.ok(1 <= Service.fetched <= 8, "few fetches do", Service.fetched)
    Service.kid = "new"
    tap.ok(wait_for(lambda: total(each(port["jwt"], 1, headers=new)) == Counter({200: CLIENTS}), 20, 0.2), "new keys come to all workers")
    tap.same(total(each(port["jwt"], 2, headers=old)), Counter({401: 2 * CLIENTS}), "and old ones are forgotten by all")

    got = total(each(port["breaker"], 1, path="/", headers=[("x-do", "delay=1500")]))
    st = p.stats("^cluster.breaker.")
    tap.same(got, Counter({503: CLIENTS - 5, 200: 5}), "a circuit breaker counts the requests of all workers")
    tap.ok(wait_for(lambda: p.stat("cluster.breaker.circuit_breakers.default.remaining_rq") == 5), "and forgets those that ended",
           p.stats("^cluster.breaker.circuit"))
    tap.same((st.get("cluster.breaker.upstream_rq_pending_overflow"), p.stat("cluster.breaker.upstream_rq_active")), (CLIENTS - 5, 0),
             "its counters add up")

    got = Counter(ask(port["outlier"]).status for _ in range(60))
    # the main thread ejects: a request or two may still go there
    tap.ok(5 <= got[500] <= 10 and got[200] == 60 - got[500], "five failures in a row eject a host, whichever workers met them", got)
    tap.same([p.stat("cluster.outlier.outlier_detection." + k) for k in ("ejections_active", "ejections_enforced_total")], [1, 1],
             "it is ejected once")
    tap.same(total(each(port["outlier"])), Counter({200: asked}), "for all workers")

    each(port["fault"], 1)
    st = p.stats("fault")
    tap.same(sorted((k.split(".")[-1], v) for k, v in st.items() if k.split(".")[-1] in ("delays_injected", "faults_overflow", "active_faults")),
             [("active_faults", 0), ("delays_injected", 7), ("faults_overflow", CLIENTS - 7)], "active faults are limited over all workers")

    lives = p.p.poll() is None
    tap.ok(p.stop() == 0 and lives, "it lives, and ends when told", p.log()[-1500:])
    tap.ok("Sanitizer" not in p.log(), "no sanitizer complains", p.log()[-3000:])
    return tap.done()


sys.exit(1 if main() else 0)
