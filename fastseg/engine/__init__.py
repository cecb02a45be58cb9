"""Training and evaluation, on one process or many. Needs Pillow for the images."""
