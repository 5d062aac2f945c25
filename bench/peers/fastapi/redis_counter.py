"""A counter in FastAPI that is kept in Redis through aiocache.

`increment` of aiocache is one `INCRBY`, which is atomic; to get, add and set would lose updates.
"""

import os

from aiocache import Cache
from fastapi import FastAPI

app = FastAPI()
cache = Cache(
    Cache.REDIS,
    endpoint="127.0.0.1",
    port=int(os.environ["STORE_PORT"]),
    namespace="fastapi",
)


@app.post("/increment")
async def increment(name: str = "count") -> dict[str, int]:
    return {"count": await cache.increment(name)}


@app.get("/report")
async def report(name: str = "count") -> dict[str, int]:
    # What `increment` stores is text of Redis' own, which no serializer of aiocache reads.
    count = await cache.raw("get", f"fastapi:{name}")
    return {"count": int(count or 0), "current_process_id": os.getpid()}


@app.post("/reset")
async def reset(name: str = "count") -> dict[str, int]:
    await cache.delete(name)
    return {"count": 0}
