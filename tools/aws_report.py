"""Settles that Dyna-Veggie runs on AWS itself: `make test-aws`.

    make test-aws ARGS="--region eu-west-1 --report report.md"

It says what it will do and what that costs, asks, creates a table, sends every kind of request that
the module sends, runs chords with real workers over a broker in a folder, compares what that
consumed with the README's cost table and how long it took with the bench, deletes the table, and
prints a report to attach to an issue: without account number, ARN or keys.

The table is deleted however this ends, unless by SIGKILL.  So the trial runs in a thread that no
signal reaches; the main thread waits for its end or for a signal, and then deletes the table.  A
worker that is still there cannot create it again: only this process may, once.
"""
from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import logging
import math
import os
import platform
import re
import secrets
import shutil
import signal
import statistics
import string
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), *(str(ROOT / each) for each in ('tools', 'examples', 'benchmarks'))]
sys.path[:0] = PATHS

import botocore  # noqa: E402
import celery  # noqa: E402
from botocore.exceptions import BotoCoreError, ClientError  # noqa: E402
from celery import chord, states  # noqa: E402
from celery.exceptions import ImproperlyConfigured  # noqa: E402

import dyna_veggie as dv  # noqa: E402
import metering  # noqa: E402
from bench import DOLLARS_PER_READ_UNIT, DOLLARS_PER_WRITE_UNIT, POOLS  # noqa: E402

PRICES = ('list prices on demand in us-east-1, November 2026, '
          'https://aws.amazon.com/dynamodb/pricing/on-demand/; other regions differ')
MOST = 0.05             # dollars that a run may cost
PREFIX = 'dyna-veggie-test-'
TAGS = {'purpose': 'make test-aws of dyna-veggie', 'delete': 'at any time'}
LARGE = 2 * 2**20       # bytes of the large value: a batch reads at most 1 MB of a partition
TIMEOUT = 300.0         # seconds for a chord, and for a worker to start
DELETION = 120.0        # seconds until the table is gone
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Units = dict[str, float]    # 'requests', 'read units', 'write units'


# --- nothing secret -------------------------------------------------------------------------------

@dataclass
class Scrubber:
    """Masks secrets and identities in a text."""

    secrets: set[str] = field(default_factory=set)

    patterns = (
        ('arn', re.compile(r'arn:aws[\w-]*:[\w-]+:[\w-]*:\d+:[^\s"\'`,;)|]*')),
        ('access key', re.compile(r'\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{8,}')),
        ('account', re.compile(r'(?<!\d)(?:\d{12}|\d{4}-\d{4}-\d{4})(?!\d)')))

    def learn(self, session: Any) -> None:
        """The keys of a botocore session, which may be renewed later."""
        with contextlib.suppress(BotoCoreError, ClientError):
            found = session.get_credentials()
            keys = found.get_frozen_credentials() if found else ()
            self.secrets |= {key for key in keys if isinstance(key, str) and len(key) > 3}

    def scrub(self, text: str) -> str:
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, '<key>')
        for name, pattern in self.patterns:
            text = pattern.sub(f'<{name}>', text)
        home = str(Path.home())
        return text.replace(home, '~') if len(home) > 3 else text

    def leaks(self, text: str) -> list[str]:
        """Names of what should not be in a text."""
        found = [name for name, pattern in self.patterns if pattern.search(text)]
        return found + ['credentials'] * any(secret in text for secret in self.secrets)


SCRUBBER = Scrubber()


def say(text: str = '', end: str = '\n') -> None:
    """To a person; the report alone goes to the standard output."""
    print(SCRUBBER.scrub(text), file=sys.stderr, flush=True, end=end)


# --- what the README says -------------------------------------------------------------------------

def cost_table(readme: str) -> dict[str, list[str]]:
    """The rows of the table of costs: the cells of each operation.

    readme: that of the benchmarks."""
    section = readme.partition('\nCosts\n-----\n')[2].partition('\n----')[0]
    row = re.compile(r'   \* - (.+)\n     - (.+)\n     - (.+)\n     - (.+)\n')
    return {operation: cells for operation, *cells in row.findall(section)}


def bound(cell: str, number: int) -> tuple[float, bool]:
    """What a cell says of so many (N, or each), and whether that is only the most."""
    most = cell.startswith('at most ')
    amount = cell.removeprefix('at most ')
    first = amount.split()[0].replace(',', '')
    if first.startswith('N'):
        return math.ceil(number / int(first[2:] or 1)), most
    return float(first) * (number if 'each' in amount else 1), most


#: the rows that are measured, by the names used here
ROWS = {
    'store': 'store one state or result',
    'insert': 'the same, up to 25 concurrently by threads of a process',
    'read': 'read one state',
    'read part': 'the same, of a finished task of a chord of up to 8,000',
    'read group': 'read a group of N, all ready',
    'forget group': 'delete a group of N (``forget()``)',
    'chord of 3': "a chord of 3 tasks, to its body's result",
    'chord, prefork': "a chord of 1,000 tasks, to its body's result (prefork)",
    'chord, threads': 'a chord of 1,000 tasks, until its body is called '
                      '(8 threads in a process, 10 ms a request)',
}
COSTS = cost_table((ROOT / 'benchmarks' / 'README.rst').read_text('utf-8'))
COLUMNS = ('requests', 'read units', 'write units')


