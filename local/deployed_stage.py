"""The stage as it is in Google Cloud: the function with no emulator variable, under the real names of all services.

function ─► egress proxy ─┬─► secretmanager, pubsub, firestore.googleapis.com: front ends that speak TLS and check
        │                 │     the caller's token, routing and limits ─► stand-in, Google's emulators
        │                 └─► oauth2, dataportability.googleapis.com: stand-ins that speak TLS
        └─► metadata server: the function's own account
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from local.egress_proxy import EgressProxy
from local.front_end import FrontEnd
from local.front_end_checks import Routing, publishing
from local.metadata_server import MetadataServer
from local.stage import Stage

SECRET_MANAGER, PUBSUB = "secretmanager.googleapis.com:443", "pubsub.googleapis.com:443"
SECRET_MANAGER_IN_REGION = "secretmanager.europe-west1.rep.googleapis.com:443"
FIRESTORE = "firestore.googleapis.com:443"
IAM_CREDENTIALS = "iamcredentials.googleapis.com:443"  # google-auth asks where an account may be used; any no will do
OAUTH, DATA_PORTABILITY = "oauth2.googleapis.com:443", "dataportability.googleapis.com:443"
DATABASE = "retry-ledger"


class DeployedStage(Stage):
    """A stage whose function finds everything as it does in Google Cloud. The ledger's database has a name of its own.

    `proxy_variable` is the one that names the way out. `own_token_seconds` is how long the function's own tokens live.
    """

    def __init__(
        self,
        *,
        proxy_variable: str = "HTTPS_PROXY",
        own_token_seconds: float = 3599,
        database: str = DATABASE,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.google.token_uri = "https://oauth2.googleapis.com/token"
        self.database = database
        self.proxy = EgressProxy()
        self.metadata = MetadataServer(self.project, expires_in=own_token_seconds)
        self._proxy_variable = proxy_variable

    async def _connect(self, stack: AsyncExitStack, pubsub: str) -> Mapping[str, str]:
        """Put up what is between the function and the services; the environment that leads there."""
        await stack.enter_async_context(self.metadata)
        await stack.enter_async_context(self.proxy)
        self.pubsub = await stack.enter_async_context(self._front_end(PUBSUB, pubsub, publishing))
        self.secret_manager = await stack.enter_async_context(self._front_end(SECRET_MANAGER, self.secrets.address))
        ports = {
            PUBSUB: self.pubsub.port,
            SECRET_MANAGER: self.secret_manager.port,
            SECRET_MANAGER_IN_REGION: self.secret_manager.port,
            IAM_CREDENTIALS: self.google.port,
            OAUTH: self.google.port,
            DATA_PORTABILITY: self.google.port,
        }
        if self._firestore:
            routing = Routing(["(default)", self.database])
            self.firestore = await stack.enter_async_context(self._front_end(FIRESTORE, self._firestore, routing))
            ports[FIRESTORE] = self.firestore.port
        self.proxy.routes |= ports
        return {
            "GOOGLE_CLOUD_PROJECT": self.project,
            "HOME": str(self.folder),  # where nobody has logged in
            "GCE_METADATA_HOST": self.metadata.address,
            "GCE_METADATA_IP": self.metadata.address,
            self._proxy_variable: self.proxy.url,
            **({"FIRESTORE_DATABASE": self.database} if self._firestore else {"RETRY_LEDGER": "memory"}),
            **self.authority.environment(self.folder),
        }

    def _front_end(self, target: str, address: str, check: Any = lambda *_: None) -> FrontEnd:
        return FrontEnd(
            address,
            self.authority,
            vouched=self.metadata.vouches_for,
            check=check,
            cut=lambda: self.proxy.cut(target),
        )
