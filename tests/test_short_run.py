"""The size of the images on which rungs 7 to 9 train a network."""

from resnet_xf import plan
from resnet_xf.architecture import nodes
from resnet_xf.architecture.plan import explicit_spec
from resnet_xf.ladder.short_run import curve_run, lockstep_run

WITHOUT_BATCH_NORMS = explicit_spec(
    "grouped",
    nodes.Sequential(
        (
            ("conv", nodes.Conv(3, 4, 3, 1, 1)),
            ("norm", nodes.GroupNorm(4, 2, 1e-5)),
            ("relu", nodes.Activation("relu")),
            ("global_pool", nodes.GlobalPool()),
            ("flatten", nodes.Flatten()),
            ("fc", nodes.Linear(4, 5)),
        )
    ),
    (224, 224),
)


def test_a_network_without_batch_norms_trains_on_the_smallest_images() -> None:
    planned = plan(WITHOUT_BATCH_NORMS)
    assert lockstep_run(planned, 0).size == (16, 16)
    assert curve_run(planned, 0).size == (32, 32)


def test_a_network_with_batch_norms_trains_on_images_that_leave_them_pixels() -> None:
    planned = plan("resnet18")
    assert lockstep_run(planned, 0).size == (48, 48)
    assert curve_run(planned, 0).size == (32, 32)
