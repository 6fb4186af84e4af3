#!/usr/bin/env python3
"""A model of how a chord is joined, run over random schedules.  No DynamoDB, no Celery.

Deliveries of parts are generators that pause before and after each request, so a schedule can
interleave them, lose a response (the request is then retried), kill a process or one of its threads
at each step, stall it, deliver a message twice or late, let requests that open a chord land late,
and delete expired items or the table.  Each chord is applied once or twice with the same ids.

A schedule is good if each run ends once: its body is called with what the parts of this run
returned, or its errbacks are, if a part failed, or for a reason that the schedule gave.  A run may
end twice only if its publisher was killed or stalled after it published, before it closed the run.

usage: chord_model.py [SCHEDULES [FIRST_SEED]]        exits with 1 if one was bad, and names it
"""
from __future__ import annotations

import dataclasses
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

LEAF, INNER, BATCH_LIMIT = 3, 3, 3  # small, so that the tree is deep
LEASE = 60
CLOSED_TTL = 10**9  # the item of a run outlives its deadline by as much

Item = dict[str, Any]
Steps = Generator[None, None, Any]


class Interrupted(Exception):
    """Ends one delivery; the other threads of its process go on."""


class Member(NamedTuple):
    place: int  # the index in its group
    added: bool
    task: str


@dataclasses.dataclass(frozen=True)
class Run:
    """What the run option in the body's signature says to each part."""

    id: str
    deadline: float
    lazy: bool
    single_leaf: bool
    size: int | None

    def node_id(self, level: int, number: int) -> str:
        return f'{self.id}.{level}.{number}'

    def copy_id(self, member: Member) -> str:
        return f'{self.id}.copy.{member.place}.{member.task}'


class Message(NamedTuple):
    run: Run
    member: Member


class Entry(NamedTuple):
    """An entry that one part adds to its leaf."""

    member: Member
    set_name: str  # members, copied or failed
    adds: frozenset[tuple[Member, Member]] = frozenset()
    size: int | None = None  # of the header, if this part knows it


@dataclasses.dataclass(frozen=True)
class Node:
    """A counter node as it was read."""

    run: Run
    level: int
    number: int
    item: Item

    @property
    def size(self) -> int | None:
        return self.run.size if self.run.size is not None else self.item.get('size')

    @property
    def single_leaf(self) -> bool:
        return self.run.single_leaf or bool(self.item.get('single_leaf'))

    @property
    def expected(self) -> float:
        if self.single_leaf:
            return math.inf if self.size is None else self.size
        if self.size is None:
            return capacity(self.level)
        if self.run.lazy and self.number != width(self.size, self.level + 1) - 1:
            return 0  # the last part came to another node than the last: the indexes have gaps
        return min(capacity(self.level), width(self.size, self.level) - self.start)

    @property
    def start(self) -> int:
        return self.number * capacity(self.level)

    @property
    def is_root(self) -> bool:
        return self.size is not None and (
            self.single_leaf or width(self.size, self.level) <= capacity(self.level))

    @property
    def counted(self) -> frozenset[Any]:
        set_names = 'members', 'copied', 'failed'
        return frozenset().union(*(self.item.get(set_name, ()) for set_name in set_names))

    @property
    def header_members(self) -> set[Any]:
        """The members that belong to the header (or to the level below), not added ones."""
        return {member for member in self.counted if not (self.level == 0 and member.added)}

    @property
    def expected_members(self) -> set[Any]:
        """The header's members plus all that they added, transitively; counted or not."""
        members, new = set(), self.header_members
        while new:
            members |= new
            new = {child for adder, child in self.item.get('added', ()) if adder in new} - members
        return members

    @property
    def is_full(self) -> bool:
        return (0 < len(self.header_members) == self.expected
                and self.expected_members <= self.counted)

    @property
    def overflows(self) -> bool:
        return len(self.header_members) > self.expected


def capacity(level: int) -> int:
    return INNER if level else LEAF


def width(size: int, level: int) -> int:
    """How many members a level of the tree has: the parts, the leaves, and so on."""
    for below in range(level):
        size = math.ceil(size / capacity(below))
    return size


@dataclasses.dataclass(eq=False)
class Batch:
    """Parts of one process that are counted on one leaf by one request."""

    entries: list[Entry] = dataclasses.field(default_factory=list)
    sealed: bool = False
    done: bool = False
    counted: bool = False


