"""A reverse proxy between clients and a DynamoDB: it meters their requests, and makes some fail.

    with Proxy(os.environ['DYNAMODB_ENDPOINT']) as proxy:
        client = session.create_client('dynamodb', endpoint_url=proxy.url, ...)
        proxy.faults = lambda operation, body: Throttle() if operation == 'PutItem' else None
        ...
        print(proxy.usage())
"""
from __future__ import annotations

import collections
import itertools
import json
import re
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
WRITES = frozenset({
    'PutItem', 'UpdateItem', 'DeleteItem', 'BatchWriteItem', 'TransactWriteItems',
    'BatchExecuteStatement'})   # all of whose statements are taken for INSERT

# --------------------------------------------------------------------------------------------------
# Faults: what `Proxy.faults` may return for a request
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Error:
    """This error is the response; the request is not forwarded."""
    code: str
    message: str = ''
    status: int = 400
    reasons: tuple[str, ...] = ()   # of throttling


@dataclass(frozen=True)
class Throttle(Error):
    code: str = field(default='ProvisionedThroughputExceededException', init=False)
    message: str = field(
        default='The level of configured provisioned throughput was exceeded', init=False)
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
    """The request is forwarded, then the connection is reset: applied, but the response is lost."""


@dataclass(frozen=True)
class Delay:
    """The request is forwarded after that many seconds."""
    seconds: float


@dataclass(frozen=True)
class Late:
    """The connection ends; the request is forwarded after that many seconds, when its client has
    given it up, and has repeated it perhaps."""
    seconds: float


