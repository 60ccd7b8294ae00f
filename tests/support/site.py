"""Know how to be a web site: a page for everybody, and the names that it was asked for by."""

import contextlib
import http.server
import threading


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hosts.append(self.headers["host"])
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def site():
    """Run a server of pages; it keeps the names that it was asked by."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        server.hosts = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
