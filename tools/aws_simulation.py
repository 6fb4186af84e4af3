"""A large chord on AWS, on paper: what DynamoDB's partitions do to it, in virtual time.

    make simulate                                   # 1,000,000 parts with 10, 100, 1,000 workers
    make simulate ARGS="--parts 100000 --workers 100 --seconds 1"
    make simulate ARGS="--warm 40"                  # a table that was warmed for 40,000 writes/s
    make simulate ARGS="--workers 10 --sample 0"    # all parts played, for an hour

The module's own code runs, no copy of its rules: the chord is opened by ChordStore.open(), results
are stored by BlobStore.put() and counted by PartCounter.count(), each process with its Batcher and
its retries; Join.execute() joins the chord, and the body redeems its claim check.  Threads are
greenlets that sleep in virtual time.  Two things are models: DynamoDB, which counts the units of
each item and throttles by partition (class DynamoDB), and the tasks (Chord.work).

To play all parts takes half a millisecond of CPU each.  So by default a chord of a sample of parts
is played, and what happens to them between the first and the last fifth is what happens to the
others.  Opening and joining are played in full, on a tree whose leaves are filled in no time.  An
on-demand table that has doubled after half an hour shows only with --sample 0.

Modelled: units by the sizes of the real items, partitions and what each takes, requests and items
that are throttled, pauses and retries, latency, on-demand tables that double; processes whose
threads take the next task in the order of the header.

Not modelled: CPU, connections and memory of workers; the broker and the sender, unless --sends says
how many messages it sends; lost responses and dead workers.  Pessimistic: there are no bursts,
unless --burst allows them, and DynamoDB splits no partition for its heat.

The same --seed gives the same figures.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import heapq
import itertools
import json
import logging
import marshal
import math
import random
import re
import sys
import threading
import time
import types
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import celery
from botocore.exceptions import ClientError
from greenlet import getcurrent, greenlet  # gevent's

from proxy import blocks_of

# --- constants of AWS -----------------------------------------------------------------------------
#
# DEVELOPER = https://docs.aws.amazon.com/amazondynamodb/latest/developerguide

PARTITION_WRITES = 1000.0  # write units a second: DEVELOPER/bp-partition-key-design.html
PARTITION_READS = 3000.0  # read units a second: the same page
# a new on-demand table takes 4,000 writes and 12,000 reads a second:
# DEVELOPER/on-demand-capacity-mode.html#on-demand-capacity-mode-initial
FIRST_PARTITIONS = 4
# "throttling can occur if you exceed double your previous peak within 30 minutes": the same page
DOUBLING = 1800.0
# units a second of one on-demand table, before a quota is raised: DEVELOPER/ServiceQuotas.html
TABLE_QUOTA = 40_000.0
WRITE_BLOCK, READ_BLOCK = 1024, 4096  # bytes of a unit: DEVELOPER/read-write-operations.html
BATCH_BYTES = 16 * 2**20  # of a response to BatchGetItem: DEVELOPER/ServiceQuotas.html
BATCH_BYTES_OF_PARTITION = 2**20  # of it: the API reference of BatchGetItem
# US dollars per million, us-east-1, November 2026: https://aws.amazon.com/dynamodb/pricing/
WRITE_PRICE, READ_PRICE = 0.625, 0.125

EPOCH = 1_800_000_000.0  # when a simulation starts


# --- virtual time ---------------------------------------------------------------------------------

class Clock:
    """Virtual time.  A thread is a greenlet; of those that are due the first one runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[list[Any]] = []
        self._order = itertools.count()
        self._hub: Any = None

    def reset(self) -> None:
        self.now = 0.0
        self._due.clear()

    def run(self) -> None:
        """Runs all threads to their ends.  Raises what one of them raises."""
        self._hub = getcurrent()
        while self._due:
            entry = heapq.heappop(self._due)
            thread, entry[2] = entry[2], None  # who waited for a lock is not woken again
            if thread is not None:
                self.now = entry[0]
                thread.switch(len(entry) > 3)

    def start(self, function: Callable[[], Any]) -> None:
        heapq.heappush(self._due, [
            self.now, next(self._order), greenlet(lambda woken: function(), self._hub)])

    def sleep(self, seconds: float) -> None:
        heapq.heappush(self._due, [self.now + seconds, next(self._order), getcurrent()])
        self._hub.switch()

    def park(self, waiters: Any, seconds: float | None) -> bool:
        """Sleeps until wake() gets what this adds to the waiters; False if that takes longer."""
        entry = [0.0, next(self._order), getcurrent()]
        if seconds is not None:
            entry[0] = self.now + seconds
            heapq.heappush(self._due, entry)
        waiters.append(entry)
        return bool(self._hub.switch())

    def wake(self, entry: list[Any]) -> bool:
        """Lets a thread go on; False if its time was up before."""
        thread, entry[2] = entry[2], None
        if thread is not None:
            heapq.heappush(self._due, [self.now, next(self._order), thread, True])
        return thread is not None


