"""One description of a residual network, built in PyTorch and in MXNet Gluon, and proven to be the same network.

The public names are listed in ``__init__.pyi``. A name's module is imported when the name is first used, so
``import resnet_xf`` is fast. No framework is imported until :func:`build` or :func:`parity` needs it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
