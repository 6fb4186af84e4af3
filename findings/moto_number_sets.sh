#!/usr/bin/env bash
# moto 5.2.5: ADD and DELETE compare the members of a number set as texts, conditions by value.
#
# Behaviour: under mock_aws, ADD of {1.0} to {1, 2} makes a set of the three texts 1, 1.0 and 2, and
# DELETE of {2.00} removes nothing. A condition on the same set compares values: contains() finds
# 1.00, and size() is 2, although three members are returned.
#
# Why it matters: Decimal('1'), Decimal('1.0') and Decimal('1E+0') come from the same program, and
# are equal in Python. A set that counts each number once, as for the parts of a job, counts too
# many in the response, and a part that is taken out stays in.
#
# Expected: {1, 2}, and then {1}, as DynamoDB Local 1.25.1 has it. DynamoDB compares numbers by
# value, in sets, too.
#
# Source: moto/dynamodb/parsing/executors.py, AddExecutor.execute and DeleteExecutor.execute (`in`
# on lists of texts); moto/dynamodb/models/dynamo_type.py, DynamoType.cast_value, which conditions
# use, and which makes a set of Decimals.
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


def update(expression, values, **options):
    """The set after an update, or None if its condition is not met."""
    try:
        attributes = client.update_item(
            TableName='table', Key={'id': {'S': 'a'}}, UpdateExpression=expression,
            ExpressionAttributeValues=values, ReturnValues='ALL_NEW', **options)['Attributes']
    except client.exceptions.ConditionalCheckFailedException:
        attributes = None
    found = attributes and sorted(attributes['parts']['NS'])
    print(expression, options.get('ConditionExpression', ''), values, '->', found)
    return found


print('moto', version('moto'))
with mock_aws():
    client = boto3.client('dynamodb', region_name='eu-west-1',
                          aws_access_key_id='any', aws_secret_access_key='any')
    client.create_table(
        TableName='table', BillingMode='PAY_PER_REQUEST',
        KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}],
        AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}])
    seen = [
        update('ADD parts :x', {':x': {'NS': ['1', '2']}}),
        update('DELETE parts :x', {':x': {'NS': ['2.00']}}),
        update('ADD parts :x', {':x': {'NS': ['1.0']}}),
        update('SET checked = :x', {':x': {'N': '1.00'}},
               ConditionExpression='contains(parts, :x)'),
        update('SET checked = :x', {':x': {'N': '2'}}, ConditionExpression='size(parts) = :x'),
        update('SET checked = :x', {':x': {'N': '3'}}, ConditionExpression='size(parts) = :x'),
    ]
if seen != 2 * [['1', '2']] + 3 * [['1', '1.0', '2']] + [None]:
    sys.exit('The behaviour has changed.')
print('DELETE of 2.00 leaves 2 in the set, and ADD of 1.0 to 1 makes three members of size 2.')
PYTHON
