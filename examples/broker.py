"""A broker in a folder, so that none needs to be installed.

These are Celery's settings for kombu's file-system transport.
"""
import os
import time
import uuid
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps

FOLDER = os.environ['BROKER_FOLDER']


class Channel(filesystem.Channel):
    """Its messages appear whole.

    kombu opens a message's file under its final name and writes it then: a worker that looks in
    between finds an empty message, and dies of it.
    """

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        path = os.path.join(self.data_folder_out, f'{time.monotonic_ns():020}_{uuid.uuid4()}')
        with open(f'{path}.part', 'w', encoding='utf-8') as file:
            file.write(dumps(payload))
        os.rename(f'{path}.part', f'{path}.{queue}.msg')


class Transport(filesystem.Transport):
    Channel = Channel


broker_url = 'filesystem://localhost'
broker_transport = 'broker:Transport'
broker_transport_options = {
    'data_folder_in': FOLDER,
    'data_folder_out': FOLDER,
    'control_folder': os.path.join(FOLDER, 'control'),
    'polling_interval': 0.02,
}
worker_enable_remote_control = False    # its messages would be one more thing to poll for
