"""A guarded server with threads: the sample of README.md, which the scenarios of all clients call."""

import contextlib
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from greeter import answer, requirements
from sample.v1 import greeter_pb2, greeter_pb2_grpc

import latchkey_auth


class Greeter(greeter_pb2_grpc.GreeterServiceServicer):
    def __init__(self):
        self.begun = 0
        self.running = 0
        self.lock = threading.Lock()

    def begin(self):
        with self.lock:
            self.begun += 1

    @contextlib.contextmanager
    def stream(self):
        self.begin()
        with self.lock:
            self.running += 1
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1

    def Greet(self, request, context):
        self.begin()
        return answer(request)

    def GreetAll(self, requests, context):
        with self.stream():
            return [answer(request) for request in requests][-1]

    def GreetOften(self, request, context):
        self.begin()
        yield from itertools.repeat(answer(request), 3)

    def Chat(self, requests, context):
        with self.stream():
            for request in requests:
                yield answer(request)

    def GreetOn(self, request, context):
        with self.stream():
            while context.is_active():
                yield answer(request)
                time.sleep(0.05)

    def Begun(self, request, context):
        return greeter_pb2.BegunResponse(count=self.begun, running=self.running)


address, key = os.environ["LATCHKEY_ADDRESS"], os.environ["LATCHKEY_CALLER_KEY"]

# guarded from here
guard = latchkey_auth.Guard(
    address,
    caller_key=key,
    open_methods=["/sample.v1.GreeterService/Begun"],
)
server = grpc.server(ThreadPoolExecutor(max_workers=100), interceptors=[guard])
# to here

if required := requirements():
    guard = latchkey_auth.Guard(
        address,
        caller_key=key,
        open_methods=["/sample.v1.GreeterService/Begun"],
        **required,
    )
    server = grpc.server(ThreadPoolExecutor(max_workers=100), interceptors=[guard])

greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Greeter(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"listens on 127.0.0.1:{port}", flush=True)
server.wait_for_termination()
