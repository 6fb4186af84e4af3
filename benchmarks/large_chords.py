"""Chords that are too large for Celery's own DynamoDB backend, which fails at about 4,000 parts.

A real worker, and its memory; or the backend alone:

    python tools/dynamodb_local.py python benchmarks/large_chords.py worker 10000
    python tools/dynamodb_local.py python benchmarks/large_chords.py direct 100000
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
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def with_worker(parts: int) -> None:
    """Runs a chord in a prefork worker; prints what it costs, and the memory of the processes."""
    from celery import chord

    import tasks
    from proxy import Proxy

    with Proxy(os.environ['DYNAMODB_ENDPOINT']) as proxy:
        os.environ['RESULT_BACKEND'] += f'&endpoint_url={quote(proxy.url, safe="")}'
        tasks.app.conf.result_backend = os.environ['RESULT_BACKEND']
        first = tasks.part.delay(0)  # makes the broker's files before the worker looks for them
        path = os.pathsep.join([str(ROOT), str(ROOT / 'examples'), str(HERE)])
        command = [
            sys.executable, '-m', 'celery', '--quiet', '-A', 'tasks', 'worker',
            '--concurrency', str(PROCESSES), '-l', 'WARNING',
            '--without-gossip', '--without-mingle', '--without-heartbeat']
        worker = subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': path})
        try:
            first.get(timeout=60)
            proxy.reset()
            start = time.monotonic()
            header = [tasks.part.s(number) for number in range(parts)]
            result = chord(header)(tasks.total.s())
            print(f'{parts:,} parts sent in {time.monotonic() - start:.0f} s', flush=True)
            listed = Path(f'/proc/{worker.pid}/task/{worker.pid}/children')
            while not result.ready():
                children = listed.read_text().split()
                memory = ', '.join(f'{resident(int(pid)):.0f}' for pid in children)
                seconds, done = time.monotonic() - start, len(proxy.requests) / 2 / parts
                print(f'{seconds:5.0f} s  {done:4.0%}  MB of its processes: {memory}', flush=True)
                time.sleep(10)
            usage = proxy.usage()
            value = result.get(follow_parents=False)
            seconds = time.monotonic() - start
            print(f'the body saw {value} (parts, sum, in order) after {seconds:.0f} s')
            print(f'per part: {usage.requests / parts:.4f} requests, '
                  f'{usage.read_units / parts:.4f} read units, '
                  f'{usage.write_units / parts:.4f} write units '
                  '(with this program asking whether it is ready)')
        finally:
            worker.terminate()
            worker.wait(60)


def task_id_of(group_id: str, number: int) -> str:
    return str(uuid.uuid5(uuid.UUID(group_id), str(number)))


def return_parts(group_id: str, body: dict[str, Any], numbers: range) -> None:
    from celery.app.task import Context

    import tasks

    for number in numbers:
        task_id = task_id_of(group_id, number)
        request = Context(
            {'id': task_id, 'group': group_id, 'group_index': number, 'chord': body})
        tasks.app.backend.mark_as_done(task_id, number, request)


def directly(parts: int) -> None:
    """Has the parts return in a few processes, without any worker or message but the body's."""
    import tasks

    group_id = str(uuid.uuid4())
    body = tasks.total.s()
    body.freeze()
    results = [tasks.app.AsyncResult(task_id_of(group_id, number)) for number in range(parts)]
    start = time.monotonic()
    tasks.app.backend.apply_chord((group_id, results), body)
    tasks.app.backend.set_chord_size(group_id, parts)
    print(f'{parts:,} parts prepared in {time.monotonic() - start:.0f} s', flush=True)
    shares = [range(first, parts, PROCESSES) for first in range(PROCESSES)]
    processes = [
        multiprocessing.Process(target=return_parts, args=(group_id, dict(body), share))
        for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    message = next(Path(os.environ['BROKER_FOLDER']).glob('*.msg')).read_text()
    seconds = time.monotonic() - start
    print(f'joined after {seconds:.0f} s; the body\'s message has {len(message):,} bytes')
    codes = [process.exitcode for process in processes]
    print('exit codes of the processes that the parts returned in:', codes)


if __name__ == '__main__':
    how = {'worker': with_worker, 'direct': directly}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        os.environ['BROKER_FOLDER'] = folder
        Path(folder, 'control').mkdir()
        url = 'dyna_veggie.DynamoDBBackend+dynamodb://local/large-chords?connect_timeout=5'
        if how is directly:
            url += f'&endpoint_url={quote(os.environ["DYNAMODB_ENDPOINT"], safe="")}'
        os.environ['RESULT_BACKEND'] = url
        how(int(sys.argv[2]))