@dataclass(frozen=True)
class Partial:
    """A part of a batch is forwarded; the rest comes back as UnprocessedKeys or UnprocessedItems.

    The rest of a batch of statements fails with this code.  ids: the rest; by default it is the
    second half.
    """
    code: str = 'ThrottlingError'
    ids: frozenset[str] | None = None

    def takes(self, entries: list[Any]) -> list[bool]:
        """Which entries of a batch are forwarded."""
        if self.ids is None:
            return [place < max(1, len(entries) // 2) for place in range(len(entries))]
        return [_item_of(entry)['id']['S'] not in self.ids for entry in entries]


Fault = Union[Error, ResetBefore, ResetAfter, Delay, Late, Partial]

# --------------------------------------------------------------------------------------------------
# Metering
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    operation: str
    table: str | None           # of a batch for several tables: the first
    body: dict[str, Any]        # as the client sent it
    status: int                 # 0: the engine got no request, or gave no response
    read_units: float
    write_units: float
    error: str | None           # the error's code, or an exception's name without a response
    fault: Fault | None
    began: float                # when it came, by time.monotonic
    ended: float                # just before its response was sent
    port: int                   # the client's end of the connection
    access_key: str             # that signed it

    @property
    def ids(self) -> list[str]:
        return ids_of(self.body)


@dataclass(frozen=True)
class Usage:
    requests: int
    read_units: float
    write_units: float
    by_operation: dict[str, int]


def inserted(statement: dict[str, Any]) -> dict[str, Any]:
    """The item of an INSERT."""
    return dict(zip(re.findall(r"'(\w+)': \?", statement['Statement']), statement['Parameters']))


def ids_of(body: dict[str, Any]) -> list[str]:
    """The keys of a request's items, in a table whose key is Celery's `id`."""
    entries = [entry for _, entry in _entries(body.get('RequestItems', {}))]
    items = map(_item_of, [*entries, *body.get('Statements', ())] or [body])
    return [item['id']['S'] for item in items if 'id' in item]


def _item_of(entry: dict[str, Any]) -> dict[str, Any]:
    """The item, or its key, that a request, or an entry of a batch, is about."""
    if 'Statement' in entry:
        return inserted(entry)
    for wrapper in ('PutRequest', 'DeleteRequest', 'Item', 'Key'):
        entry = entry.get(wrapper, entry)
    return entry


def _entries(request_items: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a batch asks for, as pairs of a table and a key to get or a write."""
    return [(table, entry)
            for table, asked in request_items.items()
            for entry in (asked if isinstance(asked, list) else asked['Keys'])]


def _request_items(entries: list[tuple[str, Any]], like: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `_entries`; ConsistentRead and the like are taken from the batch `like`."""
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
    if body.get('Statements'):
        return str(body['Statements'][0]['Statement'].split('"')[1])
    return body.get('TableName')


def _units(operation: str, body: dict[str, Any], response: dict[str, Any]) -> float:
    """The capacity units that a request with a response used, as AWS would count them.

    That is what the engine reports, if it can be relied on.  DynamoDB Local reports nothing for
    the keys that a batch did not find, moto knows neither sizes nor consistency, and neither
    reports anything for a failed condition.  That costs what the write would have cost: by the
    larger of the new item and the old one (which is known if the client asked for it).
    """
    consumed = response.get('ConsumedCapacity') or []
    if not isinstance(consumed, list):
        consumed = [consumed]
    reported = sum(each['CapacityUnits'] for each in consumed)
    if operation == 'GetItem':
        found = [response['Item']] if 'Item' in response else []
        return _read_units({'': {**body, 'Keys': [body['Key']]}}, {'': found}, {}, reported)
    if operation == 'BatchGetItem':
        unprocessed = response.get('UnprocessedKeys', {})
        return _read_units(body['RequestItems'], response['Responses'], unprocessed, reported)
    if operation == 'BatchWriteItem':
        left = _entries(response.get('UnprocessedItems', {}))
        puts = [write.get('PutRequest', {}).get('Item', {})
                for table, write in _entries(body['RequestItems']) if (table, write) not in left]
        return max(reported, sum(blocks_of(item, 1024) for item in puts))
    if operation == 'BatchExecuteStatement':
        items = [inserted(statement) for statement in body['Statements']]
        inserts = [item for item, said in zip(items, response.get('Responses', ()))
                   if said.get('Error', {}).get('Code', 'DuplicateItem') == 'DuplicateItem']
        return max(reported, sum(blocks_of(item, 1024) for item in inserts))
    if operation in ('PutItem', 'UpdateItem', 'DeleteItem'):
        new, old = body.get('Item', {}), response.get('Item', {})
        return max(reported, blocks_of(new, 1024), blocks_of(old, 1024))
    return reported


def _read_units(asked: dict[str, Any], found: dict[str, Any], unprocessed: dict[str, Any],
                reported: float) -> float:
    units = 0.0
    for table, reads in asked.items():
        items = found.get(table, [])
        left = unprocessed.get(table, {}).get('Keys', [])
        missing = len(reads['Keys']) - len(left) - len(items)
        blocks = sum(blocks_of(item, 4096) for item in items) + missing
        units += blocks if reads.get('ConsistentRead') else blocks / 2
    # only the engine knows the size of an item of which it returns a part
    if any('ProjectionExpression' in reads for reads in asked.values()):
        return max(units, reported)
    return units


def blocks_of(item: dict[str, Any], size: int) -> int:
    """How many blocks of that size an item takes, at least one."""
    bytes_ = sum(len(name.encode()) + _size(value) for name, value in item.items())
    return max(1, -(-bytes_ // size))


def _error_code(response: dict[str, Any]) -> str | None:
    return response['__type'].rpartition('#')[2] if '__type' in response else None


def _size(attribute: dict[str, Any]) -> int:
    """An attribute value's size as DynamoDB counts it."""
    (kind, value), = attribute.items()
    if kind == 'S':
        return len(value.encode())
    if kind == 'B' and isinstance(value, str):     # on the wire; botocore's is in bytes
        return len(value) * 3 // 4 - value.count('=')
    if kind == 'B':
        return len(value)
    if kind == 'N':
        return (len(value.strip('-0.')) + 1) // 2 + 1
    if kind in ('SS', 'BS', 'NS'):
        return sum(_size({kind[0]: member}) for member in value)
    if kind == 'L':
        return 3 + sum(1 + _size(member) for member in value)
    if kind == 'M':
        return 3 + sum(1 + len(name.encode()) + _size(member) for name, member in value.items())
    return 1


# --------------------------------------------------------------------------------------------------
# The proxy
# --------------------------------------------------------------------------------------------------


class Proxy:
    """All its attributes may be read and set at any time, from any thread."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        #: called with the operation and the body of each request, one call at a time
        self.faults: Callable[[str, dict[str, Any]], Fault | None] | None = None
        #: seconds added to each request
        self.latency = 0.0
        #: an outage: connections are accepted and reset
        self.down = False
        #: in the order of their responses, each noted before its client sees the response
        self.requests: list[Request] = []
        self._closing = threading.Event()
        self._fault_lock = threading.Lock()

    def __enter__(self) -> Proxy:
        self._server = _Server(self)
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True)
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
        """Forgets the requests so far."""
        self.requests = []

    def _fault(self, operation: str, body: dict[str, Any]) -> Fault | None:
        with self._fault_lock:
            return self.faults(operation, body) if self.faults else None


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # with the default of 5, some of many concurrent connects would wait a second
    request_queue_size = 128

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.connections: dict[threading.Thread, socket.socket] = {}
        super().__init__(('127.0.0.1', 0), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if self.proxy.down:
            _reset_when_closed(request)
        return not self.proxy.down

    def process_request(self, request: Any, client_address: Any) -> None:
        # socketserver keeps no list of daemon threads
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True)
        self.connections[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self.connections[threading.current_thread()]

    def shutdown_request(self, request: Any) -> None:
        # socketserver would call shutdown(SHUT_WR) first, and the client would see no reset
        self.close_request(request)

    def server_close(self) -> None:
        super().server_close()
        deadline = time.monotonic() + 5
        for thread, connection in list(self.connections.items()):
            try:
                # wakes a thread that waits for its next request
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass    # it is closed already
            thread.join(max(0, deadline - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        # clients may leave when they like
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _reset_when_closed(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))


@dataclass(frozen=True)
class _Response:
    status: int
    headers: list[tuple[str, str]]
    payload: bytes

    @classmethod
    def of(cls, status: int, response: dict[str, Any]) -> _Response:
        payload = json.dumps(response).encode()
        return cls(status, [
            ('Content-Type', 'application/x-amz-json-1.0'),
            ('x-amzn-RequestId', uuid.uuid4().hex),
            ('x-amz-crc32', str(zlib.crc32(payload))),
        ], payload)


# DynamoDB Local takes no table's ARN in place of its name
_ARN = re.compile(rb'"(arn:aws[a-z-]*:dynamodb:[a-z0-9-]+:\d{12}:table/([A-Za-z0-9_.-]+))"')

# The body may be changed, the connection is another one, and the response must not be compressed.
_NOT_FORWARDED = frozenset({
    'accept-encoding', 'connection', 'content-length', 'host', 'keep-alive', 'transfer-encoding',
})


class _Handler(BaseHTTPRequestHandler):
    """One client's connection, paired with one to the engine."""
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
        if isinstance(fault, Late):
            self.connection.shutdown(socket.SHUT_RDWR)
        seconds = fault.seconds if isinstance(fault, (Delay, Late)) else 0
        if proxy._closing.wait(proxy.latency + seconds):
            return self._reset()

        response, said, error = None, {}, None
        try:
            response = self._respond(fault, operation, body, payload)
        except (OSError, HTTPException) as exc:
            self.upstream.close()
            error = type(exc).__name__
        if response and (operation in READS | WRITES or response.status != 200):
            said = _json_object(response.payload)
            error = _error_code(said)
        units = 0.0
        if response and (response.status == 200 or error == 'ConditionalCheckFailedException'):
            units = _units(operation, body, said)
        credential = self.headers.get('Authorization', '').partition('Credential=')[2]
        proxy.requests.append(Request(
            operation=operation,
            table=_table_of(body),
            body=body,
            status=response.status if response else 0,
            read_units=units if operation in READS else 0,
            write_units=units if operation in WRITES else 0,
            error=error,
            fault=fault,
            began=began,
            ended=time.monotonic(),
            port=self.client_address[1],
            access_key=credential.partition('/')[0],
        ))
        if response is None or isinstance(fault, (ResetAfter, Late)):
            self._reset()
        else:
            self._send(response)

    def _respond(self, fault: Fault | None, operation: str, body: dict[str, Any],
                payload: bytes) -> _Response | None:
        if isinstance(fault, ResetBefore):
            return None
        if isinstance(fault, Error):
            type_ = f'com.amazonaws.dynamodb.v20120810#{fault.code}'
            response: dict[str, Any] = {'__type': type_, 'message': fault.message}
            if fault.reasons:
                arn = f'arn:aws:dynamodb:us-east-1:000000000000:table/{_table_of(body)}'
                # as in botocore's model of the service
                member = 't' if fault.code == 'ThrottlingException' else 'T'
                response[f'{member}hrottlingReasons'] = [
                    {'reason': reason, 'resource': arn} for reason in fault.reasons]
            return _Response.of(fault.status, response)
        if isinstance(fault, Partial) and 'RequestItems' in body:
            return self._forward_some(operation, body, fault)
        if isinstance(fault, Partial) and 'Statements' in body:
            return self._forward_statements(operation, body, fault)
        return self._forward(operation, body, payload)

    def _forward(self, operation: str, body: dict[str, Any], payload: bytes) -> _Response:
        metered = body.get('ReturnConsumedCapacity') in ('TOTAL', 'INDEXES')
        if operation in READS | WRITES and not metered:
            payload = json.dumps({**body, 'ReturnConsumedCapacity': 'TOTAL'}).encode()
        named = _ARN.search(payload)
        payload = _ARN.sub(rb'"\2"', payload)
        headers = {name: value for name, value in self.headers.items()
                   if name.lower() not in _NOT_FORWARDED}
        # checked first: a failed request may have been applied, so it cannot be sent again
        if self.upstream.sock and _is_stale(self.upstream.sock):
            self.upstream.close()
        self.upstream.request('POST', self.path, payload, headers)
        raw = self.upstream.getresponse()
        response = _Response(raw.status, raw.getheaders(), raw.read())
        if named and 'RequestItems' in body:
            by_arn = response.payload.replace(b'"%s":' % named[2], b'"%s":' % named[1])
            response = _Response.of(response.status, json.loads(by_arn))
        return response

    def _forward_some(self, operation: str, body: dict[str, Any], fault: Partial) -> _Response:
        items = body['RequestItems']
        entries = _entries(items)
        taken = fault.takes([entry for _, entry in entries])
        asked = list(itertools.compress(entries, taken))
        sent = {**body, 'RequestItems': _request_items(asked, like=items)}
        response = self._forward(operation, sent, json.dumps(sent).encode())
        if response.status != 200:
            return response
        said = json.loads(response.payload)
        unprocessed = 'UnprocessedKeys' if operation == 'BatchGetItem' else 'UnprocessedItems'
        rest = _entries(said.get(unprocessed, {}))
        rest += [entry for entry, is_taken in zip(entries, taken) if not is_taken]
        return _Response.of(200, {**said, unprocessed: _request_items(rest, like=items)})

    def _forward_statements(
            self, operation: str, body: dict[str, Any], fault: Partial) -> _Response:
        taken = fault.takes(body['Statements'])
        sent = {**body, 'Statements': list(itertools.compress(body['Statements'], taken))}
        said: dict[str, Any] = {'Responses': []}
        if sent['Statements']:
            response = self._forward(operation, sent, json.dumps(sent).encode())
            if response.status != 200:
                return response
            said = json.loads(response.payload)
        responses = iter(said['Responses'])
        error = {'Error': {'Code': fault.code, 'Message': ''}}
        said['Responses'] = [next(responses) if is_taken else error for is_taken in taken]
        return _Response.of(200, said)

    def _send(self, response: _Response) -> None:
        head = [f'HTTP/1.1 {response.status} {self.responses.get(response.status, ("",))[0]}']
        head += [f'{name}: {value}' for name, value in response.headers
                 if name.lower() not in _NOT_FORWARDED]
        head += [f'Content-Length: {len(response.payload)}', '', '']
        self.wfile.write('\r\n'.join(head).encode('latin-1') + response.payload)

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
    """Whether the other side closed an idle connection, or sent something unasked."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
