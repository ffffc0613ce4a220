"""A guarded server with grpc.aio: the sample of README.md, which the scenarios of all clients call."""

import asyncio
import contextlib
import os

import grpc
from greeter import answer, requirements
from sample.v1 import greeter_pb2, greeter_pb2_grpc

import latchkey_auth


class Greeter(greeter_pb2_grpc.GreeterServiceServicer):
    begun = 0
    running = 0

    @contextlib.contextmanager
    def stream(self):
        self.begun += 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def Greet(self, request, context):
        self.begun += 1
        return answer(request)

    async def GreetAll(self, requests, context):
        with self.stream():
            async for request in requests:
                last = answer(request)
            return last

    async def GreetOften(self, request, context):
        self.begun += 1
        for _ in range(3):
            yield answer(request)
            await asyncio.sleep(0)

    async def Chat(self, requests, context):
        with self.stream():
            async for request in requests:
                yield answer(request)

    async def GreetOn(self, request, context):
        with self.stream():
            while True:
                yield answer(request)
                await asyncio.sleep(0.05)

    async def Begun(self, request, context):
        return greeter_pb2.BegunResponse(count=self.begun, running=self.running)


async def main():
    address, key = os.environ["LATCHKEY_ADDRESS"], os.environ["LATCHKEY_CALLER_KEY"]

    # guarded from here
    guard = latchkey_auth.aio.Guard(
        address,
        caller_key=key,
        open_methods=["/sample.v1.GreeterService/Begun"],
    )
    server = grpc.aio.server(interceptors=[guard])
    # to here

    if required := requirements():
        guard = latchkey_auth.aio.Guard(
            address,
            caller_key=key,
            open_methods=["/sample.v1.GreeterService/Begun"],
            **required,
        )
        server = grpc.aio.server(interceptors=[guard])

    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Greeter(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listens on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