clock = Clock()


class Lock:
    def __init__(self) -> None:
        self._held = False
        self._waiters: deque[Any] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._held:
            self._held = True
            return True
        return blocking and clock.park(self._waiters, None if timeout < 0 else timeout)

    def release(self) -> None:
        if not self._held:
            raise RuntimeError
        while self._waiters:
            if clock.wake(self._waiters.popleft()):
                return  # who waited holds it
        self._held = False

    def locked(self) -> bool:  # which Condition has asked for since Python 3.15
        return self._held

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Event:
    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[Any] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for entry in self._waiters:
            clock.wake(entry)
        self._waiters.clear()

    def wait(self, timeout: float | None = None) -> bool:
        return self._is_set or clock.park(self._waiters, timeout)


class Thread:
    def __init__(self, target: Callable[..., Any], args: Any = (), **more: Any) -> None:
        self._call, self._ended = functools.partial(target, *args), Event()

    def start(self) -> None:
        clock.start(self._run)

    def _run(self) -> None:
        self._call()
        self._ended.set()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)


class Virtual(types.ModuleType):
    """A module of which some names are replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(vars(module), **names)


def import_in_virtual_time() -> Any:
    """The module, with threads and time that are virtual."""
    replaced = {
        'time': Virtual(
            time, sleep=clock.sleep, clock_gettime=lambda clock_id: clock.now,
            monotonic=lambda: clock.now, time=lambda: EPOCH + clock.now),
        'threading': Virtual(
            threading, Thread=Thread, Lock=Lock, Event=Event, get_ident=lambda: id(getcurrent())),
        'uuid': Virtual(  # which is in ids of chunks, and so decides on their partitions
            uuid, uuid4=lambda: uuid.UUID(int=random.getrandbits(128), version=4))}
    sys.modules.update(replaced)
    try:
        import dyna_veggie
    finally:
        sys.modules.update(time=time, threading=threading, uuid=uuid)
    return dyna_veggie


sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
dv = import_in_virtual_time()


# --- DynamoDB -------------------------------------------------------------------------------------

class Bucket:
    """Units that flow in at a rate, and are kept for some seconds."""

    def __init__(self, rate: float, seconds: float) -> None:
        self.rate, self.most = rate, rate * seconds
        self.left, self.at = self.most, clock.now

    def take(self, units: float) -> bool:
        self.left = min(self.most, self.left + (clock.now - self.at) * self.rate)
        self.at = clock.now
        if self.left < units:
            return False
        self.left -= units
        return True

    def give_back(self, units: float) -> None:
        self.left += units


class Peak:
    """The most write units within a second, by partition or by item."""

    def __init__(self) -> None:
        self.most = 0
        self._second = 0
        self._units: Counter[Any] = Counter()

    def add(self, key: Any, units: int) -> None:
        if int(clock.now) != self._second:
            self._second = int(clock.now)
            self._units.clear()
        self._units[key] += units
        self.most = max(self.most, self._units[key])


@dataclass
class Usage:
    """What was asked of DynamoDB, and consumed."""

    requests: float = 0  # attempts
    throttled: float = 0  # of these, those of which an item was throttled
    read_units: float = 0.0
    write_units: float = 0.0

    def plus(self, other: Usage, factor: float = 1) -> Usage:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Usage(*(mine + factor * its for mine, its in pairs))

    @property
    def dollars(self) -> float:
        return (self.write_units * WRITE_PRICE + self.read_units * READ_PRICE) / 1e6


@functools.lru_cache(1000)
def _size_of_other(kind: str, value: Any) -> int:
    return blocks_of({'': {kind: value}}, 1)


def size_of(item: dict[str, Any]) -> int:
    """Bytes, as blocks_of() of the proxy counts them, which takes too long for sets."""
    size = sum(map(len, item))
    for attribute in item.values():
        (kind, value), = attribute.items()
        if kind == 'BS':
            size += sum(map(len, value))
        elif kind in 'BS':  # ids are ASCII
            size += len(value)
        else:
            size += _size_of_other(kind, value)
    return size


def _holds(item: dict[str, Any], name: str, value: Any) -> bool:
    return name in item and value['B'] in item[name]['BS']


def _number(attribute: Any) -> float:
    return float(attribute['N'])


@functools.lru_cache(None)
def condition_of(text: str) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    """A condition as a function of an item and values.  Only what the simulated requests hold."""
    code = re.sub(r'attribute_not_exists\(#(\w+)\)', r"('\1' not in item)", text)
    code = re.sub(r'attribute_exists\(#(\w+)\)', r"('\1' in item)", code)
    code = re.sub(r'contains\(#(\w+), :(\w+)\)', r"holds(item, '\1', values[':\2'])", code)
    code = re.sub(r'#(\w+) = :(\w+)', r"(item.get('\1') == values[':\2'])", code)
    code = re.sub(r'#(\w+) <> :(\w+)', r"(item.get('\1') != values[':\2'])", code)
    code = re.sub(r'#(\w+) <= :(\w+)',
                  r"('\1' in item and number(item['\1']) <= number(values[':\2']))", code)
    code = code.replace(' AND ', ' and ').replace(' OR ', ' or ').replace('NOT ', 'not ')
    found: Callable[..., bool] = eval(
        f'lambda item, values: {code}', {'holds': _holds, 'number': _number})
    return found


@functools.lru_cache(None)
def update_of(text: str) -> tuple[tuple[str, str, str, bool], ...]:
    """An update's changes: verb, attribute, value, whether only if there is none."""
    changes, words = [], re.split(r' ?\b(SET|ADD|DELETE|REMOVE) ', text)[1:]
    for verb, clause in zip(words[::2], words[1::2]):
        for change in re.findall(r'#\w+(?: = if_not_exists\(#\w+, :\w+\)| =? ?:\w+)?', clause):
            name, value = re.search(r'#(\w+)', change), re.search(r':\w+', change)
            assert name
            changes.append((verb, name[1], value[0] if value else '', 'if_not' in change))
    return tuple(changes)


