from sightline.engine.limited_loader import LimitedLoader, limited
from tests.engine.toy import ToyLoader


def places(loader, **where):
    return [(f.epoch, f.index, f.batch.sample_ids) for f in loader.iterate(**where)]


def test_epochs_end_after_the_limit_with_the_same_first_batches():
    whole = ToyLoader(22, 4)
    few = LimitedLoader(whole, 2)
    assert few.batches_per_epoch == 2
    assert places(few, epochs=3) == [p for p in places(whole, epochs=3) if p[1] < 2]


def test_a_limited_loader_starts_anywhere():
    few = LimitedLoader(ToyLoader(22, 4), 2)
    assert places(few, epoch=1, index=1, epochs=3) == places(few, epochs=3)[3:]
    assert places(few, epoch=1, index=2, epochs=3) == places(few, epochs=3)[4:]


def test_a_limit_above_the_epoch_and_no_limit_change_nothing():
    whole = ToyLoader(22, 4)
    assert places(LimitedLoader(whole, 100), epochs=2) == places(whole, epochs=2)
    assert limited(whole, None) is whole
