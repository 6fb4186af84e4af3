"""Notes a process's requests to DynamoDB and what they consume, by botocore's events.

Celery workers get it by `-I metering`, with the environment variable METER, a folder:

    start(Path('folder'), 'the client')     # in this process; a worker's says `worker`
    for request in requests(Path('folder')):
        ...

Each process appends a line of JSON per request to its own file.  Units are those that DynamoDB
reports (ReturnConsumedCapacity).  It reports none for a write whose condition failed: what that
consumes is computed.
"""
from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import botocore

from proxy import READS, WRITES, blocks_of, inserted


@dataclass(frozen=True)
class Metered:
    """One attempt of a request."""

    operation: str
    who: str            # sent it, or on what behalf
    began: float        # by time.monotonic, which all processes of a machine share
    seconds: float
    status: int         # 0: there was no response
    error: str          # its code, or the exception's name
    refused: int        # statements of a batch that failed
    read_units: float   # that DynamoDB reported
    write_units: float
    computed: int       # write units, where it reported none


@dataclass
class _Meter:
    folder: Path
    who: str

    def watch(self, session: Any) -> None:
        session.register('provide-client-params.dynamodb', self.ask)
        session.register('before-call.dynamodb', self.begin)
        session.register('after-call.dynamodb', self.end)
        session.register('after-call-error.dynamodb', self.fail)

    def ask(self, params: Any, model: Any, context: dict[str, Any], **kwargs: Any) -> Any:
        context['metering'] = params
        if 'ReturnConsumedCapacity' in model.input_shape.members:
            # a copy: the caller may send its own again
            return {**params, 'ReturnConsumedCapacity': 'TOTAL'}
        return None

    def begin(self, context: dict[str, Any], **kwargs: Any) -> None:
        context['metering began'] = time.monotonic()

    def end(self, parsed: Any, http_response: Any, model: Any, context: dict[str, Any],
            **kwargs: Any) -> None:
        error = parsed.get('Error', {}).get('Code', '')
        consumed = parsed.get('ConsumedCapacity') or []
        units = sum(each.get('CapacityUnits', 0)
                    for each in (consumed if isinstance(consumed, list) else [consumed]))
        refused = [each for each in parsed.get('Responses') or ()
                   if model.name == 'BatchExecuteStatement' and 'Error' in each]
        self._note(
            model.name, context, status=http_response.status_code, error=error,
            refused=len(refused), read_units=units if model.name in READS else 0,
            write_units=units if model.name in WRITES else 0,
            computed=0 if consumed else _computed(model.name, context['metering'], parsed, error))

    def fail(self, exception: Any, event_name: str, context: dict[str, Any], **kwargs: Any) -> None:
        self._note(event_name.rpartition('.')[2], context, error=type(exception).__name__)

    def _note(self, operation: str, context: dict[str, Any], *, status: int = 0, error: str = '',
              refused: int = 0, read_units: float = 0, write_units: float = 0,
              computed: int = 0) -> None:
        began = context['metering began']
        line = json.dumps(asdict(Metered(
            operation, self.who, began, time.monotonic() - began, status, error, refused,
            read_units, write_units, computed)))
        # opened each time: a fork needs no more than its pid, and a line is written in one call
        with open(self.folder / f'{os.getpid()}.jsonl', 'ab', buffering=0) as file:
            file.write(line.encode() + b'\n')


def _computed(operation: str, params: Any, parsed: Any, error: str) -> int:
    """The write units of a request whose response does not say what it consumed."""
    if error == 'ConditionalCheckFailedException':
        return max(blocks_of(params.get('Item', {}), 1024), blocks_of(parsed.get('Item', {}), 1024))
    if operation == 'BatchExecuteStatement' and not error:
        # an insert that finds an item costs as much
        items = [inserted(statement) for statement in params['Statements']]
        return sum(blocks_of(item, 1024) for item, said in zip(items, parsed.get('Responses') or ())
                   if said.get('Error', {}).get('Code', 'DuplicateItem') == 'DuplicateItem')
    return 0


def start(folder: Path, who: str) -> None:
    """Meters the clients of all sessions that this process, or one that it forks, opens."""
    botocore.register_initializer(_Meter(folder, who).watch)


def requests(folder: Path) -> Iterator[Metered]:
    """All requests so far, in no order."""
    for path in folder.glob('*.jsonl'):
        for line in path.read_text().splitlines():
            yield Metered(**json.loads(line))


if 'METER' in os.environ:
    start(Path(os.environ['METER']), os.environ.get('METERED', 'worker'))