def updated(item: dict[str, Any], text: str, values: dict[str, Any]) -> dict[str, Any]:
    item = dict(item)
    for verb, name, value_name, only_new in update_of(text):
        value = values.get(value_name)
        if verb == 'SET':
            if not (only_new and name in item):
                item[name] = value
        elif verb == 'REMOVE':
            item.pop(name, None)
        elif verb == 'ADD' and 'N' in value:  # type: ignore[operator]
            item[name] = {'N': repr(int(item.get(name, {'N': '0'})['N'])
                                    + int(value['N']))}  # type: ignore[index]
        else:
            members = value['BS']  # type: ignore[index]
            old = item.get(name, {'BS': []})['BS']
            left = [member for member in old if member not in members]
            new = [*left, *members] if verb == 'ADD' else left
            item.pop(name, None)
            if new:
                item[name] = {'BS': new}
    return item


@functools.lru_cache(None)
def names_of(statement: str) -> list[str]:
    return re.findall(r"'(\w+)': \?", statement)


class Throttled(Exception):
    """An item's partition has no units left."""


@dataclass(frozen=True)
class Asked:
    """What is simulated."""

    parts: int = 1_000_000
    threads: int = 8  # of a process
    seconds: float = 0.1  # of a task: between half and one and a half times as many
    seed: int = 1
    warm: int = 0  # partitions; 0: those of a new on-demand table
    burst: float = 0.0  # seconds
    sends: float = 0.0  # messages a second; 0: all are there once the chord is open
    median: float = 5.0  # milliseconds of a request
    p99: float = 20.0
    sample: int | None = None  # parts that are played; 0: all; None: enough for a steady state
    infinite: bool = False  # no partition has a limit


