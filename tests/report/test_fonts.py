"""Fonts in PDF figures: TrueType outlines of the glyphs that are drawn, without layout tables."""

import re
import zlib

from fontTools import subset

from gptjax.report import style


def test_a_pdf_embeds_truetype_outlines_without_layout_tables(tmp_path):
    figure, ax = style.new_figure()
    ax.set_xlabel("C = 10²¹, α")
    style.settle(figure)
    before = subset.load_font
    content = style.save(figure, tmp_path, "figure", ("pdf",), 100)[0].read_bytes()
    assert subset.load_font is before
    assert b"/CIDFontType2" in content or b"/TrueType" in content
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S)
    fonts = [zlib.decompress(one) for one in streams if one[:1] == b"x"]
    fonts = [one for one in fonts if one[:4] == b"\x00\x01\x00\x00"]
    assert fonts
    for font in fonts:
        assert b"glyf" in font[:400]
        assert b"GSUB" not in font[:400] and b"GPOS" not in font[:400]