@dataclass(frozen=True)
class Cost:
    """What an operation consumed, beside what the README says."""

    what: str
    used: Units
    said: Units                 # nothing of a column that is not compared
    most: tuple[str, ...]       # columns of which the README says no more than a limit

    @property
    def exceeded(self) -> list[str]:
        return [name for name, said in self.said.items() if self.used[name] > said]

    def cell(self, name: str) -> str:
        used = f'{self.used[name]:,g}'
        if name not in self.said:
            return used
        said = f'{"≤ " if name in self.most else ""}{self.said[name]:,g}'
        return f'{used} ({said}{", MORE" if name in self.exceeded else ""})'


def said_of(row: str, number: int = 1, times: int = 1) -> tuple[Units, tuple[str, ...]]:
    """What the README says of an operation that is done so many times."""
    cells = [bound(cell, number) for cell in COSTS[ROWS[row]]]
    said = {name: times * amount for name, (amount, _) in zip(COLUMNS, cells)}
    return said, tuple(name for name, (_, most) in zip(COLUMNS, cells) if most)


def said_of_chord(row: str, parts: int) -> tuple[Units, tuple[str, ...]]:
    """Of a chord of another size than 1,000: in proportion, with what three tasks take on top."""
    said, most = said_of(row)
    if parts != 1000:
        few, _ = said_of('chord of 3')
        said = {name: math.ceil(said[name] * parts / 1000 + few[name]) for name in COLUMNS}
    return said, most


def added(requests: Iterable[metering.Metered]) -> Units:
    used: Units = dict.fromkeys(COLUMNS, 0)
    for each in requests:
        used['requests'] += 1
        used['read units'] += each.read_units
        used['write units'] += each.write_units + each.computed
    return used


def dollars(used: Units) -> float:
    return (used['read units'] * DOLLARS_PER_READ_UNIT
            + used['write units'] * DOLLARS_PER_WRITE_UNIT)


# --- the table ------------------------------------------------------------------------------------

class NotDeleted(Exception):
    """The table stays."""


class TestTable:
    """The table, from before its creation to after its deletion."""

    def __init__(self, region: str, endpoint_url: str | None) -> None:
        self.region, self.endpoint_url = region, endpoint_url
        # of letters: twelve digits would be taken for an account number
        self.name = PREFIX + ''.join(secrets.choice(string.ascii_lowercase) for _ in range(12))
        self.may_exist = False
        self.stopped = False
        self.lock = threading.Lock()    # held while it is created, and while a worker is started

    def url(self, **more: Any) -> str:
        query = {'billing_mode': 'on_demand', 'create_table': 'false', 'retry_timeout': 60, **more}
        if self.endpoint_url:
            query['endpoint_url'] = self.endpoint_url
        pairs = '&'.join(f'{name}={quote(str(value), safe="")}' for name, value in query.items())
        return (f'dyna_veggie.DynamoDBBackend+dynamodb://{quote(self.region, safe="")}/{self.name}'
                f'?{pairs}')

    def options(self, **more: Any) -> dv.Options:
        app = celery.Celery('test-aws', set_as_current=False)
        parsed = dv.parse_options(self.url().partition('+')[2], app.conf)
        return replace(parsed, **more)

    def can_be_deleted(self) -> None:
        """Asks to delete it before it is there: who may not do that should not create it."""
        dv.Client(self.options(retry_timeout=3)).send(
            'delete_table', {'TableName': self.name}, unless='ResourceNotFoundException')

    def create(self) -> None:
        with self.lock:
            if self.stopped:
                return
            self.may_exist = True
            dv.Table(self.options(create_table=True, tags=tuple(TAGS.items()))).bootstrap()

    @property
    def command(self) -> str:
        endpoint = f' --endpoint-url {self.endpoint_url}' if self.endpoint_url else ''
        return (f'aws dynamodb delete-table --region {self.region} '
                f'--table-name {self.name}{endpoint}')

    def delete(self) -> bool:
        """Returns once it is gone, or going: whether it was there.  Raises NotDeleted."""
        client, end = dv.Client(self.options()), time.monotonic() + DELETION
        accepted = False
        while self.may_exist:
            try:
                client.send('delete_table', {'TableName': self.name})
                accepted = True
            except ClientError as exc:
                code = dv.error_code(exc)
                if code == 'ResourceNotFoundException':
                    break
                if code != 'ResourceInUseException':    # it is being created, or deleted
                    raise NotDeleted(dv.summary(exc)) from exc
                if time.monotonic() > end:
                    if accepted:
                        break
                    raise NotDeleted(dv.summary(exc)) from exc
            except dv.FAILURES as exc:
                raise NotDeleted(dv.summary(exc)) from exc
            time.sleep(0.5)
        return accepted


