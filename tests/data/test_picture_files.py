"""Files of pictures: read as they are to be shown."""

import numpy as np
import pytest
from PIL import Image

from gptjax.data.pictures import read_picture
from gptjax.errors import UserError

ORIENTATION = 0x0112
SHOWN = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
    8: np.rot90,
}
"""What a viewer does to the stored rows and columns (EXIF 2.3, tag 274)."""


@pytest.mark.parametrize("number", SHOWN)
def test_a_picture_is_turned_as_its_exif_says(tmp_path, number):
    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = number
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    found = read_picture(tmp_path / "a.png", "line 1")
    assert found.tolist() == SHOWN[number](stored).tolist()


def test_a_damaged_picture_is_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    for cut in range(9, 40, 10):
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:cut])
        with pytest.raises(UserError, match="line 1: the picture"):
            read_picture(tmp_path / "b.png", "line 1")
