"""Tests of tools/aws_report.py."""
from test_dyna_veggie import *  # noqa: F403

# section: As it is used
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
    assert 'needs the IAM action dynamodb:PartiQLInsert' in row
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
