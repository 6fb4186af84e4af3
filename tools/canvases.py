"""Random canvases, run on this backend and on Celery's Redis backend, which must agree.

    make canvases                               # 300 of them
    make canvases ARGS="--seeds 1000 --first 5000"
    make canvases ARGS="--seed 42"              # shows that canvas and both outcomes
    make canvases ARGS="--seed 42 --shrink"     # the smallest canvas that still shows it
    make canvases ARGS="--canvas 'chord([fail(), work().lazy], work())'"
    make canvases ARGS="--peer redis"           # Redis against itself: is the comparison sound?

A seed gives a canvas of nested groups, chains and chords, with lazy headers, tasks that fail, are
retried, replaced or add to their chord, ignored results, errbacks, and the like (NODES and MARKS).
It runs twice, with a client and a worker each that share everything but the result backend.
Compared are what get() returns or raises or whether it would wait for ever, the states and values
of all results that the client can reach, and the tasks and errbacks that ran, with their arguments.

An outcome that differs is a difference only if some more attempts on Redis do not give it, too:
what Celery leaves to chance is no promise.  The exit code is 1 if there is a difference that
BY_DESIGN does not name.
"""
from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import json
import multiprocessing
import operator
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

import dynamodb_local  # noqa: E402
import redis_local  # noqa: E402

