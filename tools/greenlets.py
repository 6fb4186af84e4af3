"""Waits for results in greenlets, or runs a chord in a worker of 100, for test_dyna_veggie.py.

    python tools/greenlets.py gevent|eventlet URL-OF-A-RESULT-BACKEND [PARTS-OF-A-CHORD]
"""
from __future__ import annotations

import importlib
import sys

LIBRARY, URL, *PARTS = sys.argv[1:]
if LIBRARY == 'gevent':
    importlib.import_module('gevent.monkey').patch_all()
else:
    importlib.import_module('eventlet').monkey_patch()

# patched, as in a worker, before anything else is imported
import threading  # noqa: E402
from typing import Any  # noqa: E402

from celery import Celery, chord  # noqa: E402
from celery.contrib.testing.worker import start_worker  # noqa: E402
from celery.exceptions import TimeoutError  # noqa: E402
from celery.signals import task_postrun  # noqa: E402

library = importlib.import_module(LIBRARY)
spawn, sleep = library.spawn, library.sleep
app = Celery(backend=URL, broker='memory://')
stored = app.backend.store_result


def wait_until(numbers: Any, length: int) -> None:
    """Waits until something has so many members, or for ten seconds."""
    for _ in range(100):
        if len(numbers) == length:
            break
        sleep(0.1)


def callbacks_are_called() -> None:
    called: list[Any] = []
    app.AsyncResult('then').then(lambda result: called.append(result.result))
    pair = app.GroupResult('pair', [app.AsyncResult('one'), app.AsyncResult('two')])
    pair.then(lambda results: called.append(results.get()))
    stored('then', 'now', 'SUCCESS')
    stored('one', 1, 'SUCCESS')
    stored('two', 2, 'SUCCESS')
    wait_until(called, 2)
    assert sorted(map(str, called)) == ['[1, 2]', 'now'], called
    # and the greenlet that looked for them ends when none is left
    for _ in range(50):
        if threading.active_count() == 1:
            break
        sleep(0.1)
    assert threading.active_count() == 1, threading.enumerate()


def greenlets_wait_while_others_go_on() -> None:
    got: dict[int, Any] = {}
    ticks = []

    def wait(number: int) -> None:
        got[number] = app.AsyncResult(f'id-{number}').get(timeout=60)

    def tick() -> None:
        while len(got) < 30:
            ticks.append(1)
            sleep(0.01)

    for number in range(30):
        spawn(wait, number)
    spawn(tick)
    for _ in range(600):
        if len(ticks) > 20:
            break
        sleep(0.05)
    assert len(ticks) > 20 and not got
    for number in range(30):
        stored(f'id-{number}', number, 'SUCCESS')
    wait_until(got, 30)
    assert got == {number: number for number in range(30)}, got


def large_groups_are_joined() -> None:
    for number in range(300):
        stored(f'big-{number}', number, 'SUCCESS')
    results = app.GroupResult('big', [app.AsyncResult(f'big-{number}') for number in range(300)])
    assert results.get(timeout=60) == list(range(300))


def waiting_times_out() -> None:
    try:
        app.AsyncResult('none').get(timeout=0.3)
    except TimeoutError:
        return
    raise AssertionError('no TimeoutError')


@app.task
def part(number: int) -> int:
    return number


@app.task
def body(numbers: list[int]) -> bool:
    return numbers == list(range(len(numbers)))


def a_chord_is_run(parts: int) -> None:
    # until its result is stored: to wait for that would cost requests
    ran, ended = [], threading.Event()

    def after(task: Any = None, retval: Any = None, **kwargs: Any) -> None:
        if task.name == body.name:
            ran.append(retval)
            ended.set()
    task_postrun.connect(after)
    app.conf.update(worker_prefetch_multiplier=0,
                    broker_transport_options={'polling_interval': 0.005})
    with start_worker(app, pool=LIBRARY, concurrency=100, perform_ping_check=False,
                      shutdown_timeout=30):
        chord([part.s(number) for number in range(parts)], body.s()).apply_async()
        assert ended.wait(100)
    assert ran == [True]


if PARTS:
    a_chord_is_run(int(PARTS[0]))
else:
    callbacks_are_called()
    greenlets_wait_while_others_go_on()
    large_groups_are_joined()
    waiting_times_out()
print('all right')
