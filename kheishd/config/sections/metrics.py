"""``[metrics]``: the listener for Prometheus."""

from collections.abc import Iterator

from kheishd.config.sections.listen import is_loopback, split_address
from kheishd.config.sections.section import Section
from kheishd.config.toml import KeyPath
from kheishd.config.validation import Problem


class MetricsSection(Section, frozen=True):
    """``[metrics]``: the listener for Prometheus."""

    listen: str | None = None
    """Host and port, such as `"127.0.0.1:9464"`, at which `GET /metrics` answers with the metrics as
    Prometheus reads them. Only addresses of this machine; numbers only, without a token. A change takes
    effect at the next start."""

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        if self.listen is None:
            return
        try:
            host, _ = split_address(self.listen)
        except ValueError as error:
            yield Problem((*path, "listen"), str(error))
            return
        if not is_loopback(host):
            yield Problem(
                (*path, "listen"),
                f"other machines can reach {host}, and metrics have no token; use 127.0.0.1 and a proxy",
            )
