"""Dyna-Veggie beside Celery's own DynamoDB backend and its Redis backend: the same tasks, on one machine, in one run.

    make bench                      # everything, some fifteen minutes
    make bench ARGS="--quick"       # small groups and chords only

Each backend has a worker of its own (8 threads) and is used by Celery's public interface alone.  The DynamoDB backends speak
through a proxy, in a process of its own, that counts requests and capacity units and adds latency; Redis through a relay that
adds the same.  The broker is a Redis server for all; where none is installed, it is a folder, and that peer is left out.
Writes results.json and results.svg beside this file.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATHS = [str(HERE), str(ROOT), str(ROOT / 'tools'), str(ROOT / 'examples')]
sys.path[:0] = PATHS

# On-demand capacity in us-east-1, https://aws.amazon.com/dynamodb/pricing/on-demand/, as of November 2026
DOLLARS_PER_READ_UNIT, DOLLARS_PER_WRITE_UNIT = 0.125e-6, 0.625e-6
OURS, CELERYS, REDIS = 'Dyna-Veggie', "Celery's DynamoDB", "Celery's Redis"
THREADS = 8
TOO_LONG = 600.0  # seconds

Meter = Callable[[], dict[str, float]]


# --- what stands between a backend and its store ------------------------------------------------------------------

def serve_proxy(endpoint: str, pipe: Any) -> None:
    from proxy import Proxy
    with Proxy(endpoint) as proxy:
        pipe.send(proxy.url)
        while (latency := pipe.recv()) is not None:
            usage = proxy.usage()
            pipe.send({'requests': usage.requests, 'read_units': usage.read_units, 'write_units': usage.write_units})
            proxy.reset()
            proxy.latency = latency


@contextlib.contextmanager
def dynamodb(endpoint: str, latency: float) -> Iterator[tuple[str, Meter]]:
    """A proxy's URL, and what was used since the last call."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context('spawn').Process(target=serve_proxy, args=(endpoint, there), daemon=True)
    process.start()

    def meter() -> dict[str, float]:
        here.send(latency)
        return here.recv()
    try:
        yield here.recv(), meter
    finally:
        here.send(None)
        process.join(10)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def serve_relay(port: int, upstream: int, latency: float) -> None:
    async def pass_on(reader: Any, writer: Any, delay: float) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                await asyncio.sleep(delay)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: Any, writer: Any) -> None:
        there = await asyncio.open_connection('127.0.0.1', upstream, limit=1 << 22)
        await asyncio.gather(pass_on(reader, there[1], latency), pass_on(there[0], writer, 0))

    async def serve() -> None:
        await (await asyncio.start_server(relay, '127.0.0.1', port, limit=1 << 22)).serve_forever()
    asyncio.run(serve())


@contextlib.contextmanager
def redis_server(folder: str) -> Iterator[int]:
    port = free_port()
    server = subprocess.Popen(['redis-server', '--port', str(port), '--save', '', '--dir', folder], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port)):
                break
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def redis_backend(folder: str, latency: float) -> Iterator[tuple[str, Meter]]:
    import redis
    with redis_server(folder) as port:
        url, relay = f'redis://127.0.0.1:{port}', None
        if latency:
            between = free_port()
            relay = multiprocessing.get_context('spawn').Process(target=serve_relay, args=(between, port, latency), daemon=True)
            relay.start()
            time.sleep(1)
            url = f'redis://127.0.0.1:{between}'
        client, seen = redis.Redis(port=port), [0]

        def meter() -> dict[str, float]:
            before, seen[0] = seen[0], client.info('stats')['total_commands_processed']
            return {'requests': seen[0] - before - 1}
        try:
            yield url, meter
        finally:
            if relay:
                relay.terminate()


# --- a worker, and what it takes -----------------------------------------------------------------------------------

class Worker:
    def __init__(self, broker: str, url: str, log: Path) -> None:
        environ = {**os.environ, 'BROKER': broker, 'RESULT_BACKEND': url, 'AWS_ACCESS_KEY_ID': 'local', 'AWS_SECRET_ACCESS_KEY': 'local',
                   'AWS_EC2_METADATA_DISABLED': 'true', 'PYTHONPATH': os.pathsep.join(PATHS)}
        os.environ.update({name: environ[name] for name in environ if name.startswith('AWS_') or name in ('BROKER', 'RESULT_BACKEND')})
        self.log = log
        with log.open('w') as file:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'celery', '-A', 'bench_tasks', 'worker', '--pool', 'threads', '--concurrency', str(THREADS),
                 '--without-gossip', '--without-mingle', '--without-heartbeat', '-l', 'WARNING'],
                env=environ, stdout=file, stderr=subprocess.STDOUT)

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


# --- the work ------------------------------------------------------------------------------------------------------

