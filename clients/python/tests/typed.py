"""Uses every part of the wheel as its users do. mypy --strict reads this; it is not run."""

from collections.abc import Iterator

from fastapi import Depends

import latchkey_auth
import latchkey_auth.aio
from latchkey_auth.asgi import LatchkeyMiddleware
from latchkey_auth.fastapi import Guard
from latchkey_auth.flask import Guard as FlaskGuard


def log_in(client: latchkey_auth.Client) -> str:
    try:
        return client.login("anna", "password", device="Firefox", cookie=True).token
    except latchkey_auth.SessionLimit as full:
        return full.holder.device
    except latchkey_auth.Throttled as throttled:
        return str(throttled.retry_after + 1.0)


def watch(client: latchkey_auth.Client) -> Iterator[str]:
    for event in client.watch_session("token"):
        yield event.reason if isinstance(event, latchkey_auth.Rejected) else event.username


async def roles(client: latchkey_auth.aio.Client) -> frozenset[str]:
    async for event in client.watch_session("token"):
        if isinstance(event, latchkey_auth.Identity):
            return event.roles
    return (await client.validate("token", peek=True)).roles


guard = Guard("127.0.0.1:50051", required_role="staff", max_staleness=None)
Depends(guard.required(role="admin"))
view = FlaskGuard("127.0.0.1:50051").required(slot="web")(log_in)
LatchkeyMiddleware(None, "127.0.0.1:50051", open_paths="/health", timeout="1")  # type: ignore[arg-type]
