"""A small real server that tests launch: `server_script.py PORT [--slow S] [--crash S] [--child]`.

It listens at once and is ready after --slow seconds, ends with exit code 3 after --crash seconds,
and with --child has a child in a session of its own that ignores SIGTERM.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

options = argparse.ArgumentParser()
options.add_argument("port", type=int)
options.add_argument("--slow", type=float, default=0.0)
options.add_argument("--crash", type=float, default=0.0)
options.add_argument("--once", default="")  # a file: only the first one to find it missing crashes
options.add_argument("--child", action="store_true")
wanted = options.parse_args()
began = time.monotonic()
SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ready = time.monotonic() - began >= wanted.slow
        known = self.path == "/v1/models"
        self.reply(404 if not known else 200 if ready else 503, {"data": []})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": f"pid {os.getpid()}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        self.reply(200, {"choices": [choice], "usage": usage})

    def reply(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def crash():
    time.sleep(wanted.crash)
    print("out of memory, alas", flush=True)
    os._exit(3)


if wanted.child:
    subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
if wanted.crash and not (wanted.once and os.path.exists(wanted.once)):
    if wanted.once:
        open(wanted.once, "w").close()
    threading.Thread(target=crash, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ThreadingHTTPServer(("127.0.0.1", wanted.port), Handler).serve_forever()
