"""A planted defect: MXNet's own optimiser, whose buffers hold rate times momentum and are not rescaled."""

from resnet_xf_mxnet.learner import MxnetLearner
from resnet_xf_mxnet.numpy_compat import mx

_dump, _load = MxnetLearner.dump, MxnetLearner.load


class MxnetLaw:
    """The methods of a learner that are replaced."""

    def _update(self, name, weight, gradient, rate) -> None:
        buffer = self._velocity.setdefault(name, mx.nd.zeros_like(weight))
        if getattr(self, "_fresh", False):
            buffer *= -rate
        decay = self._task.weight_decay if name in self._task.decaying else 0.0
        mx.nd.sgd_mom_update(weight, gradient, buffer, lr=rate, momentum=self._task.momentum, wd=decay, out=weight)
        self._rate = rate
        if name == list(self._params)[-1]:
            self._fresh = False

    def dump(self):
        weights, buffers = _dump(self)
        if getattr(self, "_fresh", False):
            return weights, buffers
        return weights, {name: -buffer / self._rate for name, buffer in buffers.items()}

    def load(self, weights, velocity) -> None:
        _load(self, weights, velocity)
        self._fresh = bool(velocity)
