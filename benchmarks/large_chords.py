"""One chord that is too large for Celery's own DynamoDB backend, which takes some 7,000 parts.

Two real workers, one for the parts and one for the body; Redis as broker if a redis-server is
installed, else a folder:

    python tools/dynamodb_local.py python benchmarks/large_chords.py 100000 --pool threads
    python tools/dynamodb_local.py python benchmarks/large_chords.py 1000000 --header generator

It prints how long it takes, what it costs, how the chord was opened, how often its counters were
written, and the memory of each process: at its start, while parts are counted, and at most.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
IMPORTED = [str(HERE), str(ROOT), str(ROOT / 'tools'), str(ROOT / 'examples')]
sys.path[:0] = IMPORTED

import redis_local  # noqa: E402
from bench import in_a_row  # noqa: E402
from proxy import WRITES, Proxy, Request  # noqa: E402

EVERY = 10.0    # seconds between two lines of output, at least
SHARE = 0.05    # of the time, at most, to read all counters for a line
SAMPLE = 1.0    # seconds
BODIES = 'bodies'   # the queue of the body


# --- meters ---------------------------------------------------------------------------------------

class Meter:
    """Adds up the requests through a proxy, and forgets them: there are too many to be kept."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.requests, self.read_units, self.write_units = 0, 0.0, 0.0
        self.counts: Counter[str] = Counter()   # writes by id of a counter
        self.spans: list[tuple[float, float]] = []
        self.taken: list[Request] = []

    def take(self) -> None:
        """Counts what came before the last call: a request may still be noted on its list."""
        before, self.taken = self.taken, self.proxy.requests
        self.proxy.reset()
        for request in before:
            self.requests += 1
            self.read_units += request.read_units
            self.write_units += request.write_units
            if request.operation == 'UpdateItem':
                self.counts.update(request.ids)
            elif request.operation in WRITES and any('chord-unlock' in id for id in request.ids):
                self.spans.append((request.began, request.ended))


def memory(pid: int | str, what: str = 'VmRSS') -> float:
    """What a process has resident, or with VmHWM the most that it has had, in MB (Linux)."""
    with contextlib.suppress(OSError):
        found = re.search(rf'{what}:\s+(\d+) kB', Path(f'/proc/{pid}/status').read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def children(pid: int) -> list[int]:
    return [*map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split())]


