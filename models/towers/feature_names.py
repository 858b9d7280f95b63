"""Names of the structured features that an item tower may read, and the choice among them; without torch."""

from retrieval.errors import InvalidInput

CATEGORIES = ("category", "brand")
NUMBERS = ("current_price", "seller_rating", "bid_count")
ITEM_FEATURE_NAMES = (*CATEGORIES, *NUMBERS)
AUTO, NONE, ALL = "auto", "none", "all"


def parse_features(choice: str) -> tuple[str, ...]:
    """Return the names of a choice of features, in the order of ITEM_FEATURE_NAMES.

    Args:
        choice: "none", "all" or names joined by commas; "auto" gives all names, of which a run uses all or none.

    Raises:
        InvalidInput: a name is unknown, or "auto", "none" or "all" stands beside names.
    """
    if choice == NONE:
        return ()
    if choice in (AUTO, ALL):
        return ITEM_FEATURE_NAMES
    names = [name.strip() for name in choice.split(",")]
    for name in names:
        if name not in ITEM_FEATURE_NAMES:
            raise InvalidInput(
                f"there is no feature {name!r}; give auto, none, all, or some of {', '.join(ITEM_FEATURE_NAMES)} joined by commas"
            )
    return tuple(name for name in ITEM_FEATURE_NAMES if name in names)
