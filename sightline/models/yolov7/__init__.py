"""YOLOv7 (Wang et al., CVPR 2023)."""
