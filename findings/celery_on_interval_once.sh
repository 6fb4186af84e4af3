#!/usr/bin/env bash
# Celery 5.7.0: get(on_interval=f) of a result calls f once, not once per interval.
#
# Behaviour: with a backend that polls, AsyncResult.get() turns the caller's on_interval into a
# callback of a vine.promise, and hands that promise to the backend, which calls it after each poll.
# A promise is fulfilled by its first call; its callbacks are not called again. So f runs after the
# first poll, and never after that. GroupResult.join() calls the get() of each member, and so calls
# f once for each member that it waits for. A plain function that the backend itself gets is called
# after each poll.
#
# Why it matters: on_interval is where programs show progress, keep a connection alive, or give up
# by raising an error. Such a program does so once, after the first poll, and then waits on.
#
# Expected: on_interval is called once per interval, as its name says and as the backend does.
#
# Source: celery/result.py, AsyncResult.get, "_on_interval = promise()" and "_on_interval.then";
# vine/promises.py, promise.__call__; celery/backends/base.py, SyncBackendMixin.wait_for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0
cd "$work"
"$work/bin/python" - <<'PYTHON'
import sys

import celery
from celery import Celery
from celery.exceptions import TimeoutError

app = Celery(broker='memory://', backend='cache+memory://')
calls = {'get()': 0, 'the backend': 0}


def called(by):
    calls[by] += 1


def times_out(wait):
    try:
        wait()
    except TimeoutError:
        return
    sys.exit('The result of a task that was never sent is ready')


times_out(lambda: app.AsyncResult('never').get(
    timeout=1, interval=0.1, on_interval=lambda: called('get()')))
times_out(lambda: app.backend.wait_for(
    'never', timeout=1, interval=0.1, on_interval=lambda: called('the backend')))
print('celery', celery.__version__)
for by, number in calls.items():
    print(f'  on_interval called by {by} in 1 s, with an interval of 0.1 s: {number} times')
if calls['get()'] != 1 or calls['the backend'] < 5:
    sys.exit(f'The behaviour has changed: {calls}')
print('get() calls on_interval once.')
PYTHON
