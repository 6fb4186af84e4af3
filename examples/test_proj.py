"""How an app whose results are in DynamoDB is tested without AWS: `pytest examples/test_proj.py`.

It needs ``pip install pytest 'moto[dynamodb]' freezegun``.  With TEST_DYNAMODB set to the
address of a DynamoDB Local, such as http://localhost:8000, the same tests use that instead, as they
may in CI.
"""
from __future__ import annotations

import datetime
import os
import uuid
from collections.abc import Iterator
from urllib.parse import quote

import freezegun
import pytest
from celery import Celery, chord
from celery.contrib.testing.worker import start_worker

import dyna_veggie

ENGINE = os.environ.get('TEST_DYNAMODB')
URL = 'dynamodb://eu-west-1/celery'
if ENGINE:
    URL = f'dynamodb://local/test-{uuid.uuid4().hex}?endpoint_url={quote(ENGINE, safe="")}'

# it stands for yours: `from proj import app`, and `app.conf.update(...)`
app = Celery('proj', broker='memory://', backend=URL, set_as_current=False)
# what fails in a test is to fail soon
app.conf.result_backend_transport_options = {'retry_timeout': 10}
# for tests of eager tasks; Celery reads it when it makes the tasks
app.conf.task_store_eager_result = True


@app.task(name='proj.add')
def add(x: int, y: int) -> int:
    return x + y


@app.task(name='proj.total')
def total(numbers: list[int]) -> int:
    return sum(numbers)


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """DynamoDB is moto, empty for each test."""
    if ENGINE:
        yield
        return
    import moto
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.setenv(name, 'testing')     # never your own
    with moto.mock_aws():
        dyna_veggie.reset()     # a client that was made before would go on asking AWS
        yield
    dyna_veggie.reset()         # and one that was made here, moto


def test_a_result_is_stored() -> None:
    app.backend.store_result('an id', 5, 'SUCCESS')
    assert app.AsyncResult('an id').get(timeout=10) == 5


def test_a_chord_with_a_worker() -> None:
    with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
        result = chord([add.s(n, n) for n in range(5)])(total.s())
        assert result.get(timeout=30) == 20


def test_eager_tasks_store_what_they_return() -> None:
    app.conf.task_always_eager = True
    try:
        result = add.delay(2, 3)
        assert app.AsyncResult(result.id).get(timeout=10) == 5
    finally:
        app.conf.task_always_eager = False


def test_a_result_expires_by_a_clock_that_stands_still() -> None:
    with freezegun.freeze_time() as clock:
        app.backend.store_result('another id', 5, 'SUCCESS')
        assert app.AsyncResult('another id').state == 'SUCCESS'
        clock.tick(datetime.timedelta(days=2))
        assert app.AsyncResult('another id').state == 'PENDING'
