"""What the clients in Python have in common: names, a native client's listener, and a person at a browser.

Names below `.test` are this machine, as a resolver's answer. A client asks its person to open a URL by a line
`{"open": URL}` on standard output, and the person's browser comes back to a port of this machine (RFC 8252,
section 7.3). The last line is `{"result": ...}`, or `{"failure": ...}`.
"""

import json
import queue
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# How long a person may take, in seconds.
PATIENCE = 60

_getaddrinfo = socket.getaddrinfo


def _lookup(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    return _getaddrinfo("127.0.0.1" if name and name.endswith(".test") else host, *args, **kwargs)


socket.getaddrinfo = _lookup


def tell(**message):
    print(json.dumps(message), flush=True)


class Listener:
    """Waits for the browser to come back."""

    def __init__(self):
        self._came = queue.Queue()
        came = self._came

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                url = urlsplit(self.path)
                found = url.path == "/callback"
                self.send_response(200 if found else 404)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(b"<!doctype html><title>Back</title><p>You can close this window.")
                if found:
                    came.put(parse_qs(url.query, keep_blank_values=True, strict_parsing=True))

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/callback"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self):
        """The parameters that the browser brought, each of which must stand there once."""
        parameters = self._came.get(timeout=PATIENCE)
        repeated = [name for name, values in parameters.items() if len(values) != 1]
        assert not repeated, f"repeated: {repeated}"
        return {name: values[0] for name, values in parameters.items()}
