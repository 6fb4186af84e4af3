"""Starts a DynamoDB, runs a command with DYNAMODB_ENDPOINT set to it, and stops it again, whatever happens.

    python tools/dynamodb_local.py COMMAND [ARGUMENT]...

It takes the first of these that works, and says which and why:

    DYNAMODB_ENDPOINT   one that runs already, where that variable is set
    ENGINE=docker       DynamoDB Local, image amazon/dynamodb-local, in memory
    ENGINE=embedded     moto's server, from PyPI

Setting ENGINE allows only that one.  The exit code is the command's, or 2 where there is no DynamoDB.  From Python:

    with engine() as (endpoint, description):
        ...
"""
from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Callable, NamedTuple

IMAGE = 'amazon/dynamodb-local'
OWNER = 'dyna-veggie.owner'     # the label of our containers: HOST/PID of who started them
SERVE = '--serve-embedded'      # how this file runs itself
PATIENCE = 60.0                 # seconds for an engine to start; a slow machine's Java needs some


class Engine(NamedTuple):
    endpoint: str
    description: str


class Unavailable(Exception):
    """There is no such DynamoDB; says what to do."""


@contextlib.contextmanager
def engine(environ: Mapping[str, str] = os.environ) -> Iterator[Engine]:
    """A DynamoDB that answers, for as long as the block runs.  Raises Unavailable."""
    forced, endpoint = environ.get('ENGINE'), environ.get('DYNAMODB_ENDPOINT')
    if endpoint:
        wait(endpoint, seconds=5)
        yield Engine(endpoint, 'DYNAMODB_ENDPOINT is set' + (f' (it wins over ENGINE={forced})' if forced else ''))
        return
    if forced and forced not in ENGINES:
        raise Unavailable(f'ENGINE={forced} is not one of: {", ".join(ENGINES)}')
    reasons = []
    with contextlib.ExitStack() as stack:
        for name in [forced] if forced else ENGINES:
            try:
                endpoint, description = stack.enter_context(ENGINES[name](environ))
                break
            except Unavailable as exc:
                reasons.append(str(exc))
        else:
            raise Unavailable(f'no {forced or "DynamoDB"}: ' + '; '.join(reasons))
        why = f'ENGINE={forced}' if forced else '; '.join(reasons) or 'a Docker engine runs'
        yield Engine(endpoint, f'{description}, since {why}')


