"""`python -m registry_cache`."""

import sys

from registry_cache.cli import main

sys.exit(main())
