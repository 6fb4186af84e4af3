"""Compares Dyna-Veggie with Celery's own DynamoDB and Redis backends: the same tasks in one run.

    make bench                      # everything, some fifty minutes
    make bench ARGS=--quick         # small groups and chords only
    make bench ARGS=--draw          # nothing: the chart and the tables of the last run

Each backend has separate workers (8 threads; for chords also 8 processes and 100 greenlets) and is
used by Celery's public interface alone.  Time, CPU and memory are the medians of three rounds (one,
where a round takes most of a minute), with nothing between a backend and its store but a relay that
adds latency, the same for all.  Requests and capacity units are counted in a round
before these, through tools/proxy.py.  The engine is warmed up first: DynamoDB Local is a Java
program, three times as slow when it is new.  The broker is a Redis server for all; if none is
installed, it is a folder, and that peer is left out.  One chord goes over SQS, which moto's server
plays.  Writes results.json and results.svg beside this file.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import html
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATHS = [str(HERE), str(ROOT), str(ROOT / 'tools'), str(ROOT / 'examples')]
sys.path[:0] = PATHS

import children  # noqa: E402
import dynamodb_local  # noqa: E402
import redis_local  # noqa: E402
import waiting_many  # noqa: E402

# on-demand capacity in us-east-1, as of November 2026:
# https://aws.amazon.com/dynamodb/pricing/on-demand/
DOLLARS_PER_READ_UNIT, DOLLARS_PER_WRITE_UNIT = 0.125e-6, 0.625e-6
#: so that the proxy can distinguish the worker's requests from the client's
WORKERS_KEY = 'worker'
OURS, CELERYS, REDIS = 'Dyna-Veggie', "Celery's DynamoDB", "Celery's Redis"
#: what a worker has of threads, processes and greenlets
POOLS = {'threads': 8, 'prefork': 8, 'gevent': 100}
ROUNDS = 3
TOO_LONG = 600.0  # seconds

#: gets a window of time.monotonic, or None; see in_a_row
Meter = Callable[[Any], dict[str, float]]


# --- what stands between a backend and its store --------------------------------------------------

def in_a_row(spans: Iterable[tuple[float, float]]) -> int:
    """How many of these can be chosen so that each begins after the one before has ended."""
    number, end = 0, 0.0
    for began, ended in sorted(spans, key=lambda span: span[1]):
        if began >= end:
            number, end = number + 1, ended
    return number


def serve_proxy(endpoint: str, latency: float, pipe: Any) -> None:
    from proxy import Proxy
    with Proxy(endpoint) as proxy:
        proxy.latency = latency
        pipe.send(proxy.url)
        while (asked := pipe.recv()) is not None:
            usage = proxy.usage()
            used: dict[str, float] = {
                'requests': usage.requests, 'read_units': usage.read_units,
                'write_units': usage.write_units}
            if asked['window']:
                began, ended = asked['window']
                used['in_a_row'] = in_a_row(
                    (request.began, request.ended) for request in proxy.requests
                    if request.access_key == WORKERS_KEY
                    and began <= request.began and request.ended <= ended)
            proxy.reset()
            pipe.send(used)


@contextlib.contextmanager
def dynamodb(endpoint: str, latency: float) -> Iterator[tuple[str, Meter]]:
    """A proxy's URL, and what was used since the last call."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context('spawn').Process(
        target=serve_proxy, args=(endpoint, latency, there), daemon=True)
    process.start()

    def meter(window: Any) -> dict[str, float]:
        here.send({'window': window})
        return here.recv()
    try:
        yield here.recv(), meter
    finally:
        here.send(None)
        process.join(10)


def serve_relay(port: int, upstream: int, latency: float) -> None:
    async def pass_on(reader: Any, writer: Any, delay: float) -> None:
        # each piece as much later as it came: latency, not less bandwidth
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(due - time.monotonic())
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            writer.close()

        sending = asyncio.create_task(send())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                pieces.put_nowait((time.monotonic() + delay, data))
        pieces.put_nowait((0, b''))
        with contextlib.suppress(ConnectionError):
            await sending

    async def relay(reader: Any, writer: Any) -> None:
        there = await asyncio.open_connection('127.0.0.1', upstream, limit=1 << 22)
        await asyncio.gather(pass_on(reader, there[1], latency), pass_on(there[0], writer, 0))

    async def serve() -> None:
        await (await asyncio.start_server(relay, '127.0.0.1', port, limit=1 << 22)).serve_forever()
    asyncio.run(serve())


@contextlib.contextmanager
def relayed(port: int, latency: float) -> Iterator[int]:
    """A port that leads to another, later; the very same without latency."""
    if not latency:
        yield port
        return
    between = redis_local.free_port()
    relay = multiprocessing.get_context('spawn').Process(
        target=serve_relay, args=(between, port, latency), daemon=True)
    relay.start()
    try:
        time.sleep(1)
        yield between
    finally:
        relay.terminate()


