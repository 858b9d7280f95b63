"""Texts that were written for a web page, without their markup."""

import html
import re

# A tag begins with a letter or a slash: "<5 ms" and "a < b" are no tags.
_TAG = re.compile(r"<(?:!--.*?--|/?[A-Za-z][^<>]*)>", re.DOTALL)


def plain_text(text: str) -> str:
    """Leave out tags and comments, read entities, fold white space.

    Args:
        text: HTML, or plain text, which comes back as it was but for its white space.

    Returns:
        The text that a reader of the page sees, in one line; what entities spell ("&lt;b&gt;") stays as text.
    """
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())
