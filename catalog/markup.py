"""Strip markup from texts of web pages."""

import html
import re

# A tag begins with a letter or a slash: "<5 ms" and "a < b" are no tags.
_TAG = re.compile(r"<(?:!--.*?--|/?[A-Za-z][^<>]*)>", re.DOTALL)


def plain_text(text: str) -> str:
    """Remove tags and comments, decode entities, fold white space.

    Args:
        text: HTML, or plain text, of which only the white space changes.

    Returns:
        The visible text in one line; decoded entities ("&lt;b&gt;") stay as text.
    """
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())
