"""How a coroutine awaits a Celery result, under asyncio, FastAPI or any other event loop.

    from awaiting import call, result_of

    @api.get('/sum/{x}/{y}')                        # FastAPI
    async def sum_of(x: int, y: int):
        result = await call(tasks.add.delay, x, y)
        return {'sum': await result_of(result, timeout=30)}

A thread waits for each result.  That costs no more requests: all threads of a process share their
polls.  Give a timeout: a thread goes on waiting when its coroutine is cancelled.
"""
from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.result import AsyncResult

# as many as there are results that are awaited at the same time; asyncio's own executor has a few
WAITERS = ThreadPoolExecutor(200, thread_name_prefix='results')


async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls what may block, such as a task's ``delay``, without holding up the event loop."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(WAITERS, functools.partial(function, *args, **kwargs))


async def result_of(result: AsyncResult, timeout: float) -> Any:
    """What a task returned.

    Raises what the task raised, and celery.exceptions.TimeoutError after so many seconds.
    """
    return await call(result.get, timeout=timeout)
