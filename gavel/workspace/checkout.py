"""The checkout of Gavel: the folder with app.py and cdk.json, from which stages are synthesised and deployed."""

from pathlib import Path

from retrieval.errors import MissingPrerequisite

INSTALLED = Path(__file__).resolve().parents[2]


def find_checkout() -> Path | None:
    """Return the checkout that this package runs from, else the working folder if it is one, else None."""
    for candidate in (INSTALLED, Path.cwd()):
        if (candidate / "app.py").is_file() and (candidate / "cdk.json").is_file():
            return candidate
    return None


def require_checkout() -> Path:
    """Return the checkout.

    Raises:
        MissingPrerequisite: Gavel is installed as a package, and the working folder is no checkout.
    """
    checkout = find_checkout()
    if checkout is None:
        raise MissingPrerequisite(
            f"{Path.cwd()} is no checkout of Gavel, and deploying needs its app.py and cdk.json: change to one"
        )
    return checkout