class Memory:
    """The memory of processes, sampled for as long as a chord takes."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.pids = pids
        self.before = {name: memory(pid) for name, pid in pids.items()}
        self.samples: dict[str, list[float]] = {name: [] for name in pids}

    def take(self) -> None:
        for name, pid in self.pids.items():
            self.samples[name].append(memory(pid))

    def lines(self, counted: int) -> Iterator[str]:
        """counted: how many of the samples were taken before the header was complete."""
        for name, samples in self.samples.items():
            quarter = counted // 4
            second = statistics.median(samples[quarter:2 * quarter] or samples)
            last = statistics.median(samples[3 * quarter:counted] or samples)
            most = max(memory(self.pids[name], 'VmHWM'), *samples)
            until_counted = max(samples[:counted], default=0)
            yield (f'  {name}: {self.before[name]:.0f} at first; {second:.0f} in the second quarter'
                   f' and {last:.0f} in the last; {until_counted:.0f} at most until then, '
                   f'{most:.0f} in all')


# --- the chord ------------------------------------------------------------------------------------

class Sent(NamedTuple):
    result_id: str
    group_id: str
    opened: float       # seconds from the call to the first message
    before: float       # MB
    header: float       # MB, with the header, which is Celery's own
    most: float         # MB


def send(parts: int, kind: str, size: int, sender: Any) -> None:
    from celery import chord, signals

    import tasks

    tasks.app.backend.chord_progress('none')    # makes its client
    before = memory('self')
    signatures = (tasks.sized.s(number, size) if size else tasks.part.s(number)
                  for number in range(parts))
    header: Any = [*signatures] if kind == 'list' else signatures
    of_header, start = memory('self'), time.monotonic()
    opened: list[float] = []

    @signals.before_task_publish.connect
    def note(**kwargs: Any) -> None:
        if not opened:
            opened.append(time.monotonic() - start)

    body = tasks.total_size.s() if size else tasks.total.s()
    result = chord(header)(body.set(queue=BODIES))
    sender.send(Sent(
        result.id, result.parent.id if result.parent else '', opened[0], before, of_header,
        memory('self', 'VmHWM')))


@contextlib.contextmanager
def worker(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, '-m', 'celery', '--quiet', '-A', 'tasks', 'worker', '-l', 'WARNING',
         '-n', f'{name}@large', *arguments,
         '--without-gossip', '--without-mingle', '--without-heartbeat'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(IMPORTED)})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def measure(given: Any, proxy: Proxy) -> None:
    import tasks

    parts = given.parts
    firsts = [tasks.part.apply_async((0,), queue=queue) for queue in ('celery', BODIES)]
    pool = '--pool', given.pool, '--concurrency', str(given.concurrency)
    solo = '--pool', 'solo', '-Q', BODIES
    with worker('parts', *pool) as counting, worker('body', *solo) as ending:
        for first in firsts:
            first.get(timeout=60)
        pids = {'worker': counting.pid, 'worker of the body': ending.pid}
        pids.update((f'process {number} of the worker', pid)
                    for number, pid in enumerate(children(counting.pid)))
        proxy.reset()
        meter, taken = Meter(proxy), Memory(pids)
        start = time.monotonic()
        receiver, sender = multiprocessing.Pipe(duplex=False)
        client = multiprocessing.get_context('spawn').Process(
            target=send, args=(parts, given.header, given.size, sender))
        client.start()
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE):
                meter.take()
                taken.take()

        sampling = threading.Thread(target=sample)
        sampling.start()
        try:
            sent = receiver.recv()
            client.join()
            print(f'{parts:,} parts sent in {time.monotonic() - start:.0f} s', flush=True)
            counted = wait(tasks.app, sent, start, taken)
            seconds = time.monotonic() - start
            value = tasks.app.AsyncResult(sent.result_id).get(timeout=given.patience)
        finally:
            ended.set()
            sampling.join()
        meter.take()
        meter.take()
        print(f'the body saw {value} (parts, sum, in order) within {seconds:.0f} s')
        report(parts, sent, meter, taken, counted)


def wait(app: Any, sent: Sent, start: float, taken: Memory) -> int:
    """Waits for the body; how many samples had been taken when all parts were counted."""
    result, counted = app.AsyncResult(sent.result_id), 0
    while not result.ready():
        asked = time.monotonic()
        progress = app.backend.chord_progress(sent.group_id) if not counted else None
        if progress:
            print(f'{time.monotonic() - start:5.0f} s  {progress.counted:,} counted', flush=True)
            if progress.counted == progress.expected:
                counted = len(taken.samples['worker'])
        time.sleep(max(EVERY, (time.monotonic() - asked) / SHARE))
    return counted or len(taken.samples['worker'])


def report(parts: int, sent: Sent, meter: Meter, taken: Memory, counted: int) -> None:
    print(f'opened in {sent.opened:.1f} s by {len(meter.spans)} requests that insert, '
          f'{in_a_row(meter.spans)} of them one after the other')
    print(f'per part: {meter.requests / parts:.4f} requests, '
          f'{meter.read_units / parts:.4f} read units, '
          f'{meter.write_units / parts:.4f} write units')
    (most_id, most), = meter.counts.most_common(1)
    print(f'{len(meter.counts):,} counters; at most {most} updates of one, {most_id[-12:]}')
    print('memory in MB:')
    print(f'  client: {sent.before:.0f} at first; {sent.header:.0f} with the header; '
          f'{sent.most:.0f} at most')
    print(*taken.lines(counted), sep='\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('parts', type=int)
    parser.add_argument('--pool', default='prefork')
    parser.add_argument('--concurrency', type=int, default=2)
    parser.add_argument('--header', choices=['list', 'generator'], default='list')
    parser.add_argument('--size', type=int, default=0, help='bytes of each value')
    parser.add_argument('--patience', type=float, default=600, help='seconds for the body')
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxy = stack.enter_context(Proxy(os.environ['DYNAMODB_ENDPOINT']))
        endpoints = os.environ['DYNAMODB_ENDPOINT'], proxy.url
        here, there = (
            'dyna_veggie.DynamoDBBackend+dynamodb://local/large-chords?connect_timeout=5'
            f'&endpoint_url={quote(endpoint, safe="")}' for endpoint in endpoints)
        if redis_local.is_installed():
            port = stack.enter_context(redis_local.redis_server(folder))
            os.environ['BROKER'] = f'redis://127.0.0.1:{port}'
        else:
            os.environ['BROKER_FOLDER'] = str(folder)
            Path(folder, 'control').mkdir()
        # what this program reads for its own sake is not counted
        os.environ['RESULT_BACKEND'] = here
        importlib.import_module('tasks')
        os.environ['RESULT_BACKEND'] = there
        measure(given, proxy)


if __name__ == '__main__':
    main()
