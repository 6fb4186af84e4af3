"""A broker that redelivers what a killed worker left, and delivers some messages twice.

These are Celery's settings for it, like those of examples/broker.py, which it extends.  The workers
of the class Workers in test_dyna_veggie.py use it.  Environment variables: BROKER_FOLDER, and
DELIVERED_TWICE, the share of messages that are delivered twice.
"""
from __future__ import annotations

import copy
import glob
import os
import random
import time
import uuid
from typing import Any

from kombu.utils.json import dumps

import broker

draw = random.Random(5)


class Channel(broker.Channel):
    """Knows its folders from its options: kombu remembers the class for the next folder as well."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        share = self.transport_options['delivered_twice']
        # nothing is drawn if the share is 0: which tests ran before does not change what is drawn
        twice = share and draw.random() < share and payload['headers'].get('task') != 'total'
        for message in [payload, copy.deepcopy(payload)] if twice else [payload]:
            tag = message['properties']['delivery_tag'] = str(uuid.uuid4())
            path = os.path.join(self.data_folder_out, f'{time.monotonic_ns():020}_{tag}')
            with open(f'{path}.part', 'w', encoding='utf-8') as file:
                file.write(dumps(message))
            os.rename(f'{path}.part', f'{path}.{queue}.msg')

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        super().basic_ack(delivery_tag, multiple)
        self._delete_unacked(delivery_tag)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().basic_reject(delivery_tag, requeue)
        self._delete_unacked(delivery_tag)

    def _delete_unacked(self, delivery_tag: str) -> None:
        for name in glob.glob(f'{self.processed_folder}/*_{delivery_tag}.*'):
            os.unlink(name)


class Transport(broker.Transport):
    Channel = Channel


broker_url = broker.broker_url
broker_transport = 'redelivering:Transport'
broker_transport_options = {
    **broker.broker_transport_options,
    'store_processed': True,
    'processed_folder': broker.FOLDER + '-unacked',
    'delivered_twice': float(os.environ['DELIVERED_TWICE']),
}
worker_enable_remote_control = broker.worker_enable_remote_control
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 8
