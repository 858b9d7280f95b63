"""Define every error that Gavel raises on purpose.

    GavelError
    ├── InvalidInput          the caller's data or flags break a contract
    │   ├── InvalidQuery      a value of a search request is not allowed
    │   │   ├── InvalidPhoto  a photo cannot be read, or must not be
    │   │   └── NoImageBranch the live tower reads no photos
    │   └── InvalidSettings   an environment variable or a settings file has a wrong value
    ├── UnknownItem           no item of the index has the id
    ├── TowerError            a tower artefact cannot be used
    │   └── TowerMismatch     index and encoder are of different towers
    ├── ReleaseError          a release is incomplete or damaged
    ├── IndexUnavailable      the index does not answer
    │   └── IndexMissing      nothing has been indexed yet
    ├── RankerUnavailable     the re-ranker does not answer
    ├── FeedbackUnavailable   interactions cannot be stored, read or erased
    ├── Overloaded            too many requests wait already; try again later
    ├── RequestAbandoned      the client closed the connection before the answer
    ├── FeatureMismatch       a re-ranker was trained on other features
    ├── AlreadyRunning        another process does the same work in the same place
    ├── FileUnwritable        a file cannot be written; an OSError, too
    └── MissingPrerequisite   this machine lacks something; the message names the remedy

A message names the fault, the place and the remedy. Callers decide by type and never read the message.
"""

from typing import Literal


class GavelError(Exception):
    """Root of every error that Gavel raises on purpose."""


class InvalidInput(GavelError):
    """The caller's data or flags break a contract."""


class InvalidQuery(InvalidInput):
    """A value of a search request is not allowed."""


PhotoFault = Literal["unreadable", "format", "too_large", "outside", "other_scheme", "address", "unreachable", "not_fetched"]


class InvalidPhoto(InvalidQuery):
    """A photo cannot be read: it has another format, is damaged, animated, too large, or outside the folders that may be read.

    Attributes:
        fault: kind of the fault, by which faults are counted. unreadable: missing or damaged. format: not JPEG, PNG or WebP.
            too_large: too many pixels or bytes. outside: not in the folders that may be read. other_scheme: neither a path,
            http(s) nor s3://. address: an address that is not public or not well-formed. unreachable: its host does not give
            it. not_fetched: an address, and addresses are not fetched.
    """

    def __init__(self, message: str, fault: PhotoFault = "unreadable") -> None:
        super().__init__(message)
        self.fault = fault


class NoImageBranch(InvalidQuery):
    """The active tower has no image encoder, so that a search by photo is impossible."""


class InvalidSettings(InvalidInput):
    """An environment variable or a settings file holds a value that Gavel cannot use."""


class UnknownItem(GavelError):
    """No item of the index has the requested id."""


class TowerError(GavelError):
    """A tower artefact is missing, damaged or unusable."""


class TowerMismatch(TowerError):
    """Two towers differ that must be the same, such as that of the index and that of the query encoder."""


class NoQueryEncoder(TowerError):
    """The active index has no query encoder: it is searched by words alone."""


class ReleaseError(GavelError):
    """A release of embeddings is incomplete or damaged."""


class IndexUnavailable(GavelError):
    """The index does not answer, or not in time."""


class IndexMissing(IndexUnavailable):
    """There is no index behind the alias yet."""


class RankerUnavailable(GavelError):
    """The re-ranker does not answer, or not in time, or returns invalid scores."""


class SearchIncomplete(GavelError):
    """A search was answered without one of its components where only a whole answer counts."""


class FeedbackUnavailable(GavelError):
    """Interactions of buyers cannot be stored, read or erased."""


class Overloaded(GavelError):
    """Too many requests wait already, so that a further one would be late."""


class RequestAbandoned(GavelError):
    """The client closed the connection before it was answered."""


class FeatureMismatch(GavelError):
    """The re-ranker was trained on other features than this version computes."""


class AlreadyRunning(GavelError):
    """Another process does the same work in the same folder; the message names it."""


class FileUnwritable(GavelError, OSError):
    """A file cannot be written; the message names it and the remedy."""


class MissingPrerequisite(GavelError):
    """This machine lacks a prerequisite of the command."""
