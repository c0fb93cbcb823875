"""The output of background shells."""

from kheishd.kernel.shells import Written


def test_missing_output_is_empty() -> None:
    """The default is the answer for a shell without output."""
    assert Written() == Written(text="", offset=0, left_out_bytes=0, total_bytes=0, kept_bytes=0, path=None)
