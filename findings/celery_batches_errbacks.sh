#!/usr/bin/env bash
# celery-batches 0.11 on Celery 5.6.3: mark_as_failure() of a request of a batch raises an
# AttributeError.
#
# Behaviour: a batch task gets a list of requests, and stores the outcome of each itself. With
# mark_as_done(id, value, request=request) that works. mark_as_failure(id, error, request=request)
# stores the failure, then raises AttributeError, since a request of a batch has no `errbacks`. The
# task ends there: the requests after that one have no outcome, and are acknowledged all the same.
#
# Why it matters: one bad request in a batch leaves those behind it pending for good, though the
# task handles the error as it should. Tests in which all requests succeed do not show it.
#
# Expected: a request of a batch has what Celery's backends read from the request that they get. Its
# `chord` is there, but it is always None. Without request=request, the failure is stored and
# nothing is raised.
#
# Source: celery_batches/__init__.py, SimpleRequest; celery/backends/base.py,
# Backend.mark_as_failure (`request.errbacks`) and Backend.mark_as_done (`request.chord`).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery-batches==0.11 celery==5.6.3 kombu==5.7.0
"$work/bin/python" - <<'PYTHON'
import sys
import threading
from importlib.metadata import version

import celery
import celery.signals
from celery.contrib.testing.worker import start_worker
from celery_batches import Batches

app = celery.Celery(broker='memory://', backend='cache+memory://')
raised, ended = [], threading.Event()
celery.signals.task_postrun.connect(lambda **kwargs: ended.set(), weak=False)


@app.task(base=Batches, flush_every=3, flush_interval=60)
def halve(requests, hand_over=True):
    for request in requests:
        number, options = request.args[0], {'request': request} if hand_over else {}
        try:
            if number % 2:
                app.backend.mark_as_failure(request.id, ValueError(number), **options)
            else:
                app.backend.mark_as_done(request.id, number // 2, **options)
        except Exception as exc:  # whatever it is, it is the finding
            raised.append(repr(exc))
            raise


@app.task(base=Batches, flush_every=3, flush_interval=60)
def halve_alone(requests):
    halve.run(requests, hand_over=False)


def states(task):
    """The states of three requests once the task that handled them has returned or raised."""
    ended.clear()
    results = [task.delay(number) for number in (2, 3, 4)]
    assert ended.wait(30)
    return [result.state for result in results]


print('celery-batches', version('celery-batches'), 'Celery', celery.__version__)
with start_worker(app, pool='solo', perform_ping_check=False, loglevel='CRITICAL'):
    with_request, alone = states(halve), states(halve_alone)
print('outcomes of 2, 3 and 4, with request=request:', with_request, raised)
print('and without:                                 ', alone)
if (with_request, alone, raised) != (
        ['SUCCESS', 'FAILURE', 'PENDING'], ['SUCCESS', 'FAILURE', 'SUCCESS'],
        ['''AttributeError("'SimpleRequest' object has no attribute 'errbacks'")''']):
    sys.exit('The behaviour has changed.')
print('mark_as_failure() with the request raises, and the requests after that one stay pending.')
PYTHON
