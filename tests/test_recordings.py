from tests.conftest import recorded


def test_recordings_are_found_in_the_folder_of_all_systems_and_in_that_of_yolov7_itself(tmp_path):
    (tmp_path / "yolov7").mkdir()
    (tmp_path / "yolov7" / "models.json").touch()
    wanted = tmp_path / "yolov7" / "loss" / "meta.json"
    assert recorded("yolov7", "loss", "meta.json", root=tmp_path) == wanted
    assert recorded("yolov7", "loss", "meta.json", root=tmp_path / "yolov7") == wanted


def test_recordings_of_other_systems_are_not_looked_for_among_those_of_yolov7(tmp_path):
    (tmp_path / "models.json").touch()
    assert recorded("mmdet", "seed.json", root=tmp_path) == tmp_path / "mmdet" / "seed.json"
