"""The Celery app of canvases.py, for its clients and workers: tasks that say what happens to them.

Every message carries the run to which it belongs, in a header: the id of the canvas, and how often
it has been applied.  The messages of a run that are not done yet are counted, from before they are
published until after their task has returned and its chord was joined.  So a client knows when
nothing more can happen, and whether a result that is not there then is missing for ever.
"""
from __future__ import annotations

import json
import os
import threading
from typing import Any

import redis
from celery import Celery, signals

app = Celery('canvases', broker=os.environ['BROKER'], backend=os.environ['RESULT_BACKEND'])
app.conf.update(
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    # applying a chord holds one connection for each chord around it: threads that wait for each
    # other's would never end
    broker_pool_limit=500,
    result_cache_max=-1,    # a canvas that is applied again is asked for its results again
    result_chord_join_timeout=2.0,
)
# the broker's database holds what is counted, too
store = redis.Redis.from_url(os.environ['BROKER'], decode_responses=True, socket_timeout=None)


# --- runs: what belongs to which, and when it is over ---------------------------------------------

class Current(threading.local):
    run = ''


current = Current()


def begin(run: str) -> None:
    """Called by a client, before it applies a canvas in this thread."""
    current.run = run
    store.incr(f'open:{run}')


def end(run: str) -> None:
    if store.decr(f'open:{run}') == 0:
        store.rpush(f'quiet:{run}', 1)


def is_over(run: str, timeout: float) -> bool:
    """Waits until all that was sent for a run is done."""
    return store.blpop([f'quiet:{run}'], timeout=timeout) is not None


def events(run: str) -> list[list[Any]]:
    return [json.loads(event) for event in store.lrange(f'events:{run}', 0, -1)]


def note(what: str, label: str, *details: Any) -> None:
    store.rpush(f'events:{current.run}', json.dumps([what, label, *details]))


@signals.before_task_publish.connect
def count_message(headers: dict[str, Any], **kwargs: Any) -> None:
    if current.run:
        headers['run'] = current.run
        store.incr(f'open:{current.run}')


@signals.task_prerun.connect
def enter_run(task: Any, **kwargs: Any) -> None:
    current.run = getattr(task.request, 'run', None) or ''


@signals.task_postrun.connect
def leave_run(task: Any, **kwargs: Any) -> None:
    run, current.run = current.run, ''
    if run:
        end(run)


# --- tasks ----------------------------------------------------------------------------------------

def value(label: str, args: tuple[Any, ...]) -> list[Any]:
    """What a task returns: it names the task, what it was called with, and a second application."""
    return [label + "'" * (applied() - 1), *args]


def applied() -> int:
    return int(current.run.rpartition('/')[2])


@app.task
def work(*args: Any, label: str) -> list[Any]:
    note('work', label, *args)
    return value(label, args)


@app.task
def fail(*args: Any, label: str) -> None:
    note('fail', label, *args)
    raise ValueError(label)


@app.task
def fade(*args: Any, label: str) -> list[Any]:
    """Fails if its canvas is applied again."""
    note('fade', label, *args)
    if applied() > 1:
        raise ValueError(label)
    return value(label, args)


@app.task(bind=True)
def early(self: Any, *args: Any, label: str) -> list[Any]:
    note('early', label, *args)
    self.update_state(state='SUCCESS', meta='early')
    return value(label, args)


@app.task
def timely(*args: Any, label: str) -> list[Any]:
    """An early() one that is not."""
    note('early', label, *args)
    return value(label, args)


@app.task(bind=True, max_retries=1)
def flaky(self: Any, *args: Any, label: str, failures: int) -> list[Any]:
    note('flaky', label, self.request.retries, *args)
    # sent before its state is stored: without a pause, RETRY may replace what comes of it
    if self.request.retries < failures:
        raise self.retry(exc=ValueError(label), countdown=1)
    return value(label, args)


@app.task(bind=True)
def replaced(self: Any, *args: Any, label: str, sig: Any) -> Any:
    note('replaced', label, *args)
    self.update_state(state='PROGRESS')
    return self.replace(app.signature(sig))


@app.task(bind=True)
def adder(self: Any, *args: Any, label: str, sig: Any) -> list[Any]:
    note('adder', label, *args)
    if self.request.chord:
        self.add_to_chord(app.signature(sig))
    return value(label, args)


@app.task
def errback(request: Any, exc: Any, traceback: Any, label: str) -> None:
    """An errback with three arguments, which Celery calls where it learns of the failure."""
    note('errback', label, type(exc).__name__)


@app.task(bind=True)
def errtask(self: Any, task_id: str, label: str) -> None:
    """An errback that takes the id alone, which Celery sends as a task."""
    note('errtask', label)
