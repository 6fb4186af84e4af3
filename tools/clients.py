"""Has children of a process, or its sub-interpreters, be clients, for test_dyna_veggie.py.

    python tools/clients.py fork|forkserver|spawn|interpreters

In the environment of worker_tasks.py, with a worker of its app elsewhere.
"""
from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import pickle
import queue
import sys
import threading
from concurrent import futures
from typing import Any

SECONDS = 60  # for what takes one


async def awaited(*results: Any) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*results), SECONDS)


def use(pickled: bytes, name: str) -> str:
    """Does what clients do, in a process or an interpreter that has never done so."""
    from celery import chord, group
    app, late, members = pickle.loads(pickled)
    part, called = app.signature('part'), queue.Queue[Any]()
    app.AsyncResult('never').then(called.put)  # its end does not wait for that
    late.then(lambda result: called.put(result.get()))
    members.then(lambda results: called.put(results.get()))
    app.backend.store_result(f'{name} runs', name, 'SUCCESS')
    assert late.get(timeout=SECONDS) == 'late'
    assert members.get(timeout=SECONDS) == [0, 1, 2]
    assert sorted((called.get(timeout=SECONDS) for _ in range(2)), key=str) == [[0, 1, 2], 'late']

    soon = part.clone(args=('soon', 0.1)).apply_async()
    soon.then(lambda result: called.put(result.get()))
    assert called.get(timeout=SECONDS) == 'soon'  # while nothing here waits for results
    header = [part.clone(args=(number, 0.1)) for number in range(3)]
    sent = [app.AsyncResult(soon.id), group(header, app=app).apply_async(),
            chord(header, app=app)(app.signature('total'))]
    assert asyncio.run(awaited(*sent)) == ['soon', [0, 1, 2], [0, 1, 2]]
    assert sent[-1].get(timeout=SECONDS) == [0, 1, 2]
    assert [app.AsyncResult(f'{name}/{number}').get(timeout=SECONDS)
            for number in store(app, name, 8)] == list(range(8))
    return name


def store(app: Any, name: str, count: int) -> range:
    """Stores results in as many threads, so that they share requests."""
    threads = [threading.Thread(target=lambda number=number: app.backend.store_result(
        f'{name}/{number}', number, 'SUCCESS')) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return range(count)


class Busy:
    """A process that stores results in groups, waits for one, and has a callback for it."""

    def __init__(self, app: Any) -> None:
        self.app, self.late = app, app.AsyncResult('late')
        self.stopped, self.found = threading.Event(), queue.Queue[Any]()
        self.stored: list[str] = []
        self.late.then(lambda result: self.found.put(result.get()))
        self.threads = [threading.Thread(target=self._wait, daemon=True)] + [
            threading.Thread(target=self._store, args=(number,), daemon=True)
            for number in range(4)]
        for thread in self.threads:
            thread.start()
        while len(self.stored) < 8:
            self.stopped.wait(0.01)

    def _wait(self) -> None:
        self.found.put(self.app.AsyncResult('late').get(timeout=SECONDS))

    def _store(self, writer: int) -> None:
        for number in itertools.count():
            if self.stopped.wait(0.02):
                return
            id = f'{writer}/{number}'
            self.app.backend.store_result(id, id, 'SUCCESS')
            self.stored.append(id)

    def stop(self) -> None:
        before = len(self.stored)
        while len(self.stored) < before + 8:  # they go on
            self.stopped.wait(0.01)
        self.stopped.set()
        for thread in self.threads:
            thread.join(SECONDS)
        assert [self.found.get(timeout=SECONDS) for _ in range(2)] == ['late', 'late']
        results = self.app.ResultSet([self.app.AsyncResult(id) for id in self.stored])
        assert results.get(timeout=SECONDS) == self.stored


def main(method: str) -> None:
    from worker_tasks import app
    busy = Busy(app)
    members = app.GroupResult('members', [app.AsyncResult(f'member-{n}') for n in range(3)])
    pickled = pickle.dumps((app, busy.late, members))
    names, process = ['first', 'second'], None
    if method == 'interpreters':
        pool: Any = futures.InterpreterPoolExecutor(2)  # type: ignore[attr-defined]
        jobs = names
    else:
        context: Any = multiprocessing.get_context(method)
        pool, jobs = futures.ProcessPoolExecutor(1, context), names[:1]
        process = context.Process(target=use, args=(pickled, names[1]))
        process.start()
    with pool:
        outcomes = [pool.submit(use, pickled, name) for name in jobs]
        app.ResultSet([app.AsyncResult(f'{name} runs') for name in names]).get(timeout=SECONDS)
        for number, member in enumerate(members):
            app.backend.store_result(member.id, number, 'SUCCESS')
        app.backend.store_result('late', 'late', 'SUCCESS')
        assert [outcome.result(SECONDS) for outcome in outcomes] == jobs
    if process:
        process.join(SECONDS)
        assert process.exitcode == 0, process
    busy.stop()
    print('all right')


if __name__ == '__main__':
    import clients  # what interpreters unpickle
    clients.main(sys.argv[1])
