# ruff: noqa: F403, F405, I001
# mypy: disable-error-code="name-defined"
"""New tests of the sections that issue 19 changes."""
from __future__ import annotations

from test_dyna_veggie import *


# section: Results

def remove_the_read(results: Any) -> list[Any]:
    values = []
    for id, meta in results.iter_native():
        results.remove(id)
        values.append(meta['result'])
    return values


def read_again(results: Any) -> list[Any]:
    results.get()
    values = []
    for _, meta in results.iter_native():
        results.forget()  # takes the metas out of all members
        values.append(meta['result'])
    return values


def joined(results: Any) -> list[Any]:
    values: list[Any] = []

    def callback(id: str, value: Any) -> None:
        results.remove(id)
        values.append(value)

    results.join(callback=callback)
    return values


@pytest.mark.parametrize('read', [
    remove_the_read, read_again, joined,
    lambda results: results.get(on_message=lambda meta: results.clear()),
    lambda results: [each['result'] for _, each in results.iter_native(
        on_message=lambda meta: results.clear())],
], ids=['remove', 'forget', 'join', 'clear', 'clear-iter'])
def test_a_set_is_read_as_it_was_though_it_changes_meanwhile(
        app: Celery, backend: dv.DynamoDBBackend, read: Callable[[Any], list[Any]]) -> None:
    results = result_set(app, ready_tasks(backend, 5))
    assert read(results) == list(range(5))


@pytest.mark.parametrize(('read', 'expected'), [
    (lambda results: results.get(), [0, 1, 2, [3, 4]]),
    (lambda results: results.join(), [0, 1, 2, [3, 4]]),
    (lambda results: [id for id, _ in results.iter_native()][-1], 'inner'),
    (lambda results: results.completed_count(), 4),
], ids=['get', 'join', 'iter_native', 'completed_count'])
def test_a_set_is_read_as_it_was_though_another_thread_empties_it(
        app: Celery, backend: dv.DynamoDBBackend, proxy: Proxy, read: Callable[[Any], Any],
        expected: Any) -> None:
    ids = ready_tasks(backend, 5)
    members = [app.AsyncResult(id) for id in ids]
    inner = app.GroupResult('inner', members[3:])
    results = app.GroupResult('outer', [*members[:3], inner])
    # while the request is in flight, in the thread of the proxy
    proxy.faults = lambda operation, body: results.clear()
    assert read(results) == expected
