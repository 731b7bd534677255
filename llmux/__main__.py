"""C{python -m llmux}."""

import sys

from llmux.command.main import main

sys.exit(main())
