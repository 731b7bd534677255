"""This module makes C{python -m llmux} the C{llmux} command."""

import sys

from llmux.command.main import main

sys.exit(main())
