#!/usr/bin/env bash
# botocore 1.44.8: the last attempt's response is returned without a look at its checksum.
#
# Behaviour: DynamoDB sends the CRC32 of each response in the header x-amz-crc32. In the retry modes
# "standard" and "adaptive" a response that does not match it is asked for again while attempts are
# left. The response of the last attempt is returned as it is, so with one attempt
# (total_max_attempts=1) nothing is checked. The mode "legacy" raises ChecksumError instead.
#
# Why it matters: a program with retries of its own gives botocore one attempt, and thereby switches
# the checksum off. With more attempts a wrong response is less likely to pass, but it still can.
#
# Expected: attempts decide how often a request is sent. A response that does not match its checksum
# raises ChecksumError when no attempt is left, in each mode.
#
# Source: botocore/retries/standard.py, StandardRetryConditions.is_retryable, which asks
# MaxAttemptsChecker first; botocore/retries/special.py, RetryDDBChecksumError.is_retryable, which
# only answers whether to retry. Compare botocore/retryhandler.py, CRC32Checker, of "legacy".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile botocore==1.44.8
NO_PROXY=127.0.0.1 "$work/bin/python" - <<'PYTHON'
import json
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

import botocore.session
from botocore.config import Config
from botocore.exceptions import ChecksumError

SENT = json.dumps({'Item': {'balance': {'N': '42'}}}).encode()
RECEIVED = SENT.replace(b'42', b'43')  # as if the network had changed a byte


class DynamoDB(BaseHTTPRequestHandler):
    """The first `server.broken` responses do not match their checksum."""

    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.server.requests += 1
        body = RECEIVED if self.server.requests <= self.server.broken else SENT
        self.send_response(200)
        self.send_header('Content-Type', 'application/x-amz-json-1.0')
        self.send_header('Content-Length', str(len(body)))
        self.send_header('x-amz-crc32', str(zlib.crc32(SENT)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def balance(mode, attempts, broken):
    server.requests, server.broken = 0, broken
    client = botocore.session.Session().create_client(
        'dynamodb', region_name='eu-west-1', endpoint_url=f'http://127.0.0.1:{server.server_port}',
        aws_access_key_id='any', aws_secret_access_key='any',
        config=Config(retries={'mode': mode, 'total_max_attempts': attempts}))
    try:
        item = client.get_item(TableName='accounts', Key={'id': {'S': 'a'}})['Item']
        found = item['balance']['N']
    except ChecksumError:
        found = 'ChecksumError'
    print(f'{mode:8}  attempts: {attempts}  broken responses: {broken}  '
          f'requests: {server.requests}  ->  {found}')
    return found


server = HTTPServer(('127.0.0.1', 0), DynamoDB)
threading.Thread(target=server.serve_forever, daemon=True).start()
print('botocore', botocore.__version__, '(sent: 42; a broken response reads 43)')
seen = [balance(mode, attempts, broken)
        for mode in ('standard', 'adaptive', 'legacy')
        for attempts, broken in ((2, 1), (1, 1), (2, 2))]
server.shutdown()
if seen != 2 * ['42', '43', '43'] + ['42', 'ChecksumError', 'ChecksumError']:
    sys.exit(f'The behaviour has changed: {seen}')
print('A response that does not match its checksum is returned by the last attempt.')
PYTHON
