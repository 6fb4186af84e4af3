#!/usr/bin/env bash
# Celery 5.7.0: a module with tasks that is imported again makes every later app warn.
#
# Behaviour: @app.task is shared unless told otherwise: each app that is finalized later registers
# the function, too. If the module is imported again, its new functions are added to the old ones,
# which are never dropped. So each app that is finalized afterwards warns that the task name "is
# already registered to a different callable", naming the same function as existing and as new: the
# module's own app, and apps that never used that module. The import itself does not warn.
#
# Why it matters: one reload, as notebooks, test runners and pool restarts do it, makes apps warn
# that declared no task at all, at the place where they are first used. With warnings as
# errors, such an app raises instead, at its first use.
#
# Expected: an imported-again module replaces what it shared before, by the name of the task; or the
# warning is given for the app that declares a name twice, and where it does so.
#
# Source: celery/app/base.py, Celery.task (`connect_on_app_finalize(cons)`) and
# Celery._warn_if_duplicate_task_name, whose docstring takes it that a module imported twice hands
# the same function back; celery/_state.py, _on_app_finalizers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0
mkdir "$work/modules"
cat >"$work/modules/tasks_of_somebody.py" <<'PYTHON'
import celery

app = celery.Celery('somebody', set_as_current=False)


@app.task
def add(x, y):
    return x + y
PYTHON
PYTHONPATH="$work/modules" "$work/bin/python" - <<'PYTHON'
import importlib
import sys
import warnings

import celery
import tasks_of_somebody
from celery.exceptions import DuplicateTaskNameWarning


def warned(what, call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        call()
    print(f'{what}: {len(caught)} warnings')
    for warning in caught:
        print('   ', warning.category.__name__ + ':', ' '.join(str(warning.message).split()))
    return [warning.category.__name__ for warning in caught]


def other_app():
    celery.Celery('somebody_else', set_as_current=False).finalize()


print('Celery', celery.__version__)
seen = [warned('another app before the second import', other_app),
        warned('the second import', lambda: importlib.reload(tasks_of_somebody)),
        warned("the module's app", tasks_of_somebody.app.finalize),
        warned('another app', other_app),
        warned('yet another app', other_app)]
try:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        other_app()
except DuplicateTaskNameWarning:
    print('another app with warnings as errors: raises')
    seen.append('raises')
if seen != [[], []] + 3 * [['DuplicateTaskNameWarning']] + ['raises']:
    sys.exit('The behaviour has changed.')
print('Every app that is finalized after a module with tasks was imported again warns.')
PYTHON
