#!/usr/bin/env bash
# moto 5.2.5 with py-partiql-parser 0.6.3: INSERT binds no parameters, and its batch is lost.
#
# Behaviour: under mock_aws, batch_execute_statement with "INSERT INTO t VALUE {'id': ?}" and
# Parameters raises a TypeError of Python's own from the call ("Unsupported type ... Variable"). It
# is raised while the batch is validated, so none of its other statements are executed, either.
# The same INSERT with literals works, and so do the parameters of SELECT and UPDATE.
#
# Why it matters: parameters are the usual way to write PartiQL. Code that is right on DynamoDB
# fails here with an error that is no ClientError, and that names neither the statement nor moto.
#
# Expected: '?' is bound in INSERT as it is in SELECT and UPDATE. If that is not supported, the
# response of this statement has an Error, as on DynamoDB, and the others are executed.
#
# Source: py_partiql_parser/_internal/insert_parser.py, InsertParser.parse, which serializes the
# value before anything could be bound; parser.py beside it, DynamoDBStatementParser.parse, which
# passes the parameters to SELECT and UPDATE only; moto/dynamodb/models/__init__.py,
# DynamoDBBackend.batch_execute_statement, whose validation parses outside of its `try`.
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
from moto import mock_aws

LITERAL = {'Statement': "INSERT INTO t VALUE {'id': 'a'}"}
BOUND = {'Statement': "INSERT INTO t VALUE {'id': ?}", 'Parameters': [{'S': 'b'}]}
OTHER = {'Statement': "INSERT INTO t VALUE {'id': 'c'}"}
UPDATE = {'Statement': 'UPDATE t SET n = ? WHERE id = ?', 'Parameters': [{'N': '1'}, {'S': 'a'}]}
SELECT = {'Statement': 'SELECT n FROM t WHERE id = ?', 'Parameters': [{'S': 'a'}]}


def execute(*statements):
    try:
        found = client.batch_execute_statement(Statements=list(statements))['Responses']
    except Exception as exc:  # whatever it is, it is the finding
        found = f'{type(exc).__name__}: {exc}'
    for statement in statements:
        print(statement['Statement'], statement.get('Parameters', ''))
    print('    ->', found)
    return found


print('moto', version('moto'), 'py-partiql-parser', version('py-partiql-parser'))
with mock_aws():
    client = boto3.client('dynamodb', region_name='eu-west-1',
                          aws_access_key_id='any', aws_secret_access_key='any')
    client.create_table(
        TableName='t', BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}])
    literal, update, select = execute(LITERAL), execute(UPDATE), execute(SELECT)
    bound, mixed = execute(BOUND), execute(OTHER, BOUND)
    items = client.scan(TableName='t')['Items']
    print('items:', items)
for wanted in (
        literal == update == [{'TableName': 't'}],
        select == [{'TableName': 't', 'Item': {'n': {'N': '1'}}}],
        bound == mixed and str(bound).startswith('TypeError: Unsupported type'),
        items == [{'id': {'S': 'a'}, 'n': {'N': '1'}}]):
    if not wanted:
        sys.exit('The behaviour has changed.')
print('INSERT with parameters raises TypeError, and the batch that holds it is not executed.')
PYTHON
