"""The short form of `kill_and_resume.py`, which has more trials."""

import importlib.util
import pathlib


def test_a_killed_run_ends_as_an_uninterrupted_one():
    path = pathlib.Path(__file__).with_name("kill_and_resume.py")
    spec = importlib.util.spec_from_file_location("kill_and_resume", path)
    kill_and_resume = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill_and_resume)
    kill_and_resume.main(trials=1, kills=1)