@contextlib.contextmanager
def redis_backend(folder: Path, latency: float) -> Iterator[tuple[str, Meter]]:
    """The URL of a Redis server, and the commands that it was sent since the last call."""
    import redis
    with redis_local.redis_server(folder) as port, relayed(port, latency) as between:
        client, seen = redis.Redis(port=port), [0]

        def meter(window: Any) -> dict[str, float]:
            before, seen[0] = seen[0], client.info('stats')['total_commands_processed']
            return {'requests': seen[0] - before - 1}
        yield f'redis://127.0.0.1:{between}', meter


def warm_up(endpoint: str, times: int) -> None:
    """Makes an engine that was just started as fast as it will be."""
    import botocore.session
    client = botocore.session.Session().create_client(
        'dynamodb', 'us-east-1', endpoint_url=endpoint,
        aws_access_key_id='local', aws_secret_access_key='local')
    table = f'warm-up-{uuid.uuid4().hex}'
    client.create_table(
        TableName=table, BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}])

    def work(number: int) -> None:
        key = {'id': {'S': str(number)}}
        client.put_item(TableName=table, Item={**key, 'result': {'B': b'x' * 200}},
                        ConditionExpression='attribute_not_exists(id)')
        client.update_item(TableName=table, Key=key, UpdateExpression='ADD parts :one',
                           ConditionExpression='attribute_exists(id)',
                           ExpressionAttributeValues={':one': {'N': '1'}})
        client.get_item(TableName=table, Key=key)
        keys = [{'id': {'S': str(number // 2)}}]
        if number:  # else it is the same key
            keys.append(key)
        client.batch_get_item(RequestItems={table: {'Keys': keys}})
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(work, range(times)):
            pass
    client.delete_table(TableName=table)


# --- a worker, and what it takes ------------------------------------------------------------------

class Worker:
    def __init__(self, pool: str, broker: str, url: str, log: Path) -> None:
        # this process uses them too, when it imports the tasks
        os.environ.update({
            'BROKER': broker, 'RESULT_BACKEND': url, 'AWS_ACCESS_KEY_ID': 'client',
            'AWS_SECRET_ACCESS_KEY': 'local', 'AWS_EC2_METADATA_DISABLED': 'true'})
        command = [
            sys.executable, '-m', 'celery', '-A', 'bench_tasks', 'worker',
            '--pool', pool, '--concurrency', str(POOLS[pool]),
            '--without-gossip', '--without-mingle', '--without-heartbeat', '-l', 'WARNING']
        environ = {**os.environ, 'AWS_ACCESS_KEY_ID': WORKERS_KEY,
                   'PYTHONPATH': os.pathsep.join(PATHS)}
        with log.open('w') as file:
            self.process = subprocess.Popen(
                command, env=environ, stdout=file, stderr=subprocess.STDOUT)

    def folders(self) -> list[Path]:
        """What Linux reports of its processes."""
        pid = self.process.pid
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
        return [Path('/proc', each) for each in (str(pid), *children)]

    def cpu(self) -> float:
        ticks = 0
        for folder in self.folders():
            fields = (folder / 'stat').read_text().rpartition(')')[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf('SC_CLK_TCK')

    def forget_peak(self) -> None:
        for folder in self.folders():
            with contextlib.suppress(OSError):
                (folder / 'clear_refs').write_text('5')

    def peak(self) -> float:
        """MB of the largest of its processes."""
        return max(int((folder / 'status').read_text().partition('VmHWM:')[2].split()[0])
                   for folder in self.folders()) / 1024

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()


# --- the work -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Scenario:
    """One measurement.

    run: gets the module of the tasks, and returns what it measured itself.
    stored: the client does not wait for the results.
    """

    what: str
    tasks: int
    run: Callable[[Any], dict[str, float] | None]
    rounds: int = ROUNDS
    stored: bool = False


def joined(size: int) -> Callable[[Any], None]:
    from celery import chord

    def run(tasks: Any) -> None:
        result = chord([tasks.part.s(number) for number in range(size)])(tasks.total.s())
        assert result.get(timeout=TOO_LONG) == [size, sum(range(size))]
    return run


def joined_bytes(size: int, length: int) -> Callable[[Any], None]:
    from celery import chord

    def run(tasks: Any) -> None:
        result = chord([tasks.text.s(length) for _ in range(size)])(tasks.lengths.s())
        assert result.get(timeout=TOO_LONG) == [size, size * length]
    return run


def tail(size: int) -> Callable[[Any], dict[str, Any]]:
    """From the return of a chord's last part, long after the others, to the start of its body."""
    from celery import chord

    def run(tasks: Any) -> dict[str, Any]:
        header = [*(tasks.part.s(number) for number in range(size - 1)), tasks.last.s()]
        returned, published, began = chord(header)(tasks.begun.s()).get(timeout=TOO_LONG)
        return {'tail': began - returned, 'window': (returned, published)}
    return run


def failed(size: int) -> Callable[[Any], dict[str, float]]:
    """From the failure of one part, while others run, to the error that get() raises."""
    from celery import chord

    def run(tasks: Any) -> dict[str, float]:
        header = [tasks.one_fails.s(number, size // 5) for number in range(size)]
        result = chord(header)(tasks.total.s())
        try:
            result.get(timeout=TOO_LONG)
        except ValueError as exc:
            return {'error_after': time.time() - float(str(exc))}
        finally:
            tasks.app.control.purge()
        raise AssertionError('a failure was lost')
    return run


def scenarios(name: str, quick: bool, latency: float) -> Iterator[Scenario]:
    from celery import group

    def stored(tasks: Any) -> None:
        for number in range(200):
            tasks.part.delay(number)

    def singles(tasks: Any) -> None:
        results = [tasks.part.delay(number) for number in range(200)]
        assert [result.get(timeout=TOO_LONG) for result in results] == list(range(200))

    def late(tasks: Any) -> dict[str, float]:
        def once() -> float:
            stored = tasks.late.delay().get(timeout=TOO_LONG)
            return time.time() - stored
        return {'seen_after': statistics.median(once() for _ in range(30))}

    def waited(tasks: Any) -> None:
        tasks.slow.delay(10).get(timeout=TOO_LONG)

    def grouped(size: int) -> Callable[[Any], None]:
        def run(tasks: Any) -> None:
            result = group(tasks.part.s(number) for number in range(size))()
            assert result.get(timeout=TOO_LONG) == list(range(size))
        return run

    def large(tasks: Any) -> None:
        # Celery's own cannot store it, and its client waits for ever
        timeout = 10 if name == CELERYS else TOO_LONG
        assert len(tasks.megabyte.delay().get(timeout=timeout)) == 2**20

    yield Scenario('200 tasks, nobody waits', 200, stored, stored=True)
    yield Scenario('200 single tasks', 200, singles)
    yield Scenario('30 tasks of 10 ms, one by one', 30, late, rounds=1)
    yield Scenario('a task of 10 s', 1, waited, rounds=1)
    yield Scenario('a chord of 10', 10, joined(10))
    for size in (100,) if quick else (100, 1000):
        yield Scenario(f'a group of {size:,}', size, grouped(size))
        # with 1,000 Celery's own takes most of a minute
        rounds = ROUNDS if size < 1000 or name != CELERYS else 1
        yield Scenario(f'a chord of {size:,}', size, joined(size), rounds)
    if (name == OURS or latency) and not quick:
        # Celery's own refuses it at once
        yield Scenario('a chord of 10,000', 10_000, joined(10_000), rounds=1)
    yield Scenario('a result of 1 MB', 1, large)
    if latency:
        sizes = (100, 500) if quick else (1000, 5000)
        # with 5,000 Celery's own would take too long
        for size in sizes[:1] if name == CELERYS else sizes:
            rounds = ROUNDS if size <= 1000 and name != CELERYS else 1
            yield Scenario(f'the tail of a chord of {size:,}', size, tail(size), rounds)
        # the last one, since its other parts may run still
        yield Scenario(f'the error of a part of {sizes[0]:,}', sizes[0], failed(sizes[0]), rounds=1)


def by_pool(pool: str, quick: bool) -> Iterator[Scenario]:
    size = 100 if quick else 1000
    yield Scenario(f'a chord of {size:,}, {pool}', size, joined(size))


def over_sqs(quick: bool) -> Iterator[Scenario]:
    # with all results in it, the body's message is above what SQS takes in either case
    size, length = (150, 10_000) if quick else (1500, 1000)
    yield Scenario(f'a chord of {size:,} over SQS', size, joined_bytes(size, length), rounds=1)


Row = dict[str, Any]


def settled(meter: Meter, window: Any) -> dict[str, float]:
    """What was used since the last call, and until no more is.

    What follows after a result has come is part of its cost.
    """
    used: Counter[str] = Counter()
    for _ in range(20):
        time.sleep(0.5)
        more = meter(window)
        used.update(more)
        if not more['requests']:
            break
        window = None
    return dict(used)


@dataclass(frozen=True)
class Place:
    """What the scenarios run in: a worker with its pool and its broker, and what is between."""

    name: str
    pool: str
    broker: str
    folder: Path
    latency: float


def measured(place: Place, url: str, scenarios: Iterable[Scenario], rounds: int = ROUNDS,
             meter: Meter | None = None) -> Iterator[Row]:
    """Runs all scenarios in one worker; yields the medians of their rounds."""
    log = place.folder / f'{uuid.uuid4().hex}.log'
    worker = Worker(place.pool, place.broker, url, log)
    sys.modules.pop('bench_tasks', None)
    import bench_tasks as tasks

    def settle(window: Any = None) -> dict[str, float]:
        if meter:
            return settled(meter, window)
        time.sleep(0.5)
        return {}

    def once(scenario: Scenario) -> Row:
        worker.forget_peak()
        cpu, began = worker.cpu() + time.process_time(), time.monotonic()
        try:
            row: Row = scenario.run(tasks) or {}
        except Exception as exc:
            settle()
            return {'failed': f'{type(exc).__name__}: {exc}'[:200]}
        row['wall'] = time.monotonic() - began
        row.update(settle(row.pop('window', None)))
        row.update(cpu=worker.cpu() + time.process_time() - cpu, peak_mb=worker.peak())
        return row

    try:
        tasks.part.delay(0).get(timeout=120)
        settle()
        for scenario in scenarios:
            rows: list[Row] = []
            while len(rows) < min(rounds, scenario.rounds) and not (rows and 'failed' in rows[-1]):
                rows.append(once(scenario))
            row = rows[-1]
            if 'failed' not in row:
                row = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            if scenario.stored:
                row.pop('wall', None)    # of the sending alone
            yield {'what': scenario.what, 'tasks': scenario.tasks, **row}
    except Exception:
        print(log.read_text()[-5000:], file=sys.stderr)
        raise
    finally:
        worker.stop()
        tasks.app.close()
        gc.collect()    # a result that goes later would look for a Redis that is gone


def dynamodb_url(place: Place, host: str, table: str) -> str:
    if place.name == OURS:
        # as the README says: at least as many connections as threads
        return (f'dyna_veggie.DynamoDBBackend+dynamodb://{host}/{table}'
                f'?max_pool_connections={max(10, POOLS[place.pool])}')
    return f'celery.backends.dynamodb.DynamoDBBackend+dynamodb://@{host}/{table}'


def measured_on_dynamodb(
        place: Place, engine: str, scenarios: list[Scenario], counts: bool) -> Iterator[Row]:
    """What is counted comes from a pass through the proxy; what is timed, from one without it."""
    table = f'bench-{uuid.uuid4().hex}'
    counted: list[Row] = [{}] * len(scenarios)
    if counts:
        with dynamodb(engine, place.latency) as (proxy, meter):
            counted = list(measured(
                place, dynamodb_url(place, proxy.partition('//')[2], table), scenarios, 1, meter))
    with relayed(int(engine.rpartition(':')[2]), place.latency) as port:
        timed_rows = measured(place, dynamodb_url(place, f'127.0.0.1:{port}', table), scenarios)
        for row, timed in zip(counted, timed_rows):
            for field in ('requests', 'read_units', 'write_units', 'in_a_row'):
                if field in row:
                    timed[field] = row[field]
            if 'write_units' in row:
                dollars = (row['read_units'] * DOLLARS_PER_READ_UNIT
                           + row['write_units'] * DOLLARS_PER_WRITE_UNIT)
                timed['dollars_per_million'] = 1e6 / row['tasks'] * dollars
            yield timed


def measured_anywhere(
        place: Place, engine: str, scenarios: Iterable[Scenario],
        counts: bool = True) -> Iterator[Row]:
    if place.name != REDIS:
        yield from measured_on_dynamodb(place, engine, list(scenarios), counts)
        return
    with redis_backend(place.folder, place.latency) as (url, meter):
        yield from measured(place, url, scenarios, meter=meter)


def processes(place: Place, engine: str) -> Iterator[Row]:
    """What many waits cost a process, and what a child of a prefork worker takes."""
    with contextlib.ExitStack() as stack:
        if place.name == REDIS:
            url, _ = stack.enter_context(redis_backend(place.folder, 0.0))
        else:
            url = dynamodb_url(place, engine.partition('//')[2], f'bench-{uuid.uuid4().hex}')
        environ = {**os.environ, 'RESULT_BACKEND': url, 'AWS_ACCESS_KEY_ID': 'client',
                   'PYTHONPATH': os.pathsep.join(PATHS)}
        (percent,) = waiting_many.share('threads', environ)
        yield {'what': '1,000 threads wait', 'tasks': 1000, 'percent': percent}
        if place.name == OURS:
            percent, more = waiting_many.share('coroutines', environ)
            yield {'what': '10,000 coroutines wait', 'tasks': 10_000, 'percent': percent,
                   'threads': more}
        if '://' in place.broker:
            # the first compiles what is imported
            _, *costs = (children.measure(place.broker, url, environ) for _ in range(1 + ROUNDS))
            yield {'what': 'a child of a worker', 'tasks': 1,
                   'private_mb': statistics.median(cost.private for cost in costs),
                   'first_store': statistics.median(cost.cpu for cost in costs) / 1000}


def all_measured(place: Place, engine: str, quick: bool) -> Iterator[Row]:
    """What one backend takes, with a latency."""
    yield from measured_anywhere(place, engine, scenarios(place.name, quick, place.latency))
    if place.name != CELERYS:   # which would take minutes, and no pool saves it requests
        for pool in ('prefork', 'gevent'):
            yield from measured_anywhere(
                replace(place, pool=pool), engine, by_pool(pool, quick))
    if not place.latency:
        yield from processes(place, engine)
    else:
        try:
            with dynamodb_local.moto_engine(os.environ) as sqs:
                broker = f'sqs://local:local@{sqs.endpoint.partition("//")[2]}'
                yield from measured_anywhere(
                    replace(place, broker=broker), engine, over_sqs(quick), counts=False)
        except dynamodb_local.Unavailable as exc:
            print(f'without SQS: {exc}', file=sys.stderr)


def show(row: Row) -> str:
    if 'failed' in row:
        return f'  {row["what"]:30} {row["backend"]:18} failed: {row["failed"][:70]}'

    def shown(field: str, form: str, divisor: float = 1) -> str:
        if field in row:
            return format(row[field] / divisor, form)
        return ' ' * int(form.partition('.')[0])
    tasks, notes = row['tasks'], ''
    if 'seen_after' in row:
        notes += f'   seen after {row["seen_after"] * 1000:.0f} ms'
    if 'error_after' in row:
        notes += f'   error after {row["error_after"]:.2f} s'
    if 'percent' in row:
        notes += f'   {row["percent"]:.1f} % of a core'
    if 'private_mb' in row:
        notes += f'   {row["private_mb"]:.1f} MB, {row["first_store"] * 1000:.0f} ms of CPU'
    if 'tail' in row:
        notes += f'   tail {row["tail"]:.2f} s'
    if 'in_a_row' in row:
        notes += f', {row["in_a_row"]:.0f} requests in a row'
    return ' '.join([
        f'  {row["what"]:30} {row["backend"]:18}',
        shown('requests', '8.2f', tasks), shown('read_units', '7.2f', tasks),
        shown('write_units', '7.2f', tasks), shown('dollars_per_million', '8.2f'),
        shown('wall', '8.2f'), shown('cpu', '7.2f'), shown('peak_mb', '6.0f')]) + notes


def row_of(rows: list[Row], backend: str, what: str, latency: float) -> Row:
    """What was measured, or an empty row."""
    wanted = (backend, what, latency)
    for row in rows:
        if (row['backend'], row['what'], row['latency']) == wanted:
            return row
    return {}


# --- the READMEs ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Line:
    """A line of the table in benchmarks/README.rst.

    what: scenarios, whose figures stand beside each other.  factor: None divides by the tasks.
    latency: of these figures, if it is not the table's.
    """

    heading: str
    what: tuple[str, ...]
    field: str
    factor: float | None = 1
    form: str = '{:.1f} s'
    latency: float | None = None


POOLED = ('a chord of 1,000', 'a chord of 1,000, prefork', 'a chord of 1,000, gevent')
TAILS = ('the tail of a chord of 1,000', 'the tail of a chord of 5,000')
WITH_POOLS = 'with 8 threads / 8 processes / 100 greenlets'
LINES = [
    Line('requests to store a result', ('200 tasks, nobody waits',), 'requests', None, '{:.1f}'),
    Line('requests to store a result and get it', ('200 single tasks',), 'requests', None,
         '{:.1f}'),
    Line('a result is seen by ``get()`` after (median)', ('30 tasks of 10 ms, one by one',),
         'seen_after', 1000, '{:.0f} ms'),
    Line('200 single tasks, sent and then waited for', ('200 single tasks',), 'wall'),
    Line('a group of 1,000', ('a group of 1,000',), 'wall'),
    Line(f'a chord of 1,000, {WITH_POOLS}', POOLED, 'wall'),
    Line('the same without added latency', POOLED, 'wall', latency=0.0),
    Line('requests per part of it', POOLED, 'requests', None, '{:.2f}'),
    Line('US dollars per million such parts, on demand', POOLED, 'dollars_per_million', 1,
         '{:.2f}'),
    Line('CPU of worker and client for it', POOLED, 'cpu'),
    Line('the same without added latency', POOLED, 'cpu', latency=0.0),
    Line('peak memory of the worker (8 threads)', POOLED[:1], 'peak_mb', 1, '{:.0f} MB'),
    Line('from the return of the last of 1,000 / 5,000 parts to the start of the body', TAILS,
         'tail', 1, '{:.2f} s'),
    Line('requests one after the other in this time, the store included', TAILS, 'in_a_row', 1,
         '{:.0f}'),
    Line('a chord of 10,000', ('a chord of 10,000',), 'wall', 1, '{:.0f} s'),
    Line('the error of one of 1,000 parts is raised by ``get()`` after',
         ('the error of a part of 1,000',), 'error_after'),
    Line('read units of ``get()`` that waits 10 s', ('a task of 10 s',), 'read_units', 1,
         '{:.1f}'),
    Line('CPU of 1,000 threads that wait, of a core', ('1,000 threads wait',), 'percent', 1,
         '{:.0f} %', 0.0),
    Line('CPU of 10,000 coroutines that wait, of a core', ('10,000 coroutines wait',), 'percent',
         1, '{:.0f} %', 0.0),
    Line('private memory of a child of a prefork worker', ('a child of a worker',), 'private_mb',
         1, '{:.0f} MB', 0.0),
    Line('CPU of its first store', ('a child of a worker',), 'first_store', 1000, '{:.0f} ms',
         0.0),
    Line('a chord of 1,500 parts of 1 KB over SQS', ('a chord of 1,500 over SQS',), 'wall', 1,
         '{:.0f} s'),
    Line('a result of 1 MB', ('a result of 1 MB',), 'wall'),
]


def figure_of(line: Line, row: Row) -> str:
    if 'failed' in row:
        return 'fails'
    if line.field not in row:
        return 'n/a'
    return line.form.format(row[line.field] * (line.factor or 1 / row['tasks']))


#: lines that README.rst has too, with 8 threads, and their headings there
SUMMARY = {
    f'a chord of 1,000, {WITH_POOLS}': 'a chord of 1,000',
    'requests per part of it': 'requests per part of it',
    'US dollars per million such parts, on demand': 'US dollars per million parts',
    'a group of 1,000': 'a group of 1,000',
    'a result is seen by ``get()`` after (median)': 'a result is seen by ``get()`` after',
    '200 single tasks, sent and then waited for': '200 single tasks',
    'a chord of 10,000': 'a chord of 10,000',
    'a result of 1 MB': 'a result of 1 MB',
}


def summary(rows: list[Row], latency: float) -> str:
    """The table of README.rst, in reStructuredText."""
    lines = {line.heading: line for line in LINES}
    names = (OURS, CELERYS, REDIS)
    table = [['..', *names]]
    table += [[heading, *(figure_of(lines[of], row_of(rows, name, lines[of].what[0], latency))
                          for name in names)] for of, heading in SUMMARY.items()]
    widths = [max(map(len, column)) for column in zip(*table)]
    bar = ' '.join('=' * width for width in widths)
    head, *rest = (' '.join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip()
                   for cells in table)
    return '\n'.join([bar, head, bar, *rest, bar]) + '\n'


def readme_table(rows: list[Row], latency: float) -> str:
    """What benchmarks/README.rst shows of the results, as a table in reStructuredText."""
    def lines_of_row(cells: list[str]) -> list[str]:
        return [f'   {mark} - {text}'.rstrip() for mark, text in zip('*   ', cells)]

    lines = ['.. list-table::', '   :header-rows: 1', '']
    lines += lines_of_row(['', OURS, CELERYS, REDIS])
    for line in LINES:
        cells = [line.heading]
        at = latency if line.latency is None else line.latency
        for backend in (OURS, CELERYS, REDIS):
            figures = [figure_of(line, row_of(rows, backend, what, at)) for what in line.what]
            cells.append(' / '.join(figures) if set(figures) != {figures[0]} else figures[0])
        if {*cells[1:]} != {'n/a'}:     # else this was not run
            lines += lines_of_row(cells)
    return '\n'.join(lines) + '\n'


#: the chart follows the reader's theme, with a background, for pages in another one
STYLE = """
  text { font: 25px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .note { fill: #59636e } .middle { text-anchor: middle }
  .ground { fill: #ffffff; stroke: #d1d9e0 } .axis { stroke: #d1d9e0; stroke-width: 2 }
  polyline { stroke-width: 5; stroke-linejoin: round; stroke-linecap: round }
  rect.ours { fill: #1a7f37 } rect.theirs { fill: #818b98 }
  polyline.ours { fill: none; stroke: #1a7f37 } polyline.theirs { fill: none; stroke: #818b98 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .note { fill: #9198a1 }
    .ground { fill: #0d1117; stroke: #3d444d } .axis { stroke: #3d444d }
    rect.ours { fill: #3fb950 } rect.theirs { fill: #9198a1 }
    polyline.ours { stroke: #3fb950 } polyline.theirs { stroke: #9198a1 }
  }
"""
#: of the chart, whose text is 11 high on a phone, where it is 360 pixels wide
WIDTH, LEFT, LINE = 800, 285, 40
#: of the plot in it
PLOT_LEFT, PLOT_WIDTH, PLOT_HEIGHT = 50, 440, 260
SIZES = (10, 100, 1000, 10_000)


class Chart:
    """An SVG that grows downwards."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = 12.0

    def text(self, x: float, y: float, words: str, kind: str = '') -> None:
        # 28: from the top of a line to the feet of its letters
        named = f' class="{kind}"' if kind else ''
        self.parts.append(f'<text x="{x:.0f}" y="{y + 28:.0f}"{named}>{html.escape(words)}</text>')

    def line(self, words: str, kind: str) -> None:
        self.text(20, self.y, words, kind)
        self.y += LINE + 2

    def polyline(self, points: list[tuple[float, float]], kind: str) -> None:
        place = ' '.join(f'{x:.0f},{y:.0f}' for x, y in points)
        self.parts.append(f'<polyline points="{place}" class="{kind}"/>')

    def curves(self, curves: dict[str, dict[int, float]]) -> None:
        """Of each name, a figure by size, on a logarithmic scale of sizes; the last is beside it.

        A curve that ends early ends in an error.
        """
        top, bottom = self.y, self.y + PLOT_HEIGHT
        scale = PLOT_HEIGHT / max(max(curve.values()) for curve in curves.values())
        steps = dict(zip(SIZES, range(len(SIZES))))

        def x(size: int) -> float:
            return PLOT_LEFT + steps[size] * PLOT_WIDTH / (len(SIZES) - 1)

        self.parts.append(f'<line class="axis" x1="{PLOT_LEFT - 20}" x2="{x(SIZES[-1]) + 10:.0f}" '
                          f'y1="{bottom}" y2="{bottom}"/>')
        for size in SIZES:
            self.text(x(size), bottom + 4, f'{size:,}', 'note middle')
        ends = {name: list(curve.items())[-1] for name, curve in curves.items()}
        free = top - LINE
        for name, (size, last) in sorted(ends.items(), key=lambda end: -end[1][1]):
            kind = 'ours' if name == OURS else 'theirs'
            height = bottom - last * scale
            self.polyline([(x(size), bottom - value * scale)
                           for size, value in curves[name].items()], kind)
            # beside the end, and no two over each other
            free = max(free + 0.8 * LINE, height - LINE / 2)
            beside = x(size) + 16
            self.text(beside, free, f'{name} {last:.0f} ms', 'title' if name == OURS else '')
            if size != SIZES[-1]:
                free += 0.8 * LINE
                self.text(beside, free, f'{SIZES[steps[size] + 1]:,}: fails', 'note')
        self.y = bottom + 1.5 * LINE

    def bars(self, bars: dict[str, float]) -> None:
        scale = (WIDTH - LEFT - 130) / max(bars.values())
        for name, seconds in bars.items():
            width = max(2.0, seconds * scale)
            self.text(20, self.y, name)
            self.parts.append(
                f'<rect x="{LEFT}" y="{self.y + 4:.0f}" width="{width:.0f}" height="{LINE - 8}" '
                f'rx="3" class="{"ours" if name == OURS else "theirs"}"/>')
            self.text(LEFT + width + 10, self.y, f'{seconds:.1f} s')
            self.y += LINE
        self.y += LINE // 2

    def svg(self) -> str:
        return '\n'.join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{0.8 * WIDTH:g}" '
            f'height="{0.8 * self.y:g}" viewBox="0 0 {WIDTH} {self.y:g}">',
            '<title>Dyna-Veggie beside the DynamoDB and Redis backends of Celery</title>',
            f'<style>{STYLE}</style>',
            f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.y - 1:g}" '
            'rx="6"/>', *self.parts, '</svg>\n'])


def chart(rows: list[Row], latency: float) -> str:
    """How the time of a chord grows with its size, and how soon an error is known: an SVG."""
    curves: dict[str, dict[int, float]] = {}
    errors: dict[str, float] = {}
    for name in (OURS, CELERYS, REDIS):
        found = {size: row_of(rows, name, f'a chord of {size:,}', latency) for size in SIZES}
        curve = {size: 1000 * row['wall'] / size for size, row in found.items() if 'wall' in row}
        if curve:
            curves[name] = curve
        row = row_of(rows, name, 'the error of a part of 1,000', latency)
        if 'error_after' in row:
            errors[name] = row['error_after']
    drawn = Chart()
    drawn.line('Milliseconds per task of a chord of 10 to 10,000', 'title')
    drawn.curves(curves)
    if errors:
        drawn.line('get() raises the error of one of 1,000 tasks after', 'title')
        drawn.bars(errors)
    drawn.line(f'Less is better. {latency * 1000:.0f} ms of latency added to each request.', 'note')
    return drawn.svg()


# --- the goals ------------------------------------------------------------------------------------

def goals(rows: list[Row]) -> Iterator[str]:
    """What was to be reached, and whether it was."""
    def of(backend: str, what: str, field: str, latency: float) -> float | None:
        return row_of(rows, backend, what, latency).get(field)

    chord = POOLED[0]
    for latency, field, peer, limit, text in (
            (0.0, 'wall', REDIS, 1.3, 'seconds of a chord of 1,000'),
            (0.0, 'cpu', REDIS, 1.0, 'CPU of a chord of 1,000'),
            (0.01, 'wall', REDIS, 0.5, 'seconds of a chord of 1,000'),
            (0.0, 'wall', CELERYS, 1 / 12, 'seconds of a chord of 1,000')):
        ours, theirs = of(OURS, chord, field, latency), of(peer, chord, field, latency)
        if ours and theirs:
            yield (f'{"reached" if ours <= limit * theirs else "MISSED "}  {text} at '
                   f'{latency * 1000:.0f} ms: {ours:.2f} is {ours / theirs:.3f} of '
                   f"{peer}'s {theirs:.2f}; goal {limit:.3f}")
    for what, limit in zip(POOLED, (1.0, 1.4, 0.84)):
        for latency in (0.0, 0.01):
            dollars = of(OURS, what, 'dollars_per_million', latency)
            if dollars:
                yield (f'{"reached" if dollars <= limit else "MISSED "}  {what} at '
                       f'{latency * 1000:.0f} ms: ${dollars:.2f} per million parts; '
                       f'goal ${limit:.2f}')


# --- command --------------------------------------------------------------------------------------

def draw(rows: list[Row]) -> None:
    latency = max(row['latency'] for row in rows)
    (HERE / 'results.svg').write_text(chart(rows, latency))
    print('\nfor README.rst:\n\n' + summary(rows, latency))
    print('\nfor benchmarks/README.rst:\n\n' + readme_table(rows, latency))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--quick', action='store_true',
                        help='small groups and chords only; writes no files')
    parser.add_argument('--draw', action='store_true',
                        help='measures nothing: the chart and the table of results.json')
    parser.add_argument('--latency', type=float, nargs='*', default=[0.0, 0.01],
                        help='seconds added to each request')
    arguments = parser.parse_args()
    if arguments.draw:
        rows = json.loads((HERE / 'results.json').read_text())['rows']
        print('\n'.join(goals(rows)))
        draw(rows)
        return
    rows = []
    began = time.monotonic()
    names = [OURS, CELERYS, REDIS]
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(dynamodb_local.engine())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if redis_local.is_installed():
            broker = f'redis://127.0.0.1:{stack.enter_context(redis_local.redis_server(folder))}'
        else:
            print(f'without Redis: {redis_local.INSTALL}', file=sys.stderr)
            broker = str(folder)
            names.remove(REDIS)
            Path(folder, 'control').mkdir()
        warm_up(engine.endpoint, 100 if arguments.quick else 4000)
        print(f'{engine.description}; a worker with 8 threads each, if no other is named\n')
        print(f'{"per task:":51}requests   reads  writes   $/mill.   wall s   CPU s  peak MB')
        for latency in arguments.latency:
            print(f'with {latency * 1000:.0f} ms added to each request')
            for name in names:
                place = Place(name, 'threads', broker, folder, latency)
                for row in all_measured(place, engine.endpoint, arguments.quick):
                    rows.append({'backend': name, 'latency': latency, **row})
                    print(show(rows[-1]), flush=True)
    print(f'\nafter {(time.monotonic() - began) / 60:.0f} minutes')
    if not arguments.quick:
        import botocore
        import celery
        about = {
            'date': time.strftime('%Y-%m-%d'), 'python': platform.python_version(),
            'celery': celery.__version__, 'botocore': botocore.__version__,
            'engine': engine.description, 'cores': os.cpu_count(), 'pools': POOLS,
            'dollars per read unit': DOLLARS_PER_READ_UNIT,
            'dollars per write unit': DOLLARS_PER_WRITE_UNIT}
        results = json.dumps({'about': about, 'rows': rows}, indent=1)
        (HERE / 'results.json').write_text(results + '\n')
        print('\n'.join(goals(rows)))
        draw(rows)


if __name__ == '__main__':
    main()
