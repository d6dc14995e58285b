"""`python -m align` is the command `align`."""

from __future__ import annotations

import sys

from align.cli import main

sys.exit(main())
