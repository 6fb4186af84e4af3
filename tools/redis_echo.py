"""Our backend under a name that Celery's integration tests do not skip.

Many of them skip every result backend whose URL does not start with "redis", since they use Redis as the channel over which
tasks tell in which order they ran.  Here it is that channel, and the broker, but not the backend.
"""
from dyna_veggie import DynamoDBBackend

__all__ = ['DynamoDBBackend']
