"""``python -m ipvs_operator``."""

import sys

from ipvs_operator.main import main

sys.exit(main())
