"""The tests on every supported Python with every supported Celery: `make test-matrix`.

SESSIONS="oldest newest" runs the corners alone, SESSIONS=tests-3.12 one Python.
"""
from __future__ import annotations

import re
from pathlib import Path

import nox

ROOT = Path(__file__).parent.parent
PYTHONS = re.findall(r"Python :: (3\.\d+)'", (ROOT / 'setup.py').read_text())
CELERYS = ['5.3', '5.4', '5.5', '5.6', '5.7']
IMPOSSIBLE = [('3.9', '5.7')]
VERSIONS = ('import platform, celery, botocore; print("Python", platform.python_version(), '
            '"Celery", celery.__version__, "botocore", botocore.__version__)')

nox.options.envdir = ROOT / '.venv' / 'matrix'
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = 'virtualenv'
nox.options.error_on_missing_interpreters = False


def test(session: nox.Session, *requirements: str) -> None:
    session.chdir(ROOT)
    session.install('--editable', '.[test]', *requirements)
    session.run('python', '-c', VERSIONS)
    session.run('python', 'tools/suite.py', *session.posargs)


@nox.session(python=PYTHONS)
@nox.parametrize('celery', CELERYS)
def tests(session: nox.Session, celery: str) -> None:
    if (session.python, celery) in IMPOSSIBLE:
        session.skip(f'Celery {celery} needs a newer Python')
    test(session, f'celery=={celery}.*')


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    # what setup.py allows; boto3, which moto needs, is named since pip would search for minutes
    test(session, 'celery==5.3.0', 'botocore==1.29.164', 'boto3==1.26.164')


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    test(session, '--upgrade', '--upgrade-strategy=eager')
