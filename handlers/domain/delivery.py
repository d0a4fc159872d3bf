"""One Pub/Sub message as it was delivered."""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct, field


class Delivery(Struct, frozen=True, kw_only=True):
    """`delivery_attempt` is Pub/Sub's count of this message's deliveries, 0 where it does not count.

    `published_at` is the time of the first publish, by Pub/Sub's clock.
    """

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    message_id: str = ""
    published_at: datetime | None = None
    delivery_attempt: int = 0
