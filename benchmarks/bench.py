"""Compares Dyna-Veggie with Celery's own DynamoDB and Redis backends: the same tasks in one run.

    make bench                      # everything, some twenty minutes
    make bench ARGS="--quick"       # small groups and chords only

Each backend has a worker of its own (8 threads) and is used by Celery's public interface alone.
Time, CPU and memory are the medians of three rounds, with nothing between a backend and its store
but a relay that adds latency, the same for all.  Requests and capacity units are counted in a round
before these, through tools/proxy.py.  The engine is warmed up first: DynamoDB Local is a Java
program, three times as slow when it is new.  The broker is a Redis server for all; if none is
installed, it is a folder, and that peer is left out.  Writes results.json and results.svg beside
this file.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATHS = [str(HERE), str(ROOT), str(ROOT / 'tools'), str(ROOT / 'examples')]
sys.path[:0] = PATHS

import dynamodb_local  # noqa: E402
import redis_local  # noqa: E402

# on-demand capacity in us-east-1, as of November 2026:
# https://aws.amazon.com/dynamodb/pricing/on-demand/
DOLLARS_PER_READ_UNIT, DOLLARS_PER_WRITE_UNIT = 0.125e-6, 0.625e-6
OURS, CELERYS, REDIS = 'Dyna-Veggie', "Celery's DynamoDB", "Celery's Redis"
THREADS = 8
ROUNDS = 3
TOO_LONG = 600.0  # seconds

Meter = Callable[[], dict[str, float]]


# --- what stands between a backend and its store --------------------------------------------------

def serve_proxy(endpoint: str, pipe: Any) -> None:
    from proxy import Proxy
    with Proxy(endpoint) as proxy:
        pipe.send(proxy.url)
        while (latency := pipe.recv()) is not None:
            usage = proxy.usage()
            pipe.send({'requests': usage.requests, 'read_units': usage.read_units,
                       'write_units': usage.write_units})
            proxy.reset()
            proxy.latency = latency


@contextlib.contextmanager
def dynamodb(endpoint: str, latency: float) -> Iterator[tuple[str, Meter]]:
    """A proxy's URL, and what was used since the last call."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context('spawn').Process(
        target=serve_proxy, args=(endpoint, there), daemon=True)
    process.start()

    def meter() -> dict[str, float]:
        here.send(latency)
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

        def meter() -> dict[str, float]:
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
    def __init__(self, broker: str, url: str, log: Path) -> None:
        # this process uses them too, when it imports the tasks
        os.environ.update({
            'BROKER': broker, 'RESULT_BACKEND': url, 'AWS_ACCESS_KEY_ID': 'local',
            'AWS_SECRET_ACCESS_KEY': 'local', 'AWS_EC2_METADATA_DISABLED': 'true'})
        command = [
            sys.executable, '-m', 'celery', '-A', 'bench_tasks', 'worker',
            '--pool', 'threads', '--concurrency', str(THREADS),
            '--without-gossip', '--without-mingle', '--without-heartbeat', '-l', 'WARNING']
        environ = {**os.environ, 'PYTHONPATH': os.pathsep.join(PATHS)}
        self.log = log
        with log.open('w') as file:
            self.process = subprocess.Popen(
                command, env=environ, stdout=file, stderr=subprocess.STDOUT)

    def cpu(self) -> float:
        fields = Path(f'/proc/{self.process.pid}/stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def forget_peak(self) -> None:
        with contextlib.suppress(OSError):
            Path(f'/proc/{self.process.pid}/clear_refs').write_text('5')

    def peak(self) -> float:
        status = Path(f'/proc/{self.process.pid}/status').read_text()
        return int(status.partition('VmHWM:')[2].split()[0]) / 1024

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
    stored: nobody waits for the results.
    """

    what: str
    tasks: int
    run: Callable[[Any], dict[str, float] | None]
    rounds: int = ROUNDS
    stored: bool = False


def scenarios(name: str, quick: bool) -> Iterator[Scenario]:
    from celery import chord, group

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

    def joined(size: int) -> Callable[[Any], None]:
        def run(tasks: Any) -> None:
            result = chord([tasks.part.s(number) for number in range(size)])(tasks.total.s())
            assert result.get(timeout=TOO_LONG) == [size, sum(range(size))]
        return run

    def grouped(size: int) -> Callable[[Any], None]:
        def run(tasks: Any) -> None:
            result = group(tasks.part.s(number) for number in range(size))()
            assert result.get(timeout=TOO_LONG) == list(range(size))
        return run

    def large(tasks: Any) -> None:
        # Celery's own cannot store it, and whoever waits is not told
        timeout = 10 if name == CELERYS else TOO_LONG
        assert len(tasks.megabyte.delay().get(timeout=timeout)) == 2**20

    yield Scenario('200 tasks, nobody waits', 200, stored, stored=True)
    yield Scenario('200 single tasks', 200, singles)
    yield Scenario('30 tasks of 10 ms, one by one', 30, late, rounds=1)
    for size in (100,) if quick else (100, 1000):
        yield Scenario(f'a group of {size:,}', size, grouped(size))
        yield Scenario(f'a chord of {size:,}', size, joined(size))
    if name == OURS and not quick:
        yield Scenario('a chord of 10,000', 10_000, joined(10_000), rounds=1)
    yield Scenario('a result of 1 MB', 1, large)


Row = dict[str, Any]


def settled(meter: Meter) -> dict[str, float]:
    """What was used since the last call, and until no more is.

    What follows after a result has come is part of its cost.
    """
    used: Counter[str] = Counter()
    for _ in range(20):
        time.sleep(0.5)
        more = meter()
        used.update(more)
        if not more['requests']:
            break
    return dict(used)


def measured(name: str, url: str, broker: str, folder: Path, quick: bool, rounds: int = ROUNDS,
             meter: Meter | None = None) -> Iterator[Row]:
    """Runs all scenarios in a worker of their own; yields the medians of their rounds."""
    worker = Worker(broker, url, folder / f'{uuid.uuid4().hex}.log')
    sys.modules.pop('bench_tasks', None)
    import bench_tasks as tasks

    def settle() -> dict[str, float]:
        if meter:
            return settled(meter)
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
        row.update(settle())
        row.update(cpu=worker.cpu() + time.process_time() - cpu, peak_mb=worker.peak())
        return row

    try:
        tasks.part.delay(0).get(timeout=120)
        settle()
        for scenario in scenarios(name, quick):
            rows: list[Row] = []
            while len(rows) < min(rounds, scenario.rounds) and not (rows and 'failed' in rows[-1]):
                rows.append(once(scenario))
            row = rows[-1]
            if 'failed' not in row:
                row = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            if scenario.stored:
                row.pop('wall', None)    # of the sending alone
            yield {'what': scenario.what, 'tasks': scenario.tasks, **row}
    finally:
        worker.stop()
        tasks.app.close()


def measured_on_dynamodb(
        name: str, engine: str, latency: float, broker: str, folder: Path,
        quick: bool) -> Iterator[Row]:
    """What is counted comes from a pass through the proxy; what is timed, from one without it."""
    table = f'bench-{uuid.uuid4().hex}'

    def url(host: str) -> str:
        if name == OURS:
            return f'dyna_veggie.DynamoDBBackend+dynamodb://{host}/{table}'
        return f'celery.backends.dynamodb.DynamoDBBackend+dynamodb://@{host}/{table}'
    with dynamodb(engine, latency) as (proxy, meter):
        through_proxy = url(proxy.partition('//')[2])
        counted = list(measured(name, through_proxy, broker, folder, quick, 1, meter))
    with relayed(int(engine.rpartition(':')[2]), latency) as port:
        timed_rows = measured(name, url(f'127.0.0.1:{port}'), broker, folder, quick)
        for row, timed in zip(counted, timed_rows):
            for field in ('requests', 'read_units', 'write_units'):
                if field in row:
                    timed[field] = row[field]
            if 'write_units' in row:
                dollars = (row['read_units'] * DOLLARS_PER_READ_UNIT
                           + row['write_units'] * DOLLARS_PER_WRITE_UNIT)
                timed['dollars_per_million'] = 1e6 / row['tasks'] * dollars
            yield timed


def show(row: Row) -> str:
    if 'failed' in row:
        return f'  {row["what"]:30} {row["backend"]:18} failed: {row["failed"][:70]}'

    def shown(field: str, form: str, divisor: float = 1) -> str:
        if field in row:
            return format(row[field] / divisor, form)
        return ' ' * int(form.partition('.')[0])
    tasks = row['tasks']
    seen = f'   seen after {row["seen_after"] * 1000:.0f} ms' if 'seen_after' in row else ''
    return ' '.join([
        f'  {row["what"]:30} {row["backend"]:18}',
        shown('requests', '8.2f', tasks), shown('read_units', '7.2f', tasks),
        shown('write_units', '7.2f', tasks), shown('dollars_per_million', '8.2f'),
        shown('wall', '8.2f'), shown('cpu', '7.2f'), shown('peak_mb', '6.0f')]) + seen


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib
    matplotlib.use('svg')
    matplotlib.rcParams.update({'svg.hashsalt': 'bench', 'font.size': 9})
    from matplotlib import pyplot

    panels = [('a chord of 1,000', 'wall', 1, 'seconds for a chord of 1,000'),
              ('30 tasks of 10 ms, one by one', 'seen_after', 1000, 'ms until get() returns'),
              ('a chord of 1,000', 'requests', 1e-3, 'requests per part of a chord of 1,000'),
              ('a chord of 1,000', 'dollars_per_million', 1, '$ per million parts of such chords')]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 2.8), layout='constrained')
    for axis, (what, field, factor, label) in zip(axes, panels):
        chosen = [row for row in rows if row['what'] == what and row['latency']]
        lengths = [row.get(field, 0) * factor for row in chosen]
        labels = [f'{row[field] * factor:.3g}' if field in row else 'no such price'
                  for row in chosen]
        colours = ['#2a7f4f' if row['backend'] == OURS else '#b0b0b0' for row in chosen]
        bars = axis.barh([row['backend'] for row in chosen], lengths, color=colours)
        axis.bar_label(bars, labels, padding=2)
        axis.set_xlabel(label)
        axis.margins(x=0.25)
        axis.invert_yaxis()
        axis.spines[['top', 'right']].set_visible(False)
        if axis is not axes[0]:
            axis.set_yticks([])
    figure.suptitle('Less is better; 10 ms of latency added to each request',
                    fontsize=9, color='#606060')
    figure.savefig(path, metadata={'Date': None})


#: what the README shows: scenario, field, what it is multiplied by, how it is written, heading
SHOWN = [
    ('200 tasks, nobody waits', 'requests', None, '{:.1f}', 'requests to store a result'),
    ('200 single tasks', 'requests', None, '{:.1f}', 'requests to store a result and get it'),
    ('30 tasks of 10 ms, one by one', 'seen_after', 1000, '{:.0f} ms',
     'a result is seen by ``get()`` after (median)'),
    ('200 single tasks', 'wall', 1, '{:.1f} s', '200 single tasks, sent and then waited for'),
    ('a group of 1,000', 'wall', 1, '{:.1f} s', 'a group of 1,000'),
    ('a chord of 1,000', 'wall', 1, '{:.1f} s', 'a chord of 1,000'),
    ('a chord of 1,000', 'requests', None, '{:.1f}', 'requests per part of it'),
    ('a chord of 1,000', 'dollars_per_million', 1, '{:.2f}',
     'US dollars per million such parts, on demand'),
    ('a chord of 1,000', 'cpu', 1, '{:.1f} s', 'CPU of worker and client for it'),
    ('a chord of 1,000', 'peak_mb', 1, '{:.0f} MB', 'peak memory of the worker'),
    ('a chord of 10,000', 'wall', 1, '{:.0f} s', 'a chord of 10,000'),
    ('a result of 1 MB', 'wall', 1, '{:.1f} s', 'a result of 1 MB'),
]


def row_of(
        rows: list[dict[str, Any]], backend: str, what: str, latency: float) -> dict[str, Any]:
    """What was measured, or an empty row."""
    wanted = (backend, what, latency)
    for row in rows:
        if (row['backend'], row['what'], row['latency']) == wanted:
            return row
    return {}


def readme_table(rows: list[dict[str, Any]], latency: float) -> str:
    """What the README shows of the results, as a table in reStructuredText."""
    def lines_of_row(cells: list[str]) -> list[str]:
        return [f'   {mark} - {text}'.rstrip() for mark, text in zip('*   ', cells)]

    lines = ['.. list-table::', '   :header-rows: 1', '']
    lines += lines_of_row(['', OURS, CELERYS, REDIS])
    for what, field, factor, form, heading in SHOWN:
        cells = [heading]
        for backend in (OURS, CELERYS, REDIS):
            row = row_of(rows, backend, what, latency)
            if 'failed' in row:
                cells.append('fails')
            elif field in row:
                cells.append(form.format(row[field] * (factor or 1 / row['tasks'])))
            else:
                cells.append('n/a')
        lines += lines_of_row(cells)
    return '\n'.join(lines) + '\n'


def goals(rows: list[dict[str, Any]]) -> Iterator[str]:
    def of(backend: str, what: str, field: str, latency: float) -> float | None:
        row = row_of(rows, backend, what, latency)
        return None if 'failed' in row else row.get(field)
    for latency in sorted({row['latency'] for row in rows}):
        for what, field, peer, text in (
                ('a chord of 1,000', 'wall', CELERYS, 'chord of 1,000: times faster than'),
                ('a chord of 1,000', 'wall', REDIS, 'chord of 1,000: of the speed of'),
                ('200 tasks, nobody waits', 'requests', CELERYS,
                 'requests to store a result: times fewer than'),
                ('30 tasks of 10 ms, one by one', 'seen_after', CELERYS,
                 'get() sees a result: times sooner than')):
            ours, theirs = of(OURS, what, field, latency), of(peer, what, field, latency)
            if ours and theirs:
                yield f'{latency * 1000:3.0f} ms  {text} {peer}: {theirs / ours:.2f}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--quick', action='store_true',
                        help='small groups and chords only; writes no files')
    parser.add_argument('--latency', type=float, nargs='*', default=[0.0, 0.01],
                        help='seconds added to each request')
    arguments = parser.parse_args()
    rows: list[Row] = []
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
        print(f'{engine.description}; a worker with {THREADS} threads each\n')
        print(f'{"per task:":51}requests   reads  writes   $/mill.   wall s   CPU s  peak MB')
        for latency in arguments.latency:
            print(f'with {latency * 1000:.0f} ms added to each request')
            for name in names:
                with contextlib.ExitStack() as peer:
                    if name == REDIS:
                        url, meter = peer.enter_context(redis_backend(folder, latency))
                        found = measured(name, url, broker, folder, arguments.quick, meter=meter)
                    else:
                        found = measured_on_dynamodb(
                            name, engine.endpoint, latency, broker, folder, arguments.quick)
                    for row in found:
                        rows.append({'backend': name, 'latency': latency, **row})
                        print(show(rows[-1]), flush=True)
    print('\n' + '\n'.join(goals(rows)))
    if not arguments.quick:
        import botocore
        import celery
        about = {
            'date': time.strftime('%Y-%m-%d'), 'python': platform.python_version(),
            'celery': celery.__version__, 'botocore': botocore.__version__,
            'cores': os.cpu_count(), 'threads': THREADS,
            'dollars per read unit': DOLLARS_PER_READ_UNIT,
            'dollars per write unit': DOLLARS_PER_WRITE_UNIT}
        results = json.dumps({'about': about, 'rows': rows}, indent=1)
        (HERE / 'results.json').write_text(results + '\n')
        chart(rows, HERE / 'results.svg')
        print('\nfor README.rst:\n\n' + readme_table(rows, max(arguments.latency)))


if __name__ == '__main__':
    main()
