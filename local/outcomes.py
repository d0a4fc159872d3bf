"""What comes of events, a line each, in words: from the messages that come out, and from the function's log."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from local import topics
from local.stage import Stage
from local.topics import Published

_ARROW = "→"


class Outcomes:
    """Each is told once, in the order in which it is seen."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._told: Counter[str] = Counter()  # how many of each topic and server

    def new(self) -> Iterator[str]:
        """The lines since the last time."""
        for number, server in enumerate(self._stage.servers):
            yield from filter(None, map(_of_line, self._unseen(f"server {number}", server.deliveries)))
        for topic, messages in self._stage.arrived.items():
            yield from (_of_message(topic, message) for message in self._unseen(topic, messages))

    def _unseen(self, source: str, all_of_it: list[Any]) -> list[Any]:
        unseen = all_of_it[self._told[source] :]
        self._told[source] += len(unseen)
        return unseen


def _of_message(topic: str, message: Published) -> str:
    data = message.data if isinstance(message.data, dict) else {}
    job = data.get("archiveJobId") or f"message {message.attributes.get('dedupKey', message.message_id)}"
    match topic:
        case topics.RETRIED:
            return f"{data.get('retriedArchiveJobId')} {_ARROW} {job}"
        case topics.REJECTED:
            cause = f" ({data['cause']})" if data.get("cause") else ""
            return f"{job} rejected: {data.get('reason')}{cause}: {data.get('detail')}"
        case topics.ENDED:
            return f"{job} ended: {data.get('state')}"
    return f"{job} given up: its deliveries failed too often, it is on {topic}"


def _of_line(line: dict[str, Any]) -> str:
    """Of an outcome that no message tells; "" of others."""
    job = line.get("archiveJobId") or f"message {line.get('messageId')}"
    said = str(line.get("message")).partition("\n")[0]
    words = {"deferred": "deferred", "not_now": "not yet", "fault": "fault", "failed": "failed at Google"}
    return f"{job} {words[line['outcome']]}: {said}" if line["outcome"] in words else ""
