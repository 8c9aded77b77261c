"""How a program ends that its user can mend: one line on stderr and exit status 1."""

import sys
from collections.abc import Callable


def run_program(main: Callable[[], None]) -> None:
    """Runs `main`; a ValueError, which says what is wrong and the remedy, or a failing file ends it with one line."""
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
