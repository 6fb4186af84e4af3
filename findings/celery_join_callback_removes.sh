#!/usr/bin/env bash
# Celery 5.7.0: join() skips members if its callback removes those that it was given.
#
# Behaviour: ResultSet.join(callback=...) iterates over the set's own list. A callback that removes
# the result it was called for shifts that list, and every second member is passed over: the
# callback is never called for it, and join() does not wait for it, so that it returns without a
# TimeoutError though a member is pending. join_native() calls the same callback for each member.
#
# Why it matters: a set of results that are still to be handled, from which each handled one is
# removed, is a natural use of a callback and of remove(). The backend decides whether get() is
# join() or join_native(), so the same program handles all results on one backend and half of them
# on another.
#
# Expected: the members at the time of the call, each once, as join_native() has it.
#
# Source: celery/result.py, ResultSet.join (`for result in self.results`), ResultSet.remove,
# ResultSet.get.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0
mkdir "$work/all" "$work/some"
"$work/bin/python" - "file://$work" <<'PYTHON'
import sys

import celery
from celery.result import ResultSet


def handled(backend, pending=()):
    """Remove each result that get() hands over; return the handled and the remaining ids."""
    app = celery.Celery(backend=backend, set_as_current=False)
    for task_id in 'abcdef':
        if task_id not in pending:
            app.backend.store_result(task_id, task_id, 'SUCCESS')
    results, done = ResultSet([app.AsyncResult(i) for i in 'abcdef'], app=app), []

    def callback(task_id, value):
        done.append(task_id)
        results.remove(task_id)

    method = 'join_native()' if results.supports_native_join else 'join()'
    results.get(callback=callback, timeout=0.5)
    remaining = [result.id for result in results]
    print(f'{type(app.backend).__name__}, pending {list(pending)}: by {method}, '
          f'handled {sorted(done)}, remaining {remaining}')
    return sorted(done), remaining


print('Celery', celery.__version__)
seen = [handled('cache+memory://'), handled(sys.argv[1] + '/all'),
        handled(sys.argv[1] + '/some', pending='bd')]
if seen != [(list('abcdef'), [])] + 2 * [(list('ace'), list('bdf'))]:
    sys.exit('The behaviour has changed.')
print('join() returns without the members that its callback caused to be passed over.')
PYTHON
