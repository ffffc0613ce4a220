"""A FastAPI service for users who are logged in to Latchkey.

Needs `pip install 'latchkey-auth[fastapi]' uvicorn`. http://127.0.0.1:PORT/docs shows the API.
"""

import contextlib
import os
import socket
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI

from latchkey_auth import Identity
from latchkey_auth.fastapi import Guard

address = os.environ.get("LATCHKEY_ADDRESS", "127.0.0.1:50051")
key = os.environ.get("LATCHKEY_CALLER_KEY")
required_role = os.environ.get("LATCHKEY_REQUIRED_ROLE") or None
required_slot = os.environ.get("LATCHKEY_REQUIRED_SLOT") or None

# guarded from here
guard = Guard(address, caller_key=key)
Caller = Annotated[Identity, Depends(guard.required(role=required_role, slot=required_slot))]
# to here


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):
    async with guard:
        yield


app = FastAPI(title="Greeter", lifespan=lifespan)
begun = 0


@app.get("/greet")
async def greet(caller: Caller):
    global begun
    begun += 1
    names = ("user_id", "username", "session_id", "slot", "device")
    identity = {name: getattr(caller, name) for name in names}
    identity["roles"] = sorted(caller.roles)
    identity["issued_at_unix"] = int(caller.issued_at.timestamp())
    identity["expires_at_unix"] = int(caller.expires_at.timestamp())
    return {"text": f"Hello, {caller.username}", "identity": identity}


@app.get("/begun")
async def count():
    return {"count": begun}


if __name__ == "__main__":
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:0").rpartition(":")
    listener = socket.create_server((host, int(port)))
    print(f"listens on {host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
