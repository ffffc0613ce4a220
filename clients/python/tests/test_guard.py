"""Tests what Latchkey never does, and what only Python has. clients/scenarios.json covers everything else."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import latchkey_auth
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc, reason_pb2

SESSION = auth_pb2.Session(user_id="u1", username="anna", session_id="s1", slot="web", device="Firefox", roles=["staff"])
LIVE = auth_pb2.ValidateResponse(session=SESSION)


class FakeLatchkey(auth_pb2_grpc.AuthServiceServicer):
    answer = LIVE
    code = None
    hangs = 0.0
    outages = 0
    logins = 0

    def Login(self, request, context):
        self.logins += 1
        context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    def Validate(self, request, context):
        self.asked, self.metadata = request, dict(context.invocation_metadata())
        time.sleep(self.hangs)
        self.outages -= 1
        if self.outages >= 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        if self.code is not None:
            context.abort(self.code, "told to the guard alone")
        return self.answer


@pytest.fixture
def fake():
    fake = FakeLatchkey()
    server = grpc.server(ThreadPoolExecutor(4))
    auth_pb2_grpc.add_AuthServiceServicer_to_server(fake, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield fake
    server.stop(None)


class Aborted(Exception):
    pass


class Context:
    """The part of a context that a denial needs."""

    trailing = ()

    def set_trailing_metadata(self, trailing):
        self.trailing = trailing

    def abort(self, code, message):
        raise Aborted(code, message, dict(self.trailing))


class AioContext:
    async def abort(self, code, message, trailing):
        raise Aborted(code, message, dict(trailing))


def handler(request, context):
    try:
        return latchkey_auth.identity()
    except LookupError:
        return "nobody"


async def aio_handler(request, context):
    return handler(request, context)


def details(method):
    metadata = (("authorization", "Bearer t"), ("x-forwarded-for", "192.0.2.1"))
    return SimpleNamespace(method=method, invocation_metadata=metadata)


def call_sync(fake, method, options):
    with latchkey_auth.channel(fake.address) as channel:
        guard = latchkey_auth.Guard(channel, **options)
        found = guard.intercept_service(lambda _: grpc.unary_unary_rpc_method_handler(handler), details(method))
        return found.unary_unary(None, Context())


async def call_aio(fake, method, options):
    async def find(_):
        return grpc.unary_unary_rpc_method_handler(aio_handler)

    async with latchkey_auth.aio.channel(fake.address) as channel:
        found = await latchkey_auth.aio.Guard(channel, **options).intercept_service(find, details(method))
        if found.stream_stream is not None:
            return await found.stream_stream(None, AioContext())
        return await found.unary_unary(None, AioContext())


@pytest.fixture(params=["sync", "aio"])
def call(request, fake):
    async def call(method="/a.B/C", **options):
        if request.param == "aio":
            # Like grpc.aio, run each call in a context of its own.
            return await asyncio.create_task(call_aio(fake, method, options))
        return await asyncio.to_thread(call_sync, fake, method, options)

    return call


async def denied(call, code, reason, **options):
    with pytest.raises(Aborted) as raised:
        await call(**options)
    told, message, trailing = raised.value.args
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (told, info.reason, info.domain) == (code, reason, "latchkey")
    assert (status.code, status.message) == (code.value[0], message)
    return message, dict(info.metadata)


async def test_the_guard_asks_as_it_is_told(fake, call):
    who = await call(max_staleness=timedelta(seconds=1.5), peek=True, caller_key="secret")
    assert (who.user_id, who.username, who.roles) == ("u1", "anna", {"staff"})
    assert (fake.asked.token, fake.asked.peek) == ("t", True)
    assert fake.asked.max_staleness.ToTimedelta() == timedelta(seconds=1.5)
    assert fake.metadata["x-latchkey-key"] == "secret"
    assert not {"authorization", "x-forwarded-for"} & fake.metadata.keys()


async def test_without_options_the_defaults_of_latchkey_count(fake, call):
    await call()
    assert not fake.asked.peek
    assert not fake.asked.HasField("max_staleness")
    assert "x-latchkey-key" not in fake.metadata


async def test_a_staleness_of_zero_is_sent(fake, call):
    await call(max_staleness=timedelta(0))
    assert fake.asked.HasField("max_staleness")


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_no_status_of_latchkey_is_a_verdict(fake, call, code):
    fake.code = code
    message, metadata = await denied(call, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert (message, metadata) == ("the session cannot be checked at the moment: try again", {})


async def test_an_answer_without_a_verdict_lets_nobody_in(fake, call):
    fake.answer = auth_pb2.ValidateResponse()
    await denied(call, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


async def test_latchkey_may_take_so_long_and_no_longer(fake, call):
    fake.hangs = 2
    begun = time.monotonic()
    await denied(call, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", timeout=0.05)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("reason", [0, 99])
async def test_a_reason_of_tomorrow_is_an_unknown_session(fake, call, reason):
    fake.answer = auth_pb2.ValidateResponse(rejection=reason_pb2.Rejection(reason=reason, terminal=True))
    _, metadata = await denied(call, grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_SESSION")
    assert metadata == {"terminal": "true"}


async def test_a_role_or_a_slot_can_be_required(fake, call):
    assert (await call(required_role="staff", required_slot="web")).username == "anna"
    for what, wanted in ("role", "sta"), ("slot", "mobile"):
        code, reason = grpc.StatusCode.PERMISSION_DENIED, f"{what}_REQUIRED".upper()
        _, metadata = await denied(call, code, reason, **{f"required_{what}": wanted})
        assert metadata == {what: wanted, "terminal": "false"}


async def test_only_the_methods_that_are_named_are_open(fake, call):
    fake.code = grpc.StatusCode.INTERNAL
    assert await call("/a.B/C", open_methods=["/a.B/C"]) == "nobody"
    for method in "/a.B/CC", "/a.B/c", "a.B/C", "/a.B/":
        await denied(call, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", method=method, open_methods=["/a.B/C"])


async def test_one_string_is_no_list_of_methods(call):
    with pytest.raises(TypeError):
        await call(open_methods="/a.B/C")


async def test_the_service_config_repeats_validate_and_not_login(call, fake):
    fake.outages = 3
    assert (await call()).user_id == "u1"
    fake.outages = 4
    await denied(call, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    async with latchkey_auth.aio.channel(fake.address) as channel:
        with pytest.raises(latchkey_auth.Unavailable):
            await latchkey_auth.aio.Client(channel).login("anna", "password")
    assert fake.logins == 1


async def test_a_channel_to_several_addresses_has_a_valid_authority(fake):
    async with latchkey_auth.aio.channel(f"ipv4:{fake.address},127.0.0.1:1") as channel:
        assert (await latchkey_auth.aio.Client(channel).validate("t")).user_id == "u1"
    with latchkey_auth.channel(f"ipv4:{fake.address},127.0.0.1:1") as channel:
        assert latchkey_auth.Client(channel).validate("t").user_id == "u1"
