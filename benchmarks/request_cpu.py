"""Where the CPU of a request goes: of one store and of one count, by module and by function.

    python benchmarks/request_cpu.py [parts]     # 3,000 if no number is given

DYNAMODB_ENDPOINT overrides the engine.  CPU is that of this process, of which one thread works.
Then the options of botocore that could save some: stores whose responses one of botocore's events
gives, so that no engine and no network disturbs them, in turns with and without each option.
"""
from __future__ import annotations

import io
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from botocore import UNSIGNED  # noqa: E402
from botocore.awsrequest import AWSResponse  # noqa: E402
from botocore.config import Config  # noqa: E402
from celery import Celery, chord  # noqa: E402
from celery.app.task import Context  # noqa: E402

import dyna_veggie  # noqa: E402
import dynamodb_local  # noqa: E402

BLOCK = 50      # requests between two looks at the clock
SHOWN = 20      # lines of each table
STORE, COUNT = 'a store', 'a count'
#: the candidates, as arguments of botocore's Config; in brackets those that are not for use
OPTIONS: dict[str, dict[str, Any]] = {
    'request compression off': {'disable_request_compression': True},
    "no endpoint of the account's own": {'account_id_endpoint_mode': 'disabled'},
    'checksums only when required': {
        'request_checksum_calculation': 'when_required',
        'response_checksum_validation': 'when_required'},
    'endpoint discovery off': {'endpoint_discovery_enabled': False},
    'no host prefixes': {'inject_host_prefix': False},
    'retries of the legacy mode': {'retries': {'total_max_attempts': 1, 'mode': 'legacy'}},
    'all of these': {
        'disable_request_compression': True, 'account_id_endpoint_mode': 'disabled',
        'request_checksum_calculation': 'when_required',
        'response_checksum_validation': 'when_required', 'endpoint_discovery_enabled': False,
        'inject_host_prefix': False, 'retries': {'total_max_attempts': 1, 'mode': 'legacy'}},
    "(botocore's own user agent)": {'user_agent': None},
    '(parameters validated)': {'parameter_validation': True},
    '(not signed at all, to compare)': {'signature_version': UNSIGNED},
}


# --- a store and a count --------------------------------------------------------------------------

def part(number: int) -> int:
    return number


def total(numbers: list[int]) -> int:
    return sum(numbers)


def sent_parts(app: Celery, number: int) -> Iterator[Context]:
    """Applies a chord, and takes its messages from the broker, as a worker would."""
    chord([app.tasks['part'].s(each) for each in range(number)])(app.tasks['total'].s())
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue('celery')
        for _ in range(number):
            message = queue.get_nowait()
            message.ack()
            yield Context({**message.headers, **message.payload[2]})
        queue.close()


def measure(app: Celery, number: int, around: Callable[[str], Any]) -> None:
    """Has the parts of a chord return, but for the last, which would join it."""
    backend = app.backend
    requests = list(sent_parts(app, number))[:-1]
    for start in range(0, len(requests), BLOCK):
        block = requests[start:start + BLOCK]
        # in turns: a count follows the store of the same part
        for request in block:
            with around(STORE):
                backend.store_result(request.id, request.group_index, 'SUCCESS', request=request)
            with around(COUNT):
                backend.on_chord_part_return(request, 'SUCCESS', request.group_index)


