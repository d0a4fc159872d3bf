"""What a storm does, as the effects that tests/simulation/invariants.py judges.

Pushes are watched at the front door, calls to Google at each instance's wire, and what it asks of Firestore and Pub/Sub
at a proxy of its own. All of it is seen from outside: which of several deliveries of one job that an instance has in
hand did something is inferred, from when each of them began and ended.
"""

import asyncio
import base64
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import grpc
from google.cloud.firestore_v1.types import CommitRequest, CommitResponse, Document
from google.pubsub_v1.types import PublishRequest

from local.grpc_service import EveryMethod
from tests.e2e.wires import Passed
from tests.simulation.firestore import entry_of
from tests.simulation.record import (
    Acked,
    Answered,
    CallAnswered,
    CallArrived,
    CallSent,
    ClaimAsked,
    Delivered,
    Effect,
    Entry,
    EventPublished,
    FollowUp,
    Forgotten,
    Instance,
    Nacked,
    Rejection,
    Trouble,
    Written,
)

_LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d+) ")
_NEVER = float("inf")
_RPC_SECONDS = 10.0
UNSEEN = "/unseen"  # ends the name of a call in doubt that did not come to the wire


@dataclass(slots=True)
class Push:
    """A delivery, and what became of it. Times are in seconds since the recording began."""

    name: str
    message: str
    job: str
    user: str
    data: bytes
    port: int
    begun: float
    instance: str = ""
    ended: float = _NEVER
    status: int = 0  # of its answer, 0 where there was none

    def covers(self, at: float) -> bool:
        return self.begun <= at <= self.ended


@dataclass(frozen=True, slots=True)
class Commit:
    """A document that an instance has written."""

    at: float
    instance: str
    job: str
    before: Entry | None
    after: Entry
    age: float


@dataclass(frozen=True, slots=True)
class Out:
    """A message that Pub/Sub has accepted from an instance."""

    at: float
    instance: str
    content: dict[str, Any]
    attributes: dict[str, str]


