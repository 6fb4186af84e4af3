"""What waiting costs: joins of many results whose batches overlap or not, and the latency of get().

    python benchmarks/waiting.py [results]

10,000 results, if no number is given; DYNAMODB_ENDPOINT overrides the engine.  Each request takes
10 ms more than the engine needs, which one of botocore's events in the client adds.
"""
from __future__ import annotations

import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from celery import Celery  # noqa: E402

import dyna_veggie  # noqa: E402
import dynamodb_local  # noqa: E402

LATENCY = 0.01  # seconds


def join(app: Celery, ids: list[str], overlapped: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of one join."""
    dyna_veggie.OVERLAPPED = overlapped
    results = app.GroupResult('group', [app.AsyncResult(id) for id in ids])
    cpu, began = time.process_time(), time.perf_counter()
    assert results.get() == list(range(len(ids)))
    return time.perf_counter() - began, time.process_time() - cpu


def latency(app: Celery, rounds: int) -> list[float]:
    """Seconds between a result that is stored 10 ms after get() was called and get()'s return."""
    seen = []
    for number in range(rounds):
        stored: list[float] = []

        def store(id: str = f'late-{number}', stored: list[float] = stored) -> None:
            time.sleep(0.01)
            app.backend.store_result(id, 1, 'SUCCESS')
            stored.append(time.perf_counter())
        thread = threading.Thread(target=store)
        thread.start()
        app.AsyncResult(f'late-{number}').get(timeout=60)
        seen.append(time.perf_counter())
        thread.join()
        seen[-1] -= stored[0]
    return seen


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with dynamodb_local.engine() as engine:
        url = f'dynamodb://local/waiting?endpoint_url={quote(engine.endpoint, safe="")}'
        app = Celery('waiting', backend=f'dyna_veggie.DynamoDBBackend+{url}')
        backend: Any = app.backend
        ids = [f'{index:08d}-6d0c-4c3e-9a5b-000000000000' for index in range(number)]
        for id in ids[:1]:
            backend.store_result(id, 0, 'SUCCESS')

        def item(index: int, id: str) -> dict[str, Any]:
            meta = {'status': 'SUCCESS', 'result': index, 'traceback': None, 'children': [],
                    'task_id': id}
            return {'id': backend.get_key_for_task(id).decode(), 'status': 'SUCCESS',
                    'timestamp': time.time(), 'ttl': int(time.time()) + 86400,
                    'result': backend.encode(meta).encode()}

        backend.store.table.write_many(puts=(item(index, id) for index, id in enumerate(ids)))
        client = backend.store.table.client.botocore
        client.meta.events.register('before-send.dynamodb', lambda **kwargs: time.sleep(LATENCY))
        print(f'join of {number:,} results, each request 10 ms more than {engine.description}')
        for _ in range(2):
            (slow, slow_cpu), (fast, fast_cpu) = join(app, ids, 1), join(app, ids, 8)
            print(f'  one batch at a time {slow:.2f} s ({slow_cpu:.2f} s CPU), '
                  f'overlapped {fast:.2f} s ({fast_cpu:.2f} s CPU): '
                  f'{slow / fast:.1f} times faster')
        seen = latency(app, 50)
        median = statistics.median(seen) * 1000
        print('get() of a task that takes 10 ms: '
              f'seen {median:.0f} ms after it was stored (median of 50)')


if __name__ == '__main__':
    main()
