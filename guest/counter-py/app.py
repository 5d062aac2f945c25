"""A shared counter, in Python: `POST /increment`, `GET /report`, `POST /reset`.

It answers as `guest/counter` does, which is in Rust.
"""

from collections.abc import Callable
from typing import TypeVar

from componentize_py_types import Err
from counter import BadRequest, Query, matches, read_count
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

NO_STORE = ("cache-control", "no-store")

T = TypeVar("T")


class Handler(exports.Handler):
    """What the world exports."""

    def handle(self, request: Request) -> Response:
        try:
            return answer(request)
        except BadRequest as problem:
            raise Err(Error_BadRequest(str(problem))) from None


def answer(request: Request) -> Response:
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
