"""A value's way through the codec, and through pickle, which it is compared with."""

import pickle

from manycore import _engine


def there_and_back(value):
    return _engine.decode(*_engine.encode(value))


def through_pickle(value):
    return pickle.loads(pickle.dumps(value, protocol=5))
