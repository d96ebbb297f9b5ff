"""Three networks as users of MXNet 1.3 to 1.7 have them, drawn by the code of their libraries. Runs on Python 3.6.

    python originals.py NAME PREFIX [PIXELS]

writes PREFIX-symbol.json and PREFIX-0000.params, with drawn weights in which no scale is 1 and no shift 0.
"""

import sys

import mxnet as mx
import numpy as np

sym = mx.sym


def conv(x, name, filters, kernel=3, stride=1):
    pad = (kernel // 2, kernel // 2)
    size = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": pad}
    return sym.Convolution(x, num_filter=filters, no_bias=True, name=name, **size)


def bn(x, name, fix_gamma=False):
    return sym.BatchNorm(x, fix_gamma=fix_gamma, eps=2e-5, momentum=0.9, name=name)


def relu(x, name):
    return sym.Activation(x, act_type="relu", name=name)


def prelu(x, name):
    return sym.LeakyReLU(x, act_type="prelu", name=name)


def symbol_api():
    """MXNet's example/image-classification/symbols/resnet.py, ResNet-18 v2 with a quarter of the filters."""

    def unit(x, name, filters, stride, same):
        act1 = relu(bn(x, name + "_bn1"), name + "_relu1")
        body = conv(act1, name + "_conv1", filters, 3, stride)
        body = conv(relu(bn(body, name + "_bn2"), name + "_relu2"), name + "_conv2", filters)
        return body + (x if same else conv(act1, name + "_sc", filters, 1, stride))

    x = bn(sym.Variable("data"), "bn_data", fix_gamma=True)
    x = relu(bn(conv(x, "conv0", 16, 7, 2), "bn0"), "relu0")
    x = sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name="pooling0")
    for stage, filters in enumerate((16, 32, 64, 128)):
        for place in (1, 2):
            stride = 2 if stage and place == 1 else 1
            x = unit(x, f"stage{stage + 1}_unit{place}", filters, stride, place == 2)
    x = relu(bn(x, "bn1"), "relu1")
    x = sym.Flatten(sym.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1"))
    return sym.SoftmaxOutput(sym.FullyConnected(x, num_hidden=1000, name="fc1"), name="softmax")


def arcface():
    """InsightFace's fresnet.py, LResNet-E-IR, with a quarter of the filters and one unit less in a stage."""

    def unit(x, name, filters, stride, same):
        body = conv(bn(x, name + "_bn1"), name + "_conv1", filters)
        body = prelu(bn(body, name + "_bn2"), name + "_relu1")
        body = bn(conv(body, name + "_conv2", filters, 3, stride), name + "_bn3")
        return body + (x if same else bn(conv(x, name + "_conv1sc", filters, 1, stride), name + "_sc"))

    x = (sym.identity(sym.Variable("data"), name="id") - 127.5) * 0.0078125
    x = prelu(bn(conv(x, "conv0", 16), "bn0"), "relu0")
    for stage, filters in enumerate((16, 32, 64, 128)):
        for place in (1, 2):
            x = unit(x, f"stage{stage + 1}_unit{place}", filters, 3 - place, place == 2)
    x = sym.Dropout(bn(x, "bn1"), p=0.4)
    return bn(sym.FullyConnected(x, num_hidden=128, name="pre_fc1"), "fc1", fix_gamma=True)


def zoo():
    """Gluon's model zoo, ResNet-18 v1."""
    return mx.gluon.model_zoo.vision.resnet18_v1()(sym.Variable("data"))


def drawn(name, shape, rng):
    if name.endswith(("gamma", "var")):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith(("beta", "mean", "bias")):
        return rng.normal(0, 0.2, shape)
    return rng.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape)


def main(name, prefix, pixels="64"):
    network, rng, arrays = globals()[name](), np.random.RandomState(0), {}
    shapes, _, states = network.infer_shape(data=(1, 3, int(pixels), int(pixels)))
    for kind, names, sizes in (
        ("arg", network.list_arguments(), shapes),
        ("aux", network.list_auxiliary_states(), states),
    ):
        for array, shape in zip(names, sizes):
            if array != "data" and not array.endswith("label"):
                arrays[kind + ":" + array] = mx.nd.array(drawn(array, shape, rng))
    network.save(prefix + "-symbol.json")
    mx.nd.save(prefix + "-0000.params", arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
