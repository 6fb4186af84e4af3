"""A Celery app that keeps its results in DynamoDB: it counts the words of files."""
import os
import re
from collections import Counter

from celery import Celery

# RESULT_BACKEND is dynamodb://eu-west-1/wordcount, say
app = Celery('wordcount', backend=os.environ['RESULT_BACKEND'])
app.config_from_object('broker')


@app.task
def count_words(path: str) -> dict[str, int]:
    """The file's most common words and how often each is there."""
    with open(path, encoding='utf-8', errors='replace') as file:
        words = re.findall('[a-z]{4,}', file.read().lower())
    return dict(Counter(words).most_common(40))


@app.task
def merge(counts: list[dict[str, int]]) -> dict[str, int]:
    """The sum of such counts."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common(40))
