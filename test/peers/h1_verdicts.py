#!/usr/bin/env python3
"""What an HTTP/1 proxy says to each golden case.

h1_verdicts.py ask FOLDER VERSION REQUESTS-PORT PROXY-PORT > verdicts
h1_verdicts.py upstream FOLDER PORT-FILE

ask sends requests raw to a proxy that answers 200 itself. For a response it asks another port,
behind which stands upstream: it answers /NAME with the bytes of the case and ends its direction.
A line a case: NAME refused|accepted|waiting STATUSES closed|open DETAIL. Refused: an error status,
or an end of the connection that no answer announced; of a response, one that does not come whole."""
import concurrent.futures
import http.client
import os
import re
import socket
import sys
import threading

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


def answer(folder, conn):
    """One connection of upstream: one request, one golden response."""
    with conn:
        conn.settimeout(10)
        got = b""
        try:
            while b"\r\n\r\n" not in got:
                piece = conn.recv(65536)
                if not piece:
                    return
                got += piece
            name = os.path.basename(got.split(b" ", 2)[1].decode())
            with open(os.path.join(folder, name + ".in"), "rb") as f:
                conn.sendall(f.read())
            conn.shutdown(socket.SHUT_WR)
            while conn.recv(65536):
                pass
        except OSError:
            pass


def upstream(folder, port_file):
    with socket.create_server(("127.0.0.1", 0)) as s:
        with open(port_file + ".new", "w", encoding="ascii") as f:
            print(s.getsockname()[1], file=f)
        os.rename(port_file + ".new", port_file)
        while True:
            threading.Thread(target=answer, args=(folder, s.accept()[0]), daemon=True).start()


def response_verdict(port, name):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        c.request("HEAD" if name.startswith("res-head-") else "GET", "/" + name)
        r = c.getresponse()
        body = r.read()
    except (http.client.HTTPException, OSError):
        return f"{name} refused - closed -"
    finally:
        c.close()
    if r.status >= 500:
        return f"{name} refused {r.status} open {body.decode('latin-1').split('{')[0] or '-'}"
    return f"{name} accepted {r.status} open -"


def ask(folder, version, port, proxy):
    names = sorted(f[: -len(".in")] for f in os.listdir(folder) if f.endswith(".in"))
    # what asks for a tunnel is not asked here, nor what needs another configuration
    left_out = ("h10-", "res-connect-", "res-upgrade-")
    names = [n for n in names if not n.startswith(left_out)]

    def one(name):
        if name.startswith("res-"):
            # a pooled connection that upstream was just ending says nothing of the case: what is refused is asked again
            for _ in range(4):
                line = response_verdict(proxy, name)
                if " refused " not in line:
                    break
            return line
        return verdict(port, os.path.join(folder, name + ".in"))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        lines = list(pool.map(one, names))
    print(f"envoy {version}, defaults; requests: direct_response behind the buffer filter")
    print("\n".join(lines))


def main():
    if sys.argv[1] == "upstream":
        upstream(sys.argv[2], sys.argv[3])
    else:
        ask(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))


main()
