"""The Celery app of bench.py, for its workers."""
from __future__ import annotations

import os
import time

from celery import Celery

app = Celery('bench', backend=os.environ['RESULT_BACKEND'], set_as_current=False)
if '://' in os.environ['BROKER']:
    app.conf.broker_url = os.environ['BROKER']
else:
    os.environ['BROKER_FOLDER'] = os.environ['BROKER']
    app.config_from_object('broker')
app.conf.update(
    worker_enable_remote_control=False, broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=8)


@app.task
def part(number: int) -> int:
    return number


@app.task
def late() -> float:
    time.sleep(0.01)
    return time.time()


@app.task
def megabyte() -> str:
    return 'x' * 2**20


@app.task
def total(numbers: list[int]) -> list[int]:
    return [len(numbers), sum(numbers)]
