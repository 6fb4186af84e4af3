#!/usr/bin/env bash
# Celery 5.7.0: in a pool with the start method "spawn", tasks lose the base class that their app
# was given by `app.Task = ...`, and its strict_typing.
#
# Behaviour: a spawned child gets a pickled copy of the app, and binds the tasks of the modules that
# it imports to that copy, not to the app by whose decorator they are declared. The pickle holds the
# settings, and classes that the app was constructed with (task_cls=...), but neither an assigned
# `app.Task` nor the argument strict_typing=False. So the same tasks run with the stock base class
# and with typing on, without a warning; `self.app is app` is false in the task's own module.
#
# Why it matters: such a base class is where projects enter their application context, open a
# session of a database, or report errors. With worker_pool_start_method='spawn' none of that is
# called. Whatever a module sets on its app object in the child reaches no task either.
#
# Expected: a child's tasks belong to the app of their module, once it is imported; or the copy has
# what the original had, and an app that holds what no pickle can is refused.
#
# Source: celery/app/base.py, Celery.__reduce_keys__ and Celery.task (USING_EXECV: shared_task in
# place of the app's own decorator); celery/concurrency/prefork.py, process_initializer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0 billiard==4.3.2
cat >"$work/proj.py" <<'PYTHON'
import os

import celery

folder = os.environ['FOLDER']
app = celery.Celery(
    'proj', broker='filesystem://', backend=f'file://{folder}/results', strict_typing=False)
app.conf.update(
    broker_transport_options={
        'data_folder_in': f'{folder}/queue', 'data_folder_out': f'{folder}/queue',
        'control_folder': f'{folder}/control'},
    worker_enable_remote_control=False, worker_pool_start_method=os.environ['START_METHOD'])


class OwnTask(celery.Task):
    pass


app.Task = OwnTask


@app.task(bind=True)
def look(self):
    return [isinstance(self, OwnTask), self.app is app, self.typing]
PYTHON
cd "$work"
for START_METHOD in fork spawn; do
    export START_METHOD FOLDER="$work/$START_METHOD"
    mkdir "$FOLDER" "$FOLDER/queue" "$FOLDER/results" "$FOLDER/control"
    # sent before the worker starts
    bin/python -c 'import proj; proj.look.apply_async(task_id="id")'
    bin/python -W ignore -m celery --quiet -A proj worker --pool prefork --concurrency 1 \
        --without-gossip --without-mingle >"$FOLDER/log" 2>&1 &
    worker=$!
    bin/python -c '
import proj
print(proj.app.AsyncResult("id").get(timeout=120))' >"$FOLDER/seen" || cat "$FOLDER/log"
    kill "$worker"
    wait "$worker" || true
    echo "$START_METHOD: [has the base class, has its module's app, typing] = $(cat "$FOLDER/seen")"
done
if [ "$(cat fork/seen) $(cat spawn/seen)" != '[True, True, False] [False, False, True]' ]; then
    echo 'The behaviour has changed.' >&2
    exit 1
fi
echo 'Tasks of a spawned pool have neither the base class nor the typing of their app.'