class DynamoDB:
    """The methods of botocore's client that the module calls, over a table in memory."""

    def __init__(self, asked: Asked, rnd: random.Random) -> None:
        self.rnd = rnd
        # lognormal: 2.326 standard deviations lie between the median and the 99th percentile
        self._median = math.log(asked.median / 1000)
        self._spread = math.log(asked.p99 / asked.median) / 2.326
        self._items: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._seconds = max(1.0, asked.burst)  # of units that a partition keeps
        self._doubling = DOUBLING
        self._traffic = 0.0
        self.meta = types.SimpleNamespace(endpoint_url='https://dynamodb.simulated')
        self.usage = Usage()
        self.item_peak, self.partition_peak = Peak(), Peak()
        self.partitions = asked.warm or FIRST_PARTITIONS
        self.is_infinite = asked.infinite
        self._split()

    def _split(self) -> None:
        self._writes = [Bucket(PARTITION_WRITES, self._seconds) for _ in range(self.partitions)]
        self._reads = [Bucket(PARTITION_READS, self._seconds) for _ in range(self.partitions)]
        self._quotas = Bucket(TABLE_QUOTA, 1), Bucket(TABLE_QUOTA, 1)

    def _grow(self) -> None:
        """Doubles the table if it had traffic for more than half of what it takes."""
        if self._traffic > self.partitions * PARTITION_WRITES / 2 * DOUBLING:
            self.partitions *= 2
            self._split()
        self._doubling, self._traffic = clock.now + DOUBLING, 0.0

    # --- units ------------------------------------------------------------------------------------

    def _partition(self, id: str) -> int:
        """As DynamoDB: by a hash of the key, which is evenly spread; its own is not public."""
        hashed = int.from_bytes(hashlib.md5(id.encode()).digest()[:4], 'big')
        return hashed * self.partitions >> 32

    def _take(self, id: str, units: float, reads: bool) -> None:
        """Consumes units, or raises Throttled."""
        partition = self._partition(id)
        if not self.is_infinite:
            if clock.now >= self._doubling:
                self._grow()
                partition = self._partition(id)
            quota = self._quotas[reads]
            if not quota.take(units):
                raise Throttled
            if not (self._reads if reads else self._writes)[partition].take(units):
                quota.give_back(units)
                raise Throttled
        if reads:
            self.usage.read_units += units
        else:
            self._traffic += units
            self.usage.write_units += units
            self.item_peak.add(id, int(units))
            self.partition_peak.add(partition, int(units))

    def _read(self, id: str, consistent: bool) -> tuple[dict[str, Any] | None, int]:
        size = self._sizes.get(id, 0)
        self._take(id, max(1, -(-size // READ_BLOCK)) * (1 if consistent else 0.5), True)
        return self._load(id), size

    def _write(self, id: str, new: dict[str, Any] | None, old: dict[str, Any] | None) -> None:
        size = size_of(new) if new else 0
        largest = max(size, self._sizes.get(id, 0))
        self._take(id, max(1, -(-largest // WRITE_BLOCK)), False)
        if new is None:
            self._items.pop(id, None)
        elif new is not old:  # results are many, and read once: small in memory
            self._items[id] = marshal.dumps(new) if 'result' in new else new
        self._sizes[id] = size

    def fill(self, id: str, members: list[bytes], owner: bytes, length: int) -> Any:
        """A counter's item once all of its members are counted, at no cost."""
        item = dict(self._items[id])
        pending = item.pop('pending', None)
        item['members'] = {'BS': members} if members else pending
        item['owner'] = {'B': owner}
        item['timestamp'] = {'N': str(int(EPOCH))}
        if not members:
            item['bytes'] = {'N': str(length * len(pending['BS']))}
        self._items[id], self._sizes[id] = item, size_of(item)
        return item

    def _load(self, id: str) -> dict[str, Any] | None:
        item = self._items.get(id)
        return marshal.loads(item) if isinstance(item, bytes) else item

    def _begin(self) -> None:
        """A request on its way."""
        self.usage.requests += 1
        clock.sleep(math.exp(self.rnd.gauss(self._median, self._spread)))

    def _throttle(self, operation: str) -> ClientError:
        self.usage.throttled += 1
        return ClientError({
            'Error': {'Code': 'ThrottlingException', 'Message': 'Throughput exceeds the capacity'},
            'ResponseMetadata': {'HTTPStatusCode': 400}}, operation)

    # --- requests ---------------------------------------------------------------------------------

    def get_item(self, *, Key: Any, ConsistentRead: bool, **more: Any) -> Any:
        self._begin()
        try:
            item, _ = self._read(Key['id']['S'], ConsistentRead)
        except Throttled:
            raise self._throttle('GetItem') from None
        return {'Item': item} if item else {}

    def put_item(self, *, Item: Any, **more: Any) -> Any:
        return self._change('PutItem', Item['id']['S'], lambda old: Item, **more)

    def update_item(self, *, Key: Any, UpdateExpression: str, **more: Any) -> Any:
        values = more.get('ExpressionAttributeValues', {})
        return self._change(
            'UpdateItem', Key['id']['S'],
            lambda old: updated(old or Key, UpdateExpression, values), **more)

    def delete_item(self, *, Key: Any, **more: Any) -> Any:
        return self._change('DeleteItem', Key['id']['S'], lambda old: None, **more)

    def _change(
            self, operation: str, id: str, change: Callable[[Any], Any], *, ReturnValues: str,
            ConditionExpression: str | None = None, ExpressionAttributeValues: Any = None,
            **more: Any) -> Any:
        self._begin()
        old = self._load(id)
        holds = ConditionExpression is None or condition_of(ConditionExpression)(
            old or {}, ExpressionAttributeValues or {})
        try:
            new = change(old) if holds else old
            self._write(id, new, old)
        except Throttled:
            raise self._throttle(operation) from None
        if not holds:
            raise ClientError({
                'Error': {'Code': 'ConditionalCheckFailedException', 'Message': ''},
                **({'Item': old} if old else {})}, operation)
        returned = new if ReturnValues == 'ALL_NEW' else old
        return {'Attributes': returned} if returned else {}

    def batch_get_item(self, *, RequestItems: Any) -> Any:
        self._begin()
        (table, asked), = RequestItems.items()
        found, unprocessed, total, throttled = [], [], 0, 0
        of_partition: Counter[int] = Counter()
        for key in asked['Keys']:
            id = key['id']['S']
            if total > BATCH_BYTES or of_partition[self._partition(id)] > BATCH_BYTES_OF_PARTITION:
                unprocessed.append(key)
                continue
            try:
                item, size = self._read(id, asked['ConsistentRead'])
            except Throttled:
                throttled += 1
                unprocessed.append(key)
                continue
            total += size
            of_partition[self._partition(id)] += size
            if item:
                found.append(item)
        if throttled == len(asked['Keys']):
            raise self._throttle('BatchGetItem')
        self.usage.throttled += throttled > 0
        return {'Responses': {table: found}, 'ResponseMetadata': {'Bytes': total},
                'UnprocessedKeys': {table: {'Keys': unprocessed}} if unprocessed else {}}

    def batch_write_item(self, *, RequestItems: Any) -> Any:
        self._begin()
        (table, asked), = RequestItems.items()
        unprocessed = []
        for write in asked:
            new = write.get('PutRequest', {}).get('Item')
            id = (new or write['DeleteRequest']['Key'])['id']['S']
            try:
                self._write(id, new, self._load(id))
            except Throttled:
                unprocessed.append(write)
        if len(unprocessed) == len(asked):
            raise self._throttle('BatchWriteItem')
        self.usage.throttled += bool(unprocessed)
        return {'UnprocessedItems': {table: unprocessed} if unprocessed else {}}

    def batch_execute_statement(self, *, Statements: Any) -> Any:
        self._begin()
        responses: list[Any] = []
        for statement in Statements:
            new = dict(zip(names_of(statement['Statement']), statement['Parameters']))
            id = new['id']['S']
            old = self._load(id)
            try:
                self._write(id, old or new, old)
            except Throttled:
                responses.append({'Error': {'Code': 'ThrottlingError'}})
            else:
                responses.append({'Error': {'Code': 'DuplicateItem'}} if old else {})
        self.usage.throttled += {'Error': {'Code': 'ThrottlingError'}} in responses
        return {'Responses': responses}


# --- the chord ------------------------------------------------------------------------------------

VALUE = 4711  # that each task returns


class Phase(NamedTuple):
    seconds: float
    usage: Usage
    item: int  # the most write units of an item in a second
    partition: int


@dataclass
class Outcome:
    """What happened to a chord."""

    workers: int
    parts: int
    phases: dict[str, Phase] = field(default_factory=dict)
    given_up: int = 0  # parts of which a request was throttled until its retries were over
    waits: list[float] = field(default_factory=list)  # of a task, for its store and its count
    marks: list[tuple[float, Usage]] = field(default_factory=list)  # when 1/5, 4/5 had returned

    @property
    def steady_parts(self) -> int:
        return 3 * (self.parts // 5)

    @property
    def rate(self) -> float:
        """Parts a second in the steady state."""
        seconds = self.marks[1][0] - self.marks[0][0]
        return self.steady_parts / seconds if seconds else math.inf  # few, in one request

    @property
    def steady(self) -> Usage:
        return self.marks[1][1].plus(self.marks[0][1], -1)


class Chord:
    """One chord, from its opening until the body has its values."""

    def __init__(self, asked: Asked, workers: int) -> None:
        self.asked, self.workers, self.rnd = asked, workers, random.Random(asked.seed)
        random.seed(asked.seed)  # the jitter of pauses
        dv.reset()
        clock.reset()
        self.db = DynamoDB(asked, self.rnd)
        app = celery.Celery('simulation', broker='memory://', set_as_current=False)
        app.conf.result_backend = 'dyna_veggie.DynamoDBBackend+dynamodb://us-east-1/celery'
        self.backend = app.backend
        self._table_of(self.backend.options)
        self.ids = [self._new_id() for _ in range(asked.parts)]
        self.group_id = self._new_id()
        self.body = app.signature('simulation.body', options={'task_id': self._new_id()})
        self.run = dv.Run(
            f'{self.backend.pointer_id(self.group_id)}.{self.rnd.getrandbits(32):08x}',
            int(EPOCH) + self.backend._chord_lifetime, size=asked.parts)
        # of a task that returns a number
        meta = self.backend._get_result_meta(
            result=VALUE, state='SUCCESS', traceback=None, request=None)
        self._payload: bytes = self.backend.encode({**meta, 'task_id': self.ids[0]}).encode()
        self._length = len(self.backend.encode(VALUE)) + 2
        self.outcome = Outcome(workers, asked.parts)
        self.argument: Any = None  # of the body
        self._began, self._used = 0.0, Usage()
        self._queue = iter(enumerate(self.ids))

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self.rnd.getrandbits(128), version=4))

    def _table_of(self, options: Any) -> Any:
        """The table of a process, whose requests come here."""
        table = dv.shared_table(options)
        table.client._botocore = self.db
        return table

    def play(self, *phases: Callable[[], None]) -> None:
        for phase in phases:
            clock.start(phase)
            clock.run()

    def _end(self, name: str) -> None:
        db, used = self.db, self.db.usage.plus(Usage())
        self.outcome.phases[name] = Phase(clock.now - self._began, used.plus(self._used, -1),
                                          db.item_peak.most, db.partition_peak.most)
        self._began, self._used = clock.now, used
        db.item_peak.most = db.partition_peak.most = 0

    def open(self) -> None:
        dv.ChordStore(self.backend.store.table).open(
            self.run.pointer_id, self.run, self.ids, body=self.backend._kept_body(self.body),
            body_pointer_ids=[self.backend.pointer_id(self.body.id)])
        self._end('opening')

    def work(self) -> None:
        """The parts return, and the last one joins the chord."""
        for number in range(self.workers):
            # a process has a Batcher for each set of options
            table = self._table_of(dataclasses.replace(
                self.backend.options, role_session_name=f'process-{number}'))
            for _ in range(self.asked.threads):
                clock.start(functools.partial(self._thread, table))

    def _thread(self, table: Any) -> None:
        asked, outcome, first = self.asked, self.outcome, len(self.ids) // 5
        store = dv.BlobStore(table, self.backend._status_of)
        for index, task_id in self._queue:
            if asked.sends:
                clock.sleep(max(0.0, self._began + index / asked.sends - clock.now))
            clock.sleep(asked.seconds * self.rnd.uniform(0.5, 1.5))
            began = clock.now
            try:
                root = self._return(table, store, dv.Part(index, False, task_id))
            except ClientError:
                outcome.given_up += 1
                continue
            outcome.waits.append(clock.now - began)
            if len(outcome.waits) in (first, 4 * first):
                outcome.marks.append((clock.now, self.db.usage.plus(Usage())))
            if root is not None:
                self.join(root)

    def _return(self, table: Any, store: Any, part: Any) -> Any:
        """As mark_as_done() and on_chord_part_return(); returns the root if it is the last."""
        store.put(
            self.backend.item_id(part.task_id),
            self._payload.replace(self.ids[0].encode(), part.task_id.encode()), 'SUCCESS',
            self.backend.expires, keep='SUCCESS', chord=self.run.label(part),
            duration=self.asked.seconds, new=True)
        counter = dv.PartCounter(table, self.run, part, dv.new_owner(part.task_id))
        return counter.count(dv.Entry(counter.member, length=self._length, size=self.run.size))

    def fill(self) -> None:
        """All parts return in no time, and the last one joins the chord."""
        owner = dv.new_owner('')
        for position in self.run.positions():
            children = range(position.number * position.capacity, min(
                (position.number + 1) * position.capacity, dv.width(self.run.size, position.level)))
            item = self.db.fill(
                self.run.node_id(position), [
                    dv.Position(position.level - 1, number).member for number in children
                ] if position.level else [], owner, self._length)
        self.join(dv.Node(self.run, position, dv.unmarshal_item(item)))

    def join(self, root: Any) -> None:
        self._end('running')
        lease = dv.Lease(self.backend.store.table, self.run, root.item['owner'])
        join = dv.Join(self.backend, self.body, lease, self.group_id)
        join.root = root
        uid = self.group_id
        dv.before_task_publish.connect(self._published, weak=False, dispatch_uid=uid)
        join.execute(clock.sleep)
        dv.before_task_publish.disconnect(dispatch_uid=uid)

    def _published(self, body: Any, **kwargs: Any) -> None:
        self.argument = body[0][0]
        self._end('joining')

    def read(self) -> None:
        """As the body's process does before it calls it."""
        if 'running' not in self.outcome.phases:  # parts were given up: Celery fails these tasks
            self._end('running')
            self._end('joining')
        if dv.is_claim_check(self.argument):
            self.argument = self.backend.redeem(self.argument[0])
        self._end('reading')


# --- the whole ------------------------------------------------------------------------------------

def play(asked: Asked, workers: int) -> Outcome:
    """A chord of which all parts are played."""
    logging.disable(logging.CRITICAL)  # each process would say that it is throttled
    chord = Chord(asked, workers)
    chord.play(chord.open, chord.work, chord.read)
    assert chord.outcome.given_up or chord.argument == [VALUE] * asked.parts
    return chord.outcome


def play_frame(asked: Asked) -> dict[str, Phase]:
    """Opening and joining in full."""
    chord = Chord(asked, 0)
    chord.play(chord.open, chord.fill)
    return chord.outcome.phases


def play_sample(asked: Asked, workers: int) -> Outcome:
    return play(dataclasses.replace(asked, parts=sample_of(asked, workers)), workers)


def play_without_limits(asked: Asked, workers: int) -> float:
    """Parts a second on a table without limits."""
    parts = min(asked.parts, max(4000, 5 * workers * asked.threads))
    return play(dataclasses.replace(asked, parts=parts, infinite=True), workers).rate


def sample_of(asked: Asked, workers: int) -> int:
    """How many parts are played: a thread backs off for seconds, and that must have settled."""
    threads = workers * asked.threads
    sample = max(20_000, 8 * threads) if asked.sample is None else asked.sample
    return min(asked.parts, sample or asked.parts)


def whole(asked: Asked, frame: dict[str, Phase] | None, sample: Outcome) -> Outcome:
    """All parts, from a sample of them."""
    played = sample.parts
    if frame is None or played == asked.parts:
        return sample
    running, reading = sample.phases['running'], sample.phases['reading']
    left = asked.parts - played
    steady = running._replace(
        seconds=running.seconds + left / sample.rate,
        usage=running.usage.plus(sample.steady, left / sample.steady_parts))
    factor = asked.parts / played
    usage = Usage().plus(reading.usage, factor)
    # a sample is read with units that were left from before
    least = usage.read_units / ((asked.warm or FIRST_PARTITIONS) * PARTITION_READS)
    read = reading._replace(seconds=max(reading.seconds * factor, least), usage=usage)
    return dataclasses.replace(sample, parts=asked.parts, phases={
        'opening': frame['opening'], 'running': steady, 'joining': frame['joining'],
        'reading': read})


def simulate(asked: Asked, workers: list[int]) -> dict[str, Any]:
    """What is printed."""
    with concurrent.futures.ProcessPoolExecutor(len(workers) + 1) as pool:
        # the longest first
        samples = [pool.submit(play_sample, asked, each) for each in reversed(workers)][::-1]
        frame: Any = None
        if any(sample_of(asked, each) < asked.parts for each in workers):
            frame = pool.submit(play_frame, asked)
        rates = [pool.submit(play_without_limits, asked, each) for each in workers]
        opened = frame and frame.result()
        rows = [row_of(asked, whole(asked, opened, sample.result()), rate.result())
                for sample, rate in zip(samples, rates)]
    packed = len(dv.pack([(dv.Part(0, False, str(uuid.UUID(int=1))), 'members')]))
    per_part = rows[0]['write_units_per_part']
    return {'asked': dataclasses.asdict(asked), 'rows': rows, 'limits': {
        'parts_per_second': round(
            (asked.warm or FIRST_PARTITIONS) * PARTITION_WRITES / per_part),
        'parts_by_index': dv.COPIED,
        'parts_by_claim_check': dv.LARGEST_RESULT // packed}}


def row_of(asked: Asked, outcome: Outcome, rate: float) -> dict[str, Any]:
    total = Usage()
    for phase in outcome.phases.values():
        total = total.plus(phase.usage)
    running = outcome.phases['running']
    waits = sorted(outcome.waits)
    return {
        'workers': outcome.workers, 'threads': outcome.workers * asked.threads,
        'played': len(waits),
        'seconds': math.inf if outcome.given_up else sum(
            phase.seconds for name, phase in outcome.phases.items() if name != 'reading'),
        **{f'seconds_{name}': phase.seconds for name, phase in outcome.phases.items()},
        'seconds_of_tasks': asked.parts * asked.seconds / outcome.workers / asked.threads,
        'seconds_without_limits': asked.parts / rate,
        'parts_per_second': asked.parts / running.seconds,
        'requests': total.requests, 'throttled': total.throttled,
        'throttled_share': total.throttled / total.requests,
        'read_units': total.read_units, 'write_units': total.write_units,
        'requests_per_part': total.requests / asked.parts,
        'read_units_per_part': total.read_units / asked.parts,
        'write_units_per_part': total.write_units / asked.parts,
        'dollars': total.dollars,
        'most_item_writes': {name: phase.item for name, phase in outcome.phases.items()},
        'most_partition_writes': running.partition,
        'wait_median': waits[len(waits) // 2], 'wait_p99': waits[len(waits) * 99 // 100],
        'wait_max': waits[-1], 'given_up': outcome.given_up}


LINES = [
    ('threads', 'threads', '{:,.0f}'),
    ('seconds', 'until the body is published, s', '{:,.1f}'),
    ('seconds_opening', '  opening', '{:,.1f}'),
    ('seconds_running', '  running', '{:,.1f}'),
    ('seconds_joining', '  joining', '{:,.1f}'),
    ('seconds_reading', 'the body reads the values, s', '{:,.1f}'),
    ('seconds_without_limits', 'running without limits, s', '{:,.1f}'),
    ('seconds_of_tasks', 'the tasks alone, s', '{:,.1f}'),
    ('parts_per_second', 'parts a second', '{:,.0f}'),
    ('wait_median', 'a task waits for its store and count, s', '{:.3f}'),
    ('wait_p99', '  99th percentile', '{:.3f}'),
    ('wait_max', '  at most', '{:.3f}'),
    ('requests', 'requests', '{:,.0f}'),
    ('throttled', '  throttled', '{:,.0f}'),
    ('throttled_share', '  share', '{:.1%}'),
    ('requests_per_part', 'requests per part', '{:.3f}'),
    ('write_units_per_part', 'write units per part', '{:.3f}'),
    ('read_units_per_part', 'read units per part', '{:.3f}'),
    ('dollars', 'US dollars', '{:.2f}'),
    ('most_partition_writes', 'write units of a partition/s, at most', '{:,.0f}'),
    ('given_up', 'parts given up', '{:,.0f}'),
]


def lines_of(found: dict[str, Any]) -> Iterator[str]:
    asked, rows, limits = found['asked'], found['rows'], found['limits']
    yield (f'A chord of {asked["parts"]:,} parts of {asked["seconds"]:g} s each, on '
           f'{asked["warm"] or FIRST_PARTITIONS} partitions:')
    yield f'{"workers":40}' + ''.join(f'{row["workers"]:>14,}' for row in rows)
    for key, text, form in LINES:
        yield f'{text:40}' + ''.join(f'{form.format(row[key]):>14}' for row in rows)
    for name in rows[0]['most_item_writes']:
        yield f'write units of an item/s, {name}'.ljust(40) + ''.join(
            f'{row["most_item_writes"][name]:14,}' for row in rows)
    yield f'The partitions take {limits["parts_per_second"]:,} parts a second.'
    yield (f'Most parts: {limits["parts_by_index"]:,} by index, '
           f'{limits["parts_by_claim_check"]:,} by claim check.')
    for row in rows:
        if row['played'] < asked['parts']:
            yield f'With {row["workers"]:,} workers {row["played"]:,} parts were played.'


#: of which a fifth can be told from four fifths
FEWEST_PARTS = 10
#: type, least and most that can be played, help
ARGUMENTS: dict[str, tuple[Callable[[str], float], float, float, str]] = {
    'parts': (int, FEWEST_PARTS, 20_000_000, 'of the chord'),
    'threads': (int, 1, 1000, 'of a process'),
    'seconds': (float, 0, 86_400, 'of a task'),
    'seed': (int, 0, 2**32, 'of all that is random'),
    'warm': (int, 0, 10_000, 'partitions of a table that was warmed; 0: a new table'),
    'burst': (float, 0, 300, 'seconds of unused capacity that a partition keeps'),
    'sends': (float, 0, 1e6, 'messages a second; 0: all are there once the chord is open'),
    'median': (float, 0.01, 60_000, 'milliseconds of a request'),
    'p99': (float, 0.01, 60_000, 'the 99th percentile of that'),
    'sample': (int, 0, 20_000_000, 'parts that are played; 0: all')}


def within(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f'{text!r} is not {"an integer" if kind is int else "a number"} from {least:,} to '
                f'{most:,}')
        return number
    return parse


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workers', type=within(int, 1, 10_000), nargs='+',
                        default=[10, 100, 1000], help='processes (10 100 1000)')
    for name, (kind, least, most, text) in ARGUMENTS.items():
        default = getattr(Asked, name)
        parser.add_argument(f'--{name}', type=within(kind, least, most), default=default,
                            help=f'{text} ({default})')
    parser.add_argument('--json', action='store_true', help='print JSON')
    given = vars(parser.parse_args())
    if given['p99'] < given['median']:
        parser.error(f'argument --p99: {given["p99"]:g} is less than --median {given["median"]:g}')
    if 0 < (given['sample'] or 0) < FEWEST_PARTS:
        parser.error(f'argument --sample: {given["sample"]} is not 0, or at least {FEWEST_PARTS}')
    as_json, workers = given.pop('json'), given.pop('workers')
    found = simulate(Asked(**given), workers)
    print(json.dumps(found, indent=2) if as_json else '\n'.join(lines_of(found)))


if __name__ == '__main__':
    main()
