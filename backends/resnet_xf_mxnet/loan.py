"""The earlier name of :mod:`resnet_xf_mxnet.numpy_compat`, for scripts that import MXNet from here."""

from resnet_xf_mxnet.numpy_compat import mx

__all__ = ["mx"]
