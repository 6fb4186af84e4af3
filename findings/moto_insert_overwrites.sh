#!/usr/bin/env bash
# moto 5.2.5 with py-partiql-parser 0.6.3: INSERT replaces an item that exists.
#
# Behaviour: under mock_aws, an INSERT of PartiQL with the key of an item that exists succeeds, and
# the item is the new one, without the attributes of the old one. So it is with ExecuteStatement
# and with each statement of BatchExecuteStatement. DynamoDB, as DynamoDB Local 1.25.1, refuses
# it with DuplicateItem, and changes nothing.
#
# Why it matters: INSERT is the only write of PartiQL with which the first one wins, for a lock, or
# for an outcome that is stored once, and the only way to write many such items in one request.
# Under moto two owners get the lock, the last outcome stays, and the branch that handles
# DuplicateItem is never run, so that a test of it cannot be written.
#
# Expected: the error DuplicateItem: as a ClientError, and in the response of the batch.
#
# Source: moto/dynamodb/models/__init__.py, DynamoDBBackend.execute_statement, where an INSERT is a
# put_item without a condition.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile moto==5.2.5 py-partiql-parser==0.6.3 \
    docker==7.2.0 boto3==1.44.8 botocore==1.44.8
"$work/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import boto3
from botocore.exceptions import ClientError
from moto import mock_aws


def claim(owner, batch):
    """Insert the lock's item, and return what there is then."""
    statement = f"INSERT INTO locks VALUE {{'id': 'lock', '{owner}': 'owner'}}"
    try:
        if batch:
            found = client.batch_execute_statement(Statements=[{'Statement': statement}])
            outcome = found['Responses'][0].get('Error', 'inserted')
        else:
            client.execute_statement(Statement=statement)
            outcome = 'inserted'
    except ClientError as exc:
        outcome = exc.response['Error']
    item = client.get_item(TableName='locks', Key={'id': {'S': 'lock'}})['Item']
    print(statement, 'in a batch' if batch else '', '->', outcome, item)
    return outcome, sorted(item)


print('moto', version('moto'), 'py-partiql-parser', version('py-partiql-parser'))
with mock_aws():
    client = boto3.client('dynamodb', region_name='eu-west-1',
                          aws_access_key_id='any', aws_secret_access_key='any')
    client.create_table(
        TableName='locks', BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}])
    seen = [claim('a', batch=False), claim('b', batch=False), claim('c', batch=True)]
if seen != [('inserted', [owner, 'id']) for owner in 'abc']:
    sys.exit('The behaviour has changed.')
print('Three owners insert the same key, each with success, and the last one is stored.')
PYTHON
