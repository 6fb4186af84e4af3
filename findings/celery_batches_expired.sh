#!/usr/bin/env bash
# celery-batches 0.11 on Celery 5.6.3: a batch runs the requests that are revoked or expired.
#
# Behaviour: a worker discards a task that was revoked before it started, or whose `expires` is
# over, and stores REVOKED. A task with base=Batches takes the same message, and runs it: neither is
# looked at when the message arrives, nor when the batch is run.
#
# Why it matters: batches gather work that comes faster than it is done, and there `expires` is what
# sheds work that nobody waits for any more. Nothing says that it has no effect, and that a request
# cannot be called back.
#
# Expected: REVOKED for both, as for any other task of the same worker.
#
# Source: celery_batches/__init__.py, Batches.Strategy and Batches._do_flush, which read `eta` only;
# compare celery/worker/strategy.py, default, and celery/worker/request.py, Request.revoked.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery-batches==0.11 celery==5.6.3 kombu==5.7.0
"$work/bin/python" - <<'PYTHON'
import sys
import time
from importlib.metadata import version

import celery
from celery.contrib.testing.worker import start_worker
from celery.worker import state
from celery_batches import Batches

app = celery.Celery(broker='memory://', backend='cache+memory://')


@app.task
def single(value):
    return value


@app.task(base=Batches, flush_every=3, flush_interval=60)
def batch(requests):
    for request in requests:
        app.backend.mark_as_done(request.id, request.args[0], request=request)


def send(task):
    """Three messages, in the queue before any worker runs."""
    results = {'expired': task.apply_async(('expired',), expires=0.1),
               'revoked': task.apply_async(('revoked',)), 'sound': task.apply_async(('sound',))}
    state.revoked.add(results['revoked'].id)  # as a worker does that gets revoke()
    return results


print('celery-batches', version('celery-batches'), 'Celery', celery.__version__)
sent = {task.name.split('.')[-1]: send(task) for task in (single, batch)}
time.sleep(0.5)  # the first of each expires
seen = {}
with start_worker(app, pool='solo', perform_ping_check=False, loglevel='CRITICAL'):
    for name, results in sent.items():
        results['sound'].get(timeout=30)
        seen[name] = {what: result.state for what, result in results.items()}
        print(f'{name:6} -> {seen[name]}')
if seen != {'single': {'expired': 'REVOKED', 'revoked': 'REVOKED', 'sound': 'SUCCESS'},
            'batch': {'expired': 'SUCCESS', 'revoked': 'SUCCESS', 'sound': 'SUCCESS'}}:
    sys.exit('The behaviour has changed.')
print('A batch runs what was revoked, and what has expired.')
PYTHON
