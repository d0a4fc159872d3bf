"""The users' grants: what Secret Manager holds of them, and what Google makes of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import google_crc32c
from google.api_core.exceptions import FailedPrecondition, NotFound
from google.cloud.secretmanager_v1.types.service import AccessSecretVersionResponse

from local import google_apis as marked
from tests.simulation import weather
from tests.simulation.record import FaultOfOurs, GrantChanged, Record
from tests.simulation.timeline import Timeline

TOKEN_URI = "https://oauth2.simulated.example/token"
SECRET_PREFIX = "token-"
CLIENT_SECRET_ID = "client"
MARK = f"{marked.MARK}-"  # every secret begins with it, so that a leak can be seen

_AccessSecretVersionResponse = AccessSecretVersionResponse.pb()
_SCOPE = "https://www.googleapis.com/auth/dataportability.myactivity.search"
_UNGOOD = ("revoked", "policy", "no scope", "missing", "disabled")


@dataclass(slots=True)
class _Grant:
    state: str = "good"  # or one of _UNGOOD
    serial: int = 1  # of the refresh token that Google accepts, and
    stored: int = 1  # of the one that the secret holds


class Grants:
    """Every credential's grant, and the OAuth client."""

    def __init__(self, timeline: Timeline, record: Record, *, until: float) -> None:
        self._timeline = timeline
        self._record = record
        self._until = until
        self.consented: Callable[[str], None] = lambda credential: None  # told as soon as the new token is stored
        self._grants: dict[str, _Grant] = {}
        self._access: dict[str, tuple[str, int, float]] = {}  # token → credential, serial, the time of its end
        self._good: dict[str, bool] = {}
        self._client, self._client_before = 1, 1
        rng = timeline.rng
        self._lifetime = rng.choice((300.0, 300.0, 900.0, 3599.0))
        self._scope_said = rng.random() < 0.7
        if rng.random() < 0.1:
            timeline.after(rng.uniform(0.0, until), self._rotate_client)

    def add(self, credential: str) -> None:
        rng = self._timeline.rng
        grant = self._grants[credential] = _Grant()
        roll = rng.random()
        if roll < 0.2:
            grant.state = rng.choice(_UNGOOD)
        self._note(credential)
        if roll < 0.4:
            changes_at = rng.choice((1.0, self._until)) * rng.random()
            self._timeline.after(changes_at, self._change, credential, rng.choice((*_UNGOOD, "good")))
            if rng.random() < 0.7:
                self._timeline.after(
                    changes_at + rng.choice((1.0, 10.0, 600.0)) * rng.random(), self._change, credential, "good"
                )

    # --- Secret Manager's side ---

    def access(self, request: Any, trouble: str) -> Any:
        """The latest version of a secret, with its checksum."""
        payload = self._payload(request.name.split("/")[3])
        answer = _AccessSecretVersionResponse(name=request.name)
        answer.payload.data_crc32c = google_crc32c.value(payload)
        answer.payload.data = payload[:-1] + b"?" if trouble == weather.DAMAGED else payload
        return answer

    def _payload(self, secret_id: str) -> bytes:
        if secret_id == CLIENT_SECRET_ID:
            client = {"client_id": "a-client", "client_secret": f"{MARK}client-{self._client}", "token_uri": TOKEN_URI}
            return json.dumps({"web": client}).encode()
        credential = secret_id.removeprefix(SECRET_PREFIX)
        grant = self._grants.get(credential)
        if grant is None or grant.state == "missing":
            raise NotFound("secret not found")  # type: ignore[no-untyped-call]
        if grant.state == "disabled":
            raise FailedPrecondition("the version is disabled")  # type: ignore[no-untyped-call]
        refresh_token = f"{MARK}refresh.{credential}.{grant.stored}"
        return json.dumps({"refresh_token": refresh_token}).encode() if grant.stored % 2 else refresh_token.encode()

    # --- Google's side ---

    def knows_client(self, client_id: str, client_secret: str) -> bool:
        known = (f"{MARK}client-{self._client}", f"{MARK}client-{self._client_before}")
        return client_id == "a-client" and client_secret in known

    def refresh(self, refresh_token: str) -> tuple[str, dict[str, Any]]:
        """The error, or the answer with a new access token."""
        _, credential, serial = refresh_token.split(".")
        grant = self._grants[credential]
        if grant.state == "policy":
            return "admin_policy_enforced", {}
        if grant.state == "revoked" or int(serial) != grant.serial:
            return "invalid_grant", {}
        token = f"{MARK}access-{len(self._access) + 1}"
        self._access[token] = credential, grant.serial, self._timeline.now + self._lifetime
        answer = {"access_token": token, "expires_in": int(self._lifetime), "token_type": "Bearer"}
        if grant.state == "no scope":
            return "", answer | {"scope": "openid https://www.googleapis.com/auth/userinfo.email"}
        return "", answer | ({"scope": f"openid {_SCOPE}"} if self._scope_said else {})

    def accepts(self, access_token: str) -> bool:
        if access_token not in self._access or self.expired_for(access_token) > 0:
            return False
        credential, serial, _ = self._access[access_token]
        grant = self._grants[credential]
        return serial == grant.serial and grant.state not in ("revoked", "policy")

    def expired_for(self, access_token: str) -> float:
        """For how many seconds the token has been out of date."""
        return max(0.0, self._timeline.now - self._access[access_token][2])

    # --- the users' side ---

    def _change(self, credential: str, state: str) -> None:
        """Consent is withdrawn, spoilt, or given anew: a new refresh token, which the product stores a little later."""
        grant = self._grants[credential]
        if state == "good" and grant.state != "good":
            grant.serial += 1
            self._timeline.after(self._timeline.rng.choice((0.0, 0.0, 20.0)), self._store, credential, grant.serial)
            if grant.state in ("missing", "disabled"):
                self._note(credential)
                return  # good as soon as it is stored
        grant.state = state
        self._note(credential)

    def _store(self, credential: str, serial: int) -> None:
        grant = self._grants[credential]
        grant.stored = serial
        self.consented(credential)
        if grant.state in ("missing", "disabled"):
            grant.state = "good"
        self._note(credential)

    def _note(self, credential: str) -> None:
        grant = self._grants[credential]
        good = grant.state == "good" and grant.serial == grant.stored
        if self._good.get(credential) != good:
            self._good[credential] = good
            self._record.add(GrantChanged(self._timeline.now, credential, good))

    def _rotate_client(self) -> None:
        """A new client secret is stored at once; the old one works for a little while longer."""
        self._client += 1
        self._timeline.after(self._timeline.rng.uniform(0.0, 60.0), self._forget_client, self._client)

    def _forget_client(self, serial: int) -> None:
        """Whoever read the file before and asks only now is refused: our fault, for rotating so fast."""
        self._record.add(FaultOfOurs(self._timeline.now, "client", True))
        self._client_before = serial
        self._record.add(FaultOfOurs(self._timeline.now, "client", False))
