"""Starts a DynamoDB, runs a command with DYNAMODB_ENDPOINT set to it, and always stops it again.

    python tools/dynamodb_local.py COMMAND [ARGUMENT]...

It takes the first of these that works, and says which and why:

    DYNAMODB_ENDPOINT   one that runs already, if that variable is set
    ENGINE=docker       DynamoDB Local, in memory; IMAGE=... names another image of it than
                        amazon/dynamodb-local
    ENGINE=embedded     an emulator in Python, from PyPI: ministack, else moto, which lacks
                        PartiQL INSERT but runs on Python 3.9; ENGINE=moto takes moto

If ENGINE is set, it takes only that one.  The exit code is the command's, or 2 if there is no
DynamoDB.  The command finds the path of an emulator's log in DYNAMODB_LOG.  From Python:

    with engine() as started:
        print(started.endpoint, started.description)
"""
from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
IMAGE = 'amazon/dynamodb-local'
OWNER = 'dyna-veggie.owner'     # the label of our containers: HOST/PID of the process that owns it
SERVE = '--serve'               # the first argument with which this file runs itself
MINISTACK = '1.5.33'
PATIENCE = 60.0                 # seconds for an engine to start: Java on a busy machine
INTERNAL_ERROR = b'{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError"}'
INSTALL = "pip install '.[test]' installs what is needed"


def _cannot() -> None:
    raise Unavailable('only an engine that was started here can be paused')


class Engine(NamedTuple):
    endpoint: str
    description: str
    pause: Callable[[], None] = _cannot     # it accepts connections, but does not respond
    resume: Callable[[], None] = _cannot
    log: str = ''   # the path of an emulator's log


class Unavailable(Exception):
    """There is no such DynamoDB."""

    def __init__(self, problem: str, remedy: str = '') -> None:
        super().__init__(f'{problem}: {remedy}' if remedy else problem)
        self.problem = problem


@contextlib.contextmanager
def engine(environ: Mapping[str, str] = os.environ) -> Iterator[Engine]:
    """A DynamoDB that responds, for as long as the block runs.  Raises Unavailable."""
    endpoint, forced = environ.get('DYNAMODB_ENDPOINT'), environ.get('ENGINE')
    if endpoint:
        wait(endpoint, 5, remedy='start one there, or unset DYNAMODB_ENDPOINT')
        why = 'DYNAMODB_ENDPOINT is set'
        if forced:
            why += f', which wins over ENGINE={forced}'
        yield Engine(endpoint, f'the DynamoDB at {endpoint}, since {why}')
        return
    if forced and forced not in ENGINES:
        raise Unavailable(f'ENGINE={forced} is unknown', f'set it to {" or ".join(ENGINES)}')
    allowed = ENGINES[forced] if forced else [*ENGINES['docker'], *ENGINES['embedded']]
    with contextlib.ExitStack() as stack:
        failed: list[Unavailable] = []
        for start in allowed:
            try:
                started = stack.enter_context(start(environ))
                break
            except Unavailable as exc:
                failed.append(exc)
        else:
            raise Unavailable('; or '.join(map(str, failed)))
        reasons = [f'ENGINE={forced}'] if forced else []
        reasons += [exc.problem for exc in failed]
        why = '; '.join(reasons) or 'a Docker engine answers'
        yield started._replace(
            description=f'{started.description} at {started.endpoint}, since {why}')


def make_client(endpoint: str) -> Any:
    """A client that sends each request once."""
    import botocore.session
    from botocore.config import Config

    return botocore.session.Session().create_client(
        'dynamodb', 'us-east-1', endpoint_url=endpoint,
        aws_access_key_id='local', aws_secret_access_key='local',
        config=Config(connect_timeout=2, read_timeout=10, retries={'total_max_attempts': 1}))