CONCURRENCY = 12    # canvases of each backend
THREADS = 100       # of a worker: on Redis, a join may wait in one, in some canvases for ever
TOO_LONG = 20.0     # seconds, for a canvas of a few tasks that do nothing
NEVER = 1.0         # seconds to wait for a result of a canvas whose tasks are all done
ATTEMPTS = 4        # on Redis, which may give another outcome
ID = re.compile('[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


# --- canvases -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Node:
    """A signature.  The last part of a chord is its body; that of a task is what the task sends."""

    kind: str
    parts: tuple[Node, ...] = ()
    marks: tuple[str, ...] = ()
    label: str = ''

    def __str__(self) -> str:
        inner = [*map(str, self.parts)]
        if self.kind == 'chord':
            inner = [f'[{", ".join(inner[:-1])}]', inner[-1]]
        if not self.is_composite:
            inner[:0] = [self.label]
        return ''.join([self.kind, f'({", ".join(inner)})', *(f'.{mark}' for mark in self.marks)])

    @property
    def is_composite(self) -> bool:
        return self.kind in ('chain', 'group', 'chord')

    def nodes(self) -> Iterator[Node]:
        yield self
        for part in self.parts:
            yield from part.nodes()

    def has(self, *names: str) -> bool:
        return any({node.kind, *node.marks} & {*names} for node in self.nodes())


#: kinds of tasks, with their weights: a flaky one is retried, a tired one more often than allowed
NODES = {'work': 40, 'fail': 6, 'flaky': 6, 'tired': 3, 'replaced': 12, 'adder': 8, 'fade': 3,
         'early': 3}
#: what else a signature can be, with its probability, and for which kinds
MARKS: dict[str, tuple[float, Callable[[Node], bool]]] = {
    'immutable': (.20, lambda node: not node.is_composite),
    'ignored': (.08, lambda node: not node.is_composite),           # ignore_result
    'link': (.10, lambda node: True),
    'errback': (.20, lambda node: True),
    'errtask': (.10, lambda node: True),
    'lazy': (.50, lambda node: node.kind in ('group', 'chord')),    # of a generator
    'piped': (.40, lambda node: node.kind == 'chain' and len(node.parts) > 1),  # a | b
    'many': (.04, lambda node: node.kind == 'work'),        # 45 of it in its group or header
    'twice': (.06, lambda node: not node.is_composite),     # in its group or header, with one id
}


def numbered(node: Node) -> Node:
    """The same, with a distinct label for each task."""
    numbers = iter(range(10**6))

    def number(node: Node) -> Node:
        label = str(next(numbers))
        return replace(node, label=label, parts=tuple(map(number, node.parts)))
    return number(node)


def random_canvas(seed: int) -> Node:
    chance = random.Random(seed)
    left = chance.choice((3, 6, 12, 20))
    # of many tasks one would nearly always fail, and its failure hide what became of the rest
    kinds = {kind: NODES[kind] for kind in NODES if kind == 'work' or chance.random() < .5}
    marks = [mark for mark in MARKS if chance.random() < .5]

    def marked(node: Node) -> Node:
        return replace(node, marks=tuple(
            mark for mark in marks if MARKS[mark][1](node) and chance.random() < MARKS[mark][0]))

    def task(depth: int) -> Node:
        nonlocal left
        left -= 1
        kind, = chance.choices([*kinds], [*kinds.values()])
        parts: tuple[Node, ...] = ()
        if kind == 'replaced':
            parts = canvas(depth - 1),
        elif kind == 'adder':
            parts = task(0) if chance.random() < .8 else Node('chain', several(0, 2)),
        return marked(Node(kind, parts))

    def several(depth: int, most: int) -> tuple[Node, ...]:
        return tuple(part(depth) for _ in range(chance.randint(1, most)))

    def part(depth: int) -> Node:
        if chance.random() < .05:
            return Node(chance.choice(('chain', 'group')))  # empty
        return canvas(depth)

    def canvas(depth: int, among: tuple[str, ...] = ('task', 'chain', 'group', 'chord')) -> Node:
        kind, = chance.choices(among, (5, 2, 2, 3)[-len(among):])
        if depth <= 0 or left <= 0 or kind == 'task':
            return task(depth)
        parts = several(depth - 1, 3 if kind == 'chain' else 4)
        if kind == 'chord':
            parts = (*parts, canvas(depth - 1))
        return marked(Node(kind, parts))

    found = canvas(3, ('chain', 'group', 'chord'))
    if found.kind == 'chord' and chance.random() < .15:
        found = replace(found, marks=(*found.marks, 'again'))   # frozen, and applied two times
    return numbered(found)


def parsed(text: str) -> Node:
    """The canvas that is shown like this; it gets new labels."""
    def node(tree: Any) -> Node:
        if isinstance(tree, ast.Attribute):
            marked = node(tree.value)
            return replace(marked, marks=(*marked.marks, tree.attr))
        parts = [part for arg in tree.args for part in getattr(arg, 'elts', [arg])]
        return Node(tree.func.id, tuple(node(part) for part in parts if hasattr(part, 'func')
                                        or isinstance(part, ast.Attribute)))
    return numbered(node(ast.parse(text, mode='eval').body))


def smaller(node: Node) -> Iterator[Node]:
    """Canvases that lack one thing."""
    yield from node.parts
    if node.kind not in ('work', 'fail') and not node.is_composite:
        yield Node('work', (), node.marks)
    for number in range(len(node.marks)):
        yield replace(node, marks=node.marks[:number] + node.marks[number + 1:])
    for number, part in enumerate(node.parts):
        before, after = node.parts[:number], node.parts[number + 1:]
        if node.is_composite and not (node.kind == 'chord' and not after):
            yield replace(node, parts=before + after)
        for less in smaller(part):
            yield replace(node, parts=(*before, less, *after))


# --- a client and its worker, in one process -----------------------------------------------------

class Outcome(NamedTuple):
    got: list[Any]      # for each application: what get() did, and what can be reached from there
    events: list[Any]


def built(node: Node) -> Any:
    from celery import chain, chord, group

    import canvas_tasks as tasks

    def label(suffix: str) -> str:
        return f'{node.label}{suffix}'

    def members(parts: tuple[Node, ...]) -> Any:
        sigs = []
        for part in parts:
            sig = built(part)
            if 'twice' in part.marks:
                sig.freeze()
            copies = 45 if 'many' in part.marks else 2 if {'twice', 'double'} & {*part.marks} else 1
            sigs += [sig] * copies
        return (sig for sig in sigs) if 'lazy' in node.marks else sigs

    if node.kind == 'chain':
        sigs = [built(part) for part in node.parts]
        sig = functools.reduce(operator.or_, sigs) if 'piped' in node.marks else chain(*sigs)
    elif node.kind == 'group':
        sig = group(members(node.parts))
    elif node.kind == 'chord':
        sig = chord(members(node.parts[:-1]), built(node.parts[-1]))
    else:
        kwargs: dict[str, Any] = {'label': node.label}
        if node.parts:
            kwargs['sig'] = built(node.parts[0])
        name = node.kind
        if name in ('flaky', 'tired'):
            kwargs['failures'] = 1 if name == 'flaky' else 9
            name = 'flaky'
        sig = getattr(tasks, name).signature((), kwargs, immutable='immutable' in node.marks)
    if 'ignored' in node.marks:
        sig.set(ignore_result=True)
    if 'link' in node.marks:
        sig.link(tasks.work.s(label=label('l')))
    if 'errback' in node.marks:
        sig.link_error(tasks.errback.s(label=label('e')))
    if 'errtask' in node.marks:
        sig.link_error(tasks.errtask.s(label=label('t')))
    return sig


def error(exc: BaseException) -> dict[str, str]:
    return {'error': type(exc).__name__, 'says': str(exc)}


def reached(result: Any) -> Any:
    """The states and values of a result, of those in it, and of those before it."""
    if result is None:
        return None
    if hasattr(result, 'results'):
        found: Any = {'group': [reached(each) for each in result.results]}
    else:
        value = result.result
        found = {result.state: error(value) if isinstance(value, BaseException) else value}
    return {**found, 'after': reached(result.parent)} if result.parent else found


def outcome(node: Node) -> Outcome:
    from celery.exceptions import TimeoutError

    import canvas_tasks as tasks

    got: list[Any] = []
    canvas = uuid.uuid4().hex
    try:
        sig: Any = None
        for application in range(1, 3 if {'again', 'anew'} & {*node.marks} else 2):
            run = f'{canvas}/{application}'
            tasks.begin(run)
            try:
                if sig is None or 'anew' in node.marks:
                    sig = built(node)
                    if 'again' in node.marks:
                        sig.freeze()
                result = sig.apply_async()
            finally:
                tasks.end(run)
                over = tasks.is_over(run, TOO_LONG)
            if not over:
                got.append(['stuck', None])
                continue
            if not hasattr(result, 'get'):
                got.append(['nothing', repr(result)])
                continue
            try:
                # Celery forgets the timeout of the results of groups in a group
                if hasattr(result, 'results') and not result.ready():
                    raise TimeoutError
                how: Any = {'value': result.get(timeout=NEVER)}
            except TimeoutError:
                how = 'hang'
            except Exception as exc:
                how = error(exc)
            got.append([how, reached(result)])
    except Exception as exc:
        got.append([f'refused with {type(exc).__name__}', None])
    return Outcome(got, tasks.events(f'{canvas}/1') + tasks.events(f'{canvas}/2'))


def serve(pipe: Any, environ: dict[str, str], log: Path) -> None:
    """Runs the canvases that come, some concurrently, and sends the outcome of each."""
    os.environ.update(environ)
    os.environ['PYTHONPATH'] = os.pathsep.join([str(TOOLS), str(TOOLS.parent)])
    import warnings
    warnings.simplefilter('ignore')     # Celery's, of what link_error() will do one day
    with log.open('w') as file:
        worker = subprocess.Popen(
            [sys.executable, '-m', 'celery', '-A', 'canvas_tasks', 'worker', '--pool', 'threads',
             '--concurrency', str(THREADS), '--without-gossip', '--without-mingle',
             '--without-heartbeat', '-l', 'WARNING'], stdout=file, stderr=subprocess.STDOUT)
    import canvas_tasks as tasks
    tasks.app.set_default()     # for all threads: an empty chain or group has no app
    tasks.begin('start/1')
    tasks.work.delay(label='start')
    tasks.end('start/1')
    lock = threading.Lock()

    def run(number: int, node: Node) -> None:
        try:
            came: Any = outcome(node)
        except Exception as exc:
            came = Outcome([[f'lost with {type(exc).__name__}', None]], [])
        with lock:
            pipe.send((number, came))

    pool = ThreadPoolExecutor(CONCURRENCY)
    try:
        if tasks.is_over('start/1', 120):
            while (work := pipe.recv()) is not None:
                pool.submit(run, *work)
    except (EOFError, KeyboardInterrupt):
        pass    # the parent is gone, or about to go
    finally:
        worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(5)
        worker.kill()
        os._exit(0)     # whatever still runs in a thread


class Peer:
    """One backend: its client and worker."""

    def __init__(self, name: str, backend: str, broker: str, folder: Path) -> None:
        self.name = name
        self.pipe, there = multiprocessing.Pipe()
        environ = {'BROKER': broker, 'RESULT_BACKEND': backend, 'AWS_ACCESS_KEY_ID': 'local',
                   'AWS_SECRET_ACCESS_KEY': 'local', 'AWS_EC2_METADATA_DISABLED': 'true'}
        self.process = multiprocessing.get_context('spawn').Process(
            target=serve, args=(there, environ, folder / f'{name}.log'))
        self.process.start()
        there.close()

    def send(self, nodes: list[Node]) -> None:
        for work in enumerate(nodes):
            self.pipe.send(work)

    def receive(self, nodes: list[Node]) -> list[Outcome]:
        try:
            came = dict(self.pipe.recv() for _ in nodes)
        except EOFError:
            sys.exit(f'canvases: the worker or client of {self.name} ended; --logs keeps its log')
        return [came[number] for number in range(len(nodes))]

    def outcomes(self, nodes: list[Node]) -> list[Outcome]:
        self.send(nodes)
        return self.receive(nodes)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(20)
        self.process.kill()


# --- what is compared -----------------------------------------------------------------------------

def comparable(node: Node, came: Outcome) -> dict[str, str]:
    """The aspects of an outcome, each in a form that is the same for outcomes that agree."""
    tired = {each.label for each in node.nodes() if each.kind == 'tired'}
    failed = {event[1] for event in came.events if event[0] in ('fail', 'fade')} | tired
    # a task that is added has the index of the adder, those of a group in a lazy header start at 0
    unordered = node.has('adder') or any(
        part.has('group') for each in node.nodes() if 'lazy' in each.marks for part in each.parts)

    def simple(found: Any) -> Any:
        """Without ids, and without which of some failures was the first."""
        if isinstance(found, dict):
            hidden = {'says'} if len(failed) > 1 else {}
            return {key: simple(value) for key, value in found.items() if key not in hidden}
        if isinstance(found, list):
            items = [simple(item) for item in found]
            return sorted(items, key=json.dumps) if unordered else items
        return ID.sub('ID', found) if isinstance(found, str) else found

    def text(found: Any) -> str:
        return json.dumps(simple(found), sort_keys=True)
    return {
        'get': ' then '.join(text(how) for how, _ in came.got),
        'results': ' then '.join(text(reached) for _, reached in came.got),
        'events': '\n'.join(sorted(map(text, came.events))),
    }


class Pair(NamedTuple):
    """A canvas, and what came of it."""

    node: Node
    redis: Outcome
    ours: Outcome


def in_all(pair: Pair, meant: Outcome) -> bool:
    return comparable(pair.node, pair.ours) == comparable(pair.node, meant)


def in_all_but_get(pair: Pair, meant: Outcome) -> bool:
    ours, redis = comparable(pair.node, pair.ours), comparable(pair.node, meant)
    return all(ours[aspect] == redis[aspect] for aspect in ('results', 'events'))


def alike(found: Any) -> Any:
    """In any order, without ids, and without which of some failures was reported."""
    if isinstance(found, dict):
        return {key: alike(each) for key, each in found.items() if key not in ('says', 'error')}
    if isinstance(found, list):
        return sorted(map(alike, found), key=json.dumps)
    return ID.sub('ID', found) if isinstance(found, str) else found


def is_told(ours: Any, redis: Any) -> bool:
    """Whether what can be reached is the same, but that some of what is PENDING on Redis failed."""
    if isinstance(ours, dict) and isinstance(redis, dict):
        if 'PENDING' in redis and 'FAILURE' in ours:
            redis = {'FAILURE' if key == 'PENDING' else key: each for key, each in redis.items()}
        return ours.keys() == redis.keys() and all(
            key == 'FAILURE' or is_told(ours[key], redis[key]) for key in ours)
    if isinstance(ours, list) and isinstance(redis, list) and len(ours) == len(redis):
        return alike(ours) == alike(redis) or all(map(is_told, ours, redis))
    return bool(alike(ours) == alike(redis))


def surplus(node: Node, more: Outcome, less: Outcome) -> Counter[str]:
    """The events that one has more than another."""
    lines = [comparable(node, came)['events'].split('\n') for came in (more, less)]
    return Counter(lines[0]) - Counter(lines[1])


def only_errbacks(events: Counter[str]) -> bool:
    # the parts of an event can be sorted, too
    return all({'errback', 'errtask'} & {*map(str, json.loads(event))} for event in events)


def may_hang(node: Node, redis: Outcome) -> bool:
    """Whether something can fail, and something stays PENDING on Redis."""
    return node.has('fail', 'tired', 'fade') and (
        'PENDING' in json.dumps(redis.got) or 'hang' in ends(redis))


def end_alike(ours: Outcome, meant: Outcome) -> bool:
    """Whether all can be reached alike, but that some of what is PENDING on Redis failed."""
    for (how, found), (meant_how, meant_found) in zip(ours.got, meant.got):
        failed = 'error' in how and (meant_how == 'hang' or 'error' in meant_how)
        if not (failed or alike(how) == alike(meant_how)) or not is_told(found, meant_found):
            return False
    return len(ours.got) == len(meant.got)


def but_errbacks_are_called(pair: Pair, meant: Outcome) -> bool:
    """The same tasks ran, and errbacks of chords that do not end on Redis.

    Redis calls for each inner chord what is called here once, for the outer one.
    """
    more, fewer = surplus(pair.node, pair.ours, meant), surplus(pair.node, meant, pair.ours)
    if not may_hang(pair.node, meant):
        return not more and not fewer
    called = comparable(pair.node, pair.ours)['events'].split('\n')
    once = all(called.count(event) == 1 for event in fewer)
    return only_errbacks(more + fewer) and once


def but_it_ends(pair: Pair, meant: Outcome) -> bool:
    return but_errbacks_are_called(pair, meant) and end_alike(pair.ours, meant)


def in_events_alone(pair: Pair, meant: Outcome) -> bool:
    """All but the events is as on Redis."""
    return but_errbacks_are_called(pair, meant) and end_alike(pair.ours, pair.redis)


class Design(NamedTuple):
    """A difference that is meant: here comes out what Redis makes of a canvas that is like it."""

    reason: str
    holds: Callable[[Node, Outcome], bool]      # with Redis's outcome
    like: tuple[Callable[[Node], Node], ...]    # one of these
    agrees: Callable[[Pair, Outcome], bool] = in_all    # with what Redis makes of that


def doubled(node: Node, here: bool = True) -> Node:
    """With two tasks in place of one that is twice in a group or header."""
    marks = tuple('double' if here and mark == 'twice' else mark for mark in node.marks)
    return replace(node, marks=marks, parts=tuple(doubled(part, here) for part in node.parts))


def doubled_in_headers(node: Node, here: bool = False) -> Node:
    """The same, but in plain groups, of whose equal results get() gives one and None."""
    inside = [node.kind == 'chord' or (here and node.is_composite) for _ in node.parts]
    if node.kind == 'chord':
        inside[-1] = False
    parts = tuple(map(doubled_in_headers, node.parts, inside))
    return replace(node, marks=doubled(replace(node, parts=()), here).marks, parts=parts)


def bare(node: Node) -> Node:
    return replace(node, label='', marks=())


def stored(node: Node) -> Node:
    """With no result ignored."""
    marks = tuple(mark for mark in node.marks if mark != 'ignored')
    return replace(node, marks=marks, parts=tuple(map(stored, node.parts)))


def itself(node: Node) -> Node:
    return node


def applied_anew(node: Node) -> Node:
    """Built again for its second application."""
    return replace(node, marks=tuple('anew' if mark == 'again' else mark for mark in node.marks))


def is_nested(node: Node) -> bool:
    """Whether the header of some chord has groups in it, or what ends in one."""
    def ends_in_group(part: Node) -> bool:
        return part.kind == 'group' or (
            part.kind in ('chain', 'chord') and bool(part.parts) and ends_in_group(part.parts[-1]))
    return any(ends_in_group(part) for each in node.nodes() if each.kind == 'chord'
               for part in each.parts[:-1])


def branched(node: Node) -> Node:
    """With a chain for each task of a chord's group, where a chord follows that in a chain."""
    parts = [*map(branched, node.parts)]
    for number in reversed(range(len(parts) - 1)):
        one, rest = parts[number], parts[number + 1:]
        if (node.kind == 'chain' and one.kind == 'chord' and one.parts[-1].kind == 'group'
                and rest[0].kind == 'chord'):
            each = one.parts[-1]
            body = replace(each, parts=tuple(
                Node('chain', (task, *rest)) for task in each.parts))
            parts[number:] = [replace(one, parts=(*one.parts[:-1], body))]
    return replace(node, parts=tuple(parts))


def timely(node: Node) -> Node:
    """With no task that stores a success before it returns."""
    kind = 'timely' if node.kind == 'early' else node.kind
    return replace(node, kind=kind, parts=tuple(map(timely, node.parts)))


ENDS = Design('on Redis, a chord does not end if what fails, or its body, is more than one task',
              may_hang, (itself,), but_it_ends)

#: in the order in which they come together
BY_DESIGN = [
    ENDS,
    Design('Redis keeps the equal results of a task that is in a header twice as one, and waits',
           lambda node, redis: node.has('twice'), (doubled, doubled_in_headers)),
    Design('on Redis, a chord that Celery applies twice at the same time mixes their parts',
           lambda node, redis: branched(node) != node, (branched,), but_errbacks_are_called),
    Design('in a header with groups, Redis gives None for an ignored result, or waits for ever',
           lambda node, redis: node.has('ignored'), (stored,), but_errbacks_are_called),
    Design('in a header with groups, Redis gives what a task stored before it returned',
           lambda node, redis: node.has('early') and is_nested(node),
           (timely,), but_errbacks_are_called),
    Design('on Redis, a header with groups that is applied again gives the first values again',
           lambda node, redis: 'again' in node.marks and is_nested(node),
           (applied_anew,), in_events_alone),
    Design('on Redis, get() waits for ever for an empty group in a group',
           lambda node, redis: Node('group') in map(bare, node.nodes()) and 'hang' in ends(redis),
           (itself,), in_all_but_get),
    ENDS,
]


def both(nodes: list[Node], redis: Peer, ours: Peer) -> list[Pair]:
    ours.send(nodes)
    return [*map(Pair, nodes, redis.outcomes(nodes), ours.receive(nodes))]


def by_design(pair: Pair, peer: Peer, designs: Sequence[Design] = ()) -> str:
    """Why the outcomes differ, if that is meant.

    If a like canvas differs too, the designs that follow may explain it.
    """
    designs = designs or BY_DESIGN
    for number, design in enumerate(designs):
        if not design.holds(pair.node, pair.redis):
            continue
        likes = [like(pair.node) for like in design.like]
        for like, came in zip(likes, peer.outcomes(likes)):
            if design.agrees(pair, came):
                return design.reason
            rest = designs[number + 1:]
            more = rest and by_design(Pair(like, came, pair.ours), peer, rest)
            if more:
                return f'{design.reason}; {more}'
    return ''


def verdict(pair: Pair, peer: Peer) -> tuple[str, str]:
    """How the outcomes compare, and how they end or differ."""
    node, redis, ours = pair
    expected, found = comparable(node, redis), comparable(node, ours)
    if expected == found:
        return 'equal', ends(redis)
    reason = by_design(pair, peer)
    if not reason:
        others = peer.outcomes([node] * ATTEMPTS)
        if any(comparable(node, other) == found for other in others):
            return 'left to chance by Redis', ends(redis)
        pairs = [Pair(node, other, ours) for other in others if comparable(node, other) != expected]
        reason = next(filter(None, (by_design(each, peer) for each in pairs)), '')
    if reason:
        return 'by design', reason
    differ = ', '.join(aspect for aspect in found if expected[aspect] != found[aspect])
    return 'different', f'{differ}: {ends(redis)} on Redis, {ends(ours)} here'


def ends(came: Outcome) -> str:
    """How each application of a canvas ended, in a word."""
    return ' then '.join(how if isinstance(how, str) else next(iter(how)) for how, _ in came.got)


def show(pair: Pair) -> None:
    print(f'  {pair.node}')
    for name, came in (('redis', pair.redis), ('ours', pair.ours)):
        for how, found in came.got:
            print(f'  {name:8} get     {json.dumps(how)}\n{"":11}results {json.dumps(found)}')
        counted = sorted(Counter(map(json.dumps, came.events)).items())
        print(f'{"":11}events ', *(f'{count} x {text}' for text, count in counted))


def shrunk(pair: Pair, what: str, redis: Peer, ours: Peer) -> Pair:
    """The smallest canvas that is found to differ in the same way."""
    candidates = [numbered(less) for less in smaller(pair.node)]
    for start in range(0, len(candidates), CONCURRENCY):
        for less in both(candidates[start:start + CONCURRENCY], redis, ours):
            if verdict(less, redis) == ('different', what):
                return shrunk(less, what, redis, ours)
    return pair


@contextlib.contextmanager
def peers(name: str, folder: Path) -> Iterator[tuple[Peer, Peer]]:
    """Redis, and what is compared with it."""
    with contextlib.ExitStack() as stack:
        server = f'redis://127.0.0.1:{stack.enter_context(redis_local.redis_server(folder))}'

        def peer(name: str, backend: str, broker: int) -> Peer:
            peer = Peer(name, backend, f'{server}/{broker}', folder)
            stack.callback(peer.stop)
            return peer
        if name == 'redis':
            backend = f'{server}/3'
        else:
            engine = stack.enter_context(dynamodb_local.engine())
            print(f'canvases: {engine.description}', file=sys.stderr, flush=True)
            place = engine.endpoint.partition('//')[2]
            table = f'canvases-{uuid.uuid4().hex}'
            backend = f'dyna_veggie.DynamoDBBackend+dynamodb://{place}/{table}'
        both_peers = peer('redis', f'{server}/2', 0), peer('ours', backend, 1)
        # a new engine is slow: a RETRY that is stored late replaces its outcome
        warm = parsed('chord([flaky(), work(), chain(work(), work())], work())')
        both([warm] * 4 * CONCURRENCY, *both_peers)
        yield both_peers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', type=int, default=300, help='how many')
    parser.add_argument('--first', type=int, default=0, help='the first of them')
    parser.add_argument('--seed', type=int, nargs='+', help='these alone; shows what came of them')
    parser.add_argument('--canvas', type=parsed, nargs='+', help='these, as they are shown')
    parser.add_argument('--shrink', action='store_true', help='looks for smaller ones that differ')
    parser.add_argument('--peer', choices=('dynamodb', 'redis'), default='dynamodb',
                        help='what to compare with Redis')
    parser.add_argument('--logs', type=Path, help="a folder for the workers' logs")
    given = parser.parse_args()
    if not redis_local.is_installed():
        sys.exit(f'canvases: {redis_local.INSTALL}')
    seeds = given.seed or range(given.first, given.first + given.seeds)
    nodes = given.canvas or [random_canvas(seed) for seed in seeds]
    names = ['as given'] * len(nodes) if given.canvas else [f'seed {seed}' for seed in seeds]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # and stops what was started
    began = time.monotonic()
    verdicts: Counter[tuple[str, str]] = Counter()
    with contextlib.ExitStack() as stack:
        folder = given.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        redis, ours = stack.enter_context(peers(given.peer, folder))
        for name, pair in zip(names, both(nodes, redis, ours)):
            result, what = verdict(pair, redis)
            verdicts[result, what] += 1
            if result == 'different' or given.seed or given.canvas:
                print(f'{name}: {result}: {what}')
                show(pair)
            if result == 'different' and given.shrink:
                print('  the smallest canvas that was found to differ in this way:')
                show(shrunk(pair, what, redis, ours))
            sys.stdout.flush()
    print(f'\n{len(nodes)} canvases in {time.monotonic() - began:.0f} s')
    for (result, what), count in sorted(verdicts.items()):
        print(f'{count:6}  {result}: {what}')
    return int(any(result == 'different' for result, _ in verdicts))


if __name__ == '__main__':
    sys.exit(main())
