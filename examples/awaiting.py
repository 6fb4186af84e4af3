"""How coroutines send tasks and await their results, under asyncio, FastAPI or another framework.

    @api.get('/sum/{x}/{y}')                        # FastAPI
    async def sum_of(x: int, y: int):
        result = await asyncio.to_thread(tasks.add.delay, x, y)
        return {'sum': await asyncio.wait_for(result, 30)}

``await result`` returns what the task returned, or raises what it raised.  No thread waits: one
thread of the process polls for all that is awaited.  Sending a task blocks until the broker has it,
so a thread does that.

A chord's result raises the error of any of its tasks within a second.
"""
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any


async def call(task: Any, *args: Any, timeout: float, **kwargs: Any) -> Any:
    """What a task returns that is called with these arguments.

    Raises what the task raised, and asyncio.TimeoutError after so many seconds.
    """
    result = await asyncio.to_thread(task.delay, *args, **kwargs)
    return await asyncio.wait_for(result, timeout)


async def call_many(
        task: Any, arguments: Sequence[tuple[Any, ...]], timeout: float) -> list[Any]:
    """What a task returns for each of these arguments; errors stand in the list.

    The tasks are sent one after the other by one thread, so that no executor is filled.
    """
    results = await asyncio.to_thread(lambda: [task.delay(*each) for each in arguments])
    waits = [asyncio.wait_for(result, timeout) for result in results]
    return await asyncio.gather(*waits, return_exceptions=True)
