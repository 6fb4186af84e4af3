"""Tests of issue 19, items 4, 5 and 9, to be merged into test_dyna_veggie.py."""
# ruff: noqa
import moto


from test_dyna_veggie import *  # noqa


# section: Configuration
BAD_EXPIRIES = ['soon', math.inf, -math.inf, math.nan, 10**400, [1], True]


@pytest.mark.parametrize('setting', [
    'result_expires', 'result_failure_expires', 'result_chord_expires'])
@pytest.mark.parametrize('bad', BAD_EXPIRIES, ids=lambda bad: repr(bad)[:10])
def test_a_bad_expiry_in_celerys_settings_is_a_clear_error(
        setting: str, bad: Any, make_app: MakeApp) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make_app(**{setting: bad}).backend
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
        make_app(result_chord_join_timeout=bad).backend
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


# section: Table
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
    assert {status for status in (request.status for request in proxy.requests)} <= {200}


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


# section: Values
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
    with pytest.raises(dv.ResultTooLarge, match='results above 400,000 bytes: .* 2,08[23]'):
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


@pytest.mark.parametrize('size', [1024, 10_000, 100_000, 399_000])
def test_the_name_of_a_state_counts_against_the_item(
        size: int, backend: dv.DynamoDBBackend) -> None:
    state = 'S' * size
    filler = 'x' * (dv._VALUE_LIMIT - len(backend.encode(backend._get_result_meta(
        '', state, None, None))) - 100)
    backend.store_result('id', filler, state)
    assert backend.get_state('id') == state and backend.get_result('id') == filler
    backend.forget('id')


def test_a_name_of_a_state_that_fits_into_no_item_is_a_clear_error(
        backend: dv.DynamoDBBackend, proxy: Proxy) -> None:
    with pytest.raises(dv.ResultTooLarge, match='a state whose name has 401,025 bytes'):
        backend.store_result('id', 1, 'S' * 401_025)
    assert proxy.requests == []


# section: Commands
def test_show_of_an_id_whose_other_keys_would_be_too_long(
        run: Any, backend: dv.DynamoDBBackend) -> None:
    id = 'x' * (2048 - len('celery-task-meta-'))  # celery-taskset-meta- is longer, and so is b'…'
    backend.store_result(id, 'stored', states.SUCCESS)
    status, told = run('show', id)
    assert status == 0 and 'stored' in told


# section: Group commit
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
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.setenv(name, 'testing')
    app = Celery('mocked', set_as_current=False)
    app.conf.result_backend = 'dyna_veggie.DynamoDBBackend+dynamodb://eu-west-1/celery'
    try:
        with moto.mock_aws():
            app.backend.set('made', b'1')  # the table
            assert store_in_threads(app.backend, 8, 5) == []
    finally:
        dv.drop_shared()


@pytest.mark.parametrize('error', [
    TypeError('a hook'), KeyError('a hook'), RuntimeError('a hook')], ids=repr)
def test_whatever_a_request_for_many_raises_each_result_is_stored(
        error: Exception, crowd: Crowd) -> None:
    def instrumentation(model: Any, **kwargs: Any) -> None:
        if model.name == 'BatchExecuteStatement':
            raise error

    events = crowd.backend.values.table.client.botocore.meta.events
    events.register('before-call.dynamodb', instrumentation)
    try:
        crowd.store(9)
    finally:
        events.unregister('before-call.dynamodb', instrumentation)
    crowd.check()
    crowd.store(9)  # it has passed
    assert operations(crowd.proxy)[-2:] == ['PutItem', 'BatchExecuteStatement']
    crowd.check()


@pytest.mark.parametrize('answer', [{}, {'Responses': None}, {'Responses': [{'Error': {}}]}])
def test_an_odd_answer_for_many_loses_no_result(answer: Any, crowd: Crowd) -> None:
    def odd(parsed: dict[str, Any], **kwargs: Any) -> None:
        parsed.clear()
        parsed.update(answer)

    events = crowd.backend.values.table.client.botocore.meta.events
    events.register('after-call.dynamodb.BatchExecuteStatement', odd)
    try:
        crowd.store(9)
    finally:
        events.unregister('after-call.dynamodb.BatchExecuteStatement', odd)
    crowd.check()


def test_a_soft_time_limit_in_a_request_for_many_is_raised_and_others_are_stored(
        crowd: Crowd) -> None:
    def limit(model: Any, **kwargs: Any) -> None:
        if model.name == 'BatchExecuteStatement':
            raise SoftTimeLimitExceeded

    limited: list[str] = []
    store = crowd.backend.store_result

    def storing(id: str, *args: Any, **kwargs: Any) -> None:
        try:
            store(id, *args, **kwargs)
        except SoftTimeLimitExceeded:
            limited.append(id)

    crowd.backend.store_result = storing  # of this crowd alone
    events = crowd.backend.values.table.client.botocore.meta.events
    events.register('before-call.dynamodb', limit)
    try:
        crowd.store(9)
    finally:
        events.unregister('before-call.dynamodb', limit)
    stopped, = limited
    assert crowd.values.pop(stopped)
    crowd.check()


