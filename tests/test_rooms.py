"""The picture of the rooms is what the contracts and the code say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_picture_of_the_rooms_is_up_to_date():
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "draw_rooms.py"), "--check"], cwd=ROOT)
    assert done.returncode == 0, "python docs/draw_rooms.py writes it anew"
