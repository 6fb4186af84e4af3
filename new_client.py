"""New tests of Options, Configuration, Failures, Client, Table and Operating."""
from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore.awsrequest
import botocore.exceptions
import botocore.utils
import click.testing
import pytest
from celery import Celery, states
from celery.exceptions import ImproperlyConfigured
from packaging.version import Version

from test_dyna_veggie import *  # noqa: F403
from test_dyna_veggie import (
    SECRET,
    Error,
    MakeApp,
    Proxy,
    all_items,
    backend_url,
    dv,
    first,
    operations,
    options,
    ready,
)

# section: Options and configuration


@pytest.mark.parametrize('keys', ['AK%0AID:tess', 'AKID:%20', 'AKID:tess%09', 'AKID:tess%C2%A0'])
def test_a_key_in_the_url_has_no_whitespace(keys: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        options(f'dynamodb://{keys}@eu-west-1/celery')
    assert 'key in the URL must be printable ASCII without whitespace' in str(caught.value)
    assert 'tess' not in str(caught.value) and 'AK' not in str(caught.value)


# section: Failures


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
    backend.values.table.client.botocore.meta.events.register('before-send.dynamodb', refuse)
    backend.set('key', b'1')
    assert left == [0] and operations(proxy) == ['PutItem']


def test_too_many_requests_is_throttling(make_app: MakeApp, proxy: Proxy) -> None:
    backend = ready(make_app('retry_if_throttled=false'), proxy)
    asked = []

    def refuse(request: Any, **kwargs: Any) -> Any:
        asked.append(request)
        return raw_answer(request, b'no', 429)
    backend.values.table.client.botocore.meta.events.register('before-send.dynamodb', refuse)
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
    assert dv.interruption(wrapped) is None and not dv.diagnose(wrapped).transient


# section: Client


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
    dv.drop_shared()


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

        def log_message(self, format: str, *args: Any) -> None:
            pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{server.server_address[1]}/credentials'
        server.shutdown()
        thread.join()


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
                 'the access key must be'),
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
    dv.drop_shared()


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


@pytest.mark.parametrize('operation', ['get', 'put', 'mget', 'insert'])
def test_an_answer_that_was_changed_on_its_way_is_asked_for_again(
        operation: str, make_app: MakeApp, proxy: Proxy, client: Any, table_name: str) -> None:
    backend = ready(make_app(), proxy)
    backend.set('key', b'1')
    proxy.reset()
    answers: list[bytes] = []
    events = backend.values.table.client.botocore.meta.events

    def spoil(request: Any, **kwargs: Any) -> Any:
        # what the engine answers, but for one byte
        endpoint = backend.values.table.client.botocore._endpoint
        answer = endpoint.http_session.send(request)
        answers.append(answer.content)
        if len(answers) > 2:
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
        assert backend.values.table.insert_many([{'id': 'new', 'result': b'1'}]) == set()
        assert len(answers) == 1
        answers *= 3
        assert any(item['id'] == 'new' for item in all_items(client, table_name))
    # DynamoDB Local gives no checksum of an error, which ends the second put
    assert len(answers) == (2 if operation == 'put' else 3)
    if operation == 'put':
        assert backend.get_result('id') == 7


# section: Table


def test_a_full_page_is_known_by_its_bytes(make_app: MakeApp, proxy: Proxy) -> None:
    # DynamoDB Local sends chunks, without a Content-Length
    table = ready(make_app(), proxy).values.table
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
    assert set(table.get_many(['a', 'b', 'c'], deadline=0)) == {'a', 'b', 'c'}
    assert not pages


# section: Operating, scanning, inspecting and commands


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
