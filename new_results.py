# ruff: noqa: F403, F405, I001
# mypy: disable-error-code="name-defined"
"""New tests of the sections that issue 19 changes."""
from __future__ import annotations

import copy
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


# section: Backend

KEYS = f'AKID:{quote(SECRET, safe="")}'


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
@pytest.mark.parametrize('keys', [f'{KEYS}@', ''])
def test_a_backend_that_is_copied_keeps_its_app(
        copied: Callable[[Any], Any], keys: str, table_name: str) -> None:
    place = f'eu-west-1/{table_name}'  # apps of other tests may be alive still
    theirs = app_at(keys + place, result_backend_transport_options={
        'global_keyprefix': 'theirs', 'retry_timeout': 7}, result_expires=77)
    apps = [app_at(f'{KEYS}@eu-west-1/other'), app_at(f'OTHER:key@{place}')]
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
    backend = dv.DynamoDBBackend(f'dynamodb://{KEYS}@eu-west-1/by-hand', app=app, expires=5)
    backend = copied(backend)
    assert backend.options.secret_key == SECRET and backend.expires == 5 and backend.app is app


def test_an_unpickled_result_fails_when_it_is_used_and_no_app_has_its_key(
        table_name: str) -> None:
    app = app_at(f'{KEYS}@eu-west-1/{table_name}')
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
    app = app_at(f'{KEYS}@eu-west-1/{table_name}')  # imported after all
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
    script.write_text(CHILD.format(keys=KEYS, secret=SECRET))
    run = subprocess.run(
        [sys.executable, str(script), method], capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert run.stdout.split('\n')[:2] == ['member first True', 'parent first True'], run.stderr

