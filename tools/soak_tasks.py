"""The Celery app of soak.py, for its client and workers: tasks, and a broker that can be audited.

The broker is Redis.  It delivers some messages twice, immediately or seconds later; a held() task's
long after it was sent, or never; it notes who published which message; and its ledger has what
kombu loses: messages that a killed worker had taken from the queue but not noted as unacked yet.
Environment variables: BROKER and RESULT_BACKEND, URLs; TWICE, the share of messages that are
delivered twice; CHORD, the group id of the chord that this process ends.
"""
from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import random
import threading
import time
import uuid
from typing import Any

import redis
from celery import Celery, Task, current_task, signals
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

#: seconds after which what a worker holds goes back to the queue
VISIBILITY = 30
EXPIRES = 900
LATEST = 20.0       # seconds by which the second delivery of a message comes later
HELD = 5.0, 50.0    # seconds for which the message of a held() task is held back, if it ever comes
STALL = 17.0        # seconds for which some publish of a chord's end waits; a lease has 15
BOOKS_TTL = 1800    # seconds for which the books say what happened to a body
DRAW = random.Random()      # not seeded: each of many processes draws its own
TWICE = float(os.environ['TWICE'])

# the broker's database holds the books of the broker and of the tasks, too
store = redis.Redis.from_url(os.environ['BROKER'], decode_responses=True)


class Channel(kombu_redis.Channel):
    supports_batch_publish = False      # in newer kombus: a group's messages in one request

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        headers, tag = message['headers'], message['properties']['delivery_tag']
        payload, now = dumps(message), time.time()
        if headers['task'] == 'held':
            if DRAW.random() < .7:
                store.zadd('late', {payload: now + DRAW.uniform(*HELD)})
            return
        # all or nothing: a killed publisher has published a message that is in the books, or none
        books = store.pipeline()
        books.incr('published')
        self._enter(books, tag, payload)
        books.lpush(queue, payload)
        if DRAW.random() < TWICE:
            twin = copy.deepcopy(message)
            twin['properties']['delivery_tag'] = str(uuid.uuid4())
            late = DRAW.choice((0.0, DRAW.uniform(0, LATEST)))
            books.incr('duplicates')
            books.zadd('late', {dumps(twin): now + late})
        if headers['task'] != 'part':
            key = 'published:' + headers.get('about', headers['id'])
            books.rpush(key, json.dumps([os.getpid(), now, current.chord or chord_of_task()]))
            books.expire(key, BOOKS_TTL)
        books.execute()

    @staticmethod
    def _enter(books: Any, tag: str, payload: str) -> None:
        books.hset('ledger', tag, payload)
        books.zadd('ledger-times', {tag: time.time()})

    def _strike_out(self, tag: str) -> None:
        books = store.pipeline()
        books.hdel('ledger', tag)
        books.zrem('ledger-times', tag)
        books.execute()

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        self._strike_out(delivery_tag)
        super().basic_ack(delivery_tag, multiple)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            self._strike_out(delivery_tag)
        super().basic_reject(delivery_tag, requeue)


class Transport(kombu_redis.Transport):
    Channel = Channel


class StallingTask(Task):
    """Its publishing waits at times, before it comes to the module's fence."""

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        chord = chord_of_task()
        if chord and store.hexists('cut off', chord) and DRAW.random() < .5:
            store.incr('stalls')
            time.sleep(STALL)
        return super().apply_async(*args, **kwargs)


app = Celery('soak', broker=os.environ['BROKER'], backend=os.environ['RESULT_BACKEND'],
             task_cls=StallingTask)
app.conf.update(
    broker_transport='soak_tasks:Transport',
    broker_transport_options={'visibility_timeout': VISIBILITY, 'unacked_mutex_expire': 10,
                              'unacked_restore_limit': 100},
    broker_connection_retry_on_startup=True,
    broker_pool_limit=50,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=2,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    result_expires=EXPIRES,
    result_chord_expires=EXPIRES,
    result_cache_max=-1,
)


# --- versions: a message says for which application of its canvas it was sent ---------------------

class Current(threading.local):
    version = 1
    chord = os.environ.get('CHORD')     # the group id of the one that this thread ends by hand


current = Current()


def chord_of_task() -> str | None:
    """The group id of the chord that the current task is a part of, and may be ending."""
    return current_task.request.group if current_task else None


@signals.before_task_publish.connect
def address(sender: str, headers: dict[str, Any], body: Any, **kwargs: Any) -> None:
    headers['version'] = current.version
    if sender == 'errtask':     # its own id is another one each time
        headers['about'] = 'error of ' + body[0][0]


@signals.task_prerun.connect
def enter_version(task: Any, **kwargs: Any) -> None:
    current.version = getattr(task.request, 'version', None) or 1
    store.incr('executions')


def note_dropped(record: logging.LogRecord) -> bool:
    """Notes the id of a part that Celery 5.7 does not run again, since it has succeeded."""
    if str(record.msg).endswith('succeeded before the worker was lost: %r') and record.args:
        store.sadd('dropped', str(tuple(record.args)[1]))
    return True


logging.getLogger('celery.worker.request').addFilter(note_dropped)


# --- tasks ----------------------------------------------------------------------------------------

def value(number: int, version: int, size: int) -> str:
    return f'{number} of version {version} '.ljust(size, '-')


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:20]


@app.task(name='part')
def part(number: int, size: int = 0, fails: bool = False, seconds: float = 0) -> str:
    time.sleep(seconds)
    if fails:
        raise ValueError(f'part {number} fails on purpose')
    return value(number, current.version, size)


@app.task(name='held')
def held(number: int) -> str:
    """A part whose message comes late, or never."""
    return value(number, current.version, 0)


@app.task(name='progress', bind=True)
def progress(self: Any, sizes: list[int]) -> str:
    """Stores states of these sizes, each in place of the one before."""
    for number, size in enumerate(sizes):
        self.update_state(state='PROGRESS', meta=value(number, 1, size))
        time.sleep(.3)
    return value(len(sizes), 1, 0)


@app.task(name='body', bind=True)
def body(self: Any, values: list[Any]) -> str:
    """Returns a digest that shows whether it was called with the right values."""
    found = digest(values)
    key = f'ran:{self.request.id}'
    store.rpush(key, found)
    store.expire(key, BOOKS_TTL)
    store.set(f'values:{found}', json.dumps(values)[:1500], ex=BOOKS_TTL)    # for people
    return found


@app.task(name='step')
def step(before: str, number: int) -> str:
    return f'{number} after {before}'


@app.task(name='joins')
def joins(values: list[Any], number: int) -> list[Any]:
    """A part of a chord that is the body of another one."""
    return [digest(values), number]


@app.task(name='errtask')
def errtask(task_id: str) -> None:
    store.incr('errbacks')
