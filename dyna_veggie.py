"""Dyna-Veggie: a DynamoDB result backend for Celery.

    app = Celery('proj', backend='dynamodb://eu-west-1/celery')

One module, to install or to vendor.  It speaks raw DynamoDB JSON through botocore and needs nothing beyond
Celery and botocore.  It reads from top to bottom, and each section uses only what stands above it:

    options     what the URL, the transport options and Celery's settings say, parsed once
    attributes  Python values to DynamoDB attribute values and back; expressions
    backoff     when to try again, and for how long
    table       requests, batches, bootstrap; stored values of any size.  Knows nothing of Celery
    chord       the tree of counters that joins a chord
    waiting     when to look for results again
    backend     Celery's interface
    commands    celery -A proj dynamodb ..., or python -m dyna_veggie ...
"""
from __future__ import annotations

import base64
import dataclasses
import difflib
import functools
import importlib
import io
import itertools
import json
import logging
import math
import os
import random
import re
import sys
import threading
import time
import uuid
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import FrameType
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import botocore.session
import celery
import click
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url
from celery import chain, maybe_signature, states
from celery._state import get_current_task
from celery.app.utils import find_app
from celery.backends.asynchronous import AsyncBackendMixin, BaseResultConsumer
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import BackendGetMetaError, BackendStoreError, ChordError, ImproperlyConfigured, TimeoutError
from celery.result import AsyncResult, GroupResult, ResultBase, ResultSet, result_from_tuple
from celery.utils.functional import LRUCache
from celery.utils.log import get_logger
from kombu.exceptions import EncodeError
from kombu.utils.encoding import bytes_to_str, ensure_bytes
from vine import barrier, promise

__version__ = '1.0.0'
__all__ = ('DynamoDBBackend', 'Options', 'ResultTooLarge', 'parse_options')

