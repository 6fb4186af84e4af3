"""A reverse proxy between DynamoDB's clients and a DynamoDB: it meters what they cost, and makes requests fail.

    with Proxy(os.environ['DYNAMODB_ENDPOINT']) as proxy:
        client = session.create_client('dynamodb', endpoint_url=proxy.url, ...)
        proxy.faults = lambda operation, body: Throttle() if operation == 'PutItem' else None
        ...
        print(proxy.usage())
"""
from __future__ import annotations

import collections
import json
import socket
import socketserver
import struct
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from typing import Any, Union
from urllib.parse import urlsplit

READS = frozenset({'GetItem', 'BatchGetItem', 'Query', 'Scan', 'TransactGetItems'})
WRITES = frozenset({'PutItem', 'UpdateItem', 'DeleteItem', 'BatchWriteItem', 'TransactWriteItems'})

# ---------------------------------------------------------------------------------------------------------------------
# Faults: what `Proxy.faults` can return for a request
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Error:
    """The request is not forwarded and answered with this error."""
    code: str
    message: str = ''
    status: int = 400


@dataclass(frozen=True)
class Throttle(Error):
    code: str = field(default='ProvisionedThroughputExceededException', init=False)
    message: str = field(default='The level of configured provisioned throughput was exceeded', init=False)
    status: int = field(default=400, init=False)


@dataclass(frozen=True)
class ServerError(Error):
    code: str = field(default='InternalServerError', init=False)
    message: str = field(default='The request could not be processed', init=False)
    status: int = 500


@dataclass(frozen=True)
class ResetBefore:
    """The connection is reset before the request is forwarded: nothing happened."""


@dataclass(frozen=True)
class ResetAfter:
    """The request is forwarded, then the connection is reset: it was applied, but the answer is lost."""


@dataclass(frozen=True)
class Delay:
    """The request is forwarded after that many seconds."""
    seconds: float


@dataclass(frozen=True)
class Partial:
    """Half of a batch is forwarded; the rest comes back as UnprocessedKeys or UnprocessedItems."""


Fault = Union[Error, ResetBefore, ResetAfter, Delay, Partial]

# ---------------------------------------------------------------------------------------------------------------------
# Metering
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    operation: str
    table: str | None           # the first one's name, where a batch has several
    body: dict[str, Any]        # as the client sent it
    status: int                 # 0: the engine was not asked, or did not answer
    read_units: float
    write_units: float
    error: str | None           # an error's code, or the exception's name where the engine did not answer
    fault: Fault | None
    began: float                # of time.monotonic: when it came
    ended: float                # when its answer was about to be sent
    port: int                   # of the client's end of the connection
    access_key: str             # whose signature it has

    @property
    def ids(self) -> list[str]:
        """The keys of the items it is about, in a table whose key is Celery's `id`."""
        entries = [entry for _, entry in _entries(self.body.get('RequestItems', {}))] or [self.body]
        for wrapper in ('PutRequest', 'DeleteRequest', 'Item', 'Key'):
            entries = [entry.get(wrapper, entry) for entry in entries]
        return [entry['id']['S'] for entry in entries if 'id' in entry]


@dataclass(frozen=True)
class Usage:
    requests: int
    read_units: float
    write_units: float
    by_operation: dict[str, int]


