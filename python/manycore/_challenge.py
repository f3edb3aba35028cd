"""Authentication: each end of a connection proves that it knows the key, and neither says it.

The protocol is the standard package's. One end sends `#CHALLENGE#` and a message of random bytes, the other answers
with the message's HMAC under the key, and hears `#WELCOME#` or `#FAILURE#`. The two generations of it are told apart by
what is sent:

- until CPython 3.11 the message has 20 bytes and the answer is a bare HMAC-MD5 of 16;
- from 3.12 on the message is longer and begins with the name of a digest in braces, and so does the answer. An end of
  the old generation takes such a message as it comes, name included, and answers in its own way, which is accepted.
"""

from __future__ import annotations

import os

from .context import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MESSAGE_LENGTH", "answer_challenge", "deliver_challenge", "load"]

MESSAGE_LENGTH = 40

_CHALLENGE = b"#CHALLENGE#"
_WELCOME = b"#WELCOME#"
_FAILURE = b"#FAILURE#"

_ALLOWED_DIGESTS = frozenset({b"md5", b"sha256", b"sha384", b"sha3_256", b"sha3_384"})
_MAX_DIGEST_LEN = max(map(len, _ALLOWED_DIGESTS))
# By these lengths what an old end sends is recognised: its challenge, and its answer.
_MD5ONLY_MESSAGE_LENGTH = 20
_MD5_DIGEST_LEN = 16
_LEGACY_LENGTHS = (_MD5ONLY_MESSAGE_LENGTH, _MD5_DIGEST_LEN)

#: No answer or challenge is longer; what is comes from somebody else and is not read.
_LONGEST = 256


def load() -> None:
    """Load what proving a key takes, before a thread of ours does it: see `_forks`."""
    import hmac as hmac


def _check_key(authkey: object) -> None:
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)}")


def _get_digest_name_and_payload(message: bytes) -> tuple[str, bytes]:
    """Split a message into the name of its digest and the rest; the name is empty for one of the old generation.

    Raises AuthenticationError if it is of neither.
    """
    if len(message) in _LEGACY_LENGTHS:
        return "", message
    name, brace, payload = message[1:].partition(b"}")
    if message[:1] == b"{" and brace and name in _ALLOWED_DIGESTS:
        return name.decode("ascii"), payload
    raise AuthenticationError(
        f"{message!r} is neither a challenge nor an answer: it has no known digest's name in front and not the length "
        "of an old one"
    )


def _digest(authkey: bytes, message: bytes, name: str) -> bytes:
    import hmac

    return hmac.new(authkey, message, name).digest()


def _create_response(authkey: bytes, message: bytes) -> bytes:
    """Return the answer to a challenge, of the generation the challenge is of."""
    name, _ = _get_digest_name_and_payload(message)
    if not name:
        try:
            return _digest(authkey, message, "md5")
        except ValueError:
            # An interpreter without MD5. An old end will not understand this, but it is the best there is.
            name = "sha256"
    return b"{%s}%s" % (name.encode("ascii"), _digest(authkey, message, name))


def _verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """Raise AuthenticationError unless `response` answers the challenge `message` under the key."""
    import hmac

    name, received = _get_digest_name_and_payload(response)
    name = name or "md5"
    try:
        expected = _digest(authkey, message, name)
    except ValueError:
        raise AuthenticationError(f"the answer uses {name}, which this interpreter has not") from None
    if len(received) != len(expected):
        raise AuthenticationError(f"expected a {name} digest of {len(expected)} bytes, got {len(received)}")
    if not hmac.compare_digest(expected, received):
        raise AuthenticationError("digest received was wrong")


def deliver_challenge(connection: Any, authkey: bytes, digest_name: str = "sha256") -> None:
    """Have the other end of `connection` prove that it knows the key. AuthenticationError if it does not."""
    _check_key(authkey)
    message = b"{%s}%s" % (digest_name.encode("ascii"), os.urandom(MESSAGE_LENGTH))
    connection.send_bytes(_CHALLENGE + message)
    response = connection.recv_bytes(_LONGEST)
    try:
        _verify_challenge(authkey, message, response)
    except AuthenticationError:
        connection.send_bytes(_FAILURE)
        raise
    connection.send_bytes(_WELCOME)


def answer_challenge(connection: Any, authkey: bytes) -> None:
    """Prove to the other end of `connection` that this one knows the key. AuthenticationError if it is not believed."""
    _check_key(authkey)
    message = connection.recv_bytes(_LONGEST)
    if not message.startswith(_CHALLENGE):
        raise AuthenticationError(f"expected a challenge, received {message!r}")
    message = message[len(_CHALLENGE) :]
    if len(message) < _MD5ONLY_MESSAGE_LENGTH:
        raise AuthenticationError(f"a challenge of {len(message)} bytes is too short to be safe")
    connection.send_bytes(_create_response(authkey, message))
    if connection.recv_bytes(_LONGEST) != _WELCOME:
        raise AuthenticationError("digest sent was rejected")
