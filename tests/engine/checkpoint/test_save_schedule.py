from sightline.engine.checkpoint.retention import CheckpointConfig
from sightline.engine.checkpoint.save_schedule import SaveSchedule


def test_checkpoints_are_due_by_epochs_steps_minutes_and_on_request(tmp_path):
    now = [0.0]
    config = CheckpointConfig(every_epochs=2, every_steps=5, every_minutes=1.5)
    schedule = SaveSchedule(config, tmp_path, clock=lambda: now[0])
    assert schedule.reason(step=4, epoch=1, ends_epoch=True) is None
    assert schedule.reason(step=5, epoch=1, ends_epoch=False) == "steps"
    assert schedule.reason(step=8, epoch=2, ends_epoch=True) == "epoch"
    now[0] = 89
    assert schedule.reason(step=9, epoch=2, ends_epoch=False) is None
    now[0] = 90
    assert schedule.reason(step=9, epoch=2, ends_epoch=False) == "minutes"
    now[0] = 100
    assert schedule.reason(step=11, epoch=2, ends_epoch=False) is None
    (tmp_path / "save").touch()
    now[0] = 100.25
    assert schedule.reason(step=11, epoch=2, ends_epoch=False) is None  # it was looked for a moment ago
    now[0] = 100.5
    assert schedule.reason(step=11, epoch=2, ends_epoch=False) == "request"
    assert not (tmp_path / "save").exists()
    now[0] = 101
    assert schedule.reason(step=12, epoch=2, ends_epoch=False) is None
