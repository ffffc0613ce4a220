"""Tests of streams that clients/scenarios.json does not cover, and of what only Python has."""

import asyncio
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import latchkey_auth
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc, reason_pb2

LIVE = auth_pb2.Session(user_id="u1", username="anna")
REPLACED = reason_pb2.Rejection(reason="REJECTION_REASON_REPLACED", message="too bad", by_device="iPhone", terminal=True)
BREAKS = object()


class FakeLatchkey(auth_pb2_grpc.AuthServiceServicer):
    """A fake whose sessions end, and whose watches break, on demand."""

    def __init__(self):
        self.rejection = None
        self.code = None
        self.watch_error = None
        self.peeked = 0
        self.watched = 0
        self.watching = 0
        self.news = queue.SimpleQueue()

    def Validate(self, request, context):
        if not request.peek:
            return auth_pb2.ValidateResponse(session=LIVE)
        self.peeked += 1
        if self.code is not None:
            context.abort(self.code, "no verdict")
        if self.rejection is not None:
            return auth_pb2.ValidateResponse(rejection=self.rejection)
        return auth_pb2.ValidateResponse(session=LIVE)

    def WatchSession(self, request, context):
        assert "x-forwarded-for" not in dict(context.invocation_metadata())
        self.watched += 1
        if self.watch_error is not None:
            context.abort(self.watch_error, "no watch")
        self.watching += 1
        try:
            yield auth_pb2.WatchSessionResponse(session=LIVE)
            while context.is_active():
                try:
                    news = self.news.get(timeout=0.02)
                except queue.Empty:
                    continue
                if news is BREAKS:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "it breaks")
                yield auth_pb2.WatchSessionResponse(rejection=news)
                return
        finally:
            self.watching -= 1


