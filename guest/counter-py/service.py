"""The counter as a standard handler of WASI 0.3: `wasi:http` for requests, `wasi:keyvalue` for state."""

import json
from collections.abc import Callable
from typing import Self, TypeVar

from componentize_py_async_support import spawn
from componentize_py_async_support.streams import ByteStreamWriter
from componentize_py_types import Err, Ok
from counter import BadRequest, Query, matches, read_count
from wit_world import (
    byte_stream,
    exports,
    result_option_wasi_http_types_fields_wasi_http_types_error_code_future as trailers,
)
from wit_world.imports import atomics, extensions, store, worker
from wit_world.imports.wasi_http_types import (
    ErrorCode_InternalError,
    Fields,
    Method,
    Method_Get,
    Method_Head,
    Method_Post,
    Request,
    Response,
)

JSON = ("content-type", "application/json")
NO_STORE = ("cache-control", "no-store")

T = TypeVar("T")


class Reply:
    """A status, headers and a body."""

    def __init__(self, status: int, headers: list[tuple[str, str]], text: str = "") -> None:
        self.status = status
        self.headers = headers
        self.body = text.encode()

    @classmethod
    def problem(
        cls, request: Request, status: int, title: str, code: str, detail: str, *more: tuple[str, str]
    ) -> Self:
        """What went wrong, as RFC 9457 has it."""
        problem = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "code": code,
            "detail": detail,
            "instance": header(request, "x-request-id"),
        }
        headers = [("content-type", "application/problem+json"), NO_STORE, *more]
        return cls(status, headers, json.dumps(problem))

    def into_response(self, method: Method) -> Response:
        """The response, whose body is sent after it."""
        headers = [(name, value.encode()) for name, value in self.headers]
        contents = None
        if isinstance(method, Method_Head):
            if self.status != 304:
                headers.append(("content-length", str(len(self.body)).encode()))
        elif self.body:
            writer, contents = byte_stream()
            spawn(send(writer, self.body))
        # Without trailers, which is what is sent when nothing else is.
        _, no_trailers = trailers(lambda: Ok(None))
        response, _ = Response.new(Fields.from_list(headers), contents, no_trailers)
        response.set_status_code(self.status)
        return response


async def send(writer: ByteStreamWriter, body: bytes) -> None:
    with writer:
        await writer.write_all(body)


class Handler(exports.Handler):
    """What the world exports."""

    async def handle(self, request: Request) -> Response:
        method = request.get_method()
        try:
            reply = answer(request, method)
        except BadRequest as problem:
            reply = Reply.problem(request, 400, "Bad Request", "bad_request", str(problem))
        return reply.into_response(method)


def answer(request: Request, method: Method) -> Reply:
    path, _, query = (request.get_path_with_query() or "").partition("?")
    match path, method:
        case "/increment", Method_Post():
            return increment(Query.parse(query))
        case "/reset", Method_Post():
            return reset(Query.parse(query))
        case "/report", Method_Get() | Method_Head():
            return report(Query.parse(query), header(request, "if-none-match"))
        case "/increment" | "/reset", _:
            return method_not_allowed(request, "POST")
        case "/report", _:
            return method_not_allowed(request, "GET, HEAD")
        case _:
            detail = "There is nothing at this path."
            return Reply.problem(request, 404, "Not Found", "not_found", detail)


def method_not_allowed(request: Request, methods: str) -> Reply:
    title, code, detail = "Method Not Allowed", "method_not_allowed", f"This path takes {methods}."
    return Reply.problem(request, 405, title, code, detail, ("allow", methods))


def increment(query: Query) -> Reply:
    def add(bucket: store.Bucket) -> int:
        if query.ttl is None:
            return atomics.increment(bucket, query.name, query.by)
        return extensions.increment_for(bucket, query.name, query.by, query.ttl)

    count = in_bucket(add)
    return Reply(200, [JSON, NO_STORE], f'{{"count":{count}}}')


def reset(query: Query) -> Reply:
    # In one step, so that what others add meanwhile is in this count or in the next.
    before = in_bucket(
        lambda bucket: extensions.get_and_set(bucket, query.name, b"0", query.ttl)
    )
    previous = 0 if before is None else read_count(before)
    # What was no number is gone now.
    text = "null" if previous is None else str(previous)
    return Reply(200, [JSON, NO_STORE], f'{{"count":0,"previous":{text}}}')


def report(query: Query, seen: str | None) -> Reply:
    value = in_bucket(lambda bucket: bucket.get(query.name))
    count = 0 if value is None else read_count(value)
    if count is None:
        raise failed(f"the counter '{query.name}' does not hold a number")
    # The count alone decides, as the rest says only who answered.
    tag = f'"{count}"'
    if seen is not None and matches(seen, tag):
        return Reply(304, [("etag", tag)])
    return Reply(
        200,
        [JSON, ("etag", tag), ("cache-control", "no-cache")],
        f'{{"count":{count},"current_process_id":{worker.process_id()},'
        f'"instance":{worker.instance()},"guest_version":"{worker.guest_version()}"}}',
    )


def header(request: Request, name: str) -> str | None:
    """The value of a header, if it is text."""
    try:
        lines = [line.decode() for line in request.get_headers().get(name)]
    except UnicodeDecodeError:
        return None
    return ", ".join(lines) if lines else None


def failed(reason: str) -> Err:
    """What went wrong with state, the host knows better: whether anything was changed, and whether to
    try again. It answers in the guest's place."""
    return Err(ErrorCode_InternalError(reason))


def in_bucket(operation: Callable[[store.Bucket], T]) -> T:
    """Does something with the default bucket. What the store refuses is raised as an error code."""
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
        raise failed(reason) from None