class Recording:
    """Of one storm, over all its instances. In a delivery of `hurried` seconds, a step may have run out of time."""

    def __init__(self, hurried: float) -> None:
        self._hurried = hurried
        self._epoch, self._began = time.time(), time.monotonic()
        self.hosts: list[tuple[float, int, str]] = []  # since when which port is which instance's
        self.lives: list[Instance] = []
        self.published: dict[str, tuple[float, bytes]] = {}  # events, by message id
        self.pushes: list[Push] = []
        self.commits: list[Commit] = []
        self.out: list[Out] = []
        self.calls: list[tuple[str, list[Passed]]] = []  # of each instance
        self._documents: dict[str, Any] = {}
        self._pushes_of: dict[tuple[str, str], list[Push]] = defaultdict(list)  # by instance and job
        self._commits_of: dict[str, list[Commit]] = defaultdict(list)  # by job
        self._owners: dict[str, Push] = {}  # who calls itself so in the ledger

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    def lives_on(self, name: str, what: str, release: str = "") -> None:
        self.lives.append(Instance(self.now, name, what, release))

    # --- what the taps tell ---

    def watch(self, port: int) -> "_PushWatch":
        return _PushWatch(self, port)

    def committed(self, instance: str, request: bytes, answer: bytes) -> None:
        now, writes = self.now, CommitRequest.pb().FromString(request).writes
        for write, result in zip(writes, CommitResponse.pb().FromString(answer).write_results, strict=True):
            name, sent = write.update.name, write.update.fields
            old = self._documents.get(name)
            document = Document.pb()(name=name)
            if old is not None and write.update_mask.field_paths:
                document.CopyFrom(old)
            for field_name in write.update_mask.field_paths or sent:
                document.fields.pop(field_name, None)
                if field_name in sent:
                    document.fields[field_name].CopyFrom(sent[field_name])
            document.update_time.CopyFrom(result.update_time)
            self._documents[name] = document
            age = (result.update_time.ToNanoseconds() - old.update_time.ToNanoseconds()) / 1e9 if old else 0.0
            before = entry_of(old.fields, self._epoch) if old else None
            job = document.fields["jobId"].string_value
            self.commits.append(Commit(now, instance, job, before, entry_of(document.fields, self._epoch), age))

    def accepted(self, instance: str, request: bytes) -> None:
        self.out += [
            Out(self.now, instance, json.loads(message.data), dict(message.attributes))
            for message in PublishRequest.pb().FromString(request).messages
        ]

    # --- the effects ---

    def effects(self, credential_of: Callable[[str], str]) -> list[Effect]:
        """All that was seen, in order. `credential_of` tells whose access token an Authorization header holds."""
        for push in self.pushes:
            push.instance = max(host for host in self.hosts if host[1] == push.port and host[0] <= push.begun)[2]
            self._pushes_of[push.instance, push.job].append(push)
        for commit in self.commits:
            self._commits_of[commit.job].append(commit)
        found: list[Effect] = [*self.lives, *self._events(), *self._deliveries(), *self._writes()]
        found += [*self._calls(credential_of), *self._messages()]
        return sorted(found, key=lambda effect: effect.at)

    def _events(self) -> Iterator[Effect]:
        """Each subscription has its own copy of a message."""
        last = max((push.begun for push in self.pushes), default=0.0)
        settled = {push.message for push in self.pushes if 200 <= push.status < 300}
        subscriptions = {push.message.partition("/")[0] for push in self.pushes}
        for message_id, (at, data) in self.published.items():
            event = json.loads(data)
            job, user = event["archiveJobId"], event["userId"]
            for subscription in sorted(subscriptions):
                message = f"{subscription}/{message_id}"
                yield EventPublished(at, message, job, user, user, 0, at, False, "", data, {})
                if message not in settled:  # it would come again, or the emulator has forgotten it: nobody can tell
                    yield Forgotten(max(at, last), message)

    def _deliveries(self) -> Iterator[Effect]:
        for push in self.pushes:
            yield Delivered(push.begun, push.name, push.message, push.instance)
            if push.ended > push.begun + self._hurried:
                yield Trouble(push.begun + self._hurried, push.instance, "firestore", "no time left")
            if not push.status:
                if push.ended < _NEVER:
                    yield Nacked(push.ended, push.name, push.message, "no answer")
                continue
            yield Answered(push.ended, push.name, push.status, "", "")
            ends = Acked(push.ended, push.name, push.message)
            yield ends if push.status == 204 else Nacked(push.ended, push.name, push.message, str(push.status))

    def _in_hand(self, instance: str, job: str, at: float) -> list[Push]:
        """Deliveries of a job that this instance had in hand, and else those that it has been given before."""
        here = [push for push in self._pushes_of[instance, job] if push.begun <= at]
        return [push for push in here if push.covers(at)] or here[-1:]

    def _writes(self) -> Iterator[Effect]:
        for previous, commit in zip([None, *self.commits], self.commits, strict=False):
            owner = commit.after.owner
            if previous and commit.before is None and previous.after.new_job == commit.job:  # written with its answer
                yield Written(commit.at, "", commit.job, None, commit.after, commit.age)
                continue
            if owner and owner not in self._owners:
                self._owners[owner] = self._owner(commit, owner)
                yield ClaimAsked(commit.at, self._owners[owner].name, owner)
            holder = self._owners.get(commit.before.owner) if commit.before else None
            if owner and commit.after.state == "claimed":
                by = self._owners[owner]
            elif holder and holder.instance == commit.instance:
                by = holder
            else:
                by = self._in_hand(commit.instance, commit.job, commit.at)[0]
            if by is holder and commit.before and self._is_unseen_call(by, commit, commit.before):
                yield CallSent(commit.at, f"{by.name}{UNSEEN}", by.name, commit.job, by.user, 0.0)
            yield Written(commit.at, by.name, commit.job, commit.before, commit.after, commit.age)

    def _is_unseen_call(self, by: Push, commit: Commit, before: Entry) -> bool:
        """Whether a call in doubt is recorded that never came to the wire: over a connection that had been broken."""
        in_doubt = commit.after.state == "open" and commit.after.calls == before.calls + 1
        calls = (call for instance, calls in self.calls if instance == by.instance for call in calls)
        return in_doubt and not any(
            call.job == by.job and by.begun <= call.at - self._began <= commit.at for call in calls
        )

    def _owner(self, claim: Commit, owner: str) -> Push:
        """The delivery of the claim's user that lasted until the write that ends it, or longest where there is none."""
        here = self._in_hand(claim.instance, claim.job, claim.at)
        here = [push for push in here if push.user == claim.after.user] or here
        commits = self._commits_of[claim.job]
        ends = (one.at for one in commits if one.before and (one.before.owner, one.after.owner) == (owner, ""))
        end = next(ends, _NEVER)
        lasting = [push for push in here if push.ended >= end]
        if lasting:
            return min(lasting, key=lambda push: (push.status != 204, push.ended))
        return max(here, key=lambda push: push.ended)

    def _calls(self, credential_of: Callable[[str], str]) -> Iterator[Effect]:
        count = 0
        for instance, calls in self.calls:
            for call in calls:
                at, count = call.at - self._began, count + 1
                claims = [one for one in self._commits_of[call.job] if one.after.state == "claimed" and one.at <= at]
                claim = claims[-1] if claims else None
                by = self._owners[claim.after.owner] if claim and claim.instance == instance else None
                by = by or self._in_hand(instance, call.job, at)[0]
                name = f"{by.name}/{count}"
                yield CallSent(at, name, by.name, call.job, credential_of(call.authorization), 0.0)
                if call.answered_at:
                    answered_at = call.answered_at - self._began
                    yield CallArrived(answered_at, name, call.job, call.new_job)
                    # what was cut off or held up may have come through all the same
                    yield CallAnswered(answered_at, name, "" if call.mischief else "made", call.new_job, "")

    def _messages(self) -> Iterator[Effect]:
        served: set[str] = set()
        for out in self.out:
            content, is_rejection = out.content, "reason" in out.content
            job = content["archiveJobId"] if is_rejection else content["retriedArchiveJobId"]
            here = self._in_hand(out.instance, job, out.at)
            fits = [push for push in here if push.status == 204 and push.name not in served]
            if is_rejection:
                fits = [push for push in fits if push.data.decode() == content["event"]]
            by = min(fits or here, key=lambda push: push.ended)
            served.add(by.name)
            told_at = datetime.fromisoformat(content["rejectedAt" if is_rejection else "retriedAt"]).timestamp()
            who = {"user": content["userId"], "credential": content["credentialId"], "attributes": out.attributes}
            who |= {"root": content["rootArchiveJobId"], "told_at": told_at - self._epoch}
            if is_rejection:
                said = {name: content.get(name, "") for name in ("reason", "cause", "detail")}
                numbers = {"attempt": content["attempt"], "calls_in_doubt": content.get("callsInDoubt", 0)}
                yield Rejection(out.at, by.name, job, event=content["event"].encode(), **said, **numbers, **who)
            else:
                told = {"new_job": content["archiveJobId"], "attempt": content["attempt"]}
                yield FollowUp(out.at, by.name, job, **told, **who)


