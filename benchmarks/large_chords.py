"""Chords that are too large for Celery's own DynamoDB backend, which fails at about 4,000 parts.

    python tools/dynamodb_local.py python benchmarks/large_chords.py worker 10000    # a real worker, and its memory
    python tools/dynamodb_local.py python benchmarks/large_chords.py direct 100000   # the backend alone
"""
from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT), str(ROOT / 'tools'), str(ROOT / 'examples')]

PROCESSES = 2


def resident(pid: int) -> float:
    """MB of memory of a process, as Linux counts it."""
    return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


def with_worker(parts: int) -> None:
    """Runs a chord in a prefork worker; prints what it cost, and the memory of the worker's processes as it runs."""
    from celery import chord

    import tasks
    from proxy import Proxy

    with Proxy(os.environ['DYNAMODB_ENDPOINT']) as proxy:
        os.environ['RESULT_BACKEND'] += f'&endpoint_url={quote(proxy.url, safe="")}'
        tasks.app.conf.result_backend = os.environ['RESULT_BACKEND']
        first = tasks.part.delay(0)  # makes the broker's files before the worker looks for them
        path = os.pathsep.join([str(ROOT), str(ROOT / 'examples'), str(HERE)])
        worker = subprocess.Popen(
            [sys.executable, '-m', 'celery', '--quiet', '-A', 'tasks', 'worker', '--concurrency', str(PROCESSES), '-l', 'WARNING',
             '--without-gossip', '--without-mingle', '--without-heartbeat'], env={**os.environ, 'PYTHONPATH': path})
        try:
            first.get(timeout=60)
            proxy.reset()
            start = time.monotonic()
            result = chord([tasks.part.s(number) for number in range(parts)])(tasks.total.s())
            print(f'{parts:,} parts sent in {time.monotonic() - start:.0f} s', flush=True)
            while not result.ready():
                children = Path(f'/proc/{worker.pid}/task/{worker.pid}/children').read_text().split()
                memory = ', '.join(f'{resident(int(pid)):.0f}' for pid in children)
                print(f'{time.monotonic() - start:5.0f} s  {len(proxy.requests) / 2 / parts:4.0%}  MB of its processes: {memory}',
                      flush=True)
                time.sleep(10)
            usage = proxy.usage()
            print(f'the body saw {result.get(follow_parents=False)} (parts, sum, in order) after {time.monotonic() - start:.0f} s')
            print(f'per part: {usage.requests / parts:.4f} requests, {usage.read_units / parts:.4f} read units, '
                  f'{usage.write_units / parts:.4f} write units (with this program asking whether it is ready)')
        finally:
            worker.terminate()
            worker.wait(60)


def return_parts(group_id: str, body: dict[str, Any], numbers: range) -> None:
    from celery.app.task import Context

    import tasks

    for number in numbers:
        task_id = str(uuid.uuid5(uuid.UUID(group_id), str(number)))
        request = Context({'id': task_id, 'group': group_id, 'group_index': number, 'chord': body})
        tasks.app.backend.mark_as_done(task_id, number, request)


def directly(parts: int) -> None:
    """Has the parts return in a few processes, without any worker or message but the body's."""
    import tasks

    group_id = str(uuid.uuid4())
    body = tasks.total.s()
    body.freeze()
    results = [tasks.app.AsyncResult(str(uuid.uuid5(uuid.UUID(group_id), str(number)))) for number in range(parts)]
    start = time.monotonic()
    tasks.app.backend.apply_chord((group_id, results), body)
    tasks.app.backend.set_chord_size(group_id, parts)
    print(f'{parts:,} parts prepared in {time.monotonic() - start:.0f} s', flush=True)
    processes = [multiprocessing.Process(target=return_parts, args=(group_id, dict(body), range(first, parts, PROCESSES)))
                 for first in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    message = next(Path(os.environ['BROKER_FOLDER']).glob('*.msg')).read_text()
    print(f'joined after {time.monotonic() - start:.0f} s; the body\'s message has {len(message):,} bytes')
    print('exit codes of the processes that the parts returned in:', [process.exitcode for process in processes])


if __name__ == '__main__':
    how = {'worker': with_worker, 'direct': directly}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        os.environ['BROKER_FOLDER'] = folder
        Path(folder, 'control').mkdir()
        os.environ['RESULT_BACKEND'] = 'dyna_veggie.DynamoDBBackend+dynamodb://local/large-chords?connect_timeout=5'
        if how is directly:
            os.environ['RESULT_BACKEND'] += f'&endpoint_url={quote(os.environ["DYNAMODB_ENDPOINT"], safe="")}'
        how(int(sys.argv[2]))
