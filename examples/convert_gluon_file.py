"""Write a checkpoint with MXNet, convert it, and load it in PyTorch.

Run it with ``python examples/convert_gluon_file.py``. It takes a few seconds. For a file of your own you need only the
call of ``convert``; MXNet need not be installed for it.
"""

import tempfile
from pathlib import Path

import torch

import resnet_xf
from resnet_xf_mxnet.numpy_compat import mx  # `import mxnet as mx` fails with a recent NumPy

with tempfile.TemporaryDirectory() as folder:
    gluon_file, torch_file = Path(folder) / "tuned.params", Path(folder) / "tuned.pth"

    block = mx.gluon.model_zoo.vision.get_resnet(1, 18, classes=10)  # MXNet's own network
    block.initialize(mx.init.Xavier())
    block(mx.nd.zeros((1, 3, 224, 224)))  # MXNet creates the weights when it first sees an image
    block.save_parameters(str(gluon_file))

    conversion = resnet_xf.convert(gluon_file, torch_file)
    print(f"network: {conversion.spec.name}, {conversion.tensors} tensors")
    for check in conversion.checks:
        print(f"{check.ours} against {check.theirs}: largest difference {check.error:.1e}")

    module = resnet_xf.build(conversion.spec, "torch")
    module.load_state_dict(torch.load(torch_file, weights_only=True))
    module.eval()
    print("output:", tuple(module(torch.zeros(1, 3, 224, 224)).shape))
