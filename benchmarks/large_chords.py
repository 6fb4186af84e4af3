"""One chord that is too large for Celery's own DynamoDB backend, which takes some 7,000 parts.

A real worker; Redis as broker if a redis-server is installed, else a folder:

    python tools/dynamodb_local.py python benchmarks/large_chords.py 100000 --pool threads

It prints how long it takes, what it costs, and the most memory that each process took.
"""
from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
IMPORTED = [str(HERE), str(ROOT), str(ROOT / 'tools'), str(ROOT / 'examples')]
sys.path[:0] = IMPORTED

import redis_local  # noqa: E402
from proxy import Proxy  # noqa: E402

EVERY = 10.0  # seconds


def peak(pid: int | str) -> float:
    """The most memory that a process has had resident, in MB, as Linux counts it."""
    status = Path(f'/proc/{pid}/status').read_text()
    found = re.search(r'VmHWM:\s+(\d+) kB', status)
    return int(found[1]) / 1024 if found else 0.0


def children(pid: int) -> list[str]:
    return Path(f'/proc/{pid}/task/{pid}/children').read_text().split()


def send(parts: int, sender: Any) -> None:
    from celery import chord

    import tasks

    result = chord([tasks.part.s(number) for number in range(parts)])(tasks.total.s())
    sender.send((result.id, peak('self')))


def measure(parts: int, pool: str, concurrency: int, proxy: Proxy) -> None:
    import tasks

    first = tasks.part.delay(0)  # makes the broker's files before the worker looks for them
    worker = subprocess.Popen(
        [sys.executable, '-m', 'celery', '--quiet', '-A', 'tasks', 'worker', '-l', 'WARNING',
         '--pool', pool, '--concurrency', str(concurrency),
         '--without-gossip', '--without-mingle', '--without-heartbeat'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(IMPORTED)})
    try:
        first.get(timeout=60)
        before = peak(worker.pid), [peak(child) for child in children(worker.pid)]
        proxy.reset()
        start = time.monotonic()
        receiver, sender = multiprocessing.Pipe(duplex=False)
        client = multiprocessing.get_context('spawn').Process(target=send, args=(parts, sender))
        client.start()
        result_id, of_client = receiver.recv()
        client.join()
        print(f'{parts:,} parts sent in {time.monotonic() - start:.0f} s', flush=True)
        result = tasks.app.AsyncResult(result_id)
        while not result.ready():
            seconds, done = time.monotonic() - start, len(proxy.requests) / 2 / parts
            print(f'{seconds:5.0f} s  {done:4.0%}', flush=True)
            time.sleep(EVERY)
        seconds, usage = time.monotonic() - start, proxy.usage()
        print(f'the body saw {result.get()} (parts, sum, in order) within {seconds:.0f} s')
        print(f'per part: {usage.requests / parts:.4f} requests, '
              f'{usage.read_units / parts:.4f} read units, '
              f'{usage.write_units / parts:.4f} write units '
              '(with this program asking whether it is ready)')
        print(f'at most, MB: the client {of_client:.0f}; the worker {peak(worker.pid):.0f} '
              f'({before[0]:.0f} before)', *(
                  f'its process {peak(child):.0f} ({then:.0f} before)'
                  for child, then in zip(children(worker.pid), before[1])), sep='; ')
    finally:
        worker.terminate()
        worker.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('parts', type=int)
    parser.add_argument('--pool', default='prefork')
    parser.add_argument('--concurrency', type=int, default=2)
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxy = stack.enter_context(Proxy(os.environ['DYNAMODB_ENDPOINT']))
        os.environ['RESULT_BACKEND'] = (
            'dyna_veggie.DynamoDBBackend+dynamodb://local/large-chords?connect_timeout=5'
            f'&endpoint_url={quote(proxy.url, safe="")}')
        if redis_local.is_installed():
            port = stack.enter_context(redis_local.redis_server(folder))
            os.environ['BROKER'] = f'redis://127.0.0.1:{port}'
        else:
            os.environ['BROKER_FOLDER'] = str(folder)
            Path(folder, 'control').mkdir()
        measure(asked.parts, asked.pool, asked.concurrency, proxy)


if __name__ == '__main__':
    main()
