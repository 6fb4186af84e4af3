"""A Celery app whose tasks do nothing: what is measured is the backend."""
from __future__ import annotations

import os

from celery import Celery

app = Celery('tasks', broker=os.environ.get('BROKER'), backend=os.environ['RESULT_BACKEND'])
if 'BROKER' not in os.environ:
    app.config_from_object('broker')


@app.task
def part(number: int) -> int:
    return number


@app.task
def total(numbers: list[int]) -> list[int]:
    return [len(numbers), sum(numbers), numbers == sorted(numbers)]


@app.task
def sized(number: int, size: int) -> str:
    return f'{number} '.ljust(size, '-')


@app.task
def total_size(values: list[str]) -> list[int]:
    return [len(values), sum(map(len, values)),
            all(value.startswith(f'{number} ') for number, value in enumerate(values))]
