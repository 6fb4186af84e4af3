"""ruff and mypy on all that is Python here, or on the files that are named: `make lint`.

The module has mypy ignore its errors, for the sake of the projects that have a copy of it.  Here
mypy reads it without that line.
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ['dyna_veggie.py', 'test_dyna_veggie.py', 'tools', 'examples', 'benchmarks']
IGNORING = '\n# mypy: ignore-errors\n'


def run(tool: str, *arguments: str) -> bool:
    return subprocess.run([sys.executable, '-m', tool, *arguments], cwd=ROOT).returncode == 0


def main(sources: list[str]) -> int:
    module = (ROOT / 'dyna_veggie.py').read_text('utf-8')
    assert module.count(IGNORING) == 1
    with tempfile.TemporaryDirectory() as folder:
        checked = Path(folder, 'dyna_veggie.py')
        checked.write_text(module.replace(IGNORING, '\n\n'), 'utf-8')
        good = [run('ruff', 'check', '--config', 'tools/ruff.toml', 'setup.py', *sources),
                run('mypy', '--config-file', 'tools/mypy.ini',
                    '--shadow-file', 'dyna_veggie.py', str(checked), *sources)]
    return 0 if all(good) else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:] or SOURCES))
