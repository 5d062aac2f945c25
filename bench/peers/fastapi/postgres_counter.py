"""A counter in FastAPI that is kept in PostgreSQL through Tortoise ORM.

An increment is `UPDATE … SET count = count + 1` by an F-expression, which is atomic, and the read
of the new value in the same transaction, in which the row stays locked. To read, add and save
would lose updates.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from tortoise import fields
from tortoise.contrib.fastapi import RegisterTortoise
from tortoise.expressions import F
from tortoise.models import Model
from tortoise.transactions import in_transaction


class Counter(Model):
    name = fields.CharField(max_length=255, primary_key=True)
    count = fields.BigIntField(default=0)

    class Meta:
        table = "fastapi_counter"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # The table is there: workers that start together would stumble over each other in making it.
    url = os.environ["STORE_URL"]
    async with RegisterTortoise(app, db_url=url, modules={"models": [__name__]}):
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/increment")
async def increment(name: str = "count") -> dict[str, int]:
    async with in_transaction() as transaction:
        counter = Counter.filter(name=name).using_db(transaction)
        if not await counter.update(count=F("count") + 1):
            # Another request may make the row at the same time.
            new = [Counter(name=name)]
            await Counter.bulk_create(new, ignore_conflicts=True, using_db=transaction)
            await counter.update(count=F("count") + 1)
        return {"count": (await Counter.get(name=name, using_db=transaction)).count}


@app.get("/report")
async def report(name: str = "count") -> dict[str, int]:
    counter = await Counter.get_or_none(name=name)
    return {"count": counter.count if counter else 0, "current_process_id": os.getpid()}


@app.post("/reset")
async def reset(name: str = "count") -> dict[str, int]:
    await Counter.update_or_create({"count": 0}, name=name)
    return {"count": 0}
