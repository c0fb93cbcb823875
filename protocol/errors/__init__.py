"""Refusals, by object or area. Importing this package registers every one of them in ``REFUSALS``."""

from protocol.errors import (
    approval as approval,
)
from protocol.errors import (
    conversation as conversation,
)
from protocol.errors import (
    daemon as daemon,
)
from protocol.errors import (
    definition as definition,
)
from protocol.errors import (
    indoubt as indoubt,
)
from protocol.errors import (
    journal as journal,
)
from protocol.errors import (
    permission as permission,
)
from protocol.errors import (
    question as question,
)
from protocol.errors import (
    refusal as refusal,
)
from protocol.errors import (
    route as route,
)
from protocol.errors import (
    rpc as rpc,
)
from protocol.errors import (
    run as run,
)
from protocol.errors import (
    session as session,
)
from protocol.errors import (
    store as store,
)
from protocol.errors import (
    task as task,
)
from protocol.errors import (
    token as token,
)
