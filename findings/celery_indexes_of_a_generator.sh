#!/usr/bin/env bash
# Celery 5.7.0: a chord's header gives its tasks other indexes as a generator than as a list.
#
# Behaviour: the header is a task, two empty chains, a task, and a group of two. As a list its four
# tasks have the indexes from 0 to 3, each once. As a generator they have 0, 3, and in the group 0
# and 1: empty chains are not sent, but keep their places, and the tasks of a group start at 0
# again, so that two tasks of one chord have the same index.
#
# Why it matters: the index is what a backend orders the values by. Celery's Redis backend sorts by
# it, so the body gets those of the first task and of the group before that of the second task. A
# backend that counts by index finds gaps and repeats. list(...) around the generator mends it.
#
# Expected: each index once, in the order in which the tasks are yielded.
#
# Source: celery/canvas.py, group._freeze_unroll, which takes a list's groups apart and counts the
# tasks; group._freeze_tasks and _prepared, which number what a generator yields, and the tasks of
# a group in it, before empty chains are dropped; celery/backends/redis.py,
# RedisBackend.on_chord_part_return, which hands the index on as the score of a sorted set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0
cd "$work"
"$work/bin/python" - <<'PYTHON'
import sys

import celery
from celery import Celery, chain, chord, group
from celery.signals import before_task_publish

app = Celery('app', broker='memory://', backend='cache+memory://')
sent = []


@app.task
def add(number):
    return number


@app.task
def total(numbers):
    return numbers


@before_task_publish.connect
def note(headers=None, body=None, **kwargs):
    if headers['task'].endswith('add'):
        sent.append((body[0][0], headers['group_index']))


def header():
    yield add.s(10)
    yield chain()
    yield chain()
    yield add.s(11)
    yield group(add.s(12), add.s(13))


def indexes(tasks):
    sent.clear()
    chord(tasks)(total.s())
    return dict(sent)


print('celery', celery.__version__, '- index by argument')
as_list, as_generator = indexes(list(header())), indexes(header())
print('list(header())', as_list)
print('header()      ', as_generator)
sys.exit((sorted(as_list.values()), as_generator) != (
    [0, 1, 2, 3], {10: 0, 11: 3, 12: 0, 13: 1}))
PYTHON
