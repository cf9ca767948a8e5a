"""``python -m atlas_cli`` is ``atlas``, also for a process that starts another with its own interpreter."""

import sys

from atlas_cli.cli import main

sys.argv[0] = "atlas"  # manifests hold the command
sys.exit(main())
