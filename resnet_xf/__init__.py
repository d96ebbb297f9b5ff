"""One description of a residual network, built in PyTorch, MXNet Gluon and ONNX, and proven to be the same network.

>>> import resnet_xf
>>> spec = resnet_xf.get_spec("resnet18")
>>> network = resnet_xf.build(spec, "torch")  # a torch.nn.Module; "mxnet" gives a HybridBlock
>>> report = resnet_xf.parity(spec, level="quick")  # builds it in every installed framework and compares them
>>> report.holds
True

``__init__.pyi`` lists the public names; :mod:`resnet_xf.errors` holds the errors. A name's module is imported when the
name is first used, so ``import resnet_xf`` is fast. No framework is imported before :func:`build` or :func:`parity` is
called.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