def wait(endpoint: str, seconds: float, alive: Callable[[], bool] = lambda: True,
         remedy: str = '') -> None:
    """Returns once a DynamoDB responds there.  Raises Unavailable."""
    from botocore.exceptions import BotoCoreError, ClientError

    def unavailable(detail: object) -> Unavailable:
        return Unavailable(f'no DynamoDB answers at {endpoint} ({detail})', remedy)

    try:
        client = make_client(endpoint)
    except (BotoCoreError, ValueError) as exc:
        raise unavailable(exc) from exc
    end = time.monotonic() + seconds
    while True:
        try:
            client.list_tables(Limit=1)
            return
        except BotoCoreError as exc:
            detail = str(exc)
        except ClientError as exc:
            code = exc.response['Error']['Code']
            # a DynamoDB may refuse our keys; other servers give just a status
            if not code.isdigit():
                return
            detail = f'HTTP status {code}'
        if time.monotonic() > end or not alive():
            raise unavailable(detail)
        time.sleep(0.1)


# --- Docker ---------------------------------------------------------------------------------------

@contextlib.contextmanager
def docker_engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    try:
        import docker
        from docker.errors import APIError, DockerException, ImageNotFound
        from requests import RequestException
    except ImportError as exc:
        raise Unavailable(str(exc), INSTALL) from exc

    def create() -> Any:
        container = client.containers.create(
            image, ['-jar', 'DynamoDBLocal.jar', '-inMemory', '-sharedDb'], auto_remove=True,
            ports={'8000/tcp': ('127.0.0.1', None)},
            labels={OWNER: f'{socket.gethostname()}/{os.getpid()}'})
        stack.callback(remove, container)
        return container

    def alive() -> bool:
        try:
            container.reload()
        except APIError:    # one that ended is gone: auto_remove
            return False
        return True

    image = environ.get('IMAGE') or IMAGE
    with contextlib.ExitStack() as stack:
        try:
            client = docker.from_env(environment=environ)
        except DockerException as exc:
            raise Unavailable(no_docker(exc, environ),
                              'start it, or set DOCKER_HOST to where it is') from exc
        stack.callback(client.close)
        try:
            remove_leftovers(client)
            try:
                client.images.get(image)
            except ImageNotFound:
                print(f'dynamodb_local: pulling {image}', file=sys.stderr, flush=True)
                client.images.pull(image)
            # in a thread, for which the stack waits: a Ctrl-C between the request and its response
            # would leave the container
            container = stack.enter_context(ThreadPoolExecutor()).submit(create).result()
            container.start()
            container.reload()
            port = container.ports['8000/tcp'][0]['HostPort']
        except (DockerException, RequestException, LookupError) as exc:
            raise Unavailable(f'Docker cannot run {image} ({reason(exc)})',
                              f'see `docker run {image}`') from exc
        endpoint = f'http://127.0.0.1:{port}'
        wait(endpoint, PATIENCE, alive, f'see `docker run {image}`')
        yield Engine(endpoint, f'{description(container)} (Docker image {image})',
                     container.pause, container.unpause)


def description(container: Any) -> str:
    """Its version, which recent ones log; for older ones it is in the release notes.

    Neither has to be there: this is only for people.
    """
    from docker.errors import APIError

    found = None
    with contextlib.suppress(APIError):
        found = re.search(rb'^Version:\s*(\S+)', container.logs(), re.MULTILINE)
    if not found:
        with contextlib.suppress(APIError):
            notes = b''.join(container.get_archive('/home/dynamodblocal/README.txt')[0])
            found = re.search(rb'^\d{4}-\d+-\d+ \((\S+)\)', notes, re.MULTILINE)
    return 'DynamoDB Local ' + (found[1].decode() if found else 'of an unknown version')


def no_docker(exc: BaseException, environ: Mapping[str, str]) -> str:
    cause, host = first_cause(exc), environ.get('DOCKER_HOST')
    if isinstance(cause, PermissionError):
        return 'this user may not use the Docker that is here'
    if isinstance(cause, FileNotFoundError) and not host:
        return 'no Docker was found'
    return f'no Docker engine answers{f" at {host}" if host else ""} ({reason(exc)})'


