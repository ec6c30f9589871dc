import sys

from lamm_cl.cli.main import main

sys.exit(main())
