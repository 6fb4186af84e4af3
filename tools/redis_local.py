"""Starts a Redis server, for the benchmarks and for Celery's integration tests.

    with redis_server(folder) as port:
        ...
"""
from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

INSTALL = 'there is no redis-server (on Debian: apt install redis-server)'


def is_installed() -> bool:
    return shutil.which('redis-server') is not None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """The port of a Redis server that responds, for as long as the block runs."""
    port = free_port()
    server = subprocess.Popen(
        ['redis-server', '--port', str(port), '--save', '', '--dir', str(folder)],
        stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port)):
                break
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()
