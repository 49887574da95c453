#!/usr/bin/env python3
"""What an HTTP/1 server says to each golden request: h1_verdicts.py PORT FOLDER VERSION > verdicts.

A line a case: NAME refused|accepted|waiting STATUSES closed|open DETAIL. Refused: a status that is
not 200, or an end of the connection that no answer announced."""
import concurrent.futures
import os
import re
import socket
import sys

NO_ANSWER_S = 3.0  # without any answer: it waits for more
QUIET_S = 1.0  # behind an answer


def talk(port, data):
    """All bytes of the answer, and whether the server ended the connection."""
    got, closed = b"", False
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        try:
            s.sendall(data)
        except OSError:
            pass
        while True:
            s.settimeout(QUIET_S if got else NO_ANSWER_S)
            try:
                piece = s.recv(65536)
            except socket.timeout:
                break
            except ConnectionError:
                closed = True
                break
            if not piece:
                closed = True
                break
            got += piece
    return got, closed


def answers(got):
    """[(status, said close, body)] of the answers; all have a Content-Length."""
    out = []
    while got:
        m = re.match(rb"HTTP/1\.[01] (\d{3})[^\r]*\r\n((?:[^\r]+\r\n)*)\r\n", got)
        if not m:
            return out + [(0, False, b"")]
        length = re.search(rb"(?im)^content-length: (\d+)", m[2])
        n = int(length[1]) if length else 0
        out.append((int(m[1]), bool(re.search(rb"(?im)^connection: close", m[2])), got[m.end():m.end() + n]))
        got = got[m.end() + n:]
    return out


def verdict(port, path):
    with open(path, "rb") as f:
        got, closed = talk(port, f.read())
    said = [a for a in answers(got) if a[0] >= 200 or a[0] == 0]
    statuses = ",".join(str(a[0]) for a in said) or "-"
    detail = "-"
    if any(a[0] != 200 for a in said):
        what = "refused"
        detail = next(a[2] for a in said if a[0] != 200).decode("latin-1").split()[0:1]
        detail = detail[0] if detail else "-"
    elif closed and not (said and said[-1][1]):
        what = "refused"
    else:
        what = "accepted" if said else "waiting"
    name = os.path.basename(path)[: -len(".in")]
    return f"{name} {what} {statuses} {'closed' if closed else 'open'} {detail}"


def main():
    port, folder, version = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    cases = sorted(f for f in os.listdir(folder) if f.endswith(".in") and not f.startswith(("res-", "h10-")))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        lines = list(pool.map(lambda c: verdict(port, os.path.join(folder, c)), cases))
    print(f"envoy {version}, direct_response behind the buffer filter, defaults")
    print("\n".join(lines))


main()
