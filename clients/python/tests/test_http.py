"""Tests of the guards for HTTP: what the scenarios do not reach."""

import asyncio
import contextlib
import json
import logging
import socket
import threading
from typing import Annotated

import fastapi
import flask
import grpc
import httpx
import pytest
import starlette.applications
import uvicorn
import websockets
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute

import latchkey_auth
import latchkey_auth.asgi
import latchkey_auth.fastapi
import latchkey_auth.flask
import latchkey_auth.wsgi
from latchkey_auth import Identity

OUTAGE = {"reason": "STORE_UNAVAILABLE", "message": "the session cannot be checked at the moment: try again"}
REPLACED = {
    "reason": "REPLACED",
    "message": "A newer login on Zoë.",
    "terminal": True,
    "at": "2026-07-29T16:34:56.100000Z",
    "by_device": "Zoë",
}


def who():
    """The caller, as every guard gives it to code below a handler, or `None` in an open path."""
    try:
        return latchkey_auth.identity().username
    except LookupError:
        return None


def asgi(address, **options):
    async def hello(request):
        return JSONResponse([request.scope["latchkey"] and request.scope["latchkey"].username, who()])

    app = starlette.applications.Starlette(routes=[Route("/hello", hello), Route("/open", hello)])
    return latchkey_auth.asgi.LatchkeyMiddleware(app, address, open_paths=["/open"], **options)


def fast(address, **options):
    app = fastapi.FastAPI()
    guard = latchkey_auth.fastapi.Guard(address, **options)

    @app.get("/hello")
    async def hello(caller: Annotated[Identity, fastapi.Depends(guard)]):
        return [caller.username, caller.username]

    @app.get("/open")
    def unguarded():
        return [None, who()]

    return app


def wsgi(address, **options):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [json.dumps([environ["latchkey"] and environ["latchkey"].username, who()]).encode()]

    return latchkey_auth.wsgi.LatchkeyMiddleware(app, address, open_paths=["/open"], **options)


def flask_view(address, **options):
    app = flask.Flask("view")
    guard = latchkey_auth.flask.Guard(address, **options)

    @app.get("/hello")
    @guard
    def hello():
        return [flask.g.identity.username, who()]

    @app.get("/open")
    def unguarded():
        return [None, who()]

    return app.wsgi_app


def flask_app(address, **options):
    app = flask.Flask("app")
    latchkey_auth.flask.Guard(address, open_paths=["/open"], **options).init_app(app)

    @app.get("/hello")
    async def hello():
        return [flask.g.identity.username, who()]

    @app.get("/open")
    def unguarded():
        return ["identity" in flask.g or None, who()]

    return app.wsgi_app


@pytest.fixture(params=[asgi, fast, wsgi, flask_view, flask_app])
def get(request, latchkey):
    """Sends a request to an application."""
    made = {}

    async def get(path="/hello", headers=(("authorization", "Bearer t"),), **options):
        key = tuple(options.items())
        app = made.setdefault(key, request.param(latchkey.address, **options))
        if request.param in (asgi, fast):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return await client.get(path, headers=list(headers))
        # Servers for WSGI join repeated headers.
        joined = {}
        for name, value in headers:
            joined[name] = f"{joined[name]},{value}" if name in joined else value

        def call():
            with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://test") as client:
                return client.get(path, headers=joined)

        return await asyncio.to_thread(call)

    return get


async def test_the_handler_gets_the_identity_and_an_open_path_has_none(get):
    assert (await get()).json() == ["anna", "anna"]
    assert (await get("/open", headers=())).json() == [None, None]
    # Neither a path that only looks like an open one, nor one that does not exist.
    for path in "/open/", "//open", "/OPEN", "/hello":
        answer = await get(path, headers=())
        assert answer.status_code in (307, 401, 404) and b"anna" not in answer.content


async def test_latchkey_is_asked_as_the_options_say(get, latchkey):
    await get()
    assert "x-latchkey-key" not in latchkey.metadata[-1] and not latchkey.requests[-1].peek
    await get(caller_key="secret", peek=True)
    assert latchkey.metadata[-1]["x-latchkey-key"] == "secret" and latchkey.requests[-1].peek
    assert latchkey.requests[-1].token == "t"


