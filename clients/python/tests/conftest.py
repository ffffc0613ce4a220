"""A fake Latchkey that answers as a test tells it."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc, reason_pb2, session_pb2, session_pb2_grpc

SESSION = auth_pb2.Session(user_id="7", username="anna", session_id="s1", slot="web", device="Firefox", roles=["staff"])
REPLACED = reason_pb2.Rejection(
    reason="REJECTION_REASON_REPLACED", message="A newer login on Zoë.", by_device="Zoë", terminal=True
)
REPLACED.at.FromJsonString("2026-07-29T16:34:56.100Z")


class Latchkey(auth_pb2_grpc.AuthServiceServicer, session_pb2_grpc.SessionServiceServicer):
    def __init__(self):
        self.error = None
        self.holds = False
        self.requests = []
        self.metadata = []
        self.port = 0
        self.start()

    def start(self):
        """Starts it, again at the same port."""
        options = [("grpc.so_reuseport", 0)]
        self.server = grpc.server(ThreadPoolExecutor(8), options=options)
        auth_pb2_grpc.add_AuthServiceServicer_to_server(self, self.server)
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.address = f"127.0.0.1:{self.port}"
        self.server.start()

    def stop(self):
        self.server.stop(0).wait()

    def fail(self, code, reason=None, metadata=None, retry_after=None, fields=None):
        """Answers all calls with this status."""
        status = status_pb2.Status(code=code.value[0], message="why")
        if reason is not None:
            info = error_details_pb2.ErrorInfo(reason=reason, domain="latchkey", metadata=metadata)
            status.details.add().Pack(info)
        if retry_after is not None:
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=retry_after)))
        if fields is not None:
            bad = error_details_pb2.BadRequest()
            for field, description in fields.items():
                bad.field_violations.add(field=field, description=description)
            status.details.add().Pack(bad)
        self.error = (code, status)

    def _heard(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.error is not None:
            code, status = self.error
            context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
            context.abort(code, status.message)

    def Login(self, request, context):
        self._heard(request, context)
        context.send_initial_metadata([("set-cookie", "a=1"), ("set-cookie", "b=2")])
        return auth_pb2.LoginResponse(token="secret", session=SESSION)

    def Validate(self, request, context):
        self._heard(request, context)
        if request.token in ("stale", "rejected"):
            return auth_pb2.ValidateResponse(rejection=REPLACED)
        if request.token == "disabled":
            rejection = reason_pb2.Rejection(reason="REJECTION_REASON_ACCOUNT_DISABLED", message="gone", terminal=True)
            return auth_pb2.ValidateResponse(rejection=rejection)
        return auth_pb2.ValidateResponse(session=SESSION)

    def ValidateStream(self, requests, context):
        for request in requests:
            if request.token == "live":
                yield auth_pb2.ValidateResponse(session=SESSION)
            elif request.token == "stale":
                yield auth_pb2.ValidateResponse(rejection=REPLACED)
            else:
                failure = auth_pb2.Failure(code=14, reason="STORE_UNAVAILABLE", message="down")
                failure.retry_after.seconds = 2
                yield auth_pb2.ValidateResponse(failure=failure)

    def Logout(self, request, context):
        self._heard(request, context)
        return auth_pb2.LogoutResponse(ended=2)

    def WatchSession(self, request, context):
        self._heard(request, context)
        yield auth_pb2.WatchSessionResponse(session=SESSION)
        while self.holds and context.is_active():
            time.sleep(0.01)
        if len(self.requests) == 1:
            # The server stops, or its connection has reached its maximum age.
            context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        yield auth_pb2.WatchSessionResponse(rejection=REPLACED)

    def ChangePassword(self, request, context):
        self._heard(request, context)
        return auth_pb2.ChangePasswordResponse(ended=3)

    def GetJwks(self, request, context):
        self._heard(request, context)
        return auth_pb2.GetJwksResponse(jwks='{"keys":[]}')

    def IssueSession(self, request, context):
        self._heard(request, context)
        return session_pb2.IssueSessionResponse(token="secret", session=SESSION)

    def ListSessions(self, request, context):
        self._heard(request, context)
        more = request.everyone and not request.page_token
        return session_pb2.ListSessionsResponse(sessions=[SESSION], next_page_token="2" if more else "")

    def EndSessions(self, request, context):
        self._heard(request, context)
        return session_pb2.EndSessionsResponse(ended=4)


@pytest.fixture
def latchkey():
    latchkey = Latchkey()
    yield latchkey
    latchkey.stop()