def scenarios(name: str, quick: bool) -> Iterator[tuple[str, int, Callable[[Any], Any]]]:
    """What is measured, how many tasks that is, and how it is run with the module of the tasks."""
    from celery import chord, group

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
        assert len(tasks.megabyte.delay().get(timeout=10 if name == CELERYS else TOO_LONG)) == 2**20

    yield '200 single tasks', 200, singles
    yield '30 tasks of 10 ms, one by one', 30, late
    for size in (100,) if quick else (100, 1000):
        yield f'a group of {size:,}', size, grouped(size)
        yield f'a chord of {size:,}', size, joined(size)
    if name == OURS and not quick:
        yield 'a chord of 10,000', 10_000, joined(10_000)
    yield 'a result of 1 MB', 1, large


def measure(name: str, url: str, meter: Meter, broker: str, latency: float, folder: Path, quick: bool) -> Iterator[dict[str, Any]]:
    worker = Worker(broker, url, folder / f'{uuid.uuid4().hex}.log')
    sys.modules.pop('bench_tasks', None)
    import bench_tasks as tasks
    try:
        tasks.part.delay(0).get(timeout=120)
        for what, count, run in scenarios(name, quick):
            meter()
            worker.forget_peak()
            cpu, began = worker.cpu() + time.process_time(), time.monotonic()
            row: dict[str, Any] = {'backend': name, 'latency': latency, 'what': what, 'tasks': count}
            try:
                row.update(run(tasks) or {})
            except Exception as exc:
                row['failed'] = f'{type(exc).__name__}: {exc}'[:200]
            row.update(wall=time.monotonic() - began, cpu=worker.cpu() + time.process_time() - cpu, peak_mb=worker.peak())
            time.sleep(0.3)  # what the worker does after the result is there is its cost, too
            row.update(meter())
            if 'write_units' in row:
                row['dollars_per_million'] = 1e6 / count * (
                    row['read_units'] * DOLLARS_PER_READ_UNIT + row['write_units'] * DOLLARS_PER_WRITE_UNIT)
            yield row
    finally:
        worker.stop()
        tasks.app.close()


def show(row: dict[str, Any]) -> str:
    if 'failed' in row:
        return f'  {row["what"]:30} {row["backend"]:18} failed: {row["failed"][:70]}'
    units = f'{row["read_units"] / row["tasks"]:7.2f} {row["write_units"] / row["tasks"]:7.2f} {row["dollars_per_million"]:8.2f}' \
        if 'write_units' in row else f'{"":24}'
    seen = f'   seen after {row["seen_after"] * 1000:.0f} ms' if 'seen_after' in row else ''
    return (f'  {row["what"]:30} {row["backend"]:18} {row["requests"] / row["tasks"]:8.2f} {units} {row["wall"]:8.2f} {row["cpu"]:7.2f} '
            f'{row["peak_mb"]:6.0f}{seen}')


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib
    matplotlib.use('svg')
    matplotlib.rcParams.update({'svg.hashsalt': 'bench', 'font.size': 9})
    from matplotlib import pyplot

    panels = [('a chord of 1,000', 'wall', 1, 's, a chord of 1,000'),
              ('30 tasks of 10 ms, one by one', 'seen_after', 1000, 'ms until get() sees a result'),
              ('a chord of 1,000', 'requests', 1e-3, 'requests per part of a chord of 1,000'),
              ('a chord of 1,000', 'dollars_per_million', 1, '$ per million parts of such chords')]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 2.6), layout='constrained')
    for axis, (what, field, factor, label) in zip(axes, panels):
        chosen = [row for row in rows if row['what'] == what and row['latency']]
        bars = axis.barh([row['backend'] for row in chosen], [row.get(field, 0) * factor for row in chosen],
                         color=['#2a7f4f' if row['backend'] == OURS else '#b0b0b0' for row in chosen])
        axis.bar_label(bars, [f'{row[field] * factor:.3g}' if field in row else 'no such price' for row in chosen], padding=2)
        axis.set_xlabel(label)
        axis.margins(x=0.25)
        axis.invert_yaxis()
        axis.spines[['top', 'right']].set_visible(False)
        if axis is not axes[0]:
            axis.set_yticks([])
    figure.savefig(path, metadata={'Date': None})


#: what the README shows: scenario, field, what it is multiplied by, how it is written, heading
SHOWN = [
    ('200 single tasks', 'requests', None, '{:.1f}', 'requests to store a result and get it'),
    ('30 tasks of 10 ms, one by one', 'seen_after', 1000, '{:.0f} ms', 'a result is seen by ``get()`` after (median)'),
    ('a group of 1,000', 'wall', 1, '{:.1f} s', 'a group of 1,000'),
    ('a chord of 1,000', 'wall', 1, '{:.1f} s', 'a chord of 1,000'),
    ('a chord of 1,000', 'requests', None, '{:.1f}', 'requests per part of it'),
    ('a chord of 1,000', 'dollars_per_million', 1, '{:.2f}', 'US dollars per million such parts, on demand'),
    ('a chord of 1,000', 'cpu', 1, '{:.1f} s', 'CPU of worker and client for it'),
    ('a chord of 1,000', 'peak_mb', 1, '{:.0f} MB', 'peak memory of the worker'),
    ('a chord of 10,000', 'wall', 1, '{:.0f} s', 'a chord of 10,000'),
    ('a result of 1 MB', 'wall', 1, '{:.1f} s', 'a result of 1 MB'),
]


