"""Tasks of chords whose process dies or hangs at a chosen step, once, on purpose.

The workers of test_dyna_veggie.py run them if INCLUDE names this module.  A doomed() part of a
chord says at which step of its own return the process is struck:

    stored        its result was stored, and nothing else was asked for
    counted 1     it was counted on its leaf
    counted 2     its leaf, which it filled, was counted on the node above
    collected     it fills the last node, and has read a first batch of what it joins
    publishing    the body is about to be published
    published     the body was sent, and nothing else was done
    closed        the first request after that had its response

The steps are recognized by what goes over the wire: requests to DynamoDB, by botocore's events, and
Celery's signals of publishing.  Environment variable: DIARY, the folder in which the tasks write
down what happened: `struck`, a file for each process that was; `ended`, the parts that did; and
`bodies` and `errors`, what the bodies and errbacks of the chords were called with, a line each.
The test writes there which `run` of a chord it is, for answer().
"""
from __future__ import annotations

import contextvars
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import botocore.session
from celery import chord, group, signals

from worker_tasks import app, part

app.conf.worker_lost_wait = 1   # seconds before a lost process is believed to be lost
DIARY = Path(os.environ['DIARY'])
STRUCK, ENDED = DIARY / 'struck', DIARY / 'ended'
PAUSES = {'hang': 600, 'pause': 3}      # seconds; something ends a process that hangs


def write_down(name: str, *what: Any) -> None:
    with (DIARY / name).open('a') as file:
        file.write(json.dumps(what) + '\n')


class Way:
    """How far a doomed part is on the way from its return to the end of its chord."""

    def __init__(
            self, name: str = '', step: str = '', fault: str = '', task_id: str = '',
            group_id: str = '') -> None:
        self.name, self.step, self.fault = name, step, fault
        self.task_id, self.group_id = task_id, group_id
        self.counts = 0
        self.is_published = False
        self.request: tuple[str, str, str] | None = None

    def reaches(self, step: str) -> None:
        if step != self.step:
            return
        try:
            (STRUCK / self.name).touch(exist_ok=False)
        except FileExistsError:     # it is redelivered
            return
        if self.fault == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PAUSES[self.fault])

    def asks(self, operation: str, body: str) -> None:
        key = json.loads(body).get('Key', {})
        self.request = operation, body, str(key)

    def is_answered(self) -> None:
        if not self.step or self.request is None:
            return
        (operation, body, key), self.request = self.request, None
        if self.is_published:
            self.reaches('closed')
        elif operation == 'UpdateItem' and self.group_id in key:
            self.counts += 1
            self.reaches(f'counted {self.counts}')
        elif operation == 'BatchGetItem' and self.counts:
            self.reaches('collected')
        elif operation == 'PutItem' and self.task_id in body and not self.counts:
            self.reaches('stored')


#: a thread that publishes shares it; one that sends heartbeats does not
current_way: contextvars.ContextVar[Way] = contextvars.ContextVar('way')


def way() -> Way:
    return current_way.get(Way())


create_client = botocore.session.Session.create_client


def create_watched_client(*args: Any, **kwargs: Any) -> Any:
    client = create_client(*args, **kwargs)
    client.meta.events.register('before-call.dynamodb', lambda model, params, **rest: way().asks(
        model.name, params['body'].decode()))
    client.meta.events.register('after-call.dynamodb', lambda **rest: way().is_answered())
    return client


botocore.session.Session.create_client = create_watched_client


@signals.before_task_publish.connect(weak=False)
def publishing(**kwargs: Any) -> None:
    way().reaches('publishing')


@signals.after_task_publish.connect(weak=False)
def published(**kwargs: Any) -> None:
    way().reaches('published')
    way().is_published = True


@signals.task_postrun.connect(weak=False)
def ended(task: Any = None, **kwargs: Any) -> None:
    current_way.set(Way())
    if task.request.group:
        (ENDED / task.request.group).mkdir(exist_ok=True)
        (ENDED / task.request.group / task.request.id).touch()


def doom(request: Any, name: str, step: str, others: int, fault: str) -> None:
    """Strikes this process once, at a step after the return of this task.

    First waits until so many other parts of its chord have ended: the last one joins it.
    """
    while others and len(list((ENDED / request.group).glob('*'))) < others:
        time.sleep(0.02)
    current_way.set(Way(name, step, fault, request.id, request.group))


@app.task(name='doomed', bind=True, shared=False)
def doomed(
        self: Any, value: Any, name: str, step: str, others: int = 0, fault: str = 'kill') -> Any:
    doom(self.request, name, step, others, fault)
    return value


@app.task(name='doomed_ignored', bind=True, ignore_result=True, shared=False)
def doomed_ignored(
        self: Any, value: Any, name: str, step: str, others: int = 0, fault: str = 'kill') -> Any:
    doom(self.request, name, step, others, fault)
    return value


@app.task(name='doomed_failing', bind=True, shared=False)
def doomed_failing(
        self: Any, value: Any, name: str, step: str, others: int = 0, fault: str = 'kill') -> Any:
    doom(self.request, name, step, others, fault)
    raise ValueError(value)


@app.task(name='lost', acks_late=False, shared=False)
def lost() -> None:
    """Kills its process, and is not redelivered."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name='body', bind=True, shared=False)
def body(self: Any, values: Any, name: str) -> Any:
    write_down('bodies', name, values)
    return values


def answer_of(number: int) -> str:
    run = (DIARY / 'run').read_text()
    if 'fails' in run:
        raise ValueError(f'{number} of {run}')
    return f'{number} of {run}'


@app.task(name='answer', shared=False)
def answer(number: int) -> str:
    """Returns something else in each run."""
    return answer_of(number)


@app.task(name='answer_early', bind=True, shared=False)
def answer_early(self: Any, number: int) -> str:
    self.update_state(state='SUCCESS', meta='too early')
    return answer_of(number)


@app.task(name='answer_ignored', ignore_result=True, shared=False)
def answer_ignored(number: int) -> str:
    return answer_of(number)


@app.task(name='again', shared=False)
def again(values: Any, ids: list[str], runs: int) -> None:
    """As the body of a chord: applies it once more, with the same ids, while the run is not closed.
    """
    write_down('bodies', 'again', values)
    if runs > 1:
        apply_again(ids, runs - 1)


def apply_again(ids: list[str], runs: int) -> None:
    parts = [part.s(f'{number} of {runs}').set(task_id=id) for number, id in enumerate(ids[2:])]
    last = doomed.s(f'last of {runs}', f'run {runs}', 'published', len(parts), 'pause')
    header = group([*parts, last.set(task_id=ids[1])], task_id=ids[0])
    chord(header, again.s(ids, runs)).apply_async()


@app.task(name='summary', shared=False)
def summary(values: Any) -> tuple[str, int, str]:
    """Of a body that is called with more than it can return."""
    digest = hashlib.sha256(''.join(values).encode()).hexdigest()
    return type(values).__name__, len(values), digest


@app.task(name='on_error', shared=False)
def on_error(request: Any, exc: Any, traceback: Any, name: str) -> None:
    write_down('errors', name, f'{type(exc).__name__}: {exc}')


@app.task(name='replaced', bind=True, shared=False)
def replaced(self: Any, values: Any, name: str, step: str) -> None:
    """As the body of a chord: replaced by a chord with the same id, which has a state before it."""
    self.update_state(state='PROGRESS', meta={'done': 1})
    doomed_part = doomed_ignored.s(values, name, step, 1)
    raise self.replace(group(doomed_part, part.s('other')))
