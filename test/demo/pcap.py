#!/usr/bin/env python3
"""Reads a pcap of Ethernet frames and tells, for each client address, where its TCP bytes went and whether a marker is in them.

pcap.py FILE MARKER ENROLLED-IP PLAIN-IP
"""
import socket
import struct
import sys

path, marker, enrolled, plain = sys.argv[1:5]
data = open(path, "rb").read()
end = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
streams, packets, i = {}, {}, 24
while i + 16 <= len(data):
    _, _, caplen, _ = struct.unpack(end + "IIII", data[i : i + 16])
    frame = data[i + 16 : i + 16 + caplen]
    i += 16 + caplen
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != 6:
        continue
    ihl = (frame[14] & 15) * 4
    total = struct.unpack(">H", frame[16:18])[0]
    src, dst = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    tcp = frame[14 + ihl : 14 + total]
    sport, dport = struct.unpack(">HH", tcp[:4])
    payload = tcp[(tcp[12] >> 4) * 4 :]
    for ip, port in ((src, dport), (dst, sport)):
        if ip in (enrolled, plain):
            packets.setdefault(ip, []).append(port)
    streams.setdefault((src, sport, dst, dport), bytearray()).extend(payload)


def records(b):
    """TLS records from the start of the stream, or None where the bytes are no TLS."""
    n, at = 0, 0
    while at + 5 <= len(b):
        kind, major, _, size = struct.unpack(">BBBH", b[at : at + 5])
        if kind not in (20, 21, 22, 23) or major != 3 or size > 16640:
            return None
        at += 5 + size
        n += 1
    return n


for name, ip in (("client", enrolled), ("old", plain)):
    mine = {k: v for k, v in streams.items() if ip in (k[0], k[2]) and v}
    ports = packets.get(ip, [])
    tls = [records(v) for k, v in mine.items() if 15008 in (k[1], k[3])]
    found = any(marker.encode() in v for v in mine.values())
    print(
        "%s: %d packets to or from port 15008, other ports: %d packets; TLS records: %d%s; marker found: %s"
        % (name, ports.count(15008), len(ports) - ports.count(15008), sum(t or 0 for t in tls),
           "" if None not in tls else " (and bytes that are not TLS)", "yes" if found else "no")
    )
