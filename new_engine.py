"""Tests of the engines and the demo, to be moved into test_dyna_veggie.py."""
from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from test_dyna_veggie import *  # noqa: F403
from test_dyna_veggie import ROOT, create_table, dynamodb_local

# section: Engines

WITHOUT_ENDPOINT = {
    name: value for name, value in os.environ.items() if name != 'DYNAMODB_ENDPOINT'}


def engine_client(endpoint: str) -> Any:
    return botocore.session.Session().create_client(
        'dynamodb', 'us-east-1', endpoint_url=endpoint, aws_access_key_id='local',
        aws_secret_access_key='local',
        config=Config(max_pool_connections=8, retries={'total_max_attempts': 1}))


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
        assert owner.stdout is not None and owner.stderr is not None
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
        psutil.wait_procs([server], timeout=30)
        assert not server.is_running() and not log.exists()
        assert 'Traceback' not in owner.stderr.read().replace('KeyboardInterrupt', '') or (
            end == 'interrupted')   # of the command


def test_what_an_emulator_logs_is_in_its_log(capfd: pytest.CaptureFixture[str]) -> None:
    with dynamodb_local.moto_engine(WITHOUT_ENDPOINT) as engine:
        client = engine_client(engine.endpoint)
        create_table(client, 'table')
        with pytest.raises(ClientError, match='500'):
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


# section: The demo

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
