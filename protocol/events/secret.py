"""Events of secrets, without their values. They stand in the daemon's stream."""

from protocol.journal.envelope import Event
from protocol.objects.secret import SecretKind


class SecretStored(Event, frozen=True, tag="secret_stored"):
    """A value was stored in a slot; it replaced the one before."""

    slot_id: str
    kind: SecretKind = "opaque"


class SecretsResealed(Event, frozen=True, tag="secrets_resealed"):
    """The master key was rotated. All slots are sealed by the key with this id since."""

    key_id: str
    slots: int = 0


class SecretDeleted(Event, frozen=True, tag="secret_deleted"):
    """A slot was deleted together with its value."""

    slot_id: str