def first_cause(exc: BaseException) -> BaseException:
    """The exceptions in between only wrap it."""
    while exc.__context__:
        exc = exc.__context__
    return exc


def reason(exc: BaseException) -> str:
    """What Docker says, else the first cause; without an errno."""
    if getattr(exc, 'explanation', None):
        return str(exc.explanation)     # type: ignore[attr-defined]
    cause = first_cause(exc)
    return str(getattr(cause, 'strerror', None) or cause)


def remove(container: Any) -> None:
    """Removes a container in any state, and returns once it is gone."""
    from docker.errors import APIError, NotFound
    from requests import RequestException

    for _ in range(100):
        try:
            container.remove(force=True, v=True)
        except NotFound:
            return
        except (APIError, RequestException):    # auto_remove may be removing it already
            time.sleep(0.1)


def remove_leftovers(client: Any) -> None:
    """Removes the containers of owners that were killed before they could do it."""
    found = client.containers.list(all=True, ignore_removed=True, filters={'label': OWNER})
    for container in found:
        host, _, pid = container.labels[OWNER].rpartition('/')
        if host == socket.gethostname():    # a Docker engine can serve many machines
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                remove(container)
            except PermissionError:     # another user's, and alive
                pass


# --- embedded -------------------------------------------------------------------------------------

@contextlib.contextmanager
def ministack_engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    if sys.version_info < (3, 10):
        raise Unavailable('ministack needs Python 3.10 or newer')
    with emulator('ministack', str(installed_ministack(environ)), environ) as started:
        yield started._replace(description=f'ministack {MINISTACK}')


