"""Counts the words of the standard library with a Celery worker whose results are in DynamoDB.

Run it by `make demo`.  The app is in wordcount.py; this file starts the worker, gives it the work
in two ways, and shows the result and what it took.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from celery import chord, group
from celery.app.backends import by_url

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from dyna_veggie import DynamoDBBackend  # noqa: E402
from proxy import Proxy, Usage  # noqa: E402

FILES = 400
PROCESSES = 2
TIMEOUT = 120   # seconds, for each step


class Progress:
    """Shows how far a step is.

    On a terminal it is one line that changes, elsewhere a line now and then.
    """

    def __init__(self, label: str, total: int = 0) -> None:
        self.label, self.total = label, total
        self.done = 0
        self.seconds = 0.0
        self.live = sys.stdout.isatty()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._ticker.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        self.seconds = time.monotonic() - self._start
        self._ended.set()
        self._ticker.join()
        total = f'{self.total} of {self.total}, ' if self.total else ''
        self._show(f'{total}done' if exc_type is None else 'stopped', end='\n')

    def _tick(self) -> None:
        ticks = 0
        while not self._ended.wait(0.1 if self.live else 5):
            ticks += 1
            self.seconds = time.monotonic() - self._start
            if self.total:
                self._show(f'{self.done} of {self.total}', bar=self.done / self.total)
            else:
                self._show('|/-\\'[ticks % 4] if self.live else 'waiting')

    def _show(self, state: str, end: str = '', bar: float | None = None) -> None:
        state = f'{self.seconds:5.1f} s  {state}'
        if not self.live:
            print(f'{self.label:40} {state}', flush=True)
            return
        # one line, because only one can be cleared; many terminals wrap after the last column
        width = shutil.get_terminal_size().columns - 1
        room = max(width - len(state) - 1, 1)
        label = textwrap.shorten(self.label, room, placeholder='')
        line = f'{label:{min(room, 40)}} {state}'
        length = min(30, width - len(line) - 1)
        if bar is not None and length >= 5:
            line += f' {"#" * int(length * bar):.<{length}}'
        print(f'\r\033[K{line[:width]}', end=end, flush=True)


class WorkerDied(BaseException):
    """Like KeyboardInterrupt: it can come at any time, and nothing on the way handles it."""


@contextlib.contextmanager
def running_worker(log: Path) -> Iterator[None]:
    """A Celery worker.  If it dies, the caller's wait ends immediately, with WorkerDied."""
    command = [
        sys.executable, '-m', 'celery', '--quiet', '-A', 'wordcount', 'worker',
        '--pool', 'prefork', '--concurrency', str(PROCESSES), '--loglevel', 'WARNING',
        '--without-gossip', '--without-mingle', '--without-heartbeat',
    ]
    path = os.pathsep.join(filter(None, [str(HERE), str(ROOT), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'PYTHONPATH': path, 'TMPDIR': str(log.parent)}
    with log.open('wb') as output:
        # in a new session: a Ctrl-C reaches us alone, and we stop it
        worker = subprocess.Popen(command, env=environment, start_new_session=True,
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def check(*_: Any) -> None:
        if worker.poll() is not None:
            raise WorkerDied(f'the worker ended with exit code {worker.returncode}')

    try:
        signal.signal(signal.SIGCHLD, check)
        check()
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker.terminate()
        try:
            with Progress('stopping the worker'), contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(10)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)   # what is left of it
            worker.wait()


@dataclass(frozen=True)
class Run:
    name: str
    tasks: int
    seconds: float
    usage: Usage


def source_files() -> list[str]:
    """The largest modules of the standard library."""
    library = Path(os.__file__).parent
    others = {
        'encodings', 'pydoc_data', 'test', 'tests', 'idle_test', 'site-packages', 'dist-packages'}
    files = [file for file in library.rglob('*.py') if not others.intersection(file.parts)]
    files.sort(key=lambda file: (-file.stat().st_size, file))
    return [str(file) for file in files[:FILES]]


def run_group(tasks: Any, files: list[str], proxy: Proxy) -> tuple[dict[str, int], Run]:
    proxy.reset()
    counts = {}
    with Progress(f'a group of {len(files)} tasks', len(files)) as progress:
        def arrived(task_id: str, value: dict[str, int]) -> None:
            counts[task_id] = value
            progress.done += 1

        result = group(tasks.count_words.s(file) for file in files).apply_async()
        result.get(callback=arrived, timeout=TIMEOUT)
    merged = tasks.merge([counts[part.id] for part in result])
    return merged, Run('group', len(files), progress.seconds, proxy.usage())


def run_chord(tasks: Any, files: list[str], proxy: Proxy) -> tuple[dict[str, int], Run]:
    # asks past the proxy: what it reads for the line is no part of the cost of a chord
    watching = DynamoDBBackend(app=tasks.app, url=tasks.app.conf.result_backend.replace(
        quote(proxy.url, safe=''), quote(proxy.endpoint_url, safe='')))
    proxy.reset()
    with Progress(f'a chord of {len(files)} tasks and a merge', len(files)) as progress:
        result = chord([tasks.count_words.s(file) for file in files])(tasks.merge.s())

        def look() -> None:
            found = watching.chord_progress(result.parent.id)
            progress.done = found.counted if found else 0

        # the merge fails if a part does: no need to have Celery read every part as well
        merged = result.get(timeout=TIMEOUT, follow_parents=False, on_interval=look)
    return merged, Run('chord', len(files) + 1, progress.seconds, proxy.usage())


def show_result(counts: dict[str, int]) -> None:
    print(f'\nThe most common words in the {FILES} largest modules of the standard library:')
    words = list(counts.items())[:10]
    longest = min(40, shutil.get_terminal_size().columns - 20)
    for word, count in words:
        print(f'{word:10}{count:7,}  {"#" * round(longest * count / words[0][1])}')


def show_cost(runs: list[Run]) -> None:
    print(f'\n{"":10}  tasks  seconds     requests   read units  write units')
    for run in runs:
        figures = [run.usage.requests, run.usage.read_units, run.usage.write_units]
        totals = ''.join(f'{figure:13,.0f}' for figure in figures)
        print(f'{run.name:10}{run.tasks:7,}{run.seconds:9.1f}{totals}')
        print(f'{"  per task":26}' + ''.join(f'{figure / run.tasks:13.2f}' for figure in figures))


def demo(proxy: Proxy, log: Path) -> int:
    import wordcount  # only now, as it reads the environment

    backend, _ = by_url(wordcount.app.conf.result_backend, wordcount.app.loader)
    if backend is not DynamoDBBackend:
        print(f'dynamodb:// leads to {backend.__module__}.{backend.__qualname__}: '
              'install this checkout to make it lead to Dyna-Veggie (pip install -e .)',
              file=sys.stderr)
        return 1

    files = source_files()
    # sent before there is a worker: this makes the broker's files, and its result says that the
    # worker is ready
    first = wordcount.count_words.delay(files[0])
    with running_worker(log):
        with Progress('starting a worker, creating a table'):
            first.get(timeout=TIMEOUT)
        by_group, group_run = run_group(wordcount, files, proxy)
        by_chord, chord_run = run_chord(wordcount, files, proxy)
    show_result(by_chord)
    show_cost([group_run, chord_run])
    if by_group != by_chord:
        print('\nThe group and the chord counted differently.', file=sys.stderr)
        return 1
    return 0


def main() -> int:
    endpoint = os.environ.get('DYNAMODB_ENDPOINT')
    if not endpoint:
        print('DYNAMODB_ENDPOINT is not set: use `make demo`, which starts a DynamoDB.',
              file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix='dyna-veggie-') as folder, Proxy(endpoint) as proxy:
        log, broker = Path(folder, 'worker.log'), Path(folder, 'broker')
        broker.mkdir()
        os.environ['BROKER_FOLDER'] = str(broker)
        url = f'dynamodb://local/wordcount?endpoint_url={quote(proxy.url, safe="")}'
        os.environ['RESULT_BACKEND'] = url
        try:
            return demo(proxy, log)
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130
        except (Exception, WorkerDied) as exc:
            print(f'{type(exc).__name__}: {exc}', file=sys.stderr)
            if log.exists():
                last_lines = log.read_text(errors='replace').splitlines()[-30:]
                print('The end of the worker\'s log:', *last_lines, sep='\n  ', file=sys.stderr)
            return 1


if __name__ == '__main__':
    sys.exit(main())