@pytest.mark.parametrize(
    ("token", "options", "status", "reason", "error"),
    [
        (None, {}, 401, "TOKEN_REQUIRED", None),
        ("a, Bearer b", {}, 401, "MALFORMED", "invalid_request"),
        ("stale", {}, 401, "REPLACED", "invalid_token"),
        ("disabled", {}, 403, "ACCOUNT_DISABLED", ...),
        ("t", {"required_role": "admin"}, 403, "ROLE_REQUIRED", "insufficient_scope"),
        ("t", {"required_slot": "tv"}, 403, "SLOT_REQUIRED", "insufficient_scope"),
    ],
)
async def test_denials_are_those_of_latchkey(get, token, options, status, reason, error):
    answer = await get(headers=[("authorization", f"Bearer {token}")] if token else [], **options)
    assert (answer.status_code, answer.headers["x-latchkey-reason"]) == (status, reason)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["reason"] == reason
    if token == "stale":
        assert answer.json() == REPLACED
    challenge = 'Bearer realm="latchkey"'
    if error is ...:
        assert "www-authenticate" not in answer.headers
    elif error is None:
        assert answer.headers["www-authenticate"] == challenge
    else:
        expected = f'{challenge}, error="{error}", error_description="{reason}"'
        assert answer.headers["www-authenticate"] == expected


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_without_a_verdict_nobody_is_let_in_and_nobody_is_rejected(get, latchkey, code, caplog):
    latchkey.fail(code, "INTERNAL", {"secret": "for the log"})
    with caplog.at_level(logging.WARNING, "latchkey_auth"):
        answer = await get()
    assert (answer.status_code, answer.json()) == (503, OUTAGE)
    assert (answer.headers["retry-after"], answer.headers["cache-control"]) == ("1", "no-store")
    assert "www-authenticate" not in answer.headers and "x-latchkey-reason" not in answer.headers
    assert code.name in caplog.text and "/hello" in caplog.text


@pytest.mark.parametrize("values", [("Bearer t", "Bearer t"), ("", ""), ("Bearer t", ""), ("Basic x", "Bearer t")])
async def test_two_headers_are_malformed(get, latchkey, values):
    answer = await get(headers=[("authorization", value) for value in values])
    assert (answer.status_code, answer.json()["reason"]) == (401, "MALFORMED")
    assert not latchkey.requests


async def test_a_token_is_taken_from_the_cookie_that_is_named(get, latchkey):
    cookie = [("cookie", "x=1; t=stale; t=live")]
    assert (await get(headers=cookie)).status_code == 401
    assert not latchkey.requests
    # A browser sends one for each scope, and a stale one of another scope must not lock its user out.
    assert (await get(headers=cookie, cookie="t")).json() == ["anna", "anna"]
    assert [request.token for request in latchkey.requests] == ["stale", "live"]
    assert (await get(headers=[("cookie", "t=stale; t=rejected")], cookie="t")).json() == REPLACED
    # The header takes precedence, even if it is wrong.
    assert (await get(headers=[*cookie, ("authorization", "Basic eA==")], cookie="t")).json()["reason"] == "MALFORMED"
    assert (await get(headers=[*cookie, ("authorization", "Bearer")], cookie="t")).status_code == 200


async def test_wrong_options_are_told(get):
    for wrong in "/open", ["open"]:
        with pytest.raises((TypeError, ValueError), match="open_paths"):
            await get(open_paths=wrong)
    with pytest.raises(TypeError):
        await get(no_such_option=1)


