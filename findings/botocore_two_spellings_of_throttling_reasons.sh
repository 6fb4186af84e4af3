#!/usr/bin/env bash
# botocore 1.44.8: DynamoDB's throttling errors spell their reasons in two ways.
#
# Behaviour: in botocore's model of DynamoDB, ThrottlingException has the member throttlingReasons,
# ProvisionedThroughputExceededException and RequestLimitExceeded have ThrottlingReasons. A parsed
# error has the member under the name of its class, so `exc.response['ThrottlingReasons']` is there
# for a provisioned table, and missing for an on-demand one, which raises ThrottlingException.
#
# Why it matters: the reasons say whether a hot partition, the table's own maximum or the account's
# limit throttles, and each needs another mend. Code that was tried with a provisioned table finds
# no reason where most tables are: on demand. Nothing fails, the reason is just not there.
#
# Expected: one name, in all three.
#
# Source: botocore/data/dynamodb/2012-08-10/service-2.json, the shapes of the three exceptions.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile botocore==1.44.8
"$work/bin/python" - <<'PYTHON'
import json
import sys

import botocore
from botocore.parsers import create_parser
from botocore.session import Session

REASONS = [{'reason': 'TableWriteKeyRangeThroughputExceeded', 'resource': 'arn:...:table/t'}]
model = Session().get_service_model('dynamodb')
found = {}
print('botocore', botocore.__version__)
for code in ('ThrottlingException', 'ProvisionedThroughputExceededException',
             'RequestLimitExceeded'):
    shape = model.shape_for(code)
    member = next(name for name in shape.members if name.lower() == 'throttlingreasons')
    # a response that has the reasons in both ways: the parser keeps that of the class
    body = {'__type': f'com.amazonaws.dynamodb.v20120810#{code}', 'message': 'throttled',
            'throttlingReasons': REASONS, 'ThrottlingReasons': REASONS}
    parsed = create_parser('json').parse(
        {'status_code': 400, 'headers': {}, 'body': json.dumps(body).encode()}, shape)
    found[code] = member, sorted(key for key in parsed if key.lower() == 'throttlingreasons')
    print(f'{code:40} member {member}, parsed as {found[code][1]}')

sys.exit(found != {
    'ThrottlingException': ('throttlingReasons', ['throttlingReasons']),
    'ProvisionedThroughputExceededException': ('ThrottlingReasons', ['ThrottlingReasons']),
    'RequestLimitExceeded': ('ThrottlingReasons', ['ThrottlingReasons'])})
PYTHON
