import sys

from lamm_cl.cli import main

sys.exit(main())
