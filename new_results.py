# ruff: noqa: F403, F405, I001
# mypy: disable-error-code="name-defined"
"""New tests of the sections that issue 19 changes."""
from __future__ import annotations

import inspect

from test_dyna_veggie import *


# section: Results

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
def test_a_set_is_read_as_it_was_though_it_changes_meanwhile(
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


# section: Client

IN_A_SUB_INTERPRETER = """
import logging
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
app.backend.values.table.write_many(puts=[
    dict(id=app.backend.item_id(leaf.id), status='SUCCESS', timestamp=1,
         result=b'{{"status": "SUCCESS", "result": ' + leaf.id.encode() + b'}}')
    for leaf in results])
assert results.get(timeout=60) == list(range(250))
assert len([item for _, page in dv.scan(app.backend.values.table, 2) for item in page]) == 250
results.forget()
dv.shared_poller(app.backend.options).serve()  # as gevent and eventlet would have it
assert [item for _, page in dv.scan(app.backend.values.table, 2) for item in page] == []
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


# section: Scanning

def test_a_table_is_scanned_where_no_thread_can_be_started(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    ready_tasks(backend, 5)
    with no_more_threads():
        pages = list(dv.scan(backend.values.table, 3))
    assert sum(read for read, _ in pages) == 5 and operations(proxy).count('Scan') == 3


# section: Waiting

def test_callbacks_are_served_once_a_thread_can_be_started(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    poller = dv.shared_poller(backend.options)
    result = app.AsyncResult('later')
    called = threading.Event()
    result.then(lambda result: called.set())
    with no_more_threads():
        poller.serve()
    backend.store_result('later', 1, states.SUCCESS)
    poller.serve()
    assert called.wait(20)


# section: Joining

def test_a_task_joins_its_chord_itself_after_a_soft_limit_where_no_thread_can_be_started(
        backend: dv.DynamoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dv.ChordCounter, 'LEASE', 0.3)
    drive = Drive(backend.app, 1)
    drive.apply()
    dies_publishing(drive, 0)

    def limit(number: int, frame: Any) -> None:
        # between requests: what is interrupted loses its connection, and the proxy needs a thread
        # for each
        if frame.f_code.co_name == 'claim':
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


# section: Backend

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
    app.backend.values.table.client.botocore.meta.events.register(
        'before-call.dynamodb.PutItem', instrument)
    app.send_task('task')
    assert operations(proxy) == ['PutItem']
    told = [record.getMessage() for record in caplog.records if 'track_sent' in record.msg]
    assert 'division by zero' in told[0]
    assert len(told) == 2 and told[1].endswith('it is not stored that they were: instrumented')
