"""Objects of a configuration folder, written for an agent that runs (mesh.sh), and a gateway that it feeds."""
import json
import os
import subprocess

from waypoint_kit import BIN, Proxy, SLOW, wait_for

MESH = os.environ["MESH_W"]
API = "gateway.networking.k8s.io/"
VERSIONS = {"TCPRoute": "v1alpha2", "TLSRoute": "v1alpha2", "ReferenceGrant": "v1beta1"}
HERE = os.environ.get("GATEWAY_IP", "10.90.0.2")


def put(name, *objects):
    """One file of the folder, at once"""
    path = os.path.join(MESH, "config", name + ".yaml")
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write("".join("---\n" + json.dumps(o, indent=1) + "\n" for o in objects))
    os.rename(path + ".new", path)


def drop(name):
    os.unlink(os.path.join(MESH, "config", name + ".yaml"))


def obj(kind, ns, name, spec, api=None, **meta):
    if api is None:
        api = API + VERSIONS.get(kind, "v1")
    o = {"apiVersion": api, "kind": kind, "metadata": {"name": name, **({"namespace": ns} if ns else {}), **meta}}
    o.update({"spec": spec} if spec is not None else {})
    return o


def policy(ns, name, target, action="ALLOW", rules=(), **more):
    """An AuthorizationPolicy; target: "Kind/name" """
    meta = more.pop("meta", {})
    return obj("AuthorizationPolicy", ns, name, {"targetRefs": [target_ref(target)], "action": action, "rules": list(rules), **more},
               api="security.istio.io/v1", **meta)


def target_ref(target):
    kind, name = target.split("/")
    return {"kind": kind, "name": name, "group": "" if kind == "Service" else "gateway.networking.k8s.io"}


def service(ns, name, ports, addresses=(HERE,), vip=None, labels=None):
    """A Service without pods: {port: (port's name, port of the server)}"""
    slices = [obj("EndpointSlice", ns, "%s-%s" % (name, n), None, api="discovery.k8s.io/v1", labels={"kubernetes.io/service-name": name})
              for n, _ in ports.values()]
    for s, (n, to) in zip(slices, ports.values()):
        s.update({"addressType": "IPv4", "ports": [{"name": n, "port": to, "protocol": "TCP"}],
                  "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses]})
    return [obj("Service", ns, name, {"clusterIP": vip or "None", "ports": [{"name": n, "port": p, "targetPort": to}
                                                                           for p, (n, to) in ports.items()]},
                api="v1", labels=labels or {})] + slices


def parent(name="edge", ns="infra", **more):
    return {"name": name, "namespace": ns, **more}


def route(kind, ns, name, rules, hostnames=None, parents=None, **meta):
    spec = {"parentRefs": parents or [parent()]}
    if hostnames:
        spec["hostnames"] = hostnames
    if rules is not None:
        spec["rules"] = rules
    return obj(kind, ns, name, spec, **meta)


def to(name, port=80, **more):
    return {"name": name, "port": port, **more}


def rule(*backends, match=None, filters=None, **more):
    r = {"backendRefs": [to(b) if isinstance(b, str) else b for b in backends]} if backends else {}
    if match is not None:
        r["matches"] = match if isinstance(match, list) else [match]
    if filters:
        r["filters"] = filters
    return {**r, **more}


def prefix(p, **more):
    return {"path": {"type": "PathPrefix", "value": p}, **more}


def ctl(*args, node="B"):
    p = subprocess.run([os.path.join(BIN, "weftctl"), "--run-dir", os.path.join(MESH, node), *args], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * SLOW, check=False)
    return p.stdout.decode("utf-8", "replace")


def status(kind, ns, name):
    what = {"Gateway": "gateways", "BackendTLSPolicy": "policies"}.get(kind, "routes")
    try:
        return next((o for o in json.loads(ctl("status", what, "-o", "json"))
                     if (o["kind"], o["namespace"], o["name"]) == (kind, ns, name)), None)
    except ValueError:
        return None


def reason(conditions, kind):
    c = next((c for c in conditions if c["type"] == kind), None)
    return c and ("" if c["status"] == "True" else c["reason"])


def reasons(kind, ns, name, index=0):
    """("", "") where the route or policy is accepted and its references are good, else the reasons; None: it is not there"""
    s = status(kind, ns, name) or {}
    of = s.get("parents") or s.get("ancestors") or []
    return tuple(reason(of[index]["conditions"], k) for k in ("Accepted", "ResolvedRefs")) if len(of) > index else None


def soon(what, want, seconds=10):
    """(the last value of what(), whether it became want); want may be a function"""
    got = [None]

    def now():
        got[0] = what()
        return want(got[0]) if callable(want) else got[0] == want
    return bool(wait_for(now, seconds, 0.05)), got[0]


def start(name="edge", ns="infra", ip=HERE, node="B", **more):
    """A weft-waypoint that the agent of a node feeds"""
    ads = {"ads": {}, "resource_api_version": "V3"}
    config = {
        "node": {"id": "waypoint~%s~%s.%s~%s.svc.cluster.local" % (ip, name, ns, ns), "cluster": name},
        "dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                                             "grpc_services": [{"envoy_grpc": {"cluster_name": "agent"}}]},
                              "lds_config": ads, "cds_config": ads},
        "static_resources": {"clusters": [{
            "name": "agent", "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "agent", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"pipe": {"path": os.path.join(MESH, node, "waypoint.sock")}}}}]}]}}]}}
    return Proxy(config, name=name, **more)
