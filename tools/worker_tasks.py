"""The app of the real workers in test_dyna_veggie.py, which imports it too, to send its tasks.

Environment variables: RESULT_BACKEND, a URL; BROKER, the module with Celery's settings (broker or
redelivering); PUBLISHED, the file that lists the ids of the published bodies of chords;
USED_BEFORE_FORK, if the worker's parent process is to use its client before it forks; INCLUDE,
further modules whose tasks the worker runs; START_METHOD of the processes of its pool.
"""
from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, signals

app = Celery(
    'worker_tasks', backend=os.environ['RESULT_BACKEND'],
    include=os.environ.get('INCLUDE', '').split())
app.config_from_object(os.environ['BROKER'])
app.conf.worker_pool_start_method = os.environ.get('START_METHOD', 'fork')
if 'USED_BEFORE_FORK' in os.environ:
    app.backend.get('the parent uses its client before it forks')


@app.task(shared=False)
def process(value: Any) -> list[Any]:
    return [value, os.getpid()]


@app.task(bind=True, shared=False)
def retried(self: Any, value: Any) -> list[Any]:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return [value, os.getpid()]


@app.task(shared=False)
def pids(values: list[Any]) -> tuple[list[int], list[Any]]:
    return sorted({pid for _, pid in values}), [value for value, _ in values]


@app.task(bind=True, shared=False)
def progress(self: Any) -> None:
    self.update_state(state='PROGRESS', meta={'done': 1})
    time.sleep(0.5)
    raise ZeroDivisionError('at the end')


@app.task(name='part', shared=False)
def part(value: Any, seconds: float = 0) -> Any:
    time.sleep(seconds)
    return value


@app.task(name='total', shared=False)
def total(values: list[Any]) -> list[Any]:
    return values


@signals.after_task_publish.connect(sender='total')
def note(headers: Any = None, **kwargs: Any) -> None:
    with open(os.environ['PUBLISHED'], 'a') as file:
        file.write(headers['id'] + '\n')
