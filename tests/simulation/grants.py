"""The users' grants: what Secret Manager holds of them, and what Google makes of it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import google_crc32c
import msgspec
from google.api_core.exceptions import FailedPrecondition, NotFound, ServiceUnavailable
from google.cloud.secretmanager_v1.types import AccessSecretVersionResponse

from local import google_apis as marked
from tests.simulation import faults
from tests.simulation.record import FaultOfOurs, GrantChanged, Record, Verdict
from tests.simulation.timeline import Timeline

TOKEN_URI = "https://oauth2.googleapis.com/token"
SECRET_PREFIX = "token-"
CLIENT_SECRET_ID = "client"
CANARY = "canary"
MARK = f"{marked.MARK}-"  # every secret begins with it, so that a leak can be seen

_REFRESH_TOKEN = re.compile(rf"{MARK}refresh\.(?P<credential>[^.]+)\.(\d+)")
_AccessSecretVersionResponse = AccessSecretVersionResponse.pb()
_SCOPE = "https://www.googleapis.com/auth/dataportability.myactivity.search"

# what a grant can be beside good → the cause that a rejection names then; "" where it is a fault of ours
CAUSES = {
    "revoked": "INVALID_GRANT",
    "policy": "ADMIN_POLICY",
    "no scope": "NO_SCOPE",
    "missing": "NO_SECRET",
    "disabled": "SECRET_DISABLED",
    "empty": "NO_REFRESH_TOKEN",
    "other client": "OTHER_CLIENT",
    "account": "ACCOUNT_STATE",
    "no token": "",
}
_NO_GOOD = tuple(CAUSES)
_NOT_GIVEN = ("missing", "disabled", "empty", "no token")  # as long as no new refresh token is stored
_EMPTY = (b"", b"  \n", b'{"refresh_token": ""}', b'{"refresh_token": null}')
_NO_TOKENS = (
    '"{}"',
    "TOKEN={}",
    "{}\n{}",
    "\u200b{}",
    '["{}"]',
    '{{"refreshToken": "{}"}}',
    "4/{}",
    "ya29.{}",
    "1%2F{}",
)


@dataclass(slots=True)
class _Grant:
    state: str = "good"  # or one of CAUSES
    serial: int = 1  # of the refresh token that Google accepts, and
    stored: int = 1  # of the one that the secret holds


class Grants:
    """Every credential's grant, and the OAuth client."""

    def __init__(self, timeline: Timeline, record: Record, *, until: float, canary: bool) -> None:
        self._timeline = timeline
        self._record = record
        self._until = until
        self.consented: Callable[[str], None] = lambda credential: None  # told as soon as the new token is stored
        self.away: set[str] = set()  # secrets that cannot be read for now
        self._grants: dict[str, _Grant] = {}
        self._access: dict[str, tuple[str, int, float]] = {}  # token → credential, serial, the time of its end
        self._good: dict[str, bool] = {}
        self._client, self._client_before = 1, 1
        self._canary = canary
        rng = timeline.rng
        self._lifetime = rng.choice((300.0, 300.0, 900.0, 3599.0))
        self._scope_said = rng.random() < 0.7
        roll = rng.random()
        is_wrong = roll < 0.04 and timeline.happens()
        self._is_client_known = not is_wrong or roll > 0.02  # whether the client is one of Google's at all
        self._is_prefix_right = not (is_wrong and canary and roll > 0.02)
        if not self._is_client_known or not self._is_prefix_right:
            record.add(FaultOfOurs(timeline.now, "OAuth client or prefix", True))
        if rng.random() < 0.1:
            rotates_at = rng.uniform(0.0, until)
            if timeline.happens():
                timeline.after(rotates_at, self._rotate_client)

    def add(self, credential: str) -> None:
        rng = self._timeline.rng
        grant = self._grants[credential] = _Grant()
        roll = rng.random()
        if roll < 0.2:
            state = rng.choice(_NO_GOOD)
            grant.state = state if self._timeline.happens() else "good"
        self._note(credential)
        if roll < 0.4:
            changes_at = rng.choice((1.0, self._until)) * rng.random()
            self._change_some_time(changes_at, credential, rng.choice((*_NO_GOOD, "good")))
            if rng.random() < 0.7:
                self._change_some_time(changes_at + rng.choice((1.0, 10.0, 600.0)) * rng.random(), credential, "good")

    def _change_some_time(self, seconds: float, credential: str, state: str) -> None:
        if self._timeline.happens():
            self._timeline.after(seconds, self.change, credential, state)

    # --- Secret Manager's side ---

    def access(self, name: str, trouble: str) -> Any:
        """The latest version of a secret, with its checksum."""
        if name.split("/")[3] in self.away:
            raise ServiceUnavailable("try again later")  # type: ignore[no-untyped-call]
        secret, version, payload = self._latest(name.split("/")[3])
        answer = _AccessSecretVersionResponse(name=f"projects/p/secrets/{secret}/versions/{version}")
        answer.payload.data_crc32c = google_crc32c.value(payload)
        answer.payload.data = payload[:-1] + b"?" if payload and trouble == faults.DAMAGED else payload
        return answer

    def _latest(self, secret: str) -> tuple[str, int, bytes]:
        if secret == CLIENT_SECRET_ID:
            client = {"client_id": "a-client", "client_secret": f"{MARK}client-{self._client}", "token_uri": TOKEN_URI}
            return secret, self._client, msgspec.json.encode({"web": client})
        credential = secret.removeprefix(SECRET_PREFIX)
        if not self._is_prefix_right:
            raise NotFound("secret not found")  # type: ignore[no-untyped-call]
        if credential == CANARY and self._canary:
            return secret, 1, f"{MARK}refresh.{CANARY}.0".encode()
        grant = self._grants.get(credential)
        if grant is None or grant.state == "missing":
            self._says(credential, "NO_SECRET")
            raise NotFound("secret not found")  # type: ignore[no-untyped-call]
        if grant.state == "disabled":
            self._says(credential, "SECRET_DISABLED")
            raise FailedPrecondition(f"Secret Version [{secret}/1] is in DISABLED state.")  # type: ignore[no-untyped-call]
        return secret, grant.stored, self._payload(credential, grant)

    def _payload(self, credential: str, grant: _Grant) -> bytes:
        rng = self._timeline.rng
        if grant.state == "empty":
            self._says(credential, "NO_REFRESH_TOKEN")
            return rng.choice(_EMPTY)
        refresh_token = f"{MARK}refresh.{credential}.{grant.stored}"
        if grant.state == "no token":
            return rng.choice(_NO_TOKENS).format(refresh_token, refresh_token).encode()
        return msgspec.json.encode({"refresh_token": refresh_token}) if grant.stored % 2 else refresh_token.encode()

    # --- Google's side ---

    def knows_client(self, client_id: str, client_secret: str) -> bool:
        known = (f"{MARK}client-{self._client}", f"{MARK}client-{self._client_before}")
        return client_id == "a-client" and client_secret in known

    def refresh(self, refresh_token: str) -> tuple[str, dict[str, Any]]:
        """The error, or the answer with a new access token."""
        known = _REFRESH_TOKEN.fullmatch(refresh_token)
        if not self._is_client_known:
            return "unauthorized_client", {}
        if known is None or known["credential"] == CANARY:
            return "invalid_grant", {}
        credential, serial = known.groups()
        grant = self._grants[credential]
        if grant.state == "policy":
            self._says(credential, "ADMIN_POLICY")
            return "admin_policy_enforced", {}
        if grant.state == "other client":
            self._says(credential, "OTHER_CLIENT")
            if not self._canary:  # then it may as well be the client that is wrong
                self._record.add(FaultOfOurs(self._timeline.now, "unproven client", True))
                self._record.add(FaultOfOurs(self._timeline.now, "unproven client", False))
            return "unauthorized_client", {}
        if grant.state == "revoked" or int(serial) != grant.serial:
            self._says(credential, "INVALID_GRANT")
            return "invalid_grant", {}
        token = f"{MARK}access-{len(self._access) + 1}"
        self._access[token] = credential, grant.serial, self._timeline.now + self._lifetime
        answer = {"access_token": token, "expires_in": int(self._lifetime), "token_type": "Bearer"}
        if grant.state == "no scope":
            self._says(credential, "NO_SCOPE")
            return "", answer | {"scope": "openid https://www.googleapis.com/auth/userinfo.email"}
        return "", answer | ({"scope": f"openid {_SCOPE}"} if self._scope_said else {})

    def accepts(self, access_token: str) -> bool:
        if access_token not in self._access or self.expired_for(access_token) > 0:
            return False
        credential, serial, _ = self._access[access_token]
        grant = self._grants[credential]
        return serial == grant.serial and grant.state not in ("revoked", "policy", "account")

    def is_account_closed(self, access_token: str) -> bool:
        return access_token in self._access and self._grants[self._access[access_token][0]].state == "account"

    def credential_of(self, access_token: str) -> str:
        return self._access[access_token][0]

    def serial(self, credential: str) -> int:
        """How often the user has consented."""
        return self._grants[credential].serial

    def expired_for(self, access_token: str) -> float:
        """For how many seconds the token has been out of date."""
        return max(0.0, self._timeline.now - self._access[access_token][2])

    # --- the users' side ---

    def change(self, credential: str, state: str) -> None:
        """Consent is withdrawn, spoilt, or given anew: a new refresh token, which the product stores a little later."""
        grant = self._grants[credential]
        if state == "good" and grant.state != "good":
            grant.serial += 1
            self._timeline.after(self._timeline.rng.choice((0.0, 0.0, 20.0)), self._store, credential, grant.serial)
            if grant.state in _NOT_GIVEN:
                self._note(credential)
                return  # good as soon as it is stored
        self._set(credential, state)

    def _store(self, credential: str, serial: int) -> None:
        grant = self._grants[credential]
        grant.stored = serial
        self.consented(credential)
        self._set(credential, "good" if grant.state in _NOT_GIVEN else grant.state)

    def _set(self, credential: str, state: str) -> None:
        grant = self._grants[credential]
        if (grant.state == "no token") != (state == "no token"):
            self._record.add(FaultOfOurs(self._timeline.now, f"secret of {credential}", state == "no token"))
        grant.state = state
        self._note(credential)

    def _says(self, credential: str, cause: str) -> None:
        self._record.add(Verdict(self._timeline.now, credential, cause))

    def _note(self, credential: str) -> None:
        grant = self._grants[credential]
        good = grant.state == "good" and grant.serial == grant.stored
        if self._good.get(credential) != good:
            if credential not in self._good and grant.state == "no token":
                self._record.add(FaultOfOurs(self._timeline.now, f"secret of {credential}", True))
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