class Clock:
    """Of CPU."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {STORE: [], COUNT: []}

    def __call__(self, what: str) -> Clock:
        self.what = what
        return self

    def __enter__(self) -> None:
        self.began = time.process_time()

    def __exit__(self, *exc_info: object) -> None:
        self.spent[self.what].append(time.process_time() - self.began)


class Samples:
    """Where the program is each time that some milliseconds of CPU were spent, the kernel's too.

    Unlike cProfile, it makes nothing slower than it is.  What C functions take is their callers'.
    """

    def __init__(self) -> None:
        self.what: str | None = None
        self.taken: dict[str, list[list[str]]] = {STORE: [], COUNT: []}
        signal.signal(signal.SIGPROF, self.take)

    def take(self, number: int, frame: FrameType | None) -> None:
        stack = []
        while frame:
            stack.append(f'{frame.f_globals.get("__name__")}.{frame.f_code.co_name}')
            frame = frame.f_back
        if self.what:
            self.taken[self.what].append(stack)

    def __call__(self, what: str) -> Samples:
        self.next = what
        return self

    def __enter__(self) -> None:
        self.what = self.next

    def __exit__(self, *exc_info: object) -> None:
        self.what = None


def report(what: str, spent: list[float], stacks: list[list[str]]) -> None:
    print(f'\n{what}: {statistics.median(spent) * 1000:.3f} ms of CPU; {len(stacks)} samples')
    for title, counted in (
            ('by module', Counter(stack[0].rpartition('.')[0] for stack in stacks)),
            ('by function', Counter(stack[0] for stack in stacks)),
            ('by function, with all that it calls',
             Counter(function for stack in stacks for function in set(stack)))):
        print(f'\n  {title}')
        for name, number in counted.most_common(2 * SHOWN if 'calls' in title else SHOWN):
            print(f'  {number / len(stacks):6.1%}  {name}')


# --- the options of botocore ----------------------------------------------------------------------

class Answer(io.BytesIO):
    def stream(self, **kwargs: Any) -> Iterator[bytes]:
        yield self.read()


def answer(request: Any, **kwargs: Any) -> AWSResponse:
    headers = {'Content-Type': 'application/x-amz-json-1.0', 'x-amzn-RequestId': '0' * 52}
    return AWSResponse(request.url, 200, headers, Answer(b'{}'))


def backend_with(changes: dict[str, Any], table_name: str) -> Any:
    """A backend at an endpoint of AWS, to which nothing is sent."""
    url = f'dynamodb://eu-west-1/{table_name}'
    app = Celery('options', backend=f'dyna_veggie.DynamoDBBackend+{url}')
    backend: Any = app.backend
    table = backend.store.table

    def config(**given: Any) -> Config:
        return Config(**{**given, **changes})
    with patch('botocore.config.Config', config):
        table.client = dyna_veggie.Client(table.options)
        table.client.botocore.meta.events.register('before-send.dynamodb', answer)
    return backend


def store(backend: Any, number: int) -> float:
    """Seconds of CPU of one."""
    began = time.process_time()
    for each in range(number):
        backend.store_result(f'6d0c4c3e-9a5b-4f6f-8d4f-{each:012}', each, 'SUCCESS')
    return (time.process_time() - began) / number


def compare(rounds: int) -> None:
    os.environ.update(
        AWS_ACCESS_KEY_ID='AKIAIOSFODNN7EXAMPLE', AWS_SECRET_ACCESS_KEY='secret',
        AWS_ACCOUNT_ID='123456789012')
    names = {'as it is': {}, 'as it is, once more': {}, **OPTIONS}
    backends: dict[str, Any] = {}
    for name, changes in names.items():
        # backends of one table would share their client
        backends[name] = backend_with(changes, f'table-{len(backends)}')
        store(backends[name], BLOCK)
    spent: dict[str, list[float]] = {name: [] for name in names}
    order = list(names)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            spent[name].append(store(backends[name], BLOCK))
    base = spent['as it is']
    print(f'\na store without network and engine, at an endpoint of AWS: '
          f'{statistics.median(base) * 1000:.3f} ms of CPU\n\n  to this, in {rounds} rounds of '
          f'{BLOCK}: median of the pairs, and half of them lie between')
    for name in names:
        ratios = [ours / theirs for ours, theirs in zip(spent[name], base)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f'  {middle:6.3f}  ({low:.3f} to {high:.3f})  {name}')


# --- command --------------------------------------------------------------------------------------

def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    with dynamodb_local.engine() as engine:
        url = f'dynamodb://local/request-cpu?endpoint_url={quote(engine.endpoint, safe="")}'
        app = Celery('request-cpu', broker='memory://', set_as_current=False,
                     backend=f'dyna_veggie.DynamoDBBackend+{url}')
        app.task(name='part')(part)
        app.task(name='total')(total)
        print(f'{engine.description}; {number} parts of a chord')
        measure(app, 200, Clock())      # warms up
        clock = Clock()
        measure(app, number, clock)
        samples = Samples()
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        measure(app, number, samples)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for what, stacks in samples.taken.items():
            report(what, clock.spent[what], stacks)
    compare(rounds=max(20, number // 15))


if __name__ == '__main__':
    main()
