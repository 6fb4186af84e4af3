#!/usr/bin/env bash
# ddtrace 4.16.0: payload tagging walks a binary attribute byte by byte, once per JSONPath.
#
# Behaviour: with DD_TRACE_CLOUD_REQUEST_PAYLOAD_TAGGING=all, the parameters of each request to
# DynamoDB are searched for what is to be redacted, by JSONPaths that begin with `$..`, one after
# the other. These descend into bytes as into a list of numbers. A PutItem with an attribute of type
# B makes hundreds of calls for each byte, and one with the same text as S none.
#
# Why it matters: the tag holds at most 5,000 characters, but the request waits for the search. For
# 100 KB that takes seconds, in the calling thread. Compressed or pickled values are binary. What
# waits for them times out, and the trace blames DynamoDB, since the search is within its span.
#
# Expected: bytes are one value, as text is.
#
# Source: ddtrace/_trace/utils_botocore/aws_payload_tagging.py, AWSPayloadTagging._redact_json;
# ddtrace/vendor/jsonpath. With DD_TRACE_CLOUD_PAYLOAD_TAGGING_SERVICES without dynamodb there is no
# search.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile ddtrace==4.16.0 botocore==1.44.8
DD_TRACE_CLOUD_REQUEST_PAYLOAD_TAGGING=all DD_INSTRUMENTATION_TELEMETRY_ENABLED=false \
    DD_REMOTE_CONFIGURATION_ENABLED=false "$work/bin/python" - <<'PYTHON'
import cProfile
import pstats
import sys

import ddtrace
from botocore.awsrequest import AWSResponse
from botocore.session import Session
from ddtrace.trace import TraceFilter


class Nothing(TraceFilter):
    def process_trace(self, trace):
        return None  # nothing is sent to an agent


class Body:
    def stream(self, **kwargs):
        yield b'{}'


def calls(value):
    """How many calls of functions it takes to put an item, which is not sent."""
    profile = cProfile.Profile()
    profile.runcall(client.put_item, TableName='table', Item={'id': {'S': 'a'}, 'value': value})
    return pstats.Stats(profile).total_calls


ddtrace.tracer.configure(trace_processors=[Nothing()])
ddtrace.patch(botocore=True)
session = Session()
session.register(
    'before-send', lambda request, **kwargs: AWSResponse(request.url, 200, {}, Body()))
client = session.create_client('dynamodb', region_name='eu-west-1',
                               aws_access_key_id='any', aws_secret_access_key='any')
calls({'S': ''})  # compiles, loads and caches
print('ddtrace', ddtrace.__version__)
per_byte = {}
for kind, value in ('B', b'x'), ('S', 'x'):
    few, many = calls({kind: value * 10}), calls({kind: value * 510})
    per_byte[kind] = (many - few) / 500
    print(f'type {kind}: 10 bytes: {few} calls; 510 bytes: {many}; per byte: {per_byte[kind]:.1f}')
if per_byte['B'] < 30 or per_byte['S'] > 0.1:
    sys.exit('The behaviour has changed.')
print('A byte of a binary attribute takes many calls, a character of a text none.')
PYTHON
