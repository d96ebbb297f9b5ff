"""Describe a network, build it in PyTorch and in MXNet Gluon, and compare the outputs.

Run it with ``python examples/build_both.py``. It takes a few seconds.
"""

import numpy as np

import resnet_xf

spec = resnet_xf.ResNetSpec(
    name="small",
    num_classes=10,
    stem=resnet_xf.Stem(kind="conv3", width=16, stride=1, pool=False),
    stages=(resnet_xf.Stage(depth=2, channels=16), resnet_xf.Stage(depth=2, channels=32, stride=2)),
)

print(f"{'layer':<12} {'output':<20} {'parameters':>10}")
for row in resnet_xf.trace(spec, (2, 3, 32, 32), top=True):
    print(f"{row.name or '(all)':<12} {row.output_shape!s:<20} {row.parameters:>10,}")

images = resnet_xf.data.photographs((32, 32))  # real photographs, shape (2, 3, 32, 32)
outputs = {}
for name in ("torch", "mxnet"):
    network = resnet_xf.build(spec, name, seed=0)  # the same seed gives the same weights
    outputs[name] = resnet_xf.get_backend(name).forward(network, images)

difference = np.abs(outputs["torch"] - outputs["mxnet"]).max()
print(f"largest difference of the outputs: {difference:.1e}")

report = resnet_xf.parity(spec, level="quick", image_size=(32, 32))
print(report.verdict())
