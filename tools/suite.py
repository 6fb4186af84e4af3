"""Runs the tests with pytest, in several processes: `make test`, `make test-all`.

    python tools/suite.py [--all] [ARGUMENT OF PYTEST]...

It says how many tests there are and about how long they take, and after a failure shows the
engine's log.  Without --all it leaves out tests that are marked as slow.
"""
from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = '4'     # on two cores: most tests wait more than they compute
GUESS = 0.25        # seconds a test, where the tests have not been run before
LOG_LINES = 200     # of the engine's log, after a failure


def _count(number: int, one: str, more: str = '') -> str:
    return f'{number} {one}' if number == 1 else f'{number:,} {more or one + "s"}'


class Suite:
    """A plugin of pytest's main process; pytest-xdist's processes collect and run the tests."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.tests = 0

    def pytest_configure(self, config: Any) -> None:
        self.config = config
        option = config.option
        self.processes = option.numprocesses or 1
        # what the time of a test depends on
        self.key = (f'suite/{option.markexpr or "all"}, {self.processes} processes, '
                    f'{os.environ.get("ENGINE", "any engine")}')

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.announce(len(ids))

    def pytest_collection_finish(self, session: Any) -> None:
        if session.items:   # with pytest-xdist, the main process has none
            self.announce(len(session.items))

    def announce(self, tests: int) -> None:
        if self.tests:  # every process collects
            return
        self.tests = tests
        each = self.config.cache.get(self.key, None)
        seconds = tests * (each or GUESS)
        about = f'{seconds / 60:.0f} min' if seconds >= 90 else f'{seconds:.0f} s'
        terminal = self.config.pluginmanager.get_plugin('terminalreporter')
        terminal.write_line(
            f'{_count(tests, "test")} in {_count(self.processes, "process", "processes")}: about '
            f'{about}, ' + ('as in the last run here' if each else 'on two cores'))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == 0 and self.tests >= 100:
            self.config.cache.set(self.key, (time.monotonic() - self.began) / self.tests)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        log = os.environ.get('DYNAMODB_LOG')
        if log and terminalreporter.stats.keys() & {'failed', 'error'}:
            lines = Path(log).read_text(errors='replace').splitlines()[-LOG_LINES:]
            terminalreporter.section(f'the last {len(lines)} lines of the engine\'s log')
            terminalreporter.write_line('\n'.join(lines))


def main(arguments: list[str]) -> int:
    marks = [] if '--all' in arguments else ['-m', 'not slow']
    return pytest.main(
        ['-c', str(ROOT / 'tools/pytest.ini'), '--rootdir', str(ROOT), '-n', PROCESSES, *marks,
         *(argument for argument in arguments if argument != '--all')],
        plugins=[Suite()])


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
