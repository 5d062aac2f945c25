"""A shared counter, in Python: `POST /increment`, `GET /report`, `POST /reset`.

It answers as `guest/counter` does, which is in Rust. All that is at the top of a module runs when
the component is built; a request finds it done.
"""

import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import unquote_plus

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.handler import (
    Error_BadRequest,
    Error_MethodNotAllowed,
    Error_NotFound,
    Error_State,
    Request,
    Response,
)
from wit_world.imports import atomics, extensions, request_headers, store, worker

DEFAULT_NAME = "count"
"""The counter that is meant where the query names none."""

MAX_NAME_BYTES = 256
"""Longest name of a counter: well below what stores take for a key."""

NO_STORE = ("cache-control", "no-store")

COUNTS = range(-(2**63), 2**63)
"""What a count can be: a signed 64-bit integer."""

# A plus sign arrives as a space, if the client did not encode it. Digits are bounded because
# `int` refuses to read thousands of them.
BY = re.compile(r"(?:%2[Bb])?([+-]?)0*([0-9]{1,19})")

TTL = re.compile(r"0*([0-9]{1,13})(ms|s|m|h|d)")

UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
"""Milliseconds of the units of a time to live."""

TTLS = range(1, 36_525 * UNITS["d"] + 1)
"""What a time to live can be: up to 100 years, as stores take it."""

MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

T = TypeVar("T")

# Buckets release themselves by this. Its first use imports a module, which is done here when the
# component is built, and would be done by each request otherwise: a fifth of its time.
weakref.finalize(re, print).detach()


class Handler(exports.Handler):
    """What the world exports."""

    def handle(self, request: Request) -> Response:
        query = request.query or ""
        match request.path, request.method:
            case "/increment", "POST":
                return increment(Query.parse(query))
            case "/reset", "POST":
                return reset(Query.parse(query))
            case "/report", "GET" | "HEAD":
                return report(Query.parse(query))
            case "/increment" | "/reset", _:
                raise Err(Error_MethodNotAllowed(["POST"]))
            case "/report", _:
                raise Err(Error_MethodNotAllowed(["GET", "HEAD"]))
            case _:
                raise Err(Error_NotFound())


@dataclass
class Query:
    """What the query says, checked: which counter, how much to add, and how long the counter is to
    live if this request creates it, in milliseconds."""

    name: str = DEFAULT_NAME
    by: int = 1
    ttl: int | None = None

    @classmethod
    def parse(cls, query: str) -> Self:
        """Reads a query. Parameters that the counter does not know are let be; one that it knows
        must be right and stand there once, as counting something else than was meant cannot be
        undone."""
        given: dict[str, str | int] = {}
        for pair in query.split("&"):
            key, _, text = pair.partition("=")
            match key:
                case "name":
                    value = read_name(text)
                case "by":
                    value = read_by(text)
                case "ttl":
                    value = read_ttl(text)
                case _:
                    continue
            if key in given:
                raise Err(Error_BadRequest(f"'{key}' must be given once"))
            given[key] = value
        return cls(**given)


def increment(query: Query) -> Response:
    def add(bucket: store.Bucket) -> int:
        if query.ttl is None:
            return atomics.increment(bucket, query.name, query.by)
        return extensions.increment_for(bucket, query.name, query.by, query.ttl)

    count = in_bucket(add)
    return json([NO_STORE], f'{{"count":{count}}}')


def reset(query: Query) -> Response:
    # In one step, so that what others add meanwhile is in this count or in the next.
    before = in_bucket(
        lambda bucket: extensions.get_and_set(bucket, query.name, b"0", query.ttl)
    )
    previous = 0 if before is None else read_count(before)
    # What was no number is gone now.
    text = "null" if previous is None else str(previous)
    return json([NO_STORE], f'{{"count":0,"previous":{text}}}')


def report(query: Query) -> Response:
    value = in_bucket(lambda bucket: bucket.get(query.name))
    count = 0 if value is None else read_count(value)
    if count is None:
        raise Err(Error_State(f"the counter '{query.name}' does not hold a number"))
    # The count alone decides, as the rest says only who answered.
    tag = f'"{count}"'
    seen = request_headers.get("if-none-match")
    if seen is not None and matches(seen, tag):
        return Response(304, [("etag", tag)], b"")
    return json(
        [("etag", tag), ("cache-control", "no-cache")],
        f'{{"count":{count},"current_process_id":{worker.process_id()},'
        f'"instance":{worker.instance()},"guest_version":"{worker.guest_version()}"}}',
    )


def json(headers: list[tuple[str, str]], text: str) -> Response:
    return Response(200, [*headers, ("content-type", "application/json")], text.encode())


def in_bucket(operation: Callable[[store.Bucket], T]) -> T:
    """Does something with the default bucket. What the store refuses is raised as a state error."""
    try:
        with store.open("default") as bucket:
            return operation(bucket)
    except Err as error:
        match error.value:
            case store.Error_NoSuchStore():
                reason = "the bucket 'default' is not configured for this guest"
            case store.Error_AccessDenied():
                reason = "this guest may not use the bucket 'default'"
            case store.Error_Other(text):
                reason = text
        raise Err(Error_State(reason)) from None


def read_by(text: str) -> int:
    if found := BY.fullmatch(text):
        sign, digits = found.groups()
        by = int(sign + digits)
        if by in COUNTS:
            return by
    raise Err(
        Error_BadRequest(
            "'by' must be a whole number from -9223372036854775808 to 9223372036854775807"
        )
    )


def read_ttl(text: str) -> int:
    if found := TTL.fullmatch(text):
        number, unit = found.groups()
        ttl = int(number) * UNITS[unit]
        if ttl in TTLS:
            return ttl
    raise Err(
        Error_BadRequest(
            "'ttl' must be a time from 1ms to 36525d, such as 500ms, 60s, 1m, 1h or 1d"
        )
    )


def read_name(text: str) -> str:
    try:
        if MALFORMED_ESCAPE.search(text):
            raise ValueError("an escape is not two hexadecimal digits")
        name = unquote_plus(text, errors="strict")
    except ValueError:
        raise Err(Error_BadRequest("'name' must be percent-encoded UTF-8")) from None
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or "\0" in name:
        raise Err(
            Error_BadRequest(f"'name' must be 1 to {MAX_NAME_BYTES} bytes long, without NUL")
        )
    return name


def read_count(value: bytes) -> int | None:
    """The number a value holds, in the one form that can be counted on (`007` and `+7` cannot)."""
    try:
        count = int(value)
    except ValueError:
        return None
    return count if count in COUNTS and str(count).encode() == value else None


def matches(seen: str, tag: str) -> bool:
    """Whether `If-None-Match` names the tag (RFC 9110, 13.1.2: weak comparison)."""
    return seen.strip() == "*" or any(
        one.strip().removeprefix("W/") == tag for one in seen.split(",")
    )
