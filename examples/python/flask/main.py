"""A Flask service for users who are logged in to Latchkey.

Needs `pip install 'latchkey-auth[flask]'`.
"""

import os

from flask import Flask, g
from werkzeug.serving import make_server

from latchkey_auth.flask import Guard

address = os.environ.get("LATCHKEY_ADDRESS", "127.0.0.1:50051")
key = os.environ.get("LATCHKEY_CALLER_KEY")
required_role = os.environ.get("LATCHKEY_REQUIRED_ROLE") or None
required_slot = os.environ.get("LATCHKEY_REQUIRED_SLOT") or None

app = Flask(__name__)
begun = 0

# guarded from here
guard = Guard(address, caller_key=key)


@app.get("/greet")
@guard.required(role=required_role, slot=required_slot)
def greet():
    caller = g.identity
    # to here
    global begun
    begun += 1
    names = ("user_id", "username", "session_id", "slot", "device")
    identity = {name: getattr(caller, name) for name in names}
    identity["roles"] = sorted(caller.roles)
    identity["issued_at_unix"] = int(caller.issued_at.timestamp())
    identity["expires_at_unix"] = int(caller.expires_at.timestamp())
    return {"text": f"Hello, {caller.username}", "identity": identity}


@app.get("/begun")
def count():
    return {"count": begun}


if __name__ == "__main__":
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:0").rpartition(":")
    server = make_server(host, int(port), app, threaded=True)
    print(f"listens on {host}:{server.server_port}", flush=True)
    server.serve_forever()
