"""Tests of the two clients: what they send, what they return, and their errors."""

import asyncio
import pickle
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import grpc
import pytest

import latchkey_auth
from latchkey_auth import Rejected, Unavailable
from latchkey_auth.v1 import auth_pb2

CODE = grpc.StatusCode


class Sync:
    """The client for threads, with the interface of the other one."""

    def __init__(self, *args, **options):
        self.client = latchkey_auth.Client(*args, **options)

    def __getattr__(self, name):
        method = getattr(self.client, name)

        async def call(*args, **options):
            return await asyncio.to_thread(method, *args, **options)

        async def iterate(*args, **options):
            for one in await asyncio.to_thread(lambda: list(method(*args, **options))):
                yield one

        return iterate if name in ("watch_session", "validate_stream", "list_all_sessions") else call


@pytest.fixture(params=["sync", "aio"])
def connect(request):
    return Sync if request.param == "sync" else latchkey_auth.aio.Client


@pytest.fixture
async def client(connect, latchkey):
    client = connect(latchkey.address, caller_key="key", timeout=5)
    yield client
    await client.close()


async def test_a_login_has_all_options(client, latchkey):
    login = await client.login(
        "anna",
        "password",
        slot="web",
        device="Firefox",
        takeover=True,
        idempotency_key="k",
        client_address="203.0.113.5",
        cookie="a=b; é=c; d=e",
    )
    assert (login.token, login.session.username, login.set_cookie) == ("secret", "anna", ("a=1", "b=2"))
    assert "secret" not in repr(login)
    assert latchkey.requests == [
        auth_pb2.LoginRequest(
            username="anna", password="password", slot="web", device="Firefox", takeover=True, idempotency_key="k"
        )
    ]
    sent = latchkey.metadata[0]
    assert (sent["x-latchkey-key"], sent["x-forwarded-for"]) == ("key", "203.0.113.5")
    assert (sent["x-latchkey-cookie"], sent["cookie"]) == ("true", "a=b; d=e")


async def test_every_method_is_there(client, latchkey):
    assert (await client.validate("t", peek=True, max_staleness=timedelta(seconds=2))).user_id == "7"
    assert latchkey.requests[-1].peek and latchkey.requests[-1].max_staleness.seconds == 2
    assert (await client.logout("t", scope="others")).ended == 2
    assert latchkey.requests[-1].scope == auth_pb2.LOGOUT_SCOPE_OTHERS
    assert await client.change_password("t", "old", "new") == 3
    assert await client.jwks() == {"keys": []}
    assert (await client.issue_session("7", device="d", takeover=True)).token == "secret"
    assert [one.user_id for one in await client.list_sessions("7")] == ["7"]
    assert len([one async for one in client.list_all_sessions(page_size=1)]) == 2
    assert latchkey.requests[-1].page_token == "2"
    assert await client.end_sessions("7", slot="web", message="bye") == 4
    await client.end_all_sessions()
    assert latchkey.requests[-1].everyone


async def test_a_missing_token_is_a_rejection_and_is_not_sent(client, latchkey):
    for call in client.validate(""), client.change_password("", "old", "new"):
        with pytest.raises(Rejected) as rejected:
            await call
        assert (rejected.value.reason, rejected.value.terminal) == ("TOKEN_REQUIRED", False)
    assert (await client.logout("")).rejection.reason == "TOKEN_REQUIRED"
    assert [one.reason async for one in client.watch_session("")] == ["TOKEN_REQUIRED"]
    assert not latchkey.requests


async def test_a_watch_is_restored_and_ends_with_the_rejection(client, latchkey):
    session, rejection = [one async for one in client.watch_session("t")]
    assert (session.username, rejection.reason, rejection.by_device) == ("anna", "REPLACED", "Zoë")
    assert len(latchkey.requests) == 2


async def test_a_watch_tells_an_outage_from_a_dead_token(client, latchkey):
    latchkey.fail(CODE.UNAVAILABLE, "STORE_UNAVAILABLE")
    with pytest.raises(Unavailable):
        [one async for one in client.watch_session("t")]
    latchkey.fail(CODE.UNAUTHENTICATED, "KICKED", {"terminal": "true", "at_unix": "60", "by_device": ""})
    (rejection,) = [one async for one in client.watch_session("t")]
    assert (rejection.reason, rejection.terminal) == ("KICKED", True)
    assert rejection.at == datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)


