from numpy_backend import BACKEND

from resnet_xf.testing import BackboneContract, BackendContract


class TestNumpy(BackendContract, BackboneContract):
    backend = BACKEND

    def maps(self, backbone, images):
        return BACKEND.forward(backbone, images)
