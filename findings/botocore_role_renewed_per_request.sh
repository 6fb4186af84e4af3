#!/usr/bin/env bash
# botocore 1.44.8: while a role cannot be renewed, each request to DynamoDB first asks STS twice.
#
# Behaviour: the credentials of an assumed role are renewed in the last 15 minutes before they end.
# In the first 5 of these a failure is logged, and the credentials are used on. There is no pause
# before the next attempt: each request makes one for its endpoint, which depends on the account,
# and one for its signature. Each is a request to STS in the caller's thread, with retries of its
# own if the error is transient, and logs a warning with the whole traceback.
#
# Why it matters: a minute without STS, or a changed trust policy, triples the requests of a process
# whose credentials are valid, adds the latency of STS to each of them, writes over 20 lines of log
# for each, and keeps STS busy with all processes that use the role.
#
# Expected: an attempt that fails is not repeated before some seconds have passed, as there are
# still minutes to go; and one line in the log.
#
# Source: botocore/credentials.py, RefreshableCredentials._refresh, which keeps no time of the last
# attempt, _protected_refresh, and account_id beside get_frozen_credentials, both of which call it;
# botocore/regions.py, EndpointRulesetResolver._resolve_param_as_builtin.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile botocore==1.44.8
cat > "$work/config" <<'INI'
[profile base]
aws_access_key_id = any
aws_secret_access_key = any
[profile worker]
role_arn = arn:aws:iam::123456789012:role/worker
source_profile = base
region = eu-west-1
INI
unset AWS_DEFAULT_REGION AWS_REGION AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
AWS_CONFIG_FILE="$work/config" AWS_SHARED_CREDENTIALS_FILE="$work/none" \
    AWS_EC2_METADATA_DISABLED=true "$work/bin/python" - <<'PYTHON'
import io
import logging
import sys
from datetime import datetime, timedelta, timezone

import botocore
from botocore.awsrequest import AWSResponse
from botocore.session import Session

ROLE = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>any</AccessKeyId><SecretAccessKey>any</SecretAccessKey>
<SessionToken>any</SessionToken><Expiration>{:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>
</AssumeRoleResult></AssumeRoleResponse>"""
DENIAL = '<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>'


class Body:
    def __init__(self, text):
        self.text = text

    def stream(self, **kwargs):
        yield self.text.encode()


def requests(minutes):
    """What three calls send, by service, and how many lines they log, none of which is sent."""
    sent, log = [], io.StringIO()
    ends = datetime.now(timezone.utc) + timedelta(minutes=minutes)

    def respond(request, **kwargs):
        service = request.url.split('/')[2].split('.')
        sent.append('STS' if 'sts' in service else 'DynamoDB')
        if sent[-1] == 'DynamoDB':
            return AWSResponse(request.url, 200, {}, Body('{"TableNames": []}'))
        if sent.count('STS') == 1:
            return AWSResponse(request.url, 200, {}, Body(ROLE.format(ends)))
        return AWSResponse(request.url, 403, {}, Body(DENIAL))

    handler = logging.StreamHandler(log)
    logging.getLogger('botocore').addHandler(handler)
    session = Session(profile='worker')
    session.register('before-send', respond)
    client = session.create_client('dynamodb')
    for _ in range(3):
        client.list_tables()
    logging.getLogger('botocore').removeHandler(handler)
    print(f'role ends in {minutes} minutes:', ', '.join(sent))
    print('   tracebacks:', log.getvalue().count('Traceback'), 'lines:', log.getvalue().count('\n'))
    return sent, log.getvalue().count('Traceback')


print('botocore', botocore.__version__)
early, late = requests(60), requests(12)
if early != (['STS'] + 3 * ['DynamoDB'], 0) or late != (3 * ['STS', 'STS', 'DynamoDB'], 5):
    sys.exit('The behaviour has changed.')
print('Each request asks STS twice, while the credentials are valid for 12 minutes.')
PYTHON
