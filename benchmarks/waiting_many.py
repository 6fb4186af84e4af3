"""What many waits of one process cost, for each of some checkouts in turns.

    python benchmarks/waiting_many.py [CHECKOUT]...     # this one, if none is named

    threads     1,000 that wait for results which never come: the share of a core, over ten seconds
    greenlets   1,500: seconds until all have begun to wait, and then have their results
    coroutines  10,000 that await: the share of a core, and how many threads (0: there is no await)

DYNAMODB_ENDPOINT or ENGINE say which DynamoDB.  `share(kind, environ)` does one round; it takes the
backend of RESULT_BACKEND, if that is given.
"""
from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IDLE = 10.0  # seconds
KINDS = ('threads', 'greenlets', 'coroutines')
ROUNDS = 3

if sys.argv[1:2] == ['greenlets']:
    importlib.import_module('gevent.monkey').patch_all()
else:
    sys.path.append(str(ROOT / 'tools'))

import asyncio  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from typing import Any  # noqa: E402
from urllib.parse import quote  # noqa: E402

from celery import Celery  # noqa: E402


def make_app() -> Celery:
    backend = os.environ.get('RESULT_BACKEND') or (
        'dyna_veggie.DynamoDBBackend+dynamodb://local/waiting-many?endpoint_url='
        + quote(os.environ['DYNAMODB_ENDPOINT'], safe=''))
    app = Celery('many', backend=backend)
    app.conf.result_backend_thread_safe = True  # one backend for all threads
    app.backend.store_result('first', 0, 'SUCCESS')  # creates the table
    return app


def share_of_core() -> float:
    """Percent, once all have begun to wait."""
    time.sleep(3)
    cpu, began = time.process_time(), time.perf_counter()
    time.sleep(IDLE)
    return 100 * (time.process_time() - cpu) / (time.perf_counter() - began)


def threads(app: Celery) -> Iterator[float]:
    threading.stack_size(256 * 1024)
    waiting = [threading.Thread(target=app.AsyncResult(f'never-{number}').get, daemon=True)
               for number in range(1000)]
    for thread in waiting:
        thread.start()
    yield share_of_core()
    assert all(thread.is_alive() for thread in waiting)


def greenlets(app: Celery) -> Iterator[float]:
    ids = [f'{os.getpid()}-{number}' for number in range(1500)]
    began = time.perf_counter()
    with ThreadPoolExecutor(len(ids)) as pool:  # of greenlets
        waits = [pool.submit(app.AsyncResult(id).get, timeout=100) for id in ids]
        yield time.perf_counter() - began
        began = time.perf_counter()
        for id in ids:
            app.backend.store_result(id, 1, 'SUCCESS')
        stored = time.perf_counter()
        assert sum(wait.result() for wait in waits) == len(ids)
        yield stored - began
        yield time.perf_counter() - stored


async def wait_for(results: list[Any]) -> None:
    await asyncio.gather(*(wait(result) for result in results))


async def wait(result: Any) -> Any:
    return await result


def coroutines(app: Celery) -> Iterator[float]:
    results = [app.AsyncResult(f'never-{number}') for number in range(10_000)]
    if not hasattr(results[0], '__await__'):
        return
    waiting = threading.Thread(target=asyncio.run, args=(wait_for(results),), daemon=True)
    waiting.start()
    yield share_of_core()
    yield threading.active_count() - 2  # the main thread, and that of the loop


def share(kind: str, environ: dict[str, str]) -> list[float]:
    """What one kind prints, in a process of its own."""
    said = subprocess.run([sys.executable, __file__, kind], env=environ, check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    return [float(number) for number in said.split()]


def main() -> None:
    dynamodb_local: Any = importlib.import_module('dynamodb_local')
    checkouts = [str(Path(path).resolve()) for path in sys.argv[1:]] or [str(ROOT)]
    found: dict[tuple[str, str], list[list[float]]] = {}
    with dynamodb_local.engine() as engine:
        print(engine.description)
        for _ in range(ROUNDS):
            for kind in KINDS:
                for checkout in checkouts:
                    environ = {**os.environ, 'DYNAMODB_ENDPOINT': engine.endpoint,
                               'PYTHONPATH': checkout}
                    found.setdefault((kind, checkout), []).append(share(kind, environ))
    for (kind, checkout), rounds in found.items():
        medians = [f'{statistics.median(numbers):.2f}' for numbers in zip(*rounds)]
        print(f'{kind:10} {checkout:30} {" ".join(medians) or "not there"}')


if __name__ == '__main__':
    if sys.argv[1:2] and sys.argv[1] in KINDS:
        for number in globals()[sys.argv[1]](make_app()):
            print(number, flush=True)
        os._exit(0)  # some still wait
    main()
