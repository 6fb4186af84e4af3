"""What a child of a prefork worker costs: its private memory, and the CPU of its first store.

    python benchmarks/children.py [CHECKOUT]...     # this one, if none is named

Each checkout is measured in turns with Celery's Redis backend.  All use Redis as their broker, and
a DynamoDB as DYNAMODB_ENDPOINT or ENGINE say.  Private is what a child shares with no other process
(USS), once it has stored results.  Needs Linux and redis-server.
"""
from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / 'tools'))  # dyna_veggie is found by PYTHONPATH

from celery import Celery, group  # noqa: E402
from celery.signals import task_postrun  # noqa: E402

import dynamodb_local  # noqa: E402
import redis_local  # noqa: E402

CHILDREN, TASKS, ROUNDS = 4, 60, 3
MEGABYTE = 1024 * 1024


class Cost(NamedTuple):
    """Of a child, the mean of all; of the main process, its private memory too."""

    private: float
    cpu: float  # milliseconds of the first store
    parent: float


# --- the worker -----------------------------------------------------------------------------------

def make_app(broker: str, url: str) -> Celery:
    app = Celery('children', broker=broker, backend=url)
    app.conf.update(worker_prefetch_multiplier=1, worker_hijack_root_logger=False,
                    worker_enable_remote_control=False)
    return app


def work(broker: str, url: str, folder: str) -> None:
    app = make_app(broker, url)
    began = 0.0

    @app.task(name='part')
    def part() -> int:
        nonlocal began
        time.sleep(0.05)
        began = time.process_time()
        return 1

    @task_postrun.connect(weak=False)
    def after(**_: Any) -> None:
        """Writes down what the first store took."""
        with contextlib.suppress(FileExistsError), open(f'{folder}/{os.getpid()}', 'x') as file:
            file.write(str(time.process_time() - began))

    app.Worker(pool='prefork', concurrency=CHILDREN, loglevel='ERROR',
               without_gossip=True, without_mingle=True, without_heartbeat=True).start()


# --- measuring ------------------------------------------------------------------------------------

def private(pid: int) -> float:
    """Megabytes of a process that no other shares."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()[1:]
    sizes = {name: int(size.split()[0]) for name, size in (line.split(':') for line in lines)}
    return (sizes['Private_Clean'] + sizes['Private_Dirty']) * 1024 / MEGABYTE


def measure(broker: str, url: str, environ: dict[str, str]) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        worker = subprocess.Popen(
            [sys.executable, __file__, 'work', broker, url, folder], env=environ,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            app = make_app(broker, url)
            results = group(app.signature('part') for _ in range(TASKS))()
            assert results.get(timeout=120) == [1] * TASKS
            spent = {int(file.name): float(file.read_text()) for file in Path(folder).iterdir()}
            assert len(spent) == CHILDREN
            return Cost(statistics.mean(map(private, spent)),
                        1000 * statistics.mean(spent.values()), private(worker.pid))
        finally:
            worker.terminate()
            worker.wait()


def backends(checkouts: list[Path], broker: str) -> Iterator[tuple[str, str, Path]]:
    """The name, the URL and the checkout of each backend."""
    endpoint = os.environ['DYNAMODB_ENDPOINT']
    for number, checkout in enumerate(checkouts):
        yield (str(checkout), 'dyna_veggie.DynamoDBBackend+dynamodb://local/'
               f'children-{number}?endpoint_url={quote(endpoint, safe="")}', checkout)
    yield "Celery's Redis", broker.replace('/0', '/1'), Path()


def main() -> None:
    checkouts = [Path(path).resolve() for path in sys.argv[1:]] or [ROOT]
    sys.path.insert(0, str(checkouts[0]))  # of the client
    if not redis_local.is_installed():
        sys.exit(redis_local.INSTALL)
    with dynamodb_local.engine() as engine, tempfile.TemporaryDirectory() as folder, \
            redis_local.redis_server(Path(folder)) as port:
        os.environ['DYNAMODB_ENDPOINT'] = engine.endpoint
        # a child that has to compile what it imports pays for that
        os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
        os.environ['PYTHONPYCACHEPREFIX'] = folder
        broker = f'redis://127.0.0.1:{port}/0'
        costs: dict[str, list[Cost]] = {}
        for number in range(ROUNDS + 1):
            for name, url, checkout in backends(checkouts, broker):
                cost = measure(broker, url, {**os.environ, 'PYTHONPATH': str(checkout)})
                if number:  # the first round creates tables, and compiles
                    costs.setdefault(name, []).append(cost)
    *_, theirs = costs.values()
    print(f"{engine.description}; median of {ROUNDS} rounds, and of the ratios to Redis's")
    for name, ours in costs.items():
        for field in Cost._fields:
            values = [getattr(cost, field) for cost in ours]
            ratios = [value / getattr(other, field) for value, other in zip(values, theirs)]
            print(f'  {name:30} {field:8} {statistics.median(values):6.1f} '
                  f'{statistics.median(ratios):6.2f}')


if __name__ == '__main__':
    if sys.argv[1:2] == ['work']:
        work(*sys.argv[2:])
    else:
        main()
