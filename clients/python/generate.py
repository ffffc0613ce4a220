"""Generates src/latchkey_auth/v1 and, for the tests, tests/sample/v1. Needs requirements-dev.txt."""

import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).parent
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"

# Modules are named after the files of the protocol, but the top-level package `latchkey` belongs to somebody else. Names of
# files, messages and methods stay as they are, so that code that others generate from the same files can be loaded, too.
RENAMED = [
    (re.compile(r"^from latchkey\.v1 import ", re.MULTILINE), "from latchkey_auth.v1 import "),
    (re.compile(r"'latchkey\.v1\.(\w+_pb2)'"), r"'latchkey_auth.v1.\1'"),
]


def generate(source: Path, into: Path) -> None:
    files = sorted(str(file.relative_to(source)) for file in source.glob("*/v1/*.proto"))
    into.mkdir(parents=True, exist_ok=True)
    outs = [f"--{out}_out={into}" for out in ("python", "pyi", "grpc_python")]
    code = protoc.main(["protoc", f"-I{source}", f"-I{WELL_KNOWN}", *outs, *files])
    if code != 0:
        sys.exit(code)


def rename(source: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        text = file.read_text()
        for pattern, replacement in RENAMED:
            text = pattern.sub(replacement, text)
        (into / file.name).write_text(text)


if __name__ == "__main__":
    # Another root is used to compare.
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    with tempfile.TemporaryDirectory() as temporary:
        generate(HERE / "../../proto", Path(temporary))
        rename(Path(temporary) / "latchkey/v1", root / "src/latchkey_auth/v1")
    generate(HERE / "../sample", root / "tests")
