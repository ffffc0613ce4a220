"""Generates src/latchkey/v1 and, for the tests, tests/sample/v1. Needs requirements-dev.txt."""

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).parent
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def generate(source: Path, into: Path) -> None:
    files = sorted(str(file.relative_to(source)) for file in source.glob("*/v1/*.proto"))
    into.mkdir(parents=True, exist_ok=True)
    outs = [f"--{out}_out={into}" for out in ("python", "pyi", "grpc_python")]
    code = protoc.main(["protoc", f"-I{source}", f"-I{WELL_KNOWN}", *outs, *files])
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    # Another root is used to compare.
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    generate(HERE / "../../proto", root / "src")
    generate(HERE / "../sample", root / "tests")