async def test_a_stream_answers_each_token_in_order(client):
    live, stale, failed, missing = [one async for one in client.validate_stream(["live", "stale", "x", ""])]
    assert (live.username, stale.reason) == ("anna", "REPLACED")
    assert isinstance(failed, Unavailable) and failed.retry_after == 2
    assert missing.reason == "TOKEN_REQUIRED"


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (CODE.UNAUTHENTICATED, "INVALID_CREDENTIALS", latchkey_auth.InvalidCredentials),
        (CODE.PERMISSION_DENIED, "ACCOUNT_DISABLED", latchkey_auth.AccountDisabled),
        (CODE.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED", latchkey_auth.NotAllowed),
        (CODE.NOT_FOUND, "ACCOUNT_NOT_FOUND", latchkey_auth.NotFound),
        (CODE.FAILED_PRECONDITION, "ACCOUNTS_READ_ONLY", latchkey_auth.AccountsReadOnly),
        (CODE.INTERNAL, "INTERNAL", Unavailable),
        (CODE.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", Unavailable),
        (CODE.UNKNOWN, None, Unavailable),
        (CODE.UNIMPLEMENTED, None, latchkey_auth.LatchkeyError),
        (CODE.ABORTED, "OF_TOMORROW", latchkey_auth.LatchkeyError),
    ],
)
async def test_errors_have_types(client, latchkey, code, reason, error):
    latchkey.fail(code, reason)
    with pytest.raises(latchkey_auth.LatchkeyError) as raised:
        await client.login("anna", "password")
    assert type(raised.value) is error
    assert (raised.value.reason, raised.value.message) == (reason or code.name, "why")
    assert isinstance(raised.value.__cause__, grpc.RpcError)


async def test_errors_say_what_to_do(client, latchkey):
    async def error(*status, **details):
        latchkey.fail(*status, **details)
        with pytest.raises(latchkey_auth.LatchkeyError) as raised:
            await client.login("anna", "password")
        return raised.value

    throttled = await error(CODE.RESOURCE_EXHAUSTED, "THROTTLED", retry_after=30)
    assert isinstance(throttled, latchkey_auth.Throttled) and throttled.retry_after == 30
    overloaded = await error(CODE.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=1)
    assert isinstance(overloaded, Unavailable) and (overloaded.retry_after, overloaded.outcome_unknown) == (1, False)
    outage = await error(CODE.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert isinstance(outage, Unavailable) and (outage.retry_after, outage.outcome_unknown) == (None, True)
    invalid = await error(CODE.INVALID_ARGUMENT, "INVALID_REQUEST", fields={"slot": "is unknown", "device": "is long"})
    assert isinstance(invalid, latchkey_auth.InvalidRequest)
    assert (invalid.field, invalid.fields["device"]) == ("slot", "is long")
    refused = await error(CODE.PERMISSION_DENIED, "CALLER_NOT_ALLOWED", {"role": "operator"})
    assert isinstance(refused, latchkey_auth.NotAllowed) and refused.role == "operator"
    holder = {"slot": "web", "device": "TV", "issued_at_unix": "60", "idle_seconds": "5"}
    full = await error(CODE.FAILED_PRECONDITION, "SESSION_LIMIT", holder)
    assert isinstance(full, latchkey_auth.SessionLimit)
    assert full.holder == latchkey_auth.Holder(
        "web", "TV", datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc), timedelta(seconds=5)
    )


def test_errors_survive_a_task_queue():
    error = latchkey_auth.Throttled("THROTTLED", "too many", 30.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.retry_after) == (latchkey_auth.Throttled, "THROTTLED: too many", 30.0)
    rejected = Rejected("REPLACED", "why", terminal=True, by_device="TV")
    assert pickle.loads(pickle.dumps(rejected)).by_device == "TV"


