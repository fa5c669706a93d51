"""Opens the shop: its API on one port, and the page that calls it on the next.

`make shop` runs it, or `python examples/bolt_shop/open.py --port 8000`.
"""

import argparse
import os
import signal
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

FOLDER = Path(__file__).resolve().parent


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing about it."""

    def log_message(self, *_: object) -> None:
        pass


def page(port: int) -> ThreadingHTTPServer:
    """A server of the page, an origin of its own."""
    handler = partial(Quiet, directory=str(FOLDER / "page"))
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="of the API (%(default)s)")
    parser.add_argument("--page-port", type=int, help="of the page (the next one)")
    options = parser.parse_args()
    port: int = options.port
    page_port: int = options.page_port or port + 1
    try:
        page(page_port)
    except OSError as error:
        parser.error(f"the page cannot have port {page_port}: {error.strerror}")
    origin = f"http://127.0.0.1:{page_port}"
    environment = os.environ | {"SHOP_PAGE": origin}
    manage = [sys.executable, str(FOLDER / "manage.py")]
    for command in (["migrate", "--verbosity", "0"], ["fill"]):
        done = subprocess.run([*manage, *command], env=environment)
        if done.returncode != 0:
            return done.returncode
    print(f"The shop's window is {origin}/?api=http://127.0.0.1:{port}/api", flush=True)
    serve = [*manage, "runbolt", "--processes", "2", "--port", str(port)]
    bolt = subprocess.Popen(serve, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: bolt.terminate())
    while True:
        try:
            return bolt.wait()
        except KeyboardInterrupt:
            continue  # Ctrl-C reached it too: it is finishing what it began.


if __name__ == "__main__":
    sys.exit(main())
