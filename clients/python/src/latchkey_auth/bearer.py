"""The search for the token of a request, as in Latchkey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from latchkey_auth import denial

_MORE_THAN_ONE = "There is more than one `authorization`."
_MAX_COOKIES = 4


def token(values: Sequence[str]) -> str:
    """Returns the token of exactly one ``authorization: Bearer ...``, or raises a ``Denial``."""
    if not values:
        raise denial.token_required()
    if len(values) > 1:
        # Proxies disagree on which of them counts, so the guard does not guess.
        raise denial.malformed(_MORE_THAN_ONE)
    if is_empty(values[0]):
        raise denial.token_required()
    scheme, _, token = values[0].partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise denial.malformed("The header `authorization` is not of the form `Bearer <token>`.")
    if "," in token:
        # Proxies join values with commas, and a token never contains one.
        raise denial.malformed(_MORE_THAN_ONE)
    return token


def is_empty(value: str) -> bool:
    """Whether a value of ``authorization`` has no credentials, as some clients send it when they have no token."""
    return value.strip().lower() in ("", "bearer")


def split(joined: str | None) -> list[str]:
    """Returns the values of a header that a server has joined with commas, as those for WSGI do.

    Credentials of other schemes can contain commas. They are one value, which is no token anyway.
    """
    if joined is None:
        return []
    values = [value.strip(" \t") for value in joined.split(",")]
    if all(is_empty(value) or value.lower().startswith("bearer ") for value in values):
        return values
    return [joined]


def cookies(headers: Iterable[str], name: str) -> list[str]:
    """Returns the distinct values of the cookies of this name. A browser sends one for each scope in which it was set."""
    found: dict[str, None] = {}
    for header in headers:
        for pair in header.split(";"):
            key, _, value = pair.strip().partition("=")
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            # An empty value is what remains of a cookie that was cleared.
            if key == name and value:
                found[value] = None
    return list(found)[:_MAX_COOKIES]
