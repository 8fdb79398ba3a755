import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from rlagents.ablate.run import gpu_share, reason
from rlagents.errors import LearnerError


@pytest.mark.parametrize(
    ("gpus", "at_once", "share"),
    [(0, 4, 0), (1, 1, 1), (1, 4, 0.25), (4, 4, 1), (4, 6, 0.5), (8, 2, 1), (2, 5, 1 / 3)],
)
def test_runs_share_the_gpus_that_there_are(gpus: int, at_once: int, share: float) -> None:
    assert gpu_share(gpus, at_once) == pytest.approx(share)


def test_a_reason_is_one_line_of_whose_fault_it_was() -> None:
    ours, theirs = LearnerError("the step was\nnot finite"), KeyError("door")
    assert reason(RayTaskError("run", "a traceback\n...", ours)) == "the step was not finite"
    assert reason(RayTaskError("run", "a traceback\n...", theirs)) == "KeyError: 'door'"
    assert reason(ours) == "the step was not finite"
    assert reason(WorkerCrashedError()).startswith("WorkerCrashedError: The worker died")
