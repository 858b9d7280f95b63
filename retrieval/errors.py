"""Every error that Gavel raises on purpose.

    GavelError
    ├── InvalidInput          the caller's data or flags break a contract
    │   ├── InvalidQuery      a search request is out of its limits
    │   │   ├── InvalidPhoto  a photo cannot be read, or must not be
    │   │   └── NoImageBranch the live tower reads no photos
    │   └── InvalidSettings   an environment variable or a settings file is wrong
    ├── UnknownItem           no live item has that id
    ├── TowerError            a tower artefact cannot be used
    │   └── TowerMismatch     index and encoder belong to different towers
    ├── ReleaseError          a release is incomplete or damaged
    ├── IndexUnavailable      the index does not answer
    │   └── IndexMissing      nothing has been indexed yet
    ├── RankerUnavailable     the re-ranker does not answer
    ├── FeedbackUnavailable   what buyers did cannot be kept, looked up or erased
    ├── Overloaded            too many wait already; to be asked again in a while
    ├── RequestAbandoned      the client hung up before it was answered
    ├── FeatureMismatch       a re-ranker was trained on other features
    ├── AlreadyRunning        another process does the same work in the same place
    ├── FileUnwritable        the disk does not take a file; an OSError, too
    └── MissingPrerequisite   this machine lacks something; the message names the command that mends it

A message says what is wrong, where, and the way out. Callers decide by type and never read the message.
"""

from typing import Literal


class GavelError(Exception):
    """Root of every error that Gavel raises on purpose."""


class InvalidInput(GavelError):
    """The caller's data or flags break a contract."""


class InvalidQuery(InvalidInput):
    """A search request is out of its limits."""


PhotoFault = Literal["unreadable", "format", "too_large", "outside"]


class InvalidPhoto(InvalidQuery):
    """A photo is not a picture that Gavel reads: of another format, damaged, animated, monstrous, or not to be read.

    Attributes:
        fault: kind of the fault, for counts: missing or damaged; neither JPEG, PNG nor WebP; too many pixels or bytes; outside
            the folders whose photos may be read.
    """

    def __init__(self, message: str, fault: PhotoFault = "unreadable") -> None:
        super().__init__(message)
        self.fault = fault


class NoImageBranch(InvalidQuery):
    """The live tower cannot be searched by photo."""


class InvalidSettings(InvalidInput):
    """An environment variable or a settings file holds a value that Gavel cannot use."""


class UnknownItem(GavelError):
    """No live item has the id that was asked for."""


class TowerError(GavelError):
    """A tower artefact is missing, damaged or unusable."""


class TowerMismatch(TowerError):
    """The index holds vectors of another tower than the one that encoded the query."""


class ReleaseError(GavelError):
    """A release of embeddings is incomplete or damaged."""


class IndexUnavailable(GavelError):
    """The index does not answer, or not in time."""


class IndexMissing(IndexUnavailable):
    """There is no index behind the alias yet."""


class RankerUnavailable(GavelError):
    """The re-ranker does not answer, or not in time, or with nonsense."""


class FeedbackUnavailable(GavelError):
    """What buyers did cannot be written down, looked up or erased."""


class Overloaded(GavelError):
    """So many requests wait for their turn that another one would come late."""


class RequestAbandoned(GavelError):
    """The client of a request hung up before it was answered."""


class FeatureMismatch(GavelError):
    """The re-ranker was trained on other features than the ones that are computed."""


class AlreadyRunning(GavelError):
    """Another process does the same work in the same folder; the message names it."""


class FileUnwritable(GavelError, OSError):
    """The disk does not take a file; its message names file and remedy."""


class MissingPrerequisite(GavelError):
    """This machine lacks something that the command needs."""
