"""How soon, and at what cost, get() raises the error of one part of a chord.

    python benchmarks/errors.py [parts] [rounds]

10,000 parts and 5 rounds, if no numbers are given.  The parts do not run: this process drives the
backend, as a worker would.  PYTHONPATH decides which dyna_veggie.py is measured.  DYNAMODB_ENDPOINT
overrides the engine.  Each request takes 10 ms more than the engine needs, by an event of botocore.
"""
from __future__ import annotations

import random
import statistics
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / 'tools')]

from celery import Celery  # noqa: E402
from celery.app.task import Context  # noqa: E402

import dyna_veggie  # noqa: E402
import dynamodb_local  # noqa: E402

LATENCY = 0.01  # seconds
BEFORE = 10.0  # seconds that get() waits before the part fails


class Meter:
    """The units of the requests of this process, as DynamoDB charges them for items below 1 KB."""

    def __init__(self, client: Any) -> None:
        self.reads = self.writes = 0.0
        client.meta.events.register('provide-client-params.dynamodb', self._count)
        client.meta.events.register('before-send.dynamodb', lambda **kwargs: time.sleep(LATENCY))

    def _count(self, params: dict[str, Any], model: Any, **kwargs: Any) -> None:
        if model.name == 'GetItem':
            self.reads += 1 if params.get('ConsistentRead') else 0.5
        elif model.name == 'BatchGetItem':
            for asked in params['RequestItems'].values():
                self.reads += len(asked['Keys']) * (1 if asked.get('ConsistentRead') else 0.5)
        elif model.name in ('PutItem', 'UpdateItem', 'DeleteItem'):
            self.writes += 1


def measure(app: Celery, meter: Meter, parts: int, place: int) -> tuple[float, float, float]:
    """Seconds until the error is raised, read units from get() until then, writes of the part."""
    backend: Any = app.backend
    ids = [str(uuid.uuid4()) for _ in range(parts)]
    group_id, body_id = str(uuid.uuid4()), str(uuid.uuid4())
    header = [app.AsyncResult(id) for id in ids]
    body = app.signature('body', options={'task_id': body_id})
    backend.apply_chord((group_id, header), body)
    result = app.AsyncResult(body_id, parent=app.GroupResult(group_id, header))
    request = Context({'id': ids[place], 'group': group_id, 'group_index': place,
                       'chord': dict(body), 'delivery_info': {}, 'errbacks': None})
    failed: list[float] = []
    writes: list[float] = []

    def fail() -> None:
        time.sleep(BEFORE)
        before = meter.writes
        failed.append(time.monotonic())
        backend.mark_as_failure(ids[place], ValueError('part'), request=request)
        writes.append(meter.writes - before)

    thread = threading.Thread(target=fail)
    reads = meter.reads
    thread.start()
    try:
        result.get(timeout=300)
    except ValueError:
        ended, reads = time.monotonic(), meter.reads - reads
    thread.join()
    return ended - failed[0], reads, writes[0]


def main() -> None:
    parts, rounds = (*map(int, sys.argv[1:]), *(10_000, 5)[len(sys.argv) - 1:])
    with dynamodb_local.engine() as engine:
        app = Celery('errors', broker='memory://', backend='dyna_veggie.DynamoDBBackend+dynamodb://'
                     f'local/errors?endpoint_url={quote(engine.endpoint, safe="")}')
        backend: Any = app.backend
        backend.set('first', b'')
        meter = Meter(dyna_veggie.shared_table(backend.options).client.botocore)
        print(f'{dyna_veggie.__file__}\none of {parts:,} parts fails after {BEFORE:g} s, '
              f'each request takes 10 ms more than {engine.description}')
        places = random.Random(21).choices(range(parts), k=rounds)
        seen = [measure(app, meter, parts, place) for place in places]
    seconds, reads, writes = zip(*seen)
    print(f'  its error is raised within {statistics.median(seconds):.2f} s (median of {rounds}; '
          f'{min(seconds):.2f} to {max(seconds):.2f} s)')
    rate = statistics.median(taken / (BEFORE + waited) for waited, taken in zip(seconds, reads))
    print(f'  get() takes {statistics.median(reads):,.0f} read units until then, '
          f'{rate:.1f} a second')
    print(f'  the part that fails writes {statistics.median(writes):g} times')


if __name__ == '__main__':
    main()
