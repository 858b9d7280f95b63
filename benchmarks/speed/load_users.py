"""Buyers who search a server over HTTP, by Locust: in a process of their own, for it replaces Python's blocking calls.

python -m benchmarks.speed.load_users < plan.json          what came of it goes to stdout as JSON
"""

import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

PATH = "/search"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to ask, and how fast.

    Attributes:
        url: of the server.
        texts: queries, asked in turn.
        users: how many ask at the same time, >= 1.
        seconds: how long.
        rate: queries a second of all users together; 0 has everyone ask again as soon as they are answered.
    """

    url: str
    texts: list[str]
    users: int
    seconds: float
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadSeen:
    """What the users saw.

    Attributes:
        milliseconds: of every answer that came, in the order that they came in.
        reranked: answers whose lots were put in order by the re-ranker.
        degraded: answers that were made without one of their parts.
        errors: what went wrong -> how often.
        seconds: from the first question to the last answer.
    """

    milliseconds: list[float]
    reranked: int
    degraded: int
    errors: dict[str, int]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.milliseconds) / self.seconds


def search(plan: LoadPlan) -> LoadSeen:
    """Have the users ask, and wait for all of them."""
    import gevent
    from locust import FastHttpUser, task
    from locust.env import Environment

    texts, times = cycle(plan.texts), list[float]()
    errors: dict[str, int] = {}
    flags = {"reranked": 0, "degraded": 0}

    class Buyer(FastHttpUser):
        host = plan.url

        def wait_time(self) -> float:
            """Seconds until the next question: as chance has it, so that all of them come as a Poisson process does."""
            return random.expovariate(plan.rate / plan.users) if plan.rate else 0.0

        def on_start(self) -> None:
            gevent.sleep(self.wait_time())

        @task
        def ask(self) -> None:
            with self.client.post(PATH, json={"q": next(texts)}, catch_response=True) as response:
                answer = response.json() if response.status_code == 200 else {}
                for flag in flags:
                    flags[flag] += bool(answer.get(flag))
                if not answer.get("results"):
                    response.failure(f"status {response.status_code}, no lots")

    def note(response_time: float, exception: BaseException | None, **_: Any) -> None:
        if exception is None:
            times.append(response_time)
        else:
            errors[str(exception)] = errors.get(str(exception), 0) + 1

    environment = Environment(user_classes=[Buyer])
    environment.events.request.add_listener(note)  # type: ignore[no-untyped-call]
    runner = environment.create_local_runner()
    started = time.perf_counter()
    runner.start(plan.users, spawn_rate=plan.users)
    gevent.sleep(plan.seconds)
    runner.quit()
    return LoadSeen(times, flags["reranked"], flags["degraded"], errors, time.perf_counter() - started)


if __name__ == "__main__":
    seen = search(LoadPlan(**json.load(sys.stdin)))
    json.dump(asdict(seen), sys.stdout)