@pytest.fixture
def fake():
    fake = FakeLatchkey()
    server = grpc.server(ThreadPoolExecutor(8))
    auth_pb2_grpc.add_AuthServiceServicer_to_server(fake, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield fake
    server.stop(None)


class Service:
    """Handlers of all kinds, and how they ended."""

    def __init__(self):
        self.how = queue.SimpleQueue()

    def waits(self, requests, context):
        assert latchkey_auth.identity().username == "anna"
        try:
            for request in requests:
                yield request
            self.how.put("all is said")
        except (grpc.RpcError, GeneratorExit) as why:
            self.how.put(type(why).__name__)
            raise

    def goes_on(self, request, context):
        try:
            while True:
                yield b"still there"
                time.sleep(0.01)
        finally:
            self.how.put("closed")

    def uploads(self, requests, context):
        try:
            return b"".join(requests)
        except grpc.RpcError as why:
            self.how.put(type(why).__name__)
            raise

    def aborts(self, request, context):
        yield b"begun"
        context.abort(grpc.StatusCode.DATA_LOSS, "of its own accord")

    def fails(self, request, context):
        raise ValueError("a fault of the handler's")
        yield

    def is_a_list(self, request, context):
        return [request, latchkey_auth.identity().username.encode()]


class AioService(Service):
    async def waits(self, requests, context):
        assert latchkey_auth.identity().username == "anna"
        try:
            async for request in requests:
                yield request
            self.how.put("all is said")
        except (asyncio.CancelledError, GeneratorExit):
            self.how.put("SessionEnded")
            raise

    async def goes_on(self, request, context):
        try:
            while True:
                await context.write(b"still there")
                await asyncio.sleep(0.01)
        finally:
            self.how.put("closed")

    async def uploads(self, requests, context):
        try:
            return b"".join([request async for request in requests])
        except asyncio.CancelledError:
            self.how.put("SessionEnded")
            raise

    async def aborts(self, request, context):
        yield b"begun"
        await context.abort(grpc.StatusCode.DATA_LOSS, "of its own accord")

    async def fails(self, request, context):
        raise ValueError("a fault of the handler's")
        yield

    async def is_a_list(self, request, context):
        for answer in super().is_a_list(request, context):
            yield answer


def handlers(service):
    methods = {
        "waits": grpc.stream_stream_rpc_method_handler(service.waits),
        "goes_on": grpc.unary_stream_rpc_method_handler(service.goes_on),
        "uploads": grpc.stream_unary_rpc_method_handler(service.uploads),
        "aborts": grpc.unary_stream_rpc_method_handler(service.aborts),
        "fails": grpc.unary_stream_rpc_method_handler(service.fails),
        "is_a_list": grpc.unary_stream_rpc_method_handler(service.is_a_list),
    }
    return [grpc.method_handlers_generic_handler("t.T", methods)]


class Running:
    """A guarded server whose methods are called from threads."""

    def __init__(self, address, service):
        self.service = service
        self.channel = grpc.insecure_channel(address)

    def call(self, method):
        metadata = (("authorization", "Bearer t"), ("x-forwarded-for", "192.0.2.1"))
        rest = {"metadata": metadata, "timeout": 10}
        if method == "waits":
            return self.channel.stream_stream("/t.T/waits")(self.silence(), **rest)
        if method == "uploads":
            call = self.channel.stream_unary("/t.T/uploads").future(self.silence(), **rest)
            return (call.result() for _ in range(1))
        return self.channel.unary_stream(f"/t.T/{method}")(b"?", **rest)

    def silence(self):
        yield b"!"
        threading.Event().wait(10)


@pytest.fixture(params=["sync", "aio"])
def start(request, fake):
    """Starts a guarded server with these options."""
    if request.param == "sync":
        servers = []

        def start_sync(**options):
            guard = latchkey_auth.Guard(latchkey_auth.channel(fake.address), **options)
            service = Service()
            server = grpc.server(ThreadPoolExecutor(8), handlers(service), [guard])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            servers.append(server)
            return Running(f"127.0.0.1:{port}", service)

        yield start_sync
        for server in servers:
            server.stop(None)
        return

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers = []

    def start_aio(**options):
        async def begin():
            guard = latchkey_auth.aio.Guard(latchkey_auth.aio.channel(fake.address), **options)
            service = AioService()
            server = grpc.aio.server(None, handlers(service), [guard])
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            servers.append(server)
            return Running(f"127.0.0.1:{port}", service)

        return asyncio.run_coroutine_threadsafe(begin(), loop).result(10)

    yield start_aio
    for server in servers:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def denied(error, code, reason):
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (error.code(), info.reason, info.domain) == (code, reason, "latchkey")
    assert (status.code, status.message) == (code.value[0], error.details())
    return dict(info.metadata)


def ends(call, code, reason):
    """Asserts how the call ends and returns the metadata of the ErrorInfo."""
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    return denied(raised.value, code, reason)


def replaced(call):
    metadata = ends(call, grpc.StatusCode.UNAUTHENTICATED, "REPLACED")
    assert metadata == {"terminal": "true", "by_device": "iPhone"}


def eventually(is_so):
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < 5
        time.sleep(0.005)


# A generator that is not being read is closed at its current yield.
@pytest.mark.parametrize(
    ("method", "how"),
    [("waits", {"SessionEnded", "GeneratorExit"}), ("goes_on", {"closed"}), ("uploads", {"SessionEnded"})],
)
def test_a_stream_ends_with_the_session_and_its_handler_is_told(fake, start, method, how):
    running = start()
    call = running.call(method)
    eventually(lambda: fake.watching == 1)
    fake.news.put(REPLACED)
    replaced(call)
    assert running.service.how.get(timeout=5) in how


def test_a_watch_that_breaks_says_nothing_of_the_session(fake, start):
    call = start().call("goes_on")
    for _ in range(3):
        fake.news.put(BREAKS)
    fake.news.put(REPLACED)
    replaced(call)
    assert fake.watched == 4


@pytest.mark.parametrize("options", [{}, {"max_watches": 0}])
def test_a_session_that_cannot_be_watched_is_asked_about(fake, start, options):
    fake.watch_error = grpc.StatusCode.RESOURCE_EXHAUSTED
    call = start(**options).call("goes_on")
    eventually(lambda: fake.peeked >= 2)
    fake.rejection = REPLACED
    replaced(call)
    assert (fake.watched == 0) == bool(options)


def test_a_stream_outlives_an_outage_for_a_while(fake, start):
    fake.watch_error, fake.code = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED
    begun = time.monotonic()
    ends(start(outage_grace=0.5).call("goes_on"), grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert 0.5 < time.monotonic() - begun < 3


def test_streams_need_not_be_watched(fake, start):
    call = start(watch_streams=False).call("goes_on")
    fake.rejection = REPLACED
    for _ in range(20):
        next(call)
    call.cancel()
    assert (fake.watched, fake.peeked) == (0, 0)


def test_nobody_watches_once_the_stream_has_ended(fake, start):
    running = start()
    call = running.call("goes_on")
    eventually(lambda: fake.watching == 1)
    call.cancel()
    eventually(lambda: fake.watching == 0)
    assert running.service.how.get(timeout=5) == "closed"


def test_what_a_handler_does_by_itself_is_as_without_a_guard(fake, start):
    running = start()
    assert list(running.call("is_a_list")) == [b"?", b"anna"]
    with pytest.raises(grpc.RpcError) as raised:
        list(running.call("aborts"))
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "of its own accord")
    with pytest.raises(grpc.RpcError) as raised:
        list(running.call("fails"))
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    assert "a fault of the handler's" in raised.value.details()
    eventually(lambda: fake.watching == 0)