def installed_ministack(environ: Mapping[str, str]) -> Path:
    """The folder that holds ministack, which is installed there if it is missing.

    The folder holds nothing else: ministack requires one version of botocore, but its DynamoDB
    needs none of its requirements.
    """
    venv = Path(sys.prefix) if sys.prefix != sys.base_prefix else ROOT / '.venv'
    place = venv / f'ministack-{MINISTACK}'
    if place.exists():
        return place
    requirement = f'ministack=={MINISTACK}'
    print(f'dynamodb_local: installing {requirement} (21 MB, some seconds)',
          file=sys.stderr, flush=True)
    venv.mkdir(exist_ok=True)
    unfinished = tempfile.mkdtemp(dir=venv, prefix='installing-')
    try:
        done = subprocess.run(
            [sys.executable, '-m', 'pip', 'install', '-qq', '--disable-pip-version-check',
             '--no-deps', '--target', unfinished, requirement],
            env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Unavailable(
                f'{requirement} cannot be installed ({last_line(done.stdout)})',
                f'see `{sys.executable} -m pip download --no-deps {requirement}`')
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(unfinished, place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place


@contextlib.contextmanager
def moto_engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    missing = [name for name in ('moto', 'flask', 'flask_cors') if not find_spec(name)]
    if missing:
        raise Unavailable(f'no module named {", ".join(missing)}', INSTALL)
    with emulator('moto', '', environ) as started:
        yield started._replace(
            description=f"moto {version('moto')}'s server (one request at a time)")


@contextlib.contextmanager
def emulator(name: str, place: str, environ: Mapping[str, str]) -> Iterator[Engine]:
    """A server's process; place is the folder of its package, if it is not installed."""
    descriptor, log = tempfile.mkstemp(prefix='dynamodb-', suffix='.log')
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: Path(log).unlink(missing_ok=True))
        # if we are killed, the server's input ends, and so does the server
        with os.fdopen(descriptor, 'w') as output:
            server = stack.enter_context(subprocess.Popen(
                [sys.executable, __file__, SERVE, name, log, place], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=output, text=True, env=environ))
        stack.callback(server.kill)
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            raise Unavailable(f'{name} did not start ({last_line(Path(log).read_text())})')
        endpoint = f'http://127.0.0.1:{port}'
        wait(endpoint, PATIENCE, alive=lambda: server.poll() is None)
        yield Engine(endpoint, name,
                     pause=lambda: server.send_signal(signal.SIGSTOP),
                     resume=lambda: server.send_signal(signal.SIGCONT), log=log)


def last_line(output: str) -> str:
    return output.strip().rpartition('\n')[2] or 'it does not say why'


def serve(name: str, log: str, place: str) -> None:
    """The server's process: prints its port, and serves until its input ends."""
    # A separate process group: a Ctrl-C leaves it running until the command has ended.  Not a
    # separate session: if its owner is killed while it is paused, the kernel resumes it, by a
    # SIGHUP and a SIGCONT
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        print(SERVERS[name](place), flush=True)
        sys.stdin.read()
    finally:
        Path(log).unlink(missing_ok=True)


def amend(dynamodb: Any) -> None:
    """Adds what ministack's DynamoDB lacks: the limit of a batch, and costs and sizes of items."""
    # its thread that deletes expired items takes this lock; its operations do not
    dynamodb._lock = threading.RLock()

    size_of, plain_page = dynamodb._item_size_bytes, dynamodb._paginate_evaluated_items
    plain_consumed, plain_batch_get = dynamodb._add_consumed_capacity, dynamodb._batch_get_item
    plain_describe = dynamodb._table_description
    read: list[Any] = []    # the items of the last page

    def stored(table: str, key: Any) -> Any:
        found = dynamodb._tables[dynamodb._normalize_table_name(table)]
        return dynamodb._get_item_by_key(found, key) or {}

    def units(size: int, request: dict[str, Any]) -> float:
        return max(1, -(-size // 4096)) * (1 if request.get('ConsistentRead') else 0.5)

    def page(*args: Any) -> Any:
        read[:], more = plain_page(*args)
        return list(read), more

    def consumed(
            result: Any, request: dict[str, Any], name: str, write: bool = False,
            **more: Any) -> None:
        plain_consumed(result, request, name, write, **more)
        if not write and 'ConsumedCapacity' in result:
            items = [stored(name, request['Key'])] if 'Key' in request else read
            result['ConsumedCapacity']['CapacityUnits'] = units(sum(map(size_of, items)), request)

    def batch_get(request: dict[str, Any]) -> Any:
        response = plain_batch_get(request)
        if response[0] != 200:
            return response
        room, costs, left = 16 * 1024 ** 2, [], {}
        for name, asked in request['RequestItems'].items():
            sizes = [size_of(stored(name, key)) for key in asked['Keys']]
            count = sum(total <= room for total in itertools.accumulate(sizes))
            room -= sum(sizes[:count])
            costs.append({'TableName': name, 'CapacityUnits': sum(
                units(size, asked) for size in sizes[:count])})
            if count < len(sizes):
                left[name] = {**asked, 'Keys': asked['Keys'][count:]}
                asked['Keys'] = asked['Keys'][:count]
        if left:
            request['RequestItems'] = {
                name: asked for name, asked in request['RequestItems'].items() if asked['Keys']}
            response = plain_batch_get(request)
        content = json.loads(response[2])
        content['UnprocessedKeys'] = left
        if request.get('ReturnConsumedCapacity', 'NONE') != 'NONE':
            content['ConsumedCapacity'] = costs
        return dynamodb.json_response(content)

    def describe(name: str) -> Any:
        items = (item for rows in dynamodb._tables[name]['items'].values()
                 for item in rows.values())
        return {**plain_describe(name), 'TableSizeBytes': sum(map(size_of, items))}

    dynamodb._paginate_evaluated_items, dynamodb._add_consumed_capacity = page, consumed
    dynamodb._batch_get_item, dynamodb._table_description = batch_get, describe


def serve_ministack(place: str) -> int:
    """Only its DynamoDB, behind our server.

    ministack's server also serves other services on fixed ports of all interfaces, writes to /tmp,
    and removes Docker containers.
    """
    sys.path.insert(0, place)
    from ministack.services import dynamodb

    amend(dynamodb)

    async def respond(headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Does not yield to another request, so operations are atomic."""
        with dynamodb._lock:
            response: tuple[int, dict[str, str], bytes] = await dynamodb.handle_request(
                'POST', '/', headers, body, {})
            return response

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1')
                fields = (line.partition(':') for line in head.split('\r\n')[1:])
                headers = {name.lower(): value.strip() for name, _, value in fields}
                body = await reader.readexactly(int(headers.get('content-length', 0)))
                try:
                    status, sent, content = await respond(headers, body)
                except Exception:
                    traceback.print_exc()
                    status, sent, content = 500, {}, INTERNAL_ERROR
                sent = {'content-type': 'application/x-amz-json-1.0', **sent,
                        'content-length': str(len(content)), 'server': 'ministack'}
                lines = [f'HTTP/1.1 {status} {http.HTTPStatus(status).phrase}',
                         *(f'{name}: {value}' for name, value in sent.items()), '\r\n']
                writer.write('\r\n'.join(lines).encode('latin-1') + content)
                await writer.drain()
        writer.close()

    async def start() -> int:
        server = await asyncio.start_server(serve_client, '127.0.0.1', 0)
        return int(server.sockets[0].getsockname()[1])

    loop = asyncio.new_event_loop()
    port = loop.run_until_complete(start())
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return port


def comparable(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def expr(operator: Any, item: Any) -> bool:
        try:
            return holds(operator, item)
        except TypeError:
            return False
    return expr


def serve_moto(place: str) -> int:
    from moto.dynamodb import comparisons
    from moto.dynamodb.models.dynamo_type import DynamoType
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        def log_request(self, *args: Any) -> None:
            pass

    # moto counts the base64 of binary values: it would refuse items of 300 KB as above 400
    measure = DynamoType.size
    DynamoType.size = lambda self: measure(self) * 3 // 4 if self.is_binary() else measure(self)

    # moto fails if a condition compares values of two types; in DynamoDB such a condition is false
    for operator in (comparisons.OpLessThan, comparisons.OpLessThanOrEqual,
                     comparisons.OpGreaterThan, comparisons.OpGreaterThanOrEqual):
        operator.expr = comparable(operator.expr)

    moto = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    # moto's operations are not atomic: concurrent ones lose updates.  A server without threads
    # would do, too, but a client that connects and sends nothing could block it
    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Any:
        length = int(environ.get('CONTENT_LENGTH') or 0)
        environ['wsgi.input'] = io.BytesIO(environ['wsgi.input'].read(length))
        # one database for all regions, real or not, as with DynamoDB Local's -sharedDb
        environ['HTTP_AUTHORIZATION'] = re.sub(
            '/[^/]+/dynamodb/', '/us-east-1/dynamodb/', environ.get('HTTP_AUTHORIZATION', ''))
        with turn:
            return moto(environ, start_response)

    server = make_server('127.0.0.1', 0, one_at_a_time, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_port)


SERVERS = {'ministack': serve_ministack, 'moto': serve_moto}

Start = Callable[[Mapping[str, str]], contextlib.AbstractContextManager[Engine]]

#: the values of ENGINE: the first that starts is taken
ENGINES: dict[str, list[Start]] = {
    'docker': [docker_engine],
    'embedded': [ministack_engine, moto_engine],
    'moto': [moto_engine],
}


# --- what an engine lacks -------------------------------------------------------------------------

def has_insert(client: Any, table: str) -> bool:
    (response,) = client.batch_execute_statement(Statements=[{
        'Statement': f"""INSERT INTO "{table}" VALUE {{'id': ?}}""",
        'Parameters': [{'S': 'inserted'}]}])['Responses']
    return 'Error' not in response


def has_refused_item(client: Any, table: str) -> bool:
    item = {'id': {'S': 'refused'}}
    client.put_item(TableName=table, Item=item)
    try:
        client.put_item(
            TableName=table, Item=item, ConditionExpression='attribute_not_exists(id)',
            ReturnValuesOnConditionCheckFailure='ALL_OLD')
    except client.exceptions.ConditionalCheckFailedException as exc:
        return bool(exc.response.get('Item') == item)
    return False


def has_table_size(client: Any, table: str) -> bool:
    client.put_item(TableName=table, Item={'id': {'S': 'large'}, 'value': {'B': b'x' * 10_000}})
    return bool(client.describe_table(TableName=table)['Table']['TableSizeBytes'] >= 10_000)


def has_quick_scans(client: Any, table: str) -> bool:
    """ministack sorts and hashes the whole table for each page: 100,000 items time out."""
    response = client.scan(TableName=table)['ResponseMetadata']['HTTPHeaders']
    return bool(response.get('server') != 'ministack')


#: what tests need and not every engine has.  Of these, in November 2026, each lacked
#:     DynamoDB Local 1.25    nothing
#:     DynamoDB Local 1.11    PartiQL INSERT, the item in a refused condition
#:     ministack 1.5          scans of a large table
#:     moto 5.2               PartiQL INSERT, the size of a table
FEATURES: dict[str, Callable[[Any, str], bool]] = {
    'PartiQL INSERT': has_insert,
    'the item in a refused condition': has_refused_item,
    'the size of a table': has_table_size,
    'scans of a large table': has_quick_scans,
}


@functools.cache
def lacks(endpoint: str) -> frozenset[str]:
    """Which of FEATURES the engine there lacks, found by asking it."""
    from botocore.exceptions import ClientError

    client, table = make_client(endpoint), f'features-{uuid.uuid4().hex}'
    client.create_table(
        TableName=table, BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}])
    found = set()
    for feature, has in FEATURES.items():
        with contextlib.suppress(ClientError):  # most engines say so by an error
            if has(client, table):
                found.add(feature)
    client.delete_table(TableName=table)
    return frozenset(FEATURES) - found


# --- command --------------------------------------------------------------------------------------

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle(handler: Any) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def leave(number: int, frame: Any) -> None:
    handle(signal.SIG_IGN)      # nothing may interrupt the clean-up
    sys.exit(128 + number)


def run(command: list[str], environ: Mapping[str, str]) -> int:
    """Runs a command, passes signals on to it, and returns its exit code as a shell would."""
    try:
        process = subprocess.Popen(command, env=environ)
    except OSError as exc:
        print(f'dynamodb_local: {command[0]}: {exc.strerror}', file=sys.stderr)
        return 127 if isinstance(exc, FileNotFoundError) else 126

    def pass_on(number: int, frame: Any) -> None:
        if not (number == signal.SIGINT and in_foreground()):   # the command got a Ctrl-C itself
            process.send_signal(number)

    handle(pass_on)
    code = process.wait()
    handle(signal.SIG_IGN)
    return code if code >= 0 else 128 - code


def in_foreground() -> bool:
    try:
        with open('/dev/tty', 'rb') as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:     # no terminal
        return False


def main(command: list[str]) -> int:
    if not command or command[0] in ('-h', '--help'):
        print(__doc__)
        return 0 if command else 2
    handle(leave)
    try:
        with engine() as started:
            print(f'dynamodb_local: {started.description}', file=sys.stderr, flush=True)
            return run(command, {**os.environ, 'DYNAMODB_ENDPOINT': started.endpoint,
                                 'DYNAMODB_LOG': started.log})
    except Unavailable as exc:
        print('dynamodb_local:', ' '.join(str(exc).split()), file=sys.stderr)
        return 2


if __name__ == '__main__':
    if sys.argv[1:2] == [SERVE]:
        serve(*sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))
