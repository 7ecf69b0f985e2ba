"""LiDAR detectors as ONNX: what other programs make of the file alone, and what is refused.

Without the extra ``onnx`` the tests of what is written skip.
"""

import json

import numpy as np
import pytest
import torch

import sightline
from sightline.api import onnx_file
from sightline.config.errors import ConfigError, RunError
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.centerpoint.config import CenterPointPillarConfig, CenterPointVoxelConfig
from sightline.models.centerpoint.head_config import CenterHeadConfig
from sightline.models.centerpoint.model import CenterPointPillar, CenterPointVoxel
from sightline.models.second.config import SecondConfig
from sightline.models.second.model import Second
from sightline.tasks.graph import Graph, GraphInput, GraphOutput
from sightline.tasks.lidar3d import Lidar3D
from sightline.tasks.lidar3d_model import Lidar3DModel
from tests.api.test_exporting import needs_onnx, session, told
from tests.cli.tool import sightline as command
from tests.cli.tool import without_report

SMALL = (
    "model.pillar_channels=[8]", "model.pillar_size=[0.64,0.64]", "model.max_points_per_pillar=4",
    "model.backbone={layers: [1, 1], strides: [2, 2], channels: [8, 16], up_strides: [1, 2], up_channels: [8, 8]}",
    "model.head.score_threshold=0.01", "data.world.scenes=4", "steps=1", "epochs=null", "batch_size=2", "device=cpu",
    "precision=fp32", "workers=0", "threads=1", "augment.close_epochs=0", "log.trackers=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """``run`` is a small PointPillars after one step."""
    folder = tmp_path_factory.mktemp("lidar")
    with pytest.MonkeyPatch.context() as patch, without_report():
        patch.setenv("XDG_CACHE_HOME", str(folder))
        done = command("train", "pointpillars-world", "--out", "run", *SMALL, cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def points():
    random = np.random.default_rng(0)
    low, high = (0, -20.48, -3, 0), (40.96, 20.48, 1, 1)
    spread = random.uniform(low, high, (500, 4))
    crowded = random.uniform((10, 0, -3, 0), (10.2, 0.2, 1, 1), (20, 4))  # more than a pillar holds
    outside = random.uniform((50, 0, -3, 0), (60, 1, 1, 1), (5, 4))
    return np.concatenate((spread, crowded, outside)).astype(np.float32)


def pillars_of(points, facts):
    """What the graph takes, point by point, from the file's own facts."""
    low, high = np.array(facts["point_range"], np.float32).reshape(2, 3)
    size = np.array([*facts["pillar_size"], high[2] - low[2]], np.float32)
    limit = facts["max_points_per_pillar"]
    pillars = {}
    for point in points:
        x, y, z = np.floor((point[:3] - low) / size).astype(int)
        height, width = facts["map_hw"]
        if 0 <= x < width and 0 <= y < height and z == 0:
            pillars.setdefault((0, 0, y, x), []).append(point)
    inputs = np.zeros((len(pillars), limit, points.shape[1]), np.float32)
    counts = np.array([min(len(one), limit) for one in pillars.values()], np.int64)
    for place, one in enumerate(pillars.values()):
        inputs[place, : counts[place]] = one[:limit]
    return {"points": inputs, "num_points": counts, "coords": np.array(list(pillars), np.int64)}


@needs_onnx
def test_file_and_facts_alone_give_the_boxes_of_the_run(place, points, tmp_path):
    made = sightline.export(place / "run", out=tmp_path / "a.onnx")
    assert "checked with ONNX Runtime" in made.notes[-1]
    facts = {name: json.loads(text) for name, text in told(made.path).items() if name != "recipe"}
    assert facts["class_names"] == ["Car", "Pedestrian", "Cyclist"]
    inputs = pillars_of(points, facts)
    assert inputs["num_points"].max() == 4 == facts["max_points_per_pillar"]
    boxes, scores = map(torch.from_numpy, session(made.path).run(["boxes", "scores"], inputs))
    assert boxes.shape == (6 * 32 * 32, 7)  # 64 x 64 pillars, stride 2, two anchors of each class

    predictor = sightline.load(place / "run")
    detector = predictor.model.task.detector
    with torch.no_grad():
        predictions = detector(predictor.model.batch_of(points).clouds)
    torch.testing.assert_close(boxes, detector.head.decode(predictions, 0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores, predictions.logits[0].sigmoid(), rtol=1e-4, atol=1e-6)
    assert facts["score_threshold"] == 0.01 and facts["nms_iou_threshold"] == detector.config.head.nms_iou_threshold


@needs_onnx
def test_places_without_a_pillar_change_nothing_and_there_may_be_no_pillar(place, points, tmp_path):
    made = sightline.export(place / "run", out=tmp_path / "a.onnx")
    facts = {name: json.loads(text) for name, text in told(made.path).items() if name != "recipe"}
    runtime, inputs = session(made.path), pillars_of(points, facts)
    wanted = runtime.run(None, inputs)
    padded = {name: np.concatenate((one, np.zeros((7, *one.shape[1:]), one.dtype))) for name, one in inputs.items()}
    for got, one in zip(runtime.run(None, padded), wanted, strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-5, atol=1e-6)
    nothing = runtime.run(None, {name: one[:0] for name, one in inputs.items()})
    unused = runtime.run(None, {name: np.zeros_like(one) for name, one in inputs.items()})
    for got, one in zip(nothing, unused, strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("option", "value"), [("dynamic_batch", True), ("input", "uint8")])
def test_options_of_images_are_refused(place, option, value):
    model = sightline.load(place / "run").model
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} is for networks on images"):
        model.graph(**{option: value})


def test_a_lidar_detector_has_no_parameters_of_bmxnet(place, tmp_path):
    done = command("export", place / "run", "--format", "bmxnet", cwd=tmp_path)
    assert done.code == 2 and "is no classifier" in done.err and list(tmp_path.iterdir()) == []


def trained(detector, class_names, point_range):
    task = Lidar3D(detector.eval(), class_names=class_names, point_range=point_range)
    return Lidar3DModel(task, class_names, point_range=point_range, in_view=False)


@pytest.mark.parametrize(("build", "config"), [(Second, SecondConfig()), (CenterPointVoxel, CenterPointVoxelConfig())])
def test_sparse_convolutions_are_refused_with_the_reason(build, config):
    classes = ("Car", "Pedestrian", "Cyclist")
    model = trained(build(config, classes), classes, config.point_range)
    with pytest.raises(
        ConfigError, match=f"{build.__name__}: cannot be exported, because ONNX has no operator for its"
    ):
        model.graph()


def centerpoint():
    torch.manual_seed(0)
    config = CenterPointPillarConfig(
        point_range=(0, -6.4, -3, 12.8, 6.4, 1),
        pillar_size=(0.4, 0.4),
        max_points_per_pillar=4,
        pillar_channels=(8,),
        backbone=BevBackboneConfig(
            layers=(1, 1), strides=(2, 2), channels=(8, 16), up_strides=(1, 2), up_channels=(8, 8)
        ),
        head=CenterHeadConfig(groups=(("Cyclist",), ("Car", "Pedestrian")), velocity=True, channels=8),
    )
    classes = ("Car", "Pedestrian", "Cyclist")
    return trained(CenterPointPillar(config, classes), classes, config.point_range)


@torch.no_grad()
def test_centerpoint_on_pillars_gives_the_boxes_of_all_heads_with_velocities():
    model = centerpoint()
    detector, graph = model.task.detector, model.graph()
    given = graph.examples[0]
    boxes3d, scores = graph.module(*given)
    cells = 16 * 16  # 32 x 32 pillars, stride 2
    assert boxes3d.shape == (2 * cells, 9) and scores.shape == (2 * cells, 3)
    assert not scores[:cells, :2].any() and not scores[cells:, 2].any()  # the first head knows cyclists alone
    said = detector.head(detector.backbone(graph.module.bev(*given)))
    for number, maps in enumerate(said):
        wanted, peaks = detector.head.decode(maps)
        labels = torch.tensor(detector.head.labels_of_heads[number])[peaks.labels[0]]
        rows = number * cells + peaks.cells[0]
        torch.testing.assert_close(boxes3d[rows], wanted[0])
        torch.testing.assert_close(scores[rows, labels], peaks.scores[0])


@needs_onnx
def test_centerpoint_is_written_and_checked():
    model = centerpoint()
    graph = model.graph()
    content = onnx_file._converted(graph, opset=None).SerializeToString()
    assert "at most" in onnx_file._checked(content, graph)


def turning(angle, undecided):
    """A graph that gives three yaws, of which some may turn; and what another program says, one of them turned."""
    module = torch.nn.Identity()
    example = (torch.tensor([1.0, 2.0, 3.0]),)
    graph = Graph(
        module, (GraphInput("x", (3,), ""),), (GraphOutput("y", "", by_element=True),), {}, [example],
        undecided=lambda x: (torch.tensor(undecided),),
    )  # fmt: skip
    return graph, [(example[0] + torch.tensor([0.0, angle, 0.0]),)]


def test_numbers_that_a_rounding_may_turn_are_counted_and_others_are_errors(monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed: pip install 'sightline[onnx]'")
    for undecided, words in (([False, True, True], "apart from 1 number that"), ([True, False, True], "is allowed")):
        graph, theirs = turning(np.pi, undecided)
        monkeypatch.setattr(onnx_file, "_computed", lambda *given, theirs=theirs: theirs)
        if undecided[1]:
            assert words in onnx_file._checked(b"", graph)
            continue
        with pytest.raises(RunError, match=words):
            onnx_file._checked(b"", graph)


def test_numbers_of_different_units_are_compared_each_in_its_own_size():
    example = (torch.tensor([100.0, 0.5]),)
    theirs = [(torch.tensor([100.0, 0.501]),)]
    for by_element, relative in ((True, 1e-3), (False, 1e-5)):
        output = GraphOutput("y", "", by_element=by_element)
        graph = Graph(torch.nn.Identity(), (GraphInput("x", (2,), ""),), (output,), {}, [example])
        assert onnx_file._difference(graph, theirs, [example]).relative == pytest.approx(relative, rel=1e-3)