class _PushWatch:
    """One connection of the push: requests come whole, one after the other."""

    def __init__(self, recording: Recording, port: int) -> None:
        self._recording = recording
        self._port = port
        self._asked = b""
        self._open: Push | None = None

    def asked(self, chunk: bytes) -> None:
        self._asked += chunk
        head, blank, body = self._asked.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not blank or not length or len(body) < int(length[1]):
            return
        self._asked = b""
        push, recording = json.loads(body), self._recording
        data = base64.b64decode(push["message"]["data"])
        event = json.loads(data)
        message = f"{push['subscription'].rpartition('/')[2]}/{push['message']['messageId']}"
        name = f"{message}#{len(recording.pushes) + 1}"
        self._open = Push(name, message, event["archiveJobId"], event["userId"], data, self._port, recording.now)
        recording.pushes.append(self._open)

    def answered(self, chunk: bytes) -> None:
        if self._open and (status := _STATUS.match(chunk)):
            self._open.status = int(status[1])
            self.closed()

    def closed(self) -> None:
        if self._open:
            self._open.ended = self._recording.now
            self._open = None


class Tap(AbstractAsyncContextManager["Tap"]):
    """A proxy between one instance and a gRPC emulator. What was asked for is done, whoever goes away meanwhile."""

    def __init__(self, instance: str, channel: grpc.aio.Channel, recording: Recording) -> None:
        self.port = 0
        self._instance = instance
        self._channel = channel
        self._recording = recording
        self._passing: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        """Serve on a free port of the loopback interface."""
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((EveryMethod(self.pass_on),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._server.stop(grace=None)
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def pass_on(self, path: str, requests: Any, context: Any) -> None:
        """One message there, and all that come back."""
        request = await anext(aiter(requests))
        metadata = [(key, value) for key, value in context.invocation_metadata() or () if key != "user-agent"]
        passing = asyncio.create_task(self._carry_out(path, request, metadata))
        self._passing.add(passing)
        passing.add_done_callback(self._passing.discard)
        answers, error = await asyncio.shield(passing)
        for answer in answers:
            await context.write(answer)
        if error:
            await context.abort(error.code(), error.details() or "")

    async def _carry_out(self, path: str, request: bytes, metadata: Any) -> tuple[list[bytes], Any]:
        method: Any = self._channel.unary_stream(path)
        answers = list[bytes]()
        try:
            async for answer in method(request, metadata=metadata, timeout=_RPC_SECONDS):
                answers.append(answer)
        except grpc.aio.AioRpcError as error:
            return answers, error
        if path.endswith("/Commit"):
            self._recording.committed(self._instance, request, answers[0])
        elif path.endswith("/Publish"):
            self._recording.accepted(self._instance, request)
        return answers, None
