#!/usr/bin/env python3
"""Measures the paths that run.sh has set up, one after the other in each repetition, and prints medians and ratios.

A path is NAME=CLIENT-NAMESPACE:ADDRESS:PROXY-PIDS. CPU is user + system time of the proxies' processes.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import time

REPS = int(os.environ.get("BENCH_REPS", "5"))
SECS = int(os.environ.get("BENCH_SECS", "3"))
CASES = os.environ.get("BENCH_CASES", "bulk_down,bulk_up,http_1,http_64,cps_32").split(",")
TICK = os.sysconf("SC_CLK_TCK")


def cpu(pids):
    total = 0
    for p in pids:
        f = open("/proc/%s/stat" % p).read().rsplit(")", 1)[1].split()
        total += int(f[11]) + int(f[12])
    return total / TICK


def rss_kb(pids):
    return [int(re.search(r"VmRSS:\s+(\d+)", open("/proc/%s/status" % p).read()).group(1)) for p in pids]


def sh(ns, *cmd):
    r = subprocess.run(["nsenter", "--net=/run/netns/" + os.environ["BENCH_PREFIX"] + ns, "--", *cmd], capture_output=True, text=True, timeout=120)
    if r.returncode:
        sys.exit("bench: %s: exit %d: %s%s" % (" ".join(cmd), r.returncode, r.stdout[-300:], r.stderr[-300:]))
    return r.stdout


def bulk(ns, addr, reverse):
    out = json.loads(sh(ns, "iperf3", "-c", addr, "-p", "5201", "-t", str(SECS), "-J", *(["-R"] if reverse else [])))
    end = out["end"]["sum_received"]
    return {"value": end["bits_per_second"] / 1e9, "units": end["bytes"] / 2**30}


def http(ns, addr, conns):
    out = sh(ns, "wrk", "-t1", "-c%d" % conns, "-d%ds" % SECS, "--latency", "http://%s:8080/small" % addr)
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit("bench: wrk: " + out)
    n = int(re.search(r"(\d+) requests in", out).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    v, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", out).groups()
    return {"value": rate, "units": n / 1000, "p50_us": float(v) * {"us": 1, "ms": 1000, "s": 1e6}[unit]}


def cps(ns, addr, par):
    n, t0 = 4000 * SECS, time.monotonic()
    sh(ns, os.environ["BENCH_FLOOD"], "client", "--to", addr + ":9000", "--expect", "-", "--conns", str(n), "--par", str(par), "--modes", "plain", "--max", "1")
    return {"value": n / (time.monotonic() - t0), "units": n / 1000}


RUN = {
    "bulk_down": ("Gbit/s, server to client", "CPU-s/GiB", lambda ns, a: bulk(ns, a, True)),
    "bulk_up": ("Gbit/s, client to server", "CPU-s/GiB", lambda ns, a: bulk(ns, a, False)),
    "http_1": ("requests/s, 1 connection", "CPU-s/1k", lambda ns, a: http(ns, a, 1)),
    "http_64": ("requests/s, 64 connections", "CPU-s/1k", lambda ns, a: http(ns, a, 64)),
    "cps_32": ("connections/s, 32 at a time", "CPU-s/1k", lambda ns, a: cps(ns, a, 32)),
}

paths = []
for spec in os.environ["BENCH_PATHS"].split():
    name, rest = spec.split("=", 1)
    ns, addr, pids = rest.rsplit(":", 2) if rest.count(":") >= 2 else (*rest.split(":"), "")
    paths.append((name, ns, addr, [p for p in pids.split(",") if p]))

result = {"machine": "%d CPUs, Linux %s" % (os.cpu_count(), os.uname().release), "reps": REPS, "secs": SECS, "cases": {},
          "rss_idle_kb": {n: rss_kb(p) for n, _, _, p in paths if p}}
for case in CASES:
    what, cpu_unit, fn = RUN[case]
    rows = {n: [] for n, *_ in paths}
    for rep in range(REPS + 1):  # the first is a warm-up
        for name, ns, addr, pids in paths if rep % 2 else reversed(paths):
            print("\r%-10s %d/%d %-8s" % (case, rep, REPS, name), end="", file=sys.stderr, flush=True)
            before = cpu(pids)
            r = fn(ns, addr)
            r["cpu"] = (cpu(pids) - before) / r["units"]
            if rep:
                rows[name].append(r)
    med = {n: {k: statistics.median(x[k] for x in v) for k in v[0]} for n, v in rows.items()}
    base = [x["value"] for x in rows["direct"]]
    for n in med:
        med[n]["ratio"] = statistics.median(x["value"] / b for x, b in zip(rows[n], base))
    result["cases"][case] = med
print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
result["rss_after_kb"] = {n: rss_kb(p) for n, _, _, p in paths if p}

names = [n for n, *_ in paths]
print("%s; medians of %d repetitions of %d s; ratio to direct in the same repetition" % (result["machine"], REPS, SECS))
print("%-10s %-28s" % ("case", "unit") + "".join("%12s %6s" % (n, "ratio") for n in names) + "".join("%18s" % (n + " CPU") for n in names[1:]))
for case, med in result["cases"].items():
    what, cpu_unit, _ = RUN[case]
    line = "%-10s %-28s" % (case, what) + "".join("%12.5g %6.2f" % (med[n]["value"], med[n]["ratio"]) for n in names)
    print(line + "".join("%18s" % ("%.3f %s" % (med[n]["cpu"], cpu_unit)) for n in names[1:]))
    if "p50_us" in med[names[0]]:
        print("%-10s %-28s" % ("", "p50, us") + "".join("%12.0f %6.2f" % (med[n]["p50_us"], med[n]["p50_us"] / med["direct"]["p50_us"]) for n in names))
for k in ("rss_idle_kb", "rss_after_kb"):
    print("%-12s %s" % (k, "  ".join("%s %s" % (n, "+".join(map(str, v))) for n, v in result[k].items())))
if os.environ.get("BENCH_OUT"):
    json.dump(result, open(os.environ["BENCH_OUT"], "w"), indent=1)
