"""What is said of what a shell wrote."""

from kheishd.kernel.shells import Written


def test_nothing_written_is_empty() -> None:
    """So who reads what is not there needs no other answer."""
    assert Written() == Written(text="", offset=0, left_out_bytes=0, total_bytes=0, kept_bytes=0, path=None)
