"""The Celery app of bench.py, for its workers."""
from __future__ import annotations

import functools
import os
import time
from typing import Any

from celery import Celery
from celery.signals import before_task_publish

app = Celery('bench', backend=os.environ['RESULT_BACKEND'], set_as_current=False)
if '://' in os.environ['BROKER']:
    app.conf.broker_url = os.environ['BROKER']
    if app.conf.broker_url.startswith('sqs:'):
        app.conf.broker_transport_options = {
            'region': 'us-east-1', 'is_secure': False,
            # moto's server handles one request at a time: a long poll would hold up the others
            'wait_time_seconds': 0, 'polling_interval': 0.05, 'visibility_timeout': 3600}
else:
    os.environ['BROKER_FOLDER'] = os.environ['BROKER']
    app.config_from_object('broker')
app.conf.update(
    worker_enable_remote_control=False, broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=8)
#: another app of this process must not get them, such as the next one of this module
task = functools.partial(app.task, shared=False)


@task
def part(number: int) -> int:
    return number


@task
def late() -> float:
    time.sleep(0.01)
    return time.time()


@task
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task
def one_fails(number: int, failing: int) -> int:
    time.sleep(0.02)
    if number == failing:
        raise ValueError(time.time())
    return number


@task
def megabyte() -> str:
    return 'x' * 2**20


@task
def text(length: int) -> str:
    return 'x' * length


@task
def lengths(texts: list[str]) -> list[int]:
    return [len(texts), sum(map(len, texts))]


@task
def last() -> float:
    time.sleep(2)       # until all other parts are counted
    return time.monotonic()


@before_task_publish.connect(sender='bench_tasks.begun')
def note_publishing(headers: dict[str, Any], **kwargs: Any) -> None:
    headers['published'] = time.monotonic()


@task(bind=True)
def begun(self: Any, values: list[float]) -> list[float]:
    """When the last part returned, when this was published, and when it began."""
    return [values[-1], self.request.published, time.monotonic()]


@task
def total(numbers: list[int]) -> list[int]:
    return [len(numbers), sum(numbers)]