async def test_a_rejection_is_no_outage(client, latchkey):
    with pytest.raises(Rejected) as rejected:
        await client.validate("stale")
    assert (rejected.value.reason, rejected.value.by_device, rejected.value.terminal) == ("REPLACED", "Zoë", True)
    assert rejected.value.at == datetime(2026, 7, 29, 16, 34, 56, 100_000, timezone.utc)
    latchkey.stop()
    with pytest.raises(Unavailable):
        await client.validate("stale")


async def test_the_first_call_after_a_restart_is_answered(client, latchkey):
    await client.validate("t")
    for _ in range(3):
        latchkey.stop()
        latchkey.start()
        await asyncio.wait_for(client.validate("t"), 3)


async def test_a_client_closes_what_it_has_made_and_nothing_else(latchkey):
    channel = latchkey_auth.channel(latchkey.address)
    with latchkey_auth.Client(channel) as client:
        client.validate("t")
    latchkey_auth.Client(channel).validate("t")
    channel.close()
    with latchkey_auth.Client(latchkey.address) as client:
        client.validate("t")
    with pytest.raises(ValueError, match="closed"):
        client.validate("t")
    with latchkey_auth.Client(latchkey.address) as never_used:
        pass
    with pytest.raises(ValueError, match="closed"):
        never_used.validate("t")

    async with latchkey_auth.aio.channel(latchkey.address) as aio_channel:
        async with latchkey_auth.aio.Client(aio_channel) as aio_client:
            await aio_client.validate("t")
        await latchkey_auth.aio.Client(aio_channel).validate("t")
    async with latchkey_auth.aio.Client(latchkey.address) as aio_client:
        await aio_client.validate("t")
    with pytest.raises(Exception, match="closed"):
        await aio_client.validate("t")


def test_a_client_of_a_module_works_in_every_event_loop(latchkey):
    client = latchkey_auth.aio.Client(latchkey.address)
    for _ in range(3):
        assert asyncio.run(client.validate("t")).username == "anna"
    # Loops that have ended are forgotten with their channels.
    assert len(client._own._made) == 1


def test_a_client_of_a_module_works_in_forked_processes(latchkey):
    """As in gunicorn --preload. A process of its own forks, because the one of the tests has used gRPC already."""
    script = """
import os, sys, latchkey_auth
client = latchkey_auth.Client(sys.argv[1])
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if client.validate("t").username == "anna" else 1)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""
    assert subprocess.run([sys.executable, "-c", script, latchkey.address], timeout=20).returncode == 0


async def test_closing_ends_a_watch(connect, latchkey):
    latchkey.holds = True
    client = connect(latchkey.address)
    watch = asyncio.create_task(_all(client.watch_session("t")))
    while not latchkey.requests:
        await asyncio.sleep(0.01)
    await client.close()
    assert len(await asyncio.wait_for(watch, 5)) <= 1


async def _all(events):
    return [one async for one in events]


def test_somebody_elses_latchkey_does_not_matter(tmp_path):
    """Neither a package `latchkey` nor code that was generated from the same files."""
    for package in "latchkey", "latchkey/v1":
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('the wrong package')")
    script = """
import latchkey_auth
from google.protobuf import descriptor_pool
from latchkey_auth.v1 import auth_pb2
# Generated code of the same files registers the same descriptors.
descriptor_pool.Default().AddSerializedFile(auth_pb2.DESCRIPTOR.serialized_pb)
assert auth_pb2.Session.__module__ == "latchkey_auth.v1.auth_pb2"
import pickle
assert pickle.loads(pickle.dumps(auth_pb2.Session(user_id="7"))).user_id == "7"
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, timeout=60)
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (latchkey_auth.Client, latchkey_auth.aio.channel("127.0.0.1:1")),
        (latchkey_auth.Guard, None),
        (latchkey_auth.aio.Client, latchkey_auth.channel("127.0.0.1:1")),
        (latchkey_auth.aio.Guard, ("127.0.0.1", 1)),
    ],
)
def test_a_channel_of_the_wrong_kind_is_told_at_once(make, wrong):
    with pytest.raises(TypeError, match="use latchkey_auth"):
        make(wrong)
