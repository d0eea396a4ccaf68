"""Check many addresses: work that waits, so parmap takes more workers than there are cores.

    python examples/url_checks.py [URL ...]

Without addresses it starts a slow server of its own and asks that.
"""

import http.server
import sys
import threading
import time
import urllib.request

from parmap import pmap


class SlowPages(http.server.BaseHTTPRequestHandler):
    """Answers after a while; every fifth page is missing."""

    def do_GET(self):
        time.sleep(0.1)
        self.send_response(404 if self.path.endswith(("0", "5")) else 200)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


def status(url):
    """What the server says; raises OSError for an error of any kind."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowPages)
threading.Thread(target=server.serve_forever, daemon=True).start()
urls = sys.argv[1:] or [f"http://127.0.0.1:{server.server_port}/page/{n}" for n in range(40)]

found = pmap(status, urls, return_exceptions=True)
for url, outcome in zip(urls, found, strict=True):
    if isinstance(outcome, Exception):
        print(f"{url}: {outcome}")
print(found.report)
server.shutdown()
server.server_close()
