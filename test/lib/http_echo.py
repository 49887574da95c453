#!/usr/bin/env python3
"""http_echo.py PORT NAME: answers "NAME PATH from ADDRESS header=value..." on every address; keeps connections."""
import http.server
import socketserver
import sys


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        n = int(self.headers.get("content-length") or 0)
        if n:
            self.rfile.read(n)
        fields = " ".join(f"{k.lower()}={v}" for k, v in self.headers.items())
        text = f"{sys.argv[2]} {self.path} from {self.client_address[0]} {fields}"
        status = int(self.headers.get("x-answer") or 200)
        body = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("0.0.0.0", int(sys.argv[1])), Echo)
print("listening", flush=True)
server.serve_forever()
