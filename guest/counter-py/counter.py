"""What the counter is in any world: the parameters of a request, the numbers that a store holds, and
entity tags.

All that is at the top of a module runs when the component is built; a request finds it done.
"""

import re
import weakref
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_plus

DEFAULT_NAME = "count"
"""The counter that is meant where the query names none."""

MAX_NAME_BYTES = 256
"""Longest name of a counter: well below what stores take for a key."""

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

# Resources release themselves by this. Its first use imports a module, which is done here when the
# component is built, and would be done by each request otherwise: a fifth of its time.
weakref.finalize(re, print).detach()


class BadRequest(Exception):
    """A parameter that is wrong, and how it would be right."""


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
        undone. Raises `BadRequest`."""
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
                raise BadRequest(f"'{key}' must be given once")
            given[key] = value
        return cls(**given)


def read_by(text: str) -> int:
    if found := BY.fullmatch(text):
        sign, digits = found.groups()
        by = int(sign + digits)
        if by in COUNTS:
            return by
    raise BadRequest("'by' must be a whole number from -9223372036854775808 to 9223372036854775807")


def read_ttl(text: str) -> int:
    if found := TTL.fullmatch(text):
        number, unit = found.groups()
        ttl = int(number) * UNITS[unit]
        if ttl in TTLS:
            return ttl
    raise BadRequest("'ttl' must be a time from 1ms to 36525d, such as 500ms, 60s, 1m, 1h or 1d")


def read_name(text: str) -> str:
    try:
        if MALFORMED_ESCAPE.search(text):
            raise ValueError("an escape is not two hexadecimal digits")
        name = unquote_plus(text, errors="strict")
    except ValueError:
        raise BadRequest("'name' must be percent-encoded UTF-8") from None
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or "\0" in name:
        raise BadRequest(f"'name' must be 1 to {MAX_NAME_BYTES} bytes long, without NUL")
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