def wait(endpoint: str, seconds: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Returns when a DynamoDB answers there.  Raises Unavailable."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    end = time.monotonic() + seconds
    try:
        client = botocore.session.Session().create_client(
            'dynamodb', 'us-east-1', endpoint_url=endpoint, aws_access_key_id='local', aws_secret_access_key='local',
            config=Config(connect_timeout=2, read_timeout=10, retries={'total_max_attempts': 1}))
    except (BotoCoreError, ValueError) as exc:
        raise Unavailable(f'cannot use {endpoint}: {exc}') from exc
    while True:
        try:
            client.list_tables(Limit=1)
            return
        except (BotoCoreError, ClientError) as exc:
            # DynamoDB names its errors; one that does not like our keys answers, too.  Other servers have a status only
            if isinstance(exc, ClientError) and not exc.response['Error']['Code'].isdigit():
                return
            if time.monotonic() > end or not alive():
                raise Unavailable(f'no DynamoDB answers at {endpoint}: {exc}') from exc
        time.sleep(0.1)


# --- Docker ----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def docker_engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    try:
        import docker
        from docker.errors import APIError, DockerException, ImageNotFound
        from requests import RequestException
    except ImportError as exc:
        raise Unavailable(f'the Python package docker is missing ({exc})') from exc

    def running() -> bool:
        try:
            container.reload()
        except APIError:    # a container that ended is gone at once, by auto_remove
            return False
        return True

    with contextlib.ExitStack() as stack:
        try:
            client = docker.from_env(environment=environ)
        except DockerException as exc:
            raise Unavailable(f'no Docker engine runs, or DOCKER_HOST is wrong ({exc})') from exc
        stack.callback(client.close)
        try:
            remove_leftovers(client)
            try:
                client.images.get(IMAGE)
            except ImageNotFound:
                print(f'dynamodb_local: pulling {IMAGE}', file=sys.stderr, flush=True)
                client.images.pull(IMAGE, tag='latest')
            container = client.containers.run(
                IMAGE, ['-jar', 'DynamoDBLocal.jar', '-inMemory', '-sharedDb'], detach=True, auto_remove=True,
                ports={'8000/tcp': ('127.0.0.1', None)}, labels={OWNER: f'{socket.gethostname()}/{os.getpid()}'})
            stack.callback(remove, container)
            container.reload()
            port = container.ports['8000/tcp'][0]['HostPort']
        except (DockerException, RequestException, LookupError) as exc:
            raise Unavailable(f'Docker cannot run {IMAGE} ({exc})') from exc
        endpoint = f'http://127.0.0.1:{port}'
        wait(endpoint, PATIENCE, running)
        yield Engine(endpoint, f'{IMAGE} in Docker')


def remove(container: Any) -> None:
    from docker.errors import APIError

    with contextlib.suppress(APIError):     # it ended, or is being removed
        container.remove(force=True, v=True)


def remove_leftovers(client: Any) -> None:
    """Removes containers whose owner was killed before it could."""
    for container in client.containers.list(all=True, ignore_removed=True, filters={'label': OWNER}):
        host, _, pid = container.labels[OWNER].rpartition('/')
        if host == socket.gethostname():    # an engine can serve many machines
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                remove(container)
            except PermissionError:
                pass


# --- embedded --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def embedded_engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    missing = [name for name in ('moto', 'flask', 'flask_cors') if not find_spec(name)]
    if missing:
        raise Unavailable(f"moto's server is not installed ({', '.join(missing)} missing): pip install '.[test]'")
    # a session of its own, so that a Ctrl-C stops the command first; and should we be killed, the end of its input stops it
    with subprocess.Popen(
            [sys.executable, __file__, SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**environ, 'MOTO_ALLOW_NONEXISTENT_REGION': 'true'}, start_new_session=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                raise Unavailable("moto's server did not start")
            endpoint = f'http://127.0.0.1:{port}'
            wait(endpoint, PATIENCE, lambda: server.poll() is None)
            yield Engine(endpoint, "moto's server, one request at a time")
        finally:
            server.kill()


def serve() -> None:
    """The server's process: prints the port it chose, and serves until its input ends."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = 'HTTP/1.1'       # keeps connections, as DynamoDB does
        disable_nagle_algorithm = True      # or each answer on a kept connection waits for the client's delayed ACK

        def log(self, *args: Any) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    # moto's operations are not atomic, and lose updates when two run at once.  A server without threads would do, but would
    # be blocked by the first client that keeps its connection open
    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Any:
        environ['wsgi.input'] = io.BytesIO(environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0)))
        with turn:
            return moto(environ, start_response)

    server = make_server('127.0.0.1', 0, one_at_a_time, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


ENGINES: dict[str, Callable[[Mapping[str, str]], contextlib.AbstractContextManager[Engine]]] = {
    'docker': docker_engine, 'embedded': embedded_engine}


# --- command ---------------------------------------------------------------------------------------------------------

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle(handler: Any) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def leave(number: int, frame: Any) -> None:
    handle(signal.SIG_IGN)      # nothing may disturb the cleaning up
    sys.exit(128 + number)


def run(command: list[str], environ: Mapping[str, str]) -> int:
    """Runs a command, passes signals on to it, and returns its exit code as a shell does."""
    try:
        process = subprocess.Popen(command, env=environ)
    except OSError as exc:
        print(f'dynamodb_local: {command[0]}: {exc.strerror}', file=sys.stderr)
        return 127 if isinstance(exc, FileNotFoundError) else 126

    def pass_on(number: int, frame: Any) -> None:
        if not (number == signal.SIGINT and in_foreground()):   # Ctrl-C reached the command already
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
        with engine() as (endpoint, description):
            print(f'dynamodb_local: {endpoint} is {description}', file=sys.stderr, flush=True)
            return run(command, {**os.environ, 'DYNAMODB_ENDPOINT': endpoint})
    except Unavailable as exc:
        print('dynamodb_local:', ' '.join(str(exc).split()), file=sys.stderr)
        return 2


if __name__ == '__main__':
    if sys.argv[1:] == [SERVE]:
        serve()
    else:
        sys.exit(main(sys.argv[1:]))
