import pytest

from sightline.engine.tensor_names import group_of_name, shared_parts


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        ([], ()),
        (["weight"], ()),
        (["net.weight"], ("net",)),
        (["net.0.weight", "net.1.weight"], ("net",)),
        (["a.b.weight", "a.b.c.weight"], ("a", "b")),
        (["ab.weight", "a.weight"], ()),
    ],
)
def test_names_share_whole_leading_parts(names, shared):
    assert shared_parts(names) == shared


@pytest.mark.parametrize(
    ("name", "group"),
    [("a.b.head.0.weight", "a.b.head"), ("a.b.scale", "a.b"), ("c.d.weight", "c"), ("c", "c")],
)
def test_a_part_of_a_model_is_what_follows_the_shared_parts(name, group):
    assert group_of_name(name, ("a", "b")) == group
