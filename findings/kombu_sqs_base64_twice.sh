#!/usr/bin/env bash
# kombu 5.7.0: a task's arguments are base64 of base64 in SQS, so that 580 KB of them are too many.
#
# Behaviour: SQS takes messages of 1 MiB. kombu puts the arguments as base64 into the JSON of the
# message, and then sends that JSON as base64. Either adds a third: 300,000 characters become a
# message of 536,000, and a task with 600,000 is refused by SQS as too long. With the transport
# option sqs_base64_encoding=False the second one is left out, and the same task is sent.
#
# Why it matters: who keeps arguments below SQS's limit, with space for the headers, gets errors at
# 56 % of it, and pays more: SQS bills each 64 KB of a message as a request. The error is that of
# SQS, and names a size that no argument has.
#
# Expected: one encoding. JSON in base64 in JSON needs no other one to be valid text for SQS.
#
# Source: kombu/transport/virtual/base.py, Channel.body_encoding and encode_body;
# kombu/transport/SQS/__init__.py, Channel._put (sqs_base64_encoding);
# kombu/asynchronous/aws/sqs/message.py, BaseAsyncMessage.encode.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0 boto3==1.44.8 \
    botocore==1.44.8 moto==5.2.5
AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any AWS_EC2_METADATA_DISABLED=true \
    "$work/bin/python" - <<'PYTHON'
import sys

import boto3
import celery
import kombu
from botocore.exceptions import ClientError
from moto import mock_aws


def sent(characters, **options):
    """The characters of the message that is sent for an argument of so many, or SQS's error."""
    app = celery.Celery(broker='sqs://', backend='disabled://', set_as_current=False)
    app.conf.broker_transport_options = dict(options, region='eu-west-1')
    try:
        app.send_task('work', ['x' * characters])
    except ClientError as exc:
        found = exc.response['Error']['Message']
    else:
        client = boto3.client('sqs', region_name='eu-west-1')
        url = client.get_queue_url(QueueName='celery')['QueueUrl']
        found = len(client.receive_message(QueueUrl=url)['Messages'][0]['Body'])
    app.close()
    print(f'argument of {characters} characters, {options or "defaults"} -> {found}')
    return found


print('kombu', kombu.__version__)
with mock_aws():
    twice, once = sent(300_000), sent(300_000, sqs_base64_encoding=False)
    refused, taken = sent(600_000), sent(600_000, sqs_base64_encoding=False)
if not (1.77 < twice / 300_000 < 1.79 and 1.33 < once / 300_000 < 1.35 and taken < 1_048_576
        and 'must be shorter than 1048576 bytes' in str(refused)):
    sys.exit('The behaviour has changed.')
print('An argument takes 1.78 times its size, and SQS refuses 600,000 characters.')
PYTHON
