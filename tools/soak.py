"""Workers of three pools on one table, for as long as you like, under faults of all kinds.

    make soak                                       # 40 minutes
    make soak ARGS="--minutes 3 --plot soak.svg"

DynamoDB throttles partitions that have too much to do, as AWS does; it fails, resets connections,
loses responses, does half of a batch, is slow, or executes requests that were given up for lost;
now and then it is away, at times for longer than a lease.  Heartbeats hang, and owners of a lease
are cut off once they have begun to publish.  Messages are delivered twice, parts never or too late;
processes are stopped or killed, and what they held is redelivered.  Tasks meet their time limits.

A client applies chords of all kinds, groups and tasks.  It gets, awaits (and cancels that now and
then) or is called back, and checks that each ends with the right result, or the error that fail
gave it; that each body and errback is published once (twice only if the process that published it
was killed, stopped or cut off then), and what it was called with.  Memory, sockets and threads of
all processes are sampled, judged, and drawn at the end.  The exit code is 1 if something was lost,
twice, wrong or hung, or grew.

It takes about half a core and a redis-server.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

import dynamodb_local  # noqa: E402
import redis_local  # noqa: E402
from proxy import (  # noqa: E402
    READS,
    Delay,
    Error,
    Late,
    Partial,
    Proxy,
    ResetAfter,
    ResetBefore,
    ServerError,
    ids_of,
)

BOUND = 300.0       # seconds for a result: what a killed worker held is redelivered after 30
IN_FLIGHT = 16      # operations that wait for their results
BACKLOG = 600       # messages in the queue at which the client pauses
AUDIT_AFTER = 90.0  # seconds after its end, when no more of its messages should come
KILL_WINDOW = 10.0  # seconds from publishing to what explains why it was published again
STALLED_WINDOW = 80.0   # the same where the sending of four tasks may have stalled
LEASE = 15.0        # seconds
CUT_OFF = 18.0      # seconds for which an owner of a lease is
BY_HAND = 'ended by hand'
SAMPLE = 5.0        # seconds
JUDGED = 1200.0     # seconds that a process must have lived to be judged by its growth
QUEUE = 'celery'
#: pools with their concurrency
POOLS = {'prefork': 3, 'threads': 4, 'gevent': 8, 'eventlet': 8}


# --- the client -----------------------------------------------------------------------------------

class Audit(NamedTuple):
    """What must be known of a body some time after its chord has ended."""
    due: float
    what: str
    key: str            # of its publications
    published: int
    digests: frozenset[str]     # that it may have been called with


class Wrong(Exception):
    """A result that is not what it should be."""


class Client:
    """Applies canvases, some concurrently, and checks their outcomes."""

    def __init__(self, rate: float) -> None:
        import soak_tasks

        self.tasks = soak_tasks
        self.rate = rate
        self.free = time.monotonic()    # when the next task may be sent
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.longest: dict[str, float] = defaultdict(float)
        self.audits: list[Audit] = []
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.counts[what] += number

    def problem(self, text: str) -> None:
        with self.lock:
            self.problems.append(f'{time.strftime("%X")} {text}')
        print('soak:', text, file=sys.stderr, flush=True)

    def pace(self, tasks: int) -> None:
        with self.lock:
            begin = max(self.free, time.monotonic())
            self.free = begin + tasks / self.rate
        time.sleep(max(0, begin - time.monotonic()))
        while int(self.tasks.store.llen(QUEUE)) > BACKLOG:
            time.sleep(1)
        self.count('tasks', tasks)

    def check(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            called: Any = self.tasks.store.get(f'values:{found}'[:100])
            raise Wrong(f'{what}: {str(found)[:300]!r} is not {str(expected)[:300]!r}'
                        + (f'; it was called with {called}' if called else ''))
        self.count('results checked')

    # how a result is waited for

    def get(self, result: Any) -> Any:
        return random.choice((self.by_get, self.by_await, self.by_callback))(result)

    def by_get(self, result: Any, **more: Any) -> Any:
        if not hasattr(result, 'results'):
            more['follow_parents'] = False
        return result.get(timeout=BOUND, **more)

    def by_await(self, result: Any) -> Any:
        async def awaited() -> Any:
            for _ in range(random.choice((0, 0, 1, 4))):
                try:
                    return await asyncio.wait_for(result, random.uniform(0, 2))
                except asyncio.TimeoutError:
                    self.count('awaits cancelled')
            return await asyncio.wait_for(result, BOUND)

        self.count('results awaited')
        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result()

    def by_callback(self, result: Any) -> Any:
        calls, called = [], threading.Event()

        def callback(found: Any) -> None:
            calls.append(found)
            called.set()
            if len(calls) > 1:
                self.problem(f'the callback of {result} was called again')

        result.then(callback)
        if not called.wait(BOUND):
            raise Wrong(f'the callback of {result} was not called')
        self.count('results called back')
        return self.by_get(calls[0])

    def left_behind(self) -> list[str]:
        """What waits have left, which are all over."""
        import dyna_veggie

        gc.collect()
        kinds = Counter(type(each) for each in gc.get_objects())
        found = [f'{len(asyncio.all_tasks(self.loop))} coroutines'] * bool(
            asyncio.all_tasks(self.loop))
        # the poller has a wait of its own
        for kind, own in ((dyna_veggie.Wait, 1), (dyna_veggie.Watch, 0)):
            if kinds[kind] > own:
                found.append(f'{kinds[kind]} objects of {kind}')
        threads = [each.name for each in threading.enumerate() if 'dyna-veggie' in each.name]
        return [f'left behind in the client: {each}' for each in (*found, *threads)]

    def audit(self, what: str, id: str, published: int = 1, *digests: str) -> None:
        with self.lock:
            due = time.monotonic() + AUDIT_AFTER
            self.audits.append(Audit(due, what, id, published, frozenset(digests)))

    def forget(self, result: Any) -> None:
        """Most results; the others are left, to see that they expire."""
        if random.random() < .8:
            while result is not None:
                result.forget()
                result = result.parent

    # what is applied; each says how many tasks that takes

    def parts(self, number: int, size: int = 0, first: int = 0) -> list[Any]:
        return [self.tasks.part.s(first + index, size) for index in range(number)]

    def values(self, number: int, size: int = 0, first: int = 0, version: int = 1) -> list[str]:
        return [self.tasks.value(first + index, version, size) for index in range(number)]

    def new_body(self) -> Any:
        return self.tasks.body.s().set(task_id=str(uuid.uuid4()))

    def join(self, what: str, header: list[Any], values: list[Any]) -> None:
        from celery import chord

        body, digest = self.new_body(), self.tasks.digest(values)
        result = chord(header, body).apply_async()
        self.check(what, self.get(result), digest)
        self.audit(what, body.options['task_id'], 1, digest)
        self.forget(result)

    def flat(self) -> None:
        number = int(20 + 280 * random.random() ** 3)
        self.pace(number + 1)
        self.join('flat chord', self.parts(number), self.values(number))

    def by_claim_check(self) -> None:
        number, size = random.randint(25, 60), random.randint(5_000, 20_000)
        self.pace(number + 1)
        self.join('chord by claim check', self.parts(number, size), self.values(number, size))

    def bulky(self) -> None:
        """A chord with two results that take several items each."""
        self.pace(32)
        size = random.randint(400_000, 900_000)
        self.join('chord with large results', [*self.parts(28), *self.parts(2, size)],
                  [*self.values(28), *self.values(2, size)])

    def nested(self) -> None:
        from celery import chain, chord, group

        inner, deeper = random.randint(2, 30), random.randint(2, 20)
        self.pace(inner + deeper + 25)
        body = self.new_body()
        digest = self.tasks.digest(self.values(deeper))
        # Celery takes a group apart unless something comes before it
        steps = group([self.tasks.step.s(index) for index in range(inner)])
        header = [*self.parts(11), chain(self.tasks.part.s(0), steps),
                  chord(self.parts(deeper), body), *self.parts(11)]
        after, = self.values(1)
        values = [*self.values(11), [self.tasks.step(after, index) for index in range(inner)],
                  digest, *self.values(11)]
        self.join('nested chord', header, values)
        self.audit('chord in a header', body.options['task_id'], 1, digest)

    def failing(self) -> None:
        from celery import chord
        from celery.exceptions import ChordError

        number = random.randint(20, 80)
        self.pace(number + 1)
        header = self.parts(number)
        for index in random.sample(range(number), random.randint(1, 3)):
            header[index] = self.tasks.part.s(index, fails=True)
        body = self.new_body()
        body.link_error(self.tasks.errtask.s())
        result = chord(header, body).apply_async()
        try:
            found = self.get(result)
        except (ChordError, ValueError) as exc:     # who awaits gets the part's own
            self.check('failing chord', 'fails on purpose' in str(exc), True)
        else:
            raise Wrong(f'failing chord: it returned {found}')
        self.audit('body of a failing chord', result.id, 0)
        self.audit('errback', f'error of {result.id}')
        self.forget(result)

    def leading_on(self) -> None:
        """A chord with a chain or a chord as its body."""
        from celery import chain, chord

        number = random.randint(20, 60)
        # sometimes by claim check
        size = random.choice((0, 0, 6_000))
        self.pace(number + 6)
        body, digest = self.new_body(), self.tasks.digest(self.values(number, size))
        if random.random() < .5:
            joined = chord(self.parts(number, size), chain(body, self.tasks.step.s(0)))
            result = joined.apply_async()
            self.check('chord with a chain', self.get(result), f'0 after {digest}')
            self.audit('first of a chain', body.options['task_id'], 1, digest)
        else:
            ids = [str(uuid.uuid4()) for _ in range(4)]
            inner = [self.tasks.joins.s(index).set(task_id=id) for index, id in enumerate(ids)]
            result = chord(self.parts(number, size), chord(inner, body)).apply_async()
            digest = self.tasks.digest([[digest, index] for index in range(4)])
            self.check('chord with a chord', self.get(result), digest)
            self.audit('body of a body', body.options['task_id'], 1, digest)
            for id in ids:
                self.audit('part of a body', id)
        self.forget(result)

    def again(self) -> None:
        """A frozen chord that is applied twice, and whose parts return something else then."""
        from celery import chord

        number, size = random.randint(20, 60), random.choice((0, 0, 6_000))
        self.pace(2 * number + 2)
        sig = chord(self.parts(number, size), self.new_body())
        sig.freeze()
        digests: list[str] = []
        for version in (1, 2):
            digests.append(self.tasks.digest(self.values(number, size, version=version)))
            self.tasks.current.version = version
            try:
                result = sig.apply_async()
            finally:
                self.tasks.current.version = 1
            if version == 1:
                self.check('frozen chord', self.get(result), digests[0])
        # the first success stays: what the body got in the second run is only in the books
        end = time.monotonic() + BOUND
        key, parts = f'ran:{result.id}', [each.id for each in result.parent.results]
        while digests[1] not in self.tasks.store.lrange(key, 0, -1):
            if any(self.tasks.store.smismember('dropped', parts)):
                # Celery 5.7 drops a part whose process was lost if the first run's success is there
                self.count('second runs that lost a part with its process')
                break
            if time.monotonic() > end:
                raise Wrong(f'second run of a frozen chord: it got '
                            f'{self.tasks.store.lrange(key, 0, -1)} instead of {digests}; '
                            f'{self.state(result)}')
            time.sleep(.3)
        else:
            self.audit('frozen chord', result.id, 2, *digests)
        self.count('results checked')
        self.forget(result)

    def ended_by_hand(self) -> None:
        """A chord with a part that comes too late, or never."""
        from celery import chord
        from celery.exceptions import ChordError

        number = random.randint(5, 40)
        self.pace(number + 2)
        values, body = self.values(number + 1), self.new_body()
        body.link_error(self.tasks.errtask.s())
        digest = self.tasks.digest(values)
        result = chord([*self.parts(number), self.tasks.held.s(number)], body).apply_async()
        time.sleep(random.uniform(0, 20))
        ended = self.end(result)
        try:
            found = self.get(result)
        except ChordError as exc:
            self.check('chord that was ended by hand', (ended is not False, str(exc)),
                       (True, BY_HAND))
            ended = True
        else:
            self.check('chord that ended by itself', (not ended, found), (True, digest))
            ended = False
        self.count('chords ended by hand', ended)
        self.audit('body of a chord that is ended by hand', result.id, int(not ended), digest)
        self.audit('errback of a chord that is ended by hand', f'error of {result.id}', int(ended))
        # not forgotten: what is stored says to an owner that takes over that it has ended

    def end(self, result: Any) -> bool | None:
        """Fails a chord, by its group or its result.

        False if it had ended; None if that may have been by an attempt that ended in an error.
        """
        group_id, end = result.parent.id, time.monotonic() + BOUND
        id = random.choice((group_id, result.id))
        had_ended: bool | None = False
        while True:
            try:
                if random.random() < .3:
                    return self.end_by_command(id, group_id) or had_ended
                self.tasks.current.chord = group_id
                return self.tasks.app.backend.fail_chord(id, BY_HAND) or had_ended
            except TimeoutError as exc:     # another has the lease
                self.count('ends by hand that met another')
                if time.monotonic() > end:
                    raise Wrong(f'chord {group_id} cannot be ended: {exc}') from exc
            except ConnectionError:
                self.count('ends by hand that met an outage')
                had_ended = None
            finally:
                self.tasks.current.chord = None

    def end_by_command(self, id: str, group_id: str) -> bool:
        done = subprocess.run(
            [sys.executable, '-m', 'celery', '-A', 'soak_tasks', 'dynamodb', 'fail', id,
             '--reason', BY_HAND, '--yes'],
            env={**os.environ, 'CHORD': group_id}, capture_output=True, text=True, timeout=BOUND)
        if 'a worker is ending the chord' in done.stderr:
            raise TimeoutError(done.stderr)
        # a command gives up soon
        if done.returncode == 1 and re.search('[Cc]onnect|timeout|Exceeded', done.stderr):
            raise ConnectionError(done.stderr)
        if done.returncode not in (0, 3):
            raise Wrong(f'fail {id}: {done.returncode}, {done.stdout} {done.stderr}')
        return done.returncode == 0

    def limited(self) -> None:
        """A chord whose parts may meet their soft time limit up to when they join."""
        from celery import chord

        number = random.randint(4, 10)
        self.pace(3 * number)
        body, digest = self.new_body(), self.tasks.digest(self.values(number))
        result = chord([
            self.tasks.part.s(index, seconds=random.uniform(.9, 1)).set(soft_time_limit=1)
            for index in range(number)], body).apply_async()
        try:
            self.check('chord with time limits', self.get(result), digest)
            ended = True
        except Exception as exc:
            # another delivery may have succeeded since
            if not re.search('SoftTimeLimitExceeded|error was replaced', repr(exc)):
                raise
            self.count('chords with a part that met its time limit')
            ended = False
        self.audit('body of a chord with time limits', result.id, int(ended), digest)
        self.forget(result)

    def replaced(self) -> None:
        """A state, at times a large one, that is replaced while it is read."""
        sizes = [random.choice((100, 450_000, 900_000)) for _ in range(random.randint(2, 6))]
        self.pace(5)
        expected = [self.tasks.value(number, 1, size) for number, size in enumerate(sizes)]
        expected.append(self.tasks.value(len(sizes), 1, 0))
        seen: list[Any] = []
        result = self.tasks.progress.delay(sizes)
        self.check('task with progress', self.by_get(result, on_message=seen.append), expected[-1])
        for meta in seen:
            self.check('progress', meta['result'] in expected, True)
        self.forget(result)

    def group(self) -> None:
        from celery import group
        from celery.result import GroupResult

        number = random.randint(10, 60)
        self.pace(number)
        result = group(self.parts(number)).apply_async()
        saved = random.random() < .5
        if saved:
            result.save()
            found = GroupResult.restore(result.id, app=self.tasks.app)
        self.check('group', self.get(found if saved else result), self.values(number))
        if saved:
            result.delete()
        self.forget(result)

    def singles(self) -> None:
        self.pace(10)
        results = [sig.apply_async() for sig in self.parts(10)]
        for result, value in zip(results, self.values(10)):
            self.check('task', self.get(result), value)
            self.forget(result)

    def large(self) -> None:
        self.pace(1)
        size = random.randint(400_001, 1_500_000)
        result = self.tasks.part.s(0, size).apply_async()
        self.check('large result', self.get(result), self.values(1, size)[0])
        self.forget(result)

    #: with how often they are drawn
    KINDS: tuple[tuple[Callable[[Client], None], int], ...] = (
        (flat, 6), (by_claim_check, 3), (bulky, 2), (nested, 4), (failing, 4), (leading_on, 4),
        (again, 4), (group, 5), (singles, 8), (large, 5), (ended_by_hand, 5), (limited, 3),
        (replaced, 4))

    def state(self, result: Any) -> str:
        """What is known of a result that does not come."""
        found = [f'{result.id} is {result.state}']
        parent = result.parent
        if parent is not None and hasattr(parent, 'results'):
            found.append(str(self.tasks.app.backend.chord_progress(parent.id)))
            missing = [each.id for each in parent.results
                       if not hasattr(each, 'results') and not each.ready()]
            found.append(f'not ready: {missing[:10]}')
        return '; '.join(found)

    def operate(self, end: float) -> None:
        operations, weights = zip(*self.KINDS)
        while time.monotonic() < end:
            operation, = random.choices(operations, weights)
            began = time.monotonic()
            try:
                operation(self)
            except Exception as exc:
                self.problem(f'{operation.__name__}: {type(exc).__name__}: {exc}\n'
                             f'{traceback.format_exc()[-1500:]}')
            self.count(f'operation {operation.__name__}')
            with self.lock:
                took = time.monotonic() - began
                self.longest[operation.__name__] = max(self.longest[operation.__name__], took)

    def audit_those_due(self, now: float) -> None:
        with self.lock:
            due = [audit for audit in self.audits if audit.due <= now]
            self.audits = [audit for audit in self.audits if audit.due > now]
        for audit in due:
            self.examine(audit)

    def examine(self, audit: Audit) -> None:
        found: Any = self.tasks.store.lrange(f'published:{audit.key}', 0, -1)
        publications = [json.loads(each) for each in found]
        ran: Any = self.tasks.store.lrange(f'ran:{audit.key}', 0, -1)
        self.count(f'{audit.what}: publications', len(publications))
        self.count(f'{audit.what}: expected', audit.published)
        if audit.digests:
            self.count('executions of bodies', len(ran))
            if not set(ran) <= audit.digests:
                self.problem(f'{audit.what} {audit.key} was called with {ran}, '
                             f'expected {audit.digests}')
        surplus = len(publications) - audit.published
        if not surplus:
            return
        strikes: Any = self.tasks.store.lrange('strikes', 0, -1)
        outages: Any = self.tasks.store.lrange('outages', 0, -1)
        cuts: Any = self.tasks.store.hgetall('cut off')
        struck = []
        for pid, at, group_id in publications:
            moments = [*map(float, outages), *(
                moment for struck_pid, moment in map(json.loads, strikes) if struck_pid == pid)]
            window = STALLED_WINDOW if group_id in cuts else KILL_WINDOW
            after = [moment - at for moment in moments if 0 <= moment - at < window]
            # it had begun: it could publish, but not close
            after += [moment - at for moment in [float(cuts.get(group_id, 0))]
                      if 0 <= at - moment < LEASE]
            struck += [f'{seconds:.2f} s' for seconds in after[:1]]
        text = (f'{audit.what} {audit.key} was published {len(publications)} times, expected '
                f'{audit.published}: {publications}; publishers struck after {struck or "-"}')
        if 0 < surplus <= len(struck):
            self.count('published again because the publisher was struck', surplus)
            with self.lock:
                self.notes.append(text)
        else:
            self.problem(text)


def allocated_blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def run_client(pipe: Any, environ: dict[str, str], minutes: float, rate: float) -> None:
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = Client(rate)
    half = time.monotonic() + minutes * 30
    end = half + minutes * 30
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        running = [pool.submit(client.operate, end) for _ in range(IN_FLIGHT)]
        while not all(each.done() for each in running):
            if time.monotonic() > half and 'blocks of the client, half way' not in client.counts:
                # unlike resident memory, they do not depend on how malloc fragments
                client.count('blocks of the client, half way', allocated_blocks())
            client.audit_those_due(time.monotonic())
            pipe.send(dict(client.counts))
            time.sleep(2)
    pipe.send('done')
    pipe.recv()     # the queue is empty
    client.audit_those_due(float('inf'))
    client.problems += client.left_behind()
    client.count('blocks of the client, at the end', allocated_blocks())
    pipe.send((dict(client.counts), client.problems, client.notes, dict(client.longest)))


# --- workers --------------------------------------------------------------------------------------

class Sample(NamedTuple):
    seconds: float
    megabytes: float
    sockets: int
    files: int
    threads: int


def children_of(pid: int) -> list[int]:
    """The oldest first."""
    found: list[int] = []
    for listed in Path(f'/proc/{pid}/task').glob('*/children'):     # of each thread
        with contextlib.suppress(OSError):
            found += map(int, listed.read_text().split())
    # not by number: those are used again
    return sorted(found, key=began_at)


def began_at(pid: int) -> int:
    """When it began, in ticks."""
    with contextlib.suppress(OSError):
        return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19])
    return sys.maxsize


def sample(pid: int, seconds: float) -> Sample | None:
    try:
        pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
        names = []
        for name in os.listdir(f'/proc/{pid}/fd'):
            with contextlib.suppress(OSError):
                names.append(os.readlink(f'/proc/{pid}/fd/{name}'))
        threads = len(os.listdir(f'/proc/{pid}/task'))
    except OSError:     # it is gone
        return None
    if not pages:       # it was killed, and is being reaped
        return None
    sockets = sum(name.startswith('socket:') for name in names)
    megabytes = pages * os.sysconf('SC_PAGESIZE') / 2**20
    return Sample(seconds, megabytes, sockets, len(names), threads)


@dataclass
class Worker:
    """One of each pool is killed now and then, as a whole; the other one is steady."""
    pool: str
    steady: bool
    environ: dict[str, str]
    log: Path
    starts: int = 0
    process: Any = None

    @property
    def name(self) -> str:
        return f'{self.pool} {"steady" if self.steady else "killed"}'

    def start(self) -> None:
        self.starts += 1
        with self.log.open('a') as file:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'celery', '-A', 'soak_tasks', 'worker', '--pool', self.pool,
                 '--concurrency', str(POOLS[self.pool]),
                 '-n', f'{self.name.replace(" ", "-")}@soak', '-l', 'WARNING',
                 '--without-gossip', '--without-mingle', '--without-heartbeat'],
                env=self.environ, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def pids(self) -> dict[str, int]:
        """By what they are called in the plot; the oldest child of a steady worker is spared."""
        children = children_of(self.process.pid)
        return {self.name: self.process.pid,
                **{f'{self.name} child {number}': pid for number, pid in enumerate(children)}}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(45)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Partitions:
    """How AWS limits what a partition of a table does in a second, at a fiftieth of its size.

    Each has a bucket for reads and one for writes.  An item is one unit, whatever its size.
    """
    NUMBER = 8
    RATES: ClassVar[dict[str, float]] = {'Read': 60.0, 'Write': 20.0}   # units a second
    BURST = 5.0     # seconds; AWS has 300

    def __init__(self) -> None:
        self.buckets: dict[tuple[str, int], tuple[float, float]] = {}   # units left, and when

    def refused(self, kind: str, ids: list[str]) -> list[str]:
        """Those of the items of a request whose partitions have no units left."""
        now, rate = time.monotonic(), self.RATES[kind]
        found = []
        for id in ids:
            # some have more to do than others
            place = kind, int(self.NUMBER * (zlib.crc32(id.encode()) / 2**32) ** 1.3)
            left, then = self.buckets.get(place, (rate * self.BURST, now))
            left = min(rate * self.BURST, left + (now - then) * rate)
            if left < 1:
                found.append(id)
            else:
                left -= 1
            self.buckets[place] = left, now
        return found


#: codes of errors, and of statements, with which AWS says the same
THROTTLING = (('ProvisionedThroughputExceededException', 'ProvisionedThroughputExceeded'),
              ('ThrottlingException', 'ThrottlingError'))


@dataclass
class Weather:
    """The faults of DynamoDB."""
    store: Any
    counts: Counter[str] = field(default_factory=Counter)
    draw: random.Random = field(default_factory=lambda: random.Random(14))
    partitions: Partitions = field(default_factory=Partitions)
    cuts: dict[str, tuple[Any, float]] = field(default_factory=dict)    # by run: whom, until when

    def __call__(self, operation: str, body: Any) -> Any:
        self.counts['requests'] += 1
        what, fault = self.of_a_lease(operation, body) or self.drawn(operation, body)
        if fault is not None:
            self.counts[what or type(fault).__name__] += 1
        return fault

    def of_a_lease(self, operation: str, body: Any) -> tuple[str, Any] | None:
        """Heartbeats hang; an owner is cut off from the table after it has begun to publish."""
        names = body.get('ExpressionAttributeNames', {}).values()
        if operation != 'UpdateItem' or not {'heartbeat', 'closed'} & {*names}:
            return None
        run, values = body['Key']['id']['S'], body.get('ExpressionAttributeValues', {})
        owner = values.get(':owner')
        whom, until = self.cuts.get(run, (None, 0.0))
        if time.monotonic() < until and owner in (whom, None):
            return 'requests of an owner that is cut off', ResetBefore()
        if 'published_before' in names and run not in self.cuts and self.draw.random() < .06:
            self.cuts[run] = owner, time.monotonic() + CUT_OFF
            group_id = run.partition('chord-unlock-')[2].rpartition('.')[0]
            self.store.hset('cut off', group_id, time.time())
            self.counts['owners cut off'] += 1
        elif 'heartbeat' in names and self.draw.random() < .05:
            return 'requests of a lease that hang', Delay(25)
        return None

    def drawn(self, operation: str, body: Any) -> tuple[str, Any]:
        chance, tail = self.draw.random(), self.draw.random()
        ids, kind = ids_of(body), 'Read' if operation in READS else 'Write'
        refused = self.partitions.refused(kind, ids)
        if refused:
            return self.throttled(operation, kind, refused, len(refused) == len(ids))
        if operation.startswith('Batch') and tail < .1:
            return '', Partial()
        account = Error('RequestLimitExceeded', 'Throughput exceeds the current throughput limit '
                        'for your account.', reasons=(f'Table{kind}AccountLimitExceeded',))
        for limit, fault in ((.005, account), (.025, ServerError()), (.04, ResetBefore()),
                             (.055, ResetAfter()), (.063, Late(2 + 18 * tail))):
            if chance < limit and not (isinstance(fault, Late) and kind == 'Read'):
                return '', fault
        # some are very slow
        return '', Delay(min(3, .03 / (1.0001 - tail) ** .7)) if tail > .9 else None

    def throttled(
            self, operation: str, kind: str, refused: list[str], is_all: bool) -> tuple[str, Any]:
        code, of_statement = self.draw.choice(THROTTLING)
        if operation == 'BatchExecuteStatement' or not is_all:
            return 'partly throttled batches', Partial(of_statement, frozenset(refused))
        message = ('Throughput exceeds the current capacity of your table or index.'
                   if code == 'ThrottlingException' else
                   'The level of configured provisioned throughput for the table was exceeded.')
        return 'throttled requests', Error(
            code, message, reasons=(f'Table{kind}KeyRangeThroughputExceeded',))


class Soak:
    """The workers, and what goes wrong with them."""

    def __init__(self, workers: list[Worker], proxy: Proxy, weather: Weather, store: Any) -> None:
        self.workers, self.proxy, self.weather, self.store = workers, proxy, weather, store
        self.counts: Counter[str] = Counter()
        self.samples: dict[str, dict[tuple[int, int], list[Sample]]] = defaultdict(dict)
        self.began = time.monotonic()
        self.suspects: set[str] = set()
        self.ended = threading.Event()
        self.draw = random.Random(41)
        self.client_pid = 0

    def every(self, seconds: Callable[[], float], action: Callable[[], None]) -> None:
        def loop() -> None:
            while not self.ended.wait(seconds()):
                try:
                    action()
                except Exception:
                    traceback.print_exc()
                    self.counts['errors of the soak itself'] += 1

        threading.Thread(target=loop, daemon=True).start()

    def strike(self, pid: int) -> None:
        self.store.rpush('strikes', json.dumps([pid, time.time()]))

    def kill(self, pids: list[int]) -> None:
        for pid in pids:
            self.strike(pid)
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def kill_child(self) -> None:
        workers = [worker for worker in self.workers if worker.pool == 'prefork']
        worker = self.draw.choice(workers)
        children = children_of(worker.process.pid)[1 if worker.steady else 0:]
        if children:
            self.kill([self.draw.choice(children)])
            self.counts['kills of a prefork child'] += 1

    def stop_child(self) -> None:
        """Stops a process for longer than a lease, and lets it go on."""
        worker = self.draw.choice([each for each in self.workers if each.pool == 'prefork'])
        children = children_of(worker.process.pid)
        if children:
            pid = self.draw.choice(children)
            self.strike(pid)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
                self.ended.wait(self.draw.uniform(16, 22))
                os.kill(pid, signal.SIGCONT)
            self.counts['stops of a prefork child'] += 1

    def kill_worker(self) -> None:
        worker = self.draw.choice([worker for worker in self.workers if not worker.steady])
        self.kill([*worker.pids().values()])
        worker.process.wait()
        with contextlib.suppress(OSError):      # a child that was just being forked
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.start()
        self.counts[f'kills of a {worker.pool} worker'] += 1

    def restart(self) -> None:
        """Restarts workers that ended without being killed."""
        for worker in self.workers:
            if worker.process.poll() is not None and worker.steady:
                self.counts[f'{worker.name} ended with {worker.process.returncode}'] += 1
                worker.start()

    def black_out(self) -> None:
        seconds = self.draw.choice([4, 4, 18])  # a lease has 15
        self.counts[f'outages of {seconds} s'] += 1
        self.store.rpush('outages', str(time.time()))
        self.proxy.down = True
        self.ended.wait(seconds)
        self.proxy.down = False

    def deliver_late(self) -> None:
        import soak_tasks

        for payload in self.store.zrangebyscore('late', 0, time.time()):
            books = self.store.pipeline()
            books.zrem('late', payload)
            tag = json.loads(payload)['properties']['delivery_tag']
            soak_tasks.Channel._enter(books, tag, payload)
            books.lpush(QUEUE, payload)
            books.execute()

    def find_lost(self) -> None:
        """Delivers what a worker took from the queue, and did not note as unacked when it died."""
        old = set(self.store.zrangebyscore('ledger-times', 0, time.time() - 40))
        if old:
            waiting = {json.loads(payload)['properties']['delivery_tag']
                       for payload in self.store.lrange(QUEUE, 0, -1)}
            old -= waiting | set(self.store.hkeys('unacked'))
        for tag in old & self.suspects:
            payload = self.store.hget('ledger', tag)
            if payload:
                self.counts['messages that the broker had lost'] += 1
                self.store.zadd('ledger-times', {tag: time.time()})
                self.store.lpush(QUEUE, payload)
        self.suspects = old - self.suspects

    def take_samples(self) -> None:
        self.proxy.reset()      # it remembers all requests
        seconds = time.monotonic() - self.began
        pids = {'client': self.client_pid}
        for worker in self.workers:
            pids.update(worker.pids())
        for name, pid in pids.items():
            taken = sample(pid, seconds)
            if taken:
                # by process: a child that is killed has a successor under its name
                group = name.partition(' child')[0] + (' child' if ' child' in name else '')
                self.samples[group].setdefault((pid, began_at(pid)), []).append(taken)
        self.counts['longest queue'] = max(
            self.counts['longest queue'], self.store.llen(QUEUE))

    def is_quiet(self) -> bool:
        return not (self.store.llen(QUEUE) or self.store.hlen('unacked')
                    or self.store.zcard('late') or self.store.hlen('ledger'))


# --- the end --------------------------------------------------------------------------------------

def left_over(endpoint: str, table: str, latest: dict[str, int]) -> tuple[Counter[str], list[str]]:
    """What is on the table by kind, and what should not be there."""
    import botocore.session

    client = botocore.session.Session().create_client(
        'dynamodb', 'us-east-1', endpoint_url=endpoint, aws_access_key_id='local',
        aws_secret_access_key='local')
    kinds: Counter[str] = Counter()
    wrong = []
    now = time.time()
    pages = client.get_paginator('scan').paginate(
        TableName=table, ProjectionExpression='#id, #ttl',
        ExpressionAttributeNames={'#id': 'id', '#ttl': 'ttl'})
    for page in pages:
        for item in page['Items']:
            id, ttl = item['id']['S'], item.get('ttl', {}).get('N')
            kind = next((kind for kind in latest if kind in id), 'other')
            kinds[kind] += 1
            if ttl is None:
                wrong.append(f'{id} never expires')
            elif kind == 'other' or int(ttl) > now + latest[kind]:
                wrong.append(f'{id} expires in {int(ttl) - now:.0f} s')
            elif int(ttl) < now:
                kinds[f'{kind}, expired'] += 1
    return kinds, wrong


class Measure(NamedTuple):
    column: str         # of a sample
    label: str
    share: float        # by which it may grow in half of a process's life
    surplus: float      # and by this


MEASURES = (Measure('megabytes', 'memory (RSS), MB', .05, 4), Measure('sockets', 'sockets', .1, 2),
            Measure('threads', 'threads', .1, 1))

Samples = dict[str, dict[tuple[int, int], list[Sample]]]


def draw_plot(samples: Samples, path: Path) -> None:
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(len(MEASURES), 1, sharex=True, figsize=(10, 12))
    for number, (name, processes) in enumerate(sorted(samples.items())):
        label: str | None = name
        for taken in processes.values():
            minutes = [each.seconds / 60 for each in taken]
            for axes, measure in zip(all_axes, MEASURES):
                axes.plot(minutes, [getattr(each, measure.column) for each in taken], label=label,
                          color=f'C{number}', linewidth=1.4 if len(processes) == 1 else .7)
            label = None
    for axes, measure in zip(all_axes, MEASURES):
        axes.set_ylabel(measure.label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=.3)
    all_axes[-1].set_xlabel('minutes; a line is a process')
    all_axes[0].legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path)


def show_counts(title: str, counts: dict[str, Any]) -> None:
    print(f'\n{title}')
    for name, number in sorted(counts.items()):
        print(f'{number:10}  {name}' if isinstance(number, int) else f'{number:10.1f}  {name}')


def show_samples(samples: Samples) -> list[str]:
    """The process of each kind that lived longest: medians of the second and of the last quarter.

    Returns what is not flat, of processes that lived for so long that this means something.
    """
    grown = []
    print('\nmedians of the second quarter of a life, of the last, and most: '
          + ' | '.join(measure.label for measure in MEASURES))
    for name, processes in sorted(samples.items()):
        taken = max(processes.values(), key=len)
        quarter, lived = len(taken) // 4, taken[-1].seconds - taken[0].seconds
        columns = []
        for column, label, share, surplus in MEASURES:
            values = [getattr(each, column) for each in taken]
            second = statistics.median(values[quarter:2 * quarter] or values)
            last = statistics.median(values[3 * quarter:])
            columns.append(f'{second:6.1f} {last:6.1f} {max(values):6.1f}')
            if lived > JUDGED and last > second * (1 + share) + surplus:
                grown.append(f'{name} is not flat: {label} {second:.1f}, later {last:.1f}')
        print(f'  {name:22} of {len(processes):3}, {lived:5.0f} s: {" | ".join(columns)}')
    return grown


@contextlib.contextmanager
def started(workers: list[Worker]) -> Iterator[None]:
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        stopping = [threading.Thread(target=worker.stop) for worker in workers if worker.process]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=float, default=40)
    parser.add_argument('--rate', type=float, default=20, help='tasks a second')
    parser.add_argument('--twice', type=float, default=.12, help='share of messages sent twice')
    parser.add_argument('--pools', nargs='+', choices=POOLS,
                        default=['prefork', 'threads', 'gevent'])
    parser.add_argument('--plot', type=Path, help='where to draw memory, sockets and threads')
    parser.add_argument('--logs', type=Path, help="a folder for the workers' logs")
    given = parser.parse_args()
    if not redis_local.is_installed():
        sys.exit(f'soak: {redis_local.INSTALL}')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # and stops what was started
    with contextlib.ExitStack() as stack:
        folder = given.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        engine = stack.enter_context(dynamodb_local.engine())
        print(f'soak: {engine.description}', file=sys.stderr, flush=True)
        broker = f'redis://127.0.0.1:{stack.enter_context(redis_local.redis_server(folder))}/0'
        proxy = stack.enter_context(Proxy(engine.endpoint))
        table = f'soak-{uuid.uuid4().hex}'
        place = proxy.url.partition('//')[2]
        environ = {
            'BROKER': broker, 'TWICE': str(given.twice),
            'RESULT_BACKEND': f'dyna_veggie.DynamoDBBackend+dynamodb://{place}/{table}',
            'AWS_ACCESS_KEY_ID': 'local', 'AWS_SECRET_ACCESS_KEY': 'local',
            'AWS_EC2_METADATA_DISABLED': 'true',
            'PYTHONPATH': os.pathsep.join([str(TOOLS), str(TOOLS.parent)])}
        os.environ.update(environ)
        return soak(given, folder, engine.endpoint, table, proxy, environ)


def soak(given: Any, folder: Path, endpoint: str, table: str, proxy: Proxy,
         environ: dict[str, str]) -> int:
    import dyna_veggie
    import soak_tasks

    workers = [
        Worker(pool, steady, {**os.environ}, folder / f'{pool}-{"steady" if steady else "killed"}')
        for pool in given.pools for steady in (True, False)]
    weather = Weather(soak_tasks.store)
    run = Soak(workers, proxy, weather, soak_tasks.store)
    pipe, there = multiprocessing.Pipe()
    with started(workers):
        client = multiprocessing.get_context('spawn').Process(
            target=run_client, args=(there, environ, given.minutes, given.rate), daemon=True)
        client.start()
        there.close()
        run.client_pid = client.pid or 0
        proxy.faults = weather
        draw = run.draw
        run.every(lambda: .2, run.deliver_late)
        run.every(lambda: 5, run.find_lost)
        run.every(lambda: SAMPLE, run.take_samples)
        run.every(lambda: 3, run.restart)
        run.every(lambda: draw.uniform(5, 25), run.kill_child)
        run.every(lambda: draw.uniform(20, 60), run.kill_worker)
        run.every(lambda: draw.uniform(20, 60), run.stop_child)
        run.every(lambda: draw.uniform(120, 360), run.black_out)
        reported = time.monotonic()
        while (said := pipe.recv()) != 'done':
            if time.monotonic() - reported > 60:
                reported = time.monotonic()
                print(f'soak: {reported - run.began:.0f} s, {said.get("tasks", 0)} tasks, '
                      f'{said.get("results checked", 0)} results checked, '
                      f'{run.store.llen(QUEUE)} in the queue, {sum(run.counts.values())} events',
                      file=sys.stderr, flush=True)
        patience = time.monotonic() + 180
        while not run.is_quiet() and time.monotonic() < patience:
            time.sleep(1)
        run.counts['messages left'] = run.store.llen(QUEUE) + run.store.hlen('unacked')
        run.ended.set()
        proxy.faults = None
        proxy.down = False
        time.sleep(2)
        pipe.send('quiet')
        counts, problems, notes, longest = pipe.recv()
        client.join(20)
    results = soak_tasks.EXPIRES + 5
    kinds, left = left_over(endpoint, table, {
        'celery-task-meta-': results, 'celery-taskset-meta-': results,
        'chord-unlock-': results + dyna_veggie.CLOSED_TTL})
    problems += left
    show_counts('what was applied and checked', counts)
    show_counts('the longest of each kind, seconds', longest)
    show_counts('faults of DynamoDB', weather.counts)
    show_counts('what else went wrong', run.counts)
    show_counts('broker and tasks', {
        name: int(soak_tasks.store.get(name) or 0)
        for name in ('published', 'duplicates', 'executions', 'errbacks', 'stalls')})
    show_counts('left on the table', kinds)
    problems += show_samples(run.samples)
    if given.plot:
        draw_plot(run.samples, given.plot)
    for note in notes:
        print('\nexplained:', note)
    for problem in problems[:50]:
        print('\nPROBLEM:', problem)
    print(f'\n{len(problems)} problems in {(time.monotonic() - run.began) / 60:.1f} minutes')
    return int(bool(problems))


if __name__ == '__main__':
    sys.exit(main())
