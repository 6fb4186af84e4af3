#!/usr/bin/env bash
# OpenTelemetry's instrumentation of Celery 0.66b2: a task that could not be sent stays the parent
# of all that its thread traces afterwards.
#
# Behaviour: the span of a task that is being sent becomes the current one before it is published,
# and ends after it was published. If that raises an error, as for an argument that is not JSON, or
# while the broker is down, the span stays current although the caller has handled the error. All
# later spans of that thread become its children: one trace, whose root never ends, so that it is
# never exported.
#
# Why it matters: one such error in a thread of a web server makes all later requests of that thread
# one endless trace without a root. Context that is sent with tasks points there, too. It heals only
# when the thread or process ends.
#
# Expected: the span ends with the error, as a `with` block around the call would end it, and the
# context is what it was before.
#
# Source: opentelemetry/instrumentation/celery/__init__.py, CeleryInstrumentor._trace_before_publish
# and _trace_after_publish, the only place that ends it; celery/app/amqp.py, which sends
# after_task_publish only after a publish that raised no error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/pip" install -qq --no-compile celery==5.7.0 kombu==5.7.0 \
    opentelemetry-instrumentation-celery==0.66b2 opentelemetry-sdk==1.45.2
"$work/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import celery
from kombu.exceptions import EncodeError
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()
app = celery.Celery(broker='memory://', backend='disabled://')
tracer = trace.get_tracer('web server')


@app.task(name='work')
def work(argument):
    pass


def serve(*arguments):
    """Two requests, each of which is a trace of its own, after sending the task."""
    for argument in arguments:
        try:
            work.delay(argument)
        except EncodeError as exc:
            print('sent:', exc)
    for path in '/a', '/b':
        with tracer.start_as_current_span(path):
            pass
    spans = exporter.get_finished_spans()
    exporter.clear()
    for span in spans:
        print(f'  exported: {span.name:17} parent: {span.parent is not None}')
    requests = [span for span in spans if span.name.startswith('/')]
    return (len({span.context.trace_id for span in requests}),
            [span.parent is not None for span in requests],
            [span.name for span in spans if span not in requests])


print('opentelemetry-instrumentation-celery', version('opentelemetry-instrumentation-celery'))
before, after = serve(1), serve(object())
if (before, after) != ((2, [False, False], ['apply_async/work']), (1, [True, True], [])):
    sys.exit('The behaviour has changed.')
print('After a task that could not be sent, all requests are one trace, without its root.')
PYTHON
