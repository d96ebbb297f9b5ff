"""``python -m resnet_xf``: the command line."""

from resnet_xf.cli import main

main()
