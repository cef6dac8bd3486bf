"""Everything that needs torch: models, objectives, the training loop, evaluation and the publish gate."""

import os

# Threads of torch that wait for each other spin, and on a machine that does anything else at the same time they spin
# away the time of those they wait for: trainings were seen to take twenty times as long. libgomp reads this once, when
# torch loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
