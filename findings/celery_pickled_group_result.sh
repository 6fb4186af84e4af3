#!/usr/bin/env bash
# Celery 5.7.0: an unpickled GroupResult asks the current app's backend, not that of its members.
#
# Behaviour: AsyncResult pickles with its backend, GroupResult without. Unpickled while another app
# is current, the members still ask the backend of their app, but the group asks the other app's. So
# ready() is true and join() returns the values, while get(), which is join_native() on such
# backends, times out: it looks for the same tasks in the wrong store.
#
# Why it matters: results are pickled to be read elsewhere, in processes that have an app of their
# own. Whether a finished group is found there depends on the method that is called.
#
# Expected: the group is read from where its members are. ResultSet.backend could do that: it falls
# back to its first member's backend, but only without an app, and there always is one.
#
# Source: celery/result.py, GroupResult.__reduce_args__ (compare AsyncResult.__reduce_args__) and
# ResultSet.backend, ResultSet.app, ResultSet.get.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0
mkdir "$work/results"
"$work/bin/python" - "$work/results" <<'PYTHON'
import pickle
import sys

import celery
from celery.exceptions import TimeoutError


def outcome(call, **options):
    try:
        return call(**options)
    except TimeoutError as exc:
        return repr(exc)


owner = celery.Celery('owner', backend='cache+memory://', set_as_current=False)
other = celery.Celery('other', backend=f'file://{sys.argv[1]}', set_as_current=False)
for task_id in 'ab':
    owner.backend.store_result(task_id, task_id.upper(), 'SUCCESS')
pickled = pickle.dumps(owner.GroupResult('group', [owner.AsyncResult(i) for i in 'ab']))

print('Celery', celery.__version__)
seen = []
for current in owner, other:
    current.set_current()
    group = pickle.loads(pickled)
    seen.append((
        type(group.backend).__name__, [type(member.backend).__name__ for member in group],
        outcome(group.ready), outcome(group.join, timeout=0.5), outcome(group.get, timeout=0.5)))
    for what, found in zip(('backend', 'its members', 'ready()', 'join()', 'get()'), seen[-1]):
        print(f'current app: {current.main}  {what:11} -> {found}')
members = 2 * ['CacheBackend']
if seen != [('CacheBackend', members, True, ['A', 'B'], ['A', 'B']),
            ('FilesystemBackend', members, True, ['A', 'B'],
             "TimeoutError('Operation timed out (0.5)')")]:
    sys.exit('The behaviour has changed.')
print('An unpickled group asks the current app for results that its members find.')
PYTHON