logger = get_logger(__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------------------------------------------------------

def _text(raw: Any) -> str:
    if isinstance(raw, str) and raw.strip():
        return raw.strip()
    raise ValueError('a text that is not empty')


def _boolean(raw: Any) -> bool:
    words = {'true': True, 'yes': True, 'on': True, '1': True, 'false': False, 'no': False, 'off': False, '0': False}
    try:
        return words[str(raw).strip().lower()]
    except KeyError:
        raise ValueError('true or false') from None


def _number(expected: str, kind: Callable[[Any], Any], fits: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def parse(raw: Any) -> Any:
        try:
            if isinstance(raw, bool) or '_' in str(raw):  # Python would read 1_0 as 10
                raise ValueError
            value = kind(raw)
            if fits(value) and (not isinstance(raw, float) or raw == value):
                return value
        except (TypeError, ValueError, OverflowError):
            pass
        raise ValueError(expected)
    return parse


def _choice(**choices: str) -> Callable[[Any], str]:
    def parse(raw: Any) -> str:
        value = choices.get(str(raw).strip().lower())
        if value is None:
            raise ValueError(' or '.join(choices))
        return value
    return parse


def _table_name(raw: Any) -> str:
    # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html
    if isinstance(raw, str) and re.fullmatch(r'[A-Za-z0-9_.-]{3,255}', raw):
        return raw
    raise ValueError('3 to 255 letters, digits, "_", "-" and "."')


def _is_endpoint_url(raw: Any) -> bool:
    try:
        parts = urlsplit(raw)
        valid = is_valid_endpoint_url(raw) or is_valid_ipv6_endpoint_url(raw)
        return parts.scheme in ('http', 'https') and valid and '@' not in parts.netloc and parts.port != 0
    except (AttributeError, TypeError, ValueError):
        return False


def _endpoint_url(raw: Any) -> str:
    if _is_endpoint_url(raw):
        return str(raw)
    raise ValueError('http(s)://host:port without user name or password')


def _tags(raw: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(raw, Mapping):
        pairs = [(str(key), str(value)) for key, value in raw.items()]
    elif isinstance(raw, str):
        pairs = [(key.strip() if colon else '', value.strip()) for key, colon, value in (pair.partition(':') for pair in raw.split(','))]
    else:
        pairs = []
    if pairs and all(key for key, _ in pairs):
        return tuple(pairs)
    raise ValueError('key:value,key:value or a dict')


_seconds = _number('seconds, 0 or more', float, lambda value: 0 <= value < math.inf)
_above_zero = _number('seconds, more than 0', float, lambda value: 0 < value < math.inf)
_positive = _number('a whole number, 1 or more', int, lambda value: value > 0)
_whole = _number('a whole number', int, lambda value: True)


def _option(default: Any, parse: Callable[[Any], Any], doc: str) -> Any:
    return field(default=default, metadata={'parse': parse, 'doc': doc})


@dataclass(frozen=True)
class Options:
    """What a backend was told, each value checked.  Durations are in seconds, sizes in bytes.

    Fields with a ``parse`` in their metadata are options of the URL's query and of
    ``result_backend_transport_options``; the others come from the URL's other parts.
    """

    # where
    region: str | None = None
    local: bool = False
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    table: str = 'celery'
    endpoint_url: str | None = _option(
        None, _endpoint_url, 'endpoint to use in place of the one that the URL or the region names')
    profile: str | None = _option(None, _text, "profile of AWS's shared configuration files")
    use_fips_endpoint: bool | None = _option(None, _boolean, "use the FIPS endpoint of the region; default: as AWS's tools are configured")
    use_dualstack_endpoint: bool | None = _option(
        None, _boolean, "use the endpoint of the region that also speaks IPv6; default: as AWS's tools are configured")
    max_pool_connections: int = _option(10, _positive, 'connections kept open, in each process: at least as many as a worker has threads')
    connect_timeout: float = _option(5.0, _above_zero, 'seconds to wait for a connection')
    read_timeout: float = _option(10.0, _above_zero, 'seconds to wait for an answer')

    # the table that is created
    create_table: bool = _option(True, _boolean, 'create the table when it is missing')
    billing_mode: str = _option(
        'PROVISIONED', _choice(provisioned='PROVISIONED', on_demand='PAY_PER_REQUEST'),
        '``provisioned`` or ``on_demand``, for the table it creates')
    read_throughput: int = _option(5, _positive, 'read capacity units of the table it creates; synonym ``read``')
    write_throughput: int = _option(5, _positive, 'write capacity units of the table it creates; synonym ``write``')
    table_class: str | None = _option(
        None, _choice(standard='STANDARD', standard_infrequent_access='STANDARD_INFREQUENT_ACCESS'),
        '``standard`` or ``standard_infrequent_access``, for the table it creates')
    tags: tuple[tuple[str, str], ...] = _option((), _tags, 'tags of the table it creates: ``team:data,env:prod``, or a dict')
    deletion_protection: bool = _option(False, _boolean, 'protect the table it creates from deletion')
    encryption_key: str | None = _option(
        None, _text, 'KMS key (id, ARN or alias) that encrypts the table it creates; default: a key that AWS owns')

    # what is stored
    ttl_seconds: int | None = _option(
        None, _whole, "seconds that results are kept; 0 or negative: for ever; default: Celery's ``result_expires``")
    max_result_size: int = _option(16 * 2**20, _positive, 'largest result, in bytes as it is stored')
    celery_keys: bool = _option(
        False, _boolean, "write ids in the form of Celery's own DynamoDB backend, to share its table while you migrate")
    global_keyprefix: str | None = _option(None, str, 'prefix of every id, as on other backends (transport options only)')

    # patience
    retry_if_throttled: bool = _option(True, _boolean, 'try again when DynamoDB throttles; otherwise raise at once')
    retry_base_delay: float = _option(
        0.05, _above_zero, 'upper bound of the first pause between two tries, in seconds; doubled for each further one')
    retry_max_delay: float = _option(5.0, _above_zero, 'upper bound of any pause between two tries, in seconds')
    retry_timeout: float = _option(120.0, _seconds, 'seconds to go on trying; then the original error is raised')
    max_retries: float = math.inf  # Celery's result_backend_max_retries, where the user set it
    consistency_wait_time: float = _option(
        1.0, _seconds, 'seconds that a read which must find something (a saved group, a part of a chord) waits for it')


_SYNONYMS = {'read': 'read_throughput', 'write': 'write_throughput'}
_PARSERS: dict[str, Callable[[Any], Any]] = {
    f.name: f.metadata['parse'] for f in dataclasses.fields(Options) if 'parse' in f.metadata}

# us-east-1, us-gov-west-1, eu-isoe-west-1, eusc-de-east-1, ...: by pattern, since a region can be newer than botocore
_AWS_REGION = re.compile(r'[a-z]{2,4}(-[a-z]{2,4})?-(north|south|east|west|central|(north|south)(east|west))-\d+')
_LOCAL_PORT = 8000
_MASK = '**'

# Celery's own settings for a backend's retries: (setting, option, unit of the setting)
_RETRY_SETTINGS = (
    ('result_backend_base_sleep_between_retries_ms', 'retry_base_delay', 1e-3),
    ('result_backend_max_sleep_between_retries_ms', 'retry_max_delay', 1e-3),
    ('result_backend_max_retries', 'max_retries', 1),
)


def misconfigured(text: str, kind: type[ImproperlyConfigured] = ImproperlyConfigured) -> ImproperlyConfigured:
    return kind(f'dynamodb result backend: {text}')


def _wrong(name: str, raw: Any, expected: str) -> ImproperlyConfigured:
    return misconfigured(f'{name}={raw!r} must be {expected}')


def _checked(name: str, raw: Any, parse: Callable[[Any], Any], shown: Any = None) -> Any:
    try:
        return parse(raw)
    except ValueError as exc:
        raise _wrong(name, raw if shown is None else shown, str(exc)) from None


def _parse_named(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options that were given by name.  Raises ImproperlyConfigured."""
    values: dict[str, Any] = {}
    for name, raw in given.items():
        if raw is None:
            continue  # as if it were left out
        option = _SYNONYMS.get(name, name)
        if option not in _PARSERS:
            near = difflib.get_close_matches(name, [*_PARSERS, *_SYNONYMS], n=1, cutoff=0.75)
            hint = f'did you mean {near[0]}?' if near else 'the options are ' + ', '.join(sorted(_PARSERS))
            raise misconfigured(f'there is no option {name!r}; {hint}')
        if option in values:
            synonyms = ' and '.join(each for each in given if _SYNONYMS.get(each, each) == option)
            raise misconfigured(f'{synonyms} are the same option; give one')
        # an endpoint that is refused may be so because it holds a password
        values[option] = _checked(name, raw, _PARSERS[option], '…' if option == 'endpoint_url' else raw)
    return values


def _split_url(url: str) -> SplitResult:
    # No message shows a piece of the URL that may be a piece of a key: an unquoted "/" moves the end of a key into
    # the table's name.
    authority, _, path = url.partition('?')[0].partition('://')[2].partition('/')
    if authority.count('@') > 1 or '@' in path or '#' in url:
        raise misconfigured(
            'URL-quote the keys in the URL ("/" as %2F, "+" as %2B, "@" as %40, "#" as %23): '
            'urllib.parse.quote(key, safe="")')
    try:
        parts = urlsplit(url)
        if parts.port != 0:
            return parts
    except ValueError:
        pass
    raise misconfigured(
        'the URL must be dynamodb://access_key:secret_key@region:port/table?option=value, '
        'the port a number from 1 to 65535; the keys and the port may be left out')


def _parse_place(parts: SplitResult) -> dict[str, Any]:
    """The values of options that the URL gives by position.  Raises ImproperlyConfigured."""
    values: dict[str, Any] = {}
    access_key, secret_key = unquote(parts.username or ''), unquote(parts.password or '')
    if bool(access_key) != bool(secret_key):
        found = 'an access key without a secret key' if access_key else 'a secret key without an access key'
        raise misconfigured(f'the URL has {found}; give both, or none to use the credentials that botocore finds')
    if secret_key == _MASK:
        raise misconfigured(
            f'the secret key in the URL is {_MASK}, the mask of as_uri() and of pickled backends; give the real one in result_backend')
    if access_key:
        values.update(access_key=access_key, secret_key=secret_key)

    host, port = parts.hostname, parts.port
    loopback = host is not None and (host == 'localhost' or ':' in host or re.fullmatch(r'[\d.]+', host) is not None)
    if host == 'local':
        values.update(local=True, region='us-east-1', endpoint_url=f'http://localhost:{port or _LOCAL_PORT}')
    elif host and _AWS_REGION.fullmatch(host):
        values.update(region=host)
    elif host and (port or loopback):
        address = f'[{host}]' if ':' in host else host
        values.update(region='us-east-1', endpoint_url=f'http://{address}:{port or _LOCAL_PORT}')
    elif host:
        raise _wrong('region', host, 'an AWS region such as eu-west-1, "local" for DynamoDB Local, or host:port')

    if values.get('endpoint_url') and not _is_endpoint_url(values['endpoint_url']):
        raise _wrong('host', host, 'a host name, of letters, digits, "-" and "."')
    table = unquote(parts.path.strip('/'))
    if table:
        values.update(table=_checked('table', table, _table_name))
    return values


def _parse_settings(settings: Any) -> dict[str, Any]:
    """The values of options that Celery's settings give.  Raises ImproperlyConfigured."""
    values: dict[str, Any] = {}
    for setting, option, unit in _RETRY_SETTINGS:
        if settings.value_set_for(setting) and settings.get(setting) is not None:
            parse = _number('a number, 0 or more', float, lambda value: value >= 0)
            values[option] = _checked(setting, settings.get(setting), parse) * unit
    endpoint_url = settings.get('dynamodb_endpoint_url')
    if endpoint_url:
        values.update(_parse_named({'endpoint_url': endpoint_url}))
    return values


def parse_options(url: str | None, settings: Any, table: str | None = None) -> Options:
    """The options from a URL and from Celery's settings (``app.conf``).

    table: its name, where the URL has none.  The URL's query wins over ``result_backend_transport_options``, these over
    Celery's other settings, and all of them over the URL's host.  Raises ImproperlyConfigured, which never shows a key.
    """
    parts = _split_url(url or 'dynamodb://')
    query = parse_qsl(parts.query, keep_blank_values=True)
    twice = [name for name, times in Counter(name for name, _ in query).items() if times > 1]
    if twice:
        raise misconfigured(f'the URL has the option {twice[0]} twice; give it once')
    in_query, in_transport = _parse_named(dict(query)), dict(settings.get('result_backend_transport_options') or {})
    if 'global_keyprefix' in in_query:
        raise misconfigured('give global_keyprefix in result_backend_transport_options, where Celery reads it')
    named = {**_parse_settings(settings), **_parse_named(in_transport), **in_query}
    values = {**({'table': _checked('table_name', table, _table_name)} if table else {}), **_parse_place(parts), **named}
    options = Options(**values)

    if options.billing_mode == 'PAY_PER_REQUEST':
        for name in ('read_throughput', 'write_throughput'):
            if name in values:
                raise _wrong(name, values[name], 'left out where billing_mode=on_demand')
    for name in ('use_fips_endpoint', 'use_dualstack_endpoint'):
        if values.get(name) and options.endpoint_url:
            raise _wrong(name, True, 'left out where the endpoint is given: it chooses among the endpoints of a region')
    if options.access_key and options.profile:
        raise _wrong('profile', options.profile, 'left out where the URL has keys')
    return options


def mask_secret(url: str) -> str:
    """The URL with its secret key masked."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition('@')
    access_key, colon, secret_key = userinfo.partition(':')
    if secret_key:
        parts = parts._replace(netloc=f'{access_key}{colon}{_MASK}{at}{host}')
    return parts.geturl()


def unmask_secret(url: str | None, configured: Any) -> str | None:
    """The URL of a pickled backend, whose secret key is masked, with the keys of the configured URL if that is the same place."""
    if url and isinstance(configured, str) and f':{_MASK}@' in url:
        scheme, separator, rest = configured.partition('://')
        own = scheme.rpartition('+')[2] + separator + rest
        if own.rpartition('@')[2] == url.rpartition('@')[2]:
            return own
    return url


# ---------------------------------------------------------------------------------------------------------------------
# Attributes
# ---------------------------------------------------------------------------------------------------------------------

Item = dict[str, Any]  # attribute name to str, int, float, bytes, bool or a set of bytes


def marshal(value: Any) -> dict[str, Any]:
    """A Python value as a DynamoDB attribute value.  Raises TypeError."""
    if isinstance(value, bool):
        return {'BOOL': value}
    if isinstance(value, str):
        return {'S': value}
    if isinstance(value, (int, float)):
        return {'N': repr(value)}
    if isinstance(value, (bytes, bytearray)):
        return {'B': bytes(value)}
    if isinstance(value, (set, frozenset)) and value and all(isinstance(member, bytes) for member in value):
        return {'BS': sorted(value)}
    raise TypeError(f'no DynamoDB attribute for {type(value).__name__}')


def unmarshal(attribute: Mapping[str, Any]) -> Any:
    """The Python value of a DynamoDB attribute value; of one that this module never writes, what is in it."""
    (kind, value), = attribute.items()
    if kind == 'B':
        return _binary(value)
    if kind == 'N':
        return int(value) if value.lstrip('-').isdigit() else float(value)
    if kind == 'BS':
        return frozenset(map(_binary, value))
    return value


def _binary(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else base64.b64decode(value)  # bytes where botocore has parsed it


def marshal_item(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: marshal(value) for name, value in item.items()}


def unmarshal_item(attributes: Mapping[str, Any]) -> Item:
    return {name: unmarshal(attribute) for name, attribute in attributes.items()}


def expressions(values: Mapping[str, Any], **texts: str | None) -> dict[str, Any]:
    """The request parameters for expressions, with names and values filled in.

    Every attribute is written ``#name``, since many of ours are reserved words, and every value ``:name``.
    """
    params: dict[str, Any] = {name: text for name, text in texts.items() if text}
    used = ' '.join(params.values())
    if 'ConditionExpression' in params:
        params['ReturnValuesOnConditionCheckFailure'] = 'ALL_OLD'
    names = {f'#{name}': name for name in re.findall(r'#(\w+)', used)}
    if names:
        params['ExpressionAttributeNames'] = names
    needed = {f':{name}': marshal(values[name]) for name in re.findall(r':(\w+)', used)}
    if needed:
        params['ExpressionAttributeValues'] = needed
    return params


# ---------------------------------------------------------------------------------------------------------------------
# Backoff
# ---------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    base, maximum: upper bounds of the first pause and of any, in seconds.  timeout: seconds in all.
    """

    base: float
    maximum: float
    timeout: float
    max_retries: float = math.inf

    def pause(self, retry: int, jitter: float) -> float:
        """Seconds to wait before the retry with this number (from 0); jitter is from [0, 1)."""
        # Celery's setting for the base may be 0
        return jitter * min(self.maximum, max(self.base, 0.001) * 2.0 ** min(retry, 64))

    def tries(self, deadline: float = math.inf) -> Iterator[int]:
        """Yields the number of each try, from 0, and sleeps before each but the first.

        Ends after the timeout, or at the deadline (of ``time.monotonic``) if that comes first: the last
        pause is cut so that one more try is made right then.
        """
        end = min(time.monotonic() + self.timeout, deadline)
        for number in itertools.count():
            yield number
            left = end - time.monotonic()
            if left <= 0 or number >= self.max_retries:
                return
            time.sleep(min(left, self.pause(number, random.random())))


# DynamoDB's codes for errors that may pass by themselves
_THROTTLED = frozenset({
    'ProvisionedThroughputExceededException', 'ThrottlingException', 'Throttling', 'RequestLimitExceeded',
    'LimitExceededException', 'TooManyRequestsException'})
# the token of temporary credentials: a new one may be there, where these came from
_EXPIRED = frozenset({'ExpiredTokenException', 'ExpiredToken'})
_TRANSIENT = _THROTTLED | _EXPIRED | {
    'InternalServerError', 'ServiceUnavailable', 'RequestTimeout', 'RequestTimeoutException',
    'ReplicatedWriteConflictException'}  # of a global table with strong consistency


def error_code(exc: BaseException) -> str:
    """DynamoDB's code for an error, or '' where it did not come from DynamoDB."""
    return exc.response.get('Error', {}).get('Code', '') if isinstance(exc, ClientError) else ''


def is_throttled(exc: BaseException) -> bool:
    """Whether DynamoDB wants fewer requests."""
    return error_code(exc) in _THROTTLED


def is_transient(exc: BaseException) -> bool:
    """Whether the same request may succeed later: throttling, 5xx, connection and time-out errors, expired tokens."""
    if isinstance(exc, ClientError):
        status = exc.response.get('ResponseMetadata', {}).get('HTTPStatusCode', 0)
        return error_code(exc) in _TRANSIENT or status >= 500
    if isinstance(exc, SSLError) and 'CERTIFICATE_VERIFY_FAILED' in str(exc):
        return False
    return isinstance(exc, (BotoConnectionError, HTTPClientError, ResponseParserError, CredentialRetrievalError))


def interruption(exc: BaseException) -> Exception | None:
    """What a signal handler raised during a request, such as Celery's soft time limit: botocore wraps it like an error of the network."""
    inner = exc.kwargs.get('error') if isinstance(exc, HTTPClientError) else None
    network = isinstance(inner, OSError) or type(inner).__module__.partition('.')[0] in ('urllib3', 'http', 'botocore')
    return inner if isinstance(inner, Exception) and not network else None


# ---------------------------------------------------------------------------------------------------------------------
# Table
# ---------------------------------------------------------------------------------------------------------------------

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html
_GET_BATCH = 100
_WRITE_BATCH = 25
_QUIET = 60.0  # seconds between two warnings that requests fail
_FULL_ANSWER = 8 * 2**20  # bytes of an answer that left out what was too much for it: the limit is 16 MB
_OVERLAPPED = 8  # batches of one call that are under way at once
# of the 400 KB of an item: an id takes up to 2048 bytes, and the names and values of the other attributes some 100
_VALUE_LIMIT = 400_000
_MOST_CHUNKS = 10_000  # an item that says it has more was not written here

_BOOTSTRAP = Backoff(base=0.05, maximum=5.0, timeout=300.0)
_KEY_SCHEMA = [{'AttributeName': 'id', 'KeyType': 'HASH'}]
_KEY_ATTRIBUTES = [{'AttributeName': 'id', 'AttributeType': 'S'}]
_KEY = 'id (S, HASH)'


_DENIED = ('AccessDeniedException', 'AccessDenied')
# what to do about errors that last until somebody does something
_REMEDIES = {
    'NoCredentials': "there are no credentials: put keys into the URL, or into one of the places where AWS's tools look for them",
    **dict.fromkeys(_DENIED, 'the IAM action {action} is needed, and denied'),
    **dict.fromkeys(('UnrecognizedClientException', 'InvalidClientTokenId', 'MissingAuthenticationTokenException'),
                    'AWS does not know these credentials there: check the access key, and that the region is one of its account'),
    **dict.fromkeys(('InvalidSignatureException', 'SignatureDoesNotMatch', 'IncompleteSignatureException'),
                    'the signature is not accepted: check the secret key, and the clock of this machine'),
    **dict.fromkeys(_EXPIRED, 'the credentials have expired, and where they came from there are no new ones: renew them'),
}


def _key_of(table: Mapping[str, Any]) -> str:
    """A table's key, as _KEY is written."""
    types = {attribute['AttributeName']: attribute['AttributeType'] for attribute in table['AttributeDefinitions']}
    return ', '.join(f'{key["AttributeName"]} ({types[key["AttributeName"]]}, {key["KeyType"]})' for key in table['KeySchema'])


class DeniedAction(ImproperlyConfigured):
    """IAM does not allow an action."""


class MissingTable(ImproperlyConfigured):
    """The table does not exist and must not be created."""


FAILURES = (ClientError, BotoCoreError, ResponseParserError, ImproperlyConfigured)  # what a request raises when it is given up


class UnreadableValue(Exception):
    """A stored value of which chunks are missing, or an item that this module did not write."""


def expiry(lifetime: float | None) -> Item:
    """What an item holds to expire in so many seconds; nothing where it never does."""
    return {'ttl': math.ceil(time.time() + lifetime)} if lifetime else {}


def _popped(queue: deque[Any]) -> Iterator[Any]:
    while True:
        try:
            yield queue.popleft()
        except IndexError:  # several threads may take from it
            return


class Update(NamedTuple):
    """What came of a conditional write: the item as it is now, or as it was when the condition failed."""

    applied: bool
    item: Item | None


def open_session(options: Options) -> Any:
    """A botocore session with a profile that exists and, from anywhere, a region.  Raises ImproperlyConfigured."""
    try:
        session = botocore.session.Session(profile=options.profile)
        session.get_scoped_config()  # raises for a profile that does not exist, also one of the environment
        region = options.region or session.get_config_variable('region')
    except ProfileNotFound as exc:
        raise _wrong('profile', exc.kwargs['profile'], "a profile of AWS's configuration files") from None
    if not region:
        raise misconfigured('no region: name it in the URL (dynamodb://eu-west-1/…), or set AWS_DEFAULT_REGION')
    return session


_NOT_NEEDED = 'not needed'


def credentials_source(options: Options, session: Any) -> str | None:
    """Where the credentials come from, in botocore's words; None where there are none."""
    if options.access_key:
        return 'the URL'
    found = None if options.local else session.get_credentials()
    if found:
        return str(found.method)
    return _NOT_NEEDED if options.local or (options.endpoint_url or '').startswith('http://') else None


# as a header, in JSON, in XML, or as Python shows any of these
_CREDENTIAL = re.compile(r'''(?i)(token|secret-?access-?key|client-?secret)(["']?\s*[:>]\s*(?:b?["'])?)[^\s"'<>,;}\\]+''')


def _hide_credentials(record: logging.LogRecord) -> bool:
    # at DEBUG botocore logs whole requests, with their session token, and what STS answers, with new keys
    record.msg, record.args = _CREDENTIAL.sub(rf'\1\2{_MASK}', record.getMessage()), ()
    return True


def connect(options: Options) -> Any:
    """A botocore client.  Raises ImproperlyConfigured."""
    for name in ('botocore.auth', 'botocore.endpoint', 'botocore.parsers'):
        logging.getLogger(name).addFilter(_hide_credentials)
    session = open_session(options)
    access_key, secret_key = options.access_key, options.secret_key
    if credentials_source(options, session) == _NOT_NEEDED:
        access_key = secret_key = 'local'  # DynamoDB Local wants keys, whichever
    client = session.create_client(
        'dynamodb', region_name=options.region, endpoint_url=options.endpoint_url,
        aws_access_key_id=access_key, aws_secret_access_key=secret_key,
        config=Config(
            retries={'total_max_attempts': 1, 'mode': 'standard'},  # the retries are ours
            max_pool_connections=options.max_pool_connections,
            connect_timeout=options.connect_timeout, read_timeout=options.read_timeout,
            use_fips_endpoint=options.use_fips_endpoint, use_dualstack_endpoint=options.use_dualstack_endpoint,
            tcp_keepalive=True,
            # botocore validates what we marshal ourselves, and builds its default user agent anew for each request
            parameter_validation=False, user_agent=f'Botocore/{botocore.__version__} dyna-veggie/{__version__}'))
    events = client.meta.events
    events.register('before-parse.dynamodb', _parse_answer)
    # it would only write "reached max retries: 0" into each error
    events.unregister('needs-retry.dynamodb', unique_id='retry-config-dynamodb')
    return client


def _parse_answer(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **kwargs: Any) -> None:
    # botocore walks over every attribute of an answer with its model of the service, which takes longer than all else
    # that it does for a batch.  Versions before 1.36 do not ask; then unmarshal() gets what botocore made of it.
    if response_dict['status_code'] == 200:
        try:
            customized_response_dict.update(json.loads(response_dict['body']))
        except ValueError as exc:
            raise ResponseParserError(f'an answer that is not JSON: {exc}') from exc
        response_dict['body'] = b'{}'


class Table:
    """One DynamoDB table, its items plain dicts with an ``id``.

    Errors that pass by themselves are tried again until ``retry_timeout`` or the caller's ``deadline`` (of
    ``time.monotonic``); then, and for all others, botocore's error is raised.  The table is created, if that is
    allowed, by the first request that finds it missing.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.name = options.table
        self.backoff = Backoff(
            options.retry_base_delay, options.retry_max_delay, options.retry_timeout, options.max_retries)
        self._lock = threading.RLock()
        self._client: Any = None
        self._check_ttl = (options.ttl_seconds or 0) > 0
        self._failing_since: float | None = None
        self._warned = -math.inf

    @property
    def client(self) -> Any:
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = connect(self.options)
        return self._client

    # --- items -------------------------------------------------------------------------------------------------------

    def get(self, id: str, *, consistent: bool = True, deadline: float = math.inf) -> Item | None:
        """An item, or None.  Where it need not be consistent, it can be a second old, and costs half."""
        answer = self._request('get_item', deadline, TableName=self.name, Key=marshal_item({'id': id}),
                               ConsistentRead=consistent)
        return unmarshal_item(answer['Item']) if 'Item' in answer else None

    def get_many(self, ids: Iterable[str], *, consistent: bool = True, deadline: float = math.inf) -> dict[str, Item]:
        """The items that exist, by id."""
        found: dict[str, Item] = {}

        def send(page: list[str]) -> list[str]:
            while True:
                keys = {'Keys': [marshal_item({'id': id}) for id in page], 'ConsistentRead': consistent}
                answer = self._request('batch_get_item', deadline, RequestItems={self.name: keys})
                for attributes in answer['Responses'].get(self.name, ()):
                    found[attributes['id']['S']] = unmarshal_item(attributes)
                page = [key['id']['S'] for key in answer.get('UnprocessedKeys', {}).get(self.name, {}).get('Keys', ())]
                if int(answer['ResponseMetadata']['HTTPHeaders'].get('content-length', 0)) < _FULL_ANSWER or not page:
                    return page
                # as much as an answer holds, not throttled: the rest is asked for at once

        self._in_batches(dict.fromkeys(ids), _GET_BATCH, send, deadline)
        return found

    def put(self, item: Item, *, condition: str | None = None, values: Mapping[str, Any] = {}) -> Update:
        """Writes an item; returns the one that it replaced, or the one that failed the condition."""
        try:
            answer = self._request(
                'put_item', TableName=self.name, Item=marshal_item(item), ReturnValues='ALL_OLD',
                **expressions(values, ConditionExpression=condition))
        except ClientError as exc:
            return self._refused(exc, item['id'])
        return Update(True, unmarshal_item(answer['Attributes']) if 'Attributes' in answer else None)

    def update(self, id: str, update: str, values: Mapping[str, Any], *, condition: str | None = None) -> Update:
        """Updates an item, creating it if it is missing; returns it as it then is."""
        try:
            answer = self._request(
                'update_item', TableName=self.name, Key=marshal_item({'id': id}), ReturnValues='ALL_NEW',
                **expressions(values, UpdateExpression=update, ConditionExpression=condition))
        except ClientError as exc:
            return self._refused(exc, id)
        return Update(True, unmarshal_item(answer['Attributes']))

    def delete(self, id: str) -> Item | None:
        """Deletes an item and returns it as it was."""
        answer = self._request('delete_item', TableName=self.name, Key=marshal_item({'id': id}), ReturnValues='ALL_OLD')
        return unmarshal_item(answer['Attributes']) if 'Attributes' in answer else None

    def write_many(self, puts: Iterable[Item] = (), deletes: Iterable[str] = ()) -> None:
        """Puts and deletes, unconditionally and in no order."""
        requests = {item['id']: {'PutRequest': {'Item': marshal_item(item)}} for item in puts}
        requests.update({id: {'DeleteRequest': {'Key': marshal_item({'id': id})}} for id in deletes})

        def send(page: list[str]) -> list[str]:
            answer = self._request('batch_write_item', RequestItems={self.name: [requests[id] for id in page]})
            # the ids only: binary values come back in base64
            return [(request.get('PutRequest', {}).get('Item') or request['DeleteRequest']['Key'])['id']['S']
                    for request in answer.get('UnprocessedItems', {}).get(self.name, ())]

        self._in_batches(requests, _WRITE_BATCH, send)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _refused(self, exc: ClientError, id: str) -> Update:
        if error_code(exc) != 'ConditionalCheckFailedException':
            raise exc
        attributes = exc.response.get('Item')
        # DynamoDB Local before 2 does not say which item failed the condition
        return Update(False, unmarshal_item(attributes) if attributes else self.get(id))

    def _in_batches(self, work: Iterable[Any], size: int, send: Callable[[list[Any]], list[Any]],
                    deadline: float = math.inf) -> None:
        """Sends work in pages, some at once, and again what comes back unprocessed, until nothing does."""
        pending = deque(work)
        send_pages = functools.partial(self._send_pages, pending, size, send, deadline)
        threads = min(math.ceil(len(pending) / size), _OVERLAPPED, self.options.max_pool_connections)
        if threads <= 1:
            send_pages()
            return
        with ThreadPoolExecutor(threads - 1, 'dyna-veggie') as pool:
            others = [pool.submit(send_pages) for _ in range(threads - 1)]
            send_pages()
        for other in others:
            other.result()

    def _send_pages(self, pending: deque[Any], size: int, send: Callable[[list[Any]], list[Any]],
                    deadline: float) -> None:
        stalled: Iterator[int] | None = None
        try:
            while page := list(itertools.islice(_popped(pending), size)):
                unprocessed = send(page)
                pending.extendleft(reversed(unprocessed))
                if not unprocessed:
                    stalled = None
                elif len(unprocessed) < len(page) and time.monotonic() < deadline:
                    stalled = None  # some were done: not a failure, whatever patience is left
                    time.sleep(self.backoff.pause(0, random.random()))
                else:
                    if stalled is None:
                        stalled = self.backoff.tries(deadline)
                        next(stalled)
                    if next(stalled, None) is None:
                        raise ClientError({'Error': {
                            'Code': 'ProvisionedThroughputExceededException',
                            'Message': f'{len(pending)} items of table {self.name} were still unprocessed when time was up',
                        }}, send.__name__)
        except BaseException:
            pending.clear()  # the other threads need not go on
            raise

    def _request(self, method: str, deadline: float = math.inf, **params: Any) -> Any:
        if self._check_ttl:
            self._check_ttl = False
            self._enable_ttl()
        try:
            return self._send(method, params, deadline)
        except ClientError as exc:
            if error_code(exc) == 'ValidationException':
                self._explain_invalid()
            if error_code(exc) != 'ResourceNotFoundException':
                raise
        self.bootstrap()
        # ACTIVE is what the control plane says; the data plane can still need a moment
        return self._send(method, params, deadline, missing_is_transient=True)

    def _send(self, method: str, params: Mapping[str, Any], deadline: float = math.inf,
              missing_is_transient: bool = False) -> Any:
        error: Exception | None = None
        for _ in self.backoff.tries(deadline):
            client = None
            try:
                client = self.client
                answer = getattr(client, method)(**params)
                self._log_recovery()
                return answer
            except (ClientError, BotoCoreError, ResponseParserError) as exc:
                error = exc
            except RuntimeError as exc:  # of credentials that were renewed too late: botocore has no class for it
                if 'still expired' not in str(exc):
                    raise
                error = CredentialRetrievalError(provider='refreshable', error_msg=str(exc))
            interrupted = interruption(error)
            if interrupted:
                raise interrupted from None
            if self._remedy(error) not in (None, _REMEDIES[_DENIED[0]]) and self._client is client:
                self._client = None  # the next one asks anew where credentials come from
            missing = missing_is_transient and error_code(error) == 'ResourceNotFoundException'
            if not (missing or is_transient(error)) or (is_throttled(error) and not self.options.retry_if_throttled):
                break
            self._log_failure(method, error)
        assert error is not None
        raise self._explained(error)

    @staticmethod
    def _remedy(error: Exception) -> str | None:
        return _REMEDIES.get('NoCredentials' if isinstance(error, NoCredentialsError) else error_code(error))

    def _explained(self, error: Exception) -> Exception:
        """The error; in place of one that only a person can mend, one that says what there is to do."""
        remedy, action = self._remedy(error), getattr(error, 'operation_name', '')
        if remedy is None:
            return error
        # those of STS are named as they are
        service = 'dynamodb:' if self._client and action in self._client.meta.service_model.operation_names else ''
        remedy = remedy.format(action=service + action)
        if action in ('CreateTable', 'DescribeTable'):
            remedy += '; or create the table, with the string hash key "id" and time to live on "ttl", with the rights of an operator'
        # AWS explains a wrong signature with the whole request, and so with the session token
        said = str(error).partition('\n')[0]
        kind = DeniedAction if error_code(error) in _DENIED else ImproperlyConfigured
        return misconfigured(
            f'table={self.name!r} in region {self.options.region or "of the configuration"}: {remedy} ({said})', kind)

    def _log_failure(self, method: str, error: Exception) -> None:
        # one line per outage, and where requests fail now and then, one a minute: not one per try, nor per request
        now = time.monotonic()
        news = self._failing_since is None and now - self._warned > _QUIET
        self._failing_since = self._failing_since or now
        if news:
            self._warned = now
        log = logger.warning if news else logger.debug
        log('DynamoDB table %s: %s failed; this and other requests are tried again for up to %g s each: %s',
            self.name, method, self.backoff.timeout, str(error).partition('\n')[0])    # a proxy's answer can be a page

    def _log_recovery(self) -> None:
        since, self._failing_since = self._failing_since, None
        if since is not None and time.monotonic() - since > 1:
            logger.warning('DynamoDB table %s: requests succeed again, after %.0f s', self.name, time.monotonic() - since)

    # --- bootstrap ---------------------------------------------------------------------------------------------------

    def creation(self) -> dict[str, Any]:
        """The CreateTable request."""
        options = self.options
        throughput = {'ReadCapacityUnits': options.read_throughput, 'WriteCapacityUnits': options.write_throughput}
        optional = {
            'ProvisionedThroughput': throughput if options.billing_mode == 'PROVISIONED' else None,
            'TableClass': options.table_class,
            'Tags': [{'Key': key, 'Value': value} for key, value in options.tags],
            'DeletionProtectionEnabled': options.deletion_protection,
            'SSESpecification': options.encryption_key and {
                'Enabled': True, 'SSEType': 'KMS', 'KMSMasterKeyId': options.encryption_key},
        }
        return {'TableName': self.name, 'BillingMode': options.billing_mode, 'KeySchema': _KEY_SCHEMA,
                'AttributeDefinitions': _KEY_ATTRIBUTES, **{name: value for name, value in optional.items() if value}}

    def bootstrap(self) -> bool:
        """Creates the table where it is missing, and turns on time to live.  Returns whether it was missing."""
        if not self.options.create_table:
            raise misconfigured(
                f'table={self.name!r} does not exist in {self.client.meta.region_name}: '
                'create it with the command create-table, or let a worker do it (create_table=true)', MissingTable)
        missing = False
        with self._lock:  # one thread of a process is enough
            for _ in _BOOTSTRAP.tries():
                answer = self._send_unless(('ResourceNotFoundException',), 'describe_table', {'TableName': self.name})
                if answer is None:
                    missing = True
                    logger.info('DynamoDB table %s does not exist, creating it', self.name)
                    # another process may be first, or the table may still be going
                    self._send_unless(('ResourceInUseException', 'LimitExceededException'), 'create_table', self.creation())
                elif answer['Table']['TableStatus'] in ('ACTIVE', 'UPDATING'):
                    self._check_key(answer['Table'])
                    self._enable_ttl()
                    return missing
        raise misconfigured(f'table={self.name!r} was not usable {_BOOTSTRAP.timeout:g} s after its creation')

    def _send_unless(self, codes: tuple[str, ...], method: str, params: Mapping[str, Any]) -> Any:
        """The answer to a request; None where it fails with one of the codes."""
        try:
            return self._send(method, params)
        except ClientError as exc:
            if error_code(exc) in codes:
                return None
            raise

    def _check_key(self, table: Mapping[str, Any]) -> None:
        key = _key_of(table)
        if key != _KEY:
            raise _wrong('table', self.name, f'a table with the key {_KEY}; its key is {key}')

    def _explain_invalid(self) -> None:
        """Raises ImproperlyConfigured where requests are not valid since the table has another key."""
        try:
            table = self._send('describe_table', {'TableName': self.name})['Table']
        except FAILURES:
            return  # the caller raises what it was refused for
        self._check_key(table)

    def _enable_ttl(self) -> None:
        """Turns on time to live.  A failure is logged, no more: reads hide what has expired all the same."""
        try:
            answer = self._send_unless(('ResourceNotFoundException',), 'describe_time_to_live', {'TableName': self.name})
            found = answer['TimeToLiveDescription'] if answer else {}
            if found.get('TimeToLiveStatus') in ('DISABLED', 'DISABLING'):
                self._send('update_time_to_live', {
                    'TableName': self.name, 'TimeToLiveSpecification': {'Enabled': True, 'AttributeName': 'ttl'}})
                logger.info('DynamoDB table %s: time to live enabled', self.name)
            elif found and found.get('AttributeName') != 'ttl':
                logger.error('DynamoDB table %s: time to live is on attribute %s, not on "ttl": expired results stay',
                             self.name, found.get('AttributeName'))
        except FAILURES as exc:
            if 'already enabled' not in str(exc):  # by another process, since it was asked
                logger.error('DynamoDB table %s: time to live was not enabled, expired results stay: %s', self.name, exc)

    # --- for an operator ---------------------------------------------------------------------------------------------

    def as_it_is(self, retry_timeout: float = 5.0) -> Table:
        """This table, as one that is not created, and for somebody who waits at a terminal."""
        return Table(dataclasses.replace(self.options, create_table=False, ttl_seconds=None, retry_timeout=retry_timeout))

    def reach(self) -> str:
        """The table's name, if it answers, be it that the action is denied: others may be allowed."""
        try:
            self.get('dyna-veggie-check')
        except DeniedAction:
            pass
        return self.name

    def describe(self) -> dict[str, Any]:
        """What DescribeTable says, in short.  Raises ImproperlyConfigured for a table with another key."""
        table = self._request('describe_table', TableName=self.name)['Table']
        self._check_key(table)
        return {'status': table['TableStatus'], 'key': _key_of(table), 'items': table['ItemCount'], 'bytes': table['TableSizeBytes'],
                'billing_mode': table.get('BillingModeSummary', {}).get('BillingMode', 'PROVISIONED')}

    def time_to_live(self) -> str:
        """What DescribeTimeToLive says.  Raises ImproperlyConfigured where it deletes nothing of ours."""
        found = self._request('describe_time_to_live', TableName=self.name)['TimeToLiveDescription']
        text = f'{found.get("TimeToLiveStatus", "DISABLED")}, on {found.get("AttributeName", "no attribute")}'
        if text not in ('ENABLED, on ttl', 'ENABLING, on ttl'):
            raise ImproperlyConfigured(f'{text}: expired items stay until a purge; create-table turns it on where it is off')
        return text

    def expired(self) -> Iterator[tuple[int, list[str]]]:
        """Reads the whole table; yields page by page how many items there were, and the ids of the expired ones."""
        start: dict[str, Any] = {}
        while True:
            answer = self._request('scan', TableName=self.name, **start, **expressions(
                {'now': int(time.time())}, FilterExpression='#ttl <= :now', ProjectionExpression='#id'))
            yield answer['ScannedCount'], [attributes['id']['S'] for attributes in answer['Items']]
            if 'LastEvaluatedKey' not in answer:
                return
            start = {'ExclusiveStartKey': answer['LastEvaluatedKey']}

    def delete_expired(self, ids: Iterable[str]) -> None:
        """Deletes expired items, but not what has replaced one meanwhile."""
        def delete(id: str) -> None:
            still = expressions({'now': int(time.time())}, ConditionExpression='#ttl <= :now')
            self._send_unless(('ConditionalCheckFailedException',), 'delete_item', {
                'TableName': self.name, 'Key': marshal_item({'id': id}), **still})
        with ThreadPoolExecutor(min(_OVERLAPPED, self.options.max_pool_connections), 'dyna-veggie') as pool:
            for _ in pool.map(delete, ids):
                pass


#: what a worker does, each to be tried on an item of its own, which the last one deletes
WORKER_ACTIONS: dict[str, Callable[[Table, Item], Any]] = {
    'GetItem': lambda table, item: table.get(item['id']),
    'PutItem': lambda table, item: table.put(item),
    'UpdateItem': lambda table, item: table.update(item['id'], 'SET #ttl = :ttl', item),
    'BatchGetItem': lambda table, item: table.get_many([item['id']]),
    'BatchWriteItem': lambda table, item: table.write_many(puts=[item]),
    'DeleteItem': lambda table, item: table.delete(item['id']),
}


def least_policy(table: Table, bootstrap: bool) -> dict[str, Any]:
    """The IAM policy of a worker; bootstrap: of one that creates the table, too."""
    actions = [*WORKER_ACTIONS]
    if bootstrap:
        actions += ['CreateTable', 'DescribeTable']
    if bootstrap or (table.options.ttl_seconds or 0) > 0:
        actions += ['DescribeTimeToLive', 'UpdateTimeToLive']
    if bootstrap and table.options.tags:
        actions += ['TagResource']
    region = table.client.meta.region_name
    partition = open_session(table.options).get_partition_for_region(region)
    return {'Version': '2012-10-17', 'Statement': [{
        'Effect': 'Allow', 'Action': [f'dynamodb:{action}' for action in actions],
        'Resource': f'arn:{partition}:dynamodb:{region}:*:table/{table.name}'}]}


_tables: dict[Options, Table] = {}
_tables_lock = threading.Lock()


def shared_table(options: Options) -> Table:
    """The table that all threads of this process share, and with it one client."""
    table = _tables.get(options)
    if table is None:
        with _tables_lock:
            table = _tables.setdefault(options, Table(options))
    return table


def _leave_tables_to_parent() -> None:
    # A child must not share its parent's connections, nor wait for a lock that a thread of the parent held.
    global _tables_lock
    _tables_lock = threading.Lock()
    _tables.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_leave_tables_to_parent)


class Stored(NamedTuple):
    """A value as it was read, and the ids of the items that hold it; or why it cannot be read."""

    value: bytes
    ids: tuple[str, ...]
    error: UnreadableValue | None = None

    def read(self) -> bytes:
        """The value, or raises what keeps it from being read."""
        if self.error is not None:
            raise self.error
        return self.value


def _is_expired(item: Item) -> bool:
    # DynamoDB deletes hours to days late.  To be judged as by the conditions of Values, in whole seconds, and true is no number
    ttl = item.get('ttl')
    return isinstance(ttl, (int, float)) and not isinstance(ttl, bool) and ttl <= int(time.time())


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, str)):
        return ensure_bytes(value)
    raise TypeError(f'the result is not binary but {type(value).__name__}')


def _chunk_ids(item: Item | None) -> list[str]:
    chunks, version = (item or {}).get('chunks'), (item or {}).get('version')
    if item and isinstance(chunks, int) and isinstance(version, bytes) and chunks <= _MOST_CHUNKS:
        return [f'{item["id"]}/{version.hex()}/{number}' for number in range(chunks)]
    return []


def _items_of(id: str, value: bytes, status: str | None, ttl: Item) -> tuple[Item, list[Item]]:
    """The item that holds a value, and those with its chunks if it is too large for one."""
    item: Item = {'id': id, 'timestamp': time.time(), **({'status': status} if status else {}), **ttl}
    if len(value) <= _VALUE_LIMIT:
        return {**item, 'result': value}, []
    pieces = [value[start:start + _VALUE_LIMIT] for start in range(0, len(value), _VALUE_LIMIT)]
    item.update(version=uuid.uuid4().bytes, size=len(value), chunks=len(pieces))
    return item, [{'id': chunk_id, 'result': piece, **ttl} for chunk_id, piece in zip(_chunk_ids(item), pieces)]


class Values:
    """Values of any size in a table, each with a status and an expiry.

    A value above an item's size is written as chunks under a name of their own, and then the item that counts
    them.  The item is replaced in one write, so a reader finds the old value or the new one; if the chunks it
    then looks for are gone, the value was replaced meanwhile, and it starts again.
    """

    #: an item may be replaced unless it has the status to keep and has not expired
    REPLACEABLE = 'attribute_not_exists(#id) OR #ttl <= :now OR (attribute_exists(#status) AND #status <> :keep)'
    #: one without a status, written by Celery's own backend, only as it was seen
    UNCHANGED = 'attribute_not_exists(#id) OR (attribute_not_exists(#status) AND #timestamp = :seen)'
    NOT_OURS = 'attribute_not_exists(#id) OR attribute_not_exists(#status)'

    def __init__(self, table: Table) -> None:
        self.table = table

    def put(self, id: str, value: bytes, status: str | None, lifetime: float | None = None, *, keep: str | None = None,
            status_of: Callable[[bytes], str | None] = lambda value: None) -> None:
        """Stores a value for ``lifetime`` seconds (None: for ever), unless one with the status ``keep`` is there.

        status_of tells the status from a value whose item has none.
        """
        item, chunks = _items_of(id, value, status, expiry(lifetime))
        self.table.write_many(puts=chunks)

        condition, seen = (self.REPLACEABLE if keep else None), None
        for _ in range(100):  # each was refused for what another writer did since the one before
            values = {'now': int(time.time()), 'keep': keep, 'seen': seen}
            applied, old = self.table.put(item, condition=condition, values=values)
            if old and chunks and old.get('version') == item['version']:
                return  # the very item that we put: an answer was lost, and the request repeated
            if applied:
                self._delete_chunks(old)
                return
            if not old or _is_expired(old):
                condition = self.REPLACEABLE  # it is gone meanwhile
                continue
            if (old['status'] if 'status' in old else status_of(old.get('result', b''))) == keep:
                self._delete_chunks(item)
                return
            timestamp = old.get('timestamp')
            if 'status' in old:
                condition = self.REPLACEABLE
            elif isinstance(timestamp, (int, float)) and timestamp != seen:
                condition, seen = self.UNCHANGED, timestamp
            else:  # a foreign timestamp can have more digits than a float: one refused twice is not asked for again
                condition = self.NOT_OURS
        raise UnreadableValue(f'DynamoDB table {self.table.name}, item {id}: it can neither be kept nor be replaced')

    def get(self, id: str, *, consistent: bool = True, deadline: float = math.inf) -> Stored | None:
        """A value; None where there is none, or it has expired."""
        item = self.table.get(id, consistent=consistent, deadline=deadline)
        return self._read({id: item}, deadline).get(id) if item else None

    def get_many(self, ids: Iterable[str], *, consistent: bool = True, deadline: float = math.inf) -> dict[str, Stored]:
        """The values that exist and have not expired, by id."""
        ids = list(ids)
        if len(ids) == 1:
            stored = self.get(ids[0], consistent=consistent, deadline=deadline)
            return {ids[0]: stored} if stored else {}
        return self._read(self.table.get_many(ids, consistent=consistent, deadline=deadline), deadline)

    def _read(self, items: Mapping[str, Item], deadline: float) -> dict[str, Stored]:
        values: dict[str, Stored] = {}
        for rereads_left in reversed(range(5)):
            torn = []
            for id, item in items.items():
                if _is_expired(item):
                    continue
                try:
                    value = self._value(item, deadline)
                except (TypeError, ValueError, AttributeError, KeyError) as exc:
                    values[id] = self._unreadable(id, f'{type(exc).__name__}: {exc}')
                    continue
                if value is not None:
                    values[id] = Stored(value, (id, *_chunk_ids(item)))
                elif not rereads_left:
                    values[id] = self._unreadable(id, 'chunks are missing')
                else:
                    torn.append(id)
            if not torn:
                break
            items = self.table.get_many(torn, deadline=deadline)
        return values

    def _unreadable(self, id: str, why: str) -> Stored:
        return Stored(b'', (id,), UnreadableValue(f'DynamoDB table {self.table.name}, item {id}: {why}'))

    def _value(self, item: Item, deadline: float) -> bytes | None:
        """The value of an item; None if chunks are missing.  Raises whatever an item of the wrong form leads to."""
        if 'result' in item:
            return _bytes(item['result'])
        if 'chunks' not in item:
            return str(item.get('chord_count', '')).encode()
        ids = _chunk_ids(item)
        chunks = self.table.get_many(ids, deadline=deadline)
        value = b''.join(_bytes(chunks[id]['result']) for id in ids if id in chunks)
        return value if len(value) == item['size'] else None

    def delete(self, id: str) -> None:
        """Deletes a value with its chunks."""
        self._delete_chunks(self.table.delete(id))

    def delete_many(self, ids: Iterable[str], *, with_chunks: bool = False) -> None:
        """Deletes values in batches; with their chunks (which costs a read of each) or without."""
        ids = list(ids)
        chunks: list[str] = []
        if with_chunks:
            for item in self.table.get_many(ids).values():
                chunks += _chunk_ids(item)
        self.table.write_many(deletes=[*ids, *chunks])

    def _delete_chunks(self, item: Item | None) -> None:
        self.table.write_many(deletes=_chunk_ids(item))

    def expire(self, id: str, lifetime: float | None) -> None:
        """Lets a value expire in so many seconds (None: never)."""
        ttl = expiry(lifetime)
        update = 'SET #ttl = :ttl' if ttl else 'REMOVE #ttl'
        exists = 'attribute_exists(#id)'
        applied, item = self.table.update(id, update, ttl, condition=exists)
        for chunk_id in _chunk_ids(item if applied else None):
            self.table.update(chunk_id, update, ttl, condition=exists)

    def increment(self, id: str) -> int:
        """Adds one to a counter and returns it.  A request repeated after a lost answer counts twice."""
        count: int = self.table.update(id, 'ADD #chord_count :one', {'one': 1}).item['chord_count']  # type: ignore[index]
        return count


# ---------------------------------------------------------------------------------------------------------------------
# Chord
# ---------------------------------------------------------------------------------------------------------------------
#
# A part that returns counts itself on a leaf, the node number ``group_index // 40``.  Whoever fills a node counts
# that node on its parent, number ``number // 200``, and so on; whoever fills the root owns the join.
#
#   counting    one conditional update: the member into a set it was not in.  A redelivered part, or a request
#               repeated after a lost answer, changes nothing, and is told what the node holds.
#   capacity    a node under 1 KB costs one write unit per count: 40 members of 20 bytes in a leaf, 200 of 4 above.
#   no hot item a leaf takes 40 writes, a node above 200.
#   full        count == expected + added.  Where ``expected`` is missing it is the capacity: a generator header is
#               sent before anyone knows its length.  Only the last node of each level can hold fewer, and gets its
#               ``expected`` before the last part is sent, so that it cannot be full too early.
#   owner       every count leaves the delivery's token and a lease on the node.  The token found on a full root
#               says who joins; a lease that was not renewed for its term, when somebody else may.
#   closed      what a finished chord leaves of its nodes, so that a late duplicate is refused.

_LEAF_CAPACITY = 40
_NODE_CAPACITY = 200
_CLOSED_TTL = 3600  # seconds; outlives the usual visibility time-outs of brokers
_SINGLE_LIMIT = 15_000  # members of 20 bytes, and their item is limited to 400 KB
_TEXT_ID = 1 << 31  # marks a member whose task id is not a UUID


class Part(NamedTuple):
    """A task of a chord's header, as it is counted."""

    group_index: int
    task_id: str


def member_of(part: Part) -> bytes:
    """4 bytes of index, then the task id: 16 bytes of a UUID, any other as it is."""
    try:
        task_id = uuid.UUID(part.task_id)
        if str(task_id) == part.task_id:
            return part.group_index.to_bytes(4, 'big') + task_id.bytes
    except ValueError:
        pass
    return (part.group_index | _TEXT_ID).to_bytes(4, 'big') + part.task_id.encode()


def part_of(member: bytes) -> Part:
    """The part that member_of() made this of."""
    number, task_id = int.from_bytes(member[:4], 'big'), member[4:]
    if number & _TEXT_ID:
        return Part(number ^ _TEXT_ID, task_id.decode())
    return Part(number, str(uuid.UUID(bytes=task_id)))


class Position(NamedTuple):
    """A node's place in the tree; level 0 holds the leaves."""

    level: int
    number: int

    @property
    def capacity(self) -> int:
        return _NODE_CAPACITY if self.level else _LEAF_CAPACITY

    @property
    def parent(self) -> Position:
        return Position(self.level + 1, self.number // _NODE_CAPACITY)


class Shape(NamedTuple):
    """What one level of the tree of a chord holds: its last node expects fewer members than the others."""

    level: int
    nodes: int
    last: int


def tree(parts: int) -> Iterator[Shape]:
    """The levels of the tree that counts so many parts, leaves first.  The last one has one node, the root."""
    members = parts
    for level in itertools.count():
        capacity = Position(level, 0).capacity
        nodes = max(1, math.ceil(members / capacity))
        yield Shape(level, nodes, members - capacity * (nodes - 1))
        if nodes == 1:
            return
        members = nodes


@dataclass(frozen=True)
class Node:
    """A counter node as it was read: its place, and the attributes of its item."""

    position: Position
    expected: float
    term: float
    count: int = 0
    members: frozenset[bytes] = frozenset()
    added: frozenset[bytes] = frozenset()
    root: bool = False
    owner: bytes | None = None
    lease: float = 0
    closed: bool = False

    @property
    def is_full(self) -> bool:
        return self.count == self.expected + len(self.added)

    @property
    def is_one_over(self) -> bool:
        return self.count == self.expected + len(self.added) + 1


class Claim(NamedTuple):
    """The right to join a chord: its root, and whether another delivery had it before."""

    root: Node
    taken_over: bool


class Progress(NamedTuple):
    """How many parts of a chord were counted, of how many, as far as that is known yet."""

    counted: int
    expected: int | None
    closed: bool


class MiscountedChord(Exception):
    """What was counted is not what the header has."""


class ChordCounter:
    """Counts the parts of one run of a chord.

    key: the ids of the nodes start with it.  lifetime: seconds that an unfinished node is kept (None: for ever).
    single: all parts are counted on one node, whatever their index (for a header whose indexes repeat).
    token: names this delivery of a part among others.
    """

    #: seconds that the owner of a join has before another delivery may take over, and this many times as long to
    #: publish, since Celery goes on trying while its broker is away
    LEASE = 15.0
    PUBLISHING = 4

    OPEN = 'attribute_not_exists(#closed)'
    COUNT = 'SET #owner = :owner, #lease = :lease{ttl} ADD #count :one, #members :members'
    NEW = f'{OPEN} AND NOT contains(#members, :member)'

    def __init__(self, table: Table, key: str, lifetime: float | None, single: bool = False) -> None:
        self.table = table
        self.key = key
        self.lifetime = lifetime
        self.single = single
        self.token = uuid.uuid4().bytes

    def _id(self, position: Position) -> str:
        return f'{self.key}.{position.level}.{position.number}'

    def _node(self, position: Position, item: Item) -> Node:
        attributes = {each.name: item[each.name] for each in dataclasses.fields(Node) if each.name in item}
        expected = math.inf if self.single else position.capacity
        return Node(position, **{'expected': expected, 'term': self.LEASE, **attributes})

    def _leaf(self, group_index: int) -> Position:
        return Position(0, 0 if self.single else group_index // _LEAF_CAPACITY)

    def _nodes(self, parts: int) -> dict[Position, Item]:
        """The nodes that count so many parts, leaves first, each with what it is to hold before it counts."""
        levels = [Shape(0, 1, parts)] if self.single else tree(parts)
        return {Position(level, number): {'expected': last, 'root': nodes == 1} if number == nodes - 1 else {}
                for level, nodes, last in levels for number in range(nodes)}

    # --- before the parts return -------------------------------------------------------------------------------------

    def open(self, parts: int) -> None:
        """Writes all nodes for a header of known length, in batches.  Resets those of an earlier run.  Raises ValueError."""
        if self.single and parts > _SINGLE_LIMIT:
            raise ValueError(f'the header of this chord has {parts:,} tasks, some in chains that end in groups, and such a header '
                             f'can have {_SINGLE_LIMIT:,}: make it flat, or split it')
        self.table.write_many(puts=(
            {'id': self._id(position), **expiry(self.lifetime), **size} for position, size in self._nodes(parts).items()))

    def open_unsized(self) -> None:
        """Prepares for a header whose length nobody knows yet: resets what an earlier run left."""
        first = Position(0, 0)
        earlier = self.table.put({'id': self._id(first), **expiry(self.lifetime)}).item
        leaves = 0 if earlier is None or self.single else max((leaf.number for leaf, _ in self._leaves()), default=0) + 1
        self.table.write_many(deletes=(
            self._id(position) for position in self._nodes(leaves * _LEAF_CAPACITY) if position != first))

    def resize(self, parts: int) -> None:
        """Says how many parts there are.  Must be called before the last one is sent."""
        for position, size in self._nodes(parts).items():
            if size:
                self._update(position, 'SET #expected = :expected, #root = :root{ttl}', size)

    def add(self, group_index: int, task_id: str) -> None:
        """Adds a task to the header, on behalf of the part with this index, which has not returned yet."""
        # a set, so that it does not count twice when an answer is lost; the part's leaf cannot be full before
        self._update(self._leaf(group_index), 'ADD #added :added',
                     {'added': frozenset({member_of(Part(group_index, task_id))})})

    def _update(self, position: Position, update: str, values: Mapping[str, Any],
                condition: str | None = None) -> tuple[bool, Node]:
        ttl = expiry(self.lifetime)
        text = update.replace('{ttl}', ', #ttl = :ttl' if ttl else '')
        applied, item = self.table.update(self._id(position), text, {**values, **ttl}, condition=condition)
        return applied, self._node(position, item or {})

    # --- when a part returns -----------------------------------------------------------------------------------------

    def count(self, part: Part) -> Claim | None:
        """Counts a part that returned.  Returns a claim if this delivery is to join the chord.

        Sleeps while another delivery holds the lease of a join that is not done.  Raises MiscountedChord.
        """
        position, member = self._leaf(part.group_index), member_of(part)
        while True:
            counted, node = self._update(position, self.COUNT, {
                'owner': self.token, 'lease': time.time(), 'one': 1,
                'members': frozenset({member}), 'member': member}, condition=self.NEW)
            if node.closed:
                logger.debug('Chord node %s is closed, part %s came late', self._id(position), part.task_id)
                return None
            if counted and node.is_one_over:
                raise MiscountedChord(
                    f'{node.count} parts came to leaf {position.number} of the chord, which has room for '
                    f'{node.expected}: the header is a generator that mixes groups and tasks. Give it as a list.')
            if not node.is_full:
                return None
            # a full node is reported again by each duplicate: the first to fill it may have died before
            if node.root:
                return Claim(node, False) if counted else self._wait_for_claim(node)
            position, member = position.parent, position.number.to_bytes(4, 'big')

    def _wait_for_claim(self, root: Node) -> Claim | None:
        since = time.monotonic()  # the clocks of two hosts may differ: a lease is as long as it was seen unchanged here
        while root.is_full and not root.closed:  # else it is done, or the chord was applied again
            if root.owner == self.token:  # an answer of ours was lost
                return Claim(root, False)
            wait = since + root.term - time.monotonic()
            if wait <= 0:
                taken, now = self._update(
                    root.position, 'SET #owner = :owner, #lease = :lease, #term = :term{ttl}',
                    {'owner': self.token, 'lease': time.time(), 'term': self.LEASE, 'seen': root.lease},
                    condition=f'{self.OPEN} AND #lease = :seen')
                if taken or (now.owner == self.token and not now.closed):
                    return Claim(now, True)
            else:
                # to give up would leave the chord hanging if its owner is dead
                time.sleep(min(wait, self.LEASE / 10))
                now = self._node(root.position, self.table.get(self._id(root.position)) or {})
            if now.lease != root.lease:
                since = time.monotonic()
            root = now
        return None

    def progress(self) -> Progress | None:
        """How far the chord is; None where there is none."""
        leaves = list(self._leaves())
        if not leaves:
            return None
        last_position, last = leaves[-1]
        expected = None
        if 'expected' in last:
            expected = last_position.number * _LEAF_CAPACITY + last['expected'] + sum(len(leaf.get('added', ())) for _, leaf in leaves)
        return Progress(sum(leaf.get('count', 0) for _, leaf in leaves), expected, 'closed' in leaves[0][1])

    def _leaves(self) -> Iterator[tuple[Position, Item]]:
        """The leaves that there are, in order, until there is none among the next hundred: some can have expired."""
        for start in itertools.count(0, _GET_BATCH):
            positions = [Position(0, start + number) for number in range(_GET_BATCH)]
            found = self.table.get_many(self._id(position) for position in positions)
            yield from ((position, found[self._id(position)]) for position in positions if self._id(position) in found)
            if not found:
                return

    # --- while joining -----------------------------------------------------------------------------------------------

    def collect(self, root: Node) -> tuple[list[Part], int]:
        """All parts that were counted, in the header's order, and how many the header had when it was sent.

        A part that was added follows the one that added it.  Raises MiscountedChord.
        """
        nodes = [root]
        while nodes[0].position.level:
            below = sorted(Position(node.position.level - 1, int.from_bytes(number, 'big'))
                           for node in nodes for number in node.members)
            items = self.table.get_many(self._id(position) for position in below)
            if len(items) < len(below):
                raise MiscountedChord(f'{len(below) - len(items)} of {len(below)} counters have expired or were deleted; '
                                      'if the chord takes long, see result_chord_expires')
            nodes = [self._node(position, items[self._id(position)]) for position in below]
        parts = sorted((part_of(member).group_index, member in node.added, part_of(member))
                       for node in nodes for member in node.members)
        last = nodes[-1]
        size = last.position.number * _LEAF_CAPACITY + int(last.expected)
        if len(parts) != size + sum(len(node.added) for node in nodes):
            raise MiscountedChord(f'{len(parts)} parts were counted, and the header has {size}')
        return [part for _, _, part in parts], size

    def renew(self, root: Node, publishing: bool = False) -> bool:
        """Extends the lease; False when the join is no longer ours, and nothing must be published."""
        term = self.LEASE * (self.PUBLISHING if publishing else 1)
        renewed, _ = self._update(
            root.position, 'SET #lease = :lease, #term = :term', {'lease': time.time(), 'term': term, 'owner': self.token},
            condition=f'{self.OPEN} AND #owner = :owner')
        return renewed

    def close(self, parts: int) -> None:
        """Overwrites every node, so that late duplicates are refused; they expire soon."""
        self.table.write_many(puts=(
            {'id': self._id(position), 'closed': True, **expiry(_CLOSED_TTL)} for position in self._nodes(parts)))


# ---------------------------------------------------------------------------------------------------------------------
# Waiting
# ---------------------------------------------------------------------------------------------------------------------
#
# DynamoDB tells nobody that an item has changed, so whoever waits has to look.  A look costs half a read unit per id,
# also for one that is not there.  So a wait looks at a sample of its ids, less and less often; a sample that is there
# whole is followed by a batch, and a batch that is there whole by the next, at once.  The pauses of all threads
# (or greenlets) that wait for long end together, and one of them looks for all: there is no thread for it.

_FIRST_POLL = 0.02  # seconds
_POLL_GROWTH = 1.5
_SAMPLE = 10  # ids
_PHASE = random.random()
_BURST = 8  # batches that are read together, once the one before was there whole


def poll_pause(idle_polls: int, interval: float, jitter: float) -> float:
    """Seconds until the next poll, after so many that found little; jitter is from [0, 1)."""
    return min(interval, _FIRST_POLL * _POLL_GROWTH ** min(idle_polls, 64) * (1 + jitter / 2))


def window_size(asked: int, found: int, pending: int) -> int:
    """How many ids to look at next, after so many of those asked for were found, and so many are still pending."""
    if found == asked:
        return _GET_BATCH if asked < _GET_BATCH else min(2 * asked, _BURST * _GET_BATCH)
    # twice as many as last time, and enough to have looked at all after 32 polls
    return min(_GET_BATCH, max(_SAMPLE, 2 * found, pending // 32))


class Seen(NamedTuple):
    """What a look saw under an id; ``mark`` differs whenever the value does."""

    value: Any
    mark: Any
    final: bool


class Look(Protocol):
    def __call__(self, ids: list[str], *, deadline: float, exact: bool) -> Mapping[str, Seen]: ...


class Wait:
    """The ids that one caller waits for, and when to look for them next.

    all_changes: the caller wants to know of values that are not final, too.
    """

    def __init__(self, ids: Iterable[str], interval: float, all_changes: bool = False) -> None:
        self.interval = interval
        self.all_changes = all_changes
        self.left: dict[str, Any] = dict.fromkeys(ids)  # to the mark of the value that the caller knows
        self.turns = deque(self.left)  # the same ids, those first that were not looked at for longest
        self.news: deque[tuple[str, Seen]] = deque()
        self.size, self.idle_polls, self.due = _GET_BATCH, 0, 0.0

    def window(self) -> list[str]:
        """The ids to look at next; they are not offered again until take() was told."""
        return [self.turns.popleft() for _ in range(min(self.size, len(self.turns)))]

    def take(self, window: list[str], seen: Mapping[str, Seen]) -> bool:
        """Notes what was seen of a window.  Returns whether it was a whole batch, so that the next is due at once."""
        if not window:
            self.due = time.monotonic() + max(self.interval, _FIRST_POLL)
            return False
        found = 0
        for id in window:
            sight = seen.get(id)
            final = sight is not None and sight.final
            if sight is not None and id in self.left and (final or (self.all_changes and sight.mark != self.left[id])):
                self.news.append((id, sight))
                self.left[id] = sight.mark
            if final:
                self.left.pop(id, None)
                found += 1
            elif id in self.left:
                self.turns.append(id)
        self.size = window_size(len(window), found, len(self.turns))
        if found == len(window):
            self.idle_polls = 0
        elif 2 * found < len(window):
            self.idle_polls += 1
        at_once = found == len(window) >= _GET_BATCH
        self.due = time.monotonic() + (0 if at_once else poll_pause(self.idle_polls, self.interval, random.random()))
        if self.interval and poll_pause(self.idle_polls, self.interval, 0) == self.interval:
            # the pauses of all long waits end together; those of other processes do not
            self.due = (round(self.due / self.interval - _PHASE) + _PHASE) * self.interval
        return at_once

    def take_news(self) -> Iterator[tuple[str, Seen]]:
        while self.news:
            yield self.news.popleft()


_pollers: weakref.WeakSet[Poller] = weakref.WeakSet()


class Poller:
    """Looks for things on behalf of all threads that wait for them.

    look: what there is under ids.  Raises TimeoutError when its deadline (of ``time.monotonic``) passed first.
    standing: the ids that somebody wants to hear of without waiting; looked for as long as somebody waits.
    tell: told what was seen of these.
    """

    def __init__(self, look: Look, standing: Callable[[], Iterable[str]] = tuple,
                 tell: Callable[[str, Seen], None] = lambda id, seen: None) -> None:
        self._look, self._standing_ids, self._tell = look, standing, tell
        self.reset()
        _pollers.add(self)

    def reset(self) -> None:
        """Forgets all waits: they are those of threads that did not survive a fork."""
        self._changed = threading.Condition()
        self._waits: list[Wait] = []
        self._polling = False
        self._standing = Wait((), 0.5)

    def wait(self, ids: Iterable[str], *, timeout: float | None, interval: float,
             on_interval: Callable[[], Any] | None = None, all_changes: bool = False) -> Iterator[tuple[str, Seen]]:
        """Yields (id, what was seen) until all ids were seen in their final state.

        timeout, interval: seconds; 0 looks once.  on_interval is called once per ``interval``.  Raises TimeoutError,
        after a last look at everything.
        """
        called = time.monotonic()
        deadline = math.inf if timeout is None else called + timeout
        wait = Wait(ids, max(interval, 0.001), all_changes)
        if timeout is None or timeout > 0:
            yield from self._read_batches(wait, deadline)
            if wait.left:
                yield from self._wait_with_others(wait, deadline, called, on_interval)
        if wait.left:
            window = list(wait.left)
            seen = self._look(window, deadline=deadline, exact=True)
            with self._changed:  # another thread may be bringing the same
                wait.take(window, seen)
            yield from wait.take_news()
        if wait.left:
            raise TimeoutError(f'The operation timed out after {timeout:g} s; results not ready: {len(wait.left)}.')

    def _read_batches(self, wait: Wait, deadline: float) -> Iterator[tuple[str, Seen]]:
        """Looks for one batch after the other, until one is not there whole."""
        at_once = True
        while at_once and wait.left:
            window = wait.window()
            at_once = wait.take(window, self._look(window, deadline=deadline, exact=len(wait.left) == 1))
            yield from wait.take_news()

    def _wait_with_others(self, wait: Wait, deadline: float, called: float,
                          on_interval: Callable[[], Any] | None) -> Iterator[tuple[str, Seen]]:
        """Takes part in the polls of all threads.  called: when on_interval was, or would have been."""
        with self._changed:
            self._waits.append(wait)
        try:
            while wait.left and time.monotonic() < deadline:
                if on_interval is not None and time.monotonic() - called >= wait.interval:
                    on_interval()
                    called = time.monotonic()  # after it: it may take longer than the interval
                until = called + wait.interval if on_interval is not None else math.inf
                self._poll(wait, min(until, deadline), deadline)
                yield from wait.take_news()
        finally:
            with self._changed:
                if wait in self._waits:
                    self._waits.remove(wait)
                self._changed.notify_all()

    def serve(self, timeout: float) -> None:
        """Looks for what is wanted without a wait, for so many seconds."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            self._poll(self._standing, until, math.inf)

    def _poll(self, wait: Wait, until: float, deadline: float) -> None:
        """Sleeps until there is news for a wait, or ``until``; looks for all who wait, unless another thread does."""
        while True:
            with self._changed:
                now = time.monotonic()
                if wait.news or now >= until or (not wait.left and wait is not self._standing):
                    return
                waits = [*self._waits, self._standing]
                due = min(each.due for each in waits)
                if self._polling or due > now:
                    wake = until if self._polling else min(due, until)
                    self._changed.wait(None if wake == math.inf else wake - now)
                    continue
                self._refresh_standing(now)
                turns = [(each, each.window()) for each in waits if each.due <= now + each.interval / 10]
                ids = list(dict.fromkeys(id for _, window in turns for id in window))
                self._polling = bool(ids)
            seen: Mapping[str, Seen] = {}
            try:
                if ids:
                    seen = self._look(ids, deadline=deadline, exact=False)
            finally:
                with self._changed:
                    self._polling = False
                    for each, window in turns:
                        each.take(window, seen)
                    self._changed.notify_all()
            for id, sight in self._standing.take_news():
                self._tell(id, sight)

    def _refresh_standing(self, now: float) -> None:
        standing = self._standing
        if standing.due <= now + standing.interval / 10:
            wanted = dict.fromkeys(self._standing_ids())
            standing.left = wanted
            standing.turns = deque([*(id for id in standing.turns if id in wanted),
                                    *(wanted.keys() - set(standing.turns))])


def _forget_waits_of_parent() -> None:
    for poller in list(_pollers):
        poller.reset()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget_waits_of_parent)


# ---------------------------------------------------------------------------------------------------------------------
# Backend
# ---------------------------------------------------------------------------------------------------------------------

class ResultTooLarge(BackendStoreError, EncodeError):
    """A result of more bytes than ``max_result_size``.  An EncodeError, for which Celery's worker fails the task."""

    __repr__ = Exception.__repr__  # BackendStoreError's ends in the state and id of a task, which are not known here


#: the tasks of a generator header come without group_index
LAZY_PARTS_LACK_INDEX = celery.VERSION[:2] < (5, 4)


class _Opened(NamedTuple):
    """What apply_chord did, for set_chord_size."""

    parts: int | None
    single: bool


def leaf_results(result: ResultBase) -> Iterator[AsyncResult]:
    """The results of single tasks in a result, which may be a set of sets."""
    if isinstance(result, ResultSet):
        for child in result.results:
            yield from leaf_results(child)
    else:
        yield result


def parents_of(result: ResultBase) -> Iterator[AsyncResult]:
    """The results of single tasks that a result depends on, as get() asks them for errors."""
    if result.parent:
        yield from parents_of(result.parent)
        yield from leaf_results(result.parent)


def asked_in_order(result: ResultBase, task_id: str) -> list[str]:
    """The ids of the tasks that are asked one by one, this one among them, where no state is known yet."""
    leaves = list(leaf_results(result))
    parents = itertools.chain.from_iterable(map(parents_of, leaves))
    for results in (leaves, parents):
        ids = dict.fromkeys(leaf.id for leaf in results if leaf._cache is None)
        if task_id in ids:
            return list(ids)
    return []


def with_parents(result: ResultBase) -> Iterator[AsyncResult]:
    """The results of single tasks in a result, each after its parents, as forget() walks over them."""
    for leaf in leaf_results(result):
        if leaf.parent:
            yield from with_parents(leaf.parent)
        yield leaf


def arrange(result: ResultBase, metas: Mapping[str, Mapping[str, Any]]) -> Any:
    """The values of a header's result, in its structure.  Raises what the first failed task raised."""
    if isinstance(result, GroupResult):
        return [arrange(child, metas) for child in result.results]
    meta = metas[result.id]
    if meta['status'] in states.PROPAGATE_STATES:
        raise meta['result']
    return meta['result']


def first_and_last(signature: Any, app: Any) -> Iterator[str]:
    """The ids of the tasks that run first and last when a signature is applied, as far as it was frozen."""
    signature = maybe_signature(signature, app=app)
    tasks = getattr(signature, 'tasks', None)
    if tasks:
        for task in (tasks[0], tasks[-1]) if isinstance(signature, chain) else tasks:
            yield from first_and_last(task, app)
    elif signature.options.get('task_id'):
        yield signature.options['task_id']


def has_callback(ready: promise, known: dict[int, bool]) -> bool:
    """Whether somebody has a callback on a result: on itself, or on a set that it is a member of.

    known: remembers the sets that were asked before.
    """
    for listener in ready.listeners:
        if isinstance(listener, barrier):  # of a ResultSet, which hears of it by a method of its own
            if id(listener) not in known:
                methods = [each.fun() if getattr(each, 'weak', False) else each for each in listener.p.listeners if each]
                sets = [getattr(method, '__self__', None) for method in methods if method]
                known[id(listener)] = any(has_callback(each.on_ready, known) for each in sets if isinstance(each, ResultSet))
            if known[id(listener)]:
                return True
        elif listener is not None:
            return True
    return False


class ResultConsumer(BaseResultConsumer):
    """Resolves result objects: those that somebody waits for, and meanwhile those that have a callback.

    With gevent and eventlet a greenlet looks for the latter, too, while nobody waits.
    """

    def __init__(self, backend: DynamoDBBackend, *args: Any) -> None:
        super().__init__(backend, *args)
        self.poller = Poller(backend.look, self._with_callback, lambda task_id, seen: self._resolve_safely(seen.value))
        # a result is held by whoever made it, or because of its callback, which is not known before then() returns
        self._known: dict[str, dict[int, weakref.ref[AsyncResult]]] = {}
        self._held: dict[int, AsyncResult] = {}
        self._unsettled: deque[tuple[AsyncResult, int, float]] = deque()  # and the thread that made each, and when

    # add() and remove() run in any thread, remove() also in the middle of anything, called by AsyncResult.__del__: no locks

    def add(self, result: AsyncResult, weak: bool) -> None:
        self._settle()
        while True:
            results = self._known.setdefault(result.id, {})
            results[id(result)] = weakref.ref(result)
            if self._known.get(result.id) is results:  # else remove() has just dropped it
                break
        if not weak:
            self._unsettled.append((result, threading.get_ident(), time.monotonic()))

    def remove(self, result: ResultBase) -> None:
        self._held.pop(id(result), None)
        results = self._known.get(result.id, {})
        results.pop(id(result), None)
        if not results:
            self._known.pop(result.id, None)

    def forget(self, task_id: str) -> None:
        for result in self._results(task_id):
            self.remove(result)

    def _settle(self) -> None:
        for result, thread, made in _popped(self._unsettled):
            if thread != threading.get_ident() and time.monotonic() - made < 1:
                # that thread may be between making the result and its callback
                self._unsettled.appendleft((result, thread, made))
                return
            if id(result) in self._known.get(result.id, ()) and has_callback(result.on_ready, {}):
                self._held[id(result)] = result

    def _results(self, task_id: str) -> list[AsyncResult]:
        results = (reference() for reference in list(self._known.get(task_id, {}).values()))
        return [result for result in results if result is not None]

    def _with_callback(self) -> list[str]:
        self._settle()
        known: dict[int, bool] = {}
        return [task_id for task_id in list(self._known)
                if any(has_callback(result.on_ready, known) for result in self._results(task_id))]

    def on_state_change(self, meta: dict[str, Any], message: Any = None) -> None:
        if meta['status'] in states.READY_STATES:
            for result in self._results(meta['task_id']):
                result._maybe_set_cache(dict(meta))

    def _resolve_safely(self, meta: dict[str, Any]) -> None:
        try:
            self.on_state_change(meta)
        except Exception:  # not the fault of whoever waits, for something else
            logger.exception('A callback on the result of task %s raised', meta['task_id'])

    def _wait_for_pending(self, result: ResultBase, timeout: float | None = None, on_interval: Any = None,
                          on_message: Any = None, interval: float | None = 0.5, **kwargs: Any) -> Iterator[Any]:
        """Yields the id of each task of a result as it becomes ready."""
        leaves: dict[str, list[AsyncResult]] = {}
        for leaf in leaf_results(result):
            if leaf._cache is None:
                leaves.setdefault(leaf.id, []).append(leaf)
        interval = 0.5 if interval is None else interval
        ask_parents = None
        if isinstance(result, AsyncResult) and result.parent:
            ask_parents = on_interval
            # Celery reads all parents whenever on_interval is called; of many, not all in each interval
            parents = sum(leaf._cache is None for leaf in parents_of(result))
            on_interval = _every(max(1, parents // _SAMPLE), on_interval)
        try:
            for task_id, seen in self.poller.wait(leaves, timeout=timeout, interval=interval, on_interval=on_interval,
                                                  all_changes=on_message is not None):
                if on_message is not None:
                    on_message(dict(seen.value))
                if seen.final:
                    for leaf in leaves[task_id]:
                        leaf._maybe_set_cache(dict(seen.value))
                    self.on_state_change(seen.value)
                    if ask_parents is not None and seen.value['status'] in states.PROPAGATE_STATES:
                        ask_parents()  # which raises the error of the parent that this one is due to
                    yield task_id
        finally:
            self._settle()

    def drain_events(self, timeout: float | None = None) -> None:
        """Looks for results with a callback: what the greenlet of Celery's gevent and eventlet drainers does."""
        try:
            self.poller.serve(1.0 if timeout is None else timeout)
        except Exception:  # the greenlet would die, and with it every callback to come
            logger.exception('Looking for results failed')
            time.sleep(self.backend.options.retry_max_delay)


def _every(times: int, call: Callable[[], Any] | None) -> Callable[[], Any] | None:
    if call is None or times == 1:
        return call
    count = itertools.count(1)
    return lambda: None if next(count) % times else call()


# --- what ResultSet asks one by one ----------------------------------------------------------------------------------
#
# ResultSet.ready(), .forget(), .join() and their like, and AsyncResult.get() for its parents, call the backend once for
# each of their results, and give it no sign that more will come.  The stack does.

def time_limit(frame: FrameType | None) -> float:
    """The time-out of the get() that a call is part of, in seconds."""
    while frame is not None:
        if frame.f_code is AsyncResult.get.__code__:
            timeout = frame.f_locals.get('timeout')
            return math.inf if timeout is None else float(timeout)
        frame = frame.f_back
    return math.inf


class _Bulk:
    """What one such call has asked and is about to ask."""

    def __init__(self, call: FrameType) -> None:
        self.frame_id = id(call)
        self.asked = time.monotonic()
        self.deadline = self.asked + time_limit(call)
        self.size = 1
        self.order: deque[str] = deque()
        self.metas: dict[str, dict[str, Any]] = {}
        self.done: set[str] = set()
        self.forgotten: Counter[str] = Counter()

    def goes_on(self, call: FrameType, task_id: str) -> bool:
        # A frame's id can come again, when its call has ended half way: then the new call starts anew, or what the old
        # one left is too old.
        return self.frame_id == id(call) and task_id not in self.done and time.monotonic() - self.asked < 0.05


def bulk_call(frame: FrameType | None) -> FrameType | None:
    """The outermost call of a ResultSet, or for the parents of a result, that this call of celery.result is part of."""
    outermost = None
    while frame is not None and frame.f_globals.get('__name__') == AsyncResult.__module__:
        if frame.f_code.co_name == '_maybe_reraise_parent_error' or isinstance(frame.f_locals.get('self'), ResultSet):
            outermost = frame
        frame = frame.f_back
    return outermost


class _Local(threading.local):
    """What a backend knows of one thread: with result_backend_thread_safe, threads share the backend."""

    stored: str | None = None  # the task whose result was stored last
    reading: _Bulk | None = None
    forgetting: _Bulk | None = None


class DynamoDBBackend(AsyncBackendMixin, BaseKeyValueStoreBackend):
    """Celery result backend that keeps results in DynamoDB.

    url: ``dynamodb://access_key:secret_key@region:port/table?option=value``; see Options.  table_name: the table, where
    the URL has none.  Raises ImproperlyConfigured for an option that is unknown or malformed.

    Methods try again for up to ``retry_timeout`` seconds, then raise botocore's ClientError or BotoCoreError; they raise
    ImproperlyConfigured where somebody has to act (credentials, permissions, a table that is missing or has
    another key), and ResultTooLarge for what they do not store.
    """

    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True

    #: key of a chord's body that tells its parts to count on one node: their indexes repeat
    _SINGLE = 'chord_counter_single'

    def __init__(self, url: str | None = None, table_name: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        conf = self.app.conf
        self.url = unmask_secret(url, conf.result_backend)
        self.table_name = table_name
        self.options = parse_options(self.url, conf, table_name)
        if self.options.region is None or self.options.profile:
            open_session(self.options)
        own_expires = self.options.ttl_seconds if kwargs.get('expires') is None else None
        self.expires: int | None = self._lifetime(own_expires, self._lifetime(self.expires))
        self.failure_expires = self._lifetime(conf.get('result_failure_expires'), self.expires)
        self._chord_lifetime = self._lifetime(conf.get('result_chord_expires'), self.expires)
        self._opened_chords: LRUCache = LRUCache(limit=1000)  # a header that is sent half way is never sized
        self._chunked: LRUCache = LRUCache(limit=1000)  # ids of the chunks of large values that were read
        self._local = _Local()
        self.result_consumer = ResultConsumer(
            self, self.app, self.accept, self._pending_results, self._pending_messages)

    def _lifetime(self, setting: Any, default: int | None = None) -> int | None:
        """Whole seconds (None: for ever) from a setting in any of Celery's forms; default: what holds where it is not set."""
        seconds = default if setting is None else math.ceil(self.prepare_expires(setting))
        return seconds if seconds and seconds > 0 else None

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        # a pickle travels and is kept: it holds no secret key, and finds it again in the app's result_backend
        return super().__reduce__(args, {
            'url': mask_secret(self.url) if self.url else None, 'table_name': self.table_name,
            'expires': self.expires or 0, 'serializer': self.serializer, **(kwargs or {})})

    def as_uri(self, include_password: bool = False) -> str:
        url = self.url or 'dynamodb://'
        return url if include_password else mask_secret(url)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return is_transient(exc)

    @property
    def values(self) -> Values:
        return Values(shared_table(self.options))

    # --- keys and values ---------------------------------------------------------------------------------------------

    def _id(self, key: Any) -> str:
        # Celery's own backend stores str(key), and its keys are bytes
        return str(ensure_bytes(key)) if self.options.celery_keys else bytes_to_str(key)

    def _put(self, key: Any, value: Any, state: str | None, lifetime: float | None, keep: str | None = None) -> None:
        payload = ensure_bytes(value)
        if len(payload) > self.options.max_result_size:
            raise ResultTooLarge(
                f'the result for {bytes_to_str(key)} has {len(payload):,} bytes as it is stored, and '
                f'max_result_size is {self.options.max_result_size:,}')
        self.values.put(self._id(key), payload, state, lifetime, keep=keep, status_of=self._status_of)

    def _status_of(self, value: bytes) -> str | None:
        try:
            return self.decode(value)['status']
        except Exception:  # whatever it is, it is not a result that must be kept
            return None

    def get(self, key: Any) -> bytes | None:
        return self.mget([key])[0]

    def mget(self, keys: Iterable[Any]) -> list[bytes | None]:
        ids = [self._id(key) for key in keys]
        stored = self.values.get_many(ids)
        return [stored[id].read() if id in stored else None for id in ids]

    def set(self, key: Any, value: Any) -> None:
        self._put(key, value, None, self.expires)

    def _set_with_state(self, key: Any, value: Any, state: str) -> None:
        self._put(key, value, state, self._state_lifetime(state))

    def delete(self, key: Any) -> None:
        self.values.delete(self._id(key))

    def expire(self, key: Any, value: float | None) -> None:
        self.values.expire(self._id(key), value)

    def incr(self, key: Any) -> int:
        return self.values.increment(self._id(key))

    # --- results -----------------------------------------------------------------------------------------------------

    def _state_lifetime(self, state: str, chord: Any = None) -> int | None:
        lifetime = self.failure_expires if state == states.FAILURE else self.expires
        if not chord or lifetime is None:
            return lifetime
        # the join must still find it: set here, where it costs no write of its own
        return None if self._chord_lifetime is None else max(lifetime, self._chord_lifetime)

    def _store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None,
                      **kwargs: Any) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta['task_id'] = bytes_to_str(task_id)
        key, lifetime = self.get_key_for_task(task_id), self._state_lifetime(state, getattr(request, 'chord', None))
        try:
            self._put(key, self.encode(meta), state, lifetime, keep=states.SUCCESS)
        except ResultTooLarge as exc:
            if state not in states.EXCEPTION_STATES:
                raise  # and the worker fails the task
            logger.error('Task %s: an exception was not stored: %s', task_id, exc)
            meta.update(result=self.encode_result(exc, state), traceback=None)
            self._put(key, self.encode(meta), state, lifetime, keep=states.SUCCESS)
        if state in states.READY_STATES:
            self._local.stored = task_id
        return result

    def look(self, ids: Iterable[str], *, deadline: float = math.inf, exact: bool = True) -> dict[str, Seen]:
        """The metas that are stored for tasks, by task id.  Raises TimeoutError once the deadline has passed.

        deadline: of ``time.monotonic``.  exact: strongly consistent, at twice the cost.
        """
        keys = {task_id: self._id(self.get_key_for_task(task_id)) for task_id in ids}
        try:
            found = self.values.get_many(keys.values(), consistent=exact, deadline=deadline)
        except Exception as exc:
            if is_transient(exc) and time.monotonic() >= deadline:
                raise TimeoutError('The operation timed out while DynamoDB was not answering.') from exc
            raise
        seen = {}
        for task_id, id in keys.items():
            stored = found.get(id)
            if stored is not None and (stored.value or stored.error):
                self._chunked.update({id: stored.ids} if len(stored.ids) > 1 else {})
                meta = self._meta(task_id, stored)
                seen[task_id] = Seen(meta, stored.value, meta['status'] in states.READY_STATES)
        return seen

    def _meta(self, task_id: str, stored: Stored) -> dict[str, Any]:
        """The meta in a stored value; of one that cannot be read, that of a failure which says so."""
        try:
            meta: dict[str, Any] = self.decode_result(stored.read())
            if not isinstance(meta['status'], str):
                raise TypeError('its status is not a text')
            return {'result': None, **meta, 'task_id': task_id}
        except Exception as exc:
            why = f'{type(exc).__name__}: {str(exc)[:300]}'
            error = BackendGetMetaError(f'the stored result cannot be read: {why}', task_id=task_id)
            return {'task_id': task_id, 'status': states.FAILURE, 'result': error, 'traceback': None, 'children': []}

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """The meta of a task; where a ResultSet asks for those of many, they are read together."""
        meta = self._read_ahead(bulk_call(sys._getframe(1)), task_id)
        return super().get_task_meta(task_id, cache) if meta is None or self.is_cached(task_id) else meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        return self._metas([task_id])[task_id]

    def _metas(self, task_ids: list[str]) -> dict[str, dict[str, Any]]:
        """The metas of tasks, pending where nothing is stored."""
        bulk = self._local.reading
        seen = self.look(task_ids, deadline=bulk.deadline if bulk else math.inf)
        return {id: seen[id].value if id in seen else {'status': states.PENDING, 'result': None} for id in task_ids}

    def _read_ahead(self, call: FrameType | None, task_id: str) -> dict[str, Any] | None:
        """The meta of a task, if it was read together with others, for a call that asks for one after the other."""
        bulk = self._local.reading
        if call is None:
            self._local.reading = None
            return None
        if bulk is None or not bulk.goes_on(call, task_id):
            bulk = self._local.reading = _Bulk(call)
        if task_id not in bulk.metas:
            # not ahead of the first: ready() ends at the first that is not
            if bulk.size > 1:
                if task_id not in bulk.order:
                    bulk.order = deque(asked_in_order(call.f_locals['self'], task_id))
                while bulk.order and bulk.order[0] != task_id:
                    bulk.order.popleft()
                bulk.metas = self._metas(list(itertools.islice(_popped(bulk.order), bulk.size)))
            bulk.size = min(bulk.size * 8, _GET_BATCH)
        bulk.done.add(task_id)
        bulk.asked = time.monotonic()
        return bulk.metas.pop(task_id, None)

    def forget(self, task_id: str) -> None:
        """Deletes the result of a task; those of a ResultSet together, when it forgets them all."""
        self.result_consumer.forget(task_id)  # before Celery 5.6, AsyncResult.forget() does not tell it
        call = bulk_call(sys._getframe(1))
        if call is None or call.f_code.co_name != 'forget':
            super().forget(task_id)
            return
        bulk = self._local.forgetting
        if bulk is None or not bulk.goes_on(call, task_id) or not bulk.forgotten[task_id]:
            bulk = self._local.forgetting = _Bulk(call)
            bulk.forgotten.update(result.id for result in with_parents(call.f_locals['self']))
            self.forget_many(bulk.forgotten)
        bulk.forgotten[task_id] -= 1
        bulk.asked = time.monotonic()
        self._cache.pop(task_id, None)

    def forget_many(self, task_ids: Iterable[str]) -> None:
        """Deletes the results of tasks in batches.

        The chunks of a large result go with it where this process has read it or where results never expire; otherwise
        they stay until they expire.
        """
        ids = [self._id(self.get_key_for_task(task_id)) for task_id in task_ids]
        chunks = [chunk_id for id in ids for chunk_id in self._chunked.pop(id, ())[1:]]
        self.values.delete_many([*ids, *chunks], with_chunks=self.expires is None)

    def _restore_group(self, group_id: str) -> Any:
        # it was saved, or nobody would ask for it: wait for it to appear
        for _ in Backoff(0.05, 0.2, self.options.consistency_wait_time).tries():
            meta = super()._restore_group(group_id)
            if meta:
                return meta
        return None

    # --- waiting -----------------------------------------------------------------------------------------------------

    def get_many(self, task_ids: Iterable[str], timeout: float | None = None, interval: float | None = 0.5,
                 no_ack: bool = True, on_message: Any = None, on_interval: Any = None,
                 max_iterations: int | None = None, READY_STATES: Any = states.READY_STATES) -> Iterator[tuple[str, Any]]:
        """Yields (task id, meta) as tasks become ready."""
        interval = 0.5 if interval is None else interval
        ids = dict.fromkeys(bytes_to_str(task_id) for task_id in task_ids)
        for task_id in list(ids):
            if self.is_cached(task_id) and self._cache[task_id]['status'] in READY_STATES:
                del ids[task_id]
                yield task_id, self._cache[task_id]
        poller = self.result_consumer.poller
        if READY_STATES is not states.READY_STATES:
            poller = Poller(lambda ids, **kwargs: {
                task_id: seen._replace(final=seen.value['status'] in READY_STATES)
                for task_id, seen in self.look(ids, **kwargs).items()})
        for iteration in range(max_iterations or 1):
            if iteration:
                time.sleep(interval)
            try:
                for task_id, seen in poller.wait(
                        list(ids), timeout=0 if max_iterations else timeout, interval=interval, on_interval=on_interval):
                    del ids[task_id]
                    self._cache[task_id] = seen.value
                    if on_message is not None:
                        on_message(seen.value)
                    yield task_id, seen.value
            except TimeoutError:
                if not max_iterations:
                    raise

    def add_pending_result(self, result: AsyncResult, weak: bool = False, start_drainer: bool = True) -> AsyncResult:
        if start_drainer:
            self.result_consumer.drainer.start()
        self.result_consumer.add(result, weak)
        return result

    def remove_pending_result(self, result: ResultBase) -> ResultBase:
        self.result_consumer.remove(result)
        return result

    def wait_for_pending(self, result: AsyncResult, callback: Any = None, propagate: bool = True, **kwargs: Any) -> Any:
        """Waits for a result and returns it.  Raises celery.exceptions.TimeoutError, and what the task raised."""
        # join() asks for one result after the other
        result._maybe_set_cache(self._read_ahead(bulk_call(sys._getframe(1)), result.id))
        return super().wait_for_pending(result, callback=callback, propagate=propagate, **kwargs)

    def iter_native(self, result: ResultSet, no_ack: bool = True, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Yields (id, meta) of each task, and (id, results) of each group, of a ResultSet as they become ready."""
        self._ensure_not_eager()
        waiting: dict[str, list[int]] = {}
        missing = [0] * len(result.results)
        for number, node in enumerate(result.results):
            for task_id in {leaf.id for leaf in leaf_results(node) if leaf._cache is None}:
                waiting.setdefault(task_id, []).append(number)
                missing[number] += 1

        def outcome(number: int) -> tuple[str, Any]:
            node = result.results[number]
            return node.id, node.results if isinstance(node, ResultSet) else node._cache

        for number, count in enumerate(missing):
            if not count:
                yield outcome(number)
        for task_id in self._wait_for_pending(result, no_ack=no_ack, **kwargs) if waiting else ():
            for number in waiting[task_id]:
                missing[number] -= 1
                if not missing[number]:
                    yield outcome(number)

    # --- chords ------------------------------------------------------------------------------------------------------

    def _counter(self, group_id: str, single: bool) -> ChordCounter:
        key = self._id(self.get_key_for_chord(group_id))
        return ChordCounter(shared_table(self.options), key, self._chord_lifetime, single)

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Prepares the counters, before the first part is sent.  Raises ValueError for a header that cannot be counted."""
        self.ensure_chords_allowed()
        group_id, results = header_result_args[0], header_result_args[1]
        # Celery's lazy list, a subclass, must not be exhausted: the first parts are to run while it still yields.
        # One look ahead is what Celery does too before it sends.
        is_lazy = type(results) is not list
        looked_at = itertools.islice(results, 1) if is_lazy else results
        single = any(isinstance(result, GroupResult) for result in looked_at) or (is_lazy and LAZY_PARTS_LACK_INDEX)
        parts = None if is_lazy else sum(1 for result in results for _ in leaf_results(result))
        body.pop(self._SINGLE, None)
        counter = self._counter(group_id, single)
        if single:
            # parts of groups have the indexes of their groups; the message tells each part where to count
            body[self._SINGLE] = True
        if parts is None:
            counter.open_unsized()
        else:
            counter.open(parts)
            if single:
                self._put(self.get_key_for_chord(group_id, '.header'), self.encode(
                    {'result': self.app.GroupResult(*header_result_args).as_tuple()}), None, self._chord_lifetime)
        self._opened_chords[group_id] = _Opened(parts, single)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Called just before the last part is sent, by whoever called apply_chord.

        Called elsewhere too: by a worker that sends a group of the header, of which it is not the size.
        """
        opened = self._opened_chords.pop(group_id, None)
        if opened is not None and opened.parts != chord_size:
            self._counter(group_id, opened.single).resize(chord_size)

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Called by a task of the header, which has not returned yet, for a task that it adds."""
        request = get_current_task().request
        self._counter(group_id, self._is_single(request)).add(request.group_index or 0, result.id)

    def _is_single(self, request: Any) -> bool:
        return bool((getattr(request, 'chord', None) or {}).get(self._SINGLE))

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Counts a part of a chord, and joins the chord when it was the last."""
        group_id, task_id = request.group, request.id
        if not group_id or not task_id:
            return
        part = Part(request.group_index or 0, task_id)
        if self._local.stored != task_id:
            # its result was ignored, yet the body wants it
            self._put(self._stash_key(group_id, part), self.encode(
                {'task_id': task_id, 'status': state, 'result': self.encode_result(result, state)}), state, self._chord_lifetime)
        self._local.stored = None
        counter = self._counter(group_id, self._is_single(request))
        try:
            claim = counter.count(part)
        except MiscountedChord as exc:
            logger.error('Chord %r: %s', group_id, exc)
            self.chord_error_from_stack(maybe_signature(request.chord, app=self.app), ChordError(str(exc)))
            return
        if claim is not None:
            self._join_chord(group_id, maybe_signature(request.chord, app=self.app), counter, claim)

    def _stash_key(self, group_id: str, part: Part) -> bytes:
        return self.get_key_for_chord(group_id, f'.part.{part.group_index}.{part.task_id}')

    def _join_chord(self, group_id: str, body: Any, counter: ChordCounter, claim: Claim) -> None:
        """Calls the body with what the header returned, or its errbacks; then closes the chord."""
        size = 0
        stash: list[str] = []
        try:
            parts, size = counter.collect(claim.root)
            # whoever owned the join before may have died between publishing the body and closing the chord
            published = claim.taken_over and self.look(first_and_last(body, self.app))
            if not published:
                header, stash = self._header_values(group_id, parts, counter, claim.root)
        except Exception as exc:
            # told in here: Celery stores the traceback of the exception that is being handled
            logger.exception('Chord %r raised: %r', group_id, exc)
            if not counter.renew(claim.root, publishing=True):
                return
            self.chord_error_from_stack(body, exc if isinstance(exc, ChordError) else ChordError(f'Join error: {exc!r}'))
        else:
            # a worker that stalled past its lease must not publish: another one may have, meanwhile
            if not counter.renew(claim.root, publishing=True):
                logger.warning('Chord %r: the body was not published here, another worker has taken over', group_id)
                return
            if not published:
                self._publish(group_id, body, header)
        if size:
            counter.close(size)
        self.values.delete_many(stash)

    def _publish(self, group_id: str, body: Any, header: list[Any]) -> None:
        try:
            # in versions of Celery that have it, this waits between its tries to publish
            publish = getattr(self.app.amqp, '_retry_publish', lambda call, *args: call(*args))
            publish(body.delay, header)
        except Exception as exc:
            logger.exception('Chord callback for %r raised: %r', group_id, exc)
            self.chord_error_from_stack(body, ChordError(f'Callback error: {exc!r}'))

    def _header_values(self, group_id: str, parts: list[Part], counter: ChordCounter, root: Node) -> tuple[list[Any], list[str]]:
        """What the body is called with, and the ids of what was stored for the chord alone.

        Raises ChordError for the first part that failed, and TimeoutError if results do not appear.
        """
        metas, stash = self._header_metas(group_id, parts, counter, root)
        saved = self.values.get(self._id(self.get_key_for_chord(group_id, '.header'))) if counter.single else None
        if saved is None:
            return [self._part_value(part, metas[part]) for part in parts], stash
        by_id = {part.task_id: meta for part, meta in metas.items()}
        structure = result_from_tuple(self.decode(saved.read())['result'], self.app)
        return arrange(structure, by_id), [*stash, *saved.ids]

    def _header_metas(self, group_id: str, parts: list[Part], counter: ChordCounter,
                      root: Node) -> tuple[dict[Part, dict[str, Any]], list[str]]:
        """The metas of all parts, and the ids of those that were stored for the chord alone; renews the lease meanwhile."""
        metas: dict[Part, dict[str, Any]] = {}
        stash: list[str] = []
        renewed = time.monotonic()
        patience = max(self.options.consistency_wait_time, self.app.conf.result_chord_join_timeout or 0)
        for _ in Backoff(0.05, 0.5, patience).tries():
            missing = [part for part in parts if part not in metas]
            for start in range(0, len(missing), _GET_BATCH):
                page = missing[start:start + _GET_BATCH]
                ready = {task_id: seen.value for task_id, seen in self.look(part.task_id for part in page).items() if seen.final}
                metas.update((part, ready[part.task_id]) for part in page if part.task_id in ready)
                ignored = {self._id(self._stash_key(group_id, part)): part for part in page if part not in metas}
                for id, stored in self.values.get_many(ignored).items():
                    metas[ignored[id]] = self._meta(ignored[id].task_id, stored)
                    stash.extend(stored.ids)
                if time.monotonic() - renewed > counter.LEASE / 3:
                    counter.renew(root)
                    renewed = time.monotonic()
            if len(metas) == len(parts):
                return metas, stash
        first = next(part for part in parts if part not in metas)
        raise TimeoutError(f'{len(parts) - len(metas)} results of the header, that of {first.task_id} first, '
                           f'did not appear in {patience:g} s; if the chord takes long, they may have expired: '
                           'see result_chord_expires')

    @staticmethod
    def _part_value(part: Part, meta: Mapping[str, Any]) -> Any:
        value = meta['result']
        if meta['status'] in states.PROPAGATE_STATES:
            error = ChordError(f'Dependency {part.task_id} raised {value!r}')
            raise error from (value if isinstance(value, Exception) else None)
        return value


# ---------------------------------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------------------------------
#
# celery -A proj dynamodb COMMAND, or from a file that was vendored python -m proj.vendor.dyna_veggie -A proj COMMAND

_Answer = tuple[dict[str, Any], Iterable[str]]  # what a command prints with --json, and the lines that it prints without


@click.group('dynamodb')
@click.option('-A', '--app', metavar='APPLICATION', help='Where the Celery app is, as in `celery -A`.')
@click.option('-b', '--result-backend', metavar='URL', help='A dynamodb:// URL, in place of an app.')
@click.pass_context
def commands(ctx: click.Context, app: str | None, result_backend: str | None) -> None:
    """The DynamoDB table of the result backend."""
    try:
        if result_backend:
            url = result_backend.rpartition('+')[2] if '+dynamodb://' in result_backend else result_backend
            if not url.startswith('dynamodb://'):
                raise click.UsageError('the URL must start with dynamodb://')
            backend = DynamoDBBackend(app=celery.Celery(set_as_current=False), url=url)
        elif app or ctx.obj:
            try:
                found = find_app(app) if app else ctx.obj.app
            except (ImportError, AttributeError) as exc:
                raise click.ClickException(f'there is no app {app!r}: {exc}') from exc
            backend = found.backend
        else:
            raise click.UsageError('name an app with -A, or a table with -b dynamodb://...')
    except ImproperlyConfigured as exc:
        raise click.ClickException(str(exc)) from exc
    if not hasattr(backend, 'values'):
        raise click.ClickException(f'the result backend of this app is {type(backend).__module__}.{type(backend).__name__}; '
                                   'set result_backend to dynamodb://…')
    ctx.obj = backend


def _command(run: Callable[..., _Answer]) -> click.Command:
    @commands.command(run.__name__.strip('_').replace('_', '-'))
    @click.option('--json', 'as_json', is_flag=True, help='For machines.')
    @click.pass_obj
    @functools.wraps(run)
    def command(backend: DynamoDBBackend, as_json: bool, **options: Any) -> None:
        try:
            answer, lines = run(backend, **options)
        except FAILURES as exc:
            raise click.ClickException(str(exc)) from exc
        click.echo(json.dumps(answer, indent=2, default=str) if as_json else '\n'.join(lines))
        if answer.get('ok') is False:
            sys.exit(1)
    return command


@_command
def _check(backend: DynamoDBBackend) -> _Answer:
    """Checks credentials, table and permissions; exit code 1 if a worker would fail.

    Writes and deletes an item of its own."""
    table = backend.values.table.as_it_is()
    source = credentials_source(backend.options, open_session(backend.options))
    rows: list[dict[str, Any]] = [{'name': 'credentials', 'ok': source is not None, 'found': source or 'none were found'}]

    def check(name: str, call: Callable[[], Any], failed: bool | None = False) -> bool | None:
        ok: bool | None = True
        try:
            found = call()
        except MissingTable as exc:
            ok, found = (None, 'does not exist yet: the first request creates it') if backend.options.create_table else (False, str(exc))
        except FAILURES as exc:
            ok, found = failed, str(exc)
        rows.append({'name': name, 'ok': ok, 'found': found if isinstance(found, str) else 'allowed'})
        return ok

    check('region', lambda: table.client.meta.region_name)
    check('endpoint', lambda: table.client.meta.endpoint_url)
    if check('table', table.reach):
        check('DescribeTable', lambda: 'key {key}, {status}, {billing_mode}'.format(**table.describe()), None)
        check('time to live', table.time_to_live, None)
        item = {'id': f'dyna-veggie-check-{uuid.uuid4()}', **expiry(3600)}
        began = time.monotonic()
        for action, call in WORKER_ACTIONS.items():
            check(action, functools.partial(call, table, item))
        check('round trip', lambda: f'{1000 * (time.monotonic() - began) / len(WORKER_ACTIONS):.0f} ms')
    marks = {True: 'ok', None: '--', False: 'NO'}  # None: a worker can do without
    return ({'ok': all(row['ok'] is not False for row in rows), 'checks': rows},
            [f'{marks[row["ok"]]}  {row["name"]:15} {row["found"]}' for row in rows])


@_command
def _create_table(backend: DynamoDBBackend) -> _Answer:
    """Creates the table as the options say, with time to live, and waits until it can be used."""
    table = Table(dataclasses.replace(backend.options, create_table=True))
    answer = {'created': table.bootstrap(), **table.describe(), 'time_to_live': table.time_to_live()}
    return answer, [f'table {table.name} in {table.client.meta.region_name}: {"created" if answer["created"] else "exists"}, '
                    f'{answer["status"]}, {answer["billing_mode"]}, time to live {answer["time_to_live"]}']


@_command
@click.option('--bootstrap', is_flag=True, help='Also to create the table.')
def _policy(backend: DynamoDBBackend, bootstrap: bool) -> _Answer:
    """Prints the least IAM policy for workers and clients."""
    policy = least_policy(backend.values.table, bootstrap)
    return policy, [json.dumps(policy, indent=2)]


@_command
@click.argument('id')
def _show(backend: DynamoDBBackend, id: str) -> _Answer:
    """Shows a task, a saved group, or by its group's id a chord that is running."""
    table = backend.values.table.as_it_is()
    shown: dict[str, Any] = {'id': id}
    item = table.get(backend._id(backend.get_key_for_task(id)))
    seen = backend.look([id]).get(id)
    if item and seen:
        shown.update(state=seen.value['status'], result=repr(seen.value['result'])[:500],
                     size=item.get('size', len(item.get('result', b''))), chunks=item.get('chunks', 0),
                     stored=_moment(item.get('timestamp')), expires=_moment(item.get('ttl')))
    saved = backend.get(backend.get_key_for_group(id))
    if saved:
        shown['group'] = f'{len(result_from_tuple(backend.decode(saved)["result"], backend.app))} results'
    progress = ChordCounter(table, backend._id(backend.get_key_for_chord(id)), None).progress()
    if progress:
        shown['chord'] = 'closed: its body was called, or its errbacks' if progress.closed else (
            f'{progress.counted} of {progress.expected or "?"} parts counted')
    if len(shown) == 1:
        shown.update(state=states.PENDING, result=f'expired {_moment(item.get("ttl"))}, not deleted yet' if item else 'nothing is stored')
    return shown, [f'{name:8} {value}{" bytes" if name == "size" else ""}' for name, value in shown.items()]


def _moment(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(' ', 'seconds') if seconds else None


@_command
@click.option('--dry-run', is_flag=True, help='Only count.')
def _purge(backend: DynamoDBBackend, dry_run: bool) -> _Answer:
    """Deletes expired items, for tables where time to live is off.  Reads the whole table."""
    table = backend.values.table.as_it_is(backend.options.retry_timeout)
    expired = 0
    terminal = sys.stderr if sys.stderr.isatty() else io.StringIO()  # into a file click would write the label alone
    with click.progressbar(length=table.describe()['items'], label=table.name, file=terminal) as bar:
        for scanned, ids in table.expired():
            bar.update(scanned)
            expired += len(ids)
            if not dry_run:
                table.delete_expired(ids)
    return {'expired': expired, 'deleted': 0 if dry_run else expired}, [f'{expired:,} expired items {"found" if dry_run else "deleted"}']


if __name__ == '__main__':
    # not this copy: the app's backend is of the module by its name
    name = __spec__.name if __spec__ else 'dyna_veggie'
    importlib.import_module(name).commands(prog_name=f'python -m {name}')
