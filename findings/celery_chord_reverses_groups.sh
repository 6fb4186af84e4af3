#!/usr/bin/env bash
# Celery 5.7.0: the body of a chord gets the values of a group in its header in reverse.
#
# Behaviour: where a group stands among other members of a header, its tasks are unrolled from the
# last to the first: chord([a, group(b, c, d)]) calls its body with the values of a, d, c, b. A flat
# header keeps its order, and so does a group that holds the same group.
#
# Why it matters: nothing fails. A body that pairs its values with its inputs by place, as with
# zip(), pairs them wrongly, and only for headers that mix groups with other tasks.
#
# Expected: a, b, c, d, as the header says and as the same group returns them.
#
# Source: celery/canvas.py, group._freeze_unroll: a group is put back to the left of a deque by
# extendleft(), which reverses what it gets. Seen in 5.3.0 and 5.6.3, too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0
cd "$work"
"$work/bin/python" - <<'PYTHON'
import sys

import celery
from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker

app = Celery(broker='memory://', backend='cache+memory://')


@app.task
def name(given):
    return given


@app.task
def names(given):
    return given


def tasks(letters):
    return [name.s(letter) for letter in letters]


print('celery', celery.__version__)
with start_worker(app, pool='solo', perform_ping_check=False):
    seen = {
        'chord([a, b, c, d])': chord(tasks('abcd'))(names.s()).get(timeout=60),
        'chord([a, group(b, c, d)])':
            chord([name.s('a'), group(tasks('bcd'))])(names.s()).get(timeout=60),
        'chord([group(a, b, c), d])':
            chord([group(tasks('abc')), name.s('d')])(names.s()).get(timeout=60),
        'group([a, group(b, c, d)])': group([name.s('a'), group(tasks('bcd'))])().get(timeout=60),
    }
for canvas, got in seen.items():
    print(f'  {canvas:28} -> {got}')
if [''.join(got) for got in seen.values()] != ['abcd', 'adcb', 'cbad', 'abcd']:
    sys.exit(f'The behaviour has changed: {seen}')
print('The values of a group among other members of a header come in reverse.')
PYTHON
