"""The one-cycle learning rate and momentum of OpenPCDet."""

import json
import re

import numpy as np

from sightline.engine.parameter_groups import ALL_ALIKE
from sightline.engine.schedule import Progress, RunLength, Schedule, ScheduleConfig
from tests.conftest import oracle


def test_every_iteration_has_the_recorded_rate_and_momentum():
    used = json.loads(oracle("openpcdet", "optimisation.json").read_text())["config_used"]
    high, low = used["MOMS"]
    config = ScheduleConfig(
        kind="one_cycle",
        rise=used["PCT_START"],
        initial=1 / used["DIV_FACTOR"],
        final=1 / used["DIV_FACTOR"] / 1e4,
        momentum_range=(low, high),
    )
    with np.load(oracle("openpcdet", "optimisation.npz")) as arrays:
        cases = [re.fullmatch(r"(onecycle_it(\d+)_ep(\d+)_lr([\d.e-]+))/lr", name) for name in arrays.files]
        assert any(cases)
        for case in filter(None, cases):
            iterations_per_epoch, epochs = int(case[2]), int(case[3])
            iterations = iterations_per_epoch * epochs
            length = RunLength(iterations_per_epoch, epochs, iterations, iterations)
            schedule = Schedule(config, lr=float(case[4]), momentum=0.9, rules=ALL_ALIKE, length=length)
            values = [schedule.at(Progress(i, i, i // iterations_per_epoch))[0] for i in range(iterations)]
            np.testing.assert_allclose([v.lr for v in values], arrays[f"{case[1]}/lr"], rtol=1e-9, err_msg=case[1])
            of_groups = arrays[f"{case[1]}/group_lr"]  # (first iterations, groups): all groups have one rate
            np.testing.assert_allclose(
                of_groups, np.repeat([[v.lr] for v in values[: len(of_groups)]], of_groups.shape[1], axis=1), rtol=1e-9
            )
            first, last = arrays[f"{case[1]}/group_betas_first_last"]
            np.testing.assert_allclose([first[0], last[0]], [values[0].momentum, values[-1].momentum])
            momentum = arrays[f"{case[1]}/momentum"]
            np.testing.assert_allclose([v.momentum for v in values], momentum, rtol=1e-9, err_msg=case[1])
