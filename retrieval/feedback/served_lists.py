"""Proof that a search answered a query with an item at a position: a short MAC that comes back with the buyer's events (ADR 22)."""

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta

from retrieval.contracts.items import EPOCH, epoch_ms, query_text
from retrieval.errors import InvalidSettings

MIN_KEY_BYTES = 32
PROOF_BYTES = 12  # 16 characters; 2 ** 96 tries to guess one
LIST_ID_BYTES = 9
IPV6_CLIENT_BITS = 64  # a household's or a server's network; the rest of an address is free to its owner
CLOCKS_APART = timedelta(minutes=1)  # of the servers that share a key
LONGEST_OPEN = timedelta(days=30)  # a list may stay open in a tab for days, and a bid comes later still


class ServedLists:
    """Signs lists of search results, and verifies events on them later. Threads may share it."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Hold the keys.

        Args:
            keys: the first signs, all of them verify, so that a new key can be put before an old one. None: no list is signed,
                and no event is verified.
        """
        self._keys = [hashlib.sha256(key).digest() for key in keys]

    def sign(self, query: str, item_ids: Sequence[str], first: int, now: datetime) -> tuple[str | None, list[str | None]]:
        """Sign one list.

        Args:
            query: as it was searched for.
            item_ids: in their order.
            first: position of the first of them, from 1.
            now: UTC.

        Returns:
            The list's query_id, which holds `now` in ms, and a proof an item; None where there is no key.
        """
        if not self._keys:
            return None, [None] * len(item_ids)
        query_id, query = f"{epoch_ms(now):x}.{secrets.token_urlsafe(LIST_ID_BYTES)}", query_text(query)
        return query_id, [_proof(self._keys[0], query_id, query, item, place) for place, item in enumerate(item_ids, first)]

    def served_at(self, query_id: str, query: str, item_id: str, position: int, proof: str, now: datetime) -> datetime | None:
        """Return the moment when a list was served, in ms; None unless the proof holds and is at most LONGEST_OPEN old."""
        expected = [_proof(key, query_id, query_text(query), item_id, position) for key in self._keys]
        if not any(hmac.compare_digest(one.encode(), proof.encode(errors="replace")) for one in expected):
            return None
        served = EPOCH + timedelta(milliseconds=int(query_id.split(".")[0], 16))
        return served if now - LONGEST_OPEN <= served <= now + CLOCKS_APART else None

    def client(self, address: str) -> str:
        """Return a keyed hash of a public network address, 16 hexadecimal digits.

        Args:
            address: as the server sees it. One that is not public is a proxy's or this machine's and tells nobody apart.

        Returns:
            The hash; empty for an address that is not public, or without a key.
        """
        network = client_network(address)
        if network is None or not network.network_address.is_global or not self._keys:
            return ""
        return hmac.digest(self._keys[0], f"client {network}".encode(), "sha256").hex()[:16]


UNSIGNED = ServedLists()


def client_network(address: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network that counts as one client: an IPv4 address, or the /64 of an IPv6 one; None if this is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    return ipaddress.ip_network((parsed, IPV6_CLIENT_BITS if parsed.version == 6 else parsed.max_prefixlen), strict=False)


def parse_keys(text: bytes, source: str) -> list[bytes]:
    """Read keys with spaces, line ends or commas between them.

    Args:
        text: the keys, each of MIN_KEY_BYTES or more.
        source: file or variable, for the message.

    Raises:
        InvalidSettings: there is none, or one is too short.
    """
    keys = [key for key in re.split(rb"[\s,]+", text) if key]
    if not keys or min(map(len, keys)) < MIN_KEY_BYTES:
        raise InvalidSettings(
            f"{source} holds {len(keys)} keys, each must have {MIN_KEY_BYTES} characters or more; delete it, or write "
            "the output of `openssl rand -hex 32` into it. Lists that are open in browsers now will not be learnt from"
        )
    return keys


def _proof(key: bytes, query_id: str, query: str, item_id: str, position: int) -> str:
    message = json.dumps([query_id, query, item_id, position]).encode()
    return urlsafe_b64encode(hmac.digest(key, message, "sha256")[:PROOF_BYTES]).decode()
