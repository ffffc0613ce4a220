#!/usr/bin/env python3
"""Generates src/domain/credentials/password/common.txt, the list of common passwords that is compiled in.

    scripts/common-passwords.py DJANGO ZXCVBN > src/domain/credentials/password/common.txt

DJANGO is `django/contrib/auth/common-passwords.txt.gz` of a Django wheel (PyPI, 5.2.19), ZXCVBN is
`src/passwords.json` of the npm package @zxcvbn-ts/language-common (4.1.3). NOTICE has their licences.

Passwords of less than 8 characters are left out, because the policy does not accept them except in tests, and so are
passwords with a wrong character encoding. The list is folded as in src/domain/credentials/password/policy.rs and sorted
by bytes.
"""

import gzip
import json
import sys
import unicodedata


def folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def main() -> None:
    django, zxcvbn = sys.argv[1:]
    with gzip.open(django, "rt", encoding="utf-8") as file:
        found = {line.rstrip("\n") for line in file}
    with open(zxcvbn, encoding="utf-8") as file:
        found.update(json.load(file))
    usable = {folded(text) for text in found if "\u043f\u0457\u0455" not in text and text.isprintable()}
    for text in sorted((text for text in usable if len(text) >= 8), key=str.encode):
        sys.stdout.write(text + "\n")


main()