def _entries(request_items: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a batch asks for, as pairs of a table and a key to get or a write."""
    return [(table, entry)
            for table, asked in request_items.items()
            for entry in (asked if isinstance(asked, list) else asked['Keys'])]


def _request_items(entries: list[tuple[str, Any]], like: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `_entries`; ConsistentRead and the like are those of the batch `like`."""
    items: dict[str, Any] = {}
    for table, entry in entries:
        if isinstance(like[table], list):
            items.setdefault(table, []).append(entry)
        else:
            items.setdefault(table, {**like[table], 'Keys': []})['Keys'].append(entry)
    return items


def _table_of(body: dict[str, Any]) -> str | None:
    if 'RequestItems' in body:
        return next(iter(body['RequestItems']), None)
    if body.get('TransactItems'):
        return next(iter(body['TransactItems'][0].values())).get('TableName')
    return body.get('TableName')


def _units(operation: str, body: dict[str, Any], answer: dict[str, Any]) -> float:
    """The capacity units that an answered request used, as AWS would count them.

    That is what the engine reports, where it can be relied on.  DynamoDB Local reports nothing for the keys that a
    batch did not find, moto knows neither sizes nor consistency, and neither reports anything for a failed condition,
    which costs as the write would have: by the larger of the new item and the old one (known if the client asked).
    """
    consumed = answer.get('ConsumedCapacity') or []
    reported = sum(each['CapacityUnits'] for each in (consumed if isinstance(consumed, list) else [consumed]))
    if operation == 'GetItem':
        found = [answer['Item']] if 'Item' in answer else []
        return _read_units({'': {**body, 'Keys': [body['Key']]}}, {'': found}, {}, reported)
    if operation == 'BatchGetItem':
        return _read_units(body['RequestItems'], answer['Responses'], answer.get('UnprocessedKeys', {}), reported)
    if operation == 'BatchWriteItem':
        unprocessed = _entries(answer.get('UnprocessedItems', {}))
        done = [entry for table, entry in _entries(body['RequestItems']) if (table, entry) not in unprocessed]
        return max(reported, sum(_blocks(entry.get('PutRequest', {}).get('Item', {}), 1024) for entry in done))
    if operation in ('PutItem', 'UpdateItem', 'DeleteItem'):
        return max(reported, _blocks(body.get('Item', {}), 1024), _blocks(answer.get('Item', {}), 1024))
    return reported


def _read_units(asked: dict[str, Any], found: dict[str, Any], unprocessed: dict[str, Any], reported: float) -> float:
    units = 0.0
    for table, reads in asked.items():
        items = found.get(table, [])
        missing = len(reads['Keys']) - len(unprocessed.get(table, {'Keys': []})['Keys']) - len(items)
        blocks = sum(_blocks(item, 4096) for item in items) + missing
        units += blocks if reads.get('ConsistentRead') else blocks / 2
    # the size of an item that comes in part is known to the engine only
    return max(units, reported) if any('ProjectionExpression' in reads for reads in asked.values()) else units


def _blocks(item: dict[str, Any], size: int) -> int:
    return max(1, -(-sum(len(name.encode()) + _size(value) for name, value in item.items()) // size))


def _error_code(answer: dict[str, Any]) -> str | None:
    return answer['__type'].rpartition('#')[2] if '__type' in answer else None


def _size(attribute: dict[str, Any]) -> int:
    """An attribute value's size as DynamoDB counts it."""
    (kind, value), = attribute.items()
    if kind == 'S':
        return len(value.encode())
    if kind == 'B':
        return len(value) * 3 // 4 - value.count('=')
    if kind == 'N':
        return (len(value.strip('-0.')) + 1) // 2 + 1
    if kind in ('SS', 'BS', 'NS'):
        return sum(_size({kind[0]: member}) for member in value)
    if kind == 'L':
        return 3 + sum(1 + _size(member) for member in value)
    if kind == 'M':
        return 3 + sum(1 + len(name.encode()) + _size(member) for name, member in value.items())
    return 1


# ---------------------------------------------------------------------------------------------------------------------
# The proxy
# ---------------------------------------------------------------------------------------------------------------------


class Proxy:
    """Everything may be read and set at any time, from any thread."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        #: called with each request's operation and body, one call at a time
        self.faults: Callable[[str, dict[str, Any]], Fault | None] | None = None
        #: seconds added to each request
        self.latency = 0.0
        #: an outage: connections are accepted and reset at once
        self.down = False
        #: in the order in which they were answered; a request is here before its client sees the answer
        self.requests: list[Request] = []
        self._closing = threading.Event()
        self._fault_lock = threading.Lock()

    def __enter__(self) -> Proxy:
        self._server = _Server(self)
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def usage(self) -> Usage:
        requests = list(self.requests)
        return Usage(
            requests=len(requests),
            read_units=sum(request.read_units for request in requests),
            write_units=sum(request.write_units for request in requests),
            by_operation=dict(collections.Counter(request.operation for request in requests)),
        )

    def reset(self) -> None:
        """Forget the requests so far."""
        self.requests = []

    def _fault(self, operation: str, body: dict[str, Any]) -> Fault | None:
        with self._fault_lock:
            return self.faults(operation, body) if self.faults else None


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128    # of 5, some of many clients that connect at once would wait a second

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.connections: dict[threading.Thread, socket.socket] = {}
        super().__init__(('127.0.0.1', 0), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if self.proxy.down:
            _reset_when_closed(request)
        return not self.proxy.down

    def process_request(self, request: Any, client_address: Any) -> None:
        # socketserver knows its threads only where they are no daemons
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self.connections[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self.connections[threading.current_thread()]

    def shutdown_request(self, request: Any) -> None:
        # without socketserver's shutdown(SHUT_WR), whose FIN the client would see in place of a reset
        self.close_request(request)

    def server_close(self) -> None:
        super().server_close()
        deadline = time.monotonic() + 5
        for thread, connection in list(self.connections.items()):
            try:
                connection.shutdown(socket.SHUT_RDWR)   # wakes a thread that waits for its next request
            except OSError:
                pass    # closed in the meantime
            thread.join(max(0, deadline - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):   # clients may leave when they like
            super().handle_error(request, client_address)


def _reset_when_closed(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    payload: bytes

    @classmethod
    def of(cls, status: int, answer: dict[str, Any]) -> _Answer:
        payload = json.dumps(answer).encode()
        return cls(status, [
            ('Content-Type', 'application/x-amz-json-1.0'),
            ('x-amzn-RequestId', uuid.uuid4().hex),
            ('x-amz-crc32', str(zlib.crc32(payload))),
        ], payload)


# The body may be changed or the connection another one, and the answer must be readable: not compressed.
_NOT_FORWARDED = frozenset({
    'accept-encoding', 'connection', 'content-length', 'host', 'keep-alive', 'transfer-encoding',
})


class _Handler(BaseHTTPRequestHandler):
    """One client's connection, with a connection to the engine of its own."""
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True      # a delayed acknowledgement would add 40 ms
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.upstream = HTTPConnection(urlsplit(self.server.proxy.endpoint_url).netloc)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def do_POST(self) -> None:
        proxy = self.server.proxy
        length = int(self.headers.get('Content-Length', 0))
        payload = self.rfile.read(length)
        if proxy.down:
            return self._reset()
        if len(payload) < length:
            return      # the client is gone
        began = time.monotonic()
        operation = self.headers.get('X-Amz-Target', '').rpartition('.')[2]
        body = json.loads(payload) if operation else {}
        fault = proxy._fault(operation, body)
        if proxy._closing.wait(proxy.latency + (fault.seconds if isinstance(fault, Delay) else 0)):
            return self._reset()

        answer, said, error = None, {}, None
        try:
            answer = self._answer(fault, operation, body, payload)
        except (OSError, HTTPException) as exc:
            self.upstream.close()
            error = type(exc).__name__
        if answer and (operation in READS | WRITES or answer.status != 200):
            said = _json_object(answer.payload)
            error = _error_code(said)
        units = 0.0
        if answer and (answer.status == 200 or error == 'ConditionalCheckFailedException'):
            units = _units(operation, body, said)
        proxy.requests.append(Request(
            operation, _table_of(body), body, answer.status if answer else 0,
            units if operation in READS else 0, units if operation in WRITES else 0, error, fault, began, time.monotonic(),
            self.client_address[1], self.headers.get('Authorization', '').partition('Credential=')[2].partition('/')[0],
        ))
        if answer is None or isinstance(fault, ResetAfter):
            self._reset()
        else:
            self._send(answer)

    def _answer(self, fault: Fault | None, operation: str, body: dict[str, Any], payload: bytes) -> _Answer | None:
        if isinstance(fault, ResetBefore):
            return None
        if isinstance(fault, Error):
            type_ = f'com.amazonaws.dynamodb.v20120810#{fault.code}'
            return _Answer.of(fault.status, {'__type': type_, 'message': fault.message})
        if isinstance(fault, Partial) and 'RequestItems' in body:
            return self._forward_half(operation, body)
        return self._forward(operation, body, payload)

    def _forward(self, operation: str, body: dict[str, Any], payload: bytes) -> _Answer:
        if operation in READS | WRITES and body.get('ReturnConsumedCapacity') not in ('TOTAL', 'INDEXES'):
            payload = json.dumps({**body, 'ReturnConsumedCapacity': 'TOTAL'}).encode()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_FORWARDED}
        # Found out before, since a request that failed may have been applied and cannot just be sent again.
        if self.upstream.sock and _is_stale(self.upstream.sock):
            self.upstream.close()
        self.upstream.request('POST', self.path, payload, headers)
        response = self.upstream.getresponse()
        return _Answer(response.status, response.getheaders(), response.read())

    def _forward_half(self, operation: str, body: dict[str, Any]) -> _Answer:
        items = body['RequestItems']
        entries = _entries(items)
        half = max(1, len(entries) // 2)
        sent = {**body, 'RequestItems': _request_items(entries[:half], like=items)}
        answer = self._forward(operation, sent, json.dumps(sent).encode())
        if answer.status != 200:
            return answer
        said = json.loads(answer.payload)
        unprocessed = 'UnprocessedKeys' if operation == 'BatchGetItem' else 'UnprocessedItems'
        rest = _entries(said.get(unprocessed, {})) + entries[half:]
        return _Answer.of(200, {**said, unprocessed: _request_items(rest, like=items)})

    def _send(self, answer: _Answer) -> None:
        head = [f'HTTP/1.1 {answer.status} {self.responses.get(answer.status, ("",))[0]}']
        head += [f'{name}: {value}' for name, value in answer.headers if name.lower() not in _NOT_FORWARDED]
        head += [f'Content-Length: {len(answer.payload)}', '', '']
        self.wfile.write('\r\n'.join(head).encode('latin-1') + answer.payload)

    def _reset(self) -> None:
        _reset_when_closed(self.connection)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _json_object(payload: bytes) -> dict[str, Any]:
    try:
        said = json.loads(payload)
    except ValueError:
        return {}   # an engine's error page
    return said if isinstance(said, dict) else {}


def _is_stale(connection: socket.socket) -> bool:
    """Whether an idle connection was closed by the other side (or has something to say, which nobody asked for)."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
