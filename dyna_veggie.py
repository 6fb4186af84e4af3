"""Dyna-Veggie: a DynamoDB result backend for Celery.

    app = Celery('proj', backend='dynamodb://eu-west-1/celery')

One file: install it, or copy it in.  It needs only Celery and botocore, and speaks raw DynamoDB
JSON.  Read it from top to bottom: a section depends only on those above it.

    options             all settings, from the URL, the transport options and Celery, validated once
    attributes          Python values to DynamoDB attribute values and back; expressions
    errors and retries  what an error means, what to do about it, and when to retry
    client              sessions, credentials, the request loop; what belongs to a process
    paging              lists of ids in request-sized pages, several of them concurrently
    table               items, batches of items, and the table's creation
    group commit        concurrent writes of the threads of a process share a request
    blob store          values of any size, each with a status and an expiry
    polling             who polls, for what, and when
    storing             StoringBackend: Celery's keys and results as stored values
    waiting             WaitingBackend: what Celery's result classes ask for
    result classes      Celery's result classes, reading in batches
    chord tree          the counters that join a chord, as pure functions
    chord store         the requests that count the parts of a chord, and the lease to end it
    claim check         values of a chord that are not sent in the message of its body
    join                how a chord ends: acquire the lease, read, publish or fail, close
    chord backend       ChordBackend: what Celery asks of a backend for its chords
    backend             DynamoDBBackend: its constructor, URL and pickling
    operations          what an operator does: check, policy, list, show, retry, purge
    commands            celery -A proj dynamodb ..., or python -m dyna_veggie ...

Public: ``__all__``.  No underscore: shared between sections.  Underscore: private to its section.
"""
# A copy in a project adds no error to its own check, whatever types Celery has there; ours, which
# is tools/lint.py, leaves the next line out.
# mypy: ignore-errors
from __future__ import annotations

import ast
import base64
import contextlib
import contextvars
import csv
import dataclasses
import difflib
import enum
import fnmatch
import functools
import gc
import hashlib
import heapq
import importlib
import io
import itertools
import json
import logging
import math
import os
import random
import re
import shutil
import signal
import ssl
import sys
import textwrap
import threading
import time
import unicodedata
import uuid
import weakref
import zlib
from array import array
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, Union
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import botocore
import celery
import click
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    MetadataRetrievalError,
    NoCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
    UnknownRegionError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from celery import Signature, group, maybe_signature, states
from celery._state import _get_active_apps, _task_stack, get_current_app, get_current_task
from celery.app.backends import by_url
from celery.app.task import Context
from celery.app.utils import find_app
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ChordError,
    ImproperlyConfigured,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeoutError,
)
from celery.result import (
    AsyncResult,
    GroupResult,
    ResultBase,
    ResultSet,
    assert_will_not_block,
    result_from_tuple,
)
from celery.signals import (
    before_task_publish,
    task_prerun,
    worker_before_create_process,
    worker_init,
    worker_process_shutdown,
    worker_shutdown,
)
from celery.utils.functional import LRUCache, maybe_list
from celery.utils.log import get_logger
from celery.utils.serialization import strtobool
from celery.utils.time import maybe_iso8601
from kombu.exceptions import DecodeError, EncodeError, OperationalError
from kombu.serialization import dumps, loads
from kombu.utils.compat import detect_environment
from kombu.utils.encoding import bytes_to_str, ensure_bytes, safe_repr
from kombu.utils.json import register_type
from vine import barrier, promise

__version__ = '1.2.0'
__all__ = ('DynamoDBBackend', 'Options', 'ResultTooLarge', 'parse_options', 'preload', 'reset')

logger = get_logger(__name__)
T = TypeVar('T')


# --------------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------------
#
# All settings, validated once: nothing below parses or re-checks one.  A parser takes what was
# given and returns the value, or raises a ValueError that says what would be right.  Error messages
# never contain credentials or fragments of them.

MASK = '**'
LARGEST_RESULT = 400_000_000  # bytes, 1,000 items: bounds what one value can cost
_LOCAL_PORT = 8000

_TABLE_NAME = '[A-Za-z0-9_.-]{3,255}'
TABLE_ARN = re.compile(
    'arn:(?P<partition>aws[a-z-]*):dynamodb:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12})'
    f':table/(?P<name>{_TABLE_NAME})')
# us-east-1, us-gov-west-1, eu-isoe-west-1, eusc-de-east-1, ...: a region can be newer than botocore
_AWS_REGION = re.compile(
    r'[a-z]{2,4}(-[a-z]{2,4})?-(north|south|east|west|central|(north|south)(east|west))-\d+')


def configuration_error(
        text: str, cls: type[ImproperlyConfigured] = ImproperlyConfigured) -> ImproperlyConfigured:
    return cls(f'dynamodb result backend: {text}')


def option_error(name: str, given: Any, expected: str) -> ImproperlyConfigured:
    return configuration_error(f'{name}={given!r} must be {expected}')


# --- parsers --------------------------------------------------------------------------------------

def _text(given: Any) -> str:
    if isinstance(given, str) and given.strip():
        return given.strip()
    raise ValueError('a text that is not empty')


def _boolean(given: Any) -> bool:
    try:
        return bool(strtobool(str(given).strip()))
    except TypeError:
        raise ValueError('true or false') from None


def _number(
        expected: str, convert: Callable[[Any], Any],
        fits: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def parse(given: Any) -> Any:
        try:
            if isinstance(given, bool) or '_' in str(given):  # Python would read 1_0 as 10
                raise ValueError
            value = convert(given)
            if fits(value) and (not isinstance(given, float) or given == value):
                return value
        except (TypeError, ValueError, OverflowError):
            pass
        raise ValueError(expected)
    return parse


def _to_seconds(given: Any) -> float:
    return given.total_seconds() if isinstance(given, timedelta) else float(given)


def _choice(**choices: str) -> Callable[[Any], str]:
    def parse(given: Any) -> str:
        value = choices.get(str(given).strip().lower())
        if value is None:
            raise ValueError(' or '.join(choices))
        return value
    return parse


def _table(given: Any) -> str:
    # docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html
    if isinstance(given, str) and (
            re.fullmatch(_TABLE_NAME, given) or TABLE_ARN.fullmatch(given)):
        return given
    raise ValueError('3 to 255 letters, digits, "_", "-" and ".", or the ARN of a table')


def is_endpoint_url(given: Any) -> bool:
    from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url
    try:
        parts = urlsplit(given)
        valid = is_valid_endpoint_url(given) or is_valid_ipv6_endpoint_url(given)
        return (parts.scheme in ('http', 'https') and valid
                and '@' not in parts.netloc and parts.port != 0)
    except (AttributeError, TypeError, ValueError):
        return False


def _endpoint_url(given: Any) -> str:
    if is_endpoint_url(given):
        return str(given)
    raise ValueError('http(s)://host:port without user name or password')


_ROLE_NAME = '[A-Za-z0-9_+=,.@-]'  # the characters of the names of roles and their sessions


def _pattern(pattern: str, expected: str) -> Callable[[Any], str]:
    def parse(given: Any) -> str:
        if isinstance(given, str) and re.fullmatch(pattern, given):
            return given
        raise ValueError(expected)
    return parse


# docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
_role_arn = _pattern(
    f'arn:aws[a-z-]*:iam::[0-9]{{12}}:role/([!-~]{{1,510}}/)?{_ROLE_NAME}{{1,64}}',
    'the ARN of a role, such as arn:aws:iam::123456789012:role/worker')
_role_session_name = _pattern(
    f'{_ROLE_NAME}{{2,64}}', '2 to 64 letters, digits, and characters of "_+=,.@-"')
_external_id = _pattern(
    '[A-Za-z0-9_+=,.@:/-]{2,1224}',
    'a text of 2 to 1,224 letters, digits, and characters of "_+=,.@:/-"; '
    f'{MASK} is the mask of as_uri() and of pickled backends')


def is_key(given: Any) -> bool:
    """Whether it can be an access key, a secret key or a session token."""
    # one that is read from a file can end in a newline, which no header may contain
    return isinstance(given, str) and re.fullmatch('[!-~]+', given) is not None


def _tags(given: Any) -> tuple[tuple[str, str], ...]:
    tags: list[tuple[str, str]] = []
    if isinstance(given, Mapping):
        tags = [(str(key), str(value)) for key, value in given.items()]
    elif isinstance(given, str):
        for pair in given.split(','):
            key, colon, value = pair.partition(':')
            tags.append((key.strip() if colon else '', value.strip()))
    if tags and all(key for key, _ in tags):
        return tuple(tags)
    raise ValueError('key:value,key:value or a dict')


parse_seconds = _number('seconds, 0 or more', float, lambda value: 0 <= value < math.inf)
_above_zero = _number('seconds, more than 0', float, lambda value: 0 < value < math.inf)
_not_negative = _number('a number, 0 or more', float, lambda value: value >= 0)
_positive = _number('a whole number, 1 or more', int, lambda value: value > 0)
_inline_limit = _number('a whole number, 0 or more', int, lambda value: value >= 0)
_result_size = _number(
    f'a whole number, 1 to {LARGEST_RESULT:,}', int, lambda value: 0 < value <= LARGEST_RESULT)
# lifetimes are bounded, since DynamoDB takes no number of more than 38 digits
_lifetime = _number('a whole number of at most ten digits', int, lambda value: abs(value) < 1e10)
parse_result_expires = _number(
    'seconds, a timedelta, or None for ever', _to_seconds, lambda value: abs(value) < 1e10)


# --- options --------------------------------------------------------------------------------------

def _option(
        default: Any, parse: Callable[[Any], Any], doc: str, confidential: bool = False) -> Any:
    # the value of a confidential one is in no repr, and in no error
    return field(default=default, repr=not confidential,
                 metadata={'parse': parse, 'doc': doc, 'confidential': confidential})


@dataclass(frozen=True)
class Options:
    """The settings of a backend.  Durations are in seconds, sizes in bytes.

    Fields with a ``parse`` in their metadata are options of the URL's query and of
    ``result_backend_transport_options``; the others come from the URL's other parts, and
    ``max_retries`` from Celery's setting.
    """

    # where
    region: str | None = None
    local: bool = False
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    table: str = 'celery'  # its name, or its ARN, usually if another account owns it
    endpoint_url: str | None = _option(
        None, _endpoint_url, 'endpoint to use in place of the one that the URL or the region names')
    profile: str | None = _option(None, _text, "profile of AWS's shared configuration files")
    role_arn: str | None = _option(
        None, _role_arn, 'ARN of a role to assume, with the credentials that would be used without '
        'it; botocore renews it')
    role_session_name: str | None = _option(
        None, _role_session_name, "name of the role's session, which CloudTrail shows")
    external_id: str | None = _option(
        None, _external_id, 'external id that the trust policy of the role asks for',
        confidential=True)
    max_pool_connections: int = _option(
        10, _positive, 'connections kept open, in each process: '
        'at least as many as a worker has threads')
    connect_timeout: float = _option(5.0, _above_zero, 'seconds to wait for a connection')
    read_timeout: float = _option(10.0, _above_zero, 'seconds to wait for a response')

    # the table that is created
    create_table: bool = _option(True, _boolean, 'create the table when it is missing')
    billing_mode: str = _option(
        'PROVISIONED', _choice(provisioned='PROVISIONED', on_demand='PAY_PER_REQUEST'),
        '``provisioned`` or ``on_demand``, for the table it creates')
    read_throughput: int = _option(
        5, _positive, 'read capacity units of the table it creates; synonym ``read``')
    write_throughput: int = _option(
        5, _positive, 'write capacity units of the table it creates; synonym ``write``')
    table_class: str | None = _option(
        None, _choice(
            standard='STANDARD', standard_infrequent_access='STANDARD_INFREQUENT_ACCESS'),
        '``standard`` or ``standard_infrequent_access``, for the table it creates')
    tags: tuple[tuple[str, str], ...] = _option(
        (), _tags, 'tags of the table it creates: ``team:data,env:prod``, or a dict')
    deletion_protection: bool = _option(
        False, _boolean, 'protect the table it creates from deletion')
    encryption_key: str | None = _option(
        None, _text, 'KMS key (id, ARN or alias) that encrypts the table it creates; '
        'default: a key that AWS owns')

    # what is stored
    ttl_seconds: int | None = _option(
        None, _lifetime, 'seconds that results are kept; 0 or negative: for ever; '
        "default: Celery's ``result_expires``")
    max_result_size: int = _option(
        16 * 2**20, _result_size, 'largest result, in bytes as it is stored')
    chord_inline_limit: int = _option(
        100_000, _inline_limit, "bytes of a chord's values that the message of its body may hold; "
        'if there are more, they are read when the body is called; 0: no limit')
    celery_keys: bool = _option(
        False, _boolean, "write ids in the form of Celery's own DynamoDB backend, "
        'to share its table while you migrate')
    track_sent: bool = _option(
        False, _boolean, 'store ``PENDING`` when a task is sent, which distinguishes a task '
        'that waits from an id that never was, at one write more for each task')
    global_keyprefix: str | None = _option(
        None, str, 'prefix of every id, as on other backends (transport options only)')

    # retries
    retry_if_throttled: bool = _option(
        True, _boolean, 'retry when DynamoDB throttles; otherwise raise immediately')
    retry_base_delay: float = _option(
        0.05, _above_zero, 'upper bound of the first pause between two attempts, in seconds; '
        'doubled for each further one')
    retry_max_delay: float = _option(
        5.0, _above_zero, 'upper bound of any pause between two attempts, in seconds')
    retry_timeout: float = _option(
        120.0, parse_seconds, 'seconds to go on trying; then the original error is raised')
    max_retries: float = math.inf  # Celery's result_backend_max_retries, if the user set it
    consistency_wait_time: float = _option(
        1.0, parse_seconds, 'seconds that a read which must find something '
        '(a saved group, a part of a chord) waits for it')


_PARSERS: dict[str, Callable[[Any], Any]] = {
    f.name: f.metadata['parse'] for f in dataclasses.fields(Options) if 'parse' in f.metadata}
# an endpoint can contain a password
_CONFIDENTIAL = {'endpoint_url'} | {
    f.name for f in dataclasses.fields(Options) if f.metadata.get('confidential')}
_SYNONYMS = {'read': 'read_throughput', 'write': 'write_throughput'}
# botocore reads them itself, from the environment and the profile
_OF_BOTOCORE = ('use_fips_endpoint', 'use_dualstack_endpoint')

# options of brokers and other backends that may stand beside ours, and look like misspelt ones
_FOREIGN_OPTIONS = ('max_connections', 'retry_on_timeout', 'retry_timeout_seconds', 'retry_total',
                    'socket_connect_timeout', 'socket_timeout', 'sts_role_arn')


# --- sources --------------------------------------------------------------------------------------

def parse_options(url: str | None, settings: Any, table: str | None = None) -> Options:
    """The options from a URL and from Celery's settings (``app.conf``).

    The first of these that names an option wins: the URL's query, the transport options, Celery's
    other settings, the URL's other parts.  table: its name, if the URL has none.  Raises
    ImproperlyConfigured.
    """
    parts = _split_url(url or 'dynamodb://')
    transport = settings.get('result_backend_transport_options') or {}
    parsed = {
        'table': parse_setting('table_name', table or Options.table, _table),
        **_parse_place(parts), **_parse_settings(settings),
        **_parse_named(transport, shared=True), **_parse_query(parts.query)}
    _check_conflicts(parsed)
    arn = TABLE_ARN.fullmatch(parsed['table'])
    if arn:
        region, host = arn['region'], parts.hostname or ''
        if _AWS_REGION.fullmatch(host) and host != region:
            raise option_error('region', host, f'{region}, as in the ARN of the table, or left out')
        parsed.update(region=region, create_table=False)
    return Options(**parsed)


def _shown(name: str, value: Any) -> Any:
    """What an error shows of an option's value."""
    return '…' if name in _CONFIDENTIAL else value


def _check_conflicts(parsed: Mapping[str, Any]) -> None:
    on_demand = parsed.get('billing_mode') == 'PAY_PER_REQUEST'
    for name, conflicts, reason in (
            ('read_throughput', on_demand, 'billing_mode=on_demand'),
            ('write_throughput', on_demand, 'billing_mode=on_demand'),
            ('profile', 'access_key' in parsed, 'the URL has keys'),
            ('role_session_name', not parsed.get('role_arn'), 'there is no role_arn'),
            ('external_id', not parsed.get('role_arn'), 'there is no role_arn'),
            ('create_table', TABLE_ARN.fullmatch(parsed['table']),
             'the table is an ARN: it is created where it belongs')):
        if conflicts and parsed.get(name):
            raise option_error(name, _shown(name, parsed[name]), f'left out if {reason}')


def parse_setting(
        name: str, given: Any, parse: Callable[[Any], Any], shown: Any = None) -> Any:
    """The value of an option or setting; None if it is not set.

    Raises ImproperlyConfigured, whose message has ``shown``, if given, in place of the value.
    """
    try:
        return None if given is None else parse(given)
    except ValueError as exc:
        raise option_error(name, given if shown is None else shown, str(exc)) from None


def _split_url(url: str) -> SplitResult:
    # an unquoted "/" moves the end of a key into the table's name: show no piece of the URL
    authority, _, path = url.partition('?')[0].partition('://')[2].partition('/')
    first_option = url.partition('?')[2].partition('=')[0]
    if authority.count('@') > 1 or '@' in path + first_option or '#' in url:
        raise configuration_error(
            'URL-quote the keys in the URL '
            '("/" as %2F, "+" as %2B, "@" as %40, "#" as %23, "?" as %3F): '
            'urllib.parse.quote(key, safe="")')
    try:
        parts = urlsplit(url)
        if parts.port != 0:
            return parts
    except ValueError:
        pass
    raise configuration_error(
        'the URL must be dynamodb://access_key:secret_key@region:port/table?option=value, '
        'the port a number from 1 to 65535; the keys and the port may be left out')


def _parse_place(parts: SplitResult) -> dict[str, Any]:
    """The values that the URL gives by position: keys, region or endpoint, and table."""
    parsed = _parse_keys(parts)
    host, port = parts.hostname or '', parts.port
    local = host == 'local'
    loopback = host == 'localhost' or ':' in host or re.fullmatch(r'[\d.]+', host) is not None
    if _AWS_REGION.fullmatch(host):
        parsed['region'] = host
    elif host and (port or local or loopback):
        address = 'localhost' if local else f'[{host}]' if ':' in host else host
        endpoint_url = f'http://{address}:{port or _LOCAL_PORT}'
        if not is_endpoint_url(endpoint_url):
            raise option_error('host', host, 'a host name, of letters, digits, "-" and "."')
        parsed.update(local=local, region='us-east-1', endpoint_url=endpoint_url)
    elif host:
        raise option_error(
            'region', host,
            'an AWS region such as eu-west-1, "local" for DynamoDB Local, or host:port')
    table = unquote(parts.path.strip('/'))
    if table:
        parsed['table'] = parse_setting('table', table, _table)
    return parsed


def _parse_keys(parts: SplitResult) -> dict[str, Any]:
    access_key, secret_key = unquote(parts.username or ''), unquote(parts.password or '')
    if bool(access_key) != bool(secret_key):
        found = ('an access key without a secret key' if access_key
                 else 'a secret key without an access key')
        raise configuration_error(
            f'the URL has {found}; give both, or none to use the credentials that botocore finds')
    if secret_key == MASK:
        raise configuration_error(
            f'the secret key in the URL is {MASK}, the mask of as_uri() and of pickled backends; '
            'give the real one in result_backend')
    for name, key in (('access', access_key), ('secret', secret_key)):
        if key and not is_key(key):
            raise configuration_error(
                f'the {name} key in the URL must be printable ASCII without whitespace')
    return {'access_key': access_key, 'secret_key': secret_key} if access_key else {}


def _parse_settings(settings: Any) -> dict[str, Any]:
    """The values of Celery's own settings."""
    parsed = _parse_named({'endpoint_url': settings.get('dynamodb_endpoint_url') or None})
    for setting, option, unit in (
            ('result_backend_base_sleep_between_retries_ms', 'retry_base_delay', 1e-3),
            ('result_backend_max_sleep_between_retries_ms', 'retry_max_delay', 1e-3),
            ('result_backend_max_retries', 'max_retries', 1)):
        if settings.value_set_for(setting) and settings.get(setting) is not None:
            parsed[option] = parse_setting(setting, settings.get(setting), _not_negative) * unit
    return parsed


def _parse_query(query: str) -> dict[str, Any]:
    given = parse_qsl(query, keep_blank_values=True)
    for name, times in Counter(name for name, _ in given).items():
        if times > 1:
            raise configuration_error(f'the URL has the option {name} twice; give it once')
    parsed = _parse_named(dict(given))
    if 'global_keyprefix' in parsed:
        raise configuration_error(
            'give global_keyprefix in result_backend_transport_options, where Celery reads it')
    return parsed


def _parse_named(given: Mapping[str, Any], shared: bool = False) -> dict[str, Any]:
    """The values of options given by name; shared: by a setting that has others' options, too."""
    parsed: dict[str, Any] = {}
    for name, value in given.items():
        option, hint = _SYNONYMS.get(name, name), _hint(str(name))
        if value is None or (shared and (name in _FOREIGN_OPTIONS or not hint)):
            continue  # None: as if it were left out
        if option not in _PARSERS:
            hint = hint or f'the options are {", ".join(sorted(_PARSERS))}'
            raise configuration_error(f'there is no option {name!r}; {hint}')
        if option in parsed:
            same = ' and '.join(each for each in given if _SYNONYMS.get(each, each) == option)
            raise configuration_error(f'{same} are the same option; give one')
        parsed[option] = parse_setting(name, value, _PARSERS[option], _shown(option, value))
    return parsed


def _hint(name: str) -> str:
    """What was probably meant by the name of an option; '' if it is not like one of ours."""
    if name in _OF_BOTOCORE:
        return f'set AWS_{name.upper()}'
    near = difflib.get_close_matches(name, [*_PARSERS, *_SYNONYMS], n=1, cutoff=0.75)
    return f'did you mean {near[0]}?' if near else ''


def mask_secret(url: str) -> str:
    """The URL with its secret key and its external id masked."""
    url = re.sub('(?<=[?&]external_id=)[^&]+', MASK, url)
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition('@')
    access_key, colon, secret_key = userinfo.partition(':')
    if not secret_key:
        return url  # geturl() loses the slashes of dynamodb:///table
    return parts._replace(netloc=f'{access_key}{colon}{MASK}{at}{host}').geturl()


def unmask_secret(
        url: str, configured: Iterable[tuple[T, Any]]) -> tuple[T, str] | tuple[None, str]:
    """The first configured URL that a masked one, of a pickled backend, stands for; and its owner.

    configured: (owner, URL) pairs.  The URL is the same, or else names the same place by another
    access key.  (None, url) if there is none.
    """
    same_place = []
    for owner, other in configured:
        scheme, separator, rest = str(other).partition('://')
        own = scheme.rpartition('+')[2] + separator + rest
        try:
            masked = mask_secret(own)
        except ValueError:  # no URL, of another app
            continue
        if masked == url:
            return owner, own
        if _without_keys(masked) == _without_keys(url):
            same_place.append((owner, own))
    return same_place[0] if same_place else (None, url)


def _without_keys(url: str) -> str:
    return re.sub('^[^?]*@', '', url)  # an option can have a "@", too


# --------------------------------------------------------------------------------------------------
# Attributes
# --------------------------------------------------------------------------------------------------
#
# Pure functions between Python values and DynamoDB's JSON, and from expressions to parameters of a
# request.

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
    is_set = isinstance(value, (set, frozenset)) and value
    if is_set and all(isinstance(member, bytes) for member in value):
        return {'BS': sorted(value)}
    raise TypeError(f'no DynamoDB attribute for {type(value).__name__}')


def unmarshal(attribute: Mapping[str, Any]) -> Any:
    """The Python value of an attribute value; of a type that is never written here, its content."""
    (descriptor, value), = attribute.items()
    if descriptor == 'B':
        return _binary(value)
    if descriptor == 'N':
        return int(value) if value.lstrip('-').isdigit() else float(value)
    if descriptor == 'BS':
        return frozenset(map(_binary, value))
    return value


def _binary(value: bytes | str) -> bytes:
    # bytes if botocore parsed the response: see _parse_response()
    return value if isinstance(value, bytes) else base64.b64decode(value)


def marshal_item(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: marshal(value) for name, value in item.items()}


def unmarshal_item(attributes: Mapping[str, Any]) -> Item:
    return {name: unmarshal(attribute) for name, attribute in attributes.items()}


def expressions(values: Mapping[str, Any], **texts: str | None) -> dict[str, Any]:
    """The parameters of a request with expressions, their names and values filled in.

    They write attributes as ``#name``, since many are reserved words, and values as ``:name``.
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


# --------------------------------------------------------------------------------------------------
# Errors and retries
# --------------------------------------------------------------------------------------------------
#
# classify() maps each error to one policy: transient?  throttled?  refresh the credentials?  what
# should the operator do?  Backoff paces attempts, within a Budget; Client.send() makes them.

Sleep = Callable[[float], Any]


#: Seconds, by a clock that neither a change of the time nor a test library stops: freezegun takes
#: the place of time.monotonic()
monotonic: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, 'CLOCK_MONOTONIC') else time.monotonic)


@dataclass(frozen=True)
class Budget:
    """The time that a caller has.

    deadline: of monotonic().  sleep: pauses between attempts; it may raise.
    """

    deadline: float = math.inf
    sleep: Sleep = time.sleep

    @property
    def is_spent(self) -> bool:
        return monotonic() >= self.deadline


UNLIMITED = Budget()
ONE_ATTEMPT = Budget(deadline=-math.inf)


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

    def attempts(self, budget: Budget = UNLIMITED) -> Iterator[int]:
        """Yields the number of each attempt, from 0, and sleeps before each but the first.

        Ends after the timeout, or at the budget's deadline if that comes first: the last pause is
        cut so that one more attempt is made right then.
        """
        end = min(monotonic() + self.timeout, budget.deadline)
        for number in itertools.count():
            yield number
            remaining = end - monotonic()
            if remaining <= 0 or number >= self.max_retries:
                return
            budget.sleep(min(remaining, self.pause(number, random.random())))


class DeniedAction(ImproperlyConfigured):
    """IAM does not allow an action."""


class ExpiredCredentials(ImproperlyConfigured):
    """The credentials have not been renewed yet, or their source has none at the moment."""


class BrokenConfiguration(ImproperlyConfigured):
    """AWS's configuration, or the credentials that it leads to, cannot be used."""


class MissingTable(ImproperlyConfigured):
    """The table does not exist and must not be created."""


class InvalidId(ValueError):
    """DynamoDB takes no such key."""


class MalformedResponse(Exception):
    """A response that cannot be parsed, or whose checksum is not its own."""


class ReplacedDuringRead(Exception):
    """A large value was replaced each time before all of it was read."""


#: everything that requests raise
FAILURES = (ClientError, BotoCoreError, MalformedResponse, ImproperlyConfigured, InvalidId,
            ReplacedDuringRead)


@dataclass(frozen=True)
class ErrorPolicy:
    """What an error of a request calls for.

    transient: the same request may succeed later.  throttled: because DynamoDB wants fewer
    requests.  refresh: look for credentials again.  hint: what a person can do, in an error of the
    class ``raises``.
    """

    transient: bool = False
    throttled: bool = False
    refresh: bool = False
    hint: str = ''
    raises: type[ImproperlyConfigured] = ImproperlyConfigured


_PERMANENT = ErrorPolicy()
_TRANSIENT = ErrorPolicy(transient=True)
_THROTTLED = ErrorPolicy(transient=True, throttled=True)
_EXPIRED = ErrorPolicy(
    transient=True, refresh=True, raises=ExpiredCredentials,
    hint='the credentials have expired, and where they came from there are no new ones: '
         'renew them')
_LATE_CREDENTIALS = ErrorPolicy(
    transient=True, raises=ExpiredCredentials,
    hint='where the credentials come from there are none right now')
_UNKNOWN_CREDENTIALS = ErrorPolicy(
    refresh=True, hint='AWS does not know these credentials there: check the access key, '
                       'and that the region is one of its account')
_WRONG_SIGNATURE = ErrorPolicy(
    refresh=True,
    hint='the signature is not accepted: check the secret key, and the clock of this machine')
_NO_CREDENTIALS = ErrorPolicy(
    refresh=True, hint='there are no credentials: put keys into the URL, '
                       "or into one of the places where AWS's tools look for them")
_BROKEN = ErrorPolicy(
    refresh=True, raises=BrokenConfiguration, hint="mend AWS's configuration: it cannot be used")
_DENIED = ErrorPolicy(raises=DeniedAction, hint='the IAM action {action} is needed, and denied')

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
_BY_CODE = {
    'ProvisionedThroughputExceededException': _THROTTLED,
    'ThrottlingException': _THROTTLED,
    'Throttling': _THROTTLED,
    'RequestLimitExceeded': _THROTTLED,
    'TooManyRequestsException': _THROTTLED,
    'InternalServerError': _TRANSIENT,
    'ServiceUnavailable': _TRANSIENT,
    'RequestTimeout': _TRANSIENT,
    'RequestTimeoutException': _TRANSIENT,
    'ReplicatedWriteConflictException': _TRANSIENT,  # a global table with strong consistency
    'TransactionConflictException': _TRANSIENT,  # another client's transaction holds the item
    'IDPCommunicationError': _TRANSIENT,  # STS did not reach the provider of a web identity
    'ExpiredTokenException': _EXPIRED,
    'ExpiredToken': _EXPIRED,
    'UnrecognizedClientException': _UNKNOWN_CREDENTIALS,
    'InvalidClientTokenId': _UNKNOWN_CREDENTIALS,
    'MissingAuthenticationTokenException': _UNKNOWN_CREDENTIALS,
    'InvalidSignatureException': _WRONG_SIGNATURE,
    'SignatureDoesNotMatch': _WRONG_SIGNATURE,
    'IncompleteSignatureException': _WRONG_SIGNATURE,
    'AccessDeniedException': _DENIED,
    'AccessDenied': _DENIED,
}
# of responses with other codes: a gateway's can contain any text
_BY_STATUS = {408: _TRANSIENT, 429: _THROTTLED}
# of errors without a response; the first class that fits
_BY_CLASS: tuple[tuple[Any, ErrorPolicy], ...] = (
    (NoCredentialsError, _NO_CREDENTIALS),
    (ExpiredCredentials, _EXPIRED),
    ((CredentialRetrievalError, MetadataRetrievalError), _LATE_CREDENTIALS),
    ((BotoConnectionError, HTTPClientError, MalformedResponse, ReplacedDuringRead), _TRANSIENT),
    ((BotoCoreError, BrokenConfiguration), _BROKEN),
)
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/throttling-diagnosing.html
_THROTTLING_HINTS = {
    # the only one that is also in the code of an error
    'ProvisionedThroughputExceeded': 'more is asked of the table than its provisioned units: '
                                     'raise them, turn on auto scaling, or make it on-demand',
    'MaxOnDemandThroughputExceeded': 'raise the maximum that is set for this on-demand table',
    'KeyRangeThroughputExceeded': 'one partition has too much to do: '
                                  'DynamoDB splits it if that lasts',
    'AccountLimitExceeded': 'ask AWS to raise the quota of the account',
}


def error_code(exc: BaseException) -> str:
    """DynamoDB's code for an error, or '' if it did not come from DynamoDB."""
    return exc.response.get('Error', {}).get('Code', '') if isinstance(exc, ClientError) else ''


def classify(exc: BaseException) -> ErrorPolicy:
    """What an error of a request calls for."""
    if isinstance(exc, ClientError):
        status = exc.response.get('ResponseMetadata', {}).get('HTTPStatusCode', 0)
        by_status = _TRANSIENT if status >= 500 else _BY_STATUS.get(status, _PERMANENT)
        return _BY_CODE.get(error_code(exc), by_status)
    if isinstance(exc, SSLError) and 'CERTIFICATE_VERIFY_FAILED' in str(exc):
        return _PERMANENT
    if isinstance(exc, HTTPClientError) and type(exc) is HTTPClientError:
        return _classify_wrapped(exc.kwargs.get('error'))
    return next((policy for cls, policy in _BY_CLASS if isinstance(exc, cls)), _PERMANENT)


def _classify_wrapped(exc: object) -> ErrorPolicy:
    # botocore wraps whatever is raised while it sends
    if _origin(exc) == 'urllib3' and isinstance(exc, ValueError):
        return _BROKEN  # the URL of a proxy
    network = isinstance(exc, OSError) or _origin(exc) in ('urllib3', 'http', 'botocore')
    return _TRANSIENT if network else _PERMANENT


def interruption(exc: BaseException) -> Exception | None:
    """What a signal handler raised during a request, which botocore wraps like a network error.

    That is Celery's soft time limit, or a class that is neither Python's nor of a library that
    sends requests.
    """
    inner = exc.kwargs.get('error') if isinstance(exc, HTTPClientError) else None
    senders = ('builtins', 'http', 'urllib3', 'botocore', 'OpenSSL')
    if not isinstance(inner, Exception) or isinstance(inner, OSError) or _origin(inner) in senders:
        return None
    return inner


def _origin(exc: object) -> str:
    return type(exc).__module__.partition('.')[0]


def denied_key_action(exc: BaseException) -> str:
    """The denied action on a table's KMS key; '' for other errors."""
    found = re.search(r'not authorized to perform: (kms:\w+)', str(exc))
    return found[1] if found else 'kms:Decrypt' if 'KMS key access denied' in str(exc) else ''


def _throttling_reasons(exc: BaseException) -> str:
    """Which limits were exceeded, if DynamoDB says so, which botocore passes on since 1.40.10."""
    if not isinstance(exc, ClientError):
        return ''
    # ThrottlingException has another spelling
    reasons = exc.response.get('ThrottlingReasons') or exc.response.get('throttlingReasons') or ()
    return ', '.join(f'{each.get("reason")} of {each.get("resource")}' for each in reasons)


def throttling_hint(exc: BaseException) -> str:
    """What a person can do about throttling; '' for other errors."""
    if not classify(exc).throttled:
        return ''
    found = _throttling_reasons(exc) or error_code(exc)
    return '; '.join(hint for reason, hint in _THROTTLING_HINTS.items() if reason in found)


def summary(exc: BaseException) -> str:
    """An error in one line, with DynamoDB's throttling reasons."""
    # a proxy's response can be a page; and AWS explains a wrong signature with the whole request,
    # and so with the session token
    text, reasons = str(exc).partition('\n')[0], _throttling_reasons(exc)
    text = re.sub(r'//[^\s/]*@', f'//{MASK}@', text)  # user and password of a proxy
    return f'{text} ({reasons})' if reasons and reasons not in text else text


def with_reasons(exc: Exception) -> Exception:
    """The error; with DynamoDB's throttling reasons, if any, in its message."""
    if isinstance(exc, ClientError) and _throttling_reasons(exc) not in str(exc):
        error = exc.response['Error']
        message = f'{error.get("Message")} ({_throttling_reasons(exc)})'
        response = {**exc.response, 'Error': {**error, 'Message': message}}
        return type(exc)(response, exc.operation_name)
    return exc


# --------------------------------------------------------------------------------------------------
# Client
# --------------------------------------------------------------------------------------------------
#
# Sends requests, and owns what a process shares.  No Celery here, and of tables only the name.
#
#   attempts      A request is attempted until it succeeds, its error is permanent, or time is up:
#                 see Client.send().
#   credentials   are read, and checked, before each request: see read_keys().  If AWS does not
#                 accept them, the next attempt looks for others.
#   configuration When AWS's configuration is broken, botocore raises errors of a dozen classes.
#                 Here they are one, BrokenConfiguration: see _configured().
#   secrets       botocore's log shows no token and no secret key: see _mask_credentials().
#   imports       Functions import what only a client needs: it takes longer than all else here.
#   a process     has one object for each set of options: see shared_by_process().  Forks share what
#                 was parsed before: see preload().
#   threads       All of this file are started by start_thread(), but in sub-interpreters: see
#                 Background.

_WARN_INTERVAL = 60.0  # seconds between two warnings that requests fail
# what credentials_source() says besides botocore's words
FROM_URL = 'the URL'
NOT_NEEDED = 'not needed'

# as a header, in JSON (also quoted), in XML, or as Python shows any of these
_CREDENTIAL = re.compile(
    r'(?i)(token|secret-?access-?key|client-?secret|external-?id)'
    r'''([\\"']*\s*[:>=]\s*b?[\\"']*)(?:[^\n"'<>,;}\\]|\\.)+''')
_LONG_WORD = re.compile('[A-Za-z0-9/+=_-]{16,}')


def _mask_credentials(record: logging.LogRecord) -> bool:
    # botocore's DEBUG log contains session tokens, and the credentials that STS returns
    text = _CREDENTIAL.sub(rf'\1\2{MASK}', record.getMessage())
    if record.name == 'botocore.utils':  # a metadata service's response can have any form
        text = _LONG_WORD.sub(MASK, text)
    record.msg, record.args = text, ()
    return True


# --- threads --------------------------------------------------------------------------------------

def start_thread(
        target: Callable[..., Any], *args: Any, name: str = 'dyna-veggie',
) -> threading.Thread | None:
    """A daemon thread; None at the end of a process, at a limit of the system, and in a
    sub-interpreter, which may refuse such threads when they are made."""
    try:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
    except RuntimeError:
        return None
    return thread


class Call:
    """A call in a thread of its own; in this one, if none can be started."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._outcome = deque[tuple[Any, Any]]()
        self._thread = start_thread(self._run, function)
        if self._thread is None:
            self._run(function)

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._outcome.append((function(), None))
        except BaseException as exc:  # who waits raises it
            self._outcome.append((None, exc))

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended within so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)
        return bool(self._outcome)

    def result(self) -> Any:
        """Waits for the end; returns or raises what the function did."""
        self.wait()
        found, error = self._outcome[0]
        if error is not None:
            raise error
        return found


class Gate:
    """A wake-up, which is kept until it is waited for.

    A signal that raises in any line leaves no lock held, as it can in threading.Event.
    """

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()

    def open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open
            self._closed.release()

    def wait(self, seconds: float) -> bool:
        """Waits until it is opened, and closes it; False if that takes longer."""
        return self._closed.acquire(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX))


# --- AWS's configuration --------------------------------------------------------------------------

def _configured(read: Callable[[], T], session: Any = None) -> T:
    """What a function returns that has botocore read AWS's configuration.

    Raises BrokenConfiguration, and botocore's errors that are transient.
    """
    error: Exception
    try:
        with readable():
            return read()
    except RuntimeError as exc:  # botocore has no class for credentials renewed too late
        error = CredentialRetrievalError(provider='refreshable', error_msg=str(exc))
    except (BotoCoreError, ClientError, OSError, ValueError, TypeError, AttributeError,
            LookupError) as exc:
        policy, text = classify(exc), summary(exc)
        if isinstance(exc, ClientError):
            # of STS, for example: what it denies is no action on the table
            if policy not in (_DENIED, _PERMANENT):
                raise
            if exc.operation_name.startswith('AssumeRole'):
                text += '; check the ARN of the role, its external id, and whom it trusts'
        elif isinstance(exc, BotoCoreError):
            if policy is not _BROKEN:
                raise
            if isinstance(exc, (SSOError, TokenRetrievalError)):
                text += '; run "aws sso login"'
        else:
            text = f'{type(exc).__name__}: {text}'
        error = configuration_error(
            f'{_BROKEN.hint}: {text}{_settings_in_use(session)}', BrokenConfiguration)
    # outside of the handler: the error's context could show a line of a file of keys
    raise error


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raises MalformedResponse for the error of botocore's parsers."""
    from botocore.parsers import ResponseParserError
    try:
        yield
    except ResponseParserError as exc:
        raise MalformedResponse(str(exc)) from exc


def _settings_in_use(session: Any) -> str:
    """The names of AWS's settings in the profile and the environment."""
    profile = session.get_scoped_config() if session else {}
    variables = sorted(name for name in os.environ if name.startswith('AWS_'))
    places = [f'profile {session.profile or "default"} has {", ".join(profile)}'] if profile else []
    places += [f'the environment has {", ".join(variables)}'] if variables else []
    return f' ({"; ".join(places)})' if places else ''


@functools.cache
def _data_loader(data_path: str | None) -> Any:
    """The loader of botocore's models: pure data, which a process and its forks parse once."""
    from botocore.loaders import create_loader
    return create_loader(data_path)


def open_session(options: Options) -> Any:
    """A botocore session whose profile exists, and which has the region of all its clients.

    Raises ImproperlyConfigured.
    """
    from botocore.session import Session
    for name in ('botocore.auth', 'botocore.endpoint', 'botocore.parsers', 'botocore.utils'):
        logging.getLogger(name).addFilter(_mask_credentials)

    def read() -> tuple[Any, str | None]:
        try:
            session = Session(profile=options.profile)
            session.register_component(
                'data_loader', _data_loader(session.get_config_variable('data_path')))
            session.get_scoped_config()  # also AWS_PROFILE's
            # botocore does not read AWS_REGION, which other SDKs ask before the profile.  Here it
            # comes last, so that none is moved to another region.
            return session, (options.region or session.get_config_variable('region')
                             or os.environ.get('AWS_REGION'))
        except ProfileNotFound as exc:
            expected = "a profile of AWS's configuration files"
            raise option_error('profile', exc.kwargs['profile'], expected) from None
    session, region = _configured(read)
    if not region:
        raise configuration_error(
            'no region: name it in the URL (dynamodb://eu-west-1/…), or set AWS_REGION')
    if not re.fullmatch('[A-Za-z0-9-]{1,63}', region):
        raise option_error(
            'region', region, "an AWS region such as eu-west-1, also where AWS's tools look for it")
    session.set_config_variable('region', region)
    session.register('before-send', _check_headers)  # also of requests to STS and others
    if options.role_arn:
        session.register_component('credential_provider', _AssumedRole(options))
    return session


class _AssumedRole:
    """The place where botocore finds the credentials of the role of the options."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def load_credentials(self) -> Any:
        """Credentials that assume the role when they are first used, and again before they expire.

        None if there are none to assume it with.
        """
        from botocore.config import Config
        from botocore.credentials import (
            AssumeRoleCredentialFetcher,
            Credentials,
            DeferredRefreshableCredentials,
        )
        options = self._options
        session = open_session(dataclasses.replace(options, role_arn=None))
        source = (Credentials(options.access_key, options.secret_key, method=FROM_URL)
                  if options.access_key else session.get_credentials())
        if source is None:
            return None
        given = {'RoleSessionName': options.role_session_name, 'ExternalId': options.external_id}
        config = Config(
            retries={'total_max_attempts': 1, 'mode': 'standard'},  # the retries are ours
            connect_timeout=options.connect_timeout, read_timeout=options.read_timeout)
        fetcher = AssumeRoleCredentialFetcher(
            functools.partial(create_client, session, config=config), source, options.role_arn,
            extra_args={name: value for name, value in given.items() if value})
        return DeferredRefreshableCredentials(
            fetcher.fetch_credentials, f'{options.role_arn}, assumed with those of {source.method}')


def _check_headers(request: Any, **kwargs: Any) -> None:
    # Python's error would show the header, and botocore would log it
    for name, value in request.headers.items():
        if re.search(r'[\x00-\x1f\x7f]', str(bytes_to_str(value))):
            raise InvalidConfigError(error_msg=f'the header {name} has a control character: a key '
                                               'or a token that it is made of ends in a newline')


def read_keys(session: Any) -> Any:
    """The keys that botocore signs with, renewed if it is time; None if there are none.

    Raises BrokenConfiguration, and botocore's errors that are transient.
    """
    def read() -> Any:
        found = session.get_credentials()
        keys = found and found.get_frozen_credentials()
        names = {'access_key': 'access key', 'secret_key': 'secret key', 'token': 'session token'}
        for attribute, name in names.items() if keys else ():
            key = getattr(keys, attribute)
            if key and not is_key(key):
                raise InvalidConfigError(error_msg=(
                    f'the {name} from {found.method} must be printable ASCII without whitespace'))
        return keys
    return _configured(read, session)


def given_keys(options: Options) -> dict[str, str | None]:
    """The keys of the URL that a client is given; {} if botocore is to find credentials."""
    if options.access_key and not options.role_arn:
        return {'aws_access_key_id': options.access_key,
                'aws_secret_access_key': options.secret_key}
    return {}


def credentials_source(options: Options, session: Any) -> str | None:
    """Where the credentials come from, in botocore's words; None if there are none."""
    if given_keys(options):
        return FROM_URL
    found = None if options.local else _configured(session.get_credentials, session)
    if found:
        return str(found.method)
    if options.local or (options.endpoint_url or '').startswith('http://'):
        return NOT_NEEDED
    return None


def connect(options: Options) -> Any:
    """botocore's client of DynamoDB.  Raises ImproperlyConfigured."""
    from botocore.config import Config
    session = open_session(options)
    keys, source = given_keys(options), credentials_source(options, session)
    if source == NOT_NEEDED:  # DynamoDB Local wants some keys
        keys = {'aws_access_key_id': 'local', 'aws_secret_access_key': 'local'}
    client = create_client(
        session, 'dynamodb', region_name=options.region, endpoint_url=options.endpoint_url,
        **keys, config=Config(
            retries={'total_max_attempts': 1, 'mode': 'standard'},  # the retries are ours
            max_pool_connections=options.max_pool_connections, tcp_keepalive=True,
            connect_timeout=options.connect_timeout, read_timeout=options.read_timeout,
            # botocore would validate what we marshal, and build its user agent for each request
            parameter_validation=False,
            user_agent=f'Botocore/{botocore.__version__} dyna-veggie/{__version__}'))
    events = client.meta.events
    if source not in (FROM_URL, NOT_NEEDED, None):
        # the first event of a request, before botocore asks for an account's endpoint
        events.register('before-parameter-build.dynamodb', lambda **kwargs: read_keys(session))
    events.register('before-parse.dynamodb', _parse_response)
    events.register('response-received.dynamodb', _check_response)
    return client


def create_client(session: Any, service: str, **settings: Any) -> Any:
    """A botocore client.  Raises BrokenConfiguration."""
    bad_endpoint = InvalidConfigError(error_msg=(
        'the endpoint in AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_<SERVICE> or a profile must be '
        'http(s)://host:port without user name or password'))

    def create() -> Any:
        try:
            client = session.create_client(service, **settings)
        except BotoCoreError:
            raise
        except ValueError:  # botocore's error would show the endpoint
            raise bad_endpoint from None
        if not is_endpoint_url(client.meta.endpoint_url):
            raise bad_endpoint
        # the retries are ours: botocore would only write "reached max retries: 0" into each error
        client.meta.events.unregister(
            f'needs-retry.{service}', unique_id=f'retry-config-{service}')
        bundle = session.get_config_variable('ca_bundle') or os.environ.get('REQUESTS_CA_BUNDLE')
        try:
            if bundle and client.meta.endpoint_url.startswith('https:'):
                ssl.create_default_context(cafile=bundle)
        except OSError as exc:
            raise InvalidConfigError(
                error_msg=f'ca_bundle={bundle!r} must be a file of certificates: {exc}') from None
        return client
    return _configured(create, session)


def _parse_response(
        response_dict: dict[str, Any], customized_response_dict: dict[str, Any],
        **kwargs: Any) -> None:
    # botocore walks over every attribute of a response with its model of the service, which takes
    # longer than all else that it does for a batch.  Versions before 1.36 have no such event; then
    # unmarshal() gets what botocore parsed.
    if response_dict['status_code'] == 200:
        try:
            customized_response_dict.update(json.loads(response_dict['body']))
        except ValueError as exc:
            raise MalformedResponse(f'a response that is not JSON: {exc}') from exc
        response_dict['body'] = b'{}'


def _check_response(
        response_dict: dict[str, Any] | None, parsed_response: dict[str, Any] | None,
        **kwargs: Any) -> None:
    # botocore compares the checksum only to decide on one of its own retries
    if response_dict is None or parsed_response is None:
        return
    body = response_dict['body']
    checksum = response_dict['headers'].get('x-amz-crc32')
    if checksum and checksum != str(zlib.crc32(body)):
        raise MalformedResponse(
            f'a response whose x-amz-crc32 is not that of its {len(body)} bytes')
    parsed_response['ResponseMetadata']['Bytes'] = len(body)  # a header need not say so


def within(seconds: float | None, request: Callable[[], Any], url: str) -> Any:
    """The response to a request.  Raises ReadTimeoutError if it is not complete after that."""
    if seconds is None:
        return request()
    call = Call(request)
    if not call.wait(seconds):
        raise ReadTimeoutError(endpoint_url=url)
    return call.result()


class Client:
    """Sends requests to DynamoDB.

    denial_hint: given an action that IAM denies, what else its operator can do.  attempt_timeout:
    seconds for a whole attempt; botocore's time-outs start over with each byte that comes.
    """

    def __init__(
            self, options: Options, denial_hint: Callable[[str], str] = lambda action: '',
            attempt_timeout: float | None = None) -> None:
        self.options, self._attempt_timeout = options, attempt_timeout
        self.backoff = Backoff(
            options.retry_base_delay, options.retry_max_delay, options.retry_timeout,
            options.max_retries)
        self._denial_hint = denial_hint
        self._lock = threading.Lock()  # guards the making of _botocore
        self._botocore: Any = None
        self._failing_since: float | None = None
        self._warned = -math.inf

    @property
    def botocore(self) -> Any:
        """botocore's client.  Raises ImproperlyConfigured, and botocore's errors of credentials."""
        client = self._botocore
        if client is None:
            with self._lock:
                if self._botocore is None:
                    # a place of credentials may not respond, nor a credential_process end
                    self._botocore = within(
                        self._attempt_timeout, functools.partial(connect, self.options),
                        'where the credentials are')
                client = self._botocore
        return client

    def send(
            self, method: str, params: Mapping[str, Any], budget: Budget = UNLIMITED, *,
            transient: str | None = None, unless: str | None = None) -> Any:
        """The response to a request, attempted until its error is permanent or time is up.

        method: of botocore's client.  transient: a code of errors that are expected to pass.
        unless: a code for which None is returned.  Raises botocore's error, or ImproperlyConfigured
        if a person has to act.
        """
        error: Exception | None = None
        for _ in self.backoff.attempts(budget):
            if error is not None:
                self._log_retry(method, error)
            try:
                response = self._attempt(method, params)
                self._log_recovery()
                return response
            except (ClientError, BotoCoreError, MalformedResponse) as exc:
                error = exc
            policy = classify(error)
            if policy.throttled and not self.options.retry_if_throttled:
                break
            if not policy.transient and error_code(error) != transient:
                if isinstance(error, ClientError) and not policy.hint:
                    # DynamoDB responded, so the outage is over; our own first attempt may have
                    # made the condition fail
                    self._log_recovery()
                break
        assert error is not None
        if unless and error_code(error) == unless:
            return None
        raise self._explain(error)

    def _attempt(self, method: str, params: Mapping[str, Any]) -> Any:
        client = None
        try:
            client = self.botocore
            with readable():
                request = functools.partial(getattr(client, method), **params)
                return within(self._attempt_timeout, request, client.meta.endpoint_url)
        except (BotoCoreError, ClientError, BrokenConfiguration) as exc:
            interrupted = interruption(exc)
            if interrupted:
                raise interrupted from None
            if classify(exc).refresh and self._botocore is client:
                self._botocore = None  # the next attempt looks for credentials
            raise

    def _explain(self, error: Exception) -> Exception:
        """What to raise for an error: if only a person can mend it, with a hint."""
        policy, action = classify(error), getattr(error, 'operation_name', '')
        if not policy.hint:
            return with_reasons(error)
        # the actions of STS have no such prefix
        known = self._botocore.meta.service_model.operation_names if self._botocore else ()
        service = 'dynamodb:' if action in known else ''
        hint = policy.hint.format(action=denied_key_action(error) or service + action)
        if policy.raises is DeniedAction:
            hint += self._denial_hint(action)
        region = self.options.region or 'of the configuration'
        return configuration_error(
            f'table={self.options.table!r} in region {region}: {hint} ({summary(error)})',
            policy.raises)

    def _log_retry(self, method: str, error: Exception) -> None:
        # one warning per outage, and one a minute if requests fail now and then
        now = monotonic()
        first = self._failing_since is None and now - self._warned > _WARN_INTERVAL
        self._failing_since = self._failing_since or now
        if first:
            self._warned = now
        log = logger.warning if first else logger.debug
        hint = throttling_hint(error)
        log('DynamoDB table %s: %s failed; this and other requests are retried for up to '
            '%g s each: %s%s', self.options.table, method, self.backoff.timeout, summary(error),
            f' -- {hint}' if hint else '')

    def _log_recovery(self) -> None:
        since, self._failing_since = self._failing_since, None
        if since is not None and monotonic() - since > 1:
            logger.warning('DynamoDB table %s: requests succeed again, after %.0f s',
                           self.options.table, monotonic() - since)


# --- a process ------------------------------------------------------------------------------------

_shared: dict[Any, Any] = {}


def shared_by_process(make: Callable[[Options], T]) -> Callable[[Options], T]:
    """Makes one object for each set of options in a process, for all of its threads.

    Threads may race; one object wins.  So ``make`` must not send anything.
    """
    @functools.wraps(make)
    def get(options: Options) -> T:
        try:
            found: T = _shared[make, options]
        except KeyError:
            found = _shared.setdefault((make, options), make(options))
        return found
    return get


def reset() -> None:
    """Forgets the connections, credentials and tables of this process, which are made again.

    For tests that mock AWS: a client that was made before would go on asking AWS.  A call that is
    in progress keeps what it has.
    """
    _shared.clear()


def preload(options: Options | None = None) -> None:
    """Imports and parses what DynamoDB's clients in forked children will need.

    For ``gunicorn --preload`` and forks of your own, which then share it; Celery's workers call it
    themselves.  Opens no socket, and looks for no credentials.  Raises ImproperlyConfigured.
    """
    from botocore.config import Config
    options = options or Options()
    region = options.region or 'us-east-1'
    session = open_session(dataclasses.replace(options, region=region))
    session.set_config_variable('csm_enabled', False)  # else a client has a socket
    create_client(  # what it parsed stays in the loader
        session, 'dynamodb', region_name=region, endpoint_url='http://localhost',
        aws_access_key_id='none', aws_secret_access_key='none',
        config=Config(defaults_mode='legacy'))  # the mode "auto" asks a metadata service


# a child must not share its parent's connections, nor wait for a lock that a thread of the parent
# held
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=reset)


# --------------------------------------------------------------------------------------------------
# Paging
# --------------------------------------------------------------------------------------------------
#
# Splits a list of ids into request-sized pages and sends several concurrently.  No DynamoDB here:
# a function sends a page.
#
#   pages       The caller and its helper threads take page after page.  Each page is sent until
#               nothing of it comes back unprocessed.
#   errors      The first error stops every thread, including those sleeping between attempts.  If a
#               signal raises it in the caller (a soft time limit, Ctrl-C), the call does not wait
#               for the helpers' requests in flight.

OVERLAPPED = 8  # pages of one call that are in flight together

#: sends a page within a budget, and returns those of it that came back unprocessed
SendPage = Callable[[list[str], Budget], list[str]]


def drain(queue: deque[Any]) -> Iterator[Any]:
    """Takes from a queue, which other threads may take from, until it is empty."""
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return


class Unprocessed(Exception):
    """Time was up; says how many of a page were not processed."""


class _Stopped(Exception):
    """Another thread's page has failed."""


class Pages:
    """Ids that are sent in pages.  size: of a page."""

    def __init__(
            self, ids: Iterable[str], size: int, send: SendPage, backoff: Backoff,
            budget: Budget = UNLIMITED) -> None:
        work = list(ids)
        self._pages = deque(work[start:start + size] for start in range(0, len(work), size))
        self._send, self._backoff, self._deadline = send, backoff, budget.deadline
        self._stopped = Gate()
        self._failures = deque[BaseException]()

    def send_all(self, threads: int) -> None:
        """Sends them by so many threads.  Raises Unprocessed, and what sending a page raises."""
        helpers = []
        try:
            for _ in range(min(len(self._pages), threads) - 1):
                helper = start_thread(self._work)
                if helper is None:
                    break  # the caller goes on alone
                helpers.append(helper)
            self._work()
            if not self._failures or isinstance(self._failures[0], (*FAILURES, Unprocessed)):
                for helper in helpers:
                    helper.join()
        finally:  # also if a signal interrupted the wait
            self._stop()
        if self._failures:
            raise self._failures.popleft()

    def _work(self) -> None:
        try:
            for page in drain(self._pages):
                self._send_page(page, Budget(self._deadline, self._sleep))
        except _Stopped:
            pass
        except BaseException as exc:
            self._failures.append(exc)
            self._stop()

    def _stop(self) -> None:
        self._pages.clear()
        self._stopped.open()

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            self._stopped.open()  # for the next thread that sleeps
            raise _Stopped

    def _send_page(self, page: list[str], budget: Budget) -> None:
        while page:
            for _ in self._backoff.attempts(budget):
                unprocessed = self._send(page, budget)
                if len(unprocessed) < len(page):
                    break  # progress: restart the backoff
            if unprocessed and (len(unprocessed) == len(page) or budget.is_spent):
                raise Unprocessed(f'{len(unprocessed)} of {len(page)}')
            page = unprocessed
            if page:
                budget.sleep(self._backoff.pause(0, random.random()))


# --------------------------------------------------------------------------------------------------
# Table
# --------------------------------------------------------------------------------------------------
#
# Items of one table: gets, conditional writes, batches.  No Celery here, and nothing of what an
# item holds, but that it has an ``id`` and may have a ``ttl``.
#
#   bootstrap   The first request that finds the table missing creates it, and waits until it is
#               ACTIVE; a lock lets one thread of a process do so.
#   ttl         The first write turns on time to live.  After a transient error a later one does.
#   inserts     A batch of new items is one PartiQL request, attempted once.  A circuit breaker
#               stops it where it is denied, unknown, or fails again and again.

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html
GET_BATCH = 100  # keys
_WRITE_BATCH = 25  # puts and deletes
_ID_LIMIT = 2048  # bytes

# bytes: a response this large left keys out because it was full (at 16 MB, or 1 MB of one
# partition), not because of throttling
_FULL_RESPONSE = 2**20

# what a person can do, by the codes after which no more inserts are sent
_INSERT_HINTS = {
    'AccessDenied': '; to batch them, grant the IAM action dynamodb:PartiQLInsert',
    'UnknownOperationException': ', because this engine has no BatchExecuteStatement',
}
# codes of a statement with which an engine fails again and again
_NOT_DONE = {'ValidationError', 'InternalServerError', None}

_BOOTSTRAP = Backoff(base=0.05, maximum=5.0, timeout=300.0)
_KEY_AS_TEXT = 'id (S, HASH)'
_TTL_PATIENCE = 5.0  # seconds that bootstrap may take to turn on time to live
_TTL_PAUSE = 60.0  # seconds between two writes that try to

# what a person can do about a table that is not ACTIVE
_STATES = {
    'CREATING': 'try again once it is ACTIVE',
    'DELETING': 'try again once it is gone',
    'INACCESSIBLE_ENCRYPTION_CREDENTIALS':
        'enable the KMS key that encrypts it, and let DynamoDB use that',
    'ARCHIVING': 'its KMS key could not be used for a week; restore its backup once it is ARCHIVED',
    'ARCHIVED': 'its KMS key could not be used for a week; delete it, and restore its backup',
}


def is_too_long(id: str) -> bool:
    """Whether DynamoDB takes no such key."""
    return len(id.encode()) > _ID_LIMIT


def id_error(id: str, purpose: str = '') -> str:
    """What is wrong with a key that is too long."""
    return (f'the id of a task is too long{purpose}: the key {id[:80]}… has {len(id.encode()):,} '
            f'bytes, and DynamoDB takes {_ID_LIMIT:,}')


def check_id(id: str, error: type[Exception] = InvalidId, purpose: str = '') -> None:
    """Raises that error if DynamoDB takes no such key."""
    if is_too_long(id):
        raise error(id_error(id, purpose))


def _key(id: str) -> dict[str, Any]:
    """An item's key for a request.  Raises InvalidId."""
    check_id(id)
    return marshal_item({'id': id})


def key_schema_of(table: Mapping[str, Any]) -> str:
    """A table's key, written as in ``id (S, HASH)``, from what DescribeTable says."""
    types = {each['AttributeName']: each['AttributeType'] for each in table['AttributeDefinitions']}
    return ', '.join(
        f'{key["AttributeName"]} ({types[key["AttributeName"]]}, {key["KeyType"]})'
        for key in table['KeySchema'])


def expiry(lifetime: float | None) -> Item:
    """What an item holds to expire in so many seconds; nothing if it never does (None or 0)."""
    # time to live is in whole seconds
    return {'ttl': math.ceil(time.time() + lifetime)} if lifetime else {}


def is_expired(item: Item) -> bool:
    # TTL deletion lags by days.  Compare as a condition would: whole seconds, numbers only.
    ttl = item.get('ttl')
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        return False
    return ttl <= int(time.time())


def _of_the_table(by_table: Mapping[str, Any] | None, default: Any) -> Any:
    """What a batch's response says of its table, which it names by its name or by its ARN."""
    return next(iter((by_table or {}).values()), default)


class Breaker:
    """A circuit breaker: open for a pause after so many failures in a row; then one opens it."""

    def __init__(self, limit: int = 3, pause: float = 60.0) -> None:
        self.limit, self.pause = limit, pause
        self.failures = 0
        self._until = -math.inf

    @property
    def is_open(self) -> bool:
        return monotonic() < self._until

    def note(self, failed: bool) -> None:
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= self.limit:
            self._until = max(self._until, monotonic() + self.pause)

    def open_for_good(self) -> None:
        self._until = math.inf


class WriteResult(NamedTuple):
    """Whether a write was applied, and the item that put() or delete() found, that update() left,
    or that failed the condition."""

    applied: bool
    item: Item | None


class Table:
    """One DynamoDB table, its items plain dicts with an ``id``.

    Methods retry until ``retry_timeout``, or within the caller's budget, and raise what
    Client.send() raises, or InvalidId before a request.
    """

    def __init__(self, options: Options, attempt_timeout: float | None = None) -> None:
        self.options = options
        self.name = options.table
        self.client = Client(options, self._denial_hint, attempt_timeout)
        self._inserts = Breaker()
        if TABLE_ARN.fullmatch(self.name):  # PartiQL takes none
            self._inserts.open_for_good()
        self._warned = False  # that inserts are not sent
        #: how many requests of one call may be in flight
        self.overlapped = min(OVERLAPPED, options.max_pool_connections)
        self._bootstrapping = threading.Lock()  # held by the thread that creates the table
        #: when (of monotonic()) a write is to look whether time to live is on
        self._ttl_due = -math.inf if (options.ttl_seconds or 0) > 0 else math.inf

    # --- items ------------------------------------------------------------------------------------

    def get(
            self, id: str, *, consistent: bool = True, budget: Budget = UNLIMITED) -> Item | None:
        """An item, or None.  Unless consistent, it can be a second old, and costs half."""
        response = self.request(
            'get_item', budget, Key=_key(id), ConsistentRead=consistent)
        return unmarshal_item(response['Item']) if 'Item' in response else None

    def get_many(
            self, ids: Iterable[str], *, consistent: bool = True, budget: Budget = UNLIMITED,
    ) -> dict[str, Item]:
        """The items that exist, by id."""
        found: dict[str, Item] = {}
        keys = {id: _key(id) for id in ids}

        def send(page: list[str], budget: Budget) -> list[str]:
            while True:
                read = {'Keys': [keys[id] for id in page], 'ConsistentRead': consistent}
                asked = {self.name: read}
                response = self._request('batch_get_item', {'RequestItems': asked}, budget)
                for attributes in _of_the_table(response['Responses'], ()):
                    found[attributes['id']['S']] = unmarshal_item(attributes)
                unprocessed = _of_the_table(response.get('UnprocessedKeys'), {}).get('Keys', ())
                page = [key['id']['S'] for key in unprocessed]
                if not page or response['ResponseMetadata'].get('Bytes', 0) < _FULL_RESPONSE:
                    return page

        self._in_pages('BatchGetItem', keys, GET_BATCH, send, budget)
        return found

    def put(
            self, item: Item, *, condition: str | None = None, values: Mapping[str, Any] = {},
    ) -> WriteResult:
        """Writes an item, on a condition if one is given."""
        check_id(item['id'])
        return self._write(
            'put_item', item['id'], Item=marshal_item(item), ReturnValues='ALL_OLD',
            **expressions(values, ConditionExpression=condition))

    def update(
            self, id: str, update: str, values: Mapping[str, Any], *, condition: str | None = None,
            budget: Budget = UNLIMITED) -> WriteResult:
        """Updates an item, on a condition if one is given; creates it if it is missing."""
        return self._write(
            'update_item', id, budget, Key=_key(id), ReturnValues='ALL_NEW',
            **expressions(values, UpdateExpression=update, ConditionExpression=condition))

    def delete(self, id: str) -> Item | None:
        """Deletes an item and returns it as it was."""
        return self._write('delete_item', id, Key=_key(id), ReturnValues='ALL_OLD').item

    def _write(
            self, method: str, id: str, budget: Budget = UNLIMITED, **params: Any) -> WriteResult:
        applied = True
        try:
            item = self.request(method, budget, **params).get('Attributes')
        except ClientError as exc:
            if error_code(exc) != 'ConditionalCheckFailedException':
                raise
            applied, item = False, exc.response.get('Item')
            if not item:  # the DynamoDB Local of 2020 does not return it
                return WriteResult(False, self.get(id, budget=budget))
        return WriteResult(applied, unmarshal_item(item) if item else None)

    def write_many(
            self, puts: Iterable[Item] = (), deletes: Iterable[str] = (),
            budget: Budget = UNLIMITED) -> None:
        """Puts and deletes, unconditionally and in no order."""
        writes: dict[str, Any] = {
            item['id']: {'PutRequest': {'Item': marshal_item(item)}} for item in puts}
        for id in deletes:
            writes[id] = {'DeleteRequest': {'Key': marshal_item({'id': id})}}
        for id in writes:
            check_id(id)

        def send(page: list[str], budget: Budget) -> list[str]:
            asked = {self.name: [writes[id] for id in page]}
            response = self._request('batch_write_item', {'RequestItems': asked}, budget)
            unprocessed = []
            for write in _of_the_table(response.get('UnprocessedItems'), ()):
                put = write.get('PutRequest', {}).get('Item')
                # the id only: binary values come back in base64
                unprocessed.append((put or write['DeleteRequest']['Key'])['id']['S'])
            return unprocessed

        self._in_pages('BatchWriteItem', writes, _WRITE_BATCH, send, budget)

    def insert_many(self, items: Iterable[Item]) -> set[str]:
        """Writes items where there is none, by one request that is attempted once.

        At most 25.  Returns the ids of those that it wrote.  The others are for put(), which finds
        out what became of them if the response was lost, and raises what is to be raised: an
        engine, a mock or instrumentation may raise anything here.
        """
        ids, statements = [], []
        for item in items:
            ids.append(item['id'])
            names = ', '.join(f"'{name}': ?" for name in item)
            statements.append({
                'Statement': f'INSERT INTO "{self.name}" VALUE {{{names}}}',
                'Parameters': [marshal(value) for value in item.values()]})
        errors: list[Any] = []
        try:
            self._ensure_ttl()
            response = self.client.send(
                'batch_execute_statement', {'Statements': statements}, ONE_ATTEMPT)
            errors = [each.get('Error') for each in response['Responses']]
            codes = {error.get('Code') for error in errors if error is not None}
            failed = None not in errors and codes <= _NOT_DONE
            self._note_insert(failed, codes, ', '.join(sorted(map(str, codes))))
        except SoftTimeLimitExceeded:  # the task is to end, not to go on with put()
            raise
        except Exception as exc:
            errors = []
            code = 'AccessDenied' if isinstance(exc, DeniedAction) else error_code(exc)
            passing = classify(exc).throttled or code == 'ResourceNotFoundException'
            self._note_insert(not passing, {code}, f'{type(exc).__name__}: {summary(exc)}')
        return {id for id, error in zip(ids, errors) if error is None}

    def insert_all(self, items: Iterable[Item]) -> set[str]:
        """Writes items where there is none, whatever comes late; in no order.

        Returns the ids that had an item.  Where the response to an insert was lost, that item can
        be the one that was to be inserted.
        """
        all_items = {item['id']: item for item in items}
        found: set[str] = set()

        def send(page: list[str], budget: Budget) -> list[str]:
            new = [all_items[id] for id in page]
            inserted = self.insert_many(new) if self.may_insert else set()
            for item in new:
                if item['id'] not in inserted:
                    written = self.put(item, condition='attribute_not_exists(#id)')
                    if not written.applied:
                        found.add(item['id'])
            return []

        for id in all_items:
            check_id(id)
        size = _WRITE_BATCH if self.may_insert else 1
        self._in_pages('BatchExecuteStatement', all_items, size, send, UNLIMITED)
        return found

    @property
    def may_insert(self) -> bool:
        """Whether insert_many() is not known to fail."""
        return not self._inserts.is_open

    def _note_insert(self, failed: bool, codes: set[Any], why: str) -> None:
        self._inserts.note(failed)
        hint = next((_INSERT_HINTS[code] for code in codes if code in _INSERT_HINTS), '')
        if hint:
            self._inserts.open_for_good()
        if self._inserts.is_open:
            log = logger.debug if self._warned else logger.warning
            self._warned = True
            log('DynamoDB table %s: items are written one request each, which takes more CPU%s: %s',
                self.name, hint or '; batches are tried again in a minute', why)

    def _in_pages(
            self, operation: str, ids: Iterable[str], size: int, send: SendPage,
            budget: Budget) -> None:
        backoff = self.client.backoff
        if not self.options.retry_if_throttled:
            backoff = dataclasses.replace(backoff, max_retries=0)
        try:
            Pages(ids, size, send, backoff, budget).send_all(self.overlapped)
        except Unprocessed as exc:
            raise ClientError({'Error': {
                'Code': 'ProvisionedThroughputExceededException',
                'Message': f'{exc} items of table {self.name} stayed unprocessed',
            }}, operation) from None

    # --- requests ---------------------------------------------------------------------------------

    def request(self, method: str, budget: Budget = UNLIMITED, **params: Any) -> Any:
        """The response to a request about this table.  Creates the table if it is missing."""
        return self._request(method, {'TableName': self.name, **params}, budget)

    def _request(self, method: str, params: Mapping[str, Any], budget: Budget) -> Any:
        if method not in ('get_item', 'batch_get_item'):  # a read may have little time
            self._ensure_ttl()
        try:
            return self.client.send(method, params, budget)
        except ClientError as exc:
            if error_code(exc) == 'ValidationException':
                table = self._describe(required=False)
                if table:
                    self.check(table)  # requests are invalid if it has another key
            if error_code(exc) != 'ResourceNotFoundException':
                raise
        self.bootstrap()
        # ACTIVE is what the control plane says; the data plane can still need a moment
        return self.client.send(method, params, budget, transient='ResourceNotFoundException')

    def _denial_hint(self, action: str) -> str:
        """What an operator can do, besides a grant, if IAM denies an action."""
        if TABLE_ARN.fullmatch(self.name):
            return ('; for the table of another account, its resource policy has to allow it, '
                    "and the caller's own policy, too")
        if self.options.create_table and action in ('CreateTable', 'DescribeTable'):
            return ('; or create the table, with the string hash key "id" and time to live on '
                    '"ttl", with the rights of an operator')
        return ''

    # --- bootstrap --------------------------------------------------------------------------------

    def creation(self) -> dict[str, Any]:
        """The CreateTable request."""
        options = self.options
        throughput = {'ReadCapacityUnits': options.read_throughput,
                      'WriteCapacityUnits': options.write_throughput}
        given = {
            'ProvisionedThroughput': options.billing_mode == 'PROVISIONED' and throughput,
            'TableClass': options.table_class,
            'Tags': [{'Key': key, 'Value': value} for key, value in options.tags],
            'DeletionProtectionEnabled': options.deletion_protection,
            'SSESpecification': options.encryption_key and {
                'Enabled': True, 'SSEType': 'KMS', 'KMSMasterKeyId': options.encryption_key}}
        return {'TableName': self.name, 'BillingMode': options.billing_mode,
                'KeySchema': [{'AttributeName': 'id', 'KeyType': 'HASH'}],
                'AttributeDefinitions': [{'AttributeName': 'id', 'AttributeType': 'S'}],
                **{name: value for name, value in given.items() if value}}

    def bootstrap(self) -> None:
        """Creates the table if it is missing, as create() does, and turns on time to live."""
        self.create()
        if self.options.create_table:
            self._ttl_due = -math.inf
            self._ensure_ttl(_TTL_PATIENCE)

    def create(self) -> bool:
        """Creates the table if it is missing, and waits until it can be used.

        Returns whether it was missing.  Raises MissingTable if it must not be created, and
        ImproperlyConfigured if it has another key or cannot be used.
        """
        missing, why = False, ''
        with self._bootstrapping:
            for _ in _BOOTSTRAP.attempts():
                table = self._describe(required=self.options.create_table)
                status = table['TableStatus'] if table else ''
                if not table:
                    if not self.options.create_table or TABLE_ARN.fullmatch(self.name):
                        raise self._missing()
                    missing, why = True, self._try_to_create()
                elif self.options.create_table and status in ('CREATING', 'DELETING'):
                    why = f'it is {status}'
                else:
                    self.check(table)
                    return missing
        raise configuration_error(
            f'table={self.name!r} could not be used after {_BOOTSTRAP.timeout:g} s: {why}')

    def _describe(self, required: bool) -> Any:
        """What DescribeTable says of the table; None if it is missing.

        Unless required, also None if the request fails: not every worker may send it.
        """
        try:
            response = self.client.send('describe_table', {'TableName': self.name},
                                        unless='ResourceNotFoundException')
        except FAILURES:
            if required:
                raise
            return None
        return response and response['Table']

    def _try_to_create(self) -> str:
        """Sends CreateTable; returns why there may be no table yet.  Raises permanent errors."""
        logger.info('DynamoDB table %s does not exist, creating it', self.name)
        try:
            self.client.send('create_table', self.creation())
        except ClientError as exc:
            # Another process may be first, or the table still DELETING.  A limit of creations in
            # flight is transient, one of the account's tables is not.
            message = str(exc).lower()
            limited = 'limit exceeded:' in message and 'simultaneous' not in message
            if error_code(exc) == 'LimitExceededException' and limited:
                raise configuration_error(
                    f'table={self.name!r} cannot be created: delete another, or ask AWS to raise '
                    f'the quota of the account ({summary(exc)})') from exc
            if error_code(exc) not in ('ResourceInUseException', 'LimitExceededException'):
                raise
            return summary(exc)
        return 'it was not there yet'

    def _missing(self) -> ImproperlyConfigured:
        region = self.client.botocore.meta.region_name
        hint = 'check its name and the region, or create it with the command create-table'
        arn = TABLE_ARN.fullmatch(self.name)
        if arn:
            hint = ('a table that is named by its ARN is not created from here; create '
                    f'{arn["name"]} with credentials of account {arn["account"]}')
        return configuration_error(
            f'table={self.name!r} does not exist in {region}: {hint}', MissingTable)

    def check(self, table: Mapping[str, Any]) -> None:
        """Raises ImproperlyConfigured for a table that cannot be used.  table: of DescribeTable."""
        status, key = table['TableStatus'], key_schema_of(table)
        if key != _KEY_AS_TEXT:
            raise option_error(
                'table', self.name, f'a table with the key {_KEY_AS_TEXT}; its key is {key}')
        if status not in ('ACTIVE', 'UPDATING'):
            hint = _STATES.get(status, "see AWS's documentation of this status")
            raise configuration_error(f'table={self.name!r} is {status}: {hint}')

    def _ensure_ttl(self, patience: float = 0) -> None:
        """Turns on time to live once, for ``patience`` seconds; by default with one attempt.

        A failure is only logged, since reads hide expired items anyway.
        """
        if monotonic() < self._ttl_due:
            return
        self._ttl_due = monotonic() + _TTL_PAUSE  # also if a signal ends it
        try:
            self.enable_ttl(Budget(monotonic() + patience))
        except FAILURES as exc:
            passing = classify(exc).transient or error_code(exc) in (
                'LimitExceededException', 'ResourceInUseException')
            log = logger.warning if passing else logger.error
            log('DynamoDB table %s: time to live was not enabled, %s: %s', self.name,
                'a later write tries again' if passing else 'expired items stay', summary(exc))
            if passing:
                return
        self._ttl_due = math.inf

    def enable_ttl(self, budget: Budget = UNLIMITED) -> None:
        """Turns on time to live, unless it is on, or the table is missing."""
        named = {'TableName': self.name}
        response = self.client.send(
            'describe_time_to_live', named, budget, unless='ResourceNotFoundException')
        found = response['TimeToLiveDescription'] if response else {}
        if found.get('TimeToLiveStatus') in ('DISABLED', 'DISABLING'):
            specification = {'Enabled': True, 'AttributeName': 'ttl'}
            try:
                self.client.send(
                    'update_time_to_live', {**named, 'TimeToLiveSpecification': specification},
                    budget)
            except ClientError as exc:
                if 'already enabled' not in str(exc):  # by another process
                    raise
            logger.info('DynamoDB table %s: time to live enabled', self.name)
        elif found and found.get('AttributeName') != 'ttl':
            logger.error(
                'DynamoDB table %s: time to live is on attribute %s, not on "ttl": expired items '
                'stay', self.name, found.get('AttributeName'))


#: the table that all threads of this process share
shared_table = shared_by_process(Table)


# --------------------------------------------------------------------------------------------------
# Group commit
# --------------------------------------------------------------------------------------------------
#
# Group commit, as in RocksDB's write group: entries that threads submit while a request is in
# flight share the next one.  It is for workers with threads or greenlets (threads, gevent,
# eventlet); a prefork process has one thread, and sends each entry immediately.  No DynamoDB here:
# a request is a function of the entries.
#
#   queues      Results are one queue, and the counts on each leaf of a chord are one.
#   a batch     The first thread into a batch leads: it waits for the batch before, seals its own,
#               and sends it.  Followers wait for their leader, which wakes them however it ends,
#               and send alone what it did not commit.
#   linger      Threads released by one response come back at about the same time.  With nothing in
#               flight, a leader waits up to LINGER for as many as the last batch had.
#   signals     can interrupt a leader anywhere, so each wait is bounded.

_BATCH_LIMIT = 25  # in one request: statements; and the condition of a count is limited to 4 KB
LINGER = 0.005  # seconds
LEADER_TIMEOUT = 5.0  # seconds that a leader waits for the batch before, which may be retrying
FOLLOWER_TIMEOUT = 60.0  # seconds that a follower waits; to go alone is never wrong


class Sent(NamedTuple):
    """The response to a request, and the keys of the entries that it committed."""

    response: Any
    committed: Container[Any] = ()


#: sends entries, by key
Send = Callable[[Mapping[Any, Any]], Sent]


class _Batch:
    """Entries that share a request."""

    def __init__(self, target: int) -> None:
        self.leader = threading.get_ident()
        self.entries: dict[Any, Any] = {}
        self.target = target
        self.full = threading.Event()  # it has as many entries as its target
        self.sealed = False  # it takes no more
        self.sent = Sent(None)
        self.done = threading.Event()  # its leader has sent it, or never will


class Batcher:
    """The newest batch of each queue, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the batches; not held during a request or a wait
        self._newest: dict[str, _Batch] = {}
        self._last_size = 1  # entries of the last batch of any queue

    def submit(self, queue: str, key: Any, entry: Any, send: Send) -> Any:
        """The response to a request with the entry; None if a leader has committed it."""
        batch, previous = self._enter(queue, key, entry)
        if batch.leader == threading.get_ident():
            self._lead(queue, batch, previous, send)
            if key in batch.sent.committed or len(batch.entries) == 1:
                return batch.sent.response
        else:
            batch.done.wait(FOLLOWER_TIMEOUT)
            if key in batch.sent.committed:
                return None
        return send({key: entry}).response

    def waiting(self, queue: str) -> int:
        """How many entries of a queue's newest batch wait for its request, or its response."""
        with self._lock:
            return len(self._newest[queue].entries) if queue in self._newest else 0

    def _enter(self, queue: str, key: Any, entry: Any) -> tuple[_Batch, _Batch | None]:
        """Puts an entry into the newest batch, or into a new one; returns it and the one before."""
        with self._lock:
            batch = previous = self._newest.get(queue)
            if previous is not None and previous.leader == threading.get_ident():
                previous.done.set()  # a signal interrupted this thread while it led
                batch = previous = None
            # a duplicate delivery goes alone, or we would wait for tasks added by both
            if (batch is None or batch.sealed or len(batch.entries) >= _BATCH_LIMIT
                    or key in batch.entries):
                batch = self._newest[queue] = _Batch(self._last_size)
            batch.entries[key] = entry
            if len(batch.entries) >= batch.target:
                batch.full.set()
            return batch, previous

    def _lead(self, queue: str, batch: _Batch, previous: _Batch | None, send: Send) -> None:
        """Sends a batch once the one before is done; with nothing in flight, once it is full."""
        try:
            if previous is not None:
                previous.done.wait(LEADER_TIMEOUT)
            else:
                batch.full.wait(LINGER)
            with self._lock:
                batch.sealed = True
            batch.sent = send(batch.entries)
        finally:  # also after an exception: the followers go on alone
            with self._lock:
                if self._newest.get(queue) is batch:
                    del self._newest[queue]
                self._last_size = len(batch.entries)
            batch.done.set()


@shared_by_process
def shared_batcher(options: Options) -> Batcher:
    return Batcher()


# --------------------------------------------------------------------------------------------------
# Blob store
# --------------------------------------------------------------------------------------------------
#
# Values of any size under an id, each with a status and an expiry.  No Celery here: a status is any
# text.
#
#   an item     id S, result B (the value), timestamp N; if there are any, status S, ttl N,
#               chord S (a link that is stored with the value), later S (the link of a later
#               delivery, whose value was not stored because this one was there), and duration N
#               (seconds that the value took until it was stored: its task started that long before
#               the timestamp, by the clock of its worker)
#   a counter   id S, chord_count N (what increment() adds to)
#   large       A value above the limit is cut into chunks, items of their own: id S
#               (ID/VERSION/NUMBER), result B, timestamp N, ttl N.  Its own item has version B
#               (random), size N and chunks N in place of result.
#   writing     Copy on write: the chunks are written first, under a new version, then the item that
#               names it, by one write.  So a reader finds the old value or the new one, never a
#               mix.  If the item is not written, its chunks are deleted.
#   batches     Small results written at the same time share one PartiQL insert.  An insert never
#               overwrites; rejected or unconfirmed ones fall back to PutItem.
#   reading     If chunks are missing, the value was replaced while it was read, and is read again,
#               with pauses.  Only chunks that are missing twice for one version are gone.

# bytes: of the 400 KB of an item, an id takes up to 2048, and so may each link to a chord; other
# names and values take some 100
_STATUS_LIMIT = 1024
_VALUE_LIMIT = 400_000
_MOST_CHUNKS = LARGEST_RESULT // _VALUE_LIMIT
_BATCHABLE = 16_384  # bytes: larger values would hold up the batch
RESULTS_QUEUE = 'results'  # of the Batcher
_FIRST_REREAD, _LAST_REREAD = 0.02, 0.5  # seconds: upper bounds of pauses
_CLEANING = 1.0  # seconds that a write which failed may take to delete its chunks


class UnreadableValue(Exception):
    """A stored value of which chunks are missing, or an item that this module did not write."""


@contextlib.contextmanager
def refused_if_odd(what: str) -> Iterator[None]:
    """Raises UnreadableValue for items of a form that this module does not write."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as exc:
        raise UnreadableValue(f'{what}: {type(exc).__name__}: {exc}') from exc
    except ClientError as exc:  # it leads to an id that is none
        if error_code(exc) != 'ValidationException':
            raise
        raise UnreadableValue(f'{what}: {summary(exc)}') from exc


class StoredValue(NamedTuple):
    """A value as it was read, and the ids of the items that hold it; or why it cannot be read."""

    value: bytes
    ids: tuple[str, ...]
    error: UnreadableValue | None = None
    chord: str | None = None  # as put() was given it
    later: str | None = None

    def read(self) -> bytes:
        """The value.  Raises UnreadableValue."""
        if self.error is not None:
            raise self.error
        return self.value


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, str)):
        return ensure_bytes(value)
    raise TypeError(f'the result is not binary but {type(value).__name__}')


def _chunk_id(id: str, version: bytes, number: int) -> str:
    return f'{id}/{version.hex()}/{number}'


def chunk_ids(item: Item | None) -> list[str]:
    """The ids of an item's chunks; none if it does not have the form of one with chunks."""
    found = item or {}
    chunks, version, size = found.get('chunks'), found.get('version'), found.get('size')
    if not (isinstance(chunks, int) and isinstance(version, bytes) and isinstance(size, int)
            and chunks == -(-size // _VALUE_LIMIT) <= _MOST_CHUNKS):  # as it is written here
        return []
    ids = [_chunk_id(found['id'], version, number) for number in range(chunks)]
    return [] if ids and is_too_long(ids[-1]) else ids


def chunk_owner(id: str) -> str | None:
    """The id of the item that a chunk belongs to; None if it is no chunk's id."""
    match = re.fullmatch(r'(.+)/[0-9a-f]{32}/\d+', id, re.DOTALL)
    return match and match[1]


def check_value(id: str, size: int, status: str | None, error: type[Exception]) -> None:
    """Raises that error if no items can hold a value of that size: for its id, or its status."""
    check_id(id, error)
    length = len(str(status or '').encode(errors='replace'))
    if length > _STATUS_LIMIT:
        raise error(f'{id} cannot be stored with a state whose name has {length:,} bytes: '
                    f'it can have {_STATUS_LIMIT:,}')
    if size > _VALUE_LIMIT:
        last = _chunk_id(id, bytes(16), -(-size // _VALUE_LIMIT) - 1)
        check_id(last, error, f' for results above {_VALUE_LIMIT:,} bytes')


def _items_of(id: str, value: bytes, status: str | None, ttl: Item) -> tuple[Item, list[Item]]:
    """The item that holds a value, and its chunks if it is too large for one."""
    written = {'timestamp': time.time(), **ttl}
    item: Item = {'id': id, **written}
    if status:
        item['status'] = status
    if len(value) <= _VALUE_LIMIT:
        return {**item, 'result': value}, []
    pieces = [value[at:at + _VALUE_LIMIT] for at in range(0, len(value), _VALUE_LIMIT)]
    item.update(version=uuid.uuid4().bytes, size=len(value), chunks=len(pieces))
    chunks = [{'id': chunk_id, 'result': piece, **written}
              for chunk_id, piece in zip(chunk_ids(item), pieces)]
    return item, chunks


def _unchanged(item: Item) -> tuple[str, Item]:
    """The condition that an item is the one that was read, by its timestamp, with its values."""
    seen = item.get('timestamp')
    if isinstance(seen, bool) or not isinstance(seen, (int, float)):
        return 'NOT attribute_type(#timestamp, :number)', {'number': 'N'}
    low = high = seen
    if isinstance(seen, float):  # DynamoDB may have more digits
        low, high = math.nextafter(seen, -math.inf), math.nextafter(seen, math.inf)
    return '#timestamp BETWEEN :low AND :high', {'low': low, 'high': high}


class BlobStore:
    """Blobs in a table: values of any size, each with a status and an expiry.

    status_of: gives the status that is in a value, which counts more than that of its item.
    """

    # Conditions for a write that leaves a value with the status ``keep`` as it is:
    VACANT = 'attribute_not_exists(#id) OR #ttl <= :now'  # missing, or expired and not deleted yet
    _HAS_ANOTHER = 'attribute_exists(#status) AND #status <> :keep'  # if none, its value has one
    #: any of them; for other items, put() reads the value
    REPLACEABLE = f'{VACANT} OR ({_HAS_ANOTHER})'

    def __init__(
            self, table: Table, status_of: Callable[[bytes], str | None] | None = None) -> None:
        self.table, self.status_of = table, status_of

    # --- writing ----------------------------------------------------------------------------------

    def put(
            self, id: str, value: bytes, status: str | None, lifetime: float | None = None, *,
            keep: str | None = None, chord: str | None = None, duration: float | None = None,
            new: bool = False) -> bool:
        """Stores a value for ``lifetime`` seconds (None: for ever).

        keep: if a value with this status is there and can be read, it stays, and False is returned.
        chord: a link that is stored with it, as is duration.  new: there is probably no value yet.
        Raises UnreadableValue for an item that can neither be kept nor be replaced, and InvalidId.
        """
        check_value(id, len(value), status, InvalidId)
        item, chunks = _items_of(id, value, status, expiry(lifetime))
        if chord:
            item['chord'] = chord
        if duration is not None:
            item['duration'] = round(duration, 3)
        batched = new and len(value) <= _BATCHABLE and self.table.may_insert
        try:
            self.table.write_many(puts=chunks)
            written = (self._insert if batched else self._put_item)(item, keep)
        except BaseException:
            self._discard(item, failed=True)
            raise
        self._discard(written.item if written.applied else item)
        return written.applied

    def _insert(self, item: Item, keep: str | None) -> WriteResult:
        """As _put_item(); if other threads write concurrently, by one request for all of them."""
        inserted = WriteResult(True, None)

        def send(items: Mapping[Any, Any]) -> Sent:
            if len(items) > 1:
                return Sent(inserted, self.table.insert_many(items.values()))
            return Sent(self._put_item(item, keep))

        marshal_item(item)  # raises for what cannot be stored, before it joins a batch
        batcher = shared_batcher(self.table.options)
        return batcher.submit(RESULTS_QUEUE, item['id'], item, send) or inserted

    def _put_item(self, item: Item, keep: str | None) -> WriteResult:
        """Puts an item, unless a readable value with the status ``keep`` is there."""
        condition = self.REPLACEABLE if keep else None
        values: Item = {'now': int(time.time()), 'keep': keep}
        for _ in range(100):  # each failure means that another writer got in between
            result = self.table.put(item, condition=condition, values=values)
            old = result.item
            if old and all(old.get(name) == item.get(name)
                           for name in ('timestamp', 'version', 'result')):
                return WriteResult(True, None)  # a lost response made us send this item twice
            if result.applied or (old and self._has_status(old, keep)):
                return result
            if old:
                unchanged, seen = _unchanged(old)
                condition, values = f'{self.REPLACEABLE} OR {unchanged}', {**values, **seen}
        raise UnreadableValue(f'DynamoDB table {self.table.name}, item {item["id"]}: '
                              'it can neither be kept nor be replaced')

    def _has_status(self, item: Item, status: str | None) -> bool:
        """Whether the value of an item can be read, and has the status."""
        if item.get('status', status) != status:
            return False
        stored = self._read({item['id']: item}, UNLIMITED, patient=False).get(item['id'])
        if stored is None or stored.error is not None:
            return False
        return self.status_of is None or self.status_of(stored.value) == status

    def _discard(self, item: Item | None, failed: bool = False) -> None:
        """Deletes the chunks of an item that was replaced or not written; a failure is only logged.

        failed: the write was not confirmed, so the item may be there.
        """
        chunks = chunk_ids(item)
        if item is None or not chunks:
            return
        budget = Budget(monotonic() + _CLEANING) if failed else UNLIMITED
        try:
            found = self.table.get(item['id'], budget=budget) if failed else None
            if (found or {}).get('version') != item['version']:
                self.table.write_many(deletes=chunks, budget=budget)
        except FAILURES as exc:
            logger.warning('DynamoDB table %s: %d chunks of item %s stay until they expire or are '
                           'purged: %s', self.table.name, len(chunks), item['id'], summary(exc))

    # --- reading ----------------------------------------------------------------------------------

    def get(
            self, id: str, *, consistent: bool = True, budget: Budget = UNLIMITED,
    ) -> StoredValue | None:
        """A value; None if there is none, or it has expired.  Raises ReplacedDuringRead."""
        return self.get_many([id], consistent=consistent, budget=budget).get(id)

    def get_many(
            self, ids: Iterable[str], *, consistent: bool = True, budget: Budget = UNLIMITED,
            patient: bool = True) -> dict[str, StoredValue]:
        """The values that exist and have not expired, by id.

        patient: one that is replaced again and again is read again and again, within the budget
        and for ``retry_timeout``; then ReplacedDuringRead is raised.  Otherwise it is left out.
        """
        ids = list(ids)
        if len(ids) == 1:
            item = self.table.get(ids[0], consistent=consistent, budget=budget)
            items = {ids[0]: item} if item else {}
        else:
            items = self.table.get_many(ids, consistent=consistent, budget=budget)
        return self._read(items, budget, patient)

    def _read(
            self, items: Mapping[str, Item], budget: Budget, patient: bool,
    ) -> dict[str, StoredValue]:
        values: dict[str, StoredValue] = {}
        torn: dict[str, bytes] = {}  # by id, the version of which chunks were missing
        backoff = Backoff(_FIRST_REREAD, _LAST_REREAD, self.table.options.retry_timeout)
        for again in itertools.chain([False], (True for _ in backoff.attempts(budget))):
            if again:  # immediately, then after pauses
                items = self.table.get_many(torn, budget=budget)
            read = {id: self._stored(item, torn, budget)
                    for id, item in items.items() if not is_expired(item)}
            torn = {id: items[id]['version'] for id, stored in read.items() if stored is None}
            values.update((id, stored) for id, stored in read.items() if stored is not None)
            if not torn or (again and not patient):
                return values
        raise ReplacedDuringRead(
            f'DynamoDB table {self.table.name}, item {next(iter(torn))}: it was replaced each time '
            'before all of its chunks were read')

    def _stored(
            self, item: Item, torn: Mapping[str, bytes], budget: Budget) -> StoredValue | None:
        """The value of an item; None if chunks are missing, unless they were before (torn)."""
        id = item['id']
        what = f'DynamoDB table {self.table.name}, item {id}'
        try:
            with refused_if_odd(what):
                value = self._value(item, budget)
            if value is None and torn.get(id) == item['version']:
                raise UnreadableValue(f'{what}: chunks are missing')
        except UnreadableValue as exc:
            return StoredValue(b'', (id,), exc)
        if value is None:
            return None
        return StoredValue(value, (id, *chunk_ids(item)), chord=item.get('chord'),
                           later=item.get('later'))

    def _value(self, item: Item, budget: Budget) -> bytes | None:
        """The value of an item; None if chunks are missing.  Raises for one of the wrong form."""
        if 'result' in item:
            return _bytes(item['result'])
        if 'chunks' not in item:
            count = item.get('chord_count')
            return str(count).encode() if isinstance(count, int) else b''  # a counter, or no value
        ids = chunk_ids(item)
        if not ids:
            raise ValueError('it counts its chunks wrong')
        pieces: list[bytes] = []
        for start in range(0, len(ids), GET_BATCH):  # none after a page with a missing chunk
            page = ids[start:start + GET_BATCH]
            chunks = self.table.get_many(page, budget=budget)
            if len(chunks) < len(page):
                return None
            pieces += [_bytes(chunks[id]['result']) for id in page]
        value = b''.join(pieces)
        return value if len(value) == item['size'] else None

    # --- marks, deleting, expiry, counters --------------------------------------------------------

    def mark(self, item: Item, name: str, marks: Mapping[str, Any]) -> bool:
        """Adds attributes to an item that is still as it was read; returns whether it did.

        name: the one by which marks differ.  The next value that is stored replaces the item.
        """
        unchanged, seen = _unchanged(item)
        unmarked = f'attribute_not_exists(#{name})'
        if name in item:
            unmarked, seen = f'#{name} = :before', {**seen, 'before': item[name]}
        update = 'SET ' + ', '.join(f'#{each} = :{each}' for each in marks)
        done, found = self.table.update(
            item['id'], update, {**seen, **marks},
            condition=f'attribute_exists(#id) AND {unchanged} AND {unmarked}')
        # a lost response makes it send the update twice
        return done or (found or {}).get(name) == marks[name]

    def delete(self, id: str) -> None:
        """Deletes a value with its chunks."""
        self.table.write_many(deletes=chunk_ids(self.table.delete(id)))

    def delete_many(self, ids: Iterable[str], *, with_chunks: bool = False) -> None:
        """Deletes values in batches; with their chunks (which costs a read of each) or without."""
        ids = list(ids)
        items = self.table.get_many(ids).values() if with_chunks else ()
        chunks = [chunk for item in items for chunk in chunk_ids(item)]
        self.table.write_many(deletes=[*ids, *chunks])

    def expire(self, id: str, lifetime: float | None) -> None:
        """Lets a value expire in so many seconds (None: never)."""
        ttl = expiry(lifetime)
        update = 'SET #ttl = :ttl' if ttl else 'REMOVE #ttl'
        exists = 'attribute_exists(#id)'
        _, item = self.table.update(id, update, ttl, condition=exists)
        for chunk_id in chunk_ids(item):
            self.table.update(chunk_id, update, ttl, condition=exists)

    def increment(self, id: str) -> int:
        """Adds one to a counter and returns it; two if a response was lost and it asked again."""
        _, item = self.table.update(id, 'ADD #chord_count :one', {'one': 1})
        count: int = (item or {})['chord_count']
        return count


# --------------------------------------------------------------------------------------------------
# Polling
# --------------------------------------------------------------------------------------------------
#
# Adaptive polling: DynamoDB cannot notify us, and a fetch costs half a read unit per id, whether it
# exists or not.  All waits of a process share their polls.  A wait fetches one batch, then samples
# of its ids at growing pauses.  Once all of a sample is there, a whole batch is fetched next; once
# all of a batch is there, the next follows without a pause.
#
#   state       one Poller for each table of a process: the waits of its threads, greenlets and
#               coroutines, and the callbacks, with a background wait for their ids.
#   who polls   one thread, as long as there are waits.  It alone touches the schedule, a heap of
#               waits by when they are due; long waits fall due together.  Where no thread can be
#               started, a thread that waits polls.
#   wake-ups    Each wait has its own.  A poll wakes those for which it found something.
#   time-outs   Who waits sends nothing, so that no request, retry or creation of the table holds it
#               up.  At its time-out it asks for a last poll, a consistent one.
#   hints       A poll also fetches what can end a wait early, such as news of a failed part.
#   callbacks   are called by a second thread, because one may take long, or wait for a result.
#   signals     raise errors in a thread that waits, between any two lines.  Such a thread holds no
#               lock, and only appends to queues.  Celery removes callbacks in __del__.  So each
#               operation on what threads share is atomic.

_FIRST_POLL = 0.02  # seconds: no wait polls more often, whatever its interval
_POLL_GROWTH = 1.5
_SAMPLE = 10  # ids
_BURST = 8  # batches that one fetch reads at most
_LAST_POLL = 2.0  # seconds that a wait gives its last poll, after its time-out
_ONLY_POLL = 30.0  # the same with a time-out of 0, which is a plain read
_LINGER = 1.0  # seconds that the thread stays after the last wait
_SLICE = 10.0  # seconds after which who waits looks whether there is still a thread that polls


def deadline_after(timeout: float | None) -> float:
    """When so many seconds (None: for ever) will have passed, by monotonic()."""
    return math.inf if timeout is None else monotonic() + timeout


def poll_pause(idle_polls: int, interval: float, jitter: float) -> float:
    """Seconds until the next poll, after so many that found little; jitter is from [0, 1)."""
    return min(interval, _FIRST_POLL * _POLL_GROWTH ** min(idle_polls, 64) * (1 + jitter / 2))


def window_size(asked: int, found: int, pending: int) -> int:
    """How many of the pending ids to fetch next, after a fetch that asked and found so many."""
    if found == asked:
        return GET_BATCH if asked < GET_BATCH else min(2 * asked, _BURST * GET_BATCH)
    # twice as many as last time, and enough to have fetched all after 32 polls
    return min(GET_BATCH, max(_SAMPLE, 2 * found, pending // 32))


class Observed(NamedTuple):
    """What a fetch found under an id; ``version`` differs whenever the value does."""

    value: Any
    version: Any
    final: bool


class Fetch(Protocol):
    """Returns what exists under ids; raises TimeoutError if its deadline passed first."""

    def __call__(
            self, ids: list[str], *, consistent: bool, deadline: float) -> Mapping[str, Any]: ...


#: decodes what a fetch found under an id
Decode = Callable[[str, Any], Observed]


class Hints:
    """Ids that each poll fetches with those of a wait: what is there can end the wait early.

    Here: none.
    """

    ids: Mapping[str, Any] = {}  # replaced as a whole, since another thread may be polling

    def decode(self, id: str, found: Any) -> Any:
        """What take() gets; None for nothing new.  Called by the thread that polls."""

    def take(self, id: str, news: Any) -> None:
        """Called by the thread that waits, which gets what it raises."""


NO_HINTS = Hints()


class Watch(NamedTuple):
    """A callback for the final value under an id."""

    decode: Decode
    callback: Callable[[Any], None]


class Background:
    """Calls work() as long as has_work() says so, in a thread that ends after that.

    A sub-interpreter can refuse daemon threads, and waits for others when it ends.  There each call
    is a job of an executor, which refuses jobs from then on.
    """

    def __init__(
            self, has_work: Callable[[], bool], work: Callable[[], None], name: str) -> None:
        self._has_work, self._work, self._name = has_work, work, name
        self._tokens = deque(['the right to work'])  # taken by who works

    def ensure(self) -> bool:
        """Called after work was added: starts a thread if none works; False if it cannot."""
        return (not self._tokens or start_thread(self.run, name=self._name) is not None
                or self._start_jobs())

    def run(self, until: float = math.inf) -> None:
        """Works here, unless another thread does."""
        has_time = True
        while has_time and self._has_work():
            try:
                token = self._tokens.popleft()
            except IndexError:
                return
            try:
                while has_time and self._has_work():
                    self._work()
                    has_time = monotonic() < until
            finally:
                self._tokens.append(token)  # and looks again: who added work did not start another

    def _start_jobs(self) -> bool:
        try:
            token = self._tokens.popleft()
        except IndexError:  # another thread works
            return True
        return self._submit(token)

    def _submit(self, token: str, executor: Any = None) -> bool:
        try:
            from concurrent.futures import ThreadPoolExecutor
            executor = executor or ThreadPoolExecutor(1)
            executor.submit(self._work_once, token, executor)
        except BaseException as exc:
            self._tokens.append(token)
            if not isinstance(exc, RuntimeError):  # no thread can be started, or this is the end
                raise
            return False
        return True

    def _work_once(self, token: str, executor: Any) -> None:
        has_work = False
        try:
            self._work()
            has_work = self._has_work()
        finally:
            if has_work:
                self._submit(token, executor)
            else:
                self._tokens.append(token)
        if not has_work and self._has_work():  # who added it did not start another
            self.ensure()


class Wait:
    """The ids that one caller waits for, and when to poll for them next.

    all_changes: the caller also wants each new version that is not final.  wake: called after a
    poll that found something.  is_abandoned: whether nobody will take what is found.
    """

    def __init__(
            self, ids: Iterable[str], decode: Decode, interval: float, all_changes: bool = False,
            hints: Hints = NO_HINTS, deadline: float = math.inf,
            wake: Callable[[], Any] = lambda: None,
            is_abandoned: Callable[[], bool] = lambda: False) -> None:
        self.decode, self.hints, self.deadline, self.wake = decode, hints, deadline, wake
        self.is_abandoned = is_abandoned
        self.interval = max(interval, _FIRST_POLL)
        self.all_changes = all_changes
        self.pending: dict[str, Any] = dict.fromkeys(ids)  # to the version that the caller knows
        self.queue = deque(self.pending)  # the same ids, the longest not fetched first
        self.updates: deque[tuple[str, Observed]] = deque()
        self.news: deque[tuple[str, Any]] = deque()  # of the hints
        self.size, self.idle_polls, self.due = GET_BATCH, 0, 0.0
        # an exact answer where one is asked for: of a single id, and at last
        self.is_consistent = len(self.pending) == 1
        self.is_first, self.is_last, self.is_over = True, False, False
        self.error: BaseException | None = None  # of a poll
        self.traceback: TracebackType | None = None
        self.entry = 0  # in the schedule; others of this wait are void

    def window(self) -> list[str]:
        """Takes the ids to fetch next from the queue; record() puts back those not final."""
        return [self.queue.popleft() for _ in range(min(self.size, len(self.queue)))]

    def decode_all(self, window: Iterable[str], found: Mapping[str, Any]) -> dict[str, Observed]:
        return {id: self.decode(id, found[id]) for id in window if id in found}

    @property
    def hint_ids(self) -> Iterable[str]:
        """None at first: what is ready needs none."""
        is_ready = self.is_first and not self.is_last
        return self.hints.ids if self.pending and not is_ready else ()

    def decode_hints(self, found: Mapping[str, Any]) -> None:
        for id in self.hint_ids:
            news = self.hints.decode(id, found[id]) if id in found else None
            if news is not None:
                self.news.append((id, news))

    def take(self) -> Iterator[tuple[str, Observed]]:
        """Yields the updates; hands over the news while they still matter.  Raises poll's error."""
        yield from drain(self.updates)
        if self.error is not None:
            # others raise it, too: it would collect the tracebacks of all
            raise self.error.with_traceback(self.traceback)
        for id, news in drain(self.news):
            if self.pending:
                self.hints.take(id, news)

    def record(
            self, window: list[str], observed: Mapping[str, Observed], phase: float = 0.0) -> None:
        """Records what was found of a window, and when the next is due.

        After a whole batch, it is due without a pause.
        """
        for id, each in observed.items():
            is_change = self.all_changes and each.version != self.pending.get(id)
            if id in self.pending and (each.final or is_change):
                self.updates.append((id, each))
                self.pending[id] = each.version
        final = {id for id, each in observed.items() if each.final}
        for id in final:
            self.pending.pop(id, None)
        self.queue.extend(id for id in window if id in self.pending)
        self._set_due(len(window), len(final), phase)

    def _set_due(self, asked: int, found: int, phase: float) -> None:
        self.due = monotonic()
        if not asked:
            self.due += self.interval
            return
        self.size = window_size(asked, found, len(self.queue))
        if found == asked:
            self.idle_polls = 0
        elif 2 * found < asked:
            self.idle_polls += 1
        if found == asked >= GET_BATCH:
            return
        self.due += poll_pause(self.idle_polls, self.interval, random.random())
        if poll_pause(self.idle_polls, self.interval, 0) == self.interval:
            # the pauses of all long waits end together; those of other processes do not
            self.due = (round(self.due / self.interval - phase) + phase) * self.interval


class Poller:
    """Polls for all that waits in a process."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._phase = random.random()  # a forked child makes its own poller
        self._added: deque[Wait] = deque()  # waits for the schedule
        self._waits: dict[Wait, None] = {}  # those that are not over
        self._schedule: list[tuple[float, int, Wait]] = []
        self._entries = itertools.count(1)
        self._gate = Gate()
        self._linger = 0.0  # until when the thread stays
        self._thread = Background(self._has_waits, self._work, 'dyna-veggie-poll')
        self._watches: dict[str, dict[int, Watch]] = {}  # by id and watcher
        self._decoders: dict[str, Decode] = {}  # for the ids that the background wait has
        self._background = Wait((), lambda id, found: self._decoders[id](id, found), 0.5)
        self._calls: deque[tuple[str, Watch, Any]] = deque()
        self._callbacks = Background(
            lambda: bool(self._calls), self._call_back_once, 'dyna-veggie-callbacks')

    # --- waits ------------------------------------------------------------------------------------

    def add(self, wait: Wait) -> bool:
        """Polls for a wait until it is over; for a last time if it is_last.

        Returns whether there is a thread that polls.
        """
        self._waits[wait] = None
        self._added.append(wait)
        self._gate.open()
        return self._thread.ensure()

    def remove(self, wait: Wait) -> None:
        wait.is_over = True
        self._waits.pop(wait, None)

    def wait(
            self, ids: Iterable[str], decode: Decode, *, timeout: float | None, interval: float,
            on_interval: Callable[[], Any] | None = None, all_changes: bool = False,
            hints: Hints = NO_HINTS) -> Iterator[tuple[str, Observed]]:
        """Yields (id, what was observed) until all ids were observed in their final state.

        timeout, interval: seconds; a timeout of 0 polls once.  on_interval is called once per
        ``interval``.  Raises TimeoutError, after a last poll for everything, what a poll raised,
        and what hints raise.
        """
        gate, deadline = Gate(), deadline_after(timeout)
        wait = Wait(ids, decode, interval, all_changes, hints, deadline, gate.open)
        if not wait.pending:
            return
        end = deadline + (_LAST_POLL if deadline > monotonic() else _ONLY_POLL)
        tick = math.inf if on_interval is None else monotonic() + wait.interval
        try:
            if timeout is None or timeout > 0:
                self.add(wait)
            while True:
                over = wait.is_over  # looked at before the updates, of which these are the last
                yield from wait.take()
                now = monotonic()
                if over or now >= end:
                    break
                if now >= deadline and not wait.is_last:
                    wait.is_last, tick = True, math.inf
                    self.add(wait)
                if on_interval is not None and now >= tick:
                    on_interval()
                    tick = monotonic() + wait.interval  # it may have taken longer than that
                self._sleep(gate, min(tick, end if wait.is_last else deadline, now + _SLICE))
        finally:
            wait.is_over = True  # which is all that matters, if a second signal comes here
            self.remove(wait)
        if wait.pending:
            raise TimeoutError(f'The operation timed out after {timeout:.3g} s; '
                               f'results not ready: {len(wait.pending)}.')

    def _sleep(self, gate: Gate, until: float) -> None:
        if self._thread.ensure():
            gate.wait(until - monotonic())
        elif not gate.wait(0):
            self._thread.run(min(until, monotonic() + _FIRST_POLL))

    # --- polls ------------------------------------------------------------------------------------

    def _has_waits(self) -> bool:
        is_idle = not (self._waits or self._watches or self._added or self._schedule)
        return not is_idle or monotonic() < self._linger

    def _work(self) -> None:
        """Polls for the waits that are due; sleeps until one is, if none are."""
        if self._watches and self._background not in self._waits:
            self.add(self._background)
        for wait in drain(self._added):
            self._put_on_schedule(wait, 0.0)
        if not self._waits:
            self._schedule.clear()  # those on it are over
        due = list(self._take_due(monotonic()))
        if due:
            self._linger = monotonic() + _LINGER
            last = {wait for wait in due if wait.is_last}  # looked at once: others set it
            exact = {wait for wait in due if wait.is_consistent} | last
            for is_consistent in (True, False):
                waits = [wait for wait in due if (wait in exact) == is_consistent]
                if waits:
                    self._poll(waits, last, is_consistent)
        else:
            next_due = self._schedule[0][0] if self._schedule else self._linger
            self._gate.wait(min(next_due - monotonic(), _LINGER))

    def _put_on_schedule(self, wait: Wait, due: float) -> None:
        wait.due, wait.entry = due, next(self._entries)
        heapq.heappush(self._schedule, (due, wait.entry, wait))

    def _take_due(self, now: float) -> Iterator[Wait]:
        """Once a wait is due, also those that nearly are."""
        schedule = self._schedule
        if not schedule or schedule[0][0] > now:
            return
        while schedule and schedule[0][0] <= now + schedule[0][2].interval / 10:
            _, entry, wait = heapq.heappop(schedule)
            if wait.is_over or wait.is_abandoned():
                self.remove(wait)  # a signal may have cut that short in the thread that waited
            elif wait.entry == entry:
                yield wait

    def _poll(self, waits: list[Wait], last: set[Wait], is_consistent: bool) -> None:
        if self._background in waits:
            self._refresh_background()
        windows = [(wait, list(wait.pending) if wait in last else wait.window()) for wait in waits]
        deadline = min(wait.deadline for wait in waits)
        ids = list(dict.fromkeys(
            id for wait, window in windows for id in (*window, *wait.hint_ids)))
        try:
            # batches of many short waits are read by this thread and a helper
            size = max(2 * GET_BATCH, *(len(window) for _, window in windows))
            found: dict[str, Any] = {}
            for start in range(0, len(ids), size):
                found.update(self._fetch(
                    ids[start:start + size], consistent=is_consistent, deadline=deadline))
        except TimeoutError:  # DynamoDB does not respond: those whose time is over see to it
            found = {}
        except BaseException as exc:  # who waits raises it
            traceback = exc.__traceback__
            for wait in waits:
                self._fail(wait, exc, traceback)
            return
        for wait, window in windows:
            self._record(wait, window, found, wait in last)
        self._call_back(found)

    def _record(
            self, wait: Wait, window: list[str], found: Mapping[str, Any], is_last: bool) -> None:
        try:
            observed = wait.decode_all(window, found)
            wait.decode_hints(found)
        except BaseException as exc:
            self._fail(wait, exc, exc.__traceback__)
            return
        wait.record(window, observed, self._phase)
        wait.is_consistent = wait.is_first = False
        if wait is self._background:
            wait.updates.clear()  # _call_back() serves all polls
            if not self._watches:
                self._waits.pop(wait, None)
                return
        elif is_last or not wait.pending:
            self.remove(wait)
        if not wait.is_over:
            self._put_on_schedule(wait, wait.due)
        if wait.updates or wait.news or wait.is_over:
            wait.wake()

    def _fail(self, wait: Wait, error: BaseException, traceback: TracebackType | None) -> None:
        """Lets who waits raise the error; callbacks have nobody who could."""
        if wait is self._background:
            logger.error('Polling for results with callbacks failed: %s', summary(error))
            self._put_on_schedule(wait, monotonic() + _LINGER)
        else:
            wait.error, wait.traceback = error, traceback
            self.remove(wait)
            wait.wake()

    # --- callbacks --------------------------------------------------------------------------------

    def watch(self, id: str, watcher: int, watch: Watch) -> None:
        """Calls back once a final value is found under an id."""
        watches: dict[int, Watch] = {}
        while self._watches.get(id) is not watches:  # the poller removes those that are empty
            watches = self._watches.setdefault(id, {})
            watches[watcher] = watch
        self._gate.open()
        self._thread.ensure()

    def unwatch(self, id: str, watcher: int) -> None:
        watches = self._watches.get(id)
        if watches is not None:
            watches.pop(watcher, None)

    def forget(self, ids: Iterable[str]) -> None:
        """Drops the callbacks for ids whose values are deleted."""
        for id in ids:
            self._watches.pop(id, None)

    def _refresh_background(self) -> None:
        """Lets the background wait have the ids that have callbacks now."""
        background, decoders = self._background, {}
        for id, watches in list(self._watches.items()):
            watch = next(iter(list(watches.values())), None)
            if watch is not None:
                decoders[id] = watch.decode
            elif self._watches.pop(id, None):  # a watcher came just now
                self._watches.setdefault(id, watches)
        self._decoders = decoders
        background.pending = dict.fromkeys(decoders)
        # those known first, the longest not fetched before the others
        background.queue = deque(id for id in dict.fromkeys(
            [*background.queue, *decoders]) if id in decoders)

    def _call_back(self, found: Mapping[str, Any]) -> None:
        for id in found.keys() & list(self._watches):
            for watcher, watch in list(self._watches.get(id, {}).items()):
                try:
                    observed = watch.decode(id, found[id])
                except Exception as exc:
                    logger.error('A result with a callback cannot be read: %s', summary(exc))
                    continue
                if observed.final:
                    self.unwatch(id, watcher)
                    self._calls.append((id, watch, observed.value))
        if self._calls and not self._callbacks.ensure():
            self._callbacks.run()

    def _call_back_once(self) -> None:
        id, watch, value = self._calls.popleft()
        try:
            watch.callback(value)
        except BaseException:  # also a time-out of gevent, or SystemExit: others are to be called
            logger.exception('A callback for %s raised', id)


# --------------------------------------------------------------------------------------------------
# Storing
# --------------------------------------------------------------------------------------------------
#
# The base of the backend: Celery's keys become ids, results become values with a status and an
# expiry, stored values become metas.
#
#   a delivery  Celery has one request for STARTED, for the states that a task stores itself, and
#               for its final state.  delivery_of() keeps on it when its task started, and what was
#               stored.
#   sent tasks  With track_sent, a PENDING result is put before a task is sent.  It is never needed,
#               so DynamoDB's failure does not keep a task from being sent, and delays one for a
#               second; SentTasks then pauses.

PENDING_META = {'status': states.PENDING, 'result': None}


class ResultTooLarge(BackendStoreError, EncodeError):
    """A result of more bytes than ``max_result_size``, or whose id is too long for a key.

    An EncodeError, for which Celery's worker fails the task.
    """

    # BackendStoreError's ends in the state and id of a task, which are not known here
    __repr__ = Exception.__repr__


def raise_soft_time_limit(exc: Exception) -> None:
    """Raises the soft time limit that fell into a serializer; kombu wraps it like any error."""
    origin = exc.__context__ if isinstance(exc, (DecodeError, EncodeError)) else exc
    if isinstance(origin, SoftTimeLimitExceeded):
        raise origin from None


@dataclass
class Delivery:
    """The memory of one delivery of a task, on Celery's request for it.

    started: when (of monotonic()) its task did; None where none runs, as in a worker's main
    process.
    stored: the last state of its own task, and whether it was stored: a success stays.
    missing_values: why the values that the task was to be called with could not be read.
    """

    started: float | None = None
    stored: tuple[str, bool] | None = None
    missing_values: Exception | None = None

    @property
    def duration(self) -> float | None:
        """Seconds since its task started."""
        return None if self.started is None else monotonic() - self.started


def delivery_of(request: Any) -> Delivery:
    """The memory of a delivery; an empty one where there is no request."""
    delivery: Delivery | None = getattr(request, 'dynamodb_delivery', None)
    if delivery is None:
        delivery = Delivery()
        if request is not None:
            request.dynamodb_delivery = delivery
    return delivery


def _note_start(task: Any = None, **_: Any) -> None:
    delivery_of(task.request).started = monotonic()


# in the process, the thread or the greenlet that calls the task, also if it is called eagerly
task_prerun.connect(_note_start, weak=False, dispatch_uid=f'{__name__}.note_start')


class SentTasks:
    """Puts PENDING results of tasks that are sent; never keeps one from being sent."""

    PATIENCE = 1.0  # seconds
    PAUSE = 10.0  # seconds after a failure in which nothing is put

    def __init__(self, options: Options) -> None:
        self._table = shared_table(options)
        self._breaker = Breaker(limit=1, pause=self.PAUSE)

    def note(self, make_item: Callable[[], Item]) -> None:
        """Puts an item unless one is there."""
        if self._breaker.is_open:
            return
        errors: list[Exception] = []
        # a thread, because a request can take as long as its time-outs and a search for
        # credentials; one that DynamoDB gets late does no harm
        thread = start_thread(self._put, make_item, errors)
        if thread is None:
            errors.append(RuntimeError('no thread can be started'))
        else:
            thread.join(self.PATIENCE)
            if thread.is_alive():
                errors.append(TimeoutError(f'no response within {self.PATIENCE:g} s'))
        if errors:
            log = logger.debug if self._breaker.failures else logger.warning
            log('DynamoDB table %s: track_sent: tasks are sent, but it is not stored that they '
                'were: %s', self._table.name, summary(errors[0]))
        self._breaker.note(bool(errors))

    def _put(self, make_item: Callable[[], Item], errors: list[Exception]) -> None:
        try:
            item = make_item()
            if is_too_long(item['id']):  # which says nothing of the next
                logger.error('track_sent: %s', id_error(item['id']))
            else:
                self._table.client.send(
                    'put_item', {
                        'TableName': self._table.name, 'Item': marshal_item(item), **expressions(
                            {'now': int(time.time())}, ConditionExpression=BlobStore.VACANT)},
                    Budget(monotonic() + self.PATIENCE / 2),
                    unless='ConditionalCheckFailedException')
        except Exception as exc:  # also of a serializer, or of what instruments botocore
            errors.append(exc)


#: what all threads of this process share
_shared_sent_tasks = shared_by_process(SentTasks)


def whole_lifetime(seconds: float | None) -> int | None:
    """A lifetime in whole seconds; None: for ever, as are none and less than none."""
    return math.ceil(seconds) if seconds and seconds > 0 else None


_NOT_GIVEN = object()


def own_expires(app: Any, request: Any) -> Any:
    """``result_expires`` of a task's message, or else of the task; _NOT_GIVEN if it has none."""
    headers = getattr(request, 'headers', None) or {}
    task = app.tasks.get(getattr(request, 'task', None)) if request else None
    return headers.get('result_expires', getattr(task, 'result_expires', _NOT_GIVEN))


@functools.lru_cache(maxsize=100)  # once, not for each result
def _log_bad_expires(error: str, lifetime: int | None) -> None:
    kept = 'for ever' if lifetime is None else f'for {lifetime} s'
    logger.error('Task %s; its results are kept %s, like those of others', error, kept)


class StoringBackend(BaseKeyValueStoreBackend):
    """The part of the backend that stores results, and reads one."""

    options: Options
    expires: int | None
    failure_expires: int | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # by id, the chunks of large values that were read: forget_many() deletes them, too
        self._chunks: LRUCache = LRUCache(limit=1000)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return classify(exc).transient

    @property
    def store(self) -> BlobStore:
        return BlobStore(shared_table(self.options), self._status_of)

    # --- keys and values --------------------------------------------------------------------------

    def key_id(self, key: Any) -> str:
        """The id of the item for one of Celery's keys."""
        # the ids of Celery's own backend are str(key) of keys that are bytes
        return str(ensure_bytes(key)) if self.options.celery_keys else bytes_to_str(key)

    def item_id(self, task_id: str) -> str:
        """The id of a task's item."""
        return self.key_id(self.get_key_for_task(task_id))

    def checked(
            self, id: str, value: Any, limit: int | None = None, state: str | None = None) -> bytes:
        """A value's bytes, if they can be stored.  Raises ResultTooLarge.

        limit: bytes, in place of ``max_result_size``.
        """
        payload, limit = ensure_bytes(value), limit or self.options.max_result_size
        if len(payload) > limit:
            raise ResultTooLarge(
                f'the result for {id} has {len(payload):,} bytes as it is stored, '
                f'and max_result_size is {limit:,}')
        check_value(id, len(payload), state, ResultTooLarge)
        return payload

    def _status_of(self, value: bytes) -> str | None:
        status: str = self.decode_stored('', StoredValue(value, ())).value['status']
        return status

    def get(self, key: Any) -> bytes | None:
        stored = self.store.get(self.key_id(key))
        return stored.read() if stored else None

    def mget(self, keys: Iterable[Any]) -> list[bytes | None]:
        """The values for keys, at half a read unit each: they can be a second old.

        One that cannot be read is logged, and None.
        """
        ids = [self.key_id(key) for key in keys]
        found = self.store.get_many((id for id in ids if not is_too_long(id)), consistent=False)
        errors = [*(id_error(id) for id in ids if is_too_long(id)),
                  *(stored.error for stored in found.values() if stored.error is not None)]
        for error in errors:
            logger.error('%s', error)
        # the value of one that cannot be read is empty
        return [found[id].value or None if id in found else None for id in ids]

    def set(self, key: Any, value: Any) -> None:
        self._set_with_state(key, value, None)

    def _set_with_state(self, key: Any, value: Any, state: str | None) -> None:
        id = self.key_id(key)
        self.store.put(
            id, self.checked(id, value, state=state), state, self._state_lifetime(state))

    def delete(self, key: Any) -> None:
        self.store.delete(self.key_id(key))

    def expire(self, key: Any, value: float | None) -> None:
        self.store.expire(self.key_id(key), value)

    def incr(self, key: Any) -> int:
        return self.store.increment(self.key_id(key))

    # --- results ----------------------------------------------------------------------------------

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Called just before a task is sent, unless its result is ignored."""
        if self.options.track_sent:
            _shared_sent_tasks(self.options).note(functools.partial(self._sent_item, task_id))
        return {}

    def _sent_item(self, task_id: str) -> Item:
        meta = {**PENDING_META, 'traceback': None, 'children': [], 'date_done': None,
                'task_id': task_id}
        return {'id': self.item_id(task_id), 'result': ensure_bytes(self.encode(meta)),
                'status': states.PENDING, 'timestamp': time.time(), **expiry(self.expires)}

    def _state_lifetime(self, state: str | None, request: Any = None) -> int | None:
        lifetime = self.failure_expires if state == states.FAILURE else self.expires
        own = own_expires(self.app, request)
        if own is _NOT_GIVEN:
            return lifetime
        try:
            return whole_lifetime(None if own is None else parse_result_expires(own))
        except ValueError as exc:
            task = getattr(request, 'task', None)
            _log_bad_expires(f'{task}: result_expires={own!r} must be {exc}', lifetime)
            return lifetime

    def _store_result(
            self, task_id: str, result: Any, state: str, traceback: Any = None,
            request: Any = None, **kwargs: Any) -> Any:
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request)
        meta['task_id'] = task_id = bytes_to_str(task_id)
        try:
            self._put_result(task_id, meta, request)
        except ResultTooLarge as exc:
            if state not in states.EXCEPTION_STATES:
                raise  # and the worker fails the task
            logger.error('Task %s: an exception was not stored: %s', task_id, exc)
            if is_too_long(self.item_id(task_id)):
                return result
            # the arguments may be too large, in place of the exception
            meta.update(dict.fromkeys(meta.keys() & {'args', 'kwargs'}))
            meta.update(result=self.encode_result(exc, state), traceback=None, children=[])
            self._put_result(task_id, meta, request, limit=LARGEST_RESULT)
        return result

    def _put_result(
            self, task_id: str, meta: dict[str, Any], request: Any, *, chord: str | None = None,
            limit: int | None = None) -> bool:
        """Stores a task's meta; returns False if a success is there, which stays.

        chord: the label of the chord that the task is a part of.  limit: as of checked().
        """
        id, state = self.item_id(task_id), meta['status']
        # a task may store states of others; where none runs, Celery has one request, for ever
        own = request is None or getattr(request, 'id', None) == task_id
        delivery = delivery_of(request if own else None)
        new = own and not (self.options.track_sent or getattr(request, 'retries', None)
                           or delivery.stored)
        stored = self.store.put(
            id, self.checked(id, self.encode(meta), limit, state), state,
            self._state_lifetime(state, request), keep=states.SUCCESS, chord=chord,
            duration=delivery.duration, new=new)
        delivery.stored = state, stored
        return stored

    def decode_stored(self, task_id: str, stored: StoredValue) -> Observed:
        """The meta in a stored value; one with the state FAILURE if it cannot be read."""
        if len(stored.ids) > 1:
            self._chunks[stored.ids[0]] = stored.ids[1:]
        if not stored.value and not stored.error:
            return Observed(dict(PENDING_META), b'', False)
        try:
            meta: dict[str, Any] = self.decode_result(stored.read())
            if not isinstance(meta['status'], str):
                raise TypeError('its status is not a text')
            meta = {'result': None, **meta, 'task_id': task_id}
            for child in meta.get('children') or ():
                result_from_tuple(child, self.app)  # raises what AsyncResult.state would raise
        except Exception as exc:
            raise_soft_time_limit(exc)
            why = f'{type(exc).__name__}: {str(exc)[:300]}'
            with contextlib.suppress(Exception):  # a state FAILURE with a meta of the user's own
                why += f' (its meta: {self.decode(stored.read())["result"]!r:.300})'
            error = BackendGetMetaError(
                f'the stored result cannot be read: {why}', task_id=task_id)
            meta = {'task_id': task_id, 'status': states.FAILURE, 'result': error,
                    'traceback': None, 'children': []}
        return Observed(meta, stored.value, meta['status'] in states.READY_STATES)

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        check_id(self.item_id(task_id))  # what get() raises, before Celery wraps it
        meta: dict[str, Any] = super().get_task_meta(task_id, cache=cache)
        return meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        stored = self.store.get(self.item_id(task_id))
        return dict(PENDING_META) if stored is None else self._meta_of(task_id, stored)

    def _meta_of(self, task_id: str, stored: StoredValue) -> dict[str, Any]:
        """The meta that Celery gets for a stored value."""
        meta: dict[str, Any] = self.decode_stored(task_id, stored).value
        return meta

    def forget(self, task_id: str) -> None:
        """Deletes the result of a task, with its chunks."""
        self._chunks.pop(self.item_id(task_id), None)
        super().forget(task_id)

    def forget_many(self, task_ids: Iterable[str]) -> None:
        """Deletes the results of tasks in batches.

        The chunks of a large result go with it if this process has read it or if results never
        expire; otherwise they stay until they expire.  Raises InvalidId, once others are deleted.
        """
        asked = {self.item_id(task_id): task_id for task_id in task_ids}
        ids = {id: task_id for id, task_id in asked.items() if not is_too_long(id)}
        chunks = [chunk_id for id in ids for chunk_id in self._chunks.pop(id, ())]
        self.store.delete_many([*ids, *chunks], with_chunks=self.expires is None)
        for task_id in ids.values():
            self._cache.pop(task_id, None)
        for id in asked:
            check_id(id)

    def _restore_group(self, group_id: str) -> Any:
        # Celery asks for a group that was saved, so a read that finds none is stale
        for _ in Backoff(0.05, 0.2, self.options.consistency_wait_time).attempts():
            meta = super()._restore_group(group_id)
            if meta:
                return meta
        return None


# --------------------------------------------------------------------------------------------------
# Waiting
# --------------------------------------------------------------------------------------------------
#
# What Celery's result classes ask of the backend: to fetch, to wait, to call back.  A "leaf" is the
# result of a single task in a result that may be a set of sets.

def leaf_results(result: ResultBase) -> Iterator[AsyncResult]:
    """The leaves of a result, in order."""
    if isinstance(result, ResultSet):
        for child in list(result.results):  # it may change during the iteration
            yield from leaf_results(child)
    else:
        yield result


def read_values(
        store: BlobStore, ids: list[str], *, consistent: bool, deadline: float,
        patient: bool = True) -> dict[str, StoredValue]:
    """Stored values by id.  Raises TimeoutError if DynamoDB did not respond before the deadline."""
    try:
        return store.get_many(
            ids, consistent=consistent, budget=Budget(deadline), patient=patient)
    except Exception as exc:
        actionable = isinstance(exc, ImproperlyConfigured)  # a person has to act
        if classify(exc).transient and not actionable and monotonic() >= deadline:
            raise TimeoutError(
                'The operation timed out while DynamoDB was not responding.') from exc
        raise


@shared_by_process
def shared_poller(options: Options) -> Poller:
    """The poller that all threads of this process share."""
    store = BlobStore(shared_table(options))
    # a value that is being replaced is no update yet; the next poll finds it
    return Poller(functools.partial(read_values, store, patient=False))


class WaitingBackend(StoringBackend):
    """The part of the backend that fetches results and waits for them."""

    is_async = True

    def fetch(
            self, task_ids: Iterable[str], *, consistent: bool = True,
            deadline: float = math.inf) -> dict[str, Observed]:
        """The metas that are stored for tasks, by task id.

        deadline: of monotonic(); TimeoutError is raised once it has passed.
        """
        ids = {self.item_id(task_id): task_id for task_id in task_ids}
        found = read_values(self.store, list(ids), consistent=consistent, deadline=deadline)
        return {ids[id]: self.decode_stored(ids[id], stored) for id, stored in found.items()}

    def _valid_item_id(self, task_id: str) -> str:
        """Raises InvalidId here, not in a poll, where it would fail the waits of other threads."""
        id = self.item_id(task_id)
        check_id(id)
        return id

    def _as_ready(
            self, task_ids: Iterable[str], *, timeout: float | None, interval: float | None,
            on_interval: Any = None, all_changes: bool = False, hints: Hints = NO_HINTS,
    ) -> Iterator[tuple[str, Observed]]:
        """Yields (task id, what was observed) as tasks become ready; all changes if asked to."""
        ids = {self._valid_item_id(task_id): task_id for task_id in task_ids}
        observed = shared_poller(self.options).wait(
            ids, lambda id, stored: self.decode_stored(ids[id], stored), timeout=timeout,
            interval=0.5 if interval is None else interval, on_interval=on_interval,
            all_changes=all_changes, hints=hints)
        return ((ids[id], each) for id, each in observed)

    def get_many(
            self, task_ids: Iterable[str], timeout: float | None = None,
            interval: float | None = 0.5, no_ack: bool = True, on_message: Any = None,
            on_interval: Any = None, max_iterations: int | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yields (task id, meta) as tasks become ready."""
        ids = dict.fromkeys(bytes_to_str(task_id) for task_id in task_ids)
        for task_id in list(ids):
            cached = self._cache.get(task_id)  # read once: another thread may drop it
            if cached and cached['status'] in states.READY_STATES:
                del ids[task_id]
                yield task_id, cached
        for iteration in range(max_iterations or 1):
            if not ids:
                return
            if iteration:
                time.sleep(0.5 if interval is None else interval)
            try:
                for task_id, observed in self._as_ready(
                        list(ids), timeout=0 if max_iterations else timeout, interval=interval,
                        on_interval=on_interval):
                    del ids[task_id]
                    self._cache[task_id] = observed.value
                    if on_message is not None:
                        on_message(observed.value)
                    yield task_id, observed.value
            except TimeoutError:
                if not max_iterations:
                    raise

    def wait_for_pending(
            self, result: AsyncResult, callback: Any = None, propagate: bool = True,
            **kwargs: Any) -> Any:
        """Waits for a result and returns it.

        Raises celery.exceptions.TimeoutError, and what the task raised.  kwargs: of _resolve().
        """
        self._ensure_not_eager()
        for _ in self._resolve([] if result._cache else [result], **kwargs):
            pass
        return result.maybe_throw(callback=callback, propagate=propagate)

    def _resolve(
            self, unknown: Iterable[AsyncResult], timeout: float | None = None,
            interval: float | None = 0.5, on_interval: Any = None, on_message: Any = None,
            no_ack: bool = True, hints: Hints = NO_HINTS) -> Iterator[tuple[str, Any]]:
        """Yields (id, meta) of each leaf as it becomes ready, and keeps the meta in it."""
        leaves: dict[str, list[AsyncResult]] = {}
        for leaf in unknown:
            leaves.setdefault(leaf.id, []).append(leaf)
        for task_id, observed in self._as_ready(
                leaves, timeout=timeout, interval=interval, on_interval=on_interval,
                all_changes=on_message is not None, hints=hints):
            if on_message is not None:
                on_message(dict(observed.value))
            if observed.final:
                metas = [leaf._maybe_set_cache(dict(observed.value)) for leaf in leaves[task_id]]
                yield task_id, metas[0]  # not from the leaf, which another thread may forget

    async def resolve(
            self, leaves: Iterable[AsyncResult], is_known: Callable[[], bool],
            hints: Hints = NO_HINTS) -> None:
        """Awaits leaves, and keeps their metas in them, until all are ready or ``is_known()``.

        Raises RuntimeError if no thread can be started that polls.
        """
        import asyncio  # who awaits has loaded it, and a worker does without
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        by_id: dict[str, list[AsyncResult]] = {}
        for leaf in leaves:
            by_id.setdefault(self._valid_item_id(leaf.id), []).append(leaf)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

        poller = shared_poller(self.options)
        wait = Wait(by_id, lambda id, stored: self.decode_stored(by_id[id][0].id, stored), 0.5,
                    hints=hints, wake=wake, is_abandoned=loop.is_closed)
        try:
            if not poller.add(wait):
                raise RuntimeError('a result cannot be awaited: no thread can be started')
            over = False
            while not (over or is_known()):
                await changed.wait()
                changed.clear()
                over = wait.is_over  # looked at before the updates, of which these are the last
                # news leads to requests
                updates = (await loop.run_in_executor(None, lambda: list(wait.take()))
                           if wait.news else list(wait.take()))
                for id, observed in updates:
                    for leaf in by_id[id]:
                        leaf._maybe_set_cache(dict(observed.value))
        finally:
            poller.remove(wait)

    def iter_native(
            self, result: ResultSet, no_ack: bool = True, **kwargs: Any,
    ) -> Iterator[tuple[str, Any]]:
        """Yields (id, meta) of each task, and (id, results) of each group, as they become ready."""
        self._ensure_not_eager()
        # read once: the set may change, and other threads may read or forget results
        members = list(result.results)
        metas: dict[str, Any] = {}
        unknown: list[AsyncResult] = []
        members_of: dict[str, set[int]] = {}  # by the id of an unknown leaf
        for number, member in enumerate(members):
            for leaf in leaf_results(member):
                meta = leaf._cache
                if meta is None:
                    unknown.append(leaf)
                    members_of.setdefault(leaf.id, set()).add(number)
                else:
                    metas[leaf.id] = meta
        pending = Counter(itertools.chain.from_iterable(members_of.values()))  # leaves by member

        def outcomes(numbers: Iterable[int]) -> Iterator[tuple[str, Any]]:
            for number in numbers:
                member = members[number]
                if not pending[number]:
                    is_set = isinstance(member, ResultSet)
                    yield member.id, member.results if is_set else metas[member.id]

        yield from outcomes(range(len(members)))
        for task_id, meta in self._resolve(unknown, **kwargs):
            metas[task_id] = meta
            pending.subtract(members_of[task_id])
            yield from outcomes(members_of[task_id])

    def forget(self, task_id: str) -> None:
        """Deletes the result of a task, with its chunks, and its callbacks."""
        shared_poller(self.options).forget({self.item_id(task_id)})
        super().forget(task_id)

    def forget_many(self, task_ids: Iterable[str]) -> None:
        """Deletes the results of tasks in batches, and their callbacks."""
        task_ids = list(task_ids)
        shared_poller(self.options).forget(set(map(self.item_id, task_ids)))
        super().forget_many(task_ids)

    # --- callbacks --------------------------------------------------------------------------------

    def watch(self, result: AsyncResult, weak: bool = False) -> None:
        """Resolves a result, which calls its callbacks, once it is found to be ready.

        Unless ``weak``, the result is kept until then, or until it is forgotten.
        """
        task_id, find = result.id, weakref.ref(result) if weak else lambda: result

        def resolve(meta: dict[str, Any]) -> None:
            watched = find()
            if watched is not None:
                watched._maybe_set_cache(dict(meta))

        poller = shared_poller(self.options)
        poller.watch(self._valid_item_id(task_id), id(result), Watch(
            lambda id, stored: self.decode_stored(task_id, stored), resolve))

    def add_pending_result(
            self, result: AsyncResult, weak: bool = False, start_drainer: bool = True,
    ) -> AsyncResult:
        return result  # nothing to register: get() polls, then() calls watch()

    def add_pending_results(self, results: list[AsyncResult], weak: bool = False) -> Any:
        return results

    def remove_pending_result(
            self, result: ResultBase, ending: Callable[[], bool] = sys.is_finalizing) -> ResultBase:
        # a default, since a result can outlive the names of modules when the interpreter ends
        if not ending() and isinstance(result, AsyncResult):
            shared_poller(self.options).unwatch(self.item_id(result.id), id(result))
        return result


# --------------------------------------------------------------------------------------------------
# Result classes
# --------------------------------------------------------------------------------------------------
#
# Celery's result classes ask the backend for one task after the other.  Those of an app with this
# backend read in batches: the backend gives them to its app, so that whatever group(), chord(),
# chain() and GroupResult.restore() return is batched, also nested and after pickling.  A
# celery.result.ResultSet that was made without an app asks one by one.
#
#   sets        ready(), successful() and their like read 1, 8, 64, 100, 100, ... results, because
#               most answers are known early; get() and join_native() wait for all members together.
#   parents     get() fetches a result before its parents.  A success needs none of them.  While the
#               result is pending, each poll looks at those that can have failed: the first task of
#               the chain that has not succeeded, and chords before it.  Of a chord it looks at one
#               item, which names its first part that failed (POINTER in "Chord tree").  After a
#               failure Celery raises the error of the part: that one's, or all parents are read.
#               Parents in other backends are read in windows.
#   callbacks   then() registers with the Poller of the process; see "Polling".

def _time_left(deadline: float) -> float | None:
    return None if deadline == math.inf else max(deadline - monotonic(), 0)


def _parents_of(result: ResultBase) -> list[ResultBase]:
    """The results that a result depends on, the first to run first."""
    parents = []
    while result := result.parent:
        parents.append(result)
    return parents[::-1]


def _with_parents(result: ResultBase) -> Iterator[AsyncResult]:
    """The leaves of a result with all that they depend on, as Celery's forget() walks over them."""
    todo = [result]
    while todo:
        for leaf in leaf_results(todo.pop()):
            yield leaf
            if leaf.parent:
                todo.append(leaf.parent)


def _by_backend(
        leaves: Iterable[AsyncResult]) -> tuple[list[list[AsyncResult]], list[AsyncResult]]:
    """Leaves in groups that can share a request, and those of other backends."""
    ours: dict[Any, list[AsyncResult]] = {}
    others = []
    for leaf in leaves:
        if isinstance(leaf.backend, WaitingBackend):
            # what an app accepts and how it decodes is its own
            ours.setdefault((id(leaf.backend.app), leaf.backend.options), []).append(leaf)
        else:
            others.append(leaf)
    return list(ours.values()), others


def _read_leaves(
        leaves: Iterable[AsyncResult], *, consistent: bool = True, deadline: float = math.inf,
) -> dict[str, Mapping[str, Any]]:
    """The metas of leaves by task id; also kept in the leaves that are ready."""
    together, others = _by_backend(leaves)
    metas: dict[str, Mapping[str, Any]] = {leaf.id: leaf._get_task_meta() for leaf in others}
    for some in together:
        observed = some[0].backend.fetch(
            [leaf.id for leaf in some], consistent=consistent, deadline=deadline)
        for leaf in some:
            metas[leaf.id] = observed[leaf.id].value if leaf.id in observed else PENDING_META
            leaf._maybe_set_cache(dict(metas[leaf.id]))
    return metas


def _metas_of(
        leaves: Iterable[AsyncResult], deadline: float = math.inf,
) -> Iterator[tuple[AsyncResult, Mapping[str, Any]]]:
    """Each leaf with its meta, in order, read in batches that grow."""
    leaves, size = list(leaves), 1
    metas: dict[str, Mapping[str, Any]] = {}
    for position, leaf in enumerate(leaves):
        meta = leaf._cache or metas.get(leaf.id)  # read once: another thread may forget it
        if meta is None:
            rest = itertools.islice(leaves, position, None)
            unknown = itertools.islice((each for each in rest if each._cache is None), size)
            metas.update(_read_leaves(unknown, deadline=deadline))
            size = min(8 * size, GET_BATCH)
            meta = leaf._cache or metas[leaf.id]
        yield leaf, meta


def _raise_error_of(leaves: Iterable[AsyncResult], deadline: float = math.inf) -> None:
    """Raises the error of the first that failed, if any did and is read before the deadline."""
    failed = None
    with contextlib.suppress(TimeoutError):
        failed = next((leaf for leaf, meta in _metas_of(leaves, deadline)
                       if meta['status'] in states.PROPAGATE_STATES), None)
    if failed is not None:
        failed.maybe_throw()


class _Parents(Hints):
    """The parents of a result; as Hints, those that can have failed while it is pending.

    A task of a chain starts once all before it have succeeded.  So these are the first task that
    has not, and the chords before that one.
    """

    def __init__(self, result: AsyncResult, deadline: float) -> None:
        self.backend, self.deadline = result.backend, deadline
        self.parents = _parents_of(result)
        self.todo: deque[ResultBase] = deque()  # those not known to have succeeded
        self.others: deque[AsyncResult] = deque()  # leaves that are not in our table, and pending
        for parent in self.parents:
            if all(map(self._is_ours, leaf_results(parent))):
                self.todo.append(parent)
            else:
                self.others.extend(leaf_results(parent))
        _raise_error_of(leaf for leaf in self._leaves() if leaf._cache)
        self._seen: dict[str, str] = {}  # notes that were read, by their ids
        self._set_ids()

    def _leaves(self) -> Iterator[AsyncResult]:
        return itertools.chain.from_iterable(map(leaf_results, self.parents))

    def _is_ours(self, leaf: AsyncResult) -> bool:
        """Whether a leaf can be read in the same request as the result."""
        ours, its = self.backend, leaf.backend
        return its is ours or (isinstance(its, WaitingBackend) and its.app is ours.app
                               and its.options == ours.options)

    def _set_ids(self) -> None:
        ids: dict[str, ResultBase] = {}
        for parent in self.todo:
            if not isinstance(parent, ResultSet):
                ids[self.backend._valid_item_id(parent.id)] = parent
                break
            id = self.backend.key_id(self.backend.get_key_for_chord(parent.id))
            if not is_too_long(id):
                ids[id] = parent
        self.ids = ids

    def decode(self, id: str, found: StoredValue) -> Any:
        """The meta of a task that is ready, or what is newly noted of a chord."""
        parent = self.ids.get(id)
        if isinstance(parent, ResultSet):
            return found if found.chord != self._seen.get(id) else None
        observed = self.backend.decode_stored(parent.id, found) if parent else None
        return observed.value if observed and observed.final else None

    def take(self, id: str, news: Any) -> None:
        """Raises the error of a parent that failed; goes on to the next after one that has not."""
        parent = self.ids.get(id)
        if isinstance(parent, ResultSet):
            _raise_error_of(self._noted_part(id, news))
        elif parent is not None:
            parent._maybe_set_cache(dict(news))
            tasks = [each for each in self.todo if not isinstance(each, ResultSet)]
            for task, meta in _metas_of(tasks, self.deadline):
                if meta['status'] not in states.READY_STATES:
                    break
                task.maybe_throw()
                while self.todo.popleft() is not task:
                    pass
            self._set_ids()

    def _noted_part(self, id: str, noted: StoredValue | None = None) -> Iterator[AsyncResult]:
        """What is stored of the part that a chord's note names: its copy, and its result."""
        backend = self.backend
        read = functools.partial(
            read_values, backend.store, consistent=True, deadline=self.deadline)
        noted = noted or read([id]).get(id)
        if noted is None or noted.chord is None:
            return
        self._seen[id], task_id = noted.chord, bytes_to_str(noted.value)
        ids = [each for each in (noted.chord, backend.item_id(task_id)) if not is_too_long(each)]
        found = read([id, *ids])
        if found.get(id) != noted:
            return  # what a poll found was of an earlier run
        for stored in (found[each] for each in ids if each in found):
            part = backend.app.AsyncResult(task_id, backend=backend)
            part._cache = backend.decode_stored(task_id, stored).value
            yield part

    def ask_others(self, on_interval: Any = None) -> None:
        """Reads a window of the results of others.  Raises the error of one that failed."""
        window = [self.others.popleft() for _ in range(min(GET_BATCH, len(self.others)))]
        _read_leaves(window, consistent=False, deadline=self.deadline)
        _raise_error_of(leaf for leaf in window if leaf._cache)
        self.others.extend(leaf for leaf in window if not leaf._cache)
        if on_interval is not None:
            on_interval()

    def raise_error(self) -> None:
        """Raises the error of a parent, if one failed and can be read before the deadline."""
        # of a single chord: with tasks before it, the note could be of an earlier run
        is_chord = len(self.parents) == 1 and isinstance(self.parents[0], ResultSet)
        noted = itertools.chain.from_iterable(map(self._noted_part, self.ids if is_chord else ()))
        _raise_error_of(itertools.chain(noted, self._leaves()), self.deadline)


_FOREIGN_SLICE = 2.0  # seconds after which a thread that waits for others looks whether it has to


async def _result_of(result: Any) -> Any:
    """What get() returns, or raises, without a thread for each that is awaited.

    A member in another backend is waited for in the loop's executor.
    """
    import asyncio
    assert_will_not_block()
    if getattr(result, 'ignored', False):
        return None
    parents = None
    if isinstance(result, AsyncResult) and result.parent and isinstance(
            result.backend, WaitingBackend):
        parents = _Parents(result, math.inf)
    cancelled = threading.Event()

    def check() -> None:
        if cancelled.is_set():
            raise TimeoutError

    def wait(timeout: float | None) -> Any:
        while True:
            try:
                return result.get(timeout=timeout, on_interval=check)
            except TimeoutError:
                if cancelled.is_set() or is_known():
                    raise

    async def in_executor(timeout: float | None = None) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, wait, timeout)
        finally:
            cancelled.set()  # else the thread would wait on, and the end of the process for it

    def outcomes() -> list[bool | None]:
        """Of each member whether it failed; None if it is not known."""
        members = list(result.results) if isinstance(result, ResultSet) else [result]
        metas = [[leaf._cache for leaf in leaf_results(member)] for member in members]
        return [any(meta['status'] in states.PROPAGATE_STATES for meta in some)
                if all(some) else None for some in metas]

    def is_known() -> bool:
        """Whether get() would not wait."""
        found = outcomes()
        return True in found or None not in found

    while not is_known():  # another may forget some of it
        together, others = _by_backend(leaf for leaf in leaf_results(result) if leaf._cache is None)
        if others or len(together) > 1 or (parents and parents.others):
            # Celery's own get() calls on_interval only once
            return await in_executor(_FOREIGN_SLICE if others else None)
        for leaves in together:
            await leaves[0].backend.resolve(leaves, is_known, parents or NO_HINTS)
    # what is known is not read again; but the error of a parent is, and of a set with members in
    # another table get() may wait for those before the one that failed
    may_wait = True in outcomes() and (parents or isinstance(result, ResultSet))
    return await in_executor() if may_wait else result.get()


class _Batched(ResultBase):
    """What results and sets of results have in common."""

    def __await__(self) -> Iterator[Any]:
        """As get() does, without a thread for each that is awaited, in an event loop of asyncio."""
        return _result_of(self).__await__()

    def forget(self) -> None:
        """Deletes the result, and those of the tasks that it depends on, in batches."""
        together, others = _by_backend(_with_parents(self))
        # others last, one by one: not every backend can; that of an eager result is None
        for some in [*together, *([leaf] for leaf in others if leaf.backend is not None)]:
            backend = some[0].backend
            for leaf in some:
                leaf._cache = None
                backend.remove_pending_result(leaf)
            ids = list(dict.fromkeys(leaf.id for leaf in some))
            if len(ids) == 1:
                backend.forget(ids[0])
            else:
                backend.forget_many(ids)


class BatchedResult(_Batched, AsyncResult):
    """Celery's AsyncResult, whose parents are read in batches, and only if they matter."""

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        """Calls back when the result is ready, from a thread of the backend's."""
        fulfilled = super().then(callback, on_error, weak=weak)
        # a barrier is the book-keeping of a set that the result is a member of; see its then()
        if not isinstance(callback, barrier) and self._cache is None and isinstance(
                self.backend, WaitingBackend):
            self.backend.watch(self, weak)
        return fulfilled

    def get(
            self, timeout: float | None = None, propagate: bool = True,
            interval: float | None = 0.5, no_ack: bool = True, follow_parents: bool = True,
            callback: Any = None, on_message: Any = None, on_interval: Any = None,
            disable_sync_subtasks: bool = True,
            EXCEPTION_STATES: Container[str] = states.EXCEPTION_STATES,
            PROPAGATE_STATES: Container[str] = states.PROPAGATE_STATES) -> Any:
        """Waits for the result and returns it; see Celery's AsyncResult.get().

        Raises celery.exceptions.TimeoutError, and what the task, or one that it depends on, raised.
        """
        if not isinstance(self.backend, WaitingBackend):  # a task can have its own backend
            return super().get(
                timeout, propagate, interval, no_ack, follow_parents, callback, on_message,
                on_interval, disable_sync_subtasks, EXCEPTION_STATES, PROPAGATE_STATES)
        if self.ignored:
            return None
        if disable_sync_subtasks:
            assert_will_not_block()
        deadline = deadline_after(timeout)
        parents = None
        if follow_parents and propagate and self.parent:
            parents = _Parents(self, deadline)
        if self._cache is None:
            if parents and parents.others:
                parents.ask_others()
                on_interval = functools.partial(parents.ask_others, on_interval)
            self.backend.wait_for_pending(
                self, timeout=_time_left(deadline), interval=interval, on_interval=on_interval,
                no_ack=no_ack, on_message=on_message, propagate=False, hints=parents or NO_HINTS)
        if parents and self._get_task_meta()['status'] in states.PROPAGATE_STATES:
            parents.raise_error()
        return self.maybe_throw(propagate=propagate, callback=callback)

    wait = get

    def _maybe_set_cache(self, meta: Any) -> Any:
        if not meta or meta['status'] not in states.READY_STATES:
            return meta
        meta = self._set_cache(self.backend.meta_from_decoded(meta))
        # threads that read it at the same time must not all call its callbacks
        mine = object()
        if self.__dict__.setdefault('_fulfilled_by', mine) is mine:
            self.on_ready(self)
        return meta


class BatchedResultSet(_Batched, ResultSet):
    """Celery's ResultSet, whose members, and theirs, are read in batches."""

    @property
    def supports_native_join(self) -> bool:
        """Whether get() may ask the app's backend for all members."""
        together, others = _by_backend(leaf_results(self))
        asked = getattr(self.backend, 'options', None)
        all_ours = not others and [some[0].backend.options for some in together] in ([], [asked])
        all_theirs = not together and all(leaf.backend is self.backend for leaf in others)
        return (all_ours or all_theirs) and bool(super().supports_native_join)

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        """Calls back once all members are ready, from a thread of the backend's.

        weak: as long as the set exists.
        """
        leaves = [leaf for leaf in leaf_results(self) if leaf._cache is None]
        # a barrier is the book-keeping of a set that this one is a member of
        if isinstance(callback, barrier) or not all(
                isinstance(leaf.backend, WaitingBackend) for leaf in leaves):
            return super().then(callback, on_error, weak=weak)
        # not by Celery's barrier, which counts: several threads may resolve members concurrently
        find = weakref.ref(self) if weak else lambda: self
        missing, once = {id(leaf) for leaf in leaves}, deque([promise()])

        def is_ready(leaf: AsyncResult) -> None:
            missing.discard(id(leaf))
            found = find()
            for ready in drain(once) if not missing and found is not None else ():
                ready(found)

        fulfilled = once[0].then(callback, on_error)
        for leaf in leaves:
            leaf.then(is_ready, weak=weak)
        if not leaves:
            is_ready(self)
        return fulfilled

    def _statuses(self) -> Iterator[str]:
        return (meta['status'] for _, meta in _metas_of(leaf_results(self)))

    def ready(self) -> bool:
        return all(status in states.READY_STATES for status in self._statuses())

    def waiting(self) -> bool:
        return not self.ready()

    def successful(self) -> bool:
        return all(status == states.SUCCESS for status in self._statuses())

    def failed(self) -> bool:
        return states.FAILURE in self._statuses()

    def completed_count(self) -> int:
        """How many members, which may be sets, were successful."""
        members = [list(leaf_results(member)) for member in list(self.results)]
        metas = _metas_of(itertools.chain.from_iterable(members))
        successful = {leaf.id for leaf, meta in metas if meta['status'] == states.SUCCESS}
        return sum(all(leaf.id in successful for leaf in leaves) for leaves in members)

    def maybe_throw(self, callback: Any = None, propagate: bool = True) -> None:
        for leaf, meta in _metas_of(leaf_results(self)):
            if leaf._cache:
                leaf.maybe_throw(callback=callback, propagate=propagate)
            elif callback is not None:
                callback(leaf.id, meta['result'])

    maybe_reraise = maybe_throw

    def join(
            self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5,
            callback: Any = None, no_ack: bool = True, on_message: Any = None,
            disable_sync_subtasks: bool = True, on_interval: Any = None) -> list[Any]:
        """Waits for one member after the other; see Celery's ResultSet.join()."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured('join() takes no on_message; get() and join_native() do')
        deadline = deadline_after(timeout)
        values: list[Any] = []
        # read once: the set may change
        members = [(member, list(leaf_results(member))) for member in list(self.results)]
        leaves = [leaf for _, some in members for leaf in some]
        ahead, done = _metas_of(leaves, deadline), 0
        for member, some in members:
            done += len(some)
            metas = itertools.islice(ahead, len(some))
            if any(meta['status'] not in states.READY_STATES for _, meta in metas):
                # get() will block, so what was read ahead goes stale
                ahead = _metas_of(leaves[done:], deadline)
            value = member.get(
                timeout=_time_left(deadline), propagate=propagate, interval=interval,
                no_ack=no_ack, on_interval=on_interval, disable_sync_subtasks=disable_sync_subtasks)
            if callback:
                callback(member.id, value)
            else:
                values.append(value)
        return values


def give_result_classes(app: Any) -> None:
    """Lets the result classes of an app read in batches."""
    # Not by new classes: the first result of a process can be made before its backend, and is an
    # instance of the one that the app has.  That class is the app's own, made for it by Celery.
    for name, batched in (('AsyncResult', BatchedResult), ('ResultSet', BatchedResultSet),
                          ('GroupResult', BatchedResultSet)):
        of_app = getattr(app, name)
        if vars(of_app).get('app') is app and not issubclass(of_app, batched):
            # two threads may do the same concurrently; and a class that the app was given is first
            others = [base for base in of_app.__bases__ if base is not batched]
            own = [base for base in others if base.__module__ != celery.result.__name__]
            of_app.__bases__ = (*own, batched, *(base for base in others if base not in own))


# --------------------------------------------------------------------------------------------------
# Chord tree
# --------------------------------------------------------------------------------------------------
#
# A chord is a barrier: its body is called once all parts of its header have returned.  It is
# counted on a combining tree of idempotent counters.  Here: the items, the protocol, and what a
# counter says, as pure functions.  No requests, no Celery: a part is an index and an id.
#
#   items       Each has an id S, and a ttl N if it expires.
#               POINTER                 the newest run of a group's id, or of a result's: run S; of
#                                       a group's, of its first part that failed: result B (its id),
#                                       chord S (its copy's id)
#               RUN = POINTER.RANDOM    the lease: owner B, heartbeat N, published_before BS; closed
#                                       BOOL; the header: lazy BOOL, single_leaf BOOL, size N; until
#                                       it is closed, body B: what fail_chord() needs of the body;
#                                       timestamp N (when it was opened)
#               RUN.LEVEL.NUMBER        a node: members BS, copied BS, failed BS, added BS, owner B
#                                       (who counted last), timestamp N (when); of a leaf bytes N,
#                                       and pending BS (members that were not counted yet; unless
#                                       lazy, single_leaf, or too large for one write unit); if
#                                       lazy, size N, and single_leaf BOOL once the run is counted
#                                       on one leaf
#               RUN.copy.INDEX.TASK     a copy of a value that is not under the key of its task
#               RUN.header, RUN.parts   the header's structure; what a claim check stands for
#   opening     Inserts the items: a request that was given up, and lands after parts were counted,
#               changes nothing.
#   counting    A part is counted on leaf ``index // 40`` (0 if the run is ``single_leaf``).  The
#               delivery that fills a node counts it on its parent, ``number // 200``; the one that
#               fills the root joins the chord.  One conditional update adds a member to one of
#               three sets: ``members`` (its value is under its own key), ``copied``, ``failed``.
#               A redelivery or a repeated request changes nothing, and gets what the node holds.
#   capacity    A node below 1 KB costs one write unit: 40 members of 20 bytes in a leaf, 200 of 4
#               above.  No item is hot, unless the run is ``single_leaf``.
#   full        A node is full once it has the members that it expects, by its place and the size of
#               the header, and all tasks that these added.  Only the last part of a generator knows
#               the size, and leaves it on the nodes above it.
#   gaps        The indexes of a generator with groups, empty groups or empty chains in it repeat,
#               or have gaps.  Then a node gets more members than it expects, because all of them
#               together expect the size.  The delivery that sees it makes the run ``single_leaf``;
#               once the size is known, also all leaves: what they hold, and what is counted on
#               them later, is also counted on leaf 0, which is the root from then on.
#   for people  Timestamps and ``pending`` are what a person sees of a chord.  No end depends on
#               them.  The update that counts a member also takes it from ``pending``, so that a
#               leaf stays below 1 KB.
#   news        The delivery that adds the first failed parts to a leaf notes one of them on
#               POINTER, if none is noted: for those who wait for the body.  No end depends on it.
#   the end     A run is closed once: by the delivery that filled the root, or found that it cannot
#               be filled (the deadline has passed, a node is gone, the indexes have gaps).  Before
#               it publishes, the owner of the lease records its intent: ``published_before`` holds
#               the timestamps of the results under the body's id.  Before each message it makes
#               sure that its last heartbeat is recent: it may have been stopped, or cut off.
#   take-over   The owner sends heartbeats.  A delivery that sees none for the duration of a lease
#               takes over.  It publishes, unless the body has a result, expired or not, whose
#               timestamp is not in ``published_before``: then the body was published.
#
# tools/chord_model.py plays this protocol over random schedules: `make model`.

# bytes of a leaf's id and members, with which all of its item stays within the 1 KB of a write unit
_PENDING_LIMIT = 915
SINGLE_LEAF_LIMIT = 15_000  # members of 20 bytes, and their item is limited to 400 KB
CLOSED_TTL = 14 * 86400  # seconds after its deadline that a run is known as closed: for duplicates
POINTER_TTL = 30 * 86400  # seconds, if results never expire
COPY_TTL = 365 * 86400  # seconds, if results never expire: of values that are copied for a run
_NOTE_PATIENCE = 1.0  # seconds to note that a part failed

# flags in a member's index
TEXT_ID = 1 << 31  # the task id is not a UUID
_ADDED = 1 << 30  # the task was added by another part
COPIED = 1 << 29  # in RUN.parts: its value is a copy

GONE = ('counters of this chord expired or were deleted before its last part returned: '
         'if it takes longer, raise result_chord_expires')
GAPS = ('the header is a generator with groups, empty chains or empty groups in it, '
         f'and more than {SINGLE_LEAF_LIMIT:,} tasks: split it')
UNEXPECTED = ('a task was counted that the header does not have: what replaces a task of a header '
              'must not be a chord whose body is a group')
TOO_LARGE = ('a counter of this chord would exceed the 400 KB of an item: '
             'too many tasks were added by parts of one batch, or ids are too long')

WRONG_CONTAINS = ('the endpoint refuses to count a task that its counter does not hold: '
                  'it evaluates contains() wrongly, as dynalite does; use another one')

#: the sets of a node: by where the value of a part is, if it has one
SET_NAMES = ('members', 'copied', 'failed')


class MiscountedChord(Exception):
    """A chord that cannot complete, and what a person can do."""


class Part(NamedTuple):
    """A task of a chord's header, or one that was added.

    They sort as the body gets them, unless the run has a structure: there all indexes are 0.
    """

    group_index: int
    added: bool
    task_id: str


def member_of(part: Part, flags: int = 0) -> bytes:
    """4 bytes of index and flags, then the task id: 16 bytes of a UUID, any other as it is."""
    number = part.group_index | flags | (_ADDED if part.added else 0)
    try:
        task_id = uuid.UUID(part.task_id)
        if str(task_id) == part.task_id:
            return number.to_bytes(4, 'big') + task_id.bytes
    except ValueError:
        pass
    return (number | TEXT_ID).to_bytes(4, 'big') + part.task_id.encode()


def part_of(member: bytes) -> Part:
    """The part that member_of() made this of."""
    number, task_id = int.from_bytes(member[:4], 'big'), member[4:]
    text = task_id.decode() if number & TEXT_ID else str(uuid.UUID(bytes=task_id))
    return Part(number % COPIED, bool(number & _ADDED), text)


def edge(adder: bytes, added: bytes) -> bytes:
    """That one member added another: the adder's length in 2 bytes, the adder, the added one."""
    return len(adder).to_bytes(2, 'big') + adder + added


def _ends_of(edge: bytes) -> tuple[bytes, bytes]:
    end = 2 + int.from_bytes(edge[:2], 'big')
    return edge[2:end], edge[end:]


@dataclass(frozen=True)
class Position:
    """A node's place in the tree; level 0 holds the leaves."""

    LEAF_CAPACITY: ClassVar[int] = 40
    NODE_CAPACITY: ClassVar[int] = 200

    level: int
    number: int

    @property
    def capacity(self) -> int:
        return self.NODE_CAPACITY if self.level else self.LEAF_CAPACITY

    @property
    def parent(self) -> Position:
        return Position(self.level + 1, self.number // self.NODE_CAPACITY)

    @property
    def member(self) -> bytes:
        """What is counted on the parent for a full node."""
        return self.number.to_bytes(4, 'big')


def width(size: int, level: int) -> int:
    """How many members a level of the tree has: the parts, the leaves, and so on."""
    for below in range(level):
        size = math.ceil(size / Position(below, 0).capacity)
    return size


@dataclass(frozen=True)
class Run:
    """One application of a chord, as its parts know it.

    deadline: seconds of the epoch (None: never).  lazy: the header is a generator.  single_leaf:
    all parts are counted on one leaf, because their indexes say nothing: the header has groups in
    it, or its tasks come without an index.  size: of the header, if it is known.
    """

    id: str
    deadline: int | None = None
    lazy: bool = False
    single_leaf: bool = False
    size: int | None = None

    @property
    def has_structure(self) -> bool:
        """Whether RUN.header holds the results of the header, which say the order of the parts."""
        return self.single_leaf and not self.lazy

    @property
    def pointer_id(self) -> str:
        return self.id.rpartition('.')[0]

    def node_id(self, position: Position) -> str:
        return f'{self.id}.{position.level}.{position.number}'

    def copy_id(self, part: Part) -> str:
        return f'{self.id}.copy.{part.group_index}.{part.task_id}'

    @property
    def header_id(self) -> str:
        return f'{self.id}.header'

    @property
    def parts_id(self) -> str:
        return f'{self.id}.parts'

    def label(self, part: Part) -> str:
        """Leads from a part's stored result to its counters; parse_label() reads it.

        Of a value it also says that this part returned it, in this run.
        """
        return f'{self.id}.{part.group_index}'

    @property
    def lifetime(self) -> float | None:
        """Seconds that are left."""
        return None if self.deadline is None else max(self.deadline - time.time(), 1)

    @property
    def ttl(self) -> Item:
        return {} if self.deadline is None else {'ttl': self.deadline}

    @property
    def closed_ttl(self) -> Item:
        return {} if self.deadline is None else {'ttl': self.deadline + CLOSED_TTL}

    def leaf(self, group_index: int) -> Position:
        return Position(0, 0 if self.single_leaf else group_index // Position.LEAF_CAPACITY)

    def positions(self) -> Iterator[Position]:
        """The places of all nodes, leaves first."""
        for level in itertools.count():
            nodes = 1 if self.single_leaf else width(self.size or 1, level + 1)
            yield from (Position(level, number) for number in range(nodes))
            if nodes == 1:
                return


def parse_label(label: str) -> tuple[str, int]:
    """The id of a run and the index of a part, from Run.label().  Raises ValueError."""
    run_id, _, index = label.rpartition('.')
    return run_id, int(index)


@dataclass(frozen=True)
class Node:
    """A node as it was read."""

    run: Run
    position: Position
    item: Item

    @property
    def size(self) -> int | None:
        return self.item.get('size') if self.run.size is None else self.run.size

    @property
    def single_leaf(self) -> bool:
        """Whether the parts of the run are all counted on one leaf, as far as this node knows."""
        return self.run.single_leaf or bool(self.item.get('single_leaf'))

    @property
    def expected(self) -> float:
        if self.single_leaf:
            return math.inf if self.size is None else self.size
        level, number, capacity = (
            self.position.level, self.position.number, self.position.capacity)
        if self.size is None:
            return capacity
        if self.run.lazy and number != width(self.size, level + 1) - 1:
            return 0  # the last part came to another node than the last: see "gaps"
        return min(capacity, width(self.size, level) - number * capacity)

    @property
    def is_root(self) -> bool:
        return self.size is not None and (
            self.single_leaf or width(self.size, self.position.level) <= self.position.capacity)

    @property
    def children(self) -> list[Position]:
        """The nodes that were counted on this one."""
        level = self.position.level
        return [Position(level - 1, int.from_bytes(member, 'big'))
                for member in sorted(self.counted)] if level else []

    @functools.cached_property
    def counted(self) -> frozenset[bytes]:
        return frozenset().union(*(self.item.get(name, ()) for name in SET_NAMES))

    @functools.cached_property
    def header_members(self) -> set[bytes]:
        """The members that belong to the header, or to the level below; not those added."""
        return {member for member in self.counted
                if not int.from_bytes(member[:4], 'big') & _ADDED}

    @functools.cached_property
    def expected_members(self) -> set[bytes]:
        """The header's members plus all that they added, transitively; counted or not.

        What a second delivery of a part added is not among them.
        """
        added: dict[bytes, list[bytes]] = {}
        for adder, member in map(_ends_of, self.item.get('added', ())):
            added.setdefault(adder, []).append(member)
        members, todo = set(self.header_members), list(self.header_members)
        while todo:
            new = [member for member in added.get(todo.pop(), ()) if member not in members]
            members.update(new)
            todo += new
        return members

    @property
    def is_full(self) -> bool:
        return (0 < len(self.header_members) == self.expected
                and self.expected_members <= self.counted)

    @property
    def overflows(self) -> bool:
        return len(self.header_members) > self.expected


def pack(parts: Iterable[tuple[Part, str]]) -> bytes:
    """Where the values of parts are, as RUN.parts holds it: some 20 bytes each."""
    packed = []
    for part, set_name in parts:
        member = member_of(part, COPIED if set_name == 'copied' else 0)
        number, task_id = int.from_bytes(member[:4], 'big'), member[4:]
        length = len(task_id).to_bytes(2, 'big') if number & TEXT_ID else b''
        packed.append(member[:4] + length + task_id)
    return b''.join(packed)


def unpack(packed: bytes) -> Iterator[tuple[Part, str]]:
    """The parts that pack() made this of."""
    start = 0
    while start < len(packed):
        begin, length = start + 4, 16
        number = int.from_bytes(packed[start:begin], 'big')
        if number & TEXT_ID:
            begin, length = begin + 2, int.from_bytes(packed[begin:begin + 2], 'big')
        set_name = 'copied' if number & COPIED else 'members'
        member = (number & ~COPIED).to_bytes(4, 'big') + packed[begin:begin + length]
        yield part_of(member), set_name
        start = begin + length


class Header(NamedTuple):
    """What the leaves of a run hold, in some 20 bytes a part: there can be millions.

    values, failed: packed parts, in the order in which the body gets them.  number: of those that
    have values.  length: of all values, in bytes.  is_whole: whether all parts have returned.
    """

    values: bytes = b''
    failed: bytes = b''
    number: int = 0
    length: int = 0
    is_whole: bool = False


def header_of(leaves: Iterable[Node]) -> Header:
    """What leaves hold together, each of which may be given up once it was looked at."""
    values, failed, number, length, counted = bytearray(), bytearray(), 0, 0, 0
    size = None
    for leaf in leaves:  # in order: those of a leaf come before those of the next
        parts = sorted((part_of(member), set_name) for set_name in SET_NAMES for member in
                       leaf.expected_members & leaf.item.get(set_name, frozenset()))
        with_values = [each for each in parts if each[1] != 'failed']
        values += pack(with_values)
        failed += pack(each for each in parts if each[1] == 'failed')
        number += len(with_values)
        counted += sum(not part.added for part, _ in parts)
        length += leaf.item.get('bytes', 0)
        size = leaf.size if leaf.size is not None else size
    return Header(bytes(values), bytes(failed), number, length, counted == size)


# --------------------------------------------------------------------------------------------------
# Chord store
# --------------------------------------------------------------------------------------------------
#
# The requests of the protocol of "Chord tree".  ChordStore opens and reads runs, PartCounter counts
# a part and the nodes that it fills, Lease is the right to end a run.  No Celery here either.

class Progress(NamedTuple):
    """How far a chord is.

    counted: parts that have returned, of which ``failed`` failed.  expected: how many there are;
    None if that is not known yet.  closed: its body was called, or its errbacks were.
    """

    counted: int
    failed: int
    expected: int | None
    closed: bool


class Report(NamedTuple):
    """How far a run is, which of its parts failed, and which it waits for.

    missing: the places in the header, from 0, that were not counted; empty for generators, and for
    headers with groups in them, whose places repeat.  opened, last_counted: seconds of the epoch;
    None if that is not known.
    """

    run: Run
    leaves: list[Node]
    progress: Progress
    failed: list[Part]
    missing: list[int]
    opened: float | None
    last_counted: float | None


def _pending(id: str, members: set[bytes] | None) -> Item:
    """The attribute of a leaf that names the parts not counted yet, if it costs no write unit."""
    if not members or len(id) + sum(len(member) + 1 for member in members) > _PENDING_LIMIT:
        return {}
    return {'pending': members}


class ChordStore:
    """The chords of a table: opens runs, and reads how far they are."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def open(
            self, pointer_id: str, run: Run, task_ids: Iterable[str] = (), *, body: bytes = b'',
            body_pointer_ids: Iterable[str] = ()) -> None:
        """Writes what the parts of a run need.  Raises MiscountedChord for what is too large.

        body: kept with the run until it is closed.  body_pointer_ids: further pointers to the run.
        """
        if run.single_leaf and (run.size or 0) > SINGLE_LEAF_LIMIT:
            raise MiscountedChord(
                f'the header of this chord has {run.size:,} tasks, some in chains that end in '
                f'groups, and such a header can have {SINGLE_LEAF_LIMIT:,}: give it as a plain '
                'list of tasks, or split it')
        pending: dict[Position, set[bytes]] = {}
        for index, task_id in enumerate(task_ids):
            part = Part(index, False, task_id)
            check_id(run.copy_id(part), MiscountedChord)
            if not run.single_leaf:  # RUN.header has the ids of others
                pending.setdefault(run.leaf(index), set()).add(member_of(part))
        more: Item = {} if run.size is None else {'size': run.size}
        if body:
            more['body'] = body
        pointers: dict[str, Item] = {
            id: {'id': id, 'run': run.id, **(run.closed_ttl or expiry(POINTER_TTL))}
            for id in (pointer_id, *body_pointer_ids)}
        items: list[Item] = [*pointers.values(), {
            'id': run.id, 'lazy': run.lazy, 'single_leaf': run.single_leaf,
            'timestamp': int(time.time()), **more, **run.closed_ttl}]
        if run.size is not None:
            items += ({'id': run.node_id(position), **run.ttl,
                       **_pending(run.node_id(position), pending.get(position))}
                      for position in run.positions())
        # a request whose response was lost can land after parts were counted: it must not erase
        for id in self.table.insert_all(items) & pointers.keys():
            self._replace_pointer(pointers[id])

    def _replace_pointer(self, pointer: Item) -> None:
        """Lets a pointer that exists point to another run."""
        replaced = False
        while not replaced:
            seen = self.table.get(pointer['id']) or {}
            if seen.get('run') == pointer['run']:
                return
            condition, values = 'attribute_not_exists(#run)', {}
            if 'run' in seen:
                condition, values = '#run = :seen', {'seen': seen['run']}
            replaced = self.table.put(pointer, condition=condition, values=values).applied

    def resize(self, run: Run, size: int) -> None:
        """Stores the size of a generator, for progress() and gather()."""
        result = self.table.update(
            run.id, 'SET #size = :size', {'size': size},
            condition='attribute_exists(#lazy) AND attribute_not_exists(#closed)')
        if result.applied and (result.item or {}).get('single_leaf') and not run.single_leaf:
            self.gather(run, size)

    # --- generators whose indexes have gaps -------------------------------------------------------

    def count_on_one_leaf(self, run: Run) -> Item | None:
        """The item of a run that is counted on one leaf from now on; None if it is closed.

        Once the sender has stored the size, resize() has seen that, or this delivery gathers.
        """
        result = self.table.update(
            run.id, 'SET #single_leaf = :single_leaf', {'single_leaf': True},
            condition='attribute_exists(#lazy) AND attribute_not_exists(#closed)')
        if not result.applied and 'closed' not in (result.item or {}):
            raise MiscountedChord(GONE)
        return result.item if result.applied else None

    def gather(self, run: Run, size: int) -> Node:
        """Leaf 0, with what all leaves hold.  Raises MiscountedChord if that is too much."""
        if size > SINGLE_LEAF_LIMIT:
            raise MiscountedChord(GAPS)
        return self.move(self._leaves(dataclasses.replace(run, size=None), size), run, size)

    def move(self, leaves: Iterable[Node], run: Run, size: int | None) -> Node:
        """Leaf 0, with what these leaves hold; what they get later will be counted there, too."""
        values: Item = {'single_leaf': True, **run.ttl, **({} if size is None else {'size': size})}
        first = Position(0, 0)
        sets: dict[str, frozenset[bytes]] = {}
        for leaf in leaves:
            item = leaf.item
            if 'timestamp' in item:
                values['timestamp'] = max(item['timestamp'], values.get('timestamp', 0))
            if leaf.position == first:
                continue
            if 'single_leaf' not in item:
                # it is not deleted when the run is closed, because its place is not expected
                item = self.table.update(
                    run.node_id(leaf.position), 'SET #single_leaf = :single_leaf, #ttl = :ttl',
                    {'single_leaf': True, **(run.ttl or expiry(CLOSED_TTL))}).item or {}
                values['bytes'] = values.get('bytes', 0) + item.get('bytes', 0)
            for name in {*SET_NAMES, 'added'} & item.keys():
                sets[name] = sets.get(name, frozenset()) | item[name]
        additions = [f'#{name} :{name}' for name in (*sets, *values.keys() & {'bytes'})]
        update = 'SET ' + ', '.join(f'#{name} = :{name}' for name in values if name != 'bytes')
        update += f' ADD {", ".join(additions)}' if additions else ''
        result = update_counter(self.table, run.node_id(first), update, {**values, **sets})
        return Node(run, first, result.item or {})

    def open_run(self, pointer_id: str) -> tuple[Run, bytes] | None:
        """A pointer's newest run and its body, as open() was given it; None if it is closed."""
        item = self._run_item(pointer_id) or {'closed': True}
        return None if 'closed' in item else (self._run(item), item.get('body', b''))

    def report(self, id: str) -> Report | None:
        """What the nodes of a run say, or of the newest run of a pointer; None if there is none."""
        item = self._run_item(id)
        if item is None:
            return None
        run = self._run(item)
        leaves = self._leaves(run)
        header = [member for leaf in leaves for member in leaf.header_members]
        failed = sorted(
            part_of(member) for leaf in leaves for member in leaf.item.get('failed', ()))
        added = sum(len(leaf.expected_members) for leaf in leaves) - len(header)
        missing: list[int] = []
        if run.size is not None and not run.lazy and not run.single_leaf:
            counted = {part_of(member).group_index for member in header}
            missing = [place for place in range(run.size) if place not in counted]
        progress = Progress(sum(len(leaf.counted) for leaf in leaves), len(failed),
                            None if run.size is None else run.size + added, 'closed' in item)
        counts = [leaf.item['timestamp'] for leaf in leaves if 'timestamp' in leaf.item]
        return Report(run, leaves, progress, failed, missing, item.get('timestamp'),
                      max(counts, default=None))

    def _run_item(self, id: str) -> Item | None:
        """The item of a run, by its id or its pointer's."""
        item = self.table.get(id)
        if item and not is_expired(item) and isinstance(item.get('run'), str):
            item = self.table.get(item['run'])
        return item if item and 'lazy' in item else None

    def _run(self, item: Item) -> Run:
        if not 0 <= item.get('size', 0) <= COPIED:  # there would be no end to its nodes
            raise ValueError(f'its size is {item["size"]}')
        deadline = item['ttl'] - CLOSED_TTL if 'ttl' in item else None
        return Run(item['id'], deadline, item['lazy'], item['single_leaf'], item.get('size'))

    def _leaves(self, run: Run, size: int = 0) -> list[Node]:
        """The leaves of a run; if it has no size, at least those that this one needs."""
        if run.size is not None:
            positions = [position for position in run.positions() if not position.level]
            return self.nodes(run, positions)
        leaves: list[Node] = []
        for start in itertools.count(0, GET_BATCH):
            found = self.nodes(run, [Position(0, start + number) for number in range(GET_BATCH)])
            if not found and start + GET_BATCH >= width(size, 1):
                return leaves
            leaves += found
        raise AssertionError

    def places_of_generator(self, run: Run) -> Iterator[Position]:
        """The places of all nodes that a generator can have by now, and a few more."""
        leaves = self._leaves(dataclasses.replace(run, size=None), run.size or 0)
        last = max((leaf.position.number for leaf in leaves), default=0)
        # a size for which the last leaf is not the root: it could be full
        size = max((last + 1) * Position.LEAF_CAPACITY + 1, run.size or 0)
        return dataclasses.replace(run, size=size, single_leaf=False).positions()

    def nodes(self, run: Run, positions: Iterable[Position]) -> list[Node]:
        """Those nodes that exist, in order."""
        return self._nodes_and_items(run, positions, ())[0]

    def _nodes_and_items(
            self, run: Run, positions: Iterable[Position], ids: Iterable[str],
    ) -> tuple[list[Node], dict[str, Item]]:
        places = {run.node_id(position): position for position in positions}
        items = self.table.get_many([*places, *ids])
        nodes = [Node(run, place, items[id]) for id, place in places.items() if id in items]
        return nodes, {id: items[id] for id in ids if id in items}

    def _below(self, run: Run, nodes: Iterable[Node]) -> Iterator[Node]:
        """The nodes that were counted on these, as far as they exist; a few pages are held."""
        children = (child for node in nodes for child in node.children)
        while page := list(itertools.islice(children, OVERLAPPED * GET_BATCH)):
            yield from self.nodes(run, page)

    def collect(self, root: Node, ids: list[str]) -> tuple[Header, dict[str, Item]]:
        """What the leaves below a root hold, and the items with some other ids.

        The items are read with the first level below the root: it takes no request more.
        """
        if not root.position.level:
            return header_of([root]), self.table.get_many(ids)
        first, items = self._nodes_and_items(root.run, root.children, ids)
        nodes: Iterable[Node] = first
        for _ in range(1, root.position.level):
            nodes = self._below(root.run, nodes)
        return header_of(nodes), items

    def is_done(self, label: str, task_id: str) -> bool:
        """Whether nothing is left to do for a part that stored its result with this label."""
        run_id, index = parse_label(label)
        item = self.table.get(run_id) or {'closed': True}
        if 'closed' in item or 'lazy' not in item:
            return True
        if _is_owner(item.get('owner'), task_id):
            return False  # it has to publish
        run = self._run(item)
        if run.lazy:
            run = dataclasses.replace(run, size=None)  # the nodes know it once it holds
        position = run.leaf(index)
        counting = {member_of(Part(index, added, task_id)) for added in (False, True)}
        while True:
            counters = self.table.get(run.node_id(position))
            if counters is None and item.get('ttl', math.inf) - CLOSED_TTL <= time.time():
                return True  # the nodes have expired with the chord's deadline; the result stays
            node = Node(run, position, counters or {})
            if node.counted.isdisjoint(counting) or node.overflows:
                return False
            if run.lazy and run.single_leaf and 'single_leaf' not in node.item:
                return False  # the leaves are being gathered here, or who did that has died
            filled = (position.level or node.item.get('single_leaf')  # which any part may have
                      or _is_owner(node.item.get('owner'), task_id))
            if not node.is_full or not filled:
                return True  # or another part is responsible for the way up
            if node.is_root:
                return False
            counting, position = {position.member}, position.parent


def _owner_prefix(task_id: str) -> bytes:
    return hashlib.blake2b(task_id.encode(), digest_size=8).digest()


def _is_owner(owner: bytes | None, task_id: str) -> bool:
    return owner is not None and owner.startswith(_owner_prefix(task_id))


def new_owner(task_id: str) -> bytes:
    """Names one delivery of a task, as the owner of nodes and of a lease."""
    return _owner_prefix(task_id) + os.urandom(4)


class Entry(NamedTuple):
    """What is counted on a node: a part with what it added, or a node of the level below."""

    member: bytes
    set_name: str = 'members'  # of SET_NAMES
    length: int = 0  # of its value, in bytes
    added: tuple[bytes, ...] = ()  # edges
    size: int | None = None  # of the header, if this part knows it


class _Counted(NamedTuple):
    """The outcome of a request: whether it counted its entries, what the node holds, which."""

    applied: bool
    item: Item | None
    entries: list[Entry]


def update_counter(
        table: Table, id: str, update: str, values: Item, condition: str | None = None,
) -> WriteResult:
    """Updates a node.  Raises MiscountedChord if it would become too large for an item."""
    try:
        return table.update(id, update, values, condition=condition)
    except ClientError as exc:
        if error_code(exc) == 'ValidationException' and 'tem size' in str(exc):
            raise MiscountedChord(TOO_LARGE) from exc
        raise


class PartCounter:
    """Counts one delivery of a part.  owner: of nodes that it is the last to count on."""

    def __init__(self, table: Table, run: Run, part: Part, owner: bytes) -> None:
        self.table, self.run, self.part, self.owner = table, run, part, owner
        self.member = member_of(part)

    def count(self, entry: Entry) -> Node | None:
        """Counts a part, and the nodes that it fills.  Returns the root if the chord is complete.

        Raises MiscountedChord if it cannot complete.
        """
        position = self.run.leaf(self.part.group_index)

        def send(entries: Mapping[Any, Any]) -> Sent:
            counted = self._count(position, list(entries.values()))
            return Sent(counted, entries if counted.applied else ())

        counted: _Counted | None = shared_batcher(self.table.options).submit(
            self.run.node_id(position), entry.member, entry, send)
        while counted is not None:
            node = self._checked(position, counted)
            if node is None:
                return None
            self._note_failure(node, counted.entries)
            if not node.is_full:
                return None
            if node.is_root:
                return node
            # a duplicate counts a full node again: the delivery that filled it may have died
            entry = Entry(position.member, size=node.size)
            position = position.parent
            counted = self._count(position, [entry])
        return None

    def _count(self, position: Position, entries: list[Entry]) -> _Counted:
        values: Item = {'owner': self.owner, 'timestamp': int(time.time()), **self.run.ttl}
        sets: dict[str, set[bytes]] = {}
        terms = ['attribute_exists(#id)'] if not self.run.lazy else []
        for number, entry in enumerate(entries):
            sets.setdefault(entry.set_name, set()).add(entry.member)
            if entry.added:
                sets.setdefault('added', set()).update(entry.added)
            values[f'p{number}'] = entry.member
            terms += [f'NOT contains(#{set_name}, :p{number})' for set_name in SET_NAMES]
            if entry.size is not None:
                values['size'] = entry.size
        changes = ['#owner = :owner', '#timestamp = :timestamp']
        if self.run.lazy:
            changes += [f'#{name} = :{name}' for name in ('ttl', 'size') if name in values]
        additions = [f'#{name} :{name}' for name in sets]
        if position.level == 0:
            additions.append('#bytes :bytes')
            values['bytes'] = sum(entry.length for entry in entries)
        update = f'SET {", ".join(changes)} ADD {", ".join(additions)}'
        if position.level == 0 and not (self.run.lazy or self.run.single_leaf):
            update += ' DELETE #pending :pending'
            values['pending'] = {entry.member for entry in entries}
        result = update_counter(self.table, self.run.node_id(position), update, {**values, **sets},
                                ' AND '.join(terms))
        return _Counted(result.applied, result.item, entries)

    def _checked(self, position: Position, counted: _Counted) -> Node | None:
        """The node that was counted on, or the leaf that has all; None if the run is closed.

        Raises MiscountedChord.
        """
        self._check_deadline()
        if counted.item is None:
            raise MiscountedChord(GONE)
        node = Node(self.run, position, counted.item)
        if not counted.applied and node.counted.isdisjoint(
                entry.member for entry in counted.entries):
            raise MiscountedChord(WRONG_CONTAINS)
        if self.run.lazy:
            new = node.counted == {entry.member for entry in counted.entries}
            # this request created the node: is it the first of its chord, or was the table deleted?
            item = (self.table.get(self.run.id) or {}) if new or not counted.applied else None
            if item and 'closed' in item:
                _log_late(self.run)
                if self.run.deadline is None:
                    self.table.delete(self.run.node_id(position))
                return None
            if item is not None and 'lazy' not in item:
                raise MiscountedChord(GONE)
            gathered = self._gathered(node, item or {}, counted.applied)
            self._check_deadline()
            if gathered is None:
                return None
            if gathered is not node and self.member not in gathered.counted:
                raise MiscountedChord(GONE)  # the table was deleted after the count
            node = gathered
        if node.overflows:
            raise MiscountedChord(UNEXPECTED)
        return node

    def _check_deadline(self) -> None:
        """Called after a response: until then no node can have expired.  Raises MiscountedChord."""
        if self.run.deadline is not None and time.time() >= self.run.deadline:
            raise MiscountedChord(GONE)

    def _gathered(self, node: Node, run_item: Item, applied: bool) -> Node | None:
        """The node, or leaf 0 if the run is counted there; None if there is nothing to do."""
        store, leaf_0 = ChordStore(self.table), Position(0, 0)
        if self.run.single_leaf or (applied and node.single_leaf and node.position == leaf_0):
            return node
        if not node.single_leaf and not run_item.get('single_leaf'):
            if not node.overflows:
                return node
            found = store.count_on_one_leaf(self.run)
            if found is None:
                _log_late(self.run)
                return None
            run_item, applied = found, False
        if not applied and 'size' in run_item:  # a delivery before may have died while it gathered
            return store.gather(self.run, run_item['size'])
        if node.position.level:
            return None  # the leaf below is moved
        return store.move([node], self.run, run_item.get('size'))

    def _note_failure(self, node: Node, entries: list[Entry]) -> None:
        """Notes on the run's pointer that a part failed, if these are the first of their leaf."""
        failed = node.item.get('failed', frozenset())
        # all of them again, if a request is repeated: the delivery before may have died
        if not failed or not failed <= {entry.member for entry in entries}:
            return
        part = part_of(min(failed))
        try:
            self.table.update(
                self.run.pointer_id, 'SET #result = :task_id, #chord = :copy_id',
                {'task_id': part.task_id.encode(), 'copy_id': self.run.copy_id(part),
                 'run': self.run.id},
                condition='#run = :run AND attribute_not_exists(#chord)',
                budget=Budget(monotonic() + _NOTE_PATIENCE))
        except FAILURES as exc:  # the part is counted, and the chord's own error will come
            logger.warning('Chord %s: it is not noted that a part failed: %s',
                           self.run.id, summary(exc))


def _log_late(run: Run) -> None:
    logger.debug('Chord %s is closed, and a part came late', run.id)


class LeaseLost(BaseException):
    """Another delivery has taken over, or may have: then DynamoDB's error is the cause.

    No Exception: Celery swallows those of signal receivers.
    """


class Lease:
    """The right to end a run, kept by heartbeats.

    As in the DynamoDB Lock Client: a delivery that sees the heartbeat counter unchanged for
    DURATION, by its own monotonic clock, may take over.  start_publishing() and check() are the
    fence: they fail for an owner that was replaced.
    https://aws.amazon.com/blogs/database/building-distributed-locks-with-the-dynamodb-lock-client/
    """

    DURATION = 15.0  # seconds

    _HELD_BY_US = 'attribute_not_exists(#owner) OR #owner = :owner'

    def __init__(self, table: Table, run: Run, owner: bytes) -> None:
        self.table, self.run, self.owner = table, run, owner
        self._confirmed = -math.inf  # when (of monotonic()) the last heartbeat was sent

    def acquire(self, sleep: Sleep) -> Item | None:
        """The item of the run, once this delivery owns the lease; None once the run is closed.

        Sleeps while another delivery has the lease.
        """
        since, last_heartbeat = monotonic(), -1
        while True:
            item = self.table.get(self.run.id) or {}
            if 'closed' in item:
                _log_late(self.run)
                return None
            if item.get('owner') == self.owner:
                return item
            heartbeat, now = item.get('heartbeat', 0), monotonic()
            if heartbeat != last_heartbeat:
                since, last_heartbeat = now, heartbeat
            wait = since + self.DURATION - now
            if 'owner' in item and wait > 0:
                # to give up would leave the chord hanging if its owner is dead
                sleep(min(wait, self.DURATION / 10))
                continue
            unchanged = '#heartbeat = :seen' if heartbeat else 'attribute_not_exists(#heartbeat)'
            acquired, item = self._update(unchanged, seen=heartbeat)
            if acquired:
                return item

    def renew(self, budget: Budget = UNLIMITED) -> bool:
        """Sends a heartbeat; False if the lease is no longer ours, or the run is closed."""
        return self._update(self._HELD_BY_US, budget)[0]

    def start_publishing(self, published_before: frozenset[bytes]) -> bool | None:
        """The fence before publishing, which may follow only if this is true.

        False if the lease is no longer ours, None if the run is closed.  published_before: the
        timestamps under the body's id.
        """
        # DynamoDB has no empty sets
        started, item = self._update(self._HELD_BY_US, published_before=published_before | {b'-'})
        if 'closed' in item:
            _log_late(self.run)
            return None
        return started

    def check(self) -> None:
        """The fence before each message.  Raises LeaseLost if the lease is no longer ours.

        The owner may have been stopped, or cut off from DynamoDB: after a heartbeat that is old it
        sends one.
        """
        if monotonic() - self._confirmed > self.DURATION / 2:
            try:
                renewed = self.renew()
            except FAILURES as exc:
                raise LeaseLost from exc
            if not renewed:
                raise LeaseLost

    def _update(
            self, condition: str, budget: Budget = UNLIMITED, **values: Any) -> tuple[bool, Item]:
        update = 'SET #owner = :owner'
        if self.run.deadline is not None:
            update += ', #ttl = if_not_exists(#ttl, :ttl)'
        if 'published_before' in values:
            update += ', #published_before = :published_before'
        # others see a heartbeat after this, and wait for DURATION from then on
        sent = monotonic()
        applied, item = self.table.update(
            self.run.id, f'{update} ADD #heartbeat :one',
            {'owner': self.owner, 'one': 1, **values, **self.run.closed_ttl},
            condition=f'attribute_not_exists(#closed) AND ({condition})', budget=budget)
        if applied:
            self._confirmed = max(self._confirmed, sent)
        return applied, item or {}

    @contextlib.contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Sends heartbeats from threads of their own, so that no delivery takes over.

        Without a thread a delivery may take over, and then start_publishing() fails here.
        """
        stopped = threading.Event()

        def send_heartbeat() -> None:
            try:
                if not self.renew(Budget(monotonic() + self.DURATION)):
                    stopped.set()
            except FAILURES as exc:
                logger.warning('The lease of the chord %s was not renewed: %s',
                               self.run.id, summary(exc))

        def send_heartbeats() -> None:
            while not stopped.wait(self.DURATION / 3):
                # one that hangs must not keep the next from being sent
                if start_thread(send_heartbeat, name='dyna-veggie-heartbeat') is None:
                    send_heartbeat()
        start_thread(send_heartbeats, name='dyna-veggie-heartbeats')
        try:
            yield
        finally:
            stopped.set()

    def close(self, size: int | None) -> None:
        """Closes the run.  Its nodes expire, or are deleted if nothing does.

        size: of its header; None for a generator that did not fill its root.
        """
        late = math.ceil(time.time() + CLOSED_TTL)
        self.table.update(
            self.run.id, 'SET #closed = :closed, #ttl = if_not_exists(#ttl, :late) REMOVE #body',
            {'closed': True, 'late': late})
        if self.run.deadline is None:
            positions = (ChordStore(self.table).places_of_generator(self.run) if size is None
                         else dataclasses.replace(self.run, size=size).positions())
            self.table.write_many(deletes=map(self.run.node_id, positions))


# --------------------------------------------------------------------------------------------------
# Claim check
# --------------------------------------------------------------------------------------------------
#
# A claim check (Hohpe and Woolf) stands in a message for the values of a large chord, which stay in
# the table.  The body's argument is a list with one ClaimCheck; before the task is called, the
# values take its place in that very list.
#
#   decoding    makes no request, because a worker's main process decodes messages too.
#   redeeming   is done by a receiver of Celery's signal task_prerun, in the task's own thread.
#   retries     The request keeps the ClaimCheck: it is what self.retry() sends.
#   errors      Celery swallows errors of signal receivers.  So the list holds a _Missing, which
#               raises the error on its first use; a body that never uses it fails on return,
#               before its callbacks are called.

@dataclass(frozen=True)
class ClaimCheck:
    """Stands in a message for the values that the parts of a run returned."""

    run_id: str
    parts: int
    has_structure: bool
    marker: ClassVar[str] = 'dyna_veggie.ClaimCheck'

    def __repr__(self) -> str:
        return f'<the values of {self.parts:,} parts of the chord {self.run_id}>'

    #: such a text, in place of an argument that was stored with a result
    text: ClassVar[re.Pattern[str]] = re.compile('<the values of [0-9,]+ parts of the chord .+>')


register_type(
    ClaimCheck, ClaimCheck.marker, lambda claim_check: list(dataclasses.astuple(claim_check)),
    lambda fields: ClaimCheck(*fields))


class _Missing:
    """A value that could not be read: any use of it raises the reason."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def _raise(self, *args: Any) -> Any:
        raise self._error

    __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __call__ = __contains__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _raise
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = _raise
    __eq__ = __hash__ = __str__ = __format__ = __json__ = __reduce_ex__ = _raise


class _Withheld(list):  # type: ignore[type-arg]
    """The callbacks or the chain of a body whose values are missing.

    They can be read and sent, as by self.retry().  What Celery does to call them, once the body
    has returned, raises an EncodeError, for which it fails the task.
    """

    def __init__(self, signatures: Iterable[Any], error: Exception) -> None:
        super().__init__(signatures)
        self._error = error

    def _raise(self, *args: Any) -> Any:
        raise EncodeError(str(self._error))

    __len__ = __getitem__ = pop = _raise

    def __bool__(self) -> bool:
        return True

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(iter(self)),)


def describe_args(arguments: Any) -> Any:
    """Arguments as they are stored with a result: each claim check as a text."""
    if not isinstance(arguments, (list, tuple)):
        return arguments
    if not any(map(is_claim_check, arguments)):
        return arguments  # where results are pickled, a tuple stays one
    return [repr(each[0]) if is_claim_check(each) else each for each in arguments]


def is_claim_check(argument: Any) -> bool:
    # by name: a process can hold two copies of this module, one vendored and one installed
    return (type(argument) is list and len(argument) == 1
            and getattr(type(argument[0]), 'marker', None) == ClaimCheck.marker)


def _redeem_arguments(task: Any = None, args: Any = (), **kwargs: Any) -> None:
    """Puts values in the place of claim checks, before a task is called."""
    claim_checks = [each for each in args if is_claim_check(each)]
    if not claim_checks:
        return
    # other lists: those that the task is called with are filled below
    task.request.args = [list(each) if is_claim_check(each) else each for each in args]
    for values in claim_checks:
        try:
            redeem = getattr(task.backend, 'redeem', None)
            if redeem is None:
                raise ChordError(
                    f'{values[0]!r} cannot be read, because the result backend is '
                    f'{type(task.backend).__name__}: the worker of a body must use the backend of '
                    'its chord')
            values[:] = redeem(values[0])
        except Exception as exc:  # a soft time limit's, too
            logger.exception('Task %s: %r cannot be read', task.name, values[0])
            delivery_of(task.request).missing_values = exc
            values[:] = [_Missing(exc)]
    error = delivery_of(task.request).missing_values
    if error is not None:
        for name in ('callbacks', 'chain'):
            if signatures := getattr(task.request, name):
                setattr(task.request, name, _Withheld(signatures, error))


task_prerun.connect(_redeem_arguments, weak=False, dispatch_uid=f'{__name__}.redeem')


@functools.cache
def _carries_claim_checks(serializer: str) -> bool:
    """Whether a serializer carries a ClaimCheck; an app may register others as "json"."""
    claim_check = ClaimCheck('run', 1, False)
    try:
        content_type, encoding, payload = dumps([claim_check], serializer=serializer)
        return is_claim_check(loads(payload, content_type, encoding, force=True))
    except Exception as exc:  # each has its own
        raise_soft_time_limit(exc)
        return False


# --------------------------------------------------------------------------------------------------
# Join
# --------------------------------------------------------------------------------------------------
#
# How a chord ends, once a delivery has filled its root, or found that it cannot be filled: its body
# is published with the values of its header, or its errbacks are called.  A Join is one delivery's
# attempt to end it; ``backend`` is a ChordBackend.
#
#   steps       acquire the lease (unless this delivery has just filled the root), read the nodes
#               and the results under the body's id, load the values, pass the fence and publish,
#               close the run, delete the copies.
#   repeats     Each step may be repeated.  Stage says what cannot be undone.  Until the chord has
#               ended a repeat reads again, because another owner may have ended it.
#   time limits The body is sent out of their reach, once: a repeat waits for it.
#   nested      A body can be a part of another chord.  That chord counts it as failed before the
#               error is stored under the body's id, which marks this chord as ended.

_FORGOTTEN = 'it was forgotten, or has expired: if the chord takes long, raise result_chord_expires'


def _subtasks_of(signature: Any) -> list[Any]:
    tasks = getattr(signature, 'tasks', None) or ()
    return list(getattr(tasks, 'tasks', tasks))  # of a chord it can be a group


def tasks_of(signature: Any, app: Any, role: str) -> Iterator[Any]:
    """The tasks that have a role in a canvas.

    first: they are called with its arguments.  last: their results are its result.  sent: some of
    their states change once it was published.
    """
    signature = maybe_signature(signature, app=app)
    tasks, is_chain = _subtasks_of(signature), signature.subtask_type == 'chain'
    body = [signature.body] if signature.subtask_type == 'chord' else []
    if role == 'first':
        below = tasks[:1] if is_chain else tasks
    elif role == 'last':
        below = body or (tasks[-1:] if is_chain else tasks)
    else:  # a group is sent in order
        below = [*(tasks[:1] if is_chain else ()), *tasks[-1:], *body]
    for each in below:
        yield from tasks_of(each, app, role)
    if not below:
        yield signature


def enclosing_parts(signature: Any, app: Any) -> Iterator[Context]:
    """The parts of an enclosing chord that a signature is: requests of its last tasks."""
    signature = maybe_signature(signature, app=app)
    for each in (signature, *(signature.options.get('chain') or ())):
        each = maybe_signature(each, app=app)
        for task in tasks_of(each, app, 'last'):
            # a task was frozen before its run: the run option is only in the outer signature
            options = {**task.options, **{
                name: each.options[name] for name in ('chord', 'group_id') if name in each.options}}
            if options.get('chord') and options.get('task_id'):
                yield Context({
                    'id': options['task_id'], 'group': options.get('group_id'),
                    'group_index': options.get('group_index'), 'chord': options['chord']})


def result_ids(signature: Any, app: Any) -> Iterator[str]:
    """The ids of a canvas's result, as a client holds it: its own, and that of its last tasks.

    Of what follows it in a chain, too, the last first.
    """
    signature = maybe_signature(signature, app=app)
    is_chord, is_chain = (signature.subtask_type == kind for kind in ('chord', 'chain'))
    if signature.id and not is_chord:  # which is that of its header
        yield signature.id
    tasks = _subtasks_of(signature)
    last = [signature.body] if is_chord else tasks[-1:] if is_chain else tasks
    for each in (*(signature.options.get('chain') or ()), *last):
        yield from result_ids(each, app)


def errbacks_of(body: Any, app: Any) -> list[Any]:
    """The errbacks of a body, without those that the enclosing chord will call for its error."""
    def call(errback: Any) -> tuple[Any, ...]:  # link_error() gives a header an immutable copy
        return errback['task'], list(errback['args']), errback['kwargs']

    around = [call(errback) for part in enclosing_parts(body, app)
              for errback in maybe_list(part.chord['options'].get('link_error')) or ()]
    return [errback for errback in maybe_list(body.options.get('link_error')) or ()
            if call(errback) not in around]


def _drop_errbacks(body: Any) -> None:
    """Removes the errbacks that Celery calls when a body fails."""
    body['options']['link_error'] = []
    for task in _subtasks_of(body) if body.subtask_type == 'group' else ():
        while task:  # of a chord, those of its body
            task['options']['link_error'] = []
            is_chord = task.get('subtask_type') == 'chord'
            task = task['kwargs'].get('body') if is_chord else None


def can_carry_claim_check(body: Any, app: Any) -> bool:
    """Whether all that receive the values are sent by serializers that carry a ClaimCheck."""
    return all(
        _carries_claim_checks(
            task.options.get('serializer') or body.options.get('serializer')
            or getattr(app.tasks.get(task.task), 'serializer', None) or app.conf.task_serializer)
        for task in tasks_of(body, app, 'first'))


def part_error(part: Part, value: Any) -> ChordError:
    """The error of a chord, for what one of its parts raised."""
    error = ChordError(f'Dependency {part.task_id} raised {value!r}')
    error.__cause__ = value if isinstance(value, BaseException) else None
    return error


def has_groups(results: Iterable[ResultBase]) -> bool:
    """Whether a header with these results has groups in it, or chains that end in groups."""
    return any(isinstance(result, GroupResult) for result in results)


def arrange(result: ResultBase, values: Mapping[str, Any]) -> Any:
    """Values by task id, in the structure of a header's result."""
    if isinstance(result, GroupResult):
        return [arrange(child, values) for child in result.results]
    return values[result.id]


def read_ahead(read: Callable[[T], Any], pages: Iterable[T]) -> Iterator[tuple[T, Any]]:
    """Yields each page and what read() returns for it; a thread reads the next while one is used.
    """
    following = iter(pages)
    for page in following:  # the first: nothing is used while it is read
        found = read(page)
        for next_page in following:
            reading = Call(functools.partial(read, next_page))
            yield page, found
            page, found = next_page, reading.result()
        yield page, found


class HeaderValues:
    """Reads what the parts of a run returned."""

    def __init__(self, backend: Any, run: Run) -> None:
        self.backend, self.run = backend, run
        self.store: BlobStore = backend.store

    def argument(self, body: Any, header: Header) -> tuple[list[Any], list[str]]:
        """What a body is called with, and the ids of items that nothing reads after that.

        Raises ChordError for the first part that failed (what it raised, if the header has groups),
        and if a value is not there.  Raises MiscountedChord if parts are not there.
        """
        run, app = self.run, self.backend.app
        if not header.is_whole:
            raise MiscountedChord(GONE)
        if header.failed:
            raise self._error_of_first(part for part, _ in unpack(header.failed))
        limit = self.backend.options.chord_inline_limit
        needs_values = not all(task.immutable for task in tasks_of(body, app, 'first'))
        if (needs_values and limit and header.length > limit
                and can_carry_claim_check(body, app)):
            if len(header.values) > LARGEST_RESULT:
                raise MiscountedChord(
                    f'the header has {header.number:,} tasks, whose ids take more than the '
                    f'{LARGEST_RESULT:,} bytes that a body which takes their values can have')
            self.store.put(run.parts_id, header.values, None, run.lifetime or COPY_TTL)
            return [ClaimCheck(run.id, header.number, run.has_structure)], []
        copies = [run.copy_id(part) for part, set_name in unpack(header.values)
                  if set_name == 'copied']
        copies += [run.header_id] if run.has_structure else []
        if not needs_values:
            return [], copies
        values, chunks = self._read(unpack(header.values))
        return values, [*copies, *chunks]

    def redeem(self, claim_check: ClaimCheck) -> list[Any]:
        """The values that a claim check stands for.  Raises ChordError if they have expired."""
        stored = self.store.get(self.run.parts_id)
        if stored is None:
            raise ChordError(f'{claim_check!r} are gone: {_FORGOTTEN}')
        return self._read(unpack(stored.read()))[0]

    def _read(self, parts: Iterable[tuple[Part, str]]) -> tuple[list[Any], list[str]]:
        """The values of parts as a body gets them, and the ids of chunks of copies."""
        places = ((self.run.copy_id(part) if set_name == 'copied'
                   else self.backend.item_id(part.task_id), part) for part, set_name in parts)
        pages = iter(lambda: list(itertools.islice(places, OVERLAPPED * GET_BATCH)), [])
        values: list[Any] = []
        chunks: list[str] = []
        by_id: dict[str, Any] = {}
        for page, stored in read_ahead(self._fetch_page, pages):
            found = self._complete(dict(page), stored)
            for id, part in page:
                if id not in found:
                    raise ChordError(f'The result of {part.task_id} did not appear: {_FORGOTTEN}')
                meta, ids = found[id]
                if meta['status'] != states.SUCCESS:
                    raise part_error(part, meta['result'])
                values.append(meta['result'])
                if self.run.has_structure:
                    by_id[part.task_id] = meta['result']
                if id == self.run.copy_id(part):
                    chunks += ids[1:]
        if self.run.has_structure:
            structure = self._structure()
            if structure is None:
                raise ChordError(f'The structure of the header is gone: {_FORGOTTEN}')
            values = arrange(structure, by_id)
        return values, chunks

    def _fetch_page(self, page: list[tuple[str, Part]]) -> dict[str, StoredValue]:
        return self.store.get_many((id for id, _ in page), consistent=False)

    def _complete(
            self, parts: dict[str, Part], fetched: dict[str, StoredValue],
    ) -> dict[str, tuple[dict[str, Any], Any]]:
        """The metas by id, with the ids of their items; waits for those that are no success yet.

        An eventually consistent read may find the value of an earlier run, which was forgotten.
        """
        patience = max(self.backend.options.consistency_wait_time, self.backend.join_timeout)
        attempts = Backoff(0.05, 0.5, patience).attempts()
        found: dict[str, tuple[dict[str, Any], Any]] = {}
        missing = list(parts)
        for again in itertools.chain([False], (True for _ in attempts)):
            if again:
                fetched = self.store.get_many(missing)
            for id, stored in fetched.items():
                part = parts[id]
                if id == self.run.copy_id(part) or stored.chord == self.run.label(part):
                    meta = self.backend.decode_stored(part.task_id, stored).value
                    found[id] = meta, stored.ids
            missing = [id for id in missing
                       if id not in found or found[id][0]['status'] != states.SUCCESS]
            if not missing:
                break
        return found

    def _structure(self) -> ResultBase | None:
        """The results of the header; None if they are gone."""
        stored = self.store.get(self.run.header_id)
        if stored is None:
            return None
        backend = self.backend
        structure: ResultBase = result_from_tuple(
            backend.decode(stored.read())['result'], backend.app)
        return structure

    def _error_of_first(self, failed: Iterable[Part]) -> ChordError:
        """The error of a chord of which some parts failed."""
        structure = self._structure() if self.run.has_structure else None
        leaves = list(leaf_results(structure)) if structure else []
        places = {leaf.id: place for place, leaf in reversed(list(enumerate(leaves)))}
        error = self._error_of(min(failed, key=lambda part: places.get(part.task_id, math.inf)))
        cause = error.__cause__
        if structure is None or not has_groups(structure.results):
            return error
        if isinstance(cause, ChordError):
            return cause
        if isinstance(cause, Exception):
            # as on Redis; not the cause itself, which could be taken for this thread's time limit
            return ChordError(f'Join error: {cause!r}')
        return error

    def _error_of(self, part: Part) -> ChordError:
        ids = (self.run.copy_id(part), self.backend.item_id(part.task_id))
        found = {
            id: stored for id, stored in self.store.get_many(
                id for id in ids if not is_too_long(id)).items()
            if not stored.chord or str(stored.chord).startswith(f'{self.run.id}.')}
        for id in ids:
            meta = (self.backend.decode_stored(part.task_id, found[id]).value
                    if id in found else {})
            if meta.get('status') in states.PROPAGATE_STATES:
                return part_error(part, meta['result'])
        if is_too_long(ids[0]):
            return ChordError(id_error(ids[0]))
        return ChordError(f'Dependency {part.task_id} failed, and its error was replaced or '
                          'forgotten since')


#: whether this context ends a chord
is_joining: contextvars.ContextVar[bool] = contextvars.ContextVar(
    'dyna_veggie_joining', default=False)


@contextlib.contextmanager
def soft_time_limit_dropped() -> Iterator[None]:
    """Drops the soft time limit of the prefork pool, a signal, if it comes within the block."""
    try:
        previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    except (ValueError, AttributeError):  # no main thread, which alone gets signals; or Windows
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL if previous is None else previous)


class Shielded:
    """A call that no time limit of its task interrupts.

    In the task's own thread, whose thread-locals belong to what publishes; with greenlets, in one
    of its own, because a time limit of theirs is no signal.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._todo = deque([function])  # one thread takes it
        self._error: BaseException | None = None
        self._ended, self._end = False, threading.Lock()
        self._end.acquire()

    def result(self) -> None:
        """Waits for the end of the call, and calls if none has begun.  Raises what it raised."""
        while not self._ended:
            try:
                if self._todo:
                    self._begin()
                self._end.acquire()
            except SoftTimeLimitExceeded:  # it comes once
                continue
        if self._error is not None:
            raise self._error

    def _begin(self) -> None:
        context, task = contextvars.copy_context(), get_current_task()
        if detect_environment() != 'default':
            call = functools.partial(self._call, task, task and vars(task.request))
            if start_thread(context.run, call) is not None:
                return
        with soft_time_limit_dropped():
            context.run(self._call, None, None)

    def _call(self, task: Any, request: Any) -> None:
        for function in drain(self._todo):
            try:
                if task is not None:  # a message names the task that sent it as its parent
                    _task_stack.push(task)
                    task.push_request(**request)
                function()
            except BaseException as exc:
                self._error = exc
            self._ended = True
            self._end.release()


#: called before each message that this context publishes
_check_fence: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar(
    'dyna_veggie_fence', default=None)


def _before_message(**_: Any) -> None:
    check = _check_fence.get()
    if check is not None:
        check()


before_task_publish.connect(_before_message, weak=False, dispatch_uid=f'{__name__}.fence')


class Stage(enum.IntEnum):
    """What of a join cannot be undone."""

    WAITING = 0  # the lease is not ours
    ACQUIRED = 1  # nothing was published: an error fails the chord, or is Celery's
    PUBLISHING = 2  # the body may be published: Celery must not see an error
    ERRBACKS_CALLED = 3  # the chord failed, and its error is to be stored
    ENDED = 4  # the body is published, or the error is stored


class Join:
    """One delivery's way from a full root, or an error, to the end of the chord."""

    def __init__(self, backend: Any, body: Any, lease: Lease, group_id: str) -> None:
        self.backend, self.body, self.lease, self.run = backend, body, lease, lease.run
        self.group_id = group_id  # the name of the chord in logs
        self.root: Node | None = None
        self.error: Exception | None = None
        self.stage = Stage.WAITING
        self.published_before: Any = None  # the timestamps of the owner before, if it published
        self.was_published = False  # by the owner before
        self.timestamps: frozenset[bytes] = frozenset()  # of the results under the body's id
        self.header = Header()
        self.argument: list[Any] | None = None
        self.sending: Shielded | None = None
        # the ids of items that nothing reads once the chord has ended
        self.leftovers = [self.run.header_id] if self.run.has_structure else []

    def execute(self, sleep: Sleep) -> None:
        """Ends the chord, unless another delivery does.  Sleeps while one has the lease."""
        retried = self.backend.retried
        if not retried(self._acquire, sleep):
            return
        token = is_joining.set(True)
        try:
            with self.lease.heartbeats():
                for step in self._steps():
                    retried(step)
        finally:
            is_joining.reset(token)

    def _acquire(self, sleep: Sleep) -> bool:
        filled = self.root is not None and self.root.item.get('owner') == self.lease.owner
        state: Item | None = {}  # as it is where this delivery has just filled the root
        if not filled or self.stage >= Stage.PUBLISHING:
            state = self.lease.acquire(sleep)
        if state is None:
            return False
        self.published_before = state.get('published_before')
        self.stage = max(self.stage, Stage.ACQUIRED)
        return True

    def _steps(self) -> Iterator[Callable[[], None]]:
        """The steps that are left."""
        if self.stage < Stage.ENDED:
            yield self._read
        if self.stage < Stage.ENDED:  # the owner before has not published
            yield self._load
            yield self._publish
        if self.stage == Stage.ENDED:  # no other worker has taken over
            yield self._close
            yield self._clean_up

    def _read(self) -> None:
        """Reads the leaves, and whether the owner before has published the body."""
        store, backend = ChordStore(self.lease.table), self.backend
        ids = [backend.item_id(task.id)
               for task in tasks_of(self.body, backend.app, 'sent') if task.id]
        if self.root is None:
            items = store.table.get_many(ids)
        else:
            self.header, items = store.collect(self.root, ids)
        # PENDING is stored before a body is published: see track_sent
        # expired or not: the clock of the owner before may be wrong
        self.timestamps = frozenset(
            repr(item.get('timestamp')).encode() for item in items.values()
            if item.get('status') != states.PENDING)
        if self.published_before is None or self.stage == Stage.ERRBACKS_CALLED:
            return  # what is stored there by now are our own errors
        if self.timestamps - self.published_before:
            self.was_published = True
            self.stage = Stage.ENDED
            if self.argument is None:
                self.leftovers = []  # tasks of the body may still read them, until they expire

    def _load(self) -> None:
        """Loads the values of the header."""
        if self.error is not None:
            return
        values = HeaderValues(self.backend, self.run)
        try:  # retried here: the error that remains fails the chord
            self.argument, self.leftovers = self.backend.retried(
                values.argument, self.body, self.header)
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            self.error = exc

    def _publish(self) -> None:
        """Publishes the body, or calls its errbacks, unless another worker has taken over."""
        try:
            started = self.lease.start_publishing(self.timestamps)
            if started is None:
                return
            if not started:
                raise LeaseLost
            self.stage = max(self.stage, Stage.PUBLISHING)
            if self.error is None:
                self._send_body()
            if self.error is not None:
                fenced = _check_fence.set(self.lease.check)  # each errback can be a message
                try:
                    self.lease.check()
                    self._fail(self.error)
                finally:
                    _check_fence.reset(fenced)
        except LeaseLost as lost:
            self.sending = None
            if isinstance(lost.__cause__, Exception):  # DynamoDB did not say whether it is lost
                raise lost.__cause__ from None
            # after a stall for longer than a lease: the other worker may have published
            logger.warning('Chord %s: it is not ended here, another worker has taken over',
                           self.group_id)
        else:
            self.stage = Stage.ENDED

    def _send_body(self) -> None:
        """Sends the body, once: a repeat waits for the sending that has begun."""
        # in versions of Celery that have it, this waits between its attempts to publish
        amqp = self.backend.app.amqp
        publish = getattr(amqp, '_retry_publish', lambda call, *args: call(*args))

        def send() -> None:
            _check_fence.set(self.lease.check)
            publish(self.body.delay, self.argument)

        if self.sending is None:
            self.sending = Shielded(send)
        try:
            self.sending.result()
        except SoftTimeLimitExceeded:  # there was no thread
            self.sending = None
            raise
        except Exception as exc:
            self.error = ChordError(f'Callback error: {exc!r}')
            self.error.__context__ = exc  # a part of the traceback that is stored

    def _fail(self, error: Exception) -> None:
        if isinstance(error, MiscountedChord):
            error = ChordError(str(error))
        elif not isinstance(error, ChordError):
            error = ChordError(f'Join error: {error!r}')
        try:
            raise error  # Celery stores the traceback of what is being handled
        except ChordError as exc:
            # our own traceback says nothing
            logger.error('Chord %s raised: %r', self.group_id, exc,
                         exc_info=bool(exc.__cause__ or exc.__context__))
            if not self.body.id:  # a chain has none; older Celerys would fail to store its error
                self.body.options['task_id'] = str(uuid.uuid4())
            self.backend.fail_parts([self.body], exc)
            self.body.options['link_error'] = errbacks_of(self.body, self.backend.app)
            try:
                self._store_error(exc)
            except Exception:  # Celery has called the errbacks, and swallowed their errors
                self.stage = Stage.ERRBACKS_CALLED
                _drop_errbacks(self.body)
                raise

    def _store_error(self, error: ChordError) -> None:
        self.backend.chord_error_from_stack(self.body, error)
        # Celery stores the error of a canvas under an id that is no task's; for the tasks of a
        # group it stores, from 5.6 on, what the part raised
        stored = (error.__cause__ or error) if self.body.subtask_type == 'group' else error
        for task in tasks_of(self.body, self.backend.app, 'last'):
            if task.id and task.id != self.body.id:
                self.backend.fail_from_current_stack(task.id, exc=stored)

    def _close(self) -> None:
        size = None if self.run.lazy else self.run.size
        self.lease.close(self.root.size if self.root else size)

    def _clean_up(self) -> None:
        """Deletes the copies of the run; the chord has ended, so a failure fails no task."""
        try:
            self.backend.store.delete_many(self.leftovers)
        except FAILURES as exc:
            logger.warning('Chord %s: %d values that were copied for it stay: %s',
                           self.group_id, len(self.leftovers), summary(exc))


# --------------------------------------------------------------------------------------------------
# Chord backend
# --------------------------------------------------------------------------------------------------
#
# Celery's interface for chords.  apply_chord() opens a run; on_chord_part_return() counts a part on
# the tree, and joins the chord if that filled the root.
#
#   run option  What the parts must know of the run is an option of the body's signature,
#               ``dynamodb_run``, which Celery puts into the message of each part (a key beside the
#               options would be lost by a signature that is pickled).  set_chord_size() completes
#               that very dict just before the last part of a generator is sent.  It is removed
#               before the body is published.
#   additions   What a task adds by add_to_chord() is counted with it when it returns: its run
#               option lists them in ``adds``.  That of an added task says ``added``.
#   values      A part's value is under its own key, if this delivery stored it there.  If results
#               are ignored, or another execution's success is there, it is copied to a key of the
#               run.
#   threads     A task waits for another's lease itself, also beyond its soft time limit: it stays
#               unacknowledged.  A worker's main process starts a thread that waits, and waits for
#               that at its end.

#: the tasks of a generator header come without group_index
LAZY_PARTS_LACK_INDEX = celery.VERSION[:2] < (5, 4)

# bytes of a body that its run keeps, compressed, some 10 KB of JSON: each read of the run still
# takes one unit
_BODY_LIMIT = 3_500
_BODY_IDS = 100  # of a larger body
_BODY_POINTERS = 2

RUN_OPTION = 'dynamodb_run'
NO_RUN_OPTION = ('the chord was applied with another result backend than that of its parts: '
                 'sender and workers must use the same')


class PartReturn(NamedTuple):
    """The return of a part, as its message says it."""

    run: Run
    part: Part
    adds: tuple[str, ...] = ()  # the ids of the tasks that it added
    problem: str | None = None  # why it cannot be counted


def run_option_of(request: Any) -> dict[str, Any]:
    """The run option of a message; empty if it is no part's, or another backend's."""
    chord = getattr(request, 'chord', None) or {}
    run_option: dict[str, Any] = (chord.get('options') or {}).get(RUN_OPTION) or {}
    return run_option


def part_return_of(request: Any) -> PartReturn | None:
    """What a message with a run option says."""
    run_option = run_option_of(request)
    if not run_option:
        return None
    # a sender of another version may know other fields
    run = Run(**{each.name: run_option[each.name] for each in dataclasses.fields(Run)
                 if each.name in run_option})
    # the index of a task in a group of the header depends on the version of Celery, messages of
    # protocol 1 have none, and a frozen task can be twice in a header: it counts by its id
    index = 0 if run.has_structure else request.group_index
    problem = UNEXPECTED if index is None and not (run.single_leaf or run.lazy) else None
    part = Part(index or 0, bool(run_option.get('added')), request.id)
    return PartReturn(run, part, tuple(run_option.get('adds', ())), problem)


def _without_run_option(body: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in body['options'].items() if name != RUN_OPTION}
    return {**body, 'options': options}


#: the threads of this process that join, each with its chord's group id
_joining: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()
#: seconds that the end of a process waits for them: two leases, and time to publish
_JOINING_PATIENCE = 60.0


def _finish_joins(**_: Any) -> None:
    """Waits for the joins of a process that ends: their tasks are acknowledged."""
    deadline = monotonic() + _JOINING_PATIENCE
    for thread, group_id in list(_joining.items()):
        thread.join(max(deadline - monotonic(), 0))
        if thread.is_alive():
            logger.error('Chord %s: this process ends before it was joined', group_id)


for _signal in (worker_process_shutdown, worker_shutdown):
    _signal.connect(_finish_joins, weak=False, dispatch_uid=f'{__name__}.finish_joins')


class WouldBlock(Exception):
    """Raised in place of sleeping."""


def no_sleep(seconds: float) -> None:
    raise WouldBlock


class ChordBackend(WaitingBackend):
    """Counts and joins chords."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chord_lifetime: int | None = None
        # the run options of generators; one that is sent half way is never sized
        self._opened: LRUCache = LRUCache(limit=1000)

    # --- before the parts return ------------------------------------------------------------------

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Prepares the counters, before the first part is sent.

        Raises ChordError for a header that cannot be counted.
        """
        self.ensure_chords_allowed()
        group_id, results = header_result_args[0], header_result_args[1]
        # Celery's lazy list, a subclass, must not be exhausted: its first parts run while it still
        # yields
        is_lazy = type(results) is not list
        single_leaf = self.app.conf.task_protocol == 1 or (
            LAZY_PARTS_LACK_INDEX if is_lazy else has_groups(results))
        task_ids: list[str] = []
        if not is_lazy:
            task_ids = [leaf.id for result in results for leaf in leaf_results(result)]
            if single_leaf:
                task_ids = list(dict.fromkeys(task_ids))  # see part_return_of()
            if not task_ids:
                raise ChordError('the header has no task whose return could start the body: '
                                 'its chains and groups are empty')
        run = self._new_run(
            group_id, lazy=is_lazy, single_leaf=single_leaf,
            size=None if is_lazy else len(task_ids))
        body_ids = itertools.islice(dict.fromkeys(result_ids(body, self.app)), _BODY_POINTERS)
        pointer_ids = [self.pointer_id(id) for id in body_ids if id != group_id]
        try:
            ChordStore(self.store.table).open(
                self.pointer_id(group_id), run, task_ids, body=self._kept_body(body),
                body_pointer_ids=[id for id in pointer_ids if not is_too_long(id)])
        except MiscountedChord as exc:
            raise ChordError(str(exc)) from None
        if run.has_structure:
            structure = self.app.GroupResult(*header_result_args).as_tuple()
            payload = ensure_bytes(self.encode({'result': structure}))
            self.store.put(run.header_id, payload, None, run.lifetime or COPY_TTL)
        run_option = dataclasses.asdict(run)
        body['options'][RUN_OPTION] = run_option
        if is_lazy:
            self._opened[group_id] = run_option

    def _kept_body(self, body: Any) -> bytes:
        """What a run keeps for fail_chord(): the body's signature, encoded like a result.

        Of one that is too large, or cannot be encoded, the ids of tasks that would not run; the
        state of the last of these changes once the body was published.
        """
        sent = [task.id for task in tasks_of(body, self.app, 'sent') if task.id]
        ids = [id for id in result_ids(body, self.app) if id not in sent]
        for kept in (_without_run_option(body), [*ids, *reversed(sent)][-_BODY_IDS:]):
            try:
                encoded = zlib.compress(ensure_bytes(self.encode(kept)))
            except Exception as exc:  # each serializer has its own
                raise_soft_time_limit(exc)
            else:
                if len(encoded) <= _BODY_LIMIT:
                    return encoded
        return b''

    def pointer_id(self, group_id: str) -> str:
        return self.key_id(self.get_key_for_chord(group_id))

    def _new_run(self, group_id: str, **more: Any) -> Run:
        lifetime, deadline = self._chord_lifetime, None
        if lifetime is not None:
            deadline = math.ceil(time.time() + lifetime)
        return Run(f'{self.pointer_id(group_id)}.{os.urandom(4).hex()}', deadline, **more)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Called just before the last part is sent, in the process that called apply_chord().

        A worker that sends a group of the header calls it, too: that does nothing.
        """
        run_option = self._opened.pop(group_id, None)
        if run_option is not None:
            run_option['size'] = chord_size  # of the message of the last part
            try:
                ChordStore(self.store.table).resize(Run(**run_option), chord_size)
            except MiscountedChord as exc:
                raise ChordError(str(exc)) from None

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Called in a task of the header, before it returns, for a task that it adds."""
        request = get_current_task().request
        chord, run_option = request.chord, run_option_of(request)
        if not run_option:
            raise ChordError(NO_RUN_OPTION)
        if isinstance(result, ResultSet):  # its tasks have indexes of their own
            raise ChordError('a group cannot be added to a chord: add its tasks one by one')
        options = chord['options']
        adds = [*run_option.get('adds', ()), result.id]
        request.chord = {**chord, 'options': {**options, RUN_OPTION: {**run_option, 'adds': adds}}}
        # this very dict is in the message of the task that is added
        chord['options'] = {**options, RUN_OPTION: {**run_option, 'adds': [], 'added': True}}

    def chord_progress(self, group_id: str) -> Progress | None:
        """How far the newest run of a chord is, by the id of its group or its result, or None.

        ``result.id`` for a chord's result.
        """
        report = ChordStore(self.store.table).report(self.pointer_id(group_id))
        return report and report.progress

    def fail_chord(self, group_id: str, reason: str) -> bool:
        """Ends the newest run of a chord, by the id of its group or its result, as a failure.

        Returns whether this call did: not if there is no such chord, or if it has ended, or its
        body was published.  Its errbacks are called with ChordError(reason), and its result gets
        that error; where the body was too large to be kept, only its result does, which is logged.
        Waits while another process has the lease; if that one still lives after the duration of a
        lease, raises TimeoutError.
        """
        chords = ChordStore(self.store.table)
        with refused_if_odd(f'the counters of the chord {group_id}'):
            found = chords.open_run(self.pointer_id(group_id))
            if found is None:
                return False
            run, encoded = found
        lease = Lease(chords.table, run, new_owner(group_id))
        join = Join(self, self._body_from(group_id, encoded), lease, group_id)
        join.error = ChordError(reason)
        deadline = math.inf

        def sleep(seconds: float) -> None:
            nonlocal deadline
            now = monotonic()
            deadline = min(deadline, now + 1.5 * lease.DURATION)
            if now > deadline:  # a dead owner would have been replaced, even if a read was slow
                raise TimeoutError(f'a worker is ending the chord {group_id}')
            time.sleep(seconds)

        try:
            join.execute(sleep)
        except Exception:
            if join.stage < Stage.PUBLISHING:
                raise
            join.execute(sleep)  # the errbacks were called: that is not to be done again
        return join.stage == Stage.ENDED and not join.was_published

    def _body_from(self, group_id: str, encoded: bytes) -> Any:
        """A body from what _kept_body() made of it; of one of which only ids were kept, a group."""
        try:
            kept = self.decode(zlib.decompress(encoded)) if encoded else [str(uuid.uuid4())]
        except Exception as exc:
            raise_soft_time_limit(exc)
            raise UnreadableValue(f'the body of the chord {group_id} cannot be decoded: '
                                  f'{type(exc).__name__}: {exc}') from exc
        if not isinstance(kept, list):
            return maybe_signature(kept, app=self.app)
        logger.warning(
            'Chord %s: its body was too large to be kept, or could not be encoded: no errback is '
            'called, and a chord that it is a part of is not failed', group_id)
        tasks = [Signature('unknown', options={'task_id': id}, app=self.app) for id in kept]
        return tasks[0] if len(tasks) == 1 else group(tasks, app=self.app, task_id=kept[-1])

    # --- when a part returns ----------------------------------------------------------------------

    def mark_as_done(
            self, task_id: str, result: Any, request: Any = None, *args: Any,
            **kwargs: Any) -> None:
        """Stores what a task returned, and counts it if it is a part of a chord."""
        delivery = delivery_of(request)
        if delivery.missing_values is not None:
            raise EncodeError(str(delivery.missing_values))  # for which Celery fails the task
        if delivery.stored:  # a state that the task itself stored is no return
            delivery.stored = states.PENDING, False
        super().mark_as_done(task_id, result, request, *args, **kwargs)

    def mark_as_failure(
            self, task_id: str, exc: Exception, traceback: Any = None, request: Any = None,
            store_result: bool = True, *args: Any, **kwargs: Any) -> None:
        """Stores that a task failed; counts it, and the rest of its chain, for its chord."""
        # the error of the missing values, rather than what the task raised over it
        exc = delivery_of(request).missing_values or exc
        rest = getattr(request, 'chain', None)
        try:
            super().mark_as_failure(
                task_id, exc, traceback, request, store_result, *args, **kwargs)
        except Exception:  # such as of an errback that cannot be sent, which Celery does last
            self.fail_parts(rest, exc)
            raise
        self.fail_parts(rest, exc, stored=store_result)

    def mark_as_revoked(
            self, task_id: str, reason: str = '', request: Any = None, *args: Any,
            **kwargs: Any) -> None:
        """The same for a task that was revoked, or expired."""
        super().mark_as_revoked(task_id, reason, request, *args, **kwargs)
        self.fail_parts(getattr(request, 'chain', None), TaskRevokedError(reason))

    def fail_parts(
            self, signatures: Iterable[Any] | None, error: Exception, stored: bool = False) -> None:
        """Counts as failed, for the enclosing chord, what will not be called.

        Celery may have counted some: a part counts once.  stored: Celery has stored the error under
        the id of each signature, so that it needs no copy, which would come too late to be deleted.
        """
        for signature in signatures or ():
            for request in enclosing_parts(signature, self.app):
                if stored and request.id == signature['options'].get('task_id'):
                    delivery_of(request).stored = states.FAILURE, True
                self.on_chord_part_return(request, states.FAILURE, error)

    # --- what is stored of a part -----------------------------------------------------------------

    def _get_result_meta(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_result_meta(*args, **kwargs)
        if 'args' in meta:  # result_extended
            meta['args'] = describe_args(meta['args'])
        return meta

    def _put_result(
            self, task_id: str, meta: dict[str, Any], request: Any, **more: Any) -> bool:
        returned = part_return_of(request) if meta['status'] in states.READY_STATES else None
        label = returned and returned.run.label(returned.part)
        return super()._put_result(task_id, meta, request, chord=label, **more)

    def _state_lifetime(self, state: str | None, request: Any = None) -> int | None:
        lifetime = super()._state_lifetime(state, request)
        if lifetime is None or not getattr(request, 'chord', None):
            return lifetime
        # the join must still find it: set here, it costs no write of its own
        return None if self._chord_lifetime is None else max(lifetime, self._chord_lifetime)

    def _meta_of(self, task_id: str, stored: StoredValue) -> dict[str, Any]:
        meta = super()._meta_of(task_id, stored)
        label = stored.later or stored.chord
        # Celery 5.7 drops a redelivery whose task has succeeded: STARTED until it is counted.  The
        # errbacks of the chord that this thread joins see what the parts returned.
        if meta['status'] != states.SUCCESS or not label or is_joining.get():
            return meta
        try:
            with refused_if_odd(f'the counters of its chord, {label!r:.200}'):
                done = ChordStore(self.store.table).is_done(label, task_id)
        except UnreadableValue as exc:
            return super()._meta_of(task_id, stored._replace(error=exc))
        if not done:
            return {**PENDING_META, 'status': states.STARTED, 'task_id': task_id}
        return meta

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Counts a part of a chord, and joins the chord if it was the last."""
        if not request.group or not request.id or getattr(request, 'subtask_type', None):
            return  # a group or a chord that follows a failed task: mark_as_failure() counts it
        body = maybe_signature(_without_run_option(request.chord), app=self.app)
        returned = part_return_of(request) or self._without_run_option(request)
        lease = Lease(self.store.table, returned.run, new_owner(request.id))
        join = Join(self, body, lease, request.group)
        try:
            join.root = self._count(returned, lease.owner, state, result, delivery_of(request))
            if join.root is None:
                return
        except MiscountedChord as exc:
            join.error = exc
        self._join(join)

    def _without_run_option(self, request: Any) -> PartReturn:
        run = dataclasses.replace(
            self._new_run(request.group), id=f'{self.pointer_id(request.group)}.unknown')
        return PartReturn(run, Part(0, False, request.id), problem=NO_RUN_OPTION)

    def _count(
            self, returned: PartReturn, owner: bytes, state: str, result: Any,
            delivery: Delivery) -> Node | None:
        """The root, if the chord is complete with this part.  Raises MiscountedChord."""
        if returned.problem:
            raise MiscountedChord(returned.problem)
        counter = PartCounter(self.store.table, returned.run, returned.part, owner)
        entry = self._entry(returned, state, result, delivery.stored)
        try:
            return self.retried(counter.count, entry)
        except SoftTimeLimitExceeded:  # it comes once; a task that has returned must be counted
            return self.retried(counter.count, entry)

    def _entry(
            self, returned: PartReturn, state: str, result: Any,
            stored: tuple[str, bool] | None) -> Entry:
        """What is counted for a part; copies its value if it is not under the task's key.

        stored: what this delivery stored there, if it did.
        """
        run, part = returned.run, returned.part
        set_name = 'members' if state == states.SUCCESS else 'failed'
        encoded = self.encode_result(result, state)
        if stored != (state, True):
            if stored == (state, False):  # the state of this task, too, says whether it is counted
                self.store.table.update(
                    self.item_id(part.task_id), 'SET #later = :later', {'later': run.label(part)},
                    condition='attribute_exists(#id)')
            set_name = self._copy_for_run(run, part, state, encoded)
        size = 0
        if set_name != 'failed' and self.options.chord_inline_limit:
            size = len(ensure_bytes(self._encode(encoded)[-1])) + 2  # and what separates it
        member = member_of(part)
        added = tuple(
            edge(member, member_of(Part(part.group_index, True, id))) for id in returned.adds)
        return Entry(member, set_name, size, added, run.size)

    def _copy_for_run(self, run: Run, part: Part, state: str, encoded: Any) -> str:
        """Copies a value to a key of the run; returns the name of the part's set."""
        id, meta = run.copy_id(part), {'task_id': part.task_id, 'status': state, 'result': encoded}
        try:
            check_id(id, MiscountedChord)
            payload = self.checked(id, self.encode(meta))
            self.retried(self.store.put, id, payload, state, run.lifetime or COPY_TTL,
                         keep=states.SUCCESS)
            return 'copied' if state == states.SUCCESS else 'failed'
        except (MiscountedChord, BackendStoreError) as exc:
            if state == states.SUCCESS and isinstance(exc, BackendStoreError):
                raise  # and the worker fails the task
            logger.error('Task %s: its result was not copied for its chord: %s', part.task_id, exc)
            return 'failed'

    # --- joining ----------------------------------------------------------------------------------

    def _join(self, join: Join) -> None:
        """Runs a join.  Once it may have published, no error reaches Celery.

        Celery would fail the task, and count it again as another delivery, which would publish
        again.  In a task a join is executed twice at most, and then left to a thread:

            error                         before publishing              while and after it
            soft time limit               repeat                         repeat
            WouldBlock                    thread                         thread
            any other Exception           raise                          repeat
            SystemExit, KeyboardInterrupt raise                          raise
            gevent's, eventlet's limits   raise                          thread, and raise
        """
        in_task = get_current_task() is not None
        for sleep in (time.sleep, time.sleep) if in_task else (no_sleep,):
            try:
                join.execute(sleep)
                return
            except SoftTimeLimitExceeded:
                # It comes once.  A task that left its wait to a thread would be acknowledged, and
                # the chord be lost with this process.
                continue
            except WouldBlock:
                break
            except Exception as exc:
                if join.stage < Stage.PUBLISHING:
                    raise
                logger.warning('Chord %s: retrying the join: %s', join.group_id, summary(exc))
            except (KeyboardInterrupt, SystemExit):  # the process ends: nothing may delay that
                raise
            except BaseException:
                if join.stage >= Stage.PUBLISHING:
                    self._join_in_thread(join, in_task)
                raise
        self._join_in_thread(join, in_task)

    def _join_in_thread(self, join: Join, in_task: bool) -> None:
        """Runs a join in a thread, which may wait; a task waits itself if there is none."""
        def execute() -> None:
            try:
                join.execute(time.sleep)
            except Exception:
                logger.exception('Chord %s was not joined here', join.group_id)

        thread = start_thread(execute, name='dyna-veggie-join')
        if thread is not None:
            _joining[thread] = join.group_id
        elif in_task:
            execute()
        else:
            logger.error('Chord %s was not joined here: no thread can be started', join.group_id)

    def redeem(self, claim_check: ClaimCheck) -> list[Any]:
        """The values that a claim check stands for.  Raises ChordError if they have expired."""
        run = Run(claim_check.run_id, single_leaf=claim_check.has_structure)
        return HeaderValues(self, run).redeem(claim_check)

    def retried(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Calls a function; until it succeeds, with result_backend_always_retry."""
        retries = self.max_retries if self.always_retry else 0
        backoff = Backoff(self.base_sleep_between_retries_ms / 1000,
                          self.max_sleep_between_retries_ms / 1000, math.inf, retries)
        for _ in backoff.attempts():
            try:
                return function(*args, **kwargs)
            except Exception as exc:
                if not self.exception_safe_to_retry(exc):
                    raise
                error = exc
        raise error


# --------------------------------------------------------------------------------------------------
# Backend
# --------------------------------------------------------------------------------------------------
#
# The backend that Celery makes: from a URL, a table's name and Celery's settings.
#
#   pickling    A pickle may be stored and sent, so it has the URL without the secret key.  The
#               process that unpickles it takes the key from result_backend of one of its apps.

class DynamoDBBackend(ChordBackend):
    """Celery result backend that keeps results in DynamoDB.

    url: ``dynamodb://access_key:secret_key@region:port/table?option=value``; see Options.
    table_name: the table, if the URL has none.  Raises ImproperlyConfigured for an option that is
    malformed, unknown in the URL, or close to one of ours in the transport options.

    Methods retry for up to ``retry_timeout`` seconds, then raise botocore's ClientError or
    BotoCoreError; they raise ImproperlyConfigured if a person has to act (credentials, permissions,
    a table that is missing or has another key), and ResultTooLarge for what they do not store.
    """

    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True

    def __init__(
            self, url: str | None = None, table_name: str | None = None, *args: Any,
            **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        conf = self.app.conf
        self.url: str | None = url
        self.table_name: str | None = table_name
        self.options: Options = parse_options(url, conf, table_name)
        if self.options.region is None or self.options.profile:
            open_session(self.options)  # raises for a region or a profile that cannot be found
        name = 'result_expires' if kwargs.get('expires') is None else 'expires'
        lifetime = parse_setting(name, self.expires, parse_result_expires)
        if name == 'result_expires' and self.options.ttl_seconds is not None:
            lifetime = self.options.ttl_seconds
        self.expires: int | None = whole_lifetime(lifetime)
        self.failure_expires, self._chord_lifetime = (
            whole_lifetime(self.expires if lifetime is None else lifetime)
            for lifetime in (parse_setting(name, conf.get(name), parse_result_expires)
                             for name in ('result_failure_expires', 'result_chord_expires')))
        name = 'result_chord_join_timeout'
        self.join_timeout: float = parse_setting(name, conf.get(name), parse_seconds) or 0
        give_result_classes(self.app)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return _Unpickled, (type(self), args, {
            'url': mask_secret(self.url) if self.url else None, 'table_name': self.table_name,
            'expires': self.expires or 0, 'serializer': self.serializer, **(kwargs or {})})

    def __deepcopy__(self, memo: Any = None) -> Any:
        cls, args, kwargs = self.__reduce__()[1]
        return cls(*args, app=self.app, **{**kwargs, 'url': self.url})

    __copy__ = __deepcopy__

    def as_uri(self, include_password: bool = False) -> str:
        url = self.url or 'dynamodb://'
        return url if include_password else mask_secret(url)


@worker_init.connect
@worker_before_create_process.connect  # the module may have been imported between the two
def _before_forks(**_: Any) -> None:
    app = get_current_app()
    with contextlib.suppress(Exception):  # who uses the backend raises it
        cls, _url = by_url(app.backend_cls or app.conf.result_backend, app.loader)
        if issubclass(cls, DynamoDBBackend):
            _prepare_forks(app.backend.options)


@functools.cache
def _prepare_forks(options: Options) -> None:
    """Lets the children of a worker's main process share memory with it."""
    preload(options)
    # a child's garbage collector writes to each object that is not frozen, and so copies its page
    gc.collect()
    gc.freeze()


def _configured_urls() -> Iterator[tuple[Any, Any]]:
    """The apps of this process, the current one first, each with its ``result_backend``."""
    for app in dict.fromkeys([get_current_app(), *_get_active_apps()]):
        with contextlib.suppress(Exception):  # an app whose settings do not load
            yield app, app.conf.result_backend


class _Unpickled(DynamoDBBackend):
    """A backend that was unpickled; its first use turns it into one of the class that was pickled.

    Not before, because a child process may unpickle its arguments before it imports its app.
    """

    def __init__(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pickled = cls, args, kwargs
        # a set is unpickled as one of the current app, and Celery's would ask that app's backend
        give_result_classes(get_current_app())

    def __reduce__(self, *_: Any) -> Any:
        return _Unpickled, self._pickled  # as a process does that passes it on

    __copy__ = __deepcopy__ = None  # type: ignore[assignment]  # copied by __reduce__()

    # Celery calls these while it unpickles a set, and when it drops a result

    def add_pending_result(self, result: Any, weak: bool = False, *_: Any) -> Any:
        return result

    def remove_pending_result(self, result: Any, *_: Any) -> Any:
        return result

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith('__') and name not in ('_pickled', *_Unpickled.__dict__):
            _Unpickled._make(self)  # not self._make(): another thread may have changed the class
        return object.__getattribute__(self, name)

    def _make(self) -> None:
        """Becomes the backend of the app of this process that has the same URL.

        Without such an app, of the current one.  Raises ImproperlyConfigured.
        """
        cls, args, kwargs = self._pickled
        app, url = get_current_app(), kwargs['url']
        if url:
            owner, url = unmask_secret(url, _configured_urls())
            app = owner or app
        made = cls(*args, app=app, **{**kwargs, 'url': url})
        for name, value in vars(made).items():  # another thread may do the same: the first stays
            self.__dict__.setdefault(name, value)
        self.__class__ = cls


# --------------------------------------------------------------------------------------------------
# Operations
# --------------------------------------------------------------------------------------------------
#
# What an operator does with a table: plain functions, of which the commands are made.
#
#   check     Each action of a worker is tried on an item of its own.
#   scan      A parallel Scan of the whole table: threads of Pages read the segments, one of them
#             at a time hands over what it has read.
#   purge     deletes what time to live would, and orphans: chunks that no item counts.  Each delete
#             has the condition that the item is still one of these.
#   rows      Tasks and chords as JSON objects, each with a fixed set of keys, and as lines of text.
#   retry     Before a task is sent again its item is marked, on the condition that it is still the
#             one that was read: retried N (when), retried_as S (the id that is sent) and retried_by
#             B (which run of the command).

INSERT = 'PartiQLInsert'  # the one action that a worker can do without


def _insert(table: Table, item: Item) -> None:
    if not table.insert_many([item]):
        raise DeniedAction('not done: each result is stored by a request of its own')


#: a worker's actions, in the order in which to try them on a new item, which the last one deletes
WORKER_ACTIONS: dict[str, Callable[[Table, Item], Any]] = {
    'GetItem': lambda table, item: table.get(item['id']),
    INSERT: _insert,
    'PutItem': lambda table, item: table.put(item),
    'UpdateItem': lambda table, item: table.update(item['id'], 'SET #ttl = :ttl', item),
    'BatchGetItem': lambda table, item: table.get_many([item['id'], item['id'] + '-2']),
    'BatchWriteItem': lambda table, item: table.write_many(puts=[item]),
    'DeleteItem': lambda table, item: table.delete(item['id']),
}

_TIMEOUT = 2.0  # seconds: short, because a person waits
_ATTEMPT_TIMEOUT = 6.0  # seconds; a patient command takes ten times that


def operators_table(options: Options, patient: bool = False) -> Table:
    """A table that requests do not create.  Unless patient, they fail within ten seconds."""
    limits: dict[str, Any] = {} if patient else {
        'retry_timeout': _TIMEOUT, 'connect_timeout': min(_TIMEOUT, options.connect_timeout),
        'read_timeout': min(2 * _TIMEOUT, options.read_timeout)}
    return Table(
        dataclasses.replace(options, create_table=False, ttl_seconds=None, **limits),
        attempt_timeout=_ATTEMPT_TIMEOUT * (10 if patient else 1))


def ping(table: Table) -> str:
    """The name of a table that responds, if only to deny this action: others may be allowed."""
    with contextlib.suppress(DeniedAction):
        table.get('dyna-veggie-check')
    return table.name


def describe(table: Table) -> dict[str, Any]:
    """A summary of DescribeTable.

    Raises ImproperlyConfigured for a table that has another key, or cannot be used.
    """
    description = table.request('describe_table')['Table']
    table.check(description)
    billing = description.get('BillingModeSummary', {}).get('BillingMode', 'PROVISIONED')
    provisioned = description.get('ProvisionedThroughput', {}) if billing == 'PROVISIONED' else {}
    return {'status': description['TableStatus'], 'key': key_schema_of(description),
            'items': description['ItemCount'], 'bytes': description['TableSizeBytes'],
            'billing_mode': billing, 'read_units': provisioned.get('ReadCapacityUnits'),
            'write_units': provisioned.get('WriteCapacityUnits')}


def capacity(table: Table, app: Any) -> str:
    """The table's write capacity.  Raises ImproperlyConfigured if one worker can exceed it."""
    units = describe(table)['write_units']
    if units is None:
        return 'on demand'
    writes = 2 + bool(app.conf.task_track_started)  # a result, and its count in a chord
    pool = app.conf.worker_concurrency or os.cpu_count() or 1
    text = f'{units:,} write units a second'
    if units >= pool * writes:
        return text
    raise ImproperlyConfigured(
        f'{text}: a worker that runs {pool} tasks at once, each for a second, needs '
        f'{pool * writes:,}; raise them, turn on auto scaling, or make the table on-demand')


def time_to_live(table: Table) -> str:
    """The state of time to live.  Raises ImproperlyConfigured if it deletes nothing of ours."""
    found = table.request('describe_time_to_live')['TimeToLiveDescription']
    status = found.get('TimeToLiveStatus', 'DISABLED')
    attribute = found.get('AttributeName', 'no attribute')
    text, stay = f'{status}, on {attribute}', 'expired items stay until a purge'
    if status not in ('ENABLED', 'ENABLING'):
        raise ImproperlyConfigured(f'{text}: {stay}; create-table turns it on')
    if attribute == 'ttl':
        return text
    raise ImproperlyConfigured(
        f'{text}, and a table has one such attribute: {stay}. If nothing else uses it, turn it '
        'off, and an hour later run create-table: '
        f'aws dynamodb update-time-to-live --table-name {table.name} '
        f'--time-to-live-specification Enabled=false,AttributeName={attribute}')


def identity(options: Options) -> str:
    """The ARN of the caller, which AWS tells without a permission."""
    from botocore.config import Config
    config = Config(
        retries={'total_max_attempts': 1}, connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT)
    client = create_client(
        open_session(options), 'sts', region_name=options.region, **given_keys(options),
        config=config)
    with readable():
        url = client.meta.endpoint_url
        return str(within(_ATTEMPT_TIMEOUT, client.get_caller_identity, url)['Arn'])


def find_credentials(options: Options) -> tuple[str, Any]:
    """Where the credentials come from, in botocore's words, and the keys if it found them.

    Raises what a request would.
    """
    def find() -> tuple[str, Any]:
        session = open_session(options)
        source = credentials_source(options, session)
        if source is None:
            raise ImproperlyConfigured('none were found')
        return source, None if source in (FROM_URL, NOT_NEEDED) else read_keys(session)
    call = Call(find)
    if call.wait(_ATTEMPT_TIMEOUT):
        found: tuple[str, Any] = call.result()
        return found
    raise ImproperlyConfigured(f'none were found within {_ATTEMPT_TIMEOUT:g} seconds')


def region_of(table: Table) -> str:
    """The region of the requests.  Raises ImproperlyConfigured for one that botocore lacks."""
    region: str = table.client.botocore.meta.region_name
    session = open_session(table.options)
    known = {name for partition in session.get_available_partitions()
             for name in session.get_available_regions('dynamodb', partition)}
    if region in known or table.options.endpoint_url:
        return region
    near = difflib.get_close_matches(region, known, 1)
    raise ImproperlyConfigured(
        f'{region}: botocore knows no such region' + (f'; did you mean {near[0]}?' if near else ''))


def explain(exc: BaseException) -> str:
    """An error, and why there is no connection, of which botocore says only that."""
    cause: Any = getattr(exc, 'kwargs', {}).get('error')
    while isinstance(cause, BaseException):
        if isinstance(cause, OSError) and cause.strerror and cause.strerror not in str(exc):
            return f'{exc}: {cause.strerror}'
        cause = cause.__cause__ or cause.__context__
    return str(exc)


def _arn_of(table: Table) -> str:
    """The table's ARN, with ``*`` for what is unknown."""
    if TABLE_ARN.fullmatch(table.name):
        return table.name
    region = table.client.botocore.meta.region_name
    partition = account = '*'
    with contextlib.suppress(UnknownRegionError):  # a region can be newer than botocore
        partition = open_session(table.options).get_partition_for_region(region)
    with contextlib.suppress(*FAILURES):
        _, keys = find_credentials(table.options)
        account = getattr(keys, 'account_id', None) or '*'  # botocore knows it since 1.36
    return f'arn:{partition}:dynamodb:{region}:{account}:table/{table.name}'


#: whom a table's resource policy can name: https://docs.aws.amazon.com/IAM/latest/UserGuide/
#: reference_policies_elements_principal.html
PRINCIPAL = re.compile(
    'arn:aws[a-z-]*:(iam::[0-9]{12}:(root|(user|role)/[!-~]+)'
    '|sts::[0-9]{12}:(assumed-role|federated-user)/[!-~]+)')


def least_policy(table: Table, bootstrap: bool, principal: str | None = None) -> dict[str, Any]:
    """The least IAM policy of a worker, or the table's resource policy for a principal.

    bootstrap: the worker also creates the table.
    """
    # another account names the table by its ARN
    inserts = table.may_insert and not principal
    actions = [action for action in WORKER_ACTIONS if action != INSERT or inserts]
    if bootstrap:
        actions += ['CreateTable', 'DescribeTable']
    if bootstrap or (table.options.ttl_seconds or 0) > 0:
        actions += ['DescribeTimeToLive', 'UpdateTimeToLive']
    if bootstrap and table.options.tags:
        actions += ['TagResource']
    who = {'Principal': {'AWS': principal}} if principal else {}
    return {'Version': '2012-10-17', 'Statement': [{
        'Effect': 'Allow', **who, 'Action': [f'dynamodb:{action}' for action in actions],
        'Resource': _arn_of(table)}]}


def scan(
        table: Table, segments: int, take: Callable[[list[Item]], Any],
        params: Callable[[], Mapping[str, Any]] = dict,
        advance: Callable[[int], Any] = int) -> None:
    """Reads the whole table, in segments that are read concurrently.

    take: gets the items of each page, in one thread at a time.  params: gives those of the next
    request, such as a filter.  advance: gets how many items were read for each page.
    """
    taking = threading.Lock()

    def read(page: list[str], budget: Budget) -> list[str]:
        segment, = map(int, page)
        start: dict[str, Any] = {}
        while True:
            response = table.request(
                'scan', budget, Segment=segment, TotalSegments=segments, **start, **params())
            with taking:
                budget.sleep(0)  # raises if another segment failed
                advance(response['ScannedCount'])
                take(list(map(unmarshal_item, response['Items'])))
            if 'LastEvaluatedKey' not in response:
                return []
            start = {'ExclusiveStartKey': response['LastEvaluatedKey']}

    Pages(map(str, range(segments)), 1, read, table.client.backoff).send_all(segments)


def id_prefixes(*prefixes: Any) -> tuple[str, ...]:
    """How ids begin if keys begin so, in our form and in those of Celery's own backend."""
    found: list[str] = []
    for prefix in prefixes:
        shown = repr(ensure_bytes(prefix))[2:-1]
        # the quotes of shown bytes depend on the apostrophes
        found += [bytes_to_str(prefix), f"b'{shown}", f'b"{shown}']
    return tuple(found)


def _begins_with(prefixes: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The condition that an id begins with one of the prefixes, and its values."""
    values = {f'prefix{number}': prefix for number, prefix in enumerate(prefixes)}
    return ' OR '.join(f'begins_with(#id, :{name})' for name in values), values


_ORPHAN_AGE = 3600  # seconds: an unreferenced chunk this old is not part of a write in progress
_CHUNK_ATTRIBUTES = {'id', 'result', 'timestamp'}  # of one that never expires


def purge(
        table: Table, segments: int, prefixes: Iterable[str], dry_run: bool,
        advance: Callable[[int], Any]) -> Counter[str]:
    """Deletes the expired items and the orphans of the whole table, and counts them.

    prefixes: how the ids of our chunks begin.  advance: gets how many items were read.
    """
    ours, values = _begins_with(prefixes)
    now = int(time.time())
    values.update({'now': now, 'oldest': now - 5 * 365 * 86400, 'old': now - _ORPHAN_AGE,
                   'binary': 'B', 'slash': '/'})
    condition = (  # time to live ignores times that passed more than five years ago
        '#ttl BETWEEN :oldest AND :now OR (attribute_not_exists(#ttl) '
        'AND attribute_not_exists(#status) AND attribute_type(#result, :binary) '
        f'AND #timestamp < :old AND contains(#id, :slash) AND ({ours}))')
    params = expressions(values, ProjectionExpression='#id, #ttl', FilterExpression=condition)
    counts: Counter[str] = Counter()

    def take(items: list[Item]) -> None:
        expired = [item['id'] for item in items if is_expired(item)]
        others = [item['id'] for item in items if not is_expired(item)]
        for name, ids in (('expired', expired), ('orphans', _orphans_among(table, others))):
            counts[name] += len(ids)
            if not dry_run:
                # each that is still one of these
                counts[f'{name}_deleted'] += _delete_if(condition, values, table, ids)

    scan(table, segments, take, lambda: params, advance)
    return counts


def _orphans_among(table: Table, ids: list[str]) -> list[str]:
    owners = {id: owner for id in ids if (owner := chunk_owner(id))}
    items = table.get_many(owners.values())
    # an item with more attributes than a chunk has is another's: its id proves nothing
    found = table.get_many(
        id for id, owner in owners.items() if id not in chunk_ids(items.get(owner)))
    return [id for id, item in found.items() if item.keys() == _CHUNK_ATTRIBUTES]


def _delete_if(
        condition: str, values: Mapping[str, Any], table: Table, ids: Iterable[str]) -> int:
    """Deletes those items that fulfil a condition; returns how many."""
    deleted: list[str] = []
    params = {'TableName': table.name, **expressions(values, ConditionExpression=condition)}

    def delete(page: list[str], budget: Budget) -> list[str]:
        id, = page
        if table.client.send('delete_item', {**params, 'Key': marshal_item({'id': id})}, budget,
                             unless='ConditionalCheckFailedException'):
            deleted.append(id)
        return []

    Pages(ids, 1, delete, table.client.backoff).send_all(table.overlapped)
    return len(deleted)


def seconds_of(moment: Any) -> float:
    """Seconds of the epoch for a time in ISO 8601, in UTC by default.

    Raises ValueError or TypeError.
    """
    parsed = maybe_iso8601(moment)
    if not isinstance(parsed, datetime):
        raise ValueError(moment)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()


def to_iso(moment: Any) -> str | None:
    """Seconds of the epoch, or Celery's date_done, as ISO 8601 in UTC; None for anything else."""
    try:
        # Celery's has the offset of the app's timezone; before 5.4 it has none
        seconds = moment if isinstance(moment, (int, float)) else seconds_of(moment)
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec='milliseconds')
    except (ValueError, TypeError, AttributeError, OverflowError, OSError):
        return None  # such as milliseconds: the year is 55,000


# bytes as Python shows them
_SHOWN_BYTES = re.compile(r"""b(['"])(?:[ -\[\]-~]|\\x[0-9a-f]{2}|\\[\\'tnr])*\1""")


def key_of_id(id: str) -> str:
    """Celery's key for an item's id, in our form or in that of Celery's own backend."""
    if not _SHOWN_BYTES.fullmatch(id):
        return id
    try:
        key: bytes = ast.literal_eval(id)
        return key.decode() if str(key) == id else id
    except (SyntaxError, ValueError):  # two literals, or no UTF-8
        return id


def _after_prefix(prefix: Any, id: str) -> str | None:
    """What follows a prefix in the key for an item's id; None if it begins otherwise."""
    start, key = bytes_to_str(prefix), key_of_id(id)
    return key[len(start):] if key.startswith(start) else None


def task_id_of(backend: DynamoDBBackend, id: str) -> str | None:
    """The task whose result an item is; None for other items."""
    return None if chunk_owner(id) else _after_prefix(backend.task_keyprefix, id)


Row = dict[str, Any]  # what a command prints of a task or a chord, as one JSON object


def _start_of(item: Item) -> tuple[float | None, float | None]:
    """When the task of a result started, and how long it took until that was stored."""
    stored, duration = item.get('timestamp'), item.get('duration')
    if not (isinstance(stored, (int, float)) and isinstance(duration, (int, float))):
        return None, None
    return stored - duration, duration


def _error_text(error: BaseException) -> str:
    """An error on one line, its class first."""
    name, text = type(error).__name__, ' '.join(safe_repr(error).split())  # its repr may raise
    return text if text.startswith(name) else f'{name}: {text}'  # such as Celery's NotRegistered


def task_row(id: str, item: Item, meta: Mapping[str, Any], value: bytes = b'') -> Row:
    """What is stored of a task, without its result."""
    chunks, result, state = len(chunk_ids(item)), meta.get('result'), meta.get('status')
    if isinstance(result, BackendGetMetaError) and isinstance(item.get('status'), str):
        state = item['status']  # the task did not fail because its value cannot be read here
    error = _error_text(result)[:200] if isinstance(result, BaseException) else None
    texts = {name: text if isinstance(text := meta.get(name), str) else None
             for name in ('name', 'worker', 'queue', 'parent_id', 'group_id')}
    began, duration = _start_of(item)
    ended = str(state) in {*states.READY_STATES, states.RETRY}  # else it goes on
    row = {
        'id': id, 'kind': 'task', 'state': state, 'error': error,
        'name': texts['name'], 'args': meta.get('args'), 'kwargs': meta.get('kwargs'),
        'worker': texts['worker'], 'queue': texts['queue'], 'retries': meta.get('retries'),
        'parent': texts['parent_id'], 'group': texts['group_id'],
        'started': to_iso(began), 'stored': to_iso(item.get('timestamp')),
        'done': to_iso(meta.get('date_done')), 'duration': duration if ended else None,
        'expires': to_iso(item.get('ttl')), 'size': item['size'] if chunks else len(value),
        'chunks': chunks}
    if state == states.STARTED and isinstance(result, dict):  # of task_track_started
        row['worker'] = row['worker'] or result.get('hostname')
    return row


def read_metas(
        backend: DynamoDBBackend, store: BlobStore, items: Mapping[str, Item],
        consistent: bool = False) -> Iterator[tuple[str, Item, Mapping[str, Any], bytes]]:
    """What the values of tasks say, by id; reads those that items do not hold."""
    stored = {item['id']: StoredValue(item['result'], (item['id'],)) for item in items.values()
              if isinstance(item.get('result'), bytes)}
    ids = [item['id'] for item in items.values() if item['id'] not in stored]
    stored.update(store.get_many(ids, consistent=consistent, patient=False))
    for task_id, item in items.items():
        if item['id'] in stored:  # else it was deleted, or replaced each time that it was read
            value = stored[item['id']]
            yield task_id, item, backend.decode_stored(task_id, value).value, value.value


def read_rows(
        backend: DynamoDBBackend, store: BlobStore, items: Mapping[str, Item]) -> Iterator[Row]:
    """The rows of tasks, by id, with what their values say."""
    return itertools.starmap(task_row, read_metas(backend, store, items))


def describe_task(backend: DynamoDBBackend, store: BlobStore, id: str) -> Row:
    """What is stored of a task, with its result."""
    key = backend.get_key_for_task(id)
    forms = (bytes_to_str(key), str(ensure_bytes(key)))
    found = store.table.get_many(form for form in forms if not is_too_long(form))
    item = found.get(backend.item_id(id)) or next(iter(found.values()), {})
    stored = store.get(item['id']) if item else None
    if stored is None:
        stored, item = StoredValue(b'', ()), {'ttl': item.get('ttl')}
    meta = backend.decode_stored(id, stored).value
    children = [result_from_tuple(each, backend.app).id for each in meta.get('children') or ()]
    return {**task_row(id, item, meta, stored.value),
            'result': meta.get('result'), 'traceback': meta.get('traceback'),
            'children': children if stored.ids else None, 'stored_as': item.get('id')}


def read_group(
        backend: DynamoDBBackend, store: BlobStore, id: str) -> tuple[list[str] | None, str | None]:
    """The ids of a saved group's results, or why they cannot be read."""
    item_id = backend.key_id(backend.get_key_for_group(id))
    stored = None if is_too_long(item_id) else store.get(item_id)
    if stored is None:
        return None, None
    try:
        group = result_from_tuple(backend.decode(stored.read())['result'], backend.app)
        ids = [each.id for each in group.results]
        ', '.join(ids)  # raises for what are no ids
        return ids, None
    except Exception as exc:
        return None, f'the saved group cannot be read: {type(exc).__name__}: {exc}'


def group_of_run(backend: DynamoDBBackend, run_id: str) -> str | None:
    """The id of a chord's group."""
    return _after_prefix(backend.chord_keyprefix, Run(run_id).pointer_id)


CHORD_KEYS = ('id', 'kind', 'state', 'counted', 'failed', 'expected', 'error', 'first_failed',
              'first_missing', 'opened', 'last_counted')
_SHARED_KEYS = ('id', 'kind', 'state', 'error')  # of tasks and chords


def chord_row(backend: DynamoDBBackend, table: Table, known_as: str, id: str) -> Row | None:
    """How far a run of a chord is, or why that cannot be read; None if there is none.

    known_as: the id that a person gave.  id: of the run, or of the pointer to the newest.
    """
    return _read_chord(backend, table, known_as, id)[0]


def describe_chord(backend: DynamoDBBackend, store: BlobStore, id: str) -> Row | None:
    """How far a chord is, with what is known of the parts that it waits for."""
    row, report = _read_chord(backend, store.table, id, backend.pointer_id(id))
    if row is not None:
        waits = report is not None and not report.progress.closed
        row['missing'] = list(_missing_rows(backend, store, report)) if report and waits else []
    return row


def _read_chord(
        backend: DynamoDBBackend, table: Table, known_as: str, id: str,
) -> tuple[Row | None, Report | None]:
    row: Row = {**dict.fromkeys(CHORD_KEYS), 'id': known_as, 'kind': 'chord', 'first_failed': [],
                'first_missing': []}
    try:
        with refused_if_odd('its counters'):
            report = ChordStore(table).report(id)
    except UnreadableValue as exc:
        return {**row, 'error': str(exc)}, None
    if report is None:
        return None, None
    far, places = report.progress, report.missing
    # those of a range are as far from their position in the list as its first
    ranges = [[group[0], group[-1]] for _, each in itertools.groupby(
        enumerate(places), lambda pair: pair[1] - pair[0]) if (group := [at for _, at in each])]
    return {**row, 'id': group_of_run(backend, report.run.id) or known_as,
            'state': 'CLOSED' if far.closed else 'RUNNING', 'counted': far.counted,
            'failed': far.failed, 'expected': far.expected,
            'first_failed': [part.task_id for part in report.failed[:10]],
            'first_missing': ranges[:10], 'opened': to_iso(report.opened),
            'last_counted': to_iso(report.last_counted)}, report


def _missing_parts(backend: DynamoDBBackend, store: BlobStore, report: Report) -> list[Part]:
    """The parts that a run waits for, as far as it has their ids."""
    expected: set[bytes] = set()
    for leaf in report.leaves:
        expected |= leaf.expected_members | leaf.item.get('pending', frozenset())
    stored = store.get(report.run.header_id) if report.run.has_structure else None
    if stored is not None:
        header = result_from_tuple(backend.decode(stored.read())['result'], backend.app)
        expected |= {member_of(Part(0, False, leaf.id)) for leaf in leaf_results(header)}
    return sorted(map(part_of, expected.difference(*(leaf.counted for leaf in report.leaves))))


def _missing_rows(backend: DynamoDBBackend, store: BlobStore, report: Report) -> Iterator[Row]:
    """What is stored of the first parts that a run waits for, by one request."""
    try:
        parts = _missing_parts(backend, store, report)[:GET_BATCH]
    except Exception:  # of the serializer, or an odd item: then no id is known
        parts = []
    items = store.table.get_many(dict.fromkeys(backend.item_id(part.task_id) for part in parts))
    found = {part.task_id: item for part in parts
             if (item := items.get(backend.item_id(part.task_id))) and not is_expired(item)}
    rows = {row['id']: row for row in read_rows(backend, store, found)}
    for part in parts:
        row = rows.get(part.task_id) or {}
        labels = [found[part.task_id].get(name) for name in ('chord', 'later')] if row else []
        # the result of an earlier run, with the same ids, says nothing of this one
        if str(row.get('state')) in states.READY_STATES and report.run.label(part) not in labels:
            row = {}
        has_place = not (part.added or report.run.single_leaf)
        yield {'id': part.task_id, 'place': part.group_index if has_place else None,
               **{name: row.get(name) for name in ('state', 'worker', 'started', 'stored')}}


class TaskFilter(NamedTuple):
    """Which tasks to list; times are seconds of the epoch.

    states: a state as it was given, and as Celery writes its own; or none.  name: with wildcards.
    start: of the id.
    """

    states: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    name: str | None = None
    group: str | None = None
    start: str = ''

    @property
    def has_chords(self) -> bool:
        """Whether running chords fit, which have no time and no name."""
        rest = {self.since, self.until, self.name, self.group}
        return rest == {None} and (not self.states or 'RUNNING' in self.states)

    def fits(self, row: Row) -> bool:
        """Whether to list a task, by what its value says."""
        return ((not self.states or row['state'] in self.states)
                and self.group in (None, row['group'])
                and (self.name is None or fnmatch.fnmatchcase(str(row['name'] or ''), self.name)))


def _moment_of(task: tuple[Row, Any]) -> tuple[str, str]:
    return task[0]['stored'] or '', task[0]['id']


class Listing:
    """The running chords of a table, and its newest tasks.

    limit: of both, 0 for all.  show: gets rows, without a limit as they are read.
    """

    def __init__(
            self, backend: DynamoDBBackend, table: Table, wanted: TaskFilter, limit: int,
            show: Callable[[list[Row]], None]) -> None:
        self._backend, self._table, self._store = backend, table, BlobStore(table)
        self._wanted, self._limit, self._show = wanted, limit, show
        chords = [backend.chord_keyprefix] if wanted.has_chords else []
        self._prefixes = id_prefixes(*(
            bytes_to_str(prefix) + wanted.start for prefix in (backend.task_keyprefix, *chords)))
        self._runs: dict[str, str] = {}  # the ids of runs that are not closed, with their groups'
        self._newest: list[tuple[Row, Item | None]] = []  # rows; items whose values are not read
        self.count = 0  # of what fits
        self.printed = 0
        self.shown: list[Row] = []  # without a limit, only the last
        self._whole = not limit or (wanted.name, wanted.group) != (None, None)  # reads each value
        # The states of Celery's own items are in their values.  A scan reads these at no further
        # cost, but responses get longer, so it goes on only where it finds such items.
        self._with_values = True

    def scan(self, segments: int, advance: Callable[[int], Any]) -> None:
        """Reads the table; without a limit, shows the tasks."""
        scan(self._table, segments, self._take, self._params, advance)

    def _params(self) -> dict[str, Any]:
        """The parameters of the next Scan, which leaves out most of the other items."""
        begins, starts = _begins_with(self._prefixes)
        conditions = [f'({begins})', '(attribute_not_exists(#ttl) OR #ttl > :now)']
        if self._wanted.since is not None:
            conditions.append('#timestamp >= :since')
        if self._wanted.until is not None:
            conditions.append('#timestamp <= :until')
        values = {**starts, 'since': self._wanted.since, 'until': self._wanted.until,
                  'now': int(time.time())}
        if self._wanted.states:  # Celery's own backend writes no status
            values['given'], values['capitals'] = self._wanted.states
            conditions.append('(#status IN (:given, :capitals) OR attribute_not_exists(#status))')
        projection = ('#id, #status, #timestamp, #duration, #ttl, #size, #chunks, #version, #lazy, '
                      '#closed')
        if self._whole or self._with_values:
            projection += ', #result'
        return expressions(
            values, FilterExpression=' AND '.join(conditions), ProjectionExpression=projection)

    def _take(self, items: Iterable[Item]) -> None:
        """Takes a page of the scan."""
        unread: dict[str, Item] = {}
        tasks: list[tuple[Row, Item | None]] = []
        for item in items:
            task_id = task_id_of(self._backend, item['id'])
            if task_id and ('result' in item or 'status' not in item or self._whole):
                unread[task_id] = item
            elif task_id:
                tasks.append((task_row(task_id, item, item), item))
            elif 'lazy' in item and 'closed' not in item:
                group_id = group_of_run(self._backend, item['id'])
                if group_id:
                    self._runs[item['id']] = group_id
        self._with_values = any('status' not in item for item in unread.values())
        tasks += ((row, None) for row in read_rows(self._backend, self._store, unread))
        tasks = [task for task in tasks if self._wanted.fits(task[0])]
        self.count += len(tasks)
        if not self._limit:  # each value is read
            self._print([row for row, _ in tasks])
            return
        self._newest += tasks
        self._newest.sort(key=_moment_of, reverse=True)
        del self._newest[self._limit:]

    def _print(self, rows: list[Row]) -> None:
        if rows:
            self.shown = rows
            self.printed += len(rows)
            self._show(rows)

    def show_rest(self) -> None:
        """Shows the chords, then the newest tasks, with what their values say."""
        limit = self._limit or None
        chords = [row for id, group_id in itertools.islice(self._runs.items(), limit)
                  if (row := chord_row(self._backend, self._table, group_id, id))]
        found = self._newest[:limit and limit - len(chords)]
        unread = {row['id']: item for row, item in found if item}
        read = {row['id']: row for row in read_rows(self._backend, self._store, unread)}
        # since the scan, a chord may have ended, and a task got another state
        running = [row for row in chords if row['state'] != 'CLOSED']
        tasks = [row for old, _ in found if self._wanted.fits(row := read.get(old['id'], old))]
        self.count += len(self._runs) - len(chords) + len(running) - len(found) + len(tasks)
        self._print(running + tasks)


_DEEPEST = 100  # nested values in --json: Python gives up at some hundreds


def to_jsonable(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A value as JSON has it, or as Python shows it.  above: the ids of the values that hold it."""
    nested = isinstance(value, (Mapping, list, tuple))
    if nested and len(above) < _DEEPEST and id(value) not in above:
        above = (*above, id(value))
        if not isinstance(value, Mapping):
            return [to_jsonable(each, above) for each in value]
        return {to_jsonable(key) if isinstance(key, (str, int, type(None))) else safe_repr(key):
                to_jsonable(each, above) for key, each in value.items()}
    if isinstance(value, (str, int, float, type(None))):
        with contextlib.suppress(ValueError):  # not finite, or of more digits than Python shows
            json.dumps(value, allow_nan=False)
            return value
    return safe_repr(value)


_CSV_NAMES = [*task_row('', {}, {}), *(name for name in CHORD_KEYS if name not in _SHARED_KEYS)]
CSV_HEADER: Row = dict(zip(_CSV_NAMES, _CSV_NAMES))


def csv_lines(rows: Iterable[Row]) -> Iterator[str]:
    """A line for each row; of what a row does not have, nothing."""
    for row in rows:
        values = [to_jsonable(row.get(name)) for name in _CSV_NAMES]
        line = io.StringIO()
        csv.writer(line, lineterminator='').writerow(
            json.dumps(value) if isinstance(value, (dict, list)) else value for value in values)
        yield line.getvalue()


def is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()  # None: it was closed before Python began


def screen_width() -> int:
    """Columns of the terminal; without one, as many as COLUMNS says, or no limit."""
    if is_terminal(sys.stdout) or os.environ.get('COLUMNS', '').isdecimal():
        return shutil.get_terminal_size().columns
    return sys.maxsize


def printable(text: str) -> str:
    """A text with escapes for what the terminal does not show, or obeys."""
    encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
    text = text.encode(encoding, 'backslashreplace').decode(encoding)
    return ''.join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _width(text: str) -> int:
    """Columns that a text takes."""
    return sum(0 if unicodedata.combining(letter) else
               2 if unicodedata.east_asian_width(letter) in 'WF' else 1 for letter in text)


def cut(text: str, width: int, tail: bool = False) -> str:
    """The begin of a text that does not fit, or its tail, with a mark."""
    if _width(text) <= width:
        return text
    mark = printable('…')
    while text and _width(text + mark) > width:
        text = text[1:] if tail else text[:-1]
    return mark + text if tail else text + mark


_COLORS = {
    'SUCCESS': 'green', 'FAILURE': 'red', 'RETRY': 'yellow', 'REVOKED': 'yellow',
    'STARTED': 'cyan', 'RUNNING': 'cyan', 'ok': 'green', 'NO': 'red', '--': 'yellow'}


def colored(word: str) -> str:
    """A state, in its color; click drops it where there is no terminal."""
    return click.style(word, fg=_COLORS[word]) if word in _COLORS else word


def labeled(lines: Iterable[tuple[str, str]], indent: int) -> Iterator[str]:
    """Texts behind their labels, which take so many columns; what does not fit is continued."""
    for label, text in lines:
        begin, width = colored(label[:2]) + f'{label:{indent}}'[2:], screen_width() - indent
        for line in text.splitlines() or ['']:
            for part in textwrap.wrap(
                    printable(line.expandtabs()), max(width, 20), replace_whitespace=False,
                    break_on_hyphens=False) or ['']:
                yield (begin + (colored(part) if label == 'state' else part)).rstrip()
                begin = ' ' * indent


def format_time(moment: str | None) -> str:
    """A time as people read it, in UTC."""
    return f'{moment[:19].replace("T", " ")} UTC' if moment else '-'


def format_seconds(seconds: float) -> str:
    """A duration as people read it: at least 2 of a unit, but for seconds."""
    for unit, size in (('d', 86400), ('h', 3600), ('m', 60)):
        if seconds >= 2 * size:
            return f'{seconds // size:.0f}{unit}'
    return f'{seconds:.0f}s' if seconds >= 10 or not seconds % 1 else f'{seconds:.1f}s'


def _age_of(moment: str | None) -> str:
    return format_seconds(max(0, int(time.time() - seconds_of(moment)))) if moment else ''


def _duration_text(seconds: float | None) -> str:
    if seconds is None or seconds >= 1:
        return '' if seconds is None else format_seconds(seconds)
    return f'{1000 * seconds:.0f}ms'


def _first_of(values: list[Any], total: int) -> str:
    shown = values[:10]
    return ', '.join(map(str, shown)) + (', …' if total > len(shown) else '')


def format_show(row: Row) -> Iterator[tuple[str, str]]:
    """The lines of show, with their labels."""
    group, texts = row['results'], [*_texts_of_task(row), *_texts_of_chord(row['chord'])]
    if group is not None:
        texts.append(('group', f'{len(group)} results: {_first_of(group, len(group))}'))
    if not texts:
        expired = row['expires'] and f'expired {format_time(row["expires"])}, not deleted yet'
        texts = [('state', row['state']),
                 ('result', row['error'] or expired or 'nothing is stored')]
    for name, text in texts:
        if text not in (None, []):
            yield name, text if isinstance(text, str) else safe_repr(text)


def _texts_of_task(row: Row) -> list[tuple[str, Any]]:
    if not row['stored_as']:
        return []
    size = f'{row["size"]:,} bytes' + (f' in {row["chunks"]} chunks' if row['chunks'] else '')
    result = safe_repr(row['result'])
    texts = {**row, 'result': result if len(result) <= 500 else f'{result[:500]}…', 'size': size,
             **{name: format_time(row[name]) for name in ('stored', 'done', 'expires')},
             'started': row['started'] and format_time(row['started']),
             'duration': _duration_text(row['duration']) or None}
    names = ('id', 'stored_as', 'state', 'result', 'name', 'args', 'kwargs', 'worker', 'queue',
             'retries', 'parent', 'group', 'children', 'started', 'duration', 'stored', 'done',
             'expires', 'size', 'traceback')
    return [(name, texts[name]) for name in names]


def format_progress(chord: Row) -> str:
    """How far a chord is."""
    failed = f'{chord["failed"]:,} failed, ' if chord['failed'] else ''
    expected = f'{chord["expected"]:,}' if chord['expected'] else '?'
    return f'{failed}{chord["counted"]:,} of {expected} parts counted'


def _texts_of_chord(chord: Row | None) -> Iterator[tuple[str, str]]:
    if not chord:
        return
    if chord['error']:
        yield 'chord', f'cannot be read: {chord["error"]}'
        return
    closed = chord['state'] == 'CLOSED'
    if closed:
        yield 'chord', 'closed: its body was called, or its errbacks'
    if chord['counted'] or not closed:  # the counters of a closed chord expire
        yield 'chord', format_progress(chord)
    for name, label in (('opened', 'opened'), ('last_counted', 'last count')):
        if chord[name]:
            yield label, f'{format_time(chord[name])}, {_age_of(chord[name])} ago'
    if chord['failed']:
        yield 'failed', f'{chord["failed"]}: {", ".join(chord["first_failed"])}'
    if chord['first_missing'] and not closed:
        missing, ranges = chord['expected'] - chord['counted'], chord['first_missing']
        places = [str(first) if first == last else f'{first}-{last}' for first, last in ranges]
        shown = sum(last - first + 1 for first, last in ranges)
        more = ', …' if missing > shown else ''
        yield 'missing', f'{missing:,}: in the header at {", ".join(places)}{more} (from 0)'
    if not closed:
        yield from _texts_of_missing(chord)


def _texts_of_missing(chord: Row) -> Iterator[tuple[str, str]]:
    """What is known of the parts that a chord waits for, and what would be with which setting."""
    missing: list[Row] = chord['missing']
    for row in missing[:10]:
        state, age = row['state'], _age_of(row['stored'])
        if state in (None, states.PENDING):
            text = 'not started' if state is None else f'sent {age} ago, not started'
        elif str(state) in states.READY_STATES:
            text = f'{state} {age} ago, but it was not counted'
        else:
            text = f'{state} {_age_of(row["started"] or row["stored"])} ago'
        text += f', on {row["worker"]}' if row['worker'] else ''
        yield 'part', f'{row["id"]}  {text}'
    if len(missing) > 10:
        yield 'part', f'… (--json has {len(missing)})'
    if any(row['state'] in (None, states.PENDING) for row in missing):
        yield 'unknown', 'whether a part that is not started runs, unless task_track_started is set'
    if chord['expected'] is None or len(missing) < min(
            GET_BATCH, chord['expected'] - chord['counted']):
        yield 'unknown', 'the ids of the other parts: those of a generator are not stored'

class Pace:
    """How fast a chord counts, as the last reads of it show."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=10)  # when, and how many were counted
        self._since = monotonic()
        self._last: float | None = None  # when more were counted than before

    def line(self, chord: Row) -> str:
        """How far a chord is by now; as much of it as fits the screen."""
        now, counted, expected = monotonic(), chord['counted'], chord['expected']
        if self._seen and counted > self._seen[-1][1]:
            self._last = now
        self._seen.append((now, counted))
        began, before = self._seen[0]
        took = now - began
        rate = (counted - before) / took if took else 0
        # what was seen here counts more than the clock of a worker
        last = (format_seconds(int(now - self._last)) if self._last
                else _age_of(chord['last_counted']))
        age, quiet = _age_of(chord['opened']), int(now - self._since)
        texts = [f'{rate:.1f}/s' if rate else None,
                 f'ETA {format_seconds(int((expected - counted) / rate))}'
                 if rate and expected and expected > counted else None,
                 f'last {last} ago' if last
                 else f'none for {format_seconds(quiet)}' if quiet >= 1 else None,
                 f'age {age}' if age else None]
        filled = 10 * counted // expected if expected else 0
        line = (f'[{"#" * filled:10}] ' if expected else '') + format_progress(chord)
        for text in filter(None, texts):  # those that do not fit are left out
            if len(f'{line}, {text}') < screen_width():
                line += f', {text}'
        return cut(line, screen_width() - 1)


def _error_of(row: Row) -> str:
    """What a table says of how a task failed, or how far a chord is."""
    error = row['error'] or ''
    if row['kind'] == 'chord':
        return f'cannot be read: {error}' if error else format_progress(row)
    # Celery's own text begins with an id
    return re.sub(r"""^ChordError\((['"])Dependency \S+ raised (.*)\1\)$""", r'a part: \2', error)


class Counts:
    """How many tasks have a state and a name, and which error; and how many chords run.

    Of tasks whose start is known also how long they took.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[Any, ...]] = Counter()
        self._durations: dict[tuple[Any, ...], array[float]] = {}

    def take(self, rows: list[Row]) -> None:
        for row in rows:
            # of an error, the class; of a chord's, that of the part's
            error = re.match(r'(a part: )?[\w.]+', _error_of(row)) if row['error'] else None
            key = row['kind'], row['state'], row.get('name'), error and error[0]
            self._counts[key] += 1
            if row.get('duration') is not None:
                self._durations.setdefault(key, array('d')).append(row['duration'])

    def rows(self) -> list[Row]:
        names = ('kind', 'state', 'name', 'error')
        return [{'count': count, **dict(zip(names, key)), **self._percentiles(key)}
                for key, count in self._counts.most_common()]

    def _percentiles(self, key: tuple[Any, ...]) -> Row:
        durations = sorted(self._durations.get(key, ()))
        return {name: durations[math.ceil(part * len(durations)) - 1] if durations else None
                for name, part in (('p50', 0.5), ('p95', 0.95), ('max', 1))}


class TextTable:
    """Rows as lines that fit the screen.

    The first rows decide which columns there are and how wide they are, and again those that have
    something for another column.
    """

    #: from left to right
    COLUMNS: ClassVar[dict[str, Callable[[Row], Any]]] = {
        'AGE': lambda row: _age_of(row.get('stored') or row.get('opened')),
        'STATE': lambda row: row['state'],
        'LAST': lambda row: _age_of(row.get('last_counted')),  # of a chord
        'TOOK': lambda row: _duration_text(row.get('duration')),
        'WORKER': lambda row: row.get('worker'), 'NAME': lambda row: row.get('name'),
        'ID': lambda row: row['id'], 'ERROR': _error_of}
    COUNTS: ClassVar[dict[str, Callable[[Row], Any]]] = {
        'COUNT': lambda row: f'{row["count"]:,}', 'KIND': lambda row: row['kind'],
        'STATE': lambda row: row['state'], 'P50': lambda row: _duration_text(row['p50']),
        'P95': lambda row: _duration_text(row['p95']),
        'MAX': lambda row: _duration_text(row['max']),
        'NAME': lambda row: row['name'], 'ERROR': lambda row: row['error']}

    #: the most important first; of these, at least so many letters are shown
    _NEEDED: ClassVar[dict[str, int]] = {
        'ID': 40, 'COUNT': 11, 'STATE': 9, 'AGE': 5, 'LAST': 5, 'ERROR': 20, 'TOOK': 5, 'P50': 5,
        'P95': 5, 'MAX': 5, 'NAME': 20, 'KIND': 5, 'WORKER': 30}

    def __init__(self, columns: Mapping[str, Callable[[Row], Any]] = COLUMNS) -> None:
        self._columns = columns
        self._widths: dict[str, int] = {}
        self._found: set[str] = set()  # columns that had a text

    def lines(self, rows: list[Row]) -> Iterator[str]:
        cells = [{name: printable(str(get(row) or '')) for name, get in self._columns.items()}
                 for row in rows]
        found = {name for row in cells for name, text in row.items() if text}
        if not found <= self._found:
            self._found |= found
            self._choose(cells)
            yield self._line({name: name for name in self._columns})
        yield from map(self._line, cells)

    def _choose(self, cells: list[dict[str, str]]) -> None:
        wanted = {name: max(len(name), *(_width(row[name]) for row in cells))
                  for name in self._NEEDED if name in self._found}
        room, widths = screen_width(), {}
        for name, width in wanted.items():
            least = min(width, self._NEEDED[name])
            if room >= least or name == 'ID':
                widths[name] = least
                room -= least + 2
        for name in ('ERROR', 'NAME', 'WORKER', 'STATE', 'ID'):
            if name in widths:
                more = max(0, min(wanted[name] - widths[name], room + 2))
                widths[name] += more
                room -= more
        self._widths = {name: widths[name] for name in self._columns if name in widths}

    def _line(self, cells: Mapping[str, str]) -> str:
        line, left, limited = '', screen_width(), screen_width() < sys.maxsize
        for name, width in self._widths.items():
            text = cells[name]
            if name == 'ERROR':
                text = cut(text, left) if left > 1 else ''
            elif limited and name != 'ID':
                text = cut(text, width, tail=name == 'NAME')
            space = ' ' * (width - _width(text) + 2)
            left -= _width(text + space)
            line += (colored(text) if name == 'STATE' else text) + space
        return line.rstrip()


# --- retry ----------------------------------------------------------------------------------------

#: what becomes of a task that is to be sent again: READY, SENT, REFUSED (by Celery), or why not
READY, SENT, REFUSED = 'ready', 'sent', 'refused'
NOT_SENT = {
    'unknown': 'nothing is stored under this id',
    'unreadable': 'what is stored cannot be read here; show ID says why',
    'not stored': 'its name and arguments are not stored: result_extended was off, they were too '
                  'large, no worker had such a task, or it is the body of a chord that failed',
    'no values': 'its arguments are stored as a text; apply it from the app',
    'claim check': 'its arguments are the values of a large chord; apply the chord again',
    'never ran': 'a task before it in its chain failed, whose value is among its arguments; retry '
                 'that one, or apply the chain again',
    'in a chord': 'a part of a chord counts once; apply the chord again, or run the task alone '
                  'with --new-ids',
    'succeeded': 'a success is never overwritten; --new-ids runs it again',
    'revoked': 'workers drop the id of a task that was revoked or expired; --new-ids',
    'running': 'it waits, or runs; --force if its worker or its message is lost',
    'sent before': 'it was sent again, and has stored nothing since; --force if that is lost',
    'changed': 'something was stored for it a moment ago; look again',
}


def queue_of(app: Any, routing_key: Any) -> str | None:
    """The queue for a task of which the routing key is stored; None: as the app's routes say."""
    if not isinstance(routing_key, str):
        return None
    # kombu's delayed delivery puts 28 bits before the key
    key, queues = re.sub(r'^(?:[01]\.){28}', '', routing_key), app.amqp.queues
    if key in queues:
        return key
    named = [name for name, queue in queues.items() if queue.routing_key == key]
    if len(named) == 1:
        return named[0]
    return None if app.conf.task_queues else key or None  # Celery makes queues that are missing


_BROKER_TIMEOUT = 30.0  # seconds: kombu's Redis waits for a response without an end


class BrokerAway(Exception):
    """The broker does not respond, or did not take a task."""


def ask_broker(connection: Any, request: Callable[[], T]) -> T:
    """What a request to the broker returns.  Raises BrokerAway if it has not ended after that."""
    call = Call(request)
    if call.wait(_BROKER_TIMEOUT):
        found: T = call.result()
        return found
    raise BrokerAway(f'the broker {connection.as_uri()} does not respond')


class Resending:
    """Sends tasks again, from what ``result_extended`` stored of them.

    read    judges tasks by what is stored now, read consistently.
    send    Marks the item of a task, if it is still the one that was read, then sends the task.
            So of two operators one sends it, and a run that was stopped half way can be repeated.
            The old result stays, with its mark, until the new run stores a state.  If the broker
            does not take the task, the mark is removed.  What dies in between leaves a mark, and
            the task may not have been sent: --force.
    """

    KEYS = ('id', 'state', 'name', 'args', 'kwargs', 'queue', 'group', 'stored')

    def __init__(self, backend: DynamoDBBackend, table: Table, new_ids: bool, force: bool) -> None:
        self._backend, self._store = backend, BlobStore(table)
        self._new_ids, self._force = new_ids, force
        self._by = os.urandom(16)  # this run of the command
        self._chords: dict[str, bool] = {}  # whether groups are those of chords

    def read(self, ids: Iterable[str]) -> Iterator[tuple[Row, Item]]:
        """A row for each task, with its outcome, and its item."""
        ids = list(dict.fromkeys(ids))
        items: dict[str, Item] = {}
        for form in (self._backend.key_id, bytes_to_str, lambda key: str(ensure_bytes(key))):
            keys = {id: form(self._backend.get_key_for_task(id)) for id in ids if id not in items}
            found = self._store.table.get_many(
                key for key in keys.values() if not is_too_long(key))
            items.update((id, found[key]) for id, key in keys.items()
                         if key in found and not is_expired(found[key]))
        metas = read_metas(self._backend, self._store, items, consistent=True)
        read = {each[0]: each for each in metas}
        for id in ids:
            item, meta = read[id][1:3] if id in read else ({}, {})
            row = {key: value for key, value in task_row(id, item, meta).items()
                   if key in self.KEYS}
            row['queue'] = queue_of(self._backend.app, row['queue'])
            row['sent_as'] = item.get('retried_as')
            yield self._with(row, self._judge(item, meta)), item

    @staticmethod
    def _with(row: Row, outcome: str, reason: str | None = None) -> Row:
        return {**row, 'outcome': outcome, 'reason': reason or NOT_SENT.get(outcome)}

    def _judge(self, item: Item, meta: Mapping[str, Any]) -> str:
        """READY, or why a task is not sent."""
        if not meta:
            return 'unknown'
        state, name, args, kwargs = map(meta.get, ('status', 'name', 'args', 'kwargs'))
        if isinstance(meta['result'], BackendGetMetaError):
            return 'unreadable'
        if not isinstance(name, str) or args is None or kwargs is None:
            return 'not stored'
        # Celery stores an error for the rest of a chain, with the arguments of the signatures
        if meta.get('worker') is None:
            return 'never ran'
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping):
            return 'no values'
        if any(isinstance(each, str) and ClaimCheck.text.fullmatch(each) for each in args):
            return 'claim check'
        if state not in states.READY_STATES and not self._force:
            return 'running'
        if not self._new_ids:
            if state == states.SUCCESS:
                return 'succeeded'
            if state == states.REVOKED:
                return 'revoked'
            if self._is_in_chord(item, meta.get('group_id')):
                return 'in a chord'
        return 'sent before' if 'retried' in item and not self._force else READY

    def _is_in_chord(self, item: Item, group_id: Any) -> bool:
        if 'chord' in item or 'later' in item or not isinstance(group_id, str):
            return 'chord' in item or 'later' in item
        if group_id not in self._chords:  # its own item says it only once it has returned
            pointer_id = self._backend.pointer_id(group_id)
            self._chords[group_id] = not is_too_long(pointer_id) and (
                self._store.table.get(pointer_id) is not None)
        return self._chords[group_id]

    def _unmark(self, item: Item) -> None:
        """Removes our mark of a task that was not sent."""
        with contextlib.suppress(*FAILURES):  # the error that led here counts more
            self._store.table.update(
                item['id'], 'REMOVE #retried, #retried_as, #retried_by', {'by': self._by},
                condition='#retried_by = :by')

    def send(self, row: Row, item: Item, producer: Any) -> Row:
        """Sends a task; raises BrokerAway.

        As app.signature() does: with the options of its task, or by its name if the app has none.
        """
        id = str(uuid.uuid4()) if self._new_ids else row['id']
        queue = {'queue': row['queue']} if row['queue'] else {}
        marks = {'retried': time.time(), 'retried_as': id, 'retried_by': self._by}
        try:
            marked = self._store.mark(item, 'retried_by', marks)
        except BaseException:  # it may be marked
            self._unmark(item)
            raise
        if not marked:
            return self._with(row, 'changed')
        try:
            task = self._backend.app.signature(row['name'], row['args'], row['kwargs'])
            ask_broker(producer.connection, functools.partial(
                task.apply_async, task_id=id, producer=producer, retry=False, **queue))
        except BaseException as exc:
            self._unmark(item)
            connection = producer.connection
            if isinstance(exc, BrokerAway) or not isinstance(exc, Exception):
                raise
            if isinstance(exc, (OperationalError, OSError, *connection.connection_errors,
                                *connection.channel_errors)):
                raise BrokerAway(f'the broker {connection.as_uri()}: {explain(exc)}') from exc
            return self._with(row, REFUSED, f'{type(exc).__name__}: {exc}'[:300])
        return {**self._with(row, SENT), 'sent_as': id}


def oldest(rows: Iterable[Row], limit: int) -> list[Row]:
    """The rows that were stored first, each task once; 0: all."""
    by_id = {row['id']: row for row in rows}  # an id can have an item under each form of its key
    return sorted(by_id.values(), key=lambda row: (row['stored'] or '', row['id']))[:limit or None]


def format_call(row: Row) -> str:
    """The arguments of a task."""
    if not isinstance(row['args'], (list, tuple)) or not isinstance(row['kwargs'], Mapping):
        return '' if row['args'] is None else safe_repr(row['args'])
    named = (f'{name}={safe_repr(value)}' for name, value in row['kwargs'].items())
    return ', '.join([*map(safe_repr, row['args']), *named])[:200]


class ResendingTable(TextTable):
    """The rows of retry as text."""

    COLUMNS: ClassVar[dict[str, Callable[[Row], Any]]] = {
        'OUTCOME': lambda row: row['outcome'], 'NAME': lambda row: row['name'],
        'ID': lambda row: row['id'], 'QUEUE': lambda row: row['queue'],
        'SENT AS': lambda row: row['sent_as'] if row['sent_as'] != row['id'] else None,
        'ARGUMENTS': format_call}
    _NEEDED: ClassVar[dict[str, int]] = {
        'ID': 40, 'OUTCOME': 11, 'NAME': 25, 'SENT AS': 40, 'ARGUMENTS': 40, 'QUEUE': 20}

    def __init__(self) -> None:
        super().__init__(self.COLUMNS)


# --------------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------------
#
# celery -A proj dynamodb COMMAND, or for a vendored file python -m proj.vendor.dyna_veggie -A proj
# COMMAND.

ASK_ABOVE = 800_000  # read units on demand that a command takes without asking at a terminal

# what a command prints with --json, where a list is one object a line; and the lines without it
_Output = tuple[Union[Row, list[Row]], Iterable[str]]


@click.group('dynamodb')
@click.option(
    '-A', '--app', metavar='APPLICATION', help='Where the Celery app is, as in `celery -A`.')
@click.option(
    '-b', '--result-backend', metavar='URL', help='A dynamodb:// URL, in place of an app.')
@click.pass_context
def commands(ctx: click.Context, app: str | None, result_backend: str | None) -> None:
    """The DynamoDB table of the result backend."""
    if ctx.invoked_subcommand == 'options':  # which needs no app
        return
    try:
        ctx.obj = _backend_of(ctx, app, result_backend)
    except ImproperlyConfigured as exc:
        raise click.ClickException(str(exc)) from exc


def _backend_of(ctx: click.Context, app: str | None, url: str | None) -> DynamoDBBackend:
    if url:
        _, named, place = url.partition('+dynamodb://')
        if named:
            url = f'dynamodb://{place}'
        if not url.startswith('dynamodb://'):
            raise click.UsageError('the URL must start with dynamodb://')
        return DynamoDBBackend(app=celery.Celery(set_as_current=False), url=url)
    if not app and not ctx.obj:
        raise click.UsageError('name an app with -A, or a table with -b dynamodb://...')
    try:
        found = find_app(app) if app else ctx.obj.app
    except (ImportError, AttributeError) as exc:
        raise click.ClickException(f'there is no app {app!r}: {exc}') from exc
    backend = found.backend
    if not hasattr(backend, 'store'):
        cls_name = f'{type(backend).__module__}.{type(backend).__name__}'
        raise click.ClickException(
            f'the result backend of this app is {cls_name}; set result_backend to dynamodb://…')
    return backend


def _command(function: Callable[..., _Output]) -> click.Command:
    @commands.command(function.__name__.strip('_').replace('_', '-'))
    @click.option('--json', 'as_json', is_flag=True, help='For machines.')
    @click.pass_obj
    @functools.wraps(function)
    def command(backend: DynamoDBBackend, as_json: bool, **options: Any) -> None:
        try:
            output, lines = function(backend, **options)
        except FAILURES as exc:
            raise click.ClickException(explain(exc)) from exc
        if as_json and isinstance(output, list):
            lines = [json.dumps(to_jsonable(each)) for each in output]
        elif as_json and output:
            lines = [json.dumps(to_jsonable(output), indent=2)]
        _print(lines)
        if isinstance(output, dict) and output.get('ok') is False:
            sys.exit(1)
    return command


def _print(lines: Iterable[str]) -> None:
    """Prints lines; in color at a terminal, unless NO_COLOR is set: https://no-color.org."""
    # JSON can hold what the terminal cannot show, such as half of a surrogate pair
    encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
    for line in lines:
        click.echo(line.encode(encoding, 'backslashreplace').decode(encoding),
                   color=False if os.environ.get('NO_COLOR') else None)


def _note(text: str) -> None:
    """Says what is no output."""
    click.echo('\n'.join(textwrap.wrap(text, screen_width())), err=True)


class _Checks:
    """The rows of check.  ok: None for what a worker can do without."""

    def __init__(self, table: Table, creates: bool) -> None:
        self.table, self.creates = table, creates
        self.rows: list[Row] = []

    def check(
            self, name: str, call: Callable[[], Any], failed: bool | None = False) -> bool | None:
        """Notes what a call returns or raises; failed: what a failure means."""
        ok: bool | None = True
        try:
            found = call()
        except FAILURES as exc:
            ok, found = failed, explain(exc)
            if isinstance(exc, MissingTable) and self.creates:
                region = self.table.client.botocore.meta.region_name
                ok, found = None, f'does not exist in {region} yet: the first request creates it'
        self.rows.append(
            {'name': name, 'ok': ok, 'found': found if isinstance(found, str) else 'allowed'})
        return ok

    def check_actions(self) -> None:
        """Does what a worker does, with an item of its own."""
        item = {'id': f'dyna-veggie-check-{uuid.uuid4()}', **expiry(3600)}
        began = monotonic()
        actions = [each for each in WORKER_ACTIONS if each != INSERT or self.table.may_insert]
        for action in actions:
            failed = None if action == INSERT else False
            self.check(action, functools.partial(WORKER_ACTIONS[action], self.table, item), failed)
        took = 1000 * (monotonic() - began) / len(actions)
        self.check('round trip', lambda: f'{took:.0f} ms')


@_command
def _check(backend: DynamoDBBackend) -> _Output:
    """Checks credentials, table and permissions; exit code 1 if a worker would fail.

    Writes and deletes an item of its own."""
    options = backend.options
    table = operators_table(options)
    client = table.client
    checks = _Checks(table, options.create_table)
    source = checks.check('credentials', lambda: find_credentials(table.options)[0])
    if source and not (options.endpoint_url or '').startswith('http://'):
        checks.check('identity', lambda: identity(table.options), None)
    # an account has endpoints of its own, which botocore chooses for each request
    sent: list[str] = []
    with contextlib.suppress(*FAILURES):  # the next checks say them
        client.botocore.meta.events.register(
            'before-send.dynamodb', lambda request, **kwargs: sent.append(request.url))
    checks.check('region', lambda: region_of(table), None)

    def endpoint() -> str:
        why = ''
        try:
            ping(table)
        except (BotoConnectionError, HTTPClientError) as exc:
            why = explain(exc)
        except FAILURES:
            pass  # it responded, or no request was sent: the next check says it
        url = sent[-1].rstrip('/') if sent else str(client.botocore.meta.endpoint_url)
        if why:
            raise ImproperlyConfigured(why if url in why else f'{url}: {why}')
        return url
    if checks.check('endpoint', endpoint) and checks.check('table', lambda: ping(table)):
        template = 'key {key}, {status}, {billing_mode}'
        if checks.check('DescribeTable', lambda: template.format(**describe(table)), None):
            checks.check('capacity', lambda: capacity(table, backend.app), None)
        checks.check('time to live', lambda: time_to_live(table), None)
        checks.check_actions()
    signs = {True: 'ok', None: '--', False: 'NO'}
    lines = ((f'{signs[row["ok"]]}  {row["name"]}', row['found']) for row in checks.rows)
    return ({'ok': all(row['ok'] is not False for row in checks.rows), 'checks': checks.rows},
            labeled(lines, 20))


@_command
def _create_table(backend: DynamoDBBackend) -> _Output:
    """Creates the table as the options say, with time to live, and waits until it can be used."""
    # fails soon if the endpoint is dead; the creation itself is patient
    operators_table(backend.options).client.send(
        'describe_table', {'TableName': backend.options.table}, unless='ResourceNotFoundException')
    table = Table(dataclasses.replace(backend.options, create_table=True))
    done = 'created' if table.create() else 'exists'
    try:
        table.enable_ttl()
        on = time_to_live(table)
    except FAILURES as exc:
        raise click.ClickException(
            f'table {table.name} {"was " if done == "created" else ""}{done}, '
            f'but time to live was not turned on: {exc}') from exc
    output = {'created': done == 'created', **describe(table), 'time_to_live': on}
    return output, [
        f'table {table.name} in {table.client.botocore.meta.region_name}: {done}, '
        f'{output["status"]}, {output["billing_mode"]}, time to live {on}']


@_command
@click.option('--bootstrap', is_flag=True, help='Also to create the table.')
@click.option('--principal', metavar='ARN', help="The table's resource policy for this one.")
def _policy(backend: DynamoDBBackend, bootstrap: bool, principal: str | None) -> _Output:
    """Prints the least IAM policy for workers and clients."""
    if bootstrap and principal:
        raise click.UsageError(
            'give --bootstrap or --principal: no policy of a table allows to create it')
    if principal is not None and not PRINCIPAL.fullmatch(principal):
        raise click.UsageError(
            f'--principal={principal} must be the ARN of a role, a user or an account, such as '
            'arn:aws:iam::123456789012:role/worker')
    policy = least_policy(backend.store.table, bootstrap, principal)
    return policy, [json.dumps(policy, indent=2)]


WATCH_INTERVAL = 2.0  # seconds between two reads of a chord, and a further one per 500 parts


@_command
@click.argument('id')
@click.option('--watch', is_flag=True,
              help='Until the chord ends; exit code 1 if it fails.')
def _show(backend: DynamoDBBackend, id: str, watch: bool) -> _Output:
    """Shows a task, a saved group, or a chord, by the id of its group or its result."""
    id = _checked_id(backend, id)
    if watch:
        return _watch(backend, id), []
    store = BlobStore(operators_table(backend.options))
    row = describe_task(backend, store, id)
    row['results'], error = read_group(backend, store, id)
    row['error'] = error or row['error']
    row['chord'] = describe_chord(backend, store, id)
    other = 'chord' if row['chord'] else 'group' if row['results'] is not None else None
    if other and not row['stored_as']:
        row.update(kind=other, state=row['chord'] and row['chord']['state'], size=None, chunks=None)
    return row, labeled(format_show(row), 11)


def _watch(backend: DynamoDBBackend, id: str) -> Row:
    """Prints how far a chord is until it ends."""
    # a DynamoDB that is away is said soon, at first
    table, pace = operators_table(backend.options), Pace()
    as_json = click.get_current_context().params['as_json']
    live, before = is_terminal(sys.stdout) and not as_json, ''
    patient = operators_table(backend.options, patient=True)
    while True:
        chord = chord_row(backend, table, id, backend.pointer_id(id))
        if chord is None:
            raise click.ClickException(f'there is no chord {id}')
        if chord['error']:
            raise click.ClickException(f'the chord {id} cannot be read: {chord["error"]}')
        line = json.dumps(to_jsonable(chord)) if as_json else pace.line(chord)
        # a terminal shows one line, which changes
        click.echo(f'\r{line}{" " * (len(before) - len(line))}' if live else line, nl=not live)
        if chord['state'] == 'CLOSED':
            break
        before, table = line, patient
        time.sleep(WATCH_INTERVAL + (chord['expected'] or chord['counted']) / 500)
    ended = not chord['failed'] and chord['counted'] == chord['expected']
    gone = not chord['counted'] and not before  # or it was ended before anything was counted
    if not as_json:
        _print([*([''] if live else ()), 'its body was called' if ended else
                'it has ended, and its counters may have expired: see its result' if gone else
                'it failed, or was ended: its errbacks were called'])
    if not ended:
        click.get_current_context().exit(1)
    return {}


class _HadEnded(click.ClickException):
    exit_code = 3


@_command
@click.argument('id')
@click.option('--reason', metavar='TEXT', required=True, help='What its ChordError says.')
@click.option('--yes', is_flag=True, help='Do not ask.')
def _fail(backend: DynamoDBBackend, id: str, reason: str, yes: bool) -> _Output:
    """Ends a chord that is stuck, by the id of its group or its result; calls its errbacks.

    Exit code 3 if it had ended before, or its body was published."""
    context = click.get_current_context().parent
    if context and context.params['result_backend']:
        raise click.UsageError('name the app with -A: the errbacks are its tasks')
    id = _checked_id(backend, id)
    row = chord_row(backend, operators_table(backend.options), id, backend.pointer_id(id))
    if row is None:
        raise click.ClickException(f'there is no chord {id}')
    name = f'the chord {row["id"]}'
    if row['error']:
        raise click.ClickException(f'{name} cannot be read: {row["error"]}')
    if not yes and row['state'] == 'RUNNING':
        click.confirm(f'{name}: {format_progress(row)}. End it?', abort=True, err=True)
    logging.basicConfig(format='%(message)s')  # shows what cannot be called
    backend.app.loader.import_default_modules()  # the errbacks
    try:
        ended = backend.fail_chord(id, reason)
    except (TimeoutError, UnreadableValue) as exc:
        raise click.ClickException(str(exc)) from exc
    if not ended:
        raise _HadEnded(f'{name} had ended before, or its body was published')
    return {'id': row['id'], 'reason': reason}, [f'{name} was ended: {reason}']


def _checked_id(backend: DynamoDBBackend, id: str) -> str:
    """An id, from itself or its item's; raises for what is none."""
    if not id:
        raise click.ClickException('the id is empty')
    try:
        id.encode()
    except UnicodeEncodeError:  # the shell's bytes were no UTF-8
        raise click.ClickException('the id is no text in UTF-8') from None
    id = task_id_of(backend, id) or id
    check_id(backend.item_id(id), click.ClickException)
    return id


def _moment(given: str) -> float:
    """Seconds of the epoch for a time in ISO 8601 (in UTC by default), or so long ago."""
    ago = re.fullmatch(r'(\d{1,9})([smhd])', given)
    if ago:
        return time.time() - int(ago[1]) * {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}[ago[2]]
    try:
        return seconds_of(given)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f'{given!r} is no time such as 2h, 3d or 2026-11-25T07:30') from None


def _begin_scan(backend: DynamoDBBackend, yes: bool) -> tuple[Table, int, Any]:
    """The table, how many segments to read concurrently, and a progress bar.

    Says what an eventually consistent scan of the table reads; asks at a terminal if it is much.
    """
    table = operators_table(backend.options, patient=True)
    size = describe(operators_table(backend.options))
    units, rate = math.ceil(size['bytes'] / 8192), size['read_units']
    lasts = math.ceil(units / rate) if rate else 0
    _note(f'table {table.name}: reads the whole table: {size["items"]:,} items, '
          f'{size["bytes"] / 1e6:,.1f} MB, {units:,} read units'
          + (f', all its provisioned units for {timedelta(seconds=lasts)}' if rate else ''))
    if rate:
        table.overlapped = 1  # workers need its units, too
    elif units > ASK_ABOVE and not yes and is_terminal(sys.stdin):
        click.confirm('Go on?', abort=True, err=True)
    # into a file click would write the label alone
    terminal = sys.stderr if is_terminal(sys.stderr) else io.StringIO()
    bar = click.progressbar(length=size['items'], label=table.name, file=terminal)
    return table, table.overlapped if size['bytes'] >= 10 * 2**20 else 1, bar


#: which tasks, by what is stored of them
_SELECTION = (
    click.option('--state', metavar='STATE',
                 help='Only tasks in this state; RUNNING: only chords.'),
    click.option('--since', type=_moment, metavar='TIME',
                 help='Only what was stored since then: 2h, 3d, ISO 8601.'),
    click.option('--until', type=_moment, metavar='TIME',
                 help='Only what was stored until then.'),
    click.option('--name', metavar='TASK',
                 help="Only tasks of this name, or as 'proj.*' (needs result_extended)."),
    click.option('--group', metavar='ID', help='Only tasks of this group or chord.'),
    click.option('--id', 'start', metavar='START', default='', help='Only ids that start so.'))


def _selects(function: Callable[..., T]) -> Callable[..., T]:
    """Gives a command the options of _wanted()."""
    for option in reversed(_SELECTION):
        function = option(function)
    return function


def _wanted(
        backend: DynamoDBBackend, state: str | None, since: float | None, until: float | None,
        name: str | None, group: str | None, start: str, unchecked: bool = False,
        override: str = '--yes') -> TaskFilter:
    """Which tasks are chosen; raises for a state or name that does not exist.

    unchecked: the override was given.
    """
    if not unchecked:
        _check_state(state, override)
        _check_name(backend, name, override)
    return TaskFilter((state, state.upper()) if state else (), since, until, name, group, start)


@_command
@_selects
@click.option('--count', is_flag=True, help='How many, by state, name and error.')
@click.option('--limit', type=click.IntRange(0), default=50, show_default=True,
              help='The newest so many; 0: all, as they are read.')
@click.option('--csv', 'as_csv', is_flag=True, help='For spreadsheets: the keys of --json.')
@click.option('--yes', is_flag=True,
              help='Do not ask before a large scan, nor doubt a state or name.')
def _list(
        backend: DynamoDBBackend, limit: int, count: bool, as_csv: bool, yes: bool,
        **chosen: Any) -> _Output:
    """Lists tasks and running chords, the newest first.  Reads the whole table."""
    wanted = _wanted(backend, **chosen, unchecked=yes)
    table, segments, bar = _begin_scan(backend, yes)
    if count and as_csv:
        raise click.UsageError('give --count or --csv')
    as_json = click.get_current_context().params['as_json']
    columns = TextTable.COUNTS if count else TextTable.COLUMNS
    as_lines: Callable[[list[Row]], Iterable[str]] = TextTable(columns).lines
    if as_json:
        as_lines = functools.partial(map, lambda row: json.dumps(to_jsonable(row)))
    elif as_csv:
        _print(csv_lines([CSV_HEADER]))
        as_lines = csv_lines
    counts, limit = Counts(), 0 if count else limit
    listing = Listing(backend, table, wanted, limit,
                      counts.take if count else lambda rows: _print(as_lines(rows)))
    quiet = count or limit > 0  # else rows are printed while it reads
    with bar if quiet else contextlib.nullcontext():
        listing.scan(segments, bar.update if quiet else int)
    listing.show_rest()
    if count:
        _print(as_lines(counts.rows()))
    tasks = [row for row in listing.shown if row['kind'] == 'task']
    if tasks and not any(row['name'] for row in tasks) and not backend.app.conf.result_extended:
        _note('names and arguments are not stored: see result_extended')
    return {}, [] if as_json or as_csv else [f'{listing.printed:,} of {listing.count:,}']


def _check_state(state: str | None, override: str) -> None:
    """Raises for a state that resembles one of Celery's."""
    known = [*states.ALL_STATES, 'RUNNING']
    near = difflib.get_close_matches((state or '').upper(), known, 1)
    if state and near and state.upper() not in known:
        raise click.UsageError(
            f'there is no state {state}; did you mean {near[0]}? '
            f'({override}: it is one of your own)')


def _check_name(backend: DynamoDBBackend, name: str | None, override: str) -> None:
    """Raises for a name that no task of the app has, if it has tasks."""
    context = click.get_current_context().parent
    if name is None or (context and context.params['result_backend']):
        return
    with contextlib.suppress(Exception):  # the app may need what is not installed here
        backend.app.loader.import_default_modules()
    known = [each for each in backend.app.tasks if not each.startswith('celery.')]
    if not known or fnmatch.filter(backend.app.tasks, name):
        return
    near = ([each for each in known if each.rpartition('.')[2] == name]
            or difflib.get_close_matches(name, known, 1))
    raise click.UsageError(
        f'the app has no task {name}' + (f'; did you mean {near[0]}?' if near else '')
        + f' ({override}: another app has it)')


@contextlib.contextmanager
def _producer(app: Any) -> Iterator[Any]:
    """A producer for the app's broker; raises ClickException if that does not respond."""
    connection = app.connection_for_write()

    def connect() -> Any:
        connection.ensure_connection(max_retries=1, interval_start=0)
        # Celery's own would reconnect without an end
        return app.amqp.Producer(connection.channel(), auto_declare=False)
    try:
        try:
            producer = ask_broker(connection, connect)
        except BrokerAway as exc:
            raise click.ClickException(str(exc)) from exc
        except Exception as exc:  # each transport has its own
            raise click.ClickException(f'the broker {connection.as_uri()}: {explain(exc)}') from exc
        yield producer
    finally:
        Call(connection.release).wait(_BROKER_TIMEOUT / 10)  # it may wait for a response


@_command
@click.argument('ids', metavar='[ID]...', nargs=-1)
@_selects
@click.option('--limit', type=click.IntRange(0), default=50, show_default=True,
              help='The oldest so many that can be sent; 0: all.')
@click.option('--new-ids', is_flag=True, help='As new tasks; the old results stay.')
@click.option('--force', is_flag=True,
              help='Also what seems to wait or run; nor doubt a state or name.')
@click.option('--yes', is_flag=True, help='Send them; else it is only said which.')
def _retry(
        backend: DynamoDBBackend, ids: tuple[str, ...], limit: int, new_ids: bool, force: bool,
        yes: bool, **chosen: Any) -> _Output:
    """Sends tasks again, by id or as chosen, from what result_extended stored of them.

    Exit code 3 if some cannot be sent.  Sends name, arguments and queue, which are stored; not
    callbacks, the rest of a chain, priority, expiry, headers and time limits of the call.
    """
    context = click.get_current_context()
    if context.parent and context.parent.params['result_backend']:
        raise click.UsageError('name the app with -A: it has the broker')
    if bool(ids) == bool(chosen['state']) or (ids and any(chosen.values())):
        raise click.UsageError('give ids, or --state and what else chooses tasks')
    if chosen['state'] and chosen['state'].upper() == 'RUNNING':
        raise click.UsageError('a chord cannot be sent again: see fail')
    app = backend.app
    if app.conf.task_always_eager:
        raise click.ClickException('task_always_eager is set: no task would be sent')
    ids = tuple(_checked_id(backend, id) for id in ids)
    wanted = None if ids else _wanted(backend, **chosen, unchecked=force, override='--force')
    app.loader.import_default_modules()
    if app.conf.task_serializer != backend.serializer != 'pickle':
        _note(f'arguments were stored as {backend.serializer}: tuples, sets and other types that '
              f'task_serializer={app.conf.task_serializer} keeps are lost')
    if yes:
        with _producer(app):  # before anything is read
            pass
    as_json = context.params['as_json']
    to_lines: Callable[[list[Row]], Iterable[str]] = ResendingTable().lines
    if as_json:
        to_lines = functools.partial(map, lambda row: json.dumps(to_jsonable(row)))

    def show(rows: list[Row]) -> None:
        _print(to_lines(rows) if rows else ())

    ready: list[Row] = []
    others: list[Row] = []
    counts: Counter[tuple[str, str | None]] = Counter()  # of outcomes, and why

    def take(rows: Iterable[Row]) -> None:
        found = [row for row, _ in resending.read(row['id'] for row in rows)
                 if wanted is None or wanted.fits(row)]
        counts.update((row['outcome'], row['reason']) for row in found)
        for rows, fits in ((ready, True), (others, False)):
            rows[:] = oldest(
                [*rows, *(row for row in found if (row['outcome'] == READY) == fits)], limit)

    if wanted is None:
        limit = 0
        resending = Resending(backend, operators_table(backend.options), new_ids, force)
        take([{'id': id} for id in ids])
    else:
        table, segments, bar = _begin_scan(backend, yes)
        resending = Resending(backend, table, new_ids, force)
        with bar:
            Listing(backend, table, wanted, 0, take).scan(segments, bar.update)
    waiting, lines = counts.pop((READY, None), 0) - len(ready), []
    if not yes:
        show([*ready, *others])
        lines = [f'{len(ready):,} can be sent' + (': --yes sends them' if ready else '')]
    else:
        show(others)
        with _producer(app) as producer:
            for page in itertools.zip_longest(*[iter(ready)] * 100):
                sent = []
                try:
                    for row, item in resending.read(row['id'] for row in page if row):
                        sent.append(
                            resending.send(row, item, producer) if row['outcome'] == READY else row)
                except BrokerAway as exc:
                    raise click.ClickException(
                        f'{exc}; run it again for the rest, which was not sent') from exc
                finally:
                    counts.update((row['outcome'], row['reason']) for row in sent)
                    show(sent)
        lines = [f'{counts.pop((SENT, None), 0):,} sent']
    if waiting:
        lines.append(f'{waiting:,} more can be sent: by the next run, or --limit 0')
    lines += [f'{count:,} {outcome}: {reason}' for (outcome, reason), count in counts.items()]
    if not as_json:
        _print(line for text in lines for line in textwrap.wrap(text, screen_width()))
    if counts:
        context.exit(3)
    return {}, []


@_command
@click.option('--dry-run', is_flag=True, help='Only count.')
@click.option('--force', is_flag=True, help='Also if time to live is on.')
@click.option('--yes', is_flag=True, help='Do not ask before a large scan.')
def _purge(backend: DynamoDBBackend, dry_run: bool, force: bool, yes: bool) -> _Output:
    """Deletes expired items, for tables where time to live is off, and chunks that no item counts.

    Reads the whole table."""
    try:
        on = bool(time_to_live(operators_table(backend.options)))
    except FAILURES:  # it is off, or the permission is missing
        on = False
    if on and not force:
        return {'expired': None, 'orphans': None, 'deleted': 0, 'time_to_live': on}, [
            'time to live is on: DynamoDB deletes expired items for nothing, within days',
            'nothing was read; --force reads the whole table, also for chunks that no item counts']
    table, segments, bar = _begin_scan(backend, yes)
    prefixes = id_prefixes(
        backend.task_keyprefix, backend.group_keyprefix, backend.chord_keyprefix)
    with bar:
        counts = purge(table, segments, prefixes, dry_run, bar.update)
    output = {'expired': counts['expired'], 'orphans': counts['orphans'],
              'deleted': counts['expired_deleted'] + counts['orphans_deleted'], 'time_to_live': on}
    done, suffix = ('found', '') if dry_run else ('deleted', '_deleted')
    lines = [f'{counts["expired" + suffix]:,} expired items {done}']
    if counts['orphans']:
        lines.append(f'{counts["orphans" + suffix]:,} chunks of values that were never completed '
                     f'{done}')
    return output, lines


@_command
def _options(backend: object) -> _Output:
    """Prints all options of the URL and the transport options.  Needs no app."""
    rows = [{'name': each.name, 'meaning': each.metadata['doc'].replace('``', ''),
             # as a URL has it
             'default': str(each.default).removesuffix('.0').lower()
             if each.default not in (None, ()) else None}
            for each in dataclasses.fields(Options) if 'doc' in each.metadata]
    return rows, [row['name'] + (f' (default: {row["default"]})' if row['default'] else '') + '\n'
                  + click.wrap_text(row['meaning'], 76, '    ', '    ') for row in rows]


def main() -> None:
    # the app's backend is of the imported module, not of this __main__
    name = __spec__.name if __spec__ else 'dyna_veggie'
    importlib.import_module(name).commands(prog_name=f'python -m {name}')


if __name__ == '__main__':
    main()
