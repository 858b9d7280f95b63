"""Load a search server over HTTP with Locust. This is a separate process, because Locust patches Python's blocking calls.

python -m benchmarks.speed.load_users < plan.json          prints the result as JSON
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
    """Queries and rate of a load.

    Attributes:
        url: base URL of the server.
        texts: queries, repeated in their order.
        users: number of concurrent users, >= 1.
        seconds: duration in seconds.
        rate: queries per second of all users together; 0 is a closed loop.
    """

    url: str
    texts: list[str]
    users: int
    seconds: float
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadResponse:
    """Answers and errors of a load.

    Attributes:
        milliseconds: latency of every answer, in order of arrival.
        reranked: number of re-ranked answers.
        degraded: number of answers with a failed component.
        errors: message -> count.
        seconds: seconds from the start of the users to their end.
    """

    milliseconds: list[float]
    reranked: int
    degraded: int
    errors: dict[str, int]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.milliseconds) / self.seconds


def search(plan: LoadPlan) -> LoadResponse:
    """Run the users of a plan for its duration, and return their answers and errors."""
    import gevent
    from locust import FastHttpUser, task
    from locust.env import Environment

    texts, times = cycle(plan.texts), list[float]()
    errors: dict[str, int] = {}
    flags = {"reranked": 0, "degraded": 0}

    class Buyer(FastHttpUser):
        host = plan.url

        def wait_time(self) -> float:
            """Return the seconds until the next query, exponentially distributed for Poisson arrivals."""
            return random.expovariate(plan.rate / plan.users) if plan.rate else 0.0

        def on_start(self) -> None:
            gevent.sleep(self.wait_time())

        @task
        def search(self) -> None:
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
    return LoadResponse(times, flags["reranked"], flags["degraded"], errors, time.perf_counter() - started)


if __name__ == "__main__":
    result = search(LoadPlan(**json.load(sys.stdin)))
    json.dump(asdict(result), sys.stdout)
