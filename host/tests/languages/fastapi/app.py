"""A counter as FastAPI applications keep it: in Redis, through aiocache, with several workers."""

import os

from aiocache import Cache
from fastapi import FastAPI

app = FastAPI()
cache = Cache(
    Cache.REDIS,
    endpoint="127.0.0.1",
    port=int(os.environ["REDIS_PORT"]),
    namespace="main",
)


@app.post("/increment")
async def increment() -> dict[str, int]:
    return {"count": await cache.increment("count")}


@app.get("/report")
async def report() -> dict[str, int]:
    return {"count": int(await cache.raw("get", "main:count") or 0), "process": os.getpid()}