async def test_routes_of_fastapi_require_roles_and_document_the_token(latchkey):
    guard = latchkey_auth.fastapi.Guard(latchkey.address)
    app = fastapi.FastAPI()
    router = fastapi.APIRouter(dependencies=[fastapi.Depends(guard)])

    @router.get("/all")
    def everyone(request: fastapi.Request):
        return request.scope["latchkey"].username

    @app.get("/admin", dependencies=[fastapi.Depends(guard.required(role="admin"))])
    def admin():
        return "secret"

    @app.get("/staff")
    def staff(caller: Annotated[Identity, fastapi.Depends(guard.required(role="staff", slot="web"))]):
        return caller.username

    app.include_router(router)
    headers = {"authorization": "Bearer t"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client:
        assert (await client.get("/all")).json() == (await client.get("/staff")).json() == "anna"
        assert (await client.get("/admin")).json()["reason"] == "ROLE_REQUIRED"
        api = (await client.get("/openapi.json")).json()
    assert api["paths"]["/staff"]["get"]["security"] == [{"Latchkey": []}]
    assert api["components"]["securitySchemes"]["Latchkey"]["scheme"] == "bearer"


@contextlib.asynccontextmanager
async def serving(app, http_response=True):
    """Serves an application with uvicorn, which can answer a WebSocket with a status, or without that."""

    async def without(scope, receive, send):
        scope.get("extensions", {}).pop("websocket.http.response", None)
        await app(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app if http_response else without, log_level="warning", lifespan="on"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task


def websocket_by_middleware(latchkey):
    async def echo(websocket):
        await websocket.accept()
        await websocket.send_text(f"{websocket.scope['latchkey'].username} {who()}")
        await websocket.close()

    app = starlette.applications.Starlette(routes=[WebSocketRoute("/ws", echo)])
    return latchkey_auth.asgi.LatchkeyMiddleware(app, latchkey.address)


def websocket_by_dependency(latchkey):
    app = fastapi.FastAPI()
    guard = latchkey_auth.fastapi.Guard(latchkey.address)

    @app.websocket("/ws")
    async def echo(websocket: fastapi.WebSocket, caller: Annotated[Identity, fastapi.Depends(guard)]):
        await websocket.accept()
        await websocket.send_text(f"{caller.username} {caller.username}")
        await websocket.close()

    return app


@pytest.mark.parametrize("application", [websocket_by_middleware, websocket_by_dependency])
@pytest.mark.parametrize("http_response", [True, False])
async def test_a_websocket_is_checked_when_it_begins(latchkey, application, http_response):
    async with serving(application(latchkey), http_response) as address:

        async def connect(token):
            headers = {"authorization": f"Bearer {token}"} if token else {}
            async with websockets.connect(f"ws://{address}/ws", additional_headers=headers) as websocket:
                return await websocket.recv()

        assert await connect("t") == "anna anna"
        latchkey_down = grpc.StatusCode.UNAVAILABLE
        for token, status, reason in (
            (None, 401, "TOKEN_REQUIRED"),
            ("stale", 401, "REPLACED"),
            ("t", 503, "STORE_UNAVAILABLE"),
        ):
            if status == 503:
                latchkey.fail(latchkey_down)
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(token)
            response = refused.value.response
            if http_response:
                assert response.status_code == status
                assert json.loads(response.body)["reason"] == reason
            else:
                assert response.status_code == 403


async def test_connections_of_unknown_kinds_are_not_let_through():
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    guarded = latchkey_auth.asgi.LatchkeyMiddleware(app, "127.0.0.1:1")
    with pytest.raises(RuntimeError, match="tomorrow"):
        await guarded({"type": "tomorrow", "path": "/", "headers": []}, None, None)
    assert not passed


async def test_a_mounted_middleware_guards_its_part(latchkey):
    async def hello(request):
        return JSONResponse(who())

    inner = starlette.applications.Starlette(routes=[Route("/hello", hello), Route("/open", hello)])
    inner = latchkey_auth.asgi.LatchkeyMiddleware(inner, latchkey.address, open_paths=["/api/open"])
    app = starlette.applications.Starlette(routes=[Mount("/api", inner), Route("/hello", hello)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/api/hello", headers={"authorization": "Bearer t"})).json() == "anna"
        # The same task goes on, and has no caller any more.
        assert who() is None
        assert (await client.get("/api/hello")).status_code == 401
        assert (await client.get("/api/open")).json() is None
        assert (await client.get("/hello")).json() is None


async def test_guards_close_their_channels(latchkey):
    async with serving(app := asgi(latchkey.address)) as address, httpx.AsyncClient() as client:
        assert (await client.get(f"http://{address}/hello", headers={"authorization": "Bearer t"})).status_code == 200
    assert app._checker._own._closed

    guard = latchkey_auth.flask.Guard(latchkey.address)
    with guard:
        pass
    assert guard._checker._own._closed
    async with latchkey_auth.fastapi.Guard(latchkey.address) as guard:
        pass
    assert guard._checker._own._closed


def test_a_thread_forgets_the_caller_of_its_last_request(latchkey):
    """Servers reuse threads, and an open path has no caller."""
    for make in wsgi, flask_app, flask_view:
        app = make(latchkey.address)
        found = []

        def requests(app=app, found=found):
            with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://test") as client:
                found.append(client.get("/hello", headers={"authorization": "Bearer t"}).json()[1])
                found.append(client.get("/open").json()[1])
                client.get("/hello", headers={"authorization": "Bearer t"})
            found.append(who())

        thread = threading.Thread(target=requests)
        thread.start()
        thread.join()
        assert found == ["anna", None, None]
