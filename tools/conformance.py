"""Celery's own integration tests, of the installed version, against this backend.

    make conformance                        # all of canvas, tasks and group chains
    make conformance ARGS="-k chord -x"     # for pytest
    make conformance PEER=redis             # against Celery's Redis backend, to compare with

It starts a Redis server, which is the broker; the tests also note in it the order in which
tasks ran.
"""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
import uuid
from pathlib import Path
from urllib.parse import quote

import celery

import dynamodb_local
import redis_local

TOOLS = Path(__file__).resolve().parent
FILES = ['test_canvas.py', 'test_tasks.py', 'test_group_chains.py']


def tests_of_celery(folder: Path) -> None:
    """Puts the tests of the installed version into a folder.

    Nothing else of its source goes there, so that the tests import the installed Celery.
    """
    subprocess.run(
        [sys.executable, '-m', 'pip', 'download', '-qq', '--disable-pip-version-check', '--no-deps',
         '--no-binary', 'celery', '--dest', str(folder), f'celery=={celery.__version__}'],
        check=True)
    archive, = folder.glob('celery-*.tar.gz')
    with tarfile.open(archive) as tar:
        top = tar.getnames()[0].split('/')[0]
        unwanted = f'{top}/t/unit/', f'{top}/t/smoke/'
        wanted = [member for member in tar.getmembers()
                  if member.name.startswith(f'{top}/t/') and not member.name.startswith(unwanted)]
        for member in wanted:
            member.name = member.name.partition('/')[2]
        tar.extractall(folder, wanted)
    (folder / 't' / '__init__.py').touch()
    (folder / 'pytest.ini').write_text('[pytest]\npython_classes = test_*\nmarkers = amqp\n')


def main(arguments: list[str]) -> int:
    if not redis_local.is_installed():
        sys.exit(f'conformance: {redis_local.INSTALL}, and it is the broker')
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        tests_of_celery(folder)
        port = stack.enter_context(redis_local.redis_server(folder))
        redis = f'redis://127.0.0.1:{port}'
        if os.environ.get('PEER') == 'redis':
            backend, place = f'{redis}/0', 'a Redis server'
        else:
            engine = stack.enter_context(dynamodb_local.engine())
            url = f'dynamodb://local/conformance-{uuid.uuid4().hex}'
            endpoint = quote(engine.endpoint, safe='')
            backend = f'redis_echo.DynamoDBBackend+{url}?endpoint_url={endpoint}'
            place = engine.description
        print(f'conformance: the tests of Celery {celery.__version__}, results in {place}',
              file=sys.stderr, flush=True)
        environ = {
            **os.environ, 'TEST_BROKER': f'{redis}/0', 'TEST_BACKEND': backend,
            'REDIS_HOST': '127.0.0.1', 'REDIS_PORT': str(port),
            'PYTHONPATH': os.pathsep.join([str(folder), str(TOOLS), str(TOOLS.parent)])}
        return subprocess.run(
            [sys.executable, '-m', 'pytest', '-q', '-rfE', '-p', 'no:cacheprovider',
             '-p', 'celery.contrib.pytest', '--tb=short',
             *(f't/integration/{file}' for file in FILES), *arguments],
            cwd=folder, env=environ).returncode


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
