"""Validates tokens over all replicas of Latchkey until it is interrupted, and prints what failed. A test of Latchkey
restarts the replicas meanwhile.

    rolling.py retry|once|off HOST:PORT,HOST:PORT < TOKENS
"""

import collections
import itertools
import json
import signal
import sys
import threading
import time

import grpc

import latchkey_auth
from latchkey_auth.v1 import auth_pb2, auth_pb2_grpc

WORKERS = 8
PAUSE = 0.004
TIMEOUT = 5.0
# Balances like the usual service config, but repeats nothing.
ONCE = ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}))
OPTIONS = {
    "retry": [],
    "once": [ONCE],
    # Not even calls that were never sent.
    "off": [ONCE, ("grpc.enable_retries", 0)],
}


def main() -> None:
    mode, addresses = sys.argv[1:]
    tokens = sys.stdin.read().split()
    stopped = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    channel = latchkey_auth.channel(f"ipv4:{addresses}", options=OPTIONS[mode])
    validate = auth_pb2_grpc.AuthServiceStub(channel).Validate
    failures: collections.Counter[str] = collections.Counter()
    durations: list[float] = []

    def work(first: int) -> None:
        for number in itertools.count(first):
            if stopped.is_set():
                return
            begun = time.monotonic()
            try:
                answer = validate(auth_pb2.ValidateRequest(token=tokens[number % len(tokens)]), timeout=TIMEOUT)
                if not answer.HasField("session"):
                    failures[f"rejected: {answer.rejection.reason}"] += 1
            except grpc.RpcError as error:
                failures[f"{error.code().name}: {error.details()}"] += 1
            durations.append(time.monotonic() - begun)
            time.sleep(PAUSE)

    workers = [threading.Thread(target=work, args=[first]) for first in range(WORKERS)]
    for worker in workers:
        worker.start()
    print("ready", flush=True)
    for worker in workers:
        worker.join()
    slowest = round(1000 * max(durations))
    print(json.dumps({"validates": len(durations), "slowest_ms": slowest, "failures": failures}), flush=True)


main()