def readme_table(rows: list[dict[str, Any]], latency: float) -> str:
    """What the README shows of the results, as a table in reStructuredText."""
    lines = ['.. list-table::', '   :header-rows: 1', '']
    lines += [f'   {mark} - {text}'.rstrip() for mark, text in zip('*   ', ['', OURS, CELERYS, REDIS])]
    for what, field, factor, form, heading in SHOWN:
        cells = []
        for backend in (OURS, CELERYS, REDIS):
            row = next((row for row in rows if (row['backend'], row['what'], row['latency']) == (backend, what, latency)), {})
            cells.append('fails' if 'failed' in row else form.format(row[field] * (factor or 1 / row['tasks'])) if field in row else '')
        lines += [f'   {mark} - {text}'.rstrip() for mark, text in zip('*   ', [heading, *cells])]
    return '\n'.join(lines) + '\n'


def goals(rows: list[dict[str, Any]]) -> Iterator[str]:
    def of(backend: str, what: str, field: str, latency: float) -> float | None:
        return next((row[field] for row in rows if (row['backend'], row['what'], row['latency']) == (backend, what, latency)
                     and field in row and 'failed' not in row), None)
    for latency in sorted({row['latency'] for row in rows}):
        for what, field, peer, text in (
                ('a chord of 1,000', 'wall', CELERYS, 'chord of 1,000: times faster than'),
                ('a chord of 1,000', 'wall', REDIS, 'chord of 1,000: of the speed of'),
                ('200 single tasks', 'requests', CELERYS, 'requests of single tasks: times fewer than'),
                ('30 tasks of 10 ms, one by one', 'seen_after', CELERYS, 'get() sees a result: times sooner than')):
            ours, theirs = of(OURS, what, field, latency), of(peer, what, field, latency)
            if ours and theirs:
                yield f'{latency * 1000:3.0f} ms  {text} {peer}: {theirs / ours:.2f}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--quick', action='store_true', help='small groups and chords only; writes no files')
    parser.add_argument('--latency', type=float, nargs='*', default=[0.0, 0.01], help='seconds added to each request')
    arguments = parser.parse_args()
    import dynamodb_local
    rows: list[dict[str, Any]] = []
    names = [OURS, CELERYS, REDIS]
    with contextlib.ExitStack() as stack:
        engine, folder = stack.enter_context(dynamodb_local.engine()), stack.enter_context(tempfile.TemporaryDirectory())
        if shutil.which('redis-server'):
            broker = f'redis://127.0.0.1:{stack.enter_context(redis_server(folder))}'
        else:
            print('without Redis, since no redis-server is here (on Debian: apt install redis-server)', file=sys.stderr)
            broker = folder
            names.remove(REDIS)
            Path(folder, 'control').mkdir()
        print(f'{engine.description}; a worker with {THREADS} threads each\n\n{"per task:":51}requests   reads  writes   $/mill.   '
              'wall s   CPU s  peak MB')
        for latency in arguments.latency:
            print(f'with {latency * 1000:.0f} ms added to each request')
            for name in names:
                made = redis_backend(folder, latency) if name == REDIS else dynamodb(engine.endpoint, latency)
                with made as (url, meter):
                    table = f'bench-{uuid.uuid4().hex}'
                    backend = {OURS: f'dyna_veggie.DynamoDBBackend+dynamodb://local/{table}?endpoint_url={quote(url, safe="")}',
                               CELERYS: f'celery.backends.dynamodb.DynamoDBBackend+dynamodb://@{url.partition("//")[2]}/{table}',
                               REDIS: url}[name]
                    for row in measure(name, backend, meter, broker, latency, Path(folder), arguments.quick):
                        rows.append(row)
                        print(show(row), flush=True)
    print('\n' + '\n'.join(goals(rows)))
    if not arguments.quick:
        import botocore
        import celery
        about = {'date': time.strftime('%Y-%m-%d'), 'python': platform.python_version(), 'celery': celery.__version__,
                 'botocore': botocore.__version__, 'cores': os.cpu_count(), 'threads': THREADS,
                 'dollars per read unit': DOLLARS_PER_READ_UNIT, 'dollars per write unit': DOLLARS_PER_WRITE_UNIT}
        (HERE / 'results.json').write_text(json.dumps({'about': about, 'rows': rows}, indent=1) + '\n')
        chart(rows, HERE / 'results.svg')
        print('\nfor README.rst:\n\n' + readme_table(rows, max(arguments.latency)))


if __name__ == '__main__':
    main()