@dataclasses.dataclass(eq=False)
class Delivery:
    message: Message
    owner: tuple[Member, int]
    steps: Steps = dataclasses.field(init=False)
    joining: bool = False  # it sends heartbeats
    confirmed: int = 0  # when the last heartbeat was sent
    publishing: bool = False
    stored: bool = False  # also what leads from the task's own item to this run


@dataclasses.dataclass(eq=False)
class Process:
    running: list[Delivery] = dataclasses.field(default_factory=list)
    batches: dict[str, Batch] = dataclasses.field(default_factory=dict)
    stalled_until: int = 0


class Protocol:
    """The steps of the protocol, over a table that is a dict."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.db: dict[str, Item] = {}
        self.now = 0
        self.p_lost = 0.0
        self.forgotten: dict[str, Item] = {}
        self.by_claim_check = False

    # --- what the table does, each atomic --------------------------------------------------------

    def read(self, ids: Iterable[str]) -> dict[str, Item]:
        return {id: dict(self.db[id]) for id in ids if id in self.db}

    def put(self, id: str, item: Item) -> None:
        self.db[id] = item

    def insert(self, id: str, item: Item) -> None:
        self.db.setdefault(id, item)

    def store(self, id: str, item: Item) -> bool:
        """As BlobStore.put(keep=SUCCESS): says whether it is stored, also after a lost response."""
        old = self.db.get(id)
        if old and old['state'] == 'SUCCESS':
            return old['timestamp'] == item['timestamp']
        self.db[id] = item
        return True

    def point(self, id: str, label: Message) -> None:
        if id in self.db:
            self.db[id] = {**self.db[id], 'later': label}

    def read_eventually(self, ids: Iterable[str]) -> dict[str, Item]:
        """Items as they are, or as they were before they were forgotten."""
        return {id: self.rnd.choice([item, self.forgotten.get(id, item)])
                for id, item in self.read(ids).items()}

    def count(self, node: Node, entries: Iterable[Entry], owner: Any) -> tuple[bool, Item | None]:
        """The update that counts; refused if one is in, or the node must exist and does not."""
        item = self.db.get(node.run.node_id(node.level, node.number))
        if item is None and not node.run.lazy:
            return False, None
        now = Node(node.run, node.level, node.number, item or {'ttl': node.run.deadline})
        if any(entry.member in now.counted for entry in entries):
            return False, now.item
        item = dict(now.item, owner=owner) if node.level == 0 else dict(now.item)
        for member, set_name, adds, size in entries:
            item[set_name] = item.get(set_name, frozenset()) | {member}
            item['added'] = item.get('added', frozenset()) | adds
            item.update({} if size is None else {'size': size})
        self.db[node.run.node_id(node.level, node.number)] = item
        return True, dict(item)

    def update_lease(
            self, run: Run, owner: Any, allowed: Callable[[Item], bool], **more: Any) -> Item:
        """The update of a run's item that acquires or renews the lease, or starts publishing.

        Returns the item as it then is.
        """
        item = self.db.get(run.id, {'ttl': run.deadline + CLOSED_TTL})
        if not item.get('closed') and allowed(item):
            heartbeat = item.get('heartbeat', 0) + 1
            item = self.db[run.id] = dict(item, owner=owner, heartbeat=heartbeat, **more)
        return dict(item)

    def set(self, id: str, **more: Any) -> Item | None:
        """The update of an item that is there, and not closed."""
        item = self.db.get(id)
        if item is None or item.get('closed'):
            return None
        self.db[id] = {**item, **more}
        return dict(self.db[id])

    def add_to_first(self, run: Run, sets: Item, more: Item) -> Item:
        """The update of leaf 0 that adds what other leaves hold."""
        id = run.node_id(0, 0)
        item = {**self.db.get(id, {'ttl': run.deadline}), **more}
        for name, members in sets.items():
            item[name] = item.get(name, frozenset()) | members
        self.db[id] = item
        return dict(item)

    def leaves(self, run: Run) -> list[Node]:
        return [Node(run, 0, number, dict(self.db[run.node_id(0, number)]))
                for number in range(99) if run.node_id(0, number) in self.db]

    def renew(self, run: Run, owner: Any, **more: Any) -> bool:
        """Acquires or renews the lease; false if another owner holds it, or the run is closed."""
        item = self.update_lease(
            run, owner, lambda item: item.get('owner') in (None, owner), **more)
        return not item.get('closed') and item['owner'] == owner

    def close(self, run: Run, copies: Iterable[str]) -> None:
        self.db[run.id] = dict(self.db.get(run.id, {'ttl': run.deadline + CLOSED_TTL}), closed=True)
        for id in copies:
            self.db.pop(id, None)
        if run.deadline == math.inf:
            for id in [id for id in self.db if id.startswith(tuple(
                    run.node_id(level, 0)[:-1] for level in range(9)))]:
                del self.db[id]

    # --- the network -----------------------------------------------------------------------------

    def request(self, function: Callable[..., Any], *args: Any, **more: Any) -> Steps:
        while True:
            yield
            response = function(*args, **more)
            if self.rnd.random() >= self.p_lost:
                yield
                return response

    # --- a part returns --------------------------------------------------------------------------

    def part_returns(self, process: Process, delivery: Delivery, entry: Entry) -> Steps:
        """Counts a part, and joins the chord if it was the last."""
        run, member = delivery.message
        leaf = Node(run, 0, 0 if run.single_leaf else member.place // LEAF, {})
        response = yield from self.count_batched(process, delivery, leaf, entry)
        if response is None:
            return  # another thread counted this part, and does the rest
        counting: frozenset[Any] = frozenset([entry.member])
        while True:
            counted, item, counting = response
            if self.now >= run.deadline:  # looked at now: until then no node can have expired
                return (yield from self.fail(delivery, 'deadline'))
            if item is None:
                return (yield from self.fail(delivery, 'gone'))
            node = Node(run, leaf.level, leaf.number, item)
            state = None
            if run.lazy and (not counted or node.counted == counting):
                # it was not there before: does this part come first, or was the table deleted?
                state = (yield from self.request(self.read, [run.id])).get(run.id)
                if state and state.get('closed'):
                    return
                if not state or 'lazy' not in state:
                    return (yield from self.fail(delivery, 'gone'))
            if run.lazy and not run.single_leaf:
                gathered = yield from self.gathered(node, state or {}, counted)
                if self.now >= run.deadline:
                    return (yield from self.fail(delivery, 'deadline'))
                if gathered is None:
                    return
                if gathered is not node and member not in gathered.counted:
                    return (yield from self.fail(delivery, 'gone'))
                counted, node = counted and gathered is node, gathered
            if node.overflows:
                return (yield from self.fail(delivery, 'indexes'))
            if not node.is_full:
                return
            if node.is_root:
                break
            leaf = Node(run, node.level + 1, node.number // INNER, {})
            report = Entry(node.number, 'members', size=node.size)  # type: ignore[arg-type]
            response = (*(yield from self.request(
                self.count, leaf, [report], delivery.owner)), frozenset([node.number]))
        state = {} if counted else (yield from self.acquire(delivery))
        if state is not None:
            yield from self.join(delivery, node, state)

    def gathered(self, node: Node, state: Item, counted: bool) -> Steps:
        """The node, or leaf 0 if the run is counted there; None if there is nothing to do."""
        run = node.run
        if counted and node.single_leaf and (node.level, node.number) == (0, 0):
            return node
        if not node.single_leaf and not state.get('single_leaf'):
            if not node.overflows:
                return node
            found: Item | None = yield from self.request(self.set, run.id, single_leaf=True)
            if found is None:
                return None
            state, counted = found, False
        if not counted and state.get('size') is not None:
            return (yield from self.gather(run, state['size']))
        if node.level:
            return None
        return (yield from self.move(run, [node], state.get('size')))

    def gather(self, run: Run, size: int) -> Steps:
        leaves = yield from self.request(self.leaves, run)
        return (yield from self.move(run, leaves, size))

    def move(self, run: Run, leaves: list[Node], size: int | None) -> Steps:
        """Leaf 0, with what these leaves hold; what they get later is counted there, too."""
        sets: Item = {}
        for leaf in leaves:
            item = leaf.item
            if leaf.number and not item.get('single_leaf'):
                item = (yield from self.request(
                    self.set, run.node_id(0, leaf.number), single_leaf=True)) or {}
            for name in ('members', 'copied', 'failed', 'added') if leaf.number else ():
                sets[name] = sets.get(name, frozenset()) | item.get(name, frozenset())
        more = {'single_leaf': True, **({} if size is None else {'size': size})}
        return Node(run, 0, 0, (yield from self.request(self.add_to_first, run, sets, more)))

    def count_batched(self, process: Process, delivery: Delivery, leaf: Node,
                      entry: Entry) -> Steps:
        """Counts in a batch with other threads; None if one of them does the rest."""
        id = leaf.run.node_id(0, leaf.number)
        previous = process.batches.get(id)
        # a duplicate in the same request would count twice, as far as what it added goes
        leads = previous is None or previous.sealed or len(previous.entries) == BATCH_LIMIT or any(
            each.member == entry.member for each in previous.entries)
        batch = Batch() if leads or previous is None else previous
        process.batches[id] = batch
        batch.entries.append(entry)
        item: Item | None = None
        if leads:
            try:
                while previous and not previous.done:
                    yield
                batch.sealed = True
                batch.counted, item = yield from self.request(
                    self.count, leaf, batch.entries, delivery.owner)
            finally:
                batch.sealed = batch.done = True
                if process.batches.get(id) is batch:
                    del process.batches[id]
        while not batch.done:
            yield
        if batch.counted and not leads:
            return None
        if batch.counted or len(batch.entries) == 1:
            return batch.counted, item, frozenset(each.member for each in batch.entries)
        counted, item = yield from self.request(self.count, leaf, [entry], delivery.owner)
        return counted, item, frozenset([entry.member])

    # --- the join --------------------------------------------------------------------------------

    def acquire(self, delivery: Delivery) -> Steps:
        """The item of the run once this delivery owns its join; None once it is closed."""
        run, since, seen = delivery.message.run, self.now, -1
        state = (yield from self.request(self.read, [run.id])).get(run.id, {})
        while not state.get('closed'):
            if state.get('owner') == delivery.owner:
                return state
            heartbeat = state.get('heartbeat', 0)
            if heartbeat != seen:
                seen, since = heartbeat, self.now
            if 'owner' not in state or self.now - since > LEASE:
                state = yield from self.request(
                    self.update_lease, run, delivery.owner,
                    lambda item, heartbeat=heartbeat: item.get('heartbeat', 0) == heartbeat)
            else:
                state = (yield from self.request(self.read, [run.id])).get(run.id, {})
        return None

    def fail(self, delivery: Delivery, why: str) -> Steps:
        state = yield from self.acquire(delivery)
        if state is not None:
            timestamps = yield from self.request(self.body_timestamps, delivery.message.run)
            yield from self.publish(delivery, state, timestamps, why)

    def join(self, delivery: Delivery, root: Node, state: Item) -> Steps:
        delivery.joining = True
        try:
            run, nodes, copies = delivery.message.run, [root], []
            timestamps = yield from self.request(self.body_timestamps, run)
            outcome: Any = 'gone'
            while nodes[0].level:
                below = nodes[0].level - 1
                ids = [(below, number) for node in nodes for number in sorted(node.counted)]
                items = yield from self.request(self.read, [run.node_id(*id) for id in ids])
                if len(items) < len(ids):
                    break
                nodes = [Node(run, *id, items[run.node_id(*id)]) for id in ids]
            else:
                parts = sorted(
                    part for node in nodes for part in node.expected_members & node.counted)
                copies = [run.copy_id(part) for node in nodes
                          for part in node.item.get('copied', ())]
                if any(node.item.get('failed') for node in nodes):
                    outcome = 'failed'
                elif sum(not part.added for part in parts) == root.size:
                    where = {run.copy_id(part) if run.copy_id(part) in copies else part.task: part
                             for part in parts}
                    outcome = yield from self.values(run, where)
            yield from self.publish(delivery, state, timestamps, outcome, copies)
        finally:
            delivery.joining = False

    def values(self, run: Run, where: dict[str, Member]) -> Steps:
        """What the body is called with, or the reason why it cannot be."""
        if self.by_claim_check:
            stored = {'where': where, 'ttl': run.deadline}
            yield from self.request(self.put, f'{run.id}.parts', stored)
            return 'by claim check'
        items = self.of_this_run(run, where, (yield from self.request(self.read_eventually, where)))
        missing = [id for id in where if id not in items]
        items.update(self.of_this_run(run, where, (yield from self.request(self.read, missing))))
        return [items[id]['value'] for id in where] if len(items) == len(where) else 'gone'

    def of_this_run(self, run: Run, where: dict[str, Member], items: dict[str, Item]) -> Item:
        return {id: item for id, item in items.items() if id == run.copy_id(where[id])
                or (item['chord'].run.id, item['chord'].member) == (run.id, where[id])}

    def publish(self, delivery: Delivery, state: Item, timestamps: frozenset[int], outcome: Any,
                copies: Iterable[str] = ()) -> Steps:
        """Publishes the body, or calls the errbacks, unless a dead owner did that; closes."""
        run = delivery.message.run
        delivery.joining = True
        try:
            if 'published_before' not in state or not timestamps - state['published_before']:
                delivery.confirmed = self.now
                if not (yield from self.request(
                        self.renew, run, delivery.owner, published_before=timestamps)):
                    return
                if not (yield from self.is_ours(delivery)):
                    return
                delivery.publishing = True
                self.end(run, outcome, timestamps)
                yield
            yield from self.request(self.close, run, () if self.by_claim_check else copies)
        finally:
            delivery.joining = delivery.publishing = False

    def is_ours(self, delivery: Delivery) -> Steps:
        """Whether the lease is still ours, by a heartbeat that is not old."""
        while self.now - delivery.confirmed > LEASE // 2:
            sent = self.now
            if not (yield from self.request(self.renew, delivery.message.run, delivery.owner)):
                return False
            delivery.confirmed = max(delivery.confirmed, sent)
        return True

    def is_done(self, task: str) -> bool:
        """Whether an exact read of a task that stored SUCCESS says so: nothing is left to do."""
        item = self.db[task]
        run, member = item['later'] if 'later' in item else item['chord']
        run = dataclasses.replace(run, size=None) if run.lazy else run  # its nodes know it
        state = self.db.get(run.id, {'closed': True})
        run = dataclasses.replace(run, single_leaf=run.single_leaf or 'single_leaf' in state)
        level, number = 0, 0 if run.single_leaf else member.place // LEAF
        counting: Any = member
        while not state.get('closed'):
            if state.get('owner', '?')[0] == member:
                return False
            item = self.db.get(run.node_id(level, number), {})
            node = Node(run, level, number, item)
            if counting not in node.counted or node.overflows:
                return False
            if run.lazy and run.single_leaf and 'single_leaf' not in item:
                return False
            if not node.is_full or (level == 0 and not item.get('single_leaf')
                                    and item['owner'][0] != member):
                return True
            if node.is_root:
                return False
            level, number, counting = level + 1, number // INNER, number
        return True

    # --- what the schedule watches ---------------------------------------------------------------

    def body_timestamps(self, run: Run) -> frozenset[int]:
        raise NotImplementedError

    def end(self, run: Run, outcome: Any, timestamps: frozenset[int]) -> None:
        raise NotImplementedError


class Task(NamedTuple):
    """How a task of the header behaves."""

    fails: float
    ignored: bool
    early: bool  # it says update_state(state='SUCCESS') before it returns
    adds: int


class Schedule(Protocol):
    """One random schedule of one chord, applied once or twice."""

    def __init__(self, seed: int) -> None:
        rnd = random.Random(seed)
        super().__init__(rnd)
        self.p_crash, self.p_lost = rnd.choice([(0, 0), (.003, .1), (.02, .2), (0, .3)])
        self.p_twice, self.p_stall = rnd.choice([(0, 0), (.15, 0), (.3, .004)])
        self.threads = rnd.choice([1, 1, 4])
        self.by_claim_check = rnd.random() < .3
        self.parts = rnd.randrange(1, 31)
        self.lazy, self.single_leaf = rnd.random() < .5, rnd.random() < .15
        p_fails, p_special = rnd.choice([0, 0, 0, .05]), rnd.choice([0, .1, .5])
        self.tasks = {f'task-{index}': Task(
            rnd.choice([.5, 1]) * (rnd.random() < p_fails), rnd.random() < p_special,
            rnd.random() < p_special, rnd.choice([0, 0, 1, 2]) * (rnd.random() < p_special))
            for index in range(self.parts)}
        self.indexes = list(range(self.parts))
        if self.lazy and not self.single_leaf and rnd.random() < .2:
            self.indexes = list(self.odd_indexes())
        self.lifetime = rnd.choice([math.inf, math.inf, 10**6, 10**6, rnd.randrange(50, 1000)])
        self.table_deleted_at = rnd.randrange(20, 800) if rnd.random() < .1 else math.inf
        self.table_deleted = False
        # overlapping runs need bodies with distinct ids: one says nothing of the other
        self.overlap = rnd.random() < .3
        self.runs_left = rnd.choice([1, 1, 2])
        self.worker_reads_state = not self.overlap and rnd.random() < .5  # as in Celery from 5.7 on
        self.timestamp = 0
        self.unsent: list[Message] = []
        self.sending: Steps | None = None
        self.landing: list[tuple[str, Item]] = []
        self.queue: list[Message] = []
        self.late: list[Message] = []
        self.processes: list[Process] = []
        self.runs: list[Run] = []
        self.bodies: list[Run] = []
        self.ends: dict[str, list[Any]] = {}
        self.returned: dict[str, set[Any]] = {}
        self.disturbed: set[str] = set()
        self.ran_as: dict[str, int] = {}  # the timestamp of what the body of a run stored
        self.bad: list[str] = []
        if rnd.random() < .5:  # the body takes the place of a task that said STARTED
            for run in range(2):
                self.db[f'body-{run}'] = {'timestamp': self.next_timestamp(), 'state': 'STARTED'}

    def odd_indexes(self) -> Iterator[int]:
        """Of a generator with empty chains, which leave gaps, and groups, which start at 0."""
        yield 0
        place, left = 0, self.parts - 1
        while left:
            place += 1
            size = min(left, self.rnd.choice([0, 1, 1, 1, self.rnd.randrange(10)]))
            yield from [place] if size == 1 else range(size)
            left -= size

    def next_timestamp(self) -> int:
        self.timestamp += 1
        return self.timestamp

    # --- the sender, the tasks, the body ---------------------------------------------------------

    def task(self, name: str) -> Task:
        """An added task behaves as the one that added it."""
        return self.tasks[name.partition('+')[0]]

    def forget(self) -> None:
        """What a client does between two runs."""
        for task in self.tasks if self.rnd.random() < .5 else ():
            if task in self.db:
                self.forgotten[task] = self.db.pop(task)

    def apply(self) -> None:
        self.runs_left -= 1
        run = Run(f'run-{len(self.runs)}', self.now + self.lifetime, self.lazy, self.single_leaf,
                  None if self.lazy else self.parts)
        opened = {run.id: {
            'ttl': run.deadline + CLOSED_TTL, 'size': run.size, 'lazy': run.lazy}}
        if not run.lazy:
            for level in range(9):
                for number in range(1 if run.single_leaf else width(self.parts, level + 1)):
                    opened[run.node_id(level, number)] = {'ttl': run.deadline}
                if run.single_leaf or width(self.parts, level + 1) == 1:
                    break
        for id, item in opened.items():
            self.insert(id, item)
            if self.rnd.random() < self.p_lost:  # and repeated; the lost request lands later
                self.landing.append((id, item))
        self.runs.append(run)
        self.ends[run.id] = []
        self.returned[run.id] = set()
        for number, (index, task) in enumerate(zip(self.indexes, self.tasks)):
                # set_chord_size comes before the last one is sent, which so knows the size
            last = number == self.parts - 1
            known = dataclasses.replace(run, size=self.parts) if last else run
            place = index % 2 if self.single_leaf else index
            self.unsent.append(Message(known, Member(place, False, task)))

    def send(self) -> None:
        """One step of the sender."""
        if self.sending is None:
            self.sending = self.sends(self.unsent[0])
        if next(self.sending, 'sent') == 'sent':
            self.sending = None
            self.unsent.pop(0)

    def sends(self, message: Message) -> Steps:
        run = message.run
        if run.lazy and run.size is not None:
            state = yield from self.request(self.set, run.id, size=run.size)
            if state and state.get('single_leaf') and not run.single_leaf:
                yield from self.gather(run, run.size)
        self.queue.append(message)
        if self.rnd.random() < self.p_twice:
            self.rnd.choice([self.queue, self.late]).append(message)

    def deliver(self, process: Process, delivery: Delivery) -> Steps:
        """Runs a task, stores its result and counts it."""
        (run, member), timestamp = delivery.message, self.next_timestamp()
        task = self.task(member.task)
        added = []
        for number in range(task.adds if member.task.count('+') < 2 else 0):
            added.append(Member(member.place, True, f'{member.task}+{timestamp}.{number}'))
            yield
            self.queue.append(Message(run, added[-1]))
            yield
        if task.early:
            yield from self.request(self.store, member.task, {
                'state': 'SUCCESS', 'value': 'progress', 'timestamp': self.next_timestamp(),
                'chord': delivery.message})
        failed = self.rnd.random() < task.fails
        value = (run.id, member.task, 'failed' if failed else timestamp)
        self.returned[run.id].add(value)
        item = {'state': 'FAILURE' if failed else 'SUCCESS', 'value': value, 'timestamp': timestamp,
                'chord': delivery.message}
        copied = task.ignored or not (yield from self.request(self.store, member.task, item))
        if copied:
            if not task.ignored:
                yield from self.request(self.point, member.task, delivery.message)
            yield from self.request(self.store, run.copy_id(member), dict(item, ttl=run.deadline))
        delivery.stored = True
        set_name = 'failed' if failed else 'copied' if copied else 'members'
        adds = frozenset((member, child) for child in added)
        yield from self.part_returns(process, delivery, Entry(member, set_name, adds, run.size))

    def body_id(self, run: Run) -> str:
        return f'body-{self.runs.index(run) if self.overlap else 0}'

    def body_timestamps(self, run: Run) -> frozenset[int]:
        item = self.db.get(self.body_id(self.same(run)))
        return frozenset([item['timestamp']] if item else [])

    def same(self, run: Run) -> Run:
        return next(each for each in self.runs if each.id == run.id)

    def end(self, run: Run, outcome: Any, timestamps: frozenset[int]) -> None:
        run = self.same(run)
        if self.ran_as.get(run.id) in timestamps and not self.table_deleted:
            self.bad.append('BAD: published again, although its body had said that it runs')
        self.ends[run.id].append(outcome)
        if outcome == 'by claim check':
            self.bodies.append(run)
        else:
            self.ran(run)

    def ran(self, run: Run) -> None:
        self.ran_as[run.id] = self.next_timestamp()
        self.db[self.body_id(run)] = {'timestamp': self.ran_as[run.id], 'state': 'SUCCESS'}

    def run_body(self, run: Run) -> None:
        """A body by claim check finds its values."""
        stored = self.db.get(f'{run.id}.parts')
        outcome: Any = 'gone'
        if stored:
            items = self.of_this_run(run, stored['where'], self.read(stored['where']))
            if len(items) == len(stored['where']):
                outcome = [items[id]['value'] for id in stored['where']]
        self.ends[run.id][self.ends[run.id].index('by claim check')] = outcome
        self.ran(run)

    # --- what happens ----------------------------------------------------------------------------

    def play(self) -> str:
        self.apply()
        for _ in range(300_000):
            self.now += 1
            self.happen()
            if not (self.unsent or self.queue or self.processes or self.bodies):
                if self.late:
                    self.queue.append(self.late.pop())
                elif self.runs_left:
                    self.forget()
                    self.apply()
                else:
                    break
        else:
            return 'BAD: never ended'
        for run in self.runs:
            self.judge(run)
        if self.bad:
            return self.bad[0]
        kinds = {self.kind(end) for ends in self.ends.values() for end in ends}
        return 'good: ' + ', '.join(sorted(kinds)) + (' (again after a crash)' if any(
            len(ends) > 1 for ends in self.ends.values()) else '')

    def happen(self) -> None:
        """One step of one delivery, or of the world around them."""
        rnd, dice = self.rnd, self.rnd.random()
        for process in self.processes:
            for delivery in process.running if process.stalled_until <= self.now else ():
                if delivery.joining and self.now % (LEASE // 3) == 0 and self.renew(
                        delivery.message.run, delivery.owner):
                    delivery.confirmed = self.now
        if self.now >= self.table_deleted_at and not self.table_deleted:
            self.table_deleted = True
            self.db.clear()
        if dice < .02:
            expired = [id for id, item in self.db.items() if item.get('ttl', math.inf) <= self.now]
            if expired:
                del self.db[rnd.choice(expired)]
            if self.overlap and self.runs_left and rnd.random() < .3:
                self.apply()
            if self.landing and not self.table_deleted:
                self.insert(*self.landing.pop(rnd.randrange(len(self.landing))))
        elif self.bodies and dice < .05:
            self.run_body(self.bodies.pop(0))
        elif self.unsent and dice < .25:
            self.send()
        elif self.queue and dice < .5:
            self.start(self.queue.pop(rnd.randrange(len(self.queue))))
        elif awake := [process for process in self.processes if process.stalled_until <= self.now]:
            self.advance(rnd.choice(awake))

    def start(self, message: Message) -> None:
        free = [process for process in self.processes if len(process.running) < self.threads]
        process = self.rnd.choice(free) if free and self.threads > 1 else Process()
        delivery = Delivery(message, (message.member, self.next_timestamp()))
        delivery.steps = self.deliver(process, delivery)
        process.running.append(delivery)
        if process not in self.processes:
            self.processes.append(process)

    def advance(self, process: Process) -> None:
        rnd, delivery = self.rnd, self.rnd.choice(process.running)
        crash = rnd.random()
        if crash < self.p_crash * (1 + 5 * delivery.joining):
            alone = self.threads > 1 and crash < self.p_crash / 2
            lost = [delivery] if alone else process.running[:]
            self.disturb(lost)
            if lost == process.running:
                self.processes.remove(process)
                process.batches.clear()
            else:
                process.running.remove(delivery)
                try:
                    delivery.steps.throw(Interrupted)
                except (Interrupted, StopIteration):
                    pass
            for each in lost:
                if not self.is_acknowledged(each):
                    self.queue.append(each.message)
            return
        if crash > 1 - self.p_stall * (1 + 8 * delivery.joining):
            process.stalled_until = self.now + rnd.randrange(3 * LEASE)
            self.disturb(process.running)
            return
        try:
            next(delivery.steps)
        except StopIteration:
            process.running.remove(delivery)
            if not process.running:
                self.processes.remove(process)

    def disturb(self, deliveries: list[Delivery]) -> None:
        self.disturbed.update(each.message.run.id for each in deliveries if each.publishing)

    def is_acknowledged(self, delivery: Delivery) -> bool:
        """Whether the worker takes a part as done that its pool process left behind."""
        task = delivery.message.member.task
        if not self.worker_reads_state or self.threads > 1 or self.task(task).ignored:
            return False
        # two cases without a remedy: a success of an earlier run stands there, and this one has
        # stored nothing yet; or the table is gone, and all evidence with it
        if not delivery.stored or self.table_deleted:
            return False
        return self.db[task]['state'] == 'SUCCESS' and self.is_done(task)

    # --- whether it was right --------------------------------------------------------------------

    @staticmethod
    def kind(end: Any) -> str:
        return 'body' if isinstance(end, list) else end

    def judge(self, run: Run) -> None:
        ends, returned = self.ends[run.id], self.returned[run.id]
        if not ends:
            self.bad.append('BAD: neither body nor error')
        if len(ends) > 1 and run.id not in self.disturbed and not self.table_deleted:
            self.bad.append('BAD: ended twice')
        late = self.now >= run.deadline
        allowed = {
            'failed': any(value[2] == 'failed' for value in returned),
            'gone': self.table_deleted or late, 'deadline': late}
        for end in ends:
            if not isinstance(end, list):
                if not allowed.get(end):
                    self.bad.append(f'BAD: error without a reason: {end}')
            elif not all(value in returned and value[2] != 'failed' for value in end):
                self.bad.append('BAD: values that the parts of this run did not return')
            elif not self.is_complete([value[1] for value in end]):
                self.bad.append('BAD: not the parts of the chord')

    def is_complete(self, tasks: list[str]) -> bool:
        """Whether each task of the header is there once, with all that one delivery of it added."""
        by_adder: dict[str, Counter[str]] = {}
        for task in tasks:
            adder, plus, delivery = task.rpartition('+')
            by_adder.setdefault(adder, Counter())[delivery.partition('.')[0] if plus else task] += 1
        header = by_adder.pop('', Counter())
        if self.indexes == list(range(self.parts)) and not self.single_leaf and [
                task for task in tasks if '+' not in task] != list(self.tasks):
            return False

        def adds(task: str) -> int:
            return self.task(task).adds if task.count('+') < 2 else 0
        return header == Counter(list(self.tasks)) and all(
            list(by_adder.get(task, Counter()).values()) == ([adds(task)] if adds(task) else [])
            for task in tasks)


def outcomes(
        seeds: Iterable[int], make: Callable[[int], Schedule] = Schedule,
) -> Iterator[tuple[int, str]]:
    """Plays schedules; yields how each ended.  The good ones start with 'good'."""
    for seed in seeds:
        try:
            yield seed, make(seed).play()
        except (KeyError, TypeError, AttributeError) as exc:
            yield seed, f'BAD: {type(exc).__name__}: {exc}'


def main(schedules: int = 5000, first_seed: int = 0) -> int:
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for seed, outcome in outcomes(range(first_seed, first_seed + schedules)):
        counts[outcome] += 1
        first.setdefault(outcome, seed)
    for outcome, count in counts.most_common():
        print(f'{count:7}  {outcome}  (first: seed {first[outcome]})')
    return int(any(not outcome.startswith('good') for outcome in counts))


if __name__ == '__main__':
    sys.exit(main(*map(int, sys.argv[1:])))
