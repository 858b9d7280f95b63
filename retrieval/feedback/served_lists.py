"""Proofs that a search returned an item at a position: short MACs in its response, which buyers' events send back (ADR 22)."""

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta

from retrieval.contracts.items import epoch_ms, moment_of, query_text
from retrieval.errors import InvalidSettings

MIN_KEY_BYTES = 32
PROOF_BYTES = 12  # 16 characters, one of 2 ** 96 values
LIST_ID_BYTES = 9
IPV6_CLIENT_BITS = 64  # prefix of one household or server, which may choose the other bits of its address freely
CLOCKS_APART = timedelta(minutes=1)  # largest difference between the clocks of servers that share a key
LONGEST_OPEN = timedelta(days=30)  # a list may stay open in a tab for days, and a bid comes later still


class ServedLists:
    """A signer of result lists, which later verifies the events on them. Threads may share it."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Hold the keys.

        Args:
            keys: secret keys. The first one signs and all verify, so that a new key can be put before an old one. Without keys no
                list is signed and no event is verified.
        """
        self._keys = [hashlib.sha256(key).digest() for key in keys]

    def sign(self, query: str, item_ids: Sequence[str], first: int, now: datetime) -> tuple[str | None, list[str | None]]:
        """Sign one list.

        Args:
            query: text of the query that was searched for.
            item_ids: ids of the items, in the order of the list.
            first: position of the first item in the whole ranking, from 1.
            now: present time in UTC.

        Returns:
            The query_id of the list, which contains `now` in ms, and one proof per item. Without keys both are None.
        """
        if not self._keys:
            return None, [None] * len(item_ids)
        query_id, query = f"{epoch_ms(now):x}.{secrets.token_urlsafe(LIST_ID_BYTES)}", query_text(query)
        return query_id, [_proof(self._keys[0], query_id, query, item, place) for place, item in enumerate(item_ids, first)]

    def served_at(self, query_id: str, query: str, item_id: str, position: int, proof: str, now: datetime) -> datetime | None:
        """Return the UTC time, in whole ms, when a list was served; None if the proof is wrong or older than LONGEST_OPEN."""
        expected = [_proof(key, query_id, query_text(query), item_id, position) for key in self._keys]
        if not any(hmac.compare_digest(one.encode(), proof.encode(errors="replace")) for one in expected):
            return None
        served = moment_of(int(query_id.split(".")[0], 16))
        return served if now - LONGEST_OPEN <= served <= now + CLOCKS_APART else None

    def client(self, address: str) -> str:
        """Return a keyed hash of a public network address, 16 hexadecimal digits.

        Args:
            address: address of the client, as the server sees it.

        Returns:
            The hash; empty without a key, and for an address that is not public, because many clients share the address of a proxy.
        """
        network = client_network(address)
        if network is None or not network.network_address.is_global or not self._keys:
            return ""
        return hmac.digest(self._keys[0], f"client {network}".encode(), "sha256").hex()[:16]


UNSIGNED = ServedLists()


def client_network(address: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address; None for other text."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    return ipaddress.ip_network((parsed, IPV6_CLIENT_BITS if parsed.version == 6 else parsed.max_prefixlen), strict=False)


def parse_keys(text: bytes, source: str) -> list[bytes]:
    """Return the keys in a text, in their order.

    Args:
        text: keys of MIN_KEY_BYTES bytes or more, separated by white space or commas.
        source: name of the file or variable, for the message.

    Raises:
        InvalidSettings: the text holds no key, or a key that is too short.
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
