"""Counts what thousands of operations leave behind, for test_nothing_leaks in test_dyna_veggie.py.

    python tools/leaks.py threads|solo|gevent|eventlet THREADS COUNT URL-OF-A-RESULT-BACKEND
"""
from __future__ import annotations

import importlib
import sys

LIBRARY, THREADS, COUNT, URL = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if LIBRARY == 'gevent':
    importlib.import_module('gevent.monkey').patch_all()
elif LIBRARY == 'eventlet':
    importlib.import_module('eventlet').monkey_patch()

# patched, as in a worker, before anything else is imported
import asyncio  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from typing import Any  # noqa: E402

from celery import Celery  # noqa: E402
from celery.exceptions import TimeoutError  # noqa: E402

app = Celery(broker='memory://', backend=URL)
app.conf.result_backend_thread_safe = True  # one backend for all threads
backend = app.backend


async def await_all(ids: list[str]) -> list[Any]:
    async def await_one(id: str) -> Any:
        return await app.AsyncResult(id)
    return await asyncio.gather(*map(await_one, ids))


def use(number: int) -> None:
    """Some thirteen operations."""
    ids = [f'{number}-{part}' for part in range(3)]
    for id in ids:
        backend.store_result(id, number, 'SUCCESS')
    assert app.AsyncResult(ids[0]).get(timeout=60) == number
    results = app.ResultSet([app.AsyncResult(id) for id in ids])
    assert results.get(timeout=60) == [number] * 3
    if LIBRARY in ('threads', 'solo'):  # greenlets of a thread cannot each have an event loop
        assert asyncio.run(await_all(ids)) == [number] * 3
    called: list[Any] = []
    app.AsyncResult(ids[1]).then(called.append)
    assert app.AsyncResult(ids[1]).state == 'SUCCESS'
    try:
        app.AsyncResult(f'none-{number}').get(timeout=0)
    except TimeoutError:
        pass
    results.forget()
    backend.set(f'key-{number}', b'x')
    backend.delete(f'key-{number}')


def use_many(first: int, last: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(use, range(first, last)):
            pass


def census() -> list[int]:
    """Open files, threads, objects, and kilobytes of memory."""
    # a result is held for its first second: another thread may be about to give it a callback
    time.sleep(1.1)
    try:
        app.AsyncResult('none').get(timeout=0)
    except TimeoutError:
        pass
    gc.collect()
    with open('/proc/self/statm') as file:
        pages = int(file.read().split()[1])
    files = len(os.listdir('/proc/self/fd'))
    return [files, threading.active_count(), len(gc.get_objects()), pages * 4]


use_many(0, COUNT // 50)
before = census()
use_many(COUNT // 50, COUNT // 10)
after = census()
files, threads, objects, kilobytes = (new - old for old, new in zip(before, after))
print(before, after)
assert files <= 2 and threads <= 0, 'sockets or threads leak'
assert objects < 1000 and kilobytes < 8192, 'memory leaks'
print('all right')
