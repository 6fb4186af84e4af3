#!/usr/bin/env bash
# Celery 5.7.0: without an event loop, an idle worker stops late, and a worker told to stop still
# takes two messages.
#
# Behaviour: on a broker without an event loop (memory:// here) the worker waits up to two seconds
# for a message, then looks whether it is to stop, and waits for a message again, in a `finally`,
# after the exception that stops it was raised. So an idle worker needs two to four seconds to stop.
# Messages that arrive after it was told to stop are taken: the first ends the first wait, and the
# second ends the second, so two of them make it stop within one interval of the broker's polling.
#
# Why it matters: each test that starts a worker spends up to four seconds on stopping it, and a
# deployment waits for workers that have nothing to do. Tasks that are sent after the stop are
# received by the worker that is stopping and not by its successor.
#
# Expected: once the shutdown was raised, the worker takes no further message and does not wait.
#
# Source: celery/worker/loops.py, synloop (`try: state.maybe_shutdown() finally: _loop_cycle()`,
# and `drain_events(timeout=2.0)` in _loop_cycle).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0
"$work/bin/python" - <<'PYTHON'
import sys
import threading
import time

import celery
from celery.contrib.testing.worker import start_worker
from celery.signals import task_received

app = celery.Celery('app', broker='memory://', backend='cache+memory://')
received = []
task_received.connect(lambda request, **_: received.append(request.args), weak=False)


@app.task
def work(*args):
    pass


def stop(messages):
    """Stop an idle worker; these messages arrive soon after it was told to stop."""
    with start_worker(app, pool='threads', perform_ping_check=False, loglevel='CRITICAL'):
        work.delay().get(timeout=10, interval=0.01)
        time.sleep(0.1)  # so that it waits for the next message
        received.clear()
        sender = threading.Timer(0.2, lambda: [work.delay(i) for i in range(messages)])
        sender.start()
        start = time.monotonic()
    seconds = time.monotonic() - start
    sender.join()
    with app.connection_for_read() as connection:  # leave nothing to the next worker
        app.amqp.queues['celery'](connection.default_channel).purge()
    print(f'{messages} messages after the stop: stopped in {seconds:.1f} s, '
          f'{len(received)} received')
    return seconds, len(received)


print('Celery', celery.__version__)
idle, one, two, three = map(stop, range(4))
if not (idle[0] > 2 and one[0] > 2 and two[0] < 1.5 and three[0] < 1.5):
    sys.exit('The behaviour has changed: the times.')
if [received for _, received in (idle, one, two, three)] != [0, 1, 2, 2]:
    sys.exit('The behaviour has changed: the messages.')
print('A worker that was told to stop waits for two more messages, two seconds for each.')
PYTHON