def test_an_engine_without_statements_is_told_as_such(
        crowd: Crowd, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    fault = Error('UnknownOperationException')
    proxy.faults = lambda operation, body: fault if operation.startswith('BatchE') else None
    crowd.store(9)
    crowd.store(9, together=False)
    assert operations(proxy).count('BatchExecuteStatement') == 1
    crowd.check()
    told, = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 'this engine has no BatchExecuteStatement' in told.getMessage()
    assert 'IAM' not in told.getMessage()


@pytest.mark.parametrize('fault', [
    Error('ResourceNotFoundException'), Partial('ResourceNotFound'), Throttle(),
    Error('ValidationException'), ServerError(), Partial('ThrottlingError')], ids=repr)
def test_what_passes_keeps_no_results_from_being_stored_together(
        fault: Any, crowd: Crowd, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults = first(2, fault, 'BatchE')
    for _ in range(3):
        crowd.store(4)
    assert operations(proxy)[-2:] == ['PutItem', 'BatchExecuteStatement']
    crowd.check()
    assert 'together' not in caplog.text


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    breaker, seen = dv.Breaker(), []
    for failed in (True, True, False, True, True, True, False):
        breaker.note(failed)
        seen.append(breaker.is_open)
    assert seen == [False] * 5 + [True, True]  # for its pause, whatever ends until then


@pytest.mark.parametrize('fault', [ServerError(), Error('ValidationException'), ResetAfter()],
                         ids=repr)
def test_an_engine_that_never_inserts_many_is_not_asked_again_and_again(
        fault: Any, crowd: Crowd, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults = lambda operation, body: fault if operation.startswith('BatchE') else None
    for number in range(dv.Breaker.FAILURES + 1):
        crowd.store(4, together=number < dv.Breaker.FAILURES)
    assert operations(proxy).count('BatchExecuteStatement') == dv.Breaker.FAILURES
    crowd.check()
    told, = [record for record in caplog.records if 'together' in record.getMessage()]
    assert told.levelno == logging.WARNING and 'tried again in a minute' in told.getMessage()


# section: Values
LARGE = 450 * KB


class Replacer:
    """Replaces a large value whenever its item was read, before its chunks are.

    times: how often; after that it stays.
    """

    def __init__(self, backend: dv.DynamoDBBackend, client: Any, table: str, times: float) -> None:
        self.backend, self.client, self.table, self.left = backend, client, table, times
        self.events = backend.values.table.client.botocore.meta.events
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
            old = self.client.put_item(
                TableName=self.table, Item=dv.marshal_item(item), ReturnValues='ALL_OLD',
                **dv.expressions({'keep': 'SUCCESS', 'now': 0},
                                 ConditionExpression=dv.Values.REPLACEABLE)).get('Attributes', {})
        except self.client.exceptions.ConditionalCheckFailedException:
            old = dv.marshal_item(item)  # the task has ended
        for id in dv.chunk_ids(dv.unmarshal_item(old)):
            self.client.delete_item(TableName=self.table, Key={'id': {'S': id}})

    def _after(self, model: Any, parsed: Any, **kwargs: Any) -> None:
        read = [parsed.get('Item'), *parsed.get('Responses', {}).get(self.table, ())]
        if self.left > 0 and any(item and 'chunks' in item for item in read):
            self.left -= 1
            self.swap()

    def __enter__(self) -> 'Replacer':
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
            backend.look(['id'], deadline=time.monotonic() + 0.2)


def test_reading_a_value_that_is_never_whole_ends_after_retry_timeout(
        make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app('retry_timeout=0.2'), proxy)
    with Replacer(backend, client, table_name, math.inf), \
            pytest.raises(dv.ReplacedMeanwhile, match='item celery-task-meta-id: .* replaced'):
        backend.get_state('id')


def test_progress_that_was_replaced_while_it_was_read_is_told_once_it_is_whole(
        app: Celery, backend: dv.DynamoDBBackend, replacer: MakeReplacer) -> None:
    told: list[str] = []

    def on_message(meta: Any) -> None:
        told.append(meta['status'])
        if meta['status'] == 'PROGRESS':
            app.backend.store_result('id', 42, states.SUCCESS)

    with replacer(5):
        result = app.AsyncResult('id')
        assert result.get(timeout=30, interval=0.02, on_message=on_message) == 42
    assert told == ['PROGRESS', 'SUCCESS']


def test_list_goes_on_while_a_value_is_replaced_again_and_again(
        run: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    ids = ready_tasks(backend, 1)
    stop = threading.Event()
    replacing = Replacer(backend, client, table_name, math.inf)

    def swap() -> None:
        while not stop.is_set():
            replacing.swap()

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        status, told = run('list')
        stop.set()
    swapping.result()
    assert status == 0 and ids[0] in told


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
