#!/usr/bin/python3
"""h2spec and grpc-go's interop client against weft-waypoint. argv: h2spec, interop client, interop server. What Envoy fails of h2spec is
in test/golden/h2spec-envoy.txt; UPDATE=1 with ENVOY set writes it anew. gRPC's cases are those that pass through Envoy."""
import os
import subprocess
import sys
import xml.etree.ElementTree as xml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from upstream_kit import Upstream  # noqa: E402
from waypoint_kit import H2_UP, Proxy, SLOW, Tap, WORK, bootstrap, chain, cluster, free_ports, hcm, listener, to, wait_for, dial  # noqa: E402

GOLDEN = "test/golden/h2spec-envoy.txt"
CASES = ["empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server",
         "cancel_after_begin", "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata",
         "unimplemented_method", "unimplemented_service"]
tap = Tap()


def spec(tool, port, tag):
    """(cases, names of those that failed)"""
    out = os.path.join(WORK, tag + ".xml")
    subprocess.run([tool, "-h", "127.0.0.1", "-p", str(port), "-o", str(3 * SLOW), "-j", out], stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=200, check=False)
    n, failed = 0, []
    for case in xml.parse(out).getroot().iter("testcase"):
        n += 1
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append("%s %s" % (case.get("package"), case.get("classname")))
    return n, sorted(failed)


def config(up, ports):
    wide = {"http2_protocol_options": {}, "codec_type": "HTTP2"}
    return bootstrap([listener("spec", ports[0], chain(hcm([to("up", "/")], stat_prefix="spec", **wide))),
                      listener("grpc", ports[1], chain(hcm([to("grpc", "/", timeout="0s")], stat_prefix="grpc", **wide)))],
                     [cluster("up", up.port), cluster("grpc", ports[2], http=H2_UP)])


def refused(port):
    try:
        dial(port).close()
        return False
    except OSError:
        return True


def main():
    h2spec, client, server = sys.argv[1:4]
    up = Upstream("up")
    grpc = free_ports(1)[0]
    serving = subprocess.Popen([server, "--port=%d" % grpc], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not wait_for(lambda: not refused(grpc), 10):
            raise SystemExit("Bail out! the interop server does not listen")
        for kind in (["envoy"] if os.environ.get("UPDATE") else []) + ["weft"]:
            ports = free_ports(2) + [grpc]
            proxy = Proxy(config(up, ports), kind)
            n, failed = spec(h2spec, ports[0], kind)
            if kind == "envoy":
                with open(GOLDEN, "w", encoding="utf-8") as f:
                    f.write("".join(x + "\n" for x in failed))
            with open(GOLDEN, encoding="utf-8") as f:
                known = f.read().splitlines()
            tap.ok(n > 140 and (kind == "envoy" or not set(failed) - set(known)),
                   "h2spec, %s: %d cases, %d failed, %d of them Envoy's too" % (kind, n, len(failed), len(set(failed) & set(known))),
                   *failed)
            for case in CASES:
                p = subprocess.run([client, "--server_host=127.0.0.1", "--server_port=%d" % ports[1], "--test_case=" + case],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW, check=False)
                tap.ok(p.returncode == 0, "grpc-go through %s, h2 to h2: %s" % (kind, case), p.stdout.decode("utf-8", "replace")[-600:])
            tap.same(proxy.stop(), 0, kind + " ends well")
    finally:
        serving.terminate()
        serving.wait()
    return tap.done()


sys.exit(1 if main() else 0)
