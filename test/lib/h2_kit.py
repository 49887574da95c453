"""An HTTP/2 client for tests: one connection, requests as it is told, one after another or together."""
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
from hyperframe.frame import GoAwayFrame

from waypoint_kit import dial


class Answer:
    def __init__(self):
        self.status, self.headers, self.body, self.trailers = 0, [], b"", []
        self.informational, self.reset, self.whole = [], None, False

    def get(self, name):
        return next((v for k, v in self.headers if k == name), None)

    def json(self):
        import json
        try:
            return json.loads(self.body)
        except ValueError:
            return {"headers": []}

    def seen(self, name):
        return next((v for k, v in self.json()["headers"] if k == name), None)


class H2Client:
    def __init__(self, port, tls=None, sni=None, window=None, hold=False, **dialing):
        self.s = dial(port, tls=tls, sni=sni, **dialing)
        self.h = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False,
            validate_inbound_headers=False))
        self.answers, self.goaway, self.hold, self.closed = {}, None, hold, False
        if window is not None:
            self.h.local_settings = h2.settings.Settings(client=True, initial_values={
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window, h2.settings.SettingCodes.ENABLE_PUSH: 0})
        # the library would take no more answers after a GOAWAY
        self.h._frame_dispatch_table[GoAwayFrame] = self.told_goaway  # noqa: SLF001
        self.h.initiate_connection()
        self.flush()

    def told_goaway(self, frame):
        self.goaway, self.last_id = frame.error_code, frame.last_stream_id
        return [], []

    def flush(self):
        data = self.h.data_to_send()
        if data:
            self.s.sendall(data)

    def send(self, path="/", method="GET", headers=(), body=None, host="test", do=None, trailers=None, end=True, pseudo=()):
        sid = self.h.get_next_available_stream_id()
        h = [(":method", method)]
        if method != "CONNECT" or pseudo:
            h += [(":scheme", "http"), (":path", path)]
        if host is not None:
            h.append((":authority", host))
        h += list(pseudo) + list(headers) + ([("x-do", do)] if do else [])
        self.answers[sid] = Answer()
        self.h.send_headers(sid, h, end_stream=end and body is None and not trailers)
        self.flush()
        if body is not None:
            self.data(sid, body, end and not trailers)
        if trailers:
            self.h.send_headers(sid, trailers, end_stream=True)
            self.flush()
        return sid

    def data(self, sid, body, end):
        if not body:
            self.h.send_data(sid, b"", end_stream=end)
        while body:
            while self.h.local_flow_control_window(sid) <= 0 and not self.done(sid):
                self.step()
            if self.done(sid):
                return
            n = min(self.h.local_flow_control_window(sid), self.h.max_outbound_frame_size, len(body))
            self.h.send_data(sid, body[:n], end_stream=end and n == len(body))
            body = body[n:]
            self.flush()
        self.flush()

    def done(self, sid):
        a = self.answers[sid]
        return self.closed or a.whole or a.reset is not None

    def step(self):
        try:
            got = self.s.recv(262144)
        except ConnectionError:
            got = b""
        if not got:
            self.closed = True
            return
        for e in self.h.receive_data(got):
            self.event(e)
        self.flush()

    def event(self, e):
        a = self.answers.get(getattr(e, "stream_id", None))
        if not a:
            return
        if isinstance(e, h2.events.ResponseReceived):
            a.status = int(dict(e.headers)[":status"])
            a.headers = [kv for kv in e.headers if kv[0] != ":status"]
        elif isinstance(e, h2.events.InformationalResponseReceived):
            a.informational.append(int(dict(e.headers)[":status"]))
        elif isinstance(e, h2.events.DataReceived):
            a.body += e.data
            if not self.hold:
                self.h.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
        elif isinstance(e, h2.events.TrailersReceived):
            a.trailers = e.headers
        elif isinstance(e, h2.events.StreamEnded):
            a.whole = True
        elif isinstance(e, h2.events.StreamReset):
            a.reset = e.error_code

    def wait(self, *sids, seconds=10):
        end = time.monotonic() + seconds
        while not all(self.done(s) for s in sids) and time.monotonic() < end:
            self.step()
        return self.answers[sids[0]] if len(sids) == 1 else [self.answers[s] for s in sids]

    def until(self, what, seconds=5):
        """Reads until what() holds"""
        end = time.monotonic() + seconds
        while not what() and not self.closed and time.monotonic() < end:
            self.step()
        return what()

    def ask(self, path="/", **how):
        return self.wait(self.send(path, **how))

    def close(self):
        self.s.close()


def ask2(port, path="/", tls=None, sni=None, **how):
    c = H2Client(port, tls=tls, sni=sni)
    try:
        return c.ask(path, **how)
    finally:
        c.close()
