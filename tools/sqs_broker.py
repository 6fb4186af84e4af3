"""Celery's settings for SQS as the broker, as moto's server plays it.

Environment variable: SQS, the server's host and port.
"""
import os

broker_url = f'sqs://local:local@{os.environ["SQS"]}'
broker_transport_options = {
    'region': 'us-east-1',
    'is_secure': False,
    # the server handles one request at a time: a long poll would hold up the others
    'wait_time_seconds': 0,
    'polling_interval': 0.05,
    'visibility_timeout': 600,
}
worker_prefetch_multiplier = 16