# --- the trial ------------------------------------------------------------------------------------

class Failed(Exception):
    """Something was not as it should be."""


def expect(condition: Any, text: str) -> None:
    if not condition:
        raise Failed(text)


@dataclass
class Worker:
    """A Celery worker of the bench's tasks, over the broker in a folder."""

    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        if self.process.poll() is not None:
            raise Failed(f'the worker ended with exit code {self.process.returncode}')

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            # what is left of it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Outcome:
    what: str
    error: str          # '' if all was well
    seconds: float


class Trial:
    """What is tried, step by step, and what was found."""

    def __init__(self, table: TestTable, folder: Path, only: Iterable[str], parts: int,
                 prefork_parts: int) -> None:
        self.table, self.folder, self.only = table, folder, set(only)
        self.parts, self.prefork_parts = parts, prefork_parts
        self.meter = folder / 'meter'
        self.outcomes: list[Outcome] = []
        self.costs: list[Cost] = []
        self.latencies: list[tuple[str, str, str]] = []
        self.logged: list[str] = []
        self.exceeded: list[str] = []   # by the step that runs
        self.worker: Worker | None = None

    # helpers

    @property
    def store(self) -> dv.BlobStore:
        return self.app.backend.store

    @property
    def items(self) -> dv.Table:
        return self.app.backend.store.table

    def prepare(self) -> None:
        self.meter.mkdir()
        metering.start(self.meter, 'client')
        broker = self.folder / 'broker'
        (broker / 'control').mkdir(parents=True)
        os.environ.update({'BROKER': str(broker), 'RESULT_BACKEND': self.table.url()})
        import bench_tasks
        self.tasks, self.app = bench_tasks, bench_tasks.app

    def since(self, mark: float) -> list[metering.Metered]:
        """Requests with a response; a transient failure is no cost of ours."""
        return [each for each in metering.requests(self.meter) if each.began >= mark
                and each.error in ('', 'ConditionalCheckFailedException')]

    @contextlib.contextmanager
    def costing(self, what: str, row: str, number: int = 1, times: int = 1) -> Iterator[None]:
        """Compares what the block consumes with a row of the README's table."""
        mark = time.monotonic()
        yield
        used = added(self.since(mark))
        self.note_cost(Cost(what, used, *said_of(row, number, times)))

    def note_cost(self, cost: Cost) -> None:
        self.costs.append(cost)
        self.exceeded += [f'{cost.what}: {name} {cost.cell(name)}' for name in cost.exceeded]

    @contextlib.contextmanager
    def working(self, pool: str) -> Iterator[Worker]:
        log = self.folder / f'{pool}.log'
        environ = {**os.environ, 'PYTHONPATH': os.pathsep.join(PATHS), 'METER': str(self.meter),
                   'TMPDIR': str(self.folder)}
        command = [
            sys.executable, '-m', 'celery', '--quiet', '-A', 'bench_tasks', 'worker',
            '-I', 'metering', '--pool', pool, '--concurrency', str(POOLS[pool]),
            '--without-gossip', '--without-mingle', '--without-heartbeat', '-l', 'WARNING']
        with self.table.lock, log.open('wb') as output:
            expect(not self.table.stopped, 'interrupted')
            # in a new session: a Ctrl-C reaches us alone, and we stop it
            worker = self.worker = Worker(subprocess.Popen(
                command, cwd=self.folder, env=environ, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output), log)
        failed = True
        try:
            self.result_of(self.tasks.part.delay(0), worker)    # it is ready
            yield worker
            failed = False
        finally:
            worker.stop()
            # all lines if it failed, else only those of warnings and errors
            lines = [line for line in log.read_text(errors='replace').splitlines()
                     if failed or line.startswith('[')]
            self.logged += [f'{pool}: {line}' for line in lines[-20:]]

    def result_of(self, result: Any, worker: Worker) -> Any:
        # its error reaches the body, too; the tasks are not read
        return result.get(timeout=TIMEOUT, follow_parents=False, on_interval=worker.check)

    # the steps

    def create_table(self) -> None:
        """by the module, on demand and with tags"""
        self.table.create()

    def time_to_live(self) -> None:
        """is on; and the table is on demand"""
        dv.time_to_live(self.items)     # raises unless it is
        said = dv.describe(self.items)
        expect(said['billing_mode'] == 'PAY_PER_REQUEST', f'it is {said["billing_mode"]}')

    def single_results(self) -> None:
        """ten are stored, and read"""
        backend, ids = self.app.backend, [f'single-{number}' for number in range(10)]
        with self.costing('ten results, stored one by one', 'store', times=10):
            for id in ids:
                backend.store_result(id, id, states.SUCCESS)
        with self.costing('ten states, read one by one', 'read', times=10):
            found = [backend.get_result(id) for id in ids]
        expect(found == ids, f'{found} was read')

    def conditional_puts(self) -> None:
        """a success stays; the refusal brings the item, so that nothing is read"""
        backend, mark = self.app.backend, time.monotonic()
        backend.store_result('put', ValueError('first'), states.FAILURE)
        backend.store_result('put', 'second', states.SUCCESS)
        backend.store_result('put', ValueError('third'), states.FAILURE)
        sent = [(each.operation, each.error) for each in self.since(mark)]
        expect(sent == [('PutItem', ''), ('PutItem', ''),
                        ('PutItem', 'ConditionalCheckFailedException')],
               f'requests were {sent}')
        expect(backend.get_result('put') == 'second', 'a success was overwritten')

    def insertions(self) -> None:
        """25 by PartiQL in one request; then 25 of which one exists, which stays"""
        def made(prefix: str, value: bytes) -> list[dict[str, Any]]:
            return [{'id': f'{prefix}-{number}', 'result': value, 'status': states.SUCCESS,
                     'timestamp': time.time(), **dv.expiry(3600)} for number in range(25)]

        first, second = made('first', b'1'), made('second', b'2')
        with self.costing('25 insertions in one request', 'insert', 25):
            inserted = self.items.insert_many(first)
        if not self.items.may_insert:
            raise Failed(self.logged[-1])   # which says why
        expect(inserted == {item['id'] for item in first}, f'only {sorted(inserted)} were inserted')
        second[7]['id'] = first[7]['id']
        inserted = self.items.insert_many(second)
        expect(inserted == {item['id'] for item in second} - {first[7]['id']},
               f'of 25 with one that exists, {len(inserted)} were inserted')
        stored = self.store.get(first[7]['id'])
        expect(stored and stored.value == b'1', 'an insertion replaced an item')

    def group(self) -> None:
        """100 results of eight threads, which share requests; read in batches, and forgotten"""
        ids = [f'of-a-group-{number}' for number in range(100)]

        def store(id: str) -> None:
            self.app.backend.store_result(id, id, states.SUCCESS)

        mark = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(store, ids))
        sent = self.since(mark)
        used, (said, _) = added(sent), said_of('store', times=100)
        # how many share a request depends on how the threads meet
        self.note_cost(Cost('100 results, stored by 8 threads', used, said, ('requests',)))
        expect(any(each.operation == 'BatchExecuteStatement' for each in sent),
               'no two of them shared a request' + (
                   '' if self.items.may_insert else ' because inserts are denied'))
        time.sleep(1)   # the reads are eventually consistent: all are to be ready
        results = self.app.GroupResult('group', [self.app.AsyncResult(id) for id in ids])
        with self.costing('a group of 100, all ready', 'read group', 100):
            found = results.get(timeout=60)
        expect(found == ids, 'other results were read')
        with self.costing('the same, forgotten', 'forget group', 100):
            results.forget()
        expect(self.store.get_many([self.app.backend.item_id(id) for id in ids]) == {},
               'it was not forgotten')

    def sets(self) -> None:
        """binary sets in updates and conditions, with bytes above 0x7f"""
        member, other = b'\x80\xff\x00one', b'\x80\xff\x00two'

        def add(member: bytes) -> dv.WriteResult:
            return self.items.update(
                'set', 'SET #owner = :owner ADD #members :members, #bytes :bytes',
                {'owner': b'\xfe', 'members': {member}, 'bytes': 5, 'member': member},
                condition='NOT contains(#members, :member)')

        expect(add(member).applied and add(other).applied, 'a new member was refused')
        mark = time.monotonic()
        refused = add(member)
        expect(not refused.applied, 'a member was added twice')
        item = refused.item or {}
        expect(len(self.since(mark)) == 1, 'the refusal did not bring the item')
        expect(item.get('members') == {member, other} and item.get('bytes') == 10,
               f'the item that was refused held {item}')

    def counters(self) -> None:
        """a number that is added to, also where there is no item; an expiry that is changed"""
        store = self.store
        expect([store.increment('counter') for _ in range(3)] == [1, 2, 3], 'it counted wrong')
        store.expire('counter', 3600)
        item = self.items.get('counter') or {}
        expect(item.get('ttl', 0) > time.time() + 3000, f'it expires at {item.get("ttl")}')
        store.expire('no such item', 3600)
        expect(self.items.get('no such item') is None, 'an update with a condition made an item')

    def pages(self) -> None:
        """60 items written, 250 keys read and 60 items deleted, in several batches each"""
        ids = [f'page-{number}' for number in range(250)]
        mark = time.monotonic()
        self.items.write_many(puts=[{'id': id, 'result': id.encode()} for id in ids[:60]])
        found = self.items.get_many(ids)
        expect({id: item['result'] for id, item in found.items()}
               == {id: id.encode() for id in ids[:60]}, f'{len(found)} of 60 were read')
        self.items.write_many(deletes=ids[:60])
        counts = Counter(each.operation for each in self.since(mark) if not each.error)
        expect(counts['BatchWriteItem'] >= 6 and counts['BatchGetItem'] >= 3, f'sent: {counts}')
        expect(self.items.get_many(ids, consistent=True) == {}, 'items were not deleted')

    def large_value(self) -> None:
        """2 MiB: split, read and deleted"""
        value = secrets.token_bytes(LARGE)
        self.store.put('large', value, states.SUCCESS, 3600, keep=states.SUCCESS)
        stored = self.store.get('large')
        expect(stored and stored.error is None and stored.value == value,
               f'other bytes were read: {stored.error if stored else "none"}')
        self.store.delete('large')
        expect(self.store.get('large') is None, 'it was not deleted')

    def expired_item(self) -> None:
        """is hidden from reads, and replaced by a write that would keep it unexpired"""
        self.items.put({'id': 'expired', 'result': b'old', 'status': states.SUCCESS,
                        'timestamp': time.time() - 60, 'ttl': int(time.time()) - 30})
        expect(self.store.get('expired') is None, 'it was read')
        expect(self.store.put('expired', b'new', states.FAILURE, 3600, keep=states.SUCCESS),
               'it was not replaced')
        stored = self.store.get('expired')
        expect(stored and stored.value == b'new', 'it was not replaced')

    def scan(self) -> None:
        """four segments concurrently; the commands check, list and purge"""
        self.items.put({'id': 'expired', 'result': b'', 'ttl': int(time.time()) - 30})
        found: list[Any] = []
        read: list[int] = []
        dv.scan(self.items, 4, found.extend, lambda: {'ConsistentRead': True}, read.append)
        ids = {item['id'] for item in found}
        expect({'set', 'counter', 'first-0', 'second-0'} <= ids and len(ids) == sum(read),
               f'{len(ids)} items were read')
        checks = {each['name']: each for each in self.command('check')['checks']}
        denied = [f'{name}: {check["found"]}' for name, check in checks.items()
                  if check['ok'] is False]
        expect(not denied, '; '.join(denied))
        self.latencies.append(('`dynamodb check`, round trip', checks['round trip']['found'], ''))
        purged = self.command('purge', '--yes', '--force')  # time to live is on
        # unless DynamoDB was first
        expect(purged['expired'] <= 1 and self.items.get('expired') is None, f'purged: {purged}')
        self.command('list', '--yes')

    def command(self, name: str, *arguments: str) -> Any:
        environ = {**os.environ, 'PYTHONPATH': os.pathsep.join(PATHS)}
        ran = subprocess.run(
            [sys.executable, '-c', 'import metering, dyna_veggie; dyna_veggie.commands()',
             '-b', self.table.url(), name, '--json', *arguments],
            env={**environ, 'METER': str(self.meter), 'METERED': 'command'}, timeout=TIMEOUT,
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        try:
            return json.loads(ran.stdout)
        except ValueError:
            # list prints an object a line
            expect(ran.returncode == 0, f'{name} ended with {ran.returncode}: {ran.stderr[-500:]}')
            return [json.loads(line) for line in ran.stdout.splitlines()]

    def chord_of_threads(self) -> None:
        """{parts} tasks and a body"""
        with self.working('threads') as worker:
            self.seen_after(worker)
            name = f'a chord of {self.parts:,}, {POOLS["threads"]} threads'
            self.chord(worker, name, self.parts, said_of_chord('chord, threads', self.parts))

    def chord_of_processes(self) -> None:
        """{prefork_parts} tasks and a body; and one of three"""
        with self.working('prefork') as worker:
            self.chord(worker, 'a chord of 3, prefork', 3, said_of('chord of 3'))
            name = f'a chord of {self.prefork_parts:,}, {POOLS["prefork"]} processes'
            parts = self.prefork_parts
            part = self.chord(worker, name, parts, said_of_chord('chord, prefork', parts))
        with self.costing('the state of a part of it', 'read part'):
            state = self.app.AsyncResult(part).state
        expect(state == states.SUCCESS, f'a part that returned is {state}')

    def chord(self, worker: Worker, name: str, parts: int,
              said: tuple[Units, tuple[str, ...]]) -> str:
        """Runs one; returns the id of one of its tasks."""
        mark = time.monotonic()
        header = [self.tasks.part.s(number) for number in range(parts)]
        result = chord(header)(self.tasks.total.s())
        waiting = time.monotonic()
        found = self.result_of(result, worker)
        ended = time.monotonic()
        expect(found == [parts, sum(range(parts))], f'{name}: its body returned {found}')
        self.settle()
        sent = self.since(mark)
        # the polls of the waiting client come on top
        asked = [each for each in sent if each.who == 'client' and each.began >= waiting]
        self.note_cost(Cost(name, added(each for each in sent if each not in asked), *said))
        polls = added(asked)
        most = {'read units': 1 + (polls['requests'] - 1) / 2}
        self.note_cost(Cost(f'get() of {name}', polls, most, ('read units',)))
        self.latencies.append((
            f'{name}: parts per second', f'{parts / (ended - mark):,.0f}',
            bench_rates(name, parts)))
        return str(result.parent.results[0].id)

    def settle(self) -> None:
        """Until nothing more is sent: what follows a chord's body is part of its cost."""
        before = -1
        for _ in range(60):
            now = sum(1 for _ in metering.requests(self.meter))
            if now == before:
                return
            before = now
            time.sleep(0.5)

    def seen_after(self, worker: Worker) -> None:
        found = []
        for _ in range(10):
            stored = self.result_of(self.tasks.late.delay(), worker)
            found.append(time.time() - stored)
        self.latencies.append((
            'a result is seen by `get()` after (median)',
            f'{1000 * statistics.median(found):.0f} ms',
            bench_figures('30 tasks of 10 ms, one by one',
                          lambda row: f'{1000 * row["seen_after"]:.0f} ms')))

    def planned(self) -> Units:
        """The most that all steps consume, polls included."""
        chords = [said_of_chord('chord, threads', self.parts)[0],
                  said_of_chord('chord, prefork', self.prefork_parts)[0], said_of('chord of 3')[0]]
        # what the other steps write: the large value, which its deletion takes as well; what the
        # group stores, if no two share a request, and deletes
        chords.append({'requests': 300, 'read units': LARGE // 4096 + 900,
                       'write units': 2 * LARGE // 1024 + 600})
        polls = 400     # units
        return {name: sum(each[name] for each in chords) + polls * (name != 'write units')
                for name in COLUMNS}

    def run(self) -> None:
        """All steps; after a failure, which is noted, the next one runs."""
        for name in STEPS:
            if name not in self.only and name != 'create table':
                continue
            step = STEPS[name]
            what = f'{name}: ' + (step.__doc__ or '').format(**vars(self))
            say(f'{what} ... ', end='')
            began, error = time.monotonic(), ''
            self.exceeded = []
            try:
                step(self)
                if self.exceeded:
                    raise Failed('it takes more than the README says: ' + '; '.join(self.exceeded))
            except Failed as exc:
                error = str(exc)
            except Exception as exc:
                if step is Trial.create_table:
                    raise
                places = traceback.extract_tb(exc.__traceback__)[-6:]
                trail = ' > '.join(f'{Path(each.filename).name}:{each.lineno}' for each in places)
                error = f'{type(exc).__name__}: {exc} ({trail})'
            if self.table.stopped:
                return
            took = time.monotonic() - began
            say(f'FAILED: {error}' if error else f'ok, {took:.1f} s')
            self.outcomes.append(Outcome(what, error, took))

    def stop(self) -> None:
        """No worker is left, and nothing creates the table any more."""
        self.table.stopped = True
        with self.table.lock:
            if self.worker:
                self.worker.kill()


STEPS: dict[str, Callable[[Trial], None]] = {
    step.__name__.replace('_', ' '): step for step in (
        Trial.create_table, Trial.time_to_live, Trial.single_results, Trial.conditional_puts,
        Trial.insertions, Trial.group, Trial.sets, Trial.counters, Trial.pages,
        Trial.large_value, Trial.expired_item, Trial.scan, Trial.chord_of_threads,
        Trial.chord_of_processes)}


# --- beside the bench -----------------------------------------------------------------------------

BENCH = json.loads((ROOT / 'benchmarks' / 'results.json').read_text('utf-8'))


def bench_figures(what: str, shown: Callable[[dict[str, Any]], str]) -> str:
    """What the bench measured, without and with latency."""
    found = {row['latency']: shown(row) for row in BENCH['rows']
             if row['backend'] == 'Dyna-Veggie' and row['what'] == what}
    return ' / '.join(found[latency] for latency in sorted(found))


def bench_rates(name: str, parts: int) -> str:
    """Of a chord of 1,000 in the same kind of worker; a small one has nothing to compare with."""
    if parts < 50:
        return ''
    what = 'a chord of 1,000, prefork' if 'processes' in name else 'a chord of 1,000'
    return bench_figures(what, lambda row: f'{row["tasks"] / row["wall"]:,.0f}') + ' (of 1,000)'


# --- the report -----------------------------------------------------------------------------------

def table_of(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    def line(cells: Iterable[Any]) -> str:
        return '| ' + ' | '.join(str(cell).replace('|', '/') for cell in cells) + ' |'
    head = list(head)
    yield line(head)
    yield '|' + ' --- |' * len(head)
    yield from map(line, rows)
    yield ''


def by_operation(sent: list[metering.Metered]) -> Iterator[tuple[Any, ...]]:
    for operation in sorted({each.operation for each in sent}):
        mine = [each for each in sent if each.operation == operation]
        took = sorted(1000 * each.seconds for each in mine)
        errors = Counter(each.error for each in mine if each.error)
        refused = sum(each.refused for each in mine)
        if refused:
            errors['statements refused'] = refused
        yield (operation, len(mine),
               f'{sum(each.read_units + each.write_units for each in mine):,g}',
               sum(each.computed for each in mine) or '',
               f'{statistics.median(took):.1f}', f'{took[int(0.95 * (len(took) - 1))]:.1f}',
               ', '.join(f'{number} {code}' for code, number in sorted(errors.items())))


def report(trial: Trial, gone: str) -> str:
    table, sent = trial.table, list(metering.requests(trial.meter))
    used, planned = added(sent), trial.planned()
    failed = [each for each in trial.outcomes if each.error]
    lines = [
        f'# Dyna-Veggie {dv.__version__} on '
        + (f'the DynamoDB at {table.endpoint_url}' if table.endpoint_url else 'AWS'), '',
        f'**{len(trial.outcomes) - len(failed)} of {len(trial.outcomes)} steps passed'
        + (f', of {len(STEPS)} that there are.**' if len(trial.outcomes) < len(STEPS) else '.**'),
        '']
    about = {
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'region': table.region, 'endpoint': table.endpoint_url or 'of the region',
        'Python': platform.python_version(), 'Celery': celery.__version__,
        'botocore': botocore.__version__, 'system': f'{platform.system()} {platform.machine()}',
        'cores': os.cpu_count(), 'table': f'{table.name}, {gone}',
        'consumed': f'{used["read units"]:,g} read units, {used["write units"]:,g} write units, '
                    f'${dollars(used):.4f} (planned: at most ${dollars(planned):.4f})',
        'prices': PRICES,
    }
    lines += table_of(('', ''), about.items())
    lines += ['## Steps', '']
    lines += table_of(('step', 'seconds', ''), (
        (each.what, f'{each.seconds:.1f}', each.error or 'ok') for each in trial.outcomes))
    lines += ['## Costs, and in brackets what the README says', '']
    lines += table_of(('', *COLUMNS), (
        (cost.what, *map(cost.cell, COLUMNS)) for cost in trial.costs))
    lines += [
        '`get()` comes on top of a chord: one read unit, and half a unit for each poll after that.',
        'Write units include those computed for writes that were refused, of which DynamoDB '
        'reports none: they are in the last table. Attempts that failed are only there, too.', '']
    about_bench = BENCH['about']
    lines += ['## Latencies', '']
    lines += table_of(
        ('', 'here', 'the bench, without / with 10 ms of latency added'), trial.latencies)
    lines += [f'The bench: {about_bench["engine"].partition(" at ")[0]}, {about_bench["cores"]} '
              f'cores, {about_bench["date"]}, Redis as broker; here the broker is a folder.', '']
    lines += ['## Requests', '']
    lines += table_of(
        ('operation', 'requests', 'units reported', 'units computed', 'median, ms', '95 %, ms',
         'errors'), by_operation(sent))
    if trial.logged:
        lines += ['## What the module and its workers logged', '', '```',
                  *trial.logged[-60:], '```', '']
    return '\n'.join(lines)


# --- command --------------------------------------------------------------------------------------

class Collected(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f'client: {record.levelname} {record.getMessage()}')


def policy(table: TestTable) -> str:
    """The rights that a trial takes."""
    options = table.options(create_table=True, tags=tuple(TAGS.items()))
    said = dv.least_policy(dv.Table(options), bootstrap=True)
    statement, = said['Statement']
    statement['Action'] += ['dynamodb:DeleteTable', 'dynamodb:Scan']
    statement['Resource'] = f'arn:aws:dynamodb:*:*:table/{PREFIX}*'
    return json.dumps(said, indent=2)


def plan(trial: Trial) -> str:
    table, planned = trial.table, trial.planned()
    where = f'region {table.region}' + (f' at {table.endpoint_url}' if table.endpoint_url else '')
    return f"""\
This tries Dyna-Veggie {dv.__version__} on DynamoDB in {where}.  It
  - creates the table {table.name}, on demand, with the tags
    {', '.join(f'{name}: {value}' for name, value in TAGS.items())};
  - sends every kind of request that the module sends, some 200 of them;
  - runs a chord of {trial.parts:,} tasks with {POOLS['threads']} threads and one of \
{trial.prefork_parts:,} with {POOLS['prefork']} processes, on this
    machine, over a broker in a temporary folder;
  - deletes the table, also if you interrupt it;
  - prints a report, without account number, ARN or keys.
It takes some minutes, and at most {planned['read units']:,.0f} read units and \
{planned['write units']:,.0f} write units, which cost
${dollars(planned):.4f}, less than {MOST * 100:.0f} US cents ({PRICES})."""


def agreed(yes: bool) -> bool:
    if yes:
        return True
    say('Go on? [y/N] ', end='')
    answer = sys.stdin.readline()       # not input(): its prompt would be part of the report
    if not answer.endswith('\n'):
        say()
    return answer.strip().lower() in ('y', 'yes')


def number_of_parts(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError    # argparse says so
    return number


def parse(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser(
        prog='make test-aws', description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--region', help="default: as AWS's tools are configured")
    parser.add_argument('--endpoint-url', help='another DynamoDB than AWS, to try this command')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='where to write the report; default: the standard output')
    parser.add_argument('--yes', action='store_true', help='do not ask')
    parser.add_argument('--parts', type=number_of_parts, default=1000,
                        help='of the chord with threads')
    parser.add_argument('--prefork-parts', type=number_of_parts, default=100,
                        help='of that with processes')
    parser.add_argument('--only', action='append', choices=STEPS, metavar='STEP',
                        help='this step, with those that are named so: ' + ', '.join(STEPS))
    return parser.parse_args(arguments)


def chosen_table(region: str | None, endpoint_url: str | None) -> TestTable:
    """Raises ImproperlyConfigured without a region or without credentials."""
    with contextlib.suppress(ImproperlyConfigured):
        session = dv.open_session(dv.Options(region=None))
        region = region or session.get_config_variable('region')
    if not region and not endpoint_url:
        raise ImproperlyConfigured(
            'there is no region.  Name it by ARGS="--region eu-west-1", or set AWS_DEFAULT_REGION')
    region = region or 'us-east-1'
    session = dv.open_session(dv.Options(region=region))    # raises for an unknown profile
    table = TestTable(region, endpoint_url)
    options = table.options()   # checks the region, and the endpoint
    if dv.credentials_source(options, session) is None:
        raise ImproperlyConfigured(
            'there are no credentials.  Put them where AWS\'s tools look for them: a profile '
            '(AWS_PROFILE=name), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY')
    SCRUBBER.learn(session)
    return table


def attempt(trial: Trial, said: SimpleQueue[Any]) -> None:
    """The thread of the trial; says its outcome."""
    try:
        trial.run()
        said.put(None)
    except BaseException as exc:
        said.put(exc)


def supervise(trial: Trial, output: Path | None) -> int:
    """Runs the trial; then, or at a signal, deletes the table.  Returns the exit code."""
    table = trial.table
    # reentrant, other than an Event: a signal's handler runs between any two steps of what waits
    said: SimpleQueue[Any] = SimpleQueue()
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: said.put(number))
    ended = gone = None
    try:
        trial.prepare()
        table.can_be_deleted()
        say(f'If this process is killed, delete the table by\n    {table.command}')
        threading.Thread(target=attempt, args=(trial, said), daemon=True).start()
        ended = said.get()
    except Exception as exc:
        ended = exc
    finally:
        if isinstance(ended, int):
            say(f'\nInterrupted by {signal.Signals(ended).name}: stopping the workers, and '
                f'deleting table {table.name} ...')
        trial.stop()
        try:
            gone = 'deleted' if table.delete() else 'not there'
        except NotDeleted as exc:
            gone = 'NOT deleted'
            say(f'\nTABLE {table.name} IN {table.region} STAYS ({exc}).\n'
                f'Until it is deleted it costs its storage.  Delete it by\n    {table.command}')
    say(f'Table {table.name}: {gone}.')
    if isinstance(ended, int):
        return 128 + ended
    if isinstance(ended, BaseException):
        if not isinstance(ended, dv.FAILURES):
            say(''.join(traceback.format_exception(type(ended), ended, ended.__traceback__)))
            return 1
        say(f'test-aws: {dv.summary(ended) if isinstance(ended, ClientError) else ended}')
        if isinstance(ended, dv.DeniedAction):
            say(f'What this command needs:\n{policy(table)}')
        return 2
    text = SCRUBBER.scrub(report(trial, gone))
    leaks = SCRUBBER.leaks(text)
    if leaks:
        say(f'test-aws: the report is not printed: there is {", ".join(leaks)} in it')
        return 1
    if output:
        output.write_text(text + '\n', encoding='utf-8')
        say(f'The report is in {output}.')
    else:
        print(text, flush=True)
    failed = [each.error for each in trial.outcomes if each.error]
    if any('the IAM action' in error for error in failed):
        say(f'A right is missing.  What this command needs:\n{policy(table)}')
    return int(bool(failed) or gone == 'NOT deleted')


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    try:
        table = chosen_table(given.region, given.endpoint_url)
    except ImproperlyConfigured as exc:
        say(f'test-aws: {exc}')
        return 2
    folder = Path(tempfile.mkdtemp(prefix='dyna-veggie-'))
    trial = Trial(table, folder, given.only or STEPS, given.parts, given.prefork_parts)
    collected = Collected(trial.logged)
    try:
        if dollars(trial.planned()) >= MOST:
            say(f'test-aws: chords of {given.parts:,} and {given.prefork_parts:,} tasks could cost '
                f'${dollars(trial.planned()):.2f}; they must cost less than ${MOST}')
            return 2
        dv.logger.addHandler(collected)
        say(plan(trial))
        if not agreed(given.yes):
            say('Nothing was done.')
            return 1
        return supervise(trial, given.report)
    except KeyboardInterrupt:       # only before there is a table: see supervise()
        say('\nNothing was done.')
        return 128 + signal.SIGINT
    finally:
        dv.logger.removeHandler(collected)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
