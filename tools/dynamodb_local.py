"""Starts a DynamoDB, runs a command with DYNAMODB_ENDPOINT set to it, and always stops it again.

    python tools/dynamodb_local.py COMMAND [ARGUMENT]...

It takes the first of these that works, and says which and why:

    DYNAMODB_ENDPOINT   one that runs already, if that variable is set
    ENGINE=docker       DynamoDB Local, in memory; IMAGE=... names another image of it than
                        amazon/dynamodb-local
    ENGINE=embedded     moto's server, from PyPI

If ENGINE is set, it takes only that one.  The exit code is the command's, or 2 if there is no
DynamoDB.  From Python:

    with engine() as started:
        print(started.endpoint, started.description)
"""
from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

IMAGE = 'amazon/dynamodb-local'
OWNER = 'dyna-veggie.owner'     # the label of our containers: HOST/PID of the process that owns it
SERVE = '--serve-embedded'      # the argument with which this file runs itself
PATIENCE = 60.0                 # seconds for an engine to start: Java on a busy machine
INSTALL = "pip install '.[test]' installs what is needed"


def _cannot() -> None:
    raise Unavailable('only an engine that was started here can be paused')


class Engine(NamedTuple):
    endpoint: str
    description: str
    pause: Callable[[], None] = _cannot     # it still accepts connections, but answers nothing
    resume: Callable[[], None] = _cannot


class Unavailable(Exception):
    """There is no such DynamoDB."""

    def __init__(self, problem: str, remedy: str = '') -> None:
        super().__init__(f'{problem}: {remedy}' if remedy else problem)
        self.problem = problem


@contextlib.contextmanager
def engine(environ: Mapping[str, str] = os.environ) -> Iterator[Engine]:
    """A DynamoDB that answers, for as long as the block runs.  Raises Unavailable."""
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
    with contextlib.ExitStack() as stack:
        failed: list[Unavailable] = []
        for name in [forced] if forced else ENGINES:
            try:
                started = stack.enter_context(ENGINES[name](environ))
                break
            except Unavailable as exc:
                failed.append(exc)
        else:
            raise Unavailable('; or '.join(map(str, failed)))
        if forced:
            why = f'ENGINE={forced}'
        else:
            why = '; '.join(exc.problem for exc in failed) or 'a Docker engine answers'
        yield started._replace(
            description=f'{started.description} at {started.endpoint}, since {why}')


def wait(endpoint: str, seconds: float, alive: Callable[[], bool] = lambda: True,
         remedy: str = '') -> None:
    """Returns once a DynamoDB answers there.  Raises Unavailable."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    def unavailable(detail: object) -> Unavailable:
        return Unavailable(f'no DynamoDB answers at {endpoint} ({detail})', remedy)

    try:
        client = botocore.session.Session().create_client(
            'dynamodb', 'us-east-1', endpoint_url=endpoint,
            aws_access_key_id='local', aws_secret_access_key='local',
            config=Config(connect_timeout=2, read_timeout=10, retries={'total_max_attempts': 1}))
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
            # a DynamoDB that refuses our keys is one, too; other servers give just a status
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
            raise Unavailable(f'no Docker engine answers ({reason(exc)})',
                              'start it, or set DOCKER_HOST to where it is') from exc
        stack.callback(client.close)
        try:
            remove_leftovers(client)
            try:
                client.images.get(image)
            except ImageNotFound:
                print(f'dynamodb_local: pulling {image}', file=sys.stderr, flush=True)
                client.images.pull(image)
            # in a thread, for which the stack waits: if a Ctrl-C came between the request and its
            # answer, nobody would remove the container
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
    """Which DynamoDB Local runs there: recent ones log it, the release notes tell it of older ones.

    It is no error if neither can be read: this is only for people.
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


def reason(exc: BaseException) -> str:
    """What Docker says, else the first cause: the exceptions in between only wrap it."""
    if getattr(exc, 'explanation', None):
        return str(exc.explanation)     # type: ignore[attr-defined]
    while exc.__context__:
        exc = exc.__context__
    return str(exc)


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
def embedded_engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    missing = [name for name in ('moto', 'flask', 'flask_cors') if not find_spec(name)]
    if missing:
        raise Unavailable(f'no module named {", ".join(missing)}', INSTALL)
    # in a session of its own, so that a Ctrl-C leaves it running until the command has ended; if we
    # are killed, its input ends, and so does the server
    with subprocess.Popen(
            [sys.executable, __file__, SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environ, start_new_session=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                raise Unavailable("moto's server did not start", INSTALL)
            endpoint = f'http://127.0.0.1:{port}'
            wait(endpoint, PATIENCE, alive=lambda: server.poll() is None)
            yield Engine(endpoint, f"moto {version('moto')}'s server (one request at a time)",
                         pause=lambda: server.send_signal(signal.SIGSTOP),
                         resume=lambda: server.send_signal(signal.SIGCONT))
        finally:
            server.kill()


def comparable(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def expr(operator: Any, item: Any) -> bool:
        try:
            return holds(operator, item)
        except TypeError:
            return False
    return expr


def serve() -> None:
    """The server's process: prints its port, and serves until its input ends."""
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

    # moto's operations are not atomic: two at once lose updates.  A server without threads would
    # do, too, but one client that connects and sends nothing could block it
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
    print(server.server_port, flush=True)
    sys.stdin.read()


ENGINES: dict[str, Callable[[Mapping[str, str]], contextlib.AbstractContextManager[Engine]]] = {
    'docker': docker_engine,
    'embedded': embedded_engine,
}


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
            return run(command, {**os.environ, 'DYNAMODB_ENDPOINT': started.endpoint})
    except Unavailable as exc:
        print('dynamodb_local:', ' '.join(str(exc).split()), file=sys.stderr)
        return 2


if __name__ == '__main__':
    if sys.argv[1:] == [SERVE]:
        serve()
    else:
        sys.exit(main(sys.argv[1:]))
