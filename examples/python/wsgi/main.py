"""A service for users who are logged in to Latchkey. The middleware works with every WSGI application.

Needs `pip install latchkey-auth`.
"""

import json
import os
from wsgiref.simple_server import WSGIRequestHandler, make_server

from latchkey_auth.wsgi import LatchkeyMiddleware

address = os.environ.get("LATCHKEY_ADDRESS", "127.0.0.1:50051")
key = os.environ.get("LATCHKEY_CALLER_KEY")
required_role = os.environ.get("LATCHKEY_REQUIRED_ROLE") or None
required_slot = os.environ.get("LATCHKEY_REQUIRED_SLOT") or None
begun = 0


def app(environ, start_response):
    global begun
    answer = {"count": begun}
    if environ["PATH_INFO"] == "/greet":
        begun += 1
        caller = environ["latchkey"]
        names = ("user_id", "username", "session_id", "slot", "device")
        identity = {name: getattr(caller, name) for name in names}
        identity["roles"] = sorted(caller.roles)
        identity["issued_at_unix"] = int(caller.issued_at.timestamp())
        identity["expires_at_unix"] = int(caller.expires_at.timestamp())
        answer = {"text": f"Hello, {caller.username}", "identity": identity}
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(answer).encode()]


# guarded from here
app = LatchkeyMiddleware(
    app,
    address,
    caller_key=key,
    open_paths=["/begun"],
    required_role=required_role,
    required_slot=required_slot,
)
# to here


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:0").rpartition(":")
    server = make_server(host, int(port), app, handler_class=Quiet)
    print(f"listens on {host}:{server.server_port}", flush=True)
    server.serve_forever()
