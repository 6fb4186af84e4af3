# ruff: noqa: F403, F405
import http.server

from test_dyna_veggie import *


# section: Table
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
    dv.drop_shared()


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
        action: str, exists: bool, run: Any, proxy: Proxy, client: Any, table_name: str) -> None:
    if exists:
        create_table(client, table_name)
    denied = Error('AccessDeniedException', 'not authorized')
    proxy.faults = lambda operation, body: denied if operation == action else None
    code, output = run('create-table')
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
    backend.values.table._ttl_due = 0  # a minute later
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

    backend.values.table.client.botocore.meta.events.register(
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


# section: Operating, scanning, inspecting and commands
def put_raw(client: Any, table: str, id: str, **attributes: Any) -> None:
    client.put_item(TableName=table, Item={'id': {'S': id}, **attributes})


OLD: dict[str, Any] = {'timestamp': {'N': '1700000000'}}


def test_purge_leaves_what_only_has_the_form_of_a_chunk(
        run: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
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
    assert run('purge', '--dry-run', '--json')[1]['orphans'] == len(ours)
    assert all_items(client, table_name) == before
    assert run('purge', '--json')[1]['deleted'] == len(ours)
    assert {item['id'] for item in all_items(client, table_name)} == set(foreign)


def test_purge_counts_what_it_deleted(
        run: Any, backend: dv.DynamoDBBackend, proxy: Proxy, client: Any,
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
    code, answer = run('purge', '--json')
    assert (code, answer['expired'], answer['orphans'], answer['deleted']) == (0, 5, 3, 0)
    assert len(all_items(client, table_name)) == 8


# section: Values
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


# section: Backend
SUCCEEDED = {'status': {'S': 'SUCCESS'}, 'result': {'B': b'{"status": "SUCCESS", "result": 1}'}}


def test_malformed_labels_of_chords_are_clear_errors(
        backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    put_raw(client, table_name, 'RUN', lazy={'BOOL': False}, single={'BOOL': False})
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
    'size below zero': {'size': {'N': '-5'}}, 'no single': {'single': None},
    'owner of a text': {'owner': {'S': 'me'}}, 'members of a number': {'members': {'N': '5'}},
    'members of texts': {'members': {'SS': ['x']}}, 'short members': {'members': {'BS': [b'x']}},
    'added of a list': {'added': {'L': [{'N': '1'}]}}, 'failed of maps': {
        'failed': {'L': [{'M': {}}]}}}


def test_malformed_runs_are_clear_errors_and_stop_no_command(
        run: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    drives = {}
    for name, change in RUNS.items():
        drives[name] = drive = Drive(backend.app, 2)
        drive.apply()
        drive.returns(0)
        (attribute, value), = change.items()
        of_run = attribute in ('size', 'single', 'owner')
        update: dict[str, Any] = {'UpdateExpression': 'REMOVE #a'}
        if value is not None:
            update = {'UpdateExpression': 'SET #a = :v', 'ExpressionAttributeValues': {':v': value}}
        client.update_item(
            TableName=table_name, Key={'id': {'S': drive.run.id + ('' if of_run else '.0.0')}},
            ExpressionAttributeNames={'#a': attribute}, **update)
        result = backend.app.AsyncResult(drive.ids[0])
        assert result.state in (states.FAILURE, states.STARTED, states.SUCCESS), name
        assert result.state != states.FAILURE or 'counters of its chord' in str(result.result)
    lines = run('list', '--json-lines', '--state', 'RUNNING')[1].splitlines()
    rows = {row['id']: row for row in map(json.loads, (
        line for line in lines if line.startswith('{')))}
    listed = run('list', '--limit', '0')[1]
    for name, drive in drives.items():
        row = rows[drive.group_id]
        assert (row['error'] is None) == (name in ('owner of a text', 'short members')), name
        assert f'{drive.group_id}  chord: {"cannot be read" if row["error"] else ""}' in listed
    for name in ('size without end', 'members of a number', 'short members'):
        shown = run('show', drives[name].group_id, '--json')[1]['chord']
        assert shown['id'] == drives[name].group_id and shown['error'].startswith('its counters: ')
    code, output = run('show', drives['no single'].group_id)
    assert code == 0 and 'chord      cannot be read: its counters: KeyError' in output


# section: Operating, scanning, inspecting and commands
def test_a_saved_group_whose_ids_are_none_is_told(
        run: Any, backend: dv.DynamoDBBackend, client: Any, table_name: str) -> None:
    saved = backend.encode({'result': [['g', None], [[[1, None], None], [[2, None], None]]]})
    backend.set('celery-taskset-meta-odd', saved)
    assert 'the saved group cannot be read: TypeError' in run('show', 'odd')[1]


def test_values_of_any_shape_are_shown(make_app: MakeApp, proxy: Proxy, table_name: str) -> None:
    backend = ready(make_app(result_serializer='pickle', accept_content=['json', 'pickle']), proxy)
    itself: list[Any] = [1]
    itself.append({'in': itself})
    deep: Any = 'deepest'
    for _ in range(300):
        deep = [deep]
    digits = 10 ** 5000
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
    assert shown['digits'] == [f'1{"0" * 5000}', {f'1{"0" * 5000}': 1}]
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
