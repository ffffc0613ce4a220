"""A Starlette service for users who are logged in to Latchkey. The middleware works with every ASGI application.

Needs `pip install latchkey-auth starlette uvicorn`.
"""

import os
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from latchkey_auth.asgi import LatchkeyMiddleware

address = os.environ.get("LATCHKEY_ADDRESS", "127.0.0.1:50051")
key = os.environ.get("LATCHKEY_CALLER_KEY")
required_role = os.environ.get("LATCHKEY_REQUIRED_ROLE") or None
required_slot = os.environ.get("LATCHKEY_REQUIRED_SLOT") or None
begun = 0


async def greet(request):
    global begun
    begun += 1
    caller = request.scope["latchkey"]
    names = ("user_id", "username", "session_id", "slot", "device")
    identity = {name: getattr(caller, name) for name in names}
    identity["roles"] = sorted(caller.roles)
    identity["issued_at_unix"] = int(caller.issued_at.timestamp())
    identity["expires_at_unix"] = int(caller.expires_at.timestamp())
    return JSONResponse({"text": f"Hello, {caller.username}", "identity": identity})


async def count(request):
    return JSONResponse({"count": begun})


app = Starlette(routes=[Route("/greet", greet), Route("/begun", count)])

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

if __name__ == "__main__":
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:0").rpartition(":")
    listener = socket.create_server((host, int(port)))
    print(f"listens on {host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
