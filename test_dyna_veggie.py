"""Tests of Dyna-Veggie, on a real DynamoDB API: `make test`.

Faults are injected by a proxy between the backend and the engine (tools/proxy.py), which also
counts requests and capacity units.  The sections are much those of dyna_veggie.py, but for chords,
where they are by behaviour.
"""
from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import csv
import dataclasses
import datetime
import fcntl
import functools
import hashlib
import http.server
import importlib.metadata
import importlib.util
import inspect
import io
import itertools
import json
import logging
import math
import os
import pickle
import pty
import queue
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import textwrap
import threading
import time
import traceback
import tracemalloc
import types
import urllib.error
import urllib.request
import uuid
import warnings
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, quote

import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.handlers
import botocore.session
import botocore.utils
import celery
import celery.result
import celery.worker.state
import click.testing
import freezegun
import hcl2
import kombu.serialization
import kombu.transport.memory
import psutil
import pytest
import readme_renderer.rst
import yaml
from celery import Celery, chain, chord, group, states
from celery.app.task import Context
from celery.backends.base import BaseKeyValueStoreBackend
from celery.backends.rpc import RPCBackend
from celery.contrib.testing.worker import start_worker
from celery.exceptions import (
    ChordError,
    ImproperlyConfigured,
    SoftTimeLimitExceeded,
    TimeoutError,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu.utils.json import register_type
from packaging.version import Version

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

import chord_model  # noqa: E402
import dyna_veggie as dv  # noqa: E402
import dynamodb_local  # noqa: E402
from proxy import (  # noqa: E402
    Delay,
    Error,
    Partial,
    Proxy,
    ResetAfter,
    ResetBefore,
    ServerError,
    Throttle,
)

SECRET = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY'
KB = 1024
README, EXAMPLES, BENCHMARKS, TOOLS = READMES = [
    (ROOT / folder / 'README.rst').read_text('utf-8')
    for folder in ('', 'examples', 'benchmarks', 'tools')]

slow = pytest.mark.slow  # `make test-all` runs these, `make test` does not

# a machine that does much else is no reason to fail
settings.register_profile('patient', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('patient')

# --------------------------------------------------------------------------------------------------
# Harness
# --------------------------------------------------------------------------------------------------

@pytest.fixture(scope='session')
def endpoint() -> Iterator[str]:
    with dynamodb_local.engine() as engine:
        yield engine.endpoint


@pytest.fixture(scope='session')
def needs(endpoint: str) -> Callable[[str], None]:
    """Skips a test if the engine lacks one of dynamodb_local.FEATURES."""
    def check(feature: str) -> None:
        assert feature in dynamodb_local.FEATURES
        if feature in dynamodb_local.lacks(endpoint):
            pytest.skip(f'this engine lacks {feature}')
    return check


@pytest.fixture
def proxy(endpoint: str) -> Iterator[Proxy]:
    with Proxy(endpoint) as proxy:
        yield proxy


@pytest.fixture
def table_name() -> str:
    return f'test-{uuid.uuid4().hex}'


def backend_url(place: str, endpoint: str, query: str = '') -> str:
    """The URL of our backend at a host and table, whose requests go to an endpoint."""
    scheme = 'dyna_veggie.DynamoDBBackend+dynamodb'
    return f'{scheme}://{place}?endpoint_url={quote(endpoint, safe="")}{query}'


MakeApp = Callable[..., Celery]


@pytest.fixture
def make_app(proxy: Proxy, table_name: str) -> Iterator[MakeApp]:
    """Makes apps whose backend sends its requests through the proxy."""
    apps = []

    def make(query: str = '', **conf: Any) -> Celery:
        app = Celery('test', broker='memory://', set_as_current=False)
        url = backend_url(f'local/{table_name}', proxy.url, f'&retry_base_delay=0.001&{query}')
        app.conf.update({'result_backend': url.rstrip('&'), **conf})
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()
    dv.reset()  # of each test, a client of 9 MB would stay


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app()


@pytest.fixture
def backend(app: Celery, proxy: Proxy) -> dv.DynamoDBBackend:
    """A backend whose table exists; nothing is counted yet."""
    return ready(app, proxy)


def ready(app: Celery, proxy: Proxy) -> dv.DynamoDBBackend:
    app.backend.set('made', b'1')
    app.backend.delete('made')
    proxy.reset()
    return app.backend


@pytest.fixture
def client(endpoint: str) -> Any:
    """A client of the engine itself, without the proxy or the backend."""
    return botocore.session.Session().create_client(
        'dynamodb', region_name='us-east-1', endpoint_url=endpoint,
        aws_access_key_id='local', aws_secret_access_key='local')


def all_items(client: Any, table: str) -> list[dict[str, Any]]:
    pages = client.get_paginator('scan').paginate(TableName=table, ConsistentRead=True)
    return [dv.unmarshal_item(item) for page in pages for item in page['Items']]


def put_raw(client: Any, table: str, id: str, **attributes: Any) -> None:
    client.put_item(TableName=table, Item={'id': {'S': id}, **attributes})


OLD: dict[str, Any] = {'timestamp': {'N': '1700000000'}}


def operations(proxy: Proxy) -> list[str]:
    return [request.operation for request in proxy.requests]


def cost(proxy: Proxy) -> tuple[int, float, float]:
    """Requests, read units and write units since the last call."""
    usage = proxy.usage()
    proxy.reset()
    return usage.requests, usage.read_units, usage.write_units


def first(
        n: int, fault: Any, operation: str = '', holding: str = '') -> Callable[[str, Any], Any]:
    """A fault for the first n requests (of an operation, with a text in their bodies)."""
    left = [n]

    def faults(requested: str, body: Any) -> Any:
        if left[0] and requested.startswith(operation) and holding in json.dumps(body, default=str):
            left[0] -= 1
            return fault
        return None
    return faults


LAZY = pytest.param(True, marks=pytest.mark.skipif(
    dv.LAZY_PARTS_LACK_INDEX,
    reason='this Celery gives the parts of a generator no index: they are counted on one node'))


class Died(SystemExit):
    """Ends a delivery as the death of its process would: the module must not catch it."""


def nothing(step: str) -> None:
    pass


class Hook:
    """Calls `before` and `after` around each request of a client and around publishing.

    Both may raise.
    """

    def __init__(
            self, backend: dv.DynamoDBBackend, before: Callable[[str], None] = nothing,
            after: Callable[[str], None] = nothing) -> None:
        self.events = backend.store.table.client.botocore.meta.events
        self.before, self.after = before, after
        self.uid = uuid.uuid4().hex
        self._signals = ((celery.signals.before_task_publish, self._before_publish),
                         (celery.signals.after_task_publish, self._after_publish))

    def __enter__(self) -> Hook:
        self.events.register('before-call.dynamodb', self._before)
        self.events.register('after-call.dynamodb', self._after)
        for sent, receiver in self._signals:
            sent.connect(receiver, weak=False, dispatch_uid=self.uid)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.events.unregister('before-call.dynamodb', self._before)
        self.events.unregister('after-call.dynamodb', self._after)
        for sent, _ in self._signals:
            sent.disconnect(dispatch_uid=self.uid)

    # heartbeats come at any time: they are no step of a delivery

    def _before(self, model: Any, **kwargs: Any) -> None:
        if threading.current_thread().name != 'dyna-veggie-heartbeat':
            self.before(model.name)

    def _after(self, model: Any, **kwargs: Any) -> None:
        if threading.current_thread().name != 'dyna-veggie-heartbeat':
            self.after(model.name)

    def _before_publish(self, **kwargs: Any) -> None:
        self.before('publish')

    def _after_publish(self, **kwargs: Any) -> None:
        self.after('publish')


@pytest.fixture
def small_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep trees of few parts, and short leases."""
    monkeypatch.setattr(dv.Position, 'LEAF_CAPACITY', 2)
    monkeypatch.setattr(dv.Position, 'NODE_CAPACITY', 2)
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.06)


class Writers:
    """Stores in threads, all but the first while the request of the first is in flight."""

    def __init__(self, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
        self.backend, self.proxy = backend, proxy
        self.written: dict[str, Any] = {}
        self.died: list[str] = []

    def store(self, number: int = 9, *, value: str = '', **more: Any) -> None:
        ids = [uuid.uuid4().hex for _ in range(number)]
        self.stores({id: f'{value}{id}' for id in ids}, **more)

    def stores(
            self, values: dict[str, Any], dies: str = '', together: bool = True,
            **request: Any) -> None:
        in_flight, go_on = threading.Event(), threading.Event()
        self.written.update(values)

        def hold(operation: str) -> None:
            if operation == 'PutItem' and not in_flight.is_set():
                in_flight.set()
                assert go_on.wait(20)
            if operation == dies:
                raise Died

        def store(id: str) -> None:
            try:
                context = celery.app.task.Context(id=id, **request)
                self.backend.store_result(id, values[id], states.SUCCESS, request=context)
            except Died:
                self.died.append(id)

        threads = [threading.Thread(target=store, args=(id,)) for id in values]
        with Hook(self.backend, hold):
            threads[0].start()
            assert in_flight.wait(20)
            for thread in threads[1:]:
                thread.start()
            deadline = time.monotonic() + 20
            batcher = dv.shared_batcher(self.backend.options)
            while together and batcher.waiting(dv.RESULTS_QUEUE) < (len(values) - 1) % 25:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.3)
            go_on.set()
            for thread in threads:
                thread.join(30)

    def check(self, **kept: Any) -> None:
        assert dv.shared_batcher(self.backend.options).waiting(dv.RESULTS_QUEUE) == 0
        for id, value in {**self.written, **kept}.items():
            assert self.backend.get_result(id) == value, id


@pytest.fixture
def writers(make_app: MakeApp, proxy: Proxy, needs: Callable[[str], None]) -> Writers:
    needs('PartiQL INSERT')
    backend = ready(make_app('max_pool_connections=20'), proxy)
    assert backend.store.table.insert_many([{'id': 'first'}, {'id': 'second'}])
    proxy.reset()
    return Writers(backend, proxy)


class Drive:
    """A chord whose parts return when the test says so; its body is published in memory."""

    def __init__(self, app: Celery, parts: int, lazy: bool = False, **options: Any) -> None:
        self.app, self.lazy = app, lazy
        self.task = app.tasks['celery.accumulate']
        self.group_id, self.body_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.ids = [str(uuid.uuid4()) for _ in range(parts)]
        self.indexes = list(range(parts))  # as their messages say them
        self.body = app.signature('tests.body', options={'task_id': self.body_id, **options})
        self.published: list[Any] = []
        # for good, with a uid: Celery 5.3 confuses receivers of one class, and forgets the others
        # when one dies
        celery.signals.before_task_publish.connect(
            self._published, weak=False, dispatch_uid=self.body_id)

    def _published(self, body: Any = None, headers: Any = None, **kwargs: Any) -> None:
        if isinstance(body, dict):  # of protocol 1
            headers, body = body, [body['args']]
        if headers['id'] == self.body_id:
            self.published.append(body[0][0])

    def apply(self) -> None:
        results = [self.app.AsyncResult(id) for id in self.ids]
        if self.lazy:
            results = celery.utils.functional.regen(iter(results))
        self.app.backend.apply_chord((self.group_id, results), self.body)
        if not self.lazy:
            self.size()

    def size(self) -> None:
        self.app.backend.set_chord_size(self.group_id, len(self.ids))

    def request(self, index: int, task_id: str | None = None) -> Any:
        run_option = dict(self.body.options['dynamodb_run'])
        chord = {**self.body, 'options': {**self.body.options, 'dynamodb_run': run_option}}
        if self.lazy and index != len(self.ids) - 1:
            run_option['size'] = None  # only the message of the last part says it
        return celery.app.task.Context({
            'id': task_id or self.ids[index], 'group': self.group_id,
            'group_index': self.indexes[index],
            'chord': chord, 'delivery_info': {}, 'errbacks': None})

    @property
    def run(self) -> dv.Run:
        return dv.Run(**self.body.options['dynamodb_run'])

    @contextlib.contextmanager
    def in_task(self, request: Any) -> Iterator[None]:
        """Runs the block in a task, as a worker's pool would."""
        self.task.request_stack.push(request)
        celery._state._task_stack.push(self.task)
        try:
            yield
        finally:
            celery._state._task_stack.pop()
            self.task.request_stack.pop()

    def returns(
            self, index: int, value: Any = None, request: Any = None, stored: bool = True) -> None:
        request = request or self.request(index)
        value = index if value is None else value
        with self.in_task(request):
            self.app.backend.mark_as_done(request.id, value, request, store_result=stored)

    def fails(self, index: int, exc: Exception, request: Any = None) -> None:
        request = request or self.request(index)
        with self.in_task(request):
            self.app.backend.mark_as_failure(request.id, exc, request=request)

    def wait_until_closed(self) -> None:
        deadline = time.monotonic() + 30
        while not (progress := self.app.backend.chord_progress(self.group_id)) or (
                not progress.closed):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def error(self) -> str:
        """Why the body failed."""
        meta = self.app.backend.get_task_meta(self.body_id, cache=False)
        assert meta['status'] == states.FAILURE
        assert type(meta['result']) is ChordError, meta
        return str(meta['result'])

    def all_return(self, threads: int = 1) -> None:
        order = list(range(len(self.ids)))
        random.Random(5).shuffle(order)

        def work(share: list[int]) -> None:
            for index in share:
                self.returns(index)

        workers = [threading.Thread(target=work, args=(order[n::threads],)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def all_but_the_last_returned(
            self, value: Callable[[int], Any] = int, stored: bool = True) -> None:
        """Writes the table's items as they are once all parts but the last have returned.

        With few requests, so that it can be a large chord.  stored: with their results, too.
        """
        run, backend, items = self.run, self.app.backend, []
        sizes = [len(json.dumps(value(index))) + 2 for index in range(len(self.ids))]
        for position in run.positions():
            width = dv.width(len(self.ids), position.level)
            start, end = (min(number * position.capacity, width - 1)
                          for number in (position.number, position.number + 1))
            node: dict[str, Any] = {'id': run.node_id(position), **run.ttl, 'owner': b'other'}
            if position.level == 0:
                node['bytes'] = sum(sizes[start:end])
                members = [dv.member_of(dv.Part(index, False, self.ids[index]))
                           for index in range(start, end)]
            else:
                members = [number.to_bytes(4, 'big') for number in range(start, end)]
            items.append({**node, 'members': set(members)} if members else node)
        for index, id in enumerate(self.ids[:-1] if stored else ()):
            meta = {'task_id': id, 'status': states.SUCCESS, 'result': value(index)}
            items.append({'id': backend.item_id(id), 'result': backend.encode(meta).encode(),
                          'timestamp': 1.5, 'status': states.SUCCESS, **run.ttl,
                          'chord': run.label(dv.Part(index, False, id))})
        backend.store.table.write_many(puts=items)

    @property
    def expected(self) -> list[int]:
        return list(range(len(self.ids)))


class CrashPoint:
    """One step of a walk over all steps that a test goes through."""

    def __init__(self, number: int) -> None:
        self.number, self.steps = number, 0

    def reached(self, steps: int = 1) -> bool:
        """Counts a step; true for this one and, with a number, for as many from this one on."""
        self.steps += 1
        return self.number < self.steps <= self.number + steps


def crash_points() -> Iterator[CrashPoint]:
    """Each step that the loop's body reaches, and then one that it does not reach.

    That one's number is how many there are.
    """
    for number in itertools.count():
        point = CrashPoint(number)
        yield point
        if point.steps <= number:
            return


class Deaths:
    """Returns parts in workers of which one dies at a crash point; that part is redelivered.

    other: the backend of the worker that takes the body; not hooked.  pause: seconds before the
    redelivery.
    """

    def __init__(
            self, drive: Drive, other: dv.DynamoDBBackend, point: CrashPoint, moment: str,
            pause: float) -> None:
        self.drive, self.other, self.point = drive, other, point
        self.moment, self.pause, self.deaths = moment, pause, 0

    def hook(self) -> Hook:
        return Hook(self.drive.app.backend, self._die if self.moment == 'before' else nothing,
                    self._after)

    def _die(self, operation: str) -> None:
        if self.point.reached():
            raise Died

    def _after(self, operation: str) -> None:
        if operation == 'publish':  # a worker takes the body
            self.other.store_result(self.drive.body_id, None, states.STARTED)
        if self.moment == 'after':
            self._die(operation)

    def returns(self, index: int) -> None:
        try:
            self.drive.returns(index)
        except Died:
            self.deaths += 1
            time.sleep(self.pause)
            self.drive.returns(index)

    def published(self) -> list[Any]:
        """With what the body was published."""
        published = self.drive.published
        # a death before publishing is counted by the signal, although nothing was sent
        return published[self.deaths and self.moment == 'before' and len(published) - 1:]


def dies_publishing(drive: Drive, index: int) -> None:
    """Returns the part that fills the root, in a process that dies before it publishes."""
    def die(operation: str) -> None:
        if operation == 'publish':
            raise Died
    with Hook(drive.app.backend, die), pytest.raises(Died):
        drive.returns(index)
    drive.published.clear()


def result_set(app: Celery, ids: list[str]) -> celery.result.GroupResult:
    return app.GroupResult(str(uuid.uuid4()), [app.AsyncResult(id) for id in ids])


def in_memory() -> dict[str, Any]:
    """Settings of an app whose worker runs in this process."""
    return {
        'task_default_queue': uuid.uuid4().hex,
        'worker_concurrency': 4, 'worker_prefetch_multiplier': 0,
        'broker_url': 'memory://localhost',
        'broker_transport_options': {'polling_interval': 0.005}}


class Tasks:
    """The tasks of an app with a worker."""

    def __init__(self, app: Celery) -> None:
        self.errors: list[str] = []

        @app.task(shared=False)
        def identity(value: Any) -> Any:
            return value

        @app.task(shared=False)
        def total(values: Any) -> Any:
            return ['total', values]

        @app.task(shared=False, ignore_result=True)
        def ignored(value: Any) -> Any:
            return value

        @app.task(shared=False)
        def fail(value: Any) -> Any:
            raise ValueError(value)

        @app.task(shared=False)
        def limited() -> None:
            raise SoftTimeLimitExceeded

        @app.task(shared=False, bind=True)
        def replaced(self: Any, value: Any) -> Any:
            raise self.replace(identity.s(value * 10))

        @app.task(shared=False, bind=True)
        def replaced_by_group(self: Any, value: Any) -> Any:
            raise self.replace(group(identity.s(value * 10), identity.s(value * 10 + 1)))

        @app.task(shared=False, bind=True)
        def adder(self: Any, value: Any) -> Any:
            self.add_to_chord(identity.s(value * 100))
            return value

        @app.task(shared=False)
        def on_error(request: Any, exc: Any, traceback: Any) -> None:
            errors.append(f'{type(exc).__name__}: {exc}')

        @app.task(shared=False)
        def failing_errback(request: Any, exc: Any, traceback: Any) -> None:
            raise botocore.exceptions.EndpointConnectionError(endpoint_url='of another service')

        self.failing_errback = failing_errback
        errors = self.errors
        self.identity, self.total, self.ignored, self.fail = identity, total, ignored, fail
        self.limited = limited
        self.replaced, self.replaced_by_group = replaced, replaced_by_group
        self.adder, self.on_error = adder, on_error

    def reported(self, number: int) -> list[str]:
        """The errors that errbacks got, once there are so many: get() can raise earlier."""
        deadline = time.monotonic() + 20
        while len(self.errors) < number and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.errors


@contextlib.contextmanager
def working(
        app: Celery, pool: str = 'threads', conf: dict[str, Any] | None = None) -> Iterator[None]:
    """A worker in threads of this process; it knows the tasks that were there when it started.

    conf: where its broker is not in memory.
    """
    app.conf.update(in_memory() if conf is None else conf)
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        with start_worker(app, pool=pool, perform_ping_check=False, shutdown_timeout=30):
            # a worker turns all warnings of Celery on; how errbacks behave today is tested
            warnings.filterwarnings('ignore', 'task_allow_error_cb_on_chord_header=False')
            try:
                yield
            finally:
                # a worker that is to stop waits for messages twice more, for two seconds each
                celery.worker.state.should_terminate = 0
                for _ in range(2):
                    app.tasks['celery.accumulate'].apply_async(
                        queue=app.conf.task_default_queue, ignore_result=True)
    finally:
        root.setLevel(level)  # the worker has set the root logger up for itself
        root.handlers[:] = handlers


@pytest.fixture
def tasks(make_app: MakeApp) -> Iterator[Tasks]:
    app = make_app()
    app.finalize()
    tasks = Tasks(app)
    with working(app):
        yield tasks


def run_tool(program: str, library: str, *arguments: str, timeout: float) -> None:
    """Runs a program of tools/ in a process whose threads are those of a library."""
    if library in ('gevent', 'eventlet') and importlib.util.find_spec(library) is None:
        pytest.skip(f'{library} is not installed')
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / program), library, *arguments]
    path = os.pathsep.join([str(ROOT), str(ROOT / 'examples'), str(ROOT / 'tools')])
    done = subprocess.run(
        command, cwd=tempfile.gettempdir(), env={**os.environ, 'PYTHONPATH': path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    assert done.stdout.endswith('all right\n') and done.returncode == 0, done.stdout


def import_worker_tasks(monkeypatch: pytest.MonkeyPatch, **environment: Any) -> Any:
    """Imports tools/worker_tasks.py again in this environment, and declares its queue."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.syspath_prepend(str(ROOT / 'examples'))
    for name in ('broker', 'redelivering', 'worker_tasks'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module: Any = importlib.import_module('worker_tasks')
    with module.app.connection_for_write() as connection:
        module.app.amqp.queues['celery'].bind(connection.default_channel).declare()
    return module


def start_prefork_worker(
        folder: Path, log: IO[str], concurrency: int = 3,
        **options: Any) -> subprocess.Popen[bytes]:
    """Starts a worker of tools/worker_tasks.py, in the environment of that module."""
    command = [
        sys.executable, '-m', 'celery', '-A', 'worker_tasks', 'worker', '--pool', 'prefork',
        '--concurrency', str(concurrency), '-l', 'INFO',
        '--without-gossip', '--without-mingle', '--without-heartbeat']
    path = os.pathsep.join([str(ROOT), str(ROOT / 'examples'), str(ROOT / 'tools')])
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, 'PYTHONPATH': path},
        stdout=log, stderr=subprocess.STDOUT, **options)


@pytest.fixture
def worker_app(
        request: pytest.FixtureRequest, tmp_path: Path, proxy: Proxy, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of an app whose tasks a real prefork worker runs, in another process.

    Its parameter is the start method of the worker's processes.
    """
    folder = tmp_path / 'messages'
    (folder / 'control').mkdir(parents=True)
    module = import_worker_tasks(
        monkeypatch, BROKER='broker', BROKER_FOLDER=folder, USED_BEFORE_FORK=1,
        START_METHOD=getattr(request, 'param', 'fork'),
        RESULT_BACKEND=backend_url(f'local/{table_name}', proxy.url))
    log = (tmp_path / 'log').open('w+')
    worker = start_prefork_worker(tmp_path, log)
    try:
        yield module
    except BaseException:
        print((tmp_path / 'log').read_text())
        raise
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        log.close()
        print((tmp_path / 'log').read_text())


class Workers:
    """Real prefork workers whose broker is tools/redelivering.py; results go through the proxy."""

    def __init__(
            self, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str,
            twice: float = 0, **environment: Any) -> None:
        self.folder, self.messages = folder, folder / 'messages'
        self.unacked, self.published = folder / 'messages-unacked', folder / 'published'
        for made in (self.messages / 'control', self.unacked):
            made.mkdir(parents=True)
        self.published.touch()
        self.module = import_worker_tasks(monkeypatch, **{
            'BROKER': 'redelivering', 'BROKER_FOLDER': self.messages, 'RESULT_BACKEND': url,
            'PUBLISHED': self.published, 'DELIVERED_TWICE': twice, **environment})
        self.log = (folder / 'log').open('a')
        self.process: Any = None

    def start(self, concurrency: int = 3) -> None:
        self.process = start_prefork_worker(
            self.folder, self.log, concurrency, start_new_session=True)

    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def kill(self) -> None:
        """Kills the worker and its children.  What they had not acknowledged is redelivered."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for message in self.unacked.iterdir():
            message.rename(self.messages / message.name)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()

    def bodies(self) -> list[str]:
        return self.published.read_text().split()


@pytest.fixture
def make_workers(
        tmp_path: Path, proxy: Proxy, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def make(query: str = '', twice: float = 0) -> Workers:
        url = backend_url(f'local/{table_name}', proxy.url, f'&{query}')
        workers = Workers(tmp_path, monkeypatch, url.rstrip('&'), twice)
        made.append(workers)
        return workers
    yield make
    for workers in made:
        workers.stop()
        print((tmp_path / 'log').read_text()[-20_000:])


class DoomedWorkers(Workers):
    """Workers that run tools/doomed_tasks.py."""

    def __init__(
            self, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str,
            **environment: Any) -> None:
        super().__init__(folder, monkeypatch, url, **environment)
        self.diary = folder / 'diary'
        for made in ('struck', 'ended'):
            (self.diary / made).mkdir(parents=True)
        monkeypatch.setenv('DIARY', str(self.diary))
        monkeypatch.setenv('INCLUDE', 'doomed_tasks')   # only in the workers

    def task(self, name: str, *args: Any, **options: Any) -> Any:
        return self.module.app.signature(name, args, options=options)

    def body(self, name: str) -> Any:
        return self.task('body', name, link_error=[self.task('on_error', name)])

    def chord(self, name: str, step: str, task: str = 'doomed', size: int = 3,
              lazy: bool = False) -> Any:
        """Applies a chord whose last part is doomed."""
        parts = [self.module.part.s(number) for number in range(size - 1)]
        parts.append(self.task(task, size - 1, name, step, size - 1))
        header: Any = (part for part in parts) if lazy else parts
        return chord(header, self.body(name)).apply_async()

    def struck(self) -> set[str]:
        return {path.name for path in (self.diary / 'struck').iterdir()}

    def wait_until_struck(self, names: set[str]) -> None:
        deadline = time.monotonic() + 60
        while not names <= self.struck() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.struck() == names

    def wait_until_idle(self) -> None:
        """Waits until each message is acknowledged: no duplicate comes after that."""
        deadline = time.monotonic() + 60
        while any(self.unacked.iterdir()) or any(self.messages.glob('*.msg')):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def reported(self, what: str) -> dict[str, list[Any]]:
        """What the bodies of the chords, or their errbacks ("errors"), were called with."""
        found: dict[str, list[Any]] = {}
        path = self.diary / what
        for line in path.read_text().splitlines() if path.exists() else ():
            name, got = json.loads(line)
            found.setdefault(name, []).append(got)
        return found

    def wait_until_reported(self, what: str, count: int, seconds: float = 60) -> list[Any]:
        """What so many bodies or errbacks were called with, once they were."""
        deadline = time.monotonic() + seconds
        while True:
            got = [each for calls in self.reported(what).values() for each in calls]
            if len(got) >= count or time.monotonic() > deadline:
                return got
            time.sleep(0.05)


@pytest.fixture
def doomed_workers(
        tmp_path: Path, proxy: Proxy, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> Iterator[DoomedWorkers]:
    workers = DoomedWorkers(
        tmp_path, monkeypatch, backend_url(f'local/{table_name}', proxy.url))
    ready(workers.module.app, proxy)
    yield workers
    workers.stop()
    print((tmp_path / 'log').read_text()[-20_000:])


@pytest.fixture
def sqs_workers(
        tmp_path: Path, endpoint: str, client: Any, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> Iterator[DoomedWorkers]:
    """Workers whose broker is SQS, as moto's server plays it."""
    pytest.importorskip('pycurl')
    monkeypatch.delitem(sys.modules, 'sqs_broker', raising=False)
    with dynamodb_local.moto_engine(os.environ) as server:
        workers = DoomedWorkers(
            tmp_path, monkeypatch, backend_url(f'local/{table_name}', endpoint),
            BROKER='sqs_broker', SQS=server.endpoint.rpartition('/')[2])
        workers.module.app.backend.get('the table is made')
        yield workers
        workers.stop()
        print((tmp_path / 'log').read_text()[-20_000:])


def outcomes(chords: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
    """What the body of each chord returned, or the name of the error that ended it or the wait."""
    deadline, found = time.monotonic() + seconds, {}
    for name, result in chords.items():
        try:
            found[name] = result.get(
                timeout=max(0.1, deadline - time.monotonic()), follow_parents=False)
        except (ChordError, TimeoutError) as exc:
            found[name] = type(exc).__name__
    return found


def lines_of(log: Path, text: str) -> dict[str, list[str]]:
    """The lines of a worker's log with a text, by process."""
    found: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        if text in line:
            found.setdefault(line.partition('/')[2].partition(']')[0], []).append(line)
    return found


# --------------------------------------------------------------------------------------------------
# Options and configuration
# --------------------------------------------------------------------------------------------------

def options(url: str | None = None, table: str | None = None, **conf: Any) -> dv.Options:
    app = Celery('options', set_as_current=False)
    app.conf.update(conf)
    return dv.parse_options(url, app.conf, table)


LOCAL = {'region': 'us-east-1', 'endpoint_url': 'http://localhost:8000'}
ARN = 'arn:aws:dynamodb:eu-west-1:123456789012:table/celery'
ROLE = 'arn:aws:iam::123456789012:role/worker'
GOOD_URLS: list[tuple[str, dict[str, Any]]] = [
    ('dynamodb://us-east-1',
     {'region': 'us-east-1', 'endpoint_url': None, 'table': 'celery', 'access_key': None}),
    ('dynamodb://@us-east-1', {'region': 'us-east-1', 'access_key': None}),
    ('dynamodb://', {'region': None, 'endpoint_url': None}),
    ('dynamodb:///results', {'region': None, 'table': 'results'}),
    ('dynamodb://us-gov-west-1/t.a_b-1', {'region': 'us-gov-west-1', 'table': 't.a_b-1'}),
    ('dynamodb://cn-northwest-1', {'region': 'cn-northwest-1'}),
    ('dynamodb://ap-southeast-5', {'region': 'ap-southeast-5'}),
    ('dynamodb://us-isob-east-1', {'region': 'us-isob-east-1'}),
    ('dynamodb://eusc-de-east-1', {'region': 'eusc-de-east-1'}),
    ('dynamodb://eu-west-1:1234/results/',
     {'region': 'eu-west-1', 'endpoint_url': None, 'table': 'results'}),
    (f'dynamodb://AKID:{quote(SECRET, safe="")}@eu-west-1/t-1',
     {'access_key': 'AKID', 'secret_key': SECRET, 'region': 'eu-west-1', 'table': 't-1'}),
    ('dynamodb://local', {**LOCAL, 'local': True}),
    ('dynamodb://local:9000/abc',
     {'endpoint_url': 'http://localhost:9000', 'table': 'abc', 'local': True}),
    ('dynamodb://localhost', {**LOCAL, 'local': False}),
    ('dynamodb://localhost:1234', {'endpoint_url': 'http://localhost:1234'}),
    ('dynamodb://@127.0.0.1:8000',
     {'endpoint_url': 'http://127.0.0.1:8000', 'region': 'us-east-1'}),
    ('dynamodb://[::1]:8000', {'endpoint_url': 'http://[::1]:8000'}),
    ('dynamodb://dynamodb-local:8000/abc',
     {'endpoint_url': 'http://dynamodb-local:8000', 'table': 'abc'}),
    ('dynamodb://my-db-1:8000', {'endpoint_url': 'http://my-db-1:8000'}),
    (f'dynamodb:///{ARN}',
     {'region': 'eu-west-1', 'table': ARN, 'create_table': False, 'endpoint_url': None}),
    (f'dynamodb://eu-west-1/{quote(ARN, safe="")}?create_table=no', {'table': ARN}),
    (f'dynamodb://localhost:8000/{ARN}',
     {'region': 'eu-west-1', 'endpoint_url': 'http://localhost:8000'}),
    ('dynamodb:///arn:aws-us-gov:dynamodb:us-gov-west-1:123456789012:table/t-1',
     {'region': 'us-gov-west-1'}),
    ('dynamodb://eu-west-1?endpoint_url=https%3A%2F%2Fvpce.example.com', {
        'region': 'eu-west-1', 'endpoint_url': 'https://vpce.example.com'}),
    ('dynamodb://eu-west-1?read=7&write=8',
     {'read_throughput': 7, 'write_throughput': 8, 'billing_mode': 'PROVISIONED'}),
    ('dynamodb://eu-west-1', {'read_throughput': 5, 'write_throughput': 5}),
    ('dynamodb://eu-west-1?billing_mode=on_demand', {'billing_mode': 'PAY_PER_REQUEST'}),
    ('dynamodb://eu-west-1?create_table=false&deletion_protection=yes',
     {'create_table': False, 'deletion_protection': True}),
    ('dynamodb://eu-west-1?table_class=STANDARD_INFREQUENT_ACCESS',
     {'table_class': 'STANDARD_INFREQUENT_ACCESS'}),
    ('dynamodb://eu-west-1?tags=team:data,env:prod', {'tags': (('team', 'data'), ('env', 'prod'))}),
    ('dynamodb://eu-west-1?encryption_key=alias/results', {'encryption_key': 'alias/results'}),
    ('dynamodb://eu-west-1?ttl_seconds=-1', {'ttl_seconds': -1}),
    ('dynamodb://eu-west-1?retry_if_throttled=0&retry_timeout=2.5'
     '&retry_base_delay=.1&retry_max_delay=3',
     {'retry_if_throttled': False, 'retry_timeout': 2.5,
      'retry_base_delay': .1, 'retry_max_delay': 3}),
    ('dynamodb://eu-west-1?consistency_wait_time=0&max_result_size=1000&celery_keys=on',
     {'consistency_wait_time': 0, 'max_result_size': 1000, 'celery_keys': True}),
    ('dynamodb://eu-west-1?max_pool_connections=3&connect_timeout=1&read_timeout=2',
     {'max_pool_connections': 3, 'connect_timeout': 1, 'read_timeout': 2}),
]


@pytest.mark.parametrize(('url', 'expected'), GOOD_URLS)
def test_good_urls(url: str, expected: dict[str, Any]) -> None:
    parsed = options(url)
    assert {name: getattr(parsed, name) for name in expected} == expected


BAD_URLS = [
    ('dynamodb://us-esat-1', "region='us-esat-1' must be an AWS region such as eu-west-1"),
    ('dynamodb://AKID@eu-west-1', 'an access key without a secret key'),
    (f'dynamodb://:{quote(SECRET, safe="")}@eu-west-1', 'a secret key without an access key'),
    (f'dynamodb://AKID:{SECRET}@eu-west-1/celery', 'URL-quote the keys'),
    ('dynamodb://AKID:sec@ret@eu-west-1/celery', 'URL-quote the keys'),
    ('dynamodb://AKID:sec#ret@eu-west-1/celery', 'URL-quote the keys'),
    ('dynamodb://AKID:12?sec+ret@eu-west-1/celery?read=5', 'URL-quote the keys'),
    ('dynamodb://AKID:**@eu-west-1', 'mask of as_uri'),
    (f'dynamodb://AKID:{SECRET.replace("/", "")}',
     'the URL must be dynamodb://access_key:secret_key@region:port/table'),
    ('dynamodb://localhost:99999', 'the port a number from 1 to 65535'),
    ('dynamodb://[::1', 'the URL must be dynamodb://'),
    ('dynamodb://eu-west-1/ab', "table='ab' must be 3 to 255 letters"),
    ('dynamodb://eu-west-1/a%20table', "table='a table' must be 3 to 255 letters"),
    ('dynamodb://eu-west-1/one/two', "table='one/two' must be"),
    (f'dynamodb://us-east-1/{ARN}',
     "region='us-east-1' must be eu-west-1, as in the ARN of the table, or left out"),
    (f'dynamodb:///{ARN}?create_table=true', 'create_table=True must be left out if the table is'),
    (f'dynamodb:///{ARN}/index/by-name', 'or the ARN of a table'),
    ('dynamodb:///arn:aws:s3:eu-west-1:123456789012:table/celery', 'or the ARN of a table'),
    ('dynamodb://eu-west-1?raed_throughput=5',
     "there is no option 'raed_throughput'; did you mean read_throughput?"),
    ('dynamodb://eu-west-1?zzz=5', "there is no option 'zzz'; the options are"),
    ('dynamodb://eu-west-1?read=0', "read='0' must be a whole number, 1 or more"),
    ('dynamodb://eu-west-1?read=5.5', "read='5.5' must be a whole number, 1 or more"),
    ('dynamodb://eu-west-1?read=5&read=6', 'read twice'),
    ('dynamodb://eu-west-1?read=5&read_throughput=6',
     'read and read_throughput are the same option; give one'),
    ('dynamodb://eu-west-1?read=', "read='' must be a whole number"),
    ('dynamodb://eu-west-1?billing_mode=free',
     "billing_mode='free' must be provisioned or on_demand"),
    ('dynamodb://eu-west-1?billing_mode=on_demand&read=5', 'left out if billing_mode=on_demand'),
    ('dynamodb://eu-west-1?create_table=maybe', "create_table='maybe' must be true or false"),
    ('dynamodb://dynamo_db:8000',
     "host='dynamo_db' must be a host name, of letters, digits, \"-\" and \".\""),
    ('dynamodb://eu-west-1?tags=team', "tags='team' must be key:value"),
    ('dynamodb://eu-west-1?visibility_timeout=9',
     "there is no option 'visibility_timeout'; the options are"),
    ('dynamodb://eu-west-1?ttl_seconds=1_0', "ttl_seconds='1_0' must be a whole number"),
    ('dynamodb://eu-west-1?ttl_seconds=soon', "ttl_seconds='soon' must be a whole number"),
    ('dynamodb://eu-west-1?ttl_seconds=10000000000', 'a whole number of at most ten digits'),
    ('dynamodb://eu-west-1?retry_timeout=-1', "retry_timeout='-1' must be seconds, 0 or more"),
    ('dynamodb://eu-west-1?retry_timeout=nan', "retry_timeout='nan' must be seconds"),
    ('dynamodb://eu-west-1?retry_base_delay=0',
     "retry_base_delay='0' must be seconds, more than 0"),
    ('dynamodb://eu-west-1?connect_timeout=inf', "connect_timeout='inf' must be seconds"),
    ('dynamodb://eu-west-1?tags=,', 'tags='),
    ('dynamodb://eu-west-1?endpoint_url=ftp://x', 'endpoint_url='),
    (f'dynamodb://eu-west-1?endpoint_url=http://user:{quote(SECRET, safe="")}@host',
     'without user name or password'),
    ('dynamodb://eu-west-1?use_fips_endpoint=true',
     "there is no option 'use_fips_endpoint'; set AWS_USE_FIPS_ENDPOINT"),
    ('dynamodb://eu-west-1?use_dualstack_endpoint=1', 'set AWS_USE_DUALSTACK_ENDPOINT'),
    ('dynamodb://AKID:secret@eu-west-1?profile=prod',
     "profile='prod' must be left out if the URL has keys"),
    ('dynamodb://eu-west-1?global_keyprefix=abc', 'result_backend_transport_options'),
    ('dynamodb://eu-west-1?role_arn=worker',
     "role_arn='worker' must be the ARN of a role, such as arn:aws:iam::123456789012:role/worker"),
    ('dynamodb://eu-west-1?role_arn=arn:aws:iam::123456789012:user/worker', 'the ARN of a role'),
    ('dynamodb://eu-west-1?role_arn=arn:aws:iam::123456789012:role/a%20b', 'the ARN of a role'),
    (f'dynamodb://eu-west-1?role_arn={ROLE}&role_session_name=a+b',
     "role_session_name='a b' must be 2 to 64 letters"),
    (f'dynamodb://eu-west-1?role_arn={ROLE}&external_id={quote(SECRET)}%20',
     "external_id='…' must be a text of 2 to 1,224 letters"),
    (f'dynamodb://eu-west-1?role_arn={ROLE}&external_id=**', '** is the mask of as_uri()'),
    (f'dynamodb://eu-west-1?external_id={quote(SECRET)}',
     "external_id='…' must be left out if there is no role_arn"),
    ('dynamodb://eu-west-1?role_session_name=celery',
     "role_session_name='celery' must be left out if there is no role_arn"),
]


@pytest.mark.parametrize(('url', 'message'), BAD_URLS)
def test_bad_urls_name_the_option_and_what_would_be_right(url: str, message: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        options(url)
    assert message in str(caught.value)
    for piece in (SECRET, 'K7MDENG', 'wJalr', 'sec@', 'ret@', '**@'):
        assert piece not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__


@given(st.text(max_size=60))
def test_any_url_is_parsed_or_refused(text: str) -> None:
    try:
        options('dynamodb://' + text)
    except ImproperlyConfigured:
        pass


@given(st.text(
    st.characters(codec='ascii', exclude_categories=['Cc', 'Zs']), min_size=1, max_size=40))
def test_quoted_keys_survive(secret: str) -> None:
    url = f'dynamodb://AKID:{quote(secret, safe="")}@eu-west-1/celery'
    if secret != '**':
        assert options(url).secret_key == secret
        assert dv.mask_secret(url) == 'dynamodb://AKID:**@eu-west-1/celery'


def test_a_table_name_that_the_caller_gives_is_checked() -> None:
    with pytest.raises(ImproperlyConfigured, match="table_name='x' must be 3 to 255 letters"):
        options('dynamodb://eu-west-1', table='x')
    assert options('dynamodb://', table=ARN).region == 'eu-west-1'


def test_the_query_wins_over_transport_options_and_these_over_settings() -> None:
    transport = {
        'read_throughput': 10, 'write': 20, 'tags': {'team': 'data'}, 'create_table': False}
    parsed = options('dynamodb://eu-west-1?read=30', result_backend_transport_options=transport)
    assert (parsed.read_throughput, parsed.write_throughput) == (30, 20)
    assert (parsed.tags, parsed.create_table) == ((('team', 'data'),), False)

    settings = {'dynamodb_endpoint_url': 'http://one:1'}
    assert options('dynamodb://localhost:8000', **settings).endpoint_url == 'http://one:1'
    assert options('dynamodb://local', **settings).endpoint_url == 'http://one:1'
    transport = {'endpoint_url': 'http://two:2'}
    both = options('dynamodb://eu-west-1', result_backend_transport_options=transport, **settings)
    assert both.endpoint_url == 'http://two:2'
    for unset in ({'profile': None, 'global_keyprefix': None}, {'global_keyprefix': ''}):
        parsed = options('dynamodb://eu-west-1', result_backend_transport_options=unset)
        assert parsed.profile is None
    with pytest.raises(ImproperlyConfigured, match='read_throughput=True must be'):
        options('dynamodb://eu-west-1', result_backend_transport_options={'read_throughput': True})


def test_transport_options_for_brokers_and_other_backends_are_let_pass(
        caplog: pytest.LogCaptureFixture) -> None:
    # what Celery's documentation shows for Redis, Sentinel and SQS
    transport: dict[str, Any] = {
        'visibility_timeout': 18000, 'retry_policy': {'timeout': 5.0}, 'master_name': 'mymaster',
        'result_chord_ordered': True, 'socket_timeout': 1, 'predefined_queues': {},
        'polling_interval': 1, 'sentinel_kwargs': {'password': SECRET}, 'retry_timeout': 60,
        # which look like ours; and what no documentation has
        'max_connections': 5, 'retry_on_timeout': True, 'retry_timeout_seconds': 9,
        'retry_total': 3, 'socket_connect_timeout': 1, 'sts_role_arn': ROLE,
        'region': 'eu-west-1', 'frobnicate': SECRET}
    url = 'dynamodb://eu-west-1'
    assert options(url, result_backend_transport_options=transport).retry_timeout == 60
    assert caplog.records == []

    with pytest.raises(ImproperlyConfigured, match="'retry_timout'; did you mean retry_timeout"):
        options(url, result_backend_transport_options={**transport, 'retry_timout': 5})
    with pytest.raises(ImproperlyConfigured, match='set AWS_USE_FIPS_ENDPOINT'):
        options(url, result_backend_transport_options={'use_fips_endpoint': True})
    with pytest.raises(ImproperlyConfigured, match="no option 'visibility_timeout'"):
        options(url + '?visibility_timeout=5')


def test_celerys_retry_settings_count_where_they_are_set() -> None:
    unset = options('dynamodb://eu-west-1')
    assert (unset.retry_base_delay, unset.retry_max_delay) == (0.05, 5.0)
    assert unset.max_retries == float('inf')
    conf: dict[str, Any] = {
        'result_backend_base_sleep_between_retries_ms': 20,
        'result_backend_max_sleep_between_retries_ms': 3000,
        'result_backend_max_retries': 4}
    parsed = options('dynamodb://eu-west-1?retry_max_delay=9', **conf)
    assert (parsed.retry_base_delay, parsed.retry_max_delay, parsed.max_retries) == (0.02, 9, 4)
    with pytest.raises(ImproperlyConfigured, match='result_backend_max_retries=-1 must be'):
        options('dynamodb://eu-west-1', result_backend_max_retries=-1)


def test_without_a_region_anywhere_the_backend_does_not_start(
        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('AWS_DEFAULT_REGION', 'AWS_REGION', 'AWS_PROFILE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('AWS_CONFIG_FILE', os.devnull)
    app = Celery('nowhere', backend='dyna_veggie.DynamoDBBackend+dynamodb://', set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match='no region: name it in the URL'):
        app.backend  # noqa: B018
    monkeypatch.setenv('AWS_DEFAULT_REGION', 'eu-west-3')
    assert dv.connect(app.backend.options).meta.region_name == 'eu-west-3'


@pytest.mark.parametrize(('place', 'named', 'expected'), [
    ('eu-north-1', {'AWS_DEFAULT_REGION': 'eu-west-2', 'AWS_REGION': 'eu-south-1'}, 'eu-north-1'),
    ('', {'AWS_DEFAULT_REGION': 'eu-west-2', 'AWS_REGION': 'eu-south-1'}, 'eu-west-2'),
    ('', {'config': 'eu-west-3', 'AWS_REGION': 'eu-south-1'}, 'eu-west-3'),
    ('', {'AWS_REGION': 'eu-south-1'}, 'eu-south-1'),
    # botocore has no region for STS here, unless it is given that of the URL
    ('eu-south-1', {}, 'eu-south-1')])
def test_aws_region_counts_if_nothing_else_names_a_region(
        place: str, named: dict[str, str], expected: str, configure_aws: Any, sts: Sts,
        proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    config = f'region = {named["config"]}\n' if 'config' in named else ''
    variables = {name: value for name, value in named.items() if name != 'config'}
    configure_aws(ASSUMING + config, **KEYS, **variables)
    if 'AWS_DEFAULT_REGION' not in variables:
        monkeypatch.delenv('AWS_DEFAULT_REGION')
    app = Celery(backend=backend_url(f'{place}/nowhere', proxy.url, '&profile=p'),
                 set_as_current=False)
    assert dv.connect(app.backend.options).meta.region_name == expected
    rows = {row['name']: row for row in checked(app)['checks']}
    assert rows['region']['found'] == expected and rows['credentials']['ok'] is True
    result = click.testing.CliRunner().invoke(dv.commands, ['policy'], obj=Holder(app))
    resource = json.loads(result.output)['Statement'][0]['Resource']
    assert resource.startswith(f'arn:aws:dynamodb:{expected}:')
    assert dv.identity(app.backend.options).endswith('assumed-role/worker/me')
    assert {asked['region'] for asked in sts.asked} == {sts.region_of(expected)}
    assert {asked['Action'] for asked in sts.asked} == {'AssumeRole', 'GetCallerIdentity'}


def test_a_profile_that_does_not_exist_is_named(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / 'config').write_text('[profile prod]\nregion = eu-west-2\n')
    monkeypatch.setenv('AWS_CONFIG_FILE', str(tmp_path / 'config'))
    url = 'dyna_veggie.DynamoDBBackend+dynamodb:///t-1?profile=nope'
    app = Celery('p', backend=url, set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="profile='nope' must be a profile of AWS's"):
        app.backend  # noqa: B018
    app.conf.result_backend = 'dyna_veggie.DynamoDBBackend+dynamodb://eu-west-2/t-1?profile=nope'
    with pytest.raises(ImproperlyConfigured, match="profile='nope' must be a profile of AWS's"):
        app.backend  # noqa: B018
    app.conf.result_backend = 'dyna_veggie.DynamoDBBackend+dynamodb:///t-1?profile=prod'
    assert dv.connect(app.backend.options).meta.region_name == 'eu-west-2'


@pytest.mark.parametrize('keys', ['AK%0AID:tess', 'AKID:%20', 'AKID:tess%09', 'AKID:tess%C2%A0'])
def test_a_key_in_the_url_has_no_whitespace(keys: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        options(f'dynamodb://{keys}@eu-west-1/celery')
    assert 'key in the URL must be printable ASCII without whitespace' in str(caught.value)
    assert 'tess' not in str(caught.value) and 'AK' not in str(caught.value)


BAD_EXPIRIES = ['soon', math.inf, -math.inf, math.nan, 10**400, [1], True]


@pytest.mark.parametrize('setting', [
    'result_expires', 'result_failure_expires', 'result_chord_expires'])
@pytest.mark.parametrize('bad', BAD_EXPIRIES, ids=lambda bad: repr(bad)[:10])
def test_a_bad_expiry_in_celerys_settings_is_a_clear_error(
        setting: str, bad: Any, make_app: MakeApp) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        assert make_app(**{setting: bad}).backend
    assert str(caught.value) == (
        f'dynamodb result backend: {setting}={bad!r} must be seconds, a timedelta, '
        'or None for ever')


@pytest.mark.parametrize('setting', [
    'result_expires', 'result_failure_expires', 'result_chord_expires'])
def test_an_expiry_in_celerys_settings_can_be_text(setting: str, make_app: MakeApp) -> None:
    backend = make_app(**{setting: '3600'}).backend
    assert backend._state_lifetime(states.SUCCESS) == (
        3600 if setting == 'result_expires' else 86400)
    failed_part = Context({'chord': {'task': 'body'}})
    assert backend._state_lifetime(states.FAILURE, failed_part) == max(
        3600 if setting != 'result_chord_expires' else 86400,
        3600 if setting != 'result_failure_expires' else 86400)


def test_an_expiry_that_a_backend_is_made_with_is_checked(app: Celery) -> None:
    assert dv.DynamoDBBackend(app=app, url='dynamodb://local', expires='60').expires == 60
    with pytest.raises(ImproperlyConfigured, match=' expires=inf must be seconds'):
        dv.DynamoDBBackend(app=app, url='dynamodb://local', expires=math.inf)


@pytest.mark.parametrize('bad', ['soon', math.inf, math.nan, -1])
def test_a_bad_time_to_join_a_chord_is_a_clear_error(bad: Any, make_app: MakeApp) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        assert make_app(result_chord_join_timeout=bad).backend
    assert str(caught.value) == (
        f'dynamodb result backend: result_chord_join_timeout={bad!r} must be seconds, 0 or more')


def test_the_time_to_join_a_chord_can_be_text(make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('consistency_wait_time=0.01', result_chord_join_timeout='0.02')
    drive = Drive(ready(app, proxy).app, 2)
    drive.apply()
    drive.returns(0)
    app.backend.forget(drive.ids[0])
    drive.returns(1)
    assert drive.error().startswith(f'The result of {drive.ids[0]} did not appear: ')


# --------------------------------------------------------------------------------------------------
# Attributes
# --------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.text(min_size=1), st.booleans(), st.binary(), st.frozensets(st.binary(), min_size=1),
    st.integers(-10**37, 10**37),
    st.floats(-1e30, 1e30, allow_subnormal=False).filter(lambda number: number % 1))


@given(st.dictionaries(st.text(min_size=1), VALUES))
def test_items_survive_marshalling(item: dict[str, Any]) -> None:
    assert dv.unmarshal_item(dv.marshal_item(item)) == item


def test_marshalling_is_dynamodbs() -> None:
    marshalled = dv.marshal_item(
        {'s': 'é', 'n': 1, 'f': 1.5, 'b': b'\0', 't': True, 'm': {b'b', b'a'}})
    assert marshalled == {
        's': {'S': 'é'}, 'n': {'N': '1'}, 'f': {'N': '1.5'},
        'b': {'B': b'\0'}, 't': {'BOOL': True}, 'm': {'BS': [b'a', b'b']}}
    assert dv.unmarshal({'L': [{'S': 'x'}]}) == [{'S': 'x'}]
    with pytest.raises(TypeError, match='no DynamoDB attribute for NoneType'):
        dv.marshal(None)


def test_expressions_name_what_they_use() -> None:
    used = dv.expressions(
        {'now': 5, 'unused': 1}, ConditionExpression='#ttl <= :now', UpdateExpression=None)
    assert used == {
        'ConditionExpression': '#ttl <= :now',
        'ExpressionAttributeNames': {'#ttl': 'ttl'},
        'ExpressionAttributeValues': {':now': {'N': '5'}},
        'ReturnValuesOnConditionCheckFailure': 'ALL_OLD'}
    assert dv.expressions({}, ConditionExpression=None) == {}


# --------------------------------------------------------------------------------------------------
# Errors and retries
# --------------------------------------------------------------------------------------------------

@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_are_jittered_and_bounded(retry: int, jitter: float) -> None:
    backoff = dv.Backoff(base=0.05, maximum=5, timeout=60)
    pause = backoff.pause(retry, jitter)
    longest = min(5, 0.05 * 2**min(retry, 100))
    assert 0 <= pause <= longest and pause == pytest.approx(jitter * longest)


def test_attempts_end_at_the_timeout_the_deadline_and_the_count() -> None:
    assert list(dv.Backoff(1, 1, timeout=0).attempts()) == [0]
    assert list(dv.Backoff(1, 1, timeout=60).attempts(dv.ONE_ATTEMPT)) == [0]
    assert list(dv.Backoff(1e-6, 1e-6, timeout=60, max_retries=3).attempts()) == [0, 1, 2, 3]
    # the last pause is cut short, for one more try right at the deadline
    soon = time.monotonic() + 0.01
    assert list(dv.Backoff(1e6, 1e6, timeout=60).attempts(dv.Budget(soon))) == [0, 1]


def test_a_base_of_zero_does_not_hammer() -> None:
    assert dv.Backoff(base=0, maximum=5, timeout=60).pause(3, 0.5) > 0


def client_error(code: str, status: int = 400) -> botocore.exceptions.ClientError:
    answer = {'Error': {'Code': code}, 'ResponseMetadata': {'HTTPStatusCode': status}}
    return botocore.exceptions.ClientError(answer, 'PutItem')


@pytest.mark.parametrize(('error', 'transient'), [
    (client_error('ProvisionedThroughputExceededException'), True),
    (client_error('ThrottlingException'), True),
    (client_error('RequestLimitExceeded'), True),
    (client_error('InternalServerError', 500), True),
    (client_error('Whatever', 503), True),
    (client_error('ValidationException'), False),
    (client_error('AccessDeniedException'), False),
    (client_error('ConditionalCheckFailedException'), False),
    (client_error('ResourceNotFoundException'), False),
    (botocore.exceptions.EndpointConnectionError(endpoint_url='http://x'), True),
    (botocore.exceptions.ConnectTimeoutError(endpoint_url='http://x'), True),
    (botocore.exceptions.ReadTimeoutError(endpoint_url='http://x'), True),
    (botocore.exceptions.ConnectionClosedError(endpoint_url='http://x'), True),
    (botocore.exceptions.SSLError(endpoint_url='https://x', error='CERTIFICATE_VERIFY_FAILED'),
     False),
    (botocore.exceptions.SSLError(endpoint_url='https://x', error='EOF occurred'), True),
    (botocore.exceptions.CredentialRetrievalError(provider='x', error_msg='y'), True),
    (botocore.exceptions.NoCredentialsError(), False),
    (ValueError(), False),
])
def test_what_is_safe_to_retry(error: Exception, transient: bool, app: Celery) -> None:
    assert dv.classify(error).transient is transient
    assert app.backend.exception_safe_to_retry(error) is transient


def test_always_retry_goes_on_after_our_retries(make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app(
        'retry_timeout=0', result_backend_always_retry=True,
        result_backend_base_sleep_between_retries_ms=1, result_backend_max_retries=9)
    backend = ready(app, proxy)
    proxy.faults = first(3, Throttle())
    backend.store_result('id', 1, states.SUCCESS)
    assert len(proxy.requests) == 4
    assert backend.get_result('id') == 1


@pytest.mark.parametrize('status', [408, 429])
def test_a_gateways_refusal_passes(
        status: int, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(), proxy)
    left = [2]

    def refuse(request: Any, **kwargs: Any) -> Any:
        if not left[0]:
            return None
        left[0] -= 1
        return raw_answer(request, b'<html>come back later</html>', status)
    backend.store.table.client.botocore.meta.events.register('before-send.dynamodb', refuse)
    backend.set('key', b'1')
    assert left == [0] and operations(proxy) == ['PutItem']


def test_too_many_requests_is_throttling(make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app('retry_if_throttled=false'), proxy)
    asked = []

    def refuse(request: Any, **kwargs: Any) -> Any:
        asked.append(request)
        return raw_answer(request, b'no', 429)
    backend.store.table.client.botocore.meta.events.register('before-send.dynamodb', refuse)
    with pytest.raises(botocore.exceptions.ClientError):
        backend.get('key')
    assert len(asked) == 1


@pytest.mark.parametrize('code', ['TransactionConflictException', 'IDPCommunicationError'])
def test_what_another_service_or_transaction_hinders_passes(
        code: str, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(), proxy)
    proxy.faults = first(2, Error(code))
    backend.set('key', b'1')
    assert backend.get('key') == b'1'
    assert operations(proxy) == ['PutItem'] * 3 + ['GetItem']


def test_a_summary_shows_no_password_of_a_proxy_but_who_was_denied() -> None:
    error = botocore.exceptions.HTTPClientError(error='no host in http://user:sesame@proxy:x/')
    assert dv.summary(error).endswith('no host in http://**@proxy:x/')
    who = 'arn:aws:sts::123456789012:assumed-role/worker/me@example.com'
    assert who in dv.summary(Exception(f'{who} may not'))


@pytest.mark.parametrize('met', [ValueError('sesame'), KeyError('sesame'), TypeError('sesame')])
def test_an_error_of_python_is_not_a_signals_nor_the_networks(met: Exception) -> None:
    wrapped = botocore.exceptions.HTTPClientError(error=met)
    assert dv.interruption(wrapped) is None and not dv.classify(wrapped).transient


# --------------------------------------------------------------------------------------------------
# Client
# --------------------------------------------------------------------------------------------------

def test_the_client_is_configured_by_the_options() -> None:
    client = dv.connect(options(
        'dynamodb://AKID:secret@us-east-1?max_pool_connections=3&connect_timeout=1&read_timeout=2'))
    config = client.meta.config
    assert (config.max_pool_connections, config.connect_timeout, config.read_timeout) == (3, 1, 2)
    assert client.meta.endpoint_url == 'https://dynamodb.us-east-1.amazonaws.com'
    assert config.retries['total_max_attempts'] == 1


def test_the_secret_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f'dynamodb://AKID:{quote(SECRET, safe="")}@local:1/celery?retry_timeout=0'
    app = Celery('secret', backend='dyna_veggie.DynamoDBBackend+' + url, set_as_current=False)
    backend = app.backend
    shown = [repr(backend), backend.as_uri(), repr(backend.options), str(backend.options)]
    assert app.backend.as_uri() == 'dynamodb://AKID:**@local:1/celery?retry_timeout=0'
    assert app.backend.as_uri(include_password=True) == url
    with pytest.raises(botocore.exceptions.EndpointConnectionError) as caught:
        app.backend.get('key')
    shown += [repr(caught.value), caplog.text, pickle.dumps(backend, protocol=0).decode('latin-1')]
    shown += [''.join(traceback.format_exception(None, caught.value, caught.value.__traceback__))]
    for text in shown:
        assert SECRET not in text and quote(SECRET, safe='') not in text


@pytest.mark.parametrize('url', [
    'dynamodb://', 'dynamodb:///celery',
    'dynamodb:///arn:aws:dynamodb:eu-west-1:123456789012:table/celery',
    'dynamodb://eu-west-1/celery?'])
def test_a_url_without_a_secret_is_shown_as_it_is(url: str) -> None:
    assert dv.mask_secret(url) == url


def test_a_session_token_is_shown_nowhere(
        make_app: MakeApp, proxy: Proxy, table_name: str, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    token = 'IQoJb3JpZ2luX2VjEPz+/Session=='
    monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'AKID')
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', SECRET)
    monkeypatch.setenv('AWS_SESSION_TOKEN', token)
    caplog.set_level(logging.DEBUG)
    url = backend_url(f'us-east-1/{table_name}', proxy.url)
    backend = make_app(result_backend=url).backend
    backend.store_result('id', 'a result', states.SUCCESS)
    assert {request.access_key for request in proxy.requests} == {'AKID'}
    explanation = f'No.\n\nThe Canonical String: x-amz-security-token:{token}'
    proxy.faults = first(1, Error('InvalidSignatureException', explanation))
    with pytest.raises(ImproperlyConfigured) as caught:
        backend.get_result('id')
    shown = [repr(backend), backend.as_uri(), repr(backend.options), caplog.text]
    shown += [pickle.dumps(backend, protocol=0).decode('latin-1')]
    shown += [''.join(traceback.format_exception(None, caught.value, caught.value.__traceback__))]
    assert 'Sending http request' in caplog.text and 'CanonicalRequest' in caplog.text
    assert f'x-amz-security-token:{dv.MASK}' in caplog.text
    for text in shown:
        assert SECRET not in text and token not in text and token[:12] not in text


@pytest.mark.parametrize('said', [
    "{'X-Amz-Security-Token': b'%s', 'Host': 'x'}",
    'x-amz-security-token:%s\nhost:x',
    '<SessionToken>%s</SessionToken>',
    '{"SecretAccessKey": "%s", "Token" : "%s"}',
    r'b\'{"secretAccessKey":"%s","sessionToken":"%s"}\'',
    '{"clientSecret":"%s"}',
])
def test_what_botocore_logs_of_credentials_is_masked(
        said: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    dv.connect(options('dynamodb://local'))
    parsers = logging.getLogger('botocore.parsers')
    parsers.debug('Response body:\n%s', said.replace('%s', 'wJalr/+=Key'))
    assert 'wJalr' not in caplog.text and 'Key=' not in caplog.text and dv.MASK in caplog.text


@pytest.mark.parametrize(
    'fault', [Throttle(), ServerError(), ServerError(503), ResetBefore(), ResetAfter()], ids=repr)
@pytest.mark.parametrize(
    'operation', ['put', 'get', 'mget', 'delete', 'batch delete', 'conditional'])
def test_passing_faults_are_waited_out(
        fault: Any, operation: str, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    backend.set('before', b'value')
    proxy.reset()
    proxy.faults = first(3, fault)
    if operation == 'put':
        backend.set('key', b'new')
        assert backend.get('key') == b'new'
    elif operation == 'get':
        assert backend.get('before') == b'value'
    elif operation == 'mget':
        assert backend.mget(['before', 'no']) == [b'value', None]
    elif operation == 'delete':
        backend.delete('before')
        assert backend.get('before') is None
    elif operation == 'batch delete':
        backend.store.delete_many(['before'])
        assert backend.get('before') is None
    elif operation == 'conditional':
        backend.store_result('id', 5, states.SUCCESS)
        assert backend.get_result('id') == 5
    assert [request.fault for request in proxy.requests][:4] == [fault] * 3 + [None]


class TimeIsUp(Exception):
    pass


@pytest.mark.parametrize(
    'signalled', [TimeIsUp(), celery.exceptions.SoftTimeLimitExceeded()], ids=repr)
def test_what_a_signal_handler_raises_ends_a_request(
        backend: dv.DynamoDBBackend, proxy: Proxy, signalled: Exception) -> None:
    def handler(*args: Any) -> None:
        raise signalled

    def ring(operation: str, body: Any) -> Delay:
        # while the answer is waited for: Python drops what a signal raises in a weakref's callback
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        return Delay(1)
    proxy.faults = ring
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for call in (lambda: backend.store_result('id', 1, states.SUCCESS),
                     lambda: backend.get_state('id')):
            proxy.reset()
            # botocore wraps it as an error of the network, which would be tried again
            with pytest.raises(type(signalled)):
                call()
            assert len(proxy.requests) <= 1
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_response_that_is_not_json_is_asked_for_again(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    left = [2]

    def spoil(response_dict: dict[str, Any], **kwargs: Any) -> None:
        if left[0]:
            left[0] -= 1
            response_dict['body'] = b'<html>maintenance</html>'
    backend.store.table.client.botocore.meta.events.register_first('before-parse.dynamodb', spoil)
    backend.set('key', b'1')
    backend.store.table.client.botocore.meta.events.unregister('before-parse.dynamodb', spoil)
    assert backend.get('key') == b'1'
    # the second, since botocore before 1.36 has no such event
    assert operations(proxy) in (['PutItem'] * 3 + ['GetItem'], ['PutItem', 'GetItem'])


def test_a_retry_is_logged_once_as_a_warning(
        backend: dv.DynamoDBBackend, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, 'dyna_veggie')
    proxy.faults = first(3, Throttle())
    backend.set('key', b'1')
    assert [record.levelname for record in caplog.records] == ['WARNING', 'DEBUG', 'DEBUG']
    assert 'put_item' in caplog.text and 'ProvisionedThroughputExceeded' in caplog.text


@pytest.mark.parametrize('query', ['', 'retry_timeout=0'])
def test_a_request_that_is_sent_once_logs_no_retry(
        query: str, make_app: MakeApp, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    backend = ready(make_app(query), proxy)
    caplog.set_level(logging.DEBUG, dv.__name__)
    proxy.faults = first(2, Throttle())
    with pytest.raises(botocore.exceptions.ClientError):
        backend.store.table.client.send(
            'describe_table', {'TableName': backend.store.table.name}, dv.ONE_ATTEMPT)
    with pytest.raises(TimeoutError):
        backend.app.AsyncResult('id').get(timeout=0)
    assert len(proxy.requests) == 2 and caplog.records == []
    backend.set('key', b'1')
    assert caplog.records == []  # nor a recovery


@pytest.mark.skipif(
    Version(botocore.__version__) < Version('1.40.10'),
    reason='this botocore does not know the reasons')
@pytest.mark.parametrize('code', [
    'ProvisionedThroughputExceededException', 'ThrottlingException', 'RequestLimitExceeded'])
def test_the_reasons_of_throttling_are_logged_and_raised(
        code: str, make_app: MakeApp, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    backend = ready(make_app('retry_timeout=0.1'), proxy)
    proxy.faults = lambda operation, body: Error(
        code, reasons=('TableWriteProvisionedThroughputExceeded',))
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        backend.set('key', b'value')
    reason = 'TableWriteProvisionedThroughputExceeded of arn:'
    assert str(caught.value).count(reason) == 1 and reason in caplog.text
    assert caught.value.response['Error']['Code'] == code
    assert dv.classify(caught.value).throttled


THROTTLED = {
    'TableWriteProvisionedThroughputExceeded': 'raise them, turn on auto scaling, or make it on-d',
    'TableReadMaxOnDemandThroughputExceeded': 'raise the maximum that is set for this on-demand',
    'TableWriteKeyRangeThroughputExceeded': 'one partition has too much to do',
    'TableWriteAccountLimitExceeded': 'ask AWS to raise the quota of the account',
}


@pytest.mark.parametrize('reason', THROTTLED)
def test_the_warning_of_throttling_says_which_limit_and_what_to_do(
        reason: str, backend: dv.DynamoDBBackend, proxy: Proxy,
        caplog: pytest.LogCaptureFixture) -> None:
    arn = 'arn:aws:dynamodb:us-east-1:1:table/t'
    said = {'Error': {'Code': 'ThrottlingException', 'Message': 'Too much.'},
            'throttlingReasons': [{'reason': reason, 'resource': arn}],
            'ResponseMetadata': {'HTTPStatusCode': 400}}
    left = [botocore.exceptions.ClientError(said, 'PutItem')]

    def throttle(**kwargs: Any) -> None:
        if left:
            raise left.pop()  # botocore before 1.40.10 does not read the reasons from an answer

    events = backend.store.table.client.botocore.meta.events
    events.register('before-call.dynamodb.PutItem', throttle)
    backend.set('key', b'1')
    events.unregister('before-call.dynamodb.PutItem', throttle)
    warning, = [record.getMessage() for record in caplog.records if record.name == dv.__name__]
    assert f'{reason} of {arn}' in warning and ' -- ' in warning and THROTTLED[reason] in warning


def test_the_warning_of_throttling_without_reasons(
        backend: dv.DynamoDBBackend, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults = first(1, Throttle())
    backend.set('key', b'1')
    assert 'than its provisioned units: raise them, turn on auto' in caplog.text
    caplog.clear()
    fresh = dv.Table(backend.options)
    proxy.faults = first(1, ServerError())
    fresh.get('key')
    assert 'InternalServerError' in caplog.text and ' -- ' not in caplog.text


@pytest.mark.parametrize(
    ('query', 'requests'), [('retry_timeout=0', 1), ('retry_if_throttled=false', 1)])
def test_the_original_error_is_raised_when_patience_ends(
        query: str, requests: int, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(query), proxy)
    proxy.faults = first(99, Throttle())
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        backend.get('key')
    assert dv.error_code(caught.value) == 'ProvisionedThroughputExceededException'
    assert len(proxy.requests) == requests


def test_result_backend_max_retries_is_kept(make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(result_backend_max_retries=2), proxy)
    proxy.faults = first(99, ServerError())
    with pytest.raises(botocore.exceptions.ClientError):
        backend.get('key')
    assert len(proxy.requests) == 3


PERMANENT = {
    'AccessDeniedException': 'the IAM action dynamodb:GetItem is needed, and denied',
    'UnrecognizedClientException': 'AWS does not know these credentials there: '
                                   'check the access key, and that the region',
    'InvalidSignatureException': 'the signature is not accepted: '
                                 'check the secret key, and the clock of this machine',
}


@pytest.mark.parametrize('code', PERMANENT)
def test_permanent_errors_are_raised_at_once_with_what_to_do(
        code: str, backend: dv.DynamoDBBackend, proxy: Proxy, table_name: str) -> None:
    # AWS explains a wrong signature with all that was signed
    signed = '\'POST\nx-amz-security-token:IQoJb3'
    proxy.faults = first(99, Error(code, f'No.\n\nThe Canonical String should have been\n{signed}'))
    with pytest.raises(ImproperlyConfigured) as caught:
        backend.get('key')
    place = f"table='{table_name}' in region us-east-1"
    assert str(caught.value).startswith(f'dynamodb result backend: {place}: {PERMANENT[code]}')
    shown = ''.join(traceback.format_exception(None, caught.value, None))
    assert code in str(caught.value) and 'IQoJb3' not in shown
    assert caught.value.__context__ is None
    assert operations(proxy) == ['GetItem']


def test_other_permanent_errors_are_botocores(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    proxy.faults = first(99, Error('ValidationException', 'no'))
    with pytest.raises(botocore.exceptions.ClientError, match='ValidationException'):
        backend.get('key')
    assert operations(proxy).count('GetItem') == 1


def credential_process(
        folder: Path, monkeypatch: pytest.MonkeyPatch, failing_calls: list[str]) -> None:
    """Has botocore take its credentials from tools/expiring_credentials.py."""
    program = str(ROOT / 'tools' / 'expiring_credentials.py')
    process = shlex.join([sys.executable, program, *failing_calls])
    (folder / 'config').write_text(
        f'[profile p]\nregion = us-east-1\ncredential_process = {process}\n')
    monkeypatch.chdir(folder)
    monkeypatch.setenv('AWS_CONFIG_FILE', str(folder / 'config'))
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'):
        monkeypatch.delenv(name, raising=False)


def test_credentials_that_expire_are_renewed(
        endpoint: str, make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    credential_process(tmp_path, monkeypatch, failing_calls=['2', '3'])
    url = backend_url(
        f'/renewed-{uuid.uuid4().hex}', proxy.url, '&profile=p&retry_base_delay=0.001')
    app = make_app(result_backend=url)
    app.backend.store_result('id', 1, states.SUCCESS)
    assert app.backend.get_result('id') == 1
    # the fourth, since the process failed twice
    assert {request.access_key for request in proxy.requests} == {'AKID4'}
    assert (tmp_path / 'called').read_text() == 'xxxx'


def test_a_token_that_aws_calls_expired_is_looked_for_anew(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, dv.__name__)
    shared = tmp_path / 'credentials'
    monkeypatch.setenv('AWS_SHARED_CREDENTIALS_FILE', str(shared))
    monkeypatch.setenv('AWS_CONFIG_FILE', os.devnull)
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'):
        monkeypatch.delenv(name, raising=False)
    keys = ('[default]\naws_access_key_id = {}\n'
            'aws_secret_access_key = secret\naws_session_token = token\n')
    shared.write_text(keys.format('OLD'))
    url = backend_url('us-east-1/renewed', proxy.url, '&retry_base_delay=0.05')
    backend = make_app(result_backend=url).backend
    backend.set('key', b'1')
    # as whatever renews them does; botocore reads the file once
    shared.write_text(keys.format('NEW'))
    proxy.reset()
    expired = Error(
        'ExpiredTokenException', 'The security token included in the request is expired')
    proxy.faults = first(1, expired)
    assert backend.get('key') == b'1'
    assert [request.access_key for request in proxy.requests] == ['OLD', 'NEW']
    assert 'ExpiredTokenException' in caplog.text

    proxy.faults = first(9999, expired)
    # result_backend_always_retry goes on: somebody may renew them later
    with pytest.raises(ImproperlyConfigured) as caught:
        make_app(result_backend=f'{url}&retry_timeout=0').backend.get('key')
    assert backend.exception_safe_to_retry(caught.value)
    with pytest.raises(ImproperlyConfigured, match=(
            'the credentials have expired, and where they came from there are no new ones')):
        make_app(result_backend=url + '&retry_timeout=0.1').backend.get('key')


def test_credentials_that_are_put_right_are_taken_without_a_restart(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared = tmp_path / 'credentials'
    monkeypatch.setenv('AWS_SHARED_CREDENTIALS_FILE', str(shared))
    monkeypatch.setenv('AWS_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'):
        monkeypatch.delenv(name, raising=False)
    keys = '[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n'
    # https, which needs credentials: what the proxy answers is not asked for before they are there
    secure = proxy.url.replace('http:', 'https:')
    url = backend_url('us-east-1/renewed', secure, '&retry_timeout=0&connect_timeout=1')
    nowhere = make_app(result_backend=url).backend
    with pytest.raises(ImproperlyConfigured, match='there are no credentials'):
        nowhere.get('key')
    shared.write_text(keys.format('OLD'))
    # it has credentials, and the proxy speaks no TLS
    with pytest.raises(botocore.exceptions.SSLError):
        nowhere.get('key')

    backend = make_app(result_backend=backend_url('us-east-1/renewed', proxy.url)).backend
    backend.set('key', b'1')
    proxy.reset()
    codes = ('UnrecognizedClientException', 'InvalidSignatureException', 'SignatureDoesNotMatch')
    for number, code in enumerate(codes):
        proxy.faults = first(1, Error(code, 'no'))
        with pytest.raises(ImproperlyConfigured):
            backend.get('key')
        shared.write_text(keys.format(f'NEW{number}'))
        assert backend.get('key') == b'1'
    keys_used = [request.access_key for request in proxy.requests]
    assert keys_used == ['OLD', 'NEW0', 'NEW0', 'NEW1', 'NEW1', 'NEW2']


def test_credentials_that_are_late_when_it_connects_are_waited_for(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    credential_process(tmp_path, monkeypatch, failing_calls=['1', '2'])
    url = backend_url(f'/late-{uuid.uuid4().hex}', proxy.url, '&profile=p&retry_base_delay=0.001')
    backend = make_app(result_backend=url).backend
    backend.store_result('id', 1, states.SUCCESS)
    assert backend.get_result('id') == 1


def test_a_denial_of_another_service_is_named_as_it_is(backend: dv.DynamoDBBackend) -> None:
    denied = botocore.exceptions.ClientError(
        {'Error': {'Code': 'AccessDenied', 'Message': 'no'}}, 'AssumeRoleWithWebIdentity')
    backend.get('key')
    explained = str(backend.store.table.client._explain(denied))
    assert 'the IAM action AssumeRoleWithWebIdentity is needed' in explained


def test_a_read_is_not_retried_past_its_deadline(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    proxy.faults = first(9999, Throttle())
    with pytest.raises(TimeoutError):
        backend.app.AsyncResult('id').get(timeout=0.05)
    proxy.reset()
    with pytest.raises(TimeoutError):
        backend.app.AsyncResult('id').get(timeout=0)
    assert len(proxy.requests) == 1
    proxy.reset()
    with pytest.raises(TimeoutError):
        list(backend.get_many({'a', 'b'}, timeout=0))
    assert len(proxy.requests) == 1


def test_one_client_for_all_threads(make_app: MakeApp, proxy: Proxy) -> None:
    app, clients = make_app(), []
    ready(app, proxy)

    def use() -> None:
        app.backend.get('key')
        clients.append((app.backend, app.backend.store.table.client.botocore))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(backend) for backend, _ in clients}) == 8
    assert len({id(client) for _, client in clients}) == 1
    other = make_app('read_timeout=9')
    assert other.backend.store.table.client.botocore is not clients[0][1]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_child_has_a_client_and_sockets_of_its_own(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    backend.set('key', b'value')
    client = backend.store.table.client.botocore
    reading, writing = os.pipe()
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:  # nothing of pytest may run here
            try:
                for number in range(20):
                    backend.set(f'{os.getpid()}/{number}', b'x')
                own = backend.store.table.client.botocore
                good = backend.get('key') == b'value' and own is not client
                os.write(writing, b'good ' if good else b'bad ')
            finally:
                os._exit(0)
        children.append(child)
    os.close(writing)
    for number in range(20):
        backend.set(f'{os.getpid()}/{number}', b'x')
    with os.fdopen(reading, 'rb') as pipe:
        assert pipe.read() == b'good good good '
    for child in children:
        os.waitpid(child, 0)
    assert backend.store.table.client.botocore is client and backend.get('key') == b'value'
    ports: dict[str, set[int]] = {}
    for request in proxy.requests:
        if '/' in request.ids[0]:
            ports.setdefault(request.ids[0].partition('/')[0], set()).add(request.port)
    # no socket is anybody else's
    assert len(ports) == 4
    assert len(set.union(*ports.values())) == sum(map(len, ports.values()))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.parametrize('holding', ['client', 'table'])
def test_a_child_waits_for_no_lock_that_a_thread_of_its_parent_holds(
        holding: str, configure_aws: Any, make_app: MakeApp, proxy: Proxy, table_name: str,
        tmp_path: Path) -> None:
    go_on, first = tmp_path / 'go-on', itertools.count()
    keys = json.dumps({'Version': 1, 'AccessKeyId': 'AKIDEXAMPLE', 'SecretAccessKey': 'secret'})
    program = tmp_path / 'credentials'  # its first call lasts until the child has ended
    program.write_text(f'mkdir {tmp_path}/first && while [ ! -e {go_on} ]; do sleep 0.02; done\n'
                       f"echo '{keys}'")
    if holding == 'client':
        configure_aws(f'[default]\ncredential_process = sh {program}\n')
    else:
        configure_aws(**KEYS)
        proxy.faults = lambda operation, body: (
            Delay(0.5) if operation == 'CreateTable' and not next(first) else None)
    backend = make_app(result_backend=backend_url(f'us-east-1/{table_name}', proxy.url)).backend
    thread = threading.Thread(target=backend.set, args=('key', b'1'), daemon=True)
    thread.start()
    table = backend.store.table
    lock = table.client._lock if holding == 'client' else table._bootstrapping
    # the thread's call of the program has to be the first, not the child's
    while not (lock.locked() and (holding == 'table' or Path(tmp_path, 'first').exists())):
        time.sleep(0.01)
    child = os.fork()
    if not child:
        try:
            signal.alarm(30)  # ends it if it hangs
            backend.set('of the child', b'2')
            os._exit(0 if backend.get('of the child') == b'2' else 2)
        finally:
            os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
    go_on.touch()
    thread.join(30)
    assert (backend.get('key'), backend.get('of the child')) == (b'1', b'2')


IN_A_SUB_INTERPRETER = """
import asyncio
import logging
import queue
import sys
import threading
sys.path.insert(0, {root!r})
logging.basicConfig(filename={log!r}, format='%(message)s')
from celery import Celery, states
import dyna_veggie as dv

try:
    threading.Thread(target=print, daemon=True)
except RuntimeError:
    pass
else:
    raise AssertionError('it has daemon threads')
app = Celery('sub', broker='memory://', backend={url!r})
results = app.GroupResult('g', [app.AsyncResult(str(n)) for n in range(250)])
app.backend.store.table.write_many(puts=[
    dict(id=app.backend.item_id(leaf.id), status='SUCCESS', timestamp=1,
         result=b'{{"status": "SUCCESS", "result": ' + leaf.id.encode() + b'}}')
    for leaf in results])
assert results.get(timeout=60) == list(range(250))
found = []
dv.scan(app.backend.store.table, 2, found.extend)
assert len(found) == 250
called = queue.SimpleQueue()
app.AsyncResult('never').then(called.put)  # the end of the interpreter does not wait for it
app.AsyncResult('7').then(lambda result: called.put(result.get()))
assert called.get(timeout=60) == 7
async def awaited():
    return await app.AsyncResult('8')
assert asyncio.run(awaited()) == 8
results.forget()
found.clear()
dv.scan(app.backend.store.table, 2, found.extend)
assert found == []
assert app.send_task('task', task_id='sent').id == 'sent'
"""


@pytest.mark.skipif(sys.version_info < (3, 13), reason='its sub-interpreters do not load Celery')
def test_an_interpreter_without_daemon_threads_does_all_in_its_own(
        table_name: str, endpoint: str, tmp_path: Path) -> None:
    log = tmp_path / 'log'
    code = IN_A_SUB_INTERPRETER.format(
        root=str(ROOT), log=str(log),
        url=backend_url(f'local/{table_name}', endpoint, '&track_sent=true'))
    interpreters = importlib.import_module('_interpreters')
    interpreter = interpreters.create()
    try:
        failed = interpreters.exec(interpreter, code)
    finally:
        interpreters.destroy(interpreter)
    assert failed is None, failed.errdisplay
    assert 'it is not stored that they were: no thread can be started' in log.read_text()


@contextlib.contextmanager
def no_more_threads() -> Iterator[None]:
    usual = threading.stack_size(1 << 46)  # bytes, which nobody has
    try:
        with pytest.raises(RuntimeError):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(usual)


def test_there_is_one_place_that_starts_threads() -> None:
    assert inspect.getsource(dv).count('Thread(') == 1


class Answer:
    """The raw part of a response; no header says how long it is, as when it is chunked."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        yield self._body

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        return self._body


def raw_answer(
        request: Any, body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Any:
    return botocore.awsrequest.AWSResponse(request.url, status, headers, Answer(body))


@pytest.fixture
def configure_aws(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Sets up AWS's configuration: variables, and the text of the configuration file."""
    def configure(config: str = '', **variables: str) -> None:
        for name in list(os.environ):
            if name.startswith('AWS_'):
                monkeypatch.delenv(name)
        (tmp_path / 'config').write_text(config)
        standard = {
            'AWS_CONFIG_FILE': str(tmp_path / 'config'), 'AWS_EC2_METADATA_DISABLED': 'true',
            'AWS_SHARED_CREDENTIALS_FILE': os.devnull, 'AWS_DEFAULT_REGION': 'us-east-1'}
        for name, value in {**standard, **variables}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv('HOME', str(tmp_path))  # where the tokens of a login are
    yield configure


KEYS = {'AWS_ACCESS_KEY_ID': 'AKIDEXAMPLE', 'AWS_SECRET_ACCESS_KEY': SECRET}
TOKEN = 'IQoJb3JpZ2luX2VjEPz'
ASSUMING = ('[profile p]\nrole_arn = arn:aws:iam::123456789012:role/worker\n'
            'credential_source = Environment\n')


@pytest.mark.parametrize(('config', 'variables'), [
    ('', {'AWS_USE_FIPS_ENDPOINT': 'true'}),
    ('[default]\nuse_fips_endpoint = true\n', {}),
], ids=['environment', 'profile'])
def test_botocore_is_configured_to_use_fips_endpoints(
        config: str, variables: dict[str, str], configure_aws: Any) -> None:
    configure_aws(config, **KEYS, **variables)
    client = dv.connect(options('dynamodb://us-east-1'))
    assert client.meta.endpoint_url == 'https://dynamodb-fips.us-east-1.amazonaws.com'


@pytest.mark.parametrize(('config', 'variables'), [
    ('', {**KEYS, 'AWS_SESSION_TOKEN': TOKEN + '\n'}),
    ('', {**KEYS, 'AWS_SESSION_TOKEN': TOKEN[:9] + ' ' + TOKEN[9:]}),
    ('', {**KEYS, 'AWS_ACCESS_KEY_ID': 'AKIDEXAMPLE\n'}),
    ('', {**KEYS, 'AWS_SECRET_ACCESS_KEY': SECRET + '\r\n'}),
    (ASSUMING, {**KEYS, 'AWS_SESSION_TOKEN': TOKEN + '\n' + TOKEN,
                'AWS_ENDPOINT_URL_STS': 'http://127.0.0.1:1'}),
], ids=['token', 'space', 'access key', 'secret key', 'of a role'])
def test_credentials_with_whitespace_are_refused_and_shown_nowhere(
        config: str, variables: dict[str, str], configure_aws: Any, proxy: Proxy,
        caplog: pytest.LogCaptureFixture) -> None:
    if config and Version(botocore.__version__) < Version('1.31'):
        pytest.skip('this botocore knows no endpoint of STS')
    caplog.set_level(logging.DEBUG)
    configure_aws(config, **variables)
    app = Celery(
        'secret', backend=backend_url(
            '/table', proxy.url, '&retry_timeout=0' + ('&profile=p' if config else '')),
        set_as_current=False)
    with pytest.raises(ImproperlyConfigured) as caught:
        app.backend.store_result('id', 1, states.SUCCESS)
    result = click.testing.CliRunner().invoke(dv.commands, ['check'], obj=Holder(app))
    shown = [result.output, caplog.text, repr(caught.value)]
    shown += [''.join(traceback.format_exception(None, caught.value, caught.value.__traceback__))]
    for text in shown:
        for piece in (TOKEN[:9], TOKEN[9:], SECRET[:20], 'AKIDEXAMPLE\n', r'AKIDEXAMPLE\n'):
            assert piece not in text
    words = 'has a control character' if config else 'must be printable ASCII without whitespace'
    assert words in str(caught.value)
    assert result.exit_code == 1 and 'NO  credentials' in result.output
    assert words in result.output and not proxy.requests
    if not config:  # once it is put right there is no need to start again
        configure_aws('', **KEYS)
        app.backend.set('key', b'1')
    dv.reset()


class Holder:
    """What Celery's command hands to ours."""

    def __init__(self, app: Celery) -> None:
        self.app = app


@pytest.mark.parametrize('said', [
    '{"SecretAccessKey": "%s", "Token": "%s"', '%s', "SecretAccessKey=%s", 'key %s token %s',
    r'{\"SecretAccessKey\": \"%s\"}'])
def test_what_a_metadata_service_answers_is_not_logged(
        said: str, configure_aws: Any, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.utils.ContainerMetadataFetcher, 'SLEEP_TIME', 0)
    caplog.set_level(logging.DEBUG)
    with serve_text(said.replace('%s', SECRET)) as url:
        configure_aws(AWS_CONTAINER_CREDENTIALS_FULL_URI=url)
        with pytest.raises((ImproperlyConfigured, botocore.exceptions.BotoCoreError)):
            dv.connect(options('dynamodb://us-east-1'))
    assert 'Unable to parse JSON' in caplog.text
    assert SECRET[:12] not in caplog.text and SECRET[-12:] not in caplog.text


@contextlib.contextmanager
def serve_text(text: str) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header('Content-Length', str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{server.server_address[1]}/credentials'
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def trickle() -> Iterator[str]:
    """The URL of an endpoint whose responses come byte by byte, and never end."""
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers['Content-Length']))
            self.send_response(200)
            self.send_header('Content-Length', '1000000')
            self.end_headers()
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    self.wfile.write(b' ')

        def log_message(self, format: str, *args: Any) -> None:
            pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f'127.0.0.1:{server.server_address[1]}'
        ended.set()
        server.shutdown()
        thread.join()


def test_a_response_that_trickles_in_does_not_outlast_the_attempt() -> None:
    with trickle() as place:
        table = dv.Table(
            options(f'dynamodb://{place}/table?retry_timeout=0.1&read_timeout=1'),
            attempt_timeout=0.2)
        with pytest.raises(botocore.exceptions.ReadTimeoutError, match=place):
            table.get('id')


@pytest.mark.slow
def test_commands_end_when_responses_trickle_in() -> None:
    with trickle() as place:
        app = Celery('app', backend=f'dyna_veggie.DynamoDBBackend+dynamodb://{place}/table')
        for command in (['check'], ['show', 'id'], ['show', 'id', '--watch']):
            began = time.monotonic()
            done = click.testing.CliRunner().invoke(dv.commands, command, obj=Holder(app))
            assert 'Read timeout' in done.output and done.exit_code == 1
            assert time.monotonic() - began < 60  # and not for ever


def role(name: str, source: str) -> str:
    return f'role_arn = arn:aws:iam::123456789012:role/{name}\nsource_profile = {source}\n'


def process(*command: str) -> str:
    return f'[default]\ncredential_process = {shlex.join(command)}\n'


ECHO = (sys.executable, '-c', 'import sys; print(sys.argv[1])')
FUTURE_KEYS = {'Version': 1, 'AccessKeyId': 'AKID', 'SecretAccessKey': 'secret',
               'SessionToken': 'token', 'Expiration': 'soon'}
BROKEN = {
    # name: (configuration file, variables, what the error says)
    'partial keys': ('', {'AWS_ACCESS_KEY_ID': 'AKID'}, 'missing: AWS_SECRET_ACCESS_KEY'),
    'token file': ('', {'AWS_ROLE_ARN': 'arn:aws:iam::123456789012:role/worker',
                        'AWS_WEB_IDENTITY_TOKEN_FILE': '/nowhere/token'}, '/nowhere/token'),
    'no process': (process('/nowhere/program'), {}, 'default has credential_process'),
    'empty process': ('[default]\ncredential_process =\n', {}, 'default has credential_process'),
    'not JSON': (process(*ECHO, 'hello'), {}, 'default has credential_process'),
    'a list': (process(*ECHO, '[]'), {}, 'default has credential_process'),
    'a number': (process(*ECHO, '{"Version": 1, "AccessKeyId": 1, "SecretAccessKey": 2}'), {},
                 'the access key from custom-process must be'),
    'no date': (process(*ECHO, json.dumps(FUTURE_KEYS)), {}, 'soon'),
    'loop': (f'[default]\n{role("a", "b")}[profile b]\n{role("b", "default")}', {},
             'Infinite loop'),
    'no source': (f'[default]\n{role("a", "b")}', {}, 'source_profile "b"'),
    'no login': ('[default]\nsso_start_url = https://example.com\nsso_region = us-east-1\n'
                 'sso_account_id = 1\nsso_role_name = worker\n', {}, 'run "aws sso login"'),
    'malformed': ('aws_secret_access_key = wJalrXUtnFEMI\n[default]\n', {}, 'Unable to parse'),
    'region': ('', {**KEYS, 'AWS_DEFAULT_REGION': 'eu west_1'},
               "region='eu west_1' must be an AWS region such as eu-west-1"),
    'newline in region': ('', {**KEYS, 'AWS_DEFAULT_REGION': 'eu-west-1\n'},
                          r"region='eu-west-1\n' must be an AWS region such as eu-west-1"),
    'no proxy': ('', {**KEYS, 'HTTPS_PROXY': 'http://user:sesame@host:port'}, 'host:port'),
    'no certificates': ('', {**KEYS, 'AWS_CA_BUNDLE': '/nowhere/ca.pem'},
                        "ca_bundle='/nowhere/ca.pem' must be a file of certificates"),
    'defaults': ('', {**KEYS, 'AWS_DEFAULTS_MODE': 'wrong'}, 'AWS_DEFAULTS_MODE'),
    'metadata': ('', {'AWS_METADATA_SERVICE_TIMEOUT': 'long'}, 'AWS_METADATA_SERVICE_TIMEOUT'),
    'container': ('', {'AWS_CONTAINER_CREDENTIALS_FULL_URI': 'http://example.com/'},
                  "Unsupported host 'example.com'"),
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_aws_configuration_is_one_error_and_a_row_of_check(
        name: str, configure_aws: Any, proxy: Proxy) -> None:
    config, variables, expected = BROKEN[name]
    configure_aws(config, **variables)
    url = proxy.url.replace('http:', 'https:') if name.startswith('no ') else proxy.url
    app = Celery(
        'broken', backend=backend_url('/table', url, '&retry_timeout=0'), set_as_current=False)
    with pytest.raises(ImproperlyConfigured) as caught:
        app.backend.get('key')
    text = ''.join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    assert str(caught.value).startswith('dynamodb result backend: ')
    assert expected in str(caught.value) and 'wJalr' not in text and 'sesame' not in text
    result = click.testing.CliRunner().invoke(dv.commands, ['check'], obj=Holder(app))
    assert isinstance(result.exception, SystemExit)
    # without a region, as without a readable file, there is no backend that could be checked
    row = 'Error: ' if name in ('malformed', 'region', 'newline in region') else 'NO  '
    assert row in result.output and expected in result.output and not proxy.requests
    dv.reset()


@pytest.mark.skipif(
    Version(botocore.__version__) < Version('1.31'), reason='this botocore knows no such variable')
@pytest.mark.parametrize(('variable', 'endpoint_url'), [
    ('AWS_ENDPOINT_URL', 'localhost:8000'),
    ('AWS_ENDPOINT_URL_DYNAMODB', 'user:sesame@localhost:8000'),
    ('AWS_ENDPOINT_URL', 'http://user:sesame@127.0.0.1:1'),
    ('AWS_ENDPOINT_URL_DYNAMODB', 'http://:sesame@127.0.0.1:1/path')])
def test_an_endpoint_of_the_environment_is_checked(
        variable: str, endpoint_url: str, configure_aws: Any,
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    configure_aws('', **KEYS, **{variable: endpoint_url})
    app = Celery(
        'broken', backend='dyna_veggie.DynamoDBBackend+dynamodb:///table?retry_timeout=0',
        set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=r'AWS_ENDPOINT_URL.* must be http') as caught:
        app.backend.get('key')
    result = click.testing.CliRunner().invoke(dv.commands, ['check'], obj=Holder(app))
    assert isinstance(result.exception, SystemExit) and 'AWS_ENDPOINT_URL' in result.output
    shown = ''.join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    for text in (shown, result.output, caplog.text):
        assert 'sesame' not in text


def test_credentials_that_never_come_are_one_error(configure_aws: Any, proxy: Proxy) -> None:
    configure_aws(process(sys.executable, '-c', 'import sys; sys.exit("the vault is sealed")'))
    url = backend_url('/table', proxy.url, '&retry_timeout=0.01&retry_base_delay=0.001')
    backend = Celery('late', backend=url, set_as_current=False).backend
    with pytest.raises(ImproperlyConfigured, match='the vault is sealed') as caught:
        backend.get('key')
    assert backend.exception_safe_to_retry(caught.value)  # they may come later


ASSUME_ROLE = (
    '<AssumedRoleUser><AssumedRoleId>AROA:me</AssumedRoleId>'
    '<Arn>arn:aws:sts::123456789012:assumed-role/worker/me</Arn></AssumedRoleUser>'
    '<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>'
    '<SessionToken>{token}</SessionToken><Expiration>{expiration}</Expiration></Credentials>')
GET_CALLER_IDENTITY = (
    '<Arn>arn:aws:sts::123456789012:assumed-role/worker/me</Arn><UserId>AROA:me</UserId>'
    '<Account>123456789012</Account>')


class Sts:
    """STS, in the events of all sessions of botocore that are made from now on.

    asked: the requests.  lifetimes: seconds, of the credentials that it gives; the last for all
    further ones.  refusals: codes of errors, each for one request.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, str]] = []
        self.lifetimes = [3660.0]
        self.refusals: list[str] = []
        handlers = [*botocore.handlers.BUILTIN_HANDLERS, ('before-send.sts', self._answer)]
        monkeypatch.setattr(botocore.handlers, 'BUILTIN_HANDLERS', handlers)

    @staticmethod
    def region_of(region: str) -> str:
        """The region that a request to STS is signed for, where botocore is to use a region."""
        client = botocore.session.Session().create_client(
            'sts', region, aws_access_key_id='key', aws_secret_access_key='secret')
        url = client.generate_presigned_url('get_caller_identity')
        found = re.search('%2F([a-z0-9-]+)%2Fsts%2F', url)
        assert found
        return found[1]

    def _answer(self, request: Any, **kwargs: Any) -> Any:
        body = request.body
        asked = dict(parse_qsl(body.decode() if isinstance(body, bytes) else body))
        signed = re.search(
            'Credential=([^/]+)/[0-9]+/([^/]+)/', str(request.headers['Authorization']))
        assert signed
        self.asked.append({
            **asked, 'key': signed[1], 'region': signed[2], 'url': request.url})
        action = asked['Action']
        if self.refusals:
            code = self.refusals.pop(0)
            text = (f'<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>'
                    'you may not</Message></Error></ErrorResponse>')
            return raw_answer(request, text.encode(), 503 if code == 'ServiceUnavailable' else 403)
        text = GET_CALLER_IDENTITY
        if action == 'AssumeRole':
            lifetime = self.lifetimes.pop(0) if len(self.lifetimes) > 1 else self.lifetimes[0]
            expiration = (datetime.datetime.now(datetime.timezone.utc)
                          + datetime.timedelta(seconds=lifetime))
            text = ASSUME_ROLE.format(
                key=f'ROLE{len(self.asked)}', secret=SECRET, token=TOKEN,
                expiration=expiration.isoformat())
        return raw_answer(request, (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>'
            f'{text}</{action}Result></{action}Response>').encode())


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sts]:
    yield Sts(monkeypatch)
    dv.reset()


def checked(app: Celery) -> dict[str, Any]:
    """What the command check prints of an app."""
    result = click.testing.CliRunner().invoke(dv.commands, ['check', '--json'], obj=Holder(app))
    found: dict[str, Any] = json.loads(result.output)
    return found


@pytest.mark.parametrize(('keys', 'query', 'config', 'source', 'key'), [
    ('URLKEY:secret@', '', '', 'the URL', 'URLKEY'),
    ('', '', '', 'env', KEYS['AWS_ACCESS_KEY_ID']),
    ('', '&profile=p', '[profile p]\naws_access_key_id = FILEKEY\naws_secret_access_key = secret\n',
     'config-file', 'FILEKEY'),
], ids=['URL', 'environment', 'profile'])
def test_a_role_is_assumed_with_the_credentials_that_were_used_without_it_and_renewed(
        keys: str, query: str, config: str, source: str, key: str, configure_aws: Any, sts: Sts,
        proxy: Proxy, table_name: str) -> None:
    configure_aws(config, **KEYS, AWS_ENDPOINT_URL_STS='http://sts.example')
    sts.lifetimes = [60, 3660]  # botocore takes 60 for about to expire
    url = backend_url(f'{keys}us-east-1/{table_name}', proxy.url, (
        f'&retry_base_delay=0.001&role_arn={ROLE}&role_session_name=me@host&external_id=E-1{query}'))
    app = Celery('role', backend=url, set_as_current=False)
    app.backend.store_result('id', 1, states.SUCCESS)
    assert app.backend.get_result('id') == 1
    assert {request.access_key for request in proxy.requests} == {'ROLE2'}
    assert [asked['key'] for asked in sts.asked] == [key, key]
    asked = sts.asked[0]
    assert (asked['Action'], asked['RoleArn']) == ('AssumeRole', ROLE)
    assert (asked['RoleSessionName'], asked['ExternalId']) == ('me@host', 'E-1')
    knows_variable = Version(botocore.__version__) >= Version('1.31')
    assert asked['url'] == (
        'http://sts.example/' if knows_variable else 'https://sts.amazonaws.com/')
    found = {row['name']: row['found'] for row in checked(app)['checks']}
    assert found['credentials'] == f'{ROLE}, assumed with those of {source}'
    identity = 'arn:aws:sts::123456789012:assumed-role/worker/me'
    assert dv.identity(app.backend.options) == identity
    assert sts.asked[-1]['key'].startswith('ROLE')  # and not that of the source
    if KNOWS_ACCOUNTS:  # for the ARN of a policy, and for the endpoint of the account
        assert dv.find_credentials(app.backend.options)[1].account_id == '123456789012'


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_child_assumes_the_role_itself(
        configure_aws: Any, sts: Sts, proxy: Proxy, table_name: str) -> None:
    configure_aws('', **KEYS)
    url = backend_url(f'us-east-1/{table_name}', proxy.url, f'&role_arn={ROLE}')
    backend = Celery('role', backend=url, set_as_current=False).backend
    backend.set('key', b'1')
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # nothing of pytest may run here
        try:
            value = backend.get('key')
            os.write(writing, f'{value!r} {len(sts.asked)}'.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, 'rb') as pipe:
        assert pipe.read() == b"b'1' 2"
    os.waitpid(child, 0)
    assert backend.get('key') == b'1' and len(sts.asked) == 1
    assert [request.access_key for request in proxy.requests][-2:] == ['ROLE2', 'ROLE1']


def test_a_role_is_assumed_again_if_its_token_is_called_expired(
        configure_aws: Any, sts: Sts, proxy: Proxy, table_name: str) -> None:
    configure_aws('', **KEYS)
    sts.refusals = ['ServiceUnavailable', 'Throttling']
    url = backend_url(
        f'us-east-1/{table_name}', proxy.url, f'&retry_base_delay=0.001&role_arn={ROLE}')
    backend = Celery('role', backend=url, set_as_current=False).backend
    backend.set('key', b'1')  # STS fails twice before
    assert len(sts.asked) == 3
    proxy.reset()
    proxy.faults = first(1, Error('ExpiredTokenException', 'it has expired'))
    assert backend.get('key') == b'1'
    assert [request.access_key for request in proxy.requests] == ['ROLE3', 'ROLE4']
    # one that the environment has lost is no error of the role
    sts.refusals = ['ExpiredToken']
    dv.reset()
    assert backend.get('key') == b'1'


@pytest.mark.parametrize('code', ['AccessDenied', 'ValidationError'])
@pytest.mark.parametrize('by', ['option', 'profile'])
def test_a_role_that_is_denied_is_an_error_of_the_credentials(
        by: str, code: str, configure_aws: Any, sts: Sts, make_app: MakeApp, proxy: Proxy,
        table_name: str) -> None:
    configure_aws(ASSUMING, **KEYS)
    how = f'role_arn={ROLE}' if by == 'option' else 'profile=p'
    url = backend_url(f'us-east-1/{table_name}', proxy.url, f'&retry_timeout=0&{how}')
    app = make_app(result_backend=url)
    sts.refusals = [code] * 99
    with pytest.raises(ImproperlyConfigured) as caught:
        app.backend.store_result('id', 1, states.SUCCESS)
    # the table denied nothing
    assert dv.shared_table(app.backend.options).may_insert
    rows = {row['name']: row for row in checked(app)['checks']}
    assert rows['credentials']['ok'] is False and rows['table']['ok'] is False
    assert not proxy.requests
    assert f'({code}) when calling the AssumeRole operation: you may not' in str(caught.value)
    assert 'check the ARN of the role, its external id, and whom it trusts' in str(caught.value)
    sts.refusals = []
    app.backend.store_result('id', 1, states.SUCCESS)  # without a restart
    assert app.backend.get_result('id') == 1


@pytest.mark.parametrize('where', [
    pytest.param('STS', marks=pytest.mark.skipif(
        Version(botocore.__version__) < Version('1.31'), reason='STS is at AWS')), 'process'])
def test_check_ends_if_no_credentials_come(
        where: str, configure_aws: Any, proxy: Proxy, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, '_ATTEMPT_TIMEOUT', 0.3)
    with trickle() as place:
        if where == 'STS':
            configure_aws('', **KEYS, AWS_ENDPOINT_URL_STS=f'http://{place}')
        else:
            configure_aws(process(sys.executable, '-c', 'import time; time.sleep(9)'))
        role = f'&role_arn={ROLE}' if where == 'STS' else ''
        url = backend_url(f'us-east-1/{table_name}', proxy.url, role)
        app = Celery('app', backend=url, set_as_current=False)
        found = {row['name']: row for row in checked(app)['checks']}
        assert found['credentials'] == {
            'name': 'credentials', 'ok': False, 'found': 'none were found within 0.3 seconds'}
        assert found['endpoint']['ok'] is False
    assert not proxy.requests


def test_a_role_without_credentials_to_assume_it_is_an_error(configure_aws: Any, sts: Sts) -> None:
    configure_aws()
    app = Celery('role', backend=backend_url(
        'us-east-1/celery', 'https://127.0.0.1:1', f'&retry_timeout=0&role_arn={ROLE}'),
        set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match='there are no credentials'):
        app.backend.get('key')
    assert checked(app)['checks'][0]['found'] == 'none were found' and not sts.asked


def test_dynamodb_local_needs_no_role(app: Celery, sts: Sts) -> None:
    app.conf.result_backend_transport_options = {'role_arn': ROLE, 'external_id': 'E-1'}
    app.backend.store_result('id', 1, states.SUCCESS)
    assert app.backend.get_result('id') == 1 and not sts.asked


def test_roles_share_no_client() -> None:
    url = 'dynamodb://eu-west-1/celery?role_arn='
    roles = [f'{ROLE}', f'{ROLE}2', f'{ROLE}&external_id=E-1', f'{ROLE}&external_id=E-2']
    tables = [dv.shared_table(options(url + role)) for role in roles]
    assert len({id(table) for table in tables}) == 4
    assert dv.shared_table(options(url + ROLE)) is tables[0]
    dv.reset()


def test_what_a_role_is_assumed_with_is_shown_nowhere(
        configure_aws: Any, sts: Sts, proxy: Proxy, table_name: str,
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    configure_aws()
    external = 'external-id-of-ours'
    url = backend_url(f'AKID:{quote(SECRET, safe="")}@us-east-1/{table_name}', proxy.url,
                      f'&role_arn={ROLE}&external_id={external}&retry_timeout=0')
    app = Celery('role', backend=url, set_as_current=False)
    backend = app.backend
    backend.set('key', b'1')
    assert sts.asked[0]['ExternalId'] == external and 'ExternalId' in caplog.text
    sts.refusals = ['AccessDenied'] * 9
    dv.reset()
    with pytest.raises(ImproperlyConfigured) as caught:
        backend.get('key')
    shown = [repr(backend), backend.as_uri(), repr(backend.options), caplog.text,
             pickle.dumps(backend, protocol=0).decode('latin-1'), json.dumps(checked(app))]
    shown += [''.join(traceback.format_exception(None, caught.value, caught.value.__traceback__))]
    for text in shown:
        for secret in (external, SECRET, quote(SECRET, safe=''), TOKEN):
            assert secret not in text
    assert 'external_id=**' in backend.as_uri()
    assert backend.as_uri(include_password=True).endswith(f'{external}&retry_timeout=0')


def test_a_pickled_backend_finds_its_external_id(configure_aws: Any, sts: Sts) -> None:
    configure_aws('', **KEYS)
    url = (f'dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1/celery?role_arn={ROLE}'
           '&external_id=E-1&retry_timeout=0')
    app = Celery('role', backend=url, set_as_current=False)
    pickled = pickle.dumps(app.backend)
    assert b'E-1' not in pickled
    assert pickle.loads(pickled).options == app.backend.options
    app.conf.result_backend = 'dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1/celery'
    with pytest.raises(ImproperlyConfigured, match='is the mask of as_uri'):
        pickle.loads(pickled).options  # noqa: B018


def test_an_at_sign_in_an_option_is_no_place() -> None:
    mine = 'dynamodb://eu-west-1/mine?tags=owner:me@host'
    other = 'dynamodb://eu-west-1/other?tags=owner:me@host'
    assert dv.unmask_secret(mine, [('app', other)]) == (None, mine)
    by_key = 'dynamodb://OLD:**@eu-west-1/mine?tags=owner:me@host'
    new = by_key.replace('OLD:**', 'NEW:sesame')
    assert dv.unmask_secret(by_key, [('other', other), ('app', new)]) == ('app', new)


@pytest.mark.parametrize('operation', ['get', 'put', 'mget', 'insert'])
def test_an_answer_that_was_changed_on_its_way_is_asked_for_again(
        operation: str, make_app: MakeApp, proxy: Proxy, client: Any, table_name: str,
        needs: Callable[[str], None]) -> None:
    if operation == 'insert':
        needs('PartiQL INSERT')
    if operation == 'put':
        needs('the item in a refused condition')  # or it is read by one request more
    backend = ready(make_app(), proxy)
    backend.set('key', b'1')
    proxy.reset()
    answers: list[bytes] = []
    events = backend.store.table.client.botocore.meta.events

    def spoil(request: Any, **kwargs: Any) -> Any:
        # what the engine answers, but for one byte
        endpoint = backend.store.table.client.botocore._endpoint
        answer = endpoint.http_session.send(request)
        answers.append(answer.content)
        if len(answers) > 1:
            return answer
        body = answer.content.replace(b'"MQ=="', b'"Nw=="') + b' '
        return raw_answer(request, body, answer.status_code, answer.headers)
    events.register('before-send.dynamodb', spoil)
    if operation == 'get':
        assert backend.get('key') == b'1'
    elif operation == 'mget':
        assert backend.mget(['key']) == [b'1']
    elif operation == 'put':
        backend.store_result('id', 7, states.SUCCESS)
    else:
        # tried once, and not taken for written
        assert backend.store.table.insert_many([{'id': 'new', 'result': b'1'}]) == set()
        assert any(item['id'] == 'new' for item in all_items(client, table_name))
    assert len(answers) == (1 if operation == 'insert' else 2)
    if operation == 'put':
        assert backend.get_result('id') == 7


# --------------------------------------------------------------------------------------------------
# Paging
# --------------------------------------------------------------------------------------------------

def test_batches_have_pages_of_100_without_duplicates(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = [f'key-{number}' for number in range(250)]
    backend.store.table.write_many(puts=({'id': id, 'result': id.encode()} for id in [*ids, *ids]))
    assert cost(proxy) == (10, 0, 250)
    values = [id.encode() for id in ids]
    assert backend.mget([*reversed(ids), 'none', *ids]) == [*reversed(values), None, *values]
    assert cost(proxy) == (3, 125.5, 0)
    backend.store.delete_many([*ids, *ids])
    assert cost(proxy) == (10, 0, 250)
    assert backend.mget(ids) == [None] * 250


def test_more_than_a_response_holds_is_read_past_a_deadline(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    ids = [f'large-{number}' for number in range(50)]
    value = noise(270 * KB).hex()[:390 * KB]
    for id in ids:
        backend.store_result(id, value, states.SUCCESS)
    # 19 MB: what 16 MB leave out is not throttled
    assert result_set(app, ids).get(timeout=0) == [value] * 50


def test_what_comes_back_unprocessed_is_sent_again(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = [f'key-{number}' for number in range(130)]
    proxy.faults = lambda operation, body: Partial() if random.random() < 0.7 else None
    backend.store.table.write_many(puts=({'id': id, 'result': id.encode()} for id in ids))
    assert backend.mget(ids) == [id.encode() for id in ids]
    backend.store.delete_many(ids)
    proxy.faults = None
    assert backend.mget(ids) == [None] * 130


@pytest.mark.parametrize('query', ['retry_timeout=0.05', 'retry_if_throttled=false'])
def test_a_batch_that_stays_unprocessed_is_a_throttling_error(
        query: str, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(query), proxy)
    table = backend.store.table

    def all_unprocessed(parsed: Any, **kwargs: Any) -> None:
        keys = [{'id': {'S': 'a'}}, {'id': {'S': 'b'}}]
        parsed.update(Responses={}, UnprocessedKeys={table.name: {'Keys': keys}})

    table.client.botocore.meta.events.register('after-call.dynamodb.BatchGetItem', all_unprocessed)
    message = r'2 items of table .* stayed unprocessed'
    with pytest.raises(botocore.exceptions.ClientError, match=message) as caught:
        backend.mget(['a', 'b'])
    assert dv.classify(caught.value).throttled
    assert (len(proxy.requests) == 1) is (query == 'retry_if_throttled=false')


@pytest.mark.parametrize('signalled', [
    KeyboardInterrupt(), celery.exceptions.SoftTimeLimitExceeded()], ids=repr)
def test_a_signal_ends_a_batch_of_several_pages(
        backend: dv.DynamoDBBackend, proxy: Proxy, signalled: BaseException) -> None:
    proxy.faults = lambda operation, body: Throttle()
    a_signal_ends(lambda: backend.mget([f'key-{number}' for number in range(1000)]), signalled)


def a_signal_ends(call: Callable[[], Any], signalled: BaseException) -> None:
    """Asserts that what a signal raises ends a call soon, with its threads."""
    def ring(number: int, frame: Any) -> None:
        raise signalled
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)  # again, if Python drops one in a callback
    began = time.monotonic()
    try:
        with pytest.raises(type(signalled)):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20  # and not retry_timeout, 120 s
    # the helpers do not go on, either
    for _ in range(100):
        if not [each for each in threading.enumerate() if each.name.startswith('dyna-veggie')
                and each.name != 'dyna-veggie-poll']:  # which serves other tests, too
            break
        time.sleep(0.1)
    else:
        raise AssertionError(threading.enumerate())


def test_a_signal_in_any_line_of_a_call_does_not_hang_it() -> None:
    class Struck(Exception):
        pass

    def send_all(line: int, calls: list[int]) -> None:
        def trace(frame: Any, event: str, arg: Any) -> Any:
            if frame.f_code.co_filename not in (dv.__file__, threading.__file__):
                return None
            calls.append(line)
            if len(calls) == line:
                sys.settrace(None)
                raise Struck
            return trace

        backoff = dv.Backoff(base=0.001, maximum=0.001, timeout=20.0, max_retries=2)
        pages = dv.Pages('ab', 1, lambda page, budget: page, backoff)
        sys.settrace(trace)
        with contextlib.suppress(Struck, dv.Unprocessed):
            pages.send_all(1)  # Python's own start of a thread would leave locks held
        sys.settrace(None)

    for line in itertools.count(1):
        calls: list[int] = []
        thread = threading.Thread(target=send_all, args=(line, calls), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), line
        if len(calls) < line:
            break
    assert line > 50


def test_the_first_error_ends_a_batch_of_several_pages(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    proxy.faults = first(1, Error('AccessDeniedException'))
    began = time.monotonic()
    with pytest.raises(ImproperlyConfigured, match='BatchGetItem is needed'):
        backend.mget([f'key-{number}' for number in range(5000)])
    assert len(proxy.requests) < 50 and time.monotonic() - began < 20


def test_a_batch_in_which_some_pages_come_back_short_is_read_whole(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = ready_tasks(backend, 500)
    rng = random.Random(5)
    proxy.reset()
    proxy.faults = lambda operation, body: rng.choice([Partial(), Partial(), Throttle(), None])
    assert len(backend.fetch(ids)) == 500
    assert len(proxy.requests) < 200
    table = backend.store.table
    table.write_many(deletes=[backend.item_id(id) for id in ids])
    proxy.faults = None
    assert backend.fetch(ids) == {}


def test_a_thread_that_outlives_the_main_thread_can_still_use_batches(
        endpoint: str, table_name: str) -> None:
    program = f"""
        import threading, time
        from celery import Celery, chord
        app = Celery('app', broker='memory://', backend={backend_url(
            f'local/{table_name}', endpoint)!r})

        @app.task(shared=False)
        def task(*args):
            pass

        def outlive():
            threading.main_thread().join()
            time.sleep(0.5)
            ids = [f'id-{{number}}' for number in range(300)]
            results = app.GroupResult('group', [app.AsyncResult(id) for id in ids])
            assert not results.ready()
            assert app.backend.mget([app.backend.item_id(id) for id in ids]) == [None] * 300
            results.forget()
            chord([task.s(number) for number in range(1500)])(task.s())
            print('outlived')

        assert app.backend  # what it imports can be imported no more
        threading.Thread(target=outlive).start()
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program)], cwd=tempfile.gettempdir(), text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, timeout=120)
    assert done.stdout == 'outlived\n' and done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------------
# Table
# --------------------------------------------------------------------------------------------------

CONTROL = {'CreateTable', 'DescribeTable', 'DescribeTimeToLive', 'UpdateTimeToLive'}


def test_the_table_is_created_by_the_first_request_that_misses_it(
        app: Celery, proxy: Proxy, client: Any, table_name: str) -> None:
    app.backend.store_result('id', 42, states.SUCCESS)
    assert app.backend.get_result('id') == 42
    table = client.describe_table(TableName=table_name)['Table']
    assert table['KeySchema'] == [{'AttributeName': 'id', 'KeyType': 'HASH'}]
    throughput = table['ProvisionedThroughput']
    assert throughput['ReadCapacityUnits'] == throughput['WriteCapacityUnits'] == 5
    ttl = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert (ttl['TimeToLiveStatus'], ttl['AttributeName']) == ('ENABLED', 'ttl')
    assert operations(proxy).count('CreateTable') == 1


def test_no_control_plane_request_while_the_table_exists(
        backend: dv.DynamoDBBackend, make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('read_timeout=9')  # other options, so another client
    app.backend.store_result('id', 42, states.SUCCESS)
    app.backend.get_state('id')
    app.backend.forget('id')
    assert operations(proxy) == ['PutItem', 'GetItem', 'DeleteItem']


@pytest.mark.parametrize('missing', [
    lambda backend: backend.get('key'), lambda backend: backend.mget(['key']),
    lambda backend: backend.delete('key'),
    lambda backend: backend.incr('key'), lambda backend: backend.expire('key', 5),
    lambda backend: backend.store.delete_many(['key'])])
def test_any_request_creates_the_table(missing: Any, app: Celery, proxy: Proxy) -> None:
    missing(app.backend)
    assert operations(proxy).count('CreateTable') == 1


def test_processes_and_threads_create_one_table_at_once(
        app: Celery, proxy: Proxy, table_name: str) -> None:
    code = textwrap.dedent('''
        import sys, threading
        from celery import Celery
        app = Celery('p', backend=sys.argv[1])
        def store(number):
            app.backend.store_result(f'{sys.argv[2]}-{number}', number, 'SUCCESS')
        threads = [threading.Thread(target=store, args=(number,)) for number in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    ''')
    command = [sys.executable, '-c', code, app.conf.result_backend]
    processes = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in range(3):
        for number in range(4):
            assert app.backend.get_result(f'{process}-{number}') == number
    creations = [request for request in proxy.requests if request.operation == 'CreateTable']
    assert {request.error for request in creations} <= {None, 'ResourceInUseException'}


def test_a_table_that_must_not_be_created_is_a_clear_error(
        make_app: MakeApp, proxy: Proxy, table_name: str) -> None:
    app = make_app('create_table=false')
    with pytest.raises(ImproperlyConfigured, match=(
            f"table='{table_name}' does not exist in us-east-1: check its name and the region, or "
            'create it with the command create-table$')):
        app.backend.get('key')
    assert 'CreateTable' not in operations(proxy)


@pytest.mark.parametrize(('query', 'expected'), [
    ('', {
        'BillingMode': 'PROVISIONED',
        'ProvisionedThroughput': {'ReadCapacityUnits': 5, 'WriteCapacityUnits': 5}}),
    ('read=7&write=8', {
        'BillingMode': 'PROVISIONED',
        'ProvisionedThroughput': {'ReadCapacityUnits': 7, 'WriteCapacityUnits': 8}}),
    ('billing_mode=on_demand', {'BillingMode': 'PAY_PER_REQUEST'}),
    ('table_class=standard_infrequent_access&tags=team:data,env:prod'
     '&deletion_protection=true&encryption_key=alias/k', {
        'BillingMode': 'PROVISIONED',
        'ProvisionedThroughput': {'ReadCapacityUnits': 5, 'WriteCapacityUnits': 5},
        'TableClass': 'STANDARD_INFREQUENT_ACCESS', 'DeletionProtectionEnabled': True,
        'Tags': [{'Key': 'team', 'Value': 'data'}, {'Key': 'env', 'Value': 'prod'}],
        'SSESpecification': {'Enabled': True, 'SSEType': 'KMS', 'KMSMasterKeyId': 'alias/k'}}),
])
def test_what_create_table_is_asked_for(
        query: str, expected: dict[str, Any], make_app: MakeApp, proxy: Proxy) -> None:
    make_app(query).backend.get('key')
    body = next(request.body for request in proxy.requests if request.operation == 'CreateTable')
    for name in ('TableName', 'KeySchema', 'AttributeDefinitions'):
        body.pop(name)
    assert body == expected


@pytest.mark.parametrize(('query', 'asked', 'name'), [
    ('deletion_protection=true', {'DeletionProtectionEnabled': True}, 'DeletionProtectionEnabled'),
    ('table_class=standard_infrequent_access', {'TableClass': 'STANDARD_INFREQUENT_ACCESS'},
     'TableClassSummary'),
    ('tags=team:data,env:prod', {'Tags': [
        {'Key': 'team', 'Value': 'data'}, {'Key': 'env', 'Value': 'prod'}]}, 'Tags'),
    ('encryption_key=alias/k', {'SSESpecification': {
        'Enabled': True, 'SSEType': 'KMS', 'KMSMasterKeyId': 'alias/k'}}, 'SSEDescription'),
])
def test_the_created_table_has_what_was_asked_for(
        query: str, asked: dict[str, Any], name: str, make_app: MakeApp, client: Any,
        table_name: str) -> None:
    def made(table: str) -> Any:
        described = client.describe_table(TableName=table)['Table']
        # moto describes the lack of a protection, too
        if described.get('DeletionProtectionEnabled'):
            with pytest.raises(client.exceptions.ClientError, match=r'(?i)protect'):
                client.delete_table(TableName=table)
            client.update_table(TableName=table, DeletionProtectionEnabled=False)
        if name == 'Tags':
            return client.list_tags_of_resource(ResourceArn=described['TableArn'])['Tags']
        summary = described.get(name)
        if isinstance(summary, dict):
            summary.pop('LastUpdateDateTime', None)
        return summary

    # the same, asked by a plain client: some engines ignore it
    create_table(client, f'plain-{table_name}', **asked)
    try:
        expected = made(f'plain-{table_name}')
    except client.exceptions.ClientError as exc:
        pytest.skip(f'this engine refuses it: {exc}')
    if not expected:
        pytest.skip(f'this engine ignores it: no {name} in what it describes')
    make_app(query).backend.get('key')
    assert made(table_name) == expected


def create_table(
        client: Any, name: str, key: str = 'id', kind: str = 'S', **more: Any) -> None:
    client.create_table(
        TableName=name, BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': key, 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': key, 'AttributeType': kind}], **more)


def test_a_refused_write_is_one_request_where_the_response_holds_the_item(
        backend: dv.DynamoDBBackend, proxy: Proxy, needs: Callable[[str], None]) -> None:
    table = backend.store.table
    stored = {'id': 'id', 'result': b'first', 'status': 'SUCCESS'}
    assert table.put(stored).applied
    new = 'attribute_not_exists(#id)'
    proxy.reset()
    refused = [table.put({'id': 'id', 'result': b'second'}, condition=new),
               table.update('id', 'SET #result = :result', {'result': b'third'}, condition=new)]
    assert refused == [dv.WriteResult(False, stored)] * 2  # on every engine
    if 'the item in a refused condition' in dynamodb_local.lacks(proxy.endpoint_url):
        assert operations(proxy) == ['PutItem', 'GetItem', 'UpdateItem', 'GetItem']
    needs('the item in a refused condition')
    assert operations(proxy) == ['PutItem', 'UpdateItem']


@pytest.mark.parametrize(('call', 'key', 'kind'), [
    (lambda backend: backend.get('key'), 'pk', 'S'),
    (lambda backend: backend.mget(['key']), 'pk', 'S'),
    (lambda backend: backend.set('key', b'1'), 'pk', 'S'),
    (lambda backend: backend.set('key', b'1'), 'id', 'N')])
def test_a_table_with_another_key_is_a_clear_error(
        call: Any, key: str, kind: str, app: Celery, proxy: Proxy, client: Any,
        table_name: str) -> None:
    create_table(client, table_name, key, kind)
    message = rf'a table with the key id \(S, HASH\); its key is {key} \({kind}, HASH\)'
    with pytest.raises(ImproperlyConfigured, match=message):
        call(app.backend)


def test_ttl_is_enabled_once_per_process_where_ttl_seconds_is_set(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    create_table(client, table_name)
    make_app().backend.get('key')
    assert operations(proxy) == ['GetItem']
    proxy.reset()
    backend = make_app('ttl_seconds=60').backend
    backend.get('key')  # which may have little time
    backend.set('key', b'1')
    backend.set('key', b'2')
    assert operations(proxy) == [
        'GetItem', 'DescribeTimeToLive', 'UpdateTimeToLive', 'PutItem', 'PutItem']
    ttl = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert ttl['AttributeName'] == 'ttl'
    proxy.reset()
    make_app('ttl_seconds=61').backend.set('key', b'1')
    assert operations(proxy) == ['DescribeTimeToLive', 'PutItem']


def test_ttl_on_another_attribute_is_logged_and_results_are_stored(
        make_app: MakeApp, client: Any, table_name: str, caplog: pytest.LogCaptureFixture) -> None:
    create_table(client, table_name)
    client.update_time_to_live(
        TableName=table_name,
        TimeToLiveSpecification={'Enabled': True, 'AttributeName': 'other'})
    backend = make_app('ttl_seconds=60').backend
    backend.set('key', b'1')
    assert backend.get('key') == b'1'
    assert 'time to live is on attribute other' in caplog.text


@pytest.mark.parametrize('action', ['CreateTable', 'DescribeTable'])
def test_denied_bootstrap_calls_name_the_action(
        action: str, app: Celery, proxy: Proxy, table_name: str) -> None:
    denied = Error('AccessDeniedException', 'not authorized')
    proxy.faults = lambda operation, body: denied if operation == action else None
    with pytest.raises(ImproperlyConfigured, match=(
            rf"table='{table_name}' in region us-east-1: the IAM action dynamodb:{action} "
            r'is needed, and denied; or create the table')):
        app.backend.get('key')


@pytest.mark.parametrize('action', ['DescribeTimeToLive', 'UpdateTimeToLive'])
def test_denied_ttl_calls_name_the_action_and_lose_no_result(
        action: str, app: Celery, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    denied = Error('AccessDeniedException', 'not authorized')
    proxy.faults = lambda operation, body: denied if operation == action else None
    app.backend.store_result('id', 1, states.SUCCESS)
    assert app.backend.get_result('id') == 1
    assert f'dynamodb:{action}' in caplog.text


def test_a_table_deleted_meanwhile_is_created_again(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    client.delete_table(TableName=table_name)
    backend.store_result('id', 1, states.SUCCESS)
    assert backend.get_result('id') == 1


@pytest.mark.parametrize('denied', ['DescribeTable', 'CreateTable'])
def test_who_may_not_create_the_table_learns_how_to(
        denied: str, make_app: MakeApp, proxy: Proxy) -> None:
    hint = 'or create the table, with the string hash key "id" and time to live on "ttl"'
    proxy.faults = first(99, Error('AccessDeniedException', 'no'), denied)
    for query, expected in (('', True), ('create_table=false', False)):
        with pytest.raises(ImproperlyConfigured) as caught:
            make_app(query).backend.get('key')
        assert (hint in str(caught.value)) is expected
    proxy.faults = lambda operation, body: Error('AccessDeniedException', 'no')
    with pytest.raises(ImproperlyConfigured, match='GetItem is needed') as caught:
        make_app().backend.get('key')
    assert hint not in str(caught.value)


def arn_app(make_app: MakeApp, proxy: Proxy, name: str) -> Celery:
    """An app whose table is given as an ARN, which the proxy takes as AWS does."""
    arn = f'arn:aws:dynamodb:eu-west-1:123456789012:table/{name}'
    return make_app(result_backend=backend_url(f'localhost/{arn}', proxy.url))


def test_a_table_of_another_account_is_named_by_its_arn(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    app = arn_app(make_app, proxy, table_name)
    message = f'a table that is named by its ARN is not created from here; create {table_name} with'
    with pytest.raises(ImproperlyConfigured, match=message):
        app.backend.get('key')
    with pytest.raises(ImproperlyConfigured, match=message):
        dv.Table(dv.dataclasses.replace(app.backend.options, create_table=True)).get('key')
    assert 'CreateTable' not in operations(proxy)

    create_table(client, table_name)
    ids = ready_tasks(app.backend, 120)
    proxy.faults = first(4, Partial(), 'Batch')
    assert sorted(result_set(app, ids).get(timeout=30)) == list(range(120))
    app.backend.store_result('large', 'x' * 900 * KB, states.SUCCESS)
    assert app.backend.get_result('large') == 'x' * 900 * KB
    result_set(app, ids).forget()
    assert len(all_items(client, table_name)) == 4
    assert {request.table for request in proxy.requests} == {app.backend.options.table}

    proxy.faults = first(1, Error('AccessDeniedException', 'no'))
    with pytest.raises(ImproperlyConfigured, match='its resource policy has to allow it, and the'):
        app.backend.get('key')


def test_a_full_page_is_known_by_its_bytes(make_app: MakeApp, proxy: Proxy) -> None:
    # DynamoDB Local sends chunks, without a Content-Length
    table = ready(make_app(), proxy).store.table
    pages = [['a', 'b'], ['c']]

    def answer(request: Any, **kwargs: Any) -> Any:
        asked = [key['id']['S'] for key in json.loads(request.body)['RequestItems'][
            table.name]['Keys']]
        page = pages.pop(0)
        left = [{'id': {'S': id}} for id in asked if id not in page]
        big = 'x' * (2**20 // len(page))
        return raw_answer(request, json.dumps({
            'Responses': {table.name: [
                {'id': {'S': id}, 'result': {'S': big}} for id in page]},
            'UnprocessedKeys': {table.name: {'Keys': left}} if left else {},
        }).encode())
    table.client.botocore.meta.events.register('before-send.dynamodb.BatchGetItem', answer)
    # with no time left it is not tried again, unless the page was full
    assert set(table.get_many(['a', 'b', 'c'], budget=dv.Budget(0))) == {'a', 'b', 'c'}
    assert not pages


TOO_LONG = 'x' * 2100


@pytest.mark.parametrize('ask', [
    lambda backend, id: backend.app.AsyncResult(id).state,
    lambda backend, id: backend.app.AsyncResult(id).ready(),
    lambda backend, id: backend.app.AsyncResult(id).get(timeout=1),
    lambda backend, id: backend.app.AsyncResult(id).then(print),
    lambda backend, id: backend.app.AsyncResult(id).forget(),
    lambda backend, id: backend.app.GroupResult.restore(id),
    lambda backend, id: backend.delete_group(id),
    lambda backend, id: result_set(backend.app, [id, 'other']).ready(),
    lambda backend, id: result_set(backend.app, ['other', id]).completed_count(),
    lambda backend, id: result_set(backend.app, ['other', id]).get(timeout=1),
    lambda backend, id: result_set(backend.app, [id, 'other']).join(timeout=1),
    lambda backend, id: result_set(backend.app, ['other', id]).forget(),
    lambda backend, id: backend.get(id),
    lambda backend, id: backend.delete(id),
    lambda backend, id: backend.expire(id, 5),
    lambda backend, id: backend.incr(id),
    lambda backend, id: backend.set(id, b'1'),
    lambda backend, id: backend.store_result(id, 1, states.SUCCESS),
], ids=['state', 'ready', 'get', 'then', 'forget', 'restore', 'delete group', 'all ready',
        'completed', 'get all', 'join', 'forget all', 'get key', 'delete key', 'expire', 'incr',
        'set', 'store'])
def test_an_id_that_is_too_long_is_the_same_clear_error_from_all(
        ask: Callable[[Any, str], Any], backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    for id in (TOO_LONG, 'ä' * 1050):
        with pytest.raises(
                (ValueError, dv.ResultTooLarge),
                match=r'the id of a task is too long: .* 2,1\d\d bytes, and DynamoDB takes 2,048'):
            ask(backend, id)
    assert {request.status for request in proxy.requests} <= {200}


def test_an_id_that_is_too_long_spoils_no_batch_of_others(
        app: Celery, backend: dv.DynamoDBBackend, client: Any, table_name: str,
        caplog: pytest.LogCaptureFixture) -> None:
    ids = ready_tasks(app.backend, 3)
    keys = [backend.get_key_for_task(id) for id in ids]
    values = backend.mget([keys[0], TOO_LONG, *keys[1:]])
    assert [bool(value) for value in values] == [True, False, True, True]
    assert 'the id of a task is too long' in caplog.text
    with pytest.raises(ValueError, match='the id of a task is too long'):
        result_set(app, [ids[0], TOO_LONG, *ids[1:]]).forget()
    assert all_items(client, table_name) == []


def test_sending_a_task_whose_id_is_too_long_pauses_no_notes_of_others(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str,
        caplog: pytest.LogCaptureFixture) -> None:
    app = ready(make_app('track_sent=yes'), proxy).app
    app.send_task('task', task_id=TOO_LONG)
    app.send_task('task', task_id='short')
    assert [item['id'] for item in all_items(client, table_name)] == ['celery-task-meta-short']
    assert 'the id of a task is too long' in caplog.text


class Stub(http.server.ThreadingHTTPServer):
    """A DynamoDB in a state that no engine has: answers to operations, each a dict or an error."""

    daemon_threads = True

    def __init__(self, **answers: Any) -> None:
        super().__init__(('127.0.0.1', 0), StubHandler)
        self.answers = answers
        self.operations: list[str] = []
        self.url = f'http://127.0.0.1:{self.server_address[1]}'
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def app(self, query: str = '') -> Celery:
        url = backend_url('local/celery', self.url, f'&retry_base_delay=0.001&{query}'.rstrip('&'))
        return Celery('stub', backend=url, set_as_current=False)

    def run(self, *command: str, query: str = '') -> tuple[int, str]:
        context = type('Context', (), {'app': self.app(query)})
        done = click.testing.CliRunner().invoke(dv.commands, command, obj=context)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.output


class StubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Stub

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers['Content-Length']))
        operation = self.headers['X-Amz-Target'].rpartition('.')[2]
        self.server.operations.append(operation)
        answer = self.server.answers.get(operation, MISSING)
        if callable(answer):
            answer = answer()
        status, said = 200, answer
        if isinstance(answer, Error):
            status, said = answer.status, {'__type': f'x#{answer.code}', 'message': answer.message}
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


MISSING = Error('ResourceNotFoundException', 'Requested resource not found')


def described(status: str) -> dict[str, Any]:
    return {'Table': {
        'TableName': 'celery', 'TableStatus': status, 'ItemCount': 0, 'TableSizeBytes': 0,
        'KeySchema': [{'AttributeName': 'id', 'KeyType': 'HASH'}],
        'AttributeDefinitions': [{'AttributeName': 'id', 'AttributeType': 'S'}]}}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        yield server
        server.shutdown()
    dv.reset()


LASTING_LIMITS = ['There is a limit of 2500 tables per account',
                  'There is a limit of 256 tables per subscriber']
PASSING_LIMIT = Error('LimitExceededException', (
    'Subscriber limit exceeded: Only 10 tables can be created, updated, or deleted simultaneously'))


@pytest.mark.parametrize('limit', LASTING_LIMITS)
def test_a_limit_of_tables_that_lasts_is_told_at_once(
        limit: str, stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    stub.answers['CreateTable'] = Error(
        'LimitExceededException', f'Subscriber limit exceeded: {limit}')
    message = f"table='celery' cannot be created: delete another, or .* exceeded: {limit}"
    with pytest.raises(ImproperlyConfigured, match=message):
        stub.app().backend.store_result('id', 1, states.SUCCESS)
    assert stub.operations == ['PutItem', 'DescribeTable', 'CreateTable']
    assert 'succeed again' not in caplog.text and 'tried again' not in caplog.text
    code, output = stub.run('create-table')
    assert code == 1 and limit in output


@pytest.mark.parametrize(('operation', 'answer', 'why'), [
    ('CreateTable', PASSING_LIMIT, 'Only 10 tables'),
    ('DescribeTable', described('CREATING'), 'it is CREATING'),
    ('CreateTable', Error('ResourceInUseException', 'Table is being deleted'), 'being deleted')])
def test_what_kept_a_table_from_use_is_told_at_last(
        operation: str, answer: Any, why: str, stub: Stub, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(dv, '_BOOTSTRAP', dv.Backoff(0.001, 0.01, 9, max_retries=3))
    stub.answers[operation] = answer
    with pytest.raises(ImproperlyConfigured, match=f'after 9 s: .*{why}'):
        stub.app().backend.store_result('id', 1, states.SUCCESS)
    assert stub.operations.count('DescribeTable') == 4
    assert 'succeed again' not in caplog.text and 'tried again' not in caplog.text


def test_a_limit_of_creations_that_passes_is_waited_for(
        app: Celery, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults = first(3, PASSING_LIMIT, 'CreateTable')
    app.backend.store_result('id', 1, states.SUCCESS)
    assert app.backend.get_result('id') == 1
    assert operations(proxy).count('CreateTable') == 4
    assert 'succeed again' not in caplog.text


@pytest.mark.parametrize(('status', 'remedy'), [
    ('INACCESSIBLE_ENCRYPTION_CREDENTIALS', 'enable the KMS key'),
    ('ARCHIVING', 'restore its backup'), ('ARCHIVED', 'restore its backup'),
    ('NEW_TO_US', 'documentation')])
def test_a_table_in_a_state_that_lasts_is_told_as_it_is(
        status: str, remedy: str, stub: Stub) -> None:
    stub.answers['DescribeTable'] = described(status)
    with pytest.raises(ImproperlyConfigured, match=f"table='celery' is {status}: .*{remedy}"):
        stub.app().backend.store_result('id', 1, states.SUCCESS)
    assert 'CreateTable' not in stub.operations


@pytest.mark.parametrize('command', ['check', 'create-table', 'list', 'show id'])
def test_a_command_tells_the_state_of_a_table(command: str, stub: Stub) -> None:
    stub.answers['DescribeTable'] = described('ARCHIVED')
    code, output = stub.run(*command.split(), query='create_table=false')
    assert code == 1 and "table='celery' is ARCHIVED: " in output
    assert 'the first request creates it' not in output and 'does not exist' not in output


@pytest.mark.parametrize('status', ['CREATING', 'DELETING'])
def test_check_tells_of_a_table_that_comes_or_goes(status: str, stub: Stub) -> None:
    stub.answers['DescribeTable'] = described(status)
    code, output = stub.run('check')
    assert code == 1 and f"table='celery' is {status}: try again" in output
    assert 'ok  table' not in output and 'the first request creates it' not in output


def test_check_flags_the_state_of_a_table_that_still_answers(stub: Stub) -> None:
    denied = Error('AccessDeniedException', (
        'KMS key access denied error: com.amazonaws.services.kms.model.AWSKMSException: The '
        'ciphertext refers to a customer master key that does not exist, does not exist in this '
        'region, or you are not allowed to access.'))
    stub.answers.update(dict.fromkeys(
        ['GetItem', 'PutItem', 'UpdateItem', 'DeleteItem', 'BatchGetItem', 'BatchWriteItem',
         'BatchExecuteStatement'], denied))
    stub.answers['DescribeTable'] = described('INACCESSIBLE_ENCRYPTION_CREDENTIALS')
    code, output = stub.run('check')
    assert code == 1 and 'is INACCESSIBLE_ENCRYPTION_CREDENTIALS: enable' in output
    assert '--  DescribeTable' in output
    assert 'NO  PutItem         ' in output and 'dynamodb:PutItem' not in output
    assert output.count('the IAM action kms:Decrypt is needed, and denied') == 6


def test_a_worker_without_create_table_needs_no_describe_table(stub: Stub) -> None:
    stub.answers['DescribeTable'] = Error('AccessDeniedException', 'no')
    with pytest.raises(ImproperlyConfigured, match="table='celery' does not exist in us-east-1"):
        stub.app('create_table=false').backend.store_result('id', 1, states.SUCCESS)


@pytest.mark.parametrize(('message', 'action'), [
    ('KMS key access denied error: x: The ciphertext refers to a key that', 'kms:Decrypt'),
    ('KMS key access denied error: x: User: arn:aws:iam::1:role/r is not authorized to perform: '
     'kms:CreateGrant on resource: arn:aws:kms:x', 'kms:CreateGrant'),
    ('User: arn:aws:iam::1:role/r is not authorized to perform: kms:Decrypt on', 'kms:Decrypt'),
    ('User: arn:aws:iam::1:role/r is not authorized to perform: dynamodb:PutItem on resource',
     'dynamodb:PutItem')])
def test_a_denied_key_is_told_as_such(
        message: str, action: str, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    proxy.faults = lambda operation, body: Error('AccessDeniedException', message)
    with pytest.raises(ImproperlyConfigured, match=f'the IAM action {action} is needed, and den'):
        backend.store_result('id', 1, states.SUCCESS)


@pytest.mark.parametrize('action', ['DescribeTimeToLive', 'UpdateTimeToLive'])
@pytest.mark.parametrize('exists', [False, True])
def test_create_table_that_may_not_turn_on_time_to_live_says_so(
        action: str, exists: bool, cli: Any, proxy: Proxy, client: Any, table_name: str) -> None:
    if exists:
        create_table(client, table_name)
    denied = Error('AccessDeniedException', 'not authorized')
    proxy.faults = lambda operation, body: denied if operation == action else None
    code, output = cli('create-table')
    done = 'exists' if exists else 'was created'
    said = f'Error: table {table_name} {done}, but time to live was not turned on: '
    assert code == 1 and said in output
    assert f'the IAM action dynamodb:{action} is needed, and denied' in output
    assert 'create-table turns it on' not in output and 'or create the table' not in output
    assert client.describe_table(TableName=table_name)['Table']['TableStatus'] == 'ACTIVE'


@pytest.mark.parametrize('operation', ['DescribeTimeToLive', 'UpdateTimeToLive'])
@pytest.mark.parametrize('fault', [
    ServerError(), Error('LimitExceededException', 'Subscriber limit exceeded: x')])
def test_a_passing_failure_leaves_time_to_live_to_a_later_write(
        operation: str, fault: Any, make_app: MakeApp, proxy: Proxy, client: Any, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    create_table(client, table_name)
    backend = make_app('ttl_seconds=60').backend
    proxy.faults = first(99, fault, operation)
    backend.set('key', b'1')
    backend.set('key', b'2')  # a store is not held up by more than one request
    assert operations(proxy).count(operation) == 1
    monkeypatch.setattr(dv, '_TTL_PAUSE', 0)
    backend.store.table._ttl_due = 0  # a minute later
    backend.set('key', b'3')
    proxy.faults = None
    backend.set('key', b'4')
    ttl = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert ttl['AttributeName'] == 'ttl'
    proxy.reset()
    backend.set('key', b'5')
    assert operations(proxy) == ['PutItem']


def test_a_signal_leaves_time_to_live_to_a_later_write(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, '_TTL_PAUSE', 0, raising=False)
    create_table(client, table_name)
    backend = make_app('ttl_seconds=60').backend
    left = [KeyboardInterrupt()]

    def interrupt_once(**kwargs: Any) -> None:
        if left:
            raise left.pop()

    backend.store.table.client.botocore.meta.events.register(
        'before-send.dynamodb.DescribeTimeToLive', interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        backend.set('key', b'1')
    backend.set('key', b'2')
    ttl = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert ttl['AttributeName'] == 'ttl'


def test_the_time_to_live_of_a_new_table_survives_a_short_failure(
        app: Celery, proxy: Proxy, client: Any, table_name: str) -> None:
    proxy.faults = first(3, ServerError(), 'DescribeTimeToLive')
    app.backend.set('key', b'1')
    ttl = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert ttl['AttributeName'] == 'ttl'


# --------------------------------------------------------------------------------------------------
# Group commit
# --------------------------------------------------------------------------------------------------

def test_concurrent_stores_share_a_request(writers: Writers, proxy: Proxy) -> None:
    writers.store(9)
    assert operations(proxy) == ['PutItem', 'BatchExecuteStatement']
    assert sorted(proxy.requests[1].ids + proxy.requests[0].ids) == sorted(
        f'celery-task-meta-{id}' for id in writers.written)
    assert proxy.usage().write_units == 9
    writers.check()
    proxy.reset()
    writers.store(60)  # 25 statements at most
    sizes = [len(request.ids) for request in proxy.requests if request.ids[0].startswith('celery')]
    assert sum(sizes) == 60 and max(sizes) == 25 and len(sizes) <= 6


@pytest.mark.parametrize('earlier', ['success', 'failure', 'expired'])
def test_batched_stores_keep_the_first_success(
        earlier: str, writers: Writers, proxy: Proxy, client: Any, table_name: str) -> None:
    state = states.FAILURE if earlier == 'failure' else states.SUCCESS
    writers.backend.store_result('e', ValueError() if earlier == 'failure' else 'old', state)
    if earlier == 'expired':
        writers.backend.expire('celery-task-meta-e', 1)
        time.sleep(2.1)
    proxy.reset()
    writers.stores({id: f'new {id}' for id in 'abcdefghi'})
    assert sorted(operations(proxy)) == ['BatchExecuteStatement'] + ['PutItem'] * 2
    writers.check(e='old' if earlier == 'success' else 'new e')


@pytest.mark.parametrize('fault', [
    Partial(), Partial('InternalServerError'), Throttle(), ServerError(), ResetBefore(),
    ResetAfter()], ids=repr)
def test_batched_stores_survive_faults(
        fault: Any, writers: Writers, proxy: Proxy, client: Any, table_name: str) -> None:
    proxy.faults = first(1, fault, 'BatchExecuteStatement')
    writers.store(9)
    # one by one, and not together again
    assert operations(proxy).count('BatchExecuteStatement') == 1
    assert operations(proxy).count('PutItem') == (5 if isinstance(fault, Partial) else 9)
    writers.check()
    assert len(all_items(client, table_name)) == 11


def test_an_interrupted_store_leaves_the_others_alone(writers: Writers, proxy: Proxy) -> None:
    writers.store(9, dies='BatchExecuteStatement')
    died, = writers.died
    assert operations(proxy) == ['PutItem'] * 8
    del writers.written[died]
    writers.check()


def test_what_cannot_be_stored_hurts_no_other_store_of_its_batch(
        writers: Writers, proxy: Proxy) -> None:
    proxy.faults = lambda operation, body: Delay(0.5)
    statuses: list[Any] = [states.SUCCESS] * 3 + [object()]  # any, where results are pickled
    with ThreadPoolExecutor(4) as pool:
        stores = []
        for number, status in enumerate(statuses):
            stores.append(pool.submit(
                writers.backend.store.put, str(number), b'{}', status, new=True))
            time.sleep(0.1)
    assert [type(each.exception()) for each in stores] == [type(None)] * 3 + [TypeError]
    assert operations(proxy) == ['PutItem', 'BatchExecuteStatement']


def test_threads_released_by_one_response_share_the_next_request(
        writers: Writers, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    writers.store(9)  # one alone, and eight together
    monkeypatch.setattr(dv, 'LINGER', 60.0)
    proxy.reset()
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(writers.backend.store_result, f'next-{number}', number, states.SUCCESS)
    assert operations(proxy) == ['BatchExecuteStatement'] and len(proxy.requests[0].ids) == 8
    monkeypatch.setattr(dv, 'LINGER', 0.01)
    proxy.reset()
    for number in range(2):  # the first waits for the others in vain, the second for nobody
        writers.backend.store_result(f'alone-{number}', number, states.SUCCESS)
        monkeypatch.setattr(dv, 'LINGER', 60.0)
    assert operations(proxy) == ['PutItem'] * 2


def test_nobody_waits_for_ever_for_a_leader_that_a_signal_stopped_before_it_led(
        writers: Writers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, 'FOLLOWER_TIMEOUT', 0.5)
    monkeypatch.setattr(dv, 'LEADER_TIMEOUT', 0.5)
    batcher = dv.shared_batcher(writers.backend.options)
    batcher._enter(dv.RESULTS_QUEUE, 'stopped', {})  # and nobody is left to send it
    ids = [str(number) for number in range(30)]  # more than it takes
    threads = [threading.Thread(target=writers.backend.store_result, args=(id, id, states.SUCCESS))
               for id in ids]
    for thread in threads:
        thread.daemon = True
        thread.start()
    threads[0].join(20)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    writers.check(**dict(zip(ids, ids)))


def test_a_thread_waits_for_no_batch_that_it_led_itself_when_a_signal_stopped_it(
        writers: Writers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, 'LEADER_TIMEOUT', 60.0)
    batcher = dv.shared_batcher(writers.backend.options)
    stale, _ = batcher._enter(dv.RESULTS_QUEUE, 'stopped', {})
    began = time.monotonic()
    for id in ('one', 'two'):
        writers.backend.store_result(id, id, states.SUCCESS)
    assert time.monotonic() - began < 30  # and not LEADER_TIMEOUT or FOLLOWER_TIMEOUT, 60 s
    assert stale.done.is_set()  # who has joined it waits no longer


def test_a_store_that_is_tried_again_and_again_does_not_hold_up_others(
        writers: Writers, proxy: Proxy) -> None:
    tried, stored = threading.Event(), threading.Event()

    def faults(operation: str, body: Any) -> Any:
        if body.get('Item', {}).get('id', {}).get('S', '').endswith('-slow'):
            tried.set()
            return None if stored.is_set() else Throttle()
        return None

    proxy.faults = faults
    slow = threading.Thread(
        target=writers.backend.store_result, args=('slow', 1, states.SUCCESS))
    slow.start()
    assert tried.wait(20)
    writers.backend.store_result('other', 2, states.SUCCESS)
    assert slow.is_alive()
    stored.set()
    slow.join(60)
    writers.check(slow=1, other=2)


@pytest.mark.parametrize('fault', [
    Partial('AccessDenied'), Error('AccessDeniedException')], ids=repr)
def test_without_the_right_to_insert_stores_go_alone_and_it_is_logged_once(
        fault: Any, writers: Writers, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults = lambda operation, body: fault if operation.startswith('BatchE') else None
    writers.store(9)
    writers.store(9, together=False)
    assert operations(proxy).count('BatchExecuteStatement') == 1
    writers.check()
    got, = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 'grant the IAM action dynamodb:PartiQLInsert' in got.getMessage()


@pytest.mark.parametrize('what', ['large', 'larger', 'retried', 'sent'])
def test_stores_that_go_alone(
        what: str, writers: Writers, proxy: Proxy, make_app: MakeApp) -> None:
    if what == 'sent':
        writers.backend = ready(make_app('track_sent=yes'), proxy)
    size = {'large': 17_000, 'larger': 500_000}.get(what, 0)
    writers.store(5, value='x' * size, retries=1 if what == 'retried' else 0, together=False)
    assert 'BatchExecuteStatement' not in operations(proxy)
    writers.check()


def test_a_second_state_goes_alone(writers: Writers, proxy: Proxy) -> None:
    started = threading.Barrier(5)

    def store(id: str) -> None:
        request = Context(id=id)  # Celery has one for all states of a delivery
        writers.backend.store_result(id, None, states.STARTED, request=request)
        started.wait(20)
        writers.backend.store_result(id, id, states.SUCCESS, request=request)

    proxy.faults = lambda operation, body: Delay(0.1)
    threads = [threading.Thread(target=store, args=(id,)) for id in 'abcde']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    proxy.faults = None
    assert operations(proxy)[-5:] == ['PutItem'] * 5
    assert 'BatchExecuteStatement' in operations(proxy)
    assert proxy.usage().write_units == 10
    writers.check(**{id: id for id in 'abcde'})


def test_the_states_of_other_tasks_are_not_remembered(backend: dv.DynamoDBBackend) -> None:
    task = backend.app.tasks['celery.accumulate']
    own = Context(id='own')
    for _ in range(2):
        task.update_state('other', 'PROGRESS')  # where no task runs, Celery has one request for all
        backend.store_result('another', None, 'PROGRESS', request=own)
    assert 'dynamodb_delivery' not in vars(task.request)
    assert dv.delivery_of(own) == dv.Delivery()
    assert backend.get_state('other') == backend.get_state('another') == 'PROGRESS'


@pytest.mark.parametrize('pool', ['threads', 'solo'])
def test_when_a_task_started_is_stored_with_each_of_its_states_by_no_request_more(
        pool: str, make_app: MakeApp, proxy: Proxy, cli: Any, client: Any, table_name: str) -> None:
    app = make_app(result_extended=True)
    app.finalize()
    asleep, rows = 0.05, []

    @app.task(shared=False, bind=True)
    def sleeps(self: Any, fails: int = 0) -> None:
        time.sleep(asleep)
        self.update_state(state='PROGRESS')
        rows.append(cli('show', self.request.id, '--json')[1])
        self.backend.store_result(f'other-{self.request.id}', 1, states.SUCCESS,
                                  request=self.request)
        time.sleep(asleep)
        if fails > self.request.retries:
            raise self.retry(exc=ValueError('again'), countdown=0)
        raise KeyError('no')

    ready(app, proxy)
    with working(app, pool):
        began = time.time()
        result = sleeps.delay(1)
        with pytest.raises(KeyError):
            result.get(timeout=30)
        ended = time.time()
    # while it ran, and in the state that it stored itself
    assert [(row['state'], row['duration']) for row in rows] == [('PROGRESS', None)] * 2
    assert rows[0]['started'] < rows[0]['stored'] < rows[1]['started']
    row = cli('show', result.id, '--json')[1]
    assert 2 * asleep <= row['duration'] < ended - began
    started, stored = (datetime.datetime.fromisoformat(row[name]).timestamp()
                       for name in ('started', 'stored'))
    assert began + 2 * asleep < started < ended - 2 * asleep  # it is that of the second attempt
    assert stored - started == pytest.approx(row['duration'], abs=0.002)
    item = next(item for item in all_items(client, table_name) if item['id'] == row['stored_as'])
    assert set(item) == {'id', 'result', 'status', 'timestamp', 'ttl', 'duration'}
    meta = json.loads(item['result'])
    assert 'duration' not in meta and 'started' not in meta  # Celery's own keys
    assert len(repr(item['duration'])) <= 6
    output = cli('show', result.id)[1]
    assert f'started    {row["started"][:19].replace("T", " ")} UTC\n' in output
    assert re.search(r'^duration   \d\d\dms$', output, re.MULTILINE)
    other = cli('show', f'other-{result.id}', '--json')[1]
    assert (other['state'], other['started'], other['duration']) == ('SUCCESS', None, None)


@pytest.mark.parametrize('state', ['STARTED', 'PROGRESS', 'RETRY', 'SUCCESS', 'FAILURE', 'REVOKED'])
def test_a_duration_is_shown_of_a_task_that_ended(
        state: str, cli: Any, app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    request = Context(id='one')
    dv.delivery_of(request).started = dv.monotonic() - 90
    value = ValueError() if state in states.EXCEPTION_STATES else {'hostname': 'w@h', 'pid': 5}
    backend.store_result('one', value, state, request=request)
    assert cost(proxy) == (1, 0, 1)
    row = cli('show', 'one', '--json')[1]
    assert abs(seconds_since(row['started']) - 90) < 10
    has_ended = state not in ('STARTED', 'PROGRESS')
    assert row['duration'] is None if not has_ended else 90 <= row['duration'] < 100
    assert row['worker'] == ('w@h' if state == 'STARTED' else None)
    output = cli('list')[1]
    assert bool(re.search(r'  9\ds ', output)) == has_ended == ('TOOK' in output)


def seconds_since(moment: str) -> float:
    return time.time() - datetime.datetime.fromisoformat(moment).timestamp()


def test_an_eager_task_and_a_large_result_have_a_start_and_a_client_has_none(
        make_app: MakeApp, proxy: Proxy, cli: Any) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True)
    app.finalize()

    @app.task(shared=False)
    def large(size: int) -> str:
        return 'x' * size

    backend = ready(app, proxy)
    for size in (1, 900 * KB):
        row = cli('show', large.delay(size).id, '--json')[1]
        assert row['state'] == 'SUCCESS' and 0 <= row['duration'] < seconds_since(row['started'])
    assert row['chunks'] == 3
    backend.store_result('of a client', 1, states.SUCCESS)
    row = cli('show', 'of a client', '--json')[1]
    assert (row['started'], row['duration']) == (None, None)
    assert 'started' not in cli('show', 'of a client')[1]


def test_a_task_that_is_called_in_a_child_process_has_a_start(worker_app: Any, cli: Any) -> None:
    result = worker_app.part.delay(1, 0.2)
    assert result.get(timeout=30) == 1
    row = cli('show', result.id, '--json')[1]
    assert 0.2 <= row['duration'] < seconds_since(row['started'])


def store_in_threads(backend: dv.DynamoDBBackend, threads: int, each: int) -> list[str]:
    """Stores results, as many in each thread, and returns the ids of those that are not there."""
    def store(thread: int) -> list[str]:
        ids = [f'{thread}-{number}' for number in range(each)]
        for id in ids:
            with contextlib.suppress(TypeError):
                backend.store_result(id, id, states.SUCCESS)
        return ids

    with ThreadPoolExecutor(threads) as pool:
        ids = [id for some in pool.map(store, range(threads)) for id in some]
    return [id for id in ids if backend.get_state(id) != states.SUCCESS]


def test_no_result_is_lost_under_mock_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    import moto  # here, since it takes a second

    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.setenv(name, 'testing')
    app = Celery('mocked', set_as_current=False)
    app.conf.result_backend = 'dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1/celery'
    try:
        with moto.mock_aws():
            app.backend.set('made', b'1')  # the table
            assert store_in_threads(app.backend, 8, 5) == []
    finally:
        dv.reset()


@pytest.mark.parametrize('error', [
    TypeError('a hook'), KeyError('a hook'), RuntimeError('a hook')], ids=repr)
def test_whatever_a_request_for_many_raises_each_result_is_stored(
        error: Exception, writers: Writers) -> None:
    def instrumentation(operation: str) -> None:
        if operation == 'BatchExecuteStatement':
            raise error

    with Hook(writers.backend, instrumentation):
        writers.store(9)
    writers.check()
    writers.store(9)  # it has passed
    assert operations(writers.proxy)[-2:] == ['PutItem', 'BatchExecuteStatement']
    writers.check()


@pytest.mark.parametrize('answer', [{}, {'Responses': None}, {'Responses': [{'Error': {}}]}])
def test_an_odd_answer_for_many_loses_no_result(answer: Any, writers: Writers) -> None:
    def odd(parsed: dict[str, Any], **kwargs: Any) -> None:
        parsed.clear()
        parsed.update(answer)

    events = writers.backend.store.table.client.botocore.meta.events
    events.register('after-call.dynamodb.BatchExecuteStatement', odd)
    try:
        writers.store(9)
    finally:
        events.unregister('after-call.dynamodb.BatchExecuteStatement', odd)
    writers.check()


def test_a_soft_time_limit_in_a_request_for_many_is_raised_and_others_are_stored(
        writers: Writers) -> None:
    def limit(operation: str) -> None:
        if operation == 'BatchExecuteStatement':
            raise SoftTimeLimitExceeded

    limited: list[str] = []
    store = writers.backend.store_result

    def storing(id: str, *args: Any, **kwargs: Any) -> None:
        try:
            store(id, *args, **kwargs)
        except SoftTimeLimitExceeded:
            limited.append(id)

    writers.backend.store_result = storing  # of this writers alone
    with Hook(writers.backend, limit):
        writers.store(9)
    stopped, = limited
    assert writers.written.pop(stopped)
    writers.check()


def test_an_engine_without_statements_is_told_as_such(
        writers: Writers, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    fault = Error('UnknownOperationException')
    proxy.faults = lambda operation, body: fault if operation.startswith('BatchE') else None
    writers.store(9)
    writers.store(9, together=False)
    assert operations(proxy).count('BatchExecuteStatement') == 1
    writers.check()
    got, = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 'this engine has no BatchExecuteStatement' in got.getMessage()
    assert 'IAM' not in got.getMessage()


@pytest.mark.parametrize('fault', [
    Error('ResourceNotFoundException'), Partial('ResourceNotFound'), Throttle(),
    Error('ValidationException'), ServerError(), Partial('ThrottlingError')], ids=repr)
def test_what_passes_keeps_no_results_from_being_stored_together(
        fault: Any, writers: Writers, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults = first(2, fault, 'BatchE')
    for _ in range(3):
        writers.store(4)
    assert operations(proxy)[-2:] == ['PutItem', 'BatchExecuteStatement']
    writers.check()
    assert 'one request each' not in caplog.text


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    breaker, seen = dv.Breaker(), []
    for failed in (True, True, False, True, True, True, False):
        breaker.note(failed)
        seen.append(breaker.is_open)
    assert seen == [False] * 5 + [True, True]  # for its pause, whatever ends until then
    breaker.pause = -1.0  # it would be over
    breaker.open_for_good()
    breaker.note(True)
    breaker.note(True)
    breaker.note(True)
    assert breaker.is_open


@pytest.mark.parametrize('fault', [ServerError(), Error('ValidationException'), ResetAfter()],
                         ids=repr)
def test_an_engine_that_never_inserts_many_is_not_asked_again_and_again(
        fault: Any, writers: Writers, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults = lambda operation, body: fault if operation.startswith('BatchE') else None
    limit = dv.Breaker().limit
    for number in range(limit + 1):
        writers.store(4, together=number < limit)
    assert operations(proxy).count('BatchExecuteStatement') == limit
    writers.check()
    got, = [record for record in caplog.records if 'one request each' in record.getMessage()]
    assert got.levelno == logging.WARNING and 'tried again in a minute' in got.getMessage()


# --------------------------------------------------------------------------------------------------
# Blob store
# --------------------------------------------------------------------------------------------------

BIG = 10 * 2**20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize('size', [1, 400_000, 400_001, 800_000, BIG])
def test_values_of_any_size_survive(
        size: int, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    value = noise(size)
    backend.set('key', value)
    assert backend.get('key') == value
    assert backend.mget(['no', 'key']) == [None, value]
    backend.set('key', b'small')
    assert backend.get('key') == b'small'
    assert [item['id'] for item in all_items(client, table_name)] == ['key']
    backend.set('key', value)
    backend.set('key', value[::-1])
    assert backend.get('key') == value[::-1]
    backend.delete('key')
    assert all_items(client, table_name) == []


def test_the_largest_value_of_one_item_fits_with_the_longest_id(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    key, value = 'k' * 2048, noise(dv._VALUE_LIMIT)
    backend.store.put(key, value, 'SUCCESS', 3600)
    assert backend.get(key) == value
    assert len(all_items(client, table_name)) == 1


def test_a_value_above_max_result_size_is_refused_with_both_sizes(
        make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app('max_result_size=2000'), proxy)
    message = r'celery-task-meta-id has 3,\d\d\d bytes .* max_result_size is 2,000'
    with pytest.raises(dv.ResultTooLarge, match=message):
        backend.store_result('id', 'x' * 3000, states.SUCCESS)
    assert proxy.requests == []


def test_large_values_expire_whole(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    backend.store.put('key', noise(900 * KB), 'SUCCESS', lifetime=100)
    assert len({item['ttl'] for item in all_items(client, table_name)}) == 1
    backend.expire('key', 1000)
    ttl, = {item['ttl'] for item in all_items(client, table_name)}
    assert 990 < ttl - time.time() < 1001
    backend.expire('key', None)
    assert all('ttl' not in item for item in all_items(client, table_name))


@pytest.mark.parametrize('fault', [Throttle(), ResetBefore(), ResetAfter(), Partial()], ids=repr)
@pytest.mark.parametrize('number', range(6))
def test_large_values_survive_a_fault_anywhere(
        fault: Any, number: int, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str) -> None:
    old, new = noise(1200 * KB, 1), noise(1000 * KB, 2)
    backend.store_result('id', old.hex(), states.RETRY)
    at = iter(range(99))
    proxy.faults = lambda operation, body: fault if next(at) == number else None
    backend.store_result('id', new.hex(), states.SUCCESS)
    assert backend.get_result('id') == new.hex()
    proxy.faults = None
    chunks = [item for item in all_items(client, table_name) if '/' in item['id']]
    lost = [request.operation for request in proxy.requests if request.fault == ResetAfter()]
    # if PutItem's answer is lost, so are the names of the chunks that it replaced: they stay until
    # they expire
    assert len(chunks) == (13 if lost == ['PutItem'] else 6)


def test_a_reader_never_sees_a_mix_of_two_values(backend: dv.DynamoDBBackend) -> None:
    values = [bytes([number]) * (700 * KB + number * 300 * KB) for number in range(4)]
    backend.set('key', values[0])
    stop, seen = threading.Event(), set()

    def write() -> None:
        while not stop.is_set():
            backend.set('key', random.choice(values))

    def read() -> None:
        for _ in range(15):
            value = backend.get('key')
            assert value in values, len(value or b'')
            seen.add(len(value))
        done.append(True)

    done: list[bool] = []
    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in [writer, *readers]:
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    writer.join()
    assert len(done) == 2 and len(seen) > 1


@pytest.mark.parametrize('faults', [
    lambda operation, body: Error('AccessDeniedException') if operation == 'PutItem' else None,
    lambda operation, body: Throttle() if operation == 'PutItem' else None,
    lambda operation, body: ResetBefore() if operation == 'PutItem' else None,
    first(1, Error('AccessDeniedException'), 'BatchWriteItem'),
], ids=['denied', 'throttled', 'reset', 'chunks denied'])
def test_a_large_value_that_cannot_be_stored_leaves_no_chunk(
        faults: Any, make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('retry_timeout=0.1'), proxy)
    proxy.faults = faults
    with pytest.raises(dv.FAILURES):
        backend.set('large', noise(3 * 400_000))
    assert all_items(client, table_name) == []


def test_a_large_value_that_was_stored_though_no_response_came_keeps_its_chunks(
        make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app('retry_timeout=0.1'), proxy)
    value = noise(3 * 400_000)
    proxy.faults = lambda operation, body: ResetAfter() if operation == 'PutItem' else None
    with pytest.raises(dv.FAILURES):
        backend.set('large', value)
    proxy.faults = None
    assert backend.get('large') == value


def test_a_soft_time_limit_while_chunks_are_written_leaves_none(
        backend: dv.DynamoDBBackend, proxy: Proxy, client: Any, table_name: str) -> None:
    def limit(operation: str) -> None:
        if operation == 'PutItem':
            raise celery.exceptions.SoftTimeLimitExceeded

    with Hook(backend, limit), pytest.raises(celery.exceptions.SoftTimeLimitExceeded):
        backend.set('large', noise(3 * 400_000))
    assert all_items(client, table_name) == []


@pytest.mark.parametrize('attributes', [
    {'chunks': {'N': '1000'}, 'size': {'N': '400000000'}},
    {'chunks': {'N': '9999'}, 'size': {'N': '5'}},
    {'chunks': {'N': '1' + '0' * 30}, 'size': {'N': '4' + '0' * 35}},
], ids=['as many as there may be', 'more than its size', 'without end'])
def test_an_item_that_claims_thousands_of_chunks_costs_few_requests(
        attributes: dict[str, Any], backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str, endpoint: str) -> None:
    # without it, the item is read by one request more
    told = 'the item in a refused condition' not in dynamodb_local.lacks(endpoint)
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-task-meta-odd'}, 'version': {'B': bytes(16)}, **attributes})
    assert backend.get_state('odd') == states.FAILURE
    assert len(proxy.requests) <= 10
    proxy.reset()
    backend.store_result('odd', 1, states.SUCCESS)
    assert backend.get_result('odd') == 1
    assert len(proxy.requests) <= (46 if told else 47)  # 40 delete what may be there


def test_a_value_whose_chunks_are_gone_is_a_clear_error(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    backend.set('key', noise(900 * KB))
    chunk = next(item['id'] for item in all_items(client, table_name) if '/' in item['id'])
    client.delete_item(TableName=table_name, Key={'id': {'S': chunk}})
    with pytest.raises(dv.UnreadableValue, match='item key: chunks are missing'):
        backend.get('key')


def test_a_reader_that_finds_the_chunks_gone_starts_again(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    old, new = noise(900 * KB, 1), noise(900 * KB, 2)
    backend.set('key', old)
    replaced: list[bool] = []

    def replace(operation: str, body: Any) -> Any:
        if operation == 'BatchGetItem' and not replaced:
            replaced.append(True)
            proxy.faults = None
            threading.Thread(target=backend.set, args=('key', new)).start()
            return Delay(1.5)
        return None

    proxy.faults = replace
    assert backend.get('key') == new and replaced


@pytest.mark.parametrize('spare', [0, 1, 37])
def test_a_large_value_whose_chunks_would_have_too_long_ids_is_a_clear_error(
        spare: int, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str) -> None:
    id = 'x' * (2048 - len('celery-task-meta-') - spare)
    value = noise(900 * KB).hex()
    if spare == 37:  # "/", 32 digits, "/0", and two to spare
        backend.store_result(id, value, states.SUCCESS)
        assert backend.get_result(id) == value
        return
    with pytest.raises(dv.ResultTooLarge, match=r'results above 400,000 bytes: .* 2,08[23]'):
        backend.store_result(id, value, states.SUCCESS)
    assert proxy.requests == []
    backend.store_result(id, RuntimeError(value), states.FAILURE)  # so that its end is known
    with pytest.raises(Exception, match='results above 400,000 bytes'):
        backend.app.AsyncResult(id).get(timeout=5)
    backend.forget(id)
    assert all_items(client, table_name) == []


def test_an_item_whose_chunks_ids_would_be_too_long_cannot_be_read_but_replaced(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    id = 'x' * (2048 - len('celery-task-meta-'))
    client.put_item(TableName=table_name, Item={
        'id': {'S': f'celery-task-meta-{id}'}, 'version': {'B': bytes(16)},
        'chunks': {'N': '1'}, 'size': {'N': '5'}, 'status': {'S': 'PROGRESS'},
        'timestamp': {'N': '1'}})
    assert backend.get_state(id) == states.FAILURE
    backend.store_result(id, 1, states.SUCCESS)
    assert backend.get_result(id) == 1
    backend.forget(id)
    assert all_items(client, table_name) == []


def test_a_name_of_a_state_fits_beside_the_largest_value(backend: dv.DynamoDBBackend) -> None:
    state = 'S' * 1024
    filler = 'x' * (dv._VALUE_LIMIT - len(backend.encode(backend._get_result_meta(
        '', state, None, None))) - 100)
    backend.store_result('id', filler, state)
    assert backend.get_state('id') == state and backend.get_result('id') == filler
    backend.forget('id')


def test_a_name_of_a_state_that_fits_into_no_item_is_a_clear_error(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    with pytest.raises(dv.ResultTooLarge, match='has 1,025 bytes: it can have 1,024'):
        backend.store_result('id', 1, 'S' * 1025)
    assert proxy.requests == []


LARGE = 450 * KB


class Replacer:
    """Replaces a large value whenever its item was read, before its chunks are.

    times: how often; after that it stays.
    """

    def __init__(self, backend: dv.DynamoDBBackend, client: Any, table: str, times: float) -> None:
        self.backend, self.client, self.table, self.left = backend, client, table, times
        self.events = backend.store.table.client.botocore.meta.events
        self.replaced = 0
        self.swap()

    def swap(self) -> None:
        """As put() does, but with a client of its own: chunks, item, and the old chunks go."""
        self.replaced += 1
        value = self.backend.encode({
            'status': 'PROGRESS', 'result': f'{self.replaced}'.ljust(LARGE), 'task_id': 'id'})
        item, chunks = dv._items_of('celery-task-meta-id', value.encode(), 'PROGRESS', {})
        for each in chunks:
            self.client.put_item(TableName=self.table, Item=dv.marshal_item(each))
        try:
            response = self.client.put_item(
                TableName=self.table, Item=dv.marshal_item(item), ReturnValues='ALL_OLD',
                **dv.expressions({'keep': 'SUCCESS', 'now': 0},
                                 ConditionExpression=dv.BlobStore.REPLACEABLE))
            old = response.get('Attributes', {})
        except self.client.exceptions.ConditionalCheckFailedException:
            old = dv.marshal_item(item)  # the task has ended
        for id in dv.chunk_ids(dv.unmarshal_item(old)):
            self.client.delete_item(TableName=self.table, Key={'id': {'S': id}})

    def _after(self, model: Any, parsed: Any, **kwargs: Any) -> None:
        read = [parsed.get('Item'), *parsed.get('Responses', {}).get(self.table, ())]
        if self.left > 0 and any(item and 'chunks' in item for item in read):
            self.left -= 1
            self.swap()

    def __enter__(self) -> Replacer:
        self.events.register('after-call.dynamodb', self._after)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.events.unregister('after-call.dynamodb', self._after)


MakeReplacer = Callable[[float], Replacer]


@pytest.fixture
def replacer(backend: dv.DynamoDBBackend, client: Any, table_name: str) -> MakeReplacer:
    return lambda times: Replacer(backend, client, table_name, times)


@pytest.mark.parametrize('read', [
    lambda backend: backend.get_state('id'),
    lambda backend: result_set(backend.app, ['id', 'other']).failed() or 'PROGRESS',
    lambda backend: backend.decode(backend.get(backend.get_key_for_task('id')))['status'],
    lambda backend: backend.decode(backend.mget([backend.get_key_for_task('id')])[0])['status'],
], ids=['state', 'failed', 'get', 'mget'])
def test_a_value_that_is_replaced_again_and_again_is_read_on(
        read: Callable[[Any], str], backend: dv.DynamoDBBackend, replacer: MakeReplacer) -> None:
    with replacer(5) as replacing:
        assert read(backend) == 'PROGRESS'
    assert replacing.left == 0


def test_a_wait_for_a_value_that_is_replaced_again_and_again_goes_on(
        app: Celery, backend: dv.DynamoDBBackend, replacer: MakeReplacer) -> None:
    def finish() -> None:
        until = time.monotonic() + 20
        while replacing.replaced < 8 and time.monotonic() < until:
            time.sleep(0.01)
        app.backend.store_result('id', 42, states.SUCCESS)

    with replacer(math.inf) as replacing, ThreadPoolExecutor(1) as pool:
        finished = pool.submit(finish)
        assert app.AsyncResult('id').get(timeout=30, interval=0.02) == 42
    finished.result()


def test_a_wait_that_never_finds_the_whole_value_ends_in_time(
        app: Celery, backend: dv.DynamoDBBackend, replacer: MakeReplacer) -> None:
    with replacer(math.inf):
        with pytest.raises(TimeoutError, match='results not ready: 1'):
            app.AsyncResult('id').get(timeout=0.2, interval=0.02)
        with pytest.raises(TimeoutError):
            backend.fetch(['id'], deadline=time.monotonic() + 0.2)


def test_reading_a_value_that_is_never_whole_ends_after_retry_timeout(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('retry_timeout=0.2'), proxy)
    with Replacer(backend, client, table_name, math.inf), \
            pytest.raises(dv.ReplacedDuringRead, match=r'item celery-task-meta-id: .* replaced'):
        backend.get_state('id')


def test_progress_that_was_replaced_while_it_was_read_is_told_once_it_is_whole(
        app: Celery, backend: dv.DynamoDBBackend, replacer: MakeReplacer) -> None:
    got: list[str] = []

    def on_message(meta: Any) -> None:
        got.append(meta['status'])
        if meta['status'] == 'PROGRESS':
            app.backend.store_result('id', 42, states.SUCCESS)

    with replacer(5):
        result = app.AsyncResult('id')
        assert result.get(timeout=30, interval=0.02, on_message=on_message) == 42
    assert got == ['PROGRESS', 'SUCCESS']


def test_list_goes_on_while_a_value_is_replaced_again_and_again(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    ids = ready_tasks(backend, 1)
    stop = threading.Event()
    replacing = Replacer(backend, client, table_name, math.inf)

    def swap() -> None:
        while not stop.is_set():
            replacing.swap()

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        status, got = cli('list')
        stop.set()
    swapping.result()
    assert status == 0 and ids[0] in got


def test_missing_chunks_are_found_by_two_reads_of_the_same_version(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('retry_timeout=0', result_backend_max_retries=0), proxy)
    backend.store_result('id', 'x' * LARGE, states.SUCCESS)
    chunk = next(item['id'] for item in all_items(client, table_name) if '/' in item['id'])
    client.delete_item(TableName=table_name, Key={'id': {'S': chunk}})
    proxy.reset()
    result = backend.app.AsyncResult('id')
    assert result.state == states.FAILURE
    assert 'chunks are missing' in str(result.result)
    assert operations(proxy) == ['GetItem', 'BatchGetItem', 'BatchGetItem', 'BatchGetItem']


UNREADABLE: dict[str, dict[str, Any]] = {
    'no result': {}, 'not binary': {'result': {'N': '5'}}, 'a list': {'result': {'L': []}},
    'not json': {'result': {'B': b'\xff\xfe{'}, **OLD},
    'not a meta': {'result': {'S': '[1]'}, 'timestamp': {'N': '1700000000.12345678901234567'}},
    'another status': {'result': {'B': b'{"status": "STARTED"}'}, 'timestamp': {'S': 'x'}},
    'no chunks': {'chunks': {'N': '2'}, 'version': {'B': bytes(16)}, 'size': {'N': '800000'},
                  **OLD},
    'wrong chunks': {'chunks': {'S': 'many'}, **OLD},
    'children': {'result': {'B': b'{"status": "SUCCESS", "result": 1, "children": [1]}'}, **OLD},
    'children of a number': {'result': {'B': b'{"status": "SUCCESS", "children": 7}'}, **OLD},
}


def test_what_says_success_and_cannot_be_read_is_replaced(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    for id, attributes in UNREADABLE.items():
        put_raw(client, table_name, f'celery-task-meta-{id}', status={'S': 'SUCCESS'}, **attributes)
        result = backend.app.AsyncResult(id)
        assert result.state in (states.FAILURE, states.PENDING, states.STARTED), id
        assert result.state != states.FAILURE or 'cannot be read' in str(result.result), id
        backend.store_result(id, 'replaced', states.SUCCESS)
        assert backend.get_result(id) == 'replaced', id
        backend.store_result(id, 'again', states.FAILURE)
        assert backend.get_result(id) == 'replaced', id


@pytest.mark.parametrize('meanwhile', [
    {'timestamp': {'N': '1700000001'}}, {'timestamp': {'N': '1700000000.0000005'}}])
@pytest.mark.parametrize('unreadable', [
    OLD, {'timestamp': {'S': 'x'}}, {}, {'timestamp': {'N': '1700000000.000000012345'}}])
def test_a_success_that_replaces_one_that_cannot_be_read_meanwhile_is_kept(
        unreadable: Any, meanwhile: Any, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str) -> None:
    id, success = 'celery-task-meta-id', {'S': 'SUCCESS'}
    put_raw(client, table_name, id, status=success, result={'B': b'{'}, **unreadable)
    puts = iter(range(9))

    def a_success_comes_before_the_second_put(operation: str, body: Any) -> None:
        if operation == 'PutItem' and next(puts) == 1:
            value = {'B': b'{"status": "SUCCESS", "result": "theirs"}'}
            put_raw(client, table_name, id, status=success, result=value, **meanwhile)
    proxy.faults = a_success_comes_before_the_second_put
    backend.store_result('id', 'ours', states.FAILURE)
    assert backend.get_result('id') == 'theirs'
    assert next(puts) == 2


def test_a_large_success_that_is_whole_is_kept(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    value = noise(450 * KB).hex()
    backend.store_result('id', value, states.SUCCESS)
    backend.store_result('id', 'late', states.FAILURE)
    assert backend.get_result('id') == value
    client.delete_item(TableName=table_name, Key={'id': {'S': next(
        item['id'] for item in all_items(client, table_name) if item['id'].endswith('/1'))}})
    backend.store_result('id', 'late', states.SUCCESS)
    assert backend.get_result('id') == 'late'


def test_a_soft_time_limit_while_a_success_is_looked_at_replaces_nothing(
        make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(
        result_serializer='pickle', accept_content=['pickle']), proxy)
    backend.store_result('id', Late(), states.SUCCESS)
    Late.left = 1
    with pytest.raises(SoftTimeLimitExceeded):
        backend.store_result('id', 'late', states.SUCCESS)
    assert isinstance(backend.get_result('id'), Late)


class Late:
    """Its unpickling meets the soft time limit as often as is left."""

    left = 0

    def __setstate__(self, state: Any) -> None:
        if Late.left:
            Late.left -= 1
            raise SoftTimeLimitExceeded

    def __getstate__(self) -> Any:
        return {'some': 'state'}


# --------------------------------------------------------------------------------------------------
# Chord: the tree
# --------------------------------------------------------------------------------------------------

@given(st.integers(0, 2**29 - 1), st.booleans(),
       st.one_of(st.uuids().map(str), st.text(min_size=1, max_size=40)), st.booleans())
def test_members_survive(group_index: int, added: bool, task_id: str, copied: bool) -> None:
    part = dv.Part(group_index, added, task_id)
    assert dv.part_of(dv.member_of(part)) == part
    parts = [(part, 'copied' if copied else 'members')] * 2
    assert list(dv.unpack(dv.pack(parts))) == parts


def test_members_are_short_and_ids_of_16_bytes_are_no_uuids() -> None:
    part = dv.Part(7, False, str(uuid.uuid4()))
    assert len(dv.member_of(part)) == len(dv.pack([(part, 'copied')])) == 20
    part = dv.Part(7, False, uuid.uuid4().hex[:16])
    assert dv.part_of(dv.member_of(part)) == part
    part = dv.Part(7, False, uuid.uuid4().hex)
    assert dv.part_of(dv.member_of(part)).task_id.count('-') == 0


@given(st.integers(1, 100_000), st.booleans())
def test_the_tree_counts_all_parts_and_ends_in_one_root(parts: int, lazy: bool) -> None:
    run = dv.Run('run', None, lazy, size=parts)
    below = parts
    for level, nodes in itertools.groupby(run.positions(), lambda position: position.level):
        numbers = [position.number for position in nodes]
        assert numbers == list(range(len(numbers)))
        last = dv.Node(run, dv.Position(level, numbers[-1]), {})
        full = dv.Position(level, 0).capacity * (len(numbers) - 1)
        assert full + last.expected == below and 1 <= last.expected <= last.position.capacity
        assert last.is_root == (len(numbers) == 1)
        below = len(numbers)
    assert below == 1
    position = run.leaf(parts - 1)
    while position.level < level:
        position = position.parent
    assert position.number == 0


def test_the_size_of_nodes_never_changes() -> None:
    # workers of two releases count the parts of one chord
    assert (dv.Position(0, 0).capacity, dv.Position(1, 0).capacity) == (40, 200)
    assert dv.Position(0, 399).parent == dv.Position(1, 1)
    assert dv.Position(1, 400).parent == dv.Position(2, 2)


def test_what_a_second_delivery_added_is_not_waited_for() -> None:
    adder, first, second, deeper = (
        dv.member_of(dv.Part(0, added, name))
        for added, name in ((False, 'a'), (True, 'b'), (True, 'c'), (True, 'd')))
    edges = {dv.edge(adder, first), dv.edge(first, deeper)}
    node = dv.Node(dv.Run('run', None, size=1), dv.Position(0, 0), {
        'members': {adder, first, second}, 'added': edges})
    assert node.expected_members == {adder, first, deeper} and not node.is_full
    done = dataclasses.replace(node, item={**node.item, 'copied': {deeper}})
    assert done.is_full and not done.overflows


def test_the_progress_of_a_chord_of_many_leaves(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    table, chords = backend.store.table, dv.ChordStore(backend.store.table)
    assert chords.report('chord') is None
    run = dv.Run('chord.run', None, size=4020)
    chords.open('chord', run)
    assert len(all_items(client, table_name)) == 102 + 2
    failed = []
    for index in (0, 4019, 4000):
        part = dv.Part(index, False, str(uuid.uuid4()))
        counter = dv.PartCounter(table, run, part, b'owner')
        set_name = 'failed' if index else 'members'
        failed += [part] if index else []
        assert counter.count(dv.Entry(counter.member, set_name)) is None
    report = chords.report('chord')
    assert report is not None and report.progress == dv.Progress(3, 2, 4020, False)
    assert report.failed == failed[::-1]
    assert report.missing == [*range(1, 4000), *range(4001, 4019)]
    dv.Lease(table, run, b'owner').close(4020)
    report = chords.report('chord')
    assert report is not None and report.progress == dv.Progress(0, 0, 4020, True)
    assert len(all_items(client, table_name)) == 2


# --------------------------------------------------------------------------------------------------
# Chord: counting
# --------------------------------------------------------------------------------------------------

def test_a_full_leaf_is_below_one_kilobyte(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(backend.app, 41)
    drive.apply()
    proxy.reset()
    for index in range(40):
        drive.returns(index)
    assert all(request.write_units == 1 for request in proxy.requests)


def test_no_leaf_is_larger_than_a_full_one(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(backend.app, 40)
    drive.apply()

    def size() -> int:
        item = client.get_item(
            TableName=table_name, Key={'id': {'S': drive.run.node_id(dv.Position(0, 0))}})['Item']
        return sum(len(name) + item_size(value) for name, value in item.items())

    sizes = [size()]
    for index in range(40):  # in each of the sets
        if index % 3:
            drive.returns(index, stored=index % 3 == 1)
        else:
            drive.fails(index, ValueError())
        sizes.append(size())
    assert max(sizes) < KB - 20, sizes  # so that a prefix fits, too
    assert max(sizes) - sizes[0] < 100


@pytest.mark.parametrize('length', [36, 60])
def test_who_is_not_counted_yet_costs_no_write_unit(
        length: int, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str) -> None:
    drive = Drive(backend.app, 40)
    drive.ids = [str(uuid.uuid4()) if length == 36 else 'x' * 57 + f'{index:03}'
                 for index in range(40)]
    drive.apply()
    leaf, = (item for item in all_items(client, table_name)
             if item['id'] == drive.run.node_id(dv.Position(0, 0)))
    assert ('pending' in leaf) is (length == 36)
    if length == 36:
        proxy.reset()
        for index in range(40):
            drive.returns(index, stored=False)
        counted = [request.write_units for request in proxy.requests
                   if request.operation == 'UpdateItem']
        assert counted[:40] == [1] * 40


def item_size(value: dict[str, Any]) -> int:
    """Bytes of an attribute, as DynamoDB counts them; of a number at most."""
    (kind, content), = value.items()
    if kind == 'BS':
        return 3 + sum(len(member) + 1 for member in content)
    return len(content)


def timestamps(client: Any, table_name: str, drive: Drive) -> dict[str, Any]:
    return {item['id'].removeprefix(drive.run.id): item['timestamp']
            for item in all_items(client, table_name)
            if item['id'].startswith(drive.run.id) and 'timestamp' in item}


def backdate(client: Any, table_name: str, id: str) -> None:
    client.update_item(
        TableName=table_name, Key={'id': {'S': id}}, UpdateExpression='SET #t = :t',
        ExpressionAttributeNames={'#t': 'timestamp'}, ExpressionAttributeValues={':t': {'N': '5'}})


def test_a_count_that_changes_nothing_is_not_the_last_one(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(backend.app, 3)
    drive.apply()
    began = int(time.time())
    assert set(timestamps(client, table_name, drive)) == {''}
    drive.returns(0)
    leaf = drive.run.node_id(dv.Position(0, 0))
    assert set(timestamps(client, table_name, drive)) == {'', '.0.0'}
    backdate(client, table_name, leaf)
    drive.returns(0)  # a late duplicate
    assert timestamps(client, table_name, drive)['.0.0'] == 5
    drive.returns(1)
    assert timestamps(client, table_name, drive)['.0.0'] >= began


@pytest.mark.parametrize(('parts', 'most'), [
    (3, (13, 6, 14)), (40, (90, 32, 90)), pytest.param(1000, (2065, 600, 2120), marks=slow)])
@pytest.mark.parametrize('lazy', [False, LAZY])
def test_what_a_chord_costs(
        parts: int, most: tuple[int, int, int], lazy: bool, backend: dv.DynamoDBBackend,
        proxy: Proxy) -> None:
    drive = Drive(backend.app, parts, lazy)
    drive.apply()
    if lazy:
        drive.all_return(0)
        drive.size()
    drive.all_return()
    backend.store_result(drive.body_id, 'done', states.SUCCESS)
    assert drive.published == [drive.expected]
    usage = proxy.usage()
    # the leaves of a generator are made by their first count, which looks whether the chord is open
    fetches = math.ceil(parts / 40) if lazy else 0
    puts = 0
    if 'PartiQL INSERT' in dynamodb_local.lacks(proxy.endpoint_url):
        puts = 4 + (0 if lazy else math.ceil(parts / 40))  # what opens it is put one by one
    assert usage.requests <= most[0] + fetches + puts, usage
    assert usage.read_units <= most[1] + fetches and usage.write_units <= most[2], usage


@slow
def test_ten_thousand_parts_cost_the_same_each_and_no_item_is_hot(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(backend.app, 10_000)
    drive.apply()
    drive.all_return(threads=4)
    backend.store_result(drive.body_id, 'done', states.SUCCESS)
    assert drive.published == [drive.expected]
    usage = proxy.usage()
    assert usage.requests <= 20_515, usage
    assert usage.read_units <= 10_510 and usage.write_units <= 21_020, usage
    writes: dict[str, int] = {}
    for request in proxy.requests:
        if request.operation in ('PutItem', 'UpdateItem', 'BatchWriteItem'):
            for id in request.ids:
                writes[id] = writes.get(id, 0) + 1
    assert max(writes.values()) <= 300


class Rounds:
    """Counts how many requests of a delivery come one after the other, whatever the machine does.

    Those that can be under way at once count as one: a request is held until each thread that reads
    batches waits for one, or for other threads, and so does the delivery's own.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rounds = 0
        self.until_published = 0
        self._delivery = threading.current_thread()
        self._joining: set[threading.Thread] = set()
        self._held: set[threading.Thread] = set()
        self._changed = threading.Condition()
        join = threading.Thread.join

        def noted(thread: threading.Thread, timeout: float | None = None) -> None:
            self._joining.add(threading.current_thread())
            join(thread, timeout)
            self._joining.discard(threading.current_thread())
        monkeypatch.setattr(threading.Thread, 'join', noted)

    def step(self, name: str) -> None:
        if name == 'publish':
            self.until_published = self.rounds
            return
        with self._changed:
            own = self.rounds
            self._held.add(threading.current_thread())
            while self.rounds == own:
                if self._all_wait():
                    self.rounds += 1
                    self._held.clear()
                    self._changed.notify_all()
                else:
                    self._changed.wait(0.01)  # a thread may end

    def _all_wait(self) -> bool:
        helpers = {each for each in threading.enumerate() if each.name == 'dyna-veggie'}
        return helpers | {self._delivery} <= self._held | self._joining


@pytest.mark.parametrize(('parts', 'limit', 'most'), [
    (4000, 0, 10), (5000, 0, 16), (4000, 1, 12), (100_000, 1, 12)])
def test_the_body_is_published_a_few_requests_after_the_last_part_was_stored(
        parts: int, limit: int, most: int, make_app: MakeApp, proxy: Proxy,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 600.0)  # no heartbeats
    backend = ready(make_app(f'chord_inline_limit={limit}'), proxy)
    drive = Drive(backend.app, parts)
    drive.apply()
    drive.all_but_the_last_returned(stored=not limit)
    proxy.reset()
    rounds = Rounds(monkeypatch)
    with Hook(backend, rounds.step):
        drive.returns(parts - 1)
    assert operations(proxy)[0] == 'PutItem'  # the last part's result
    by_claim_check = [dv.ClaimCheck(drive.run.id, parts, False)]
    assert drive.published == [by_claim_check if limit else drive.expected]
    assert 5 < rounds.until_published <= 1 + most, operations(proxy)


def test_the_next_page_of_values_is_read_while_one_is_used() -> None:
    began = {page: threading.Event() for page in 'abc'}

    def read(page: str) -> str:
        began[page].set()
        return page.upper()

    seen = []
    for page, found in dv.read_ahead(read, 'abc'):
        seen.append((page, found))
        assert all(began[each].wait(10) for each in 'abc'[:len(seen) + 1])
        assert not any(began[each].is_set() for each in 'abc'[len(seen) + 1:])
    assert seen == [('a', 'A'), ('b', 'B'), ('c', 'C')]


def test_who_uses_pages_raises_what_reading_one_raised() -> None:
    def read(page: int) -> float:
        return 1 / page

    pages = dv.read_ahead(read, [1, 0, 2])
    assert next(pages) == (1, 1.0)
    with pytest.raises(ZeroDivisionError):
        next(pages)


def test_pages_are_read_where_no_thread_can_be_started() -> None:
    with no_more_threads():
        assert list(dv.read_ahead(str, [1, 2])) == [(1, '1'), (2, '2')]
    assert list(dv.read_ahead(str, [])) == []


def test_late_duplicates_do_nothing(
        backend: dv.DynamoDBBackend, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    drive = Drive(backend.app, 3)
    drive.apply()
    drive.returns(0)
    drive.returns(0)
    drive.returns(1)
    assert drive.published == []
    drive.returns(2)
    caplog.clear()  # not every engine has inserts
    caplog.set_level(logging.DEBUG, 'dyna_veggie')
    for index in range(3):
        drive.returns(index)
    assert drive.published == [[0, 1, 2]]
    assert 'came late' in caplog.text and {
        record.levelname for record in caplog.records if record.name == 'dyna_veggie'} == {'DEBUG'}


def test_the_first_parts_of_a_generator_return_before_it_ends(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 85, lazy=True)
    drive.apply()
    for index in range(84):
        drive.returns(index)
    drive.size()
    assert drive.published == []
    drive.returns(84)
    assert drive.published == [drive.expected]


def test_the_generator_is_not_exhausted_by_apply_chord(app: Celery) -> None:
    asked = []

    def header() -> Iterator[Any]:
        for number in range(10):
            asked.append(number)
            yield app.signature('tests.part', args=(number,))

    class Watched(dv.DynamoDBBackend):
        def apply_chord(self, *args: Any, **kwargs: Any) -> None:
            super().apply_chord(*args, **kwargs)
            seen.append(len(asked))

    seen: list[int] = []
    app._local.backend = Watched(app=app, url=app.backend.url)
    chord(header(), app.signature('tests.body')).apply_async()
    assert seen[0] <= 3 and len(asked) == 10


GAPS = pytest.mark.skipif(dv.LAZY_PARTS_LACK_INDEX, reason='on one node they are counted right')


def indexes_of(*members: int) -> list[int]:
    """Of the parts of a generator that yields groups of so many tasks; 1 is a task, 0 is empty."""
    return [index for place, size in enumerate(members)
            for index in ([place] if size == 1 else range(size))]


def uneven(app: Celery, indexes: list[int]) -> Drive:
    drive = Drive(app, len(indexes), lazy=True)
    drive.indexes = indexes
    drive.apply()
    return drive


def in_order(drive: Drive) -> list[int]:
    """What the body gets if each part returns its place: by indexes, as on Redis."""
    return sorted(drive.expected, key=lambda part: (drive.indexes[part], drive.ids[part]))


UNEVEN = {
    'an empty chain': [1, 1, 0, 1, 1, 1],
    'empty chains': [0, 0, *[1] * 6, 0, 0, 0, 1, 1, 1, 0],
    'a group': [*[1] * 5, 3, 1, 1],
    'a large group': [*[1] * 5, 9],
    'a group, and an empty group': [*[1] * 5, 2, 0, 1, 1],
    'groups': [1, 2, 2, 2, 2],
    'groups only': [3, 3, 3],
}


@GAPS
@pytest.mark.parametrize('order', ['in order', 'shuffled', 'the last first'])
@pytest.mark.parametrize('members', UNEVEN.values(), ids=list(UNEVEN))
def test_a_generator_of_anything_is_counted_right(
        members: list[int], order: str, backend: dv.DynamoDBBackend,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Position, 'LEAF_CAPACITY', 4)
    drive = uneven(backend.app, indexes_of(*members))
    parts = drive.expected
    last = parts.pop()
    if order != 'in order':
        random.Random(5).shuffle(parts)
    early = len(parts) if order == 'in order' else len(parts) // 2
    for part in parts[:early]:
        drive.returns(part)
    drive.size()
    for part in [last, *parts[early:]] if order == 'the last first' else [*parts[early:], last]:
        assert not drive.published
        drive.returns(part)
    assert drive.published == [in_order(drive)]
    assert backend.chord_progress(drive.group_id) == (len(parts) + 1, 0, len(parts) + 1, True)
    for part in (last, 0):
        drive.returns(part)  # a late duplicate
    assert drive.published == [in_order(drive)]


@GAPS
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(members=st.lists(st.integers(0, 4), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_any_generator_is_counted_right_in_any_order(
        members: list[int], seed: int, backend: dv.DynamoDBBackend, small_tree: None) -> None:
    drive = uneven(backend.app, indexes_of(1, *members))
    *parts, last = drive.expected
    random.Random(seed).shuffle(parts)
    early, half = seed % (len(parts) + 1), seed % 2
    for part in parts[:early]:
        drive.returns(part)
    drive.size()
    late = [last, *parts[early:]] if half else [*parts[early:], last]
    if seed % 3 == 0:
        late.append(late[0])  # a duplicate
    for part in late:
        drive.returns(part)
    assert drive.published == [in_order(drive)]


@GAPS
@pytest.mark.parametrize('moment', ['before', 'after'])
@pytest.mark.parametrize('members', [
    [1, 0, 1, 1], pytest.param([1, 1, 2], marks=slow), pytest.param([1, 2, 1, 1], marks=slow)],
    ids=repr)
def test_whenever_a_worker_dies_a_generator_of_anything_is_counted(
        members: list[int], moment: str, backend: dv.DynamoDBBackend, make_app: MakeApp,
        small_tree: None) -> None:
    """Walks through every crash point; the part is then redelivered."""
    other = make_app('read_timeout=9').backend  # what the body's worker uses; not hooked
    for point in crash_points():
        drive = uneven(backend.app, indexes_of(*members))
        deaths = Deaths(drive, other, point, moment, pause=0.1)
        *parts, last = drive.expected
        with deaths.hook():
            for part in parts[:-1]:
                deaths.returns(part)
        drive.size()
        with deaths.hook():
            deaths.returns(last)
            deaths.returns(parts[-1])
        assert deaths.published() == [in_order(drive)], point.number
    assert point.number > 15


@GAPS
@pytest.mark.parametrize('fault', [ResetAfter(), ResetBefore()], ids=repr)
def test_whichever_response_is_lost_a_generator_of_anything_is_counted(
        fault: Any, backend: dv.DynamoDBBackend, proxy: Proxy, small_tree: None) -> None:
    for point in crash_points():
        proxy.reset()
        proxy.faults = lambda operation, body, point=point: fault if point.reached() else None
        drive = uneven(backend.app, indexes_of(1, 0, 1, 1))
        drive.returns(0)
        drive.size()
        for part in (2, 1):
            drive.returns(part)
        proxy.faults = None
        assert drive.published == [in_order(drive)], point.number
    assert point.number > 15


@GAPS
def test_what_a_generator_of_anything_costs(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    parts, requests = 170, []
    for members in ([1] * parts, [1] * 160 + [10]):  # the gap is seen last
        drive = uneven(backend.app, indexes_of(*members))
        proxy.reset()
        for part in drive.expected[:-1]:
            drive.returns(part, stored=False)
        drive.size()
        drive.returns(parts - 1)
        assert drive.published == [in_order(drive)]
        requests.append(len(proxy.requests))
    even, odd = requests
    # a mark for each leaf, one read of all, one write to leaf 0, and what is counted there, too
    assert odd - even <= math.ceil(parts / 40) + 5, requests


@GAPS
def test_a_task_that_a_generator_of_anything_does_not_have_is_an_error(
        backend: dv.DynamoDBBackend) -> None:
    drive = uneven(backend.app, indexes_of(1, 45))
    for part in drive.expected[:-1]:
        drive.returns(part)
    drive.returns(0, request=drive.request(0, 'other'))
    drive.size()
    drive.returns(45)
    assert drive.error() == dv.UNEXPECTED


@GAPS
def test_a_generator_of_anything_of_more_than_one_leaf_holds_is_an_error(
        backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, 'SINGLE_LEAF_LIMIT', 45)
    drive = uneven(backend.app, indexes_of(0, *[1] * 46))
    for part in drive.expected[:-1]:
        drive.returns(part)
    drive.size()
    drive.returns(45)
    assert drive.error() == dv.GAPS
    drive = uneven(backend.app, indexes_of(*[2] * 23))
    for part in drive.expected[:-1]:
        drive.returns(part)
    with pytest.raises(ChordError) as caught:  # the sender is the last to see it
        drive.size()
    assert str(caught.value) == dv.GAPS


@GAPS
def test_no_counter_of_a_generator_of_anything_stays_if_results_never_expire(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('ttl_seconds=0'), proxy)
    drive = uneven(backend.app, indexes_of(*[1] * 40, *[0] * 60, 1))
    for part in drive.expected[:-1]:
        drive.returns(part)
    drive.size()
    drive.returns(40)
    assert drive.published == [drive.expected]
    stay = [item['id'] for item in all_items(client, table_name)
            if drive.group_id in item['id'] and 'ttl' not in item]
    assert stay == []


def test_the_size_of_a_group_that_is_no_chord_costs_nothing(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    backend.set_chord_size('some-group', 5)
    assert proxy.requests == []


def test_parts_without_index_are_counted_on_one_node(
        make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(task_protocol=1), proxy)
    drive = Drive(backend.app, 45)
    drive.apply()
    for index in range(45):
        request = drive.request(index)
        request.group_index = None
        drive.returns(index, request=request)
    assert drive.published == [drive.expected]


@pytest.mark.parametrize('limit', [0, 1])
def test_an_error_of_a_part_without_index_reads_as_those_of_other_lists(
        limit: int, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(f'chord_inline_limit={limit}', task_protocol=1), proxy)
    drive = Drive(backend.app, 3)
    drive.apply()
    for index in (2, 1, 0):
        request = drive.request(index)
        request.group_index = None
        if index:
            drive.fails(index, ValueError(index), request)
        else:
            drive.returns(index, request=request)
    assert drive.error() == f'Dependency {drive.ids[1]} raised ValueError(1)'


def test_an_engine_that_refuses_to_count_is_a_clear_error(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    leaf_id = drive.run.node_id(dv.Position(0, 0))
    asked: list[Any] = []

    def refuse(request: Any, **kwargs: Any) -> Any:  # as dynalite, whose contains() is wrong
        if json.loads(request.body)['Key'] != {'id': {'S': leaf_id}}:
            return None
        asked.append(request)
        return raw_answer(request, json.dumps({
            '__type': 'com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException',
            'message': 'The conditional request failed'}).encode(), 400)
    events = backend.store.table.client.botocore.meta.events
    events.register('before-send.dynamodb.UpdateItem', refuse)
    try:
        drive.returns(0)
    finally:
        events.unregister('before-send.dynamodb.UpdateItem', refuse)
    assert len(asked) == 1 and drive.published == []
    assert drive.error() == dv.WRONG_CONTAINS


def test_a_part_without_index_of_a_list_is_reported_as_what_it_is(app: Celery) -> None:
    drive = Drive(app, 2)
    drive.apply()
    request = drive.request(0)
    request.group_index = None
    drive.returns(0, request=request)
    assert drive.error() == dv.UNEXPECTED


def test_a_nested_header_of_more_than_one_counter_holds_is_refused(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    inner = [app.AsyncResult(str(number)) for number in range(15_001)]
    results = [app.GroupResult('inner', inner)]
    message = r'the header of this chord has 15,001 tasks, .* such a header can have 15,000'
    with pytest.raises(ChordError, match=message):
        backend.apply_chord(('group', results), Drive(app, 1).body)


def test_ids_that_are_numbers_are_not_taken_for_counters(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 3)
    drive.ids = ['0', '1', '2']
    drive.apply()
    for index in range(3):
        backend.mark_as_done(drive.ids[index], index, drive.request(index), store_result=False)
    assert drive.published == [[0, 1, 2]]


@pytest.mark.parametrize('lazy', [False, LAZY])
def test_an_id_that_is_too_long_is_a_clear_error(
        lazy: bool, backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2, lazy)
    drive.ids[1] = 'x' * 2040
    if not lazy:
        with pytest.raises(ChordError, match='DynamoDB takes 2,048'):
            drive.apply()
        return
    drive.apply()
    drive.returns(0)
    drive.size()
    with pytest.raises(dv.ResultTooLarge, match='DynamoDB takes 2,048') as caught:
        drive.returns(1)
    drive.fails(1, caught.value)  # as Celery does
    assert 'DynamoDB takes 2,048' in drive.error()


def test_an_ignored_result_with_an_id_too_long_to_copy_fails_the_chord_not_the_task(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 1, lazy=True)
    drive.ids[0] = 'x' * 2000  # and what keeps it apart has the id of the run, too
    drive.apply()
    drive.size()
    drive.returns(0, stored=False)
    assert 'DynamoDB takes 2,048' in drive.error()


@pytest.mark.parametrize('by', [0, 1])
def test_added_tasks_follow_the_one_that_added_them(
        by: int, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(backend.app, 3)
    drive.apply()
    drive.returns(1 - by)
    drive.returns(2)
    # which sort before those of the header
    added = ['added-b', '00000000-0000-4000-8000-000000000000']
    adder, given = drive.request(by), []
    with drive.in_task(adder):
        for id in added:
            given.append(drive.request(by, id))
            given[-1].chord = adder.chord  # as Task.add_to_chord() does before it tells the backend
            proxy.reset()
            backend.add_to_chord(drive.group_id, backend.app.AsyncResult(id))
            assert proxy.requests == []
    drive.returns(by, 'b', given[0])
    drive.returns(by, request=adder)
    assert drive.published == []
    drive.returns(by, 'uuid', given[1])
    values, = drive.published
    assert [value for value in values if isinstance(value, int)] == [0, 1, 2]
    assert sorted(values[by + 1:by + 3]) == ['b', 'uuid']
    # what Celery would send with a retry of either holds no more than it must
    assert [dv.run_option_of(each)['adds'] for each in (adder, *given)] == [added, [], []]


def test_a_task_that_adds_and_is_delivered_twice(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 45)
    drive.apply()
    given = []
    for delivery in range(2):
        adder = drive.request(41)
        with drive.in_task(adder):
            given.append(drive.request(41, f'added-{delivery}'))
            given[-1].chord = adder.chord
            backend.add_to_chord(drive.group_id, backend.app.AsyncResult(f'added-{delivery}'))
        drive.returns(41, request=adder)
    for index in range(45):
        if index != 41:
            drive.returns(index)
    assert drive.published == []
    drive.returns(41, 'surplus', given[1])
    assert drive.published == []
    drive.returns(41, 'added', given[0])
    assert drive.published == [[*range(42), 'added', 42, 43, 44]]


def test_too_many_added_tasks_are_a_clear_error(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 1)
    drive.apply()
    adder = drive.request(0)
    dv.run_option_of(adder)['adds'] = [f'{number:0200}' for number in range(2500)]
    drive.returns(0, request=adder)
    assert drive.error() == dv.TOO_LARGE


def test_another_error_of_validation_is_not_reported_as_too_large(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    _, count = counting(backend, 1)
    proxy.faults = first(1, Error('ValidationException', 'no such type'), 'UpdateItem')
    with pytest.raises(botocore.exceptions.ClientError, match='no such type'):
        count(0)


@slow
@pytest.mark.parametrize(('threads', 'each'), [(8, 0.48), (100, 0.42)])
def test_concurrent_counts_share_a_request(
        threads: int, each: float, make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('max_pool_connections=100')
    ready(app, proxy)
    drive = Drive(app, 1000)
    proxy.faults = lambda operation, body: Delay(0.01)
    drive.apply()
    left = deque(range(1000))  # in the order in which they were sent

    def work() -> None:
        for index in dv.drain(left):
            drive.returns(index)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    proxy.faults = None
    assert drive.published == [drive.expected]
    usage = proxy.usage()
    assert usage.requests <= (1 + each) * 1000 + 15, usage
    assert usage.write_units <= (1.02 + each) * 1000 + 20, usage
    assert usage.read_units <= 0.6 * 1000 + 15, usage


def counting(backend: dv.DynamoDBBackend, parts: int) -> tuple[dv.Run, Callable[..., Any]]:
    run = dv.Run(f'chord.{uuid.uuid4().hex[:8]}', int(time.time()) + 3600, size=parts)
    dv.ChordStore(backend.store.table).open('chord', run)

    def count(index: int) -> tuple[Any, dv.PartCounter]:
        counter = dv.PartCounter(
            backend.store.table, run, dv.Part(index, False, f'task-{index}'), b'owner')
        return counter.count(dv.Entry(counter.member)), counter
    return run, count


@pytest.mark.parametrize('what', ['refused', 'interrupted', 'answer lost', 'duplicates'])
def test_batched_counts_count_once_each(
        what: str, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app('max_pool_connections=20'), proxy)
    run, count = counting(backend, 9)
    if what == 'refused':
        count(4)  # so that the combined request is refused
        proxy.reset()
    under_way, go_on, leaders = threading.Event(), threading.Event(), 0

    def hold(operation: str) -> None:
        nonlocal leaders
        if operation == 'UpdateItem':
            leaders += 1
            if leaders == 1:
                under_way.set()
                assert go_on.wait(20)
            elif leaders == 2 and what == 'interrupted':
                raise Died

    roots: list[Any] = []
    died: list[int] = []

    def deliver(index: int) -> None:
        try:
            roots.append(count(index)[0])
        except Died:
            died.append(index)

    order = [0, *range(1, 9)] + ([3, 5] if what == 'duplicates' else [])
    threads = [threading.Thread(target=deliver, args=(index,)) for index in order]
    with Hook(backend, hold):
        threads[0].start()
        assert under_way.wait(20)
        for thread in threads[1:]:
            thread.start()
        batcher, leaf = dv.shared_batcher(backend.options), f'{run.id}.0.0'
        deadline = time.monotonic() + 20
        while batcher.waiting(leaf) < 8 and what != 'duplicates':
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        if what == 'answer lost':
            left = iter([None, ResetAfter()])
            proxy.faults = lambda operation, body: next(left, None)
        go_on.set()
        for thread in threads:
            thread.join(30)
    proxy.faults = None
    for index in died:
        roots.append(count(index)[0])
    assert batcher.waiting(leaf) == 0
    node, = dv.ChordStore(backend.store.table).nodes(run, [dv.Position(0, 0)])
    assert len(node.counted) == 9 and any(roots)
    assert leaders < 11 or what in ('answer lost', 'interrupted')  # fewer than parts


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_fork_while_counts_are_batched(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, 'LEADER_TIMEOUT', 60.0)  # nobody goes on before the child has ended
    backend = ready(make_app('max_pool_connections=20'), proxy)
    run, count = counting(backend, 12)
    under_way, go_on, roots = threading.Event(), threading.Event(), []

    def hold(operation: str) -> None:
        if not under_way.is_set():
            under_way.set()
            assert go_on.wait(60)

    def deliver(indexes: range) -> list[threading.Thread]:
        threads = [threading.Thread(
            target=lambda index: roots.append(count(index)[0]), args=(index,), daemon=True)
            for index in indexes]
        for thread in threads:
            thread.start()
        return threads

    with Hook(backend, hold):
        threads = deliver(range(1))
        assert under_way.wait(30)
        threads += deliver(range(1, 6))  # which wait for the first
        batcher, leaf = dv.shared_batcher(backend.options), f'{run.id}.0.0'
        while batcher.waiting(leaf) < 5:
            time.sleep(0.01)
        child = os.fork()
        if not child:
            try:
                signal.alarm(30)  # ends it if it hangs
                # its own parts, and one that its parent is counting
                for thread in deliver(range(5, 12)):
                    thread.join()
                os._exit(0 if roots == [None] * 7 else 2)
            finally:
                os._exit(3)
        assert os.waitpid(child, 0)[1] == 0
        go_on.set()
        for thread in threads:
            thread.join(30)
    assert batcher.waiting(leaf) == 0
    node, = dv.ChordStore(backend.store.table).nodes(run, [dv.Position(0, 0)])
    assert len(node.counted) == 12
    # one or more saw it full: the root's owner joins
    seen = [root for root in roots if root]
    assert len(roots) == 6 and seen and all(root == node for root in seen)


def test_how_far_a_chord_is(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 3)
    assert backend.chord_progress(drive.group_id) is None
    for _ in range(2):  # the newest run
        drive.apply()
        assert backend.chord_progress(drive.group_id) == (0, 0, 3, False)
        drive.returns(0)
        drive.fails(1, ValueError())
        assert backend.chord_progress(drive.group_id) == (2, 1, 3, False)
    drive.returns(2)
    assert backend.chord_progress(drive.group_id) == (3, 1, 3, True)


def test_how_far_a_generator_is(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 45, lazy=True)
    drive.apply()
    drive.returns(40)  # on the second leaf: nobody has made the first
    assert backend.chord_progress(drive.group_id) == (1, 0, None, False)
    drive.size()
    assert backend.chord_progress(drive.group_id) == (1, 0, 45, False)


# --------------------------------------------------------------------------------------------------
# Chord: which values the body gets
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('lazy', [False, LAZY])
def test_each_run_of_a_frozen_chord_gets_its_own_values(
        lazy: bool, backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 3, lazy)
    for run in range(3):
        drive.apply()
        if lazy:
            drive.size()
        for index in range(3):
            drive.returns(index, f'{run}.{index}')
    assert drive.published == [[f'{run}.{index}' for index in range(3)] for run in range(3)]
    drive.apply()
    if lazy:
        drive.size()
    for index in range(3):
        drive.fails(index, ValueError(index))
    assert len(drive.published) == 3
    assert drive.error() == f'Dependency {drive.ids[0]} raised ValueError(0)'


@contextlib.contextmanager
def lagging_reads(backend: dv.DynamoDBBackend, items: dict[str, Any]) -> Iterator[list[str]]:
    """Reads that are only eventually consistent find these items.  Yields whose they replaced."""
    events = backend.store.table.client.botocore.meta.events
    replaced: list[str] = []
    eventual = threading.local()

    def before(params: Any, **kwargs: Any) -> None:
        eventual.read = b'"ConsistentRead": true' not in params['body']

    def after(parsed: Any, **kwargs: Any) -> None:
        for found in parsed['Responses'].values() if eventual.read else ():
            ids = [item['id']['S'] for item in found]
            replaced.extend(id for id in ids if id in items)
            found[:] = [items.get(id, item) for id, item in zip(ids, found)]
    events.register('before-call.dynamodb.BatchGetItem', before)
    events.register('after-call.dynamodb.BatchGetItem', after)
    try:
        yield replaced
    finally:
        events.unregister('before-call.dynamodb.BatchGetItem', before)
        events.unregister('after-call.dynamodb.BatchGetItem', after)


@GAPS
def test_leaf_0_has_the_time_of_the_last_count_of_all_leaves_that_are_gathered(
        backend: dv.DynamoDBBackend, client: Any, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Position, 'LEAF_CAPACITY', 4)
    drive = uneven(backend.app, [*range(12), 0, 1, 2, 3])
    for index in range(8):
        drive.returns(index)
    drive.size()
    for index in (12, 13):  # leaf 0 overflows
        drive.returns(index)
    now = int(time.time())
    backdate(client, table_name, drive.run.node_id(dv.Position(0, 0)))
    drive.returns(8)  # is counted on leaf 2, then moved
    report = dv.ChordStore(backend.store.table).report(backend.pointer_id(drive.group_id))
    assert report is not None and report.run.single_leaf is True
    assert report.last_counted is not None and report.last_counted >= now
    assert report.progress == (11, 0, 16, False)


def raw_results(drive: Drive, client: Any, table_name: str) -> dict[str, Any]:
    ids = map(drive.app.backend.item_id, drive.ids)
    return {id: client.get_item(TableName=table_name, Key={'id': {'S': id}})['Item'] for id in ids}


@pytest.mark.parametrize('groups', [False, True])
def test_a_lagging_read_does_not_give_a_body_the_values_of_an_earlier_run(
        groups: bool, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(backend.app, 3)
    results: list[Any] = [backend.app.AsyncResult(id) for id in drive.ids]
    if groups:
        results = [results[0], backend.app.GroupResult('inner', results[1:])]
    for run in ('first', 'second'):
        earlier = raw_results(drive, client, table_name) if run == 'second' else {}
        backend.forget_many(drive.ids)
        backend.apply_chord((drive.group_id, results), drive.body)
        with lagging_reads(backend, earlier) as replaced:
            for index in range(3):
                drive.returns(index, f'{run} {index}')
        assert len(replaced) == len(earlier)
    assert drive.published == [
        [f'{run} 0', [f'{run} 1', f'{run} 2']] if groups else [f'{run} {n}' for n in range(3)]
        for run in ('first', 'second')]


def test_a_body_by_claim_check_does_not_get_the_values_of_a_later_run(
        make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('consistency_wait_time=0&chord_inline_limit=1', result_chord_join_timeout=0)
    backend = ready(app, proxy)
    drive = Drive(app, 2)
    for run in ('first', 'second'):
        backend.forget_many(drive.ids)
        drive.apply()
        for index in range(2):
            drive.returns(index, f'{run} {index}')
    first, second = (published[0] for published in drive.published)
    assert backend.redeem(second) == ['second 0', 'second 1']
    with pytest.raises(ChordError, match=f'The result of {drive.ids[0]} did not appear'):
        backend.redeem(first)


def test_runs_of_the_same_ids_at_the_same_time_get_their_own_values(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    first = [drive.request(index) for index in range(2)]
    drive.returns(0, 'first 0', first[0])
    drive.apply()
    drive.returns(0, 'second 0')  # the first run's success stays under the id
    drive.returns(1, 'first 1', first[1])
    drive.returns(1, 'second 1')
    assert drive.published == [['first 0', 'first 1'], ['second 0', 'second 1']]


def test_an_error_of_another_run_is_not_taken_for_this_ones(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    first = [drive.request(index) for index in range(2)]
    drive.fails(0, ValueError('of the first run'), first[0])
    drive.apply()
    drive.fails(0, ValueError('of the second run'))
    drive.returns(1, request=first[1])
    assert drive.error() == (f'Dependency {drive.ids[0]} failed, and its error was replaced or '
                             'forgotten since')


@pytest.mark.parametrize('lazy', [False, LAZY])
@pytest.mark.parametrize('parts', [1, 45])
def test_a_frozen_chord_can_be_applied_again(
        parts: int, lazy: bool, backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, parts, lazy)
    for _ in range(3):
        drive.apply()
        for index in range(parts - 1):
            drive.returns(index)
        if lazy:
            drive.size()
        drive.returns(parts - 1)
    assert drive.published == [drive.expected] * 3


@pytest.mark.parametrize('lazy', [LAZY])
def test_a_generator_that_is_applied_again_before_its_first_run_ended_starts_anew(
        backend: dv.DynamoDBBackend, lazy: bool) -> None:
    drive = Drive(backend.app, 85, lazy)
    drive.apply()
    for index in range(45):
        drive.returns(index)
    drive.apply()
    drive.size()
    for index in range(85):
        drive.returns(index)
    assert drive.published == [drive.expected]


def test_a_part_of_an_earlier_run_that_comes_late_disturbs_none(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    late = [drive.request(index) for index in range(2)]
    drive.returns(0)
    drive.apply()  # the first run has not ended
    drive.returns(0, 'second 0')
    drive.returns(1, 'first 1', late[1])
    assert drive.published == [[0, 'first 1']]
    drive.returns(1, 'second 1')
    drive.returns(0, request=late[0])
    assert drive.published == [[0, 'first 1'], ['second 0', 'second 1']]


def test_a_success_before_the_return_is_not_what_the_body_gets(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    for index, stored in ((0, True), (1, False)):
        request = drive.request(index)
        backend.store_result(request.id, 'early', states.SUCCESS, request=request)
        assert backend.get_state(request.id) == states.STARTED  # to Celery's worker it is not done
        drive.returns(index, f'late {index}', request, stored)
    assert drive.published == [['late 0', 'late 1']]
    assert backend.get_result(drive.ids[0]) == 'early'


def test_ignored_results_reach_the_body_and_are_gone_then(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('chord_inline_limit=600000'), proxy)
    drive = Drive(backend.app, 45)
    drive.apply()
    for index in range(45):
        request = drive.request(index)
        value = 'x' * 500 * KB if index == 7 else index
        if index in (0, 3):
            backend.store_result(request.id, {'done': 1}, 'PROGRESS', request=request)
        drive.returns(index, value, request, stored=index % 2 == 0)
    assert drive.published == [['x' * 500 * KB if index == 7 else index for index in range(45)]]
    left = [item['id'] for item in all_items(client, table_name)
            if (drive.group_id not in item['id'] and 'run' not in item) or '.copy.' in item['id']]
    kept = [drive.ids[index] for index in (3, *range(0, 45, 2))]
    assert sorted(left) == sorted(f'celery-task-meta-{id}' for id in kept)


def test_a_result_that_never_appears_fails_the_chord(make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('consistency_wait_time=0.1', result_chord_join_timeout=0.2)
    backend = ready(app, proxy)
    drive = Drive(app, 2)
    drive.apply()
    drive.returns(0)
    backend.forget(drive.ids[0])
    drive.returns(1)
    assert drive.error().startswith(f'The result of {drive.ids[0]} did not appear: ')
    assert drive.error().endswith('raise result_chord_expires')


def test_a_result_that_appears_late_is_waited_for(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0)
    backend.forget(drive.ids[0])

    def store() -> None:  # by the backend of the timer's thread
        backend.app.backend.store_result(
            drive.ids[0], 'late', states.SUCCESS, request=drive.request(0))

    timer = threading.Timer(0.4, store)
    timer.start()
    drive.returns(1)
    timer.join()
    assert drive.published == [['late', 1]]


@pytest.mark.parametrize('limit', [1, 100_000])
def test_a_body_that_takes_no_values_reads_none(
        limit: int, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(f'chord_inline_limit={limit}'), proxy)
    drive = Drive(backend.app, 45)
    drive.body.set_immutable(True)
    drive.body['args'] = ('own',)
    drive.apply()
    proxy.reset()
    drive.all_return()
    assert drive.published == ['own']
    read = [id for request in proxy.requests for id in request.ids
            if request.operation in ('GetItem', 'BatchGetItem')]
    assert not [id for id in read if id[-36:] in drive.ids] and len(read) == 3
    written = {id for request in proxy.requests for id in request.ids}
    assert drive.run.parts_id not in written


def test_done_means_done(
        backend: dv.DynamoDBBackend, make_app: MakeApp, small_tree: None) -> None:
    other = make_app('read_timeout=9').backend  # not hooked
    drive = Drive(backend.app, 3)
    drive.apply()
    seen: list[tuple[str, str]] = []

    def look(operation: str) -> None:  # from another thread than the one that joins
        seen.append((operation, others.submit(other.get_state, drive.ids[drive_index]).result()))

    others = ThreadPoolExecutor(1)
    for drive_index in range(3):
        seen.clear()
        with Hook(backend, after=look):
            drive.returns(drive_index)
        if drive_index == 0:
            assert seen == [('PutItem', 'STARTED'), ('UpdateItem', 'SUCCESS')]
    # the last part: stored, counted on leaf and root, joining, publishing; then closed
    published = [operation for operation, _ in seen].index('publish')
    assert {state for _, state in seen[:published + 1]} == {'STARTED'} and published >= 5
    assert seen[-1][1] == 'SUCCESS' and drive.published == [drive.expected]


def test_done_means_done_in_a_later_run_too(
        backend: dv.DynamoDBBackend, make_app: MakeApp) -> None:
    other = make_app('read_timeout=9').backend  # not hooked
    drive = Drive(backend.app, 2)
    for _ in range(2):
        drive.apply()
        seen: list[tuple[str, str]] = []
        with Hook(backend, after=lambda operation: seen.append(  # noqa: B023
                (operation, other.get_state(drive.ids[0])))):
            drive.returns(0)
        drive.returns(1)
    # the success of the first run stays, and then leads to the second
    assert [each for each in seen if each[0] != 'GetItem'] == [
        ('PutItem', 'SUCCESS'), ('UpdateItem', 'STARTED'), ('PutItem', 'STARTED'),
        ('UpdateItem', 'SUCCESS')]


def test_a_part_costs_three_more_reads_alone_and_none_in_a_batch(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(backend.app, 45)
    drive.apply()
    for index in range(40):
        drive.returns(index)
    for index, most in ((0, 3), (39, 4)):  # the other one filled its leaf
        proxy.reset()
        assert backend.get_state(drive.ids[index]) == states.SUCCESS
        assert operations(proxy) == ['GetItem'] * most
    proxy.reset()
    results = celery.result.GroupResult(
        'g', [backend.app.AsyncResult(id) for id in drive.ids[:40]], app=backend.app)
    assert backend.app.GroupResult(results.id, results.results).completed_count() == 40
    assert 'UpdateItem' not in operations(proxy) and len(proxy.requests) <= 4


def test_successes_of_a_chord_that_never_ended_stay_successes_once_its_counters_expired(
        app: Celery, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(app, 2)
    drive.apply()
    drive.returns(0)
    # as time to live does, when the deadline has passed
    backend.store.table.delete(drive.run.node_id(dv.Position(0, 0)))
    assert app.AsyncResult(drive.ids[0]).state == states.STARTED
    client.update_item(
        TableName=table_name, Key={'id': {'S': drive.run.id}}, UpdateExpression='SET #ttl = :ttl',
        ExpressionAttributeNames={'#ttl': 'ttl'},
        ExpressionAttributeValues={':ttl': {'N': str(int(time.time()) + dv.CLOSED_TTL - 1)}})
    assert app.AsyncResult(drive.ids[0]).state == states.SUCCESS


# --------------------------------------------------------------------------------------------------
# Chord: its end
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('failed', [[0], [1, 2], [0, 1, 2]])
def test_the_error_of_a_part_becomes_the_chords(
        failed: list[int], backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 3)
    drive.apply()
    for index in range(3):
        if index in failed:
            drive.fails(index, KeyError(index))
        else:
            drive.returns(index)
    meta = backend.get_task_meta(drive.body_id)
    assert drive.published == [] and meta['status'] == states.FAILURE
    assert isinstance(meta['result'], ChordError)
    assert str(meta['result']) == f'Dependency {drive.ids[failed[0]]} raised KeyError({failed[0]})'
    drive.fails(failed[0], KeyError(5))
    assert backend.get_task_meta(drive.body_id, cache=False)['result'].args == meta['result'].args


def test_the_log_names_a_chord_as_the_commands_do(
        backend: dv.DynamoDBBackend, caplog: pytest.LogCaptureFixture) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0)
    drive.fails(1, KeyError(1))
    assert f'Chord {drive.group_id} raised: ChordError(' in caplog.text


def test_the_cause_of_a_chord_error(backend: dv.DynamoDBBackend) -> None:
    error = dv.part_error(dv.Part(0, False, 'one'), ValueError(5))
    assert isinstance(error.__cause__, ValueError)
    assert str(error) == 'Dependency one raised ValueError(5)'


def test_a_revoked_part_fails_the_chord(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0)
    request = drive.request(1)
    backend.mark_as_revoked(request.id, 'terminated', request=request)
    meta = backend.get_task_meta(drive.body_id)
    assert f"Dependency {drive.ids[1]} raised TaskRevokedError('terminated'" in str(meta['result'])


def failing_before(drive: Drive) -> Context:
    """The request of a task that a part of a chord follows in a chain."""
    part = drive.app.signature('tests.part', options={
        'task_id': drive.ids[0], 'group_id': drive.group_id, 'group_index': 0,
        'chord': drive.request(0).chord})
    return Context(id=str(uuid.uuid4()), chain=[dict(part)], delivery_info={}, errbacks=None)


@pytest.mark.parametrize('exc', [Died, KeyboardInterrupt])
def test_the_end_of_a_process_is_not_delayed_to_count_the_rest_of_a_chain(
        exc: type[BaseException], backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 1)
    drive.apply()
    steps: list[str] = []

    def end(step: str) -> None:
        steps.append(step)
        raise exc

    request = failing_before(drive)
    with Hook(backend, end), pytest.raises(exc):
        drive.fails(0, ValueError('no'), request)
    assert len(steps) == 1


def test_the_rest_of_a_chain_whose_error_is_stored_leaves_no_copy(
        make_app: MakeApp, client: Any, table_name: str) -> None:
    drive = Drive(make_app(result_expires=0).backend.app, 1)
    drive.apply()
    drive.fails(0, ValueError('no'), failing_before(drive))
    assert f"Dependency {drive.ids[0]} raised ValueError('no')" in drive.error()
    assert not [item for item in all_items(client, table_name) if '.copy.' in item['id']]


def test_a_body_that_cannot_be_published_fails(backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.body['options']['serializer'] = 'no-such-serializer'
    drive.apply()
    drive.all_return()
    meta = backend.get_task_meta(drive.body_id)
    assert meta['status'] == states.FAILURE and str(meta['result']).startswith('Callback error: ')


def test_a_chord_whose_counters_are_gone_fails(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(backend.app, 100)
    drive.apply()
    for index in range(99):
        drive.returns(index)
    leaf = next(item['id'] for item in all_items(client, table_name) if item['id'].endswith('.0.1'))
    client.delete_item(TableName=table_name, Key={'id': {'S': leaf}})  # as time to live does
    drive.returns(99)
    assert drive.published == []
    assert drive.error() == dv.GONE


@pytest.mark.parametrize('lazy', [False, LAZY])
def test_a_chord_whose_deadline_passes_fails_once(
        lazy: bool, backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive(backend.app, 45, lazy)
    drive.apply()
    drive.returns(0)
    real = time.time
    monkeypatch.setattr(time, 'time', lambda: real() + 90_000)
    got: list[Any] = []
    monkeypatch.setattr(  # counts the calls of errbacks, and calls them
        type(backend), 'chord_error_from_stack',
        lambda self, body, exc: got.append(super(type(backend), self).chord_error_from_stack(
            body, exc)))
    for index in range(1, 4):
        drive.returns(index)
    assert drive.published == [] and len(got) == 1 and drive.error() == dv.GONE


@pytest.mark.parametrize('lazy', [False, LAZY])
def test_a_chord_whose_table_is_deleted_fails(
        lazy: bool, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(backend.app, 3, lazy)
    drive.apply()
    drive.returns(0)
    client.delete_table(TableName=table_name)
    drive.returns(1)
    assert drive.error() == dv.GONE
    if lazy:
        drive.size()
    drive.returns(2)
    assert drive.published == []


def test_a_header_structure_that_is_gone_fails_the_chord(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(backend.app, 3)
    inner = backend.app.GroupResult('inner', [backend.app.AsyncResult(id) for id in drive.ids[1:]])
    results = [backend.app.AsyncResult(drive.ids[0]), inner]
    for gone in (False, True):
        backend.apply_chord((drive.group_id, results), drive.body)
        if gone:
            client.delete_item(TableName=table_name, Key={'id': {'S': drive.run.header_id}})
        for index in range(3):
            drive.returns(index, request=drive.request(min(index, 1), drive.ids[index]))
    assert drive.published == [[0, [1, 2]]]
    assert 'raise result_chord_expires' in drive.error()


def test_a_chord_that_another_backend_applied_is_a_clear_error(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    for index in range(2):
        request = drive.request(index)
        del request.chord['options']['dynamodb_run']
        drive.returns(index, request=request)
    assert drive.error() == dv.NO_RUN_OPTION


def test_once_the_end_of_a_chord_has_begun_no_failure_begins_it_again(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 1.0)
    app = make_app('retry_timeout=0')
    called: list[str] = []

    @app.task(shared=False)
    def errback(request: Any, exc: Any, traceback: Any) -> None:
        called.append(str(exc))

    ready(app, proxy)

    # DynamoDB is away while a chord is closed whose body was published
    drive = Drive(app, 2)
    drive.apply()
    drive.returns(0)
    proxy.faults = first(1, ServerError(), holding='SET #closed')
    drive.returns(1)  # Celery would fail this task for an error, and count it again
    drive.wait_until_closed()
    assert drive.published == [[0, 1]]

    # ... and while the error is stored that the errbacks were called with
    drive = Drive(app, 2, link_error=[errback.s()])
    drive.apply()
    drive.fails(0, ValueError('why'))
    proxy.faults = first(1, ServerError(), 'PutItem', f'celery-task-meta-{drive.body_id}')
    drive.returns(1)
    drive.wait_until_closed()
    assert drive.published == [] and len(called) == 1 and 'why' in called[0]
    assert 'why' in drive.error()


@pytest.mark.parametrize('grouped', [False, True])
@pytest.mark.parametrize('interruption', [
    SoftTimeLimitExceeded(), botocore.exceptions.EndpointConnectionError(endpoint_url='http://x')],
    ids=lambda interruption: type(interruption).__name__)
def test_errbacks_are_called_once_if_storing_the_error_fails_after_them(
        interruption: Exception, grouped: bool, make_app: MakeApp) -> None:
    app = make_app('retry_timeout=0')
    called: list[str] = []

    @app.task(shared=False)
    def errback(request: Any, exc: Any, traceback: Any) -> None:
        called.append(request.id)

    drive = Drive(app, 2, link_error=[errback.s()])
    if grouped:
        drive.body = group([app.tasks['celery.accumulate'].s() for _ in range(2)])
        for task in drive.body.tasks:
            task.link_error(errback.s())
        drive.body.freeze(drive.body_id)
    drive.apply()
    drive.fails(0, ValueError('why'))
    # where Celery stores an error for each task of a group, it survives the first three
    left = [interruption] * (4 if grouped else 1)

    def fail(operation: str) -> None:
        if operation == 'PutItem' and called and left:
            raise left.pop()

    with Hook(app.backend, fail):
        drive.returns(1)
        drive.wait_until_closed()
    assert len(called) == len(set(called))
    assert grouped or (called == [drive.body_id] and not left)


@pytest.mark.parametrize('moment', ['UpdateItem', 'BatchGetItem', 'publish', 'PutItem'])
def test_a_soft_time_limit_does_not_stop_the_join_of_a_task(
        moment: str, backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 45)
    drive.apply()
    for index in range(44):
        drive.returns(index)
    left = [0]
    if moment == 'PutItem':
        left.append(1)  # the first is of the part's own result

    def limit(operation: str) -> None:
        if operation == moment and left and not left.pop():
            raise celery.exceptions.SoftTimeLimitExceeded
    with Hook(backend, limit):
        if moment == 'PutItem':  # of the body's failure
            drive.fails(44, ValueError('no'))
        else:
            drive.returns(44)
    assert not left
    progress = backend.chord_progress(drive.group_id)
    assert progress and progress.closed  # by this very thread
    if moment == 'PutItem':
        assert 'no' in drive.error()
    else:
        assert len(drive.published) == 1


def test_a_soft_time_limit_while_a_chord_is_closed_publishes_nothing_again(
        backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 1)
    drive.apply()
    left: list[BaseException] = [celery.exceptions.SoftTimeLimitExceeded()]

    def limit(operation: str) -> None:
        if operation == 'UpdateItem' and drive.published and left:
            raise left.pop()
    with Hook(backend, limit):
        drive.returns(0)
    assert not left and drive.published == [[0]]
    progress = backend.chord_progress(drive.group_id)
    assert progress and progress.closed


@pytest.mark.parametrize('tried_again', [False, True])
def test_a_time_limit_of_greenlets_while_a_chord_is_closed_publishes_nothing_again(
        tried_again: bool, make_app: MakeApp) -> None:
    class Limit(BaseException):
        """As gevent.Timeout, which is no Exception."""

    backend = make_app('retry_timeout=0').backend
    drive = Drive(backend.app, 1)
    drive.apply()
    left: list[BaseException] = [Limit()]
    if tried_again:
        left.append(botocore.exceptions.EndpointConnectionError(endpoint_url='http://x'))

    def limit(operation: str) -> None:
        if operation == 'UpdateItem' and drive.published and left:
            raise left.pop()
    with Hook(backend, limit):
        with pytest.raises(Limit):
            drive.returns(0)
        drive.fails(0, RuntimeError('time limit'))  # as Celery does then: another delivery
    drive.wait_until_closed()
    assert drive.published == [[0]]


def test_what_a_finished_chord_leaves(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drive = Drive(backend.app, 45)
    drive.apply()
    drive.all_return()
    left = {item['id']: item for item in all_items(client, table_name)}
    counters = {id: item for id, item in left.items() if not id.startswith('celery-task-meta-')}
    assert set(left) - set(counters) == {f'celery-task-meta-{id}' for id in drive.ids}
    assert len(counters) == 3 + 3
    run, deadline = counters.pop(drive.run.id), drive.run.deadline
    assert deadline is not None and run['closed'] and run['ttl'] == deadline + 14 * 86400
    for id in (drive.group_id, drive.body_id):
        pointer = counters.pop(backend.pointer_id(id))
        assert (pointer['run'], pointer['ttl']) == (drive.run.id, run['ttl'])
    assert all(item['ttl'] == deadline for item in counters.values())


def test_a_finished_chord_leaves_little_if_nothing_expires(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('ttl_seconds=0'), proxy)
    drive = Drive(backend.app, 45)
    drive.apply()
    assert all('ttl' not in item for item in all_items(client, table_name)
               if item['id'].startswith(drive.run.id))
    for index in range(45):
        drive.returns(index, stored=index != 1)
    assert drive.published == [drive.expected]
    left = [item for item in all_items(client, table_name) if drive.group_id in item['id']]
    assert len(left) == 2 and all(item['ttl'] > time.time() for item in left)


def test_header_results_live_while_the_chord_runs(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    app = make_app(result_expires=60)
    app.conf.result_chord_expires = 5000
    backend = ready(app, proxy)
    drive = Drive(app, 2)
    drive.apply()
    proxy.reset()
    drive.returns(0)
    drive.fails(1, ValueError())
    assert operations(proxy)[:4] == ['PutItem', 'UpdateItem', 'PutItem', 'UpdateItem']
    items = all_items(client, table_name)
    ttls = [item['ttl'] - time.time() for item in items if item['id'][-36:] in drive.ids]
    assert len(ttls) == 2 and all(4990 < ttl < 5001 for ttl in ttls)
    backend.store_result('other', 1, states.SUCCESS)
    other, = (item for item in all_items(client, table_name) if item['id'].endswith('other'))
    assert other['ttl'] < time.time() + 61


def test_a_task_joins_its_chord_itself_after_a_soft_limit_where_no_thread_can_be_started(
        backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.3)
    drive = Drive(backend.app, 1)
    drive.apply()
    dies_publishing(drive, 0)

    def limit(number: int, frame: Any) -> None:
        # between requests: what is interrupted loses its connection, and the proxy needs a thread
        # for each
        if frame.f_code is dv.Lease.acquire.__code__:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise SoftTimeLimitExceeded

    usual = signal.signal(signal.SIGALRM, limit)
    try:
        with no_more_threads():
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            drive.returns(0)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
    assert drive.published == [[0]]
    time.sleep(0.2)  # a later message of this thread is none of the chord's
    drive.task.apply_async(([],), ignore_result=True)


@pytest.mark.parametrize('fails', [0, 1])
def test_an_errback_sees_what_the_parts_returned(
        fails: int, app: Celery, backend: dv.DynamoDBBackend) -> None:
    seen: list[Any] = []

    @app.task(shared=False)
    def errback(request: Any, exc: Exception, traceback: Any) -> None:
        seen.extend(app.AsyncResult(id) for id in drive.ids)
        for part in seen:
            part.state, part.result, part.traceback  # noqa: B018

    drive = Drive(app, 2, link_error=[errback.s()])
    drive.apply()
    for index in range(2):
        if index == fails:
            request = drive.request(index)
            with drive.in_task(request):
                backend.mark_as_failure(request.id, ValueError('no'), 'the stack', request)
        else:
            drive.returns(index)
    assert [part._cache['status'] for part in seen] == [
        states.FAILURE if index == fails else states.SUCCESS for index in range(2)]
    failed, succeeded = seen[fails], seen[1 - fails]
    assert type(failed.result) is ValueError and succeeded.result == 1 - fails
    assert failed.traceback == 'the stack'


def test_a_failure_is_never_masked(backend: dv.DynamoDBBackend) -> None:
    # a worker asks only whether a redelivered task has succeeded
    drive, seen = Drive(backend.app, 2), list[str]()
    drive.apply()

    def before(operation: str) -> None:
        if operation == 'UpdateItem' and not seen:
            seen.append(backend.get_state(drive.ids[0]))
            seen.append(backend.get_task_meta(drive.ids[0], cache=False)['status'])
    with Hook(backend, before):
        drive.fails(0, ValueError('no'))
    assert seen == [states.FAILURE] * 2


# --------------------------------------------------------------------------------------------------
# Chord: the lease
# --------------------------------------------------------------------------------------------------

class Owners:
    """Deliveries of the one part of a chord, of which the first has begun to join."""

    def __init__(self, backend: dv.DynamoDBBackend) -> None:
        self.table = backend.store.table
        self.run = dv.Run(f'chord.{uuid.uuid4().hex[:8]}', int(time.time()) + 3600, size=1)
        self.part = dv.Part(0, False, str(uuid.uuid4()))
        dv.ChordStore(self.table).open('chord', self.run)
        self.first, self.other = self.delivery(), self.delivery()
        counter = dv.PartCounter(self.table, self.run, self.part, self.first.owner)
        root = counter.count(dv.Entry(counter.member))
        assert root is not None and root.item['owner'] == self.first.owner
        assert self.first.renew()

    def delivery(self) -> dv.Lease:
        return dv.Lease(self.table, self.run, dv.new_owner(self.part.task_id))


def test_a_duplicate_waits_while_the_owner_is_alive(
        app: Celery, backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 3.0)
    drive = Drive(app, 2)
    drive.apply()
    drive.returns(0)
    slow = threading.Event()

    def slow_publisher(operation: str) -> None:
        if operation == 'publish' and not slow.is_set():
            slow.set()
            time.sleep(0.7)

    with Hook(backend, after=slow_publisher):
        owner = threading.Thread(target=drive.returns, args=(1,))
        owner.start()
        assert slow.wait(20)
        drive.returns(0)
        drive.returns(1)
        owner.join()
    assert drive.published == [[0, 1]]


def test_a_duplicate_takes_over_what_nobody_has_begun(backend: dv.DynamoDBBackend) -> None:
    owners = Owners(backend)
    owners.table.delete(owners.run.id)
    assert owners.other.acquire(dv.no_sleep) is not None
    assert not owners.first.start_publishing(frozenset({b'-'})) and not owners.first.renew()
    assert owners.other.start_publishing(frozenset({b'-'}))


def test_leases_do_not_depend_on_the_clocks_of_hosts(
        backend: dv.DynamoDBBackend, small_tree: None, monkeypatch: pytest.MonkeyPatch) -> None:
    dv.Lease.DURATION = 0.6
    owners = Owners(backend)
    assert owners.first.start_publishing(frozenset({b'-'}))
    real = time.time
    monkeypatch.setattr(time, 'time', lambda: real() + 600)
    began = time.monotonic()
    acquired = owners.other.acquire(time.sleep)
    assert acquired is not None and acquired['published_before'] == {b'-'}
    assert time.monotonic() - began >= 0.6


def test_a_lease_that_is_renewed_is_waited_for_again(
        backend: dv.DynamoDBBackend, small_tree: None) -> None:
    dv.Lease.DURATION = 0.6
    owners = Owners(backend)
    acquired: list[Any] = []
    waiter = threading.Thread(target=lambda: acquired.append(owners.other.acquire(time.sleep)))
    waiter.start()
    with owners.first.heartbeats():
        time.sleep(1.5)
        assert acquired == []
    owners.first.close(1)
    waiter.join(30)
    assert acquired == [None]


def test_one_of_two_that_wait_takes_over(backend: dv.DynamoDBBackend, small_tree: None) -> None:
    dv.Lease.DURATION = 0.5
    owners = Owners(backend)  # whose first dies
    met: list[bool] = []
    together = threading.Barrier(2, action=lambda: met.append(True))

    def meet(operation: str) -> None:
        if operation == 'UpdateItem' and not met:  # each finds the lease to have passed
            together.wait(20)

    acquired = []

    def deliver(lease: dv.Lease) -> None:
        if lease.acquire(time.sleep) is not None:
            acquired.append(lease)
            lease.close(1)

    with Hook(backend, meet):
        workers = [threading.Thread(target=deliver, args=(lease,))
                   for lease in (owners.other, owners.delivery())]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
    assert len(acquired) == 1


def test_nobody_takes_over_while_the_owner_lives_however_long_it_publishes(
        backend: dv.DynamoDBBackend, small_tree: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.4)
    drive = Drive(backend.app, 1)
    drive.apply()
    publishing = threading.Event()

    def slow_publisher(operation: str) -> None:
        if operation == 'publish':
            publishing.set()
            time.sleep(2)  # five leases

    with Hook(backend, slow_publisher):
        owner = threading.Thread(target=drive.returns, args=(0,))
        owner.start()
        assert publishing.wait(20)
        drive.returns(0)
        owner.join()
    assert drive.published == [[0]]


@pytest.mark.parametrize('ended', [False, True])
def test_a_worker_that_stalled_past_its_lease_publishes_nothing(
        ended: bool, app: Celery, backend: dv.DynamoDBBackend, small_tree: None,
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, 'dyna_veggie')
    drive = Drive(app, 2)
    drive.apply()
    drive.returns(0)
    dv.Lease.DURATION = 60.0  # no heartbeat registers the owner; small_tree puts it back
    stalled, go_on = threading.Event(), threading.Event()
    name = 'stalling'

    def stall(operation: str) -> None:
        in_the_worker = threading.current_thread().name == name
        if operation == 'BatchGetItem' and in_the_worker and not stalled.is_set():
            stalled.set()
            go_on.wait(20)

    with Hook(backend, after=stall):
        worker = threading.Thread(target=drive.returns, args=(1,), name=name)
        worker.start()
        assert stalled.wait(20)
        if ended:
            drive.returns(1)  # a duplicate, which takes over
        else:
            other = dv.Lease(backend.store.table, drive.run, dv.new_owner(drive.ids[1]))
            assert other.acquire(dv.no_sleep) is not None
        assert drive.published == [[0, 1]] * ended
        go_on.set()
        worker.join()
    assert drive.published == [[0, 1]] * ended
    assert ('is closed, and a part came late' in caplog.text) == ended
    assert ('another worker has taken over' in caplog.text) != ended


class Stalls:
    """Deliveries of a chord's last part of which one stalls, cut off, while it publishes."""

    def __init__(self, drive: Drive, at: str, number: int) -> None:
        self.drive, self.at, self.number = drive, at, number
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.sent: list[str] = []  # the ids of messages
        self._worker = threading.Thread(
            target=drive.returns, args=(len(drive.ids) - 1,), name='stalling')
        self._steps: Counter[str] = Counter()

    def _after(self, operation: str) -> None:
        if threading.current_thread().name not in ('stalling', 'dyna-veggie'):
            return
        self._steps[operation] += 1
        if (operation, self._steps[operation]) == (self.at, self.number):
            self.stalled.set()
            self.go_on.wait(20)

    def _cut_off(self, **_: Any) -> None:
        if threading.current_thread().name == 'dyna-veggie-heartbeat' and (
                not self.go_on.is_set()):
            raise botocore.exceptions.ConnectionClosedError(endpoint_url='cut off')

    def _note(self, headers: Any = None, **_: Any) -> None:
        self.sent.append(headers['id'])

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        events = self.drive.app.backend.store.table.client.botocore.meta.events
        events.register('before-call.dynamodb', self._cut_off)
        celery.signals.before_task_publish.connect(
            self._note, weak=False, dispatch_uid='stalls')
        try:
            yield
        finally:
            events.unregister('before-call.dynamodb', self._cut_off)
            celery.signals.before_task_publish.disconnect(dispatch_uid='stalls')

    def play(self) -> None:
        with self.cut_off(), Hook(self.drive.app.backend, after=self._after):
            self._worker.start()
            assert self.stalled.wait(20)
            self.drive.returns(len(self.drive.ids) - 1)  # it takes over
            self.go_on.set()
            self._worker.join(20)


def test_an_owner_that_was_stopped_after_it_began_publishes_nothing(
        make_app: MakeApp, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    app = make_app('retry_timeout=0')
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.6)
    drive = Drive(app, 2)
    drive.apply()
    drive.returns(0)
    Stalls(drive, 'UpdateItem', 2).play()  # the first counts the part
    assert drive.published == [[0, 1]]
    assert 'another worker has taken over' in caplog.text


def test_an_owner_that_was_stopped_between_two_messages_sends_no_more(
        make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app('retry_timeout=0')
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.6)
    drive = Drive(app, 1)
    drive.body = group([app.signature('tests.one') for _ in range(3)], app=app)
    drive.body.freeze()
    drive.apply()
    stalls = Stalls(drive, 'publish', 1)
    stalls.play()
    first, *others = [task.id for task in drive.body.tasks]
    assert Counter(stalls.sent) == {first: 2, **dict.fromkeys(others, 1)}


def test_an_owner_that_cannot_tell_whether_it_was_replaced_publishes_nothing_yet(
        make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app('retry_timeout=0')
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.6)
    drive = Drive(app, 1)
    drive.apply()
    heartbeats = Stalls(drive, 'never', 0)  # cuts them off
    steps: list[str] = []

    def cut(operation: str) -> None:
        if operation == 'UpdateItem':
            steps.append(operation)
            if len(steps) == 3:  # after those that count the part and begin
                raise botocore.exceptions.ConnectionClosedError(endpoint_url='cut off')
            if len(steps) == 4:
                assert drive.published == []

    def stall(operation: str) -> None:
        if len(steps) == 2 and operation == 'UpdateItem':
            time.sleep(0.4)
    with heartbeats.cut_off(), Hook(app.backend, cut, stall):
        drive.returns(0)
    assert drive.published == [[0]]


def test_a_heartbeat_that_hangs_does_not_cost_the_lease(
        backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.6)
    drive = Drive(backend.app, 1)
    drive.apply()
    publishing, ended = threading.Event(), threading.Event()
    hung: list[threading.Thread] = []

    def hang(**_: Any) -> None:
        if threading.current_thread().name == 'dyna-veggie-heartbeat' and not hung:
            hung.append(threading.current_thread())
            ended.wait(20)

    def publish_slowly(operation: str) -> None:
        if operation == 'publish':
            publishing.set()
            time.sleep(2)

    events = backend.store.table.client.botocore.meta.events
    events.register('before-call.dynamodb', hang)
    with Hook(backend, publish_slowly):
        owner = threading.Thread(target=drive.returns, args=(0,))
        owner.start()
        assert publishing.wait(20)
        drive.returns(0)
        owner.join()
    ended.set()
    events.unregister('before-call.dynamodb', hang)
    assert hung and drive.published == [[0]]


@pytest.mark.parametrize('moment', [1, 2, 7])
def test_a_soft_time_limit_while_it_publishes_repeats_no_message(
        moment: int, make_app: MakeApp) -> None:
    sent, routed = Counter[str](), Counter[str]()

    def route(name: str, *_: Any, **__: Any) -> None:
        routed[name] += 1
        if routed['tests.one'] == moment:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.02)

    def note(headers: Any = None, **_: Any) -> None:
        sent[headers['id']] += 1

    app = make_app(task_routes=[route])
    drive = Drive(app, 1)
    drive.body = group([app.signature('tests.one') for _ in range(8)], app=app)
    drive.body.freeze()
    drive.apply()
    celery.signals.after_task_publish.connect(note, weak=False, dispatch_uid='limit')
    try:
        with soft_time_limit(60):
            drive.returns(0)
    finally:
        celery.signals.after_task_publish.disconnect(dispatch_uid='limit')
    assert sent == {task.id: 1 for task in drive.body.tasks}


def test_a_body_is_sent_as_the_task_that_joins(backend: dv.DynamoDBBackend) -> None:
    drive, seen, here = Drive(backend.app, 1), [], threading.local()
    here.correlation_id = 'of the thread'  # as users have it
    drive.apply()
    request = drive.request(0)
    request.update(root_id='root', called_directly=False)

    def note(headers: Any = None, **_: Any) -> None:
        seen.append((headers['root_id'], headers['parent_id'], here.correlation_id))

    celery.signals.before_task_publish.connect(note, weak=False, dispatch_uid='sender')
    drive.returns(0, request=request)
    celery.signals.before_task_publish.disconnect(dispatch_uid='sender')
    assert seen == [('root', request.id, 'of the thread')]


def test_a_body_whose_result_has_expired_is_not_published_again(
        backend: dv.DynamoDBBackend, small_tree: None) -> None:
    drive = Drive(backend.app, 1)
    drive.apply()

    def die(operation: str) -> None:
        if operation == 'publish':
            backend.store_result(drive.body_id, 'done', states.SUCCESS)
            raise Died
    with Hook(backend, after=die), pytest.raises(Died):
        drive.returns(0)
    backend.store.table.update(
        backend.item_id(drive.body_id), 'SET #ttl = :ttl', {'ttl': int(time.time()) - 60})
    drive.returns(0)
    assert drive.published == [[0]]


def test_a_body_with_an_earlier_result_is_published_though_a_clock_was_ahead(
        backend: dv.DynamoDBBackend, small_tree: None, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive(backend.app, 1)
    backend.store_result(drive.body_id, ValueError('earlier'), states.FAILURE)
    backend.store.table.update(
        backend.item_id(drive.body_id), 'SET #ttl = :ttl', {'ttl': int(time.time()) + 30})
    drive.apply()
    real = time.time
    with monkeypatch.context() as ahead:
        ahead.setattr(time, 'time', lambda: real() + 60)
        dies_publishing(drive, 0)
    drive.returns(0)
    assert drive.published == [[0]]


@pytest.mark.parametrize('kind', ['task', 'chain', 'group'])
def test_a_body_that_has_run_is_not_published_again(
        app: Celery, backend: dv.DynamoDBBackend, small_tree: None, kind: str) -> None:
    one, two = app.signature('tests.one'), app.signature('tests.two')
    body = {'task': one, 'chain': chain(one, two, app=app), 'group': group(one, two, app=app)}[kind]
    published: list[str] = []

    def note(headers: Any = None, **kwargs: Any) -> None:
        published.append(headers['id'])
    celery.signals.before_task_publish.connect(note)
    drive = Drive(app, 2)
    drive.body = body
    body.freeze()
    drive.apply()
    drive.returns(0)

    steps: list[str] = []

    def die(operation: str) -> None:
        steps.append(operation)
        if steps[-2:] == ['publish', 'UpdateItem']:  # which closes the chord
            raise SystemExit
    with Hook(backend, die), pytest.raises(SystemExit):
        drive.returns(1)
    assert published
    for id in published:
        backend.store_result(id, 'done', states.SUCCESS)
    published.clear()
    drive.returns(1)
    celery.signals.before_task_publish.disconnect(note)
    assert published == []


@pytest.mark.parametrize('state', [states.STARTED, states.RETRY, 'PROGRESS'])
def test_a_dead_owner_is_replaced_though_the_body_had_a_state_before(
        state: str, backend: dv.DynamoDBBackend, small_tree: None) -> None:
    drive = Drive(backend.app, 2)
    backend.store_result(drive.body_id, {}, state)  # of the task that the chord replaced
    drive.apply()
    drive.returns(0)
    dies_publishing(drive, 1)
    drive.returns(1)
    assert drive.published == [[0, 1]]
    drive.returns(1)
    assert drive.published == [[0, 1]]


@pytest.mark.parametrize('process', ['main process', 'pool process'])
def test_a_process_that_runs_no_task_waits_at_its_end(
        process: str, backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 1.0)
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0)
    dies_publishing(drive, 1)
    request = drive.request(1)
    # as a worker's main process for a task that its hard time limit has killed
    backend.mark_as_failure(request.id, ValueError('killed'), request=request)
    assert drive.published == []
    # its tasks are acknowledged: a warm shutdown, or a new process for this one, waits for the join
    ending = {'main process': celery.signals.worker_shutdown,
              'pool process': celery.signals.worker_process_shutdown}[process]
    ending.send(sender=None)
    assert drive.published == [[0, 1]]


@contextlib.contextmanager
def soft_time_limit(seconds: float) -> Iterator[None]:
    """Raises in the main thread, once, as the prefork pool does."""
    def limit(*args: Any) -> None:
        raise celery.exceptions.SoftTimeLimitExceeded

    previous = signal.signal(signal.SIGUSR1, limit)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, previous)


def test_a_task_waits_for_a_lease_beyond_its_soft_time_limit(
        backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    # it is acknowledged when it returns: then the chord must have ended, whatever ends the process
    monkeypatch.setattr(dv.Lease, 'DURATION', 1.0)
    drive = Drive(backend.app, 1)
    drive.apply()
    dies_publishing(drive, 0)
    with soft_time_limit(0.3):
        drive.returns(0)
    assert drive.published == [[0]]


# --------------------------------------------------------------------------------------------------
# Chord: found by its body, and ended by a person
# --------------------------------------------------------------------------------------------------

class Stuck(Drive):
    """A chord of which all parts but the last have returned; its errback notes what it gets."""

    def __init__(self, app: Celery, parts: int = 3, lazy: bool = False, **options: Any) -> None:
        app.finalize()
        self.called: list[Any] = []

        @app.task(shared=False, name=f'errback-{uuid.uuid4()}')
        def errback(request: Any, exc: Any, traceback: Any) -> None:
            self.called.append((request.id, exc))

        super().__init__(app, parts, lazy, link_error=[errback.s()], **options)
        self.apply()
        for index in range(parts - 1):
            self.returns(index)

    def reasons(self) -> list[str]:
        """The errors that the errback was called with, which are the body's."""
        assert {id for id, _ in self.called} <= {self.body_id}
        assert all(type(exc) is ChordError for _, exc in self.called)
        return [str(exc) for _, exc in self.called]

    def is_closed(self) -> bool:
        progress = self.app.backend.chord_progress(self.body_id)
        return progress is not None and progress.closed


@pytest.fixture
def unheard(make_app: MakeApp) -> Celery:
    """An app whose messages no worker gets."""
    app = make_app(**in_memory())
    app.finalize()
    return app


@pytest.mark.parametrize('of', [
    'task', 'chain', 'group', 'chord', 'chain to a group', 'in a chain', 'chords in a chain'])
def test_a_chord_is_found_by_the_id_of_its_result(of: str, unheard: Celery) -> None:
    task, app, backend = unheard.tasks['celery.accumulate'], unheard, unheard.backend
    header, pair = [task.s(), task.s()], group(task.s(), task.s(), app=unheard)
    canvas = {
        'task': chord(header, task.s(), app=app),
        'chain': chord(header, chain(task.s(), task.s(), app=app), app=app),
        'group': chord(header, pair, app=app),
        'chord': chord(header, chord([task.s(), task.s()], task.s(), app=app), app=app),
        'chain to a group': chord(header, chain(task.s(), pair, app=app), app=app),
        'in a chain': chain(group(*header, app=app), task.s(), task.s(), app=app),
        'chords in a chain': chain(
            chord(header, task.s(), app=app), chord(header, task.s(), app=app), app=app)}[of]
    result = canvas.apply_async()
    assert backend.chord_progress(result.id) == (0, 0, 2, False)
    assert backend.chord_progress(str(uuid.uuid4())) is None
    assert backend.fail_chord(result.id, 'why')
    assert backend.chord_progress(result.id).closed


def test_the_newest_chord_with_a_result_is_found(unheard: Celery) -> None:
    drives = [Drive(unheard, 2), Drive(unheard, 3)]
    drives[1].body = drives[0].body
    for drive in drives:
        drive.apply()
    assert unheard.backend.chord_progress(drives[0].body_id).expected == 3


def incompressible(size: int) -> str:
    return base64.b64encode(random.randbytes(size)).decode()


@pytest.mark.parametrize(('size', 'units'), [(0, 0), (1100, 1), (3000, 3), (4000, 0)])
def test_what_finding_a_chord_by_its_body_costs(
        size: int, units: int, backend: dv.DynamoDBBackend, proxy: Proxy,
        needs: Callable[[str], None]) -> None:
    needs('PartiQL INSERT')
    ready(backend.app, proxy)
    drive = Drive(backend.app, 41)
    drive.body.kwargs = {'text': incompressible(size)}
    drive.apply()
    # the pointers of group and body, the run, three nodes; no request of its own
    assert cost(proxy) == (1, 0, 6 + units)
    proxy.reset()
    result = backend.app.AsyncResult(drive.ids[0])
    drive.returns(0)
    assert result.state == states.SUCCESS
    assert cost(proxy) == (2 + 3, 3, 2)  # as ever: the run is read at one unit
    proxy.reset()
    assert backend.fail_chord(drive.body_id, 'why')
    requests, reads, _ = cost(proxy)
    assert requests <= 8 and reads <= 5


def test_the_body_of_a_chord_is_kept_until_it_is_closed_and_never_logged(
        app: Celery, client: Any, table_name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, 'dyna_veggie')
    for end in ('returns', 'fails', 'fail_chord'):
        drive = Drive(app, 2)
        drive.body.kwargs = {'password': 'geheim'}
        drive.apply()
        run, = (item for item in all_items(client, table_name) if item['id'] == drive.run.id)
        assert b'geheim' in zlib.decompress(bytes(run['body']))
        drive.returns(0)
        if end == 'fail_chord':
            assert app.backend.fail_chord(drive.body_id, 'why')
        else:
            drive.fails(1, KeyError('why')) if end == 'fails' else drive.returns(1)
        assert not any('body' in item for item in all_items(client, table_name))
        assert 'geheim' not in repr(all_items(client, table_name))
    assert 'why' in caplog.text and 'geheim' not in caplog.text


@pytest.mark.parametrize('by', ['group_id', 'body_id'])
@pytest.mark.parametrize('lazy', [False, LAZY])
def test_a_person_ends_a_chord(
        by: str, lazy: bool, app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck(app, 45, lazy)
    waits = app.AsyncResult(stuck.body_id)
    assert app.backend.fail_chord(getattr(stuck, by), 'the worker is lost')
    assert stuck.reasons() == ['the worker is lost'] == [stuck.error()]
    with pytest.raises(ChordError, match=r'^the worker is lost$'):
        waits.get(timeout=10)
    assert 'Traceback' not in caplog.text
    caplog.clear()

    # it has ended, also for parts that return
    assert not app.backend.fail_chord(getattr(stuck, by), 'again')
    if lazy:
        stuck.size()
    stuck.returns(44)
    stuck.returns(43)
    assert stuck.published == [] and len(stuck.called) == 1 and stuck.is_closed()
    assert app.AsyncResult(stuck.ids[44]).state == states.SUCCESS
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_chord_that_is_none_is_not_failed(backend: dv.DynamoDBBackend) -> None:
    assert not backend.fail_chord(str(uuid.uuid4()), 'why')
    backend.store_result('task', 1, states.SUCCESS)
    assert not backend.fail_chord('task', 'why')


def test_a_chord_whose_counters_are_none_is_a_clear_error(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    stuck = Stuck(backend.app)
    client.update_item(
        TableName=table_name, Key={'id': {'S': stuck.run.id}}, UpdateExpression='SET body = :v',
        ExpressionAttributeValues={':v': {'B': b'{'}})
    with pytest.raises(dv.UnreadableValue, match=f'body of the chord {stuck.group_id} cannot be'):
        backend.fail_chord(stuck.group_id, 'why')
    client.update_item(
        TableName=table_name, Key={'id': {'S': stuck.run.id}}, UpdateExpression='SET #s = :v',
        ExpressionAttributeNames={'#s': 'size'}, ExpressionAttributeValues={':v': {'S': 'x'}})
    with pytest.raises(dv.UnreadableValue, match=f'counters of the chord {stuck.group_id}: TypeEr'):
        backend.fail_chord(stuck.group_id, 'why')


@pytest.mark.parametrize('moment', ['before', 'after'])
def test_a_person_ends_a_chord_at_any_step_of_its_last_part(
        moment: str, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.5)
    backend, ends = app.backend, []
    for point in crash_points():
        stuck = Stuck(app, 3)
        got: list[Any] = []

        def strike(step: str, point: CrashPoint = point, stuck: Stuck = stuck,
                   got: list[Any] = got) -> None:
            if threading.current_thread() is threading.main_thread() and not got and (
                    point.reached()):
                got.append(None)  # its own requests are no steps
                try:
                    got[0] = backend.fail_chord(stuck.body_id, 'why')
                except dv.TimeoutError as exc:
                    got[0] = str(exc)

        with Hook(backend, **{moment: strike}):
            stuck.returns(2)
        if got == [True]:
            assert stuck.published == [] and stuck.reasons() == ['why'] == [stuck.error()]
        else:
            assert stuck.published == [[0, 1, 2]] and stuck.called == []
            assert got in ([], [False], [f'a worker is ending the chord {stuck.body_id}'])
        assert stuck.is_closed()
        ends += got
    assert True in ends and any(isinstance(end, str) for end in ends)


def test_two_persons_end_a_chord_once(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 2.0)
    stuck = Stuck(app)
    met: list[bool] = []
    together = threading.Barrier(2, action=lambda: met.append(True))

    def meet(operation: str) -> None:
        if operation == 'UpdateItem' and not met:  # each finds a lease that nobody has
            together.wait(20)

    ended: list[bool] = []
    with Hook(app.backend, meet):
        persons = [threading.Thread(target=lambda name=name: ended.append(
            app.backend.fail_chord(stuck.group_id, name))) for name in 'ab']
        for person in persons:
            person.start()
        for person in persons:
            person.join(30)
    assert sorted(ended) == [False, True] and len(stuck.called) == 1
    assert stuck.reasons() == [stuck.error()]


@pytest.mark.parametrize('ran', [False, True])
def test_a_person_ends_a_chord_whose_owner_is_dead_unless_its_body_was_published(
        ran: bool, app: Celery, small_tree: None) -> None:
    stuck = Stuck(app)
    dies_publishing(stuck, 2)
    if ran:
        app.backend.store_result(stuck.body_id, 'done', states.STARTED)
    assert app.backend.fail_chord(stuck.group_id, 'why') is not ran
    assert stuck.is_closed() and stuck.published == []
    assert stuck.reasons() == ([] if ran else ['why'])
    state = app.AsyncResult(stuck.body_id).state
    assert state == (states.STARTED if ran else states.FAILURE)


@pytest.mark.parametrize('size', [0, 4000])
@pytest.mark.parametrize('of', ['chain', 'group', 'chord'])
def test_a_chord_whose_canvas_was_published_by_a_dead_owner_is_not_failed(
        of: str, size: int, unheard: Celery, small_tree: None) -> None:
    app, backend = unheard, unheard.backend
    task = app.tasks['celery.accumulate']
    one, two, three = task.s(incompressible(size)), task.s(), task.s()
    canvas = {
        'chain': chain(one, two, three, app=app), 'group': group(one, two, three, app=app),
        'chord': chord([one, two], three, app=app)}[of]
    drive = Drive(app, 2)
    drive.body = canvas
    canvas.freeze()
    drive.apply()
    drive.returns(0)
    dies_publishing(drive, 1)
    # a task of a chain that is not the first says nothing: it could be of an earlier run
    started = next(iter(dv.tasks_of(canvas, app, 'sent'))).id
    backend.store_result(started, None, states.STARTED)
    assert not backend.fail_chord(drive.group_id, 'why')
    assert app.AsyncResult(started).state == states.STARTED
    assert backend.chord_progress(drive.group_id).closed


def test_an_errback_is_not_sent_by_an_owner_that_stalled_past_its_lease(
        unheard: Celery, client: Any, table_name: str, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.4)
    sent: list[str] = []

    class Stalling(celery.Task):
        def apply_async(self, *args: Any, **kwargs: Any) -> Any:
            run = {'id': {'S': drive.run.id}}
            client.update_item(  # what another delivery does that takes over
                TableName=table_name, Key=run, UpdateExpression='SET #o = :o ADD heartbeat :one',
                ExpressionAttributeNames={'#o': 'owner'},
                ExpressionAttributeValues={':o': {'B': b'another'}, ':one': {'N': '1'}})
            time.sleep(0.5)
            return super().apply_async(*args, **kwargs)

    @unheard.task(base=Stalling, shared=False, name='tests.errback')
    def errback(task_id: str) -> None:
        raise AssertionError

    def note(sender: str, **kwargs: Any) -> None:
        sent.append(sender)

    drive = Drive(unheard, 2, link_error=[errback.s()])
    drive.apply()
    drive.returns(0)
    celery.signals.after_task_publish.connect(note)
    try:
        drive.fails(1, ValueError('why'))
    finally:
        celery.signals.after_task_publish.disconnect(note)
    assert sent == [] and 'another worker has taken over' in caplog.text
    assert unheard.AsyncResult(drive.body_id).state == states.PENDING


def test_a_chord_is_not_failed_while_its_body_is_published(
        app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.Lease, 'DURATION', 0.5)
    stuck = Stuck(app)
    publishing, go_on = threading.Event(), threading.Event()

    def slow_publisher(operation: str) -> None:
        if operation == 'publish':
            publishing.set()
            assert go_on.wait(30)

    with Hook(app.backend, slow_publisher):
        owner = threading.Thread(target=stuck.returns, args=(2,))
        owner.start()
        assert publishing.wait(20)
        with pytest.raises(dv.TimeoutError, match='a worker is ending the chord'):
            app.backend.fail_chord(stuck.group_id, 'why')
        go_on.set()
        owner.join(30)
    assert not app.backend.fail_chord(stuck.group_id, 'why')
    assert stuck.published == [[0, 1, 2]] and stuck.called == []
    assert app.AsyncResult(stuck.body_id).state == states.PENDING


def test_errbacks_are_called_once_if_storing_what_a_person_says_fails(
        make_app: MakeApp, proxy: Proxy) -> None:
    stuck = Stuck(make_app('retry_timeout=0'))
    proxy.faults = first(1, ServerError(), 'PutItem', f'celery-task-meta-{stuck.body_id}')
    assert stuck.app.backend.fail_chord(stuck.body_id, 'why')
    assert stuck.reasons() == ['why'] == [stuck.error()] and stuck.is_closed()


def test_what_a_person_says_fails_the_chord_around(make_app: MakeApp) -> None:
    app = make_app()
    app.finalize()
    task, got = app.tasks['celery.accumulate'], []

    @app.task(shared=False)
    def errback(request: Any, exc: Any, traceback: Any, name: str) -> None:
        got.append((name, str(exc)))

    @app.task(shared=False)
    def work(*args: Any) -> int:
        return 1

    with working(app):
        lost = task.s().set(queue='of nobody')
        inner = chord([work.s(), lost], work.s().on_error(errback.s('inner')), app=app)
        outer = chord([inner, work.s()], work.s().on_error(errback.s('outer')), app=app)
        result = outer.apply_async()
        part, = (part for part in result.parent.results if part.parent)
        assert app.backend.fail_chord(part.id, 'why')
        for each, error in ((part, r'^why$'), (result, rf'^Dependency {part.id} raised .*why')):
            with pytest.raises(ChordError, match=error):
                each.get(timeout=30, follow_parents=False, disable_sync_subtasks=False)
        deadline = time.monotonic() + 20  # the errors are stored after the errbacks were called
        while len(got) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert sorted(name for name, _ in got) == ['inner', 'outer'] and dict(got)['inner'] == 'why'


@pytest.mark.parametrize('grouped', [False, True])
@pytest.mark.parametrize('why', ['large', 'no json'])
def test_where_a_body_could_not_be_kept_its_result_gets_the_error(
        why: str, grouped: bool, make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(task_serializer='pickle', accept_content=['json', 'pickle'], **in_memory())
    app.finalize()
    called: list[Any] = []

    @app.task(shared=False)
    def errback(request: Any, exc: Any, traceback: Any) -> None:
        called.append(exc)

    task = app.tasks['celery.accumulate']
    body = task.s(incompressible(4000) if why == 'large' else object).on_error(errback.s())
    if grouped:
        body = group([body, task.s(), body.clone()], app=app)
    result = chord([task.s(), task.s()], body, app=app).apply_async()
    assert app.backend.fail_chord(result.id, 'why')
    assert 'its body was too large to be kept, or could not be encoded: no errback' in caplog.text
    for leaf in dv.leaf_results(result):
        with pytest.raises(ChordError, match=r'^why$'):
            leaf.get(timeout=10, follow_parents=False)
    assert called == []
    assert not app.backend.fail_chord(result.id, 'again')


def test_a_chord_that_a_person_ended_leaves_little_if_nothing_expires(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    app = make_app('ttl_seconds=0')
    ready(app, proxy)
    drive = Drive(app, 45)
    drive.apply()
    for index in range(44):
        drive.returns(index, stored=index != 1)
    assert app.backend.fail_chord(drive.body_id, 'why')
    drive.returns(44)
    assert drive.published == [] and drive.error() == 'why'
    nested = drive.app.GroupResult(str(uuid.uuid4()), [drive.app.AsyncResult('part')])
    other = Drive(app, 0)
    app.backend.apply_chord((other.group_id, [nested]), other.body)
    assert app.backend.fail_chord(other.body_id, 'why')
    left = [item for item in all_items(client, table_name)
            if not item['id'].startswith('celery-task-meta-')]
    assert len(left) == 6 + 1 and all(item['ttl'] > time.time() for item in left)


@GAPS
@pytest.mark.parametrize('sized', ['never', 'before', 'after'])
@pytest.mark.parametrize('indexes', ['even', 'gaps', 'one leaf', 'repeated'])
def test_no_counter_of_a_generator_that_a_person_ended_stays_if_nothing_expires(
        indexes: str, sized: str, make_app: MakeApp, proxy: Proxy, client: Any, table_name: str,
        small_tree: None) -> None:
    drive = Drive(ready(make_app('ttl_seconds=0'), proxy).app, 12, lazy=True)
    drive.indexes = {'even': list(range(12)), 'gaps': list(range(0, 24, 2)), 'one leaf': [0] * 12,
                     'repeated': [number // 2 for number in range(12)]}[indexes]
    drive.apply()
    for part in range(8):
        drive.returns(part)
    if sized == 'before':
        drive.size()
    assert drive.app.backend.fail_chord(drive.group_id, 'why')
    if sized == 'after':
        drive.size()
    for part in range(8, 12 if sized != 'never' else 11):
        drive.returns(part)
    assert drive.error() == 'why'
    stay = [item['id'] for item in all_items(client, table_name)
            if drive.group_id in item['id'] and 'ttl' not in item]
    assert stay == []


# --------------------------------------------------------------------------------------------------
# Chord: crashes, lost responses, races
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('parts', [1, pytest.param(5, marks=slow)])
@pytest.mark.parametrize('moment', ['before', 'after'])
@pytest.mark.parametrize('wait', [False, True])
def test_whenever_a_worker_dies_the_body_is_published_once(
        parts: int, moment: str, wait: bool, backend: dv.DynamoDBBackend, make_app: MakeApp,
        small_tree: None) -> None:
    """Walks through every crash point.

    The part is then redelivered, before or after the lease has passed.
    """
    other = make_app('read_timeout=9').backend  # what the body's worker uses; not hooked
    for point in crash_points():
        drive = Drive(backend.app, parts)
        deaths = Deaths(drive, other, point, moment, pause=0.3 if wait else 0)
        drive.apply()
        with deaths.hook():
            for index in range(parts):
                deaths.returns(index)
        attempts = deaths.published()
        assert attempts == [drive.expected], point.number
        drive.returns(0)
        assert len(attempts) == 1
    assert point.number >= (5 if parts == 1 else 20)


@pytest.mark.parametrize('sizes', [[2, 1], pytest.param([2, 2, 1], marks=slow)])
@pytest.mark.parametrize('moment', ['before', 'after'])
def test_whenever_a_worker_dies_the_chord_around_one_that_fails_ends(
        moment: str, sizes: list[int], backend: dv.DynamoDBBackend, small_tree: None) -> None:
    """Walks through every crash point; the part is then redelivered."""
    for point in crash_points():
        drives = [Drive(backend.app, size) for size in sizes]  # each in the header of that before
        drives[0].apply()
        for outer, inner in zip(drives, drives[1:]):
            outer.ids[0] = inner.body_id
            inner.body.options.update(
                chord=outer.request(0).chord, group_id=outer.group_id, group_index=0)
            inner.apply()
            outer.returns(1)
        error = ValueError('no')

        def die(operation: str, point: CrashPoint = point) -> None:
            if point.reached():
                raise Died

        with Hook(backend, **{moment: die}):
            try:
                drives[-1].fails(0, error)
            except Died:
                time.sleep(0.1)
                drives[-1].fails(0, error)
        for drive in drives:
            assert backend.get_state(drive.body_id) == states.FAILURE, point.number
            progress = backend.chord_progress(drive.group_id)
            assert progress is not None and progress.closed, point.number
            assert (progress.counted, progress.failed) == (len(drive.ids), 1), point.number
            assert not drive.published, point.number
    assert point.number > 6 * len(sizes)


@pytest.mark.parametrize('fault', [ResetAfter(), ResetBefore(), Throttle()], ids=repr)
@pytest.mark.parametrize('lazy', [False, LAZY])
def test_whichever_response_is_lost_the_body_is_published_once(
        fault: Any, lazy: bool, backend: dv.DynamoDBBackend, proxy: Proxy,
        small_tree: None) -> None:
    for point in crash_points():
        drive = Drive(backend.app, 5, lazy)
        proxy.reset()
        proxy.faults = lambda operation, body, point=point: fault if point.reached() else None
        drive.apply()
        for index in range(5):
            if lazy and index == 4:
                drive.size()
            drive.returns(index)
        proxy.faults = None
        assert drive.published == [drive.expected], point.number
    assert point.number > 20


def test_counting_and_joining_are_retried_as_storing_is(make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app(
        'retry_timeout=0', result_backend_always_retry=True,
        result_backend_base_sleep_between_retries_ms=1)
    ready(app, proxy)
    for point in crash_points():
        drive = Drive(app, 2)
        drive.apply()
        proxy.reset()
        proxy.faults = lambda operation, body, point=point: (
            ServerError() if point.reached(2) else None)
        drive.returns(0)
        drive.returns(1)
        proxy.faults = None
        assert drive.published == [[0, 1]], point.number
    assert point.number >= 8


@pytest.mark.parametrize('lost', range(1, 4))
@pytest.mark.parametrize('again', [False, True])
def test_an_opening_that_lands_late_erases_nothing(
        lost: int, again: bool, backend: dv.DynamoDBBackend) -> None:
    """Each request that opens a chord may be given up, repeated, and executed later."""
    drive = Drive(backend.app, 45)
    if again:
        drive.apply()  # the newest run counts
    events, late, sent = backend.store.table.client.botocore.meta.events, [], []

    def lose(request: Any, **_: Any) -> None:
        sent.append(request)
        if len(sent) == lost:
            late.append(request)
            raise botocore.exceptions.ConnectionClosedError(endpoint_url='lost')

    events.register('before-send.dynamodb', lose)
    drive.apply()
    events.unregister('before-send.dynamodb', lose)
    if not late:
        pytest.skip('it takes fewer requests')
    for index in range(44):
        drive.returns(index)
    for request in late:
        asked = urllib.request.Request(
            request.url, request.body, dict(request.headers), method='POST')
        with contextlib.suppress(urllib.error.HTTPError):  # it may be refused
            urllib.request.urlopen(asked).close()
    progress = backend.chord_progress(drive.group_id)
    assert progress is not None and (progress.counted, progress.closed) == (44, False)
    drive.returns(44)
    assert drive.published == [drive.expected]


class Schedule:
    """Runs deliveries in threads, and lets one request at a time through, in the drawn order."""

    def __init__(self, backend: dv.DynamoDBBackend, choose: Callable[[int], int]) -> None:
        self.backend, self.choose = backend, choose
        self.condition = threading.Condition()
        self.waiting: dict[threading.Thread, str | None] = {}
        self.threads: list[threading.Thread] = []

    def start(self, target: Callable[[], None]) -> None:
        def run() -> None:
            try:
                target()
            except Died:
                self.died.append(target)
            finally:
                with self.condition:
                    self.waiting.pop(threading.current_thread(), None)

        self.died: list[Callable[[], None]] = getattr(self, 'died', [])
        thread = threading.Thread(target=run)
        self.threads.append(thread)
        thread.start()

    def gate(self, operation: str) -> None:
        thread = threading.current_thread()
        if thread not in self.threads:
            return
        with self.condition:
            self.waiting[thread] = None
            self.condition.wait_for(lambda: self.waiting[thread] is not None)
            verdict = self.waiting.pop(thread)
        if verdict == 'die':
            raise Died
        if verdict == 'lose':
            raise botocore.exceptions.ConnectionClosedError(endpoint_url='lost')

    def step(self, verdict: str) -> None:
        """Lets one request, or one response, pass, be lost, or kill its delivery."""
        with self.condition:
            ready = [thread for thread, state in self.waiting.items() if state is None]
            ready.sort(key=self.threads.index)
            if ready:
                self.waiting[ready[self.choose(len(ready))]] = verdict
                self.condition.notify_all()
        time.sleep(0.0005)

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)


@slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_interleaving_publishes_the_body_once(
        data: st.DataObject, backend: dv.DynamoDBBackend, small_tree: None) -> None:
    """Parts, duplicates, lost responses and deaths in any order: each part counts once."""
    app = backend.app
    dv.Lease.DURATION = 0.4  # small_tree puts it back
    parts = data.draw(st.integers(1, 7), 'parts')
    duplicates = data.draw(st.lists(st.integers(0, parts - 1), max_size=3), 'duplicates')
    deliveries = data.draw(st.permutations([*range(parts), *duplicates]))
    outcomes = st.sampled_from(['pass'] * 12 + ['lose', 'lose', 'die'])
    verdicts = data.draw(st.lists(outcomes, max_size=60), 'verdicts')
    seed = data.draw(st.integers(0, 2**32), 'seed')
    drive = Drive(app, parts)
    drive.apply()
    schedule = Schedule(backend, random.Random(seed).randrange)
    unhooked = dv.BlobStore(dv.Table(backend.options))  # its client is its own
    unhooked.get('connect')
    sent: list[Any] = []

    def published(operation: str) -> None:
        if operation == 'publish':
            sent.append(drive.published[-1])
            started = b'{"status": "STARTED", "result": null}'
            unhooked.put(f'celery-task-meta-{drive.body_id}', started, states.STARTED)
        else:
            schedule.gate(operation)

    def gate(operation: str) -> None:
        if operation != 'publish':
            schedule.gate(operation)

    with Hook(backend, gate, published):
        for index in deliveries:
            schedule.start(lambda index=index: drive.returns(index))  # type: ignore[misc]
        verdict = iter(verdicts)
        give_up = time.monotonic() + 60
        while schedule.alive or schedule.died:
            for target in schedule.died[:]:
                schedule.died.remove(target)
                schedule.start(target)
            schedule.step(next(verdict, 'pass'))
            assert time.monotonic() < give_up
    assert sent == [drive.expected]


class ForgetsThatItBegan(chord_model.Schedule):
    def update_lease(self, run: Any, owner: Any, allowed: Any, **more: Any) -> Any:
        return super().update_lease(run, owner, allowed)  # without ``published_before``


class OpensByPuts(chord_model.Schedule):
    def insert(self, id: str, item: Any) -> None:
        self.put(id, item)


class PublishesAfterAStall(chord_model.Schedule):
    def is_ours(self, *_: Any) -> Any:
        yield
        return True


class LeavesItsWaitToAThread(chord_model.Schedule):
    def acquire(self, delivery: Any) -> Any:
        """Its process ends before the thread has acquired the lease."""
        state = self.db.get(delivery.message.run.id, {})
        if 'owner' in state and self.rnd.random() < .3:
            return None
        return (yield from super().acquire(delivery))


class PublishesPastItsLease(chord_model.Schedule):
    def renew(self, run: Any, owner: Any, **more: Any) -> bool:
        item = self.update_lease(run, owner, lambda item: True, **more)
        return not item.get('closed') and item['owner'] == owner


class TakesAnEarlierValue(chord_model.Schedule):
    def store(self, id: str, item: Any) -> bool:
        super().store(id, item)
        return True


class TakesWhatALaggingReadFinds(chord_model.Schedule):
    def of_this_run(self, run: Any, where: Any, items: Any) -> Any:
        return items


class LeavesOtherLeaves(chord_model.Schedule):
    def gather(self, run: Any, size: int) -> Any:
        return (yield from self.move(run, [], size))


class IsDoneOnceItIsStored(chord_model.Schedule):
    def is_done(self, task: str) -> bool:
        return True


def test_the_protocol_is_right_over_random_schedules() -> None:
    # and those of seeds that showed a fault: a gathering that nobody finished
    bad = [(seed, outcome) for seed, outcome in chord_model.outcomes([*range(800), 127922, 139050])
           if not outcome.startswith('good')]
    assert bad == []


@pytest.mark.parametrize('broken', [
    ForgetsThatItBegan, PublishesPastItsLease, TakesAnEarlierValue, TakesWhatALaggingReadFinds,
    LeavesOtherLeaves, IsDoneOnceItIsStored, OpensByPuts, PublishesAfterAStall,
    LeavesItsWaitToAThread])
def test_the_model_finds_a_broken_protocol(broken: type[chord_model.Schedule]) -> None:
    outcomes = chord_model.outcomes(range(2000), broken)
    assert any(outcome.startswith('BAD') for _, outcome in outcomes)


def simulated(workers: int, *chords: Mapping[str, float]) -> list[dict[str, Any]]:
    """What tools/aws_simulation.py says of chords, all of whose parts it plays."""
    program = """if True:
        import json, sys
        import aws_simulation as simulation

        workers, chords = json.load(sys.stdin)
        for chord in chords:
            asked = simulation.Asked(**chord)
            print(json.dumps(simulation.row_of(asked, simulation.play(asked, workers), rate=1)))
    """  # in a process whose module has virtual time
    done = subprocess.run(
        [sys.executable, '-c', program], input=json.dumps([workers, chords]), cwd=ROOT / 'tools',
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_simulation_consumes_what_the_module_consumes(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy,
        needs: Callable[[str], None]) -> None:
    needs('PartiQL INSERT')
    drive = Drive(app, 210)  # six leaves and a root
    drive.apply()
    for index in range(210):
        drive.returns(index, 4711)
    assert drive.published  # by the last one, which has closed it
    found, = simulated(1, {'parts': 210, 'threads': 1, 'seconds': 0})
    assert found['throttled'] == found['given_up'] == 0
    assert cost(proxy) == (found['requests'], found['read_units'], found['write_units'])


def test_the_simulation_of_threads_keeps_within_the_budget() -> None:
    found, = simulated(1, {'parts': 1000, 'seconds': 0, 'median': 10, 'p99': 11})
    assert found['requests'] <= 815
    assert found['write_units'] <= 1520
    assert found['read_units'] <= 615
    assert found['most_item_writes']['running'] <= 40  # of a leaf, or of the root


def test_the_simulated_partition_throttles_what_exceeds_its_rate() -> None:
    chord: dict[str, float] = {'parts': 1200, 'seconds': 0, 'warm': 1}
    found, again, other = simulated(30, chord, chord, {**chord, 'seed': 2})
    assert found['throttled'] > 100 and found['given_up'] == 0
    # what was left of the second before comes on top
    assert 1000 <= found['most_partition_writes'] <= 2000
    assert found['write_units'] <= 1000 * (found['seconds'] + found['seconds_reading'] + 1)
    assert again == found != other
    unlimited, = simulated(30, {**chord, 'infinite': True})
    assert unlimited['throttled'] == 0
    assert unlimited['seconds_running'] < found['seconds_running'] / 2


@pytest.mark.parametrize(('arguments', 'error'), [
    ('--workers 0', "argument --workers: '0' is not an integer from 1 to 10,000"),
    ('--parts 1', "argument --parts: '1' is not an integer from 10 to 20,000,000"),
    ('--seconds -1', "argument --seconds: '-1' is not a number from 0 to 86,400"),
    ('--seconds nan', "argument --seconds: 'nan' is not a number from 0 to 86,400"),
    ('--burst 301', "argument --burst: '301' is not a number from 0 to 300"),
    ('--median 5 --p99 4', 'argument --p99: 4 is less than --median 5'),
    ('--sample 9', 'argument --sample: 9 is not 0, or at least 10')])
def test_an_argument_that_cannot_be_simulated_is_named(arguments: str, error: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'aws_simulation.py'), *arguments.split()],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and error in done.stderr


# --------------------------------------------------------------------------------------------------
# Chord: claim check
# --------------------------------------------------------------------------------------------------

def test_the_values_of_a_large_chord_are_not_in_the_message(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    app = make_app('chord_inline_limit=1000')
    backend = ready(app, proxy)
    drive = Drive(app, 45)
    drive.apply()
    for index in range(45):
        drive.returns(index, 'x' * 100 + str(index), stored=index != 7)
    (claim_check,), = drive.published
    assert type(claim_check) is dv.ClaimCheck and '45 parts' in repr(claim_check)
    for serializer in ('json', 'pickle'):
        kind, encoding, body = kombu.serialization.dumps(([[claim_check]], {}), serializer)
        assert len(body) < 300
        proxy.reset()
        accept = kombu.serialization.prepare_accept_content([serializer])
        (values,), _ = kombu.serialization.loads(body, kind, encoding, accept=accept)
        assert values == [claim_check] and proxy.requests == []
        request = celery.app.task.Context({'id': drive.body_id, 'args': [values]})
        with drive.in_task(request):
            celery.signals.task_prerun.send(
                sender=drive.task, task=drive.task, args=(values,), kwargs={})
        assert type(values) is list
        assert values == ['x' * 100 + str(index) for index in range(45)]
        assert request.args == [[claim_check]]  # what a retry sends
    client.delete_item(TableName=table_name, Key={'id': {
        'S': f'{drive.run.copy_id(dv.Part(7, False, drive.ids[7]))}'}})
    with pytest.raises(ChordError, match='raise result_chord_expires'):
        backend.redeem(claim_check)


def test_the_joining_worker_holds_no_values(make_app: MakeApp, proxy: Proxy) -> None:
    peaks = []
    for limit, size in ((100_000, 1), (100_000, 1), (100_000, 50), (0, 1)):
        drive = Drive(make_app(f'chord_inline_limit={limit}'), 1000)
        ready(drive.app, proxy)
        drive.apply()
        drive.all_but_the_last_returned(lambda index: 'x' * size * KB)  # noqa: B023
        tracemalloc.start()
        drive.returns(999)
        peaks.append(tracemalloc.get_traced_memory()[1] / KB)
        tracemalloc.stop()
        assert len(drive.published[0]) == (1 if limit else 1000)
    # the first time, what is loaded once is counted, too
    _, small, large, inline = peaks
    assert large - small < 1000, peaks  # of 49,000 KB that are stored
    assert inline - small > 1000, peaks


def test_the_joining_worker_holds_no_list_of_the_parts(
        backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, 'OVERLAPPED', 1)  # of five pages, one at a time is held
    parts = [dv.Part(index, False, str(uuid.uuid4())) for index in range(20_000)]
    chords, run = dv.ChordStore(backend.store.table), dv.Run('chord-unlock-x.1', size=len(parts))
    members: dict[str, set[bytes]] = {}
    for part in parts:
        members.setdefault(run.node_id(run.leaf(part.group_index)), set()).add(dv.member_of(part))
    for position in run.positions():
        if position.level < 2:
            members.setdefault(run.node_id(position.parent), set()).add(position.member)
    root_id = run.node_id(dv.Position(2, 0))
    backend.store.table.insert_all({'id': id, 'members': each} for id, each in members.items())
    root = dv.Node(run, dv.Position(2, 0), backend.store.table.get(root_id) or {})
    assert root.is_root and root.is_full
    tracemalloc.start()
    header, _ = chords.collect(root, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.is_whole and [part for part, _ in dv.unpack(header.values)] == parts
    assert peak < 150 * len(parts)  # bytes; all leaves and parts take 700


def test_a_header_whose_ids_are_too_many_for_a_claim_check_fails_clearly(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ready(make_app('chord_inline_limit=1'), proxy)
    monkeypatch.setattr(dv, 'LARGEST_RESULT', 850)
    drive = Drive(backend.app, 45)  # of 20 bytes each
    drive.apply()
    for index in range(45):
        drive.returns(index)
    assert drive.published == []
    result = backend.app.AsyncResult(drive.body_id).result
    assert isinstance(result, ChordError) and 'the header has 45 tasks' in str(result)


@pytest.mark.parametrize('limit', [0, 10**6])
def test_values_within_the_limit_are_in_the_message(
        limit: int, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(f'chord_inline_limit={limit}'), proxy)
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0, 'x' * 300 * KB)
    drive.returns(1)
    assert drive.published == [['x' * 300 * KB, 1]]


def test_other_serializers_get_their_values_inline(make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app('chord_inline_limit=1'), proxy)
    drive = Drive(backend.app, 2, serializer='yaml')
    drive.apply()
    drive.all_return()
    assert drive.published == [[0, 1]]


@pytest.mark.parametrize(('serializer', 'expires'), [('json', 86400), ('pickle', None)])
@pytest.mark.parametrize('of', ['task', 'chain', 'group', 'chord'])
def test_any_body_gets_a_plain_list(
        of: str, serializer: str, expires: int | None, make_app: MakeApp) -> None:
    app = make_app('chord_inline_limit=1', result_extended=True, task_serializer=serializer,
                   accept_content=['json', 'pickle'], result_expires=expires)
    app.finalize()

    @app.task(shared=False, bind=True, max_retries=3)
    def body(self: Any, values: Any) -> Any:
        if of == 'task' and not self.request.retries:
            raise self.retry(countdown=0)
        return [type(values).__name__, values, repr(self.request.args)]

    @app.task(shared=False)
    def part(value: Any) -> Any:
        return value

    @app.task(shared=False)
    def last(value: Any) -> Any:
        return value

    taking = {'task': body.s(), 'chain': chain(body.s(), last.s(), app=app),
              'group': group(body.s(), body.s(), app=app),
              'chord': chord([body.s(), body.s()], last.s(), app=app)}[of]
    nested = group(part.s(), part.s(), app=app)
    with working(app):
        header = [part.s(0), chain(part.s(7), nested, app=app)]
        result = chord(header, taking, app=app).apply_async()
        value = result.get(timeout=30, disable_sync_subtasks=False)
        for kind, values, args in value if of in ('group', 'chord') else [value]:
            assert kind == 'list' and values == [0, [7, 7]], values
            assert 'parts of the chord' in args
    if of == 'task':
        stored = app.backend.get_task_meta(result.id)
        assert 'parts of the chord' in stored['args'][0]


@pytest.mark.parametrize('args', [(1, 'x'), [1, 'x'], ()])
def test_arguments_are_stored_as_they_are(args: Any, make_app: MakeApp) -> None:
    app = make_app(result_extended=True, result_serializer='pickle', accept_content=['pickle'])
    request = celery.app.task.Context({'id': 'id', 'task': 'task', 'args': args, 'kwargs': {}})
    app.backend.mark_as_done('id', 0, request)
    assert app.AsyncResult('id').args == args


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """All messages, as the broker in memory gets them."""
    sent: list[dict[str, Any]] = []
    put = kombu.transport.memory.Channel._put

    def _put(self: Any, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if 'task' in message['headers']:
            sent.append(message)
        put(self, queue, message, **kwargs)
    monkeypatch.setattr(kombu.transport.memory.Channel, '_put', _put)
    return sent


@pytest.mark.parametrize('limit', [0, 1])
@pytest.mark.parametrize('serializer', ['json', 'pickle'])
def test_the_run_option_is_in_the_messages_of_parts_only(
        serializer: str, limit: int, make_app: MakeApp, sent: list[dict[str, Any]]) -> None:
    app = make_app(f'chord_inline_limit={limit}', task_serializer=serializer,
                   accept_content=['json', 'pickle'])
    app.finalize()
    seen: list[str] = []

    @app.task(shared=False, bind=True)
    def task(self: Any, values: Any = None) -> Any:
        others = {name: value for name, value in vars(self.request).items() if name != 'chord'}
        seen.append(f'{values} {others}')
        return 1

    bodies = [
        (task.s(), 4, 2), (chain(task.s(), task.s(), app=app), 6, 2),
        (group(task.s(), task.s(), app=app), 6, 2),
        (chord([task.s(), task.s()], task.s(), app=app), 8, 6)]
    with working(app):
        for body, messages, parts in bodies:
            sent.clear()
            joined = chord([task.s(), task.s()], body, app=app)
            joined.apply_async().get(timeout=30, disable_sync_subtasks=False)
            joined.body.apply_async(args=([],)).get(timeout=30, disable_sync_subtasks=False)
            assert len(sent) == messages and sum(map(has_run_option, sent)) == parts, body
    assert len(seen) == 24 and not [text for text in seen if 'dynamodb_run' in text]


def has_run_option(message: dict[str, Any]) -> bool:
    """Whether a message has the run option of a chord that it is a part of; nothing else may."""
    text = base64.b64decode(message['body'])
    accept = kombu.serialization.prepare_accept_content(['json', 'pickle'])
    args, kwargs, embedded = kombu.serialization.loads(
        text, message['content-type'], message['content-encoding'], accept=accept)
    run_option = dv.run_option_of(celery.app.task.Context(embedded))
    assert not run_option or message['headers']['group'] in run_option['id']
    if run_option:
        embedded = {**embedded, 'chord': None}
    assert 'dynamodb_run' not in repr([{**message, 'body': None}, args, kwargs, embedded])
    return bool(run_option)


@pytest.mark.parametrize('limit', [0, 1])
def test_a_body_that_applies_its_own_chord_again(limit: int, make_app: MakeApp) -> None:
    app = make_app(f'chord_inline_limit={limit}')
    app.finalize()
    got: list[Any] = []
    ended = threading.Event()

    @app.task(shared=False)
    def part(value: Any) -> Any:
        return [value, len(got)]

    @app.task(shared=False)
    def body(values: Any) -> None:
        got.append(values)
        if len(got) < 3:
            again.apply_async()
        else:
            ended.set()

    again = chord([part.s(0), part.s(1)], body.s(), app=app)
    again.freeze()
    with working(app):
        again.apply_async()
        assert ended.wait(30)
    assert got == [[[0, run], [1, run]] for run in range(3)]


@pytest.mark.parametrize('serializer', ['json', 'pickle'])
@pytest.mark.parametrize('of', ['task', 'chain', 'group', 'chord', 'chain to a group'])
def test_who_waits_for_a_body_sees_that_its_chord_failed(
        of: str, serializer: str, make_app: MakeApp) -> None:
    app = make_app(task_serializer=serializer, accept_content=['json', 'pickle'])
    app.finalize()

    @app.task(shared=False)
    def part(*args: Any) -> int:
        return 1

    @app.task(shared=False)
    def fail(*args: Any) -> None:
        raise ValueError('no')

    pair = group(part.s(), part.s(), app=app)
    body = {'task': part.s(), 'chain': chain(part.s(), part.s(), app=app), 'group': pair,
            'chord': chord([part.s(), part.s()], part.s(), app=app),
            'chain to a group': chain(part.s(), pair, app=app)}[of]
    with working(app):
        result = chord([part.s(), fail.s()], body, app=app).apply_async()
        leaves = list(dv.leaf_results(result))
        assert leaves
        for leaf in leaves:
            with pytest.raises((ChordError, ValueError), match='no'):
                leaf.get(timeout=30, follow_parents=False, disable_sync_subtasks=False)


def test_a_group_that_is_added_to_a_chord_is_a_clear_error(make_app: MakeApp) -> None:
    app = make_app()
    app.finalize()

    @app.task(shared=False)
    def part(value: Any) -> Any:
        return value

    @app.task(shared=False, bind=True)
    def adds(self: Any) -> Any:
        self.add_to_chord(group(part.s('b'), part.s('c'), app=app))
        return 'a'

    with working(app):
        result = chord([adds.s(), part.s('d')], part.s(), app=app).apply_async()
        with pytest.raises(ChordError, match='a group cannot be added'):
            result.get(timeout=30, disable_sync_subtasks=False)


@pytest.mark.parametrize('does', [sum, json.dumps, lambda values: 'did not look'])
def test_a_body_whose_values_are_gone_fails(
        does: Callable[[Any], Any], make_app: MakeApp) -> None:
    app = make_app('consistency_wait_time=0')
    app.finalize()

    @app.task(shared=False)
    def body(values: Any) -> Any:
        return does(values)

    with working(app):
        result = body.delay([dv.ClaimCheck('chord.none', 2, False)])
        with pytest.raises(Exception, match=r'the values of 2 parts .* raise result_chord_expires'):
            result.get(timeout=30, disable_sync_subtasks=False)


FOLLOWERS: dict[str, Callable[[Any, Any], Any]] = {
    'a callback': lambda body, follower: body.set(link=[follower]),
    'callbacks': lambda body, follower: body.set(link=[follower, follower.clone()]),
    'a group': lambda body, follower: body.set(link=[follower, group([follower.clone()])]),
    'a chain': lambda body, follower: chain(body, follower, follower.clone()),
}


@pytest.mark.parametrize('follow', FOLLOWERS.values(), ids=list(FOLLOWERS))
def test_nothing_follows_a_body_that_did_not_look_at_its_missing_values(
        follow: Callable[[Any, Any], Any], make_app: MakeApp) -> None:
    app = make_app('consistency_wait_time=0')
    app.finalize()
    got: Counter[str] = Counter()

    @app.task(shared=False)
    def body(values: Any) -> None:
        got['body'] += 1

    @app.task(shared=False)
    def follower(*args: Any) -> None:
        got['follower'] += 1

    @app.task(shared=False)
    def on_error(request: Any, exc: Any, traceback: Any) -> None:
        got[str(exc)[:31]] += 1

    canvas = follow(body.s([dv.ClaimCheck('chord.none', 2, False)]), follower.s())
    with working(app):
        result = chord([canvas, follower.s()], follower.s().on_error(on_error.s()), app=app)()
        with pytest.raises(ChordError, match='the values of 2 parts'):
            result.get(timeout=30, follow_parents=False, disable_sync_subtasks=False)
        app.send_task(follower.name).get(timeout=30, disable_sync_subtasks=False)
    assert got.pop('follower') == 2, got  # that of the header, and that after all that was sent
    assert got.pop('body') == 1 and list(got.values()) == [1], got


@pytest.mark.parametrize('serializer', ['json', 'pickle'])
@pytest.mark.parametrize('follow', FOLLOWERS.values(), ids=list(FOLLOWERS))
def test_a_body_that_is_retried_for_its_missing_values_keeps_what_follows_it(
        follow: Callable[[Any, Any], Any], serializer: str, make_app: MakeApp) -> None:
    app = make_app('consistency_wait_time=0')
    app.conf.update(accept_content=['json', 'pickle'])
    app.finalize()
    got: queue.Queue[Any] = queue.Queue()

    @app.task(shared=False, bind=True, serializer=serializer)
    def body(self: Any, values: Any) -> Any:
        if self.request.retries:
            return list(values)
        part, store = dv.Part(0, False, 'part'), app.backend.store
        store.put('chord.none.parts', dv.pack([(part, 'copied')]), None, 60)
        store.put(dv.Run('chord.none').copy_id(part), json.dumps({
            'status': states.SUCCESS, 'result': 7}).encode(), states.SUCCESS, 60)
        raise self.retry(countdown=0)

    @app.task(shared=False, serializer=serializer)
    def follower(value: Any) -> Any:
        got.put(value)
        return value

    canvas = follow(body.s([dv.ClaimCheck('chord.none', 2, False)]), follower.s())
    with working(app):
        canvas.apply_async()
        for _ in canvas.options.get('link') or 'ab':
            assert got.get(timeout=30) == [7]


def test_a_body_in_a_process_with_another_backend_is_a_clear_error() -> None:
    app = Celery('other', broker='memory://', backend='cache+memory://', set_as_current=False)
    task = app.tasks['celery.accumulate']
    values: list[Any] = [dv.ClaimCheck('chord.run', 2, False)]
    task.push_request(args=[values])
    celery.signals.task_prerun.send(sender=task, task=task, args=[values], kwargs={})
    with pytest.raises(ChordError, match='because the result backend is CacheBackend'):
        sum(values)


def test_values_are_in_the_message_if_its_serializer_loses_claim_checks(
        make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('chord_inline_limit=1')
    ready(app, proxy)

    def as_dicts(value: Any) -> str:  # as orjson does, which some register as "json"
        return json.dumps(value, default=dataclasses.asdict)

    dv._carries_claim_checks.cache_clear()
    kombu.serialization.register('json', as_dicts, json.loads, 'application/json', 'utf-8')
    try:
        drive = Drive(app, 2)
        drive.apply()
        drive.all_return()
        assert drive.published == [[0, 1]]
    finally:
        kombu.serialization.register_json()
        dv._carries_claim_checks.cache_clear()
    drive = Drive(app, 2)
    drive.apply()
    drive.all_return()
    assert [type(value) for value in drive.published[0]] == [dv.ClaimCheck]


def test_two_copies_of_the_module_in_one_process_know_the_same_claim_checks(tmp_path: Path) -> None:
    (tmp_path / 'vendored.py').write_text(Path(dv.__file__).read_text())
    (tmp_path / 'program.py').write_text(textwrap.dedent('''
        import celery, dyna_veggie, vendored

        app = celery.Celery('other', broker='memory://', backend='vendored.DynamoDBBackend+'
                            'dynamodb://local:1/celery?retry_timeout=0')
        task = app.tasks['celery.accumulate']
        for copy in (dyna_veggie, vendored):
            values = [copy.ClaimCheck('chord.run', 2, False)]
            task.push_request(args=[values])
            celery.signals.task_prerun.send(sender=task, task=task, args=[values], kwargs={})
            assert type(values[0]).__name__ == '_Missing', values
        '''))
    subprocess.run([sys.executable, tmp_path / 'program.py'], check=True, timeout=60, env={
        **os.environ, 'PYTHONPATH': str(Path(dv.__file__).parent)})


def test_what_a_body_by_claim_check_costs(make_app: MakeApp, proxy: Proxy) -> None:
    parts, usages = 4000, []
    for limit in (0, 1):
        backend = ready(make_app(f'chord_inline_limit={limit}'), proxy)
        drive = Drive(backend.app, parts)
        drive.apply()
        drive.all_but_the_last_returned()
        proxy.reset()
        drive.returns(parts - 1)
        argument, = drive.published
        if limit:
            argument = backend.redeem(argument[0])
        assert argument == drive.expected
        usages.append(proxy.usage())
    inline, by_claim_check = usages
    assert by_claim_check.requests <= inline.requests + 10, usages
    assert by_claim_check.write_units <= inline.write_units + parts / 50 + 5, usages
    assert by_claim_check.read_units <= 0.6 * parts + 15, usages


def test_what_a_body_by_claim_check_reads_expires_even_if_nothing_does(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('ttl_seconds=0&chord_inline_limit=1'), proxy)
    drive = Drive(backend.app, 2)
    inner = backend.app.GroupResult('inner', [backend.app.AsyncResult(drive.ids[1])])
    results = [backend.app.AsyncResult(drive.ids[0]), inner]
    backend.apply_chord((drive.group_id, results), drive.body)
    drive.all_return()
    assert backend.redeem(drive.published[0][0]) == [0, [1]]
    left = {item['id']: item for item in all_items(client, table_name)}
    for id in (drive.run.header_id, drive.run.parts_id):
        assert left[id]['ttl'] > time.time() + 13 * 86400


def fails_instead(drive: Drive) -> None:
    drive.fails(1, ValueError())


def returns_late(drive: Drive) -> None:
    drive.returns(1)
    drive.returns(0, stored=False)


@pytest.mark.parametrize('limit', [0, 1])
@pytest.mark.parametrize('end', [lambda drive: drive.returns(1), fails_instead, returns_late])
@pytest.mark.parametrize('groups', [False, True])
def test_nothing_that_is_kept_for_a_run_stays_if_results_never_expire(
        groups: bool, end: Callable[[Drive], None], limit: int, make_app: MakeApp, proxy: Proxy,
        client: Any, table_name: str) -> None:
    backend = ready(make_app(f'ttl_seconds=0&chord_inline_limit={limit}'), proxy)
    drive = Drive(backend.app, 2)
    results: list[Any] = [backend.app.AsyncResult(id) for id in drive.ids]
    if groups:
        results = [results[0], backend.app.GroupResult('inner', results[1:])]
    backend.apply_chord((drive.group_id, results), drive.body)
    drive.returns(0, stored=False)
    end(drive)
    stay = [item['id'] for item in all_items(client, table_name)
            if drive.group_id in item['id'] and 'ttl' not in item]
    assert stay == []


def test_what_is_copied_for_a_body_by_claim_check_expires_with_its_chord(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('chord_inline_limit=1'), proxy)
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0, stored=False)
    drive.returns(1)
    assert type(drive.published[0][0]) is dv.ClaimCheck and drive.run.deadline is not None
    left = {item['id']: item for item in all_items(client, table_name)}
    for id in (drive.run.copy_id(dv.Part(0, False, drive.ids[0])), drive.run.parts_id):
        assert 0 <= left[id]['ttl'] - drive.run.deadline < 60


# --------------------------------------------------------------------------------------------------
# Chord: canvases
# --------------------------------------------------------------------------------------------------

def frozen_twice(t: Tasks) -> Any:
    signature = t.identity.s(7)
    signature.freeze()
    return chord([signature, signature, t.identity.s(8)], t.total.s())


SHAPES: dict[str, tuple[Callable[[Tasks], Any], Any]] = {
    'flat': (lambda t: chord([t.identity.s(1), t.identity.s(2)], t.total.s()), ['total', [1, 2]]),
    'header of one': (lambda t: chord([t.identity.s(1)], t.total.s()), ['total', [1]]),
    'empty header': (lambda t: chord([], t.total.s(), app=t.total.app), ['total', []]),
    'generator': (lambda t: chord((t.identity.s(n) for n in range(85)), t.total.s()),
                  ['total', set(range(85)) if dv.LAZY_PARTS_LACK_INDEX else list(range(85))]),
    'list of 85': (lambda t: chord([t.identity.s(n) for n in range(85)], t.total.s()),
                   ['total', list(range(85))]),
    'nested group': (
        lambda t: chord(
            [t.identity.s(0), group(t.identity.s(1), t.identity.s(2)), t.identity.s(3)],
            t.total.s()),
        ['total', {0, 1, 2, 3}]),
    'groups only': (
        lambda t: chord(
            group([group(t.identity.s(1), t.identity.s(2)), group(t.identity.s(3))]),
            t.total.s()),
        ['total', {1, 2, 3}]),
    'generator of groups': (
        lambda t: chord(
            (group(t.identity.s(n), t.identity.s(n + 10)) for n in range(45)), t.total.s()),
        ['total', {*range(45), *range(10, 55)}]),
    'chains': (
        lambda t: chord([chain(t.identity.s(1), t.identity.s()), t.identity.s(2)], t.total.s()),
        ['total', [1, 2]]),
    'chain ending in a group': (
        lambda t: chord(
            [chain(t.identity.s(1), group(t.identity.s(), t.identity.s())), t.identity.s(2)],
            t.total.s()),
        ['total', [[1, 1], 2]]),
    'many chains ending in groups': (
        lambda t: chord(
            [chain(t.identity.s(n), group(t.identity.s(), t.identity.s())) for n in range(25)],
            t.total.s()),
        ['total', [[n, n] for n in range(25)]]),
    'chord in the header': (
        lambda t: chord(
            [chord([t.identity.s(1), t.identity.s(2)], t.total.s()), t.identity.s(3)],
            t.total.s()),
        ['total', [['total', [1, 2]], 3]]),
    'chord with a group as body in the header': (
        lambda t: chord(
            [chord([t.identity.s(1)], group(t.identity.s(), t.identity.s())), t.identity.s(3)],
            t.total.s()),
        ['total', [[[1], [1]], 3]]),
    'chord as body': (
        lambda t: chord(
            [t.identity.s(1)], chord([t.identity.s(), t.identity.s()], t.total.s())),
        ['total', [[1], [1]]]),
    'chain as body': (
        lambda t: chord([t.identity.s(1)], chain(t.total.s(), t.identity.s())),
        ['total', [1]]),
    'group as body': (
        lambda t: chord([t.identity.s(1)], group(t.total.s(), t.identity.s())),
        [['total', [1]], [1]]),
    'chord in a chain': (
        lambda t: chain(
            t.identity.s(5), group(t.identity.s(), t.identity.s()), t.total.s(), t.identity.s()),
        ['total', [5, 5]]),
    'replaced task': (
        lambda t: chord([t.replaced.s(1), t.identity.s(2)], t.total.s()),
        ['total', [10, 2]]),
    'task replaced by a group': (
        lambda t: chord([t.replaced_by_group.s(1), t.identity.s(2)], t.total.s()),
        ['total', [{10, 11}, 2]]),
    'add_to_chord': (
        lambda t: chord([t.adder.s(1), t.identity.s(2)], t.total.s()),
        ['total', [1, 100, 2]]),
    'generator of anything': (
        lambda t: chord((t.identity.s(n) if n % 20 else group(t.identity.s(n), t.identity.s(-1 - n))
                         for n in range(61)), t.total.s()),
        ['total', {*range(61), -1, -21, -41, -61}]),
    'ignored results': (
        lambda t: chord([t.ignored.s(1), t.identity.s(2)], t.total.s()),
        ['total', [1, 2]]),
    'same signature twice': (frozen_twice, ['total', [7, 7, 8]]),
}


def same(value: Any, expected: Any) -> bool:
    """Equal; a set stands for a list in any order, as each version of Celery has its own."""
    if isinstance(expected, set):
        return set(value) == expected
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    return value == expected


def test_every_shape_of_canvas_that_works_on_redis(tasks: Tasks) -> None:
    for name, (build, expected) in SHAPES.items():
        print(name)  # the one that hangs, if one does
        value = build(tasks).apply_async().get(timeout=30, disable_sync_subtasks=False)
        assert same(value, expected), (name, value)


def test_errors_of_chords_reach_results_and_errbacks(tasks: Tasks) -> None:
    t = tasks
    total = t.total.s().on_error(t.on_error.s())
    result = chord([t.identity.s(1), t.fail.s(2)], total).apply_async()
    with pytest.raises((ChordError, ValueError)):
        result.get(timeout=30, disable_sync_subtasks=False)
    error, = t.reported(1)
    assert error.startswith('ChordError: Dependency') and error.endswith('ValueError(2)')

    t.errors.clear()
    failing = chain(t.identity.s(1), group(t.fail.s(), t.identity.s()))
    nested = chord([t.identity.s(1), failing], t.total.s().on_error(t.on_error.s()))
    with pytest.raises((ChordError, ValueError)):
        nested.apply_async().get(timeout=30, disable_sync_subtasks=False)
    assert t.reported(1) == ['ChordError: Join error: ValueError(1)']

    t.errors.clear()
    t.fail.app.conf.task_allow_error_cb_on_chord_header = True
    linked = chord([t.fail.s(3), t.identity.s(1)], t.total.s())
    linked.link_error(t.on_error.s())
    with pytest.raises((ChordError, ValueError)):
        linked.apply_async().get(timeout=30, disable_sync_subtasks=False)
    errors = sorted(error.partition(':')[0] for error in t.reported(2))
    assert errors == ['ChordError', 'ValueError']


#: what is in the header of a chord and fails; ``f`` fails, ``w`` does not
FAILING: dict[str, Callable[[Any, Any], Any]] = {
    'a chord': lambda f, w: chord([f], w),
    'its body is a chain': lambda f, w: chord([f], chain(w, w)),
    'its body is a group': lambda f, w: chord([f], group(w, w)),
    'its body is a chord': lambda f, w: chord([f], chord([w, w], w)),
    'its body is a chain to a group': lambda f, w: chord([f], chain(w, group(w, w))),
    'a task after it': lambda f, w: chain(chord([f], w), w),
    'a group after it': lambda f, w: chain(chord([f], w), group(w, w)),
    'in a chain': lambda f, w: chain(w, chord([f], w), w),
    'a task after its group': lambda f, w: chain(chord([f], group(w, w)), w),
    'three levels': lambda f, w: chord([chord([f], w), w], w),
    'three levels with groups': lambda f, w: chord([chord([f], group(w, w)), w], group(w, w)),
    'in a group': lambda f, w: group(chord([f], w), w),
    'in a task': lambda f, w: w.type.app.tasks['replaced'].s(chord([f], w)),
    'a group after a task': lambda f, w: chain(f, group(w, w)),
    'a group, a task after a task': lambda f, w: chain(f, group(w, w), w),
    'a chord after a task': lambda f, w: chain(f, chord([w, w], w)),
    'a chord with a group after a task': lambda f, w: chain(f, chord([w, w], group(w, w))),
    'a task, a group after a task': lambda f, w: chain(f, w, group(w, w)),
    'a task after one that expired': lambda f, w: chain(w.clone().set(expires=-1), w),
    'a group after one that expired': lambda f, w: chain(w.clone().set(expires=-1), group(w, w)),
    'two chords after a task': lambda f, w: chain(f, chord([w, w], w), chord([w, w], w)),
}


@pytest.mark.parametrize(('lazy', 'others'), [
    (False, 1), (True, 1), pytest.param(False, 40, marks=slow)])
def test_a_chord_ends_whatever_fails_in_its_header(
        lazy: bool, others: int, make_app: MakeApp) -> None:
    app = make_app()
    app.finalize()
    got: Counter[str] = Counter()

    @app.task(shared=False)
    def work(*args: Any) -> int:
        return 1

    @app.task(shared=False)
    def fail(*args: Any) -> None:
        raise ValueError('no')

    @app.task(shared=False, name='replaced', bind=True)
    def replaced(self: Any, by: Any) -> None:
        raise self.replace(app.signature(by))

    @app.task(shared=False)
    def on_error(request: Any, exc: Any, traceback: Any, name: str) -> None:
        got[name] += 1

    with working(app):
        ends = {}
        for name, build in FAILING.items():
            header = [work.s()] * others + [build(fail.s(), work.s())]
            body = work.s().on_error(on_error.s(name))
            parts = (part for part in header) if lazy else header
            ends[name] = chord(parts, body, app=app).apply_async()
        for name, result in ends.items():
            print(name)  # the one that hangs, if one does
            with pytest.raises(ChordError, match=r'\bno\b|expired'):
                result.get(timeout=120, follow_parents=False, disable_sync_subtasks=False)
    assert got == dict.fromkeys(FAILING, 1)


@pytest.mark.parametrize('own', [0, 1])
def test_an_errback_that_is_linked_to_chords_in_each_other_is_called_once(
        own: int, make_app: MakeApp) -> None:
    app = make_app()
    app.finalize()
    got: Counter[str] = Counter()

    @app.task(shared=False)
    def fail(*args: Any) -> None:
        raise ValueError('no')

    @app.task(shared=False)
    def work(*args: Any) -> None:
        pass

    @app.task(shared=False)
    def on_error(name: str) -> None:
        got[name] += 1

    with working(app):
        inner = chord([work.si(), fail.si()], work.si(), app=app)
        if own:
            inner.body.link_error(on_error.si('inner'))
        outer = chord(group([work.si(), inner], app=app), work.si(), app=app)
        outer.link_error(on_error.si('outer'))  # which the inner one gets, too
        result = outer.apply_async()
        with pytest.raises(ChordError, match='no'):
            result.get(timeout=30, follow_parents=False, disable_sync_subtasks=False)
        work.delay().get(timeout=30, disable_sync_subtasks=False)  # after all that was sent
    assert got == ({'outer': 1, 'inner': 1} if own else {'outer': 1})


def test_a_frozen_chord_ends_if_a_task_had_failed_in_its_earlier_run(make_app: MakeApp) -> None:
    app = make_app()
    app.finalize()
    runs: list[str] = []
    got: list[str] = []

    @app.task(shared=False)
    def first() -> None:
        runs.append('first')
        if len(runs) > 1:
            raise ValueError('first of the second run')

    @app.task(shared=False)
    def fail(*args: Any) -> None:
        raise ValueError('last of the first run')

    @app.task(shared=False)
    def on_error(request: Any, exc: Any, traceback: Any) -> None:
        got.append(str(exc))

    signature = chord([chain(first.si(), fail.s())], fail.s().on_error(on_error.s()), app=app)
    signature.freeze()
    with working(app):
        for run, error in enumerate(['last of the first run', 'first of the second run'], 1):
            signature.apply_async()
            deadline = time.monotonic() + 20
            while len(got) < run and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(got) == run and error in got[-1], got


@pytest.mark.parametrize('nested', [False, True])
def test_a_part_that_met_its_soft_time_limit_fails_its_chord(nested: bool, tasks: Tasks) -> None:
    other = tasks.identity.s(1)
    if nested:
        other = chain(tasks.identity.si(1), group(tasks.identity.si(2), tasks.identity.si(3)))
    result = chord([tasks.limited.s(), other], tasks.total.s()).apply_async()
    with pytest.raises(ChordError, match='SoftTimeLimitExceeded'):
        result.get(timeout=30, follow_parents=False, disable_sync_subtasks=False)


def test_a_signature_that_is_twice_in_a_header_does_not_stop_its_chord(
        tasks: Tasks) -> None:
    def got(header: Callable[[Any], list[Any]]) -> Any:
        twice = tasks.identity.si('s')
        twice.freeze()
        return chord(header(twice), tasks.total.s()).apply_async().get(
            timeout=30, disable_sync_subtasks=False)[1]

    def ends_in(*parts: Any) -> Any:
        return chain(tasks.identity.si('a'), group(parts))

    t, u = tasks.identity.si('t'), tasks.identity.si('u')
    assert got(lambda s: [s, s, t]) == ['s', 's', 't']
    assert got(lambda s: [t, s, ends_in(s, t)]) == ['t', 's', ['s', 't']]
    assert got(lambda s: [s, ends_in(s, t)]) == ['s', ['s', 't']]
    assert got(lambda s: [ends_in(s, t), ends_in(s, u)]) == [['s', 't'], ['s', 'u']]


@pytest.mark.filterwarnings('ignore:Exception raised outside body')
@pytest.mark.parametrize('errback', ['cannot be sent', 'fails'])
@pytest.mark.parametrize('size', [1, 2])
def test_what_follows_a_failed_part_is_counted_if_an_errback_fails(
        size: int, errback: str, tasks: Tasks) -> None:
    failing = tasks.fail.s('why')
    failing.link_error(tasks.identity.s().set(serializer='none such')
                       if errback == 'cannot be sent' else tasks.failing_errback.s())
    tail = group([tasks.identity.si(1), tasks.identity.si(2)]) if size > 1 else tasks.identity.si(1)
    result = chord([chain(failing, tail), tasks.identity.s(3)], tasks.total.s()).apply_async()
    with pytest.raises(ChordError):
        result.get(timeout=30, follow_parents=False, disable_sync_subtasks=False)


def test_the_first_that_failed_in_a_header_with_groups_is_what_its_chord_tells(
        tasks: Tasks) -> None:
    for _ in range(3):  # ids are random
        header = [chain(tasks.identity.si(0), group(tasks.identity.si(1), tasks.fail.si('first'))),
                  tasks.fail.si('second'), tasks.fail.si('third')]
        result = chord(header, tasks.total.s()).apply_async()
        with pytest.raises(ChordError, match='first'):
            result.get(timeout=30, follow_parents=False, disable_sync_subtasks=False)


def test_a_header_in_which_nothing_can_run_is_an_error(tasks: Tasks) -> None:
    with pytest.raises(ChordError, match='its chains and groups are empty'):
        chord([chain(group([]))], tasks.total.s()).apply_async()
    assert chord([], tasks.total.s()).apply_async().get(
        timeout=30, disable_sync_subtasks=False) == ['total', []]


def test_a_result_that_is_too_large_fails_its_task(make_app: MakeApp) -> None:
    app = make_app('max_result_size=3000')
    app.finalize()
    identity = Tasks(app).identity
    with working(app), pytest.raises(dv.ResultTooLarge, match='max_result_size is 3,000'):
        identity.delay('x' * 4000).get(timeout=30, disable_sync_subtasks=False)


# --------------------------------------------------------------------------------------------------
# Polling
# --------------------------------------------------------------------------------------------------

def test_pauses_between_polls_grow_to_the_interval() -> None:
    pauses = [dv.poll_pause(polls, 0.5, 0.5) for polls in range(20)]
    assert pauses == sorted(pauses) and 0.02 <= pauses[0] < 0.03 and pauses[-1] == 0.5
    assert dv.poll_pause(10**9, 0.5, 0.0) == 0.5
    assert dv.poll_pause(0, 0.001, 0.9) == 0.001


class Fetches:
    """Results that become ready when the test says so; remembers what was asked for."""

    def __init__(self, ready_after: dict[str, int]) -> None:
        self.ready_after, self.windows = ready_after, []  # type: dict[str, int], list[list[str]]
        self.consistent: list[bool] = []
        self.in_flight, self.overlapped = 0, False

    def __call__(
            self, ids: list[str], *, consistent: bool, deadline: float) -> dict[str, dv.Observed]:
        self.in_flight += 1
        self.overlapped = self.overlapped or self.in_flight > 1
        self.windows.append(ids)
        self.consistent.append(consistent)
        found = {id: dv.Observed(f'value of {id}', b'', True)
                 for id in ids if self.ready_after[id] < len(self.windows)}
        self.in_flight -= 1
        return found


def wait_for(
        poller: dv.Poller, ids: list[str], **kwargs: Any) -> Iterator[tuple[str, dv.Observed]]:
    return poller.wait(ids, lambda id, seen: seen, **kwargs)


def values(seen: Iterator[tuple[str, dv.Observed]]) -> dict[str, Any]:
    return {id: observed.value for id, observed in seen}


def test_ready_results_take_one_request_per_batch() -> None:
    ids = [str(number) for number in range(1050)]
    fetches = Fetches(dict.fromkeys(ids, 0))
    found = values(wait_for(dv.Poller(fetches), ids, timeout=None, interval=0.5))
    assert found == {id: f'value of {id}' for id in ids}
    # each twice the one before, since the table overlaps the batches of one fetch
    assert [len(window) for window in fetches.windows] == [100, 200, 400, 350]


@pytest.fixture
def fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, '_FIRST_POLL', 0.0001)


def test_a_long_wait_takes_samples(fast_polls: None) -> None:
    ids = [str(number) for number in range(1000)]
    fetches = Fetches(dict.fromkeys(ids, 15))
    ticks: list[int] = []
    found = values(wait_for(
        dv.Poller(fetches), ids, timeout=None, interval=0, on_interval=lambda: ticks.append(1)))
    assert len(found) == 1000 and ticks
    assert [len(window) for window in fetches.windows[:16]] == [100] + [31] * 14 + [31]
    assert sum(-(-len(window) // 100) for window in fetches.windows) <= 15 + 12


def test_a_thousand_results_in_thirty_seconds_cost_ten_requests_and_one_per_tick(
        fast_polls: None) -> None:
    # virtual time: each fetch is a tick, and 1000 results become ready evenly over 60 of them, in a
    # random order
    for seed in range(20):
        ids = [str(number) for number in range(1000)]
        order = random.Random(seed).sample(range(1000), 1000) if seed else range(1000)
        fetches = Fetches({id: 1 + place * 60 // 1000 for id, place in zip(ids, order)})
        assert len(values(wait_for(dv.Poller(fetches), ids, timeout=None, interval=0))) == 1000
        requests = [-(-len(window) // 100) for window in fetches.windows]
        pairs = zip(fetches.windows, fetches.windows[1:])
        whole = sum(len(window) >= 100 and nxt is not None for window, nxt in pairs)
        assert sum(requests) <= 10 + len(fetches.windows), (seed, requests, whole)
        assert len(fetches.windows) <= 60 + 10 and sum(map(len, fetches.windows)) <= 4000


@given(st.integers(0, 1600), st.integers(0, 1600), st.integers(0, 20_000))
def test_windows_stay_within_their_bounds(asked: int, found: int, pending: int) -> None:
    size = dv.window_size(max(asked, found), found, pending)
    assert 10 <= size <= 800


def test_time_outs_fetch_everything_once_more_and_then_raise() -> None:
    ids = [str(number) for number in range(250)]
    fetches = Fetches({**dict.fromkeys(ids, 10**9), '249': 0})
    waiting = wait_for(dv.Poller(fetches), ids, timeout=0, interval=0.5)
    assert next(waiting)[0] == '249'
    with pytest.raises(TimeoutError, match='timed out after 0 s; results not ready: 249'):
        next(waiting)
    assert [len(window) for window in fetches.windows] == [250] and fetches.consistent == [True]
    fetches = Fetches({'a': 10**9})
    with pytest.raises(TimeoutError):
        list(wait_for(dv.Poller(fetches), ['a'], timeout=0.2, interval=10))
    assert len(fetches.windows) >= 3
    assert fetches.consistent == [True] + [False] * (len(fetches.windows) - 2) + [True]
    assert list(wait_for(dv.Poller(fetches), [], timeout=0, interval=1)) == []
    assert list(wait_for(dv.Poller(fetches), [], timeout=None, interval=1)) == []


def test_changes_are_yielded_once_each_to_waits_that_want_them() -> None:
    fetches = [0]

    def fetch(ids: list[str], *, consistent: bool, deadline: float) -> dict[str, dv.Observed]:
        fetches[0] += 1
        return {'a': dv.Observed(fetches[0] // 3, fetches[0] // 3, fetches[0] == 9)}
    waiting = wait_for(dv.Poller(fetch), ['a'], timeout=None, interval=0.001)
    assert list(values(waiting).values()) == [3]
    fetches[0] = 0
    waiting = wait_for(dv.Poller(fetch), ['a'], timeout=None, interval=0.001, all_changes=True)
    seen = [observed.value for _, observed in waiting]
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize('interval', [0, 0.01])
def test_a_slow_on_interval_does_not_keep_a_wait_from_polling(interval: float) -> None:
    fetches = Fetches({'a': 4})
    found = values(wait_for(
        dv.Poller(fetches), ['a'], timeout=30, interval=interval,
        on_interval=lambda: time.sleep(0.03)))
    assert found == {'a': 'value of a'} and len(fetches.windows) == 5


def test_an_interval_of_zero_polls_at_most_fifty_times_a_second() -> None:
    fetches = Fetches({'a': 10**9})
    with pytest.raises(TimeoutError):
        list(wait_for(dv.Poller(fetches), ['a'], timeout=1, interval=0))
    assert 2 < len(fetches.windows) <= 52


def test_threads_share_their_polls() -> None:
    fetches = Fetches(dict.fromkeys(map(str, range(20)), 10**9))
    poller, done = dv.Poller(fetches), []  # type: dv.Poller, list[str]

    def wait(id: str) -> None:
        done.extend(values(wait_for(poller, [id], timeout=60, interval=0.1)))
    threads = [threading.Thread(target=wait, args=(id,), daemon=True) for id in fetches.ready_after]
    for thread in threads:
        thread.start()
    time.sleep(2)
    fetches.windows.clear()
    time.sleep(1)
    polls = len(fetches.windows)
    # some of them for all the twenty: at most one for each 0.08 s, and not one of each thread
    assert polls <= 20 and max(map(len, fetches.windows)) == 20
    fetches.ready_after.update(dict.fromkeys(fetches.ready_after, 0))
    for thread in threads:
        thread.join(20)
    assert sorted(done) == sorted(fetches.ready_after)
    assert not poller._waits and not fetches.overlapped


def test_all_whose_poll_fails_raise_its_error_and_the_next_wait_polls_on() -> None:
    failing, ready = threading.Event(), threading.Event()

    def fetch(ids: list[str], *, consistent: bool, deadline: float) -> dict[str, dv.Observed]:
        if failing.is_set():
            raise ConnectionError('lost')
        return {id: dv.Observed(id, b'', True) for id in ids} if ready.is_set() else {}
    poller = dv.Poller(fetch)
    outcomes: list[str] = []

    def wait(id: str) -> None:
        try:
            outcomes.extend(values(wait_for(poller, [id], timeout=60, interval=0.02)))
        except ConnectionError as exc:
            outcomes.append(str(exc))
    threads = [threading.Thread(target=wait, args=(id,)) for id in 'abc']
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    failing.set()
    for thread in threads:
        thread.join(20)
    failing.clear()
    ready.set()
    wait('d')
    assert outcomes == ['lost', 'lost', 'lost', 'd']


def test_the_traceback_of_a_poll_does_not_grow_with_who_raises_it() -> None:
    tracebacks, all_wait = list[int](), threading.Event()

    def fetch(ids: list[str], *, consistent: bool, deadline: float) -> dict[str, dv.Observed]:
        if len(poller._waits) == 50:
            all_wait.set()
        if all_wait.is_set():
            raise ConnectionError('lost')
        return {}
    poller = dv.Poller(fetch)

    def wait(id: str) -> None:
        try:
            list(wait_for(poller, [id], timeout=60, interval=0.02))
        except ConnectionError as exc:
            tracebacks.append(len(traceback.extract_tb(exc.__traceback__)))
    threads = [threading.Thread(target=wait, args=(str(number),)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(tracebacks) == 50 and max(tracebacks) < 20


def test_a_wait_is_over_in_time_however_long_a_fetch_takes(
        monkeypatch: pytest.MonkeyPatch) -> None:
    # as a request does to an endpoint that is silent, or sends a byte now and then
    monkeypatch.setattr(dv, '_LAST_POLL', 0.1)
    responds = threading.Event()

    def fetch(ids: list[str], *, consistent: bool, deadline: float) -> dict[str, dv.Observed]:
        responds.wait(20)
        return {}
    with pytest.raises(TimeoutError, match=r'timed out after 0\.1 s; results not ready: 1'):
        list(wait_for(dv.Poller(fetch), ['a'], timeout=0.1, interval=0.5))
    assert not responds.is_set()
    responds.set()


@pytest.mark.parametrize('timeout', [sys.maxsize, float(10**30), math.inf])
def test_a_time_out_can_have_any_size(timeout: float) -> None:
    poller = dv.Poller(Fetches({'a': 2}))
    assert values(wait_for(poller, ['a'], timeout=timeout, interval=0.02)) == {'a': 'value of a'}


def test_a_thread_that_waits_polls_where_none_can_be_started() -> None:
    fetches = Fetches({'a': 3, 'b': 10**9})
    poller = dv.Poller(fetches)
    with no_more_threads():
        assert values(wait_for(poller, ['a'], timeout=30, interval=0.02)) == {'a': 'value of a'}
        with pytest.raises(TimeoutError):
            list(wait_for(poller, ['b'], timeout=0.1, interval=0.02))


def test_signals_leave_the_poller_to_others() -> None:
    """Errors fall between any two lines of a thread that waits, as those of signals do."""
    class Struck(Exception):
        pass

    calls, module = 0, dv.__file__
    for line in itertools.count(1):
        fetches = Fetches({'a': 10**9, 'b': 10**9})
        poller, calls = dv.Poller(fetches), 0

        def trace(frame: Any, event: str, arg: Any, line: int = line) -> Any:
            nonlocal calls
            if frame.f_code.co_filename != module:
                return None
            calls += 1
            if calls == line:
                sys.settrace(None)
                raise Struck
            return trace

        waiting = wait_for(poller, ['a'], timeout=0.05, interval=0.02)
        sys.settrace(trace)
        try:
            list(waiting)
        except (Struck, TimeoutError):
            pass
        finally:
            sys.settrace(None)
        fetches.ready_after['b'] = 0
        assert values(wait_for(poller, ['b'], timeout=20, interval=0.02)) == {'b': 'value of b'}
        if calls < line:
            break
    assert line > 50


def test_each_poll_wakes_those_with_updates_only() -> None:
    fetches = Fetches({**dict.fromkeys(map(str, range(50)), 10**9), 'ready': 3})
    poller, woken = dv.Poller(fetches), Counter[str]()
    waits = {id: dv.Wait([id], lambda id, seen: seen, 0.02,
                         wake=functools.partial(woken.update, [id])) for id in fetches.ready_after}
    for wait in waits.values():
        poller.add(wait)
    while not woken:
        time.sleep(0.01)
    time.sleep(0.1)
    for wait in waits.values():
        poller.remove(wait)
    assert woken == {'ready': 1} and len(fetches.windows) > 3


def test_each_watcher_of_an_id_is_called_back_once_unless_it_left() -> None:
    fetches = Fetches({'a': 10**9, 'b': 10**9, 'c': 10**9})
    poller, called = dv.Poller(fetches), []  # type: dv.Poller, list[Any]
    for watcher in range(3):
        for id in 'abc':
            poller.watch(id, watcher, dv.Watch(
                lambda id, found: found, functools.partial(lambda *args: called.append(args),
                                                           watcher)))
    poller.unwatch('a', 0)
    poller.forget(['b'])
    fetches.ready_after.update(a=0, b=0)
    deadline = time.monotonic() + 20
    while len(called) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert called == [(1, 'value of a'), (2, 'value of a')]
    windows = len(fetches.windows)
    values(wait_for(poller, ['a'], timeout=30, interval=0.02))
    assert not any('b' in window for window in fetches.windows[windows:])
    for watcher in range(3):
        poller.unwatch('c', watcher)
    while poller._watches:  # until its thread has looked
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_watcher_that_comes_while_the_ids_are_refreshed_is_called_back() -> None:
    fetches = Fetches({'a': 10**9})
    poller, called = dv.Poller(fetches), []  # type: dv.Poller, list[Any]

    refreshed: list[bool] = []

    class Watcher(int):
        def __hash__(self) -> int:  # watch() is half way
            if not refreshed:
                refreshed.append(True)
                poller._refresh_background()
            return super().__hash__()
    poller.watch('a', Watcher(1), dv.Watch(lambda id, found: found, called.append))
    fetches.ready_after['a'] = 0
    deadline = time.monotonic() + 20
    while not called and time.monotonic() < deadline and poller._watches:
        time.sleep(0.01)
    assert called == ['value of a']


@pytest.mark.parametrize('error', [ValueError, SystemExit, KeyboardInterrupt, BaseException])
def test_a_callback_that_raises_ends_neither_the_poller_nor_others(
        error: type[BaseException]) -> None:
    poller, called = dv.Poller(Fetches(dict.fromkeys('abc', 0))), list[str]()

    def call(value: str) -> None:
        called.append(value)
        raise error
    for id in 'abc':
        poller.watch(id, 1, dv.Watch(lambda id, found: found, call))
    deadline = time.monotonic() + 20
    while len(called) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(called) == [f'value of {id}' for id in 'abc']
    assert values(wait_for(poller, ['a'], timeout=20, interval=0.02)) == {'a': 'value of a'}


def test_a_callback_may_wait() -> None:
    poller, got = dv.Poller(Fetches({'a': 0, 'b': 2})), dict[str, Any]()
    poller.watch('a', 1, dv.Watch(lambda id, found: found, lambda value: got.update(
        values(wait_for(poller, ['b'], timeout=20, interval=0.02)))))
    deadline = time.monotonic() + 20
    while not got and time.monotonic() < deadline:
        time.sleep(0.01)
    assert got == {'b': 'value of b'}


def test_callbacks_are_served_once_a_thread_can_be_started(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    result = app.AsyncResult('later')
    called = threading.Event()
    with no_more_threads():
        result.then(lambda result: called.set())
    backend.store_result('later', 1, states.SUCCESS)
    with pytest.raises(celery.exceptions.TimeoutError):
        app.AsyncResult('other').get(timeout=0.1)
    assert called.wait(20)


# --------------------------------------------------------------------------------------------------
# Waiting
# --------------------------------------------------------------------------------------------------

def test_waiting_for_a_result(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    result = backend.app.AsyncResult('id')
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    assert cost(proxy)[0] == 1
    timer = threading.Timer(0.2, lambda: backend.app.backend.store_result('id', 5, states.SUCCESS))
    timer.start()
    assert result.get(timeout=20) == 5
    timer.join()
    proxy.reset()
    assert result.get() == 5
    assert proxy.requests == []


def test_get_many_as_celery_calls_it(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    backend.store_result('a', 1, states.SUCCESS)
    backend.store_result('b', 2, states.STARTED)
    proxy.reset()
    assert [id for id, _ in backend.get_many({'a', 'b'}, max_iterations=1)] == ['a']
    assert [id for id, _ in backend.get_many(['b'], max_iterations=3, interval=0.001)] == []
    assert len(proxy.requests) == 4
    assert [id for id, _ in backend.get_many(['a'], max_iterations=3, interval=99)] == ['a']
    messages: list[Any] = []
    backend._cache.clear()
    got = dict(backend.get_many(['a'], on_message=messages.append))
    assert got['a']['result'] == messages[0]['result'] == 1
    assert dict(backend.get_many(['a'], timeout=0))['a']['result'] == 1  # from the cache
    with pytest.raises(TimeoutError):
        list(backend.get_many(['b'], timeout=0.05, interval=0.01))


def test_a_waiting_caller_is_ticked_once_per_interval(backend: dv.DynamoDBBackend) -> None:
    ticks: list[float] = []
    with pytest.raises(TimeoutError):
        list(backend.get_many(
            ['none'], timeout=0.5, interval=0.1,
            on_interval=lambda: ticks.append(time.monotonic())))
    assert 1 <= len(ticks) <= 5


def test_a_throttled_table_does_not_hold_up_a_time_out(make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('retry_max_delay=0.05')
    ready(app, proxy)
    proxy.faults = lambda operation, body: Throttle()
    child = app.AsyncResult('id', parent=app.AsyncResult('parent'))
    for result in (app.AsyncResult('id'), result_set(app, ['a', 'b']), child):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            result.get(timeout=0.5)
        assert time.monotonic() - began < 10  # and not retry_timeout, 120 s
        proxy.reset()
        with pytest.raises(TimeoutError):
            result.get(timeout=0)
        assert len(proxy.requests) == 1


def test_changes_of_state_reach_on_message(app: Celery, backend: dv.DynamoDBBackend) -> None:
    def run() -> None:
        for done in range(3):
            backend.store_result('id', {'done': done}, 'PROGRESS')
            time.sleep(0.3)
        backend.store_result('id', 'all', states.SUCCESS)
    thread = threading.Thread(target=run)
    messages: list[Any] = []
    thread.start()
    assert app.AsyncResult('id').get(timeout=30, interval=0.05, on_message=messages.append) == 'all'
    thread.join()
    results = [message['result'] for message in messages]
    assert results == [{'done': 0}, {'done': 1}, {'done': 2}, 'all']
    assert messages[0]['status'] == 'PROGRESS' and messages[0]['task_id'] == 'id'
    messages.clear()
    assert result_set(app, ['id']).get(timeout=30, on_message=messages.append) == ['all']
    assert [message['result'] for message in messages] == ['all']


def test_callbacks_are_called_while_any_thread_waits(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    called: list[Any] = []
    # nobody holds this one but its callback
    app.AsyncResult('one').then(lambda result: called.append(result.get()))
    pair = result_set(app, ['two', 'three'])
    pair.then(lambda results: called.append(results.get()))
    app.AsyncResult('broken').then(lambda result: 1 / 0)
    failed = app.AsyncResult('failed')
    failed.then(lambda result: called.append(result.state))
    for number, id in enumerate(('one', 'two', 'three', 'broken')):
        backend.store_result(id, number, states.SUCCESS)
    backend.store_result('failed', ValueError(), states.FAILURE)
    with pytest.raises(TimeoutError):
        app.AsyncResult('none').get(timeout=1.2)
    assert sorted(map(str, called)) == ['0', 'FAILURE', '[1, 2]']
    assert not dv.shared_poller(backend.options)._watches


def test_callbacks_are_called_while_another_thread_waits(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    called: list[Any] = []
    app.AsyncResult('one').then(lambda result: called.append(result.get()))

    def wait() -> None:  # on a backend of its own: an app has one for each thread
        assert app.backend is not backend
        with pytest.raises(TimeoutError):
            app.AsyncResult('none').get(timeout=2)
    thread = threading.Thread(target=wait)
    thread.start()
    backend.store_result('one', 1, states.SUCCESS)
    thread.join()
    assert called == [1]


def test_a_callback_is_called_once_however_many_threads_wait(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    called: list[Any] = []

    def call(result: Any) -> None:
        called.append(result.id)
        time.sleep(0.2)

    results = [app.AsyncResult(f'id-{number}') for number in range(5)]
    for result in results:
        result.then(call)
    threads = [threading.Thread(target=result.get, kwargs={'timeout': 30, 'interval': 0.05})
               for result in results]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    for result in results:
        backend.store_result(result.id, 1, states.SUCCESS)
    for thread in threads:
        thread.join()
    with contextlib.suppress(TimeoutError):
        app.AsyncResult('none').get(timeout=0.5)
    assert sorted(called) == [result.id for result in results]


def test_an_id_that_is_too_long_is_an_error_only_for_the_thread_that_asks(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    with pytest.raises(ValueError, match='DynamoDB takes 2,048'):
        app.AsyncResult('x' * 3000).then(print)
    with pytest.raises(ValueError, match='DynamoDB takes 2,048'):
        app.AsyncResult('x' * 3000).get(timeout=1)
    timer = threading.Timer(0.3, lambda: app.backend.store_result('id', 5, states.SUCCESS))
    timer.start()
    assert app.AsyncResult('id').get(timeout=20) == 5
    timer.join()


def test_only_results_that_somebody_waits_for_are_polled(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    unwanted = result_set(app, [f'unwanted-{number}' for number in range(20)])
    time.sleep(0.1)
    assert not proxy.requests
    wanted = app.AsyncResult('wanted')
    wanted.then(print)
    with pytest.raises(TimeoutError):
        app.AsyncResult('waited-for').get(timeout=1, interval=0.1)

    def keys(body: dict[str, Any]) -> list[Any]:
        if 'Key' in body:
            return [body['Key']]
        return next(iter(body['RequestItems'].values()))['Keys']

    asked = {key['id']['S'] for request in proxy.requests for key in keys(request.body)}
    assert asked == {'celery-task-meta-waited-for', 'celery-task-meta-wanted'}
    assert unwanted


@pytest.mark.parametrize('members', [1, 3, 250])
def test_the_callback_of_a_set_is_called_once_though_nobody_waits(
        members: int, app: Celery, backend: dv.DynamoDBBackend) -> None:
    ids = [f'member-{number}' for number in range(members)]
    results, called = result_set(app, ids), list[Any]()
    results.then(lambda results: called.append(results.get(timeout=0)))
    nested = app.GroupResult('outer', [results, app.AsyncResult('last')])
    nested.then(lambda results: called.append('nested'))
    for number, id in enumerate(ids):
        assert not called
        backend.store_result(id, number, states.SUCCESS)
    deadline = time.monotonic() + 20
    while not called and time.monotonic() < deadline:
        time.sleep(0.02)
    assert called == [list(range(members))]
    backend.store_result('last', 0, states.SUCCESS)
    while len(called) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    assert called == [list(range(members)), 'nested']
    results.then(lambda results: called.append('ready'))  # called by this thread
    assert called[2:] == ['ready']


# --- await ----------------------------------------------------------------------------------------

class Later:
    """Stores what a test says, from a thread, a moment after the test's coroutine awaits it."""

    def __init__(self, backend: dv.DynamoDBBackend) -> None:
        self.backend = backend

    def stored(self, values: Mapping[str, Any]) -> threading.Thread:
        def store() -> None:
            time.sleep(0.1)
            for id, value in values.items():
                failed = isinstance(value, Exception)
                self.backend.store_result(id, value, states.FAILURE if failed else states.SUCCESS)
        thread = threading.Thread(target=store)
        thread.start()
        return thread


@pytest.mark.parametrize('tick', [False, True])
def test_time_outs_hold_though_time_stands_still(
        tick: bool, app: Celery, backend: dv.DynamoDBBackend) -> None:
    with freezegun.freeze_time('2026-01-01', tick=tick), pytest.raises(TimeoutError):
        app.AsyncResult('never').get(timeout=0.2)
    with freezegun.freeze_time('2026-01-01', tick=tick):
        stored = threading.Timer(0.2, backend.store_result, ('later', 1, states.SUCCESS))
        stored.start()
        assert app.AsyncResult('later').get(timeout=30) == 1
        stored.join()


def test_a_lease_of_a_dead_owner_ends_though_time_stands_still(
        backend: dv.DynamoDBBackend, small_tree: None) -> None:
    drive = Drive(backend.app, 1)
    drive.apply()
    dies_publishing(drive, 0)
    with freezegun.freeze_time(datetime.datetime.now(datetime.timezone.utc)):
        drive.returns(0)
    assert drive.published == [[0]]


def test_the_error_of_a_failure_with_a_meta_of_its_own_shows_it(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    backend.store_result('id', {'step': 'seven'}, states.FAILURE)
    for read in (lambda: app.AsyncResult('id').get(timeout=10),
                 lambda: app.AsyncResult('id').maybe_throw()):
        with pytest.raises(celery.exceptions.BackendGetMetaError, match="'step': 'seven'"):
            read()


def test_the_state_of_an_id_that_is_too_long_raises_what_get_raises(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    result = app.AsyncResult('x' * 3000)
    for read in (lambda: result.state, lambda: result.result, lambda: result.get(timeout=1)):
        with pytest.raises(dv.InvalidId):
            read()


async def awaited(result: Any, timeout: float | None = 30) -> Any:
    return await asyncio.wait_for(result, timeout)


@pytest.mark.parametrize('later', [False, True])
def test_a_result_is_awaited(later: bool, app: Celery, backend: dv.DynamoDBBackend) -> None:
    store = Later(backend).stored({'one': 1, 'two': 2, 'failed': ValueError('no')})
    if not later:
        store.join()
    pair = app.GroupResult('pair', [app.AsyncResult('one'), app.AsyncResult('two')])
    nested = app.GroupResult('nested', [pair, app.AsyncResult('one')])
    failing = app.GroupResult('failing', [app.AsyncResult('never'), app.AsyncResult('failed')])
    assert asyncio.run(awaited(app.AsyncResult('one'))) == 1
    assert asyncio.run(awaited(pair)) == [1, 2]
    assert asyncio.run(awaited(nested)) == [[1, 2], 1]
    assert asyncio.run(awaited(app.ResultSet([]))) == []
    for result in (app.AsyncResult('failed'), failing):
        with pytest.raises(ValueError, match='no'):
            asyncio.run(awaited(result))
    with pytest.raises(dv.InvalidId):
        asyncio.run(awaited(app.AsyncResult('x' * 3000)))
    store.join()


def test_an_await_never_blocks_its_loop(app: Celery, backend: dv.DynamoDBBackend) -> None:
    backend.store_result('failed', ValueError('no'), states.FAILURE)
    # get() raises the error of a member that is a group once all of that have returned
    inner = app.GroupResult('inner', [app.AsyncResult('failed'), app.AsyncResult('slow')])
    outer = app.GroupResult('outer', [inner, app.AsyncResult('never')])
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(awaited(outer, 0.3))
    store = Later(backend).stored({'slow': 1})
    with pytest.raises(ValueError, match='no'):
        asyncio.run(awaited(outer))
    store.join()


def test_an_await_whose_result_another_forgets_never_blocks_its_loop(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    pair = result_set(app, ['first', 'second'])

    async def forgotten() -> None:
        waiting = asyncio.ensure_future(awaited(pair, 2))
        await asyncio.sleep(0.1)
        backend.store_result('first', 1, states.SUCCESS)
        while pair.results[0]._cache is None:
            await asyncio.sleep(0.01)
        pair.results[0].forget()
        backend.store_result('second', 2, states.SUCCESS)
        await asyncio.sleep(1)
        backend.store_result('first', 3, states.SUCCESS)  # the task is called once more
        assert await waiting == [3, 2]
    asyncio.run(forgotten())


def test_cancelling_ends_a_wait_for_a_member_in_another_backend(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    other = Celery('other', broker='memory://', backend='cache+memory://', set_as_current=False)
    mixed = app.GroupResult('mixed', [other.AsyncResult('never')])
    done = threading.Event()

    def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(awaited(mixed, 0.1))  # which waits for the threads of its executor
        done.set()
    threading.Thread(target=run, daemon=True).start()
    assert done.wait(20)


def test_an_awaited_chord_raises_the_error_of_a_part_before_its_own(
        backend: dv.DynamoDBBackend) -> None:
    app = backend.app
    drive = Drive(app, 3)
    drive.apply()
    parts = app.GroupResult(drive.group_id, [app.AsyncResult(id) for id in drive.ids])
    body = app.AsyncResult(drive.body_id, parent=parts)
    failing = threading.Timer(0.2, drive.fails, (1, ValueError('of a part')))
    failing.start()
    with pytest.raises(ValueError, match='of a part'):
        asyncio.run(awaited(body))
    failing.join()
    drive.returns(0)
    drive.returns(2)
    with pytest.raises(ValueError, match='of a part'):  # the chord has failed by now
        asyncio.run(awaited(app.AsyncResult(drive.body_id, parent=parts)))


def test_an_awaited_chain_raises_the_error_of_its_first_task(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    last = app.AsyncResult('last', parent=app.AsyncResult('first'))
    store = Later(backend).stored({'first': ValueError('of the first')})
    with pytest.raises(ValueError, match='of the first'):
        asyncio.run(awaited(last))
    store.join()


def test_cancelling_ends_the_wait(app: Celery, backend: dv.DynamoDBBackend) -> None:
    poller = dv.shared_poller(backend.options)
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(awaited(result_set(app, ['a', 'b']), 0.2))
    assert not poller._waits

    async def cancelled() -> None:
        task = asyncio.ensure_future(awaited(app.AsyncResult('a')))
        await asyncio.sleep(0.05)
        assert poller._waits
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    asyncio.run(cancelled())
    assert not poller._waits


def test_an_await_ends_with_its_loop(app: Celery, backend: dv.DynamoDBBackend) -> None:
    poller, loop = dv.shared_poller(backend.options), asyncio.new_event_loop()
    task = loop.create_task(awaited(app.AsyncResult('never'), None))
    loop.run_until_complete(asyncio.sleep(0.1))
    assert poller._waits
    loop.close()
    deadline = time.monotonic() + 20
    while poller._waits:  # until it is due
        assert time.monotonic() < deadline
        time.sleep(0.02)
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_awaits_share_the_polls_of_threads_and_callbacks(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    called, got = list[Any](), list[Any]()
    app.AsyncResult('then').then(lambda result: called.append(result.get()))
    threads = [threading.Thread(target=lambda: got.append(app.AsyncResult('get').get(timeout=30))),
               threading.Thread(target=lambda: got.append(
                   asyncio.run(awaited(app.AsyncResult('await')))))]  # a loop of its own
    for thread in threads:
        thread.start()

    async def both() -> list[Any]:
        return await asyncio.gather(*(awaited(app.AsyncResult(id)) for id in ('await', 'get')))
    store = Later(backend).stored({'then': 1, 'get': 2, 'await': 3})
    assert asyncio.run(both()) == [3, 2]
    for thread in (*threads, store):
        thread.join()
    assert sorted(got) == [2, 3]
    deadline = time.monotonic() + 20
    while not called and time.monotonic() < deadline:
        time.sleep(0.01)
    assert called == [1]


@pytest.mark.parametrize('number', [300, pytest.param(10_000, marks=slow)])
def test_many_results_are_awaited_with_two_threads(
        number: int, app: Celery, backend: dv.DynamoDBBackend) -> None:
    before, most = set(threading.enumerate()), set[threading.Thread]()
    ids = [f'id-{index}' for index in range(number)]

    async def all_of_them() -> list[Any]:
        tasks = [asyncio.ensure_future(awaited(app.AsyncResult(id), None)) for id in ids]
        until = time.monotonic() + 2
        while time.monotonic() < until or (len(most) < 2 and time.monotonic() < until + 30):
            # a join of another test may go on until its retries end
            now = {thread for thread in set(threading.enumerate()) - before
                   if thread.name.startswith(('dyna-veggie', 'asyncio', 'ThreadPool'))
                   and thread.name != 'dyna-veggie-heartbeat'}
            most.update(now if len(now) > len(most) else ())
            await asyncio.sleep(0.001)
        await asyncio.get_running_loop().run_in_executor(None, functools.partial(
            backend.store.table.write_many, puts=[
                {'id': backend.item_id(id), 'status': 'SUCCESS', 'timestamp': 1,
                 'result': b'{"status": "SUCCESS", "result": 1}'} for id in ids]))
        return await asyncio.gather(*tasks)

    assert asyncio.run(all_of_them()) == [1] * number
    assert len(most) == 2, most
    assert not dv.shared_poller(backend.options)._waits


def test_a_child_awaits_by_itself_after_a_fork(app: Celery, backend: dv.DynamoDBBackend) -> None:
    backend.store_result('one', 1, states.SUCCESS)
    assert asyncio.run(awaited(app.AsyncResult('one'))) == 1
    child = os.fork()
    if not child:
        os._exit(0 if asyncio.run(awaited(app.AsyncResult('one'))) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_awaiting_in_a_task_is_refused_as_get_is(app: Celery, backend: dv.DynamoDBBackend) -> None:
    with celery.result.denied_join_result(), pytest.raises(RuntimeError, match='within a task'):
        asyncio.run(awaited(app.AsyncResult('one')))


def test_an_await_is_an_error_where_no_thread_can_be_started(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    with no_more_threads(), pytest.raises(RuntimeError, match='no thread can be started'):
        asyncio.run(awaited(app.AsyncResult('one')))


def test_nothing_is_kept_of_what_was_forgotten_or_timed_out(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    import gc
    import weakref
    poller = dv.shared_poller(backend.options)
    results = result_set(app, [str(number) for number in range(30)])
    alone = app.AsyncResult('alone')
    called = app.AsyncResult('called')
    called.then(print)
    references = [weakref.ref(result) for result in (results, alone, called, *results)]
    for result in (results, alone):
        with pytest.raises(TimeoutError):
            result.get(timeout=0.1)
    called.forget()
    results.forget()
    for id in ready_tasks(backend, 30):
        assert app.AsyncResult(id).get() is not None
    del results, alone, called, result
    gc.collect()
    assert [reference() for reference in references if reference()] == []
    deadline = time.monotonic() + 20
    while poller._watches or poller._waits:  # until its thread has looked
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize('interval', [0.02, 3600])
def test_nothing_is_kept_of_waits_that_ended_before_they_were_due(interval: float) -> None:
    import gc
    import weakref
    poller, references = dv.Poller(Fetches(dict.fromkeys('ab', 10**9))), list[Any]()

    def wait() -> None:
        for polled in (True, False):
            wait = dv.Wait(['a'], lambda id, found: found, interval)
            references.append(weakref.ref(wait))
            poller.add(wait)
            while polled and wait.idle_polls < 5:
                time.sleep(0.01)
            poller.remove(wait)
    wait()
    deadline = time.monotonic() + 20
    while not poller._thread._tokens:  # until its thread has ended
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # as if the thread had ended just before
    poller._linger, ended = 0, dv.Wait(['b'], lambda id, found: found, interval)
    references.append(weakref.ref(ended))
    poller._waits[ended] = None
    poller._added.append(ended)
    poller.remove(ended)
    poller._thread.ensure()
    del ended
    while any(reference() for reference in references):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        gc.collect()


def test_threads_share_polls_though_each_has_a_backend(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = [str(uuid.uuid4()) for _ in range(40)]
    results: dict[str, Any] = {}

    def wait(id: str) -> None:
        results[id] = app.AsyncResult(id).get(timeout=60, interval=0.2)
    threads = [threading.Thread(target=wait, args=(id,), daemon=True) for id in ids]
    for thread in threads:
        thread.start()
    time.sleep(2)
    proxy.reset()
    time.sleep(1)
    assert len(proxy.requests) <= 15  # and not 200
    for number, id in enumerate(ids):
        backend.store_result(id, number, states.SUCCESS)
    for thread in threads:
        thread.join(30)
    assert results == {id: number for number, id in enumerate(ids)}


@pytest.mark.parametrize('library', ['gevent', 'eventlet'])
def test_greenlets(library: str, endpoint: str, table_name: str) -> None:
    run_tool('greenlets.py', library, backend_url(f'local/{table_name}', endpoint), timeout=200)


@slow
@pytest.mark.parametrize('library', ['gevent', 'eventlet'])
def test_what_a_chord_costs_with_greenlets(
        library: str, backend: dv.DynamoDBBackend, proxy: Proxy, table_name: str,
        needs: Callable[[str], None]) -> None:
    needs('PartiQL INSERT')
    proxy.latency = 0.01
    url = backend_url(f'local/{table_name}', proxy.url, '&max_pool_connections=100')
    run_tool('greenlets.py', library, url, '1000', timeout=200)
    usage = proxy.usage()
    assert usage.requests <= 1.42 * 1000 + 15, usage
    assert usage.write_units <= 1.45 * 1000 + 20, usage
    assert usage.read_units <= 0.6 * 1000 + 15, usage


@slow
@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs /proc')
@pytest.mark.parametrize(('library', 'threads', 'count'), [
    ('threads', 8, 20_000), ('solo', 1, 3_000), ('gevent', 8, 3_000), ('eventlet', 8, 3_000)])
def test_nothing_leaks(
        library: str, threads: int, count: int, endpoint: str, table_name: str) -> None:
    url = backend_url(f'local/{table_name}', endpoint)
    run_tool('leaks.py', library, str(threads), str(count), url, timeout=500)


def test_a_child_polls_at_times_of_its_own(app: Celery, backend: dv.DynamoDBBackend) -> None:
    own = dv.shared_poller(backend.options)._phase
    reading, writing = os.pipe()
    for _ in range(2):
        if not os.fork():
            os.write(writing, f'{dv.shared_poller(backend.options)._phase}\n'.encode())
            os._exit(0)
        os.wait()
    os.close(writing)
    with os.fdopen(reading) as file:
        phases = [float(line) for line in file]
    assert len({own, *phases}) == 3


def test_a_child_after_a_fork_waits_by_itself(app: Celery, backend: dv.DynamoDBBackend) -> None:
    backend.store_result('stored', 7, states.SUCCESS)
    thread = threading.Thread(target=lambda: app.AsyncResult('later').get(timeout=60))
    thread.start()  # another thread polls for it when the process forks
    while not any(each.name == 'dyna-veggie-poll' for each in threading.enumerate()):
        time.sleep(0.01)
    child = os.fork()
    if not child:
        try:
            found = app.AsyncResult('stored').get(timeout=20) == 7
            with pytest.raises(TimeoutError):
                app.AsyncResult('none').get(timeout=0.2)
            os._exit(0 if found else 2)
        finally:
            os._exit(3)
    backend.store_result('later', 1, states.SUCCESS)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_a_result_can_outlive_the_modules_when_the_interpreter_ends(endpoint: str) -> None:
    code = textwrap.dedent('''
        import logging, sys
        from celery import Celery
        logging.kept = Celery('kept', backend=sys.argv[1]).AsyncResult('id')  # as Airflow's does
        logging.kept.backend
    ''')
    done = subprocess.run(
        [sys.executable, '-c', code, backend_url('local', endpoint)], cwd=ROOT,
        stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, '')


# --------------------------------------------------------------------------------------------------
# Result classes
# --------------------------------------------------------------------------------------------------

def ready_tasks(backend: dv.DynamoDBBackend, number: int) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(number)]
    for index, id in enumerate(ids):
        meta = {'task_id': id, 'status': states.SUCCESS, 'result': index,
                'traceback': None, 'children': []}
        key, value = backend.get_key_for_task(id).decode(), backend.encode(meta).encode()
        backend.store.put(key, value, states.SUCCESS)
    return ids


@pytest.mark.parametrize('ask', [
    lambda results: results.get() == list(range(250)),
    lambda results: results.join_native() == list(range(250)),
    lambda results: [meta['result'] for _, meta in results.iter_native()] == list(range(250)),
], ids=['get', 'join_native', 'iter_native'])
def test_a_ready_group_costs_one_request_per_hundred(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, ask: Callable[[Any], bool]) -> None:
    results = result_set(app, ready_tasks(backend, 250))
    proxy.reset()
    assert ask(results)
    requests, reads, writes = cost(proxy)
    assert (requests, writes) == (3, 0) and reads <= 250
    assert ask(results) and not proxy.requests  # what is ready is known


@pytest.mark.parametrize(('ask', 'most'), [
    (lambda results: results.join() == list(range(250)), 6),
    (lambda results: results.ready(), 6),
    (lambda results: results.successful(), 6),
    (lambda results: not results.failed(), 6),
    (lambda results: results.completed_count() == 250, 6),
    (lambda results: not results.waiting(), 6),
    (lambda results: results.maybe_throw() is None, 6),
], ids=['join', 'ready', 'successful', 'failed', 'completed_count', 'waiting', 'maybe_throw'])
def test_what_a_set_asks_one_by_one_is_read_in_batches(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, ask: Callable[[Any], bool],
        most: int) -> None:
    results = result_set(app, ready_tasks(backend, 250))
    proxy.reset()
    assert ask(results)
    requests, reads, writes = cost(proxy)
    assert requests <= most and reads <= 250 and writes == 0


def test_asking_a_set_that_is_not_ready_costs_one_read(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    results = result_set(app, [str(uuid.uuid4()) for _ in range(250)])
    for _ in range(3):
        assert not results.ready()
        assert cost(proxy)[:2] == (1, 1)
    assert results.completed_count() == 0
    assert cost(proxy)[0] <= 6
    # and what was read ahead is not taken for what is: each answer is exact
    for id in [result.id for result in results]:
        backend.store_result(id, 1, states.SUCCESS)
    assert results.completed_count() == 250


def test_nested_groups_are_read_in_the_same_batches(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = ready_tasks(backend, 90)
    inner = [result_set(app, ids[start:start + 10]) for start in range(0, 80, 10)]
    deep = app.GroupResult('deep', [result_set(app, ids[80:85]), app.AsyncResult(ids[85])])
    outer = app.GroupResult('outer', [*inner, deep, *(app.AsyncResult(id) for id in ids[86:])])
    proxy.reset()
    assert outer.get() == [*([*range(start, start + 10)] for start in range(0, 80, 10)),
                           [[80, 81, 82, 83, 84], 85], 86, 87, 88, 89]
    assert operations(proxy) == ['BatchGetItem']


def test_a_chords_parts_are_not_read_one_by_one_by_get(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    header = result_set(app, ready_tasks(backend, 250))
    body = app.AsyncResult('body', parent=header)
    backend.store_result('body', 'all', states.SUCCESS)
    proxy.reset()
    assert body.get() == 'all'
    assert cost(proxy)[0] <= 7
    missing = result_set(app, [str(uuid.uuid4()) for _ in range(250)])
    pending = app.AsyncResult('pending', parent=missing)
    with pytest.raises(TimeoutError):
        pending.get(timeout=1, interval=0.1)
    requests, reads, _ = cost(proxy)
    assert requests <= 20 and reads <= requests + 2  # of itself and its chord, one poll per tick


def test_the_error_of_a_part_comes_out_of_get_before_the_chords(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    body = app.AsyncResult('body', parent=app.GroupResult('header', [app.AsyncResult('part')]))

    def fail() -> None:
        backend.store_result('part', ValueError('part'), states.FAILURE)
        backend.store_result('body', ChordError('Dependency part raised'), states.FAILURE)

    timer = threading.Timer(0.1, fail)
    timer.start()
    with pytest.raises(ValueError, match='part'):
        body.get(timeout=30)
    timer.join()
    with pytest.raises(ChordError):
        app.AsyncResult('body', parent=body.parent).get(timeout=30, follow_parents=False)


def test_a_chord_that_succeeded_is_read_without_its_parts(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    header = result_set(app, ready_tasks(backend, 250))
    body = app.AsyncResult('body', parent=header)
    backend.store_result('body', 'all', states.SUCCESS)
    proxy.reset()
    assert body.get(timeout=5) == 'all'
    assert cost(proxy) == (1, 1, 0)
    assert body.get() == 'all' and not proxy.requests


def test_credentials_that_nobody_refreshes_are_reported_before_a_time_out(
        make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app()
    ready(app, proxy)
    proxy.faults = lambda operation, body: Error('ExpiredTokenException')
    with pytest.raises(ImproperlyConfigured, match='the credentials have expired'):
        app.AsyncResult('none').get(timeout=0.5)


def body_of(drive: Drive) -> Any:
    """The result that applying a chord returns."""
    header = [drive.app.AsyncResult(id) for id in drive.ids]
    return drive.app.AsyncResult(
        drive.body_id, parent=drive.app.GroupResult(drive.group_id, header))


def notes(proxy: Proxy, drive: Drive) -> list[Any]:
    """The requests that noted failed parts for those who wait."""
    pointer_id = drive.run.pointer_id
    return [request for request in proxy.requests
            if request.operation == 'UpdateItem' and request.ids == [pointer_id]]


class Once:
    """An on_interval that calls a function the first time."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call: Callable[[], Any] = functools.partial(function, *args)

    def __call__(self) -> None:
        call, self.call = self.call, nothing_at_all
        call()


def nothing_at_all() -> None:
    pass


@pytest.mark.parametrize('lazy', [False, LAZY])
@pytest.mark.parametrize('place', [0, 530, 999])
def test_the_error_of_one_part_of_a_thousand_is_seen_by_the_next_poll(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, place: int, lazy: bool) -> None:
    drive = Drive(app, 1000, lazy=lazy)
    drive.apply()
    proxy.reset()
    with pytest.raises(ValueError, match='part'):
        body_of(drive).get(timeout=60, interval=0.3,
                           on_interval=Once(drive.fails, place, ValueError('part')))
    reads = [request for request in proxy.requests if request.read_units]
    noted, = notes(proxy, drive)
    polls = [request for request in reads if request.operation == 'BatchGetItem'
             and backend.item_id(drive.body_id) in request.ids]
    assert all(len(request.ids) == 2 for request in polls)
    assert sum(request.began > noted.ended for request in polls) <= 1  # one may be in flight
    # the body before the first poll; then the note again, and the two keys of the error
    assert len(reads) <= len(polls) + 1 + 1 + lazy
    assert sum(request.read_units for request in reads) <= len(polls) + 1 + 3 + lazy


def test_who_waits_for_a_chord_takes_three_read_units_a_second(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(app, 1000)
    drive.apply()
    ticks: list[float] = []
    proxy.reset()
    with pytest.raises(TimeoutError):
        body_of(drive).get(timeout=2.2, on_interval=lambda: ticks.append(time.monotonic()))
    requests, reads, writes = cost(proxy)
    # the first second has some more polls: their pauses grow
    assert requests <= 8 + 2 * 2.2 and reads <= requests + 2 and writes == 0
    assert 2 <= len(ticks) <= 5  # once per interval


def test_a_failed_part_is_noted_once_per_leaf_and_no_part_that_returns(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    good = Drive(app, 80)
    good.apply()
    proxy.reset()
    good.all_return(threads=4)
    assert good.published == [good.expected] and not notes(proxy, good)

    bad = Drive(app, 80)
    bad.apply()
    proxy.reset()

    def fail(share: range) -> None:
        for index in share:
            bad.fails(index, ValueError(index))

    workers = [threading.Thread(target=fail, args=(range(n, 80, 8),)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    requests = notes(proxy, bad)
    # of two leaves
    assert sorted(request.error or '' for request in requests) == [
        '', 'ConditionalCheckFailedException']


def test_a_part_that_is_not_the_first_of_its_leaf_to_fail_notes_nothing(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(app, 50)
    drive.apply()
    for index in (7, 3, 41, 7):
        drive.fails(index, ValueError(index))
    assert len(notes(proxy, drive)) == 2
    for _ in range(2):  # the first stays
        with pytest.raises(ValueError, match=r'^7$'):
            body_of(drive).get(timeout=10)


def test_a_redelivered_part_notes_what_its_first_delivery_could_not(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(app, 3)
    drive.apply()
    updates = itertools.count()

    def die(operation: str) -> None:  # after it was counted
        if operation == 'UpdateItem' and next(updates) == 1:
            raise Died

    with Hook(backend, die), pytest.raises(Died):
        drive.fails(1, ValueError('part'))
    with pytest.raises(TimeoutError):
        body_of(drive).get(timeout=0.2)
    drive.fails(1, ValueError('part'))
    with pytest.raises(ValueError, match='part'):
        body_of(drive).get(timeout=10)


@pytest.mark.parametrize(('error', 'attempts'), [
    (Error('AccessDeniedException', 'not authorized to perform: dynamodb:UpdateItem'), (1, 1)),
    (Error('InternalServerError', status=500), (2, 30)),
], ids=['permanent', 'transient'])
def test_a_failure_to_note_a_failure_is_only_logged(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, error: Error,
        attempts: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    drive = Drive(app, 2)
    drive.apply()
    proxy.faults = lambda operation, body: (
        error if operation == 'UpdateItem' and body['Key']['id']['S'] == drive.run.pointer_id
        else None)
    drive.fails(0, ValueError('part'))
    least, most = attempts
    assert least <= len(notes(proxy, drive)) <= most
    assert 'it is not noted that a part failed' in caplog.text
    drive.returns(1)
    assert 'Dependency' in drive.error()
    with pytest.raises(ValueError, match='part'):
        body_of(drive).get(timeout=10)


def test_news_of_an_earlier_run_are_no_news(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(app, 50)
    drive.apply()
    late = drive.request(45)  # of the first run
    drive.fails(0, ValueError('first run'))
    drive.apply()
    drive.fails(45, ValueError('late'), late)
    assert [request.error for request in notes(proxy, drive)] == [
        None, 'ConditionalCheckFailedException']
    with pytest.raises(TimeoutError):
        body_of(drive).get(timeout=0.3)

    def third_run() -> None:
        drive.apply()
        drive.fails(1, ValueError('third run'))

    with pytest.raises(ValueError, match='third run'):  # also for who began to wait before it
        body_of(drive).get(timeout=20, interval=0.05, on_interval=Once(third_run))


@pytest.mark.parametrize('mend', [
    lambda drive: drive.app.backend.store_result(drive.ids[1], 'mended', states.SUCCESS),
    lambda drive: drive.app.backend.forget(drive.ids[1]),
    lambda drive: drive.app.backend.store.expire(drive.run.pointer_id, -5),
], ids=['replaced', 'forgotten', 'expired'])
def test_an_error_that_is_gone_is_not_raised_and_not_looked_for_again(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy,
        mend: Callable[[Drive], Any]) -> None:
    drive = Drive(app, 3)
    drive.apply()
    drive.fails(1, ValueError('part'))
    mend(drive)
    proxy.reset()
    with pytest.raises(TimeoutError):
        body_of(drive).get(timeout=1, interval=0.1)
    requests, reads, _ = cost(proxy)
    assert requests <= 20 and reads <= requests + 6
    assert body_of(drive).get(timeout=20, interval=0.05, on_interval=Once(
        backend.store_result, drive.body_id, 'body', states.SUCCESS)) == 'body'


def test_an_error_that_is_only_under_a_key_of_the_run_is_raised(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    ignored, kept, added = Drive(app, 3), Drive(app, 3), Drive(app, 3)
    for drive in (ignored, kept, added):
        drive.apply()
    request = ignored.request(1)
    with ignored.in_task(request):
        backend.mark_as_failure(
            request.id, ValueError('ignored'), request=request, store_result=False)
    backend.store_result(kept.ids[1], 'of another execution', states.SUCCESS)
    kept.fails(1, ValueError('kept'))
    request = added.request(1, task_id='added')
    request.chord['options']['dynamodb_run']['added'] = True
    added.fails(1, ValueError('added'), request)
    for drive, message in ((ignored, 'ignored'), (kept, 'kept'), (added, 'added')):
        with pytest.raises(ValueError, match=message):
            body_of(drive).get(timeout=10)


def test_news_with_ids_that_are_too_long_spoil_nothing(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    drive = Drive(app, 2)
    drive.apply()
    # too long for the key of a copy: it was added, since apply_chord() refuses such a header
    request = drive.request(1, task_id='x' * 2000)
    request.chord['options']['dynamodb_run']['added'] = True
    drive.fails(1, ValueError('long'), request)
    with pytest.raises(ValueError, match='long'):
        body_of(drive).get(timeout=10)
    parent = app.GroupResult('g' * 2100, [app.AsyncResult('one')])  # no chord has such an id
    with pytest.raises(TimeoutError):
        app.AsyncResult('body', parent=parent).get(timeout=0.2)
    with pytest.raises(dv.InvalidId):
        app.AsyncResult('body', parent=app.AsyncResult('t' * 2100)).get(timeout=5)


@pytest.mark.parametrize('asked', [{'propagate': False}, {'follow_parents': False}], ids=str)
def test_who_wants_no_errors_of_parts_gets_none_and_pays_for_none(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, asked: dict[str, Any]) -> None:
    drive = Drive(app, 2)
    drive.apply()
    drive.fails(0, ValueError('part'))
    proxy.reset()
    with pytest.raises(TimeoutError):
        body_of(drive).get(timeout=0.3, **asked)
    assert {tuple(request.ids) for request in proxy.requests} == {
        (backend.item_id(drive.body_id),)}


def test_a_timeout_of_zero_still_asks_for_news(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(app, 2)
    drive.apply()
    with pytest.raises(TimeoutError):
        body_of(drive).get(timeout=0)
    drive.fails(0, ValueError('part'))
    proxy.reset()
    with pytest.raises(ValueError, match='part'):
        body_of(drive).get(timeout=0)
    assert cost(proxy)[0] == 2


def test_the_error_of_a_part_is_found_by_its_note_after_the_end_too(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(app, 250)
    drive.apply()
    drive.all_but_the_last_returned()
    drive.fails(249, ValueError('part'))
    assert 'Dependency' in drive.error()
    result = body_of(drive)
    proxy.reset()
    with pytest.raises(ValueError, match='part'):
        result.get(timeout=10)
    assert cost(proxy) == (3, 5, 0)
    with pytest.raises(ChordError):
        result.get(timeout=10, follow_parents=False)


def chained(app: Celery, *ids: str) -> Any:
    """The result of a chain; one whose id begins with ``group`` is that of a header."""
    result = None
    for id in ids:
        if id.startswith('group'):
            result, parent = app.GroupResult(id, [app.AsyncResult(f'{id}-part')]), result
            result.parent = parent
        else:
            result = app.AsyncResult(id, parent=result)
    return result


def test_of_a_chain_only_the_first_unfinished_parents_are_looked_at(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = ['a', 'b', 'group-1', 'c', 'group-2', 'group-3', 'd', 'end']
    asked: list[set[str]] = []
    keys = {backend.get_key_for_chord(id).decode() if id.startswith('group')
            else backend.item_id(id): id for id in ids}

    def look() -> None:
        polls = [{keys[id] for id in request.ids} - {'end'} for request in proxy.requests
                 if backend.item_id('end') in request.ids]
        # the first poll asks for the result only, as the last do
        if polls[-1:] and polls[-1] not in asked and (polls[-1] or len(asked) == 4):
            asked.append(polls[-1])
            backend.store_result(next(following), 1, states.SUCCESS)
        proxy.reset()

    following = iter(['a', 'b', 'c', 'd', 'end'])
    result = chained(app, *ids)
    assert result.get(timeout=20, interval=0.1, on_interval=look) == 1
    assert asked == [{'a'}, {'b'}, {'group-1', 'c'}, {'group-2', 'group-3', 'd'}, set()]


def test_the_parents_of_a_long_chain_are_passed_in_batches(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = ready_tasks(backend, 300)
    backend.mark_as_revoked('revoked', 'terminated')
    result = chained(app, *ids, 'revoked', 'end')
    proxy.reset()
    with pytest.raises(celery.exceptions.TaskRevokedError, match='terminated'):
        result.get(timeout=20)
    requests, reads, _ = cost(proxy)
    assert requests <= 10 and reads <= 310


def test_parents_in_other_backends_are_asked_there(
        app: Celery, make_app: MakeApp, backend: dv.DynamoDBBackend) -> None:
    other = Celery('other', broker='memory://', backend='cache+memory://', set_as_current=False)
    options = make_app('consistency_wait_time=1').backend
    for theirs in (other.backend, options):
        theirs.store_result('theirs', ValueError('theirs'), states.FAILURE)
        parent = app.AsyncResult('theirs', backend=theirs)
        header = app.GroupResult('header', [app.AsyncResult('ours'), parent])
        for result in (app.AsyncResult('end', parent=parent),
                       app.AsyncResult('end', parent=header)):
            with pytest.raises(ValueError, match='theirs'):
                result.get(timeout=20, interval=0.05)
        theirs.forget('theirs')
        parent = app.AsyncResult('theirs', backend=theirs)
        with pytest.raises(ValueError, match='later'):
            app.AsyncResult('end', parent=parent).get(timeout=20, interval=0.05, on_interval=Once(
                theirs.store_result, 'theirs', ValueError('later'), states.FAILURE))


@pytest.mark.parametrize('canvas', [
    pytest.param(lambda t, waits, fails: chord([waits, fails], t.total.s()), id='chord'),
    pytest.param(lambda t, waits, fails: chord(
        (each for each in (waits, t.identity.s(1), fails)), t.total.s()), id='generator'),
    pytest.param(lambda t, waits, fails: chord(
        [group(waits, t.identity.s(1)), group(t.identity.s(2), fails)], t.total.s()), id='nested'),
    pytest.param(lambda t, waits, fails: chord(
        [waits, chain(t.identity.s(1), fails, t.identity.s())], t.total.s()),
        id='chain in a header'),
    pytest.param(lambda t, waits, fails: chain(
        t.identity.si(1), group(waits, fails), t.total.s(), t.identity.s()), id='chord in a chain'),
    pytest.param(lambda t, waits, fails: chain(
        group(t.identity.s(1), t.identity.s(2)), t.total.s(), group(waits, fails), t.total.s()),
        id='chords in a chain'),
    pytest.param(lambda t, waits, fails: chord(
        [waits, fails], chain(t.total.s(), t.identity.s())), id='body that is a chain'),
])
def test_the_error_of_a_part_is_raised_while_another_waits(canvas: Any, tasks: Tasks) -> None:
    waits = tasks.identity.si(0).set(queue=uuid.uuid4().hex)  # that no worker consumes
    result = canvas(tasks, waits, tasks.fail.si('part')).apply_async()
    with pytest.raises(ValueError, match='part'):
        result.get(timeout=20)
    assert result.state == states.PENDING


def test_a_chain_of_five_thousand_tasks_needs_no_recursion(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    def chain_of(number: int) -> Any:
        result = app.AsyncResult('0')
        for position in range(1, number):
            result = app.AsyncResult(str(position), parent=result)
        return result
    backend.store_result('0', ValueError('first'), states.FAILURE)
    with pytest.raises(ValueError, match='first'):
        chain_of(5000).get(timeout=30)
    backend.store_result('4999', ValueError('last'), states.FAILURE)
    with pytest.raises(ValueError, match='first'):
        chain_of(5000).get(timeout=30)
    chain_of(5000).forget()
    assert backend.get_state('0') == backend.get_state('4999') == states.PENDING


def test_a_part_that_failed_is_raised_by_join(app: Celery, backend: dv.DynamoDBBackend) -> None:
    backend.store_result('one', 1, states.SUCCESS)
    backend.store_result('parent', ValueError('parent'), states.FAILURE)
    child = app.AsyncResult('child', parent=app.AsyncResult('parent'))
    with pytest.raises(ValueError, match='parent'):
        app.GroupResult('g', [app.AsyncResult('one'), child]).join(timeout=20)
    got: list[Any] = []
    assert app.GroupResult('g', [app.AsyncResult('one')]).join(
        callback=lambda id, value: got.append((id, value))) == []
    assert got == [('one', 1)]
    with pytest.raises(TimeoutError):
        app.GroupResult('g', [app.AsyncResult('none')]).join(timeout=0.1)


def test_the_members_of_a_set_that_are_slow_are_not_read_again_and_again(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = [str(uuid.uuid4()) for _ in range(100)]

    def run() -> None:
        for number, id in enumerate(ids):
            app.backend.store_result(id, number, states.SUCCESS)
            time.sleep(0.02)
    results = result_set(app, ids)
    thread = threading.Thread(target=run)
    thread.start()
    proxy.reset()
    assert results.join(timeout=60) == list(range(100))
    thread.join()
    reads = [request for request in proxy.requests if request.read_units]
    assert sum(request.read_units for request in reads) <= 600


def test_join_reads_in_batches_again_after_a_member_that_it_waited_for(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    late = [f'late-{number}' for number in range(16)]

    def store() -> None:  # while join() waits for the first of them
        for number in range(len(late)):
            backend.store_result(late.pop(), number, states.SUCCESS)

    results = result_set(app, [*ready_tasks(backend, 1), *late])
    proxy.reset()
    assert results.join(timeout=20, interval=0.05, on_interval=store) == [0, *range(15, -1, -1)]
    reads = [request for request in proxy.requests if request.read_units]
    assert [len(request.ids) for request in reads if len(request.ids) > 1] == [8, 8, 6]


def made_before_the_backend(app: Celery) -> Any:
    return app.GroupResult('g', [app.AsyncResult('first'), app.AsyncResult('second')])


def pickled(app: Celery) -> Any:
    app.set_current()
    return pickle.loads(pickle.dumps(made_before_the_backend(app)))


def restored(app: Celery) -> Any:
    made_before_the_backend(app).save()
    return app.GroupResult.restore('g')


def of_a_canvas(app: Celery) -> Any:
    @app.task(name='noop', shared=False)
    def noop(*args: Any) -> None:
        pass
    return group(noop.s(), group(noop.s(), chain(noop.s(), noop.s())))()


def parent_of_a_chord(app: Celery) -> Any:
    @app.task(name='noop', shared=False)
    def noop(*args: Any) -> None:
        pass
    return chord([noop.s(), noop.s(), noop.s()])(noop.s()).parent


@pytest.mark.parametrize('make', [
    made_before_the_backend, pickled, restored, of_a_canvas, parent_of_a_chord])
def test_whatever_an_app_makes_reads_in_batches(
        make: Callable[[Celery], Any], make_app: MakeApp, proxy: Proxy) -> None:
    ready(make_app(), proxy)
    app = make_app()
    results = make(app)
    leaves = list(dv.leaf_results(results))
    assert len(leaves) >= 2
    assert all(isinstance(leaf, dv.BatchedResult) for leaf in leaves)
    for leaf in leaves:
        app.backend.store_result(leaf.id, 1, states.SUCCESS)
    proxy.reset()
    assert results.ready()
    # the first alone, then all the others
    assert operations(proxy) == ['GetItem', 'GetItem' if len(leaves) == 2 else 'BatchGetItem']


def test_other_apps_and_backends_keep_their_result_classes(app: Celery) -> None:
    assert app.backend and issubclass(app.AsyncResult, dv.BatchedResult)
    other = Celery('other', backend='cache+memory://', set_as_current=False)
    assert not issubclass(other.AsyncResult, dv.BatchedResult)
    assert not issubclass(celery.result.AsyncResult, dv.BatchedResult)

    class Result(celery.result.AsyncResult):
        pass

    class Custom(Celery):
        @property
        def AsyncResult(self) -> Any:
            return Result
    custom = Custom('custom', backend=app.conf.result_backend, set_as_current=False)
    assert custom.backend and not issubclass(Result, dv.BatchedResult)
    custom.backend.store_result('id', 1, states.SUCCESS)
    assert custom.AsyncResult('id', app=custom).get(timeout=5) == 1
    assert custom.GroupResult('g', [custom.AsyncResult('id', app=custom)]).get(timeout=5) == [1]
    # results of two backends in one set, and some that need none
    other.backend.store_result('theirs', 2, states.SUCCESS)
    eager = celery.result.EagerResult('eager', 3, states.SUCCESS)
    mixed = app.GroupResult('mixed', [other.AsyncResult('theirs'), eager, app.AsyncResult('id')])
    assert mixed.ready() and mixed.successful() and mixed.completed_count() == 3
    assert mixed.join(timeout=5) == [2, 3, 1]


def test_a_task_can_have_a_backend_of_its_own(make_app: MakeApp) -> None:
    app = make_app()
    assert app.backend and issubclass(app.AsyncResult, dv.BatchedResult)

    @app.task(shared=False, backend=RPCBackend(app=app))
    def theirs(x: Any) -> Any:
        return x

    @app.task(shared=False)
    def ours(x: Any) -> Any:
        return x

    elsewhere = dv.DynamoDBBackend(
        app=app, url=app.backend.url.replace('/test-', '/test-other-'))

    @app.task(shared=False, backend=elsewhere)
    def apart(x: Any) -> Any:
        return x

    with working(app):
        for task in (theirs, apart):  # alone, and some
            for size in (1, 2):
                sent = app.ResultSet([task.delay(number) for number in range(size)])
                assert sent.get(timeout=30) == list(range(size))
        result = theirs.delay(1)
        assert result.get(timeout=30) == 1
        mixed = app.ResultSet([ours.delay(2), theirs.delay(3)])
        assert mixed.get(timeout=30) == [2, 3]
        assert app.ResultSet([theirs.delay(4), ours.delay(5)]).get(timeout=30) == [4, 5]
        for results in (result, mixed):
            with contextlib.suppress(NotImplementedError):  # that of RPC, in older Celerys
                results.forget()
        ready = [ours.delay(6), ours.delay(7)]
        assert app.ResultSet(ready).get(timeout=30) == [6, 7]
        app.ResultSet(ready).forget()
        assert ready[0].state == states.PENDING


def test_a_result_class_that_an_app_was_given_comes_before_ours(make_app: MakeApp) -> None:
    class Mine(celery.result.AsyncResult):
        def get(self, *args: Any, **kwargs: Any) -> Any:
            return 'mine', super().get(*args, **kwargs)

    class Custom(Celery):
        @functools.cached_property
        def AsyncResult(self) -> Any:
            return self.subclass_with_self(Mine, name='AsyncResult')

    url = make_app().conf.result_backend
    custom = Custom('custom', backend=url, set_as_current=False)
    custom.backend.store_result('id', 1, states.SUCCESS)
    assert custom.AsyncResult('id').get(timeout=5) == ('mine', 1)
    assert issubclass(custom.AsyncResult, dv.BatchedResult)


def test_a_set_whose_members_a_callback_reads_is_got_whole(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    results = result_set(app, ready_tasks(backend, 5))
    assert results[0].get(timeout=5) == 0
    seen: list[Any] = []
    results.get(timeout=5, callback=lambda id, value: seen.append(
        (value, results.completed_count())))
    assert sorted(seen) == [(number, 5) for number in range(5)]


def test_an_argument_that_get_does_not_know_is_an_error(app: Celery) -> None:
    with pytest.raises(TypeError, match='timout'):
        app.AsyncResult('none').get(timout=1)


def test_a_throttled_table_hides_no_error_that_is_known(make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('retry_max_delay=0.05')
    ready(app, proxy)
    app.backend.store_result('body', ValueError('its own'), states.FAILURE)
    header = result_set(app, ['a', 'b', 'c'])
    proxy.faults = lambda operation, body: Throttle() if operation == 'BatchGetItem' else None
    began = time.monotonic()
    with pytest.raises(ValueError, match='its own'):
        app.AsyncResult('body', parent=header).get(timeout=0.5)
    assert time.monotonic() - began < 20  # and not retry_timeout, 120 s


def test_a_plain_set_works_too(app: Celery, backend: dv.DynamoDBBackend) -> None:
    ids = ready_tasks(backend, 3)
    plain = celery.result.ResultSet(
        [celery.result.AsyncResult(id, app=app) for id in ids], app=app)
    assert plain.ready() and plain.get(timeout=5) == plain.join(timeout=5) == [0, 1, 2]
    plain.forget()
    assert backend.get_state(ids[0]) == states.PENDING


def test_failures_come_out_of_sets(app: Celery, backend: dv.DynamoDBBackend) -> None:
    ids = ready_tasks(backend, 3)
    backend.store_result('bad', ValueError('no'), states.FAILURE)
    results = app.GroupResult('g', [*(app.AsyncResult(id) for id in ids), app.AsyncResult('bad')])
    assert [str(value) for value in results.get(propagate=False)] == ['0', '1', '2', 'no']
    with pytest.raises(ValueError, match='no'):
        app.GroupResult('h', [app.AsyncResult('bad'), *results[:3]]).get()
    seen: list[Any] = []
    assert results.get(callback=lambda id, value: seen.append(str(value)), propagate=False) is None
    assert sorted(seen) == ['0', '1', '2', 'no']


def test_a_set_with_results_of_two_apps(
        make_app: MakeApp, proxy: Proxy, table_name: str) -> None:
    results = []
    for number in range(4):
        table = table_name if number % 2 else f'{table_name}-2'
        app = make_app(result_backend=backend_url(f'local/{table}', proxy.url))
        app.backend.store_result(f'id-{number}', number, states.SUCCESS)
        results.append(app.AsyncResult(f'id-{number}'))
    nested = results[0].app.GroupResult('group', results[1:])
    for members in (results, [results[0], nested]):
        expected: Any = [0, 1, 2, 3] if members is results else [0, [1, 2, 3]]
        assert results[0].app.ResultSet(members).get(timeout=5) == expected


def test_sets_are_forgotten_in_batches(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str) -> None:
    for make in (
            lambda ids: result_set(app, ids),
            lambda ids: app.ResultSet([app.AsyncResult(id) for id in ids])):
        results = make(ready_tasks(backend, 60))
        proxy.reset()
        results.forget()
        requests, reads, writes = cost(proxy)
        assert (requests, reads, writes) == (3, 0, 60)
        assert all_items(client, table_name) == []
    # nested, and with the parents of each task
    ids = ready_tasks(backend, 40)
    chains = [app.AsyncResult(ids[n], parent=app.AsyncResult(ids[n + 20])) for n in range(20)]
    outer = app.GroupResult('outer', [app.GroupResult('one', chains[:10]), *chains[10:]])
    proxy.reset()
    outer.forget()
    assert cost(proxy) == (2, 0, 40)
    assert all_items(client, table_name) == []
    # again, with new results under the same ids
    for id in ids:
        backend.store_result(id, 1, states.SUCCESS)
    outer.forget()
    assert all_items(client, table_name) == []
    # one result, and one of a set
    one, two = ready_tasks(backend, 2)
    pair = result_set(app, [one, two])
    pair[0].forget()
    assert [item['id'] for item in all_items(client, table_name)] == [f'celery-task-meta-{two}']
    pair.save()
    pair.delete()
    pair.forget()
    assert all_items(client, table_name) == []


def test_large_results_are_forgotten_with_their_chunks(
        app: Celery, backend: dv.DynamoDBBackend, make_app: MakeApp, client: Any,
        table_name: str) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for id in ids:
        backend.store_result(id, noise(900 * KB).hex(), states.SUCCESS)
    results = result_set(app, ids)
    results.get()
    results.forget()
    assert all_items(client, table_name) == []
    keeping = make_app(result_expires=None)
    for id in ids:
        keeping.backend.store_result(id, noise(900 * KB).hex(), states.SUCCESS)
    result_set(keeping, ids).forget()  # they would never expire, so they are looked for
    assert all_items(client, table_name) == []


@slow
def test_a_big_join_overlaps_its_batches_and_keeps_the_order(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    results = result_set(app, ready_tasks(backend, 3000))
    running, most, lock = [0], [0], threading.Lock()
    clocks: dict[str, int] = {}

    def begin(operation: str) -> None:
        with lock:
            if not running[0]:
                clocks['now'] = max(clocks.values(), default=0)
                for thread in set(clocks) - {'now'}:
                    del clocks[thread]
            thread = str(threading.get_ident())
            # each request takes one tick of its thread's clock
            clocks[thread] = clocks.get(thread, clocks['now']) + 1
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)  # and really this long at the least

    def end(operation: str) -> None:
        with lock:
            running[0] -= 1
    proxy.reset()
    with Hook(backend, begin, end):
        assert results.get() == list(range(3000))
    assert len(proxy.requests) == 30
    assert 4 <= most[0] <= 8
    # ticks: four times as fast as one request after the other
    assert max(clocks.values()) <= 30 / 4
    # the thread that polls stays a moment
    assert not [each for each in threading.enumerate() if each.name == 'dyna-veggie']


def test_waiting_for_a_thousand_results_is_cheap(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, endpoint: str) -> None:
    ids = [str(uuid.uuid4()) for _ in range(1000)]
    assert backend.url
    direct_url = backend.url.replace(quote(proxy.url, safe=''), quote(endpoint, safe=''))
    past_the_proxy = Celery(
        'workers', backend='dyna_veggie.DynamoDBBackend+' + direct_url, set_as_current=False)
    made = [past_the_proxy.backend.get_key_for_task(id).decode() for id in ids]

    def item(index: int) -> dict[str, Any]:
        meta = {'status': states.SUCCESS, 'result': index, 'traceback': None, 'children': []}
        result = backend.encode(meta).encode()
        return {'id': made[index], 'status': states.SUCCESS, 'result': result}

    def run() -> None:
        table = past_the_proxy.backend.store.table
        for start in range(0, 1000, 25):
            table.write_many(puts=(item(index) for index in range(start, start + 25)))
            time.sleep(0.1)
    results = result_set(app, ids)
    thread = threading.Thread(target=run)
    thread.start()
    assert results.get(interval=0.25) == list(range(1000))
    thread.join()
    pairs = zip(proxy.requests, proxy.requests[1:])
    ticks = sum(1 for earlier, later in pairs if later.began - earlier.ended > 0.015)
    requests, reads, writes = cost(proxy)
    assert requests <= 10 + ticks  # ten of joining, and one per tick
    assert ticks <= 60 and reads <= 500 + ticks * 25 + 50 and writes == 0


def remove_the_read(results: Any) -> list[Any]:
    values = []
    for id, meta in results.iter_native():
        results.remove(id)
        values.append(meta['result'])
    return values


def read_again(results: Any) -> list[Any]:
    results.get()
    values = []
    for _, meta in results.iter_native():
        results.forget()  # takes the metas out of all members
        values.append(meta['result'])
    return values


def joined(results: Any) -> list[Any]:
    values: list[Any] = []

    def callback(id: str, value: Any) -> None:
        results.remove(id)
        values.append(value)

    results.join(callback=callback)
    return values


@pytest.mark.parametrize('read', [
    remove_the_read, read_again, joined,
    lambda results: results.get(on_message=lambda meta: results.clear()),
    lambda results: [each['result'] for _, each in results.iter_native(
        on_message=lambda meta: results.clear())],
], ids=['remove', 'forget', 'join', 'clear', 'clear-iter'])
def test_a_set_is_read_as_it_was_though_it_changes_during_the_read(
        app: Celery, backend: dv.DynamoDBBackend, read: Callable[[Any], list[Any]]) -> None:
    results = result_set(app, ready_tasks(backend, 5))
    assert read(results) == list(range(5))


@pytest.mark.parametrize(('read', 'expected'), [
    (lambda results: results.get(), [0, 1, 2, [3, 4]]),
    (lambda results: results.join(), [0, 1, 2, [3, 4]]),
    (lambda results: [id for id, _ in results.iter_native()][-1], 'inner'),
    (lambda results: results.completed_count(), 4),
], ids=['get', 'join', 'iter_native', 'completed_count'])
def test_a_set_is_read_as_it_was_though_another_thread_empties_it(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, read: Callable[[Any], Any],
        expected: Any) -> None:
    ids = ready_tasks(backend, 5)
    members = [app.AsyncResult(id) for id in ids]
    inner = app.GroupResult('inner', members[3:])
    results = app.GroupResult('outer', [*members[:3], inner])
    # while the request is in flight, in the thread of the proxy
    proxy.faults = lambda operation, body: results.clear()
    assert read(results) == expected


# --------------------------------------------------------------------------------------------------
# Backend
# --------------------------------------------------------------------------------------------------

def test_a_pickled_backend_finds_its_key_in_the_app_that_unpickles_it(table_name: str) -> None:
    url = f'dynamodb://AKID:{quote(SECRET, safe="")}@eu-west-1/{table_name}'
    app = Celery('pickle', backend='dyna_veggie.DynamoDBBackend+' + url, set_as_current=False)
    app.conf.result_expires = 77
    app.set_current()
    pickled = pickle.dumps(app.backend)
    again = pickle.loads(pickled)
    assert again.options == app.backend.options and again.options.secret_key == SECRET
    assert again.expires == 77 and again.url == url
    app.close()  # as in another process
    url = f'dyna_veggie.DynamoDBBackend+dynamodb://OWN:key@eu-west-1/{table_name}'
    own = Celery('own', backend=url, set_as_current=False)
    own.set_current()
    again = pickle.loads(pickled)
    # the same place, by the keys of who reads it
    assert (again.options.access_key, again.options.secret_key) == ('OWN', 'key')
    own.close()
    Celery('other', backend='dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1').set_current()
    with pytest.raises(ImproperlyConfigured, match='the secret key in the URL is'):
        pickle.loads(pickled).get('key')


def test_an_exception_too_large_to_store_still_fails_its_task_and_chord(
        make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app('max_result_size=2000')
    drive = Drive(app, 2)
    drive.apply()
    drive.fails(0, ValueError('x' * 5000))
    assert isinstance(app.AsyncResult(drive.ids[0]).result, Exception)
    assert 'max_result_size is 2,000' in str(app.AsyncResult(drive.ids[0]).result)
    drive.returns(1)
    assert app.AsyncResult(drive.body_id).state == states.FAILURE
    drive = Drive(app, 2)  # an exception that fits, while the ChordError that quotes it does not
    drive.apply()
    drive.fails(0, ValueError('x' * 1500))
    drive.returns(1)
    assert app.AsyncResult(drive.body_id).state == states.FAILURE
    with pytest.raises(dv.ResultTooLarge):
        app.backend.store_result('id', 'x' * 5000, states.SUCCESS)


@pytest.mark.parametrize('limit', [100, 2000])
def test_a_failure_with_arguments_too_large_to_store_is_stored_without(
        limit: int, make_app: MakeApp) -> None:
    app = make_app(f'max_result_size={limit}', result_extended=True)
    request = Context(id='id', task='name', args=['x' * 5000], kwargs={}, delivery_info={})
    app.backend.mark_as_failure('id', ValueError('why'), request=request)
    result = app.AsyncResult('id')
    assert result.state == states.FAILURE and result.name == 'name' and result.args is None
    assert f'max_result_size is {limit:,}' in str(result.result)


def test_a_soft_time_limit_that_falls_into_decoding_is_no_failure_of_what_is_read(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    class Slow:
        pass

    def ring(encoded: Any) -> Any:
        raise SoftTimeLimitExceeded

    register_type(Slow, 'slow', lambda value: 1, ring)
    backend.store_result('id', Slow(), states.SUCCESS)
    with pytest.raises(SoftTimeLimitExceeded):
        app.AsyncResult('id').get(timeout=5)
    backend.set(backend.get_key_for_task('odd'), b'{"status": 5}')
    try:
        raise SoftTimeLimitExceeded
    except SoftTimeLimitExceeded:  # one that was met before
        assert app.AsyncResult('odd').state == states.FAILURE


def test_an_item_that_cannot_be_read_fails_alone(
        app: Celery, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    good = ready_tasks(backend, 1)[0]
    hostile: dict[str, dict[str, Any]] = {
        'not-binary': {'result': {'N': '5'}},
        'a-list': {'result': {'L': [{'S': 'x'}]}},
        'not-json': {'result': {'B': b'\xff\xfe{'}},
        'not-a-meta': {'result': {'S': '[1, 2]'}},
        'no-status': {'result': {'S': '{"result": 1}'}},
        'odd-status': {'result': {'S': '{"status": ["x"], "result": 1}'}},
        'pickle': {'result': {'B': pickle.dumps({'status': 'SUCCESS', 'result': 1})}},
        'os-system': {'result': {'S': json.dumps({'status': 'FAILURE', 'result': {
            'exc_type': 'system', 'exc_message': ['true'], 'exc_module': 'os'}})}},
        'chunks-of-text': {'chunks': {'S': 'many'}, 'version': {'B': b'1'}, 'size': {'N': '5'}},
        'chunks-without-end': {
            'chunks': {'N': '9' * 30}, 'version': {'B': b'1'}, 'size': {'N': '9' * 33}},
        'chunks-missing': {'chunks': {'N': '2'}, 'version': {'B': b'1'}, 'size': {'N': '800000'}},
        'no-version': {'chunks': {'N': '2'}, 'size': {'N': '800000'}},
        'no-size': {'chunks': {'N': '2'}, 'version': {'B': b'1'}},
    }
    for id, attributes in hostile.items():
        item = {'id': {'S': f'celery-task-meta-{id}'}, **attributes}
        client.put_item(TableName=table_name, Item=item)
    together = result_set(app, [good, *hostile])
    values = together.get(timeout=20, propagate=False)
    assert values[0] == 0
    for id, value in zip(hostile, values[1:]):
        assert isinstance(value, Exception) and 'cannot be read' in str(value), (id, value)
        with pytest.raises(celery.exceptions.BackendGetMetaError, match='cannot be read'):
            app.AsyncResult(id).get(timeout=5)
        backend.store_result(id, 'replaced', states.SUCCESS)
        assert app.AsyncResult(id).get(timeout=5) == 'replaced'


def test_mget_goes_on_past_an_item_that_cannot_be_read(
        app: Celery, backend: dv.DynamoDBBackend, client: Any, table_name: str, proxy: Proxy,
        caplog: pytest.LogCaptureFixture) -> None:
    ids = ready_tasks(backend, 199)
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-task-meta-odd'}, 'result': {'L': []}})
    keys = [backend.get_key_for_task(id) for id in [*ids, 'odd']]
    proxy.reset()
    *values, odd = backend.mget(keys)
    assert [backend.decode_result(value)['result'] for value in values] == list(range(199))
    assert odd is None and 'celery-task-meta-odd: TypeError' in caplog.text
    assert cost(proxy) == (2, 100, 0)
    with pytest.raises(dv.UnreadableValue):
        backend.get(keys[-1])


def test_airflow_reads_the_states_of_a_thousand_tasks_in_ten_requests(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    # what BulkStateFetcher of apache-airflow-providers-celery 3.26.0 does at each heartbeat
    sent = [app.AsyncResult(str(uuid.uuid4())) for _ in range(1000)]
    # the results come from the processes that sent the tasks, and get the scheduler's backend
    sent = [pickle.loads(pickle.dumps(result)) for result in sent]
    for result in sent:
        result.backend = backend
    waiting, ended = sent[:500], sent[500:503]
    for result in sent[503:]:
        backend.store_result(result.id, None, states.STARTED)
    backend.mark_as_done(ended[0].id, 'done')
    backend.mark_as_failure(ended[1].id, ValueError('no'), traceback='Traceback: here')
    backend.mark_as_revoked(ended[2].id, 'terminated')
    proxy.reset()

    assert isinstance(app.backend, BaseKeyValueStoreBackend)  # or it asks for one after the other
    task_ids = {result.task_id for result in sent}
    values = app.backend.mget([app.backend.get_key_for_task(id) for id in task_ids])
    decoded = [app.backend.decode_result(value) for value in values if value]
    assert cost(proxy) == (10, 500, 0)
    by_id = {meta['task_id']: meta for meta in decoded}
    assert not {result.id for result in waiting} & set(by_id)
    assert [by_id[result.id]['status'] for result in ended] == ['SUCCESS', 'FAILURE', 'REVOKED']
    assert [by_id[result.id]['status'] for result in sent[503:]] == ['STARTED'] * 497
    # a scheduler that adopts the tasks of one that died also looks at their errors
    assert repr(ended[1].result) == repr(by_id[ended[1].id]['result']) == "ValueError('no')"


scalars = st.one_of(
    st.text(max_size=20).map(lambda text: {'S': text or 'x'}),
    st.binary(min_size=1, max_size=20).map(lambda data: {'B': data}),
    st.one_of(st.integers(-3, 40), st.integers(-10**37, 10**37), st.floats(1e-30, 1e30)).map(
        lambda number: {'N': repr(number)}),
    st.sampled_from([
        {'BOOL': True}, {'NULL': True}, {'S': 'SUCCESS'},
        {'S': '{"status": "SUCCESS", "result": 1}'},
        {'S': '{"status": "FAILURE", "result": {"exc_type": 7}}'},
        {'S': '{"status": "PROGRESS"}'}, {'S': '{}'}]))
attribute_values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3).map(lambda values: {'L': values}),
    st.dictionaries(st.text(min_size=1, max_size=5), scalars, max_size=3).map(
        lambda values: {'M': values}),
    st.sets(st.binary(min_size=1, max_size=5), min_size=1, max_size=3).map(
        lambda values: {'BS': sorted(values)}),
    st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=3).map(
        lambda values: {'SS': sorted(values)}),
    st.sets(st.integers(-9, 9), min_size=1, max_size=3).map(
        lambda values: {'NS': sorted(map(str, values))}))
attribute_names = st.sampled_from([
    'result', 'status', 'timestamp', 'ttl', 'chunks', 'version', 'size', 'chord_count', 'members',
    'count', 'closed', 'other'])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(attributes=st.dictionaries(attribute_names, attribute_values, max_size=6))
# true is 1 in Python, and 1 has expired
@example(attributes={'ttl': {'NULL': True}, 'result': {'SS': ['x']}})
@example(attributes={'chord_count': {'S': '{"status": "SUCCESS", "result": 1}'}})
@example(attributes={'ttl': {'BOOL': True}, 'timestamp': {'BOOL': True}, 'status': {'BOOL': True}})
def test_any_item_is_read_or_a_clear_error_and_can_be_replaced(
        attributes: dict[str, Any], app: Celery, backend: dv.DynamoDBBackend, client: Any,
        table_name: str) -> None:
    backend.store_result('good', 'good', states.SUCCESS)
    client.put_item(TableName=table_name, Item={'id': {'S': 'celery-task-meta-odd'}, **attributes})
    try:
        assert isinstance(backend.get_task_meta('odd', cache=False)['status'], str)
    except celery.exceptions.BackendGetMetaError as exc:
        assert 'cannot be read' in str(exc)
    found: list[Any] = []
    try:
        found.extend(backend.get_many(['odd', 'good'], timeout=0))
    except TimeoutError:
        pass  # the odd one has no state, or one that is not final
    assert dict(found)['good']['result'] == 'good'
    assert app.AsyncResult('good').get(timeout=5) == 'good'
    backend.store_result('odd', 'replaced', states.SUCCESS)
    succeeded = {'S': '{"status": "SUCCESS", "result": 1}'}
    if attributes.get('result') != succeeded:
        assert backend.get_result('odd') == 'replaced'
    backend.forget('odd')
    assert backend.get_state('odd') == states.PENDING


def test_what_it_supports(app: Celery) -> None:
    backend = app.backend
    assert isinstance(backend, dv.DynamoDBBackend)
    assert backend.supports_autoexpire and backend.supports_native_join
    assert backend.supports_result_compression
    assert backend.supports_failure_expires


def test_the_costs_of_single_operations(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    for state in (states.STARTED, 'PROGRESS', states.SUCCESS):
        backend.store_result('id', {'some': 'result'}, state)
        assert cost(proxy) == (1, 0, 1)
    assert backend.get_task_meta('id', cache=False)['result'] == {'some': 'result'}
    assert cost(proxy) == (1, 1, 0)
    assert backend.get_state('none') == states.PENDING
    assert cost(proxy) == (1, 1, 0)
    backend.forget('id')
    assert cost(proxy) == (1, 0, 1)
    assert backend.get_state('id') == states.PENDING


@pytest.mark.parametrize('size', [1, 100, 250])
def test_a_ready_group_is_read_in_batches(
        size: int, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ids = [str(uuid.uuid4()) for _ in range(size)]
    for number, id in enumerate(ids):
        backend.store_result(id, number, states.SUCCESS)
    proxy.reset()
    result = backend.app.GroupResult('g', [backend.app.AsyncResult(id) for id in ids])
    assert result.join_native(timeout=10) == list(range(size))
    requests, reads, writes = cost(proxy)
    assert requests == -(-size // 100) and reads <= size and writes == 0


def test_items_carry_what_the_layout_says(make_app: MakeApp, client: Any, table_name: str) -> None:
    backend = make_app(result_expires=100).backend
    before = time.time()
    backend.store_result('abc', [1], states.SUCCESS)
    item, = all_items(client, table_name)
    assert set(item) == {'id', 'result', 'timestamp', 'status', 'ttl'}
    assert item['id'] == 'celery-task-meta-abc' and item['status'] == 'SUCCESS'
    assert before <= item['timestamp'] <= time.time()
    assert before + 100 <= item['ttl'] < time.time() + 101
    meta = json.loads(item['result'])
    assert (meta['task_id'], meta['status'], meta['result']) == ('abc', 'SUCCESS', [1])


def test_a_task_that_is_sent_is_distinguished_from_an_id_that_never_was(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    app = make_app('track_sent=true', result_expires=600)
    ready(app, proxy)

    @app.task(shared=False)
    def task() -> int:
        return 42

    @app.task(shared=False, ignore_result=True)
    def ignored() -> int:
        return 42

    result, never = task.delay(), app.AsyncResult('never')
    ignored.delay()
    task.apply_async(ignore_result=True)
    assert cost(proxy) == (1, 0, 1)
    item, = all_items(client, table_name)
    assert item['id'] == f'celery-task-meta-{result.id}' and item['status'] == 'PENDING'
    assert 590 < item['ttl'] - time.time() < 601
    assert result.state == never.state == states.PENDING
    assert result.children == []
    if hasattr(result, 'exists'):  # since Celery 5.7
        assert result.exists() and not never.exists()

    # never over anything that is there
    for state in (states.STARTED, states.SUCCESS):
        app.backend.store_result(result.id, 1, state)
        task.apply_async(task_id=result.id)
        assert app.AsyncResult(result.id).state == state
    client.update_item(
        TableName=table_name, Key={'id': {'S': item['id']}}, UpdateExpression='SET #t = :t',
        ExpressionAttributeNames={'#t': 'ttl'}, ExpressionAttributeValues={':t': {'N': '5'}})
    task.apply_async(task_id=result.id)  # but over what has expired
    assert all_items(client, table_name)[0]['status'] == 'PENDING'
    proxy.reset()
    make_app().send_task('untracked')
    assert operations(proxy) == []


def test_a_task_is_sent_whatever_becomes_of_its_tracking(
        make_app: MakeApp, proxy: Proxy, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(text: str = 'track_sent') -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == dv.__name__
                and record.levelno >= logging.WARNING and text in record.getMessage()]

    app = make_app('track_sent=true')
    sent: list[str] = []

    def note(headers: Any = None, **kwargs: Any) -> None:
        sent.append(headers['id'])

    celery.signals.after_task_publish.connect(note)
    app.send_task('task')  # the table is missing: it is not made to wait for one
    assert 'CreateTable' not in operations(proxy)
    assert len(lines('')) == 1 and 'track_sent: tasks are sent, but it is not stored' in lines()[0]
    assert 'ResourceNotFoundException' in lines()[0]
    app.send_task('task')  # and the next one does not try
    assert operations(proxy) == ['PutItem']

    monkeypatch.setattr(dv.SentTasks, 'PAUSE', 0)
    caplog.clear()
    app = make_app('track_sent=true&read_timeout=30')
    ready(app, proxy)
    for fault in (ResetBefore(), Throttle(), Delay(60)):
        proxy.faults = first(99, fault)
        app.send_task('task')
        assert len(lines()) == 1
    # it does not wait for the answer that is still to come
    assert 'dyna-veggie' in [thread.name for thread in threading.enumerate()]
    monkeypatch.setattr(dv.SentTasks, 'PATIENCE', 60)
    proxy.faults = first(1, ServerError())  # a hiccup is waited out
    result = app.send_task('task')
    proxy.faults = None
    assert app.backend.get(app.backend.get_key_for_task(result.id))
    assert len(sent) == 6 and len(lines()) == 1


def test_a_task_that_is_sent_looks_for_new_credentials_if_they_expired(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app('track_sent=true')
    monkeypatch.setattr(dv.SentTasks, 'PATIENCE', 60.0)
    ready(app, proxy)
    expired = app.backend.store.table.client.botocore
    proxy.faults = first(1, Error('ExpiredTokenException'))
    app.send_task('task', task_id='id')
    assert operations(proxy) == ['PutItem', 'PutItem']
    assert app.backend.store.table.client.botocore is not expired


def test_a_task_is_sent_where_no_thread_can_be_started(
        make_app: MakeApp, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app('track_sent=true')
    ready(app, proxy)
    usual = threading.stack_size(1 << 46)  # bytes, which nobody has
    try:
        with pytest.raises(RuntimeError):
            threading.Thread(target=print).start()
        app.send_task('task')
    finally:
        threading.stack_size(usual)
    assert caplog.text.count('track_sent: tasks are sent, but it is not stored') == 1


@pytest.mark.parametrize(('query', 'conf', 'expected'), [
    ('', {}, 86400), ('', {'result_expires': 60}, 60),
    ('', {'result_expires': datetime.timedelta(minutes=2)}, 120),
    ('', {'result_expires': None}, None), ('', {'result_expires': 0}, None),
    ('ttl_seconds=30', {}, 30), ('ttl_seconds=30', {'result_expires': 60}, 30),
    ('ttl_seconds=-1', {}, None), ('ttl_seconds=0', {}, None)])
def test_how_long_results_are_kept(
        query: str, conf: Any, expected: int | None, make_app: MakeApp, client: Any,
        table_name: str) -> None:
    backend = make_app(query, **conf).backend
    assert backend.expires == expected
    backend.store_result('id', 1, states.SUCCESS)
    backend.store_result('failed', ValueError(), states.FAILURE)
    for item in all_items(client, table_name):
        if expected is None:
            assert 'ttl' not in item
        else:
            assert expected - 5 < item['ttl'] - time.time() < expected + 1


def test_failures_expire_on_their_own_where_celery_has_it(
        make_app: MakeApp, client: Any, table_name: str) -> None:
    app = make_app(result_expires=1000)
    app.conf.result_failure_expires = 50
    app.backend.store_result('good', 1, states.SUCCESS)
    app.backend.store_result('failed', ValueError(), states.FAILURE)
    ttls = {item['id'][17:]: item['ttl'] - time.time() for item in all_items(client, table_name)}
    assert 40 < ttls['failed'] < 51 and 990 < ttls['good'] < 1001


def kept_for(client: Any, table: str) -> dict[str, int | None]:
    """How many seconds each item is kept, by its id without prefix."""
    now = time.time()
    return {item['id'].rpartition('celery-task-meta-')[2]:
            round(item['ttl'] - now, -1) if 'ttl' in item else None
            for item in all_items(client, table)}


def test_a_task_or_a_message_can_say_how_long_its_result_is_kept(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str) -> None:

    def large() -> str:
        return 'x' * 500 * KB

    options: dict[str, Any] = {
        'unset': {'typing': False}, 'short': {'result_expires': 60}, 'zero': {'result_expires': 0},
        'none': {'result_expires': None},
        'delta': {'result_expires': datetime.timedelta(minutes=2)}}
    named = {name: app.task(large, name=f'keep-{name}', shared=False, **given)
             for name, given in options.items()}
    with working(app):
        results = [task.apply_async(task_id=name) for name, task in named.items()]
        for id, seconds in (('header', 5000), ('ever', None)):
            results.append(named['short'].apply_async(
                task_id=id, headers={'result_expires': seconds}))
        # it has no argument to fail with
        results.append(named['unset'].apply_async(
            ('surplus',), task_id='failed', headers={'result_expires': 90}))
        for result in results:
            result.get(timeout=30, propagate=False)
    kept = kept_for(client, table_name)
    expected = {'unset': 86400, 'short': 60, 'delta': 120, 'none': None, 'zero': None,
                'header': 5000, 'ever': None, 'failed': 90}
    assert {name: kept[name] for name in expected} == expected
    for id, seconds in kept.items():  # the chunks, too
        assert seconds == expected[id.partition('/')[0]]
    assert set(operations(proxy)) <= {'PutItem', 'BatchWriteItem', 'BatchGetItem', 'GetItem'}
    # and it is kept through a retry
    request = celery.app.task.Context({'task': 'keep-short', 'headers': {'result_expires': 700}})
    again = celery.app.task.Context(request.as_execution_options())
    assert backend._state_lifetime(states.SUCCESS, again) == 700


def test_the_expiry_of_a_chord_wins_over_that_of_a_part_if_it_is_longer(
        make_app: MakeApp, client: Any, table_name: str) -> None:
    app = make_app(result_expires=500, result_chord_expires=1000)
    for id, seconds in (('1', 60), ('2', 5000), ('3', 0)):
        request = celery.app.task.Context({
            'id': id, 'chord': {'task': 'body'}, 'result_expires': seconds})
        app.backend.store_result(id, 1, states.SUCCESS, request=request)
    assert kept_for(client, table_name) == {'1': 1000, '2': 5000, '3': None}


@pytest.mark.parametrize('bad', ['soon', [1], True, float('nan'), 10**400, '1_0'])
def test_a_bad_expiry_of_a_task_is_an_error_and_loses_no_result(
        bad: Any, make_app: MakeApp, client: Any, table_name: str,
        caplog: pytest.LogCaptureFixture) -> None:
    backend = make_app(result_expires=500).backend
    dv._log_bad_expires.cache_clear()
    for state in (states.STARTED, states.SUCCESS):
        request = celery.app.task.Context({'id': '1', 'task': 'proj.t', 'result_expires': bad})
        backend.store_result('1', 42, state, request=request)
    assert backend.get_result('1') == 42
    assert kept_for(client, table_name) == {'1': 500}
    error, = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.getMessage() == (
        f'Task proj.t: result_expires={bad!r} must be seconds, a timedelta, or None for ever; '
        'its results are kept for 500 s, like those of others')


def test_expired_items_are_hidden_and_replaced(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    backend.store_result('id', 1, states.SUCCESS)
    key = {'id': {'S': 'celery-task-meta-id'}}
    client.update_item(
        TableName=table_name, Key=key, UpdateExpression='SET #t = :t',
        ExpressionAttributeNames={'#t': 'ttl'},
        ExpressionAttributeValues={':t': {'N': str(int(time.time()) - 1)}})
    assert backend.get_state('id') == states.PENDING
    assert backend.mget(['celery-task-meta-id']) == [None]
    backend.store_result('id', 2, states.STARTED)
    assert backend.get_task_meta('id')['result'] == 2


def test_expiry_is_judged_by_the_clock_of_who_reads(
        make_app: MakeApp, proxy: Proxy, table_name: str) -> None:
    backend = make_app('ttl_seconds=60').backend
    backend.store_result('id', 1, states.SUCCESS)
    url = backend_url(f'local/{table_name}', proxy.url)
    program = f'''
        import time
        clock = time.time
        time.time = lambda: clock() + {{}}
        from celery import Celery
        app = Celery(backend='{url}')
        print(app.AsyncResult('id').state)
    '''
    for skew, state in ((-600, states.SUCCESS), (30, states.SUCCESS), (600, states.PENDING)):
        assert run_python(sys.path, program.format(skew)) == state + '\n'


def test_a_result_that_expires_while_another_is_stored(make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(result_expires=1), proxy)
    backend.store_result('id', 1, states.SUCCESS)
    backend.expires = 100
    backend.store_result('id', 2, states.SUCCESS)
    assert backend.get_result('id') in (1, 2)
    time.sleep(2.1)
    backend.store_result('id', 3, states.SUCCESS)
    assert backend.get_task_meta('id', cache=False)['result'] in (2, 3)


@pytest.mark.parametrize(
    'state', [states.STARTED, states.RETRY, states.FAILURE, states.SUCCESS, 'PROGRESS'])
def test_success_is_never_overwritten(
        state: str, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    backend.store_result('id', 'first', states.SUCCESS)
    proxy.reset()
    second: Any = ValueError('x') if state == states.FAILURE else 'second'
    backend.store_result('id', second, state)
    done = [request.operation for request in proxy.requests if request.error is None]
    assert done in ([], ['GetItem'])
    assert backend.get_task_meta('id')['result'] == 'first'


@pytest.mark.parametrize('state', [states.STARTED, states.RETRY, states.FAILURE, 'PROGRESS'])
def test_other_states_are_overwritten(state: str, backend: dv.DynamoDBBackend) -> None:
    result: Any = ValueError('x') if state in states.EXCEPTION_STATES else 'first'
    backend.store_result('id', result, state)
    assert backend.get_state('id') == state
    backend.store_result('id', 'second', states.SUCCESS)
    assert backend.get_result('id') == 'second'


def test_a_large_result_that_is_refused_leaves_no_chunk(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    backend.store_result('id', 'first', states.SUCCESS)
    backend.store_result('id', 'x' * 900 * KB, states.SUCCESS)
    assert backend.get_result('id') == 'first'
    assert len(all_items(client, table_name)) == 1


def test_exactly_one_of_many_racing_successes_is_kept(
        app: Celery, backend: dv.DynamoDBBackend) -> None:
    seen: list[Any] = []

    def store(number: int) -> None:
        app.backend.store_result('id', number, states.SUCCESS)
        seen.append(app.backend.get_task_meta('id', cache=False)['result'])

    threads = [threading.Thread(target=store, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 12 and len(set(seen)) == 1


def celerys_item(
        client: Any, table: str, key: str, state: str, result: Any, ttl: int | None = None) -> None:
    """As Celery's own DynamoDB backend writes it."""
    meta = {'status': state, 'result': result, 'traceback': None, 'children': [],
            'date_done': None, 'task_id': 'id'}
    item = {'id': {'S': key}, 'result': {'B': json.dumps(meta).encode()},
            'timestamp': {'N': str(time.time())}}
    if ttl:
        item['ttl'] = {'N': str(ttl)}
    client.put_item(TableName=table, Item=item)


def test_celerys_own_items_are_read_and_its_successes_kept(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('celery_keys=true'), proxy)
    key = "b'celery-task-meta-id'"
    celerys_item(client, table_name, key, states.STARTED, None)
    assert backend.get_state('id') == states.STARTED
    backend.store_result('id', 'ours', 'PROGRESS')
    assert backend.get_state('id') == 'PROGRESS'
    assert [item['id'] for item in all_items(client, table_name)] == [key]

    celerys_item(client, table_name, key, states.SUCCESS, 'theirs')
    backend.store_result('id', 'ours', states.SUCCESS)
    assert backend.get_task_meta('id', cache=False)['result'] == 'theirs'
    celerys_item(client, table_name, key, states.SUCCESS, 'theirs', ttl=int(time.time()) - 5)
    backend.store_result('id', 'ours', states.SUCCESS)
    assert backend.get_task_meta('id', cache=False)['result'] == 'ours'


@pytest.mark.skipif(
    importlib.util.find_spec('boto3') is None, reason="Celery's own backend needs boto3")
def test_celerys_own_backend_and_ours_read_each_others_results(
        make_app: MakeApp, proxy: Proxy, table_name: str, endpoint: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.setenv(name, 'local')
    ours = ready(make_app('celery_keys=true'), proxy)
    # Celery 5.3 takes another name for a region
    place = endpoint.replace('http://', '').replace('127.0.0.1', 'localhost')
    url = f'celery.backends.dynamodb.DynamoDBBackend+dynamodb://@{place}/{table_name}'
    theirs = Celery('theirs', backend=url, set_as_current=False).backend
    for writer, reader in ((ours, theirs), (theirs, ours)):
        name = writer.__class__.__module__
        writer.store_result(f'{name}-1', {'a': ['ü', 1.5]}, states.SUCCESS)
        writer.store_result(f'{name}-2', KeyError('no'), states.FAILURE, traceback='where')
        writer.store_result(f'{name}-3', {'done': 3}, 'PROGRESS')
        assert reader.get_result(f'{name}-1') == {'a': ['ü', 1.5]}
        assert isinstance(reader.get_result(f'{name}-2'), KeyError)
        assert reader.get_traceback(f'{name}-2') == 'where'
        assert reader.get_task_meta(f'{name}-3')['result'] == {'done': 3}
        saved = [writer.app.AsyncResult(f'{name}-{number}') for number in (1, 2)]
        writer.save_group(f'{name}-group', writer.app.GroupResult(f'{name}-group', saved))
        restored = reader.restore_group(f'{name}-group').results
        assert [result.id for result in restored] == [result.id for result in saved]
        reader.forget(f'{name}-1')
        assert writer.get_state(f'{name}-1') == states.PENDING
    # none overwrites the other's success
    ours.store_result('both', 'ours', states.SUCCESS)
    theirs.store_result('both', 'theirs', states.FAILURE)
    assert ours.get_task_meta('both', cache=False)['result'] == 'ours'


def test_the_urls_of_dyna_veggie_0_3() -> None:
    parsed = options(
        f'dynamodb://AKID:{quote(SECRET, safe="")}@eu-west-1:8000/results'
        '?read_throughput=10&write_throughput=20'
        '&retry_if_throttled=false&consistency_wait_time=2')
    assert (parsed.access_key, parsed.secret_key) == ('AKID', SECRET)
    assert (parsed.region, parsed.table) == ('eu-west-1', 'results')
    assert (parsed.read_throughput, parsed.write_throughput) == (10, 20)
    assert (parsed.retry_if_throttled, parsed.consistency_wait_time) == (False, 2)


def test_a_celery_item_that_changes_meanwhile_is_looked_at_again(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('celery_keys=true'), proxy)
    key = "b'celery-task-meta-id'"
    celerys_item(client, table_name, key, states.STARTED, None)
    puts = iter(range(9))

    def success_comes_before_the_second_put(operation: str, body: Any) -> None:
        if operation == 'PutItem' and next(puts) == 1:
            celerys_item(client, table_name, key, states.SUCCESS, 'theirs')

    proxy.faults = success_comes_before_the_second_put
    backend.store_result('id', 'ours', states.SUCCESS)
    assert backend.get_result('id') == 'theirs'


@pytest.mark.parametrize('meanwhile', [
    {'status': {'S': 'STARTED'}}, {'timestamp': {'N': '7'}, 'ttl': {'N': '1'}},
    {'timestamp': {'N': '7'}}, {'timestamp': {'S': '7'}}])
def test_a_celery_item_that_anything_replaces_meanwhile_can_be_replaced(
        meanwhile: dict[str, Any], make_app: MakeApp, proxy: Proxy, client: Any,
        table_name: str) -> None:
    backend = ready(make_app('celery_keys=true'), proxy)
    key = "b'celery-task-meta-id'"
    celerys_item(client, table_name, key, states.STARTED, None)
    puts = iter(range(9))

    def another_comes_before_the_second_put(operation: str, body: Any) -> None:
        if operation == 'PutItem' and next(puts) == 1:
            item = {'id': {'S': key}, 'result': {'B': b'{}'}, **meanwhile}
            client.put_item(TableName=table_name, Item=item)

    proxy.faults = another_comes_before_the_second_put
    backend.store_result('id', 'ours', states.SUCCESS)
    assert backend.get_result('id') == 'ours'
    assert next(puts) <= 4


def test_items_that_are_not_ours_can_be_replaced(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-task-meta-id'}, 'what': {'L': [{'NULL': True}]}})
    assert backend.get_state('id') == states.PENDING
    backend.store_result('id', 1, states.SUCCESS)
    assert backend.get_result('id') == 1
    digits = {'N': '1795540229.12345678901234567'}  # more than a float has
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-task-meta-other'}, 'timestamp': digits})
    backend.store_result('other', 2, states.SUCCESS)
    assert backend.get_result('other') == 2


def test_keys_values_and_counters(backend: dv.DynamoDBBackend) -> None:
    backend.set('key', 'text é')
    assert backend.get('key') == backend.get(b'key') == 'text é'.encode()
    backend.delete('key')
    backend.delete('key')
    assert backend.get('key') is None
    assert [backend.incr('count') for _ in range(3)] == [1, 2, 3]
    assert backend.get('count') == b'3'
    backend.expire('none', 5)
    assert backend.get('none') is None
    assert backend.mget([]) == []
    assert backend.cleanup() is None


def test_groups_are_saved_restored_and_deleted(backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    app = backend.app
    inner = app.GroupResult('h', [app.AsyncResult('b')])
    result = app.GroupResult('g', [app.AsyncResult('a'), inner])
    result.save()
    proxy.reset()
    assert celery.result.GroupResult.restore('g', app=app) == result
    assert cost(proxy) == (1, 1, 0)
    result.delete()
    backend.options = dv.dataclasses.replace(backend.options, consistency_wait_time=0.1)
    assert celery.result.GroupResult.restore('g', app=app) is None


def test_restoring_a_group_waits_for_it_to_appear(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    app = backend.app
    result = app.GroupResult('g', [app.AsyncResult('a')])
    timer = threading.Timer(0.3, lambda: app.backend.save_group('g', result))
    timer.start()
    assert backend.restore_group('g') == result
    timer.join()
    reads = [request for request in proxy.requests if request.operation == 'GetItem']
    assert {request.body['ConsistentRead'] for request in reads} == {True}


def test_reads_of_states_are_strongly_consistent_and_polls_are_not(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    backend.get_state('id')
    backend.mget(['id'])
    with pytest.raises(TimeoutError):
        backend.app.AsyncResult('id').get(timeout=0.1)
    consistent = [body.get('ConsistentRead') for request in proxy.requests
                  for body in request.body.get('RequestItems', {'': request.body}).values()]
    assert consistent[:3] == [True, False, True] and set(consistent[3:-1]) == {False}
    assert consistent[-1] is True


@pytest.mark.skipif(not hasattr(celery.backends.base, 'compress_payload'), reason='Celery 5.7')
def test_compressed_results(make_app: MakeApp, client: Any, table_name: str) -> None:
    backend = make_app(result_compression='gzip').backend
    backend.store_result('id', 'x' * 2_000_000, states.SUCCESS)
    assert backend.get_result('id') == 'x' * 2_000_000
    item, = all_items(client, table_name)
    assert len(item['result']) < 10_000


@pytest.mark.parametrize('serializer', ['json', 'pickle', 'yaml', 'msgpack'])
def test_serializers(serializer: str, make_app: MakeApp) -> None:
    pytest.importorskip(serializer)
    backend = make_app(result_serializer=serializer, result_accept_content=[serializer]).backend
    backend.store_result('id', {'a': [1, 'é']}, states.SUCCESS)
    assert backend.get_result('id') == {'a': [1, 'é']}
    backend.store_result('failed', KeyError('x'), states.FAILURE)
    with pytest.raises(KeyError):
        backend.app.AsyncResult('failed').get(timeout=1)


def test_the_global_key_prefix(make_app: MakeApp, client: Any, table_name: str) -> None:
    backend = make_app(result_backend_transport_options={'global_keyprefix': 'mine'}).backend
    backend.store_result('id', 1, states.SUCCESS)
    assert [item['id'] for item in all_items(client, table_name)] == ['mine_celery-task-meta-id']
    assert backend.get_result('id') == 1


def test_a_task_is_sent_whatever_raises_while_it_is_tracked(
        make_app: MakeApp, proxy: Proxy, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.SentTasks, 'PAUSE', 0)
    name = 'serializer-that-fails'
    kombu.serialization.register(name, lambda value: 1 / 0, json.loads, 'application/x-fails')
    app = make_app('track_sent=true', result_serializer=name)
    ready(app, proxy)
    app.send_task('task')
    kombu.serialization.unregister(name)
    app = make_app('track_sent=true')
    assert proxy.requests == []

    def instrument(**kwargs: Any) -> None:
        raise TypeError('instrumented')

    app.send_task('task')
    app.backend.store.table.client.botocore.meta.events.register(
        'before-call.dynamodb.PutItem', instrument)
    app.send_task('task')
    assert operations(proxy) == ['PutItem']
    got = [record.getMessage() for record in caplog.records if 'track_sent' in record.msg]
    assert 'division by zero' in got[0]
    assert len(got) == 2 and got[1].endswith('it is not stored that they were: instrumented')


USERINFO = f'AKID:{quote(SECRET, safe="")}'


def app_at(place: str, name: str = 'app', **conf: Any) -> Celery:
    app = Celery(name, backend='dyna_veggie.DynamoDBBackend+dynamodb://' + place,
                 set_as_current=False)
    app.conf.update(conf)
    return app


def set_of(app: Celery) -> Any:
    """A set with a chain's end and a set in it."""
    parent = app.AsyncResult('parent')
    inner = app.GroupResult('inner', [app.AsyncResult('c')])
    return app.GroupResult('g', [app.AsyncResult('a'), app.AsyncResult('b', parent=parent), inner])


def unpickled(given: Any) -> Any:
    pickled = pickle.dumps(given)
    assert SECRET not in str(pickled) and quote(SECRET, safe='') not in str(pickled)
    return pickle.loads(pickled)


@pytest.mark.parametrize('copied', [copy.copy, copy.deepcopy, unpickled])
@pytest.mark.parametrize('keys', [f'{USERINFO}@', ''])
def test_a_backend_that_is_copied_keeps_its_app(
        copied: Callable[[Any], Any], keys: str, table_name: str) -> None:
    place = f'eu-west-1/{table_name}'  # apps of other tests may be alive still
    theirs = app_at(keys + place, result_backend_transport_options={
        'global_keyprefix': 'theirs', 'retry_timeout': 7}, result_expires=77)
    apps = [app_at(f'{USERINFO}@eu-west-1/other'), app_at(f'OTHER:key@{place}')]
    for current in apps:
        current.set_current()
        for backend in (copied(theirs.backend), copied(theirs.AsyncResult('id')).backend):
            assert backend.options == theirs.backend.options and backend.app is theirs
            assert backend.item_id('id') == theirs.backend.item_id('id')
            assert backend.url == theirs.backend.url and backend.expires == 77
            assert type(backend) is dv.DynamoDBBackend


@pytest.mark.parametrize('copied', [copy.copy, copy.deepcopy])
def test_a_backend_that_no_app_names_is_copied_with_its_keys(
        copied: Callable[[Any], Any]) -> None:
    app_at('eu-west-1/current').set_current()
    app = app_at('eu-west-1')
    backend = dv.DynamoDBBackend(f'dynamodb://{USERINFO}@eu-west-1/by-hand', app=app, expires=5)
    backend = copied(backend)
    assert backend.options.secret_key == SECRET and backend.expires == 5 and backend.app is app


def test_an_unpickled_result_fails_when_it_is_used_and_no_app_has_its_key(
        table_name: str) -> None:
    app = app_at(f'{USERINFO}@eu-west-1/{table_name}')
    pickled = pickle.dumps(set_of(app))
    app.close()
    others = [app_at('eu-west-1/broken'), Celery('others', backend='redis://[')]
    others[0].config_from_object('settings_that_do_not_exist')
    app_at('eu-west-1/current').set_current()
    results = pickle.loads(pickled)
    relayed = pickle.loads(pickle.dumps(copy.deepcopy(results)))  # as a manager's process does
    for member in (*results, *relayed):
        backend = next(dv.leaf_results(member)).backend
        assert isinstance(backend, dv.DynamoDBBackend)
        with pytest.raises(ImproperlyConfigured, match='the secret key in the URL is'):
            backend.get_state('id')
        with pytest.raises(ImproperlyConfigured, match='the secret key in the URL is'):
            member.get(timeout=0)
    app = app_at(f'{USERINFO}@eu-west-1/{table_name}')  # imported after all
    relayed[0].backend.expires = 5
    assert relayed[0].backend.app is app
    assert relayed[0].backend.expires == 5
    assert relayed[0].backend.options.secret_key == SECRET


@pytest.mark.parametrize('current', ['second', 'default'])
def test_an_unpickled_set_asks_the_backend_of_its_own_app(
        current: str, make_app: MakeApp, proxy: Proxy) -> None:
    first = make_app('read_timeout=9', result_backend_transport_options={'global_keyprefix': '1'})
    ids = ready_tasks(ready(first, proxy), 3)
    pickled = pickle.dumps(result_set(first, ids))
    app = make_app() if current == 'second' else Celery(current, set_as_current=False)
    app.set_current()  # its backend was not used
    results = pickle.loads(pickled)
    assert results.get(timeout=1) == [0, 1, 2]
    assert [meta['result'] for _, meta in results[0].backend.iter_native(results)] == [0, 1, 2]


CHILD = """
import multiprocessing
import sys
from celery import Celery

def app_at(name, place):
    return Celery(name, backend=f'dyna_veggie.DynamoDBBackend+dynamodb://{{place}}')

first = app_at('first', {keys!r} + '@eu-west-1/first')
second = app_at('second', {keys!r} + '@eu-west-1/second')  # the current one

def child(results):
    for leaf in (*results, results[0].parent):
        print(leaf.id, leaf.backend.options.table, leaf.backend.options.secret_key == {secret!r})

if __name__ == '__main__':
    multiprocessing.set_start_method(sys.argv[1])
    parent = first.AsyncResult('parent')
    results = first.GroupResult('g', [first.AsyncResult('member', parent=parent)])
    process = multiprocessing.Process(target=child, args=(results,))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_a_child_process_finds_the_app_of_the_results_it_is_given(
        method: str, tmp_path: Path) -> None:
    script = tmp_path / 'proj.py'
    script.write_text(CHILD.format(keys=USERINFO, secret=SECRET))
    run = subprocess.run(
        [sys.executable, str(script), method], capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert run.stdout.split('\n')[:2] == ['member first True', 'parent first True'], run.stderr


@pytest.mark.parametrize('method', ['fork', 'forkserver', 'spawn', pytest.param(
    'interpreters', marks=pytest.mark.skipif(
        sys.version_info < (3, 14), reason='InterpreterPoolExecutor came with Python 3.14'))])
def test_clients_in_children_and_interpreters(
        method: str, tmp_path: Path, proxy: Proxy, table_name: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'control').mkdir()
    module = import_worker_tasks(
        monkeypatch, BROKER='broker', BROKER_FOLDER=tmp_path,
        RESULT_BACKEND=backend_url(f'{USERINFO}@local/{table_name}', proxy.url))
    with working(module.app, conf={'worker_concurrency': 4}):
        run_tool('clients.py', method, timeout=200)


SUCCEEDED = {'status': {'S': 'SUCCESS'}, 'result': {'B': b'{"status": "SUCCESS", "result": 1}'}}


def test_malformed_labels_of_chords_are_clear_errors(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    put_raw(client, table_name, 'RUN', lazy={'BOOL': False}, single_leaf={'BOOL': False})
    labels: list[dict[str, Any]] = [
        {'N': '5'}, {'L': [{'S': 'x'}]}, {'BS': [b'x']}, {'S': '.5'}, {'S': 'x' * 3000 + '.5'},
        {'S': 'RUN.'}, {'S': 'RUN.many'}]
    for label in labels:
        put_raw(client, table_name, 'celery-task-meta-id', chord=label, **SUCCEEDED)
        result = backend.app.AsyncResult('id')
        assert result.state == states.FAILURE, label
        assert 'counters of its chord' in str(result.result), label
        assert isinstance(result.result, celery.exceptions.BackendGetMetaError)


RUNS: dict[str, dict[str, Any]] = {
    'size of a text': {'size': {'S': 'many'}}, 'size without end': {'size': {'N': '9' * 30}},
    'size below zero': {'size': {'N': '-5'}}, 'no single_leaf': {'single_leaf': None},
    'owner of a text': {'owner': {'S': 'me'}}, 'members of a number': {'members': {'N': '5'}},
    'members of texts': {'members': {'SS': ['x']}}, 'short members': {'members': {'BS': [b'x']}},
    'added of a list': {'added': {'L': [{'N': '1'}]}}, 'failed of maps': {
        'failed': {'L': [{'M': {}}]}}}


def test_malformed_runs_are_clear_errors_and_stop_no_command(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drives = {}
    for name, change in RUNS.items():
        drives[name] = drive = Drive(backend.app, 2)
        drive.apply()
        drive.returns(0)
        (attribute, value), = change.items()
        of_run = attribute in ('size', 'single_leaf', 'owner')
        update: dict[str, Any] = {'UpdateExpression': 'REMOVE #a'}
        if value is not None:
            update = {'UpdateExpression': 'SET #a = :v', 'ExpressionAttributeValues': {':v': value}}
        client.update_item(
            TableName=table_name, Key={'id': {'S': drive.run.id + ('' if of_run else '.0.0')}},
            ExpressionAttributeNames={'#a': attribute}, **update)
        result = backend.app.AsyncResult(drive.ids[0])
        assert result.state in (states.FAILURE, states.STARTED, states.SUCCESS), name
        assert result.state != states.FAILURE or 'counters of its chord' in str(result.result)
    lines = cli('list', '--json-lines', '--state', 'RUNNING')[1].splitlines()
    rows = {row['id']: row for row in map(json.loads, (
        line for line in lines if line.startswith('{')))}
    listed = cli('list', '--limit', '0')[1]
    for name, drive in drives.items():
        row = rows[drive.group_id]
        assert (row['error'] is None) == (name == 'owner of a text'), name
        assert f'{drive.group_id}  {"cannot be read" if row["error"] else ""}' in listed
    for name in ('size without end', 'members of a number', 'short members'):
        shown = cli('show', drives[name].group_id, '--json')[1]['chord']
        assert shown['id'] == drives[name].group_id and shown['error'].startswith('its counters: ')
    code, output = cli('show', drives['no single_leaf'].group_id)
    assert code == 0 and 'chord      cannot be read: its counters: KeyError' in output


# --------------------------------------------------------------------------------------------------
# Operations and commands
# --------------------------------------------------------------------------------------------------

@pytest.fixture(autouse=True)
def without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands print is as wide as it is: pytest-xdist sets this variable."""
    monkeypatch.delenv('COLUMNS', raising=False)


HINT = 'names and arguments are not stored: see result_extended\n'


@pytest.fixture
def cli(proxy: Proxy, table_name: str) -> Callable[..., Any]:
    """Runs a command against the table of the test, and returns exit code and output."""
    # click 8.1, the last for Python 3.9, mixes what is written to stderr into stdout unless told
    # not to; 8.2 cannot be told
    separate: dict[str, Any] = {}
    if importlib.metadata.version('click') < '8.2':
        separate['mix_stderr'] = False

    def command(
            *arguments: str, query: str = '', app: Celery | None = None, answer: str = '',
    ) -> tuple[int, Any]:
        as_json = '--json' in arguments  # --json-lines: as text
        arguments = tuple('--json' if each == '--json-lines' else each for each in arguments)
        place = f'{table_name}?endpoint_url={quote(proxy.url, safe="")}'
        url = f'dynamodb://local/{place}&retry_base_delay=0.001{query}'
        runner = click.testing.CliRunner(**(separate if as_json else {}))
        done = runner.invoke(
            dv.commands, [*(() if app else ('-b', url)), *arguments], input=answer,
            obj=app and Holder(app))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        if as_json and done.stdout:
            return done.exit_code, json.loads(done.stdout)
        return done.exit_code, done.output
    return command


def test_check_says_what_a_worker_would_find(
        cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any, table_name: str) -> None:
    code, output = cli('check')
    assert code == 0 and 'NO' not in output
    for text in ('not needed', 'us-east-1', proxy.url, table_name,
                 'id (S, HASH), ACTIVE, PROVISIONED', 'ENABLED, on ttl'):
        assert text in output
    code, answer = cli('check', '--json')
    allowed = {
        check['name'] for check in answer['checks'] if check['ok'] and check['found'] == 'allowed'}
    assert answer['ok'] and allowed >= {
        'GetItem', 'PutItem', 'UpdateItem', 'DeleteItem', 'BatchGetItem', 'BatchWriteItem'}
    assert all_items(client, table_name) == []

    def denied(operation: str, body: Any) -> Any:
        if operation in ('GetItem', 'DescribeTable'):
            return Error('AccessDeniedException', 'no')
        return None

    proxy.faults = denied
    code, answer = cli('check', '--json')
    assert (code, answer['ok']) == (1, False)
    failed = {check['name']: check['ok'] for check in answer['checks'] if not check['ok']}
    failed.pop(dv.INSERT, None)  # DynamoDB Local of 2020 has no PartiQL
    assert failed == {'GetItem': False, 'DescribeTable': None}
    proxy.faults = lambda operation, body: (
        Error('AccessDeniedException', 'no') if operation == 'BatchExecuteStatement' else None)
    code, answer = cli('check', '--json')
    found, = [check for check in answer['checks'] if check['name'] == dv.INSERT]
    assert code == 0 and found['ok'] is None and 'a request of its own' in found['found']
    proxy.faults = lambda operation, body: Error('UnrecognizedClientException', 'no')
    code, output = cli('check')
    assert code == 1 and output.count('AWS does not know these credentials') == 1
    proxy.down = True
    code, output = cli('check', query='&retry_max_delay=0.01')
    assert code == 1 and output.count('NO') == 1
    assert re.search('NO  endpoint .*(Connection was closed|Could not connect)', output)
    assert 'ok  endpoint' not in output and '  table ' not in output


def run(*arguments: str, **options: Any) -> click.testing.Result:
    return click.testing.CliRunner().invoke(dv.commands, arguments, **options)


@pytest.mark.parametrize(('endpoint_url', 'why'), [
    ('http://127.0.0.1:9', 'Connection refused'), ('http://nowhere.invalid', 'ame|resol')])
@pytest.mark.parametrize('command', ['check', 'show id', 'list'])
def test_why_there_is_no_connection(command: str, endpoint_url: str, why: str) -> None:
    url = f'dynamodb://local/celery?endpoint_url={endpoint_url}&retry_max_delay=0.01'
    done = run('-b', url, *command.split())
    line = re.search(f'Could not connect to .*{endpoint_url}.*: (.*)', done.output)
    assert done.exit_code == 1 and line and re.search(why, line[1]), done.output
    assert command != 'check' or 'NO  endpoint' in done.output


def test_check_doubts_a_region_that_botocore_does_not_know(aws: None) -> None:
    output = run('-b', 'dynamodb://eu-west-9/celery', 'check').output
    assert re.search('--  region          eu-west-9: botocore knows no such region; did you mean '
                     r'eu-west-\d\?\n', output)
    output = run('-b', 'dynamodb://eu-west-1/celery', 'check').output
    assert 'ok  region          eu-west-1\n' in output


def test_check_does_not_create_the_table_and_create_table_does(
        cli: Any, proxy: Proxy, client: Any, table_name: str) -> None:
    code, output = cli('check')
    assert code == 0 and 'GetItem' not in output
    assert ('--  table           does not exist in us-east-1 yet: the first request creates it\n'
            in output)
    code, output = cli('check', query='&create_table=false')
    assert code == 1 and 'NO  table' in output
    assert f"table='{table_name}' does not exist in us-east-1" in output
    assert 'CreateTable' not in operations(proxy)
    code, output = cli('create-table', query='&create_table=false&billing_mode=on_demand')
    assert code == 0 and output == (
        f'table {table_name} in us-east-1: '
        'created, ACTIVE, PAY_PER_REQUEST, time to live ENABLED, on ttl\n')
    table = client.describe_table(TableName=table_name)['Table']
    assert table['BillingModeSummary']['BillingMode'] == 'PAY_PER_REQUEST'
    ttl = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert ttl['AttributeName'] == 'ttl'
    assert cli('create-table', '--json')[1]['created'] is False
    assert cli('check')[0] == 0


@pytest.mark.parametrize('command', ['list', 'purge', 'check', 'create-table', 'show id'])
def test_wrong_keys_are_reported_as_such_to_an_operator(
        command: str, cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    proxy.faults = lambda operation, body: Error('UnrecognizedClientException', 'no')
    code, output = cli(*command.split())
    assert code == 1 and 'AWS does not know these credentials' in output
    assert 'create the table' not in output


def test_time_to_live_that_is_off_is_reported_and_turned_on(
        cli: Any, client: Any, table_name: str) -> None:
    create_table(client, table_name, 'id')
    code, output = cli('check')
    assert code == 0
    assert '--  time to live    DISABLED, on no attribute: expired items stay' in output
    assert 'exists, ACTIVE' in cli('create-table')[1]
    assert 'ok  time to live    ENABLED, on ttl' in cli('check')[1]


def test_check_warns_of_capacity_that_one_worker_exceeds(
        app: Celery, backend: dv.DynamoDBBackend, cli: Any, client: Any, table_name: str) -> None:
    def row() -> str:
        done = click.testing.CliRunner().invoke(
            dv.commands, ['check'], obj=type('Context', (), {'app': app}))
        assert done.exit_code == 0
        return next(line for line in done.output.splitlines() if line[4:12] == 'capacity')

    app.conf.worker_concurrency = 2
    assert row() == 'ok  capacity        5 write units a second'
    app.conf.worker_concurrency = 8
    app.conf.task_track_started = True
    assert row().startswith('--  capacity        5 write units a second: a worker that runs 8 '
                            'tasks at once, each for a second, needs 24; raise them')
    client.update_table(TableName=table_name, BillingMode='PAY_PER_REQUEST')
    assert row() == 'ok  capacity        on demand'


def test_check_finds_another_key(cli: Any, client: Any, table_name: str) -> None:
    create_table(client, table_name, 'pk')
    code, output = cli('check')
    assert code == 1 and 'its key is pk (S, HASH)' in output
    code, output = cli('create-table')
    assert code == 1 and 'its key is pk (S, HASH)' in output
    ttl = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert ttl['TimeToLiveStatus'] == 'DISABLED'


def test_time_to_live_on_another_attribute_is_left_to_a_person(
        cli: Any, client: Any, table_name: str) -> None:
    create_table(client, table_name)
    specification = {'Enabled': True, 'AttributeName': 'until'}
    client.update_time_to_live(TableName=table_name, TimeToLiveSpecification=specification)
    code, output = cli('create-table')
    assert code == 1 and 'ENABLED, on until, and a table has one such attribute' in output
    assert f'aws dynamodb update-time-to-live --table-name {table_name} ' in output
    assert 'Enabled=false,AttributeName=until' in output
    said = client.describe_time_to_live(TableName=table_name)['TimeToLiveDescription']
    assert said['AttributeName'] == 'until'
    code, output = cli('check')
    assert code == 0 and '--  time to live    ENABLED, on until' in output
    assert 'nothing was read' not in cli('purge')[1]


@pytest.mark.parametrize('command', ['check', 'create-table', 'purge', 'list', 'show id'])
def test_a_dead_endpoint_is_reported_within_ten_seconds(command: str) -> None:
    with socket.socket() as silent:  # it accepts, and never answers
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        url = f'dynamodb://local:{silent.getsockname()[1]}/celery'
        began = time.monotonic()
        done = click.testing.CliRunner().invoke(dv.commands, ['-b', url, *command.split()])
        assert time.monotonic() - began < 15  # with a margin for a busy machine
    assert done.exit_code == 1 and 'Read timeout on endpoint URL' in done.output, done.output


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials of account 123456789012, and no way to AWS."""
    for name, value in (('AWS_ACCESS_KEY_ID', 'AKID'), ('AWS_SECRET_ACCESS_KEY', SECRET),
                        ('AWS_ACCOUNT_ID', '123456789012'), ('HTTPS_PROXY', 'http://127.0.0.1:9'),
                        ('AWS_CONFIG_FILE', os.devnull)):
        monkeypatch.setenv(name, value)
    for name in ('AWS_PROFILE', 'AWS_SESSION_TOKEN', 'NO_PROXY', 'no_proxy', 'AWS_ENDPOINT_URL'):
        monkeypatch.delenv(name, raising=False)
    yield


KNOWS_ACCOUNTS = hasattr(botocore.credentials.Credentials('a', 'b'), 'account_id')


@pytest.mark.skipif(not KNOWS_ACCOUNTS, reason='botocore before 1.36 does not know accounts')
def test_commands_know_the_account_where_its_credentials_do(aws: None) -> None:
    runner = click.testing.CliRunner()
    done = runner.invoke(dv.commands, ['-b', 'dynamodb://eu-west-1/celery', 'check'])
    assert done.exit_code == 1 and '--  identity        Failed to connect to proxy' in done.output
    assert ('NO  endpoint        https://123456789012.ddb.eu-west-1.amazonaws.com: Failed'
            in done.output)
    done = runner.invoke(dv.commands, ['-b', 'dynamodb://eu-west-1/celery', 'policy'])
    arn = 'arn:aws:dynamodb:eu-west-1:123456789012:table/celery'
    assert json.loads(done.output)['Statement'][0]['Resource'] == arn
    principal = 'arn:aws:iam::210987654321:role/worker'
    done = runner.invoke(dv.commands, [
        '-b', 'dynamodb://eu-west-1/celery', 'policy', '--principal', principal])
    statement, = json.loads(done.output)['Statement']
    assert (statement['Principal'], statement['Resource']) == ({'AWS': principal}, arn)


def test_no_policy_of_a_table_allows_to_create_it(aws: None) -> None:
    done = click.testing.CliRunner().invoke(dv.commands, [
        '-b', 'dynamodb://eu-west-1/celery', 'policy', '--bootstrap', '--principal', 'arn'])
    assert done.exit_code == 2 and 'give --bootstrap or --principal' in done.output


def test_the_identity_is_what_sts_says(
        aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b'''<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
        <GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/worker/i-1</Arn>
        <UserId>AROA:i-1</UserId><Account>123456789012</Account></GetCallerIdentityResult>
        </GetCallerIdentityResponse>'''

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers['Content-Length']))
            self.send_response(200)
            self.send_header('Content-Length', str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f'http://127.0.0.1:{server.server_port}'
        monkeypatch.setenv('AWS_ENDPOINT_URL_STS', endpoint)
        config = botocore.session.Session().create_client('sts', 'eu-west-1').meta
        if config.endpoint_url != endpoint:
            pytest.skip('botocore before 1.31 does not know AWS_ENDPOINT_URL_STS')
        arn = 'arn:aws:sts::123456789012:assumed-role/worker/i-1'
        assert dv.identity(options('dynamodb://eu-west-1')) == arn
        server.shutdown()


def test_a_response_of_sts_that_cannot_be_parsed_is_a_failure_of_the_request(
        monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_text('not XML') as endpoint:
        monkeypatch.setenv('AWS_ENDPOINT_URL_STS', endpoint)
        if botocore.session.Session().create_client(
                'sts', 'eu-west-1').meta.endpoint_url != endpoint:
            pytest.skip('botocore before 1.31 does not know AWS_ENDPOINT_URL_STS')
        with pytest.raises(dv.MalformedResponse) as caught:
            dv.identity(options('dynamodb://key:secret@eu-west-1'))
    assert isinstance(caught.value, dv.FAILURES) and dv.classify(caught.value).transient


def test_policies_name_the_actions_that_are_used(
        cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy, table_name: str) -> None:
    def actions(*arguments: str, query: str = '') -> list[str]:
        code, policy = cli('policy', '--json', *arguments, query=query)
        (statement,) = policy['Statement']
        assert code == 0
        assert statement['Resource'] == f'arn:aws:dynamodb:us-east-1:*:table/{table_name}'
        return [action.partition(':')[2] for action in statement['Action']]

    drive = Drive(backend.app, 45)
    drive.apply()
    drive.all_return()
    backend.store_result('big', noise(500 * KB).hex(), states.SUCCESS)
    result_set(backend.app, [*drive.ids, 'big']).get(timeout=30)
    assert backend.get_state('none') == states.PENDING
    backend.forget('big')
    # what inserts is BatchExecuteStatement, and needs another action
    sent = {*operations(proxy)} - {'BatchExecuteStatement'}
    if 'PartiQL INSERT' not in dynamodb_local.lacks(proxy.endpoint_url):
        sent |= {'PartiQLInsert'}
    assert sent == set(actions())
    proxy.reset()
    cli('create-table', query='x')
    assert set(operations(proxy)) <= set(actions('--bootstrap'))
    tagged, expiring = actions('--bootstrap', query='&tags=a:b'), actions(query='&ttl_seconds=9')
    always = {*actions('--bootstrap'), 'PartiQLInsert'}  # other options are another table's
    assert set(tagged) - always == {'TagResource'}
    assert set(expiring) - always <= set() and {'DescribeTimeToLive', 'UpdateTimeToLive'} <= set(
        expiring)


def test_commands_for_a_table_of_another_account(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    app = arn_app(make_app, proxy, table_name)

    def cli(*command: str) -> tuple[int, str]:
        done = click.testing.CliRunner().invoke(
            dv.commands, command, obj=type('Context', (), {'app': app}))
        return done.exit_code, done.output

    arn = app.backend.options.table
    for command in ('check', 'create-table'):
        code, output = cli(command)
        assert code == 1 and f'create {table_name} with credentials of account 1234567' in output
    assert 'CreateTable' not in operations(proxy)
    create_table(client, table_name)
    code, output = cli('create-table')
    assert code == 0 and 'exists, ACTIVE, PAY_PER_REQUEST, time to live ENABLED' in output
    code, output = cli('check')
    assert code == 0 and arn in output and 'ok  DescribeTable' in output
    code, output = cli('policy', '--json')
    assert json.loads(output)['Statement'][0]['Resource'] == arn
    assert cli('purge', '--force')[1].endswith('0 expired items deleted\n')
    assert 'nothing is stored' in cli('show', 'none')[1]


SHOWN = {
    'id', 'kind', 'state', 'name', 'args', 'kwargs', 'worker', 'queue', 'retries', 'parent',
    'group', 'started', 'stored', 'done', 'duration', 'expires', 'size', 'chunks', 'error'}


def test_show_a_task(cli: Any, make_app: MakeApp, client: Any, proxy: Proxy,
                     table_name: str) -> None:
    backend = ready(make_app(result_extended=True, timezone='Asia/Tokyo'), proxy)
    assert 'PENDING' in cli('show', 'none')[1] and 'nothing is stored' in cli('show', 'none')[1]
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-task-meta-old'}, 'ttl': {'N': '86400'}})
    assert 'expired 1970-01-02 00:00:00 UTC, not deleted yet' in cli('show', 'old')[1]
    got = cli('show', 'old', '--json')[1]
    assert (got['state'], got['expires']) == ('PENDING', '1970-01-02T00:00:00.000+00:00')
    assert cli('show', '') == (1, 'Error: the id is empty\n')
    assert 'the id of a task is too long' in cli('show', 'x' * 3000)[1]
    assert cli('show', 'x\ud800') == (1, 'Error: the id is no text in UTF-8\n')
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-task-meta-name'},
        'result': {'B': rb'{"status": "SUCCESS", "name": "n\ud800"}'}})
    assert 'n\\ud800' in cli('show', 'name')[1]
    request = celery.app.task.Context({
        'id': 'small', 'task': 'proj.add', 'args': [1, 2], 'kwargs': {'to': 3}, 'retries': 2,
        'hostname': 'worker@host', 'parent_id': 'mother', 'group': 'team',
        'delivery_info': {'routing_key': 'queue-1'}})
    request.children.append(backend.app.AsyncResult('child'))
    backend.store_result('small', {'a': 1.5}, states.SUCCESS, request=request)
    code, answer = cli('show', 'small', '--json')
    assert code == 0
    moments = [answer.pop(name) for name in ('stored', 'done', 'expires')]
    parsed = [datetime.datetime.fromisoformat(moment) for moment in moments]
    assert all(moment[10] == 'T' and moment.endswith('+00:00') for moment in moments)
    assert abs(parsed[0] - parsed[1]).total_seconds() < 2
    assert abs((parsed[2] - parsed[0]).total_seconds() - 86400) < 2
    assert 200 < answer.pop('size') < 500
    assert answer == {
        'id': 'small', 'kind': 'task', 'state': 'SUCCESS', 'result': {'a': 1.5},
        'traceback': None, 'name': 'proj.add', 'args': [1, 2], 'kwargs': {'to': 3},
        'worker': 'worker@host', 'queue': 'queue-1', 'retries': 2, 'parent': 'mother',
        'group': 'team', 'children': ['child'], 'chunks': 0, 'results': None, 'chord': None,
        'stored_as': 'celery-task-meta-small', 'error': None,
        'started': None, 'duration': None}  # the request of no task that ran
    output = cli('show', 'small')[1]
    assert f'done       {moments[1][:19].replace("T", " ")} UTC' in output.splitlines()
    for line in ("result     {'a': 1.5}", 'name       proj.add', 'worker     worker@host',
                 'queue      queue-1', 'retries    2', 'parent     mother', "children   ['child']"):
        assert line in output.splitlines()
    assert cli('show', 'celery-task-meta-small')[1] == output

    backend.store_result('large', 'x' * 900 * KB, states.SUCCESS)
    answer = cli('show', 'large', '--json')[1]
    assert answer['chunks'] == 3 and answer['size'] > 900 * KB
    assert answer['result'] == 'x' * 900 * KB
    assert len(cli('show', 'large')[1]) < 1500
    backend.store_result('bad', KeyError('no'), states.FAILURE, traceback='Traceback: here')
    output = cli('show', 'bad')[1]
    assert "KeyError('no')" in output and 'Traceback: here' in output
    old = make_app('celery_keys=true').backend
    old.store_result('theirs', 1, states.SUCCESS)
    for id in ('theirs', "b'celery-task-meta-theirs'"):
        answer = cli('show', id, '--json')[1]
        assert (answer['id'], answer['result']) == ('theirs', 1)
        assert answer['stored_as'] == "b'celery-task-meta-theirs'"
    nothing = cli('show', 'none', '--json')[1]
    assert set(nothing) == set(answer) == {
        *SHOWN, 'result', 'traceback', 'children', 'results', 'chord', 'stored_as'}


def test_show_a_group_and_a_chord(cli: Any, backend: dv.DynamoDBBackend) -> None:
    results = [backend.app.AsyncResult(str(number)) for number in range(3)]
    backend.app.GroupResult('saved', results).save()
    assert 'group      3 results: 0, 1, 2\n' in cli('show', 'saved')[1]
    assert cli('show', 'saved', '--json')[1]['results'] == ['0', '1', '2']
    for parts, lazy in ((3, False), (101, False), (45, True)):
        drive = Drive(backend.app, parts, lazy)
        drive.apply()
        if lazy:
            assert '0 of ? parts counted' in cli('show', drive.group_id)[1]
            drive.size()
        drive.returns(0)
        drive.returns(1)
        output = cli('show', drive.group_id)[1]
        assert f'2 of {parts} parts counted' in output
        assert ('missing' in output) == (not lazy)
        assert ('missing    99: in the header at 2-100 (from 0)' in output) == (parts == 101)
        chord = cli('show', drive.group_id, '--json')[1]['chord']
        assert (chord['state'], chord['counted'], chord['failed']) == ('RUNNING', 2, 0)
        for index in range(2, parts):
            drive.returns(index)
        output = cli('show', drive.group_id)[1]
        assert 'closed: its body was called, or its errbacks' in output
        assert f'{parts} of {parts} parts counted' in output and 'missing' not in output
    drive = Drive(backend.app, 10)
    drive.apply()
    for index in range(3):
        drive.returns(index)
    for index in (5, 3):
        backend.mark_as_failure(drive.ids[index], ValueError('no'), request=drive.request(index))
    chord = cli('show', drive.group_id, '--json')[1]['chord']
    assert (chord['counted'], chord['failed'], chord['expected']) == (5, 2, 10)
    assert chord['first_failed'] == [drive.ids[3], drive.ids[5]]
    assert chord['first_missing'] == [[4, 4], [6, 9]]
    output = cli('show', drive.group_id)[1]
    assert 'chord      2 failed, 5 of 10 parts counted\n' in output
    assert f'failed     2: {drive.ids[3]}, {drive.ids[5]}' in output
    assert 'missing    5: in the header at 4, 6-9 (from 0)\n' in output
    assert f'{drive.group_id}  2 failed, 5 of 10 parts counted\n' in cli('list')[1]
    drive = Drive(backend.app, 50)
    drive.apply()
    for index in range(0, 50, 2):
        drive.returns(index)
    assert 'at 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, … (from 0)\n' in cli('show', drive.group_id)[1]


def test_what_is_known_of_the_parts_that_a_chord_waits_for(
        cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    drive = Drive(backend.app, 45)
    drive.apply()
    for index in range(6, 45):
        drive.returns(index)
    for index, state in ((1, states.STARTED), (3, states.RETRY)):
        request = drive.request(index)
        dv.delivery_of(request).started = dv.monotonic() - 600
        value = ValueError() if index == 3 else {'pid': 5, 'hostname': 'w@host'}
        backend.store_result(drive.ids[index], value, state, request=request)

    def die(operation: str) -> None:
        if operation == 'UpdateItem':
            raise Died
    with Hook(backend, die), pytest.raises(Died):  # between the store and the count
        drive.returns(2)
    backend.store_result(drive.ids[4], 1, states.SUCCESS)  # not in this run
    proxy.reset()
    shown = cli('show', drive.group_id, '--json')[1]
    assert operations(proxy).count('BatchGetItem') == 3  # two forms of the id, leaves, these parts
    missing = shown['chord']['missing']
    assert [set(row) for row in missing] == [
        {'id', 'place', 'state', 'worker', 'started', 'stored'}] * 6
    assert [(row['id'], row['place']) for row in missing] == list(zip(drive.ids, range(6)))
    assert [row['state'] for row in missing] == [
        None, 'STARTED', 'SUCCESS', 'RETRY', None, None]
    assert missing[1]['worker'] == 'w@host' and missing[0]['stored'] is None
    assert abs(seconds_since(missing[1]['started']) - 600) < 10
    output = cli('show', drive.group_id)[1]
    for index, text in enumerate((
            'not started', 'STARTED 10m ago, on w@host',
            r'SUCCESS \d+s ago, but it was not counted', 'RETRY 10m ago', 'not started',
            'not started')):
        assert re.search(f'^part       {drive.ids[index]}  {text}$', output, re.MULTILINE), output
    assert 'unknown    whether a part that is not started runs, unless task_tr' in output
    assert 'the ids of the other parts' not in output
    for index in range(6):
        drive.returns(index)
    assert cli('show', drive.group_id, '--json')[1]['chord']['missing'] == []


def test_the_missing_parts_of_nested_and_of_large_headers_and_of_generators(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    def missing(drive: Drive) -> list[Any]:
        rows: list[Any] = cli('show', drive.group_id, '--json')[1]['chord']['missing']
        return rows

    drive = Drive(backend.app, 3)
    first, *others = [backend.app.AsyncResult(id) for id in drive.ids]
    backend.apply_chord(
        (drive.group_id, [first, backend.app.GroupResult('inner', others)]), drive.body)
    drive.returns(1)
    rows = missing(drive)
    assert {row['id'] for row in rows} == {drive.ids[0], drive.ids[2]}
    assert all(row['place'] is None for row in rows)
    client.update_item(
        TableName=table_name, Key={'id': {'S': drive.run.header_id}},
        UpdateExpression='SET #r = :r', ExpressionAttributeNames={'#r': 'result'},
        ExpressionAttributeValues={':r': {'S': 'odd'}})
    assert missing(drive) == []

    drive = Drive(backend.app, 150)
    drive.apply()
    drive.returns(0)
    assert [row['id'] for row in missing(drive)] == drive.ids[1:101]
    output = cli('show', drive.group_id)[1]
    assert output.count('\npart  ') == 11 and '… (--json has 100)' in output
    assert 'the ids of the other parts' not in output
    # a part that was added by one that was counted
    request = drive.request(1)
    request.chord['options']['dynamodb_run']['adds'] = ['added']
    for index in range(150):
        drive.returns(index, request=request if index == 1 else None)
    assert [(row['id'], row['place']) for row in missing(drive)] == [('added', None)]

    drive = Drive(backend.app, 3, lazy=True)
    drive.apply()
    drive.returns(0)
    assert missing(drive) == []
    assert 'unknown    the ids of the other parts: those of a generator' in cli(
        'show', drive.group_id)[1]


def test_a_chord_shows_when_it_was_opened_and_last_counted_unless_it_is_old(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str, proxy: Proxy) -> None:
    drive = Drive(backend.app, 3)
    drive.apply()
    drive.returns(0)
    leaf = drive.run.node_id(dv.Position(0, 0))
    backdate(client, table_name, drive.run.id)

    def listed(*arguments: str) -> tuple[Any, list[str]]:
        row = cli('list', '--state', 'RUNNING', '--json')[1]
        return row, cli('list', '--state', 'RUNNING')[1].splitlines()[-3:-1]

    proxy.reset()
    row, (head, line) = listed()
    assert operations(proxy) == ['DescribeTable', 'Scan', 'GetItem', 'BatchGetItem'] * 2
    assert row['opened'] == '1970-01-01T00:00:05.000+00:00'
    assert 0 <= seconds_since(row['last_counted']) < 10
    assert head.split() == ['AGE', 'STATE', 'LAST', 'ID', 'ERROR']
    assert re.match(r'\d+d +RUNNING  \d+s +' + drive.group_id, line)
    output = cli('show', drive.group_id)[1]
    assert '\nopened     1970-01-01 00:00:05 UTC, ' in output and '\nlast count 20' in output
    for id in (drive.run.id, leaf):
        client.update_item(
            TableName=table_name, Key={'id': {'S': id}}, UpdateExpression='REMOVE #t, pending',
            ExpressionAttributeNames={'#t': 'timestamp'})
    row, (head, line) = listed()
    assert row['opened'] is None and row['last_counted'] is None
    assert head.split() == ['STATE', 'ID', 'ERROR']
    shown = cli('show', drive.group_id, '--json')[1]['chord']
    assert (shown['first_missing'], shown['missing']) == ([[1, 2]], [])
    output = cli('show', drive.group_id)[1]
    assert 'opened' not in output and 'last count' not in output
    drive.returns(1)  # it still counts, and ends
    drive.returns(2)
    assert drive.published == [[0, 1, 2]]


def test_an_id_without_a_result_is_not_shown_as_that_of_a_task(
        cli: Any, backend: dv.DynamoDBBackend) -> None:
    backend.app.GroupResult('saved', [backend.app.AsyncResult('one')]).save()
    drive = Drive(backend.app, 2)
    drive.apply()

    def shown(id: str) -> list[Any]:
        answer = cli('show', id, '--json')[1]
        return [answer[name] for name in ('kind', 'state', 'size', 'chunks')]

    assert shown('saved') == ['group', None, None, None]
    assert shown(drive.group_id) == ['chord', 'RUNNING', None, None] == shown(drive.body_id)
    for index in range(2):
        drive.returns(index)
    assert shown(drive.group_id) == ['chord', 'CLOSED', None, None]
    backend.store_result(drive.body_id, 1, states.SUCCESS)
    assert shown(drive.body_id)[:2] == ['task', 'SUCCESS']
    assert shown('none')[:2] == ['task', 'PENDING']


@pytest.mark.parametrize('fails', [False, True])
@pytest.mark.parametrize('as_json', [[], ['--json']])
def test_a_chord_is_watched_until_it_ends(
        fails: bool, as_json: list[str], cli: Any, app: Celery, proxy: Proxy,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, 'WATCH_INTERVAL', 0.02)
    drive = Drive(ready(app, proxy).app, 3)
    drive.apply()
    drive.returns(0)

    def wait_for_reads(number: int = 4) -> None:
        proxy.reset()
        deadline = time.monotonic() + 20
        while operations(proxy).count('GetItem') < number and time.monotonic() < deadline:
            time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(
            run, 'show', drive.body_id, '--watch', *as_json, obj=Holder(drive.app))
        wait_for_reads()
        drive.fails(1, ValueError()) if fails else drive.returns(1)
        wait_for_reads()
        drive.returns(2)
        done = watching.result(30)
    assert done.exit_code == int(fails), done.output
    *lines, last = done.stdout.splitlines()
    if as_json:
        rows = [json.loads(line) for line in [*lines, last]]
        assert [key for key, _ in itertools.groupby(row['counted'] for row in rows)] == [1, 2, 3]
        assert (rows[-1]['state'], rows[-1]['failed']) == ('CLOSED', int(fails))
        return
    assert re.fullmatch(
        r'\[###       \] 1 of 3 parts counted, last \d+s ago, age \d+s', lines[0])
    failed = '1 failed, ' if fails else ''
    assert any(line.startswith(f'[{"#" * 6:10}] {failed}2 of 3 parts counted, ')
               and '/s, ETA ' in line and ', last 0s ago, age ' in line for line in lines)
    assert lines[-1].startswith(f'[{"#" * 10}] {failed}3 of 3 parts counted')
    assert last == ('it failed, or was ended: its errbacks were called' if fails
                    else 'its body was called')


def test_what_cannot_be_watched_and_how_an_ended_chord_ends(
        cli: Any, app: Celery, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv, 'WATCH_INTERVAL', 0.02)
    ready(app, proxy)
    assert cli('show', 'none', '--watch') == (1, 'Error: there is no chord none\n')
    stuck = Stuck(app)
    assert cli('fail', stuck.body_id, '--reason=why', '--yes', app=app)[0] == 0
    code, output = cli('show', stuck.group_id, '--watch')
    assert code == 1 and output.endswith('it failed, or was ended: its errbacks were called\n')


def test_a_chord_whose_counters_have_expired_is_not_said_to_have_failed(
        cli: Any, app: Celery, proxy: Proxy, client: Any, table_name: str) -> None:
    drive = Drive(ready(app, proxy).app, 2)
    drive.apply()
    drive.returns(0)
    drive.returns(1)
    for item in all_items(client, table_name):
        if item['id'].startswith(drive.run.id) and 'lazy' not in item:
            client.delete_item(TableName=table_name, Key={'id': {'S': item['id']}})
    code, output = cli('show', drive.group_id, '--watch')
    assert code == 1 and '0 of 2' in output
    assert output.endswith('it has ended, and its counters may have expired: see its result\n')


def test_the_pace_of_a_chord_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    pace, old = dv.Pace(), {'opened': None, 'last_counted': None}
    row: dict[str, Any] = {**old, 'failed': 12, 'expected': 20_000}
    for counted in (2000, 2500, 2500):
        line = pace.line({**row, 'counted': counted})
        assert len(line) < 80 and line.startswith('[#') and 'age' not in line
    row = {**row, 'counted': 2500, 'opened': dv.to_iso(time.time() - 3600)}
    assert len(pace.line(row)) < 80
    monkeypatch.setenv('COLUMNS', '120')
    assert pace.line(row).endswith(' ago, age 60m')
    quiet = {**row, 'failed': 0, 'last_counted': dv.to_iso(time.time() - 600)}
    assert dv.Pace().line(quiet).endswith('] 2,500 of 20,000 parts counted, last 10m ago, age 60m')
    assert pace.line({**old, 'counted': 5, 'failed': 0, 'expected': None}).startswith(
        '5 of ? parts')


@pytest.mark.parametrize('by', ['group_id', 'body_id'])
def test_show_a_chord_and_end_it(by: str, cli: Any, app: Celery) -> None:
    stuck = Stuck(app)
    id = getattr(stuck, by)

    def fail(*arguments: str, answer: str = '') -> Any:
        return cli('fail', id, '--reason', 'the worker is lost', *arguments, app=app, answer=answer)

    shown = cli('show', id, '--json')[1]['chord']
    assert (shown['id'], shown['state'], shown['first_missing']) == (
        stuck.group_id, 'RUNNING', [[2, 2]])
    code, output = fail(answer='n')
    assert f'the chord {stuck.group_id}: 2 of 3 parts counted. End it?' in output
    assert code == 1 and stuck.called == [] and not stuck.is_closed()
    assert fail()[0] == 1 and not stuck.is_closed()  # nobody answers
    assert cli('fail', id, app=app)[0] == 2
    assert 'name the app with -A' in cli('fail', id, '--reason', 'why', '--yes')[1]

    code, output = fail(answer='y')
    assert code == 0 and f'the chord {stuck.group_id} was ended: the worker is lost\n' in output
    assert stuck.reasons() == ['the worker is lost'] == [stuck.error()]
    code, output = fail('--yes')
    assert code == 3 and f'{stuck.group_id} had ended before, or its body was publ' in output
    assert 'chord      closed' in cli('show', id)[1]


def test_what_keeps_a_person_from_ending_a_chord(
        cli: Any, app: Celery, client: Any, table_name: str, small_tree: None) -> None:
    stuck = Stuck(app)

    def fail(id: str) -> Any:
        return cli('fail', id, '--reason=why', '--yes', app=app)

    assert fail('other') == (1, 'Error: there is no chord other\n')
    assert fail('') == (1, 'Error: the id is empty\n')
    dv.Lease.DURATION = 0.4
    owner = dv.Lease(app.backend.store.table, stuck.run, dv.new_owner('part'))
    assert owner.acquire(dv.no_sleep) is not None
    with owner.heartbeats():
        assert fail(stuck.body_id) == (
            1, f'Error: a worker is ending the chord {stuck.body_id}\n')
    client.update_item(
        TableName=table_name, Key={'id': {'S': stuck.run.id}}, UpdateExpression='REMOVE lazy')
    assert fail(stuck.group_id) == (1, f'Error: there is no chord {stuck.group_id}\n')
    client.update_item(
        TableName=table_name, Key={'id': {'S': stuck.run.id}}, UpdateExpression='SET lazy = :v',
        ExpressionAttributeValues={':v': {'S': 'x'}})
    client.update_item(
        TableName=table_name, Key={'id': {'S': stuck.run.id}}, UpdateExpression='SET #s = :v',
        ExpressionAttributeNames={'#s': 'size'}, ExpressionAttributeValues={':v': {'S': 'x'}})
    code, output = fail(stuck.group_id)
    assert code == 1 and f'the chord {stuck.group_id} cannot be read: its counters: ' in output


@pytest.mark.parametrize('size', [0, 4000])
def test_a_chord_is_ended_by_an_app_that_has_not_imported_its_tasks(
        size: int, app: Celery, tmp_path: Path, table_name: str, endpoint: str) -> None:
    url = f'dynamodb://local/{table_name}?endpoint_url={quote(endpoint, safe="")}'
    (tmp_path / 'proj.py').write_text(f"""
import celery
app = celery.Celery('proj', backend={url!r}, broker='memory://', include=['work'])
""")
    (tmp_path / 'work.py').write_text("""
import pathlib
from proj import app
@app.task
def errback(request, exc, traceback, path):
    pathlib.Path(path).write_text(f'{request.id} {exc!r}')
""")
    noted = tmp_path / 'noted'
    drive = Drive(app, 2, link_error=[app.signature('work.errback', (str(noted),))])
    drive.body.args = (incompressible(size),)
    drive.apply()
    done = subprocess.run(
        [sys.executable, '-m', 'celery', '-A', 'proj', 'dynamodb', 'fail', drive.body_id,
         '--reason', 'why', '--yes', '--json'], cwd=tmp_path, text=True, timeout=60,
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == {'id': drive.group_id, 'reason': 'why'}
    assert drive.error() == 'why'
    assert noted.exists() != bool(size)
    assert size or noted.read_text() == f"{drive.body_id} ChordError('why')"
    assert ('no errback is called' in done.stderr) == bool(size), done.stderr
    assert 'Traceback' not in done.stderr


class Resent:
    """An app whose messages stay in a folder, what is stored of its tasks, and the command."""

    def __init__(self, app: Celery, folder: Path, cli: Any) -> None:
        self.app, self.folder, self._cli = app, folder, cli
        folder.mkdir()
        app.conf.update(
            result_extended=True, broker_url='filesystem://localhost', broker_transport_options={
                'data_folder_in': str(folder), 'data_folder_out': str(folder),
                'control_folder': str(folder.parent / 'control')})

        @app.task(shared=False, name='proj.add', time_limit=7)
        def add(x: Any, y: Any = 0) -> Any:
            return x + y

        app.finalize()

    def store(
            self, state: str = 'FAILURE', result: Any = None, id: str | None = None,
            **request: Any) -> str:
        """Stores what a worker would."""
        id = id or str(uuid.uuid4())
        if result is None and state in states.EXCEPTION_STATES:
            result = ValueError('away')
        self.app.backend.store_result(id, result, state, request=celery.app.task.Context({
            'id': id, 'task': 'proj.add', 'args': [1], 'kwargs': {'y': 2}, 'hostname': 'w@host',
            'delivery_info': {'routing_key': 'celery'}, **request}))
        return id

    def retry(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The exit code, and the rows by id."""
        code, output = self._cli('retry', *arguments, '--json-lines', app=self.app)
        rows = [json.loads(line) for line in output.splitlines() if line.startswith('{')]
        return code, {row['id']: row for row in rows}

    def outcomes(self, *arguments: str) -> tuple[int, dict[str, str]]:
        code, rows = self.retry(*arguments)
        return code, {id: row['outcome'] for id, row in rows.items()}

    def text(self, *arguments: str) -> tuple[int, str]:
        code, output = self._cli('retry', *arguments, app=self.app)
        return code, output

    def messages(self) -> list[tuple[Any, ...]]:
        """What was sent, in its order: id, task, arguments, queue, time limit."""
        found = []
        for path in sorted(self.folder.glob('*.msg'), key=lambda path: path.stat().st_mtime_ns):
            message = json.loads(path.read_text())
            args, kwargs, _ = json.loads(base64.b64decode(message['body']))
            headers = message['headers']
            found.append((headers['id'], headers['task'], args, kwargs,
                          path.name.split('.')[-2], headers['timelimit'][0]))
        return found


@pytest.fixture
def resent(app: Celery, proxy: Proxy, tmp_path: Path, cli: Any) -> Resent:
    ready(app, proxy)
    return Resent(app, tmp_path / 'messages', cli)


@pytest.mark.parametrize('new_ids', [False, True])
def test_retry_runs_again_what_failed(
        new_ids: bool, make_app: MakeApp, proxy: Proxy, cli: Any) -> None:
    app = make_app(result_extended=True, **in_memory())
    app.finalize()
    ready(app, proxy)
    away = threading.Event()
    away.set()

    @app.task(shared=False, name='proj.divide')
    def divide(x: int, by: int) -> float:
        if away.is_set():
            raise ConnectionError('away')
        return x / by

    with working(app):
        results = [divide.delay(number, by=2) for number in range(3)]
        for result in results:
            with pytest.raises(ConnectionError):
                result.get(timeout=20)
        away.clear()
        chosen = ['--state', 'failure', '--since', '1h', '--name', 'proj.*']
        options = ['--new-ids'] if new_ids else []
        code, output = cli('retry', *chosen, *options, app=app)
        assert code == 0 and output.endswith('\n3 can be sent: --yes sends them\n')
        time.sleep(0.05)
        assert [result.state for result in results] == ['FAILURE'] * 3
        code, output = cli('retry', *chosen, *options, '--yes', '--json-lines', app=app)
        rows = [json.loads(line) for line in output.splitlines() if line.startswith('{')]
        assert code == 0 and [row['id'] for row in rows] == [
            row['id'] for row in sorted(rows, key=lambda row: row['stored'])]
        sent_as = {row['id']: row['sent_as'] for row in rows}
        deadline = time.monotonic() + 20
        while True:  # get() would raise the error that may still be there, and objects keep it
            again = [app.AsyncResult(sent_as[result.id]) for result in results]
            if {each.state for each in again} == {'SUCCESS'} or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        assert [each.result for each in again] == [0, 0.5, 1]
        assert all((result.id == sent_as[result.id]) != new_ids for result in results)
        left = {result.id: 'FAILURE' for result in results} if new_ids else {}
        again = [app.AsyncResult(result.id) for result in results]
        assert {each.id: each.state for each in again if each.state != 'SUCCESS'} == left


def test_retry_sends_nothing_without_yes_and_then_each_once(resent: Resent) -> None:
    ids = [resent.store() for _ in range(3)]
    assert resent.outcomes(*ids) == (0, dict.fromkeys(ids, 'ready'))
    assert resent.outcomes('--state', 'FAILURE') == (0, dict.fromkeys(ids, 'ready'))
    assert resent.messages() == []
    assert resent.outcomes(ids[0], ids[0], '--yes') == (0, {ids[0]: 'sent'})
    sent = ('proj.add', [1], {'y': 2}, 'celery', 7)
    assert resent.messages() == [(ids[0], *sent)]
    # the rest is sent by another run, and the old results stay until a worker stores
    code, found = resent.outcomes('--state', 'FAILURE', '--yes')
    assert code == 3 and found == {ids[0]: 'sent before', ids[1]: 'sent', ids[2]: 'sent'}
    assert resent.messages() == [(id, *sent) for id in ids]
    assert resent.app.AsyncResult(ids[0]).state == 'FAILURE'
    assert resent.outcomes(*ids, '--yes') == (3, dict.fromkeys(ids, 'sent before'))
    assert resent.outcomes(ids[2], '--yes', '--force') == (0, {ids[2]: 'sent'})
    # it failed again
    resent.store(id=ids[1])
    assert resent.outcomes(*ids[:2], '--yes')[1] == {ids[0]: 'sent before', ids[1]: 'sent'}
    assert len(resent.messages()) == 5


def test_retry_with_new_ids_sends_each_once_and_says_as_what(resent: Resent) -> None:
    id = resent.store('SUCCESS', 3)
    assert resent.outcomes(id, '--yes') == (3, {id: 'succeeded'})
    code, rows = resent.retry(id, '--yes', '--new-ids')
    assert code == 0 and rows[id]['outcome'] == 'sent' and rows[id]['sent_as'] != id
    (sent_as, *_), = resent.messages()
    assert sent_as == rows[id]['sent_as']
    _, rows = resent.retry(id, '--yes', '--new-ids')
    assert (rows[id]['outcome'], rows[id]['sent_as']) == ('sent before', sent_as)
    assert resent.app.AsyncResult(id).get(timeout=5) == 3


def test_what_retry_does_not_send_and_why(
        resent: Resent, client: Any, table_name: str, small_tree: None) -> None:
    store, backend = resent.store, resent.app.backend
    plain = store(group='a group')  # of a group that is no chord's
    drive = Drive(resent.app, 2)
    drive.apply()
    drive.task = resent.app.tasks['proj.add']
    request = drive.request(0)
    request.update(task='proj.add', args=[1], kwargs={}, hostname='w@host')
    backend.mark_as_failure(drive.ids[0], ValueError('away'), request=request)
    unstored, text, unreadable = (str(uuid.uuid4()) for _ in range(3))
    backend.store_result(unstored, ValueError('away'), 'FAILURE')
    claim = dv.describe_args([[dv.ClaimCheck('run', 5000, False)]])
    put_raw(client, table_name, backend.item_id(unreadable), result={'B': b'?'}, **OLD)
    put_raw(client, table_name, backend.item_id(text), status={'S': 'FAILURE'}, **OLD, result={
        'B': json.dumps({'status': 'FAILURE', 'result': {
            'exc_type': 'ValueError', 'exc_message': ['x'], 'exc_module': 'builtins'},
            'name': 'proj.add', 'args': '(1,)', 'kwargs': '{}', 'worker': 'w'}).encode()})
    why = {
        'none': 'unknown', unstored: 'not stored', text: 'no values', unreadable: 'unreadable',
        store(args=claim): 'claim check', store(hostname=None): 'never ran',
        store('STARTED'): 'running', store('RETRY'): 'running', store('MINE', {'at': 1}): 'running',
        store('SUCCESS', 3): 'succeeded', drive.ids[0]: 'in a chord',
        store('REVOKED', celery.exceptions.TaskRevokedError('expired')): 'revoked', plain: 'ready'}
    started = store('STARTED', group=drive.group_id)
    code, rows = resent.retry(*why, started)
    assert code == 3
    assert {id: row['outcome'] for id, row in rows.items()} == {**why, started: 'running'}
    assert all(row['reason'] == dv.NOT_SENT.get(row['outcome']) for row in rows.values())
    # it is known by its chord before it has returned
    _, found = resent.outcomes(*why, started, '--force')
    assert found[started] == 'in a chord'
    assert {id: each for id, each in found.items() if each not in ('ready', why.get(id))} == {
        started: 'in a chord'}
    ready = [why[id] for id, each in found.items() if each == 'ready']
    assert sorted(ready) == ['ready', *['running'] * 3]
    # outside of the chord
    _, found = resent.outcomes(*why, started, '--force', '--new-ids', '--yes')
    assert {why.get(id) for id, each in found.items() if each == 'sent'} == {
        'running', 'succeeded', 'in a chord', 'revoked', 'ready', None}
    assert len(resent.messages()) == 8
    assert set(why.values()) | {'sent before', 'changed'} == {*dv.NOT_SENT, 'ready'}
    progress = backend.chord_progress(drive.group_id)
    assert (progress.counted, progress.closed) == (1, False)
    # its chord's own item has expired
    backend.delete(backend.get_key_for_chord(drive.group_id))
    assert resent.outcomes(drive.ids[0]) == (3, {drive.ids[0]: 'in a chord'})


def test_retry_does_not_choose_what_has_changed_since_the_scan(
        resent: Resent, proxy: Proxy, client: Any, table_name: str) -> None:
    gone, stays = resent.store(), resent.store()

    def goes(operation: str, body: Any) -> None:
        if operation in ('BatchGetItem', 'GetItem'):
            client.delete_item(
                TableName=table_name, Key={'id': {'S': resent.app.backend.item_id(gone)}})
    proxy.faults = goes
    assert resent.outcomes('--state', 'FAILURE', '--yes') == (0, {stays: 'sent'})


def test_retry_sends_none_whose_state_has_changed(
        resent: Resent, proxy: Proxy, client: Any, table_name: str) -> None:
    ids = [resent.store() for _ in range(2)]
    left = [1]

    def runs_again(operation: str, body: Any) -> None:
        if operation == 'UpdateItem' and left:
            left.pop()
            client.update_item(
                TableName=table_name, Key=body['Key'], UpdateExpression='SET #t = :now',
                ExpressionAttributeNames={'#t': 'timestamp'},
                ExpressionAttributeValues={':now': {'N': repr(time.time())}})
    proxy.faults = runs_again
    assert resent.outcomes(*ids, '--yes') == (3, {ids[0]: 'changed', ids[1]: 'sent'})
    assert [id for id, *_ in resent.messages()] == ids[1:]


@pytest.mark.parametrize('force', [False, True])
def test_of_two_who_retry_a_task_one_sends_it(force: bool, resent: Resent) -> None:
    id = resent.store()
    if force:  # it has a mark already
        assert resent.outcomes(id, '--yes')[0] == 0
    table = resent.app.backend.store.table
    with resent.app.connection_for_write() as connection:
        both = [dv.Resending(resent.app.backend, table, False, force) for _ in range(2)]
        read = [next(each.read([id])) for each in both]  # both say that it is ready
        producer = resent.app.amqp.Producer(connection.channel(), auto_declare=False)
        assert [row['outcome'] for row, _ in read] == ['ready', 'ready']
        sent = [each.send(*found, producer)['outcome'] for each, found in zip(both, read)]
    assert sent == ['sent', 'changed'] and len(resent.messages()) == 1 + force


def test_a_lost_response_keeps_retry_from_no_task(resent: Resent, proxy: Proxy) -> None:
    id = resent.store()
    proxy.faults = first(1, ResetAfter(), 'UpdateItem')
    assert resent.outcomes(id, '--yes') == (0, {id: 'sent'})
    assert len(resent.messages()) == 1


def test_no_mark_is_left_if_it_is_not_known_whether_a_task_was_marked(
        resent: Resent, proxy: Proxy) -> None:
    id = resent.store()
    backend = resent.app.backend
    table = dv.Table(dataclasses.replace(backend.options, retry_timeout=0))
    resending = dv.Resending(backend, table, False, False)
    (row, item), = resending.read([id])
    proxy.faults = first(1, ResetAfter(), 'UpdateItem')  # done, and its only response is lost
    with pytest.raises(botocore.exceptions.BotoCoreError):
        resending.send(row, item, None)
    assert resent.messages() == []
    assert resent.outcomes(id, '--yes') == (0, {id: 'sent'})


def test_retry_without_its_broker_sends_and_marks_nothing(
        resent: Resent, proxy: Proxy) -> None:
    id = resent.store()
    resent.app.conf.broker_url = 'amqp://user:secret@127.0.0.1:9//'
    proxy.reset()
    for chosen in ([id], ['--state', 'FAILURE']):
        code, output = resent.text(*chosen, '--yes')
        assert code == 1 and proxy.requests == []
        assert output.startswith('Error: the broker amqp://user:**@127.0.0.1:9//: ')
        assert 'refused' in output and 'secret' not in output


class Mute(kombu.transport.memory.Transport):
    """A broker that takes connections, or messages, and does not respond."""

    at: str = ''
    ended: threading.Event

    def _waits(self, at: str) -> None:
        assert self.at != at or self.ended.wait(60)

    def establish_connection(self) -> Any:
        self._waits('connection')
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        self._waits('message')
        super().close_connection(connection)

    class Channel(kombu.transport.memory.Channel):
        def _put(self, *args: Any, **kwargs: Any) -> None:
            self.connection._waits('message')


@pytest.mark.parametrize('at', ['connection', 'message'])
def test_retry_ends_if_its_broker_does_not_respond(
        at: str, resent: Resent, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    id = resent.store()
    monkeypatch.setattr(dv, '_BROKER_TIMEOUT', 0.5)
    monkeypatch.setattr(Mute, 'at', at)
    monkeypatch.setattr(Mute, 'ended', threading.Event(), raising=False)
    resent.app.conf.update(broker_url='memory://user:secret@', broker_transport=Mute)
    code, output = resent.text(id, '--yes')
    Mute.ended.set()
    assert code == 1 and 'Error: the broker ' in output and 'secret' not in output
    assert 'does not respond' in output
    assert ('run it again' in output) == (at == 'message')
    # no mark is left
    assert resent.outcomes(id) == (0, {id: 'ready'})


def walk() -> Iterator[list[str]]:
    """The commands of the walk of an operator, without what stands before their names."""
    section = EXAMPLES.partition('An alarm at three\n-----------------')[2].partition('\n\n\n')[0]
    for line in section.splitlines():
        if line.startswith('    celery -A proj dynamodb '):
            yield shlex.split(line)[4:]


def test_the_walk_of_an_operator_leads_from_an_alarm_to_its_mend(
        resent: Resent, cli: Any) -> None:
    app = resent.app

    @app.task(shared=False, name='shop.charge')
    def charge(*args: Any, **kwargs: Any) -> None:
        raise AssertionError  # the test stores what it would return

    resent.store('SUCCESS', 3)
    ids = [resent.store(result=ConnectionError('payments: connection refused'),
                        task='shop.charge') for _ in range(3)]
    stuck = Stuck(app)
    app.backend.store_result(
        stuck.ids[2], {'pid': 7, 'hostname': 'w@host-3'}, states.STARTED,
        request=celery.app.task.Context({'id': stuck.ids[2], 'hostname': 'w@host-3'}))
    names = {'ID': ids[0], 'GROUP': stuck.group_id}
    shown = []
    for command in walk():
        code, output = cli(*(names.get(word, word) for word in command), app=app)
        shown.append((' '.join(command), code, output))
        if command[0] == 'retry' and '--yes' in command:
            assert {message[0] for message in resent.messages()} == set(ids)
            for id in ids:
                app.backend.store_result(id, 'paid', states.SUCCESS)
    found = {command: (code, output) for command, code, output in shown}
    expected = {
        'check': (0, 'ok  endpoint'),
        'list --count --since 1h': (0, 'shop.charge  ConnectionError'),
        'list --state FAILURE --name shop.* --since 1h': (0, ids[2]),
        'show ID': (0, 'payments: connection refused'),
        'retry --state FAILURE --name shop.* --since 1h': (0, 'shop.charge'),
        'retry --state FAILURE --name shop.* --since 1h --yes': (0, 'sent'),
        'list --state FAILURE --since 1h': (0, ''),
        'list --state RUNNING': (0, '2 of 3'),
        'show GROUP': (0, 'w@host-3'),
        'fail GROUP --reason no stock list --yes': (0, stuck.group_id),
        'show GROUP --watch': (1, 'failed'),
    }
    assert list(found) == list(expected)
    for typed, (code, text) in expected.items():
        assert found[typed][0] == code and text in found[typed][1], found[typed]
    assert ids[2] not in found['list --state FAILURE --since 1h'][1]
    assert stuck.called


@pytest.mark.skipif(
    kombu.VERSION < (5, 7), reason='its broker in a folder hides that the folder is gone')
def test_retry_names_a_broker_that_goes_away_and_the_next_run_sends_the_rest(
        resent: Resent, proxy: Proxy) -> None:
    ids = [resent.store() for _ in range(3)]
    marked: list[Any] = []

    def goes_away(operation: str, body: Any) -> None:
        if operation == 'UpdateItem' and 'SET' in body['UpdateExpression']:
            marked.append(body['Key'])
            if len(marked) == 2:
                resent.folder.rename(resent.folder.with_name('away'))
    proxy.faults = goes_away
    code, output = resent.text('--state', 'FAILURE', '--yes')
    assert code == 1 and len(marked) == 2
    assert re.search(rf'^sent +proj.add +{ids[0]}', output, re.MULTILINE)
    assert 'Error: the broker filesystem://' in output and 'run it again for the rest' in output
    resent.folder.with_name('away').rename(resent.folder)
    assert len(resent.messages()) == 1
    proxy.faults = None
    code, found = resent.outcomes('--state', 'FAILURE', '--yes')
    assert code == 3 and found == {ids[0]: 'sent before', ids[1]: 'sent', ids[2]: 'sent'}
    assert [id for id, *_ in resent.messages()] == ids


def test_retry_says_what_celery_refuses_and_sends_the_others(resent: Resent) -> None:
    wrong, good = resent.store(args=[1, 2, 3]), resent.store()
    other = resent.store(task='other.app', delivery_info={'routing_key': 'slow'})
    code, rows = resent.retry(wrong, good, other, '--yes')
    assert code == 3 and [row['outcome'] for row in rows.values()] == ['refused', 'sent', 'sent']
    assert 'TypeError: ' in rows[wrong]['reason']
    # by name, to its own queue
    assert [each[1::3] for each in resent.messages()] == [
        ('proj.add', 'celery'), ('other.app', 'slow')]
    assert resent.outcomes(wrong) == (0, {wrong: 'ready'})  # no mark was left


def test_retry_sends_the_oldest_of_those_that_can_be_sent(resent: Resent) -> None:
    resent.store(hostname=None)  # the oldest counts for no limit
    ids = [resent.store() for _ in range(5)]
    for count, chosen in ((2, ids[:2]), (4, ids[2:4]), (5, ids[4:])):
        code, output = resent.text('--state', 'FAILURE', '--limit', '2', '--yes')
        assert code == 3 and f'{len(chosen)} sent\n' in output
        assert [id for id, *_ in resent.messages()] == ids[:count]
        assert ('more can be sent' in output) == (count < 5)
    assert resent.text('--state', 'FAILURE', '--limit', '0')[1].count('sent before') == 6


@pytest.mark.parametrize(('arguments', 'text'), [
    ('', 'give ids, or --state'), ('id --state FAILURE', 'give ids, or --state'),
    ('--name proj.add', 'give ids, or --state'), ('--state RUNNING', 'see fail'),
    ('--state FAILUR', 'did you mean FAILURE? (--force'),
    ('--state FAILURE --name proj.ad', 'did you mean proj.add? (--force'),
    ('--state FAILURE --since 2x', 'no time'), ('-b', 'name the app with -A')])
def test_retry_says_what_is_wrong_before_it_reads(
        arguments: str, text: str, resent: Resent, proxy: Proxy, cli: Any) -> None:
    proxy.reset()
    code, output = cli('retry', 'id') if arguments == '-b' else resent.text(
        *arguments.split(), '--yes')
    assert code == 2 and text in output and proxy.requests == []


def test_the_rows_of_retry_fit_the_terminal(
        resent: Resent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    name = 'proj.a_long_package.of_tasks.whose_name_is_long'
    ids = [resent.store(task=name), resent.store(hostname=None), resent.store()]
    code, output = resent.text('--state', 'FAILURE', '--yes', '--new-ids')
    assert code == 3 and max(map(len, output.splitlines())) <= 80, output
    assert all(id in output for id in ids)
    for text in ('OUTCOME ', 'never ran ', 'name_is_long ', '2 sent\n', '1 never ran: a task'):
        assert text in output, output


@pytest.mark.parametrize(('routing_key', 'declared', 'queue'), [
    ('celery', (), 'celery'), ('slow', (), 'slow'), (None, (), None), ('', (), None),
    ('0.' * 28 + 'slow', (), 'slow'), ('feed.news', [('feed', 'feed.news')], 'feed'),
    ('feed', [('feed', 'feed.news')], 'feed'), ('feed.old', [('feed', 'feed.#')], None)])
def test_the_queue_of_a_task_that_is_sent_again(
        routing_key: Any, declared: Any, queue: Any, make_app: MakeApp) -> None:
    app = make_app(task_queues=[
        kombu.Queue(name, kombu.Exchange('tasks', 'topic'), key) for name, key in declared])
    assert dv.queue_of(app, routing_key) == queue


def test_retry_finds_arguments_of_any_size_under_any_key(
        resent: Resent, client: Any, table_name: str, proxy: Proxy) -> None:
    large, celerys = resent.store(args=['x' * 500_000]), resent.store()
    backend = resent.app.backend
    item = client.get_item(
        TableName=table_name, Key={'id': {'S': backend.item_id(celerys)}})['Item']
    backend.forget(celerys)
    proxy.reset()
    del item['status']
    item['id'] = {'S': str(backend.get_key_for_task(celerys))}
    item['timestamp'] = {'N': '1700000000.1234567890123'}
    client.put_item(TableName=table_name, Item=item)
    assert resent.outcomes(large, celerys, '--yes') == (0, {large: 'sent', celerys: 'sent'})
    assert {id: args for id, _, args, *_ in resent.messages()} == {
        large: ['x' * 500_000], celerys: [1]}
    # a value is never older than its item
    reads = [request.body for request in proxy.requests if request.operation == 'GetItem']
    assert reads and all(body['ConsistentRead'] for body in reads)
    assert resent.outcomes(celerys) == (3, {celerys: 'sent before'})


def test_retry_of_an_odd_group(resent: Resent, client: Any, table_name: str) -> None:
    for number, odd in enumerate(({'a': 1}, ['a'], 5)):
        id, backend = f'odd-{number}', resent.app.backend
        put_raw(client, table_name, backend.item_id(id), **OLD, result={'B': json.dumps({
            'status': 'FAILURE', 'result': None, 'name': 'proj.add', 'args': [1], 'kwargs': {},
            'worker': 'w', 'group_id': odd}).encode()})
        assert resent.outcomes(id) == (0, {id: 'ready'})


def test_retry_says_if_arguments_may_have_lost_their_types(resent: Resent) -> None:
    id = resent.store()
    assert 'stored as json' not in resent.text(id)[1]
    resent.app.conf.task_serializer = 'pickle'
    code, output = resent.text(id)
    assert code == 0 and 'arguments were stored as json: tuples' in output


def test_retry_of_an_eager_app_sends_nothing(resent: Resent) -> None:
    resent.app.conf.task_always_eager = True
    assert resent.text(resent.store(), '--yes') == (
        1, 'Error: task_always_eager is set: no task would be sent\n')


def test_what_retry_costs(resent: Resent, proxy: Proxy) -> None:
    ids = [resent.store() for _ in range(20)]
    cost(proxy)
    assert resent.outcomes(*ids)[0] == 0
    assert cost(proxy)[::2] == (1, 0)
    assert resent.outcomes(*ids, '--yes')[0] == 0
    assert cost(proxy)[::2] == (2 + 20, 20)


def test_list_tasks_and_running_chords(
        cli: Any, make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    def listed(*arguments: str) -> list[dict[str, Any]]:
        code, output = cli('list', '--json-lines', *arguments)
        assert code == 0, output
        return [json.loads(line) for line in output.splitlines() if line.startswith('{')]

    backend = ready(make_app(result_extended=True), proxy)
    for number in range(30):
        name = 'proj.add' if number % 3 else 'proj.total'
        state = states.FAILURE if number % 10 == 0 else states.SUCCESS
        request = celery.app.task.Context({'task': name, 'args': [number], 'delivery_info': {}})
        value: Any = ValueError(number) if state == states.FAILURE else number
        backend.store_result(f'id-{number}', value, state, request=request)
    backend.store_result('large', 'x' * 900 * KB, states.SUCCESS, request=celery.app.task.Context(
        {'task': 'proj.total', 'delivery_info': {}}))
    backend.set('celery-task-meta-mute', backend.encode({'status': 'PROGRESS', 'result': 1}))
    backend.store_result('half', 1, 'Halfway')
    backend.set('something else', b'1')
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-task-meta-old'}, 'ttl': {'N': '86400'}, 'status': {'S': 'SUCCESS'}})
    make_app('celery_keys=true').backend.store_result('theirs', 1, states.SUCCESS)
    drive, ended = Drive(backend.app, 45), Drive(backend.app, 3)
    for each in (drive, ended):
        each.apply()
    for index in range(3):
        ended.returns(index)
    chord, *tasks = listed('--limit', '99')
    assert sorted(map(str, listed('--limit', '0'))) == sorted(map(str, [chord, *tasks]))
    assert {'kind': 'chord', 'id': drive.group_id, 'state': 'RUNNING'}.items() <= chord.items()
    assert (chord['counted'], chord['expected']) == (0, 45)
    assert all(set(row) == SHOWN for row in tasks)
    ids = [row['id'] for row in tasks if row['id'] not in {*ended.ids, ended.body_id}]
    assert ids == [
        'theirs', 'half', 'mute', 'large', *(f'id-{number}' for number in range(29, -1, -1))]
    by_id = {row['id']: row for row in tasks}
    assert by_id['id-4']['args'] == [4] and by_id['id-4']['name'] == 'proj.add'
    assert by_id['mute']['state'] == 'PROGRESS'
    assert by_id['large']['chunks'] == 3 and by_id['large']['size'] > 900 * KB
    few = listed('--limit', '5', '--since', '1h', '--until', '2100-01-01')
    assert [row['id'] for row in few] == [row['id'] for row in tasks[:5]]
    assert few == tasks[:5]
    assert [row['id'] for row in listed('--state', 'failure')] == ['id-20', 'id-10', 'id-0']
    assert [row['id'] for row in listed('--state', 'running')] == [drive.group_id]
    assert [row['id'] for row in listed('--state', 'progress')] == ['mute']
    assert [row['id'] for row in listed('--state', 'Halfway')] == ['half']
    total = listed('--name', 'proj.total', '--state', 'SUCCESS')
    assert [row['id'] for row in total] == [
        'large', *(f'id-{number}' for number in range(27, 0, -3))]
    assert listed('--until', '2020-01-01T00:00:00+02:00') == listed('--since', '0s') == []

    output = cli('list', '--limit', '2', '--state', 'FAILURE')[1]
    lines = output.splitlines()
    assert f'table {table_name}: reads the whole table: ' in lines[0]
    assert lines[-4].split() == ['AGE', 'STATE', 'NAME', 'ID', 'ERROR']
    assert lines[-1] == '2 of 3' and lines[-3].split()[1:4] == ['FAILURE', 'proj.add', 'id-20']
    assert lines[-2].endswith('  id-10  ValueError(10)')
    assert by_id['id-20']['error'] == 'ValueError(20)' and by_id['id-4']['error'] is None
    assert cli('list', '--since', 'soon')[0] == 2


def test_list_counts_what_it_lists_and_its_limit_is_of_both_kinds(
        cli: Any, backend: dv.DynamoDBBackend) -> None:
    ready_tasks(backend, 9)
    for _ in range(3):
        Drive(backend.app, 2).apply()
    for limit, shown in ((0, 12), (2, 2), (7, 7), (50, 12)):
        lines = cli('list', '--limit', str(limit))[1].replace(HINT, '').splitlines()
        assert lines[-1] == f'{shown} of 12'
        rows = [line for line in lines[1:-1] if 'STATE' not in line]
        assert len(rows) == shown
        assert sum(' 0 of 2 parts' in row for row in rows) == min(3, shown)
        assert sum(' SUCCESS ' in row for row in rows) == shown - min(3, shown)


def failed_tasks(make_app: MakeApp, proxy: Proxy) -> tuple[dv.DynamoDBBackend, list[str]]:
    """Tasks and a chord whose rows are wider than a terminal."""
    backend = ready(make_app(result_extended=True), proxy)
    ids = [str(uuid.uuid4()) for _ in range(3)]
    errors = [ValueError('z' * 150), ChordError(f"Dependency {ids[0]} raised KeyError('the key')"),
              ValueError('\x1b[31m' + '表' * 90)]
    for id, error in zip(ids, errors):
        request = celery.app.task.Context({
            'task': 'shop.tasks.orders.recalculate_all_totals', 'delivery_info': {},
            'hostname': 'celery@worker-7.internal'})
        backend.store_result(id, error, states.FAILURE, request=request)
    drive = Drive(backend.app, 1200)
    drive.apply()
    drive.fails(0, ValueError('no'))
    return backend, [drive.group_id, *ids]


@pytest.mark.parametrize('columns', [80, 100, 120, 200])
def test_rows_fit_the_terminal(
        columns: int, make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ids = failed_tasks(make_app, proxy)
    monkeypatch.setenv('COLUMNS', str(columns))
    lines = run('list', obj=Holder(backend.app)).output.splitlines()
    assert all(dv._width(line) <= columns for line in lines)
    lines = lines[[line.startswith('AGE') for line in lines].index(True):]
    heads = [name for name in dv.TextTable.COLUMNS if name in lines[0].split()]
    assert heads == {
        80: ['AGE', 'STATE', 'LAST', 'ID', 'ERROR'],
        200: ['AGE', 'STATE', 'LAST', 'WORKER', 'NAME', 'ID', 'ERROR'],
    }.get(columns, ['AGE', 'STATE', 'LAST', 'NAME', 'ID', 'ERROR'])
    shown = {id: line for line in lines for id in ids if id in line}
    assert set(shown) == set(ids) and all('\x1b' not in line for line in lines)
    chord, long, of_part, wide = (shown[id] for id in ids)
    assert '  1 failed, 1 of 1,2' in chord and "  a part: KeyError(" in of_part
    assert long.endswith('zz…') and wide.endswith('…')
    assert columns == 80 or 'late_all_totals  ' in long
    assert columns < 200 or 'celery@worker-7.internal  ' in long


@pytest.mark.parametrize('columns', [80, 120])
def test_show_and_check_fit_the_terminal(
        columns: int, make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ids = failed_tasks(make_app, proxy)
    traceback = 'Traceback:\n  File "proj/tasks.py", line 5, in add\n    raise ' + 'x' * 200
    backend.store_result(ids[2], ChordError('x ' * 200), states.FAILURE, traceback=traceback)
    drive = Drive(backend.app, 30)
    drive.apply()
    for index in range(0, 30, 2):
        drive.fails(index, ValueError())
    monkeypatch.setenv('COLUMNS', str(columns))
    for command in (['show', ids[1]], ['show', ids[2]], ['show', drive.group_id], ['check']):
        done = run(*command, obj=Holder(backend.app))
        assert done.exit_code == 0 and all(
            len(line) <= columns for line in done.output.splitlines()), done.output
    lines = run('show', ids[2], obj=Holder(backend.app)).output.splitlines()
    assert '             File "proj/tasks.py", line 5, in add' in lines
    assert ''.join(lines).count('x') > 400  # nothing is lost
    output = run('show', drive.group_id, obj=Holder(backend.app)).output
    assert all(id in output for id in drive.ids[0:20:2])


def test_states_are_in_color_at_a_terminal_alone(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('NO_COLOR', raising=False)
    backend, ids = failed_tasks(make_app, proxy)
    red, cyan, green = (
        click.style(text, fg=color)
        for text, color in (('FAILURE', 'red'), ('RUNNING', 'cyan'), ('ok', 'green')))
    for command, words in (
            (['list'], [red, cyan]), (['show', ids[1]], [red]), (['check'], [green])):
        def output(color: bool, command: list[str] = command) -> str:
            shown = run(*command, obj=Holder(backend.app), color=color).stdout
            return re.sub(r'\b\d+s +|\d+ ms', '', shown)  # ages, durations and times
        assert all(word in output(color=True) for word in words)
        assert '\x1b' not in output(color=False)
        plain = output(color=False)
        monkeypatch.setenv('NO_COLOR', '1')
        assert '\x1b' not in output(color=True)
        monkeypatch.delenv('NO_COLOR')
        assert click.unstyle(output(color=True)) == plain


def test_tasks_are_found_by_group_and_start_of_the_id_and_part_of_the_name(
        make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(result_extended=True), proxy)
    for id, name, group_id in (('ab1', 'shop.add', 'one'), ('ab2', 'shop.mail', 'two'),
                               ('b3', 'other.add', 'one')):
        backend.store_result(id, 1, states.SUCCESS, request=celery.app.task.Context(
            {'task': name, 'group': group_id, 'delivery_info': {}}))
    make_app('celery_keys=true').backend.store_result('ab4', 1, states.SUCCESS)
    drive = Drive(backend.app, 2)
    drive.group_id = 'abc'
    drive.apply()

    def found(*arguments: str) -> set[str]:
        # tests share their tasks with all apps of the process
        done = run('list', '--yes', '--json', *arguments, obj=Holder(backend.app))
        assert done.exit_code == 0
        return {json.loads(line)['id'] for line in done.stdout.splitlines() if line[0] == '{'}

    for limit in ('0', '9'):
        assert found('--limit', limit, '--group', 'one') == {'ab1', 'b3'}
        assert found('--limit', limit, '--id', 'ab') == {'ab1', 'ab2', 'ab4', 'abc'}
        assert found('--limit', limit, '--name', 'shop.*') == {'ab1', 'ab2'}
        assert found('--limit', limit, '--name', '*.add', '--id', 'a') == {'ab1'}
        assert found('--limit', limit, '--name', 'shop') == set()


def test_tasks_are_counted_by_state_name_and_error(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = failed_tasks(make_app, proxy)
    for number in range(5):
        backend.store_result(f'good-{number}', number, states.SUCCESS)
    name = 'shop.tasks.orders.recalculate_all_totals'
    done = run('list', '--count', '--json', obj=Holder(backend.app))
    rows = [json.loads(line) for line in done.stdout.splitlines() if line[0] == '{']
    assert sorted(tuple(map(str, row.values())) for row in rows) == sorted([
        (*row, 'None', 'None', 'None') for row in (
            ('5', 'task', 'SUCCESS', 'None', 'None'), ('2', 'task', 'FAILURE', name, 'ValueError'),
            ('1', 'task', 'FAILURE', name, 'a part: KeyError'),
            ('1', 'task', 'FAILURE', 'None', 'ValueError'),
            ('1', 'chord', 'RUNNING', 'None', 'None'))])
    assert list(rows[0]) == ['count', 'kind', 'state', 'name', 'error', 'p50', 'p95', 'max']
    assert rows[0]['count'] == 5
    monkeypatch.setenv('COLUMNS', '80')
    lines = run('list', '--count', '--state', 'FAILURE', obj=Holder(backend.app)).output
    assert [line.split() for line in lines.splitlines()[-5:-3]] == [
        ['COUNT', 'KIND', 'STATE', 'NAME', 'ERROR'],
        ['2', 'task', 'FAILURE', name, 'ValueError']]
    assert all(len(line) <= 80 for line in lines.splitlines())
    assert run('list', '--count', '--csv', obj=Holder(backend.app)).exit_code == 2


def test_an_error_begins_with_its_class(
        make_app: MakeApp, proxy: Proxy, cli: Any) -> None:
    backend = ready(make_app(), proxy)
    # its repr is a sentence
    backend.mark_as_failure('id', celery.exceptions.NotRegistered('shop.add'))
    (_, row), (_, counted) = cli('list', '--json'), cli('list', '--count', '--json')
    assert row['error'].startswith("NotRegistered: Task of kind 'shop.add' never registered")
    assert counted['error'] == 'NotRegistered'


def test_durations_are_counted_by_name(
        make_app: MakeApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ready(make_app(result_extended=True), proxy)
    for number in range(1, 41):
        request = Context({'id': f'{number}', 'task': 'shop.add', 'delivery_info': {}})
        dv.delivery_of(request).started = dv.monotonic() - number * 100
        backend.store_result(f'{number}', number, states.SUCCESS, request=request)
    backend.store_result('client', 1, states.SUCCESS)
    done = run('list', '--count', '--json', obj=Holder(backend.app))
    rows = [json.loads(line) for line in done.stdout.splitlines() if line[0] == '{']
    assert [(row['count'], row['name']) for row in rows] == [(40, 'shop.add'), (1, None)]
    for name, wanted in (('p50', 2000), ('p95', 3800), ('max', 4000)):
        assert wanted <= rows[0][name] < wanted + 10 and rows[1][name] is None
    monkeypatch.setenv('COLUMNS', '80')
    lines = run('list', '--count', obj=Holder(backend.app)).output.splitlines()
    assert [line.split() for line in lines[-4:-2]] == [
        ['COUNT', 'KIND', 'STATE', 'P50', 'P95', 'MAX', 'NAME'],
        ['40', 'task', 'SUCCESS', '33m', '63m', '66m', 'shop.add']]


@pytest.mark.parametrize('limit', ['0', '50'])
def test_rows_for_a_spreadsheet(limit: str, make_app: MakeApp, proxy: Proxy) -> None:
    backend, _ = failed_tasks(make_app, proxy)
    request = celery.app.task.Context({'task': 'a"b,c', 'args': [1, 'é'], 'delivery_info': {}})
    backend.store_result('odd', 1, states.SUCCESS, request=request)

    def listed(form: str) -> list[str]:
        done = run('list', form, '--limit', limit, obj=Holder(backend.app))
        return [line for line in done.stdout.splitlines() if not line.startswith('table test-')]

    rows = list(csv.DictReader(listed('--csv')))
    expected = [json.loads(line) for line in listed('--json')]
    assert len(rows) == len(expected) == 6
    for row, wanted in zip(rows, expected):
        assert all(row.get(name) == ('' if value is None else json.dumps(value) if isinstance(
            value, (list, dict)) else str(value)) for name, value in wanted.items())
    assert all(row.keys() == rows[0].keys() for row in rows)
    nothing = run('list', '--csv', '--until', '2020-01-01', obj=Holder(backend.app))
    assert nothing.stdout.splitlines()[-1].startswith('id,kind,state,error,name,')


def test_list_without_a_limit_shows_rows_while_it_reads(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    table = backend.store.table
    value = dv.ensure_bytes(backend.encode({'status': 'SUCCESS', 'result': noise(KB).hex()}))
    table.write_many(puts=({'id': f'celery-task-meta-{number}', 'timestamp': number,
                            'status': states.SUCCESS, 'result': value} for number in range(1000)))
    proxy.reset()
    scans: list[int] = []
    shown: list[Any] = []

    def show(rows: list[Any]) -> None:
        scans.append(operations(proxy).count('Scan'))
        shown.extend(rows)

    listing = dv.Listing(backend, table, dv.TaskFilter(), 0, show)
    listing.scan(1, int)
    listing.show_rest()
    assert scans == [1, 2, 3] and listing.count == listing.printed == len(shown) == 1000


def test_list_leaves_out_what_has_another_state_once_it_is_read(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, proxy: Proxy, table_name: str,
) -> None:
    for id in ('running', 'ends'):
        backend.store_result(id, noise(900 * KB).hex(), states.STARTED)

    def one_ends(operation: str, body: Any) -> None:
        if operation not in ('DescribeTable', 'Scan'):
            value = dv.ensure_bytes(backend.encode({'status': 'SUCCESS', 'result': 1}))
            put_raw(client, table_name, 'celery-task-meta-ends', result={'B': value},
                    status={'S': 'SUCCESS'}, **OLD)
    proxy.faults = one_ends
    code, output = cli('list', '--state', 'STARTED')
    assert code == 0 and output.endswith(f'  running\n{HINT}1 of 1\n')
    assert 'SUCCESS' not in output


def test_a_state_or_a_name_that_does_not_exist_is_an_error_before_the_table_is_read(
        cli: Any, app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    app.finalize()
    backend.store_result('own', 1, 'FAILED')

    @app.task(shared=False, name='shop.tasks.add')
    def add() -> None:
        pass

    proxy.reset()
    for arguments, said in (
            (('--state', 'failed'), 'there is no state failed; did you mean FAILURE?'),
            (('--name', 'add'), 'the app has no task add; did you mean shop.tasks.add?'),
            (('--name', 'shop.task.add'), 'no task shop.task.add; did you mean shop.tasks.add?'),
            (('--name', 'xyz'), 'the app has no task xyz (')):
        code, output = cli('list', *arguments, app=app)
        assert code == 2 and said in output
        assert proxy.requests == []
        assert cli('list', '--yes', *arguments, app=app)[0] == 0
        proxy.reset()
    for arguments in (('--state', 'retry'), ('--state', 'PROGRESS'), ('--name', 'shop.tasks.add'),
                      ('--name', 'celery.accumulate')):
        assert cli('list', *arguments, app=app)[0] == 0
    assert cli('list', '--name', 'add')[0] == 0  # without an app, nothing is known
    assert f'  own\n{HINT}1 of 1\n' in cli('list', '--yes', '--state', 'FAILED')[1]


ODD_ITEMS: dict[str, dict[str, Any]] = {
    'ttl in milliseconds': {'ttl': {'N': '1900000000000'}, 'status': {'S': 'SUCCESS'}},
    'timestamp in milliseconds': {'timestamp': {'N': '1700000000000'}, 'status': {'S': 'SUCCESS'}},
    'result of a number': {'result': {'N': '5'}},
    'result of a number, with a status': {'result': {'N': '5'}, 'status': {'S': 'SUCCESS'}},
    'result of true': {'result': {'BOOL': True}},
    'size of a text': {'size': {'S': 'big'}, 'status': {'S': 'SUCCESS'}},
    'chunks of a text': {'chunks': {'S': 'many'}, 'status': {'S': 'SUCCESS'}},
    'status of a map': {'status': {'M': {}}},
    'name of a number': {'result': {'B': b'{"status": "SUCCESS", "name": 5}'}},
    'name of a list': {'result': {'B': b'{"status": "SUCCESS", "name": ["a"]}'}},
    'group of a map': {'result': {'B': b'{"status": "SUCCESS", "group_id": {"a": 1}}'}},
    'duration of a text': {
        'duration': {'S': 'long'}, 'timestamp': {'N': '1700000000'}, 'status': {'S': 'SUCCESS'}},
    'duration without a time': {'duration': {'N': '1'}, 'status': {'S': 'SUCCESS'}},
    'done at a number': {'result': {'B': b'{"status": "SUCCESS", "date_done": 5}'}},
    'children of a number': {'result': {'B': b'{"status": "SUCCESS", "children": [1]}'}}}


def test_a_chord_past_its_deadline_is_listed(
        cli: Any, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(result_expires=1), proxy)
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0)
    assert drive.run.deadline is not None
    while time.time() < drive.run.deadline + 1:
        time.sleep(0.1)
    assert f's    {drive.group_id}  1 of 2 parts counted\n' in cli('list')[1]
    assert cli('show', drive.group_id)[1].startswith('chord      1 of 2 parts counted\n')


def test_each_run_of_a_chord_is_listed_by_itself(cli: Any, backend: dv.DynamoDBBackend) -> None:
    def listed() -> list[int]:
        lines = cli('list', '--json-lines', '--state', 'RUNNING')[1].splitlines()
        rows = [json.loads(line) for line in lines if line.startswith('{')]
        assert all((row['id'], row['state']) == (drive.group_id, 'RUNNING') for row in rows)
        return sorted(row['counted'] for row in rows)

    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0)
    drive.apply()
    assert listed() == [0, 1]
    drive.returns(0)
    drive.returns(1)
    assert listed() == [1]


def test_odd_items_do_not_stop_list_and_show(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    for name, attributes in ODD_ITEMS.items():
        client.put_item(TableName=table_name, Item={
            'id': {'S': f'celery-task-meta-{name}'}, **attributes})
    for arguments in ([], ['--json-lines'], ['--limit', '0'], ['--json-lines', '--limit', '0']):
        code, output = cli('list', *arguments)
        assert code == 0 and all(name in output for name in ODD_ITEMS)
    code, output = cli('list', '--count')
    assert code == 0 and output.endswith(f'{len(ODD_ITEMS)} of {len(ODD_ITEMS)}\n')
    for name in ODD_ITEMS:
        assert cli('show', name)[0] == 0
        shown = cli('show', name, '--json')[1]
        assert (shown['id'], shown['children'] or None) == (name, None)
        assert type(shown['size']) is type(shown['chunks']) is int


def test_a_result_that_cannot_be_decoded_here_keeps_its_state(
        cli: Any, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(result_serializer='pickle', accept_content=['pickle']), proxy)
    backend.store_result('good', 1, states.SUCCESS)
    backend.store_result('bad', ValueError(), states.FAILURE)
    why = 'the stored result cannot be read: DecodeError: '
    for state, id in (('SUCCESS', 'good'), ('FAILURE', 'bad')):
        for more in ([], ['--limit', '0']):
            row = cli('list', '--json', '--state', state, *more)[1]
            assert (row['id'], row['state']) == (id, state) and why in row['error']
        shown = cli('show', id, '--json')[1]
        assert (shown['state'], shown['error']) == (state, row['error'])
        assert f'state      {state}\n' in cli('show', id)[1] and why in cli('show', id)[1]


def test_a_saved_group_that_cannot_be_read_is_reported(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    client.put_item(TableName=table_name, Item={
        'id': {'S': 'celery-taskset-meta-odd'}, 'result': {'N': '5'}})
    backend.set('celery-taskset-meta-pickled', pickle.dumps(5))
    for name, why in (('odd', 'is not binary but int'), ('pickled', 'DecodeError')):
        assert 'the saved group cannot be read: ' in cli('show', name)[1]
        shown = cli('show', name, '--json')[1]
        assert why in shown['error'] and shown['results'] is None


class BadRepr(Exception):
    def __repr__(self) -> str:
        raise RuntimeError('no repr')


def test_values_that_json_does_not_have_are_printed_as_python_shows_them(
        make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(
        result_serializer='pickle', accept_content=['json', 'pickle'], result_extended=True), proxy)
    odd = {('a', 1): math.nan, 2: [-math.inf, 1.5, {b'x'}], None: True, 'text': ({0.5: 'é'},)}
    request = celery.app.task.Context(
        {'task': 'proj.add', 'args': [odd, BadRepr('mute')], 'delivery_info': {}})
    backend.store_result('odd', odd, states.SUCCESS, request=request)
    backend.store_result('bad', BadRepr('mute'), states.FAILURE)

    def cli(*arguments: str) -> str:
        done = click.testing.CliRunner().invoke(
            dv.commands, arguments, obj=type('Context', (), {'app': backend.app}))
        assert done.exit_code == 0, done.exc_info
        return str(done.output)

    def refused(text: str) -> None:
        raise AssertionError(text)

    def parsed(text: str) -> Any:
        return json.loads(text, parse_constant=refused)

    plain = {"('a', 1)": 'nan', '2': ['-inf', 1.5, "{b'x'}"], 'null': True, 'text': [{'0.5': 'é'}]}
    shown = parsed(cli('show', 'odd', '--json'))
    assert (shown['result'], shown['args'][0]) == (plain, plain)
    assert 'mute' in shown['args'][1] and "('a', 1): nan" in cli('show', 'odd')
    assert 'mute' in parsed(cli('show', 'bad', '--json'))['result']
    assert 'mute' in cli('show', 'bad')
    rows = [parsed(line) for line in cli('list', '--json').splitlines() if line.startswith('{')]
    assert [row['id'] for row in rows] == ['bad', 'odd'] and rows[1]['args'] == shown['args']
    assert 'proj.add' in cli('list')


def test_list_says_once_that_names_are_not_stored(cli: Any, backend: dv.DynamoDBBackend) -> None:
    for id in 'abc':
        backend.store_result(id, 1, states.SUCCESS)
    output = cli('list')[1]
    assert output.count(HINT) == 1
    backend.app.conf.result_extended = True
    output = cli('list', app=backend.app)[1]
    assert HINT not in output
    assert output.endswith('  SUCCESS  a\n3 of 3\n')


def test_list_reads_no_more_of_celerys_own_items_than_it_says(
        cli: Any, make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app(), proxy)

    def items(names: str, with_status: bool) -> Iterator[dict[str, Any]]:
        for number in range(1000):
            state = states.FAILURE if number % 500 == 7 else states.SUCCESS
            value = backend.encode({'status': state, 'result': noise(2 * KB).hex()})
            yield {'id': names.format(number), 'timestamp': number,
                   **({'status': state} if with_status else {}), 'result': dv.ensure_bytes(value)}

    table = backend.store.table
    def with_values() -> list[bool]:
        proxy.reset()
        assert cli('list', '--state', 'FAILURE')[1].endswith('2 of 2\n')
        return ['#result' in request.body['ProjectionExpression']
                for request in proxy.requests if request.operation == 'Scan']

    table.write_many(puts=items("b'celery-task-meta-{}'", with_status=False))
    sent = with_values()
    assert len(sent) > 2 and all(sent) and set(operations(proxy)) == {'DescribeTable', 'Scan'}
    # where all items have a status, values are read in the first pages only
    table.write_many(deletes=(f"b'celery-task-meta-{number}'" for number in range(1000)))
    table.write_many(puts=items('celery-task-meta-{}', with_status=True))
    sent = with_values()
    assert sent[0] and not sent[-1]


def test_what_a_scan_reads_is_said_before(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str,
        needs: Callable[[str], None]) -> None:
    needs('the size of a table')
    backend.store.table.write_many(
        {'id': str(number), 'result': noise(300 * KB)} for number in range(10))
    for command in (['list'], ['purge', '--force']):
        said = cli(*command)[1].splitlines()[0]
        size = re.fullmatch(
            f'table {table_name}: reads the whole table: 10 items, 3.1 MB, (3[0-9]{{2}}) read '
            'units, all its provisioned units for 0:01:([0-9]{2})', said)
        assert size and math.ceil(int(size[1]) / 5) == 60 + int(size[2]), said
    client.update_table(TableName=table_name, BillingMode='PAY_PER_REQUEST')
    assert re.search(' 3.1 MB, 3[0-9]{2} read units$', cli('list')[1].splitlines()[0])


@pytest.mark.parametrize(('answer', 'goes_on'), [('y', True), ('n', False)])
def test_list_asks_at_a_terminal_before_it_reads_much(
        answer: str, goes_on: bool, backend: dv.DynamoDBBackend, client: Any, proxy: Proxy,
        table_name: str) -> None:
    client.update_table(TableName=table_name, BillingMode='PAY_PER_REQUEST')
    backend.store_result('id', 1, states.SUCCESS)
    url = f'dynamodb://local/{table_name}?endpoint_url={quote(proxy.url, safe="")}'
    code = 'import dyna_veggie as dv; dv.ASK_ABOVE = -1; dv.commands()'
    try:
        main, terminal = os.openpty()
    except OSError as exc:  # a root without /dev/pts
        pytest.skip(f'no pseudo-terminal: {exc}')
    os.write(main, f'{answer}\n'.encode())
    for arguments in ([], ['--yes']):
        done = subprocess.run(
            [sys.executable, '-c', code, '-b', url, 'list', *arguments], cwd=ROOT, stdin=terminal,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        asked = not arguments
        assert ('Go on?' in done.stdout) == asked
        assert ('1 of 1' in done.stdout) == (goes_on or not asked)
        assert done.returncode == int(asked and not goes_on)
    os.close(main)
    os.close(terminal)


@slow
def test_list_is_exact_on_a_table_of_a_hundred_thousand(
        cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str, needs: Callable[[str], None]) -> None:
    needs('the size of a table')  # by which the scan is planned
    needs('scans of a large table')
    client.update_table(TableName=table_name, BillingMode='PAY_PER_REQUEST')
    began = int(time.time()) - 100_000
    values = {state: dv.ensure_bytes(backend.encode({'status': state, 'result': 'x' * 150}))
              for state in (states.SUCCESS, states.FAILURE)}

    def item(number: int) -> dict[str, Any]:
        state = states.FAILURE if number % 2000 == 7 else states.SUCCESS
        return {'id': f'celery-task-meta-{number}', 'status': state, 'timestamp': began + number,
                'result': values[state]}

    backend.store.table.write_many(puts=map(item, range(100_000)))
    proxy.reset()
    code, output = cli('list', '--state', 'FAILURE', '--limit', '50')
    assert code == 0, output
    failed = [line.split()[2] for line in output.splitlines() if ' FAILURE ' in line]
    assert failed == [str(number) for number in range(98_007, 0, -2000)]
    assert output.endswith('50 of 50\n')
    scans = [request.body for request in proxy.requests if request.operation == 'Scan']
    assert {body['Segment'] for body in scans} == set(range(8))
    since = datetime.datetime.fromtimestamp(began + 99_000, datetime.timezone.utc).isoformat()
    assert cli('list', '--since', since, '--limit', '1')[1].endswith('1 of 1,000\n')
    output = cli('list', '--json-lines', '--limit', '0')[1]
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{')]
    assert sorted(int(row['id']) for row in rows) == list(range(100_000))


def keep_expired(client: Any, table: str) -> None:
    """Turns time to live off: DynamoDB Local, too, deletes what has expired."""
    client.update_time_to_live(TableName=table, TimeToLiveSpecification={
        'Enabled': False, 'AttributeName': 'ttl'})


def test_purge_deletes_what_has_expired_and_nothing_else(
        cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any, table_name: str) -> None:
    keep_expired(client, table_name)
    now = int(time.time())
    for number in range(60):
        ttl = {'N': str(now - number - 1)}
        client.put_item(TableName=table_name, Item={'id': {'S': f'old-{number}'}, 'ttl': ttl})
    backend.store_result('new', 1, states.SUCCESS)
    client.put_item(TableName=table_name, Item={'id': {'S': 'for ever'}})
    foreign = {'a duration': 3600, 'zero': 0, 'six years ago': now - 6 * 365 * 86400}
    for id, number in foreign.items():  # no time to live deletes them
        client.put_item(TableName=table_name, Item={'id': {'S': id}, 'ttl': {'N': str(number)}})
    code, answer = cli('purge', '--dry-run', '--json')
    assert (code, answer) == (
        0, {'expired': 60, 'orphans': 0, 'deleted': 0, 'time_to_live': False})
    assert len(all_items(client, table_name)) == 65
    replaced = {'old-7': now + 999, 'old-8': 0}

    def two_are_replaced(operation: str, body: Any) -> None:
        id = body['Key']['id']['S'] if operation == 'DeleteItem' else None
        if id in replaced:
            client.put_item(TableName=table_name, Item={
                'id': {'S': id}, 'ttl': {'N': str(replaced[id])}})
    proxy.faults = two_are_replaced
    code, output = cli('purge')
    assert code == 0 and output.endswith('\n58 expired items deleted\n')
    assert 'time to live is on' not in output
    assert f'table {table_name}: reads the whole table: ' in output
    left = {item['id'] for item in all_items(client, table_name)}
    assert left == {'celery-task-meta-new', 'for ever', *replaced, *foreign}


@pytest.mark.parametrize('billing_mode', ['PROVISIONED', 'PAY_PER_REQUEST'])
def test_purge_deletes_one_item_after_the_other_if_the_units_are_provisioned(
        billing_mode: str, cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str,
        proxy: Proxy) -> None:
    keep_expired(client, table_name)
    if billing_mode == 'PAY_PER_REQUEST':
        client.update_table(TableName=table_name, BillingMode=billing_mode)
    backend.store.table.write_many(
        {'id': f'old-{number}', 'ttl': int(time.time()) - 5} for number in range(30))
    helpers = []

    def note(operation: str, body: Any) -> Any:
        if operation == 'DeleteItem':
            helpers.append([each.name for each in threading.enumerate()].count('dyna-veggie'))
            return Delay(0.02)
        return None
    proxy.faults = note
    assert '30 expired items deleted' in cli('purge')[1]
    assert len(helpers) == 30
    # that of the scan ends about then
    assert (max(helpers) <= 1) == (billing_mode == 'PROVISIONED')


def test_purge_deletes_chunks_that_no_item_counts(
        cli: Any, make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app(result_expires=None), proxy)
    value = noise(900 * KB)
    backend.set('celery-task-meta-large', value)

    def put_chunk(id: str, age: float) -> None:
        client.put_item(TableName=table_name, Item={
            'id': {'S': id}, 'result': {'B': b'x'}, 'timestamp': {'N': repr(time.time() - age)}})
    orphans = [f'celery-task-meta-lost/{bytes(16).hex()}/{number}' for number in range(3)]
    # of a version that is no longer the value's
    orphans.append(f'celery-task-meta-large/{bytes(16).hex()}/0')
    for id in orphans:
        put_chunk(id, age=7200)
    # of a store that may be under way
    put_chunk(f'celery-task-meta-new/{bytes(16).hex()}/0', age=60)
    put_chunk('celery-task-meta-a/b', age=7200)  # no chunk
    alike = f'celery-task-meta-a/{bytes(16).hex()}/1'  # the result of a task with such an id
    client.put_item(TableName=table_name, Item={
        'id': {'S': alike}, 'result': {'B': b'x'}, 'status': {'S': 'SUCCESS'},
        'timestamp': {'N': '5'}})
    for item in all_items(client, table_name):
        if item['id'].startswith('celery-task-meta-large/'):
            put_age = {':old': {'N': '5'}}
            client.update_item(
                TableName=table_name, Key={'id': {'S': item['id']}},
                UpdateExpression='SET #t = :old', ExpressionAttributeValues=put_age,
                ExpressionAttributeNames={'#t': 'timestamp'})
    before = {item['id'] for item in all_items(client, table_name)}
    code, answer = cli('purge', '--dry-run', '--force', '--json')
    assert (code, answer) == (
        0, {'expired': 0, 'orphans': 4, 'deleted': 0, 'time_to_live': True})
    proxy.reset()
    assert 'nothing was read; --force reads the whole table' in cli('purge')[1]
    assert cli('purge', '--json')[1] == {
        'expired': None, 'orphans': None, 'deleted': 0, 'time_to_live': True}
    assert 'Scan' not in operations(proxy)
    code, output = cli('purge', '--force')
    assert (code, output.splitlines()[1:]) == (0, [
        '0 expired items deleted', '4 chunks of values that were never completed deleted'])
    assert before - {item['id'] for item in all_items(client, table_name)} == set(orphans)
    assert backend.get('celery-task-meta-large') == value


def test_a_purge_is_as_patient_as_the_options_say(
        cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    proxy.faults = first(1, Throttle(), 'Scan')
    assert cli('purge', '--force', query='&retry_timeout=0')[0] == 1
    proxy.faults = first(3, Throttle(), 'Scan')
    assert cli('purge', '--force')[0] == 0


def test_a_scan_of_many_pages(backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    keep_expired(client, table_name)
    ttl = {'N': str(int(time.time()) - 5)}
    for number in range(8):
        client.put_item(TableName=table_name, Item={
            'id': {'S': f'old-{number}'}, 'ttl': ttl, 'result': {'B': noise(300 * KB)}})
    found: list[Any] = []
    pages: list[int] = []
    dv.scan(backend.store.table, 1, found.extend, advance=pages.append)
    assert len(pages) > 1 and sum(pages) == 8
    assert {item['id'] for item in found} == {f'old-{number}' for number in range(8)}
    assert dv.purge(backend.store.table, 1, ('x',), True, pages.append) == {
        'expired': 8, 'orphans': 0}
    assert sum(pages) == 16


@pytest.mark.parametrize('throttled', ['Scan', 'DeleteItem'])
def test_a_signal_ends_a_scan_and_a_purge(
        throttled: str, backend: dv.DynamoDBBackend, client: Any, table_name: str,
        proxy: Proxy) -> None:
    keep_expired(client, table_name)
    table, expired = backend.store.table, int(time.time()) - 5
    table.write_many({'id': f'old-{number}', 'ttl': expired} for number in range(100))
    proxy.faults = first(9999, Throttle(), throttled)
    a_signal_ends(lambda: dv.purge(table, 1, ('x',), False, print), KeyboardInterrupt())


def test_commands_for_what_is_no_dynamodb_backend() -> None:
    runner = click.testing.CliRunner()
    assert 'name an app with -A' in runner.invoke(dv.commands, ['check']).output
    done = runner.invoke(dv.commands, ['-b', 'dynamodb://eu-west-1/x', 'check'])
    assert "table='x' must be" in done.output
    app = Celery('other', backend='cache+memory://', set_as_current=False)
    done = runner.invoke(dv.commands, ['policy'], obj=type('Context', (), {'app': app}))
    said = ('the result backend of this app is celery.backends.cache.CacheBackend; '
            'set result_backend')
    assert done.exit_code == 1 and said in done.output
    done = runner.invoke(dv.commands, ['-b', 'redis://localhost', 'check'])
    assert 'the URL must start with dynamodb://' in done.output
    done = runner.invoke(dv.commands, ['-A', 'no_such_module', 'check'])
    assert done.exit_code == 1 and "No module named 'no_such_module'" in done.output
    assert 'Traceback' not in done.output
    vendored = 'proj.vendor.dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1/vendored'
    for url in (vendored, f'{vendored}?tags=a:b+c', 'dynamodb://eu-west-1/vendored?tags=a:b+c'):
        assert 'table/vendored' in runner.invoke(dv.commands, ['-b', url, 'policy']).output


def test_commands_as_they_are_called(tmp_path: Path, table_name: str, endpoint: str) -> None:
    vendored = tmp_path / 'proj' / 'vendor' / 'dyna_veggie.py'
    vendored.parent.mkdir(parents=True)
    vendored.write_bytes((ROOT / 'dyna_veggie.py').read_bytes())
    url = f'dynamodb://local/{table_name}?endpoint_url={quote(endpoint, safe="")}'
    app = "import celery\napp = celery.Celery('a', backend='{}')"
    (tmp_path / 'vendored.py').write_text(
        app.format(f'proj.vendor.dyna_veggie.DynamoDBBackend+{url}'))
    (tmp_path / 'installed.py').write_text(app.format(url))
    environ = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for command in (
            ['-m', 'proj.vendor.dyna_veggie', '-A', 'vendored', 'create-table'],
            ['-m', 'celery', '-A', 'installed', 'dynamodb', 'check'],
            ['-m', 'dyna_veggie', '-b', url, 'check'],
            [str(ROOT / 'dyna_veggie.py'), '-b', url, 'check']):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environ,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0 and table_name in done.stdout, done.stdout
        assert 'Warning' not in done.stdout, done.stdout


def test_a_table_is_scanned_where_no_thread_can_be_started(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ready_tasks(backend, 5)
    found: list[Any] = []
    with no_more_threads():
        dv.scan(backend.store.table, 3, found.extend)
    assert len(found) == 5 and operations(proxy).count('Scan') == 3


def policy(url: str, *arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(dv.commands, ['-b', url, 'policy', *arguments])


def test_the_policy_of_a_region_that_botocore_does_not_know() -> None:
    result = policy('dynamodb://xx-north-1/celery')
    statement, = json.loads(result.output)['Statement']
    assert statement['Resource'] == 'arn:*:dynamodb:xx-north-1:*:table/celery'


@pytest.mark.parametrize('principal', [
    'worker', '*', 'arn:aws:s3:::bucket', 'arn:aws:iam::12:role/x', 'arn:aws:iam::123456789012:x',
    'arn:aws:iam::123456789012:role/', 'arn:aws:iam::123456789012:root/x', ''])
def test_a_principal_is_an_arn(principal: str) -> None:
    result = policy('dynamodb://eu-west-1/celery', '--principal', principal)
    assert result.exit_code == 2 and f'--principal={principal} must be the ARN' in result.output


@pytest.mark.parametrize('principal', [
    'arn:aws:iam::123456789012:root', 'arn:aws-cn:iam::123456789012:role/a/path/worker',
    'arn:aws:iam::123456789012:user/me@example.com',
    'arn:aws:sts::123456789012:assumed-role/worker/session'])
def test_a_principal_that_aws_takes(principal: str) -> None:
    result = policy('dynamodb://eu-west-1/celery', '--principal', principal)
    statement, = json.loads(result.output)['Statement']
    assert statement['Principal'] == {'AWS': principal}


def test_show_of_an_id_whose_other_keys_would_be_too_long(
        cli: Any, backend: dv.DynamoDBBackend) -> None:
    id = 'x' * (2048 - len('celery-task-meta-'))  # celery-taskset-meta- is longer, and so is b'…'
    backend.store_result(id, 'stored', states.SUCCESS)
    status, got = cli('show', id)
    assert status == 0 and 'stored' in got


def test_purge_leaves_what_only_has_the_form_of_a_chunk(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    version = '0123456789abcdef' * 2
    piece = {'result': {'B': b'x'}, **OLD}
    ours = {f'{key}/{version}/{number}' for number, key in enumerate([
        'celery-task-meta-lost', "b'celery-task-meta-lost'", 'b"celery-task-meta-it\'s"',
        'celery-taskset-meta-lost', 'chord-unlock-lost.0a0b0c0d.kept.0.lost'])}
    for id in ours:
        put_raw(client, table_name, id, **piece)
    own = f'celery-task-meta-a/{version}'
    foreign: dict[str, dict[str, Any]] = {
        f'user/{version}/1': OLD, f'image/{version}/7': {**piece, 'width': {'N': '5'}},
        f'image/{version}/8': piece, f'{own}/1': OLD, f'{own}/2': {'result': {'S': 'x'}, **OLD},
        f'{own}/3': {**piece, 'name': {'S': 'x'}}, f'{own}/4': {**piece, 'chord': {'S': 'x.1'}},
        f'{own}/5': {'result': {'B': b'x'}, 'timestamp': {'S': '1'}},
        f'my-celery-task-meta-a/{version}/1': piece}
    for id, attributes in foreign.items():
        put_raw(client, table_name, id, **attributes)
    before = all_items(client, table_name)
    assert cli('purge', '--force', '--dry-run', '--json')[1]['orphans'] == len(ours)
    assert all_items(client, table_name) == before
    assert cli('purge', '--force', '--json')[1]['deleted'] == len(ours)
    assert {item['id'] for item in all_items(client, table_name)} == set(foreign)


def test_purge_counts_what_it_deleted(
        cli: Any, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
        table_name: str) -> None:
    keep_expired(client, table_name)
    orphans = [f'celery-task-meta-lost/{bytes(16).hex()}/{number}' for number in range(3)]
    for number in range(5):
        put_raw(client, table_name, f'old-{number}', ttl={'N': str(int(time.time()) - 5)})
    for id in orphans:
        put_raw(client, table_name, id, result={'B': b'x'}, **OLD)

    def all_are_replaced(operation: str, body: Any) -> None:
        if operation in ('DeleteItem', 'BatchWriteItem'):
            for id in [*(f'old-{number}' for number in range(5)), *orphans]:
                put_raw(client, table_name, id, status={'S': 'SUCCESS'})
    proxy.faults = all_are_replaced
    code, answer = cli('purge', '--json')
    assert (code, answer['expired'], answer['orphans'], answer['deleted']) == (0, 5, 3, 0)
    assert len(all_items(client, table_name)) == 8


def test_a_saved_group_whose_ids_are_none_is_reported(
        cli: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    saved = backend.encode({'result': [['g', None], [[[1, None], None], [[2, None], None]]]})
    backend.set('celery-taskset-meta-odd', saved)
    assert 'the saved group cannot be read: TypeError' in cli('show', 'odd')[1]


def test_values_of_any_shape_are_shown(make_app: MakeApp, proxy: Proxy, table_name: str) -> None:
    backend = ready(make_app(result_serializer='pickle', accept_content=['json', 'pickle']), proxy)
    itself: list[Any] = [1]
    itself.append({'in': itself})
    deep: Any = 'deepest'
    for _ in range(300):
        deep = [deep]
    digits = 10 ** 5000  # more than Python shows
    values = {'itself': itself, 'deep': deep, 'digits': [digits, {digits: 1}], 'twice': [[], []]}
    shared: list[int] = []
    values['twice'] = [shared, shared]
    context = type('Context', (), {'app': backend.app})
    shown = {}
    for id, value in values.items():
        backend.store_result(id, value, states.SUCCESS)
        for more in ([], ['--json']):
            done = click.testing.CliRunner().invoke(dv.commands, ['show', id, *more], obj=context)
            assert done.exit_code == 0, done.exc_info
        shown[id] = json.loads(done.output)['result']
    assert shown['itself'] == [1, {'in': "[1, {'in': [...]}]"}]
    assert 'deepest' in json.dumps(shown['deep'])
    assert len(shown['digits']) == 2
    assert shown['twice'] == [[], []]


def test_a_terminal_that_lacks_letters_gets_them_escaped(
        backend: dv.DynamoDBBackend, table_name: str) -> None:
    backend.store_result('ü→', 'é→' + 'x' * 600, states.SUCCESS)
    context = type('Context', (), {'app': backend.app})
    for command in (['show', 'ü→'], ['list']):
        runner = click.testing.CliRunner(charset='latin-1')
        done = runner.invoke(dv.commands, command, obj=context)
        assert done.exit_code == 0, done.exc_info
        assert 'ü\\u2192' in done.stdout_bytes.decode('latin-1')


@pytest.mark.parametrize('command', ['list', 'show id', 'purge'])
def test_commands_without_stderr_and_stdin(
        command: str, backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    backend.store_result('id', 1, states.SUCCESS)
    monkeypatch.setattr(sys, 'stderr', None)  # as in `2>&-`
    monkeypatch.setattr(sys, 'stdin', None)
    monkeypatch.setattr(dv, 'ASK_ABOVE', -1)
    dv.commands.main(command.split(), obj=type('Context', (), {'app': backend.app}),
                     standalone_mode=False)
    assert capsys.readouterr().out


@pytest.mark.parametrize(('id', 'prefix'), [
    ("it's", ''), ('both \' and "é→\\', 'ü'), ('id', "it's")])
def test_celerys_keys_of_any_letters_are_listed_and_shown(
        id: str, prefix: str, make_app: MakeApp, proxy: Proxy, client: Any,
        table_name: str) -> None:
    backend = ready(make_app('celery_keys=true', result_backend_transport_options={
        'global_keyprefix': prefix}), proxy)
    backend.store_result(id, 'é', states.SUCCESS)
    item, = all_items(client, table_name)
    context = type('Context', (), {'app': backend.app})

    def shown(*command: str) -> Any:
        done = click.testing.CliRunner().invoke(dv.commands, command, obj=context)
        assert done.exit_code == 0, done.output
        return json.loads(next(line for line in [
            done.output, *done.output.splitlines()] if line.startswith('{')))

    assert shown('list', '--json')['id'] == id
    assert shown('show', id, '--json')['stored_as'] == item['id']
    assert shown('show', item['id'], '--json')['id'] == id
    drive = Drive(backend.app, 2)
    drive.group_id = id
    drive.apply()
    assert shown('list', '--json', '--state', 'RUNNING')['id'] == id
    assert shown('show', id, '--json')['chord']['expected'] == 2


@pytest.mark.parametrize('key', [
    b'', b"it's", b'"', b'both \' and "', 'é'.encode(), b'\\', b'\n\t\r\x00', b"b'x'"])
def test_the_key_of_an_id(key: bytes) -> None:
    assert dv.key_of_id(str(key)) == key.decode() == dv.key_of_id(key.decode()) or key == b"b'x'"
    for prefix in (key[:2], key[:3]):
        assert str(key).startswith(dv.id_prefixes(prefix.decode(errors='ignore')))


@pytest.mark.parametrize('id', [
    "b'a' b'b'", "b'a'b'", "b'\\d'", "b'\\xff'", "b'a", 'b"a\'', "b''x"])
def test_what_only_looks_like_shown_bytes_is_the_key(id: str) -> None:
    assert dv.key_of_id(id) == id


# --------------------------------------------------------------------------------------------------
# Workers
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('worker_app', [
    'fork', pytest.param('spawn', marks=pytest.mark.skipif(
        'worker_pool_start_method' not in celery.app.defaults.DEFAULTS,
        reason='Celery before 5.7 forks'))], indirect=True)
def test_a_real_prefork_worker(worker_app: Any) -> None:
    value, pid = worker_app.process.delay('héllo').get(timeout=60)
    assert value == 'héllo' and pid != os.getpid()
    group_result = group(worker_app.process.s(number) for number in range(60)).apply_async()
    assert [value for value, _ in group_result.get(timeout=60)] == list(range(60))
    header = [(worker_app.process if number % 30 else worker_app.retried).s(number)
              for number in range(90)]
    pids, values = chord(header, worker_app.pids.s()).apply_async().get(timeout=60)
    assert values == list(range(90)) and len(pids) > 1

    result = worker_app.progress.delay()
    seen = set()
    while not result.ready():
        seen.add((result.state, str(result.info)))
        time.sleep(0.02)
    assert (('PROGRESS', "{'done': 1}")) in seen
    with pytest.raises(ZeroDivisionError, match='at the end'):
        result.get(timeout=30)
    assert 'ZeroDivisionError' in result.traceback
    result.forget()
    assert result.state == states.PENDING


@slow
def test_a_soak_in_faults_and_duplicates(
        make_workers: Callable[..., Workers], proxy: Proxy, client: Any, table_name: str) -> None:
    workers = make_workers('retry_base_delay=0.01&retry_max_delay=0.2', twice=0.15)
    draw, lock = random.Random(7), threading.Lock()

    def faults(operation: str, body: Any) -> Any:
        with lock:
            chance, tail = draw.random(), draw.random()
        if operation.startswith('Batch') and tail < 0.5:
            return Partial()
        for limit, fault in ((0.10, Throttle()), (0.15, ServerError()),
                             (0.17, ResetBefore()), (0.19, ResetAfter())):
            if chance < limit:
                return fault
        return Delay(0.05 / (1 - tail) ** 0.5 - 0.05) if tail > 0.9 else None

    module = workers.module
    ready(module.app, proxy)
    proxy.faults = faults
    workers.start()
    server = client.list_tables(Limit=1)['ResponseMetadata']['HTTPHeaders'].get('server', '')
    # the embedded engine serves one request at a time, and slowly
    share = 5 if 'Werkzeug' in server else 1
    chords = []
    for _ in range(20 // share):
        header = [module.part.s(number) for number in range(100)]
        chords.append(chord(header, module.total.s()).apply_async())
    groups = [group(module.part.s(number) for number in range(200)).apply_async()
              for _ in range(10 // share)]
    singles = [module.part.delay(number) for number in range(500 // share)]
    for result in chords:
        assert result.get(timeout=240, follow_parents=False) == list(range(100))
    for result in groups:
        assert result.get(timeout=120) == list(range(200))
    assert module.app.ResultSet(singles).get(timeout=120) == list(range(500 // share))
    deadline = time.monotonic() + 60

    def messages_left() -> bool:
        return any(workers.unacked.iterdir()) or bool(list(workers.messages.glob('*.msg')))

    while messages_left() and time.monotonic() < deadline:
        time.sleep(0.2)  # late duplicates
    proxy.faults = None
    assert sorted(workers.bodies()) == sorted(result.id for result in chords)
    headers = [result.parent for result in chords]
    for result in (*groups, module.app.ResultSet(singles), *chords, *headers):
        result.forget()
    left = all_items(client, table_name)
    # the counters of chords, and what late duplicates copied for them, expire
    assert all(item['id'].startswith('chord-unlock-') and 'ttl' in item for item in left)
    assert all(item['ttl'] <= time.time() + 86_400 + dv.CLOSED_TTL + 1 for item in left)


def test_an_outage_loses_nothing_and_says_so_once(
        backend: dv.DynamoDBBackend, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, dv.__name__)
    proxy.down = True
    threads = [
        threading.Thread(target=backend.store_result, args=(f'id-{number}', number, states.SUCCESS))
        for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    assert all(thread.is_alive() for thread in threads)
    proxy.down = False
    for thread in threads:
        thread.join(60)
    results = result_set(backend.app, [f'id-{number}' for number in range(8)])
    assert results.get(timeout=30) == list(range(8))
    lines = [record.getMessage() for record in caplog.records
             if record.levelno >= logging.WARNING and record.name == dv.__name__
             and 'one request each' not in record.getMessage()]  # an engine without PartiQL
    assert len(lines) == 2, lines
    assert 'failed; this and other requests are retried for up to 120 s each' in lines[0]
    assert 'requests succeed again, after' in lines[1]


def test_an_outage_also_ends_with_a_response_that_refuses(
        backend: dv.DynamoDBBackend, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, dv.__name__)
    asked: list[float] = []

    def faults(operation: str, body: Any) -> Any:
        asked.append(time.monotonic())
        if len(asked) == 1:
            return ResetAfter()  # the result is stored, so that storing it again is refused
        return ServerError() if asked[-1] - asked[0] < 1.5 else None
    proxy.faults = faults
    backend.store_result('id', 1, states.SUCCESS)
    assert 'requests succeed again, after' in caplog.text


@slow
def test_workers_outlive_half_a_minute_without_dynamodb(
        make_workers: Callable[..., Workers], proxy: Proxy, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != 'DYNAMODB_ENDPOINT'}
    with dynamodb_local.engine(environ) as engine:  # one of its own, since others may use ours
        proxy.endpoint_url = engine.endpoint
        workers = make_workers()
        ready(workers.module.app, proxy)
        workers.start()
        singles = [workers.module.part.delay(number, 0.1) for number in range(90)]
        header = [workers.module.part.s(number, 0.1) for number in range(60)]
        joined = chord(header, workers.module.total.s()).apply_async()
        assert singles[0].get(timeout=60) == 0
        engine.pause()
        time.sleep(30)
        engine.resume()
        assert workers.module.app.ResultSet(singles).get(timeout=120) == list(range(90))
        assert joined.get(timeout=120, follow_parents=False) == list(range(60))
        assert workers.bodies() == [joined.id]
        assert workers.process.poll() is None
    log = tmp_path / 'log'
    failed = lines_of(log, 'this and other requests are retried')
    again = lines_of(log, 'succeed again')
    assert 1 <= len(failed) <= 3, failed
    said = [*failed.values(), *again.values()]
    assert all(len(lines) == 1 for lines in said), said
    assert failed.keys() == again.keys()
    assert 'Traceback' not in (tmp_path / 'log').read_text()


def test_workers_go_on_when_their_table_is_deleted(
        make_workers: Callable[..., Workers], proxy: Proxy, client: Any, table_name: str) -> None:
    workers = make_workers()
    ready(workers.module.app, proxy)
    workers.start()
    before = [workers.module.part.delay(number, 0.05) for number in range(20)]
    assert workers.module.app.ResultSet(before).get(timeout=60) == list(range(20))
    after = [workers.module.part.delay(number, 0.05) for number in range(40)]
    client.delete_table(TableName=table_name)
    assert after[-1].get(timeout=60) == 39
    # what was in the table is gone
    assert workers.module.app.backend.get_state(before[0].id) == states.PENDING
    header = [workers.module.part.s(number) for number in range(50)]
    joined = chord(header, workers.module.total.s()).apply_async()
    assert joined.get(timeout=60, follow_parents=False) == list(range(50))


def test_a_worker_without_the_right_to_write_says_so_and_recovers_when_it_has_it(
        make_workers: Callable[..., Workers], proxy: Proxy, table_name: str,
        tmp_path: Path) -> None:
    workers = make_workers()
    ready(workers.module.app, proxy)
    denied = Error(
        'AccessDeniedException',
        'User: arn:aws:iam::1:user/w is not authorized to perform: dynamodb:PutItem')
    proxy.faults = lambda operation, body: denied if operation == 'PutItem' else None
    workers.start()
    workers.module.part.delay(1)
    said = (f"dynamodb result backend: table='{table_name}' in region us-east-1: "
            'the IAM action dynamodb:PutItem is needed, and denied')
    deadline = time.monotonic() + 30
    while not (found := lines_of(tmp_path / 'log', said)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found, (tmp_path / 'log').read_text()
    # Celery stores it once more as a failure, and once more in the parent process: we try no more
    assert operations(proxy) in [['PutItem'] * times for times in (1, 2, 3)]
    proxy.faults = None
    assert workers.module.part.delay(2).get(timeout=60) == 2


@pytest.mark.parametrize('body_is_frozen', [False, True])
@pytest.mark.parametrize('task', ['answer', 'answer_early', 'answer_ignored'])
def test_each_run_of_a_chord_with_fixed_ids_gets_its_own_values(
        task: str, body_is_frozen: bool, doomed_workers: DoomedWorkers) -> None:
    workers, parts = doomed_workers, 45
    workers.start()
    ids = [str(uuid.uuid4()) for _ in range(parts)]
    group_id, body_id = str(uuid.uuid4()), str(uuid.uuid4())

    def apply(run: str) -> None:
        (workers.diary / 'run').write_text(run)
        header = group([workers.task(task, number, task_id=id) for number, id in enumerate(ids)],
                       task_id=group_id)
        chord(header, workers.body(run)).apply_async(
            task_id=body_id if body_is_frozen else None)

    expected: dict[str, Any] = {}
    for number, run in enumerate(['run 1', 'run 2', 'run 3'], 1):
        apply(run)
        workers.wait_until_reported('bodies', number, seconds=30)
        expected[run] = [[f'{number} of {run}' for number in range(parts)]]
        assert workers.reported('bodies') == expected
    apply('run 4 fails')
    workers.wait_until_reported('errors', 1, seconds=30)
    apply('run 5')
    workers.wait_until_reported('bodies', 4, seconds=30)
    expected['run 5'] = [[f'{number} of run 5' for number in range(parts)]]
    assert workers.reported('bodies') == expected
    (name, [error]), = workers.reported('errors').items()
    assert name == 'run 4 fails' and ' of run 4 fails' in error, error


def test_a_body_can_apply_its_own_chord_again(doomed_workers: DoomedWorkers) -> None:
    workers, runs = doomed_workers, 3
    workers.start()
    ids = [str(uuid.uuid4()) for _ in range(5)]
    workers.task('again', None, ids, runs + 1).delay()
    got = workers.wait_until_reported('bodies', runs + 1, seconds=60)
    assert got == [None, *(
        [*(f'{number} of {run}' for number in range(3)), f'last of {run}']
        for run in range(runs, 0, -1))]
    assert workers.struck() == {f'run {run}' for run in range(1, runs + 1)}


def summary(values: list[str]) -> list[Any]:
    """What the task of this name returns."""
    return ['list', len(values), hashlib.sha256(''.join(values).encode()).hexdigest()]


@slow
def test_a_chord_whose_values_are_larger_than_a_message_of_sqs(
        sqs_workers: DoomedWorkers) -> None:
    workers, values = sqs_workers, [f'{number:01000}' for number in range(1500)]
    workers.start(3)
    header = [workers.module.part.s(value) for value in values]
    joined = chord(header, workers.task('summary')).apply_async()
    assert joined.get(timeout=400, follow_parents=False) == summary(values)


@slow
def test_a_chord_of_ten_thousand_parts_whose_body_goes_over_sqs(
        sqs_workers: DoomedWorkers) -> None:
    # the parts return here: moto's server is too slow for the messages of them all
    workers, values = sqs_workers, [f'{number:0100}' for number in range(10_000)]
    workers.start(1)
    drive = Drive(workers.module.app, len(values))
    drive.body = workers.task('summary', task_id=drive.body_id)
    drive.apply()
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(drive.returns, range(len(values)), values):
            pass
    joined = workers.module.app.AsyncResult(drive.body_id)
    assert joined.get(timeout=120) == summary(values)


# --------------------------------------------------------------------------------------------------
# Workers that are killed
# --------------------------------------------------------------------------------------------------

@slow
def test_workers_that_are_killed_lose_nothing(
        make_workers: Callable[..., Workers], proxy: Proxy,
        monkeypatch: pytest.MonkeyPatch) -> None:
    workers = make_workers()
    module, draw = workers.module, random.Random(3)
    ready(module.app, proxy)
    chords = []
    for _ in range(6):
        header = [module.part.s(number, 0.02) for number in range(50)]
        chords.append(chord(header, module.total.s()).apply_async())
    workers.start()
    for kills in range(8):
        time.sleep(draw.uniform(0.5, 2))
        if kills % 4 == 3:
            workers.kill()
            workers.start()
        else:
            children = workers.children()
            if children:
                os.kill(draw.choice(children), signal.SIGKILL)
    for result in chords:
        assert result.get(timeout=150, follow_parents=False) == list(range(50))
    assert set(workers.bodies()) == {result.id for result in chords}


#: the steps at which a process is killed, and how many parts the header has
STEPS = [
    ('stored', 3), ('counted 1', 3), ('counted 1', 45), ('counted 2', 45), ('collected', 3),
    ('publishing', 3), ('published', 3), ('closed', 3)]


@slow
@pytest.mark.parametrize(('task', 'lazy'), [
    ('doomed', False),
    pytest.param('doomed', True, marks=LAZY.marks),
    # Celery looks for no success of its own: whatever the version, such a part is redelivered
    ('doomed_ignored', False),
], ids=['list', 'generator', 'ignored'])
def test_a_process_that_is_killed_at_any_step_of_a_chord_does_not_stop_it(
        task: str, lazy: bool, doomed_workers: DoomedWorkers) -> None:
    workers = doomed_workers
    sizes = {f'{step} of {size}': size for step, size in STEPS}
    chords = {f'{step} of {size}': workers.chord(f'{step} of {size}', step, task, size, lazy)
              for step, size in STEPS}
    # one that dies early: another part returns after it
    parts = [workers.task(task, 0, 'early', 'stored'), workers.module.part.s(1, 1.0)]
    sizes['early'], chords['early'] = 2, chord(parts, workers.body('early')).apply_async()
    # a slot for each delivery that waits for a dead owner's lease, and two to go on with
    workers.start(len(chords) + 2)
    workers.wait_until_struck(set(chords))
    found = outcomes(chords)
    assert found == {name: list(range(size)) for name, size in sizes.items()}
    workers.wait_until_idle()
    bodies = workers.reported('bodies')
    # its message was sent, and the one who sent it could tell nobody: it may be sent once more
    if bodies['published of 3'][1:] == [found['published of 3']]:
        del bodies['published of 3'][1:]
    assert bodies == {name: [values] for name, values in found.items()}
    assert workers.reported('errors') == {}


@slow
def test_a_process_that_is_killed_while_a_chord_fails_does_not_stop_it(
        doomed_workers: DoomedWorkers) -> None:
    workers = doomed_workers
    steps = 'stored', 'counted 1', 'collected'
    chords = {step: workers.chord(step, step, 'doomed_failing') for step in steps}
    workers.start(len(chords) + 2)
    workers.wait_until_struck(set(steps))
    found = outcomes(chords)
    assert found == dict.fromkeys(steps, 'ChordError')
    workers.wait_until_idle()
    errors = workers.reported('errors')
    assert errors.keys() == set(steps)
    for name, got in errors.items():
        assert len(got) == 1, errors
        assert 'raised ValueError' in got[0], (name, got)
    assert workers.reported('bodies') == {}


@slow
def test_a_process_that_is_killed_in_an_inner_chord_does_not_stop_the_one_around(
        doomed_workers: DoomedWorkers) -> None:
    workers = doomed_workers

    def around(name: str, task: str, step: str) -> Any:
        doomed = workers.task(task, 1, name, step, 1)
        inner = chord([workers.module.part.s(0), doomed], workers.module.total.s())
        return chord([inner, workers.module.part.s(2)], workers.body(name)).apply_async()

    steps = 'stored', 'counted 1', 'publishing', 'closed'
    tasks = {**dict.fromkeys(steps, 'doomed'),
             **{f'{step} of a failure': 'doomed_failing' for step in steps[:2]}}
    chords = {name: around(name, task, name.partition(' of ')[0]) for name, task in tasks.items()}
    workers.start(len(chords) + 2)
    workers.wait_until_struck(set(chords))
    found = outcomes(chords)
    assert found == {name: [[0, 1], 2] if task == 'doomed' else 'ChordError'
                     for name, task in tasks.items()}
    workers.wait_until_idle()
    bodies, errors = workers.reported('bodies'), workers.reported('errors')
    assert bodies == {name: [got] for name, got in found.items() if got != 'ChordError'}
    assert errors.keys() == found.keys() - bodies.keys()
    for got in errors.values():
        assert len(got) == 1 and 'raised ValueError' in got[0], errors


@slow
def test_a_process_that_is_killed_fails_its_chord_if_its_task_is_not_delivered_again(
        doomed_workers: DoomedWorkers) -> None:
    workers = doomed_workers
    part, lost = workers.module.part, workers.task('lost').clone(immutable=True)
    chords = {
        'flat': chord([part.s(0), lost], workers.body('flat')),
        'inner': chord([part.s(0), chord([part.s(1), lost], workers.body('of the inner'))],
                       workers.body('inner')),
        'chain': chord([part.s(0), lost | part.si(1)], workers.body('chain'))}
    results = {name: each.apply_async() for name, each in chords.items()}
    workers.start()
    assert outcomes(results) == dict.fromkeys(results, 'ChordError')
    workers.wait_until_idle()
    errors = workers.reported('errors')
    assert errors.keys() == {*chords, 'of the inner'}
    assert all(len(got) == 1 and 'WorkerLostError' in got[0] for got in errors.values()), errors
    assert workers.reported('bodies') == {}


@slow
@pytest.mark.parametrize('step', ['counted 1', 'publishing'])
def test_a_hard_time_limit_of_who_joins_holds_nobody_up(
        step: str, sqs_workers: DoomedWorkers) -> None:
    # with a broker that Celery asks in its event loop, this is where it handles time limits, too
    workers = sqs_workers
    workers.start(2)
    others = workers.module.part.delay('the worker is up')
    assert others.get(timeout=60) == 'the worker is up'
    parts = [workers.module.part.s(0), workers.task('doomed', 1, 'it', step, 1, 'hang')]
    parts[1].set(time_limit=3)
    joined = chord(parts, workers.body('it')).apply_async()
    workers.wait_until_struck({'it'})
    deadline = time.monotonic() + 8     # the limit falls into it
    longest = 0.0
    while time.monotonic() < deadline:
        sent = time.monotonic()
        assert workers.module.part.delay('unrelated').get(timeout=90) == 'unrelated'
        longest = max(longest, time.monotonic() - sent)
        time.sleep(0.2)
    # a lease is 15 s
    assert longest < 8, f'an unrelated task took {longest:.1f} s'
    assert outcomes({'it': joined})['it'] in ([0, 1], 'ChordError')
    assert len(workers.wait_until_reported('bodies', 1, 0)
               + workers.wait_until_reported('errors', 1, 0)) == 1
    assert 'Hard time limit' in (workers.folder / 'log').read_text()


@slow
def test_a_warm_shutdown_loses_no_wait_for_a_dead_owner(doomed_workers: DoomedWorkers) -> None:
    workers = doomed_workers
    workers.start(1)
    parts = [workers.module.part.s(0), workers.task('doomed_ignored', 1, 'it', 'publishing', 1)]
    parts[1].set(soft_time_limit=3)
    joined = chord(parts, workers.body('it')).apply_async()
    workers.wait_until_struck({'it'})
    time.sleep(6)  # the redelivery waits for the lease, and has met its limit
    assert joined.state == states.PENDING
    workers.process.send_signal(signal.SIGTERM)  # it waits on
    workers.process.wait(60)
    assert 'Soft time limit' in (workers.folder / 'log').read_text()
    workers.start(1)
    assert outcomes({'it': joined}) == {'it': [0, 1]}
    workers.wait_until_idle()
    assert workers.reported('bodies') == {'it': [[0, 1]]}


@slow
def test_a_body_that_is_replaced_after_a_state_of_its_own_outlives_a_take_over(
        doomed_workers: DoomedWorkers) -> None:
    workers = doomed_workers
    chords = {}
    for step in ('counted 1', 'collected', 'publishing', 'published'):
        header = [workers.module.part.s(number) for number in range(2)]
        chords[step] = chord(header, workers.task('replaced', step, step)).apply_async()
    workers.start(len(chords) + 2)
    workers.wait_until_struck(set(chords))
    found = outcomes(chords)
    assert found == {name: [[0, 1], 'other'] for name in chords}


# --------------------------------------------------------------------------------------------------
# As it is used
# --------------------------------------------------------------------------------------------------

@pytest.fixture(scope='session')
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that finds nothing but Celery, botocore and what they need."""
    import importlib.metadata as metadata
    folder, pending, copied = tmp_path_factory.mktemp('bare'), ['celery', 'botocore'], set()
    while pending:
        name = pending.pop()
        if name in copied:
            continue
        copied.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for file in distribution.files or ():
            top = file.parts[0]
            source = Path(str(distribution.locate_file(top)))
            if top not in ('..', '__pycache__') and not (folder / top).exists() and source.exists():
                (folder / top).symlink_to(source)
        for requirement in distribution.requires or ():
            if 'extra ==' not in requirement:
                pending.append(re.split(r'[ ;<>=!~\[(]', requirement)[0].lower())
    return str(folder)


def run_python(path: list[str], code: str) -> str:
    done = subprocess.run(
        [sys.executable, '-S', '-c', textwrap.dedent(code)], cwd=tempfile.gettempdir(),
        env={'PYTHONPATH': os.pathsep.join(path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_it_imports_where_only_celery_and_botocore_are(bare_python: str) -> None:
    assert run_python([str(ROOT), bare_python], '''
        import sys, dyna_veggie
        from celery import Celery
        app = Celery(backend='dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1')
        assert app.backend.expires == 86400
        print(sorted({'boto3', 'moto', 'docker', 'pytest', 'requests'} & set(sys.modules)))
    ''') == '[]\n'


def test_importing_it_imports_no_client_of_botocore(bare_python: str) -> None:
    assert run_python([str(ROOT), bare_python], '''
        import sys, dyna_veggie
        from celery import Celery
        app = Celery(backend='dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1')
        assert app.backend.expires == 86400
        print(sorted({'botocore.loaders', 'botocore.session', 'urllib3'} & set(sys.modules)))
    ''') == '[]\n'


#: what a test of forks runs first: counts the files of botocore's that are parsed, and the sockets
AUDIT = '''
    import gc, os, sys
    from celery import Celery, signals
    opened, sockets = [], []

    def audit(event, args):
        if event == 'open' and '/botocore/data/' in str(args[0]):
            opened.append(args[0])
        elif event.startswith('socket.'):
            sockets.append(event)

    import dyna_veggie, urllib3  # which tries IPv6 with a socket when it is imported
    sys.addaudithook(audit)

    def make_client(options):
        """In a child; prints what it had to parse, and which modules of botocore it imported."""
        known = set(sys.modules)
        del opened[:]
        sys.stdout.flush()
        if not os.fork():
            dyna_veggie.connect(options)
            imported = sorted(name for name in set(sys.modules) - known if 'botocore' in name)
            print(len(opened), imported, flush=True)
            os._exit(0)
        os.wait()
'''


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_children_parse_nothing_that_was_preloaded(bare_python: str, tmp_path: Path) -> None:
    config = tmp_path / 'config'
    config.write_text(f'[default]\ncredential_process = touch {tmp_path / "asked"}\n')
    assert run_python([str(ROOT), bare_python], AUDIT + f'''
    os.environ['AWS_CONFIG_FILE'] = {str(config)!r}
    of_clients = {{  # of which the first two need a socket
        'AWS_CSM_ENABLED': 'true', 'AWS_DEFAULTS_MODE': 'auto', 'AWS_ENDPOINT_URL': 'not a URL'}}
    os.environ.update(of_clients)
    dyna_veggie.preload()
    print(len(opened) > 0, sockets)
    for name in of_clients:
        del os.environ[name]
    make_client(dyna_veggie.parse_options(
        'dynamodb://key:secret@eu-west-1/table', Celery().conf))
    ''') == 'True []\n0 []\n'
    assert not (tmp_path / 'asked').exists()


def test_preloading_raises_for_a_profile_that_is_not_there() -> None:
    with pytest.raises(ImproperlyConfigured, match="profile='no-such'"):
        dv.preload(options('dynamodb://eu-west-1?profile=no-such'))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.parametrize('signal_name', ['worker_init', 'worker_before_create_process'])
def test_a_worker_preloads_before_it_forks(bare_python: str, signal_name: str) -> None:
    assert run_python([str(ROOT), bare_python], AUDIT + f'''
    app = Celery(backend='dyna_veggie.DynamoDBBackend+dynamodb://key:secret@eu-west-1/table')
    app.set_default()
    frozen = gc.get_freeze_count()
    signals.{signal_name}.send(sender=None)
    print(gc.get_freeze_count() > frozen, len(opened) > 0, sockets)
    make_client(app.backend.options)
    del opened[:]
    frozen = gc.get_freeze_count()
    signals.worker_before_create_process.send(sender=None)  # of a child in place of another
    print(gc.get_freeze_count() == frozen, len(opened))
    ''') == 'True True []\n0 []\nTrue 0\n'


@pytest.mark.parametrize('url', [
    'cache+memory://', 'dyna_veggie.DynamoDBBackend+dynamodb://?no_such_option=1', 'none.such://'])
def test_a_worker_with_another_backend_preloads_nothing(bare_python: str, url: str) -> None:
    assert run_python([str(ROOT), bare_python], AUDIT + f'''
    app = Celery(backend={url!r})
    app.set_default()
    frozen = gc.get_freeze_count()
    signals.worker_init.send(sender=None)
    print(gc.get_freeze_count() == frozen, opened, 'botocore.session' in sys.modules)
    ''') == 'True [] False\n'


def test_the_file_works_where_it_was_vendored(
        bare_python: str, tmp_path: Path, endpoint: str) -> None:
    (tmp_path / 'proj' / 'vendor').mkdir(parents=True)
    for package in ('proj', 'proj/vendor'):
        (tmp_path / package / '__init__.py').touch()
    vendored = tmp_path / 'proj' / 'vendor' / 'dyna_veggie.py'
    vendored.write_bytes((ROOT / 'dyna_veggie.py').read_bytes())
    assert run_python([str(tmp_path), bare_python], f'''
        from celery import Celery
        url = 'dynamodb://local/vendored?endpoint_url={quote(endpoint, safe="")}'
        app = Celery(backend='proj.vendor.dyna_veggie.DynamoDBBackend+' + url)
        app.backend.store_result('id', 'vendored', 'SUCCESS')
        print(app.AsyncResult('id').get(timeout=10), type(app.backend).__module__)
        from celery.app.backends import BACKEND_ALIASES
        BACKEND_ALIASES['dynamodb'] = 'proj.vendor.dyna_veggie.DynamoDBBackend'
        print(Celery(backend=url).AsyncResult('id').get(timeout=10))
    ''') == 'vendored proj.vendor.dyna_veggie\nvendored\n'


@pytest.mark.parametrize('types', [False, True], ids=['without types', "with Celery's types"])
def test_the_file_adds_no_error_to_a_check_where_it_was_vendored(
        types: bool, tmp_path: Path) -> None:
    pytest.importorskip('mypy')
    (tmp_path / 'vendor').mkdir()
    (tmp_path / 'vendor' / '__init__.py').touch()
    shutil.copy(ROOT / 'dyna_veggie.py', tmp_path / 'vendor')
    (tmp_path / 'user.py').write_text(USER.format(module='vendor.dyna_veggie'))
    if types:  # some that are not as the module needs them, as those of other releases may be
        for package in ('celery', 'kombu', 'vine', 'botocore'):
            (tmp_path / package).mkdir()
            (tmp_path / package / '__init__.pyi').write_text('class Signature: ...\n')
    assert mypy(tmp_path, '.') == revealed('vendor.dyna_veggie')


@slow
def test_lint_finds_the_errors_that_the_module_has_mypy_ignore(tmp_path: Path) -> None:
    pytest.importorskip('mypy')
    pytest.importorskip('ruff')
    (tmp_path / 'tools').mkdir()
    for name in ('lint.py', 'mypy.ini', 'ruff.toml'):
        shutil.copy(ROOT / 'tools' / name, tmp_path / 'tools')
    for name in ('setup.py', 'dyna_veggie.py'):
        shutil.copy(ROOT / name, tmp_path)

    def lint() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, 'tools/lint.py', 'dyna_veggie.py'], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout
    assert lint()[0] == 0
    with open(tmp_path / 'dyna_veggie.py', 'a') as module:
        module.write("\n\nwrong: int = 'text'\n")
    code, said = lint()
    last = len((tmp_path / 'dyna_veggie.py').read_text().splitlines())
    assert code == 1 and f'dyna_veggie.py:{last}: error: Incompatible types' in said, said


def test_coroutines_call_tasks_and_await_their_results(
        backend: dv.DynamoDBBackend, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / 'examples'))
    awaiting: Any = importlib.import_module('awaiting')
    app, sent = backend.app, list[str]()

    @app.task(shared=False)
    def work(number: int) -> int:
        return number

    @celery.signals.before_task_publish.connect
    def note(headers: Any = None, **kwargs: Any) -> None:
        time.sleep(0.01)  # as a broker would
        sent.append(headers['id'])
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.05)
            ticks += 1

    async def wait() -> list[Any]:
        ticking = asyncio.create_task(tick())
        waiting = asyncio.gather(
            awaiting.call(work, 0, timeout=30),
            awaiting.call_many(work, [(number,) for number in range(1, 30)], timeout=30))
        while len(sent) < 30:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        backend.mark_as_failure(sent[-1], KeyError('no'))
        for id in sent[:-1]:
            backend.store_result(id, id, states.SUCCESS)
        one, many = await waiting
        with pytest.raises(asyncio.TimeoutError):
            await awaiting.call(work, 1, timeout=0.1)
        ticking.cancel()
        return [one, *many]

    *values, failed = asyncio.run(wait())
    assert sorted(values) == sorted(sent[:-2]) and repr(failed) == repr(KeyError('no'))
    assert ticks > 10  # the event loop was not held up
    # not a poll for each of them
    assert len([each for each in operations(proxy) if each == 'BatchGetItem']) < 30


@slow
@pytest.mark.parametrize('place', ['moto', 'engine'])
def test_the_tests_of_the_examples_pass(place: str, endpoint: str, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith('AWS_')}
    chosen = {'TEST_DYNAMODB': endpoint} if place == 'engine' else {}
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-c', os.devnull,
         str(ROOT / 'examples' / 'test_proj.py')], cwd=tmp_path, text=True,
        env={**environ, **chosen, 'PYTHONPATH': str(ROOT)}, stdout=subprocess.PIPE)
    assert done.returncode == 0 and ' passed' in done.stdout, done.stdout


def test_reset_forgets_the_clients_of_this_process(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    backend.store_result('one', 1, states.SUCCESS)
    used = dv.shared_table(backend.options)
    dv.reset()
    assert dv.shared_table(backend.options) is not used
    assert dv.shared_table(backend.options).client.botocore is not used.client.botocore
    assert app.AsyncResult('one').get(timeout=10) == 1  # by the client that was made since


def test_a_client_from_before_a_mock_is_forgotten() -> None:
    # in a process of its own, because moto changes all clients that are made once it is imported
    code = '''if True:
        import dyna_veggie
        from celery import Celery
        url = 'dynamodb://eu-west-1/celery?retry_timeout=0'
        app = Celery(backend=f'dyna_veggie.DynamoDBBackend+{url}')
        dyna_veggie.shared_table(app.backend.options).client.botocore
        import moto
        with moto.mock_aws():
            dyna_veggie.reset()
            app.backend.store_result('one', 1, 'SUCCESS')
            print(app.AsyncResult('one').get(timeout=10))
    '''
    environ = {'PYTHONPATH': str(ROOT), 'AWS_ACCESS_KEY_ID': 'testing',
               'AWS_SECRET_ACCESS_KEY': 'testing',
               'HTTPS_PROXY': 'http://127.0.0.1:9'}  # so that nothing can reach AWS
    done = subprocess.run([sys.executable, '-c', code], cwd=tempfile.gettempdir(), env=environ,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.stdout == '1\n', done.stdout


def test_the_entry_point_gives_the_scheme() -> None:
    setup = (ROOT / 'setup.py').read_text()
    assert 'celery.result_backends' in setup and 'dynamodb = dyna_veggie:DynamoDBBackend' in setup


def printed_options() -> dict[str, dict[str, Any]]:
    done = click.testing.CliRunner().invoke(dv.commands, ['options', '--json'])
    return {row['name']: row for row in map(json.loads, done.output.splitlines())}


def test_options_are_printed_with_their_defaults() -> None:
    rows = printed_options()
    fields = [each for each in dv.dataclasses.fields(dv.Options) if 'doc' in each.metadata]
    assert [each.name for each in fields] == list(rows)
    conf = Celery(set_as_current=False).conf
    for each in fields:
        row = rows[each.name]
        if row['default'] is not None:  # as a URL has it
            parsed = dv.parse_options(f'dynamodb://eu-west-1?{each.name}={row["default"]}', conf)
            assert getattr(parsed, each.name) == each.default
        else:
            assert not each.default
    output = click.testing.CliRunner().invoke(dv.commands, ['options']).output
    assert 'retry_timeout (default: 120)\n    seconds to go on trying; then' in output
    assert max(map(len, output.splitlines())) < 80


def test_the_readme_names_every_option_and_says_what_those_that_matter_do() -> None:
    printed = printed_options()
    for name in printed:
        assert f'``{name}``' in README, name
    table = README.partition('that matter most:\n\n')[2].partition('\n\n')[0]
    _, _, *lines, last = table.splitlines()
    rows = list[list[str]]()
    for line in lines[1:]:
        cells = line[:24].strip(), line[25:40].strip(), line[41:].strip()
        if cells[0]:
            rows.append(list(cells))
        else:
            rows[-1][2] += f' {cells[2]}'
    assert len(rows) == 12 and set(last) == {'=', ' '}
    for name, default, meaning in rows:
        row = printed[name.strip('`')]
        assert default.strip('`').replace(',', '') == (row['default'] or 'none'), name
        assert meaning.replace('``', '') == row['meaning'], name


def test_the_readme_takes_ten_minutes() -> None:
    assert len(README.splitlines()) <= 620
    first_two_screens = README.partition('\nRedelivery\n~~~')[0].splitlines()
    assert len(first_two_screens) <= 120
    assert '    pip install dyna-veggie' in first_two_screens[:10]


#: how each sentence of the README's section on guarantees begins, and what verifies it
GUARANTEES: dict[str, tuple[Callable[..., Any], ...]] = {
    'A result is stored by one conditional': (
        test_passing_faults_are_waited_out, test_an_outage_loses_nothing_and_says_so_once,
        test_workers_outlive_half_a_minute_without_dynamodb),
    'A success is never overwritten.': (
        test_success_is_never_overwritten,
        test_exactly_one_of_many_racing_successes_is_kept,
        test_batched_stores_keep_the_first_success, test_batched_stores_survive_faults),
    'Results that share a request': (
        test_what_cannot_be_stored_hurts_no_other_store_of_its_batch,
        test_an_interrupted_store_leaves_the_others_alone,
        test_nobody_waits_for_ever_for_a_leader_that_a_signal_stopped_before_it_led,
        test_a_store_that_is_tried_again_and_again_does_not_hold_up_others),
    'A reader finds the old value': (
        test_a_reader_never_sees_a_mix_of_two_values,
        test_large_values_survive_a_fault_anywhere),
    'Expired results are not returned,': (
        test_expired_items_are_hidden_and_replaced,),
    'An item that cannot be read,': (
        test_an_item_that_cannot_be_read_fails_alone,
        test_any_item_is_read_or_a_clear_error_and_can_be_replaced),
    'Reads of the state of one task': (
        test_reads_of_states_are_strongly_consistent_and_polls_are_not,
        test_restoring_a_group_waits_for_it_to_appear,
        test_a_result_that_appears_late_is_waited_for),
    '``get(timeout=…)`` is honoured': (
        test_a_throttled_table_does_not_hold_up_a_time_out,),
    'Each task counts once and the': (
        test_any_interleaving_publishes_the_body_once,
        test_whichever_response_is_lost_the_body_is_published_once,
        test_batched_counts_count_once_each, test_a_soak_in_faults_and_duplicates,
        test_the_protocol_is_right_over_random_schedules),
    'The body gets what the tasks': (
        test_each_run_of_a_frozen_chord_gets_its_own_values,
        test_each_run_of_a_chord_with_fixed_ids_gets_its_own_values,
        test_a_success_before_the_return_is_not_what_the_body_gets,
        test_a_lagging_read_does_not_give_a_body_the_values_of_an_earlier_run,
        test_a_generator_of_anything_is_counted_right,
        test_ignored_results_reach_the_body_and_are_gone_then),
    'Once its tasks have returned,': (
        test_a_chord_whose_deadline_passes_fails_once,
        test_a_chord_whose_table_is_deleted_fails,
        test_a_chord_whose_counters_are_gone_fails,
        test_a_header_structure_that_is_gone_fails_the_chord,
        test_a_body_whose_values_are_gone_fails,
        test_a_chord_ends_whatever_fails_in_its_header,
        test_a_frozen_chord_ends_if_a_task_had_failed_in_its_earlier_run),
    'The result of a chord raises': (
        test_an_awaited_chord_raises_the_error_of_a_part_before_its_own,
        test_the_error_of_one_part_of_a_thousand_is_seen_by_the_next_poll,
        test_the_error_of_a_part_is_raised_while_another_waits),
    'If workers are killed and their': (
        test_a_process_that_is_killed_at_any_step_of_a_chord_does_not_stop_it,
        test_a_process_that_is_killed_while_a_chord_fails_does_not_stop_it,
        test_whenever_a_worker_dies_the_chord_around_one_that_fails_ends,
        test_whenever_a_worker_dies_the_body_is_published_once, test_done_means_done,
        test_done_means_done_in_a_later_run_too),
    'A body that stored a state and': (
        test_a_body_that_is_replaced_after_a_state_of_its_own_outlives_a_take_over,
        test_nobody_takes_over_while_the_owner_lives_however_long_it_publishes),
    "No worker's main process is": (
        test_a_hard_time_limit_of_who_joins_holds_nobody_up,
        test_a_process_that_runs_no_task_waits_at_its_end,
        test_a_task_waits_for_a_lease_beyond_its_soft_time_limit),
    'Except for the deadline, none': (
        test_leases_do_not_depend_on_the_clocks_of_hosts,),
    'Prefork, threads, solo, gevent': (
        test_a_real_prefork_worker, test_greenlets, test_clients_in_children_and_interpreters,
        test_a_child_has_a_client_and_sockets_of_its_own, test_nothing_leaks),
    'Children of a prefork worker share': (
        test_a_worker_preloads_before_it_forks, test_children_parse_nothing_that_was_preloaded),
    'No secret key or session token': (
        test_the_secret_key_is_shown_nowhere, test_a_session_token_is_shown_nowhere,
        test_credentials_with_whitespace_are_refused_and_shown_nowhere,
        test_what_a_metadata_service_answers_is_not_logged,
        test_what_botocore_logs_of_credentials_is_masked),
    'Temporary credentials are renewed': (
        test_credentials_that_expire_are_renewed,
        test_a_role_is_assumed_with_the_credentials_that_were_used_without_it_and_renewed,
        test_a_token_that_aws_calls_expired_is_looked_for_anew),
    'An option that is malformed,': (
        test_bad_urls_name_the_option_and_what_would_be_right,
        test_transport_options_for_brokers_and_other_backends_are_let_pass),
    'A denied action is named (``dynamodb:PutItem``).': (
        test_permanent_errors_are_raised_at_once_with_what_to_do,
        test_a_worker_without_the_right_to_write_says_so_and_recovers_when_it_has_it,
        test_wrong_keys_are_reported_as_such_to_an_operator),
    'AWS configuration that cannot': (
        test_broken_aws_configuration_is_one_error_and_a_row_of_check,
        test_credentials_with_whitespace_are_refused_and_shown_nowhere,
        test_an_endpoint_of_the_environment_is_checked),
    'A table with another key: the': (
        test_a_table_with_another_key_is_a_clear_error,),
    'A missing table is created, even': (
        test_workers_go_on_when_their_table_is_deleted,
        test_a_table_that_must_not_be_created_is_a_clear_error,
        test_a_table_of_another_account_is_named_by_its_arn),
    "After ``retry_timeout`` botocore's": (
        test_the_original_error_is_raised_when_patience_ends,
        test_always_retry_goes_on_after_our_retries,
        test_counting_and_joining_are_retried_as_storing_is),
    'A task can run twice: brokers': (
        test_exactly_one_of_many_racing_successes_is_kept,),
    'Any state but ``SUCCESS`` is': (
        test_other_states_are_overwritten,),
    "A chord's body can be published": (
        test_a_body_that_has_run_is_not_published_again,),
    "If a result of a chord's task": (
        test_a_result_that_never_appears_fails_the_chord,),
    'What was in a table that is deleted': (
        test_a_chord_whose_table_is_deleted_fails,),
    'A host whose clock is wrong sees': (
        test_expiry_is_judged_by_the_clock_of_who_reads,),
    'If time to live is on another': (
        test_ttl_on_another_attribute_is_logged_and_results_are_stored,
        test_denied_ttl_calls_name_the_action_and_lose_no_result),
}


@pytest.mark.parametrize('sentence', GUARANTEES)
def test_the_guarantees_of_the_readme_have_tests(sentence: str) -> None:
    assert len([each for each in guaranteed() if each.startswith(sentence)]) == 1
    # at least one of them runs before each commit: `make test` leaves out what is slow
    assert any(slow.mark not in getattr(test, 'pytestmark', ()) for test in GUARANTEES[sentence])


def guaranteed() -> list[str]:
    """What the README guarantees, and what not."""
    _, _, following = README.partition('What it guarantees, and what it does not\n---')
    bullets = re.findall(r'^- (.+(?:\n  .+)*)', following.partition('\n\n\n')[0], re.MULTILINE)
    return [' '.join(bullet.split()) for bullet in bullets]


def test_all_that_the_readme_guarantees_has_tests() -> None:
    assert len(guaranteed()) == len(GUARANTEES)


def blocks(readme: str, language: str) -> list[str]:
    found = re.findall(
        rf'^( *)\.\. code-block:: {language}\n\n((?:\1    .*\n|\n)+)', readme, re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


@pytest.mark.parametrize('readme', READMES, ids=['readme', 'examples', 'benchmarks', 'tools'])
def test_the_readme_renders_on_a_package_index(readme: str) -> None:
    warnings = io.StringIO()
    rendered = readme_renderer.rst.render(readme, stream=warnings)
    assert rendered and not warnings.getvalue(), warnings.getvalue()
    # there, a link to a file leads nowhere
    links = re.findall('href="([^"]+)"', rendered)
    assert all(link.startswith(('#', 'https://')) for link in links), links


def test_the_numbers_of_the_readme_are_those_of_the_benchmark() -> None:
    bench = importlib.import_module('benchmarks.bench')
    results = json.loads((ROOT / 'benchmarks' / 'results.json').read_text())
    assert bench.readme_table(results['rows'], 0.01) in BENCHMARKS
    assert bench.summary(results['rows'], 0.01) in README
    # what the first screen makes of them
    ours, theirs = (bench.row_of(results['rows'], backend, 'a chord of 1,000', 0.01)
                    for backend in (bench.OURS, bench.CELERYS))
    slower, dearer = (theirs[name] / ours[name] for name in ('wall', 'dollars_per_million'))
    assert (f"A chord of 1,000 takes {ours['wall']:.1f} s, with 10 ms of latency: Celery's "
            f'DynamoDB backend takes {slower:.1f} times as long and costs {dearer:.1f} times as '
            'much') in ' '.join(README.partition('.. image::')[0].split())


def test_the_figures_of_a_million_parts_are_those_of_the_simulation() -> None:
    simulation = importlib.import_module('aws_simulation')
    found = json.loads((ROOT / 'benchmarks' / 'simulation.json').read_text())
    assert textwrap.indent('\n'.join(simulation.lines_of(found)), '    ') in BENCHMARKS
    few, some, many = (f'{row["seconds"] / 60:.0f}' for row in found['rows'])
    assert (f'A chord of a million tasks takes {few}, {some} and {many} minutes there with 10, 100 '
            'and 1,000 workers, on paper (``make simulate``)') in ' '.join(README.split())


def test_the_table_as_code_is_the_one_that_is_created(make_app: MakeApp, proxy: Proxy) -> None:
    ready(make_app('billing_mode=on_demand'), proxy)
    proxy.reset()
    url = backend_url(
        f'local/as-code-{uuid.uuid4().hex}', proxy.url, '&billing_mode=on_demand')
    backend = make_app(
        'billing_mode=on_demand&table_class=standard', result_backend=url).backend
    backend.get('key')
    sent = {request.operation: request.body for request in proxy.requests}
    created = {**sent['CreateTable'], 'TableName': 'celery'}
    time_to_live = sent['UpdateTimeToLive']['TimeToLiveSpecification']

    (template,) = map(yaml.safe_load, blocks(EXAMPLES, 'yaml'))
    (resource,) = template['Resources'].values()
    assert resource == {
        'Type': 'AWS::DynamoDB::Table',
        'Properties': {**created, 'TimeToLiveSpecification': time_to_live}}

    (terraform,) = blocks(EXAMPLES, 'terraform')
    table = hcl2.loads(terraform)['resource'][0]
    (named,) = table.values()
    (arguments,) = named.values()

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(each) for key, each in value.items() if key != '__is_block__'}
        if isinstance(value, list):
            return [bare(each) for each in value]
        return value.strip('"') if isinstance(value, str) else value
    (attribute,), (key,) = created['AttributeDefinitions'], created['KeySchema']
    assert [name.strip('"') for name in table] == ['aws_dynamodb_table']
    assert bare(arguments) == {
        'name': created['TableName'], 'billing_mode': created['BillingMode'],
        'hash_key': key['AttributeName'],
        'attribute': [{'name': attribute['AttributeName'], 'type': attribute['AttributeType']}],
        'ttl': [{'attribute_name': time_to_live['AttributeName'],
                 'enabled': time_to_live['Enabled']}]}


def test_the_quick_start_prints_what_the_readme_says(
        tmp_path: Path, table_name: str, endpoint: str) -> None:
    program = blocks(README, 'python')[1]
    assert "broker='redis://localhost', backend='dynamodb://local:8000/celery'" in program
    backend = f'dynamodb://local/{table_name}?endpoint_url={quote(endpoint, safe="")}'
    program = program.replace('dynamodb://local:8000/celery', backend)
    program = program.replace("broker='redis://localhost', ", '')
    program = program.replace('\n@app.task', "\napp.config_from_object('broker')\n\n@app.task", 1)
    (tmp_path / 'proj.py').write_text(program)
    (tmp_path / 'messages' / 'control').mkdir(parents=True)
    environ = {**os.environ, 'BROKER_FOLDER': str(tmp_path / 'messages'),
               'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'examples'), str(tmp_path)])}
    worker = subprocess.Popen(
        [sys.executable, '-m', 'celery', '-A', 'proj', 'worker'], cwd=tmp_path, env=environ,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(3)  # a worker declares its queue, which a broker in files needs first
        done = subprocess.run([sys.executable, 'proj.py'], cwd=tmp_path, env=environ,
                              stdout=subprocess.PIPE, text=True, timeout=60)
        assert done.stdout == '9900\n' and '``python proj.py`` prints 9900' in README
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)


def test_the_configurations_of_the_readme() -> None:
    first, _, transport, event_loop = blocks(README, 'python')
    same_loop, fixture, django, expiry = blocks(EXAMPLES, 'python')
    names: dict[str, Any] = {'Celery': Celery}
    exec(first.replace("'proj'", "'proj', set_as_current=False"), names)
    assert names['app'].backend.options.billing_mode == 'PAY_PER_REQUEST'
    names['app'] = Celery('transport', set_as_current=False)
    exec(transport, names)
    assert names['app'].backend.options == dv.Options(
        region='eu-west-1', billing_mode='PAY_PER_REQUEST', tags=(('team', 'data'),),
        retry_timeout=60)
    names['app'] = Celery('expiry', broker='memory://', set_as_current=False)
    sent = []

    @celery.signals.before_task_publish.connect
    def note(headers: Any = None, **kwargs: Any) -> None:
        sent.append(celery.app.task.Context({**headers, 'headers': headers}))
    exec(expiry, names)
    assert [dv.own_expires(names['app'], request) for request in sent] == [3600]
    assert names['ping'].result_expires == 60
    assert '``@app.task(result_expires=60)``' in README
    assert "``headers={'result_expires': 3600}``" in README
    example = (ROOT / 'examples' / 'awaiting.py').read_text()
    assert textwrap.indent(event_loop.strip(), '    ') in example and event_loop == same_loop
    exec(fixture.replace("@pytest.fixture(scope='session')\n", ''), names)
    app = Celery('fixture', set_as_current=False)
    app.config_from_object(names['celery_config']())
    assert app.backend.options.local and app.conf.broker_url == 'memory://'
    configured: dict[str, Any] = {}
    exec(django, configured)
    app = Celery('django', set_as_current=False)
    app.config_from_object(types.SimpleNamespace(**configured), namespace='CELERY')
    assert app.backend.options == dv.Options(
        region='eu-west-1', billing_mode='PAY_PER_REQUEST', retry_timeout=60)


def test_the_urls_of_the_readme() -> None:
    urls = re.findall(r'dynamodb://(?!.*region:)[^\s`\'"]*\w', '\n'.join(READMES))
    assert len(set(urls)) >= 7
    for url in urls:
        dv.parse_options(url, Celery(set_as_current=False).conf)


def test_the_policy_of_the_readme() -> None:
    command = ['-b', 'dynamodb://eu-west-1/celery', 'policy']
    done = click.testing.CliRunner().invoke(dv.commands, command)
    policies = [json.loads(block) for block in blocks(README, 'json')]
    assert policies == [json.loads(done.output)]


def test_the_break_even_with_s3_is_computed() -> None:
    paragraph = BENCHMARKS.partition('**S3 for large results.**')[2].partition('\n\n')[0]
    section = ' '.join(paragraph.split())
    written, read, put, got = 0.625, 0.125 / 2, 5.00, 0.40  # dollars per million
    per_kb, s3 = written + read / 4, put + got + written + read
    assert f'costs {per_kb:.2f} *k* dollars per million' in section
    assert f'({written} per KB written, {read} per 4 KB read' in section
    assert f'some {s3:.1f} dollars: {put:.2f} to put it, {got:.2f} to get it' in section
    assert f'and {written + read:.2f} for the item' in section
    assert f'**above some {math.ceil(s3 / per_kb)} KB**' in section
    assert f'cheaper above some {math.ceil(s3 / per_kb)} KB, by ten times at 100 KB' in ' '.join(
        README.split())
    assert 10 <= 100 * per_kb / s3 < 11 and 'by ten times at 100 KB' in section


def test_an_index_finds_results_by_state_and_time(
        app: Celery, client: Any, table_name: str) -> None:
    keys = [{'AttributeName': name, 'KeyType': kind}
            for name, kind in (('status', 'HASH'), ('timestamp', 'RANGE'))]
    client.create_table(
        TableName=table_name, BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': name, 'AttributeType': kind} for name, kind in (
            ('id', 'S'), ('status', 'S'), ('timestamp', 'N'))],
        GlobalSecondaryIndexes=[{
            'IndexName': 'by-status', 'KeySchema': keys,
            'Projection': {'ProjectionType': 'KEYS_ONLY'}}])
    for number in range(9):
        app.backend.store_result(f'id-{number}', number, states.SUCCESS)
        if number % 3 == 0:
            app.backend.mark_as_failure(f'bad-{number}', ValueError(number))
    found = client.query(
        TableName=table_name, IndexName='by-status', ScanIndexForward=False,
        KeyConditionExpression='#s = :failed AND #t > :since',
        ExpressionAttributeNames={'#s': 'status', '#t': 'timestamp'},
        ExpressionAttributeValues={
            ':failed': {'S': states.FAILURE}, ':since': {'N': str(time.time() - 3600)}})
    assert [item['id']['S'].rpartition('meta-')[2] for item in found['Items']] == [
        'bad-6', 'bad-3', 'bad-0']


def test_the_supported_versions_are_everywhere_the_same() -> None:
    sentence = re.search(
        r'It is tested with Celery ([\d.]+) to ([\d.]+) on Python ([\d.]+) to ([\d.]+) '
        r'\(Celery ([\d.]+) needs Python ([\d.]+)\)', README)
    assert sentence
    celerys, pythons, (newest_celery, needs) = (
        sentence.groups()[:2], sentence.groups()[2:4], sentence.groups()[4:])
    setup, ci = (ROOT / 'setup.py').read_text(), (ROOT / '.ci' / 'run').read_text()
    classified = re.findall(r"'Programming Language :: Python :: (3\.\d+)'", setup)
    first, last = (int(version.partition('.')[2]) for version in pythons)
    assert classified == [f'3.{minor}' for minor in range(first, last + 1)]
    assert f"python_requires='>={pythons[0]}'" in setup and f"'celery>={celerys[0]}'" in setup
    assert f'Python {pythons[0]} or newer and make' in TOOLS

    noxfile = importlib.import_module('noxfile')
    assert classified == noxfile.PYTHONS and noxfile.CELERYS[0] == celerys[0]
    assert noxfile.CELERYS[-1] == celerys[1] == newest_celery
    too_old = [each for each in classified if Version(each) < Version(needs)]
    impossible = [(each, newest_celery) for each in too_old]
    assert impossible == noxfile.IMPOSSIBLE
    assert f'PYTHON=python{pythons[1]}' in ci and f'python-next {pythons[1]} ' in ci
    # it says itself whether it has been on AWS
    assert 'not been run on AWS' in README and "'Development Status :: 4 - Beta'" in setup


@pytest.mark.parametrize(('engine', 'named'), [
    ('docker', r'DynamoDB Local \d+\.\d+\.\d+ \(Docker image amazon/dynamodb-local'),
    ('embedded', r"ministack \d+\.\d+\.\d+ at|moto \d+\.\d+\.\d+'s server"),
    ('moto', r"moto \d+\.\d+\.\d+'s server")])
def test_the_line_that_names_the_engine_says_its_version(engine: str, named: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != 'DYNAMODB_ENDPOINT'}
    done = subprocess.run(
        [sys.executable, 'tools/dynamodb_local.py', sys.executable, '-c', 'print("ran")'], cwd=ROOT,
        env={**environ, 'ENGINE': engine}, capture_output=True, text=True, timeout=180)
    if done.returncode == 2 and 'Docker' in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout == 'ran\n', done.stderr
    assert re.match(rf'dynamodb_local: (?:{named})', done.stderr.splitlines()[-1]), done.stderr


def test_dynamodb_local_is_started_as_the_readme_says() -> None:
    (arguments,) = re.findall(r'amazon/dynamodb-local (-jar .+)', README)
    assert str(arguments.split()) in (ROOT / 'tools' / 'dynamodb_local.py').read_text()


def test_the_commands_of_the_readme(cli: Any, backend: dv.DynamoDBBackend) -> None:
    backend.store_result('ID', 1, states.SUCCESS)
    commands = re.findall(r'^    celery -A proj dynamodb ([^>\n]+)', README, re.MULTILINE)
    assert {command.split()[0] for command in commands} == set(dv.commands.commands)
    for command in commands:
        if not command.startswith(('fail', 'retry')):
            assert cli(*command.split())[0] == 0, command
    command, = (command for command in commands if command.startswith('retry'))
    assert cli(*command.split(), app=backend.app)[0] == 0
    stuck = Stuck(backend.app)
    command, = (command for command in commands if command.startswith('fail'))
    arguments = [stuck.body_id if each == 'ID' else each for each in shlex.split(command)]
    assert cli(*arguments, app=backend.app, answer='y')[0] == 0
    assert stuck.reasons() == ['its worker is lost']
    makefile = (ROOT / 'Makefile').read_text()
    for target in set(re.findall(
            r'``?make ([a-z-]+)|^    make ([a-z-]+)$', '\n'.join(READMES), re.MULTILINE)):
        assert re.search(rf'^{"".join(target)}:', makefile, re.MULTILINE), target


def test_the_keys_of_commands_for_machines_are_in_the_readme(
        cli: Any, backend: dv.DynamoDBBackend) -> None:
    drive = Drive(backend.app, 2)
    drive.apply()
    drive.returns(0)
    section = EXAMPLES.partition('**For machines**')[2].partition('\n\n\n')[0]
    documented = dict(re.findall(r'^- ``([a-z-]+)``: (.+?)(?=^- |\Z)', section, re.M | re.S))
    assert set(documented) == set(dv.commands.commands)

    def named(name: str) -> set[str]:
        return set(re.findall('``([a-z_]+)``', documented[name]))
    rows = [json.loads(line) for line in cli('list', '--json-lines')[1].splitlines()
            if line.startswith('{')]
    assert {row['kind'] for row in rows} == {'task', 'chord'}
    of_rows = set().union(*rows)
    shown = cli('show', drive.group_id, '--json')[1]
    assert of_rows <= named('list')
    assert {*shown, *shown['chord']} <= named('list') | named('show')
    failed = cli('fail', drive.body_id, '--reason=why', '--yes', '--json', app=backend.app)[1]
    assert set(failed) == named('fail')
    retried = cli('retry', 'ID', '--json', app=backend.app)[1]
    assert {*retried, dv.READY, dv.SENT} == named('retry')
    recipe = EXAMPLES.partition('Try again\n---------')[2].partition('\n\n\n')[0]
    assert {*dv.NOT_SENT, dv.REFUSED} <= set(re.findall('``([a-z ]+)``', recipe))
    checked = cli('check', '--json')[1]
    assert {*checked, *checked['checks'][0]} == named('check')
    for name in ('create-table', 'purge'):
        assert set(cli(name, '--json')[1]) == named(name), name
    assert {key for row in printed_options().values() for key in row} == named('options')


#: what a source distribution has, to test and to measure
DISTRIBUTED = ('.ci', 'LICENSE', 'Makefile', 'README.rst', 'benchmarks', 'dyna_veggie.py',
               'examples', 'setup.py', 'test_dyna_veggie.py', 'tools')


@slow
def test_the_distributions_build_and_install(tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    for name in DISTRIBUTED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)

    def python(*command: str, executable: str = sys.executable) -> str:
        done = subprocess.run(
            [executable, *command], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout
    python('-m', 'build', '--outdir', 'dist', str(source))
    wheel, sdist = sorted((tmp_path / 'dist').iterdir(), key=lambda path: path.suffix, reverse=True)
    assert wheel.name == f'dyna_veggie-{dv.__version__}-py3-none-any.whl'
    assert sdist.name == f'dyna_veggie-{dv.__version__}.tar.gz'
    with tarfile.open(sdist) as packed:
        names = [name.partition('/')[2] for name in packed.getnames()]
    assert not [name for name in names if '__pycache__' in name]
    wanted = {str(path.relative_to(source)) for name in DISTRIBUTED
              for path in (source / name, *(source / name).rglob('*')) if path.is_file()}
    assert {name for name in wanted if '__pycache__' not in name} <= set(names)
    assert python('-m', 'twine', 'check', '--strict', str(wheel), str(sdist)).count('PASSED') == 2
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {name for name in names if '.dist-info/' not in name} == {
            'dyna_veggie.py', 'dyna_veggie-stubs/__init__.pyi'}
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith('METADATA'))
    assert 'Quick start' in metadata
    assert '.. image::' not in metadata and 'results.svg' not in metadata
    python('-m', 'venv', 'empty')
    empty = str(tmp_path / 'empty' / 'bin' / 'python')
    for distribution in (wheel, sdist):
        python('-m', 'pip', 'install', '-q', '--force-reinstall', '--no-deps', str(distribution),
               executable=empty)
    python('-m', 'pip', 'install', '-q', str(sdist), executable=empty)
    assert 'check' in python('-m', 'celery', 'dynamodb', '--help', executable=empty)
    print_module = ('import celery; '
                    'print(type(celery.Celery(backend="dynamodb://eu-west-1").backend).__module__)')
    assert python('-c', print_module, executable=empty) == 'dyna_veggie\n'
    assert 'boto3' not in python('-m', 'pip', 'list', executable=empty)
    if importlib.util.find_spec('mypy'):
        site = python('-c', 'import dyna_veggie as dv; print(dv.__file__)', executable=empty)
        user = tmp_path / 'user.py'
        user.write_text(USER.format(module='dyna_veggie'))
        assert mypy(tmp_path, '--python-executable', empty, str(user)) == revealed('dyna_veggie')
        # what the stubs say is what is there
        python('-m', 'zipfile', '-e', str(wheel), 'unpacked')
        shutil.copy(tmp_path / 'unpacked' / 'dyna_veggie-stubs' / '__init__.pyi',
                    tmp_path / 'dyna_veggie.pyi')
        (tmp_path / 'mypy.ini').write_text('[mypy]\nignore_missing_imports = true\n')
        done = subprocess.run(
            [sys.executable, '-m', 'mypy.stubtest', 'dyna_veggie', '--ignore-missing-stub',
             '--mypy-config-file', 'mypy.ini'], cwd=tmp_path, text=True,
            env={**os.environ, 'MYPYPATH': str(tmp_path), 'PYTHONPATH': str(Path(site).parent)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout


USER = '''
from {module} import DynamoDBBackend, Options, ResultTooLarge, parse_options, preload, reset

def progress(backend: DynamoDBBackend) -> float:
    reveal_type(backend.options)
    found = backend.chord_progress('id')
    reveal_type(backend.as_uri())
    return found.counted if found else 0

reveal_type(Options().tags)
reveal_type(parse_options(None, {{}}))
reveal_type(ResultTooLarge('text'))
preload(Options(tabel='celery'))
reset()
'''


def revealed(module: str) -> list[str]:
    """What mypy says of that user."""
    kinds = [(5, 'note', f'Revealed type is "{module}.Options"'),
             (7, 'note', 'Revealed type is "str"'),
             (10, 'note', 'Revealed type is "tuple[tuple[str, str], ...]"'),
             (11, 'note', f'Revealed type is "{module}.Options"'),
             (12, 'note', f'Revealed type is "{module}.ResultTooLarge"'),
             (13, 'error', 'Unexpected keyword argument "tabel" for "Options"; '
                           'did you mean "table"?  [call-arg]')]
    return [f'user.py:{line}: {kind}: {text}' for line, kind, text in kinds]


def mypy(folder: Path, *arguments: str) -> list[str]:
    """What `mypy --strict` says in a folder, without its summary, and without "builtins."."""
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', '--strict', '--config-file=', '--no-error-summary',
         *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [line for line in done.stdout.splitlines() if 'defined here' not in line]
    return [line.replace('builtins.', '').replace(f'{folder}{os.sep}', '') for line in lines]


# --- make test-aws --------------------------------------------------------------------------------

ACCESS_KEY = 'AKIAIOSFODNN7EXAMPLE'
ACCOUNT = '123456789012'


class AwsReport:
    """`make test-aws` on the engine, through the proxy."""

    def __init__(self, folder: Path, proxy: Proxy, client: Any) -> None:
        self.folder, self.proxy, self.client = folder, proxy, client
        self.said = self.report = ''
        self.code = -1
        self.process: Any = None

    def run(self, *arguments: str, answer: str = '') -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / 'tools' / 'aws_report.py'),
             '--endpoint-url', self.proxy.url, *arguments],
            cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True)
        self.report, self.said = self.process.communicate(answer, timeout=240)
        self.code = self.process.returncode
        everything = self.said + self.report
        print(everything)
        for secret in (ACCESS_KEY, SECRET, 'IQoJb3', ACCOUNT, 'arn:aws:iam', '000000000000'):
            assert secret not in everything
        # nothing is left of it on this machine
        assert list(self.folder.iterdir()) == [] and not processes_with(self.table)

    @property
    def table(self) -> str:
        found = re.search(r'creates the table (dyna-veggie-test-[a-z]{12}), on', self.said)
        assert found
        return found[1]

    def exists(self) -> bool:
        return self.table in self.client.list_tables()['TableNames']

    def row(self, name: str) -> str:
        found, = [line for line in self.report.splitlines() if line.startswith(f'| {name}')]
        return found


def processes_with(text: str) -> list[str]:
    """The processes that have a text in their environment, as far as this machine tells."""
    found = []
    for file in Path('/proc').glob('[0-9]*/environ'):
        with contextlib.suppress(OSError):
            if text.encode() in file.read_bytes():
                found.append(file.parent.name)
    return found


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith('AWS_'):
            monkeypatch.delenv(name)
    for name, value in {
            'AWS_ACCESS_KEY_ID': ACCESS_KEY, 'AWS_SECRET_ACCESS_KEY': SECRET,
            'AWS_SESSION_TOKEN': 'IQoJb3JpZ2lu', 'AWS_CONFIG_FILE': os.devnull,
            'AWS_SHARED_CREDENTIALS_FILE': os.devnull, 'AWS_EC2_METADATA_DISABLED': 'true',
            'TMPDIR': str(tmp_path)}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def aws_report(
        tmp_path: Path, proxy: Proxy, client: Any, aws_keys: None) -> AwsReport:
    return AwsReport(tmp_path, proxy, client)


def skip_unless_whole(client: Any, table: str) -> None:
    """Skips on an engine that cannot do all that AWS does."""
    client.create_table(
        TableName=table, BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}])
    try:
        said = client.batch_execute_statement(Statements=[{
            'Statement': f'INSERT INTO "{table}" VALUE {{\'id\': ?}}',
            'Parameters': [{'S': 'one'}]}])
    except botocore.exceptions.ClientError as exc:
        pytest.skip(f'this engine has no insertions by PartiQL: {exc}')
    if 'Error' in said['Responses'][0]:
        pytest.skip('this engine has no insertions by PartiQL')


@slow
def test_test_aws_passes_where_all_is_well(
        aws_report: AwsReport, client: Any, proxy: Proxy, table_name: str) -> None:
    skip_unless_whole(client, table_name)
    aws_report.run('--yes', '--parts', '60', '--prefork-parts', '10')
    assert aws_report.code == 0 and not aws_report.exists()
    assert '**14 of 14 steps passed.**' in aws_report.report
    assert 'arn:' not in aws_report.report and 'MORE' not in aws_report.report
    # it sends every kind of request that the module sends, and no other but to delete the table
    source = Path(dv.__file__).read_text('utf-8')
    kinds = {operation for method, operation in client.meta.method_to_api_mapping.items()
             if f"'{method}'" in source}
    assert len(kinds) >= 12 and set(operations(proxy)) == {*kinds, 'DeleteTable'}
    # all that was sent is in the report, with what it consumed
    row = re.compile(r'^\| (\w+) \| (\d+) \| ([\d,.]+) \| (\d*) \|', re.MULTILINE)
    rows = row.findall(aws_report.report)
    assert {operation: int(number) for operation, number, *_ in rows} == Counter(operations(proxy))
    for operation in ('PutItem', 'UpdateItem', 'BatchWriteItem', 'BatchExecuteStatement'):
        reported, computed = next(row[2:] for row in rows if row[0] == operation)
        units = sum(each.write_units for each in proxy.requests if each.operation == operation)
        assert float(reported.replace(',', '')) + int(computed or 0) == units
    # and what it said before is kept
    planned = re.search(r'which cost\n\$([\d.]+), less than 5 US cents', aws_report.said)
    used = re.search(r'write units, \$([\d.]+) \(planned', aws_report.report)
    assert planned and used and 0 < float(used[1]) <= float(planned[1]) < 0.01
    created, = [each.body for each in proxy.requests if each.operation == 'CreateTable']
    assert created['BillingMode'] == 'PAY_PER_REQUEST' and len(created['Tags']) == 2


@pytest.mark.parametrize(('text', 'scrubbed'), [
    (f'User: arn:aws:iam::{ACCOUNT}:user/w is not', 'User: <arn> is not'),
    (f'"arn:aws-us-gov:sts::{ACCOUNT}:assumed-role/r/s", and', '"<arn>", and'),
    (f'https://{ACCOUNT}.ddb.us-east-1.example', 'https://<account>.ddb.us-east-1.example'),
    ('key ASIAIOSFODNN7EXAMPLE.', 'key <access key>.'),
    (f'with {SECRET}?', 'with <key>?'),
    ('arn:aws:dynamodb:*:*:table/t-*', 'arn:aws:dynamodb:*:*:table/t-*'),
    ('12,345 read units at 2026-11-30 18:41', '12,345 read units at 2026-11-30 18:41'),
])
def test_what_test_aws_prints_has_neither_keys_nor_account_numbers(
        text: str, scrubbed: str) -> None:
    import aws_report

    scrubber = aws_report.Scrubber({SECRET})
    assert scrubber.scrub(text) == scrubbed and scrubber.leaks(scrubbed) == []
    assert bool(scrubber.leaks(text)) == (text != scrubbed)


def test_the_tables_of_test_aws_have_names_that_are_not_taken_for_secrets() -> None:
    import aws_report

    for _ in range(1000):
        name = aws_report.TestTable('us-east-1', None).name
        assert aws_report.Scrubber().scrub(name) == name


@pytest.mark.parametrize('answer', ['n\n', '', 'yesterday\n'])
def test_test_aws_says_what_it_costs_and_sends_nothing_without_a_yes(
        answer: str, aws_keys: None, monkeypatch: pytest.MonkeyPatch, proxy: Proxy,
        capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import aws_report

    monkeypatch.setattr(sys, 'stdin', io.StringIO(answer))
    assert aws_report.main(['--endpoint-url', proxy.url]) == 1
    printed = capsys.readouterr()
    assert 'Go on? [y/N]' in printed.err and 'Nothing was done.' in printed.err
    assert 'a chord of 1,000 tasks with 8 threads and one of 100 with 8 processes' in printed.err
    price = re.search(r'which cost\n\$([\d.]+), less than 5 US cents', printed.err)
    assert price and 0.001 < float(price[1]) < 0.01
    assert printed.out == '' and operations(proxy) == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('arguments', 'environ', 'said'), [
    (['--region', 'eu-west-1'], {'AWS_ACCESS_KEY_ID': None, 'AWS_SECRET_ACCESS_KEY': None},
     'there are no credentials.  Put them where'),
    ([], {}, 'there is no region.  Name it by ARGS="--region eu-west-1", or set AWS_DEFAULT'),
    (['--region', 'eu-wset-1'], {}, "region='eu-wset-1' must be an AWS region"),
    (['--region', 'eu-west-1'], {'AWS_PROFILE': 'none-such'}, "profile='none-such' must be"),
    (['--endpoint-url', 'http://x:1', '--parts', '100000'], {},
     'chords of 100,000 and 100 tasks could cost $0.11; they must cost less than $0.05'),
    (['--endpoint-url', 'ftp://x'], {}, "endpoint_url='…' must be http(s)://host:port"),
])
def test_test_aws_says_what_is_missing_before_it_asks(
        arguments: list[str], environ: dict[str, Any], said: str, aws_keys: None,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import aws_report

    for name, value in environ.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    assert aws_report.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == '' and said in printed.err and 'Go on?' not in printed.err


def test_test_aws_asks_and_writes_its_report_to_a_file(
        aws_report: AwsReport, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp('report') / 'report.md'
    aws_report.run('--only', 'single results', '--report', str(file), answer='y\n')
    assert aws_report.code == 0 and aws_report.report == '' and not aws_report.exists()
    assert '**2 of 2 steps passed, of 14 that there are.**' in file.read_text('utf-8')


@pytest.mark.parametrize(('number', 'operation', 'step'), [
    (signal.SIGTERM, 'CreateTable', 'single results'),
    (signal.SIGINT, 'PutItem', 'single results'),
    (signal.SIGHUP, 'PutItem', 'chord of threads'),     # a worker's first
])
def test_test_aws_deletes_its_table_when_it_is_interrupted(
        number: int, operation: str, step: str, aws_report: AwsReport, proxy: Proxy) -> None:
    def faults(requested: str, body: Any) -> Any:
        if requested != operation:
            return None
        aws_report.process.send_signal(number)  # while the request is under way
        # who did not wait for the creation would find nothing to delete yet
        return Delay(2 if requested == 'CreateTable' else 0.5)
    proxy.faults = faults
    aws_report.run('--yes', '--only', step)
    assert aws_report.code == 128 + number and aws_report.report == ''
    assert f'Interrupted by {signal.Signals(number).name}' in aws_report.said
    assert f'Table {aws_report.table}: deleted.' in aws_report.said
    assert not aws_report.exists() and operations(proxy).count('CreateTable') == 1


def test_test_aws_takes_attempts_that_fail_for_no_cost_and_reports_them(
        aws_report: AwsReport, proxy: Proxy) -> None:
    put: list[Any] = [Throttle(), ResetBefore(), ServerError()]
    proxy.faults = lambda operation, body: put.pop() if operation == 'PutItem' and put else None
    aws_report.run('--yes', '--only', 'single results')
    assert aws_report.code == 0
    assert '| 10 (10) | 0 (0) | 10 (10) |' in aws_report.row('ten results, stored one by one')
    assert aws_report.row('PutItem').endswith(
        '| 1 ConnectionClosedError, 1 InternalServerError, '
        '1 ProvisionedThroughputExceededException |')


def test_test_aws_says_so_if_nothing_answers(aws_report: AwsReport, proxy: Proxy) -> None:
    proxy.down = True
    aws_report.run('--yes')
    assert aws_report.code == 2 and 'Traceback' not in aws_report.said
    assert f'Table {aws_report.table}: not there.' in aws_report.said
    assert re.search(r'^test-aws: .*[Cc]onnect', aws_report.said, re.MULTILINE)


def denied(action: str) -> Error:
    return Error('AccessDeniedException',
                 f'User: arn:aws:iam::{ACCOUNT}:user/w is not authorized to perform: {action} on '
                 f'resource: arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/t')


def test_test_aws_says_what_right_is_missing_to_create_its_table(
        aws_report: AwsReport, proxy: Proxy) -> None:
    proxy.faults = lambda operation, body: (
        denied('dynamodb:CreateTable') if operation == 'CreateTable' else None)
    aws_report.run('--yes')
    assert aws_report.code == 2 and aws_report.report == ''
    assert 'the IAM action dynamodb:CreateTable is needed, and denied' in aws_report.said
    assert f'Table {aws_report.table}: not there.' in aws_report.said
    policy = json.loads(aws_report.said.partition('What this command needs:\n')[2])
    statement, = policy['Statement']
    assert statement['Resource'] == 'arn:aws:dynamodb:*:*:table/dyna-veggie-test-*'
    actions = {each.partition(':')[2] for each in statement['Action']}
    assert actions >= {'CreateTable', 'DeleteTable', 'TagResource', 'Scan', 'PartiQLInsert'}


def test_test_aws_creates_no_table_that_it_may_not_delete(
        aws_report: AwsReport, proxy: Proxy) -> None:
    proxy.faults = lambda operation, body: (
        denied('dynamodb:DeleteTable') if operation == 'DeleteTable' else None)
    aws_report.run('--yes')
    assert aws_report.code == 2
    assert 'the IAM action dynamodb:DeleteTable is needed, and denied' in aws_report.said
    assert f'Table {aws_report.table}: not there.' in aws_report.said
    assert operations(proxy) == ['DeleteTable']


def test_test_aws_notes_what_fails_tries_the_rest_and_says_plainly_that_its_table_stays(
        aws_report: AwsReport, proxy: Proxy, client: Any) -> None:
    asked: list[str] = []

    def faults(operation: str, body: Any) -> Any:
        asked.append(operation)
        if operation == 'BatchExecuteStatement':
            return denied('dynamodb:PartiQLInsert')
        if operation == 'DeleteTable' and asked.count(operation) > 1:   # the first asks whether
            return Error('ValidationException', 'not now')
        return Error('ValidationException', 'no sets') if ':members' in str(body) else None
    proxy.faults = faults
    aws_report.run('--yes', '--only', 'insertions', '--only', 'sets', '--only', 'counters')
    assert aws_report.code == 1
    assert '**2 of 4 steps passed, of 14 that there are.**' in aws_report.report
    row = aws_report.row('insertions')
    assert 'grant the IAM action dynamodb:PartiQLInsert' in row
    assert 'User: <arn> is not authorized' in row
    assert 'A right is missing.  What this command needs:' in aws_report.said
    row = aws_report.row('sets')
    assert 'ValidationException' in row and 'no sets' in row and 'dyna_veggie.py:' in row
    assert aws_report.row('counters').endswith('| ok |')

    stays = f'TABLE {aws_report.table} IN us-east-1 STAYS ('
    assert stays in aws_report.said and 'not now' in aws_report.said
    command = f'aws dynamodb delete-table --region us-east-1 --table-name {aws_report.table}'
    assert aws_report.said.count(command) == 2
    assert f'{aws_report.table}, NOT deleted' in aws_report.report
    client.delete_table(TableName=aws_report.table)


def test_test_aws_fails_where_more_is_consumed_than_the_readme_says(
        aws_report: AwsReport, proxy: Proxy, client: Any, table_name: str) -> None:
    skip_unless_whole(client, table_name)
    # half of each batch: the other half takes further requests
    proxy.faults = lambda operation, body: Partial() if operation == 'BatchGetItem' else None
    aws_report.run('--yes', '--only', 'group')
    assert aws_report.code == 1 and not aws_report.exists()
    row = aws_report.row('group')
    assert 'it takes more than the README says: a group of 100, all ready: requests' in row
    assert '(1, MORE) |' in aws_report.row('a group of 100, all ready')


WITHOUT_ENDPOINT = {
    name: value for name, value in os.environ.items() if name != 'DYNAMODB_ENDPOINT'}


def engine_client(endpoint: str) -> Any:
    return botocore.session.Session().create_client(
        'dynamodb', 'us-east-1', endpoint_url=endpoint, aws_access_key_id='local',
        aws_secret_access_key='local',
        config=botocore.config.Config(max_pool_connections=8, retries={'total_max_attempts': 1}))


@pytest.fixture(scope='session')
def ministack() -> Iterator[Any]:
    """A client of the embedded engine, with a table."""
    if sys.version_info < (3, 10):
        pytest.skip('ministack needs Python 3.10 or newer')
    with dynamodb_local.ministack_engine(WITHOUT_ENDPOINT) as engine:
        client = engine_client(engine.endpoint)
        create_table(client, 'table')
        yield client


def test_the_embedded_engine_keeps_operations_atomic(ministack: Any) -> None:
    inserted: list[str] = []
    refused: list[dict[str, Any]] = []

    def work(thread: int) -> None:
        for number in range(10):
            member = f'{thread}-{number}'
            for _ in range(2):  # the second is refused
                with contextlib.suppress(ministack.exceptions.ConditionalCheckFailedException):
                    ministack.update_item(
                        TableName='table', Key={'id': {'S': 'counter'}},
                        UpdateExpression='ADD n :one, members :members',
                        ConditionExpression='NOT contains(members, :member)',
                        ExpressionAttributeValues={
                            ':one': {'N': '1'}, ':member': {'B': member.encode()},
                            ':members': {'BS': [member.encode()]}})
            answers = ministack.batch_execute_statement(Statements=[
                {'Statement': '''INSERT INTO "table" VALUE {'id': ?, 'by': ?}''',
                 'Parameters': [{'S': id}, {'N': str(thread)}]}
                for id in (f'both-{number}', f'own-{member}')])['Responses']
            inserted.extend(f'both-{number}' for each in answers[:1] if 'Error' not in each)
            refused.extend(each['Error'] for each in answers if 'Error' in each)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counter = ministack.get_item(TableName='table', Key={'id': {'S': 'counter'}})['Item']
    assert (counter['n'], len(counter['members']['BS'])) == ({'N': '80'}, 80)
    assert sorted(inserted) == sorted(f'both-{number}' for number in range(10))
    assert [error['Code'] for error in refused] == ['DuplicateItem'] * 70


def test_the_embedded_engine_limits_and_meters_reads_as_dynamodb(ministack: Any) -> None:
    keys = [{'id': {'S': f'large-{number}'}} for number in range(60)]
    for key in keys:
        ministack.put_item(TableName='table', Item={**key, 'result': {'B': b'x' * 300_000}})

    def read(**asked: Any) -> tuple[int, int, float]:
        answer = ministack.batch_get_item(
            RequestItems={'table': {'Keys': keys, **asked}}, ReturnConsumedCapacity='TOTAL')
        left = answer['UnprocessedKeys']['table']
        assert left['Keys'] == keys[-len(left['Keys']):]
        return (len(answer['Responses']['table']), len(left['Keys']),
                answer['ConsumedCapacity'][0]['CapacityUnits'])
    # 300,022 bytes are 74 blocks of 4 KB, and 55 of them are the most that 16 MB hold
    assert read(ConsistentRead=True) == (55, 5, 55 * 74)
    assert read() == (55, 5, 55 * 37)
    assert read(ProjectionExpression='id') == (55, 5, 55 * 37)
    metered: dict[str, Any] = {'TableName': 'table', 'ReturnConsumedCapacity': 'TOTAL'}
    found = ministack.get_item(Key=keys[0], ProjectionExpression='id', **metered)
    assert found['ConsumedCapacity']['CapacityUnits'] == 37
    page = ministack.scan(FilterExpression='begins_with(id, :id)',
                          ExpressionAttributeValues={':id': {'S': 'none'}}, **metered)
    assert page['Count'] == 0 and page['ConsumedCapacity']['CapacityUnits'] > 100


@pytest.mark.parametrize('engine', ['embedded', 'moto'])
@pytest.mark.parametrize('end', ['interrupted', 'killed', 'killed while it is paused'])
def test_nothing_is_left_of_an_emulator(engine: str, end: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, 'tools/dynamodb_local.py', sys.executable, '-c',
         'import os; print(os.environ["DYNAMODB_LOG"], flush=True); input()'],
        cwd=ROOT, env={**WITHOUT_ENDPOINT, 'ENGINE': engine}, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with owner:
        assert owner.stdin is not None and owner.stdout is not None and owner.stderr is not None
        log = Path(owner.stdout.readline().strip())
        children = psutil.Process(owner.pid).children()
        (server,) = [child for child in children if str(log) in child.cmdline()]
        assert log.exists()
        # no other machine can reach it
        assert {each.laddr.ip for each in server.net_connections('all')
                if each.status == psutil.CONN_LISTEN} == {'127.0.0.1'}
        if 'paused' in end:
            server.suspend()
            while server.status() != psutil.STATUS_STOPPED:
                time.sleep(0.01)
        os.killpg(owner.pid, signal.SIGKILL if 'killed' in end else signal.SIGINT)
        owner.stdin.close()  # a signal just before a read does not end it
        psutil.wait_procs([server], timeout=30)
        assert not server.is_running()
        deadline = time.monotonic() + 30
        while log.exists():  # if the owner lives, it is the one that deletes it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert 'Traceback' not in owner.stderr.read().replace('KeyboardInterrupt', '') or (
            end == 'interrupted')   # of the command


def test_what_an_emulator_logs_is_in_its_log(capfd: pytest.CaptureFixture[str]) -> None:
    with dynamodb_local.moto_engine(WITHOUT_ENDPOINT) as engine:
        client = engine_client(engine.endpoint)
        create_table(client, 'table')
        with pytest.raises(botocore.exceptions.ClientError, match='500'):
            client.batch_execute_statement(Statements=[
                {'Statement': """INSERT INTO "table" VALUE {'id': ?}""",
                 'Parameters': [{'S': 'id'}]}])
        deadline = time.monotonic() + 20
        while 'Traceback' not in Path(engine.log).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert capfd.readouterr() == ('', '')


def test_moto_stands_in_where_ministack_cannot_be_installed(
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dynamodb_local, 'MINISTACK', '0.0.0')  # one that does not exist
    before = sorted(Path(sys.prefix).iterdir())
    environ = {**WITHOUT_ENDPOINT, 'ENGINE': 'embedded', 'PIP_NO_INDEX': '1'}
    with dynamodb_local.engine(environ) as engine:
        said = engine.description
    if sys.version_info >= (3, 10):
        assert 'since ENGINE=embedded; ministack==0.0.0 cannot be installed (ERROR: No ma' in said
    assert said.startswith('moto ') and sorted(Path(sys.prefix).iterdir()) == before
    assert capfd.readouterr().err.count('\n') <= 1


def test_a_missing_docker_is_said_plainly(tmp_path: Path) -> None:
    def said(environ: dict[str, str]) -> str:
        with pytest.raises(dynamodb_local.Unavailable) as raised, \
                dynamodb_local.docker_engine(environ):
            pass
        return raised.value.problem
    host = f'unix://{tmp_path}/none'
    assert said({'DOCKER_HOST': host}) == (
        f'no Docker engine answers at {host} (No such file or directory)')
    assert dynamodb_local.no_docker(FileNotFoundError(2, 'No such file'), {}) == (
        'no Docker was found')


@pytest.mark.parametrize('columns', [120, 80, 40])
def test_the_progress_of_the_demo_fits_the_terminal(columns: int) -> None:
    code = '''if True:
        import time, demo
        with demo.Progress('a chord of 400 tasks and a merge', 400) as progress:
            for progress.done in (0, 57, 400):
                time.sleep(0.15)
        with demo.Progress('starting a worker, creating a table'):
            time.sleep(0.15)
    '''
    try:
        ours, theirs = pty.openpty()
    except OSError as exc:
        pytest.skip(f'no pseudo-terminal: {exc}')
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != 'COLUMNS'}
    with subprocess.Popen([sys.executable, '-c', code], cwd=ROOT / 'examples', env=environ,
                          stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        output = b''
        with contextlib.suppress(OSError):  # the other side is closed
            while part := os.read(ours, 10_000):
                output += part
        os.close(ours)
    *_, first, second, rest = output.decode().split('\r\n')
    assert rest == '', output
    frames = [*first.split('\r\x1b[K'), *second.split('\r\x1b[K')]
    assert len(frames) > 6 and max(map(len, frames)) < columns
    assert frames[1].startswith('a chord of') and first.endswith('400 of 400, done')
    assert second.split('\r\x1b[K')[1].startswith('starting a')
    assert any('#' in frame for frame in frames) == (columns > 40)
