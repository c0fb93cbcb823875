"""The entry point of ``kheishctl``. It imports nothing at first, because Ctrl-C may come at any moment."""

# The module 'signal' imports others, which takes a few milliseconds.
import _signal  # type: ignore[import-not-found]


def main() -> None:
    """Run the program; never returns."""
    # Until the program handles it, Ctrl-C ends the process without a traceback.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from kheishctl.program import run

    run()


if __name__ == "__main__":
    main()
