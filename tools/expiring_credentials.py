"""Prints AWS credentials, as a credential_process: the first expire soon, the next last an hour.

Tests of credentials in test_dyna_veggie.py have botocore run this (credential_process there).  The
arguments are the numbers of the calls that fail: 1 is the first.  The file `called` in the working
directory has one x for each call.
"""
from __future__ import annotations

import datetime
import json
import os
import sys

with open('called', 'a') as file:
    file.write('x')
calls = os.path.getsize('called')
if str(calls) in sys.argv[1:]:
    sys.exit('no credentials today')
seconds = 60 if calls == 1 else 3660  # botocore takes 60 for about to expire
expiry = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
print(json.dumps({
    'Version': 1, 'AccessKeyId': f'AKID{calls}', 'SecretAccessKey': 'secret',
    'SessionToken': 'token', 'Expiration': expiry.isoformat()}))
