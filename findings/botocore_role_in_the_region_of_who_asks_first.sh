#!/usr/bin/env bash
# botocore 1.44.8: the region in which a profile's role is assumed depends on who asks first.
#
# Behaviour: a profile has role_arn, source_profile and region = us-east-2. A client that is created
# for eu-west-1 assumes the role at STS of eu-west-1. If session.get_credentials() was called first,
# the very same client assumes it at STS of us-east-2: what finds credentials is made once, with the
# region of the client that was created last, and without one, with that of the session.
#
# Why it matters: a line that only looks whether there are credentials, in a log or a health check,
# moves requests to another region. With endpoints of STS in a private network, or a policy that
# denies other regions, the same program works or times out by the order of two calls.
#
# Expected: the region of the profile, or that of the client, in both orders.
#
# Source: botocore/session.py, Session._resolve_region_name, which keeps the region of the client
# that was created last, and Session._create_credential_resolver, which reads it once;
# botocore/credentials.py, create_credential_resolver, which else takes the session's.
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
region = us-east-2
INI
unset AWS_DEFAULT_REGION AWS_REGION AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
AWS_CONFIG_FILE="$work/config" AWS_SHARED_CREDENTIALS_FILE="$work/none" \
    AWS_EC2_METADATA_DISABLED=true "$work/bin/python" - <<'PYTHON'
import sys

import botocore
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from botocore.session import Session


class Denial:
    def stream(self, **kwargs):
        yield b'<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>'


def asked(looks_first):
    """The endpoints that get a request, none of which leaves this process."""
    session, urls = Session(profile='worker'), []

    def respond(request, **kwargs):
        urls.append(request.url)
        return AWSResponse(request.url, 403, {}, Denial())

    session.register('before-send', respond)
    if looks_first:
        assert session.get_credentials() is not None
    client = session.create_client('dynamodb', region_name='eu-west-1')
    try:
        client.list_tables()
    except ClientError as exc:
        assert exc.operation_name == 'AssumeRole', exc
    return sorted(set(urls))


print('botocore', botocore.__version__)
directly, after = asked(False), asked(True)
print('create_client("dynamodb", "eu-west-1")       ->', directly)
print('get_credentials(), then the same             ->', after)
sys.exit((directly, after) != (
    ['https://sts.eu-west-1.amazonaws.com/'], ['https://sts.us-east-2.amazonaws.com/']))
PYTHON
